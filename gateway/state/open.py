"""Which store it is to be: the only place that asks.

A gateway that cannot keep books still serves: an unwritable folder, a damaged file or one that another process holds
locked gives records in memory and a warning that says what is wrong and what to do. It never tries to repair a file, and
never moves one away: what is in it may be somebody's bill.

Where a database is configured, it is the store, whether or not it can be reached now: what is written elsewhere meanwhile
would be missing there.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from msgspec import Struct

from gateway.state.journal import Journal
from gateway.state.records import Records
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords, migrations
from gateway.state.shared import Shared
from gateway.state.shared_memory import MemoryShared

FILE = "penstock.db"
JOURNAL = "journal"
PREFIX = "penstock:"
"""What the names of all keys in Redis begin with."""


_REMEDIES = {
    "locked": "stop the process that holds it",
    "disk is full": "make room on its disk",
    "disk I/O error": "see whether its disk is full or failing",  # so says SQLite of a full one where it maps the file
}
_REMEDY = "move it away, or restore it from a backup"


class Database(Struct, frozen=True):
    """A Postgres: its URL, what reports call it, connections at most, and seconds until one and until a write fail."""

    dsn: str
    where: str
    pool: int = 5
    connect_seconds: float = 2.0
    command_seconds: float = 5.0


def open_records(data_dir: Path, database: Database | None = None) -> tuple[Records, list[str]]:
    """The records of this gateway, and what the operator must be told about them, loudly.

    Blocks while the file is opened and migrated: milliseconds, at most a few seconds if another process holds it. A
    `database` is not connected here.
    """
    path = data_dir / FILE
    if database is not None:
        unread = f"what was kept in {path} until now (keys, spend) is not read: the database {database.where} has the books"
        return _postgres(database), [unread] if _is_there(path) else []
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        records = SqliteRecords(path)
    except OSError as error:
        cause = f"{error.filename or data_dir} cannot be used ({error.strerror or error})"
        return MemoryRecords(), [_warning(cause, "set PENSTOCK_DATA_DIR to a folder that may be written")]
    except sqlite3.Error as error:
        told = str(error)
        remedy = next((remedy for word, remedy in _REMEDIES.items() if word in told), _REMEDY)
        return MemoryRecords(), [_warning(f"the ledger {path} cannot be opened ({error})", remedy)]
    newest = max(version for version, _, _ in migrations())
    if records.schema_version > newest:
        known = f"schema {records.schema_version}, this version knows {newest}"
        return records, [f"the ledger {path} was written by a newer version ({known}); it is used as it is"]
    return records, []


def open_shared(url: str | None, patience: float) -> Shared:
    """What must be agreed on right now: in the Redis at that URL, for which a request waits `patience` seconds, else in memory.

    Asks nobody yet. Raises `ValueError` for an address that is none.
    """
    if not url:
        return MemoryShared()
    from gateway.state.shared_redis import RedisShared  # noqa: PLC0415 - its client takes 5 MB, and few gateways need it

    return RedisShared(url, prefix=PREFIX, patience=patience)


def _postgres(database: Database) -> Records:
    from gateway.state.records_postgres import PostgresRecords  # noqa: PLC0415 - its client is for those who use it

    return PostgresRecords(
        database.dsn,
        where=database.where,
        pool=database.pool,
        connect_seconds=database.connect_seconds,
        command_seconds=database.command_seconds,
        report_seconds=6 * database.command_seconds,
    )


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder that may not be read is not ours
        return False


def open_journal(data_dir: Path, records: Records) -> tuple[Journal | None, bool]:
    """The ledger's journal, and whether all rows go through it: where the store is no file on the same disk. None where there
    is no folder to write to.
    """
    if isinstance(records, MemoryRecords):
        return None, False
    return Journal(data_dir / JOURNAL), not isinstance(records, SqliteRecords)


def _warning(cause: str, remedy: str) -> str:
    return f"SPEND IS NOT BEING SAVED: {cause}. Serving on with records in memory, lost at exit; {remedy}, then restart."
