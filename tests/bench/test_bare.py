from __future__ import annotations

import sys
from pathlib import Path

from bench import machine
from bench.load import Question, Watched, closed_loop
from bench.peers import PEERS


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
