"""Who asks: a matrix made from the tables of routes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.routes import PAGES
from gateway.endpoints import ENDPOINTS
from gateway.logs import RefusalLog
from gateway.state.records import RecordsUnavailable
from tests.harness import FakeProvider, Gateway, chat_answer, config_for, gateway, receive, whole, written

MASTER = "any non-empty string"
FOREIGN: list[dict[str, str]] = [
    {"x-forwarded-for": "127.0.0.1"},
    {"x-forwarded-host": "localhost"},
    {"forwarded": "for=127.0.0.1"},
    {"via": "1.1 proxy"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"host": "evil.example"},
    {"host": "evil.example:4000", "origin": "http://evil.example:4000"},
]
ROUTES = [
    *((page.method, re.sub(r"\{[^}]*\}", "gpt-4o", page.path), page.access) for page in PAGES),
    *((endpoint.method, endpoint.path.replace("{model}", "gpt-4o"), "caller") for endpoint in ENDPOINTS),
]
PUBLIC = {
    "/",
    "/health",
    "/health/liveliness",
    "/health/liveness",
    "/health/readiness",
    "/metrics",
    "/metrics/",
    "/routes",
    "/openapi.json",
    "/public/providers",
}


@pytest.fixture
async def keyed(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with a master key."""
    async with gateway(config_for(provider, general_settings={"master_key": MASTER}), tmp_path) as gw:
        yield gw


async def status(gw: Gateway, method: str, path: str, headers: dict[str, str] | None = None) -> int:
    """The status of a request whose body is no JSON object; 400 means that it was let in."""
    host = (headers or {}).get("host", "localhost")
    told = {name: value for name, value in (headers or {}).items() if name != "host"}
    async with gw.connect() as (reader, writer):
        request = written(path, b"[]" if method == "POST" else b"", told, method=method)
        writer.write(request.replace(b"host: localhost", f"host: {host}".encode()))
        return (await receive(reader)).status


def let_in(method: str, path: str) -> int:
    """The status that says so."""
    if path.startswith("/credentials/") and method != "POST":
        return 404  # nobody has made one of this name
    return 400 if method == "POST" else 200


def test_what_is_public() -> None:
    """The pages that need no key are these, and no others."""
    assert {path for _, path, access in ROUTES if access == "public"} == PUBLIC


@pytest.mark.parametrize(("method", "path", "access"), ROUTES)
async def test_keyed(keyed: Gateway, method: str, path: str, access: str) -> None:
    """With a master key: nobody without it, nobody with another, and its holder everywhere."""
    inside = let_in(method, path)
    refused = inside if access == "public" else 401
    assert await status(keyed, method, path) == refused
    assert await status(keyed, method, path, {"authorization": "Bearer wrong"}) == refused
    assert await status(keyed, method, path, {"authorization": f"Bearer {MASTER}"}) == inside
    assert (
        await status(keyed, method, path, {"authorization": f"Bearer {MASTER}", "via": "1.1 proxy"}) == inside
    )


@pytest.mark.parametrize(("method", "path", "access"), ROUTES)
async def test_a_virtual_key(keyed: Gateway, gw: Gateway, method: str, path: str, access: str) -> None:
    """With a virtual key: where everybody may, where callers may, and to no page that manages; in an open gateway too."""
    inside = let_in(method, path)
    for server in (keyed, gw):
        key = await made(server)
        assert await status(server, method, path, {"authorization": f"Bearer {key}"}) == (
            401 if access == "admin" else inside
        )
        await server.post("/key/block", {"key": key}, headers={"x-api-key": MASTER})
        assert await status(server, method, path, {"x-api-key": key}) == (
            inside if access == "public" else 401
        )


async def made(gw: Gateway, **fields: Any) -> str:
    """A new virtual key."""
    answer = await gw.post("/key/generate", fields, headers={"x-api-key": MASTER})
    return str((await answer.json())["key"])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/models"])
async def test_while_the_records_are_away(
    keyed: Gateway, monkeypatch: pytest.MonkeyPatch, provider: FakeProvider, path: str
) -> None:
    """A key that is known goes on; of another nobody can tell, which is a 503 that says when to come again."""
    provider.will(whole(chat_answer()))
    key = await made(keyed)

    async def away(digest: str) -> None:
        raise RecordsUnavailable("away")

    monkeypatch.setattr(keyed.rt.records, "key", away)
    method = "GET" if path.endswith("models") else "POST"
    assert await status(keyed, method, path, {"x-api-key": key}) == (200 if method == "GET" else 400)
    async with keyed.connect() as (reader, writer):
        writer.write(written(path, b"", {"x-api-key": "sk-another-key-00001"}, method=method))
        answer = await receive(reader)
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")


@pytest.mark.parametrize(("method", "path", "access"), ROUTES)
async def test_open(gw: Gateway, method: str, path: str, access: str) -> None:
    """Without one: everybody may use models, and only this machine may manage, or see how requests are routed."""
    inside = let_in(method, path)
    manages = access == "admin" or path == "/router/explain"
    assert await status(gw, method, path) == inside
    assert await status(gw, method, path, {"authorization": "Bearer anything"}) == inside
    for headers in FOREIGN:
        assert await status(gw, method, path, headers) == (403 if manages else inside), headers


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:4000", "http://127.0.0.1:4000", "http://[::1]:4000", "http://[::ffff:127.0.0.1]"],
)
async def test_pages_of_this_machine(gw: Gateway, origin: str) -> None:
    """A page that this machine serves may manage an open gateway."""
    assert await status(gw, "GET", "/global/spend", {"origin": origin}) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {MASTER}"},
        {"authorization": f"bearer  {MASTER}"},
        {"x-api-key": MASTER},
        {"api-key": MASTER},
        {"x-goog-api-key": MASTER},
        {"x-litellm-api-key": MASTER},
        {"x-litellm-api-key": f"Bearer {MASTER}", "authorization": "Basic dXNlcjpwdw=="},
        {"x-api-key": MASTER, "x-goog-api-key": "wrong"},
    ],
)
async def test_where_a_key_may_stand(keyed: Gateway, headers: dict[str, str]) -> None:
    """A key is found in each of five headers, and the first in their order counts."""
    assert await status(keyed, "GET", "/v1/models", headers) == 200


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "Authentication Error, No api key passed in."),
        ({"authorization": MASTER}, "Authentication Error, Malformed API Key passed in."),
        ({"authorization": "Basic dXNlcjpwdw=="}, "Authentication Error, Malformed API Key passed in."),
        ({"authorization": "Bearer "}, "Authentication Error, No api key passed in."),
        (
            {"authorization": "Bearer wrong", "x-api-key": MASTER},
            "Authentication Error, Invalid API key provided.",
        ),
        ({"x-api-key": MASTER + "x"}, "Authentication Error, Invalid API key provided."),
        ({"x-api-key": MASTER[:-1]}, "Authentication Error, Invalid API key provided."),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_refusals(keyed: Gateway, path: str, headers: dict[str, str], message: str) -> None:
    """Whoever is not known gets LiteLLM's words in the dialect of the path, and leaves no row."""
    answer = await keyed.wire(path, {}, headers)
    assert answer.status == 401
    assert answer.json["error"]["message"].startswith(message)
    assert answer.json["error"]["type"] in {"auth_error", "token_not_found_in_db", "authentication_error"}
    await keyed.quiet()
    assert await keyed.rows(0) == []


@pytest.mark.parametrize(
    "name", ["authorization", "x-api-key", "api-key", "x-litellm-api-key", "x-goog-api-key"]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/models"])
async def test_a_credential_twice(keyed: Gateway, name: str, path: str) -> None:
    """The same credential header twice is 400, whatever stands in it."""
    value = f"Bearer {MASTER}" if name == "authorization" else MASTER
    method = "GET" if path.endswith("models") else "POST"
    async with keyed.connect() as (reader, writer):
        writer.write(written(path, b"", [(name, value), (name, value)], method=method))
        assert (await receive(reader)).status == 400


async def test_public_routes(provider: FakeProvider, tmp_path: Path) -> None:
    """`public_routes` opens what it names, and nothing beside it."""
    settings = {"master_key": MASTER, "public_routes": ["/v1/models", "/v1/chat/completions"]}
    provider.will(whole(chat_answer()))
    async with gateway(config_for(provider, general_settings=settings), tmp_path) as gw:
        assert await status(gw, "GET", "/v1/models") == 200
        assert await status(gw, "GET", "/models") == 401
        assert await status(gw, "POST", "/chat/completions") == 401
        answer = await gw.post("/v1/chat/completions", {"model": "gpt-4o", "messages": []})
        (row,) = await gw.rows()
    assert answer.status == 200
    assert row.caller_kind == "anonymous"


async def test_metrics_can_be_closed(provider: FakeProvider, tmp_path: Path) -> None:
    """`require_auth_for_metrics_endpoint` closes both paths."""
    more: dict[str, Any] = {
        "general_settings": {"master_key": MASTER},
        "litellm_settings": {"require_auth_for_metrics_endpoint": True},
    }
    async with gateway(config_for(provider, **more), tmp_path) as gw:
        for path in ("/metrics", "/metrics/"):
            assert await status(gw, "GET", path) == 401
            assert await status(gw, "GET", path, {"x-api-key": MASTER}) == 200


async def test_the_body_waits_for_the_key(keyed: Gateway) -> None:
    """A caller is refused before a byte of his body is read."""
    async with keyed.connect() as (reader, writer):
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        assert (await receive(reader)).status == 401


@pytest.mark.parametrize(
    "path",
    [
        "//global/spend",
        "/x/..//global/spend",
        "/v1/models/%2e%2e/%2e%2e/global/spend",
        "/v1/models/..;/global/spend",
        "/global\\spend",
        "/global%5cspend",
        "/global/spend;x=/health",
        "/global/spend%00",
        "/health/%2E%2E/global/spend",
    ],
)
async def test_tricks(keyed: Gateway, path: str) -> None:
    """Paths that read differently to different readers are refused before any route is looked at."""
    assert await status(keyed, "GET", path) == 400


@pytest.mark.parametrize(
    "path",
    [
        "/global%2fspend",
        "/global/spend/",
        "/GLOBAL/SPEND",
        "/health/../global/spend",
        "/v1%2Fmodels",
        "/global/spend%20",
    ],
)
async def test_near_misses(keyed: Gateway, path: str) -> None:
    """Nothing but the path itself leads to a page."""
    assert await status(keyed, "GET", path) in {400, 401, 404}


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"]
)
async def test_other_methods(keyed: Gateway, method: str) -> None:
    """A method that a page does not have gets nobody in, nor does a header that names another."""
    assert await status(keyed, method, "/global/spend") in {400, 404, 405}
    assert await status(keyed, "GET", "/global/spend", {"x-http-method-override": method}) == 401


async def test_an_absolute_url(keyed: Gateway) -> None:
    """A request line with a whole URL in it is judged by its path."""
    assert await status(keyed, "GET", "http://localhost/global/spend") == 401
    assert await status(keyed, "GET", "http://localhost/health") == 200


async def test_many_refusals_are_one_line(keyed: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """Refusals are counted, and the log holds back what repeats; no line shows a key."""
    await asyncio.gather(
        *(keyed.wire("/v1/chat/completions", {}, {"x-api-key": "sk-canary-0123456789"}) for _ in range(20))
    )
    await keyed.quiet()
    metrics = await (await keyed.get("/metrics")).text()
    assert 'penstock_unidentified_refusals_total{reason="invalid_key"} 20.0' in metrics
    lines = [record for record in caplog.records if record.message == "request refused"]
    assert len(lines) == 1
    assert "canary" not in json.dumps([str(vars(line)) for line in lines])


async def test_refusals_of_pages_are_told(keyed: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever tries keys on a page that manages leaves as many traces as on a model route."""
    key = await made(keyed)
    for _ in range(3):
        assert await status(keyed, "GET", "/key/list", {"x-api-key": "sk-canary-0123456789"}) == 401
    assert await status(keyed, "POST", "/key/generate", {"authorization": f"Bearer {key}"}) == 401
    metrics = await (await keyed.get("/metrics")).text()
    assert 'penstock_unidentified_refusals_total{reason="invalid_key"} 3.0' in metrics
    assert 'penstock_unidentified_refusals_total{reason="not_admin"} 1.0' in metrics
    told = [vars(record)["fields"] for record in caplog.records if record.message == "request refused"]
    assert [(one["reason"], one["path"], one["key"]) for one in told] == [
        ("invalid_key", "/key/list", "sk-...6789"),
        ("not_admin", "/key/generate", f"sk-...{key[-4:]}"),
    ]


@pytest.mark.parametrize("name", ["authorization", "x-litellm-api-key", "api-key", "x-goog-api-key"])
async def test_the_key_that_was_refused(keyed: Gateway, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """The log has the end of the key that was looked at, wherever it stood, and nothing of a short one."""
    for key, shown in (("sk-canary-0123456789", "sk-...6789"), ("canary-01", "***")):
        caplog.clear()
        keyed.rt.refusals = RefusalLog()
        value = f"Bearer {key}" if name == "authorization" else key
        await keyed.wire("/v1/chat/completions", {}, {"x-goog-api-key": "sk-another-0000", name: value})
        await keyed.quiet()
        (told,) = [vars(record)["fields"] for record in caplog.records if record.message == "request refused"]
        assert told["key"] == shown
