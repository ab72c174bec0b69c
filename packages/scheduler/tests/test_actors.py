"""Actors with real processes: made, called, restarted, found by name, ended."""

from __future__ import annotations

import os
import pickle
import signal

import pytest

from rostral_scheduler.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorNotFoundError,
    LimitReachedError,
    UnschedulableError,
)

from .node import Actor, Driver, Node, eventually, is_alive


def killed(actor: Actor) -> int:
    """Kills the actor's process; returns its pid."""
    pid = actor.pid()
    os.kill(pid, signal.SIGKILL)
    return pid


def test_actor_keeps_its_state(driver: Driver) -> None:
    actor = driver.create_actor("Counter", 5)
    assert [actor.call("add", 1) for _ in range(3)] == [6, 7, 8]
    assert actor.state() == "ALIVE"


def test_calls_made_before_it_runs_are_answered_in_order(driver: Driver) -> None:
    actor = driver.create_actor()
    handles = [actor.submit("add", 1) for _ in range(50)]
    assert [driver.get(handle) for handle in handles] == list(range(1, 51))


def test_actors_wait_for_resources_they_hold_for_life(driver: Driver) -> None:
    """1. Two actors hold both CPUs. 2. The third waits. 3. One ends and the third starts."""
    first, _second, third = [driver.create_actor(resources={"CPU": 1.0}) for _ in range(3)]
    assert first.call("add", 1) == 1
    handle = third.submit("add", 1)
    assert third.state() == "PENDING"
    driver.scheduler.call("kill_actor", {"actor_id": first.actor_id, "no_restart": True})
    assert driver.get(handle) == 1


def test_infeasible_actor_is_refused_at_once(driver: Driver) -> None:
    with pytest.raises(UnschedulableError, match="9 CPU"):
        driver.create_actor(resources={"CPU": 9.0})


def test_too_large_mailbox_is_refused(driver: Driver) -> None:
    with pytest.raises(LimitReachedError, match="mailbox_capacity_max"):
        driver.create_actor(mailbox_capacity=1 << 30)


def test_name_finds_the_actor_and_is_unique(driver: Driver) -> None:
    actor = driver.create_actor(name="tally", namespace="space")
    found = driver.scheduler.call("get_actor", {"name": "tally", "namespace": "space"})
    assert (found["actor_id"], found["mailbox"]) == (actor.actor_id, actor.mailbox)
    assert found["meta"] == b"meta"
    with pytest.raises(ActorAlreadyExistsError, match="'tally'"):
        driver.create_actor(name="tally", namespace="space")
    with pytest.raises(ActorNotFoundError, match="'tally'"):
        driver.scheduler.call("get_actor", {"name": "tally", "namespace": "elsewhere"})
    driver.scheduler.call("kill_actor", {"actor_id": actor.actor_id, "no_restart": True})
    driver.create_actor(name="tally", namespace="space")


def test_failed_constructor_is_what_callers_get(driver: Driver) -> None:
    actor = driver.create_actor("Unbuildable")
    with pytest.raises(ValueError, match="no such thing"):
        actor.call("add", 1)
    assert actor.state() == "DEAD"
    assert isinstance(pickle.loads(actor.info()["death"]), ValueError)


def test_killed_process_without_restarts_is_the_end(driver: Driver) -> None:
    """Calls that it had begun and calls that wait fail alike, with what happened."""
    actor = driver.create_actor()
    pid = actor.pid()
    handles = [
        driver.call(actor.mailbox, "note_then", os.devnull, "die"),
        *[actor.submit("add", 1) for _ in range(5)],
    ]
    for handle in handles:
        with pytest.raises(ActorDiedError) as caught:
            driver.get(handle)
        assert caught.value.actor_id == actor.actor_id
        for part in ("Counter", actor.actor_id.hex(), f"process {pid}", "SIGKILL"):
            assert part in str(caught.value)
    assert actor.state() == "DEAD"


def test_restarted_actor_begins_anew_and_keeps_its_queue(driver: Driver) -> None:
    """1. A call dies with the process. 2. It runs again in the next. 3. So do those behind it."""
    actor = driver.create_actor("Counter", 10, max_restarts=1)
    assert actor.call("add", 1) == 11
    marks = driver.node.folder / "marks"
    dying = driver.call(actor.mailbox, "note_then", str(marks), "die once", retries=1)
    later = [actor.submit("add", 1) for _ in range(3)]
    assert driver.get(dying) == 2
    assert [driver.get(handle) for handle in later] == [11, 12, 13]
    assert actor.info()["restarts"] == 1


def test_actor_dies_for_good_when_its_restarts_are_spent(driver: Driver) -> None:
    actor = driver.create_actor(max_restarts=2)
    seen = {killed(actor) for _ in range(3)}
    assert len(seen) == 3
    eventually(lambda: actor.state() == "DEAD", "the end of the actor")
    with pytest.raises(ActorDiedError, match="restarted 2 of 2 times"):
        raise pickle.loads(actor.info()["death"])


def test_process_that_dies_in_the_constructor_spends_the_restarts(driver: Driver) -> None:
    actor = driver.create_actor("Doomed", max_restarts=2)
    with pytest.raises(ActorDiedError, match=r"SIGKILL.*restarted 2 of 2 times") as caught:
        actor.call("add", 1)
    assert caught.value.actor_init_failed


def test_kill_that_allows_a_restart_restarts(driver: Driver) -> None:
    actor = driver.create_actor(max_restarts=1)
    pid = actor.pid()
    driver.scheduler.call("kill_actor", {"actor_id": actor.actor_id, "no_restart": False})
    assert actor.pid() != pid


def test_kill_is_final_whatever_restarts_are_left(driver: Driver) -> None:
    actor = driver.create_actor(max_restarts=-1)
    pid = actor.pid()
    driver.scheduler.call("kill_actor", {"actor_id": actor.actor_id, "no_restart": True})
    eventually(lambda: not is_alive(pid), "the death")
    assert actor.state() == "DEAD"
    with pytest.raises(ActorDiedError, match=r"killed by rostral\.kill"):
        raise pickle.loads(actor.info()["death"])


def test_actor_that_asks_to_end_ends(driver: Driver) -> None:
    actor = driver.create_actor(max_restarts=-1)
    pid = actor.pid()
    driver.call(actor.mailbox, "exit_actor")
    eventually(lambda: not is_alive(pid), "the end")
    assert actor.state() == "DEAD"


def test_actor_that_nobody_refers_to_ends_after_its_last_call(driver: Driver) -> None:
    actor = driver.create_actor()
    pid = actor.pid()
    handles = [actor.submit("add", 1) for _ in range(20)]
    actor.creation = None
    assert [driver.get(handle) for handle in handles] == list(range(1, 21))
    eventually(lambda: not is_alive(pid), "the end")
    eventually(lambda: not driver.scheduler.call("list_actors", {})["actors"], "its forgetting")


def test_detached_actor_outlives_its_job(node: Node) -> None:
    """1. A driver makes it and goes. 2. Another finds it by name. 3. A kill ends it, wholly."""
    maker = Driver(node)
    made = maker.create_actor(detached=True, name="keeper")
    assert made.call("add", 1) == 1
    pid = made.pid()
    maker.unregister()
    finder = Driver(node)
    found = finder.scheduler.call("get_actor", {"name": "keeper", "namespace": ""})
    assert finder.get(finder.call(found["mailbox"], "call", "add", 1)) == 2
    info = finder.scheduler.call("job_info", {"job_id": found["job_id"]})
    assert info["entrypoint"] == "test"
    finder.scheduler.call("kill_actor", {"actor_id": found["actor_id"], "no_restart": True})
    eventually(lambda: not is_alive(pid), "the death")
    finder.unregister()
    node.expect_nothing_left()


def test_other_job_s_call_to_an_actor_that_ends_with_its_job_fails(node: Node) -> None:
    owner, caller = Driver(node), Driver(node)
    actor = owner.create_actor(name="mine")
    mailbox = caller.scheduler.call("get_actor", {"name": "mine", "namespace": ""})["mailbox"]
    assert actor.call("add", 1) == 1
    handle = caller.call(mailbox, "note_then", str(node.folder / "marks"), "hang")
    owner.unregister()
    with pytest.raises(ActorDiedError, match="job that made it has ended"):
        caller.get(handle)
    caller.unregister()
    node.expect_nothing_left()
