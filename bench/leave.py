"""How soon a provider is left when its client leaves: `python -m bench.leave`.

A client asks through a running gateway and closes its socket at one of four moments: while a stream is silent, after the
first chunk, after the fifth, and while a whole answer is awaited. Measured is the time from that close to the moment at
which the provider sees its own connection closed, both on this machine. The promise is 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import tempfile
import time
from contextlib import closing
from pathlib import Path

import uvloop

from bench.load import KEY, Question
from bench.machine import clean_up_when_told, count, free_port, started, wait_for
from bench.peers import PEERS, penstock_env

PROMISE = 0.050
PATIENCE = 5.0
_CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_ANSWER = b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}]}'
MOMENTS = {"silent stream": -1, "after the first chunk": 1, "after the fifth chunk": 5, "whole answer": 0}


class Provider:
    """Sends what a moment asks for, then nothing, until it is left."""

    def __init__(self) -> None:
        self.chunks = 0
        self.asked = asyncio.Event()
        self.left = asyncio.get_running_loop().create_future()

    def expect(self, chunks: int) -> None:
        """Get ready for the next request."""
        self.chunks = chunks
        self.asked = asyncio.Event()
        self.left = asyncio.get_running_loop().create_future()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        body = await _read_request(reader)
        asked, left = self.asked, self.left
        if b'"ready"' in body:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n")
            writer.write(b"content-length: %d\r\n\r\n%b" % (len(_ANSWER), _ANSWER))
            writer.close()
            return
        if self.chunks > 0:
            writer.write(
                _HEAD + b"".join(b"%x\r\n%b\r\n" % (len(_CHUNK), _CHUNK) for _ in range(self.chunks))
            )
        asked.set()
        await reader.read()
        if not left.done():  # that nobody waits for any longer
            left.set_result(time.perf_counter())
        writer.close()


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length.partition(b":")[2]))


async def leave(provider: Provider, port: int, chunks: int) -> float:
    """Ask, leave, and return the seconds until the provider knew; for ever if it was not asked, or not left."""
    provider.expect(chunks)
    try:
        async with asyncio.timeout(PATIENCE):
            return await _leave(provider, port, chunks)
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        return math.inf


async def _leave(provider: Provider, port: int, chunks: int) -> float:
    body = json.dumps(
        {"model": "openai/wait", "stream": chunks != 0, "messages": [{"role": "user", "content": "x"}]}
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    try:
        writer.write(head.encode() + body.encode())
        await provider.asked.wait()
        for _ in range(max(0, chunks)):
            await reader.readuntil(b"word ")
    finally:
        began = time.perf_counter()
        writer.transport.abort()
    ended: float = await provider.left
    return ended - began


async def measure(runs: int) -> int:
    """Print the table; 1 if the promise was broken."""
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    upstream = server.sockets[0].getsockname()[1]
    port = free_port()
    broken = 0
    with closing(server), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = PEERS["penstock"].command(port, upstream, folder)
        env = penstock_env(upstream, folder) | {"LITELLM_LOG": "ERROR"}
        with started(command, 0, folder, env) as process:
            ready = Question(f"http://127.0.0.1:{port}", "openai/ready")
            await asyncio.to_thread(wait_for, ready.is_answered, process, folder)
            print(f"{'ms until the provider is left':30} {'p50':>8} {'p99':>8} {'max':>8}")
            for moment, chunks in MOMENTS.items():
                took = sorted([await leave(provider, port, chunks) for _ in range(runs)])
                p50, p99, most = took[len(took) // 2], took[int(len(took) * 0.99)], took[-1]
                broken |= p99 > PROMISE
                print(f"{moment:30} {p50 * 1000:8.2f} {p99 * 1000:8.2f} {most * 1000:8.2f}")
    return int(broken)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=count, default=200, help="times for each moment (default: 200)")
    runs = parser.parse_args().runs
    clean_up_when_told()
    raise SystemExit(uvloop.run(measure(runs)))


if __name__ == "__main__":
    main()
