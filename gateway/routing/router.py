"""Chooses one of a route's deployments: those that can take the request, those of the lowest `order`, then by shares."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

from msgspec import Struct

from adapters.errors import GatewayError
from gateway.config.model import RouterSettings
from gateway.routes import Deployment, Route
from gateway.routing.affinity import affinity_of
from gateway.routing.filters import Filter, filters_of, tags_of
from gateway.routing.health import HAS_NO_ROOM, Health
from gateway.routing.pace import kept
from gateway.routing.refusals import WhyNot, nobody
from gateway.routing.strategies import STRATEGIES, simple_shuffle
from gateway.routing.wants import Wants

_dice = random.Random()  # noqa: S311 - shares of traffic, no secrets
os.register_at_fork(after_in_child=_dice.seed)  # workers are forked, and shall not shuffle alike


class Considered(Struct, frozen=True):
    """A deployment in the light of one request: its share of such requests, or why it gets none; `briefly` for those who hold
    a virtual key. With both it is at a limit, as all others are, and asked all the same or waited for.
    """

    deployment: Deployment
    share: float
    why_not: str = ""
    briefly: str = ""


class Router:
    """The choice among deployments, as one configuration wants it. Made anew with each configuration; `health` lives on."""

    def __init__(self, settings: RouterSettings, health: Health, dice: random.Random = _dice) -> None:
        self._settings = settings
        self._dice = dice
        self._health = health
        health.keep = kept(settings.routing_strategy_args.max_latency_list_size)
        self._is_lenient = settings.adaptive_concurrency and settings.queue is None
        """What was learnt of a deployment is no reason to refuse anybody: with nobody else and no queue it is asked."""
        self._weigh = STRATEGIES.get(settings.routing_strategy, simple_shuffle)(settings, health)
        self.affinity = affinity_of(settings, health)
        """Keeps conversations where they are; None where that is off."""

    def choose(
        self,
        route: Route,
        wants: Wants,
        now: float,
        asked: Sequence[Deployment] = (),
        *,
        anyway: bool = False,
    ) -> Deployment | None:
        """A deployment that can take the request and is not among those `asked`; None if there is none.

        `anyway` has those too whose circuit is open.
        """
        filters = route.notes.get("filters")
        if filters is None:
            filters = self._filters(route)
        if len(route.deployments) == 1 and not filters:  # what most routes are
            only = route.deployments[0]
            is_possible = self._health.is_usable if anyway else self._health.is_available
            return only if only not in asked and is_possible(only.id, now) else None
        fitting = self._fitting(route, filters, wants, now, anyway=anyway)
        fresh = [deployment for deployment in fitting if deployment not in asked] if asked else fitting
        if not fresh and self._is_lenient:
            fitting = self._fitting(route, self._filters(route, learnt=False), wants, now, anyway=anyway)
            fresh = [deployment for deployment in fitting if deployment not in asked]
        if len(fresh) > 1 and self._has_levels(route):
            lowest = min(deployment.order for deployment in fresh)
            fresh = [deployment for deployment in fresh if deployment.order == lowest]
        if len(fresh) < 2:
            return fresh[0] if fresh else None
        kept = self.affinity.preferred(fresh, wants, now) if self.affinity is not None else None
        return kept or self._draw(fresh, wants, now)

    def is_possible(self, deployment: Deployment, route: Route, wants: Wants, now: float) -> bool:
        """That deployment of the route, which was chosen before, can still take the request."""
        filters = self._filters(route, learnt=not self._is_lenient)
        return self._health.is_available(deployment.id, now) and not any(
            refuses(deployment, wants, now) for refuses in filters
        )

    def again(self, route: Route, wants: Wants, now: float, asked: Sequence[Deployment]) -> Deployment | None:
        """One of those `asked` that can still take the request: the one asked least often, then longest ago."""
        fitting = self._fitting(route, self._filters(route), wants, now)
        if not fitting and self._is_lenient:
            fitting = self._fitting(route, self._filters(route, learnt=False), wants, now)
        return min((one for one in asked if one in fitting), key=asked.count, default=None)

    def consider(
        self, route: Route, wants: Wants, now: float, *, waits: bool = False, anyway: bool = False
    ) -> list[Considered]:
        """All deployments in the order in which they would be asked, and why not. `waits`: for one at a limit if need be;
        `anyway`: as `choose`.
        """
        whys = {one: self._why_not(one, route, wants, now) for one in route.deployments}
        asked = [one for one, why in whys.items() if why is None]
        if not asked and self._is_lenient:
            asked = self._fitting(route, self._filters(route, learnt=False), wants, now)
        if not asked and waits:
            asked = [one for one, why in whys.items() if self._is_waited_for(one, why)]
        if not asked and anyway:
            asked = self._fitting(route, self._filters(route), wants, now, anyway=True)
        levels: dict[int, list[Deployment]] = {}
        for deployment in asked:
            levels.setdefault(deployment.order, []).append(deployment)
        found = []
        for position, order in enumerate(sorted(levels)):
            level = levels[order]
            shares = self._shares(level, wants, now) if position == 0 else [0.0] * len(level)
            ranked = sorted(zip(level, shares, strict=True), key=lambda pair: -pair[1])
            later = "" if position == 0 else f"order {order} comes later"
            found += [_considered(one, share, whys[one], later) for one, share in ranked]
        return [*found, *(_considered(one, 0.0, why) for one, why in whys.items() if one not in asked)]

    def part_of(self, route: Route, deployments: tuple[Deployment, ...]) -> Route:
        """The route with these of its deployments alone; what decides among all of them (tags) does so as before."""
        return Route(route.name, deployments, route.hidden, {"filters": self._filters(route)})

    def meant(self, route: Route, wants: Wants, now: float) -> tuple[str, ...]:
        """The ids of the deployments that such requests are meant for, whether or not they can be asked now; none: all are."""
        filters = self._filters(route, passing=False)
        if not filters:
            return ()
        return tuple(
            one.id for one in route.deployments if not any(refuses(one, wants, now) for refuses in filters)
        )

    def peers(self, route: Route | None, wants: Wants, now: float) -> Sequence[str]:
        """The ids of the deployments that such a request may go to, as far as that is the request's own."""
        return () if route is None else self.meant(route, wants, now) or [one.id for one in route.deployments]

    def soonest(self, route: Route, wants: Wants, now: float, *, anyway: bool = True) -> float | None:
        """Seconds until a deployment may have room, 0 if nobody can tell; None if all are left out for other reasons.

        `anyway`: of those too whose circuit is open.
        """
        found = []
        for deployment in route.deployments:
            why = self._why_not(deployment, route, wants, now)
            if self._is_waited_for(deployment, why) and (
                anyway or self._health.is_closed(deployment.id, now)
            ):
                found.append(why.seconds or 0.0 if why is not None else 0.0)
        return min(found, default=None)

    def _is_waited_for(self, deployment: Deployment, why: WhyNot | None) -> bool:
        if why is None or why.cause == "limit":
            return True
        reason = self._health.look(deployment.id).cooled_for
        return why.cause == "cooldown" and reason in (error.reason for error in HAS_NO_ROOM)

    def nobody(self, route: Route, wants: Wants, now: float) -> GatewayError:
        """What to say when no deployment of the route can take the request."""
        reasons = [self._why_not(one, route, wants, now) for one in route.deployments]
        told = [why for why in reasons if why is not None]
        for_operator = wants.caller is None or wants.caller.key is None
        return nobody(route.name, told, tags_of(wants), for_operator=for_operator)

    def _has_levels(self, route: Route) -> bool:
        """Not all of its deployments are of one order."""
        found: bool | None = route.notes.get("levels")
        if found is None:
            found = route.notes["levels"] = len({one.order for one in route.deployments}) > 1
        return found

    def _filters(self, route: Route, *, learnt: bool = True, passing: bool = True) -> tuple[Filter, ...]:
        name = "filters" if learnt and passing else ("filters", learnt, passing)
        filters: tuple[Filter, ...] | None = route.notes.get(name)
        if filters is None:
            filters = filters_of(self._settings, self._health, route, learnt=learnt, passing=passing)
            route.notes[name] = filters
        return filters

    def _fitting(
        self, route: Route, filters: tuple[Filter, ...], wants: Wants, now: float, *, anyway: bool = False
    ) -> list[Deployment]:
        is_available = self._health.is_usable if anyway else self._health.is_available
        return [
            deployment
            for deployment in route.deployments
            if is_available(deployment.id, now)
            and not (filters and any(refuses(deployment, wants, now) for refuses in filters))
        ]

    def _why_not(self, deployment: Deployment, route: Route, wants: Wants, now: float) -> WhyNot | None:
        """The first reason that stays, as waiting does not help against it; else the one that lasts longest."""
        found = [why for refuses in self._filters(route) if (why := refuses(deployment, wants, now))]
        if not self._health.is_available(deployment.id, now):
            condition = self._health.look(deployment.id)
            circuit = condition.breaker.open_until if condition.breaker is not None else 0.0
            seconds = max(0.0, max(condition.cooled_until, circuit) - now)
            found.append(WhyNot("cooldown", f"it cools down for {seconds:.1f} s more", seconds))
        stays = next((why for why in found if why.stays), None)
        return stays or max(found, key=lambda why: why.seconds or 0.0, default=None)

    def _shares(self, candidates: Sequence[Deployment], wants: Wants, now: float) -> list[float]:
        weights = self._weigh(candidates, wants, now) if len(candidates) > 1 else (1.0,)
        total = sum(weights)
        return [weight / total if total else 1 / len(candidates) for weight in weights]

    def _draw(self, candidates: Sequence[Deployment], wants: Wants, now: float) -> Deployment:
        # By hand, as `random.choices` takes 1 us more.
        weights = self._weigh(candidates, wants, now)
        total = sum(weights)
        if not total:
            return self._dice.choice(candidates)
        point = self._dice.random() * total
        drawn = candidates[0]
        for deployment, weight in zip(candidates, weights, strict=True):
            if weight:
                drawn = deployment
                point -= weight
                if point < 0:
                    break
        return drawn


def _considered(deployment: Deployment, share: float, why: WhyNot | None, later: str = "") -> Considered:
    if why is None:
        return Considered(deployment, share, later, later)
    return Considered(deployment, share, why.text, why.briefly)
