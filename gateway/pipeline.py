"""The story of one request. Read this first.

Each line of `handle` is one stage, in the order in which they happen; each stage is one file in `gateway/stages/` and
knows no other. What a stage finds out, it writes into the exchange.

A request without a caller leaves a counter and a log line; from then on every request leaves exactly one row in the
ledger, whatever happens to it: `account.settle` runs in `finally` and never awaits.

It runs without a task as long as it can (`gateway.story`): in the ordinary case all of it happens in two calls, the one
that brings the question and the one that brings the answer. Meanwhile nobody waits in silence: see
`gateway.background.keep_alive`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from adapters.errors import Bug, GatewayError
from gateway.exchange import Exchange
from gateway.runtime import Runtime
from gateway.stages import account, auth, body, limits, route, stream, upstream
from gateway.story import Interrupted

log = logging.getLogger("penstock")


async def handle(rt: Runtime, x: Exchange) -> None:
    """One request, from its first byte to its bill."""
    account.open_books(rt, x)
    if rt.draining:
        x.client.close_after()
    try:
        await auth.identify(rt, x)  # who asks?
        account.insist(rt)  # can it be booked?
        await body.read(rt, x)  # open the envelope, not the letter
        if x.http.keys_version != rt.keyring.version:
            await auth.identify(rt, x)  # may they still? A body may take long to come
        route.plan(rt, x)  # who could answer, best first?
        await limits.admit(rt, x)  # may they, now?
        with await upstream.ask(rt, x) as answer:  # who begins to answer?
            await stream.relay(rt, x, answer)  # hand it over
    except GatewayError as error:
        await stream.refuse(rt, x, error)
    except Interrupted as interrupted:
        await stream.refuse(rt, x, interrupted.error)  # a deadline has passed, or the gateway goes down
    except asyncio.CancelledError:
        x.cancelled = True  # the client left: its row says so
        x.client.drop()
        raise
    except Exception as bug:
        log.exception("request %s hit a bug", x.id)
        await stream.refuse(rt, x, Bug(f"Internal error. Request id: {x.id}", code=type(bug).__name__))
    finally:
        if x.unheard is None:
            account.settle(rt, x)  # what did it cost? never awaits, so it cannot be cancelled
        else:
            rt.open.discard(x)
            rt.errand(_settle_later(rt, x, x.unheard()))


async def _settle_later(rt: Runtime, x: Exchange, unheard: Coroutine[Any, Any, None]) -> None:
    """The client is gone and the provider goes on: its own count will be the bill."""
    try:
        await unheard
    finally:
        account.settle(rt, x)
