"""A connection to Postgres, what happens on it as a whole, and the schema that it finds there.

Where the server's certificate is verified, asyncpg reads all authorities anew for each connection, on the event loop: 28 ms for
a usual bundle of them. While a database is away somebody tries to connect all the time, so a thread reads them here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import resources
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import asyncpg

T = TypeVar("T")

MIGRATION_LOCK = 0x70656E73746F636B  # "penstock"
_VERIFIED = frozenset(("verify-ca", "verify-full"))
_KNOWN = frozenset(("sslmode", "sslrootcert", "sslcert", "sslkey", "sslnegotiation"))


def connector(dsn: str) -> Callable[..., Awaitable[Any]]:
    """What connects to `dsn`, and takes whatever else `asyncpg.connect` does."""
    words = dict(parse_qsl(urlsplit(dsn).query))
    theirs = {name for name in words if name.startswith("ssl")} - _KNOWN
    is_ours = words.get("sslmode") in _VERIFIED and "sslrootcert" in words and not theirs

    async def connect(*given: Any, **more: Any) -> Any:
        if is_ours:
            more["ssl"] = await asyncio.to_thread(_verifying, words)
        return await asyncpg.connect(*given, **more)

    return connect


def _verifying(words: dict[str, str]) -> ssl.SSLContext:
    """Blocks. Raises `OSError` where a file cannot be read or is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = words["sslmode"] == "verify-full"
    context.load_verify_locations(cafile=words["sslrootcert"])
    if "sslcert" in words:
        context.load_cert_chain(words["sslcert"], words.get("sslkey"))
    return context


async def transaction(connection: Any, work: Callable[[Any], Awaitable[T]]) -> T:
    """Do it whole or not at all. Without a rollback: whoever calls throws the connection away if it fails."""
    await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    done = await work(connection)
    await connection.execute("COMMIT")
    return done


def throw_away(connection: Any) -> None:
    """At once: a rollback could wait for a server that does not answer."""
    with suppress(asyncpg.InterfaceError):  # the pool has noticed its end already
        connection.terminate()


async def leave_as_it_is(connection: Any) -> None:
    """Asyncpg would reset a connection whenever it comes back; ours have nothing to forget."""


def migrations() -> list[tuple[int, str, str]]:
    """All schema changes in their order: number, file name, SQL."""
    folder = resources.files("gateway.state") / "migrations" / "postgres"
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name
    )
    return [(int(file.name.split("_")[0]), file.name, file.read_text("utf-8")) for file in files]


async def migrate(connection: Any) -> int:
    """Bring the database up to date, whoever else may be doing so at the same time; the version that it has then."""
    await connection.execute(
        f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK}); CREATE SCHEMA IF NOT EXISTS penstock; "
        "CREATE TABLE IF NOT EXISTS penstock.schema_version "
        "(version integer PRIMARY KEY, name text, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    applied = {
        version for (version,) in await connection.fetch("SELECT version FROM penstock.schema_version")
    }
    for version, name, sql in migrations():
        if version not in applied:
            await connection.execute(sql)
            add = "INSERT INTO penstock.schema_version (version, name) VALUES ($1, $2)"
            await connection.execute(add, version, name)
            applied.add(version)
    return max(map(int, applied))
