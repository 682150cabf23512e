"""A proxy in front of a real server that breaks what is between them, as networks do.

It listens on one port for its whole life, so that a client finds it again. `refuse` hangs up on whoever is connected and
lets nobody in; `stall` takes connections and bytes and passes none on; `reset` cuts all connections once; `slow` delays
each piece, or each that is larger than so many bytes; `half_close` ends the server's side and leaves the client's open; `cut_after` resets a connection when so many
bytes of the server's have passed; `lose_answer_to` lets the words through to the server and resets the connection when it
answers: the client cannot know whether they arrived. `heal` ends all of them; what a stalled connection held back stays lost.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

from gateway.background.supervisor import spawn

Writer = asyncio.StreamWriter


class FaultyProxy:
    """Between `url`'s server and whoever takes `self.url`; `start` it, `close` it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        self.url = urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{self._listener.getsockname()[1]}"))
        self._server: asyncio.Server | None = None
        self._open: set[tuple[Writer, Writer]] = set()
        self.accepted = 0
        """Connections until now, refused ones not counted."""
        self._clear()

    def _clear(self) -> None:
        self._refusing = self._stalling = False
        self._delay, self._largest_quick = 0.0, 0
        self._bytes_left: int | None = None
        self._words = b""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listener)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        await asyncio.sleep(0)

    def heal(self) -> None:
        if self._stalling:
            self.reset()
        self._clear()

    def refuse(self) -> None:
        self._refusing = True
        self.reset()

    def stall(self) -> None:
        self._stalling = True

    def slow(self, seconds: float, above: int = 0) -> None:
        self._delay, self._largest_quick = seconds, above

    def cut_after(self, count: int) -> None:
        self._bytes_left = count

    def lose_answer_to(self, words: bytes) -> None:
        self._words = words

    def reset(self) -> None:
        for pair in list(self._open):
            self._abort(pair)

    def half_close(self) -> None:
        for client, _ in self._open:
            with suppress(OSError):
                client.write_eof()

    def _abort(self, pair: tuple[Writer, Writer]) -> None:
        """With RST, as a crashed machine or an impatient firewall does."""
        self._open.discard(pair)
        for writer in pair:
            if writer.transport.is_closing():
                continue  # its descriptor may be another connection's by now
            if (sock := writer.get_extra_info("socket")) is not None:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, client: Writer) -> None:
        if self._refusing:
            client.transport.abort()
            return
        self.accepted += 1
        try:
            from_server, server = await asyncio.open_connection(*self._target)
        except OSError:  # it is down too
            client.transport.abort()
            return
        pair = (client, server)
        self._open.add(pair)
        asked = asyncio.Event()
        there = spawn(self._pass_on(reader, server, pair, asked, is_answer=False), name="proxy")
        await self._pass_on(from_server, client, pair, asked, is_answer=True)
        there.cancel()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: Writer,
        pair: tuple[Writer, Writer],
        asked: asyncio.Event,
        *,
        is_answer: bool,
    ) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                if len(piece) > self._largest_quick and self._delay:
                    await asyncio.sleep(self._delay)
                if self._stalling:
                    continue
                if is_answer and asked.is_set():
                    self._words = b""
                    return self._abort(pair)
                if not is_answer and self._words and self._words in piece:
                    asked.set()
                if is_answer and self._bytes_left is not None:
                    piece, self._bytes_left = piece[: self._bytes_left], self._bytes_left - len(piece)
                writer.write(piece)
                await writer.drain()
                if is_answer and self._bytes_left is not None and self._bytes_left <= 0:
                    self._bytes_left = None
                    return self._abort(pair)
        if not self._stalling:
            self._abort(pair)
        return None
