"""The gateway without sockets."""

from __future__ import annotations

from bench.alone import TIMES, Alone


def test_requests_are_answered() -> None:
    """A repetition is so many whole requests: each has its row, and nothing is left open."""
    alone = Alone()
    operation, times = alone.requests()
    operation()
    assert times == TIMES == len(alone.rows)
    assert {(row.status, row.http_status, row.usage_source) for row in alone.rows} == {
        ("success", 200, "reported")
    }
    assert not alone.rt.open


def test_a_request_is_settled() -> None:
    """The bill of one request can be written any number of times."""
    alone = Alone()
    operation, times = alone.settles()
    operation()
    assert len(alone.rows) == times
    assert not alone.rt.open
