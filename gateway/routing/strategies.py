"""How the load is shared among deployments that can all take a request.

A strategy gives each candidate a share; `Router` draws. So what a strategy does can be shown (`penstock explain`) and
tested as numbers, and two workers that know the same share alike without talking. Shares need not add up to one; those of
which all are zero count as equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from gateway.config.model import RouterSettings
from gateway.routes import Deployment
from gateway.routing.health import Health
from gateway.routing.wants import Wants

Weigh: TypeAlias = Callable[[Sequence[Deployment], Wants, float], Sequence[float]]
"""The shares of candidates, of which there are at least two, for a request at a time of `Runtime.now`."""


def simple_shuffle(settings: RouterSettings, health: Health) -> Weigh:
    """By weight: the entry's `weight`, else its `rpm`, else its `tpm`, else all alike."""

    def weigh(candidates: Sequence[Deployment], wants: Wants, now: float) -> Sequence[float]:
        return [deployment.weight for deployment in candidates]

    return weigh


STRATEGIES: Mapping[str, Callable[[RouterSettings, Health], Weigh]] = {
    "simple-shuffle": simple_shuffle,
}
"""By the names that `routing_strategy` has after aliases are resolved."""
