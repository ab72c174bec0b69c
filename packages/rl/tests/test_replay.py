"""Replay: n-step transitions that stay within an episode, and draws by priority."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from gymnasium import spaces

from rostral_rl.simulate.fragment import Fragment
from rostral_rl.train.parts.nstep import NStep, Transitions
from rostral_rl.train.parts.replay import Replay
from rostral_rl.train.parts.sumtree import SumTree

GAMMA = 0.9


def fragments(length: int, ends: dict[int, str], horizon: int) -> list[Fragment]:
    """One environment whose observation is the step's number; `ends` says which steps end how.

    After an end the observations jump by 100, so that nothing can be mistaken for what followed.
    """
    obs, rows, at = [0.0], [], 0.0
    for t in range(length):
        at += 1.0
        kind = ends.get(t, "")
        rows.append((kind == "terminated", kind == "truncated", at))
        if kind:
            at += 100.0
        obs.append(at)
    result = []
    for start in range(0, length, horizon):
        part = rows[start : start + horizon]
        finals = [(i, last) for i, (dead, cut, last) in enumerate(part) if dead or cut]
        result.append(
            cast(
                "Fragment",
                {
                    "obs": np.array(obs[start : start + len(part) + 1], np.float32)[:, None, None],
                    "actions": np.arange(start, start + len(part))[:, None],
                    "reward": np.arange(1, len(part) + 1, dtype=np.float32)[:, None] + start,
                    "terminated": np.array([[dead] for dead, _, _ in part]),
                    "truncated": np.array([[cut] for _, cut, _ in part]),
                    "valid": np.ones((len(part), 1), np.bool_),
                    "final_index": np.array([(i, 0) for i, _ in finals], np.int64).reshape(-1, 2),
                    "final_obs": np.array([[last] for _, last in finals], np.float32).reshape(
                        -1, 1
                    ),
                },
            )
        )
    return result


def slow_transitions(length: int, ends: dict[int, str], n: int) -> list[tuple[float, ...]]:
    """(step, reward, next observation, discount) of every start whose window is complete."""
    whole = fragments(length, ends, length)[0]
    result: list[tuple[float, ...]] = []
    for t in range(length - n + 1):
        total, k = 0.0, 0
        while True:
            total += GAMMA**k * float(whole["reward"][t + k, 0])
            kind = ends.get(t + k, "")
            if kind or k == n - 1:
                break
            k += 1
        followed = float(whole["obs"][t + k + 1, 0, 0])
        if kind:
            row = whole["final_index"][:, 0].tolist().index(t + k)
            followed = float(whole["final_obs"][row, 0])
        result.append((t, total, followed, 0.0 if kind == "terminated" else GAMMA ** (k + 1)))
    return result


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("horizon", [1, 2, 5, 30])
def test_n_step_transitions_equal_a_slow_reference_however_fragments_are_cut(
    n: int, horizon: int
) -> None:
    ends = {3: "terminated", 4: "truncated", 11: "truncated", 12: "terminated", 20: "terminated"}
    window = NStep(n, GAMMA)
    parts = [window(fragment) for fragment in fragments(30, ends, horizon)]
    found = [
        (int(p.actions[i]), p.reward[i], p.next_obs[i, 0], p.discount[i])
        for p in parts
        for i in range(len(p))
    ]
    np.testing.assert_allclose(found, slow_transitions(30, ends, n), rtol=1e-6)
    for p in parts:
        # Observations count by one within an episode, so none of these reaches into another.
        assert np.all(p.next_obs[:, 0] - p.obs[:, 0] <= n)


def test_rows_that_belong_to_no_episode_are_not_remembered() -> None:
    fragment = fragments(6, {2: "terminated"}, 6)[0]
    fragment["valid"][3] = False
    found = NStep(1, GAMMA)(fragment)
    assert found.actions.tolist() == [0, 1, 2, 4, 5]


def test_what_a_replaced_environment_had_begun_is_dropped() -> None:
    before, after = fragments(4, {}, 4)[0], fragments(4, {}, 4)[0]
    after["obs"] = after["obs"] + 50.0
    window = NStep(3, GAMMA)
    assert window(before).actions.tolist() == [0, 1]
    found = window(after)
    assert found.obs[:, 0].tolist() == [50.0, 51.0], "steps 2 and 3 have no third"


def test_a_window_goes_on_from_its_state() -> None:
    parts = fragments(12, {5: "truncated"}, 4)
    whole, first = NStep(3, GAMMA), NStep(3, GAMMA)
    for fragment in parts[:2]:
        whole(fragment)
        first(fragment)
    second = NStep(3, GAMMA)
    second.load({k: v.copy() for k, v in first.state().items()})
    mine, reference = second(parts[2]), whole(parts[2])
    np.testing.assert_array_equal(mine.actions, reference.actions)
    np.testing.assert_array_equal(mine.reward, reference.reward)


@pytest.mark.parametrize("capacity", [1, 2, 7, 64, 100])
def test_a_sum_tree_finds_what_a_cumulative_sum_finds(capacity: int) -> None:
    generator = np.random.default_rng(capacity)
    tree = SumTree(capacity)
    priority = generator.integers(0, 5, capacity).astype(float)
    priority[generator.integers(capacity)] = 3.0
    tree.load(priority)
    # Some are set anew, one of them twice: the last counts.
    again = np.array([0, capacity // 2, 0])
    tree.set(again, np.array([9.0, 2.0, 1.0]))
    priority[capacity // 2], priority[0] = 2.0, 1.0
    if capacity // 2 == 0:
        priority[0] = tree[np.array([0])][0]
    assert tree.total == priority.sum()
    mass = np.linspace(0.0, tree.total, 200, endpoint=False)
    expected = np.searchsorted(np.cumsum(priority), mass, side="right")
    np.testing.assert_array_equal(tree.find(mass), expected)


def transitions(count: int, first: int = 0) -> Transitions:
    numbers = np.arange(first, first + count)
    return Transitions(
        obs=numbers[:, None].astype(np.float32),
        actions=numbers,
        reward=numbers.astype(np.float32),
        next_obs=numbers[:, None].astype(np.float32) + 1,
        discount=np.full(count, 0.9, np.float32),
    )


def replay(capacity: int, alpha: float = 0.0) -> Replay:
    return Replay(
        capacity,
        observation_space=spaces.Box(-1.0, 1.0, (1,), np.float32),
        action=np.zeros((), np.int64),
        alpha=alpha,
    )


def test_the_ring_keeps_the_newest() -> None:
    ring = replay(10)
    for first in range(0, 24, 3):
        ring.add(transitions(3, first))
    assert ring.size == 10
    drawn = ring.draw(400, np.random.default_rng(0))
    assert set(drawn.rows.actions.tolist()) == set(range(14, 24))
    ring.add(transitions(25, 100))
    drawn = ring.draw(400, np.random.default_rng(0))
    assert set(drawn.rows.actions.tolist()) == set(range(115, 125))


def test_draws_follow_priorities_and_weights_correct_for_them() -> None:
    ring = replay(8, alpha=0.5)
    ring.add(transitions(8))
    error = np.array([0.0, 1.0, 4.0, 9.0, 16.0, 0.0, 0.0, 1.0], np.float32)
    ring.prioritise(np.arange(8), error)
    drawn = ring.draw(20_000, np.random.default_rng(0), beta=1.0)
    shares = np.bincount(drawn.rows.actions, minlength=8) / 20_000
    expected = np.sqrt(error + 1e-6) / np.sqrt(error + 1e-6).sum()
    np.testing.assert_allclose(shares, expected, atol=2e-3)
    # With beta = 1 every transition counts the same in the mean, whatever its share.
    weighted = np.bincount(drawn.rows.actions, weights=drawn.weight, minlength=8)
    seen = shares > 0.01
    np.testing.assert_allclose(weighted[seen], weighted[seen].mean(), rtol=0.05)
    assert drawn.weight.max() == 1.0


def test_new_transitions_are_drawn_before_those_that_were_learned() -> None:
    ring = replay(8, alpha=1.0)
    ring.add(transitions(4))
    ring.prioritise(np.arange(4), np.full(4, 1e-4, np.float32))
    ring.add(transitions(1, 50))
    drawn: Any = ring.draw(100, np.random.default_rng(0)).rows.actions
    assert (drawn == 50).mean() > 0.95


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_replay_goes_on_from_its_state(alpha: float) -> None:
    ring, copy = replay(6, alpha), replay(6, alpha)
    ring.add(transitions(9))
    ring.prioritise(np.arange(6), np.arange(6, dtype=np.float32))
    copy.load({k: v.copy() for k, v in ring.state().items()})
    for one in (ring, copy):
        one.add(transitions(2, 70))
    mine, theirs = (r.draw(50, np.random.default_rng(1), beta=0.5) for r in (copy, ring))
    np.testing.assert_array_equal(mine.rows.actions, theirs.rows.actions)
    np.testing.assert_array_equal(mine.weight, theirs.weight)
