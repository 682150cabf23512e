from __future__ import annotations

import errno
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state import journal as journal_module
from gateway.state.journal import Intent, Journal, Segment
from gateway.state.records import Kind, LedgerRow, flatten
from tests.gateway.rows import failure, row

EVERYTHING = row(
    "everything",
    cost_nano=None,
    cache_write=1,
    cache_write_1h=2,
    audio_input=3,
    image_input=4,
    audio_output=5,
    image_output=6,
    images=7,
    milliseconds=8,
    characters=9,
    searches=10,
    service_tier="flex",
    session_id="s",
    error_message="é\u2028",
    caller_kind="key",
    key_digest="d" * 64,
    key_alias="k",
)


def some(*names: str) -> list[LedgerRow]:
    return [row(name) for name in names]


def backlog(journal: Journal) -> list[LedgerRow]:
    """What a process that starts finds to be written; it is dropped."""
    found: list[LedgerRow] = []
    while (segment := journal.oldest()) is not None:
        for rows in segment.rows():
            found += rows
        journal.drop(segment)
    return found


def died(journal: Journal) -> None:
    """The process that has this journal was killed: the kernel lets go of its locks, and nothing else happens."""
    for lock in journal._locks.values():
        os.close(lock)
    journal._locks.clear()


def restarted(journal: Journal, folder: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """What the next process finds: orphans with their amounts, and the ids of rows."""
    died(journal)
    after = Journal(folder)
    orphans = after.adopt()
    names = [found.id for found in backlog(after)]
    after.close(0)
    return [(orphan.id, orphan.amount) for orphan in orphans], names


def test_rows_come_back_whole(tmp_path: Path) -> None:
    """After a kill all rows are there, with everything that they say, and then the folder is gone."""
    journal = Journal(tmp_path / "journal")
    rows = [row("plain"), failure(), EVERYTHING]
    journal.write(rows, 3)
    died(journal)
    after = Journal(tmp_path / "journal")
    assert after.adopt() == []
    assert after.backlog_rows == 3
    assert [flatten(found) for found in backlog(after)] == [flatten(written) for written in rows]
    assert (after.bytes, after.backlog_rows) == (0, 0)
    after.close(0)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_before_something_is_written(tmp_path: Path) -> None:
    """A journal that is not needed leaves no trace."""
    journal = Journal(tmp_path / "journal")
    assert journal.adopt() == []
    journal.close(0)
    assert list(tmp_path.iterdir()) == []


def test_one_kind_for_rows_that_share_it(tmp_path: Path) -> None:
    """The store gets as few kinds as there were."""
    journal = Journal(tmp_path / "journal")
    journal.write(some("a", "b"), 2)
    died(journal)
    after = Journal(tmp_path / "journal")
    after.adopt()
    first, second = backlog(after)
    assert first.kind is second.kind


def test_what_is_stored_is_forgotten(tmp_path: Path) -> None:
    """A segment goes when the store has all its rows, and not before; the one that is written to stays."""
    journal = Journal(tmp_path / "journal", segment_bytes=1)
    for number in range(1, 4):
        journal.write([row(f"r{number}")], number)
    assert not journal.may_forget(0)
    journal.forget(0)
    assert len(journal._mirrors) == 3
    assert journal.may_forget(2)
    journal.forget(2)
    assert len(journal._mirrors) == 1
    assert not journal.may_forget(3)
    journal.close(3)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_stored_stays(tmp_path: Path) -> None:
    """A process that ends in peace leaves what the store does not have, and no more."""
    journal = Journal(tmp_path / "journal", segment_bytes=1)
    for number in range(1, 4):
        journal.write([row(f"r{number}")], number)
    journal.close(2)
    assert restarted(journal, tmp_path / "journal") == ([], ["r3"])


def test_spilled_rows_are_read_back_by_their_own_process(tmp_path: Path) -> None:
    """What memory had no room for is backlog at once, while more is spilled."""
    journal = Journal(tmp_path / "journal")
    journal.write(spilled=some("a", "b"))
    assert (journal.has_backlog, journal.backlog_rows) == (True, 2)
    segment = journal.oldest()
    assert segment is not None
    journal.write(spilled=some("c"))
    assert [found.id for rows in segment.rows() for found in rows] == ["a", "b"]
    journal.drop(segment)
    assert [found.id for found in backlog(journal)] == ["c"]
    assert (journal.has_backlog, journal.backlog_rows, journal.bytes) == (False, 0, 0)


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 500])
def test_a_torn_tail(tmp_path: Path, cut: int) -> None:
    """A frame that was not written whole costs itself, in silence."""
    journal = Journal(tmp_path / "journal")
    journal.write([row("a")], 1)
    whole = journal.bytes
    journal.write([row("b")], 2)
    (file,) = (tmp_path / "journal").glob("*/*")
    os.truncate(file, whole + cut)
    assert restarted(journal, tmp_path / "journal") == ([], ["a"])
    assert list(tmp_path.iterdir()) == []


def test_a_tail_of_zeros(tmp_path: Path) -> None:
    """What a power cut may leave: a file that is as long as it should be, and empty at its end."""
    journal = Journal(tmp_path / "journal")
    journal.write([row("a")], 1)
    (file,) = (tmp_path / "journal").glob("*/*")
    file.write_bytes(file.read_bytes() + bytes(4096))
    assert restarted(journal, tmp_path / "journal") == ([], ["a"])
    assert list(tmp_path.iterdir()) == []


def test_damage_is_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flipped bit costs the frame that it is in; the others are read, the file stays, and the log says where."""
    journal = Journal(tmp_path / "journal")
    journal.write([row("a")], 1)
    one = journal.bytes
    journal.write([row("b")], 2)
    journal.write([row("c")], 3)
    (file,) = (tmp_path / "journal").glob("*/*")
    data = bytearray(file.read_bytes())
    data[one + 100] ^= 1
    file.write_bytes(data)
    assert restarted(journal, tmp_path / "journal") == ([], ["a", "c"])
    (kept,) = (tmp_path / "journal").glob("*/*.damaged")
    assert kept.read_bytes() == data
    assert "is damaged" in caplog.text
    assert Journal(tmp_path / "journal").adopt() == []


@given(st.binary(max_size=200))
def test_garbage_is_no_crash(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    """Whatever is in a file, reading it ends."""
    file = tmp_path_factory.mktemp("journal") / "1.journal"
    file.write_bytes(garbage)
    assert list(Segment(file).rows()) == []


def test_another_version_wrote_it(tmp_path: Path) -> None:
    """Fields that are not known are passed over; rows that lack one that is new have its default."""
    journal = Journal(tmp_path / "journal")
    journal.write([row("a")], 1)
    (file,) = (tmp_path / "journal").glob("*/*")
    payload = msgspec.msgpack.encode(
        {"rows": [{"id": "x", "kind": {"model": "m"}, "started_at": 1.0, "new": [1]}], "also": 1}
    )
    file.write_bytes(len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(4, "little") + payload)
    died(journal)
    after = Journal(tmp_path / "journal")
    after.adopt()
    (found,) = backlog(after)
    assert (found.id, found.model, found.cost_nano) == ("x", "m", None)


# -- intents ---------------------------------------------------------------------------------------------------------


def intent(name: str, amount: int = 5) -> Intent:
    return Intent(
        id=name, amount=amount, key_digest="d", names=("key:d",), started_at=1.0, kind=Kind(model="m")
    )


def test_orphans(tmp_path: Path) -> None:
    """An intent that is not done when the process dies is an orphan, at its last amount."""
    journal = Journal(tmp_path / "journal")
    journal.write(intents=[intent("a"), intent("b"), intent("c")])
    journal.write(done=["a"])
    journal.write(intents=[intent("b", 9)])
    orphans, _ = restarted(journal, tmp_path / "journal")
    assert orphans == [("b", 9), ("c", 5)]
    assert restarted(Journal(tmp_path / "journal"), tmp_path / "journal") == ([], [])


def test_intents_outlive_their_segments(tmp_path: Path) -> None:
    """A request may be under way for longer than a segment is kept."""
    journal = Journal(tmp_path / "journal", segment_bytes=1)
    journal.write(intents=[intent("long"), intent("short")])
    journal.write([row("r1")], 1, done=["short"])
    journal.write([row("r2")], 2)
    journal.forget(2)
    assert len(list((tmp_path / "journal").glob("*/*"))) == 1
    assert restarted(journal, tmp_path / "journal") == ([("long", 5)], ["r2"])


def test_a_row_voids_its_intent(tmp_path: Path) -> None:
    """Where the row is on the disk and what says that it is done is not, the row counts."""
    journal = Journal(tmp_path / "journal")
    journal.write(intents=[intent("a")])
    journal.write([row("a")], 1)
    assert restarted(journal, tmp_path / "journal") == ([], ["a"])


def test_intents_of_a_process_that_ends_in_peace(tmp_path: Path) -> None:
    """With none left nothing stays; one that is left is an orphan."""
    journal = Journal(tmp_path / "journal")
    journal.write(intents=[intent("a")])
    journal.write(done=["a"])
    journal.close(0)
    assert list(tmp_path.iterdir()) == []
    journal = Journal(tmp_path / "journal")
    journal.write(intents=[intent("a")])
    journal.close(0)
    assert restarted(journal, tmp_path / "journal") == ([("a", 5)], [])


# -- several processes, and disks that fail --------------------------------------------------------------------------


def test_what_cannot_be_read_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a folder and a file that may not be read, as another user leaves them, the log says so; all else is taken over."""
    journal = Journal(tmp_path)
    journal.write(some("a"), 1, intents=[intent("x")])
    died(journal)
    (tmp_path / "0-unreadable" / "00000001.journal").mkdir(parents=True)
    (tmp_path / "1-forbidden").mkdir()
    open_file = os.open

    def forbidding(path: Any, *more: Any) -> int:
        if Path(path).name == "1-forbidden":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *more)

    monkeypatch.setattr(os, "open", forbidding)
    after = Journal(tmp_path)
    assert [one.id for one in after.adopt()] == ["x"]
    assert [one.id for one in backlog(after)] == ["a"]
    assert "0-unreadable/00000001.journal cannot be read" in caplog.text
    assert "1-forbidden cannot be read and is left where it is: Permission denied" in caplog.text
    after.close(0)


def test_the_living_are_left_alone(tmp_path: Path) -> None:
    """What another process holds is its own, also if it runs beside us; when it is dead its rows are ours."""
    code = (
        "import sys; from pathlib import Path; from gateway.state.journal import Journal; "
        "from tests.gateway.rows import row; journal = Journal(Path(sys.argv[1])); "
        "journal.write([row('theirs')], 1); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        journal = Journal(tmp_path)
        journal.write([row("ours")], 1)
        assert (journal.adopt(), backlog(journal)) == ([], [])
        other.kill()
    assert journal.adopt() == []
    assert [found.id for found in backlog(journal)] == ["theirs"]


def test_a_full_journal(tmp_path: Path) -> None:
    """Beyond its size rows are refused, intents are not; when there is room again it goes on."""
    journal = Journal(tmp_path / "journal", segment_bytes=1, most_bytes=1000)
    journal.write([row("a")], 1)
    with pytest.raises(OSError, match="as large as it may be"):
        journal.write([row("b")], 2)
    journal.write(intents=[intent("i")])
    journal.forget(1)
    journal.write([row("b")], 2)
    assert restarted(journal, tmp_path / "journal") == ([("i", 5)], ["b"])


def test_a_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes half a frame and then no more: what was acknowledged stays, what is tried again comes once."""
    journal = Journal(tmp_path / "journal")
    journal.write([row("a")], 1)
    real, left = os.write, [100]

    def short(file: int, data: memoryview) -> int:
        if not left:
            raise OSError(28, "No space left on device")
        return real(file, data[: left.pop()])

    monkeypatch.setattr(os, "write", short)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            journal.write([row("b")], 2)
    monkeypatch.undo()
    journal.write([row("b"), row("c")], 3)
    assert restarted(journal, tmp_path / "journal") == ([], ["a", "b", "c"])


def test_a_write_that_fails_and_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An intent that a disk has kept although its write failed is void with the next write, but for one that is tried again."""
    journal = Journal(tmp_path / "journal")
    journal.write([row("a")], 1)

    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal_module, "_flush", failing)
    monkeypatch.setattr(os, "ftruncate", failing)
    with pytest.raises(OSError, match="No space"):
        journal.write(intents=[intent("gone"), intent("stays")])
    monkeypatch.undo()
    journal.write([row("b")], 2, intents=[intent("stays")])
    assert restarted(journal, tmp_path / "journal") == ([("stays", 5)], ["a", "b"])


def test_rows_that_cannot_be_written(tmp_path: Path) -> None:
    """Odd text is written as the store would; a number that nothing can hold costs its own row."""
    journal = Journal(tmp_path / "journal")
    journal.write([row("a"), row("odd", user_agent="\udcff"), row("huge", input=2**70)], 3)
    died(journal)
    after = Journal(tmp_path / "journal")
    after.adopt()
    assert [(found.id, found.user_agent) for found in backlog(after)] == [("a", "curl/8"), ("odd", "?")]
