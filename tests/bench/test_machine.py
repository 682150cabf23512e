from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bench import machine

GRANDCHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"


def test_processes_are_counted_with_their_children() -> None:
    """CPU and memory are those of the whole tree."""
    command = [sys.executable, "-c", GRANDCHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        tree = machine.process_tree(process.pid)
        assert tree[0] == process.pid
        assert len(tree) == 2
        assert machine.cpu_seconds(process.pid) > 0
        assert machine.resident_mb(process.pid) > 5
        process.communicate(b"\n")


def test_nobody_uses_nothing() -> None:
    """Where there is no gateway, there is nothing to read and nothing to wait for."""
    assert machine.cpu_seconds(0) == 0
    assert machine.resident_mb(0) == 0
    machine.wait_until_idle(0)


def test_everybody_uses_something() -> None:
    """The machine's CPU time is at least this process's."""
    busy, stolen = machine.busy_and_stolen()
    assert busy > 0
    assert stolen >= 0


def test_idle_is_waited_for() -> None:
    """A process that sleeps is idle."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        machine.wait_until_idle(process.pid, patience=10)
        process.communicate(b"\n")


def test_a_process_has_its_core_and_a_bare_environment(tmp_path: Path) -> None:
    """What is started runs on one core with what it was given, and is gone afterwards."""
    own = os.sched_getaffinity(0)
    code = "import os, time; print(len(os.sched_getaffinity(0)), os.environ['GIVEN'], os.environ.get('USER'), flush=True); time.sleep(60)"
    with machine.started([sys.executable, "-c", code], 0, tmp_path, {"GIVEN": "yes"}) as process:
        machine.wait_for(lambda: (tmp_path / "log").read_text().endswith("\n"), process, tmp_path)
    assert (tmp_path / "log").read_text() == "1 yes None\n"
    assert process.poll() is not None
    assert os.sched_getaffinity(0) == own


def test_a_process_that_does_not_start_says_why(tmp_path: Path) -> None:
    """One that ends at once stops the bench with what it wrote."""
    command = [sys.executable, "-c", "raise SystemExit('no luck today')"]
    with (
        machine.started(command, 0, tmp_path) as process,
        pytest.raises(SystemExit, match="no luck today"),
    ):
        machine.wait_for(lambda: False, process, tmp_path)


def test_unhurried_is_taken_back() -> None:
    """Batch scheduling lasts as long as the block, and is not asked for where it would be wrong."""
    with machine.unhurried(0):
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    with machine.unhurried(0, really=False):
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_the_machine_is_described() -> None:
    """Results say how many cores there were."""
    assert "cores" in machine.describe()
    assert machine.free_port() > 1023


def test_streams_are_bounded_by_files() -> None:
    """A gateway needs two files for each stream, and some for everything else."""
    assert machine.most_streams(10) == 10
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert most == resource.RLIM_INFINITY or machine.most_streams(10**9) < most // 2
