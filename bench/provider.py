"""A simulated provider: OpenAI's chat completions, Anthropic's messages and Gemini's contents, as fast as Python can say them.

What it answers is written in the model's name, so that it survives every gateway in between: `bench` gives one whole answer (or,
if a stream is asked for, 20 chunks), and settings are appended to it, each a letter and a number, in any order:

    c200   200 chunks                     f50    the first one, or the whole answer, after 50 ms
    r100   100 chunks per second          e503   an error with status 503 instead of an answer
    r0     all at once (the default)      s10    silence after 10 chunks, until the client leaves
    b1000  chunks of 1000 bytes           x10    the connection is cut after 10 chunks

`bench-c200-r100` is a stream of two seconds. Each chunk carries its number and the monotonic clock's nanoseconds, as
`#000017@00000000000123456789`: whoever reads it on the same machine knows whether one is missing and how long each took.

Each chunk is one write, paced from the stream's start so that a late one does not delay the next. Requests on one connection are
answered one after another and are not pipelined. A request with the same bytes as the one before is the same request: the answer to
it is at hand, and only a request that differs is parsed.

    python -m bench.provider --port 9000
"""

from __future__ import annotations

import argparse
import re
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import httptools

from bench.loop import Loop, Wire, listen
from bench.machine import allow_many_files

ANSWER = "The gate is open and the water runs. "  # what a whole answer says, several times

_MODEL = re.compile(rb'"model"\s*:\s*"([^"]*)"')
_MODEL_IN_PATH = re.compile(rb"/models/([^:/]*):")
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
_SETTING = re.compile(rb"-([crfesxb])(\d+)")
_MARK = b"#%06d@%019d"

_OPENAI = b'{"id":"chatcmpl-bench0001","object":"chat.completion.chunk","created":1760000000,"model":"gpt-4o-2024-08-06",'
_OPENAI += b'"system_fingerprint":"fp_bench01","choices":['
_OPENAI_USAGE = b'{"prompt_tokens":120,"completion_tokens":20,"total_tokens":140,"prompt_tokens_details":{"cached_tokens":0}}'
_OPENAI_WHOLE = (
    b'{"id":"chatcmpl-bench0001","object":"chat.completion","created":1760000000,"model":"gpt-4o-2024-08-06","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%b","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":%b,'
    b'"system_fingerprint":"fp_bench01"}' % ((ANSWER * 4).encode(), _OPENAI_USAGE)
)
_ANTHROPIC_WHOLE = (
    b'{"id":"msg_bench0001","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[{"type":"text","text":"%b"}],'
    b'"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":120,"cache_creation_input_tokens":0,'
    b'"cache_read_input_tokens":0,"output_tokens":20}}' % (ANSWER * 4).encode()
)
_GEMINI = b'{"candidates":[{"content":{"parts":[{"text":"%b"}],"role":"model"}%b,"index":0}],"usageMetadata":{"promptTokenCount":120,'
_GEMINI += b'"candidatesTokenCount":20,"totalTokenCount":140},"modelVersion":"gemini-2.5-flash","responseId":"bench0001"}'
_STOP = b',"finishReason":"STOP"'


@dataclass(frozen=True)
class Dialect:
    """One provider's bytes: the whole answer, and a stream's opening, chunk and closing."""

    whole: bytes
    opening: bytes
    chunk: bytes  # with the mark that _MARK makes of its number and the clock
    padding: tuple[bytes, bytes]  # where a chunk can be made longer: these bytes, and what they become
    closing: bytes


def _sse(data: bytes, event: bytes = b"", end: bytes = b"\n\n") -> bytes:
    return (b"event: %b\n" % event if event else b"") + b"data: " + data + end


OPENAI = Dialect(
    _OPENAI_WHOLE,
    _sse(
        _OPENAI
        + b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}'
    ),
    _sse(
        _OPENAI + b'{"index":0,"delta":{"content":" ' + _MARK + b'"},"logprobs":null,"finish_reason":null}]}'
    ),
    (b'"content":" ', b'"content":" %b'),
    _sse(_OPENAI + b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}'),
)
OPENAI_LAST = _sse(b"[DONE]")
OPENAI_USAGE = _sse(_OPENAI + b'],"usage":' + _OPENAI_USAGE + b"}")
ANTHROPIC = Dialect(
    _ANTHROPIC_WHOLE,
    _sse(
        b'{"type":"message_start","message":{"id":"msg_bench0001","type":"message","role":"assistant","model":"claude-sonnet-4-5",'
        b'"content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":120,"cache_creation_input_tokens":0,'
        b'"cache_read_input_tokens":0,"output_tokens":1}}}',
        b"message_start",
    )
    + _sse(
        b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        b"content_block_start",
    ),
    _sse(
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" ' + _MARK + b'"}}',
        b"content_block_delta",
    ),
    (b'"text":" ', b'"text":" %b'),
    _sse(b'{"type":"content_block_stop","index":0}', b"content_block_stop")
    + _sse(
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":20}}',
        b"message_delta",
    )
    + _sse(b'{"type":"message_stop"}', b"message_stop"),
)
GEMINI = Dialect(
    _GEMINI % ((ANSWER * 4).encode(), _STOP),
    b"",
    _sse(_GEMINI % (b" " + _MARK, b""), end=b"\r\n\r\n"),
    (b'"text":" ', b'"text":" %b'),
    _sse(_GEMINI % (b"", _STOP), end=b"\r\n\r\n"),
)


@dataclass(frozen=True)
class Order:
    """How one request is answered."""

    whole: bytes = b""  # the answer, head and all; empty for a stream
    opening: bytes = b""
    chunk: bytes = b""
    closing: bytes = b""
    chunks: int = 0
    delay: float = 0.0
    gap: float = 0.0
    silent_after: int = -1
    cut_after: int = -1


def read_order(path: bytes, body: bytes) -> Order:
    """What a request asks for, by its path and its model's name."""
    path = path.partition(b"?")[0]
    if path.endswith(b"/chat/completions"):
        dialect, streams = OPENAI, bool(_STREAM.search(body))
    elif path.endswith(b"/messages"):
        dialect, streams = ANTHROPIC, bool(_STREAM.search(body))
    elif path.endswith((b":generateContent", b":streamGenerateContent")):
        dialect, streams = GEMINI, path.endswith(b":streamGenerateContent")
    else:
        return Order(_whole(404, _ERROR))
    model = _MODEL_IN_PATH.search(path) if dialect is GEMINI else _MODEL.search(body)
    settings = {key: int(value) for key, value in _SETTING.findall(model[1])} if model else {}
    delay = settings.get(b"f", 0) / 1000
    if status := settings.get(b"e"):
        return Order(_whole(status, _ERROR), delay=delay)
    if not streams:
        return Order(_whole(200, dialect.whole), delay=delay)
    closing = dialect.closing
    if dialect is OPENAI:
        closing += (OPENAI_USAGE if _USAGE.search(body) else b"") + OPENAI_LAST
    rate = settings.get(b"r", 0)
    return Order(
        opening=_STREAM_HEAD + (_chunked(dialect.opening) if dialect.opening else b""),
        chunk=_chunk(dialect, settings.get(b"b", 0)),
        closing=_chunked(closing) + b"0\r\n\r\n",
        chunks=settings.get(b"c", 20),
        delay=delay,
        gap=1 / rate if rate else 0.0,
        silent_after=settings.get(b"s", -1),
        cut_after=settings.get(b"x", -1),
    )


_ERROR = b'{"type":"error","error":{"type":"bench_error","message":"as ordered","code":null}}'
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def _whole(status: int, body: bytes) -> bytes:
    head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
        status,
        len(body),
    )
    return head + body


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _chunk(dialect: Dialect, size: int) -> bytes:
    """The template of a chunk, in its framing: every one of a stream is equally long."""
    chunk = dialect.chunk
    short = max(0, size - len(chunk % (0, 0)))
    place, longer = dialect.padding
    chunk = chunk.replace(place, longer % (b"x" * short), 1)
    return b"%x\r\n%b\r\n" % (len(chunk % (0, 0)), chunk)


class Provider:
    """The loop, and the last request with its order."""

    def __init__(self, port: int = 0) -> None:
        self.loop = Loop()
        self.last_request = b""
        self.last_order = Order()
        self.connections: set[Connection] = set()
        self.server = listen(self.loop, port, lambda sock: Connection(self, sock))
        self.port: int = self.server.getsockname()[1]

    def close(self) -> None:
        """Leave everybody, and no longer listen."""
        for connection in self.connections:
            connection.close()
        self.server.close()
        self.loop.close()


class Connection(Wire):
    """One client's connection: a request, its answer, the next request."""

    def __init__(self, provider: Provider, sock: socket.socket) -> None:
        super().__init__(provider.loop, sock)
        self.provider = provider
        provider.connections.add(self)
        self.parser: Any = httptools.HttpRequestParser(self)
        self.partial = b""  # what has come of a request that is not complete

    def received(self, data: bytes) -> None:
        if data == self.provider.last_request and not self.partial:
            self.answer(self.provider.last_order)
            return
        self.partial += data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.write(_whole(400, _ERROR))
            self.close()

    def ended(self) -> None:
        """The client has left; a stream that is under way finds the connection closed."""
        self.provider.connections.discard(self)

    # What httptools calls.

    def on_message_begin(self) -> None:
        self.url = b""
        self.body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self.body)
        order = read_order(self.url, body)
        if self.partial.endswith(body) and self.partial.count(b"HTTP/1.1\r\n") == 1:
            self.provider.last_request, self.provider.last_order = self.partial, order
        self.partial = b""
        self.answer(order)

    def answer(self, order: Order) -> None:
        """Carry the order out."""
        if not order.whole:
            Stream(self, order)
        elif order.delay:
            self.loop.at(time.monotonic() + order.delay, partial(self.write, order.whole))
        else:
            self.write(order.whole)


class Stream:
    """One answer that is given in chunks."""

    __slots__ = ("connection", "number", "order", "pending", "start")

    def __init__(self, connection: Connection, order: Order) -> None:
        self.connection = connection
        self.order = order
        self.number = 0
        self.pending = order.opening
        self.start = time.monotonic() + order.delay
        if order.delay:
            connection.loop.at(self.start, self.next)
        else:
            self.next()

    def next(self) -> None:
        """Write the chunk that is due and arrange for the next one; without a rate, write them all."""
        connection, order = self.connection, self.order
        while not connection.closed:
            number = self.number
            if number == order.silent_after:
                return
            if number == order.cut_after:
                connection.close(abort=True)
                return
            if number == order.chunks:
                connection.write(self.pending + order.closing)
                return
            connection.write(self.pending + order.chunk % (number, time.monotonic_ns()))
            self.pending = b""
            self.number = number + 1
            if order.gap:
                connection.loop.at(self.start + self.number * order.gap, self.next)
                return


def main() -> None:
    """Serve on loopback until a signal."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, required=True)
    allow_many_files()
    Provider(arguments.parse_args().port).loop.run()


if __name__ == "__main__":
    main()
