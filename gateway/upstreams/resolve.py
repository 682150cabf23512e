"""Names to addresses, remembered for a minute.

`getaddrinfo` tells no time-to-live, so answers are kept for a fixed time: long enough that a burst of new connections
asks once, short enough that a provider who moves is followed. When a refresh fails, or takes long, the old answer serves
on, because a resolver that is down for a moment (mostly it says nothing at all) should not take the gateway with it.
Failures are remembered for a second, so that those who waited for the same answer do not each ask again.

A question cannot be taken back: it keeps one of the few threads that ask until the system gives up. So whoever asks may
leave, the question stays, and who comes next waits for it too, or one silent name would take all of them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.upstreams.guard import AddressInfo

TTL = 60.0
"""Seconds that an answer is good for."""

FAILURE_TTL = 1.0
"""Seconds after a failed lookup before the next one."""


PATIENCE = 1.0
"""Seconds that a refresh may take before the old answer serves on."""


@dataclass(frozen=True, slots=True)
class _Answer:
    expires: float
    infos: Sequence[AddressInfo]
    error: OSError | None = None


class Resolver:
    """Looks names up, one question at a time for each name."""

    def __init__(
        self, ttl: float = TTL, failure_ttl: float = FAILURE_TTL, patience: float = PATIENCE
    ) -> None:
        self._ttl = ttl
        self._failure_ttl = failure_ttl
        self._patience = patience
        self._answers: dict[tuple[str, int], _Answer] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[_Answer]] = {}

    async def lookup(self, host: str, port: int) -> Sequence[AddressInfo]:
        """The stream addresses of a host, never none. Raises `OSError` (`socket.gaierror`)."""
        loop = asyncio.get_running_loop()
        key = (host, port)
        answer = self._answers.get(key)
        if answer is None or answer.expires <= loop.time():
            answer = await self._newer(loop, key, answer)
        if answer.error is not None:
            raise answer.error.with_traceback(None)  # else it would hold the frames of all who got it
        return answer.infos

    async def _newer(
        self, loop: asyncio.AbstractEventLoop, key: tuple[str, int], old: _Answer | None
    ) -> _Answer:
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = loop.create_task(self._refresh(loop, key, old))
        kept = old.infos if old is not None else ()
        await asyncio.wait([asking], timeout=self._patience if kept else None)
        if asking.done():
            return asking.result()
        answer = self._answers[key] = _Answer(loop.time() + self._failure_ttl, kept)
        return answer

    async def _refresh(
        self, loop: asyncio.AbstractEventLoop, key: tuple[str, int], old: _Answer | None
    ) -> _Answer:
        try:
            answer = self._answers[key] = await self._ask(loop, *key, old)
        finally:
            del self._asking[key]
        return answer

    async def _ask(
        self, loop: asyncio.AbstractEventLoop, host: str, port: int, old: _Answer | None
    ) -> _Answer:
        try:
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            if not infos:
                raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        except UnicodeError as error:  # a label that is empty or too long
            infos, failure = [], OSError(f"not a host name: {error}")
        except OSError as error:
            infos, failure = [], error
        else:
            return _Answer(loop.time() + self._ttl, infos)
        if old is not None and old.infos:
            return _Answer(loop.time() + self._failure_ttl, old.infos)
        return _Answer(loop.time() + self._failure_ttl, infos, failure)

    def forget(self, host: str, port: int) -> None:
        """No address of the host answered: ask anew next time."""
        self._answers.pop((host, port), None)
