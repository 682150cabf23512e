"""Who begins to answer?

Walks until one deployment *begins* to answer: the whole answer of a plain request, the first provider event of a stream.
Until then another deployment may be asked, afterwards never. What a client sees meanwhile is nothing, or, after 15 seconds
of silence, the head of the stream and keep-alive comments.

The order: a deployment of the route; after an error, as often as `gateway.routing.retries` says, others that were not asked
yet, then the same again; the levels of `order` that are left; then other models, by the list that the error leads to, each
with its own stand-ins before those that still wait, `max_fallbacks` in all. Each attempt beyond the first needs room in the
caller's budgets, where it might be paid beside an earlier one, and in the retry budget of the process.

With `queue`, a request that finds nobody because all are at a limit waits for its turn (`gateway.waiting`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from math import ceil

from adapters.errors import GatewayError, NoDeployment, Unsupported, UpstreamError
from gateway.attempting import ask_one, may_go_on
from gateway.exchange import Answer, Exchange
from gateway.hedging import ask_hedged
from gateway.routes import Deployment, Route
from gateway.routing.retries import consequence, may_repeat, policy_of, retries_after, wait_before
from gateway.runtime import Runtime
from gateway.waiting import is_waited_for, is_worth_waiting, patience, queue_after, wait_for_room

_LONGEST_HEADER = 1_000


class OutOfTime(GatewayError):
    """The request has taken all the time that it may (`total_timeout`)."""

    status, type, reason = 504, "timeout", "total_timeout"


async def ask(rt: Runtime, x: Exchange) -> Answer:
    """The answer that has begun. Raises the first error if nobody answers, with all attempts in its message."""
    if seconds := rt.config.router.total_timeout:  # 0 says that there is none
        late = OutOfTime(f"The request took longer than {seconds:g} s", code="total_timeout")
        x.deadline = rt.deadlines.start(seconds, lambda: x.story.interrupt(late))
    if rt.queue.settings is not None:
        return await _ask_in_turn(rt, x, rt.now() + patience(rt.queue.settings, x))
    try:
        return await _ask_route(rt, x, x.plan[0])
    except GatewayError as error:
        first = error
    return await _ask_others(rt, x, first)


async def _ask_in_turn(rt: Runtime, x: Exchange, until: float) -> Answer:
    """The same, overtaking nobody who waits; if all are at a limit, it waits until then for the model that it asked for."""
    route = x.plan[0]
    is_next = False
    while True:
        try:
            return await _ask_route(rt, x, route, overtakes=is_next)
        except GatewayError as error:
            first = error
        try:
            return await _ask_others(rt, x, first, until)
        except NoDeployment as error:
            if x.attempts:
                raise
            refusal = error
        await wait_for_room(
            rt,
            x,
            route,
            lambda: rt.router.choose(route, x, rt.now()) is not None,
            until=until,
            refusal=refusal,
        )
        is_next = True
        x.fallbacks = 0


async def _ask_others(rt: Runtime, x: Exchange, first: GatewayError, until: float | None = None) -> Answer:
    """The answer of another model. `first` is why the one that was asked for gave none, which can be waited for `until` then."""
    route = x.plan[0]
    visited, waiting, errors = [route], list[Route](), [first]
    while True:
        nearer = _stand_ins(rt, x, route, errors[-1])
        waiting = [*nearer, *(other for other in waiting if other not in nearer)]
        waiting = [other for other in waiting if other not in visited]
        if not waiting or len(visited) > rt.config.router.max_fallbacks:
            break
        route = waiting.pop(0)
        if not await may_go_on(rt, x, route):
            break
        visited.append(route)
        x.fallbacks += 1
        try:
            return await _ask_route(rt, x, route, overtakes=rt.queue.settings is None)
        except GatewayError as error:
            errors.append(error)
    if not x.attempts and (until is None or not is_worth_waiting(rt, x, x.plan[0], until=until)):
        answer = await _last_resort(rt, x, visited)
        if answer is not None:
            return answer
    raise _told(errors, x)


async def _ask_route(rt: Runtime, x: Exchange, route: Route, *, overtakes: bool = True) -> Answer:
    if not overtakes and is_waited_for(rt, x, route):
        raise rt.router.nobody(route, x, rt.now())
    asked: list[Deployment] = []
    hedging = rt.config.router.hedging
    last: UpstreamError | Unsupported | None = None
    passed: Sequence[Deployment] = ()  # levels whose attempts are used up
    unfit: Sequence[Deployment] = ()  # those that have no word for it
    has_room = False
    while True:
        out = [*asked, *passed, *unfit] if passed or unfit else asked
        deployment = rt.router.choose(route, x, rt.now(), out)
        if last is not None:
            if deployment is None and not passed:
                deployment = await _again(rt, x, route, asked, unfit, last)
            if deployment is None:
                raise last
            if not has_room:
                has_room = await may_go_on(rt, x, route)
                if not has_room:
                    raise last
                if not rt.router.is_possible(deployment, route, x, rt.now()):
                    continue  # others have taken its place while room was looked for
        elif deployment is None:
            raise rt.router.nobody(route, x, rt.now())
        if x.attempts and not rt.retry_budget.take(rt.now()):
            raise last or rt.router.nobody(route, x, rt.now())
        has_room = False
        asked.append(deployment)
        try:
            if hedging is not None:
                return await ask_hedged(rt, x, deployment, route, asked)
            return await ask_one(rt, x, deployment, route)
        except UpstreamError as error:
            last = error
        except Unsupported as error:
            # Nobody was asked: it is no attempt, and no reason to forget how another one has failed.
            last = last or error
            asked.remove(deployment)
            unfit = [*unfit, deployment]
            continue
        if len(asked) > retries_after(last, rt.config.router, route, deployment, x.controls.num_retries):
            if consequence(last).again == "no":
                raise last
            passed = [other for other in route.deployments if other.order <= deployment.order]


async def _again(
    rt: Runtime,
    x: Exchange,
    route: Route,
    asked: Sequence[Deployment],
    unfit: Sequence[Deployment],
    last: GatewayError,
) -> Deployment | None:
    """One that was asked already, after the time that it needs, or another that has got room meanwhile; None if that would be of
    no use or takes too long.
    """
    settings = rt.config.router
    policy = policy_of(settings, route)
    queue = queue_after(rt, last)
    # A key that was refused is refused again; cooldowns say so too, where there are any.
    vain = {
        one.deployment for one in x.attempts if one.error is not None and not may_repeat(one.error, policy)
    }
    again = [one for one in asked if one not in vain]

    def found() -> Deployment | None:
        other = rt.router.choose(route, x, rt.now(), [*asked, *unfit])
        return other or rt.router.again(route, x, rt.now(), again)

    if not may_repeat(last, policy) or (queue is None and found() is None):
        return None
    pause = rt.limits.retry_pause
    wait = wait_before(len(asked), last, policy, least=settings.retry_after, pause=pause)
    longest = 0.0 if queue is None else patience(queue, x)
    until = rt.now() + longest
    others = rt.router.part_of(
        route, tuple(one for one in route.deployments if one not in asked and one not in unfit)
    )
    if queue is None or not is_worth_waiting(rt, x, others, until=until):
        if wait > max(rt.limits.longest_retry_wait, settings.retry_after, longest):
            return None
        await asyncio.sleep(wait)
    if queue is not None:
        with suppress(NoDeployment):
            await wait_for_room(
                rt,
                x,
                route,
                lambda: found() is not None,
                until=until,
                refusal=NoDeployment("Nobody has room"),
            )
    return found()  # others may have learnt meanwhile that it is broken


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


async def _last_resort(rt: Runtime, x: Exchange, visited: Sequence[Route]) -> Answer | None:
    """Nobody could be asked. A deployment whose circuit is open is better than none, and asked once."""
    for route in visited:
        if is_waited_for(rt, x, route):
            continue
        now = rt.now()
        deployment = rt.router.choose(route, x, now) or rt.router.choose(route, x, now, anyway=True)
        if deployment is not None:
            return await ask_one(rt, x, deployment, route)
    return None


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
            error.headers["retry-after"] = str(ceil(min(max(1, error.retry_after), 86_400)))
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
