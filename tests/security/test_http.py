"""S1, S11, S14, S23: the policy server against strangers, web pages and clients with bombs."""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from rostral_gcs.auth import generate_token
from rostral_rl.checkpoint import save_policy
from rostral_rl.serve.wire import DTYPE_HEADER, RAW, SHAPE_HEADER

from .policy import POLICY
from .services import Service, service
from .wrong_tokens import wrong_headers

JSON = {"content-type": "application/json"}
BODY = json.dumps({"obs": [0.5, -0.5]}).encode()
ROUTES = ["/v1/act", "/v1/policy"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rostral-") as path:
        save_policy(POLICY, Path(path) / "policy")
        yield Path(path)


@pytest.fixture(scope="module")
def token(place: Path) -> str:
    made = generate_token()
    (place / "token").touch(mode=0o600)
    (place / "token").write_text(made)
    return made


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Service]:
    """Without a token, as on a laptop."""
    with service(place, "rostral-rl", "serve", str(place / "policy"), "--http", "0") as running:
        yield running


@pytest.fixture(scope="module")
def guarded(place: Path, token: str) -> Iterator[Service]:
    """With a token."""
    other = place / "guarded"
    other.mkdir()
    flags = ["--http", "0", "--token-file", str(place / "token")]
    with service(other, "rostral-rl", "serve", str(place / "policy"), *flags) as running:
        yield running


def ask(
    server: Service,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[int, str]:
    """Status and text of the answer."""
    connection = http.client.HTTPConnection(*server.target, timeout=20)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def test_every_route_refuses_every_wrong_token_by_every_method(
    guarded: Service, token: str
) -> None:
    for wrong, header in wrong_headers(token).items():
        shown = {} if header is None else {"authorization": header}
        for path in ROUTES:
            for method in METHODS:
                status, text = ask(guarded, method, path, {**JSON, **shown}, BODY)
                assert status in (401, 405), (wrong, method, path, status)
                assert token not in text
                assert "space" not in text
    right = {"authorization": f"Bearer {token}"}
    assert ask(guarded, "POST", "/v1/act", {**JSON, **right}, BODY)[0] == 200
    assert token not in guarded.said()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "169.254.169.254", ""]
)
def test_a_name_that_was_made_to_point_here_is_misdirected(server: Service, host: str) -> None:
    headers = {**JSON, "host": host.format(port=server.target[1])}
    for method, path in (("POST", "/v1/act"), ("GET", "/v1/policy"), ("GET", "/metrics")):
        assert ask(server, method, path, headers, BODY)[0] == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://localhost"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_from_elsewhere_is_refused(server: Service, headers: dict[str, str]) -> None:
    assert ask(server, "POST", "/v1/act", {**JSON, **headers}, BODY)[0] == 403
    assert ask(server, "GET", "/v1/policy", headers)[0] == 403


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_form_of_a_web_page_is_no_request(server: Service, kind: str) -> None:
    assert ask(server, "POST", "/v1/act", {"content-type": kind}, BODY)[0] == 415


def test_no_upgrade_to_a_web_socket(server: Service) -> None:
    headers = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    assert ask(server, "GET", "/v1/policy", headers)[0] != 101


def test_no_answer_allows_another_origin_to_read_it(server: Service) -> None:
    connection = http.client.HTTPConnection(*server.target, timeout=20)
    connection.request("GET", "/v1/policy")
    names = [name.lower() for name, _ in connection.getresponse().getheaders()]
    connection.close()
    assert not [name for name in names if name.startswith("access-control")]
    assert "set-cookie" not in names


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/v1/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/policy/..%2f..%2fpolicy.json",
        "/static/..%5c..%5cpolicy.json",
        "/v1/policy%00.json",
        "//etc/passwd",
        "/policy.json",
    ],
)
def test_no_path_leads_to_a_file(server: Service, path: str) -> None:
    status, text = ask(server, "GET", path)
    assert status in (400, 404)
    assert "root:" not in text
    assert "sha256" not in text


@pytest.mark.parametrize(
    "headers",
    [
        {DTYPE_HEADER: "float32", SHAPE_HEADER: "4294967296,4294967296,4294967296"},
        {DTYPE_HEADER: "float32", SHAPE_HEADER: "9" * 4000},
        {DTYPE_HEADER: "float32", SHAPE_HEADER: "0,18446744073709551616"},
        {DTYPE_HEADER: "float32", SHAPE_HEADER: ",".join(["1"] * 2000)},
        {DTYPE_HEADER: "float32", SHAPE_HEADER: "-1,-2"},
        {DTYPE_HEADER: "float32", SHAPE_HEADER: "\u00b2"},
        {DTYPE_HEADER: "object", SHAPE_HEADER: "2"},
        {DTYPE_HEADER: "O", SHAPE_HEADER: "1"},
        {DTYPE_HEADER: "U99999999", SHAPE_HEADER: "1"},
    ],
)
def test_a_tensor_that_would_fill_the_memory_is_refused_unmade(
    server: Service, headers: dict[str, str]
) -> None:
    given = {"content-type": RAW, **{k: v.encode().decode("latin-1") for k, v in headers.items()}}
    status, _ = ask(server, "POST", "/v1/act", given, b"\0" * 8)
    assert status == 400
    assert ask(server, "POST", "/v1/act", JSON, BODY)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"obs":' * 200_000,
        b'{"obs": ' + b"9" * 100_000 + b"}",
        b'{"obs": [NaN, Infinity]}',
        b'{"obs": "\\ud800"}',
        b'{"obs": [[0.0], [0.0, 1.0]]}',
        b'{"obs": {"__class__": "os.system"}}',
        b"\xff\xfe\x00",
        b"",
    ],
)
def test_json_that_is_a_bomb_is_refused(server: Service, body: bytes) -> None:
    assert ask(server, "POST", "/v1/act", JSON, body)[0] == 400
    assert ask(server, "POST", "/v1/act", JSON, BODY)[0] == 200


def test_a_body_longer_than_announced_or_allowed_is_not_taken_in(server: Service) -> None:
    with socket.create_connection(server.target, timeout=20) as connection:
        head = "POST /v1/act HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"100000\r\n" + b"1" * (1 << 20) + b"\r\n"
        answer = b""
        try:
            for _ in range(64):
                connection.sendall(chunk)
            answer = connection.recv(200)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert answer == b"" or b" 413 " in answer
    assert ask(server, "POST", "/v1/act", JSON, BODY)[0] == 200
