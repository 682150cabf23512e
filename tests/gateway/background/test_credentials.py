"""Credentials that come late."""

from __future__ import annotations

import logging

import pytest

from gateway.background import credentials as late
from gateway.background.credentials import LateCredentials
from gateway.config.model import Secret
from gateway.named_credentials import Credentials
from gateway.state.credentials import CredentialRow, sealed
from gateway.state.records import RecordsUnavailable
from gateway.state.records_memory import MemoryRecords
from gateway.state.sealing import Sealer

SEALER = Sealer("salz.7hGt5R")


class Away(MemoryRecords):
    """A store that is away for the first two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals = 2

    async def credentials(self) -> list[CredentialRow]:
        if self.refusals:
            self.refusals -= 1
            raise RecordsUnavailable("away")
        return await super().credentials()


@pytest.fixture
async def records(monkeypatch: pytest.MonkeyPatch) -> Away:
    monkeypatch.setattr(late, "PAUSE", 0.001)
    store = Away()
    values = sealed(SEALER, "1", {"api_key": "sk-geheim-1"})
    await store.put_credentials([CredentialRow(id="1", name="a", values=values)])
    return store


async def test_told_when_the_store_is_back(records: Away) -> None:
    """It tries until the store answers, tells what it found, and is done."""
    found: list[Credentials] = []
    await LateCredentials(records, SEALER, found.append).run()
    assert [credentials.values for credentials in found] == [{"a": {"api_key": Secret("sk-geheim-1")}}]


async def test_another_salt(records: Away, caplog: pytest.LogCaptureFixture) -> None:
    """With another salt the log says so loudly, and nothing changes."""
    found: list[Credentials] = []
    await LateCredentials(records, Sealer("ein.anderes.Salz"), found.append).run()
    assert found == []
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "1 named credential in memory cannot be opened with this LITELLM_SALT_KEY" in record.getMessage()
