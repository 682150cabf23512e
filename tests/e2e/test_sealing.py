"""Sealed credentials from one start to the next: the right salt, the wrong one, another one, and a database that is away."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.process import Process, penstock, question, run
from tests.faulty import FaultyProxy
from tests.harness import FakeProvider, chat_answer, entry, whole
from tests.ports import free_port

SALT, OTHER, MASTER = "salz.9Rt4Km", "anderes.2Vb7Xc", "sk-herr-77aBc0011"
STORED = "sk-ablage-31pQz8"
ADMIN = {"authorization": f"Bearer {MASTER}"}
SALTED = {"LITELLM_SALT_KEY": SALT}


@pytest.fixture
def config(provider: FakeProvider, tmp_path: Path) -> str:
    provider.will(whole(chat_answer()))
    stored = {"model": "openai/gpt-4o", "litellm_credential_name": "ours"}
    models = [
        entry("plain", "openai/x", f"{provider.url}/v1"),
        {"model_name": "stored", "litellm_params": stored},
    ]
    written = {"model_list": models, "general_settings": {"master_key": MASTER}}
    (tmp_path / "config.yaml").write_text(json.dumps(written))
    return "config.yaml"


async def store(process: Process, provider: FakeProvider, name: str = "ours") -> None:
    values = {"api_key": STORED, "api_base": f"{provider.url}/v1"}
    made = {"credential_name": name, "credential_values": values}
    assert (await process.post("/credentials", made, headers=ADMIN)).status == 200


async def ask(process: Process, model: str = "stored") -> int:
    body = question(model, stream=False)
    return (await process.post("/v1/chat/completions", body, headers=ADMIN)).status


async def refused(folder: Path, config: str, environ: Mapping[str, str]) -> str:
    """The one line of a start that is refused."""
    async with asyncio.timeout(30):
        code, _, err = await run(
            "--config", config, "--port", str(free_port()), folder=folder, environ=environ
        )
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("penstock:")]
    return line


@pytest.mark.rows("A4")
async def test_the_salt_decides(provider: FakeProvider, tmp_path: Path, config: str) -> None:
    """Sealed under one salt: another, or none, refuses the start with one line; a rotation moves all, and the new one starts."""
    async with penstock("--config", config, folder=tmp_path, environ=SALTED) as process:
        await store(process, provider)
        await store(process, provider, "second")
        assert await ask(process) == 404
    async with penstock("--config", config, folder=tmp_path, environ=SALTED) as process:
        assert await ask(process) == 200
    assert provider.requests[-1].headers["authorization"] == f"Bearer {STORED}"

    for environ in ({"LITELLM_SALT_KEY": OTHER}, {}):
        line = await refused(tmp_path, config, environ)
        assert "2 named credentials in " in line
        assert "cannot be opened with this LITELLM_SALT_KEY" in line
        assert not any(secret in line for secret in (SALT, OTHER, MASTER, STORED))

    salts = {"OLD_SALT": SALT, "NEW_SALT": OTHER}
    code, out, err = await run(
        "rotate-salt", "--from-env", "OLD_SALT", "--to-env", "NEW_SALT", folder=tmp_path, environ=salts
    )
    assert (code, err) == (0, "")
    assert out.startswith("2 of 2 named credentials sealed")
    assert "with this LITELLM_SALT_KEY" in await refused(tmp_path, config, SALTED)
    async with penstock("--config", config, folder=tmp_path, environ={"LITELLM_SALT_KEY": OTHER}) as process:
        assert await ask(process) == 200


async def test_a_reload_reads_them(provider: FakeProvider, tmp_path: Path, config: str) -> None:
    """A credential that was stored, or deleted, meanwhile holds from the next reload on."""
    async with penstock("--config", config, folder=tmp_path, environ=SALTED) as process:
        await store(process, provider)
        assert await ask(process) == 404
        assert (await process.post("/config/reload", {}, headers=ADMIN)).status == 200
        assert await ask(process) == 200
        gone = f"{process.url}/credentials/ours"
        async with aiohttp.ClientSession() as session, session.delete(gone, headers=ADMIN) as answer:
            assert answer.status == 200
        assert (await process.post("/config/reload", {}, headers=ADMIN)).status == 200
        assert await ask(process) == 404


async def test_killed_while_it_rotates(provider: FakeProvider, tmp_path: Path, config: str) -> None:
    """A rotation that is killed in its transaction has changed nothing: the old salt starts, and a second run goes through."""
    async with penstock("--config", config, folder=tmp_path, environ=SALTED) as process:
        for number in range(20):
            await store(process, provider, f"c{number:02}")
    file = tmp_path / "data" / "penstock.db"
    flags = ("rotate-salt", "--to-env", "NEW_SALT")
    salts = {**SALTED, "NEW_SALT": OTHER}
    with closing(sqlite3.connect(file, isolation_level=None, timeout=0)) as db:
        before = db.execute("SELECT * FROM credential ORDER BY id").fetchall()
        # At the twelfth row it does not come any further.
        endless = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0"
        )
        db.execute(f"CREATE VIEW endless AS {endless}")
        at = "BEFORE UPDATE ON credential WHEN new.name = 'c11'"
        db.execute(f"CREATE TRIGGER stop {at} BEGIN SELECT * FROM endless; END")
        rotating = asyncio.get_running_loop().create_task(run(*flags, folder=tmp_path, environ=salts))
        while not is_locked(db):
            await asyncio.sleep(0.01)
        rotating.cancel()  # kills the process
        with suppress(asyncio.CancelledError):
            await rotating
        assert db.execute("SELECT * FROM credential ORDER BY id").fetchall() == before
        db.execute("DROP TRIGGER stop")
        db.execute("DROP VIEW endless")
    code, out, _ = await run(*flags, folder=tmp_path, environ=salts)
    assert (code, out[:8]) == (0, "20 of 20")


def is_locked(db: sqlite3.Connection) -> bool:
    """Somebody is writing."""
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    db.execute("ROLLBACK")
    return False


async def test_one_that_was_tampered_with(provider: FakeProvider, tmp_path: Path, config: str) -> None:
    """The entry that names it is off and says why, the log too; all others are served."""
    async with penstock("--config", config, folder=tmp_path, environ=SALTED) as process:
        await store(process, provider)
    with closing(sqlite3.connect(tmp_path / "data" / "penstock.db")) as db, db:
        ((content,),) = db.execute("SELECT content FROM credential").fetchall()
        row = json.loads(content)
        row["values"]["api_key"] = row["values"]["api_base"]
        db.execute("UPDATE credential SET content = ?", (json.dumps(row).encode(),))
    async with penstock("--config", config, folder=tmp_path, environ=SALTED) as process:
        await process.logged("the credential 'ours' cannot be used: a sealed text was changed")
        assert (await ask(process), await ask(process, "plain")) == (404, 200)


async def test_a_database_that_is_away_at_the_start(
    provider: FakeProvider, tmp_path: Path, config: str, database_url: str
) -> None:
    """The gateway starts and serves what needs no credential; when the database is back it serves the rest. With another
    salt it says so loudly then, and serves on.
    """
    async with penstock(
        "--config", config, folder=tmp_path, environ={**SALTED, "DATABASE_URL": database_url}
    ) as process:
        await store(process, provider)
    for salt, served in ((SALT, True), (OTHER, False)):
        proxy = FaultyProxy(database_url)
        await proxy.start()
        proxy.refuse()
        environ = {"LITELLM_SALT_KEY": salt, "DATABASE_URL": proxy.url}
        async with penstock("--config", config, folder=tmp_path, environ=environ) as process:
            await process.logged("the named credentials cannot be read yet")
            assert (await ask(process), await ask(process, "plain")) == (404, 200)
            proxy.heal()
            await process.logged("can be read now" if served else "1 named credential in ")
            assert await ask(process) == (200 if served else 404)
            assert await ask(process, "plain") == 200
            errors = re.findall("cannot be opened with this LITELLM_SALT_KEY", process.log)
            assert len(errors) == (0 if served else 1)
        await proxy.close()
