"""Which tasks run again for lost objects, in what order, and which objects no task makes."""

from __future__ import annotations

import random

from rostral_scheduler.core.lineage import (
    RETRY_FOREVER,
    Lineage,
    NoMaker,
    Plan,
    Remembered,
    task_of,
)

PUT_INDEX = 1 << 31
JOB = bytes(16)


def object_id(task: int, index: int = 0) -> bytes:
    return task.to_bytes(16, "little") + index.to_bytes(4, "little")


def remembered(task: int, *inputs: bytes, retries: int = 3) -> Remembered[int]:
    return Remembered(
        task_id=task.to_bytes(16, "little"),
        job_id=JOB,
        inputs=inputs,
        spec=task,
        payload_bytes=100,
        retries=retries,
    )


def lineage_of(*tasks: Remembered[int], bytes_max: int = 1 << 30) -> Lineage[int]:
    lineage: Lineage[int] = Lineage(bytes_max)
    for task in tasks:
        lineage.add(task)
    return lineage


def specs(plan: Plan[int]) -> list[int]:
    return [task.spec for task in plan.again]


def test_only_the_task_of_a_lost_object_runs_when_its_inputs_are_there() -> None:
    lineage = lineage_of(remembered(1), remembered(2, object_id(1)))
    lost = {object_id(2)}
    plan = lineage.plan(lost, lost.__contains__)
    assert specs(plan) == [2]
    assert plan.hopeless == {}


def test_lost_inputs_are_made_first_and_once() -> None:
    """A diamond: 4 needs 2 and 3, which both need 1."""
    lineage = lineage_of(
        remembered(1),
        remembered(2, object_id(1)),
        remembered(3, object_id(1)),
        remembered(4, object_id(2), object_id(3)),
    )
    plan = lineage.plan([object_id(4)], lambda _: True)
    order = specs(plan)
    assert sorted(order) == [1, 2, 3, 4]
    assert order[0] == 1
    assert order[-1] == 4


def test_a_chain_of_a_hundred_thousand_needs_no_recursion() -> None:
    length = 100_000
    lineage = lineage_of(
        *(remembered(i, *([object_id(i - 1)] if i else [])) for i in range(length))
    )
    plan = lineage.plan([object_id(length - 1)], lambda _: True)
    assert specs(plan) == list(range(length))


def test_two_lost_results_of_one_task_run_it_once() -> None:
    lineage = lineage_of(remembered(1))
    assert specs(lineage.plan([object_id(1, 0), object_id(1, 1)], lambda _: True)) == [1]


def test_what_was_put_forgotten_or_has_no_retries_is_hopeless_and_what_needs_it_runs() -> None:
    put, cut, spent = object_id(1, PUT_INDEX), object_id(2), object_id(3)
    lineage = lineage_of(remembered(3, retries=0), remembered(4, put, cut, spent))
    plan = lineage.plan([object_id(4)], lambda _: True)
    assert specs(plan) == [4]
    assert plan.hopeless == {put: NoMaker.PUT, cut: NoMaker.CUT, spent: NoMaker.SPENT}


def test_a_task_that_may_always_run_again_is_never_spent() -> None:
    lineage = lineage_of(remembered(1, retries=RETRY_FOREVER))
    assert specs(lineage.plan([object_id(1)], lambda _: True)) == [1]


def test_the_oldest_are_forgotten_beyond_the_bound() -> None:
    cost = remembered(0).cost_bytes
    lineage = lineage_of(bytes_max=10 * cost)
    for i in range(100):
        cut = lineage.add(remembered(i))
        assert [task.spec for task in cut] == ([i - 10] if i >= 10 else [])
    assert len(lineage) == 10
    assert lineage.size_bytes == 10 * cost
    assert lineage.cut_count == 90


def test_a_task_that_is_remembered_again_counts_once() -> None:
    lineage = lineage_of(remembered(1), remembered(1))
    assert len(lineage) == 1
    assert lineage.size_bytes == remembered(1).cost_bytes


def test_a_job_is_forgotten_as_a_whole() -> None:
    lineage = lineage_of(remembered(1), remembered(2))
    assert [task.spec for task in lineage.forget_job(JOB)] == [1, 2]
    assert len(lineage) == 0
    assert lineage.size_bytes == 0
    assert lineage.forget(bytes(16)) is None


def test_whatever_is_lost_every_task_runs_after_those_that_make_its_lost_inputs() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        count = chance.randrange(1, 60)
        tasks = [
            remembered(i, *(object_id(chance.randrange(i)) for _ in range(min(i, 3))))
            for i in range(count)
        ]
        lineage = lineage_of(*tasks)
        lost = {object_id(i) for i in range(count) if chance.random() < 0.5}
        plan = lineage.plan(sorted(lost), lost.__contains__)
        ran = [task.task_id for task in plan.again]
        assert len(ran) == len(set(ran)), seed
        assert {task_of(one) for one in lost} == set(ran), seed
        for place, task in enumerate(plan.again):
            needed = {task_of(one) for one in task.inputs if one in lost}
            assert needed <= set(ran[:place]), seed
