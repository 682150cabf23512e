"""What the kernel knows of a gateway's processes, and how they are started on a core of their own."""

from __future__ import annotations

import os
import platform
import re
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


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
    """CPU time that the tree has used, from the scheduler's own account in nanoseconds; 0 for nobody."""
    total = 0
    for member in process_tree(pid) if pid else ():
        for thread in Path(f"/proc/{member}/task").glob("*/schedstat"):
            try:
                total += int(thread.read_text().split()[0])
            except OSError:
                continue  # it has just ended
    return total / 1e9


def busy_and_stolen() -> tuple[float, float]:
    """CPU time that everybody on this machine has used, and that its host gave to others while somebody here wanted it.

    Seconds of all cores together, to a hundredth (proc_stat(5)).
    """
    user, nice, system, _idle, _waiting, *interrupts, stolen = map(
        int, Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    )
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + sum(interrupts)) / tick, stolen / tick


def resident_mb(pid: int | None) -> float:
    """Resident memory of the tree in megabytes; pages that members share are counted for each."""
    total = 0
    for member in process_tree(pid) if pid else ():
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
    """The process on its core, in a bare environment; its output is in `folder`/log. Stopped afterwards."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **(env or {})}
    own = os.sched_getaffinity(0)
    with (folder / "log").open("wb") as log:
        pin(core)  # a child begins where its parent is
        try:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        finally:
            os.sched_setaffinity(0, own)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(answers: Callable[[], bool], process: subprocess.Popen[bytes], folder: Path) -> None:
    """Ask again and again until it answers; a process that ended, or does not within 60 s, stops the bench."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if answers():
            return
        time.sleep(0.005)
    said = (folder / "log").read_text(errors="replace")[-3000:]
    raise SystemExit(f"{process.args!r} did not answer:\n{said}")


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
    """The machine, in one line."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    name = found[1].strip() if found else platform.machine()
    return f"{name}, {len(_CORES)} cores, {platform.system()} {platform.release()}"
