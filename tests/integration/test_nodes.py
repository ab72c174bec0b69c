"""Nodes that are started, joined, looked at and stopped from the command line."""

from __future__ import annotations

import socket
import textwrap

from .command_line import CommandLine, processes_of

COUNT_NODES = textwrap.dedent(
    """
    import sys
    import rostral
    rostral.init(sys.argv[1])
    nodes = rostral.nodes()
    print(len(nodes), all(node["Alive"] for node in nodes), rostral.cluster_resources()["CPU"])
    """
)
RUN_A_TASK = textwrap.dedent(
    """
    import sys
    import rostral
    rostral.init(sys.argv[1])
    @rostral.remote
    def square(x):
        return x * x
    print(rostral.get([square.remote(i) for i in range(4)]))
    """
)


def test_a_second_node_joins_the_head_and_offers_its_resources(command_line: CommandLine) -> None:
    address = command_line.start("--head", "--port", "0")
    assert command_line.start("--address", address) == address
    assert sorted(node["head"] for node in command_line.nodes()) == [False, True]
    counted = command_line.program(COUNT_NODES, address)
    assert counted.stdout.split() == ["2", "True", "2.0"], counted.stderr


def test_drivers_come_and_go_while_the_cluster_lives(command_line: CommandLine) -> None:
    address = command_line.start("--head", "--port", "0")
    for _ in range(3):
        ran = command_line.program(RUN_A_TASK, address)
        assert ran.stdout == "[0, 1, 4, 9]\n", ran.stderr
    (node,) = command_line.nodes()
    assert node["jobs"] == []
    assert node["actors"] == []


def test_stop_leaves_no_process(command_line: CommandLine) -> None:
    address = command_line.start("--head", "--port", "0")
    command_line.start("--address", address)
    assert "stopped 2 nodes" in command_line.run("stop").stdout
    assert processes_of(str(command_line.folder)) == []
    assert command_line.run("status").returncode == 3


def test_a_taken_port_is_a_typed_error_and_nothing_is_started(command_line: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = command_line.run("start", "--head", "--port", str(port))
    assert result.returncode == 1
    assert str(port) in result.stderr
    assert "Traceback" not in result.stderr
    assert processes_of(str(command_line.folder)) == []


def test_a_node_cannot_join_where_nothing_listens(command_line: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    token = command_line.folder.parent / f"{command_line.folder.name}.token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef0123456789abcdef\n")
    try:
        result = command_line.run(
            "start", "--address", f"127.0.0.1:{port}", "--token-file", str(token)
        )
    finally:
        token.unlink()
    assert result.returncode == 3
    assert str(port) in result.stderr
    assert "Traceback" not in result.stderr
