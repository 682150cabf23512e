"""Nobody waits in silence: middle boxes cut what is silent for a minute, and a client should not wait in the dark.

A stream to which nothing was written for 15 seconds gets a comment, whatever it waits for: a place in the queue, a provider that
thinks, one that pauses. If it has not begun by then, its head goes out first.

All open requests are looked at once a second. A timer for each would cost every stream 2 us before its question is sent, and 15 where
there are few streams and all is out of the processor's caches; a look at one of them takes 0.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from time import monotonic

from gateway.exchange import Exchange

log = logging.getLogger("penstock")

_EVERY = 1.0
_AT_ONCE = 500
"""Requests that are looked at before the event loop has its turn."""


class KeepAlive:
    """A worker that sees which of the `open` requests are silent streams, and says `comment` to them.

    `seconds` is how long one may be silent.
    """

    name = "keep-alive"

    def __init__(
        self, open_: Collection[Exchange], seconds: Callable[[], float], comment: Callable[[Exchange], None]
    ) -> None:
        self._open = open_
        self._seconds = seconds
        self._comment = comment

    async def run(self) -> None:
        """Look, until cancelled."""
        seen: dict[Exchange, tuple[int, float]] = {}  # what each stream had been written, and since when
        while True:
            seconds = self._seconds()
            await asyncio.sleep(min(_EVERY, seconds / 4))
            seen = await self._look_at_all(seen, seconds)

    async def _look_at_all(
        self, before: dict[Exchange, tuple[int, float]], seconds: float
    ) -> dict[Exchange, tuple[int, float]]:
        seen: dict[Exchange, tuple[int, float]] = {}
        now = monotonic()
        for number, x in enumerate(list(self._open)):
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            if x.wants_stream and not x.client.ended:
                seen[x] = self._look(x, before.get(x), now, seconds)
        return seen

    def _look(
        self, x: Exchange, before: tuple[int, float] | None, now: float, seconds: float
    ) -> tuple[int, float]:
        if before is not None and before[0] == x.client.written:
            if now - before[1] < seconds:
                return before
            try:
                self._comment(x)
            except Exception:  # one that fails must not take the others along
                log.exception("request %s could not be told that it goes on", x.id)
        return x.client.written, now
