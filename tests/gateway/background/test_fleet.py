"""What processes tell each other of deployments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from adapters.errors import UpstreamOverloaded, UpstreamRateLimited
from adapters.types import Usage
from gateway.background.fleet import SILENCE, Fleet, News, Row
from gateway.background.supervisor import Supervisor
from gateway.config.model import Config, ModelEntry, ModelParams, Place, Secret
from gateway.routes import Routes, compile_routes
from gateway.routing.health import Health
from gateway.state.shared import SharedAway
from gateway.state.shared_memory import MemoryShared
from gateway.state.shared_redis import RedisShared
from tests.gateway.routing.choosing import PRICES
from tests.harness import chat_answer, config_for, fake_provider, gateway, hang, whole


def routes(*names: str) -> Routes:
    """A route `m` of deployments with these ids."""
    entries = tuple(
        ModelEntry(
            model_name="m",
            params=ModelParams(model=f"openai/{name}", api_key=Secret("sk-of-a-fleet-7dk2")),
            info={"id": name},
            place=Place("c.yaml", 1, 1),
        )
        for name in names
    )
    return compile_routes(Config(model_list=entries), {}, PRICES)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def two(*names: str) -> tuple[Clock, Fleet, Health, Fleet, Health]:
    """Two processes that share a store."""
    clock, shared, found = Clock(), MemoryShared(), routes(*names)
    here, there = Health(), Health()
    return (
        clock,
        Fleet(shared, here, lambda: found, clock),
        here,
        Fleet(shared, there, lambda: found, clock),
        there,
    )


async def test_what_is_elsewhere_adds_up() -> None:
    """What a process has in flight and has used is known to the other, replaced by its next news, and gone in silence."""
    clock, fleet, here, other, there = two("a", "b")
    here.began("a", clock.now)
    here.began("a", clock.now)
    here.used("a", clock.now, Usage(input=60, output=10))
    await fleet.tell()
    condition = there.of("a")
    assert (condition.elsewhere_in_flight, condition.elsewhere_requests, condition.elsewhere_tokens) == (
        2,
        2,
        70,
    )
    assert (condition.in_flight, there.processes, other.others, here.processes) == (0, 2, 1, 1)
    here.released("a")
    await fleet.tell()
    assert there.of("a").elsewhere_in_flight == 1
    clock.now += SILENCE + 1
    other.forget()
    assert (condition.elsewhere_in_flight, condition.elsewhere_requests, condition.elsewhere_tokens) == (
        0,
        0,
        0,
    )
    assert (there.processes, other.others) == (1, 0)


async def test_nothing_is_told_while_nothing_happens() -> None:
    """An idle process is silent; what lasts is told again before it is forgotten; the end of it is told once."""
    clock, shared, health = Clock(), MemoryShared(), Health()
    messages: list[str | None] = []
    shared.subscribe("fleet", messages.append)
    fleet = Fleet(shared, health, lambda: routes("a"), clock)
    await fleet.tell()
    assert messages == []
    health.began("a", clock.now)
    await fleet.tell()
    await fleet.tell()
    assert len(messages) == 1
    clock.now += 3
    await fleet.tell()
    assert len(messages) == 2
    health.released("a")
    clock.now += 100
    await fleet.tell()
    await fleet.tell()
    assert len(messages) == 3
    assert messages[-1] is not None
    assert msgspec.json.decode(messages[-1], type=News).rows == ()


async def test_measurements_are_weighed() -> None:
    """Speeds and failures go into the other's averages by how many they are, and are told once."""
    clock, fleet, here, _, there = two("a")
    there.began("a", clock.now)
    there.succeeded("a", clock.now, 1.0, streamed=True)
    for _ in range(30):
        here.began("a", clock.now)
        here.succeeded("a", clock.now, 3.0, streamed=True)
    here.began("a", clock.now)
    here.failed("a", UpstreamOverloaded("x"), clock.now, peers=["a"])
    await fleet.tell()
    first = there.of("a").pace.first
    assert first.value == pytest.approx(3.0, abs=0.01)
    assert first.fresh == 1  # its own
    assert there.of("a").pace.failing_now(clock.now) > 0
    first.value = 1.0
    here.began("a", clock.now)
    await fleet.tell()
    assert first.value == 1.0


async def test_a_rate_limit_is_everybodys() -> None:
    """A rate limit that one process ran into leaves the deployment out in all, even the last of its route."""
    clock, fleet, here, _, there = two("a")
    here.began("a", clock.now)
    here.failed("a", UpstreamRateLimited("x", retry_after=20), clock.now, peers=["a"])
    await fleet.tell()
    assert not there.is_available("a", clock.now + 19)
    assert there.is_available("a", clock.now + 21)


async def test_the_last_is_spared() -> None:
    """Other cooldowns are followed as long as one of the route can be asked: news never leave nobody."""
    clock, fleet, here, _, there = two("a", "b")
    for name in ("a", "b"):
        here.began(name, clock.now)
        here.failed(name, UpstreamOverloaded("x"), clock.now, peers=["nobody", name])
    await fleet.tell()
    assert [there.is_available(name, clock.now + 1) for name in ("a", "b")].count(True) == 1


async def test_hearsay_is_not_told() -> None:
    """A cooldown that was heard of is not told again: it would go back and forth and never end."""
    clock, fleet, here, other, there = two("a", "b")
    here.began("a", clock.now)
    here.failed("a", UpstreamOverloaded("x"), clock.now, peers=["a", "b"])
    await fleet.tell()
    there.began("a", clock.now)
    clock.now += 1
    until = here.of("a").cooled_until
    await other.tell()
    assert (here.of("a").cooled_until, there.of("a").cooled_until) == (until, until)


async def test_what_cannot_be_read_changes_nothing() -> None:
    """Garbage, news in other words, too many rows and missed messages are passed over."""
    clock, shared, health = Clock(), MemoryShared(), Health()
    Fleet(shared, health, lambda: routes("a"), clock)
    told = News("p", tuple(Row(f"d{number}", 1) for number in range(600)))
    for message in ("", "{}", '["p", 7]', '["p", [["a", "x"]]]', " " * 300_000):
        await shared.publish("fleet", message)
    assert list(health.all()) == []
    await shared.publish("fleet", msgspec.json.encode(told).decode())
    assert len(list(health.all())) == 500


@pytest.mark.parametrize(
    "row",
    [
        '["a", -1000, -5, -5]',
        f'["a", 1{"0" * 400}]',
        f'["a", 1, 1, 1, 0, "", [[1.0, 1{"0" * 400}]]]',
        '["a", 1, 1, 1, 0, "", [[-5.0, 1]]]',
        '["a", 1, 1, 1, 0, "", [[1e308, 1]]]',
        '["a", 1, 1, 1, 1e308, "upstream_rate_limited"]',
        f'["a", 1, 1, 1, 0, "", [], {"[" * 50_000}{"]" * 50_000}]',
    ],
)
async def test_numbers_that_nobody_counted(row: str) -> None:
    """News with numbers that no process could have are passed over, and leave nothing behind when they are taken back."""
    clock, shared, health = Clock(), MemoryShared(), Health()
    fleet = Fleet(shared, health, lambda: routes("a", "b"), clock)
    await shared.publish("fleet", f'["p", [{row}]]')
    await shared.publish("fleet", '["p", []]')
    condition = health.look("a")
    assert (condition.elsewhere_in_flight, condition.elsewhere_requests) == (0, 0)
    assert (condition.pace.first.value, condition.cooled_until, fleet.others) == (None, 0.0, 0)


async def test_a_message_is_bounded() -> None:
    """Of very many deployments those that are asked most are told."""
    clock, fleet, here, _, there = two("a")
    for number in range(600):
        here.began(f"d{number}", clock.now)
    for _ in range(3):
        here.began("d599", clock.now)
    await fleet.tell()
    assert len(list(there.all())) == 500
    assert there.look("d599").elsewhere_requests == 4


class Away(MemoryShared):
    """A store that cannot be reached."""

    async def publish(self, channel: str, message: str) -> None:
        raise SharedAway("it is away")


async def test_without_the_store_all_go_on() -> None:
    """What could not be told stays to be told, and the worker does not fail."""
    clock, health = Clock(), Health()
    fleet = Fleet(Away(), health, lambda: routes("a"), clock)
    health.began("a", clock.now)
    health.succeeded("a", clock.now, 1.0)
    with pytest.raises(SharedAway):
        await fleet.tell()
    assert health.of("a").pace.whole.fresh == 1
    supervisor = Supervisor([fleet])
    supervisor.start()
    await asyncio.sleep(0)
    assert [state.state for state in supervisor.states()] == ["running"]
    await supervisor.stop()


@asynccontextmanager
async def connected(url: str, prefix: str) -> AsyncIterator[RedisShared]:
    shared = RedisShared(url, prefix=prefix, patience=2.0)
    await shared.start()
    supervisor = Supervisor([shared])
    supervisor.start()
    try:
        yield shared
    finally:
        await supervisor.stop()
        await shared.close()


async def until(holds: Callable[[], object]) -> None:
    """Wait for news that are on their way."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def test_two_gateways_over_redis(redis_url: str, tmp_path: Path) -> None:
    """A rate limit that one gateway runs into, and what it has in flight, is known to the other."""
    prefix = f"penstock-test-{uuid4().hex}:"
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    limited = whole({"error": {"message": "slow down"}}, 429, {"retry-after": "30"})
    async with (
        fake_provider() as provider,
        connected(redis_url, prefix) as one,
        connected(redis_url, prefix) as other,
        gateway(config_for(provider), tmp_path / "1") as first,
        gateway(config_for(provider), tmp_path / "2") as second,
    ):
        fleets = [
            Fleet(shared, gw.rt.health, lambda gw=gw: gw.rt.routes, gw.rt.now)  # type: ignore[misc]  # mypy: defaults
            for shared, gw in ((one, first), (other, second))
        ]
        supervisor = Supervisor(fleets)
        supervisor.start()
        found = first.rt.routes.find("gpt-4o")
        assert found is not None
        (deployment,) = found.deployments
        provider.will(hang, limited, whole(chat_answer()))
        question = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
        waiting = asyncio.get_running_loop().create_task(first.post("/v1/chat/completions", question))
        try:
            await provider.asked(1)
            seen = second.rt.health.of(deployment.id)
            await until(lambda: seen.elsewhere_in_flight == 1)
            assert (await first.post("/v1/chat/completions", question)).status == 429
            await until(lambda: not second.rt.health.is_available(deployment.id, second.rt.now()))
            refused = await second.post("/v1/chat/completions", question)
            assert refused.status == 429
            assert len(provider.requests) == 2
        finally:
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        await until(lambda: seen.elsewhere_in_flight == 0)
        await supervisor.stop()
