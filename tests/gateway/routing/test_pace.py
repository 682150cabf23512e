"""Averages that forget."""

from __future__ import annotations

import pytest

from gateway.routing.pace import Average, Pace, Tail, kept


def test_about_the_last_ten_count() -> None:
    """Ten measurements make most of an average, and one alone does not."""
    average, keep = Average(), kept(10)
    for value in [1.0] * 20 + [2.0]:
        average.add(100.0, value, keep)
    assert average.value == pytest.approx(1 + 2 / 11)
    for _ in range(9):
        average.add(100.0, 2.0, keep)
    assert average.value is not None
    assert average.value > 1.8


def test_what_is_old_weighs_less() -> None:
    """After a minute of silence a new measurement says more than all before."""
    average = Average()
    average.add(100.0, 10.0, kept(10))
    average.add(160.0, 1.0, kept(10))
    assert average.value is not None
    assert average.value < 4.0


def test_others_count_by_how_many_they_are() -> None:
    """An average of many measurements moves ours like so many of our own, and is not ours to tell."""
    ours, theirs, keep = Average(), Average(), kept(10)
    for average in (ours, theirs):
        average.add(100.0, 1.0, keep)
    for _ in range(5):
        ours.add(100.0, 2.0, keep)
    theirs.hear(100.0, 2.0, 5, keep)
    theirs.hear(100.0, 9.0, 0, keep)
    assert theirs.value == pytest.approx(ours.value)
    assert (ours.fresh, theirs.fresh) == (6, 1)


def test_streams_and_whole_answers_are_apart() -> None:
    """What a stream took to its first event says nothing of whole answers; the latest of both is shown."""
    pace = Pace()
    assert pace.latency is None
    pace.answered(100.0, 0.5, 0.01, kept(10), streamed=True)
    pace.answered(101.0, 4.0, None, kept(10), streamed=False)
    assert (pace.first.value, pace.whole.value, pace.between.value, pace.per_token.value) == (
        0.5,
        4.0,
        0.01,
        None,
    )
    assert pace.latency == 4.0


def test_failures_are_forgiven() -> None:
    """The part that failed falls with each success and with time, and ends."""
    pace, keep = Pace(), kept(10)
    assert pace.failing_now(100.0) == 0.0
    pace.failed(100.0, keep)
    assert pace.failing_now(100.0) == 1.0
    pace.answered(100.0, 1.0, None, keep, streamed=True)
    assert 0.0 < pace.failing_now(100.0) < 1.0
    assert pace.failing_now(130.0) < pace.failing_now(100.0)
    assert pace.failing_now(1_000.0) == 0.0


def test_in_which_time_nearly_all_came() -> None:
    """Nineteen answers say nothing yet; of a hundred it is what 95 took at most, and older ones are forgotten."""
    tail = Tail()
    for _ in range(19):
        tail.add(1.0)
    known = [tail.value]
    for seconds in range(1, 101):
        tail.add(float(seconds))
    known.append(tail.value)
    for _ in range(100):
        tail.add(2.0)
    known.append(tail.value)
    assert known == [None, 95.0, 2.0]


def test_who_was_outrun_is_slower() -> None:
    """Silence that was broken off counts as far as it is longer than what is known."""
    pace = Pace()
    for _ in range(20):
        pace.tail(streamed=True).add(1.0)
    pace.outrun(1.0, 0.5, kept(10), streamed=True)
    pace.outrun(2.0, 0.1, kept(10), streamed=True)
    assert pace.first.value == 0.5
    assert pace.tail(streamed=True).value == 1.0
    for _ in range(20):
        pace.outrun(3.0, 8.0, kept(10), streamed=True)
    assert pace.tail(streamed=True).value == 8.0
    assert pace.whole.value is None
