"""What did it cost?

`settle` is synchronous and takes microseconds: it reads the exchange and hands one row to the ledger, which writes in
the background. It runs whatever happened, so that a client that left, an upstream that broke and a bug of ours are all
accounted for.

Tokens that the provider reported are taken as they are. Where it did not (a stream that was cut), they are estimated from
what was relayed, and the row says so.
"""

from __future__ import annotations

import asyncio

import msgspec

from adapters.errors import GatewayError, UpstreamError
from adapters.types import Usage
from gateway.estimates import tokens_asked, tokens_said
from gateway.exchange import Exchange
from gateway.logs import scrub
from gateway.pricing import cost
from gateway.runtime import Runtime
from gateway.state.records import AttemptRow, LedgerRow, Status

_MOST_TOKENS = 10**9


def open_books(rt: Runtime, x: Exchange) -> None:
    """The request is under way."""
    rt.metrics.in_flight += 1
    task = asyncio.current_task()
    if task is not None:
        rt.open[x] = task


def settle(rt: Runtime, x: Exchange) -> None:
    """Write the row, and let go of the deployment."""
    rt.open.pop(x, None)
    rt.body_bytes -= x.body_size
    rt.metrics.in_flight -= 1
    x.at.ended = rt.now()
    _let_go(rt, x)
    if x.caller is None:
        _refused(rt, x)
        return
    x.usage = _usage(x)
    if x.tap is not None:
        x.finish = x.tap.finish
        x.answer_id = x.tap.answer_id
    price = x.deployment.price if x.deployment is not None else None
    if x.usage is not None and price is not None:
        x.cost = cost(price, x.usage)
    elif x.usage is None:
        x.cost = 0
    rt.ledger.offer(_row(x))


def _refused(rt: Runtime, x: Exchange) -> None:
    """Nobody knows who asked: a counter and a log line, no row."""
    reason = x.error.reason if x.error else "client_disconnected"
    rt.metrics.refused(reason)
    credential = x.http.headers.get("authorization") or x.http.headers.get("x-api-key")
    rt.refusals.refused(reason=reason, credential=credential, path=x.endpoint.path, client_ip=x.http.remote)


def _let_go(rt: Runtime, x: Exchange) -> None:
    """Tell the health book how the deployment that answered did; those that failed before have been told already."""
    attempt = x.attempts[-1] if x.attempts else None
    if attempt is None or not attempt.answered:
        return
    deployment = attempt.deployment
    if isinstance(x.error, UpstreamError):
        attempt.error = x.error
        peers = [other.id for other in x.plan[x.fallbacks].deployments]
        rt.health.failed(deployment.id, x.error, x.at.ended, peers=peers)
    elif x.cancelled or x.error is not None:
        rt.health.released(deployment.id)
    else:
        rt.health.succeeded(deployment.id, attempt.seconds)


def _usage(x: Exchange) -> Usage | None:
    """What the provider reported, else an estimate, None if nothing was used."""
    tap = x.tap
    reported = x.usage if tap is None else tap.usage
    if reported is not None and reported.total > _MOST_TOKENS:
        reported = None  # no model could have; the number would not even fit into the books
    if tap is None:
        return reported or _unreported(x)
    if not tap.events:
        return _unreported(x)
    if reported is not None and tap.done:
        return reported
    said = tokens_said(tap.deltas, tap.chars)
    if reported is None:
        return Usage(input=tokens_asked(x.envelope), output=said, estimated=True)
    missing = said - reported.completion
    if missing <= 0:
        return reported
    return msgspec.structs.replace(reported, output=reported.output + missing, estimated=True)


def _unreported(x: Exchange) -> Usage | None:
    """Nothing was counted: a whole answer of a provider that does not, or a client that left while one was at work.

    A provider charges for what it has read.
    """
    asked = x.attempts[-1] if x.attempts else None
    if (
        x.error is not None
        or asked is None
        or asked.error is not None
        or x.endpoint.operation == "count_tokens"
    ):
        return None
    if x.cancelled:
        return None if asked.deployment.mock else Usage(input=tokens_asked(x.envelope), estimated=True)
    said = 0 if x.endpoint.operation == "embeddings" else max(1, x.client.written // 4)
    return Usage(input=tokens_asked(x.envelope), output=said, estimated=True)


def _row(x: Exchange) -> LedgerRow:
    deployment = x.deployment
    usage = x.usage
    caller = x.caller
    return LedgerRow(
        id=x.id,
        call_id=x.call_id,
        answer_id=x.answer_id,
        started_at=x.wall,
        ended_at=x.wall + x.at.ended - x.at.began,
        first_token_at=x.wall + x.at.first_event - x.at.began if x.at.first_event else None,
        endpoint=x.endpoint.path,
        operation=x.endpoint.operation,
        client_format=x.endpoint.client_format,
        provider=deployment.provider if deployment else "",
        provider_format=deployment.target.provider.format if deployment else "",
        model_requested=x.model,
        model_group=deployment.route if deployment else "",
        model=deployment.target.model if deployment else "",
        deployment_id=deployment.id if deployment else "",
        api_base=deployment.origin if deployment else "",
        caller_kind=caller.kind if caller else "anonymous",
        key_digest=caller.digest if caller else None,
        key_alias=caller.alias if caller else None,
        end_user=x.end_user,
        tags=x.controls.tags,
        session_id=x.controls.session_id,
        client_ip=x.http.remote,
        user_agent=x.http.headers.get("user-agent", "")[:200] or None,
        stream=x.wants_stream,
        status=_status(x),
        http_status=x.client.status or 499,
        reason=x.error.reason if x.error else ("client_disconnected" if x.cancelled else ""),
        error_message=scrub(x.error.message)[:500] if x.error else "",
        input=usage.input if usage else 0,
        cache_read=usage.cache_read if usage else 0,
        cache_write=usage.cache_write if usage else 0,
        cache_write_1h=usage.cache_write_1h if usage else 0,
        audio_input=usage.audio_input if usage else 0,
        output=usage.output if usage else 0,
        reasoning=usage.reasoning if usage else 0,
        audio_output=usage.audio_output if usage else 0,
        usage_source="none" if usage is None else ("estimated" if usage.estimated else "reported"),
        cost_nano=x.cost,
        price_source=deployment.price_source if deployment else "",
        attempts=tuple(
            AttemptRow(
                deployment_id=attempt.deployment.id,
                model=attempt.deployment.target.model,
                provider=attempt.deployment.provider,
                status=attempt.status,
                reason=attempt.error.reason if isinstance(attempt.error, GatewayError) else "",
                ms=round(attempt.seconds * 1000),
                possible_duplicate=attempt.possible_duplicate
                or getattr(attempt.error, "possible_duplicate", False),
            )
            for attempt in x.attempts
        ),
        retries=max(0, len(x.attempts) - 1 - x.fallbacks),
        fallbacks=x.fallbacks,
        finish=x.finish or "",
        cache_hit=False,
        mock=deployment is not None and deployment.mock is not None,
        ttfb_us=_between(x.at.began, x.at.first_event),
        total_us=_between(x.at.began, x.at.ended),
        overhead_us=_overhead(x),
    )


def _status(x: Exchange) -> Status:
    if x.cancelled:
        return "client_disconnected"
    return "failure" if x.error is not None else "success"


def _overhead(x: Exchange) -> int | None:
    """Microseconds until the provider was asked, if the first one answered: what is lost on others is not ours."""
    answered_at_once = len(x.attempts) == 1 and x.attempts[0].answered
    return _between(x.at.began, x.at.sent) if answered_at_once else None


def _between(start: float, end: float) -> int | None:
    return round((end - start) * 1e6) if end else None
