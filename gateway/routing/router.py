"""Chooses one of a route's deployments: those that can take the request, those of the lowest `order`, then by shares."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

from msgspec import Struct

from gateway.config.model import RouterSettings
from gateway.routes import Deployment, Route
from gateway.routing.filters import Filter, filters_of
from gateway.routing.health import Health
from gateway.routing.strategies import STRATEGIES, simple_shuffle
from gateway.routing.wants import Wants

_dice = random.Random()  # noqa: S311 - shares of traffic, no secrets
os.register_at_fork(after_in_child=_dice.seed)  # workers are forked, and shall not shuffle alike


class Considered(Struct, frozen=True):
    """A deployment in the light of one request: its share of such requests, or why it gets none."""

    deployment: Deployment
    share: float
    why_not: str = ""


class Router:
    """The choice among deployments, as one configuration wants it. Made anew with each configuration; `health` lives on."""

    def __init__(self, settings: RouterSettings, health: Health) -> None:
        self._settings = settings
        self._health = health
        self._weigh = STRATEGIES.get(settings.routing_strategy, simple_shuffle)(settings, health)

    def choose(
        self, route: Route, wants: Wants, now: float, asked: Sequence[Deployment] = ()
    ) -> Deployment | None:
        """A deployment that can take the request and is not among those `asked`; None if there is none."""
        filters = self._filters(route)
        if len(route.deployments) == 1 and not filters:  # what most routes are
            only = route.deployments[0]
            return only if only not in asked and self._health.is_available(only.id, now) else None
        fitting = self._fitting(route, filters, wants, now)
        fresh = [deployment for deployment in fitting if deployment not in asked] if asked else fitting
        if len(fresh) > 1:
            lowest = min(deployment.order for deployment in fresh)
            fresh = [deployment for deployment in fresh if deployment.order == lowest]
        if len(fresh) < 2:
            return fresh[0] if fresh else None
        return self._draw(fresh, wants, now)

    def again(self, route: Route, wants: Wants, now: float, asked: Sequence[Deployment]) -> Deployment | None:
        """One of those `asked` that can still take the request: the one asked least often, then longest ago."""
        fitting = self._fitting(route, self._filters(route), wants, now)
        return min((one for one in asked if one in fitting), key=asked.count, default=None)

    def consider(self, route: Route, wants: Wants, now: float) -> list[Considered]:
        """All deployments in the order in which they would be asked, and why not."""
        filters = self._filters(route)
        refused = []
        levels: dict[int, list[Deployment]] = {}
        for deployment in route.deployments:
            why = self._why_not(deployment, filters, wants, now)
            if why:
                refused.append(Considered(deployment, 0.0, why))
            else:
                levels.setdefault(deployment.order, []).append(deployment)
        found = []
        for position, order in enumerate(sorted(levels)):
            level = levels[order]
            shares = self._shares(level, wants, now) if position == 0 else [0.0] * len(level)
            ranked = sorted(zip(level, shares, strict=True), key=lambda pair: -pair[1])
            found += [
                Considered(deployment, share, "" if position == 0 else f"order {order} comes later")
                for deployment, share in ranked
            ]
        return [*found, *refused]

    def _filters(self, route: Route) -> tuple[Filter, ...]:
        filters: tuple[Filter, ...] | None = route.notes.get("filters")
        if filters is None:
            filters = route.notes["filters"] = filters_of(self._settings, self._health, route)
        return filters

    def _fitting(
        self, route: Route, filters: tuple[Filter, ...], wants: Wants, now: float
    ) -> list[Deployment]:
        is_available = self._health.is_available
        return [
            deployment
            for deployment in route.deployments
            if is_available(deployment.id, now)
            and not (filters and any(refuses(deployment, wants, now) for refuses in filters))
        ]

    def _why_not(self, deployment: Deployment, filters: tuple[Filter, ...], wants: Wants, now: float) -> str:
        if not self._health.is_available(deployment.id, now):
            seconds = self._health.look(deployment.id).cooled_until - now
            return f"it cools down for {max(0.0, seconds):.1f} s more"
        return next((why for refuses in filters if (why := refuses(deployment, wants, now))), "")

    def _shares(self, candidates: Sequence[Deployment], wants: Wants, now: float) -> list[float]:
        weights = self._weigh(candidates, wants, now) if len(candidates) > 1 else (1.0,)
        total = sum(weights)
        return [weight / total if total else 1 / len(candidates) for weight in weights]

    def _draw(self, candidates: Sequence[Deployment], wants: Wants, now: float) -> Deployment:
        weights = self._weigh(candidates, wants, now)
        return _dice.choices(candidates, weights if any(weights) else None)[0]
