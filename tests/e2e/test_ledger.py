"""What is left of the books when a process is killed, and what becomes of them at the next start.

Rows F1 to F8 of the reliability catalogue and their tests are listed in `tests/README.md`.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from time import monotonic

import aiohttp
import pytest

from gateway.background.supervisor import spawn
from tests.e2e.process import Process, penstock, question, run
from tests.faulty import FaultyProxy
from tests.harness import FakeProvider, chat_events, entry, events

CONFIG = json.dumps(
    {
        "model_list": [
            {
                "model_name": "demo",
                "litellm_params": {
                    "model": "openai/gpt-4o",
                    "mock_response": "hi",
                    "input_cost_per_token": "0.000001",
                    "output_cost_per_token": "0.000001",
                },
            }
        ]
    }
)


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "config.yaml").write_text(CONFIG)
    return "config.yaml"


async def ask(process: Process, count: int) -> None:
    for _ in range(count):
        answer = await process.post("/v1/chat/completions", question("demo", stream=False))
        assert answer.status == 200


def files(folder: Path) -> list[Path]:
    return sorted((folder / "data").glob("journal/*/*"))


def held(folder: Path) -> int:
    """How many rows the journal holds."""
    return sum(file.read_bytes().count(b"/v1/chat/completions") for file in files(folder))


async def journaled(folder: Path, count: int) -> None:
    """Wait until the journal holds this many rows."""
    while held(folder) < count:
        await asyncio.sleep(0.01)


async def test_a_kill_while_the_store_is_locked(tmp_path: Path, config: str) -> None:
    """Somebody holds the file; requests go on. After kill -9 the next start writes every row, once."""
    async with penstock("--config", config, folder=tmp_path) as process:
        await ask(process, 3)
        await process.rows_written(3)
        assert files(tmp_path) == []
        with closing(sqlite3.connect(tmp_path / "data" / "penstock.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await ask(process, 20)
            await journaled(tmp_path, 20)
            process.send_signal(signal.SIGKILL)
            assert await process.ended() == -signal.SIGKILL
    async with penstock("--config", config, folder=tmp_path) as process:
        rows = await process.rows_written(23)
        assert len({row["id"] for row in rows}) == len(rows) == 23
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert not (tmp_path / "data" / "journal").exists()
    assert (await run("ledger", "verify", folder=tmp_path))[0] == 0


async def test_a_kill_loses_what_is_younger_than_the_group_commit(tmp_path: Path, config: str) -> None:
    """Rows that were answered a while before a kill -9 are all there."""
    async with penstock("--config", config, folder=tmp_path) as process:
        await ask(process, 30)
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        await process.ended()
        assert len(process.rows()) == 30


async def test_sigterm_while_the_store_is_locked(tmp_path: Path, config: str) -> None:
    """A peaceful end without a store: the rows are in the journal, the log says so, and the next start has them."""
    async with penstock("--config", config, folder=tmp_path) as process:
        with closing(sqlite3.connect(tmp_path / "data" / "penstock.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await ask(process, 5)
            process.send_signal(signal.SIGTERM)
            assert await process.ended() == 0
        assert "5 ledger rows are in the journal" in process.log
    async with penstock("--config", config, folder=tmp_path) as process:
        assert len(await process.rows_written(5)) == 5


async def test_a_database_that_is_away(tmp_path: Path, config: str, database_url: str) -> None:
    """Postgres is not there: requests are answered and kept, over a kill -9 too; when it is there, it gets them all, once."""
    nowhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    async with penstock("--config", config, folder=tmp_path, environ=nowhere) as process:
        await ask(process, 10)
        await journaled(tmp_path, 10)
        process.send_signal(signal.SIGKILL)
        await process.ended()
    async with penstock("--config", config, folder=tmp_path, environ=nowhere) as process:
        await ask(process, 5)
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
    there = {"DATABASE_URL": database_url}
    async with penstock("--config", config, folder=tmp_path, environ=there) as process:
        while len(await (await process.get("/spend/logs")).json()) < 15:
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert files(tmp_path) == []
    code, out, err = await run("ledger", "verify", folder=tmp_path, environ=there)
    assert (code, out.splitlines()[0].split(",")[0]) == (0, "15 rows"), err
    code, out, err = await run("ledger", "export", "--format", "jsonl", folder=tmp_path, environ=there)
    assert len({json.loads(line)["id"] for line in out.splitlines()}) == 15, err


async def test_a_journal_that_cannot_be_written(tmp_path: Path, config: str) -> None:
    """Neither store nor disk: requests are served, `/health` and the metrics say what is wrong."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "journal").write_text("in the way")
    nowhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    async with penstock("--config", config, folder=tmp_path, environ=nowhere) as process:
        await ask(process, 1)
        await process.logged("JOURNAL CANNOT BE WRITTEN")
        health = await (await process.get("/health")).json()
        assert (health["status"], health["ledger"]) == ("healthy", "degraded")
        metrics = await (await process.get("/metrics")).text()
        assert "penstock_ledger_journal_failing 1" in metrics
        await ask(process, 1)


@pytest.mark.parametrize("policy", ["charge", "release"])
async def test_requests_whose_end_nobody_saw(provider: FakeProvider, tmp_path: Path, policy: str) -> None:
    """A budget binds a stream that is under way at a kill -9: the next start enters what was reserved, in one row."""
    provider.will(events(chat_events("one", done=False), end="hang"))
    costs = {"input_cost_per_token": "0.000001", "output_cost_per_token": "0.000001"}
    more = {
        "virtual_keys": [{"key": "sk-a-key-with-a-budget", "key_alias": "bot", "max_budget": 5}],
        "general_settings": {"on_orphan": policy},
    }
    models = [entry("gpt-4o", "openai/gpt-4o", f"{provider.url}/v1", **costs)]
    (tmp_path / "config.yaml").write_text(json.dumps({"model_list": models, **more}))
    async with penstock("--config", "config.yaml", folder=tmp_path) as process:
        body = {**question("gpt-4o"), "max_tokens": 1000}
        headers = {"authorization": "Bearer sk-a-key-with-a-budget"}
        asked = asyncio.get_running_loop().create_task(
            process.post("/v1/chat/completions", body, headers=headers)
        )
        await provider.asked()
        while not files(tmp_path):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        await process.ended()
        await asyncio.wait([asked])
        assert asked.exception() is not None
        assert process.rows() == []
    async with penstock("--config", "config.yaml", folder=tmp_path) as process:
        (row,) = await process.rows_written(1)
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert len(process.rows()) == 1
    assert (row["status"], row["key_alias"]) == ("orphaned", "bot")
    assert row["cost_nano"] >= 1_000_000 if policy == "charge" else row["cost_nano"] == 0
    assert not (tmp_path / "data" / "journal").exists()
    assert (await run("ledger", "verify", folder=tmp_path))[0] == 0


# -- under load ------------------------------------------------------------------------------------------------------


class Load:
    """Requests one after the other from a few clients, until the process is gone or `stop`; when each was answered."""

    def __init__(self, process: Process, clients: int = 4) -> None:
        self._process = process
        self._going = True
        self.answered: list[float] = []
        self.refused = 0
        self._tasks = [spawn(self._ask(), name="load") for _ in range(clients)]

    async def _ask(self) -> None:
        while self._going:
            try:
                answer = await self._process.post("/v1/chat/completions", question("demo", stream=False))
            except aiohttp.ClientError:
                return
            if answer.status == 200:
                self.answered.append(monotonic())
            else:
                self.refused += 1

    async def reach(self, count: int) -> None:
        """Wait until so many requests are answered."""
        while len(self.answered) < count:
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._going = False
        await asyncio.wait(self._tasks)

    def older_than(self, moment: float) -> int:
        return sum(answered < moment for answered in self.answered)


async def agree(folder: Path, rows: int, environ: dict[str, str] | None = None) -> None:
    """Sums and rows agree, each row is there once, and so many there are."""
    code, out, err = await run("ledger", "verify", folder=folder, environ=environ)
    assert (code, out.splitlines()[0].split(",")[0]) == (0, f"{rows} rows"), (out, err)
    _, out, _ = await run("ledger", "export", "--format", "jsonl", folder=folder, environ=environ)
    assert len({json.loads(line)["id"] for line in out.splitlines()}) == rows


async def test_kills_under_load(tmp_path: Path, config: str) -> None:
    """Killed three times at random moments under load, the ledger has all that was answered over a second before."""
    chance = random.Random(5)
    older = answered = 0
    for _ in range(3):
        async with penstock("--config", config, folder=tmp_path) as process:
            load = Load(process)
            await load.reach(20)
            await asyncio.sleep(chance.uniform(1.1, 1.4))
            killed = monotonic()
            process.send_signal(signal.SIGKILL)
            await process.ended()
            await load.stop()
            older += load.older_than(killed - 1.0)
            answered += len(load.answered)
            assert load.refused == 0
    async with penstock("--config", config, folder=tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        rows = len(process.rows())
    # A client may not have read the answer to a request whose row is written: four of them, three times.
    assert older <= rows <= answered + 12
    await agree(tmp_path, rows)


async def test_two_processes_on_one_file(tmp_path: Path, config: str) -> None:
    """Two gateways share a file under load and one is killed: no client hears of it, and what both answered is there once."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text(CONFIG)
    same = {"PENSTOCK_DATA_DIR": str(tmp_path / "data")}
    async with (
        penstock("--config", config, folder=tmp_path) as one,
        penstock("--config", config, folder=tmp_path / "other", environ=same) as other,
    ):
        loads = [Load(process) for process in (one, other)]
        for load in loads:
            await load.reach(50)
        await loads[1].stop()
        await asyncio.sleep(0.5)
        other.send_signal(signal.SIGKILL)
        await other.ended()
        await loads[0].reach(len(loads[0].answered) + 50)
        await loads[0].stop()
        assert [load.refused for load in loads] == [0, 0]
        one.send_signal(signal.SIGTERM)
        assert await one.ended() == 0
        assert "locked" not in one.log + other.log
        answered = sum(len(load.answered) for load in loads)
    await agree(tmp_path, answered)


async def test_a_commit_that_nobody_knows_of(tmp_path: Path, config: str, database_url: str) -> None:
    """The answer to a commit is lost, and the process is killed before it can try again: the next start writes no row twice."""
    proxy = FaultyProxy(database_url)
    await proxy.start()
    through, there = {"DATABASE_URL": proxy.url}, {"DATABASE_URL": database_url}
    async with penstock("--config", config, folder=tmp_path, environ=through) as process:
        await ask(process, 1)
        asked = 1
        while "ledger rows wait" not in process.log:
            if (await (await process.get("/health")).json())["ledger_rows"]["waiting"]:
                await asyncio.sleep(0.02)
                continue
            before = held(tmp_path)
            proxy.lose_answer_to(b"COMMIT\0")  # the keys are read now and then: it may be theirs that is lost
            await ask(process, 10)
            asked += 10
        proxy.refuse()
        await ask(process, 5)
        await journaled(tmp_path, before + 15)
        process.send_signal(signal.SIGKILL)
        await process.ended()
    await proxy.close()
    async with penstock("--config", config, folder=tmp_path, environ=there) as process:
        while len(await (await process.get("/spend/logs")).json()) < asked + 5:
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert files(tmp_path) == []
    await agree(tmp_path, asked + 5, there)


async def test_a_disk_that_is_full_for_a_while(tmp_path: Path, config: str) -> None:
    """No file can grow: requests are answered and `/health` says what is wrong. When there is room, every row is written."""
    async with penstock("--config", config, folder=tmp_path) as process:
        await ask(process, 3)
        await process.rows_written(3)
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, hard))
        await ask(process, 20)
        while (health := await (await process.get("/health")).json())["ledger"] != "degraded":
            await asyncio.sleep(0.02)
        assert (health["status"], health["ledger_rows"]["waiting"]) == ("healthy", 20)
        metrics = await (await process.get("/metrics")).text()
        assert "penstock_ledger_journal_failing 1" in metrics
        assert "penstock_ledger_dropped_total 0" in metrics
        await ask(process, 2)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert len(await process.rows_written(25)) == 25
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
    await agree(tmp_path, 25)


async def test_a_journal_that_was_damaged(tmp_path: Path, config: str) -> None:
    """Bytes in the middle of a journal change while nobody runs: what can be read is written, the rest is kept and told."""
    async with penstock("--config", config, folder=tmp_path) as process:
        await ask(process, 1)
        await process.rows_written(1)
        with closing(sqlite3.connect(tmp_path / "data" / "penstock.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for count in (5, 10, 15):
                await ask(process, 5)
                await journaled(tmp_path, count)
            process.send_signal(signal.SIGKILL)
            await process.ended()
    (segment,) = [file for file in files(tmp_path) if b"/v1/chat" in file.read_bytes()]
    content = bytearray(segment.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(20)
    segment.write_bytes(content)
    async with penstock("--config", config, folder=tmp_path) as process:
        await ask(process, 1)
        await process.logged("is damaged")
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        rows = len(process.rows())
    assert 2 + 5 <= rows < 17
    assert [file.suffix for file in files(tmp_path)] == [".damaged"]
    await agree(tmp_path, rows)
