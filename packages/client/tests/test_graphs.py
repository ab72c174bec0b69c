"""Random graphs of tasks and actors give what a sequential run gives, and leave nothing behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import cloudpickle  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rostral

from . import graphs
from .waiting import nothing_left, until

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.slow]
# Workers cannot import it.
cloudpickle.register_pickle_by_value(sys.modules[graphs.__name__])

GRAPHS = 1000
# Looking for what is left takes as long as many graphs do.
LOOK_EVERY = 50

NUMBERS = st.integers(0, 1 << 16)
STEPS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=25)


@pytest.fixture(scope="module")
def program(cluster: rostral.Context) -> Iterator[graphs.Program]:
    del cluster
    yield graphs.Program()
    processes_end()


def processes_end() -> None:
    """Every actor is gone with its process, every byte with its last reference."""
    from rostral import _context

    def actors() -> list[str]:
        listed = _context.connected().ask("list_actors", {})["actors"]
        return [f"{a['actor_id'].hex()} {a['state']} {a['death_cause']}" for a in listed]

    gc.collect()
    try:
        until(lambda: not actors(), "the end of all actors", timeout_s=30)
    except AssertionError as error:
        raise AssertionError(f"actors are left: {actors()}") from error
    nothing_left()


runs = 0


@settings(
    max_examples=GRAPHS,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(draws=STEPS, cancels=st.lists(NUMBERS, max_size=2), kills=st.integers(0, 15))
def test_a_graph_gives_what_a_sequential_run_gives(
    program: graphs.Program, draws: list[tuple[int, int, int]], cancels: list[int], kills: int
) -> None:
    global runs
    graph = graphs.graph_of(draws, cancels, kills if kills < 1 << graphs.ACTORS else 0)
    allowed = graphs.outcomes_of(graph)
    for step, (outcome, outcomes) in enumerate(zip(program.run(graph), allowed, strict=True)):
        assert outcome in outcomes, f"step {step} of {graph.steps}: {outcome} is none of {outcomes}"
    runs += 1
    if runs % LOOK_EVERY == 0:
        processes_end()


def test_an_oracle_that_adds_wrongly_is_found_out(program: graphs.Program) -> None:
    """What the test above compares with is not vacuous: one sum that is off by one shows."""
    graph = graphs.graph_of([(0, 0, 0), (1, 0, 0)], [], 0)
    (_, outcomes), came = graphs.outcomes_of(graph), program.run(graph)
    assert came[1] in outcomes
    assert ("value", came[1][1] + 1) not in outcomes
