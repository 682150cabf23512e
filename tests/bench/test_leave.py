"""The measure of how soon a provider is left."""

from __future__ import annotations

import asyncio
import math
from typing import NoReturn

import pytest

from bench import leave
from bench.leave import MOMENTS, measure


async def test_every_moment_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Against a gateway of its own, each moment gets its row, and the promise is told by the exit code."""
    code = await measure(runs=3)
    lines = capsys.readouterr().out.splitlines()
    assert code in (0, 1)
    assert [line[:30].strip() for line in lines[1:]] == list(MOMENTS)


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_provider_that_is_not_left_breaks_the_promise(
    monkeypatch: pytest.MonkeyPatch, *, goes_on: bool
) -> None:
    """One that is never left, or never asked, took for ever: the table is written, and the next measurement is not spoilt."""
    monkeypatch.setattr(leave, "PATIENCE", 0.2)
    provider = leave.Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider_port = server.sockets[0].getsockname()[1]
    held: list[asyncio.StreamWriter] = []

    async def gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        if goes_on:
            _, upstream = await asyncio.open_connection("127.0.0.1", provider_port)
            held.append(upstream)
            upstream.write(await reader.read(65536))

    between = await asyncio.start_server(gateway, "127.0.0.1", 0)
    took = [await leave.leave(provider, between.sockets[0].getsockname()[1], 0) for _ in range(2)]
    assert took == [math.inf, math.inf]
    provider.expect(0)
    for writer in held:
        writer.transport.abort()
    await asyncio.sleep(0.1)
    assert not provider.left.done()
    between.close()
    server.close()


async def test_the_gateway_is_for_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key is in the sources, so nobody else may reach it."""
    commands: list[list[str]] = []

    def started(command: list[str], *_: object) -> NoReturn:
        commands.append(command)
        raise InterruptedError

    monkeypatch.setattr(leave, "started", started)
    with pytest.raises(InterruptedError):
        await leave.measure(1)
    assert commands[0][commands[0].index("--host") + 1] == "127.0.0.1"
