"""What code can ask about itself, in a driver, a task and an actor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import rostral
from rostral import get_gpu_ids, get_runtime_context

from .actors import get
from .waiting import until

pytestmark = pytest.mark.usefixtures("cluster")

IDS = ("get_job_id", "get_node_id", "get_worker_id", "get_task_id", "get_actor_id")


def ids_function() -> Callable[[], list[str | None]]:
    """Made here, so that it travels to workers by value."""
    names = IDS

    def ids() -> list[str | None]:
        context = get_runtime_context()
        return [getattr(context, name)() for name in names]

    return ids


ids = ids_function()


def test_a_driver_is_in_no_task_and_no_actor() -> None:
    context = get_runtime_context()
    job, node, worker, task, actor = ids()
    assert (task, actor) == (None, None)
    assert job == worker == rostral.init(ignore_reinit_error=True)["job_id"]
    assert node == rostral.nodes()[0]["NodeID"]
    assert context.get_task_name() is None
    assert context.get_task_function_name() is None
    assert context.get_actor_name() is None
    assert context.get_placement_group_id() is None
    assert context.get_assigned_resources() == {}
    assert context.get_accelerator_ids() == {"GPU": []}
    assert context.was_current_actor_reconstructed is False
    with pytest.raises(RuntimeError, match="outside of an actor"):
        _ = context.current_actor
    assert get_gpu_ids() == []


def test_facts_about_the_cluster(cluster: rostral.Context) -> None:
    context = get_runtime_context()
    assert context.namespace == cluster["namespace"]
    assert context.gcs_address == cluster["gcs_address"]
    assert cluster["session_dir"] == f"{context.get_temp_dir()}/{context.get_session_name()}"
    assert context.get_node_labels() == {}
    assert context.get_runtime_env_string() == "{}"


def test_a_task_knows_its_ids_and_its_names() -> None:
    ids = ids_function()

    @rostral.remote
    def tell() -> Any:
        context = get_runtime_context()
        return (
            ids(),
            context.get_task_name(),
            context.get_task_function_name(),
            context.get_actor_name(),
            context.gcs_address,
        )

    ref = tell.options(name="teller").remote()
    (job, node, worker, task, actor), name, function_name, actor_name, address = get(ref)
    assert [job, node] == ids()[:2]
    assert worker not in (None, job)
    assert task == ref.task_id().hex()
    assert (actor, actor_name) == (None, None)
    assert name == "teller"
    assert function_name == get(tell.remote())[1] == get(tell.remote())[2]
    assert function_name.endswith("<locals>.tell")
    assert address == get_runtime_context().gcs_address


def test_only_what_can_be_cancelled_can_ask_whether_it_was() -> None:
    @rostral.remote
    def ask() -> bool:
        return get_runtime_context().is_canceled()

    class Asynchronous:
        async def ask(self) -> bool:
            return get_runtime_context().is_canceled()

    assert get(ask.remote()) is False
    with pytest.raises(RuntimeError, match="only a task"):
        get_runtime_context().is_canceled()
    with pytest.raises(RuntimeError, match="CancelledError"):
        get(rostral.remote(Asynchronous).remote().ask.remote())


def test_a_thread_of_a_task_is_in_no_task() -> None:
    ids = ids_function()

    @rostral.remote
    def tell() -> Any:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(ids()))
        thread.start()
        thread.join()
        return found[0]

    assert get(tell.remote())[3:] == [None, None]


def teller_class() -> Any:
    ids = ids_function()

    class Teller:
        def ids(self) -> Any:
            return ids()

        def names(self) -> Any:
            context = get_runtime_context()
            return (
                context.get_actor_name(),
                context.get_task_name(),
                context.get_task_function_name(),
                context.was_current_actor_reconstructed,
            )

        def resources(self) -> Any:
            return get_runtime_context().get_assigned_resources()

        def myself(self) -> Any:
            return get_runtime_context().current_actor

    return rostral.remote(Teller)


def test_an_async_actor_knows_which_call_it_is_in() -> None:
    ids = ids_function()

    class Teller:
        async def ids(self) -> Any:
            return ids()

    teller: Any = rostral.remote(Teller).remote()
    refs = [teller.ids.remote() for _ in range(3)]
    assert [task for _, _, _, task, _ in get(refs)] == [ref.task_id().hex() for ref in refs]


def test_an_actor_knows_its_ids_and_its_names() -> None:
    teller = teller_class().options(name="teller").remote()
    ref = teller.ids.remote()
    job, node, worker, task, actor = get(ref)
    assert [job, node] == ids()[:2]
    assert task == ref.task_id().hex()
    assert actor == teller._actor_id.hex()
    assert worker is not None
    name = f"{teller_class()._name}.names"
    assert get(teller.names.remote()) == ("teller", name, name, False)
    assert get(teller_class().remote().names.remote())[0] == ""


def test_an_actor_has_a_handle_of_itself() -> None:
    teller = teller_class().remote()
    myself = get(teller.myself.remote())
    assert myself == teller
    assert get(myself.ids.remote())[4] == teller._actor_id.hex()


def test_an_actor_knows_that_it_was_restarted() -> None:
    teller = teller_class().options(max_restarts=1, max_task_retries=-1).remote()
    assert get(teller.names.remote())[3] is False
    rostral.kill(teller, no_restart=False)
    until(lambda: get(teller.names.remote())[3] is True, "the restart")


def test_tasks_and_actors_know_what_they_hold() -> None:
    @rostral.remote
    def tell() -> Any:
        return get_runtime_context().get_assigned_resources(), get_gpu_ids()

    assert get(tell.remote()) == ({"CPU": 1.0}, [])
    assert get(tell.options(num_cpus=0.5).remote())[0] == {"CPU": 0.5}
    assert get(teller_class().options(num_cpus=1).remote().resources.remote()) == {"CPU": 1.0}


def test_ids_as_attributes_warn() -> None:
    context = get_runtime_context()
    for name in ("job_id", "node_id", "worker_id", "task_id", "actor_id"):
        with pytest.warns(DeprecationWarning, match=f"get_{name}"):
            found = getattr(context, name)
        text = getattr(context, f"get_{name}")()
        assert found is text is None or found.hex() == text
    assert {str(key) for key in context.get()} == {"job_id", "node_id", "namespace"}


def test_init_in_a_worker_is_a_second_init() -> None:
    @rostral.remote
    def tell() -> Any:
        try:
            rostral.init()
        except RuntimeError as error:
            text = str(error)
        context = rostral.init(ignore_reinit_error=True)
        rostral.shutdown()
        return text, dict(context), rostral.is_initialized()

    text, facts, is_initialized = get(tell.remote())
    assert "second time" in text
    assert is_initialized
    own = rostral.init(ignore_reinit_error=True)
    assert facts == dict(own)
