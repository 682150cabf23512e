"""The load: clients that keep a gateway busy, believe no answer, and measure what users wait for.

Each connection carries one request at a time. `closed_loop` keeps a number of connections busy and says what the gateway can do;
`open_loop` sends at fixed times whether or not earlier answers have come, and counts the wait for a connection too, so that a
gateway which stalls cannot hide it (coordinated omission).

An answer counts only if its status, its framing, its terminator and the number and order of its chunks are right. Chunks carry
the monotonic clock of the moment they were sent (bench/upstream.py), from which comes the lag of each. The gateway's CPU time is
read from the kernel, for its whole process tree, at both ends of the window that is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from bench.upstream import ANSWER

_MARK = re.compile(rb"#(\d+)@(\d+)")
_ENDS = (b"data: [DONE]\n\n", b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


def percentile(values: array[int] | list[int], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie; 0 of nothing."""
    ordered = sorted(values)
    return float(ordered[min(int(len(ordered) * share), len(ordered) - 1)]) if ordered else 0.0


def process_tree(pid: int) -> list[int]:
    """The process and all below it that live now."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue  # it has just ended
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    tree = [pid]
    for parent in tree:
        tree.extend(parents.get(parent, []))
    return tree


def cpu_seconds(pid: int) -> float:
    """CPU time that the tree has used, from the scheduler's own account in nanoseconds."""
    total = 0
    for member in process_tree(pid):
        for thread in Path(f"/proc/{member}/task").glob("*/schedstat"):
            total += int(thread.read_text().split()[0])
    return total / 1e9


def resident_mb(pid: int) -> float:
    """Resident memory of the tree in megabytes; pages that members share are counted for each."""
    total = 0
    for member in process_tree(pid):
        if found := re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{member}/status").read_text()):
            total += int(found[1])
    return total / 1024


@dataclass(frozen=True)
class Question:
    """A request's bytes and what the answer to it must be."""

    url: str
    model: str
    chunks: int = 0  # 0: a whole answer
    key: str = "sk-bench"

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    def encode(self) -> bytes:
        """The request as it is sent: a chat of about 640 bytes."""
        text = "Why do penstocks need surge tanks? Answer in one sentence that a child understands. "
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": "You are an engineer."},
                {"role": "user", "content": text * 5},
            ],
            "max_tokens": 256,
            "temperature": 0.7,
        }
        if self.chunks:
            body["stream"] = True
        data = json.dumps(body).encode()
        parts = urlsplit(self.url)
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {self.key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        return head.encode() + data


@dataclass
class Tally:
    """What came back in the window; times in nanoseconds."""

    seconds: float = 0.0
    cpu: float = 0.0  # of the gateway's process tree, seconds
    own_cpu: float = 0.0  # of this process, seconds
    begun: int = 0
    done: int = 0
    chunks: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    whole: array[int] = field(default_factory=lambda: array("q"))  # from due to complete
    first: array[int] = field(default_factory=lambda: array("q"))  # from due to the first chunk
    lags: array[int] = field(default_factory=lambda: array("q"))  # of each chunk, from sent to received

    @property
    def load_bound(self) -> bool:
        """Whether the load itself was the limit: the gateway could perhaps have done more."""
        return self.own_cpu > 0.9 * self.seconds


class Client(asyncio.Protocol):
    """One connection. `ask` sends a request; `on_done` is called when it is answered, well or badly."""

    def __init__(self, tally: Callable[[], Tally], on_done: Callable[[Client], None]) -> None:
        self.tally = tally
        self.on_done = on_done
        self.busy = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class, which inherits from none
        self.parser: Any = httptools.HttpResponseParser(self)

    def ask(self, request: bytes, chunks: int, due: int) -> None:
        """Send; `due` is when it ought to have been sent."""
        self.busy = True
        self.chunks = chunks
        self.due = due
        self.seen = 0
        self.rest = b""
        self.last = b""
        self.problem = ""
        self.tally().begun += 1
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._done(f"framing: {error}")
            self.transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost = True
        if self.busy:
            self._done("cut")

    # What httptools calls.

    def on_body(self, body: bytes) -> None:
        if not self.chunks:
            self.rest += body
            return
        now = time.monotonic_ns()
        tally = self.tally()
        whole, border, self.rest = (self.rest + body).rpartition(b"\n\n")
        for number, sent in _MARK.findall(whole):
            if int(number) != self.seen:
                self.problem = self.problem or "order"
            if not self.seen:
                tally.first.append(now - self.due)
            self.seen += 1
            tally.chunks += 1
            tally.lags.append(now - int(sent))
        if border:
            self.last = (whole + border)[-80:]

    def on_message_complete(self) -> None:
        if not self.busy:
            return
        if (status := self.parser.get_status_code()) != 200:
            problem = f"status {status}"
        elif self.chunks:
            complete = self.seen == self.chunks and not self.rest and self.last.endswith(_ENDS)
            problem = self.problem or ("" if complete else "incomplete")
        else:
            problem = "" if ANSWER.encode() in self.rest and self.rest.endswith(b"}") else "content"
        self._done(problem)

    def _done(self, problem: str) -> None:
        self.busy = False
        tally = self.tally()
        if problem:
            tally.errors[problem] += 1
        else:
            tally.done += 1
            tally.whole.append(time.monotonic_ns() - self.due)
        self.on_done(self)


class Load:
    """Connections to one gateway, and the tally of the window that is open."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.request = question.encode()
        self.current = Tally()
        self.open = True
        self.clients: list[Client] = []

    def tally(self) -> Tally:
        return self.current

    async def connect(self, on_done: Callable[[Client], None]) -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: Client(self.tally, on_done), *self.question.address)
        self.clients.append(client)
        return client

    def ask(self, client: Client, due: int | None = None) -> None:
        client.ask(self.request, self.question.chunks, due or time.monotonic_ns())

    async def window(self, warm: float, seconds: float, pid: int | None) -> Tally:
        """Let it run for `warm` seconds, then measure for `seconds`."""
        await asyncio.sleep(warm)
        tally = self.current = Tally()
        start, cpu, own = time.monotonic(), cpu_seconds(pid) if pid else 0.0, time.process_time()
        await asyncio.sleep(seconds)
        tally.seconds = time.monotonic() - start
        tally.own_cpu = time.process_time() - own
        tally.cpu = cpu_seconds(pid) - cpu if pid else 0.0
        self.open = False
        self.current = Tally()  # what still comes belongs to no window
        return tally

    def close(self) -> None:
        self.open = False
        for client in self.clients:
            client.busy = False
            client.transport.abort()


async def closed_loop(
    question: Question, connections: int, seconds: float, pid: int | None = None, warm: float = 0.5
) -> Tally:
    """Keep `connections` busy: each asks again as soon as it is answered. A connection that was lost is made again."""
    load = Load(question)
    tasks = asyncio.TaskGroup()

    def again(client: Client) -> None:
        if load.open and not client.lost and not client.transport.is_closing():
            load.ask(client)
        elif load.open:
            tasks.create_task(begin())

    async def begin(delay: float = 0.0) -> None:
        await asyncio.sleep(delay)
        try:
            load.ask(await load.connect(again))
        except OSError as error:
            load.current.errors[type(error).__name__] += 1

    try:
        async with tasks:
            for number in range(connections):  # one after another: paced streams must not beat as one
                tasks.create_task(begin(warm / 2 * number / connections))
            return await load.window(warm, seconds, pid)
    finally:
        load.close()


async def open_loop(
    question: Question, rate: float, seconds: float, pid: int | None = None, warm: float = 0.5
) -> Tally:
    """Ask `rate` times per second on whichever connection is idle, or on a new one."""
    load = Load(question)
    idle: deque[Client] = deque()
    due = time.monotonic_ns()

    async def ask(due: int) -> None:
        while idle:
            if not (client := idle.pop()).lost:
                break
        else:
            try:
                client = await load.connect(idle.append)
            except OSError as error:
                load.current.errors[type(error).__name__] += 1
                return
        load.ask(client, due)

    async def keep_asking() -> None:
        nonlocal due
        async with asyncio.TaskGroup() as tasks:
            while load.open:
                due += int(1e9 / rate)
                await asyncio.sleep((due - time.monotonic_ns()) / 1e9)
                tasks.create_task(
                    ask(time.monotonic_ns())
                )  # that our own timer is late is not the gateway's doing

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_asking())
            return await load.window(warm, seconds, pid)
    finally:
        load.close()
