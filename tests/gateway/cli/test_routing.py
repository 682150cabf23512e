"""`penstock explain` and `penstock simulate`, as an operator calls them."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.books import json_line
from gateway.cli import main
from gateway.cli.routing import explained
from gateway.keyfields import digest_of
from gateway.state.keys import KeyRow
from gateway.state.records import LedgerRow, Records
from gateway.state.records_sqlite import SqliteRecords
from tests.e2e.process import penstock, question, run
from tests.gateway.rows import NOON, failure, row
from tests.harness import patient_postgres

CONFIG = """\
model_list:
  - model_name: smart
    litellm_params: { model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEY, rpm: 60 }
  - model_name: smart
    litellm_params: { model: openai/gpt-4o-mini, order: 2 }
  - model_name: demo
    litellm_params: { model: openai/demo, mock_response: hi }
  - model_name: gone
    litellm_params: { model: anthropic/claude-sonnet-4-5 }
general_settings: { rpm_limit: 40 }
router_settings: { fallbacks: [{ smart: [demo] }] }
virtual_keys:
  - { key: sk-vqzj18vbnmkliu, key_alias: bot, models: [smart], max_budget: 2, budget_duration: 1d }
"""
CHEAP = """\
model_list:
  - model_name: smart
    litellm_params: { model: openai/gpt-4o-mini, api_key: zzq-7741-qwx }
general_settings: { rpm_limit: 2 }
"""
SECRET = "sk-proj-zqx8412vbnm"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("LITELLM_MASTER_KEY", "CONFIG_FILE_PATH", "ANTHROPIC_API_KEY", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "cheap.yaml").write_text(CHEAP)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    told = capsys.readouterr()
    assert (told.err, SECRET in told.out) == ("", False)
    return told.out


def data(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(said(capsys, *words, "--json"))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 1
    return capsys.readouterr().err


# -- explain ---------------------------------------------------------------------------------------------------------


def test_one_model_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Its deployments in order with shares, prices, the names of their keys and places, then what holds for all of them."""
    first, second, third, *rest = said(capsys, "explain", "--model", "smart").splitlines()
    assert first == "smart: a name of model_list, simple-shuffle"
    assert second.split() == [
        *(
            "100%",
            "openai/gpt-4o",
            "https://api.openai.com",
            "$2.5",
            "/",
            "$10",
            "OPENAI_API_KEY",
            "rpm",
            "60",
        ),
        "(config.yaml:2:5)",
    ]
    assert third.split()[:2] == ["-", "openai/gpt-4o-mini"]
    assert third.endswith("OPENAI_API_KEY  order 2  not now: order 2 comes later  (config.yaml:4:5)")
    assert second.index("https") == third.index("https")
    assert rest == ["  retries: 2", "  limit: rpm of gateway, 40", "  fallbacks: demo"]


def test_prices_that_are_not_for_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is paid by the second or the picture is not said to have no price."""
    models = {"sound": "openai/whisper-1", "new": "openai/nobody-knows-it"}
    entries = [{"model_name": name, "litellm_params": {"model": one}} for name, one in models.items()]
    (folder / "config.yaml").write_text(json.dumps({"model_list": entries}))
    assert "  not by the token  " in said(capsys, "explain", "--model", "sound")
    assert "  no price known  " in said(capsys, "explain", "--model", "new")


def test_what_is_asked_although_it_is_full() -> None:
    """A share beside a reason is one all the same, and how long is waited stands before the retries."""
    full = {"deployment": "openai/a", "share": 1.0, "why_not": "it has 3 of 3 parallel requests"}
    told = {
        "model": "m",
        "found": True,
        "as": "a name",
        "waits": 30.0,
        "deployments": [full],
        "retries": {"most": 2},
    }
    _, second, *rest = explained(told)
    assert second.split("  ")[1:] == ["100%", "openai/a", "no price known", f"although {full['why_not']}"]
    assert rest == ["  waits for room: 30 s at most", "  retries: 2"]


def test_as_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    """With a key's alias or the key itself: whether it may, and its own limits; one that the file does not have needs --url."""
    for name in ("bot", "sk-vqzj18vbnmkliu"):
        told = said(capsys, "explain", "-m", "smart", "--key", name)
        assert "the key bot may use it" in told
        assert "limit: budget of Key=bot, $2 per 1d" in told
    assert "the key bot may not use it" in said(capsys, "explain", "-m", "demo", "--key", "bot")
    assert "need --url" in refused(capsys, "explain", "--key", "nobody")


def test_as_a_key_that_begins_with_anything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key of a configuration need not begin as those do that are handed out."""
    (folder / "config.yaml").write_text(CONFIG.replace("sk-vqzj18vbnmkliu", "vqzj18vbnmkliu77"))
    told = said(capsys, "explain", "-m", "smart", "--key", "vqzj18vbnmkliu77")
    assert "the key bot may use it" in told


def test_every_model_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a name: all of them, what is off and why."""
    told = said(capsys, "explain")
    assert "demo: a name of model_list" in told
    assert "off: gone: no key: set api_key or ANTHROPIC_API_KEY (config.yaml:8:5)" in told
    assert [one["model"] for one in data(capsys, "explain")["models"]] == ["smart", "demo"]
    assert said(capsys, "explain", "-m", "nothing") == "nothing: no such model\n"


async def test_a_running_gateway_is_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --url it says what traffic has shown, and knows keys that were handed out; a key never stands in the URL. What it
    answered can be replayed while it runs, from its ledger or from an export.
    """
    environ = {"LITELLM_MASTER_KEY": "sk-mzqster-8841xw", "OPENAI_API_KEY": SECRET}
    async with penstock("--config", "config.yaml", folder=folder, environ=environ) as process:
        headers = {"authorization": "Bearer sk-mzqster-8841xw"}
        answer = await process.post("/v1/chat/completions", question("demo", stream=False), headers=headers)
        assert answer.status == 200
        made = await process.post("/key/generate", {"key_alias": "new", "models": ["demo"]}, headers=headers)
        key = (await made.json())["key"]
        await process.rows_written(1)
        for name in ("new", key):
            words = ("explain", "-m", "demo", "--key", name, "--url", process.url)
            code, out, err = await run(*words, folder=folder, environ=environ)
            assert (code, err) == (0, "")
            assert "the key new may use it" in out
            assert "1 ok, 0 failed" in out
        assert key not in process.log
        _, export, _ = await run("ledger", "export", "--format", "jsonl", folder=folder)
        (folder / "export.jsonl").write_text(export)
        for ledger_of in ((), ("--ledger", "export.jsonl")):
            words = ("simulate", "-c", "config.yaml", *ledger_of, "--json")
            code, out, err = await run(*words, folder=folder, environ=environ)
            assert (code, err) == (0, "")
            told = json.loads(out)
            assert told["models"]["demo"]["config.yaml"]["answered"] == told["rows"] == 1
        code, _, err = await run("explain", "--url", process.url, folder=folder)
        assert (code, "answered 401" in err) == (1, True)


# -- simulate --------------------------------------------------------------------------------------------------------


def ledger(path: Path) -> list[str]:
    """A ledger of three requests, and its lines."""
    rows = [
        row("a", started_at=NOON),
        row("b", started_at=NOON + 1),
        failure("c", started_at=NOON + 2, reason="model_not_found", attempts=(), model_requested="other"),
        row("d", started_at=NOON + 3),
    ]

    path.parent.mkdir(exist_ok=True)
    asyncio.run(_written(SqliteRecords(path), rows))
    return [json_line(one) for one in rows]


async def _written(records: Records, rows: Sequence[LedgerRow]) -> None:
    await records.append(rows)
    await records.close()


def test_a_ledger_is_replayed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cost, refusals and fallbacks of the ledger and of each configuration stand side by side, by model and in all."""
    ledger(folder / "data" / "penstock.db")
    told = data(capsys, "simulate", "--config", "cheap.yaml", "--against", "config.yaml")
    assert told["rows"] == 4
    total = told["total"]
    assert list(total) == ["recorded", "config.yaml", "cheap.yaml"]
    assert total["recorded"]["cost"] == round(3 * 0.123456789, 9)
    assert (total["cheap.yaml"]["answered"], total["cheap.yaml"]["refused"]) == (2, 1)
    assert total["cheap.yaml"]["cost"] < total["config.yaml"]["cost"]
    assert {side: one["not_found"] for side, one in told["models"]["other"].items()} == dict.fromkeys(
        total, 1
    )
    assert told["reasons"]["cheap.yaml"] == {"model_not_found": 1, "rate_limited": 1}
    lines = said(capsys, "simulate", "-c", "cheap.yaml").splitlines()
    assert lines[0] == "4 requests from 2026-11-21T12:00:00+00:00 to 2026-11-21T12:00:03+00:00"
    assert any(line.split()[:3] == ["all", "recorded", "3"] for line in lines)
    assert "cheap.yaml: 1 rate_limited" in lines


def test_ledgers_of_other_kinds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of SQLite and the lines of an export, in whatever order, give the same; --since and --limit choose among them."""
    lines = ledger(folder / "old.db")
    (folder / "export.jsonl").write_text("".join([lines[2], *lines[::-1]]))
    whole = data(capsys, "simulate", "-c", "cheap.yaml", "--ledger", "old.db")
    assert whole["rows"] == 4
    assert data(capsys, "simulate", "-c", "cheap.yaml", "--ledger", "export.jsonl") == whole
    words = ("simulate", "-c", "cheap.yaml", "--ledger", "old.db")
    assert data(capsys, *words, "--since", "2026-11-21T12:00:01", "--limit", "2")["rows"] == 2
    assert said(capsys, *words, "--since", "2100-01-01") == "the ledger has no rows of that time\n"


def test_a_ledger_in_postgres(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The URL of a database comes from the variable that is named, and its rows and keys count."""
    digest = digest_of("sk-kvzj18vbnmkliu")
    key = KeyRow(digest=digest, name="sk-...kliu", alias="bot", models=("other",))
    rows = [
        row("a", started_at=NOON),
        row("b", started_at=NOON + 90_000, key_digest=digest, caller_kind="key"),
    ]

    async def keep() -> None:
        records = patient_postgres(database_url)
        assert await records.put_key(key)
        await _written(records, rows)

    asyncio.run(keep())
    monkeypatch.setenv("BOOKS", database_url)
    told = data(capsys, "simulate", "-c", "cheap.yaml", "--ledger", "BOOKS")
    assert (told["rows"], told["reasons"]["cheap.yaml"]) == (2, {"model_denied": 1})


class _Broken:
    """Stands in for a disk that fails at the first look."""

    def __len__(self) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_what_cannot_be_replayed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No ledger, no such file, lines that are none, a broken configuration, a database that is not there: one line each."""
    words = ("simulate", "--config", "cheap.yaml")
    assert "there is no store" in refused(capsys, *words)
    assert "neither a file nor a variable" in refused(capsys, *words, "--ledger", "nothing")
    assert "cannot be read" in refused(capsys, *words, "--ledger", "x" * 300)
    (folder / "bad.jsonl").write_text("no\n")
    with monkeypatch.context() as patch:
        patch.setattr("gateway.cli.routing._SQLITE", _Broken())
        assert "bad.jsonl cannot be read" in refused(capsys, *words, "--ledger", "bad.jsonl")
    assert "line 1 is no row" in refused(capsys, *words, "--ledger", "bad.jsonl")
    (folder / "bad.jsonl").write_text('{"id": "a"}\n')
    assert "line 1 is no row of a ledger: it has no 'started'" in refused(
        capsys, *words, "--ledger", "bad.jsonl"
    )
    (folder / "broken.yaml").write_text("model_list: 7\n")
    assert refused(capsys, "simulate", "-c", "broken.yaml").startswith("broken.yaml:1:13")
    monkeypatch.setenv("BOOKS", "postgresql://nobody:zqpassword@127.0.0.1:1/nothing")
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--limit", "0"])
    capsys.readouterr()
    told = refused(capsys, *words, "--ledger", "BOOKS")
    assert (told.count("\n"), "zqpassword" in told) == (1, False)
