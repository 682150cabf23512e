"""Requests while the database is away, and while the process is killed: `make soak ARGS="--outage 180"`, `ARGS="--kills 50"`.

In the first, Penstock gets a Postgres of its own behind a proxy that refuses, stalls and resets connections in turn for so many
seconds, at a hundred requests a second. The run fails if a request fails, or if a row is missing or doubled a minute after the
database is back. In the second, it is killed at random moments under load, so many times; it fails if rows are missing that
were answered over a second before a kill, or if sums and rows do not agree.

It borrows the tests' Postgres and their proxy, so that what breaks a database here is what the tests break it with.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import asyncpg

from bench import machine
from bench.load import percentile
from bench.peers import ledger_rows, names_of_rows
from tests.faulty import FaultyProxy
from tests.servers import postgres_server

RATE = 100
_MODEL = {"model": "openai/m", "mock_response": "hi", "input_cost_per_token": "0.000001"}
_CONFIG = {"model_list": [{"model_name": "m", "litellm_params": _MODEL}]}
_QUESTION = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
_PENSTOCK = str(Path(sys.executable).with_name("penstock"))

Answers = list[tuple[float, int, str]]
"""When each request was answered, the microseconds that it took, and its name in the ledger."""


class _Load:
    """A steady rate of requests until it is told to stop."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self.answers: Answers = []
        self.failures = 0

    async def run(self, seconds: float) -> None:
        async with asyncio.TaskGroup() as group:
            begin = time.monotonic()
            for number in range(round(seconds * RATE)):
                await asyncio.sleep(begin + number / RATE - time.monotonic())
                group.create_task(self._ask())

    async def _ask(self) -> None:
        began = time.monotonic()
        try:
            async with self._session.post(f"{self._url}/v1/chat/completions", json=_QUESTION) as answer:
                await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            self.failures += 1
            return
        now = time.monotonic()
        self.failures += answer.status != 200
        self.answers.append((now, round((now - began) * 1e6), answer.headers["x-request-id"]))


def _start(
    folder: Path, port: int, more: dict[str, str]
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    (folder / "config.yaml").write_text(json.dumps(_CONFIG))
    env = {"PENSTOCK_DATA_DIR": str(folder / "data"), **more}
    flags = ["--config", str(folder / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    return machine.started([_PENSTOCK, *flags], 0, folder, env)


async def _is_up(session: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/health"):
                    return
            await asyncio.sleep(0.02)


async def outage(database: str, folder: Path, seconds: float, calm: float = 10.0) -> dict[str, float]:
    """What was seen of that many seconds without a database, after `calm` seconds with it."""
    proxy, port = FaultyProxy(database), machine.free_port()
    await proxy.start()
    url = f"http://127.0.0.1:{port}"
    with _start(folder, port, {"DATABASE_URL": proxy.url}):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await _is_up(session, url)
            before, during = _Load(session, url), _Load(session, url)
            await before.run(calm)
            for fault in (proxy.refuse, proxy.stall, lambda: proxy.cut_after(200)):
                proxy.heal()
                fault()
                await during.run(seconds / 3)
            proxy.heal()
            asked, began = round(calm * RATE) + 3 * round(seconds / 3 * RATE), time.monotonic()
            rows, names = 0, 0
            connection = await asyncpg.connect(database)
            while rows < asked and time.monotonic() < began + 60:
                sql = "SELECT count(*), count(DISTINCT id) FROM penstock.entry"
                rows, names = await connection.fetchrow(sql)
                await asyncio.sleep(0.1)
            await connection.close()
    await proxy.close()
    return {
        "asked": asked,
        "failures": before.failures + during.failures,
        "rows": rows,
        "distinct_rows": names,
        "recovery_s": round(time.monotonic() - began, 1),
        "before_p99_ms": round(percentile([us for _, us, _ in before.answers], 0.99) / 1e3, 2),
        "outage_p99_ms": round(percentile([us for _, us, _ in during.answers], 0.99) / 1e3, 2),
    }


async def kills(folder: Path, count: int) -> dict[str, float]:
    """What was seen of so many kills under load, with SQLite."""
    port, chance = machine.free_port(), random.Random(count)
    url = f"http://127.0.0.1:{port}"
    older: set[str] = set()
    answered = 0
    for _ in range(count):
        with _start(folder, port, {}) as process:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                await _is_up(session, url)
                load = _Load(session, url)
                pause = 1.2 + chance.random()
                async with asyncio.TaskGroup() as group:
                    group.create_task(load.run(pause))
                    await asyncio.sleep(pause - 0.1)
                    killed = time.monotonic()
                    process.send_signal(signal.SIGKILL)
                older |= {name for moment, _, name in load.answers if moment < killed - 1}
                answered += len(load.answers)
    verify = [_PENSTOCK, "ledger", "verify", "--data-dir", str(folder / "data")]
    verifying = await asyncio.create_subprocess_exec(*verify, cwd=folder, stdout=asyncio.subprocess.DEVNULL)
    return {
        "kills": count,
        "answered": answered,
        "answered_a_second_before": len(older),
        "of_them_missing": len(older - names_of_rows(folder)),
        "rows": ledger_rows(folder),
        "verify": await verifying.wait(),
    }


def run(*, seconds: float = 0, count: int = 0) -> int:
    """One of the two, or both; 0 if all is well."""
    bad = False
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        if seconds:
            with postgres_server() as database:
                seen = asyncio.run(outage(database, Path(one), seconds))
            print(seen)
            bad = bool(seen["failures"]) or not seen["asked"] == seen["rows"] == seen["distinct_rows"]
        if count:
            seen = asyncio.run(kills(Path(other), count))
            print(seen)
            bad = bad or bool(seen["verify"] or seen["of_them_missing"])
    return int(bad)
