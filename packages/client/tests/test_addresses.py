"""Where init connects to: arguments, variables of the environment, and nodes that run here."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

import rostral
from rostral.exceptions import ClusterUnavailableError

from .command_line import CommandLine

pytestmark = pytest.mark.slow

STORE_BYTES = 64 << 20


@pytest.fixture(autouse=True)
def after_each(leaves_nothing: str) -> str:
    """No process and no file is left by any of these."""
    return leaves_nothing


def test_an_address_where_nothing_listens_fails_fast() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(ClusterUnavailableError, match=f"nothing listens at {address}") as caught:
        rostral.init(address)
    assert time.monotonic() - began < 2
    assert isinstance(caught.value, ConnectionError)


def test_an_address_of_something_else_says_that_there_is_no_node() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ClusterUnavailableError, match="no node of this user"):
            rostral.init(address)


def test_auto_with_no_node_is_a_connection_error() -> None:
    with pytest.raises(ConnectionError, match="rostral start --head"):
        rostral.init("auto")


def test_local_starts_a_new_cluster(command_line: CommandLine) -> None:
    address = command_line.start_head()
    with rostral.init("local", object_store_memory=STORE_BYTES) as context:
        assert context["address"] != address


def test_a_running_node_is_found(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its address, by "auto", by nothing, and by the environment."""
    address = command_line.start_head()
    for given in (address, address.replace("127.0.0.1", "localhost"), "auto", None):
        with rostral.init(given) as context:
            assert context["address"] == address
            assert rostral.get(rostral.remote(len).remote([]), timeout=20) == 0
    monkeypatch.setenv("ROSTRAL_ADDRESS", address)
    with rostral.init() as context:
        assert context["address"] == address
    monkeypatch.delenv("ROSTRAL_ADDRESS")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with rostral.init() as context:
        assert context["address"] == address
    monkeypatch.setenv("ROSTRAL_ADDRESS", "local")
    with rostral.init() as context:
        assert context["address"] != address


def test_the_argument_is_asked_before_the_environment(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And our variable before Ray's; both before the node that runs here."""
    address = command_line.start_head()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", nowhere)
    with pytest.raises(ClusterUnavailableError, match=nowhere):
        rostral.init()
    monkeypatch.setenv("ROSTRAL_ADDRESS", address)
    with rostral.init() as context:
        assert context["address"] == address
    monkeypatch.setenv("ROSTRAL_ADDRESS", nowhere)
    for given in (address, "auto"):
        with rostral.init(given) as context:
            assert context["address"] == address


def test_the_shape_of_a_cluster_does_not_go_with_an_address_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROSTRAL_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ValueError, match=r"num_cpus shape a new cluster.*127\.0\.0\.1:1"):
        rostral.init(num_cpus=2)


def test_what_shapes_a_cluster_starts_one_beside_the_node_that_runs(
    command_line: CommandLine,
) -> None:
    address = command_line.start_head()
    with rostral.init(num_cpus=1, object_store_memory=STORE_BYTES) as context:
        assert context["address"] != address


def test_another_users_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setenv("ROSTRAL_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(ClusterUnavailableError, match="belongs to this user alone"):
        rostral.init("local")


def test_nodes_in_another_directory_are_not_found(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command_line.start_head()
    other = tmp_path / "other"
    with monkeypatch.context() as patch:
        patch.setenv("ROSTRAL_RUNTIME_DIR", str(other))
        with pytest.raises(ClusterUnavailableError, match="no node of this user"):
            rostral.init("auto")
