"""Hand it over.

Between the provider's socket and the client's hangs the tap; the provider's `data_received` feeds it and writes to the
client's transport in the same call. No coroutine is woken per chunk. What wakes the request's coroutine: the end, a
failure, or a client that reads more slowly than the provider writes (then the provider is paused, so that nothing piles
up here).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from time import monotonic

from adapters import CLIENTS
from adapters.continuation import SEAM
from adapters.errors import GatewayError, UpstreamError, UpstreamTimeout
from adapters.taps import Tap
from gateway.answer_headers import clean, headers_of
from gateway.asking import first_event_seconds
from gateway.client import ClientWriter, header_lines
from gateway.continuing import Listening, continued, listen
from gateway.deadlines import Deadline
from gateway.exchange import Answer, Exchange
from gateway.logs import scrub
from gateway.routing.retries import policy_of
from gateway.runtime import Runtime
from gateway.story import Interrupted, Signal

_FAREWELL = 0.2
"""Seconds that a provider has to close its message after the last event, so that its connection can be used again."""


def comment(rt: Runtime, x: Exchange) -> None:
    """Tell a client whose stream is silent that it goes on; one that has not begun is opened first."""
    client = x.client
    if not client.opened:
        client.open_stream(headers_of(rt, x, None))
    if not client.is_full:
        client.write(CLIENTS[x.endpoint.client_format].KEEP_ALIVE)


async def relay(rt: Runtime, x: Exchange, answer: Answer) -> None:
    """Write the whole answer. Raises `GatewayError` for what breaks on the way."""
    client = x.client
    if answer.tap is None:
        x.started = True
        client.answer(200, headers_of(rt, x, answer), answer.body, answer.media_type)
    else:
        if not client.opened:
            client.open_stream(headers_of(rt, x, answer))
        stream = _Relay(rt, x, answer, answer.tap)
        try:
            await stream.run()
        except (GatewayError, asyncio.CancelledError) as broken:
            if x.heard is not None and (error := _upstreams(broken)) is not None:
                await _go_on(rt, x, answer, error)
                return
            if _shall_go_on(rt, x, answer, broken):
                stream.mute()
                answer.goes_on = True
                rt.unheard += 1  # not when it runs: of a crowd that leaves in one turn each counts
                x.unheard = partial(_take_in, rt, answer, stream)
            raise
        client.end()
    if client.is_full:
        await client.flushed(rt.limits.client_write)
    if answer.tap is not None and not answer.ended and not (answer.response and answer.response.is_whole):
        await _farewell(rt, answer)


def _upstreams(broken: BaseException) -> UpstreamError | None:
    """The provider's failure, if it was that."""
    error = broken.error if isinstance(broken, Interrupted) else broken
    return error if isinstance(error, UpstreamError) else None


async def _go_on(rt: Runtime, x: Exchange, answer: Answer, error: UpstreamError) -> None:
    """Write the rest, as somebody else gives it. Raises the error if nobody does."""
    rest = await continued(rt, x, answer, error)
    if rest is None:
        raise error
    x.client.write(SEAM)
    with rest:
        await relay(rt, x, rest)


def _shall_go_on(rt: Runtime, x: Exchange, answer: Answer, left: BaseException) -> bool:
    """Whether a stream that its client has left runs to its end: the provider will bill all of it, so let it count."""
    return (
        x.deployment is not None
        and x.deployment.drains
        and isinstance(left, asyncio.CancelledError)
        and not isinstance(left, Interrupted)
        and answer.response is not None
        and not answer.ended
        and not rt.draining
        and rt.unheard < rt.limits.unheard
    )


async def _take_in(rt: Runtime, answer: Answer, stream: _Relay) -> None:
    """The rest of a stream that nobody listens to, for what is said at its end. Bounded in time and bytes, never raises."""
    try:
        async with asyncio.timeout(rt.limits.unheard_seconds):
            await stream.run()
    except (GatewayError, TimeoutError) as error:  # what is known until here is the bill
        error.__traceback__ = error.__context__ = None  # frames that hold the answer, which holds the error
    finally:
        rt.unheard -= 1
        answer.goes_on = False
        answer.__exit__()


class _Nobody:
    """In the client's place when it has left."""

    is_full = False

    def __init__(self, answer: Answer, limit: int) -> None:
        self._answer = answer
        self._left = limit

    def write(self, events: bytes) -> bool:
        self._left -= len(events)
        if self._left < 0 and self._answer.response is not None:
            self._answer.response.abort()
        return False

    async def drained(self, timeout: float) -> None:
        """It never has to."""

    def drop(self) -> None:
        """It has gone."""


class _Relay:
    """One stream on its way."""

    __slots__ = ("_answer", "_client", "_is_paused", "_last_data", "_rt", "_story", "_tap", "_wake", "_watch")

    def __init__(self, rt: Runtime, x: Exchange, answer: Answer, tap: Tap) -> None:
        self._client: ClientWriter | Listening | _Nobody = listen(rt, x)
        x.started = True
        pending = b"".join(answer.pending)
        if pending:
            self._client.write(pending)  # before all else: somebody waits for it
        answer.pending.clear()
        self._rt = rt
        self._story = x.story
        self._answer = answer
        self._tap = tap
        self._wake = Signal()
        self._is_paused = False
        self._watch: Deadline | asyncio.TimerHandle
        self._last_data = monotonic()
        """When the provider last sent something."""
        answer.on_data = self._write
        answer.on_end = self._stir
        if answer.response is not None and not answer.ended:
            answer.response.pump(self._receive, answer.end)

    def _receive(self, data: bytes) -> None:
        # Runs inside the provider's data_received: no await, no exception, as few calls as possible. Between reads of a stream
        # the kernel's work pushes ours out of the processor's caches: each call less saves 0.5 us then, not 0.05.
        self._last_data = monotonic()
        tap = self._tap
        again = tap.again  # CPython 3.11 calls what is in a slot quickly only from a local name
        events = again(data)
        if events:
            if self._client.write(events):
                self._wake.set()
        else:
            self._write(tap.feed(data))

    def _write(self, events: bytes) -> None:
        if (events and self._client.write(events)) or self._tap.over:
            self._wake.set()

    def mute(self) -> None:
        """Nobody listens any more; what comes is counted and thrown away."""
        self._client = _Nobody(self._answer, self._rt.limits.answer_body)

    def _stir(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        answer, tap = self._answer, self._tap
        self._watch = self._rt.deadlines.start(self._rt.limits.between_events, self._look)
        try:
            while True:
                if tap.failure is not None:
                    raise tap.failure
                if tap.done:
                    return  # whatever happens to the connection now, the answer is whole
                if answer.error is not None:
                    raise answer.error
                if answer.ended:
                    return
                if self._client.is_full:
                    await self._let_the_client_read()
                else:
                    self._wake = Signal()
                    try:
                        await self._wake
                    except Interrupted:
                        # A task hears of the end a turn later, and behind a whole answer there is no error.
                        if not tap.done:
                            raise
        finally:
            self._watch.cancel()
            del self._watch  # it holds our method: a cycle that only the garbage collector would find

    def _look(self) -> None:
        """Has the provider been silent for too long?"""
        patience = self._rt.limits.between_events
        rest = patience if self._is_paused else self._last_data + patience - monotonic()
        if rest > 0:
            self._watch = asyncio.get_running_loop().call_later(rest, self._look)
            return
        self._story.interrupt(
            UpstreamTimeout(f"The provider sent nothing for {patience:g} s", code="idle_timeout")
        )

    async def _let_the_client_read(self) -> None:
        response = self._answer.response
        if response is not None:
            response.pause()
        self._is_paused = True
        try:
            await self._client.drained(self._rt.limits.client_write)
        except TimeoutError:
            self._client.drop()
            raise asyncio.CancelledError from None  # for the bill it is a client that left
        finally:
            self._is_paused = False
            self._last_data = monotonic()
            if response is not None:
                response.resume()


async def _farewell(rt: Runtime, answer: Answer) -> None:
    closed = Signal()
    answer.on_data = lambda _: None
    answer.on_end = closed.set
    deadline = rt.deadlines.start(_FAREWELL, closed.set)
    with suppress(
        asyncio.CancelledError
    ):  # the client has its whole answer and may leave: that is no disconnect
        await closed
    deadline.cancel()


async def refuse(rt: Runtime, x: Exchange, error: GatewayError) -> None:
    """Say what is wrong in the client's own format: as an answer, or as the last event of a stream that has begun.

    Waits for a client that does not read: refusals must not pile up either.
    """
    _scrub(error)
    x.error = error
    if x.client.ended:
        return
    side = CLIENTS[x.endpoint.client_format]
    if x.client.opened:
        x.client.write(side.write_error(error, request_id=x.id, mid_stream=True))
        x.client.break_off(rt.limits.client_write)
        return
    if rt.draining:
        x.client.close_after()
    body = side.write_error(error, request_id=x.id, mid_stream=False)
    x.client.answer(error.status, _of_refusal(rt, x) + header_lines(error.headers.items()), body)
    if x.client.is_full:
        await x.client.flushed(rt.limits.client_write)


def _of_refusal(rt: Runtime, x: Exchange) -> str:
    """The headers of an error: besides those of any answer, what bound the attempts, as far as there was anybody to ask."""
    lines = headers_of(rt, x, None)
    if not x.plan:
        return lines
    if x.deployment is None:
        return lines + header_lines((("x-litellm-model-group", clean(x.plan[0].name)),))
    router = rt.config.router
    said = x.controls.num_retries, x.deployment.max_retries, policy_of(router, x.plan[0]).max_retries
    most = next((count for count in said if count is not None), router.num_retries)
    seconds = first_event_seconds(rt, x, x.deployment)
    return lines + header_lines((("x-litellm-max-retries", str(most)), ("x-litellm-timeout", f"{seconds:g}")))


def _scrub(error: GatewayError) -> None:
    # A provider may repeat what it was sent, keys too.
    error.message = scrub(error.message)
    if isinstance(error, UpstreamError):
        error.code = scrub(error.code)
        error.param = error.param and scrub(error.param)
        if error.body:
            error.body = scrub(error.body.decode("utf-8", "replace")).encode()
