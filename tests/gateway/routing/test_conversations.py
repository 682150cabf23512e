"""Who answered which conversation."""

from __future__ import annotations

from gateway.routing.conversations import Conversations


def test_the_latest_come_first() -> None:
    """Up to four who have it are known, the latest first, each for its time."""
    known = Conversations()
    for number in range(6):
        known.keep("c", f"d{number}", 100.0, 10.0)
    known.keep("c", "d3", 105.0, 10.0)
    assert known.holders("c", 114.0) == ("d3", "d5", "d4", "d2")
    assert known.holders("other", 114.0) == ()
    assert known.holders("c", 115.0) == ()
    assert len(known) == 0


def test_what_was_used_longest_ago_is_forgotten() -> None:
    """There is an end to what is remembered."""
    known = Conversations(most=2)
    for name in ("a", "b", "a", "c"):
        known.keep(name, "d", 100.0, 10.0)
    assert [known.holders(name, 101.0) for name in "abc"] == [("d",), (), ("d",)]
