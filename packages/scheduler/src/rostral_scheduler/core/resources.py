"""Resources: how much of what, and the ledger of what a node has left.

This file owns the arithmetic. Amounts are integers of 1/10000, so that a thousand tenths make a
hundred, always. The ledger knows amounts and GPU ids; it does not know who holds them or why.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rostral_scheduler.errors import RequestError, UnschedulableError

__all__ = ["BUNDLE", "GROUP_MARK", "UNITS", "Allocation", "NodeResources", "ResourceSet", "is_cpu"]

UNITS = 10_000
"""Parts of one: the smallest amount is 0.0001."""

CPU = "CPU"
GPU = "GPU"
BUNDLE = "bundle"
GROUP_MARK = "@"
"""Between a resource and the placement group that it is set aside for; no user's name has it."""


def _is_kind(name: str, kind: str) -> bool:
    return name == kind or name.startswith(kind + GROUP_MARK)


def is_cpu(name: str) -> bool:
    """Whether the resource is CPU, a placement group's included."""
    return _is_kind(name, CPU)


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
                GPU but not whole; a name has the mark of placement groups.
        """
        items = []
        for name, amount in sorted(amounts.items()):
            if GROUP_MARK in name:
                raise RequestError(
                    f"resource {name!r} has {GROUP_MARK!r} in its name",
                    hint="that sign is kept for what placement groups set aside",
                )
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

    @classmethod
    def measured(cls, amounts: Mapping[str, float]) -> ResourceSet:
        """From amounts that a node has at one moment: of two GPUs, one and a half may be free.

        Raises:
            RequestError: An amount is negative or not finite.
        """
        for name, amount in amounts.items():
            if not math.isfinite(amount) or amount < 0:
                raise RequestError(f"of resource {name!r} a node says that it has {amount!r}")
        items = ((name, round(amount * UNITS)) for name, amount in sorted(amounts.items()))
        return cls(tuple((name, units) for name, units in items if units))

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
    """The ledger of one node: its own resources, and pools that placement groups have set aside.

    Invariant: 0 <= free units of each GPU <= UNITS; their sum is what is available of GPU.
    Invariant: available <= total. Only CPU may be below 0: a worker that wakes up takes its CPU
    again, whether somebody else has it meanwhile or not.
    """

    def __init__(self, total: ResourceSet) -> None:
        self.total = total
        self.available: dict[str, int] = dict(total)
        self._pools: dict[str, int] = {}
        # Of each resource that consists of GPUs: free units by GPU index.
        self._gpus: dict[str, dict[int, int]] = {
            GPU: dict.fromkeys(range(total.get(GPU) // UNITS), UNITS)
        }

    def check_feasible(self, shape: ResourceSet) -> None:
        """Raises UnschedulableError when the node can never have the shape, however idle it is."""
        for name, units in shape:
            total = self._capacity(name)
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

    def can_ever(self, shape: ResourceSet) -> bool:
        """Whether the node has the shape when it is idle."""
        return all(units <= self._capacity(name) for name, units in shape)

    def fits(self, shape: ResourceSet) -> bool:
        """Whether the shape is free now."""
        for name, units in shape:
            if self.available.get(name, 0) < units:
                return False
        return self._choose_gpus(shape) is not None

    def acquire(self, shape: ResourceSet) -> Allocation:
        """Takes the shape, which must fit but for CPU."""
        gpus = self._choose_gpus(shape)
        if gpus is None:
            raise AssertionError(f"no GPU is free for {shape}")
        for name, units in shape:
            self.available[name] = self.available.get(name, 0) - units
            if _is_kind(name, GPU):
                for index, part in gpus:
                    self._gpus[name][index] -= part
        return Allocation(shape, gpus)

    def release(self, allocation: Allocation) -> None:
        """Gives everything back."""
        for name, units in allocation.resources:
            self.available[name] += units
            if _is_kind(name, GPU):
                for index, part in allocation.gpus:
                    self._gpus[name][index] += part

    def moved(self, allocation: Allocation, preferred: Sequence[int]) -> Allocation:
        """The same amounts on GPUs that are preferred, the first the most, if these are free.

        Others stay as they are. The former allocation is given back.
        """
        names = [name for name, _ in allocation.resources if _is_kind(name, GPU)]
        if not names:
            return allocation
        self._give_gpus(names, allocation.gpus, 1)
        gpus = self._choose_gpus(
            allocation.resources, tuple(dict.fromkeys((*preferred, *allocation.gpu_indexes)))
        )
        assert gpus is not None, allocation
        self._give_gpus(names, gpus, -1)
        return Allocation(allocation.resources, gpus)

    def _give_gpus(self, names: list[str], gpus: tuple[tuple[int, int], ...], sign: int) -> None:
        for name in names:
            for index, part in gpus:
                self._gpus[name][index] += sign * part

    def lend_cpu(self, allocation: Allocation) -> None:
        """Gives the CPU back while the holder waits; all else it keeps."""
        for name, units in allocation.resources:
            if is_cpu(name):
                self.available[name] += units

    def reclaim_cpu(self, allocation: Allocation) -> None:
        """Takes the CPU again: below 0 if it must be."""
        for name, units in allocation.resources:
            if is_cpu(name):
                self.available[name] -= units

    def add_pool(self, name: str, units: int, gpus: Mapping[int, int]) -> None:
        """Offers what was set aside under a name of its own; `gpus` has the units of each."""
        self._pools[name] = self.available[name] = units
        if _is_kind(name, GPU):
            self._gpus[name] = dict(gpus)

    def remove_pool(self, name: str) -> None:
        """Undoes ``add_pool``; all of it must be free."""
        assert self.is_free(name), name
        del self._pools[name], self.available[name]
        self._gpus.pop(name, None)

    def is_free(self, name: str) -> bool:
        """Whether nobody has anything of the resource."""
        return self.available.get(name, 0) == self._capacity(name)

    def check_invariants(self) -> None:
        """Raises AssertionError when an invariant of the class does not hold."""
        for name, units in self.available.items():
            assert units <= self._capacity(name), (name, units)
            assert units >= 0 or is_cpu(name), (name, units)
        for name, free in self._gpus.items():
            assert all(0 <= units <= UNITS for units in free.values()), free
            assert sum(free.values()) == self.available.get(name, 0), (name, free)

    def _capacity(self, name: str) -> int:
        return self._pools.get(name) or self.total.get(name)

    def _choose_gpus(
        self, shape: ResourceSet, preferred: tuple[int, ...] = ()
    ) -> tuple[tuple[int, int], ...] | None:
        """GPUs that are free in every resource of the shape that consists of them."""
        wanted = [(name, units) for name, units in shape if _is_kind(name, GPU)]
        if not wanted:
            return ()
        units = wanted[0][1]
        pools = [self._gpus.get(name, {}) for name, _ in wanted]
        free = {i: min(pool.get(i, 0) for pool in pools) for i in pools[0]}
        if units <= UNITS:
            # The fullest one that has room, so that whole GPUs stay whole.
            fitting = [i for i, part in free.items() if part >= units]
            if not fitting:
                return None
            for index in preferred:
                if index in fitting:
                    return ((index, units),)
            return ((min(fitting, key=lambda i: free[i]), units),)
        whole = [i for i, part in free.items() if part == UNITS]
        if len(whole) < units // UNITS:
            return None
        chosen = [i for i in preferred if i in whole] + [i for i in whole if i not in preferred]
        return tuple((i, UNITS) for i in chosen[: units // UNITS])
