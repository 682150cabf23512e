"""How names are remembered."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from gateway.upstreams.resolve import Resolver

INFO = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))


class Names:
    """Stands for the machine's resolver: what it answers, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: Callable[[], list[Any]] = lambda: [INFO]

    async def getaddrinfo(self, host: str, port: int, **options: object) -> list[Any]:
        self.asked += 1
        await asyncio.sleep(0)
        return self.answer()

    def fails(self) -> list[Any]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")


class Clock:
    """The loop of a resolver, with a clock of the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.names = Names()
        self.getaddrinfo = self.names.getaddrinfo

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The resolver sees this loop instead of the running one."""
    clock = Clock()
    monkeypatch.setattr("gateway.upstreams.resolve.asyncio.get_running_loop", lambda: clock)
    return clock
