"""The worker that deletes old rows: which, when, and what it says."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from msgspec.structs import replace

from gateway.app import _retention
from gateway.background.retention import Retention, first_kept, prune
from gateway.background.supervisor import spawn
from gateway.state.pruning import DAY, POSTGRES_LOCK
from gateway.state.records import LedgerQuery, RecordsUnavailable
from gateway.state.records_sqlite import SqliteRecords
from tests.gateway.rows import NOON, row
from tests.gateway.state.test_records import KEY
from tests.harness import FakeProvider, config_for, gateway, patient_postgres

MIDNIGHT = NOON - DAY / 2


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    store = SqliteRecords(tmp_path / "ledger.db")
    await store.append(
        [row(f"r{n:02}", started_at=MIDNIGHT - n * DAY / 4, key_digest="k", cost_nano=1) for n in range(40)]
    )
    yield store
    await store.close()


def test_whole_days() -> None:
    """A row goes when its day lies entirely before what is to be kept."""
    assert first_kept(NOON, 30 * DAY) == MIDNIGHT - 30 * DAY
    assert first_kept(MIDNIGHT, 30 * DAY) == MIDNIGHT - 30 * DAY
    assert first_kept(NOON, DAY * 0.6) == MIDNIGHT - DAY


async def test_a_round(records: SqliteRecords, caplog: pytest.LogCaptureFixture) -> None:
    """What is too old goes in batches; the log says how many rows, once, and a second round finds nothing."""
    caplog.set_level(logging.INFO)
    retention = Retention(records, 5 * DAY, batch=3, pause=0, wall=lambda: NOON)
    await retention.round()
    await retention.round()
    assert (retention.pruned, retention.finished_at) == (19, NOON)
    assert min(r.started_at for r in await records.rows(LedgerQuery())) == MIDNIGHT - 5 * DAY
    assert caplog.messages == ["19 ledger rows from before 2026-11-16 were deleted; their sums are kept"]


async def test_a_spend_that_was_set_back(records: SqliteRecords) -> None:
    """What a key has spent since it was set back, at any moment of a day that is pruned, stays what it was."""
    since = MIDNIGHT - 7 * DAY - 0.5
    await records.put_key(replace(KEY, digest="k", spend_since=since))
    await records.append(
        [
            row("before", started_at=since - 0.25, key_digest="k", cost_nano=1000),
            row("at", started_at=since, key_digest="k", cost_nano=100),
        ]
    )
    query = LedgerQuery(key_digest="k", since=since)
    before = await records.totals((), query)
    retention = Retention(records, DAY, pause=0, wall=lambda: NOON)
    await retention.round()
    assert (retention.pruned, await records.totals((), query)) == (37, before)
    assert before[0].cost_nano == 129


async def test_a_store_that_is_away(
    records: SqliteRecords, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A round that fails half-way says so and says what is done; the next one goes on there."""
    retention = Retention(records, 5 * DAY, batch=3, pause=0, wall=lambda: NOON)
    caplog.set_level(logging.INFO)
    real, calls = records.prune, iter(range(99))

    async def fails(*arguments: object) -> int:
        if next(calls) == 2:
            raise RecordsUnavailable("it is away")
        return await real(*arguments)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(records, "prune", fails)
    await retention.round()
    assert (retention.pruned, retention.finished_at) == (6, 0.0)
    assert [message.split(";")[0] for message in caplog.messages] == [
        "old ledger rows cannot be deleted now: it is away",
        "6 ledger rows from before 2026-11-16 were deleted",
    ]
    await retention.round()
    assert (retention.pruned, retention.finished_at) == (19, NOON)


async def test_a_turn_of_another_process(database_url: str) -> None:
    """While another one deletes, a round does not end with nothing done: it goes on when it can."""
    records = patient_postgres(database_url)
    await records.append([row(f"r{n}", started_at=MIDNIGHT - 9 * DAY) for n in range(5)])
    connection = await asyncpg.connect(database_url)
    counts = []
    async with connection.transaction():
        await connection.fetchval(POSTGRES_LOCK)
        rounds = prune(records, MIDNIGHT, batch=3, pause=0.001)
        counts += [await anext(rounds), await anext(rounds)]
    counts += [count async for count in rounds if count]
    assert counts == [0, 0, 3, 2]
    await connection.close()
    await records.close()


async def test_again_and_again(records: SqliteRecords) -> None:
    """It looks at once when it is time, and again after each interval."""
    retention = Retention(records, 5 * DAY, first=0, interval=0.01, pause=0, wall=lambda: NOON)
    worker = spawn(retention.run(), name="retention")
    while retention.pruned < 19:
        await asyncio.sleep(0.01)
    await records.append([row("late", started_at=MIDNIGHT - 9 * DAY)])
    while retention.pruned < 20:
        await asyncio.sleep(0.01)
    worker.cancel()
    await asyncio.wait([worker])


async def test_as_it_is_configured(provider: FakeProvider, tmp_path: Path) -> None:
    """With the setting the gateway has the worker, whose work its metrics show; without it nobody deletes."""
    general = {"maximum_spend_logs_retention_period": "30d", "maximum_spend_logs_retention_interval": 1}
    async with gateway(config_for(provider, general_settings=general), tmp_path) as gw:
        (retention,) = _retention(gw.rt)
        await gw.rt.records.append([row("old", started_at=1.0), row("new", started_at=time.time())])
        await retention.round()
        metrics = await (await gw.get("/metrics")).text()
        assert "penstock_ledger_pruned_total 1.0" in metrics
        assert "penstock_ledger_pruned_at_seconds 0.0" not in metrics
        assert [r.id for r in await gw.rt.records.rows(LedgerQuery())] == ["new"]
        assert (retention._period, retention._interval) == (30 * DAY, 60)
    (tmp_path / "b").mkdir()
    async with gateway(config_for(provider), tmp_path / "b") as gw:
        assert list(_retention(gw.rt)) == []
