"""Another configuration for a gateway that runs: what holds from then on, what goes on as before, and what is refused."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.background.supervisor import spawn
from gateway.logs import scrub
from gateway.reload import Outcome, Reloader
from gateway.routes import Route, Routes
from tests.harness import (
    Asked,
    FakeProvider,
    Gateway,
    chat_answer,
    chat_events,
    config_for,
    config_of,
    entry,
    events,
    gateway,
    receive,
    whole,
    written,
)

MASTER = "sk-qz7master-0001"
CHAT = "/v1/chat/completions"


def asked(model: str = "gpt-4o", *, stream: bool = False) -> dict[str, Any]:
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hello"}]}


def keyed(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def reloader(gw: Gateway) -> Reloader:
    assert gw.rt.reloader is not None
    return gw.rt.reloader


async def now(gw: Gateway, folder: Path, text: str) -> Outcome:
    """Write the file and reload."""
    (folder / "config.yaml").write_text(text)
    return await reloader(gw).reload("the test")


def names(outcome: Outcome) -> list[str]:
    return [str(one) for one in outcome.differences]


# -- what holds from then on -------------------------------------------------------------------------------------------


async def test_models_come_and_go(provider: FakeProvider, tmp_path: Path) -> None:
    """A model that is gone is unknown at once, one that is new is served, and metrics may name it."""
    provider.will(whole(chat_answer()))
    base = f"{provider.url}/v1"
    async with gateway(config_of(entry("old", "openai/gpt-4o", base)), tmp_path) as gw:
        outcome = await now(gw, tmp_path, config_of(entry("new", "openai/gpt-4o", base)))
        assert names(outcome) == ["old (openai/gpt-4o) removed", "new (openai/gpt-4o) added"]
        assert (await gw.post(CHAT, asked("old"))).status == 404
        assert (await gw.post(CHAT, asked("new"))).status == 200
        await gw.rows()
        assert 'model_group="new"' in await (await gw.get("/metrics")).text()


async def test_a_stream_of_a_model_that_is_gone(provider: FakeProvider, tmp_path: Path) -> None:
    """A stream that is open while its model goes ends as it would have, and its row says what was asked."""
    provider.will(events([*chat_events("a", done=False), None, *chat_events("b")]))
    async with gateway(config_for(provider), tmp_path) as gw, gw.connect() as (reader, writer):
        body = json.dumps(asked(stream=True)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readuntil(b'"a"')
        await now(gw, tmp_path, config_of(entry("other", "openai/gpt-4o", f"{provider.url}/v1")))
        assert (await gw.post(CHAT, asked())).status == 404
        provider.gate.set()
        assert b"[DONE]" in await reader.readuntil(b"\r\n0\r\n\r\n")
        rows = await gw.rows(2)
        assert [(row.kind.model_requested, row.kind.http_status) for row in rows] == [
            ("gpt-4o", 200),
            ("gpt-4o", 404),
        ]


async def test_keys(provider: FakeProvider, tmp_path: Path) -> None:
    """Another master key, and keys that come, go and may less, hold for the next request, on connections that stay open too."""
    provider.will(whole(chat_answer()))
    one: dict[str, Any] = {"key": "sk-qz7virtual-0001"}
    two: dict[str, Any] = {"key": "sk-qz7virtual-0002", "models": ["claude"]}

    def written(master: str, *keys: dict[str, Any]) -> str:
        return config_for(provider, general_settings={"master_key": master}, virtual_keys=keys)

    async with gateway(written(MASTER, one), tmp_path) as gw:
        assert (await gw.post(CHAT, asked(), headers=keyed(one["key"]))).status == 200
        assert (await gw.post(CHAT, asked(), headers=keyed(MASTER))).status == 200
        outcome = await now(gw, tmp_path, written("sk-qz7master-0002", two))
        assert outcome.succeeded
        assert "general_settings.master_key changed" in names(outcome)
        for key, status in (
            (one["key"], 401),
            (MASTER, 401),
            ("sk-qz7master-0002", 200),
            (two["key"], 403),
        ):
            assert (await gw.post(CHAT, asked(), headers=keyed(key))).status == status, key


async def test_limits(provider: FakeProvider, tmp_path: Path) -> None:
    """A limit that is new binds the next request; one that is gone binds no more, with what was taken under it settled."""
    provider.will(whole(chat_answer()))
    async with gateway(config_for(provider), tmp_path) as gw:
        assert (await gw.post(CHAT, asked())).status == 200
        await now(gw, tmp_path, config_for(provider, general_settings={"rpm_limit": 1}))
        assert [(await gw.post(CHAT, asked())).status for _ in range(2)] == [200, 429]
        await now(gw, tmp_path, config_for(provider, general_settings={"rpm_limit": 3}))
        assert [(await gw.post(CHAT, asked())).status for _ in range(3)] == [200, 200, 429]
        await now(gw, tmp_path, config_for(provider))
        assert (await gw.post(CHAT, asked())).status == 200


async def test_what_requests_of_before_remember(provider: FakeProvider, tmp_path: Path) -> None:
    """A request whose body comes slowly goes by the limits that a configured key has by then, and neither it nor an answer that
    comes after the reload has others go by those of before.
    """
    answers = asyncio.Event()

    async def waits(_: FakeProvider, asked: Asked) -> None:
        await answers.wait()
        await whole(chat_answer())(provider, asked)

    provider.will(waits)
    key = "sk-qz7virtual-0001"

    def limited(rpm: int) -> str:
        return config_for(
            provider,
            general_settings={"master_key": MASTER},
            virtual_keys=[{"key": key, "rpm_limit": rpm}],
        )

    async with (
        gateway(limited(100), tmp_path) as gw,
        gw.connect() as (early, first),
        gw.connect() as (late, second),
    ):
        sent = written(CHAT, asked(), keyed(key))
        first.write(sent)
        await provider.asked(1)
        second.write(sent[:-5])
        while len(gw.rt.open) < 2:
            await asyncio.sleep(0.001)
        await now(gw, tmp_path, limited(3))
        answers.set()
        assert (await receive(early)).headers["x-litellm-key-rpm-limit"] == "100"
        second.write(sent[-5:])
        assert (await receive(late)).headers["x-litellm-key-rpm-limit"] == "3"
        last, refused = [await gw.post(CHAT, asked(), headers=keyed(key)) for _ in range(2)]
        assert (last.status, last.headers["x-litellm-key-rpm-limit"]) == (200, "3")
        assert refused.status == 429


async def test_a_budget_that_comes_while_requests_are_open(provider: FakeProvider, tmp_path: Path) -> None:
    """What was spent before a budget existed, and what is under way when it comes, count in it."""
    provider.will(whole(chat_answer()))
    model = entry(
        "gpt-4o",
        "openai/gpt-4o",
        f"{provider.url}/v1",
        input_cost_per_token="0.001",
        output_cost_per_token="0.001",
    )
    with_budget = json.dumps({"model_list": [model], "litellm_settings": {"max_budget": 0.01}})
    async with gateway(config_of(model), tmp_path) as gw:
        assert (await gw.post(CHAT, asked())).status == 200  # 15 tokens, $0.015
        await gw.quiet()
        await now(gw, tmp_path, with_budget)
        assert (await gw.post(CHAT, asked())).status == 422


async def test_an_exemption_that_ends(provider: FakeProvider, tmp_path: Path) -> None:
    """What the master key has spent while it was exempt counts from then on, as it would after a restart."""
    provider.will(whole(chat_answer()))
    prices = {"input_cost_per_token": "0.001", "output_cost_per_token": "0.001"}
    key = "sk-qz7virtual-0001"

    def written(*, exempt: bool) -> str:
        return json.dumps({
            "model_list": [entry("gpt-4o", "openai/gpt-4o", f"{provider.url}/v1", **prices)],
            "litellm_settings": {"max_budget": 1, "master_key_exempt_from_budget": exempt},
            "general_settings": {"master_key": MASTER},
            "virtual_keys": [{"key": key}],
        })  # fmt: skip

    question = {**asked(), "max_tokens": 900}
    async with gateway(written(exempt=True), tmp_path) as gw:
        for who in (key, *[MASTER] * 3):  # $0.015 each
            assert (await gw.post(CHAT, question, headers=keyed(who))).status == 200
        await now(gw, tmp_path, written(exempt=False))
        assert [(await gw.post(CHAT, question, headers=keyed(who))).status for who in (key, MASTER)] == [
            422,
            422,
        ]
        await now(gw, tmp_path, written(exempt=True))
        assert (await gw.post(CHAT, question, headers=keyed(key))).status == 200


async def test_the_size_of_bodies(provider: FakeProvider, tmp_path: Path) -> None:
    """Another `max_request_size_mb` holds however a request is read."""
    provider.will(whole(chat_answer()))
    small = config_for(provider, general_settings={"max_request_size_mb": 0.001})
    async with gateway(config_for(provider), tmp_path) as gw:
        large = {**asked(), "metadata": {"filler": "x" * 5000}}
        assert (await gw.post(CHAT, large)).status == 200
        await now(gw, tmp_path, small)
        assert (await gw.post(CHAT, large)).status == 413

        async def pieces() -> AsyncIterator[bytes]:
            yield json.dumps(large).encode()

        async with gw.session.post(gw.url + CHAT, data=pieces()) as answer:
            assert answer.status == 413
        await now(gw, tmp_path, config_for(provider))
        async with gw.session.post(gw.url + CHAT, data=pieces()) as answer:
            assert answer.status == 200


async def test_what_is_known_of_deployments_stays(provider: FakeProvider, tmp_path: Path) -> None:
    """A deployment that cools down does so still after a reload that puts another one in front of it."""
    base = f"{provider.url}/v1"
    model = entry("gpt-4o", "openai/gpt-4o", base)
    async with gateway(config_of(model), tmp_path) as gw:
        (deployment,) = next(gw.rt.routes.configured()).deployments
        gw.rt.health.of(deployment.id).cooled_until = gw.rt.now() + 100
        await now(gw, tmp_path, config_of(entry("other", "openai/o3", base), model))
        route = gw.rt.routes.find("gpt-4o")
        assert route is not None
        assert not gw.rt.health.is_available(route.deployments[0].id, gw.rt.now())


async def test_what_was_counted_of_deployments_stays(provider: FakeProvider, tmp_path: Path) -> None:
    """How often one was left out is still told when it is gone: a sum over workers of which some have reloaded must not fall."""
    base = f"{provider.url}/v1"
    gone, stays = entry("m", "openai/gone", base), entry("m", "openai/stays", base)
    async with gateway(config_of(gone, stays), tmp_path) as gw:
        deployment = next(
            one for one in next(gw.rt.routes.configured()).deployments if one.target.model == "gone"
        )
        gw.rt.health.of(deployment.id).cooldowns[503] = 2
        for text in (config_of(gone, stays), config_of(stays)):
            await now(gw, tmp_path, text)
            told = await (await gw.get("/metrics")).text()
            (line,) = [
                line for line in told.splitlines() if line.startswith("litellm_deployment_cooled_down_total{")
            ]
            assert line.endswith(" 2.0")


async def test_secrets_are_known_before_they_are_used(provider: FakeProvider, tmp_path: Path) -> None:
    """A key that came with a reload is in no log line from then on, nor is the one that went."""
    base = f"{provider.url}/v1"
    async with gateway(
        config_of(entry("m", "openai/gpt-4o", base, api_key="wq-former-81737")), tmp_path
    ) as gw:
        await now(gw, tmp_path, config_of(entry("m", "openai/gpt-4o", base, api_key="wq-latter-93716")))
        assert "wq-" not in scrub("asked with wq-latter-93716, before with wq-former-81737")


async def test_variables(tmp_path: Path) -> None:
    """What `environment_variables` sets is set anew, and what it sets no more is gone."""
    text = {"environment_variables": {"PENSTOCK_TEST_ONE": "1", "PENSTOCK_TEST_TWO": "2"}}
    async with gateway(json.dumps(text), tmp_path) as gw:
        outcome = await now(gw, tmp_path, json.dumps({"environment_variables": {"PENSTOCK_TEST_TWO": "3"}}))
        assert os.environ.pop("PENSTOCK_TEST_TWO") == "3"
        assert "PENSTOCK_TEST_ONE" not in os.environ
        assert names(outcome) == [
            "environment_variables.PENSTOCK_TEST_ONE removed",
            "environment_variables.PENSTOCK_TEST_TWO changed",
        ]


async def test_old_routes_are_forgotten(provider: FakeProvider, tmp_path: Path) -> None:
    """After many reloads only the routes that are in force are in memory."""
    provider.will(whole(chat_answer()))
    base = f"{provider.url}/v1"
    async with gateway(config_for(provider), tmp_path) as gw:
        seen: list[weakref.ref[Routes]] = []
        for number in range(10):
            await now(gw, tmp_path, config_of(entry(f"qz7-{number}", "openai/gpt-4o", base)))
            seen.append(weakref.ref(gw.rt.routes))
            assert (await gw.post(CHAT, asked(f"qz7-{number}"))).status == 200
        await now(gw, tmp_path, config_for(provider))
        assert [routes() for routes in seen] == [None] * 10
        routes = [one for one in gc.get_objects() if isinstance(one, Route)]
        assert not [route.name for route in routes if route.name.startswith("qz7-")]


# -- what is refused ---------------------------------------------------------------------------------------------------


async def test_a_bad_file_changes_nothing(
    provider: FakeProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All problems are told with their lines, the old configuration serves on, and metric and health say so until it is good."""
    provider.will(whole(chat_answer()))
    good = config_for(provider)
    async with gateway(good, tmp_path) as gw:
        before = gw.rt.compiled
        bad = "model_list:\n  - model_name: a\n    litelm_params: {model: openai/a}\ngeneral_settings:\n  rpm_limit: -1\n"
        outcome = await now(gw, tmp_path, bad)
        assert [(p.place.line, p.place.column) for p in outcome.problems] == [(3, 5), (5, 14)]
        assert gw.rt.compiled is before
        assert (await gw.post(CHAT, asked())).status == 200
        assert "stays in force" in caplog.text
        assert "penstock_config_last_reload_successful 0.0" in await (await gw.get("/metrics")).text()
        health = await (await gw.get("/health")).json()
        assert health["config"]["last_reload"] == "failed"
        assert "config.yaml:3:5" in health["config"]["problems"][0]
        assert (await now(gw, tmp_path, good)).succeeded
        assert "penstock_config_last_reload_successful 1.0" in await (await gw.get("/metrics")).text()


@pytest.mark.parametrize("text", ["", " \n", "model_list: []\n"])
async def test_a_running_gateway_is_not_opened(provider: FakeProvider, tmp_path: Path, text: str) -> None:
    """A file that lost its master key, or everything, is refused: nobody is let in by a slip of the pen."""
    async with gateway(config_for(provider, general_settings={"master_key": MASTER}), tmp_path) as gw:
        assert not (await now(gw, tmp_path, text)).succeeded
        assert (await gw.post(CHAT, asked())).status == 401


async def test_a_slip_takes_no_models(provider: FakeProvider, tmp_path: Path) -> None:
    """A file whose models are all gone, here for a slip in one word, is refused, the slip is named, and the models stay."""
    text = config_for(provider)
    async with gateway(text, tmp_path) as gw:
        outcome = await now(gw, tmp_path, text.replace("model_list", "model_lost"))
        lost, slip = map(str, outcome.problems)
        assert "there are no models any more" in lost
        assert 'unknown key "model_lost", did you mean "model_list"?' in slip
        assert gw.rt.routes.find("gpt-4o") is not None


async def test_a_file_that_is_gone(provider: FakeProvider, tmp_path: Path) -> None:
    """A file that was deleted is refused, and the old configuration stays."""
    async with gateway(config_for(provider), tmp_path) as gw:
        (tmp_path / "config.yaml").unlink()
        outcome = await reloader(gw).reload("the test")
        assert "cannot be read" in str(outcome.problems)
        assert gw.rt.routes.find("gpt-4o") is not None


async def test_a_bug_changes_nothing(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If reading fails in a way that nobody foresaw, the old configuration serves on and the reload counts as failed."""
    async with gateway(config_for(provider), tmp_path) as gw:
        monkeypatch.setattr("gateway.reload.compile_config", lambda *_: 1 / 0)
        outcome = await reloader(gw).reload("the test")
        assert not outcome.succeeded
        assert gw.rt.routes.find("gpt-4o") is not None


async def test_what_needs_a_restart(provider: FakeProvider, tmp_path: Path) -> None:
    """What only a start reads is told as such at each reload until there was one, and the rest applies."""
    async with gateway(config_for(provider), tmp_path) as gw:
        told = {"allowed_origins": ["https://a.example"], "rpm_limit": 7}
        first = await now(gw, tmp_path, config_for(provider, general_settings=told))
        assert [one.name for one in first.differences if one.needs_restart] == [
            "general_settings.allowed_origins"
        ]
        assert gw.rt.limiter.settings.rpm == 7
        second = await now(gw, tmp_path, config_for(provider, general_settings={**told, "rpm_limit": 8}))
        assert [(one.name, one.needs_restart) for one in second.differences] == [
            ("general_settings.rpm_limit", False),
            ("general_settings.allowed_origins", True),
        ]


# -- who notices -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def watching(gw: Gateway) -> AsyncIterator[None]:
    task = spawn(reloader(gw).run(), name="watching")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until_served(gw: Gateway, model: str) -> None:
    async with asyncio.timeout(60):
        while gw.rt.routes.find(model) is None:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["written", "renamed", "linked"])
async def test_a_file_that_changes(provider: FakeProvider, tmp_path: Path, how: str) -> None:
    """A file that is written, replaced by a rename, or behind a link that is swapped, is read again by itself."""
    base = f"{provider.url}/v1"
    text = config_of(entry("new", "openai/gpt-4o", base))
    path = tmp_path / "config.yaml"
    async with gateway(config_for(provider), tmp_path) as gw:
        if how == "linked":
            (tmp_path / "v1").mkdir()
            path.rename(tmp_path / "v1" / "config.yaml")
            (tmp_path / "data-link").symlink_to("v1")
            path.symlink_to("data-link/config.yaml")
        async with watching(gw):
            if how == "written":
                path.write_text(text)
            elif how == "renamed":
                (tmp_path / "draft").write_text(text)
                (tmp_path / "draft").replace(path)
            else:
                (tmp_path / "v2").mkdir()
                (tmp_path / "v2" / "config.yaml").write_text(text)
                (tmp_path / "next-link").symlink_to("v2")
                (tmp_path / "next-link").replace(tmp_path / "data-link")
            await until_served(gw, "new")
            assert gw.rt.routes.find("gpt-4o") is None


async def test_files_around_it(provider: FakeProvider, tmp_path: Path) -> None:
    """A file that comes into `models/`, one that is included, and one whose mistake is mended elsewhere, are noticed."""
    base = f"{provider.url}/v1"
    text = json.dumps({"include": ["more.yaml"], "model_list": [entry("a", "openai/gpt-4o", base)]})
    (tmp_path / "more.yaml").write_text(config_of(entry("b", "openai/gpt-4o", base)))
    async with gateway(text, tmp_path) as gw, watching(gw):
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "c.yaml").write_text(config_of(entry("c", "openai/gpt-4o", base)))
        await until_served(gw, "c")
        (tmp_path / "more.yaml").unlink()
        async with asyncio.timeout(20):
            while reloader(gw).state[0]:
                await asyncio.sleep(0.01)
        (tmp_path / "more.yaml").write_text(config_of(entry("d", "openai/gpt-4o", base)))
        await until_served(gw, "d")


async def test_nobody_looks(provider: FakeProvider, tmp_path: Path) -> None:
    """With `proxy_config_reload_interval_seconds: 0` files are read only when somebody asks."""
    off = {"general_settings": {"proxy_config_reload_interval_seconds": 0}}
    async with gateway(config_for(provider, **off), tmp_path) as gw, watching(gw):
        assert reloader(gw).status()["watched"] is False
        (tmp_path / "config.yaml").write_text(config_of(entry("new", "openai/gpt-4o", f"{provider.url}/v1")))
        reloader(gw).ask("the test")
        await until_served(gw, "new")


async def test_replicas_tell_each_other(provider: FakeProvider, tmp_path: Path, redis_url: str) -> None:
    """Who is told to reload tells the gateways that share its Redis; each reads its own file."""
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name)
    base = f"{provider.url}/v1"
    settings = {"general_settings": {"proxy_config_reload_interval_seconds": 0}}
    text = config_for(provider, router_settings={"redis_url": redis_url}, **settings)
    new = json.dumps(
        {
            "model_list": [entry("new", "openai/gpt-4o", base)],
            "router_settings": {"redis_url": redis_url},
            **settings,
        }
    )
    async with gateway(text, files[0]) as one, gateway(text, files[1]) as two, watching(two):
        for folder in files:
            (folder / "config.yaml").write_text(new)
        await reloader(one).reload("the test")
        # The subscription of the other one may not stand yet: news are told again until they are heard.
        async with asyncio.timeout(20):
            while two.rt.routes.find("new") is None:
                await reloader(one).tell_others()
                await asyncio.sleep(0.05)


async def test_streams_survive_a_hundred_reloads(provider: FakeProvider, tmp_path: Path) -> None:
    """A hundred reloads, every fourth of them refused, while 200 streams are open: each ends whole."""
    provider.will(events([*chat_events("a", done=False), None, *chat_events("b")]))
    base = f"{provider.url}/v1"
    async with gateway(config_for(provider), tmp_path) as gw:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            streams = await asyncio.gather(
                *(session.post(gw.url + CHAT, json=asked(stream=True)) for _ in range(200))
            )
            failed = 0
            gc.freeze()  # as a server does when it has started: each reload collects
            logging.getLogger("penstock.config").setLevel("CRITICAL")
            for number in range(100):
                text = (
                    "model_list: 7"
                    if number % 4 == 3
                    else config_of(entry(f"m{number}", "openai/gpt-4o", base))
                )
                failed += not (await now(gw, tmp_path, text)).succeeded
            logging.getLogger("penstock.config").setLevel("NOTSET")
            gc.unfreeze()
            assert failed == 25
            assert [(await gw.post(CHAT, asked(model))).status for model in ("m97", "gpt-4o")] == [404, 404]
            provider.gate.set()
            bodies = await asyncio.gather(*(stream.read() for stream in streams))
        assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)
