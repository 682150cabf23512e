"""What must survive a restart: the ledger of finished requests, and the small protocol that a store of it fulfils.

A `LedgerRow` is the one record of a finished exchange. Metrics, log lines and spend reports are all derived from it,
so they cannot disagree. `gateway.stages.account` builds it synchronously at the end of each request, which is why it has
plain fields only: numbers as they were counted, text as it came, no formatting. Money is an integer of nano-dollars;
`usd` makes the number that people read.

`Records` is durability and nothing else. What replicas must agree on *right now* (limits, budgets) is another promise
and another protocol. A row is identified by its `id`, and appending it twice is appending it once: a writer that does
not know whether its last batch arrived simply sends it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from adapters.errors import GatewayError

Status: TypeAlias = Literal["success", "failure", "client_disconnected", "orphaned"]
"""How a request ended; `orphaned` is one whose end nobody saw (a crash), charged at its estimate."""

CallerKind: TypeAlias = Literal["anonymous", "master", "key"]

UsageSource: TypeAlias = Literal["reported", "estimated", "none"]

Dimension: TypeAlias = Literal["day", "model", "model_group", "provider", "key_digest", "end_user"]
"""What totals can be split by. `day` is the UTC date of the start, `YYYY-MM-DD`."""


class RecordsUnavailable(GatewayError):
    """The store cannot be read or written now; the same call may work later."""

    status, type, reason = 503, "server_error", "records_unavailable"


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


class LedgerRow(Struct, frozen=True, kw_only=True, gc=False):
    """One finished request. Times are unix seconds, `*_us` microseconds (None: that step did not happen).

    `endpoint` is the route's template, `model_requested` the client's word, `model_group` the public route, `model` the
    provider's name, `api_base` an origin without path or credentials. `attempts` holds every attempt in order, the one
    that answered included. `cost_nano` None means that no price is known, which is not the same as free.
    """

    id: str
    call_id: str = ""
    answer_id: str = ""
    started_at: float
    ended_at: float
    first_token_at: float | None = None

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
    end_user: str | None = None
    tags: tuple[str, ...] = ()
    session_id: str | None = None
    client_ip: str | None = None
    user_agent: str | None = None

    status: Status = "success"
    http_status: int = 0
    reason: str = ""
    error_message: str = ""
    finish: str = ""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    usage_source: UsageSource = "none"

    cost_nano: int | None = None
    price_source: str = ""

    attempts: tuple[AttemptRow, ...] = ()
    retries: int = 0
    fallbacks: int = 0
    cache_hit: bool = False
    mock: bool = False

    queue_us: int | None = None
    auth_us: int | None = None
    connect_us: int | None = None
    ttfb_us: int | None = None
    total_us: int | None = None
    overhead_us: int | None = None

    @property
    def prompt_tokens(self) -> int:
        """All tokens that went in."""
        return self.input + self.cache_read + self.cache_write + self.cache_write_1h + self.audio_input

    @property
    def completion_tokens(self) -> int:
        """All tokens that came out."""
        return self.output + self.reasoning + self.audio_output

    @property
    def seconds(self) -> float:
        """How long it took: the monotonic measure where there is one, the difference of wall clocks otherwise."""
        return self.total_us / 1e6 if self.total_us is not None else max(0.0, self.ended_at - self.started_at)


class LedgerQuery(Struct, frozen=True, kw_only=True):
    """Which rows: all conditions hold at once. `since` is inclusive, `until` exclusive, both unix seconds of the start."""

    id: str | None = None
    key_digest: str | None = None
    end_user: str | None = None
    since: float | None = None
    until: float | None = None


EVERYTHING = LedgerQuery()


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


class Records(Protocol):
    """A store of ledger rows. Every call may raise `RecordsUnavailable`."""

    async def append(self, rows: Sequence[LedgerRow]) -> None:
        """Add rows, all or none; a row whose `id` is there already is skipped."""
        ...

    async def rows(self, query: LedgerQuery, limit: int = 10_000) -> list[LedgerRow]:
        """The rows that fit, newest start first."""
        ...

    async def totals(self, by: Sequence[Dimension] = (), query: LedgerQuery = EVERYTHING) -> list[Total]:
        """Sums over the rows that fit, one per group, ordered by group. Without dimensions: exactly one."""
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
