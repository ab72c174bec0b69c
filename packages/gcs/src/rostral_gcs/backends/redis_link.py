"""A connection to one Redis server: commands out, replies or typed failures back.

This file owns the only import of ``redis``, its connections with all retries off, and the reading
of error replies. It tries nothing twice and chooses no server.

Two kinds of failure: ``LinkBrokenError`` says that the connection failed, so that nobody knows
whether the commands were run; a ``ReplyError`` among the replies says that the server refused that
command, and did nothing for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from rostral_gcs.errors import (
    ConfigError,
    GcsError,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)
from rostral_gcs.redis_options import RedisOptions, RedisTarget

__all__ = ["Command", "LinkBrokenError", "NotYetError", "RedisLink", "ReplyError", "first_error"]

Command = tuple[object, ...]


class _Connection(Protocol):
    """What is used of the client library's connections, which have no types of their own."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def send_packed_command(self, command: Any, *, check_health: bool = True) -> None: ...
    def read_response(self, *, disconnect_on_error: bool = True) -> Any: ...
    def can_read(self, timeout: float = 0) -> bool: ...


# The client library drops the first word of these replies and tells them by class.
_CODES: Final = {
    "AskError": "ASK",
    "AuthenticationError": "NOAUTH",
    "AuthenticationWrongNumberOfArgsError": "NOAUTH",
    "AuthorizationError": "NOPERM",
    "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "ExecAbortError": "EXECABORT",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
_ELSEWHERE: Final = frozenset({"READONLY", "MOVED"})
_LATER: Final = frozenset(
    {"LOADING", "BUSY", "ASK", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "EXECABORT"}
)
_DENIED: Final = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})
_FULL: Final = frozenset({"OOM", "MISCONF"})


class LinkBrokenError(Exception):
    """The connection failed or gave no answer in time; the commands may have been run.

    Attributes:
        address: Of the server.
        refused: Whether nothing listens there, which is how a dead process looks.
    """

    def __init__(self, address: str, text: str, *, refused: bool = False) -> None:
        super().__init__(f"{address}: {text}")
        self.address = address
        self.refused = refused


class NotYetError(Exception):
    """There is no answer yet, and the caller does not want to wait for it; the commands are run."""


class ReplyError(Exception):
    """The server refused a command.

    Attributes:
        address: Of the server.
        code: The first word of the reply, ``READONLY`` for example.
        moved_to: For MOVED and ASK the server that has the key; else empty.
    """

    def __init__(self, address: str, code: str, text: str, moved_to: str = "") -> None:
        super().__init__(f"{code} {text}" if text else code)
        self.address = address
        self.code = code
        self.moved_to = moved_to

    @property
    def is_elsewhere(self) -> bool:
        """Another server is the one to ask."""
        return self.code in _ELSEWHERE

    @property
    def is_passing(self) -> bool:
        """The same server may well do it later, or another one now."""
        return self.code in _LATER or self.is_elsewhere

    def typed(self) -> GcsError:
        """The error for whoever asked the GCS."""
        text = f"Redis at {self.address} answers {str(self)[:200]}"
        if self.code in _DENIED:
            return StorageDeniedError(
                text, hint="check user, password and rights (ACL) that the GCS was started with"
            )
        if self.code in _FULL:
            return StorageFullError(
                text, hint="give that Redis more memory or disk space; nothing was written"
            )
        if self.is_passing:
            return StorageUnavailableError(text, hint="wait until Redis is well again")
        return StorageError(text, hint="see the log of that Redis server")


class RedisLink:
    """One connection, opened at its first use and again after it broke. For one thread at a time.

    Args:
        address: ``host:port`` or the path of a Unix socket.
        target: Credentials, database, encryption.
        options: Bounds and files.
        sentinel: The server is a Sentinel, which has no databases and asks for no user of ours.
        timeout_s: How long an answer may take; by default ``command_timeout_s``.
    """

    def __init__(
        self,
        address: str,
        target: RedisTarget,
        options: RedisOptions,
        *,
        sentinel: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        self.address = address
        # Replies to commands whose caller did not wait for them.
        self._unread_count = 0
        self._connection = _make_connection(
            address,
            target,
            options,
            sentinel=sentinel,
            timeout_s=options.command_timeout_s if timeout_s is None else timeout_s,
        )

    def ask(self, commands: Sequence[Command], *, patience_s: float | None = None) -> list[Any]:
        """Sends the commands together and returns their replies in order.

        A refused command has a ReplyError in its reply's place; the others were run all the same.

        Args:
            commands: Any number.
            patience_s: How long to wait for each reply; by default as long as an answer may take.

        Raises:
            NotYetError: A reply did not come within ``patience_s``. The link can be used further.
            LinkBrokenError: It cannot be connected, broke, or was silent for too long.
            ReplyError: The server does not let us in, or is loading. Later commands may have run.
        """
        import redis

        connection = self._connection
        try:
            self._connect()
            self._skip_unread()
            connection.send_packed_command([_pack(commands)], check_health=False)
            replies: list[Any] = []
            for at in range(len(commands)):
                if patience_s is not None and not connection.can_read(patience_s):
                    self._unread_count = len(commands) - at
                    raise NotYetError
                try:
                    # Errors of one reply must not close the connection under the next.
                    replies.append(connection.read_response(disconnect_on_error=False))
                except redis.ResponseError as error:
                    replies.append(self._reply_error(error))
            return replies
        except (redis.AuthenticationError, redis.exceptions.BusyLoadingError) as error:
            # To the client library these two are failures of the connection, and it would read the
            # same reply again: begin afresh.
            self.close()
            raise self._reply_error(error) from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self.close()
            raise LinkBrokenError(self.address, str(error)) from error
        except NotYetError:
            raise
        except BaseException:
            # Replies that nobody read would be taken for those of the next commands.
            self.close()
            raise

    def _skip_unread(self) -> None:
        import redis

        while self._unread_count:
            self._unread_count -= 1
            with contextlib.suppress(redis.ResponseError):
                self._connection.read_response(disconnect_on_error=False)

    def ask_one(self, *command: object) -> Any:
        """One command and its reply.

        Raises:
            LinkBrokenError: As for ``ask``.
            ReplyError: The command was refused.
        """
        (reply,) = self.ask([command])
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def read_push(self, timeout_s: float) -> Any:
        """The next published message, or None when none comes in time.

        Raises:
            LinkBrokenError: As for ``ask``.
        """
        import redis

        try:
            self._connect()
            if not self._connection.can_read(timeout_s):
                return None
            return self._connection.read_response()
        except (redis.RedisError, OSError) as error:
            self.close()
            raise LinkBrokenError(self.address, str(error)) from error

    def close(self) -> None:
        """Closes; the next use connects again."""
        self._unread_count = 0
        self._connection.disconnect()

    def _connect(self) -> None:
        import redis

        try:
            self._connection.connect()
        except (
            redis.ResponseError,
            redis.AuthenticationError,
            redis.exceptions.BusyLoadingError,
        ) as error:
            self.close()
            raise self._reply_error(error) from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self.close()
            refused = "refused" in str(error) or "No such file" in str(error)
            raise LinkBrokenError(self.address, str(error), refused=refused) from error

    def _reply_error(self, error: Exception) -> ReplyError:
        text = str(error)
        code = _CODES.get(type(error).__name__, "")
        if code == "NOAUTH" and "invalid" in text:
            # The library has one class for both, and not every version keeps the word.
            code = "WRONGPASS"
        if not code:
            word, _, rest = text.partition(" ")
            code, text = (word, rest) if word.isupper() else ("ERR", text)
        moved_to = ""
        if code in ("MOVED", "ASK"):
            # A server that does not know its own name leaves the host out.
            host = getattr(error, "host", "") or self.address.rpartition(":")[0]
            moved_to = f"{host}:{getattr(error, 'port', 0)}"
        return ReplyError(self.address, code, text, moved_to)


def first_error(replies: Sequence[Any]) -> ReplyError | None:
    """The first refusal among the replies."""
    return next((reply for reply in replies if isinstance(reply, ReplyError)), None)


def _pack(commands: Sequence[Command]) -> bytes:
    """The commands as they travel. The library's own packing takes most of a large commit's time.

    Numbers go as their text.
    """
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for argument in command:
            data = argument if type(argument) is bytes else str(argument).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def _make_connection(
    address: str, target: RedisTarget, options: RedisOptions, *, sentinel: bool, timeout_s: float
) -> _Connection:
    try:
        import redis
    except ImportError as error:
        raise ConfigError(
            "the Redis backend needs the Redis client, which is not installed",
            hint="pip install 'rostral-gcs[redis]'",
            problems=("the extra `redis` is not installed",),
        ) from error
    # No Retry object: a connection then tries once. Its own retries back off for seconds.
    settings: dict[str, Any] = {
        "db": 0 if sentinel else target.db,
        "username": None if sentinel else target.username or None,
        "password": None if sentinel else options.password or target.password or None,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": options.connect_timeout_s,
        "health_check_interval": 0,
        "protocol": 2,
    }
    # Their types are half written, and mypy would take this one class for all three.
    classes: Any = redis.connection
    make: Callable[..., _Connection] = classes.Connection
    if address.startswith("/"):
        make = classes.UnixDomainSocketConnection
        settings["path"] = address
        return make(**settings)
    host, _, port = address.rpartition(":")
    settings.update(host=host.strip("[]"), port=int(port), socket_keepalive=True)
    if target.tls:
        make = classes.SSLConnection
        settings.update(
            ssl_ca_certs=_text(options.ca_file),
            ssl_certfile=_text(options.cert_file),
            ssl_keyfile=_text(options.key_file),
            ssl_cert_reqs="required",
            ssl_check_hostname=True,
        )
    return make(**settings)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
