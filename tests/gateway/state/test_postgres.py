"""Connections to a Postgres whose certificate is verified, and the schema's numbered files."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from gateway.background.supervisor import spawn
from gateway.state.postgres import connector, migrations
from tests.gateway.rows import row
from tests.gateway.upstreams.conftest import Authority, authority
from tests.harness import patient_postgres

__all__ = ["authority"]


@asynccontextmanager
async def speaking_tls(url: str, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A port on which this Postgres speaks TLS, as its protocol begins it (postgresql.org, "SSL Session Encryption")."""
    parts = urlsplit(url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(8)
            writer.write(b"S")
            await writer.start_tls(context)
            back, there = await asyncio.open_connection(parts.hostname, parts.port)
            answers = spawn(pass_on(back, writer), name="answers")
            await pass_on(reader, there)
            answers.cancel()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


def url_of(url: str, port: int, **words: str) -> str:
    """The same database behind that port."""
    parts = urlsplit(url)
    login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in words.items())
    return f"postgresql://{login}127.0.0.1:{port}{parts.path}?{query}"


async def test_a_verified_certificate(database_url: str, authority: Authority, tmp_path: Path) -> None:
    """The right authority and name connect; another name, another authority or none does not, and verify-ca asks for no name."""
    stranger = Authority(tmp_path).cafile
    async with (
        speaking_tls(database_url, authority.context("IP:127.0.0.1")) as port,
        speaking_tls(database_url, authority.context("DNS:elsewhere")) as elsewhere,
    ):
        cases = [
            (port, "verify-full", authority.cafile, True),
            (elsewhere, "verify-full", authority.cafile, False),
            (elsewhere, "verify-ca", authority.cafile, True),
            (port, "verify-ca", stranger, False),
            (port, "verify-full", str(tmp_path / "missing.pem"), False),
            (port, "require", stranger, True),
        ]
        for number, mode, cafile, is_right in cases:
            dsn = url_of(database_url, number, sslmode=mode, sslrootcert=cafile)
            if mode == "require":  # asyncpg's own, which verifies nothing then
                dsn = url_of(database_url, number, sslmode=mode)
            connect = connector(dsn)
            if is_right:
                connection = await connect(dsn, timeout=10)
                assert await connection.fetchval("SELECT 1") == 1
                connection.terminate()
            else:
                with pytest.raises((OSError, asyncpg.PostgresError)):
                    await connect(dsn, timeout=10)


async def test_records_behind_a_verified_certificate(database_url: str, authority: Authority) -> None:
    """The pool connects so too."""
    async with speaking_tls(database_url, authority.context("IP:127.0.0.1")) as port:
        dsn = url_of(database_url, port, sslmode="verify-full", sslrootcert=authority.cafile)
        records = patient_postgres(dsn)
        await records.append([row()])
        assert (await records.totals())[0].requests == 1
        await records.close()


async def test_authorities_are_read_in_a_thread(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle of them takes a while, and a database that is away is tried again and again."""
    threads = []
    real = asyncio.to_thread

    async def to_thread(*given: object) -> object:
        threads.append(given)
        return await real(*given)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    for mode, count in (("verify-full", 1), ("prefer", 1)):
        dsn = f"postgresql://u@127.0.0.1:1/d?sslmode={mode}&sslrootcert={quote(authority.cafile, safe='')}"
        with pytest.raises(OSError):
            await connector(dsn)(dsn, timeout=5)
        assert len(threads) == count


def test_migrations_are_numbered() -> None:
    """From 1 on, without a gap, and each says something."""
    assert [number for number, _, _ in migrations()] == list(range(1, len(migrations()) + 1))
    assert all(sql.strip() for _, _, sql in migrations())
