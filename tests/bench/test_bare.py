from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bench import bare, machine
from bench.load import Question, Watched, closed_loop
from bench.peers import PEERS
from bench.provider import Provider


def test_whole_answers_and_streams_pass(tmp_path: Path) -> None:
    """It starts, and whole answers and streams come through right, one after the other on the same connections."""
    upstream, port = machine.free_port(), machine.free_port()
    (tmp_path / "bare").mkdir()
    provider = [sys.executable, "-m", "bench.provider", "--port", str(upstream)]
    command = PEERS["bare"].command(port, upstream, tmp_path)
    url = f"http://127.0.0.1:{port}"
    with machine.started(provider, 1, tmp_path) as first:
        machine.wait_for(Question(f"http://127.0.0.1:{upstream}", "bench").is_answered, first, tmp_path)
        with machine.started(command, 0, tmp_path / "bare") as process:
            machine.wait_for(Question(url, "bench").is_answered, process, tmp_path / "bare")
            for question in (Question(url, "bench"), Question(url, "openai/bench-c3", 3)):
                tally = closed_loop(question, 3, 0.2, Watched())
                assert tally.done
                assert not tally.errors
        assert process.poll() is not None


def test_the_provider_is_left_with_the_client(provider: Provider) -> None:
    """What it still said to nobody would be paid for in the next measurement."""

    async def leave() -> None:
        idle: list[bare.Upstream] = []
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: bare.Client(idle, provider.port), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        reader, writer = await asyncio.open_connection(*Question(url, "bench").address)
        writer.write(Question(url, "openai/bench-c1000-r50", 1000).encode())
        await reader.readuntil(b"#000001@")
        (connection,) = provider.connections
        writer.transport.abort()
        async with asyncio.timeout(30):
            while not connection.closed:
                await asyncio.sleep(0.01)
        server.close()

    asyncio.run(leave())
