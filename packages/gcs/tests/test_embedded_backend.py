"""What only the embedded backend has: files, their modes, and files that are not its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from rostral_gcs.backends.base import Change
from rostral_gcs.backends.embedded import EmbeddedBackend
from rostral_gcs.errors import StorageError, VersionMismatchError


def _embedded(folder: Path) -> EmbeddedBackend:
    return EmbeddedBackend(folder / "shard.sqlite")


def test_embedded_files_are_private(tmp_path: Path) -> None:
    backend = _embedded(tmp_path)
    backend.open()
    backend.commit([Change(1, 1, b"a", b"v", True)], [], durable=True)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    backend.close()
    assert set(modes.values()) == {0o600}
    assert len(modes) == 4


def test_embedded_refuses_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "shard.sqlite").write_bytes(b"not a database" * 1000)
    backend = _embedded(tmp_path)
    with pytest.raises(StorageError, match=r"shard\.sqlite"):
        backend.open()
    backend.close()


def test_embedded_refuses_a_file_of_another_format(tmp_path: Path) -> None:
    import sqlite3

    backend = _embedded(tmp_path)
    backend.open()
    backend.close()
    connection = sqlite3.connect(tmp_path / "shard.sqlite")
    connection.execute("UPDATE meta SET number = 99 WHERE name = 'format'")
    connection.commit()
    connection.close()
    again = _embedded(tmp_path)
    with pytest.raises(VersionMismatchError, match="format 99"):
        again.open()
    again.close()
