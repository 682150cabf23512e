from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.admin.books import csv_head, csv_line, every_row, json_line, verify
from gateway.state.records import LedgerQuery, LedgerRow
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords
from tests.gateway.rows import NOON, failure, row

ROWS = [row(f"r{n:02}", started_at=NOON + n // 3, key_digest="ab"[n % 2], cost_nano=n) for n in range(40)]


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    store = SqliteRecords(tmp_path / "ledger.db")
    await store.append([*ROWS, failure(started_at=NOON - 1)])
    yield store
    await store.close()


@pytest.mark.parametrize("page", [1, 2, 3, 7, 1000])
async def test_every_row_comes_once(records: SqliteRecords, page: int) -> None:
    """Whatever the size of a page, and although several rows begin at the same moment."""
    found = [r.id async for rows in every_row(records, LedgerQuery(since=NOON), page) for r in rows]
    assert found == sorted((r.id for r in ROWS), reverse=True)


async def test_rows_that_are_asked_for(records: SqliteRecords) -> None:
    """The query's conditions hold on every page."""
    query = LedgerQuery(key_digest="a", since=NOON + 2, until=NOON + 5)
    found = [r.id async for rows in every_row(records, query, 2) for r in rows]
    assert found == ["r14", "r12", "r10", "r08", "r06"]


async def test_nothing_is_wrong(records: SqliteRecords) -> None:
    """Rows and totals agree; the verdict says what there is."""
    verdict = await verify(records)
    assert (verdict.problems, verdict.busy, verdict.total.requests) == ((), False, 41)
    assert verdict.total.cost_nano == sum(range(40))


async def test_a_total_that_lies(records: SqliteRecords, tmp_path: Path) -> None:
    """One nano-dollar too much in one day's total is found, and where."""
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db, db:
        db.execute(
            "UPDATE day_total SET cost = cost + 1 WHERE kind = (SELECT max(kind) FROM day_total WHERE cost > 0)"
        )
    verdict = await verify(records)
    assert "cost_nano of everything: the total says 781, the rows add up to 780" in verdict.problems
    assert any("cost_nano of day '2026-11-21'" in problem for problem in verdict.problems)


async def test_a_row_that_is_odd(tmp_path: Path) -> None:
    """Negative numbers and costs that come from nowhere are told with the row's id."""
    store = SqliteRecords(tmp_path / "odd.db")
    await store.append(
        [row("a", output=-1), row("b", cost_source="none"), row("c", cost_nano=None), row("d")]
    )
    verdict = await verify(store)
    assert sorted(verdict.problems) == [
        "a: output is negative",
        "b: it costs something, and nobody says why",
        "c: its cost comes from price, and there is none",
    ]
    await store.close()


async def test_rows_that_come_meanwhile() -> None:
    """A ledger that is written to while it is added up is no wrong one."""

    class Busy(MemoryRecords):
        written = 0

        async def rows(self, query: LedgerQuery, limit: int = 10_000) -> list[LedgerRow]:
            if self.written < self.most:
                self.written += 1
                await self.append([row(f"new{self.written}", started_at=NOON + 1000)])
            return await super().rows(query, limit)

        most = 1

    records = Busy()
    await records.append(ROWS)
    verdict = await verify(records)
    assert (verdict.problems, verdict.busy, verdict.total.requests) == ((), False, 41)
    records.most = 10**6
    assert (await verify(records)).busy


def test_json_says_everything() -> None:
    """A line of JSON has every name, and the cost in exact dollars."""
    (line,) = json_line(ROWS[7]).splitlines()
    shown = json.loads(line)
    assert (shown["id"], shown["cost_nano"], shown["cost"]) == ("r07", 7, 7e-9)
    assert shown["started"] == "2026-11-21T12:00:02.000000+00:00"
    assert shown["tags"] == ["blue", "green"]
    assert [attempt["status"] for attempt in shown["attempts"]] == [503, 200]


def test_csv_can_be_read_back() -> None:
    """One line per row whatever is in it; nothing that a spreadsheet would carry out."""
    odd = row("odd", user_agent='=HYPERLINK("x")', end_user='a,"b"\nc', cost_nano=None, call_id="+1")
    text = csv_head() + csv_line(odd) + csv_line(ROWS[7])
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["user_agent"], first["end_user"], first["call_id"]) == (
        '\'=HYPERLINK("x")',
        'a,"b"\nc',
        "'+1",
    )
    assert (first["cost"], second["cost"], second["cost_nano"]) == ("", "0.000000007", "7")
    assert json.loads(second["attempts"])[0]["provider"] == "azure"
    assert second["stream"] == "True"
