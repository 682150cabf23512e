"""The measure of how soon a provider is left."""

from __future__ import annotations

import pytest

from bench.leave import MOMENTS, measure


async def test_every_moment_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Against a gateway of its own, each moment gets its row, and the promise is told by the exit code."""
    code = await measure(runs=3)
    lines = capsys.readouterr().out.splitlines()
    assert code in (0, 1)
    assert [line[:30].strip() for line in lines[1:]] == list(MOMENTS)
