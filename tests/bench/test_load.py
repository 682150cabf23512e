from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from bench import load
from bench.load import Client, Load, Question, Tally, Watched, closed_loop, open_loop
from bench.provider import ANSWER, Provider


@contextmanager
def server(answers: Sequence[bytes], pieces: int = 0) -> Iterator[str]:
    """Answers one request after another on one connection with these bytes, then closes; in pieces if that is asked for."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as sock, suppress(OSError):  # a client that knows enough leaves
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for answer in answers:
                sock.recv(65536)
                for at in range(0, len(answer), pieces or len(answer) or 1):
                    sock.sendall(answer[at : at + (pieces or len(answer))])

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join()


def judge(answers: Sequence[bytes], chunks: int, form: str = "openai", pieces: int = 0) -> Tally:
    """What one client thinks of these bytes, sent as the answers to its requests."""
    left = len(answers)

    def on_done(client: Client) -> None:
        nonlocal left
        left -= 1
        if left and not client.closed:
            client.ask(time.monotonic_ns())
        else:
            calls.loop.stop()

    with server(answers, pieces) as url:
        calls = Load(Question(url, "m", chunks, form), on_done)
        client = calls.connect()
        assert client
        client.ask(time.monotonic_ns())
        calls.loop.run(until=time.monotonic() + 30)
        calls.close()
    return calls.tally


def stream(*events: bytes) -> bytes:
    """A chunked event stream with one chunk per event, ended."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def mark(number: int) -> bytes:
    """An event with its mark, as the provider writes them."""
    return b'data: {"n":"#%06d@%019d"}\n\n' % (number, 1000 + number)


DONE = b"data: [DONE]\n\n"
FIRST, SECOND, THIRD = (mark(number) for number in range(3))
WHOLE = b'{"content": "%b"}' % ANSWER.encode()


def whole(body: bytes = WHOLE, status: bytes = b"200 OK", length: int | None = None) -> bytes:
    """A whole answer."""
    size = len(body) if length is None else length
    return b"HTTP/1.1 %b\r\nDate: now\r\ncontent-length: %d\r\n\r\n%b" % (status, size, body)


@pytest.mark.parametrize("pieces", [0, 1, 7])
@pytest.mark.parametrize(
    ("answer", "chunks", "problem"),
    [
        (stream(FIRST, SECOND, DONE), 2, ""),
        (stream(FIRST + SECOND + DONE), 2, ""),
        (stream(FIRST[:7], FIRST[7:] + SECOND[:9], SECOND[9:] + DONE), 2, ""),
        (stream(FIRST, DONE), 2, "incomplete"),
        (stream(FIRST, SECOND), 2, "incomplete"),
        (stream(FIRST, SECOND, DONE, b"data: more"), 2, "incomplete"),
        (stream(SECOND, FIRST, DONE), 2, "order"),
        (stream(FIRST, FIRST, DONE), 2, "order"),
        (stream(FIRST, SECOND, DONE)[:-7], 2, "cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", 2, "framing"),
        (whole(), 0, ""),
        (whole(b"{}"), 0, "content"),
        (whole(b"{}", b"429 No"), 0, "status 429"),
        (whole(b"{}", b"429 No"), 2, "status 429"),
        (whole(length=len(WHOLE) + 1), 0, "cut"),
        (b"", 0, "cut"),
    ],
)
def test_no_answer_is_believed(answer: bytes, chunks: int, problem: str, pieces: int) -> None:
    """An answer counts only with the right status, framing, terminator, number and order of chunks, however it is cut."""
    tally = judge([answer], chunks, pieces=pieces)
    assert tally.done == (not problem)
    assert [error.split(":")[0] for error in tally.errors] == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (whole(), ""),
        (whole().replace(b"now", b"later"), ""),
        (whole(b'{"n": "%b"}' % ANSWER.encode()), ""),
        (whole(status=b"503 No"), "status 503"),
        (whole(b"{}"), "content"),
        (whole()[:-1], "cut"),
        (whole(length=len(WHOLE) + 1), "cut"),
        (whole(WHOLE.replace(b"gate", b"gaol")), "content"),
    ],
)
def test_a_known_answer_is_no_licence(second: bytes, problem: str) -> None:
    """After an answer that was right the next one is believed only if it is the same, or found right in full."""
    tally = judge([whole(), second], 0)
    assert tally.done == 1 + (not problem)
    assert list(tally.errors) == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ([0, 1, 2, 3, 4], ""),
        ([0, 1, 2, 3], "incomplete"),
        ([0, 1, 2, 4, 3], "order"),
        ([0, 1, 2, 2, 3], "order"),
        ([0, 1, 2, 3, 4, 5], "incomplete"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_known_chunks_are_counted(numbers: list[int], problem: str, together: bool) -> None:
    """Chunks that look like the one before are counted and their order is seen, one by one and several in a read."""
    head, *chunks = stream(*(mark(number) for number in numbers)).removesuffix(b"0\r\n\r\n").split(b"2d\r\n")
    end = b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE)
    tally = Tally()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        calls = Load(Question(f"http://127.0.0.1:{listener.getsockname()[1]}", "m", 5), lambda _client: None)
        client = calls.connect()
        assert client
        client.ask(time.monotonic_ns())
        client.received(head)
        reads = [b"2d\r\n" + chunk for chunk in chunks]
        for read in [*reads[:2], b"".join(reads[2:])] if together else reads:
            client.received(read)
        client.received(end)
        tally = calls.tally
        calls.close()
    assert list(tally.errors) == ([problem] if problem else [])
    assert tally.chunks == len(numbers)
    assert len(tally.lags) == len(numbers)


def test_an_end_that_came_with_a_chunk_is_no_pattern() -> None:
    """A chunk of the framing that holds the terminator too is not taken for an ordinary one the next time."""
    answer = stream(FIRST, SECOND, THIRD + DONE)
    tally = judge([answer, answer, answer], 3)
    assert tally.done == 3
    assert not tally.errors


def test_anthropic_ends_otherwise() -> None:
    """A stream of Anthropic's ends with message_stop, and OpenAI's terminator is none there."""
    stop = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    assert judge([stream(FIRST, stop)], 1, "anthropic").done == 1
    assert list(judge([stream(FIRST, DONE)], 1, "anthropic").errors) == ["incomplete"]


def test_closed_loop_counts_what_the_provider_said(provider: Provider) -> None:
    """Streams of three chunks give three lags each, and a first one per stream, without errors."""
    question = Question(f"http://127.0.0.1:{provider.port}", "bench-c3", 3)
    tally = closed_loop(question, 4, 0.05, Watched(os.getpid()), warm=0.01)
    assert not tally.errors
    assert tally.done
    assert len(tally.lags) == tally.chunks
    assert all(lag >= 0 for lag in tally.lags)
    assert tally.cpu > 0


def test_whole_answers_are_all_waited_for(provider: Provider) -> None:
    """Before and after a window of whole answers nobody is left unanswered: each request that was sent is counted."""
    tally = closed_loop(Question(f"http://127.0.0.1:{provider.port}", "bench"), 4, 0.05, warm=0.02)
    assert not tally.errors
    assert tally.begun <= tally.done + 4
    assert tally.asked > tally.done


def test_what_is_answered_after_the_window_took_longer_than_it(provider: Provider) -> None:
    """Answers that a slow gateway gives after the window count, and so does the time until then: the rate is what it can do."""
    question = Question(f"http://127.0.0.1:{provider.port}", "bench-f100")
    tally = closed_loop(question, 4, 0.05, warm=0.02)
    assert tally.done >= 4
    assert 0 < tally.rate <= tally.done / 0.1


def test_closed_loop_goes_on_after_errors(provider: Provider) -> None:
    """A connection that was cut is made again, and each cut is counted."""
    question = Question(f"http://127.0.0.1:{provider.port}", "bench-c3-x1", 3)
    tally = closed_loop(question, 2, 0.1, warm=0.01)
    assert set(tally.errors) == {"cut"}
    assert tally.errors["cut"] > 2


def test_open_loop_asks_at_its_rate(provider: Provider) -> None:
    """Requests go out by the clock, each on a connection that is idle or new."""
    tally = open_loop(Question(f"http://127.0.0.1:{provider.port}", "bench"), 200, 0.1, warm=0.01)
    assert not tally.errors
    assert tally.done


def test_nobody_there() -> None:
    """A gateway that does not listen is an error, not a hang."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    question = Question(f"http://127.0.0.1:{port}", "bench")
    assert not question.is_answered()
    assert closed_loop(question, 2, 0.02, warm=0.01).done == 0


def test_what_nobody_asked_for_is_an_error() -> None:
    """An answer that comes twice is no answer to the next question, and one that comes unasked is none at all."""
    both = judge([whole() * 2, whole()], 0)
    assert both.errors == {"unasked": 1}
    assert judge([stream(FIRST, DONE) * 2, b""], 1).errors["unasked"] == 1
    with socket.create_server(("127.0.0.1", 0)) as listener:
        calls = Load(Question(f"http://127.0.0.1:{listener.getsockname()[1]}", "m"), lambda _client: None)
        client = calls.connect()
        assert client
        client.ask(time.monotonic_ns())
        client.received(whole())
        client.received(whole())
        calls.close()
    assert calls.tally.errors == {"unasked": 1}
    assert calls.tally.done == 1


def test_who_is_never_answered_is_an_error(provider: Provider) -> None:
    """A gateway that takes requests and keeps silent is not the fastest of all: each of them is an error, and it is left."""
    calls = Load(Question(f"http://127.0.0.1:{provider.port}", "bench-f60000"), lambda _client: None)
    for _ in range(3):
        client = calls.connect()
        assert client
        client.ask(time.monotonic_ns())
    calls.finish(patience=0.05)
    assert calls.tally.errors == {"no answer": 3}
    assert not calls.clients
    calls.close()


def test_a_stream_that_is_stuck_is_an_error(provider: Provider) -> None:
    """One that goes on is none, whatever is in the way of its next chunk; what comes while it is waited for is in no window."""
    errors = {}
    for settings in ("c50-r100", "c50-r100-s2"):
        calls = Load(Question(f"http://127.0.0.1:{provider.port}", f"bench-{settings}", 50), lambda _: None)
        client = calls.connect()
        assert client
        client.ask(time.monotonic_ns())
        while client.seen < 2:
            calls.loop.run(time.monotonic() + 0.01)
        tally, counted = calls.tally, calls.tally.chunks
        calls.hear_each(0.2 if settings.endswith("s2") else 30)
        errors[settings] = dict(tally.errors)
        assert tally.chunks == counted
        calls.close()
    assert errors == {"c50-r100": {}, "c50-r100-s2": {"stuck": 1}}


def test_what_goes_wrong_before_the_window_goes_wrong(provider: Provider) -> None:
    """Errors of the time in which a gateway warms up are in the tally."""
    question = Question(f"http://127.0.0.1:{provider.port}", "bench-e503")
    for tally in (closed_loop(question, 1, 0.0, warm=0.3), open_loop(question, 100, 0.0, warm=0.3)):
        assert tally.errors == {"status 503": tally.asked}


def test_an_open_loop_waits_for_every_answer(provider: Provider) -> None:
    """An answer that takes longer than the window counts: else a gateway that stalls would look as one that does not."""
    tally = open_loop(Question(f"http://127.0.0.1:{provider.port}", "bench-f300"), 100, 0.1, warm=0.0)
    assert not tally.errors
    assert len(tally.whole) == tally.asked > 0
    assert min(tally.whole) >= 300e6


def test_who_is_due_while_a_connection_is_waited_for_has_waited_too(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that is slow to take a connection holds up the whole load; the requests of that time are as old as they are."""
    connect, slow = Load.connect, [0.3]

    def slowly(calls: Load) -> Client | None:
        time.sleep(slow.pop() if slow else 0)
        return connect(calls)

    monkeypatch.setattr(Load, "connect", slowly)
    tally = open_loop(Question(f"http://127.0.0.1:{provider.port}", "bench"), 100, 0.5, warm=0.0)
    assert sum(took >= 100e6 for took in tally.whole) >= 15


def test_who_was_closed_while_nobody_asked_is_asked_anew(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway may close what is idle while it comes to rest. That is no error of its, and there are as many connections as before."""

    def rest(_gateway: int) -> None:
        for connection in list(provider.connections):
            provider.loop.at(0, connection.close)
        provider.loop.at(0, closed.set)
        with socket.create_connection(("127.0.0.1", provider.port)):  # wakes it
            closed.wait(30)

    closed = threading.Event()
    monkeypatch.setattr(load, "wait_until_idle", rest)
    tally = closed_loop(Question(f"http://127.0.0.1:{provider.port}", "bench"), 4, 0.1, warm=0.1)
    assert not tally.errors
    assert tally.done >= 4


def test_who_does_not_listen_is_asked_again() -> None:
    """A gateway that starts anew meanwhile gets its connections back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    tally = closed_loop(Question(f"http://127.0.0.1:{port}", "bench"), 1, 0.3, warm=0.1)
    assert tally.errors["ConnectionRefusedError"] > 2


def test_who_was_the_limit() -> None:
    """The load was the limit if its core was full and the gateway's was not."""
    full = Tally(seconds=1, own_cpu=0.97, cpu_in_window=0.5)
    assert full.load_bound
    assert not Tally(seconds=1, own_cpu=0.97, cpu_in_window=0.98).load_bound
    assert not Tally(seconds=1, own_cpu=0.5, cpu_in_window=0.5).load_bound


def test_percentile() -> None:
    """The middle and the ends of the sorted values, and 0 of nothing."""
    assert [load.percentile([30, 10, 20], share) for share in (0.0, 0.5, 1.0)] == [10, 20, 30]
    assert load.percentile([], 0.5) == 0
