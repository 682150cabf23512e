"""Who is next, without any deployment: what has room is a number here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from gateway.config.model import QueueSettings
from gateway.deadlines import Deadlines
from gateway.routing.queue import FairQueue, NotServed
from gateway.story import Story

NEVER = 60.0


class Place:
    """A deployment with so many free places, and the turns in which they were taken."""

    def __init__(self, free: int = 0) -> None:
        self.free = free
        self.turns: list[str] = []

    def has_room(self) -> bool:
        return self.free > 0


def queue_of(most: int = 1_000) -> FairQueue:
    queue = FairQueue(Deadlines(), asyncio.get_running_loop().time)
    queue.settings = QueueSettings(max_waiting=most)
    return queue


def begin(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Let it run while the test goes on."""
    return asyncio.get_running_loop().create_task(coroutine)


async def ask(
    queue: FairQueue,
    place: Place,
    name: str,
    *,
    seconds: float = NEVER,
    model: str = "m",
    wanted: str | None = None,
    priority: int = 0,
    came: float = 0.0,
    can_go: Callable[[], bool] | None = None,
    soonest: float | None = None,
) -> None:
    """Wait as the caller that is the name's first letter, and take a place."""
    await queue.wait(
        model,
        name[0],
        wanted=wanted,
        seconds=seconds,
        can_go=can_go or place.has_room,
        soonest=lambda: soonest,
        priority=priority,
        came=came,
    )
    place.free -= 1
    place.turns.append(name)


async def settle() -> None:
    """Let whoever may run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def free(queue: FairQueue, place: Place, places: int) -> None:
    """Set one place free after the other."""
    for _ in range(places):
        place.free += 1
        queue.stir()
        await settle()


async def test_callers_take_turns() -> None:
    """A caller with a thousand who wait holds up another's single one by one turn."""
    queue, place = queue_of(2_000), Place()
    async with asyncio.TaskGroup() as group:
        many = [group.create_task(ask(queue, place, f"a{number}")) for number in range(1_000)]
        await settle()
        for name in ("b0", "b1", "c0"):
            group.create_task(ask(queue, place, name))
        await settle()
        assert queue.waiting == 1_003
        await free(queue, place, 7)
        assert place.turns == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
        for task in many:
            task.cancel()
    assert queue.waiting == 0
    assert not queue.is_waited_for("m")


async def test_a_priority_is_among_ones_own() -> None:
    """0 goes before 1 in a caller's line, then who came first; another caller's turn does not change by it."""
    queue, place = queue_of(), Place()
    async with asyncio.TaskGroup() as group:
        group.create_task(ask(queue, place, "a-late", priority=5, came=1.0))
        group.create_task(ask(queue, place, "b", priority=9))
        group.create_task(ask(queue, place, "a-young", came=3.0))
        group.create_task(ask(queue, place, "a-old", came=2.0))
        await settle()
        await free(queue, place, 4)
    assert place.turns == ["a-old", "b", "a-young", "a-late"]


async def test_nobody_is_called_for_a_place_that_is_taken() -> None:
    """Two places and three who wait: two go, although all of them are told at once."""
    queue, place = queue_of(), Place()
    tasks = [begin(ask(queue, place, name)) for name in ("a", "b", "c")]
    await settle()
    place.free = 2
    queue.stir()
    queue.stir()
    await settle()
    assert (place.turns, place.free, queue.waiting) == (["a", "b"], 0, 1)
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_cannot_go_lets_others_pass() -> None:
    """A request that no free deployment is meant for does not hold up those behind it, nor those of another model."""
    queue, place, other = queue_of(), Place(), Place()
    async with asyncio.TaskGroup() as group:
        stuck = group.create_task(ask(queue, place, "a", can_go=lambda: False))
        group.create_task(ask(queue, place, "b"))
        group.create_task(ask(queue, other, "c", model="n"))
        await settle()
        other.free = 1
        await free(queue, place, 1)
        assert (place.turns, other.turns) == (["b"], ["c"])
        stuck.cancel()


async def test_a_caller_is_not_held_up_by_its_own_other_wishes() -> None:
    """Requests of one caller that are meant for other deployments do not stand in each other's way, and whoever comes is told of
    those alone who want the same.
    """
    queue, full, idle = queue_of(), Place(), Place()
    async with asyncio.TaskGroup() as group:
        stuck = group.create_task(ask(queue, full, "a0", wanted="x"))
        await settle()
        assert (queue.is_waited_for("m", "x"), queue.is_waited_for("m", "y")) == (True, False)
        group.create_task(ask(queue, idle, "a1", wanted="y"))
        await settle()
        await free(queue, idle, 1)
        assert (full.turns, idle.turns) == ([], ["a1"])
        stuck.cancel()


async def test_models_that_share_a_deployment_take_turns() -> None:
    """An alias and its model want the same place: who waits for the one is not left until nobody waits for the other."""
    queue, place = queue_of(), Place()
    loop = asyncio.get_running_loop()
    for number in range(4):
        Story(loop).start(ask(queue, place, f"a{number}"))
    for number in range(2):
        Story(loop).start(ask(queue, place, f"b{number}", model="alias"))
    await settle()
    await free(queue, place, 6)
    assert place.turns == ["a0", "b0", "a1", "b1", "a2", "a3"]


async def test_one_place_is_given_once() -> None:
    """Nobody else is called for a place before whoever was called has taken it, whichever model that one asked for."""
    queue, place = queue_of(), Place()
    tasks = [begin(ask(queue, place, "a")), begin(ask(queue, place, "b", model="alias"))]
    await settle()
    await free(queue, place, 1)
    assert (place.turns, place.free, queue.waiting) == (["a"], 0, 1)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_whose_time_is_over_is_told_its_position() -> None:
    """Third in its caller's line, with two of another caller who has turns in between: fifth of five."""
    queue, place = queue_of(), Place()
    tasks = [begin(ask(queue, place, name)) for name in ("b0", "a0", "a1", "b1")]
    await settle()
    with pytest.raises(NotServed, match=r"Waited 0\.01 s, at last at position 5 of 5") as told:
        await ask(queue, place, "a2", seconds=0.01)
    assert (told.value.position, told.value.waiting) == (5, 5)
    assert queue.refused == {"full": 0, "late": 1}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_too_many_do_not_wait() -> None:
    """Above `max_waiting` a request is turned away at once, and told how many are there."""
    queue, place = queue_of(1), Place()
    first = begin(ask(queue, place, "a"))
    await settle()
    with pytest.raises(NotServed, match="1 requests wait already") as told:
        await ask(queue, place, "b")
    assert told.value.position == 2
    assert queue.refused == {"full": 1, "late": 0}
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_who_leaves_gives_up_its_turn() -> None:
    """Cancelled while it waits, or just when it was called: the next one gets the place, and nothing is left behind."""
    queue, place = queue_of(), Place()
    tasks = [begin(ask(queue, place, name)) for name in ("a", "b", "c")]
    await settle()
    tasks[0].cancel()
    place.free = 1
    queue.stir()
    await asyncio.sleep(0)  # b is called, and has not run yet
    tasks[1].cancel()
    await settle()
    assert place.turns == ["c"]
    assert queue.waiting == 0
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


async def test_a_timer_tells_what_nobody_calls_for() -> None:
    """A rate limit that is over in a hundredth of a second sets a place free without a word."""
    queue, place = queue_of(), Place()
    loop = asyncio.get_running_loop()
    until = loop.time() + 0.01
    await ask(queue, place, "a", can_go=lambda: loop.time() >= until, soonest=0.01)
    assert place.turns == ["a"]


async def test_waits_are_measured() -> None:
    """Each is told once with its model, whether it was served or not."""
    queue, place = queue_of(), Place(1)
    told: list[str] = []
    queue.on_waited = lambda model, seconds: told.append(f"{model} {seconds >= 0}")
    await ask(queue, place, "a")
    with pytest.raises(NotServed):
        await ask(queue, place, "b", seconds=0.001)
    assert told == ["m True", "m True"]
