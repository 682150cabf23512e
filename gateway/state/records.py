"""What must survive a restart: the ledger of finished requests, and the small protocol that a store of it fulfils.

A `LedgerRow` is the one record of a finished exchange. Metrics, log lines and spend reports are all derived from it,
so they cannot disagree. `gateway.stages.account` builds it synchronously at the end of each request, which is why it has
plain fields only: numbers as they were counted, text as it came, no formatting. Money is an integer of nano-dollars;
`usd` makes the number that people read.

**A row is what repeats plus what does not.** Most of what is known of a request it shares with thousands of others: who
asked for which model on which route, who answered, and how that ended. That is its `Kind`, one object for all of them, so
whoever reads rows does the work on it once: the metrics' labels, the log line's text, the store's foreign key. Readers
need not care, because a row has all names. A kind equals only itself; that makes it the cheapest key there is.

`Records` is durability and nothing else. What replicas must agree on *right now* (limits, budgets) is another promise
and another protocol. A row is identified by its `id`, and appending it twice is appending it once: a writer that does
not know whether its last batch arrived simply sends it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from adapters.errors import GatewayError
from adapters.types import NO_UNITS, Units, Usage
from gateway.state.credentials import CredentialRow
from gateway.state.keys import KeyRow

Status: TypeAlias = Literal["success", "failure", "client_disconnected", "orphaned"]
"""How a request ended; `orphaned` is one whose end nobody saw (a crash), charged at its estimate."""

CallerKind: TypeAlias = Literal["anonymous", "master", "key"]

UsageSource: TypeAlias = Literal["reported", "estimated", "none"]

CostSource: TypeAlias = Literal["price", "provider", "none"]
"""Where the cost comes from: usage times price, what the provider billed, or nowhere (no price is known, nothing was used)."""

Dimension: TypeAlias = Literal[
    "day", "model", "model_group", "provider", "deployment_id", "key_digest", "end_user"
]
"""What totals can be split by. `day` is the UTC date of the start, `YYYY-MM-DD`."""


class RecordsUnavailable(GatewayError):
    """The store cannot be read or written now; the same call may work later."""

    status, type, reason = 503, "server_error", "records_unavailable"


OUTRUN = "hedge_lost"
"""The reason of an attempt that did not fail: another one, made beside it, began to answer first."""


class AttemptRow(Struct, frozen=True, gc=False):
    """One time that a deployment was asked. `status` is its HTTP status, 0 if it gave none; `reason` is `""` for the
    attempt that answered. `possible_duplicate` says that an earlier attempt may have been billed too.
    """

    deployment_id: str
    model: str
    provider: str
    status: int = 0
    reason: str = ""
    ms: int = 0
    possible_duplicate: bool = False


class Kind(Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """What many requests have in common.

    `endpoint` is the route's template, `model_requested` the client's word, `model_group` the public route, `model` the
    provider's name, `api_base` an origin without path or credentials, `service_tier` the one that answered (`""`: the
    ordinary one).
    """

    endpoint: str = ""
    operation: str = ""
    client_format: str = ""
    stream: bool = False

    provider: str = ""
    provider_format: str = ""
    model_requested: str = ""
    model_group: str = ""
    model: str = ""
    deployment_id: str = ""
    api_base: str = ""

    caller_kind: CallerKind = "anonymous"
    key_digest: str | None = None
    key_alias: str | None = None

    status: Status = "success"
    http_status: int = 0
    reason: str = ""
    finish: str = ""
    usage_source: UsageSource = "none"
    price_source: str = ""

    retries: int = 0
    fallbacks: int = 0
    cache_hit: bool = False
    mock: bool = False
    cost_source: CostSource = "none"
    service_tier: str = ""


TOKENS = (
    "input",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "audio_input",
    "image_input",
    "output",
    "reasoning",
    "audio_output",
    "image_output",
)
"""The buckets of `Usage`; each token is in exactly one."""

UNITS = Units.__struct_fields__
"""What is billed and is no token."""

NO_TOKENS = Usage()


class LedgerRow(Struct, frozen=True, eq=False, gc=False):
    """One finished request: its kind, and what is its own.

    `started_at` is unix seconds; `*_us` are microseconds from then on, None where that step did not happen. `call_id` is
    the client's own id, empty if it gave none. `cost_nano` None means that no price is known, which is not the same as free.
    Nearly always one deployment is asked and answers; then `answer_ms` says how soon it began. All else is in `tried`.
    """

    id: str
    kind: Kind
    started_at: float
    total_us: int = 0
    ttfb_us: int | None = None
    overhead_us: int | None = None
    usage: Usage = NO_TOKENS
    cost_nano: int | None = None
    answer_ms: int | None = None
    answer_id: str = ""
    client_ip: str | None = None
    user_agent: str | None = None
    call_id: str = ""
    end_user: str | None = None
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    error_message: str = ""
    tried: tuple[AttemptRow, ...] = ()

    @property
    def ended_at(self) -> float:
        """Unix seconds."""
        return self.started_at + self.total_us / 1e6

    @property
    def first_token_at(self) -> float | None:
        """Unix seconds; None for an answer that was no stream."""
        return None if self.ttfb_us is None else self.started_at + self.ttfb_us / 1e6

    @property
    def attempts(self) -> tuple[AttemptRow, ...]:
        """Every attempt in order, the one that answered included."""
        return self.tried if self.answer_ms is None else (_only_attempt(self.kind, self.answer_ms),)

    @property
    def prompt_tokens(self) -> int:
        """All tokens that went in."""
        return self.usage.prompt

    @property
    def completion_tokens(self) -> int:
        """All tokens that came out."""
        return self.usage.completion

    # -- the names of `Kind` and `Usage`, for whoever reads a row as a whole ----------------------------------------

    @property
    def endpoint(self) -> str:
        return self.kind.endpoint

    @property
    def operation(self) -> str:
        return self.kind.operation

    @property
    def client_format(self) -> str:
        return self.kind.client_format

    @property
    def stream(self) -> bool:
        return self.kind.stream

    @property
    def provider(self) -> str:
        return self.kind.provider

    @property
    def provider_format(self) -> str:
        return self.kind.provider_format

    @property
    def model_requested(self) -> str:
        return self.kind.model_requested

    @property
    def model_group(self) -> str:
        return self.kind.model_group

    @property
    def model(self) -> str:
        return self.kind.model

    @property
    def deployment_id(self) -> str:
        return self.kind.deployment_id

    @property
    def api_base(self) -> str:
        return self.kind.api_base

    @property
    def caller_kind(self) -> CallerKind:
        return self.kind.caller_kind

    @property
    def key_digest(self) -> str | None:
        return self.kind.key_digest

    @property
    def key_alias(self) -> str | None:
        return self.kind.key_alias

    @property
    def status(self) -> Status:
        return self.kind.status

    @property
    def http_status(self) -> int:
        return self.kind.http_status

    @property
    def reason(self) -> str:
        return self.kind.reason

    @property
    def finish(self) -> str:
        return self.kind.finish

    @property
    def usage_source(self) -> UsageSource:
        return self.kind.usage_source

    @property
    def price_source(self) -> str:
        return self.kind.price_source

    @property
    def retries(self) -> int:
        return self.kind.retries

    @property
    def fallbacks(self) -> int:
        return self.kind.fallbacks

    @property
    def cache_hit(self) -> bool:
        return self.kind.cache_hit

    @property
    def mock(self) -> bool:
        return self.kind.mock

    @property
    def cost_source(self) -> CostSource:
        return self.kind.cost_source

    @property
    def service_tier(self) -> str:
        return self.kind.service_tier

    @property
    def input(self) -> int:
        return self.usage.input

    @property
    def cache_read(self) -> int:
        return self.usage.cache_read

    @property
    def cache_write(self) -> int:
        return self.usage.cache_write

    @property
    def cache_write_1h(self) -> int:
        return self.usage.cache_write_1h

    @property
    def audio_input(self) -> int:
        return self.usage.audio_input

    @property
    def image_input(self) -> int:
        return self.usage.image_input

    @property
    def output(self) -> int:
        return self.usage.output

    @property
    def reasoning(self) -> int:
        return self.usage.reasoning

    @property
    def audio_output(self) -> int:
        return self.usage.audio_output

    @property
    def image_output(self) -> int:
        return self.usage.image_output

    @property
    def images(self) -> int:
        return self.usage.units.images

    @property
    def milliseconds(self) -> int:
        return self.usage.units.milliseconds

    @property
    def characters(self) -> int:
        return self.usage.units.characters

    @property
    def searches(self) -> int:
        return self.usage.units.searches


def make_row(*, attempts: Sequence[AttemptRow] = (), **flat: Any) -> LedgerRow:
    """A row (of a kind of its own) from what its kind, its usage and itself hold, by name: what `flatten` gives."""
    kind = Kind(**_taken(flat, Kind.__struct_fields__))
    units = Units(**_taken(flat, UNITS))
    usage = Usage(
        **_taken(flat, TOKENS),
        estimated=kind.usage_source == "estimated",
        units=NO_UNITS if units == NO_UNITS else units,
        tier=kind.service_tier,
    )
    if len(attempts) == 1 and attempts[0] == _only_attempt(kind, attempts[0].ms):
        return LedgerRow(kind=kind, usage=usage, answer_ms=attempts[0].ms, **flat)
    return LedgerRow(kind=kind, usage=usage, tried=tuple(attempts), **flat)


def flatten(row: LedgerRow) -> dict[str, Any]:
    """All that a row says, by name; two rows that say the same are equal so."""
    return {name: getattr(row, name) for name in FLAT}


def encodable(row: LedgerRow) -> LedgerRow:
    """The row with `?` for what is no text: header bytes that were not UTF-8 arrive as lone surrogates."""
    flat = flatten(row)
    texts = {name: _text(value) for name, value in flat.items() if isinstance(value, str)}
    return make_row(**{**flat, **texts, "tags": tuple(map(_text, row.tags))})


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()


_OWN = tuple(
    name for name in LedgerRow.__struct_fields__ if name not in {"kind", "usage", "answer_ms", "tried"}
)
FLAT = (*_OWN, *Kind.__struct_fields__, *TOKENS, *UNITS, "attempts")
"""The names of all that a row says."""


def _only_attempt(kind: Kind, ms: int) -> AttemptRow:
    return AttemptRow(kind.deployment_id, kind.model, kind.provider, kind.http_status, ms=ms)


def _taken(flat: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: flat.pop(name) for name in names if name in flat}


class LedgerQuery(Struct, frozen=True, kw_only=True):
    """Which rows: all conditions hold at once. `since` is inclusive, `until` exclusive, both unix seconds of the start."""

    id: str | None = None
    key_digest: str | None = None
    end_user: str | None = None
    since: float | None = None
    until: float | None = None


EVERYTHING = LedgerQuery()

_DAY = 86_400

Source: TypeAlias = Literal["entry", "pruned", "day_total"]
"""A table that totals come from; `gateway.state.pruning` tells of the second."""


def pieces(by: Sequence[Dimension], query: LedgerQuery) -> list[tuple[Source, LedgerQuery]]:
    """The tables that together have the totals, each with the part of the query that it answers: sums of days for whole days
    (UTC), rows and the minutes of pruned ones for what is left of a day at either end.
    """
    since, until = query.since, query.until
    first = None if since is None else math.ceil(since / _DAY) * _DAY
    end = None if until is None else math.floor(until / _DAY) * _DAY
    knows_no_days = query.id is not None or query.end_user is not None or "end_user" in by
    if knows_no_days or (first is not None and end is not None and first >= end):
        return _single(query)
    found: list[tuple[Source, LedgerQuery]] = [("day_total", replace(query, since=first, until=end))]
    if since is not None and since != first:
        found += _single(replace(query, until=first))
    if until is not None and until != end:
        found += _single(replace(query, since=end))
    return found


def _single(query: LedgerQuery) -> list[tuple[Source, LedgerQuery]]:
    """Rows, and the minutes of pruned ones, which know neither ids nor end users."""
    is_of_rows = query.id is not None or query.end_user is not None
    return [("entry", query)] if is_of_rows else [("entry", query), ("pruned", query)]


class Total(Struct, frozen=True):
    """A sum over rows. `group` holds one value per dimension that was asked for, `""` where a row has none.

    `unpriced` counts the rows whose cost is unknown and therefore missing in `cost_nano`.
    """

    group: tuple[str, ...]
    requests: int
    failures: int
    unpriced: int
    prompt_tokens: int
    completion_tokens: int
    cost_nano: int


class Description(Struct, frozen=True):
    """What a store is: `durable` if rows survive the process, `error` the last failure if it has not worked since."""

    backend: str
    durable: bool
    where: str
    error: str = ""


class AliasTaken(GatewayError):
    """Another key that lives has this alias."""

    status, type, reason = 400, "bad_request_error", "alias_taken"


class NameTaken(GatewayError):
    """Another credential has this name."""

    status, type, reason = 400, "bad_request_error", "name_taken"


def name_taken(name: str) -> NameTaken:
    """What to raise for this name."""
    return NameTaken(f"Credential with name '{name}' already exists.", param="credential_name")


class Records(Protocol):
    """A store of ledger rows, keys and named credentials. Every call may raise `RecordsUnavailable`."""

    @property
    def name(self) -> str:
        """For the logs of its worker."""
        ...

    async def run(self) -> None:
        """As a `Worker`: keep an eye on the store. Ends at once where that is nothing that can go away."""
        ...

    def listen(self, changed: Callable[[str | None], None]) -> None:
        """Tell `changed` which keys other processes have changed, by digest, as far as this store hears of it while `run`
        does; None: any may have, because nobody listened for a while.
        """
        ...

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        """Add rows, all or none; a row whose `id` is there already is skipped."""
        ...

    async def rows(self, query: LedgerQuery, limit: int = 10_000) -> list[LedgerRow]:
        """The rows that fit, newest start first."""
        ...

    async def totals(self, by: Sequence[Dimension] = (), query: LedgerQuery = EVERYTHING) -> list[Total]:
        """Sums over the rows that fit, pruned ones too, one per group, ordered by group. Without dimensions: exactly one.

        A pruned row has lost its `end_user`, and counts from the beginning of its minute.
        """
        ...

    async def prune(self, before: float, cuts: Sequence[float], most: int) -> int | None:
        """Delete the oldest rows that started before then, `most` at most, all or none; totals stay as they are, also those
        that begin or end at one of the `cuts`. How many it were; None while another process is about it.
        """
        ...

    async def pruned(self, by: Sequence[Dimension] = (), query: LedgerQuery = EVERYTHING) -> list[Total]:
        """Of `totals`, what is no row any more. `query` names a span and a key only."""
        ...

    async def keys(self) -> list[KeyRow]:
        """All virtual keys, oldest first, deleted ones too."""
        ...

    async def key(self, digest: str) -> KeyRow | None:
        """One of them."""
        ...

    async def put_key(self, key: KeyRow) -> bool:
        """Write a key, if it is new or its `version` follows the stored one's; False if somebody else was first.

        Raises `AliasTaken`.
        """
        ...

    async def credentials(self) -> list[CredentialRow]:
        """All named credentials, in the order of their names."""
        ...

    async def put_credentials(self, rows: Sequence[CredentialRow]) -> bool:
        """Write credentials, all or none: each is new, or its `version` follows the stored one's; False if one is not.

        Raises `NameTaken`.
        """
        ...

    async def delete_credential(self, name: str) -> bool:
        """Take a credential away, for good; False if there is none."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of files and threads."""
        ...

    def describe(self) -> Description:
        """What this store is and whether it works, for health reports; never blocks."""
        ...


def usd(nano: int | None) -> float:
    """Nano-dollars as dollars: the float nearest to the exact value, so its shortest form has the exact digits."""
    return (nano or 0) / 1_000_000_000
