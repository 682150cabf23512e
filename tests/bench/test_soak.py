from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import soak
from bench.cases import Subject
from bench.load import Load, Question, Watched
from bench.provider import Provider


def test_growth_leaves_the_beginning_out() -> None:
    """Memory at the end is held against that after the first tenth."""
    samples = [{"memory_mb": memory} for memory in (10.0, 50.0, *[50.0] * 17, 60.0, 60.0)]
    assert soak.growth(samples) == pytest.approx(1.2)
    assert soak.growth([{"memory_mb": 5.0}]) == 1


def test_everything_is_answered(provider: Provider) -> None:
    """Requests and streams go on until the end, each is answered rightly, and each look is noted."""
    subject = Subject("direct", f"http://127.0.0.1:{provider.port}", Watched())
    samples = soak.soak(subject, 0.4, 0.2)
    assert len(samples) >= 2
    assert not subject.errors
    assert subject.asked > soak.STREAMS / 2
    assert samples[0]["loop_lag_us"] == 0  # a provider has no metrics


def test_a_short_soak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Penstock comes through a second of it with every row in its books."""
    monkeypatch.setattr(soak, "RESULTS", tmp_path)
    assert soak.run(0.02, 0.5) == 0
    (file,) = tmp_path.glob("soak-*.json")
    assert '"rows_missing": 0' in file.read_text()


def test_a_connection_that_was_closed_is_not_asked(provider: Provider) -> None:
    """Who is idle for long is closed by the gateway: a request to it would never be sent, and would count as lost."""
    load = Load(Question(f"http://127.0.0.1:{provider.port}", "bench"), lambda _: None)
    clients = [client for _ in range(3) if (client := load.connect())]
    clients[2].close()
    clients[0].close()
    idle = list(clients)
    assert soak._open_one(idle) is clients[1]
    assert soak._open_one(idle) is None
    load.close()


def test_what_was_seen_is_kept_as_it_comes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever breaks the hour off has what there was until then."""
    looks: list[int] = []

    def interrupted(_url: str) -> float:
        looks.append(0)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return 0.0

    monkeypatch.setattr(soak, "RESULTS", tmp_path)
    monkeypatch.setattr(soak, "loop_lag", interrupted)
    with pytest.raises(KeyboardInterrupt):
        soak.run(1, 0.2)
    (file,) = tmp_path.glob("soak-*.json")
    assert len(json.loads(file.read_text())["samples"]) == 1


def test_each_error_is_counted_once(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often one looks; a stream that is never answered to its end is one too."""
    finish = Load.finish
    monkeypatch.setattr(Load, "finish", lambda load, patience=0.0: finish(load, patience))
    monkeypatch.setattr(soak, "STREAMS", 1)
    subject = Subject("direct", f"http://127.0.0.1:{provider.port}", Watched())
    monkeypatch.setattr(Subject, "plain", lambda self: Question(self.url, "bench"))
    monkeypatch.setattr(
        Subject, "question", lambda self, settings, chunks: Question(self.url, "bench-c9-s1", chunks)
    )
    soak.soak(subject, 0.3, 0.1)
    assert subject.errors["no answer"] >= 1  # requests may be under way at the end too
    provider_says_no = Question(subject.url, "bench-e503", 1)
    monkeypatch.setattr(Subject, "question", lambda _self, _settings, _chunks: provider_says_no)
    subject.errors.clear()
    asked = subject.asked
    soak.soak(subject, 0.3, 0.1)
    assert 0 < subject.errors["status 503"] < subject.asked - asked


def test_a_gateway_that_died_has_not_grown() -> None:
    """Its errors tell."""
    assert soak.growth([{"memory_mb": 0.0}] * 20) == 0
