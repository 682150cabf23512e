"""The story of one request. Read this first.

Each line of `handle` is one stage, in the order in which they happen; each stage is one file in `gateway/stages/` and
knows no other. What a stage finds out, it writes into the exchange.

A request without a caller leaves a counter and a log line; from then on every request leaves exactly one row in the
ledger, whatever happens to it: `account.settle` runs in `finally` and never awaits.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from adapters.errors import Bug, Draining, GatewayError
from gateway.client import ClientWriter
from gateway.exchange import Endpoint, Exchange
from gateway.runtime import Runtime
from gateway.stages import account, auth, body, route, stream, upstream

log = logging.getLogger("penstock")


async def handle(rt: Runtime, http: web.Request, endpoint: Endpoint) -> web.StreamResponse:
    """One request, from its first byte to its bill."""
    client = ClientWriter(http, rt.cors_headers(http.headers.get("origin")))
    if rt.draining:
        client.close_after()
    x = Exchange(endpoint, http, client, rt.now())
    account.open_books(rt, x)
    try:
        auth.identify(rt, x)  # who asks?
        await body.read(rt, x)  # open the envelope, not the letter
        route.plan(rt, x)  # who could answer, best first?
        stream.hold_the_line(rt, x)  # nobody waits in silence
        async with await upstream.ask(rt, x) as answer:  # who begins to answer?
            await stream.relay(rt, x, answer)  # hand it over
    except GatewayError as error:
        stream.refuse(rt, x, error)
    except asyncio.CancelledError:
        if not _is_going_down(rt, x):
            x.cancelled = True  # the client left: its row says so
            client.drop()
            raise
        stream.refuse(rt, x, Draining("The gateway is shutting down"))
    except Exception as bug:
        log.exception("request %s hit a bug", x.id)
        stream.refuse(rt, x, Bug(f"Internal error. Request id: {x.id}", code=type(bug).__name__))
    finally:
        account.settle(rt, x)  # what did it cost? never awaits, so it cannot be cancelled
    return client.response()


def _is_going_down(rt: Runtime, x: Exchange) -> bool:
    """Was the request cancelled because the gateway's patience with open streams has ended?"""
    task = rt.open.get(x)
    return rt.cut_off and task is not None and bool(task.uncancel() == 0)
