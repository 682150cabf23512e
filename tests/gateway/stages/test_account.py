"""What did it cost: one row for each request, whatever became of it."""

from __future__ import annotations

import asyncio
import time
import uuid
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.exchange import _rising_ids
from gateway.state.records import NO_TOKENS
from tests.harness import (
    FakeProvider,
    Gateway,
    chat_answer,
    chat_events,
    config_of,
    entry,
    events,
    gateway,
    hang,
    message_answer,
    message_events,
    whole,
    written,
)

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
HELLO: Any = [{"role": "user", "content": "Hello!"}]


def question(model: str = "gpt-4o", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO, "max_tokens": 9, **more}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "model"), [(p, m) for p in (CHAT, MESSAGES) for m in ("gpt-4o", "claude")])
async def test_a_success(provider: FakeProvider, tmp_path: Path, path: str, model: str, stream: bool) -> None:
    """The provider's tokens are billed exactly at the deployment's price, in all pairs of formats."""
    prices = {"input_cost_per_token": 0.000001, "output_cost_per_token": 0.00001}
    config = config_of(
        entry("gpt-4o", "openai/gpt-4o", f"{provider.url}/v1", **prices),
        entry("claude", "anthropic/claude", provider.url, **prices),
    )
    if model == "gpt-4o":
        provider.will(events(chat_events(*"abcde")) if stream else whole(chat_answer()))
    else:
        provider.will(events(message_events(*"abcde")) if stream else whole(message_answer()))
    async with gateway(config, tmp_path) as gw:
        await gw.post(path, question(model, stream=stream))
        (row,) = await gw.rows()
    assert (row.input, row.output, row.usage_source) == (10, 5, "reported")
    assert row.cost_nano == 10 * 1_000 + 5 * 10_000
    assert row.price_source == "deployment"
    assert (row.status, row.http_status, row.reason, row.finish) == ("success", 200, "", "stop")
    assert (row.endpoint, row.model_group, row.api_base) == (path, model, provider.url)
    assert row.answer_id
    assert row.total_us is not None
    assert row.overhead_us is not None
    assert row.ended_at >= row.started_at
    assert (row.first_token_at is not None, row.stream) == (True, stream)


async def test_a_stream_without_usage(provider: FakeProvider, gw: Gateway) -> None:
    """Where the provider says nothing about tokens they are estimated, and the row says so."""
    provider.will(events(chat_events("Hello", " world", usage=False)))
    await gw.post(CHAT, question(stream=True))
    (row,) = await gw.rows()
    assert (row.usage_source, row.output) == ("estimated", 2)
    assert row.input > 0
    assert row.cost_nano


async def test_an_unknown_price(provider: FakeProvider, tmp_path: Path) -> None:
    """A model that nobody has a price for costs an unknown amount, not nothing."""
    provider.will(whole(chat_answer()))
    async with gateway(config_of(entry("m", "openai/no-such-model", f"{provider.url}/v1")), tmp_path) as gw:
        answer = await gw.post(CHAT, question("m"))
        (row,) = await gw.rows()
    assert row.cost_nano is None
    assert "x-litellm-response-cost" not in answer.headers


async def test_what_no_request_can_use(provider: FakeProvider, gw: Gateway) -> None:
    """Counts that are not believed cost nobody a fortune: the row has an estimate, and the head says nothing instead of another cost."""
    usage = {"prompt_tokens": 3 * 10**9, "completion_tokens": 2, "total_tokens": 3 * 10**9 + 2}
    provider.will(whole(chat_answer() | {"usage": usage}))
    answer = await gw.post(CHAT, question())
    (row,) = await gw.rows()
    assert (answer.status, "x-litellm-response-cost" in answer.headers) == (200, False)
    assert (row.usage_source, row.input < 100) == ("estimated", True)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_a_silent_provider(
    provider: FakeProvider, gw: Gateway, stream: bool
) -> None:
    """Whoever leaves while the provider is at work is billed for the question, as an estimate."""
    provider.will(hang)
    async with gw.connect() as (_, writer):
        writer.write(written(CHAT, question(stream=stream)))
        asked = await provider.asked()
    await asked.connection.closed.wait()
    await gw.quiet()
    (row,) = await gw.rows()
    assert (row.status, row.reason, row.http_status) == ("client_disconnected", "client_disconnected", 499)
    assert (row.usage_source, row.output) == ("estimated", 0)
    assert row.input > 0


async def test_a_client_that_leaves_a_stream(provider: FakeProvider, gw: Gateway) -> None:
    """Whoever leaves in the middle is billed for what was relayed."""
    provider.will(events(chat_events("a", "b", "c", done=False), end="hang"))
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, question(stream=True)))
        await reader.readuntil(b'"c"')
    await provider.requests[0].connection.closed.wait()
    await gw.quiet()
    (row,) = await gw.rows()
    assert (row.status, row.http_status, row.output, row.usage_source) == (
        "client_disconnected",
        200,
        3,
        "estimated",
    )


async def test_a_mock(tmp_path: Path) -> None:
    """A mock answer is a request like any other, and free."""
    config = config_of(
        {"model_name": "m", "litellm_params": {"model": "openai/m", "mock_response": "one two"}}
    )
    async with gateway(config, tmp_path) as gw:
        await gw.post(CHAT, question("m"))
        await gw.post(MESSAGES, question("m", stream=True))
        rows = await gw.rows(2)
    assert [(row.mock, row.output, row.cost_nano, row.status) for row in rows] == [
        (True, 2, 0, "success")
    ] * 2


async def test_one_row_each(provider: FakeProvider, gw: Gateway) -> None:
    """Fifty requests at once leave fifty rows with ids of their own, and nothing under way."""
    provider.will(whole(chat_answer()))
    answers = await asyncio.gather(*(gw.post(CHAT, question()) for _ in range(50)))
    rows = await gw.rows(50)
    assert {answer.headers["x-request-id"] for answer in answers} == {row.id for row in rows}
    assert len(rows) == 50
    assert (gw.rt.metrics.in_flight, gw.rt.open) == (0, set())
    assert gw.rt.health.of(rows[0].deployment_id).in_flight == 0


async def test_a_stream_that_fails_on_a_fallback(provider: FakeProvider, tmp_path: Path) -> None:
    """A stand-in that is the last of its route is not left out because it broke mid-way."""
    base = f"{provider.url}/v1"
    config = config_of(
        entry("m", "openai/a", base),
        entry("m", "openai/b", base),
        entry("n", "openai/c", base),
        fallbacks=[{"m": ["n"]}],
        num_retries=1,
    )
    bad = whole({"error": {"message": "no"}}, 500)
    provider.will(bad, bad, events(chat_events("a", done=False), end="close"))
    async with gateway(config, tmp_path) as gw:
        await gw.wire(CHAT, question("m", stream=True))
        (row,) = await gw.rows()
        assert gw.rt.health.is_available(row.deployment_id, gw.rt.now())
    assert (row.fallbacks, row.retries, row.model_group, row.status) == (1, 1, "n", "failure")
    assert row.overhead_us is None


def test_ids_rise() -> None:
    """Ids are UUIDs of version 7, each greater than the one before, so none comes twice; they tell when they were made."""
    before = time.time_ns() // 1_000_000
    ids = list(islice(_rising_ids(), 2_000))  # those of the process run ahead if its clock was put back
    after = time.time_ns() // 1_000_000
    known = [uuid.UUID(identifier) for identifier in ids]
    assert [str(each) for each in known] == ids
    assert {(each.version, each.variant) for each in known} == {(7, uuid.RFC_4122)}
    assert all(one < next_one for one, next_one in pairwise(ids))
    assert all(before <= each.int >> 80 <= after for each in known)


def test_ids_rise_while_the_clock_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several within the same moment, and those after a clock was put back, are greater than those before all the same."""
    now = time.time()
    clock = iter([now, now, now, now - 60, now - 60, now + 1])
    monkeypatch.setattr("gateway.exchange.time", SimpleNamespace(time=lambda: next(clock)))
    ids = list(islice(_rising_ids(), 6))
    assert ids == sorted(set(ids))


async def test_the_providers_bill(provider: FakeProvider, tmp_path: Path) -> None:
    """What the provider says that the request costs is what it costs, and the row says where that is from."""
    answer = chat_answer()
    answer["usage"] |= {"cost": 0.00012345}
    provider.will(whole(answer))
    config = config_of(
        entry("m", "openrouter/no-such-model", f"{provider.url}/v1"),
        entry(
            "n",
            "openrouter/priced",
            f"{provider.url}/v1",
            input_cost_per_token="1",
            output_cost_per_token="1",
        ),
    )
    async with gateway(config, tmp_path) as gw:
        await gw.post(CHAT, question("m"))
        await gw.post(CHAT, question("n"))
        rows = await gw.rows(2)
    assert [(row.cost_nano, row.cost_source) for row in rows] == [(123_450, "provider")] * 2


async def test_where_a_cost_is_from(provider: FakeProvider, tmp_path: Path) -> None:
    """A cost from a price says so, and so does the service tier that answered; an unknown cost is from nowhere."""
    answer = chat_answer()
    answer["service_tier"] = "flex"
    provider.will(whole(answer))
    config = config_of(
        entry("gpt-5", "openai/gpt-5", f"{provider.url}/v1"),
        entry("m", "openai/no-such-model", f"{provider.url}/v1"),
    )
    async with gateway(config, tmp_path) as gw:
        await gw.post(CHAT, question("gpt-5"))
        await gw.post(CHAT, question("m"))
        unpriced, priced = sorted(await gw.rows(2), key=lambda row: row.cost_nano or 0)
    assert (priced.cost_source, priced.service_tier) == ("price", "flex")
    assert priced.cost_nano == 10 * 625 + 5 * 5_000
    assert (unpriced.cost_source, unpriced.cost_nano) == ("none", None)


async def test_impossible_usage(provider: FakeProvider, gw: Gateway) -> None:
    """Numbers that no request can have are not believed: an estimate takes their place."""
    answer = chat_answer()
    answer["usage"]["prompt_tokens"] = 10**12
    provider.will(whole(answer))
    await gw.post(CHAT, question())
    (row,) = await gw.rows()
    assert (row.usage_source, row.input < 10**6) == ("estimated", True)


@pytest.mark.parametrize("stream", [False, True])
async def test_when_the_books_are_closed(provider: FakeProvider, gw: Gateway, stream: bool) -> None:
    """What comes when the time to drain is over is refused before anybody is asked, with a row."""
    gw.rt.draining = gw.rt.closed = True
    answer = await gw.post(CHAT, question(stream=stream))
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert "shutting down" in (await answer.json())["error"]["message"]
    (row,) = await gw.rows()
    assert (row.status, row.http_status, row.reason) == ("failure", 503, "shutting_down")
    assert not provider.requests


async def test_a_client_that_leaves_before_anybody_is_reached(provider: FakeProvider, gw: Gateway) -> None:
    """While the request waits for a connection no provider has read it: nothing is billed."""
    gw.rt.upstreams._max_connections = 1
    provider.will(hang)
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    async with gw.connect() as (_, first):
        first.write(written("/v1/chat/completions", body))
        await provider.asked()
        async with gw.connect() as (_, second):
            second.write(written("/v1/chat/completions", body))
            while sum(len(x.attempts) for x in gw.rt.open) < 2:
                await asyncio.sleep(0.001)
        (row,) = await gw.rows()
    assert (row.status, row.cost_nano, row.usage) == ("client_disconnected", 0, NO_TOKENS)
