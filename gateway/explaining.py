"""Who would answer, and why not the others?

`explain` says of one name what a request for it meets: how the name is found, whether a key may use it, the deployments in
the order in which they would be asked, each with its share or with what is against it, what limits bind, and who stands in.
It asks the same `Router`, `Routes` and `Settings` that requests ask and changes nothing, so what it says is what happens.

An explanation is data, ready for JSON: `GET /router/explain` gives it as it is, `penstock explain` prints it. Prices are
dollars for a million tokens. What only an operator may know (addresses, keys, places in files, health, limits, budgets and tags
of deployments) is left out for others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from msgspec import Raw, Struct, field
from multidict import CIMultiDict

from gateway.access import matches, may_use
from gateway.config.model import Config
from gateway.inbound import NO_CONTROLS, Controls, Endpoint, Head
from gateway.keyring import ANONYMOUS, Caller
from gateway.limits import Settings, settings_of
from gateway.pricing import Price
from gateway.routes import Deployment, Route, Routes
from gateway.routing.fallbacks import LISTS
from gateway.routing.geography import REGION_HEADERS, region_of
from gateway.routing.health import Health
from gateway.routing.retries import policy_of
from gateway.routing.router import Considered, Router
from gateway.state.keys import KeyRow
from gateway.state.records import usd

_BOUNDS = ("order", "weight", "rpm", "tpm", "max_parallel_requests", "max_budget", "budget_duration")
"""What was written of a deployment; the first two explain its share to anybody."""
_CHAT = Endpoint("POST", "/v1/chat/completions", "openai", "chat")


def _head(headers: Mapping[str, str] = MappingProxyType({})) -> Head:
    return Head(_CHAT, CIMultiDict(headers), remote=None, keep_alive=True)


class Asked(Struct):
    """A request that nobody has sent, as far as the choice of who answers goes (`Wants`)."""

    http: Head = field(default_factory=_head)
    caller: Caller | None = ANONYMOUS
    controls: Controls = NO_CONTROLS
    envelope: Mapping[str, Raw] = {}
    wants_stream: bool = False


def asked(
    caller: Caller, *, tags: tuple[str, ...] = (), region: str | None = None, stream: bool = False
) -> Asked:
    """A chat of this caller, who is in that region, with these tags."""
    head = _head({REGION_HEADERS[0]: region} if region else {})
    return Asked(http=head, caller=caller, controls=Controls(tags=tags), wants_stream=stream)


class Gateway(Struct, frozen=True):
    """What an explanation is made from. `health` None: nothing runs. `now` is `Runtime.now`'s, `wall` unix seconds."""

    config: Config
    routes: Routes
    router: Router
    settings: Settings
    environ: Mapping[str, str]
    health: Health | None = None
    now: float = 0.0
    wall: float = 0.0


def unstarted(config: Config, routes: Routes, environ: Mapping[str, str]) -> Gateway:
    """A gateway of this configuration that nobody has asked anything yet."""
    return Gateway(
        config, routes, Router(config.router, Health()), settings_of(config), environ, wall=time.time()
    )


# -- one name --------------------------------------------------------------------------------------------------------


def explain(gateway: Gateway, name: str, request: Asked, *, for_operator: bool) -> dict[str, Any]:
    """All that decides about such a request for this name."""
    key = request.caller.key if request.caller is not None else None
    ours = name if key is None else key.aliases.get(name, name)
    route = gateway.routes.find(ours)
    told: dict[str, Any] = {"model": name}
    if key is not None:
        told["key"] = {"name": key.alias or key.name, "may_use_it": may_use(key, ours, route)}
        if not (told["key"]["may_use_it"] or for_operator):
            return told  # what it may not use it shall not learn about either
    told |= _found(gateway, ours, route)
    if route is None:
        return told
    considered = gateway.router.consider(route, request, gateway.now)
    waits: float | None = None
    if not any(one.share for one in considered) and not _has_stand_in(gateway, route, key, request):
        waits = _waits(gateway, route, request)
        is_waited = waits is not None
        considered = gateway.router.consider(
            route, request, gateway.now, waits=is_waited, anyway=not is_waited
        )
    told["strategy"] = gateway.config.router.routing_strategy
    if waits is not None:
        told["waits"] = waits
    told["deployments"] = [_deployment(gateway, one, for_operator=for_operator) for one in considered]
    told["retries"] = _retries(gateway.config, route)
    told["limits"] = _limits(gateway, request.caller, route)
    told["fallbacks"] = _fallbacks(gateway, ours, key)
    return told


def _found(gateway: Gateway, name: str, route: Route | None) -> dict[str, Any]:
    """How the name is found, or why it is not."""
    if route is not None:
        return {"found": True, "as": _way(gateway, name)}
    why = next((row.why for row in gateway.routes.unserved if row.model_name == name), "")
    return {"found": False, "why_not": why or gateway.routes.what_is_missing(name) or "no such model"}


def _way(gateway: Gateway, name: str) -> str:
    alias = gateway.config.router.model_group_alias.get(name)
    if alias is not None and any(gateway.routes.find(target) for target in alias.targets):
        return f"an alias of {', '.join(alias.targets)}"
    if any(entry.model_name == name for entry in gateway.config.model_list):
        return "a name of model_list"
    pattern = next((pattern for pattern, _ in gateway.routes.wildcards() if matches(pattern, name)), None)
    return f"the wildcard {pattern}" if pattern else "a provider whose key is in the environment"


def _has_stand_in(gateway: Gateway, route: Route, key: KeyRow | None, request: Asked) -> bool:
    """Another model that a request for this one comes to can be asked."""
    routes = [route]
    for one in routes:  # it grows as it goes
        found = gateway.routes.stand_ins(one.name)
        nearer = [
            other
            for other in found
            if other not in routes and (key is None or may_use(key, other.name, other))
        ]
        for other in nearer:
            if any(its.share for its in gateway.router.consider(other, request, gateway.now)):
                return True
        routes += nearer
    return False


def _waits(gateway: Gateway, route: Route, request: Asked) -> float | None:
    """Seconds that a request which finds nobody waits at most for a deployment of the route; None if it does not."""
    queue = gateway.config.router.queue
    if queue is None:
        return None
    well = gateway.router.soonest(route, request, gateway.now, anyway=False)
    if well is not None and well <= queue.max_wait:
        return queue.max_wait
    if any(one.share for one in gateway.router.consider(route, request, gateway.now, anyway=True)):
        return None
    soonest = gateway.router.soonest(route, request, gateway.now)
    return queue.max_wait if soonest is not None and soonest <= queue.max_wait else None


def _deployment(gateway: Gateway, considered: Considered, *, for_operator: bool) -> dict[str, Any]:
    deployment = considered.deployment
    told: dict[str, Any] = {
        "deployment": deployment.model_name,
        "share": round(considered.share, 4),
        "why_not": considered.why_not if for_operator else considered.briefly,
        "price": _price(deployment.price),
        "price_from": deployment.price_source,
    }
    params = deployment.params
    if params is not None:
        bounds = _BOUNDS if for_operator else _BOUNDS[:2]
        told |= {name: value for name in bounds if (value := getattr(params, name)) is not None}
        if params.tags and for_operator:
            told["tags"] = list(params.tags)
    if region := region_of(deployment):
        told["region"] = region
    if not for_operator:
        return told
    told |= {
        "id": deployment.id,
        "model_group": deployment.route,
        "api_base": deployment.origin,
        "place": str(deployment.place or ""),
        "credential": credential_of(deployment, gateway.environ),
    }
    if gateway.health is not None:
        condition = gateway.health.look(deployment.id)
        latency = condition.pace.latency
        told["health"] = {
            "available": gateway.health.is_available(deployment.id, gateway.now),
            "in_flight": condition.in_flight,
            "concurrency_limit": condition.concurrency.places if condition.concurrency is not None else None,
            "latency_ms": None if latency is None else round(latency * 1000, 1),
            "successes": condition.successes,
            "failures": condition.failures,
            "last_error": condition.last_reason or None,
            "cooled_for": condition.cooled_for or None,
            "requests_per_minute": condition.requests.sum(gateway.now),
            "tokens_per_minute": condition.tokens.sum(gateway.now),
        }
    return told


def _price(price: Price | None) -> dict[str, float] | None:
    """Dollars for a million tokens; None if nobody knows."""
    if price is None:
        return None
    sides = {"input": price.input, "output": price.output}
    return {name: usd(rate) for name, rate in sides.items() if rate is not None}


def credential_of(deployment: Deployment, environ: Mapping[str, str]) -> str:
    """Where its secret comes from, by name alone: a variable, a named credential, the file, a signature, or nowhere."""
    params = deployment.params
    if deployment.mock is not None:
        return "none needed"
    if params is not None and params.litellm_credential_name:
        return f"credential {params.litellm_credential_name}"
    if deployment.api_key is not None:
        text = deployment.api_key.reveal()
        names = [name for name, value in environ.items() if value == text]
        usual = [name for name in deployment.target.provider.env if name in names]
        return (usual or sorted(names) or ["written in the file"])[0]
    return f"signed ({deployment.signer})" if deployment.signer else "none"


def _retries(config: Config, route: Route) -> dict[str, Any]:
    """How many more attempts than one at most, and by the kind of error; a deployment's own number wins over the rest."""
    policy = policy_of(config.router, route)
    general = config.router.num_retries if policy.max_retries is None else policy.max_retries
    own = [general if one.max_retries is None else one.max_retries for one in route.deployments]
    told: dict[str, Any] = {"most": max(own)}
    if policy.retries:
        told["by_error"] = policy.retries
    return told


def _limits(gateway: Gateway, caller: Caller | None, route: Route) -> list[dict[str, Any]]:
    """The limits that bind such a request beside those of its deployments."""
    if caller is None:
        return []
    models = tuple(dict.fromkeys(one.route for one in route.deployments))
    bound = gateway.settings.bound(caller, gateway.settings.user_of(caller, None), models, gateway.wall)
    told: list[dict[str, Any]] = [
        {"limit": "budget", "of": counter.whose, "usd": usd(counter.limit), "per": counter.duration}
        for counter in bound.budgets
    ]
    counted = [(window.name, window.limit) for window in bound.fixed] + list(bound.tokens)
    for name, limit in counted:
        kind, whose, *rest = name.split(":", 3)  # of a key its digest follows, then perhaps a model
        told.append({"limit": kind, "of": " ".join([whose, *rest[1:]]), "most": limit})
    return told


def _fallbacks(gateway: Gateway, name: str, key: KeyRow | None) -> dict[str, list[str]]:
    """Who stands in, in order, by the setting that lists them; a list that says the same as `fallbacks` is left out."""
    told: dict[str, list[str]] = {}
    for then in LISTS:
        found = gateway.routes.stand_ins(name, then=then)
        names = [route.name for route in found if key is None or may_use(key, route.name, route)]
        if then == "fallbacks" or names != told["fallbacks"]:
            told[then] = names
    return told


# -- all names -------------------------------------------------------------------------------------------------------


def explain_all(gateway: Gateway, request: Asked, *, for_operator: bool) -> dict[str, Any]:
    """Every name of the configuration, for an operator also what is off and what the environment serves."""
    key = request.caller.key if request.caller is not None else None
    models = [
        explain(gateway, route.name, request, for_operator=for_operator)
        for route in gateway.routes.configured()
        if key is None or (not route.hidden and may_use(key, route.name, route))
    ]
    told: dict[str, Any] = {"models": models}
    if for_operator:
        told["models"] += _wildcards(gateway.routes)
        told["off"] = [
            {"model": row.model_name, "why": row.why, "place": str(row.place)}
            for row in gateway.routes.unserved
        ]
        told["environment"] = list(gateway.routes.env_providers)
    return told


def _wildcards(routes: Routes) -> Iterator[dict[str, Any]]:
    for pattern, entries in routes.wildcards():
        listed = [{"deployment": entry.params.model, "place": str(entry.place)} for entry in entries]
        yield {"model": pattern, "found": True, "as": "a wildcard", "deployments": listed}
