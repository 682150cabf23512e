"""Who begins to answer?

Walks until one deployment *begins* to answer: the whole answer of a plain request, the first provider event of a stream.
Until then another deployment may be asked, afterwards never. What a client sees meanwhile is nothing, or, after 15 seconds
of silence, the head of the stream and keep-alive comments.

The order: a deployment of the route; after an error, as often as `gateway.routing.retries` says, others that were not asked
yet, then the same again; the levels of `order` that are left; then other models, by the list that the error leads to, each
with its own stand-ins before those that still wait, `max_fallbacks` in all. Each attempt beyond the first needs room in the
caller's budgets, where it might be paid beside an earlier one, and in the retry budget of the process.

`ask_one` is the seam: everything that happens to one deployment and one question is there, and whoever wants to ask
differently asks through it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from adapters.errors import (
    GatewayError,
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
from gateway.routing.retries import consequence, may_repeat, policy_of, retries_after, wait_before
from gateway.runtime import Runtime
from gateway.upstreams import Prepared

log = logging.getLogger("penstock")

_LONGEST_HEADER = 1_000


class OutOfTime(GatewayError):
    """The request has taken all the time that it may (`total_timeout`)."""

    status, type, reason = 504, "timeout", "total_timeout"


async def ask(rt: Runtime, x: Exchange) -> Answer:
    """The answer that has begun. Raises the first error if nobody answers, with all attempts in its message."""
    rt.attempts.offered(rt.now())
    if (seconds := rt.config.router.total_timeout) is not None:
        late = OutOfTime(f"The request took longer than {seconds:g} s", code="total_timeout")
        x.deadline = rt.deadlines.start(seconds, lambda: x.story.interrupt(late))
    try:
        return await _ask_route(rt, x, x.plan[0])
    except GatewayError as error:
        first = error
    return await _ask_others(rt, x, first)


async def _ask_others(rt: Runtime, x: Exchange, first: GatewayError) -> Answer:
    """The answer of another model. `first` is why the one that was asked for gave none."""
    route = x.plan[0]
    visited, waiting, errors = [route], list[Route](), [first]
    while True:
        nearer = _stand_ins(rt, x, route, errors[-1])
        waiting = [*nearer, *(other for other in waiting if other not in nearer)]
        waiting = [other for other in waiting if other not in visited]
        if not waiting or len(visited) > rt.config.router.max_fallbacks:
            break
        route = waiting.pop(0)
        if not await _may_go_on(rt, x, route):
            break
        visited.append(route)
        x.fallbacks += 1
        try:
            return await _ask_route(rt, x, route)
        except GatewayError as error:
            errors.append(error)
    if not x.attempts:
        answer = await _last_resort(rt, x, visited)
        if answer is not None:
            return answer
    raise _told(errors, x)


async def _ask_route(rt: Runtime, x: Exchange, route: Route) -> Answer:
    asked: list[Deployment] = []
    last: UpstreamError | Unsupported | None = None
    passed: Sequence[Deployment] = ()  # levels whose attempts are used up
    while True:
        deployment = rt.router.choose(route, x, rt.now(), [*asked, *passed] if passed else asked)
        if last is not None:
            if deployment is None and not passed:
                deployment = await _again(rt, x, route, asked, last)
            if deployment is None or not await _may_go_on(rt, x, route):
                raise last
        elif deployment is None:
            raise rt.router.nobody(route, x, rt.now())
        if x.attempts and not rt.attempts.take(rt.now()):
            raise last or rt.router.nobody(route, x, rt.now())
        asked.append(deployment)
        try:
            return await ask_one(rt, x, deployment, route)
        except (UpstreamError, Unsupported) as error:
            last = error
        if len(asked) > retries_after(last, rt.config.router, route, deployment, x.controls.num_retries):
            if consequence(last).again == "no":
                raise last
            passed = [other for other in route.deployments if other.order <= deployment.order]


async def _again(
    rt: Runtime, x: Exchange, route: Route, asked: list[Deployment], last: GatewayError
) -> Deployment | None:
    """One that was asked already, after the time that it needs; None if that would be of no use or takes too long."""
    settings = rt.config.router
    policy = policy_of(settings, route)
    if not may_repeat(last, policy) or rt.router.again(route, x, rt.now(), asked) is None:
        return None
    pause = rt.limits.retry_pause
    wait = wait_before(len(asked), last, policy, least=settings.retry_after, pause=pause)
    if wait > max(rt.limits.longest_retry_wait, settings.retry_after):
        return None
    await asyncio.sleep(wait)
    return rt.router.again(route, x, rt.now(), asked)  # others may have learnt meanwhile that it is broken


def _stand_ins(rt: Runtime, x: Exchange, route: Route, error: GatewayError) -> Sequence[Route]:
    """The models that an error leads to: of those that the request may use at all, which are the rest of its plan."""
    then = consequence(error).then
    if then == "end" or len(x.plan) == 1:
        return ()
    wider = x.controls.context_window_fallbacks.get(route.name)
    if then == "context_window_fallbacks" and wider:
        found = rt.routes.stand_ins(route.name, (wider,))
    elif x.controls.fallbacks:
        found = rt.routes.stand_ins(route.name, x.controls.fallbacks) if route is x.plan[0] else ()
    else:
        found = rt.routes.stand_ins(route.name, then=then)
    planned = {other.name: other for other in x.plan}  # a reload may have made others since
    return [planned[other.name] for other in found if other.name in planned]


async def _may_go_on(rt: Runtime, x: Exchange, route: Route) -> bool:
    """Is there room for an attempt beyond the first, in the caller's budgets and in the retry budget?"""
    if x.attempts and not rt.attempts.has_room(rt.now()):
        rt.attempts.refused += 1
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
    if isinstance(error, UpstreamUnreachable):
        return False
    if isinstance(error, UpstreamTimeout) and error.code == "connect_timeout":
        return False
    return attempt.possible_duplicate or attempt.status == 0 or attempt.status < 300


async def _last_resort(rt: Runtime, x: Exchange, visited: Sequence[Route]) -> Answer | None:
    """Nobody could be asked. A deployment whose circuit is open is better than none, and asked once."""
    for route in visited:
        deployment = rt.router.choose(route, x, rt.now(), anyway=True)
        if deployment is not None:
            return await ask_one(rt, x, deployment, route)
    return None


# -- one deployment --------------------------------------------------------------------------------------------------


async def ask_one(rt: Runtime, x: Exchange, deployment: Deployment, route: Route) -> Answer:
    """The answer of this deployment of that route, once it has begun: one attempt, of which the health book learns.

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
            attempt.tell_failure(rt.health, error, rt.now())
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


# -- nobody answers --------------------------------------------------------------------------------------------------


def _told(errors: Sequence[GatewayError], x: Exchange) -> GatewayError:
    """The first error, with everything that was tried if that was more than one thing.

    That a request is wrong is said by whoever finds it out, although others failed before for reasons of their own.
    """
    error = errors[0]
    if consequence(error).then != "end":
        error = next((attempt.error for attempt in x.attempts if attempt.error is not None), error)
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
        reasons = ", ".join(f"{a.deployment.route}: {a.error.reason}" for a in x.attempts if a.error)
        error.headers["x-litellm-fallback-errors"] = _plain(reasons)[:_LONGEST_HEADER]
    return error


def _plain(text: str) -> str:
    """As a header may have it: names of models are whatever somebody called them."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)
