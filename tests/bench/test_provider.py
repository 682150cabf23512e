from __future__ import annotations

import asyncio
import re

import pytest

from bench.load import Question
from bench.provider import ANSWER, Provider


async def ask(provider: Provider, path: str, body: bytes, until: bytes) -> bytes:
    """Send one request and read the answer up to its last bytes, or to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
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
GEMINI = "/v1beta/models/bench-c3:"


@pytest.mark.parametrize(("path", "mark"), [(OPENAI, b'"chat.completion"'), (ANTHROPIC, b'"type":"message"')])
async def test_whole_answers(provider: Provider, path: str, mark: bytes) -> None:
    """Without `stream` the answer is one JSON object of the path's dialect, a few hundred bytes long."""
    answer = await ask(provider, path, b'{"model":"bench"}', b"}}" if path == ANTHROPIC else b'_bench01"}')
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(re.findall(rb"Content-Length: (\d+)", head)[0]) == len(body)
    assert mark in body
    assert ANSWER.encode() in body


@pytest.mark.parametrize(
    ("path", "last"), [(OPENAI, b"data: [DONE]"), (ANTHROPIC, b'{"type":"message_stop"}')]
)
@pytest.mark.parametrize("settings", ["c3", "c3-r1000", "c3-r1000-f1"])
async def test_streams(provider: Provider, path: str, last: bytes, settings: str) -> None:
    """A stream has the chunks that the model's name asks for, numbered, and ends as the dialect ends it."""
    body = b'{"model":"openai/bench-%b","stream":true}' % settings.encode()
    answer = await ask(provider, path, body, b"\r\n0\r\n\r\n")
    assert re.findall(rb"#(\d+)@\d+", answer) == [b"000000", b"000001", b"000002"]
    assert answer.endswith(last + b"\n\n\r\n0\r\n\r\n")


async def test_gemini(provider: Provider) -> None:
    """Gemini's path says whether to stream and which model; its events end with CR LF and have no terminator."""
    whole = await ask(provider, GEMINI + "generateContent", b"{}", b'"bench0001"}')
    assert ANSWER.encode() in whole
    stream = await ask(provider, GEMINI + "streamGenerateContent?alt=sse", b"{}", b"\r\n0\r\n\r\n")
    assert re.findall(rb"#(\d+)@\d+", stream) == [b"000000", b"000001", b"000002"]
    assert stream.count(b"}\r\n\r\n") == 4


async def test_the_size_of_chunks(provider: Provider) -> None:
    """`b` makes each chunk as long as it says, framing apart."""
    body = b'{"model":"bench-c2-b1000","stream":true}'
    for path in (OPENAI, ANTHROPIC):
        assert (await ask(provider, path, body, b"\r\n0\r\n\r\n")).count(b"\r\n3e8\r\n") == 2


async def test_the_same_bytes_again_are_the_same_request(provider: Provider) -> None:
    """A request that is known by its bytes is answered as the first one was, and one that differs as itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    url = f"http://127.0.0.1:{provider.port}"
    answers = []
    for model in ("bench", "bench", "bench-e503", "bench-e503", "bench"):
        request = Question(url, model).encode()
        if model != "bench":  # in two pieces
            writer.write(request[:50])
            request = request[50:]
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        answers.append(head[9:12])
        await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
    writer.close()
    assert answers == [b"200", b"200", b"503", b"503", b"200"]


async def test_nonsense_is_refused(provider: Provider) -> None:
    """What is no HTTP is answered with 400 and closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    writer.write(b"nonsense\r\n\r\n")
    assert b" 400 " in await reader.read()
    writer.close()


async def test_usage_is_sent_if_asked_for(provider: Provider) -> None:
    """OpenAI's last chunk with the usage comes only to those who ask for it."""
    for options, usage in ((b"", 0), (b',"stream_options":{"include_usage":true}', 1)):
        body = b'{"model":"bench-c1","stream":true%b}' % options
        assert (await ask(provider, OPENAI, body, b"\r\n0\r\n\r\n")).count(b'"usage"') == usage


async def test_errors_and_cuts(provider: Provider) -> None:
    """A status is answered as ordered, an unknown path is 404, and a cut leaves the stream without its end."""
    assert b"HTTP/1.1 503" in await ask(provider, OPENAI, b'{"model":"bench-e503"}', b"\r\n")
    assert b"HTTP/1.1 404" in await ask(provider, "/v1/elsewhere", b"{}", b"\r\n")
    cut = await ask(provider, OPENAI, b'{"model":"bench-c9-r1000-x2","stream":true}', b"\r\n0\r\n\r\n")
    assert b"#000002@" not in cut


async def test_silence(provider: Provider) -> None:
    """A stream told to fall silent says its chunks and then nothing, with the connection open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    body = b'{"model":"bench-c9-s2","stream":true}'
    writer.write(b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (OPENAI.encode(), len(body), body))
    await reader.readuntil(b"#000001@")
    writer.write_eof()
    rest = await reader.read()
    assert b"#000002@" not in rest
    writer.close()
