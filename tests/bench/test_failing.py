"""The demonstration of deployments in trouble."""

from __future__ import annotations

import pytest

from bench.failing import SCENES, Outcome, run


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
