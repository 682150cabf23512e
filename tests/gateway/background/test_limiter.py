"""What limits need at run time, beside requests: `tests/gateway/stages/test_limits.py` has those."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.background.ledger import Ledger
from gateway.background.limiter import Limiter
from gateway.background.supervisor import spawn
from gateway.keyring import Caller
from gateway.limits import Settings
from gateway.state.keys import BudgetLimit, KeyRow
from gateway.state.records_memory import MemoryRecords
from gateway.state.shared import budget
from gateway.state.shared_memory import MemoryShared
from tests.gateway.rows import row

KEY = KeyRow(digest="d" * 64, name="sk-...abcd", alias="team", budgets=(BudgetLimit(1_000, "1d"),))


def limiter(**more: Any) -> tuple[Limiter, Ledger, MemoryShared]:
    records, shared = MemoryRecords(), MemoryShared()
    ledger = Ledger(records)
    return Limiter(Settings(), shared, records, ledger, **more), ledger, shared


async def test_what_a_key_has_spent() -> None:
    """Rows that are not in the store yet count; those of others and those before the reset do not."""
    limits, ledger, _ = limiter()
    ledger.offer(row(id="1", key_digest=KEY.digest, cost_nano=30, started_at=2_000.0))
    ledger.offer(row(id="2", key_digest=KEY.digest, cost_nano=5, started_at=1_000.0))
    ledger.offer(row(id="3", key_digest="other", cost_nano=7))
    assert await limits.spend_of(KEY) == 35
    later = KeyRow(digest=KEY.digest, name="n", spend_since=1_500.0)
    assert await limits.spend_of(later) == 30


async def test_when_a_budget_begins_anew() -> None:
    """The end of the first budget's period, if it has one."""
    limits, _, _ = limiter(wall=lambda: 86_400.0 * 3 + 5)
    assert limits.budget_reset_at(KEY) == 86_400 * 4
    assert limits.budget_reset_at(KeyRow(digest="d", name="n")) is None


async def test_a_counter_is_made_once() -> None:
    """Many who wait for it have the ledger read once, and each row counts once."""
    limits, ledger, shared = limiter(wall=lambda: 100.0)
    ledger.offer(row(key_digest=KEY.digest, cost_nano=40, started_at=50.0))
    bound = limits.settings.bound(Caller("key", KEY.digest, None, KEY), None, (), 100.0)
    (counter,) = bound.budgets
    windows = [budget(counter.name, 10, counter.limit, counter.ends)]
    await asyncio.gather(*(limits._take(bound, windows) for _ in range(20)))
    assert await shared.look(windows) == [40 + 20 * 10]


async def test_several_counters_are_made_together() -> None:
    """While the ledger is slow a request waits for it once, however many budgets it falls under."""
    limits, ledger, shared = limiter(wall=lambda: 100.0)
    several = KeyRow(
        digest="d" * 64, name="n", budgets=tuple(BudgetLimit(1_000, f"{n}d") for n in (1, 7, 30))
    )
    bound = limits.settings.bound(Caller("key", several.digest, None, several), None, (), 100.0)
    windows = [budget(counter.name, 10, counter.limit, counter.ends) for counter in bound.budgets]
    async with ledger.up_to_date():  # nobody else reads it meanwhile
        taking = spawn(limits._take(bound, windows), name="taking")
        while not limits._counters._planting:
            await asyncio.sleep(0)
        assert len(limits._counters._planting) == 3
    await taking
    assert await shared.look(windows) == [10, 10, 10]
