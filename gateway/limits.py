"""Which limits a request falls under, and what is said to one that they refuse.

Nothing is counted here: from the settings, the caller and the models that may answer, `Settings.bound` makes the `Bound`,
which is made once for all requests that have it in common, and lasts until one of its budgets begins a new period.

| limit | of whom | binds |
|---|---|---|
| `max_budget` (for a time with `temp_budget_increase`), `budgets`, `model_max_budget`, `rpm_limit`, `tpm_limit`, `model_rpm_limit` … | a virtual key | its requests |
| `max_parallel_requests` of the configuration | each virtual key without one of its own | its requests |
| `user_rate_limit` | a key's user, else the end user that a request names | that user's requests |
| `max_budget`, `rpm_limit`, `tpm_limit`, `global_max_parallel_requests` of the configuration | the gateway | everybody's, the master key's too |

A model's limits are those of the name that its deployments have in `model_list`, whichever alias was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import Struct

from adapters.errors import GatewayError
from gateway.config.model import Config
from gateway.keyring import MASTER, Caller
from gateway.pricing import dollars_text, nano
from gateway.state.keys import BudgetLimit, KeyRow
from gateway.state.periods import MONDAY, period
from gateway.state.shared import Refusal, Window, rate, slots

_FOREVER = float("inf")

# -- what is refused -------------------------------------------------------------------------------------------------


class BudgetExceeded(GatewayError):
    """The request might cost more than is left. `budget_exceeded_status_code` may change the status."""

    status, type, reason = 422, "budget_exceeded", "budget_exceeded"


class RateLimited(GatewayError):
    """Too many requests, tokens or parallel requests; one of our own limits, not a provider's."""

    status, type, reason = 429, "throttling_error", "rate_limited"


class LimitsUnavailable(GatewayError):
    """It cannot be said now whether the request is within its limits."""

    status, type, reason = 503, "server_error", "limits_unavailable"


class PriceUnknown(GatewayError):
    """Nobody knows what the request would cost, and somebody has to."""

    status, type, reason = 400, "invalid_request_error", "price_unknown"


# -- what binds ------------------------------------------------------------------------------------------------------


class Counter(Struct, frozen=True, eq=False):
    """A budget in its present period: at most `limit` nano-dollars in the counter `name`.

    It counts what started from `starts` on: of the key with that digest, or of all, the master key too unless it is spared; of
    that model, or of all.
    """

    name: str
    limit: int
    starts: float
    ends: int | None
    whose: str
    digest: str | None = None
    model: str | None = None
    duration: str | None = None
    alias: str = ""
    spares_master: bool = False


class Bound(Struct, frozen=True, eq=False):
    """All that binds a request. `fixed` are its windows of requests and slots, `tokens` the names and limits of tokens per
    minute. `until` is the unix second at which it has to be made anew.
    """

    budgets: tuple[Counter, ...]
    fixed: tuple[Window, ...]
    tokens: tuple[tuple[str, int], ...]
    until: float

    @property
    def is_empty(self) -> bool:
        """Nothing binds."""
        return not (self.budgets or self.fixed or self.tokens)


class UserLimit(Struct, frozen=True):
    """Requests and tokens per minute of one user."""

    rpm: int | None = None
    tpm: int | None = None


class Settings(Struct, frozen=True, kw_only=True, eq=False):
    """What the configuration says of limits. Money is nano-dollars."""

    max_budget: int | None = None
    budget_duration: str | None = None
    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None
    key_parallel: int | None = None
    users: dict[str, UserLimit] = {}
    is_master_exempt: bool = False
    zone: tzinfo = UTC
    reset_time: time = time()
    budget_status: int = 422
    unknown_price: Literal["warn", "block", "estimate"] = "warn"
    without_redis: Literal["local", "open", "closed"] = "local"
    on_budget: Literal["finish", "cut"] = "finish"
    serves_without_ledger: bool = True

    @property
    def binds_everybody(self) -> bool:
        """Something binds requests without a virtual key."""
        whole = (self.max_budget, self.rpm, self.tpm, self.parallel)
        return any(limit is not None for limit in whole) or bool(self.users) or self.unknown_price == "block"

    def user_of(self, caller: Caller, end_user: str | None) -> str | None:
        """The user whose limits count, None if there are none."""
        user = caller.key.user_id if caller.key is not None else None
        user = user or end_user
        return user if user in self.users else None

    def bound(self, caller: Caller, user: str | None, models: Sequence[str], now: float) -> Bound:
        """All that binds this caller's requests for these models. `now` is unix seconds."""
        budgets: list[Counter] = []
        fixed: list[Window] = []
        tokens: list[tuple[str, int]] = []

        def per_minute(name: str, rpm: int | None, tpm: int | None) -> None:
            if rpm is not None:
                fixed.append(rate(f"rpm:{name}", 1, rpm))
            if tpm is not None:
                tokens.append((f"tpm:{name}", tpm))

        key = caller.key
        if key is not None:
            budgets += self.budgets_of(key, models, now)
            per_minute(f"api_key:{key.payer}", key.rpm_limit, key.tpm_limit)
            for model in models:
                limits = key.model_rpm_limit.get(model), key.model_tpm_limit.get(model)
                per_minute(f"model_per_key:{key.payer}:{model}", *limits)
        if user is not None:
            per_minute(f"user:{user}", self.users[user].rpm, self.users[user].tpm)
        if self.max_budget is not None and not (self.is_master_exempt and caller is MASTER):
            limit = BudgetLimit(self.max_budget, self.budget_duration)
            # Another name where it counts other requests: the counter of before does not know them.
            name = "gateway:but_master" if self.is_master_exempt else "gateway"
            budgets.append(self._counter(name, "Gateway", limit, now))
        per_minute("gateway", self.rpm, self.tpm)
        parallel = self.key_parallel
        if key is not None and key.max_parallel_requests is not None:
            parallel = key.max_parallel_requests
        if key is not None and parallel is not None:
            fixed.append(slots(f"parallel:api_key:{key.payer}", parallel))
        if self.parallel is not None:
            fixed.append(slots("parallel:gateway", self.parallel))
        until = min((counter.ends or _FOREVER for counter in budgets), default=_FOREVER)
        if key is not None and now < key.raised_until:
            until = min(until, key.raised_until)
        return Bound(tuple(budgets), tuple(fixed), tuple(tokens), until)

    def budgets_of(self, key: KeyRow, models: Sequence[str], now: float) -> list[Counter]:
        """A key's budgets in their present periods, its own first."""
        whose = f"Key={key.alias or key.name}"
        counters = _strictest(
            self._counter(f"key:{key.payer}", whose, limit, now, key=key) for limit in _raised(key, now)
        )
        for model in models:
            limit = key.model_budgets.get(model)
            if limit is not None:
                name = f"key:{key.payer}:model:{model}"
                counters.append(
                    self._counter(name, f"{whose}, Model={model}", limit, now, key=key, model=model)
                )
        return counters

    def _counter(
        self,
        name: str,
        whose: str,
        limit: BudgetLimit,
        now: float,
        *,
        key: KeyRow | None = None,
        model: str | None = None,
    ) -> Counter:
        since = key.spend_since if key is not None else 0.0
        digest = key.payer if key is not None else None
        alias = (key.alias or "") if key is not None else ""
        spares_master = key is None and self.is_master_exempt
        if since:
            name = f"{name}:since:{since!r}"
        if limit.duration is None:
            return Counter(
                name,
                limit.max_budget,
                since,
                None,
                whose,
                digest,
                model,
                alias=alias,
                spares_master=spares_master,
            )
        anchor = (key.created_at if key is not None else 0.0) or MONDAY
        now_in = period(limit.duration, now, self.zone, self.reset_time, anchor)
        return Counter(
            f"{name}:{now_in.name}",
            limit.max_budget,
            max(since, float(now_in.starts)),
            now_in.ends,
            whose,
            digest,
            model,
            limit.duration,
            alias,
            spares_master,
        )


def _raised(key: KeyRow, now: float) -> tuple[BudgetLimit, ...]:
    """A key's budgets, the first of them raised while that lasts."""
    if now >= key.raised_until:
        return key.budgets
    first, *others = key.budgets
    return BudgetLimit(first.max_budget + key.raised_by, first.duration), *others


def _strictest(counters: Iterable[Counter]) -> list[Counter]:
    """One of each name: `1d` and `24h` are one period, and have one counter."""
    found: dict[str, Counter] = {}
    for counter in counters:
        other = found.get(counter.name)
        if other is None or counter.limit < other.limit:
            found[counter.name] = counter
    return list(found.values())


def headers_of(key: KeyRow) -> list[tuple[str, str]]:
    """A key's limits, as LiteLLM's clients read them."""
    found = []
    if key.tpm_limit is not None:
        found.append(("x-litellm-key-tpm-limit", str(key.tpm_limit)))
    if key.rpm_limit is not None:
        found.append(("x-litellm-key-rpm-limit", str(key.rpm_limit)))
    if key.budgets:
        found.append(("x-litellm-key-max-budget", dollars_text(key.budgets[0].max_budget)))
    return found


def settings_of(config: Config) -> Settings:
    """The settings of a configuration that was checked when it was loaded."""
    general, litellm = config.general, config.litellm
    at = litellm.budget_reset_time or litellm.budget_reset_at
    is_closed = general.fail_closed_rate_limit_enforcement or general.fail_closed_budget_enforcement
    return Settings(
        max_budget=None if litellm.max_budget is None else nano(litellm.max_budget, "max_budget"),
        budget_duration=litellm.budget_duration,
        rpm=general.rpm_limit,
        tpm=general.tpm_limit,
        parallel=general.global_max_parallel_requests,
        key_parallel=general.max_parallel_requests,
        users={name: UserLimit(**limits) for name, limits in general.user_rate_limit.items()},
        is_master_exempt=litellm.master_key_exempt_from_budget,
        zone=ZoneInfo(litellm.timezone) if litellm.timezone else UTC,
        reset_time=time.fromisoformat(at) if at else time(),
        budget_status=litellm.budget_exceeded_status_code,
        unknown_price=general.unknown_price_policy,  # type: ignore[arg-type]  # checked when it was loaded
        without_redis="closed" if is_closed else general.limits_without_redis,  # type: ignore[arg-type]  # as above
        on_budget=general.on_budget,  # type: ignore[arg-type]  # as above
        serves_without_ledger=not general.fail_closed_budget_enforcement,
    )


# -- what is said ----------------------------------------------------------------------------------------------------


def refusal(settings: Settings, bound: Bound, refused: Refusal, now: float) -> GatewayError:
    """The error that a refusal is, in LiteLLM's words. `now` is unix seconds."""
    if refused.window.kind == "budget":
        return _over_budget(settings, bound, refused)
    return _over_rate(refused, now)


def _over_budget(settings: Settings, bound: Bound, refused: Refusal) -> BudgetExceeded:
    window = refused.window
    counter = next(counter for counter in bound.budgets if counter.name == window.name)
    over = f" over {counter.duration} budget" if counter.duration else ""
    said = (
        f"Budget has been exceeded! {counter.whose}{over} Current cost: {dollars_text(refused.used)}, "
        f"Estimated request cost: {dollars_text(window.amount)}, Max budget: {dollars_text(window.limit)}"
    )
    if refused.used < window.limit:
        said += ". The estimate is the most that the request may cost; a smaller max_tokens makes it smaller"
    headers = {"x-should-retry": "false"}
    if window.ends is not None:
        headers["reset_at"] = _as_date(window.ends)
        said += f". Budget resets at: {headers['reset_at']}"
    if refused.retry_after is not None:
        headers["retry-after"] = str(_whole(refused.retry_after))
    error = BudgetExceeded(said, code=str(settings.budget_status), headers=headers)
    error.status = settings.budget_status
    return error


_LIMITED = {"rpm": "requests", "tpm": "tokens", "parallel": "max_parallel_requests"}


def _over_rate(refused: Refusal, now: float) -> RateLimited:
    window = refused.window
    kind, _, rest = window.name.partition(":")
    whose, _, value = rest.partition(":")
    limited = _LIMITED[kind]
    wait = _whole(1.0 if refused.retry_after is None else refused.retry_after)
    resets = _as_date(now + wait)
    message = (
        f"Rate limit exceeded for {whose}: {value or 'all'}. Limit type: {limited}. Current limit: {window.limit}, "
        f"Remaining: {refused.remaining}. Limit resets at: {resets}"
    )
    headers = {"retry-after": str(wait), "rate_limit_type": limited, "reset_at": resets}
    if kind != "parallel":
        for name in ("", f"{whose}-"):
            headers[f"x-ratelimit-{name}limit-{limited}"] = str(window.limit)
            headers[f"x-ratelimit-{name}remaining-{limited}"] = str(refused.remaining)
        headers[f"x-ratelimit-reset-{limited}"] = f"{wait}s"
    return RateLimited(message, headers=headers)


def _as_date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S UTC}"


def _whole(seconds: float) -> int:
    return min(max(1, int(seconds) + (seconds % 1 > 0)), 31 * 86_400)
