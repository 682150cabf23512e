"""The two doors of the server: which bytes go through which, and how a connection changes between them.

What both doors answer is compared in `tests.faults.test_conformance`. Here aiohttp's door leads to an application that
says only that it was asked, so each answer tells which way its request went.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway import server
from gateway.config.model import Secret
from gateway.endpoints import ENDPOINTS
from gateway.keyring import Keyring
from gateway.runtime import Runtime
from gateway.server import _HEADERS, HEADER_LIMIT, HELD_LIMIT, ClientConnection, Runner, _still_to_come
from tests.harness import (
    FakeProvider,
    Received,
    chat_answer,
    chat_events,
    config_for,
    events,
    gateway,
    receive,
    whole,
)

POST = "POST /v1/chat/completions HTTP/1.1"
NOBODY = "POST /nobody HTTP/1.1"
KEY = "authorization: Bearer sk-right"


def question(text: str = "Hi", **more: Any) -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **more}).encode()


BODY = question()


def asked(*lines: str, first: str = POST, body: bytes = BODY) -> bytes:
    """A request with the right key, a length and these lines."""
    told = [first, "host: x", KEY, *lines, f"content-length: {len(body)}"]
    return "\r\n".join(told).encode("latin-1") + b"\r\n\r\n" + body


def bare(*lines: str, first: str = POST, body: bytes = b"") -> bytes:
    """A request of exactly these lines."""
    return "\r\n".join([first, *lines]).encode("latin-1") + b"\r\n\r\n" + body


PAGE = bare("host: x", first="GET /v1/models HTTP/1.1")
CHUNKED = bare("host: x", "transfer-encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n")


class Client:
    """One connection to the doors."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def hear(self) -> Received:
        return await receive(self.reader)

    async def door(self) -> str:
        """Through which door the next answer comes: `quick`, `aiohttp`, or its status where that is an error."""
        answer = await self.hear()
        if answer.status != 200:
            return str(answer.status)
        return "aiohttp" if answer.body.startswith(b"aiohttp") else "quick"

    async def closed(self) -> bool:
        """Wait until the other side has closed the connection; nothing more has come."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True


@dataclass
class Doors:
    """A server whose quick door leads to the gateway, and whose other door to an application of the test's own."""

    rt: Runtime
    runner: Runner
    through_aiohttp: list[tuple[str, bytes]]
    """Path and body of what aiohttp has read."""

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection(*self.runner.addresses[0][:2])
        try:
            yield Client(reader, writer)
        finally:
            writer.close()

    async def door(self, data: bytes) -> str:
        """The door that a request goes through on a connection of its own."""
        async with self.connect() as client:
            client.send(data)
            return await client.door()

    async def turn(self) -> None:
        """A round trip on another connection: what was sent before it has been read."""
        for _ in range(2):
            assert await self.door(PAGE) == "aiohttp"

    def reads(self) -> bool:
        """Does the server read from its (only) client?"""
        manager = self.runner.server
        assert manager is not None
        (connection,) = manager.connections
        transport: Any = connection.transport
        return bool(transport.is_reading())


@contextlib.asynccontextmanager
async def open_doors(
    provider: FakeProvider, folder: Path, environ: dict[str, str] | None = None
) -> AsyncIterator[Doors]:
    settings = {"master_key": "sk-right", "max_request_size_mb": 1}
    async with gateway(config_for(provider, general_settings=settings), folder, environ) as gw:
        seen: list[tuple[str, bytes]] = []

        async def note(request: web.Request) -> web.Response:
            seen.append((request.path, await request.read()))
            return web.Response(body=b"aiohttp %d" % len(seen))

        app = web.Application(client_max_size=10_000_000)
        app.router.add_route("*", "/{path:.*}", note)
        runner = Runner(app, gw.rt, ENDPOINTS, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield Doors(gw.rt, runner, seen)
        finally:
            await runner.cleanup()


@pytest.fixture
async def doors(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[Doors]:
    provider.will(whole(chat_answer()))
    async with open_doors(provider, tmp_path) as doors:
        yield doors


# -- which way -------------------------------------------------------------------------------------------------------

QUICK = {
    "plain": asked(),
    "every hot path": asked(first="POST /chat/completions HTTP/1.1"),
    "headers in any case": bare("HOST: x", KEY, f"CONTENT-LENGTH: {len(BODY)}", body=BODY),
    "space around values": bare("host:  x\t", KEY, f"content-length:\t {len(BODY)} ", body=BODY),
    "keep-alive": asked("connection: Keep-Alive"),
    "close": asked("connection: close"),
    "odd bytes in a value": asked("x-foo: \xe4\xff"),
    "the same header twice": asked("x-foo: a", "x-foo: b"),
    "as many headers as may be": asked(*(f"x-{number}: a" for number in range(HEADER_LIMIT - 3))),
    "something behind it": asked() + PAGE,
}

THROUGH_AIOHTTP = {
    "a page": PAGE,
    "another method": asked(first="PUT /v1/chat/completions HTTP/1.1"),
    "another path": asked(first="POST /v1/chat/completions/ HTTP/1.1"),
    "a query": asked(first="POST /v1/chat/completions?a=b HTTP/1.1"),
    "a model in the path": asked(first="POST /openai/deployments/gpt-4o/chat/completions HTTP/1.1"),
    "a whole URL": asked(first="POST http://x/v1/chat/completions HTTP/1.1"),
    "HTTP/1.0": asked(first="POST /v1/chat/completions HTTP/1.0"),
    "an empty line in front": b"\r\n" + asked(),
    "chunks": CHUNKED,
    "no length": bare("host: x", KEY),
    "an expectation": asked("expect: 100-continue"),
    "an upgrade": asked("upgrade: x"),
    "a packing": asked("content-encoding: identity"),
    "a trailer": asked("trailer: x"),
    "odd in any case": asked("TrAiLeR: x"),
    "other words in connection": asked("connection: x-foo"),
    "close among others": asked("connection: x-foo, close"),
    "more headers": asked(*(f"x-{number}: a" for number in range(HEADER_LIMIT - 2))),
    "a long head": asked(*(f"x-{number}: {'a' * 1000}" for number in range(9))),
}

REFUSED = {
    "two lengths": asked(f"Content-Length: {len(BODY)}"),
    "a length and chunks": asked("transfer-encoding: chunked"),
    "a signed length": bare("host: x", KEY, "content-length: +2", body=b"{}"),
    "a list of lengths": bare("host: x", KEY, "content-length: 2, 2", body=b"{}"),
    "no host": bare(KEY, f"content-length: {len(BODY)}", body=BODY),
    "two hosts": asked("host: y"),
    "a space before a colon": asked("x-foo : a"),
    "a folded line": asked("x-foo: a\r\n b"),
    "a bare line feed": asked("x-foo: a\nx-bar: b"),
    "a NUL": asked("x-foo: a\0"),
    "no colon": asked("x-foo"),
}


@pytest.mark.parametrize("name", QUICK)
async def test_what_is_plain_goes_the_quick_way(doors: Doors, name: str) -> None:
    """A plain `POST` of a model route is answered without aiohttp."""
    assert await doors.door(QUICK[name]) == "quick"


@pytest.mark.parametrize("name", THROUGH_AIOHTTP)
async def test_what_is_not_plain_goes_to_aiohttp(doors: Doors, name: str) -> None:
    """Anything that needs interpretation is read by aiohttp, legal as it may be."""
    assert await doors.door(THROUGH_AIOHTTP[name]) == "aiohttp"
    assert len(doors.through_aiohttp) == 1


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_odd_is_for_aiohttp_to_refuse(doors: Doors, name: str) -> None:
    """The quick reader never takes what could be read in two ways; the strict one says no."""
    assert await doors.door(REFUSED[name]) == "400"
    assert doors.through_aiohttp == []


def one_by_one(lines: str) -> list[tuple[str, str]] | None:
    """The headers of these lines, None if one is none."""
    found = []
    while lines:
        line = re.match(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00-\x08\x0a-\x1f\x7f]*)\r\n", lines)
        if line is None:
            return None
        found.append((line[1], line[2].strip(" \t")))
        lines = lines[line.end() :]
    return found


@given(st.lists(st.text("aZ-: \t\r\n\x00\x7f\x85\u2028\udce4", max_size=9), max_size=5))
def test_all_headers_at_once_are_those_of_each_line(pieces: list[str]) -> None:
    """What is read in one go is what would be read line by line; one line that is none, and nothing is."""
    lines = "".join(f"{piece}\r\n" for piece in pieces)
    pairs = _HEADERS.findall(lines)
    assert (pairs if len(pairs) == lines.count("\n") else None) == one_by_one(lines)


async def test_bytes_go_to_aiohttp_as_they_came(doors: Doors) -> None:
    """What looked like ours at first, and was held back, reaches aiohttp whole."""
    data = asked("content-encoding: identity", body=b'{"a": 1}')
    async with doors.connect() as client:
        for at in range(0, len(data), 10):
            client.send(data[at : at + 10])
            await doors.turn()
        assert await client.door() == "aiohttp"
    assert ("/v1/chat/completions", b'{"a": 1}') in doors.through_aiohttp


async def test_without_the_fast_path_aiohttp_reads_everything(provider: FakeProvider, tmp_path: Path) -> None:
    """`PENSTOCK_FAST_PATH=off` closes the quick door, on every request of a connection."""
    async with (
        open_doors(provider, tmp_path, {"PENSTOCK_FAST_PATH": "off"}) as doors,
        doors.connect() as client,
    ):
        for data in (asked(), PAGE, asked(), CHUNKED, asked()):
            client.send(data)
            assert await client.door() == "aiohttp"
    assert provider.requests == []


# -- the way back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cold",
    [PAGE, bare("host: x", KEY), asked(first=NOBODY, body=b""), asked(first=NOBODY)],
    ids=["page", "no length", "length of nothing", "body"],
)
async def test_a_connection_comes_back_from_aiohttp(doors: Doors, cold: bytes) -> None:
    """When aiohttp has answered a whole message, the next one may go the quick way again; any number of times."""
    async with doors.connect() as client:
        for data, door in ((asked(), "quick"), (cold, "aiohttp")) * 3:
            client.send(data)
            assert await client.door() == door


async def test_it_comes_back_when_the_rest_of_a_body_has_come(doors: Doors) -> None:
    """A message that reached aiohttp in pieces is over with its last one."""
    cold = asked(first=NOBODY, body=b"x" * 100)
    async with doors.connect() as client:
        for end in (-100, -50, -1):
            client.send(cold[:end])
            await doors.turn()
            client.send(cold[end:])
            assert await client.door() == "aiohttp"
            client.send(asked())
            assert await client.door() == "quick"
    assert doors.through_aiohttp.count(("/nobody", b"x" * 100)) == 3


@pytest.mark.parametrize(
    ("cold", "answers"),
    [(CHUNKED, 1), (PAGE + PAGE, 2), (PAGE + asked(), 2), (PAGE[:20], 1)],
    ids=["chunks", "two pages", "page and question", "half a head"],
)
async def test_it_stays_where_an_end_cannot_be_told(doors: Doors, cold: bytes, answers: int) -> None:
    """Behind chunks, a pipeline or a head in pieces aiohttp keeps the connection for good."""
    async with doors.connect() as client:
        client.send(cold)
        if cold == PAGE[:20]:
            await doors.turn()
            client.send(PAGE[20:])
        for _ in range(answers):
            assert await client.door() == "aiohttp"
        for _ in range(3):
            client.send(asked())
            assert await client.door() == "aiohttp"


async def test_what_comes_before_aiohttp_has_answered_is_aiohttps(doors: Doors) -> None:
    """A question behind a page goes the page's way, in its order, while that is under way."""
    async with doors.connect() as client:
        client.send(PAGE[:-2])
        await doors.turn()
        client.send(PAGE[-2:] + asked())
        assert [await client.door() for _ in range(2)] == ["aiohttp", "aiohttp"]


LENGTH = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", 0),
        (LENGTH, 10),
        (LENGTH + b"0123", 6),
        (LENGTH + b"0123456789", 0),
        (LENGTH + b"0123456789P", -1),
        (LENGTH + b"0123456789" + LENGTH, -1),
        (LENGTH.replace(b"content-length: 10", b"Content-Length:\t010 "), 10),
        (LENGTH.replace(b"10", b"0"), 0),
        (LENGTH.replace(b"10", b"+10"), -1),
        (LENGTH.replace(b"10", b"1_0"), -1),
        (LENGTH.replace(b"10", b"1" * 20), -1),
        (LENGTH.replace(b"length:", b"length :"), -1),
        (LENGTH.replace(b"host: x", b"content-length: 10"), -1),
        (LENGTH.replace(b"host: x", b"vary: content-length"), -1),
        (LENGTH.replace(b"host: x", b"Transfer-Encoding : chunked"), -1),
        (b"GET / HTTP/1.1\r\nUPGRADE: x\r\n\r\n", -1),
        (b"GET / HTTP/1.1\r\nhost: x\r\n", -1),
        (b"GET / HTTP/1.1\n\n", -1),
        (b"", -1),
    ],
)
def test_still_to_come(data: bytes, missing: int) -> None:
    """What a message lacks is told only where its end cannot be understood in another way and nothing is behind it."""
    assert _still_to_come(data) == missing


# -- the head of the request before ----------------------------------------------------------------------------------


async def test_a_known_head_serves_any_length(doors: Doors, provider: FakeProvider) -> None:
    """Requests that differ in their length alone are told apart by it, however many digits it has."""
    texts = ["", "x" * 10, "x" * 1000, "x" * 20_000, "y"]
    async with doors.connect() as client:
        for text in texts:
            client.send(asked(body=question(text)))
            assert await client.door() == "quick"
    assert [each.json["messages"][0]["content"] for each in provider.requests] == texts


@pytest.mark.parametrize("length", ["", "+2", "-2", "2 2", "2,2", "0x2", "\xb2", "2\t;", "9" * 30])
async def test_a_known_head_does_not_make_a_length(doors: Doors, length: str) -> None:
    """Behind a head that is known, what is no plain number is refused as on a new connection."""
    lines = ["host: x", KEY, "content-length: "]
    async with doors.connect() as client:
        client.send(bare(*lines[:2], f"content-length: {len(BODY)}", body=BODY))
        assert await client.door() == "quick"
        client.send(bare(*lines[:2], lines[2] + length, body=b"{}"))
        assert await client.door() == "400"


def _changed(data: bytes) -> list[bytes]:
    """Requests that differ from this one in one letter of the head; its framing stays."""
    end = data.index(b"content-length")
    letters = [at for at in range(end) if chr(data[at]).isalnum()]
    return [data[:at] + (b"z" if data[at : at + 1] != b"z" else b"y") + data[at + 1 :] for at in letters]


async def test_a_head_that_differs_in_a_letter_is_another_head(doors: Doors) -> None:
    """Whichever letter it is, behind an equal request the answer is that of a new connection: nothing is remembered."""
    known = asked("x-litellm-call-id: abc")

    def told(answer: Received) -> object:
        identifier = answer.headers.get("x-litellm-call-id")
        return answer.status, identifier if identifier and len(identifier) == 3 else "its own"

    wrong = []
    for data in _changed(known):
        async with doors.connect() as cold, doors.connect() as warm:
            warm.send(known)
            assert told(await warm.hear()) == (200, "abc")
            cold.send(data)
            warm.send(data)
            answers = told(await cold.hear()), told(await warm.hear())
            if answers[0] != answers[1]:
                wrong.append((data, answers))
    assert wrong == []


async def test_a_caller_is_remembered_with_its_head(doors: Doors) -> None:
    """An equal head has the caller that was found out; another one is asked, on this connection and on others."""
    async with doors.connect() as client:
        client.send(asked())
        assert await client.door() == "quick"
        version = doors.rt.keyring.version
        doors.rt.keyring = Keyring(Secret("sk-other"))
        doors.rt.keyring.version = version  # nobody was told of a change
        client.send(asked())
        assert await client.door() == "quick"
        client.send(asked("x-foo: a"))
        assert await client.door() == "401"
    assert await doors.door(asked()) == "401"


async def test_a_change_of_keys_is_noticed(doors: Doors) -> None:
    """With the next version of the keys every connection is asked again, and may be trusted again."""
    right = doors.rt.keyring
    other = Keyring(Secret("sk-other"))
    async with doors.connect() as client:
        for keyring, door in ((right, "quick"), (other, "401"), (right, "quick"), (right, "quick")):
            if keyring is not doors.rt.keyring:
                keyring.version = doors.rt.keyring.version + 1
                doors.rt.keyring = keyring
            client.send(asked())
            assert await client.door() == door


async def test_a_wrong_key_is_not_remembered_as_right(doors: Doors) -> None:
    """Who was refused is refused again, with the same head, and let in with the right one."""
    wrong = asked().replace(b"sk-right", b"sk-wrong")
    async with doors.connect() as client:
        for data, door in ((wrong, "401"), (wrong, "401"), (asked(), "quick"), (wrong, "401")):
            client.send(data)
            assert await client.door() == door


# -- what is sent ahead ----------------------------------------------------------------------------------------------


async def test_reading_pauses_and_goes_on(doors: Doors, provider: FakeProvider) -> None:
    """Over the bound nothing more is read from a client whose stream runs; at its end all that was sent is answered."""
    first, *rest = chat_events("a")
    provider.will(events([first, None, *rest]), whole(chat_answer()))
    ahead = asked(body=question("x" * 1000))
    count = 2 * HELD_LIMIT // len(ahead)
    async with doors.connect() as client:
        client.send(asked(body=question(stream=True)))
        await client.reader.readuntil(b"\n\n")
        client.send(ahead)
        assert doors.reads()
        client.send(ahead * count)
        while doors.reads():
            await asyncio.sleep(0)
        assert len(provider.requests) == 1
        provider.gate.set()
        await client.reader.readuntil(b"0\r\n\r\n")
        assert {await client.door() for _ in range(count + 1)} == {"quick"}
        assert doors.reads()


async def test_a_body_that_was_begun_ahead_is_read_to_its_end(doors: Doors, provider: FakeProvider) -> None:
    """A request ahead whose body alone is over the bound: its rest is read as soon as it is its turn."""
    first, *rest = chat_events("a")
    provider.will(events([first, None, *rest]), whole(chat_answer()))
    async with doors.connect() as client:
        client.send(asked(body=question(stream=True)))
        await client.reader.readuntil(b"\n\n")
        client.send(asked(body=question("x" * 900_000)))
        while doors.reads():
            await asyncio.sleep(0)
        provider.gate.set()
        await client.reader.readuntil(b"0\r\n\r\n")
        async with asyncio.timeout(20.0):  # the body's own time is longer, and its end another answer
            assert await client.door() == "quick"
        assert doors.reads()


async def test_what_was_sent_ahead_may_be_for_aiohttp(doors: Doors, provider: FakeProvider) -> None:
    """Behind a stream each message goes its own way, in the order in which they were sent."""
    first, *rest = chat_events("a")
    provider.will(events([first, None, *rest]), whole(chat_answer()))
    async with doors.connect() as client:
        client.send(asked(body=question(stream=True)))
        await client.reader.readuntil(b"\n\n")
        client.send(asked() + asked("x-foo: a") + PAGE)
        provider.gate.set()
        await client.reader.readuntil(b"0\r\n\r\n")
        assert [await client.door() for _ in range(3)] == ["quick", "quick", "aiohttp"]
        client.send(asked())
        assert await client.door() == "quick"


# -- a body that was refused -----------------------------------------------------------------------------------------


def refused(body: bytes) -> bytes:
    """The head of a request that nobody lets in."""
    return asked(body=body).replace(b"sk-right", b"sk-wrong")[: -len(body)]


async def test_the_rest_of_a_refused_body_is_skipped(doors: Doors, provider: FakeProvider) -> None:
    """When the rest of a body that was refused has come, the connection serves on, and nothing in it was a request."""
    body = asked() * 100
    async with doors.connect() as client:
        client.send(refused(body))
        assert await client.door() == "401"
        client.send(body + asked())
        assert await client.door() == "quick"
        client.send(PAGE)
        assert await client.door() == "aiohttp"
    assert len(provider.requests) == 1


async def test_the_rest_of_a_refused_body_has_its_time(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rest that does not come in `LINGER` seconds closes the connection, without another word."""
    monkeypatch.setattr(server, "LINGER", 0.01)
    body = b"x" * 1000
    async with doors.connect() as client:
        client.send(refused(body) + body[:500])
        assert await client.door() == "401"
        assert await client.closed()


async def test_a_refused_body_that_came_is_not_waited_for(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for one refused body does not end another one, nor a connection whose body has come."""
    monkeypatch.setattr(server, "LINGER", 0.01)
    body = b"x" * 1000
    async with doors.connect() as client, doors.connect() as clock:
        client.send(refused(body))
        assert await client.door() == "401"
        client.send(body)
        clock.send(refused(body))
        assert await clock.door() == "401"
        assert await clock.closed()
        client.send(asked())
        assert await client.door() == "quick"


async def test_a_body_over_the_limit_closes_the_connection(doors: Doors) -> None:
    """What is too large is refused at once; when the rest has come, the connection is closed, whatever is behind it."""
    body = b"x" * (doors.rt.body_limit + 1)
    async with doors.connect() as client:
        client.send(asked(body=body)[: -len(body)])
        answer = await client.hear()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        client.send(body + asked())
        assert await client.closed()


# -- a client that does not read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_nobody_keeps_a_connection_by_not_reading(
    provider: FakeProvider, tmp_path: Path, version: str
) -> None:
    """An answer has ended and its connection is to be closed: what its client does not take is thrown away in time."""
    provider.will(whole(chat_answer("x" * 60_000)))
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    async with gateway(config_for(provider), tmp_path) as gw:
        gw.rt.limits.client_write = 0.05
        host, port = gw.url.removeprefix("http://").split(":")
        sock.connect((host, int(port)))
        connection = await found(ClientConnection)
        transport: Any = connection.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        lines = [f"POST /v1/chat/completions HTTP/{version}", "host: x", "connection: close"]
        head = "\r\n".join([*lines, f"content-length: {len(BODY)}", "", ""])
        sock.sendall(head.encode() + BODY)
        while connection._manager is not None:  # until it is lost
            await asyncio.sleep(0.001)
    sock.close()


async def found(kind: type[ClientConnection]) -> ClientConnection:
    """The only connection that there is."""
    while True:
        for each in gc.get_objects():
            if isinstance(each, kind) and each.transport is not None:
                return each
        await asyncio.sleep(0)
