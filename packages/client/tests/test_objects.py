"""Objects: put, get and wait to the letter, views of shared memory, and memory given back."""

from __future__ import annotations

import asyncio
import gc
import pickle
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rostral
from rostral import _context
from rostral.exceptions import GetTimeoutError, ObjectStoreFullError, TaskError

from .conftest import STORE_BYTES
from .waiting import memory_bytes, object_bytes, object_ids, until

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def gives_all_back() -> Iterator[None]:
    """After the test, the store holds no object that it did not hold before."""
    gc.collect()
    before = object_ids()
    yield
    gc.collect()
    until(lambda: not object_ids() - before, "the end of the test's objects")


def release_function(marks: Path) -> Any:
    """A task that is done once the test writes into the file."""

    @rostral.remote
    def until_marked(value: Any = None) -> Any:
        deadline = time.monotonic() + 30
        while not marks.read_text() and time.monotonic() < deadline:
            time.sleep(0.002)
        return value

    return until_marked


# ---- put and get


def test_what_is_put_is_got() -> None:
    for value in (None, 5, "text", b"bytes", {"a": [1, 2]}, {1, 2}, range(3)):
        assert rostral.get(rostral.put(value)) == value


def test_get_keeps_the_order_and_takes_duplicates() -> None:
    one, two = rostral.put(1), rostral.put(2)
    assert rostral.get([two, one, two]) == [2, 1, 2]
    assert rostral.get([]) == []


def test_put_of_a_reference_is_refused() -> None:
    with pytest.raises(TypeError, match="put it in a list"):
        rostral.put(rostral.put(1))


@pytest.mark.parametrize("what", [5, "text", None, {}, object()])
def test_get_of_what_is_no_reference_is_a_type_error(what: Any) -> None:
    get: Any = rostral.get
    with pytest.raises(TypeError, match=type(what).__name__):
        get(what)
    with pytest.raises(TypeError, match=f"item 1 is {type(what).__name__}"):
        get([rostral.put(1), what])


def test_get_of_a_tuple_is_a_value_error() -> None:
    get: Any = rostral.get
    with pytest.raises(ValueError, match="tuple"):
        get((rostral.put(1),))


@pytest.mark.parametrize("timeout", [-2, float("nan"), -0.5])
def test_a_wrong_timeout_of_get_is_a_value_error(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        rostral.get(rostral.put(1), timeout=timeout)


@pytest.mark.parametrize("timeout", ["1", True, [1]])
def test_a_timeout_that_is_no_number_is_a_type_error(timeout: Any) -> None:
    with pytest.raises(TypeError, match="timeout"):
        rostral.get(rostral.put(1), timeout=timeout)


@pytest.mark.parametrize("timeout", [None, -1, 0, 0.5, 10, 1e300, float("inf")])
def test_any_timeout_will_do_for_what_is_there(timeout: float | None) -> None:
    assert rostral.get(rostral.put(1), timeout=timeout) == 1


def test_get_is_late_with_a_typed_error_that_counts(marks: Path) -> None:
    ref = release_function(marks).remote()
    for timeout in (0, 0.05):
        with pytest.raises(GetTimeoutError, match="2 of 3 objects were not ready") as caught:
            rostral.get([rostral.put(1), ref, ref], timeout=timeout)
    assert isinstance(caught.value, TimeoutError)
    assert ref.hex() in str(caught.value)
    marks.write_text("done")
    assert rostral.get(ref, timeout=20) is None


# ---- wait


def test_wait_returns_what_is_ready_in_the_order_given(marks: Path) -> None:
    slow = release_function(marks).remote()
    done = [rostral.put(n) for n in range(3)]
    refs = [done[0], slow, done[1], done[2]]
    assert rostral.wait(refs, num_returns=3) == (done, [slow])
    assert rostral.wait(refs, num_returns=4, timeout=0.01) == (done, [slow])
    marks.write_text("done")
    assert rostral.wait(refs, num_returns=4) == (refs, [])


def test_wait_returns_no_more_than_asked_for() -> None:
    refs = [rostral.put(n) for n in range(5)]
    assert rostral.wait(refs, num_returns=2) == (refs[:2], refs[2:])
    assert rostral.wait(refs) == (refs[:1], refs[1:])
    assert rostral.wait(refs, fetch_local=False) == (refs[:1], refs[1:])


def test_wait_of_nothing_is_nothing() -> None:
    assert rostral.wait([]) == ([], [])


def test_a_failed_task_counts_as_ready() -> None:
    @rostral.remote
    def fail() -> None:
        raise KeyError

    ref = fail.remote()
    assert rostral.wait([ref], timeout=20) == ([ref], [])


def test_wait_with_timeout_0_polls(marks: Path) -> None:
    ref = release_function(marks).remote()
    began = time.monotonic()
    assert rostral.wait([ref], timeout=0) == ([], [ref])
    assert time.monotonic() - began < 1
    marks.write_text("done")
    rostral.get(ref)


def test_what_wait_refuses() -> None:
    wait: Any = rostral.wait
    ref, other = rostral.put(1), rostral.put(2)
    for wrong in (ref, (ref,), {ref}, 5, None):
        with pytest.raises(TypeError, match="list of references"):
            wait(wrong)
    with pytest.raises(TypeError, match="item 1 is int"):
        wait([ref, 5])
    with pytest.raises(ValueError, match="twice"):
        wait([ref, other, ref])
    for count in (0, -1, 3):
        with pytest.raises(ValueError, match="num_returns"):
            wait([ref, other], num_returns=count)
    for wrong_count in (1.0, "1", True):
        with pytest.raises(TypeError, match="num_returns"):
            wait([ref], num_returns=wrong_count)
    for timeout in (-1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            wait([ref], timeout=timeout)
    with pytest.raises(TypeError, match="timeout"):
        wait([ref], timeout="1")


def test_wait_takes_the_fast_ones_first() -> None:
    """The idiom of the paper's Figure 2: work on whatever is done."""

    @rostral.remote
    def square(n: int) -> int:
        return n * n

    pending = [square.remote(n) for n in range(50)]
    squares = []
    while pending:
        ready, pending = rostral.wait(pending, num_returns=min(7, len(pending)))
        squares += rostral.get(ready)
    assert sorted(squares) == [n * n for n in range(50)]


# ---- references


def test_references_are_equal_and_hashable_by_id() -> None:
    ref = rostral.put(1)
    [again] = rostral.get(rostral.put([ref]))
    assert again == ref
    assert again is not ref
    assert {ref: 1}[again] == 1
    assert ref != rostral.put(1)
    assert ref.hex() in repr(ref)
    assert len(ref.binary()) == 20


def test_a_reference_names_the_task_that_makes_it() -> None:
    @rostral.remote(num_returns=2)
    def pair() -> Any:
        return 1, 2

    left, right = pair.remote()
    assert left.task_id() == right.task_id()
    assert left != right


# ---- views of shared memory


def test_an_array_is_a_read_only_view_of_shared_memory() -> None:
    ref = rostral.put(np.arange(100_000))
    first, second = rostral.get([ref, ref])
    assert not first.flags.owndata
    assert first.ctypes.data == second.ctypes.data
    assert first.ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        first.flags.writeable = True


def test_a_view_keeps_the_object_after_its_last_reference() -> None:
    view = rostral.get(rostral.put(np.arange(1_000_000)))[10:]
    rostral.get([rostral.put(np.zeros(1_000_000)) for _ in range(5)])
    assert view[0] == 10
    assert view.sum() == 499999500000 - 45


# ---- memory given back


def test_objects_go_with_their_last_reference(gives_all_back: None) -> None:
    del gives_all_back
    refs = [rostral.put(np.zeros(10_000)) for _ in range(50)]
    assert object_bytes() >= 50 * 80_000
    del refs
    until(lambda: object_bytes() < 80_000, "the end of the objects")


def test_a_store_is_filled_many_times_over_without_growing() -> None:
    rostral.get([rostral.put(np.zeros(1_000_000)) for _ in range(20)])
    before = memory_bytes()
    for _ in range(10):
        rostral.get([rostral.put(np.zeros(1_000_000)) for _ in range(20)])
    until(lambda: memory_bytes() <= before + (16 << 20), "the return to the baseline")


def test_results_and_arguments_of_tasks_go(gives_all_back: None) -> None:
    del gives_all_back

    @rostral.remote
    def pass_on(*values: Any) -> Any:
        return values

    big = np.zeros(100_000)
    for _ in range(20):
        rostral.get(pass_on.remote(rostral.put(big), big, [rostral.put(big)]))


def test_a_reference_inside_a_value_keeps_the_inner_object(gives_all_back: None) -> None:
    del gives_all_back
    outer = rostral.put([rostral.put(np.arange(100_000))])
    gc.collect()
    inner = rostral.get(outer)[0]
    del outer
    assert rostral.get(inner)[-1] == 99_999
    nested = rostral.put({"deep": [rostral.put([inner])]})
    del inner
    assert rostral.get(rostral.get(rostral.get(nested)["deep"][0])[0])[1] == 1


def test_a_reference_returned_by_a_task_keeps_the_object(gives_all_back: None) -> None:
    del gives_all_back

    @rostral.remote
    def make() -> Any:
        return [rostral.put(np.arange(100_000))]

    [inner] = rostral.get(make.remote())
    rostral.get([placeholder_function().remote() for _ in range(10)])
    assert rostral.get(inner)[-1] == 99_999


def placeholder_function() -> Any:
    @rostral.remote
    def nothing() -> None: ...

    return nothing


def test_a_task_under_way_keeps_its_inputs(marks: Path, gives_all_back: None) -> None:
    del gives_all_back
    late = release_function(marks).remote(np.arange(100_000))
    gc.collect()
    marks.write_text("done")
    assert rostral.get(late, timeout=20)[-1] == 99_999


def test_a_result_that_nobody_waits_for_goes_too(gives_all_back: None) -> None:
    del gives_all_back

    @rostral.remote
    def make() -> Any:
        return np.zeros(100_000)

    for _ in range(20):
        make.remote()


def test_an_error_that_holds_a_reference_keeps_the_object(gives_all_back: None) -> None:
    del gives_all_back

    @rostral.remote
    def fail() -> None:
        raise KeyError(rostral.put(np.arange(100_000)))

    @rostral.remote
    def pass_on(value: Any) -> Any:
        return value

    for ref in (fail.remote(), pass_on.remote(fail.remote())):
        try:
            rostral.get(ref)
        except KeyError as error:
            assert isinstance(error, TaskError)
            assert error.cause is not None
            assert rostral.get(error.cause.args[0])[-1] == 99_999
        del ref


def test_a_pickle_made_by_hand_pins_the_object() -> None:
    pickled = pickle.dumps(rostral.put("kept"))
    gc.collect()
    rostral.get([rostral.put(n) for n in range(100)])
    assert rostral.get(pickle.loads(pickled)) == "kept"


# ---- a full store


def test_an_object_larger_than_the_store_is_refused(gives_all_back: None) -> None:
    del gives_all_back
    with pytest.raises(ObjectStoreFullError, match=f"whole store has {STORE_BYTES} bytes"):
        rostral.put(np.zeros(STORE_BYTES, dtype=np.uint8))
    assert rostral.get(rostral.put(1)) == 1


def array_of(number: int) -> Any:
    return np.random.default_rng(number).integers(0, 255, STORE_BYTES // 16, dtype=np.uint8)


def test_three_times_the_memory_is_put_and_got_back(gives_all_back: None) -> None:
    del gives_all_back
    refs = [rostral.put(array_of(number)) for number in range(3 * 16)]
    order = list(range(len(refs)))
    random.Random(1).shuffle(order)
    for number in order:
        np.testing.assert_array_equal(rostral.get(refs[number]), array_of(number))


def test_a_task_has_its_arguments_back_from_disk(gives_all_back: None) -> None:
    del gives_all_back

    @rostral.remote
    def total(*values: Any) -> int:
        return sum(int(value.sum()) for value in values)

    refs = [rostral.put(array_of(number)) for number in range(3 * 16)]
    totals = [total.remote(refs[number], refs[-number - 1]) for number in range(len(refs) // 2)]
    expected = [
        int(array_of(number).sum()) + int(array_of(len(refs) - number - 1).sum())
        for number in range(len(refs) // 2)
    ]
    assert rostral.get(totals) == expected


def test_results_that_do_not_fit_into_memory_are_all_there(gives_all_back: None) -> None:
    del gives_all_back
    size = STORE_BYTES // 16

    @rostral.remote
    def make(number: int) -> Any:
        return np.random.default_rng(number).integers(0, 255, size, dtype=np.uint8)

    refs = [make.remote(number) for number in range(3 * 16)]
    for number, ref in enumerate(refs):
        np.testing.assert_array_equal(rostral.get(ref), array_of(number))


def test_a_result_larger_than_the_store_is_the_tasks_error(gives_all_back: None) -> None:
    del gives_all_back
    size = STORE_BYTES

    @rostral.remote(max_retries=0)
    def make() -> Any:
        return np.zeros(size, dtype=np.uint8)

    with pytest.raises(ObjectStoreFullError, match="cannot fit"):
        rostral.get(make.remote(), timeout=20)
    pair = make.options(num_returns=2)
    for ref in pair.remote():
        with pytest.raises(ValueError, match="num_returns"):
            rostral.get(ref, timeout=20)


def test_an_argument_larger_than_the_store_is_the_callers_error(gives_all_back: None) -> None:
    del gives_all_back

    @rostral.remote
    def f(value: Any) -> int:
        return len(value)

    with pytest.raises(ObjectStoreFullError):
        f.remote(np.zeros(STORE_BYTES, dtype=np.uint8))
    assert rostral.get(f.remote([1])) == 1


# ---- futures


def test_await_gives_the_value_or_raises_the_error() -> None:
    @rostral.remote
    def f(n: int) -> int:
        if n < 0:
            raise KeyError(n)
        return n + 1

    async def scenario() -> None:
        assert await f.remote(1) == 2
        assert await asyncio.gather(*(f.remote(n).as_future() for n in range(100))) == [
            n + 1 for n in range(100)
        ]
        with pytest.raises(KeyError):
            await f.remote(-1)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_an_awaited_task_does_not_block_the_loop(marks: Path) -> None:
    """A second await, begun while the first waits, is answered first."""
    slow, fast = release_function(marks).remote("slow"), placeholder_function()

    async def scenario() -> None:
        waiting = slow.as_future()
        began = time.monotonic()
        await fast.remote()
        assert time.monotonic() - began < 1
        assert not waiting.done()
        await asyncio.to_thread(marks.write_text, "done")
        assert await waiting == "slow"

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_cancelled_future_does_not_cancel_the_task(marks: Path) -> None:
    ref = release_function(marks).remote("value")
    future = ref.future()
    assert future.cancel()
    marks.write_text("done")
    assert rostral.get(ref, timeout=20) == "value"
    assert ref.future().result(timeout=20) == "value"


def test_futures_keep_no_object(gives_all_back: None) -> None:
    del gives_all_back
    assert rostral.put(np.zeros(100_000)).future().result(timeout=20).sum() == 0


def test_a_value_is_read_where_its_thread_is() -> None:
    """Many threads of one driver use the cluster at once."""

    @rostral.remote
    def double(n: int) -> int:
        return 2 * n

    def work(n: int) -> int:
        return sum(rostral.get([double.remote(rostral.put(n + i)) for i in range(20)]))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(40))) == [
            sum(2 * (n + i) for i in range(20)) for n in range(40)
        ]


def test_the_driver_is_the_only_holder_of_what_it_put() -> None:
    ref = rostral.put(1)
    table = _context.connected().table
    assert table.holder_slots(ref) == [_context.connected().store.slot]
