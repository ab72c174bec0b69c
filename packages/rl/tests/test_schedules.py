"""Schedules: their values, their ends, and how TOML spells them."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

import rostral_rl as rl
from rostral_rl.errors import InvalidSettingError
from rostral_rl.train.algorithms import settings_for
from rostral_rl.train.parts.schedules import Schedule, at, largest, smallest


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (0.5, [0.5, 0.5, 0.5]),
        (rl.linear(1.0, 0.0), [1.0, 0.5, 0.0]),
        (rl.cosine(1.0, 0.0), [1.0, 0.5, 0.0]),
        (rl.piecewise([(0.0, 1.0), (0.5, 0.2), (1.0, 0.4)]), [1.0, 0.2, 0.4]),
        (rl.piecewise([(0.25, 3.0), (0.75, 1.0)]), [3.0, 2.0, 1.0]),
    ],
)
def test_schedules_at_the_beginning_in_the_middle_and_at_the_end(
    schedule: Schedule, values: list[float]
) -> None:
    assert [at(schedule, f) for f in (0.0, 0.5, 1.0)] == pytest.approx(values)
    assert largest(schedule) == pytest.approx(max(values))
    assert smallest(schedule) == pytest.approx(min(values))
    # Beyond the ends nothing goes on.
    assert at(schedule, 2.0) == pytest.approx(values[-1])


def test_half_a_cosine_leaves_and_arrives_level() -> None:
    curve = rl.cosine(1.0, 0.0)
    assert curve(0.1) > rl.linear(1.0, 0.0)(0.1)
    assert curve(0.9) < rl.linear(1.0, 0.0)(0.9)


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("lr = {start = 1e-3}", rl.linear(1e-3)),
        ('lr = {start = 1e-3, end = 1e-4, shape = "cosine"}', rl.cosine(1e-3, 1e-4)),
        ("lr = {points = [[0.0, 1e-3], [1.0, 0.0]]}", rl.piecewise([(0.0, 1e-3), (1.0, 0.0)])),
    ],
)
def test_toml_spells_schedules_and_checkpoints_keep_them(text: str, schedule: Schedule) -> None:
    settings: Any = settings_for("ppo", "", tomllib.loads(text))
    assert settings.lr == schedule
    assert settings_for("ppo", "", settings.plain()) == settings


@pytest.mark.parametrize(
    "text",
    [
        "lr = {start = -1.0}",
        'lr = {start = 1.0, shape = "wavy"}',
        "lr = {points = []}",
        "lr = {points = [[0.5, 1.0], [0.5, 0.0]]}",
        "lr = {points = [[0.0, nan]]}",
        "lr = {middle = 3.0}",
    ],
)
def test_a_schedule_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettingError):
        settings_for("ppo", "", tomllib.loads(text))
