"""What is asked: reading and opening a request's body."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.endpoints import ENDPOINTS
from gateway.inbound import NO_CONTROLS, Head
from gateway.stages.body import _STEERING, _controls, _controls_of
from tests.harness import (
    FakeProvider,
    Gateway,
    chat_answer,
    config_for,
    config_of,
    entry,
    gateway,
    message_answer,
    receive,
    whole,
    written,
)

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
HELLO: Any = [{"role": "user", "content": "Hello!"}]
GOOD = b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]'

MALFORMED = {
    "empty": b"",
    "space": b"  \n ",
    "bom": b"\xef\xbb\xbf" + GOOD + b"}",
    "cut": GOOD,
    "two": GOOD + b"}{}",
    "array": b"[]",
    "string": b'"model"',
    "number": b"1",
    "null": b"null",
    "form": b"model=gpt-4o&messages=Hi",
    "utf-16": '{"model": "gpt-4o"}'.encode("utf-16"),
    "bad utf-8": GOOD + b',"x":"\xff"}',
    "overlong utf-8": GOOD + b',"x":"\xc0\xaf"}',
    "nan": GOOD + b',"temperature":NaN}',
    "infinity": GOOD + b',"temperature":-Infinity}',
    "single quotes": b"{'model': 'gpt-4o'}",
    "trailing comma": GOOD + b",}",
    "comment": GOOD + b"/* */}",
    "model twice": GOOD + b',"model":"claude"}',
    "escaped model twice": GOOD + b',"mod\\u0065l":"claude"}',
    "stream twice": GOOD + b',"stream":true,"stream":true}',
    "control character": b'{"model":"gpt\n-4o","messages":[]}',
}
DEEP = {
    "deep array": GOOD + b',"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep object": GOOD + b',"x":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001,
    "deep metadata": GOOD + b',"metadata":' + b"[" * 990 + b"]" * 990 + b"}",
}
WRONG = {
    "no model": b'{"messages":[]}',
    "model null": b'{"model":null,"messages":[]}',
    "model number": b'{"model":4,"messages":[]}',
    "model list": b'{"model":["gpt-4o"],"messages":[]}',
    "model empty": b'{"model":"","messages":[]}',
    "model lone surrogate": b'{"model":"\\ud800","messages":[]}',
    "model bad escape": b'{"model":"\\x","messages":[]}',
    "model endless": b'{"model":"' + b"m" * 100_000 + b'","messages":[]}',
    "no messages": b'{"model":"gpt-4o"}',
    "messages null": b'{"model":"gpt-4o","messages":null}',
    "messages text": b'{"model":"gpt-4o","messages":"Hi"}',
    "messages object": b'{"model":"gpt-4o","messages":{}}',
    "stream text": GOOD + b',"stream":"true"}',
    "stream number": GOOD + b',"stream":1}',
    "timeout endless": GOOD + b',"timeout":1' + b"0" * 400 + b"}",
    "timeout negative": GOOD + b',"timeout":-1}',
    "timeout text": GOOD + b',"timeout":"soon"}',
    "num_retries list": GOOD + b',"num_retries":[]}',
    "user lone surrogate": GOOD + b',"user":"\\ud800"}',
    "metadata lone surrogate": GOOD + b',"metadata":{"a":"\\ud800"}}',
}


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("name", [*MALFORMED, *DEEP, *WRONG])
async def test_malformed(provider: FakeProvider, gw: Gateway, name: str, path: str) -> None:
    """Whatever is wrong with a body is the caller's 400 in his dialect, never a 5xx and never the provider's business."""
    body = {**MALFORMED, **DEEP, **WRONG}[name]
    provider.will(whole({"error": {"message": "the provider's"}}, 400))
    answer = await gw.post(path, body)
    (row,) = await gw.rows()
    assert answer.status == 400
    told = await answer.json()
    assert told["error"]["type"] == "invalid_request_error"
    assert ("type" in told) is (path == MESSAGES)
    if name not in DEEP:  # how deep is too deep depends on the interpreter
        assert provider.requests == []
        assert "the provider's" not in told["error"]["message"]
    assert (row.status, row.http_status) == ("failure", 400)


@pytest.mark.parametrize(
    "key",
    [
        "api_base",
        "base_url",
        "api_key",
        "api_version",
        "custom_llm_provider",
        "aws_access_key_id",
        "aws_region_name",
        "vertex_project",
        "azure_ad_token",
        "extra_headers",
        "headers",
        "organization",
        "mock_testing_fallbacks",
    ],
)
async def test_where_requests_go_is_not_the_callers_choice(
    provider: FakeProvider, gw: Gateway, key: str
) -> None:
    """A request that names an address, a credential or a provider is refused."""
    answer = await gw.post(CHAT, {"model": "gpt-4o", "messages": HELLO, key: "x"})
    assert answer.status == 400
    assert (await answer.json())["error"]["param"] == key
    assert provider.requests == []


async def test_null_names_nothing(provider: FakeProvider, gw: Gateway) -> None:
    """Clients write `null` for what they do not say: it is left out, and hides nothing that is said."""
    provider.will(whole(chat_answer()))
    nothing = {"api_key": None, "organization": None, "aws_region_name": None}
    answer = await gw.post(CHAT, {"model": "gpt-4o", "messages": HELLO, **nothing})
    assert answer.status == 200
    assert provider.requests[0].json.keys() == {"model", "messages"}
    answer = await gw.post(CHAT, {"model": "gpt-4o", "messages": HELLO, **nothing, "headers": {}})
    assert (await answer.json())["error"]["param"] == "headers"


CONTROLS = {
    "cache": {"no-cache": True},
    "caching": True,
    "disable_fallbacks": True,
    "drop_params": True,
    "fallbacks": ["claude"],
    "guardrails": [],
    "litellm_call_id": "x",
    "litellm_metadata": {"a": 1},
    "litellm_session_id": "s",
    "max_retries": 0,
    "mock_response": "I am free",
    "no-log": True,
    "num_retries": 0,
    "priority": 3,
    "request_timeout": 5,
    "stream_timeout": 5,
    "tags": ["a", "b"],
    "timeout": 5,
}


@pytest.mark.parametrize(("path", "model"), [(p, m) for p in (CHAT, MESSAGES) for m in ("gpt-4o", "claude")])
async def test_the_gateways_words_stay_here(
    provider: FakeProvider, gw: Gateway, path: str, model: str
) -> None:
    """Control fields never reach a provider, and a caller cannot mock its answer."""
    provider.will(whole(chat_answer("real") if model == "gpt-4o" else message_answer("real")))
    body = {"model": model, "messages": HELLO, "max_tokens": 5, **CONTROLS}
    answer = await gw.post(path, body)
    assert "real" in await answer.text()
    assert set(provider.requests[0].json) - {"max_completion_tokens"} <= {"model", "messages", "max_tokens"}
    (row,) = await gw.rows()
    assert (row.tags, row.session_id) == (("a", "b"), "s")


async def test_metadata(provider: FakeProvider, gw: Gateway) -> None:
    """`metadata` is the gateway's in OpenAI's format and the client's own in Anthropic's."""
    provider.will(whole(chat_answer()), whole(message_answer()))
    told = {"tags": ["a"], "session_id": "s", "user_id": "u"}
    await gw.post(CHAT, {"model": "gpt-4o", "messages": HELLO, "metadata": told, "user": "v"})
    await gw.post(
        MESSAGES, {"model": "claude", "messages": HELLO, "max_tokens": 5, "metadata": {"user_id": "u"}}
    )
    first, second = (asked.json for asked in provider.requests)
    assert "metadata" not in first
    assert second["metadata"] == {"user_id": "u"}
    rows = await gw.rows(2)
    assert [(row.end_user, row.tags, row.session_id) for row in rows] == [("v", ("a",), "s"), ("u", (), None)]


async def test_headers_that_cross(provider: FakeProvider, gw: Gateway) -> None:
    """A provider of the client's format gets the listed headers byte for byte, and no other of the client's."""
    provider.will(whole(message_answer()))
    crossing = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "a-2025-01-01,b-2025-02-02",
        "idempotency-key": "k1",
        "traceparent": "00-1-2-01",
    }
    staying = {
        "cookie": "session=1",
        "authorization": "Bearer client",
        "x-api-key": "client",
        "api-key": "client",
        "x-forwarded-for": "1.2.3.4",
        "x-custom": "1",
        "connection": "keep-alive, x-nominated",
        "x-nominated": "1",
        "te": "trailers",
        "user-agent": "client/1",
        "x-litellm-tags": "t",
    }
    await gw.post(
        MESSAGES, {"model": "claude", "messages": HELLO, "max_tokens": 5}, headers={**crossing, **staying}
    )
    got = provider.requests[0].headers
    assert {name: got[name] for name in crossing} == crossing
    assert got["x-api-key"] == "sk-provider-key"
    assert not set(staying) - {"x-api-key", "user-agent", "connection"} & set(got)
    assert "client" not in json.dumps(got)


async def test_headers_of_a_request_cross_to_any_provider(provider: FakeProvider, tmp_path: Path) -> None:
    """Each request's own go with it, in whatever format, on one connection too; those of a format stay with it, and what the
    operator has set stays as it is.
    """
    config = config_of(
        entry("claude", "anthropic/claude-sonnet-4-5", provider.url),
        entry("gpt-4o", "openai/gpt-4o", f"{provider.url}/v1", extra_headers={"IDEMPOTENCY-KEY": "ours"}),
    )
    async with gateway(config, tmp_path) as gw, gw.connect() as (reader, writer):
        for number, model in enumerate(["claude", "gpt-4o", "claude", "gpt-4o"]):
            provider.will(whole(message_answer() if model == "claude" else chat_answer()))
            headers = {
                "traceparent": f"00-{number:032x}-2-01",
                "idempotency-key": f"k{number}",
                "openai-beta": "assistants=v2",
            }
            writer.write(written(CHAT, {"model": model, "messages": HELLO, "max_tokens": 5}, headers))
            assert (await receive(reader)).status == 200
    told = [asked.headers for asked in provider.requests]
    assert [one["traceparent"] for one in told] == [f"00-{number:032x}-2-01" for number in range(4)]
    assert [one.get("openai-beta") for one in told] == [None, "assistants=v2"] * 2
    assert [one["idempotency-key"] for one in told] == ["k0", "ours", "k2", "ours"]


STEERING = {
    "x-litellm-num-retries": "1",
    "x-litellm-max-retries": "1",
    "x-litellm-timeout": "9",
    "x-litellm-stream-timeout": "9",
    "x-litellm-priority": "1",
    "x-litellm-tags": "a",
    "x-litellm-session-id": "s",
    "x-claude-code-session-id": "s",
}


@pytest.mark.parametrize("header", STEERING)
def test_a_header_that_steers_is_heard(header: str) -> None:
    """Each alone says something, in any case; a head without any of them says nothing."""
    endpoint = next(endpoint for endpoint in ENDPOINTS if endpoint.path == CHAT)
    told = CIMultiDictProxy(CIMultiDict({header.title(): STEERING[header]}))
    head = Head(endpoint, told, remote=None, keep_alive=True)
    assert _controls_of(head) == _controls({}, told) != NO_CONTROLS
    assert set(STEERING) == _STEERING


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
async def test_any_content_type(provider: FakeProvider, gw: Gateway, content_type: str) -> None:
    """JSON is read whatever it is called."""
    provider.will(whole(chat_answer()))
    answer = await gw.post(CHAT, GOOD + b"}", headers={"content-type": content_type})
    assert answer.status == 200


@pytest.fixture
async def small(provider: FakeProvider, tmp_path: Path) -> Any:
    """A gateway that takes a megabyte at most."""
    config = config_for(provider, general_settings={"max_request_size_mb": 1})
    async with gateway(config, tmp_path) as gw:
        yield gw


BIG = GOOD + b',"x":"' + b"a" * 2_000_000 + b'"}'


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BIG, {}),
        (gzip.compress(BIG, mtime=0), {"content-encoding": "gzip"}),
        (zlib.compress(BIG), {"content-encoding": "deflate"}),
        (gzip.compress(b"0" * 200_000_000, mtime=0), {"content-encoding": "gzip"}),
    ],
    ids=["plain", "gzip", "deflate", "bomb"],
)
async def test_too_large(
    provider: FakeProvider, small: Gateway, body: bytes, headers: dict[str, str]
) -> None:
    """A body over the limit is 413, packed or not: what counts is what it unpacks to."""
    answer = await small.wire(CHAT, body, headers)
    assert answer.status == 413
    assert answer.headers["connection"] == "close"
    assert provider.requests == []
    (row,) = await small.rows()
    assert (row.reason, row.http_status, row.model_requested) == ("request_too_large", 413, "")
    assert small.rt.body_bytes == 0


async def test_too_large_in_chunks(small: Gateway) -> None:
    """A body without a length is 413 as soon as it is over the limit."""
    async with small.connect() as (reader, writer):
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(40):
            writer.write(b"ffff\r\n" + b" " * 0xFFFF + b"\r\n")
        answer = await receive(reader)
    assert answer.status == 413


async def test_a_packed_body(provider: FakeProvider, gw: Gateway) -> None:
    """A body that is packed with gzip is unpacked."""
    provider.will(whole(chat_answer()))
    answer = await gw.wire(CHAT, gzip.compress(GOOD + b"}"), {"content-encoding": "gzip"})
    assert answer.status == 200
    assert provider.requests[0].json["messages"] == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_body_that_is_not_packed_as_it_says(gw: Gateway, coding: str) -> None:
    """A body that cannot be unpacked is the caller's 400."""
    answer = await gw.wire(CHAT, GOOD + b"}", {"content-encoding": coding})
    assert answer.status == 400


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_too_slow(gw: Gateway, path: str) -> None:
    """A body that does not arrive in time is 408, and the connection closes."""
    gw.rt.limits.body_grace = 0.05
    gw.rt.limits.body_rate = 1_000_000_000
    async with gw.connect() as (reader, writer):
        writer.write(written(path, GOOD + b"}")[:-1])
        answer = await receive(reader)
        assert answer.status == 408
        assert answer.headers["connection"] == "close"
    (row,) = await gw.rows()
    assert (row.reason, row.http_status) == ("request_timeout", 408)
    assert gw.rt.body_bytes == 0


async def test_nobody_is_invited_who_knows_no_invitation(provider: FakeProvider, gw: Gateway) -> None:
    """A client of HTTP/1.0 would take `100 Continue` for its answer: what it expects is passed over (RFC 9110 10.1.1)."""
    provider.will(whole(chat_answer()))
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, GOOD + b"}", {"expect": "100-continue"}, version="1.0"))
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_no_room(gw: Gateway) -> None:
    """When the gateway holds as many bytes of requests as it may, it says so at once."""
    gw.rt.body_bytes = gw.rt.body_budget
    answer = await gw.post(CHAT, GOOD + b"}")
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("root", ["/openai/deployments/{}", "/engines/{}", "/v1/engines/{}"])
@pytest.mark.parametrize("name", ["gpt-4o", "team%2Fgpt", "team%2fgpt", "gpt%3A1"])
async def test_the_model_in_the_path(provider: FakeProvider, tmp_path: Path, root: str, name: str) -> None:
    """Azure's SDK and old engines name the model in the path, which counts more than the body; `/` is written %2F."""
    config = json.loads(config_for(provider))
    known = config["model_list"][0]
    config["model_list"] += [{**known, "model_name": "team/gpt"}, {**known, "model_name": "gpt:1"}]
    provider.will(whole(chat_answer()))
    async with gateway(json.dumps(config), tmp_path) as gw:
        answer = await gw.wire(
            f"{root.format(name)}/chat/completions?api-version=2024-10-21", {"messages": HELLO}
        )
        other = await gw.wire(f"{root.format(name)}/chat/completions", {"model": "claude", "messages": HELLO})
        (row, _) = await gw.rows(2)
    assert (answer.status, other.status) == (200, 200)
    assert [asked.json["model"] for asked in provider.requests] == ["gpt-4o-2024-08-06"] * 2
    assert row.model_requested in {"gpt-4o", "team/gpt", "gpt:1"}


async def test_names_are_bounded(provider: FakeProvider, gw: Gateway) -> None:
    """What a caller calls things is kept, so it is cut to a length."""
    provider.will(whole(chat_answer()))
    long = "x" * 100_000
    body = {
        "model": "gpt-4o",
        "messages": HELLO,
        "user": long,
        "tags": [long] * 100,
        "litellm_session_id": long,
    }
    assert (await gw.post(CHAT, {**body, "fallbacks": [f"m{n}" for n in range(10_000)]})).status == 200
    (row,) = await gw.rows()
    assert len(row.end_user or "") == len(row.session_id or "") == 500
    assert len(row.tags) == 50
    assert provider.requests[0].json["user"] == long


async def test_many_messages(provider: FakeProvider, gw: Gateway) -> None:
    """A hundred thousand messages go through, and other requests are answered meanwhile."""
    provider.will(whole(chat_answer()))
    body = json.dumps({"model": "gpt-4o", "messages": HELLO * 100_000}).encode()
    big, small = await asyncio.gather(gw.post(CHAT, body), gw.get("/health/liveness"))
    assert (big.status, small.status) == (200, 200)
    assert len(provider.requests[0].json["messages"]) == 100_000


@pytest.mark.parametrize("more", [{}, {"expect": "100-continue"}])
async def test_a_model_in_a_header_that_is_no_text(gw: Gateway, more: dict[str, str]) -> None:
    """Bytes that are no UTF-8 name a model that does not exist; the row can be written."""
    async with gw.connect() as (reader, writer):
        data = written(CHAT, {"messages": HELLO}, {"x-litellm-model": "NAME", **more})
        writer.write(data.replace(b"NAME", b"\xff\xe9"))
        answer = await receive(reader)
    (row,) = await gw.rows()
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
    assert row.model_requested == "\ufffd\ufffd"


async def test_fallbacks_that_are_no_names(provider: FakeProvider, gw: Gateway) -> None:
    """What is too long for a name is passed over: names are remembered, and a caller could send thousands of megabytes."""
    long = "f" * 100_000
    body = {"model": "gpt-4o", "messages": HELLO, "fallbacks": [long, {"model": long}, "claude"]}
    provider.will(whole({"error": {"message": "x"}}, 500), whole(message_answer()))
    answer = await gw.post(CHAT, body | {"context_window_fallback_dict": {long: "claude", "gpt-4o": long}})
    (row,) = await gw.rows()
    assert (answer.status, row.model_group) == (200, "claude")
    assert gw.rt.routes.find("another") is None
    assert max(map(len, gw.rt.routes._found)) < 1_000
