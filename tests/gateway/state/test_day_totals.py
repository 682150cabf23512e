"""Sums that come from the days' totals are those of the rows."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.state import records_sqlite
from gateway.state.records import EVERYTHING, Dimension, LedgerQuery
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords
from tests.gateway.rows import NOON, failure, row

DAY = 86_400
MIDNIGHT = NOON - DAY / 2
GROUPINGS: list[list[Dimension]] = [
    [],
    ["day"],
    ["model"],
    ["key_digest", "day"],
    ["day", "end_user", "model"],
]
ROWS = [
    (row if n % 5 else failure)(
        f"r{n}",
        started_at=MIDNIGHT
        + random.Random(n).choice((0, DAY, 2 * DAY, random.Random(n).uniform(0, 4 * DAY))),
        model=f"m{n % 3}",
        key_digest=(None, "a", "b")[n % 3],
        end_user=(None, "alice")[n % 2],
        cost_nano=None if n % 7 == 0 else n,
    )
    for n in range(300)
]


async def test_every_span(tmp_path: Path) -> None:
    """Whichever part of the days is asked for, by whatever it is split, rows and days agree."""
    store, simple = SqliteRecords(tmp_path / "ledger.db"), MemoryRecords()
    for records in (store, simple):
        await records.append(ROWS)
        await records.append(ROWS[:50])  # again, which changes nothing
    chance = random.Random(1)
    moments = [
        None,
        *(MIDNIGHT + n * DAY for n in range(5)),
        *(MIDNIGHT + chance.uniform(0, 4 * DAY) for _ in range(8)),
    ]
    for since in moments:
        for until in moments:
            for key in (None, "a"):
                query = LedgerQuery(since=since, until=until, key_digest=key)
                by = chance.choice(GROUPINGS)
                assert await store.totals(by, query) == await simple.totals(by, query), (by, query)
    await store.close()


async def test_a_batch_that_is_taken_back(tmp_path: Path) -> None:
    """A batch that fails leaves neither rows nor sums."""
    store = SqliteRecords(tmp_path / "ledger.db")
    with pytest.raises(OverflowError):
        await store.append([row("a"), row("b", input=2**70)])
    assert [total.requests for total in await store.totals()] == [0]
    await store.close()


async def test_rows_from_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of an older version has its days added up when it is opened, and a process of that version may go on writing."""
    whole = records_sqlite.migrations()
    monkeypatch.setattr(records_sqlite, "migrations", lambda: whole[:4])
    older = SqliteRecords(tmp_path / "ledger.db")
    await older.append(ROWS[:200])
    monkeypatch.undo()
    store, simple = SqliteRecords(tmp_path / "ledger.db"), MemoryRecords()
    await older.append(ROWS[200:])
    await older.close()
    await simple.append(ROWS)
    for by in GROUPINGS:
        assert await store.totals(by, EVERYTHING) == await simple.totals(by, EVERYTHING)
    await store.close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        assert db.execute("SELECT sum(requests) FROM day_total").fetchall() == [(300,)]
