"""What the gateway costs, side by side with its peers, in one run: `make bench`.

Absolute times say much about the machine and little about the gateway, so every figure is measured for each peer within the same
minute, round by round, and the table gives ratios. Peers: `direct` (no gateway: the floor), `naive` (bench/naive.py), `nginx` where it is
on PATH, and `penstock` with bench/config.yaml: its master key, ledger and metrics on. Where there are two cores, the
gateway has the first to itself and everything else shares the second.

Measured: CPU per request at 64 connections; CPU per streamed chunk, from streams of 20 and of 200 chunks; the latency that is added at
50 requests per second; idle memory; the time from start to first answer. Any wrong answer is counted and shown: a figure
with errors is worth nothing. Results go to bench/results/, with versions and machine.

    python -m bench.run                       one round, about a minute
    python -m bench.run --rounds 3            medians of three
    python -m bench.run --peers naive,penstock
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import uvloop

from bench.load import Question, Tally, closed_loop, open_loop, percentile, resident_mb

HERE = Path(__file__).parent
Figures = dict[str, float]

# figure → (what it is, its unit, decimals)
FIGURES = {
    "cpu_request": ("CPU per request, 64 connections", "us", 0),
    "rps": ("requests per second, 64 connections", "", 0),
    "cpu_chunk": ("CPU per chunk, same format", "us", 1),
    "cpu_stream": ("CPU per stream, its fixed part", "us", 0),
    "cpu_chunk_translated": ("CPU per chunk, Anthropic to OpenAI", "us", 1),
    "latency_p50": ("latency p50, 50 requests/s", "us", 0),
    "latency_p99": ("latency p99, 50 requests/s", "us", 0),
    "added_p50": ("added latency p50, 50 requests/s", "us", 0),
    "lag_p50": ("lag per chunk p50", "us", 0),
    "added_lag_p50": ("added lag per chunk p50", "us", 0),
    "start": ("start to first answer", "s", 2),
    "idle_mb": ("idle memory (RSS)", "MB", 0),
    "errors": ("wrong answers", "", 0),
}
RATIOS = ("cpu_request", "rps", "cpu_chunk", "added_p50", "added_lag_p50", "start", "idle_mb")


@dataclass(frozen=True)
class Peer:
    """A gateway: how it is started on a port in front of an upstream, given a folder of its own."""

    name: str
    command: Callable[[int, int, Path], list[str]]
    formats: tuple[str, ...] = ("openai",)


def _naive(port: int, upstream: int, _folder: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "bench.naive",
        "--port",
        str(port),
        "--upstream",
        f"http://127.0.0.1:{upstream}",
    ]


def _penstock(port: int, _upstream: int, _folder: Path) -> list[str]:
    binary = Path(sys.executable).with_name("penstock")
    return [str(binary), "--config", str(HERE / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]


def _nginx(port: int, upstream: int, folder: Path) -> list[str]:
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error;\n"
        "events { worker_connections 20000; }\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        f"  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        "  keepalive_requests 1000000000;\n"
        f"  upstream provider {{ server 127.0.0.1:{upstream}; keepalive 4096; keepalive_requests 1000000000; }}\n"
        f"  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://provider;\n"
        '    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }\n'
        "  } }\n"
    )
    return ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]


PEERS = {
    "naive": Peer("naive", _naive),
    "nginx": Peer("nginx", _nginx),
    "penstock": Peer("penstock", _penstock, ("openai", "anthropic")),
}


@contextmanager
def started(command: list[str], core: int, folder: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process on its core, in a bare environment; its output is in `folder`/log. Stopped afterwards."""
    cores = sorted(os.sched_getaffinity(0))
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **env}
    with (folder / "log").open("wb") as log:
        os.sched_setaffinity(0, {cores[core % len(cores)]})  # a child begins where its parent is
        try:
            process = subprocess.Popen(command, cwd=HERE.parent, env=environment, stdout=log, stderr=log)
        finally:
            os.sched_setaffinity(0, cores)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def first_answer(question: Question, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until the gateway answers rightly; a gateway that ended, or does not within 30 s, stops the bench."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(*question.address)
            writer.write(question.encode())
            status = await reader.readline()
            writer.close()
            if b" 200 " in status:
                return
        await asyncio.sleep(0.005)
    raise SystemExit(
        f"{process.args!r} did not answer:\n{(folder / 'log').read_text(errors='replace')[-3000:]}"
    )


def fit(short: Tally, long: Tally) -> tuple[float, float]:
    """CPU of a stream's fixed part and of one chunk (us), from two windows with different shares of both."""
    determinant = short.begun * long.chunks - long.begun * short.chunks
    if not determinant:
        return 0.0, 0.0
    fixed = (short.cpu * long.chunks - long.cpu * short.chunks) / determinant
    chunk = (short.begun * long.cpu - long.begun * short.cpu) / determinant
    return fixed * 1e6, chunk * 1e6


async def measure(
    url: str, pid: int | None, formats: tuple[str, ...], seconds: float, streams: int
) -> Figures:
    """All figures of one gateway that runs; `pid` None where there is none."""

    def ask(settings: str = "", chunks: int = 0, form: str = "openai") -> Question:
        return Question(f"{url}/v1/chat/completions", f"{form}/bench-{settings}", chunks)

    busy = await closed_loop(ask(), 64, seconds, pid)
    calm = await open_loop(ask(), 50, seconds, pid)
    short = await closed_loop(ask("c20-r200", 20), streams, seconds, pid)
    long = await closed_loop(ask("c200-r200", 200), streams, seconds, pid)
    fixed, chunk = fit(short, long)
    tallies = {"64 connections": busy, "50/s": calm, "20 chunks": short, "200 chunks": long}
    figures = {
        "cpu_request": busy.cpu / max(busy.done, 1) * 1e6,
        "rps": busy.done / busy.seconds,
        "cpu_chunk": chunk,
        "cpu_stream": fixed,
        "latency_p50": percentile(calm.whole, 0.5) / 1e3,
        "latency_p99": percentile(calm.whole, 0.99) / 1e3,
        "lag_p50": percentile(long.lags, 0.5) / 1e3,
    }
    if "anthropic" in formats:
        translated = [
            await closed_loop(ask(f"c{chunks}-r200", chunks, "anthropic"), streams, seconds, pid)
            for chunks in (20, 200)
        ]
        tallies |= {"Anthropic, 20 chunks": translated[0], "Anthropic, 200 chunks": translated[1]}
        figures["cpu_chunk_translated"] = fit(*translated)[1]
    figures["errors"] = sum(tally.errors.total() for tally in tallies.values())
    for name, tally in tallies.items():
        if tally.errors or tally.load_bound:
            print(
                f"    {name}: {'the load was the limit ' if tally.load_bound else ''}{dict(tally.errors) or ''}",
                flush=True,
            )
    return figures


async def one_round(peers: list[Peer], upstream: int, seconds: float, streams: int) -> dict[str, Figures]:
    """Every peer once."""
    print("  direct", flush=True)
    floor = await measure(f"http://127.0.0.1:{upstream}", None, ("openai",), seconds, streams)
    results = {"direct": floor}
    for peer in peers:
        print(f"  {peer.name}", flush=True)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
            folder = Path(name)
            env = {"BENCH_UPSTREAM": str(upstream), "PENSTOCK_DATA_DIR": str(folder / "data")}
            begin = time.monotonic()
            with started(peer.command(port, upstream, folder), 0, folder, **env) as process:
                await first_answer(Question(f"{url}/v1/chat/completions", "openai/bench-"), process, folder)
                figures: Figures = {"start": time.monotonic() - begin}
                await asyncio.sleep(0.3)
                figures["idle_mb"] = resident_mb(process.pid)
                figures |= await measure(url, process.pid, peer.formats, seconds, streams)
        figures["added_p50"] = figures["latency_p50"] - floor["latency_p50"]
        figures["added_lag_p50"] = figures["lag_p50"] - floor["lag_p50"]
        results[peer.name] = figures
    return results


def medians(rounds: list[dict[str, Figures]]) -> dict[str, Figures]:
    """Per peer and figure the median of all rounds."""
    return {
        peer: {key: statistics.median(each[peer][key] for each in rounds) for key in figures}
        for peer, figures in rounds[0].items()
    }


def table(results: dict[str, Figures]) -> str:
    """The figures, and below them how many times Penstock's each peer's are."""
    peers = list(results)
    rows = [["", *peers], ["", *("-" * len(peer) for peer in peers)]]
    for key, (title, unit, decimals) in FIGURES.items():
        cells = [f"{results[peer][key]:,.{decimals}f}" if key in results[peer] else "" for peer in peers]
        rows.append([f"{title} ({unit})" if unit else title, *cells])
    others = [peer for peer in peers if peer not in {"direct", "penstock"}]
    if "penstock" in results and others:
        rows.append([""] * len(rows[0]))
        rows.append(["penstock is … times", "", *[f"{peer}" if peer in others else "" for peer in peers[1:]]])
        for key in RATIOS:
            own = results["penstock"][key]
            cells = [
                f"{own / results[p][key]:.2f}" if p in others and results[p][key] > 0 else ""
                for p in peers[1:]
            ]
            rows.append([FIGURES[key][0], "", *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def save(rounds: list[dict[str, Figures]], arguments: argparse.Namespace) -> Path:
    """Everything measured, with what it was measured on."""
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    file = folder / time.strftime("%Y%m%d-%H%M%S.json")
    packages = ("penstock", "aiohttp", "uvloop", "httptools", "msgspec")
    about = {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "versions": {name: version(name) for name in packages},
        "arguments": vars(arguments),
        "rounds": rounds,
        "median": medians(rounds),
    }
    file.write_text(json.dumps(about, indent=1) + "\n")
    return file


async def run(arguments: argparse.Namespace) -> int:
    """All rounds; the exit code is 1 if any answer was wrong."""
    names = arguments.peers.split(",") if arguments.peers else ["naive", "nginx", "penstock"]
    peers = [PEERS[name] for name in names if name != "nginx" or shutil.which("nginx")]
    cores = sorted(os.sched_getaffinity(0))
    upstream = free_port()
    rounds = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        command = [sys.executable, "-m", "bench.upstream", "--port", str(upstream)]
        with started(command, 1, Path(folder)) as process:
            os.sched_setaffinity(0, {cores[1 % len(cores)]})
            address = Question(f"http://127.0.0.1:{upstream}/v1/chat/completions", "bench")
            await first_answer(address, process, Path(folder))
            for number in range(arguments.rounds):
                print(f"round {number + 1} of {arguments.rounds}", flush=True)
                os.sched_setaffinity(0, cores)
                rounds.append(await one_round(peers, upstream, arguments.seconds, arguments.streams))
    result = medians(rounds)
    print(f"\n{table(result)}\n\nwritten to {save(rounds, arguments).relative_to(HERE.parent)}")
    return int(any(figures["errors"] for figures in result.values()))


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="What the gateway costs, side by side with its peers.")
    parser.add_argument(
        "--rounds", type=int, default=1, help="how often everything is measured; medians are shown"
    )
    parser.add_argument("--seconds", type=float, default=2.5, help="length of each measurement")
    parser.add_argument("--streams", type=int, default=64, help="paced streams at once, 200 chunks/s each")
    parser.add_argument("--peers", default="", help="comma-separated; default all that are there")
    sys.exit(uvloop.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
