"""`stream_recovery: continue`: another deployment goes on with a stream that broke."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from adapters.continuation import SEAM
from adapters.errors import UpstreamTimeout
from gateway.background.supervisor import spawn
from gateway.estimates import tokens_of
from gateway.exchange import Exchange
from gateway.routes import Route
from gateway.state.records import LedgerRow
from tests.harness import (
    FakeProvider,
    Gateway,
    Play,
    chat_events,
    config_of,
    entry,
    events,
    fake_provider,
    gateway,
    hang,
    holding,
    message_events,
    whole,
    written,
)

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
HELLO: Any = [{"role": "user", "content": "Tell me about rivers."}]
PRICES = {"input_cost_per_token": "0.001", "output_cost_per_token": "0.002"}
FIRST = ("A river", " flows down", " to")
REST = (" the sea", ".")
WHOLE = "".join(FIRST + REST)

OPENAI_ERROR = b'data: {"error":{"message":"overloaded","type":"server_error","code":503}}\n\n'
ANTHROPIC_ERROR = (
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
)


def stream_of(provider_format: str, words: tuple[str, ...], *, done: bool = True) -> list[bytes]:
    if provider_format == "openai":
        return chat_events(*words, done=done)
    return message_events(*words, done=done)


def breaks(provider_format: str, how: str = "reset", words: tuple[str, ...] = FIRST) -> Play:
    """A stream that breaks after these words: `reset`, `close`, `end` (without its terminator), `error` (an event)."""
    pieces = stream_of(provider_format, words, done=False)
    if how == "error":
        pieces.append(OPENAI_ERROR if provider_format == "openai" else ANTHROPIC_ERROR)
    return events(pieces, end={"end": "clean", "error": "clean"}.get(how, how))


def goes_on(provider_format: str, words: tuple[str, ...] = REST) -> Play:
    return events(stream_of(provider_format, words))


def model_of(provider_format: str, base: str, name: str, **params: Any) -> dict[str, Any]:
    if provider_format == "openai":
        return entry("m", f"openai/{name}", f"{base}/v1", **params)
    return entry("m", f"anthropic/claude-{name}", base, **params)


@asynccontextmanager
async def two(
    tmp_path: Path, first: Play, second: Play, formats: tuple[str, str] = ("openai", "openai"), **router: Any
) -> AsyncIterator[tuple[Gateway, FakeProvider, FakeProvider]]:
    """`m` is asked at one, then at the other."""
    async with fake_provider() as one, fake_provider() as other:
        one.will(first)
        other.will(second)
        config = config_of(
            model_of(formats[0], one.url, "a", order=1, **PRICES),
            model_of(formats[1], other.url, "b", order=2, **PRICES),
            **{"stream_recovery": "continue", **router},
        )
        async with gateway(config, tmp_path) as gw:
            yield gw, one, other


def question(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": HELLO, "stream": True, "max_tokens": 100, **more}


def tried(row: LedgerRow) -> list[tuple[str, str]]:
    return [(attempt.model, attempt.reason) for attempt in row.attempts]


def counted(gw: Gateway, outcome: str) -> float:
    text = gw.rt.metrics.render()[0].decode()
    start = f'penstock_stream_recoveries_total{{outcome="{outcome}"'
    found = [line for line in text.splitlines() if line.startswith(start)]
    return float(found[0].split()[-1]) if found else 0.0


async def read_openai(gw: Gateway, **more: Any) -> tuple[str, list[Any]]:
    client = openai.AsyncOpenAI(base_url=f"{gw.url}/v1", api_key="none", max_retries=0)
    async with client:
        stream = await client.chat.completions.create(
            model="m", messages=HELLO, stream=True, max_tokens=100, **more
        )
        chunks = [chunk async for chunk in stream]
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks


async def read_anthropic(gw: Gateway) -> Any:
    client = anthropic.AsyncAnthropic(base_url=gw.url, api_key="none", max_retries=0)
    async with client, client.messages.stream(model="m", messages=HELLO, max_tokens=100) as stream:
        return await stream.get_final_message()


@pytest.mark.parametrize("second", ["openai", "anthropic"])
@pytest.mark.parametrize("first", ["openai", "anthropic"])
async def test_openais_sdk_reads_one_answer(tmp_path: Path, first: str, second: str) -> None:
    """An OpenAI client reads one answer, whoever gave its halves: one id, one role, one end, one usage."""
    async with two(tmp_path, breaks(first), goes_on(second), (first, second)) as (gw, _, _other):
        text, chunks = await read_openai(gw, stream_options={"include_usage": True})
        (row,) = await gw.rows()
    assert text == WHOLE
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {"m"}
    assert [c.choices[0].delta.role for c in chunks if c.choices and c.choices[0].delta.role] == ["assistant"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [
        "stop"
    ]
    (told,) = [chunk.usage for chunk in chunks if chunk.usage]
    assert (told.prompt_tokens, told.completion_tokens) == (row.usage.prompt, row.usage.completion)


@pytest.mark.parametrize("second", ["openai", "anthropic"])
@pytest.mark.parametrize("first", ["openai", "anthropic"])
async def test_anthropics_sdk_reads_one_message(tmp_path: Path, first: str, second: str) -> None:
    """An Anthropic client reads one message with one block of text, whoever gave its halves."""
    async with two(tmp_path, breaks(first), goes_on(second), (first, second)) as (gw, _, _other):
        message = await read_anthropic(gw)
        (row,) = await gw.rows()
    assert [block.text for block in message.content] == [WHOLE]
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == row.usage.completion


@pytest.mark.parametrize("how", ["reset", "close", "end", "error"])
@pytest.mark.parametrize("client", ["openai", "anthropic"])
async def test_however_it_breaks(tmp_path: Path, client: str, how: str) -> None:
    """A connection that breaks, a stream without its end and an error event are all gone on from; one row has both."""
    async with two(tmp_path, breaks(client, how), goes_on("openai"), (client, "openai")) as (gw, _, other):
        answer = await gw.wire(PATHS[client], question())
        (row,) = await gw.rows()
        assert counted(gw, "continued") == 1
        assert repr(gw.rt.upstreams).count(": 0 active") == 2
        states = [condition.in_flight for _, condition in gw.rt.health.all()]
    assert answer.complete
    assert answer.body.count(SEAM) == 1
    last = b"data: [DONE]\n\n" if client == "openai" else b'data: {"type":"message_stop"}\n\n'
    assert answer.body.endswith(last)
    assert answer.body.count(last) == 1
    assert b'"error"' not in answer.body
    assert (row.status, row.model, row.retries) == ("success", "b", 1)
    assert [reason for _, reason in tried(row)][1] == ""
    assert tried(row)[0][1].startswith("upstream_")
    assert states == [0, 0]
    said = other.requests[0].json["messages"]
    assert [turn["role"] for turn in said] == ["user", "assistant", "user"]
    assert said[1]["content"] == "".join(FIRST)


async def test_both_are_billed(tmp_path: Path) -> None:
    """The row's usage and cost are those of both; what the broken one did not report is estimated."""
    first, second = breaks("anthropic"), goes_on("openai")
    async with two(tmp_path, first, second, ("anthropic", "openai")) as (gw, _, _other):
        await gw.post(PATHS["openai"], question())
        (row,) = await gw.rows()
    assert row.usage_source == "reported"
    # the first: 10 tokens in and 5 out by its own word; the second: 10 and 2
    assert (row.usage.input, row.usage.output) == (20, 7)
    assert row.cost_nano == 20 * 1_000_000 + 7 * 2_000_000
    assert row.ttfb_us is not None


async def test_the_provider_is_prefilled(tmp_path: Path) -> None:
    """Who goes on with the assistant's turn is given it, without the blanks at its end, which are not said twice."""
    first = breaks("openai", words=("A river flows ",))
    second = goes_on("anthropic", (" down", "."))
    async with two(tmp_path, first, second, ("openai", "anthropic")) as (gw, _, other):
        text, _ = await read_openai(gw)
    assert other.requests[0].json["messages"][-1]["role"] == "assistant"
    assert "A river flows" in json.dumps(other.requests[0].json["messages"][-1])
    assert text == "A river flows down."


async def test_a_silent_stream(tmp_path: Path) -> None:
    """A stream in which nothing comes any more is given up and gone on with; its connection is closed."""
    first = events(chat_events(*FIRST, done=False), end="hang")
    async with two(tmp_path, first, goes_on("openai")) as (gw, one, _):
        gw.rt.limits.between_events = 0.05
        text, _ = await read_openai(gw)
        await one.connections[0].closed.wait()
        (row,) = await gw.rows()
    assert text == WHOLE
    assert tried(row) == [("a", "upstream_timeout"), ("b", "")]


async def test_a_silent_stream_that_speaks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says while the store of limits is asked whether another one may go on comes too late: a client reads one answer."""
    late = events(
        [*chat_events(*FIRST, done=False), None, *chat_events(" a lake", done=False)[1:]], end="hang"
    )
    async with two(tmp_path, late, goes_on("openai")) as (gw, one, _):

        async def top_up(x: Exchange, route: Route, *, again: bool) -> bool:
            written, closed = x.client.written, one.connections[0].closed
            gw.rt.limits.between_events = 60.0
            one.gate.set()
            while x.client.written == written and not closed.is_set():
                await asyncio.sleep(0.001)
            return True

        monkeypatch.setattr(gw.rt.limiter, "binds", lambda _: True)
        monkeypatch.setattr(gw.rt.limiter, "top_up", top_up)
        gw.rt.limits.between_events = 1.0
        text, _ = await read_openai(gw)
    assert text == WHOLE


async def test_a_place_that_is_taken_meanwhile(tmp_path: Path) -> None:
    """Another request takes the only place of who was to go on while the store of limits is asked: the limit holds."""
    async with fake_provider() as one, fake_provider() as other:
        one.will(breaks("openai"))
        other.will(events([None, *chat_events("Hi")]))
        config = config_of(
            model_of("openai", one.url, "a", order=1, **PRICES),
            model_of("openai", other.url, "b", order=2, max_parallel_requests=1, **PRICES),
            stream_recovery="continue",
        )
        config = json.dumps({**json.loads(config), "litellm_settings": {"max_budget": "100"}})
        async with gateway(config, tmp_path) as gw, holding(gw) as (asked, let_go):
            first = spawn(gw.wire(PATHS["openai"], question()), name="first")
            await asked.wait()
            route = gw.rt.routes.find("m")
            assert route is not None
            gw.rt.health.of(route.deployments[0].id).cooled_until = gw.rt.now() + 60.0
            second = spawn(gw.post(PATHS["openai"], question()), name="second")
            await other.asked()
            let_go.set()
            while not first.done() and len(other.requests) == 1:
                await asyncio.sleep(0.001)
            other.gate.set()
            assert b'"error"' in (await first).body
            assert b"[DONE]" in await (await second).read()
    assert len(other.requests) == 1


async def test_it_breaks_twice(tmp_path: Path) -> None:
    """The next deployment goes on where the second breaks too."""
    async with fake_provider() as one, fake_provider() as two_, fake_provider() as three:
        one.will(breaks("openai", words=("A river",)))
        two_.will(breaks("anthropic", words=(" flows down",)))
        three.will(goes_on("openai", (" to the sea.",)))
        config = config_of(
            model_of("openai", one.url, "a", order=1),
            model_of("anthropic", two_.url, "b", order=2),
            model_of("openai", three.url, "c", order=3),
            stream_recovery="continue",
        )
        async with gateway(config, tmp_path) as gw:
            message = await read_anthropic(gw)
            (row,) = await gw.rows()
    assert [block.text for block in message.content] == ["A river flows down to the sea."]
    assert three.requests[0].json["messages"][1]["content"] == "A river flows down"
    assert [model for model, _ in tried(row)] == ["a", "claude-b", "c"]


@pytest.mark.parametrize("client", ["openai", "anthropic"])
async def test_nobody_can_go_on(tmp_path: Path, client: str) -> None:
    """When the others fail too the stream ends with its error, as without the setting, and the row has what was said."""
    refusal = whole({"error": {"message": "no", "type": None, "param": None}}, 500)
    async with two(tmp_path, breaks(client), refusal, (client, "openai")) as (gw, _, _other):
        answer = await gw.wire(PATHS[client], question())
        (row,) = await gw.rows()
        assert counted(gw, "nobody") == 1
        states = [condition.in_flight for _, condition in gw.rt.health.all()]
    assert b'"error"' in answer.body
    assert SEAM not in answer.body
    assert (row.status, row.reason) == ("failure", "upstream_disconnected")
    assert row.usage.output >= len(FIRST)
    assert [reason for _, reason in tried(row)] == ["upstream_disconnected", "upstream_error"]
    assert states == [0, 0]


async def test_there_is_nobody_else(tmp_path: Path) -> None:
    """A route with one deployment has nobody to go on, and is billed once."""
    async with fake_provider() as one:
        one.will(breaks("openai"))
        config = config_of(model_of("openai", one.url, "a"), stream_recovery="continue")
        async with gateway(config, tmp_path) as gw:
            answer = await gw.wire(PATHS["openai"], question())
            (row,) = await gw.rows()
    assert b'"error"' in answer.body
    assert len(row.attempts) == 1
    assert row.usage.output == 3


async def test_who_else_cannot_be_asked(tmp_path: Path) -> None:
    """Where the others have no word for something in the question, what was said is billed as well."""
    formats = ("openai", "anthropic")
    async with two(tmp_path, breaks("openai"), goes_on("anthropic"), formats) as (gw, _, other):
        answer = await gw.wire(PATHS["openai"], question(logit_bias={"1": 2}))
        (row,) = await gw.rows()
    assert b'"error"' in answer.body
    assert not other.requests
    assert tried(row) == [("a", "upstream_disconnected")]
    assert row.usage.output == len(FIRST)
    assert row.cost_nano == row.usage.input * 1_000_000 + row.usage.output * 2_000_000


async def test_a_stream_that_stalls_is_billed_once(tmp_path: Path) -> None:
    """The caller's own time, which ends the next attempt, has not ended the one before: that has its bill."""
    stalls = events(stream_of("openai", FIRST, done=False), end="hang")
    async with two(tmp_path, stalls, hang) as (gw, _, other):
        async with gw.connect() as (reader, writer):
            writer.write(written(PATHS["openai"], question(timeout=60)))
            await reader.readuntil(FIRST[-1].encode())
            (x,) = gw.rt.open
            x.story.interrupt(UpstreamTimeout("silent", code="idle_timeout"))
            await other.asked()
            x.story.interrupt(UpstreamTimeout("late", code="first_event_timeout"))
            assert b'"error"' in await reader.read()
        (row,) = await gw.rows()
    assert [reason for _, reason in tried(row)] == ["upstream_timeout"] * 2
    assert (row.usage.input, row.usage.output) == (2 * tokens_of(json.dumps(HELLO).encode()), len(FIRST))


@pytest.mark.parametrize("at", [1, 20, 60])
async def test_it_ends_within_an_event(tmp_path: Path, at: int) -> None:
    """What there was of the last event is not handed on: neither client nor whoever goes on can read it."""
    pieces = [*message_events(*FIRST, done=False), message_events("x", done=False)[-1][:at]]
    formats = ("anthropic", "anthropic")
    async with two(tmp_path, events(pieces), goes_on("anthropic"), formats) as (gw, _, _other):
        message = await read_anthropic(gw)
    assert [block.text for block in message.content] == [WHOLE]


async def test_the_setting_is_taken_away(tmp_path: Path) -> None:
    """A stream that is gone on with when a reload switches that off is heard to its end: no words come twice."""
    async with fake_provider() as one, fake_provider() as two_, fake_provider() as three:
        one.will(breaks("openai", words=("A river",)))
        two_.will(events([None, *stream_of("openai", (" flows down",), done=False)], end="reset"))
        three.will(goes_on("openai", (" to the sea.",)))
        models = [
            model_of("openai", provider.url, name, order=order)
            for order, (name, provider) in enumerate({"a": one, "b": two_, "c": three}.items())
        ]
        async with gateway(config_of(*models, stream_recovery="continue"), tmp_path) as gw:
            answer = spawn(read_openai(gw), name="a client")
            await two_.asked()
            (tmp_path / "config.yaml").write_text(config_of(*models, stream_recovery="none"))
            assert gw.rt.reloader is not None
            await gw.rt.reloader.reload("the test")
            two_.gate.set()
            text, _ = await answer
    assert text == "A river flows down to the sea."
    assert three.requests[0].json["messages"][1]["content"] == "A river flows down"


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2},
        {"logprobs": True},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_more_than_words(tmp_path: Path, more: dict[str, Any]) -> None:
    """Several choices, probabilities and JSON are not gone on with."""
    async with two(tmp_path, breaks("openai"), goes_on("openai")) as (gw, _, other):
        answer = await gw.wire(PATHS["openai"], question(**more))
    assert b'"error"' in answer.body
    assert not other.requests


async def test_a_call_that_has_begun(tmp_path: Path) -> None:
    """A tool call that has begun cannot be gone on with."""
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}
    pieces = [*chat_events("Hm", done=False), b"data: " + json.dumps(chunk).encode() + b"\n\n"]
    async with two(tmp_path, events(pieces, end="reset"), goes_on("openai")) as (gw, _, other):
        answer = await gw.wire(PATHS["openai"], question(tools=[TOOL]))
        (row,) = await gw.rows()
        assert counted(gw, "unfit") == 1
    assert b'"error"' in answer.body
    assert not other.requests
    assert len(row.attempts) == 1


async def test_it_is_off(tmp_path: Path) -> None:
    """Without the setting a stream that breaks ends with its error."""
    async with two(tmp_path, breaks("openai"), goes_on("openai"), stream_recovery="none") as (gw, _, other):
        answer = await gw.wire(PATHS["openai"], question())
    assert b'"error"' in answer.body
    assert not other.requests


async def test_the_retry_budget(tmp_path: Path) -> None:
    """Going on is a further attempt: without room for one the stream ends with its error."""
    budget = {"ratio": 0, "minimum": 0}
    async with two(tmp_path, breaks("openai"), goes_on("openai"), retry_budget=budget) as (gw, _, other):
        answer = await gw.wire(PATHS["openai"], question())
    assert b'"error"' in answer.body
    assert not other.requests


@pytest.mark.parametrize(("dollars", "goes"), [("0.5", False), ("100", True)])
async def test_the_callers_budget(tmp_path: Path, dollars: str, goes: bool) -> None:
    """Going on takes what it may cost at most of the caller's budget first."""
    async with fake_provider() as one, fake_provider() as other:
        one.will(breaks("openai"))
        other.will(goes_on("openai"))
        config = json.loads(
            config_of(
                model_of("openai", one.url, "a", order=1, **PRICES),
                model_of("openai", other.url, "b", order=2, **PRICES),
                stream_recovery="continue",
            )
        )
        config["litellm_settings"] = {"max_budget": dollars}
        async with gateway(json.dumps(config), tmp_path) as gw:
            answer = await gw.wire(PATHS["openai"], question())
            (row,) = await gw.rows()
            (state,) = gw.rt.limiter.states()
    assert answer.status == 200
    assert bool(other.requests) is goes
    assert row.cost_nano is not None
    assert state.left == round(float(dollars) * 10**9) - row.cost_nano


async def test_the_client_leaves(tmp_path: Path) -> None:
    """A client that leaves while another one is asked closes that one's connection."""
    async with two(tmp_path, breaks("openai"), hang) as (gw, _, other):
        async with gw.connect() as (_, writer):
            writer.write(written(PATHS["openai"], question()))
            await other.asked()
        await other.connections[0].closed.wait()
        (row,) = await gw.rows()
        states = [condition.in_flight for _, condition in gw.rt.health.all()]
    assert row.status == "client_disconnected"
    assert row.usage.output >= len(FIRST)
    assert states == [0, 0]
