from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from gateway.background.ledger import Ledger
from gateway.background.supervisor import spawn
from gateway.state.records import LedgerQuery, LedgerRow
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords
from tests.gateway.rows import row


class Hearing(logging.Handler):
    """Sets `event` when the log says `words`."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words
        self.event = asyncio.Event()
        logging.getLogger("penstock.ledger").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.event.set()
            logging.getLogger("penstock.ledger").removeHandler(self)


class Counting(SqliteRecords):
    """The real store, which tells how large the batches were."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, busy_seconds=0.01)
        self.batches: list[int] = []
        self.written = asyncio.Event()

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        await super().append(rows)
        self.batches.append(len(rows))
        self.written.set()


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Counting]:
    store = Counting(tmp_path / "ledger.db")
    yield store
    await store.close()


async def ids(records: SqliteRecords) -> list[str]:
    return sorted(r.id for r in await records.rows(LedgerQuery(), 10**6))


async def test_rows_are_written_in_one_batch(records: Counting) -> None:
    """What is offered within an interval becomes one transaction, without anybody asking."""
    ledger = Ledger(records, interval=0.001)
    worker = spawn(ledger.run(), name="ledger")
    for name in ("a", "b", "c"):
        ledger.offer(row(name))
    await records.written.wait()
    assert (records.batches, await ids(records), ledger.waiting) == ([3], ["a", "b", "c"], 0)
    worker.cancel()


async def test_batches_are_bounded(records: Counting) -> None:
    """A long queue is written in batches of the set size."""
    ledger = Ledger(records, batch=4)
    for n in range(10):
        ledger.offer(row(f"r{n}"))
    assert await ledger.drain() == 0
    assert records.batches == [4, 4, 2]


async def test_listeners_hear_while_the_store_is_away(records: Counting, tmp_path: Path) -> None:
    """Listeners get their rows promptly although nothing can be written, and the rows are written afterwards, once."""
    heard: list[str] = []
    everything = asyncio.Event()

    def listen(rows: Sequence[LedgerRow]) -> None:
        heard.extend(r.id for r in rows)
        if len(heard) == 2:
            everything.set()

    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waits = Hearing("ledger rows wait")
    ledger = Ledger(records, [listen], interval=0.001, delays=(0.001, 0.001))
    worker = spawn(ledger.run(), name="ledger")
    ledger.offer(row("a"))
    ledger.offer(row("b"))
    await everything.wait()
    await waits.event.wait()
    assert (ledger.waiting, ledger.dropped, records.batches) == (2, 0, [])
    other.execute("ROLLBACK")
    other.close()
    await records.written.wait()
    assert await ids(records) == heard == ["a", "b"]
    worker.cancel()


async def test_a_full_queue_drops_loudly(records: Counting, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond its capacity the ledger drops new rows, counts them and says so; listeners have seen them all."""
    heard: list[LedgerRow] = []
    ledger = Ledger(records, [heard.extend], capacity=2)
    for n in range(5):
        ledger.offer(row(f"r{n}"))
    assert await ledger.drain() == 0
    assert (ledger.dropped, len(heard), await ids(records)) == (3, 5, ["r0", "r1"])
    assert "3 ledger rows were DROPPED" in caplog.text


async def test_one_bad_row_does_not_hold_up_the_others(
    records: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that cannot be stored at all is counted and named in the log, and its batch goes in without it."""
    ledger = Ledger(records)
    for bad in (row("a"), row("bad", input=2**70), row("c")):
        ledger.offer(bad)
    assert await ledger.drain() == 0
    assert (await ids(records), ledger.dropped) == (["a", "c"], 1)
    assert "request bad cannot be stored" in caplog.text


async def test_drain_gives_up_at_its_deadline(
    records: Counting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Draining into a store that is away ends in time and says how many rows are lost."""
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger = Ledger(records)
    ledger.offer(row("a"))
    assert await ledger.drain(timeout=0.05) == 1
    assert "1 ledger rows could not be written" in caplog.text
    other.execute("ROLLBACK")
    other.close()


async def test_drain_after_a_cancelled_worker(records: Counting) -> None:
    """A worker that is cancelled in the middle of a write, then drained, leaves each row exactly once."""
    ledger = Ledger(records, interval=0, batch=1)
    worker = spawn(ledger.run(), name="ledger")
    for n in range(20):
        ledger.offer(row(f"r{n}"))
    await records.written.wait()
    worker.cancel()
    await asyncio.wait([worker])
    await ledger.drain()
    assert await ids(records) == sorted(f"r{n}" for n in range(20))


async def test_a_new_worker_finds_what_waits(records: Counting) -> None:
    """Rows that were offered before the worker runs (or ran again) are written."""
    ledger = Ledger(records, interval=0)
    ledger.offer(row("a"))
    ledger._wake.clear()
    worker = spawn(ledger.run(), name="ledger")
    await records.written.wait()
    assert await ids(records) == ["a"]
    worker.cancel()


async def test_a_broken_listener_costs_nothing(records: Counting, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises is logged; the others still hear everything."""
    heard: list[LedgerRow] = []

    def broken(rows: Sequence[LedgerRow]) -> None:
        raise ValueError("broken")

    ledger = Ledger(records, [broken, heard.extend])
    ledger.offer(row("a"))
    await ledger.settle_listeners()
    assert [r.id for r in heard] == ["a"]
    assert "a ledger listener failed" in caplog.text


async def test_books_give_way_to_requests(records: Counting) -> None:
    """While the loop is late neither listeners nor the store are bothered; when it is not, both are."""
    heard: list[LedgerRow] = []
    ledger = Ledger(records, [heard.extend], interval=0.001)
    worker = spawn(ledger.run(), name="ledger")
    ledger.offer(row("a"))
    await asyncio.sleep(0)
    time.sleep(0.1)  # noqa: ASYNC251 - to block the loop is the point
    ledger._tell()
    assert (heard, records.batches) == ([], [])
    await records.written.wait()
    while not heard:
        await asyncio.sleep(0)
    worker.cancel()


async def test_books_do_not_give_way_for_ever() -> None:
    """However late the loop is, listeners hear when their patience has ended or many rows wait."""
    heard: list[LedgerRow] = []
    ledger = Ledger(MemoryRecords(), [heard.extend])
    ledger.offer(row("a"))
    ledger._tell_asked -= 10
    ledger._tell_latest -= 10
    ledger._tell()
    assert [r.id for r in heard] == ["a"]


async def test_listeners_give_way() -> None:
    """Many rows reach the listeners in small portions, so that the loop can serve streams between them."""
    portions: list[int] = []
    ledger = Ledger(MemoryRecords(), [lambda rows: portions.append(len(rows))])
    for n in range(450):
        ledger.offer(row(f"r{n}"))
    await ledger.settle_listeners()
    assert portions == [200, 200, 50]
