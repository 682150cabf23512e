"""What is left of the books when a process is killed, and what `penstock ledger` says of them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.process import COMMAND, Process, penstock, question, run

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


# -- the commands ----------------------------------------------------------------------------------------------------


async def test_verify_and_export(tmp_path: Path, config: str) -> None:
    """Both read the file while the gateway runs. A total that does not agree is exit code 1."""
    async with penstock("--config", config, folder=tmp_path) as process:
        await ask(process, 4)
        await process.rows_written(4)
        code, out, err = await run("ledger", "verify", folder=tmp_path)
        assert (code, err) == (0, "")
        assert out.endswith("rows and totals agree\n")
        _, out, _ = await run("ledger", "export", folder=tmp_path)
        assert [row["model_group"] for row in csv.DictReader(io.StringIO(out))] == ["demo"] * 4
        _, out, _ = await run(
            "ledger", "export", "--since", "2100-01-01", "--format", "jsonl", folder=tmp_path
        )
        assert out == ""
        _, out, _ = await run("ledger", "export", "--key", "sk-nobody", "--format", "jsonl", folder=tmp_path)
        assert out == ""
    with closing(sqlite3.connect(tmp_path / "data" / "penstock.db")) as db, db:
        db.execute("UPDATE day_total SET requests = 5")
    code, out, err = await run("ledger", "verify", folder=tmp_path)
    assert code == 1
    assert "requests of everything: the total says 5, the rows add up to 4" in out


async def test_commands_that_cannot_be_carried_out(tmp_path: Path) -> None:
    """No ledger, no database, no such date: one line, and nothing is made."""
    code, _, err = await run("ledger", "verify", folder=tmp_path)
    assert (code, "there is no ledger" in err) == (1, True)
    assert not (tmp_path / "data").exists()
    nowhere = {"DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:1/nothing"}
    code, _, err = await run("ledger", "export", folder=tmp_path, environ=nowhere)
    assert (code, "secret" in err) == (1, False)
    code, _, err = await run("ledger", "export", "--since", "yesterday", folder=tmp_path)
    assert (code, "not a date" in err) == (2, True)
    for words in (("ledger", "--help"), ("ledger", "verify", "--help"), ("ledger", "export", "--help")):
        code, out, _ = await run(*words, folder=tmp_path)
        assert (code, out.startswith("usage: penstock ledger")) == (0, True)


async def test_a_reader_that_leaves(tmp_path: Path, config: str) -> None:
    """`penstock ledger export | head` ends as a command in a pipe should."""
    async with penstock("--config", config, folder=tmp_path) as process:
        await ask(process, 30)
        await process.rows_written(30)
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f"PENSTOCK_DATA_DIR={tmp_path}/data {COMMAND} ledger export | head -n 1",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await shell.communicate()
    assert (out.decode().startswith("started,cost,id,"), err) == (True, b"")
