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
has already, so that trying again is always right. The queue is bounded. Beyond its bound new rows are dropped, which is
counted, exported as a metric and an error in the log: a bill may be late, it may get lost in a disaster, but never
silently.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from time import monotonic
from typing import TypeAlias

from gateway.state.records import LedgerRow, Records, RecordsUnavailable

log = logging.getLogger("penstock.ledger")

Listener: TypeAlias = Callable[[Sequence[LedgerRow]], None]

_LISTENER_DELAY = 0.05
_LISTENER_CHUNK = 200
"""Rows that listeners get in one go: less than half a millisecond of work, then it is the streams' turn."""
_LATE = 0.01
"""Seconds by which a timer comes too late when the loop has too much to do."""
_PATIENCE = 1.0
_MANY = 5_000
"""Seconds and rows that the books let pass, at most, when the loop is late."""


class Ledger:
    """The queue between requests and `Records`. A `Worker`: give it to the supervisor, and `drain` it at the very end.

    `interval` is seconds between writes, `batch` rows per write, `capacity` rows that may wait, `delays` the shortest and
    longest wait in seconds after a failed write.
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
        self.dropped = 0
        """Rows that never reached the store and never will; each is in the log's count too."""
        self._dropped_said = 0

    @property
    def waiting(self) -> int:
        """Rows that are not in the store yet."""
        return len(self._queue)

    def offer(self, row: LedgerRow) -> None:
        """Take a finished request into the books. Never blocks, never fails; call it in the event loop."""
        self._unheard.append(row)
        if self._telling is None:
            self._tell_latest = monotonic() + _PATIENCE
            self._tell_later()
        if len(self._queue) >= self._capacity:
            self.dropped += 1
            return
        self._queue.append(row)
        if not self._wake.is_set():
            self._wake.set()

    async def run(self) -> None:
        """Write what is offered, until cancelled."""
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
                log.warning("%d ledger rows wait, next try in %.1f s: %s", self.waiting, delay, error)
                self._say_what_was_dropped()
                await asyncio.sleep(delay)
                delay = min(delay * 2, longest)

    async def drain(self, timeout: float = 10.0) -> int:
        """Write all that waits and tell the listeners, within `timeout` seconds. Rows that could not be written are
        counted, logged and returned as a number.
        """
        await self.settle_listeners()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._write_patiently()
        if self.waiting:
            log.error("%d ledger rows could not be written within %s s and are lost", self.waiting, timeout)
        self._say_what_was_dropped()
        return self.waiting

    async def settle_listeners(self) -> None:
        """Let the listeners see all that was offered until now, so that a report which follows is exact."""
        while self._unheard:
            self._tell_some()
            await asyncio.sleep(0)

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
            while self._queue:
                batch = list(islice(self._queue, self._batch))
                try:
                    await self._records.append(batch)
                except RecordsUnavailable:
                    raise
                except Exception:  # some row cannot be stored at all; it must not hold up the others
                    log.exception(
                        "a batch of %d ledger rows was refused; writing them one by one", len(batch)
                    )
                    await self._write_singly(batch)
                else:
                    self._forget(len(batch))

    async def _write_singly(self, batch: Sequence[LedgerRow]) -> None:
        for row in batch:
            try:
                await self._records.append([row])
            except RecordsUnavailable:
                raise
            except Exception:  # as above: counted and told, with the row's id
                self.dropped += 1
                self._dropped_said += 1
                log.exception("the ledger row of request %s cannot be stored and is lost", row.id)
            self._forget(1)

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._queue.popleft()

    def _say_what_was_dropped(self) -> None:
        if self.dropped > self._dropped_said:
            log.error("%d ledger rows were DROPPED, the queue is full", self.dropped - self._dropped_said)
            self._dropped_said = self.dropped

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
