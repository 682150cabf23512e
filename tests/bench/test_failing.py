"""The demonstration of deployments in trouble."""

from __future__ import annotations

import socket
import sys

import aiohttp
import pytest

from bench import failing
from bench.failing import SCENES, Deployment, Outcome, Scene, _ask, run


async def test_a_scene_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    """A failing deployment of three costs no client anything, and what was asked is told."""
    (scene,) = [scene for scene in SCENES if scene.name == "one of three fails"]
    assert await run([scene], 50, 2) == 0
    _, row = capsys.readouterr().out.splitlines()
    assert row.split()[4:6] == ["100", "0"]


def test_a_promise_that_is_broken() -> None:
    """An error is a broken promise only where somebody could have answered; asking too often is always one."""
    by_name = {scene.name: scene for scene in SCENES}
    assert Outcome(by_name["all fail"], 10, 10, [], 12, 0.3).is_kept
    assert not Outcome(by_name["all fail"], 10, 10, [], 13, 0.3).is_kept
    assert not Outcome(by_name["one of three fails"], 10, 1, [], 10, 0.3).is_kept


async def test_who_gets_no_answer_saw_an_error() -> None:
    """A gateway that ends in the middle of a scene spoils its figures, and not the table."""
    deployments = [Deployment() for _ in range(3)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with aiohttp.ClientSession(url) as session:
        outcome = await _ask(SCENES[0], session, deployments, 100, 0.1)
    assert outcome.errors == outcome.offered == 10
    assert not outcome.is_kept


async def test_how_far_it_is_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before each scene, beside the table: all of them take minutes."""

    async def play(scene: Scene, rate: float, seconds: float) -> Outcome:
        return Outcome(scene, round(rate * seconds), 0, [], 0, 0.0)

    monkeypatch.setattr(failing, "play", play)
    assert await run(SCENES, 200, 30) == 0
    shown = capsys.readouterr().err.splitlines()
    assert shown[1] == f"  2 of {len(SCENES)}, 30 s: one of three fails"


def test_a_word_that_no_scene_has_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that was played kept no promise."""
    monkeypatch.setattr(sys, "argv", ["failing", "nonsense"])
    with pytest.raises(SystemExit, match="2"):
        failing.main()
    assert "brown-out of one, shuffled" in capsys.readouterr().err
