"""Circuits."""

from __future__ import annotations

from gateway.routing.breaker import LONGEST, Breaker


def broken() -> Breaker:
    breaker = Breaker()
    assert [breaker.failed(100.0, 5.0) for _ in range(5)] == [False] * 4 + [True]
    return breaker


def test_five_of_ten() -> None:
    """It opens when five of the last ten attempts have failed, and not for failures that are longer ago."""
    breaker = Breaker()
    for _ in range(4):
        breaker.failed(100.0, 5.0)
    for _ in range(6):
        assert not breaker.succeeded(100.0)
    assert not breaker.failed(100.0, 5.0)  # the first has been forgotten
    assert breaker.state(100.0) == "closed"
    for _ in range(9):
        assert not breaker.succeeded(100.0)
    assert breaker.succeeded(100.0)  # nothing is left to remember


def test_one_probe() -> None:
    """While it is open nobody gets through, afterwards one does, until that one has ended."""
    breaker = broken()
    assert (breaker.allows(104.9), breaker.state(104.9)) == (False, "open")
    assert (breaker.allows(105.0), breaker.state(105.0)) == (True, "half_open")
    breaker.began(105.0)
    assert not breaker.allows(105.0)
    breaker.released()
    assert breaker.allows(105.0)
    breaker.began(105.0)
    assert breaker.succeeded(106.0)


def test_a_probe_that_fails() -> None:
    """Each probe that fails doubles the time, up to a bound; those that began before change nothing."""
    breaker, now, seconds = broken(), 100.0, 5.0
    for _ in range(10):
        assert not breaker.failed(now, 5.0)
        now = breaker.open_until
        breaker.began(now)
        assert breaker.failed(now, 5.0)
        seconds = min(2 * seconds, LONGEST)
        assert breaker.open_until == now + seconds


def test_an_answer_while_it_is_open() -> None:
    """A deployment that answers for want of another is probed at once."""
    breaker = broken()
    assert not breaker.succeeded(101.0)
    assert breaker.allows(101.0)
