"""The counters of budgets: which were asked for here, what they were last seen to hold, and making those that do not exist.

**Counters are made from the ledger.** One that does not exist yet is planted with what the ledger says of its period, after
all that waits was written. A request that ends meanwhile is added afterwards, so that each is counted once. What was spent by
requests that knew nothing of a counter, because the budget is younger than they are, is added to it too.

A counter that Redis lost, and one of which the ledger has something already, is made so late that the other gateways' rows are in
the ledger; what requests still hold in it the store adds. What ends in these 0.15 s, and while the ledger is read, counts twice if
its row was read too, and so does what a gateway spent while it did not reach Redis, if it comes back only after another has made
the counter: which of its rows were read nobody knows. That is some requests too many at most, never too few. What another gateway
was too busy to write by then is missing.

**Where the ledger cannot be read** a counter begins with what it was last seen to hold here, which is nothing in a gateway that
has just started, unless `fail_closed_budget_enforcement` wants 503 instead. What is missing is added as soon as it is known, by
the one who made the counter, once: not what the others have added since. It is looked for again for a while, for rows of others
may be on their way; so what is too much stays, such as what was reserved, if it was seen, for requests that went on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from gateway.background.ledger import Ledger
from gateway.background.supervisor import spawn
from gateway.keyring import MASTER
from gateway.limits import Counter, LimitsUnavailable, Settings
from gateway.state.keys import KeyRow
from gateway.state.records import LedgerQuery, Records, RecordsUnavailable
from gateway.state.shared import Shared, SharedAway, Window, budget
from gateway.state.shared_memory import MemoryShared

log = logging.getLogger("penstock.limits")

_LOOKED_AT_ONCE = 500
_PATIENCE = 2.0
"""Seconds that a counter waits for the ledger, which is with those requests that come first."""
_WRITING = 0.15
"""Seconds after which other gateways have written what ended before: the ledger's interval, and a half for a busy loop."""
_OVER = 3600.0
"""Seconds after its end that a counter is forgotten here."""
_WRITTEN = 30.0
"""Seconds after which other gateways have written what waited for the ledger to come back, however seldom they tried."""
_FOREVER = float("inf")


class _Guess(Struct, eq=False):
    """What a counter was made with at that unix second, instead of what the ledger would have said, and what was added to make
    up for that. `until` is when all gateways have written what belongs to it, None as long as the ledger cannot be read.
    """

    store: Shared
    counter: Counter
    nano: int
    at: float
    until: float | None = None


class Counters:
    """Those of this process; `shared` is the store of all. `wall` is unix seconds."""

    def __init__(
        self, settings: Settings, shared: Shared, records: Records, ledger: Ledger, wall: Callable[[], float]
    ) -> None:
        self.settings = settings
        self._shared = shared
        self._is_alone = isinstance(shared, MemoryShared)
        self._records = records
        self._ledger = ledger
        self._wall = wall
        self.known: dict[str | None, dict[str, Counter]] = {}
        """Those that were asked for here, by the digest of the key whose they are."""
        self._lifted: set[str] = set()
        """Those that bind nobody any more. The same budget may come back: here they go on counting, and in the store of all, where
        some gateways never knew of them, they are forgotten."""
        self.tallies: dict[str, int] = {}
        """What each held when it was last seen, and what was spent here since."""
        self.begun: dict[str, int] = {}
        """What was spent of each when it was made in a store of this process alone."""
        self._planting: dict[tuple[int, str], asyncio.Task[RecordsUnavailable | SharedAway | None]] = {}
        self._guessed: dict[str, dict[int, _Guess]] = {}
        """Those that were made here, in these stores, while the ledger could not be read. The tally of one is what it was made
        with and what was spent here since."""
        self._late: dict[tuple[int, str], int] = {}
        """What was spent while a counter of a store was being made."""

    # -- which there are ---------------------------------------------------------------------------------------------

    def know(self, counters: Sequence[Counter]) -> None:
        """Somebody asks for these, or will."""
        for counter in counters:
            self.known.setdefault(counter.digest, {})[counter.name] = counter
            self._lifted.discard(counter.name)

    def know_all(self, owner: str | None, counters: Sequence[Counter]) -> None:
        """These are all that bind the key with that digest, or the whole gateway."""
        own = self.known.get(owner, {}).keys()
        before = self._lifted & own
        self._lifted.update(own)
        self.know(counters)
        # Also those that come back: requests that are older may have had one made meanwhile.
        changed = before ^ (self._lifted & own)
        if changed and not self._is_alone:
            spawn(self._forget_in_shared(sorted(changed)), name="forget budgets")

    async def _forget_in_shared(self, names: list[str]) -> None:
        try:
            await self._shared.forget(names)
        except SharedAway:
            log.warning("the counters of budgets that were lifted stay as they are: Redis is away")

    def remaining(self) -> Iterator[tuple[Counter, int]]:
        """Budgets that were asked for here and bind, and the nano-dollars that are left of each."""
        now = self._wall()
        for counters in list(self.known.values()):
            for counter, ends in _with_ends(counters):
                if counter.name in self.tallies and counter.name not in self._lifted and now < ends:
                    yield counter, counter.limit - self.tallies[counter.name]

    async def look(self) -> None:
        """See what each holds, and forget those that are over. Raises `SharedAway`."""
        self._forget()
        counters = [counter for own in self.known.values() for counter in own.values()]
        for start in range(0, len(counters), _LOOKED_AT_ONCE):
            some = counters[start : start + _LOOKED_AT_ONCE]
            used = await self._shared.look([budget(one.name, 0, one.limit, one.ends) for one in some])
            for counter, nano in zip(some, used, strict=True):
                if nano is not None and counter.name not in self._guessed:
                    self.tallies[counter.name] = nano

    def _forget(self) -> None:
        before = self._wall() - _OVER
        for owner, counters in list(self.known.items()):
            for counter, ends in _with_ends(counters):
                if ends < before:
                    del counters[counter.name]
                    self.tallies.pop(counter.name, None)
                    self.begun.pop(counter.name, None)
                    self._lifted.discard(counter.name)
            if not counters:
                del self.known[owner]

    # -- making them -------------------------------------------------------------------------------------------------

    async def made(self, store: Shared, counter: Counter, window: Window) -> None:
        """Have a counter made, by one for all who wait. Raises `SharedAway`, `LimitsUnavailable`."""
        name = id(store), counter.name
        task = self._planting.get(name)
        if task is None:
            task = self._planting[name] = spawn(self._plant(store, counter, window), name="plant a counter")
            task.add_done_callback(lambda _: self._planting.pop(name, None))
        error = await asyncio.shield(task)
        if isinstance(error, SharedAway):
            raise error
        if error is not None:
            message = "The budget cannot be checked now: the ledger cannot be read"
            raise LimitsUnavailable(message, headers={"retry-after": "1"})

    async def _plant(
        self, store: Shared, counter: Counter, window: Window
    ) -> RecordsUnavailable | SharedAway | None:
        name, guess, late = counter.name, None, 0
        try:
            if (await store.look([window]))[0] is not None:
                return None  # it has been made while the one before it was
            known = self._count_late(store, name)
            try:
                async with asyncio.timeout(_PATIENCE):
                    if store is self._shared and not self._is_alone and await self._has_history(counter):
                        await asyncio.sleep(_WRITING)
                    async with self._ledger.up_to_date():
                        known = self._count_late(store, name)
                        spent = await self.read(counter)
            except (RecordsUnavailable, TimeoutError):
                if not self.settings.serves_without_ledger:
                    raise RecordsUnavailable("the ledger cannot be read") from None
                log.warning("the ledger cannot be read: %s counts from zero until it can", counter.whose)
                spent, guess = known, _Guess(store, counter, known, self._wall())
                self._guessed.setdefault(name, {})[id(store)] = guess
            if store is not self._shared or self._is_alone:
                self.begun[name] = spent
            is_ours = await store.seed(window, spent)
        except (RecordsUnavailable, SharedAway) as error:
            return error
        finally:
            late = self._tell_late(store, name)
        if is_ours is (guess is None):  # it was made from the ledger, or with the guess of another gateway
            self._guess_no_more(store, name)
        if guess is None and name not in self._guessed:
            self.tallies[name] = spent + late
        else:
            self.tallies.setdefault(name, spent + late)
        return None

    async def _has_history(self, counter: Counter) -> bool:
        """It was lost, or is younger than what it counts: others may be about to write more. Raises `RecordsUnavailable`."""
        return counter.name in self.tallies or await self.read(counter) > 0

    def _count_late(self, store: Shared, name: str) -> int:
        """What is spent from now on is added to what was by now, as far as it is known here: that is the answer."""
        self._tell_late(store, name)
        self._late[id(store), name] = 0
        return self.tallies.get(name, 0)

    def _tell_late(self, store: Shared, name: str) -> int:
        """Add what was spent since it began. The counter may be there though nobody here knows it."""
        late = self._late.pop((id(store), name), 0)
        if late:
            store.charge(name, late)
        return late

    async def make_up(self) -> None:
        """Add what the ledger knows to counters that were made without it. Raises `RecordsUnavailable`."""
        guesses = [guess for of_name in self._guessed.values() for guess in of_name.values()]
        for guess in sorted(guesses, key=self._is_of_all):
            name = guess.counter.name
            async with self._ledger.up_to_date():
                known = self.tallies.get(name, 0)
                missing = await self.read(guess.counter) - known
                if self._is_of_all(guess):
                    # What others have spent since is in the ledger too, and they have added it themselves.
                    before = await self.read(guess.counter, guess.at)
                    missing = min(missing, before - guess.nano)
            missing = max(0, missing)
            guess.store.charge(name, missing)
            guess.nano += missing
            if guess.until is None:
                guess.until = self._wall() + (_WRITTEN if self._is_of_all(guess) else 0)
            if guess.until <= self._wall():
                self._guess_no_more(guess.store, name)
            if self._is_of_all(guess) or name not in self._guessed:
                self.tallies[name] = self.tallies.get(name, 0) + missing

    def _is_of_all(self, guess: _Guess) -> bool:
        """Others count in it too."""
        return guess.store is self._shared and not self._is_alone

    def _guess_no_more(self, store: Shared, name: str) -> None:
        guesses = self._guessed.get(name, {})
        guesses.pop(id(store), None)
        if not guesses:
            self._guessed.pop(name, None)

    async def spend_of(self, key: KeyRow) -> int:
        """Nano-dollars that a key has spent since its spend was last set to zero. Raises `RecordsUnavailable`."""
        return await self.read(Counter("", 0, key.spend_since, None, "", key.payer))

    async def read(self, counter: Counter, before: float = _FOREVER) -> int:
        """What the ledger says of a counter, in nano-dollars: of what began before then. Raises `RecordsUnavailable`."""
        until = min(before, counter.ends or _FOREVER)
        query = LedgerQuery(
            key_digest=counter.digest,
            since=counter.starts or None,
            until=None if until == _FOREVER else float(until),
        )
        if counter.model is not None:
            totals = await self._records.totals(("model_group",), query)
            return sum(total.cost_nano for total in totals if total.group == (counter.model,))
        if counter.spares_master:
            totals = await self._records.totals(("key_digest",), query)
            return sum(total.cost_nano for total in totals if total.group != (MASTER.digest,))
        (total,) = await self._records.totals((), query)
        return total.cost_nano

    # -- what was spent ----------------------------------------------------------------------------------------------

    def settled(self, name: str, nano: int) -> None:
        """A request that held something of this counter has ended, and really cost so much."""
        self.tallies[name] = self.tallies.get(name, 0) + nano

    def spent(
        self,
        owner: str | None,
        taken: Sequence[str],
        nano: int,
        at: float,
        route: str,
        stores: Sequence[Shared],
        *,
        is_masters: bool = False,
    ) -> None:
        """A request of `owner`, which began at that unix second, cost so much: add it to those counters in these stores of
        which it took nothing, because they are younger, bind nobody now, or Redis was away.
        """
        for name, counter in self.known.get(owner, {}).items():
            if (
                name not in taken
                and not (is_masters and counter.spares_master)
                and (counter.model is None or counter.model == route)
                and counter.starts <= at < (counter.ends or _FOREVER)
            ):
                if name in self.tallies:
                    self.tallies[name] += nano
                for store in stores:
                    self.charge(store, name, nano)

    def charge(self, store: Shared, name: str, nano: int) -> None:
        """Add so much to a counter; to one that is being made as soon as it is there."""
        if (id(store), name) in self._late:
            self._late[id(store), name] += nano
        else:
            store.charge(name, nano)


def _with_ends(counters: dict[str, Counter]) -> list[tuple[Counter, float]]:
    """Those of one key, and when each is over. A budget without an end is over where another begins later: then the key's spend
    was set back.
    """
    own = list(counters.values())  # another thread may ask
    last = max((counter.starts for counter in own if counter.ends is None), default=0.0)
    return [
        (counter, (last if counter.starts < last else _FOREVER) if counter.ends is None else counter.ends)
        for counter in own
    ]
