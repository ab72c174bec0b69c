"""The live view: a screen on a terminal, one line in a log, nothing where it is not wanted."""

from __future__ import annotations

import io

from rich.console import Console

from rostral_rl.train.parts.live import LiveView

ROW = {
    "update": 3.0,
    "env_steps": 300.0,
    "return_mean": 42.0,
    "steps_per_s": 12_345.0,
    "simulate_share": 0.25,
    "learn_share": 0.75,
    "lag": 1.5,
    "policy_loss": -0.0123,
}


def shown(*, terminal: bool, enabled: bool = True) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=140)
    with LiveView("ppo CartPole-v1", 1_000, enabled=enabled, console=console) as live:
        live.update(ROW)
    return stream.getvalue()


def test_a_terminal_shows_speed_shares_lag_and_losses() -> None:
    screen = shown(terminal=True)
    for part in ("300/1000", "return 42.0", "12,345 steps/s", "simulate 25%", "learn 75%"):
        assert part in screen
    assert "lag" in screen and "1.5" in screen and "policy_loss" in screen


def test_a_log_gets_one_line() -> None:
    lines = [line for line in shown(terminal=False).splitlines() if line.strip()]
    assert len(lines) == 1
    assert "300/1000" in lines[0] and "12,345 steps/s" in lines[0]


def test_nothing_is_shown_where_it_is_not_wanted() -> None:
    assert shown(terminal=True, enabled=False) == ""
