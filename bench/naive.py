"""The peer that shows what a gateway costs when nothing was thought about: aiohttp at both ends, as its documentation does it.

It looks up the Bearer key, parses the request's JSON, looks up the model and glances at each chunk for its usage; it has no
limits, no ledger, no retries and no metrics. Whatever Penstock costs more than this, its features cost; whatever it costs less,
its design saves.

    python -m bench.naive --port 9001 --upstream http://127.0.0.1:9000
"""

from __future__ import annotations

import argparse
import json

import aiohttp
import uvloop
from aiohttp import web

KEYS = {"sk-bench": "somebody"}
MODELS = {"openai/bench": "bench"}


class Gateway:
    """The handler and what it needs."""

    def __init__(self, upstream: str) -> None:
        self.url = f"{upstream}/v1/chat/completions"
        self.usage_seen = 0

    async def start(self, app: web.Application) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        self.session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        app.on_cleanup.append(lambda _: self.session.close())

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One chat completion: streamed if the upstream streams it."""
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in KEYS:
            raise web.HTTPUnauthorized
        body = await request.json()
        name, _, settings = str(body["model"]).partition("-")
        if name not in MODELS:
            raise web.HTTPNotFound
        body["model"] = f"{MODELS[name]}-{settings}"
        headers = {"Authorization": "Bearer sk-upstream", "Content-Type": "application/json"}
        async with self.session.post(self.url, data=json.dumps(body), headers=headers) as upstream:
            if upstream.headers["Content-Type"] == "application/json":
                whole = await upstream.read()
                self.usage_seen += b'"usage"' in whole
                return web.Response(status=upstream.status, body=whole, content_type="application/json")
            response = web.StreamResponse(
                status=upstream.status, headers={"Content-Type": "text/event-stream"}
            )
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                self.usage_seen += b'"usage"' in chunk
                await response.write(chunk)
            await response.write_eof()
            return response


def main() -> None:
    """Serve on loopback until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    arguments = parser.parse_args()
    gateway = Gateway(arguments.upstream)
    app = web.Application(client_max_size=32 << 20)
    app.on_startup.append(gateway.start)
    app.router.add_post("/v1/chat/completions", gateway.answer)
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=arguments.port, print=None, access_log=None, loop=loop)


if __name__ == "__main__":
    main()
