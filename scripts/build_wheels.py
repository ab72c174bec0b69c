"""Builds a package and its siblings below it: sdist first, then the wheel from that sdist.

Owns the wheelhouse that every tox environment installs from. A package is built again when, and
only when, a byte of its sources or the interpreter has changed, so that one `tox` compiles the
Cython packages once and no environment ever meets yesterday's sibling.

    python scripts/build_wheels.py --out .tox/wheels client
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# In import order, lowest first: a package may need any package before it.
PACKAGES = ("gcs", "objectstore", "scheduler", "client", "rl")
# Left behind by builds and editable installs; never part of a distribution, nor is any `.folder`.
NOT_SOURCES = frozenset({"build", "dist", "__pycache__"})


def distribution_stem(package: str) -> str:
    """The first part of a wheel's file name: `client` ships as `rostral`."""
    return "rostral" if package == "client" else f"rostral_{package}"


def sources_digest(package: str) -> str:
    """A digest of every source file's path and bytes, and of the interpreter that builds."""
    folder = ROOT / "packages" / package
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if hidden or not path.is_file() or path.suffix == ".so" or NOT_SOURCES & set(parts):
            continue
        digest.update("/".join(parts).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def built_artifacts(package: str, out: Path) -> list[Path]:
    """The sdist and the wheels of a package in the wheelhouse."""
    stem = distribution_stem(package)
    return [*out.glob(f"{stem}-*.whl"), *out.glob(f"{stem}-*.tar.gz")]


def build(package: str, out: Path) -> None:
    """Builds one package unless the wheelhouse holds these very sources already."""
    digest_file = out / f"{package}.digest"
    digest = sources_digest(package)
    if (
        digest_file.exists()
        and digest_file.read_text() == digest
        and len(built_artifacts(package, out)) == 2
    ):
        return
    digest_file.unlink(missing_ok=True)
    for artifact in built_artifacts(package, out):
        artifact.unlink()
    # With neither --sdist nor --wheel, `build` makes the wheel from the unpacked sdist: a file
    # that is missing there is missed here and not by the first user.
    command = [sys.executable, "-m", "build", "--outdir", str(out), f"packages/{package}"]
    print(f"building {package}", flush=True)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    digest_file.write_text(digest)


def main() -> int:
    """Builds the named package and all below it; the exit status is that of the first failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the wheels")
    parser.add_argument("package", choices=PACKAGES, help="the highest package to build")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    # Environments that run in parallel share the wheelhouse.
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for package in PACKAGES[: PACKAGES.index(arguments.package) + 1]:
            try:
                build(package, out)
            except subprocess.CalledProcessError as error:
                print(f"could not build packages/{package}", file=sys.stderr)
                return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
