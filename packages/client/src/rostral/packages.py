"""Local directories on their way to workers: zip files in the node's session, named by content.

Owns what is packed and what is left out. The same files make the same package, which is written
once; the local scheduler unpacks it once for each node.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

SIZE_MAX = 512 << 20
"""Bytes of all files of one package."""

SKIPPED = frozenset({".git", ".hg", ".svn", ".venv", "venv", "__pycache__"})
IGNORE_FILE = ".gitignore"
PART_BYTES = 1 << 20


def pack(folder: Path, source: str, excludes: Sequence[str], *, keep_name: bool) -> str:
    """Makes sure that a directory or file lies in the folder as a package; returns its name.

    A zip file, or a wheel, is a package already: its own path is returned.

    Args:
        folder: Where packages lie.
        source: An absolute path.
        excludes: Patterns as in `.gitignore`, relative to it.
        keep_name: Whether the source itself is in the package, as a Python package must be to be
            imported by its name, or only what is in it.

    Raises:
        ValueError: It has more than 512 MiB.
        OSError: It cannot be read, or the folder not be written.
    """
    if os.path.isfile(source) and source.endswith((".zip", ".whl")):
        return source
    root = Path(source)
    prefix = f"{root.name}/" if keep_name and root.is_dir() else ""
    files = {f"{prefix}{name}": path for name, path in _files(root, excludes)}
    _check_size(source, files)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (folder / (name := f"{_digest(files)}.zip")).exists():
        return name
    unfinished = folder / f".{os.getpid()}-{os.urandom(4).hex()}"
    try:
        name = f"{_write(unfinished, files)}.zip"
        unfinished.replace(folder / name)
    finally:
        unfinished.unlink(missing_ok=True)
    return name


def _files(root: Path, excludes: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """(name in the package, path) of every file that is not left out, in a fixed order."""
    if root.is_file():
        yield root.name, root
        return
    # With the first package, and not with every import of this one.
    from pathspec import GitIgnoreSpec

    rules = [(root, GitIgnoreSpec.from_lines(excludes))]
    for current, folders, names in os.walk(root):
        here = Path(current)
        if IGNORE_FILE in names:
            lines = (here / IGNORE_FILE).read_text(errors="replace").splitlines()
            rules.append((here, GitIgnoreSpec.from_lines(lines)))

        def is_left_out(path: Path, end: str = "") -> bool:
            return any(
                path.is_relative_to(base) and spec.match_file(f"{path.relative_to(base)}{end}")
                for base, spec in rules
            )

        folders[:] = sorted(
            name for name in folders if name not in SKIPPED and not is_left_out(here / name, "/")
        )
        for name in sorted(names):
            path = here / name
            # Sockets and pipes would be read without end.
            if path.is_file() and not is_left_out(path):
                yield path.relative_to(root).as_posix(), path


def _check_size(source: str, files: dict[str, Path]) -> None:
    sizes = {name: path.stat().st_size for name, path in files.items()}
    total = sum(sizes.values())
    if total > SIZE_MAX:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ValueError(
            f"{source} has {total} bytes, over the limit of {SIZE_MAX} for a runtime environment; "
            f"the largest file is {largest} with {sizes[largest]} bytes. Leave files out with "
            "excludes or .gitignore, or read them from a shared disk"
        )


def _head(name: str, path: Path) -> bytes:
    return f"{name}\0{path.stat().st_mode & 0o111:o}\0{path.stat().st_size}\0".encode()


def _digest(files: dict[str, Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, path in files.items():
        digest.update(_head(name, path))
        with path.open("rb") as file:
            while part := file.read(PART_BYTES):
                digest.update(part)
    return digest.hexdigest()


def _write(target: Path, files: dict[str, Path]) -> str:
    """Writes the package; returns the digest of what is in it, should a file just have changed."""
    import zipfile  # not at the top: few jobs bring packages

    digest = hashlib.blake2b(digest_size=16)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as package:
        for name, path in files.items():
            digest.update(_head(name, path))
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (path.stat().st_mode & 0o777) << 16
            with path.open("rb") as file, package.open(info, "w") as packed:
                while part := file.read(PART_BYTES):
                    digest.update(part)
                    packed.write(part)
    return digest.hexdigest()
