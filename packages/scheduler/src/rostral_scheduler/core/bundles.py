"""Bundles of placement groups: what of a node is set aside, under names of its own.

This file owns the names. A group's bundles are taken out of the node's ledger and offered again
under names that only the group's members ask for: `CPU@<group>` for the sum over its bundles here,
`CPU@<group>/<index>` for one of them. A member asks for both when it has chosen a bundle, for the
first alone when any bundle will do. So a member is a demand like any other, to be served, to lend
its CPU and to be withdrawn by the same rules. Every member also asks for a grain of `bundle@...`:
one that needs nothing else belongs to the group all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rostral_scheduler.core.resources import (
    BUNDLE,
    GROUP_MARK,
    UNITS,
    Allocation,
    NodeResources,
    ResourceSet,
)

__all__ = ["Reservation", "Reservations", "is_member", "member_shape", "sum_of"]

_GRAINS = 1000 * UNITS
"""Of `bundle@...` in each bundle: as many members as a bundle may have at once."""


def _pool(name: str, group_id: bytes, index: int | None = None) -> str:
    suffix = "" if index is None else f"/{index}"
    return f"{name}{GROUP_MARK}{group_id.hex()}{suffix}"


def member_shape(shape: ResourceSet, group_id: bytes, index: int | None) -> ResourceSet:
    """What a member with this demand asks the ledger for; `index` None takes any bundle."""
    amounts: dict[str, int] = {}
    for name, units in (*shape, (BUNDLE, 1)):
        amounts[_pool(name, group_id)] = units
        if index is not None:
            amounts[_pool(name, group_id, index)] = units
    return ResourceSet(tuple(sorted(amounts.items())))


def is_member(shape: ResourceSet, group_id: bytes) -> bool:
    """Whether the demand is one of the group's members'."""
    return shape.get(_pool(BUNDLE, group_id)) > 0


def sum_of(bundles: Sequence[ResourceSet]) -> ResourceSet:
    """What bundles take together."""
    amounts: dict[str, int] = {}
    for bundle in bundles:
        for name, units in bundle:
            amounts[name] = amounts.get(name, 0) + units
    return ResourceSet(tuple(sorted(amounts.items())))


@dataclass(slots=True)
class Reservation:
    """One group's part of the node.

    Invariant: once ``ending``, no member is let in; when the last has gone it is given back.
    """

    taken: list[Allocation]
    pools: tuple[str, ...]
    ending: bool = False


class Reservations:
    """The groups of one node and what the ledger has set aside for each."""

    def __init__(self, resources: NodeResources) -> None:
        self._resources = resources
        self.by_group: dict[bytes, Reservation] = {}

    def fits(self, bundles: Sequence[ResourceSet]) -> bool:
        """Whether all bundles are free now, together."""
        taken = self._take(bundles)
        for allocation in taken or ():
            self._resources.release(allocation)
        return taken is not None

    def reserve(
        self, group_id: bytes, bundles: Mapping[int, ResourceSet] | Sequence[ResourceSet]
    ) -> bool:
        """Sets all bundles aside, or none. False when they are not free.

        Args:
            group_id: The group. While an earlier part of it is still in use here, it has none anew.
            bundles: By index where the others are on other nodes; else all of them.
        """
        if group_id in self.by_group:
            return False
        by_index = bundles if isinstance(bundles, Mapping) else dict(enumerate(bundles))
        taken = self._take(list(by_index.values()))
        if taken is None:
            return False
        pools: dict[str, int] = {}
        gpus: dict[str, dict[int, int]] = {}
        for index, allocation in zip(by_index, taken, strict=True):
            for name, units in (*allocation.resources, (BUNDLE, _GRAINS)):
                for pool in (_pool(name, group_id), _pool(name, group_id, index)):
                    pools[pool] = pools.get(pool, 0) + units
            for pool in (_pool("GPU", group_id), _pool("GPU", group_id, index)):
                free = gpus.setdefault(pool, {})
                for gpu, units in allocation.gpus:
                    free[gpu] = free.get(gpu, 0) + units
        for pool, units in pools.items():
            self._resources.add_pool(pool, units, gpus.get(pool, {}))
        self.by_group[group_id] = Reservation(taken, tuple(pools))
        return True

    def end(self, group_id: bytes) -> None:
        """Gives the group's part back, now or when its last member has gone."""
        reservation = self.by_group.get(group_id)
        if reservation is not None:
            reservation.ending = True
            self.settle()

    def settle(self) -> None:
        """Gives back what ended groups no longer use."""
        for group_id, reservation in list(self.by_group.items()):
            if not reservation.ending or not all(map(self._resources.is_free, reservation.pools)):
                continue
            for pool in reservation.pools:
                self._resources.remove_pool(pool)
            for allocation in reservation.taken:
                self._resources.release(allocation)
            del self.by_group[group_id]

    def _take(self, bundles: Sequence[ResourceSet]) -> list[Allocation] | None:
        taken: list[Allocation] = []
        for bundle in bundles:
            if not self._resources.fits(bundle):
                for allocation in taken:
                    self._resources.release(allocation)
                return None
            taken.append(self._resources.acquire(bundle))
        return taken
