"""What workers print, in the driver's terminal."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from rostral.line_folding import WINDOW_S, Line, LineFolder
from rostral.progress_display import ProgressDisplay


def folding_window_s() -> float:
    """How long lines that several processes print alike are folded; 0: they are not.

    As ROSTRAL_DEDUP_LOGS (0: not) and ROSTRAL_DEDUP_LOGS_AGG_WINDOW_S say, or Ray's names for them.
    """
    values = {}
    for name in ("DEDUP_LOGS", "DEDUP_LOGS_AGG_WINDOW_S"):
        values[name] = os.environ.get(f"ROSTRAL_{name}", os.environ.get(f"RAY_{name}"))
    if values["DEDUP_LOGS"] == "0":
        return 0.0
    try:
        return max(0.0, float(values["DEDUP_LOGS_AGG_WINDOW_S"] or WINDOW_S))
    except ValueError:
        return WINDOW_S


class Terminal:
    """Shows the lines of workers as they come, each behind the name of what printed it.

    `show` is called by the thread that hears of them; `close` by the driver.
    """

    def __init__(self) -> None:
        self._folder = LineFolder(folding_window_s())
        self._bars = ProgressDisplay()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._closed = False

    def show(self, topic: str, body: dict[str, Any]) -> None:
        """Prints one message, but for lines that are held back. Other topics are not ours."""
        if topic == "progress":
            self.show_progress(body)
        elif topic == "log":
            self._show_lines(body)

    def show_progress(self, body: dict[str, Any]) -> None:
        """Shows how one progress bar stands."""
        with self._lock:
            if not self._closed:
                self._bars.show(body)

    def _show_lines(self, body: dict[str, Any]) -> None:
        with self._lock:
            now_s = time.monotonic()
            for text in body["lines"]:
                line = Line(body["stream"], body["name"] or "worker", body["pid"], text)
                print_lines(self._folder.take(line, now_s))
            self._wait_for_due(now_s)

    def close(self) -> None:
        """Prints what was held back; nothing follows. May be called twice."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            print_lines(self._folder.flush())
            self._bars.close()

    def _wait_for_due(self, now_s: float) -> None:
        due_s = self._folder.next_due_s
        if due_s is None or self._timer is not None:
            return
        self._timer = threading.Timer(due_s - now_s, self._show_due)
        self._timer.daemon = True
        self._timer.start()

    def _show_due(self) -> None:
        with self._lock:
            self._timer = None
            now_s = time.monotonic()
            print_lines(self._folder.due(now_s))
            self._wait_for_due(now_s)


def print_lines(lines: Iterable[Line]) -> None:
    """Prints lines on the stream that each is from."""
    for line in lines:
        stream = sys.stderr if line.stream == "stderr" else sys.stdout
        try:
            stream.write(f"({line.name} pid={line.pid}) {line.text}\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # the terminal is gone; the lines are in the session's logs
