"""May it, now? Takes what a request needs of its limits, all or nothing, and settles it when the request has ended.

`admit` takes the worst case from all windows in one step (`gateway.state.shared`), `top_up` takes more before an attempt that
might be billed beside an earlier one, and `settle`, which never waits, replaces both with the truth.

**While Redis is away** `limits_without_redis` decides: `local` (the default) gives each gateway its part of what is left, by
the number of gateways that were last seen; `open` lets everything pass; `closed` refuses with 503. What is spent meanwhile
is told to Redis when it is back, and before that what such requests still hold. So one gateway never overspends, however often
Redis goes and comes; of several, each that cannot reach it may spend its part more. Rates are counted twice, in Redis and here,
and neither count begins anew with an outage: in a span with some, each gateway's part may pass beside what Redis let pass.

**A budget that changes** while requests run knows them too: they hold in the new counter what they hold in the old one.

As a worker it counts the gateways (each holds a slot, which is free when its holder dies) and looks at the counters now and
then, for metrics and headers. `gateway.background.counters` makes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from time import time
from typing import Any

import msgspec
from msgspec import Struct

from adapters.types import Usage
from gateway.background.counters import Counters
from gateway.background.ledger import Ledger
from gateway.background.supervisor import spawn
from gateway.client import header_lines
from gateway.estimates import tokens_asked, tokens_said
from gateway.exchange import Exchange, Hold
from gateway.keyring import ANONYMOUS, MASTER, Caller
from gateway.limits import (
    Bound,
    BudgetExceeded,
    Counter,
    LimitsUnavailable,
    PriceUnknown,
    RateLimited,
    Settings,
    headers_of,
    refusal,
)
from gateway.metrics import BudgetState
from gateway.pricing import cost, dollars_text
from gateway.reservations import ESTIMATED, USUAL_OUTPUT, most, said_limit
from gateway.routes import Deployment, Route
from gateway.state.journal import Intent
from gateway.state.keys import KeyRow
from gateway.state.records import Kind, Records, RecordsUnavailable
from gateway.state.shared import (
    Answer,
    Refusal,
    Shared,
    SharedAway,
    Ticket,
    Unknown,
    Window,
    budget,
    local_share,
    rate,
    slots,
)
from gateway.state.shared_memory import MemoryShared

_MOST_BOUNDS = 10_000
_MOST_KINDS = 1_000
_TRIES = 5
_LOOK = 5.0
"""Seconds between two looks at the counters of all gateways."""
_FRESH = 60.0
"""Seconds that a key's spend is shown without asking the ledger, where others may have spent."""
_MOST_SHOWN = 5_000
_BYTES_PER_TOKEN = 4
_GATEWAYS = slots("gateways", 1_000_000)
_FOREVER = float("inf")
_COMES_AND_GOES = "The store of limits comes and goes; try again"
_WITH_OUTPUT = frozenset({"chat", "completions"})


class _Spent(Struct):
    """What a key has spent since `since`, as far as is known here; `asked` is when the ledger was, in unix seconds."""

    since: float
    asked: float
    nano: int = 0
    is_known: bool = False


class Limiter:
    """All that limits need at run time. A `Worker`. `workers` are the processes that serve together; `wall` is unix seconds."""

    name = "limits"

    def __init__(
        self,
        settings: Settings,
        shared: Shared,
        records: Records,
        ledger: Ledger,
        *,
        workers: int = 1,
        wall: Callable[[], float] = time,
    ) -> None:
        self.settings = settings
        self._shared = shared
        self._records = records
        self._ledger = ledger
        self._wall = wall
        self._binds_everybody = settings.binds_everybody
        self._stand_in_price = ESTIMATED if settings.unknown_price == "estimate" else None
        self._is_alone = isinstance(shared, MemoryShared)
        self._bounds: dict[tuple[Any, ...], Bound] = {}
        self._counters = Counters(settings, shared, records, ledger, wall)
        self._open: set[Exchange] = set()
        """Requests that hold something."""
        self._local: MemoryShared | None = None
        self._alone_since: float | None = None
        """The store of this gateway's own, while that of all is away, and since when that was; each outage has another."""
        self._last_local: MemoryShared | None = None
        """That of the last outage: its rates go on in the next."""
        self._divides = workers > 1 and isinstance(shared, MemoryShared)
        """Several workers, and nothing that they share: each gives out its part."""
        self._workers = self._gateways = workers
        """How many there are at least, and how many were last seen."""
        self._own_slot: Ticket | None = None
        self._kinds: dict[tuple[Any, ...], Kind] = {}
        self._spent: dict[str, _Spent] = {}
        self._lines: dict[tuple[str, int], str] = {}

    def follow(self, settings: Settings, keys: Sequence[KeyRow] = (), stored: Iterable[KeyRow] = ()) -> None:
        """Limit by another configuration from now on, whose virtual keys are `keys`. What is under way goes by the limits with
        which it began, and counts in the new budgets too; so does what is of `stored` keys, for whom there may be other periods.
        """
        self.settings = self._counters.settings = settings
        self._binds_everybody = settings.binds_everybody
        self._stand_in_price = ESTIMATED if settings.unknown_price == "estimate" else None
        self._bounds.clear()
        self._lines.clear()
        budgets = settings.bound(ANONYMOUS, None, (), self._wall()).budgets
        self._counters.know_all(None, budgets)
        rows = {row.payer: row for row in (*stored, *keys)}
        configured = {row.payer for row in keys}
        for payer, row in rows.items():
            if payer in configured or payer in self._counters.known:
                self._know_budgets(row)
        for x in self._open:
            if x.caller is not None:
                self._count_in(x, x.caller, rows.get(x.caller.digest or "", x.caller.key))

    def key_changed(self, row: KeyRow) -> None:
        """What is under way for this key counts in its new budgets too, whether or not anybody asks for them here."""
        self._know_budgets(row)
        for x in self._open:
            if x.caller is not None and x.caller.key is not None and x.caller.digest == row.payer:
                self._count_in(x, x.caller, row)

    def _know_budgets(self, row: KeyRow) -> None:
        budgets = self.settings.budgets_of(row, tuple(row.model_budgets), self._wall())
        self._counters.know_all(row.payer, budgets)

    def _count_in(self, x: Exchange, caller: Caller, key: KeyRow | None) -> None:
        """Hold in budgets that a request did not begin with what it holds in the others."""
        hold = x.hold
        if hold is None:
            return
        if key is not None:
            caller = msgspec.structs.replace(caller, key=key)
        models = tuple(dict.fromkeys(deployment.route for deployment in x.plan[0].deployments))
        known = {counter.name for counter in hold.bound.budgets}
        new = tuple(
            counter
            for counter in self.settings.bound(caller, None, models, self._wall()).budgets
            if counter.name not in known and counter.starts <= x.wall < (counter.ends or _FOREVER)
        )
        hold.bound = msgspec.structs.replace(hold.bound, budgets=hold.bound.budgets + new)
        windows = [budget(counter.name, hold.held, counter.limit, counter.ends) for counter in new]
        for store, ticket in _places(hold):
            store.hold(windows, ticket)

    # -- for stages --------------------------------------------------------------------------------------------------

    def binds(self, caller: Caller | None) -> bool:
        """Whether anything may limit this caller's requests."""
        return self._binds_everybody or (caller is not None and caller.key is not None)

    async def admit(self, x: Exchange) -> None:
        """Take what the request needs. In memory this waits only where a counter has to be made.

        Raises `BudgetExceeded`, `RateLimited`, `PriceUnknown`, `LimitsUnavailable`.
        """
        caller = x.caller
        if caller is None:
            return
        if caller.key is not None:
            self._know_spent(caller.key)
        await self._admit(x, caller, x.plan[0])

    async def _admit(self, x: Exchange, caller: Caller, route: Route) -> None:
        bound = self._bound(x, caller, route)
        worst = self._worst(x, bound) if bound.budgets or self.settings.unknown_price == "block" else 0
        if bound.is_empty:
            return
        windows = [budget(counter.name, worst, counter.limit, counter.ends) for counter in bound.budgets]
        windows += bound.fixed
        if bound.tokens:
            windows += _of_tokens(x, bound.tokens)
        store, answer = await self._take(bound, windows)
        if type(answer) is Refusal:
            raise refusal(self.settings, bound, answer, self._wall())
        if type(answer) is Ticket and store is not None:
            x.hold = hold = Hold(bound, answer, store, worst, worst)
            self._open.add(x)
            if store is not self._shared:
                hold.others = ((self._shared, self._shared.hold(windows)),)
            if bound.budgets:
                self._ledger.intent(self._intent(x, caller, bound, worst))

    async def top_up(self, x: Exchange, route: Route, *, again: bool) -> bool:
        """Take what another attempt, of a deployment of this route, needs: of that model's limits, and of all budgets `again`
        if the last one may be billed too. False if there is no room for it.
        """
        hold = x.hold
        if x.caller is None:
            return True
        if hold is None:  # nothing bound the routes before this one
            try:
                await self._admit(x, x.caller, route)
            except (BudgetExceeded, RateLimited, PriceUnknown, LimitsUnavailable):
                return False
            return True
        before, now = hold.bound, self._bound(x, x.caller, route)
        known = {name for name, _ in before.tokens}
        known.update(counter.name for counter in before.budgets)
        known.update(window.name for window in before.fixed)
        more = tuple(
            counter for counter in now.budgets if counter.name not in known and counter.starts <= x.wall
        )
        fixed = tuple(window for window in now.fixed if window.name not in known)
        counted = tuple((name, limit) for name, limit in now.tokens if name not in known)
        wanted = before.budgets + more if again else more
        if not (wanted or fixed or counted):
            return True
        windows = [budget(counter.name, hold.worst, counter.limit, counter.ends) for counter in wanted]
        windows += fixed
        windows += _of_tokens(x, counted)
        try:
            store = await self._take_more(hold, wanted, windows)
        except (SharedAway, LimitsUnavailable):
            return self.settings.without_redis == "open"
        if store is None:
            return False
        for other, same in _places(hold):
            if other is not store:
                other.hold(windows, same)
        # Not what bound before: it may have got another budget meanwhile.
        hold.bound = bound = msgspec.structs.replace(
            hold.bound,
            budgets=hold.bound.budgets + more,
            fixed=hold.bound.fixed + fixed,
            tokens=hold.bound.tokens + counted,
        )
        if again:
            hold.held += hold.worst
            if bound.budgets:
                self._ledger.intent(self._intent(x, x.caller, bound, hold.held))
        return True

    def check_price(self, x: Exchange, deployment: Deployment) -> None:
        """Raises `PriceUnknown` for a deployment without a price where it must be known."""
        is_needed = self.settings.unknown_price == "block" or (x.hold is not None and x.hold.bound.budgets)
        if is_needed and deployment.price is None and self._stand_in_price is None:
            raise _unknown_price(deployment)

    def _intent(self, x: Exchange, caller: Caller, bound: Bound, worst: int) -> Intent:
        """What is charged if this process dies before the request ends."""
        made_of = caller.kind, caller.digest, caller.alias, x.endpoint, x.model
        kind = self._kinds.get(made_of)
        if kind is None:
            if len(self._kinds) >= _MOST_KINDS:  # clients choose the model's name
                self._kinds.clear()
            kind = self._kinds[made_of] = Kind(
                endpoint=x.endpoint.path,
                operation=x.endpoint.operation,
                client_format=x.endpoint.client_format,
                stream=x.wants_stream,
                model_requested=x.model,
                model_group=x.plan[0].deployments[0].route,
                caller_kind=caller.kind,
                key_digest=caller.digest,
                key_alias=caller.alias,
            )
        names = tuple([counter.name for counter in bound.budgets])
        return Intent(
            id=x.id, amount=worst, key_digest=caller.digest, names=names, started_at=x.wall, kind=kind
        )

    def settle(self, x: Exchange) -> None:
        """The request has ended: what it took becomes what it used. Never waits, never fails."""
        hold, caller = x.hold, x.caller
        nano = x.cost or 0
        if x.cost is None and x.usage is not None and self._stand_in_price is not None:
            nano = cost(self._stand_in_price, x.usage, x.envelope) or 0
        route = x.deployment.route if x.deployment is not None else ""
        taken: Sequence[str] = ()
        if hold is not None:
            x.hold = None
            self._open.discard(x)
            taken = self._settle(hold, nano, 0 if x.usage is None else x.usage.total, route)
        if not nano or caller is None:
            return
        digest = caller.key.payer if caller.key is not None else None
        if digest is not None and (spent := self._spent.get(digest)) is not None:
            spent.nano += nano
        if not self._counters.known:
            return
        stores = (self._shared,) if self._local is None else (self._shared, self._local)
        if digest is not None:
            self._counters.spent(digest, taken, nano, x.wall, route, stores)
        is_masters = caller is MASTER
        self._counters.spent(None, taken, nano, x.wall, route, stores, is_masters=is_masters)

    def is_used_up(self, x: Exchange) -> bool:
        """A stream has cost by now what was taken for it, by an estimate."""
        hold, tap, deployment = x.hold, x.tap, x.deployment
        if hold is None or not hold.bound.budgets or tap is None or deployment is None:
            return False
        usage = Usage(input=tokens_asked(x.envelope), output=tokens_said(tap.deltas, tap.chars))
        return (cost(deployment.price or self._stand_in_price, usage) or 0) > hold.held

    def lines(self, x: Exchange) -> str:
        """A key's limits, and what it has spent with this request if that is known: headers of its answers."""
        key = x.caller.key if x.caller is not None else None
        if key is None:
            return ""
        lines = self._lines.get((key.digest, key.version))
        if lines is None:
            if len(self._lines) >= _MOST_BOUNDS:
                self._lines.clear()
            lines = self._lines[key.digest, key.version] = header_lines(headers_of(key))
        spent = self._spent.get(key.payer)
        if spent is not None and spent.is_known:
            lines += f"x-litellm-key-spend: {dollars_text(spent.nano + (x.cost or 0))}\r\n"
        return lines

    # -- for management ----------------------------------------------------------------------------------------------

    async def spend_of(self, key: KeyRow) -> int:
        """Nano-dollars that a key has spent since its spend was last set to zero. Raises `RecordsUnavailable`."""
        async with self._ledger.up_to_date():
            return await self._counters.spend_of(key)

    def budget_reset_at(self, key: KeyRow) -> int | None:
        """The unix second at which the first of a key's budgets begins anew; None if it never does."""
        counters = self.settings.budgets_of(key, (), self._wall())
        return counters[0].ends if counters else None

    def states(self) -> list[BudgetState]:
        """What is left of budgets that were asked for here: of each key the one with least left, some thousand keys at most."""
        now = self._wall()
        least: dict[str | None, BudgetState] = {}
        for counter, left in islice(self._counters.remaining(), _MOST_SHOWN):
            known = least.get(counter.digest)
            if counter.model is None and (known is None or left < known.left):
                hours = None if counter.ends is None else (counter.ends - now) / 3600
                least[counter.digest] = BudgetState(counter.digest, counter.alias, left, hours)
        return list(least.values())

    # -- as a worker -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Count the gateways, look at the counters, and forget those that are over."""
        while True:
            with suppress(SharedAway):
                await self._look()
            with suppress(RecordsUnavailable):
                await self._counters.make_up()
            if self._last_local is not None:
                self._last_local.sweep()
            await asyncio.sleep(_LOOK)

    async def _look(self) -> None:
        if not self._is_alone:
            if self._own_slot is None:
                answer = await self._shared.take([_GATEWAYS])
                self._own_slot = answer if isinstance(answer, Ticket) else None
            (count,) = await self._shared.look([_GATEWAYS])
            self._gateways = max(self._workers, count or 1)
        await self._counters.look()

    # -- what binds --------------------------------------------------------------------------------------------------

    def _bound(self, x: Exchange, caller: Caller, route: Route) -> Bound:
        key, users = caller.key, self.settings.users
        user = self.settings.user_of(caller, x.end_user) if users else None
        models: tuple[str, ...] = ()
        if key is None:
            name: tuple[Any, ...] = (caller.kind, 0, user)
        else:
            if key.model_budgets or key.model_rpm_limit or key.model_tpm_limit:
                models = tuple(dict.fromkeys(deployment.route for deployment in route.deployments))
            name = (key.digest, key.version, user, models)
        bound = self._bounds.get(name)
        if bound is None or bound.until <= x.wall:
            if len(self._bounds) >= _MOST_BOUNDS:
                self._bounds.clear()
            bound = self._bounds[name] = self.settings.bound(caller, user, models, x.wall)
            self._counters.know(bound.budgets)
        return bound

    def _worst(self, x: Exchange, bound: Bound) -> int:
        deployments: Sequence[Deployment] = x.plan[0].deployments
        if len(x.plan) > 1:
            deployments = [deployment for route in x.plan for deployment in route.deployments]
        worst, unknown = most(
            deployments, x.endpoint.operation, x.envelope, x.body_size, stand_in=self._stand_in_price
        )
        if unknown is not None and unknown in x.plan[0].deployments:
            raise _unknown_price(unknown)
        # What costs nothing is refused too where the budget is used up.
        return max(1, worst) if x.endpoint.operation != "count_tokens" else 0

    # -- to take -----------------------------------------------------------------------------------------------------

    async def _take(self, bound: Bound, windows: list[Window]) -> tuple[Shared | None, Answer | None]:
        for _ in range(_TRIES):
            try:
                answer = await self._shared.take(self._part_of(windows) if self._divides else windows)
                if type(answer) is Unknown:
                    answer = await self._ask(self._shared, bound.budgets, windows, None)
            except SharedAway as away:
                if self.settings.without_redis == "closed":
                    raise _unavailable(f"Limits cannot be checked now: {away}") from None
                if self.settings.without_redis == "open":
                    return None, None
            else:
                self._local = None
                return self._shared, answer
            local = self._local
            if local is None or self._alone_since != self._shared.degraded_since:
                local = self._begin_alone()
            answer = await self._ask(local, bound.budgets, windows, None)
            if self._local is local and self._alone_since == self._shared.degraded_since:
                return local, answer
            # While the counter was made here, others have taken where all take, maybe before another outage began.
            if type(answer) is Ticket:
                local.settle(answer, dict.fromkeys((window.name for window in windows), 0))
        raise _unavailable(_COMES_AND_GOES)

    def _begin_alone(self) -> MemoryShared:
        """A store for this gateway alone, which knows what its requests hold already."""
        self._local = self._last_local = local = MemoryShared(wall=self._wall, before=self._last_local)
        self._alone_since = self._shared.degraded_since
        self._counters.begun.clear()
        for x in self._open:
            if (hold := x.hold) is not None:
                budgets = (budget(one.name, hold.held, one.limit, one.ends) for one in hold.bound.budgets)
                held = local.hold([*budgets, *hold.bound.fixed])
                hold.others = (*(place for place in hold.others if place[0] is self._shared), (local, held))
        return local

    async def _take_more(
        self, hold: Hold, budgets: Sequence[Counter], windows: list[Window]
    ) -> Shared | None:
        """The store that had room. Raises `SharedAway`, `LimitsUnavailable`."""
        for _ in range(_TRIES):
            store, ticket = self._in_force(hold)
            answer = await self._ask(store, budgets, windows, ticket)
            if store in (self._shared, self._local):  # else a counter was made for an outage that is over
                return store if type(answer) is Ticket else None
        raise _unavailable(_COMES_AND_GOES)

    def _in_force(self, hold: Hold) -> tuple[Shared, Ticket]:
        """Where a request takes more: where all take, if they can, else here alone."""
        wanted = self._shared if self._local is None or self._shared.available else self._local
        places = _places(hold)
        return next((place for place in places if place[0] is wanted), places[0])

    def _part_of(self, windows: Sequence[Window]) -> list[Window]:
        """What this gateway may give out alone."""
        return [
            self._budget_part(window) if window.kind == "budget" else local_share([window], self._gateways)[0]
            for window in windows
        ]

    def _budget_part(self, window: Window) -> Window:
        spent = self._counters.begun.get(window.name)
        if spent is None:
            return window
        part = spent + max(0, window.limit - spent) // self._gateways
        return msgspec.structs.replace(window, limit=part)

    async def _ask(
        self, store: Shared, budgets: Sequence[Counter], windows: Sequence[Window], ticket: Ticket | None
    ) -> Answer:
        """Take, or top up; counters that do not exist are made."""
        for _ in range(_TRIES):
            # The part of a budget is known as soon as its counter is made.
            some = self._part_of(windows) if store is not self._shared or self._divides else windows
            answer = await (store.take(some) if ticket is None else store.top_up(ticket, some))
            if type(answer) is not Unknown:
                return answer
            counters = {counter.name: counter for counter in budgets}
            # Together: each may have to wait, and a request for no more than one of them.
            await asyncio.gather(
                *(self._counters.made(store, counters[window.name], window) for window in answer.windows)
            )
        raise _unavailable("The counters of a budget are being made; try again")

    # -- to settle ---------------------------------------------------------------------------------------------------

    def _settle(self, hold: Hold, nano: int, used: int, route: str) -> list[str]:
        bound = hold.bound
        places = _places(hold)
        actual = {name: used for name, _ in bound.tokens}
        for counter in bound.budgets:
            spent = nano if counter.model is None or counter.model == route else 0
            actual[counter.name] = spent
            self._counters.settled(counter.name, spent)
        for store, ticket in places:
            for name, amount in store.settle(ticket, actual):
                self._counters.charge(store, name, amount)
        return [counter.name for counter in bound.budgets]

    # -- what a key has spent ----------------------------------------------------------------------------------------

    def _know_spent(self, key: KeyRow) -> None:
        """Have the ledger read, if it is not known or others may have spent since."""
        spent = self._spent.get(key.payer)
        if spent is not None and spent.since == key.spend_since:
            if self._is_alone or self._wall() - spent.asked < _FRESH:
                return
        else:
            if len(self._spent) >= _MOST_BOUNDS:
                self._spent.clear()
            spent = self._spent[key.payer] = _Spent(key.spend_since, 0.0)
        spent.asked = self._wall()
        spawn(self._read_spent(key, spent), name="read a key's spend")

    async def _read_spent(self, key: KeyRow, spent: _Spent) -> None:
        with suppress(RecordsUnavailable):
            async with self._ledger.up_to_date():
                before = spent.nano
                nano = await self._counters.spend_of(key)
            spent.nano += nano - before
            spent.is_known = True


def _places(hold: Hold) -> tuple[tuple[Shared, Ticket], ...]:
    """The stores that know of it, that from which it was taken first, each with its ticket."""
    return (hold.store, hold.ticket), *hold.others


def _of_tokens(x: Exchange, limits: Iterable[tuple[str, int]]) -> list[Window]:
    """One that needs more than a limit passes where nothing else does; under a limit of nothing that is none."""
    tokens = _tokens(x)
    return [rate(name, min(tokens, max(1, limit)), limit) for name, limit in limits]


def _tokens(x: Exchange) -> int:
    """What a request is counted for until its tokens are known."""
    if x.endpoint.operation not in _WITH_OUTPUT:
        return x.body_size // _BYTES_PER_TOKEN + 1
    said = said_limit(x.envelope)
    return x.body_size // _BYTES_PER_TOKEN + 1 + (USUAL_OUTPUT if said is None else said)


def _unavailable(message: str) -> LimitsUnavailable:
    return LimitsUnavailable(message, headers={"retry-after": "1"})


def _unknown_price(deployment: Deployment) -> PriceUnknown:
    return PriceUnknown(
        f"Nobody knows what {deployment.model_name} costs, and a budget or the policy wants to know. Set "
        f"input_cost_per_token and output_cost_per_token of {deployment.route!r} in its litellm_params, or "
        "general_settings.cost_per_token, or unknown_price_policy: estimate.",
        param="model",
    )
