from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from gateway.state import open as open_module
from gateway.state import records_sqlite
from gateway.state.open import FILE, open_records
from gateway.state.records import LedgerQuery
from tests.gateway.rows import row


async def test_new_folder(tmp_path: Path) -> None:
    """A folder that is not there is made, for its owner alone, and nothing needs saying."""
    records, warnings = open_records(tmp_path / "a" / "b")
    assert (records.describe().backend, records.describe().durable, warnings) == ("sqlite", True, [])
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    await records.close()


async def test_unusable_folder(tmp_path: Path) -> None:
    """A folder that cannot be made gives records in memory that work, and a warning with the remedy."""
    (tmp_path / "file").touch()
    records, (warning,) = open_records(tmp_path / "file" / "data")
    assert not records.describe().durable
    assert "NOT BEING SAVED" in warning
    assert "PENSTOCK_DATA_DIR" in warning
    await records.append([row()])
    assert len(await records.rows(LedgerQuery())) == 1


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\x00" + b"\xff" * 4096])
async def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    """A damaged file is left as it is; the gateway serves on and says what is wrong."""
    (tmp_path / FILE).write_bytes(content)
    records, (warning,) = open_records(tmp_path)
    assert not records.describe().durable
    assert "backup" in warning
    assert (tmp_path / FILE).read_bytes() == content


async def test_locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process holds for too long is named as locked."""
    monkeypatch.setattr(records_sqlite, "OPEN_SECONDS", 0.05)
    records, _ = open_records(tmp_path)
    await records.close()
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    records, (warning,) = open_records(tmp_path)
    other.execute("ROLLBACK")
    other.close()
    assert not records.describe().durable
    assert "locked" in warning


async def test_read_only_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told as unusable is the file where the folder is well."""

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(open_module, "SqliteRecords", refuse)
    _, (warning,) = open_records(tmp_path)
    assert f"{tmp_path / FILE} cannot be used (Permission denied)" in warning


@pytest.mark.parametrize("told", ["database or disk is full", "disk I/O error"])
async def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    """Nobody is told to move the ledger away because its disk is full."""

    def refuse(_: Path) -> None:
        raise sqlite3.OperationalError(told)

    monkeypatch.setattr(open_module, "SqliteRecords", refuse)
    _, (warning,) = open_records(tmp_path)
    assert told in warning
    assert "its disk" in warning
    assert "move it away" not in warning


async def test_newer_schema(tmp_path: Path) -> None:
    """A file that a newer version has migrated is used, and said to be."""
    records, _ = open_records(tmp_path)
    await records.close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("INSERT INTO schema_version VALUES (999, '0999_future.sql', 0)")
    connection.close()
    records, (warning,) = open_records(tmp_path)
    assert records.describe().durable
    assert "newer" in warning
    await records.close()
