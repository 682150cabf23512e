from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import cases, machine, run
from bench.cases import Figures, Subject
from bench.load import Question
from bench.peers import PEERS, Missing


def test_medians_per_figure() -> None:
    """Of several rounds the median of each figure is shown, but errors are added up; a figure may be missing in one."""
    rounds: list[dict[str, Figures]] = [
        {"naive": {"rps": rps, "errors": 1.0}} | ({"nginx": {"start": 1.0}}) for rps in (5.0, 1.0, 3.0)
    ]
    rounds[1]["naive"]["load_bound: x"] = 1.0
    assert run.medians(rounds) == {
        "naive": {"rps": 3.0, "errors": 3.0, "load_bound: x": 0},
        "nginx": {"start": 1.0},
    }


def test_peers_that_cannot_be_had_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The others are measured, and the reason is kept."""
    monkeypatch.setenv("PATH", str(tmp_path))
    peers, versions, missing = run.find_peers(["naive", "nginx"])
    assert [peer.name for peer in peers] == ["naive"]
    assert set(versions) == {"naive"}
    assert missing == {"nginx": "nginx is not on PATH"}
    assert str(Missing("why")) == "why"


def test_naive_answers(tmp_path: Path) -> None:
    """The naive peer starts, answers through the provider, and is stopped afterwards."""
    upstream, port = machine.free_port(), machine.free_port()
    (tmp_path / "naive").mkdir()
    provider = [sys.executable, "-m", "bench.provider", "--port", str(upstream)]
    naive = PEERS["naive"].command(port, upstream, tmp_path)
    with machine.started(provider, 1, tmp_path) as first:
        machine.wait_for(Question(f"http://127.0.0.1:{upstream}", "bench").is_answered, first, tmp_path)
        with machine.started(naive, 0, tmp_path / "naive") as process:
            url = f"http://127.0.0.1:{port}"
            machine.wait_for(Question(url, "bench").is_answered, process, tmp_path / "naive")
            assert Question(url, "openai/bench-c3").is_answered()
            assert not Question(url, "another").is_answered()
        assert process.poll() is not None


def test_a_run_writes_its_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A round of a few cases ends in a table, a file and an exit code; each of Penstock's requests is in its books."""

    def few(subject: Subject, seconds: float) -> list[Figures]:
        return [
            cases.requests(subject, 2, seconds),
            cases.latency(subject, seconds),
            cases.streams(subject, "busy", 2, seconds),
        ]

    monkeypatch.setattr(cases, "quick", few)
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    arguments = argparse.Namespace(peers="penstock", whole=False, rounds=1, seconds=0.3)
    assert run.run(arguments) == 0
    shown = capsys.readouterr().out
    assert "| CPU per request, 64 connections" in shown
    (file,) = tmp_path.glob("*.json")
    assert '"rows_missing": 0' in file.read_text()


def test_penstock_is_a_peer_of_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With databases and a key under limits, and with two workers: all is answered, each request has a row, and it is known
    what the databases did.
    """

    def few(subject: Subject, seconds: float) -> list[Figures]:
        return [cases.requests(subject, 2, seconds), cases.latency(subject, seconds)]

    monkeypatch.setattr(cases, "quick", few)
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    for name in ("shared", "workers"):
        monkeypatch.setitem(PEERS, name, replace(PEERS[name], measured=few))
    arguments = argparse.Namespace(peers="shared,workers", whole=False, rounds=1, seconds=0.3)
    assert run.run(arguments) == 0
    (file,) = tmp_path.glob("*.json")
    median = json.loads(file.read_text())["median"]
    assert [median[name]["rows_missing"] for name in ("shared", "workers")] == [0, 0]
    shared = median["shared"]
    assert shared["redis_scripts_2"] > 0.4
    assert 0 < shared["postgres_transactions_latency"] < 1
    assert "redis_scripts_2" not in median["workers"]
