"""Which deployments of a route can take a request at all.

A filter is made once for each route, and only where it may refuse one of its deployments: most routes have none. It says
why a deployment is left out, in words that `penstock explain` and the error show if nobody is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gateway.config.model import RouterSettings
from gateway.routes import Deployment, Route
from gateway.routing.health import Health
from gateway.routing.wants import Wants

Filter: TypeAlias = Callable[[Deployment, Wants, float], str]
"""Why this deployment cannot take this request at that time of `Runtime.now`; empty if it can."""

MakeFilter: TypeAlias = Callable[[RouterSettings, Health, Route], Filter | None]
"""Gives None where no deployment of the route could be refused."""

FILTERS: tuple[MakeFilter, ...] = ()


def filters_of(settings: RouterSettings, health: Health, route: Route) -> tuple[Filter, ...]:
    """All that may refuse a deployment of this route, but for cooldowns."""
    made = (make(settings, health, route) for make in FILTERS)
    return tuple(found for found in made if found is not None)
