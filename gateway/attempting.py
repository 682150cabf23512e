"""One attempt: asking one deployment one question, of which the health book learns, and whether there may be one more.

Whoever wants to ask differently asks through `ask_one`: the walk of a request's plan (`gateway.stages.upstream`), a second
deployment beside one that is slow (`gateway.hedging`), another one that goes on with a stream that broke (`gateway.continuing`).
"""

from __future__ import annotations

import logging

import msgspec

from adapters.errors import (
    GatewayError,
    UpstreamAuth,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.asking import begin, dispatch, prepare
from gateway.estimates import tokens_asked
from gateway.exchange import Answer, Attempt, Exchange
from gateway.questions import question_for
from gateway.routes import Deployment, Route
from gateway.runtime import Runtime
from gateway.state.records import OUTRUN
from gateway.upstreams import Prepared
from gateway.upstreams.connection import Connection

log = logging.getLogger("penstock")


class Outrun(GatewayError):
    """Another deployment has begun to answer first. No client sees this: it stands in the row's attempts."""

    status, type, reason = 499, "server_error", OUTRUN


async def ask_one(
    rt: Runtime, x: Exchange, deployment: Deployment, route: Route, *, is_hedge: bool = False
) -> Answer:
    """The answer of this deployment of that route, once it has begun: one attempt, of which the health book learns.
    `is_hedge`: the same request has been sent to another one.

    Raises `UpstreamError` and `Unsupported`, after which somebody else may be asked, and whatever interrupts the request.
    """
    if (
        x.endpoint.operation == "count_tokens"
        and deployment.target.provider.format != x.endpoint.client_format
    ):
        return _estimate(x, deployment)
    if x.hold is not None:
        rt.limiter.check_price(x, deployment)
    question = question_for(x, deployment)
    attempt = Attempt(deployment, rt.now(), route=route)
    signer = rt.signers.of(deployment) if deployment.signer else None
    prepared: Prepared | None = None
    sent: Connection | None = None
    if deployment.mock is None and (signer is None or signer.is_ready):
        prepared = prepare(rt, x, deployment, question, question.calls[0], signer)
        sent = dispatch(rt, x, question, prepared)
    # If a connection was free the provider thinks already, and what it need not know is done meanwhile.
    if not x.attempts and not is_hedge:
        rt.retry_budget.offered(attempt.started)
    x.attempts.append(attempt)
    x.deployment = deployment
    rt.health.began(deployment.id, attempt.started)
    try:
        answer = await begin(rt, x, question, prepared, attempt, sent, signer)
    except UpstreamError as error:
        attempt.error = error
        if isinstance(error, UpstreamAuth):
            _say_refused_key(deployment)
        if isinstance(error, UpstreamTimeout) and x.controls.is_hasty:
            rt.health.released(deployment.id)  # the caller's impatience says nothing about the provider
        else:
            now = rt.now()
            attempt.tell_failure(rt.health, error, now, rt.router.peers(route, x, now))
        raise
    except BaseException as error:
        attempt.error = error if isinstance(error, GatewayError) else attempt.error
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
    log.warning("the provider refused the key of %s", deployment.described)


def _estimate(x: Exchange, deployment: Deployment) -> Answer:
    """`count_tokens` where the provider cannot count."""
    x.deployment = deployment
    x.lines = ""  # of one that was asked before
    return Answer(None, body=msgspec.json.encode({"input_tokens": tokens_asked(x.envelope)}))


# -- one more -------------------------------------------------------------------------------------------------------


async def may_go_on(rt: Runtime, x: Exchange, route: Route) -> bool:
    """Is there room for an attempt beyond the first, in the caller's budgets and in the retry budget?"""
    if x.attempts and not rt.retry_budget.has_room(rt.now()):
        rt.retry_budget.refused += 1
        return False
    return not rt.limiter.binds(x.caller) or await _has_room(rt, x, route)


async def _has_room(rt: Runtime, x: Exchange, route: Route) -> bool:
    """Do the caller's budgets have room for another attempt beside one that may be billed? So much was taken for one."""
    again = bool(x.attempts) and _may_be_billed(x.attempts[-1])
    if not again and route is x.plan[0]:
        return True
    return await rt.limiter.top_up(x, route, again=again)


def _may_be_billed(attempt: Attempt) -> bool:
    """The provider may have answered, and nobody has seen it."""
    error = attempt.error
    if not attempt.is_sent or isinstance(error, UpstreamUnreachable):
        return False
    if isinstance(error, UpstreamTimeout) and error.code == "connect_timeout":
        return False
    return attempt.possible_duplicate or attempt.status == 0 or attempt.status < 300
