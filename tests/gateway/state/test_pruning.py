"""Rows go, and no sum changes: asked of each store that keeps rows."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from gateway.admin.books import verify
from gateway.state.pruning import DAY, POSTGRES_LOCK
from gateway.state.records import Dimension, LedgerQuery, Records, RecordsUnavailable
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords
from tests.faulty import FaultyProxy
from tests.gateway.rows import NOON, failure, row
from tests.harness import patient_postgres

MIDNIGHT = NOON - DAY / 2
CUTS = [MIDNIGHT + 3600.25, MIDNIGHT + 3600.75, MIDNIGHT + DAY + 17.125]
GROUPINGS: list[list[Dimension]] = [
    [],
    ["day"],
    ["model"],
    ["provider", "model_group"],
    ["key_digest", "day"],
]
_chance = random.Random(7)
ROWS = [
    (row if n % 5 else failure)(
        f"r{n:03}",
        started_at=_chance.choice(
            [
                MIDNIGHT + _chance.uniform(0, 4 * DAY),
                *CUTS,
                MIDNIGHT + 3600.5,
                MIDNIGHT + 3600,
                MIDNIGHT + DAY,
            ]
        ),
        model=f"m{n % 3}",
        key_digest=(None, "a", "b")[n % 3],
        end_user=(None, "alice")[n % 2],
        cost_nano=None if n % 7 == 0 else n,
        cost_source="none" if n % 7 == 0 else "price",
        tags=(),
    )
    for n in range(240)
]
MOMENTS = [
    None,
    *(MIDNIGHT + n * DAY for n in range(-1, 6)),
    MIDNIGHT + 3600,  # a boundary of a budget's period
    MIDNIGHT + DAY + 18_000,
    *CUTS,
]


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Records:
    if request.param == "postgres":
        return patient_postgres(request.getfixturevalue("database_url"))
    return SqliteRecords(tmp_path / "ledger.db")


@pytest.fixture
async def records(store: Records) -> AsyncIterator[Records]:
    await store.append(ROWS)
    yield store
    await store.close()


async def sums(records: Records) -> list[object]:
    """What is said of every span that a budget or a report may ask for."""
    return [
        await records.totals(by, LedgerQuery(since=since, until=until, key_digest=key))
        for since, until in itertools.product(MOMENTS, [None, MIDNIGHT + 2 * DAY, CUTS[2]])
        for by, key in zip(GROUPINGS, (None, "a", None, "a", "b"), strict=True)
    ]


async def prune_all(records: Records, before: float, most: int = 1000) -> list[int]:
    counts = []
    while count := await records.prune(before, CUTS, most):
        counts.append(count)
    return counts


async def test_no_total_changes(records: Records) -> None:
    """Of every span and grouping the sums are the same before, half-way, and when all rows are gone."""
    before = await sums(records)
    simple = MemoryRecords()
    await simple.append(ROWS)
    assert before == await sums(simple)
    old = [r for r in ROWS if r.started_at < MIDNIGHT + 2 * DAY]
    assert await records.prune(MIDNIGHT + 2 * DAY, CUTS, 17) == 17
    assert await sums(records) == before
    counts = await prune_all(records, MIDNIGHT + 2 * DAY, 17)
    assert (sum(counts) + 17, max(counts)) == (len(old), 17)
    assert await sums(records) == before
    left = {r.id for r in await records.rows(LedgerQuery())}
    assert left == {r.id for r in ROWS} - {r.id for r in old}
    await prune_all(records, MIDNIGHT + 9 * DAY)
    assert await records.rows(LedgerQuery()) == []
    assert await sums(records) == before


async def test_verify_knows_what_was_pruned(records: Records) -> None:
    """Rows, pruned sums and totals agree, whatever the span; a pruned row has no end user any more."""
    await prune_all(records, MIDNIGHT + 2 * DAY)
    for since in MOMENTS:
        verdict = await verify(records, LedgerQuery(since=since))
        assert (verdict.problems, verdict.busy) == ((), False), since
    verdict = await verify(records)
    assert (verdict.total.requests, verdict.pruned) == (240, 240 - len(await records.rows(LedgerQuery())))
    users = {total.group: total.requests for total in await records.totals(["end_user"])}
    assert users["",] > 120
    (of_alice,) = await records.totals([], LedgerQuery(end_user="alice"))
    assert of_alice.requests == users["alice",] < 120


async def test_rows_that_come_late(records: Records) -> None:
    """A row that is already too old when it comes is counted, and goes with the next round."""
    await prune_all(records, MIDNIGHT + 2 * DAY)
    (there, *_) = await records.rows(LedgerQuery())
    await records.append([row("late", started_at=MIDNIGHT + 3600.5, cost_nano=5), there])
    (total,) = await records.totals()
    assert (total.requests, await prune_all(records, MIDNIGHT + 2 * DAY)) == (241, [1])
    assert (await records.totals(), (await verify(records)).problems) == ([total], ())


async def test_rows_that_come_meanwhile(records: Records) -> None:
    """Writers and pruners at the same time: every row counts once."""
    more = [row(f"new{n:03}", started_at=MIDNIGHT + n, cost_nano=1, tags=()) for n in range(300)]

    async def write() -> None:
        for start in range(0, 300, 20):
            await records.append(more[start : start + 20])

    await asyncio.gather(write(), prune_all(records, MIDNIGHT + 2 * DAY, 10), prune_all(records, NOON, 7))
    await prune_all(records, MIDNIGHT + 2 * DAY)
    (total,) = await records.totals()
    assert (total.requests, (await verify(records)).problems) == (540, ())


async def test_two_processes_prune_one_file(tmp_path: Path) -> None:
    """They share the work: none deletes what the other has deleted, and no sum is doubled."""
    stores = [SqliteRecords(tmp_path / "ledger.db") for _ in range(2)]
    await stores[0].append(ROWS)
    counts = await asyncio.gather(*(prune_all(store, MIDNIGHT + 9 * DAY, 7) for store in stores))
    assert sum(map(sum, counts)) == 240
    assert ((await stores[0].totals())[0].requests, (await verify(stores[1])).problems) == (240, ())
    for store in stores:
        await store.close()


async def test_one_of_many_prunes_a_database(database_url: str) -> None:
    """While one process is about it, another is told so, and does not wait."""
    one, other = (patient_postgres(database_url) for _ in range(2))
    await one.append(ROWS)
    results = await asyncio.gather(*(s.prune(MIDNIGHT + 9 * DAY, CUTS, 240) for s in (one, other)))
    assert sorted(count or 0 for count in results) == [0, 240]
    assert (await one.totals())[0].requests == 240
    await one.append([row("late", started_at=MIDNIGHT)])
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        assert await connection.fetchval(POSTGRES_LOCK)
        assert await other.prune(MIDNIGHT + 9 * DAY, CUTS, 240) is None
    assert [await other.prune(MIDNIGHT + 9 * DAY, CUTS, 240) for _ in range(2)] == [1, 0]
    await connection.close()
    for store in (one, other):
        await store.close()


async def test_a_batch_whose_commit_is_unknown(database_url: str) -> None:
    """The connection is cut when the commit's answer comes: nothing is lost or counted twice, whichever way it went."""
    proxy = FaultyProxy(database_url)
    await proxy.start()
    records = patient_postgres(proxy.url)
    await records.append(ROWS)
    before = await sums(records)
    proxy.lose_answer_to(b"COMMIT\0")
    with pytest.raises(RecordsUnavailable):
        await records.prune(MIDNIGHT + 2 * DAY, CUTS, 50)
    await prune_all(records, MIDNIGHT + 2 * DAY, 50)
    assert await sums(records) == before
    assert (await verify(records)).problems == ()
    await records.close()
    await proxy.close()
