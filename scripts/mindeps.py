"""Tests the packages with the oldest dependencies they say they work with.

For each package it makes a virtual environment, pins every direct dependency of the package and of
the siblings below it to its lower bound, and runs the package's tests there. A dependency without
a lower bound is an error: nobody knows what it stands for.

    tox -e mindeps            # or: tox -e mindeps -- gcs objectstore
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from build_wheels import PACKAGES, ROOT, distribution_stem


def direct_dependencies(package: str) -> list[Requirement]:
    """What the package's pyproject.toml asks for, siblings left out."""
    pyproject = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())
    requirements = [Requirement(line) for line in pyproject["project"].get("dependencies", [])]
    return [each for each in requirements if not each.name.startswith("rostral")]


def oldest(requirement: Requirement) -> str:
    """The lower bound as a pin.

    Raises:
        SystemExit: The requirement has none.
    """
    for specifier in requirement.specifier:
        if specifier.operator in {">=", "~=", "=="}:
            return f"{canonicalize_name(requirement.name)}=={specifier.version}"
    raise SystemExit(f"{requirement} has no lower bound")


def pins(package: str) -> list[str]:
    """Lower bounds for a package and those below it; the highest where they differ."""
    found: dict[str, Requirement] = {}
    for each in PACKAGES[: PACKAGES.index(package) + 1]:
        for requirement in direct_dependencies(each):
            known = found.get(requirement.name)
            if known is None or version_key(oldest(known)) < version_key(oldest(requirement)):
                found[requirement.name] = requirement
    return [oldest(requirement) for requirement in found.values()]


def version_key(pin: str) -> tuple[int, ...]:
    """Lower bounds are plain numbers."""
    return tuple(int(part) for part in pin.partition("==")[2].split("."))


def run_tests(package: str, wheels: Path) -> int:
    """The exit status of the package's tests among its oldest dependencies."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "oldest.txt"
        constraints.write_text("\n".join(pins(package)) + "\n")
        print(f"{package}: {' '.join(pins(package))}", flush=True)
        python = Path(folder) / "env" / "bin" / "python"
        (wheel,) = wheels.glob(f"{distribution_stem(package)}-*.whl")
        group = f"packages/{package}/pyproject.toml:test"
        install = ("-m", "pip", "install", "--quiet", "--upgrade")
        for command in (
            (sys.executable, "-m", "venv", str(python.parent.parent)),
            (python, *install, "pip"),
            (
                *(python, *install, "--constraint", str(constraints)),
                *("--find-links", str(wheels), "--group", group, "pytest", str(wheel)),
            ),
        ):
            subprocess.run(command, cwd=ROOT, check=True)
        tests = (python, "-m", "pytest", f"packages/{package}/tests")
        return subprocess.run(tests, cwd=ROOT, check=False).returncode


def main() -> int:
    """Tests the named packages, or all; 1 if any of them fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, required=True, help="folder of the wheels")
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=", ".join(PACKAGES))
    arguments = parser.parse_args()
    packages = arguments.packages or list(PACKAGES)
    if unknown := set(packages) - set(PACKAGES):
        parser.error(f"no such package: {', '.join(sorted(unknown))}")
    failed = [package for package in packages if run_tests(package, arguments.wheels.resolve())]
    if failed:
        print(f"fails with its oldest dependencies: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
