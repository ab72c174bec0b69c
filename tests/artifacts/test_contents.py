"""What is in the files that we publish, looked at without installing them."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from .artifact import PACKAGES, ROOT, Artifact, artifact

NATIVE_SOURCES = (".pyx", ".pxd", ".c", ".cpp", ".h")


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> Artifact:
    """Each package in turn."""
    return artifact(str(request.param))


def wheel_names(package: Artifact) -> list[str]:
    with zipfile.ZipFile(package.wheel) as wheel:
        return wheel.namelist()


def sdist_names(package: Artifact) -> list[str]:
    """Names below the folder that every sdist unpacks to."""
    with tarfile.open(package.sdist) as sdist:
        return [member.name.partition("/")[2] for member in sdist if member.isfile()]


def source_files(package: Artifact, *suffixes: str) -> list[Path]:
    """Paths in src/ relative to it."""
    found = [path for suffix in suffixes for path in package.source.rglob(f"*{suffix}")]
    kept = [path for path in found if "__pycache__" not in path.parts]
    return [path.relative_to(package.source) for path in kept]


def test_wheel_holds_every_python_module(package: Artifact) -> None:
    modules = source_files(package, ".py")
    assert modules
    assert {path.as_posix() for path in modules} <= set(wheel_names(package))


def test_wheel_is_typed(package: Artifact) -> None:
    names = wheel_names(package)
    assert f"{package.import_name}/py.typed" in names
    assert {path.as_posix() for path in source_files(package, ".pyi")} <= set(names)


def test_wheel_holds_compiled_modules_and_not_their_sources(package: Artifact) -> None:
    names = wheel_names(package)
    for path in source_files(package, ".pyx"):
        compiled = path.with_suffix("").as_posix() + "."
        assert [name for name in names if name.startswith(compiled) and name.endswith(".so")]
    assert not [name for name in names if name.endswith(NATIVE_SOURCES)]


def test_wheel_holds_nothing_but_the_package(package: Artifact) -> None:
    tops = {name.partition("/")[0] for name in wheel_names(package)}
    dist_info = f"{package.import_name}-{package.version}.dist-info"
    assert tops == {package.import_name, dist_info}


def test_wheel_carries_the_licence(package: Artifact) -> None:
    licences = [name for name in wheel_names(package) if name.endswith("licenses/LICENSE")]
    assert len(licences) == 1
    with zipfile.ZipFile(package.wheel) as wheel:
        assert wheel.read(licences[0]) == (ROOT / "LICENSE").read_bytes()


def test_sdist_holds_what_the_wheel_and_its_tests_need(package: Artifact) -> None:
    names = set(sdist_names(package))
    assert {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"} <= names
    sources = source_files(package, ".py", ".pyi", *NATIVE_SOURCES, ".proto", "py.typed")
    assert {f"src/{path.as_posix()}" for path in sources} <= names
    tests = [path.relative_to(package.folder) for path in package.folder.glob("tests/**/*.py")]
    assert tests
    assert {path.as_posix() for path in tests} <= names


def test_wheel_and_sdist_hold_the_units(package: Artifact) -> None:
    found = [path for path in package.source.glob("*/units/**/*") if path.is_file()]
    units = [path.relative_to(package.source) for path in found]
    assert {path.as_posix() for path in units} <= set(wheel_names(package))
    assert {f"src/{path.as_posix()}" for path in units} <= set(sdist_names(package))


def test_sdist_holds_no_leavings(package: Artifact) -> None:
    leavings = ("__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis")
    names = sdist_names(package)
    assert not [name for name in names if any(part in leavings for part in name.split("/"))]
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
