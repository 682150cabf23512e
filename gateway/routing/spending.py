"""What deployments and providers have used of what they may in a day, a month …: money, tokens, requests.

Each `Tally` counts one of these for one deployment or one provider in its present period, which begins anew as budgets do
(`gateway.state.periods`). It is read from the ledger in the background (`gateway.background.spending`); what ends here is
added at once, what ends in other processes comes with the next reading. So a decision never waits, and a budget may be
overdrawn by what is under way when it is used up, and by what others spent since they were read last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, time, tzinfo
from itertools import chain
from time import time as unix_seconds
from typing import Literal, TypeAlias

from msgspec import Struct

from adapters.providers import provider as provider_row
from adapters.types import Usage
from gateway.config.model import ModelParams, ProviderBudget
from gateway.pricing import dollars_text, nano
from gateway.routes import Deployment
from gateway.state.periods import MONDAY, Period, period

Measure: TypeAlias = Literal["dollars", "tokens", "requests"]
Owner: TypeAlias = tuple[Literal["provider", "deployment"], str]
"""A provider's name, or a deployment's id."""

_MOST = 10_000
_NEVER = 253_402_300_800
"""The year 10000, in unix seconds."""


class Allowance(Struct, frozen=True):
    """At most `limit` (nano-dollars where `measure` is dollars) in each `duration`; without one, in all."""

    measure: Measure
    limit: int
    duration: str | None
    reset_time: time | None = None


class Tally:
    """What was used of an allowance in the period that `starts` (unix seconds, inclusive) and `ends` (exclusive)."""

    __slots__ = ("allowance", "ends", "is_known", "name", "owner", "starts", "used")

    def __init__(self, owner: Owner, name: str, allowance: Allowance) -> None:
        self.owner = owner
        self.name = name
        """Whose it is, for people."""
        self.allowance = allowance
        self.starts = 0
        self.ends = 0
        self.used = 0
        self.is_known = False
        """The ledger was read."""

    @property
    def is_used_up(self) -> bool:
        """Nothing is left."""
        return self.used >= self.allowance.limit

    def count(self, nano_dollars: int, tokens: int) -> None:
        """A request has ended."""
        measure = self.allowance.measure
        self.used += nano_dollars if measure == "dollars" else tokens if measure == "tokens" else 1

    def __str__(self) -> str:
        used, limit = self.used, self.allowance.limit
        span = f" in {self.allowance.duration}" if self.allowance.duration else ""
        if self.allowance.measure == "dollars":
            return f"Exceeded budget for {self.name}: {dollars_text(used)} >= {dollars_text(limit)}{span}"
        return f"{self.name} has used {used} of {limit} {self.allowance.measure}{span}"


class Spending:
    """All tallies of a gateway; they outlive its configuration. `wall` is unix seconds."""

    def __init__(self, wall: Callable[[], float] = unix_seconds) -> None:
        self._wall = wall
        self._zone: tzinfo = UTC
        self._reset_time = time()
        self._tallies: dict[Owner, tuple[Tally, ...]] = {}
        self.is_on = False
        """Something is counted."""

    def configure(
        self,
        providers: Mapping[str, ProviderBudget],
        zone: tzinfo,
        reset_time: time,
        deployments: Iterable[Deployment] = (),
    ) -> None:
        """What the configuration says. Tallies that are still wanted go on; those of other models come when they are asked for."""
        self._zone, self._reset_time = zone, reset_time
        before, self._tallies = self._tallies, {}
        for tally in chain.from_iterable(before.values()):
            tally.ends, tally.is_known = 0, False  # its periods may begin at another time
        for name, budget in providers.items():
            provider = _name_of(name)
            own: Owner = ("provider", provider)
            allowance = Allowance("dollars", nano(budget.limit, "budget_limit"), budget.period)
            self._keep(own, f"provider {provider}", (allowance,), before.get(own, ()))
        for deployment in deployments:
            self._of(deployment, before.get(("deployment", deployment.id), ()))
        self.is_on = bool(self._tallies)

    def of(self, deployment: Deployment) -> tuple[Tally, ...]:
        """What binds a deployment: its own, and its provider's."""
        known = self._tallies.get(("deployment", deployment.id))
        own = self._of(deployment, ()) if known is None else known
        return own + self._tallies.get(("provider", deployment.provider), ())

    def now(self, tally: Tally) -> float:
        """Seconds until this tally's period ends; a new one has begun if it had."""
        wall = self._wall()
        if wall >= tally.ends:
            self._begin(tally, wall)
        return tally.ends - wall

    def add(
        self, deployment: Deployment, started: float, nano_dollars: int | None, usage: Usage | None
    ) -> None:
        """A request that began at that unix second has ended."""
        tokens = usage.total if usage is not None else 0
        owners: tuple[Owner, Owner] = (("deployment", deployment.id), ("provider", deployment.provider))
        for owner in owners:
            for tally in self._tallies.get(owner, ()):
                self.now(tally)
                if started >= tally.starts:
                    tally.count(nano_dollars or 0, tokens)

    # -- for the worker that reads the ledger ------------------------------------------------------------------------

    def tallies(self) -> Iterator[Tally]:
        """All, in their present periods."""
        for tallies in tuple(self._tallies.values()):
            for tally in tallies:
                self.now(tally)
                yield tally

    # -- for who shows it --------------------------------------------------------------------------------------------

    def dollars_left(self) -> Iterator[tuple[str, str, int]]:
        """Of each budget: whose kind (`provider`, `deployment`), its name or id, and nano-dollars."""
        for tally in self.tallies():
            if tally.allowance.measure == "dollars":
                yield (*tally.owner, max(0, tally.allowance.limit - tally.used))

    # -- made once ---------------------------------------------------------------------------------------------------

    def _of(self, deployment: Deployment, known: tuple[Tally, ...]) -> tuple[Tally, ...]:
        allowances = _allowances(deployment.params)
        if not allowances:
            return ()
        name = f"deployment {deployment.model_name} ({deployment.id[:16]})"
        return self._keep(("deployment", deployment.id), name, allowances, known)

    def _keep(
        self, owner: Owner, name: str, allowances: tuple[Allowance, ...], known: tuple[Tally, ...]
    ) -> tuple[Tally, ...]:
        if len(self._tallies) >= _MOST:  # wildcards can name any number of models
            del self._tallies[next(other for other in self._tallies if other[0] == "deployment")]
        before = {tally.allowance: tally for tally in known}
        found = tuple(before.get(allowance) or Tally(owner, name, allowance) for allowance in allowances)
        self._tallies[owner] = found
        self.is_on = True
        return found

    def _begin(self, tally: Tally, wall: float) -> None:
        found = self._period(tally.allowance, wall)
        if tally.ends and found.starts != tally.starts:  # 0: its first one here, or told to look again
            tally.used = 0
        tally.starts, tally.ends = found.starts, found.ends

    def _period(self, allowance: Allowance, wall: float) -> Period:
        if allowance.duration is None:
            return Period("", 0, _NEVER)
        at = allowance.reset_time or self._reset_time
        return period(allowance.duration, wall, self._zone, at, MONDAY)


def _allowances(params: ModelParams | None) -> tuple[Allowance, ...]:
    if params is None:
        return ()
    found = []
    if params.max_budget is not None:
        found.append(Allowance("dollars", nano(params.max_budget, "max_budget"), params.budget_duration))
    at = time.fromisoformat(params.daily_reset_time) if params.daily_reset_time else None
    if params.tpd is not None:
        found.append(Allowance("tokens", params.tpd, "1d", at))
    if params.rpd is not None:
        found.append(Allowance("requests", params.rpd, "1d", at))
    return tuple(found)


def _name_of(provider: str) -> str:
    row = provider_row(provider)
    return row.name if row is not None else provider
