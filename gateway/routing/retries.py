"""What an error leads to: the same deployment again, another one, another model, or the end."""

from __future__ import annotations

import random

from adapters.errors import (
    ContentPolicyViolation,
    ContextWindowExceeded,
    GatewayError,
    NoDeployment,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
    UpstreamForbidden,
    UpstreamNotFound,
    UpstreamOutOfMoney,
)

_POINTLESS_TO_REPEAT = (UpstreamAuth, UpstreamForbidden, UpstreamNotFound, UpstreamOutOfMoney, Unsupported)
_ANOTHER_MODEL_MAY = (ContextWindowExceeded, ContentPolicyViolation)
_jitter = random.Random()  # noqa: S311 - spreads retries, no secrets


def goes_on(error: GatewayError) -> bool:
    """Another model may answer what this one did not."""
    return error.elsewhere or isinstance(error, (*_ANOTHER_MODEL_MAY, NoDeployment))


def may_repeat(error: GatewayError) -> bool:
    """The same deployment may answer if it is asked once more."""
    return not isinstance(error, _POINTLESS_TO_REPEAT)


def wait_before(attempt: int, last: UpstreamError, pause: float) -> float:
    """Seconds before the same deployment is asked again: what it wished, else full jitter below 1, 2, 4 … 16 pauses."""
    if last.retry_after is not None:
        return max(0.0, last.retry_after)
    return _jitter.uniform(0, pause * min(16.0, 2.0 ** (attempt - 1)))
