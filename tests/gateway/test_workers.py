"""The supervisor alone, with workers that do next to nothing; whole gateways are in tests/e2e/test_workers.py."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gateway import workers

PROGRAM = """
import asyncio, logging, os, signal, sys
from pathlib import Path
from gateway.workers import supervise

def say(words):
    os.write(1, f"{words}\\n".encode())  # in one piece: several write here

class Says(logging.Handler):
    def emit(self, record):
        say(record.getMessage())

logging.getLogger().addHandler(Says())

async def serve(worker):
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, say, f"reloads {os.getpid()}")
    say(f"works {os.getpid()} {worker.speaks}")
    worker.ready(f"hello from {os.getpid()}")
    await stop.wait()
    say(f"ends {os.getpid()}")

def work(worker):
    WORK
    asyncio.run(serve(worker))
    return 0

code = supervise(2, work, say, spare=Path("spare"))
say(f"code {code}")
"""


class Supervised:
    """A supervisor in a process of its own, and what it and its workers print."""

    def __init__(self, process: asyncio.subprocess.Process, out: asyncio.StreamReader) -> None:
        self.process = process
        self._out = out

    async def says(self, words: str) -> list[str]:
        """The lines until one begins with these words, that one included."""
        lines = [""]
        while not lines[-1].startswith(words):
            line = await self._out.readline()
            assert line, lines
            lines.append(line.decode().strip())
        return lines[1:]


@asynccontextmanager
async def supervised(folder: Path, work: str = "pass", **environ: str) -> AsyncIterator[Supervised]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM.replace("WORK", work),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout
    try:
        yield Supervised(process, process.stdout)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await process.stdout.read()  # until no worker has it either


async def test_all_begin_and_all_end(tmp_path: Path) -> None:
    """It is announced once, with the first one's words, when all are ready; after a signal all end, and it says 0."""
    async with supervised(tmp_path) as crew:
        *before, hello = await crew.says("hello")
        pids = [line.split()[1] for line in before]
        assert before == [f"works {pids[0]} True", f"works {pids[1]} False"]
        assert hello == f"hello from {pids[0]}"
        crew.process.terminate()
        ends = await crew.says("code")
        assert sorted(ends) == sorted([*(f"ends {pid}" for pid in pids), "code 0"])


async def test_a_worker_that_ends_is_replaced(tmp_path: Path) -> None:
    """A worker that dies has a successor, which has nothing to announce; so has one that was asked to end."""
    async with supervised(tmp_path) as crew:
        *before, _ = await crew.says("hello")
        first, second = (int(line.split()[1]) for line in before)
        os.kill(first, signal.SIGKILL)
        told = await crew.says("works")
        assert told[0] == f"worker {first} was killed by signal 9; another starts in 0.5 s"
        assert told[1].endswith("False")
        os.kill(second, signal.SIGTERM)
        told = await crew.says("works")
        assert told[:2] == [f"ends {second}", f"worker {second} ended with 0; another starts in 1.0 s"]
        crew.process.send_signal(signal.SIGINT)
        assert (await crew.says("code"))[-1] == "code 0"


async def test_all_reload(tmp_path: Path) -> None:
    """SIGHUP is handed to all workers, and to each that starts later, which begins with what held at the start."""
    async with supervised(tmp_path) as crew:
        *before, _ = await crew.says("hello")
        pids = [line.split()[1] for line in before]
        crew.process.send_signal(signal.SIGHUP)
        heard = await crew.says("reloads") + await crew.says("reloads")
        assert sorted(heard) == sorted(f"reloads {pid}" for pid in pids)
        os.kill(int(pids[0]), signal.SIGKILL)
        successor = (await crew.says("works"))[-1].split()[1]
        assert await crew.says("reloads") == [f"reloads {successor}"]
        crew.process.terminate()
        assert (await crew.says("code"))[-1] == "code 0"


async def test_a_first_worker_that_cannot_start(tmp_path: Path) -> None:
    """Where the first one cannot start there is no second one: its exit code is the answer."""
    async with supervised(tmp_path, "say('no'); return 98") as crew:
        assert await crew.says("code") == ["no", "code 98"]


async def test_a_second_worker_that_cannot_start(tmp_path: Path) -> None:
    """Until all are ready, the end of one is the end of all."""
    async with supervised(tmp_path, "if not worker.speaks: return 7") as crew:
        told = await crew.says("code")
        assert told[-1] == "code 7"
        assert [line.split()[0] for line in told] == ["works", "ends", "code"]


async def test_a_worker_that_dies_at_the_start(tmp_path: Path) -> None:
    """One that is killed before it is ready gives the code that a shell would give, and one that has a bug 1."""
    async with supervised(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)") as crew:
        assert await crew.says("code") == ["code 137"]
    async with supervised(tmp_path, "raise RuntimeError") as crew:
        assert (await crew.says("code"))[-1] == "code 1"


async def test_a_signal_during_the_start(tmp_path: Path) -> None:
    """A worker that is not ready yet has no ear for a signal and dies of it, which counts as a good end."""
    async with supervised(tmp_path, "say('waits'); signal.pause()") as crew:
        await crew.says("waits")
        crew.process.terminate()
        assert await crew.says("code") == ["code 0"]


async def test_a_worker_that_ends_badly(tmp_path: Path) -> None:
    """One that fails while it ends makes the whole end with its code."""
    async with supervised(tmp_path, "asyncio.run(serve(worker)); return 3 if worker.speaks else 0") as crew:
        await crew.says("hello")
        crew.process.terminate()
        assert (await crew.says("code"))[-1] == "code 3"


async def test_orphans_end(tmp_path: Path) -> None:
    """When the supervisor is killed its workers end as at a signal, and take the folder along in which they met."""
    meeting = tmp_path / "t"
    meeting.mkdir()
    async with supervised(tmp_path, TMPDIR=str(meeting)) as crew:
        *before, _ = await crew.says("hello")
        pids = {line.split()[1] for line in before}
        assert len(list(meeting.iterdir())) == 1
        crew.process.kill()
        ended = {(await crew.says("ends"))[-1].split()[1] for _ in pids}
        assert ended == pids
        assert list(meeting.iterdir()) == []


async def test_the_terminal_interrupts_nobody_twice(tmp_path: Path) -> None:
    """A worker does not hear the SIGINT that a terminal sends to all: the supervisor passes it on, once."""
    async with supervised(tmp_path) as crew:
        *before, _ = await crew.says("hello")
        for line in before:
            os.kill(int(line.split()[1]), signal.SIGINT)
        crew.process.send_signal(signal.SIGINT)
        told = await crew.says("code")
        assert len([line for line in told if line.startswith("ends")]) == 2
        assert told[-1] == "code 0"


def test_without_a_place_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the root file system is read-only, workers meet in a private folder under the data folder."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    with workers._meeting_place(tmp_path / "data") as folder:
        assert Path(folder).parent == tmp_path / "data"
        assert Path(folder).stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "data").iterdir()) == []


def test_with_a_long_path_to_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a socket's path would be too long for the kernel, workers meet under the data folder too."""
    far = tmp_path / ("x" * 90)
    far.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(far))
    with workers._meeting_place(tmp_path / "data") as folder:
        assert Path(folder).parent == tmp_path / "data"
