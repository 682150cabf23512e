"""The views named as LiteLLM's tables: what they say in the SQLite file and in Postgres, with rows and without them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
from msgspec.structs import replace

from gateway.state.pruning import DAY
from gateway.state.records import Records
from gateway.state.records_sqlite import SqliteRecords
from tests.gateway.rows import NOON, PLAIN, failure, row
from tests.gateway.state.test_records import KEY
from tests.harness import patient_postgres

ROWS = [
    PLAIN,
    failure("refused", key_digest="k1", key_alias="bot"),
    row("a", key_digest="k1", end_user=None, cost_nano=None),
    row("b", key_digest="k1", started_at=NOON + 6.5, model="m2", tags=()),
    row("c", key_digest="k2", started_at=NOON + DAY),
]
OF_ROWS = {"LiteLLM_SpendLogs", "LiteLLM_DailyTagSpend", "DailyTagSpend", "Last30dTopEndUsersSpend"}
"""Views that have less to say when rows go."""


async def fill(records: Records) -> None:
    await records.append(ROWS)
    await records.put_key(replace(KEY, digest="k1", spend_since=NOON + 6.25, user_id="u", team_id="t"))
    await records.put_key(replace(KEY, digest="k2", alias=None, deleted_at=NOON))


def in_file(path: Path) -> dict[str, list[dict[str, Any]]]:
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        names = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'view' AND name GLOB '[A-Z]*' ORDER BY name"
        )
        return {name: [dict(line) for line in db.execute(f'SELECT * FROM "{name}"')] for (name,) in names}


async def in_database(url: str) -> dict[str, list[dict[str, Any]]]:
    connection = await asyncpg.connect(url)
    names = await connection.fetch(
        "SELECT viewname FROM pg_views WHERE schemaname = 'penstock' AND viewname ~ '^[A-Z]' ORDER BY viewname COLLATE \"C\""
    )
    found = {
        name: [dict(line) for line in await connection.fetch(f'SELECT * FROM penstock."{name}"')]
        for (name,) in names
    }
    await connection.close()
    return found


def plain(lines: list[dict[str, Any]]) -> list[str]:
    """Lines whose times, lists and booleans look alike, in no order."""
    return sorted(json.dumps({name: _plain(name, value) for name, value in line.items()}) for line in lines)


def _plain(name: str, value: Any) -> Any:
    if name == "id" and isinstance(value, str) and len(value) > 20:
        return "a digest"
    if name.endswith(("date", "_at", "Time", "expires", "last_active")) and value is not None:
        return str(value).replace("T", " ").removesuffix("000").split(".")[0]
    if isinstance(value, str) and value[:1] in ("{", "["):
        value = json.loads(value)
    if isinstance(value, dict):
        return {key: _plain(key, inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [_plain("", inner) for inner in value]
    return int(value) if isinstance(value, bool) else value


async def test_both_say_the_same(tmp_path: Path, database_url: str) -> None:
    """The same views with the same columns and values, whichever store it is."""
    file = SqliteRecords(tmp_path / "ledger.db")
    database = patient_postgres(database_url)
    for store in (file, database):
        await fill(store)
    one, other = in_file(tmp_path / "ledger.db"), await in_database(database_url)
    assert list(one) == list(other)
    for name, lines in one.items():
        if lines or other[name]:
            assert list(lines[0]) == list(other[name][0]), name
        assert plain(lines) == plain(other[name]), name
    for store in (file, database):
        await store.close()


async def test_sums_outlive_rows(tmp_path: Path, database_url: str) -> None:
    """Spend of keys, of days and of months is the same when the rows are pruned, by user, team, model and in all."""
    file = SqliteRecords(tmp_path / "ledger.db")
    database = patient_postgres(database_url)
    for store in (file, database):
        await fill(store)
        await store.append([row("nobody", end_user=None, key_digest="k1", tags=())])
    before = in_file(tmp_path / "ledger.db"), await in_database(database_url)
    for store in (file, database):
        assert await store.prune(NOON + 9 * DAY, [NOON + 6.25], 1000) == 6
    after = in_file(tmp_path / "ledger.db"), await in_database(database_url)
    of_moments = ("created_at", "updated_at", "last_active")
    for earlier, later in zip(before, after, strict=True):
        for name in earlier.keys() - OF_ROWS:
            lines = [
                plain([{key: line[key] for key in line if key not in of_moments} for line in views[name]])
                for views in (earlier, later)
            ]
            if "User" not in name:
                assert lines[0] == lines[1], name
            spent = [
                sum(line["spend" if "spend" in line else "total_spend"] for line in views[name])
                for views in (earlier, later)
            ]
            assert abs(spent[0] - spent[1]) < 1e-12, name
        assert later["LiteLLM_SpendLogs"] == []
    for store in (file, database):
        await store.close()
