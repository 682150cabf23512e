"""A gateway and a fake provider for each test that asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import FakeProvider, Gateway, config_for, fake_provider, gateway


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with fake_provider() as provider:
        yield provider


@pytest.fixture
async def gw(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(config_for(provider), tmp_path) as gw:
        yield gw
