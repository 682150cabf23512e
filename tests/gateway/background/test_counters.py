"""Counters that are made from the ledger; `test_limiter_stateful.py` looks for what may go wrong between them and requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio

from gateway.background.counters import Counters
from gateway.background.ledger import Ledger
from gateway.background.supervisor import spawn
from gateway.limits import Counter, LimitsUnavailable, Settings
from gateway.state.records import LedgerRow, RecordsUnavailable, Total
from gateway.state.records_memory import MemoryRecords
from gateway.state.shared import Shared, SharedAway, Ticket, Window, budget
from gateway.state.shared_memory import MemoryShared
from gateway.state.shared_redis import RedisShared
from tests.gateway.rows import row
from tests.gateway.state.test_shared import told, until

COUNTER = Counter("b", 1_000, 0.0, None, "Key=k", "d" * 64)
WINDOW = budget("b", 10, 1_000)


class SlowRecords(MemoryRecords):
    """A report is read when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.may_go = asyncio.Event(), asyncio.Event()

    async def totals(self, *given: Any) -> list[Total]:
        found = await super().totals(*given)
        self.is_asked.set()
        await self.may_go.wait()
        return found


class LateRecords(MemoryRecords):
    """Another gateway writes these rows just after a report was read."""

    late: Sequence[LedgerRow] = ()

    async def totals(self, *given: Any) -> list[Total]:
        found = await super().totals(*given)
        await self.append(self.late)
        return found


class AwayRecords(MemoryRecords):
    """No report is read before the test says so; who asks learns that when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = True
        self.is_asked, self.may_go = asyncio.Event(), asyncio.Event()

    async def totals(self, *given: Any) -> list[Total]:
        self.is_asked.set()
        if self.is_away:
            await self.may_go.wait()
            raise RecordsUnavailable("away")
        return await super().totals(*given)


@pytest_asyncio.fixture
async def shared(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisShared]:
    """What several gateways share; their ledgers are there, however long a busy machine takes to read them."""
    monkeypatch.setattr("gateway.background.counters._PATIENCE", 60.0)
    store = RedisShared(redis_url, prefix=f"penstock-test-{uuid4().hex}:", patience=30.0, pause=0.01)
    work = spawn(store.run(), name="shared")

    async def is_available() -> bool:
        return store.available

    await until(is_available)
    yield store
    work.cancel()
    await asyncio.wait([work])
    await store.close()


def counters_in(shared: Shared, records: MemoryRecords) -> Counters:
    """Those of a gateway, which misses what there is in unix second 100."""
    return Counters(Settings(), shared, records, Ledger(records), lambda: 100.0)


def counters(records: MemoryRecords, **settings: Any) -> tuple[Counters, Ledger, MemoryShared]:
    shared, ledger = MemoryShared(), Ledger(records)
    return Counters(Settings(**settings), shared, records, ledger, lambda: 100.0), ledger, shared


def settle(made: Counters, store: Shared, ticket: Ticket) -> None:
    """A request ends that cost 7, as the limiter does it."""
    made.settled("b", 7)
    for name, nano in store.settle(ticket, {"b": 7}):
        made.charge(store, name, nano)


async def test_what_ends_while_the_ledger_is_read() -> None:
    """It counts once, whether it held something of the counter, or was older than that."""
    records = SlowRecords()
    made, ledger, shared = counters(records)
    made.know([COUNTER])
    ledger.offer(row("1", key_digest=COUNTER.digest, cost_nano=40))
    ticket = shared.hold([WINDOW])
    making = spawn(made.made(shared, COUNTER, WINDOW), name="making")
    await records.is_asked.wait()
    settle(made, shared, ticket)
    ledger.offer(row("2", key_digest=COUNTER.digest, cost_nano=7))
    made.spent(COUNTER.digest, [], 3, 50.0, "", [shared])
    ledger.offer(row("3", key_digest=COUNTER.digest, cost_nano=3))
    records.may_go.set()
    await making
    assert await shared.look([WINDOW]) == [50]
    assert list(made.remaining()) == [(COUNTER, 950)]


async def test_what_ends_in_an_outage_while_the_ledger_is_read(shared: RedisShared) -> None:
    """Redis never heard of it, and what is read does not have it: it counts when the counter is there."""
    records = SlowRecords()
    made = counters_in(shared, records)
    made.tallies["b"] = 0  # so that the ledger is read but once
    making = spawn(made.made(shared, COUNTER, WINDOW), name="making")
    await records.is_asked.wait()
    shared._degrade(ConnectionError("a test"))
    settle(made, shared, shared.hold([WINDOW]))

    async def is_back() -> bool:
        return shared.available

    await until(is_back)
    records.may_go.set()
    await making
    assert await shared.look([WINDOW]) == [7]


async def test_a_counter_that_is_there_already() -> None:
    """Who was told that it is missing may come late: then it is made by now, and nothing that ends meanwhile counts twice."""
    records = SlowRecords()
    made, _, shared = counters(records)
    records.may_go.set()
    await made.made(shared, COUNTER, WINDOW)
    ticket = shared.hold([WINDOW])
    records.is_asked.clear()
    records.may_go.clear()
    making = spawn(made.made(shared, COUNTER, WINDOW), name="making")
    asked = spawn(records.is_asked.wait(), name="asked")
    await asyncio.wait([making, asked], return_when=asyncio.FIRST_COMPLETED)
    settle(made, shared, ticket)
    records.may_go.set()
    asked.cancel()
    await making
    assert await shared.look([WINDOW]) == [7]


async def test_a_budget_without_an_end_is_over_when_the_spend_is_set_back() -> None:
    """It is not shown any more, though somebody who came before asks for it once more, and forgotten after a while; the present one
    stays.
    """
    wall, records = 100.0, MemoryRecords()
    shared = MemoryShared()
    made = Counters(Settings(), shared, records, Ledger(records), lambda: wall)
    fresh = msgspec.structs.replace(COUNTER, name="b:since:90.0", starts=90.0)
    made.know_all(COUNTER.digest, [COUNTER])
    made.know_all(COUNTER.digest, [fresh])
    made.know([COUNTER])
    for counter in (COUNTER, fresh):
        await made.made(shared, counter, budget(counter.name, 10, 1_000))
    assert list(made.remaining()) == [(fresh, 1_000)]
    await made.look()
    assert list(made.known[COUNTER.digest]) == [COUNTER.name, fresh.name]
    wall = 90.0 + 3_601.0
    await made.look()
    assert list(made.known[COUNTER.digest]) == [fresh.name]
    assert list(made.remaining()) == [(fresh, 1_000)]


async def test_a_counter_is_spent_by_those_it_is_for() -> None:
    """Not by requests of before its period or of another model, nor twice by those that held some of it."""
    made, _, shared = counters(MemoryRecords())
    since = Counter("s", 1_000, 60.0, 200, "Key=k", COUNTER.digest)
    model = Counter("m", 1_000, 0.0, None, "Key=k", COUNTER.digest, "gpt")
    windows = [budget("s", 0, 1_000, 200), budget("m", 0, 1_000)]
    made.know([since, model])
    for counter, window in zip((since, model), windows, strict=True):
        await made.made(shared, counter, window)
    made.spent(COUNTER.digest, [], 1, 50.0, "other", [shared])
    made.spent(COUNTER.digest, ["s"], 10, 70.0, "gpt", [shared])
    made.spent(COUNTER.digest, [], 100, 70.0, "other", [shared])
    made.spent("somebody else", [], 1_000, 70.0, "gpt", [shared])
    assert await shared.look(windows) == [100, 10]


async def test_a_budget_of_a_key_that_others_use(shared: RedisShared) -> None:
    """A budget that comes later: what another gateway spent a moment before, and has not written yet, counts too."""
    records = LateRecords()
    await records.append([row("1", key_digest=COUNTER.digest, cost_nano=40)])
    records.late = [row("2", key_digest=COUNTER.digest, cost_nano=30)]
    await counters_in(shared, records).made(shared, COUNTER, WINDOW)
    assert await shared.look([WINDOW]) == [70]


async def test_a_ledger_that_must_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it there is a counter from zero, which is made up for later; or none, if the operator wants it so."""
    records = MemoryRecords()

    async def unreadable(*_: Any) -> list[Total]:
        raise RecordsUnavailable("away")

    await records.append([row(key_digest=COUNTER.digest, cost_nano=40)])
    made, _, shared = counters(records)
    with monkeypatch.context() as patch:
        patch.setattr(records, "totals", unreadable)
        await made.made(shared, COUNTER, WINDOW)
        assert isinstance(await shared.take([WINDOW]), Ticket)
        strict, _, other = counters(records, serves_without_ledger=False)
        with pytest.raises(LimitsUnavailable):
            await strict.made(other, COUNTER, WINDOW)
    await made.make_up()
    assert await shared.look([WINDOW]) == [50]


async def test_what_ends_while_the_ledger_is_asked_in_vain() -> None:
    """It is part of what a counter is made with instead, and counts once."""
    records = AwayRecords()
    made, _, store = counters(records)
    made.know([COUNTER])
    made.tallies["b"] = 40
    making = spawn(made.made(store, COUNTER, WINDOW), name="making")
    await records.is_asked.wait()
    made.spent(COUNTER.digest, [], 7, 50.0, "", [store])
    records.may_go.set()
    await making
    assert await store.look([WINDOW]) == [47]


async def test_what_others_spend_of_a_guess(shared: RedisShared) -> None:
    """They have counted it themselves, and it is not made up for."""
    records = AwayRecords()
    records.may_go.set()
    await records.append([row("1", key_digest=COUNTER.digest, cost_nano=40, started_at=50.0)])
    made = counters_in(shared, records)
    made.know([COUNTER])
    await made.made(shared, COUNTER, WINDOW)
    shared.charge("b", 30)
    made.spent(COUNTER.digest, [], 5, 150.0, "", [shared])
    await records.append(
        [
            row("2", key_digest=COUNTER.digest, cost_nano=30, started_at=150.0),
            row("3", key_digest=COUNTER.digest, cost_nano=5, started_at=150.0),
        ]
    )
    records.is_away = False
    await made.make_up()
    await told(shared)
    assert await shared.look([WINDOW]) == [75]


async def test_two_who_guess(shared: RedisShared) -> None:
    """Only one of them has made the counter, and makes up for it."""
    records = AwayRecords()
    await records.append([row(key_digest=COUNTER.digest, cost_nano=40, started_at=50.0)])
    both = [counters_in(shared, records) for _ in range(2)]
    making = []
    for made in both:
        records.is_asked.clear()
        making.append(spawn(made.made(shared, COUNTER, WINDOW), name="making"))
        await records.is_asked.wait()
    records.may_go.set()
    await asyncio.gather(*making)
    records.is_away = False
    for made in both:
        await made.make_up()
    await told(shared)
    assert await shared.look([WINDOW]) == [40]


async def test_what_others_write_late(shared: RedisShared) -> None:
    """Rows that waited elsewhere for the ledger to come back are made up for too, in the order in which they are written."""
    records = AwayRecords()
    records.may_go.set()
    made = counters_in(shared, records)
    await made.made(shared, COUNTER, WINDOW)
    records.is_away = False
    for number, nano in enumerate((40, 20, 0)):
        await records.append([row(str(number), key_digest=COUNTER.digest, cost_nano=nano, started_at=50.0)])
        await made.make_up()
    await told(shared)
    assert await shared.look([WINDOW]) == [60]


async def test_a_guess_in_each_store(shared: RedisShared) -> None:
    """Redis goes away before the ledger is back, and the counter is made here too: both are made up for."""
    records = AwayRecords()
    records.may_go.set()
    await records.append([row(key_digest=COUNTER.digest, cost_nano=40, started_at=50.0)])
    made, local = counters_in(shared, records), MemoryShared()
    for store in (shared, local):
        await made.made(store, COUNTER, WINDOW)
    records.is_away = False
    await made.make_up()
    await told(shared)
    assert await shared.look([WINDOW]) == await local.look([WINDOW]) == [40]


async def test_a_counter_whose_maker_learns_nothing(
    shared: RedisShared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there all the same, and counts what ended while it was made."""
    records = SlowRecords()
    await records.append([row(key_digest=COUNTER.digest, cost_nano=40, started_at=50.0)])
    made = counters_in(shared, records)
    made.know([COUNTER])
    made.tallies[COUNTER.name] = (
        40  # it was there: nobody reads the ledger to learn whether there was anything before
    )
    seed = shared.seed

    async def lost(window: Window, amount: int) -> bool:
        await seed(window, amount)
        raise SharedAway("no answer")

    monkeypatch.setattr(shared, "seed", lost)
    making = spawn(made.made(shared, COUNTER, WINDOW), name="making")
    await records.is_asked.wait()
    made.spent(COUNTER.digest, [], 3, 50.0, "", [shared])
    records.may_go.set()
    with pytest.raises(SharedAway):
        await making
    await told(shared)
    assert await shared.look([WINDOW]) == [43]


async def test_a_budget_that_is_lifted_and_comes_back(shared: RedisShared) -> None:
    """What was spent meanwhile counts, also at a gateway that never knew of it: nobody keeps what it held before."""
    records = MemoryRecords()
    here = counters_in(shared, records)
    here.know_all(COUNTER.digest, [COUNTER])
    await here.made(shared, COUNTER, WINDOW)
    here.know_all(COUNTER.digest, [])

    async def is_forgotten() -> bool:
        return await shared.look([WINDOW]) == [None]

    await until(is_forgotten)
    await records.append([row("elsewhere", key_digest=COUNTER.digest, cost_nano=70)])
    await shared.seed(WINDOW, 1)  # by a request that began before
    here.know_all(COUNTER.digest, [COUNTER])
    await until(is_forgotten)
    await here.made(shared, COUNTER, WINDOW)
    assert await shared.look([WINDOW]) == [70]
    here.know_all(COUNTER.digest, [COUNTER])
    await told(shared)
    assert await shared.look([WINDOW]) == [70]


async def test_a_budget_that_is_lifted_while_redis_is_away(
    shared: RedisShared, caplog: pytest.LogCaptureFixture
) -> None:
    """Its counter stays, which is told."""
    here = counters_in(shared, MemoryRecords())
    here.know_all(COUNTER.digest, [COUNTER])
    shared._degrade(ConnectionError("a test"))
    here.know_all(COUNTER.digest, [])

    async def is_told() -> bool:
        return "lifted stay as they are" in caplog.text

    await until(is_told)
