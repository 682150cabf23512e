"""`/key/…` and what keys may, over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.background.supervisor import spawn
from gateway.keyfields import digest_of
from gateway.state.keys import KeyRow
from tests.harness import (
    FakeProvider,
    Gateway,
    chat_answer,
    chat_events,
    config_for,
    events,
    gateway,
    receive,
    whole,
    written,
)

MASTER = "sk-master-0123456789"
ADMIN = {"authorization": f"Bearer {MASTER}"}
CHAT = "/v1/chat/completions"
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}
GENERATED = {
    "key", "key_name", "key_alias", "token", "token_id", "expires", "user_id", "team_id", "models", "spend", "max_budget",
    "budget_duration", "budget_limits", "model_max_budget", "soft_budget", "tpm_limit", "rpm_limit",
    "max_parallel_requests", "model_tpm_limit", "model_rpm_limit", "metadata", "tags", "aliases", "allowed_routes",
    "blocked", "config", "permissions", "allowed_cache_controls", "organization_id", "project_id", "budget_id",
    "litellm_budget_table", "created_at", "created_by", "updated_at", "updated_by",
}  # fmt: skip


@pytest.fixture
async def keyed(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with a master key; the provider answers whatever it is asked."""
    provider.will(whole(chat_answer()))
    async with gateway(config_for(provider, general_settings={"master_key": MASTER}), tmp_path) as gw:
        yield gw


async def call(gw: Gateway, path: str, fields: Any = None, **more: Any) -> tuple[int, Any]:
    """POST to a page (GET without fields) as the administrator: status and JSON."""
    headers = more.pop("headers", ADMIN)
    answer = await (
        gw.get(path, headers=headers) if fields is None else gw.post(path, fields, headers=headers)
    )
    return answer.status, await answer.json()


async def made(gw: Gateway, **fields: Any) -> str:
    """A new key."""
    status, told = await call(gw, "/key/generate", fields)
    assert status == 200, told
    return str(told["key"])


async def ask(gw: Gateway, key: str, path: str = CHAT, **body: Any) -> tuple[int, dict[str, Any]]:
    """Ask a model with this key: status, and the error if there is one."""
    answer = await gw.post(path, {**ASK, **body}, headers={"authorization": f"Bearer {key}"})
    return answer.status, (await answer.json()).get("error", {})


def is_in(folder: Path, secret: str) -> bool:
    """Is it in any file below?"""
    return any(file.is_file() and secret.encode() in file.read_bytes() for file in folder.rglob("*"))


# -- making ----------------------------------------------------------------------------------------------------------


async def test_the_first_minute(gw: Gateway, provider: FakeProvider) -> None:
    """The call of every manual, on an open gateway without a database: a key, which is enforced from then on."""
    provider.will(whole(chat_answer()))
    fields = {"max_budget": 5.0, "budget_duration": "1d", "metadata": {"user": "telegram-bot"}}
    status, told = await call(gw, "/key/generate", fields, headers={})
    assert status == 200
    assert re.fullmatch(r"sk-[\w-]{22}", told["key"])
    assert (told["max_budget"], told["budget_duration"], told["metadata"]) == (
        5.0,
        "1d",
        {"user": "telegram-bot"},
    )
    assert (await ask(gw, told["key"]))[0] == 200
    (row,) = await gw.rows()
    assert (row.caller_kind, row.key_digest) == ("key", told["token"])


async def test_what_is_answered(keyed: Gateway) -> None:
    """LiteLLM's fields; the key's digest is its token, and nothing but this answer has the key."""
    before = time.time()
    status, told = await call(keyed, "/key/generate", {"key_alias": "bot", "duration": "1h", "user_id": "u"})
    assert status == 200
    assert told.keys() >= GENERATED
    assert told["token"] == told["token_id"] == digest_of(told["key"])
    assert told["key_name"] == f"sk-...{told['key'][-4:]}"
    assert (told["spend"], told["max_budget"], told["models"], told["user_id"]) == (0.0, None, [], "u")
    assert told["created_by"] == told["updated_by"] == "default_user_id"
    assert told["expires"] > time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before + 3590))
    for path in ("/key/list?return_full_object=true", f"/key/info?key={told['token']}", "/key/aliases"):
        assert told["key"] not in json.dumps((await call(keyed, path))[1])


async def test_a_key_of_ones_own(keyed: Gateway) -> None:
    """A chosen key works; a second one of the same text does not; after it was deleted it may be made again, unspent."""
    key = await made(keyed, key="sk-chosen-by-somebody", rpm_limit=100)
    assert key == "sk-chosen-by-somebody"
    assert (await ask(keyed, key))[0] == 200
    status, told = await call(keyed, "/key/generate", {"key": key})
    assert (status, told["error"]["param"]) == (400, "key")
    await keyed.rows()
    assert (await call(keyed, f"/key/info?key={key}"))[1]["info"]["spend"] > 0
    assert (await call(keyed, "/key/delete", {"keys": [key]}))[0] == 200
    assert (await ask(keyed, key))[0] == 401
    assert await made(keyed, key=key) == key
    info = (await call(keyed, f"/key/info?key={key}"))[1]["info"]
    assert (info["spend"], info["rpm_limit"], info["status"]) == (0.0, None, "active")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_budget": -1}, "max_budget"),
        ({"max_budget": "NaN"}, "max_budget"),
        ({"budget_duration": "soon"}, "budget_duration"),
        ({"key": "sk-short"}, "key"),
        ({"models": "gpt-4o"}, "models"),
        ({"key_type": {}}, "key_type"),
        (b"{", "request_body"),
        (b"[]", "request_body"),
        (b'{"max_budget": NaN}', "request_body"),
    ],
)
async def test_mistakes(keyed: Gateway, fields: Any, param: str) -> None:
    """What cannot be is 400, names the word, and makes no key."""
    status, told = await call(keyed, "/key/generate", fields)
    assert (status, told["error"]["param"], told["error"]["code"]) == (400, param, "400")
    assert (await call(keyed, "/key/list"))[1]["total_count"] == 0


async def test_the_master_key_is_no_virtual_key(keyed: Gateway) -> None:
    """Nobody can make one of its text, which would go on when the master key is another; one that is there can be deleted."""
    for path, fields in (
        ("/key/generate", {"key": MASTER}),
        ("/key/regenerate", {"key": await made(keyed), "new_key": MASTER}),
    ):
        status, told = await call(keyed, path, fields)
        assert (status, told["error"]["param"]) == (400, "key")
        assert "master key" in told["error"]["message"]
    assert (await call(keyed, "/key/list"))[1]["total_count"] == 1
    kept = KeyRow(digest=digest_of(MASTER), name="sk-...6789")
    assert await keyed.rt.records.put_key(kept)
    assert (await call(keyed, "/key/update", {"key": MASTER, "max_budget": 1}))[0] == 400
    assert (await call(keyed, "/key/delete", {"keys": [MASTER]}))[0] == 200


async def test_an_alias_is_there_once(keyed: Gateway) -> None:
    """Among keys that live; LiteLLM's words."""
    key = await made(keyed, key_alias="bot")
    status, told = await call(keyed, "/key/generate", {"key_alias": "bot"})
    assert (status, told["error"]) == (
        400,
        {
            "message": "Key with alias 'bot' already exists.",
            "type": "bad_request_error",
            "param": "key_alias",
            "code": "400",
        },
    )
    other = await made(keyed)
    assert (await call(keyed, "/key/update", {"key": other, "key_alias": "bot"}))[0] == 400
    assert (await call(keyed, "/key/delete", {"key_aliases": ["bot"]}))[1] == {
        "deleted_keys": [digest_of(key)]
    }
    assert (await call(keyed, "/key/update", {"key": other, "key_alias": "bot"}))[1]["key_alias"] == "bot"


# -- who may ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/key/generate"),
        ("POST", "/key/update"),
        ("POST", "/key/delete"),
        ("POST", "/key/block"),
        ("POST", "/key/unblock"),
        ("POST", "/key/regenerate"),
        ("POST", "/key/x/regenerate"),
        ("POST", "/key/x/reset_spend"),
        ("POST", "/v2/key/info"),
        ("GET", "/key/list"),
        ("GET", "/key/aliases"),
        ("GET", "/spend/logs"),
        ("GET", "/global/spend"),
    ],
)
async def test_a_key_manages_nothing(keyed: Gateway, gw: Gateway, method: str, path: str) -> None:
    """With a virtual key management is 401 in LiteLLM's words, on an open gateway of this machine too."""
    for server in (keyed, gw):
        key = await made(server)
        answer = await server.session.request(
            method, server.url + path, headers={"authorization": f"Bearer {key}"}, data=b"{}"
        )
        error = (await answer.json())["error"]
        assert (answer.status, error["type"]) == (401, "auth_error")
        assert error["message"].startswith(
            "Authentication Error, Only proxy admin can be used to generate, delete, update info for new keys/users/teams."
        )


async def test_a_key_may_ask_about_itself(keyed: Gateway) -> None:
    """Without `key`, or with its own; of others it learns nothing, not even whether they exist."""
    key, other = await made(keyed, key_alias="mine", max_budget=1, budget_duration="1d"), await made(keyed)
    own = {"authorization": f"Bearer {key}"}
    status, told = await call(keyed, "/key/info", headers=own)
    assert (status, told["key"], told["info"]["key_alias"]) == (200, digest_of(key), "mine")
    assert (told["info"]["status"], told["info"]["max_budget"]) == ("active", 1.0)
    assert told["info"]["budget_reset_at"] > time.strftime("%Y-%m-%d")
    assert "token" not in told["info"]
    assert (await call(keyed, f"/key/info?key={key}", headers=own))[1]["key"] == key
    for wanted in (other, digest_of(other), "sk-nobody-at-all-0001"):
        status, told = await call(keyed, f"/key/info?key={wanted}", headers=own)
        assert (status, told["error"]["message"]) == (404, "Key not found in database")
    assert (await call(keyed, "/key/health", {}, headers=own))[1] == {
        "key": "healthy",
        "logging_callbacks": None,
    }


async def test_whoever_holds_no_key(keyed: Gateway, gw: Gateway) -> None:
    """The master key gets an answer about itself; on an open gateway so does everybody, and others only from this machine."""
    status, told = await call(keyed, "/key/info")
    assert (status, told["key"], told["info"]["user_role"]) == (
        200,
        "litellm_proxy_master_key",
        "proxy_admin",
    )
    assert (await call(gw, "/key/info", headers={"via": "1.1 x"}))[0] == 200
    key = await made(gw)
    assert (await call(gw, f"/key/info?key={key}", headers={}))[0] == 200
    assert (await call(gw, f"/key/info?key={key}", headers={"via": "1.1 x"}))[0] == 403


# -- what keys may ---------------------------------------------------------------------------------------------------


async def test_models(keyed: Gateway, provider: FakeProvider) -> None:
    """A key asks for its models only, sees only them, and falls back to none of the others; the refusal has a row."""
    key = await made(keyed, models=["claude"], aliases={"mine": "claude", "theirs": "gpt-4o"})
    headers = {"authorization": f"Bearer {key}"}
    status, error = await ask(keyed, key)
    assert (status, error["type"], error["param"]) == (403, "key_model_access_denied", "model")
    assert (await ask(keyed, key, model="theirs"))[0] == 403
    assert (await ask(keyed, key, model="nobody"))[0] == 403
    assert provider.requests == []
    rows = await keyed.rows(3)
    assert {(row.reason, row.http_status, row.key_digest) for row in rows} == {
        ("model_denied", 403, digest_of(key))
    }
    listed = await (await keyed.get("/v1/models", headers=headers)).json()
    assert [model["id"] for model in listed["data"]] == ["mine", "claude"]
    assert (await keyed.get("/v1/models/claude", headers=headers)).status == 200
    assert (await keyed.get("/v1/models/gpt-4o", headers=headers)).status == 404


async def test_aliases_of_a_key(keyed: Gateway, provider: FakeProvider) -> None:
    """The key's own word is what the client reads back and what the row says was asked for."""
    key = await made(keyed, aliases={"mine": "gpt-4o"})
    answer = await keyed.post(CHAT, {**ASK, "model": "mine"}, headers={"authorization": f"Bearer {key}"})
    assert (answer.status, (await answer.json())["model"]) == (200, "mine")
    assert provider.requests[0].json["model"] == "gpt-4o-2024-08-06"
    (row,) = await keyed.rows()
    assert (row.model_requested, row.model_group) == ("mine", "gpt-4o")


async def test_fallbacks(provider: FakeProvider, tmp_path: Path) -> None:
    """Who stands in is asked only if the key may use it, whether the configuration or the request names it."""
    config = json.loads(config_for(provider, general_settings={"master_key": MASTER}))
    config["router_settings"] |= {"fallbacks": [{"gpt-4o": ["claude"]}]}
    provider.will(whole({"error": {"message": "down"}}, status=500))
    async with gateway(json.dumps(config), tmp_path) as gw:
        key = await made(gw, models=["gpt-4o"])
        assert (await ask(gw, key))[0] >= 500
        assert (await ask(gw, key, fallbacks=["claude"]))[0] >= 500
        assert len(provider.requests) == 2
        assert (await ask(gw, await made(gw)))[0] >= 500
        assert len(provider.requests) == 4


async def test_routes(keyed: Gateway) -> None:
    """A key calls what its list says, and is told what it may."""
    key = await made(keyed, allowed_routes=["/v1/embeddings", "info_routes"])
    status, error = await ask(keyed, key)
    assert (status, error["type"]) == (403, "auth_error")
    assert error["message"] == (
        "Virtual key is not allowed to call this route. Only allowed to call routes: "
        "['/v1/embeddings', 'info_routes']. Tried to call route: /v1/chat/completions"
    )
    (row,) = await keyed.rows()
    assert (row.reason, row.key_digest) == ("forbidden", digest_of(key))
    own = {"authorization": f"Bearer {key}"}
    assert (await keyed.get("/v1/models", headers=own)).status == 200
    only = await made(keyed, key_type="llm_api")
    assert (await keyed.get("/key/info", headers={"authorization": f"Bearer {only}"})).status == 403
    assert (await ask(keyed, only))[0] == 200


async def test_open_gateways_enforce_keys(gw: Gateway, provider: FakeProvider) -> None:
    """Without a master key an unknown key is nobody's, a known one has its limits, and one that was revoked is 401."""
    provider.will(whole(chat_answer()))
    key = await made(gw, models=["claude"])
    assert (await ask(gw, "sk-unknown-to-everybody"))[0] == 200
    assert (await ask(gw, key))[0] == 403
    for change, path in (({"key": key}, "/key/block"), ({"keys": [key]}, "/key/delete")):
        assert (await call(gw, path, change, headers={}))[0] == 200
        assert (await ask(gw, key))[0] == 401
    short = await made(gw, duration="1s")
    (caller,) = [row for row in gw.rt.keyring.rows() if row.digest == digest_of(short)]
    assert caller.expires_at is not None


async def test_an_sdk(keyed: Gateway) -> None:
    """OpenAI's SDK works with a key, and has its own errors for what a key may not."""
    key = await made(keyed, models=["gpt-4o"])
    async with openai.AsyncOpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=0) as sdk:
        told = await sdk.chat.completions.create(model="gpt-4o", messages=[])
        assert told.choices[0].message.content == "Hello!"
        assert [model.id async for model in sdk.models.list()] == ["gpt-4o"]
        with pytest.raises(openai.PermissionDeniedError):
            await sdk.chat.completions.create(model="claude", messages=[])
        await call(keyed, "/key/block", {"key": key})
        with pytest.raises(openai.AuthenticationError, match="Key is blocked"):
            await sdk.chat.completions.create(model="gpt-4o", messages=[])


# -- changing --------------------------------------------------------------------------------------------------------


async def test_an_open_connection(keyed: Gateway, provider: FakeProvider) -> None:
    """What a connection remembers of a key ends with the key: by a block, an expiry, a deletion; and it comes back."""
    key = await made(keyed)
    request = written(CHAT, ASK, {"authorization": f"Bearer {key}"})
    async with keyed.connect() as (reader, writer):

        async def again() -> tuple[int, str]:
            writer.write(request)
            answer = await receive(reader)
            return answer.status, answer.json.get("error", {}).get("message", "")

        assert await again() == (200, "")
        assert await again() == (200, "")
        assert (await call(keyed, "/key/block", {"key": key}))[1]["blocked"] is True
        assert await again() == (
            401,
            "Authentication Error, Key is blocked. Update via `/key/unblock` if you're an admin.",
        )
        assert (await call(keyed, "/key/unblock", {"key": digest_of(key)}))[1]["blocked"] is False
        assert await again() == (200, "")
        assert (await call(keyed, "/key/update", {"key": key, "models": ["claude"]}))[0] == 200
        assert (await again())[0] == 403
        assert (await call(keyed, "/key/update", {"key": key, "models": [], "allowed_routes": ["/x"]}))[
            0
        ] == 200
        assert (await again())[0] == 403
        assert (await call(keyed, "/key/update", {"key": key, "allowed_routes": []}))[0] == 200
        assert await again() == (200, "")
        assert (await call(keyed, "/key/delete", {"keys": [key]}))[0] == 200
        assert await again() == (401, "Authentication Error, Invalid API key provided.")


async def test_a_connection_on_which_a_key_expires(keyed: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody changes a key that expires: each request looks at the clock."""
    key = await made(keyed, duration="1h")
    request = written(CHAT, ASK, {"authorization": f"Bearer {key}"})
    async with keyed.connect() as (reader, writer):
        writer.write(request)
        assert (await receive(reader)).status == 200
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 3601)
        writer.write(request)
        refused = await receive(reader)
    assert refused.status == 401
    error = refused.json["error"]
    assert error["type"] == "expired_key"
    assert error["message"].startswith("Authentication Error - Expired Key. Key Expiry time ")


async def test_a_body_that_comes_late(keyed: Gateway) -> None:
    """Who began to send before the key was deleted, and ends after, is refused; the row says whose it was."""
    key = await made(keyed)
    async with keyed.connect() as (reader, writer):
        sent = written(CHAT, ASK, {"authorization": f"Bearer {key}"})
        writer.write(sent[:-5])
        while not keyed.rt.open:
            await asyncio.sleep(0.001)
        assert (await call(keyed, "/key/delete", {"keys": [key]}))[0] == 200
        writer.write(sent[-5:])
        assert (await receive(reader)).status == 401
    (row,) = await keyed.rows()
    assert (row.kind.key_digest, row.kind.reason) == (digest_of(key), "invalid_key")


async def test_an_administrator_who_leaves(keyed: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that has begun is made whole, though nobody waits for the answer."""
    key = await made(keyed, key_alias="bot")
    began, may = asyncio.Event(), asyncio.Event()
    put = keyed.rt.records.put_key

    async def slow(row: KeyRow) -> bool:
        began.set()
        await may.wait()
        return await put(row)

    monkeypatch.setattr(keyed.rt.records, "put_key", slow)
    asking = spawn(call(keyed, "/key/regenerate", {"key": key}), name="ask")
    await began.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0.05)  # the gateway sees the client go
    may.set()
    while (row := keyed.rt.keyring.with_alias("bot")) is None or row.digest == digest_of(key):
        await asyncio.sleep(0.001)
    assert (await ask(keyed, key))[0] == 401
    assert (await call(keyed, "/key/list"))[1]["total_count"] == 1


async def test_a_stream_goes_on(keyed: Gateway, provider: FakeProvider) -> None:
    """A key that is revoked ends no stream that it began."""
    key = await made(keyed)
    pieces = chat_events("one", "two")
    provider.will(events([*pieces[:2], None, *pieces[2:]]))
    async with keyed.connect() as (reader, writer):
        writer.write(written(CHAT, {**ASK, "stream": True}, {"authorization": f"Bearer {key}"}))
        await provider.asked()
        await call(keyed, "/key/delete", {"keys": [key]})
        provider.gate.set()
        answer = await receive(reader)
    assert (answer.status, answer.complete) == (200, True)
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_update(keyed: Gateway) -> None:
    """What is named changes, the rest stays, and the answer says what is now so."""
    key = await made(keyed, key_alias="bot", rpm_limit=5, max_budget=1, metadata={"a": 1})
    status, told = await call(keyed, "/key/update", {"key": key, "rpm_limit": 7, "max_budget": 2.5, "x": "y"})
    assert (status, told["key"]) == (200, key)
    assert (told["rpm_limit"], told["max_budget"], told["key_alias"], told["metadata"], told["x"]) == (
        7,
        2.5,
        "bot",
        {"a": 1},
        "y",
    )
    for wrong, expected in (
        ({}, 400),
        ({"key": "sk-nobody-at-all-0001"}, 404),
        ({"key": key, "max_budget": -1}, 400),
    ):
        assert (await call(keyed, "/key/update", wrong))[0] == expected


async def test_what_was_shown_and_is_written_back(keyed: Gateway) -> None:
    """Dates that somebody writes back, as they were shown, are not shown in place of what holds."""
    key = await made(keyed, duration="1h")
    before = (await call(keyed, f"/key/info?key={key}"))[1]["info"]
    dates = {name: before[name] for name in ("expires", "created_at", "updated_at", "updated_by")}
    assert (await call(keyed, "/key/update", {"key": key, **dates, "duration": "30d"}))[0] == 200
    after = (await call(keyed, f"/key/info?key={key}"))[1]["info"]
    assert after["expires"] > before["expires"]
    assert after["updated_at"] > before["updated_at"]


async def test_update_several(keyed: Gateway) -> None:
    """Each for itself: LiteLLM's shape tells which were changed, and why others were not."""
    keys = [await made(keyed, key_alias=f"bot-{number}") for number in range(2)]
    items = [
        {"key": keys[0], "max_budget": 3, "tags": ["a"]},
        {"key": "sk-nobody-at-all-0001", "max_budget": 3},
        {"key": keys[1], "max_budget": -3},
        {"key": digest_of(keys[1]), "key_alias": "bot-0"},
        {"key": digest_of(keys[1]), "rpm_limit": 4},
        {"rpm_limit": 4},
    ]
    status, told = await call(keyed, "/key/bulk_update", {"keys": items})
    assert (status, told["total_requested"]) == (200, 6)
    assert [item["key"] for item in told["successful_updates"]] == [keys[0], digest_of(keys[1])]
    first, second = [item["key_info"] for item in told["successful_updates"]]
    assert (first["max_budget"], first["tags"], second["rpm_limit"]) == (3.0, ["a"], 4)
    assert [item["failed_reason"] for item in told["failed_updates"]] == [
        "Key not found in database",
        "max_budget must be a non-negative, finite number. Received: -3",
        "Key with alias 'bot-0' already exists.",
        "key is needed: the key, or its digest.",
    ]
    wrongs: list[Any] = [{}, {"keys": []}, {"keys": keys}, {"keys": [{"key": keys[0]}] * 501}]
    for wrong in wrongs:
        assert (await call(keyed, "/key/bulk_update", wrong))[0] == 400


async def test_a_key_of_a_service(keyed: Gateway) -> None:
    """It is a team's and no user's."""
    status, told = await call(keyed, "/key/service-account/generate", {"team_id": "ops", "user_id": "me"})
    assert (status, told["team_id"], told["user_id"]) == (200, "ops", None)
    assert (await ask(keyed, told["key"]))[0] == 200
    status, told = await call(keyed, "/key/service-account/generate", {"user_id": "me"})
    assert (status, told["error"]["param"]) == (400, "team_id")


async def test_delete_all_or_none(keyed: Gateway) -> None:
    """One that is not there keeps the others alive."""
    keys = [await made(keyed) for _ in range(2)]
    status, told = await call(keyed, "/key/delete", {"keys": [keys[0], "sk-nobody-at-all-0001"]})
    assert (status, told["error"]["message"]) == (404, "Key not found in database")
    assert (await ask(keyed, keys[0]))[0] == 200
    assert (await call(keyed, "/key/delete", {}))[0] == 400
    assert (await call(keyed, "/key/delete", {"keys": keys}))[1] == {"deleted_keys": keys}
    assert [(await ask(keyed, key))[0] for key in keys] == [401, 401]
    info = (await call(keyed, f"/key/info?key={keys[0]}"))[1]["info"]
    assert info["status"] == "deleted"


async def test_delete_what_is_named_twice(keyed: Gateway) -> None:
    """By itself, its digest and its alias: it is one key."""
    key = await made(keyed, key_alias="bot")
    status, told = await call(keyed, "/key/delete", {"keys": [key, digest_of(key)], "key_aliases": ["bot"]})
    assert (status, told["deleted_keys"][0]) == (200, key)
    assert (await ask(keyed, key))[0] == 401


async def test_regenerate(keyed: Gateway) -> None:
    """The new key has what the old one had, its name and what it spent; the old one ends at once."""
    old = await made(keyed, key_alias="bot", models=["gpt-4o"], max_budget=1)
    assert (await ask(keyed, old))[0] == 200
    status, told = await call(keyed, f"/key/{digest_of(old)}/regenerate", {"rpm_limit": 9})
    new = told["key"]
    assert (status, told["key_alias"], told["models"], told["max_budget"], told["rpm_limit"]) == (
        200,
        "bot",
        ["gpt-4o"],
        1.0,
        9,
    )
    assert new != old
    assert told["token"] == digest_of(new)
    assert (await ask(keyed, old))[0] == 401
    assert (await ask(keyed, new))[0] == 200
    rows = await keyed.rows(2)
    assert {row.key_digest for row in rows} == {digest_of(old)}
    spent = sum(row.cost_nano or 0 for row in rows) / 1e9
    assert (await call(keyed, f"/key/info?key={new}"))[1]["info"]["spend"] == pytest.approx(spent)
    assert len((await call(keyed, f"/spend/logs?api_key={new}"))[1]) == 2
    status, told = await call(keyed, "/key/regenerate", {"key": new, "new_key": "sk-chosen-by-somebody"})
    assert (status, told["key"]) == (200, "sk-chosen-by-somebody")
    assert (await call(keyed, "/key/regenerate", {"key": new}))[0] == 404
    assert (await call(keyed, "/key/generate", {"key": old}))[0] == 400
    assert (await call(keyed, "/key/regenerate", {"key": "sk-chosen-by-somebody", "new_key": old}))[0] == 400
    listed = (await call(keyed, "/key/list?return_full_object=true"))[1]["keys"]
    assert [(key["token"], key["spend"]) for key in listed] == [(told["token"], pytest.approx(spent))]


async def test_regenerate_and_the_spend(keyed: Gateway) -> None:
    """The answer says what was spent under the old key; `spend: 0` sets it back."""
    old = await made(keyed)
    assert (await ask(keyed, old))[0] == 200
    await keyed.rows()
    told = (await call(keyed, "/key/regenerate", {"key": old}))[1]
    spent = told["spend"]
    assert spent > 0
    assert (await call(keyed, f"/key/info?key={told['key']}"))[1]["info"]["spend"] == spent
    told = (await call(keyed, "/key/regenerate", {"key": told["key"], "spend": 0}))[1]
    assert told["spend"] == 0.0
    assert (await call(keyed, f"/key/info?key={told['key']}"))[1]["info"]["spend"] == 0.0


async def test_a_key_is_not_lost_for_a_name(keyed: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose new alias another key has goes on as before; if one takes it in the last moment, the new key is told without it."""
    await made(keyed, key_alias="taken")
    old = await made(keyed, key_alias="mine")
    status, told = await call(keyed, "/key/regenerate", {"key": old, "key_alias": "taken"})
    assert (status, told["error"]["param"]) == (400, "key_alias")
    assert (await ask(keyed, old))[0] == 200
    assert (await call(keyed, "/key/list"))[1]["total_count"] == 2
    monkeypatch.setattr(keyed.rt.keyring, "with_alias", lambda alias: None)
    status, told = await call(keyed, "/key/regenerate", {"key": old, "key_alias": "taken"})
    assert (status, told["key_alias"]) == (200, None)
    assert [(await ask(keyed, key))[0] for key in (old, told["key"])] == [401, 200]


async def test_regenerate_with_grace(keyed: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a time of grace both hold, and then only the new one."""
    old = await made(keyed, key_alias="bot")
    new = (await call(keyed, "/key/regenerate", {"key": old, "grace_period": "1h"}))[1]["key"]
    assert [(await ask(keyed, key))[0] for key in (old, new)] == [200, 200]
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3601)
    assert [(await ask(keyed, key))[0] for key in (old, new)] == [401, 200]
    for wrong in ({"grace_period": "soon"}, {"new_key": "short"}, {"new_key": new}, {"max_budget": -1}):
        assert (await call(keyed, "/key/regenerate", {"key": new, **wrong}))[0] == 400
    assert (await ask(keyed, new))[0] == 200


async def test_who_takes_away_a_key_means_the_one_before_it_too(keyed: Gateway) -> None:
    """Blocked or deleted, it does not go on under the name that it had before, which holds for its time of grace."""
    first = await made(keyed)
    second = (await call(keyed, "/key/regenerate", {"key": first, "grace_period": "1h"}))[1]["key"]
    third = (await call(keyed, "/key/regenerate", {"key": second}))[1]["key"]
    assert [(await ask(keyed, key))[0] for key in (first, second, third)] == [200, 401, 200]
    assert (await call(keyed, "/key/block", {"key": third}))[0] == 200
    assert [(await ask(keyed, key))[0] for key in (first, third)] == [401, 401]
    assert (await call(keyed, "/key/unblock", {"key": third}))[0] == 200
    assert [(await ask(keyed, key))[0] for key in (first, third)] == [200, 200]
    assert (await call(keyed, "/key/delete", {"keys": [third]}))[0] == 200
    assert [(await ask(keyed, key))[0] for key in (first, third)] == [401, 401]


async def test_what_was_taken_away_does_not_come_back(keyed: Gateway) -> None:
    """Another key of the text of a deleted one is no successor of what that replaced."""
    first, second = await made(keyed), "sk-chosen-by-somebody"
    await call(keyed, "/key/regenerate", {"key": first, "new_key": second, "grace_period": "1h"})
    assert (await call(keyed, "/key/delete", {"keys": [second]}))[0] == 200
    assert await made(keyed, key=second) == second
    assert [(await ask(keyed, key))[0] for key in (first, second)] == [401, 200]


async def test_the_state_of_a_key_that_was_replaced_is_what_holds(keyed: Gateway) -> None:
    """In its time of grace it is shown as active only as long as what replaced it lives."""

    async def shown() -> tuple[str, list[str], int]:
        info = (await call(keyed, f"/key/info?key={first}"))[1]["info"]
        active = (await call(keyed, "/key/list?status=active"))[1]["keys"]
        return info["status"], active, (await ask(keyed, first))[0]

    first, second = await made(keyed), "sk-chosen-by-somebody"
    both = {digest_of(first), digest_of(second)}
    await call(keyed, "/key/regenerate", {"key": first, "new_key": second, "grace_period": "1h"})
    status, active, answered = await shown()
    assert (status, set(active), answered) == ("active", both, 200)
    await call(keyed, "/key/block", {"key": second})
    assert await shown() == ("revoked", [], 401)
    await call(keyed, "/key/unblock", {"key": second})
    assert (await shown())[0] == "active"
    await call(keyed, "/key/delete", {"keys": [second]})
    assert await shown() == ("deleted", [], 401)
    assert await made(keyed, key=second) == second
    assert await shown() == ("deleted", [digest_of(second)], 401)


async def test_several_regenerate_at_once(keyed: Gateway) -> None:
    """One of them does; what the others have made lives no longer."""
    old = await made(keyed)
    found = await asyncio.gather(*(call(keyed, "/key/regenerate", {"key": old}) for _ in range(4)))
    assert sorted(status for status, _ in found) == [200, 404, 404, 404]
    assert (await call(keyed, "/key/list"))[1]["total_count"] == 1


async def test_reset_spend(keyed: Gateway) -> None:
    """Nothing is spent from now on; the ledger keeps its rows."""
    key = await made(keyed, max_budget=1)
    await ask(keyed, key)
    await keyed.rows()
    status, told = await call(keyed, f"/key/{key}/reset_spend", {"reset_to": 0})
    assert (status, told["spend"], told["max_budget"]) == (200, 0.0, 1.0)
    assert told["previous_spend"] > 0
    assert (await call(keyed, f"/key/info?key={key}"))[1]["info"]["spend"] == 0.0
    assert len(await keyed.rows()) == 1
    assert (await call(keyed, f"/key/{key}/reset_spend", {"reset_to": 1}))[0] == 400
    await ask(keyed, key)
    await keyed.rows(2)
    assert (await call(keyed, f"/key/info?key={key}"))[1]["info"]["spend"] > 0
    await call(keyed, "/key/update", {"key": key, "spend": 0})
    assert (await call(keyed, f"/key/info?key={key}"))[1]["info"]["spend"] == 0.0


# -- showing ---------------------------------------------------------------------------------------------------------


async def test_list(keyed: Gateway) -> None:
    """Pages, the newest first, of digests or of whole keys; filters and orders."""
    keys = [await made(keyed, key_alias=f"bot-{number}", user_id=f"u{number % 2}") for number in range(5)]
    digests = [digest_of(key) for key in keys]
    told = (await call(keyed, "/key/list?size=2"))[1]
    assert told == {"keys": digests[:2:-1], "total_count": 5, "current_page": 1, "total_pages": 3}
    assert (await call(keyed, "/key/list?size=2&page=3"))[1]["keys"] == digests[:1]
    assert (await call(keyed, "/key/list?user_id=u1"))[1]["keys"] == [digests[3], digests[1]]
    assert (await call(keyed, "/key/list?key_alias=bot-2"))[1]["keys"] == [digests[2]]
    assert (await call(keyed, f"/key/list?key_hash={digests[4]}"))[1]["keys"] == [digests[4]]
    assert (await call(keyed, "/key/list?search=BOT-3"))[1]["keys"] == [digests[3]]
    assert (await call(keyed, "/key/list?sort_by=key_alias&sort_order=asc"))[1]["keys"] == digests
    (shown,) = (await call(keyed, "/key/list?return_full_object=true&key_alias=bot-2"))[1]["keys"]
    assert (shown["token"], shown["key_alias"], shown["status"], shown["spend"]) == (
        digests[2],
        "bot-2",
        "active",
        0.0,
    )
    await call(keyed, "/key/block", {"key": keys[0]})
    assert (await call(keyed, "/key/list?status=revoked"))[1]["keys"] == [digests[0]]
    for wrong in ("size=0", "size=101", "size=x", "page=-1", "sort_by=spend"):
        assert (await call(keyed, f"/key/list?{wrong}"))[0] == 400
    assert (await call(keyed, "/key/aliases?search=bot&size=2"))[1] == {
        "aliases": ["bot-0", "bot-1"],
        "total_count": 5,
        "current_page": 1,
        "total_pages": 3,
        "size": 2,
    }
    told = (await call(keyed, "/v2/key/info", {"keys": [keys[0], digests[1], "sk-nobody-at-all-0001"]}))[1]
    assert [row["token"] for row in told["info"]] == digests[:2]


async def test_keys_of_the_configuration(provider: FakeProvider, tmp_path: Path) -> None:
    """They are enforced and shown, and changed where they stand; their text is nowhere."""
    secret = "sk-canary-0123456789"
    keys = [{"key": "os.environ/BOT_KEY", "key_alias": "bot", "models": ["gpt-4o"]}]
    provider.will(whole(chat_answer()))
    config = config_for(provider, general_settings={"master_key": MASTER}, virtual_keys=keys)
    async with gateway(config, tmp_path, {"BOT_KEY": secret}) as gw:
        assert (await ask(gw, secret))[0] == 200
        assert (await ask(gw, secret, model="claude"))[0] == 403
        (row, _) = await gw.rows(2)
        assert (row.key_alias, row.key_digest) == ("bot", digest_of(secret))
        assert (await call(gw, "/key/list"))[1]["keys"] == [digest_of(secret)]
        for path, fields in (
            ("/key/update", {"key": secret, "models": []}),
            ("/key/block", {"key": secret}),
            ("/key/delete", {"keys": [secret]}),
            ("/key/regenerate", {"key": secret}),
        ):
            status, told = await call(gw, path, fields)
            assert (status, "configuration" in told["error"]["message"]) == (400, True)
        assert (await call(gw, "/key/generate", {"key_alias": "bot"}))[0] == 400
    assert not is_in(tmp_path, secret)


async def test_a_key_of_the_configuration_may_begin_with_anything(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """It is named by itself or by its digest, as others are."""
    secret = "canary-of-a-bot-0123456789"
    config = config_for(provider, general_settings={"master_key": MASTER}, virtual_keys=[{"key": secret}])
    async with gateway(config, tmp_path) as gw:
        for name in (secret, digest_of(secret)):
            status, told = await call(gw, f"/key/info?key={name}")
            assert (status, told["info"]["key_name"]) == (200, "sk-...6789")
            assert len((await call(gw, "/v2/key/info", {"keys": [name]}))[1]["info"]) == 1
        own = await gw.get(f"/key/info?key={secret}", headers={"authorization": f"Bearer {secret}"})
        assert own.status == 200
        status, told = await call(gw, "/key/block", {"key": secret})
        assert (status, "configuration" in told["error"]["message"]) == (400, True)


async def test_no_key_is_kept(keyed: Gateway, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a file nor a log line nor a metric has a key in it."""
    key = await made(keyed, key_alias="bot")
    await ask(keyed, key)
    new = (await call(keyed, "/key/regenerate", {"key": key}))[1]["key"]
    await ask(keyed, key)
    await keyed.rows()
    metrics = await (await keyed.get("/metrics")).text()
    told = metrics + "".join(str(vars(record)) for record in caplog.records)
    for secret in (key, new):
        assert secret not in told
        assert not is_in(tmp_path / "data", secret)


# -- more than one gateway -------------------------------------------------------------------------------------------


async def test_two_gateways(provider: FakeProvider, tmp_path: Path, redis_url: str) -> None:
    """On one file and one Redis: a key that one makes works in the other at once, and what one revokes both refuse."""
    provider.will(whole(chat_answer()))
    config = config_for(provider, general_settings={"master_key": MASTER})
    told = {"REDIS_URL": redis_url}
    async with gateway(config, tmp_path, told) as here, gateway(config, tmp_path, told) as there:
        key = await made(here)
        assert (await ask(there, key))[0] == 200
        for path, expected in (("/key/block", 401), ("/key/unblock", 200)):
            heard = there.rt.keyring.version
            await call(here, path, {"key": key})
            while there.rt.keyring.version == heard:
                await asyncio.sleep(0.002)
            assert (await ask(there, key))[0] == expected
