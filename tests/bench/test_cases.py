from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from bench import cases
from bench.cases import Subject
from bench.load import Tally, Watched
from bench.provider import Provider


def test_fit_separates_streams_from_chunks() -> None:
    """From two windows of streams with few and with many chunks come the cost of a stream and that of a chunk."""
    short = Tally(begun=100, chunks=2000, cpu=100 * 300e-6 + 2000 * 20e-6)
    long = Tally(begun=30, chunks=6000, cpu=30 * 300e-6 + 6000 * 20e-6)
    assert cases.fit(short, long) == pytest.approx((300, 20))
    assert cases.fit(Tally(), Tally()) == (0, 0)


def test_each_case_asks_and_counts(provider: Provider) -> None:
    """Each case gives its figures without an error, and the requests that were sent are counted."""
    subject = Subject("direct", f"http://127.0.0.1:{provider.port}", Watched())
    figures = {
        **cases.requests(subject, 2, 0.05),
        **cases.latency(subject, 0.1),
        **cases.first_token(subject, 0.2),
        **cases.streams(subject, "busy", 2, 0.2),
        **cases.memory(subject, 3),
    }
    assert not subject.errors
    assert figures["rps_2"] > 0
    assert figures["latency_p99"] >= figures["latency_p50"] > 0
    assert figures["first_token_p50"] > 0
    assert figures["streams_busy"] == 2
    assert figures["memory_3"] == 0  # there is no gateway
    assert subject.asked > figures["rps_2"] * 0.05


def test_streams_that_do_not_begin_in_time_are_errors(provider: Provider) -> None:
    """A gateway that is overrun does not hold up the others: what it has not begun by then is counted."""
    subject = Subject("direct", f"http://127.0.0.1:{provider.port}", Watched())
    cases.memory(subject, 5, patience=-1.0)
    assert subject.errors == {"5 open streams: no first chunk": 5}


def test_paced_streams_have_a_lag(provider: Provider) -> None:
    """Each chunk's way is timed."""
    subject = Subject("direct", f"http://127.0.0.1:{provider.port}", Watched())
    assert cases.lag(subject, 2, 0.2)["lag_p50_2"] > 0
    assert not subject.errors


def test_where_there_is_no_gateway_streams_are_as_many_as_may_be(provider: Provider) -> None:
    """Without a gateway no core can be kept busy."""
    subject = Subject("direct", f"http://127.0.0.1:{provider.port}", Watched())
    assert cases.busy_streams(subject) == cases.MOST_STREAMS


def test_what_went_wrong_is_remembered() -> None:
    """Errors are counted by case, and where the load was the limit is noted."""
    subject = Subject("x", "http://127.0.0.1:1", Watched(1))
    tally = Tally(seconds=1, own_cpu=0.99, cpu_in_window=0.1, asked=7, foreign=0.4, stolen=0.2)
    tally.errors["cut"] += 2
    subject.note("some case", tally)
    assert subject.errors == {"some case: cut": 2}
    assert subject.load_bound == ["some case"]
    assert subject.asked == 7
    assert (subject.foreign, subject.stolen) == (0.4, 0.2)


def test_of_nothing_there_are_no_figures() -> None:
    """Where nobody answers, there are errors, and nothing that would look like the fastest gateway of all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    subject = Subject("x", f"http://127.0.0.1:{port}", Watched())
    measurements: list[Callable[[], cases.Figures]] = [
        lambda: cases.requests(subject, 1, 0.05),
        lambda: cases.latency(subject, 0.05),
        lambda: cases.first_token(subject, 0.05),
        lambda: cases.lag(subject, 1, 0.05),
        lambda: cases.streams(subject, "busy", 1, 0.05),
    ]
    for measured in measurements:
        before = subject.errors.total()
        assert measured() == {}
        assert subject.errors.total() > before
