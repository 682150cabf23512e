"""Getting a new credential, one at a time, for all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any


class Renewal:
    """Runs `renew`, which keeps what it gets and never raises; whoever comes while it runs joins it."""

    def __init__(self, renew: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._renew = renew
        self._running: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[None]:
        """Have it run in the background."""
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._renew())
        return self._running

    async def wait(self) -> None:
        """Until it has run. A client that leaves does not take the others' credential along; where it is stopped while some
        wait, they have it run anew.
        """
        running = None
        while running is None or running.cancelled():
            running = self.begin()
            await asyncio.wait([running])

    async def close(self) -> None:
        """Stop it if it runs."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
