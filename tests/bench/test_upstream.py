from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from bench import upstream

Address = tuple[str, int]


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[Address]:
    """A simulated provider on a free port."""
    server = await upstream.serve("127.0.0.1", 0)
    yield server.sockets[0].getsockname()
    server.close()


async def ask(provider: Address, path: str, body: bytes, until: bytes) -> bytes:
    """Send one request and read the answer up to its last bytes, or to the end of the connection."""
    reader, writer = await asyncio.open_connection(*provider)
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
    )
    try:
        return await reader.readuntil(until)
    except asyncio.IncompleteReadError as end:
        return end.partial
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


OPENAI, ANTHROPIC = "/v1/chat/completions", "/v1/messages?beta=true"


@pytest.mark.parametrize(("path", "mark"), [(OPENAI, b'"chat.completion"'), (ANTHROPIC, b'"type":"message"')])
async def test_whole_answers(provider: Address, path: str, mark: bytes) -> None:
    """Without `stream` the answer is one JSON object of the path's dialect, a few hundred bytes long."""
    answer = await ask(provider, path, b'{"model":"bench"}', b"}}" if path == ANTHROPIC else b'_bench01"}')
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(re.findall(rb"Content-Length: (\d+)", head)[0]) == len(body)
    assert mark in body
    assert upstream.ANSWER.encode() in body


@pytest.mark.parametrize(
    ("path", "last"), [(OPENAI, b"data: [DONE]"), (ANTHROPIC, b'{"type":"message_stop"}')]
)
@pytest.mark.parametrize("settings", ["c3", "c3-r1000", "c3-r1000-f1"])
async def test_streams(provider: Address, path: str, last: bytes, settings: str) -> None:
    """A stream has the chunks that the model's name asks for, numbered, and ends as the dialect ends it."""
    body = b'{"model":"openai/bench-%b","stream":true}' % settings.encode()
    answer = await ask(provider, path, body, b"\r\n0\r\n\r\n")
    assert re.findall(rb"#(\d+)@\d+", answer) == [b"0", b"1", b"2"]
    assert answer.endswith(last + b"\n\n\r\n0\r\n\r\n")


async def test_usage_is_sent_if_asked_for(provider: Address) -> None:
    """OpenAI's last chunk with the usage comes only to those who ask for it."""
    for options, usage in ((b"", 0), (b',"stream_options":{"include_usage":true}', 1)):
        body = b'{"model":"bench-c1","stream":true%b}' % options
        assert (await ask(provider, OPENAI, body, b"\r\n0\r\n\r\n")).count(b'"usage"') == usage


async def test_errors_and_cuts(provider: Address) -> None:
    """A status is answered as ordered, an unknown path is 404, and a cut leaves the stream without its end."""
    assert b"HTTP/1.1 503" in await ask(provider, OPENAI, b'{"model":"bench-e503"}', b"\r\n")
    assert b"HTTP/1.1 404" in await ask(provider, "/v1/elsewhere", b"{}", b"\r\n")
    cut = await ask(provider, OPENAI, b'{"model":"bench-c9-r1000-x2","stream":true}', b"\r\n0\r\n\r\n")
    assert b"#2@" not in cut


async def test_silence(provider: Address) -> None:
    """A stream told to fall silent says its chunks and then nothing, with the connection open."""
    reader, writer = await asyncio.open_connection(*provider)
    body = b'{"model":"bench-c9-s2","stream":true}'
    writer.write(b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (OPENAI.encode(), len(body), body))
    await reader.readuntil(b"#1@")
    writer.write_eof()
    rest = await reader.read()
    assert b"#2@" not in rest
    writer.close()
