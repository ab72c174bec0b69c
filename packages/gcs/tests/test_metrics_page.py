"""The page that Prometheus reads: holders of a token alone, and no web page of elsewhere."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rostral_gcs.auth import write_token
from rostral_gcs.errors import ConfigError
from rostral_gcs.services.metrics_page import MetricsPage
from rostral_gcs.tokens import Scope, Tokens, add_token, revoke_token


class Collector:
    """One gauge."""

    def collect(self) -> Iterator[object]:
        from prometheus_client.core import GaugeMetricFamily

        yield GaugeMetricFamily("rostral_test_answers", "Of a test.", value=42.0)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    write_token(path)
    return path


@pytest.fixture(params=["127.0.0.1", "::1"])
def page(token_file: Path, request: pytest.FixtureRequest) -> Iterator[MetricsPage]:
    made = MetricsPage(request.param, 0, Collector(), Tokens(token_file), extra="x[metrics]")
    yield made
    made.close()


def ask(
    page: MetricsPage, token: str | None, path: str = "/metrics", method: str = "GET", **more: str
) -> tuple[int, str]:
    host = str(page._server.server_address[0])
    connection = http.client.HTTPConnection(host, page.port, timeout=10)
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_token_of_any_scope_reads_it(page: MetricsPage, token_file: Path) -> None:
    reader = add_token(token_file, scope=Scope.READ, name="prometheus").token
    for token in (Tokens(token_file).current(), reader):
        status, text = ask(page, token)
        assert status == 200
        assert "rostral_test_answers 42.0" in text
    assert ask(page, reader, method="HEAD") == (200, "")
    revoke_token(token_file, "prometheus")
    ask(page, "x" * 43)  # One that is not known has the file looked at at once.
    assert ask(page, reader)[0] == 401


@pytest.mark.parametrize("token", [None, "", "x" * 43])
def test_nobody_else_does_and_that_is_counted_and_logged(
    page: MetricsPage, token: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    before = page.refused
    status, text = ask(page, token)
    assert status == 401
    assert "rostral_test" not in text
    assert page.refused == before + 1
    assert "refused a request for its token" in caplog.text
    assert "xxx" not in caplog.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:80"}, 421),
        ({"host": ""}, 421),
        ({"host": "localhost:9100"}, 200),
        ({"host": "[::1]:9100"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
    ],
)
def test_a_web_page_of_elsewhere_reads_nothing(
    page: MetricsPage, token_file: Path, headers: dict[str, str], status: int
) -> None:
    assert ask(page, Tokens(token_file).current(), **headers)[0] == status


@pytest.mark.parametrize("path", ["/../etc/passwd", "/metrics/../../x", "/%2e%2e/token", "/x"])
def test_no_path_leads_elsewhere(page: MetricsPage, token_file: Path, path: str) -> None:
    assert ask(page, Tokens(token_file).current(), path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE"])
def test_there_is_nothing_to_change(page: MetricsPage, token_file: Path, method: str) -> None:
    assert ask(page, Tokens(token_file).current(), method=method)[0] == 501


def test_a_port_that_is_taken_is_named(token_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot serve metrics at 127.0.0.1:{port}"):
            MetricsPage("127.0.0.1", port, Collector(), Tokens(token_file), extra="x[metrics]")
