"""From a run's results to what people read: the targets and whether they are met, the figures, the arithmetic, a plot.

    python -m bench.report                                write README.md's part and the plot from results/reference.json
    python -m bench.report results/20261121-061500.json   make that run the reference first

One run is kept in git as the reference: bench/results/reference.json, with the plot beside it. The README's part between the markers
is made of it and of nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

Figures = Mapping[str, float]
Results = Mapping[str, Any]

HERE = Path(__file__).parent
REFERENCE = HERE / "results" / "reference.json"
PLOT = HERE / "results" / "reference.svg"
BEGIN, END = "<!-- results: python -m bench.report -->", "<!-- end of results -->"
ORDER = ("direct", "nginx", "bare", "penstock", "shared", "workers", "naive", "portkey", "litellm")

# figure → (what it is, its unit, decimals)
FIGURES = {
    "cpu_request_1": ("CPU per request, 1 connection", "us", 0),
    "cpu_request_64": ("CPU per request, 64 connections", "us", 1),
    "cpu_request_256": ("CPU per request, 256 connections", "us", 1),
    "rps_1": ("requests/s, 1 connection", "", 0),
    "rps_64": ("requests/s, 64 connections", "", 0),
    "rps_256": ("requests/s, 256 connections", "", 0),
    "cpu_chunk_busy": ("CPU per chunk, busy", "us", 1),
    "cpu_stream_busy": ("CPU per stream, its fixed part, busy", "us", 0),
    "streams_busy": ("streams at once, busy", "", 0),
    "core_use_busy": ("core use, busy", "", 2),
    "cpu_chunk_light": ("CPU per chunk, light", "us", 1),
    "cpu_chunk_anthropic_to_openai": ("CPU per chunk, Anthropic to OpenAI, busy", "us", 1),
    "cpu_chunk_openai_to_anthropic": ("CPU per chunk, OpenAI to Anthropic, busy", "us", 1),
    "cpu_chunk_anthropic_to_anthropic": ("CPU per chunk, Anthropic to Anthropic, busy", "us", 1),
    "cpu_chunk_gemini_to_openai": ("CPU per chunk, Gemini to OpenAI, busy", "us", 1),
    "cpu_chunk_gemini_to_anthropic": ("CPU per chunk, Gemini to Anthropic, busy", "us", 1),
    "added_latency_p50": ("added latency p50, 50 requests/s", "us", 0),
    "added_latency_p99": ("added latency p99, 50 requests/s", "us", 0),
    "added_first_token_p50": ("added time to first token p50, 20 streams/s", "us", 0),
    "added_first_token_p99": ("added time to first token p99, 20 streams/s", "us", 0),
    "added_lag_p50_100": ("added lag per chunk p50, 100 paced streams", "us", 1),
    "added_lag_p99_100": ("added lag per chunk p99, 100 paced streams", "us", 0),
    "memory_1000": ("memory, 1,000 open streams", "MB", 0),
    "memory_10000": ("memory, 10,000 open streams", "MB", 0),
    "start": ("start to first answer", "s", 2),
    "idle_mb": ("idle memory", "MB", 0),
    "redis_scripts_64": ("Redis: scripts per request, 64 connections", "", 2),
    "redis_reads_64": ("Redis: reads of its sockets per request, 64 connections", "", 2),
    "redis_cpu_64": ("Redis: CPU per request, 64 connections", "us", 1),
    "redis_scripts_latency": ("Redis: scripts per request, 50 requests/s", "", 2),
    "postgres_transactions_64": ("Postgres: transactions that wrote per request, 64 connections", "", 4),
    "postgres_cpu_64": ("Postgres: CPU per request, 64 connections", "us", 1),
    "postgres_transactions_latency": ("Postgres: transactions that wrote per request, 50 requests/s", "", 2),
    "errors": ("errors", "", 0),
    "foreign": ("other programs on the machine, worst window", "cores", 2),
    "stolen": ("taken by the machine's host, worst window", "cores", 2),
}


@dataclass(frozen=True)
class Target:
    """A promise: the figure of Penstock, or of the peer `of`, is at most `factor` times `peer`'s, or `limit`, plus `extra`."""

    figure: str
    peer: str = ""
    factor: float = 1.0
    said: str = ""
    limit: float = 0.0
    extra: float = 0.0
    of: str = "penstock"
    title: str = ""

    def bound(self, median: Mapping[str, Figures]) -> float | None:
        """The bound in this run; None if the peer was not measured."""
        if not self.peer:
            return self.limit
        figure = "cpu_chunk_busy" if self.extra else self.figure
        theirs = median.get(self.peer, {}).get(figure)
        return None if theirs is None else theirs * self.factor + self.extra


TARGETS = (
    Target("cpu_request_64", "nginx", 6, "6 times nginx"),
    Target("cpu_request_64", "litellm", 1 / 170, "1/170 of LiteLLM"),
    Target("cpu_request_64", "portkey", 1 / 17, "1/17 of Portkey"),
    Target("cpu_request_64", "naive", 1 / 3, "1/3 of naive aiohttp"),
    Target("cpu_chunk_busy", "nginx", 1.7, "1.7 times nginx"),
    Target("cpu_chunk_anthropic_to_openai", "penstock", 1, "the same format plus 5 us", extra=5),
    Target("added_latency_p50", "nginx", 2.5, "2.5 times nginx"),
    Target("added_first_token_p50", "nginx", 2.5, "2.5 times nginx"),
    Target("added_lag_p50_100", "nginx", 1.3, "1.3 times nginx"),
    Target("memory_1000", said="100 MB", limit=100),
    Target("start", said="1 s", limit=1),
    Target("idle_mb", said="80 MB", limit=80),
    Target(
        "cpu_request_64",
        "penstock",
        1.1,
        "1.1 times one worker's",
        of="workers",
        title="CPU per request, 64 connections, two workers",
    ),
    Target("errors", said="0", limit=0),
)


# -- tables ----------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown that can be read as it is: the first row is the head, the first column is text, the others are figures."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    rule = (
        "|"
        + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths))
        + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def shown(figure: str, value: float | None) -> str:
    """A figure with its unit."""
    _, unit, decimals = FIGURES[figure]
    return "" if value is None else f"{value:,.{decimals}f} {unit}".strip()


def targets(median: Mapping[str, Figures]) -> str:
    """Each promise with its bound, and whether it is kept."""
    rows = [("target", "at most", "in this run", "Penstock", "met")]
    for target in TARGETS:
        own = median.get(target.of, {}).get(target.figure)
        bound = target.bound(median)
        met = "" if own is None or bound is None else ("yes" if own <= bound else "**no**")
        rows.append(
            (
                target.title or FIGURES[target.figure][0],
                target.said,
                shown(target.figure, bound) or "not measured",
                shown(target.figure, own),
                met,
            )
        )
    return table(rows)


def figures(median: Mapping[str, Figures]) -> str:
    """All figures, a column for each peer. A figure with a star: there the load was the limit and not the peer."""
    peers = [peer for peer in ORDER if peer in median]
    rows = [["", *peers]]
    most = max((int(key[7:]) for key in median.get("penstock", {}) if key.startswith("memory_")), default=0)
    known = {**FIGURES, f"memory_{most}": (f"memory, {most:,} open streams", "MB", 0)}
    for key, (title, unit, decimals) in known.items():
        if any(key in median[peer] for peer in peers):
            cells = [
                f"{median[peer][key]:,.{decimals}f}{star(key, median[peer])}" if key in median[peer] else ""
                for peer in peers
            ]
            rows.append([f"{title} ({unit})" if unit else title, *cells])
    return table(rows)


def star(key: str, of_peer: Figures) -> str:
    """Marks a figure of requests per second that the load, not the peer, has limited."""
    kind, _, connections = key.rpartition("_")
    bound = kind in {"rps", "cpu_request"} and f"load_bound: {connections} connections" in of_peer
    return "*" if bound else ""


# -- arithmetic ------------------------------------------------------------------------------------------------------


def arithmetic(median: Mapping[str, Figures]) -> str:
    """What the measured figures come to at other sizes; only multiplication. Of databases where they were measured."""
    own, shared = median["penstock"], median.get("shared", {})
    request, chunk, stream = own["cpu_request_64"], own["cpu_chunk_busy"], max(0.0, own["cpu_stream_busy"])
    most = max((int(key.rpartition("_")[2]) for key in own if key.startswith("memory_")), default=0)
    idle = own["idle_mb"]
    per_stream = (own[f"memory_{most}"] - idle) / most if most else 0.0  # MB
    limits = shared["cpu_request_64"] - request if shared else 0.0
    said, seconds = 500, 10
    each = stream + said * chunk  # CPU (us) of one stream of 500 chunks
    loads = [
        *((f"{rate:,} whole answers/s", rate, request, 0.0) for rate in (1, 100, 10_000)),
        *(
            (f"{rate:,} streams/s of {said} chunks in {seconds} s", rate, each, rate * seconds)
            for rate in (1, 100, 10_000)
        ),
        ("1,000,000 open streams, 50 chunks/s each", 1_000_000 // seconds, each, 1_000_000),
    ]
    rows = [("load", "cores", "memory", *(_OF_DATABASES if shared else ()))]
    for load, rate, cost, open_at_once in loads:
        busy = rate * cost / 1e6
        memory = max(1, math.ceil(busy / _FULL)) * idle + open_at_once * per_stream
        rows.append((load, _cores(busy), _megabytes(memory), *_databases(shared, rate, limits)))
    basis = (
        f"Measured: {request:.1f} us per request, {stream:.0f} us per stream and {chunk:.1f} us per chunk; {idle:.0f} MB per idle "
        f"process and {per_stream * 1024:.1f} kB per open stream (from {most:,} of them). Memory counts one process per {_FULL} cores."
    )
    if shared:
        basis += (
            f" A key under every kind of limit, with Redis and Postgres, costs {limits:.1f} us more per request; Redis needs "
            f"{shared['redis_cpu_64']:.1f} us for it and Postgres {shared['postgres_cpu_64']:.1f}."
        )
    reach = f"A core serves {_round(1e6 / request)} whole answers or {_round(1e6 / chunk)} chunks a second."
    if shared:
        reach += (
            f" One Redis, whose scripts run on one thread, serves {_round(1e6 / shared['redis_cpu_64'])} requests a second under "
            f"limits, a core of Postgres {_round(1e6 / shared['postgres_cpu_64'])} rows."
        )
    return f"{basis}\n\n{table(rows)}\n\n{reach}"


def _round(value: float) -> str:
    """Two digits say as much as one run does."""
    digits = max(0, len(f"{value:.0f}") - 2)
    return f"{round(value, -digits):,.0f}"


def _cores(value: float) -> str:
    return f"{value:,.4f}" if value < 1 else f"{value:,.1f}"


_FULL = 0.6
"""Share of a core from which on there is another process."""
_OF_DATABASES = (
    "more cores with limits",
    "Redis scripts/s",
    "Redis cores",
    "Postgres transactions/s",
    "Postgres cores",
)


def _megabytes(memory: float) -> str:
    return f"{memory:,.0f} MB" if memory < 100_000 else f"{memory / 1024:,.0f} GB"


def _databases(shared: Figures, rate: int, limits: float) -> tuple[str, ...]:
    """The columns of `_OF_DATABASES`. Under load many requests share a round trip and a transaction, at 50 a second few do."""
    if not shared:
        return ()
    case = "64" if rate > 1_000 else "latency"
    return (
        _cores(rate * limits / 1e6),
        f"{rate * shared[f'redis_scripts_{case}']:,.0f}",
        _cores(rate * shared["redis_cpu_64"] / 1e6),
        f"{rate * shared[f'postgres_transactions_{case}']:,.0f}",
        _cores(rate * shared["postgres_cpu_64"] / 1e6),
    )


# -- the plot --------------------------------------------------------------------------------------------------------

_PANELS = (
    ("cpu_request_64", "CPU per request (us)"),
    ("cpu_chunk_busy", "CPU per streamed chunk (us)"),
    ("added_latency_p50", "added latency p50 (us)"),
    ("memory_1000", "memory with 1,000 open streams (MB)"),
)
_PLOTTED = ("nginx", "bare", "penstock", "naive", "portkey", "litellm")
_WIDTH, _ROW, _LABEL, _BAR = 760, 22, 80, 560


def plot(median: Mapping[str, Figures]) -> str:
    """Bars on logarithmic scales, a panel for each figure: less is better everywhere."""
    parts: list[str] = []
    y = 10
    for key, title in _PANELS:
        values = {peer: median[peer][key] for peer in _PLOTTED if median.get(peer, {}).get(key, 0) > 0}
        if not values:
            continue
        y += 26
        parts.append(_text(10, y, title, weight="bold"))
        low, high = min(values.values()) / 2, max(values.values())
        for peer, value in values.items():
            y += _ROW
            length = _BAR * math.log(value / low) / math.log(high / low)
            colour = "#0b7285" if peer == "penstock" else "#adb5bd"
            parts.append(_text(_LABEL, y, peer, anchor="end"))
            parts.append(
                f'<rect x="{_LABEL + 8}" y="{y - 12}" width="{length:.0f}" height="15" fill="{colour}"/>'
            )
            parts.append(_text(round(_LABEL + 14 + length), y, f"{value:,.1f}"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 20}" font-family="sans-serif" font-size="13">'
    ground = f'<rect width="{_WIDTH}" height="{y + 20}" fill="white"/>'
    return "\n".join([head, ground, *parts, "</svg>"]) + "\n"


def _text(x: int, y: int, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'


# -- the whole -------------------------------------------------------------------------------------------------------

_DISTURBED = 0.2
"""Cores that others may take in a run that is worth reading."""


def render(results: Results) -> str:
    """A run as Markdown."""
    median: dict[str, Figures] = results["median"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    arguments = results["arguments"]
    basis = f"{results['when']} UTC, {results['machine']}, Python {results['python']}; {versions}."
    paragraphs = [f"{basis} Median of {arguments['rounds']}, windows of {arguments['seconds']} s."]
    if not results.get("finished", True):
        paragraphs.append(
            "**Not finished**: the run was broken off, and some figures are of fewer rounds or not there."
        )
    if "penstock" in median:
        paragraphs.append(targets(median))
    paragraphs.append(figures(median))
    worst = max(of_peer.get(key, 0.0) for of_peer in median.values() for key in ("foreign", "stolen"))
    if worst > _DISTURBED:
        paragraphs.append(
            f"**Measure again**: others took up to {worst:.2f} cores in a window, and the figures are theirs too."
        )
    if any(key.startswith("load_bound") for of_peer in median.values() for key in of_peer):
        paragraphs.append(
            "\\* The load's core was full and the peer's was not: it could have served more requests per second."
        )
    paragraphs += [f"Left out: {peer} ({why})." for peer, why in results["missing"].items()]
    return "\n\n".join(paragraphs) + "\n"


def between(text: str, begin: str, end: str, new: str) -> str:
    """The text with what stands between the two markers replaced."""
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{begin} and {end} do not both stand there")
    return f"{before}{begin}\n\n{new.strip()}\n\n{end}{after}"


def write_readme(results: Results, readme: Path, plot_file: Path) -> None:
    """The README's part and the plot."""
    median = results["median"]
    drawn = plot(median)
    picture = f"![CPU, latency and memory of each peer](results/{plot_file.name})"
    new = f"{render(results)}\n{picture}\n\n## Arithmetic\n\n{arithmetic(median)}"
    readme.write_text(between(readme.read_text(), BEGIN, END, new))
    plot_file.write_text(drawn)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", type=Path, default=REFERENCE, help="results of a run")
    run = parser.parse_args().run
    if not run.is_file():
        parser.error(f"there is no file {run}")
    write_readme(json.loads(run.read_text()), HERE / "README.md", PLOT)
    if run != REFERENCE:  # only now: what cannot be shown does not become the reference
        shutil.copyfile(run, REFERENCE)


if __name__ == "__main__":
    main()
