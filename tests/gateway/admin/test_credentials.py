"""`/credentials`, asked as LiteLLM's clients ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from gateway.logs import scrub
from gateway.named_credentials import credentials_of
from gateway.state.sealing import Sealer
from tests.harness import FakeProvider, Gateway, chat_answer, config_for, entry, gateway, whole

MASTER = "sk-herr-0123456789ab"
SALT = "salz.Lp4Nw9"
STORED = "sk-ablage-77Zq1"
ADMIN = {"authorization": f"Bearer {MASTER}"}
HELLO = {"model": "stored", "messages": [{"role": "user", "content": "Hi"}]}


def configured(provider: FakeProvider) -> str:
    listed = [
        {
            "credential_name": "written",
            "credential_values": {"api_key": "sk-datei-55Xw2", "api_base": "https://w.example"},
            "credential_info": {"a": 1},
        }
    ]
    stored = {"model": "openai/gpt-4o", "litellm_credential_name": "ours"}
    models = [entry("plain", "openai/x", provider.url), {"model_name": "stored", "litellm_params": stored}]
    return config_for(
        provider, general_settings={"master_key": MASTER}, credential_list=listed, model_list=models
    )


def starts(provider: FakeProvider, folder: Path, salt: str = SALT) -> Any:
    return gateway(configured(provider), folder, {"LITELLM_SALT_KEY": salt} if salt else {})


@pytest.fixture
async def gw(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with starts(provider, tmp_path) as gw:
        yield gw


async def ask(gw: Gateway, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    async with gw.session.request(method, gw.url + path, json=body, headers=headers or ADMIN) as answer:
        return answer.status, await answer.json()


def new(provider: FakeProvider, name: str = "ours", **more: Any) -> dict[str, Any]:
    values = {"api_key": STORED, "api_base": f"{provider.url}/v1"}
    return {"credential_name": name, "credential_values": values, "credential_info": {"team": "x"}, **more}


async def test_from_its_making_to_its_end(gw: Gateway, provider: FakeProvider) -> None:
    """Made, listed and shown with LiteLLM's masks, changed, renamed, deleted: the shapes are LiteLLM's."""
    assert await ask(gw, "POST", "/credentials", new(provider)) == (
        200,
        {"success": True, "message": "Credential created successfully"},
    )
    shown = {
        "credential_name": "ours",
        "credential_values": {"api_key": "sk****q1", "api_base": f"{provider.url}/v1"},
        "credential_info": {"team": "x"},
    }
    written = {
        "credential_name": "written",
        "credential_values": {"api_key": "sk****w2", "api_base": "https://w.example"},
        "credential_info": {"a": 1},
    }
    assert await ask(gw, "GET", "/credentials") == (200, {"success": True, "credentials": [shown, written]})
    assert await ask(gw, "GET", "/credentials/by_name/ours") == (200, shown)
    assert await ask(gw, "GET", "/credentials/by_name/written") == (200, written)
    change = {
        "credential_name": "team/ours",
        "credential_values": {"api_key": "tok7", "my_token": "qv7xk2zj", "note": "all"},
        "credential_info": {"b": 2},
    }
    assert await ask(gw, "PATCH", "/credentials/ours", change) == (
        200,
        {"success": True, "message": "Credential updated successfully"},
    )
    _, told = await ask(gw, "GET", "/credentials/by_name/team/ours")
    assert told == {
        "credential_name": "team/ours",
        "credential_values": {
            "api_key": "*****",
            "api_base": f"{provider.url}/v1",
            "my_token": "qv****zj",
            "note": "all",
        },
        "credential_info": {"team": "x", "b": 2},
    }
    (row,) = await gw.rt.records.credentials()
    assert (row.version, row.created_by, row.updated_by) == (2, "default_user_id", "default_user_id")
    assert await ask(gw, "DELETE", "/credentials/team/ours") == (
        200,
        {"success": True, "message": "Credential deleted successfully"},
    )
    assert await gw.rt.records.credentials() == []


async def test_what_nobody_knows_is_a_secret(gw: Gateway) -> None:
    """Under a word that no model is asked with may stand anything: what logs hide is not shown here either."""
    values = {"vendor_pat": "pat.0123456789abcdef", "note": "all"}
    made = {"credential_name": "odd", "credential_values": values}
    assert (await ask(gw, "POST", "/credentials", made))[0] == 200
    _, told = await ask(gw, "GET", "/credentials/by_name/odd")
    assert told["credential_values"] == {"vendor_pat": "pa****ef", "note": "all"}


async def test_it_is_used_from_the_next_start_on(provider: FakeProvider, tmp_path: Path) -> None:
    """The entry that names it is off until then, says why, and is served with its key and address afterwards."""
    provider.will(whole(chat_answer()))
    async with starts(provider, tmp_path) as gw:
        await ask(gw, "POST", "/credentials", new(provider))
        status, told = await ask(gw, "POST", "/v1/chat/completions", HELLO)
        assert (status, "there is no credential 'ours'" in told["error"]["message"]) == (404, True)
    async with starts(provider, tmp_path) as gw:
        status, _ = await ask(gw, "POST", "/v1/chat/completions", HELLO)
        assert status == 200
    assert provider.requests[-1].headers["authorization"] == f"Bearer {STORED}"


async def test_values_are_sealed_and_unprintable(gw: Gateway, provider: FakeProvider, tmp_path: Path) -> None:
    """The store has no value in clear, and the log has none from the first moment on."""
    await ask(gw, "POST", "/credentials", new(provider))
    files = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert any(b"v1:" in data for data in files)
    assert not any(STORED.encode() in data for data in files)
    assert STORED not in scrub(f"a {STORED} b")
    found = await credentials_of(gw.rt.records, Sealer(SALT))
    assert found.values["ours"]["api_key"].reveal() == STORED


async def test_values_that_are_no_text(gw: Gateway) -> None:
    """An object is kept as its JSON text; null takes a value away, and one that was never there is no mistake."""
    values = {"vertex_credentials": {"type": "service_account"}, "vertex_project": "p"}
    await ask(gw, "POST", "/credentials", {"credential_name": "v", "credential_values": values})
    await ask(gw, "PATCH", "/credentials/v", {"credential_values": {"vertex_project": None, "token": None}})
    found = await credentials_of(gw.rt.records, Sealer(SALT))
    assert found.values["v"]["vertex_credentials"].reveal() == '{"type":"service_account"}'
    assert list(found.values["v"]) == ["vertex_credentials"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "told"),
    [
        ("POST", "", {}, 400, "credential_name is needed"),
        ("POST", "", {"credential_name": " "}, 400, "credential_name is needed"),
        ("POST", "", {"credential_name": "a\nb"}, 400, "credential_name is needed"),
        ("POST", "", {"credential_name": "a" * 201}, 400, "more than 200 characters"),
        ("POST", "", {"credential_name": "a"}, 400, "credential_values is needed"),
        ("POST", "", {"credential_name": "a", "credential_values": {}}, 400, "credential_values is needed"),
        ("POST", "", {"credential_name": "a", "credential_values": ["geheim"]}, 400, "must be an object"),
        ("POST", "", {"credential_name": "a", "credential_values": dict.fromkeys(map(str, range(51)), "x")}, 400, "at most 50"),
        ("POST", "", {"credential_name": "a", "credential_values": {"api_base": "geheim"}}, 400, "must begin with http"),
        ("POST", "", {"credential_name": "a", "credential_values": {"k": "v"}, "credential_info": 1}, 400, "credential_info must be"),
        ("POST", "", {"credential_name": "a", "model_id": "m"}, 400, "model_id is not available"),
        ("POST", "", {"credential_name": "written", "credential_values": {"k": "v"}}, 400, "already exists"),
        ("POST", "", {"credential_name": "there", "credential_values": {"k": "v"}}, 400, "already exists"),
        ("PATCH", "/written", {}, 400, "stands in the configuration"),
        ("DELETE", "/written", None, 400, "stands in the configuration"),
        ("PATCH", "/there", {"credential_name": "written"}, 400, "already exists"),
        ("PATCH", "/nobody", {}, 404, "Credential not found. Got credential name: nobody"),
        ("DELETE", "/nobody", None, 404, "Credential not found"),
        ("GET", "/by_name/nobody", None, 404, "Credential not found"),
    ],
)  # fmt: skip
async def test_refusals(gw: Gateway, method: str, path: str, body: Any, status: int, told: str) -> None:
    """What cannot be done is said in one sentence, without a value."""
    there = {"credential_name": "there", "credential_values": {"k": "v"}}
    assert (await ask(gw, "POST", "/credentials", there))[0] == 200
    got, answer = await ask(gw, method, f"/credentials{path}", body)
    assert (got, told in answer["error"]["message"]) == (status, True), answer
    assert "geheim" not in str(answer)


async def test_only_for_admins(gw: Gateway, provider: FakeProvider) -> None:
    """A virtual key, a stranger and nobody see nothing and change nothing."""
    _, made = await ask(gw, "POST", "/key/generate", {})
    await ask(gw, "POST", "/credentials", new(provider))
    for key in (made["key"], "sk-niemand-000001"):
        for method, path in (
            ("GET", "/credentials"),
            ("GET", "/credentials/by_name/ours"),
            ("POST", "/credentials"),
            ("PATCH", "/credentials/ours"),
            ("DELETE", "/credentials/ours"),
        ):
            status, told = await ask(gw, method, path, new(provider, "x"), authorization=f"Bearer {key}")
            assert status in (401, 403)
            assert "sk**" not in str(told)
    assert [row.name for row in await gw.rt.records.credentials()] == ["ours"]


async def test_one_that_cannot_be_opened(gw: Gateway, provider: FakeProvider) -> None:
    """It is listed all the same, without its values, and can be repaired."""
    await ask(gw, "POST", "/credentials", new(provider))
    (row,) = await gw.rt.records.credentials()
    broken = replace(row, version=2, values={"api_key": row.values["api_base"]})
    assert await gw.rt.records.put_credentials([broken])
    _, told = await ask(gw, "GET", "/credentials/by_name/ours")
    assert told["credential_values"] == {"api_key": "*****"}
    await ask(gw, "PATCH", "/credentials/ours", {"credential_values": {"api_key": STORED}})
    _, told = await ask(gw, "GET", "/credentials/by_name/ours")
    assert told["credential_values"] == {"api_key": "sk****q1"}


async def test_changes_at_the_same_time(gw: Gateway, provider: FakeProvider) -> None:
    """None of several changes is lost."""
    await ask(gw, "POST", "/credentials", new(provider))
    patches = [
        ask(gw, "PATCH", "/credentials/ours", {"credential_info": {str(number): number}})
        for number in range(5)
    ]
    assert [status for status, _ in await asyncio.gather(*patches)] == [200] * 5
    (row,) = await gw.rt.records.credentials()
    assert row.info == {"team": "x", **{str(number): number for number in range(5)}}


async def test_the_master_key_seals_where_there_is_no_salt(provider: FakeProvider, tmp_path: Path) -> None:
    """As LiteLLM does; the salt is another key."""
    async with starts(provider, tmp_path, salt="") as gw:
        await ask(gw, "POST", "/credentials", new(provider))
        found = await credentials_of(gw.rt.records, Sealer(MASTER))
    assert found.values["ours"]["api_key"].reveal() == STORED


@pytest.mark.parametrize("salt", ["", SALT])
async def test_another_master_key(
    provider: FakeProvider, tmp_path: Path, salt: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A reload that changes what seals says that the next start needs another seal; with a salt it changes nothing."""
    async with starts(provider, tmp_path, salt=salt) as gw:
        reloader = gw.rt.reloader
        assert reloader is not None
        path = tmp_path / "config.yaml"
        path.write_text(path.read_text().replace(MASTER, "sk-herr-ba9876543210"))
        for stored in (False, True):
            if stored:
                headers = {"authorization": "Bearer sk-herr-ba9876543210"}
                assert (await ask(gw, "POST", "/credentials", new(provider), **headers))[0] == 200
            caplog.clear()
            assert (await reloader.reload("the test")).succeeded
            assert ("rotate-salt" in caplog.text) is (stored and not salt)


async def test_without_any_key(provider: FakeProvider, tmp_path: Path) -> None:
    """An open gateway without a salt stores nothing, and says what to set."""
    async with gateway(config_for(provider), tmp_path) as gw, aiohttp.ClientSession() as session:
        async with session.post(f"{gw.url}/credentials", json=new(provider)) as answer:
            assert answer.status == 500
            assert "set LITELLM_SALT_KEY" in (await answer.json())["error"]["message"]
        assert await gw.rt.records.credentials() == []


async def test_the_metric(provider: FakeProvider, tmp_path: Path) -> None:
    """What could not be opened at the start is counted, its entry is off, and the rest is served."""
    async with starts(provider, tmp_path) as gw:
        await ask(gw, "POST", "/credentials", new(provider))
        (row,) = await gw.rt.records.credentials()
        await gw.rt.records.put_credentials(
            [replace(row, version=2, values={"api_key": row.values["api_base"]})]
        )
    async with starts(provider, tmp_path) as gw:
        metrics = await (await gw.get("/metrics")).text()
        assert "penstock_credentials_unreadable 1.0" in metrics
        (off,) = gw.rt.routes.unserved
        assert "the credential 'ours' cannot be used: a sealed text was changed" in off.why
        assert gw.rt.routes.find("plain") is not None
