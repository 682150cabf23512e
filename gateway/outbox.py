"""What is written in one turn of the event loop goes out together, at its end.

uvloop hands each `write` to the kernel at once. Under load that is dear twice: the peer, who had gone to sleep, is woken for
every single answer, and the kernel's code and ours push one another out of the processor's caches, request by request.
Collected until all that the turn has brought is worked through, the same requests cost a fifth less (95 us became 75). A
turn with one event loses nothing: its end is right behind it.

Several pieces for one peer become one write. Large ones do not wait.
"""

from __future__ import annotations

import asyncio

LARGE = 64 * 1024
"""Bytes from which on a piece is not kept, nor copied behind others."""


class Outbox:
    """The writes of an event loop."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[asyncio.Transport, list[bytes]] = {}

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send it by the end of this turn, behind what was given for the same transport before."""
        waiting = self._waiting
        if len(data) >= LARGE:
            self.flush()
            transport.write(data)
            return
        pieces = waiting.get(transport)
        if pieces is not None:
            pieces.append(data)
            return
        if not waiting:
            self._loop.call_soon(self.flush)
        waiting[transport] = [data]

    def flush(self) -> None:
        """Send everything now: before a connection is closed, or to see whether its peer reads."""
        waiting, self._waiting = self._waiting, {}
        for transport, pieces in waiting.items():
            if not transport.is_closing():
                transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
