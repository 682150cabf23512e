"""A simulated provider: OpenAI's chat completions and Anthropic's messages, as fast as Python can say them.

What it answers is written in the model's name, so that it survives every gateway in between: `bench` gives one whole answer (or,
if a stream is asked for, 20 chunks), and settings are appended to it, each a letter and a number, in any order:

    c200   200 chunks                     f50    the first one after 50 ms
    r100   100 chunks per second          e503   an error with status 503 instead of an answer
    r0     all at once (the default)      s10    silence after 10 chunks, until the client leaves
                                          x10    the connection is cut after 10 chunks

`bench-c200-r100` is a stream of two seconds. Each chunk carries its number and the monotonic clock's nanoseconds, `#17@123456789`,
as its text: whoever reads it on the same machine knows whether one is missing and how long each took.

Each chunk is one write, paced from the stream's start so that a late one does not delay the next. Requests on one connection are
answered one after another and are not pipelined.

    python -m bench.upstream --port 9000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import time
from typing import Any, cast

import httptools
import uvloop

ANSWER = "The gate is open and the water runs. "  # what a whole answer says, several times

_MODEL = re.compile(rb'"model"\s*:\s*"([^"]*)"')
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
_SETTING = re.compile(rb"-([crfesx])(\d+)")

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


class Dialect:
    """One provider's bytes: the whole answer, and a stream's opening, chunk and closing."""

    def __init__(self, whole: bytes, opening: bytes, chunk: bytes, closing: bytes) -> None:
        self.whole = whole
        self.opening = opening
        self.chunk = chunk  # with %d for its number and %d for the clock
        self.closing = closing


def _sse(data: bytes, event: bytes = b"") -> bytes:
    return (b"event: %b\n" % event if event else b"") + b"data: %b\n\n" % data


OPENAI = Dialect(
    _OPENAI_WHOLE,
    _sse(
        _OPENAI
        + b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}'
    ),
    _sse(_OPENAI + b'{"index":0,"delta":{"content":" #%d@%d"},"logprobs":null,"finish_reason":null}]}'),
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
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" #%d@%d"}}',
        b"content_block_delta",
    ),
    _sse(b'{"type":"content_block_stop","index":0}', b"content_block_stop")
    + _sse(
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":20}}',
        b"message_delta",
    )
    + _sse(b'{"type":"message_stop"}', b"message_stop"),
)


class Connection(asyncio.Protocol):
    """One client's connection: parse a request, answer it, wait for the next."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.parser: Any = httptools.HttpRequestParser(self)
        self.url = b""
        self.body: list[bytes] = []
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class, which inherits from none

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._error(400)
            self.transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()

    # What httptools calls.

    def on_message_begin(self) -> None:
        self.url = b""
        self.body = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self.body)
        path = self.url.partition(b"?")[0]
        if not path.endswith((b"/chat/completions", b"/messages")):
            self._error(404)
            return
        dialect = ANTHROPIC if path.endswith(b"/messages") else OPENAI
        model = _MODEL.search(body)
        settings = {key: int(value) for key, value in _SETTING.findall(model[1])} if model else {}
        if b"e" in settings:
            self._error(settings[b"e"])
        elif not _STREAM.search(body):
            self._write_whole(200, dialect.whole)
        else:
            closing = dialect.closing
            if dialect is OPENAI:
                closing += (OPENAI_USAGE if _USAGE.search(body) else b"") + OPENAI_LAST
            self._begin_stream(dialect, closing, settings)

    # Answers.

    def _error(self, status: int) -> None:
        self._write_whole(
            status, b'{"type":"error","error":{"type":"bench_error","message":"as ordered","code":null}}'
        )

    def _write_whole(self, status: int, body: bytes) -> None:
        self.transport.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )

    def _begin_stream(self, dialect: Dialect, closing: bytes, settings: dict[bytes, int]) -> None:
        self.dialect = dialect
        self.closing = closing
        self.number = 0
        self.chunks = settings.get(b"c", 20)
        self.silent_after = settings.get(b"s", -1)
        self.cut_after = settings.get(b"x", -1)
        rate = settings.get(b"r", 0)
        self.gap = 1 / rate if rate else 0.0
        self.start = self.loop.time() + settings.get(b"f", 0) / 1000
        self.pending = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
            + _chunked(dialect.opening)
        )
        self.timer = self.loop.call_at(self.start, self._next)

    def _next(self) -> None:
        """Write the chunk that is due and arrange for the next one; without a rate, write them all."""
        while not self.transport.is_closing():
            if self.number == self.silent_after:
                return
            if self.number == self.cut_after:
                self.transport.abort()
                return
            if self.number == self.chunks:
                self.timer = None
                self.transport.write(self.pending + _chunked(self.closing) + b"0\r\n\r\n")
                return
            chunk = _chunked(self.dialect.chunk % (self.number, time.monotonic_ns()))
            self.transport.write(self.pending + chunk)
            self.pending = b""
            self.number += 1
            if self.gap:
                self.timer = self.loop.call_at(self.start + self.number * self.gap, self._next)
                return


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(host: str, port: int) -> asyncio.Server:
    """Listen; port 0 takes a free one."""
    return await asyncio.get_running_loop().create_server(Connection, host, port, backlog=4096)


async def _main(port: int) -> None:
    server = await serve("127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, required=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_main(arguments.parse_args().port))
