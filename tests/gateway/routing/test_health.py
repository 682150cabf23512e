"""Cooldowns and conditions."""

from __future__ import annotations

import pytest

from adapters.errors import (
    GatewayError,
    UpstreamAuth,
    UpstreamDisconnected,
    UpstreamNotFound,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)
from gateway.config.model import RouterSettings
from gateway.routing.breaker import Breaker
from gateway.routing.health import Health


def fail(health: Health, error: GatewayError, *, is_last: bool) -> None:
    health.began("a", 100.0)
    health.failed("a", error, 100.0, peers=["a"] if is_last else ["a", "b"])


@pytest.mark.parametrize(
    ("error", "is_last", "seconds"),
    [
        (UpstreamOverloaded("x"), False, 5.0),
        (UpstreamOverloaded("x"), True, 0.0),
        (UpstreamOverloaded("x", retry_after=20), False, 20.0),
        (UpstreamTimeout("x"), True, 0.0),
        (UpstreamRateLimited("x"), False, 5.0),
        (UpstreamRateLimited("x"), True, 0.0),
        (UpstreamRateLimited("x", retry_after=7), True, 7.0),
        (UpstreamRateLimited("x", retry_after=0), False, 1.0),
        (UpstreamRateLimited("x", retry_after=-1), False, 1.0),
        (UpstreamRateLimited("x", retry_after=9e99), False, 300.0),
        (UpstreamAuth("x"), False, 5.0),
        (UpstreamRefused("x"), False, 0.0),
        (UpstreamNotFound("x", code="model_not_found"), False, 5.0),
        (UpstreamNotFound("no such file"), False, 0.0),
    ],
)
def test_how_long_it_is_left_out(error: GatewayError, is_last: bool, seconds: float) -> None:
    """Each kind of failure cools a deployment down for its time, the last one only for a rate limit's."""
    health = Health(cooldown=5.0)
    fail(health, error, is_last=is_last)
    assert health.is_available("a", 100.0 + seconds)
    assert health.is_available("a", 100.0 + seconds - 0.1) is (seconds == 0)


def test_cooldowns_can_be_switched_off() -> None:
    """`disable_cooldowns` leaves nobody out."""
    health = Health(enabled=False)
    fail(health, UpstreamRateLimited("x", retry_after=60), is_last=False)
    assert health.is_available("a", 100.0)


def test_conditions_count() -> None:
    """In flight, successes, failures and latency are counted, and a wrong question is nobody's failure."""
    health = Health()
    fail(health, UpstreamRefused("x"), is_last=False)
    health.began("a", 100.0)
    health.succeeded("a", 100.0, 1.0)
    health.began("a", 100.0)
    health.succeeded("a", 100.0, 2.0)
    health.began("a", 100.0)
    condition = health.of("a")
    assert (condition.in_flight, condition.successes, condition.failures) == (1, 2, 0)
    assert condition.pace.latency == pytest.approx(1 + 2 / 11)


def test_what_is_remembered_is_bounded() -> None:
    """Any number of wildcard models does not fill the memory, and what is in flight is not forgotten."""
    health = Health()
    health.began("busy", 100.0)
    for number in range(20_000):
        health.of(f"d{number}")
    assert len(health._conditions) <= 10_000
    assert health.of("busy").in_flight == 1


def test_failures_that_are_allowed() -> None:
    """So many failures in the time of a cooldown are no reason to leave a deployment out, all together or by their name."""
    health = Health()
    health.adopt(RouterSettings(allowed_fails=1, allowed_fails_policy={"RateLimitError": 2}))
    for error, available in (
        (UpstreamOverloaded("x"), True),
        (UpstreamRateLimited("x"), True),
        (UpstreamRateLimited("x"), True),
        (UpstreamTimeout("x"), False),
    ):
        fail(health, error, is_last=False)
        assert health.is_available("a", 100.0) is available
    health.began("a", 106.0)  # the count begins anew
    health.failed("a", UpstreamTimeout("x"), 106.0, peers=["a", "b"])
    assert health.is_available("a", 106.0)


def test_a_deployments_own_time() -> None:
    """A deployment's own `cooldown_time` goes before the router's."""
    health = Health()
    health.began("a", 100.0)
    health.failed("a", UpstreamOverloaded("x"), 100.0, peers=["a", "b"], cooldown=50.0)
    assert (health.is_available("a", 149.9), health.is_available("a", 150.0)) == (False, True)
    assert list(health.cooldowns()) == [("a", 503, 1)]


def test_a_circuit() -> None:
    """One that keeps failing is no longer available, also if it is the last, but can be asked for want of another."""
    health = Health()
    for _ in range(5):
        fail(health, UpstreamOverloaded("x"), is_last=True)
    assert (health.is_available("a", 104.0), health.is_usable("a", 104.0)) == (False, True)
    health.began("a", 105.0)
    assert not health.is_available("a", 105.0)
    health.succeeded("a", 105.0, 1.0)
    assert health.is_available("a", 105.0)
    assert health.of("a").breaker is None


def test_no_circuit_without_cooldowns() -> None:
    """`disable_cooldowns` switches circuits off too."""
    health = Health()
    health.adopt(RouterSettings(disable_cooldowns=True))
    for _ in range(10):
        fail(health, UpstreamOverloaded("x"), is_last=False)
    assert health.is_available("a", 100.0)


def test_cooldowns_of_other_processes() -> None:
    """One that another process decided is heeded if it is longer, and not where cooldowns are switched off."""
    health = Health()
    assert health.follow_cooldown("a", 110.0, "upstream_rate_limited")
    assert not health.follow_cooldown("a", 105.0, "upstream_rate_limited")
    assert not health.is_available("a", 109.0)
    assert health.of("a").last_reason == "upstream_rate_limited"
    assert not Health(enabled=False).follow_cooldown("a", 110.0, "x")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (RouterSettings(allowed_fails=1), UpstreamOverloaded("x")),
        (RouterSettings(disable_cooldowns=True), UpstreamOverloaded("x")),
        (RouterSettings(adaptive_concurrency=True), UpstreamRateLimited("x")),
        (RouterSettings(), UpstreamDisconnected("x", reused=True)),
        (RouterSettings(), UpstreamRefused("x")),
    ],
)
def test_a_probe_ends_whatever_it_is_taken_for(settings: RouterSettings, error: GatewayError) -> None:
    """A probe that fails in a way that does not count leaves the circuit half-open for the next one, and not for ever."""
    health = Health()
    health.adopt(settings)
    health.began("a", 90.0)  # another one is under way, so a refusal may be a matter of how many there are
    health.of("a").breaker = breaker = Breaker()
    for _ in range(5):
        breaker.failed(100.0, 5.0)
    health.began("a", 105.0)
    assert not health.is_available("a", 105.0)
    health.failed("a", error, 106.0, peers=["a"], started=105.0)
    assert health.is_available("a", 1_000.0)
    assert health.of("a").in_flight == 1


def test_cooldowns_are_switched_off_by_a_reload() -> None:
    """Whoever is left out at that moment can be asked again."""
    health = Health()
    for _ in range(5):
        fail(health, UpstreamRateLimited("x", retry_after=60), is_last=False)
    health.adopt(RouterSettings())
    assert not health.is_available("a", 101.0)
    health.adopt(RouterSettings(disable_cooldowns=True))
    assert health.is_available("a", 101.0)


def test_who_is_forgotten() -> None:
    """Wildcards name any number of models: the oldest of them go, and neither what is configured nor what is being asked."""
    health = Health()
    health.adopt(RouterSettings(), ["configured"])
    for name in ("configured", "busy", "oldest"):
        health.of(name).failures = 1
    health.began("busy", 100.0)
    for count in range(10_000):
        health.of(f"wild-{count}")
    known = dict(health.all())
    assert len(known) == 10_000
    assert (known["configured"].failures, known["busy"].failures, "oldest" in known) == (1, 1, False)


def test_a_scrape_while_deployments_come() -> None:
    """The metrics are made in a thread of their own: a deployment that is asked for the first time meanwhile does not break them."""
    health = Health()
    health.adopt(RouterSettings(adaptive_concurrency=True))
    for name in "ab":
        health.began(name, 100.0)
        health.failed(name, UpstreamRateLimited("x", retry_after=5), 100.0, peers=[])
    learnt, cooldowns = health.learnt(), health.cooldowns()
    next(learnt), next(cooldowns)
    health.began("c", 100.0)
    health.of("a").cooldowns[429] = 1
    assert [len([*learnt]), len([*cooldowns])] == [1, 1]
