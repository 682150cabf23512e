"""Hand it over.

Between the provider's socket and the client's hangs the tap; the provider's `data_received` feeds it and writes to the
client's transport in the same call. No coroutine is woken per chunk. What wakes the request's coroutine: the end, a
failure, or a client that reads more slowly than the provider writes (then the provider is paused, so that nothing piles
up here).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from adapters import CLIENTS
from adapters.errors import GatewayError, UpstreamError, UpstreamTimeout
from gateway import __version__
from gateway.client import JSON_HEADERS
from gateway.exchange import Answer, Exchange
from gateway.logs import scrub
from gateway.pricing import cost, dollars_text
from gateway.runtime import Runtime

_FAREWELL = 0.2
"""Seconds that a provider has to close its message after the last event, so that its connection can be used again."""

_RATE_HEADERS = ("x-ratelimit-", "anthropic-ratelimit-")
_REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id", "cf-ray")


def hold_the_line(rt: Runtime, x: Exchange) -> None:
    """Let no stream be silent: after 15 s without an event its head and a comment go out, and again after each 15 s."""
    if x.wants_stream:
        comment = CLIENTS[x.endpoint.client_format].KEEP_ALIVE
        x.client.comment_when_idle(comment, rt.limits.keep_alive, lambda: headers_of(rt, x, None))


async def relay(rt: Runtime, x: Exchange, answer: Answer) -> None:
    """Write the whole answer. Raises `GatewayError` for what breaks on the way."""
    if answer.tap is None:
        x.started = True
        x.client.answer(200, [*JSON_HEADERS, *headers_of(rt, x, answer)], answer.body)
        await _flush(rt, x)
        return
    if not x.client.opened:
        x.client.open_stream(headers_of(rt, x, answer))
    await _Relay(rt, x, answer).run()
    x.client.end()
    await _flush(rt, x)
    if not answer.ended:
        await _farewell(answer)


async def _flush(rt: Runtime, x: Exchange) -> None:
    if x.client.is_full:
        await x.client.flushed(rt.limits.client_write)


class _Relay:
    """One stream on its way."""

    def __init__(self, rt: Runtime, x: Exchange, answer: Answer) -> None:
        self._rt = rt
        self._client = x.client
        self._answer = answer
        self._wake = asyncio.get_running_loop().create_future()
        x.started = True
        answer.last_data = rt.now()
        pending = b"".join(answer.pending)
        answer.pending.clear()
        answer.on_data = self._write
        answer.on_end = self._stir
        if pending:
            self._write(pending)

    def _write(self, events: bytes) -> None:
        # Runs inside the provider's data_received: no await, no exception, as little as possible.
        if events:
            self._client.write(events)
        tap = self._answer.tap
        if self._client.is_full or tap is None or tap.done or tap.failure is not None:
            self._stir()

    def _stir(self) -> None:
        if not self._wake.done():
            self._wake.set_result(None)

    async def run(self) -> None:
        answer, tap = self._answer, self._answer.tap
        while tap is not None:
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
                await self._wait()

    async def _let_the_client_read(self) -> None:
        response = self._answer.response
        if response is not None:
            response.pause()
        try:
            await self._client.drained(self._rt.limits.client_write)
        except TimeoutError:
            self._client.drop()
            raise asyncio.CancelledError from None  # for the bill it is a client that left
        finally:
            self._answer.last_data = self._rt.now()
            if response is not None:
                response.resume()

    async def _wait(self) -> None:
        patience = self._rt.limits.between_events
        rest = self._answer.last_data + patience - self._rt.now()
        if rest <= 0:
            raise UpstreamTimeout(f"The provider sent nothing for {patience:g} s", code="idle_timeout")
        self._wake = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._wake,), timeout=rest)


async def _farewell(answer: Answer) -> None:
    closed = asyncio.get_running_loop().create_future()
    answer.on_data = lambda _: None
    answer.on_end = lambda: None if closed.done() else closed.set_result(None)
    with suppress(
        asyncio.CancelledError
    ):  # the client has its whole answer and may leave: that is no disconnect
        await asyncio.wait((closed,), timeout=_FAREWELL)


def refuse(rt: Runtime, x: Exchange, error: GatewayError) -> None:
    """Say what is wrong in the client's own format: as an answer, or as the last event of a stream that has begun."""
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
    x.client.answer(error.status, [*JSON_HEADERS, *headers_of(rt, x, None), *error.headers.items()], body)


def _scrub(error: GatewayError) -> None:
    # A provider may repeat what it was sent, keys too.
    error.message = scrub(error.message)
    if isinstance(error, UpstreamError):
        error.code = scrub(error.code)
        error.param = error.param and scrub(error.param)
        if error.body:
            error.body = scrub(error.body.decode("utf-8", "replace")).encode()


def headers_of(rt: Runtime, x: Exchange, answer: Answer | None) -> list[tuple[str, str]]:
    """The headers that LiteLLM's clients read, as far as they are known before the first byte."""
    headers = [
        ("x-request-id", x.id),
        ("request-id", x.id),
        ("x-litellm-call-id", _clean(x.call_id)),
        ("x-litellm-version", __version__),
        ("x-litellm-attempted-retries", str(max(0, len(x.attempts) - 1 - x.fallbacks))),
        ("x-litellm-attempted-fallbacks", str(x.fallbacks)),
    ]
    deployment = x.deployment
    if deployment is not None:
        headers += [
            ("x-litellm-model-id", _clean(deployment.id)),
            ("x-litellm-model-group", _clean(deployment.route)),
            ("x-litellm-model-name", _clean(deployment.model_name)),
            ("x-litellm-model-api-base", _clean(deployment.origin)),
        ]
    if answer is None:
        return headers
    if answer.tap is None:
        now = rt.now()
        upstream = (
            x.attempts[-1].started + x.attempts[-1].seconds - x.attempts[0].started if x.attempts else 0.0
        )
        headers += [
            ("x-litellm-response-duration-ms", f"{(now - x.at.began) * 1000:.3f}"),
            ("x-litellm-overhead-duration-ms", f"{(now - x.at.began - upstream) * 1000:.3f}"),
        ]
        price = deployment.price if deployment is not None else None
        nano = cost(price, x.usage) if price is not None and x.usage is not None else None
        if nano is not None:
            headers.append(("x-litellm-response-cost", dollars_text(nano)))
    if answer.response is not None:
        headers += _from_provider(answer)
    return headers


def _from_provider(answer: Answer) -> list[tuple[str, str]]:
    if answer.response is None:
        return []
    found = []
    for name, value in answer.response.headers.items():
        if name.startswith(_RATE_HEADERS):
            found += [(name, scrub(_clean(value))), (f"llm_provider-{name}", scrub(_clean(value)))]
        elif name in _REQUEST_IDS:
            found.append((f"llm_provider-{name}", scrub(_clean(value))))
    return found


def _clean(value: str) -> str:
    if not value.isprintable():
        value = "".join(char for char in value if char.isprintable())
    return value[:500]
