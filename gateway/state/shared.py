"""What replicas must agree on right now: limits, budgets, small values, and news. The protocol that a store of it fulfils.

**A limit is a `Window`**, whatever it limits, so that all limits that a request falls under are taken in one step, all or
nothing. There are three kinds:

* a *rate*: at most `limit` in any span of `seconds`. The window slides: what was taken leaves it `seconds` later. Takes that
  are close together (a 60th of the span) are kept as one and leave together, with the last of them: refused is on the
  safe side, so never is more than `limit` admitted in any span.
* *slots*: at most `limit` at the same time. A slot is a lease: its holder renews it, and if the holder dies, it is free
  again within 30 s.
* a *budget*: at most `limit` nano-dollars in the counter of that name. Names contain the period (see `periods`), so a new
  period is a new counter. A counter that does not exist is not zero: `take` answers `Unknown`, the caller reads the
  truth in the ledger, plants it with `seed`, and takes again.

**A request takes the worst case and settles with the truth.** `take` gives a `Ticket`; a further attempt takes more on the
same one with `top_up`; `settle` corrects each window to what it really was, up or down, where it was taken, and frees the
slots. It is called at the end of a request, which may be a cancelled one: it never waits and never fails.

A `Shared` is a `Worker` too: its `run` has to be kept going for leases, settlements and news. In one process `MemoryShared`
needs no other; several replicas need Redis. When that is away every call raises `SharedAway` at once, and it is the caller
who decides what a limit is worth then: nothing, everything, or `local_share`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Struct

log = logging.getLogger("penstock.shared")

Kind: TypeAlias = Literal["rate", "slots", "budget"]

Callback: TypeAlias = Callable[[str | None], object]
"""Gets each message, and None where some may have been missed: then everything has to be read anew."""

BUCKETS = 60
"""Parts of a rate's span whose takes are kept as one."""

LEASE = 30.0
"""Seconds after which the slots of a process that died are free."""

BUDGET_SLACK = 86_400
"""Seconds that a budget's counter outlives its period, for requests that end after it."""

BUDGET_IDLE = 30 * 86_400
"""Seconds without use after which a budget without an end is forgotten; the ledger knows it."""


class SharedAway(Exception):
    """The store cannot be asked now. Whether something was taken is taken care of: nothing stays taken."""


class Window(Struct, frozen=True, gc=False):
    """A limit that a request falls under, and what the request takes from it. Made by `rate`, `slots` and `budget`.

    `name` says whose limit it is and what is counted; the names that one ticket takes from are all different, save that a
    `top_up` takes from the same again. `amount` and `limit` are requests, tokens, slots or nano-dollars. `ends` is the unix
    second at which a budget's period ends, None if it never does.
    """

    kind: Kind
    name: str
    amount: int
    limit: int
    seconds: float = 60.0
    ends: int | None = None


def rate(name: str, amount: int, limit: int, seconds: float = 60.0) -> Window:
    """At most `limit` in any span of `seconds`: rpm and tpm. A name belongs to one length of span."""
    return Window("rate", name, amount, limit, seconds)


def slots(name: str, limit: int) -> Window:
    """At most `limit` requests at the same time."""
    return Window("slots", name, 1, limit)


def budget(name: str, amount: int, limit: int, ends: int | None = None) -> Window:
    """At most `limit` nano-dollars in a period whose name is in `name` and which ends at that unix second."""
    return Window("budget", name, amount, limit, ends=ends)


class Taken(Struct, eq=False):
    """What a ticket holds of one window; `place` is where, for the store that gave it."""

    kind: Kind
    name: str
    amount: int
    seconds: float
    place: Any


class Ticket(Struct, eq=False):
    """What a request has taken and not settled yet; only the store that gave it reads it."""

    taken: list[Taken]
    id: str = ""
    is_settled: bool = False


class Refusal(Struct, frozen=True):
    """Nothing was taken, because `window` has no room: the first such in the order of the request.

    `retry_after` is seconds until there is room if nobody else takes it: None for slots, which nobody can foresee, for
    an amount that is more than the limit, and for a budget that never ends.
    """

    window: Window
    used: int
    retry_after: float | None = None

    @property
    def remaining(self) -> int:
        """What is left, less than the request's amount."""
        return max(0, self.window.limit - self.used)


class Unknown(Struct, frozen=True):
    """Nothing was taken, because the counters of these budgets do not exist: `seed` them, and take again."""

    windows: tuple[Window, ...]


Answer: TypeAlias = Ticket | Refusal | Unknown


class Shared(Protocol):
    """A store of what must be agreed on now. What is awaited may raise `SharedAway`."""

    @property
    def name(self) -> str:
        """As a `Worker`."""
        ...

    @property
    def available(self) -> bool:
        """Whether it can be asked."""
        ...

    @property
    def degraded_since(self) -> float | None:
        """Since when it is not available, in unix seconds; None if it is."""
        ...

    async def start(self) -> None:
        """Get ready, so that the first request finds it available; does not fail."""
        ...

    async def run(self) -> None:
        """As a `Worker`: what has to be done in the background, until cancelled."""
        ...

    async def close(self) -> None:
        """Send what is still to be settled, if that is possible at once, and let go. `run` has ended before."""
        ...

    async def take(self, windows: Sequence[Window]) -> Answer:
        """Take from all windows, or from none."""
        ...

    async def top_up(self, ticket: Ticket, windows: Sequence[Window]) -> Answer:
        """Take more, or nothing more; what the ticket has already it keeps either way. A slot is not taken twice."""
        ...

    def hold(self, windows: Sequence[Window], ticket: Ticket | None = None) -> Ticket:
        """Have budgets and slots hold what was taken without this store, whatever their limits: as soon as it can be told, and
        a budget's counter is there. Never waits. Gives the ticket to settle; with `ticket` that one holds it too.
        """
        ...

    def settle(self, ticket: Ticket, actual: Mapping[str, int]) -> Sequence[tuple[str, int]]:
        """Correct what was taken to what it really was in all, by name, and free the slots. What is not named was as it was
        taken. A second time changes nothing.

        Gives what has to be charged: names of budgets that were never told of the ticket, and what it really was.
        """
        ...

    def charge(self, name: str, amount: int) -> None:
        """Add to a budget, whatever its limit, what was spent without a ticket of this store. An unknown one stays unknown."""
        ...

    async def seed(self, window: Window, amount: int) -> bool:
        """Make the counter of a budget, with what the ledger says; False if it is there already, then nothing changes.

        The ledger has to be read after all that is waiting to be written to it was written.
        """
        ...

    async def forget(self, names: Sequence[str]) -> None:
        """Let go of budgets' counters: whoever asks for one next has it made."""
        ...

    async def look(self, windows: Sequence[Window]) -> list[int | None]:
        """What is used of each; None for an unknown budget. Their amounts and limits do not matter."""
        ...

    async def get(self, name: str) -> bytes | None:
        """A small value that was put."""
        ...

    async def put(self, name: str, value: bytes, seconds: float) -> None:
        """Keep a small value for so long."""
        ...

    async def publish(self, channel: str, message: str) -> None:
        """Tell all subscribers, in all replicas, this one included."""
        ...

    def subscribe(self, channel: str, callback: Callback) -> None:
        """Be told; a callback is short and does not fail."""
        ...


def not_held(ticket: Ticket, windows: Sequence[Window]) -> Sequence[Window]:
    """What a top-up has to take: all but slots that the ticket has."""
    if ticket.is_settled:
        raise ValueError("the ticket is settled")
    held = {taken.name for taken in ticket.taken if taken.kind == "slots"}
    return [window for window in windows if window.name not in held]


def outcome(ticket: Ticket, actual: Mapping[str, int]) -> list[tuple[Taken, int]]:
    """What really was of each thing taken. Of a name that was taken from several times, the truth fills one place after
    the other, and the last gets the rest, whatever it is.
    """
    left = dict(actual)
    last = {taken.name: taken for taken in ticket.taken}
    found = []
    for taken in ticket.taken:
        amount = left.get(taken.name, taken.amount)
        if last[taken.name] is not taken:
            amount = min(amount, taken.amount)
        if taken.name in left:
            left[taken.name] -= amount
        found.append((taken, amount))
    return found


def tell(callbacks: Iterable[Callback], message: str | None) -> None:
    """Call each. One that fails, which none should, does not keep the others from hearing it."""
    for callback in callbacks:
        try:
            callback(message)
        except Exception:  # it is logged, and nobody else's business
            log.exception("a subscriber failed")


def local_share(windows: Sequence[Window], replicas: int) -> list[Window]:
    """The windows for a `MemoryShared` of this process's own while the store of all is away: its part of each limit, at
    least 1. What fits into the limit fits into its part, if nothing else is there.
    """
    return [_part(window, replicas) for window in windows]


def _part(window: Window, replicas: int) -> Window:
    if window.limit <= 0:
        return window
    limit = max(1, window.limit // replicas)
    amount = min(window.amount, limit) if window.amount <= window.limit else window.amount
    return msgspec.structs.replace(window, limit=limit, amount=amount)
