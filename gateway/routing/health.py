"""How each deployment has been doing, learnt from live traffic alone.

Nothing here calls a provider. `stages.upstream` reports how attempts went; the route planner asks who is available and
`/health` shows it. A deployment that fails is left out for a while (cooled down), with two exceptions that keep a
gateway from taking itself down: the last available deployment of a route is never cooled for server errors or
time-outs, and for a rate limit only as long as the provider said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from adapters.errors import (
    GatewayError,
    UpstreamAuth,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamForbidden,
    UpstreamNotFound,
    UpstreamOutOfMoney,
    UpstreamRateLimited,
    UpstreamRefused,
)
from gateway.routing.windows import Minute

log = logging.getLogger("penstock")

LONGEST_COOLDOWN = 300.0
SHORTEST_COOLDOWN = 1.0
_REMEMBERED = 10_000

_STAYS_BROKEN = (UpstreamAuth, UpstreamForbidden, UpstreamNotFound, UpstreamOutOfMoney)


def _is_the_callers(error: GatewayError) -> bool:
    """The question was wrong, or named something that does not exist: another's would be answered."""
    return isinstance(error, UpstreamRefused) or (
        isinstance(error, UpstreamNotFound) and error.code != "model_not_found"
    )


class Condition:
    """One deployment. Times are `Runtime.now`'s. What is `elsewhere` was told by other processes."""

    __slots__ = (
        "cooled_until",
        "elsewhere_in_flight",
        "elsewhere_requests",
        "elsewhere_tokens",
        "failures",
        "in_flight",
        "last_reason",
        "latency",
        "per_token",
        "requests",
        "successes",
        "tokens",
    )

    def __init__(self) -> None:
        self.requests = Minute()
        """Requests that it was asked in the last minute."""
        self.tokens = Minute()
        """Tokens that requests used which ended in the last minute."""
        self.elsewhere_in_flight = 0
        self.elsewhere_requests = 0
        self.elsewhere_tokens = 0
        self.in_flight = 0
        self.successes = 0
        self.failures = 0
        self.cooled_until = 0.0
        self.last_reason = ""
        self.latency: float | None = None
        """Seconds to the first event (streams) or the answer, a moving average."""
        self.per_token: float | None = None
        """Seconds per output token of whole answers and of streams after their first event, a moving average."""


class Health:
    """The conditions of all deployments that have been asked."""

    def __init__(self, *, cooldown: float = 5.0, enabled: bool = True) -> None:
        self._conditions: dict[str, Condition] = {}
        self._cooldown = cooldown
        self._enabled = enabled

    def of(self, deployment_id: str) -> Condition:
        """The condition of a deployment, a fresh one if it was never asked."""
        condition = self._conditions.get(deployment_id)
        if condition is None:
            if len(self._conditions) >= _REMEMBERED:  # wildcards can name any number of models
                self._forget_one()
            condition = self._conditions[deployment_id] = Condition()
        return condition

    def look(self, deployment_id: str) -> Condition:
        """The condition of a deployment for whoever only shows it: nothing is remembered by looking."""
        return self._conditions.get(deployment_id) or Condition()

    def is_available(self, deployment_id: str, now: float) -> bool:
        """It is not cooling down."""
        condition = self._conditions.get(deployment_id)
        return condition is None or condition.cooled_until <= now

    def began(self, deployment_id: str, now: float) -> None:
        """It is being asked."""
        condition = self.of(deployment_id)
        condition.in_flight += 1
        condition.requests.add(now, 1)

    def used(self, deployment_id: str, now: float, tokens: int) -> None:
        """A request that it answered has ended, and has used so many tokens in all."""
        self.of(deployment_id).tokens.add(now, tokens)

    def succeeded(self, deployment_id: str, seconds: float | None, *, per_token: float | None = None) -> None:
        """It answered, after `seconds`, and needed `per_token` seconds for each token of its answer."""
        condition = self.of(deployment_id)
        condition.in_flight -= 1
        condition.successes += 1
        condition.last_reason = ""
        if seconds is not None:
            condition.latency = (
                seconds if condition.latency is None else 0.8 * condition.latency + 0.2 * seconds
            )
        if per_token is not None:
            condition.per_token = (
                per_token if condition.per_token is None else 0.8 * condition.per_token + 0.2 * per_token
            )

    def released(self, deployment_id: str) -> None:
        """It is no longer asked, and that says nothing about it (the client left, the question was wrong)."""
        self.of(deployment_id).in_flight -= 1

    def failed(self, deployment_id: str, error: GatewayError, now: float, *, peers: Iterable[str]) -> None:
        """It failed. `peers` are the ids of its route's deployments: if no other is available, it is the last."""
        condition = self.of(deployment_id)
        condition.in_flight -= 1
        if _is_the_callers(error):
            return
        is_last = not any(peer != deployment_id and self.is_available(peer, now) for peer in peers)
        condition.failures += 1
        condition.last_reason = error.reason
        seconds = self._cooldown_for(error, is_last=is_last)
        if self._enabled and seconds > 0:
            condition.cooled_until = max(condition.cooled_until, now + seconds)
            log.debug("deployment %s cools down for %g s: %s", deployment_id, seconds, error.reason)

    def _cooldown_for(self, error: GatewayError, *, is_last: bool) -> float:
        wished = error.retry_after if isinstance(error, UpstreamError) else None
        if isinstance(error, UpstreamRateLimited):
            if wished is None:
                return 0.0 if is_last else self._cooldown
            return min(max(wished, SHORTEST_COOLDOWN), LONGEST_COOLDOWN)
        if is_last or (isinstance(error, UpstreamDisconnected) and error.reused):
            return 0.0
        if wished is not None and not isinstance(error, _STAYS_BROKEN):
            return min(max(wished, SHORTEST_COOLDOWN), LONGEST_COOLDOWN)
        return self._cooldown

    def _forget_one(self) -> None:
        for deployment_id, condition in self._conditions.items():
            if not condition.in_flight:
                del self._conditions[deployment_id]
                return
