"""Who holds which key, and how a change gets around."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from adapters.errors import BadRequest, Unauthorized
from gateway import keyring as keyrings
from gateway.background.supervisor import Supervisor, spawn
from gateway.config.model import Secret
from gateway.keyfields import digest_of
from gateway.keyring import (
    ANONYMOUS,
    MASTER,
    BlockedKey,
    Caller,
    ExpiredKey,
    InvalidKey,
    KeyBusy,
    Keyring,
    KeyUnknown,
    check_time,
)
from gateway.state.keys import KeyRow
from gateway.state.records import AliasTaken, RecordsUnavailable
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords
from gateway.state.shared_memory import MemoryShared

KEY = "sk-0123456789abcdef"
ROW = KeyRow(digest=digest_of(KEY), name="sk-...cdef", alias="bot")


class Records(MemoryRecords):
    """Records that count what is asked of them, and may be away or slow."""

    def __init__(self, *rows: KeyRow) -> None:
        super().__init__()
        self._keys = {row.digest: row for row in rows}
        self.asked: list[str] = []
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def key(self, digest: str) -> KeyRow | None:
        self.asked.append(digest)
        found = await super().key(digest)
        await self.gate.wait()
        if self.is_away:
            raise RecordsUnavailable("away")
        return found

    async def keys(self) -> list[KeyRow]:
        self.asked.append("*")
        found = await super().keys()
        await self.gate.wait()
        if self.is_away:
            raise RecordsUnavailable("away")
        return found


async def identify(keyring: Keyring, key: str) -> Caller:
    return keyring.known(key) or await keyring.look_up(key)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.002)


class Secretive(str):
    """A key that cannot be compared, only digested."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, _: object) -> bool:
        raise AssertionError("compared")


async def test_a_key_is_never_compared() -> None:
    """How long an answer takes says nothing about how much of a key is right: what is looked up is its digest."""
    keyring = Keyring(Secret("sk-the-master-key"), Records(ROW))
    await keyring.load()
    assert keyring.known(Secretive("sk-the-master-key")) is MASTER
    caller = keyring.known(Secretive(KEY))
    assert caller is not None
    assert caller.key == ROW
    for wrong in (KEY[:-1] + "0", "sk-the-master-kez"):
        with pytest.raises(InvalidKey):
            await identify(keyring, Secretive(wrong))


# -- the master key --------------------------------------------------------------------------------------------------


def test_without_a_master_key_everybody_is_anonymous() -> None:
    """An open gateway asks nobody for a key, whatever key is shown."""
    keyring = Keyring(None)
    assert keyring.is_open
    assert keyring.known(None) is ANONYMOUS
    assert keyring.known("anything") is ANONYMOUS
    assert not ANONYMOUS.is_admin


@pytest.mark.parametrize("key", ["dev-key", "sk-1234", "ключ", "x"])
def test_any_text_may_be_the_master_key(key: str) -> None:
    """The master key needs no form; it makes an administrator, of whose key nothing is kept, not even a digest."""
    caller = Keyring(Secret(key)).known(key)
    assert caller is MASTER
    assert caller.is_admin
    assert caller.digest == "litellm_proxy_master_key"


def test_no_key_and_a_wrong_key_are_refused() -> None:
    """What is missing and what is wrong are told apart, with LiteLLM's types."""
    keyring = Keyring(Secret("right"))
    with pytest.raises(Unauthorized) as missing:
        keyring.known(None)
    with pytest.raises(InvalidKey) as wrong:
        keyring.known("wrong")
    assert missing.value.type == "auth_error"
    assert (wrong.value.type, wrong.value.param) == ("token_not_found_in_db", "key")


# -- virtual keys ----------------------------------------------------------------------------------------------------


async def test_all_keys_are_in_memory() -> None:
    """After loading, a key is known without asking anybody, and its caller is the same object each time."""
    records = Records(ROW)
    keyring = Keyring(Secret("master"), records)
    await keyring.load()
    caller = keyring.known(KEY)
    assert caller is keyring.known(KEY)
    assert caller is not None
    assert (caller.kind, caller.digest, caller.alias, caller.key) == ("key", ROW.digest, "bot", ROW)
    assert not caller.is_admin
    assert records.asked == ["*"]


@pytest.mark.parametrize("master", [None, Secret("master")])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"deleted_at": 1.0}, InvalidKey, "Authentication Error, Invalid API key provided."),
        ({"blocked": True}, BlockedKey, "Authentication Error, Key is blocked. Update via `/key/unblock`"),
        (
            {"expires_at": 1.0},
            ExpiredKey,
            "Authentication Error - Expired Key. Key Expiry time 1970-01-01 00:00:01",
        ),
    ],
)
async def test_what_was_taken_away(
    master: Secret | None, change: dict[str, float], error: type[Unauthorized], message: str
) -> None:
    """A deleted, blocked or expired key is 401 with LiteLLM's words, in an open gateway too."""
    keyring = Keyring(master, Records(replace(ROW, **change)))
    await keyring.load()
    for _ in range(2):
        with pytest.raises(error) as refused:
            keyring.known(KEY)
        assert refused.value.status == 401
        assert refused.value.message.startswith(message)


def test_a_key_expires_by_itself() -> None:
    """Until the moment it holds, from then on it does not."""
    row = replace(ROW, expires_at=100.0)
    check_time(row, 99.999)
    with pytest.raises(ExpiredKey):
        check_time(row, 100.0)
    check_time(ROW, 1e12)


async def test_a_key_that_is_not_in_memory_is_looked_up_once() -> None:
    """What is found is known from then on; that nobody has a key is remembered too."""
    records = Records(ROW)
    keyring = Keyring(Secret("master"), records)
    assert keyring.known(KEY) is None
    assert (await identify(keyring, KEY)).key == ROW
    assert keyring.known(KEY) is not None
    unknown = "sk-nobody-has-this-one"
    for _ in range(3):
        with pytest.raises(InvalidKey):
            await identify(keyring, unknown)
    assert records.asked == [ROW.digest, digest_of(unknown)]


async def test_what_cannot_be_a_key_is_not_looked_up() -> None:
    """Keys begin with `sk-`; whatever else a scanner sends costs a digest and nothing more."""
    records = Records()
    keyring = Keyring(Secret("master"), records)
    with pytest.raises(InvalidKey):
        await identify(keyring, "password")
    assert await identify(Keyring(None, records), "dummy") is ANONYMOUS
    assert records.asked == []


async def test_what_is_remembered_of_nobodies_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wrong keys are tried, the newest are remembered, and for a short time."""
    monkeypatch.setattr(keyrings, "_MOST_NOBODIES", 3)
    records = Records()
    keyring = Keyring(None, records)
    for number in range(10):
        assert await identify(keyring, f"sk-wrong-key-{number:04}") is ANONYMOUS
    assert len(keyring._nobodies) == 3
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 6)
    assert keyring.known("sk-wrong-key-0009") is None


async def test_away_records() -> None:
    """While the records are away, known keys go on; of others nobody can tell, which is 503 and no 401."""
    records = Records(ROW)
    keyring = Keyring(Secret("master"), records)
    await keyring.load()
    records.is_away = True
    assert (await identify(keyring, KEY)).key == ROW
    assert keyring.known("master") is MASTER
    with pytest.raises(KeyUnknown) as refused:
        await identify(keyring, "sk-another-key-0001")
    assert (refused.value.status, refused.value.headers["retry-after"]) == (503, "2")
    records.is_away = False
    with pytest.raises(InvalidKey):
        await identify(keyring, "sk-another-key-0001")
    # Without a master key nobody needs one: whoever shows an unknown one could as well show none.
    records.is_away = True
    assert await identify(Keyring(None, records), "sk-another-key-0001") is ANONYMOUS


async def test_only_so_many_lookups_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of wrong keys does not queue up before the store."""
    monkeypatch.setattr(keyrings, "_MOST_LOOKUPS", 2)
    records = Records()
    records.gate.clear()
    keyring = Keyring(Secret("master"), records)
    waiting = [spawn(keyring.look_up(f"sk-wrong-key-{number:04}"), name="look up") for number in range(2)]
    await until(lambda: len(records.asked) == 2)
    with pytest.raises(KeyUnknown):
        await keyring.look_up("sk-one-too-many-0001")
    records.gate.set()
    for ended in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(ended, InvalidKey)


async def test_a_slow_answer_brings_nothing_back() -> None:
    """A lookup and a reading of everything that began before a key was deleted end after it: it stays deleted."""
    records = Records(ROW)
    keyring = Keyring(Secret("master"), records)
    records.gate.clear()
    lookup = spawn(keyring.look_up(KEY), name="look up")
    loading = spawn(keyring.load(), name="load")
    await until(lambda: len(records.asked) == 2)
    keyring.take(replace(ROW, version=2, deleted_at=1.0))
    records.gate.set()
    with pytest.raises(InvalidKey):
        await lookup
    await loading
    with pytest.raises(InvalidKey):
        keyring.known(KEY)


async def test_each_change_has_a_number() -> None:
    """Whoever remembers a caller sees that something has changed; a row that is known already changes nothing."""
    keyring = Keyring(None, Records(ROW))
    versions = [keyring.version]
    await keyring.load()
    versions.append(keyring.version)
    keyring.take(replace(ROW, version=2, blocked=True))
    versions.append(keyring.version)
    assert versions == sorted(set(versions))
    keyring.take(ROW)
    await keyring.load()
    assert keyring.version == versions[-1]


async def test_a_key_made_after_it_was_asked_for() -> None:
    """That nobody had a key is forgotten when somebody gets it."""
    keyring = Keyring(Secret("master"), Records())
    with pytest.raises(InvalidKey):
        await identify(keyring, KEY)
    await keyring.change(ROW.digest, lambda _: ROW)
    assert (await identify(keyring, KEY)).key == ROW


# -- changes ---------------------------------------------------------------------------------------------------------


async def test_two_changes_at_once() -> None:
    """Each is made to what the other left."""
    records = Records(ROW)
    first, second = Keyring(None, records), Keyring(None, records)

    def one_more(row: KeyRow | None) -> KeyRow:
        assert row is not None
        return replace(row, version=row.version + 1, rpm_limit=(row.rpm_limit or 0) + 1)

    await asyncio.gather(*(ring.change(ROW.digest, one_more) for ring in (first, second) for _ in range(3)))
    stored = await records.key(ROW.digest)
    assert stored is not None
    assert (stored.version, stored.rpm_limit) == (7, 6)


async def test_a_change_that_never_gets_through() -> None:
    """Who loses every time is told so, and nothing was changed."""
    records = Records(ROW)
    with pytest.raises(KeyBusy) as refused:
        await Keyring(None, records).change(ROW.digest, lambda _: replace(ROW, version=9))
    assert refused.value.status == 409
    assert await records.key(ROW.digest) == ROW


async def test_keys_of_the_configuration() -> None:
    """They are known without records, go before what is stored, keep their aliases, and nothing changes them."""
    records = Records(replace(ROW, blocked=True, alias=None))
    keyring = Keyring(Secret("master"), records, [ROW])
    await keyring.load()
    assert (await identify(keyring, KEY)).key == ROW
    assert keyring.is_configured(ROW.digest)
    assert keyring.find(ROW.digest) == ROW
    with pytest.raises(BadRequest):
        await keyring.change(ROW.digest, lambda _: ROW)
    other = KeyRow(digest="d" * 64, name="sk-...dddd", alias="bot")
    with pytest.raises(AliasTaken):
        await keyring.change(other.digest, lambda _: other)
    assert (Keyring(None, None, [ROW]).known(KEY) or ANONYMOUS).key == ROW


async def test_who_pays() -> None:
    """A key that replaced another is the same in the ledger."""
    keyring = Keyring(None, Records(replace(ROW, account="f" * 64)))
    await keyring.load()
    assert (keyring.known(KEY) or ANONYMOUS).digest == "f" * 64


async def test_lists() -> None:
    """Deleted keys are not among all, but can be found."""
    gone = KeyRow(digest="0" * 64, name="sk-...0000", alias="gone", deleted_at=1.0)
    keyring = Keyring(None, Records(ROW, gone))
    await keyring.load()
    assert keyring.rows() == [ROW]
    assert keyring.find("0" * 64) == gone
    assert keyring.with_alias("bot") == ROW
    assert keyring.with_alias("gone") is None


# -- news ------------------------------------------------------------------------------------------------------------


async def test_without_a_channel_everything_is_read_again(tmp_path: Path) -> None:
    """Two gateways on one file: what one revokes is revoked in the other when it next reads, after half a second."""
    assert keyrings._OFTEN == (0.5, 5.0)
    files = [SqliteRecords(tmp_path / "penstock.db") for _ in range(2)]
    here, there = (Keyring(Secret("master"), records) for records in files)
    supervisor = Supervisor([there])
    supervisor.start()
    try:
        await here.change(ROW.digest, lambda _: ROW)
        await until(lambda: there.find(ROW.digest) is not None)
        await here.change(ROW.digest, lambda _: replace(ROW, version=2, blocked=True))
        await until(lambda: there.find(ROW.digest) != ROW)
        with pytest.raises(BlockedKey):
            there.known(KEY)
    finally:
        await supervisor.stop()
        for records in files:
            await records.close()


async def test_news() -> None:
    """With a channel only the key that was changed is read; where news may be missing, everything."""
    records, shared = Records(ROW), MemoryShared()
    here, there = Keyring(None, records), Keyring(None, records)
    here.listen(shared)
    there.listen(shared)
    await there.load()
    supervisor = Supervisor([there])
    supervisor.start()
    try:
        records.asked.clear()
        await here.change(ROW.digest, lambda _: replace(ROW, version=2, blocked=True))
        await until(lambda: there.find(ROW.digest) != ROW)
        assert "*" not in records.asked
        there.hear(None)
        await until(lambda: "*" in records.asked)
    finally:
        await supervisor.stop()


async def test_news_while_the_records_are_away() -> None:
    """What was told and could not be read is read when it can be."""
    records, shared = Records(ROW), MemoryShared()
    keyring = Keyring(None, records)
    keyring.listen(shared)
    await keyring.load()
    supervisor = Supervisor([keyring])
    supervisor.start()
    try:
        await records.put_key(replace(ROW, version=2, blocked=True))
        records.is_away = True
        records.asked.clear()
        await shared.publish("keys", ROW.digest)
        await until(lambda: ROW.digest in records.asked)
        assert keyring.find(ROW.digest) == ROW
        records.is_away = False
        keyring._told.set()
        await until(lambda: keyring.find(ROW.digest) != ROW)
    finally:
        await supervisor.stop()
