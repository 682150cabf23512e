"""How late is the event loop?

A timer that fires late means that something held the loop up, and every stream with it. It is the first number to look at
when a gateway feels slow and its upstreams do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class LoopLag:
    """A `Worker` that reports, every `interval` seconds, by how many seconds its timer was late."""

    name = "loop-lag"

    def __init__(self, report: Callable[[float], None], *, interval: float = 1.0) -> None:
        self._report = report
        self._interval = interval

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._interval
            await asyncio.sleep(self._interval)
            self._report(max(0.0, loop.time() - due))
