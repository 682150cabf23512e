"""What the conformance suite says and hears: requests byte for byte, conversations, and a gateway that runs for real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.app import open_runtime, serve
from gateway.config.environment import read_environment
from gateway.config.load import load
from gateway.runtime import Runtime
from gateway.state.records import LedgerQuery, LedgerRow
from tests.harness import Asked, FakeProvider, Gateway, Received, chat_answer, receive, whole
from tests.ports import free_port

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
POST = "POST /v1/chat/completions HTTP/1.1"
ALIVE = b"GET /health/liveness HTTP/1.1\r\nhost: x\r\n\r\n"
GOODBYE = b"GET /health/liveness HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def question(text: str = "Hi", model: str = "gpt-4o", **more: Any) -> bytes:
    """A body that `echo` answers with `text`."""
    return json.dumps(
        {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": text}], **more}
    ).encode()


BODY = question()
LENGTH = b"content-length: %d" % len(BODY)


def chunked(body: bytes = BODY) -> bytes:
    """A body in one chunk, with its end."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def said(*lines: str | bytes, first: str | bytes = POST, host: bool = True, body: bytes = BODY) -> bytes:
    """A request of exactly these header lines, behind a `host`."""
    told = [first, *(["host: x"] if host else []), *lines]
    return b"\r\n".join(_bytes(line) for line in told) + b"\r\n\r\n" + body


def asked(*lines: str | bytes, first: str | bytes = POST, host: bool = True, body: bytes = BODY) -> bytes:
    """The same with the length of its body."""
    return said(b"content-length: %d" % len(body), *lines, first=first, host=host, body=body)


def hot(text: str, *lines: str, **more: Any) -> bytes:
    """A request to a model route that is answered with `text`."""
    return asked(f"x-litellm-call-id: {text}", *lines, body=question(text, **more))


def _bytes(line: str | bytes) -> bytes:
    return line.encode("latin-1") if isinstance(line, str) else line


async def echo(provider: FakeProvider, asked: Asked) -> None:
    """Answers with the words of the question."""
    await whole(chat_answer(asked.json["messages"][0]["content"]))(provider, asked)


def text_of(answer: Received) -> str:
    """What `echo` said."""
    text: str = answer.json["choices"][0]["message"]["content"]
    return text


def has_story(answer: Received) -> bool:
    """Is it the answer of a model route, which leaves a row? Pages and refused paths have an id, but nothing of a model."""
    return "x-litellm-attempted-retries" in answer.headers


def is_last(answer: Received) -> bool:
    """Does it say that no other request will be answered on its connection?"""
    return "close" in answer.headers.get("connection", "").lower()


async def bodiless(reader: asyncio.StreamReader) -> Received:
    """Read an answer to `HEAD`."""
    head = await reader.readuntil(b"\r\n\r\n")
    empty = asyncio.StreamReader()
    empty.feed_data(re.sub(rb"(?i)content-length", b"x-length", head))
    empty.feed_eof()
    return await receive(empty)


async def to_the_end(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection is closed, however that happens."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(100_000):
            found += data
    return found


def split(data: bytes) -> list[int]:
    """The statuses of the answers in these bytes; no body here looks like a status line."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", data)]


@dataclass
class Told:
    """What a client saw: its answers, and whether the connection served on afterwards."""

    answers: list[Received]
    is_open: bool

    @property
    def shape(self) -> object:
        """All that two doors must have in common: no ids, no times."""
        return [
            (answer.status, list(answer.headers), answer.headers.get("content-type"), answer.complete)
            for answer in self.answers
        ], self.is_open


async def converse(gw: Gateway, pieces: Iterable[bytes], *, count: int = 1, method: str = "POST") -> Told:
    """Send pieces, each read by the gateway before the next comes, and hear `count` answers and nothing more."""
    async with gw.connect() as (reader, writer), beat(gw) as turn:
        first = True
        for piece in pieces:
            if not first:
                await turn()
            first = False
            writer.write(piece)
        answers = [await (bodiless if method == "HEAD" else receive)(reader) for _ in range(count)]
        if is_last(answers[-1]):
            assert await to_the_end(reader) == b""
            return Told(answers, is_open=False)
        writer.write(GOODBYE)
        assert (await receive(reader)).status == 200
        assert await to_the_end(reader) == b""
        return Told(answers, is_open=True)


class _Beat:
    """A round trip on another connection: what was sent before it has been read when it is over."""

    def __init__(self, gw: Gateway) -> None:
        self._gw = gw
        self._pair: Pair | None = None
        self._stack = contextlib.AsyncExitStack()

    async def __call__(self, times: int = 1) -> None:
        if self._pair is None:
            self._pair = await self._stack.enter_async_context(self._gw.connect())
        reader, writer = self._pair
        for _ in range(times):
            writer.write(ALIVE)
            assert (await receive(reader)).status == 200

    async def close(self) -> None:
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def beat(gw: Gateway) -> AsyncIterator[_Beat]:
    """Instead of sleeping: `await turn()` until the gateway has read what was sent."""
    turn = _Beat(gw)
    try:
        yield turn
    finally:
        await turn.close()


async def one_row_each(gw: Gateway, count: int) -> list[LedgerRow]:
    """Exactly `count` rows, when nothing is under way any more."""
    await gw.quiet()
    rows = await gw.rows(count)
    assert len(rows) == count
    return rows


async def push(gw: Gateway, sock: socket.socket, data: bytes, most: int) -> int:
    """Send `data` over and over until the gateway takes no more of it, or it has taken `most` bytes."""
    sent, rest, idle = 0, b"", 0
    async with beat(gw) as turn:
        while sent < most and idle < 30:
            rest = rest or data
            try:
                taken = sock.send(rest)
            except BlockingIOError:
                idle += 1
                await turn()
                continue
            idle = 0
            sent, rest = sent + taken, rest[taken:]
    return sent


@contextlib.asynccontextmanager
async def bare_socket(gw: Gateway) -> AsyncIterator[socket.socket]:
    """A non-blocking socket, connected to the gateway."""
    host, _, port = gw.url.removeprefix("http://").partition(":")
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        yield sock


# -- a gateway that runs until a signal ------------------------------------------------------------------------------


class Running(Gateway):
    """A gateway under `serve`, which SIGTERM ends."""

    serving: asyncio.Task[None]

    def stop(self) -> None:
        """SIGTERM. The second one in a row ends all patience."""
        os.kill(os.getpid(), signal.SIGTERM)

    async def draining(self) -> None:
        """Until the signal has been noticed."""
        while not self.rt.draining:
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def serving(config: str, folder: Path, environ: Mapping[str, str]) -> AsyncIterator[Running]:
    """As the command line serves: with its keep-alive time, its signals and its drain."""
    known = {"PENSTOCK_DATA_DIR": str(folder / "data"), **environ}
    rt = await _runtime(config, folder, known)
    port = free_port()
    ready = asyncio.Event()
    running = Running(rt, f"http://127.0.0.1:{port}", None)  # type: ignore[arg-type]  # nobody needs a session here
    running.serving = asyncio.get_running_loop().create_task(
        serve(rt, host="127.0.0.1", port=port, ready=ready)
    )
    await ready.wait()
    try:
        yield running
    finally:
        if not rt.draining:
            running.stop()
        await running.serving


async def books(config: str, folder: Path) -> list[LedgerRow]:
    """The rows that a gateway which has ended has left."""
    rt = await _runtime(config, folder, {"PENSTOCK_DATA_DIR": str(folder / "data")})
    try:
        return await rt.records.rows(LedgerQuery())
    finally:
        await rt.records.close()


async def _runtime(config: str, folder: Path, known: Mapping[str, str]) -> Runtime:
    path = folder / "config.yaml"
    path.write_text(config)
    return await open_runtime(load(path, known).config, read_environment(known), known)
