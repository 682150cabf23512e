"""How many further attempts there may be, so that a provider in trouble is not asked all the more.

Retries multiply: three of each request make a small outage four times the load, just when there is least to spare. So the
process counts its requests of the last ten seconds, and further attempts (of whatever kind: the same deployment again,
another one, another model) may be `ratio` of them, a fifth. Up to `minimum` a second are always allowed: a gateway with few
requests shall be as stubborn as its configuration says. Upstreams see 1.2 times what was offered at most, beyond 15
requests a second.

A request that goes straight to another deployment, because the first is cooling down or its circuit is open, has made no
further attempt. So the budget is needed until the health book has learnt what is broken, and not for as long as it is.
"""

from __future__ import annotations

from gateway.config.model import RetryBudget
from gateway.routing.windows import Window

_SECONDS = 10


class Attempts:
    """The further attempts of one process. Times are `Runtime.now`'s."""

    def __init__(self) -> None:
        self.budget = RetryBudget()
        """Set anew by each reload of the configuration."""
        self.refused = 0
        """Further attempts that were not made, since the start."""
        self._requests = Window(1.0, _SECONDS)
        self._further = Window(1.0, _SECONDS)

    def offered(self, now: float) -> None:
        """A request is sent to its first deployment. 0.2 us."""
        self._requests.add(now, 1)

    def take(self, now: float) -> bool:
        """May there be one more attempt than one? It counts if so."""
        if self.has_room(now):
            self._further.add(now, 1)
            return True
        self.refused += 1
        return False

    def has_room(self, now: float) -> bool:
        """Whether `take` would say yes."""
        most = max(self.budget.minimum * _SECONDS, self.budget.ratio * self._requests.sum(now))
        return self._further.sum(now) < most
