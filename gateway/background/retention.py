"""Deleting rows of the ledger that are older than the operator wants to keep, a little at a time.

Days (UTC) go as a whole: a row goes when its day lies entirely before what is to be kept. No total changes by it, because the
store adds up what it deletes (`gateway.state.pruning`).

A batch is one short transaction, and after each there is a pause that is longer, so that the ledger's writer and other
processes have their turn. Processes that share a store share the work too: they take turns, and none deletes what another
has deleted. If the store is away, the next round begins where this one ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

from gateway.state.pruning import DAY
from gateway.state.records import Records, RecordsUnavailable

log = logging.getLogger("penstock.retention")

BATCH = 1_000
PAUSE = 0.05
"""Rows of a transaction, some 15 ms of SQLite's writer, and the seconds between two: ten million rows take a quarter of an hour."""
FIRST = 60.0
"""Seconds after the start; a gateway that is just starting has other things to do."""


def first_kept(now: float, period: float) -> float:
    """The midnight (UTC) before which rows are too old, in unix seconds; `period` is how many seconds are to be kept."""
    return (now - period) // DAY * DAY


async def prune(
    records: Records, before: float, *, batch: int = BATCH, pause: float = PAUSE
) -> AsyncIterator[int]:
    """Delete all rows that started before then; yields how many went with each batch, and 0 for a turn that was another
    process'. Raises `RecordsUnavailable`.
    """
    cuts = sorted({key.spend_since for key in await records.keys() if 0 < key.spend_since < before})
    while (count := await records.prune(before, cuts, batch)) != 0:
        yield count or 0
        await asyncio.sleep(pause)


class Retention:
    """Keeps `period` seconds of rows, looking every `interval` seconds and first after `first`. A `Worker`."""

    name = "retention"

    def __init__(
        self,
        records: Records,
        period: float,
        *,
        interval: float = DAY,
        first: float = FIRST,
        batch: int = BATCH,
        pause: float = PAUSE,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._records = records
        self._period = period
        self._interval = interval
        self._first = first
        self._batch = batch
        self._pause = pause
        self._wall = wall
        self.pruned = 0
        """Rows that this process has deleted."""
        self.finished_at = 0.0
        """Unix seconds of the last round that came to its end; 0: none yet."""

    async def run(self) -> None:
        """Round after round, until cancelled."""
        await asyncio.sleep(self._first)
        while True:
            await self.round()
            await asyncio.sleep(self._interval)

    async def round(self) -> None:
        """Delete what is too old now; a store that is away is told in the log."""
        before, pruned = first_kept(self._wall(), self._period), self.pruned
        try:
            async for count in prune(self._records, before, batch=self._batch, pause=self._pause):
                self.pruned += count
        except RecordsUnavailable as error:
            log.warning("old ledger rows cannot be deleted now: %s", error)
        else:
            self.finished_at = self._wall()
        if self.pruned > pruned:
            day = time.strftime("%Y-%m-%d", time.gmtime(before))
            log.info(
                "%d ledger rows from before %s were deleted; their sums are kept", self.pruned - pruned, day
            )
