"""The short cut for requests whose head a connection has seen before, on a real socket.

Every claim is made of a connection that asks again and again; `short_cuts` says that it took the
short cut, so that no test passes because nothing did.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from gymnasium import spaces

from rostral_rl import forward
from rostral_rl.arrays import SpaceArray
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.batcher import BatchConfig
from rostral_rl.serve.config import ServeConfig
from rostral_rl.serve.engine import EngineConfig
from rostral_rl.serve.http import PolicyServer
from rostral_rl.serve.http_protocol import LESSONS_MAX, PolicyProtocol
from rostral_rl.serve.known_head import KnownHead

# Takes actions 0 or 1 by the sign of the first of two numbers.
POLICY = Policy(
    observation_space=spaces.Box(-np.inf, np.inf, (2,), np.float32),
    action_space=spaces.Discrete(2),
    spec=forward.NetSpec(inputs=2, hidden=(), outputs=2, activation="tanh", head="categorical"),
    weights={
        "pi.0.weight": np.array([[-1.0, 1.0], [0.0, 0.0]], np.float32),
        "pi.0.bias": np.zeros(2, np.float32),
    },
    info=PolicyInfo(version=7),
)
RAW = ("content-type: application/octet-stream", "x-tensor-dtype: float32", "x-tensor-shape: 2")
JSON = ("content-type: application/json",)


class Gated:
    """Answers zeros, each pass as soon as it is let; the first one, a server's trial, at once."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)
    info = PolicyInfo(version=1)

    def __init__(self) -> None:
        self.let = threading.Semaphore(1)
        self.begun = threading.Semaphore(0)

    def act(self, batch: SpaceArray) -> SpaceArray:
        self.begun.release()
        assert self.let.acquire(timeout=20.0)
        if np.any(batch < -8):
            raise ArithmeticError("the secret of the policy")
        return np.zeros(len(batch), np.int64)


class Client:
    """One connection, byte for byte."""

    def __init__(self, server: PolicyServer) -> None:
        self.socket = socket.create_connection((server.host, server.port), 20)
        self._rest = b""

    def send(
        self, body: bytes, *lines: str, path: str = "/v1/act", host: str = "localhost"
    ) -> None:
        """One request."""
        self.socket.sendall(request(body, *lines, path=path, host=host))

    def receive(self) -> tuple[int, dict[str, str], bytes]:
        """One answer."""
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        assert len(headers) == len(lines), "no header comes twice"
        length = int(headers["content-length"])
        while len(self._rest) < length:
            self._more()
        body, self._rest = self._rest[:length], self._rest[length:]
        return int(status.split()[1]), headers, body

    def ask(self, body: bytes, *lines: str) -> tuple[int, dict[str, str], bytes]:
        """Sends and receives."""
        self.send(body, *lines)
        return self.receive()

    def _more(self) -> None:
        chunk = self.socket.recv(65536)
        if not chunk:
            raise ConnectionError("the server has closed the connection")
        self._rest += chunk


def request(body: bytes, *lines: str, path: str = "/v1/act", host: str = "localhost") -> bytes:
    head = (
        f"POST {path} HTTP/1.1",
        f"host: {host}",
        *lines,
        f"content-length: {len(body)}",
        "",
        "",
    )
    return "\r\n".join(head).encode() + body


def obs(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


Connect = Callable[[PolicyServer], Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes clients that are closed when the test is over."""
    with contextlib.ExitStack() as stack:

        def made(server: PolicyServer) -> Client:
            client = Client(server)
            stack.enter_context(client.socket)
            return client

        yield made


@pytest.fixture
def short_cuts(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The body of each request that took the short cut, in the order of their coming."""
    seen: list[bytes] = []
    ask = KnownHead.ask

    def noted(self: KnownHead, body: bytes, asker: PolicyProtocol) -> bool:
        seen.append(body)
        return ask(self, body, asker)

    monkeypatch.setattr(KnownHead, "ask", noted)
    return seen


@pytest.fixture(scope="module")
def server() -> Iterator[PolicyServer]:
    with PolicyServer({"default": POLICY, "other": POLICY}, ServeConfig(port=0)) as running:
        yield running


def test_a_head_that_comes_again_is_answered_alike(
    server: PolicyServer, connect: Connect, short_cuts: list[bytes]
) -> None:
    client = connect(server)
    first = client.ask(obs(3, 0), *RAW)
    again = client.ask(obs(3, 0), *RAW)
    assert first[0] == again[0] == 200
    assert first[2] == again[2] == np.int64(1).tobytes()
    assert {**first[1], "date": ""} == {**again[1], "date": ""}
    assert client.ask(obs(-3, 0), *RAW)[2] == np.int64(0).tobytes()
    assert short_cuts == [obs(3, 0), obs(-3, 0)]


def test_json_batches_and_other_models_take_the_short_cut_too(
    server: PolicyServer, connect: Connect, short_cuts: list[bytes]
) -> None:
    client = connect(server)
    asked = (("[3, 0]", 1), ("[-3, 0]", 0), ("[[3,-3],[-3,1]]", [1, 0]))
    for _ in range(3):
        for text, action in asked:
            answer = json.loads(client.ask(f'{{"obs": {text}}}'.encode(), *JSON)[2])
            assert answer == {"action": action, "version": 7}
    assert len(short_cuts) == 6, "of each length, all but the first"
    lines = (*RAW[:2], "x-tensor-shape: 2,2")
    for _ in range(3):
        client.send(obs(1, 0, -1, 0), *lines, path="/v1/models/other/act")
        _, headers, body = client.receive()
        assert headers["x-tensor-shape"] == "2"
        assert np.frombuffer(body, np.int64).tolist() == [1, 0]
    assert len(short_cuts) == 8


def test_what_is_wrong_is_refused_by_the_same_words(
    server: PolicyServer, connect: Connect, short_cuts: list[bytes]
) -> None:
    client = connect(server)
    client.ask(obs(1, 0), *RAW)
    ordinary = connect(server).ask(obs(np.nan, 0), *RAW)
    assert client.ask(obs(np.nan, 0), *RAW)[::2] == ordinary[::2]
    client.ask(b'{"obs": [1,2]}', *JSON)
    for body in (b'{"obs": [1,2}}', b'{"obs": "1 2"}', b'{"obs": [1]  }'):
        status, _, answer = client.ask(body, *JSON)
        assert (status, answer) == connect(server).ask(body, *JSON)[::2]
        assert status == 400
    assert client.ask(obs(1, 0), *RAW)[0] == 200
    assert len(short_cuts) == 5


def test_sessions_deadlines_versions_and_strangers_do_not_take_it(
    server: PolicyServer, connect: Connect, short_cuts: list[bytes]
) -> None:
    client = connect(server)
    for _ in range(3):
        assert client.ask(obs(1, 0), *RAW, "x-session: a")[0] == 200
        assert client.ask(obs(1, 0), *RAW, "x-deadline-ms: 100")[0] == 200
        client.send(obs(1, 0), *RAW, path="/v1/models/default/versions/7/act")
        assert client.receive()[0] == 200
        client.send(obs(1, 0), *RAW, host="evil.example")
        assert client.receive()[0] == 421
    assert short_cuts == []


def test_a_connection_that_never_repeats_itself_soon_learns_no_more(
    server: PolicyServer, connect: Connect, short_cuts: list[bytes]
) -> None:
    client = connect(server)
    for i in range(LESSONS_MAX):
        assert client.ask(obs(1, 0), *RAW, f"traceparent: {i:04}")[0] == 200
    for _ in range(2):
        assert client.ask(obs(1, 0), *RAW, "traceparent: last")[0] == 200
    assert short_cuts == []


def test_a_request_in_pieces_or_sent_ahead_is_answered_in_its_turn(
    server: PolicyServer, connect: Connect, short_cuts: list[bytes]
) -> None:
    client = connect(server)
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.ask(obs(1, 0), *RAW)
    whole = request(obs(-1, 0), *RAW)
    for cut in (1, len(whole) - 9, len(whole) - 1):
        client.socket.sendall(whole[:cut])
        assert not select.select([client.socket], [], [], 0.05)[0]
        client.socket.sendall(whole[cut:])
        assert client.receive()[2] == np.int64(0).tobytes()
    head = len(whole) - 8
    before = len(short_cuts)
    for value in (1, -1, 1):
        one = request(obs(value, 0), *RAW)
        client.socket.sendall(one[:head])
        assert not select.select([client.socket], [], [], 0.05)[0]
        client.socket.sendall(one[head:])
        assert client.receive()[2] == np.int64(value > 0).tobytes()
    assert len(short_cuts) == before + 3, "head and body one by one are no detour"
    client.socket.sendall(b"".join(request(obs(1 - 2 * (i % 2), 0), *RAW) for i in range(20)))
    actions = [int(np.frombuffer(client.receive()[2], np.int64)[0]) for _ in range(20)]
    assert actions == [1, 0] * 10
    client.ask(obs(1, 0), *RAW)
    assert short_cuts[-1] == obs(1, 0)


def slow_server(gated: Gated) -> PolicyServer:
    batch = BatchConfig(slo_ms=10_000.0, queue_rows_max=2, deadline_ms=60_000.0)
    engine = EngineConfig(batch=batch)
    return PolicyServer(gated, ServeConfig(port=0, engine=engine))


def make_slow(server: PolicyServer, gated: Gated) -> None:
    """From here on passes are made off the loop, and what has begun before does not count."""
    server.engine.tallies()["default"][0]._pass_s = 1.0  # As after a measured slow pass.
    while gated.begun.acquire(blocking=False):
        pass


def test_requests_ahead_of_a_slow_answer_wait_and_are_not_read_without_end(
    connect: Connect,
    short_cuts: list[bytes],
) -> None:
    gated = Gated()
    with slow_server(gated) as server:
        client = connect(server)
        gated.let.release()
        client.ask(obs(0, 0), *RAW)
        make_slow(server, gated)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        client.send(obs(1, 0), *RAW)
        assert gated.begun.acquire(timeout=20.0)
        client.socket.setblocking(False)
        sent = 0
        try:
            while sent < 1 << 28:
                sent += client.socket.send(request(obs(2, 0), *RAW) * 64)
        except BlockingIOError:
            pass  # The server reads no more, and the kernel's buffers are full.
        assert sent < 1 << 28
        client.socket.setblocking(True)
        for _ in range(40):
            gated.let.release()
        statuses = [client.receive()[0] for _ in range(10)]
        assert statuses == [200] * 10
        assert short_cuts[0] == obs(1, 0)
        client.socket.close()
        for _ in range(sent // 100):
            gated.let.release()


def test_a_full_queue_and_a_failing_policy_are_answered_as_ever(
    connect: Connect, short_cuts: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    gated = Gated()
    with slow_server(gated) as server:
        clients = [connect(server) for _ in range(4)]
        for client in clients:
            gated.let.release()
            client.ask(obs(0, 0), *RAW)
        make_slow(server, gated)
        clients[0].send(obs(-9, 0), *RAW)
        assert gated.begun.acquire(timeout=20.0)
        for client in clients[1:]:
            client.send(obs(1, 0), *RAW)
        refused = select.select(clients_of(clients[1:]), [], [], 20.0)[0]
        [late] = [c for c in clients[1:] if c.socket in refused]
        status, headers, body = late.receive()
        assert (status, json.loads(body)["code"]) == (429, "RESOURCE_EXHAUSTED")
        assert int(headers["retry-after"]) >= 1
        for _ in range(3):
            gated.let.release()
        status, _, body = clients[0].receive()
        assert (status, json.loads(body)["error"]) == (500, "the policy failed")
        assert b"secret" not in body
        assert [c.receive()[0] for c in clients[1:] if c is not late] == [200, 200]
    assert "the secret of the policy" in caplog.text
    assert len(short_cuts) == 4


def clients_of(clients: list[Client]) -> list[socket.socket]:
    return [client.socket for client in clients]


def test_a_stop_answers_the_request_under_way_and_then_closes(
    connect: Connect, short_cuts: list[bytes]
) -> None:
    gated = Gated()
    server = slow_server(gated)
    with server:
        client, idle, late = connect(server), connect(server), connect(server)
        for one in (client, idle, late):
            gated.let.release()
            one.ask(obs(0, 0), *RAW)
        make_slow(server, gated)
        client.send(obs(1, 0), *RAW)
        assert gated.begun.acquire(timeout=20.0)
        server._server.should_exit = True
        late.send(obs(2, 0), *RAW)
        assert idle.socket.recv(1) == b"", "who asks nothing is let go"
        assert not select.select([client.socket, late.socket], [], [], 0.05)[0]
        for one in (client, late):
            gated.let.release()
            status, headers, _ = one.receive()
            assert (status, headers["connection"]) == (200, "close")
            assert one.socket.recv(1) == b""
    assert short_cuts == [obs(1, 0), obs(2, 0)]


def test_a_client_that_hangs_up_is_not_answered_and_harms_nobody(
    connect: Connect, short_cuts: list[bytes]
) -> None:
    gated = Gated()
    with slow_server(gated) as server:
        gone, stays = connect(server), connect(server)
        for one in (gone, stays):
            gated.let.release()
            one.ask(obs(0, 0), *RAW)
        make_slow(server, gated)
        gone.send(obs(1, 0), *RAW)
        stays.send(obs(2, 0), *RAW)
        gone.socket.close()
        for _ in range(2):
            gated.let.release()
        assert stays.receive()[0] == 200
        gated.let.release()
        assert stays.ask(obs(2, 0), *RAW)[0] == 200


def test_an_idle_connection_is_closed_in_time_however_it_was_answered(
    connect: Connect, short_cuts: list[bytes]
) -> None:
    with PolicyServer(POLICY, ServeConfig(port=0)) as server:
        server._server.config.timeout_keep_alive = 1
        client = connect(server)
        until_s = time.monotonic() + 1.5
        while time.monotonic() < until_s:  # Longer than the timeout, and never idle for so long.
            assert client.ask(obs(1, 0), *RAW)[0] == 200
            assert not select.select([client.socket], [], [], 0.1)[0]
        start_s = time.monotonic()
        assert client.socket.recv(1) == b""
        assert 0.5 < time.monotonic() - start_s < 10.0
    assert len(short_cuts) > 5
