from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from hypothesis import settings

from gateway.state.shared import BUDGET_IDLE, BUDGET_SLACK, Refusal, Ticket, budget, rate, slots
from gateway.state.shared_memory import MemoryShared
from tests.gateway.state.windows import Windows


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What it returns; it must not wait for anything."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


class MemoryWindows(Windows):
    """In memory time stands still between two steps, so what is used is known exactly but for the buckets."""

    shared: MemoryShared
    seconds = 60.0

    def begin(self) -> None:
        self.clock = 1000.0
        self.shared = MemoryShared(clock=lambda: self.clock)

    def ask(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return at_once(coroutine)

    def now(self) -> float:
        return self.clock

    def taken_at(self, ticket: Ticket, before: float) -> float:
        return before

    def lose(self, name: str) -> None:
        del self.shared._budgets[name]

    def wait(self, part: float) -> None:
        self.clock += part * self.seconds


TestMemoryWindows = MemoryWindows.TestCase
TestMemoryWindows.settings = settings(max_examples=200, stateful_step_count=40)


def test_there_is_room_after_retry_after() -> None:
    """Not a moment sooner, and at the latest a span later."""
    clock = 1000.0
    shared = MemoryShared(clock=lambda: clock)
    for _ in range(5):
        assert isinstance(at_once(shared.take([rate("r", 1, 5)])), Ticket)
        clock += 4
    refusal = at_once(shared.take([rate("r", 2, 5)]))
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after == 60 - 4 * 4
    clock += refusal.retry_after - 0.125
    assert isinstance(at_once(shared.take([rate("r", 2, 5)])), Refusal)
    clock += 0.125
    assert isinstance(at_once(shared.take([rate("r", 2, 5)])), Ticket)


def test_forgets_what_is_over() -> None:
    """Nothing is kept of limits that nobody falls under any more; what is held stays."""
    clock, wall = 1000.0, 5000.0
    shared = MemoryShared(clock=lambda: clock, wall=lambda: wall)
    day, forever = budget("day", 1, 9, ends=5100), budget("forever", 1, 9)
    at_once(shared.seed(day, 1))
    at_once(shared.seed(forever, 1))
    at_once(shared.put("v", b"1", 10))
    done, held = (at_once(shared.take([rate(f"r{n}", 1, 9), slots(f"s{n}", 9), forever])) for n in range(2))
    shared.settle(done, {})
    clock += 61
    shared.sweep()
    assert (list(shared._rates), list(shared._slots), list(shared._values)) == ([], ["s1"], [])
    assert at_once(shared.look([day, forever])) == [1, 3]
    clock += 40 + BUDGET_SLACK
    shared.sweep()
    assert at_once(shared.look([day, forever])) == [None, 3]
    clock += BUDGET_IDLE
    shared.sweep()
    assert at_once(shared.look([day, forever])) == [None, None]
    shared.settle(held, {"forever": 5, "r1": 7})
    assert at_once(shared.look([rate("r1", 0, 9), slots("s1", 9), forever])) == [0, 0, None]


def test_rates_go_on_in_the_next_store() -> None:
    """What was taken before counts there, is settled there, and leaves in its time; all else begins anew."""
    clock = 1000.0
    one = MemoryShared(clock=lambda: clock)
    taken = at_once(one.take([rate("r", 4, 5), slots("s", 1)]))
    other = MemoryShared(clock=lambda: clock, before=one)
    windows = [rate("r", 1, 5), slots("s", 1)]
    assert at_once(other.look(windows)) == [4, 0]
    one.settle(taken, {"r": 2})
    assert at_once(other.look(windows)) == [2, 0]
    clock += 60
    assert at_once(other.look(windows)) == [0, 0]


def test_a_budget_ends_when_its_period_does() -> None:
    """Who is refused is told how long the period still lasts."""
    shared = MemoryShared(wall=lambda: 5000.0)
    at_once(shared.seed(budget("b", 0, 0, ends=5600), 10))
    assert at_once(shared.take([budget("b", 1, 10, ends=5600)])).retry_after == 600
    assert at_once(shared.take([budget("b", 1, 10)])).retry_after is None
