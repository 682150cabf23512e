"""What several gateways know of the deployments that they all ask, told from each to each once a second.

A deployment's rate limit, its speed and its failures are the same whoever asks it, but each process sees only its own
requests. So each tells the others what it has in flight and used in the last minute, how fast answers came, and whom it has
left out (`routing.health`), in one message over `Shared`; nothing is told while nothing is asked. A choice looks only at
what is here already: it is about a second old, and if the store is away, all go on with what they know themselves.

What was told counts until the next message of that process, and for five seconds if none comes: a process that ended has
nothing in flight. Measurements go into the averages that are here (`routing.pace`), weighed by how many they are. A rate limit
that one process ran into leaves the deployment out everywhere. What else one has left out for is followed only while another
deployment of the same route can be asked: each process spares its last one, and news must not take it away.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, TypeAlias
from uuid import uuid4

import msgspec
from msgspec import Meta, Struct

from adapters.errors import UpstreamRateLimited
from gateway.routes import Routes
from gateway.routing.health import LONGEST_COOLDOWN, Condition, Health
from gateway.routing.pace import Average
from gateway.state.shared import Shared, SharedAway

log = logging.getLogger("penstock.fleet")

INTERVAL = 1.0
SILENCE = 5.0
"""Seconds after which what a process told counts no more."""
_REMINDER = 3.0
"""Seconds after which what has not changed is told again."""
_CHANNEL = "fleet"
_MOST_ROWS = 500
"""Deployments in a message, those asked most: some 60 kB. Others are known to their own process only."""
_MOST_BYTES = 256 * 1024
_MOST_PROCESSES = 1_000
_MEASURES = ("first", "between", "whole", "per_token", "failing")

_dice = random.Random()  # noqa: S311 - spreads work, no secrets


Count: TypeAlias = Annotated[int, Meta(ge=0, le=10**15)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e6)]
"""Anybody can write to Redis: what no process could have counted or measured is not taken in."""


class Row(Struct, frozen=True, array_like=True, gc=False):
    """One deployment, as one process sees it. `cooling` is the seconds for which that process leaves it out, and `why`.

    `measured` has the average of each of `Pace`'s measures in the order of its names, and how many measurements are new.
    """

    deployment: str
    in_flight: Count = 0
    requests: Count = 0
    tokens: Count = 0
    cooling: Seconds = 0.0
    why: str = ""
    measured: tuple[tuple[Seconds, Count], ...] = ()


class News(Struct, frozen=True, array_like=True):
    """All that a process has to say: what is not in it is idle."""

    process: str
    rows: tuple[Row, ...]


_decoder = msgspec.json.Decoder(News)


class _Heard(Struct):
    """The last news of another process, and when they came."""

    at: float
    rows: Mapping[str, Row]


class Fleet:
    """Tells other processes of this one's deployments, and takes in what they tell. A `Worker`."""

    name = "fleet"

    def __init__(
        self, shared: Shared, health: Health, routes: Callable[[], Routes], now: Callable[[], float]
    ) -> None:
        self._shared = shared
        self._health = health
        self._routes = routes
        self._now = now
        self._id = uuid4().hex
        self._heard: dict[str, _Heard] = {}
        self._told: tuple[Row, ...] = ()
        self._told_at = float("-inf")
        self._followed: dict[str, float] = {}
        """Cooldowns that others decided, by deployment: they are not ours to tell."""
        self._peers: tuple[Routes | None, dict[str, tuple[str, ...]]] = None, {}
        shared.subscribe(_CHANNEL, self._hear)

    @property
    def others(self) -> int:
        """How many processes have told something in the last seconds."""
        return len(self._heard)

    async def run(self) -> None:
        """Tell and forget, once a second."""
        await asyncio.sleep(_dice.uniform(0, INTERVAL))  # who start together do not all talk together
        while True:
            self.forget()
            with suppress(SharedAway):
                await self.tell()
            await asyncio.sleep(INTERVAL)

    # -- to tell -----------------------------------------------------------------------------------------------------

    async def tell(self) -> None:
        """Publish what has changed. Raises `SharedAway`; then it is told later."""
        now = self._now()
        rows, averages = self._rows(now)
        if rows == self._told and (not rows or now - self._told_at < _REMINDER):
            return
        counts = [average.fresh for average in averages]
        await self._shared.publish(_CHANNEL, msgspec.json.encode(News(self._id, rows)).decode())
        for average, count in zip(averages, counts, strict=True):
            average.fresh -= count
        self._told, self._told_at = rows, now

    def _rows(self, now: float) -> tuple[tuple[Row, ...], list[Average]]:
        found: list[tuple[Row, Condition]] = []
        for deployment_id, condition in self._health.all():
            requests = condition.requests.sum(now)
            cooling = condition.cooled_until - now
            is_ours = condition.cooled_until > self._followed.get(deployment_id, 0.0)
            if not is_ours or cooling < 0:
                cooling = 0.0
            if not (condition.in_flight or requests or cooling):
                continue
            pace = condition.pace
            row = Row(
                deployment_id,
                max(0, condition.in_flight),
                requests,
                condition.tokens.sum(now),
                round(cooling, 3),
                condition.cooled_for if cooling else "",
                tuple(_told(getattr(pace, name)) for name in _MEASURES),
            )
            found.append((row, condition))
        if len(found) > _MOST_ROWS:
            found.sort(key=lambda one: -one[0].requests)
            del found[_MOST_ROWS:]
        averages = [getattr(condition.pace, name) for _, condition in found for name in _MEASURES]
        return tuple(row for row, _ in found), averages

    # -- to hear -----------------------------------------------------------------------------------------------------

    def _hear(self, message: str | None) -> None:
        if message is None or len(message) > _MOST_BYTES:
            return  # None: some were missed. The next are a second away.
        try:
            news = _decoder.decode(message)
        except (msgspec.DecodeError, RecursionError):  # of a version that says it in other words
            log.debug("news of deployments that cannot be read")
            return
        if news.process == self._id or (
            news.process not in self._heard and len(self._heard) >= _MOST_PROCESSES
        ):
            return
        now = self._now()
        rows = {row.deployment: row for row in news.rows[:_MOST_ROWS]}
        before = self._heard.get(news.process)
        self._count(before.rows if before is not None else {}, rows)
        if rows:
            self._heard[news.process] = _Heard(now, rows)
        else:
            self._heard.pop(news.process, None)
        self._health.processes = 1 + len(self._heard)
        for row in rows.values():
            self._learn(row, now)

    def _count(self, before: Mapping[str, Row], after: Mapping[str, Row]) -> None:
        """Replace what a process said of itself by what it says now."""
        for deployment_id in before.keys() | after.keys():
            old, new = before.get(deployment_id, _IDLE), after.get(deployment_id, _IDLE)
            condition = self._health.of(deployment_id)
            condition.elsewhere_in_flight = max(
                0, condition.elsewhere_in_flight + new.in_flight - old.in_flight
            )
            condition.elsewhere_requests = max(0, condition.elsewhere_requests + new.requests - old.requests)
            condition.elsewhere_tokens = max(0, condition.elsewhere_tokens + new.tokens - old.tokens)

    def _learn(self, row: Row, now: float) -> None:
        pace = self._health.of(row.deployment).pace
        for name, (value, count) in zip(_MEASURES, row.measured, strict=False):
            average: Average = getattr(pace, name)
            average.hear(now, value, count, self._health.keep)
        if row.cooling > 0 and (
            row.why == UpstreamRateLimited.reason or self._is_spared(row.deployment, now)
        ):
            until = now + min(row.cooling, LONGEST_COOLDOWN)
            if self._health.follow_cooldown(row.deployment, until, row.why[:80]):
                self._followed[row.deployment] = until

    def _is_spared(self, deployment_id: str, now: float) -> bool:
        """Another of its route can be asked; of what callers make of wildcards that is not known."""
        routes = self._routes()
        if self._peers[0] is not routes:
            peers: dict[str, tuple[str, ...]] = {}
            for route in routes.configured():
                ids = tuple(deployment.id for deployment in route.deployments)
                for one in ids:
                    peers.setdefault(one, ids)
            self._peers = routes, peers
        others = self._peers[1].get(deployment_id, ())
        return any(other != deployment_id and self._health.is_available(other, now) for other in others)

    def forget(self) -> None:
        """Let go of processes that have been silent, and of cooldowns that are over."""
        now = self._now()
        for process, heard in list(self._heard.items()):
            if now - heard.at > SILENCE:
                self._count(heard.rows, {})
                del self._heard[process]
        self._health.processes = 1 + len(self._heard)
        self._followed = {one: until for one, until in self._followed.items() if until > now}


_IDLE = Row("")


def _told(average: Average) -> tuple[float, int]:
    return (average.value or 0.0, average.fresh if average.value is not None else 0)
