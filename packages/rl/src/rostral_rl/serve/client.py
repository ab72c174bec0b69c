"""A small client of the policy server, on the standard library alone."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import numpy as np
import numpy.typing as npt

from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import (
    DeadlineError,
    InvalidSettingError,
    NotServedError,
    OverloadedError,
    PermissionDeniedError,
    RequestError,
    RLError,
    ServerError,
    ShapeError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedMediaError,
)
from rostral_rl.serve import wire
from rostral_rl.serve.names import DEFAULT_MODEL


class PolicyClient:
    """Acts through a policy server, over one connection that is kept open. Not thread-safe.

    Args:
        url: "http://127.0.0.1:8080".
        token: Sent as bearer token.
        timeout_s: Longest wait for an answer.
        model: Which of several to ask; by default the server's default one.
        tls_ca: PEM, who signed the server's certificate, for "https://...".
        tls_certificate: PEM, what we show to a server that wants to see one.
        tls_key: PEM, its key.

    Raises:
        InvalidSettingError: The URL is not one of HTTP or HTTPS, TLS files are given for a URL
            without TLS or none for one with it, or they cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 10.0,
        model: str = DEFAULT_MODEL,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_certificate: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise InvalidSettingError(
                f"not the URL of a policy server: {url!r}", hint="http://127.0.0.1:8080"
            )
        if (parts.scheme == "https") != (tls_ca is not None):
            raise InvalidSettingError(
                f"tls_ca goes with https:// and nothing else, got {tls_ca!r} for {url!r}",
                hint="give the ca.crt that signed the server's certificate, or an http:// URL",
            )
        self.url = url.rstrip("/")
        if tls_ca is None:
            self._connection = http.client.HTTPConnection(
                parts.hostname, parts.port or 80, timeout=timeout_s
            )
        else:
            self._connection = http.client.HTTPSConnection(
                parts.hostname,
                parts.port or 443,
                timeout=timeout_s,
                context=_context(tls_ca, tls_certificate, tls_key),
            )
        self._path = f"/v1/models/{quote(model, safe='')}"
        self._model = model
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

    def act(
        self,
        obs: npt.ArrayLike,
        *,
        version: int | None = None,
        session: str | None = None,
        reset: bool = False,
        deadline_ms: float | None = None,
    ) -> SpaceArray:
        """Asks for the action of one observation, or of a batch; blocks.

        Args:
            obs: One observation of the policy's space, or (N, *shape).
            version: Of which weights; the newest by default.
            session: Whose memory; needed by recurrent policies alone.
            reset: An episode begins: the session's memory is cleared first.
            deadline_ms: The server drops the request when it has waited so long.

        Raises:
            ShapeError: The server says that the observation does not fit.
            RequestError, TooLargeError: It cannot read or will not take the request.
            NotServedError: It has no such model or version.
            UnauthenticatedError: It wants another token.
            PermissionDeniedError: The token is good for less than this.
            OverloadedError: Its queue is full.
            DeadlineError: It could not answer in time.
            UnavailableError: It cannot be reached; safe to ask again.
            ServerError: It failed.
        """
        body, headers = wire.encode_raw(np.ascontiguousarray(obs))
        headers |= self._headers
        if session is not None:
            headers |= {wire.SESSION_HEADER: session, wire.RESET_HEADER: str(int(reset))}
        if deadline_ms is not None:
            headers[wire.DEADLINE_HEADER] = repr(float(deadline_ms))
        at = "" if version is None else f"/versions/{version}"
        content, answered = self._exchange("POST", f"{self._path}{at}/act", body, headers)
        self.version = int(answered.get(wire.VERSION_HEADER, -1))
        return wire.decode_raw(content, answered)

    def end_session(self, session: str) -> None:
        """Has the server forget a session.

        Raises:
            NotServedError: There is none of that id.
        """
        path = f"{self._path}/sessions/{quote(session, safe='')}"
        self._exchange("DELETE", path, None, self._headers)

    def policy(self) -> dict[str, Any]:
        """What the server says about the policy it serves."""
        content, _ = self._exchange("GET", "/v1/models", None, self._headers)
        models: dict[str, dict[str, Any]] = json.loads(content)["models"]
        if self._model not in models:
            raise NotServedError(f"no model {self._model!r} is served")
        return models[self._model]

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
            raise UnavailableError(
                f"no answer from {self.url}: {error}", hint="is the server running?"
            ) from error
        if response.status == 200:
            return content, {name.lower(): value for name, value in response.getheaders()}
        raise _refusal(response.status, content)


def _context(
    ca: str | os.PathLike[str],
    certificate: str | os.PathLike[str] | None,
    key: str | os.PathLike[str] | None,
) -> ssl.SSLContext:
    """Trusts that authority alone, and the name in the certificate must be the URL's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # ssl's own errors are OSErrors.
        raise InvalidSettingError(
            f"the TLS files cannot be used: {error}",
            hint="ca.crt, and a certificate with its key where the server wants one; all PEM",
        ) from error
    return context


_ERRORS: dict[str | None, type[RLError]] = {
    kind.code: kind
    for kind in (
        RequestError,
        TooLargeError,
        UnsupportedMediaError,
        NotServedError,
        UnauthenticatedError,
        PermissionDeniedError,
        DeadlineError,
    )
}


def _refusal(status: int, content: bytes) -> RLError:
    """The error that the server's answer stands for."""
    try:
        answer = json.loads(content)
        text, hint, code = str(answer["error"]), answer.get("hint"), answer.get("code")
    except (ValueError, KeyError, TypeError):
        answer, hint, code = {}, None, None
        text = content[:200].decode("utf-8", "replace")
    if code == ShapeError.code:
        return ShapeError(text, hint=hint, expected=answer.get("expected"), got=answer.get("got"))
    if code == OverloadedError.code:
        return OverloadedError(text, hint=hint, retry_after_s=float(answer["retry_after_s"]))
    if code in _ERRORS:
        return _ERRORS[code](text, hint=hint)
    if status == 503:  # Uvicorn's own, without a body of ours.
        return UnavailableError(f"the server has no room: {text}", hint="ask again after a pause")
    return ServerError(f"the server answered {status}: {text}", hint=hint)
