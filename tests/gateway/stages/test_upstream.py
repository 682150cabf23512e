"""Who begins to answer: retries, fallbacks, cooldowns."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapters.errors import UpstreamError, UpstreamTimeout
from gateway import asking
from gateway.background.supervisor import spawn
from gateway.client import ClientGone
from gateway.runtime import Runtime
from gateway.story import Interrupted
from gateway.upstreams import Prepared, UpstreamResponse
from gateway.upstreams.connection import Connection
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
    fake_provider,
    gateway,
    hang,
    holding,
    message_answer,
    message_events,
    whole,
)

CHAT = "/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "Hello!"}]


def question(model: str = "m", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO, **more}


def refusal(status: int, message: str = "no", **more: Any) -> Play:
    headers = more.pop("headers", {})
    return whole({"error": {"message": message, "type": None, "param": None, **more}}, status, headers)


def models(provider: FakeProvider) -> list[str]:
    return [asked.json["model"] for asked in provider.requests]


def two(provider: FakeProvider, **router: Any) -> str:
    """`m` is served by `a`, and by `b` where `a` cannot."""
    base = f"{provider.url}/v1"
    return config_of(
        entry("m", "openai/a", base, order=1), entry("m", "openai/b", base, order=2), num_retries=1, **router
    )


def chain(provider: FakeProvider, **router: Any) -> str:
    """`m` falls back to `n`."""
    base = f"{provider.url}/v1"
    return config_of(
        entry("m", "openai/a", base), entry("n", "openai/b", base), fallbacks=[{"m": ["n"]}], **router
    )


ELSEWHERE: list[tuple[int, dict[str, str], int, str]] = [
    (401, {}, 502, "upstream_auth"),
    (403, {}, 403, "upstream_forbidden"),
    (404, {}, 404, "upstream_not_found"),
    (408, {}, 504, "upstream_timeout"),
    (429, {}, 429, "upstream_rate_limited"),
    (429, {"code": "insufficient_quota"}, 429, "upstream_insufficient_quota"),
    (500, {}, 502, "upstream_error"),
    (502, {}, 502, "upstream_error"),
    (503, {}, 503, "upstream_overloaded"),
    (504, {}, 504, "upstream_timeout"),
    (529, {}, 503, "upstream_overloaded"),
]
HERE: list[tuple[int, dict[str, str], int, str]] = [
    (400, {}, 400, "upstream_bad_request"),
    (409, {}, 409, "upstream_bad_request"),
    (413, {}, 413, "upstream_bad_request"),
    (422, {}, 422, "upstream_bad_request"),
]
ANOTHER_MODEL = [
    (400, {"code": "context_length_exceeded"}, 400, "context_window_exceeded"),
    (400, {"code": "content_filter"}, 400, "content_policy_violation"),
]


@pytest.mark.parametrize(("status", "more", "told", "reason"), ELSEWHERE + HERE + ANOTHER_MODEL)
async def test_a_single_deployment_tells_its_error(
    provider: FakeProvider, tmp_path: Path, status: int, more: dict[str, str], told: int, reason: str
) -> None:
    """Each provider's status has its status for the client and its reason in the ledger."""
    provider.will(refusal(status, **more))
    base = f"{provider.url}/v1"
    async with gateway(config_of(entry("m", "openai/a", base)), tmp_path) as gw:
        answer = await gw.post(CHAT, question())
        (row,) = await gw.rows()
        condition = gw.rt.health.of(row.deployment_id)
    assert answer.status == told
    assert set((await answer.json())["error"]) == {"message", "type", "param", "code"}
    assert (row.status, row.reason, row.http_status) == ("failure", reason, told)
    assert (len(provider.requests), condition.in_flight) == (1, 0)


@pytest.mark.parametrize(("status", "more", "told", "reason"), ELSEWHERE)
@pytest.mark.parametrize("stream", [False, True])
async def test_another_deployment_answers(
    provider: FakeProvider,
    tmp_path: Path,
    status: int,
    more: dict[str, str],
    told: int,
    reason: str,
    stream: bool,
) -> None:
    """What is wrong with one deployment is tried at the next, and the client sees a plain success."""
    good = events(chat_events("Hi")) if stream else whole(chat_answer("Hi"))
    provider.will(by_model({"a": refusal(status, **more), "b": good}))
    async with gateway(two(provider), tmp_path) as gw:
        answer = await gw.post(CHAT, question(stream=stream))
        (row,) = await gw.rows()
    assert answer.status == 200
    assert b'"model":"m"' in (await answer.read()).replace(b": ", b":")
    assert models(provider) == ["a", "b"]
    assert (row.retries, row.fallbacks, row.status) == (1, 0, "success")
    assert [attempt.reason for attempt in row.attempts] == [reason, ""]
    assert answer.headers["x-litellm-attempted-retries"] == "1"


@pytest.mark.parametrize(("status", "more", "told", "reason"), HERE + ANOTHER_MODEL)
async def test_a_wrong_question_is_not_asked_twice(
    provider: FakeProvider, tmp_path: Path, status: int, more: dict[str, str], told: int, reason: str
) -> None:
    """What the caller did wrong is told at once: another deployment of the same model would say the same."""
    provider.will(refusal(status, "this is wrong", **more))
    async with gateway(two(provider), tmp_path) as gw:
        answer = await gw.post(CHAT, question())
    assert answer.status == told
    assert (await answer.json())["error"]["message"] == "this is wrong"
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("status", "more", "goes_on"),
    [
        *((status, more, True) for status, more, _, _ in ELSEWHERE + ANOTHER_MODEL),
        *((status, more, False) for status, more, _, _ in HERE),
    ],
)
async def test_who_falls_back(
    provider: FakeProvider, tmp_path: Path, status: int, more: dict[str, str], goes_on: bool
) -> None:
    """Another model is asked for everything but a malformed question, also where it is too long or not allowed."""
    provider.will(by_model({"a": refusal(status, **more), "b": whole(chat_answer("Hi", model="b"))}))
    async with gateway(chain(provider), tmp_path) as gw:
        answer = await gw.post(CHAT, question())
        (row,) = await gw.rows()
    assert models(provider) == (["a", "b"] if goes_on else ["a"])
    assert (answer.status == 200) is goes_on
    if goes_on:
        assert (await answer.json())["model"] == "m"
        assert answer.headers["x-litellm-attempted-fallbacks"] == "1"
        assert (row.fallbacks, row.model_requested, row.model_group, row.model) == (1, "m", "n", "b")


@pytest.mark.parametrize(
    "fallbacks",
    [
        [{"m": ["n", "o"]}],
        [{"model_name": "m", "fallbacks": ["n", "o"]}],
        ["m", "n", "o"],
        ["n", "o"],
        [{"*": ["n", "o"]}],
    ],
)
async def test_dialects_of_fallbacks(provider: FakeProvider, tmp_path: Path, fallbacks: Any) -> None:
    """A dict, a pair of names, and a bare list as a ring all lead from one model to the next."""
    base = f"{provider.url}/v1"
    config = config_of(*(entry(name, f"openai/{name}", base) for name in "mno"), fallbacks=fallbacks)
    provider.will(by_model({"m": refusal(500), "n": refusal(503), "o": whole(chat_answer())}))
    async with gateway(config, tmp_path) as gw:
        answer = await gw.post(CHAT, question())
    assert answer.status == 200
    assert models(provider) == ["m", "n", "o"]


@pytest.mark.parametrize(
    ("asked", "then"), [("m", ["n", "o"]), ("n", ["o"]), ("o", []), ("x", ["m", "n", "o"])]
)
async def test_a_ring(provider: FakeProvider, tmp_path: Path, asked: str, then: list[str]) -> None:
    """A member of a bare list falls to those after it, any other model to the whole list."""
    base = f"{provider.url}/v1"
    config = config_of(*(entry(name, f"openai/{name}", base) for name in "mnox"), fallbacks=["m", "n", "o"])
    provider.will(refusal(500))
    async with gateway(config, tmp_path) as gw:
        answer = await gw.post(CHAT, question(asked))
    assert answer.status == 502
    assert models(provider) == [asked, *then]


async def test_the_callers_own_fallbacks(provider: FakeProvider, tmp_path: Path) -> None:
    """A request may name its stand-ins, or forbid the configured ones, and the provider does not see these words."""
    provider.will(by_model({"a": refusal(500), "b": whole(chat_answer())}))
    base = f"{provider.url}/v1"
    async with gateway(config_of(entry("m", "openai/a", base), entry("n", "openai/b", base)), tmp_path) as gw:
        assert (await gw.post(CHAT, question(fallbacks=["n"]))).status == 200
        assert (await gw.post(CHAT, question(fallbacks=[{"model": "n"}]))).status == 200
        assert (await gw.post(CHAT, question(fallbacks=[{"m": ["n"]}]))).status == 200
    provider.will(refusal(500))
    async with gateway(chain(provider), tmp_path) as gw:
        assert (await gw.post(CHAT, question(disable_fallbacks=True))).status == 502
    assert models(provider) == ["a", "b"] * 3 + ["a"]
    assert all(set(asked.json) == {"model", "messages"} for asked in provider.requests)


async def test_all_fail(provider: FakeProvider, tmp_path: Path) -> None:
    """When nobody answers, the first error is told with all that was tried, and SDKs are told not to try again."""
    provider.will(by_model({"a": refusal(500, "first"), "b": refusal(503, "second")}))
    async with gateway(chain(provider), tmp_path) as gw:
        answer = await gw.post(CHAT, question())
    error = (await answer.json())["error"]
    assert answer.status == 502
    assert error["message"].startswith("first")
    assert "m (openai/a): 500" in error["message"]
    assert "n (openai/b): 503" in error["message"]
    assert answer.headers["x-should-retry"] == "false"


async def test_a_circuit_that_opens_is_told(
    provider: FakeProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, with where the deployment stands in the configuration."""
    provider.will(refusal(500))
    base = f"{provider.url}/v1"
    caplog.set_level("INFO", "penstock")
    async with gateway(config_of(entry("m", "openai/a", base), num_retries=0), tmp_path) as gw:
        for _ in range(7):
            assert (await gw.post(CHAT, question())).status == 502
    (told,) = [line for line in caplog.messages if "circuit" in line]
    assert told.startswith("openai/a, a deployment of m (")
    assert ".yaml:" in told
    assert told.endswith("its circuit is open: upstream_error")


async def test_a_single_attempt_leaves_retrying_to_the_client(provider: FakeProvider, gw: Gateway) -> None:
    """Where the gateway did not retry, nothing is said about retrying."""
    provider.will(refusal(500))
    answer = await gw.post(CHAT, question("gpt-4o"))
    assert "x-should-retry" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, "7"),
        ({"retry-after-ms": "2500"}, "3"),
        ({"retry-after": "1.2"}, "2"),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:09 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, "9"),
        ({"retry-after": "0"}, "1"),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
async def test_retry_after(
    provider: FakeProvider, gw: Gateway, headers: dict[str, str], seconds: str | None
) -> None:
    """The provider's wish comes to the client as whole seconds, at least one; nonsense does not."""
    provider.will(refusal(429, headers=headers))
    answer = await gw.post(CHAT, question("gpt-4o"))
    assert answer.status == 429
    assert answer.headers.get("retry-after") == seconds


async def test_retry_after_beyond_reason(provider: FakeProvider, gw: Gateway) -> None:
    """An absurd wish cools down for five minutes at most."""
    provider.will(refusal(429, headers={"retry-after": "9e99"}))
    first = await gw.post(CHAT, question("gpt-4o"))
    assert first.status == 429, await first.text()
    answer = await gw.post(CHAT, question("gpt-4o"))
    assert answer.status == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 301
    assert len(provider.requests) == 1


async def test_who_cannot_answer_is_not_asked_again(provider: FakeProvider, tmp_path: Path) -> None:
    """After a refused key another deployment is asked, and the one with the key not even when that one has failed too."""
    provider.will(by_model({"a": refusal(401), "b": refusal(503)}))
    settings = two(provider, disable_cooldowns=True)
    async with gateway(settings, tmp_path) as gw:
        await gw.post(CHAT, question(num_retries=3))
    assert models(provider) == ["a", "b", "b", "b"]


async def test_all_are_cooling(provider: FakeProvider, tmp_path: Path) -> None:
    """When all deployments are left out the client is told 429 and the shortest wait, and nobody is asked."""
    provider.will(
        by_model(
            {
                "a": refusal(429, headers={"retry-after": "100"}),
                "b": refusal(429, headers={"retry-after": "20"}),
            }
        )
    )
    async with gateway(two(provider), tmp_path) as gw:
        assert (await gw.post(CHAT, question())).status == 429
        answer = await gw.post(CHAT, question())
        rows = await gw.rows(2)
    error = (await answer.json())["error"]
    assert (answer.status, error["type"]) == (429, "all_deployments_in_cooldown")
    assert error["message"].startswith("No deployments available for selected model, Try again in")
    assert 18 <= int(answer.headers["retry-after"]) <= 21
    assert models(provider) == ["a", "b"]
    assert rows[1].reason == "no_deployment"


@pytest.mark.parametrize("status", [500, 503, 504, 401, 404])
async def test_the_last_one_is_never_left_out(provider: FakeProvider, tmp_path: Path, status: int) -> None:
    """A route's only available deployment is asked again, however often it fails."""
    provider.will(refusal(status, "no such model"))
    async with gateway(two(provider), tmp_path) as gw:
        for _ in range(9):
            await gw.post(CHAT, question())
        usable = [gw.rt.health.is_usable(d.id, gw.rt.now()) for d in gw.rt.routes.find("m").deployments]  # type: ignore[union-attr]  # it is there
    assert usable == [False, True]
    assert len(models(provider)[2:]) >= 8


async def test_num_retries(provider: FakeProvider, tmp_path: Path) -> None:
    """A single deployment is asked `num_retries` more times; a request, a deployment and a header may say otherwise."""
    provider.will(refusal(500))
    base = f"{provider.url}/v1"
    config = config_of(
        entry("m", "openai/a", base),
        entry("n", "openai/b", base, max_retries=1),
        num_retries=3,
        disable_cooldowns=True,
    )
    async with gateway(config, tmp_path) as gw:
        for body, headers, count in (
            (question(), {}, 4),
            (question(num_retries=0), {}, 1),
            (question(num_retries=2), {}, 3),
            (question(max_retries=1), {}, 2),
            (question(), {"x-litellm-num-retries": "1"}, 2),
            (question("n"), {}, 2),
        ):
            provider.requests.clear()
            assert (await gw.post(CHAT, body, headers=headers)).status == 502
            assert len(provider.requests) == count


async def test_a_bad_key_is_not_tried_twice(provider: FakeProvider, tmp_path: Path) -> None:
    """What stays broken is not asked again: a refused key, an empty account."""
    provider.will(refusal(401))
    config = config_of(entry("m", "openai/a", f"{provider.url}/v1"), num_retries=3)
    async with gateway(config, tmp_path) as gw:
        answer = await gw.post(CHAT, question())
    assert answer.status == 502
    assert len(provider.requests) == 1
    assert "sk-" not in await answer.text()


async def test_order_and_weight(provider: FakeProvider, tmp_path: Path) -> None:
    """A lower order always goes first, and a weight of zero is never chosen while another has one."""
    base = f"{provider.url}/v1"
    config = config_of(
        entry("m", "openai/a", base, order=2, weight=100),
        entry("m", "openai/b", base, order=1, weight=1),
        entry("m", "openai/c", base, order=1, weight=0),
    )
    provider.will(whole(chat_answer()))
    async with gateway(config, tmp_path) as gw:
        for _ in range(20):
            await gw.post(CHAT, question())
    assert set(models(provider)) == {"b"}


async def test_load_is_shared(provider: FakeProvider, tmp_path: Path) -> None:
    """Deployments of one name share its requests."""
    base = f"{provider.url}/v1"
    provider.will(whole(chat_answer()))
    async with gateway(config_of(*(entry("m", f"openai/{name}", base) for name in "ab")), tmp_path) as gw:
        while set(models(provider)) != {"a", "b"}:  # one in 2^n to go on
            await gw.post(CHAT, question())


OPENAI_FAILURES = {
    "error object": b'data: {"error": {"message": "no capacity", "code": 503}}\n\n',
    "error event": b'event: error\ndata: {"error": {"message": "no capacity", "type": "overloaded"}}\n\n',
    "error field": b'error: {"code": 503, "message": "no capacity", "type": "unavailable_error"}\n\n',
    "comment, then error": b': hello\n\ndata: {"error": {"message": "no capacity"}}\n\n',
    "garbage": b"data: <html>\n\n",
    "nothing": b"",
}


@pytest.mark.parametrize("piece", OPENAI_FAILURES.values(), ids=OPENAI_FAILURES.keys())
async def test_a_stream_that_begins_with_an_error(
    provider: FakeProvider, tmp_path: Path, piece: bytes
) -> None:
    """A stream whose first event is an error has not begun: another deployment answers."""
    provider.will(by_model({"a": events([piece] if piece else []), "b": events(chat_events("Hi"))}))
    async with gateway(two(provider), tmp_path) as gw:
        answer = await gw.wire(CHAT, question(stream=True))
        (row,) = await gw.rows()
    assert answer.complete
    assert b"no capacity" not in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert models(provider) == ["a", "b"]
    assert row.status == "success"


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_an_anthropic_stream_that_begins_with_an_error(tmp_path: Path, path: str) -> None:
    """The same for Anthropic's error event, whatever the client speaks."""
    bad = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}\n\n'
    async with fake_provider() as provider:
        config = config_of(
            entry("m", "anthropic/a", provider.url, order=1),
            entry("m", "anthropic/b", provider.url, order=2),
            num_retries=1,
        )
        provider.will(by_model({"a": events([bad]), "b": events(message_events("Hi"))}))
        async with gateway(config, tmp_path) as gw:
            answer = await gw.wire(path, question(stream=True, max_tokens=9))
    assert answer.complete
    assert b"Overloaded" not in answer.body
    assert b"Hi" in answer.body
    assert models(provider) == ["a", "b"]


@pytest.mark.parametrize(
    "play",
    [
        whole(b"<html><body>Welcome</body></html>", headers={"content-type": "text/html"}),
        whole(chat_answer()),
        whole({"error": {"message": "hidden"}}),
        whole(b""),
        events(chat_events("Hi")[:0], end="reset"),
        whole(b"<html>Bad gateway</html>", 502, {"content-type": "text/html"}),
        events(chat_events("Hi"), headers={"content-encoding": "gzip"}),
    ],
    ids=["html", "json", "hidden error", "empty", "reset", "html 502", "compressed"],
)
async def test_what_is_no_stream(provider: FakeProvider, tmp_path: Path, play: Play) -> None:
    """A page, a JSON answer or nothing at all instead of a stream is a failure of that deployment."""
    provider.will(by_model({"a": play, "b": events(chat_events("Hi"))}))
    async with gateway(two(provider), tmp_path) as gw:
        answer = await gw.wire(CHAT, question(stream=True))
    assert answer.complete
    assert models(provider) == ["a", "b"]
    assert b"html" not in answer.body


@pytest.mark.parametrize(
    "play",
    [
        whole(b"<html>", headers={"content-type": "text/html"}),
        whole(b'{"id": "x", "choices": [{"ind'),
        whole(b""),
        whole(b"[]"),
        whole({"error": {"message": "hidden", "code": 500}}),
        events(chat_events("Hi")),
    ],
    ids=["html", "truncated", "empty", "array", "hidden error", "a stream"],
)
async def test_what_is_no_answer(provider: FakeProvider, tmp_path: Path, play: Play) -> None:
    """A 200 that holds no answer is a failure of that deployment."""
    provider.will(by_model({"a": play, "b": whole(chat_answer("Hi"))}))
    async with gateway(two(provider), tmp_path) as gw:
        answer = await gw.post(CHAT, question())
    assert answer.status == 200
    assert models(provider) == ["a", "b"]


async def test_an_answer_that_is_cut(provider: FakeProvider, tmp_path: Path) -> None:
    """A whole answer shorter than its length is a failure of that deployment."""

    async def short(_: FakeProvider, asked: Any) -> None:
        asked.connection.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
        asked.connection.writer.close()

    provider.will(by_model({"a": short, "b": whole(chat_answer("Hi"))}))
    async with gateway(two(provider), tmp_path) as gw:
        assert (await gw.post(CHAT, question())).status == 200
    assert models(provider) == ["a", "b"]


async def test_unreachable(tmp_path: Path) -> None:
    """A provider that nobody answers for is a 502 in the client's dialect, and its row has one attempt."""
    config = config_of(entry("m", "openai/a", "http://127.0.0.1:9/v1"))
    async with gateway(config, tmp_path) as gw:
        answer = await gw.post("/v1/messages", question(max_tokens=5))
        (row,) = await gw.rows()
    assert answer.status == 502
    assert (await answer.json())["type"] == "error"
    assert (row.reason, len(row.attempts)) == ("upstream_unreachable", 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_first_event_deadline(provider: FakeProvider, gw: Gateway, stream: bool) -> None:
    """A provider that does not begin in time is a 504; the caller's `timeout` is obeyed, and not passed on."""

    async def silent(_: FakeProvider, asked: Any) -> None:
        await asked.connection.closed.wait()

    provider.will(silent)
    answer = await gw.post(CHAT, question("gpt-4o", stream=stream, timeout=0.05))
    assert answer.status == 504
    assert (await answer.json())["error"]["code"] == "first_event_timeout"
    await provider.requests[0].connection.closed.wait()
    assert "timeout" not in provider.requests[0].json
    (row,) = await gw.rows()
    assert gw.rt.health.of(row.deployment_id).in_flight == 0


async def test_a_deployments_defaults(provider: FakeProvider, tmp_path: Path) -> None:
    """What an operator sets fills what the request leaves open, and what he drops is gone."""
    base = f"{provider.url}/v1"
    config = config_of(
        entry(
            "m",
            "openai/a",
            base,
            temperature=0.5,
            max_tokens=7,
            additional_drop_params=["seed"],
            extra_body={"x": 1},
        )
    )
    provider.will(whole(chat_answer()))
    async with gateway(config, tmp_path) as gw:
        await gw.post(CHAT, question(seed=1, temperature=0.9))
        await gw.post(CHAT, question(max_completion_tokens=3))
    first, second = (asked.json for asked in provider.requests)
    assert first == {"model": "a", "messages": HELLO, "temperature": 0.9, "max_tokens": 7, "x": 1}
    assert second == {"model": "a", "messages": HELLO, "max_completion_tokens": 3, "temperature": 0.5, "x": 1}


async def test_a_token_that_does_not_come_is_waited_for_no_longer_than_an_answer(
    tmp_path: Path, provider: FakeProvider
) -> None:
    """Whoever gives tokens may be silent: the deployment's `timeout` holds for that too, then another one is asked."""
    application = {
        "tenant_id": "t",
        "client_id": "c",
        "client_secret": "s",
        "azure_authority_host": provider.url,
    }
    azure = entry("m", "azure/a", provider.url, api_key=None, order=1, timeout=0.05, **application)
    other = entry("m", "openai/b", f"{provider.url}/v1", order=2)

    async def play(server: FakeProvider, asked: Asked) -> None:
        await (hang if "oauth2" in asked.path else whole(chat_answer()))(server, asked)

    provider.will(play)
    async with gateway(config_of(azure, other, num_retries=1), tmp_path) as gw:
        answer = await gw.post(CHAT, question())
        (row,) = await gw.rows()
    assert answer.status == 200
    assert [(attempt.provider, attempt.reason) for attempt in row.attempts] == [
        ("azure", "upstream_timeout"),
        ("openai", ""),
    ]


@pytest.mark.parametrize("model", ["anthropic/a", "gemini/a", "bedrock/a", "watsonx/a"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_mock_answers_for_any_provider(tmp_path: Path, model: str, *, stream: bool) -> None:
    """Whatever format its provider speaks, and without anybody's credentials."""
    mock = {"model_name": "m", "litellm_params": {"model": model, "mock_response": "one two"}}
    async with gateway(config_of(mock), tmp_path) as gw:
        answers = [
            await gw.post(path, question(stream=stream, max_tokens=9)) for path in (CHAT, "/v1/messages")
        ]
        rows = await gw.rows(2)
    for answer in answers:
        assert answer.status == 200
        assert "two" in await answer.text()
    assert {(row.kind.provider, row.completion_tokens) for row in rows} == {(model.partition("/")[0], 2)}


async def test_count_tokens(provider: FakeProvider, gw: Gateway) -> None:
    """Anthropic counts itself; for others the count is estimated and nobody is asked."""
    provider.will(whole({"input_tokens": 12}))
    counted = await gw.post("/v1/messages/count_tokens", question("claude"))
    estimated = await gw.post("/v1/messages/count_tokens", question("gpt-4o"))
    assert await counted.json() == {"input_tokens": 12}
    assert (await estimated.json())["input_tokens"] == len(json.dumps(HELLO)) // 4
    assert [asked.path for asked in provider.requests] == ["/v1/messages/count_tokens"]
    assert [row.operation for row in await gw.rows(2)] == ["count_tokens"] * 2


async def test_what_a_provider_cannot(provider: FakeProvider, gw: Gateway) -> None:
    """An operation that the provider's format lacks is a 400 that names it."""
    provider.will(whole(message_answer()))
    answer = await gw.post("/v1/embeddings", {"model": "claude", "input": "x"})
    assert answer.status == 400
    assert "embeddings" in (await answer.json())["error"]["message"]
    (row,) = await gw.rows()
    assert (row.reason, row.attempts) == ("unsupported", ())


async def test_a_group_of_two_formats(provider: FakeProvider, tmp_path: Path) -> None:
    """What one deployment's format cannot say, another deployment of the same name is asked."""
    config = config_of(
        entry("m", "anthropic/a", provider.url, order=1),
        entry("m", "openai/b", f"{provider.url}/v1", order=2),
        num_retries=1,
    )
    provider.will(
        whole({"object": "list", "data": [], "model": "b", "usage": {"prompt_tokens": 3, "total_tokens": 3}})
    )
    async with gateway(config, tmp_path) as gw:
        answer = await gw.post("/v1/embeddings", {"model": "m", "input": "x"})
        (row,) = await gw.rows()
    assert answer.status == 200
    assert (row.input, row.output, row.status) == (3, 0, "success")


@pytest.mark.parametrize("is_first", [True, False])
async def test_who_has_no_word_for_it_hides_no_failure(
    provider: FakeProvider, tmp_path: Path, *, is_first: bool
) -> None:
    """A deployment that cannot be asked is no attempt: wherever it stands, the failure of the other one is repeated as often as it
    may be, and leads to the fallbacks.
    """
    answer = {"object": "list", "data": [], "model": "c", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    config = config_of(
        entry("m", "anthropic/a", provider.url, order=1 if is_first else 3),
        entry("m", "openai/b", f"{provider.url}/v1", order=2),
        entry("n", "openai/c", f"{provider.url}/v1"),
        num_retries=1,
        disable_cooldowns=True,
        fallbacks=[{"m": ["n"]}],
    )
    provider.will(by_model({"b": refusal(500), "c": whole(answer)}))
    async with gateway(config, tmp_path) as gw:
        told = await gw.post("/v1/embeddings", {"model": "m", "input": "x"})
    assert (told.status, models(provider)) == (200, ["b", "b", "c"])


async def test_who_has_no_word_for_it_needs_no_retry(provider: FakeProvider, tmp_path: Path) -> None:
    """Nothing was sent, so another deployment is asked where there are no retries too."""
    config = config_of(
        entry("m", "anthropic/a", provider.url, weight=1_000_000_000),
        entry("m", "openai/b", f"{provider.url}/v1"),
        num_retries=0,
    )
    provider.will(whole({"object": "list", "data": [], "model": "b", "usage": {}}))
    async with gateway(config, tmp_path) as gw:
        assert (await gw.post("/v1/embeddings", {"model": "m", "input": "x"})).status == 200


async def test_a_place_that_is_taken_while_room_is_looked_for(tmp_path: Path) -> None:
    """A retry was to go to the second deployment, and another request takes its only place while the store of limits is asked: the
    limit holds.
    """
    async with fake_provider() as one, fake_provider() as other:
        one.will(whole(b"neither JSON nor free of charge"))
        other.will(events([None, *chat_events("Hi")]))
        prices = {"input_cost_per_token": "0.000001", "output_cost_per_token": "0.000001"}
        config = config_of(
            entry("m", "openai/a", f"{one.url}/v1", order=1, **prices),
            entry("m", "openai/b", f"{other.url}/v1", order=2, max_parallel_requests=1, **prices),
            num_retries=1,
        )
        config = json.dumps({**json.loads(config), "litellm_settings": {"max_budget": "100"}})
        async with gateway(config, tmp_path) as gw, holding(gw) as (asked, let_go):
            first = spawn(gw.post(CHAT, question()), name="first")
            await asked.wait()
            second = spawn(gw.post(CHAT, question(stream=True)), name="second")  # the first one cools down
            await other.asked()
            let_go.set()
            while not first.done() and len(other.requests) == 1:
                await asyncio.sleep(0.001)
            other.gate.set()
            assert (await first).status == 502
            assert (await second).status == 200
    assert len(other.requests) == 1


@pytest.mark.parametrize("turns", range(4))
async def test_who_leaves_while_one_of_several_calls_fails(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """However close both come, the request has ended, and nobody goes on to look for somebody else."""
    config = config_of(
        entry("m", "cohere/a", provider.url, order=1),
        entry("m", "cohere/b", provider.url, order=2),
        num_retries=1,
    )
    provider.will(refusal(500))
    refusal_of = asking._refusal

    def leave(rt: Runtime, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(leave, rt, turns - 1)
        else:
            for x in rt.open:
                x.story.interrupt(ClientGone())

    async def refuse(rt: Runtime, *asked: Any) -> UpstreamError:
        error = await refusal_of(rt, *asked)
        leave(rt, turns)
        return error

    monkeypatch.setattr(asking, "_refusal", refuse)
    async with gateway(config, tmp_path) as gw:
        with pytest.raises(aiohttp.ClientError):
            await gw.post("/v1/embeddings", {"model": "m", "input": ["x"] * 200})
        (row,) = await gw.rows()
    assert row.status == "client_disconnected"


async def test_debug_tells_the_story(
    provider: FakeProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At DEBUG the log tells each attempt, the connection that was opened and the cooldown; a refused key is a warning."""
    caplog.set_level(logging.DEBUG, "penstock")
    provider.will(refusal(401), whole(chat_answer()))
    async with gateway(two(provider), tmp_path) as gw:
        answer = await gw.post(CHAT, question())
        request = answer.headers["x-request-id"]
    told = [record.getMessage() for record in caplog.records]
    asked = [text for text in told if text.startswith(f"request {request} asked")]
    assert ["openai/a" in asked[0], "upstream_auth" in asked[0], "openai/b" in asked[1]] == [True] * 3
    assert any(text.startswith(f"connection to {provider.url} opened") for text in told)
    assert any("cools down for 5 s: upstream_auth" in text for text in told)
    (warned,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "refused the key of openai/a, a deployment of m" in warned


# -- connections ------------------------------------------------------------------------------------------------------


async def test_who_is_interrupted_at_the_end_takes_nobody_elses_connection(
    gw: Gateway, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task hears of its answer's end a turn later. By then the connection may be lent again: it is not ours to close."""
    provider.will(whole(chat_answer()))
    assert (await gw.post(CHAT, question("gpt-4o"))).status == 200
    upstreams = gw.rt.upstreams
    ask = upstreams.ask
    lent: list[Connection | None] = []

    async def interrupted(prepared: Prepared, body: bytes, **more: Any) -> UpstreamResponse:
        assert more["sent"] is not None
        await ask(prepared, body, **more)
        lent.append(upstreams.dispatch(prepared, body))
        raise Interrupted(UpstreamTimeout("Too late", code="first_event_timeout"))

    monkeypatch.setattr(upstreams, "ask", interrupted)
    assert (await gw.post(CHAT, question("gpt-4o"))).status == 504
    assert [connection is not None and connection.is_connected for connection in lent] == [True]
    assert len(provider.connections) == 1
