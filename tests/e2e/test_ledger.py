"""What is left of the books when a process is killed, and what becomes of them at the next start."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.process import Process, penstock, question, run
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


async def journaled(folder: Path, count: int) -> None:
    """Wait until the journal holds this many rows."""
    while sum(file.read_bytes().count(b"/v1/chat/completions") for file in files(folder)) < count:
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
