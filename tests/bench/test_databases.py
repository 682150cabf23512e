from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import asyncpg
import pytest
from redis import Redis

from bench import databases
from bench.databases import Databases
from bench.load import KEY


@pytest.fixture
def both() -> Iterator[Databases]:
    with databases.databases() as found:
        yield found


async def test_what_they_do_is_counted(both: Databases) -> None:
    """Scripts, transactions that write, and their CPU time; reading the counts writes nothing."""
    before = await asyncio.to_thread(both.used)
    with Redis.from_url(both.redis_url) as redis:
        for _ in range(3):
            redis.eval("return 1", 0)
        redis.get("x")
    # A backend counts while it lives, as a gateway's do; the one that made the database may not have ended before.
    connection = await asyncpg.connect(both.database_url)
    await connection.execute("CREATE SCHEMA penstock")
    await connection.execute("CREATE TABLE penstock.ledger (id int)")
    await connection.execute("INSERT INTO penstock.ledger SELECT generate_series(1, 20000)")
    after = await asyncio.to_thread(both.used)
    for _ in range(100):
        if after["postgres_cpu"] > before["postgres_cpu"]:
            break
        await connection.execute("SELECT count(*) FROM generate_series(1, 100000)")
        after = await asyncio.to_thread(both.used)
    await connection.close()
    assert after["redis_scripts"] - before["redis_scripts"] == 3
    assert after["redis_reads"] - before["redis_reads"] >= 4
    assert after["postgres_transactions"] - before["postgres_transactions"] == 3
    assert after["redis_cpu"] > before["redis_cpu"]
    assert after["postgres_cpu"] > before["postgres_cpu"]
    assert await asyncio.to_thread(both.rows) == 20_000


def test_a_gateway_is_told_of_them(both: Databases) -> None:
    """By the variables that any deployment uses."""
    assert both.env["REDIS_URL"] == both.redis_url
    assert both.env["DATABASE_URL"] == both.database_url


def test_a_key_is_made_under_every_limit() -> None:
    """The master key asks for it, and its headers take the master key's place."""
    asked: list[tuple[str | None, str, dict[str, Any]]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.headers["Authorization"], self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not in the test's output."""

    server = HTTPServer(("127.0.0.1", 0), Gateway)
    thread = Thread(target=server.handle_request)
    thread.start()
    headers = Databases("", "").admit(f"http://127.0.0.1:{server.server_port}")
    thread.join()
    server.server_close()
    ((authorization, path, wanted),) = asked
    assert (authorization, path) == (f"Bearer {KEY}", "/key/generate")
    assert wanted.keys() == {"key", "max_budget", "rpm_limit", "tpm_limit", "max_parallel_requests"}
    assert headers == {"Authorization": f"Bearer {wanted['key']}"}


def test_a_process_that_is_no_database_is_not_counted() -> None:
    """A backend of a server elsewhere has a number that may be anybody's here."""
    assert databases._parent(os.getpid()) == 0
    assert databases._parent(2**22 + 1) == 0
