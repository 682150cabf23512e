"""How much there was in the last minute."""

from __future__ import annotations

_PART = 5.0
"""Seconds that are counted as one: the sum is of the last 55 to 60 seconds."""
_PARTS = 12


class Minute:
    """A sum that slides. Times are `Runtime.now`'s and do not go back. 0.3 us to add."""

    __slots__ = ("_newest", "_parts", "_total")

    def __init__(self) -> None:
        self._parts = [0] * _PARTS
        self._newest = 0
        self._total = 0

    def add(self, now: float, amount: int) -> None:
        """Count `amount` now."""
        part = int(now / _PART)
        if part != self._newest:
            self._turn(part)
        self._parts[part % _PARTS] += amount
        self._total += amount

    def sum(self, now: float) -> int:
        """What was added in the last minute."""
        part = int(now / _PART)
        if part != self._newest:
            self._turn(part)
        return self._total

    def _turn(self, part: int) -> None:
        for passed in range(max(self._newest, part - _PARTS) + 1, part + 1):
            self._total -= self._parts[passed % _PARTS]
            self._parts[passed % _PARTS] = 0
        self._newest = max(self._newest, part)
