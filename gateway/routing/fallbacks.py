"""Which other models a request might come to, whatever happens to it.

Before anybody is asked, the budgets of a request have to have room for the dearest model that may answer it, and its key
must be allowed to use it. So the plan of a request holds every route that any error could lead to; which of them are asked,
and in what order, the walk decides (`gateway.stages.upstream`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.inbound import Controls
from gateway.routes import Route, Routes

LISTS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")


def within_reach(routes: Routes, route: Route, controls: Controls) -> Sequence[Route]:
    """The routes that may stand in for this one, without it: the configured, or those that the request itself names."""
    if controls.disable_fallbacks:
        return ()
    if controls.fallbacks:
        known = routes.stand_ins(route.name, controls.fallbacks)
    else:
        stand_ins = route.notes.get("stand_ins")
        known = _configured(routes, route) if stand_ins is None else stand_ins
    if not controls.context_window_fallbacks:
        return known
    found = list(known)
    for other in (route, *known):
        wider = controls.context_window_fallbacks.get(other.name)
        if wider:
            _add(found, route, routes.stand_ins(route.name, (wider,)))
    return found


def _configured(routes: Routes, route: Route) -> Sequence[Route]:
    found: list[Route] = []
    for then in LISTS:
        _add(found, route, routes.stand_ins(route.name, then=then))
    for other in found:  # it grows as it goes
        for then in LISTS:
            _add(found, route, routes.stand_ins(other.name, then=then))
    known: tuple[Route, ...] = tuple(found)
    route.notes["stand_ins"] = known
    return known


def _add(found: list[Route], route: Route, more: Iterable[Route]) -> None:
    found += [other for other in dict.fromkeys(more) if other is not route and other not in found]
