"""Who could answer, best first?"""

from __future__ import annotations

import difflib
import logging

from adapters.errors import ModelNotFound
from gateway import access
from gateway.exchange import Exchange
from gateway.routing.fallbacks import within_reach
from gateway.runtime import Runtime
from gateway.state.keys import KeyRow

log = logging.getLogger("penstock")

_NAMES_SHOWN = 10


def plan(rt: Runtime, x: Exchange) -> None:
    """Fill `x.plan`: the route that was asked for, then all that may stand in for it, as far as the caller's key may use them.

    Raises `ModelNotFound` and `ModelDenied`.
    """
    key = x.caller.key if x.caller is not None else None
    name = x.model if key is None else key.aliases.get(x.model, x.model)
    route = rt.routes.find(name)
    if key is not None:
        access.check_model(key, name, route)
    if route is None:
        raise ModelNotFound(_not_found(rt, name, key))
    stand_ins = within_reach(rt.routes, route, x.controls)
    if key is not None and stand_ins:
        stand_ins = [other for other in stand_ins if access.may_use(key, other.name, other)]
    x.plan = (route, *stand_ins)
    if log.isEnabledFor(logging.DEBUG):
        plan_told = [f"{route.name} ({len(route.deployments)})" for route in x.plan]
        log.debug("request %s for %s: %s (deployments)", x.id, x.model, ", then ".join(plan_told))


def _not_found(rt: Runtime, model: str, key: KeyRow | None) -> str:
    """What there is instead, as far as the key may know."""
    for unserved in rt.routes.unserved:
        if unserved.model_name == model:
            return f"The model {model!r} is configured but cannot be served: {unserved.why}."
    said = [f"The model {model[:200]!r} does not exist here."]
    near = difflib.get_close_matches(model, rt.routes.names(), n=_NAMES_SHOWN)
    meant = next((name for name in near if _may_know(rt, key, name)), None)
    if meant is not None:
        said.append(f"Did you mean {meant!r}?")
    missing = rt.routes.what_is_missing(model)
    if missing:
        said.append(missing)
    patterns = [name for name in rt.routes.patterns() if _may_know(rt, key, name)]
    if patterns:
        said.append(
            f"Models: {', '.join(patterns[:_NAMES_SHOWN])}{' …' if len(patterns) > _NAMES_SHOWN else ''}"
        )
    return " ".join(said)


def _may_know(rt: Runtime, key: KeyRow | None, name: str) -> bool:
    return key is None or access.may_use(key, name, None if "*" in name else rt.routes.find(name))
