"""All connections to providers: pools by origin and credential, and the rule for stale ones.

A provider may close a kept connection in the very moment in which a request goes out on it. Then, and only then (the
connection was used before, it broke, and not one byte of an answer came), the request is sent once more, on a new
connection. The upstream may have seen it twice: the response says so (`possible_duplicate`), and the ledger writes it
down. Nothing else is ever repeated here; whether another deployment is asked is for the stage to decide.
"""

from __future__ import annotations

import resource
import ssl
from dataclasses import dataclass
from functools import partial
from time import monotonic

from adapters.errors import UpstreamDisconnected, UpstreamError, UpstreamUnreachable
from adapters.types import HttpRequest
from gateway.upstreams.connection import Connection
from gateway.upstreams.dial import Dialer
from gateway.upstreams.pool import Pool
from gateway.upstreams.proxy import Proxies
from gateway.upstreams.request import Address, parse_url, write_request
from gateway.upstreams.resolve import Resolver
from gateway.upstreams.response import UpstreamResponse
from gateway.upstreams.tls import SessionContext, tls_context

IDLE_TIMEOUT = 15.0
"""Seconds that a connection is kept unused: less than any provider keeps it."""

STALE_WITHIN = 5.0
"""Seconds in which a dead connection shows itself. One that breaks later may have been at work until then: asking again
could be paid twice."""

POOLS = 1024
"""Pools that are remembered before empty ones are forgotten."""


def default_max_connections() -> int:
    """Half of the process's files, less some for everything else: each stream has a client's socket too."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 100_000 if files == resource.RLIM_INFINITY else max(20, files // 2 - 200)


@dataclass(frozen=True, slots=True)
class _Route:
    """A pool, and how requests must be written for it."""

    pool: Pool
    absolute: bool
    proxy_authorization: str | None


class Upstreams:
    """Sends requests to providers.

    `max_connections` bounds each pool (one for an origin and a `scope`); who comes when all are lent waits in line,
    `connect_timeout` at most. `proxy` is a URL for everything, or what `proxies_from_environment` read. `ssl_context`
    replaces the verified default, with everything that this implies.
    """

    def __init__(
        self,
        *,
        idle_timeout: float = IDLE_TIMEOUT,
        max_connections: int | None = None,
        proxy: str | Proxies | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._idle_timeout = idle_timeout
        self._max_connections = max_connections or default_max_connections()
        self._proxies = Proxies(proxy, proxy) if isinstance(proxy, str) else proxy or Proxies()
        self._context = ssl_context or tls_context()
        self._resolver = Resolver()
        self._routes: dict[tuple[str, str], _Route] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<Upstreams {'; '.join(repr(route.pool) for route in self._routes.values()) or 'no connections'}>"

    async def send(
        self, request: HttpRequest, *, connect_timeout: float, head_timeout: float, scope: str = ""
    ) -> UpstreamResponse:
        """Send a request; returns when the answer's head is there. Redirects are answers like any other.

        `scope` keeps the connections of one credential apart from another's; it is a digest, never the secret.
        Cancelling closes the socket at once. Raises `UpstreamUnreachable`, `UpstreamTimeout` (`connect_timeout`,
        `first_event_timeout`), `UpstreamDisconnected`, `UpstreamMalformed`, and `Bug` for a request that cannot be
        written.
        """
        address = parse_url(request.url)
        route = self._routes.get((address.origin, scope)) or self._open_route(address, scope)
        wire = write_request(
            request, address, absolute=route.absolute, proxy_authorization=route.proxy_authorization
        )
        waited = 0.0
        connection = route.pool.take()
        if connection is None:
            began = monotonic()
            connection = await route.pool.acquire(connect_timeout)
            waited = monotonic() - began
        asked = monotonic()
        try:
            response = await connection.ask(wire, request.method, head_timeout)
        except UpstreamDisconnected as broken:
            silent = monotonic() - asked
            if not broken.reused or broken.received or silent > STALE_WITHIN:
                raise
            left = head_timeout - silent
            try:
                response = await _ask_anew(route.pool, wire, request.method, connect_timeout, left)
            except UpstreamError as error:
                error.possible_duplicate = True
                raise
        else:
            response.connect_seconds = waited
        return response

    async def close(self) -> None:
        """Close every connection and refuse what comes later. Answers that are under way fail."""
        self._closed = True
        for route in list(self._routes.values()):
            await route.pool.close()

    def _open_route(self, address: Address, scope: str) -> _Route:
        if self._closed:
            raise UpstreamUnreachable("The gateway is shutting down")
        if len(self._routes) >= POOLS:
            self._routes = {key: route for key, route in self._routes.items() if not route.pool.is_empty}
        proxy = self._proxies.choose(address.scheme, address.host, address.port)
        pool = Pool(
            address.origin,
            Dialer(address, self._resolver, self._context, proxy),
            limit=self._max_connections,
            idle_timeout=self._idle_timeout,
            on_first_answer=partial(self._remember_session, address.host),
        )
        absolute = proxy is not None and address.scheme == "http"
        route = _Route(pool, absolute, proxy.authorization if proxy is not None and absolute else None)
        self._routes[address.origin, scope] = route
        return route

    def _remember_session(self, host: str, connection: Connection) -> None:
        """By its first answer a connection has got the server's tickets."""
        secured = connection.transport.get_extra_info("ssl_object") if connection.transport else None
        if secured is not None and isinstance(self._context, SessionContext):
            self._context.remember(host, secured.session)


async def _ask_anew(
    pool: Pool, wire: list[bytes], method: str, connect_timeout: float, head_timeout: float
) -> UpstreamResponse:
    """Send once more what went out on a connection that was dead."""
    began = monotonic()
    connection = await pool.acquire(connect_timeout, fresh=True)
    waited = monotonic() - began
    response = await connection.ask(wire, method, max(head_timeout - waited, 0.0))
    response.possible_duplicate = True
    response.connect_seconds = waited
    return response
