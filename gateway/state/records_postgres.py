"""The ledger and the keys in Postgres: for several replicas, and for books that outlive the machine.

**The database may be away**, at the start too. Nothing connects before it has to, whatever fails is `RecordsUnavailable`
within some seconds, and the next call connects anew. Rows wait in the ledger's queue meanwhile; nobody's request does.

**Exactly once.** A batch is one statement in one transaction, and a row whose `id` is there is skipped. So a writer that
does not know whether its commit arrived sends the batch again. Statements take what they write in the order of its keys:
two writers with the same rows wait for one another and never in a circle.

**PgBouncer may be in between**, in whatever mode. Whatever is said stands in a transaction, no statement outlives it, all
names have their schema, locks are the transaction's. A connection on which anything failed is thrown away, because only
a new one is known to be in order; that also ends what a server does not answer. (Notifications do not get through
PgBouncer: who `listen`s hears nothing then, and has to look from time to time.)

The tables are in the schema `penstock` and look as those of `records_sqlite` do, with views named as LiteLLM's tables
(`migrations/postgres`). Migrations are numbered, forward only, and applied under a lock by whoever is first. One that is
applied while an older version still runs must leave it working: new columns have defaults.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from time import monotonic
from typing import Any, TypeVar

import asyncpg
import msgspec
import orjson
from msgspec.structs import replace

from adapters.errors import BadRequest
from gateway.state.credentials import CredentialRow
from gateway.state.keys import KeyRow
from gateway.state.postgres import connector, leave_as_it_is, migrate, migrations, throw_away, transaction
from gateway.state.pruning import POSTGRES_LOCK, POSTGRES_PRUNE
from gateway.state.records import (
    EVERYTHING,
    FLAT,
    TOKENS,
    UNITS,
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
    flatten,
    make_row,
    name_taken,
    pieces,
)

T = TypeVar("T")

log = logging.getLogger("penstock.records")

POOL = 5
CONNECT_SECONDS = 2.0
COMMAND_SECONDS = 5.0
REPORT_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0
"""How often an idle gateway makes sure that its database is there."""

CHANNEL = "penstock_keys"
"""The channel of notifications; their text is the digest of a key that has changed."""

_MIGRATION_SECONDS = 600.0
_DELAYS = (0.1, 5.0)
_MOST_KINDS = 4_000
_RETRY_AFTER = {"retry-after": "5"}

_KIND = Kind.__struct_fields__
_ARRAYS = {"int": "bigint[]", "bool": "boolean[]"}
_KIND_TYPES = [_ARRAYS.get(str(Kind.__annotations__[name]), "text[]") for name in _KIND]
_ADD_KINDS = (
    f"INSERT INTO penstock.kind (digest, {', '.join(_KIND)}) "  # noqa: S608 - our own field names
    f"SELECT * FROM unnest($1::bytea[], {', '.join(f'${n}::{type_}' for n, type_ in enumerate(_KIND_TYPES, 2))}) "
    "ON CONFLICT (digest) DO NOTHING"
)
_FIND_KINDS = "SELECT digest, id FROM penstock.kind WHERE digest = ANY ($1::bytea[])"

_ENTRY: dict[str, str] = {
    "id": "text",
    "kind": "bigint",
    "started_at": "double precision",
    **dict.fromkeys(("total_us", "ttfb_us", "overhead_us", "cost_nano", "answer_ms"), "bigint"),
    **dict.fromkeys(("answer_id", "client_ip", "user_agent", "end_user"), "text"),
    **dict.fromkeys((*TOKENS, *UNITS), "bigint"),
    **dict.fromkeys(("call_id", "session_id", "error_message"), "text"),
    **dict.fromkeys(("tags", "tried"), "jsonb"),
}
_ADD_ENTRIES = (
    f"INSERT INTO penstock.entry ({', '.join(_ENTRY)}) "  # noqa: S608 - as _ADD_KINDS
    f"SELECT * FROM unnest({', '.join(f'${n}::{type_}[]' for n, type_ in enumerate(_ENTRY.values(), 1))}) "
    "ON CONFLICT (id) DO NOTHING"
)
_COLUMNS = ", ".join(FLAT)

_PUT_KEY = (
    "INSERT INTO penstock.virtual_key (digest, version, alias, created_at, deleted_at, content) "
    "SELECT $1::text, $2::bigint, $3::text, $4::double precision, $5::double precision, $6::jsonb WHERE $2::bigint = "
    "coalesce((SELECT version FROM penstock.virtual_key WHERE digest = $1::text), 0) + 1 "
    "ON CONFLICT (digest) DO UPDATE SET version = excluded.version, alias = excluded.alias, "
    "deleted_at = excluded.deleted_at, content = excluded.content "
    "WHERE virtual_key.version = excluded.version - 1 RETURNING digest"
)

_KEY_LOCK = 0x6B6579  # "key"; with a second number it is none of those that have one alone

_PUT_CREDENTIAL = (
    "INSERT INTO penstock.credential (id, version, name, content) "
    "SELECT $1::text, $2::bigint, $3::text, $4::jsonb WHERE $2::bigint = "
    "coalesce((SELECT version FROM penstock.credential WHERE id = $1::text), 0) + 1 "
    "ON CONFLICT (id) DO UPDATE SET version = excluded.version, name = excluded.name, content = excluded.content "
    "WHERE credential.version = excluded.version - 1 RETURNING id"
)

_OWN_DIMENSIONS: dict[Dimension, str] = {
    "day": "to_char(to_timestamp(floor(started_at)) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",  # which rounds, to microseconds
    "end_user": "coalesce(end_user, '')",
}
_OF_DAY = "to_char(to_timestamp({}) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
_KIND_DIMENSIONS: dict[Dimension, str] = {
    "model": "model",
    "model_group": "model_group",
    "provider": "provider",
    "deployment_id": "deployment_id",
    "key_digest": "coalesce(key_digest, '')",
}
_OWN_SUMS = (
    "count(*) AS requests, count(*) FILTER (WHERE cost_nano IS NULL) AS unpriced, "
    "sum(input + cache_read + cache_write + cache_write_1h + audio_input + image_input) AS prompt, "
    "sum(output + reasoning + audio_output + image_output) AS completion, sum(cost_nano) AS cost"
)
_DAY_SUMS = "requests, unpriced, prompt, completion, cost"
_SUMS = (
    "coalesce(sum(requests), 0)::bigint, coalesce(sum(requests) FILTER (WHERE status = 'failure'), 0)::bigint, "
    "coalesce(sum(unpriced), 0)::bigint, coalesce(sum(prompt), 0)::bigint, coalesce(sum(completion), 0)::bigint, "
    "coalesce(sum(cost), 0)::bigint"
)

_kind_values = attrgetter(*_KIND)
_json = msgspec.json.Encoder()
_attempts = msgspec.json.Decoder(tuple[AttemptRow, ...])
_tags = msgspec.json.Decoder(tuple[str, ...])

_UNSTORABLE = (ValueError, asyncpg.exceptions.DataError)
"""What is wrong with a value and not with the database: asyncpg's own refusal is a ValueError, the server's is not."""
_AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class PostgresRecords:
    """`Records` in the Postgres at `dsn`, which reports call `where`. Nothing connects before the first call, or `run`.

    At most `pool` connections, and one that listens. Seconds until a connection, a write and a report fail.
    """

    name = "records"

    def __init__(
        self,
        dsn: str,
        *,
        where: str,
        pool: int = POOL,
        connect_seconds: float = CONNECT_SECONDS,
        command_seconds: float = COMMAND_SECONDS,
        report_seconds: float = REPORT_SECONDS,
    ) -> None:
        self._dsn = dsn
        self._connect = connector(dsn)
        self._where = where
        self._size = pool
        self._connect_seconds = connect_seconds
        self._command_seconds = command_seconds
        self._report_seconds = report_seconds
        self._pool: asyncpg.Pool | None = None
        self._opening: asyncio.Task[asyncpg.Pool] | None = None
        self._is_migrated = False
        self._error = "not connected yet"
        self._kinds: dict[Kind, int] = {}
        """The number of each kind in the database; forgotten when anything fails, it may be another database then."""
        self._changed: Callable[[str | None], None] = _ignore

    def listen(self, changed: Callable[[str | None], None]) -> None:
        """See `Records`."""
        self._changed = changed

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        """See `Records`. A row that cannot be stored at all raises `ValueError`."""
        for make_storable in (None, _text, _ascii):
            storable = rows if make_storable is None else [_cleaned(row, make_storable) for row in rows]
            try:
                return await self._write(lambda c, these=storable: self._append(c, these))  # type: ignore[misc]  # mypy cannot infer the default's type
            except _UNSTORABLE as error:
                unstorable = error
        raise ValueError(f"it cannot be stored: {unstorable}") from unstorable

    async def rows(self, query: LedgerQuery, limit: int = 10_000) -> list[LedgerRow]:
        """See `Records`."""
        where, arguments = _condition(query)
        sql = (
            f"SELECT {_COLUMNS} FROM penstock.ledger {where} "  # noqa: S608 - as _ADD_KINDS
            f"ORDER BY started_at DESC, id DESC LIMIT {limit:d}"
        )
        return [_row(found) for found in await self._report(sql, *arguments)]

    async def totals(self, by: Sequence[Dimension] = (), query: LedgerQuery = EVERYTHING) -> list[Total]:
        """See `Records`."""
        return await self._totals(by, pieces(by, query))

    async def prune(self, before: float, cuts: Sequence[float], most: int) -> int | None:
        """See `Records`."""

        async def prune(connection: Any) -> int | None:
            if not await connection.fetchval(POSTGRES_LOCK):
                return None
            return int(await connection.fetchval(POSTGRES_PRUNE, before, most, list(cuts)))

        return await self._write(prune)

    async def pruned(self, by: Sequence[Dimension] = (), query: LedgerQuery = EVERYTHING) -> list[Total]:
        """See `Records`."""
        return await self._totals(by, [("pruned", query)])

    async def _totals(
        self, by: Sequence[Dimension], parts_of: Sequence[tuple[Source, LedgerQuery]]
    ) -> list[Total]:
        own = [name for name in by if name in _OWN_DIMENSIONS]
        parts: list[str] = []
        arguments: list[str | float] = []
        for source, piece in parts_of:
            key = "kind IN (SELECT id FROM penstock.kind WHERE key_digest = {})"
            where, more = _condition(piece, key, len(arguments) + 1)
            arguments += more
            if source == "entry":
                chosen = "".join(f", {_OWN_DIMENSIONS[name]} AS {name}" for name in own)
                part = f"SELECT kind{chosen}, {_OWN_SUMS} FROM penstock.entry {where} GROUP BY "  # noqa: S608 - from the tables above
                parts.append(part + ", ".join(["kind", *own]))
            else:
                starts = "starts" if source == "pruned" else "day * 86400"
                names = {"day": f", {_OF_DAY.format(starts)} AS day", "end_user": ", '' AS end_user"}
                chosen = "".join(names[name] for name in own)
                where = where.replace("started_at", starts)
                parts.append(f"SELECT kind{chosen}, {_DAY_SUMS} FROM penstock.{source} {where}")  # noqa: S608 - as above
        groups = [_KIND_DIMENSIONS.get(name, name) for name in by]
        order = ", ".join(f'{group} COLLATE "C"' for group in groups)
        grouping = f"GROUP BY {', '.join(groups)} ORDER BY {order}" if by else ""
        sql = (
            f"WITH part AS ({' UNION ALL '.join(parts)}) SELECT {', '.join([*groups, _SUMS])} "  # noqa: S608 - as above
            f"FROM part JOIN penstock.kind ON kind.id = part.kind {grouping}"
        )
        size = len(by)
        return [
            Total(tuple(values[:size]), *values[size:])
            for values in map(tuple, await self._report(sql, *arguments))
        ]

    async def keys(self) -> list[KeyRow]:
        """See `Records`."""
        found = await self._report("SELECT content FROM penstock.virtual_key ORDER BY created_at, digest")
        return [_content(content, KeyRow) for (content,) in found]

    async def key(self, digest: str) -> KeyRow | None:
        """See `Records`."""
        sql = "SELECT content FROM penstock.virtual_key WHERE digest = $1"
        found = await self._write(lambda c: c.fetchrow(sql, _text(digest)))
        return None if found is None else _content(found[0], KeyRow)

    async def put_key(self, key: KeyRow) -> bool:
        """See `Records`. What no text of Postgres can hold (U+0000) is a `BadRequest`."""
        values = (key.digest, key.version, key.alias, key.created_at, key.deleted_at)
        try:
            return await self._write(lambda c: _put_key(c, values, _json.encode(key).decode()))
        except _UNSTORABLE:
            raise BadRequest("A key cannot hold the character U+0000") from None

    async def credentials(self) -> list[CredentialRow]:
        """See `Records`."""
        found = await self._report("SELECT content FROM penstock.credential ORDER BY name")
        return [_content(content, CredentialRow) for (content,) in found]

    async def put_credentials(self, rows: Sequence[CredentialRow]) -> bool:
        """See `Records`. What no text of Postgres can hold (U+0000) is a `BadRequest`."""
        try:
            return await self._write(lambda c: _put_credentials(c, rows))
        except _StaleError:
            return False
        except _UNSTORABLE:
            raise BadRequest("A credential cannot hold the character U+0000") from None

    async def delete_credential(self, name: str) -> bool:
        """See `Records`."""
        sql = "DELETE FROM penstock.credential WHERE name = $1 RETURNING id"
        return await self._write(lambda c: c.fetchrow(sql, _text(name))) is not None

    async def close(self) -> None:
        """See `Records`. A report that is still being read is broken off."""
        if self._opening is not None:
            self._opening.cancel()
        if self._pool is not None:
            self._pool.terminate()
            with suppress(*_AWAY):
                await self._pool.close()

    def describe(self) -> Description:
        """See `Records`."""
        return Description("postgres", durable=True, where=self._where, error=self._error)

    async def run(self) -> None:
        """Connect, listen and watch, until cancelled. Never fails: what is away is tried again, more and more seldom."""
        delay, longest = _DELAYS
        while True:
            began = monotonic()
            try:
                await self._do(_nothing, self._connect_seconds)
                await self._listen()
            except RecordsUnavailable:
                pass
            except _AWAY as error:
                self._failed(error)
            if monotonic() - began > longest:  # it has listened; who lets nobody listen is left in peace
                delay = _DELAYS[0]
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)

    # -- connections -------------------------------------------------------------------------------------------------

    async def _report(self, sql: str, *arguments: Any) -> list[Any]:
        async def read(connection: Any) -> list[Any]:
            milliseconds = round(self._report_seconds * 1000)
            await connection.execute(f"SET LOCAL statement_timeout = {milliseconds}")
            found: list[Any] = await connection.fetch(sql, *arguments)
            return found

        return await self._do(read, self._report_seconds)

    async def _write(self, work: Callable[[Any], Awaitable[T]]) -> T:
        return await self._do(work, self._command_seconds)

    async def _do(self, work: Callable[[Any], Awaitable[T]], seconds: float) -> T:
        """One transaction on a connection of the pool. Raises `RecordsUnavailable`, or what `_UNSTORABLE` names."""
        if asyncio.current_task() is None:  # a request that was not a task yet is one after its first wait
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(self._connect_seconds + seconds):
                pool, connection = await self._connected()
                try:
                    done = await transaction(connection, work)
                except BaseException:
                    self._kinds.clear()
                    throw_away(connection)
                    raise
                finally:
                    await pool.release(connection)
        except _UNSTORABLE:
            self._works()
            raise
        except _AWAY as error:
            if isinstance(error, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError):
                self._is_migrated = False  # it is another database than before, an empty one
            raise self._failed(error) from error
        self._works()
        return done

    async def _connected(self) -> tuple[asyncpg.Pool, Any]:
        try:
            pool = await self._ready()
            return pool, await pool.acquire()
        except _UNSTORABLE as error:
            # A certificate that is refused, a name that is none: nothing is wrong with a row.
            raise self._failed(error) from error

    async def _ready(self) -> asyncpg.Pool:
        """The pool, when the database is as this version needs it. Whoever cannot wait so long does not stop the others."""
        if self._pool is not None and self._is_migrated:
            return self._pool
        if self._opening is None or self._opening.done():
            # Not `spawn`, which would log what fails here: that is nothing to be alarmed of.
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(_look_at)
        return await asyncio.shield(self._opening)

    async def _open(self) -> asyncpg.Pool:
        if self._pool is None:
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=0,
                max_size=self._size,
                timeout=self._connect_seconds,
                statement_cache_size=0,
                max_inactive_connection_lifetime=60.0,
                reset=leave_as_it_is,
                connect=self._connect,
            )
        async with asyncio.timeout(_MIGRATION_SECONDS):
            connection = await self._pool.acquire()
            try:
                version = await transaction(connection, migrate)
            except BaseException:
                throw_away(connection)
                raise
            finally:
                await self._pool.release(connection)
        newest = len(migrations())
        if version > newest:
            known = f"schema {version}, this version knows {newest}"
            log.warning(
                "the database %s was migrated by a newer version (%s); it is used as it is",
                self._where,
                known,
            )
        self._is_migrated = True
        return self._pool

    async def _listen(self) -> None:
        """Until the connection ends or fails."""
        connection = await self._connect(self._dsn, timeout=self._connect_seconds, statement_cache_size=0)
        try:
            async with asyncio.timeout(self._command_seconds):
                await connection.add_listener(CHANNEL, lambda *heard: self._changed(heard[-1]))
            self._changed(None)
            while True:
                async with asyncio.timeout(self._command_seconds):
                    await connection.execute("SELECT 1")
                self._works()
                await asyncio.sleep(HEARTBEAT_SECONDS)
        finally:
            connection.terminate()

    def _failed(self, error: BaseException) -> RecordsUnavailable:
        told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if told != self._error:
            log.warning("the database %s cannot be used: %s", self._where, told)
        self._error = told
        self._kinds.clear()
        return RecordsUnavailable("the database cannot be used now", headers=_RETRY_AFTER)

    def _works(self) -> None:
        if self._error:
            log.info("the database %s is connected", self._where)
        self._error = ""

    # -- what is done there ------------------------------------------------------------------------------------------

    async def _append(self, connection: Any, rows: Sequence[LedgerRow]) -> None:
        # Of two rows of one batch that are the same the first counts, as it would in two batches.
        first = {row.id: row for row in reversed(rows)}
        rows = [first[name] for name in sorted(first)]
        kinds = await self._number_kinds(connection, rows)
        columns = zip(*(_values(row, kinds[row.kind]) for row in rows), strict=True)
        if rows:
            await connection.execute(_ADD_ENTRIES, *map(list, columns))

    async def _number_kinds(self, connection: Any, rows: Sequence[LedgerRow]) -> Mapping[Kind, int]:
        """Find or make the number of each kind in `rows`; another process may have done so before."""
        if len(self._kinds) > _MOST_KINDS:
            self._kinds.clear()
        kinds = {row.kind for row in rows}
        # What another call forgets while this one waits, because it failed, is known here.
        known = {kind: self._kinds[kind] for kind in kinds if kind in self._kinds}
        unknown = kinds - known.keys()
        if not unknown:
            return known
        digests = {kind: hashlib.sha256(_json.encode(_kind_values(kind))).digest() for kind in unknown}
        by_digest = {digest: kind for kind, digest in digests.items()}
        ordered = sorted(by_digest)
        columns = zip(*(_kind_values(by_digest[digest]) for digest in ordered), strict=True)
        await connection.execute(_ADD_KINDS, ordered, *map(list, columns))
        numbers = dict(await connection.fetch(_FIND_KINDS, ordered))
        found = {kind: numbers[digest] for kind, digest in digests.items()}
        self._kinds.update(found)
        return known | found


def _ignore(digest: str | None) -> None:
    """Nobody wants to know."""


def _look_at(task: asyncio.Task[Any]) -> None:
    """Whoever waited has been told what failed; if nobody did, that is no news."""
    if not task.cancelled():
        task.exception()


async def _nothing(connection: Any) -> None:
    await connection.execute("SELECT 1")


async def _put_key(connection: Any, values: Sequence[Any], content: str) -> bool:
    # One after the other: of two who make the same key at once the second would be told that its alias is taken.
    await connection.execute("SELECT pg_advisory_xact_lock($1::int, hashtext($2))", _KEY_LOCK, values[0])
    try:
        written = await connection.fetchrow(_PUT_KEY, *values, content)
    except asyncpg.UniqueViolationError:
        raise AliasTaken(f"Key with alias '{values[2]}' already exists.", param="key_alias") from None
    if written is not None:
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, values[0])
    return written is not None


class _StaleError(Exception):
    """Somebody else has changed a row meanwhile: what was written before it in this transaction is undone."""


async def _put_credentials(connection: Any, rows: Sequence[CredentialRow]) -> bool:
    for row in sorted(rows, key=lambda row: row.id):
        content = _json.encode(row).decode()
        try:
            written = await connection.fetchrow(_PUT_CREDENTIAL, row.id, row.version, row.name, content)
        except asyncpg.UniqueViolationError:
            raise name_taken(row.name) from None
        if written is None:
            raise _StaleError
    return True


def _content(content: str, kind: type[T]) -> T:
    # A `jsonb` gives 1e300 back as an integer of 301 digits: only orjson reads it as the number that it was, and no page could show
    # any other.
    return msgspec.convert(orjson.loads(content), kind)


def _values(row: LedgerRow, kind: int) -> tuple[Any, ...]:
    """The values of `_ENTRY`."""
    usage = row.usage
    return (
        row.id,
        kind,
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
        *(getattr(usage, name) for name in TOKENS),
        *(getattr(usage.units, name) for name in UNITS),
        row.call_id,
        row.session_id,
        row.error_message,
        _json.encode(row.tags).decode(),
        _json.encode(row.tried).decode(),
    )


def _row(found: Any) -> LedgerRow:
    flat = dict(found)
    flat["tags"] = _tags.decode(flat["tags"])
    flat["attempts"] = _attempts.decode(flat["attempts"])
    return make_row(**flat)


def _condition(
    query: LedgerQuery, key: str = "key_digest = {}", first: int = 1
) -> tuple[str, list[str | float]]:
    conditions: dict[str, str | float | None] = {
        "id = {}": query.id,
        key: query.key_digest,
        "end_user = {}": query.end_user,
        "started_at >= {}": query.since,
        "started_at < {}": query.until,
    }
    used = {
        condition: _text(value) if isinstance(value, str) else value
        for condition, value in conditions.items()
        if value is not None
    }
    parts = [condition.format(f"${number}") for number, condition in enumerate(used, first)]
    return "WHERE " + " AND ".join(parts) if used else "", list(used.values())


# -- text that no text of Postgres can hold ---------------------------------------------------------------------------


def _cleaned(row: LedgerRow, clean: Callable[[str], str]) -> LedgerRow:
    flat = flatten(row)
    texts = {name: clean(value) for name, value in flat.items() if isinstance(value, str)}
    attempts = [
        replace(a, deployment_id=clean(a.deployment_id), model=clean(a.model), provider=clean(a.provider))
        for a in row.attempts
    ]
    return make_row(**{**flat, **texts, "tags": tuple(map(clean, row.tags)), "attempts": attempts})


def _text(value: str) -> str:
    """Without U+0000, and with `?` for header bytes that were not UTF-8 and arrive as lone surrogates."""
    return value.encode("utf-8", "replace").decode().replace("\0", "")


def _ascii(value: str) -> str:
    """For a database whose encoding is none of Unicode."""
    return _text(value).encode("ascii", "replace").decode()
