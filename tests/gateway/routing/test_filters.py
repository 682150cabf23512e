"""Who is left out: by tags, by length, by limits, by budgets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from adapters.types import Usage
from gateway.config.model import RouterSettings
from gateway.inbound import Controls
from gateway.keyring import Caller
from gateway.routes import Route
from gateway.routing.filters import filters_of, most_input
from gateway.routing.health import Health
from gateway.routing.refusals import WhyNot
from gateway.routing.spending import Spending
from gateway.state.keys import KeyRow
from tests.gateway.routing.choosing import Asked, head, route_of


def fitting(route: Route, asked: Asked, health: Health | None = None, **settings: Any) -> str:
    """The last letters of the models that can take it."""
    filters = filters_of(RouterSettings(**settings), health or Health(), route)
    return "".join(
        one.target.model[-1]
        for one in route.deployments
        if not any(refuses(one, asked, 100.0) for refuses in filters)
    )


def tagged(*tags: str, agent: str = "", of_key: tuple[str, ...] = ()) -> Asked:
    """A request with these tags."""
    key = KeyRow(digest="d", name="sk-...", tags=of_key)
    return Asked(
        http=head({"user-agent": agent}),
        controls=Controls(tags=tags),
        caller=Caller("key", "d", None, key),
    )


def asking(text: str, **more: Any) -> Asked:
    """A chat with this question."""
    body: Mapping[str, Any] = {"messages": [{"role": "user", "content": text}], **more}
    return Asked(envelope={name: Raw(json.dumps(value).encode()) for name, value in body.items()})


# -- tags ------------------------------------------------------------------------------------------------------------

A, B, C, D = {"tags": ("free",)}, {"tags": ("paid", "eu")}, {"tags": ("default",)}, dict[str, Any]()
R = {"tag_regex": (r"^User-Agent: claude-code/",)}
CASES: list[tuple[list[dict[str, Any]], Asked, str]] = [
    ([A, B, C, D], tagged("free"), "a"),
    ([A, B, C, D], tagged("free", "paid"), "ab"),
    ([A, B, C, D], tagged(), "c"),
    ([A, B, C, D], tagged(""), "c"),
    ([A, B, C, D], tagged("", "free"), "a"),
    ([A, B, D], tagged(), "abc"),
    ([A, B, C, D], tagged("nobody-has-this"), "c"),
    ([A, B, D], tagged("nobody-has-this"), ""),
    ([A, B, C], tagged("paid", "!eu"), ""),
    ([A, B, C], tagged("&paid"), "b"),
    ([A, B, C], tagged("!free"), "c"),
    ([A, B, D], tagged("!free"), "bc"),
    ([A, B, C], tagged("paid", "&us"), ""),
    ([A, B, C], tagged(of_key=("paid",)), "b"),
    ([A, B, C], tagged("free", of_key=("paid",)), "ab"),
    ([A, R, C], tagged(agent="claude-code/2.1"), "b"),
    ([A, R, C], tagged(agent="curl/8"), "c"),
    ([A, R, C], tagged("free", agent="claude-code/2.1"), "ab"),
    ([A, R, D], tagged(agent="curl/8"), ""),
]


@pytest.mark.parametrize(("entries", "asked", "expected"), CASES)
def test_tags(entries: list[dict[str, Any]], asked: Asked, expected: str) -> None:
    """Tags of the request and of its key find their deployments, `default` takes the others."""
    assert fitting(route_of(*entries), asked, enable_tag_filtering=True) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (tagged("paid", "eu"), "b"),
        (tagged("paid", "free"), ""),
        (tagged("eu", agent="claude-code/2"), "bd"),
        (tagged("free", agent="claude-code/2"), "ad"),
    ],
)
def test_all_tags(asked: Asked, expected: str) -> None:
    """Without `tag_filtering_match_any` all tags must be there; a pattern does not get round the tags of its own entry."""
    strict = {**R, "tags": ("other",)}
    route = route_of(A, B, strict, R)
    assert fitting(route, asked, enable_tag_filtering=True, tag_filtering_match_any=False) == expected


def test_tags_mean_nothing_when_switched_off() -> None:
    """Without `enable_tag_filtering` there is no filter at all."""
    assert filters_of(RouterSettings(), Health(), route_of(A, B)) == ()
    assert fitting(route_of(D, D), tagged(), enable_tag_filtering=True) == "ab"


names = st.sampled_from(["x", "y", "default", "&x", "!y"])


@given(
    st.lists(st.lists(st.sampled_from(["x", "y", "default"]), max_size=2), min_size=1, max_size=4),
    st.lists(names, max_size=3),
)
def test_exclusions_hold(entries: list[list[str]], tags: list[str]) -> None:
    """Whatever else is said: who has an excluded tag is left out, who lacks a required one as well."""
    route = route_of(*({"tags": tuple(own)} for own in entries))
    left = fitting(route, tagged(*tags), enable_tag_filtering=True)
    for letter in left:
        own = set(entries["abcd".index(letter)])
        assert not ("!y" in tags and "y" in own)
        assert not ("&x" in tags and "x" not in own)


# -- context ---------------------------------------------------------------------------------------------------------


def test_a_question_that_is_too_long() -> None:
    """What a model cannot read is not sent to it, with a tenth to spare; files count by their number, not by their bytes."""
    route = route_of({}, {}, info={"max_input_tokens": 10_000})
    small = fitting(
        route, asking("word " * 8_600), enable_pre_call_checks=True
    )  # 10,750 tokens by the estimate
    assert small == "ab"
    assert fitting(route, asking("word " * 9_000), enable_pre_call_checks=True) == ""
    assert fitting(route, asking("A" * 200_000), enable_pre_call_checks=True) == "ab"
    assert fitting(route, asking("word " * 9_000)) == "ab"


def test_where_the_limit_comes_from() -> None:
    """`model_info` goes before the price table; a model that nobody knows has no limit."""
    assert most_input(route_of({"model": "openai/gpt-4"}).deployments[0]) == 8_192
    written = route_of({"model": "openai/gpt-4"}, info={"max_input_tokens": 5})
    assert most_input(written.deployments[0]) == 5
    unknown = route_of({"model": "openai/nobody-knows-it"})
    assert most_input(unknown.deployments[0]) is None
    assert filters_of(RouterSettings(enable_pre_call_checks=True), Health(), unknown) == ()


# -- limits ----------------------------------------------------------------------------------------------------------


def test_requests_per_minute() -> None:
    """A deployment that was asked as often as it may in a minute is left out, and says for how long."""
    route, health = route_of({"rpm": 2}, {}), Health()
    first = route.deployments[0]
    health.began(first.id, 60.0)
    assert fitting(route, Asked(), health) == "ab"
    health.began(first.id, 70.0)
    assert fitting(route, Asked(), health) == "b"
    (refuses,) = filters_of(RouterSettings(), health, route)
    why = refuses(first, Asked(), 100.0)
    assert why is not None
    assert (why.text, why.seconds) == ("it was asked 2 of 2 requests in the last minute", 20.0)
    assert refuses(first, Asked(), 120.0) is None
    health.of(first.id).elsewhere_requests = 1
    assert refuses(first, Asked(), 120.0) is not None


def test_parallel_requests() -> None:
    """At its number of parallel requests it is left out; its own number goes before the default."""
    route, health = route_of({"max_parallel_requests": 2}, {}), Health()
    for one in route.deployments:
        health.began(one.id, 100.0)
    assert fitting(route, Asked(), health) == "ab"
    assert fitting(route, Asked(), health, default_max_parallel_requests=1) == "a"
    health.of(route.deployments[0].id).elsewhere_in_flight = 1
    assert fitting(route, Asked(), health) == "b"
    health.released(route.deployments[0].id)
    assert fitting(route, Asked(), health) == "ab"


@pytest.mark.parametrize(("limit", "used"), [("tpm", 30), ("itpm", 20), ("otpm", 10)])
def test_tokens_per_minute(limit: str, used: int) -> None:
    """Tokens of requests that have ended count: all, those that went in, those that came out."""
    for amount, expected in ((used, ""), (used + 1, "a")):
        route, health = route_of({limit: amount}), Health()
        assert fitting(route, Asked(), health) == "a"
        health.used(route.deployments[0].id, 100.0, Usage(input=20, output=10))
        assert fitting(route, Asked(), health) == expected


def test_a_limit_of_zero_refuses_everything() -> None:
    """Zero is a limit."""
    assert fitting(route_of({"rpm": 0}, {"tpm": 0}, {"max_parallel_requests": 0}, {}), Asked()) == "d"


# -- budgets ---------------------------------------------------------------------------------------------------------


def test_a_budget_that_is_spent() -> None:
    """A deployment whose dollars, tokens or requests of the day are used up is left out."""
    for fields in (
        {"max_budget": "0.000001", "budget_duration": "1d"},
        {"tpd": 30},
        {"rpd": 1},
    ):
        route, health = route_of(fields, {}), Health()
        assert fitting(route, Asked(), health) == "ab"
        health.spending.add(route.deployments[0], 4e9, 1_000, Usage(input=20, output=10))
        assert fitting(route, Asked(), health) == "b"


def test_what_was_learnt() -> None:
    """A deployment that is as full as it is known to bear, and one whose provider has nothing left, until it has."""
    route, health = route_of({}, {}), Health()
    settings = RouterSettings(adaptive_concurrency=True)
    (refuses,) = filters_of(settings, health, route)
    assert filters_of(settings, health, route, learnt=False) == ()
    assert refuses(route.deployments[0], Asked(), 100.0) is None
    health.adopt(settings)
    first, second = (deployment.id for deployment in route.deployments)
    for _ in range(10):
        health.began(first, 100.0)
    health.began(second, 100.0)
    told = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "4s"}
    health.heard(second, told, 100.0)
    health.heard("never-asked", told, 100.0)
    full, empty = (refuses(deployment, Asked(), 101.0) for deployment in route.deployments)
    assert full is not None
    assert (full.cause, full.seconds) == ("limit", 0.0)
    assert full.text == "it has 10 of the 10 requests that it is known to take at once"
    assert empty is not None
    assert (empty.cause, empty.seconds) == ("limit", 3.0)
    assert refuses(route.deployments[1], Asked(), 104.0) is None


# -- several reasons -------------------------------------------------------------------------------------------------


def reasons(route: Route, health: Health, **settings: Any) -> list[WhyNot]:
    """Why its first deployment cannot take a request."""
    filters = filters_of(RouterSettings(**settings), health, route)
    found = [refuses(route.deployments[0], Asked(), 100.0) for refuses in filters]
    return [why for why in found if why is not None]


def test_of_two_limits_the_longer_wait_counts() -> None:
    """A deployment without a place that has used up its minute too has room when the minute is over."""
    route, health = route_of({"rpm": 1, "max_parallel_requests": 1}), Health()
    health.began(route.deployments[0].id, 100.0)
    (why,) = reasons(route, health)
    assert (why.text, why.seconds) == ("it was asked 1 of 1 requests in the last minute", 60.0)


def test_of_two_budgets_the_longer_wait_counts() -> None:
    """A deployment that has used up its day and its month is back with the month."""
    route, health = route_of({"max_budget": 1, "budget_duration": "30d", "rpd": 1}), Health()
    health.spending = Spending(lambda: 10 * 86_400.0)
    filters = filters_of(RouterSettings(), health, route)
    health.spending.add(route.deployments[0], 10 * 86_400.0, 10**9, None)
    (why,) = [why for refuses in filters if (why := refuses(route.deployments[0], Asked(), 100.0))]
    assert (why.cause, why.seconds) == ("budget", 21 * 86_400.0)
    route, health = route_of({"max_budget": 1, "budget_duration": "1h", "rpd": 1}), Health()
    health.spending = Spending(lambda: 10 * 86_400.0)
    filters = filters_of(RouterSettings(), health, route)
    health.spending.add(route.deployments[0], 10 * 86_400.0, 10**9, None)
    (why,) = [why for refuses in filters if (why := refuses(route.deployments[0], Asked(), 100.0))]
    assert (why.cause, why.seconds) == ("limit", 86_400.0)


def test_an_estimate_is_of_its_own_question() -> None:
    """Another question in the same place of memory, with as many bytes, is estimated anew: a file is short, words are long."""
    route = route_of({}, info={"max_input_tokens": 1_000})
    (refuses,) = filters_of(RouterSettings(enable_pre_call_checks=True), Health(), route)
    envelope: dict[str, Raw] = {}
    found = []
    for now, text in enumerate(("x" * 40_000, "x " * 20_000, "x" * 40_000)):
        envelope |= asking(text).envelope
        found.append(refuses(route.deployments[0], Asked(envelope=envelope), float(now)) is not None)
    assert found == [False, True, False]
