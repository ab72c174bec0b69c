"""The live view: one screen on stderr that says how the training does and where its time goes."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

Row = Mapping[str, float]

LOG_WIDTH = 140
"""Columns of the last line that a training leaves in a log file."""
REFRESH_HZ = 4
HEADLINE = ("update", "env_steps", "return_mean", "steps_per_s")
"""Shown in the line above; everything else is in the table below."""
SHARES = ("simulate_share", "learn_share")


class LiveView:
    """Progress, return and speed in a line; shares of time, lag and losses in a table below it.

    On a terminal it redraws itself; elsewhere, in a log file, only the line's last state is
    written.

    Args:
        title: Shown at the left.
        total: Steps that fill the bar.
        enabled: Show nothing at all when False.
        console: Where to; stderr by default.
    """

    def __init__(
        self, title: str, total: int, *, enabled: bool, console: Console | None = None
    ) -> None:
        console = console or Console(stderr=True)
        self._rich = console.is_terminal
        if not self._rich:
            # A log file is as wide as it needs to be; rich would cut its line at 80.
            console.width = LOG_WIDTH
        self._enabled = enabled
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not enabled,
        )
        self._task = self._progress.add_task(title, total=total, note="")
        self._row: Row = {}
        self._live = Live(
            get_renderable=self._draw,
            console=console,
            refresh_per_second=REFRESH_HZ,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        if self._enabled:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._enabled:
            self._live.stop()

    def update(self, row: Row) -> None:
        """Shows the newest metrics."""
        self._row = dict(row)
        note = f"return {row['return_mean']:.1f}  {row['steps_per_s']:,.0f} steps/s  " + "  ".join(
            f"{name.removesuffix('_share')} {row[name]:.0%}" for name in SHARES
        )
        self._progress.update(self._task, completed=row["env_steps"], note=note)

    def _draw(self) -> RenderableType:
        if not self._rich or not self._row:
            return self._progress
        table = Table.grid(padding=(0, 2))
        shown = [(k, v) for k, v in self._row.items() if k not in (*HEADLINE, *SHARES)]
        for start in range(0, len(shown), 4):
            table.add_row(
                *(f"{name} [bold]{value:.4g}[/]" for name, value in shown[start : start + 4])
            )
        return Group(self._progress, Panel(table, border_style="dim"))
