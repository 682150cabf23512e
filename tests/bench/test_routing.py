"""What strategies do with a fleet, in virtual time."""

from __future__ import annotations

import json

import pytest

from bench import routing
from bench.routing import SCENES, Span, figures, simulate


@pytest.mark.parametrize("strategy", ["latency-based-routing", "performance-based", "least-busy"])
def test_a_brown_out_loses_its_traffic(strategy: str) -> None:
    """One of three deployments that becomes ten times slower gets less than a tenth of the requests 30 s later."""
    outcome = simulate(SCENES["brown-out"], strategy)
    assert 0.2 < outcome.share(0, Span(30, 60)) < 0.5
    assert outcome.share(0, Span(90, 120)) < 0.1
    assert outcome.errors == 0


@pytest.mark.parametrize("strategy", ["latency-based-routing", "performance-based", "least-busy"])
def test_a_brown_out_that_is_over_is_forgiven(strategy: str) -> None:
    """A minute after it is as fast as the others again, it gets its share again."""
    outcome = simulate(SCENES["brown-out"], strategy)
    assert outcome.share(0, Span(165, 180)) > 0.2


@pytest.mark.parametrize("strategy", routing.STRATEGIES)
def test_an_outage_is_not_seen(strategy: str) -> None:
    """While one of three fails at once, nobody gets an error, and next to nobody is asked twice."""
    found = figures("outage", strategy)
    assert found.errors == 0
    assert found.asked < 1.05
    assert found.slow < 0.05


def test_the_fastest_gets_most() -> None:
    """Speed and load both find the fastest of an uneven fleet; a shuffle does not look."""
    shuffled = figures("uneven", "simple-shuffle")
    assert figures("uneven", "latency-based-routing").p50 < figures("uneven", "least-busy").p50 < shuffled.p50


def test_what_was_learnt_keeps_a_crowd_together() -> None:
    """Deployments that take 4, 8 and 20 at once get what they take: a tenth of the errors, and next to nobody is asked twice."""
    shuffled, adaptive = figures("crowded", "simple-shuffle"), figures("crowded", "adaptive")
    assert adaptive.errors <= shuffled.errors / 10
    assert adaptive.asked < 1.05


def test_a_seed_gives_the_same() -> None:
    """A scene is played alike every time."""
    assert figures("limits", "least-busy") == figures("limits", "least-busy")


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each strategy, and the same as JSON."""
    monkeypatch.setattr("sys.argv", ["routing", "alike"])
    routing.main()
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(routing.STRATEGIES)
    monkeypatch.setattr("sys.argv", ["routing", "alike", "--json"])
    routing.main()
    assert [one["strategy"] for one in json.loads(capsys.readouterr().out)] == list(routing.STRATEGIES)


def test_words_that_choose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are an error, not a run of no scene."""
    monkeypatch.setattr("sys.argv", ["routing", "nowhere"])
    with pytest.raises(SystemExit, match="2"):
        routing.main()
