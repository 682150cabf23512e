from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.state import records_sqlite
from gateway.state.records import UNITS, AttemptRow, Kind, LedgerQuery, RecordsUnavailable, flatten
from gateway.state.records_sqlite import SqliteRecords, migrations
from tests.gateway.rows import PLAIN, failure, row

ROOT = Path(__file__).parents[3]

WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.background.ledger import Ledger
from gateway.state.records_sqlite import SqliteRecords
from tests.gateway.rows import row

class Acknowledging(SqliteRecords):
    async def append(self, rows):
        await super().append(rows)
        print(*[r.id for r in rows], flush=True)

async def main():
    ledger = Ledger(Acknowledging(Path(sys.argv[1])), interval=0.001, batch=7)
    task = asyncio.get_running_loop().create_task(ledger.run())
    for n in range(10**9):
        ledger.offer(row(f"{sys.argv[2]}-{n}"))
        if n % 5 == 0:
            await asyncio.sleep(0.0005)

asyncio.run(main())
"""

BATCHES = """
import asyncio, sys
from pathlib import Path
from gateway.state.records_sqlite import SqliteRecords
from tests.gateway.rows import row

async def main():
    records = SqliteRecords(Path(sys.argv[1]))
    for start in range(0, 300, 10):
        await records.append([row(f"{sys.argv[2]}-{n}") for n in range(start, start + 10)])
        await records.append([row(f"both-{n}") for n in range(start, start + 10)])
    await records.close()

asyncio.run(main())
"""


async def start(script: str, *args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        *args,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def ids(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        found = [name for (name,) in connection.execute("SELECT id FROM ledger")]
    connection.close()
    return found


def modes(folder: Path) -> set[int]:
    return {file.stat().st_mode & 0o777 for file in folder.iterdir()}


async def test_private_file(tmp_path: Path) -> None:
    """The file and its companions can be read by their owner alone, even if the file was there with wider rights."""
    path = tmp_path / "ledger.db"
    path.touch(0o644)
    records = SqliteRecords(path)
    await records.append([row()])
    assert modes(tmp_path) == {0o600}
    await records.close()


async def test_rows_survive_a_restart(tmp_path: Path) -> None:
    """What was appended is there when the file is opened again, and the schema is migrated only once."""
    for name in ("a", "b"):
        records = SqliteRecords(tmp_path / "ledger.db")
        await records.append([row(name)])
        await records.close()
    assert ids(tmp_path / "ledger.db") == ["a", "b"]


async def test_amounts_are_integers(tmp_path: Path) -> None:
    """The database holds nano-dollars as integers and refuses anything else."""
    records = SqliteRecords(tmp_path / "ledger.db")
    await records.append([row()])
    await records.close()
    connection = sqlite3.connect(tmp_path / "ledger.db")
    assert connection.execute("SELECT cost_nano, typeof(cost_nano) FROM ledger").fetchone() == (
        123_456_789,
        "integer",
    )
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("UPDATE entry SET cost_nano = 0.5")
    connection.close()


async def test_reports_cannot_write(tmp_path: Path) -> None:
    """The connection that reports use is read-only."""
    records = SqliteRecords(tmp_path / "ledger.db")
    with pytest.raises(RecordsUnavailable):
        await records._call(records._reading, sqlite3.Connection.execute, records._read, "DELETE FROM ledger")
    await records.close()


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_what_cannot_be_opened_whole_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Where a connection cannot be opened (no more files), none is left open."""
    opened: list[str] = []
    closed: list[str] = []
    connect = sqlite3.connect

    class Noted(sqlite3.Connection):
        where = ""

        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            if self.where.endswith(mode):
                raise sqlite3.OperationalError("unable to open database file")
            return super().execute(sql, *more)

        def close(self) -> None:
            closed.append(self.where)
            super().close()

    def noted(where: str, **options: Any) -> sqlite3.Connection:
        connection = connect(where, **options, factory=Noted)
        connection.where = where
        opened.append(where)
        return connection

    monkeypatch.setattr(sqlite3, "connect", noted)
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        SqliteRecords(tmp_path / "ledger.db")
    assert len(opened) == (2 if mode == "ro" else 1)
    assert sorted(closed) == sorted(opened)


async def test_a_locked_file_is_unavailable_for_a_while(tmp_path: Path) -> None:
    """While another process holds the file a write says so, and the same write works afterwards."""
    records = SqliteRecords(tmp_path / "ledger.db", busy_seconds=0.01)
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RecordsUnavailable):
        await records.append([row()])
    assert "locked" in records.describe().error
    other.execute("ROLLBACK")
    other.close()
    await records.append([row()])
    assert records.describe().error == ""
    assert len(await records.rows(LedgerQuery())) == 1
    await records.close()


async def test_a_batch_is_all_or_nothing(tmp_path: Path) -> None:
    """A row that cannot be stored takes its batch with it, and leaves the file usable."""
    records = SqliteRecords(tmp_path / "ledger.db")
    with pytest.raises(OverflowError):
        await records.append([row("a"), row("b", input=2**70)])
    await records.append([row("c")])
    assert [r.id for r in await records.rows(LedgerQuery())] == ["c"]
    await records.close()


async def test_a_damaged_file_under_way(tmp_path: Path) -> None:
    """A table that vanishes under a running gateway is an error that can be caught, not a crash."""
    records = SqliteRecords(tmp_path / "ledger.db")
    with sqlite3.connect(tmp_path / "ledger.db") as other:
        other.execute("DROP TABLE entry")
    other.close()
    for _ in range(2):
        with pytest.raises(RecordsUnavailable):
            await records.append([row()])
    await records.close()


SINCE_THIRD = {"cost_source", "service_tier", "image_input", "image_output", *UNITS}

ORDINARY = row(
    "ordinary", attempts=(AttemptRow("d1", "gpt-4o", "openai", 200, "", 7),), tags=(), call_id="", retries=0
)


async def test_rows_of_the_first_version(tmp_path: Path) -> None:
    """A file with the table of the first version is carried over with all its rows, and is written on."""
    path = tmp_path / "ledger.db"
    old = sqlite3.connect(path)
    old.executescript(migrations()[0][2])
    old.execute(
        "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, name TEXT, applied_at REAL) STRICT"
    )
    old.execute("INSERT INTO schema_version VALUES (1, '0001_ledger.sql', 0)")
    rows = [PLAIN, failure("refused", tags=("a",)), ORDINARY]
    for one in rows:
        flat = {name: value for name, value in flatten(one).items() if name not in SINCE_THIRD} | {
            "ended_at": one.ended_at,
            "tags": json.dumps(one.tags),
            "attempts": msgspec.json.encode(one.attempts).decode(),
        }
        names = f"{', '.join(flat)}) VALUES ({', '.join('?' * len(flat))}"
        old.execute(f"INSERT INTO ledger ({names})", tuple(flat.values()))
    old.commit()
    old.close()
    records = SqliteRecords(path)
    await records.append([row("later"), PLAIN])
    found = {r.id: flatten(r) for r in await records.rows(LedgerQuery())}
    assert found == {r.id: flatten(r) for r in [*rows, row("later")]}
    await records.close()


async def test_rows_of_the_second_version(tmp_path: Path) -> None:
    """A file of the second version keeps its rows, says where their costs are from, and goes on with its kinds."""
    path = tmp_path / "ledger.db"
    old = sqlite3.connect(path)
    old.execute(
        "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, name TEXT, applied_at REAL) STRICT"
    )
    for number, name, sql in migrations()[:2]:
        old.executescript(sql)
        old.execute("INSERT INTO schema_version VALUES (?, ?, 0)", (number, name))
    known = [name for name in Kind.__struct_fields__ if name not in SINCE_THIRD]
    rows = [ORDINARY, row("unpriced", cost_nano=None, model="m", cost_source="none"), failure("refused")]
    for number, one in enumerate(rows):
        flat = flatten(one)
        kind = [int(flat[name]) if isinstance(flat[name], bool) else flat[name] for name in known]
        old.execute(
            f"INSERT INTO kind (id, content, {', '.join(known)}) VALUES ({', '.join('?' * (len(known) + 2))})",
            (number, msgspec.json.encode(kind).decode(), *kind),
        )
        own = {
            name: flat[name] for name in ("id", "call_id", "started_at", "total_us", "ttfb_us", "overhead_us")
        }
        own |= {
            name: flat[name] for name in ("cost_nano", "answer_id", "client_ip", "user_agent", "end_user")
        }
        own |= {name: flat[name] for name in ("input", "cache_read", "output", "reasoning", "error_message")}
        own |= {"kind": number, "answer_ms": one.answer_ms, "tags": json.dumps(one.tags)}
        own["tried"] = msgspec.json.encode(one.tried).decode()
        names = f"{', '.join(own)}) VALUES ({', '.join('?' * len(own))}"
        old.execute(f"INSERT INTO entry ({names})", tuple(own.values()))
    old.commit()
    old.close()
    records = SqliteRecords(path)
    later = row("later", **{**flatten(ORDINARY), "id": "later", "images": 2, "image_output": 9})
    await records.append([later])
    found = {r.id: flatten(r) for r in await records.rows(LedgerQuery())}
    assert found == {r.id: flatten(r) for r in [*rows, later]}
    await records.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM kind").fetchone() == (3,)
    connection.close()


async def test_long_batches_and_ordinary_rows(tmp_path: Path) -> None:
    """Batches of any length come back whole, ordinary rows and others mixed, each with every field."""
    records = SqliteRecords(tmp_path / "ledger.db")
    names = [f"r{n:03d}" for n in range(257)]
    rows = [ORDINARY if n % 50 else PLAIN for n in range(257)]
    rows = [row(name, **(flatten(one) | {"id": name})) for name, one in zip(names, rows, strict=True)]
    await records.append(rows)
    found = [flatten(r) for r in reversed(await records.rows(LedgerQuery()))]
    assert found == [flatten(r) for r in rows]
    await records.close()


async def test_kinds_are_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rows have in common is in the file once, also after a restart, a refused batch and a flood of kinds."""
    monkeypatch.setattr(records_sqlite, "_MOST_KINDS", 3)
    for n in range(2):
        records = SqliteRecords(tmp_path / "ledger.db")
        with pytest.raises(OverflowError):
            await records.append([row("bad", input=2**70, model="new")])
        for m in range(10):
            await records.append([row(f"{n}-{m}", model=f"m{m % 5}")])
        assert len(records._kinds) <= 4
        await records.close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute("SELECT count(*) FROM kind").fetchone() == (5,)
    connection.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("id = 'a'", "USING PRIMARY KEY"),
        ("started_at >= 1 AND started_at < 2", "INDEX entry_started_at"),
        ("key_digest = 'k'", "INDEX entry_kind"),
        ("end_user = 'e'", "INDEX entry_end_user"),
    ],
)
async def test_reports_use_indexes(tmp_path: Path, query: str, index: str) -> None:
    """Each filter of a report finds its rows by an index, through the view that has all names."""
    await SqliteRecords(tmp_path / "ledger.db").close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        plan = connection.execute(
            f"EXPLAIN QUERY PLAN SELECT * FROM ledger WHERE {query} ORDER BY started_at DESC, id DESC LIMIT 9"
        ).fetchall()
    connection.close()
    assert index in str(plan)
    assert "SCAN entry" not in str(plan)


def test_migrations_are_numbered_without_gaps() -> None:
    """Schema changes are numbered from one, each number once."""
    assert [number for number, _, _ in migrations()] == list(range(1, len(migrations()) + 1))


async def test_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """After kill -9 every row whose batch had been written is there exactly once, and the file opens again."""
    path = tmp_path / "ledger.db"
    process = await start(WRITER, str(path), "w")
    assert process.stdout is not None
    acknowledged: list[str] = []
    while len(acknowledged) < 300:
        acknowledged += (await process.stdout.readline()).decode().split()
    process.send_signal(signal.SIGKILL)
    rest = (await process.stdout.read()).decode()
    acknowledged += rest[: rest.rfind("\n") + 1].split()
    await process.wait()
    records = SqliteRecords(path)
    found = [r.id for r in await records.rows(LedgerQuery(), limit=10**6)]
    await records.close()
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    assert len(found) - len(acknowledged) <= 7


async def test_two_processes_share_a_file(tmp_path: Path) -> None:
    """Two processes that open a new file at once and write to it lose no row and double none."""
    path = tmp_path / "ledger.db"
    processes = [await start(BATCHES, str(path), name) for name in ("x", "y")]
    for process in processes:
        await process.communicate()
        assert process.returncode == 0
    wanted = [f"{name}-{n}" for name in ("both", "x", "y") for n in range(300)]
    assert sorted(ids(path)) == sorted(wanted)
