"""Whatever requests do, in whatever order, a budget's counter is what the ledger says of it and what open requests hold.

One machine plays two gateways that share a store, in memory and in Redis: requests are admitted, tried again, end with any
cost or are cancelled, periods end, the key's budgets change, Redis loses everything, a gateway is killed. It compares with
two lists: the rows, and the requests that are open. What is done next never depends on what was answered: who is without Redis
knows of the other what it happened to hear last.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import Raw
from msgspec.structs import replace
from redis.asyncio import Redis

from adapters.types import Usage
from gateway.background import counters
from gateway.background.ledger import Ledger
from gateway.background.limiter import Limiter
from gateway.endpoints import ENDPOINTS
from gateway.exchange import Exchange, begin_exchange
from gateway.keyring import Caller
from gateway.limits import BudgetExceeded, Counter, RateLimited, Settings
from gateway.pricing import MILLION, Price
from gateway.routes import Route
from gateway.state.keys import BudgetLimit, KeyRow
from gateway.state.records_memory import MemoryRecords
from gateway.state.shared import Shared, budget, slots
from gateway.state.shared_memory import MemoryShared
from gateway.state.shared_redis import RedisShared
from tests.gateway.rows import NOON, row
from tests.gateway.state.test_shared import told, until
from tests.gateway.test_reservations import deployment

KEY = KeyRow(
    digest="d" * 64,
    name="sk-...abcd",
    budgets=(BudgetLimit(500), BudgetLimit(300, "1h")),
    max_parallel_requests=4,
)
DEPLOYMENT = deployment(price=Price(input=0, output=MILLION))  # a nano-dollar for a token of the answer
ROUTE = Route(DEPLOYMENT.route, (DEPLOYMENT,))
(CHAT,) = [endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/chat/completions"]


class Gateway:
    """One process: its store, its ledger, its limiter."""

    def __init__(self, shared: Shared, records: MemoryRecords, machine: Limits) -> None:
        self.shared = shared
        self.ledger = Ledger(records)
        self.limiter = Limiter(Settings(), shared, records, self.ledger, wall=lambda: machine.wall)
        self.work = machine.loop.create_task(shared.run())


class Open(SimpleNamespace):
    """A request that is under way: whose it is, what its counters were told that it holds."""

    gateway: Gateway
    x: Exchange
    counters: dict[str, int]


class Limits(RuleBasedStateMachine):
    """Subclasses say which store."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = uvloop.new_event_loop()
        self.records = MemoryRecords()
        self.wall = NOON
        self.key = KEY
        self.open: list[Open] = []
        self.rows: list[tuple[float, int]] = []
        self.known: dict[str, Counter] = {}
        self.lifted: set[str] = set()
        """What these hold nobody asks; if they come back they are made anew."""
        self.begin()

    def begin(self) -> None:
        raise NotImplementedError

    def gateways(self) -> list[Gateway]:
        raise NotImplementedError

    def ask(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    def settled(self) -> None:
        """Return when the store knows all that was told."""

    # -- what may be done --------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), tokens=st.integers(1, 120))
    def admit(self, which: int, tokens: int) -> None:
        gateways = self.gateways()
        gateway = gateways[which % len(gateways)]
        x = self.exchange(tokens)
        counters = self.counters()
        fits = all(self.used(one) + tokens <= one.limit for one in counters) and len(self.open) < 4
        try:
            self.ask(gateway.limiter.admit(x))
        except (BudgetExceeded, RateLimited):
            assert not fits
            return
        assert fits
        for one in counters:
            self.known[one.name] = one
        self.open.append(Open(gateway=gateway, x=x, counters={one.name: tokens for one in counters}))

    @rule(which=st.integers(0, 11))
    def try_again(self, which: int) -> None:
        """Another attempt, while the last one may be billed; under the limits with which the request began."""
        if not self.open:
            return
        one = self.open[which % len(self.open)]
        hold = one.x.hold
        assert hold is not None
        fits = all(self.used(counter) + hold.worst <= counter.limit for counter in hold.bound.budgets)
        is_made = self.ask(one.gateway.limiter.top_up(one.x, ROUTE, again=True))
        assert is_made == fits
        if is_made:
            one.counters = {name: held + hold.worst for name, held in one.counters.items()}

    @rule(which=st.integers(0, 11), nano=st.none() | st.integers(0, 150))
    def end(self, which: int, nano: int | None) -> None:
        """With any cost, more than was foreseen too; None: cancelled before anybody was asked."""
        if not self.open:
            return
        one = self.open.pop(which % len(self.open))
        one.x.cost = nano
        one.x.usage = None if nano is None else Usage(output=nano)
        one.x.deployment = DEPLOYMENT
        self.ask(self.book(one, nano or 0, settles=True))
        self.settled()

    @rule(minutes=st.integers(1, 59))
    def let_time_pass(self, minutes: int) -> None:
        """Periods end; requests go on."""
        self.wall += 60 * minutes

    async def tell_of_the_key(self) -> None:
        for gateway in self.gateways():
            gateway.limiter.key_changed(self.key)

    @rule(
        whole=st.integers(50, 600),
        part=st.integers(50, 400),
        duration=st.sampled_from(["1h", "1h", "1d", "2h"]),
    )
    def change_the_budgets(self, whole: int, part: int, duration: str) -> None:
        """What is open holds in new ones what it holds in the others."""
        limits = BudgetLimit(whole), BudgetLimit(part, duration)
        self.key = replace(self.key, version=self.key.version + 1, budgets=limits)
        self.ask(self.tell_of_the_key())
        self.lifted = self.known.keys() - {counter.name for counter in self.counters()}
        for counter in self.counters():
            if counter.name in self.known:
                self.known[counter.name] = counter
            for one in self.open:
                hold = one.x.hold
                if hold is not None and counter.starts <= one.x.wall < (counter.ends or float("inf")):
                    one.counters.setdefault(counter.name, hold.held)
        self.settled()

    @invariant()
    def counters_are_what_happened(self) -> None:
        shared = self.gateways()[0].shared
        counters = [counter for counter in self.known.values() if counter.name not in self.lifted]
        windows = [budget(one.name, 0, one.limit, one.ends) for one in counters]
        found = self.ask(shared.look([*windows, slots(f"parallel:api_key:{KEY.payer}", 4)]))
        assert found.pop() == len(self.open)
        for counter, nano in zip(counters, found, strict=True):
            if nano is not None:
                assert nano == self.used(counter)

    # -- what should be ----------------------------------------------------------------------------------------------

    def counters(self) -> list[Counter]:
        return Settings().budgets_of(self.key, (), self.wall)

    def used(self, counter: Counter) -> int:
        ends = float("inf") if counter.ends is None else counter.ends
        spent = sum(nano for at, nano in self.rows if counter.starts <= at < ends)
        return spent + sum(one.counters.get(counter.name, 0) for one in self.open)

    def exchange(self, tokens: int) -> Exchange:
        head: Any = SimpleNamespace(endpoint=CHAT, call_id="")
        nobody: Any = None
        x = begin_exchange(head, b"", nobody, nobody, 0.0)
        x.wall, x.caller, x.plan = self.wall, Caller("key", KEY.payer, None, self.key), (ROUTE,)
        x.envelope = {"max_tokens": Raw(json.dumps(tokens).encode())}
        x.model = ROUTE.name
        return x

    async def book(self, one: Open, nano: int, *, settles: bool) -> None:
        """Its row, and stored: other gateways see it a tenth of a second later, and nothing here is as quick."""
        if settles:
            one.gateway.limiter.settle(one.x)
        self.rows.append((one.x.wall, nano))
        one.gateway.ledger.offer(row(one.x.id, key_digest=KEY.payer, cost_nano=nano, started_at=one.x.wall))
        await one.gateway.ledger.drain()

    def teardown(self) -> None:
        for gateway in self.gateways():
            gateway.work.cancel()
            self.ask(asyncio.wait([gateway.work]))
            self.ask(gateway.shared.close())
        self.loop.close()


class InMemory(Limits):
    """One gateway; when it is killed, another comes, which finds the rows of what it had begun."""

    def begin(self) -> None:
        self.gateway = self.one()

    def one(self) -> Gateway:
        return Gateway(MemoryShared(clock=lambda: self.wall, wall=lambda: self.wall), self.records, self)

    def gateways(self) -> list[Gateway]:
        return [self.gateway]

    @rule()
    def kill(self) -> None:
        self.gateway.work.cancel()
        self.gateway = self.one()
        for one in self.open:
            one.gateway = self.gateway
            assert one.x.hold is not None
            self.ask(self.book(one, one.x.hold.held, settles=False))
        self.open.clear()


TestInMemory = InMemory.TestCase
TestInMemory.settings = settings(max_examples=60, stateful_step_count=40)


async def _never() -> None:
    pass


async def _forgotten() -> bool:
    """Redis was told of all budgets that are lifted."""
    return all(task.get_name() != "forget budgets" for task in asyncio.all_tasks())


async def _holds(shared: Shared) -> bool:
    """Redis was told of all that is held."""
    assert isinstance(shared, RedisShared)
    return not shared._to_hold


class InRedis(Limits):
    """Two gateways."""

    url = ""

    def begin(self) -> None:
        self.prefix = f"penstock-test-{uuid4().hex}:"
        self.client = Redis.from_url(self.url)
        self.both = [self.one(), self.one()]

    def one(self) -> Gateway:
        store = RedisShared(self.url, prefix=self.prefix, patience=30.0, pause=0.01)
        gateway = Gateway(store, self.records, self)

        async def is_available() -> bool:
            return store.available

        self.ask(until(is_available))
        return gateway

    def gateways(self) -> list[Gateway]:
        return self.both

    def settled(self) -> None:
        self.ask(until(_forgotten))
        for gateway in self.both:
            self.ask(told(gateway.shared))
            self.ask(until(partial(_holds, gateway.shared)))

    @rule(which=st.integers(0, 1), tokens=st.integers(1, 120))
    def admit_alone(self, which: int, tokens: int) -> None:
        """One loses Redis, admits what it has room for as far as it knows, and finds Redis again, which is told."""
        gateway = self.both[which]
        store: Any = gateway.shared
        connect, store._connect = store._connect, _never
        store._degrade(ConnectionError("a test"))
        x, counters = self.exchange(tokens), self.counters()
        with suppress(BudgetExceeded, RateLimited):
            self.ask(gateway.limiter.admit(x))
            others = sum(
                one.counters.get(counters[0].name, 0) for one in self.open if one.gateway is not gateway
            )
            assert self.used(counters[0]) + tokens - others <= counters[0].limit
            for one in counters:
                self.known[one.name] = one
            self.open.append(Open(gateway=gateway, x=x, counters={one.name: tokens for one in counters}))
        store._connect = connect

        async def is_available() -> bool:
            return bool(store.available)

        self.ask(until(is_available))
        self.settled()

    @rule()
    def lose_everything(self) -> None:
        """As a flush does; slots come back with the next renewal, budgets when they are missed."""

        async def forget() -> None:
            async for name in self.client.scan_iter(match=f"{self.prefix}*", count=1000):
                await self.client.delete(name)
            for gateway in self.both:
                assert isinstance(gateway.shared, RedisShared)
                gateway.shared._renew_all()
                await gateway.shared.get("v")

        self.ask(forget())

    def teardown(self) -> None:
        self.ask(self.client.aclose())
        super().teardown()


def test_in_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with two gateways, and a Redis that forgets."""
    monkeypatch.setattr(counters, "_WRITING", 0.0)
    machine: Any = type("OnThisRedis", (InRedis,), {"url": redis_url})
    machine.TestCase.settings = settings(max_examples=12, stateful_step_count=25)
    machine.TestCase().runTest()
