"""Secrets stay where they are: canaries are planted wherever a secret may stand, a busy hour is played, and nothing that the
gateway said or wrote has one in it: no answer, no log line, no metric, no file, no row, no key in Redis.

The provider is the worst that there could be: it puts all headers that it was sent into its errors, and into their headers.
The canaries look like no known kind of key, so that they are found out by what the gateway knows, not by their looks.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from redis.asyncio import Redis

from tests.e2e.process import Process, penstock, run
from tests.harness import Asked, FakeProvider, chat_answer, chat_events, entry, events, whole

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
HELLO: Any = [{"role": "user", "content": "Hello!"}]
_TAIL = "q3vT8wZx1nB6"


def canary(name: str) -> str:
    return f"kanarie.{name}.{_TAIL}"


NAMES = (
    *("master", "virtual", "environment", "openai", "anthropic", "header", "awsid", "awssecret", "awstoken"),
    *("clientsecret", "account", "variable", "database", "redis", "stranger", "salt", "sealed", "listed"),
)
CANARIES = {name: canary(name) for name in NAMES}
MASTER = {"authorization": f"Bearer {CANARIES['master']}"}


async def blab(_: FakeProvider, asked: Asked) -> None:
    """All that was sent, in an error whose status and manner the question chooses."""
    text = asked.body.decode(errors="replace")
    status = next((number for number in (400, 401, 403, 404, 429, 500, 503) if f"say {number}" in text), 401)
    told = ", ".join(f"{name}: {value}" for name, value in asked.headers.items())
    bare = " ".join(value for value in asked.headers.values())
    error = {"error": {"message": f"refused: {told}", "code": bare, "type": told, "param": bare}}
    if "in the stream" in text:
        broken = b"data: " + json.dumps(error).encode() + b"\n\n"
        await events([*chat_events("a", done=False), broken])(_, asked)
    elif "no JSON" in text:
        await whole(f"<h1>{told}</h1>".encode(), status=500)(_, asked)
    else:
        safe = {f"x-{name}": value for name, value in asked.headers.items() if name.isascii()}
        await whole(error, status=status, headers={**safe, "x-request-id": bare})(_, asked)


def config(provider: FakeProvider, **general: Any) -> dict[str, Any]:
    base = f"{provider.url}/v1"
    prices = {"input_cost_per_token": "0.000001", "output_cost_per_token": "0.000001"}
    account = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": CANARIES["account"],
        "private_key": f"-----BEGIN PRIVATE KEY-----\n{CANARIES['account']}\n-----END PRIVATE KEY-----\n",
        "client_email": "a@p.iam.gserviceaccount.com",
        "token_uri": f"{provider.url}/token",
    }
    aws = {
        "aws_access_key_id": CANARIES["awsid"],
        "aws_secret_access_key": CANARIES["awssecret"],
        "aws_session_token": CANARIES["awstoken"],
        "aws_region_name": "eu-west-1",
        "aws_bedrock_runtime_endpoint": provider.url,
    }
    return {
        "model_list": [
            entry("o", "openai/o", base, api_key=CANARIES["openai"], extra_headers={"x-extra": CANARIES["header"]}, **prices),
            entry("a", "anthropic/a", provider.url, api_key=CANARIES["anthropic"], **prices),
            {"model_name": "e", "litellm_params": {"model": "mistral/e", "api_base": base, **prices}},
            {"model_name": "b", "litellm_params": {"model": "bedrock/anthropic.claude-3-haiku-20240307-v1:0", **aws}},
            {"model_name": "g", "litellm_params": {"model": "vertex_ai/gemini-2.5-pro", "vertex_project": "p", "vertex_location": "europe-west1", "vertex_credentials": json.dumps(account), "api_base": provider.url}},
            {"model_name": "z", "litellm_params": {"model": "azure/z", "api_base": provider.url, "azure_authority_host": provider.url, "tenant_id": "t", "client_id": "c", "client_secret": CANARIES["clientsecret"]}},
            {"model_name": "s", "litellm_params": {"model": "openai/s", "litellm_credential_name": "sealed", **prices}},
            {"model_name": "l", "litellm_params": {"model": "openai/l", "api_base": base, "litellm_credential_name": "listed", **prices}},
            {"model_name": "mock", "litellm_params": {"model": "openai/x", "mock_response": "Hello!"}},
        ],
        "credential_list": [{"credential_name": "listed", "credential_values": {"api_key": CANARIES["listed"]}}],
        "router_settings": {"num_retries": 1, "fallbacks": [{"o": ["a"]}]},
        "litellm_settings": {"max_budget": 100},
        "environment_variables": {"SOME_SECRET": CANARIES["variable"]},
        "virtual_keys": [{"key": CANARIES["virtual"], "key_alias": "configured", "max_budget": 1}],
        "general_settings": {"master_key": CANARIES["master"], **general},
    }  # fmt: skip


class Hour:
    """What was said in it, and to whom."""

    def __init__(self, gateway: Process, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._gateway = gateway
        self.secrets = dict(CANARIES)
        self.answers: list[tuple[str, str]] = []
        self.files: list[str] = []

    async def post(self, path: str, body: Any, headers: Mapping[str, str], *, shows: str = "") -> Any:
        """`shows` is the only secret that its answer may have."""
        return await self._ask("POST", path, headers, json.dumps(body), shows)

    async def get(self, path: str, headers: Mapping[str, str], *, shows: str = "") -> Any:
        return await self._ask("GET", path, headers, None, shows)

    async def _ask(
        self, method: str, path: str, headers: Mapping[str, str], data: str | None, shows: str
    ) -> Any:
        body = bytearray()
        async with self._session.request(
            method,
            self._gateway.url + path,
            data=data,
            headers={"content-type": "application/json", **headers},
        ) as answer:
            with suppress(aiohttp.ClientPayloadError):
                async for piece in answer.content.iter_any():
                    body += piece
        text = body.decode()
        said = "\n".join([*(f"{name}: {value}" for name, value in answer.headers.items()), text])
        self.answers.append((f"{answer.status} {path}", said.replace(shows, "") if shows else said))
        return json.loads(text) if text.startswith("{") else text

    async def seal(self, provider: FakeProvider) -> None:
        """A named credential for the next start, with all that can go wrong with one."""
        values = {"api_key": CANARIES["sealed"], "api_base": f"{provider.url}/v1"}
        made = {"credential_name": "sealed", "credential_values": values}
        for headers in ({}, {"authorization": f"Bearer {CANARIES['stranger']}"}, MASTER, MASTER):
            await self.post("/credentials", made, headers)
        for wrong in ({"api_base": CANARIES["sealed"]}, [CANARIES["sealed"]], CANARIES["sealed"]):
            await self.post("/credentials", {**made, "credential_values": wrong}, MASTER)
        await self.post("/credentials", {**made, "credential_info": CANARIES["sealed"]}, MASTER)
        await self.get("/credentials", MASTER)
        await self.get("/metrics", {})

    async def play(self) -> None:
        made = await self.post(
            "/key/generate", {"key_alias": "made", "max_budget": 1, "metadata": {"a": 1}}, MASTER
        )
        key = self.secrets["made"] = made["key"]
        self.answers.clear()  # it is shown this once
        for bearer in (key, CANARIES["virtual"], CANARIES["master"], CANARIES["stranger"]):
            await self.ask({"authorization": f"Bearer {bearer}"})
        for name in ("x-api-key", "api-key", "x-litellm-api-key", "authorization"):
            await self.ask({name: CANARIES["stranger"]})
            await self.get("/v1/models", {name: CANARIES["stranger"]})
        mine = {"authorization": f"Bearer {key}"}
        await self.get("/key/info", mine)
        await self.get(f"/key/info?key={key}", mine, shows=key)
        await self.get(f"/key/info?key={CANARIES['virtual']}", mine)
        await self.post("/key/update", {"key": key, "rpm_limit": 1}, MASTER, shows=key)
        await self.ask(mine)
        await self.post("/key/block", {"key": key}, MASTER)
        await self.ask(mine)
        await self.post("/key/update", {"key": key, "key_alias": "configured"}, MASTER)
        await self.post("/key/generate", {"key": key}, MASTER)
        again = await self.post("/key/regenerate", {"key": key, "grace_period": "1h"}, MASTER)
        self.secrets["again"] = again["key"]
        self.answers.pop()
        await self.post("/key/delete", {"keys": [again["key"], CANARIES["virtual"]]}, MASTER)
        await self.post("/key/delete", {"keys": [again["key"]]}, MASTER, shows=again["key"])
        for path in (
            *(
                "/",
                "/health",
                "/health/readiness",
                "/metrics",
                "/openapi.json",
                "/routes",
                "/public/providers",
            ),
            *("/v1/models", "/v1/models/o", "/key/list", "/key/list?return_full_object=true", "/key/aliases"),
            *("/spend/logs", "/global/spend", "/global/spend/logs", "/global/spend/models", "/key/info"),
            *("/credentials", "/credentials/by_name/sealed", "/credentials/by_name/listed"),
            f"/spend/logs?api_key={CANARIES['virtual']}",
            f"/v1/chat/completions?key={CANARIES['stranger']}",
        ):
            for headers in (MASTER, {}, mine):
                await self.get(path, headers)

    async def ask(self, headers: Mapping[str, str]) -> None:
        """Of all providers, in all ways in which it can go wrong."""
        said = [*(f"say {number}" for number in (400, 401, 404, 429, 500)), "no JSON"]
        for model in ("o", "a", "e", "b", "z", "s", "l", "mock", "nobody"):
            for words in said[:2] if model in ("nobody", "mock") else said:
                asked = {
                    "model": model,
                    "max_tokens": 5,
                    "num_retries": 0,
                    "messages": [{"role": "user", "content": words}],
                }
                await self.post(CHAT, asked, headers)
            await self.post(MESSAGES, asked, headers)
            stream = {**asked, "stream": True, "messages": [{"role": "user", "content": "in the stream"}]}
            await self.post(CHAT, stream, headers)
        smuggled = {"model": "o", "api_key": CANARIES["stranger"], "messages": HELLO}
        wrongs: list[Any] = [smuggled, {"model": 1}, []]
        for wrong in wrongs:
            await self.post(CHAT, wrong, headers)


def found(where: str, text: str | bytes, secrets: Mapping[str, str]) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [f"{name} in {where}" for name, secret in secrets.items() if secret.encode() in data]


def in_files(folder: Path, secrets: Mapping[str, str]) -> list[str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "config.yaml"]
    assert any(b"refused: " in path.read_bytes() for path in paths)  # there was something to tell
    return [
        where for path in paths for where in found(str(path.relative_to(folder)), path.read_bytes(), secrets)
    ]


def told(hour: Hour) -> Iterable[str]:
    return [where for path, said in hour.answers for where in found(path, said, hour.secrets)]


async def played(provider: FakeProvider, folder: Path, environ: Mapping[str, str]) -> Hour:
    provider.will(blab)
    (folder / "config.yaml").write_text(json.dumps(config(provider)))
    known = {
        "MISTRAL_API_KEY": CANARIES["environment"],
        "LITELLM_SALT_KEY": CANARIES["salt"],
        "LITELLM_LOG": "DEBUG",
        **environ,
    }
    flags = ("--config", "config.yaml", "--detailed_debug")
    async with (
        penstock(*flags, folder=folder, environ=known) as gateway,
        aiohttp.ClientSession() as session,
    ):
        before = Hour(gateway, session)
        await before.seal(provider)
        gateway.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0
        assert [*told(before), *found("the log", gateway.log + gateway.out, CANARIES)] == []
    async with (
        penstock(*flags, folder=folder, environ=known) as gateway,
        aiohttp.ClientSession() as session,
    ):
        hour = Hour(gateway, session)
        await hour.play()
        hour.files = in_files(folder, hour.secrets)  # the journal goes at the end
        gateway.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0
    assert len(hour.answers) > 300
    assert any("refused: " in said for _, said in hour.answers)
    assert {asked.headers.get("authorization") for asked in provider.requests} >= {
        f"Bearer {CANARIES['openai']}",
        f"Bearer {CANARIES['environment']}",
        f"Bearer {CANARIES['sealed']}",
        f"Bearer {CANARIES['listed']}",
    }
    return hour


async def test_alone(provider: FakeProvider, tmp_path: Path) -> None:
    """In memory and SQLite."""
    hour = await played(provider, tmp_path, {})
    assert [*told(hour), *hour.files, *in_files(tmp_path, hour.secrets)] == []


@asynccontextmanager
async def guarded(redis_url: str) -> AsyncIterator[str]:
    """The Redis for a user with a password."""
    user = f"canary-{uuid4().hex}"
    async with Redis.from_url(redis_url) as redis:
        await redis.acl_setuser(
            user,
            enabled=True,
            passwords=f"+{CANARIES['redis']}",
            keys=["*"],
            channels=["*"],
            categories=["+@all"],
        )
        try:
            yield f"redis://{user}:{CANARIES['redis']}@{urlsplit(redis_url).netloc.rpartition('@')[2]}/0"
        finally:
            await redis.acl_deluser(user)


def with_password(database_url: str) -> str:
    parts = urlsplit(database_url)
    return parts._replace(
        netloc=f"{parts.username}:{CANARIES['database']}@{parts.hostname}:{parts.port}"
    ).geturl()


async def test_with_servers(
    provider: FakeProvider, tmp_path: Path, redis_url: str, database_url: str
) -> None:
    """In Redis and Postgres, and not in what is kept there."""
    async with guarded(redis_url) as url:
        hour = await played(
            provider, tmp_path, {"REDIS_URL": url, "DATABASE_URL": with_password(database_url)}
        )
    where = [*told(hour), *hour.files, *in_files(tmp_path, hour.secrets)]
    connection = await asyncpg.connect(database_url)
    try:
        tables = await connection.fetch(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'penstock'"
        )
        assert tables
        for (table,) in tables:
            for (row,) in await connection.fetch(f'SELECT t::text FROM penstock."{table}" t'):
                where += found(table, row, hour.secrets)
    finally:
        await connection.close()
    async with Redis.from_url(redis_url) as redis:
        async for key in redis.scan_iter("penstock:*"):
            where += found("Redis", key, hour.secrets)
    assert where == []


async def test_servers_that_are_away(provider: FakeProvider, tmp_path: Path) -> None:
    """What is said of an address that does not answer has no password in it."""
    away = {
        "REDIS_URL": f"redis://user:{CANARIES['redis']}@127.0.0.1:1/0",
        "DATABASE_URL": f"postgres://user:{CANARIES['database']}@127.0.0.1:1/db",
    }
    provider.will(whole(chat_answer()))
    (tmp_path / "config.yaml").write_text(json.dumps(config(provider)))
    async with (
        penstock("--config", "config.yaml", "--detailed_debug", folder=tmp_path, environ=away) as gateway,
        aiohttp.ClientSession() as session,
    ):
        hour = Hour(gateway, session)
        for path in ("/health", "/health/readiness", "/metrics", "/key/list", "/spend/logs", "/global/spend"):
            await hour.get(path, MASTER)
        await hour.post("/key/generate", {}, MASTER)
        await hour.post(
            CHAT, {"model": "o", "messages": HELLO}, {"authorization": "Bearer sk-nobody-knows-it"}
        )
        await hour.post(CHAT, {"model": "o", "max_tokens": 5, "messages": HELLO}, MASTER)
        gateway.send_signal(signal.SIGTERM)
        await gateway.ended()
    log = found(
        "the log", (tmp_path / "stderr").read_bytes() + (tmp_path / "stdout").read_bytes(), hour.secrets
    )
    assert [*told(hour), *log] == []


@pytest.mark.parametrize(
    "broken",
    [
        {"database_url": f"mysql://user:{CANARIES['database']}@host/db"},
        {"database_url": f"postgres://user:{CANARIES['database']}@host:port/db"},
        {"database_url": f"postgres://user:{CANARIES['database']}@[::/db"},
        {"master_key": [CANARIES["master"]]},
        {"master_key": {"key": CANARIES["master"]}},
        {"unknown_setting": CANARIES["stranger"], "max_parallel_requests": "many"},
    ],
)
async def test_a_broken_configuration(provider: FakeProvider, tmp_path: Path, broken: dict[str, Any]) -> None:
    """What is wrong is told with its line, not with its text."""
    (tmp_path / "config.yaml").write_text(json.dumps(config(provider, **broken), indent=1))
    code, out, err = await run("check", "config.yaml", folder=tmp_path)
    assert code != 0
    secrets = {name: text for name, text in CANARIES.items() if name != "stranger"}
    assert found("what check says", out + err, secrets) == []


@pytest.mark.parametrize("url", ["http://:{}@host", "redis://user:{}@host:port", "redis://user:{}@[::"])
async def test_a_broken_address(provider: FakeProvider, tmp_path: Path, url: str) -> None:
    """The same of one in the environment."""
    (tmp_path / "config.yaml").write_text(json.dumps(config(provider)))
    environ = {"REDIS_URL": url.format(CANARIES["redis"])}
    flags = ("--config", "config.yaml", "--port", "0")
    async with asyncio.timeout(30):
        code, out, err = await run(*flags, folder=tmp_path, environ=environ)
    assert code != 0
    assert found("what is said at start", out + err, CANARIES) == []
