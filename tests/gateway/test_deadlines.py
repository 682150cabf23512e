"""Deadlines of an event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.deadlines import MOST_QUEUES, Deadline, Deadlines

SOON = 0.001


class Calls:
    """What was called, in its order."""

    def __init__(self) -> None:
        self.made: list[object] = []
        self._changed = asyncio.Event()

    def note(self, name: object) -> None:
        self.made.append(name)
        self._changed.set()

    async def until(self, count: int) -> None:
        while len(self.made) < count:
            self._changed.clear()
            await self._changed.wait()


@pytest.fixture
async def calls() -> Calls:
    return Calls()


async def test_a_deadline_is_called_once_and_not_before(calls: Calls) -> None:
    """It is called when its time has come, never within `start`, and then it is set no more."""
    deadlines = Deadlines()
    loop = asyncio.get_running_loop()
    deadline = deadlines.start(SOON, lambda: calls.note(loop.time()))
    assert (calls.made, len(deadlines)) == ([], 1)
    await calls.until(1)
    assert len(deadlines) == 0
    deadlines.start(SOON, lambda: calls.note("another"))
    await calls.until(2)
    assert calls.made[1] == "another"
    assert isinstance(deadline, Deadline)


async def test_the_order_is_that_in_which_they_were_set(calls: Calls) -> None:
    """Deadlines of one length are called one after the other as they were set."""
    deadlines = Deadlines()
    for number in range(100):
        deadlines.start(SOON, lambda number=number: calls.note(number))  # type: ignore[misc]  # a default binds it
    assert len(deadlines) == 100
    await calls.until(100)
    assert calls.made == list(range(100))
    assert len(deadlines) == 0


async def test_lengths_do_not_wait_for_one_another(calls: Calls) -> None:
    """A short deadline behind a long one is called first; each length keeps its own time."""
    deadlines = Deadlines()
    long = deadlines.start(1000.0, lambda: calls.note("long"))
    for length in (0.03, 0.02, 0.01, 0.0):
        deadlines.start(length, lambda length=length: calls.note(length))  # type: ignore[misc]  # as above
    assert len(deadlines) == 5
    await calls.until(4)
    assert calls.made == [0.0, 0.01, 0.02, 0.03]
    assert len(deadlines) == 1
    long.cancel()
    assert len(deadlines) == 0


async def test_what_is_called_off_is_not_called(calls: Calls) -> None:
    """Whichever of a queue is cancelled, the others are called."""
    deadlines = Deadlines()
    started = [
        deadlines.start(SOON, lambda number=number: calls.note(number))  # type: ignore[misc]  # as above
        for number in range(10)
    ]
    for number in (0, 1, 4, 9):
        started[number].cancel()
        started[number].cancel()
    assert len(deadlines) == 6
    await calls.until(6)
    deadlines.start(SOON, lambda: calls.note("after"))
    await calls.until(7)
    assert calls.made == [2, 3, 5, 6, 7, 8, "after"]


async def test_a_deadline_that_has_passed_can_be_called_off(calls: Calls) -> None:
    """That does nothing, and leaves those that were set since alone."""
    deadlines = Deadlines()
    first = deadlines.start(SOON, lambda: calls.note("first"))
    await calls.until(1)
    deadlines.start(SOON, lambda: calls.note("second"))
    first.cancel()
    assert len(deadlines) == 1
    await calls.until(2)


async def test_a_call_may_cancel_and_set_others(calls: Calls) -> None:
    """Out of a call, one that is due as well is called off, and one of the same length is set anew."""
    deadlines = Deadlines()

    def first() -> None:
        calls.note("first")
        second.cancel()
        deadlines.start(SOON, lambda: calls.note("fourth"))

    deadlines.start(SOON, first)
    second = deadlines.start(SOON, lambda: calls.note("second"))
    deadlines.start(SOON, lambda: calls.note("third"))
    await calls.until(3)
    assert calls.made == ["first", "third", "fourth"]
    assert len(deadlines) == 0


async def test_a_call_that_fails_stops_no_other(calls: Calls) -> None:
    """The loop's exception handler hears of it, and the next is called."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    deadlines = Deadlines()

    def fail() -> None:
        raise ZeroDivisionError

    deadlines.start(SOON, fail)
    deadlines.start(SOON, lambda: calls.note("next"))
    await calls.until(1)
    assert [type(fault["exception"]) for fault in faults] == [ZeroDivisionError]
    deadlines.start(SOON, lambda: calls.note("later"))
    await calls.until(2)
    assert len(deadlines) == 0


async def test_lengths_that_are_not_used_are_forgotten(calls: Calls) -> None:
    """A queue vanishes when its timer finds it empty, whether its deadlines were called or called off."""
    deadlines = Deadlines()
    for number in range(50):
        deadline = deadlines.start(number / 10_000, lambda: calls.note("never"))
        if number % 2:
            deadline.cancel()
    assert len(deadlines) == 25
    deadlines.start(0.01, lambda: calls.note("last"))
    await calls.until(26)
    while deadlines._queues:
        await asyncio.sleep(0)
    assert calls.made.count("last") == 1


async def test_each_runtime_has_its_own(calls: Calls) -> None:
    """Two sets of deadlines know nothing of each other."""
    one, other = Deadlines(), Deadlines()
    kept = one.start(1000.0, lambda: calls.note("never"))
    other.start(SOON, lambda: calls.note("called"))
    await calls.until(1)
    assert (len(one), len(other)) == (1, 0)
    kept.cancel()


async def test_queues_are_bounded() -> None:
    """Clients that choose ever other lengths get ordinary timers after the first hundred, which can be cancelled too."""
    deadlines = Deadlines()
    set_now = [deadlines.start(3_600 + number, print) for number in range(MOST_QUEUES + 10)]
    assert len(deadlines._queues) == MOST_QUEUES
    for deadline in set_now:
        deadline.cancel()
