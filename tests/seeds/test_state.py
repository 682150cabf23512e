"""Where state is: Postgres and Redis as each document names them, by URL or in parts, and neither."""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.state.shared_memory import MemoryShared
from gateway.state.shared_redis import RedisShared
from tests.harness import FakeProvider, Gateway, config_of, entry, gateway
from tests.seeds.deployment import question, written
from tests.seeds.documents import Shelf


def _parts(database_url: str) -> dict[str, str]:
    """The pieces that documents put together."""
    found = urlsplit(database_url)
    return {
        "POSTGRES_USER": found.username or "",
        "POSTGRES_PASSWORD": "p@ss/word:of the books",
        "POSTGRES_HOST": found.hostname or "",
        "POSTGRES_PORT": str(found.port),
        "POSTGRES_LITELLM_DB": found.path[1:],
    }


def _filled(template: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], template)


@pytest.mark.rows("A5", "C11", "L10")
async def test_a_database_by_its_url(
    provider: FakeProvider, database_url: str, tmp_path: Path, seeds: Shelf
) -> None:
    """`postgres://` and `postgresql://`: requests are in its tables, and under LiteLLM's names where psql looks first."""
    (template,) = re.findall(r"postgres://\$\{[^`\s]+", seeds[1].text)
    values = {**_parts(database_url), "POSTGRES_PASSWORD": "password"}
    for url in (_filled(template, values), database_url.replace("postgres://", "postgresql://")):
        environ = {
            "DATABASE_URL": url,
            "OPENAI_API_KEY": "sk-of-openai",
            "OPENAI_API_BASE": f"{provider.url}/v1",
        }
        async with gateway(None, tmp_path, environ) as gw:
            assert (await (await gw.get("/health")).json())["db"] == "connected"
            await gw.post("/v1/chat/completions", question("gpt-4o"))
            await gw.rows()
    connection = await asyncpg.connect(database_url)
    try:
        listed = await connection.fetch("SELECT table_name FROM information_schema.tables")
        assert {"entry", "virtual_key", "LiteLLM_SpendLogs"} <= {row[0] for row in listed}
        assert await connection.fetchval('SELECT count(*) FROM "LiteLLM_SpendLogs"') == 2
    finally:
        await connection.close()


@pytest.mark.rows("A8")
@pytest.mark.parametrize("family", ["POSTGRES", "DATABASE"])
async def test_a_database_by_its_parts(
    provider: FakeProvider, database_url: str, tmp_path: Path, family: str
) -> None:
    """Both families of variables make an address where there is no DATABASE_URL, whatever characters the password has."""
    parts = _parts(database_url)
    if family == "DATABASE":
        names = {"USER": "USERNAME", "LITELLM_DB": "NAME"}
        parts = {
            f"DATABASE_{names.get(name.removeprefix('POSTGRES_'), name.removeprefix('POSTGRES_'))}": value
            for name, value in parts.items()
        }
    async with gateway(None, tmp_path, parts) as gw:
        store = gw.rt.records.describe()
        assert (store.backend, store.error) == ("postgres", "")


@pytest.mark.rows("C7", "L10")
async def test_neither(provider: FakeProvider, tmp_path: Path) -> None:
    """Without Postgres and Redis keys, budgets and the ledger are in a file beside the gateway."""
    environ = {"LITELLM_MASTER_KEY": "key-of-nobody-else", "OPENAI_API_KEY": "sk-of-openai"}
    environ["OPENAI_API_BASE"] = f"{provider.url}/v1"
    headers = {"authorization": "Bearer key-of-nobody-else"}
    async with gateway(None, tmp_path, environ) as gw:
        made = await (await gw.post("/key/generate", {"max_budget": 5}, headers=headers)).json()
        mine = {"authorization": f"Bearer {made['key']}"}
        assert (await gw.post("/v1/chat/completions", question("gpt-4o"), headers=mine)).status == 200
        assert (await (await gw.get("/health")).json())["db"] == "connected"
        assert gw.rt.records.describe().backend == "sqlite"
        assert isinstance(gw.rt.shared, MemoryShared)


# -- Redis -----------------------------------------------------------------------------------------------------------


def _limited(provider: FakeProvider, key: str, **router: Any) -> str:
    """A configuration whose one key may ask once a minute."""
    config = config_of(entry("m", "openai/m", f"{provider.url}/v1"), **router)
    return config.replace(
        '"model_list"', f'"virtual_keys": [{{"key": "{key}", "rpm_limit": 1}}], "model_list"'
    )


async def _ask(gw: Gateway, key: str) -> int:
    return (
        await gw.post("/v1/chat/completions", question("m"), headers={"authorization": f"Bearer {key}"})
    ).status


def _redis(form: str, redis_url: str, seeds: Shelf) -> dict[str, str]:
    """The same Redis in each of the forms that documents use."""
    found = urlsplit(redis_url)
    parts = {"REDIS_HOST": found.hostname or "", "REDIS_PORT": str(found.port), "REDIS_PASSWORD": ""}
    if form == "URL":
        return {"REDIS_URL": f"redis://{found.hostname}:{found.port}"}
    if form == "parts":
        return parts
    if form == "URL and parts":
        return {
            "REDIS_URL": redis_url,
            "REDIS_HOST": "nowhere.invalid",
            "REDIS_PORT": "1",
            "REDIS_PASSWORD": "",
        }
    (template,) = re.findall(r"redis://[^`\s]*\$\{[^`\s]+", seeds[1].text)
    return {"REDIS_URL": _filled(template, {**parts, "REDIS_PASSWORD": "of-no-importance"})}


@pytest.mark.rows("A6", "A7", "L14")
@pytest.mark.parametrize("form", ["URL", "parts", "URL and parts", "URL of parts"])
async def test_redis(provider: FakeProvider, redis_url: str, tmp_path: Path, seeds: Shelf, form: str) -> None:
    """Two gateways with the same Redis share a limit, however it is named; an empty password is none; the URL wins."""
    key = f"sk-{secrets.token_hex(12)}"
    environ = _redis(form, redis_url, seeds)
    (tmp_path / "b").mkdir()
    config = _limited(provider, key)
    async with gateway(config, tmp_path, environ) as one, gateway(config, tmp_path / "b", environ) as other:
        assert isinstance(one.rt.shared, RedisShared)
        assert one.rt.shared.available
        assert [await _ask(one, key), await _ask(other, key)] == [200, 429]


@pytest.mark.rows("B6")
async def test_redis_of_the_router(
    provider: FakeProvider, redis_url: str, tmp_path: Path, seeds: Shelf
) -> None:
    """`redis_host` and `redis_port` of `router_settings` are where limits are shared."""
    router = seeds[2].block("yaml", "litellm.yaml Structure").data["router_settings"]
    found = urlsplit(redis_url)
    key = f"sk-{secrets.token_hex(12)}"
    told = {name: router[name] for name in ("redis_host", "redis_port")}
    assert set(told) == {"redis_host", "redis_port"}
    config = _limited(provider, key, redis_host=found.hostname, redis_port=found.port)
    async with gateway(config, tmp_path) as gw:
        assert isinstance(gw.rt.shared, RedisShared)
        assert gw.rt.shared.available
        assert [await _ask(gw, key), await _ask(gw, key)] == [200, 429]


@pytest.mark.rows("L10")
async def test_both_away(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """With a database and a Redis that are not there, the gateway starts, serves whom it knows, and says so."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        block = seeds[3].block("yaml", "Model Configuration")
        environ = {
            "LITELLM_MASTER_KEY": "key-of-the-operator",
            "DATABASE_URL": f"postgresql://somebody@127.0.0.1:{port}/books",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(port),
            "OPENAI_API_KEY": "sk-of-openai",
            "OPENAI_API_BASE": f"{provider.url}/v1",
        }
        headers = {"authorization": "Bearer key-of-the-operator"}
        async with gateway(written(block, provider), tmp_path, environ) as gw:
            name = block.data["model_list"][0]["model_name"]
            answered = await gw.post("/v1/chat/completions", question(name), headers=headers)
            assert answered.status == 200, await answered.text()
            health = await (await gw.get("/health")).json()
            assert (health["status"], health["db"]) == ("healthy", "Not connected")
            ready = await gw.get("/health/readiness")
            assert (ready.status, (await ready.json())["db"]) == (200, "Not connected")
