"""Tallies of what deployments and providers have used."""

from __future__ import annotations

from datetime import UTC, time

from msgspec.structs import replace

from adapters.types import Usage
from gateway.config.model import ProviderBudget
from gateway.routing.spending import Spending
from tests.gateway.routing.choosing import route_of

DAY = 86_400
NOON = 100 * DAY + DAY // 2


class Clock:
    """Unix seconds that a test sets."""

    def __init__(self) -> None:
        self.now = float(NOON)

    def __call__(self) -> float:
        return self.now


def spending(clock: Clock, **budgets: ProviderBudget) -> Spending:
    """With these providers' budgets, at noon."""
    found = Spending(clock)
    found.configure(budgets, UTC, time())
    return found


def test_nothing_to_count() -> None:
    """Without budgets nothing is counted."""
    found = spending(Clock())
    (deployment,) = route_of({}).deployments
    assert found.of(deployment) == ()
    assert not found.is_on


def test_a_budget_begins_anew() -> None:
    """What was spent counts until the day ends, whatever day a request began in."""
    clock = Clock()
    found = spending(clock)
    (deployment,) = route_of({"max_budget": "1", "budget_duration": "1d"}).deployments
    (tally,) = found.of(deployment)
    assert found.now(tally) == DAY / 2
    found.add(deployment, clock.now, 600_000_000, None)
    assert list(found.dollars_left()) == [("deployment", deployment.id, 400_000_000)]
    found.add(deployment, clock.now, 400_000_000, None)
    assert list(found.dollars_left()) == [("deployment", deployment.id, 0)]
    assert str(tally).startswith("Exceeded budget for deployment openai/a (")
    assert str(tally).endswith("): 1.0 >= 1.0 in 1d")
    clock.now += DAY
    assert list(found.dollars_left()) == [("deployment", deployment.id, 1_000_000_000)]
    found.add(deployment, clock.now - DAY, 2_000_000_000, None)  # it began yesterday
    assert tally.used == 0


def test_a_providers_deployments_share_its_budget() -> None:
    """Each of them spends it, under any of the provider's names, and others do not."""
    clock = Clock()
    found = spending(clock, openai=ProviderBudget("1", "1d"), vertex_ai_beta=ProviderBudget("1"))
    one, two = route_of({}, {}).deployments
    (other,) = route_of({"model": "anthropic/claude-sonnet-4-5"}).deployments
    found.add(one, clock.now, 500_000_000, None)
    found.add(two, clock.now, 500_000_000, None)
    (tally,) = found.of(one)
    assert found.of(two) == (tally,)
    assert tally.is_used_up
    assert found.of(other) == ()


def test_a_reload_keeps_what_is_known() -> None:
    """Tallies that are still wanted go on after a reload, with another limit as well; what is gone is not counted."""
    clock = Clock()
    found = spending(clock, openai=ProviderBudget("1", "1d"))
    (deployment,) = route_of({"rpd": 5}).deployments
    own, provider = found.of(deployment)
    found.add(deployment, clock.now, 7, Usage(input=1))
    found.configure({"openai": ProviderBudget("1", "1d")}, UTC, time(6), [deployment])
    assert found.of(deployment) == (own, provider)
    assert (own.used, provider.used) == (1, 7)
    assert found.now(own) == DAY * 3 / 4
    found.configure({}, UTC, time(), [deployment])
    assert found.of(deployment) == (own,)
    found.configure({}, UTC, time())
    assert not found.is_on


def test_days_of_its_own() -> None:
    """`daily_reset_time` is when the days of `tpd` and `rpd` begin."""
    clock = Clock()
    found = spending(clock)
    (deployment,) = route_of({"tpd": 10, "daily_reset_time": "13:00"}).deployments
    (tally,) = found.of(deployment)
    assert found.now(tally) == 3600
    found.add(deployment, clock.now, None, Usage(input=6, output=4))
    assert str(tally).endswith("has used 10 of 10 tokens in 1d")


def test_any_number_of_models() -> None:
    """Wildcards cannot fill the memory; budgets of providers stay."""
    found = spending(Clock(), openai=ProviderBudget("1"))
    (deployment,) = route_of({"rpd": 1}).deployments
    for number in range(10_050):
        found.of(replace(deployment, id=f"d{number}"))
    tallies = list(found.tallies())
    assert len(tallies) == 10_000
    assert sum(tally.owner[0] == "provider" for tally in tallies) == 1
