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
