"""Where numbers gather: in a cell for each kind of request, then in the tables of series.

Money is summed as nano-dollars, time as microseconds, so that sums do not drift. All tables together hold at most so many
series; beyond that, new combinations of labels are counted under `other`.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from operator import add

from adapters.types import NO_UNITS
from gateway.metrics.series import SERIES, Labels, Series
from gateway.state.records import TOKENS, Kind, LedgerRow

_LONGEST_LABEL = 120

# -- cells -----------------------------------------------------------------------------------------------------------


class Spread:
    """Microseconds: how many in each bucket (the last one is above all bounds), and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, us: float) -> None:
        """One measurement."""
        self.counts[bisect_left(self.bounds, us)] += 1
        self.sum += us

    def merge(self, other: Spread) -> None:
        """All of another one with the same bounds."""
        self.counts = list(map(add, self.counts, other.counts))
        self.sum += other.sum


def bounds_of(name: str) -> tuple[int, ...]:
    """A histogram's bounds in microseconds."""
    return next(tuple(round(bound * 1e6) for bound in s.buckets) for s in SERIES if s.name == name)


_WHOLE = bounds_of("penstock_request_duration_seconds")
_OVERHEAD = bounds_of("penstock_overhead_seconds")
_PER_TOKEN = bounds_of("litellm_deployment_latency_per_output_token")


class Cell:
    """What requests of one kind have added since the cells were emptied."""

    __slots__ = (
        *TOKENS,
        "answered",
        "cost_nano",
        "first_token",
        "is_answered",
        "is_stream",
        "overhead",
        "per_token",
        "requests",
        "units",
        "unpriced",
        "upstream",
        "whole",
    )

    def __init__(self, kind: Kind) -> None:
        self.is_answered = kind.status == "success"
        self.is_stream = kind.stream
        self.requests = 0
        self.answered = 0
        """Requests whose only attempt answered; the others' attempts are counted at once."""
        self.whole = Spread(_WHOLE)
        self.overhead = Spread(_OVERHEAD)
        self.upstream = Spread(_WHOLE)
        self.first_token = Spread(_WHOLE)
        self.per_token = Spread(_PER_TOKEN)
        self.cost_nano = 0
        self.unpriced = 0
        self.input = self.cache_read = self.cache_write = self.cache_write_1h = self.audio_input = 0
        self.output = self.reasoning = self.audio_output = self.image_input = self.image_output = 0
        self.units = NO_UNITS

    def add(self, row: LedgerRow) -> None:
        """1.2 us."""
        self.requests += 1
        if row.answer_ms is not None:
            self.answered += 1
        us = row.total_us
        self.whole.add(us)
        if row.overhead_us is not None:
            self.overhead.add(row.overhead_us)
            us = max(0, us - row.overhead_us)
        usage = row.usage
        if self.is_answered:
            self.upstream.add(us)
            if self.is_stream and row.ttfb_us is not None:
                self.first_token.add(row.ttfb_us)
            if said := usage.output + usage.reasoning:
                self.per_token.add(us / said)
        if row.cost_nano is None:
            self.unpriced += 1
        else:
            self.cost_nano += row.cost_nano
        self.input += usage.input
        self.cache_read += usage.cache_read
        self.cache_write += usage.cache_write
        self.cache_write_1h += usage.cache_write_1h
        self.audio_input += usage.audio_input
        self.output += usage.output
        self.reasoning += usage.reasoning
        self.audio_output += usage.audio_output
        self.image_input += usage.image_input
        self.image_output += usage.image_output
        if usage.units is not NO_UNITS:
            self.units += usage.units


# -- tables ----------------------------------------------------------------------------------------------------------

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def tamed(labels: Labels) -> Labels:
    """Labels as they may be exported. Before they are counted: two that look the same must be the same series."""
    return tuple(_UNPRINTABLE.sub("?", label[:_LONGEST_LABEL]) for label in labels)


class Room:
    """How many more series may be made, for all tables together."""

    def __init__(self, free: int) -> None:
        self._free = free
        self.overflowed = 0

    def take(self, count: int, observations: int) -> bool:
        """Whether there is room for so many more; if not, so many observations go under `other`."""
        if self._free < count:
            self.overflowed += observations
            return False
        self._free -= count
        return True


class Counter:
    """Integers by labels."""

    def __init__(self, series: Series, room: Room) -> None:
        self.series = series
        self._room = room
        self._other = ("other",) * len(series.labels)
        self.values: dict[Labels, int] = {}

    def add(self, labels: Labels, amount: int = 1, observations: int = 1) -> None:
        """So much more, which so many requests brought."""
        values = self.values
        if labels not in values:
            labels = tamed(labels)
            if labels not in values and not self._room.take(1, observations):
                labels = self._other
            values.setdefault(labels, 0)
        values[labels] += amount


class Histogram:
    """Spreads by labels."""

    def __init__(self, series: Series, room: Room) -> None:
        self.series = series
        self._room = room
        self._other = ("other",) * len(series.labels)
        self._bounds = bounds_of(series.name)
        self.spreads: dict[Labels, Spread] = {}

    def add(self, labels: Labels, added: Spread) -> None:
        """All that was measured there."""
        observations = sum(added.counts)
        if not observations:
            return
        spread = self.spreads.get(labels)
        if spread is None:
            labels = tamed(labels)
            if labels not in self.spreads and not self._room.take(len(added.counts) + 2, observations):
                labels = self._other
            spread = self.spreads.setdefault(labels, Spread(self._bounds))
        spread.merge(added)


class Tables:
    """All of them, by the names of their series."""

    def __init__(self, max_series: int) -> None:
        self.room = Room(max_series)
        self.counters = {s.name: Counter(s, self.room) for s in SERIES if s.kind == "counter"}
        self.histograms = {s.name: Histogram(s, self.room) for s in SERIES if s.kind == "histogram"}


class Stopwatch:
    """One series of a histogram, as `prometheus_client` would have it."""

    def __init__(self, histogram: Histogram, labels: Labels, lock: threading.Lock) -> None:
        self._histogram = histogram
        self._labels = labels
        self._lock = lock

    def observe(self, value: float) -> None:
        """Seconds."""
        spread = Spread(bounds_of(self._histogram.series.name))
        spread.add(value * 1e6)
        with self._lock:
            self._histogram.add(self._labels, spread)
