"""What is measured of one gateway that runs: each case is a function that gives figures by name.

A figure's name says what it is, then where: `cpu_request_64`, `cpu_chunk_busy`. CPU is in microseconds, times are in microseconds,
memory in megabytes. `added_…` figures are made afterwards, from the same figure of the run without a gateway. Where nothing was
answered, there are errors and no figures.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from bench.load import Load, Question, Tally, Watched, closed_loop, open_loop, percentile
from bench.machine import most_streams, resident_mb, unhurried, wait_until_idle

Figures = dict[str, float]
Cases: TypeAlias = "Callable[[Subject, float], Iterable[Figures]]"
"""What is measured of a gateway that runs, in windows of so many seconds."""
RATE = 200
"""Chunks per second of a paced stream, where nothing else is said."""
MOST_STREAMS = 256
"""With more the provider's core is full before nginx's is 60 % busy."""
_FEW_STREAMS = 32
_BUSY = 0.6
"""Share of a core that "busy" keeps busy."""


@dataclass
class Subject:
    """A gateway that runs, and what came of asking it."""

    name: str
    url: str
    watched: Watched
    pairs: tuple[tuple[str, str], ...] = (("openai", "openai"),)
    headers: dict[str, str] = field(default_factory=dict)
    used: Callable[[], Figures] = dict  # what the databases beside it have done until now
    asked: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    load_bound: list[str] = field(default_factory=list)
    foreign: float = 0.0  # most cores that other programs used in a window
    stolen: float = 0.0  # most cores that the machine's host gave to others in a window

    def shares(self, before: Figures, tally: Tally, case: str) -> Figures:
        """What the databases have done since `before`, for each request that was asked."""
        return {
            f"{key}_{case}": (value - before[key]) / max(tally.asked, 1) for key, value in self.used().items()
        }

    def plain(self) -> Question:
        """A chat that gets a whole answer, from a model with a plain name."""
        return Question(self.url, "bench", headers=self.headers)

    def question(self, settings: str, chunks: int, pair: tuple[str, str] = ("openai", "openai")) -> Question:
        """A chat whose answer is a stream made to order; `pair` is (the provider's, the client's) format."""
        upstream, client = pair
        return Question(self.url, f"{upstream}/bench-{settings}", chunks, client, self.headers)

    def note(self, case: str, tally: Tally) -> Tally:
        """Remember what went wrong."""
        self.asked += tally.asked
        for problem, count in tally.errors.items():
            self.errors[f"{case}: {problem}"] += count
        self.foreign = max(self.foreign, tally.foreign)
        self.stolen = max(self.stolen, tally.stolen)
        if tally.load_bound:
            self.load_bound.append(case)
        return tally


def requests(subject: Subject, connections: int, seconds: float) -> Figures:
    """Requests per second, and CPU per request, of connections that ask as fast as they are answered."""
    before = subject.used()
    with unhurried(subject.watched.provider):
        tally = closed_loop(subject.plain(), connections, seconds, subject.watched)
    subject.note(f"{connections} connections", tally)
    if not tally.done:
        return {}
    return subject.shares(before, tally, str(connections)) | {
        f"cpu_request_{connections}": tally.cpu / tally.done * 1e6,
        f"rps_{connections}": tally.rate,
        f"core_use_{connections}": tally.core_use,
    }


def streams(
    subject: Subject, name: str, count: int, seconds: float, pair: tuple[str, str] = ("openai", "openai")
) -> Figures:
    """CPU per chunk and per stream, from windows with streams of 20 and of 200 chunks."""
    tallies = []
    for chunks in (20, 200):
        question = subject.question(f"c{chunks}-r{RATE}", chunks, pair)
        with unhurried(subject.watched.provider, really=name != "light"):
            tally = closed_loop(question, count, seconds, subject.watched, warm=chunks / RATE + 0.2)
        tallies.append(subject.note(f"{name}, {chunks} chunks", tally))
    if not all(tally.chunks for tally in tallies):
        return {}
    fixed, chunk = fit(*tallies)
    return {
        f"cpu_chunk_{name}": chunk,
        f"cpu_stream_{name}": fixed,
        f"streams_{name}": count,
        f"core_use_{name}": tallies[1].core_use,
    }


def fit(short: Tally, long: Tally) -> tuple[float, float]:
    """CPU of a stream's fixed part and of one chunk (us), from two windows with different shares of both."""
    determinant = short.begun * long.chunks - long.begun * short.chunks
    if not determinant:
        return 0.0, 0.0
    fixed = (short.cpu * long.chunks - long.cpu * short.chunks) / determinant
    chunk = (short.begun * long.cpu - long.begun * short.cpu) / determinant
    return fixed * 1e6, chunk * 1e6


def busy_streams(subject: Subject) -> int:
    """How many streams keep the gateway's core about 60 % busy.

    A chunk costs less the more of them come at once, so what few streams cost says too little: the number is corrected twice.
    """
    streams = _FEW_STREAMS
    for _ in range(3):
        question = subject.question(f"c200-r{RATE}", 200)
        tally = closed_loop(question, streams, 1.0, subject.watched, warm=0.5)
        subject.note("calibration", tally)
        if not tally.cpu:
            return MOST_STREAMS
        streams = max(4, min(MOST_STREAMS, round(_BUSY * tally.chunks / (tally.cpu * RATE))))
    return streams


def percentiles(name: str, nanoseconds: array[int], place: str = "") -> Figures:
    """The median and p99 in microseconds; of nothing, none: it would look like the best of all."""
    if not nanoseconds:
        return {}
    return {f"{name}_p{share}{place}": percentile(nanoseconds, share / 100) / 1e3 for share in (50, 99)}


def latency(subject: Subject, seconds: float) -> Figures:
    """How long a whole answer takes at 50 requests per second."""
    before = subject.used()
    tally = open_loop(subject.plain(), 50, seconds, subject.watched)
    wait_until_idle(subject.watched.gateway)
    subject.note("50 requests/s", tally)
    return subject.shares(before, tally, "latency") | percentiles("latency", tally.whole)


def first_token(subject: Subject, seconds: float) -> Figures:
    """How long the first token takes at 20 streams per second."""
    tally = open_loop(subject.question(f"c5-r{RATE}", 5), 20, seconds, subject.watched)
    subject.note("20 streams/s", tally)
    return percentiles("first_token", tally.first)


def lag(subject: Subject, count: int, seconds: float) -> Figures:
    """How long a chunk is under way, with paced streams of 50 chunks per second."""
    tally = closed_loop(subject.question("c100-r50", 100), count, seconds, subject.watched, warm=2.2)
    subject.note(f"{count} paced streams", tally)
    return percentiles("lag", tally.lags, f"_{count}")


def memory(subject: Subject, count: int, patience: float = 60.0) -> Figures:
    """Resident memory with so many streams open at once, each of which has said something.

    Those that have not within `patience` seconds are errors: a gateway that is overrun may not even take their connections.
    """
    wait_until_idle(subject.watched.gateway, patience)
    load = Load(subject.question("c1000-r1", 1000), lambda _client: None)
    begin = time.monotonic()
    for number in range(count):
        if time.monotonic() > begin + patience:
            break
        if client := load.connect():
            client.ask(time.monotonic_ns())
        if number % 50 == 0:
            load.loop.run(time.monotonic() + 0.01)  # the first ones' answers must not wait for the last
    while load.begun() < count and time.monotonic() < begin + patience:
        load.loop.run(time.monotonic() + 0.2)
    load.loop.run(time.monotonic() + 1)
    resident = resident_mb(subject.watched.gateway)
    silent = count - load.begun()
    load.close()
    load.tally.asked = load.asked
    if silent:
        load.tally.errors["no first chunk"] += silent
    subject.note(f"{count} open streams", load.tally)
    return {f"memory_{count}": resident}


def quick(subject: Subject, seconds: float) -> Iterator[Figures]:
    """What `make bench` measures; of the floor only what added figures are counted from, and its speed."""
    yield requests(subject, 64, seconds)
    yield latency(subject, max(3.0, seconds))
    yield first_token(subject, max(3.0, seconds))
    yield lag(subject, 100, seconds)
    if subject.watched.gateway:
        count = busy_streams(subject)
        for pair in subject.pairs:
            if pair in _QUICK_PAIRS:
                yield streams(subject, name_of(pair), count, seconds, pair)
        yield memory(subject, 1_000)


def whole(subject: Subject, seconds: float) -> Iterator[Figures]:
    """What `make bench-peers` measures."""
    yield from quick(subject, seconds)
    yield requests(subject, 1, seconds)
    yield requests(subject, 256, seconds)
    if subject.watched.gateway:
        count = busy_streams(subject)
        yield streams(subject, "light", min(32, count), seconds)
        for pair in subject.pairs:
            if pair not in _QUICK_PAIRS:
                yield streams(subject, name_of(pair), count, seconds, pair)
        yield memory(subject, most_streams(10_000))


def shared(subject: Subject, seconds: float) -> Iterator[Figures]:
    """What is measured with databases beside the gateway: all that differs by them."""
    yield requests(subject, 64, seconds)
    yield latency(subject, max(3.0, seconds))
    yield first_token(subject, max(3.0, seconds))
    yield streams(subject, "busy", busy_streams(subject), seconds)


def workers(subject: Subject, seconds: float) -> Iterator[Figures]:
    """What is measured of several workers: what a request costs, how many there are, how long one takes."""
    yield requests(subject, 64, seconds)
    yield requests(subject, 256, seconds)
    yield latency(subject, max(3.0, seconds))
    yield memory(subject, 1_000)


_QUICK_PAIRS = {("openai", "openai"), ("anthropic", "openai")}


def name_of(pair: tuple[str, str]) -> str:
    """A pair of formats in a figure's name; the plain case is `busy`."""
    return "busy" if pair == ("openai", "openai") else f"{pair[0]}_to_{pair[1]}"
