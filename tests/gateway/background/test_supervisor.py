from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable

import pytest

from gateway.background.supervisor import Supervisor, spawn


class Scripted:
    """A worker that runs what it is given."""

    def __init__(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._work = work

    async def run(self) -> None:
        await self._work()


async def test_a_spawned_task_is_held() -> None:
    """A task that nobody keeps a reference to runs to its end although memory is collected."""
    ended = asyncio.Event()
    gate = asyncio.Event()

    async def work() -> None:
        await gate.wait()
        ended.set()

    spawn(work(), name="held")
    await asyncio.sleep(0)
    gc.collect()
    gate.set()
    await ended.wait()


async def test_a_dying_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What kills a task is logged with its traceback and the task's name."""

    async def work() -> None:
        raise LookupError("gone")

    task = spawn(work(), name="doomed")
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert "the task doomed died" in caplog.text
    assert "LookupError: gone" in caplog.text


async def test_a_cancelled_task_is_not_news(caplog: pytest.LogCaptureFixture) -> None:
    """Cancelling a task leaves no error in the log."""
    task = spawn(asyncio.Event().wait(), name="cancelled")
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert not caplog.records


async def test_a_dead_worker_starts_again(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that dies is started again, and its state says how often and why."""
    runs = 0
    third = asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError(f"run {runs}")
        third.set()
        await asyncio.Event().wait()

    supervisor = Supervisor([Scripted("fragile", work)], delays=(0.0, 0.0))
    supervisor.start()
    await third.wait()
    (state,) = supervisor.states()
    assert (state.state, state.restarts, state.error) == ("running", 2, "ValueError: run 2")
    await supervisor.stop()
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


async def test_a_worker_that_returns_is_finished() -> None:
    """A worker that returns is not started again."""
    runs: list[int] = []
    ended = asyncio.Event()

    async def work() -> None:
        runs.append(1)
        ended.set()

    supervisor = Supervisor([Scripted("brief", work)])
    supervisor.start()
    await ended.wait()
    await asyncio.sleep(0)
    assert [state.state for state in supervisor.states()] == ["finished"]
    await supervisor.stop()
    assert runs == [1]


async def test_stopped_in_reverse_order() -> None:
    """Workers stop one after the other, last started first, each after the next has ended."""
    order: list[str] = []
    started = asyncio.Barrier(3)

    def worker(name: str) -> Scripted:
        async def work() -> None:
            await started.wait()
            try:
                await asyncio.Event().wait()
            finally:
                order.append(f"{name} stops")
                await asyncio.sleep(0)
                order.append(f"{name} ended")

        return Scripted(name, work)

    supervisor = Supervisor([worker("a"), worker("b")])
    supervisor.start()
    await started.wait()
    await supervisor.stop()
    assert order == ["b stops", "b ended", "a stops", "a ended"]
    assert [state.state for state in supervisor.states()] == ["stopped", "stopped"]


async def test_a_worker_that_will_not_stop(caplog: pytest.LogCaptureFixture) -> None:
    """Stopping ends at its deadline even if a worker does not, and says which one."""
    gate = asyncio.Event()

    async def work() -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    supervisor = Supervisor([Scripted("stubborn", work)])
    supervisor.start()
    await asyncio.sleep(0)
    await supervisor.stop(timeout=0.01)
    assert "the worker stubborn did not stop" in caplog.text
    gate.set()
    await asyncio.sleep(0)
