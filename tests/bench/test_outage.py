from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp
import pytest

from bench import outage
from bench.peers import names_of_rows


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


async def test_an_answer_that_does_not_come_is_a_failure() -> None:
    """Neither a connection that is refused nor one on which nothing comes ends the run."""
    async with asyncio.timeout(60):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.1)) as session:
                load = outage._Load(session, url)
                await load.run(0.03)
    assert (load.failures, load.answers) == (3, [])


async def test_newer_rows_do_not_stand_for_older_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A row that is missing is missing, however many came after it."""
    lost: list[str] = []

    def names(folder: Path) -> set[str]:
        found = names_of_rows(folder)
        lost.append(min(found))  # names begin with the time
        return found - set(lost)

    monkeypatch.setattr(outage, "names_of_rows", names)
    seen = await outage.kills(tmp_path, 1)
    assert seen["rows"] > seen["answered_a_second_before"]
    assert seen["of_them_missing"] == 1
