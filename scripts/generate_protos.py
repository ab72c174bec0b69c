"""Generates the checked-in code of each package's ``_proto`` from its .proto files.

Run without arguments it writes; with ``--check`` it generates aside, compares and exits 1 on drift.
Needs ``grpcio-tools==1.62.3`` exactly: generated code refuses runtimes older than its generator, so
the generator is the oldest that we support and the packages' minimum of grpcio and protobuf
follows it.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.metadata
import importlib.resources
import shutil
import sys
import tempfile
from pathlib import Path

GENERATOR = "1.62.3"
ROOT = Path(__file__).resolve().parent.parent
SOURCE_ROOTS = [ROOT / "packages" / name / "src" for name in ("gcs", "scheduler", "rl")]


def generate(source_root: Path, out: Path) -> list[Path]:
    """Generates a package's files under ``out`` and returns them, relative to it.

    Raises:
        SystemExit: The generator is missing, of another version, or refuses a source.
    """
    try:
        found = importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found != GENERATOR:
        sys.exit(f"needs grpcio-tools=={GENERATOR}, found {found}; pip install the pinned one")
    from grpc_tools import protoc

    includes = str(importlib.resources.files("grpc_tools") / "_proto")
    for source in sorted(source_root.glob("*/_proto/*.proto")):
        # One -I at the source root, so that a proto's path equals its import path.
        arguments = [
            "protoc",
            f"-I{source_root}",
            f"-I{includes}",
            f"--python_out={out}",
            f"--pyi_out={out}",
        ]
        if "\nservice " in source.read_text(encoding="utf-8"):
            arguments.append(f"--grpc_python_out={out}")
        if protoc.main([*arguments, str(source)]) != 0:
            sys.exit(f"protoc refused {source.name}")
    made = sorted(path.relative_to(out) for path in out.rglob("*_pb2*.py*"))
    for path in made:
        # protoc's types are not strict, and the grpc stubs have none.
        text = (out / path).read_text(encoding="utf-8")
        (out / path).write_text("# mypy: ignore-errors\n" + text, encoding="utf-8")
    return made


def drift_of(source_root: Path, *, check: bool) -> int:
    """Writes, or compares, the code of one package; returns how many files differed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        made = generate(source_root, out)
        kept = sorted(
            path.relative_to(source_root) for path in source_root.glob("*/_proto/*_pb2*.py*")
        )
        drifted = [
            path
            for path in sorted({*made, *kept})
            if path not in made
            or path not in kept
            or not filecmp.cmp(out / path, source_root / path, shallow=False)
        ]
        if not check:
            for path in drifted:
                if path in made:
                    shutil.copyfile(out / path, source_root / path)
                else:
                    (source_root / path).unlink()
        for path in drifted:
            sys.stdout.write(f"{'differs' if check else 'written'}: {path}\n")
    return len(drifted)


def main() -> int:
    """Writes, or with ``--check`` compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check: bool = parser.parse_args().check
    drifted = sum(drift_of(source_root, check=check) for source_root in SOURCE_ROOTS)
    return 1 if check and drifted else 0


if __name__ == "__main__":
    sys.exit(main())
