"""The ledger in memory: what is left when the data folder cannot be written.

The gateway then serves on and says so loudly; spend reports cover what this process has seen lately. The number of rows
is bounded, so totals are those of the newest rows. It is no choice for production and there is no setting for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from gateway.state.keys import KeyRow
from gateway.state.records import (
    EVERYTHING,
    AliasTaken,
    Description,
    Dimension,
    LedgerQuery,
    LedgerRow,
    Total,
)

CAPACITY = 20_000

_DIMENSIONS: dict[Dimension, Callable[[LedgerRow], str]] = {
    "day": lambda row: datetime.fromtimestamp(row.started_at, UTC).date().isoformat(),
    "model": lambda row: row.model,
    "model_group": lambda row: row.model_group,
    "provider": lambda row: row.provider,
    "key_digest": lambda row: row.key_digest or "",
    "end_user": lambda row: row.end_user or "",
}


class MemoryRecords:
    """`Records` that forget: the newest `capacity` rows, gone with the process."""

    name = "records"

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._rows: dict[str, LedgerRow] = {}
        self._keys: dict[str, KeyRow] = {}

    async def run(self) -> None:
        """See `Records`."""

    def listen(self, changed: Callable[[str | None], None]) -> None:
        """See `Records`: it hears of nothing."""

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        """See `Records`."""
        for row in rows:
            self._rows.setdefault(row.id, row)
        while len(self._rows) > self._capacity:
            del self._rows[next(iter(self._rows))]

    async def rows(self, query: LedgerQuery, limit: int = 10_000) -> list[LedgerRow]:
        """See `Records`."""
        found = self._find(query)
        found.sort(key=lambda row: (row.started_at, row.id), reverse=True)
        return found[:limit]

    async def totals(self, by: Sequence[Dimension] = (), query: LedgerQuery = EVERYTHING) -> list[Total]:
        """See `Records`."""
        groups: defaultdict[tuple[str, ...], list[LedgerRow]] = defaultdict(list)
        if not by:
            groups[()] = []
        for row in self._find(query):
            groups[tuple(_DIMENSIONS[name](row) for name in by)].append(row)
        return [_total(group, rows) for group, rows in sorted(groups.items())]

    async def keys(self) -> list[KeyRow]:
        """See `Records`."""
        return list(self._keys.values())

    async def key(self, digest: str) -> KeyRow | None:
        """See `Records`."""
        return self._keys.get(digest)

    async def put_key(self, key: KeyRow) -> bool:
        """See `Records`."""
        stored = self._keys.get(key.digest)
        if key.version != (1 if stored is None else stored.version + 1):
            return False
        living = (other for other in self._keys.values() if other.deleted_at is None)
        if key.alias is not None and key.deleted_at is None:
            for other in living:
                if other.alias == key.alias and other.digest != key.digest:
                    raise AliasTaken(f"Key with alias '{key.alias}' already exists.", param="key_alias")
        self._keys[key.digest] = key
        return True

    async def close(self) -> None:
        """See `Records`."""

    def describe(self) -> Description:
        """See `Records`."""
        return Description("memory", durable=False, where="memory")

    def _find(self, query: LedgerQuery) -> list[LedgerRow]:
        return [
            row
            for row in self._rows.values()
            if (query.id is None or row.id == query.id)
            and (query.key_digest is None or row.key_digest == query.key_digest)
            and (query.end_user is None or row.end_user == query.end_user)
            and (query.since is None or row.started_at >= query.since)
            and (query.until is None or row.started_at < query.until)
        ]


def _total(group: tuple[str, ...], rows: Sequence[LedgerRow]) -> Total:
    return Total(
        group,
        requests=len(rows),
        failures=sum(row.status == "failure" for row in rows),
        unpriced=sum(row.cost_nano is None for row in rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        completion_tokens=sum(row.completion_tokens for row in rows),
        cost_nano=sum(row.cost_nano or 0 for row in rows),
    )
