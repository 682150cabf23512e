"""An hour of everything at once: `make soak`.

Requests at a fixed rate and paced streams go through Penstock together, and every ten seconds its memory, its CPU time, the lag of its
event loop and that of the streams' chunks are noted. What leaks or slows down shows as a slope: the run fails if an answer was wrong, if a row is missing
from the ledger, or if memory in the last tenth is over a fifth more than in the second tenth (the first one fills caches).

    python -m bench.soak --minutes 60
    python -m bench.soak --outage 180      # without a database instead, see bench.outage
    python -m bench.soak --kills 50
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from bench import machine, outage
from bench.cases import RATE, Subject
from bench.load import Client, Load, Watched, percentile
from bench.peers import PEERS
from bench.run import RESULTS

Sample = dict[str, float]
STREAMS = 50
REQUESTS = 100  # per second


def soak(
    subject: Subject, seconds: float, every: float, keep: Callable[[Sequence[Sample]], None] = lambda _: None
) -> list[Sample]:
    """Keep asking, and look every so often; `keep` gets all that was seen until then."""
    asking = True
    idle: list[Client] = []

    def stream_again(client: Client) -> None:
        if asking:
            streams.loop.at(time.monotonic() + 0.01, begin_stream if client.closed else partial(_ask, client))

    def begin_stream() -> None:
        if asking and (client := streams.connect()):
            _ask(client)

    def ask_whole() -> None:
        if asking:
            requests.loop.at(time.monotonic() + 1 / REQUESTS, ask_whole)
            if client := _open_one(idle) or requests.connect():
                _ask(client)

    streams = Load(subject.question(f"c200-r{RATE // 4}", 200), stream_again)
    requests = Load(
        subject.plain(), lambda client: None if client.closed else idle.append(client), streams.loop
    )
    start = time.monotonic()
    for number in range(STREAMS):
        streams.loop.at(start + number / STREAMS, begin_stream)
    streams.loop.at(start, ask_whole)
    samples: list[Sample] = []
    try:
        while time.monotonic() < start + seconds:
            tally = streams.window(subject.watched, every)
            samples.append(
                {
                    "seconds": round(time.monotonic() - start, 1),
                    "memory_mb": round(machine.resident_mb(subject.watched.gateway), 1),
                    "core_use": round(tally.core_use, 3),
                    "loop_lag_us": loop_lag(subject.url) * 1e6,
                    "chunk_lag_p50_us": percentile(tally.lags, 0.5) / 1e3,
                    "chunk_lag_p99_us": percentile(tally.lags, 0.99) / 1e3,
                }
            )
            print("  ".join(f"{key} {value:,.2f}" for key, value in samples[-1].items()), flush=True)
            keep(samples)
        asking = False
        streams.finish()
        requests.finish()
    finally:
        for client in streams.clients | requests.clients:
            client.close()
        streams.loop.close()
    subject.errors += streams.tally.errors + requests.tally.errors
    subject.asked += streams.asked + requests.asked
    return samples


def loop_lag(url: str) -> float:
    """Seconds by which the gateway's event loop was late of late, as its metrics have it; 0 without metrics."""
    with contextlib.suppress(OSError), urlopen(f"{url}/metrics", timeout=5) as page:
        found = re.search(rb"(?m)^penstock_event_loop_lag_seconds (\S+)", page.read())
        return float(found[1]) if found else 0.0
    return 0.0


def _open_one(idle: list[Client]) -> Client | None:
    """The connection that was used last; those that the gateway has closed because nobody used them are forgotten."""
    while idle:
        client = idle.pop()
        if not client.closed:
            return client
    return None


def _ask(client: Client) -> None:
    client.ask(time.monotonic_ns())


def growth(samples: Sequence[Sample]) -> float:
    """Memory of the last tenth over that of the second tenth."""
    tenth = max(1, len(samples) // 10)
    second, last = samples[tenth : 2 * tenth] or samples[:1], samples[-tenth:]
    return _mean(last) / (
        _mean(second) or 1
    )  # of a gateway that has died nothing resides, and its errors say so


def _mean(samples: Sequence[Sample]) -> float:
    return sum(sample["memory_mb"] for sample in samples) / len(samples)


def run(minutes: float, every: float) -> int:
    """Start what is needed, soak, and judge."""
    peer = PEERS["penstock"]
    upstream, port = machine.free_port(), machine.free_port()
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / time.strftime("soak-%Y%m%d-%H%M%S.json", time.gmtime())

    def keep(samples: Sequence[Sample], verdict: Mapping[str, Any] = {}) -> None:
        found = {**verdict, "machine": machine.describe(), "samples": samples}
        file.write_text(json.dumps(found, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        beside, folder = Path(first), Path(second)
        command = [sys.executable, "-m", "bench.provider", "--port", str(upstream)]
        with machine.started(command, 1, beside) as provider:
            with machine.started(
                peer.command(port, upstream, folder), 0, folder, peer.env(upstream, folder)
            ) as process:
                machine.pin(1)
                watched = Watched(process.pid, provider.pid)
                subject = Subject(peer.name, f"http://127.0.0.1:{port}", watched)
                machine.wait_for(subject.plain().is_answered, process, folder)
                subject.asked += 1
                samples = soak(subject, minutes * 60, every, keep)
            missing = subject.asked - (peer.rows(folder) if peer.rows else 0)
    grown = growth(samples)
    verdict: dict[str, Any] = {
        "asked": subject.asked,
        "rows_missing": missing,
        "errors": dict(subject.errors),
        "memory_growth": round(grown, 3),
    }
    keep(samples, verdict)
    print(f"{verdict}\nwritten to {file}")
    return int(bool(subject.errors or missing or grown > 1.2))


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="An hour of everything at once.")
    parser.add_argument("--minutes", type=machine.amount, default=60)
    parser.add_argument("--every", type=machine.amount, default=10, help="seconds between looks")
    parser.add_argument("--outage", type=machine.amount, help="instead: so many seconds without a database")
    parser.add_argument("--kills", type=machine.count, help="instead: so many kills under load")
    arguments = parser.parse_args()
    machine.clean_up_when_told()
    if arguments.outage or arguments.kills:
        sys.exit(outage.run(seconds=arguments.outage or 0, count=arguments.kills or 0))
    sys.exit(run(arguments.minutes, arguments.every))


if __name__ == "__main__":
    main()
