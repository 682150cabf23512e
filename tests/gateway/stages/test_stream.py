"""A stream on its way: whole, broken, silent, unread."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.client import ClientWriter
from gateway.stages.upstream import OutOfTime
from tests.harness import (
    Asked,
    FakeProvider,
    Gateway,
    Received,
    by_model,
    chat_answer,
    chat_events,
    chunk,
    config_of,
    entry,
    events,
    gateway,
    hang,
    message_answer,
    message_events,
    receive,
    whole,
    written,
)

HELLO: Any = [{"role": "user", "content": "Hello!"}]
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
PAIRS = [(path, model) for path in (CHAT, MESSAGES) for model in ("gpt-4o", "claude")]


def question(model: str = "gpt-4o", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO, "max_tokens": 100, "stream": True, **more}


def pieces(model: str, *words: str, done: bool = True) -> list[bytes]:
    return chat_events(*words, done=done) if model == "gpt-4o" else message_events(*words, done=done)


def data(received: Received) -> list[dict[str, Any]]:
    lines = [line[6:] for line in received.body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def is_ended(path: str, received: Received) -> bool:
    return b"data: [DONE]" in received.body if path == CHAT else b"event: message_stop" in received.body


def error_of(path: str, received: Received) -> dict[str, Any]:
    """The last event, which is an error in the path's dialect."""
    last = data(received)[-1]
    if path == MESSAGES:
        assert last["type"] == "error"
        assert b"event: error\n" in received.body
    error: dict[str, Any] = last["error"]
    return error


@pytest.mark.parametrize(("path", "model"), PAIRS)
async def test_a_whole_stream(provider: FakeProvider, gw: Gateway, path: str, model: str) -> None:
    """All four pairs of formats hand a stream over, end it as its format does, and leave one row."""
    provider.will(events(pieces(model, "Hel", "lo")))
    answer = await gw.wire(path, question(model))
    (row,) = await gw.rows()
    assert answer.complete
    assert is_ended(path, answer)
    assert b"Hel" in answer.body
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-litellm-model-group"] == model
    assert (row.status, row.http_status, row.input, row.output) == ("success", 200, 10, 2)
    assert (row.usage_source, row.finish, row.stream) == ("reported", "stop", True)
    names = {event.get("model") or event.get("message", {}).get("model") for event in data(answer)} - {None}
    assert names == {model}


def broken(model: str) -> dict[str, Any]:
    """Ways in which a stream breaks after two words."""
    begun = pieces(model, "Hel", "lo", done=False)
    error = (
        b'data: {"error": {"message": "it broke", "type": "server_error", "code": 500}}\n\n'
        if model == "gpt-4o"
        else b'event: error\ndata: {"type": "error", "error": {"type": "api_error", "message": "it broke"}}\n\n'
    )

    async def wrong_length(_: FakeProvider, asked: Asked) -> None:
        body = b"".join(begun)
        told = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % (
            len(body) + 9
        )
        asked.connection.writer.write(told + body)
        asked.connection.writer.close()

    async def bad_chunk(provider: FakeProvider, asked: Asked) -> None:
        await events(begun, end="open")(provider, asked)
        asked.connection.writer.write(b"zz\r\n")
        await asked.connection.closed.wait()

    return {
        "reset": events([*begun, None], end="reset"),
        "closed": events(begun, end="close"),
        "ended": events(begun),
        "error": events([*begun, error, b"data: [DONE]\n\n"]),
        "garbage": events([*begun, b"data: }{\n\n", b"data: [DONE]\n\n"]),
        "truncated": events([*begun, b'data: {"choices": [{"delta": {"con'], end="close"),
        "wrong length": wrong_length,
        "bad chunk": bad_chunk,
        "stall": events(begun, end="hang"),
    }


@pytest.mark.parametrize("fault", broken("gpt-4o"))
@pytest.mark.parametrize(("path", "model"), PAIRS)
async def test_a_stream_that_breaks(
    provider: FakeProvider, gw: Gateway, path: str, model: str, fault: str
) -> None:
    """What breaks mid-way is an error event in the client's dialect and an unclean end, and nobody else is asked."""
    gw.rt.limits.between_events = 0.2
    provider.will(broken(model)[fault])
    async with gw.connect() as (reader, writer):
        writer.write(written(path, question(model, num_retries=3, fallbacks=["gpt-4o", "claude"])))
        asked = await provider.asked()
        if fault == "reset":  # it would throw away what the gateway has not read yet
            while not any(x.tap and x.tap.deltas >= 2 for x in gw.rt.open):
                await asyncio.sleep(0.001)
            provider.gate.set()
        answer = await receive(reader)
    (row,) = await gw.rows()
    assert not answer.complete
    assert not is_ended(path, answer)
    assert error_of(path, answer)["message"]
    assert len(provider.requests) == 1
    if fault in {"stall", "bad chunk"}:  # where the message is complete, its connection is kept
        await asked.connection.closed.wait()
    assert (row.status, row.http_status) == ("failure", 200)
    assert row.reason in {"upstream_disconnected", "upstream_malformed", "upstream_error", "upstream_timeout"}
    assert row.output > 0
    condition = gw.rt.health.of(row.deployment_id)
    assert (condition.in_flight, condition.failures) == (0, 1)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_silence_before_the_first_event(provider: FakeProvider, gw: Gateway, path: str) -> None:
    """After some silence the head and a comment go out; what comes then is a whole stream."""
    gw.rt.limits.keep_alive = 0.02
    provider.will(events([None, *chat_events("Hi")]))
    async with gw.connect() as (reader, writer):
        writer.write(written(path, question()))
        assert b"text/event-stream" in await reader.readuntil(b"\r\n\r\n")
        first = await reader.readuntil(b"\n\n")
        assert (b": keep-alive" if path == CHAT else b"event: ping") in first
        provider.gate.set()
        body = await reader.readuntil(b"0\r\n\r\n")
    assert b"Hi" in body
    (row,) = await gw.rows()
    assert row.status == "success"


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_failure_after_the_comment(provider: FakeProvider, gw: Gateway, path: str) -> None:
    """When the head is out already, a refusal is an error event."""
    gw.rt.limits.keep_alive = 0.02

    async def late(provider: FakeProvider, asked: Asked) -> None:
        await provider.gate.wait()
        await whole({"error": {"message": "no"}}, 400)(provider, asked)

    provider.will(late)
    async with gw.connect() as (reader, writer):
        writer.write(written(path, question()))
        head = await reader.readuntil(b"\n\n")
        assert head.startswith(b"HTTP/1.1 200")
        provider.gate.set()
        rest = await reader.read()
    assert b'"error"' in rest
    assert not rest.endswith(b"0\r\n\r\n")
    (row,) = await gw.rows()
    assert (row.status, row.http_status, row.reason) == ("failure", 200, "upstream_bad_request")


async def test_a_fallback_after_the_comment(provider: FakeProvider, tmp_path: Path) -> None:
    """A comment is no answer: another model may still stand in."""

    async def late(provider: FakeProvider, asked: Asked) -> None:
        await provider.gate.wait()
        await whole({"error": {"message": "no"}}, 503)(provider, asked)

    base = f"{provider.url}/v1"
    config = config_of(entry("m", "openai/a", base), entry("n", "openai/b", base), fallbacks=[{"m": ["n"]}])
    provider.will(by_model({"a": late, "b": events(chat_events("Hi"))}))
    async with gateway(config, tmp_path) as gw, gw.connect() as (reader, writer):
        gw.rt.limits.keep_alive = 0.02
        writer.write(written(CHAT, question("m")))
        await reader.readuntil(b": keep-alive")
        provider.gate.set()
        body = await reader.readuntil(b"0\r\n\r\n")
        (row,) = await gw.rows()
    assert b"Hi" in body
    assert b"error" not in body
    assert (row.fallbacks, row.status) == (1, "success")


async def test_comments_on_an_idle_stream(provider: FakeProvider, gw: Gateway) -> None:
    """A stream that pauses between events is kept alive by comments."""
    gw.rt.limits.keep_alive = 0.02
    first, *rest = chat_events("Hi")
    provider.will(events([first, None, *rest]))
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, question()))
        for _ in range(3):
            await reader.readuntil(b": keep-alive\n\n")
        provider.gate.set()
        assert b"[DONE]" in await reader.readuntil(b"0\r\n\r\n")


async def test_a_client_that_does_not_read(provider: FakeProvider, gw: Gateway) -> None:
    """The provider is paused when its client does not read, memory stays bounded, and in the end the client is dropped."""
    gw.rt.limits.client_write = 0.3
    word = "x" * 60_000
    sent = 0

    async def flood(_: FakeProvider, asked: Asked) -> None:
        nonlocal sent
        writer = asked.connection.writer
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        (event,) = chat_events(word, done=False)[1:]
        while sent < 200_000_000 and not writer.is_closing():
            writer.write(chunk(event))
            await writer.drain()
            sent += len(event)

    provider.will(flood)
    async with gw.connect() as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
        writer.write(written(CHAT, question()))
        asked = await provider.asked()
        await asked.connection.closed.wait()
        await gw.quiet()
    (row,) = await gw.rows()
    assert sent < 30_000_000
    assert row.status == "client_disconnected"
    assert row.output > 0
    assert gw.rt.health.of(row.deployment_id).in_flight == 0
    assert gw.rt.health.of(row.deployment_id).failures == 0


async def test_a_client_that_reads_slowly(provider: FakeProvider, gw: Gateway) -> None:
    """A client that pauses gets every byte all the same."""
    words = [f"<{number}>" + "x" * 20_000 for number in range(500)]
    provider.will(events(chat_events(*words)))
    async with gw.connect() as (reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # as above
        writer.write(written(CHAT, question()))
        await provider.asked()
        while not any(x.client.is_full for x in gw.rt.open):
            await asyncio.sleep(0.001)
        writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        answer = await receive(reader)
    said = "".join(
        event["choices"][0]["delta"].get("content", "") for event in data(answer) if event["choices"]
    )
    assert said == "".join(words)
    assert answer.complete


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_http_1_0(provider: FakeProvider, gw: Gateway, path: str) -> None:
    """An HTTP/1.0 client gets its stream without chunks, until the connection closes."""
    provider.will(events(chat_events("Hi")))
    async with gw.connect() as (reader, writer):
        writer.write(written(path, question(), version="1.0"))
        answer = await receive(reader)
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["connection"] == "close"
    assert is_ended(path, answer)


async def test_the_connection_is_used_again(provider: FakeProvider, gw: Gateway) -> None:
    """After a stream, an answer and an error the same connections serve on, on both sides."""
    provider.will(
        events(chat_events("1")),
        whole(chat_answer("2")),
        events(message_events("3")),
        whole(message_answer("4")),
    )
    async with gw.connect() as (reader, writer):
        for path, body in (
            (CHAT, question()),
            (CHAT, question(stream=False)),
            (MESSAGES, question("nobody")),
            (MESSAGES, question("claude")),
            (MESSAGES, question("claude", stream=False)),
        ):
            writer.write(written(path, body))
            answer = await receive(reader)
            assert answer.complete
            assert "connection" not in answer.headers
    assert len(provider.requests) == 4
    assert len(provider.connections) == 1


async def test_a_secret_that_a_provider_repeats(provider: FakeProvider, gw: Gateway) -> None:
    """A provider's error that quotes the gateway's own key reaches neither the client nor the row."""
    provider.will(whole({"error": {"message": "odd key sk-provider-key given"}}, 400))
    answer = await gw.post(CHAT, question(stream=False))
    (row,) = await gw.rows()
    assert "sk-provider-key" not in await answer.text()
    assert "sk-provider-key" not in row.error_message


async def test_a_provider_that_does_not_close(provider: FakeProvider, gw: Gateway) -> None:
    """The answer is over at its last event, whether or not the provider closes the message."""
    provider.will(events(chat_events("Hi"), end="hang"))
    answer = await gw.wire(CHAT, question())
    await gw.quiet()
    (row,) = await gw.rows()
    assert answer.complete
    assert row.status == "success"
    await provider.requests[0].connection.closed.wait()


async def test_a_client_that_leaves_after_the_end(provider: FakeProvider, gw: Gateway) -> None:
    """Whoever has the last event and leaves did not disconnect: the row is a success."""
    provider.will(events(chat_events("Hi"), end="hang"))
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, question()))
        await reader.readuntil(b"[DONE]")
    await gw.quiet()
    (row,) = await gw.rows()
    assert (row.status, row.output) == ("success", 1)


@pytest.mark.parametrize(("path", "model"), PAIRS)
async def test_a_deadline_that_strikes_at_the_end(
    provider: FakeProvider, gw: Gateway, monkeypatch: pytest.MonkeyPatch, path: str, model: str
) -> None:
    """In the turn in which the last event went out it is too late: a stream that is whole has no error behind it."""
    write = ClientWriter.write
    late = OutOfTime("The request took too long", code="total_timeout")

    def strike(client: ClientWriter, data: bytes) -> bool:
        provider.gate.set()
        if b"[DONE]" in data or b"message_stop" in data:
            (x,) = gw.rt.open
            asyncio.get_running_loop().call_soon(x.story.interrupt, late)
        return write(client, data)

    monkeypatch.setattr(ClientWriter, "write", strike)
    *most, last = pieces(model, "Hi")
    provider.will(events([*most, None, last]))
    answer = await gw.wire(path, question(model))  # its connection has to be opened: the story is a task
    (row,) = await gw.rows()
    assert is_ended(path, answer)
    assert answer.complete
    assert b'"error"' not in answer.body
    assert row.status == "success"


async def test_hang_is_left_alone(provider: FakeProvider, gw: Gateway) -> None:
    """A stream that stalls before its first event ends at the first event's deadline, not at the pause's."""
    gw.rt.limits.between_events = 0.01
    gw.rt.limits.first_event = 0.1
    provider.will(hang)
    answer = await gw.wire(CHAT, question())
    assert answer.status == 504
    assert answer.json["error"]["code"] == "first_event_timeout"
