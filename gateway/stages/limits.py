"""May they, now?

Before anybody is asked, a request takes what it may need of every limit that it falls under, all or nothing: one that is
refused has used nothing up. `account.settle` gives back at the end what it did not need. `gateway.limits` says which limits
there are, `gateway.background.limiter` takes.
"""

from __future__ import annotations

from functools import partial

from gateway.exchange import Exchange
from gateway.limits import BudgetExceeded
from gateway.runtime import Runtime

_SECONDS = 1.0
"""Between two looks at what a stream has cost."""


async def admit(rt: Runtime, x: Exchange) -> None:
    """Fill `x.hold`, if anything binds. Raises `BudgetExceeded`, `RateLimited`, `PriceUnknown`, `LimitsUnavailable`."""
    if rt.limiter.binds(x.caller):
        await rt.limiter.admit(x)
        if x.wants_stream and x.hold is not None and rt.limiter.settings.on_budget == "cut":
            _watch(rt, x)


def _watch(rt: Runtime, x: Exchange) -> None:
    """Look again in a second, until the stream has ended."""
    rt.deadlines.start(_SECONDS, partial(_look, rt, x))


def _look(rt: Runtime, x: Exchange) -> None:
    if x.hold is None:
        return
    if rt.limiter.is_used_up(x):
        x.story.interrupt(
            BudgetExceeded("What was reserved for this stream is used up, and on_budget is cut")
        )
    else:
        _watch(rt, x)
