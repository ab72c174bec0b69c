"""The page that Prometheus reads of a service: on this machine alone, and to holders of a token.

Owns the HTTP server of the page and who may read it. What is on the page is the service's own. The
only dependency is prometheus_client, an extra, which is imported when a page is asked for.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from rostral_gcs.errors import ConfigError
from rostral_gcs.tokens import Tokens

__all__ = ["MetricsPage"]

logger = logging.getLogger("rostral.service.metrics")

_PREFIX: Final = "Bearer "
# Who connects and says nothing is let go.
_IDLE_S: Final = 10.0
# A stranger must not be able to fill the disk with our log.
_LOG_INTERVAL_S: Final = 1.0


class MetricsPage:
    """Serves the page from a thread of its own, from the moment that it is made until ``close``.

    Args:
        host: An address of loopback.
        port: 0 takes any free one.
        collector: Has a ``collect()``, as prometheus_client wants it; called from the page's
            threads at each scrape.
        tokens: Of the cluster; any scope is enough.
        extra: The distribution's extra that brings prometheus_client, for an error.

    Attributes:
        port: The bound one.
        refused: Requests without a valid token so far.

    Raises:
        ConfigError: prometheus_client is not installed, or the address cannot be bound.
    """

    def __init__(
        self, host: str, port: int, collector: Any, tokens: str | Tokens, *, extra: str
    ) -> None:
        try:
            from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        except ImportError as error:
            raise ConfigError(
                "metrics need the package prometheus_client",
                hint=f"pip install '{extra}'",
                problems=(f"metrics need the extra `{extra}`",),
            ) from error
        registry = CollectorRegistry()
        registry.register(collector)
        self.refused = 0
        self._logged_at_s = -_LOG_INTERVAL_S
        self._tokens = Tokens.of(tokens)
        self._render: Callable[[], bytes] = lambda: bytes(generate_latest(registry))
        self._content_type = str(CONTENT_TYPE_LATEST)
        try:
            self._server = _Server((host, port), self)
        except OSError as error:
            raise ConfigError(
                f"cannot serve metrics at {host}:{port}: {error.strerror}",
                hint="choose a port that is free",
                problems=(f"the port of the metrics, {port}, is taken",),
            ) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics-page", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Ends it and gives the port back; waits for an answer that is under way."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body."""
        status = self._refusal(request)
        if status is None:
            return HTTPStatus.OK, self._content_type, self._render()
        return status, "text/plain; charset=utf-8", f"{status.phrase}\n".encode()

    def _refusal(self, request: BaseHTTPRequestHandler) -> HTTPStatus | None:
        headers = request.headers
        # A page in the operator's browser may have made a name point here.
        if not _is_ours(headers.get("host", "")):
            return HTTPStatus.MISDIRECTED_REQUEST
        if headers.get("origin") or headers.get("sec-fetch-site", "none") not in (
            *("none", "same-origin"),
        ):
            return HTTPStatus.FORBIDDEN
        shown = headers.get_all("authorization", [])
        if len(shown) != 1 or not shown[0].startswith(_PREFIX):
            return self._unknown(request)
        if self._tokens.find(shown[0].removeprefix(_PREFIX)) is None:
            return self._unknown(request)
        if request.path.partition("?")[0] not in ("/", "/metrics"):
            return HTTPStatus.NOT_FOUND
        return None

    def _unknown(self, request: BaseHTTPRequestHandler) -> HTTPStatus:
        self.refused += 1
        now_s = time.monotonic()
        if now_s - self._logged_at_s >= _LOG_INTERVAL_S:
            self._logged_at_s = now_s
            logger.warning(
                "refused a request for its token peer=%s refused=%s",
                request.address_string(),
                self.refused,
            )
        return HTTPStatus.UNAUTHORIZED


def _is_ours(host: str) -> bool:
    """Whether it is what loopback is called, with whatever port."""
    name = host.rpartition("]")[0].strip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], page: MetricsPage) -> None:
        self.page = page
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):  # A reader that hung up.
            logger.error("the metrics cannot be shown", exc_info=error)


class _Request(BaseHTTPRequestHandler):
    timeout = _IDLE_S
    server_version = "rostral"
    sys_version = ""

    def do_GET(self) -> None:
        """The page, or why not."""
        assert isinstance(self.server, _Server)
        status, kind, body = self.server.page.answer(self)
        self.send_response(status)
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - likewise

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: a scrape comes every few seconds."""
