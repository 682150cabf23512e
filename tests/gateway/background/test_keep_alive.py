"""Silent streams get comments; tests/gateway/stages/test_stream.py sees them arrive."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

from gateway.background.keep_alive import KeepAlive
from gateway.background.supervisor import spawn
from gateway.exchange import Exchange

_MANY = 1_200


def _request(*, wants_stream: bool = True, ended: bool = False) -> Exchange:
    """As much of an exchange as is looked at."""

    class Looked(SimpleNamespace):
        __hash__ = object.__hash__  # type: ignore[assignment]  # as an exchange has it

    return cast(
        "Exchange", Looked(id="r", wants_stream=wants_stream, client=SimpleNamespace(ended=ended, written=0))
    )


async def _until(worker: KeepAlive, done: asyncio.Event) -> None:
    running = spawn(worker.run(), name="keep-alive")
    try:
        await asyncio.wait_for(done.wait(), 30)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_every_silent_stream_is_told() -> None:
    """However many there are, each gets its comment, and another one after the next silence."""
    streams = {_request() for _ in range(_MANY)}
    told: dict[int, int] = {}
    done = asyncio.Event()

    def comment(x: Exchange) -> None:
        told[id(x)] = told.get(id(x), 0) + 1
        cast("Any", x.client).written += 1
        if len(told) == _MANY and min(told.values()) >= 2:
            done.set()

    await _until(KeepAlive(streams, lambda: 0.01, comment), done)
    assert set(told) == {id(x) for x in streams}


async def test_nobody_else_is_told() -> None:
    """Not whole answers, nor streams that have ended, nor those to which something is written."""
    silent, busy = _request(), _request()
    others = [_request(wants_stream=False), _request(ended=True), busy]
    told: list[Exchange] = []
    done = asyncio.Event()

    def seconds() -> float:
        cast("Any", busy.client).written += 1  # between any two looks
        return 0.01

    def comment(x: Exchange) -> None:
        told.append(x)
        if len(told) == 3:
            done.set()

    await _until(KeepAlive([silent, *others], seconds, comment), done)
    assert all(x is silent for x in told)


async def test_one_that_fails_does_not_take_the_others_along() -> None:
    """A comment that cannot be written is logged, and the other streams get theirs in the same look."""
    broken, fine = _request(), _request()
    done = asyncio.Event()

    def comment(x: Exchange) -> None:
        if x is broken:
            raise ValueError("a header has a line break in it")
        done.set()

    await _until(KeepAlive([broken, fine], lambda: 0.01, comment), done)


async def test_a_request_that_is_over_is_not_kept() -> None:
    """Between two looks nothing holds what was looked at last."""
    begun = asyncio.Event()

    def seconds() -> float:
        begun.set()
        return 0.01

    async def a_look() -> None:
        for _ in range(2):  # it is over when the next begins
            begun.clear()
            await asyncio.wait_for(begun.wait(), 30)

    streams = {_request(wants_stream=False)}
    running = spawn(KeepAlive(streams, seconds, lambda x: None).run(), name="keep-alive")
    await a_look()
    ended = weakref.ref(streams.pop())
    await a_look()
    assert ended() is None
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
