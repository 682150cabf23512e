"""The ledger in memory: what is left when the data folder cannot be written.

The gateway then serves on and says so loudly; spend reports cover what this process has seen lately. The number of rows
is bounded, so totals are those of the newest rows. It is no choice for production and there is no setting for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from gateway.state.credentials import CredentialRow
from gateway.state.keys import KeyRow
from gateway.state.records import (
    EVERYTHING,
    AliasTaken,
    Description,
    Dimension,
    LedgerQuery,
    LedgerRow,
    Total,
    name_taken,
)

CAPACITY = 20_000

_DIMENSIONS: dict[Dimension, Callable[[LedgerRow], str]] = {
    "day": lambda row: datetime.fromtimestamp(int(row.started_at), UTC).date().isoformat(),
    "model": lambda row: row.model,
    "model_group": lambda row: row.model_group,
    "provider": lambda row: row.provider,
    "deployment_id": lambda row: row.deployment_id,
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
        self._credentials: dict[str, CredentialRow] = {}

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

    async def prune(self, before: float, cuts: Sequence[float], most: int) -> int:
        """See `Records`: the oldest go by themselves here."""
        return 0

    async def pruned(self, by: Sequence[Dimension] = (), query: LedgerQuery = EVERYTHING) -> list[Total]:
        """See `Records`."""
        return [] if by else [_total((), [])]

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

    async def credentials(self) -> list[CredentialRow]:
        """See `Records`."""
        return sorted(self._credentials.values(), key=lambda row: row.name)

    async def put_credentials(self, rows: Sequence[CredentialRow]) -> bool:
        """See `Records`."""
        changed = dict(self._credentials)
        for row in rows:
            stored = changed.get(row.id)
            if row.version != (1 if stored is None else stored.version + 1):
                return False
            if any(other.name == row.name and other.id != row.id for other in changed.values()):
                raise name_taken(row.name)
            changed[row.id] = row
        self._credentials = changed
        return True

    async def delete_credential(self, name: str) -> bool:
        """See `Records`."""
        found = next((row for row in self._credentials.values() if row.name == name), None)
        return found is not None and self._credentials.pop(found.id) is found

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
