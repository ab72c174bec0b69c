"""`tox -e fuzz -- --minutes 10 --target policy_json`: coverage-guided fuzzing, with libFuzzer.

Each target runs in a process of its own, from its corpus, into which what reaches new code is
written. An input that breaks a target is left as `crash-...` in the corpus of that target, and the
status is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from .seeds import CORPUS, write_corpora

INPUT_BYTES_MAX = 65536
INPUT_SECONDS_MAX = 10


def main() -> int:
    """Fuzzes one target after the other; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--target", action="append", help="by default all")
    given = parser.parse_args()
    write_corpora()
    names = given.target or sorted(folder.name for folder in CORPUS.iterdir() if folder.is_dir())
    broken = [name for name in names if not _fuzz(name, given.minutes * 60)]
    return 1 if broken else 0


def _fuzz(name: str, seconds: float) -> bool:
    folder = CORPUS / name
    flags = [
        *(f"-max_total_time={max(1, round(seconds))}", f"-max_len={INPUT_BYTES_MAX}"),
        *(f"-timeout={INPUT_SECONDS_MAX}", "-rss_limit_mb=2048", "-print_final_stats=1"),
        f"-artifact_prefix={folder}/",
    ]
    here = Path(__file__).parents[1]
    words = [sys.executable, "-m", "fuzz.one_target", name, str(folder), *flags]
    held = subprocess.run(words, check=False, cwd=here).returncode == 0
    for found in folder.iterdir():
        if not found.suffix:  # What libFuzzer has added: bytes, and no text.
            found.rename(found.with_suffix(".bin"))
    return held


if __name__ == "__main__":
    sys.exit(main())
