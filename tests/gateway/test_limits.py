"""Which limits bind whom, and what a refusal says."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from gateway.keyring import ANONYMOUS, MASTER, Caller
from gateway.limits import BudgetExceeded, RateLimited, Settings, UserLimit, refusal
from gateway.state.keys import BudgetLimit, KeyRow
from gateway.state.shared import Refusal, budget, rate

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
MIDNIGHT = int(NOON) + 12 * 3600
KEY = KeyRow(
    digest="d",
    name="sk-...abcd",
    budgets=(BudgetLimit(100, "1d"), BudgetLimit(50, "1d"), BudgetLimit(900)),
    model_budgets={"m": BudgetLimit(7, "1h")},
    rpm_limit=5,
    tpm_limit=1000,
    model_rpm_limit={"m": 2},
)
CALLER = Caller("key", "d", None, KEY)


def test_a_key() -> None:
    """Each length of period has one counter, the strictest; a model's limits bind that model alone."""
    bound = Settings().bound(CALLER, None, ("m",), NOON)
    assert [(counter.limit, counter.ends) for counter in bound.budgets] == [
        (50, MIDNIGHT),
        (900, None),
        (7, int(NOON) + 3600),
    ]
    assert [window.name for window in bound.fixed] == ["rpm:api_key:d", "rpm:model_per_key:d:m"]
    assert bound.tokens == (("tpm:api_key:d", 1000),)
    assert bound.until == NOON + 3600
    assert len(Settings().bound(CALLER, None, ("n",), NOON).budgets) == 2


def test_a_raise_of_a_time() -> None:
    """The first budget is larger until then, and what binds is asked again when it ends; the counter is the same."""
    raised = replace(
        KEY, budgets=(BudgetLimit(100), BudgetLimit(50, "1h")), raised_by=30, raised_until=NOON + 60
    )
    caller = Caller("key", "d", None, raised)
    before, after = (Settings().bound(caller, None, (), now) for now in (NOON, NOON + 60))
    assert [counter.limit for counter in before.budgets] == [130, 50]
    assert [counter.limit for counter in after.budgets] == [100, 50]
    assert before.budgets[0].name == after.budgets[0].name
    assert (before.until, after.until) == (NOON + 60, NOON + 3600)


def test_a_reset_is_another_counter() -> None:
    """A new period, or a spend that was set to zero, has a name of its own."""

    def names(row: KeyRow, now: float) -> set[str]:
        return {counter.name for counter in Settings().budgets_of(row, (), now)}

    daily = KeyRow(digest="d", name="n", budgets=(BudgetLimit(1, "1d"),))
    since = KeyRow(digest="d", name="n", budgets=(BudgetLimit(1, "1d"),), spend_since=NOON - 60)
    assert len(names(daily, NOON) | names(daily, MIDNIGHT) | names(since, NOON)) == 3
    assert names(daily, NOON) == names(daily, NOON + 3600)
    (counter,) = Settings().budgets_of(since, (), NOON)
    assert counter.starts == NOON - 60


def test_the_whole_gateway() -> None:
    """It binds everybody, the master key only if it is not exempt."""
    settings = Settings(max_budget=5, parallel=9, rpm=3)
    for caller in (ANONYMOUS, MASTER):
        bound = settings.bound(caller, None, (), NOON)
        assert [counter.whose for counter in bound.budgets] == ["Gateway"]
        assert [window.name for window in bound.fixed] == ["rpm:gateway", "parallel:gateway"]
    exempt = Settings(max_budget=5, is_master_exempt=True)
    assert exempt.bound(MASTER, None, (), NOON).is_empty
    assert not exempt.bound(ANONYMOUS, None, (), NOON).is_empty
    assert (settings.binds_everybody, Settings().binds_everybody) == (True, False)


def test_users() -> None:
    """A key's user counts before the one that a request names."""
    settings = Settings(users={"a": UserLimit(rpm=1), "b": UserLimit(tpm=2)})
    assert settings.user_of(ANONYMOUS, "a") == "a"
    assert settings.user_of(ANONYMOUS, "c") is None
    assert settings.user_of(Caller("key", "d", None, KeyRow(digest="d", name="n", user_id="b")), "a") == "b"
    assert settings.bound(ANONYMOUS, "b", (), NOON).tokens == (("tpm:user:b", 2),)


def test_what_is_said() -> None:
    """LiteLLM's words, types and statuses."""
    settings = Settings(budget_status=429)
    bound = settings.bound(CALLER, None, (), NOON)
    counter = bound.budgets[0]
    over = refusal(settings, bound, Refusal(budget(counter.name, 10**9, counter.limit), 40, 3.2), NOON)
    assert isinstance(over, BudgetExceeded)
    assert (over.status, over.code, over.headers["retry-after"]) == (429, "429", "4")
    assert over.message.startswith(
        "Budget has been exceeded! Key=sk-...abcd over 1d budget Current cost: 0.00000004"
    )
    fast = refusal(settings, bound, Refusal(rate("rpm:api_key:d", 1, 5), 5, 12.5), NOON)
    assert isinstance(fast, RateLimited)
    assert fast.message == (
        "Rate limit exceeded for api_key: d. Limit type: requests. Current limit: 5, Remaining: 0. "
        "Limit resets at: 2026-11-21 12:00:13 UTC"
    )
