"""Checkpoints of actors: kill -9 anywhere, and the state is that of every call done once."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rostral
from rostral.exceptions import ActorUnavailableError, TaskCancelledError

from .actors import counter_class, get
from .waiting import object_ids, until

pytestmark = pytest.mark.usefixtures("cluster")


def ledger_class(marks: Path, **options: Any) -> Any:
    """Notes each call in its state, and each run of one in the file."""
    defaults: dict[str, Any] = {
        "checkpoint_interval": 10,
        "max_restarts": -1,
        "max_task_retries": -1,
    }

    @rostral.remote(**{**defaults, **options})
    class Ledger:
        def __init__(self, first: Any = "first") -> None:
            self.notes = [first]
            self.restored = 0

        def __checkpoint__(self) -> Any:
            with marks.open("a") as file:
                file.write("C")
            return self.notes

        def __restore__(self, notes: Any) -> None:
            self.notes = list(notes)
            self.restored += 1

        def note(self, value: Any) -> int:
            with marks.open("a") as file:
                file.write("x")
            self.notes.append(value)
            return len(self.notes)

        def die(self, value: Any) -> int:
            """Dies in its first run, after its effect on a state that is lost then."""
            self.notes.append(value)
            with marks.open("a") as file:
                file.write("d")
            if marks.read_text().count("d") == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return len(self.notes)

        def fail(self, value: Any) -> None:
            self.notes.append(value)
            raise KeyError(value)

        def read(self) -> Any:
            return self.notes, self.restored

        def pid(self) -> int:
            return os.getpid()

    return Ledger


def kill_process(actor: Any) -> None:
    os.kill(get(actor.pid.remote()), signal.SIGKILL)


def test_state_is_that_of_the_checkpoint_and_the_calls_since(marks: Path) -> None:
    """Of 25 calls, 20 are in the second checkpoint; the last five and what asks are replayed."""
    ledger = ledger_class(marks).remote()
    refs = [ledger.note.remote(n) for n in range(25)]
    assert get(refs) == list(range(2, 27))
    kill_process(ledger)
    assert get(ledger.read.remote()) == (["first", *range(25)], 1)
    runs = marks.read_text()
    assert runs.count("x") - 25 == 5
    assert get(refs) == list(range(2, 27))


def test_without_a_checkpoint_yet_all_calls_are_replayed(marks: Path) -> None:
    ledger = ledger_class(marks, checkpoint_interval=1000).remote("begun")
    get([ledger.note.remote(n) for n in range(30)])
    kill_process(ledger)
    assert get(ledger.read.remote()) == (["begun", *range(30)], 0)
    assert marks.read_text() == "x" * 60


def test_the_running_call_has_its_effect_once(marks: Path) -> None:
    ledger = ledger_class(marks).remote()
    get([ledger.note.remote(n) for n in range(3)])
    dying = ledger.die.remote("dying")
    later = ledger.note.remote("later")
    assert (get(dying), get(later)) == (5, 6)
    assert get(ledger.read.remote())[0] == ["first", 0, 1, 2, "dying", "later"]


def test_a_running_call_that_may_not_be_retried_has_no_effect(marks: Path) -> None:
    ledger = ledger_class(marks, max_task_retries=0).remote()
    get([ledger.note.remote(n) for n in range(3)])
    with pytest.raises(ActorUnavailableError, match="no effect"):
        get(ledger.die.remote("dying"))
    read = ledger.read.options(max_task_retries=1)
    assert get(read.remote())[0] == ["first", 0, 1, 2]


def test_calls_that_raise_are_replayed_too(marks: Path) -> None:
    ledger = ledger_class(marks).remote()
    for n in range(3):
        with pytest.raises(KeyError):
            get(ledger.fail.remote(n))
    kill_process(ledger)
    assert get(ledger.read.remote())[0] == ["first", 0, 1, 2]


def test_calls_without_results_are_replayed_too(marks: Path) -> None:
    ledger = ledger_class(marks).remote()
    for n in range(5):
        ledger.note.options(num_returns=0).remote(n)
    kill_process(ledger)
    assert get(ledger.read.remote())[0] == ["first", *range(5)]


def test_replay_touches_no_object_that_took_the_place_of_a_dropped_result(marks: Path) -> None:
    ledger = ledger_class(marks, checkpoint_interval=1000).remote()
    for n in range(200):
        get(ledger.note.remote(n))
    values = [rostral.put(n) for n in range(400)]
    kill_process(ledger)
    assert get(ledger.read.remote())[0] == ["first", *range(200)]
    assert get(values) == list(range(400))


def test_arguments_stay_until_a_checkpoint_covers_their_call(marks: Path) -> None:
    ledger = ledger_class(marks, checkpoint_interval=3).remote()
    get(ledger.note.remote(0))
    before = object_ids()
    array = rostral.put(np.arange(100_000))
    assert get(ledger.__ray_call__.remote(lambda self, a: int(a.sum()), array)) > 0
    mine = bytes(array.binary())
    del array
    kill_process(ledger)  # Asking for the pid was the third call: its checkpoint has come.
    get(ledger.note.remote(1))
    until(lambda: mine not in object_ids(), "the end of the argument")
    assert before


@pytest.mark.parametrize("seed", range(3))
def test_random_kills_lose_no_effect_and_double_none(marks: Path, seed: int) -> None:
    choice = random.Random(seed)
    ledger = ledger_class(marks, checkpoint_interval=7).remote()
    refs = []
    for n in range(150):
        refs.append(ledger.note.remote(n))
        if choice.random() < 0.05:
            kill_process(ledger)
    assert get(refs) == list(range(2, 152))
    assert get(ledger.read.remote())[0] == ["first", *range(150)]


def test_an_interval_may_be_a_time(marks: Path) -> None:
    ledger = ledger_class(marks, checkpoint_interval=dt.timedelta(microseconds=1)).remote()
    get([ledger.note.remote(n) for n in range(4)])
    kill_process(ledger)
    notes, restored = get(ledger.read.remote())
    assert (notes, restored) == (["first", *range(4)], 1)
    assert marks.read_text().count("x") == 4


def test_a_checkpoint_may_hold_references_and_handles(marks: Path) -> None:
    """What only the checkpoint refers to lives, while the actor's process does not."""
    ledger = ledger_class(marks, checkpoint_interval=1).remote()
    counter = counter_class().remote(7)
    get(ledger.note.remote([rostral.put("kept"), counter]))
    del counter
    kill_process(ledger)
    (_, [ref, again]), restored = get(ledger.read.remote())
    assert restored == 1
    assert (get(ref), get(again.add.remote())) == ("kept", 8)


def test_an_actor_that_dies_while_it_saves_goes_on_from_before(marks: Path) -> None:
    class Doomed:
        def __init__(self) -> None:
            self.count = 0

        def __checkpoint__(self) -> int:
            with marks.open("a") as file:
                file.write("C")
            if marks.read_text() == "CC":
                os.kill(os.getpid(), signal.SIGKILL)
            return self.count

        def __restore__(self, count: int) -> None:
            self.count = count

        def add(self) -> int:
            self.count += 1
            return self.count

    remote: Any = rostral.remote(checkpoint_interval=2, max_restarts=-1, max_task_retries=-1)
    doomed = remote(Doomed).remote()
    assert [get(doomed.add.remote()) for _ in range(9)] == list(range(1, 10))


def test_a_checkpoint_that_fails_leaves_the_one_before(marks: Path) -> None:
    class Stubborn:
        def __init__(self) -> None:
            self.count = 0

        def __checkpoint__(self) -> int:
            if self.count > 2:
                raise OSError("no")
            return self.count

        def __restore__(self, count: int) -> None:
            self.count = count

        def add(self) -> int:
            self.count += 1
            with marks.open("a") as file:
                file.write("x")
            return self.count

        def pid(self) -> int:
            return os.getpid()

    remote: Any = rostral.remote(checkpoint_interval=2, max_restarts=-1, max_task_retries=-1)
    stubborn = remote(Stubborn).remote()
    assert [get(stubborn.add.remote()) for _ in range(6)] == list(range(1, 7))
    kill_process(stubborn)
    assert get(stubborn.add.remote()) == 7
    assert marks.read_text() == "x" * (6 + 4 + 1)


def test_an_actor_with_checkpoints_ends_with_its_last_handle(marks: Path) -> None:
    ledger = ledger_class(marks, checkpoint_interval=1000).remote()
    get([ledger.note.remote(n) for n in range(5)])
    pid = get(ledger.pid.remote())
    del ledger
    until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the actor")


class Hookless:
    """Has nothing to save it with."""


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"checkpoint_interval": 0}, ValueError, "at least 1"),
        ({"checkpoint_interval": True}, TypeError, "number of calls"),
        ({"checkpoint_interval": 1.5}, TypeError, "timedelta"),
        ({"checkpoint_interval": dt.timedelta()}, ValueError, "above 0"),
        ({"checkpoint_interval": 5, "max_concurrency": 2}, ValueError, "one after the other"),
        ({"checkpoint_interval": 5}, TypeError, "__checkpoint__ and no __restore__"),
    ],
)
def test_a_wrong_interval_is_refused_where_it_is_given(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        rostral.remote(**options)(Hookless)


def test_a_class_with_coroutines_can_have_no_checkpoints() -> None:
    class Async:
        def __checkpoint__(self) -> int:
            return 1

        def __restore__(self, value: int) -> None: ...

        async def work(self) -> None: ...

    with pytest.raises(ValueError, match="work is a coroutine"):
        rostral.remote(checkpoint_interval=5)(Async)


class Yielding:
    def __checkpoint__(self) -> int:
        return 1

    def __restore__(self, value: int) -> None: ...

    def numbers(self) -> Any:
        yield 1


@pytest.mark.parametrize("form", ["streaming", "dynamic"])
def test_calls_that_yield_are_refused_for_an_actor_with_checkpoints(form: str) -> None:
    with pytest.raises(ValueError, match=r"Yielding\.numbers has num_returns='streaming'"):
        rostral.remote(checkpoint_interval=5)(Yielding)

    class Plain:
        def __checkpoint__(self) -> int:
            return 1

        def __restore__(self, value: int) -> None: ...

        def numbers(self) -> list[int]:
            return [1]

    actor: Any = rostral.remote(checkpoint_interval=5)(Plain).remote()
    with (
        pytest.raises(ValueError, match=f"num_returns='{form}'"),
        contextlib.nullcontext() if form == "streaming" else pytest.deprecated_call(),
    ):
        actor.numbers.options(num_returns=form)
    assert get(actor.numbers.remote()) == [1]


def test_a_retried_error_is_replayed_as_it_ended(marks: Path) -> None:
    class Stumbling:
        def __init__(self) -> None:
            self.notes: list[str] = []

        def __checkpoint__(self) -> list[str]:
            return self.notes

        def __restore__(self, notes: list[str]) -> None:
            self.notes = notes

        def note(self, value: str) -> list[str]:
            self.notes.append(value)
            with marks.open("a") as file:
                file.write("x")
            # The first run, and the one after the restart, raise.
            if value == "b" and marks.read_text().count("x") in (2, 5):
                raise ValueError(value)
            return self.notes

        def pid(self) -> int:
            return os.getpid()

    kept = rostral.remote(checkpoint_interval=100, max_restarts=-1, max_task_retries=-1)
    actor: Any = kept(Stumbling).remote()
    assert get(actor.note.remote("a")) == ["a"]
    note = actor.note.options(retry_exceptions=True)
    assert get(note.remote("b")) == ["a", "b", "b"]
    os.kill(get(actor.pid.remote()), signal.SIGKILL)
    assert get(actor.note.remote("c")) == ["a", "b", "c"]


def test_cancelling_a_call_that_is_kept_for_replay_changes_nothing(marks: Path) -> None:
    """Neither by its result, nor as a child of a task that is cancelled."""
    ledger = ledger_class(marks, checkpoint_interval=100).remote()

    @rostral.remote
    def parent(actor: Any) -> None:
        rostral.get(actor.note.remote("child"))
        with (marks.parent / "noted").open("w"):
            pass
        threading.Event().wait()

    running = parent.remote(ledger)
    until((marks.parent / "noted").exists, "note")
    own = ledger.note.remote("own")
    assert get(own) == 3
    rostral.cancel(own)
    rostral.cancel(running, recursive=True)
    with pytest.raises(TaskCancelledError):
        get(running)
    os.kill(get(ledger.pid.remote()), signal.SIGKILL)
    assert get(ledger.note.remote("later")) == 4


def test_what_an_actor_with_checkpoints_submits_keeps_its_deadline() -> None:
    @rostral.remote(num_cpus=0)
    def endless() -> None:
        threading.Event().wait()

    class Impatient:
        def __checkpoint__(self) -> int:
            return 1

        def __restore__(self, value: int) -> None: ...

        def wait(self) -> str:
            try:
                rostral.get(endless.options(deadline_s=0.2).remote())
            except TaskCancelledError as error:
                return str(error)
            return ""

    actor: Any = rostral.remote(checkpoint_interval=5)(Impatient).remote()
    assert "deadline" in get(actor.wait.remote())
