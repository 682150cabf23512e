"""What replicas must agree on, kept in Redis 6.2 or newer.

**Requests ask in rounds.** Who comes while none is under way begins one: what has come by the end of this turn of the event
loop goes out in one write. Who comes later waits for the next, which begins when the answers are there and have been handed out,
in the call that brought them. Settlements go first in each round, so that what was freed a moment ago is there for who takes now. All takes
and settlements of a round are steps of one script and one EVALSHA (`gateway.state.redis_calls`); under load many share it, which is
what makes them cheap, here and in Redis.

**An outage costs a request at most its patience, once** (`PENSTOCK_REDIS_TIMEOUT`, 50 ms). A round that has no answer by then is
over, as is one that Redis answers with an error (`READONLY` after a failover, `LOADING`, `OOM`): all who wait get `SharedAway`,
and so does at once whoever comes later. Meanwhile a worker tries again, now and then, at nobody's cost. Redis counts as back
when it has answered as quickly as requests need it, and has then been told all settlements that were waiting, for which there is
more time.

A take with its settlement, of four windows, costs this process 90 us alone and 25 each among thirty, and Redis 90 and 37
(CPython 3.11; as calls of their own, through redis-py's streams, it was 180 and 60, and 147 and 69).

**A take whose answer did not come may have been done, may still be done, or never.** Nothing may stay taken, so each has a
mark, which the script writes with the take. What is left over is given back by mark when Redis is there again, and so is that of
one whose request was cancelled while it waited. Settlements are numbered per process: those that had no answer are sent again
under the same number and count once. Each call says which were the last, and one that Redis had received and does only after
later ones takes nothing any more.

**A Redis that lost everything** (flushed, restarted, failed over) is told again what requests hold. Slots come back with
the next renewal. When somebody misses a budget's counter, the script tells all on the channel `lost`, and each process adds what
its open tickets hold in it, once, before or after it is seeded.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from math import ceil, inf
from time import monotonic, time
from typing import Any, TypeAlias
from uuid import uuid4

from msgspec import Struct
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.state.redis_calls import Calls, Step, Word, amount_word, microseconds
from gateway.state.redis_line import Command, RedisLine, open_line
from gateway.state.redis_news import RedisNews
from gateway.state.redis_settlements import BATCH as SETTLEMENTS
from gateway.state.redis_settlements import Settlement, Settlements
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
)
from gateway.story import Signal

log = logging.getLogger("penstock.shared")

_LEAST = 0.01
"""Seconds that a round has at least, however long those in it have waited for the one before."""
_CONNECTING = 1.0
"""Seconds for a connection, or a round of news to a Redis that is not used yet; more where requests have more patience. No
request waits for it, and with less a busy machine would begin them all again, for ever.
"""
_GATHERING = 0.005
"""Seconds that settlements wait for others, but for those that free a slot."""
_BATCH = 200
"""Holds or renewals per step."""
_FEW = 4
"""Steps of news up to which a round is as quick as any; one that brings more has all the time that there is."""
_MANY = 2_000
"""Holds or renewals per round: Redis needs 3 us for each, and requests wait for it."""
_TIMES = 3
"""How often a Redis that comes back is told all that waits, at most, before it is used."""
_LOST = "lost"
"""The channel on which the names of missing counters are told."""

_NOT_YET = "Redis has not been reached yet"

_OPTIONS: dict[str, Any] = {
    "retry": Retry(NoBackoff(), 0),  # redis-py's defaults try a refused port for four seconds
    "encoding_errors": "surrogatepass",  # names may hold what clients wrote, and not all of that is text
    "protocol": 2,
    "driver_info": None,
}

_Held: TypeAlias = tuple[str, str, str, int, Word]
"""What an open ticket holds: kind, key, mark, when taken in us, amount."""

_Undo: TypeAlias = Callable[[], Sequence[Settlement]]


class _Question(Struct, eq=False):
    """Something that somebody waits for; `undo` is what gives back what it took, if nobody learns that it did."""

    asked: Step | Command
    since: float
    undo: _Undo | None
    told: Signal
    """Set when there is an answer, or `away` says why there is none."""
    answer: Any = None
    away: str = ""
    is_given_up: bool = False
    """Nobody waits any more."""

    def end(self, answer: Any, away: str = "") -> None:
        """Wake who waits. Its story goes on within this call."""
        self.answer, self.away = answer, away
        self.told.set()


class _Round(Struct, eq=False):
    """What was sent in one write, and waits for its answers until `until`."""

    line: RedisLine
    calls: Calls
    questions: Sequence[_Question]
    until: float
    ended: Signal


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
        patience: float,
    ) -> None:
        self._prefix = prefix
        self._lease = lease
        self._pause = pause
        self._patience = patience
        self._connecting = max(_CONNECTING, patience)
        options = {**_OPTIONS, "socket_connect_timeout": self._connecting}
        # No timeouts of its own for reads and writes: a round is timed as a whole.
        self._pool = ConnectionPool.from_url(url, **options)
        self._line: RedisLine | None = None
        self._is_lost = asyncio.Event()
        """Somebody has to connect."""
        self._id = uuid4().hex
        self._process = f"{prefix}process:{self._id}"
        self._numbers = count(1)

        self._questions: deque[_Question] = deque()
        self._round: _Round | None = None
        """What is under way."""
        self._is_beginning = False
        """A round begins at the end of this turn of the event loop."""
        self._gathering: asyncio.TimerHandle | None = None
        self._settlements = Settlements(self._process, self._key)
        self._held: dict[str, list[_Held]] = {}
        """Slots and budgets of open tickets, by the ticket's id."""
        self._untold: set[str] = set()
        """Marks of what tickets hold that never was told to Redis."""
        self._to_hold: deque[tuple[str, _Held]] = deque()
        """What tickets hold in budgets that do not know it; each with the ticket's id."""
        self._to_renew: deque[tuple[str, _Held]] = deque()
        """Slots whose lease is to be renewed."""
        self._renewal_is_due = False
        """Even if there is no slot: what Redis keeps of this process is forgotten otherwise."""

        client = Redis.from_url(url, socket_timeout=self._connecting, **options)
        self._news = RedisNews(client, self._key("channel", ""), pause=pause)
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
            if window.kind == "rate":
                continue
            ticket.taken.append(Taken(window.kind, window.name, window.amount, window.seconds, (mark, 0)))
            held = (window.kind, self._key(window.kind, window.name), mark, 0, amount_word(window.amount))
            self._held.setdefault(ticket.id, []).append(held)
            (self._to_hold if window.kind == "budget" else self._to_renew).append((ticket.id, held))
            self._untold.add(mark)
        self._begin_soon()
        return ticket

    def settle(self, ticket: Ticket, actual: Mapping[str, int]) -> Sequence[tuple[str, int]]:
        """See `Shared`."""
        untold: list[tuple[str, int]] = []
        if ticket.is_settled:
            return untold
        ticket.is_settled = True
        self._held.pop(ticket.id, None)
        told = ""
        is_urgent = False
        settlements: list[Settlement] = []
        for taken, amount in outcome(ticket, actual):
            mark, when = taken.place
            is_urgent |= taken.kind == "slots"  # the next request may come at once, and to another gateway
            if mark not in self._untold:
                if mark == told and taken.kind == "rate" and amount == taken.amount:
                    continue  # nothing to correct, and another one says that the take is settled
                told = mark
                settlements.append(self._settlements.of(ticket, taken, mark, when, amount))
            elif taken.kind == "budget":
                untold.append((taken.name, amount))
        self._settlements.add(settlements)
        self._untold.difference_update(taken.place[0] for taken in ticket.taken)
        if is_urgent:
            self._begin_soon()
        else:
            self._send_soon()
        return untold

    def charge(self, name: str, amount: int) -> None:
        """See `Shared`."""
        self._settlements.charge(name, amount)
        self._send_soon()

    async def seed(self, window: Window, amount: int) -> bool:
        """See `Shared`."""
        keep_until = 0 if window.ends is None else (window.ends + BUDGET_SLACK) * 1000
        keys = (self._key("budget", window.name),)
        return bool(
            await self._ask(Step(keys, ("seed", amount_word(amount), BUDGET_IDLE * 1000, keep_until)))
        )

    async def forget(self, names: Sequence[str]) -> None:
        """See `Shared`."""
        if names:
            await self._ask(("UNLINK", *(self._key("budget", name) for name in names)))

    async def look(self, windows: Sequence[Window]) -> list[int | None]:
        """See `Shared`."""
        if not windows:
            return []
        words = [
            "look",
            *(word for window in windows for word in (window.kind, microseconds(window.seconds))),
        ]
        keys = [self._key(window.kind, window.name) for window in windows]
        used = await self._ask(Step(keys, words))
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
        self._news.subscribe(channel, callback)

    # -- as a worker -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """See `Shared`."""
        await self._connect()

    async def run(self) -> None:
        """See `Shared`."""
        try:
            async with asyncio.TaskGroup() as together:
                together.create_task(self._stay_connected())
                together.create_task(self._renew())
                together.create_task(self._news.run())
        finally:
            # Not in this task: stories go on in the call that tells them, and some ask which task they are.
            asyncio.get_running_loop().call_soon(self._refuse, "nothing is sent to Redis")

    async def close(self) -> None:
        """See `Shared`."""
        self._refuse("Redis is not used any more")
        if self._settlements:
            await self._connect()
            while self._settlements and self._line is not None:
                await self._tell()
            self._refuse("Redis is not used any more")
        await self._news.close()

    async def _stay_connected(self) -> None:
        """Connect when Redis is lost: at once, but leave it alone for a while after each attempt, whatever came of it."""
        last = -inf
        while True:
            if self.available:
                await self._is_lost.wait()
            await asyncio.sleep(max(0.0, last + self._pause - monotonic()))
            await self._connect()
            last = monotonic()

    async def _renew(self) -> None:
        """Renew leases in time; an otherwise idle connection is kept alive by it too."""
        while True:
            await asyncio.sleep(self._lease / 3)
            self._renew_all()
            self._begin_soon()

    async def _connect(self) -> None:
        """While it is away: use it again if it is there, answers as quickly as requests need it, and has been told what it must know."""
        self._hang_up()
        self._is_lost.clear()
        try:
            self._line = line = await open_line(self._pool, self._connecting, self._degrade)
            await line.ask([("PING",)], self._patience)
        except (RedisError, OSError, ValueError) as error:
            self._degrade(error)
            return
        self._renew_all()
        self._hold_again(None)
        await self._tell()  # the next round tells the rest, before anybody takes
        if self._line is line and not self.available:
            self.degraded_since = None
            log.info("Redis is available")
            self._begin_soon()

    async def _tell(self) -> None:
        """Have rounds, as long as the connection lasts, until one more would tell the rest. Under load there is more after each
        of them, so it ends when everything that waited has been told a few times.
        """
        line = self._line
        for _ in range(_TIMES):
            for _ in range(self._rounds()):
                self._begin_round()
                if self._round is not None:
                    await self._round.ended
                if self._line is not line or line is None:
                    return
            if self._rounds() <= 1:
                return

    def _rounds(self) -> int:
        """How many it takes to tell all that is to be told now."""
        return max(
            1 if self._settlements or self._renewal_is_due else 0,
            ceil(len(self._settlements) / SETTLEMENTS),
            ceil(max(len(self._to_hold), len(self._to_renew)) / _MANY),
        )

    def _hang_up(self) -> None:
        """A round that is under way ends, its answers unknown. The next connection is told anew all that is held by then."""
        self._to_hold.clear()
        self._to_renew.clear()
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _degrade(self, error: Exception) -> None:
        """Redis counts as away."""
        why = f"Redis is away: {type(error).__name__}: {error}"
        if self.available or self._why == _NOT_YET:
            log.warning("%s", why)
        self._refuse(why)

    def _refuse(self, why: str) -> None:
        """Nobody is to wait: neither who does now, nor who comes."""
        self._why = why
        if self.degraded_since is None:
            self.degraded_since = time()
        self._is_lost.set()
        self._hang_up()
        while self._questions:
            self._questions.popleft().end(None, why)

    # -- rounds ------------------------------------------------------------------------------------------------------

    async def _take(self, ticket: Ticket, windows: Sequence[Window]) -> Answer:
        if not windows:
            return ticket
        mark = str(next(self._numbers))
        takens = [Taken(w.kind, w.name, w.amount, w.seconds, None) for w in windows]
        keys = [self._process]
        words: list[Word] = ["take", mark, ticket.id, int(self._lease * 1000)]
        for w in windows:
            keys.append(self._key(w.kind, w.name))
            words += (w.kind, amount_word(w.amount), amount_word(w.limit), _kept(w), (w.ends or 0) * 1000)

        def undo() -> list[Settlement]:
            return [self._settlements.of(ticket, taken, mark, "", 0) for taken in takens]

        answer = await self._ask(Step(keys, words), undo)
        match answer[0]:
            case "taken" if ticket.is_settled:
                self._give_back(undo())
                return ticket
            case "taken":
                for taken in takens:
                    taken.place = mark, answer[1]
                ticket.taken += takens
                if held := [
                    (t.kind, self._key(t.kind, t.name), mark, answer[1], amount_word(t.amount))
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
                return Unknown(tuple(unknown))

    async def _ask(self, asked: Step | Command, undo: _Undo | None = None) -> Any:
        """Have it sent at the end of this turn of the event loop, or with the next round, and wait for the answer: for as
        long as requests do, or 10 ms from then on if that is later.
        """
        if not self.available:
            raise SharedAway(self._why)
        question = _Question(asked, monotonic(), undo, Signal())
        self._questions.append(question)
        self._begin_soon()
        try:
            await question.told
        except asyncio.CancelledError:
            question.is_given_up = True
            if question.told.is_set and not question.away:  # the answer came before we went on
                self._give_back_taken(question, question.answer)
            raise
        if question.away:
            raise SharedAway(question.away)
        return question.answer

    def _begin_soon(self) -> None:
        """Begin a round at the end of this turn of the event loop; the end of one that is under way is as good."""
        if self._round is None and not self._is_beginning:
            self._is_beginning = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._is_beginning = False
        if self.available:
            self._begin_round()

    def _begin_round(self) -> None:
        """Send what waits. While a round is under way nothing happens: the next one begins at its end."""
        if self._round is not None or self._line is None:
            return
        asked = [*self._housekeeping()]
        questions: list[_Question] = []
        if not self._to_hold:  # nobody takes before all that is held has been told
            questions = [question for question in self._questions if not question.is_given_up]
            self._questions.clear()
            asked += (question.asked for question in questions)
        if asked:
            now = monotonic()
            since = questions[0].since if questions and len(asked) - len(questions) < _FEW else now
            until = max(since + self._patience, now + _LEAST) if self.available else now + self._connecting
            calls = Calls(asked, self._settlements.last_batch)
            self._round = _Round(self._line, calls, questions, until, Signal())
            self._exchange(calls.commands)

    def _exchange(self, commands: Sequence[Command]) -> None:
        if self._round is not None:
            self._round.line.exchange(commands, max(_LEAST, self._round.until - monotonic()), self._answered)

    def _answered(self, replies: list[Any] | Exception) -> None:
        """Hand out the answers of a round, or tell who waits that there are none."""
        this = self._round
        if this is None:
            return
        if not isinstance(replies, Exception):
            if again := this.calls.take(replies):
                self._exchange(again)
                return
            replies = this.calls.answers()
        if isinstance(replies, Exception):
            self._round = None
            if self._line is this.line:  # whatever it is, this connection cannot be relied on any more
                self._degrade(replies)
            for question in this.questions:
                if question.undo is not None:
                    self._give_back(question.undo())
                question.end(None, self._why)
        else:
            self._settlements.confirmed()
            for question, answer in zip(
                this.questions, replies[len(replies) - len(this.questions) :], strict=True
            ):
                if question.is_given_up:
                    self._give_back_taken(question, answer)
                else:
                    question.end(answer)
            self._round = None
            if self.available:
                self._begin_round()
        this.ended.set()

    def _housekeeping(self) -> Iterator[Step | Command]:
        """What is told before anybody takes: settlements, then what is held. A slot that was freed a moment ago is not renewed."""
        if (settlements := self._settlements.step()) is not None:
            yield settlements
        budgets = self._some(self._to_hold)
        for start in range(0, len(budgets), _BATCH):
            part = [held for _, held in budgets[start : start + _BATCH]]
            keys = [self._process, *(held[1] for held in part)]
            yield Step(
                keys, ["hold", self._settlements.last_batch, *(word for held in part for word in held[2:])]
            )
        slots = self._some(self._to_renew)
        if slots or self._renewal_is_due:
            self._renewal_is_due = False
            for start in range(0, max(1, len(slots)), _BATCH):
                some = slots[start : start + _BATCH]
                keys = [self._process, *(held[1] for _, held in some)]
                lease = int(self._lease * 1000)
                yield Step(
                    keys, ["renew", self._settlements.last_batch, lease, *(ticket for ticket, _ in some)]
                )

    def _some(self, waiting: deque[tuple[str, _Held]]) -> list[tuple[str, _Held]]:
        """What a round has time for, of what is still held."""
        some: list[tuple[str, _Held]] = []
        while waiting and len(some) < _MANY:
            ticket, held = waiting.popleft()
            if ticket in self._held:
                some.append((ticket, held))
                self._untold.discard(held[2])
        return some

    # -- what is held, and what is given back ------------------------------------------------------------------------

    def _give_back(self, settlements: Sequence[Settlement]) -> None:
        self._settlements.add(settlements)
        self._send_soon()

    def _give_back_taken(self, question: _Question, answer: Any) -> None:
        """Nobody wants what this answer says any more."""
        if question.undo is not None and answer[0] == "taken":
            self._give_back(question.undo())

    def _send_soon(self) -> None:
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(_GATHERING, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        self._begin_soon()

    def _hold_again(self, name: str | None) -> None:
        """A budget's counter is missing; None: any may be."""
        key = None if name is None else self._key("budget", name)
        self._to_hold.extend(one for one in self._all_held("budget") if key is None or one[1][1] == key)
        self._begin_soon()

    def _renew_all(self) -> None:
        self._to_renew = deque(self._all_held("slots"))
        self._renewal_is_due = True

    def _all_held(self, kind: Kind) -> Iterator[tuple[str, _Held]]:
        """What open tickets hold of this kind, each with the ticket's id."""
        return (
            (ticket, held) for ticket, several in self._held.items() for held in several if held[0] == kind
        )

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"


def _kept(window: Window) -> int:
    """The span of a rate in us; how long a budget without an end is kept in ms."""
    return BUDGET_IDLE * 1000 if window.kind == "budget" else microseconds(window.seconds)
