"""`penstock rotate-salt`, on the stores that a gateway leaves behind."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.state.credentials import CredentialRow, opened, sealed
from gateway.state.records import Records
from gateway.state.records_sqlite import SqliteRecords
from gateway.state.sealing import Sealer
from tests.harness import patient_postgres

OLD, NEW, MASTER = "altes.Salz.1", "neues.Salz.2", "sk-herr-0001-Zz"
KEYS = {"a": "sk-geheim-a", "b": "sk-geheim-b"}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both salts in the environment, and an empty working directory."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for name, value in {
        "LITELLM_SALT_KEY": OLD,
        "NEXT_SALT": NEW,
        "PENSTOCK_DATA_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)


def opens(folder: Path, database_url: str = "") -> Records:
    if database_url:
        return patient_postgres(database_url)
    return SqliteRecords(folder / "penstock.db")


def store(folder: Path, salt: str = OLD, database_url: str = "") -> None:
    async def write() -> None:
        records = opens(folder, database_url)
        rows = [
            CredentialRow(id=name, name=name, values=sealed(Sealer(salt), name, {"api_key": key}))
            for name, key in KEYS.items()
        ]
        await records.put_credentials(rows)
        await records.close()

    asyncio.run(write())


def stored(folder: Path, salt: str, database_url: str = "") -> dict[str, str]:
    async def read() -> dict[str, str]:
        records = opens(folder, database_url)
        found = {row.name: opened(Sealer(salt), row)["api_key"] for row in await records.credentials()}
        await records.close()
        return found

    return asyncio.run(read())


def run(*arguments: str) -> int:
    return main(["rotate-salt", *arguments])


def test_all_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run says what would be, a run does it, a second one finds nothing; no salt and no value is printed."""
    store(tmp_path)
    assert run("--to-env", "NEXT_SALT", "--dry-run") == 0
    assert capsys.readouterr().out.startswith("2 of 2 named credentials would be sealed with the salt ")
    assert stored(tmp_path, OLD) == KEYS
    assert run("--from-env", "LITELLM_SALT_KEY", "--to-env", "NEXT_SALT") == 0
    said = capsys.readouterr()
    assert said.out.startswith("2 of 2 named credentials sealed with the salt ")
    assert "Start the gateways with LITELLM_SALT_KEY set to the new salt now." in said.out
    assert not any(secret in said.out + said.err for secret in (OLD, NEW, *KEYS.values()))
    assert stored(tmp_path, NEW) == KEYS
    assert run("--new-salt-env", "NEXT_SALT") == 0
    assert capsys.readouterr().out.startswith("0 of 2 named credentials sealed")


def test_postgres(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same in the database that the environment names."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    store(tmp_path, database_url=database_url)
    assert run("--to-env", "NEXT_SALT") == 0
    assert capsys.readouterr().out.startswith("2 of 2")
    assert stored(tmp_path, NEW, database_url) == KEYS


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both salts may come on the standard input, the old one first."""
    store(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{OLD}\n{NEW}\n"))
    assert run("--from-env", "-", "--to-env", "-") == 0
    assert stored(tmp_path, NEW) == KEYS


def test_from_the_master_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an old salt it was the master key that sealed."""
    store(tmp_path, MASTER)
    monkeypatch.delenv("LITELLM_SALT_KEY")
    monkeypatch.setenv("LITELLM_MASTER_KEY", MASTER)
    assert run("--to-env", "NEXT_SALT") == 0
    assert stored(tmp_path, NEW) == KEYS


def test_what_the_configuration_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The salt and the data folder of `environment_variables` are those that the gateway takes."""
    store(tmp_path)
    monkeypatch.delenv("LITELLM_SALT_KEY")
    monkeypatch.setenv("PENSTOCK_DATA_DIR", "elsewhere")
    Path("c.yaml").write_text(
        f"environment_variables: {{LITELLM_SALT_KEY: {OLD}, PENSTOCK_DATA_DIR: '{tmp_path}'}}\n"
    )
    assert run("--to-env", "NEXT_SALT", "-c", "c.yaml") == 0
    assert stored(tmp_path, NEW) == KEYS


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--to-env", "NOWHERE"), "NOWHERE is not set"),
        (("--to-env", "-"), "standard input is empty"),
        (("--to-env", "BROKEN_SALT"), "BROKEN_SALT is not UTF-8 text"),
        (("--from-env", "NOWHERE", "--to-env", "NEXT_SALT"), "NOWHERE is not set"),
        (("--to-env", "LITELLM_SALT_KEY"), "the old salt and the new one are the same"),
        (("--to-env", "NEXT_SALT", "--data-dir", "nowhere"), "there is no store at nowhere/penstock.db"),
        (("--to-env", "NEXT_SALT", "--config", "nowhere.yaml"), "cannot be read"),
        (("--from-env", "THIRD_SALT", "--to-env", "NEXT_SALT"), "the credential 'a'"),
    ],
)
def test_refusals(
    arguments: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What cannot be done ends with 1 and one line, and nothing has changed."""
    store(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.setenv("THIRD_SALT", "drittes.Salz.3")
    monkeypatch.setenv("BROKEN_SALT", "\udcff")
    assert run(*arguments) == 1
    said = capsys.readouterr()
    assert (said.out, told in said.err) == ("", True), said.err
    assert not any(secret in said.err for secret in (OLD, NEW, *KEYS.values()))
    assert stored(tmp_path, OLD) == KEYS


def test_an_extra_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names it."""
    store(tmp_path)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    assert run("--to-env", "NEXT_SALT") == 1
    assert "pip install 'penstock[sealing]'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [(), ("--to-env",), ("a-salt",)])
def test_what_is_not_understood(arguments: tuple[str, ...]) -> None:
    """A new salt has to be named; a salt itself is not taken."""
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    assert left.value.code == 2


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """It explains itself."""
    with pytest.raises(SystemExit) as left:
        run("--help")
    assert left.value.code == 0
    assert "--dry-run" in capsys.readouterr().out
