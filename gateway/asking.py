"""Asks one deployment, until it begins to answer.

Mostly that is one request. A question may need several calls, which go out side by side; and a provider may first say
where its answer will be, at an address of its own (`Follow`). Where the caller stops waiting for such an answer, the
provider is told so: closing a connection would not do it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from adapters import FOLLOW
from adapters.base import Follow
from adapters.errors import Bug, GatewayError, UpstreamError, UpstreamMalformed, UpstreamTimeout
from adapters.types import Address, Call, Reply
from gateway.answer_headers import first_lines
from gateway.credentials import Signer, signed, with_extra
from gateway.estimates import believed, tokens_asked
from gateway.exchange import Answer, Attempt, Exchange, Response
from gateway.inbound import Head
from gateway.questions import JSON, Question
from gateway.routes import Deployment
from gateway.runtime import Runtime
from gateway.story import Interrupted
from gateway.upstreams import Prepared
from gateway.upstreams.connection import Connection
from gateway.upstreams.mock import mock_answer

_OF_FORMAT = ("anthropic-version", "anthropic-beta", "openai-beta")
"""Headers of clients that cross to providers of their own format."""
_OF_REQUEST = ("idempotency-key", "traceparent")
"""Those that mean the same to every provider. They differ from request to request, so no head is kept that has them."""
_MOST_WRITTEN = 100
_PLAIN_URL = re.compile(r"https?://(?:[\w.-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?/[!-~]*", re.ASCII)
"""An address that a provider may name: a host, perhaps its port, and a path in which all is escaped."""
_LEAST_PAUSE = 0.2
"""Seconds between two looks for an answer, whatever the provider says."""
_MOST_AT_ONCE = 16
"""Calls that one question makes at a time."""


def dispatch(rt: Runtime, x: Exchange, question: Question, prepared: Prepared) -> Connection | None:
    """Send it at once, if it is one call and a connection is free. `begin` goes on with what this returns."""
    if len(question.calls) > 1:
        return None
    return rt.upstreams.dispatch(prepared, question.calls[0].body, collect=_collected(rt, x))


def _collected(rt: Runtime, x: Exchange) -> int:
    return 0 if x.wants_stream else rt.limits.answer_body


async def begin(
    rt: Runtime,
    x: Exchange,
    question: Question,
    prepared: Prepared | None,
    attempt: Attempt,
    sent: Connection | None,
    signer: Signer | None,
) -> Answer:
    """The answer that has begun: the whole one, or a stream with its first event. `prepared` None: a mock, or `signer` has
    to get ready first; `sent`: what `dispatch` gave.

    Raises `UpstreamError`, and whatever interrupts the request.
    """
    x.at.sent = rt.now()
    seconds = first_event_seconds(rt, x, attempt.deployment)
    deadline = rt.deadlines.start(seconds, partial(_too_late, x, attempt.deployment, seconds))
    response: Response | None = None
    try:
        x.lines = first_lines(x)
        stream = _stream(rt, x, question) if x.wants_stream else None
        if prepared is None and signer is not None:
            await signer.renew()
            prepared = prepare(rt, x, attempt.deployment, question, question.calls[0], signer)
        if prepared is None:
            response = _mocked(x, attempt.deployment)
            attempt.note_sent()
        elif len(question.calls) > 1:
            return _finished(rt, x, question, None, await _ask_all(rt, x, question, attempt))
        else:
            on, sent = sent, None  # `ask` closes it if need be: at its end it may be somebody else's already
            attempt.is_sent = on is not None
            response = await rt.upstreams.ask(
                prepared,
                question.calls[0].body,
                connect_timeout=rt.limits.connect,
                head_timeout=None,
                collect=_collected(rt, x),
                sent=on,
                on_sent=attempt.note_sent if on is None else None,
            )
        attempt.status = response.status
        attempt.possible_duplicate = response.possible_duplicate
        if rt.health.learns_concurrency:
            rt.health.heard(attempt.deployment.id, response.headers, rt.now())
        if not 200 <= response.status < 300:
            raise await _refusal(rt, question, response)
        if attempt.deployment.target.provider.format in FOLLOW:
            return await _begin_elsewhere(rt, x, question, attempt, response)
        if stream is not None:
            return await _first_event(rt, x, question, response, stream)
        body = await response.read(rt.limits.answer_body, None)
        return _finished(rt, x, question, response, (Reply(response.headers, body),))
    except BaseException as error:
        if response is not None:
            response.abort()
        elif sent is not None:
            sent.close()
        if isinstance(error, Interrupted) and isinstance(error.error, UpstreamTimeout):
            raise error.error from None
        raise
    finally:
        deadline.cancel()


def _finished(
    rt: Runtime, x: Exchange, question: Question, response: Response | None, replies: Sequence[Reply]
) -> Answer:
    x.at.first_event = rt.now()
    try:
        body, media_type = question.finished(replies, int(x.wall))
    finally:
        x.usage = believed(x.usage)
    return Answer(response, body=body, media_type=media_type)


async def _begin_elsewhere(
    rt: Runtime, x: Exchange, question: Question, attempt: Attempt, response: Response
) -> Answer:
    """`begin`, from an answer that may only say where the real one is."""
    deployment = attempt.deployment
    response, reply, follow = await _follow(rt, x, question, deployment, response)
    give_up = (
        partial(_give_up, rt, deployment, follow.cancel) if follow is not None and follow.cancel else None
    )
    try:
        if x.wants_stream and reply is None:
            answer = await _first_event(rt, x, question, response, _stream(rt, x, question))
            answer.give_up = give_up
            return answer
        answer = _finished(rt, x, question, response, (reply or await _read(rt, response),))
        if x.wants_stream:
            raise UpstreamMalformed(f"{deployment.provider} did not stream its answer")
    except BaseException:
        response.abort()
        if give_up is not None and reply is None:  # the stream that was promised has not begun
            give_up()
        raise
    return answer


async def _ask_all(rt: Runtime, x: Exchange, question: Question, attempt: Attempt) -> list[Reply]:
    """Several calls at once, all of which must succeed. Raises what the first that fails raises."""
    turnstile = asyncio.Semaphore(_MOST_AT_ONCE)
    deployment = attempt.deployment

    async def ask_one(call: Call) -> Reply:
        async with turnstile:
            response: Response = await rt.upstreams.ask(
                prepare(rt, x, deployment, question, call, rt.signers.of(deployment)),
                call.body,
                connect_timeout=rt.limits.connect,
                head_timeout=None,
                collect=rt.limits.answer_body,
                on_sent=attempt.note_sent,
            )
            try:
                attempt.status = response.status
                if not 200 <= response.status < 300:
                    raise await _refusal(rt, question, response)
                response, reply, _ = await _follow(rt, x, question, deployment, response)
                return reply or await _read(rt, response)
            except BaseException:
                response.abort()
                raise

    loop = asyncio.get_running_loop()
    asked = [loop.create_task(ask_one(call)) for call in question.calls]
    try:
        # A task group swallows an interrupt that comes in the turn in which a call fails.
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for one in asked:
            one.cancel()
            one.add_done_callback(_pass_over)
    return [one.result() for one in asked if one in done]


def _pass_over(task: asyncio.Task[Reply]) -> None:
    """Of several that fail one is told of; asyncio would log the others."""
    if not task.cancelled():
        task.exception()


async def _read(rt: Runtime, response: Response) -> Reply:
    return Reply(response.headers, await response.read(rt.limits.answer_body, None))


async def _follow(
    rt: Runtime, x: Exchange, question: Question, deployment: Deployment, response: Response
) -> tuple[Response, Reply | None, Follow | None]:
    """Where a provider first says where its answer will be, go there: the last response, what was read of it (nothing, if
    it is the stream that was wanted), and how we came there.
    """
    read_follow = FOLLOW.get(deployment.target.provider.format)
    if read_follow is None:
        return response, None, None
    last: Follow | None = None
    stream_type = question.provider_side.STREAM_TYPE
    try:
        while not (x.wants_stream and stream_type in response.headers.get("content-type", "")):
            reply = await _read(rt, response)
            follow = read_follow(reply, stream=x.wants_stream)
            if follow is None:
                return response, reply, last
            seconds = follow.seconds if last is None else max(follow.seconds, _LEAST_PAUSE)
            last = follow
            await asyncio.sleep(seconds)
            response = await _fetch(rt, deployment, "GET", follow.url, follow.domains)
            if not 200 <= response.status < 300:
                raise await _refusal(rt, question, response)
    except BaseException:
        response.abort()
        if last is not None and last.cancel:
            _give_up(rt, deployment, last.cancel)
        raise
    return response, None, last


async def _fetch(
    rt: Runtime, deployment: Deployment, method: str, url: str, domains: Sequence[str] = ()
) -> Response:
    """What is at a URL that the provider named: at its own origin with its key, in its other domains without."""
    headers = (("accept", "application/json, text/event-stream"),)
    if not _PLAIN_URL.fullmatch(url):
        raise UpstreamMalformed(f"{deployment.provider} sends us to an address that cannot be read")
    if url.startswith(deployment.origin + "/"):
        lines = signed(Address(method, url, headers), deployment)
    else:
        host = url.removeprefix("https://").partition("/")[0]
        if not url.startswith("https://") or not any(f".{host}".endswith(f".{name}") for name in domains):
            raise UpstreamMalformed(f"{deployment.provider} sends us to an address that is not its own")
        lines = list(headers)
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


def first_event_seconds(rt: Runtime, x: Exchange, deployment: Deployment) -> float:
    """Seconds within which this deployment must begin to answer the request."""
    config, controls = rt.config, x.controls
    if x.wants_stream:
        for seconds in (controls.stream_timeout, deployment.stream_timeout, config.router.stream_timeout):
            if seconds is not None:
                return seconds
    plain = (controls.timeout, deployment.timeout, config.litellm.request_timeout, config.router.timeout)
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


def prepare(
    rt: Runtime, x: Exchange, deployment: Deployment, question: Question, call: Call, signer: Signer | None
) -> Prepared:
    """The request's head: written once for each deployment, or, if the client has headers that cross, for each of its
    own heads. 25 us to write, 0.5 to find again. A signer may want another one with each of its tokens, or always.
    """
    http = x.http
    if http.crossing is None:
        _note_crossing(http)
    crossing = (http.crossing or {}) if question.is_same else {}
    kept = _written(http, deployment) if crossing else deployment.notes
    version = 0 if signer is None else signer.version
    name = (x.endpoint.operation, x.wants_stream, question.is_same, version)
    is_kept = version is not None and call.content_type == JSON
    prepared: Prepared | None = kept.get(name) if is_kept else None
    if prepared is None:
        address = question.provider_side.address(
            deployment.target, x.endpoint.operation, crossing, stream=x.wants_stream
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
    if http.of_request:
        told = {key.lower() for key in deployment.headers}  # the operator's word counts
        prepared = prepared.with_headers([header for header in http.of_request if header[0] not in told])
    return prepared


def _written(head: Head, deployment: Deployment) -> dict[Any, Any]:
    if len(head.written) > _MOST_WRITTEN:  # a wildcard has any number of models
        head.written.clear()
    written: dict[Any, Any] = head.written.setdefault(deployment, {})
    return written


def _with_content_type(address: Address, content_type: str) -> Address:
    others = tuple(header for header in address.headers if header[0] != "content-type")
    return msgspec.structs.replace(address, headers=(*others, ("content-type", content_type)))


async def _refusal(rt: Runtime, question: Question, response: Response) -> UpstreamError:
    body = await response.read(rt.limits.error_body, rt.limits.error_body_seconds)
    return question.provider_side.read_error(response.status, response.headers, body)


def _stream(rt: Runtime, x: Exchange, question: Question) -> Answer:
    """An answer of which nothing has come yet."""
    return Answer(None, tap=question.tap(int(x.wall)), limit=rt.limits.pending)


async def _first_event(
    rt: Runtime, x: Exchange, question: Question, response: Response, answer: Answer
) -> Answer:
    kind = response.headers.get("content-type", "")
    if question.provider_side.STREAM_TYPE not in kind and ("json" in kind or "html" in kind):
        raise await _not_a_stream(rt, question, response)
    tap = answer.tap
    assert tap is not None, "streams have one"  # noqa: S101 - for the type checker
    x.tap = tap
    answer.response = response
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


def _note_crossing(head: Head) -> None:
    """Which of the client's headers cross to providers."""
    headers = head.headers
    head.crossing = {name: ",".join(headers.getall(name)) for name in _OF_FORMAT if name in headers}
    head.of_request = [(name, ",".join(headers.getall(name))) for name in _OF_REQUEST if name in headers]
