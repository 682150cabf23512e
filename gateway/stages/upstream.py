"""Who begins to answer?

Walks the plan until one deployment *begins* to answer: the whole answer of a plain request, the first provider event of
a stream. Until then another deployment may be asked, afterwards never. What a client sees meanwhile is nothing, or, after
15 seconds of silence, the head of the stream and keep-alive comments.

Order: the deployments of the route (by `order`, then shuffled by weight; cooled-down ones left out), at most
`num_retries` more attempts than one; then the route's fallbacks in turn. An error that another deployment would repeat,
like a malformed question, ends the walk at once; a question too long for a model, or refused by its filter, goes on to
the fallbacks.
"""

from __future__ import annotations

import asyncio
import logging
import random

import msgspec
from msgspec import Raw

from adapters import CLIENTS, FORMATS, SAME
from adapters.errors import (
    BadRequest,
    ContentPolicyViolation,
    ContextWindowExceeded,
    GatewayError,
    NoDeployment,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
    UpstreamForbidden,
    UpstreamMalformed,
    UpstreamNotFound,
    UpstreamOutOfMoney,
    UpstreamTimeout,
)
from adapters.framing import SseCutter
from adapters.taps import Passthrough, Tap, Translation
from adapters.types import ChatRequest, HttpRequest, Target
from gateway.credentials import sign
from gateway.estimates import tokens_asked
from gateway.exchange import Answer, Attempt, Exchange, Response
from gateway.routes import Deployment, Route
from gateway.runtime import Runtime
from gateway.upstreams.mock import mock_answer

log = logging.getLogger("penstock")

_POINTLESS_TO_REPEAT = (UpstreamAuth, UpstreamForbidden, UpstreamNotFound, UpstreamOutOfMoney, Unsupported)
_ANOTHER_MODEL_MAY = (ContextWindowExceeded, ContentPolicyViolation)
_shuffle = random.Random()  # noqa: S311 - shares of traffic, no secrets


async def ask(rt: Runtime, x: Exchange) -> Answer:
    """The answer that has begun. Raises the first error if nobody answers, with all attempts in its message."""
    first: GatewayError | None = None
    for position, route in enumerate(x.plan):
        x.fallbacks = position
        try:
            return await _ask_route(rt, x, route)
        except GatewayError as error:
            if first is None:
                first = error
            if not _goes_on(error):
                break
    if first is None:
        raise NoDeployment(f"No deployments available for {x.model!r}")
    raise _told(first, x)


def _goes_on(error: GatewayError) -> bool:
    return error.elsewhere or isinstance(error, (*_ANOTHER_MODEL_MAY, NoDeployment))


async def _ask_route(rt: Runtime, x: Exchange, route: Route) -> Answer:
    retries = _retries(rt, x, route)
    asked: list[Deployment] = []
    last: UpstreamError | Unsupported | None = None
    for attempt in range(retries + 1):
        deployment = _choose(rt, route, asked, last)
        if deployment is None:
            break
        if deployment in asked and isinstance(last, UpstreamError):
            wait = _wait_before(attempt, last, rt.limits.retry_pause)
            if wait > rt.limits.longest_retry_wait:
                break
            await asyncio.sleep(wait)
        asked.append(deployment)
        try:
            return await _ask_one(rt, x, deployment, route)
        except Unsupported as error:
            last = error  # another deployment may speak another format
        except UpstreamError as error:
            last = error
            if not error.elsewhere:
                break
    if last is not None:
        raise last
    raise _all_cooling(rt, route)


def _retries(rt: Runtime, x: Exchange, route: Route) -> int:
    if x.controls.num_retries is not None:
        return x.controls.num_retries
    own = [deployment.max_retries for deployment in route.deployments if deployment.max_retries is not None]
    return own[0] if own else rt.config.router.num_retries


def _choose(
    rt: Runtime, route: Route, asked: list[Deployment], last: GatewayError | None
) -> Deployment | None:
    """An available deployment that was not asked yet, else the one asked longest ago, if that makes sense."""
    now = rt.now()
    available = [d for d in route.deployments if rt.health.is_available(d.id, now)]
    fresh = [d for d in available if d not in asked]
    if fresh:
        lowest = min(d.order for d in fresh)
        return _by_weight([d for d in fresh if d.order == lowest])
    if last is None or isinstance(last, _POINTLESS_TO_REPEAT):
        return None
    repeatable = [d for d in asked if d in available]
    return min(repeatable, key=asked.count) if repeatable else None


def _by_weight(deployments: list[Deployment]) -> Deployment:
    if len(deployments) == 1:
        return deployments[0]
    weights = [d.weight for d in deployments]
    return _shuffle.choices(deployments, weights if any(weights) else None)[0]


def _wait_before(attempt: int, last: UpstreamError, pause: float) -> float:
    """Seconds before the same deployment is asked again: what it wished, else full jitter below 1, 2, 4 … 16 pauses."""
    if last.retry_after is not None:
        return max(0.0, last.retry_after)
    return _shuffle.uniform(0, pause * min(16.0, 2.0 ** (attempt - 1)))


def _all_cooling(rt: Runtime, route: Route) -> NoDeployment:
    now = rt.now()
    waits = [rt.health.look(d.id).cooled_until - now for d in route.deployments]
    seconds = max(1, round(min(waits, default=1.0) + 0.5))
    return NoDeployment(
        f"No deployments available for selected model, Try again in {seconds} seconds. "
        f"All deployments of {route.name!r} are in cooldown.",
        headers={"retry-after": str(seconds)},
    )


async def _ask_one(rt: Runtime, x: Exchange, deployment: Deployment, route: Route) -> Answer:
    if (
        x.endpoint.operation == "count_tokens"
        and deployment.target.provider.format != x.endpoint.client_format
    ):
        return _estimate(x, deployment)
    question = _Question(x, deployment)
    attempt = Attempt(deployment, rt.now())
    x.attempts.append(attempt)
    x.deployment = deployment
    rt.health.began(deployment.id)
    try:
        answer = await _begin(rt, x, deployment, question, attempt)
    except UpstreamError as error:
        attempt.error = error
        if isinstance(error, UpstreamAuth):
            _say_refused_key(deployment)
        if isinstance(error, UpstreamTimeout) and x.controls.is_hasty:
            rt.health.released(deployment.id)  # the caller's impatience says nothing about the provider
        else:
            rt.health.failed(deployment.id, error, rt.now(), peers=[d.id for d in route.deployments])
        raise
    except BaseException as error:
        attempt.error = error if isinstance(error, GatewayError) else None
        rt.health.released(deployment.id)
        raise
    finally:
        attempt.seconds = rt.now() - attempt.started
        if log.isEnabledFor(logging.DEBUG):
            _say(x, attempt)
    attempt.answered = True
    return answer


def _say(x: Exchange, attempt: Attempt) -> None:
    log.debug(
        "request %s asked %s (%s) at %s: status %s, %s after %.1f ms",
        x.id,
        attempt.deployment.model_name,
        attempt.deployment.id[:16],
        attempt.deployment.origin,
        attempt.status or "-",
        attempt.error.reason if attempt.error else "it answers",
        attempt.seconds * 1000,
    )


def _say_refused_key(deployment: Deployment) -> None:
    log.warning(
        "the provider refused the key of %s, a deployment of %s (%s)",
        deployment.model_name,
        deployment.route,
        deployment.place or deployment.id,
    )


def _estimate(x: Exchange, deployment: Deployment) -> Answer:
    """`count_tokens` where the provider cannot count."""
    x.deployment = deployment
    return Answer(None, body=msgspec.json.encode({"input_tokens": tokens_asked(x.envelope)}))


async def _begin(
    rt: Runtime, x: Exchange, deployment: Deployment, question: _Question, attempt: Attempt
) -> Answer:
    deadline = _first_event_seconds(rt, x, deployment)
    try:
        async with asyncio.timeout(deadline):
            response = await _send(rt, x, deployment, question, attempt, deadline)
            try:
                return await _read(rt, x, question, response, deadline)
            except BaseException:
                response.abort()
                raise
    except TimeoutError:
        raise UpstreamTimeout(
            f"{deployment.provider} did not begin to answer within {deadline:g} s", code="first_event_timeout"
        ) from None


def _first_event_seconds(rt: Runtime, x: Exchange, deployment: Deployment) -> float:
    router = rt.config.router
    plain = (x.controls.timeout, deployment.timeout, rt.config.litellm.request_timeout, router.timeout)
    stream = (x.controls.stream_timeout, deployment.stream_timeout, router.stream_timeout)
    for seconds in (*stream, *plain) if x.wants_stream else plain:
        if seconds is not None:
            return seconds
    return rt.limits.first_event


async def _send(
    rt: Runtime, x: Exchange, deployment: Deployment, question: _Question, attempt: Attempt, deadline: float
) -> Response:
    x.at.sent = rt.now()
    if deployment.mock is not None:
        attempt.status = 200
        return mock_answer(
            text=deployment.mock.text,
            model=deployment.target.model,
            stream=x.wants_stream,
            answer_id=f"chatcmpl-{x.id}",
            now=int(x.wall),
            include_usage=True,
            first_delay=deployment.mock.first_delay,
            delay=deployment.mock.delay,
            prompt_tokens=tokens_asked(x.envelope),
        )
    response = await rt.upstreams.send(
        sign(question.http, deployment),
        connect_timeout=rt.limits.connect,
        head_timeout=deadline,
        scope=deployment.scope,
    )
    attempt.status = response.status
    attempt.possible_duplicate = response.possible_duplicate
    return response


async def _read(rt: Runtime, x: Exchange, question: _Question, response: Response, deadline: float) -> Answer:
    limits = rt.limits
    if not 200 <= response.status < 300:
        body = await response.read(limits.error_body, limits.error_body_seconds)
        raise question.provider_side.read_error(response.status, response.headers, body)
    kind = response.headers.get("content-type", "")
    if x.wants_stream and "text/event-stream" not in kind and ("json" in kind or "html" in kind):
        raise await _not_a_stream(rt, question, response)
    if not x.wants_stream:
        body = await response.read(limits.answer_body, deadline)
        x.at.first_event = rt.now()
        return Answer(response, body=question.finished(body, int(x.wall)))
    return await _first_event(rt, x, response, question.tap(int(x.wall)))


async def _not_a_stream(rt: Runtime, question: _Question, response: Response) -> UpstreamError:
    body = await response.read(rt.limits.error_body, rt.limits.error_body_seconds)
    hidden = question.provider_side.read_error(response.status, response.headers, body)
    if b'"error"' in body:
        return hidden
    return UpstreamMalformed("The provider answered a streaming request with something that is not a stream")


async def _first_event(rt: Runtime, x: Exchange, response: Response, tap: Tap) -> Answer:
    x.tap = tap
    answer = Answer(response, tap=tap)
    begun = asyncio.get_running_loop().create_future()
    held = 0

    def receive(data: bytes) -> None:
        nonlocal held
        answer.last_data = rt.now()
        out = tap.feed(data)
        if not begun.done():
            held += len(out)
            if tap.events or tap.failure is not None or held > rt.limits.pending:
                begun.set_result(None)
        if out or tap.failure is not None:
            answer.on_data(out)

    def ended(error: UpstreamError | None) -> None:
        answer.ended = True
        answer.error = error
        out = b"" if error is not None else tap.close()
        if out:
            answer.on_data(out)
        if not begun.done():
            begun.set_result(None)
        answer.on_end()

    response.pump(receive, ended)
    await begun
    if not tap.events:
        raise tap.failure or answer.error or UpstreamMalformed("The provider's stream has no event in it")
    x.at.first_event = rt.now()
    return answer


class _Question:
    """What one deployment is asked, and how its answer is read: in the client's own format, or translated."""

    def __init__(self, x: Exchange, deployment: Deployment) -> None:
        self._x = x
        self._target = _target(x, deployment)
        provider_format = deployment.target.provider.format
        client_format = x.endpoint.client_format
        self.provider_side = FORMATS[provider_format]
        self._client_side = CLIENTS[client_format]
        self._same = SAME.get(client_format) if provider_format == client_format else None
        self._request: ChatRequest | None = None
        if deployment.mock is not None and x.endpoint.operation != "chat":
            raise Unsupported(f"{x.model!r} is a mock: it only chats", param="model")
        envelope = _with_defaults(x, deployment)
        if self._same is not None:
            body = self._same.pass_request(
                envelope, self._target, x.endpoint.operation, stream=x.wants_stream
            )
        elif x.endpoint.operation == "chat":
            self._request = self._client_side.read_request(envelope)
            body = self.provider_side.write_request(self._request, self._target)
        else:
            raise Unsupported(
                f"{deployment.provider} has no {x.endpoint.operation} in its format", param="model"
            )
        headers = x.headers if self._same is not None else _common(x)
        self.http: HttpRequest = self.provider_side.address(
            body, self._target, x.endpoint.operation, headers, stream=x.wants_stream
        )

    def finished(self, body: bytes, now: int) -> bytes:
        """The whole answer in the client's words."""
        x = self._x
        if self._same is not None:
            body, x.usage, x.finish, x.answer_id = self._same.pass_response(
                body, self._target, x.endpoint.operation, model=x.model
            )
            return body
        request = self._request
        if request is None:
            raise BadRequest("there is nothing to translate")
        answer = self.provider_side.read_response(body, request, self._target)
        x.usage, x.answer_id = answer.usage, answer.id
        x.finish = answer.choices[0].finish if answer.choices else None
        return self._client_side.write_response(answer, answer_id=x.id, model=x.model, now=now)

    def tap(self, now: int) -> Tap:
        """What the answer's bytes run through."""
        x = self._x
        if self._same is not None:
            return Passthrough(
                SseCutter(),
                self._same.pass_stream(
                    self._target, x.endpoint.operation, model=x.model, wants_usage=x.wants_usage
                ),
            )
        request = self._request
        if request is None:
            raise BadRequest("there is nothing to translate")
        return Translation(
            SseCutter(),
            self.provider_side.read_stream(request, self._target),
            self._client_side.write_stream(answer_id=x.id, model=x.model, now=now, wants_usage=x.wants_usage),
        )


def _target(x: Exchange, deployment: Deployment) -> Target:
    if x.controls.drop_params and not deployment.target.drop_params:
        return msgspec.structs.replace(deployment.target, drop_params=True)
    return deployment.target


def _common(x: Exchange) -> dict[str, str]:
    """Headers that mean something in every format; `anthropic-version` and its like only in their own."""
    return {name: value for name, value in x.headers.items() if name in {"idempotency-key", "traceparent"}}


def _with_defaults(x: Exchange, deployment: Deployment) -> dict[str, Raw]:
    """The client's envelope with what the deployment adds where the client is silent, without what it drops."""
    if not deployment.defaults and not deployment.drop:
        return x.envelope
    envelope = {key: value for key, value in x.envelope.items() if key not in deployment.drop}
    for key, value in deployment.defaults.items():
        if key == "max_tokens" and "max_completion_tokens" in envelope:
            continue
        envelope.setdefault(key, Raw(msgspec.json.encode(value)))
    return envelope


def _told(error: GatewayError, x: Exchange) -> GatewayError:
    """The error with everything that was tried, if that was more than one thing."""
    exhausted = len(x.attempts) > 1
    if isinstance(error, UpstreamError):
        if error.retry_after is not None:
            error.headers["retry-after"] = str(round(min(max(1, error.retry_after), 86_400)))
        elif exhausted:
            error.headers["x-should-retry"] = "false"  # the gateway has done what SDKs would do again
    if exhausted:
        tried = "; ".join(
            f"{a.deployment.route} ({a.deployment.model_name}): "
            f"{a.status or '-'} {a.error.reason if a.error else 'ok'} after {a.seconds * 1000:.0f} ms"
            for a in x.attempts
        )
        error.message = f"{error.message} (All models failed. Tried: {tried})"
    return error
