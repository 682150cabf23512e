"""What the gateway costs, side by side with its peers, in one run: `make bench`.

Absolute times say much about the machine and little about the gateway, so every figure is measured for each peer within the same
few minutes, round by round, and what counts are ratios. The gateway has the first core to itself; the load has the second, and the
provider the third or, where there is none, the second too.

Every round, the versions and the machine go to bench/results/ as soon as a peer has been measured. `bench.report` makes the table
of it.

    python -m bench.run                          the quick set, medians of three rounds, under five minutes
    python -m bench.run --whole                  every case and every peer
    python -m bench.run --rounds 1 --peers penstock
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import cases, machine, report
from bench.cases import Cases, Figures, Subject
from bench.load import Question, Watched
from bench.peers import OURS, PEERS, QUICK, Missing, Peer

RESULTS = Path(__file__).parent / "results"


def measure_peer(peer: Peer, upstream: int, provider: int, seconds: float, *, whole: bool) -> Figures:
    """Start the peer, measure it and stop it."""
    port = machine.free_port()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name, peer.beside() as databases:
        folder = Path(name)
        command, env = peer.command(port, upstream, folder), peer.env(upstream, folder)
        if databases:
            env |= databases.env
        begin = time.monotonic()
        with machine.started(command, 0, folder, env) as process:
            subject = Subject(
                peer.name,
                f"http://127.0.0.1:{port}",
                Watched(process.pid, provider),
                peer.pairs,
                peer.headers(upstream),
            )
            machine.wait_for(subject.plain().is_answered, process, folder)
            figures: Figures = {"start": time.monotonic() - begin}
            subject.asked += 1
            machine.wait_until_idle(process.pid)
            figures["idle_mb"] = machine.resident_mb(process.pid)
            if databases:
                subject.headers |= databases.admit(subject.url)
                subject.used = databases.used
            figures |= measure(subject, seconds, peer.measured or _usual(whole=whole))
        rows = databases.rows() if databases else peer.rows(folder) if peer.rows else None
        if rows is not None:
            figures["rows_missing"] = subject.asked - rows
            if figures["rows_missing"]:
                kind = "missing" if figures["rows_missing"] > 0 else "too many"
                subject.errors[f"ledger rows {kind}"] += int(abs(figures["rows_missing"]))
    told(subject, figures)
    if databases:
        del figures["foreign"]  # they would be the strangers
    return figures


def _usual(*, whole: bool) -> Cases:
    return cases.whole if whole else cases.quick


def measure(subject: Subject, seconds: float, measured: Cases) -> Figures:
    """All figures of one gateway that runs."""
    figures: Figures = {}
    for found in measured(subject, seconds):
        figures |= found
        machine.wait_until_idle(
            subject.watched.gateway
        )  # an overloaded peer must not pay for it in the next case
    return figures


def told(subject: Subject, figures: Figures) -> Figures:
    """The figures with the number of errors; what was odd is said."""
    figures["errors"] = subject.errors.total()
    figures["foreign"], figures["stolen"] = subject.foreign, subject.stolen
    figures |= {f"load_bound: {case}": 1 for case in subject.load_bound}
    for problem, count in subject.errors.items():
        print(f"    {problem}: {count}", flush=True)
    return figures


def one_round(
    peers: Sequence[Peer],
    upstream: int,
    provider: int,
    seconds: float,
    missing: dict[str, str],
    *,
    whole: bool,
) -> Iterator[tuple[str, Figures]]:
    """Everybody once. Who cannot be measured to the end has an error instead of figures, and `missing` says why."""
    print("  direct", flush=True)
    direct = Subject("direct", f"http://127.0.0.1:{upstream}", Watched(0, provider))
    floor = told(direct, measure(direct, seconds, _usual(whole=whole)))
    yield "direct", floor
    for peer in peers:
        print(f"  {peer.name}", flush=True)
        try:
            figures = measure_peer(peer, upstream, provider, seconds, whole=whole)
        except (Exception, machine.NotAnsweringError) as error:  # whatever it was, the others are measured
            print(f"    {error!r}", flush=True)
            missing[peer.name] = (str(error).strip() or repr(error)).splitlines()[-1]
            figures = {"errors": 1}
        for key in [key for key in figures if key.startswith(("latency", "first_token", "lag"))]:
            if key in floor:
                figures[f"added_{key}"] = figures[key] - floor[key]
        yield peer.name, figures


_TOGETHER: Mapping[str, Callable[[Iterable[float]], float]] = {"errors": sum, "foreign": max, "stolen": max}
"""What several rounds come to, where it is not their median."""


def medians(rounds: Sequence[dict[str, Figures]]) -> dict[str, Figures]:
    """Per peer and figure the median of the rounds that have it; of errors the sum, and of the worst windows the worst."""
    found: dict[str, Figures] = {}
    for peer in dict.fromkeys(peer for each in rounds for peer in each):
        of_peer = [each[peer] for each in rounds if peer in each]
        found[peer] = {
            key: _TOGETHER.get(key, statistics.median)(
                figures.get(key, 0)
                for figures in of_peer
                if key in figures or key.startswith("load_bound")  # which says no by its absence
            )
            for key in dict.fromkeys(key for figures in of_peer for key in figures)
        }
    return found


def find_peers(names: Sequence[str]) -> tuple[list[Peer], dict[str, str], dict[str, str]]:
    """Those that can be had, their versions, and why the others cannot."""
    peers, versions, missing = [], {}, {}
    for name in names:
        if name not in PEERS:
            raise SystemExit(f"There is no peer {name!r}: there are {', '.join(PEERS)}.")
        try:
            versions[name] = PEERS[name].version()
            peers.append(PEERS[name])
        except Missing as why:
            missing[name] = str(why)
    return peers, versions, missing


def run(arguments: argparse.Namespace) -> int:
    """All rounds; the exit code is 1 if any of Penstock's answers was wrong."""
    machine.allow_many_files()
    names = arguments.peers.split(",") if arguments.peers else (PEERS if arguments.whole else QUICK)
    peers, versions, missing = find_peers(list(names))
    upstream = machine.free_port()
    rounds: list[dict[str, Figures]] = []
    results: dict[str, Any] = {
        "when": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "machine": machine.describe(),
        "python": platform.python_version(),
        "versions": versions
        | {name: version(name) for name in ("aiohttp", "uvloop", "httptools", "msgspec")},
        "missing": missing,
        "arguments": vars(arguments),
        "rounds": rounds,
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / time.strftime("%Y%m%d-%H%M%S.json", time.gmtime())
    began = time.monotonic()

    def keep(*, finished: bool) -> None:
        more = {"finished": finished, "took": round(time.monotonic() - began), "median": medians(rounds)}
        results.update(more)
        file.write_text(json.dumps(results, indent=1) + "\n")

    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "bench.provider", "--port", str(upstream)]
        with machine.started(command, 2 if machine.SPARE_CORES else 1, folder) as provider:
            machine.pin(1)
            question = Question(f"http://127.0.0.1:{upstream}", "bench")
            machine.wait_for(question.is_answered, provider, folder)
            for number in range(arguments.rounds):
                print(f"round {number + 1} of {arguments.rounds}", flush=True)
                rounds.append({})
                measured = one_round(
                    peers, upstream, provider.pid, arguments.seconds, missing, whole=arguments.whole
                )
                for peer, figures in measured:
                    rounds[-1][peer] = figures
                    keep(finished=False)  # three quarters of an hour are not lost if the rest is
    keep(finished=True)
    print(f"\n{report.render(results)}\nwritten to {file}")
    ours = [figures.get("errors", 0) for peer, figures in results["median"].items() if peer in OURS]
    return int(any(ours))


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="What the gateway costs, side by side with its peers.")
    parser.add_argument(
        "--whole", action="store_true", help="every case and every peer (three quarters of an hour)"
    )
    parser.add_argument("--rounds", type=machine.count, default=3, help="how often everything is measured")
    parser.add_argument("--seconds", type=machine.amount, default=1.5, help="length of each measurement")
    parser.add_argument("--peers", default="", help=f"comma-separated, of {', '.join(PEERS)}")
    machine.clean_up_when_told()
    sys.exit(run(parser.parse_args()))


if __name__ == "__main__":
    main()
