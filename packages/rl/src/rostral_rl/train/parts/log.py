"""What a training shows and leaves: a live line on stderr, `metrics.csv`, `metrics.jsonl`."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from rostral_rl.checkpoint import unwritable

Row = Mapping[str, float]
LOG_WIDTH = 140
"""Columns of the last line that a training leaves in a log file."""


class LiveLine:
    """A progress bar with what one wants to see: steps a second, return, where the time goes.

    On a terminal it redraws itself; elsewhere, in a log file, only its last state is written.

    Args:
        title: Shown at the left.
        total: Steps that fill the bar.
        enabled: Show nothing at all when False.
    """

    def __init__(self, title: str, total: int, *, enabled: bool) -> None:
        console = Console(stderr=True)
        if not console.is_terminal:
            # A log file is as wide as it needs to be; rich would cut its line at 80.
            console = Console(stderr=True, width=LOG_WIDTH)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not enabled,
            refresh_per_second=5,
        )
        self._task = self._progress.add_task(title, total=total, note="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def update(self, row: Row) -> None:
        """Shows the newest metrics."""
        note = (
            f"return {row['return_mean']:.1f}  {row['steps_per_s']:,.0f} steps/s  "
            f"simulate {row['simulate_share']:.0%} learn {row['learn_share']:.0%}"
        )
        self._progress.update(self._task, completed=row["env_steps"], note=note)


class MetricsFile:
    """Appends one row per update to `metrics.csv` and `metrics.jsonl`.

    Each is flushed at once, so that a killed run keeps them.

    Args:
        folder: Made where missing; None writes nothing.

    Raises:
        FolderUnwritableError: The folder cannot be made, or a file in it cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._streams: list[IO[str]] = []
        self._csv: csv.DictWriter[str] | None = None
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for name in ("metrics.csv", "metrics.jsonl"):
                    self._streams.append((folder / name).open("w", newline="", encoding="utf-8"))
            except OSError as error:
                self.close()
                raise unwritable(folder, error) from error

    def write(self, row: Row) -> None:
        """Writes one row; the first one fixes the columns of the CSV file."""
        if not self._streams:
            return
        if self._csv is None:
            self._csv = csv.DictWriter(self._streams[0], fieldnames=list(row))
            self._csv.writeheader()
        self._csv.writerow(row)
        # NaN, "no episode has ended yet", is not JSON: such a column is left out of its line.
        self._streams[1].write(json.dumps({k: v for k, v in row.items() if v == v}) + "\n")
        for stream in self._streams:
            stream.flush()

    def close(self) -> None:
        """Closes the files. May be called twice."""
        while self._streams:
            self._streams.pop().close()
