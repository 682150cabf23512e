"""Requests that wait for room, through real sockets: providers that take only so many at once, and configured limits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from gateway.admin.health import health
from gateway.routing.breaker import Breaker
from tests.harness import (
    Asked,
    FakeProvider,
    Gateway,
    chat_answer,
    chat_events,
    config_of,
    entry,
    events,
    fake_provider,
    gateway,
    whole,
)

T = TypeVar("T")

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
PATH = "/v1/chat/completions"
KEYS = [{"key": "sk-aardvark-0001-zq", "key_alias": "a"}, {"key": "sk-bonobo-0002-zq", "key_alias": "b"}]


class Crowded:
    """Plays a provider that takes so many requests at once, each for a moment, and refuses the others."""

    def __init__(self, places: int, headers: dict[str, str] | None = None) -> None:
        self.places = places
        self.headers = headers
        self.inside = 0
        self.most = 0
        self.refused = 0

    async def __call__(self, provider: FakeProvider, asked: Asked) -> None:
        if self.inside >= self.places:
            self.refused += 1
            await whole({"error": {"message": "busy"}}, 429)(provider, asked)
            return
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0.02)
        self.inside -= 1
        await whole(chat_answer(), headers=self.headers)(provider, asked)


def deployment(provider: FakeProvider, **params: Any) -> dict[str, Any]:
    return entry("m", "openai/model-a", f"{provider.url}/v1", **params)


def begin(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Let it run while the test goes on."""
    return asyncio.get_running_loop().create_task(coroutine)


async def waiting(gw: Gateway, count: int) -> None:
    """Wait until so many requests do."""
    while gw.rt.queue.waiting != count:
        await asyncio.sleep(0.001)


async def test_a_crowded_provider_refuses_few_and_no_client(tmp_path: Path) -> None:
    """Forty requests at once of which a provider takes four: all are answered, and it had to refuse few of them."""
    async with fake_provider() as provider:
        crowded = Crowded(4)
        provider.will(crowded)
        config = config_of(deployment(provider), num_retries=3, adaptive_concurrency=True, queue=True)
        async with gateway(config, tmp_path) as gw:
            answers = await asyncio.gather(*(gw.post(PATH, QUESTION) for _ in range(40)))
            assert [answer.status for answer in answers] == [200] * 40
            assert crowded.most == 4
            assert crowded.refused <= 14
            (condition,) = (condition for _, condition in gw.rt.health.all())
            assert condition.concurrency is not None
            assert condition.concurrency.places in (4, 5)
            assert condition.in_flight == 0
            _, told = health(gw.rt, details=True)
            assert told["healthy_endpoints"][0]["concurrency_limit"] in (4, 5)
            explained = await (await gw.get("/router/explain", params={"model": "m"})).json()
            assert "'concurrency_limit': " in str(explained)
            shown = await (await gw.get("/metrics")).text()
            assert "penstock_queue_waiting 0.0" in shown
            assert 'penstock_queue_wait_seconds_count{model="m"}' in shown
            assert "penstock_deployment_concurrency_limit{" in shown


async def test_a_configured_limit_is_waited_for(tmp_path: Path) -> None:
    """`max_parallel_requests` is never exceeded, nobody is refused, and the time that was waited is told."""
    async with fake_provider() as provider:
        crowded = Crowded(2)
        provider.will(crowded)
        config = config_of(deployment(provider, max_parallel_requests=2), queue={"max_wait": 20})
        async with gateway(config, tmp_path) as gw:
            answers = await asyncio.gather(*(gw.post(PATH, QUESTION) for _ in range(12)))
            assert [answer.status for answer in answers] == [200] * 12
            assert (crowded.most, crowded.refused) == (2, 0)
            queued = [answer.headers["x-penstock-timing"].split("queue;dur=")[1] for answer in answers]
            assert max(float(one.split(",")[0]) for one in queued) >= 60
            assert len(await gw.rows(12)) == 12


async def test_keys_take_turns(tmp_path: Path) -> None:
    """The single request of one key is answered second, although six of another key came before it."""
    async with fake_provider() as provider:
        provider.will(Crowded(1))
        config = config_of(deployment(provider, max_parallel_requests=1), queue=True)
        config = config[:-1] + f', "virtual_keys": {KEYS}}}'.replace("'", '"')
        async with gateway(config, tmp_path, {"LITELLM_MASTER_KEY": "sk-manatee-9-zq"}) as gw:

            def ask(number: int, user: str) -> asyncio.Task[aiohttp.ClientResponse]:
                headers = {"authorization": f"Bearer {KEYS[number]['key']}"}
                return begin(gw.post(PATH, {**QUESTION, "user": user}, headers=headers))

            many = [ask(0, "many") for _ in range(7)]
            await waiting(gw, 6)
            one = ask(1, "one")
            assert {answer.status for answer in await asyncio.gather(one, *many)} == {200}
            users = [asked.json["user"] for asked in provider.requests]
            assert users.index("one") in (1, 2)


async def test_a_wait_ends_with_its_time(tmp_path: Path) -> None:
    """429 with position and `retry-after` when `max_wait` or the caller's own time is over, or too many wait."""
    async with fake_provider() as provider:
        provider.will(events([None, *chat_events("Hi")]))
        config = config_of(
            deployment(provider, max_parallel_requests=1), queue={"max_wait": 0.3, "max_waiting": 1}
        )
        async with gateway(config, tmp_path) as gw:
            first = begin(gw.post(PATH, {**QUESTION, "stream": True}))
            await provider.asked()
            second = begin(gw.post(PATH, QUESTION))
            await waiting(gw, 1)
            third = await gw.post(PATH, QUESTION)
            assert third.status == 429
            assert third.headers["x-penstock-queue-position"] == "2"
            assert "1 requests wait already" in (await third.json())["error"]["message"]
            late = await second
            assert late.status == 429
            assert late.headers["x-penstock-queue-position"] == "1"
            assert late.headers["retry-after"] == "1"
            assert "Waited 0.3 s" in (await late.json())["error"]["message"]
            own = await gw.post(PATH, {**QUESTION, "timeout": 0.05})
            assert "Waited 0.05 s" in (await own.json())["error"]["message"]
            assert len(provider.requests) == 1
            provider.gate.set()
            assert (await first).status == 200
            shown = await (await gw.get("/metrics")).text()
            assert 'penstock_queue_refused_total{reason="late"} 2.0' in shown


async def test_a_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    """It is gone from the queue at once, its row says that it left, and the provider never hears of it."""
    async with fake_provider() as provider:
        provider.will(events([None, *chat_events("Hi")]))
        config = config_of(deployment(provider, max_parallel_requests=1), queue=True)
        async with gateway(config, tmp_path) as gw:
            first = begin(gw.post(PATH, {**QUESTION, "stream": True}))
            await provider.asked()
            second = begin(gw.post(PATH, QUESTION))
            await waiting(gw, 1)
            second.cancel()
            await waiting(gw, 0)
            provider.gate.set()
            assert (await first).status == 200
            rows = await gw.rows(2)
            assert sorted(row.status for row in rows) == ["client_disconnected", "success"]
            assert len(provider.requests) == 1


async def test_streams_that_wait_are_not_silent(tmp_path: Path) -> None:
    """The head and comments go out while a stream waits; then the answer follows in the same stream."""
    async with fake_provider() as provider:
        provider.will(events([None, *chat_events("Hi")]))
        config = config_of(deployment(provider, max_parallel_requests=1), queue=True)
        async with gateway(config, tmp_path) as gw:
            gw.rt.limits.keep_alive = 0.02
            first = begin(gw.wire(PATH, {**QUESTION, "stream": True}))
            await provider.asked()
            second = await gw.session.post(gw.url + PATH, json={**QUESTION, "stream": True})
            assert (await second.content.readline()).startswith(b":")
            assert gw.rt.queue.waiting == 1
            provider.gate.set()
            assert (await second.content.read()).endswith(b"data: [DONE]\n\n")
            assert (await first).complete


async def test_a_fallback_goes_before_waiting(tmp_path: Path) -> None:
    """Who may be answered by another model does not wait for the first one."""
    async with fake_provider() as provider:
        provider.will(events([None, *chat_events("Hi")]), whole(chat_answer()))
        spare = entry("spare", "openai/spare", f"{provider.url}/v1")
        config = config_of(
            deployment(provider, max_parallel_requests=1), spare, queue=True, fallbacks=[{"m": ["spare"]}]
        )
        async with gateway(config, tmp_path) as gw:
            first = begin(gw.post(PATH, {**QUESTION, "stream": True}))
            await provider.asked()
            answer = await gw.post(PATH, QUESTION)
            assert answer.headers["x-litellm-model-group"] == "spare"
            provider.gate.set()
            assert (await first).status == 200


async def test_what_does_not_pass_is_not_waited_for(tmp_path: Path) -> None:
    """A limit of the minute that is over only after `max_wait`: refused at once as ever, with the time to come again."""
    async with fake_provider() as provider:
        provider.will(whole(chat_answer()))
        config = config_of(deployment(provider, rpm=1), queue={"max_wait": "2s"})
        async with gateway(config, tmp_path) as gw:
            assert (await gw.post(PATH, QUESTION)).status == 200
            refused = await gw.post(PATH, QUESTION)
            assert refused.status == 429
            assert "x-penstock-queue-position" not in refused.headers
            assert int(refused.headers["retry-after"]) > 2


async def test_a_provider_s_word_is_heeded(tmp_path: Path) -> None:
    """After an answer that says that no request is left until the reset, none is sent before."""
    async with fake_provider() as provider:
        told = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "250ms"}
        provider.will(Crowded(9, told))
        config = config_of(deployment(provider), adaptive_concurrency=True, queue=True)
        async with gateway(config, tmp_path) as gw:
            loop = asyncio.get_running_loop()
            assert (await gw.post(PATH, QUESTION)).status == 200
            began = loop.time()
            second = begin(gw.post(PATH, QUESTION))
            await waiting(gw, 1)
            assert len(provider.requests) == 1
            await provider.asked(2)
            assert loop.time() - began >= 0.15
            assert (await second).status == 200


async def test_without_a_queue_what_was_learnt_refuses_nobody(tmp_path: Path) -> None:
    """Fifteen at once, five more than are known to be taken: with nobody else to ask, all are sent."""
    async with fake_provider() as provider:
        provider.will(Crowded(15))
        async with gateway(config_of(deployment(provider), adaptive_concurrency=True), tmp_path) as gw:
            answers = await asyncio.gather(*(gw.post(PATH, QUESTION) for _ in range(15)))
            assert [answer.status for answer in answers] == [200] * 15


async def test_a_reload_leaves_those_who_wait_alone(tmp_path: Path) -> None:
    """Who waits when `queue` is taken out of the file is served in turn all the same; who comes later is refused."""
    async with fake_provider() as provider:
        provider.will(events([None, *chat_events("Hi")]), whole(chat_answer()))
        busy = deployment(provider, max_parallel_requests=1)
        async with gateway(config_of(busy, queue=True), tmp_path) as gw:
            first = begin(gw.post(PATH, {**QUESTION, "stream": True}))
            await provider.asked()
            second = begin(gw.post(PATH, QUESTION))
            await waiting(gw, 1)
            (tmp_path / "config.yaml").write_text(config_of(busy))
            assert gw.rt.reloader is not None
            assert (await gw.rt.reloader.reload("test")).succeeded
            assert (await gw.post(PATH, QUESTION)).status == 429
            provider.gate.set()
            assert [(await one).status for one in (first, second)] == [200, 200]
            assert gw.rt.queue.waiting == 0


async def test_who_waits_is_not_overtaken(tmp_path: Path) -> None:
    """The caller whose request is less urgent goes last of its own: `x-litellm-priority`, and `priority` in the body."""
    async with fake_provider() as provider:
        provider.will(events([None, *chat_events("Hi")]), Crowded(1))
        config = config_of(deployment(provider, max_parallel_requests=1), queue=True)
        async with gateway(config, tmp_path) as gw:
            asked = [begin(gw.post(PATH, {**QUESTION, "stream": True}))]
            await provider.asked()
            last = {"headers": {"x-litellm-priority": "7"}}
            for place, (name, more) in enumerate((("last", last), ("first", {}), ("second", {}))):
                body = {**QUESTION, "user": name, "priority": 0 if name == "first" else 3}
                asked.append(begin(gw.post(PATH, body, **more)))
                await waiting(gw, place + 1)
            provider.gate.set()
            assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
            assert [one.json.get("user") for one in provider.requests[1:]] == ["first", "second", "last"]
            assert "priority" not in provider.requests[1].json


@pytest.mark.parametrize("where", ["m", "n"])
async def test_who_has_room_soon_is_waited_for_before_an_open_circuit(tmp_path: Path, where: str) -> None:
    """One deployment is full, and the other of the model, or its fallback, has an open circuit: the next request waits for the one
    that is well, and `explain` says so.
    """
    async with fake_provider() as well, fake_provider() as broken:
        well.will(events([None, *chat_events("Hi")]), Crowded(1))
        broken.will(whole({"error": {"message": "down"}}, 500))
        config = config_of(
            deployment(well, max_parallel_requests=1),
            entry(where, "openai/model-b", f"{broken.url}/v1"),
            queue=True,
            fallbacks=[{"m": ["n"]}],
        )
        async with gateway(config, tmp_path) as gw:
            route = gw.rt.routes.find(where)
            assert route is not None
            breaker = gw.rt.health.of(route.deployments[-1].id).breaker = Breaker()
            for _ in range(5):
                breaker.failed(gw.rt.now(), 300.0)
            asked = [begin(gw.post(PATH, {**QUESTION, "stream": True}))]
            await well.asked()
            told = await (await gw.get("/router/explain?model=m")).json()
            assert told["waits"] == 30
            assert [one["share"] for one in told["deployments"]] == [1.0, 0.0][: len(told["deployments"])]
            asked.append(begin(gw.post(PATH, QUESTION)))
            while not gw.rt.queue.waiting and not asked[1].done():
                await asyncio.sleep(0.001)
            well.gate.set()
            assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
    assert (len(well.requests), broken.requests) == (2, [])


async def test_requests_with_other_tags_are_not_held_up(tmp_path: Path) -> None:
    """What waits for the deployments of one tag leaves those of another to the same caller's next request."""
    async with fake_provider() as full, fake_provider() as idle:
        full.will(events([None, *chat_events("Hi")]), Crowded(1))
        idle.will(whole(chat_answer()))
        config = config_of(
            deployment(full, max_parallel_requests=1, tags=["free"]),
            entry("m", "openai/model-b", f"{idle.url}/v1", tags=["paid"]),
            queue=True,
            enable_tag_filtering=True,
        )
        async with gateway(config, tmp_path) as gw:
            asked = [begin(gw.post(PATH, {**QUESTION, "stream": True, "tags": ["free"]}))]
            await full.asked()
            asked.append(begin(gw.post(PATH, {**QUESTION, "tags": ["free"]})))
            await waiting(gw, 1)
            answer = await gw.post(PATH, {**QUESTION, "tags": ["paid"]})
            assert (answer.status, len(idle.requests), gw.rt.queue.waiting) == (200, 1, 1)
            full.gate.set()
            assert {answer.status for answer in await asyncio.gather(*asked)} == {200}


async def test_a_retry_goes_to_whoever_has_room_first(tmp_path: Path) -> None:
    """The first deployment refuses for 25 seconds, the second is full for a moment: the request does not sleep until the first can be
    asked again.
    """
    async with fake_provider() as one, fake_provider() as other:
        one.will(whole({"error": {"message": "busy"}}, 429, {"retry-after": "25"}))
        other.will(events([None, *chat_events("Hi")]), whole(chat_answer()))
        config = config_of(
            deployment(one, order=1),
            entry("m", "openai/model-b", f"{other.url}/v1", order=2, max_parallel_requests=1),
            queue=True,
            num_retries=1,
        )
        async with gateway(config, tmp_path) as gw:
            route = gw.rt.routes.find("m")
            assert route is not None
            gw.rt.health.of(route.deployments[0].id).cooled_until = gw.rt.now() + 300.0
            first = begin(gw.post(PATH, {**QUESTION, "stream": True}))
            await other.asked()
            gw.rt.health.of(route.deployments[0].id).cooled_until = 0.0
            second = begin(gw.post(PATH, QUESTION))
            await one.asked()
            await waiting(gw, 1)
            other.gate.set()
            assert ((await first).status, (await second).status) == (200, 200)
    assert (len(one.requests), len(other.requests)) == (1, 2)
