"""The gateway without sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.alone import TIMES, Alone


@pytest.fixture
def alone() -> Iterator[Alone]:
    found = Alone()
    yield found
    found.close()


@pytest.mark.parametrize("traced", [False, True])
def test_requests_are_answered(alone: Alone, *, traced: bool) -> None:
    """A repetition is so many whole requests: each has its row, and nothing is left open."""
    operation, times = alone.requests(traced=traced)
    operation()
    assert times == TIMES == len(alone.rows)
    assert {(row.status, row.http_status, row.usage_source) for row in alone.rows} == {
        ("success", 200, "reported")
    }
    assert not alone.rt.open


def test_a_request_is_settled(alone: Alone) -> None:
    """The bill of one request can be written any number of times."""
    operation, times = alone.settles()
    operation()
    assert len(alone.rows) == times
    assert not alone.rt.open
