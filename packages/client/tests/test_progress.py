"""Progress bars of tasks, actors and drivers: what their driver hears of them, and until when."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral import _context
from rostral.exceptions import TaskError, WorkerCrashedError
from rostral.experimental import tqdm_ray
from rostral.progress import BARS_MAX, BarState, ProgressReporter
from rostral.util import tqdm

from .actors import get
from .command_line import run_program
from .waiting import until


class Heard:
    """The messages about bars that reach the driver, and the last of each bar."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    def __call__(self, message: dict[str, Any]) -> None:
        self.all.append(message)

    def last(self) -> dict[str, dict[str, Any]]:
        """By the words before the bar."""
        return {one["desc"]: one for one in self.all if one["bar"] is not None}

    def until(self, desc: str, **fields: object) -> None:
        """Waits until a bar stands so."""

        def stands_so() -> bool:
            last = self.last().get(desc, {})
            return all(last.get(name) == value for name, value in fields.items())

        until(stands_so, f"a bar {desc!r} with {fields}")


@pytest.fixture
def heard(cluster: rostral.Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    """What this driver's terminal is told."""
    del cluster
    heard = Heard()
    runtime = _context.connected()
    on_push: Callable[..., Any] = runtime.scheduler._on_push  # type: ignore[attr-defined]
    terminal = on_push.__self__  # type: ignore[attr-defined]
    monkeypatch.setattr(terminal._bars, "show", heard)
    yield heard


# ---- in tasks and actors


def test_a_task_iterates_and_its_driver_sees_how_far_it_is(heard: Heard) -> None:
    @rostral.remote
    def work(count: int) -> int:
        return sum(tqdm(range(count), desc="loop"))

    assert get(work.options(name="nightly").remote(10)) == 45
    heard.until("loop", done=10.0, total=10.0, ended=True, name="nightly", unit="it")


def test_a_bar_is_moved_by_hand(heard: Heard, marks: Path) -> None:
    @rostral.remote
    def work() -> None:
        bar = tqdm(desc="by hand", total=100, unit="files")
        bar.update(30)
        bar.update(12)
        while not marks.read_text():
            time.sleep(0.002)
        bar.set_description("renamed")
        bar.total = 200
        bar.update(8)
        bar.close()

    ref = work.remote()
    heard.until("by hand", done=42.0, total=100.0, ended=False, unit="files")
    marks.write_text("done")
    get(ref)
    heard.until("renamed", done=50.0, total=200.0, ended=True)


def test_bars_of_several_tasks_and_nested_ones_stand_side_by_side(
    heard: Heard, marks: Path
) -> None:
    @rostral.remote
    def work(name: str) -> None:
        for _ in tqdm(range(2), desc=f"outer {name}"):
            for _ in tqdm(range(3), desc=f"inner {name}"):
                pass
            while not marks.read_text():
                time.sleep(0.002)

    refs = [work.remote(name) for name in "ab"]
    for name in "ab":
        heard.until(f"outer {name}", done=0.0, ended=False)
        heard.until(f"inner {name}", done=3.0, ended=True)
    marks.write_text("done")
    get(refs)
    for name in "ab":
        heard.until(f"outer {name}", done=2.0, ended=True)
    bars = {(one["pid"], one["bar"]) for one in heard.all}
    assert len(bars) == 2 * (1 + 2)


def test_a_bar_ends_with_its_task(heard: Heard) -> None:
    kept: list[Any] = []

    @rostral.remote
    def forget() -> None:
        bar = tqdm(total=10, desc="forgotten")
        kept.append(bar)
        bar.update(3)

    @rostral.remote
    def fail() -> None:
        for number in tqdm(range(10), desc="failing"):
            if number == 4:
                raise KeyError("zork")

    get(forget.remote())
    heard.until("forgotten", done=3.0, ended=True)
    with pytest.raises(TaskError):
        get(fail.remote())
    heard.until("failing", done=4.0, ended=True)


def test_a_bar_ends_with_its_process(heard: Heard) -> None:
    @rostral.remote(max_retries=0)
    def die() -> None:
        bar = tqdm(total=10, desc="dying")
        bar.update(3)
        bar.refresh()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerCrashedError):
        get(die.remote())
    heard.until("dying", done=3.0, ended=False)
    pid = heard.last()["dying"]["pid"]
    until(lambda: {"bar": None, "pid": pid} in heard.all, "the end of the process")


def test_an_actor_keeps_a_bar_from_call_to_call(heard: Heard) -> None:
    class Worker:
        def __init__(self) -> None:
            self.bar = tqdm(total=3, desc="calls")

        def step(self) -> None:
            self.bar.update()

    worker = rostral.remote(Worker).remote()
    for done in range(1, 4):
        get(worker.step.remote())
        heard.until("calls", done=float(done), ended=False)
    pid = heard.last()["calls"]["pid"]
    rostral.kill(worker)
    until(lambda: {"bar": None, "pid": pid} in heard.all, "the end of the actor")


def test_a_driver_has_bars_too(heard: Heard) -> None:
    with tqdm(total=2, desc="own") as bar:
        bar.update(2)
    assert heard.last()["own"] == {
        "bar": heard.last()["own"]["bar"],
        "pid": os.getpid(),
        "name": "",
        "desc": "own",
        "unit": "it",
        "total": 2,
        "done": 2,
        "ended": True,
    }


def test_rays_names_are_ours() -> None:
    assert tqdm_ray.tqdm is tqdm
    assert tqdm_ray.safe_print is print


# ---- the bar itself


def test_a_bar_knows_how_far_it_is() -> None:
    bar = tqdm([1, 2, 3])
    assert (bar.n, bar.total) == (0, 3)
    assert list(bar) == [1, 2, 3]
    assert bar.n == 3
    assert tqdm(iter([1])).total is None
    assert tqdm(iter([1]), total=1, position=0, flush_interval_s=1).total == 1


def test_what_a_bar_refuses() -> None:
    with pytest.raises(ValueError, match="total is -1"):
        tqdm(total=-1)
    with pytest.raises(TypeError, match="without anything to iterate over"):
        iter(tqdm(total=1)).__next__()
    with pytest.raises(TypeError):
        pickle.dumps(tqdm([1]))


# ---- who tells of it


def state(number: int = 1) -> BarState:
    return BarState(number, "", "bar", "it", 10, None)


def test_only_what_has_changed_is_told() -> None:
    told: list[dict[str, Any]] = []
    reporter = ProgressReporter(told.append)
    bar = state()
    reporter.add(bar)
    for done in (1, 1, 2, 2):
        bar.done = done
        reporter.tell(bar)
    assert [one["done"] for one in told] == [1, 2]
    bar.is_ended = True
    reporter.tell(bar)
    bar.done = 3
    reporter.tell(bar)
    assert [one["ended"] for one in told] == [False, False, True]


def test_fast_loops_are_told_of_ten_times_a_second() -> None:
    told: list[dict[str, Any]] = []
    reporter = ProgressReporter(told.append)
    bar = state()
    reporter.add(bar)
    began_s = time.monotonic()
    while time.monotonic() < began_s + 0.5:
        bar.done += 1
    reporter.stop()
    assert 1 <= len(told) <= 7
    assert told[-1]["done"] == bar.done
    assert told[-1]["ended"]


def test_a_bar_that_nobody_refers_to_ends(heard: Heard) -> None:
    bar = tqdm(total=3, desc="dropped")
    bar.update()
    del bar
    gc.collect()
    heard.until("dropped", done=1, ended=True)


def test_no_more_bars_are_told_of_than_anybody_can_read() -> None:
    told: list[dict[str, Any]] = []
    reporter = ProgressReporter(told.append)
    for number in range(BARS_MAX + 10):
        reporter.add(state(number))
    reporter.stop()
    assert len(told) == BARS_MAX


# ---- the whole way

PROGRAM = """
import rostral
from rostral.util import tqdm
rostral.init(num_cpus=1, object_store_memory=64 << 20{options})

@rostral.remote
def work():
    for _ in tqdm(range(7), desc="steps"):
        pass
    print("worked")

rostral.get(work.remote())
rostral.shutdown()
import sys
"""


@pytest.mark.slow
@pytest.mark.parametrize(("options", "shown"), [("", 1), (", log_to_driver=False", 0)])
def test_without_a_terminal_a_line_is_printed_unless_logs_are_off(
    leaves_nothing: str, options: str, shown: int
) -> None:
    del leaves_nothing
    # stderr becomes what is checked: run_program returns stdout.
    program = "import sys; sys.stderr = sys.stdout\n" + PROGRAM.format(options=options)
    lines = run_program(program).splitlines()
    assert len([line for line in lines if "steps: 7/7 it (100%)" in line]) == shown
    assert len([line for line in lines if line.endswith("worked")]) == shown
