"""init and shutdown: what they accept and refuse, and that nothing is left when they are done."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.exceptions import (
    ActorHandleNotFoundError,
    AlreadyInitializedError,
    NotConnectedError,
    RostralError,
    UnknownArgumentError,
    UnsupportedOptionError,
)
from rostral.init_arguments import HARMLESS, REFUSED, SHAPING

from .command_line import CommandLine, program, run_program
from .waiting import files_of, processes_of, until

pytestmark = pytest.mark.slow

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

STORE_BYTES = 64 << 20


@pytest.fixture(autouse=True)
def after_each(leaves_nothing: str) -> str:
    """No process and no file is left by any of these."""
    return leaves_nothing


def start(**options: Any) -> rostral.Context:
    return rostral.init(num_cpus=1, object_store_memory=STORE_BYTES, **options)


class Number:
    def number(self) -> int:
        return 5


def remote_value() -> int:
    @rostral.remote
    def f() -> int:
        return 42

    return rostral.get(f.remote(), timeout=20)


# ---- what it returns and refuses


def test_init_returns_facts_and_leaves_at_the_end_of_the_block(runtime_dir: str) -> None:
    with start(namespace="mine") as context:
        assert rostral.is_initialized()
        assert context["namespace"] == "mine"
        assert context["address"].startswith("127.0.0.1:")
        assert set(context) == {*context.keys()}
        assert len(context) == len(dict(context))
        assert context["node_id"] in repr(context)
        assert remote_value() == 42
        assert files_of(runtime_dir)
    assert not rostral.is_initialized()
    assert files_of(runtime_dir) == []


def test_a_second_init_is_refused_unless_told_otherwise() -> None:
    context = start()
    with pytest.raises(AlreadyInitializedError, match="ignore_reinit_error") as caught:
        rostral.init()
    assert isinstance(caught.value, RuntimeError)
    assert rostral.init(ignore_reinit_error=True) is context


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(
        UnknownArgumentError, match=r"'num_cpu', did you mean 'num_cpus'\?"
    ) as caught:
        rostral.init(num_cpu=2)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("address", 5, TypeError),
        ("address", "nowhere", ValueError),
        ("address", "host:port", ValueError),
        ("address", "127.0.0.1:99999", ValueError),
        ("num_cpus", "2", TypeError),
        ("num_cpus", -1, ValueError),
        ("num_gpus", float("inf"), ValueError),
        ("resources", ["arm"], TypeError),
        ("resources", {"CPU": 1}, ValueError),
        ("labels", {"zone": 1}, TypeError),
        ("labels", "zone", TypeError),
        ("object_store_memory", 1.5e9, TypeError),
        ("object_store_memory", 0, ValueError),
        ("object_store_memory", 1 << 60, RostralError),
        ("namespace", 5, TypeError),
        ("namespace", "", ValueError),
        ("include_dashboard", True, UnsupportedOptionError),
        ("dashboard_port", "8265", TypeError),
        ("job_config", object(), UnsupportedOptionError),
        ("logging_config", object(), TypeError),
        ("enable_resource_isolation", True, UnsupportedOptionError),
        ("cgroup_path", "/sys/fs/cgroup", UnsupportedOptionError),
        ("system_reserved_cpu", 1, UnsupportedOptionError),
        ("proxy_server_url", "http://localhost", UnsupportedOptionError),
        ("address", "ray://localhost:10001", UnsupportedOptionError),
        ("_system_config", [1], TypeError),
        ("_temp_dir", 5, TypeError),
        ("_memory", "1", TypeError),
        ("_memory", -1, ValueError),
        ("_node_ip_address", "10.0.0.1", UnsupportedOptionError),
        ("_tracing_startup_hook", "module:hook", UnsupportedOptionError),
        ("_enable_object_reconstruction", 1, TypeError),
    ],
)
def test_a_wrong_argument_is_refused_and_nothing_is_started(
    name: str, value: Any, error: type[Exception], runtime_dir: str
) -> None:
    init: Any = rostral.init
    with pytest.raises(error):
        init(**{name: value})
    assert not rostral.is_initialized()
    assert files_of(runtime_dir) == []


def test_a_store_too_small_to_be_one_is_refused() -> None:
    with pytest.raises(RostralError, match="memory"):
        rostral.init(object_store_memory=1000)


def test_the_shape_of_a_cluster_does_not_go_with_an_address() -> None:
    with pytest.raises(ValueError, match=r"num_cpus shape a new cluster.*127\.0\.0\.1:1"):
        rostral.init("127.0.0.1:1", num_cpus=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_cpus", 2),
        ("num_gpus", 0),
        ("resources", {"arm": 1}),
        ("labels", {"zone": "a"}),
        ("object_store_memory", 1 << 30),
        ("object_spilling_directory", "spilled"),
        ("_memory", 1 << 30),
        ("_system_config", {}),
        ("_enable_object_reconstruction", False),
        ("_node_ip_address", "127.0.0.1"),
        ("_node_name", "first"),
    ],
)
def test_what_shapes_a_cluster_is_named_as_it_was_given(name: str, value: Any) -> None:
    init: Any = rostral.init
    with pytest.raises(ValueError, match=f"^{name} shape a new cluster"):
        init("127.0.0.1:1", **{name: value})


def test_none_is_as_if_not_given() -> None:
    arguments: dict[str, Any] = dict.fromkeys([*HARMLESS, *REFUSED, *SHAPING])
    with start(**arguments, runtime_env=None, namespace=None, logging_config=None):
        assert remote_value() == 42


def test_what_rays_fixtures_pass_is_accepted() -> None:
    with start(
        labels={"zone": "a"},
        dashboard_host="127.0.0.1",
        dashboard_port=8265,
        include_dashboard=False,
        job_config=None,
        configure_logging=True,
        logging_level="warning",
        logging_format="%(message)s",
        log_to_driver=False,
        enable_resource_isolation=False,
        runtime_env=None,
        _system_config={"gcs_rpc_server_reconnect_timeout_s": 1},
        _temp_dir="/tmp/somewhere",
        _memory=5 << 30,
        _node_ip_address="127.0.0.1",
        _node_name="first",
        _plasma_directory="/dev/shm",
        _metrics_export_port=0,
        _enable_object_reconstruction=True,
        _redis_username="x",
        _redis_password="y",
    ):
        assert rostral.cluster_resources()["memory"] == 5 << 30
        assert remote_value() == 42


def test_the_context_has_the_names_of_rays() -> None:
    context = start()
    assert context["gcs_address"] == context["address"]
    assert context["node_ip_address"] == "127.0.0.1"
    assert context["object_store_address"] == context["object_store_socket"]
    assert context["raylet_socket_name"] == context["scheduler_socket"]
    assert context.address_info == dict(context)
    assert context.dashboard_url == context["webui_url"] == ""
    assert context.python_version.split(".")[:1] == ["3"]
    context.disconnect()
    assert not rostral.is_initialized()


def test_init_changes_nothing_that_shutdown_does_not_put_back() -> None:
    def state() -> list[Any]:
        return [
            dict(os.environ),
            [signal.getsignal(number) for number in signal.valid_signals()],
            len(os.listdir("/proc/self/fd")),
            sorted(thread.name for thread in threading.enumerate()),
            sys.stdout,
            sys.stderr,
            sys.excepthook,
            resource.getrlimit(resource.RLIMIT_NOFILE),
            os.getcwd(),
            list(sys.path),
            logging.getLogger().level,
            list(logging.getLogger().handlers),
        ]

    start()
    assert remote_value() == 42
    rostral.shutdown()  # once before: modules are imported at first use
    before = state()
    start()
    assert remote_value() == 42
    assert rostral.put(1).future().result(timeout=20) == 1
    rostral.shutdown()
    gc.collect()
    assert state() == before


# ---- first use, last use


@pytest.mark.parametrize(
    "use",
    [
        lambda: rostral.get(rostral.put(5)),
        lambda: rostral.get(rostral.remote(len).remote("12345"), timeout=20),
        lambda: rostral.get(rostral.remote(Number).remote().number.remote(), timeout=20),
    ],
    ids=["put", "task", "actor"],
)
def test_the_first_use_starts_a_cluster(use: Callable[[], int]) -> None:
    assert use() == 5
    assert rostral.is_initialized()
    rostral.shutdown()


def test_asking_for_an_actor_starts_a_cluster_that_has_none() -> None:
    with pytest.raises(ValueError, match="nobody"):
        rostral.get_actor("nobody")
    assert rostral.is_initialized()


@pytest.mark.parametrize("name", ["ROSTRAL_ENABLE_AUTO_CONNECT", "RAY_ENABLE_AUTO_CONNECT"])
def test_the_first_use_starts_nothing_where_that_is_switched_off(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @rostral.remote
    def f() -> None: ...

    monkeypatch.setenv(name, "0")
    ref: Any = rostral.ObjectRef.__new__(rostral.ObjectRef)
    handle: Any = rostral.ActorHandle.__new__(rostral.ActorHandle)
    handle._actor_id, handle._home = b"x" * 16, b""
    for use in (
        lambda: rostral.put(5),
        lambda: rostral.get(ref),
        lambda: rostral.wait([ref]),
        lambda: rostral.cancel(ref),
        lambda: rostral.get_actor("a"),
        lambda: rostral.kill(handle),
        rostral.remote(threading.Event).remote,
        rostral.get_gpu_ids,
        rostral.get_runtime_context,
        f.remote,
    ):
        with pytest.raises(NotConnectedError, match=r"rostral\.init\(\)"):
            use()
    assert not rostral.is_initialized()


@pytest.mark.parametrize("first", [rostral.get_runtime_context, rostral.get_gpu_ids])
def test_asking_about_oneself_starts_a_cluster(first: Any) -> None:
    first()
    assert rostral.is_initialized()


def test_questions_about_the_cluster_start_none() -> None:
    for ask in (rostral.nodes, rostral.cluster_resources, rostral.available_resources):
        with pytest.raises(NotConnectedError):
            ask()


def test_shutdown_is_idempotent() -> None:
    rostral.shutdown()
    start()
    rostral.shutdown()
    rostral.shutdown(wait_for_processes=True)


def test_init_after_shutdown_works_and_functions_are_exported_again() -> None:
    @rostral.remote
    def f(n: int) -> int:
        return n + 1

    class Counter:
        def add(self) -> int:
            return 1

    for _ in range(3):
        start()
        assert rostral.get(f.remote(1), timeout=20) == 2
        assert rostral.get(rostral.remote(Counter).remote().add.remote(), timeout=20) == 1
        rostral.shutdown()


def test_a_reference_of_an_earlier_session_is_refused() -> None:
    start()
    ref = rostral.put("old")
    rostral.shutdown()
    start()

    @rostral.remote
    def f(value: Any) -> Any:
        return value

    uses: list[Any] = [
        lambda: rostral.get(ref, timeout=5),
        lambda: rostral.wait([ref], timeout=5),
        lambda: rostral.put([ref]),
        lambda: f.remote(ref),
        lambda: f.remote([ref]),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="another store"):
            use()
    assert remote_value() == 42


def test_an_actor_of_an_earlier_session_is_refused() -> None:
    class Counter:
        def add(self) -> int:
            return 1

    start()
    old = rostral.remote(Counter).remote()
    rostral.shutdown()
    start()
    with pytest.raises(ActorHandleNotFoundError, match="knows no actor"):
        rostral.kill(old)
    with pytest.raises(RostralError):
        rostral.get(old.add.remote(), timeout=5)


def test_shutdown_wakes_a_thread_that_waits() -> None:
    @rostral.remote
    def hang() -> None:
        time.sleep(60)

    start()
    ref = hang.remote()
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            rostral.get(ref)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: thread.is_alive(), "the thread")
    rostral.shutdown()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert isinstance(raised[0], RostralError)


def test_a_forked_child_does_not_end_its_parents_cluster() -> None:
    start()
    pid = os.fork()
    if pid == 0:
        rostral.shutdown()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert remote_value() == 42


# ---- programs of their own


def test_a_program_that_just_ends_leaves_nothing(runtime_dir: str) -> None:
    printed = run_program(
        """
import rostral
rostral.init(num_cpus=1, object_store_memory=64 << 20)

@rostral.remote
def f(x):
    return x + 1

@rostral.remote
class Actor:
    def add(self):
        return 1

actor = Actor.remote()
print(rostral.get([f.remote(1), actor.add.remote()]))
"""
    )
    assert printed == "[2, 1]\n"
    assert files_of(runtime_dir) == []


def test_a_program_that_raises_leaves_nothing(runtime_dir: str) -> None:
    crashed = subprocess.run(
        [sys.executable, "-c", "import rostral; rostral.init(num_cpus=1); raise KeyError('zork')"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert crashed.returncode == 1
    assert crashed.stderr.rstrip().endswith("KeyError: 'zork'")
    assert files_of(runtime_dir) == []


def test_a_program_stopped_by_ctrl_c_leaves_nothing(runtime_dir: str) -> None:
    # A shell that runs the tests in the background has Ctrl-C ignored, which is inherited.
    driver = program(
        """
import rostral, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
rostral.init(num_cpus=1, object_store_memory=64 << 20)

@rostral.remote
def hang():
    time.sleep(60)

ref = hang.remote()
print("waiting", flush=True)
rostral.get(ref)
"""
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "waiting\n"
        driver.send_signal(signal.SIGINT)
        _, error = driver.communicate(timeout=20)
    assert "KeyboardInterrupt" in error
    until(lambda: not processes_of(runtime_dir), "the end of the node")


def test_two_drivers_share_a_node_and_keep_their_names_apart(command_line: CommandLine) -> None:
    """Jobs are told apart; a namespace given by both is one."""
    address = command_line.start_head()
    script = """
import sys, rostral
rostral.init(sys.argv[1], namespace=sys.argv[2] or None)

@rostral.remote
class Holder:
    def value(self):
        return 5

holder = Holder.options(name="holder").remote()
print(rostral.get(holder.value.remote()), flush=True)
sys.stdin.readline()
"""
    first, private = program(script, address, "shared"), program(script, address, "")
    with first, private:
        for driver in (first, private):
            assert driver.stdout is not None
            assert driver.stdout.readline() == "5\n"
        with rostral.init(address, namespace="shared"):
            assert rostral.get(rostral.get_actor("holder").value.remote(), timeout=20) == 5
        with rostral.init(address), pytest.raises(ValueError, match="holder"):
            rostral.get_actor("holder")
        for driver in (first, private):
            driver.communicate("\n", timeout=20)


def test_a_detached_actor_outlives_its_driver(command_line: CommandLine) -> None:
    address = command_line.start_head()
    run_program(
        """
import sys, rostral
rostral.init(sys.argv[1], namespace="lasting")

@rostral.remote(lifetime="detached", name="counter")
class Counter:
    def __init__(self):
        self.n = 0

    def add(self):
        self.n += 1
        return self.n

print(rostral.get(Counter.remote().add.remote()))
""",
        address,
    )
    with rostral.init(address, namespace="lasting"):
        counter = rostral.get_actor("counter")
        assert rostral.get(counter.add.remote(), timeout=20) == 2
        rostral.kill(counter)


# ---- the cluster in numbers


def test_nodes_and_resources() -> None:
    with rostral.init(
        num_cpus=2, object_store_memory=STORE_BYTES, resources={"arm": 3}, labels={"zone": "a"}
    ) as context:
        [node] = rostral.nodes()
        assert node["NodeID"] == context["node_id"]
        assert node["Alive"]
        assert node["Labels"] == {"zone": "a"}
        assert rostral.get_runtime_context().get_node_labels() == {"zone": "a"}
        assert node["Resources"] == {"CPU": 2.0, "arm": 3.0}
        assert rostral.cluster_resources() == {"CPU": 2.0, "arm": 3.0}
        assert rostral.available_resources()["arm"] == 3.0
