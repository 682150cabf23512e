"""Cross-origin requests: off unless `allowed_origins` names who may.

Ordinary routes go through aiohttp-cors, preflights too. Model routes answer raw, so the library never sees their
responses; `headers_for` and `exposed` give what their heads must carry. `*` is never combined with credentials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import aiohttp_cors
from aiohttp import web

Headers = Iterable[tuple[str, str]]


def headers_for(origins: tuple[str, ...], *, credentials: bool) -> Callable[[str | None], Headers]:
    """A function from a request's `Origin` to the headers of its answer."""
    anyone = "*" in origins
    listed = frozenset(origin.rstrip("/") for origin in origins)

    def headers(origin: str | None) -> Headers:
        if origin is None or not (anyone or origin in listed):
            return ()
        found = [("access-control-allow-origin", origin), ("vary", "Origin")]
        if credentials and not anyone:
            found.append(("access-control-allow-credentials", "true"))
        return found

    return headers


def exposed(headers: str) -> str:
    """The line that lets a page read these header lines: by name, since with credentials browsers know no `*`."""
    names = ", ".join(line.partition(":")[0] for line in headers.splitlines())
    return f"access-control-expose-headers: {names}\r\n"


def allow(app: web.Application, origins: tuple[str, ...], *, credentials: bool) -> None:
    """Let these origins' pages read every route that is bound by now."""
    if not origins:
        return
    options = aiohttp_cors.ResourceOptions(  # type: ignore[no-untyped-call]  # it has no annotations
        allow_credentials=credentials and "*" not in origins,
        expose_headers="*",
        allow_headers="*",
        allow_methods="*",
    )
    cors = aiohttp_cors.setup(app, defaults={origin.rstrip("/") or origin: options for origin in origins})
    for route in list(app.router.routes()):
        if route.method != "HEAD":
            cors.add(route)
    app.on_response_prepare.append(_vary)


async def _vary(request: web.Request, response: web.StreamResponse) -> None:
    """The library does not say that an answer for one origin is none for another: a cache would give it to both."""
    response.headers["vary"] = "Origin"
