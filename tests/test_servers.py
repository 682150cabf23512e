from __future__ import annotations

import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from redis.asyncio import Redis

from tests import servers


async def test_redis_is_real(redis_url: str) -> None:
    """The Redis that tests get answers PING and runs Lua scripts."""
    async with Redis.from_url(redis_url) as client:
        assert await client.ping()
        assert (
            await client.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, "test_servers:n", "7") == 7
        )
        assert await client.delete("test_servers:n") == 1


async def test_postgres_is_real(database_url: str) -> None:
    """The Postgres that tests get says its version and gives each test an empty database."""
    connection = await asyncpg.connect(database_url)
    try:
        assert str(await connection.fetchval("SELECT version()")).startswith("PostgreSQL")
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    finally:
        await connection.close()


async def test_each_test_has_its_own_database(database_url: str, postgres_url: str) -> None:
    """A database is made for the test; it is not the one that the server came with."""
    assert urlsplit(database_url).path != urlsplit(postgres_url).path


@pytest.mark.parametrize(
    ("variable", "start"),
    [("TEST_REDIS_URL", servers.redis_server), ("TEST_DATABASE_URL", servers.postgres_server)],
)
def test_the_environment_comes_first(variable: str, start: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL in the environment is used as it is, and nothing is started."""
    monkeypatch.setenv(variable, "scheme://somewhere")
    with start() as url:
        assert url == "scheme://somewhere"


@pytest.mark.parametrize(
    ("variable", "start", "command"),
    [
        ("TEST_REDIS_URL", servers.redis_server, "apt-get install redis-server"),
        ("TEST_DATABASE_URL", servers.postgres_server, "apt-get install postgresql"),
    ],
)
def test_a_missing_server_says_how_to_get_it(
    variable: str, start: type, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no place has the server, the failure names the command that installs it."""
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(servers, "carried", lambda package, path: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    with pytest.raises(servers.ServerMissingError, match=command), start():
        pass


def test_carried_finds_files_of_packages() -> None:
    """A file of an installed package is found, anything else is None."""
    assert servers.carried("redis", "asyncio/client.py")
    assert servers.carried("redis", "no/such/file") is None
    assert servers.carried("no_such_package", "bin/server") is None


def test_binaries_out_of_reach_are_copied(tmp_path: Path) -> None:
    """A server below a folder that is closed to other users is copied to where they can start it."""
    closed = tmp_path / "closed"
    binary = closed / "package" / "installation" / "bin" / "server"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    (closed / "package.libs").mkdir()
    (closed / "package.libs" / "library.so").touch()
    closed.chmod(0o700)
    copied = servers._within_reach(binary, tmp_path)
    assert copied == tmp_path / "copy" / "package" / "installation" / "bin" / "server"
    assert copied.stat().st_mode & stat.S_IXOTH
    assert (tmp_path / "copy" / "package.libs" / "library.so").exists()


def test_a_server_that_dies_shows_its_log(tmp_path: Path) -> None:
    """A server that ends instead of answering is reported with what it wrote."""
    with (
        pytest.raises(servers.ServerDiedError, match="no luck today"),
        servers._running(lambda port: ["/bin/sh", "-c", "echo no luck today"], tmp_path, lambda port: False),
    ):
        pass


def test_servers_are_stopped_and_leave_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After the block, an error in it included, no process and no folder of the server is left."""
    monkeypatch.delenv("TEST_REDIS_URL", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    port = None
    try:
        with servers.redis_server() as url:
            assert list(tmp_path.iterdir())
            port = urlsplit(url).port
            raise RuntimeError
    except RuntimeError:
        assert not list(tmp_path.iterdir())
    assert port
    with pytest.raises(ConnectionRefusedError):
        servers._answers_ping(port)


def test_every_place_that_has_a_postgres_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Postgres that the development dependency carries serves as well as the one on PATH."""
    if not (carried := servers.carried("pgserver", "pginstall/bin/initdb")):
        return  # no wheel for this Python: the servers on PATH are the only place
    monkeypatch.delenv("TEST_DATABASE_URL", raising=False)
    monkeypatch.setattr(servers, "_postgres_binaries", lambda: (carried, carried.with_name("postgres")))
    with servers.postgres_server() as url:
        psql = shutil.which("psql") or carried.with_name("psql")
        shown = subprocess.run(
            [psql, url, "-Atc", "SHOW server_version"], capture_output=True, text=True, check=True
        )
        assert shown.stdout.startswith("16")
