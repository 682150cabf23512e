"""The load: clients that keep a gateway busy, believe no answer, and measure what users wait for.

Each connection carries one request at a time. `closed_loop` keeps a number of connections busy and says what the gateway can do;
`open_loop` sends at fixed times whether or not earlier answers have come, and counts the wait for a connection too, so that a
gateway which stalls cannot hide it (coordinated omission).

An answer counts only if its status, its framing, its terminator and the number and order of its chunks are right. Chunks carry
the monotonic clock of the moment they were sent (bench/provider.py), from which comes the lag of each.

To be cheaper than what it measures, the load learns. The first answer is parsed in full; an answer or a chunk that then comes with
the very same bytes (but for the head's other lines, a chunk's number and its clock) needs no parser to be known as right. Whatever
differs, or comes in pieces, is parsed again. So nothing is believed, and 0.5 us are enough for most.
"""

from __future__ import annotations

import json
import re
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools

from bench.loop import Loop, Wire
from bench.machine import SPARE_CORES, busy_and_stolen, cpu_seconds, wait_until_idle
from bench.provider import ANSWER

KEY = "sk-bench-8c1f0e6b5d7a4932"
_MARK = re.compile(rb"#(\d{6})@(\d{19})")
_ONE_CHUNK = re.compile(rb"([0-9a-fA-F]+)\r\n([^#]*#)\d{6}@\d{19}([^#]*\n\n)\r\n", re.DOTALL)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_ENDS = {
    "openai": re.compile(rb"data: \[DONE\]\n\n\Z"),
    "anthropic": re.compile(rb'event: message_stop\ndata: \{"type": ?"message_stop"[^\n]*\}\n\n\Z'),
}
_NEVER = b"\0"  # is in no answer
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}


def percentile(values: array[int] | list[int], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie; 0 of nothing."""
    ordered = sorted(values)
    return float(ordered[min(int(len(ordered) * share), len(ordered) - 1)]) if ordered else 0.0


@dataclass(frozen=True)
class Question:
    """A request's bytes and what the answer to it must be."""

    url: str  # of the gateway, without a path
    model: str
    chunks: int = 0  # 0: a whole answer
    format: str = "openai"
    headers: Mapping[str, str] = field(default_factory=dict)

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
                {"role": "user", "content": "You are an engineer."},
                {"role": "user", "content": text * 5},
            ],
            "max_tokens": 256,
            "temperature": 0.7,
        }
        if self.chunks:
            body["stream"] = True
        data = json.dumps(body).encode()
        headers = {
            "Host": urlsplit(self.url).netloc,
            "Authorization": f"Bearer {KEY}",
            **self.headers,
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {PATHS[self.format]} HTTP/1.1\r\n{lines}\r\n".encode() + data

    def is_answered(self) -> bool:
        """Ask once, and say whether somebody answers with 200."""
        try:
            with socket.create_connection(self.address, timeout=30) as sock:
                sock.sendall(self.encode())
                return b" 200 " in sock.recv(65536).partition(b"\r\n")[0]
        except OSError:
            return False


@dataclass
class Tally:
    """What came back in the window; times in nanoseconds."""

    seconds: float = 0.0
    answering: float = 0.0  # seconds from the window's begin to the last answer, which may come after its end
    cpu: float = 0.0  # of the gateway's process tree, seconds
    cpu_in_window: float = 0.0  # of this, without what came after the window's end
    own_cpu: float = 0.0  # of this process, seconds
    provider_cpu: float = 0.0
    foreign: float = 0.0  # cores that other programs used meanwhile
    stolen: float = 0.0  # cores that the machine's host gave to others meanwhile
    asked: int = 0  # all requests that were sent, before and after the window too
    begun: int = 0
    done: int = 0
    chunks: int = 0
    errors: Counter[str] = field(default_factory=Counter)  # of all requests, before and after the window too
    whole: array[int] = field(default_factory=lambda: array("q"))  # from due to complete
    first: array[int] = field(default_factory=lambda: array("q"))  # from due to the first chunk
    lags: array[int] = field(default_factory=lambda: array("q"))  # of each chunk, from sent to received

    @property
    def rate(self) -> float:
        """Answers per second, in the time that all of them took: those to whom it is slow are answered after the window too."""
        took = self.answering or self.seconds
        return self.done / took if took else 0.0

    @property
    def core_use(self) -> float:
        """Share of a core that the gateway used."""
        return self.cpu_in_window / self.seconds if self.seconds else 0.0

    @property
    def load_bound(self) -> bool:
        """Whether the load and the provider were the limit and not the gateway, which could have done more."""
        full = max(self.own_cpu, self.provider_cpu) if SPARE_CORES else self.own_cpu + self.provider_cpu
        return full > 0.93 * self.seconds and 0 < self.core_use < 0.93


@dataclass(frozen=True)
class Watched:
    """The processes whose CPU time is read: 0 for none."""

    gateway: int = 0
    provider: int = 0


class Load:
    """Connections to one gateway, what they have learned of its answers, and the tally of the window that is open."""

    def __init__(
        self, question: Question, on_done: Callable[[Client], None], loop: Loop | None = None
    ) -> None:
        self.question = question
        self.request = question.encode()
        self.chunks = question.chunks
        self.on_done = on_done
        self.loop = loop or Loop()
        self.tally = Tally()
        self.asked = 0
        self.answered = 0  # when the last answer came
        self.clients: set[Client] = set()
        self.whole_tail = self.length_line = _NEVER
        self.chunk_head = self.chunk_tail = _NEVER
        self.chunk_size = 0

    def connect(self) -> Client | None:
        """A new connection; without one, an error is counted."""
        try:
            sock = socket.create_connection(self.question.address, timeout=10)
        except OSError as error:
            self.tally.errors[type(error).__name__] += 1
            return None
        client = Client(self, sock)
        self.clients.add(client)
        return client

    def learn_answer(self, data: bytes, body: bytes) -> None:
        """`data` is one right answer if `body` ends it and its head says so: the next one will look the same."""
        length = _LENGTH.search(data)
        tail = b"\r\n\r\n" + body
        if length and int(length[1]) == len(body) and data.endswith(tail):
            self.length_line, self.whole_tail = length[0], tail

    def learn_chunk(self, data: bytes) -> None:
        """`data` ends at a chunk's border and has been parsed: if it is one chunk with one event, it is a pattern."""
        one = _ONE_CHUNK.fullmatch(data) if data.count(b"\n\n") == 1 else None
        if one and int(one[1], 16) == len(data) - len(one[1]) - 4:
            self.chunk_head = one[1] + b"\r\n" + one[2]
            self.chunk_tail = one[3] + b"\r\n"
            self.chunk_size = len(data)

    def window(self, watched: Watched, seconds: float) -> Tally:
        """Measure for `seconds`. Errors are kept from before: what went wrong while the gateway warmed up went wrong."""
        tally = self.tally = Tally(errors=self.tally.errors)
        start, own = time.monotonic(), time.process_time()
        gateway, provider = cpu_seconds(watched.gateway), cpu_seconds(watched.provider)
        before = busy_and_stolen()
        self.loop.run(time.monotonic() + seconds)
        tally.seconds = time.monotonic() - start
        tally.cpu = tally.cpu_in_window = cpu_seconds(watched.gateway) - gateway
        tally.own_cpu = time.process_time() - own
        tally.provider_cpu = cpu_seconds(watched.provider) - provider
        ours = tally.cpu + tally.own_cpu + tally.provider_cpu
        busy, stolen = (now - then for now, then in zip(busy_and_stolen(), before, strict=True))
        tally.foreign = max(0.0, (busy - ours) / tally.seconds)
        tally.stolen = stolen / tally.seconds
        return tally

    def begun(self) -> int:
        """How many clients have seen a chunk of the stream that they wait for."""
        return sum(client.busy and client.seen > 0 for client in self.clients)

    def finish(self, patience: float = 15.0) -> None:
        """Until every request that is under way is answered; whoever calls sees to it that none is added. One that is not is an error."""
        deadline = time.monotonic() + patience
        while any(client.busy for client in self.clients) and time.monotonic() < deadline:
            self.loop.run(time.monotonic() + 0.02)
        for client in [client for client in self.clients if client.busy]:
            self.tally.errors["no answer"] += 1
            client.busy = False
            client.close(abort=True)
            self.clients.discard(client)

    def hear_each(self, patience: float = 15.0) -> None:
        """Until each stream that is under way has gone on. One that has not is an error; what comes meanwhile is in no window."""
        self.tally = Tally(errors=self.tally.errors)
        heard = {client: (client.due, client.seen) for client in self.clients if client.busy}
        deadline = time.monotonic() + patience
        while stuck := sum(
            client.busy and (client.due, client.seen) == then for client, then in heard.items()
        ):
            if time.monotonic() > deadline:
                self.tally.errors["stuck"] += stuck
                return
            self.loop.run(time.monotonic() + 0.02)

    def close(self) -> None:
        """Leave, whatever is under way."""
        for client in self.clients:
            client.close(abort=True)
        self.loop.close()


class Client(Wire):
    """One connection. `ask` sends a request; the load's `on_done` is called when it is answered, well or badly."""

    def __init__(self, load: Load, sock: socket.socket) -> None:
        super().__init__(load.loop, sock)
        self.load = load
        self.parser: Any = httptools.HttpResponseParser(self)
        self.busy = False

    def ask(self, due: int) -> None:
        """Send; `due` is when it ought to have been sent."""
        load = self.load
        self.busy = True
        self.due = due
        self.seen = 0
        self.rest = b""
        self.last = b""
        self.problem = ""
        self.untouched = True  # no byte of the answer has come yet
        self.at_border = False  # the bytes until now end where a chunk of the framing and an event end
        load.asked += 1
        load.tally.begun += 1
        self.write(load.request)

    def received(self, data: bytes) -> None:
        load = self.load
        if self.at_border:
            head, size = load.chunk_head, load.chunk_size
            if len(data) > size > 0 == len(data) % size:  # several chunks at once: one after another
                for at in range(0, len(data), size):
                    self.received(data[at : at + size])
                return
            if len(data) == size and data.startswith(head) and data.endswith(load.chunk_tail):
                at = len(head)
                if data[at : at + 6].isdigit() and data[at + 6] == 64:  # "@"
                    now = time.monotonic_ns()
                    if int(data[at : at + 6]) != self.seen:
                        self.problem = self.problem or "order"
                    self.seen += 1
                    load.tally.chunks += 1
                    load.tally.lags.append(now - int(data[at + 7 : at + 26]))
                    return
        elif self.untouched and data.endswith(load.whole_tail):
            head_end = len(data) - len(load.whole_tail)
            if (
                data.find(b"\r\n\r\n") == head_end
                and data.startswith(b"HTTP/1.1 200 ")
                and data.find(load.length_line, 0, head_end + 2) > 0
                and self.busy
            ):
                self._done("")
                return
        self._parse(data, fresh=self.untouched)

    def ended(self) -> None:
        self.load.clients.discard(self)
        if self.busy:
            self._done("cut")

    # The long way.

    def _parse(self, data: bytes, *, fresh: bool) -> None:
        self.untouched = self.at_border = False
        self.data = data if fresh else b""
        self.now = time.monotonic_ns()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close(abort=True)
            self.load.clients.discard(self)
            self._done(f"framing: {error}")
            return
        if self.busy and self.seen and not self.rest and data.endswith(b"\n\n\r\n"):
            self.at_border = True
            self.load.learn_chunk(data)

    def on_message_begin(self) -> None:
        # An answer that begins in the read in which the one before ended came before its question had been sent.
        if self.untouched or not self.busy:
            self.load.tally.errors["unasked"] += 1

    def on_body(self, body: bytes) -> None:
        if not self.load.chunks:
            self.rest += body
            return
        tally = self.load.tally
        whole, border, self.rest = (self.rest + body).rpartition(b"\n\n")
        for number, sent in _MARK.findall(whole):
            if int(number) != self.seen:
                self.problem = self.problem or "order"
            if not self.seen:
                tally.first.append(self.now - self.due)
            self.seen += 1
            tally.chunks += 1
            tally.lags.append(self.now - int(sent))
        if border:
            self.last = (whole + border)[-200:]

    def on_message_complete(self) -> None:
        if not self.busy:
            return
        question = self.load.question
        if (status := self.parser.get_status_code()) != 200:
            problem = f"status {status}"
        elif question.chunks:
            complete = self.seen == question.chunks and not self.rest
            ended = _ENDS[question.format].search(self.last)
            problem = self.problem or ("" if complete and ended else "incomplete")
        else:
            problem = "" if ANSWER.encode() in self.rest and self.rest.endswith(b"}") else "content"
            if not problem:
                self.load.learn_answer(self.data, self.rest)
        self._done(problem)

    def _done(self, problem: str) -> None:
        self.busy = False
        tally = self.load.tally
        if problem:
            tally.errors[problem] += 1
        else:
            now = self.load.answered = time.monotonic_ns()
            tally.done += 1
            tally.whole.append(now - self.due)
        self.load.on_done(self)


def closed_loop(
    question: Question, connections: int, seconds: float, watched: Watched = Watched(), warm: float = 0.5
) -> Tally:
    """Keep `connections` busy: each asks again as soon as it is answered. A connection that was lost is made again.

    Whole answers: before and after the window everybody is answered and the gateway has come to rest, so that its CPU time
    is that of the window's requests, with all that it does later for them. Streams: a window of a steady state, which has
    the late work of as many streams from before as it leaves behind.
    """
    asking = True

    def again(client: Client) -> None:
        if not asking:
            return
        if client.closed:
            load.loop.at(time.monotonic() + 0.001, begin)
        else:
            client.ask(time.monotonic_ns())

    def begin() -> None:
        if not asking:
            return
        if client := load.connect():
            client.ask(time.monotonic_ns())
        else:
            load.loop.at(time.monotonic() + 0.01, begin)

    load = Load(question, again)
    start = time.monotonic()
    for number in range(connections):  # one after another: paced streams must not beat as one
        load.loop.at(start + warm * 0.8 * number / connections, begin)
    load.loop.run(start + warm)
    try:
        if question.chunks:
            tally = load.window(watched, seconds)
            load.hear_each()
        else:
            asking = False
            load.finish()
            wait_until_idle(watched.gateway)
            load.loop.run(time.monotonic() + 0.01)  # who was closed because nobody asked is no error
            asking = True
            cpu, begun = cpu_seconds(watched.gateway), time.monotonic_ns()
            lost = connections - len(load.clients)
            for client in list(load.clients):
                again(client)
            for _ in range(lost):
                begin()
            tally = load.window(watched, seconds)
            asking = False
            load.finish()
            tally.answering = max(0, load.answered - begun) / 1e9
            wait_until_idle(watched.gateway)
            tally.cpu = cpu_seconds(watched.gateway) - cpu
    finally:
        asking = False
        load.close()
    tally.asked = load.asked
    return tally


def open_loop(
    question: Question, rate: float, seconds: float, watched: Watched = Watched(), warm: float = 0.5
) -> Tally:
    """Ask `rate` times per second on whichever connection is idle, or on a new one. Who is answered after the window counts too."""
    idle: list[Client] = []
    due = connected = time.monotonic()
    asking = True

    def ask() -> None:
        nonlocal due, connected
        if not asking:
            return
        # That our own timer is late is not the gateway's doing; that we waited for a connection is, also for those who are due meanwhile.
        since = round(due * 1e9) if due < connected else time.monotonic_ns()
        due += 1 / rate
        load.loop.at(due, ask)
        while idle:
            if not (client := idle.pop()).closed:
                client.ask(since)
                return
        fresh = load.connect()
        connected = time.monotonic()
        if fresh:
            fresh.ask(since)

    load = Load(question, idle.append)
    load.loop.at(due, ask)
    load.loop.run(due + warm)
    try:
        tally = load.window(watched, seconds)
        asking = False
        load.finish()
    finally:
        load.close()
    tally.asked = load.asked
    return tally
