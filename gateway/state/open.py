"""Which store it is to be: the only place that asks.

A gateway that cannot keep books still serves: an unwritable folder, a damaged file or one that another process holds
locked gives records in memory and a warning that says what is wrong and what to do. It never tries to repair a file, and
never moves one away: what is in it may be somebody's bill.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gateway.state.records import Records
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords, migrations

FILE = "penstock.db"


def open_records(data_dir: Path) -> tuple[Records, list[str]]:
    """The records of this gateway, and what the operator must be told about them, loudly.

    Blocks while the file is opened and migrated: milliseconds, at most a few seconds if another process holds it.
    """
    path = data_dir / FILE
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        records = SqliteRecords(path)
    except OSError as error:
        cause = f"the data folder {data_dir} cannot be used ({error.strerror or error})"
        return MemoryRecords(), [_warning(cause, "set PENSTOCK_DATA_DIR to a folder that may be written")]
    except sqlite3.Error as error:
        locked = "locked" in str(error)
        remedy = "stop the process that holds it" if locked else "move it away, or restore it from a backup"
        return MemoryRecords(), [_warning(f"the ledger {path} cannot be opened ({error})", remedy)]
    newest = max(version for version, _, _ in migrations())
    if records.schema_version > newest:
        known = f"schema {records.schema_version}, this version knows {newest}"
        return records, [f"the ledger {path} was written by a newer version ({known}); it is used as it is"]
    return records, []


def _warning(cause: str, remedy: str) -> str:
    return f"SPEND IS NOT BEING SAVED: {cause}. Serving on with records in memory, lost at exit; {remedy}, then restart."
