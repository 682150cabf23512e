"""Asking deployments for next to nothing, to learn how they are: only where an operator wants it, because it costs money.

A probe is a request like any other, from `attempting.ask_one` to its row in the ledger (tag `health_check`, under the
caller `health_check`), but for a client: a chat of one word and one token, or the embedding of one word. Other kinds of
models are not probed, a picture is too dear. What comes of it goes into the health book as of any request; that a model
refuses the question (some want more than one token) is an answer too.

Administrators ask with `POST /health/probe` or `GET /health?probe=true`. With `background_health_checks` the worker asks all
deployments that the configuration names in each `health_check_interval`, times the number of gateways that tell each other
of their deployments, at moments that differ from gateway to gateway. No provider gets more than one probe a second.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from msgspec import Raw
from multidict import CIMultiDict

from adapters.errors import (
    Bug,
    GatewayError,
    ModelNotFound,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
)
from adapters.types import Operation
from gateway.attempting import ask_one
from gateway.client import ClientWriter
from gateway.exchange import Exchange, begin_exchange
from gateway.inbound import Controls, Endpoint, Head
from gateway.keyring import Caller
from gateway.routes import Deployment, Route
from gateway.runtime import Runtime
from gateway.stages import account, limits
from gateway.story import Interrupted, Story

PATH = "/health/probe"
CALLER = Caller("master", "health_check", "health_check")

_PATIENCE = 30.0
"""Seconds that a probe may take."""
_LOOK = 5.0
"""Seconds between two looks at whether probes are wanted."""
_JITTER = 0.1
_QUESTIONS: Mapping[Operation, dict[str, Raw]] = {
    "chat": {"messages": Raw(b'[{"role":"user","content":"Hi"}]'), "max_tokens": Raw(b"1")},
    "embeddings": {"input": Raw(b'"Hi"')},
}
_MODES: Mapping[str, Operation] = {"": "chat", "chat": "chat", "responses": "chat", "embedding": "embeddings"}
_dice = random.Random()  # noqa: S311 - spreads probes, no secrets


class NoClient(ClientWriter):
    """In the client's place: nobody waits for the answer."""

    _protocol: Any = None
    _transport: Any = None
    _outbox: Any = None
    _chunked: bool = True
    _cors: str = ""
    stays_open: bool = False


class Prober:
    """Probes in the background. A `Worker`."""

    name = "health probes"

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt

    async def run(self) -> None:
        rt = self._rt
        due = rt.now()
        while True:
            general = rt.config.general
            interval = general.health_check_interval * rt.health.processes
            if not general.background_health_checks:
                due = rt.now()
            elif due <= rt.now():
                due = rt.now() + interval * _dice.uniform(1 - _JITTER, 1 + _JITTER)
                await probe_all(rt)
            await asyncio.sleep(min(_LOOK, interval))


async def probe_all(rt: Runtime, model: str | None = None) -> list[dict[str, Any]]:
    """Probe the deployments of a model, or all that are configured, and say how each is. Raises `ModelNotFound`."""
    if model is None:
        routes: Iterable[Route] = rt.routes.configured()
    else:
        route = rt.routes.find(model)
        if route is None:
            raise ModelNotFound(f"The model {model[:200]!r} does not exist here.")
        routes = (route,)
    known = {d.id: (d, route) for route in routes for d in route.deployments if _operation(d) is not None}
    pairs = sorted(known.values(), key=lambda pair: pair[0].provider)
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(_one_by_one(rt, name, list(some)))
            for name, some in groupby(pairs, key=lambda pair: pair[0].provider)
        ]
    return [told for task in asked for told in task.result()]


async def _one_by_one(
    rt: Runtime, provider: str, pairs: list[tuple[Deployment, Route]]
) -> list[dict[str, Any]]:
    told = []
    _dice.shuffle(pairs)
    for deployment, route in pairs:
        start = max(rt.now(), rt.probes.get(provider, 0.0))
        rt.probes[provider] = start + rt.limits.between_probes
        await asyncio.sleep(start - rt.now())
        told.append(await probe(rt, deployment, route))
    return told


async def probe(rt: Runtime, deployment: Deployment, route: Route) -> dict[str, Any]:
    """Ask this deployment, and say how it is: `status` is `healthy`, `unhealthy` or `not_probed`, `error` why."""
    operation = _operation(deployment)
    if operation is None:
        raise Bug("What is not probed was")
    story = Story(asyncio.get_running_loop())
    head = Head(Endpoint("POST", PATH, "openai", operation), CIMultiDict(), remote=None, keep_alive=False)
    x = begin_exchange(head, b"", NoClient(), story, rt.now())
    x.caller = CALLER
    x.controls = Controls(tags=("health_check",))
    x.envelope = {"model": Raw(b'"probe"'), **_QUESTIONS[operation]}
    x.model = route.name
    x.plan = (Route(route.name, (deployment,)),)
    await story.attend(_ask(rt, x, deployment, route))
    failed = isinstance(x.error, UpstreamError) and not isinstance(x.error, UpstreamRefused)
    status = "unhealthy" if failed else "healthy"
    reason = x.error.reason if x.error is not None and failed else ""
    if x.error is not None and not isinstance(x.error, UpstreamError):
        status, reason = "not_probed", x.error.reason  # a budget of ours, a price that must be known …
    else:
        rt.health.of(deployment.id).probed = (rt.now(), reason)
    if failed and rt.config.router.enable_health_check_routing:
        _leave_out(rt, deployment, route, reason)
    return {
        "model": route.name,
        "litellm_model": deployment.model_name,
        "model_id": deployment.id,
        "status": status,
        "latency_ms": round((x.at.ended - x.at.began) * 1000, 1),
        "error": reason or None,
    }


async def _ask(rt: Runtime, x: Exchange, deployment: Deployment, route: Route) -> None:
    account.open_books(rt, x)
    slow = UpstreamTimeout(f"The probe took longer than {_PATIENCE:g} s", code="first_event_timeout")
    x.deadline = rt.deadlines.start(_PATIENCE, lambda: x.story.interrupt(slow))
    try:
        await limits.admit(rt, x)
        with await ask_one(rt, x, deployment, route) as answer:
            x.client.status, x.client.written = 200, len(answer.body)
    except GatewayError as error:
        x.error = error
        x.client.status = error.status
    except Interrupted as interrupted:
        x.error = interrupted.error
        x.client.status = interrupted.error.status
    except asyncio.CancelledError:
        x.cancelled = True
        raise
    finally:
        account.settle(rt, x)


def _leave_out(rt: Runtime, deployment: Deployment, route: Route, reason: str) -> None:
    """Until the next probe, unless it is the last that is left."""
    now = rt.now()
    if not any(
        other is not deployment and rt.health.is_available(other.id, now) for other in route.deployments
    ):
        return
    condition = rt.health.of(deployment.id)
    interval = rt.config.general.health_check_interval * rt.health.processes
    condition.cooled_until = max(condition.cooled_until, now + interval * (1 + 2 * _JITTER))
    condition.cooled_for = reason


def _operation(deployment: Deployment) -> Operation | None:
    """As what it is probed; None if it is not."""
    if deployment.mock is not None:
        return None
    facts = deployment.facts
    return _MODES.get(str(deployment.info.get("mode") or (facts.mode if facts is not None else "")))
