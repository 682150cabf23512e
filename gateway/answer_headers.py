"""The headers of an answer: what LiteLLM's clients read, and where the time went."""

from __future__ import annotations

from gateway import __version__
from gateway.client import header_lines
from gateway.exchange import Answer, Attempt, Exchange, Response
from gateway.logs import scrub
from gateway.pricing import cost, dollars_text
from gateway.routes import Deployment
from gateway.routing.geography import region_of
from gateway.runtime import Runtime

_RATE_HEADERS = ("x-ratelimit-", "anthropic-ratelimit-")
_SHOWN: dict[tuple[str, ...], tuple[str, ...]] = {}
"""Which of a provider's headers clients see, by the names of all: a provider sends the same ones again and again."""
_MOST_SHOWN = 500
_LONGEST_SHOWN = 2_000
_THOUSANDTHS = [f".{thousandth:03d}" for thousandth in range(1000)]
"""What stands behind a number of milliseconds: to look it up takes 0.03 us, to write it 0.2, and each answer has four."""
_REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id", "cf-ray")


def headers_of(rt: Runtime, x: Exchange, answer: Answer | None) -> str:
    """All of them as lines, as far as they are known before the first byte."""
    lines = x.lines if x.lines and len(x.attempts) == 1 else first_lines(x)
    if x.dropped:
        lines += header_lines((("x-penstock-dropped-params", clean(", ".join(x.dropped))),))
    if x.attempts:
        lines += _timing(x, answer)
    if answer is not None and answer.tap is None:
        lines += _of_whole_answer(rt, x)
    if x.caller is not None and x.caller.key is not None:
        lines += rt.limiter.lines(x)
    if answer is None or answer.response is None:
        return lines
    return lines + _from_provider(answer.response)


def first_lines(x: Exchange) -> str:
    """Those that are known as soon as a deployment is asked: whoever waits for it can have them ready."""
    deployment = x.deployment
    call_id = x.id if x.call_id is x.id else clean(x.call_id)
    tried = len(x.attempts) - 1 - x.fallbacks
    return (
        f"x-request-id: {x.id}\r\nrequest-id: {x.id}\r\nx-litellm-call-id: {call_id}\r\n"
        f"{_VERSION if tried <= 0 and not x.fallbacks else _version_and_attempts(tried, x.fallbacks)}"
        f"{'' if deployment is None else deployment.notes.get('headers') or _of_deployment(deployment)}"
    )


def _version_and_attempts(retries: int, fallbacks: int) -> str:
    return (
        f"x-litellm-version: {__version__}\r\n"
        f"x-litellm-attempted-retries: {max(0, retries)}\r\nx-litellm-attempted-fallbacks: {fallbacks}\r\n"
    )


_VERSION = _version_and_attempts(0, 0)


def _of_deployment(deployment: Deployment) -> str:
    region = region_of(deployment)
    lines = header_lines(
        (
            ("x-litellm-model-id", clean(deployment.id)),
            ("x-litellm-model-group", clean(deployment.route)),
            ("x-litellm-model-name", clean(deployment.model_name)),
            ("x-litellm-model-api-base", clean(deployment.origin)),
            *((("x-litellm-model-region", clean(region)),) if region else ()),
        )
    )
    deployment.notes["headers"] = lines
    return lines


def _timing(x: Exchange, answer: Answer | None) -> str:
    """Where the time went until now, in the syntax of `Server-Timing` (https://www.w3.org/TR/server-timing/): milliseconds
    one after the other.

    `queue`: until the first deployment was asked; `retries`: attempts in vain and the pauses after them; `connect`: opening a
    connection; `first`: from there to the first event, or to the end of a whole answer.
    """
    attempts = x.attempts
    first = last = attempts[0]
    if len(attempts) > 1:  # with hedging whoever answers is the last, and may have been the first
        first = min(attempts, key=_began)
    queue = first.started - x.at.began
    connect = answer.response.connect_seconds if answer is not None and answer.response is not None else 0.0
    if len(attempts) == 1 and last.answered and not connect:  # nearly all: 0.4 us
        return f"x-penstock-timing: queue;dur={_ms(queue)}, first;dur={_ms(last.seconds)}\r\n"
    last = attempts[-1]
    lost = last.started - first.started + (0.0 if last.answered else last.seconds)
    steps = [("queue", queue), ("retries", lost), ("connect", connect)]
    if last.answered:
        steps.append(("first", last.seconds - connect))
    told = ", ".join(f"{name};dur={_ms(seconds)}" for name, seconds in steps if seconds)
    return f"x-penstock-timing: {told}\r\n"


def _ms(seconds: float) -> str:
    """Milliseconds with three digits behind the point, none below nothing. Whole numbers, because what writes a float is large and seldom warm: 8 us."""
    micros = round(seconds * 1e6) if seconds > 0.0 else 0
    return f"{micros // 1000}{_THOUSANDTHS[micros % 1000]}"


def _began(attempt: Attempt) -> float:
    return attempt.started


def _of_whole_answer(rt: Runtime, x: Exchange) -> str:
    seconds = rt.now() - x.at.began
    attempts = x.attempts
    upstream = 0.0
    if attempts:
        first = attempts[0] if len(attempts) == 1 else min(attempts, key=_began)
        upstream = attempts[-1].started + attempts[-1].seconds - first.started
    price = x.deployment.price if x.deployment is not None else None
    if x.usage is not None:
        x.cost = cost(price, x.usage, x.envelope)
    paid = "" if x.cost is None else f"x-litellm-response-cost: {dollars_text(x.cost)}\r\n"
    return (
        f"x-litellm-response-duration-ms: {_ms(seconds)}\r\n"
        f"x-litellm-overhead-duration-ms: {_ms(seconds - upstream)}\r\n{paid}"
    )


def _from_provider(response: Response) -> str:
    headers = response.headers
    names = tuple(headers)
    shown = _SHOWN.get(names)
    if shown is None:
        shown = tuple(name for name in names if name in _REQUEST_IDS or name.startswith(_RATE_HEADERS))
        if len(_SHOWN) < _MOST_SHOWN and sum(map(len, names)) < _LONGEST_SHOWN:
            _SHOWN[names] = shown
    if not shown:
        return ""
    found = []
    for name in shown:
        value = scrub(clean(headers[name]))
        if name not in _REQUEST_IDS:
            found.append((name, value))
        found.append((f"llm_provider-{name}", value))
    return header_lines(found)


def clean(value: str) -> str:
    """Printable, and of bounded length: somebody else's words in a header."""
    if not value.isprintable():
        value = "".join(char for char in value if char.isprintable())
    return value[:500]
