"""What must be agreed on, for one process: all of it in memory, gone with the process.

Taking never suspends, so that the ordinary path of a request stays one call.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, time
from typing import Any

from msgspec import Struct

from gateway.state.shared import (
    BUCKETS,
    BUDGET_IDLE,
    BUDGET_SLACK,
    Answer,
    Callback,
    Refusal,
    Taken,
    Ticket,
    Unknown,
    Window,
    not_held,
    outcome,
    tell,
)

_SWEEP = 60.0
"""Seconds between two looks for what is over."""


class _Rate(Struct, eq=False):
    """A sliding window: its log, oldest first, and the sum of it."""

    seconds: float
    log: deque[_Bucket]
    total: int = 0


class _Bucket(Struct, eq=False):
    """Takes that are close together, `tick` says how close; the last of them was at `last`. `rate` is None when it has left."""

    rate: _Rate | None
    tick: int
    last: float
    amount: int


class _Slots(Struct, eq=False):
    used: int = 0


class _Budget(Struct, eq=False):
    """`forgotten_at` is in the clock's seconds."""

    used: int
    forgotten_at: float


class MemoryShared:
    """`Shared` among the requests of one process. `clock` is monotonic seconds, `wall` unix seconds.

    With `before`, a store of the same clock that takes nothing any more, its rates go on here; all else begins anew.
    """

    name = "shared"
    available = True
    degraded_since = None

    def __init__(
        self,
        *,
        clock: Callable[[], float] = monotonic,
        wall: Callable[[], float] = time,
        before: MemoryShared | None = None,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._rates: dict[str, _Rate] = {} if before is None else before._rates  # noqa: SLF001 - one of us
        self._slots: dict[str, _Slots] = {}
        self._budgets: dict[str, _Budget] = {}
        self._awaiting: dict[str, list[tuple[Ticket, Taken]]] = {}
        """What is held of budgets that do not exist yet."""
        self._values: dict[str, tuple[bytes, float]] = {}
        self._callbacks: defaultdict[str, list[Callback]] = defaultdict(list)

    async def start(self) -> None:
        """See `Shared`."""

    async def run(self) -> None:
        """Forget, now and then, what is over."""
        while True:
            await asyncio.sleep(_SWEEP)
            self.sweep()

    async def close(self) -> None:
        """See `Shared`."""

    async def take(self, windows: Sequence[Window]) -> Answer:
        """See `Shared`. Never suspends; about 0.5 us, and as much per window (CPython 3.11)."""
        return self._take(Ticket([]), windows)

    async def top_up(self, ticket: Ticket, windows: Sequence[Window]) -> Answer:
        """See `Shared`."""
        return self._take(ticket, not_held(ticket, windows))

    def hold(self, windows: Sequence[Window], ticket: Ticket | None = None) -> Ticket:
        """See `Shared`."""
        ticket = ticket or Ticket([])
        for window in windows:
            if window.kind == "rate":
                continue
            place: Any = None
            if window.kind == "slots":
                place = self._slots.setdefault(window.name, _Slots())
            else:
                place = self._budgets.get(window.name)
            taken = Taken(window.kind, window.name, window.amount, window.seconds, place)
            ticket.taken.append(taken)
            if place is None:
                self._awaiting.setdefault(window.name, []).append((ticket, taken))
            else:
                place.used += window.amount
        return ticket

    def settle(self, ticket: Ticket, actual: Mapping[str, int]) -> Sequence[tuple[str, int]]:
        """See `Shared`."""
        untold: list[tuple[str, int]] = []
        if ticket.is_settled:
            return untold
        ticket.is_settled = True
        for taken, amount in outcome(ticket, actual):
            place = taken.place
            if taken.kind == "slots":
                place.used -= taken.amount
            elif taken.kind == "budget":
                if place is None:
                    untold.append((taken.name, amount))
                else:
                    place.used += amount - taken.amount
            elif place.rate is not None:
                place.amount += amount - taken.amount
                place.rate.total += amount - taken.amount
        return untold

    def charge(self, name: str, amount: int) -> None:
        """See `Shared`."""
        if (counter := self._budgets.get(name)) is not None:
            counter.used += amount

    async def seed(self, window: Window, amount: int) -> bool:
        """See `Shared`."""
        if window.name in self._budgets:
            return False
        now = self._clock()
        if window.ends is None:
            made = _Budget(amount, now + BUDGET_IDLE)
        else:
            rest = max(0.0, window.ends - self._wall())
            made = _Budget(amount, now + rest + BUDGET_SLACK)
        self._budgets[window.name] = made
        for ticket, taken in self._awaiting.pop(window.name, ()):
            if not ticket.is_settled:
                taken.place = made
                made.used += taken.amount
        return True

    async def forget(self, names: Sequence[str]) -> None:
        """See `Shared`."""
        for name in names:
            self._budgets.pop(name, None)

    async def look(self, windows: Sequence[Window]) -> list[int | None]:
        """See `Shared`."""
        now = self._clock()
        return [self._used(window, now) for window in windows]

    async def get(self, name: str) -> bytes | None:
        """See `Shared`."""
        value, until = self._values.get(name, (None, 0.0))
        return value if until > self._clock() else None

    async def put(self, name: str, value: bytes, seconds: float) -> None:
        """See `Shared`."""
        self._values[name] = value, self._clock() + seconds

    async def publish(self, channel: str, message: str) -> None:
        """See `Shared`; the subscribers have been told when it returns."""
        tell(self._callbacks.get(channel, ()), message)

    def subscribe(self, channel: str, callback: Callback) -> None:
        """See `Shared`."""
        self._callbacks[channel].append(callback)

    def sweep(self) -> None:
        """Forget what is over: empty windows, budgets of long ago, values whose time is up."""
        now = self._clock()
        for rate in self._rates.values():
            _forget(rate, now - rate.seconds)
        self._rates = {name: rate for name, rate in self._rates.items() if rate.log}
        self._slots = {name: slots for name, slots in self._slots.items() if slots.used}
        self._budgets = {name: kept for name, kept in self._budgets.items() if kept.forgotten_at > now}
        self._values = {name: kept for name, kept in self._values.items() if kept[1] > now}
        for name, waiting in list(self._awaiting.items()):
            if all(ticket.is_settled for ticket, _ in waiting):
                del self._awaiting[name]

    def _take(self, ticket: Ticket, windows: Sequence[Window]) -> Answer:
        """First look whether there is room everywhere, then take; nothing comes in between."""
        now = self._clock()
        places: list[Any] = []
        unknown = None
        for window in windows:
            name = window.name
            place: Any
            if window.kind == "rate":
                place = self._rates.get(name)
                if place is None:
                    place = self._rates[name] = _Rate(window.seconds, deque())
                elif place.log and place.log[0].last <= now - place.seconds:
                    _forget(place, now - place.seconds)
                used = place.total
            elif window.kind == "budget":
                place = self._budgets.get(name)
                if place is None:
                    unknown = [window] if unknown is None else [*unknown, window]
                    continue
                used = place.used
            else:
                place = self._slots.get(name)
                if place is None:
                    place = self._slots[name] = _Slots()
                used = place.used
            if used + window.amount > window.limit:
                return Refusal(window, used, self._retry_after(window, place, now))
            places.append(place)
        if unknown is not None:
            return Unknown(tuple(unknown))
        taken = ticket.taken
        for window, place in zip(windows, places, strict=True):
            amount = window.amount
            if window.kind == "rate":
                place.total += amount
                tick = int(now * BUCKETS / place.seconds)
                log = place.log
                if log and log[-1].tick == tick:
                    place = log[-1]  # noqa: PLW2901 - where in the window it was taken
                    place.last = now
                    place.amount += amount
                else:
                    place = _Bucket(place, tick, now, amount)  # noqa: PLW2901 - as above
                    log.append(place)
            else:
                place.used += amount
                if window.ends is None and window.kind == "budget":
                    place.forgotten_at = now + BUDGET_IDLE
            taken.append(Taken(window.kind, window.name, amount, window.seconds, place))
        return ticket

    def _retry_after(self, window: Window, place: Any, now: float) -> float | None:
        if window.kind == "budget":
            return None if window.ends is None else max(0.0, window.ends - self._wall())
        if window.kind == "rate" and window.amount <= window.limit:
            left = place.total
            for bucket in place.log:
                left -= bucket.amount
                if left + window.amount <= window.limit:
                    return float(bucket.last + place.seconds - now)
        return None

    def _used(self, window: Window, now: float) -> int | None:
        if window.kind == "budget":
            counter = self._budgets.get(window.name)
            return None if counter is None else counter.used
        if window.kind == "slots":
            return self._slots[window.name].used if window.name in self._slots else 0
        if (rate := self._rates.get(window.name)) is None:
            return 0
        _forget(rate, now - rate.seconds)
        return rate.total


def _forget(rate: _Rate, since: float) -> None:
    """Take out of the window what was last taken by then."""
    log = rate.log
    while log and log[0].last <= since:
        bucket = log.popleft()
        bucket.rate = None
        rate.total -= bucket.amount
