"""How each deployment has been doing, learnt from live traffic alone.

Nothing here calls a provider. `gateway.attempting` reports how attempts went, `Router` asks who is available and `/health`
shows it. A deployment that fails is left out for a while (cooled down), with two exceptions that keep a
gateway from taking itself down: the last available deployment of a route is never cooled for server errors or
time-outs, and for a rate limit only as long as the provider said. One that keeps failing opens its circuit besides
(`gateway.routing.breaker`); that goes for the last one too, which is then asked only where there is nobody else.

`allowed_fails` and `allowed_fails_policy` say how many failures, in the time of a cooldown, are no reason yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import time

from adapters.errors import (
    GatewayError,
    UpstreamAuth,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamForbidden,
    UpstreamNotFound,
    UpstreamOutOfMoney,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
)
from adapters.types import Usage
from gateway.config.model import RouterSettings
from gateway.routing.breaker import Breaker
from gateway.routing.concurrency import Concurrency
from gateway.routing.conversations import Conversations
from gateway.routing.pace import USUAL_SAMPLES, Pace, kept
from gateway.routing.retries import consequence
from gateway.routing.spending import Spending
from gateway.routing.windows import Minute

log = logging.getLogger("penstock")

LONGEST_COOLDOWN = 300.0
SHORTEST_COOLDOWN = 1.0
_REMEMBERED = 10_000

_STAYS_BROKEN = (UpstreamAuth, UpstreamForbidden, UpstreamNotFound, UpstreamOutOfMoney)
HAS_NO_ROOM = (UpstreamRateLimited, UpstreamOverloaded)
"""What a deployment says that has more to do than it can."""


def _is_the_callers(error: GatewayError) -> bool:
    """The question was wrong, or named something that does not exist: another's would be answered."""
    return isinstance(error, UpstreamRefused) or (
        isinstance(error, UpstreamNotFound) and error.code != "model_not_found"
    )


class Condition:
    """One deployment. Times are `Runtime.now`'s. What is `elsewhere` was told by other processes."""

    __slots__ = (
        "_by_direction",
        "breaker",
        "concurrency",
        "cooldowns",
        "cooled_for",
        "cooled_until",
        "elsewhere_in_flight",
        "elsewhere_requests",
        "elsewhere_tokens",
        "fails",
        "failures",
        "in_flight",
        "last_reason",
        "pace",
        "probed",
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
        self.cooled_for = ""
        """The reason of its last cooldown."""
        self.breaker: Breaker | None = None
        """None if it has not failed lately."""
        self.concurrency: Concurrency | None = None
        """What was learnt of how much it takes at once; None if nobody wants to know."""
        self.cooldowns: dict[int, int] = {}
        """How often it was left out, by the provider's status."""
        self.fails: dict[str, tuple[float, int]] = {}
        """Failures that are allowed for, by the error's name: since when, and how many."""
        self.probed: tuple[float, str] | None = None
        """When it was last probed, and the reason why that failed, empty if it did not."""
        self.last_reason = ""
        self.pace = Pace()
        self._by_direction: tuple[Minute, Minute] | None = None

    def by_direction(self) -> tuple[Minute, Minute]:
        """Input and output tokens apart, which are counted from the first time that somebody asks."""
        if self._by_direction is None:
            self._by_direction = Minute(), Minute()
        return self._by_direction

    def used(self, now: float, usage: Usage) -> None:
        """A request that it answered has ended."""
        self.tokens.add(now, usage.total)
        if self._by_direction is not None:
            into, out = self._by_direction
            into.add(now, usage.prompt)
            out.add(now, usage.completion)


_NEVER_ASKED = Condition()
"""What looking shows of a deployment that was never asked; a fresh one costs 3 us. Nobody writes to it."""


class _Conditions(dict[str, Condition]):
    """By the id of the deployment: a fresh one for whoever was never asked."""

    configured: frozenset[str] = frozenset()

    def __missing__(self, deployment_id: str) -> Condition:
        if len(self) >= _REMEMBERED:  # wildcards can name any number of models
            self._forget_one()
        condition = self[deployment_id] = Condition()
        return condition

    def _forget_one(self) -> None:
        for deployment_id, condition in self.items():
            if not condition.in_flight and deployment_id not in self.configured:
                del self[deployment_id]
                return


class Health:
    """The conditions of all deployments that have been asked."""

    def __init__(self, *, cooldown: float = 5.0, enabled: bool = True) -> None:
        self._conditions = _Conditions()
        self._cooldown = cooldown
        self._enabled = enabled
        self._allowed: int | None = None
        self._allowed_by_name: Mapping[str, int] = {}
        self.learns_tails = False
        """Whether the slowest of answers are measured, as hedging needs it."""
        self.processes = 1
        """How many tell each other of their deployments, this one included."""
        self.keep = kept(USUAL_SAMPLES)
        """How much of an average stays when a measurement is added (`gateway.routing.pace`)."""
        self.spending = Spending()
        """What was used of budgets and of limits by the day."""
        self.conversations = Conversations()
        """Who answered which conversation."""
        self.learns_concurrency = False
        """It is learnt how much each deployment takes at once."""
        self.on_room: Callable[[], None] | None = None
        """Called when a deployment has a request less; None if nobody waits for it."""

    def adopt(self, settings: RouterSettings, configured: Iterable[str] = ()) -> None:
        """Go by these settings from now on; what is known stays, but for whom nobody leaves out any more. Deployments with
        the ids that are `configured` are never forgotten.
        """
        self._conditions.configured = frozenset(configured)
        if settings.disable_cooldowns and self._enabled:
            for condition in self._conditions.values():
                condition.cooled_until, condition.breaker = 0.0, None
        self._cooldown = settings.cooldown_time
        self._enabled = not settings.disable_cooldowns
        self._allowed = settings.allowed_fails
        self._allowed_by_name = settings.allowed_fails_policy
        self.learns_tails = settings.hedging is not None and settings.hedging.after is None
        self.learns_concurrency = settings.adaptive_concurrency

    def of(self, deployment_id: str) -> Condition:
        """The condition of a deployment, a fresh one if it was never asked."""
        return self._conditions[deployment_id]

    def look(self, deployment_id: str) -> Condition:
        """The condition of a deployment for whoever only shows it: nothing is remembered by looking."""
        return self._conditions.get(deployment_id) or _NEVER_ASKED

    def all(self) -> Iterable[tuple[str, Condition]]:
        """Every deployment that is remembered, by its id."""
        return self._conditions.items()

    def follow_cooldown(self, deployment_id: str, until: float, why: str) -> bool:
        """Another process has left it out until then; whether that is longer than known here, and heeded."""
        condition = self.of(deployment_id)
        if not self._enabled or condition.cooled_until >= until:
            return False
        condition.cooled_until = until
        condition.cooled_for = condition.last_reason = why
        return True

    def is_available(self, deployment_id: str, now: float) -> bool:
        """It is not cooling down, and its circuit lets a request through."""
        condition = self._conditions.get(deployment_id)
        return condition is None or (
            condition.cooled_until <= now and (condition.breaker is None or condition.breaker.allows(now))
        )

    def is_usable(self, deployment_id: str, now: float) -> bool:
        """It is not cooling down: it can be asked where there is nobody else, whatever its circuit says."""
        condition = self._conditions.get(deployment_id)
        return condition is None or condition.cooled_until <= now

    def is_closed(self, deployment_id: str, now: float) -> bool:
        """Its circuit lets a request through, whether or not it is cooling down."""
        breaker = self.look(deployment_id).breaker
        return breaker is None or breaker.allows(now)

    def began(self, deployment_id: str, now: float) -> None:
        """It is being asked."""
        condition = self._conditions[deployment_id]
        condition.in_flight += 1
        condition.requests.add(now, 1)
        if condition.breaker is not None:
            condition.breaker.began(now)
        if self.learns_concurrency:
            if condition.concurrency is None:
                condition.concurrency = Concurrency()
            condition.concurrency.began()

    def heard(self, deployment_id: str, headers: Mapping[str, str], now: float) -> None:
        """It has sent these headers, with lower-case names; called only where `learns_concurrency`."""
        condition = self._conditions.get(deployment_id)
        if condition is not None and condition.concurrency is not None:
            condition.concurrency.heard(headers, now, time())

    def used(self, deployment_id: str, now: float, usage: Usage) -> None:
        """A request that it answered has ended, and has used so much."""
        self._conditions[deployment_id].used(now, usage)

    def succeeded(
        self,
        deployment_id: str,
        now: float,
        seconds: float | None,
        *,
        per_token: float | None = None,
        streamed: bool = False,
    ) -> None:
        """It answered, after `seconds` (a stream: to its first event), with `per_token` seconds for each output token."""
        condition = self._conditions[deployment_id]
        condition.successes += 1
        condition.last_reason = ""
        condition.pace.answered(now, seconds, per_token, self.keep, streamed=streamed)
        if self.learns_tails and seconds is not None:
            condition.pace.tail(streamed=streamed).add(seconds)
        if condition.concurrency is not None:
            first = condition.pace.first.value if streamed else None
            condition.concurrency.answered(now, condition.in_flight, first)
        condition.in_flight -= 1
        if self.on_room is not None:
            self.on_room()
        if condition.breaker is not None and condition.breaker.succeeded(now):
            condition.breaker = None

    def released(self, deployment_id: str) -> None:
        """It is no longer asked, and that says nothing about it (the client left, the question was wrong)."""
        condition = self.of(deployment_id)
        condition.in_flight -= 1
        if condition.breaker is not None:
            condition.breaker.released()
        if self.on_room is not None:
            self.on_room()

    def failed(
        self,
        deployment_id: str,
        error: GatewayError,
        now: float,
        *,
        peers: Iterable[str],
        cooldown: float | None = None,
        started: float = 0.0,
    ) -> bool:
        """It failed; whether its circuit opens now. `peers` are the ids of the deployments that such requests may go to: if no other
        is available, it is the last.

        `cooldown` is the deployment's own time in seconds, if it has one; at `started` it was asked.
        """
        condition = self.of(deployment_id)
        if _is_the_callers(error):
            self.released(deployment_id)
            return False
        condition.in_flight -= 1
        if condition.breaker is not None:
            condition.breaker.released()  # whatever it is taken for, a probe has ended
        if self.on_room is not None:
            self.on_room()
        is_last = not any(peer != deployment_id and self.is_available(peer, now) for peer in peers)
        condition.failures += 1
        condition.last_reason = error.reason
        condition.pace.failed(now, self.keep)
        is_crowded = (
            condition.concurrency is not None
            and isinstance(error, HAS_NO_ROOM)
            and condition.concurrency.refused(now, started, condition.in_flight)
            and self.learns_concurrency
        )
        if is_crowded and isinstance(error, UpstreamError) and error.retry_after is None:
            return False  # its limit is lower now: that is the answer to it
        usual = self._cooldown if cooldown is None else cooldown
        if not self._enabled or self._is_allowed(condition, error, now, usual):
            return False
        seconds = self._cooldown_for(error, usual, is_last=is_last)
        if seconds > 0:
            condition.cooled_until = max(condition.cooled_until, now + seconds)
            condition.cooled_for = error.reason
            log.debug("deployment %s cools down for %g s: %s", deployment_id, seconds, error.reason)
        opens = not is_crowded and self._breaks(condition, error, now, usual)
        if seconds > 0 or opens:
            status = (isinstance(error, UpstreamError) and error.provider_status) or error.status
            condition.cooldowns[status] = condition.cooldowns.get(status, 0) + 1
        return opens

    def learnt(self) -> Iterator[tuple[str, int]]:
        """How many requests at once deployments are known to take, by id; another thread may ask."""
        for deployment_id, condition in list(self._conditions.items()):
            if condition.concurrency is not None:
                yield deployment_id, condition.concurrency.places

    def cooldowns(self) -> Iterator[tuple[str, int, int]]:
        """How often deployments were left out: id, the provider's status, times; another thread may ask."""
        for deployment_id, condition in list(self._conditions.items()):
            for status, times in list(condition.cooldowns.items()):
                yield deployment_id, status, times

    def _is_allowed(self, condition: Condition, error: GatewayError, now: float, span: float) -> bool:
        """It has not failed so more often than it may, in such a time."""
        name = consequence(error).name
        allowed = self._allowed_by_name.get(name)
        if allowed is None:
            name, allowed = "", self._allowed
        if allowed is None:
            return False
        since, count = condition.fails.get(name, (now, 0))
        if now - since > span:
            since, count = now, 0
        condition.fails[name] = since, count + 1
        return count < allowed

    def _breaks(self, condition: Condition, error: GatewayError, now: float, seconds: float) -> bool:
        if isinstance(error, UpstreamDisconnected) and error.reused:
            return False
        if condition.breaker is None:
            condition.breaker = Breaker()
        return condition.breaker.failed(now, max(seconds, SHORTEST_COOLDOWN))

    def _cooldown_for(self, error: GatewayError, usual: float, *, is_last: bool) -> float:
        wished = error.retry_after if isinstance(error, UpstreamError) else None
        if isinstance(error, UpstreamRateLimited):
            if wished is None:
                return 0.0 if is_last else usual
            return min(max(wished, SHORTEST_COOLDOWN), LONGEST_COOLDOWN)
        if is_last or (isinstance(error, UpstreamDisconnected) and error.reused):
            return 0.0
        if wished is not None and not isinstance(error, _STAYS_BROKEN):
            return min(max(wished, SHORTEST_COOLDOWN), LONGEST_COOLDOWN)
        return usual
