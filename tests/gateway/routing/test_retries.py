"""What an error leads to, as a table."""

from __future__ import annotations

import pytest

from adapters.errors import (
    Bug,
    ContentPolicyViolation,
    ContextWindowExceeded,
    GatewayError,
    NoDeployment,
    Unsupported,
    UpstreamAuth,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamForbidden,
    UpstreamMalformed,
    UpstreamNotFound,
    UpstreamOutOfMoney,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.access import ModelDenied
from gateway.config.model import RetryPolicy, RouterSettings
from gateway.config.retries import ERRORS
from gateway.routing.retries import TABLE, consequence, may_repeat, retries_after, wait_before
from tests.gateway.routing.choosing import route_of

NOTHING = RetryPolicy()


@pytest.mark.parametrize(
    ("error", "name", "again", "then"),
    [
        (UpstreamRefused("x"), "BadRequestError", "no", "end"),
        (ContextWindowExceeded("x"), "ContextWindowExceededError", "no", "context_window_fallbacks"),
        (ContentPolicyViolation("x"), "ContentPolicyViolationError", "no", "content_policy_fallbacks"),
        (Unsupported("x"), "BadRequestError", "other", "end"),
        (UpstreamAuth("x"), "AuthenticationError", "other", "fallbacks"),
        (UpstreamForbidden("x"), "AuthenticationError", "other", "fallbacks"),
        (UpstreamNotFound("x"), "NotFoundError", "other", "fallbacks"),
        (UpstreamOutOfMoney("x"), "RateLimitError", "other", "fallbacks"),
        (UpstreamRateLimited("x"), "RateLimitError", "same", "fallbacks"),
        (UpstreamTimeout("x"), "TimeoutError", "same", "fallbacks"),
        (UpstreamOverloaded("x"), "ServiceUnavailableError", "same", "fallbacks"),
        (UpstreamUnreachable("x"), "ServiceUnavailableError", "same", "fallbacks"),
        (UpstreamUnreachable("x", code="tls_error"), "ServiceUnavailableError", "other", "fallbacks"),
        (UpstreamMalformed("x"), "BadGatewayError", "same", "fallbacks"),
        (UpstreamDisconnected("x"), "InternalServerError", "same", "fallbacks"),
        (UpstreamError("x", provider_status=500), "InternalServerError", "same", "fallbacks"),
        (UpstreamError("x", provider_status=502), "BadGatewayError", "same", "fallbacks"),
        (NoDeployment("x"), "RateLimitError", "no", "fallbacks"),
        (ModelDenied("x"), "", "no", "end"),
        (Bug("x"), "", "no", "end"),
    ],
)
def test_the_table(error: GatewayError, name: str, again: str, then: str) -> None:
    """Each error has LiteLLM's name, those who are worth another attempt, and the fallbacks that follow."""
    row = consequence(error)
    assert (row.name, row.again, row.then) == (name, again, then)


def test_policies_can_name_every_row() -> None:
    """The words that a configuration may count by are the names of the table."""
    assert {row.name for row in TABLE.values() if row.name} == set(ERRORS)


@pytest.mark.parametrize(
    ("error", "asked", "own", "group", "policy", "count"),
    [
        (UpstreamOverloaded("x"), None, None, None, NOTHING, 2),
        (UpstreamOverloaded("x"), None, None, None, RetryPolicy(max_retries=4), 4),
        (UpstreamOverloaded("x"), None, None, None, RetryPolicy(retries={"ServiceUnavailableError": 5}), 5),
        (UpstreamOverloaded("x"), None, None, None, RetryPolicy(retries={"RateLimitError": 5}), 2),
        (
            UpstreamOverloaded("x"),
            None,
            None,
            RetryPolicy(retries={"ServiceUnavailableError": 0}),
            RetryPolicy(max_retries=4),
            0,
        ),
        (UpstreamOverloaded("x"), None, 1, None, RetryPolicy(retries={"ServiceUnavailableError": 5}), 1),
        (UpstreamOverloaded("x"), 3, 1, None, RetryPolicy(retries={"ServiceUnavailableError": 5}), 3),
        (UpstreamOverloaded("x"), 0, 1, None, NOTHING, 0),
        (UpstreamRefused("x"), 7, 7, None, RetryPolicy(max_retries=4), 0),
        (UpstreamRefused("x"), None, None, None, RetryPolicy(retries={"BadRequestError": 1}), 1),
        (ContextWindowExceeded("x"), 7, None, None, RetryPolicy(retries={"BadRequestError": 1}), 0),
        (
            ContentPolicyViolation("x"),
            None,
            None,
            None,
            RetryPolicy(retries={"ContentPolicyViolationError": 3}),
            3,
        ),
    ],
)
def test_how_often(
    error: GatewayError,
    asked: int | None,
    own: int | None,
    group: RetryPolicy | None,
    policy: RetryPolicy,
    count: int,
) -> None:
    """Request before deployment before group before policy before router; what the caller did wrong, only by its own name."""
    route = route_of({"max_retries": own} if own is not None else {})
    settings = RouterSettings(retry_policy=policy, model_group_retry_policy={"m": group} if group else {})
    assert retries_after(error, settings, route, route.deployments[0], asked) == count


@pytest.mark.parametrize(
    ("error", "policy", "repeats"),
    [
        (UpstreamOverloaded("x"), NOTHING, True),
        (UpstreamAuth("x"), RetryPolicy(retries={"AuthenticationError": 3}), False),
        (UpstreamRefused("x"), NOTHING, False),
        (UpstreamRefused("x"), RetryPolicy(retries={"BadRequestError": 1}), True),
    ],
)
def test_the_same_once_more(error: GatewayError, policy: RetryPolicy, repeats: bool) -> None:
    """The same deployment is asked again only where that may help."""
    assert may_repeat(error, policy) is repeats


@pytest.mark.parametrize(
    ("attempt", "error", "policy", "least", "shortest", "longest"),
    [
        (1, UpstreamOverloaded("x"), NOTHING, 0.0, 0.0, 0.5),
        (3, UpstreamOverloaded("x"), NOTHING, 0.0, 0.0, 2.0),
        (50, UpstreamOverloaded("x"), NOTHING, 0.0, 0.0, 8.0),
        (5_000, UpstreamOverloaded("x"), RetryPolicy(base_delay=1, max_delay=10), 0.0, 0.0, 10.0),
        (1, UpstreamOverloaded("x"), NOTHING, 3.0, 3.0, 3.0),
        (1, UpstreamRateLimited("x", retry_after=2.5), NOTHING, 0.0, 2.5, 2.5),
        (1, UpstreamRateLimited("x", retry_after=2.5), NOTHING, 4.0, 4.0, 4.0),
        (1, UpstreamRateLimited("x", retry_after=-1), NOTHING, 0.0, 0.0, 0.0),
    ],
)
def test_how_long(
    attempt: int, error: GatewayError, policy: RetryPolicy, least: float, shortest: float, longest: float
) -> None:
    """What the provider wishes, else anything up to a back-off that doubles within its bound; `retry_after` binds both."""
    waits = [wait_before(attempt, error, policy, least=least, pause=0.5) for _ in range(200)]
    assert shortest <= min(waits)
    assert max(waits) <= longest
    if shortest < longest:
        assert max(waits) > longest / 2
