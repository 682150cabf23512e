"""Every error that a caller can see, in one hierarchy.

Errors are raised anywhere and caught once, in `gateway.pipeline.handle`; the *client's* format writes them. Each class
carries the HTTP `status`, the OpenAI-style `type` and `code`, a stable low-cardinality `reason` (the label in metrics,
logs and the ledger; the table in the README lists them) and whether another deployment may be tried (`elsewhere`).

Our own refusals follow LiteLLM's statuses and types, what the upstream caused is mapped by condition: an operator's
bad provider key is never shown as the caller's 401.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class GatewayError(Exception):
    """What every error knows. `headers` go to the client as they are (`retry-after`, say)."""

    status: int = 500
    type: str = "internal_server_error"
    reason: ClassVar[str] = "internal"
    elsewhere: bool = False
    """May another deployment be asked?"""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else str(self.status)
        self.headers: dict[str, str] = dict(headers or {})


# -- what the caller did ---------------------------------------------------------------------------------------------


class BadRequest(GatewayError):
    """The request cannot be understood."""

    status, type, reason = 400, "invalid_request_error", "bad_request"


class MalformedHttp(BadRequest):
    """What came is no HTTP request, or one that could be read in two ways."""

    reason = "malformed_http"


class MalformedJson(BadRequest):
    """The body is not one JSON object."""

    reason = "malformed_json"


class Unsupported(BadRequest):
    """The provider's format has no word for something in the request, and `drop_params` is off."""

    reason = "unsupported"


class Forbidden(GatewayError):
    """The caller is known and may not."""

    status, type, reason = 403, "auth_error", "forbidden"


class Unauthorized(GatewayError):
    """The caller is not known."""

    status, type, reason = 401, "auth_error", "unauthorized"


class RouteNotFound(GatewayError):
    """No such path."""

    status, type, reason = 404, "not_found_error", "route_not_found"


class MethodNotAllowed(GatewayError):
    """The path exists, the method does not."""

    status, type, reason = 405, "invalid_request_error", "method_not_allowed"


class VersionNotSupported(GatewayError):
    """The request's line names a version of HTTP that is not spoken here."""

    status, type, reason = 505, "invalid_request_error", "http_version"


class ModelNotFound(GatewayError):
    """No route has this name."""

    status, type, reason = 404, "invalid_request_error", "model_not_found"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="model", code="model_not_found")


class TooLarge(GatewayError):
    """The body is over the limit; decompressed bytes count."""

    status, type, reason = 413, "invalid_request_error", "request_too_large"


class TooSlow(GatewayError):
    """The body did not arrive in time."""

    status, type, reason = 408, "invalid_request_error", "request_timeout"


class Draining(GatewayError):
    """The gateway is going down."""

    status, type, reason = 503, "server_error", "shutting_down"


class Busy(GatewayError):
    """The gateway has as much to do as it may."""

    status, type, reason = 503, "server_error", "busy"


class NoDeployment(GatewayError):
    """All deployments of the route are cooling down."""

    status, type, reason = 429, "all_deployments_in_cooldown", "no_deployment"


class Bug(GatewayError):
    """Something that must not happen. The client learns the request's id and nothing else."""

    status, type, reason = 500, "internal_server_error", "internal"


# -- what the upstream did -------------------------------------------------------------------------------------------


class UpstreamError(GatewayError):
    """The provider answered with an error.

    `provider_status` is its HTTP status (or the nearest for an error inside a stream), `retry_after` seconds if it
    said so, `body` its answer as bytes for a client that speaks the same format.
    """

    status, type, reason = 502, "server_error", "upstream_error"
    elsewhere = True
    possible_duplicate = False
    """The question was sent twice, because a kept connection turned out to be dead."""

    def __init__(
        self,
        message: str,
        *,
        provider_status: int = 0,
        retry_after: float | None = None,
        body: bytes | None = None,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        type: str | None = None,  # noqa: A002 - the wire's own word
    ) -> None:
        if status is not None:
            self.status = status
        if type is not None:
            self.type = type
        super().__init__(message, param=param, code=code)
        self.provider_status = provider_status
        self.retry_after = retry_after
        self.body = body


class UpstreamRefused(UpstreamError):
    """The provider says that the request is wrong; another deployment of the same model would say the same."""

    status, type, reason = 400, "invalid_request_error", "upstream_bad_request"
    elsewhere = False


class ContextWindowExceeded(UpstreamRefused):
    """The conversation is longer than the model's context."""

    reason = "context_window_exceeded"


class ContentPolicyViolation(UpstreamRefused):
    """The provider's filter refused the prompt."""

    reason = "content_policy_violation"


class UpstreamAuth(UpstreamError):
    """The provider refused the operator's key."""

    status, type, reason = 502, "server_error", "upstream_auth"


class UpstreamForbidden(UpstreamError):
    """The operator's key may not use this model."""

    status, type, reason = 403, "permission_error", "upstream_forbidden"


class UpstreamNotFound(UpstreamError):
    """The provider does not know the model or deployment."""

    status, type, reason = 404, "invalid_request_error", "upstream_not_found"


class UpstreamRateLimited(UpstreamError):
    """The provider's rate limit."""

    status, type, reason = 429, "rate_limit_error", "upstream_rate_limited"


class UpstreamOutOfMoney(UpstreamError):
    """The operator's account has no credit."""

    status, type, reason = 429, "insufficient_quota", "upstream_insufficient_quota"


class UpstreamOverloaded(UpstreamError):
    """The provider has no capacity (503, 529)."""

    status, type, reason = 503, "server_error", "upstream_overloaded"


class UpstreamTimeout(UpstreamError):
    """The provider was too slow; `code` names the stage: `connect_timeout`, `first_event_timeout`, `idle_timeout`."""

    status, type, reason = 504, "timeout", "upstream_timeout"


class UpstreamUnreachable(UpstreamError):
    """No connection: refused, unknown host, TLS failure."""

    status, type, reason = 502, "server_error", "upstream_unreachable"


class UpstreamDisconnected(UpstreamError):
    """The connection broke. `reused` and `received` decide whether it was only a stale keep-alive connection."""

    status, type, reason = 502, "server_error", "upstream_disconnected"

    def __init__(self, message: str, *, reused: bool = False, received: bool = False) -> None:
        super().__init__(message)
        self.reused = reused
        self.received = received


class UpstreamMalformed(UpstreamError):
    """The provider sent what its format does not allow, or ended a stream without its terminator."""

    status, type, reason = 502, "server_error", "upstream_malformed"
