from __future__ import annotations

from gateway.state.records import LedgerQuery
from gateway.state.records_memory import MemoryRecords
from tests.gateway.rows import row


async def test_bounded() -> None:
    """Only the newest rows are kept, so that a gateway without a disk does not fill its memory."""
    records = MemoryRecords(capacity=3)
    await records.append([row(f"r{n}") for n in range(5)])
    assert [r.id for r in await records.rows(LedgerQuery())] == ["r4", "r3", "r2"]


def test_says_that_it_forgets() -> None:
    """A health report can tell that nothing is saved."""
    assert not MemoryRecords().describe().durable
