"""Stories: coroutines that run in the calls that bring what they wait for."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from adapters.errors import BadRequest
from gateway.client import ClientGone
from gateway.story import Interrupted, Signal, Story, as_task
from tests.harness import no_cycles


class Stage:
    """Where a story is told: what it has noted, how often it ended, what the event loop was told."""

    def __init__(self) -> None:
        self.noted: list[Any] = []
        self.ended: list[Story] = []
        self.over = asyncio.Event()
        self.faults: list[dict[str, Any]] = []
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.faults.append(context))
        self.story = Story(self.loop, self._end)

    def _end(self, story: Story) -> None:
        self.ended.append(story)
        self.over.set()

    async def wait_for(self, *signals: Signal) -> None:
        """A tale: wait for one after the other, and note each or why it did not come."""
        try:
            for number, signal in enumerate(signals):
                await signal
                self.noted.append(number)
        except Interrupted as interrupted:
            self.noted.append(interrupted.error)
        finally:
            self.noted.append("tidied up")


@pytest.fixture
async def stage() -> Stage:
    return Stage()


async def turns(count: int = 5) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- without a task --------------------------------------------------------------------------------------------------


async def test_a_story_that_never_waits_is_over_within_start(stage: Stage) -> None:
    """Without anything to wait for, all of it happens in the call of `start`."""
    stage.story.start(stage.wait_for())
    assert stage.noted == ["tidied up"]
    assert stage.ended == [stage.story]


async def test_a_story_goes_on_within_set(stage: Stage) -> None:
    """It runs to the first signal at once, and from each to the next in the call of `set`; no task is made."""
    tasks = len(asyncio.all_tasks())
    first, second = Signal(), Signal()
    stage.story.start(stage.wait_for(first, second))
    assert stage.noted == []
    first.set()
    assert stage.noted == [0]
    assert stage.ended == []
    second.set()
    assert stage.noted == [0, 1, "tidied up"]
    assert stage.ended == [stage.story]
    assert len(asyncio.all_tasks()) == tasks


async def test_a_signal_that_has_come_is_not_waited_for(stage: Stage) -> None:
    """What is set before it is awaited costs nothing, and setting it again changes nothing."""
    signal = Signal()
    signal.set()
    signal.set()
    stage.story.start(stage.wait_for(signal, signal))
    assert stage.noted == [0, 1, "tidied up"]
    signal.set()
    assert len(stage.ended) == 1


async def test_a_story_may_set_what_another_waits_for(stage: Stage) -> None:
    """The other one runs within the first one's call, up to where it waits or ends."""
    signal = Signal()
    stage.story.start(stage.wait_for(signal))
    order: list[str] = []

    async def other() -> None:
        order.append("before")
        signal.set()
        order.append(f"after {stage.noted}")

    Story(stage.loop).start(other())
    assert order == ["before", "after [0, 'tidied up']"]


async def test_a_story_runs_in_no_task(stage: Stage) -> None:
    """Within the call of `set` the current task is the caller's, and outside of any there is none."""
    signal, done = Signal(), asyncio.Event()
    tasks: list[object] = []

    async def tale() -> None:
        await signal
        tasks.append(asyncio.current_task())
        done.set()

    stage.story.start(tale())
    stage.loop.call_soon(signal.set)
    await done.wait()
    assert tasks == [None]


# -- as a task -------------------------------------------------------------------------------------------------------


async def test_anything_else_makes_it_a_task(stage: Stage) -> None:
    """At the first await of something that is no signal the rest becomes a task, for good."""
    future: asyncio.Future[str] = stage.loop.create_future()
    signal = Signal()
    tasks: list[object] = []

    async def tale() -> None:
        stage.noted.append(await future)
        tasks.append(asyncio.current_task())
        await signal
        tasks.append(asyncio.current_task())

    stage.story.start(tale())
    await turns()
    assert stage.noted == []
    future.set_result("here")
    await turns()
    assert stage.noted == ["here"]
    signal.set()
    assert len(tasks) == 1, "a task is woken by the loop, not within `set`"
    await stage.over.wait()
    assert tasks[0] is tasks[1]
    assert tasks[0] is not None
    assert stage.ended == [stage.story]


async def test_a_future_that_fails_fails_in_the_story(stage: Stage) -> None:
    """The story gets the result of what made it a task, also if that is an exception."""
    future: asyncio.Future[None] = stage.loop.create_future()

    async def tale() -> None:
        try:
            await future
        except OSError as error:
            stage.noted.append(error)

    stage.story.start(tale())
    error = OSError("broken")
    future.set_exception(error)
    await stage.over.wait()
    assert stage.noted == [error]
    assert stage.faults == []


async def test_timeouts_work_after_as_task(stage: Stage) -> None:
    """`asyncio.timeout` needs a task; behind `as_task` there is one, and its cancellation stays its own."""

    async def tale() -> None:
        await as_task()
        try:
            async with asyncio.timeout(0.001):
                await Signal()
        except TimeoutError:
            stage.noted.append("late")
        task = asyncio.current_task()
        stage.noted.append(task is not None and task.cancelling())

    stage.story.start(tale())
    await stage.over.wait()
    assert stage.noted == ["late", 0]


# -- signals in plain tasks ------------------------------------------------------------------------------------------


async def test_a_task_waits_for_a_signal() -> None:
    """A plain task is woken by a signal, before and after it has come."""
    signal = Signal()
    task = asyncio.get_running_loop().create_task(_wait(signal))
    await turns()
    assert not task.done()
    signal.set()
    assert await task == "came"
    assert await _wait(signal) == "came"


async def test_a_task_that_waits_is_cancelled() -> None:
    """Cancelling the task ends its wait; the signal may come later and wakes nobody."""
    signal = Signal()
    task = asyncio.get_running_loop().create_task(_wait(signal))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    signal.set()
    assert signal.is_set
    assert await _wait(signal) == "came"


async def test_a_task_is_cancelled_between_the_signal_and_its_turn() -> None:
    """A cancellation in the same turn of the loop as the signal is not lost."""
    signal = Signal()
    task = asyncio.get_running_loop().create_task(_wait(signal))
    await turns()
    signal.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_signal_has_a_timeout() -> None:
    """`asyncio.timeout` around a signal leaves the task as it was, and the signal can be awaited again."""
    signal = Signal()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await signal
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    asyncio.get_running_loop().call_soon(signal.set)
    assert await _wait(signal) == "came"


async def _wait(signal: Signal) -> str:
    await signal
    return "came"


# -- interrupted -----------------------------------------------------------------------------------------------------


async def test_interrupted_at_a_signal(stage: Stage) -> None:
    """The error is raised where the story waits, within the call; the signal that comes later wakes nobody."""
    error, signal = BadRequest("too late"), Signal()
    stage.story.start(stage.wait_for(signal))
    stage.story.interrupt(error)
    assert stage.noted == [error, "tidied up"]
    assert stage.ended == [stage.story]
    signal.set()
    assert stage.noted == [error, "tidied up"]


async def test_interrupted_as_a_task(stage: Stage) -> None:
    """A task is told why as well, and is not left half cancelled: it can wait on."""
    error, never, signal = BadRequest("too late"), stage.loop.create_future(), Signal()

    async def tale() -> None:
        try:
            await never
        except Interrupted as interrupted:
            task = asyncio.current_task()
            stage.noted += [interrupted.error, task is not None and task.cancelling()]
        await signal
        stage.noted.append("went on")

    stage.story.start(tale())
    await turns()
    stage.story.interrupt(error)
    await turns()
    assert stage.noted == [error, 0]
    signal.set()
    await stage.over.wait()
    assert stage.noted == [error, 0, "went on"]
    assert stage.faults == []


async def test_interrupted_as_a_task_at_a_signal(stage: Stage) -> None:
    """The same where the task waits for a signal, also if that has come in the same turn of the loop."""
    for comes in (False, True):
        told = Stage()
        error, signal = BadRequest("too late"), Signal()

        async def tale(told: Stage = told, signal: Signal = signal) -> None:
            await as_task()
            await told.wait_for(signal)

        told.story.start(tale())
        await turns()
        if comes:
            signal.set()
        told.story.interrupt(error)
        await told.over.wait()
        assert told.noted == [error, "tidied up"]


async def test_a_story_can_wait_after_an_interrupt(stage: Stage) -> None:
    """Who catches the interrupt without a task goes on without one, and may be interrupted again."""
    errors = [BadRequest("one"), BadRequest("two")]
    signal = Signal()

    async def tale() -> None:
        for _ in errors:
            try:
                await Signal()
            except Interrupted as interrupted:
                stage.noted.append(interrupted.error)
        await signal
        stage.noted.append("came")

    tasks = len(asyncio.all_tasks())
    stage.story.start(tale())
    for error in errors:
        stage.story.interrupt(error)
    signal.set()
    assert stage.noted == [*errors, "came"]
    assert len(asyncio.all_tasks()) == tasks


async def test_an_interrupt_after_the_end_does_nothing(stage: Stage) -> None:
    """A story that is over stays over, and `on_end` is not called again."""
    stage.story.start(stage.wait_for())
    stage.story.interrupt(BadRequest("too late"))
    await turns()
    assert stage.noted == ["tidied up"]
    assert len(stage.ended) == 1


async def test_an_interrupt_of_a_story_that_then_never_waits(stage: Stage) -> None:
    """Interrupted while it runs, a story that only ends is not disturbed."""

    async def tale() -> None:
        stage.story.interrupt(BadRequest("too late"))
        stage.noted.append("done")

    stage.story.start(tale())
    await turns()
    assert stage.noted == ["done"]
    assert len(stage.ended) == 1
    assert stage.faults == []


@pytest.mark.parametrize("where", ["before a signal", "before a future", "before its task's first turn"])
async def test_an_interrupt_while_the_story_runs_is_not_lost(stage: Stage, where: str) -> None:
    """Told while it does not wait, a story hears of it where it next does, once, and its task is not left half cancelled."""
    error = BadRequest("too late")

    async def tale() -> None:
        if where != "before its task's first turn":
            stage.story.interrupt(error)
        try:
            await (Signal() if where == "before a signal" else stage.loop.create_future())
        except Interrupted as interrupted:
            task = asyncio.current_task()
            stage.noted += [interrupted.error, task is not None and task.cancelling()]
        await asyncio.sleep(0)
        stage.noted.append("went on")

    stage.story.start(tale())
    if where == "before its task's first turn":
        stage.story.interrupt(error)
    await turns()
    assert stage.noted == [error, 0, "went on"]
    assert stage.ended == [stage.story]
    assert stage.faults == []


async def test_two_interrupts_in_one_turn(stage: Stage) -> None:
    """Interrupted again before it knows, a task is told the first reason, once, and is not left half cancelled."""
    first = BadRequest("one")

    async def tale() -> None:
        await as_task()
        try:
            await Signal()
        except Interrupted as interrupted:
            task = asyncio.current_task()
            stage.noted += [interrupted.error, task is not None and task.cancelling()]
        await asyncio.sleep(0)
        stage.noted.append("went on")

    stage.story.start(tale())
    await turns()
    stage.story.interrupt(first)
    stage.story.interrupt(BadRequest("two"))
    await turns()
    assert stage.noted == [first, 0, "went on"]
    assert stage.faults == []


@pytest.mark.parametrize("as_a_task", [False, True])
async def test_a_cancellation_comes_as_it_is(stage: Stage, as_a_task: bool) -> None:
    """Interrupted with a cancellation, that one is raised; the story ends quietly, its tidying up done."""
    raised: list[BaseException] = []
    gone = ClientGone()

    async def tale() -> None:
        if as_a_task:
            await as_task()
        try:
            await stage.wait_for(Signal())
        except BaseException as error:
            raised.append(error)
            raise

    stage.story.start(tale())
    await turns()
    stage.story.interrupt(gone)
    await stage.over.wait()
    await turns()
    assert raised == [gone]
    assert stage.noted == ["tidied up"]
    assert len(stage.ended) == 1
    gc.collect()
    assert stage.faults == []


# -- bugs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["at once", "behind a signal"])
async def test_a_bug_is_reported_to_the_loop(stage: Stage, where: str) -> None:
    """An exception that breaks a story off does not reach whoever drives it; the loop's handler is told, the end too."""
    signal = Signal()

    async def tale() -> None:
        if where == "behind a signal":
            await signal
        raise ZeroDivisionError

    stage.story.start(tale())
    signal.set()
    assert [type(fault["exception"]) for fault in stage.faults] == [ZeroDivisionError]
    assert stage.ended == [stage.story]


async def test_a_bug_in_a_task_is_reported_to_the_loop(stage: Stage) -> None:
    """The same once the story is a task."""

    async def tale() -> None:
        await as_task()
        raise ZeroDivisionError

    stage.story.start(tale())
    await stage.over.wait()
    await turns()
    gc.collect()
    assert [type(fault["exception"]) for fault in stage.faults] == [ZeroDivisionError]
    assert stage.ended == [stage.story]


async def test_a_story_needs_nobody_who_hears_of_its_end(stage: Stage) -> None:
    """`on_end` may be left out."""
    Story(stage.loop).start(stage.wait_for())
    assert stage.noted == ["tidied up"]


# -- attended --------------------------------------------------------------------------------------------------------


async def test_attended_it_runs_in_the_task_that_waits(stage: Stage) -> None:
    """All of it happens in the current task, from the first line on, and `attend` returns at its end."""
    signal = Signal()
    tasks: list[object] = []

    async def tale() -> None:
        tasks.append(asyncio.current_task())
        await signal
        await asyncio.sleep(0)
        tasks.append(asyncio.current_task())

    stage.loop.call_soon(signal.set)
    await stage.story.attend(tale())
    assert tasks == [asyncio.current_task()] * 2
    assert stage.ended == [stage.story]


@pytest.mark.parametrize("waits_for", ["signal", "future"])
async def test_an_attended_story_is_interrupted(stage: Stage, waits_for: str) -> None:
    """Interrupts come as `Interrupted`, one after the other, and the task is not left half cancelled."""
    errors = [BadRequest("one"), BadRequest("two")]

    async def tale() -> None:
        for _ in errors:
            try:
                await (Signal() if waits_for == "signal" else stage.loop.create_future())
            except Interrupted as interrupted:
                stage.noted.append(interrupted.error)

    async def interrupt() -> None:
        for number, error in enumerate(errors):
            while len(stage.noted) < number:
                await asyncio.sleep(0)
            stage.story.interrupt(error)

    interrupting = asyncio.get_running_loop().create_task(interrupt())
    await stage.story.attend(tale())
    await interrupting
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert stage.noted == errors


async def test_an_attended_story_is_cancelled_with_its_task(stage: Stage) -> None:
    """The task's own cancellation reaches the story as what it is, and the task is cancelled."""
    task = asyncio.get_running_loop().create_task(stage.story.attend(stage.wait_for(Signal())))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert not isinstance(caught.value, Interrupted)
    assert stage.noted == ["tidied up"]
    assert len(stage.ended) == 1


async def test_a_bug_reaches_who_attends(stage: Stage) -> None:
    """An exception leaves `attend`, the end is told, and nothing is reported twice."""

    async def tale() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await stage.story.attend(tale())
    assert len(stage.ended) == 1
    assert stage.faults == []


# -- nothing is left -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["without a task", "as a task", "attended", "interrupted", "cancelled"])
async def test_a_finished_story_leaves_no_cycle(kind: str) -> None:
    """A story that is over is freed at once, whichever way it went."""
    loop = asyncio.get_running_loop()

    async def tale(signal: Signal) -> None:
        if kind == "as a task":
            await as_task()
        try:
            await signal
        except Interrupted:
            assert kind == "interrupted"

    async def tell() -> None:
        signal, over = Signal(), asyncio.Event()
        story = Story(loop, lambda _: over.set())
        if kind == "attended":
            loop.call_soon(signal.set)
            await story.attend(tale(signal))
            return
        story.start(tale(signal))
        await turns()
        if kind == "interrupted":
            story.interrupt(BadRequest("too late"))
        elif kind == "cancelled":
            story.interrupt(ClientGone())
        else:
            signal.set()
        await over.wait()
        await turns()

    with no_cycles(Story, Signal) as found:
        await tell()
        assert found() == []
