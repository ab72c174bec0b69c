"""Where a learner's step runs: measured, not guessed, and said why.

A GPU is the slower choice for small nets: its launches cost more than the arithmetic. So `auto`
times the very step, a few times on each device, and takes the quickest. And where CPU and GPU meet:
`on_device` takes arrays of either, those that lie on the GPU already with no copy (DLPack).
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from rostral_rl.errors import ConfigError

AUTO = "auto"
CPU = "cpu"
# The first rounds pay for kernels that are loaded and memory that is taken.
WARM_ROUNDS = 2
TIMED_ROUNDS = 5

Step = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChoice:
    """A device, and why it was chosen.

    Attributes:
        device: as torch names it.
        reason: for people, one line.
        step_s: what a step took, in seconds, by device; empty if nothing was measured.
    """

    device: str
    reason: str
    step_s: Mapping[str, float]


def available_devices() -> tuple[str, ...]:
    """The CPU, and the GPUs that torch sees in this process."""
    with warnings.catch_warnings():
        # A torch that is made for GPUs warns where there is no driver: then there is none.
        warnings.simplefilter("ignore")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return (CPU, *(f"cuda:{number}" for number in range(count)))


def check_device(wanted: str) -> None:
    """Raises ConfigError for what names no device, whether one of that name is there or not."""
    try:
        if wanted != AUTO:
            torch.device(wanted)
    except RuntimeError:
        allowed = "'auto', 'cpu', 'cuda' or 'cuda:N'"
        raise ConfigError("device", wanted, allowed=allowed) from None


def choose_device(
    wanted: str,
    step_on: Callable[[str], Step],
    *,
    devices: Sequence[str] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> DeviceChoice:
    """The device for a learner.

    Args:
        wanted: `auto`, or one that is there: `cpu`, `cuda` (which is `cuda:0`), `cuda:N`.
        step_on: makes the step to be timed on a device, on net and batch of its own: one that
            returns may leave work on a GPU, which is waited for.
        devices: to choose from; None: all that this process has.
        clock: in seconds.

    Raises:
        ConfigError: the device is not there.
    """
    if wanted == CPU:
        return DeviceChoice(device=CPU, reason=f"{CPU}: as asked for", step_s={})
    there = tuple(devices) if devices is not None else available_devices()
    if wanted != AUTO:
        named = "cuda:0" if wanted == "cuda" else wanted
        if named not in there:
            raise ConfigError("device", wanted, allowed=f"'auto' or one of {', '.join(there)}")
        return DeviceChoice(device=named, reason=f"{named}: as asked for", step_s={})
    if len(there) == 1:
        return DeviceChoice(
            device=there[0], reason=f"{there[0]}: this process has no other device", step_s={}
        )
    step_s = {device: _median_s(device, step_on(device), clock) for device in there}
    best, *others = sorted(there, key=lambda device: step_s[device])
    slower = ", ".join(f"{step_s[device] * 1e3:.3g} ms on {device}" for device in others)
    reason = f"{best}: a step takes {step_s[best] * 1e3:.3g} ms there, {slower}"
    return DeviceChoice(device=best, reason=reason, step_s=step_s)


def on_device(array: Any, device: str) -> Tensor:
    """The array as a tensor on the device.

    With no copy if it is there already: NumPy's on the CPU, which must be writable; CuPy's, JAX's
    and torch's on a GPU, of the object store for instance. Else one copy.
    """
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array).to(device, non_blocking=True)
    tensor = array if isinstance(array, Tensor) else from_dlpack(array)
    return tensor.to(device, non_blocking=True)


def _median_s(device: str, step: Step, clock: Callable[[], float]) -> float:
    taken = []
    for number in range(WARM_ROUNDS + TIMED_ROUNDS):
        began = clock()
        step()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARM_ROUNDS:
            taken.append(clock() - began)
    return statistics.median(taken)
