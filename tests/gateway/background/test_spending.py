"""What deployments have spent is read from the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, time
from pathlib import Path
from time import monotonic

import pytest

from adapters.types import Usage
from gateway.background import spending as module
from gateway.background.ledger import Ledger
from gateway.background.spending import SpendReader
from gateway.background.supervisor import spawn
from gateway.config.model import ProviderBudget
from gateway.routes import Deployment
from gateway.routing.spending import Spending
from gateway.state.journal import Journal
from gateway.state.records import (
    EVERYTHING,
    Dimension,
    LedgerQuery,
    LedgerRow,
    RecordsUnavailable,
    Total,
    make_row,
)
from gateway.state.records_sqlite import SqliteRecords
from tests.gateway.routing.choosing import route_of

NOON = 1_700_000_000 // 86_400 * 86_400 + 43_200


def row(name: str, deployment: Deployment, *, at: float = NOON, cost: int = 400_000_000) -> LedgerRow:
    """A request that it answered."""
    return make_row(
        id=name,
        started_at=at,
        deployment_id=deployment.id,
        provider=deployment.provider,
        model=deployment.target.model,
        cost_nano=cost,
        input=6,
        output=4,
    )


class Fitful(SqliteRecords):
    """A store whose totals cannot be had now and then."""

    is_away = False

    async def totals(self, by: Sequence[Dimension] = (), query: LedgerQuery = EVERYTHING) -> list[Total]:
        if self.is_away:
            raise RecordsUnavailable("away")
        return await super().totals(by, query)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Fitful, Ledger, Spending]]:
    """A store, the ledger before it, and nothing counted yet."""
    records = Fitful(folder / "l.db")
    ledger = Ledger(records, [], journal=Journal(folder / "journal"))
    await ledger.open(charge=True)
    spending = Spending(lambda: NOON + 60.0)
    spending.configure({"openai": ProviderBudget("2", "1d")}, UTC, time())
    try:
        yield records, ledger, spending
    finally:
        await ledger.close()
        await records.close()


async def test_it_starts_with_what_the_ledger_says(tmp_path: Path) -> None:
    """Spend of this period is known after the first look: by deployment and by provider, in dollars, tokens, requests."""
    one, two = route_of({"max_budget": "1", "budget_duration": "1d", "tpd": 100}, {"rpd": 9}).deployments
    async with opened(tmp_path) as (records, ledger, spending):
        dollars, tokens, provider = spending.of(one)
        requests, _ = spending.of(two)
        await records.append(
            [row("a", one), row("b", one), row("c", two), row("yesterday", one, at=NOON - 86_400)]
        )
        await SpendReader(spending, records, ledger).look()
        assert [tally.used for tally in (dollars, tokens, requests, provider)] == [
            800_000_000,
            20,
            1,
            1_200_000_000,
        ]
        assert all(tally.is_known for tally in spending.tallies())


async def test_what_ends_meanwhile_counts_once(tmp_path: Path) -> None:
    """What was settled here and is in the ledger counts once; what others wrote is known after the next reading."""
    (one,) = route_of({"max_budget": "1"}).deployments
    now = [0.0]
    async with opened(tmp_path) as (records, ledger, spending):
        reader = SpendReader(spending, records, ledger, now=lambda: now[0])
        tally, _ = spending.of(one)
        await reader.look()
        spending.add(one, NOON, 400_000_000, Usage(input=6, output=4))
        ledger.offer(row("a", one))
        await records.append([row("of another process", one)])
        await reader.look()
        assert tally.used == 400_000_000
        now[0] = 31.0
        await reader.look()
        assert tally.used == 800_000_000


async def test_a_ledger_that_is_away_is_asked_again(tmp_path: Path) -> None:
    """Until the ledger can be read nothing is left out, and what ends here counts."""
    (one,) = route_of({"max_budget": "1"}).deployments
    async with opened(tmp_path) as (records, ledger, spending):
        tally, _ = spending.of(one)
        reader = SpendReader(spending, records, ledger)
        await records.append([row("a", one)])
        records.is_away = True
        await reader.look()
        assert (tally.used, tally.is_known) == (0, False)
        records.is_away = False
        await reader.look()
        assert (tally.used, tally.is_known) == (400_000_000, True)


async def test_a_ledger_that_stays_away_is_asked_more_and_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try waits for the store and is a line in the log: they become fewer while it is away."""
    monkeypatch.setattr(module, "_LOOK", 0.001)
    async with opened(tmp_path) as (records, ledger, spending):
        records.is_away = True
        tries: list[float] = []
        enough = asyncio.Event()

        class Counting(SpendReader):
            async def look(self) -> bool:
                tries.append(monotonic())
                if len(tries) == 7:
                    enough.set()
                return await super().look()

        working = spawn(Counting(spending, records, ledger).run(), name="spending")
        await enough.wait()
        assert tries[-1] - tries[0] >= 0.12  # 2 + 4 + 8 + 16 + 32 + 64 ms
        working.cancel()
        await asyncio.wait([working])
