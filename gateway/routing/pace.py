"""How fast a deployment answers and how often it fails: averages that forget.

Each new measurement counts for a fixed part of the average (`Health.keep` says how much of the old stays), and for more the
longer the one before is ago: what was measured a minute ago says little once something newer is known. Streams and whole
answers are apart, as a caller of the one waits for the first event and a caller of the other for everything.

What other processes measured (`gateway.background.fleet`) goes into the same averages, by how many measurements it stands for.
"""

from __future__ import annotations

from collections import deque
from math import exp

_FADE = 60.0
"""Seconds after which a measurement counts a third of what it did, once there is a newer one."""
_FORGIVEN = 0.05
"""The part of attempts below which a failure is nothing to avoid anybody for."""

_LEAST = 20
_RENEWED = 10

USUAL_SAMPLES = 10


def kept(samples: int) -> float:
    """The part of an average that stays when one is added, so that about the last `samples` measurements make it."""
    return 1 - 2 / (max(1, samples) + 1)


class Average:
    """`value` is None until there is one; `at` is the time of the last measurement, `fresh` how many are untold to others."""

    __slots__ = ("at", "fresh", "value")

    def __init__(self) -> None:
        self.value: float | None = None
        self.at = 0.0
        self.fresh = 0

    def add(self, now: float, value: float, keep: float) -> None:
        """One measurement. 0.2 us."""
        if self.value is None:
            self.value = value
        elif value != self.value:  # most are successes after successes, whose average need not be worked out
            stays = keep * exp((self.at - now) / _FADE) if now > self.at else keep
            self.value = stays * self.value + (1 - stays) * value
        self.at = now
        self.fresh += 1

    def hear(self, now: float, value: float, count: int, keep: float) -> None:
        """The average of another process, which made so many measurements since it told us last."""
        if count > 0:
            fresh = self.fresh
            self.add(now, value, keep**count)
            self.fresh = fresh


class Tail:
    """The seconds in which 95 of 100 of the last hundred answers came; nothing is said from fewer than twenty."""

    __slots__ = ("_last", "_stale", "_value")

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=100)
        self._stale = 0
        self._value = 0.0

    def add(self, seconds: float) -> None:
        """One measurement."""
        self._last.append(seconds)
        self._stale += 1

    @property
    def value(self) -> float | None:
        """Seconds; worked out anew after each ten measurements, as sorting takes 5 us."""
        count = len(self._last)
        if count < _LEAST:
            return None
        if self._stale >= _RENEWED or not self._value:
            self._stale = 0
            self._value = sorted(self._last)[(count * 95 - 1) // 100]
        return self._value


class Pace:
    """All averages of one deployment, in seconds; `failing` is the part of attempts that failed, 0 to 1."""

    __slots__ = ("between", "failing", "first", "per_token", "tails", "whole")

    def __init__(self) -> None:
        self.first = Average()
        """Streams: to the first event."""
        self.between = Average()
        """Streams: from one output token to the next, after the first event."""
        self.whole = Average()
        """Whole answers."""
        self.per_token = Average()
        """Whole answers, by the output token."""
        self.failing = Average()
        self.tails: tuple[Tail, Tail] | None = None
        """Of whole answers and of streams' first events; where hedging needs them."""

    def tail(self, *, streamed: bool) -> Tail:
        """How long nearly all answers took, counted from the first time that somebody asks."""
        if self.tails is None:
            self.tails = Tail(), Tail()
        return self.tails[streamed]

    def outrun(self, now: float, seconds: float, keep: float, *, streamed: bool) -> None:
        """It had not begun to answer after so long, when another one had: it is slower than that, so nothing that is shorter
        than what is known counts.
        """
        average = self.first if streamed else self.whole
        if average.value is None or seconds > average.value:
            average.add(now, seconds, keep)
        if self.tails is not None and seconds > (self.tails[streamed].value or 0.0):
            self.tails[streamed].add(seconds)

    @property
    def latency(self) -> float | None:
        """Seconds to the first event or the answer, whichever was measured last; None if neither was."""
        return max(self.first, self.whole, key=lambda average: average.at).value

    def answered(
        self, now: float, seconds: float | None, per_token: float | None, keep: float, *, streamed: bool
    ) -> None:
        """An answer that came after so many seconds, and its seconds per output token, where they are known."""
        self.failing.add(now, 0.0, keep)
        if seconds is not None:
            (self.first if streamed else self.whole).add(now, seconds, keep)
        if per_token is not None:
            (self.between if streamed else self.per_token).add(now, per_token, keep)

    def failed(self, now: float, keep: float) -> None:
        """An attempt failed."""
        self.failing.add(now, 1.0, keep)

    def failing_now(self, now: float) -> float:
        """The part of attempts that failed, which is forgiven as it gets older, in the end all of it."""
        failing = self.failing
        if not failing.value:
            return 0.0
        part = failing.value * exp(min(0.0, (failing.at - now) / _FADE))
        return part if part >= _FORGIVEN else 0.0
