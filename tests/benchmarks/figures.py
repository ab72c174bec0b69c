"""What the benchmarks' tables and files have in common: the hardware line, spread, digits.

Owns how a figure is written; measures nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import statistics
from pathlib import Path

import psutil


def spread(values: list[float]) -> float | None:
    """(max - min) / median, or None for a single value."""
    median = statistics.median(values) if values else 0
    if len(values) < 2 or not median:
        return None
    return (max(values) - min(values)) / median


def machine() -> str:
    """One line that says what the figures were measured on."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory_gb = psutil.virtual_memory().total / 1e9
    return (
        f"{os.cpu_count()} CPUs, {model}, {memory_gb:.0f} GB, "
        f"{platform.system()} {platform.release()}"
    )


def number(value: object, suffix: str = "") -> str:
    """Three significant digits, without exponents."""
    if not isinstance(value, int | float):
        return "-"
    if not math.isfinite(value):
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(digits, 4)}f}{suffix}"


def percent(value: object) -> str:
    """A spread as people write it."""
    return f"{value:.0%}" if isinstance(value, float) else "-"
