"""How the load is shared among deployments that can all take a request.

A strategy gives each candidate a share; `Router` draws. So what a strategy does can be shown (`penstock explain`) and
tested as numbers, and two workers that know the same share alike without talking. Shares need not add up to one; those of
which all are zero count as equal.

Two kinds. Some look for the lowest of something (requests in flight, tokens used, price): the lowest takes all, ties are
shared. Those that look at speed give the best a share of one and others less, never less than `EXPLORING`: what is not asked
is not measured, and a deployment that was slow an hour ago may be the fastest now. For the same reason one that was never
asked counts as the best until it has answered.

Speed is always seconds for each *success*: a deployment that fails half of the time is half as fast, however quickly it
fails.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from math import exp
from typing import TypeAlias

from adapters.types import NO_UNITS, Operation, Usage
from gateway.config.model import RouterSettings
from gateway.estimates import unreported
from gateway.pricing import cost
from gateway.routes import Deployment
from gateway.routing.geography import caller_region, nearness, region_of
from gateway.routing.health import Condition, Health
from gateway.routing.pace import Average
from gateway.routing.wants import Wants

Weigh: TypeAlias = Callable[[Sequence[Deployment], Wants, float], Sequence[float]]
"""The shares of candidates, of which there are at least two, for a request at a time of `Runtime.now`."""

EXPLORING = 0.04
"""What the slowest gets for each request of the fastest: one in 50 where it is the third of three."""
_STEEPNESS = 4
"""Twice as slow is a sixteenth of the share: nearly all goes to the fastest, and those that are alike share alike."""
_TYPICAL_TOKENS = 256
"""Length of an answer by which whole speeds are compared."""
_LEAST = 1e-6
"""Seconds that count as none at all; and the part of attempts that is taken to succeed where all fail."""

_MOMENT = 0.1
"""Seconds for which shares are used again."""
_MOST_REMEMBERED = 2_000
_NOTHING: tuple[float, Sequence[float]] = (float("-inf"), ())


def simple_shuffle(settings: RouterSettings, health: Health) -> Weigh:
    """By weight: the entry's `weight`, else its `rpm`, else its `tpm`, else all alike."""

    def weigh(candidates: Sequence[Deployment], wants: Wants, now: float) -> Sequence[float]:
        return [deployment.weight for deployment in candidates]

    return weigh


def least_busy(settings: RouterSettings, health: Health) -> Weigh:
    """The one with the fewest requests in flight, where one that fails half of the time counts as twice as busy."""
    look = health.look

    def weigh(candidates: Sequence[Deployment], wants: Wants, now: float) -> Sequence[float]:
        # What is in flight elsewhere is a second old. If each of n processes filled a gap that all see, it would be filled
        # n times, so each fills its part. Simulated with 8 processes and 400 requests in flight on three deployments, the most
        # and the least busy are then 7 apart instead of 164.
        processes = health.processes
        loads: list[float] = []
        for deployment in candidates:
            condition = look(deployment.id)
            load: float = 1 + condition.in_flight
            if condition.elsewhere_in_flight:
                load += condition.elsewhere_in_flight / processes
            if condition.pace.failing.value:  # most never failed: asking is a tenth of working it out
                load /= max(_LEAST, 1 - condition.pace.failing_now(now))
            loads.append(load)
        return _lowest(loads)

    return weigh


def usage_based(settings: RouterSettings, health: Health) -> Weigh:
    """The one that used the least in the last minute: of its `tpm` and `rpm` where all have them, else in tokens."""
    look = health.look

    def weigh(candidates: Sequence[Deployment], wants: Wants, now: float) -> Sequence[float]:
        tpm = all(deployment.params is not None and deployment.params.tpm for deployment in candidates)
        rpm = all(deployment.params is not None and deployment.params.rpm for deployment in candidates)
        found = []
        for deployment in candidates:
            params = deployment.params
            tokens, requests = _used(look(deployment.id), now, health.processes)
            used = 0.0 if rpm and not tpm else tokens
            if tpm and params is not None and params.tpm:
                used = tokens / params.tpm
            if rpm and params is not None and params.rpm:
                used = max(used, requests / params.rpm)
            found.append(used)
        return _lowest(found)

    return _remembered(weigh, _is_stream)


def _used(condition: Condition, now: float, processes: int) -> tuple[float, float]:
    """Tokens and requests of the last minute, those of other processes in part (see `least_busy`). Requests under way count
    for as many tokens as the others had, or for one.
    """
    requests = condition.requests.sum(now) + condition.elsewhere_requests / processes
    tokens = condition.tokens.sum(now) + condition.elsewhere_tokens / processes
    under_way = condition.in_flight + condition.elsewhere_in_flight / processes
    usual = tokens / max(1, requests - under_way)
    return tokens + under_way * max(1.0, usual), requests


def latency_based(settings: RouterSettings, health: Health) -> Weigh:
    """By speed: of streams to the first event; of whole answers by the output token, where all have told their tokens."""
    return _remembered(_latency_based(settings, health), _is_stream)


def _latency_based(settings: RouterSettings, health: Health) -> Weigh:
    args = settings.routing_strategy_args
    look = health.look

    def weigh(candidates: Sequence[Deployment], wants: Wants, now: float) -> Sequence[float]:
        conditions = [look(deployment.id) for deployment in candidates]
        measured: list[Average]
        if wants.wants_stream:
            measured = [condition.pace.first for condition in conditions]
        else:
            measured = [condition.pace.per_token for condition in conditions]
            whole = [condition.pace.whole for condition in conditions]
            if any(
                one.value is None and other.value is not None
                for one, other in zip(measured, whole, strict=True)
            ):
                measured = whole
        seconds = [average.value for average in measured]
        ages = [now - average.at for average in measured]
        return _by_speed(conditions, seconds, ages, now, args.ttl, 1 + args.lowest_latency_buffer, _STEEPNESS)

    return weigh


def performance_based(settings: RouterSettings, health: Health) -> Weigh:
    """By the score success rate times speed, in proportion; the speed is that of a whole answer of 256 tokens."""
    args = settings.routing_strategy_args
    look = health.look

    def weigh(candidates: Sequence[Deployment], wants: Wants, now: float) -> Sequence[float]:
        conditions = [look(deployment.id) for deployment in candidates]
        if wants.wants_stream:
            begins = [condition.pace.first for condition in conditions]
            tokens = [condition.pace.between for condition in conditions]
        else:
            begins = [condition.pace.whole for condition in conditions]
            tokens = [condition.pace.per_token for condition in conditions]
        by_token = all(
            begin.value is None or token.value is not None
            for begin, token in zip(begins, tokens, strict=True)
        )
        seconds: list[float | None] = []
        for begin, token in zip(begins, tokens, strict=True):
            if not by_token or begin.value is None or token.value is None:
                seconds.append(begin.value)
            else:
                first = begin.value if wants.wants_stream else 0.0
                seconds.append(first + _TYPICAL_TOKENS * token.value)
        ages = [now - begin.at for begin in begins]
        return _by_speed(conditions, seconds, ages, now, args.ttl, 1.0, 1)

    return _remembered(weigh, _is_stream)


def cost_based(settings: RouterSettings, health: Health) -> Weigh:
    """The one whose price for a usual request of this kind is lowest; those without a known price come last."""

    def weigh(candidates: Sequence[Deployment], wants: Wants, now: float) -> Sequence[float]:
        operation = wants.http.endpoint.operation
        return _lowest([_typical_cost(deployment, operation) for deployment in candidates])

    return _remembered(weigh, lambda wants: wants.http.endpoint.operation)


def _typical_cost(deployment: Deployment, operation: Operation) -> float:
    """Nano-dollars; infinite if nobody knows them. Worked out once."""
    found: float | None = deployment.notes.get(("typical cost", operation))
    if found is None:
        usage = unreported(operation, deployment.price, {}, sent=1_000_000, said=0)
        if usage.units is NO_UNITS and not usage.audio_output:
            usage = Usage(input=4_000, output=1_000 if operation in {"chat", "completions"} else 0)
        nano = cost(deployment.price, usage)
        found = deployment.notes["typical cost", operation] = float("inf") if nano is None else float(nano)
    return found


def geo(settings: RouterSettings, health: Health) -> Weigh:
    """Those in the caller's region or country, else on its continent, else all; among these by speed."""
    by_speed = _latency_based(settings, health)

    def weigh(candidates: Sequence[Deployment], wants: Wants, now: float) -> Sequence[float]:
        caller = caller_region(wants.http.headers)
        near = [nearness(region_of(deployment), caller) if caller else 0 for deployment in candidates]
        nearest = max(near)
        if nearest == min(near):
            return by_speed(candidates, wants, now)
        chosen = [
            deployment for deployment, how_near in zip(candidates, near, strict=True) if how_near == nearest
        ]
        shares = iter(by_speed(chosen, wants, now))
        return [next(shares) if how_near == nearest else 0.0 for how_near in near]

    return _remembered(weigh, lambda wants: (wants.wants_stream, caller_region(wants.http.headers)))


def _remembered(weigh: Weigh, key: Callable[[Wants], Hashable]) -> Weigh:
    """The same, worked out ten times a second at most for the same candidates and requests of one key.

    Speeds and prices do not change faster. 1 us instead of 10 to 20 with ten candidates.
    """
    known: dict[tuple[Hashable, tuple[Deployment, ...]], tuple[float, Sequence[float]]] = {}

    def remembered(candidates: Sequence[Deployment], wants: Wants, now: float) -> Sequence[float]:
        name = key(wants), tuple(candidates)
        until, shares = known.get(name, _NOTHING)
        if until <= now:
            shares = weigh(candidates, wants, now)
            if len(known) >= _MOST_REMEMBERED:  # wildcards and callers' regions can be any number
                known.clear()
            known[name] = now + _MOMENT, shares
        return shares

    return remembered


def _is_stream(wants: Wants) -> bool:
    return wants.wants_stream


def _lowest(measures: Sequence[float]) -> list[float]:
    """All to the lowest; those that are as low share."""
    lowest = min(measures)
    return [1.0 if measure == lowest else 0.0 for measure in measures]


def _by_speed(
    conditions: Sequence[Condition],
    seconds: Sequence[float | None],
    ages: Sequence[float],
    now: float,
    ttl: float,
    room: float,
    steepness: int,
) -> list[float]:
    """Shares by seconds for each success, where those that are at most `room` times the lowest are as good as it.

    What is older than `ttl` seconds is a third of itself away from the lowest: old knowledge is no reason to avoid anybody.
    None is not measured yet: as good as the lowest, but not for many at the same time.
    """
    costs: list[float | None] = []
    for condition, value in zip(conditions, seconds, strict=True):
        failing = condition.pace.failing_now(now)
        successes = max(_LEAST, 1 - failing)
        costs.append(None if value is None else max(_LEAST, value) / successes)
    lowest = min((one for one in costs if one is not None), default=0.0)
    shares = []
    for condition, one, age in zip(conditions, costs, ages, strict=True):
        if one is None:
            share = (1 - condition.pace.failing_now(now)) / (1 + condition.in_flight)
        elif one <= lowest * room:
            share = 1.0
        else:
            faded = lowest + (one - lowest) * exp(-max(0.0, age) / ttl)
            share = min(1.0, lowest * room / faded) ** steepness
        shares.append(max(share, EXPLORING))
    return shares


STRATEGIES: Mapping[str, Callable[[RouterSettings, Health], Weigh]] = {
    "simple-shuffle": simple_shuffle,
    "least-busy": least_busy,
    "usage-based-routing": usage_based,
    "latency-based-routing": latency_based,
    "performance-based": performance_based,
    "cost-based-routing": cost_based,
    "geo-routing": geo,
    "provider-budget-routing": simple_shuffle,  # who has used up its budget is left out by a filter, whatever the strategy
}
"""By the names that `routing_strategy` has after aliases are resolved."""
