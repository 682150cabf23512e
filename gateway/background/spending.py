"""Reads from the ledger what deployments and providers have used in their periods (`gateway.routing.spending`).

At the start, when a configuration brings a new budget, and every half minute besides: then what other processes spent is
known here too. Decisions never wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from time import monotonic

from gateway.background.ledger import Ledger
from gateway.routing.spending import Owner, Spending, Tally
from gateway.state.records import LedgerQuery, Records, RecordsUnavailable, Total

log = logging.getLogger("penstock.spending")

_LOOK = 0.5
"""Seconds between two looks for tallies that nobody has read yet."""
_AGAIN = 30.0
_LONGEST = 5.0
"""Seconds to the next look, at most, while the ledger cannot be read."""


class SpendReader:
    """A `Worker`."""

    name = "spending"

    def __init__(
        self, spending: Spending, records: Records, ledger: Ledger, *, now: Callable[[], float] = monotonic
    ) -> None:
        self._spending = spending
        self._records = records
        self._ledger = ledger
        self._now = now
        self._read_at = float("-inf")

    async def run(self) -> None:
        """Read what is new at once, and everything now and then."""
        pause = _LOOK
        while True:
            pause = _LOOK if await self.look() else min(2 * pause, _LONGEST)
            await asyncio.sleep(pause)

    async def look(self) -> bool:
        """One turn; False if the ledger cannot be read, which is asked again in the next."""
        if not self._spending.is_on:
            return True
        tallies = list(self._spending.tallies())
        is_due = self._now() - self._read_at >= _AGAIN
        wanted = tallies if is_due else [tally for tally in tallies if not tally.is_known]
        if not wanted:
            return True
        try:
            await self._read(wanted)
        except RecordsUnavailable as error:
            log.warning("what deployments have spent cannot be read: %s", error)
            return False
        if is_due:
            self._read_at = self._now()
        return True

    async def _read(self, wanted: Sequence[Tally]) -> None:
        since: defaultdict[int, list[Tally]] = defaultdict(list)
        for tally in wanted:
            since[tally.starts].append(tally)
        for starts, some in since.items():
            async with self._ledger.up_to_date():  # what ends meanwhile is added to what was before
                before = [tally.used for tally in some]
                totals = await self._records.totals(
                    ("provider", "deployment_id"), LedgerQuery(since=float(starts) if starts else None)
                )
            sums = _by_owner(totals)
            for tally, known in zip(some, before, strict=True):
                if tally.starts == starts:  # no new period has begun meanwhile
                    found = sums[tally.owner].get(tally.allowance.measure, 0)
                    tally.used += found - known
                    tally.is_known = True


def _by_owner(totals: Sequence[Total]) -> defaultdict[Owner, dict[str, int]]:
    sums: defaultdict[Owner, dict[str, int]] = defaultdict(dict)
    for total in totals:
        provider, deployment_id = total.group
        measured = {
            "dollars": total.cost_nano,
            "tokens": total.prompt_tokens + total.completion_tokens,
            "requests": total.requests,
        }
        owners: tuple[Owner, Owner] = (("provider", provider), ("deployment", deployment_id))
        for owner in owners:
            known = sums[owner]
            for measure, amount in measured.items():
                known[measure] = known.get(measure, 0) + amount
    return sums
