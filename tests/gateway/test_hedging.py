"""Hedging: a second deployment beside one that is slow to begin."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.envelope import open_envelope
from adapters.types import Usage
from gateway.background.supervisor import spawn
from gateway.estimates import tokens_asked
from gateway.state.records import LedgerRow
from tests.harness import (
    FakeProvider,
    Gateway,
    Play,
    chat_answer,
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

CHAT = "/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "Hello, who of you is there?"}]
PRICES = {"input_cost_per_token": "0.001", "output_cost_per_token": "0.002"}
SOON = 0.01


@asynccontextmanager
async def two(
    tmp_path: Path, first: Play, second: Play, *, hedging: Any = None, **router: Any
) -> AsyncIterator[tuple[Gateway, FakeProvider, FakeProvider]]:
    """`m` is asked at `slow`, then at `fast`."""
    async with fake_provider() as slow, fake_provider() as fast:
        slow.will(first)
        fast.will(second)
        settings = {"hedging": {"after": SOON} if hedging is None else hedging, **router}
        config = json.loads(
            config_of(
                entry("m", "openai/a", f"{slow.url}/v1", order=1, **PRICES),
                entry("m", "openai/b", f"{fast.url}/v1", order=2, **PRICES),
                **settings,
            )
        )
        async with gateway(json.dumps(config), tmp_path) as gw:
            yield gw, slow, fast


def question(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": HELLO, **more}


def estimated(**more: Any) -> Usage:
    """What a loser is billed."""
    return Usage(input=tokens_asked(open_envelope(json.dumps(question(**more)).encode())), estimated=True)


def tried(row: LedgerRow) -> list[tuple[str, str]]:
    return [(attempt.model, attempt.reason) for attempt in row.attempts]


async def counted(gw: Gateway, outcome: str) -> float:
    text = gw.rt.metrics.render()[0].decode()
    found = [
        line for line in text.splitlines() if line.startswith(f'penstock_hedges_total{{outcome="{outcome}"')
    ]
    return float(found[0].split()[-1]) if found else 0.0


@pytest.mark.parametrize("stream", [False, True])
async def test_the_second_one_answers(tmp_path: Path, stream: bool) -> None:
    """Where the first is slow the second answers; the first's connection is closed, and one row has both, billed."""
    good = events(chat_events("Hi")) if stream else whole(chat_answer("Hi"))
    async with two(tmp_path, hang, good) as (gw, slow, fast):
        answer = await gw.post(CHAT, question(stream=stream))
        await slow.connections[0].closed.wait()
        (row,) = await gw.rows()
        assert await counted(gw, "won") == 1
        told = gw.rt.metrics.render()[0].decode()
        assert "litellm_deployment_failure_responses_total{" not in told
        assert repr(gw.rt.upstreams).count(": 0 active") == 2
        assert [gw.rt.health.of(row.deployment_id).in_flight for row in row.attempts] == [0, 0]
    assert answer.status == 200
    assert (await answer.read()).count(b"Hi") == 1
    assert (len(slow.requests), len(fast.requests)) == (1, 1)
    assert (row.model, row.status, row.usage_source) == ("b", "success", "estimated")
    assert tried(row) == [("a", "hedge_lost"), ("b", "")]
    lost = estimated(stream=stream)
    said = 1 if stream else 5
    assert (row.usage.input, row.usage.output) == (10 + lost.input, said)
    assert row.cost_nano == (10 + lost.input) * 1_000_000 + said * 2_000_000


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_one_answers_after_all(tmp_path: Path, stream: bool) -> None:
    """If the first begins while the second is asked, the second is called off, and billed for what it has read."""

    async def waits(provider: FakeProvider, asked: Any) -> None:
        await provider.gate.wait()
        play = events(chat_events(*"12345")) if stream else whole(chat_answer("Hi"))
        await play(provider, asked)

    async with two(tmp_path, waits, hang) as (gw, slow, fast):
        asking = spawn(gw.post(CHAT, question(stream=stream)), name="client")
        await fast.asked()
        slow.gate.set()
        answer = await asking
        await fast.connections[0].closed.wait()
        (row,) = await gw.rows()
        assert await counted(gw, "lost") == 1
    assert answer.status == 200
    assert row.model == "a"
    assert tried(row) == [("b", "hedge_lost"), ("a", "")]
    assert row.usage == Usage(input=10 + estimated(stream=stream).input, output=5, estimated=True)
    assert "queue" in answer.headers["x-penstock-timing"]
    assert "retries" not in answer.headers["x-penstock-timing"]


async def test_it_answers_in_time(tmp_path: Path) -> None:
    """A deployment that is not slow is asked alone, and its request stays what it was."""
    async with two(tmp_path, whole(chat_answer()), hang, hedging={"after": 30}) as (gw, _, fast):
        answer = await gw.post(CHAT, question())
        (row,) = await gw.rows()
    assert answer.status == 200
    assert not fast.requests
    assert (row.usage_source, row.retries) == ("reported", 0)


async def test_nothing_is_known_yet(tmp_path: Path) -> None:
    """Without enough answers to learn from nobody is asked twice; from then on the slowest twentieth is."""
    async with two(tmp_path, whole(chat_answer()), whole(chat_answer("other")), hedging=True) as (
        gw,
        slow,
        fast,
    ):
        for _ in range(20):
            assert (await gw.post(CHAT, question())).status == 200
        assert not fast.requests
        slow.will(hang)
        answer = await gw.post(CHAT, question())
        assert len(fast.requests) == 1
    assert (await answer.json())["choices"][0]["message"]["content"] == "other"


async def test_the_rival_fails(tmp_path: Path) -> None:
    """A rival that fails is told of, and the first is waited for."""

    async def waits(provider: FakeProvider, asked: Any) -> None:
        await provider.gate.wait()
        await whole(chat_answer("Hi"))(provider, asked)

    refusal = whole({"error": {"message": "no", "type": None, "param": None}}, 500)
    async with two(tmp_path, waits, refusal) as (gw, slow, fast):
        asking = spawn(gw.post(CHAT, question()), name="client")
        await fast.asked()
        while not await counted(gw, "failed"):
            await asyncio.sleep(0.001)
        slow.gate.set()
        answer = await asking
        (row,) = await gw.rows()
    assert answer.status == 200
    assert tried(row) == [("b", "upstream_error"), ("a", "")]
    assert row.usage == Usage(input=10, output=5)


async def test_the_first_fails_while_the_rival_is_asked(tmp_path: Path) -> None:
    """The rival is waited for when the first one has failed, and is no retry of it."""

    async def fails(provider: FakeProvider, asked: Any) -> None:
        await provider.gate.wait()
        await whole({"error": {"message": "no", "type": None, "param": None}}, 500)(provider, asked)

    async def waits(provider: FakeProvider, asked: Any) -> None:
        await provider.gate.wait()
        await whole(chat_answer("Hi"))(provider, asked)

    async with two(tmp_path, fails, waits) as (gw, slow, fast):
        asking = spawn(gw.post(CHAT, question()), name="client")
        await fast.asked()
        slow.gate.set()
        while not gw.rt.health.all() or not any(one.failures for _, one in gw.rt.health.all()):
            await asyncio.sleep(0.001)
        fast.gate.set()
        answer = await asking
        (row,) = await gw.rows()
    assert answer.status == 200
    assert (len(slow.requests), len(fast.requests)) == (1, 1)
    assert tried(row) == [("a", "upstream_error"), ("b", "")]


async def test_both_fail(tmp_path: Path) -> None:
    """When both have failed the client gets the first one's error, once."""
    refusal = whole({"error": {"message": "no", "type": None, "param": None}}, 503)

    async def fails(provider: FakeProvider, asked: Any) -> None:
        await provider.gate.wait()
        await refusal(provider, asked)

    async with two(tmp_path, fails, refusal) as (gw, slow, fast):
        asking = spawn(gw.post(CHAT, question()), name="client")
        await fast.asked()
        slow.gate.set()
        answer = await asking
        (row,) = await gw.rows()
        assert not gw.rt.open
    assert answer.status == 503
    assert sorted(tried(row)) == [("a", "upstream_overloaded"), ("b", "upstream_overloaded")]


async def test_both_are_slow(tmp_path: Path) -> None:
    """A deadline ends each for itself; nobody is asked a third time."""
    async with two(tmp_path, hang, hang, timeout=0.1) as (gw, slow, fast):
        answer = await gw.post(CHAT, question())
        (row,) = await gw.rows()
        await slow.connections[0].closed.wait()
        await fast.connections[0].closed.wait()
    assert answer.status == 504
    assert sorted(tried(row)) == [("a", "upstream_timeout"), ("b", "upstream_timeout")]


async def test_the_client_leaves(tmp_path: Path) -> None:
    """A client that leaves closes both connections, and its row has what both have read."""
    async with two(tmp_path, hang, hang) as (gw, slow, fast):
        async with gw.connect() as (_, writer):
            writer.write(written(CHAT, question()))
            await fast.asked()
        await slow.connections[0].closed.wait()
        await fast.connections[0].closed.wait()
        (row,) = await gw.rows()
        states = [condition.in_flight for _, condition in gw.rt.health.all()]
    assert row.status == "client_disconnected"
    assert row.usage == Usage(input=2 * estimated().input, estimated=True)
    assert states == [0, 0]


async def test_the_retry_budget_is_used_up(tmp_path: Path) -> None:
    """Without room in the retry budget nobody is asked beside."""

    async def waits(provider: FakeProvider, asked: Any) -> None:
        await provider.gate.wait()
        await whole(chat_answer("Hi"))(provider, asked)

    budget = {"ratio": 0, "minimum": 0}
    async with two(tmp_path, waits, hang, retry_budget=budget) as (gw, slow, fast):
        asking = spawn(gw.post(CHAT, question()), name="client")
        while not await counted(gw, "refused"):
            await asyncio.sleep(0.001)
        slow.gate.set()
        answer = await asking
    assert answer.status == 200
    assert not fast.requests


@pytest.mark.parametrize(("budget", "is_asked"), [("1.2", False), ("100", True)])
async def test_the_callers_budget(tmp_path: Path, budget: str, is_asked: bool) -> None:
    """A hedge takes the worst that it may cost of the caller's budget first, or is not made."""

    async def waits(provider: FakeProvider, asked: Any) -> None:
        await provider.gate.wait()
        await whole(chat_answer("Hi"))(provider, asked)

    async with fake_provider() as slow, fake_provider() as fast:
        slow.will(waits)
        fast.will(hang)
        config = json.loads(
            config_of(
                entry("m", "openai/a", f"{slow.url}/v1", order=1, **PRICES),
                entry("m", "openai/b", f"{fast.url}/v1", order=2, **PRICES),
                hedging={"after": SOON},
            )
        )
        config["litellm_settings"] = {"max_budget": budget}
        async with gateway(json.dumps(config), tmp_path) as gw:
            asking = spawn(gw.post(CHAT, question(max_tokens=500)), name="client")
            if is_asked:
                await fast.asked()
            while not is_asked and not await counted(gw, "refused"):
                await asyncio.sleep(0.001)
            slow.gate.set()
            answer = await asking
            (row,) = await gw.rows()
            (left,) = [state.left for state in gw.rt.limiter.states()]
    assert answer.status == 200
    assert bool(fast.requests) is is_asked
    assert row.cost_nano is not None
    assert left == round(float(budget) * 10**9) - row.cost_nano


async def test_what_is_not_asked_twice(tmp_path: Path) -> None:
    """Pictures are made once: a chat that came later has its rival first."""

    async def waits(provider: FakeProvider, asked: Any) -> None:
        if "images" not in asked.path:
            await hang(provider, asked)
            return
        await provider.gate.wait()
        await whole({"created": 1, "data": [{"url": "https://x.example/1.png"}]})(provider, asked)

    async with two(tmp_path, waits, whole(chat_answer())) as (gw, slow, fast):
        painting = spawn(gw.post("/v1/images/generations", {"model": "m", "prompt": "a cat"}), name="client")
        await slow.asked()
        assert (await gw.post(CHAT, question())).status == 200
        slow.gate.set()
        answer = await painting
    assert answer.status == 200
    assert [asked.path for asked in fast.requests] == ["/v1/chat/completions"]


async def test_another_format_answers(tmp_path: Path) -> None:
    """The rival may speak another format than the first."""
    async with fake_provider() as slow, fake_provider() as fast:
        slow.will(hang)
        fast.will(events(message_events("Hi", " there")))
        config = config_of(
            entry("m", "openai/a", f"{slow.url}/v1", order=1),
            entry("m", "anthropic/claude-b", fast.url, order=2),
            hedging={"after": SOON},
        )
        async with gateway(config, tmp_path) as gw:
            answer = await gw.post(CHAT, question(stream=True))
            await slow.connections[0].closed.wait()
    body = await answer.read()
    assert b"Hi" in body
    assert body.endswith(b"data: [DONE]\n\n")


async def test_several_rivals(tmp_path: Path) -> None:
    """`max` lets more than one be asked beside, each after as long again; all but one are closed."""
    async with fake_provider() as one, fake_provider() as two_, fake_provider() as three:
        one.will(hang)
        two_.will(hang)
        three.will(whole(chat_answer("Hi")))
        config = config_of(
            *(
                entry("m", f"openai/{n}", f"{at.url}/v1", order=n)
                for n, at in enumerate((one, two_, three), 1)
            ),
            hedging={"after": SOON, "max": 2},
        )
        async with gateway(config, tmp_path) as gw:
            answer = await gw.post(CHAT, question())
            await one.connections[0].closed.wait()
            await two_.connections[0].closed.wait()
            (row,) = await gw.rows()
    assert answer.status == 200
    assert row.attempts[-1].model == "3"
    assert sorted(tried(row)) == [("1", "hedge_lost"), ("2", "hedge_lost"), ("3", "")]


async def test_the_loser_goes_on(tmp_path: Path) -> None:
    """Who was outrun may go on with the stream of the one that outran it."""

    async def slow_then_well(provider: FakeProvider, asked: Any) -> None:
        play = hang if len(provider.requests) == 1 else events(chat_events(" there"))
        await play(provider, asked)

    broken = events(chat_events("Hi", done=False), end="reset")
    async with two(tmp_path, slow_then_well, broken, stream_recovery="continue") as (gw, slow, _):
        answer = await gw.post(CHAT, question(stream=True))
        (row,) = await gw.rows()
    assert b" there" in await answer.read()
    assert len(slow.requests) == 2
    assert tried(row) == [("a", "hedge_lost"), ("b", "upstream_disconnected"), ("a", "")]


async def test_nobody_is_looked_for_again_and_again(tmp_path: Path) -> None:
    """Where nobody else can be asked there is one look for each rival, however short the time is."""
    async with fake_provider() as slow:
        slow.will(hang)
        base = f"{slow.url}/v1"
        config = config_of(
            entry("m", "openai/a", base, order=1),
            entry("m", "openai/b", base, order=2, rpm=0),
            hedging={"after": 0.001, "max": 1},
        )
        async with gateway(config, tmp_path) as gw:
            answer = await gw.post(CHAT, question(timeout=0.1))
            assert await counted(gw, "nobody") == 1
    assert answer.status == 504


async def test_a_hedge_is_no_request(tmp_path: Path) -> None:
    """The retry budget counts a hedge as a further attempt, and not as another request beside which there may be more."""
    async with two(tmp_path, hang, whole(chat_answer("Hi")), retry_budget={"ratio": 1, "minimum": 0.1}) as (
        gw,
        _,
        _,
    ):
        assert (await gw.post(CHAT, question())).status == 200
        assert not gw.rt.retry_budget.has_room(gw.rt.now())


async def test_who_was_not_asked_beside_is_asked_afterwards(tmp_path: Path) -> None:
    """A hedge that the caller's budget had no room for: when the first one fails, that deployment is asked."""

    async def fails(provider: FakeProvider, asked: Any) -> None:
        await provider.gate.wait()
        await whole({"error": {"message": "down"}}, 503)(provider, asked)

    async with fake_provider() as slow, fake_provider() as fast:
        slow.will(fails)
        fast.will(whole(chat_answer("Hi")))
        config = json.loads(
            config_of(
                entry("m", "openai/a", f"{slow.url}/v1", order=1, **PRICES),
                entry("m", "openai/b", f"{fast.url}/v1", order=2, **PRICES),
                hedging={"after": SOON},
                num_retries=1,
            )
        )
        config["litellm_settings"] = {"max_budget": "1.2"}
        async with gateway(json.dumps(config), tmp_path) as gw:
            asking = spawn(gw.post(CHAT, question(max_tokens=500)), name="client")
            while not await counted(gw, "refused"):
                await asyncio.sleep(0.001)
            slow.gate.set()
            answer = await asking
    assert (answer.status, len(slow.requests), len(fast.requests)) == (200, 1, 1)


async def test_a_rival_s_place_that_is_taken_meanwhile(tmp_path: Path) -> None:
    """Another request takes the rival's only place while the store of limits is asked: its limit holds, and nobody is asked twice."""
    prices = {**PRICES, "max_parallel_requests": 1}
    async with fake_provider() as slow, fake_provider() as fast:
        for provider in (slow, fast):
            provider.will(events([None, *chat_events("Hi")]))
        config = config_of(
            entry("m", "openai/a", f"{slow.url}/v1", order=1, **prices),
            entry("m", "openai/b", f"{fast.url}/v1", order=2, **prices),
            hedging={"after": SOON},
        )
        config = json.dumps({**json.loads(config), "litellm_settings": {"max_budget": "100"}})
        async with gateway(config, tmp_path) as gw, holding(gw) as (asked, let_go):
            first = spawn(gw.post(CHAT, question(stream=True, max_tokens=9)), name="first")
            await asked.wait()
            second = spawn(gw.post(CHAT, question(stream=True, max_tokens=9)), name="second")
            await fast.asked()
            let_go.set()
            while not await counted(gw, "refused") and len(fast.requests) == 1:
                await asyncio.sleep(0.001)
            for provider in (slow, fast):
                provider.gate.set()
            assert {(await first).status, (await second).status} == {200}
    assert (len(slow.requests), len(fast.requests)) == (1, 1)


async def test_who_was_never_reached_is_not_billed(tmp_path: Path) -> None:
    """A loser to which no connection was open yet has read nothing."""
    async with two(tmp_path, hang, whole(chat_answer("Hi"))) as (gw, slow, fast):
        gw.rt.upstreams._max_connections = 1
        route = gw.rt.routes.find("m")
        assert route is not None
        other = gw.rt.upstreams.prepare("POST", f"{slow.url}/v1/other", (), route.deployments[0].scope)
        asking = spawn(
            gw.rt.upstreams.ask(other, b"", connect_timeout=5.0, head_timeout=None), name="another request"
        )
        await slow.asked()
        assert (await gw.post(CHAT, question())).status == 200
        (row,) = await gw.rows()
        asking.cancel()
    assert (len(slow.requests), len(fast.requests)) == (1, 1)
    assert tried(row) == [("a", "hedge_lost"), ("b", "")]
    assert row.usage == Usage(input=10, output=5)
