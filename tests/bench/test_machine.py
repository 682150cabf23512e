from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable
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


SPENDS = """
import os, threading, time
def spend():
    end = time.process_time() + 0.2
    while time.process_time() < end: pass
thread = threading.Thread(target=spend)
thread.start(); thread.join()
if not os.fork():
    spend(); os._exit(0)
os.wait()
print(flush=True); input()
"""


def test_who_has_ended_has_used_it_too() -> None:
    """The time of a thread and of a child that are no more counts; without the dead, the thread's still does."""
    command = [sys.executable, "-c", SPENDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert machine.cpu_seconds(process.pid) >= 0.38  # a child's is known to a hundredth
        assert machine.cpu_seconds(process.pid) > machine.cpu_of_living(process.pid) >= 0.2
        process.communicate(b"\n")
    assert machine.cpu_seconds(process.pid) == 0


def test_who_has_just_ended_has_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends between being found and being looked at is none."""
    monkeypatch.setattr(machine, "process_tree", lambda pid: [pid, 2**22 + 1])
    assert machine.resident_mb(os.getpid()) > 5
    assert machine.cpu_seconds(os.getpid()) > 0


def test_nothing_is_left_of_what_was_started(tmp_path: Path) -> None:
    """Children of a process that was killed are stopped with it, and Ctrl-C reaches neither."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPS!r}])"
    with machine.started([sys.executable, "-c", code], 0, tmp_path) as process:
        machine.wait_for(lambda: (tmp_path / "log").read_text().endswith("\n"), process, tmp_path)
        child = int((tmp_path / "log").read_text())
        assert os.getsid(child) == process.pid
        process.kill()
    assert not is_running(child)


SLEEPS = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


def is_running(pid: int) -> bool:
    """Whether it does; one that has ended and is not yet buried does not."""
    deadline = time.monotonic() + 30  # a signal takes effect when the process gets its turn
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.02)
    return True


# A shell may have started this in the background, where Ctrl-C is ignored, or under nohup.
BENCH = """
import signal, subprocess, sys, time
from pathlib import Path
from bench import machine
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
machine.clean_up_when_told()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_bench_that_is_told_to_end_stops_what_it_has_started(tmp_path: Path, number: int) -> None:
    """Whichever way it is told."""
    command = f"[sys.executable, '-c', {SLEEPS!r}]"
    code = f"{BENCH}\nwith machine.started({command}, 0, Path({str(tmp_path)!r})):\n    time.sleep(600)\n"
    log = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", code], cwd=machine.ROOT, stderr=subprocess.DEVNULL) as bench:
        machine.wait_for(lambda: log.exists() and log.read_text().endswith("\n"), bench, tmp_path)
        bench.send_signal(number)
    assert not is_running(int(log.read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_bench_that_is_told_to_end_while_it_starts_something(tmp_path: Path, number: int) -> None:
    """It has a child by then and nobody has been given it yet."""
    code = f"""{BENCH}
class Told(subprocess.Popen):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        print(self.pid, flush=True)
        signal.raise_signal({number:d})
subprocess.Popen = Told
with machine.started(["sleep", "600"], 0, Path({str(tmp_path)!r})):
    print("started")
"""
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=machine.ROOT, capture_output=True, text=True, check=False
    )
    assert (told.returncode != 0, told.stdout.splitlines()[1:]) == (True, [])
    assert not is_running(int(told.stdout))


def test_who_ignores_hanging_up_goes_on_ignoring_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run under nohup outlives its terminal."""
    handled: list[int] = []
    monkeypatch.setattr(
        signal, "getsignal", lambda one: signal.SIG_IGN if one == signal.SIGHUP else signal.SIG_DFL
    )
    monkeypatch.setattr(signal, "signal", lambda one, _handler: handled.append(one))
    machine.clean_up_when_told()
    assert handled == [signal.SIGTERM]


def test_a_machine_that_is_less_than_it_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One core is shared by all, and a quota takes from the others: who reads the results must know."""
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(machine, "_QUOTA", quota)
    monkeypatch.setattr(machine, "_CORES", [0, 1])
    assert ", 2 cores, " in machine.describe()
    quota.write_text("max 100000\n")
    assert ", 2 cores, " in machine.describe()
    quota.write_text("150000 100000\n")
    assert ", 2 cores with a quota of 1.5, " in machine.describe()
    monkeypatch.setattr(machine, "_CORES", [0])
    assert ", 1 core for the gateway and the load, " in machine.describe()


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (machine.count, "3", ("0", "-1", "1.5", "x", "")),
        (machine.amount, "1.5", ("0", "-1", "nan", "inf", "x", "")),
    ],
)
def test_what_measures_nothing_is_refused(
    read: Callable[[str], float], good: str, bad: tuple[str, ...]
) -> None:
    """A run of no rounds or no seconds ends before it begins, and not in its report."""
    assert read(good) == float(good)
    for text in bad:
        with pytest.raises((ArgumentTypeError, ValueError)):
            read(text)
