"""Several processes on one port: `--num_workers N`.

A Python process uses one core. More cores are used by more processes: each worker is a whole gateway with listening
sockets of its own on the same address (SO_REUSEPORT), among which the kernel shares out new connections. What starts them
is this supervisor, which never sees a request: it starts again what died, hands signals on, and waits for the last.

**Forked, not started anew.** Workers are forks of the supervisor, which has neither a loop nor a thread and never gets
one, so that a fork copies nothing that is half done, now or after weeks. That way all of them, a late successor too, have
the configuration that was checked at the start; and they share the memory of what was imported: 25 MB for each of two,
where one alone has 50. The price: whatever is drawn at random has to be drawn after the fork, or all workers have the same.

**Reloaded together.** SIGHUP is handed to all that listen. A worker that starts after one gets it as soon as it is ready, since
it begins with the configuration of the start; so whatever becomes of the files, all workers have read the same.

**Ready means all.** The first worker goes ahead, so that what keeps a gateway from starting is said once, and the ledger
is migrated by one. Until all listen, the end of one is the end of all, with its exit code. From then on a worker that ends
is replaced: at once if it lived for a while, else after a pause that doubles.

**Nobody is left behind.** Workers hold one end of a pipe of which the supervisor alone has the other: it closes when the
supervisor dies, however it does, and they drain as at a signal. They do not hear SIGINT, which a terminal sends to all:
the supervisor makes one SIGTERM of it for each. Of impatience they hear from it alone, by a signal of its own: systemd and
others send SIGTERM to all processes of a service, and what the supervisor hands on would be each worker's second one.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from gateway import siblings

log = logging.getLogger("penstock")

HURRY = signal.SIGUSR1
"""To a worker that drains: a second signal came, no more waiting."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)
_LONGEST_PLACE = 70
"""Bytes of a folder's path below which there is room for a socket's: the kernel takes 107."""
_LONG_LIFE = 30.0
_PAUSES = (0.5, 30.0)
"""Seconds before a worker that did not live long is replaced: at first, at most."""


class Worker(Struct, frozen=True):
    """What a worker knows of the whole."""

    folder: Path
    """Where it meets its siblings."""
    speaks: bool
    """The first one says for all what is said at a start."""
    report: int
    lifeline: int

    def ready(self, words: str) -> None:
        """It listens; `words` are what the operator is told when all do. To be called once, in the event loop."""
        asyncio.get_running_loop().add_reader(self.lifeline, self._orphaned)
        with suppress(OSError), os.fdopen(self.report, "wb") as report:
            report.write(words.encode() or b"\n")

    def _orphaned(self) -> None:
        asyncio.get_running_loop().remove_reader(self.lifeline)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)


def supervise(
    count: int, work: Callable[[Worker], int], announce: Callable[[str], None], *, spare: Path
) -> int:
    """Run `count` workers until a signal; the exit code, 0 if all ended well.

    `work` is what each does in its own process, and gives its exit code. `announce` gets the first one's words when all
    are ready. The workers meet in a folder under `spare` where there is no place for temporary files, or its path is too long.
    """
    with _meeting_place(spare) as folder, _signals() as woken:
        return _Crew(count, work, announce, Path(folder), woken).run()


def _meeting_place(spare: Path) -> tempfile.TemporaryDirectory[str]:
    with suppress(FileNotFoundError):  # in a container whose root file system is read-only
        if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_PLACE:
            return tempfile.TemporaryDirectory(prefix="penstock-")
    spare.mkdir(mode=0o700, parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="workers-", dir=spare)


@contextmanager
def _signals() -> Iterator[int]:
    """A descriptor from which the numbers of signals can be read as they come."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield woken
    finally:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # nobody is left to end, and to be killed is a bad end
        os.close(woken)
        os.close(wake)


class _Member:
    """A worker as its supervisor sees it."""

    def __init__(self, hearing: int) -> None:
        self.hearing: int | None = hearing
        self.words = b""
        self.ready = False
        self.began = time.monotonic()


class _Crew:
    def __init__(
        self,
        count: int,
        work: Callable[[Worker], int],
        announce: Callable[[str], None],
        folder: Path,
        woken: int,
    ) -> None:
        self._count = count
        self._work = work
        self._announce = announce
        self._folder = folder
        self._woken = woken
        self._lifeline, self._life = os.pipe()
        self._members: dict[int, _Member] = {}
        self._words = ""
        self._complete = False
        """All have listened once."""
        self._stopping = False
        self._reloaded = False
        """SIGHUP came: what workers begin with is not what holds."""
        self._code = 0
        self._pause = 0.0
        self._not_before = 0.0

    def run(self) -> int:
        gc.collect()
        gc.freeze()  # a collection in a worker would write to, and so copy, the pages that are shared
        while True:
            self._fill()
            if not self._members and self._stopping:
                return self._code
            self._wait()
            self._reap()

    # -- start ---------------------------------------------------------------------------------------------------------

    def _is_short(self) -> bool:
        wanted = self._count if self._words else 1
        return not self._stopping and len(self._members) < wanted

    def _fill(self) -> None:
        while self._is_short() and time.monotonic() >= self._not_before:
            try:
                self._start()
            except OSError as error:
                self._rest()
                log.warning("no worker can be started, next try in %.1f s: %s", self._pause, error.strerror)

    def _start(self) -> None:
        hearing, report = os.pipe()
        worker = Worker(self._folder, not self._words, report, self._lifeline)
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._become(worker, hearing)
        except OSError:
            os.close(hearing)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            os.close(report)
        self._members[pid] = _Member(hearing)

    def _become(self, worker: Worker, hearing: int) -> None:
        """What a new process does; it never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            # A terminal that closes, before the worker has an ear for it.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGINT})
            others = [member.hearing for member in self._members.values() if member.hearing is not None]
            for end in (self._life, hearing, *others):
                os.close(end)
            code = self._work(worker)
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(code)

    # -- what happens --------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        hearing = {member.hearing: member for member in self._members.values() if member.hearing is not None}
        timeout = max(0.0, self._not_before - time.monotonic()) if self._is_short() else None
        heard, _, _ = select.select([self._woken, *hearing], [], [], timeout)
        for end in heard:
            if end in hearing:
                self._hear(hearing[end], end)
        if self._woken in heard:
            for number in os.read(self._woken, 512):
                if number == signal.SIGHUP:
                    self._reload()
                elif number != signal.SIGCHLD:
                    self._stop()

    def _hear(self, member: _Member, end: int) -> None:
        words = os.read(end, 65536)
        member.words += words
        if words:
            return
        os.close(end)
        member.hearing = None
        member.ready = bool(member.words)
        self._words = self._words or member.words.decode()
        if member.ready and self._reloaded:
            self._hang_up(member)
        ready = [each for each in self._members.values() if each.ready]
        if not self._complete and not self._stopping and len(ready) == self._count:
            self._complete = True
            self._announce(self._words)

    def _reload(self) -> None:
        self._reloaded = True
        for member in self._members.values():
            if member.ready:
                self._hang_up(member)

    def _hang_up(self, member: _Member) -> None:
        pid = next(pid for pid, other in self._members.items() if other is member)
        os.kill(pid, signal.SIGHUP)  # not reaped yet, so nobody else has its number

    def _stop(self) -> None:
        number = HURRY if self._stopping else signal.SIGTERM
        self._stopping = True
        for pid in self._members:
            os.kill(pid, number)  # not reaped yet, so nobody else has its number

    def _reap(self) -> None:
        for pid in list(self._members):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._bury(pid, os.waitstatus_to_exitcode(status))

    def _bury(self, pid: int, code: int) -> None:
        member = self._members.pop(pid)
        if member.hearing is not None:
            os.close(member.hearing)
        siblings.forget(self._folder, pid)
        if self._stopping:
            interrupted = code in (-signal.SIGTERM, -HURRY)  # it had no ear for it yet
            self._code = self._code or (0 if interrupted else _exit_code(code))
        elif not self._complete:
            self._code = _exit_code(code) or 1
            self._stop()
        else:
            self._rest(lived=time.monotonic() - member.began)
            log.error("worker %d %s; another starts in %.1f s", pid, _how(code), self._pause)

    def _rest(self, lived: float = 0.0) -> None:
        shortest, longest = _PAUSES
        self._pause = 0.0 if lived > _LONG_LIFE else min(longest, max(shortest, 2 * self._pause))
        self._not_before = time.monotonic() + self._pause


def _exit_code(code: int) -> int:
    """As a shell says it: a process that was killed by a signal has 128 more than its number."""
    return code if code >= 0 else 128 - code


def _how(code: int) -> str:
    return f"ended with {code}" if code >= 0 else f"was killed by signal {-code}"
