"""What did it cost?

`settle` is synchronous and takes microseconds: it reads the exchange and hands one row to the ledger, which writes in
the background. It runs whatever happened, so that a client that left, an upstream that broke and a bug of ours are all
accounted for.

Tokens that the provider reported are taken as they are. Where it did not (a stream that was cut), they are estimated from
what was relayed, and the row says so.
"""

from __future__ import annotations

import msgspec

from adapters.errors import Draining, GatewayError, UpstreamError, UpstreamTimeout
from adapters.types import NO_UNITS, Usage
from gateway.estimates import believed, of_cut_stream, unreported
from gateway.exchange import Attempt, Exchange
from gateway.keyring import held_out
from gateway.logs import scrub
from gateway.pricing import cost
from gateway.routes import Deployment
from gateway.runtime import Runtime
from gateway.state.records import (
    NO_TOKENS,
    AttemptRow,
    CostSource,
    Kind,
    LedgerRow,
    RecordsUnavailable,
    Status,
    UsageSource,
)

_MOST_KINDS = 1_000

_kinds: dict[tuple[object, ...], Kind] = {}
"""The kinds of late, by what makes them. Clients choose the model's name, so there is an end to it."""


def open_books(rt: Runtime, x: Exchange) -> None:
    """The request is under way."""
    rt.metrics.in_flight += 1
    rt.open.add(x)
    rt.outbox.under_way += 1


def insist(rt: Runtime) -> None:
    """Refuse what comes when the books are closed, and what cannot be booked, where the operator wants that
    (`on_ledger_failure`). Raises `Draining`, `RecordsUnavailable`.
    """
    if rt.closed:
        raise Draining("The gateway is shutting down")
    if rt.config.general.on_ledger_failure == "refuse" and rt.ledger.is_full:
        raise RecordsUnavailable(
            "The gateway cannot keep its books now; try again later", headers={"retry-after": "5"}
        )


def settle(rt: Runtime, x: Exchange) -> None:
    """Write the row, and let go of the deployment."""
    rt.open.discard(x)
    rt.outbox.under_way -= 1
    rt.body_bytes -= x.body_size
    rt.metrics.in_flight -= 1
    x.at.ended = rt.now()
    if x.deadline is not None:
        x.deadline.cancel()
    _let_go(rt, x)
    _forget_where(x)
    if x.caller is None:
        _refused(rt, x)
        return
    usage = _usage(x)
    if x.tap is not None:
        x.finish = x.tap.finish
        x.answer_id = x.tap.answer_id
    if usage is None:
        x.cost = 0
    elif x.cost is None or usage is not x.usage:  # a whole answer's was worked out for its head
        price = x.deployment.price if x.deployment is not None else None
        x.cost = cost(price, usage, x.envelope)
    x.usage = usage
    if usage is not None and x.deployment is not None:
        rt.health.used(x.deployment.id, x.at.ended, usage)
        if rt.health.spending.is_on:
            rt.health.spending.add(x.deployment, x.wall, x.cost, usage)
    if len(x.attempts) > 1 or x.heard is not None:
        _add_others(rt, x)
    rt.limiter.settle(x)
    rt.ledger.offer(_row(x))


def _add_others(rt: Runtime, x: Exchange) -> None:
    """Add what attempts are billed beside the answer, each at its own price. It may be a single one: a stream that broke, and
    that nobody could be asked to go on with.
    """
    for attempt in x.attempts:
        if attempt.usage is None:
            continue
        deployment, usage = attempt.deployment, attempt.usage
        nano = cost(deployment.price, usage, x.envelope)
        rt.health.used(deployment.id, x.at.ended, usage)
        if rt.health.spending.is_on:
            rt.health.spending.add(deployment, x.wall, nano, usage)
        if nano is not None:
            x.cost = nano + (x.cost or 0)
        together = usage if x.usage is None else x.usage + usage
        x.usage = msgspec.structs.replace(together, billed=None)


def _refused(rt: Runtime, x: Exchange) -> None:
    """Nobody knows who asked: a counter and a log line, no row."""
    reason = x.error.reason if x.error else "client_disconnected"
    rt.metrics.refused(reason)
    credential = held_out(x.http.headers)
    rt.refusals.refused(reason=reason, credential=credential, path=x.endpoint.path, client_ip=x.http.remote)


def _let_go(rt: Runtime, x: Exchange) -> None:
    """Tell the health book how the deployment that answered did; those that failed before have been told already."""
    attempt = x.attempts[-1] if x.attempts else None
    if attempt is None or not attempt.answered:
        return
    deployment = attempt.deployment
    if isinstance(x.error, UpstreamError):
        attempt.error = x.error
        peers = rt.router.peers(attempt.route, x, x.at.ended)
        attempt.tell_failure(rt.health, x.error, x.at.ended, peers)
    elif x.cancelled or x.error is not None:
        rt.health.released(deployment.id)
    else:
        rt.health.succeeded(
            deployment.id,
            x.at.ended,
            attempt.seconds,
            per_token=_per_token(x, attempt),
            streamed=x.tap is not None,
        )
        if rt.router.affinity is not None:
            rt.router.affinity.remember(x, deployment.id, x.at.ended)


def _forget_where(x: Exchange) -> None:
    """Its errors hold the frames that they went through, and those hold the errors, and the request with its body: a cycle, and
    the garbage collector comes after a thousand of them.
    """
    for attempt in x.attempts:
        if attempt.error is not None:
            attempt.error.__traceback__ = attempt.error.__context__ = None
    if x.error is not None:
        x.error.__traceback__ = x.error.__context__ = None


def _per_token(x: Exchange, attempt: Attempt) -> float | None:
    """Seconds per output token, as far as that can be told: of a stream since its first event, else of the whole answer."""
    if x.tap is not None:
        tokens = x.tap.usage.completion - 1 if x.tap.usage is not None else x.tap.deltas - 1
        began = attempt.started + attempt.seconds  # with several, not what the client saw first
        return (x.at.ended - began) / tokens if tokens > 0 else None
    tokens = 0 if x.usage is None else x.usage.completion
    return attempt.seconds / tokens if tokens else None


def _usage(x: Exchange) -> Usage | None:
    """What the provider reported, else an estimate, None if nothing was used."""
    tap = x.tap
    reported = x.usage if tap is None else believed(tap.usage)
    if tap is None:
        is_told = reported is not None and (reported.units is NO_UNITS or not _is_spoken(x, reported))
        return reported if is_told else _unreported(x)
    if not tap.events:
        return _unreported(x)
    if reported is not None and tap.done:
        return reported
    return of_cut_stream(reported, x.envelope, tap.deltas, tap.chars)


def _is_spoken(x: Exchange, usage: Usage) -> bool:
    """Speech of which the characters are known, but is paid by the token of sound."""
    if not usage.units.characters or usage.completion or x.deployment is None:
        return False
    price = x.deployment.price
    return price is not None and price.character is None and price.audio_output is not None


def _unreported(x: Exchange) -> Usage | None:
    """Nothing was counted: a whole answer of a provider that does not, or a client that left while one was at work, or
    whose own `timeout` has ended it.

    A provider charges for what it has read, each time.
    """
    asked = x.attempts[-1] if x.attempts else None
    if asked is None or not asked.is_sent or x.endpoint.operation == "count_tokens":
        return None
    given_up = sum(_is_given_up(attempt) for attempt in x.attempts) if _is_given_up(asked, x) else 0
    if not given_up and (x.error is not None or asked.error is not None):
        return None
    if (x.cancelled or given_up) and asked.deployment.mock:
        return None
    said = 0 if x.cancelled or given_up else max(4, x.client.written)
    price = asked.deployment.price
    usage = unreported(x.endpoint.operation, price, x.envelope, sent=x.body_size, said=said)
    return msgspec.structs.replace(usage, input=usage.input * given_up) if given_up > 1 else usage


def _is_given_up(attempt: Attempt, x: Exchange | None = None) -> bool:
    """The provider was at work when the time was over, and has no bill yet; with `x`, the client's own time."""
    error = attempt.error
    if not attempt.is_sent or attempt.usage is not None:
        return False
    if not isinstance(error, UpstreamTimeout) or error.code == "connect_timeout":
        return False
    return x is None or x.controls.is_hasty


def _row(x: Exchange) -> LedgerRow:
    at, error, controls = x.at, x.error, x.controls
    usage = NO_TOKENS if x.usage is None else x.usage
    answer = _only_answer(x)
    is_first = answer is not None or (len(x.attempts) == 1 and x.attempts[0].answered)
    return LedgerRow(
        x.id,
        _kind(x, usage),
        x.wall,
        round((at.ended - at.began) * 1e6),
        round((at.first_event - at.began) * 1e6) if at.first_event else None,
        round((at.sent - at.began) * 1e6) if at.sent and is_first else None,  # lost on others is not ours
        usage,
        x.cost,
        None if answer is None else round(answer.seconds * 1000),
        x.answer_id,
        x.http.remote,
        x.http.user_agent,
        "" if x.call_id is x.id else x.call_id,
        x.end_user,
        controls.session_id,
        controls.tags,
        scrub(error.message)[:500] if error is not None else "",
        () if answer is not None else tuple(map(_attempt_row, x.attempts)),
    )


def _kind(x: Exchange, usage: Usage) -> Kind:
    error = x.error
    reason = "" if error is None else error.reason
    if x.cancelled and error is None:
        reason = "client_disconnected"
    status: Status = "success" if error is None else "failure"
    if x.cancelled:
        status = "client_disconnected"
    made_of = (
        x.endpoint,
        x.model,
        x.wants_stream,
        x.deployment,
        x.caller,
        x.client.status,
        status,
        reason,
        x.finish,
        usage is NO_TOKENS,
        usage.estimated,
        usage.billed is None,
        usage.tier,
        x.cost is None,
        len(x.attempts),
        x.fallbacks,
    )
    kind = _kinds.get(made_of)
    if kind is None:
        if len(_kinds) >= _MOST_KINDS:
            _kinds.clear()
        kind = _kinds[made_of] = _new_kind(x, x.deployment, status, reason, usage)
    return kind


def _new_kind(x: Exchange, deployment: Deployment | None, status: Status, reason: str, usage: Usage) -> Kind:
    source: UsageSource = "estimated" if usage.estimated else "reported"
    cost_source: CostSource = "price" if x.cost is not None else "none"
    if usage.billed is not None:
        cost_source = "provider"
    if usage is NO_TOKENS:
        source = cost_source = "none"
    caller = x.caller
    return Kind(
        endpoint=x.endpoint.path,
        operation=x.endpoint.operation,
        client_format=x.endpoint.client_format,
        stream=x.wants_stream,
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
        status=status,
        http_status=x.client.status or 499,
        reason=reason,
        finish=x.finish or "",
        usage_source=source,
        price_source=deployment.price_source if deployment else "",
        retries=max(0, len(x.attempts) - 1 - x.fallbacks),
        fallbacks=x.fallbacks,
        mock=deployment is not None and deployment.mock is not None,
        cost_source=cost_source,
        service_tier=usage.tier,
    )


def _only_answer(x: Exchange) -> Attempt | None:
    """The only attempt, if all that its row would say can be said by the request's kind and a number."""
    if len(x.attempts) != 1:
        return None
    (attempt,) = x.attempts
    is_plain = (
        attempt.answered
        and attempt.error is None
        and not attempt.possible_duplicate
        and attempt.deployment is x.deployment
        and attempt.status == x.client.status
    )
    return attempt if is_plain else None


def _attempt_row(attempt: Attempt) -> AttemptRow:
    return AttemptRow(
        deployment_id=attempt.deployment.id,
        model=attempt.deployment.target.model,
        provider=attempt.deployment.provider,
        status=attempt.status,
        reason=attempt.error.reason if isinstance(attempt.error, GatewayError) else "",
        ms=round(attempt.seconds * 1000),
        possible_duplicate=attempt.possible_duplicate or getattr(attempt.error, "possible_duplicate", False),
    )
