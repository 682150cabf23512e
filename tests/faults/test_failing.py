"""What errors lead to, on real sockets: retries, levels, the three lists of fallbacks, circuits, the retry budget, deadlines."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.background.supervisor import spawn
from tests.harness import (
    Asked,
    FakeProvider,
    Gateway,
    Play,
    by_model,
    chat_answer,
    chat_events,
    config_of,
    entry,
    events,
    gateway,
    hang,
    whole,
)

CHAT = "/v1/chat/completions"
TOO_LONG = {"code": "context_length_exceeded"}
FILTERED = {"code": "content_filter"}


def question(model: str = "m", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}], **more}


def refusal(status: int, **more: Any) -> Play:
    headers = more.pop("headers", {})
    return whole({"error": {"message": f"no {status}", "type": None, "param": None, **more}}, status, headers)


def asked_for(provider: FakeProvider) -> str:
    return "".join(asked.json["model"] for asked in provider.requests)


def names(provider: FakeProvider, letters: str, **router: Any) -> str:
    """Models `a`, `b` …, each with one deployment of the same name."""
    base = f"{provider.url}/v1"
    return config_of(*(entry(name, f"openai/{name}", base) for name in letters), **router)


def levels(provider: FakeProvider, letters: str, **router: Any) -> str:
    """One model `m` with a deployment of each `order`."""
    base = f"{provider.url}/v1"
    return config_of(
        *(entry("m", f"openai/{name}", base, order=order) for order, name in enumerate(letters)), **router
    )


# -- within a route --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("play", "policy", "count"),
    [
        (refusal(503), {"max_retries": 1}, 2),
        (refusal(503), {"ServiceUnavailableErrorRetries": 0}, 1),
        (refusal(500), {"ServiceUnavailableErrorRetries": 0, "DefaultRetries": 3}, 4),
        (refusal(429), {"RateLimitErrorRetries": 3}, 4),
        (refusal(429, headers={"retry-after": "1"}), {"RateLimitErrorRetries": 3}, 1),
        (refusal(401), {"AuthenticationErrorRetries": 3}, 1),
        (refusal(400), {"max_retries": 3}, 1),
        (refusal(422), {"BadRequestErrorRetries": 2}, 3),
        (refusal(400, **TOO_LONG), {"BadRequestErrorRetries": 2}, 1),
    ],
)
async def test_a_policy_counts_by_error(
    provider: FakeProvider, tmp_path: Path, play: Play, policy: dict[str, int], count: int
) -> None:
    """A single deployment is asked again as often as the policy of its error says, and the caller's mistakes only by name."""
    provider.will(play)
    config = names(provider, "m", num_retries=2, retry_policy=policy, disable_cooldowns=count > 1)
    async with gateway(config, tmp_path) as gw:
        answer = await gw.post(CHAT, question())
    assert answer.status >= 400
    assert len(provider.requests) == count


async def test_levels_that_are_left(provider: FakeProvider, tmp_path: Path) -> None:
    """A higher `order` is asked when the attempts of the lower ones are used up, and not for a wrong question."""
    provider.will(by_model({"a": refusal(500), "b": refusal(429), "c": whole(chat_answer())}))
    async with gateway(levels(provider, "abc"), tmp_path) as gw:
        answer = await gw.post(CHAT, question())
        assert (answer.status, asked_for(provider)) == (200, "abc")
        assert answer.headers["x-litellm-attempted-fallbacks"] == "0"
    provider.requests.clear()
    provider.will(refusal(400))
    async with gateway(levels(provider, "abc"), tmp_path) as gw:
        assert (await gw.post(CHAT, question())).status == 400
        assert asked_for(provider) == "a"


async def test_tls_is_not_tried_twice(provider: FakeProvider, tmp_path: Path) -> None:
    """A deployment whose TLS is wrong is not asked again: nothing is verified less for it."""
    accepted = []

    async def plaintext(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(await reader.read(1))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plaintext, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = config_of(entry("m", "openai/a", f"https://127.0.0.1:{port}/v1"), num_retries=3)
    async with server, gateway(config, tmp_path) as gw:
        answer = await gw.post(CHAT, question())
    error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (502, "tls_error")
    assert len(accepted) == 1
    assert ssl.OPENSSL_VERSION not in error["message"]


# -- other models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("play", "path"),
    [
        (refusal(500), "ag"),
        (refusal(401), "ag"),
        (refusal(400, **TOO_LONG), "al"),
        (refusal(400, **FILTERED), "af"),
        (refusal(400), "a"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_each_error_has_its_list(
    provider: FakeProvider, tmp_path: Path, play: Play, path: str, stream: bool
) -> None:
    """Questions that are too long, content that is refused, and everything else lead to other models each."""
    good = events(chat_events("Hi")) if stream else whole(chat_answer())
    provider.will(by_model({"a": play, **dict.fromkeys("glf", good)}))
    config = names(
        provider,
        "aglf",
        fallbacks=[{"a": ["g"]}],
        context_window_fallbacks=[{"a": ["l"]}],
        content_policy_fallbacks=[{"a": ["f"]}],
    )
    async with gateway(config, tmp_path) as gw:
        answer = await gw.post(CHAT, question("a", stream=stream))
    assert asked_for(provider) == path
    assert answer.status == (200 if len(path) == 2 else 400)


async def test_a_list_that_does_not_know_the_model(provider: FakeProvider, tmp_path: Path) -> None:
    """Without an entry in its own list an error leads to the general fallbacks."""
    provider.will(by_model({"a": refusal(400, **TOO_LONG), "b": whole(chat_answer())}))
    config = names(provider, "abc", fallbacks=[{"a": ["b"]}], context_window_fallbacks=[{"c": ["b"]}])
    async with gateway(config, tmp_path) as gw:
        assert (await gw.post(CHAT, question("a"))).status == 200
    assert asked_for(provider) == "ab"


async def test_fallbacks_of_fallbacks(provider: FakeProvider, tmp_path: Path) -> None:
    """A stand-in's own come before those that wait, each model once, and `max_fallbacks` in all."""
    provider.will(refusal(500))
    chains = [{"a": ["b", "c"]}, {"b": ["d", "a"]}, {"d": ["e"]}]
    async with gateway(names(provider, "abcde", fallbacks=chains), tmp_path) as gw:
        assert (await gw.post(CHAT, question("a"))).status == 502
        (row,) = await gw.rows()
    assert asked_for(provider) == "abdec"
    assert row.fallbacks == 4
    provider.requests.clear()
    async with gateway(names(provider, "abcde", fallbacks=chains, max_fallbacks=2), tmp_path) as gw:
        await gw.post(CHAT, question("a"))
    assert asked_for(provider) == "abd"


async def test_a_stand_in_that_cannot(provider: FakeProvider, tmp_path: Path) -> None:
    """A stand-in that finds the question wrong is not the end: the next one is asked, and the first error told."""
    provider.will(by_model({"a": refusal(503), "b": refusal(400), "c": refusal(429)}))
    async with gateway(names(provider, "abc", fallbacks=[{"a": ["b", "c"]}]), tmp_path) as gw:
        answer = await gw.post(CHAT, question("a"))
    error = (await answer.json())["error"]
    assert asked_for(provider) == "abc"
    assert (answer.status, error["message"].startswith("no 503")) == (503, True)
    assert answer.headers["x-litellm-fallback-errors"] == (
        "a: upstream_overloaded, b: upstream_bad_request, c: upstream_rate_limited"
    )


async def test_what_a_request_says(provider: FakeProvider, tmp_path: Path) -> None:
    """A request may name a larger model for a long question, and its model in a header; neither reaches the provider."""
    provider.will(by_model({"a": refusal(400, **TOO_LONG), "b": whole(chat_answer())}))
    async with gateway(names(provider, "ab"), tmp_path) as gw:
        body = question("a", context_window_fallback_dict={"a": "b"})
        assert (await gw.post(CHAT, body)).status == 200
        answer = await gw.post(CHAT, question("a"), headers={"x-litellm-model": "b"})
        assert (answer.status, (await answer.json())["model"]) == (200, "b")
    assert asked_for(provider) == "abb"
    assert all(set(asked.json) == {"model", "messages"} for asked in provider.requests)


async def test_only_what_the_key_may(provider: FakeProvider, tmp_path: Path) -> None:
    """No list leads to a model that the caller's key may not use."""
    provider.will(refusal(400, **TOO_LONG))
    config = json.loads(
        names(provider, "abc", fallbacks=[{"b": ["c"]}], context_window_fallbacks=[{"a": ["b", "c"]}])
    )
    config["general_settings"] = {"master_key": "sk-master-of-the-fallbacks"}
    config["virtual_keys"] = [{"key": "sk-virtual-of-the-fallbacks", "models": ["a", "b"]}]
    async with gateway(json.dumps(config), tmp_path) as gw:
        key = {"authorization": "Bearer sk-virtual-of-the-fallbacks"}
        await gw.post(CHAT, question("a"), headers=key)
        named = await gw.post(CHAT, question("a"), headers={**key, "x-litellm-model": "c"})
    assert asked_for(provider) == "ab"
    assert named.status == 403


# -- what is broken stays alone --------------------------------------------------------------------------------------


async def storm(gw: Gateway, count: int, model: str = "m") -> Counter[int]:
    """So many requests, twenty at a time, and how they ended."""
    numbers = iter(range(count))
    ended: Counter[int] = Counter()

    async def client() -> None:
        for _ in numbers:
            ended[(await gw.post(CHAT, question(model))).status] += 1

    await asyncio.gather(*(client() for _ in range(20)))
    return ended


async def test_a_retry_storm(provider: FakeProvider, tmp_path: Path) -> None:
    """A provider that refuses everything sees no more than 1.2 times what was offered, whatever retries are configured."""
    provider.will(refusal(503))
    base = f"{provider.url}/v1"
    config = config_of(*(entry("m", f"openai/{name}", base) for name in "abc"), num_retries=5)
    async with gateway(config, tmp_path) as gw:
        ended = await storm(gw, 400)
        metrics = await (await gw.get("/metrics")).text()
    assert ended[503] + ended[429] == 400
    assert len(provider.requests) <= 1.2 * 400 + 3
    assert "litellm_deployment_cooled_down_total{" in metrics


async def test_the_budget_is_used_up(provider: FakeProvider, tmp_path: Path) -> None:
    """Without circuits it is the budget that holds: the first error is told at once, and a counter says how often."""
    provider.will(refusal(503))
    config = names(provider, "ab", num_retries=5, disable_cooldowns=True, fallbacks=[{"a": ["b"]}])
    async with gateway(config, tmp_path) as gw:
        ended = await storm(gw, 300, "a")
        metrics = await (await gw.get("/metrics")).text()
        refused = gw.rt.retry_budget.refused
    assert ended == {503: 300}
    assert len(provider.requests) <= 1.2 * 300 + 3
    assert refused > 0
    assert f"penstock_retries_refused_total {float(refused)}" in metrics


async def test_one_of_three_is_broken(provider: FakeProvider, tmp_path: Path) -> None:
    """No client sees that one deployment of three refuses everything, and it is hardly asked."""
    provider.will(by_model({"a": refusal(503), "b": whole(chat_answer()), "c": whole(chat_answer())}))
    base = f"{provider.url}/v1"
    config = config_of(*(entry("m", f"openai/{name}", base) for name in "abc"), num_retries=2)
    async with gateway(config, tmp_path) as gw:
        assert await storm(gw, 400) == {200: 400}
    assert len(provider.requests) <= 1.2 * 400
    assert asked_for(provider).count("a") <= 20


async def test_a_circuit(provider: FakeProvider, tmp_path: Path) -> None:
    """A model that keeps failing is left to its fallback at once, probed by one request, and asked again when it answers."""
    provider.will(by_model({"a": refusal(503), "b": whole(chat_answer())}))
    later = 0.0
    async with gateway(names(provider, "ab", fallbacks=[{"a": ["b"]}]), tmp_path) as gw:
        gw.rt.now = lambda: time.monotonic() + later
        assert await storm(gw, 60, "a") == {200: 60}
        assert 5 <= asked_for(provider).count("a") <= 25
        provider.requests.clear()
        answer = await gw.post(CHAT, question("a"))
        assert (asked_for(provider), answer.headers["x-litellm-attempted-retries"]) == ("b", "0")
        shown = {one["model"]: one["circuit"] for one in (await health(gw))["unhealthy_endpoints"]}
        assert shown == {"a": "open"}

        later = 5.1
        provider.requests.clear()
        provider.will(by_model({"a": hang, "b": whole(chat_answer())}))
        probe = spawn(gw.post(CHAT, question("a")), name="probe")
        while not provider.requests:
            await asyncio.sleep(0.001)
        assert await storm(gw, 20, "a") == {200: 20}
        assert asked_for(provider) == "a" + 20 * "b"
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        await gw.quiet()

        provider.requests.clear()
        provider.will(whole(chat_answer()))
        assert await storm(gw, 20, "a") == {200: 20}
        assert asked_for(provider).count("a") >= 1
        assert (await health(gw))["unhealthy_count"] == 0


async def health(gw: Gateway) -> Any:
    return await (await gw.get("/health")).json()


async def test_nobody_else(provider: FakeProvider, tmp_path: Path) -> None:
    """Where there is nobody else, a deployment with an open circuit is asked, once for each request: it may answer."""
    provider.will(refusal(503))
    async with gateway(names(provider, "m", num_retries=3), tmp_path) as gw:
        for _ in range(3):
            await gw.post(CHAT, question())
        provider.requests.clear()
        assert (await gw.post(CHAT, question())).status == 503
        assert len(provider.requests) == 1
        provider.will(whole(chat_answer()))
        assert (await gw.post(CHAT, question())).status == 200


async def test_failures_that_are_allowed(provider: FakeProvider, tmp_path: Path) -> None:
    """`allowed_fails_policy` counts by error, and a deployment's own `cooldown_time` goes before the router's."""
    provider.will(by_model({"a": refusal(429), "b": whole(chat_answer())}))
    config = levels(provider, "ab", num_retries=1, allowed_fails_policy={"RateLimitErrorAllowedFails": 2})
    read = json.loads(config)
    read["model_list"][0]["litellm_params"]["cooldown_time"] = 100
    async with gateway(json.dumps(read), tmp_path) as gw:
        for _ in range(6):
            assert (await gw.post(CHAT, question())).status == 200
        (shown,) = (await health(gw))["unhealthy_endpoints"]
    assert asked_for(provider) == "abababbbb"
    assert (90 < shown["cooldown_seconds"] <= 100, shown["cooldown_reason"]) == (
        True,
        "upstream_rate_limited",
    )


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_all_the_time_that_there_is(provider: FakeProvider, tmp_path: Path, stream: bool) -> None:
    """`total_timeout` ends a request wherever it is, and no fallback begins after it."""
    provider.will(hang)
    config = names(provider, "ab", fallbacks=[{"a": ["b"]}], total_timeout=0.1)
    async with gateway(config, tmp_path) as gw:
        answer = await gw.post(CHAT, question("a", stream=stream))
        (row,) = await gw.rows()
        in_flight = gw.rt.health.of(row.deployment_id).in_flight
    assert (answer.status, (await answer.json())["error"]["code"]) == (504, "total_timeout")
    assert (asked_for(provider), row.reason, in_flight) == ("a", "total_timeout", 0)


async def test_a_stream_that_takes_too_long(provider: FakeProvider, tmp_path: Path) -> None:
    """A stream that has begun ends with an error event, unclean, and nobody else is asked."""
    provider.will(events([*chat_events("Hi", done=False), None]))
    config = names(provider, "ab", fallbacks=[{"a": ["b"]}], total_timeout=0.2)
    async with gateway(config, tmp_path) as gw:
        answer = await gw.wire(CHAT, question("a", stream=True))
    assert (answer.status, answer.complete) == (200, False)
    assert b"Hi" in answer.body
    assert b'"total_timeout"' in answer.body
    assert asked_for(provider) == "a"


async def test_no_time_is_no_limit(provider: FakeProvider, tmp_path: Path) -> None:
    """`total_timeout: 0` says that there is none."""
    provider.will(whole(chat_answer()))
    async with gateway(names(provider, "m", total_timeout=0), tmp_path) as gw:
        assert (await gw.post(CHAT, question())).status == 200


async def test_connections_that_die_between_requests(provider: FakeProvider, gw: Gateway) -> None:
    """A provider that closes kept connections at any moment costs nobody an error, and each request is served once."""
    kinds = itertools.cycle(("fin", "reset", "kept"))

    async def play(_: FakeProvider, asked: Asked) -> None:
        await whole(chat_answer())(provider, asked)
        await asked.connection.writer.drain()
        kind = next(kinds)
        if kind == "fin":
            asked.connection.writer.close()
        elif kind == "reset":
            asyncio.get_running_loop().call_soon(asked.connection.reset)

    provider.will(play)
    ended = Counter([(await gw.post(CHAT, question("gpt-4o"))).status for _ in range(150)])
    assert ended == {200: 150}
    assert len(provider.requests) == 150
