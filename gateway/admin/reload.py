"""`POST /config/reload` and `GET /config/status`: another configuration on request, and which one is in force."""

from __future__ import annotations

from typing import Any

from adapters.errors import GatewayError
from gateway.logs import scrub
from gateway.reload import Reloader, told
from gateway.runtime import Runtime


class NotReloadable(GatewayError):
    """The gateway was made without a source of its configuration."""

    status, type, reason = 409, "conflict_error", "not_reloadable"


async def reload(rt: Runtime) -> tuple[int, dict[str, Any]]:
    """Read it again here, and have workers and replicas do the same. 400 with all problems if it cannot be used."""
    reloader = _reloader(rt)
    outcome = await reloader.reload("POST /config/reload")
    if outcome.succeeded:
        await reloader.tell_others()
        return 200, told(outcome)
    error = {
        "message": scrub("; ".join(map(str, outcome.problems))),
        "type": "invalid_request_error",
        "param": None,
        "code": "config_invalid",
    }
    return 400, {"error": error, **told(outcome)}


def status(rt: Runtime) -> dict[str, Any]:
    """Files, hash, since when, and how the last reload went."""
    return _reloader(rt).status()


def _reloader(rt: Runtime) -> Reloader:
    if rt.reloader is None:
        raise NotReloadable("The configuration was not read from anywhere")
    return rt.reloader
