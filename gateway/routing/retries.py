"""What an error leads to: another attempt in the same route, other models, or the end.

`TABLE` is the one place that says it. Each of our errors has LiteLLM's name, which `retry_policy` and `allowed_fails_policy`
count by; whether it is worth another attempt, and of whom; and which list of fallbacks it leads to. What the caller did
wrong is not tried again anywhere: everybody would say the same, and each would be paid. A policy that names its class may
want it all the same.

How often is another matter: the request's own `num_retries` (or header, or `max_retries`) wins, then the deployment's
`max_retries`, then `model_group_retry_policy`, `retry_policy`, and at last `num_retries` of the router. All of it is within
the retry budget (`gateway.routing.retry_budget`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal, TypeAlias

from msgspec import Struct

from adapters.errors import (
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
from gateway.config.model import RetryPolicy, RouterSettings
from gateway.routes import Deployment, Route

Again: TypeAlias = Literal["same", "other", "no"]
"""Who of the route is worth another attempt: also the deployment that failed, only others, nobody."""

Then: TypeAlias = Literal["fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "end"]
"""Which list of other models is next, once the route has been given up."""


class Consequence(Struct, frozen=True):
    """A row of the table. `name` is LiteLLM's name of the error, as its policies spell it."""

    name: str
    again: Again
    then: Then


TABLE: Mapping[type[GatewayError], Consequence] = {
    UpstreamRefused: Consequence("BadRequestError", "no", "end"),
    ContextWindowExceeded: Consequence("ContextWindowExceededError", "no", "context_window_fallbacks"),
    ContentPolicyViolation: Consequence("ContentPolicyViolationError", "no", "content_policy_fallbacks"),
    Unsupported: Consequence("BadRequestError", "other", "end"),
    UpstreamAuth: Consequence("AuthenticationError", "other", "fallbacks"),
    UpstreamForbidden: Consequence("AuthenticationError", "other", "fallbacks"),
    UpstreamNotFound: Consequence("NotFoundError", "other", "fallbacks"),
    UpstreamOutOfMoney: Consequence("RateLimitError", "other", "fallbacks"),
    UpstreamRateLimited: Consequence("RateLimitError", "same", "fallbacks"),
    UpstreamTimeout: Consequence("TimeoutError", "same", "fallbacks"),
    UpstreamOverloaded: Consequence("ServiceUnavailableError", "same", "fallbacks"),
    UpstreamUnreachable: Consequence("ServiceUnavailableError", "same", "fallbacks"),
    UpstreamMalformed: Consequence("BadGatewayError", "same", "fallbacks"),
    UpstreamDisconnected: Consequence("InternalServerError", "same", "fallbacks"),
    UpstreamError: Consequence("InternalServerError", "same", "fallbacks"),
    NoDeployment: Consequence("RateLimitError", "no", "fallbacks"),
    GatewayError: Consequence("", "no", "end"),
}
"""By class; an error that has no row of its own has that of its nearest base."""

_BAD_GATEWAY = Consequence("BadGatewayError", "same", "fallbacks")
_BROKEN_TLS = Consequence("ServiceUnavailableError", "other", "fallbacks")

LONGEST_DELAY = 8.0
"""Seconds of back-off at most, where the policy does not say."""

_jitter = random.Random()  # noqa: S311 - spreads retries, no secrets


def consequence(error: GatewayError) -> Consequence:
    """The row of an error."""
    if type(error) is UpstreamError and error.provider_status == 502:
        return _BAD_GATEWAY
    if isinstance(error, UpstreamUnreachable) and error.code == "tls_error":
        return _BROKEN_TLS  # a certificate that is wrong now is wrong in a second
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return TABLE[GatewayError]


def policy_of(settings: RouterSettings, route: Route) -> RetryPolicy:
    """The policy of a route: its group's, else the router's."""
    return settings.model_group_retry_policy.get(route.name, settings.retry_policy)


def retries_after(
    error: GatewayError,
    settings: RouterSettings,
    route: Route,
    deployment: Deployment | None,
    asked: int | None,
) -> int:
    """How many more attempts than one a route gets whose last attempt failed so; `asked` is what the request wants."""
    policy = policy_of(settings, route)
    row = consequence(error)
    counted = policy.retries.get(row.name)
    if row.again == "no" and not counted:
        return 0
    if asked is not None:
        return asked
    if deployment is not None and deployment.max_retries is not None:
        return deployment.max_retries
    if counted is not None:
        return counted
    return policy.max_retries if policy.max_retries is not None else settings.num_retries


def may_repeat(error: GatewayError, policy: RetryPolicy) -> bool:
    """The same deployment may answer if it is asked once more."""
    row = consequence(error)
    return row.again == "same" or (row.again == "no" and bool(policy.retries.get(row.name)))


def wait_before(
    attempt: int, last: GatewayError, policy: RetryPolicy, *, least: float, pause: float
) -> float:
    """Seconds before a deployment is asked again: what its provider wishes, else full jitter below 1, 2, 4 … pauses.

    `least` is `retry_after`, which binds both; `pause` is the first back-off where the policy has none.
    """
    if isinstance(last, UpstreamError) and last.retry_after is not None:
        return max(0.0, least, last.retry_after)
    base = policy.base_delay if policy.base_delay is not None else pause
    longest = policy.max_delay if policy.max_delay is not None else max(base, LONGEST_DELAY)
    return max(least, _jitter.uniform(0, min(longest, base * 2.0 ** min(attempt - 1, 30))))
