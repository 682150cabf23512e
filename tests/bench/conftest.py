from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bench.provider import Provider


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A simulated provider on a free port of loopback, in a thread of its own."""
    made = Provider()
    thread = threading.Thread(target=made.loop.run)
    thread.start()
    yield made
    made.loop.stop_from_outside()
    thread.join()
    made.close()
