"""A circuit breaker: whoever fails half of the time is left in peace, and then asked by one.

Cooldowns answer to single failures, and never take the last deployment of a route away. A breaker looks at the last ten
attempts: when five of them have failed it opens, and requests go elsewhere, to another deployment or to the fallbacks. Where
there is no elsewhere, the deployment is asked all the same, once for each request: nobody is cut off. After its time it is
half-open: one request is let through as a probe while all others still go elsewhere. If the probe fails, the time doubles.

Only deployments that have failed lately have a breaker.
"""

from __future__ import annotations

_OUTCOMES = 10
_FAILURES = 5
_ALL = (1 << _OUTCOMES) - 1
LONGEST = 300.0
"""Seconds that a breaker stays open at most before its next probe."""


class Breaker:
    """Of one deployment. Times are `Runtime.now`'s, `seconds` the first time for which it is open."""

    __slots__ = ("_failures", "_seconds", "is_probed", "open_until")

    def __init__(self) -> None:
        self._failures = 0
        """The last attempts, one bit each: 1 has failed."""
        self._seconds = 0.0
        self.open_until = 0.0
        """0.0: it is closed."""
        self.is_probed = False
        """The one request that may is under way."""

    def allows(self, now: float) -> bool:
        """A request may go through: it is closed, or would be the probe."""
        return not self.open_until or (self.open_until <= now and not self.is_probed)

    def began(self, now: float) -> None:
        """A request goes through."""
        if self.open_until and self.open_until <= now:
            self.is_probed = True

    def released(self) -> None:
        """A request has ended that says nothing: if it was the probe, the next one is."""
        self.is_probed = False

    def succeeded(self, now: float) -> bool:
        """Whether nothing is left to remember: the probe has answered, or ten attempts have."""
        if not self.open_until:
            self._failures = self._failures << 1 & _ALL
            return not self._failures
        if self.is_probed:
            return True
        self.open_until = min(self.open_until, now)  # asked for want of another: time for a probe
        return False

    def failed(self, now: float, seconds: float) -> bool:
        """Whether it opens now."""
        self._failures = (self._failures << 1 | 1) & _ALL
        if self.open_until > now:
            return False
        if self.open_until:
            self._seconds = min(2 * self._seconds, LONGEST)
        elif self._failures.bit_count() < _FAILURES:
            return False
        else:
            self._seconds = seconds
        self.open_until = now + self._seconds
        self.is_probed = False
        return True

    def state(self, now: float) -> str:
        """`closed`, `open` or `half_open`."""
        if not self.open_until:
            return "closed"
        return "open" if self.open_until > now else "half_open"
