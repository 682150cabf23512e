from __future__ import annotations

import asyncio
import time

import pytest

from gateway.background import lag
from gateway.background.supervisor import spawn
from gateway.metrics import Metrics


async def test_a_blocked_loop_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """When something holds the loop up, the metric says for about how long."""
    monkeypatch.setattr(lag, "_EVERY", 0.01)
    metrics = Metrics()
    task = spawn(lag.LoopLag(metrics).run(), name="lag")
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - to block the loop is the point
    while not metrics.loop_lag:
        await asyncio.sleep(0)
    assert metrics.loop_lag >= 0.1
    task.cancel()
