"""From the end of a request to the books: nobody waits for it, and nothing is lost on the way.

`offer` is what a finished request calls. It appends to a queue and returns; two things then happen in the background, and
neither holds up the other:

* **Listeners** (metrics, log lines) see the rows within a few hundredths of a second, whether or not the database works.
* **The writer** wakes at most every 100 ms and hands the queue to `Records` in batches: one transaction each, a group
  commit.

**Both give way.** Their own timers tell them how late the event loop is. While it is more than 10 ms late, requests come
first and books wait: for a second at most, and not beyond some thousand rows, because a loop that is always busy must keep
books too. So a process that is killed loses at most what is younger than 100 ms, and under such load what is younger than
about a second.

If the store is away, rows stay in the queue and the writer tries again, more and more seldom; `Records` skips rows that it
has already, so that trying again is always right.

**The journal** (`gateway.state.journal`) keeps what the store does not have yet on the local disk, written at most every
100 ms by a third task, which waits for neither the store nor the loop's other work. Where the store is a server, every row
goes there first. SQLite's own write-ahead log is on the same disk and is that journal already: a second one would cost a fifth
more per row (1.5 us beside 7) and keep nothing longer. So there rows are journaled only while a write fails or takes
longer than an interval, and in ordinary days there is no file. Rows for which there is no room in memory are on the disk
alone and are read back when the store works. What a process leaves behind when it dies, the next start takes over.

Both the queue and the journal are bounded, and a disk may be full. Beyond that new rows are dropped, which is counted,
exported as a metric and an error in the log: a bill may be late, it may get lost in a disaster, but never silently.
`is_full` says so, for who would rather refuse requests.

**Intents.** Where a budget binds a request, `intent` says what it may cost before it begins; its row makes that void. What
was begun by a process that died and has no row becomes one at the next start: `orphaned`, at the intent's amount.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import islice
from time import monotonic
from typing import Any, ParamSpec, TypeAlias, TypeVar

import msgspec

from gateway.background.supervisor import spawn
from gateway.state.journal import Intent, Journal
from gateway.state.records import LedgerQuery, LedgerRow, Records, RecordsUnavailable

log = logging.getLogger("penstock.ledger")

T = TypeVar("T")
P = ParamSpec("P")

Listener: TypeAlias = Callable[[Sequence[LedgerRow]], None]

_LISTENER_DELAY = 0.05
_LISTENER_CHUNK = 200
"""Rows that listeners get in one go: less than half a millisecond of work, then it is the streams' turn."""
_LATE = 0.01
"""Seconds by which a timer comes too late when the loop has too much to do."""
_PATIENCE = 1.0
_MANY = 5_000
"""Seconds and rows that the books let pass, at most, when the loop is late."""
_ENOUGH = 3.0
"""Seconds that an end waits for a store when the rows are safe in the journal, and a start for what it has."""


class Ledger:
    """The queue between requests and `Records`. A `Worker`: give it to the supervisor, and `drain` it at the very end.

    `interval` is seconds between writes, `batch` rows per write, `capacity` rows that may wait, `delays` the shortest and
    longest wait in seconds after a failed write. `journal` None: what is not in the store is in memory alone. `journals_all`:
    rows go into the journal before anything else.
    """

    name = "ledger"

    def __init__(
        self,
        records: Records,
        listeners: Sequence[Listener] = (),
        *,
        interval: float = 0.1,
        batch: int = 500,
        capacity: int = 100_000,
        delays: tuple[float, float] = (0.1, 5.0),
        journal: Journal | None = None,
        journals_all: bool = False,
    ) -> None:
        self._records = records
        self._listeners = listeners
        self._interval = interval
        self._batch = batch
        self._capacity = capacity
        self._delays = delays
        self._queue: deque[LedgerRow] = deque()
        self._unheard: deque[LedgerRow] = deque()
        self._telling: asyncio.TimerHandle | None = None
        self._tell_asked = self._tell_latest = 0.0
        self._wake = asyncio.Event()
        self._one_writer = asyncio.Lock()
        self._journal = journal
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal")  # no thread before the first call
        self._one_keeper = asyncio.Lock()
        self._keep = asyncio.Event()
        self._journals_all = journals_all
        self._keeps = journals_all
        """Rows go into the journal now."""
        self._first = 1
        """The number of the row in front of the queue; rows have rising numbers."""
        self._fresh: list[LedgerRow] = []
        """Rows of the queue's end that are to be journaled, from number `_fresh_from` on."""
        self._fresh_from = 1
        self._kept = 0
        """The number of the last row that is on the disk."""
        self._spilled: list[LedgerRow] = []
        """Rows that are only for the journal."""
        self._spilling = 0
        """How many of them the disk is being given."""
        self._intents: dict[str, bool] = {}
        """The ids of requests that are under way and have an intent; whether it is on the disk."""
        self._new_intents: dict[str, Intent] = {}
        self._done: list[tuple[int, str]] = []
        """Intents that are void as soon as the row of that number is safe."""
        self.journal_error = ""
        """Why nothing can be written to the journal, if it is so."""
        self.dropped = 0
        """Rows that never reached the store and never will; each is in the log's count too."""
        self._dropped_said = 0

    @property
    def waiting(self) -> int:
        """Rows that are not in the store yet."""
        return len(self._queue) + len(self._spilled) + self._spilling + self._backlog_rows

    @property
    def _backlog_rows(self) -> int:
        return self._journal.backlog_rows if self._journal is not None else 0

    @property
    def journal_bytes(self) -> int:
        """What the journal's files have."""
        return self._journal.bytes if self._journal is not None else 0

    @property
    def is_full(self) -> bool:
        """The next row would be dropped."""
        return len(self._queue) >= self._capacity and not self._has_room()

    def offer(self, row: LedgerRow) -> None:
        """Take a finished request into the books. Never blocks, never fails; call it in the event loop."""
        self._unheard.append(row)
        if self._telling is None:
            self._tell_latest = monotonic() + _PATIENCE
            self._tell_later()
        if len(self._queue) < self._capacity:
            self._queue.append(row)
            if self._keeps:
                self._fresh.append(row)
                self._keep.set()
            number = self._first + len(self._queue) - 1
        elif self._has_room():
            self._spilled.append(row)
            self._keep.set()
            number = 0
        else:
            self.dropped += 1
            self._intents.pop(row.id, None)  # what is on the disk of it will be charged at the next start
            self._new_intents.pop(row.id, None)
            return
        if self._intents:
            self._void(row.id, number)
        if not self._wake.is_set():
            self._wake.set()

    def intent(self, intent: Intent) -> None:
        """Remember what a request may cost, until its row is offered or it is `done`. A second one with the same id replaces
        the first. Never blocks, never fails; without a journal nothing is remembered.
        """
        if self._journal is not None:
            self._new_intents[intent.id] = intent
            self._intents.setdefault(intent.id, False)
            if not self._keep.is_set():
                self._keep.set()

    def done(self, request: str) -> None:
        """A request that had an intent costs nothing and leaves no row."""
        self._void(request, 0)

    async def open(self, *, charge: bool = True) -> None:
        """Take over what dead processes left in the journal; to be called once, before requests come. Orphans are charged at
        the amount of their intents, or with nothing.
        """
        if self._journal is None:
            return
        try:
            orphans = await self._on_the_disk(self._journal.adopt)
        except OSError as error:
            self._say_disk(error)
            return
        stored = await self._stored({intent.id for intent in orphans})
        orphans = [intent for intent in orphans if intent.id not in stored]
        for intent in orphans:
            self.offer(_orphan(intent, charge=charge))
        if orphans:
            log.warning(
                "%d requests were under way when the gateway died; each has a row `orphaned`", len(orphans)
            )
        if self._journal.has_backlog:
            self._wake.set()

    async def _stored(self, requests: set[str]) -> set[str]:
        """Which of these have a row, as far as the store can say now. It will not take a second one in any case; but metrics
        and the log would count it.
        """
        found: set[str] = set()
        with suppress(RecordsUnavailable, TimeoutError):
            async with asyncio.timeout(_ENOUGH):
                for request in requests:
                    if await self._records.rows(LedgerQuery(id=request), 1):
                        found.add(request)
        return found

    async def close(self) -> None:
        """Let go of the journal, after `drain`."""
        if self._journal is not None:
            with suppress(OSError):
                await self._on_the_disk(self._journal.close, self._first - 1)
        self._disk.shutdown(wait=False)

    async def run(self) -> None:
        """Write what is offered, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_journal(), name="journal")
            group.create_task(self._keep_store(), name="ledger's writer")

    async def _keep_store(self) -> None:
        delay, longest = self._delays
        if self._queue:
            self._wake.set()
        while True:
            await self._wake.wait()
            await self._gather()
            self._wake.clear()
            try:
                await self._write_queue()
                self._say_what_was_dropped()
                delay = self._delays[0]
            except RecordsUnavailable as error:
                self._wake.set()
                self._begin_to_keep()
                log.warning("%d ledger rows wait, next try in %.1f s: %s", self.waiting, delay, error)
                self._say_what_was_dropped()
                await asyncio.sleep(delay)
                delay = min(delay * 2, longest)

    async def drain(self, timeout: float = 10.0) -> int:
        """Write all that waits and tell the listeners, within `timeout` seconds. What could not be written is in the journal
        for the next start, or lost: then it is counted, logged and returned as a number.
        """
        await self.settle_listeners()
        if self._keeps and self.waiting and await self._write_journal():
            timeout = min(timeout, _ENOUGH)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._write_what_comes()
        left = self.waiting
        while self._journal is not None:
            if not self._is_kept():
                self._begin_to_keep()
            if not await self._write_journal() or self._is_kept():  # else something was offered meanwhile
                break
        lost = 0 if self._is_kept() else len(self._queue) + len(self._spilled)
        if lost:
            log.error("%d ledger rows could not be written within %s s and are lost", lost, timeout)
        elif left:
            log.warning("%d ledger rows are in the journal and will be written at the next start", left)
        self._say_what_was_dropped()
        return lost

    async def settle_listeners(self) -> None:
        """Let the listeners see all that was offered until now, so that a report which follows is exact."""
        while self._unheard:
            self._tell_some()
            await asyncio.sleep(0)

    @asynccontextmanager
    async def up_to_date(self) -> AsyncIterator[None]:
        """All that was offered is in the store, and nothing else comes in until the end of the block: what is read there is
        the sum of just those rows. Raises `RecordsUnavailable`.
        """
        async with self._one_writer:
            await self._write_all()
            while self._queue:  # offered while the journal was tidied up
                await self._write_all()
            yield

    # -- the writer --------------------------------------------------------------------------------------------------

    async def _gather(self) -> None:
        """Let a batch come together, and requests go first."""
        latest = monotonic() + _PATIENCE
        while True:
            asked = monotonic()
            await asyncio.sleep(self._interval)
            now = monotonic()
            if now - asked - self._interval < _LATE or now > latest or len(self._queue) > _MANY:
                return

    async def _write_what_comes(self) -> None:
        """All that waits, and what is offered until nothing does."""
        while True:
            await self._write_patiently()
            await self.settle_listeners()
            if not self.waiting:
                return

    async def _write_patiently(self) -> None:
        while True:
            try:
                await self._write_queue()
            except RecordsUnavailable as error:
                log.warning("%d ledger rows wait: %s", self.waiting, error)
                await asyncio.sleep(self._delays[0])
            else:
                return

    async def _write_queue(self) -> None:
        """Batch after batch until nothing waits. Rows leave the queue only when the store has them."""
        async with self._one_writer:
            await self._write_all()

    async def _write_all(self) -> None:
        while self._queue or self._has_backlog():
            while self._queue:
                batch = list(islice(self._queue, self._batch))
                # What is not in the store after an interval is to be on the disk.
                slow = asyncio.get_running_loop().call_later(self._interval, self._begin_to_keep)
                try:
                    await self._store(batch, self._forget)
                finally:
                    slow.cancel()
            if self._has_backlog():
                await self._write_segment()
        self._end_keeping()
        if self._journal is not None and self._journal.may_forget(self._first - 1):
            await self._try_the_disk(self._journal.forget, self._first - 1)

    async def _store(self, batch: Sequence[LedgerRow], forget: Callable[[int], None]) -> None:
        """Raises `RecordsUnavailable`. `forget` is told how many rows need no more care, in order."""
        try:
            await self._records.append(batch)
        except RecordsUnavailable:
            raise
        except Exception:  # some row cannot be stored at all; it must not hold up the others
            log.exception("a batch of %d ledger rows was refused; writing them one by one", len(batch))
            await self._write_singly(batch, forget)
        else:
            forget(len(batch))

    async def _write_singly(self, batch: Sequence[LedgerRow], forget: Callable[[int], None]) -> None:
        for row in batch:
            try:
                await self._records.append([row])
            except RecordsUnavailable:
                raise
            except Exception:  # as above: counted and told, with the row's id
                self.dropped += 1
                self._dropped_said += 1
                log.exception("the ledger row of request %s cannot be stored and is lost", row.id)
            forget(1)

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._queue.popleft()
        self._first += count

    def _say_what_was_dropped(self) -> None:
        if self.dropped > self._dropped_said:
            log.error("%d ledger rows were DROPPED, the queue is full", self.dropped - self._dropped_said)
            self._dropped_said = self.dropped

    # -- the journal -------------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        """For a row that the queue has no room for."""
        return self._journal is not None and not self.journal_error and len(self._spilled) < self._capacity

    def _has_backlog(self) -> bool:
        return self._journal is not None and self._journal.has_backlog

    def _is_kept(self) -> bool:
        """All that waits is on the disk."""
        nothing_spilled = not self._spilled and not self._spilling
        return nothing_spilled and (not self._queue or self._kept >= self._first + len(self._queue) - 1)

    def _begin_to_keep(self) -> None:
        """From now on rows go into the journal, those that wait first."""
        if self._journal is None or self._keeps:
            return
        self._keeps = True
        self._fresh = list(self._queue)
        self._fresh_from = self._first
        self._keep.set()

    def _end_keeping(self) -> None:
        """The store has everything."""
        if not self._journals_all:
            self._keeps = False
            self._fresh.clear()
        if self._done:
            self._keep.set()

    def _void(self, request: str, number: int) -> None:
        on_disk = self._intents.pop(request, False)
        self._new_intents.pop(request, None)
        if on_disk:
            self._done.append((number, request))
            self._keep.set()

    async def _keep_journal(self) -> None:
        """Write to the journal what has to be there, at most once in an interval."""
        delay, longest = self._delays
        while True:
            await self._keep.wait()
            await asyncio.sleep(self._interval)
            self._keep.clear()
            if await self._write_journal():
                delay = self._delays[0]
            else:
                await asyncio.sleep(delay)
                delay = min(delay * 2, longest)
                self._keep.set()

    async def _write_journal(self) -> bool:
        """One group commit, which nobody can break off half-way; False if the disk would not take it."""
        return await asyncio.shield(spawn(self._commit(), name="group commit"))

    async def _commit(self) -> bool:
        journal = self._journal
        if journal is None:
            return True
        async with self._one_keeper:
            stored = max(0, self._first - self._fresh_from)
            rows, self._fresh = self._fresh[stored:] if stored else self._fresh, []
            begin, last = self._fresh_from + stored, self._fresh_from + stored + len(rows) - 1
            self._fresh_from = last + 1
            spilled, self._spilled = self._spilled, []
            self._spilling = len(spilled)
            intents, self._new_intents = self._new_intents, {}
            safe = max(last if rows else 0, self._first - 1)
            done = [request for number, request in self._done if number <= safe]
            waits = [(number, request) for number, request in self._done if number > safe]
            self._done = waits
            if not (rows or spilled or intents or done):
                return True
            new = {request for request in intents if not self._intents[request]}
            self._intents.update(dict.fromkeys(intents, True))
            try:
                await self._on_the_disk(
                    journal.write, rows, last, spilled=spilled, intents=list(intents.values()), done=done
                )
            except OSError as error:
                self._say_disk(error)
                if self._keeps and self._fresh_from == last + 1:
                    self._fresh, self._fresh_from = rows + self._fresh, begin
                self._spilled = spilled + self._spilled
                alive = {request: intent for request, intent in intents.items() if request in self._intents}
                self._new_intents = alive | self._new_intents
                self._intents.update(dict.fromkeys(new & alive.keys(), False))
                ended = [(number, request) for number, request in self._done if request not in new]
                self._done = [(0, request) for request in done] + ended
                return False
            finally:
                self._spilling = 0
            if spilled:
                self._wake.set()  # they are the writer's now, which may have seen the store come back before
            if rows:
                self._kept = last
            if self.journal_error:
                self.journal_error = ""
                log.warning("the ledger's journal can be written again")
            return True

    async def _write_segment(self) -> None:
        """Read one file of the backlog back and give it to the store."""
        journal = self._journal
        if journal is None or (segment := await self._on_the_disk(journal.oldest)) is None:
            return
        pieces = segment.rows()
        count = 0
        try:
            while rows := await self._on_the_disk(next, pieces, ()):
                await self._store(rows, lambda _: None)
                count += len(rows)
        except OSError:
            log.exception("%s cannot be read; it is left where it is", segment.path)
            journal.leave(segment)
        else:
            await self._try_the_disk(journal.drop, segment)
        if count:
            log.warning("%d ledger rows from the journal were written", count)

    async def _on_the_disk(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, partial(work, *args, **kwargs))

    async def _try_the_disk(self, work: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await self._on_the_disk(work, *args, **kwargs)
        except OSError as error:
            self._say_disk(error)

    def _say_disk(self, error: OSError) -> None:
        if not self.journal_error:
            log.error(
                "THE LEDGER'S JOURNAL CANNOT BE WRITTEN: %s. What is not in the store is in memory alone",
                error,
            )
        self.journal_error = error.strerror or str(error)

    # -- the listeners -----------------------------------------------------------------------------------------------

    def _tell_later(self) -> None:
        self._tell_asked = monotonic()
        self._telling = asyncio.get_running_loop().call_later(_LISTENER_DELAY, self._tell)

    def _tell(self) -> None:
        now = monotonic()
        is_late = now - self._tell_asked - _LISTENER_DELAY > _LATE
        if is_late and now < self._tell_latest and len(self._unheard) < _MANY:
            self._tell_later()
        else:
            self._tell_all()

    def _tell_all(self) -> None:
        self._telling = None
        self._tell_some()
        if self._unheard:
            self._telling = asyncio.get_running_loop().call_later(0, self._tell_all)

    def _tell_some(self) -> None:
        rows = [self._unheard.popleft() for _ in range(min(_LISTENER_CHUNK, len(self._unheard)))]
        if not rows:
            return
        for listener in self._listeners:
            try:
                listener(rows)
            except Exception:  # a broken listener must not cost the others their rows
                log.exception("a ledger listener failed")


def _orphan(intent: Intent, *, charge: bool) -> LedgerRow:
    kind = msgspec.structs.replace(
        intent.kind,
        key_digest=intent.key_digest,
        status="orphaned",
        http_status=499,
        reason="orphaned",
        usage_source="none",
        cost_source="price" if charge else "none",
    )
    return LedgerRow(intent.id, kind, intent.started_at, cost_nano=intent.amount if charge else 0)
