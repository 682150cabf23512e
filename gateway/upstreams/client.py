"""All connections to providers: pools by origin and credential, and the rule for stale ones.

A provider may close a kept connection in the very moment in which a request goes out on it. Then, and only then (the
connection was used before, it broke, and not one byte of an answer came), the request is sent once more, on a new
connection. The upstream may have seen it twice: the response says so (`possible_duplicate`), and the ledger writes it
down. Nothing else is ever repeated here; whether another deployment is asked is for the stage to decide.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

from adapters.errors import UpstreamDisconnected, UpstreamError, UpstreamUnreachable
from adapters.types import HttpRequest
from gateway.outbox import Outbox
from gateway.story import as_task
from gateway.upstreams.connection import Connection
from gateway.upstreams.dial import Dialer
from gateway.upstreams.pool import Pool
from gateway.upstreams.proxy import Proxies
from gateway.upstreams.request import Address, parse_url, wire, write_head, write_headers
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


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request but for its body. The head has a credential in it, so it is never shown."""

    address: Address
    scope: str
    method: str
    head: bytes = field(repr=False)

    def with_headers(self, headers: Sequence[tuple[str, str]]) -> Prepared:
        """The same with more headers, none of which it has. Raises `Bug`."""
        return Prepared(self.address, self.scope, self.method, self.head + write_headers(headers))


class Upstreams:
    """Sends requests to providers.

    `max_connections` bounds each pool (one for an origin and a `scope`); who comes when all are lent waits in line,
    `connect_timeout` at most. `proxy` is a URL for everything, or what `proxies_from_environment` read. `ssl_context`
    replaces the verified default, with everything that this implies. Requests leave through `outbox`.
    """

    def __init__(
        self,
        *,
        idle_timeout: float = IDLE_TIMEOUT,
        max_connections: int | None = None,
        proxy: str | Proxies | None = None,
        ssl_context: ssl.SSLContext | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self._idle_timeout = idle_timeout
        self._max_connections = max_connections or default_max_connections()
        self._proxies = Proxies(proxy, proxy) if isinstance(proxy, str) else proxy or Proxies()
        self._context = ssl_context or tls_context()
        self._resolver = Resolver()
        self._outbox = outbox or Outbox(asyncio.get_running_loop())
        self._routes: dict[tuple[str, str], _Route] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<Upstreams {'; '.join(repr(route.pool) for route in self._routes.values()) or 'no connections'}>"

    def prepare(self, method: str, url: str, headers: Sequence[tuple[str, str]], scope: str = "") -> Prepared:
        """All of a request but its body, to be sent any number of times. Raises `Bug` if it cannot be written.

        `scope` keeps the connections of one credential apart from another's; it is a digest, never the secret.
        """
        address = parse_url(url)
        route = self._routes.get((address.origin, scope)) or self._open_route(address, scope)
        head = write_head(
            method,
            headers,
            address,
            absolute=route.absolute,
            proxy_authorization=route.proxy_authorization,
        )
        return Prepared(address, scope, method, head)

    async def send(
        self, request: HttpRequest, *, connect_timeout: float, head_timeout: float | None, scope: str = ""
    ) -> UpstreamResponse:
        """`prepare` and `ask` in one."""
        prepared = self.prepare(request.method, request.url, request.headers, scope)
        return await self.ask(
            prepared, request.body, connect_timeout=connect_timeout, head_timeout=head_timeout
        )

    def dispatch(self, prepared: Prepared, body: bytes, *, collect: int = 0) -> Connection | None:
        """Send a request now, if a connection is free. `ask` with what this returns, before anything else is awaited, gets the
        answer: what need not be done before it is sent can be done in between, while the provider thinks.
        """
        connection = self._pool(prepared).take()
        if connection is not None:
            connection.send(wire(prepared.head, prepared.method, body), prepared.method, collect)
        return connection

    async def ask(
        self,
        prepared: Prepared,
        body: bytes,
        *,
        connect_timeout: float,
        head_timeout: float | None,
        collect: int = 0,
        sent: Connection | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> UpstreamResponse:
        """Send a request; returns when the answer's head is there, or, with `collect`, when a 2xx answer is complete, of at
        most so many bytes. Redirects are answers like any other. `sent`: what `dispatch` gave; `on_sent` is called when the
        request has gone out.

        `head_timeout` None: the caller watches the time, and interrupts. Cancelling closes the socket at once. Raises
        `UpstreamUnreachable`, `UpstreamTimeout` (`connect_timeout`, `first_event_timeout`), `UpstreamDisconnected`,
        `UpstreamMalformed`.
        """
        method = prepared.method
        waited = 0.0
        connection = sent or self.dispatch(prepared, body, collect=collect)
        if connection is None:
            began = monotonic()
            await as_task()  # before the pool is looked up: one that is empty may be forgotten meanwhile
            connection = await self._pool(prepared).acquire(connect_timeout)
            waited = monotonic() - began
            connection.send(wire(prepared.head, method, body), method, collect)
        if on_sent is not None:
            on_sent()
        asked = monotonic()
        try:
            response = await connection.answered(head_timeout)
        except UpstreamDisconnected as broken:
            silent = monotonic() - asked
            if not broken.reused or broken.received or silent > STALE_WITHIN:
                raise
            left = None if head_timeout is None else head_timeout - silent
            await as_task()
            pool, data = self._pool(prepared), wire(prepared.head, method, body)
            try:
                response = await _ask_anew(pool, data, method, connect_timeout, left, collect)
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

    def _pool(self, prepared: Prepared) -> Pool:
        address, scope = prepared.address, prepared.scope
        return (self._routes.get((address.origin, scope)) or self._open_route(address, scope)).pool

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
            outbox=self._outbox,
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
    pool: Pool,
    data: list[bytes],
    method: str,
    connect_timeout: float,
    head_timeout: float | None,
    collect: int,
) -> UpstreamResponse:
    """Send once more what went out on a connection that was dead."""
    began = monotonic()
    connection = await pool.acquire(connect_timeout, fresh=True)
    waited = monotonic() - began
    left = None if head_timeout is None else max(head_timeout - waited, 0.0)
    response = await connection.ask(data, method, left, collect)
    response.possible_duplicate = True
    response.connect_seconds = waited
    return response
