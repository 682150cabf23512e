"""The management table: path → what it shows, and who may see it.

Each row is a function of the runtime and the request that returns JSON-able data, or (status, data), or a ready response.
`access` is who may: `public` anybody, `caller` whoever may use models, `admin` the holder of the master key (in open
mode: this machine). A path without a row does not exist; there is no default that lets somebody in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

import orjson
from aiohttp import web
from msgspec import Struct

from adapters.errors import GatewayError, MalformedJson, TooSlow
from gateway.admin import credentials, health, keys, models, openapi, router, spend
from gateway.admin import reload as reloading
from gateway.inbound import ThroughAiohttp
from gateway.keyring import Caller
from gateway.metrics import CONTENT_TYPE
from gateway.probing import PATH as PROBE
from gateway.probing import probe_all
from gateway.runtime import Runtime
from gateway.stages import auth

CALLER = web.RequestKey("caller", Caller)
"""Who asks for a page."""
_BODY_SECONDS = 30.0
_LEVELS = 8
"""How much deeper than it came an answer may show what was sent; orjson reads 1,024 levels and writes 254."""

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
    is_admin = await auth.is_admin(rt, http)
    if is_admin and http.query.get("probe", "").lower() in {"true", "1"}:
        await probe_all(rt, http.query.get("model"))
    return health.health(rt, details=is_admin)


async def _probe(rt: Runtime, http: web.Request) -> Any:
    said = await _fields(http)
    model = said.get("model") if isinstance(said.get("model"), str) else http.query.get("model")
    return {"probes": await probe_all(rt, model)}


async def _liveness(rt: Runtime, http: web.Request) -> Any:
    return "I'm alive!"


async def _readiness(rt: Runtime, http: web.Request) -> Any:
    return health.readiness(rt)


async def _models(rt: Runtime, http: web.Request) -> Any:
    return models.list_models(rt, http[CALLER].key)


async def _model(rt: Runtime, http: web.Request) -> Any:
    return models.one_model(rt, http.match_info["id"], http[CALLER].key)


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
    query = dict(http.query)
    row = rt.keyring.find(rt.keyring.named(query.get("api_key", "")))
    if row is not None:
        query["api_key"] = row.payer
    return await spend.spend_logs(rt.records, query)


async def _global_spend(rt: Runtime, http: web.Request) -> Any:
    budget = rt.config.litellm.max_budget
    return await spend.global_spend(rt.records, float(budget) if budget else None)


async def _global_spend_logs(rt: Runtime, http: web.Request) -> Any:
    return await spend.global_spend_logs(rt.records, time.time())


async def _global_spend_models(rt: Runtime, http: web.Request) -> Any:
    return await spend.global_spend_models(rt.records, http.query)


# -- keys ------------------------------------------------------------------------------------------------------------


async def _fields(http: web.Request) -> dict[str, Any]:
    """The JSON object that was sent. Raises `BadRequest`, `TooLarge`, `TooSlow`."""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await ThroughAiohttp(http).read()
    except TimeoutError:
        raise TooSlow("The body did not arrive in time") from None
    try:
        value = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise MalformedJson(f"Invalid JSON payload: {error}", param="request_body") from None
    if not isinstance(value, dict):
        raise MalformedJson("Invalid JSON payload: it must be an object", param="request_body")
    shown: Any = value
    for _ in range(_LEVELS):
        shown = [shown]
    try:
        orjson.dumps(shown)
    except TypeError:  # what is kept now could never be shown again, nor the page that it stands on
        raise MalformedJson("Invalid JSON payload: it is nested too deeply", param="request_body") from None
    return value


async def _whole(rt: Runtime, change: Coroutine[Any, Any, Any]) -> Any:
    """What changes something is not left half done where its client leaves: aiohttp cancels who answers it."""
    outcome = await asyncio.shield(rt.errand(_outcome(change)))
    if isinstance(outcome, GatewayError):
        raise outcome
    return outcome


async def _outcome(change: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await change
    except GatewayError as error:  # of a task it would be logged as a bug
        return error


async def _generate_key(rt: Runtime, http: web.Request) -> Any:
    return await _whole(rt, keys.generate(rt, http[CALLER], await _fields(http)))


async def _generate_service_key(rt: Runtime, http: web.Request) -> Any:
    return await _whole(rt, keys.generate_for_service(rt, http[CALLER], await _fields(http)))


async def _update_keys(rt: Runtime, http: web.Request) -> Any:
    return await _whole(rt, keys.update_several(rt, http[CALLER], await _fields(http)))


async def _update_key(rt: Runtime, http: web.Request) -> Any:
    return await _whole(rt, keys.update(rt, http[CALLER], await _fields(http)))


async def _delete_keys(rt: Runtime, http: web.Request) -> Any:
    return await _whole(rt, keys.delete(rt, http[CALLER], await _fields(http)))


async def _block_key(rt: Runtime, http: web.Request) -> Any:
    return await _whole(rt, keys.block(rt, http[CALLER], await _fields(http), blocked=True))


async def _unblock_key(rt: Runtime, http: web.Request) -> Any:
    return await _whole(rt, keys.block(rt, http[CALLER], await _fields(http), blocked=False))


async def _regenerate_key(rt: Runtime, http: web.Request) -> Any:
    return await _whole(
        rt, keys.regenerate(rt, http[CALLER], await _fields(http), http.match_info.get("key"))
    )


async def _reset_spend(rt: Runtime, http: web.Request) -> Any:
    return await _whole(rt, keys.reset_spend(rt, http[CALLER], await _fields(http), http.match_info["key"]))


async def _asked_key(http: web.Request) -> str | None:
    """The key that a page is about. One itself comes in the body: proxies log what stands in a URL."""
    key = (await _fields(http)).get("key")
    return (key if isinstance(key, str) else http.query.get("key")) or None


async def _key_info(rt: Runtime, http: web.Request) -> Any:
    key = await _asked_key(http)
    if key is not None and http[CALLER].key is None:
        await auth.require_admin(rt, http, "/key/info")
    return await keys.info(rt, http[CALLER], key, is_admin=http[CALLER].key is None)


async def _key_infos(rt: Runtime, http: web.Request) -> Any:
    return await keys.infos(rt, await _fields(http))


async def _list_keys(rt: Runtime, http: web.Request) -> Any:
    return await keys.list_keys(rt, http.query)


async def _key_aliases(rt: Runtime, http: web.Request) -> Any:
    return await keys.aliases(rt, http.query)


async def _key_health(rt: Runtime, http: web.Request) -> Any:
    await _fields(http)
    return keys.health()


# -- named credentials -----------------------------------------------------------------------------------------------


async def _create_credential(rt: Runtime, http: web.Request) -> Any:
    return await _whole(rt, credentials.create(rt, http[CALLER], await _fields(http)))


async def _list_credentials(rt: Runtime, http: web.Request) -> Any:
    return await credentials.list_credentials(rt)


async def _credential(rt: Runtime, http: web.Request) -> Any:
    return await credentials.by_name(rt, http.match_info["name"])


async def _update_credential(rt: Runtime, http: web.Request) -> Any:
    return await _whole(
        rt, credentials.update(rt, http[CALLER], http.match_info["name"], await _fields(http))
    )


async def _delete_credential(rt: Runtime, http: web.Request) -> Any:
    return await _whole(rt, credentials.delete(rt, http[CALLER], http.match_info["name"]))


async def _explain(rt: Runtime, http: web.Request) -> Any:
    if http[CALLER].key is None:
        await auth.require_admin(rt, http, "/router/explain")
    return router.explanation(rt, http[CALLER], http.query, await _asked_key(http))


# -- the configuration -----------------------------------------------------------------------------------------------


async def _reload_config(rt: Runtime, http: web.Request) -> Any:
    await _fields(http)
    return await _whole(rt, reloading.reload(rt))


async def _config_status(rt: Runtime, http: web.Request) -> Any:
    return reloading.status(rt)


async def _providers(rt: Runtime, http: web.Request) -> Any:
    return openapi.providers(rt)


PAGES: tuple[Page, ...] = (
    Page("GET", "/", "public", _root, "What this is"),
    Page("GET", "/health", "public", _health, "State of the gateway and its deployments"),
    Page("POST", PROBE, "admin", _probe, "Ask deployments for one token, to learn how they are"),
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
    Page("GET", "/openai/models", "caller", _models, "The models that can be used"),
    Page("GET", "/anthropic/v1/models", "caller", _models, "The models that can be used"),
    Page("GET", "/openai/v1/models/{id:.+}", "caller", _model, "One model"),
    Page("GET", "/openai/models/{id:.+}", "caller", _model, "One model"),
    Page("GET", "/anthropic/v1/models/{id:.+}", "caller", _model, "One model"),
    Page("POST", "/key/generate", "admin", _generate_key, "A new virtual key"),
    Page(
        "POST",
        "/key/service-account/generate",
        "admin",
        _generate_service_key,
        "A new key of a team's service",
    ),
    Page("POST", "/key/update", "admin", _update_key, "Change a key"),
    Page("POST", "/key/bulk_update", "admin", _update_keys, "Change several keys"),
    Page("POST", "/key/delete", "admin", _delete_keys, "Delete keys"),
    Page("POST", "/key/block", "admin", _block_key, "Let a key in no more"),
    Page("POST", "/key/unblock", "admin", _unblock_key, "Let a key in again"),
    Page("POST", "/key/regenerate", "admin", _regenerate_key, "Another key in the place of one"),
    Page("POST", "/key/{key}/regenerate", "admin", _regenerate_key, "Another key in the place of one"),
    Page("POST", "/key/{key}/reset_spend", "admin", _reset_spend, "A key has spent nothing, from now on"),
    Page("GET", "/key/list", "admin", _list_keys, "The keys, page by page"),
    Page("GET", "/key/aliases", "admin", _key_aliases, "The names of keys"),
    Page("POST", "/v2/key/info", "admin", _key_infos, "What is known of several keys"),
    Page("GET", "/key/info", "caller", _key_info, "What is known of a key; without one, of the caller's own"),
    Page("POST", "/key/info", "caller", _key_info, "The same, with the key in the body"),
    Page("POST", "/key/health", "caller", _key_health, "Whether the caller's key is well"),
    Page("POST", "/credentials", "admin", _create_credential, "A new named credential"),
    Page("GET", "/credentials", "admin", _list_credentials, "The named credentials, masked"),
    Page("GET", "/credentials/by_name/{name:.+}", "admin", _credential, "One named credential, masked"),
    Page("PATCH", "/credentials/{name:.+}", "admin", _update_credential, "Change a named credential"),
    Page("DELETE", "/credentials/{name:.+}", "admin", _delete_credential, "Delete a named credential"),
    Page("GET", "/router/explain", "caller", _explain, "Who would answer a request, and why not the others"),
    Page("POST", "/router/explain", "caller", _explain, "The same, with the key in the body"),
    Page("POST", "/config/reload", "admin", _reload_config, "Read the configuration again"),
    Page("GET", "/config/status", "admin", _config_status, "Which configuration is in force"),
    Page("GET", "/spend/logs", "admin", _spend_logs, "The ledger's rows"),
    Page("GET", "/global/spend", "admin", _global_spend, "What was spent in all"),
    Page(
        "GET", "/global/spend/logs", "admin", _global_spend_logs, "What was spent each day of the last thirty"
    ),
    Page("GET", "/global/spend/models", "admin", _global_spend_models, "What was spent on each model"),
)
