"""Runs the coroutine of one request, without a task for as long as it can.

A task costs a request about 5 us and its answer another turn of the event loop: each wake-up is put at the end of the
loop's queue. A story is driven by hand instead. It runs in the call that brings what it waits for: the client's
`data_received` starts it, the provider's resumes it, and the answer is on its way before that call returns.

What the hot path waits for is a `Signal`. Whatever else is awaited (a dial, a sleep, a client that reads slowly) turns the
rest of the story into an ordinary task, for good; code that needs a task before it awaits anything, like
`asyncio.timeout`, says `await as_task()` first.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any

from msgspec import Struct

from adapters.errors import GatewayError

_NOTHING = object()

Ended = Callable[["Story"], None]


class Signal:
    """Something to wait for, given once, by one waiter.

    A story that waits goes on within the call of `set`. A task that waits is woken by the loop, as by a future: the
    methods below `set` are what asyncio asks of one.
    """

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "is_set", "resume")

    def __init__(self) -> None:
        self.is_set = False
        self.resume: Callable[[], object] | None = None
        self._asyncio_future_blocking = False
        self._cancelled = False

    def set(self) -> None:
        """It has come. A second time changes nothing."""
        if not self.is_set:
            self.is_set = True
            resume, self.resume = self.resume, None
            if resume is not None:
                resume()

    def __await__(self) -> Generator[Signal, None, None]:
        if not self.is_set:
            self._asyncio_future_blocking = True
            yield self

    def add_done_callback(self, wake: Callable[[Signal], object], *, context: Context | None = None) -> None:
        """Have a task woken."""
        loop = asyncio.get_running_loop()
        self.resume = lambda: loop.call_soon(wake, self, context=context)

    def cancel(self, msg: str | None = None) -> bool:
        """The task that waits is cancelled."""
        self._cancelled = True
        resume, self.resume = self.resume, None
        if resume is not None:
            resume()
        return resume is not None

    def result(self) -> None:
        """What the task that is woken gets."""
        if self._cancelled:
            self._cancelled = False
            raise asyncio.CancelledError

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Signals belong to whichever loop runs."""
        return asyncio.get_running_loop()


class Interrupted(asyncio.CancelledError):
    """Raised where a story waits when it is interrupted with `error`. What tidies up after a cancellation does so here."""

    def __init__(self, error: GatewayError) -> None:
        super().__init__(str(error))
        self.error = error


async def as_task() -> None:
    """From here on the story that runs is a task; costs a turn of the loop where it is one already."""
    await asyncio.sleep(0)


class Story(Struct, eq=False):
    """One coroutine on its way. `on_end` is called when it is over, however it ended.

    `start` runs it at once; `attend` runs it within the task of whoever awaits that.
    """

    _loop: asyncio.AbstractEventLoop
    _on_end: Ended | None = None
    _coroutine: Any = None
    _waits_for: Signal | None = None
    _task: asyncio.Task[Any] | None = None
    _task_runs: bool = False
    _error: asyncio.CancelledError | None = None
    _is_over: bool = False

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it until it first waits."""
        self._coroutine = coroutine
        self._step()

    async def attend(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run all of it in the current task, whose cancellation is the story's."""
        self._coroutine = coroutine
        self._task = asyncio.current_task()
        await self._rest(_NOTHING)

    def interrupt(self, error: GatewayError | asyncio.CancelledError) -> None:
        """Raise `Interrupted(error)` where the story waits, or the error itself if it is a cancellation; while it runs, where
        it next waits. Nothing happens if it is over. Of two interrupts at once the cancellation counts, else the first.
        """
        is_told = self._error is not None
        if self._is_over or (is_told and not isinstance(error, asyncio.CancelledError)):
            return
        self._error = error if isinstance(error, asyncio.CancelledError) else Interrupted(error)
        if is_told:
            return
        if self._waits_for is not None:
            self._waits_for.resume = None
            self._step()
        elif self._task is not None and self._task_runs:  # one that is cancelled before it runs never does
            self._task.cancel()

    def _step(self) -> None:
        self._waits_for = None
        try:
            if self._error is None:
                waited = self._coroutine.send(None)
            else:
                waited = self._coroutine.throw(self._told())
        except (StopIteration, asyncio.CancelledError) as end:
            end.__traceback__ = None  # it holds the frames that hold it
            self._over()
            return
        except BaseException as bug:
            self._over()
            self._loop.call_exception_handler({"message": "a request's story broke off", "exception": bug})
            return
        if type(waited) is Signal and self._error is None:
            self._waits_for = waited
            waited.resume = self._step
        else:
            self._task = self._loop.create_task(self._rest(waited))

    def _told(self) -> asyncio.CancelledError | None:
        """What to raise, handed over: its traceback comes to hold the frame of who raises it, which must not hold it."""
        error, self._error = self._error, None
        return error

    async def _rest(self, waited: Any) -> None:
        try:
            await self._as_task(waited)
        finally:
            self._over()

    @types.coroutine
    def _as_task(self, waited: Any) -> Generator[Any, None, None]:
        """The rest of the story, for a task: what it waits for is handed on."""
        coroutine = self._coroutine
        self._task_runs = True
        if self._error is not None and self._task is not None:
            self._task.cancel()
        while True:
            error = None
            if waited is not _NOTHING:
                try:
                    yield waited
                except BaseException as raised:  # whatever it is, it is meant for the story
                    error = self._meant(raised)
            try:
                waited = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration:
                return
            finally:
                error = None  # its traceback holds this frame

    def _meant(self, error: BaseException) -> BaseException:
        """A task can only be told that it is cancelled; the story is told why."""
        meant = self._told()
        if meant is None or not isinstance(error, asyncio.CancelledError):
            return error
        if self._task is not None:
            self._task.uncancel()
        return meant

    def _over(self) -> None:
        self._is_over = True
        self._task = None
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            try:
                on_end(self)
            except Exception as bug:  # whoever resumed the story has others to resume
                self._loop.call_exception_handler({"message": "a story's end was not told", "exception": bug})
