"""What Redis is still to be told."""

from __future__ import annotations

from gateway.state.redis_calls import Step
from gateway.state.redis_settlements import BATCH, Settlement, Settlements
from gateway.state.shared import Taken, Ticket


def _settlements() -> Settlements:
    return Settlements("me", lambda kind, name: f"{kind}:{name}")


def _step(settlements: Settlements) -> Step:
    step = settlements.step()
    assert step is not None
    return step


def _of_one_take(settlements: Settlements, mark: str, count: int) -> list[Settlement]:
    """As a take of so many windows leaves them."""
    taken = [Taken("rate", str(n), 1, 60.0, (mark, 5)) for n in range(count)]
    return [settlements.of(Ticket([], "t"), one, mark, 5, 2) for one in taken]


def test_nothing_to_tell() -> None:
    """No batch, and no number is used up."""
    settlements = _settlements()
    assert not settlements
    assert settlements.step() is None
    assert settlements.last_batch == 0


def test_words() -> None:
    """A rate has its span, slots have their holder; what is too large for Redis' numbers is text, and bounded."""
    settlements, ticket = _settlements(), Ticket([], "holder")
    rate = Taken("rate", "r", 10, 60.0, ("7", 123))
    slots = Taken("slots", "s", 1, 0.0, ("7", 123))
    budget = Taken("budget", "b", 2**70, 0.0, ("7", 123))
    settlements.add([settlements.of(ticket, rate, "7", 123, 4), settlements.of(ticket, slots, "7", 123, 0)])
    settlements.add([settlements.of(ticket, budget, "8", "", -(2**53))])
    step = _step(settlements)
    assert step.keys == ["me", "rate:r", "slots:s", "budget:b"]
    assert step.words[:14] == [
        "settle",
        1,
        "rate",
        "7",
        123,
        10,
        4,
        60_000_000,
        "slots",
        "7",
        123,
        1,
        0,
        "holder",
    ]
    assert step.words[14:] == ["budget", "8", "", str(2**60), str(-(2**53)), 0]


def test_a_batch_is_told_until_it_is_confirmed() -> None:
    """As it was, under its number, whatever has come since."""
    settlements = _settlements()
    settlements.charge("b", 1)
    first = _step(settlements)
    settlements.charge("b", 2)
    again = _step(settlements)
    assert (again.keys, again.words) == (first.keys, first.words)
    assert len(settlements) == 1
    settlements.confirmed()
    assert _step(settlements).words == ["settle", 2, "budget", "", 0, 0, 2, 0]
    settlements.confirmed()
    assert not settlements


def test_charges_are_summed_up() -> None:
    """An outage may last: there are as many as budgets."""
    settlements = _settlements()
    for _ in range(10_000):
        settlements.charge("a", 3)
        settlements.charge("b", -1)
    assert len(settlements) == 2
    step = _step(settlements)
    assert dict(zip(step.keys[1:], step.words[6::6], strict=True)) == {
        "budget:a": 30_000,
        "budget:b": -10_000,
    }


def test_what_one_take_took_is_in_one_batch() -> None:
    """Its mark goes with the first of them that is settled."""
    settlements = _settlements()
    for number in range(BATCH):
        settlements.add(_of_one_take(settlements, str(number), 3))
    sizes = []
    while settlements:
        marks = [str(word) for word in _step(settlements).words[3::6]]
        sizes.append(len(marks))
        assert all(marks.count(mark) == 3 for mark in marks)
        settlements.confirmed()
    assert sum(sizes) == 3 * BATCH
    assert max(sizes) <= BATCH + 2
