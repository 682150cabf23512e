"""What the kernel knows of a gateway's processes, and how they are started on a core of their own."""

from __future__ import annotations

import math
import os
import platform
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
_TICK = os.sysconf("SC_CLK_TCK")
_ENDINGS = (signal.SIGTERM, signal.SIGHUP)


def process_tree(pid: int) -> list[int]:
    """The process and all below it that live now."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue  # it has just ended
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    tree = [pid]
    for parent in tree:
        tree.extend(parents.get(parent, []))
    return tree


def cpu_seconds(pid: int | None) -> float:
    """CPU time that the tree has used, those too that have ended; 0 for nobody."""
    return sum(_of_living(member) + _of_children(member) for member in process_tree(pid)) if pid else 0.0


def cpu_of_living(pid: int | None) -> float:
    """As `cpu_seconds`, without processes that have ended."""
    return sum(map(_of_living, process_tree(pid))) if pid else 0.0


def _of_living(pid: int) -> float:
    """Of a process with all threads that it has or had: its CPU clock, the scheduler's own account in nanoseconds."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it
    except OSError:
        return 0.0  # it has just ended


def _of_children(pid: int) -> float:
    """Of its children that have ended, and theirs, to a hundredth: nothing finer is kept of them (proc_pid_stat(5))."""
    try:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
    except OSError:
        return 0.0  # as above
    return (int(user) + int(system)) / _TICK


def busy_and_stolen() -> tuple[float, float]:
    """CPU time that everybody on this machine has used, and that its host gave to others while somebody here wanted it.

    Seconds of all cores together, to a hundredth (proc_stat(5)).
    """
    user, nice, system, _idle, _waiting, *interrupts, stolen = map(
        int, Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    )
    return (user + nice + system + sum(interrupts)) / _TICK, stolen / _TICK


def resident_mb(pid: int | None) -> float:
    """Resident memory of the tree in megabytes; pages that members share are counted for each."""
    total = 0
    for member in process_tree(pid) if pid else ():
        with suppress(OSError):  # it has just ended
            if found := re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{member}/status").read_text()):
                total += int(found[1])
    return total / 1024


def wait_until_idle(pid: int | None, patience: float = 15.0) -> None:
    """Until the tree uses less than 3 % of a core: what it had put off (its ledger, its logs) is done then."""
    deadline = time.monotonic() + patience
    before = cpu_seconds(pid)
    while pid and time.monotonic() < deadline:
        time.sleep(0.25)
        now = cpu_seconds(pid)
        if now - before < 0.25 * 0.03:
            return
        before = now


_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CORES = sorted(os.sched_getaffinity(0))
SPARE_CORES = len(_CORES) > 2
"""The provider has a core of its own."""


def pin(core: int) -> None:
    """Keep this process on the core with that number, counted around where there are fewer."""
    os.sched_setaffinity(0, {_CORES[core % len(_CORES)]})


@contextmanager
def unhurried(provider: int, *, really: bool = True) -> Iterator[None]:
    """Let this process and the provider take turns on the core they share when one waits, not whenever the other is woken.

    That saves a quarter of their time where only throughput counts. Where latency counts it would be wrong: a chunk would
    lie about until the provider has sent the next ones. Start nothing meanwhile: children inherit it.
    """
    if not really:
        yield
        return
    for pid in {0, provider}:
        os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        for pid in {0, provider}:
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def started(
    command: list[str], core: int, folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The process on its core, in a bare environment; its output is in `folder`/log.

    It is stopped afterwards, with whatever it has left behind. Ctrl-C must reach the bench, which stops it, and not the process: it
    gets a session of its own.
    """
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **(env or {})}
    own = os.sched_getaffinity(0)
    with ExitStack() as stack:
        with (folder / "log").open("wb") as log, _undisturbed():
            pin(core)  # a child begins where its parent is
            try:
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            finally:
                os.sched_setaffinity(0, own)
            stack.callback(_stop, process)
        yield process


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What would end this process waits for the block's end: a child that it has started has somebody by then who stops it."""
    told: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDINGS)}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread():
        ours = {}  # signals are the main thread's
    for number in ours:
        signal.signal(number, lambda number, _frame: told.append(number))
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        for heard in told:
            signal.raise_signal(heard)


def clean_up_when_told() -> None:
    """Let SIGTERM, and a terminal that is closed, end this process as Ctrl-C does: what it has started is stopped."""
    for number in _ENDINGS:
        if signal.getsignal(number) == signal.SIG_DFL:  # under nohup it is ignored
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))


def count(text: str) -> int:
    """How often, as an argument."""
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"must be a whole number above 0: {text!r}")
    return int(text)


def amount(text: str) -> float:
    """How long or how much, as an argument."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"must be above 0: {text!r}")
    return number


def chosen(parser: ArgumentParser, names: Collection[str], words: Sequence[str]) -> list[str]:
    """The names with one of the words in them, all without words. Where that is none the command ends and says what there is."""
    found = [name for name in names if not words or any(word in name for word in words)]
    if not found:
        parser.error(f"none has such a word in its name: {', '.join(names)}")
    return found


class NotAnsweringError(SystemExit):
    """What was started ended or kept silent; the text is the end of its log."""


def wait_for(answers: Callable[[], bool], process: subprocess.Popen[bytes], folder: Path) -> None:
    """Ask again and again until it answers; a process that ended, or does not within 60 s, stops the bench unless it is caught."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if answers():
            return
        time.sleep(0.005)
    said = (folder / "log").read_text(errors="replace")[-3000:]
    raise NotAnsweringError(f"{process.args!r} did not answer:\n{said}")


def free_port() -> int:
    """A port of loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def most_streams(wanted: int) -> int:
    """How many streams a gateway can hold open here: each takes two of its files."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return wanted if most == resource.RLIM_INFINITY else min(wanted, most // 2 - 500)


def allow_many_files() -> None:
    """Raise the limit of open files as far as it goes; what is started inherits it."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def describe() -> str:
    """The machine, in one line, with what makes it less than it looks."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    name = found[1].strip() if found else platform.machine()
    cores = f"{len(_CORES)} cores" if len(_CORES) > 1 else "1 core for the gateway and the load"
    with suppress(OSError):  # there may be no such control group
        quota, period = _QUOTA.read_text().split()
        if quota != "max" and int(quota) < len(_CORES) * int(period):
            cores += f" with a quota of {int(quota) / int(period):g}"
    return f"{name}, {cores}, {platform.system()} {platform.release()}"
