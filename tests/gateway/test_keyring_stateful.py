"""A key that was taken away stays taken away, whatever reads of the store end late.

One machine has two keyrings on one store. Keys are made, changed, blocked, deleted, given a time to live and replaced in
either; reads of one key or of all begin at any moment with what the store has then, and end at any later one, in any order.
What each keyring knows of a key never goes back, and whoever knows the last version of it decides as the last change says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters.errors import GatewayError, Unauthorized
from gateway import keyring as keyrings
from gateway.admin import keys as pages
from gateway.config.model import Secret
from gateway.keyfields import digest_of
from gateway.keyring import MASTER, Keyring
from gateway.state.keys import KeyRow
from gateway.state.records_memory import MemoryRecords
from tests.gateway.rows import NOON

LIFE = 60
CLOCKED: tuple[Any, ...] = (keyrings, pages)
"""Modules whose clock the machine holds."""


class SlowRecords(MemoryRecords):
    """Reads that are `slow` have what the store has now, and give it when they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = False
        self.waiting: list[asyncio.Future[None]] = []

    async def key(self, digest: str) -> KeyRow | None:
        found = await super().key(digest)
        await self.pause()
        return found

    async def keys(self) -> list[KeyRow]:
        found = await super().keys()
        await self.pause()
        return found

    async def pause(self) -> None:
        if self.slow:
            self.waiting.append(gate := asyncio.get_running_loop().create_future())
            await gate


class Revocation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = uvloop.new_event_loop()
        self.records = SlowRecords()
        self.rings = [Keyring(Secret("sk-the-master-key-of-all"), self.records) for _ in range(2)]
        self.keys: list[str] = []
        self.last: dict[str, KeyRow] = {}
        self.seen: dict[tuple[int, str], int] = {}
        self.reads: list[asyncio.Task[Any]] = []
        self.now = NOON
        clock: Any = SimpleNamespace(**{**vars(time), "time": lambda: self.now})
        for module in CLOCKED:
            module.time = clock

    def teardown(self) -> None:
        self.let_go_of_all()
        for module in CLOCKED:
            module.time = time
        self.loop.close()

    # -- changes -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.keys) < 6)
    @rule(ring=st.integers(0, 1))
    def make(self, ring: int) -> None:
        key = f"sk-0123456789abcdef-{len(self.keys)}"
        self.change(ring, pages.generate, {"key": key})
        self.keys.append(key)

    @precondition(lambda self: self.keys)
    @rule(
        ring=st.integers(0, 1),
        which=st.integers(0, 5),
        what=st.sampled_from(["block", "unblock", "delete", "expire", "live", "update", "make again"]),
    )
    def change_one(self, ring: int, which: int, what: str) -> None:
        key = self.keys[which % len(self.keys)]
        match what:
            case "block" | "unblock":
                self.change(ring, pages.block, {"key": key}, blocked=what == "block")
            case "delete":
                self.change(ring, pages.delete, {"keys": [key]})
            case "expire" | "live":
                life = f"{LIFE}s" if what == "expire" else "-1"
                self.change(ring, pages.update, {"key": key, "duration": life})
            case "update":
                self.change(ring, pages.update, {"key": key, "rpm_limit": which})
            case _:
                self.change(ring, pages.generate, {"key": key})

    @precondition(lambda self: self.keys and len(self.keys) < 6)
    @rule(ring=st.integers(0, 1), which=st.integers(0, 5), has_grace=st.booleans())
    def regenerate(self, ring: int, which: int, *, has_grace: bool) -> None:
        fresh = f"sk-0123456789abcdef-{len(self.keys)}"
        fields = {"key": self.keys[which % len(self.keys)], "new_key": fresh}
        if has_grace:
            fields["grace_period"] = f"{LIFE}s"
        self.change(ring, pages.regenerate, fields)
        self.keys.append(fresh)

    @rule(seconds=st.integers(1, LIFE))
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds

    # -- reads that race them ----------------------------------------------------------------------------------------

    @precondition(lambda self: self.keys)
    @rule(ring=st.integers(0, 1), which=st.integers(0, 5), way=st.sampled_from(["all", "told", "asked"]))
    def begin_to_read(self, ring: int, which: int, way: str) -> None:
        """Everything, what another has told of, or what a request asks for."""
        keyring, key = self.rings[ring], self.keys[which % len(self.keys)]
        keyring.hear(None if way == "all" else digest_of(key))
        reading = keyring.look_up(key) if way == "asked" else keyring._catch_up()
        self.records.slow = True
        self.reads.append(self.loop.create_task(quietly(reading)))
        self.ask(asyncio.sleep(0))
        self.records.slow = False

    @precondition(lambda self: self.records.waiting)
    @rule(which=st.integers(0, 20))
    def end_a_read(self, which: int) -> None:
        waiting = self.records.waiting
        waiting.pop(which % len(waiting)).set_result(None)
        self.ask(settled())

    @rule()
    def let_go_of_all(self) -> None:
        """In the end both know the last of all."""
        while self.records.waiting:
            self.end_a_read(0)
        for number, keyring in enumerate(self.rings):
            self.ask(keyring.load())
            for digest, row in self.last.items():
                assert keyring.find(digest) == row, number

    # -- what must be so ---------------------------------------------------------------------------------------------

    @invariant()
    def nothing_comes_back(self) -> None:
        for number, keyring in enumerate(self.rings):
            for key in self.keys:
                digest = digest_of(key)
                row = keyring.find(digest)
                version = row.version if row is not None else 0
                assert version >= self.seen.get((number, digest), 0)
                self.seen[number, digest] = version
                if all(keyring.find(other) == self.last.get(other) for other in self.chain(digest)):
                    assert self.lets_in(keyring, key) == self.may_come_in(digest)

    def lets_in(self, keyring: Keyring, key: str) -> bool:
        try:
            return keyring.known(key) is not None
        except Unauthorized:
            return False

    def may_come_in(self, digest: str) -> bool:
        """By the last change: neither this key nor what is in its place was taken away, and its time is not over. A key that
        was made anew with the text of one that was taken away is in nobody's place.
        """
        first, *_, last = [self.last.get(one) for one in (digest, *self.chain(digest))]
        if first is None or last is None or not first.is_alive(self.now):
            return False
        return last.deleted_at is None and not last.blocked and last.payer == first.payer

    def chain(self, digest: str) -> list[str]:
        """The key, what replaced it, and so on."""
        found = [digest]
        while (row := self.last.get(found[-1])) is not None and row.successor is not None:
            found.append(row.successor)
        return found

    def change(self, ring: int, page: Any, fields: dict[str, Any], **more: Any) -> None:
        """By a call of the management; whoever made it knows it at once."""
        rt = SimpleNamespace(keyring=self.rings[ring], records=self.records, limiter=Spendless(), ledger=None)
        with suppress(GatewayError):
            self.ask(page(rt, MASTER, fields, **more))
        for row in self.ask(MemoryRecords.keys(self.records)):
            if row != self.last.get(row.digest):
                assert self.rings[ring].find(row.digest) == row
            self.last[row.digest] = row

    def ask(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)


class Spendless:
    """What `/key/block` wants to say of money."""

    async def spend_of(self, _: KeyRow) -> int:
        return 0

    def budget_reset_at(self, _: KeyRow) -> None:
        return None


async def quietly(reading: Coroutine[Any, Any, Any]) -> None:
    with suppress(Unauthorized):
        await reading


async def settled() -> None:
    """Whatever was woken has run, to its end or its next wait."""
    for _ in range(5):
        await asyncio.sleep(0)


TestRevocation = Revocation.TestCase
TestRevocation.settings = settings(max_examples=150, stateful_step_count=50)
