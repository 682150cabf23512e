"""The connections to one origin with one credential.

Idle connections are lent newest first, so that those which are not needed grow old and are closed before the provider
does it. When all connections are lent, callers wait in line; a connection that comes back goes to the first in line,
never to who comes later. A place belongs to whoever holds the connection, open or not yet; a caller who is cancelled
passes on what it was given.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from adapters.errors import UpstreamTimeout, UpstreamUnreachable
from gateway.outbox import Outbox
from gateway.upstreams.connection import Connection

log = logging.getLogger("penstock")

Dial = Callable[[Callable[[], asyncio.Protocol]], Awaitable[None]]
"""Opens a connection for the protocol that the function makes. Raises `UpstreamUnreachable`."""


class Pool:
    """At most `limit` connections; idle ones are closed after `idle_timeout` seconds."""

    def __init__(
        self,
        name: str,
        dial: Dial,
        *,
        limit: int,
        idle_timeout: float,
        outbox: Outbox,
        on_first_answer: Callable[[Connection], None],
    ) -> None:
        self.name = name
        self._dial = dial
        self._limit = limit
        self._idle_timeout = idle_timeout
        self._outbox = outbox
        self._on_first_answer = on_first_answer
        self._loop = asyncio.get_running_loop()
        self._places: set[Connection] = set()
        self._idle: list[Connection] = []
        self._line: deque[asyncio.Future[Connection | None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._sockets: set[Connection] = set()
        self._dials: set[asyncio.Timeout] = set()
        """The deadlines of those who are opening a connection."""
        self._all_gone = asyncio.Event()
        self._closed = False

    def __repr__(self) -> str:
        waiting = sum(not waiter.done() for waiter in self._line)
        text = f"{self.name}: {len(self._places) - len(self._idle)} active, {len(self._idle)} idle"
        return f"{text}, {waiting} waiting" if waiting else text

    @property
    def is_empty(self) -> bool:
        """Nothing here is open, lent or waited for."""
        return not self._places and not self._line and not self._sockets

    # -- lending -----------------------------------------------------------------------------------------------------

    def take(self) -> Connection | None:
        """The idle connection that was used last, if there is one. The caller must `ask` it before it awaits."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_connected:
                return connection
            self._free(connection)
        return None

    async def acquire(self, seconds: float, *, fresh: bool = False) -> Connection:
        """A connection that can be asked (before anything else is awaited), a new one if `fresh`. Needs a task.

        Raises `UpstreamUnreachable`; `UpstreamTimeout` (`connect_timeout`) if it takes longer, standing in line
        included.
        """
        try:
            async with asyncio.timeout(seconds) as deadline:
                connection = self._claim(fresh=fresh) or await self._stand_in_line()
                if connection.is_closed or (fresh and connection.uses):
                    connection = self._swap(connection)
                if not connection.is_connected:
                    await self._open(connection, deadline)
                return connection
        except TimeoutError as error:
            # From Python 3.13 on `timeout` takes an interrupt that comes in the same turn for its own cancellation.
            cause = error.__cause__
            if isinstance(cause, asyncio.CancelledError) and type(cause) is not asyncio.CancelledError:
                raise cause from None
            if self._closed:
                raise UpstreamUnreachable("The gateway is shutting down") from error
            raise UpstreamTimeout(
                f"No connection to {self.name} in {seconds:g} s", code="connect_timeout"
            ) from error

    def _claim(self, *, fresh: bool) -> Connection | None:
        """A place that can be had without waiting."""
        if self._closed:
            raise UpstreamUnreachable("The gateway is shutting down")
        if not fresh and (connection := self.take()) is not None:
            return connection
        if len(self._places) < self._limit:
            return self._new()
        if self._idle:
            return self._swap(self._idle.pop(0))
        return None

    async def _stand_in_line(self) -> Connection:
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        self._line.append(waiter)
        try:
            connection = await waiter
        except BaseException:
            if waiter in self._line:
                self._line.remove(waiter)
            elif not waiter.cancelled() and (given := waiter.result()) is not None:
                self._give_back(given)
            raise
        if connection is None or self._closed:  # closed after it was given, and before this went on
            raise UpstreamUnreachable("The gateway is shutting down")
        return connection

    async def _open(self, connection: Connection, deadline: asyncio.Timeout) -> None:
        self._dials.add(deadline)
        try:
            await self._dial(lambda: connection)
        except BaseException:
            self._free(connection)
            raise
        finally:
            self._dials.discard(deadline)
            self._see_whether_all_are_gone()
        if connection.is_closed:  # between the loop's word and ours
            self._free(connection)
            raise UpstreamUnreachable(f"{self.name} closed the connection at once")
        self._sockets.add(connection)
        log.debug("connection to %s opened, %d open now", self.name, len(self._sockets))

    def _new(self) -> Connection:
        connection = Connection(self, self._loop, self._outbox)
        self._places.add(connection)
        return connection

    def _swap(self, old: Connection) -> Connection:
        """A new connection in the place of an old one."""
        self._places.discard(old)
        old.close()
        return self._new()

    # -- coming back -------------------------------------------------------------------------------------------------

    def answered(self, connection: Connection) -> None:
        """A new connection has brought its first answer."""
        self._on_first_answer(connection)

    def finished(self, connection: Connection, *, reusable: bool) -> None:
        """An exchange is over."""
        if reusable and not self._closed:
            self._give_back(connection)
        else:
            self._free(connection)

    def lost(self, connection: Connection) -> None:
        """An idle connection was closed by the peer."""
        if connection in self._idle:
            self._idle.remove(connection)
            self._free(connection)

    def gone(self, connection: Connection) -> None:
        """A socket is closed for good."""
        self._sockets.discard(connection)
        self._see_whether_all_are_gone()

    def _see_whether_all_are_gone(self) -> None:
        if self._closed and not self._sockets and not self._dials:
            self._all_gone.set()

    def _give_back(self, connection: Connection) -> None:
        waiter = self._first_in_line() if self._line else None
        if waiter is not None:
            waiter.set_result(connection)
        elif connection.is_connected:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(self._idle_timeout, self._sweep)
        else:
            self._free(connection)

    def _free(self, connection: Connection) -> None:
        """Close a connection; its place goes to the first in line."""
        connection.close()
        if connection in self._places:
            self._places.remove(connection)
            waiter = None if self._closed else self._first_in_line()
            if waiter is not None:
                waiter.set_result(self._new())

    def _first_in_line(self) -> asyncio.Future[Connection | None] | None:
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():
                return waiter
        return None

    def _sweep(self) -> None:
        """Close what was idle for too long, the oldest first."""
        self._sweeper = None
        now = self._loop.time()
        while self._idle and self._idle[0].idle_since + self._idle_timeout <= now:
            self._free(self._idle.pop(0))
        if self._idle:
            due = self._idle[0].idle_since + self._idle_timeout
            self._sweeper = self._loop.call_at(due, self._sweep)

    async def close(self) -> None:
        """Close all connections, send everybody away who waits or opens one, and see the sockets gone."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        while (waiter := self._first_in_line()) is not None:
            waiter.set_result(None)
        self._idle.clear()
        for connection in list(self._places):
            self._free(connection)
        for deadline in self._dials:
            if not deadline.expired():
                deadline.reschedule(self._loop.time())
        self._see_whether_all_are_gone()
        await self._all_gone.wait()
