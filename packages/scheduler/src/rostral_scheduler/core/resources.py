"""Resources: how much of what, and the ledger of what a node has left.

This file owns the arithmetic. Amounts are integers of 1/10000, so that a thousand tenths make a
hundred, always. The ledger knows amounts and GPU ids; it does not know who holds them or why.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rostral_scheduler.errors import RequestError, UnschedulableError

__all__ = ["UNITS", "Allocation", "NodeResources", "ResourceSet"]

UNITS = 10_000
"""Parts of one: the smallest amount is 0.0001."""

CPU = "CPU"
GPU = "GPU"


@dataclass(frozen=True, slots=True)
class ResourceSet:
    """Amounts by name, without zeros, in the order of the names: equal sets are equal objects.

    Invariant: every amount is a positive number of units.
    """

    items: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, amounts: Mapping[str, float]) -> ResourceSet:
        """From amounts as people write them.

        Raises:
            RequestError: An amount is negative, not finite, finer than 0.0001, or more than one
                GPU but not whole.
        """
        items = []
        for name, amount in sorted(amounts.items()):
            if not math.isfinite(amount) or amount < 0:
                raise RequestError(
                    f"resource {name!r} is {amount!r}", hint="an amount is a number, 0 or more"
                )
            units = round(amount * UNITS)
            if abs(units - amount * UNITS) > 1e-3:
                raise RequestError(
                    f"resource {name!r} is {amount!r}", hint="the finest amount is 0.0001"
                )
            if name == GPU and units > UNITS and units % UNITS:
                raise RequestError(
                    f"resource 'GPU' is {amount!r}", hint="more than one GPU must be a whole number"
                )
            if units:
                items.append((name, units))
        return cls(tuple(items))

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self.items)

    def __bool__(self) -> bool:
        return bool(self.items)

    def get(self, name: str) -> int:
        """Units of one resource."""
        for known, units in self.items:
            if known == name:
                return units
        return 0

    def maximum(self, other: ResourceSet) -> ResourceSet:
        """The larger amount of each resource."""
        amounts = dict(self.items)
        for name, units in other:
            amounts[name] = max(units, amounts.get(name, 0))
        return ResourceSet(tuple(sorted(amounts.items())))

    def as_floats(self) -> dict[str, float]:
        """As people write them."""
        return {name: units / UNITS for name, units in self.items}

    def key(self) -> bytes:
        """16 bytes that name the shape."""
        return hashlib.blake2b(repr(self.items).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Allocation:
    """What was taken from a ledger: amounts, and of which GPUs (index, units)."""

    resources: ResourceSet
    gpus: tuple[tuple[int, int], ...] = ()

    @property
    def gpu_indexes(self) -> tuple[int, ...]:
        """The GPUs that the holder may use."""
        return tuple(index for index, _ in self.gpus)


NOTHING = Allocation(ResourceSet())


class NodeResources:
    """The ledger of one node.

    Invariant: 0 <= free units of each GPU <= UNITS; their sum is what is available of GPU.
    Invariant: available <= total. Only CPU may be below 0: a worker that wakes up takes its CPU
    again, whether somebody else has it meanwhile or not.
    """

    def __init__(self, total: ResourceSet) -> None:
        self.total = total
        self.available: dict[str, int] = dict(total)
        self.gpu_free = [UNITS] * (total.get(GPU) // UNITS)

    def check_feasible(self, shape: ResourceSet) -> None:
        """Raises UnschedulableError when the node can never have the shape, however idle it is."""
        for name, units in shape:
            total = self.total.get(name)
            if units > total:
                has = ", ".join(f"{n}={v:g}" for n, v in self.total.as_floats().items()) or "none"
                raise UnschedulableError(
                    f"{units / UNITS:g} {name} can never be had on this node: "
                    f"it has {total / UNITS:g} (all it has: {has})",
                    hint="ask for less, or start the node with more",
                    resource=name,
                    requested=units / UNITS,
                    total=total / UNITS,
                )

    def fits(self, shape: ResourceSet) -> bool:
        """Whether the shape is free now."""
        for name, units in shape:
            if self.available.get(name, 0) < units:
                return False
        return self._choose_gpus(shape.get(GPU)) is not None

    def acquire(self, shape: ResourceSet) -> Allocation:
        """Takes the shape, which must fit but for CPU."""
        gpus = self._choose_gpus(shape.get(GPU))
        if gpus is None:
            raise AssertionError(f"no GPU is free for {shape}")
        for index, units in gpus:
            self.gpu_free[index] -= units
        for name, units in shape:
            self.available[name] = self.available.get(name, 0) - units
        return Allocation(shape, gpus)

    def release(self, allocation: Allocation) -> None:
        """Gives everything back."""
        for index, units in allocation.gpus:
            self.gpu_free[index] += units
        for name, units in allocation.resources:
            self.available[name] += units

    def lend_cpu(self, allocation: Allocation) -> None:
        """Gives the CPU back while the holder waits; all else it keeps."""
        if units := allocation.resources.get(CPU):
            self.available[CPU] += units

    def reclaim_cpu(self, allocation: Allocation) -> None:
        """Takes the CPU again: below 0 if it must be."""
        if units := allocation.resources.get(CPU):
            self.available[CPU] -= units

    def check_invariants(self) -> None:
        """Raises AssertionError when an invariant of the class does not hold."""
        for name, units in self.available.items():
            assert units <= self.total.get(name), (name, units)
            assert units >= 0 or name == CPU, (name, units)
        assert all(0 <= free <= UNITS for free in self.gpu_free), self.gpu_free
        assert sum(self.gpu_free) == self.available.get(GPU, 0), self.gpu_free

    def _choose_gpus(self, units: int) -> tuple[tuple[int, int], ...] | None:
        if units == 0:
            return ()
        if units <= UNITS:
            # The fullest one that has room, so that whole GPUs stay whole.
            fitting = [i for i, free in enumerate(self.gpu_free) if free >= units]
            if not fitting:
                return None
            return ((min(fitting, key=lambda i: self.gpu_free[i]), units),)
        whole = [i for i, free in enumerate(self.gpu_free) if free == UNITS]
        if len(whole) < units // UNITS:
            return None
        return tuple((i, UNITS) for i in whole[: units // UNITS])
