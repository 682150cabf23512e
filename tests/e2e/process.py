"""The gateway as a process of its own, as an operator starts it: command line, environment, working directory, signals.

    async with penstock("--config", "config.yaml", folder=tmp_path) as process:
        answer = await process.get("/health")
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0

It gets the environment that it is given and nothing else, and writes its output into files.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.ports import free_port

COMMAND = str(Path(sys.executable).parent / "penstock")


def environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """A bare environment, with a data folder."""
    return {"PATH": os.environ.get("PATH", ""), "PENSTOCK_DATA_DIR": str(folder / "data"), **more}


class Process:
    """A running `penstock`."""

    def __init__(
        self, folder: Path, process: asyncio.subprocess.Process, session: aiohttp.ClientSession
    ) -> None:
        self._folder = folder
        self._process = process
        self._session = session
        self._streams: list[aiohttp.ClientResponse] = []
        self.url = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def out(self) -> str:
        """What it printed until now."""
        return (self._folder / "stdout").read_text()

    @property
    def log(self) -> str:
        """What it logged until now."""
        return (self._folder / "stderr").read_text()

    def rows(self) -> list[sqlite3.Row]:
        """The rows of the ledger's file, oldest first."""
        with contextlib.closing(sqlite3.connect(self._folder / "data" / "penstock.db")) as db:
            db.row_factory = sqlite3.Row
            return db.execute("SELECT * FROM ledger ORDER BY started_at").fetchall()

    async def rows_written(self, count: int) -> list[sqlite3.Row]:
        """Wait until the file has `count` rows."""
        while len(rows := self.rows()) < count:
            await asyncio.sleep(0.02)
        return rows

    async def get(self, path: str, **more: Any) -> aiohttp.ClientResponse:
        """GET and read the whole answer."""
        response = await self._session.get(self.url + path, **more)
        await response.read()
        return response

    async def post(self, path: str, body: Any, **more: Any) -> aiohttp.ClientResponse:
        """POST JSON and read the whole answer."""
        response = await self._session.post(self.url + path, data=json.dumps(body), **more)
        await response.read()
        return response

    async def stream(self, model: str) -> aiohttp.ClientResponse:
        """Ask for a stream; the answer is returned when its head is there, and closed with the process."""
        answer = await self._session.post(self.url + "/v1/chat/completions", data=json.dumps(question(model)))
        self._streams.append(answer)
        return answer

    async def answers(self) -> None:
        """Wait until `/health` answers and the banner is out. Raises AssertionError if the process ends before."""
        answered = False
        while not (answered and self.out.endswith("\n\n")):
            assert self._process.returncode is None, f"exit code {self._process.returncode}: {self.log}"
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with self._session.get(self.url + "/health"):
                    answered = True
            await asyncio.sleep(0.01)

    def close_streams(self) -> None:
        for answer in self._streams:
            answer.close()

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        return await self._process.wait()

    async def logged(self, words: str) -> None:
        """Wait until these words are in the log."""
        while words not in self.log:
            assert self._process.returncode is None, self.log
            await asyncio.sleep(0.01)


def question(model: str, *, stream: bool = True) -> dict[str, Any]:
    """A request's body."""
    return {
        "model": model,
        "stream": stream,
        "messages": [{"role": "user", "content": "What is a penstock?"}],
    }


@contextlib.asynccontextmanager
async def penstock(
    *flags: str,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
) -> AsyncIterator[Process]:
    """A gateway that listens. `port` None: a free one, told by a flag; else the flags or the environment tell it."""
    if port is None:
        port = free_port(host)
        flags = (*flags, "--host", host, "--port", str(port))
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        started = await asyncio.create_subprocess_exec(
            COMMAND, *flags, cwd=folder, env=environment(folder, environ or {}), stdout=out, stderr=err
        )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        process = Process(folder, started, session)
        process.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        try:
            await process.answers()
            yield process
        finally:
            process.close_streams()
            if started.returncode is None:
                started.kill()
            await started.wait()


async def run(*flags: str, folder: Path, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """A command that ends by itself: its exit code, what it printed, what it said on stderr."""
    started = await asyncio.create_subprocess_exec(
        COMMAND,
        *flags,
        cwd=folder,
        env=environment(folder, environ or {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await started.communicate()
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()
    return started.returncode or 0, out.decode(), err.decode()
