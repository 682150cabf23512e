"""How many requests at once a deployment takes, learnt from how it answers.

Nobody writes this number down, and it changes: a provider's capacity, a neighbour's load, the size of a server. So it is
found as TCP finds the width of a line. While answers come and the limit is reached, it grows: by one for each answer until
the first refusal ever, by one for each round of answers from then on, and eight times slower where it was refused last. A
refusal (429, 503, 529) brings it down to what is still under way, to half at most; those of the same round count once, since
all of them were sent before anything was known. Where streams take twice as long to their first event as they usually do at
their best, it shrinks by one for each round: the deployment queues, which is no refusal yet.

What the provider tells of its rate limits with each answer bounds it too: `x-ratelimit-remaining-requests` and its kin. Those
limits fill up evenly until their reset (OpenAI's and Anthropic's do), so with nothing left it is not the reset that is waited
for, but the first part of it. Where only the reset is told, that is waited for.

Each process learns for itself, of its own requests: what several have learnt adds up to what the deployment takes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct

START = 10.0
LEAST = 1.0
MOST = 1_000.0
LONGEST_RESET = 300.0
"""Seconds for which a provider's word is taken."""

_CAREFUL = 8
"""Rounds of answers before it is tried again where it was refused."""
_SLOW = 2.0
"""Times its usual best, from which the time to the first event means that a deployment queues."""
_LEAST_BY_LATENCY = 4.0
_MEMORY = 600.0
"""Seconds in which the usual best follows a lasting change."""
_LEARNING = 10
"""Streams from which the usual best is made."""
_PART_OF_TOKENS = 0.01
"""The part of a limit of tokens that must be there for another request."""
_PLENTY = 0.1
"""The part of a limit of tokens from which it is far away."""

_KINDS = ("requests", "tokens")
_ANTHROPIC = ("requests", "input-tokens", "output-tokens")
_WORDS: tuple[tuple[str, str, str, str], ...] = (
    *(
        (kind, f"x-ratelimit-remaining-{kind}", f"x-ratelimit-limit-{kind}", f"x-ratelimit-reset-{kind}")
        for kind in _KINDS
    ),
    *(
        (
            kind,
            f"anthropic-ratelimit-{kind}-remaining",
            f"anthropic-ratelimit-{kind}-limit",
            f"anthropic-ratelimit-{kind}-reset",
        )
        for kind in _ANTHROPIC
    ),
)
"""Kind, and the headers of what remains, of the limit and of its reset."""

_LONGEST_COUNT = 15
_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,12})?)(ms|us|µs|ns|h|m|s)?", re.ASCII)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, None: 1.0}


class _Bucket(Struct):
    """A provider's rate limit as it was told last: what is left, and what comes back in a second. Full at `reset`."""

    left: float
    per_second: float
    needed: float
    at: float
    reset: float

    def wait(self, now: float) -> float:
        """Seconds until there is enough for another request."""
        if now >= self.reset:
            return 0.0
        missing = self.needed - self.left - self.per_second * (now - self.at)
        if missing <= 0:
            return 0.0
        until_reset = self.reset - now
        return min(missing / self.per_second, until_reset) if self.per_second else until_reset


class Concurrency:
    """Of one deployment. Times are `Runtime.now`'s, `in_flight` are the requests that it has been asked and not ended."""

    __slots__ = (
        "_at_best",
        "_at_best_since",
        "_buckets",
        "_fell_at",
        "_floor",
        "_patience",
        "_refused_at",
        "_streams",
        "limit",
    )

    def __init__(self) -> None:
        self.limit = START
        """Requests at once; its whole part counts."""
        self._refused_at: float | None = math.inf
        """What was in flight when it was refused last; None if it has answered as many since, infinite before the first."""
        self._fell_at = -math.inf
        self._floor = LEAST
        self._patience: int | None = None
        """Refusals that are still put down to the load; None after an answer."""
        self._streams = 0
        self._at_best = 0.0
        self._at_best_since = 0.0
        self._buckets: dict[str, _Bucket] = {}

    @property
    def places(self) -> int:
        """Requests that it may have at once."""
        return int(self.limit)

    def wait(self, now: float) -> float:
        """Seconds until its provider's rate limits have room for another request, as far as they were told."""
        return max((bucket.wait(now) for bucket in self._buckets.values()), default=0.0)

    def began(self) -> None:
        """It is asked once more."""
        requests = self._buckets.get("requests")
        if requests is not None:
            requests.left -= 1

    def answered(self, now: float, in_flight: int, first: float | None) -> None:
        """It has answered; that request is still counted in `in_flight`.

        `first` is the average time to the first event in seconds; None if this was no stream.
        """
        self._patience = None
        slow = first is not None and self._is_slow(now, first)
        if in_flight < self.places:
            return
        if slow:
            if self.limit > _LEAST_BY_LATENCY:
                self.limit = max(_LEAST_BY_LATENCY, self.limit - 1 / self.limit)
            return
        refused_at = self._refused_at
        if refused_at is None:
            step = 1 / self.limit
        elif math.isinf(refused_at):
            step = 1.0
        elif in_flight >= refused_at:
            self._refused_at = None
            step = 1 / self.limit
        else:
            step = 1 / (self.limit * (_CAREFUL if self.places + 1 >= refused_at else 1))
        self.limit = min(MOST, self.limit + step)

    def refused(self, now: float, started: float, in_flight: int) -> bool:
        """It had no room for a request that it was asked at `started` and that is no longer counted in `in_flight`.

        False if it refuses so much that it is not a matter of how many there are at once.
        """
        if self._patience is None:
            self._patience = max(2, in_flight + 1)
        self._patience -= 1
        if started >= self._fell_at:
            self._floor = self.limit / 2
            self._fell_at = now
        self._refused_at = in_flight + 1
        self.limit = max(LEAST, self._floor, min(self.limit, float(in_flight)))
        return in_flight > 0 and self._patience >= 0

    def heard(self, headers: Mapping[str, str], now: float, wall: float) -> None:
        """Take in what an answer's headers, with lower-case names, tell of rate limits; `wall` is unix time."""
        for kind, remaining, limit, reset in _WORDS:
            left = _count(headers.get(remaining, ""))
            if left is None:
                continue
            total = _count(headers.get(limit, "")) or 0.0
            # With plenty left, nobody has to wait for a reset: reading one takes 1 us.
            if left > (MOST if kind == "requests" else total * _PLENTY):
                self._buckets.pop(kind, None)
                continue
            seconds = seconds_until(headers.get(reset, ""), wall)
            if seconds is None:
                continue
            self._buckets[kind] = _Bucket(
                left,
                (total - left) / seconds if seconds > 0 and total > left else 0.0,
                1.0 if kind == "requests" else max(1.0, total * _PART_OF_TOKENS),
                now,
                now + min(seconds, LONGEST_RESET),
            )

    def _is_slow(self, now: float, first: float) -> bool:
        """It takes clearly longer than at its best, which is forgotten slowly."""
        self._streams += 1
        passed, self._at_best_since = now - self._at_best_since, now
        share = max(1 / self._streams if self._streams <= _LEARNING else 0.0, min(1.0, passed / _MEMORY))
        self._at_best = (
            min(first, self._at_best + share * (first - self._at_best)) if self._streams > 1 else first
        )
        return self._streams > _LEARNING and first > _SLOW * self._at_best


def _count(text: str) -> float | None:
    """A number of requests or tokens; None if it is none."""
    return float(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_COUNT else None


def seconds_until(text: str, wall: float) -> float | None:
    """A reset as providers write it, in seconds from now: `6m0s`, `17.4`, `2ms`, a time in RFC 3339; None if it is none."""
    if "T" in text:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        return max(0.0, moment.timestamp() - wall) if moment.tzinfo is not None else None
    parts = list(_SPAN.finditer(text))
    if not parts or "".join(part.group() for part in parts) != text:
        return None
    return sum(float(part.group(1)) * _UNITS[part.group(2)] for part in parts)
