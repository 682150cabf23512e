"""Pages of other origins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cors import headers_for
from tests.harness import FakeProvider, Gateway, chat_answer, chat_events, config_for, events, gateway, whole

PAGE = "https://app.example"
HELLO: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture
async def listed(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A keyed gateway whose list names one page."""
    settings = {
        "master_key": "sk-master-of-the-test",
        "allowed_origins": [PAGE],
        "cors_allow_credentials": True,
    }
    async with gateway(config_for(provider, general_settings=settings), tmp_path) as gw:
        yield gw


async def preflight(gw: Gateway, path: str, origin: str) -> Any:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return await gw.session.options(gw.url + path, headers=headers)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/messages", "/openai/deployments/gpt-4o/embeddings"]
)
async def test_preflight(listed: Gateway, path: str) -> None:
    """A listed page may ask without a key what it may do, any other page gets no permission."""
    allowed = await preflight(listed, path, PAGE)
    assert allowed.status == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert "AUTHORIZATION" in allowed.headers["access-control-allow-headers"].upper()
    refused = await preflight(listed, path, "https://evil.example")
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_answers(provider: FakeProvider, listed: Gateway, stream: bool) -> None:
    """Answers that are written raw carry the same headers, for the listed page alone."""
    provider.will(events(chat_events("Hi")) if stream else whole(chat_answer()))
    key = {"authorization": "Bearer sk-master-of-the-test"}
    for origin, expected in ((PAGE, PAGE), ("https://evil.example", None), ("null", None)):
        answer = await listed.post(
            "/v1/chat/completions", {**HELLO, "stream": stream}, headers={**key, "origin": origin}
        )
        assert answer.status == 200
        assert answer.headers.get("access-control-allow-origin") == expected
        assert answer.headers.get("access-control-allow-credentials") == ("true" if expected else None)
        shown = answer.headers.get("access-control-expose-headers", "").split(", ")
        assert ("x-request-id" in shown, "*" in shown) == (expected is not None, False)
    assert answer.headers.get("vary") is None


async def test_errors(listed: Gateway) -> None:
    """A page can read why it was refused."""
    for path in ("/v1/chat/completions", "/v1/messages"):
        answer = await listed.post(path, HELLO, headers={"origin": PAGE})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, PAGE)


async def test_pages(listed: Gateway) -> None:
    """Management routes go through the library and say the same."""
    answer = await listed.get("/health", headers={"origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE
    other = await listed.get("/health", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    asked = await preflight(listed, "/key/generate", PAGE)
    assert {answer.headers["vary"] for answer in (answer, other, asked)} == {"Origin"}  # for caches


async def test_anybody(provider: FakeProvider, tmp_path: Path) -> None:
    """`*` lets every page in, without credentials."""
    settings = {"allowed_origins": ["*"]}
    provider.will(whole(chat_answer()))
    async with gateway(config_for(provider, general_settings=settings), tmp_path) as gw:
        for answer in (
            await gw.post("/v1/chat/completions", HELLO, headers={"origin": PAGE}),
            await gw.get("/health", headers={"origin": PAGE}),
            await preflight(gw, "/v1/messages", PAGE),
        ):
            assert answer.status == 200
            assert answer.headers["access-control-allow-origin"] in {"*", PAGE}
            assert "access-control-allow-credentials" not in answer.headers


def test_never_both() -> None:
    """`*` and credentials exclude each other even where both are asked for."""
    told = dict(headers_for(("*",), credentials=True)(PAGE))
    assert told["access-control-allow-origin"] == PAGE
    assert "access-control-allow-credentials" not in told


async def test_off(provider: FakeProvider, gw: Gateway) -> None:
    """Without a list no page is let in, and a preflight is a method that no route has."""
    provider.will(whole(chat_answer()))
    answer = await gw.post("/v1/chat/completions", HELLO, headers={"origin": PAGE})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert (await preflight(gw, "/v1/chat/completions", PAGE)).status == 405
