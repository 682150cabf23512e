"""The ledger in one SQLite file: the default, which needs no server and no setting.

Two threads, one connection each. The writer owns the only connection that writes; readers never wait for it, nor it for
them, because the file is in WAL mode. Calls are handed to a thread and answered through a future, so the event loop never
touches the disk. A batch is one transaction: that is the group commit, and what was acknowledged survives a killed
process. (`synchronous=NORMAL`: a power cut may take the last moments with it, never the file.)

Several processes may use one file: writers take turns (`BEGIN IMMEDIATE` under a busy timeout), and whatever still fails
is `RecordsUnavailable`, after which the ledger tries again. WAL needs a local disk; a network file system will not do.

The schema is a row of numbered files in `migrations/sqlite`, applied in order and forward only, each in a transaction of
its own. A file that a newer version has migrated is used as it is: migrations only add.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from gateway.state.records import (
    EVERYTHING,
    AttemptRow,
    Description,
    Dimension,
    LedgerQuery,
    LedgerRow,
    RecordsUnavailable,
    Total,
)

T = TypeVar("T")
P = ParamSpec("P")

BUSY_SECONDS = 5.0
OPEN_SECONDS = 2.0
"""How long another process may hold the file at start-up before we call it locked."""

_AS_JSON = ("tags", "attempts")
_PLAIN = tuple(name for name in LedgerRow.__struct_fields__ if name not in _AS_JSON)
_FIELDS = (*_PLAIN, *_AS_JSON)
_BOOLEANS = ("stream", "cache_hit", "mock")
_COLUMNS = ", ".join(_FIELDS)
_INSERT = (
    f"INSERT INTO ledger ({_COLUMNS}) VALUES ({', '.join('?' * len(_FIELDS))}) "  # noqa: S608 - our own field names
    "ON CONFLICT (id) DO NOTHING"
)
_DIMENSIONS: dict[Dimension, str] = {
    "day": "date(started_at, 'unixepoch')",
    "model": "model",
    "model_group": "model_group",
    "provider": "provider",
    "key_digest": "coalesce(key_digest, '')",
    "end_user": "coalesce(end_user, '')",
}
_SUMS = (
    "count(*), coalesce(sum(status = 'failure'), 0), coalesce(sum(cost_nano IS NULL), 0), "
    "coalesce(sum(input + cache_read + cache_write + cache_write_1h + audio_input), 0), "
    "coalesce(sum(output + reasoning + audio_output), 0), coalesce(sum(cost_nano), 0)"
)
_plain_values = attrgetter(*_PLAIN)
_json = msgspec.json.Encoder()
_attempts = msgspec.json.Decoder(tuple[AttemptRow, ...])
_tags = msgspec.json.Decoder(tuple[str, ...])


class SqliteRecords:
    """`Records` in the SQLite file at `path`, which is created (mode 0600) if it is not there.

    `busy_seconds` is how long a write waits for another process before it is `RecordsUnavailable`. The constructor blocks until the file is open and migrated; it raises `sqlite3.Error` or `OSError` if that fails.
    """

    def __init__(self, path: Path, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self._path = path
        self._error = ""
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="records-write")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="records-read")
        try:
            self._write, self.schema_version = self._writing.submit(_open, path, busy_seconds).result()
            self._read = self._reading.submit(_connect, path, read_only=True).result()
        except BaseException:
            self._writing.shutdown()
            self._reading.shutdown()
            raise

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        """See `Records`. A row that cannot be stored at all raises `ValueError` or `OverflowError`."""
        await self._call(self._writing, _append, self._write, rows)

    async def rows(self, query: LedgerQuery, limit: int = 10_000) -> list[LedgerRow]:
        """See `Records`."""
        return await self._call(self._reading, _select, self._read, query, limit)

    async def totals(self, by: Sequence[Dimension] = (), query: LedgerQuery = EVERYTHING) -> list[Total]:
        """See `Records`."""
        return await self._call(self._reading, _totals, self._read, by, query)

    async def close(self) -> None:
        """See `Records`. A report that is still being read is broken off."""
        self._read.interrupt()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reading, self._read.close)
        await loop.run_in_executor(self._writing, self._write.close)
        self._reading.shutdown()
        self._writing.shutdown()

    def describe(self) -> Description:
        """See `Records`."""
        return Description("sqlite", durable=True, where=str(self._path), error=self._error)

    async def _call(
        self,
        thread: ThreadPoolExecutor,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        connection: sqlite3.Connection,
        *args: P.args,
        **_: P.kwargs,
    ) -> T:
        try:
            done = await asyncio.get_running_loop().run_in_executor(thread, work, connection, *args)
        except sqlite3.Error as error:
            self._error = f"{type(error).__name__}: {error}"
            raise RecordsUnavailable(f"the ledger file cannot be used: {error}") from error
        self._error = ""
        return done


# -- all below runs in a thread of its own ---------------------------------------------------------------------------


def _open(path: Path, busy_seconds: float) -> tuple[sqlite3.Connection, int]:
    """A writing connection and the schema's version, after migrations."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with suppress(
        OSError
    ):  # a file of another owner that we may write is still good enough to keep the books in
        path.chmod(0o600)
    deadline = time.monotonic() + OPEN_SECONDS
    while True:
        connection = _connect(path)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            version = _migrate(connection)
            connection.execute(f"PRAGMA busy_timeout = {round(busy_seconds * 1000)}")
            return connection, version
        except sqlite3.OperationalError as error:
            connection.close()
            # Turning a new file to WAL fails at once, without the busy timeout, while another process does the same.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        except BaseException:
            connection.close()
            raise


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    uri = path.absolute().as_uri() + ("?mode=ro" if read_only else "?mode=rw")
    connection = sqlite3.connect(uri, uri=True, timeout=OPEN_SECONDS, isolation_level=None)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    return connection


def _migrate(connection: sqlite3.Connection) -> int:
    """Bring the file up to date, whoever else may be doing so at the same time, and prove that it can be written."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, name TEXT, applied_at REAL) STRICT"
    )
    connection.execute("COMMIT")
    for version, name, sql in migrations():
        connection.execute("BEGIN IMMEDIATE")
        try:
            if (
                connection.execute("SELECT 1 FROM schema_version WHERE version = ?", (version,)).fetchone()
                is None
            ):
                for statement in _statements(sql):
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO schema_version VALUES (?, ?, ?)", (version, name, time.time())
                )
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
    version, *_ = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    return int(version)


def migrations() -> list[tuple[int, str, str]]:
    """All schema changes in their order: number, file name, SQL."""
    folder = resources.files("gateway.state") / "migrations" / "sqlite"
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name
    )
    return [(int(file.name.split("_")[0]), file.name, file.read_text("utf-8")) for file in files]


def _statements(sql: str) -> Iterator[str]:
    """One statement after the other; `executescript` would commit the transaction that we are in."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _append(connection: sqlite3.Connection, rows: Sequence[LedgerRow]) -> None:
    try:
        values = [_values(row) for row in rows]
        _write_all(connection, values)
    except UnicodeEncodeError:
        _write_all(connection, [_values(_encodable(row)) for row in rows])


def _write_all(connection: sqlite3.Connection, values: Sequence[tuple[Any, ...]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(_INSERT, values)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _values(row: LedgerRow) -> tuple[Any, ...]:
    return (*_plain_values(row), _json.encode(row.tags).decode(), _json.encode(row.attempts).decode())


def _encodable(row: LedgerRow) -> LedgerRow:
    """The row with `?` for what is no text: header bytes that were not UTF-8 arrive as lone surrogates."""
    texts = {name: _text(value) for name in _FIELDS if isinstance(value := getattr(row, name), str)}
    return msgspec.structs.replace(row, **texts, tags=tuple(map(_text, row.tags)))


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()


def _select(connection: sqlite3.Connection, query: LedgerQuery, limit: int) -> list[LedgerRow]:
    where, arguments = _where(query)
    sql = f"SELECT {_COLUMNS} FROM ledger {where} ORDER BY started_at DESC, seq DESC LIMIT ?"  # noqa: S608 - as _INSERT
    return [_row(values) for values in connection.execute(sql, (*arguments, limit))]


def _row(values: tuple[Any, ...]) -> LedgerRow:
    fields = dict(zip(_FIELDS, values, strict=True))
    fields["tags"] = _tags.decode(fields["tags"])
    fields["attempts"] = _attempts.decode(fields["attempts"])
    for name in _BOOLEANS:
        fields[name] = bool(fields[name])
    return LedgerRow(**fields)


def _totals(connection: sqlite3.Connection, by: Sequence[Dimension], query: LedgerQuery) -> list[Total]:
    where, arguments = _where(query)
    groups = ", ".join(_DIMENSIONS[name] for name in by)
    grouping = f"GROUP BY {groups} ORDER BY {groups}" if by else ""
    sql = f"SELECT {', '.join(filter(None, (groups, _SUMS)))} FROM ledger {where} {grouping}"  # noqa: S608 - from the tables above
    size = len(by)
    return [
        Total(tuple(map(str, values[:size])), *values[size:]) for values in connection.execute(sql, arguments)
    ]


def _where(query: LedgerQuery) -> tuple[str, tuple[str | float, ...]]:
    conditions = {
        "id = ?": query.id,
        "key_digest = ?": query.key_digest,
        "end_user = ?": query.end_user,
        "started_at >= ?": query.since,
        "started_at < ?": query.until,
    }
    used = {condition: value for condition, value in conditions.items() if value is not None}
    return "WHERE " + " AND ".join(used) if used else "", tuple(used.values())
