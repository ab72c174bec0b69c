"""What a training leaves behind: `metrics.csv`, `metrics.jsonl`, and TensorBoard's event files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from rostral_rl.checkpoint import unwritable
from rostral_rl.errors import MissingExtraError

Row = Mapping[str, float]


class Sinks:
    """All files of one training.

    Args:
        folder: Made where missing; None writes nothing.
        tensorboard: Event files too, in its folder `tensorboard`.

    Raises:
        FolderUnwritableError: The folder cannot be made, or a file in it cannot be written.
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None, *, tensorboard: bool = False) -> None:
        self._events: Any = None
        if tensorboard and folder is not None:
            self._events = _event_writer(folder / "tensorboard")
        self._files = MetricsFile(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.close()
        if self._events is not None:
            self._events.close()

    def write(self, row: Row) -> None:
        """Writes one row to all."""
        self._files.write(row)
        if self._events is not None:
            for name, value in row.items():
                if value == value:
                    self._events.add_scalar(name, value, int(row["env_steps"]))


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


def _event_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            f"event files need TensorBoard: {error}",
            hint="pip install 'rostral-rl[tensorboard]'",
        ) from error
    return SummaryWriter(str(folder))
