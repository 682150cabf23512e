"""What a provider's refusal means, by status, words and text."""

from __future__ import annotations

import pytest
from msgspec import Raw

from adapters.errors import (
    BadRequest,
    ContentPolicyViolation,
    ContextWindowExceeded,
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
from adapters.upstream_errors import REFUSED_CREDENTIALS, classify, retry_after_seconds, said_besides


def error(status: int, message: str = "m", code: str | None = None, kind: str | None = None) -> UpstreamError:
    return classify(status, message=message, code=code, type=kind, headers={}, body=b"{}")


@pytest.mark.parametrize(
    ("status", "expected", "client_status", "code", "elsewhere"),
    [
        (400, UpstreamRefused, 400, "400", False),
        (402, UpstreamOutOfMoney, 429, "insufficient_quota", True),
        (403, UpstreamForbidden, 403, "403", True),
        (404, UpstreamNotFound, 404, "404", True),
        (405, UpstreamRefused, 400, "400", False),
        (408, UpstreamTimeout, 504, "504", True),
        (409, UpstreamRefused, 409, "409", False),
        (413, UpstreamRefused, 413, "request_too_large", False),
        (422, UpstreamRefused, 422, "422", False),
        (424, UpstreamError, 502, "502", True),
        (429, UpstreamRateLimited, 429, "rate_limit_exceeded", True),
        (500, UpstreamError, 502, "502", True),
        (502, UpstreamError, 502, "502", True),
        (503, UpstreamOverloaded, 503, "overloaded", True),
        (504, UpstreamTimeout, 504, "504", True),
        (524, UpstreamTimeout, 504, "504", True),
        (529, UpstreamOverloaded, 503, "overloaded", True),
    ],
)
def test_by_status(status: int, expected: type, client_status: int, code: str, elsewhere: bool) -> None:
    """A status alone gives the class, what the client sees, and whether another deployment may help."""
    one = error(status)
    assert type(one) is expected
    assert (one.status, one.code, one.elsewhere) == (client_status, code, elsewhere)
    assert one.provider_status == status
    assert one.body == b"{}"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "prompt is too long: 210000 tokens > 200000 maximum"),
        (400, "This model's maximum context length is 128000 tokens. However, you requested 130000 tokens."),
        (400, "This endpoint's maximum context length is 200000 tokens."),
        (400, "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."),
        (400, "Input Tokens Exceeded: Number of input tokens exceeds maximum length"),
        (400, "Input is too long for requested model."),
        (400, "too many tokens: size limit exceeded by 25836 tokens."),
        (400, "The total length of all messages is too long."),
        (400, "prompt too long; exceeded max context length by 1119046 tokens"),
        (400, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"),
        (413, "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 15041"),
    ],
)
def test_a_context_that_is_too_long(status: int, message: str) -> None:
    """The many ways to say that the conversation is too long have one code."""
    one = error(status, message, code="invalid_request_error")
    assert type(one) is ContextWindowExceeded
    assert (one.status, one.code, one.message) == (400, "context_length_exceeded", message)


def test_too_many_tokens_for_now_is_a_rate_limit() -> None:
    """Tokens per minute are no context window."""
    assert type(error(429, "Too many tokens, please wait before trying again.")) is UpstreamRateLimited


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("content_filter", None, "m"),
        ("ResponsibleAIPolicyViolation", None, "m"),
        ("data_inspection_failed", None, "m"),
        (None, "content_policy_violation", "m"),
        (
            None,
            None,
            "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        ),
        (None, None, "Your request was rejected as a result of our safety system."),
    ],
)
def test_a_prompt_that_a_filter_refused(code: str | None, kind: str | None, message: str) -> None:
    """A filter's refusal is recognised by code, type and text."""
    one = error(400, message, code, kind)
    assert type(one) is ContentPolicyViolation
    assert (one.status, one.code) == (400, "content_filter")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, None, "Incorrect API key provided: sk-proj-abcdef123456"),
        (400, "API_KEY_INVALID", "API key not valid. Please pass a valid API key."),
        (400, None, "Incorrect API key provided: xa***et"),
        (403, "UnrecognizedClientException", "The security token included in the request is invalid."),
        (403, None, "The security token included in the request is expired"),
    ],
)
def test_a_refused_key_is_not_shown(status: int, code: str | None, message: str) -> None:
    """What a provider says of the operator's key is neither in the message nor in the body, and is no client's 401."""
    one = error(status, message, code)
    assert type(one) is UpstreamAuth
    assert (one.status, one.message, one.body) == (502, REFUSED_CREDENTIALS, None)


def test_keys_in_other_messages_are_hidden() -> None:
    """Whatever looks like a key is cut out of any message."""
    one = error(500, "failed for key sk-proj-abcdef_123456 and AIzaSyA1234567890, task-oriented")
    assert one.message == "failed for key [key] and [key], task-oriented"


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota"),
        (400, None, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        (
            403,
            None,
            None,
            "Your team has either used all available credits or reached its monthly spending limit.",
        ),
        (402, None, None, "Insufficient Balance"),
        (400, None, "billing_error", "m"),
    ],
)
def test_an_empty_account(status: int, code: str | None, kind: str | None, message: str) -> None:
    """An account without credit is told from a rate limit, as waiting does not help."""
    one = error(status, message, code, kind)
    assert type(one) is UpstreamOutOfMoney
    assert (one.status, one.code) == (429, "insufficient_quota")


@pytest.mark.parametrize(
    ("code", "kind", "expected", "status"),
    [
        ("429", None, UpstreamRateLimited, 429),
        (None, "rate_limit_error", UpstreamRateLimited, 429),
        (None, "overloaded_error", UpstreamOverloaded, 503),
        (None, "invalid_request_error", UpstreamRefused, 400),
        (None, "authentication_error", UpstreamAuth, 401),
        (None, "permission_error", UpstreamForbidden, 403),
        ("model_not_found", None, UpstreamNotFound, 404),
        ("context_length_exceeded", None, ContextWindowExceeded, 400),
        (None, "timeout_error", UpstreamTimeout, 504),
        (None, "api_error", UpstreamError, 500),
        (None, None, UpstreamError, 500),
        ("1300", None, UpstreamError, 500),
    ],
)
def test_an_error_inside_of_a_stream(code: str | None, kind: str | None, expected: type, status: int) -> None:
    """Where there is no status, the nearest one is found from code and type."""
    one = error(200, code=code, kind=kind)
    assert type(one) is expected
    assert one.provider_status == status


@pytest.mark.parametrize("code", ["²", "9" * 5000, "4²9", "-429", "4290"])
def test_a_code_that_only_looks_like_a_status(code: str) -> None:
    """Is none; nor is a number that no status has."""
    assert error(0, code=code).provider_status == 500
    assert error(10**30).provider_status == 500
    assert error(0, code=" 429 ").provider_status == 429


def test_the_providers_words_are_kept() -> None:
    """Code and the two types of rate limits that OpenAI tells apart are the provider's."""
    limited = error(429, code="rate_limit_exceeded", kind="tokens")
    assert (limited.type, limited.code) == ("tokens", "rate_limit_exceeded")
    assert error(429, kind="invalid_request_error").type == "rate_limit_error"
    assert error(400, code="unsupported_parameter").code == "unsupported_parameter"
    assert error(400, "The requested model does not exist", code="model_not_found").status == 404
    assert error(404, "The model `x` does not exist").code == "model_not_found"
    assert error(500, kind="overloaded_error").code == "overloaded"


def test_pages_and_silence() -> None:
    """A proxy's page and an empty message become a plain sentence; a long message is cut."""
    assert error(502, "<html><body>nginx</body></html>").message == "The provider answered with status 502"
    assert error(500, "  ").message == "The provider answered with status 500"
    assert len(error(500, "x" * 10_000).message) == 4000


def test_one_that_sends_elsewhere() -> None:
    """A redirection is not followed, and told as what it is; nobody is to blame for it but us."""
    found = error(302, "<html>Found</html>")
    assert (type(found), found.status) == (UpstreamError, 502)
    assert "status 302" in found.message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "0", "retry-after": "1"}, 1.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 19 Aug 2026 14:34:52 GMT", "date": "Wed, 19 Aug 2026 14:34:22 GMT"}, 30.0),
        ({"retry-after": "Wed, 19 Aug 2026 14:34:02 GMT", "date": "Wed, 19 Aug 2026 14:34:22 GMT"}, 0.0),
        ({"retry-after": "Wed, 19 Aug 2026 14:34:52 GMT"}, None),
        (
            {"retry-after": "Wed, 19 Aug 99999999999 14:34:52 GMT", "date": "Wed, 19 Aug 2026 14:34:22 GMT"},
            None,
        ),
        ({"retry-after": "Wed, 99 Aug 2026 14:34:52 GMT", "date": "Wed, 19 Aug 2026 14:34:22 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """The waiting time is read in every form, and what is no time is none."""
    assert retry_after_seconds(headers) == seconds
    assert classify(429, message="m", headers=headers, body=b"").retry_after == seconds


def test_what_a_provider_says_besides() -> None:
    """Other fields of the error object survive, without what looks like a key; what is no error object gives nothing."""
    body = b'{"error":{"message":"m","type":"t","failed_generation":"<x>","hint":"sk-abcdefghijkl"}}'
    error = classify(400, message="m", headers={}, body=body)
    said = {name: bytes(value) for name, value in said_besides(error, {"message", "type"}).items()}
    assert said == {"failed_generation": b'"<x>"', "hint": b'"[key]"'}
    for other in (b"<html>", b'{"error":"text"}', b"[]", b"\xff", b""):
        assert said_besides(classify(400, message="m", headers={}, body=other), set()) == {}
    assert said_besides(BadRequest("x"), set()) == {}


def test_what_anthropic_says_besides() -> None:
    """An error object is read in the format that is asked for, and in no other."""
    body = b'{"type":"error","error":{"type":"t","message":"m","details":{"error_code":"c"}}}'
    error = classify(400, message="m", headers={}, body=body)
    known = {"message", "type"}
    assert said_besides(error, known, format="anthropic") == {"details": Raw(b'{"error_code":"c"}')}
    assert said_besides(error, known) == {}
    plain = classify(400, message="m", headers={}, body=b'{"error":{"hint":1}}')
    assert said_besides(plain, known, format="anthropic") == {}
