"""How late the event loop is: the one number that says whether the process has too much to do."""

from __future__ import annotations

import asyncio

from gateway.metrics import Metrics

_EVERY = 0.5


class LoopLag:
    """A worker that asks to be woken after a while and measures by how much that came too late."""

    name = "loop-lag"

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def run(self) -> None:
        """Measure, until cancelled. `metrics.loop_lag` falls slowly, so that a scrape sees a short stall."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            await asyncio.sleep(_EVERY)
            late = max(0.0, loop.time() - asked - _EVERY)
            self._metrics.loop_lag = max(late, self._metrics.loop_lag * 0.9)
