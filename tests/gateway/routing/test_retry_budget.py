"""The retry budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.config.model import RetryBudget
from gateway.routing.retry_budget import Attempts


@given(st.integers(15, 400), st.integers(1, 40), st.integers(1, 5))
def test_a_storm(rate: int, seconds: int, wanted: int) -> None:
    """However many further attempts are wanted, upstreams see at most 1.2 times what was offered, and the minimum of the
    first seconds.
    """
    attempts = Attempts()
    made = 0
    for number in range(rate * seconds):
        now = 1000.0 + number / rate
        attempts.offered(now)
        made += sum(attempts.take(now) for _ in range(wanted))
    assert made <= 0.2 * rate * seconds + 30
    assert made + attempts.refused == rate * seconds * wanted


def test_few_requests() -> None:
    """A gateway with few requests may be as stubborn as it is configured."""
    attempts = Attempts()
    attempts.offered(1000.0)
    assert sum(attempts.take(1000.0) for _ in range(50)) == 30
    assert not attempts.has_room(1009.0)
    assert attempts.has_room(1010.0)


def test_other_settings() -> None:
    """A reload changes the numbers, and what is known stays."""
    attempts = Attempts()
    attempts.budget = RetryBudget(ratio=0.0, minimum=0.0)
    attempts.offered(1000.0)
    assert not attempts.take(1000.0)
    attempts.budget = RetryBudget(ratio=1.0, minimum=0.0)
    assert [attempts.take(1000.0) for _ in range(2)] == [True, False]
    assert attempts.refused == 2
