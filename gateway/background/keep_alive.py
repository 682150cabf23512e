"""Nobody waits in silence: middle boxes cut what is silent for a minute, and a client should not wait in the dark.

A stream to which nothing was written for 15 seconds gets a comment, whatever it waits for: a place in the queue, a provider that
thinks, one that pauses. If it has not begun by then, its head goes out first.

All open requests are looked at once a second. A timer for each would cost every stream 2 us before its question is sent, and 15 where
there are few streams and all is out of the processor's caches; a look at one of them takes 0.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from time import monotonic

from gateway.exchange import Exchange

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
        self._seen: dict[Exchange, tuple[int, float]] = {}
        """What each stream had been written, and when that was first seen."""

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            seconds = self._seconds()
            await asyncio.sleep(min(_EVERY, seconds / 4))
            before, self._seen = self._seen, {}
            now = monotonic()
            for number, x in enumerate(list(self._open)):
                if number % _AT_ONCE == _AT_ONCE - 1:
                    await asyncio.sleep(0)
                if x.wants_stream and not x.client.ended:
                    self._look(x, before.get(x), now, seconds)

    def _look(self, x: Exchange, before: tuple[int, float] | None, now: float, seconds: float) -> None:
        if before is None or before[0] != x.client.written:
            before = x.client.written, now
        elif now - before[1] >= seconds:
            self._comment(x)
            before = x.client.written, now
        self._seen[x] = before
