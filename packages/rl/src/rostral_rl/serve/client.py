"""A small client of the policy server, on the standard library alone."""

from __future__ import annotations

import http.client
import json
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import (
    DeadlineError,
    InvalidSettingError,
    OverloadedError,
    ServerError,
    ShapeError,
)
from rostral_rl.serve import wire


class PolicyClient:
    """Acts through a policy server, over one connection that is kept open. Not thread-safe.

    Args:
        url: "http://127.0.0.1:8080".
        token: Sent as bearer token.
        timeout_s: Longest wait for an answer.

    Raises:
        InvalidSettingError: The URL is not one of plain HTTP.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise InvalidSettingError(
                f"not the URL of a policy server: {url!r}", hint="http://127.0.0.1:8080"
            )
        self.url = url.rstrip("/")
        self._connection = http.client.HTTPConnection(
            parts.hostname, parts.port or 80, timeout=timeout_s
        )
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}
        #: Version of the policy that gave the last action; -1 before any.
        self.version = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def act(self, obs: npt.ArrayLike) -> SpaceArray:
        """Asks for the action of one observation, or of a batch; blocks.

        Raises:
            ShapeError: The server says that the observation does not fit.
            OverloadedError: Its queue is full.
            DeadlineError: It could not answer in time.
            ServerError: It cannot be reached, or failed.
        """
        body, headers = wire.encode_raw(np.ascontiguousarray(obs))
        content, answered = self._exchange("POST", "/v1/act", body, {**self._headers, **headers})
        self.version = int(answered.get(wire.VERSION_HEADER, -1))
        return wire.decode_raw(content, answered)

    def policy(self) -> dict[str, Any]:
        """What the server says about the policy it serves."""
        content, _ = self._exchange("GET", "/v1/policy", None, self._headers)
        answer: dict[str, Any] = json.loads(content)
        return answer

    def close(self) -> None:
        """Closes the connection. May be called twice; the next call opens it again."""
        self._connection.close()

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[bytes, dict[str, str]]:
        try:
            try:
                self._connection.request(method, path, body, headers)
                response = self._connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # The server may close a connection that was idle; acting changes nothing there, so
                # ask once more.
                self._connection.close()
                self._connection.request(method, path, body, headers)
                response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ServerError(
                f"no answer from {self.url}: {error}", hint="is the server running?"
            ) from error
        if response.status == 200:
            return content, {name.lower(): value for name, value in response.getheaders()}
        raise _refusal(response.status, content)


def _refusal(
    status: int, content: bytes
) -> ServerError | ShapeError | OverloadedError | DeadlineError:
    try:
        answer = json.loads(content)
        text, hint = str(answer["error"]), answer.get("hint")
    except (ValueError, KeyError, TypeError):
        text, hint = content[:200].decode("utf-8", "replace"), None
    match status:
        case 400 | 413 | 415:
            return ShapeError(text, hint=hint)
        case 429:
            return OverloadedError(text, hint=hint)
        case 504:
            return DeadlineError(text, hint=hint)
        case _:
            return ServerError(f"the server answered {status}: {text}", hint=hint)
