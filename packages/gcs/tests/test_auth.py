"""The token file: private, whole, and refused with a reason when it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rostral_gcs import bearer_metadata, generate_token, load_token, write_token
from rostral_gcs.auth import tokens_match
from rostral_gcs.errors import TokenFileError


def test_a_written_token_is_private_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = write_token(path)
    assert load_token(path) == token
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["token"]


def test_tokens_differ_and_compare() -> None:
    first, second = generate_token(), generate_token()
    assert first != second
    assert tokens_match(first, first)
    assert not tokens_match(first, second)
    assert not tokens_match("é", second)
    assert bearer_metadata("t") == (("authorization", "Bearer t"),)


def test_an_existing_token_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = write_token(path)
    with pytest.raises(TokenFileError, match="exists already"):
        write_token(path)
    assert load_token(path) == token


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_token_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    write_token(path)
    path.chmod(mode)
    with pytest.raises(TokenFileError, match=f"mode {mode:04o}, open to group or others"):
        load_token(path)


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    write_token(real)
    link = tmp_path / "link"
    link.symlink_to(real)
    with pytest.raises(TokenFileError, match="cannot open"):
        load_token(link)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(TokenFileError, match="not a regular file"):
        load_token(fifo)
    with pytest.raises(TokenFileError, match="cannot open"):
        load_token(tmp_path / "missing")
    with pytest.raises(TokenFileError, match="not a regular file"):
        load_token(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_token_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    write_token(path)
    os.chown(path, 12345, -1)
    with pytest.raises(TokenFileError, match="belongs to uid 12345"):
        load_token(path)


@pytest.mark.parametrize("content", ["", "short", "has spaces in the middle of it", "x" * 600])
def test_a_file_without_a_token_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(TokenFileError, match="does not hold a token") as caught:
        load_token(path)
    assert not content or content not in str(caught.value)
