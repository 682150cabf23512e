from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import run
from bench.load import Question, Tally


def test_fit_separates_streams_from_chunks() -> None:
    """From two windows of streams with few and with many chunks come the cost of a stream and that of a chunk."""
    short = Tally(begun=100, chunks=2000, cpu=100 * 300e-6 + 2000 * 20e-6)
    long = Tally(begun=30, chunks=6000, cpu=30 * 300e-6 + 6000 * 20e-6)
    assert run.fit(short, long) == pytest.approx((300, 20))
    assert run.fit(Tally(), Tally()) == (0, 0)


def test_medians_per_figure() -> None:
    """Of several rounds the median of each figure is shown."""
    rounds = [{"naive": {"rps": rps, "start": 1.0}} for rps in (5.0, 1.0, 3.0)]
    assert run.medians(rounds) == {"naive": {"rps": 3.0, "start": 1.0}}


def test_table_has_figures_and_ratios() -> None:
    """The table shows each peer's figures, and Penstock's as a multiple of them."""
    figures = dict.fromkeys(run.FIGURES, 10.0)
    shown = run.table({"direct": {"rps": 9.0}, "naive": figures, "penstock": {**figures, "cpu_request": 2.5}})
    rows = [line for line in shown.splitlines() if line.startswith("CPU per request")]
    assert rows[0].split()[-2:] == ["10", "2"]
    assert rows[1].split()[-1] == "0.25"


def test_each_figure_has_a_name() -> None:
    """Ratios are made of figures that the table knows."""
    assert set(run.RATIOS) <= set(run.FIGURES)


@pytest.mark.parametrize("name", ["nginx", "naive", "penstock"])
def test_peers_are_told_their_port(name: str, tmp_path: Path) -> None:
    """Each peer's command, or the configuration it names, has the port it listens on."""
    command = " ".join(run.PEERS[name].command(4321, 1234, tmp_path))
    written = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "4321" in command + written


async def test_naive_answers(tmp_path: Path) -> None:
    """The naive peer starts, answers through the provider, and is stopped afterwards."""
    upstream, port = run.free_port(), run.free_port()
    provider = [sys.executable, "-m", "bench.upstream", "--port", str(upstream)]
    (tmp_path / "naive").mkdir()
    with run.started(provider, 1, tmp_path) as first:
        await run.first_answer(
            Question(f"http://127.0.0.1:{upstream}/v1/chat/completions", "bench"), first, tmp_path
        )
        with run.started(
            run.PEERS["naive"].command(port, upstream, tmp_path), 0, tmp_path / "naive"
        ) as process:
            question = Question(f"http://127.0.0.1:{port}/v1/chat/completions", "openai/bench-")
            await run.first_answer(question, process, tmp_path / "naive")
        assert process.poll() is not None


async def test_a_peer_that_does_not_start_says_why(tmp_path: Path) -> None:
    """A gateway that ends at once stops the bench with what it wrote."""
    question = Question(f"http://127.0.0.1:{run.free_port()}/", "m")
    with (
        run.started([sys.executable, "-c", "raise SystemExit('no luck today')"], 0, tmp_path) as process,
        pytest.raises(SystemExit, match="no luck today"),
    ):
        await run.first_answer(question, process, tmp_path)
