"""How much there was in the last minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.windows import Minute


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 1000)), max_size=60))
def test_the_sum_slides(takes: list[tuple[float, int]]) -> None:
    """The sum has all of the last 55 seconds, and nothing that is older than 60."""
    minute, now, added = Minute(), 1000.0, list[tuple[float, int]]()
    for pause, amount in takes:
        now += pause
        minute.add(now, amount)
        added.append((now, amount))
        least = sum(amount for at, amount in added if now - at < 55)
        most = sum(amount for at, amount in added if now - at < 60)
        assert least <= minute.sum(now) <= most
    assert minute.sum(now + 60) == 0


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 9)), min_size=1, max_size=30), st.integers(1, 30))
def test_the_wait_is_as_long_as_it_says(takes: list[tuple[float, int]], below: int) -> None:
    """After `wait` seconds the sum is below the limit, and a part of the window earlier it is not."""
    minute, now = Minute(), 1000.0
    for pause, amount in takes:
        now += pause
        minute.add(now, amount)
    seconds = minute.wait(now, below)
    assert 0 <= seconds <= 60
    if seconds:
        assert minute.sum(now + seconds - 0.01) >= below
    assert minute.sum(now + seconds + 0.01) < below


def test_nothing_is_below_zero() -> None:
    """A limit of zero is never reached from above: the window's length is said."""
    assert Minute().wait(100.0, 0) == 60.0
