"""The rules of style that a machine can check but a linter does not know.

Each rule walks the tree's own files. A rule that finds nothing to look at fails: a tidy test that
passes because a glob went stale is worse than none.
"""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "gcs": "rostral_gcs",
    "objectstore": "rostral_objectstore",
    "scheduler": "rostral_scheduler",
    "client": "rostral",
    "rl": "rostral_rl",
}
DISTRIBUTIONS = {
    package: import_name.replace("_", "-") for package, import_name in PACKAGES.items()
}
LINES_MAX = 600
LINE_LENGTH_MAX = 100
# A longer file needs an entry here, with the reason why it is not two files.
NATIVE = "packages/objectstore/src/rostral_objectstore/_native"
LONG_FILES: dict[str, str] = {
    f"{NATIVE}/task.pyx": "the steps of a task's life share static functions on one record",
}
TEXT_SUFFIXES = {
    *(".py", ".pyi", ".pyx", ".pxd", ".h", ".c", ".proto", ".toml", ".ini", ".cfg", ".txt"),
    *(".md", ".yml", ".yaml", ".json", ".js", ".css", ".html", ".sh"),
    *(".service", ".target", ".slice", ".socket", ".conf", ".sysusers", ".tmpfiles"),
}
SOURCE_SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".h", ".c", ".proto"}
# Spelt in two halves, so that this file does not find itself.
MACHINE_PATHS = re.compile(
    r"(?<![\w./~-])/" + r"(?:work|root|home/\w+|Users/\w+|opt/\w+)(?=[/\"'\s])"
)
MERGE_MARKERS = re.compile(r"^(?:<{7} |>{7} |={7}$)", re.MULTILINE)
TODO = re.compile(r"\b(?:TODO|FIXME|XXX)\b(?!\(#\d+\))")


def tracked_files() -> list[Path]:
    """Files that git knows, and new ones that it does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


FILES = tracked_files()


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_generated(path: Path) -> bool:
    """Whether protoc wrote the file, so that nobody edits it."""
    return "_pb2" in path.name


def own_files(*suffixes: str) -> list[Path]:
    """Files with one of the suffixes that people wrote."""
    return [path for path in FILES if path.suffix in suffixes and not is_generated(path)]


def package_sources(*suffixes: str) -> list[Path]:
    """Files with one of the suffixes below some packages/*/src."""
    found = [path for path in own_files(*suffixes) if "/src/" in f"/{relative(path)}"]
    return [path for path in found if relative(path).startswith("packages/")]


def text_files() -> Iterator[tuple[Path, str]]:
    for path in FILES:
        if path.suffix in TEXT_SUFFIXES or not path.suffix:
            yield path, path.read_text(encoding="utf-8")


def test_every_package_has_sources_to_look_at() -> None:
    counts = {
        package: sum(relative(path).startswith(f"packages/{package}/src/") for path in FILES)
        for package in PACKAGES
    }
    assert all(count >= 3 for count in counts.values()), counts
    folders = {path.name for path in (ROOT / "packages").iterdir() if not path.name.startswith(".")}
    assert folders == set(PACKAGES)


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    names = {"utils", "util", "helper", "helpers", "misc", "common"}
    # `rostral.util` is a public name of Ray's API: a package, never a module.
    offenders = [relative(path) for path in own_files(*SOURCE_SUFFIXES) if path.stem in names]
    assert not offenders


def test_every_module_has_a_docstring() -> None:
    modules = own_files(".py")
    assert len(modules) > 20
    # An empty __init__.py of a tests folder has nothing to say.
    offenders = [
        relative(path)
        for path in modules
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not offenders


def test_every_native_module_has_a_docstring_and_a_stub() -> None:
    modules = own_files(".pyx")
    assert modules
    for path in modules:
        first = next(line for line in path.read_text().splitlines() if line[:1] not in {"#", ""})
        assert first.startswith(('"""', 'r"""')), f"{relative(path)} begins without a docstring"
        assert path.with_suffix(".pyi").is_file(), f"{relative(path)} has no .pyi beside it"


def test_every_todo_names_its_issue() -> None:
    offenders = [
        f"{relative(path)}: {line.strip()}"
        for path, text in text_files()
        if path.suffix in SOURCE_SUFFIXES and path.name != "test_tidy.py"
        for line in text.splitlines()
        if TODO.search(line)
    ]
    assert not offenders


def test_libraries_log_and_only_command_lines_print() -> None:
    modules = package_sources(".py", ".pyx")
    assert modules
    offenders = []
    for path in modules:
        if path.stem == "cli" or path.parent.name == "cli":
            continue
        if re.search(r"^\s*print\(", path.read_text(), re.MULTILINE):
            offenders.append(relative(path))
    assert not offenders


def only_re_exports(statement: ast.stmt) -> bool:
    """Imports, also lazy ones, `__all__`, `__version__` and private tables for these."""
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name.startswith("_")
        case ast.FunctionDef(name=name):
            return name in {"__getattr__", "__dir__"}
        case ast.If(test=test):
            return "TYPE_CHECKING" in ast.unparse(test)
    return False


def test_package_faces_only_re_export() -> None:
    for package, name in PACKAGES.items():
        path = ROOT / "packages" / package / "src" / name / "__init__.py"
        body = ast.parse(path.read_text()).body
        offenders = [node.lineno for node in body if not only_re_exports(node)]
        assert not offenders, f"{relative(path)} does more than re-export at {offenders}"
        assert any("__all__" in ast.unparse(node) for node in body), relative(path)


def test_no_file_is_longer_than_it_should_be() -> None:
    too_long = {
        relative(path)
        for path in own_files(*SOURCE_SUFFIXES)
        if path.read_text().count("\n") > LINES_MAX
    }
    assert too_long - set(LONG_FILES) == set()
    assert set(LONG_FILES) - too_long == set(), "listed as long, but no longer is"


def test_no_line_is_longer_than_it_should_be() -> None:
    sources = own_files(*SOURCE_SUFFIXES)
    assert sources
    offenders = [
        f"{relative(path)}:{number}"
        for path in sources
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > LINE_LENGTH_MAX
    ]
    assert not offenders


def test_no_path_of_somebodys_machine() -> None:
    offenders = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATHS.search(line)
    ]
    assert not offenders


def test_no_merge_was_left_half_done() -> None:
    offenders = [relative(path) for path, text in text_files() if MERGE_MARKERS.search(text)]
    assert not offenders


@pytest.mark.parametrize(
    ("line", "is_found"),
    [("open('/" + "work/x')", True), ("/" + "root/.cache", True), ("a/" + "work/b", False)],
)
def test_machine_paths_are_told_from_others(line: str, *, is_found: bool) -> None:
    assert bool(MACHINE_PATHS.search(line)) == is_found


@pytest.mark.parametrize(
    ("line", "is_found"),
    [("# TO" + "DO: later", True), ("# TO" + "DO(#12): later", False)],
)
def test_a_todo_with_its_number_is_told_from_one_without(line: str, *, is_found: bool) -> None:
    assert bool(TODO.search(line)) == is_found


@pytest.mark.parametrize("package", PACKAGES)
def test_package_has_what_every_package_has(package: str) -> None:
    folder, import_name = ROOT / "packages" / package, PACKAGES[package]
    expected = [
        *("pyproject.toml", "README.md", "LICENSE", "tests"),
        *(f"src/{import_name}/{name}" for name in ("__init__.py", "py.typed")),
    ]
    assert not [name for name in expected if not (folder / name).exists()]
    cli = folder / "src" / import_name
    assert (cli / "cli.py").exists() or (cli / "cli" / "__init__.py").exists()
    assert list((folder / "tests").rglob("test_*.py"))
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_versions_are_in_lock_step(package: str) -> None:
    project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]
    reference = tomllib.loads((ROOT / "packages/gcs/pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTIONS[package]
    assert project["version"] == reference["version"]
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"
    siblings = [line for line in project["dependencies"] if line.startswith("rostral")]
    allowed = {f"{name}~={project['version']}" for name in below(package)}
    assert set(siblings) <= allowed, f"siblings of {package} are not pinned to this version"
    assert siblings or package in {"gcs", "objectstore"}


def below(package: str) -> list[str]:
    """The distributions that a package may depend on."""
    if package == "rl":
        return [DISTRIBUTIONS["client"]]
    order = list(PACKAGES)
    return [DISTRIBUTIONS[name] for name in order[: order.index(package)]]


def test_change_fragments_say_which_package_they_are_about() -> None:
    fragments = [path for path in (ROOT / ".changes").iterdir() if path.name != "README.md"]
    name = re.compile(r"[a-z0-9-]+\.(?:added|changed|fixed|removed)\.md")
    for path in fragments:
        assert name.fullmatch(path.name), path.name
        package = path.read_text().partition(":")[0]
        assert package in {*DISTRIBUTIONS.values(), "all"}, f"{path.name} begins with {package!r}"
