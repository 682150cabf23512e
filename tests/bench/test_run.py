from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import cases, machine, run
from bench.cases import Figures, Subject
from bench.load import Question
from bench.peers import PEERS, Missing, Peer


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


def failing_peer(command: str) -> Peer:
    """One that cannot be measured."""
    return Peer("portkey", "ends at once", lambda: "1", lambda *_: [sys.executable, "-c", command])


def test_a_peer_that_does_not_start_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are measured, the reason is told, and the results are there after each of them."""
    kept: list[dict[str, Any]] = []

    def few(subject: Subject, seconds: float) -> list[Figures]:
        kept.extend(json.loads(file.read_text()) for file in tmp_path.glob("*.json"))
        return [cases.latency(subject, seconds)]

    monkeypatch.setattr(cases, "quick", few)
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setitem(PEERS, "portkey", failing_peer("raise SystemExit('no luck today')"))
    arguments = argparse.Namespace(peers="portkey,bare", whole=False, rounds=1, seconds=0.2)
    assert run.run(arguments) == 0
    assert "Left out: portkey (no luck today)." in capsys.readouterr().out
    (file,) = tmp_path.glob("*.json")
    results = json.loads(file.read_text())
    assert results["finished"]
    assert results["median"]["portkey"] == {"errors": 1}
    assert results["median"]["bare"]["latency_p50"] > 0
    assert [(one["finished"], list(one["median"])) for one in kept] == [(False, ["direct", "portkey"])]


def test_a_penstock_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The exit code is about us."""
    monkeypatch.setattr(cases, "quick", lambda _subject, _seconds: [{}])
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setitem(PEERS, "penstock", replace(failing_peer("raise SystemExit"), name="penstock"))
    assert run.run(argparse.Namespace(peers="penstock", whole=False, rounds=1, seconds=0.2)) == 1


def test_a_figure_that_a_round_does_not_have_is_no_nought() -> None:
    """It is the median of the others; and of the worst windows the worst is told, for that is what the report calls it."""
    rounds: list[dict[str, Figures]] = [
        {"direct": {}, "nginx": {"start": 1.0, "foreign": 0.0, "stolen": 0.1}},
        {"direct": {}, "nginx": {"start": 3.0, "foreign": 0.5, "stolen": 0.0}},
        {"direct": {}, "nginx": {"errors": 1.0}},
        {"direct": {}},
    ]
    found = {"start": 2.0, "foreign": 0.5, "stolen": 0.1, "errors": 1.0}
    assert run.medians(rounds) == {"direct": {}, "nginx": found}


def test_a_peer_that_nobody_knows() -> None:
    """It is said which there are."""
    with pytest.raises(SystemExit, match="no peer 'lightllm': there are nginx, bare"):
        run.find_peers(["lightllm"])


def test_rows_that_nobody_asked_for_are_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A request that is booked twice takes no error away."""
    peer = replace(PEERS["bare"], rows=lambda _folder: 3)
    monkeypatch.setattr(cases, "quick", lambda _subject, _seconds: [{}])
    with machine.started(
        [sys.executable, "-m", "bench.provider", "--port", str(port := machine.free_port())], 1, tmp_path
    ) as provider:
        machine.wait_for(Question(f"http://127.0.0.1:{port}", "bench").is_answered, provider, tmp_path)
        figures = run.measure_peer(peer, port, provider.pid, 0.1, whole=False)
    assert (figures["rows_missing"], figures["errors"]) == (-2, 2)
