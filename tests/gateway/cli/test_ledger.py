"""`penstock ledger`, as an operator calls it: beside a gateway that runs, in a pipe, without a ledger."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
import time
from argparse import Namespace
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from gateway.cli import main
from gateway.cli.ledger import _export, _prune, _verify
from gateway.keyfields import digest_of
from gateway.state.keys import KeyRow
from gateway.state.pruning import DAY, POSTGRES_LOCK
from gateway.state.records import LedgerQuery
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords
from tests.e2e.process import COMMAND, Process, penstock, question, run
from tests.gateway.rows import row
from tests.harness import patient_postgres


@pytest.fixture
def config(tmp_path: Path) -> str:
    params = {"model": "openai/gpt-4o", "mock_response": "hi"}
    config = {"model_list": [{"model_name": "demo", "litellm_params": params}]}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    return "config.yaml"


async def ask(process: Process, count: int) -> None:
    for _ in range(count):
        answer = await process.post("/v1/chat/completions", question("demo", stream=False))
        assert answer.status == 200


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


async def test_whose_rows_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A key is found by itself or its digest, also the successor of another one, and one of a configuration, called anything."""
    records, first, second = MemoryRecords(), digest_of("sk-first"), digest_of("sk-second")
    await records.put_key(KeyRow(digest=first, name="sk-...irst"))
    await records.put_key(KeyRow(digest=second, name="sk-...cond", account=first))
    await records.append([row("a", key_digest=first), row("b", key_digest=digest_of("configured"))])
    named = {first: "a", "sk-first": "a", second: "a", "sk-second": "a", "configured": "b"}
    for key, name in {**named, digest_of("configured"): "b", "nobody": ""}.items():
        asked = Namespace(key=key, since=None, until=None, format="jsonl")
        assert await _export(records, asked) == 0
        assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == list(name)
        assert await _verify(records, asked) == 0
        assert capsys.readouterr().out.startswith(f"{len(name)} rows")


async def test_prune(tmp_path: Path) -> None:
    """Old days go beside a gateway that runs; a dry run only counts; what was spent stays, and the sums agree."""
    (tmp_path / "data").mkdir()
    now = time.time()
    store = SqliteRecords(tmp_path / "data" / "penstock.db")
    await store.append([row(f"r{n:04}", started_at=now - n * DAY / 10, cost_nano=7) for n in range(1200)])
    await store.close()
    prune = ("ledger", "prune", "--older-than", "30d")
    async with penstock(folder=tmp_path) as process:
        spent = await (await process.get("/global/spend")).json()
        code, told, err = await run(*prune, "--dry-run", folder=tmp_path)
        assert (code, err, len(process.rows())) == (0, "", 1200)
        code, out, err = await run(*prune, folder=tmp_path)
        count = 1200 - len(process.rows())
        assert (code, err, 890 <= count <= 900) == (0, "", True)
        assert (told.split()[0], out.split()[0]) == (str(count), str(count))
        assert (
            await (await process.get("/global/spend")).json()
            == spent
            == {"spend": 8.4e-6, "max_budget": None}
        )
    code, out, err = await run("ledger", "verify", folder=tmp_path)
    assert (code, f"1200 rows, $0.000008400, 0 without a price, {count} of them pruned" in out) == (
        0,
        True,
    ), err
    code, out, _ = await run(*prune, folder=tmp_path)
    assert (code, out.split()[0]) == (0, "0")
    for span in ("soon", "0d", "90", "999999999mo"):
        code, _, err = await run("ledger", "prune", "--older-than", span, folder=tmp_path)
        assert (code, "not a span like 90d" in err) == (2, True)


async def test_prune_beside_another(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It says that it is not alone, waits for its turns, and what it says it deleted is gone."""
    records = patient_postgres(database_url)
    await records.append([row(f"r{n}", started_at=time.time() - 60 * DAY) for n in range(5)])
    connection = await asyncpg.connect(database_url)
    said = ""
    async with connection.transaction():
        await connection.fetchval(POSTGRES_LOCK)
        pruning = asyncio.get_running_loop().create_task(
            _prune(records, Namespace(older_than=30 * DAY, dry_run=False))
        )
        while "take turns" not in said:
            await asyncio.sleep(0.01)
            assert not pruning.done()
            said += capsys.readouterr().err
    assert await pruning == 0
    out, err = capsys.readouterr()
    assert (out.split()[0], err, said.count("take turns")) == ("5", "", 1)
    assert await records.rows(LedgerQuery()) == []
    await connection.close()
    await records.close()


async def test_commands_that_cannot_be_carried_out(tmp_path: Path) -> None:
    """No ledger, no database, no such date: one line, and nothing is made."""
    code, _, err = await run("ledger", "verify", folder=tmp_path)
    assert (code, "there is no store" in err) == (1, True)
    assert not (tmp_path / "data").exists()
    nowhere = {"DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:1/nothing"}
    code, _, err = await run("ledger", "export", folder=tmp_path, environ=nowhere)
    assert (code, "secret" in err) == (1, False)
    code, _, err = await run("ledger", "export", "--since", "yesterday", folder=tmp_path)
    assert (code, "not a date" in err) == (2, True)
    for words in (
        ("ledger", "--help"),
        ("ledger", "verify", "--help"),
        ("ledger", "export", "--help"),
        ("ledger", "prune", "--help"),
    ):
        code, out, _ = await run(*words, folder=tmp_path)
        assert (code, out.startswith("usage: penstock ledger")) == (0, True)


def test_a_key_that_no_request_can_bring(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal may give other bytes than UTF-8."""
    with pytest.raises(SystemExit, match="2"):
        main(["ledger", "export", "--key", "sk-\udcff"])
    assert "must be UTF-8" in capsys.readouterr().err


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
