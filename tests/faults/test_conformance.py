"""The server's two doors, the quick one and aiohttp's, on the wire: each case goes through both.

What is legal is answered by both in the same way. What is not is refused by both, if not with the same words: never two
answers to one request, and never the second half of a request taken for another one. And every request that was
identified leaves exactly one row, whatever became of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import AsyncIterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from gateway import app
from tests.faults.conformance_wire import (
    BODY,
    CHAT,
    GOODBYE,
    LENGTH,
    MESSAGES,
    POST,
    asked,
    bare_socket,
    beat,
    bodiless,
    books,
    chunked,
    converse,
    echo,
    has_story,
    hot,
    is_last,
    one_row_each,
    push,
    question,
    said,
    serving,
    split,
    text_of,
    to_the_end,
)
from tests.harness import (
    Asked,
    FakeProvider,
    Gateway,
    Received,
    chat_answer,
    chat_events,
    chunk,
    config_for,
    events,
    gateway,
    hang,
    message_answer,
    message_events,
    receive,
    whole,
)

DOORS = ("on", "off")
CHUNKED = "transfer-encoding: chunked"
GZIP = gzip.compress(BODY)


@pytest.fixture(params=DOORS)
def environ(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment that opens one of the doors."""
    return {"PENSTOCK_FAST_PATH": request.param}


@pytest.fixture
async def gw(provider: FakeProvider, tmp_path: Path, environ: dict[str, str]) -> AsyncIterator[Gateway]:
    provider.will(echo)
    async with gateway(config_for(provider), tmp_path, environ) as gw:
        yield gw


@pytest.fixture
async def small(provider: FakeProvider, tmp_path: Path, environ: dict[str, str]) -> AsyncIterator[Gateway]:
    """A gateway that takes a megabyte at most, from one caller."""
    provider.will(echo)
    settings = {"max_request_size_mb": 1, "master_key": "sk-right"}
    async with gateway(config_for(provider, general_settings=settings), tmp_path, environ) as gw:
        yield gw


@pytest.fixture
async def both(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[list[Gateway]]:
    """Two gateways in front of one provider, one behind each door."""
    provider.will(echo)
    folders = [tmp_path / door for door in DOORS]
    for folder in folders:
        folder.mkdir()
    config = config_for(provider, router_settings={"num_retries": 0, "disable_cooldowns": True})
    async with (
        gateway(config, folders[0], {"PENSTOCK_FAST_PATH": "on"}) as on,
        gateway(config, folders[1], {"PENSTOCK_FAST_PATH": "off"}) as off,
    ):
        yield [on, off]


# -- what is legal ---------------------------------------------------------------------------------------------------

LEGAL: dict[str, tuple[int, bytes]] = {
    "plain": (200, asked()),
    "keep-alive": (200, asked("connection: keep-alive")),
    "close": (200, asked("Connection: close")),
    "close in capitals": (200, asked("connection: Close")),
    "close in a list": (200, asked("connection: keep-alive, close")),
    "other words in connection": (200, asked("connection: x-foo")),
    "empty connection": (200, asked("connection:")),
    "capitals": (200, said("CONTENT-TYPE: application/json", LENGTH.upper())),
    "no space": (200, asked("x-foo:a")),
    "much space": (200, asked("x-foo: \t  a b \t ")),
    "empty value": (200, asked("x-foo:")),
    "colons": (200, asked("x-foo: a:b: c")),
    "odd token": (200, asked("!#$%&'*+-.^_`|~09aZ: a")),
    "latin-1": (200, asked("x-foo: \xe4\xff")),
    "utf-8": (200, asked("x-foo: ä€".encode())),
    "the same twice": (200, asked("x-foo: a", "x-foo: b")),
    "a hundred headers": (200, asked(*(f"x-{number}: a" for number in range(98)))),
    "a longer header": (200, asked("x-foo: " + "a" * 8000)),
    "many headers that are long": (200, asked(*(f"x-{number}: " + "a" * 2000 for number in range(9)))),
    "content type": (200, asked("content-type: text/plain; charset=x")),
    "underscores": (200, asked("content_length: 3", "transfer_encoding: chunked")),
    "absolute form": (200, asked(first="POST http://x/v1/chat/completions HTTP/1.1")),
    "query": (200, asked(first="POST /v1/chat/completions?a=b&c HTTP/1.1")),
    "empty query": (200, asked(first="POST /v1/chat/completions? HTTP/1.1")),
    "trailing slash": (404, asked(first="POST /v1/chat/completions/ HTTP/1.1")),
    "encoded letter": (200, asked(first="POST /v1/ch%61t/completions HTTP/1.1")),
    "encoded slash": (404, asked(first="POST /v1/chat%2Fcompletions HTTP/1.1")),
    "encoded dot": (400, asked(first="POST /v1/%2e/chat/completions HTTP/1.1")),
    "two slashes": (400, asked(first="POST //v1/chat/completions HTTP/1.1")),
    "capitals in the path": (404, asked(first="POST /V1/chat/completions HTTP/1.1")),
    "unknown path": (404, asked(first="POST /v1/chat/completionsx HTTP/1.1")),
    "a model in the path": (
        200,
        asked(first="POST /openai/deployments/gpt-4o/chat/completions?api-version=1 HTTP/1.1"),
    ),
    "no v1": (200, asked(first="POST /chat/completions HTTP/1.1")),
    "GET": (405, said(first="GET /v1/chat/completions HTTP/1.1", body=b"")),
    "GET with a body": (405, asked(first="GET /v1/chat/completions HTTP/1.1")),
    "PUT": (405, asked(first="PUT /v1/chat/completions HTTP/1.1")),
    "OPTIONS": (405, said(first="OPTIONS /v1/chat/completions HTTP/1.1", body=b"")),
    "HEAD": (405, said(first="HEAD /v1/chat/completions HTTP/1.1", body=b"")),
    "HEAD of a page": (200, said(first="HEAD / HTTP/1.1", body=b"")),
    "a page": (200, said(first="GET /v1/models HTTP/1.1", body=b"")),
    "empty line in front": (200, b"\r\n" + asked()),
    "empty lines in front": (200, b"\r\n\r\n\r\n" + asked()),
    "HTTP/1.0": (200, asked(first=POST.replace("1.1", "1.0"))),
    "HTTP/1.0 without host": (200, asked(first=POST.replace("1.1", "1.0"), host=False)),
    "HTTP/1.0 and keep-alive": (200, asked("connection: keep-alive", first=POST.replace("1.1", "1.0"))),
    "no length": (400, said(body=b"")),
    "length of nothing": (400, asked(body=b"")),
    "empty JSON": (400, asked(body=b"{}")),
    "no JSON": (400, asked(body=b"hello")),
    "no such model": (404, asked(body=question(model="nobody"))),
    "zeros before the length": (200, said(b"content-length: 000%d" % len(BODY))),
    "space around the length": (200, said(b"content-length:  %d \t" % len(BODY))),
    "tab before the length": (200, said(b"content-length:\t%d" % len(BODY))),
    "chunked": (200, said(CHUNKED, body=chunked())),
    "chunked in capitals": (200, said("Transfer-Encoding: Chunked", body=chunked())),
    "two chunks": (200, said(CHUNKED, body=b"9\r\n%b\r\n" % BODY[:9] + chunked(BODY[9:]))),
    "zeros before the chunk": (
        200,
        said(CHUNKED, body=b"000%X\r\n%b\r\n000\r\n\r\n" % (len(BODY), BODY)),
    ),
    "chunk extensions": (
        200,
        said(CHUNKED, body=b'%x;a=b;c="d"\r\n%b\r\n0;e\r\n\r\n' % (len(BODY), BODY)),
    ),
    "trailers": (
        200,
        said(CHUNKED, "trailer: x-t", body=b"%x\r\n%b\r\n0\r\nx-t: 1\r\n\r\n" % (len(BODY), BODY)),
    ),
    "no chunk but the last": (400, said(CHUNKED, body=b"0\r\n\r\n")),
    "gzip": (200, asked("content-encoding: gzip", body=GZIP)),
    "gzip in chunks": (200, said(CHUNKED, "content-encoding: gzip", body=chunked(GZIP))),
    "identity": (200, asked("content-encoding: identity")),
    "te": (200, asked("te: trailers")),
    "an expectation that nobody knows": (200, asked("expect: 200-ok")),
    "a promise": (200, asked("expect: 100-continue")),
    "an upgrade that nobody offers": (200, asked("upgrade: websocket")),
}


async def test_legal(both: list[Gateway]) -> None:
    """What is legal gets the same status, the same headers, the same body and the same end through both doors."""
    wrong: dict[str, object] = {}
    stories = 0
    for name, (status, data) in LEGAL.items():
        method = data.lstrip().partition(b" ")[0].decode()
        on, off = [await converse(gw, [data], method=method) for gw in both]
        one, other = on.answers[0], off.answers[0]
        if on.shape != off.shape or (one.body != other.body and b"chatcmpl" not in one.body):
            wrong[name] = (on, off)
        if one.status != status or (status == 200 and method == "POST" and text_of(one) != "Hi"):
            wrong[name] = on
        stories += has_story(one)
    assert wrong == {}
    for gw in both:
        await one_row_each(gw, stories)


async def test_legal_twice(gw: Gateway) -> None:
    """The same request a second time on the same connection, behind the answer to the first, gets the same answer."""
    wrong: dict[str, object] = {}
    stories = 0
    for name, (status, data) in LEGAL.items():
        read = bodiless if b"HEAD" in data[:4] else receive
        answers: list[Received] = []
        async with gw.connect() as (reader, writer):
            while len(answers) < 2 and not (answers and is_last(answers[-1])):
                writer.write(data)
                answers.append(await read(reader))
            if not is_last(answers[-1]):
                writer.write(GOODBYE)
                assert (await receive(reader)).status == 200
            assert await to_the_end(reader) == b""
        stories += sum(has_story(answer) for answer in answers)
        if {answer.status for answer in answers} != {status}:
            wrong[name] = answers
    assert wrong == {}
    await one_row_each(gw, stories)


@pytest.mark.parametrize("model", ["gpt-4o", "claude"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_formats(both: list[Gateway], provider: FakeProvider, path: str, model: str) -> None:
    """All pairs of formats look the same through both doors, whole and in streams, in answers and in errors."""
    for play in (
        whole(chat_answer("Hi") if model == "gpt-4o" else message_answer("Hi")),
        whole({"error": {"message": "no", "type": "x"}}, 400),
        whole({"error": {"message": "no", "type": "x"}}, 429, {"retry-after": "9"}),
        whole(b"no JSON"),
    ):
        provider.will(play)
        data = asked(first=f"POST {path} HTTP/1.1", body=question(model=model))
        told = [await converse(gw, [data]) for gw in both]
        assert told[0].shape == told[1].shape
        assert told[0].is_open
    for done in (True, False):
        told_by = chat_events if model == "gpt-4o" else message_events
        provider.will(events(told_by("a", "b", done=done), end="clean" if done else "close"))
        data = asked(first=f"POST {path} HTTP/1.1", body=question(model=model, stream=True))
        if done:
            told = [await converse(gw, [data]) for gw in both]
            assert told[0].shape == told[1].shape
            assert (told[0].answers[0].status, told[0].answers[0].complete) == (200, True)
        else:
            broken = [await gw.wire(path, question(model=model, stream=True)) for gw in both]
            assert {answer.complete for answer in broken} == {False}
            assert list(broken[0].headers) == list(broken[1].headers)
            assert all(b'"error"' in answer.body for answer in broken)
    for gw in both:
        await one_row_each(gw, 6)


async def test_with_origin(provider: FakeProvider, tmp_path: Path) -> None:
    """A page of an allowed origin gets the same headers through both doors, and another one the same silence."""
    provider.will(echo)
    shapes = []
    for door in DOORS:
        (tmp_path / door).mkdir()
        config = config_for(provider, general_settings={"allowed_origins": ["https://ui.example"]})
        async with gateway(config, tmp_path / door, {"PENSTOCK_FAST_PATH": door}) as gw:
            told = [
                await converse(gw, [asked(f"origin: {origin}")])
                for origin in ("https://ui.example", "https://evil.example")
            ]
            shapes.append(
                [(each.shape, each.answers[0].headers.get("access-control-allow-origin")) for each in told]
            )
    assert shapes[0] == shapes[1]
    assert [origin for _, origin in shapes[0]] == ["https://ui.example", None]


# -- several requests on one connection ------------------------------------------------------------------------------

OTHERS: dict[str, tuple[int, bytes]] = {
    "hot": (200, asked()),
    "hot with an error": (400, asked(body=b"{}")),
    "chunked": (200, said(CHUNKED, body=chunked())),
    "liveness": (200, said(first="GET /health/liveness HTTP/1.1", body=b"")),
    "models": (200, said(first="GET /v1/models HTTP/1.1", body=b"")),
    "unknown": (404, asked(first="POST /nobody HTTP/1.1")),
    "GET": (405, said(first="GET /v1/chat/completions HTTP/1.1", body=b"")),
    "HEAD": (200, said(first="HEAD / HTTP/1.1", body=b"")),
    "OPTIONS": (405, said(first="OPTIONS /v1/chat/completions HTTP/1.1", body=b"")),
}


def _orders() -> list[tuple[str, ...]]:
    pairs = list(permutations(OTHERS, 2))
    return [tuple(name for pair in pairs for name in pair), tuple(OTHERS) * 3]


@pytest.mark.parametrize("order", _orders(), ids=["pairs", "rounds"])
async def test_alternating(gw: Gateway, order: tuple[str, ...]) -> None:
    """One connection serves model routes and all else in any order, each after the answer to the one before."""
    stories = 0
    async with gw.connect() as (reader, writer):
        for name in order:
            status, data = OTHERS[name]
            writer.write(data)
            answer = await (bodiless if name == "HEAD" else receive)(reader)
            assert (name, answer.status) == (name, status)
            stories += has_story(answer)
        writer.write(GOODBYE)
        assert (await receive(reader)).status == 200
        assert await to_the_end(reader) == b""
    await one_row_each(gw, stories)


async def test_heads_that_change(gw: Gateway) -> None:
    """A request that looks nearly like the one before on its connection is read as what it is."""
    async with gw.connect() as (reader, writer):
        for number in range(30):
            text = "x" * number**2
            lines = ["x-foo: a"] if number % 3 else []
            identifier = f"call-{number}" if number % 4 else "same"
            writer.write(asked(f"x-litellm-call-id: {identifier}", *lines, body=question(text)))
            answer = await receive(reader)
            assert (answer.status, text_of(answer)) == (200, text)
            assert answer.headers["x-litellm-call-id"] == identifier
    rows = await one_row_each(gw, 30)
    assert len({row.id for row in rows}) == 30
    assert [row.call_id for row in rows][:3] == ["same", "call-1", "call-2"]


async def test_keys_that_change(small: Gateway, provider: FakeProvider) -> None:
    """A connection that was trusted once is asked again: another key, or none, is refused behind a right one."""
    keys = ["sk-right", "sk-wrong", "sk-right", "sk-righx", "", "sk-right"]
    async with small.connect() as (reader, writer):
        for key in keys:
            writer.write(asked(*([f"authorization: Bearer {key}"] if key else [])))
            assert (await receive(reader)).status == (200 if key == "sk-right" else 401)
    assert len(provider.requests) == 3
    await one_row_each(small, 3)


# -- pieces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 64])
async def test_every_cut(gw: Gateway, step: int) -> None:
    """A request that comes in two pieces is one request, wherever it is cut."""
    data = asked("content-type: application/json", "authorization: Bearer sk-x")
    cuts = range(1, len(data), step)
    async with gw.connect() as (reader, writer), beat(gw) as turn:
        for at in cuts:
            writer.write(data[:at])
            await turn()
            writer.write(data[at:])
            answer = await receive(reader)
            assert (at, answer.status, text_of(answer)) == (at, 200, "Hi")
    await one_row_each(gw, len(cuts))


async def test_every_cut_on_a_new_connection(gw: Gateway) -> None:
    """The same where nothing was sent before."""
    data = asked()
    cuts = range(1, len(data), 3)
    for at in cuts:
        told = await converse(gw, [data[:at], data[at:]])
        assert (at, text_of(told.answers[0]), told.is_open) == (at, "Hi", True)
    await one_row_each(gw, len(cuts))


@pytest.mark.parametrize(
    "data",
    [
        asked(),
        said(CHUNKED, body=chunked()),
        said(first="GET /v1/models HTTP/1.1", body=b""),
        asked(first="POST /v1/chat/completionsx HTTP/1.1"),
        asked(first="POST /v1/chat/completions?a HTTP/1.1"),
        b"\r\n" + asked(),
    ],
    ids=["hot", "chunked", "page", "unknown", "query", "empty line"],
)
async def test_byte_by_byte(both: list[Gateway], data: bytes) -> None:
    """A request of single bytes is answered as if it had come whole."""
    whole = await converse(both[1], [data])
    for gw in both:
        told = await converse(gw, [data[at : at + 1] for at in range(len(data))])
        assert told.shape == whole.shape


async def test_cut_between_two(gw: Gateway) -> None:
    """Two requests that are cut anywhere, the second one included, stay two."""
    data = hot("a") + hot("b")
    cuts = range(1, len(data), 5)
    for at in cuts:
        told = await converse(gw, [data[:at], data[at:]], count=2)
        assert (at, [text_of(answer) for answer in told.answers]) == (at, ["a", "b"])
    await one_row_each(gw, 2 * len(cuts))


async def test_cold_and_hot_cut(gw: Gateway) -> None:
    """As above, with one that is chunked in front of a plain one, and behind it."""
    chunks = said(CHUNKED, body=chunked(question("a")))
    for data, texts in ((chunks + hot("b"), ["a", "b"]), (hot("b") + chunks, ["b", "a"])):
        for at in range(1, len(data), 11):
            told = await converse(gw, [data[:at], data[at:]], count=2)
            assert (at, [text_of(answer) for answer in told.answers]) == (at, texts)


@pytest.mark.parametrize("size", [1000, 65_536, 1_000_000])
@pytest.mark.parametrize("piece", [16_384, 1_000_000])
async def test_large_bodies(gw: Gateway, provider: FakeProvider, size: int, piece: int) -> None:
    """A body of a megabyte, head and body in writes of their own, arrives as it is."""
    text = "".join(f"{number:08d}" for number in range(size // 8))
    body = question(text)
    head = asked(body=body)[: -len(body)]
    pieces = [head, *(body[at : at + piece] for at in range(0, len(body), piece))]
    told = await converse(gw, pieces)
    assert text_of(told.answers[0]) == text
    assert told.is_open
    assert provider.requests[0].json["messages"][0]["content"] == text
    await one_row_each(gw, 1)
    assert gw.rt.body_bytes == 0


# -- bodies that do not come, or are too long ------------------------------------------------------------------------

RIGHT = "authorization: Bearer sk-right"


@pytest.mark.parametrize("sent", [0, 1, 100_000, 1_999_999, 2_000_000])
async def test_too_large(small: Gateway, provider: FakeProvider, sent: int) -> None:
    """A body over the limit is refused at once; its rest is taken, so that the client can read why, and then it is over."""
    body = b"[" * 2_000_000
    async with small.connect() as (reader, writer):
        writer.write(asked(RIGHT, body=body)[: -len(body)] + body[:sent])
        answer = await receive(reader)
        assert answer.status == 413
        assert answer.headers["connection"] == "close"
        writer.write(body[sent:] + hot("smuggled", RIGHT))
        assert await to_the_end(reader) == b""
    assert provider.requests == []
    (row,) = await one_row_each(small, 1)
    assert (row.http_status, row.reason) == (413, "request_too_large")
    assert small.rt.body_bytes == 0
    assert (await small.wire(CHAT, BODY, {"authorization": "Bearer sk-right"})).status == 200


async def test_just_not_too_large(small: Gateway) -> None:
    """A body of exactly the limit is read, one byte more is not."""
    limit = small.rt.body_limit
    for more, status in ((0, 200), (1, 413)):
        body = BODY[:-1] + b" " * (limit + more - len(BODY)) + b"}"
        assert (await converse(small, [asked(RIGHT, body=body)])).answers[0].status == status
    await one_row_each(small, 2)


@pytest.mark.parametrize("missing", [1, len(BODY)])
async def test_a_body_that_is_late(gw: Gateway, provider: FakeProvider, missing: int) -> None:
    """A body that does not come is 408 and the end; what comes then is no request."""
    gw.rt.limits.body_grace, gw.rt.limits.body_rate = 0.05, 1_000_000_000
    async with gw.connect() as (reader, writer):
        writer.write(asked()[:-missing])
        answer = await receive(reader)
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        writer.write(BODY[-missing:] + hot("smuggled"))
        assert await to_the_end(reader) == b""
    (row,) = await one_row_each(gw, 1)
    assert (row.http_status, row.reason) == (408, "request_timeout")
    assert (provider.requests, gw.rt.body_bytes) == ([], 0)


@pytest.mark.parametrize("sent", ["head", "half"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_wrong_key_before_the_body(small: Gateway, sent: str, framing: str) -> None:
    """Who is not let in is told so before a body has come, and leaves no row."""
    body = question("x" * 1000)
    data = asked(body=body) if framing == "length" else said(CHUNKED, body=chunked(body))
    missing = len(body) if sent == "head" else 500
    async with small.connect() as (reader, writer):
        writer.write(data[: -missing - (7 if framing == "chunked" else 0)])
        assert (await receive(reader)).status == 401
    await one_row_each(small, 0)


async def test_a_wrong_key_and_then_the_body(small: Gateway, provider: FakeProvider) -> None:
    """The rest of a body that nobody wanted is not read as a request."""
    smuggled = hot("smuggled", RIGHT)
    data = asked(body=smuggled)
    async with small.connect() as (reader, writer):
        writer.write(data[: -len(smuggled)])
        assert (await receive(reader)).status == 401
        writer.write(smuggled)
        async with beat(small) as turn:
            await turn(20)
        writer.write(GOODBYE)
        assert split(await to_the_end(reader)) in ([], [200])
    assert provider.requests == []
    await one_row_each(small, 0)


# -- pipelines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5, 50])
async def test_a_pipeline(gw: Gateway, count: int) -> None:
    """Requests in one write are answered in their order, each once."""
    texts = [f"text-{number}" for number in range(count)]
    told = await converse(gw, [b"".join(hot(text) for text in texts)], count=count)
    assert [text_of(answer) for answer in told.answers] == texts
    assert [answer.headers["x-litellm-call-id"] for answer in told.answers] == texts
    rows = await one_row_each(gw, count)
    assert sorted(row.call_id for row in rows) == sorted(texts)


@pytest.mark.parametrize("count", [2, 5, 50])
@pytest.mark.parametrize("first", ["hot", "cold"])
async def test_a_mixed_pipeline(gw: Gateway, count: int, first: str) -> None:
    """Model routes and other pages in one write keep their order too."""
    page = said(first="GET /v1/models HTTP/1.1", body=b"")
    missing = asked(first="POST /nobody HTTP/1.1")
    data, expected = b"", []
    for number in range(count):
        kind = (number + (first == "cold")) % 4
        one, told = [
            (hot(f"t{number}"), f"t{number}"),
            (page, "page"),
            (hot(f"t{number}"), f"t{number}"),
            (missing, "404"),
        ][kind]
        data += one
        expected.append(told)
    heard = await converse(gw, [data], count=count)
    seen = [
        "404" if answer.status == 404 else (text_of(answer) if "choices" in answer.json else "page")
        for answer in heard.answers
    ]
    assert seen == expected
    await one_row_each(gw, sum(each.startswith("t") for each in expected))


async def test_behind_a_stream(gw: Gateway, provider: FakeProvider) -> None:
    """A request behind one whose stream runs waits for its end, and another behind it as well."""
    first, *rest = chat_events("a")
    provider.will(events([first, None, *rest]), echo)
    async with gw.connect() as (reader, writer), beat(gw) as turn:
        writer.write(hot("stream", stream=True) + hot("b"))
        await reader.readuntil(b"\n\n")
        writer.write(hot("c"))
        await turn(20)
        assert len(provider.requests) == 1
        provider.gate.set()
        assert b"[DONE]" in await reader.readuntil(b"0\r\n\r\n")
        assert [text_of(await receive(reader)) for _ in range(2)] == ["b", "c"]
    await one_row_each(gw, 3)


@pytest.mark.parametrize("behind", ["requests", "a body"])
async def test_what_is_sent_ahead_is_bounded(gw: Gateway, provider: FakeProvider, behind: str) -> None:
    """While a stream runs, a client cannot fill the gateway with what it sends behind its request."""
    provider.will(events(chat_events("a", done=False), end="hang"))
    gw.rt.limits.keep_alive = (
        0.05  # where reading has stopped, only a write finds out that the client has left
    )
    async with bare_socket(gw) as sock:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, hot("stream", stream=True))
        assert await loop.sock_recv(sock, 1)
        body = b"x" * 1_000_000
        if behind == "a body":
            await loop.sock_sendall(sock, said(b"content-length: 30000000", body=b""))
        sent = await push(gw, sock, hot("more") if behind == "requests" else body, 30_000_000)
        assert sent < 20_000_000
    await one_row_each(gw, 1)


async def test_what_was_sent_ahead_goes_on(gw: Gateway, provider: FakeProvider) -> None:
    """A megabyte of requests behind a stream is answered to the last one when the stream has ended."""
    first, *rest = chat_events("a")
    provider.will(events([first, None, *rest]), echo)
    text = "x" * 20_000
    async with gw.connect() as (reader, writer), beat(gw) as turn:
        writer.write(hot("stream", stream=True))
        writer.write(b"".join(asked(body=question(f"{number}{text}")) for number in range(40)))
        await reader.readuntil(b"\n\n")
        await turn(5)
        provider.gate.set()
        assert b"[DONE]" in await reader.readuntil(b"0\r\n\r\n")
        for number in range(40):
            assert text_of(await receive(reader)) == f"{number}{text}"
    await one_row_each(gw, 41)


@pytest.mark.parametrize("apart", [False, True])
async def test_nothing_behind_close(gw: Gateway, provider: FakeProvider, apart: bool) -> None:
    """A request behind one that closes the connection is not answered."""
    provider.will(echo)
    async with gw.connect() as (reader, writer), beat(gw) as turn:
        writer.write(hot("last", "connection: close"))
        if apart:
            await turn()
        writer.write(hot("smuggled"))
        seen = await to_the_end(reader)
    assert b"smuggled" not in seen
    assert len(split(seen)) == 1
    assert [each.json["messages"][0]["content"] for each in provider.requests] in ([], ["last"])
    await one_row_each(gw, len(provider.requests))


async def test_garbage_behind_a_request(gw: Gateway, provider: FakeProvider) -> None:
    """What is no HTTP behind a request that was answered is refused, and closes the connection."""
    async with gw.connect() as (reader, writer):
        writer.write(hot("a"))
        assert text_of(await receive(reader)) == "a"
        writer.write(b"\x16\x03\x01 garbage\r\n\r\n" + hot("smuggled"))
        assert split(await to_the_end(reader)) == [400]
    assert len(provider.requests) == 1
    await one_row_each(gw, 1)


# -- 100-continue ----------------------------------------------------------------------------------------------------


async def test_a_body_that_waits(small: Gateway) -> None:
    """With the right key `100 Continue` invites the body, and the answer follows."""
    async with small.connect() as (reader, writer):
        for _ in range(2):
            writer.write(asked(RIGHT, "expect: 100-continue")[: -len(BODY)])
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(BODY)
            assert text_of(await receive(reader)) == "Hi"
    await one_row_each(small, 2)


async def test_a_body_that_is_not_wanted(small: Gateway) -> None:
    """With a wrong key, or over the limit, nothing invites the body."""
    for lines, length, status in (
        (["authorization: Bearer sk-wrong"], 100, 401),
        ([RIGHT], 2_000_000, 413),
    ):
        async with small.connect() as (reader, writer):
            writer.write(said(f"content-length: {length}", "expect: 100-continue", *lines, body=b""))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 %d " % status)
    await one_row_each(small, 1)


# -- attacks ---------------------------------------------------------------------------------------------------------

SMUGGLED = hot("smuggled")

ILLEGAL: dict[str, bytes] = {
    "length and chunked": asked(CHUNKED, body=chunked()),
    "chunked and length": said(CHUNKED, LENGTH, body=chunked()),
    "short length and chunked": said(b"content-length: 6", CHUNKED, body=b"0\r\n\r\n"),
    "long length and chunked": said(b"content-length: 600", CHUNKED, body=b"0\r\n\r\n"),
    "two lengths": asked(LENGTH),
    "two different lengths": asked("content-length: 3"),
    "two lengths, the short one first": said(b"content-length: 0", LENGTH),
    "two lengths far apart": asked(*(f"x-{number}: a" for number in range(50)), "Content-Length: 0"),
    "two lengths in one": said(b"content-length: %d, %d" % (len(BODY), len(BODY))),
    "+": said(b"content-length: +%d" % len(BODY)),
    "-": said(b"content-length: -1"),
    "0x": said(b"content-length: 0x5"),
    "_": said(b"content-length: 6_0"),
    ".": said(b"content-length: 60.0"),
    "space within": said(b"content-length: 6 0"),
    "no digits": said(b"content-length:"),
    "a word": said(b"content-length: all"),
    "huge": said(b"content-length: " + b"9" * 30),
    "digits of another script": said("content-length: ٦٠".encode()),
    "space before the colon of the length": said(b"content-length : %d" % len(BODY)),
    "tab before the colon of the length": said(b"content-length\t: %d" % len(BODY)),
    "vertical tab before the length": said(b"content-length:\x0b%d" % len(BODY)),
    "folded length": said(b"content-length:\r\n %d" % len(BODY)),
    "length in a fold": asked("x-foo: a\r\n content-length: 3"),
    "chunked, identity": said("transfer-encoding: chunked, identity", body=chunked()),
    "xchunked": said("transfer-encoding: xchunked", body=chunked()),
    "xchunked and length": asked("transfer-encoding: xchunked"),
    "identity and length": asked("transfer-encoding: identity"),
    "no coding and length": asked("transfer-encoding:"),
    "chunked twice": said(CHUNKED, CHUNKED, body=chunked()),
    "chunked and then identity": said(CHUNKED, "transfer-encoding: identity", body=chunked()),
    "vertical tab before chunked": asked("transfer-encoding:\x0bchunked", body=chunked()),
    "tab before chunked": asked("transfer-encoding:\tchunked", body=chunked()),
    "NUL behind chunked": asked("transfer-encoding: chunked\0", body=chunked()),
    "quotes around chunked": asked('transfer-encoding: "chunked"', body=chunked()),
    "space before the colon of chunked": said("transfer-encoding : chunked", body=chunked()),
    "space before chunked": said(" transfer-encoding: chunked", body=chunked()),
    "folded chunked": said("transfer-encoding:\r\n chunked", body=chunked()),
    "chunked behind a bare LF": asked("x-foo: a\ntransfer-encoding: chunked"),
    "chunked behind a bare CR": asked("x-foo: a\rtransfer-encoding: chunked"),
    "LF in front of an empty line": asked().replace(b"\r\n\r\n", b"\n\r\n", 1),
    "LF LF": asked().replace(b"\r\n\r\n", b"\n\n", 1),
    "CR LF LF": asked().replace(b"\r\n\r\n", b"\r\n\n", 1),
    "bare LF": asked().replace(b"\r\n", b"\n"),
    "bare CR": asked().replace(b"\r\n", b"\r"),
    "LF behind the request line": asked().replace(b"\r\n", b"\n", 1),
    "obs-fold": asked("x-foo: a\r\n b"),
    "obs-fold at once": said(" x-foo: a", LENGTH, host=False),
    "NUL in a value": asked("x-foo: a\0b"),
    "NUL in a name": asked("x-f\0oo: a"),
    "control": asked("x-foo: a\x01b"),
    "DEL": asked("x-foo: a\x7fb"),
    "space before the colon": asked("x-foo : a"),
    "space in a name": asked("x foo: a"),
    "no colon": asked("x-foo"),
    "no name": asked(": a"),
    "a name that is no ASCII": asked("x-f\xe4: a"),
    "two hosts": asked("host: y"),
    "the same host twice": asked("host: x"),
    "no host": asked(host=False),
    "a header too long": asked("x-foo: " + "a" * 9000),
    "too many headers": asked(*(f"x-{number}: a" for number in range(200))),
    "a path too long": asked(first="POST /v1/chat/completions?" + "a" * 9000 + " HTTP/1.1"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": asked(first=POST.replace("1.1", "1.2")),
    "HTTP/1.11": asked(first=POST.replace("1.1", "1.11")),
    "another protocol": asked(first=POST.replace("HTTP", "HTTQ")),
    "method in small letters": asked(first=POST.lower()),
    "tab in the request line": asked(first=POST.replace(" ", "\t", 1)),
    "space before the request line": asked(first=" " + POST),
    "space behind the request line": asked(first=POST + " "),
    "control in the path": asked(first="POST /v1/chat/completions\x01 HTTP/1.1"),
    "NUL in the path": asked(first="POST /v1/chat/completions\0 HTTP/1.1"),
    "a path that is no ASCII": asked(first="POST /v1/chat/completions\xff HTTP/1.1"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "chunk size of no digits": said(CHUNKED, body=b"zz\r\n%b\r\n0\r\n\r\n" % BODY),
    "chunk size 0x": said(CHUNKED, body=b"0x" + chunked()),
    "chunk size +": said(CHUNKED, body=b"+" + chunked()),
    "chunk size -": said(CHUNKED, body=b"-" + chunked()),
    "huge chunk size": said(CHUNKED, body=b"f" * 20 + b"\r\n%b\r\n0\r\n\r\n" % BODY),
    "chunk size and space": said(CHUNKED, body=b"%x \r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk too short": said(CHUNKED, body=b"5\r\n%b\r\n0\r\n\r\n" % BODY),
    "LF behind chunks": said(CHUNKED, body=chunked().replace(b"\r\n", b"\n")),
    "LF in a chunk extension": said(CHUNKED, body=b"%x;\n\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunked in HTTP/1.0 and length": asked(CHUNKED, first=POST.replace("1.1", "1.0"), body=chunked()),
}


WAYS = {
    "in one write": lambda data: [data + SMUGGLED],
    "in two writes": lambda data: [data, SMUGGLED],
    "in pieces": lambda data: [
        (data + SMUGGLED)[at : at + 150] for at in range(0, len(data + SMUGGLED), 150)
    ],
    "behind a request": lambda data: [asked(), data + SMUGGLED],
    "in a pipeline": lambda data: [asked() + data + SMUGGLED],
}


async def _attack(gw: Gateway, provider: FakeProvider, pieces: list[bytes]) -> str:
    """Send it; what went wrong, if anything did."""
    before = len(provider.requests)
    async with gw.connect() as (reader, writer), beat(gw) as turn:
        for piece in pieces:
            if not writer.transport.is_closing():
                writer.write(piece)
                await turn(2)
        seen = await to_the_end(reader)
    await gw.quiet()
    statuses = split(seen)
    if statuses.count(200) > pieces[0].startswith(asked()):
        return f"answered: {statuses}"
    if any(not 400 <= status < 500 for status in statuses if status != 200):
        return f"not refused: {statuses}"
    if len([status for status in statuses if status != 200]) > 1:
        return f"refused twice: {statuses}"
    if len(provider.requests) - before != statuses.count(200):
        return f"{len(provider.requests) - before} requests behind {statuses}"
    if any(b"smuggled" in each.body for each in provider.requests):
        return "smuggled"
    return ""


@pytest.mark.parametrize("way", WAYS)
async def test_illegal(gw: Gateway, provider: FakeProvider, way: str) -> None:
    """What is no request, or could be two, is refused once and closes the connection; others are served on."""
    gw.rt.limits.body_grace, gw.rt.limits.body_rate = 0.2, 1_000_000_000
    wrong: dict[str, str] = {}
    for name, data in ILLEGAL.items():
        told = "hangs"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                told = await _attack(gw, provider, WAYS[way](data))
        if told:
            wrong[name] = told
        assert text_of(await gw.wire(CHAT, question("after"))) == "after"
    assert wrong == {}
    rows = await one_row_each(gw, len(await gw.rows(len(provider.requests))))
    assert sum(row.status == "success" for row in rows) == len(provider.requests)
    assert all(row.http_status in (200, 400, 408, 499) for row in rows)


@pytest.mark.parametrize(
    "coding", ["identity, chunked", "gzip, chunked", "\tchunked", "CHUNKED", "foo, chunked"]
)
async def test_chunks_by_another_name(both: list[Gateway], coding: str) -> None:
    """What aiohttp takes for chunked is taken for chunked by both doors, and what is behind the chunks is the next request."""
    data = said(f"transfer-encoding:{coding}", body=chunked()) + hot("next")
    told = [await converse(gw, [data], count=2) for gw in both]
    assert told[0].shape == told[1].shape
    assert [text_of(each.answers[1]) for each in told] == ["next", "next"]
    assert told[0].answers[0].status == (200 if coding.strip().lower() == "chunked" else 400)


@pytest.mark.parametrize("coding", ["snappy", "gzip, br", "compress"])
async def test_a_body_in_a_coding_that_is_not_known(gw: Gateway, provider: FakeProvider, coding: str) -> None:
    """It is refused as that, and is not read as if it were none."""
    answer = (await converse(gw, [asked(f"content-encoding: {coding}")])).answers[0]
    assert answer.status == 400
    assert "content-encoding" in json.loads(answer.body)["error"]["message"]
    assert provider.requests == []


async def test_a_refusal_of_what_is_no_request(gw: Gateway) -> None:
    """Whoever sent it finds an error in the dialect that it reads, without what it sent, and it is counted."""
    secret = "sk-secret-" + "a" * 9000
    sent = {
        "a line of its head has more than 8190 bytes": asked(f"authorization: Bearer {secret}"),
        "Invalid header value char": asked("authorization: Bearer sk-secret\x01"),
        "Missing 'Host' header in request.": asked("authorization: Bearer sk-secret", host=False),
        "what it asks for is neither a path nor a URL": asked(first="POST http://x:y/?pass=secret HTTP/1.1"),
    }
    for reason, data in sent.items():
        async with gw.connect() as (reader, writer):
            writer.write(data)
            head, _, body = (await to_the_end(reader)).partition(b"\r\n\r\n")
        assert b" 400 " in head.splitlines()[0]
        assert b"server: penstock" in head.lower()
        told = json.loads(body)
        assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
        assert told["error"]["message"] == f"This is no HTTP request that can be read: {reason}"
        assert b"secret" not in head + body
    counted = await (await gw.get("/metrics")).text()
    assert 'penstock_unidentified_refusals_total{reason="malformed_http"} 4' in counted


@pytest.mark.parametrize(("path", "type_"), [("/nowhere", None), ("/v1/messages/nowhere", "error")])
async def test_a_bug_outside_of_every_handler(
    gw: Gateway, monkeypatch: pytest.MonkeyPatch, path: str, type_: str | None
) -> None:
    """It is told in the path's dialect as well, without what it was."""

    def broken(*_: object) -> None:
        raise ValueError("s3cret")

    monkeypatch.setattr(app, "refusal", broken)
    async with gw.connect() as (reader, writer):
        writer.write(said(first=f"GET {path} HTTP/1.1", body=b""))
        head, _, body = (await to_the_end(reader)).partition(b"\r\n\r\n")
    assert b" 500 " in head.splitlines()[0]
    told = json.loads(body)
    assert told.get("type") == type_
    assert "Internal error" in told["error"]["message"]
    assert b"s3cret" not in body


async def test_a_request_in_a_body(gw: Gateway, provider: FakeProvider) -> None:
    """A body that is a request stays a body, however it is cut."""
    data = asked(body=SMUGGLED)
    for at in range(1, len(data), 9):
        told = await converse(gw, [data[:at], data[at:]])
        assert told.answers[0].status == 400
    assert provider.requests == []


@pytest.mark.parametrize(
    "lines", [["authorization: Bearer a", "authorization: Bearer b"], ["x-api-key: a", "x-api-key: b"]]
)
async def test_two_keys(both: list[Gateway], lines: list[str]) -> None:
    """A key that stands there twice is refused by both doors."""
    told = [await converse(gw, [asked(*lines)]) for gw in both]
    assert told[0].answers[0].status == 400
    assert told[0].shape == told[1].shape


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections may be idle for a fraction of a second."""
    monkeypatch.setattr(app, "KEEP_ALIVE", 0.3)


@pytest.mark.parametrize("last", ["nothing", "hot", "cold", "chunked", "stream", "half a head"])
async def test_an_idle_connection_is_closed(
    provider: FakeProvider, tmp_path: Path, environ: dict[str, str], impatient: None, last: str
) -> None:
    """Whatever its last request was, a connection that says nothing is closed after the keep-alive time."""
    provider.will(events(chat_events("a")) if last == "stream" else echo)
    data = {
        "nothing": b"",
        "hot": asked(),
        "cold": said(first="GET /v1/models HTTP/1.1", body=b""),
        "chunked": said(CHUNKED, body=chunked()),
        "stream": asked(body=question(stream=True)),
        "half a head": asked()[:30],
    }[last]
    async with serving(config_for(provider), tmp_path, environ) as gw, gw.connect() as (reader, writer):
        writer.write(data)
        if last not in ("nothing", "half a head"):
            assert (await receive(reader)).status == 200
        assert await to_the_end(reader) == b""
        await one_row_each(gw, int(last in ("hot", "chunked", "stream")))


@pytest.mark.parametrize("kind", ["hot", "stream", "body"])
async def test_a_long_request_is_not_idle(
    provider: FakeProvider, tmp_path: Path, environ: dict[str, str], impatient: None, kind: str
) -> None:
    """A request, a stream or a body that takes longer than the keep-alive time is not cut off, nor is what comes then."""
    first, *rest = chat_events("a")

    async def slow(provider: FakeProvider, asked: Asked) -> None:
        await provider.gate.wait()
        await echo(provider, asked)

    provider.will({"hot": slow, "stream": events([first, None, *rest]), "body": echo}[kind], echo)
    data = asked(body=question(stream=kind == "stream"))
    async with serving(config_for(provider), tmp_path, environ) as gw, gw.connect() as (reader, writer):
        writer.write(data[:-1] if kind == "body" else data)
        while not gw.rt.open:
            await asyncio.sleep(0.001)
        for _ in range(2):  # as long as two other connections need to be closed
            async with gw.connect() as (clock, _):
                assert await to_the_end(clock) == b""
        provider.gate.set()
        writer.write(data[-1:] if kind == "body" else b"")
        answer = await receive(reader)
        assert (answer.status, answer.complete) == (200, True)
        writer.write(hot("next"))
        assert text_of(await receive(reader)) == "next"
        assert await to_the_end(reader) == b""
        await one_row_each(gw, 2)


@pytest.mark.parametrize("kind", ["hot", "cold"])
async def test_each_request_starts_the_time_anew(
    provider: FakeProvider, tmp_path: Path, environ: dict[str, str], impatient: None, kind: str
) -> None:
    """A connection with a request now and then stays, while one as old without any is closed."""
    provider.will(echo)
    data = asked() if kind == "hot" else said(first="GET /health/liveness HTTP/1.1", body=b"")
    async with (
        serving(config_for(provider), tmp_path, environ) as gw,
        gw.connect() as (reader, writer),
        gw.connect() as (clock, _),
    ):
        count = 0
        idle = asyncio.get_running_loop().create_task(to_the_end(clock))
        while not idle.done():
            writer.write(data)
            assert (await receive(reader)).status == 200
            count += 1
            await asyncio.wait((idle,), timeout=0.01)
        writer.write(data)
        assert (await receive(reader)).status == 200
        assert await to_the_end(reader) == b""
        await one_row_each(gw, count + 1 if kind == "hot" else 0)


# -- shutting down ---------------------------------------------------------------------------------------------------


def _slow(first: list[bytes | None]) -> Any:
    async def play(provider: FakeProvider, asked: Asked) -> None:
        if asked.json.get("stream"):
            await events(first)(provider, asked)
        else:
            await provider.gate.wait()
            await echo(provider, asked)

    return play


async def test_a_drain(provider: FakeProvider, tmp_path: Path, environ: dict[str, str]) -> None:
    """SIGTERM: what runs is finished, what is idle is closed, what comes in the meantime is the last on its connection."""
    first, *rest = chat_events("a")
    provider.will(_slow([first, None, *rest]))
    config = config_for(provider)
    async with (
        serving(config, tmp_path, {**environ, "PENSTOCK_DRAIN_DELAY": "60"}) as gw,
        gw.connect() as (idle, idle_writer),
        gw.connect() as (late, late_writer),
        gw.connect() as (plain, plain_writer),
        gw.connect() as (stream, stream_writer),
    ):
        idle_writer.write(said(first="GET /health/liveness HTTP/1.1", body=b""))
        assert (await receive(idle)).status == 200
        plain_writer.write(hot("plain"))
        await provider.asked(1)
        stream_writer.write(hot("stream", stream=True))
        begun = await stream.readuntil(b"\n\n")
        assert begun.startswith(b"HTTP/1.1 200")
        gw.stop()
        await gw.draining()
        late_writer.write(hot("late"))
        await provider.asked(3)
        provider.gate.set()
        assert text_of(await receive(plain)) == "plain"
        assert (await stream.readuntil(b"0\r\n\r\n")).count(b"[DONE]") == 1
        answer = await receive(late)
        assert (text_of(answer), answer.headers["connection"]) == ("late", "close")
        assert await to_the_end(late) == b""
        gw.stop()
        await gw.serving
        for reader in (idle, plain, stream):
            assert await to_the_end(reader) == b""
    rows = await books(config, tmp_path)
    assert sorted((row.call_id, row.status) for row in rows) == [
        (name, "success") for name in ("late", "plain", "stream")
    ]


async def test_the_end_of_patience(provider: FakeProvider, tmp_path: Path, environ: dict[str, str]) -> None:
    """A second signal: a stream ends with an error event, an answer that has not begun is 503, a body is not awaited."""
    provider.will(_slow([chat_events("a")[0], None]))
    config = config_for(provider)
    async with (
        serving(config, tmp_path, environ) as gw,
        gw.connect() as (plain, plain_writer),
        gw.connect() as (body, body_writer),
        gw.connect() as (stream, stream_writer),
    ):
        plain_writer.write(hot("plain"))
        await provider.asked(1)
        body_writer.write(hot("body")[:-1])
        stream_writer.write(hot("stream", stream=True))
        begun = await stream.readuntil(b"\n\n")
        assert begun.startswith(b"HTTP/1.1 200")
        while len(gw.rt.open) < 3:
            await asyncio.sleep(0.001)
        gw.stop()
        await gw.draining()
        gw.stop()
        for reader in (plain, body):
            answer = await receive(reader)
            assert (answer.status, answer.headers["connection"]) == (503, "close")
        rest = await to_the_end(stream)
        assert b'"error"' in rest
        assert not rest.endswith(b"0\r\n\r\n")
        await gw.serving
        assert await to_the_end(plain) == b""
    rows = await books(config, tmp_path)
    assert sorted((row.call_id, row.status, row.reason) for row in rows) == [
        (name, "failure", "shutting_down") for name in ("body", "plain", "stream")
    ]


# -- clients that leave, or do not read ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("when", ["head", "body", "answer", "stream"])
async def test_a_client_that_leaves(gw: Gateway, provider: FakeProvider, when: str, how: str) -> None:
    """Whenever and however a client leaves, its provider is let go and one row says so; half a head leaves none."""
    provider.will(events(chat_events("a", done=False), end="hang") if when == "stream" else hang)
    data = hot("gone", stream=when == "stream")
    async with gw.connect() as (reader, writer):
        writer.write({"head": data[:40], "body": data[:-1]}.get(when, data))
        if when == "stream":
            await reader.readuntil(b"\n\n")
        elif when == "answer":
            await provider.asked()
        elif when == "body":
            while not gw.rt.open:
                await asyncio.sleep(0.001)
        else:
            async with beat(gw) as turn:
                await turn()
        if how == "half-close":
            writer.write_eof()
            assert b"[DONE]" not in await to_the_end(reader)
        elif how == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            writer.transport.abort()
    for connection in provider.connections:
        await connection.closed.wait()
    rows = await one_row_each(gw, 0 if when == "head" else 1)
    assert [row.status for row in rows] == ["client_disconnected"][: len(rows)]
    assert gw.rt.body_bytes == 0
    assert all(gw.rt.health.of(row.deployment_id).in_flight == 0 for row in rows if row.deployment_id)
    assert text_of(await _good(gw, provider)) == "after"


async def _good(gw: Gateway, provider: FakeProvider) -> Any:
    provider.will(echo)
    return await gw.wire(CHAT, question("after"))


async def test_a_client_that_leaves_a_pipeline(gw: Gateway, provider: FakeProvider) -> None:
    """Of requests in a pipeline those that had not begun when the client left are never asked."""
    provider.will(hang)
    async with gw.connect() as (_, writer):
        writer.write(hot("a") + hot("b") + hot("c"))
        await provider.asked()
    (row,) = await one_row_each(gw, 1)
    assert (row.call_id, row.status, len(provider.requests)) == ("a", "client_disconnected", 1)


async def test_a_client_that_reads_late(gw: Gateway, provider: FakeProvider) -> None:
    """While a client does not read its stream the provider is paused; when it does, it gets all of it, and the next answer."""
    word, count, sent = "x" * 50_000, 600, 0
    events_of = chat_events(*[word] * count)

    async def flood(_: FakeProvider, asked: Asked) -> None:
        nonlocal sent
        writer = asked.connection.writer
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for event in events_of:
            writer.write(chunk(event))
            await writer.drain()
            sent += len(event)
        writer.write(b"0\r\n\r\n")

    provider.will(flood, echo)
    async with gw.connect() as (reader, writer), beat(gw) as turn:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
        writer.write(hot("stream", stream=True))
        await provider.asked()
        before = -1
        while sent != before:
            before = sent
            await turn(20)
        assert sent < 20_000_000
        writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        answer = await receive(reader)
        assert answer.complete
        assert answer.body.count(word.encode()) == count
        writer.write(hot("next"))
        assert text_of(await receive(reader)) == "next"
    rows = await one_row_each(gw, 2)
    assert {row.status for row in rows} == {"success"}


async def test_answers_that_are_read_late(gw: Gateway, provider: FakeProvider) -> None:
    """A client that sends requests and reads no answer is asked for a few of them, and gets all when it reads."""
    text = "x" * 1_000_000
    provider.will(whole(chat_answer(text)))
    async with gw.connect() as (reader, writer), beat(gw) as turn:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # as above
        writer.write(hot("many") * 30)
        before = -1
        while len(provider.requests) != before:
            before = len(provider.requests)
            await turn(20)
        assert len(provider.requests) < 30
        writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        for _ in range(30):
            assert text_of(await receive(reader)) == text
    await one_row_each(gw, 30)


async def test_many_connections(gw: Gateway) -> None:
    """A hundred connections with requests of all kinds at once: nobody hears another one's answer."""

    async def talk(number: int) -> None:
        async with gw.connect() as (reader, writer):
            for turn in range(5):
                text = f"{number}-{turn}"
                kind = (number + turn) % 3
                body = question(text)
                writer.write(
                    [hot(text), said(CHUNKED, body=chunked(body)), asked(first="POST /nobody HTTP/1.1")][kind]
                )
                answer = await receive(reader)
                assert (answer.status == 404) if kind == 2 else (text_of(answer) == text)

    await asyncio.gather(*(talk(number) for number in range(100)))
    await one_row_each(gw, sum((number + turn) % 3 != 2 for number in range(100) for turn in range(5)))


def test_bodies_are_json() -> None:
    """What the cases send as a question is one."""
    assert json.loads(BODY)["model"] == "gpt-4o"
