"""A policy server beyond loopback: TLS, tokens with scopes, and what is refused without them."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import rostral_rl as rl
from rostral.services import Tokens
from rostral_gcs.auth import write_token
from rostral_gcs.certs import finish_ca_rotation, init_ca, issue, rotate, rotate_ca
from rostral_gcs.errors import TokenFileError
from rostral_gcs.tokens import Scope, add_token, revoke_token, rotate_token
from rostral_rl import forward
from rostral_rl.errors import (
    InvalidSettingError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.config import ServeConfig
from rostral_rl.serve.http import PolicyServer

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
TOKEN = "a token of the tests"


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """An authority, a server's certificate and a caller's."""
    folder = tmp_path / "pki"
    init_ca(folder)
    issue(folder, "server", hosts=["127.0.0.1", "localhost"])
    issue(folder, "caller", hosts=[], server=False)
    return folder


def encrypted(pki: Path, *, mutual: bool = False, grpc: bool = False) -> ServeConfig:
    return ServeConfig(
        port=0,
        grpc_port=0 if grpc else -1,
        token=TOKEN,
        tls_certificate_file=pki / "server.crt",
        tls_key_file=pki / "server.key",
        tls_ca_file=pki / "ca.crt" if mutual else None,
    )


def act(server: PolicyServer, pki: Path, **given: str | os.PathLike[str]) -> int:
    """The action for one observation, over a connection of its own."""
    more: dict[str, Any] = dict(given)
    with rl.PolicyClient(server.url, token=TOKEN, tls_ca=pki / "ca.crt", **more) as client:
        return int(client.act([3.0, 0.0]))


def test_with_a_certificate_http_is_https(pki: Path) -> None:
    with PolicyServer(POLICY, encrypted(pki)) as server:
        assert server.url == f"https://127.0.0.1:{server.port}"
        assert act(server, pki) == 1
        # In the clear it answers nobody.
        plain = http.client.HTTPConnection(server.host, server.port, timeout=10)
        with pytest.raises((OSError, http.client.HTTPException)):
            plain.request("GET", "/livez")
            plain.getresponse()


def test_an_older_tls_is_refused(pki: Path) -> None:
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        PolicyServer(POLICY, encrypted(pki)) as server,
        socket.create_connection((server.host, server.port), timeout=10) as raw,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_a_server_of_another_authority_is_not_believed(pki: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    init_ca(other)
    with (
        PolicyServer(POLICY, encrypted(pki)) as server,
        pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        act(server, other)


def test_with_an_authority_every_caller_shows_a_certificate_of_it(
    pki: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    init_ca(other)
    issue(other, "caller", hosts=[], server=False)
    with PolicyServer(POLICY, encrypted(pki, mutual=True)) as server:
        ours = {"tls_certificate": pki / "caller.crt", "tls_key": pki / "caller.key"}
        assert act(server, pki, **ours) == 1
        with pytest.raises(UnavailableError):
            act(server, pki)
        theirs = {"tls_certificate": other / "caller.crt", "tls_key": other / "caller.key"}
        with pytest.raises(UnavailableError):
            act(server, pki, **theirs)


def test_new_certificates_and_authorities_are_taken_up_while_it_serves(pki: Path) -> None:
    ours = {"tls_certificate": pki / "caller.crt", "tls_key": pki / "caller.key"}

    def serial(server: PolicyServer) -> object:
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "caller.crt", pki / "caller.key")
        with (
            socket.create_connection((server.host, server.port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
        ):
            return (wrapped.getpeercert() or {})["serialNumber"]

    with PolicyServer(POLICY, encrypted(pki, mutual=True)) as server:
        first = serial(server)
        rotate(pki, "server")
        assert serial(server) != first
        rotate_ca(pki)
        rotate(pki, "caller")  # Signed by the new authority, which the old file does not name.
        assert act(server, pki, **ours) == 1
        rotate(pki, "server")
        finish_ca_rotation(pki)
        assert act(server, pki, **ours) == 1
        (pki / "server.crt").write_text("not a certificate")
        assert act(server, pki, **ours) == 1


def test_grpc_is_encrypted_like_http(pki: Path) -> None:
    import grpc

    from rostral_rl._proto import policy_pb2, policy_pb2_grpc
    from rostral_rl.serve.grpc import from_tensor, to_tensor

    stub_of: Any = policy_pb2_grpc.PolicyStub  # Generated, and untyped.
    request = policy_pb2.ActRequest(obs=to_tensor(np.array([3.0, 0.0], np.float32)))
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    with PolicyServer(POLICY, encrypted(pki, grpc=True)) as server:
        address = f"127.0.0.1:{server.grpc_port}"
        credentials = grpc.ssl_channel_credentials((pki / "ca.crt").read_bytes())
        with grpc.secure_channel(address, credentials) as channel:
            reply = stub_of(channel).Act(request, metadata=metadata, timeout=10)
        assert from_tensor(reply.action) == 1
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            stub_of(channel).Act(request, metadata=metadata, timeout=10)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_beyond_loopback_nothing_is_bound_without_tls_or_without_a_token(
    pki: Path, host: str
) -> None:
    tls: dict[str, Any] = {
        "tls_certificate": pki / "server.crt",
        "tls_key": pki / "server.key",
    }
    with pytest.raises(InvalidSettingError, match="without TLS"):
        rl.serve(POLICY, http=0, host=host, token=TOKEN)
    with pytest.raises(InvalidSettingError, match="without a token"):
        rl.serve(POLICY, http=0, host=host, **tls)
    with pytest.raises(InvalidSettingError, match="without a token"):
        rl.serve(POLICY, http=0, host=host, insecure=True)


def test_beyond_loopback_with_token_and_tls_it_serves(pki: Path) -> None:
    tls: dict[str, Any] = {
        "tls_certificate": pki / "server.crt",
        "tls_key": pki / "server.key",
    }
    with rl.serve(POLICY, http=0, host="0.0.0.0", token=TOKEN, **tls) as server:
        url = f"https://127.0.0.1:{server.port}"
        with rl.PolicyClient(url, token=TOKEN, tls_ca=pki / "ca.crt") as client:
            assert client.act([3.0, 0.0]) == 1


def test_what_is_said_outright_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with rl.serve(POLICY, http=0, host="0.0.0.0", token=TOKEN, insecure=True):
        assert "without TLS, as --insecure asks" in caplog.text


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tls_certificate": "server.crt"}, "both or none"),
        ({"tls_ca": "ca.crt"}, "only to a server with TLS"),
    ],
)
def test_half_of_tls_is_refused(pki: Path, files: dict[str, str], said: str) -> None:
    given: dict[str, Any] = {name: pki / file for name, file in files.items()}
    with pytest.raises(InvalidSettingError, match=said):
        rl.serve(POLICY, http=0, **given)


def test_a_key_that_others_may_read_is_refused(pki: Path) -> None:
    (pki / "server.key").chmod(0o640)
    with pytest.raises(TokenFileError, match="open to group or others"):
        PolicyServer(POLICY, encrypted(pki))


def test_the_client_wants_an_authority_for_https_and_none_for_http(pki: Path) -> None:
    with pytest.raises(InvalidSettingError, match="tls_ca goes with https"):
        rl.PolicyClient("https://127.0.0.1:1")
    with pytest.raises(InvalidSettingError, match="tls_ca goes with https"):
        rl.PolicyClient("http://127.0.0.1:1", tls_ca=pki / "ca.crt")
    with pytest.raises(InvalidSettingError, match="cannot be used"):
        rl.PolicyClient("https://127.0.0.1:1", tls_ca=pki / "missing.crt")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    write_token(path)
    return path


@pytest.fixture
def scoped(token_file: Path) -> Iterator[PolicyServer]:
    """A server whose token file may change."""
    with PolicyServer(POLICY, ServeConfig(port=0, token=Tokens(token_file))) as server:
        yield server


def test_a_token_of_scope_read_looks_and_does_not_act(
    scoped: PolicyServer, token_file: Path
) -> None:
    reader = add_token(token_file, scope=Scope.READ, name="grafana").token
    driver = add_token(token_file, scope=Scope.DRIVER, name="alice").token
    with rl.PolicyClient(scoped.url, token=reader) as client:
        assert client.policy()["info"]["version"] == 7
        with pytest.raises(PermissionDeniedError, match="scope driver"):
            client.act([3.0, 0.0])
        with pytest.raises(PermissionDeniedError):
            client.end_session("someone")
    with rl.PolicyClient(scoped.url, token=driver) as client:
        assert client.act([3.0, 0.0]) == 1
        assert client.policy()["info"]["version"] == 7


def test_tokens_change_while_it_serves(scoped: PolicyServer, token_file: Path) -> None:
    old = Tokens(token_file).current()
    new = rotate_token(token_file, window_s=3600).token
    for token in (new, old):
        with rl.PolicyClient(scoped.url, token=token) as client:
            assert client.act([3.0, 0.0]) == 1
    kept = rl.PolicyClient(scoped.url, token=old)
    for _ in range(5):  # Its request is one that the connection knows by now.
        assert kept.act([3.0, 0.0]) == 1
    revoke_token(token_file, "rotated")
    add_token(token_file, scope=Scope.READ, name="x")
    # One that it does not know has it look at the file at once.
    with rl.PolicyClient(scoped.url, token="w" * 43) as client, pytest.raises(UnauthenticatedError):
        client.act([3.0, 0.0])
    with kept, pytest.raises(UnauthenticatedError):
        kept.act([3.0, 0.0])
    with rl.PolicyClient(scoped.url, token=old) as client, pytest.raises(UnauthenticatedError):
        client.act([3.0, 0.0])


def test_who_is_refused_is_counted_and_logged_without_the_token(
    scoped: PolicyServer, caplog: pytest.LogCaptureFixture
) -> None:
    connection = http.client.HTTPConnection(scoped.host, scoped.port, timeout=10)
    connection.request("GET", "/v1/models", headers={"authorization": "Bearer canary-wrong-token"})
    answer = connection.getresponse()
    assert answer.status == 401
    assert json.loads(answer.read())["code"] == "UNAUTHENTICATED"
    connection.close()
    assert "refused a request for its token peer=127.0.0.1:" in caplog.text
    assert "canary" not in caplog.text
