"""What every store of what must be agreed on promises, asked of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import time
from uuid import uuid4

import pytest

from gateway.state.shared import (
    Refusal,
    Shared,
    Taken,
    Ticket,
    Unknown,
    budget,
    local_share,
    outcome,
    rate,
    slots,
)
from gateway.state.shared_memory import MemoryShared
from gateway.state.shared_redis import RedisShared

DAY = int(time()) + 86_400


@asynccontextmanager
async def running(shared: Shared) -> AsyncIterator[Shared]:
    """The store with its background work."""
    await shared.start()
    work = asyncio.get_running_loop().create_task(shared.run())
    try:
        yield shared
    finally:
        work.cancel()
        await asyncio.wait([work])
        await shared.close()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait for it, generously."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def told(shared: Shared) -> None:
    """Wait until it knows all settlements."""
    if isinstance(shared, RedisShared):
        redis = shared

        async def is_told() -> bool:
            return not redis._settlements

        await until(is_told)


@pytest.fixture(params=["memory", "redis"])
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[Shared]:
    if request.param == "memory":
        store: Shared = MemoryShared()
    else:
        url = request.getfixturevalue("redis_url")
        store = RedisShared(url, prefix=f"penstock-test-{uuid4().hex}:", patience=30.0)

    async def is_available() -> bool:
        return store.available

    async with running(store):
        await until(is_available)
        yield store


async def ticket_for(shared: Shared, *windows: object) -> Ticket:
    answer = await shared.take(windows)  # type: ignore[arg-type] # windows, whose unions mypy would want spelled out
    assert isinstance(answer, Ticket)
    return answer


async def test_all_or_nothing(shared: Shared) -> None:
    """A request that one window refuses has consumed nothing of the others, before it or behind it."""
    spend = budget("b", 60, 100, DAY)
    await shared.seed(spend, 0)
    windows = [rate("rpm", 1, 10), rate("tpm", 500, 10_000), slots("p", 5), spend]
    await ticket_for(shared, *windows)
    before = await shared.look(windows)
    assert before == [1, 500, 1, 60]
    refusal = await shared.take(windows)
    assert isinstance(refusal, Refusal)
    assert (refusal.window, refusal.used, refusal.remaining) == (spend, 60, 40)
    assert refusal.retry_after == pytest.approx(DAY - time(), abs=30)
    assert await shared.look(windows) == before


async def test_the_first_that_refuses_is_named(shared: Shared) -> None:
    """In the order of the request."""
    refusal = await shared.take([rate("a", 1, 9), slots("b", 0), rate("c", 1, 0)])
    assert isinstance(refusal, Refusal)
    assert (refusal.window.name, refusal.used, refusal.retry_after) == ("b", 0, None)


async def test_retry_after(shared: Shared) -> None:
    """A full rate says when it has room again; what never fits has no such time."""
    await ticket_for(shared, rate("r", 3, 3))
    refusal = await shared.take([rate("r", 1, 3)])
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after is not None
    assert 0 < refusal.retry_after <= 60
    too_much = await shared.take([rate("r", 4, 3)])
    assert isinstance(too_much, Refusal)
    assert too_much.retry_after is None


async def test_what_was_taken_elsewhere_is_held(shared: Shared) -> None:
    """Whatever the limit, at once or when the budget's counter is made; it is settled as what was taken here."""
    here, later = budget("here", 60, 100, DAY), budget("later", 60, 100, DAY)
    await shared.seed(here, 50)
    ticket = shared.hold([here, later, slots("p", 1), rate("r", 9, 1)])
    ended = shared.hold([later])
    shared.settle(ended, {"later": 0})
    assert isinstance(await shared.take([later]), Unknown)
    await shared.seed(later, 5)
    windows = [here, later, slots("p", 1)]

    async def is_held() -> bool:
        return await shared.look(windows) == [110, 65, 1]

    await until(is_held)
    assert shared.hold([budget("here", 7, 100, DAY)], ticket) is ticket
    shared.settle(ticket, {"here": 20, "later": 0})
    await told(shared)
    assert await shared.look(windows) == [70, 5, 0]


async def test_a_short_span_passes(shared: Shared) -> None:
    """What was taken leaves the window."""
    await ticket_for(shared, rate("r", 3, 3, 0.2))

    async def has_room() -> bool:
        return isinstance(await shared.take([rate("r", 3, 3, 0.2)]), Ticket)

    await until(has_room)


async def test_settling_corrects_up_and_down(shared: Shared) -> None:
    """Rates and budgets become what it really was, slots are freed, what is not named stays; once and only once."""
    spend = budget("b", 60, 100)
    await shared.seed(spend, 5)
    windows = [rate("rpm", 1, 10), rate("tpm", 500, 10_000), slots("p", 1), spend]
    first = await ticket_for(shared, *windows)
    shared.settle(first, {"tpm": 20, "b": 7})
    shared.settle(first, {"tpm": 30, "b": 8})
    await told(shared)
    assert await shared.look(windows) == [1, 20, 0, 12]
    second = await ticket_for(shared, *windows)
    shared.settle(second, {"tpm": 20_000, "b": 1000, "rpm": 0})
    await told(shared)
    assert await shared.look(windows) == [1, 20_020, 0, 1012]


async def test_unknown_budgets(shared: Shared) -> None:
    """A counter that does not exist is told and not taken for zero; the first seed counts."""
    one, two, window = budget("one", 1, 9), budget("two", 1, 9), rate("r", 1, 9)
    assert await shared.take([one, window, two]) == Unknown((one, two))
    assert await shared.look([one, window]) == [None, 0]
    shared.charge("one", 3)
    await told(shared)
    assert await shared.look([one]) == [None]
    assert await shared.seed(one, 5)
    assert not await shared.seed(one, 0)
    assert await shared.take([one, window, two]) == Unknown((two,))
    assert await shared.seed(two, 9)
    refusal = await shared.take([one, window, two])
    assert isinstance(refusal, Refusal)
    assert refusal.window is two
    assert refusal.retry_after is None
    assert await shared.look([one, two, window]) == [5, 9, 0]


async def test_a_forgotten_budget_is_unknown(shared: Shared) -> None:
    """Others stay, what held it changes nothing any more, and it can be made anew."""
    one, other = budget("one", 1, 10), budget("other", 1, 10)
    for window in (one, other):
        await shared.seed(window, 5)
    ticket = await ticket_for(shared, one)
    await shared.forget([])
    await shared.forget([one.name, "unknown"])
    shared.settle(ticket, {one.name: 3})
    await told(shared)
    assert await shared.look([one, other]) == [None, 5]
    assert await shared.seed(one, 8)
    assert await shared.look([one, other]) == [8, 5]


async def test_large_amounts_are_exact(shared: Shared) -> None:
    """A million dollars to the nano-dollar."""
    million = 10**15
    spend = budget("b", 1, million)
    await shared.seed(spend, million - 3)
    tickets = [await ticket_for(shared, spend) for _ in range(3)]
    assert isinstance(await shared.take([spend]), Refusal)
    for ticket in tickets:
        shared.settle(ticket, {"b": 0})
    shared.charge("b", 2)
    await told(shared)
    assert await shared.look([spend]) == [million - 1]


async def test_top_up(shared: Shared) -> None:
    """Takes more on the same ticket or nothing more, no second slot, and is settled as a whole."""
    spend = budget("b", 40, 100)
    await shared.seed(spend, 0)
    ticket = await ticket_for(shared, slots("p", 1), spend, rate("r", 10, 100))
    assert await shared.top_up(ticket, [slots("p", 1), spend, rate("r", 10, 100)]) is ticket
    refusal = await shared.top_up(ticket, [rate("r", 10, 100), spend])
    assert isinstance(refusal, Refusal)
    windows = [slots("p", 1), spend, rate("r", 0, 100)]
    assert await shared.look(windows) == [1, 80, 20]
    shared.settle(ticket, {"b": 50, "r": 5})
    await told(shared)
    assert await shared.look(windows) == [0, 50, 5]
    with pytest.raises(ValueError, match="settled"):
        await shared.top_up(ticket, [spend])


async def test_no_windows(shared: Shared) -> None:
    """A request that no limit binds gets a ticket like any other."""
    ticket = await ticket_for(shared)
    shared.settle(ticket, {})
    assert await shared.look([]) == []


async def test_1000_at_once_on_a_budget_for_100(shared: Shared) -> None:
    """Exactly 100 are admitted, whatever the order."""
    spend = budget("b", 7, 700)
    await shared.seed(spend, 0)
    answers = await asyncio.gather(*(shared.take([spend, slots("p", 2000)]) for _ in range(1000)))
    admitted = [answer for answer in answers if isinstance(answer, Ticket)]
    assert len(admitted) == 100
    assert await shared.look([spend, slots("p", 0)]) == [700, 100]
    for ticket in admitted:
        shared.settle(ticket, {"b": 3})
    await told(shared)
    assert await shared.look([spend, slots("p", 0)]) == [300, 0]


async def test_a_cancelled_take_takes_nothing(shared: Shared) -> None:
    """Whenever it is cancelled, before the answer is there or after."""
    spend = budget("b", 1, 10**9)
    await shared.seed(spend, 0)
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(shared.take([spend, slots("p", 10**9)])) for _ in range(200)]
    kept = 0
    for number, task in enumerate(tasks):
        await asyncio.sleep(0.0001 * (number % 7 == 0))
        task.cancel()
    for task in tasks:
        await asyncio.wait([task])
        kept += not task.cancelled()

    async def is_right() -> bool:
        return await shared.look([spend, slots("p", 0)]) == [kept, kept]

    await until(is_right)


async def test_values(shared: Shared) -> None:
    """Small values last as long as they were meant to."""
    assert await shared.get("v") is None
    await shared.put("v", b"\x00one", 60)
    assert await shared.get("v") == b"\x00one"
    await shared.put("v", b"two", 0.05)

    async def is_gone() -> bool:
        return await shared.get("v") is None

    await until(is_gone)


async def test_news(shared: Shared) -> None:
    """All subscribers of a channel hear each message, in order, and nobody else does."""
    heard: list[str | None] = []
    also: list[str | None] = []
    shared.subscribe("keys", heard.append)
    shared.subscribe("keys", also.append)
    shared.subscribe("other", lambda message: heard.append(f"other {message}") if message else None)

    async def is_joined() -> bool:
        await shared.publish("keys", "ping")
        return "ping" in heard

    await until(is_joined)
    await shared.publish("keys", "blöcked")
    await shared.publish("keys", "last")

    async def is_heard() -> bool:
        return "last" in also and "last" in heard

    await until(is_heard)
    assert [message for message in heard if message not in {None, "ping"}] == ["blöcked", "last"]


async def test_available(shared: Shared) -> None:
    """A store that works says so."""
    assert (shared.name, shared.available, shared.degraded_since) == ("shared", True, None)


def test_local_share() -> None:
    """Each replica has its part of a limit, at least 1, and nothing of nothing."""
    windows = [rate("r", 1, 100), slots("p", 2), budget("b", 1, 0)]
    assert [window.limit for window in local_share(windows, 3)] == [33, 1, 0]
    assert [window.name for window in local_share(windows, 3)] == ["r", "p", "b"]


def test_what_fits_fits_into_a_part() -> None:
    """A request never needs more than a part of a limit, if it does not need more than the limit."""
    windows = [rate("r", 80, 90), rate("s", 20, 90), rate("t", 91, 90), rate("u", 1, 0)]
    assert [window.amount for window in local_share(windows, 3)] == [30, 20, 91, 1]


def test_outcome() -> None:
    """The truth fills the places of a name one after the other; the last has the rest, more or less than was taken."""
    ticket = Ticket([Taken("rate", name, 10, 60, None) for name in ("a", "b", "a")])

    def real(**actual: int) -> list[int]:
        return [amount for _, amount in outcome(ticket, actual)]

    assert real() == [10, 10, 10]
    assert real(a=4) == [4, 10, 0]
    assert real(a=14, b=0) == [10, 0, 4]
    assert real(a=99) == [10, 10, 89]
