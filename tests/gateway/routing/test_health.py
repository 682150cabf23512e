"""Cooldowns and conditions."""

from __future__ import annotations

import pytest

from adapters.errors import (
    GatewayError,
    UpstreamAuth,
    UpstreamNotFound,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)
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
    health.succeeded("a", 1.0)
    health.began("a", 100.0)
    health.succeeded("a", 2.0)
    health.began("a", 100.0)
    condition = health.of("a")
    assert (condition.in_flight, condition.successes, condition.failures) == (1, 2, 0)
    assert condition.latency == pytest.approx(1.2)


def test_what_is_remembered_is_bounded() -> None:
    """Any number of wildcard models does not fill the memory, and what is in flight is not forgotten."""
    health = Health()
    health.began("busy", 100.0)
    for number in range(20_000):
        health.of(f"d{number}")
    assert len(health._conditions) <= 10_000
    assert health.of("busy").in_flight == 1
