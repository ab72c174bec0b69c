"""The policy server on a real socket: what it answers, what it refuses, and how it stops."""

from __future__ import annotations

import http.client
import json
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.errors import (
    DeadlineError,
    InvalidSettingError,
    NotServedError,
    PortUnavailableError,
    RequestError,
    ServerError,
    ShapeError,
    TooLargeError,
)
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.client import PolicyClient
from rostral_rl.serve.config import ServeConfig
from rostral_rl.serve.http import PolicyServer
from rostral_rl.serve.wire import decode_raw, encode_raw

# Takes actions 0 or 1 by the sign of the first of two numbers.
POLICY = Policy(
    observation_space=spaces.Box(-np.inf, np.inf, (2,), np.float32),
    action_space=spaces.Discrete(2),
    spec=forward.NetSpec(inputs=2, hidden=(), outputs=2, activation="tanh", head="categorical"),
    weights={
        "pi.0.weight": np.array([[-1.0, 1.0], [0.0, 0.0]], np.float32),
        "pi.0.bias": np.zeros(2, np.float32),
    },
    info=PolicyInfo(algorithm="ppo", version=7),
)


@pytest.fixture(scope="module")
def server() -> Iterator[PolicyServer]:
    with PolicyServer(POLICY, ServeConfig(port=0, body_bytes_max=4096)) as running:
        yield running


def exchange(
    server: PolicyServer,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        answered = {name.lower(): value for name, value in response.getheaders()}
        is_json = answered.get("content-type", "").startswith("application/json")
        return response.status, answered, json.loads(content) if is_json else content
    finally:
        connection.close()


def post_json(server: PolicyServer, body: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return exchange(
        server,
        "POST",
        "/v1/act",
        body.encode(),
        {"content-type": "application/json", **named},
    )


def test_json_in_and_out_single_and_batched(server: PolicyServer) -> None:
    assert post_json(server, '{"obs": [3, 0]}')[2] == {"action": 1, "version": 7}
    answer = post_json(server, '{"obs": [[3, 0], [-3.5, 0]]}')[2]
    assert answer == {"action": [1, 0], "version": 7}


def test_the_client_acts_over_one_connection_like_the_policy_itself(server: PolicyServer) -> None:
    obs = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    with PolicyClient(server.url) as client:
        np.testing.assert_array_equal(client.act(obs), POLICY(obs))
        for row in obs:
            assert client.act(row) == POLICY(row)
            assert client.act(row).shape == ()
        assert client.version == 7
        described = client.policy()
    assert described["info"]["algorithm"] == "ppo"
    assert described["observation_space"]["shape"] == [2]
    assert described["observations"] >= 150


def test_probes_answer(server: PolicyServer) -> None:
    assert exchange(server, "GET", "/livez")[0] == 200
    assert exchange(server, "GET", "/readyz")[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[1, 2]",
        "{}",
        '{"obs": [1, 2, 3]}',
        '{"obs": []}',
        '{"obs": [[1], [1, 2]]}',
        '{"obs": "12"}',
        '{"obs": {"a": 1}}',
        '{"obs": null}',
        '{"obs": [NaN, 1]}',
        '{"obs": [1e400, 1]}',
        '{"obs": [true, "x"]}',
        "[" * 2000,
        "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
    ],
)
def test_a_body_that_is_no_observation_is_a_400_that_says_why(
    server: PolicyServer, body: str
) -> None:
    status, _, answer = post_json(server, body)
    assert status == 400
    assert answer["error"] and answer["hint"]


def test_a_wrong_shape_is_answered_with_the_right_one(server: PolicyServer) -> None:
    _, _, answer = post_json(server, '{"obs": [1, 2, 3]}')
    assert "shape (3,)" in answer["error"]
    assert "expected shape (2,) or (N, 2) float32" in answer["hint"]
    with PolicyClient(server.url) as client, pytest.raises(ShapeError, match="expected shape"):
        client.act(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b""),
        ({"x-tensor-dtype": "object", "x-tensor-shape": "2"}, b"12345678"),
        ({"x-tensor-dtype": "float32"}, b"12345678"),
        ({"x-tensor-dtype": "float32", "x-tensor-shape": "-2"}, b"12345678"),
        ({"x-tensor-dtype": "float32", "x-tensor-shape": "a"}, b"12345678"),
        ({"x-tensor-dtype": "float32", "x-tensor-shape": "3"}, b"12345678"),
        ({"x-tensor-dtype": "float32", "x-tensor-shape": "1,1,1,1,1,1,1,1,2"}, b"12345678"),
        ({"x-tensor-dtype": "float32", "x-tensor-shape": "9" * 400}, b"12345678"),
    ],
)
def test_a_raw_tensor_that_contradicts_itself_is_a_400(
    server: PolicyServer, headers: dict[str, str], body: bytes
) -> None:
    kind = {"content-type": "application/octet-stream"}
    status, _, answer = exchange(server, "POST", "/v1/act", body, {**kind, **headers})
    assert (status, bool(answer["error"])) == (400, True)


def test_other_refusals(server: PolicyServer) -> None:
    assert exchange(server, "POST", "/v1/act", b"{}", {"content-type": "text/plain"})[0] == 415
    assert exchange(server, "POST", "/v1/act", b"{}")[0] == 415
    assert post_json(server, " " * 5000)[0] == 413
    assert exchange(server, "GET", "/v1/act")[0] == 405
    assert exchange(server, "GET", "/v1/nothing")[0] == 404
    assert post_json(server, '{"obs": [3, 0]}', x_deadline_ms="soon")[0] == 400


def test_a_deadline_too_short_to_meet_is_a_504(server: PolicyServer) -> None:
    status, _, answer = post_json(server, '{"obs": [3, 0]}', x_deadline_ms="0.000001")
    assert (status, "deadline" in answer["error"]) == (504, True)
    assert issubclass(DeadlineError, TimeoutError)


def raw_exchange(server: PolicyServer, request: bytes) -> bytes:
    """What a socket gets until the server closes it."""
    with socket.create_connection((server.host, server.port), 10) as raw:
        raw.sendall(request)
        received = b""
        while chunk := raw.recv(4096):
            received += chunk
    return received


ACT = "POST /v1/act HTTP/1.1"
GET = "GET /v1/policy HTTP/1.1"


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        ((GET, "host: evil.example"), 421, "MISDIRECTED"),
        ((GET, "x: y"), 421, "MISDIRECTED"),
        ((GET, "host: localhost", "origin: http://evil.example"), 403, "PERMISSION_DENIED"),
        ((GET, "host: localhost", "origin: null"), 403, "PERMISSION_DENIED"),
        ((GET, "host: localhost", "sec-fetch-site: cross-site"), 403, "PERMISSION_DENIED"),
        ((GET, "host: localhost", "host: localhost"), 400, "INVALID_ARGUMENT"),
        ((ACT, "host: localhost", "content-length: 9999999"), 413, "TOO_LARGE"),
        (
            (ACT, "host: localhost", "content-length: 0", "content-encoding: gzip"),
            415,
            "UNSUPPORTED_MEDIA",
        ),
        ((f"GET /{'x' * 9000} HTTP/1.1", "host: localhost"), 414, "TOO_LARGE"),
        (("GET /v1/../etc/passwd HTTP/1.1", "host: localhost"), 404, "NOT_FOUND"),
        (("GET /v1/models/%2e%2e/act HTTP/1.1", "host: localhost"), 405, "METHOD_NOT_ALLOWED"),
    ],
)
def test_a_request_that_no_client_of_ours_sends_is_refused_by_code(
    server: PolicyServer, lines: tuple[str, ...], status: int, code: str
) -> None:
    request = "\r\n".join((*lines, "connection: close", "", ""))
    answer = raw_exchange(server, request.encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == code
    assert post_json(server, '{"obs": [3, 0]}')[0] == 200


def test_a_body_with_two_lengths_is_not_read(server: PolicyServer) -> None:
    answer = raw_exchange(
        server,
        b"POST /v1/act HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_page_of_our_own_may_ask(server: PolicyServer) -> None:
    origin = f"http://127.0.0.1:{server.port}"
    assert (
        post_json(server, '{"obs": [3, 0]}', origin=origin, sec_fetch_site="same-origin")[0] == 200
    )


def test_refusals_carry_code_and_what_would_fit(server: PolicyServer) -> None:
    answer = post_json(server, '{"obs": [1, 2, 3]}')[2]
    assert answer["code"] == "INVALID_OBSERVATION"
    assert answer["expected"] == "shape (2,) or (N, 2) float32"
    assert answer["got"] == "shape (3,) int64"
    with PolicyClient(server.url) as client:
        with pytest.raises(ShapeError) as refused:
            client.act(np.zeros(3))
        assert refused.value.got == "shape (3,) float64"
        assert pickle.loads(pickle.dumps(refused.value)).expected == answer["expected"]
        with pytest.raises(DeadlineError):
            client.act([3.0, 0.0], deadline_ms=1e-6)
        with pytest.raises(RequestError, match="deadline"):
            client.act([3.0, 0.0], deadline_ms=-1.0)
        with pytest.raises(TooLargeError):
            client.act(np.zeros((4000, 2)))
        with pytest.raises(NotServedError, match="version 6"):
            client.act([3.0, 0.0], version=6)
        assert client.act([3.0, 0.0], version=7) == 1
    with PolicyClient(server.url, model="other") as client:
        with pytest.raises(NotServedError, match="'other'"):
            client.act([3.0, 0.0])
        with pytest.raises(NotServedError, match="'other'"):
            client.policy()


def test_metrics_count_what_was_answered(server: PolicyServer) -> None:
    def count() -> float:
        text = exchange(server, "GET", "/metrics")[2].decode()
        [line] = [x for x in text.splitlines() if x.startswith("rostral_serve_requests_total{")]
        return float(line.split()[1])

    before = count()
    for _ in range(3):
        post_json(server, '{"obs": [3, 0]}')
    assert count() == before + 3


def test_a_client_that_hangs_up_in_the_middle_harms_nobody(server: PolicyServer) -> None:
    with socket.create_connection((server.host, server.port)) as raw:
        raw.sendall(
            b"POST /v1/act HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: 100\r\n\r\n{"
        )
    assert post_json(server, '{"obs": [3, 0]}')[0] == 200


def test_many_clients_at_once_each_get_their_own_answer(server: PolicyServer) -> None:
    wrong: list[object] = []

    def play(sign: int) -> None:
        with PolicyClient(server.url) as client:
            for i in range(1, 40):
                if client.act(np.array((sign * i, 0), np.float32)) != (sign > 0):
                    wrong.append((sign, i))

    threads = [threading.Thread(target=play, args=(1 if i % 2 else -1,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_with_a_token_only_its_bearer_is_answered() -> None:
    with PolicyServer(POLICY, ServeConfig(port=0, token="s3cret")) as server:
        assert post_json(server, '{"obs": [3, 0]}')[0] == 401
        assert post_json(server, '{"obs": [3, 0]}', authorization="Bearer wrong")[0] == 401
        assert exchange(server, "GET", "/v1/policy")[0] == 401
        assert exchange(server, "GET", "/livez")[0] == 200
        with PolicyClient(server.url, token="s3cret") as client:
            assert client.act([3.0, 0.0]) == 1
    assert "s3cret" not in repr(ServeConfig(token="s3cret"))


def test_listening_beyond_loopback_needs_a_token() -> None:
    with pytest.raises(InvalidSettingError, match="without a token"):
        rl.serve(POLICY, http=0, host="0.0.0.0")


def test_a_port_in_use_is_a_typed_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortUnavailableError, match=f"127.0.0.1:{port}"):
            rl.serve(POLICY, http=port)
    with pytest.raises(InvalidSettingError, match="port"):
        rl.serve(POLICY, http=70_000)


def test_no_server_is_a_typed_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ServerError, match=url):
            PolicyClient(url).act([1.0, 2.0])
    with pytest.raises(InvalidSettingError, match="URL"):
        PolicyClient("https://somewhere")


def test_the_client_survives_a_server_that_closed_its_idle_connection() -> None:
    with PolicyServer(POLICY, ServeConfig(port=0)) as first:
        port = first.port
        client = PolicyClient(first.url)
        assert client.act([3.0, 0.0]) == 1
    with PolicyServer(POLICY, ServeConfig(port=port)):
        assert client.act([-3.0, 0.0]) == 0
    client.close()


@pytest.mark.parametrize(
    "array", [np.float32(2.0), np.arange(6).reshape(2, 3), np.zeros((0, 2), np.uint8)]
)
def test_raw_tensors_come_back_as_they_went(array: Any) -> None:
    body, headers = encode_raw(np.asarray(array))
    np.testing.assert_array_equal(decode_raw(body, headers), array)
    assert decode_raw(body, headers).dtype == array.dtype


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal_and_then_ends_with_success(
    number: signal.Signals, tmp_path: Path
) -> None:
    POLICY.save(tmp_path)
    command = [sys.executable, "-m", "rostral_rl", "serve", str(tmp_path), "--http", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = line.strip().rpartition(" ")[2]
            with PolicyClient(url) as client:
                assert client.act([3.0, 0.0]) == 1
                process.send_signal(number)
                assert process.wait(15) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == ""
