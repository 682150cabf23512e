"""What a provider's refusal means.

Providers agree neither on the shape of an error nor on its status: a context that is too long is a 400, a 413 or a 422,
a bad key is a 400 at xAI and Google and a 403 at Amazon, an empty account is a 400 at Anthropic and a 429 at OpenAI. A
format's `read_error` finds the words (message, code, type) in its own shape; `classify` turns them into one of our
errors. It is one table for all formats, because fallbacks depend on it: what is wrong with the request must not be
tried elsewhere, what is wrong with the provider must.

Codes and types follow OpenAI, the words that most clients look at. A message is the provider's own, but for bad keys:
what it says of the operator's key is not for the caller's eyes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

import msgspec
from msgspec import Raw, Struct

from adapters.errors import (
    ContentPolicyViolation,
    ContextWindowExceeded,
    GatewayError,
    UpstreamAuth,
    UpstreamError,
    UpstreamForbidden,
    UpstreamNotFound,
    UpstreamOutOfMoney,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)

MESSAGE_LIMIT = 4000
REFUSED_CREDENTIALS = "The provider refused the gateway's credentials"

_CONTEXT_WORDS = frozenset(
    {"context_length_exceeded", "context_window_exceeded", "string_above_max_length", "too_many_tokens"}
    | {"too_many_prompt_tokens", "exceed_context_size_error"}
)
_CONTEXT_TEXT = re.compile(
    r"prompt is too long|maximum context length|max(?:imum)? context length|context (?:length|window|size) exceeded"
    r"|exceeds? the (?:model'?s )?(?:maximum |available )?context (?:length|window|size)|input tokens exceeded"
    r"|exceeds the maximum number of tokens|input is too long|token count .{0,20}exceeds the maximum"
    r"|too many tokens: size limit|total length of all messages is too long|prompt too long"
    r"|input length and `max_tokens` exceed context limit|range of input length should be"
    r"|request too large for model",
    re.IGNORECASE,
)
_POLICY_WORDS = frozenset(
    {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "data_inspection_failed"}
    | {"content_filtered", "moderation_blocked", "sensitive_words_detected", "content_policy"}
)
_POLICY_TEXT = re.compile(
    r"content management policy|content filtering polic|flagged by our moderation|input was flagged"
    r"|violat\w+ (?:our |the )?(?:usage|content|safety) polic|rejected (?:as a result of|by) (?:our|the) safety system"
    r"|requires moderation on",
    re.IGNORECASE,
)
_AUTH_WORDS = frozenset(
    {"invalid_api_key", "authentication_error", "api_key_invalid", "unrecognizedclientexception"}
    | {"expiredtokenexception", "invalidsignatureexception", "incomplete_signature", "missing_api_key"}
    | {"missingauthenticationtokenexception"}
)
_AUTH_TEXT = re.compile(
    r"(?:incorrect|invalid|missing) (?:x-)?api[- ]key|api key not valid|api key (?:is )?(?:invalid|expired|not found)"
    r"|no api[- ]key provided|security token included in the request",
    re.IGNORECASE,
)
_MONEY_WORDS = frozenset(
    {
        "insufficient_quota",
        "billing_error",
        "billing_not_active",
        "insufficient_balance",
        "insufficient_credits",
    }
    | {"billing_hard_limit_reached", "credit_limit_exceeded", "payment_required"}
)
_MONEY_TEXT = re.compile(
    r"credit balance is too low|insufficient (?:account )?(?:balance|credits?|funds)|used all available credits"
    r"|requires more credits|account is not active, please check your billing",
    re.IGNORECASE,
)
_MODEL_WORDS = frozenset({"model_not_found", "deploymentnotfound", "model_not_available", "unknown_model"})
_LIMIT_WORDS = frozenset(
    {"rate_limit_exceeded", "rate_limit_error", "rate_limited", "ratelimitreached", "resource_exhausted"}
    | {"throttlingexception", "tokens", "requests", "too_many_requests"}
)
_BUSY_WORDS = frozenset(
    {"overloaded_error", "overloaded", "engine_overloaded_error", "service_unavailable", "unavailable"}
    | {"serviceunavailableexception", "server_overloaded", "over_capacity", "modelnotreadyexception"}
)
_WORD_STATUS = (
    (_AUTH_WORDS, 401),
    (_MONEY_WORDS, 402),
    (_MODEL_WORDS | {"not_found_error", "not_found"}, 404),
    (_LIMIT_WORDS, 429),
    (_BUSY_WORDS, 503),
    (frozenset({"permission_error", "permission_denied", "accessdeniedexception"}), 403),
    (frozenset({"timeout_error", "timeout", "deadline_exceeded"}), 504),
    (frozenset({"invalid_request_error", "invalid_argument", "validationexception", "tool_use_failed"}), 400),
    (_CONTEXT_WORDS | _POLICY_WORDS, 400),
)
_KEYS = re.compile(r"\b(?:(?:sk|pk|rk|gsk|xai|pplx|hf|csk|nvapi)[-_]|AIza|AKIA)[\w*.-]{6,}")


_ERROR_STATUS = re.compile(r"\s*[45][0-9]{2}\s*")
_BODY_LIMIT = 64 * 1024


class _ErrorObject(Struct):
    error: dict[str, Raw]
    type: str = ""


_ERROR_OBJECT = msgspec.json.Decoder(_ErrorObject)


def classify(
    status: int,
    *,
    message: str,
    code: str | None = None,
    type: str | None = None,  # noqa: A002 - the wire's own word
    param: str | None = None,
    headers: Mapping[str, str],
    body: bytes | None = None,
) -> UpstreamError:
    """The error that a provider's answer means.

    `status` is its HTTP status; for an error inside a stream (a status under 400, or 0) the nearest one is found from
    `code` and `type`. `message` may be empty. `headers` have lower-case names; they are only read for the waiting time.
    """
    message = message[:MESSAGE_LIMIT]  # some of the patterns below take the square of its length
    words = {word.strip().lower() for word in (code, type) if word}
    elsewhere = ""
    if 300 <= status < 400:
        elsewhere = f"The provider sends us elsewhere (status {status}), which is not followed: is its api_base right?"
    if not 400 <= status <= 999:
        status = _status_from(code, words)
    if _is_auth(status, words, message):
        return UpstreamAuth(REFUSED_CREDENTIALS, provider_status=status, code="invalid_api_key")
    kind, fixed_code, client_status = _kind(status, words, message)
    own_code = code if code and not code.strip().isdigit() else None
    if issubclass(kind, (ContextWindowExceeded, ContentPolicyViolation, UpstreamOutOfMoney)):
        own_code = fixed_code
    return kind(
        elsewhere or _presentable(message) or f"The provider answered with status {status}",
        provider_status=status,
        retry_after=retry_after_seconds(headers),
        body=body,
        param=param,
        code=own_code or fixed_code,
        status=client_status,
        type=type if kind is UpstreamRateLimited and type in {"tokens", "requests"} else None,
    )


def _status_from(code: str | None, words: set[str]) -> int:
    """The HTTP status nearest to the words of an error that came without one."""
    if code and _ERROR_STATUS.fullmatch(code):
        return int(code)
    for known, status in _WORD_STATUS:
        if words & known:
            return status
    return 500


def _is_auth(status: int, words: set[str], message: str) -> bool:
    if status == 401:
        return True
    return status in {400, 403} and bool(words & _AUTH_WORDS or _AUTH_TEXT.search(message))


def _kind(status: int, words: set[str], message: str) -> tuple[type[UpstreamError], str | None, int | None]:
    """(class, code if the provider gave none, status for the client if it is not the class's own)."""
    if status in {400, 402, 403, 429} and (words & _MONEY_WORDS or _MONEY_TEXT.search(message)):
        return UpstreamOutOfMoney, "insufficient_quota", None
    if status in {400, 413, 422} and (words & _CONTEXT_WORDS or _CONTEXT_TEXT.search(message)):
        return ContextWindowExceeded, "context_length_exceeded", None
    if status in {400, 403, 422} and (words & _POLICY_WORDS or _POLICY_TEXT.search(message)):
        return ContentPolicyViolation, "content_filter", None
    if status == 404 or (status == 400 and words & _MODEL_WORDS):
        is_model = "model" in message.lower() or words & _MODEL_WORDS
        return UpstreamNotFound, "model_not_found" if is_model else None, None
    if status == 429:
        return UpstreamRateLimited, "rate_limit_exceeded", None
    if status in {503, 529} or (status >= 500 and words & _BUSY_WORDS):
        return UpstreamOverloaded, "overloaded", None
    return _PLAIN.get(status) or ((UpstreamError if status >= 500 else UpstreamRefused), None, None)


_PLAIN: dict[int, tuple[type[UpstreamError], str | None, int | None]] = {
    402: (UpstreamOutOfMoney, "insufficient_quota", None),
    403: (UpstreamForbidden, None, None),
    408: (UpstreamTimeout, None, None),
    409: (UpstreamRefused, None, 409),
    413: (UpstreamRefused, "request_too_large", 413),
    422: (UpstreamRefused, None, 422),
    424: (UpstreamError, None, None),  # Amazon: the model failed
    504: (UpstreamTimeout, None, None),
    524: (UpstreamTimeout, None, None),
}


def _presentable(message: str) -> str:
    """The provider's words without pages of HTML and without anything that looks like a key."""
    text = message.strip()
    if text[:200].lower().startswith(("<!doctype", "<html", "<?xml")):
        return ""
    return _KEYS.sub("[key]", text[:MESSAGE_LIMIT])


def said_besides(
    error: GatewayError,
    known: Collection[str],
    *,
    format: str = "openai",  # noqa: A002 - as everywhere
) -> dict[str, Raw]:
    """What an error object in OpenAI's or Anthropic's `format` says beyond the fields in `known` (Groq's `failed_generation`,
    Azure's `innererror`, Anthropic's `details` …), for a client that speaks it; whatever looks like a key is cut from it.
    """
    body = error.body if isinstance(error, UpstreamError) else None
    if body is None or len(body) > _BODY_LIMIT:
        return {}
    try:
        said = _ERROR_OBJECT.decode(_KEYS.sub("[key]", body.decode("utf-8", "replace")))
    except (msgspec.DecodeError, RecursionError):
        return {}
    is_anthropics = said.type == "error"  # of what the object stands in; OpenAI's has no type
    if is_anthropics != (format == "anthropic"):
        return {}
    return {name: value for name, value in said.error.items() if name not in known}


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """How long the provider asks to wait, in seconds; None if it does not say. `headers` have lower-case names.

    Reads `retry-after-ms`, then `retry-after` in seconds or as a date, which is compared with the answer's own `date`:
    adapters have no clock. Azure sends `retry-after-ms: 0` beside `retry-after: 1`, so a zero there says nothing. Only
    for error answers: some providers send the header with every success.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    until, now = _date(value), _date(headers.get("date", ""))
    if until is None or now is None:
        return None
    return max(0.0, (until - now).total_seconds())


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text).replace(tzinfo=None)  # HTTP dates are always GMT
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
