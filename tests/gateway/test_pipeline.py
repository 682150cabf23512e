"""The story of a request, when it is told to its end and when it is not."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters.errors import UpstreamError, UpstreamTimeout
from gateway.app import _drain
from gateway.client import ClientWriter
from gateway.exchange import Answer, Exchange
from gateway.server import ClientConnection
from gateway.story import Signal, Story
from gateway.upstreams import UpstreamResponse
from tests.harness import (
    Asked,
    FakeProvider,
    Gateway,
    chat_answer,
    chat_events,
    config_for,
    config_of,
    entry,
    events,
    gateway,
    hang,
    message_answer,
    message_events,
    no_cycles,
    receive,
    whole,
    written,
)

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
HELLO: Any = [{"role": "user", "content": "Hello!"}]


def question(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": HELLO, "max_tokens": 9, **more}


async def test_a_bug(provider: FakeProvider, gw: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """What must not happen is a 500 with the request's id and no detail, a traceback in the log, and one row."""
    gw.rt.routes._exact["gpt-4o"] = None  # type: ignore[assignment]  # something that cannot be
    gw.rt.routes._found["gpt-4o"] = object()  # type: ignore[assignment]  # as above
    answer = await gw.post(CHAT, question())
    error = (await answer.json())["error"]
    (row,) = await gw.rows()
    assert answer.status == 500
    assert row.id in error["message"]
    assert "attribute" not in await answer.text()
    assert (row.status, row.reason) == ("failure", "internal")
    assert any(record.exc_info for record in caplog.records)


async def test_a_bug_in_a_stream(
    provider: FakeProvider, gw: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug after the first event ends the stream with an error event, and lets the provider go."""
    provider.will(events(chat_events("a", done=False), end="hang"))
    gw.rt.limits.between_events = "never"  # type: ignore[assignment]  # something that cannot be
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, question(stream=True)))
        told = await receive(reader)
    assert (told.status, told.complete) == (200, False)
    assert b"Internal error" in told.body
    assert any(record.exc_info for record in caplog.records)
    await provider.requests[0].connection.closed.wait()
    (row,) = await gw.rows()
    assert (row.status, row.reason, row.http_status) == ("failure", "internal", 200)
    assert gw.rt.health.of(row.deployment_id).in_flight == 0


STAGES = ["body", "silent", "silent stream", "commented stream", "stream"]


@pytest.mark.parametrize("stage", STAGES)
async def test_a_client_that_leaves(provider: FakeProvider, gw: Gateway, stage: str) -> None:
    """Whenever a client leaves, its provider is let go, one row says so, and no task or count is left behind."""
    before = asyncio.all_tasks()
    provider.will(events(chat_events("a", done=False), end="hang") if stage == "stream" else hang)
    if stage == "commented stream":
        gw.rt.limits.keep_alive = 0.01
    request = written(CHAT, question(stream="stream" in stage))
    async with gw.connect() as (reader, writer):
        writer.write(request[:-1] if stage == "body" else request)
        if stage == "body":
            while not gw.rt.open:
                await asyncio.sleep(0.001)
        else:
            await provider.asked()
        if stage in {"stream", "commented stream"}:
            await reader.readuntil(b"\n\n")
    for connection in provider.connections:
        await connection.closed.wait()
    await gw.quiet()
    (row,) = await gw.rows()
    assert row.status == "client_disconnected"
    assert gw.rt.health.of(row.deployment_id).in_flight == 0 if row.deployment_id else stage == "body"
    assert gw.rt.health.of(row.deployment_id).failures == 0
    while any(
        "_handle_request" in repr(task) or "client_connected" in repr(task)
        for task in asyncio.all_tasks() - before
    ):
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("headers", [{}, {"expect": "100-continue"}], ids=["quick", "aiohttp"])
@pytest.mark.parametrize("is_first", [True, False], ids=["it leaves first", "the deadline is first"])
async def test_a_client_that_leaves_as_a_deadline_strikes(
    provider: FakeProvider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    is_first: bool,
) -> None:
    """Of two things in one turn of the loop the client's leaving counts: nobody else is asked for it."""
    lost = ClientConnection.connection_lost
    late = UpstreamTimeout("too late", code="first_event_timeout")

    def lose(connection: ClientConnection, error: BaseException | None) -> None:
        stories = [x.story for x in gw.rt.open]
        if is_first:
            lost(connection, error)
        for story in stories:
            story.interrupt(late)
        if not is_first:
            lost(connection, error)

    provider.will(hang, whole(chat_answer()))
    config = config_for(provider, router_settings={"num_retries": 5, "cooldown_time": 0})
    async with gateway(config, tmp_path) as gw:
        async with gw.connect() as (_, writer):
            writer.write(written(CHAT, question(), headers))
            await provider.asked()
            monkeypatch.setattr(ClientConnection, "connection_lost", lose)
        (row,) = await gw.rows()
    assert (row.status, len(row.attempts), len(provider.requests)) == ("client_disconnected", 1, 1)


@pytest.mark.parametrize("headers", [{}, {"expect": "100-continue"}], ids=["quick", "aiohttp"])
async def test_events_for_a_client_that_has_just_gone(
    provider: FakeProvider, gw: Gateway, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """What its provider or the keep-alive worker still has for it, before its story's turn, is lost, and that is no error."""
    lost = ClientConnection.connection_lost
    full: list[bool] = []

    def write(x: Exchange) -> None:
        full.append(x.client.write(b": too late\n\n"))

    def lose(connection: ClientConnection, error: BaseException | None) -> None:
        for x in gw.rt.open:
            asyncio.get_running_loop().call_soon(write, x)  # runs before the story that is woken next
        lost(connection, error)

    provider.will(events(chat_events("a", done=False), end="hang"))
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, question(stream=True), headers))
        await reader.readuntil(b"\n\n")
        monkeypatch.setattr(ClientConnection, "connection_lost", lose)
    (row,) = await gw.rows()
    assert (row.status, full) == ("client_disconnected", [False])


async def test_a_client_that_leaves_between_two_attempts(provider: FakeProvider, tmp_path: Path) -> None:
    """A client that leaves while the gateway waits to ask again is not asked for any more."""
    config = config_for(provider, router_settings={"num_retries": 5, "cooldown_time": 0})
    provider.will(whole({"error": {"message": "no"}}, 500, {"retry-after": "9"}))
    async with gateway(config, tmp_path) as gw:
        async with gw.connect() as (_, writer):
            writer.write(written(CHAT, question()))
            await provider.asked()
            while not any(x.attempts and x.attempts[-1].error for x in gw.rt.open):
                await asyncio.sleep(0.001)
        await gw.quiet()
        (row,) = await gw.rows()
    assert (row.status, len(row.attempts), len(provider.requests)) == ("client_disconnected", 1, 1)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("stage", STAGES)
async def test_patience_ends(provider: FakeProvider, gw: Gateway, stage: str, path: str) -> None:
    """A request that outlives the drain ends with an error in its dialect, not as if its client had left."""
    provider.will(events(chat_events("a", done=False), end="hang") if stage == "stream" else hang)
    if stage == "commented stream":
        gw.rt.limits.keep_alive = 0.01
    request = written(path, question(stream="stream" in stage))
    async with gw.connect() as (reader, writer):
        writer.write(request[:-1] if stage == "body" else request)
        begun = b""
        if stage in {"stream", "commented stream"}:
            begun = await reader.readuntil(b"\n\n")
        while not gw.rt.open or (stage != "body" and not provider.requests):
            await asyncio.sleep(0.001)
        gw.rt.draining = True
        gw.rt.impatient.set()
        await _drain(gw.rt, [])
        if (
            stage == "body"
        ):  # the server still takes the rest of it for a while, so that the client reads the answer
            writer.write(request[-1:])
        rest = await reader.read()
    (row,) = await gw.rows()
    told = begun + rest
    assert told.startswith(b"HTTP/1.1 200" if begun else b"HTTP/1.1 503")
    assert b'"error"' in rest
    assert not rest.endswith(b"0\r\n\r\n")
    assert (row.status, row.reason) == ("failure", "shutting_down")
    assert (row.http_status, gw.rt.open) == (200 if begun else 503, set())
    if provider.requests:
        await provider.requests[0].connection.closed.wait()
    assert gw.rt.health.of(row.deployment_id).in_flight == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("door", ["on", "off"])
async def test_a_time_that_is_over_before_anybody_is_asked(
    provider: FakeProvider, tmp_path: Path, door: str, stream: bool
) -> None:
    """A deadline that strikes while the first connection is dialled is a 504 with its row, whichever way the request came."""
    provider.will(hang)
    async with gateway(config_for(provider), tmp_path, {"PENSTOCK_FAST_PATH": door}) as gw:
        answer = await gw.wire(CHAT, question(stream=stream), {"x-litellm-timeout": "0.000001"})
        (row,) = await gw.rows()
        assert (answer.status, answer.json["error"]["code"]) == (504, "first_event_timeout")
        assert (row.status, row.reason, row.http_status) == ("failure", "upstream_timeout", 504)
        assert gw.rt.health.of(row.deployment_id).in_flight == 0
        assert (gw.rt.open, len(gw.rt.deadlines)) == (set(), 0)


async def test_a_stream_may_finish(provider: FakeProvider, gw: Gateway) -> None:
    """While the gateway drains, streams that are open run to their end."""
    first, *rest = chat_events("a")
    provider.will(events([first, None, *rest]))
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, question(stream=True)))
        await reader.readuntil(b"\n\n")
        gw.rt.draining = True
        draining = asyncio.get_running_loop().create_task(_drain(gw.rt, []))
        provider.gate.set()
        assert (await reader.readuntil(b"0\r\n\r\n")).count(b"[DONE]") == 1
        await draining
    (row,) = await gw.rows()
    assert row.status == "success"


CANARIES = {"provider": "canary-provider-0123456789", "master": "canary-master-9876543210"}


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
@pytest.mark.parametrize("stream", [False, True])
async def test_secrets_stay_inside(
    provider: FakeProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, stream: bool
) -> None:
    """Neither the provider's key nor the master key is in an answer, a header, a log line, a metric or a row."""
    caplog.set_level(logging.DEBUG)
    config = config_for(provider, general_settings={"master_key": CANARIES["master"]})
    config = config.replace("sk-provider-key", CANARIES["provider"])
    echo = {
        "error": {
            "message": f"Incorrect key: {CANARIES['provider']}",
            "type": CANARIES["provider"],
            "details": [CANARIES["provider"]],
        }
    }
    if status == 200:
        provider.will(events(chat_events("a")) if stream else whole(chat_answer()))
    else:
        provider.will(whole(echo, status, {"x-request-id": "r"}))
    key = {"authorization": f"Bearer {CANARIES['master']}"}
    async with gateway(config, tmp_path) as gw:
        seen = []
        for path in (CHAT, MESSAGES):
            answer = await gw.post(path, question(stream=stream), headers=key)
            seen += [await answer.text(), str(answer.headers)]
        for path in (
            "/metrics",
            "/health",
            "/spend/logs",
            "/v1/models",
            "/openapi.json",
            "/public/providers",
        ):
            seen.append(await (await gw.get(path, headers=key)).text())
        seen += [repr(row) for row in await gw.rows(2)]
    seen += [str(vars(record)) for record in caplog.records]
    assert provider.requests[0].headers["authorization"] == f"Bearer {CANARIES['provider']}"
    for canary in CANARIES.values():
        assert not [text for text in seen if canary in text]


async def test_many_at_once(provider: FakeProvider, gw: Gateway) -> None:
    """Streams, answers, errors and clients that leave, all at once, leave every count at zero."""
    provider.will(
        whole(chat_answer()), whole({"error": {"message": "no"}}, 500), events(chat_events("a", "b"))
    )

    async def leave() -> None:
        async with gw.connect() as (reader, writer):
            writer.write(written(CHAT, question(stream=True)))
            await reader.read(1)

    async def stay() -> None:
        async with gw.connect() as (reader, writer):
            writer.write(written(CHAT, question(stream=True)))
            await receive(reader)

    await asyncio.gather(*(job() for _ in range(20) for job in (leave, stay)))
    await gw.quiet()
    rows = await gw.rows(40)
    assert len(rows) == 40
    assert gw.rt.metrics.in_flight == 0
    assert all(gw.rt.health.of(row.deployment_id).in_flight == 0 for row in rows)


OF_A_REQUEST = (Exchange, Answer, ClientWriter, Story, Signal)
REFUSED = whole({"error": {"message": "no"}}, 500)
CUT = chat_events("a", done=False)
ENDS: dict[str, tuple[Any, ...]] = {
    "an answer": (whole(chat_answer()),),
    "a stream": (events(chat_events("a")),),
    "a stream whose message stays open": (events(chat_events("a"), end="hang"),),
    "refused": (REFUSED,),
    "a stream refused": (REFUSED,),
    "a stream that breaks": (events(CUT, end="reset"),),
    "a stream that nobody goes on with": (events(CUT, end="reset"), REFUSED),
    "a stream that goes on": (events(CUT, end="reset"), events(chat_events("b"))),
    "a stream after a refusal": (REFUSED, events(chat_events("a"))),
    "a stream that stalls": (events(CUT, end="hang"),),
    "a stream that never begins": (hang,),
    "a stream that its client leaves": (events(CUT, end="hang"),),
    "an answer that its client does not wait for": (hang,),
    "no such model": (),
    "no JSON": (),
}
"""How a request may end, and what the provider does."""


@pytest.mark.parametrize("door", ["on", "off"])
@pytest.mark.parametrize("how", ENDS)
async def test_a_request_that_is_over_is_freed(
    provider: FakeProvider, tmp_path: Path, how: str, door: str
) -> None:
    """However it ended: what only the garbage collector finds is kept for hours, its body too."""
    provider.will(*ENDS[how])
    settings: dict[str, Any] = {"num_retries": 1 if "after" in how else 0, "cooldown_time": 0}
    if "go" in how:
        settings["stream_recovery"] = "continue"
    models = [entry("gpt-4o", "openai/gpt-4o", f"{provider.url}/v1")] * (2 if "go" in how else 1)
    asked = question(model="m" if "model" in how else "gpt-4o", stream="stream" in how)
    async with gateway(config_of(*models, **settings), tmp_path, {"PENSTOCK_FAST_PATH": door}) as gw:
        if how == "a stream that stalls":
            gw.rt.limits.between_events = 0.01
        if how == "a stream that never begins":
            gw.rt.limits.first_event = 0.01
        with no_cycles(*OF_A_REQUEST) as found:
            async with gw.connect() as (reader, writer):
                writer.write(written(CHAT, b"{" if "JSON" in how else asked))
                if "client" not in how:
                    await receive(reader)
                elif "stream" in how:
                    await reader.readuntil(b"\n\n")
                else:
                    await provider.asked()
            assert await _left(gw, found) == []


async def test_a_request_that_was_sent_twice_is_freed(provider: FakeProvider, gw: Gateway) -> None:
    """The failure of the kept connection is nobody's error in the end, and leaves nothing either."""

    async def reset(_: FakeProvider, asked: Asked) -> None:
        asked.connection.reset()

    provider.will(whole(chat_answer()), reset, whole(chat_answer()))
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, question()))
        await receive(reader)
        with no_cycles(*OF_A_REQUEST, UpstreamError, UpstreamResponse) as found:
            writer.write(written(CHAT, question()))
            assert (await receive(reader)).status == 200
            assert await _left(gw, found) == []
    assert len(provider.requests) == 3


async def test_a_stream_that_breaks_when_its_client_has_left_is_freed(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """Nobody hears of that failure."""
    provider.will(events([*CUT, None], end="reset"))
    model = entry("gpt-4o", "openai/gpt-4o", f"{provider.url}/v1", on_disconnect="drain")
    async with gateway(config_of(model), tmp_path) as gw:
        with no_cycles(*OF_A_REQUEST, UpstreamError, UpstreamResponse) as found:
            async with gw.connect() as (reader, writer):
                writer.write(written(CHAT, question(stream=True)))
                await reader.readuntil(b"\n\n")
            while not gw.rt.unheard:
                await asyncio.sleep(0)
            provider.gate.set()
            assert await _left(gw, found) == []


def _gemini(text: str, **more: Any) -> dict[str, Any]:
    said = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
    return {"candidates": [said], "usageMetadata": usage, "modelVersion": "m", "responseId": "r"}


OTHERS = {
    "openai/m": (chat_events("a"), chat_answer()),
    "anthropic/m": (message_events("a"), message_answer()),
    "gemini/m": (
        [
            b"data: %b\n\n" % json.dumps(said).encode()
            for said in (_gemini("a"), _gemini("b", finishReason="STOP"))
        ],
        _gemini("a", finishReason="STOP"),
    ),
}
"""What a provider of each format streams and answers."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("model", OTHERS)
async def test_a_request_of_any_format_is_freed(
    provider: FakeProvider, tmp_path: Path, model: str, path: str, stream: bool
) -> None:
    """Whoever asks whom."""
    streamed, answered = OTHERS[model]
    provider.will(events(streamed) if stream else whole(answered))
    base = f"{provider.url}/v1" if model == "openai/m" else provider.url
    async with gateway(config_of(entry("m", model, base)), tmp_path) as gw:
        with no_cycles(*OF_A_REQUEST) as found:
            async with gw.connect() as (reader, writer):
                writer.write(written(path, question(model="m", stream=stream)))
                received = await receive(reader)
            assert await _left(gw, found) == []
    assert (received.status, received.complete) == (200, True)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_waits_for_servers_is_freed(
    provider: FakeProvider, tmp_path: Path, redis_url: str, database_url: str, stream: bool
) -> None:
    """One that Redis admits and one that it refuses, with rows in Postgres."""
    provider.will(events(chat_events("a")) if stream else whole(chat_answer()))
    key = {"key": f"sk-{uuid4().hex}", "rpm_limit": 1, "max_parallel_requests": 9}
    config = config_for(provider, general_settings={"master_key": "sk-the-master-key"}, virtual_keys=[key])
    environ = {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
    async with gateway(config, tmp_path, environ) as gw:
        with no_cycles(*OF_A_REQUEST) as found:
            statuses = []
            for _ in range(2):
                async with gw.connect() as (reader, writer):
                    head = {"authorization": f"Bearer {key['key']}"}
                    writer.write(written(CHAT, question(stream=stream), headers=head))
                    statuses.append((await receive(reader)).status)
            assert await _left(gw, found) == []
    assert statuses == [200, 429]


async def _left(gw: Gateway, found: Callable[[], list[object]]) -> list[str]:
    """What is still there of requests that are over."""
    await gw.quiet()
    await gw.rt.finish_errands(1.0)
    for _ in range(9):
        await asyncio.sleep(0)
    return [type(each).__name__ for each in found()]
