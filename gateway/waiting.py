"""Waits until a deployment has room for a request, where the configuration wants that (`router_settings.queue`).

`gateway.routing.queue` says who is next. What a request has taken of its limits and budgets stays taken while it waits, so
that what is admitted is always paid for; and a stream's client hears keep-alive comments meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

from adapters.errors import GatewayError
from gateway.config.model import QueueSettings
from gateway.exchange import Exchange
from gateway.routes import Route
from gateway.routing.health import HAS_NO_ROOM
from gateway.routing.queue import NotServed
from gateway.runtime import Runtime


def queue_after(rt: Runtime, error: GatewayError) -> QueueSettings | None:
    """The settings, if a request that failed so may wait before it asks again."""
    return rt.queue.settings if isinstance(error, HAS_NO_ROOM) else None


def patience(settings: QueueSettings, x: Exchange) -> float:
    """Seconds that a request waits at most: not longer than its caller waits for an answer."""
    own = x.controls.stream_timeout if x.wants_stream and x.controls.stream_timeout else x.controls.timeout
    return settings.max_wait if own is None else min(settings.max_wait, own)


def is_waited_for(rt: Runtime, x: Exchange, route: Route) -> bool:
    """Somebody waits for what this request wants of the route, and must not be overtaken."""
    queue = rt.queue
    return queue.waiting > 0 and queue.is_waited_for(route.name, rt.router.meant(route, x, rt.now()))


def is_worth_waiting(rt: Runtime, x: Exchange, route: Route, *, until: float) -> bool:
    """A deployment that is well may have room by then: it is waited for before one is asked whose circuit is open."""
    soonest = rt.router.soonest(route, x, rt.now(), anyway=False)
    return soonest is not None and rt.now() + soonest <= until


async def wait_for_room(
    rt: Runtime,
    x: Exchange,
    route: Route,
    can_go: Callable[[], bool],
    *,
    until: float,
    refusal: GatewayError,
) -> None:
    """Wait for a turn in which `can_go`, until that time of `Runtime.now` at the latest.

    Raises `refusal` where waiting is of no use, or else what came of it: 429 with the position and when to come again.
    """
    seconds = round(until - rt.now(), 2)  # deadlines of one length share a queue
    soonest = rt.router.soonest(route, x, rt.now())
    if soonest is None or seconds <= 0 or soonest > seconds:
        raise refusal
    try:
        await rt.queue.wait(
            route.name,
            x.caller.digest if x.caller is not None else None,
            wanted=rt.router.meant(route, x, rt.now()),
            seconds=seconds,
            can_go=can_go,
            soonest=lambda: rt.router.soonest(route, x, rt.now()),
            priority=x.controls.priority,
            came=x.at.began,
        )
    except NotServed as why:
        error = rt.router.nobody(route, x, rt.now())
        error.message = f"{why}. {error.message}"
        error.headers["x-penstock-queue-position"] = str(why.position)
        error.headers.setdefault("retry-after", "1")
        raise error from None
