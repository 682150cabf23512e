from __future__ import annotations

import asyncio
import time

from gateway.background.loop_lag import LoopLag
from gateway.background.supervisor import spawn


async def test_a_blocked_loop_shows() -> None:
    """When something holds the loop up, the next report says for about how long."""
    reports: asyncio.Queue[float] = asyncio.Queue()
    task = spawn(LoopLag(reports.put_nowait, interval=0.01).run(), name="lag")
    await reports.get()
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - to block the loop is the point
    assert await reports.get() >= 0.1
    task.cancel()
