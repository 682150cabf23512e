"""The peer that shows what a gateway costs when nothing was thought about: aiohttp at both ends, as its documentation does it.

It looks up the Bearer key, parses the request's JSON, looks up the model and glances at each chunk for its usage; it has no
limits, no ledger, no retries and no metrics. Whatever Penstock costs more than this, its features cost; whatever it costs less,
its design saves.

    python -m bench.naive --port 9001 --upstream http://127.0.0.1:9000
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

from bench.load import KEY

KEYS = {KEY: "somebody"}
MODELS = {"bench": "bench", "openai/bench": "bench"}
UPSTREAM = web.AppKey("upstream", str)
SESSION = web.AppKey("session", aiohttp.ClientSession)


async def with_session(app: web.Application) -> AsyncIterator[None]:
    """One client session for the application's life."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        app[SESSION] = session
        yield


async def answer(request: web.Request) -> web.StreamResponse:
    """One chat completion: streamed if the upstream streams it."""
    if request.headers.get("Authorization", "").removeprefix("Bearer ") not in KEYS:
        raise web.HTTPUnauthorized
    body = await request.json()
    name, dash, settings = body["model"].partition("-")
    if name not in MODELS:
        raise web.HTTPNotFound
    body["model"] = MODELS[name] + dash + settings
    headers = {"Authorization": "Bearer sk-upstream"}
    async with request.app[SESSION].post(request.app[UPSTREAM], json=body, headers=headers) as upstream:
        if upstream.content_type == "application/json":
            whole = await upstream.read()
            usage_seen(b'"usage"' in whole)
            return web.Response(status=upstream.status, body=whole, content_type="application/json")
        response = web.StreamResponse(status=upstream.status, headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for chunk in upstream.content.iter_any():
            usage_seen(b'"usage"' in chunk)
            await response.write(chunk)
        await response.write_eof()
        return response


def usage_seen(usage: object) -> None:
    """Where a gateway would account for it."""


def main() -> None:
    """Serve on loopback until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    arguments = parser.parse_args()
    app = web.Application(client_max_size=32 << 20)
    app[UPSTREAM] = f"{arguments.upstream}/v1/chat/completions"
    app.cleanup_ctx.append(with_session)
    app.router.add_post("/v1/chat/completions", answer)
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=arguments.port, print=None, access_log=None, loop=loop)


if __name__ == "__main__":
    main()
