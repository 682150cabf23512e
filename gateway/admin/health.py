"""How is the gateway, and how are its deployments? From live traffic: no provider is called here.

`GET /health` is what platforms poll every 30 seconds with no key, so it is public, answers from memory, and shows names
and a word; with an administrator's key it says more, and with `?probe=true` the deployments are asked before
(`gateway.probing`).
"""

from __future__ import annotations

from typing import Any

from gateway import __version__
from gateway.logs import scrub
from gateway.reload import Reloader
from gateway.routes import Deployment
from gateway.routing.health import Condition
from gateway.runtime import Runtime


def health(rt: Runtime, *, details: bool) -> tuple[int, dict[str, Any]]:
    """(HTTP status, body). 200 while the process can serve, 503 while it drains."""
    healthy: list[dict[str, Any]] = []
    unhealthy: list[dict[str, Any]] = []
    now = rt.now()
    seen: set[str] = set()
    shown_routes = [route for route in rt.routes.configured() if not route.hidden]
    for route in shown_routes:
        for deployment in route.deployments:
            if deployment.id in seen:
                continue  # another name for the same: an alias
            seen.add(deployment.id)
            available = rt.health.is_available(deployment.id, now)
            shown = _describe(rt, deployment, route.name, available=available, details=details)
            (healthy if available else unhealthy).append(shown)
    store = rt.records.describe()
    body: dict[str, Any] = {
        "status": "shutting_down" if rt.draining else "healthy",
        "models": [route.name for route in shown_routes],
        "healthy_endpoints": healthy,
        "unhealthy_endpoints": unhealthy,
        "healthy_count": len(healthy),
        "unhealthy_count": len(unhealthy),
        "version": __version__,
        "uptime": _uptime(now - rt.started),
        "auth": "disabled" if rt.keyring.is_open else "enabled",
        "db": "Not connected" if store.error else "connected",
        "cache": {"type": "none", "status": "disabled"},
        "ledger": _ledger(rt),
        "limits": "degraded" if rt.shared.degraded_since is not None else "ok",
    }
    if details:
        body["limits_degraded_since"] = rt.shared.degraded_since
        body["journal"] = {"bytes": rt.ledger.journal_bytes, "error": rt.ledger.journal_error or None}
        body["ledger_rows"] = {"waiting": rt.ledger.waiting, "dropped": rt.ledger.dropped}
        body["records"] = {"backend": store.backend, "durable": store.durable, "error": store.error or None}
        if rt.reloader is not None:
            body["config"] = _config(rt.reloader)
        body["env_providers"] = list(rt.routes.env_providers)
        body["unserved"] = [
            {"model": row.model_name, "place": str(row.place), "why": row.why} for row in rt.routes.unserved
        ]
    return (503 if rt.draining else 200), body


def readiness(rt: Runtime) -> tuple[int, dict[str, Any]]:
    """May traffic come? 503 from the moment of SIGTERM; a database that is away does not stop traffic."""
    store = rt.records.describe()
    body = {
        "status": "shutting_down" if rt.draining else "healthy",
        "db": "Not connected" if store.error else "connected",
        "litellm_version": __version__,
    }
    return (503 if rt.draining else 200), body


def _ledger(rt: Runtime) -> str:
    """`full`: what requests cost gets lost; `degraded`: rows wait in memory alone, because the disk takes none."""
    if rt.ledger.is_full:
        return "full"
    return "degraded" if rt.ledger.journal_error else "ok"


def _describe(
    rt: Runtime, deployment: Deployment, name: str, *, available: bool, details: bool
) -> dict[str, Any]:
    shown: dict[str, Any] = {"model": name, "status": "healthy" if available else "unhealthy"}
    if details:
        condition, now = rt.health.look(deployment.id), rt.now()
        shown |= {
            "litellm_model": deployment.model_name,
            "model_id": deployment.id,
            "api_base": deployment.origin,
            "latency_ms": round(latency * 1000, 1)
            if (latency := condition.pace.latency) is not None
            else None,
            "in_flight": condition.in_flight,
            "concurrency_limit": condition.concurrency.places if condition.concurrency is not None else None,
            "successes": condition.successes,
            "failures": condition.failures,
            "last_error": condition.last_reason or None,
            "cooldown_seconds": round(max(0.0, condition.cooled_until - now), 1),
            "cooldown_reason": condition.cooled_for or None if condition.cooled_until > now else None,
            "circuit": condition.breaker.state(now) if condition.breaker is not None else "closed",
            "probe": _probe(condition, now),
            "used_up": [str(tally) for tally in rt.health.spending.of(deployment) if tally.is_used_up],
        }
    return shown


def _probe(condition: Condition, now: float) -> dict[str, Any] | None:
    """How the last probe went, and how long ago."""
    if condition.probed is None:
        return None
    at, reason = condition.probed
    return {"seconds_ago": round(now - at, 1), "error": reason or None}


def _config(reloader: Reloader) -> dict[str, Any]:
    """What is in force, and whether the last reload was refused."""
    last = reloader.last
    return {
        "last_reload": "none" if last is None else "ok" if last.succeeded else "failed",
        "hash": reloader.digest,
        "loaded_at": reloader.loaded_at,
        "problems": [scrub(str(problem)) for problem in last.problems] if last is not None else [],
    }


def _uptime(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m {rest}s"
