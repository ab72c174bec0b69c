"""The cluster token: how it is made, kept in a file, carried by a call and compared.

This file owns the rules of the token file and the shape of the ``authorization`` metadata. It
imports no grpc, so that drivers can read the token before they decide to connect; the check on the
serving side is ``interceptor.py``.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from rostral_gcs.errors import TokenFileError

__all__ = [
    "bearer_metadata",
    "generate_token",
    "is_private",
    "load_text",
    "load_token",
    "replace_file",
    "tokens_match",
    "write_text",
    "write_token",
]

_SIZE_MAX: Final = 1 << 20
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]{16,512}")


def generate_token() -> str:
    """A new cluster token: 256 random bits as URL-safe text."""
    return secrets.token_urlsafe(32)


def write_token(path: str | os.PathLike[str]) -> str:
    """Makes a new token, writes it to a new file of mode 0600 and returns it.

    The file appears whole or not at all, so that a reader never sees half a token.

    Raises:
        TokenFileError: The file exists already or cannot be written.
    """
    token = generate_token()
    write_text(path, token)
    return token


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a token to a new file of mode 0600.

    Raises:
        TokenFileError: The file exists already or cannot be written.
    """
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(scratch, flags, 0o600)
        try:
            # The umask can only take bits away, so the mode is 0600 or stricter.
            os.write(descriptor, text.encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            # link(), not rename(): it refuses to replace a token that others already hold.
            os.link(scratch, target)
        finally:
            os.unlink(scratch)
    except FileExistsError as error:
        raise TokenFileError(
            f"token file {target} exists already", hint="use it, or remove it first"
        ) from error
    except OSError as error:
        raise TokenFileError(
            f"cannot write token file {target}: {error.strerror}",
            hint="choose a directory you may write to",
        ) from error


def replace_file(path: str | os.PathLike[str], text: str) -> None:
    """Puts a file of mode 0600 with the text in the place of one that may be there, at once.

    Raises:
        TokenFileError: It cannot be written.
    """
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(scratch, flags, 0o600), "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(target)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise TokenFileError(
            f"cannot write {target}: {error.strerror}", hint="choose a directory you may write to"
        ) from error


def load_token(path: str | os.PathLike[str]) -> str:
    """Reads the token to show, after checking that nobody else could have written or read it.

    Of a file with several (``tokens.py``), the first.

    Raises:
        TokenFileError: The file is missing, a link, not a regular file, not owned by this user,
            open to group or others, or does not hold a token; the message says which.
    """
    lines = (line.split() for line in load_text(path).splitlines())
    token = next((words[0] for words in lines if words and words[0][0] != "#"), "")
    if not _SHAPE.fullmatch(token):
        raise TokenFileError(
            f"token file {path} does not hold a token (16 to 512 letters, digits, - or _)",
            hint="remove it and make one with: rostral-gcs token FILE",
        )
    return token


def load_text(path: str | os.PathLike[str]) -> str:
    """What a file of tokens holds, after checking that nobody else could have a hand in it.

    Raises:
        TokenFileError: As ``load_token``, but for what is in it.
    """
    if not _is_credential(path):
        _check_folder(Path(path).absolute().parent)
    try:
        # O_NONBLOCK: a FIFO put in the file's place must be refused, not waited on.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TokenFileError(
            f"cannot open token file {path}: {error.strerror}",
            hint="make one with: rostral-gcs token FILE",
        ) from error
    try:
        _check_file(path, os.fstat(descriptor))
        return os.read(descriptor, _SIZE_MAX).decode("ascii", errors="replace").strip()
    finally:
        os.close(descriptor)


def is_private(path: str | os.PathLike[str], status: os.stat_result) -> bool:
    """Whether nobody else can have read or written a file, as far as its own permissions say."""
    mode = stat.S_IMODE(status.st_mode)
    # systemd may keep a credential root's and let its service read it by an access list, whose
    # mask then shows as the group's bits.
    if _is_credential(path) and status.st_uid == 0 and not mode & 0o037:
        return True
    return status.st_uid == os.geteuid() and not mode & 0o077


def _is_credential(path: str | os.PathLike[str]) -> bool:
    """Whether systemd has put the file there for this service alone (LoadCredential=)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and Path(path).parent == Path(str(folder))


def _check_folder(folder: Path) -> None:
    """Refuses a folder in which others could put another file in the token's place."""
    try:
        status = folder.stat()
    except OSError as error:
        raise TokenFileError(
            f"cannot look at {folder}, where the token should be: {error.strerror}",
            hint="make a token with: rostral-gcs token FILE",
        ) from error
    # In a folder with the sticky bit, such as /tmp, nobody moves what is another's.
    is_open = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
    if is_open or status.st_uid not in (0, os.geteuid()):
        raise TokenFileError(
            f"others may put another token into {folder} (uid {status.st_uid}, mode "
            f"{stat.S_IMODE(status.st_mode):04o})",
            hint=f"chmod go-w {folder}, and make it yours",
        )


def _check_file(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise TokenFileError(
            f"token file {path} is not a regular file", hint="point to the file itself"
        )
    if is_private(path, status):
        return
    if status.st_uid != os.geteuid():
        raise TokenFileError(
            f"token file {path} belongs to uid {status.st_uid}, we are uid {os.geteuid()}",
            hint="copy it to a file of your own with mode 0600",
        )
    raise TokenFileError(
        f"token file {path} has mode {stat.S_IMODE(status.st_mode):04o}, open to group or others",
        hint=f"chmod 600 {path}, and make a new token if others may have read it",
    )


def tokens_match(given: str, expected: str) -> bool:
    """Compares in a time that does not tell how much of the token was right."""
    return hmac.compare_digest(given.encode(), expected.encode())


def bearer_metadata(token: str) -> tuple[tuple[str, str], ...]:
    """The gRPC metadata by which a call shows the token."""
    return (("authorization", f"Bearer {token}"),)
