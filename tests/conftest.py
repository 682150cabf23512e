"""For all tests: the servers, started when the first test asks for one, and what happens without recordings."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from gateway import app
from gateway.logs import redactor
from gateway.pricing import PriceTable
from gateway.upstreams import client, tls_context
from tests.servers import database_url, postgres_url, redis_url

__all__ = ["database_url", "postgres_url", "redis_url"]

# No test fails because the machine is busy, as with a deadline for each example.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _starts() -> Iterator[None]:
    """What gateways do when they start: most of it is reading the system's authorities and the price table, which no test
    changes, so that is done once. For keys and credentials they wait as long as a busy machine takes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "tls_context", functools.cache(tls_context))
        patch.setattr(PriceTable, "load", functools.cache(PriceTable.load))
        patch.setattr(app, "_FIRST_KEYS", 60.0)
        yield


@pytest.fixture(autouse=True)
def _forgets_secrets() -> Iterator[None]:
    """A test's secrets are its own: one that is `s` would be taken out of what others say of somebody's credentials."""
    yield
    redactor._spellings.clear()
    redactor._known, redactor._seen = None, {}
    redactor.version += 1


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop that the gateway runs on."""
    return {"uvloop": _loop}


def _loop() -> asyncio.AbstractEventLoop:
    loop = uvloop.new_event_loop()
    loop.set_exception_handler(_end_what_takes_too_long)
    return loop


def _end_what_takes_too_long(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The time limit of a test raises in a signal's handler. This loop tells it like a callback's fault and goes on waiting,
    so the test is cancelled where it waits, which is what its traceback then shows.
    """
    loop.default_exception_handler(context)
    if isinstance(context.get("exception"), pytest.fail.Exception):
        for task in asyncio.all_tasks(loop):
            task.cancel()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test over recordings where there are none is no test: taken out, instead of pytest's skip. Nothing is skipped here."""
    empty = [
        item
        for item in items
        if any("empty parameter set" in str(mark.kwargs.get("reason")) for mark in item.iter_markers("skip"))
    ]
    if empty:
        config.hook.pytest_deselected(items=empty)
        items[:] = [item for item in items if item not in empty]


def pytest_collection_finish() -> None:
    """Fifteen thousand tests are no garbage: collections, which tests and gateways ask for, need not look at them."""
    gc.collect()
    gc.freeze()
