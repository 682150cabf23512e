"""Getting a new credential, one at a time, for all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


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


async def in_thread(work: Callable[..., T], *given: Any) -> T:
    """What a vendor's library does, which may wait for a silent server for minutes: in a thread of its own, so that neither the
    threads that all share are used up nor the end of the process is held up.
    """
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # nobody cancels it: it is told although nobody may listen any more

    def run() -> None:
        try:
            outcome.set_result(work(*given))
        except BaseException as error:  # told to who waits
            outcome.set_exception(error)

    Thread(target=run, name="credential", daemon=True).start()
    return await asyncio.wrap_future(outcome)
