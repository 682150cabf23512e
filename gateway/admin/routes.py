"""The management table: path → what it shows, and who may see it.

Each row is a function of the runtime and the request that returns JSON-able data, or (status, data), or a ready response.
`access` is who may: `public` anybody, `caller` whoever may use models, `admin` the holder of the master key (in open
mode: this machine). A path without a row does not exist; there is no default that lets somebody in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from aiohttp import web
from msgspec import Struct

from gateway.admin import health, models, openapi, spend
from gateway.metrics import CONTENT_TYPE
from gateway.runtime import Runtime
from gateway.stages import auth

Access = Literal["public", "caller", "admin"]
Show = Callable[[Runtime, web.Request], Awaitable[Any]]


class Page(Struct, frozen=True):
    """One row."""

    method: str
    path: str
    access: Access
    show: Show
    title: str


async def _root(rt: Runtime, http: web.Request) -> Any:
    return {"name": "penstock", "docs": "/openapi.json", "health": "/health", "models": "/v1/models"}


async def _health(rt: Runtime, http: web.Request) -> Any:
    return health.health(rt, details=auth.is_admin(rt, http))


async def _liveness(rt: Runtime, http: web.Request) -> Any:
    return "I'm alive!"


async def _readiness(rt: Runtime, http: web.Request) -> Any:
    return health.readiness(rt)


async def _models(rt: Runtime, http: web.Request) -> Any:
    return models.list_models(rt)


async def _model(rt: Runtime, http: web.Request) -> Any:
    return models.one_model(rt, http.match_info["id"])


async def exposition(rt: Runtime) -> bytes:
    """The metrics of this process, with all that has ended until now."""
    await rt.ledger.settle_listeners()
    body, _ = await asyncio.to_thread(rt.metrics.render)
    return body


async def _metrics(rt: Runtime, http: web.Request) -> Any:
    body = await exposition(rt)
    if rt.siblings is not None:
        body = await rt.siblings.gather(body)
    return web.Response(body=body, headers={"content-type": CONTENT_TYPE})


async def _routes(rt: Runtime, http: web.Request) -> Any:
    return {"routes": openapi.list_routes(http.app)}


async def _openapi(rt: Runtime, http: web.Request) -> Any:
    return openapi.document(http.app)


async def _spend_logs(rt: Runtime, http: web.Request) -> Any:
    return await spend.spend_logs(rt.records, http.query)


async def _global_spend(rt: Runtime, http: web.Request) -> Any:
    budget = rt.config.litellm.max_budget
    return await spend.global_spend(rt.records, float(budget) if budget else None)


async def _global_spend_logs(rt: Runtime, http: web.Request) -> Any:
    return await spend.global_spend_logs(rt.records, time.time())


async def _global_spend_models(rt: Runtime, http: web.Request) -> Any:
    return await spend.global_spend_models(rt.records, http.query)


async def _providers(rt: Runtime, http: web.Request) -> Any:
    return openapi.providers(rt)


PAGES: tuple[Page, ...] = (
    Page("GET", "/", "public", _root, "What this is"),
    Page("GET", "/health", "public", _health, "State of the gateway and its deployments"),
    Page("GET", "/health/liveliness", "public", _liveness, "The process is alive"),
    Page("GET", "/health/liveness", "public", _liveness, "The process is alive"),
    Page("GET", "/health/readiness", "public", _readiness, "Traffic may come"),
    Page("GET", "/metrics", "public", _metrics, "Prometheus metrics"),
    Page("GET", "/metrics/", "public", _metrics, "Prometheus metrics"),
    Page("GET", "/routes", "public", _routes, "All paths"),
    Page("GET", "/openapi.json", "public", _openapi, "This API, as OpenAPI 3.1"),
    Page("GET", "/public/providers", "public", _providers, "The providers that can be used"),
    Page("GET", "/v1/models", "caller", _models, "The models that can be used"),
    Page("GET", "/models", "caller", _models, "The models that can be used"),
    Page("GET", "/v1/models/{id:.+}", "caller", _model, "One model"),
    Page("GET", "/models/{id:.+}", "caller", _model, "One model"),
    Page("GET", "/openai/v1/models", "caller", _models, "The models that can be used"),
    Page("GET", "/anthropic/v1/models", "caller", _models, "The models that can be used"),
    Page("GET", "/spend/logs", "admin", _spend_logs, "The ledger's rows"),
    Page("GET", "/global/spend", "admin", _global_spend, "What was spent in all"),
    Page(
        "GET", "/global/spend/logs", "admin", _global_spend_logs, "What was spent each day of the last thirty"
    ),
    Page("GET", "/global/spend/models", "admin", _global_spend_models, "What was spent on each model"),
)
