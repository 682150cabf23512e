r"""A server that plays bytes, so that tests decide what goes over the wire and when.

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    async with serve(play) as server:
        ...server.url, server.connections, server.requests

The script runs once for each connection; when it returns, the connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field


def answer(body: bytes = b"ok", *headers: str, status: str = "200 OK") -> bytes:
    """A plain answer with a length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n", head: str = "HTTP/1.1 200 OK") -> bytes:
    """A chunked answer; `end` is what comes after the last piece."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return f"{head}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body + end


class GoneError(Exception):
    """The client has closed the connection."""


@dataclass
class Peer:
    """The server's end of one connection."""

    number: int
    """Counts connections from 0."""
    server: Scripted
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _begun: bytes = b""

    async def begun(self) -> None:
        """Wait for the first byte of the next request. Raises `GoneError`."""
        try:
            self._begun = await self.reader.readexactly(1)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise GoneError from error

    async def head(self) -> bytes:
        """The next request's head. Raises `GoneError`."""
        try:
            head = self._begun + await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise GoneError from error
        self._begun = b""
        self.server.asked += 1
        return head

    async def request(self) -> bytes:
        """The next request, head and body; it is noted in `server.requests`."""
        head = await self.head()
        size = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        try:
            whole = head + await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise GoneError from error
        self.server.requests.append(whole)
        return whole

    async def send(self, data: bytes) -> None:
        """Write and wait until the kernel has it."""
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def send_split(self, data: bytes, size: int = 1) -> None:
        """Write in pieces, giving the other side the chance to see each on its own."""
        for at in range(0, len(data), size):
            await self.send(data[at : at + size])
            await asyncio.sleep(0)

    def finish(self) -> None:
        """Half-close: nothing more will be sent, the connection stays."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Close with a RST."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client has closed its end."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class Scripted:
    """A running server, and what it has seen."""

    port: int = 0
    scheme: str = "http"
    connections: int = 0
    """How many there ever were."""
    open: int = 0
    """How many there are."""
    most: int = 0
    """How many there were at once, at most."""
    asked: int = 0
    """How many requests came."""
    requests: list[bytes] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def until(self, seen: Callable[[Scripted], bool]) -> None:
        """Wait until connections have come or gone so that this is true."""
        async with self.changed:
            await self.changed.wait_for(lambda: seen(self))


@contextlib.asynccontextmanager
async def serve(script: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
    """Play the script for every connection to a loopback port, until the block is left."""
    server = Scripted(scheme="http" if context is None else "https")
    tasks: set[asyncio.Task[None]] = set()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        number = server.connections
        async with server.changed:
            server.connections += 1
            server.open += 1
            server.most = max(server.most, server.open)
            server.changed.notify_all()
        try:
            with contextlib.suppress(GoneError, ConnectionError, asyncio.CancelledError):
                await script(Peer(number, server, reader, writer))
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            async with server.changed:
                server.open -= 1
                server.changed.notify_all()
            tasks.discard(task)

    listener = await asyncio.start_server(play, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


def loop_of(script: Callable[[int], bytes]) -> Script:
    """A script that answers each request on a connection with the bytes for its number, for ever."""

    async def play(peer: Peer) -> None:
        number = 0
        while True:
            await peer.request()
            await peer.send(script(number))
            number += 1

    return play


def each(data: bytes) -> Script:
    """A script that gives the same answer to every request."""
    return loop_of(lambda _: data)
