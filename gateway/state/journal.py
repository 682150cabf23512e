"""The ledger's journal: a folder of files on the local disk for what must not be lost before the store has it.

It holds rows that the store does not have yet, and *intents*: what a request that is under way will cost at most. What is
appended by one `write` is on the disk when that returns, so one `write` per interval is a group commit. A *segment* is a
file of frames; a frame is 8 bytes (length and CRC-32 of what follows, little endian) and a MessagePack map of rows, intents
and the ids of intents that are done. Frames stand for themselves: each names its rows' fields, so another version reads
what it knows. When the store has all rows of a segment, its file goes.

**Two kinds of segments.** *Mirrors* hold rows that wait in memory too; they are forgotten by count, in the order in which
they were written, and nobody reads them unless the process dies. *Spilled* ones hold rows for which there was no room in
memory; they are read back when the store works again, as those of a dead process are.

**Whose is it?** Each process writes into a folder of its own, which it holds locked (`flock`) as long as it lives, however
it dies. Whoever starts adopts the folders that nobody holds: their rows are the backlog, and their intents that are neither
done nor followed by their row are orphans. Writing a row twice is writing it once, so nothing has to be remembered about
how far somebody came.

**What may be broken.** A process that dies while it writes leaves a frame that is not whole at the end of a file: that is
expected, and nothing that was acknowledged is in it. A frame that is wrong while others follow is damage: what can be read
is read, and the file is kept, renamed to `*.damaged`, with an error in the log. What a failed write has left is cut off, so
that it was no write, and the next one begins another segment, because nobody knows what such a disk has made of it.

All methods block and are called by one thread at a time; all may raise `OSError`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from gateway.state.records import Kind, LedgerRow, encodable

log = logging.getLogger("penstock.ledger")

SEGMENT_BYTES = 4 * 1024 * 1024
MOST_BYTES = 1024 * 1024 * 1024
"""About a million rows: three hours at a hundred requests a second."""

_ROWS_PER_FRAME = 200
"""The interpreter's lock is held while they are encoded: a fifth of a millisecond."""
_MOST_IN_FRAME = 256 * 1024 * 1024
_HEAD = struct.Struct("<II")
_SUFFIX = ".journal"


class Intent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request that has begun: what it costs at most, in nano-dollars, and who pays.

    `names` are the budgets that it reserved this from. The rest is what is worth knowing if nobody sees its end.
    """

    id: str
    amount: int
    key_digest: str | None = None
    names: tuple[str, ...] = ()
    started_at: float = 0.0
    kind: Kind = Kind()


class _Frame(Struct, omit_defaults=True):
    rows: list[LedgerRow] = []
    intents: list[Intent] = []
    done: list[str] = []


class _Intents(Struct):
    """A frame whose rows are passed over, which takes a quarter of the time."""

    rows: list[msgspec.Raw] = []
    intents: list[Intent] = []
    done: list[str] = []


_encode = msgspec.msgpack.Encoder().encode
_frame = msgspec.msgpack.Decoder(_Frame)
_intents = msgspec.msgpack.Decoder(_Intents)


class Segment:
    """One file. `last` is the number of the last row in it, for mirrors (see `Journal.forget`); `count` is how many there
    are, for others.
    """

    __slots__ = ("count", "damaged", "file", "last", "path", "size")

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self.size = size
        self.last = 0
        self.count = 0
        self.file = -1
        self.damaged = False

    def payloads(self) -> Iterator[bytes]:
        """What its frames hold, in order. Sets `damaged` where one is wrong and others follow."""
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                length, crc = _HEAD.unpack(head)
                end = file.tell() + length
                if not length or (end > size and length <= _MOST_IN_FRAME):
                    return  # the end of a file whose writer died
                if length > _MOST_IN_FRAME:
                    self.damaged = True
                    return
                payload = file.read(length)
                if zlib.crc32(payload) == crc:
                    yield payload
                elif end < size:
                    self.damaged = True

    def rows(self) -> Iterator[list[LedgerRow]]:
        """Its rows, frame by frame, with one kind for all that say the same."""
        kinds: dict[tuple[object, ...], Kind] = {}
        for payload in self.payloads():
            try:
                frame = _frame.decode(payload)
            except msgspec.DecodeError:  # whole, and yet not ours: from a version that knows other words
                self.damaged = True
                continue
            if frame.rows:
                yield [_shared_kind(row, kinds) for row in frame.rows]


def _shared_kind(row: LedgerRow, kinds: dict[tuple[object, ...], Kind]) -> LedgerRow:
    kind = kinds.setdefault(msgspec.structs.astuple(row.kind), row.kind)
    return row if kind is row.kind else msgspec.structs.replace(row, kind=kind)


class Journal:
    """The journal of this process below `folder`, which is made when something is written.

    `bytes` is what all its files have, those of dead processes too; `backlog_rows` are the rows that are not in memory.
    """

    def __init__(
        self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, most_bytes: int = MOST_BYTES
    ) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._most_bytes = most_bytes
        self._own: Path | None = None
        self._locks: dict[Path, int] = {}
        self._count = 0
        self._mirrors: deque[Segment] = deque()
        self._mirror: Segment | None = None
        """The one that is written to, also the last of `_mirrors`."""
        self._spill: Segment | None = None
        self._backlog: deque[Segment] = deque()
        self._live: dict[str, Intent] = {}
        """Intents on the disk that are not done; each mirror begins with them, so that older ones may go."""
        self._doubtful: set[str] = set()
        """Intents of writes that failed. The next says that they are done, lest a disk has kept what was cut off."""
        self.bytes = 0
        self.backlog_rows = 0

    # -- what a dead process left ------------------------------------------------------------------------------------

    def adopt(self) -> list[Intent]:
        """Take over the folders that nobody holds; their orphans. Their rows are in the backlog from now on. What cannot be read
        does not keep the others from it.
        """
        live: dict[str, Intent] = {}
        found: list[Segment] = []
        for folder in sorted(self._folder.iterdir()) if self._folder.is_dir() else []:
            with _left_alone(folder):
                if folder.is_dir() and _hold(folder, self._locks):
                    files = sorted(folder.glob(f"*{_SUFFIX}"))
                    found += [Segment(file, file.stat().st_size) for file in files]
                    self._let_go(folder)
        adopted: list[Segment] = []
        for segment in found:
            with _left_alone(segment.path):
                for payload in segment.payloads():
                    with suppress(msgspec.DecodeError):
                        frame = _intents.decode(payload)
                        segment.count += len(frame.rows)
                        live |= {intent.id: intent for intent in frame.intents}
                        for name in frame.done:
                            live.pop(name, None)
                adopted.append(segment)
        for segment in adopted:
            self._backlog.append(segment)
            self.bytes += segment.size
            self.backlog_rows += segment.count
        if live:  # a row may have been written, and what says so not
            for segment in adopted:
                for rows in segment.rows():
                    for row in rows:
                        live.pop(row.id, None)
        return list(live.values())

    @property
    def has_backlog(self) -> bool:
        """There are rows on the disk that are not in memory."""
        return bool(self._backlog)

    def oldest(self) -> Segment | None:
        """The next segment of the backlog: its `rows` go to the store, then `drop` it."""
        if not self._backlog:
            return None
        segment = self._backlog[0]
        if segment is self._spill:
            self._close(segment)
            self._spill = None
        return segment

    def leave(self, segment: Segment) -> None:
        """Nobody shall look at it again; this one does not block. The file stays."""
        self._backlog.remove(segment)
        self.backlog_rows -= segment.count

    def drop(self, segment: Segment) -> None:
        """The store has its rows."""
        self.leave(segment)
        if segment.damaged:
            kept = segment.path.with_suffix(".damaged")
            segment.path.rename(kept)
            self.bytes -= segment.size
            log.error("%s is damaged: what could be read of it is in the ledger; the file is kept", kept)
        else:
            self._unlink(segment)
        self._let_go(segment.path.parent)

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(
        self,
        rows: Sequence[LedgerRow] = (),
        last: int = 0,
        *,
        spilled: Sequence[LedgerRow] = (),
        intents: Sequence[Intent] = (),
        done: Sequence[str] = (),
    ) -> None:
        """Put them on the disk. `last` is the number of the last of `rows`, which rise; `spilled` are kept nowhere else. Where it
        fails, the intents that it brought are not there.
        """
        if (rows or spilled) and self.bytes >= self._most_bytes:
            raise OSError(errno.EDQUOT, "the journal is as large as it may be")
        if spilled:
            self._spill = self._room(self._spill)
            self._append(self._spill, self._backlog, _frames(spilled))
            self._spill.count += len(spilled)
            self.backlog_rows += len(spilled)
        if rows or intents or done:
            self._mirror = mirror = self._room(self._mirror)
            begun = () if mirror.size else self._live.values()  # so that older mirrors may go
            new = {intent.id: intent for intent in intents}
            done = [*done, *(self._doubtful - new.keys() - self._live.keys())]
            self._doubtful.update(new)
            self._append(mirror, self._mirrors, _frames(rows, [*begun, *intents], done))
            self._doubtful.clear()
            mirror.last = max(mirror.last, last)
            self._live |= new
            for name in done:
                self._live.pop(name, None)

    def may_forget(self, stored: int) -> bool:
        """Whether `forget` would find something; this one does not block."""
        if not self._mirrors or (self._mirror is None and self._live):  # else a newer one has the intents too
            return False
        return self._mirrors[0].last <= stored and self._mirrors[0] is not self._mirror

    def forget(self, stored: int) -> None:
        """The store has the rows up to the number `stored`."""
        while self.may_forget(stored):
            self._unlink(self._mirrors[0])
            self._mirrors.popleft()

    def close(self, stored: int) -> None:
        """Let go of it. What the store does not have stays for whoever starts next."""
        for segment in (self._mirror, self._spill):
            if segment is not None:
                self._close(segment)
        if not self._live:
            self._mirror = None
            self.forget(stored)
        for folder, lock in self._locks.items():
            with suppress(OSError):
                folder.rmdir()  # refused where something is left
            os.close(lock)
        self._locks.clear()
        with suppress(OSError):
            self._folder.rmdir()

    def _room(self, segment: Segment | None) -> Segment:
        """The segment if there is room in it, else a new one."""
        if segment is not None and segment.size < self._segment_bytes:
            return segment
        if segment is not None:
            self._close(segment)
        if self._own is None:
            self._own = self._make_own()
        self._count += 1
        segment = Segment(self._own / f"{self._count:08}{_SUFFIX}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        segment.file = os.open(segment.path, flags, 0o600)
        return segment

    def _append(self, segment: Segment, others: deque[Segment], frames: Iterable[bytes]) -> None:
        """All of them or none. A new segment belongs to the `others` from then on."""
        size = segment.size
        try:
            for frame in frames:
                rest = memoryview(frame)
                while rest:
                    rest = rest[os.write(segment.file, rest) :]
                segment.size += len(frame)
                self.bytes += len(frame)
            _flush(segment.file)
            if not size and self._own is not None:
                os.fsync(self._locks[self._own])  # the file's name is on the disk too
        except OSError:
            self._take_back(segment, size)
            self._mirror = None if segment is self._mirror else self._mirror
            self._spill = None if segment is self._spill else self._spill
            raise
        if not size:
            others.append(segment)

    def _take_back(self, segment: Segment, size: int) -> None:
        """Nothing beyond that size was written."""
        with suppress(OSError):
            os.ftruncate(segment.file, size)
        self._close(segment)
        self.bytes -= segment.size - size
        segment.size = size
        if not size:
            with suppress(OSError):
                segment.path.unlink()

    def _make_own(self) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            own = self._folder / f"{os.getpid()}-{os.urandom(6).hex()}"
            own.mkdir(mode=0o700)
            if _hold(own, self._locks):  # else somebody who adopts was quicker, and has removed it
                return own

    def _close(self, segment: Segment) -> None:
        if segment.file >= 0:
            os.close(segment.file)
            segment.file = -1

    def _unlink(self, segment: Segment) -> None:
        self._close(segment)
        segment.path.unlink(missing_ok=True)
        self.bytes -= segment.size

    def _let_go(self, folder: Path) -> None:
        """Give up an adopted folder as soon as it is empty."""
        if folder == self._own or any(segment.path.parent == folder for segment in self._backlog):
            return
        with suppress(OSError):
            folder.rmdir()
            os.close(self._locks.pop(folder))


@contextmanager
def _left_alone(path: Path) -> Iterator[None]:
    """What cannot be read stays where it is, and the log says so."""
    try:
        yield
    except OSError as error:
        log.error("%s cannot be read and is left where it is: %s", path, error.strerror)  # noqa: TRY400 - the reason is enough


def _hold(folder: Path, locks: dict[Path, int]) -> bool:
    """Lock a folder for as long as this process lives; False if somebody holds it, or it is gone."""
    if folder in locks:
        return False
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_ino == folder.stat().st_ino:
            locks[folder] = lock
            return True
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return False


def _frames(
    rows: Sequence[LedgerRow], intents: Sequence[Intent] = (), done: Sequence[str] = ()
) -> Iterator[bytes]:
    """One frame for each `_ROWS_PER_FRAME` rows; what is done stands beside the last, never before a row that says so."""
    for start in range(0, max(1, len(rows)), _ROWS_PER_FRAME):
        some = list(rows[start : start + _ROWS_PER_FRAME])
        frame = _Frame(rows=some)
        if start == 0:
            frame.intents = list(intents)
        if start + _ROWS_PER_FRAME >= len(rows):
            frame.done = list(done)
        try:
            yield _framed(frame)
        except (UnicodeEncodeError, OverflowError):
            frame.rows = [row for row in map(encodable, some) if _fits(row)]
            yield _framed(frame)


def _fits(row: LedgerRow) -> bool:
    """Whether a row can be written at all; the store, which says which could not, will not take it either."""
    try:
        _encode(row)
    except OverflowError:
        return False
    return True


def _framed(frame: _Frame) -> bytes:
    payload = _encode(frame)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


_flush = getattr(os, "fdatasync", os.fsync)
