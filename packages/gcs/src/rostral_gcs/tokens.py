"""The tokens of a cluster: which are valid now, what each allows, and their file while it changes.

The file has one token on each line, the first of which its readers show. What follows a token says
what it is good for::

    4Pq...                                        the cluster token: everything
    9xT... scope=driver name=alice                no more than that
    k3b... until=1732226400                       everything, until then: rotated out

A process keeps a ``Tokens`` for the file and asks it each time: the file is looked at again once a
second, so a change reaches whoever runs, and needs no restart. Imports no grpc.
"""

from __future__ import annotations

import contextlib
import enum
import hmac
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rostral_gcs.auth import generate_token, load_text, replace_file, tokens_match
from rostral_gcs.errors import NotFoundError, TokenFileError

__all__ = [
    "Grant",
    "Scope",
    "Tokens",
    "add_token",
    "read_grants",
    "revoke_token",
    "rotate_token",
    "token_problems",
]

logger = logging.getLogger("rostral.gcs.tokens")

GRANTS_MAX: Final = 1000
_REREAD_S: Final = 1.0
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{16,512}")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Scope(enum.IntEnum):
    """What the holder of a token may do; each includes those before it."""

    READ = 1
    """Look at the cluster's tables."""
    DRIVER = 2
    """Change them, but for what makes a node a node."""
    NODE = 3
    """Everything: be a node, or a scheduler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One token and what it is good for.

    Attributes:
        token: The secret.
        scope: What it allows.
        name: Whom it was made for.
        until_s: Seconds since 1970 after which it is refused; None: never.
    """

    token: str = field(repr=False)
    scope: Scope = Scope.NODE
    name: str = ""
    until_s: float | None = None

    def is_valid(self, now_s: float) -> bool:
        """Whether its time has not passed."""
        return self.until_s is None or now_s < self.until_s

    def line(self) -> str:
        """As it stands in the file."""
        words = [self.token]
        if self.scope is not Scope.NODE:
            words.append(f"scope={self.scope.name.lower()}")
        if self.name:
            words.append(f"name={self.name}")
        if self.until_s is not None:
            words.append(f"until={self.until_s:.0f}")
        return " ".join(words)


class Tokens:
    """The valid tokens of a file, now. Thread-safe.

    Args:
        path: The file.

    Raises:
        TokenFileError: The file cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path: Path | None = Path(path)
        self._lock = threading.Lock()
        self._stamp = _stamp_of(self._path)
        self._looked_at_s = time.monotonic()
        self._grants = read_grants(path)

    @classmethod
    def of(cls, tokens: str | Tokens) -> Tokens:
        """Of a single token that never changes; of a ``Tokens``, itself."""
        if isinstance(tokens, Tokens):
            return tokens
        fixed = cls.__new__(cls)
        fixed._path = None
        fixed._lock = threading.Lock()
        fixed._grants = (Grant(token=tokens),)
        return fixed

    def __repr__(self) -> str:
        return f"Tokens({str(self._path)!r})" if self._path else "Tokens.of(...)"

    def current(self) -> str:
        """The token to show."""
        self._look()
        return self._grants[0].token

    def find(self, given: str) -> Grant | None:
        """What the given token is good for; None: nothing.

        A token that was put into the file a moment ago is known. Takes the same time whichever of
        the valid tokens it is.
        """
        return self._find(lambda token: tokens_match(given, token))

    def find_proof(self, proof: bytes, prove: Callable[[str], bytes]) -> Grant | None:
        """What the token is good for of which ``prove`` makes this proof; None: there is none."""
        return self._find(lambda token: hmac.compare_digest(proof, prove(token)))

    def _find(self, is_it: Callable[[str], bool]) -> Grant | None:
        self._look()
        found = self._match(is_it)
        if found is None and self._path is not None:
            self.reread()
            found = self._match(is_it)
        return found

    def _match(self, is_it: Callable[[str], bool]) -> Grant | None:
        found = None
        now_s = time.time()
        for grant in self._grants:
            if is_it(grant.token) and grant.is_valid(now_s):
                found = grant
        return found

    def reread(self) -> bool:
        """Looks at the file at once. Returns whether the token to show is another one now."""
        before = self._grants[0].token
        with self._lock:
            self._looked_at_s = -_REREAD_S
        self._look()
        return not tokens_match(self._grants[0].token, before)

    def _look(self) -> None:
        if self._path is None or time.monotonic() - self._looked_at_s < _REREAD_S:
            return
        with self._lock:
            self._looked_at_s = time.monotonic()
            stamp = _stamp_of(self._path)
            if stamp == self._stamp:
                return
            try:
                self._grants = read_grants(self._path)
            except TokenFileError as error:
                # What was valid stays so: a slip of the operator must not stop the cluster.
                logger.error("the token file is not read again: %s", error)
            self._stamp = stamp


def token_problems(token: str | Tokens) -> list[str]:
    """What is wrong with what a configuration has for a token."""
    if isinstance(token, Tokens) or len(token) >= 16:
        return []
    return ["token is shorter than 16 characters; make one: rostral-gcs token FILE"]


def _stamp_of(path: Path) -> tuple[int, ...]:
    with contextlib.suppress(OSError):
        status = path.stat()
        return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
    return ()


def read_grants(path: str | os.PathLike[str]) -> tuple[Grant, ...]:
    """Every token of a file, the one to show first.

    Raises:
        TokenFileError: The file cannot be used, or a line of it makes no sense.
    """
    grants = []
    for number, line in enumerate(load_text(path).splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            grants.append(_parse(words))
        except (ValueError, KeyError):
            raise TokenFileError(
                f"line {number} of token file {path} is no token (16 to 512 letters, digits, - or "
                "_, then scope=node|driver|read, name=NAME, until=SECONDS)",
                hint="take the line out, or make a new file with: rostral-gcs token FILE",
            ) from None
    if not grants or grants[0].until_s is not None or len(grants) > GRANTS_MAX:
        raise TokenFileError(
            f"token file {path} does not hold a token first that never ends, or holds more than "
            f"{GRANTS_MAX}",
            hint="make a new file with: rostral-gcs token FILE",
        )
    return tuple(grants)


def _parse(words: Sequence[str]) -> Grant:
    token, *rest = words
    values = dict(word.split("=", 1) for word in rest)
    until = values.pop("until", None)
    scope, name = Scope[values.pop("scope", "node").upper()], values.pop("name", "")
    if values or not _TOKEN.fullmatch(token) or (name and not _NAME.fullmatch(name)):
        raise ValueError(token)
    return Grant(
        token=token, scope=scope, name=name, until_s=None if until is None else float(until)
    )


def add_token(path: str | os.PathLike[str], *, scope: Scope, name: str) -> Grant:
    """Adds a new token to a file that has one already.

    Raises:
        TokenFileError: The file cannot be used, or has a token of that name.
    """
    grants = _living(read_grants(path))
    if not _NAME.fullmatch(name):
        raise TokenFileError(
            f"{name[:80]!r} is no name of a token: 1 to 64 letters, digits, _, . or -"
        )
    if any(grant.name == name for grant in grants):
        raise TokenFileError(
            f"token file {path} has a token named {name} already",
            hint="revoke it first, or choose another name",
        )
    made = Grant(token=generate_token(), scope=scope, name=name)
    _write(path, [*grants, made])
    return made


def rotate_token(path: str | os.PathLike[str], *, window_s: float, name: str = "") -> Grant:
    """Puts a new token in the place of one; the old one stays valid for a while.

    Args:
        path: The file.
        window_s: How long servers take the old one. In that time the new file must reach every
            machine.
        name: Of the token; empty: the first, which the file's readers show.

    Raises:
        TokenFileError: The file cannot be used.
        NotFoundError: There is no token of that name.
    """
    grants = _living(read_grants(path))
    at = _index_of(grants, name) if name else 0
    old = grants[at]
    made = Grant(token=generate_token(), scope=old.scope, name=old.name)
    ending = Grant(token=old.token, scope=old.scope, name=old.name, until_s=time.time() + window_s)
    rest = [grant for number, grant in enumerate(grants) if number != at]
    _write(path, [*rest[:at], made, *rest[at:], ending])
    return made


def revoke_token(path: str | os.PathLike[str], name: str) -> int:
    """Takes every token of a name out; ``rotated`` stands for those that were rotated out.

    Returns:
        How many.

    Raises:
        TokenFileError: The file cannot be used.
        NotFoundError: There is none.
    """
    grants = read_grants(path)
    first, *rest = grants
    kept = [
        grant
        for grant in rest
        if not (grant.name == name or (name == "rotated" and grant.until_s is not None))
    ]
    if len(kept) == len(rest):
        raise NotFoundError(
            f"token file {path} has no token named {name[:80]} to take out",
            hint="rostral token show lists them; the first one can only be rotated",
        )
    _write(path, [first, *kept])
    return len(rest) - len(kept)


def _living(grants: Sequence[Grant]) -> list[Grant]:
    now_s = time.time()
    return [grant for grant in grants if grant.is_valid(now_s)]


def _index_of(grants: Sequence[Grant], name: str) -> int:
    for number, grant in enumerate(grants):
        if grant.name == name and grant.until_s is None:
            return number
    raise NotFoundError(f"there is no token named {name[:80]}", hint="rostral token show")


def _write(path: str | os.PathLike[str], grants: Sequence[Grant]) -> None:
    replace_file(path, "".join(f"{grant.line()}\n" for grant in grants))
