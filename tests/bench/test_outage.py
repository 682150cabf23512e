from __future__ import annotations

from pathlib import Path

from bench import outage


async def test_a_short_outage(tmp_path: Path, database_url: str) -> None:
    """A second without a database in each way: every request is answered, and has one row soon after."""
    seen = await outage.outage(database_url, tmp_path, 3, calm=0.5)
    assert (seen["asked"], seen["failures"]) == (350, 0)
    assert seen["rows"] == seen["distinct_rows"] == 350


async def test_two_kills(tmp_path: Path) -> None:
    """What was answered a second before a kill is in the books, which agree."""
    seen = await outage.kills(tmp_path, 2)
    assert seen["verify"] == 0
    assert seen["answered_a_second_before"] <= seen["rows"]
