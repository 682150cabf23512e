"""A gateway in this process whose sockets go nowhere: what a request costs in Python alone.

The client's bytes are given to `ClientConnection.data_received`, the provider's to its connection's; what is written is thrown away.
Between this and the CPU per request that `bench.run` finds lies the kernel, the event loop, the books, and what 64 requests at once cost in
the processor's caches.
"""

from __future__ import annotations

import asyncio
import atexit
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.load import KEY, Question
from bench.provider import OPENAI
from gateway.app import build_app, open_runtime
from gateway.config.environment import read_environment
from gateway.config.load import load
from gateway.endpoints import ENDPOINTS
from gateway.runtime import Runtime
from gateway.server import Runner
from gateway.stages import account
from gateway.state.records import LedgerRow
from gateway.upstreams.connection import Connection
from gateway.upstreams.pool import Pool

TIMES = 500
_CONFIG = f"""
model_list:
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:9/v1
      api_key: sk-upstream
      input_cost_per_token: 0.0000025
      output_cost_per_token: 0.00001
general_settings: {{master_key: {KEY}}}
"""

_SDK = b"".join(
    b"%b\r\n" % line
    for line in (
        b"Accept: application/json",
        b"Accept-Encoding: gzip, deflate",
        b"Connection: keep-alive",
        b"User-Agent: OpenAI/Python 2.8.1",
        b"X-Stainless-Lang: python",
        b"X-Stainless-Package-Version: 2.8.1",
        b"X-Stainless-OS: Linux",
        b"X-Stainless-Arch: x64",
        b"X-Stainless-Runtime: CPython",
        b"X-Stainless-Runtime-Version: 3.11.2",
        b"X-Stainless-Async: false",
        b"x-stainless-retry-count: 0",
        b"x-stainless-read-timeout: 600",
    )
)
"""What OpenAI's client for Python adds to a request."""


class Nowhere(asyncio.Transport):
    """A transport without a socket."""

    def write(self, data: Any) -> None:
        """Throw it away."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Only where the peer is."""
        return ("127.0.0.1", 1) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def is_closing(self) -> bool:
        """Never."""
        return False

    def abort(self) -> None:
        """There is nothing to close."""

    close = abort


class Alone:
    """The gateway, one connection of a client and one to the provider."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.rows: list[LedgerRow] = []
        self.question = Question("http://127.0.0.1", "bench").encode()
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
            len(OPENAI.whole),
            OPENAI.whole,
        )
        self.loop.run_until_complete(self._open())
        atexit.register(self.close)

    def close(self) -> None:
        """Stop it; a second time changes nothing."""
        if not self.loop.is_closed():
            self.loop.run_until_complete(self._close())
            self.loop.close()

    async def _close(self) -> None:
        self.client.connection_lost(None)
        self.provider.connection_lost(None)
        await self.runner.cleanup()
        await self.rt.upstreams.close()
        await asyncio.sleep(0)

    async def _open(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.yaml"
            file.write_text(_CONFIG)
            known = {"PENSTOCK_DATA_DIR": str(Path(folder) / "data")}
            self.rt: Runtime = await open_runtime(load(file, known).config, read_environment(known), known)
        await self.rt.records.close()
        self.rt.ledger.offer = self.rows.append  # type: ignore[method-assign,assignment]  # the books are measured on their own
        self.runner = Runner(
            build_app(self.rt),
            self.rt,
            ENDPOINTS,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=0.1,
        )
        await self.runner.setup()
        assert self.runner.server
        self.client = self.runner.server()
        self.client.connection_made(Nowhere())
        await self._connect()

    async def _connect(self) -> None:
        """The first question dials: the pool gets a connection that goes nowhere either."""
        opened: list[Connection] = []

        async def open_nowhere(pool: Pool, connection: Connection, deadline: asyncio.Timeout) -> None:
            connection.connection_made(Nowhere())
            pool._sockets.add(connection)  # noqa: SLF001 - the pool's own opening is replaced
            opened.append(connection)

        original = Pool._open  # noqa: SLF001 - as above
        Pool._open = open_nowhere  # type: ignore[method-assign,assignment]  # noqa: SLF001 - as above
        try:
            self.client.data_received(self.question)
            for _ in range(10):  # turns of the loop, until the request is on its way
                await asyncio.sleep(0)
        finally:
            Pool._open = original  # type: ignore[method-assign]  # noqa: SLF001 - as above
        self.provider = opened[0]
        self.provider.data_received(self.answer)
        for _ in range(10):
            await asyncio.sleep(0)

    def requests(self, *, traced: bool = False) -> tuple[Callable[[], object], int]:
        """Whole requests, from the client's bytes to the row. `traced`: as an SDK sends them that is watched by OpenTelemetry, so that
        no two heads are alike, as they are not either behind a proxy that many clients share.
        """
        questions = [self._traced(number) for number in range(TIMES)] if traced else [self.question] * TIMES

        async def ask() -> None:
            self.rows.clear()
            for question in questions:
                self.client.data_received(question)
                self.provider.data_received(self.answer)

        return lambda: self.loop.run_until_complete(ask()), TIMES

    def _traced(self, number: int) -> bytes:
        line, rest = self.question.split(b"\r\n", 1)
        return b"%b\r\n%btraceparent: 00-%032x-00f067aa0ba902b7-01\r\n%b" % (line, _SDK, number + 1, rest)

    def settles(self) -> tuple[Callable[[], object], int]:
        """The bill alone, again and again for one request that is answered."""
        self.client.data_received(self.question)
        (x,) = self.rt.open
        self.provider.data_received(self.answer)

        def settle() -> None:
            self.rows.clear()
            for _ in range(TIMES):
                self.rt.open.add(x)
                account.settle(self.rt, x)

        return settle, TIMES
