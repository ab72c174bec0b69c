"""Who may still give the object: the holders of one fetch, and why each one fell out.

Pure: the clock's reading is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence


class Roster:
    """The holders of one fetch, the preferred first.

    Invariant: a holder that was dropped is never chosen again.
    """

    def __init__(
        self, holders: Sequence[str], *, at_once: int, pause_s: float, pause_s_max: float
    ) -> None:
        self.failures: dict[str, str] = {}
        self._uses = dict.fromkeys(holders, 0)
        self._rests_until_s = dict.fromkeys(holders, 0.0)
        self._pauses_s = dict.fromkeys(holders, pause_s)
        self._pause_s_max = pause_s_max
        self._at_once = at_once

    @property
    def at_once(self) -> int:
        """How many can be used at the same time."""
        return min(self._at_once, len(self._uses))

    @property
    def empty(self) -> bool:
        """Whether nobody is left who could give the object."""
        return not self._uses

    def choose(self, now_s: float) -> str | None:
        """The least used of the first `at_once` holders that do not rest; `release` it."""
        awake = [holder for holder in self._uses if self._rests_until_s[holder] <= now_s]
        if not awake:
            return None
        holder = min(awake[: self._at_once], key=self._uses.__getitem__)
        self._uses[holder] += 1
        return holder

    def release(self, holder: str) -> None:
        """One stream less from there."""
        if holder in self._uses:
            self._uses[holder] -= 1

    def drop(self, holder: str, reason: str) -> None:
        """Nothing more is wanted from there. The first reason counts."""
        if self._uses.pop(holder, None) is not None:
            self.failures[holder] = reason

    def rest(self, holder: str, now_s: float) -> None:
        """It is too busy now; the pause doubles each time."""
        self._rests_until_s[holder] = now_s + self._pauses_s[holder]
        self._pauses_s[holder] = min(self._pause_s_max, 2 * self._pauses_s[holder])

    def wakes_at_s(self) -> float:
        """When the first of those that rest may be asked again."""
        return min((self._rests_until_s[holder] for holder in self._uses), default=0.0)
