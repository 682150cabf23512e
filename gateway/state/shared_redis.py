"""What replicas must agree on, kept in Redis 6.2 or newer. The only module that imports its client.

**Requests never talk to Redis themselves.** Each puts its command into a queue and waits; one pump sends what has gathered,
in one write, reads the answers, and wakes them. Settlements go first in each such round, so that what was freed a moment ago
is there for who takes now. All takes and settlements of a round are steps of one script and one EVALSHA (`shared_redis.lua`
says what they do); under load many share it, which is what makes them cheap, here and in Redis.

**An outage costs at most 50 ms, once.** A round that has no answer by then is over, as is one that Redis answers with an
error (`READONLY` after a failover, `LOADING`, `OOM`): all who wait get `SharedAway`, and so does at once whoever comes later.
Meanwhile the pump tries again, now and then, at nobody's cost. Redis counts as back when it has answered as
quickly as requests need it, and has been told all settlements that were waiting.

A take with its settlement, of four windows, costs this process 160 us alone and 30 each among thirty, and Redis 120 and 42
(CPython 3.11; as calls of their own, with a word for everything, it was 180 and 60, and 147 and 69).

**A take whose answer did not come may have been done, may still be done, or never.** Nothing may stay taken, so each has a
mark, which the script writes with the take. What is left over is given back by mark when Redis is there again, and a
mark that does not exist yet is made void, so that a take which Redis had received and not done is not done later. The same is
true of one whose request was cancelled while it waited. Settlements are numbered per process: those that had no answer
are sent again under the same number and count once.

**A Redis that lost everything** (flushed, restarted, failed over) is told again what requests hold. Slots come back with
the next renewal. Whoever misses a budget's counter tells all on the channel `lost`, and each process adds what its open
tickets hold in it, once, before or after it is seeded.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from itertools import chain, count
from math import inf
from time import time
from typing import Any, TypeAlias
from uuid import uuid4

import msgspec
from msgspec import Struct
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from gateway.state.shared import (
    BUDGET_IDLE,
    BUDGET_SLACK,
    LEASE,
    Answer,
    Callback,
    Kind,
    Refusal,
    SharedAway,
    Taken,
    Ticket,
    Unknown,
    Window,
    not_held,
    outcome,
    tell,
)

log = logging.getLogger("penstock.shared")

_SCRIPT = (files("gateway.state") / "shared_redis.lua").read_text()
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()  # Redis names scripts so

_PATIENCE = 0.05
"""Seconds that a request waits for Redis, at most."""
_GRACE = 0.005
"""The last part of it begins in a new turn of the event loop: an answer that is there is seen, however late the loop is."""
_CONNECTING = 1.0
"""Seconds for a connection, which only the pump waits for."""
_GATHERING = 0.005
"""Seconds that settlements wait for others."""
_BATCH = 200
"""Settlements or renewals per command: Redis does nothing else meanwhile."""
_SILENCE = 1.0
"""Seconds after which a channel without news is asked whether it is alive, and has the same time to answer."""
_MOST = 2**60
"""The largest amount that Redis is told; its counters have room for some more."""
_EXACT = 2**53
"""Up to here a script's numbers are exact; a larger one is told as text."""
_STEPS = 50
"""Steps per call: Redis does nothing else meanwhile."""

_LOST = "lost"
"""The channel on which the names of missing counters are told."""

_NOT_YET = "Redis has not been reached yet"

_OPTIONS: dict[str, Any] = {
    "retry": Retry(NoBackoff(), 0),  # redis-py's defaults try a refused port for four seconds
    "socket_connect_timeout": _CONNECTING,
    "encoding_errors": "surrogatepass",  # names may hold what clients wrote, and not all of that is text
    "protocol": 2,
    "driver_info": None,
}

_Word: TypeAlias = str | int
_Entry: TypeAlias = tuple[str, str, str, _Word, _Word, _Word, _Word]
"""A settlement: key, kind, mark, when taken, amount taken, real amount, span in us or holder."""

_Held: TypeAlias = tuple[str, str, str, int, _Word]
"""What an open ticket holds: kind, key, mark, when taken in us, amount."""

_Undo: TypeAlias = Callable[[], Sequence[_Entry]]

_packing = msgspec.msgpack.Encoder()
_unpacking = msgspec.msgpack.Decoder(list[Any])


class _Step(Struct, eq=False):
    """Something to be done by the script: its keys, and its words, the first of which says what."""

    keys: Sequence[str]
    words: Sequence[_Word]


_Command: TypeAlias = tuple[Any, ...] | _Step
"""What Redis is asked: one of its own commands as its words, or a step of ours."""


class _Question(Struct, eq=False):
    """A command that somebody waits for; `undo` is what gives back what it took, if nobody learns that it did."""

    command: _Command
    answer: asyncio.Future[Any]
    asked: float
    undo: _Undo | None = None


class RedisShared:
    """`Shared` among all processes that have the same Redis and `prefix`.

    `url` is `redis://`, `rediss://` or `unix://` with what redis-py understands in it. `lease` is how long slots outlive their
    process, `pause` how long Redis is left alone after a failed attempt, `patience` how long a request waits for it, all in
    seconds.
    """

    name = "shared"

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "penstock:",
        lease: float = LEASE,
        pause: float = 1.0,
        patience: float = _PATIENCE,
    ) -> None:
        self._prefix = prefix
        self._lease = lease
        self._pause = pause
        self._patience = patience
        # No timeouts of its own for reads and writes: a round is timed as a whole.
        pool = ConnectionPool.from_url(url, **_OPTIONS)
        self._connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call] # redis-py's
        self._news_client = Redis.from_url(url, socket_timeout=_CONNECTING, **_OPTIONS)
        self._id = uuid4().hex
        self._process = f"{prefix}process:{self._id}"
        self._numbers = count(1)

        self._wake = asyncio.Event()
        self._questions: deque[_Question] = deque()
        self._settlements: deque[_Entry] = deque()
        self._charges: defaultdict[str, int] = defaultdict(int)
        self._gathering: asyncio.TimerHandle | None = None
        self._unconfirmed: tuple[int, list[_Entry]] | None = None
        self._batches = count(1)
        self._last_batch = 0
        self._held: dict[str, list[_Held]] = {}
        """Slots and budgets of open tickets, by the ticket's id."""
        self._untold: set[str] = set()
        """Marks of what tickets hold that never was told to Redis."""
        self._renewal_is_due = False
        self._lost: set[str] = set()
        """Keys of budgets of which Redis has to be told what is held."""

        self._callbacks: defaultdict[str, list[Callback]] = defaultdict(list)
        self._has_channels = asyncio.Event()
        self.subscribe(_LOST, self._hold_again)
        self._why = _NOT_YET
        self.degraded_since: float | None = time()

    @property
    def available(self) -> bool:
        """See `Shared`."""
        return self.degraded_since is None

    # -- for requests ------------------------------------------------------------------------------------------------

    async def take(self, windows: Sequence[Window]) -> Answer:
        """See `Shared`."""
        return await self._take(Ticket([], f"{self._id}:{next(self._numbers)}"), windows)

    async def top_up(self, ticket: Ticket, windows: Sequence[Window]) -> Answer:
        """See `Shared`."""
        return await self._take(ticket, not_held(ticket, windows))

    def hold(self, windows: Sequence[Window], ticket: Ticket | None = None) -> Ticket:
        """See `Shared`. It is held as if it were taken from a counter that was lost."""
        ticket = ticket or Ticket([], f"{self._id}:{next(self._numbers)}")
        mark = str(next(self._numbers))
        for window in windows:
            key = self._key(window.kind, window.name)
            if window.kind == "budget":
                self._lost.add(key)
            elif window.kind == "slots":
                self._renewal_is_due = True
            else:
                continue
            ticket.taken.append(Taken(window.kind, window.name, window.amount, window.seconds, (mark, 0)))
            held = (window.kind, key, mark, 0, _bounded(window.amount))
            self._held.setdefault(ticket.id, []).append(held)
            self._untold.add(mark)
        self._wake.set()
        return ticket

    def settle(self, ticket: Ticket, actual: Mapping[str, int]) -> None:
        """See `Shared`."""
        if ticket.is_settled:
            return
        ticket.is_settled = True
        self._held.pop(ticket.id, None)
        told = ""
        for taken, amount in outcome(ticket, actual):
            mark, when = taken.place
            if mark not in self._untold:
                if mark == told and taken.kind == "rate" and amount == taken.amount:
                    continue  # nothing to correct, and another entry says that the take is settled
                told = mark
                self._settlements.append(self._entry(ticket, taken, mark, when, amount))
            elif taken.kind == "budget":  # summed up, so that an outage may last
                self._charges[taken.name] += amount
        self._untold.difference_update(taken.place[0] for taken in ticket.taken)
        self._send_soon()

    def charge(self, name: str, amount: int) -> None:
        """See `Shared`."""
        self._charges[name] += amount
        self._send_soon()

    async def seed(self, window: Window, amount: int) -> bool:
        """See `Shared`."""
        keep_until = 0 if window.ends is None else (window.ends + BUDGET_SLACK) * 1000
        keys = (self._key("budget", window.name),)
        return bool(await self._ask(_Step(keys, ("seed", _bounded(amount), BUDGET_IDLE * 1000, keep_until))))

    async def look(self, windows: Sequence[Window]) -> list[int | None]:
        """See `Shared`."""
        if not windows:
            return []
        words = ["look", *(word for window in windows for word in (window.kind, _span(window.seconds)))]
        keys = [self._key(window.kind, window.name) for window in windows]
        used = await self._ask(_Step(keys, words))
        return [None if number is False else int(number) for number in used]

    async def get(self, name: str) -> bytes | None:
        """See `Shared`."""
        value: bytes | None = await self._ask(("GET", self._key("value", name)))
        return value

    async def put(self, name: str, value: bytes, seconds: float) -> None:
        """See `Shared`."""
        await self._ask(("SET", self._key("value", name), value, "PX", max(1, int(seconds * 1000))))

    async def publish(self, channel: str, message: str) -> None:
        """See `Shared`."""
        await self._ask(("PUBLISH", self._key("channel", channel), message))

    def subscribe(self, channel: str, callback: Callback) -> None:
        """See `Shared`. Gets None whenever the channel has been joined anew: what was told before that may be missing."""
        self._callbacks[channel].append(callback)
        self._has_channels.set()

    # -- as a worker -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """See `Shared`."""
        await self._connect()

    async def run(self) -> None:
        """See `Shared`."""
        try:
            async with asyncio.TaskGroup() as together:
                together.create_task(self._pump())
                together.create_task(self._renew())
                together.create_task(self._listen())
        finally:
            self._refuse("nothing is sent to Redis")

    async def close(self) -> None:
        """See `Shared`."""
        if self._has_settlements():
            await self._connect()
        self._refuse("Redis is not used any more")
        await self._hang_up()
        await self._news_client.aclose()

    async def _pump(self) -> None:
        while True:
            if not self.available and not await self._connect():
                await asyncio.sleep(self._pause)
                continue
            await self._wake.wait()
            self._wake.clear()
            with suppress(SharedAway):
                while self._questions or self._renewal_is_due or self._lost or self._has_settlements():
                    await self._round()

    async def _renew(self) -> None:
        """Renew leases in time; an otherwise idle connection is kept alive by it too."""
        while True:
            await asyncio.sleep(self._lease / 3)
            self._renewal_is_due = True
            self._wake.set()

    async def _connect(self) -> bool:
        """Whether Redis is there, answers as quickly as requests need it, and knows all that was to be told."""
        try:
            await self._hang_up()
            await self._exchange([("PING",)], _CONNECTING)
            self._renewal_is_due = True
            self._hold_again(None)
            while self._renewal_is_due or self._lost or self._has_settlements():
                await self._round()
        except SharedAway:
            return False
        if not self.available:
            self.degraded_since = None
            log.info("Redis is available")
        return True

    # -- rounds ------------------------------------------------------------------------------------------------------

    async def _take(self, ticket: Ticket, windows: Sequence[Window]) -> Answer:
        if not windows:
            return ticket
        mark = str(next(self._numbers))
        takens = [Taken(w.kind, w.name, w.amount, w.seconds, None) for w in windows]
        keys = [self._process]
        words: list[_Word] = ["take", mark, ticket.id, int(self._lease * 1000)]
        for w in windows:
            keys.append(self._key(w.kind, w.name))
            words += (w.kind, _bounded(w.amount), _bounded(w.limit), _kept(w), (w.ends or 0) * 1000)

        def undo() -> list[_Entry]:
            return [self._entry(ticket, taken, mark, "", 0) for taken in takens]

        answer = await self._ask(_Step(keys, words), undo)
        match answer[0]:
            case "taken" if ticket.is_settled:
                self._give_back(undo())
                return ticket
            case "taken":
                for taken in takens:
                    taken.place = mark, answer[1]
                ticket.taken += takens
                if held := [
                    (t.kind, self._key(t.kind, t.name), mark, answer[1], _bounded(t.amount))
                    for t in takens
                    if t.kind != "rate"
                ]:
                    self._held.setdefault(ticket.id, []).extend(held)
                return ticket
            case "refused":
                room = None if answer[3] < 0 else answer[3] / 1e6
                return Refusal(windows[answer[1] - 1], int(answer[2]), room)
            case _:
                unknown = [windows[abs(number) - 1] for number in answer[1:]]
                for window, number in zip(unknown, answer[1:], strict=True):
                    if number < 0:
                        self._hold_again(window.name)
                        await self.publish(_LOST, window.name)
                return Unknown(tuple(unknown))

    async def _ask(self, command: _Command, undo: _Undo | None = None) -> Any:
        """Have it sent with the next round and wait for the answer, at most 50 ms."""
        if not self.available:
            raise SharedAway(self._why)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._questions.append(_Question(command, answer, loop.time(), undo))
        self._wake.set()
        try:
            return await answer
        except asyncio.CancelledError:
            # Cancelled after the answer came and before we woke up: the pump thinks that somebody knows of it.
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self._give_back_taken(undo, answer.result())
            raise

    async def _round(self) -> None:
        """Send what waits, read the answers, and hand them out."""
        questions = [question for question in self._questions if not question.answer.done()]
        self._questions.clear()
        commands = [*self._housekeeping(), *(question.command for question in questions)]
        patience = self._patience
        if questions:
            loop = asyncio.get_running_loop()
            patience = max(2 * _GRACE, questions[0].asked + patience - loop.time())
        try:
            answers = await self._exchange(commands, patience)
        except BaseException as error:  # a pump that is stopped leaves nobody waiting either
            for question in questions:
                if question.undo is not None:
                    self._give_back(question.undo())
                _fail(question, str(error))
            raise
        self._unconfirmed = None
        for question, answer in zip(questions, answers[len(commands) - len(questions) :], strict=True):
            if not question.answer.done():
                question.answer.set_result(answer)
            else:
                self._give_back_taken(question.undo, answer)

    def _housekeeping(self) -> Iterator[_Command]:
        """Settlements, then renewals: a slot that was freed a moment ago is not renewed."""
        if self._unconfirmed is None and self._has_settlements():
            self._last_batch = next(self._batches)
            self._unconfirmed = self._last_batch, list(self._some_settlements())
        if self._unconfirmed is not None:
            number, entries = self._unconfirmed
            keys = [self._process, *(entry[0] for entry in entries)]
            yield _Step(keys, ["settle", number, *(word for entry in entries for word in entry[1:])])
        if self._renewal_is_due:
            self._renewal_is_due = False
            slots = [(held[1], ticket) for ticket, held in self._all_held("slots")]
            for start in range(0, max(1, len(slots)), _BATCH):
                some = slots[start : start + _BATCH]
                keys = [self._process, *(key for key, _ in some)]
                yield _Step(keys, ["renew", int(self._lease * 1000), *(holder for _, holder in some)])
        if self._lost:
            lost, self._lost = self._lost, set()
            budgets = [held for _, held in self._all_held("budget") if held[1] in lost]
            for start in range(0, len(budgets), _BATCH):
                part = budgets[start : start + _BATCH]
                keys = [self._process, *(held[1] for held in part)]
                yield _Step(keys, ["hold", self._last_batch, *(word for held in part for word in held[2:])])
        self._untold.clear()

    async def _exchange(self, commands: Sequence[_Command], patience: float) -> list[Any]:
        """Send commands and read their answers within `patience` seconds. Whatever goes wrong, Redis counts as away then."""
        # A task of its own, for redis-py waits with `wait_for`, which before Python 3.12 may pass over that it is cancelled.
        task = asyncio.get_running_loop().create_task(self._send(commands))
        try:
            await asyncio.wait([task], timeout=patience - _GRACE)
            if not task.done():
                await asyncio.wait([task], timeout=_GRACE)
            if not task.done():
                raise TimeoutError(f"no answer within {patience * 1000:.0f} ms")
            return task.result()
        except Exception as error:  # whatever it is, this connection cannot be relied on any more
            self._degrade(f"Redis is away: {type(error).__name__}: {error}")
            raise SharedAway(self._why) from error
        finally:
            task.cancel()

    async def _send(self, commands: Sequence[_Command]) -> list[Any]:
        steps = [command for command in commands if isinstance(command, _Step)]
        scripts = [_script(steps[start : start + _STEPS]) for start in range(0, len(steps), _STEPS)]
        others = [command for command in commands if not isinstance(command, _Step)]
        answers = await self._send_once([*(("EVALSHA", _SHA, *script) for script in scripts), *others])
        missing = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missing:
            again = [("EVAL", _SCRIPT, *scripts[number]) for number in missing]
            for number, answer in zip(missing, await self._send_once(again), strict=True):
                answers[number] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        of_steps = chain.from_iterable(_unpacking.decode(answer) for answer in answers[: len(scripts)])
        of_others = iter(answers[len(scripts) :])
        return [next(of_steps if isinstance(command, _Step) else of_others) for command in commands]

    async def _send_once(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """One write, as many answers. redis-py's own pipeline, with its pool, timers and packing, costs three times as much."""
        connection = self._connection
        await connection.send_packed_command(b"".join(map(_packed, commands)), check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response(timeout=inf))
            except ResponseError as error:
                answers.append(error)
        return answers

    async def _hang_up(self) -> None:
        """What was sent and not answered must not be answered into the next round."""
        with suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)

    def _degrade(self, why: str) -> None:
        if self.available or self._why == _NOT_YET:
            log.warning("%s", why)
        self._refuse(why)

    def _refuse(self, why: str) -> None:
        """Nobody is to wait: neither who does now, nor who comes."""
        self._why = why
        if self.degraded_since is None:
            self.degraded_since = time()
        while self._questions:
            _fail(self._questions.popleft(), why)

    # -- settlements -------------------------------------------------------------------------------------------------

    def _entry(self, ticket: Ticket, taken: Taken, mark: str, when: int | str, real: int) -> _Entry:
        last = ticket.id if taken.kind == "slots" else _span(taken.seconds)
        amounts = _bounded(taken.amount), _bounded(real)
        return self._key(taken.kind, taken.name), taken.kind, mark, when, *amounts, last

    def _give_back(self, entries: Sequence[_Entry]) -> None:
        self._settlements.extend(entries)
        self._send_soon()

    def _give_back_taken(self, undo: _Undo | None, answer: Any) -> None:
        """Nobody wants what this answer says any more."""
        if undo is not None and answer[0] == "taken":
            self._give_back(undo())

    def _has_settlements(self) -> bool:
        return bool(self._unconfirmed or self._settlements or self._charges)

    def _some_settlements(self) -> Iterator[_Entry]:
        """A batch of them; what one take took is never split, because its mark goes when it is settled."""
        number = 0
        mark = ""
        while self._settlements and (number < _BATCH or self._settlements[0][2] == mark):
            entry = self._settlements.popleft()
            mark = entry[2]
            number += 1
            yield entry
        while self._charges and number < _BATCH:
            name, amount = self._charges.popitem()
            number += 1
            yield self._key("budget", name), "budget", "", 0, 0, _bounded(amount), 0

    def _send_soon(self) -> None:
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(_GATHERING, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        self._wake.set()

    # -- news --------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        await self._has_channels.wait()
        while True:
            try:
                async with self._news_client.pubsub() as channels:
                    await self._follow(channels)
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("news from other replicas do not arrive: %s: %s", type(error).__name__, error)
            await asyncio.sleep(self._pause)

    async def _follow(self, channels: PubSub) -> None:
        """Hand on messages until the connection is lost, or silent even when asked."""
        joined: set[str] = set()
        asked = False
        while True:
            if missing := self._callbacks.keys() - joined:
                joined |= missing
                await channels.subscribe(*(self._key("channel", channel) for channel in missing))
            message = await channels.get_message(timeout=_SILENCE)
            if message is not None:
                asked = False
                self._tell(message)
            elif asked:
                raise TimeoutError("no answer to a ping")
            else:
                asked = True
                await channels.ping()

    def _tell(self, message: Mapping[str, Any]) -> None:
        if message["type"] not in {"message", "subscribe"}:
            return
        channel = message["channel"].decode().removeprefix(self._key("channel", ""))
        text = message["data"].decode(errors="replace") if message["type"] == "message" else None
        tell(self._callbacks[channel], text)

    def _hold_again(self, name: str | None) -> None:
        """A budget's counter is missing; None: any may be."""
        if name is not None:
            self._lost.add(self._key("budget", name))
        else:
            self._lost.update(held[1] for _, held in self._all_held("budget"))
        self._wake.set()

    def _all_held(self, kind: Kind) -> Iterator[tuple[str, _Held]]:
        """What open tickets hold of this kind, each with the ticket's id."""
        return (
            (ticket, held) for ticket, several in self._held.items() for held in several if held[0] == kind
        )

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"


def _script(steps: Sequence[_Step]) -> tuple[Any, ...]:
    """What EVALSHA and EVAL are told after the script itself."""
    keys = [key for step in steps for key in step.keys]
    packed = _packing.encode([part for step in steps for part in (len(step.keys), step.words)])
    return len(keys), *keys, packed


def _packed(command: tuple[Any, ...]) -> bytes:
    """As Redis reads it (redis.io, "RESP protocol spec"): an array of strings."""
    parts = [b"*%d\r\n" % len(command)]
    for part in command:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def _span(seconds: float) -> int:
    return int(seconds * 1_000_000)


def _bounded(amount: int) -> _Word:
    """What Redis can count: a billion dollars, or so many tokens."""
    if -_EXACT < amount < _EXACT:
        return amount
    return str(max(-_MOST, min(amount, _MOST)))


def _kept(window: Window) -> int:
    """The span of a rate in us; how long a budget without an end is kept in ms."""
    return BUDGET_IDLE * 1000 if window.kind == "budget" else _span(window.seconds)


def _fail(question: _Question, why: str) -> None:
    if not question.answer.done():
        question.answer.set_exception(SharedAway(why))
