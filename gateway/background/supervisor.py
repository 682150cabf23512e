"""Tasks that nobody loses, and workers that are kept alive.

asyncio holds tasks by weak references only and reports the error of one that died when it is collected, if ever. `spawn`
is therefore the one way in this project to start a task that runs beside its starter: it is held until it ends, and what
kills it is logged at that moment.

A worker is a background loop. The supervisor runs each in a task of its own, starts it again after a failure (waiting
longer each time, so that a broken one does not eat the processor) and stops them in the reverse order of their start:
what was started last may use what was started first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, Protocol, TypeVar

from msgspec import Struct

log = logging.getLogger("penstock.supervisor")

T = TypeVar("T")

_running: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Run it beside us in the running loop. An exception that ends it is logged with its traceback under `name`."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _running.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the task %s died", task.get_name(), exc_info=error)


class Worker(Protocol):
    """A background loop. `run` goes on until it is cancelled; one that returns has nothing left to do."""

    @property
    def name(self) -> str:
        """For logs and health reports; unique."""
        ...

    async def run(self) -> None:
        """Work. Cancellation is the signal to stop; tidy up in `finally`."""
        ...


class WorkerState(Struct):
    """How a worker is doing. `waiting` means: it failed and will be started again."""

    name: str
    state: Literal["running", "waiting", "finished", "stopped"] = "running"
    restarts: int = 0
    error: str = ""


class Supervisor:
    """Keeps workers running. `delays` are the shortest and the longest wait before a restart, in seconds.

    A worker that lasted longer than the longest wait counts as healthy, and its next failure starts from the shortest.
    """

    def __init__(self, workers: Sequence[Worker], *, delays: tuple[float, float] = (0.1, 30.0)) -> None:
        self._workers = list(workers)
        self._delays = delays
        self._states = {worker.name: WorkerState(worker.name) for worker in workers}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Start all workers, in order; returns at once."""
        for worker in self._workers:
            self._tasks[worker.name] = spawn(self._keep(worker), name=f"worker {worker.name}")

    async def stop(self, timeout: float = 5.0) -> None:
        """Cancel the workers one after the other, last started first, and wait for each; `timeout` seconds in all.

        One that does not end in time is left behind with an error in the log: the process is about to go anyway.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        for name, task in reversed(self._tasks.items()):
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=max(0.0, deadline - loop.time()))
            if done:
                self._states[name].state = "stopped"
            else:
                log.error("the worker %s did not stop within %s s", name, timeout)
        self._tasks.clear()

    def states(self) -> list[WorkerState]:
        """How each worker is doing, in the order of their start."""
        return list(self._states.values())

    async def _keep(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        state = self._states[worker.name]
        shortest, longest = self._delays
        delay = shortest
        while True:
            state.state = "running"
            began = loop.time()
            try:
                await worker.run()
            except Exception as error:  # whatever it is, the others go on and this one gets another chance
                if loop.time() - began > longest:
                    delay = shortest
                state.state, state.error = "waiting", f"{type(error).__name__}: {error}"
                state.restarts += 1
                log.exception("the worker %s died; it starts again in %.1f s", worker.name, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, longest)
            else:
                state.state = "finished"
                return
