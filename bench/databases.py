"""A Redis and a Postgres beside the gateway, and what each of them had to do: what limits and a ledger cost where several replicas
share them.

Both are the tests' own servers (`tests/servers.py`), or those that `TEST_REDIS_URL` and `TEST_DATABASE_URL` name, which nobody else
should use meanwhile. The gateway's callers then have a key under every kind of limit, so that each request takes from
shared counters, which it never exhausts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen
from uuid import uuid4

import asyncpg
from redis import Redis

from bench.load import KEY
from bench.machine import cpu_of_living
from tests.servers import postgres_server, redis_server

LIMITED_KEY = "sk-bench-limited-5e2a90c47f1b4d38"
_PLENTY = 1_000_000_000
_SCRIPTS = ("cmdstat_eval", "cmdstat_evalsha", "cmdstat_fcall")


@dataclass(frozen=True)
class Databases:
    """Two servers that run."""

    redis_url: str
    database_url: str

    @property
    def env(self) -> dict[str, str]:
        """What tells a gateway to use them, also if the machine is so busy that it would do without Redis."""
        return {"REDIS_URL": self.redis_url, "PENSTOCK_REDIS_TIMEOUT": "5", "DATABASE_URL": self.database_url}

    def admit(self, url: str) -> dict[str, str]:
        """Make a key with a budget, request, token and parallel limits in the gateway at `url`; the headers that show it."""
        wanted = {
            "key": LIMITED_KEY,
            "max_budget": _PLENTY,
            "rpm_limit": _PLENTY,
            "tpm_limit": _PLENTY,
            "max_parallel_requests": _PLENTY,
        }
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        with urlopen(Request(f"{url}/key/generate", json.dumps(wanted).encode(), headers), timeout=10):
            return {"Authorization": f"Bearer {LIMITED_KEY}"}

    def used(self) -> dict[str, float]:
        """What they have done until now: Redis's scripts and the reads of its sockets, Postgres's transactions that wrote, and the
        CPU time (us) of either: of those of Postgres's processes that live, and 0 if they run on another machine.
        """
        with Redis.from_url(self.redis_url) as redis:
            server: Mapping[str, Any] = redis.info("everything")
        wrote, cpu = asyncio.run(_of_postgres(self.database_url))
        return {
            "redis_scripts": sum(server.get(name, {}).get("calls", 0) for name in _SCRIPTS),
            "redis_reads": server.get("total_reads_processed", 0),
            "redis_cpu": (server["used_cpu_sys"] + server["used_cpu_user"]) * 1e6,
            "postgres_transactions": wrote,
            "postgres_cpu": cpu,
        }

    def rows(self) -> int:
        """How many requests the ledger holds."""
        return int(asyncio.run(_fetch(self.database_url, "SELECT count(*) FROM penstock.ledger")))


@contextmanager
def databases() -> Iterator[Databases]:
    """Both, with an empty database, from here to the end; they run where the load runs."""
    name = f"penstock_bench_{uuid4().hex}"
    with redis_server() as redis_url, postgres_server() as server_url:
        asyncio.run(_fetch(server_url, f'CREATE DATABASE "{name}"'))
        try:
            yield Databases(redis_url, urlunsplit(urlsplit(server_url)._replace(path=f"/{name}")))
        finally:
            asyncio.run(_fetch(server_url, f'DROP DATABASE "{name}" WITH (FORCE)'))


async def _of_postgres(url: str) -> tuple[int, float]:
    # A transaction gets a number when it first writes. The server's own statistics come up to a second late.
    wrote = await _fetch(url, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    server = await _fetch(url, "SELECT pg_backend_pid()", _parent)
    return int(wrote), cpu_of_living(server) * 1e6


async def _fetch(url: str, query: str, convert: Callable[[Any], Any] = lambda value: value) -> Any:
    """The query's one value, converted before the connection and its backend end."""
    connection = await asyncpg.connect(url)
    try:
        return convert(await connection.fetchval(query))
    finally:
        await connection.close()


def _parent(backend: int) -> int:
    """The server of a Postgres backend with this process id, 0 if there is no such process here."""
    try:
        name, _, rest = Path(f"/proc/{backend}/stat").read_text().rpartition(")")
    except OSError:
        return 0
    return int(rest.split()[1]) if "postgres" in name else 0
