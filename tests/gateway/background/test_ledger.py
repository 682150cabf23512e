from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.background.ledger import Ledger
from gateway.background.supervisor import spawn
from gateway.state.journal import Intent, Journal
from gateway.state.records import Kind, LedgerQuery, LedgerRow, RecordsUnavailable
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords
from tests.gateway.rows import NOON, row


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


@pytest.mark.parametrize("with_journal", [False, True])
async def test_a_row_that_is_offered_while_draining_is_not_lost(
    records: Counting, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, with_journal: bool
) -> None:
    """What ends while the last rows are written and told is written and told too, and nobody calls it lost."""
    heard: list[str] = []

    def listen(rows: Sequence[LedgerRow]) -> None:
        heard.extend(r.id for r in rows)
        for one in rows:
            if one.id in "abcd":
                ledger.offer(row(chr(ord(one.id) + 1)))

    journal = Journal(tmp_path / "journal") if with_journal else None
    ledger = Ledger(records, [listen], journal=journal)
    commit = ledger._write_journal

    async def offering() -> bool:
        is_written = await commit()
        if not ledger.waiting:
            ledger.offer(row("z"))
        return is_written

    ledger._write_journal = offering  # type: ignore[method-assign]  # where there is nothing left to be written
    ledger.offer(row("a"))
    assert await ledger.drain() == 0
    assert (await ids(records), heard[:5]) == (["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "e"])
    assert "are lost" not in caplog.text
    await ledger.close()
    journal = Journal(tmp_path / "journal")
    await asyncio.to_thread(journal.adopt)
    assert journal.backlog_rows == with_journal


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


# -- the journal -----------------------------------------------------------------------------------------------------


class Away(MemoryRecords):
    """A store that can be taken away, or slowed down."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.tried = asyncio.Event()

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        self.tried.set()
        await self.gate.wait()
        if self.is_away:
            raise RecordsUnavailable("away")
        await super().append(rows)

    async def names(self) -> list[str]:
        return sorted(r.id for r in await self.rows(LedgerQuery(), 10**6))


def left(folder: Path) -> list[Path]:
    """What is in a folder."""
    return list(folder.iterdir())


class Life:
    """One process's ledger, which can be killed: then nothing of it happens any more but what is on the disk."""

    def __init__(
        self, folder: Path, store: Away, *, journals_all: bool = False, capacity: int = 100_000
    ) -> None:
        self.journal = Journal(folder)
        self.store = store
        self.ledger = Ledger(
            store,
            interval=0.002,
            delays=(0.001, 0.002),
            journal=self.journal,
            journals_all=journals_all,
            capacity=capacity,
        )
        self.worker: asyncio.Task[None] | None = None

    async def start(self, *, charge: bool = True) -> Ledger:
        await self.ledger.open(charge=charge)
        self.worker = spawn(self.ledger.run(), name="ledger")
        return self.ledger

    async def stop(self) -> None:
        if self.worker is not None:
            self.worker.cancel()
            await asyncio.wait([self.worker])

    async def kill(self) -> None:
        await self.stop()
        async with self.ledger._one_keeper:
            for lock in self.journal._locks.values():
                os.close(lock)
            self.journal._locks.clear()

    async def end(self) -> int:
        await self.stop()
        lost = await self.ledger.drain(timeout=0.02)
        await self.ledger.close()
        return lost

    async def kept(self) -> None:
        """Wait until all that waits is on the disk."""
        while not self.ledger._is_kept():
            await asyncio.sleep(0.001)

    async def remembered(self, *requests: str) -> None:
        """Wait until their intents are on the disk."""
        while not self.journal._live.keys() >= set(requests):
            await asyncio.sleep(0.001)

    async def written(self) -> None:
        """Wait until the store has everything."""
        while self.ledger.waiting:
            await asyncio.sleep(0.001)


def names(count: int) -> list[str]:
    return sorted(f"r{n}" for n in range(count))


@pytest.mark.parametrize("journals_all", [False, True])
async def test_a_kill_while_the_store_is_away(tmp_path: Path, *, journals_all: bool) -> None:
    """What waited for a store that is away is written by the next process, each row once."""
    store = Away()
    store.is_away = True
    life = Life(tmp_path / "journal", store, journals_all=journals_all)
    ledger = await life.start()
    for n in range(450):
        ledger.offer(row(f"r{n}"))
    await store.tried.wait()
    await life.kept()
    await life.kill()
    store.is_away = False
    life = Life(tmp_path / "journal", store)
    ledger = await life.start()
    ledger.offer(row("new"))
    await life.written()
    assert await store.names() == ["new", *names(450)]
    assert await life.end() == 0
    assert left(tmp_path) == []


async def test_a_store_that_works_needs_no_journal(tmp_path: Path) -> None:
    """Where rows are journaled only if they have to be, a store that is quick leaves no file."""
    life = Life(tmp_path / "journal", Away())
    life.ledger._interval = 0.05
    ledger = await life.start()
    ledger.offer(row("a"))
    await life.written()
    assert left(tmp_path) == []
    assert await life.end() == 0


async def test_rows_are_kept_while_the_store_is_slow(tmp_path: Path) -> None:
    """A write that takes long is no reason to have its rows in memory alone, nor those that come meanwhile."""
    store = Away()
    store.gate.clear()
    life = Life(tmp_path / "journal", store)
    ledger = await life.start()
    ledger.offer(row("a"))
    await store.tried.wait()
    ledger.offer(row("b"))
    await life.kept()
    ledger.offer(row("c"))
    await life.kept()
    await life.kill()
    again = Life(tmp_path / "journal", Away())
    await again.start()
    await again.written()
    assert await again.store.names() == ["a", "b", "c"]
    await again.end()


async def test_an_outage_that_is_longer_than_memory(tmp_path: Path) -> None:
    """Rows for which memory has no room are on the disk, and all come back when the store does; then no file is left."""
    store = Away()
    store.is_away = True
    life = Life(tmp_path / "journal", store, capacity=10)
    ledger = await life.start()
    for n in range(100):
        ledger.offer(row(f"r{n}"))
        if n % 10 == 9:
            await life.kept()
    assert (ledger.waiting, ledger.dropped, ledger.is_full) == (100, 0, False)
    store.is_away = False
    await life.written()
    assert await store.names() == names(100)
    assert await life.end() == 0
    assert left(tmp_path) == []


async def test_what_the_disk_is_being_given_still_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are only for the journal count as waiting while it takes them, and the writer hears when they are its own."""
    store = Away()
    store.is_away = True
    life = Life(tmp_path / "journal", store, capacity=1)
    ledger = await life.start()
    begun, go_on = threading.Event(), threading.Event()
    write = life.journal.write

    def slow(*args: Any, **kwargs: Any) -> None:
        begun.set()
        go_on.wait(10)
        write(*args, **kwargs)

    monkeypatch.setattr(life.journal, "write", slow)
    ledger.offer(row("a"))
    ledger.offer(row("b"))
    await asyncio.to_thread(begun.wait, 10)
    assert ledger.waiting == 2
    assert not ledger._is_kept()
    store.is_away = False
    go_on.set()
    await life.written()
    assert await store.names() == ["a", "b"]
    assert await life.end() == 0


async def test_a_peaceful_end_without_a_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SIGTERM while the store is away: nothing is lost, the next start writes it."""
    store = Away()
    store.is_away = True
    life = Life(tmp_path / "journal", store)
    ledger = await life.start()
    ledger.offer(row("a"))
    assert await life.end() == 0
    assert "1 ledger rows are in the journal" in caplog.text
    store.is_away = False
    again = Life(tmp_path / "journal", store)
    await again.start()
    await again.written()
    assert await store.names() == ["a"]
    await again.end()
    assert left(tmp_path) == []


async def test_up_to_date_means_the_backlog_too(tmp_path: Path) -> None:
    """Who reads sums after all was written reads those of a dead process as well."""
    store = Away()
    store.is_away = True
    life = Life(tmp_path / "journal", store)
    (await life.start()).offer(row("a"))
    await store.tried.wait()
    await life.kept()
    await life.kill()
    store.is_away = False
    again = Life(tmp_path / "journal", store)
    await again.ledger.open()
    async with again.ledger.up_to_date():
        assert await store.names() == ["a"]
    await again.end()


async def test_a_disk_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither store nor disk: memory holds what it can, the alarm is raised, and all is well when the disk is."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    store = Away()
    store.is_away = True
    monkeypatch.setattr("gateway.state.journal.os.write", full)
    life = Life(tmp_path / "journal", store, capacity=3)
    ledger = await life.start()
    for n in range(2):
        ledger.offer(row(f"r{n}"))
    while not ledger.journal_error:
        await asyncio.sleep(0.001)
    was_full = [ledger.is_full]
    ledger.offer(row("r2"))
    was_full.append(ledger.is_full)
    ledger.offer(row("lost"))
    assert (was_full, ledger.dropped) == ([False, True], 1)
    monkeypatch.undo()
    await life.kept()
    assert (life.ledger.journal_error, life.ledger.is_full) == ("", False)
    assert "CANNOT BE WRITTEN: [Errno 28] No space left" in caplog.text
    await life.kill()
    store.is_away = False
    again = Life(tmp_path / "journal", store)
    await again.start()
    await again.written()
    assert await store.names() == names(3)
    await again.end()


# -- intents ---------------------------------------------------------------------------------------------------------


def intent(name: str, amount: int = 500) -> Intent:
    kind = Kind(endpoint="/v1/chat/completions", model="gpt-4o", caller_kind="key", key_alias="team")
    return Intent(id=name, amount=amount, key_digest="d" * 64, names=("key",), started_at=NOON, kind=kind)


@pytest.mark.parametrize("charge", [True, False])
async def test_orphans_are_charged(tmp_path: Path, *, charge: bool) -> None:
    """Requests that were under way when the process died get a row each, at what was reserved; those that ended do not."""
    store = Away()
    life = Life(tmp_path / "journal", store)
    ledger = await life.start()
    for name in ("ended", "refused", "open"):
        ledger.intent(intent(name))
    await life.remembered("ended", "refused", "open")
    ledger.offer(row("ended", cost_nano=7))
    ledger.done("refused")
    await life.written()
    while ledger._done:
        await asyncio.sleep(0.001)
    ledger.intent(intent("open", 900))
    while ledger._new_intents:
        await asyncio.sleep(0.001)
    await life.kill()
    again = Life(tmp_path / "journal", store)
    await again.start(charge=charge)
    await again.written()
    by_name = {found.id: found for found in await store.rows(LedgerQuery())}
    assert sorted(by_name) == ["ended", "open"]
    orphan = by_name["open"]
    assert (by_name["ended"].cost_nano, orphan.cost_nano) == (7, 900 if charge else 0)
    assert (orphan.status, orphan.key_digest, orphan.model) == ("orphaned", "d" * 64, "gpt-4o")
    assert orphan.started_at == NOON
    await again.end()
    assert left(tmp_path) == []


async def test_short_requests_leave_no_intent(tmp_path: Path) -> None:
    """What ends before the next group commit never gets to the disk."""
    life = Life(tmp_path / "journal", Away())
    life.ledger._interval = 0.05
    ledger = await life.start()
    ledger.intent(intent("a"))
    ledger.offer(row("a"))
    ledger.intent(intent("b"))
    ledger.done("b")
    await life.written()
    assert (ledger._new_intents, ledger._intents, ledger._done) == ({}, {}, [])
    assert left(tmp_path) == []
    await life.end()


async def test_a_row_is_safe_before_its_intent_is_void(tmp_path: Path) -> None:
    """While the row is in memory alone, its intent holds: a kill charges the estimate, and never nothing."""
    store = Away()
    life = Life(tmp_path / "journal", store)
    ledger = await life.start()
    ledger.intent(intent("a"))
    await life.remembered("a")
    store.gate.clear()
    ledger._interval = 1000.0
    ledger.offer(row("a", cost_nano=1))
    await asyncio.sleep(0.01)
    assert ledger._done == [(1, "a")]
    await life.kill()
    again = Life(tmp_path / "journal", Away())
    await again.start()
    await again.written()
    (orphan,) = await again.store.rows(LedgerQuery())
    assert (orphan.status, orphan.cost_nano) == ("orphaned", 500)
    await again.end()


async def test_a_peaceful_end_leaves_no_orphans(tmp_path: Path) -> None:
    """What ended in the last moment before the end is void too."""
    life = Life(tmp_path / "journal", Away())
    ledger = await life.start()
    ledger.intent(intent("a"))
    await life.remembered("a")
    await life.stop()
    ledger.offer(row("a"))
    assert await life.end() == 0
    assert left(tmp_path) == []


async def test_a_row_that_the_store_has_is_no_orphan(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A kill between the row and what makes its intent void: nobody hears of an orphan, and the row stays as it was."""
    store = Away()
    life = Life(tmp_path / "journal", store)
    ledger = await life.start()
    ledger.intent(intent("a"))
    await life.remembered("a")
    await store.append([row("a", cost_nano=1)])
    await life.kill()
    heard: list[LedgerRow] = []
    again = Life(tmp_path / "journal", store)
    again.ledger._listeners = [heard.extend]
    await again.start()
    while again.journal.has_backlog:
        await asyncio.sleep(0.001)
    await again.ledger.settle_listeners()
    assert (heard, [found.cost_nano for found in await store.rows(LedgerQuery())]) == ([], [1])
    assert "orphaned" not in caplog.text
    await again.end()
    assert left(tmp_path) == []


async def test_a_full_disk_is_told_of_nothing_that_it_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many requests end while it is full, only what it had of them before is remembered; a kill charges just that."""
    store = Away()
    life = Life(tmp_path / "journal", store)
    ledger = await life.start()
    for name in ("ended", "open"):
        ledger.intent(intent(name))
    await life.remembered("ended", "open")
    real, tries = os.write, 0

    def full(file: int, data: memoryview) -> int:
        nonlocal tries
        tries += 1
        if tries % 2:
            return real(file, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    async def tried() -> None:
        """Each of the two is tried once more, from its beginning."""
        before = tries
        while tries < before + 4 or ledger._one_keeper.locked():
            await asyncio.sleep(0.001)

    store.is_away = True
    monkeypatch.setattr("gateway.state.journal.os.write", full)
    ledger.offer(row("ended", cost_nano=7))
    for n in range(40):
        ledger.intent(intent(f"i{n}"))
        await tried()
        assert ledger._intents[f"i{n}"] is False
        ledger.done(f"i{n}") if n % 2 else ledger.offer(row(f"i{n}"))
        assert [request for _, request in ledger._done] == ["ended"]
    assert len([*(tmp_path / "journal").rglob("*.journal")]) <= 2
    monkeypatch.undo()
    while ledger._done:
        await asyncio.sleep(0.001)
    await life.kill()
    again = Life(tmp_path / "journal", Away())
    await again.start()
    await again.written()
    charged = {found.id: found.cost_nano for found in await again.store.rows(LedgerQuery(), 100)}
    assert sorted(charged) == sorted(["ended", "open", *(f"i{n}" for n in range(0, 40, 2))])
    assert (charged["ended"], charged["open"]) == (7, 500)
    await again.end()


async def test_intents_outlive_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store works and the journal does not: what it had of requests that go on is not forgotten with their neighbours' rows."""
    store = Away()
    life = Life(tmp_path / "journal", store, journals_all=True)
    ledger = await life.start()
    ledger.intent(intent("open"))
    ledger.offer(row("a"))
    await life.written()
    await life.remembered("open")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateway.state.journal.os.write", full)
    store.gate.clear()
    ledger.offer(row("b"))
    while not ledger.journal_error:
        await asyncio.sleep(0.001)
    store.gate.set()
    async with ledger.up_to_date():
        await life.kill()
    monkeypatch.undo()
    again = Life(tmp_path / "journal", store)
    await again.start()
    await again.written()
    assert await store.names() == ["a", "b", "open"]
    await again.end()
