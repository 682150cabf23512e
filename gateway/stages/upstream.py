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
import os
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

import msgspec

from adapters import FOLLOW
from adapters.base import Follow
from adapters.errors import (
    Bug,
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
from adapters.types import Address, Call, Reply
from gateway.credentials import Signer, signed, with_extra
from gateway.estimates import tokens_asked
from gateway.exchange import Answer, Attempt, Exchange, Response
from gateway.inbound import Head
from gateway.questions import JSON, Question, question_for
from gateway.routes import Deployment, Route
from gateway.runtime import Runtime
from gateway.story import Interrupted, as_task
from gateway.upstreams import Prepared
from gateway.upstreams.mock import mock_answer

log = logging.getLogger("penstock")

_POINTLESS_TO_REPEAT = (UpstreamAuth, UpstreamForbidden, UpstreamNotFound, UpstreamOutOfMoney, Unsupported)
_ANOTHER_MODEL_MAY = (ContextWindowExceeded, ContentPolicyViolation)
_CROSSING = ("anthropic-version", "anthropic-beta", "openai-beta", "idempotency-key", "traceparent")
_MOST_WRITTEN = 100
_MOST_AT_ONCE = 16
"""Calls that one question makes at a time."""
_DOTS = 2
"""A host of a provider's own has a name in front of its domain."""
_shuffle = random.Random()  # noqa: S311 - shares of traffic, no secrets
os.register_at_fork(after_in_child=_shuffle.seed)  # workers are forked, and shall not shuffle alike


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
    asked: list[Deployment] = []
    last: UpstreamError | Unsupported | None = None
    while last is None or len(asked) <= _retries(rt, x, route):
        deployment = _choose(rt, route, asked, last)
        if deployment is None:
            break
        if last is not None and deployment in asked and isinstance(last, UpstreamError):
            wait = _wait_before(len(asked), last, rt.limits.retry_pause)
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
    if last is None and len(route.deployments) == 1:  # 1.2 us less for what most routes are
        return route.deployments[0] if rt.health.is_available(route.deployments[0].id, now) else None
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
    question = question_for(x, deployment)
    attempt = Attempt(deployment, rt.now())
    signer = rt.signers.of(deployment) if deployment.signer else None
    prepared: Prepared | None = None
    if deployment.mock is None and (signer is None or signer.is_ready):
        prepared = _prepare(rt, x, deployment, question, question.calls[0], signer)
    x.attempts.append(attempt)
    x.deployment = deployment
    rt.health.began(deployment.id)
    try:
        if prepared is None and signer is not None:
            await signer.renew()
            prepared = _prepare(rt, x, deployment, question, question.calls[0], signer)
        answer = await _begin(rt, x, question, prepared, attempt)
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
    rt: Runtime, x: Exchange, question: Question, prepared: Prepared | None, attempt: Attempt
) -> Answer:
    seconds = _first_event_seconds(rt, x, attempt.deployment)
    deadline = rt.deadlines.start(seconds, partial(_too_late, x, attempt.deployment, seconds))
    response: Response | None = None
    try:
        x.at.sent = rt.now()
        if prepared is None:
            response = _mocked(x, attempt.deployment)
        elif len(question.calls) > 1:
            return _finished(rt, x, question, None, await _ask_all(rt, x, question, attempt))
        else:
            response = await rt.upstreams.ask(
                prepared,
                question.calls[0].body,
                connect_timeout=rt.limits.connect,
                head_timeout=None,
                collect=0 if x.wants_stream else rt.limits.answer_body,
            )
        attempt.status = response.status
        attempt.possible_duplicate = response.possible_duplicate
        if not 200 <= response.status < 300:
            raise await _refusal(rt, question, response)
        if attempt.deployment.target.provider.format in FOLLOW:
            return await _follow(rt, x, question, attempt, response)
        if x.wants_stream:
            return await _first_event(rt, x, question, response)
        body = await response.read(rt.limits.answer_body, None)
        return _finished(rt, x, question, response, (Reply(response.headers, body),))
    except BaseException as error:
        if response is not None:
            response.abort()
        if isinstance(error, Interrupted) and isinstance(error.error, UpstreamTimeout):
            raise error.error from None
        raise
    finally:
        deadline.cancel()


def _finished(
    rt: Runtime, x: Exchange, question: Question, response: Response | None, replies: Sequence[Reply]
) -> Answer:
    x.at.first_event = rt.now()
    body, media_type = question.finished(replies, int(x.wall))
    return Answer(response, body=body, media_type=media_type)


async def _ask_all(rt: Runtime, x: Exchange, question: Question, attempt: Attempt) -> list[Reply]:
    """Several calls at once, all of which must succeed. Raises what the first that fails raises."""
    await as_task()
    turnstile = asyncio.Semaphore(_MOST_AT_ONCE)

    async def ask_one(call: Call) -> Reply:
        async with turnstile:
            deployment = attempt.deployment
            signer = rt.signers.of(deployment)
            response = await rt.upstreams.ask(
                _prepare(rt, x, deployment, question, call, signer),
                call.body,
                connect_timeout=rt.limits.connect,
                head_timeout=None,
                collect=rt.limits.answer_body,
            )
            try:
                attempt.status = response.status
                if not 200 <= response.status < 300:
                    raise await _refusal(rt, question, response)
                return Reply(response.headers, await response.read(rt.limits.answer_body, None))
            except BaseException:
                response.abort()
                raise

    try:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask_one(call)) for call in question.calls]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [one.result() for one in asked]


async def _follow(
    rt: Runtime, x: Exchange, question: Question, attempt: Attempt, response: Response
) -> Answer:
    """The answer of a provider that first says where it will be."""
    read_follow = FOLLOW[attempt.deployment.target.provider.format]
    last: Follow | None = None
    try:
        while True:
            if x.wants_stream and question.provider_side.STREAM_TYPE in response.headers.get(
                "content-type", ""
            ):
                answer = await _first_event(rt, x, question, response)
                if last is not None and last.cancel:
                    answer.give_up = partial(_give_up, rt, attempt.deployment, last.cancel)
                return answer
            reply = Reply(response.headers, await response.read(rt.limits.answer_body, None))
            follow = read_follow(reply, stream=x.wants_stream)
            if follow is None:
                answer = _finished(rt, x, question, response, (reply,))  # raises the error that it may be
                if x.wants_stream:
                    raise UpstreamMalformed(f"{attempt.deployment.provider} did not stream its answer")
                return answer
            last = follow
            await asyncio.sleep(follow.seconds)
            response = await _fetch(rt, attempt.deployment, "GET", follow.url)
            if not 200 <= response.status < 300:
                raise await _refusal(rt, question, response)
    except BaseException:
        response.abort()
        if last is not None and last.cancel:
            _give_up(rt, attempt.deployment, last.cancel)
        raise


async def _fetch(rt: Runtime, deployment: Deployment, method: str, url: str) -> Response:
    """What is at a URL that the provider named: at its own origin with its key, at its other hosts without."""
    address = Address(method, url, (("accept", "application/json, text/event-stream"),))
    if not url.startswith(deployment.origin + "/"):
        host, own = urlsplit(url).hostname or "", urlsplit(deployment.origin).hostname or ""
        if (
            not url.startswith("https://")
            or host.split(".")[1:] != own.split(".")[1:]
            or host.count(".") < _DOTS
        ):
            raise UpstreamMalformed(f"{deployment.provider} sends us to an address that is not its own")
        lines = list(address.headers)
    else:
        lines = signed(address, deployment)
    prepared = rt.upstreams.prepare(method, url, lines, deployment.scope)
    return await rt.upstreams.ask(prepared, b"", connect_timeout=rt.limits.connect, head_timeout=None)


def _give_up(rt: Runtime, deployment: Deployment, url: str) -> None:
    """Nobody waits any more: tell the provider to stop, and wait for nothing."""

    async def cancel() -> None:
        with suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(rt.limits.error_body_seconds):
                (await _fetch(rt, deployment, "POST", url)).abort()

    rt.errand(cancel())


def _too_late(x: Exchange, deployment: Deployment, seconds: float) -> None:
    x.story.interrupt(
        UpstreamTimeout(
            f"{deployment.provider} did not begin to answer within {seconds:g} s", code="first_event_timeout"
        )
    )


def _first_event_seconds(rt: Runtime, x: Exchange, deployment: Deployment) -> float:
    router = rt.config.router
    if x.wants_stream:
        for seconds in (x.controls.stream_timeout, deployment.stream_timeout, router.stream_timeout):
            if seconds is not None:
                return seconds
    plain = (x.controls.timeout, deployment.timeout, rt.config.litellm.request_timeout, router.timeout)
    for seconds in plain:
        if seconds is not None:
            return seconds
    return rt.limits.first_event


def _mocked(x: Exchange, deployment: Deployment) -> Response:
    mock = deployment.mock
    if mock is None:
        raise Bug("There is nobody to ask")
    return mock_answer(
        text=mock.text,
        model=deployment.target.model,
        stream=x.wants_stream,
        answer_id=f"chatcmpl-{x.id}",
        now=int(x.wall),
        include_usage=True,
        first_delay=mock.first_delay,
        delay=mock.delay,
        prompt_tokens=tokens_asked(x.envelope),
    )


def _prepare(
    rt: Runtime, x: Exchange, deployment: Deployment, question: Question, call: Call, signer: Signer | None
) -> Prepared:
    """The request's head: written once for each deployment, or, if the client has headers that cross, for each of its
    own heads. 25 us to write, 0.5 to find again. A signer may want another one with each of its tokens, or always.
    """
    crossing = _crossing(x.http)
    if len(x.http.written) > _MOST_WRITTEN:  # a wildcard has any number of models
        x.http.written.clear()
    kept = x.http.written.setdefault(deployment, {}) if crossing else deployment.notes
    version = 0 if signer is None else signer.version
    name = (x.endpoint.operation, x.wants_stream, question.is_same, version)
    is_kept = version is not None and call.content_type == JSON
    prepared: Prepared | None = kept.get(name) if is_kept else None
    if prepared is None:
        headers = crossing if question.is_same else _common(crossing)
        address = question.provider_side.address(
            deployment.target, x.endpoint.operation, headers, stream=x.wants_stream
        )
        if call.content_type != JSON:
            address = _with_content_type(address, call.content_type)
        if signer is None:
            lines = signed(address, deployment)
        else:
            lines = with_extra(signer.sign(address, call.body), deployment)
        prepared = rt.upstreams.prepare(address.method, address.url, lines, deployment.scope)
        if is_kept:
            kept[name] = prepared
    return prepared


def _with_content_type(address: Address, content_type: str) -> Address:
    others = tuple(header for header in address.headers if header[0] != "content-type")
    return msgspec.structs.replace(address, headers=(*others, ("content-type", content_type)))


async def _refusal(rt: Runtime, question: Question, response: Response) -> UpstreamError:
    body = await response.read(rt.limits.error_body, rt.limits.error_body_seconds)
    return question.provider_side.read_error(response.status, response.headers, body)


async def _first_event(rt: Runtime, x: Exchange, question: Question, response: Response) -> Answer:
    kind = response.headers.get("content-type", "")
    if question.provider_side.STREAM_TYPE not in kind and ("json" in kind or "html" in kind):
        raise await _not_a_stream(rt, question, response)
    x.tap = tap = question.tap(int(x.wall))
    answer = Answer(response, tap=tap, limit=rt.limits.pending)
    response.pump(answer.receive, answer.end)
    await answer.begun
    if not tap.events:
        raise tap.failure or answer.error or UpstreamMalformed("The provider's stream has no event in it")
    x.at.first_event = rt.now()
    return answer


async def _not_a_stream(rt: Runtime, question: Question, response: Response) -> UpstreamError:
    body = await response.read(rt.limits.error_body, rt.limits.error_body_seconds)
    hidden = question.provider_side.read_error(response.status, response.headers, body)
    if b'"error"' in body:
        return hidden
    return UpstreamMalformed("The provider answered a streaming request with something that is not a stream")


def _crossing(head: Head) -> Mapping[str, str]:
    """The client's headers that may cross to the provider."""
    if head.crossing is None:
        headers = head.headers
        head.crossing = {name: ",".join(headers.getall(name)) for name in _CROSSING if name in headers}
    return head.crossing


def _common(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that mean something in every format; `anthropic-version` and its like only in their own."""
    return {name: value for name, value in headers.items() if name in {"idempotency-key", "traceparent"}}


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
