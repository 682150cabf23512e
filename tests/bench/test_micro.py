from __future__ import annotations

import pytest

from bench import micro


@pytest.mark.parametrize("name", list(micro.CASES))
def test_every_operation_runs(name: str) -> None:
    """Each case can be set up and carried out, more than once."""
    operation, things = micro.CASES[name]()
    operation()
    operation()
    assert things >= 1


def test_the_best_is_taken() -> None:
    """Nanoseconds per thing, from the fastest repetition."""
    assert micro.best_ns(lambda: sum(range(1000)), 1, repetitions=2, seconds=0.001) > 0


def test_words_choose(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only cases with one of the words in their name are run."""
    monkeypatch.setattr("sys.argv", ["micro", "seal"])
    micro.main()
    assert capsys.readouterr().out.splitlines()[0].startswith("request: seal")


def test_words_that_choose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are an error, not a run of no case."""
    monkeypatch.setattr("sys.argv", ["micro", "nowhere"])
    with pytest.raises(SystemExit, match="2"):
        micro.main()
