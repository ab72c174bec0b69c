"""One target under atheris (libFuzzer): `python -m fuzz.one_target NAME FOLDER FLAGS`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(
    include=["rostral_gcs", "rostral_objectstore", "rostral_scheduler", "rostral_rl.serve"]
):
    from .targets import TARGETS

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()
