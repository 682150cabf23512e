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

import msgspec

from adapters.errors import (
    GatewayError,
    NoDeployment,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.asking import begin, prepare
from gateway.estimates import tokens_asked
from gateway.exchange import Answer, Attempt, Exchange
from gateway.questions import question_for
from gateway.routes import Deployment, Route
from gateway.routing.retries import goes_on, may_repeat, wait_before
from gateway.runtime import Runtime
from gateway.upstreams import Prepared

log = logging.getLogger("penstock")


async def ask(rt: Runtime, x: Exchange) -> Answer:
    """The answer that has begun. Raises the first error if nobody answers, with all attempts in its message."""
    first: GatewayError | None = None
    for position, route in enumerate(x.plan):
        if position and rt.limiter.binds(x.caller) and not await _has_room(rt, x, route):
            break
        x.fallbacks = position
        try:
            return await _ask_route(rt, x, route)
        except GatewayError as error:
            if first is None:
                first = error
            if not goes_on(error):
                break
    if first is None:
        raise NoDeployment(f"No deployments available for {x.model!r}")
    raise _told(first, x)


async def _ask_route(rt: Runtime, x: Exchange, route: Route) -> Answer:
    asked: list[Deployment] = []
    last: UpstreamError | Unsupported | None = None
    while last is None or len(asked) <= _retries(rt, x, route):
        deployment = rt.router.choose(route, x, rt.now(), asked)
        if deployment is None and last is not None and may_repeat(last):
            deployment = rt.router.again(route, x, rt.now(), asked)
        if deployment is None:
            break
        if x.hold is not None and last is not None and not await _has_room(rt, x, route):
            break
        if last is not None and deployment in asked and isinstance(last, UpstreamError):
            wait = wait_before(len(asked), last, rt.limits.retry_pause)
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


async def _has_room(rt: Runtime, x: Exchange, route: Route) -> bool:
    """Do the caller's budgets have room for another attempt beside one that may be billed? So much was taken for one."""
    again = bool(x.attempts) and _may_be_billed(x.attempts[-1])
    if not again and route is x.plan[0]:
        return True
    return await rt.limiter.top_up(x, route, again=again)


def _may_be_billed(attempt: Attempt) -> bool:
    """The provider may have answered, and nobody has seen it."""
    error = attempt.error
    if isinstance(error, UpstreamUnreachable):
        return False
    if isinstance(error, UpstreamTimeout) and error.code == "connect_timeout":
        return False
    return attempt.possible_duplicate or attempt.status == 0 or attempt.status < 300


def _retries(rt: Runtime, x: Exchange, route: Route) -> int:
    if x.controls.num_retries is not None:
        return x.controls.num_retries
    own = [deployment.max_retries for deployment in route.deployments if deployment.max_retries is not None]
    return own[0] if own else rt.config.router.num_retries


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
    if x.hold is not None:
        rt.limiter.check_price(x, deployment)
    question = question_for(x, deployment)
    attempt = Attempt(deployment, rt.now())
    signer = rt.signers.of(deployment) if deployment.signer else None
    prepared: Prepared | None = None
    if deployment.mock is None and (signer is None or signer.is_ready):
        prepared = prepare(rt, x, deployment, question, question.calls[0], signer)
    x.attempts.append(attempt)
    x.deployment = deployment
    rt.health.began(deployment.id, attempt.started)
    try:
        if prepared is None and signer is not None:
            await signer.renew()
            prepared = prepare(rt, x, deployment, question, question.calls[0], signer)
        answer = await begin(rt, x, question, prepared, attempt)
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
