from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench import load, upstream
from bench.load import Question, Tally, closed_loop, open_loop


@asynccontextmanager
async def provider() -> AsyncIterator[str]:
    """The simulated provider's URL for chat completions."""
    server = await upstream.serve("127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
    server.close()


async def one_answer(answer: bytes, chunks: int) -> Tally:
    """What the client thinks of these bytes, sent as the answer to its first request."""
    answered = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        question = Question(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", "m", chunks)
        calls = load.Load(question)
        calls.ask(await calls.connect(lambda client: answered.set()))
        await answered.wait()
        calls.close()
    return calls.current


def stream(*events: bytes) -> bytes:
    """A chunked event stream with one chunk per event, ended."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


FIRST, SECOND, DONE = b"data: #0@1\n\n", b"data: #1@1\n\n", b"data: [DONE]\n\n"
WHOLE = b'{"content": "%b"}' % upstream.ANSWER.encode()


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
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(WHOLE), WHOLE), 0, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 0, "content"),
        (b"HTTP/1.1 429 No\r\nContent-Length: 2\r\n\r\n{}", 0, "status 429"),
        (b"HTTP/1.1 429 No\r\nContent-Length: 2\r\n\r\n{}", 2, "status 429"),
        (b"", 0, "cut"),
    ],
)
async def test_no_answer_is_believed(answer: bytes, chunks: int, problem: str) -> None:
    """An answer counts only with the right status, framing, terminator, number and order of chunks."""
    tally = await one_answer(answer, chunks)
    assert tally.done == (not problem)
    assert [error.split(":")[0] for error in tally.errors] == ([problem] if problem else [])


async def test_closed_loop_counts_what_the_provider_said() -> None:
    """Streams of three chunks give three lags each, and a first one per stream, without errors."""
    async with provider() as url:
        tally = await closed_loop(Question(url, "bench-c3", 3), 4, 0.05, os.getpid(), warm=0.01)
    assert not tally.errors
    assert tally.done
    assert len(tally.lags) == tally.chunks
    assert all(lag >= 0 for lag in tally.lags)
    assert tally.cpu > 0


async def test_closed_loop_goes_on_after_errors() -> None:
    """A connection that was cut is made again, and each cut is counted."""
    async with provider() as url:
        tally = await closed_loop(Question(url, "bench-c3-x1", 3), 2, 0.05, warm=0.01)
    assert set(tally.errors) == {"cut"}
    assert tally.errors["cut"] > 2


async def test_open_loop_asks_at_its_rate() -> None:
    """Requests go out by the clock, each on a connection that is idle or new."""
    async with provider() as url:
        tally = await open_loop(Question(url, "bench"), 200, 0.05, warm=0.01)
    assert not tally.errors
    assert tally.done


async def test_nobody_there() -> None:
    """A gateway that does not listen is an error, not a hang."""
    async with provider() as url:
        pass
    assert (await closed_loop(Question(url, "bench"), 2, 0.02, warm=0.01)).done == 0


def test_percentile() -> None:
    """The middle and the ends of the sorted values, and 0 of nothing."""
    assert [load.percentile([30, 10, 20], share) for share in (0.0, 0.5, 1.0)] == [10, 20, 30]
    assert load.percentile([], 0.5) == 0


def test_processes_are_counted_with_their_children() -> None:
    """CPU and memory are those of the whole tree."""
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        tree = load.process_tree(process.pid)
        assert tree[0] == process.pid
        assert len(tree) == 2
        assert load.cpu_seconds(process.pid) > 0
        assert load.resident_mb(process.pid) > 5
        process.communicate(b"\n")
