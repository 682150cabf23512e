"""The peer that shows what Python itself costs: two bare protocols on uvloop, and bytes that pass as they came.

It reads no head, knows no key and no model, keeps no books, and takes an answer to be over when its last bytes look so. What nginx
costs less than this, C saves; what Penstock costs more, it is for doing its work.

    python -m bench.bare --port 9001 --upstream 9000
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from typing import cast

import uvloop

_LAST_CHUNK = b"0\r\n\r\n"
_WHOLE = b"HTTP/1.1 200 X\r\n"  # how bench/provider.py begins an answer that is sent at once


class Upstream(asyncio.Protocol):
    """A connection to the provider."""

    def __init__(self, idle: list[Upstream]) -> None:
        self.idle = idle
        self.client: Client | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.client is not None and self.client.transport is not None:
            self.client.transport.write(data)
        if data.endswith(_LAST_CHUNK) or data.startswith(_WHOLE):
            self.client = None
            self.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.idle:
            self.idle.remove(self)


class Client(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, idle: list[Upstream], port: int) -> None:
        self.idle = idle
        self.port = port
        self.upstream: Upstream | None = None
        self.transport: asyncio.Transport | None = None
        self.dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.idle:
            self.pass_on(self.idle.pop(), data)
        else:
            self.dialling = asyncio.get_running_loop().create_task(self.dial(data))

    def pass_on(self, upstream: Upstream, data: bytes) -> None:
        """Give the request to this connection, and its answer to us."""
        upstream.client, self.upstream = self, upstream
        if upstream.transport is not None:
            upstream.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the provider in the middle of an answer, for what it still said would be paid for in the next measurement."""
        upstream = self.upstream
        if upstream is not None and upstream.client is self and upstream.transport is not None:
            upstream.client = None
            upstream.transport.abort()

    async def dial(self, data: bytes) -> None:
        """The same with a new connection."""
        loop = asyncio.get_running_loop()
        _, upstream = await loop.create_connection(lambda: Upstream(self.idle), "127.0.0.1", self.port)
        self.pass_on(upstream, data)


async def serve(port: int, upstream: int) -> None:
    """Until a signal."""
    idle: list[Upstream] = []
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Client(idle, upstream), "127.0.0.1", port, backlog=4096)
    gc.freeze()
    await loop.create_future()


def main() -> None:
    """Serve on loopback."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", type=int, required=True)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.upstream))


if __name__ == "__main__":
    main()
