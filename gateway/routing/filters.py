"""Which deployments of a route can take a request at all.

A filter is made once for each route, and only where it may refuse one of its deployments: most routes have none. It says
why a deployment is left out (`refusals.WhyNot`), in words that `penstock explain` and the error show if nobody is left.

Limits of single deployments are counted by `Health` and `Spending`. A deployment at its limit is left out; who waits for it
does so in `queue`. `rpm` and `max_parallel_requests` are exact within a process, because a request counts when it is asked (`Health.began`);
tokens count when a request has ended; what other processes do is known as late as they tell it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Raw

from gateway.config.model import RouterSettings
from gateway.estimates import tokens_asked
from gateway.routes import Deployment, Route
from gateway.routing.health import Condition, Health
from gateway.routing.refusals import Cause, WhyNot
from gateway.routing.wants import Wants

Filter: TypeAlias = Callable[[Deployment, Wants, float], WhyNot | None]
"""Why this deployment cannot take this request at that time of `Runtime.now`; None if it can."""

MakeFilter: TypeAlias = Callable[[RouterSettings, Health, Route], Filter | None]
"""Gives None where no deployment of the route could be refused."""


def filters_of(
    settings: RouterSettings, health: Health, route: Route, *, learnt: bool = True, passing: bool = True
) -> tuple[Filter, ...]:
    """All that may refuse a deployment of this route, but for cooldowns; `learnt`: what is known of it too; `passing`: for
    reasons too that pass.
    """
    made = (
        make(settings, health, route)
        for make in (FILTERS if passing else LASTING)
        if learnt or make is not learnt_filter
    )
    return tuple(found for found in made if found is not None)


# -- tags ------------------------------------------------------------------------------------------------------------

_DEFAULT = "default"
_MOST_CHOICES = 256
_LONG_TAGS = 1_000
"""Characters of all tags of a request from which its choice is remembered alone: callers choose them."""


def tags_of(wants: Wants) -> tuple[str, ...]:
    """What decides by tags: those of the request, and those of its key."""
    key = wants.caller.key if wants.caller is not None else None
    said = wants.controls.tags
    return said if key is None or not key.tags else tuple(dict.fromkeys((*key.tags, *said)))


def tag_filter(settings: RouterSettings, health: Health, route: Route) -> Filter | None:
    """Tags as LiteLLM has them, among all deployments of the route, whether they are up or not.

    A request with tags goes to deployments that have one of them (all of them, if `tag_filtering_match_any` is off), or
    whose `tag_regex` is found in `User-Agent: …`. If there is none, to those tagged `default`, unless a tag of the request
    is known here. A request without tags goes to those tagged `default`, to all where there are none. `&tag` must be there,
    `!tag` must not.
    """
    if not settings.enable_tag_filtering:
        return None
    tagged = [_Tagged(one) for one in route.deployments]
    reads_agents = any(one.patterns for one in tagged)
    chosen: dict[tuple[tuple[str, ...], str | None], frozenset[str]] = {}

    def fitting(tags: tuple[str, ...], agent: str | None) -> frozenset[str]:
        known = chosen.get((tags, agent))
        if known is None:
            known = _fitting(tagged, tags, agent, match_any=settings.tag_filtering_match_any)
            if len(chosen) >= _MOST_CHOICES or sum(map(len, tags)) > _LONG_TAGS:
                chosen.clear()
            chosen[tags, agent] = known  # also a long one: it is asked for once for each deployment
        return known

    def refuses(deployment: Deployment, wants: Wants, now: float) -> WhyNot | None:
        tags = tags_of(wants)
        if deployment.id in fitting(tags, wants.http.user_agent if reads_agents else None):
            return None
        own = deployment.params.tags if deployment.params is not None else ()
        told = f"the request's tags {list(tags)}" if tags else "a request without tags"
        return WhyNot("tags", f"its tags {list(own)} are not for {told}")

    return refuses


class _Tagged:
    """A deployment as its tags describe it."""

    __slots__ = ("id", "patterns", "tags")

    def __init__(self, deployment: Deployment) -> None:
        params = deployment.params
        self.id = deployment.id
        self.tags = frozenset(params.tags if params is not None else ())
        self.patterns = tuple(map(re.compile, params.tag_regex if params is not None else ()))


def _fitting(
    deployments: Sequence[_Tagged], tags: tuple[str, ...], agent: str | None, *, match_any: bool
) -> frozenset[str]:
    """The ids of those that are meant for such requests."""
    needed = {tag[1:] for tag in tags if tag[:1] == "&"}
    banned = {tag[1:] for tag in tags if tag[:1] == "!"}
    wanted = {tag for tag in tags if tag[:1] not in "&!"}
    allowed = [one for one in deployments if needed <= one.tags and banned.isdisjoint(one.tags)]
    defaults = [one for one in allowed if _DEFAULT in one.tags]
    told = f"User-Agent: {agent}" if agent else ""
    if not wanted and not (told and not needed and any(one.patterns for one in allowed)):
        if needed:
            return _ids(allowed)
        has_defaults = any(_DEFAULT in one.tags for one in deployments)
        return _ids(defaults if has_defaults else allowed)
    matching = [one for one in allowed if _matches(one, wanted, told, match_any=match_any)]
    is_known = any(not wanted.isdisjoint(one.tags) for one in deployments)
    return _ids(matching or (() if is_known else defaults))


def _matches(one: _Tagged, wanted: set[str], agent: str, *, match_any: bool) -> bool:
    if wanted and (not wanted.isdisjoint(one.tags) if match_any else wanted <= one.tags):
        return True
    is_strict = bool(one.tags) and not match_any
    return bool(agent) and not is_strict and any(pattern.search(agent) for pattern in one.patterns)


def _ids(deployments: Iterable[_Tagged]) -> frozenset[str]:
    return frozenset(one.id for one in deployments)


# -- context ---------------------------------------------------------------------------------------------------------

MARGIN = 1.1
"""A question is too long if its estimate is a tenth over what the model reads: the estimate is coarse, the provider exact."""
_BYTES_PER_TOKEN = 4
_CHATS = frozenset({"chat", "completions"})


def most_input(deployment: Deployment) -> int | None:
    """Tokens that it reads at most: `model_info.max_input_tokens`, else what the price table knows."""
    written = deployment.info.get("max_input_tokens")
    if type(written) is int:
        return written
    return deployment.facts.max_input if deployment.facts is not None else None


def context_filter(settings: RouterSettings, health: Health, route: Route) -> Filter | None:
    """`enable_pre_call_checks`: a question that a model cannot read is not sent to it."""
    if not settings.enable_pre_call_checks:
        return None
    limits = {one.id: most for one in route.deployments if (most := most_input(one)) is not None}
    if not limits:
        return None
    estimated: list[tuple[int, int, float, int]] = []

    def tokens(envelope: Mapping[str, Raw], size: int, now: float) -> int:
        # Milliseconds for megabytes: once for all deployments that are asked about one request. The place in memory of one
        # that is over is soon another's, so the moment belongs to it.
        if not estimated or estimated[0][:3] != (id(envelope), size, now):
            estimated[:] = [(id(envelope), size, now, tokens_asked(envelope))]
        return estimated[0][3]

    def refuses(deployment: Deployment, wants: Wants, now: float) -> WhyNot | None:
        most = limits.get(deployment.id)
        envelope = wants.envelope
        if most is None or wants.http.endpoint.operation not in _CHATS:
            return None
        size = sum(memoryview(raw).nbytes for raw in envelope.values())
        if size <= most * _BYTES_PER_TOKEN:  # the longest that it can be, without a look at it
            return None
        asked = tokens(envelope, size, now)
        if asked <= most * MARGIN:
            return None
        return WhyNot("context", f"it reads {most} tokens, and the question has about {asked}")

    return refuses


# -- limits ----------------------------------------------------------------------------------------------------------


def limit_filter(settings: RouterSettings, health: Health, route: Route) -> Filter | None:
    """`rpm`, `tpm`, `itpm`, `otpm` and `max_parallel_requests` of each deployment."""
    checks = {one.id: found for one in route.deployments if (found := _checks(settings, one))}
    if not checks:
        return None

    def refuses(deployment: Deployment, wants: Wants, now: float) -> WhyNot | None:
        own = checks.get(deployment.id)
        longest: WhyNot | None = None
        if own is not None:
            condition = health.of(deployment.id)
            for check in own:
                why = check(condition, now)
                if why is not None:
                    longest = _longer(longest, why)
        return longest

    return refuses


def _longer(known: WhyNot | None, other: WhyNot) -> WhyNot:
    """Who is at two limits can be asked when both have passed."""
    return other if known is None or (other.seconds or 0.0) > (known.seconds or 0.0) else known


_Check: TypeAlias = Callable[[Condition, float], WhyNot | None]


def _checks(settings: RouterSettings, deployment: Deployment) -> tuple[_Check, ...]:
    params = deployment.params
    if params is None:
        return ()
    parallel = params.max_parallel_requests
    if parallel is None:
        parallel = settings.default_max_parallel_requests
    limits = (
        (_parallel, parallel),
        (_requests, params.rpm),
        (_tokens, params.tpm),
        (_input_tokens, params.itpm),
        (_output_tokens, params.otpm),
    )
    return tuple(make(limit) for make, limit in limits if limit is not None)


def _parallel(limit: int) -> _Check:
    def check(condition: Condition, now: float) -> WhyNot | None:
        at_once = condition.in_flight + condition.elsewhere_in_flight
        return (
            WhyNot("limit", f"it has {at_once} of {limit} parallel requests", 0.0)
            if at_once >= limit
            else None
        )

    return check


def _requests(limit: int) -> _Check:
    def check(condition: Condition, now: float) -> WhyNot | None:
        elsewhere = condition.elsewhere_requests
        asked = condition.requests.sum(now) + elsewhere
        if asked < limit:
            return None
        wait = condition.requests.wait(now, limit - elsewhere)
        return WhyNot("limit", f"it was asked {asked} of {limit} requests in the last minute", wait)

    return check


def _tokens(limit: int) -> _Check:
    def check(condition: Condition, now: float) -> WhyNot | None:
        elsewhere = condition.elsewhere_tokens
        used = condition.tokens.sum(now) + elsewhere
        if used < limit:
            return None
        wait = condition.tokens.wait(now, limit - elsewhere)
        return WhyNot("limit", f"it used {used} of {limit} tokens in the last minute", wait)

    return check


def _of_direction(direction: Literal[0, 1], word: str) -> Callable[[int], _Check]:
    def make(limit: int) -> _Check:
        def check(condition: Condition, now: float) -> WhyNot | None:
            minute = condition.by_direction()[direction]
            used = minute.sum(now)
            if used < limit:
                return None
            told = f"it used {used} of {limit} {word} tokens in the last minute"
            return WhyNot("limit", told, minute.wait(now, limit))

        return check

    return make


_input_tokens = _of_direction(0, "input")
_output_tokens = _of_direction(1, "output")


# -- what was learnt ------------------------------------------------------------------------------------------------


def learnt_filter(settings: RouterSettings, health: Health, route: Route) -> Filter | None:
    """`adaptive_concurrency`: how many requests each deployment takes at once, as its answers have shown."""
    if not settings.adaptive_concurrency:
        return None

    def refuses(deployment: Deployment, wants: Wants, now: float) -> WhyNot | None:
        condition = health.look(deployment.id)
        learnt = condition.concurrency
        if learnt is None:
            return None
        if condition.in_flight >= learnt.places:
            told = f"it has {condition.in_flight} of the {learnt.places} requests that it is known to take at once"
            return WhyNot("limit", told, 0.0)
        wait = learnt.wait(now)
        return WhyNot("limit", "its provider has told that a rate limit is used up", wait) if wait else None

    return refuses


# -- budgets ---------------------------------------------------------------------------------------------------------


def budget_filter(settings: RouterSettings, health: Health, route: Route) -> Filter | None:
    """`max_budget`, `tpd` and `rpd` of deployments, and `provider_budget_config`."""
    spending = health.spending
    tallies = {one.id: found for one in route.deployments if (found := spending.of(one))}
    if not tallies:
        return None

    def refuses(deployment: Deployment, wants: Wants, now: float) -> WhyNot | None:
        longest: WhyNot | None = None
        for tally in tallies.get(deployment.id, ()):
            left = spending.now(tally)
            if tally.is_used_up:
                cause: Cause = "budget" if tally.allowance.measure == "dollars" else "limit"
                longest = _longer(longest, WhyNot(cause, str(tally), left))
        return longest

    return refuses


LASTING: tuple[MakeFilter, ...] = (tag_filter, context_filter)
FILTERS: tuple[MakeFilter, ...] = (*LASTING, limit_filter, budget_filter, learnt_filter)
"""What stays comes first: waiting does not help against it, so it is the better reason."""
