"""Every test of this folder runs over our own documents, and over those of the field where they are there."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.harness import FakeProvider, fake_provider
from tests.seeds.deployment import answer
from tests.seeds.documents import SHELVES, Shelf


@pytest.fixture(params=SHELVES, ids=[shelf.name for shelf in SHELVES])
def seeds(request: pytest.FixtureRequest) -> Shelf:
    """The documents."""
    shelf: Shelf = request.param
    return shelf


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    """Every provider: it answers in the format of the path that it is asked at."""
    async with fake_provider() as provider:
        provider.will(answer)
        yield provider
