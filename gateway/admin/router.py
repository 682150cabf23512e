"""`GET /router/explain?model=…`: who would answer such a request, and why not the others.

With the master key: about any key (`key`: its digest, its alias or itself), with addresses, places and health. Whoever holds a
virtual key may ask about its own requests, and learns names, shares and prices.
"""

from __future__ import annotations

import time
from typing import Any

from multidict import MultiMapping

from adapters.errors import Forbidden
from gateway.explaining import Gateway, asked, explain, explain_all
from gateway.keyring import Caller, KeyNotFound
from gateway.runtime import Runtime


def explanation(rt: Runtime, caller: Caller, query: MultiMapping[str], key: str | None) -> dict[str, Any]:
    """What `gateway.explaining` says, about `key` or else about the caller. Raises `KeyNotFound`, and `Forbidden` for a key that asks
    about another.
    """
    for_operator = caller.key is None
    if key:
        if not for_operator:
            raise Forbidden("A virtual key may ask about itself alone: leave out `key`")
        caller = _named(rt, key)
    request = asked(
        caller,
        tags=tuple(query.getall("tag", ())),
        region=query.get("region") or None,
        stream=query.get("stream", "").lower() in {"1", "true"},
    )
    name = query.get("model")
    gateway = Gateway(
        rt.config,
        rt.routes,
        rt.router,
        rt.limiter.settings,
        rt.compiled.environ,
        rt.health,
        rt.now(),
        time.time(),
    )
    if not name:
        return explain_all(gateway, request, for_operator=for_operator)
    return explain(gateway, name, request, for_operator=for_operator)


def _named(rt: Runtime, key: str) -> Caller:
    row = rt.keyring.with_alias(key) or rt.keyring.find(rt.keyring.named(key))
    if row is None:
        raise KeyNotFound("No such key")
    return Caller("key", row.payer, row.alias, row)
