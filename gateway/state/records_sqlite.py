"""The ledger in one SQLite file: the default, which needs no server and no setting.

Two threads, one connection each. The writer owns the only connection that writes; readers never wait for it, nor it for
them, because the file is in WAL mode. Calls are handed to a thread and answered through a future, so the event loop never
touches the disk. A batch is one transaction: that is the group commit, and what was acknowledged survives a killed
process. (`synchronous=NORMAL`: a power cut may take the last moments with it, never the file.)

Several processes may use one file: writers take turns (`BEGIN IMMEDIATE` under a busy timeout), and whatever still fails
is `RecordsUnavailable`, after which the ledger tries again. WAL needs a local disk; a network file system will not do.

The file keeps what repeats once (table `kind`) and what does not per row (table `entry`), as a `LedgerRow` does; the view
`ledger` shows both as rows with all names, for reports and for people. Nothing writes a hundred columns a request then,
and what is written lies together, because ids rise with time.

The schema is a row of numbered files in `migrations/sqlite`, applied in order and forward only, each in a transaction of
its own. A file that a newer version has migrated is used as far as its tables allow it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib import resources
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from adapters.types import NO_UNITS
from gateway.state.credentials import CredentialRow
from gateway.state.keys import KeyRow
from gateway.state.pruning import SQLITE_CHOOSE, SQLITE_DELETE, sqlite_fold
from gateway.state.records import (
    EVERYTHING,
    FLAT,
    AliasTaken,
    AttemptRow,
    Description,
    Dimension,
    Kind,
    LedgerQuery,
    LedgerRow,
    RecordsUnavailable,
    Source,
    Total,
    encodable,
    make_row,
    name_taken,
    pieces,
)

T = TypeVar("T")
P = ParamSpec("P")

BUSY_SECONDS = 5.0
OPEN_SECONDS = 2.0
"""How long another process may hold the file at start-up before we call it locked."""

_MOST_KINDS = 4_000
"""Kinds whose numbers the writer remembers: clients choose some of the words in them."""

_COLUMNS = ", ".join(FLAT)
_BOOLEANS = ("stream", "cache_hit", "mock")

_KIND = Kind.__struct_fields__
_ADD_KIND = (
    f"INSERT INTO kind (content, {', '.join(_KIND)}) VALUES (?{', ?' * len(_KIND)}) "  # noqa: S608 - our own field names
    "ON CONFLICT (content) DO UPDATE SET content = content RETURNING id"
)

# Nearly all rows have nothing to say in the columns of _RARE, and to bind 15 values fewer saves 1.2 us of 4.3.
_USUAL = (
    *(
        "id",
        "kind",
        "started_at",
        "total_us",
        "ttfb_us",
        "overhead_us",
        "cost_nano",
        "answer_ms",
        "answer_id",
    ),
    *("client_ip", "user_agent", "end_user", "input", "cache_read", "output", "reasoning"),
)
_RARE = (
    *("cache_write", "cache_write_1h", "audio_input", "audio_output", "image_input", "image_output"),
    *("images", "milliseconds", "characters", "searches"),
    *("call_id", "session_id", "error_message", "tags", "tried"),
)
_TOGETHER = 100
"""Rows per statement. `executemany` would take the interpreter's lock again for each row, which costs more than the row
while the event loop is busy (11 us instead of 4)."""


def _insert(columns: Sequence[str], rows: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    values = ", ".join([row] * rows)
    return f"INSERT INTO entry ({', '.join(columns)}) VALUES {values} ON CONFLICT (id) DO NOTHING"  # noqa: S608 - as _ADD_KIND


_ADD_USUAL, _ADD_WHOLE = _insert(_USUAL, 1), _insert((*_USUAL, *_RARE), 1)
_ADD_USUAL_TOGETHER = _insert(_USUAL, _TOGETHER)

_OWN_DIMENSIONS: dict[Dimension, str] = {
    "day": "date(CAST(started_at AS INTEGER), 'unixepoch')",  # which rounds, the last half millisecond into the next day
    "end_user": "coalesce(end_user, '')",
}
_KIND_DIMENSIONS: dict[Dimension, str] = {
    "model": "model",
    "model_group": "model_group",
    "provider": "provider",
    "deployment_id": "deployment_id",
    "key_digest": "coalesce(key_digest, '')",
}
_OWN_SUMS = (
    "count(*) AS requests, sum(cost_nano IS NULL) AS unpriced, "
    "sum(input + cache_read + cache_write + cache_write_1h + audio_input + image_input) AS prompt, "
    "sum(output + reasoning + audio_output + image_output) AS completion, sum(cost_nano) AS cost"
)
_DAY_SUMS = "requests, unpriced, prompt, completion, cost"
_SUMS = (
    "coalesce(sum(requests), 0), coalesce(sum(requests * (status = 'failure')), 0), coalesce(sum(unpriced), 0), "
    "coalesce(sum(prompt), 0), coalesce(sum(completion), 0), coalesce(sum(cost), 0)"
)
_kind_values = attrgetter(*_KIND)
_json = msgspec.json.Encoder()
_attempts = msgspec.json.Decoder(tuple[AttemptRow, ...])
_tags = msgspec.json.Decoder(tuple[str, ...])
_key = msgspec.json.Decoder(KeyRow)
_credential = msgspec.json.Decoder(CredentialRow)


class SqliteRecords:
    """`Records` in the SQLite file at `path`, which is created (mode 0600) if it is not there.

    `busy_seconds` is how long a write waits for another process before it is `RecordsUnavailable`. The constructor blocks until the file is open and migrated; it raises `sqlite3.Error` or `OSError` if that fails.
    """

    name = "records"

    def __init__(self, path: Path, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self._path = path
        self._error = ""
        self._kinds: dict[Kind, int] = {}
        """The number of each kind in the file; the writing thread's own."""
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="records-write")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="records-read")
        with ExitStack() as opened:  # closed again unless all of it is
            opened.callback(self._writing.shutdown)
            opened.callback(self._reading.shutdown)
            self._write, self.schema_version = self._writing.submit(_open, path, busy_seconds).result()
            opened.callback(lambda: self._writing.submit(self._write.close).result())
            self._read = self._reading.submit(_connect, path, read_only=True).result()
            opened.pop_all()

    async def run(self) -> None:
        """See `Records`."""

    def listen(self, changed: Callable[[str | None], None]) -> None:
        """See `Records`: it hears of nothing."""

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        """See `Records`. A row that cannot be stored at all raises `ValueError` or `OverflowError`."""
        await self._call(self._writing, _append, self._write, self._kinds, rows)

    async def rows(self, query: LedgerQuery, limit: int = 10_000) -> list[LedgerRow]:
        """See `Records`."""
        return await self._call(self._reading, _select, self._read, query, limit)

    async def totals(self, by: Sequence[Dimension] = (), query: LedgerQuery = EVERYTHING) -> list[Total]:
        """See `Records`."""
        return await self._call(self._reading, _totals, self._read, by, pieces(by, query))

    async def prune(self, before: float, cuts: Sequence[float], most: int) -> int:
        """See `Records`."""
        return await self._call(self._writing, _prune, self._write, before, cuts, most)

    async def pruned(self, by: Sequence[Dimension] = (), query: LedgerQuery = EVERYTHING) -> list[Total]:
        """See `Records`."""
        return await self._call(self._reading, _totals, self._read, by, [("pruned", query)])

    async def keys(self) -> list[KeyRow]:
        """See `Records`."""
        return await self._call(self._reading, _all_keys, self._read)

    async def key(self, digest: str) -> KeyRow | None:
        """See `Records`."""
        return await self._call(self._reading, _one_key, self._read, digest)

    async def put_key(self, key: KeyRow) -> bool:
        """See `Records`."""
        return await self._call(self._writing, _put_key, self._write, key)

    async def credentials(self) -> list[CredentialRow]:
        """See `Records`."""
        return await self._call(self._reading, _all_credentials, self._read)

    async def put_credentials(self, rows: Sequence[CredentialRow]) -> bool:
        """See `Records`."""
        return await self._call(self._writing, _put_credentials, self._write, rows)

    async def delete_credential(self, name: str) -> bool:
        """See `Records`."""
        return await self._call(self._writing, _delete_credential, self._write, name)

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
    with suppress(OSError):  # another owner's file that we may write is good enough to keep the books in
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
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is written inside, or nothing. Writers of several processes take turns."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:  # commits, or rolls back whatever is raised
        yield


def _migrate(connection: sqlite3.Connection) -> int:
    """Bring the file up to date, whoever else may be doing so at the same time, and prove that it can be written."""
    with _transaction(connection):
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, name TEXT, applied_at REAL) STRICT"
        )
    for version, name, sql in migrations():
        with _transaction(connection):
            found = connection.execute("SELECT 1 FROM schema_version WHERE version = ?", (version,))
            if found.fetchone() is None:
                for statement in _statements(sql):
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO schema_version VALUES (?, ?, ?)", (version, name, time.time())
                )
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


def _append(connection: sqlite3.Connection, kinds: dict[Kind, int], rows: Sequence[LedgerRow]) -> None:
    try:
        _write_all(connection, kinds, rows)
    except UnicodeEncodeError:
        _write_all(connection, kinds, [encodable(row) for row in rows])


def _write_all(connection: sqlite3.Connection, kinds: dict[Kind, int], rows: Sequence[LedgerRow]) -> None:
    try:
        with _transaction(connection):
            _number_kinds(connection, kinds, rows)
            usual = [_usual_values(row, kinds) for row in rows if _is_usual(row)]
            alone = len(usual) % _TOGETHER
            for start in range(alone, len(usual), _TOGETHER):
                values = list(chain.from_iterable(usual[start : start + _TOGETHER]))
                connection.execute(_ADD_USUAL_TOGETHER, values)
            connection.executemany(_ADD_USUAL, usual[:alone])
            whole = [_usual_values(row, kinds) + _rare_values(row) for row in rows if not _is_usual(row)]
            connection.executemany(_ADD_WHOLE, whole)
    except BaseException:
        kinds.clear()  # some of these numbers have just been taken back
        raise


def _number_kinds(connection: sqlite3.Connection, kinds: dict[Kind, int], rows: Sequence[LedgerRow]) -> None:
    """Find or make the number of each kind in `rows`; another process may have done so before."""
    if len(kinds) > _MOST_KINDS:
        kinds.clear()
    for row in rows:
        if row.kind not in kinds:
            values = _kind_values(row.kind)
            content = _json.encode([int(value) if isinstance(value, bool) else value for value in values])
            ((number,),) = connection.execute(_ADD_KIND, (content.decode(), *values)).fetchall()
            kinds[row.kind] = number


def _is_usual(row: LedgerRow) -> bool:
    usage = row.usage
    return not (
        row.answer_ms is None
        or row.call_id
        or row.tags
        or row.session_id
        or row.error_message
        or usage.cache_write
        or usage.cache_write_1h
        or usage.audio_input
        or usage.audio_output
        or usage.image_input
        or usage.image_output
        or usage.units is not NO_UNITS
    )


def _usual_values(row: LedgerRow, kinds: dict[Kind, int]) -> tuple[Any, ...]:
    """The values of `_USUAL`."""
    usage = row.usage
    return (
        row.id,
        kinds[row.kind],
        row.started_at,
        row.total_us,
        row.ttfb_us,
        row.overhead_us,
        row.cost_nano,
        row.answer_ms,
        row.answer_id,
        row.client_ip,
        row.user_agent,
        row.end_user,
        usage.input,
        usage.cache_read,
        usage.output,
        usage.reasoning,
    )


def _rare_values(row: LedgerRow) -> tuple[Any, ...]:
    """The values of `_RARE`."""
    usage, units = row.usage, row.usage.units
    return (
        usage.cache_write,
        usage.cache_write_1h,
        usage.audio_input,
        usage.audio_output,
        usage.image_input,
        usage.image_output,
        units.images,
        units.milliseconds,
        units.characters,
        units.searches,
        row.call_id,
        row.session_id,
        row.error_message,
        _json.encode(row.tags).decode(),
        _json.encode(row.tried).decode(),
    )


def _select(connection: sqlite3.Connection, query: LedgerQuery, limit: int) -> list[LedgerRow]:
    where, arguments = _where(query)
    sql = f"SELECT {_COLUMNS} FROM ledger {where} ORDER BY started_at DESC, id DESC LIMIT ?"  # noqa: S608 - as _ADD_KIND
    return [_row(values) for values in connection.execute(sql, (*arguments, limit))]


def _row(values: tuple[Any, ...]) -> LedgerRow:
    flat = dict(zip(FLAT, values, strict=True))
    flat["tags"] = _tags.decode(flat["tags"])
    flat["attempts"] = _attempts.decode(flat["attempts"])
    for name in _BOOLEANS:
        flat[name] = bool(flat[name])
    return make_row(**flat)


def _totals(
    connection: sqlite3.Connection, by: Sequence[Dimension], parts_of: Sequence[tuple[Source, LedgerQuery]]
) -> list[Total]:
    """Sums per kind first, and only those are joined. Whole days come from `day_total`, what is left of a day at either end
    from its rows: 4 ms for a million rows of a month, where adding them up takes 0.9 s.
    """
    parts: list[str] = []
    arguments: list[str | float] = []
    for source, piece in parts_of:
        where, more = _where(piece, key="kind IN (SELECT id FROM kind WHERE key_digest = ?)")
        if source == "entry":
            # The `+` keeps the planner from walking through all entries in the order of their kinds.
            own = [name for name in by if name in _OWN_DIMENSIONS]
            chosen = "".join(f"{_OWN_DIMENSIONS[name]} AS {name}, " for name in own)
            groups = ", ".join(["+kind", *(str(place) for place in range(2, 2 + len(own)))])
            parts.append(f"SELECT kind, {chosen}{_OWN_SUMS} FROM entry {where} GROUP BY {groups}")  # noqa: S608 - from the tables above
        else:
            starts = "starts" if source == "pruned" else "day * 86400"
            chosen = "".join(
                f"date({starts}, 'unixepoch') AS day, " if name == "day" else "'' AS end_user, "
                for name in by
                if name in _OWN_DIMENSIONS
            )
            where = where.replace("started_at", starts)
            parts.append(f"SELECT kind, {chosen}{_DAY_SUMS} FROM {source} {where}")  # noqa: S608 - as above
        arguments += more
    groups = ", ".join(_KIND_DIMENSIONS.get(name, name) for name in by)
    grouping = f"GROUP BY {groups} ORDER BY {groups}" if by else ""
    sql = (
        f"WITH part AS ({' UNION ALL '.join(parts)}) "  # noqa: S608 - as above
        f"SELECT {', '.join(filter(None, (groups, _SUMS)))} FROM part JOIN kind ON kind.id = part.kind {grouping}"
    )
    size = len(by)
    return [
        Total(tuple(map(str, values[:size])), *values[size:]) for values in connection.execute(sql, arguments)
    ]


def _where(query: LedgerQuery, key: str = "key_digest = ?") -> tuple[str, tuple[str | float, ...]]:
    conditions = {
        "id = ?": query.id,
        key: query.key_digest,
        "end_user = ?": query.end_user,
        "started_at >= ?": query.since,
        "started_at < ?": query.until,
    }
    used = {condition: value for condition, value in conditions.items() if value is not None}
    return "WHERE " + " AND ".join(used) if used else "", tuple(used.values())


def _prune(connection: sqlite3.Connection, before: float, cuts: Sequence[float], most: int) -> int:
    with _transaction(connection):
        chosen = connection.execute(SQLITE_CHOOSE, (before, most)).fetchall()
        if chosen:
            first, last = chosen[0][1] // 60 * 60, chosen[-1][1]
            near = [cut for cut in cuts if first <= cut <= last]
            names = _json.encode([name for name, _ in chosen]).decode()
            connection.execute(sqlite_fold(len(near)), (*near, names))
            connection.execute(SQLITE_DELETE, (names,))
    return len(chosen)


# -- keys ------------------------------------------------------------------------------------------------------------


def _all_keys(connection: sqlite3.Connection) -> list[KeyRow]:
    found = connection.execute("SELECT content FROM virtual_key ORDER BY created_at, digest")
    return [_key.decode(content) for (content,) in found]


def _one_key(connection: sqlite3.Connection, digest: str) -> KeyRow | None:
    found = connection.execute("SELECT content FROM virtual_key WHERE digest = ?", (digest,)).fetchone()
    return None if found is None else _key.decode(found[0])


def _put_key(connection: sqlite3.Connection, key: KeyRow) -> bool:
    try:
        written = connection.execute(
            "INSERT INTO virtual_key (digest, version, alias, created_at, deleted_at, content) "
            "SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE ?2 = coalesce("
            "(SELECT version FROM virtual_key WHERE digest = ?1), 0) + 1 "
            "ON CONFLICT (digest) DO UPDATE SET version = excluded.version, alias = excluded.alias, "
            "deleted_at = excluded.deleted_at, content = excluded.content",
            (key.digest, key.version, key.alias, key.created_at, key.deleted_at, _json.encode(key)),
        )
    except sqlite3.IntegrityError:
        raise AliasTaken(f"Key with alias '{key.alias}' already exists.", param="key_alias") from None
    return written.rowcount == 1


# -- named credentials -----------------------------------------------------------------------------------------------


def _all_credentials(connection: sqlite3.Connection) -> list[CredentialRow]:
    return [
        _credential.decode(content)
        for (content,) in connection.execute("SELECT content FROM credential ORDER BY name")
    ]


def _put_credentials(connection: sqlite3.Connection, rows: Sequence[CredentialRow]) -> bool:
    with _transaction(connection):
        if all(_put_credential(connection, row) for row in rows):
            return True
        connection.rollback()  # all or none: another's change came first
    return False


def _put_credential(connection: sqlite3.Connection, row: CredentialRow) -> bool:
    try:
        written = connection.execute(
            "INSERT INTO credential (id, version, name, content) SELECT ?1, ?2, ?3, ?4 "
            "WHERE ?2 = coalesce((SELECT version FROM credential WHERE id = ?1), 0) + 1 "
            "ON CONFLICT (id) DO UPDATE SET "
            "version = excluded.version, name = excluded.name, content = excluded.content",
            (row.id, row.version, row.name, _json.encode(row)),
        )
    except sqlite3.IntegrityError:
        raise name_taken(row.name) from None
    return written.rowcount == 1


def _delete_credential(connection: sqlite3.Connection, name: str) -> bool:
    return connection.execute("DELETE FROM credential WHERE name = ?", (name,)).rowcount == 1
