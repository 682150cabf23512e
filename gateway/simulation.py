"""What would have happened with another configuration?

The ledger's rows are replayed, oldest first, through each configuration: is the model found, who answers, what does it cost
at that configuration's prices, what do its limits refuse, who stands in where the recorded attempts failed. Time is the rows'
own, so a week is replayed in seconds and a limit per minute sees the minutes as they were.

**Nothing is drawn.** Where several deployments share a load, each gets its share of every request: the sums are those that
are to be expected, and the same each time. Shares are whole parts of a request and costs whole nano-dollars, so sums are exact
and rounded once, when they are shown.

What is taken for granted: an answer has as many tokens, whoever gives it; a deployment that failed fails again, at whatever
name it stands, unless it answered the same request later on; nobody has learnt anything of latencies or is cooling down;
budgets are empty at the first row; requests take of a limit per minute what they used in the end. A request of which the
ledger knows no tokens, because it was refused then, costs nothing here and is counted as `unmeasured`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from gateway.access import may_use
from gateway.config.model import Config
from gateway.explaining import Asked
from gateway.inbound import NO_CONTROLS, Controls
from gateway.keyring import Caller
from gateway.limits import Bound, settings_of
from gateway.pricing import cost
from gateway.reservations import ESTIMATED
from gateway.routes import Deployment, Route, Routes
from gateway.routing.health import Health
from gateway.routing.retries import TABLE, Then, policy_of
from gateway.routing.router import Router
from gateway.state.keys import KeyRow
from gateway.state.records import (
    EVERYTHING,
    OUTRUN,
    AttemptRow,
    LedgerQuery,
    LedgerRow,
    Records,
    make_row,
    usd,
)
from gateway.state.shared import Refusal, Ticket, Unknown, budget, rate
from gateway.state.shared_memory import MemoryShared

PARTS = 10**9
"""A request is so many parts, which its deployments share."""

_PAGE = 2_000
_SHORTEST = 0.001
_MOST_NAMES = 1_000
_MOST_KEPT = 10_000
_OTHERS = "(others)"

_REFUSED = frozenset(
    {"rate_limited", "budget_exceeded", "limits_unavailable", "price_unknown", "model_denied"}
)
_CONFIGURED = _REFUSED | {"model_not_found", "no_deployment"}
"""Ends that a configuration decides; any other without an attempt was the request's own fault."""
_CONSEQUENCES = {kind.reason: row for kind, row in TABLE.items()}


# -- rows, oldest first ----------------------------------------------------------------------------------------------


async def oldest_first(
    records: Records, query: LedgerQuery = EVERYTHING, page: int = _PAGE
) -> AsyncIterator[list[LedgerRow]]:
    """All rows that fit in the order of their start, a page at a time; a ledger of any size takes no more memory than that.

    Stores give the newest first, so a span of time is made shorter until its rows fit on a page.
    """
    for total in await records.totals(("day",), query):
        day = datetime.fromisoformat(total.group[0]).replace(tzinfo=UTC)
        start, end = day.timestamp(), (day + timedelta(days=1)).timestamp()
        start, end = max(start, query.since or start), min(end, query.until or end)
        span, size = end - start, page
        while start < end:
            until = min(start + span, end)
            rows = await records.rows(replace(query, since=start, until=until), size)
            if len(rows) < size:
                if rows:
                    yield rows[::-1]
                start, span, size = until, 2 * span, page
            elif span > _SHORTEST:
                span /= 8
            else:
                size *= 2  # all of one moment


class LineUnreadable(Exception):
    """A line of a file is no row of a ledger."""


def read_lines(lines: Iterable[bytes], page: int = _PAGE) -> Iterator[list[LedgerRow]]:
    """Rows of what `penstock ledger export --format jsonl` prints, in its order. Raises `LineUnreadable`."""
    rows: list[LedgerRow] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            rows.append(_row(number, line))
        if len(rows) == page:
            yield rows
            rows = []
    yield rows


def _row(number: int, line: bytes) -> LedgerRow:
    try:
        flat: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        del flat["started"], flat["cost"]
        flat["tags"] = tuple(flat["tags"])
        attempts = msgspec.convert(flat.pop("attempts"), tuple[AttemptRow, ...])
        return make_row(attempts=attempts, **flat)
    except KeyError as error:
        raise LineUnreadable(f"line {number} is no row of a ledger: it has no {error}") from None
    except (msgspec.MsgspecError, TypeError) as error:
        raise LineUnreadable(f"line {number} is no row of a ledger: {error}") from None


# -- what became of a request ----------------------------------------------------------------------------------------


class Outcome(Struct, frozen=True):
    """How a request ended, or would have. `cost` is nano-dollars times `PARTS`, `by` the parts and the cost of each
    deployment that answers, by its name.
    """

    end: Literal["answered", "refused", "not_found", "failed"]
    reason: str = ""
    cost: int = 0
    is_priced: bool = True
    is_measured: bool = True
    fell_back: bool = False
    by: Sequence[tuple[str, int, int]] = ()


class Side(Protocol):
    """One way that it went, or would have gone."""

    name: str

    async def outcome(self, row: LedgerRow) -> Outcome:
        """What became of it. Rows come in the order of their start."""
        ...


class Recorded:
    """As it was."""

    name = "recorded"

    async def outcome(self, row: LedgerRow) -> Outcome:
        """See `Side`."""
        paid = (row.cost_nano or 0) * PARTS
        by = [(f"{row.provider}/{row.model}", PARTS, paid)] if row.provider else []
        if row.status != "failure":
            return Outcome(
                "answered", "", paid, row.cost_nano is not None, fell_back=row.fallbacks > 0, by=by
            )
        if row.reason in _REFUSED:
            return Outcome("refused", row.reason)
        end: Literal["not_found", "failed"] = "not_found" if row.reason == "model_not_found" else "failed"
        return Outcome(end, row.reason, paid, row.cost_nano is not None, by=by if paid else ())


class Replay:
    """As it would have been with this configuration. `keys` are the virtual keys beside those that it names."""

    def __init__(self, name: str, config: Config, routes: Routes, keys: Iterable[KeyRow]) -> None:
        self.name = name
        self._routes = routes
        self._router = Router(config.router, Health())
        self._settings_of_router = config.router
        self._settings = settings_of(config)
        self._now = 0.0
        self._shared = MemoryShared(clock=lambda: self._now, wall=lambda: self._now)
        self._under_way: list[tuple[float, int, Ticket]] = []
        self._count = 0
        self._callers = {row.payer: Caller("key", row.payer, row.alias, row) for row in keys}
        self._bounds: dict[tuple[Any, ...], Bound] = {}
        self._without: dict[tuple[Any, ...], Route] = {}

    async def outcome(self, row: LedgerRow) -> Outcome:
        """See `Side`."""
        self._now = max(self._now, row.started_at)
        attempts = row.attempts
        if row.status == "failure" and not attempts and row.reason not in _CONFIGURED:
            return Outcome("failed", row.reason)
        caller = self._callers.get(row.key_digest or "") or Caller(
            row.caller_kind, row.key_digest, row.key_alias
        )
        key = caller.key
        name = (
            row.model_requested if key is None else key.aliases.get(row.model_requested, row.model_requested)
        )
        route = self._routes.find(name)
        if key is not None and not may_use(key, name, route):
            return Outcome("refused", "model_denied")
        if route is None:
            return Outcome("not_found", "model_not_found")
        outcome = self._expected(row, route, caller, attempts)
        refused = await self._refused(row, caller, route, outcome)
        return Outcome("refused", refused) if refused else outcome

    # -- who answers, and what it costs ------------------------------------------------------------------------------

    def _expected(
        self, row: LedgerRow, route: Route, caller: Caller, attempts: Sequence[AttemptRow]
    ) -> Outcome:
        """Who answers, in the order in which a request comes to other models (`gateway.stages.upstream`)."""
        if row.status == "failure" and attempts and _then(attempts[-1].reason) == "end":
            return Outcome("failed", row.reason)
        failed = {(one.provider, one.model): one.reason for one in attempts if one.reason not in {"", OUTRUN}}
        for one in attempts:
            if not one.reason:
                failed.pop((one.provider, one.model), None)
        controls = Controls(tags=row.tags) if row.tags else NO_CONTROLS
        request = Asked(caller=caller, controls=controls, wants_stream=row.stream)
        visited, waiting = [route], list[Route]()
        while True:
            left = self._left(route, failed) if failed else route
            found = [one for one in self._router.consider(left, request, self._now) if one.share]
            final = next((why for one in found if (why := failed.get(_pair(one.deployment)))), "")
            if found and not final:
                parts = _in_parts([one.share for one in found])
                answers = [(one.deployment, part) for one, part in zip(found, parts, strict=True)]
                return self._answered(row, answers, fell_back=len(visited) > 1)
            nearer = self._stand_ins(route, final or _last(route, failed), caller)
            waiting = [*nearer, *(other for other in waiting if other not in nearer)]
            waiting = [other for other in waiting if other not in visited]
            if not waiting or len(visited) > self._settings_of_router.max_fallbacks:
                return Outcome("failed", row.reason or "no_deployment")
            route = waiting.pop(0)
            visited.append(route)

    def _stand_ins(self, route: Route, reason: str, caller: Caller) -> Sequence[Route]:
        """The models that such a failure of this route leads to, as far as the caller's key may use them."""
        then = _then(reason)
        if then == "end":
            return ()
        found = self._routes.stand_ins(route.name, then=then)
        key = caller.key
        return found if key is None else [other for other in found if may_use(key, other.name, other)]

    def _left(self, route: Route, failed: Mapping[tuple[str, str], str]) -> Route:
        """The route without those that failed, but for failures after which nobody else of it is asked."""
        counted = policy_of(self._settings_of_router, route).retries
        gone = {pair for pair, reason in failed.items() if not _is_final(reason, counted)}
        left = tuple(one for one in route.deployments if _pair(one) not in gone)
        if len(left) == len(route.deployments):
            return route
        if len(self._without) >= _MOST_KEPT:
            self._without.clear()
        return self._without.setdefault(
            (route.name, *(one.id for one in left)), self._router.part_of(route, left)
        )

    def _answered(
        self, row: LedgerRow, answers: Sequence[tuple[Deployment, int]], *, fell_back: bool
    ) -> Outcome:
        total, is_priced, by = 0, True, []
        for deployment, part in answers:
            paid = self._cost(row, deployment)
            is_priced = is_priced and paid is not None
            total += (paid or 0) * part
            by.append((deployment.model_name, part, (paid or 0) * part))
        is_measured = row.usage_source != "none" or row.status != "failure"
        return Outcome("answered", "", total, is_priced, is_measured, fell_back, by)

    def _cost(self, row: LedgerRow, deployment: Deployment) -> int | None:
        """Nano-dollars of this request there; None if nobody knows its price."""
        if row.usage_source == "none":
            return 0
        is_same = _pair(deployment) == (row.provider, row.model)
        if is_same and row.cost_source == "provider":
            return row.cost_nano
        price = deployment.price
        if price is None and self._settings.unknown_price == "estimate":
            price = ESTIMATED
        return cost(price, row.usage)

    # -- whether it may ----------------------------------------------------------------------------------------------

    async def _refused(self, row: LedgerRow, caller: Caller, route: Route, outcome: Outcome) -> str:
        """The reason, empty if it may. What it takes it gives back when it ended."""
        while self._under_way and self._under_way[0][0] <= self._now:
            self._shared.settle(heapq.heappop(self._under_way)[2], {})
        bound = self._bound(row, caller, route)
        if not outcome.is_priced and (bound.budgets or self._settings.unknown_price == "block"):
            return "price_unknown"
        if bound.is_empty:
            return ""
        amount = -(-outcome.cost // PARTS)
        windows = [budget(one.name, amount, one.limit, one.ends) for one in bound.budgets]
        windows += bound.fixed
        windows += [rate(name, min(row.usage.total, limit), limit) for name, limit in bound.tokens]
        answer = await self._shared.take(windows)
        if type(answer) is Unknown:
            for window in answer.windows:
                await self._shared.seed(window, 0)
            answer = await self._shared.take(windows)
        if type(answer) is Refusal:
            return "budget_exceeded" if answer.window.kind == "budget" else "rate_limited"
        if type(answer) is Ticket:
            self._count += 1
            heapq.heappush(self._under_way, (row.ended_at, self._count, answer))
        return ""

    def _bound(self, row: LedgerRow, caller: Caller, route: Route) -> Bound:
        models = (
            tuple(dict.fromkeys(one.route for one in route.deployments)) if caller.key is not None else ()
        )
        user = self._settings.user_of(caller, row.end_user)
        name = (caller.kind, caller.digest, user, models)
        bound = self._bounds.get(name)
        if bound is None or bound.until <= self._now:
            if len(self._bounds) >= _MOST_KEPT:
                self._bounds.clear()
                self._shared.sweep()
            bound = self._bounds[name] = self._settings.bound(caller, user, models, self._now)
        return bound


def _then(reason: str) -> Then:
    """Which list of other models an error of this reason leads to."""
    consequence = _CONSEQUENCES.get(reason)
    return "fallbacks" if consequence is None else consequence.then


def _is_final(reason: str, counted: Mapping[str, int]) -> bool:
    """No other deployment of the route is asked after an error of this reason, unless a policy counts it."""
    consequence = _CONSEQUENCES.get(reason)
    return consequence is not None and consequence.again == "no" and not counted.get(consequence.name)


def _last(route: Route, failed: Mapping[tuple[str, str], str]) -> str:
    """Why the last of its deployments failed; empty if none did."""
    pairs = set(map(_pair, route.deployments))
    return next((failed[pair] for pair in reversed(list(failed)) if pair in pairs), "")


def _pair(deployment: Deployment) -> tuple[str, str]:
    return deployment.provider, deployment.target.model


def _in_parts(shares: Sequence[float]) -> list[int]:
    """Shares that add up to one as whole parts that add up to `PARTS`; what is rounded the first one gets."""
    parts = [int(share * PARTS) for share in shares]
    parts[0] += PARTS - sum(parts)
    return parts


# -- sums ------------------------------------------------------------------------------------------------------------


class Figures(Struct):
    """Sums over requests. `cost` is nano-dollars times `PARTS`; `unpriced` and `unmeasured` are answered, and not all of their
    cost is in it.
    """

    answered: int = 0
    refused: int = 0
    not_found: int = 0
    failed: int = 0
    fallbacks: int = 0
    unpriced: int = 0
    unmeasured: int = 0
    cost: int = 0

    def add(self, outcome: Outcome) -> None:
        """One more request."""
        setattr(self, outcome.end, getattr(self, outcome.end) + 1)
        self.fallbacks += outcome.fell_back
        self.unpriced += not outcome.is_priced
        self.unmeasured += not outcome.is_measured
        self.cost += outcome.cost

    def shown(self) -> dict[str, Any]:
        """For JSON: `cost` in dollars."""
        return {**msgspec.to_builtins(self), "cost": _dollars(self.cost)}


class Comparison(Struct):
    """The sides beside each other, in all and by the model that was asked for; `deployments` have requests and costs in parts."""

    sides: list[str]
    totals: list[Figures]
    rows: int = 0
    first: float | None = None
    last: float | None = None
    models: dict[str, list[Figures]] = field(default_factory=dict)
    deployments: list[dict[str, list[int]]] = field(default_factory=list)
    reasons: list[Counter[str]] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        """For JSON, costs in dollars."""
        return {
            "rows": self.rows,
            "first": None if self.first is None else _moment(self.first),
            "last": None if self.last is None else _moment(self.last),
            "total": self._beside(self.totals),
            "models": {name: self._beside(figures) for name, figures in sorted(self.models.items())},
            "deployments": {
                side: {name: _share(*sums) for name, sums in sorted(found.items())}
                for side, found in zip(self.sides, self.deployments, strict=True)
            },
            "reasons": {
                side: dict(sorted(found.items()))
                for side, found in zip(self.sides, self.reasons, strict=True)
            },
        }

    def _beside(self, figures: Sequence[Figures]) -> Mapping[str, Any]:
        return {side: one.shown() for side, one in zip(self.sides, figures, strict=True)}


def _share(parts: int, paid: int) -> dict[str, float]:
    return {"requests": round(parts / PARTS, 2), "cost": _dollars(paid)}


def _dollars(parts: int) -> float:
    """The exact sum, rounded to nano-dollars."""
    return usd((parts + PARTS // 2) // PARTS)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


async def simulate(
    pages: AsyncIterator[list[LedgerRow]], sides: Sequence[Side], *, limit: int | None = None
) -> Comparison:
    """Replay rows, which come in the order of their start, at most `limit` of them."""
    found = Comparison([side.name for side in sides], [Figures() for _ in sides])
    found.deployments = [{} for _ in sides]
    found.reasons = [Counter() for _ in sides]
    async for rows in pages:
        for row in rows:
            if found.rows == limit:
                return found
            found.rows += 1
            found.first = row.started_at if found.first is None else found.first
            found.last = row.started_at
            known = _of(found.models, row.model_requested, lambda: [Figures() for _ in sides])
            for position, side in enumerate(sides):
                outcome = await side.outcome(row)
                found.totals[position].add(outcome)
                known[position].add(outcome)
                if outcome.reason:
                    found.reasons[position][outcome.reason] += 1
                for name, parts, paid in outcome.by:
                    sums = _of(found.deployments[position], name, lambda: [0, 0])
                    sums[0] += parts
                    sums[1] += paid
    return found


def _of(kept: dict[str, Any], name: str, make: Any) -> Any:
    """What is kept of this name; clients choose names, so those that come late share one."""
    if name not in kept and len(kept) >= _MOST_NAMES:
        name = _OTHERS
    if name not in kept:
        kept[name] = make()
    return kept[name]
