"""How much there was lately."""

from __future__ import annotations


class Window:
    """A sum that slides over `parts` spans of `part` seconds each: of all of them, the newest as far as it has come.

    Times are `Runtime.now`'s and do not go back. 0.15 us to add.
    """

    __slots__ = ("_ends", "_newest", "_part", "_parts", "_place", "_total")

    def __init__(self, part: float, parts: int) -> None:
        self._part = part
        self._parts = [0] * parts
        self._newest = 0
        self._place = 0
        """Of the newest part among `_parts`."""
        self._ends = part
        """When the newest part is over."""
        self._total = 0

    def add(self, now: float, amount: int) -> None:
        """Count `amount` now."""
        if now >= self._ends:
            self._turn(now)
        self._parts[self._place] += amount
        self._total += amount

    def sum(self, now: float) -> int:
        """What was added within the window."""
        if now >= self._ends:
            self._turn(now)
        return self._total

    def wait(self, now: float, below: int) -> float:
        """Seconds until the sum is below that, if nothing is added; those of the window if it never is."""
        left = self.sum(now)
        if left < below:
            return 0.0
        parts = self._parts
        for part in range(self._newest - len(parts) + 1, self._newest + 1):
            left -= parts[part % len(parts)]
            if left < below:
                return (part + len(parts)) * self._part - now
        return len(parts) * self._part

    def _turn(self, now: float) -> None:
        parts, part = self._parts, int(now / self._part)
        for passed in range(max(self._newest, part - len(parts)) + 1, part + 1):
            self._total -= parts[passed % len(parts)]
            parts[passed % len(parts)] = 0
        self._newest = part
        self._place = part % len(parts)
        self._ends = (part + 1) * self._part


class Minute(Window):
    """Of the last 55 to 60 seconds."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(5.0, 12)
