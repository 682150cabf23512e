"""The shares that strategies give."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import UpstreamOverloaded
from adapters.types import Usage
from gateway.config.model import RouterSettings, StrategyArgs
from gateway.routes import Deployment, Route
from gateway.routing.health import Health
from gateway.routing.strategies import EXPLORING, STRATEGIES, Weigh
from tests.gateway.routing.choosing import Asked, head, route_of, router_of

NOW = 1_000.0
SECONDS = st.floats(0.001, 100.0)
CONDITION = st.tuples(
    st.none() | SECONDS,  # seconds to the first event
    st.none() | SECONDS,  # of a whole answer
    st.none() | st.floats(0.0001, 1.0),  # by the output token
    st.integers(0, 5),  # failures
    st.integers(0, 20),  # in flight
    st.integers(0, 20),  # in flight elsewhere
    st.integers(0, 100_000),  # tokens
)
FLEETS = st.lists(CONDITION, min_size=2, max_size=8)
BY_SPEED = ("latency-based-routing", "performance-based")


def weigh_of(strategy: str, health: Health, **args: Any) -> Weigh:
    """A strategy by its name."""
    settings = RouterSettings(routing_strategy=strategy, routing_strategy_args=StrategyArgs(**args))
    return STRATEGIES[strategy](settings, health)


def answered(health: Health, one: Deployment, seconds: float, **more: Any) -> None:
    """It was asked and has answered."""
    health.began(one.id, NOW)
    health.succeeded(one.id, NOW, seconds, **more)


def failed(health: Health, one: Deployment, route: Route) -> None:
    """It was asked and has failed."""
    health.began(one.id, NOW)
    health.failed(one.id, UpstreamOverloaded("x"), NOW, peers=[other.id for other in route.deployments])


def fleet_of(conditions: list[Any]) -> tuple[Route, Health]:
    """A route whose deployments are in these conditions."""
    route, health = route_of(*({} for _ in conditions)), Health()
    for one, (first, whole, per_token, failures, in_flight, elsewhere, tokens) in zip(
        route.deployments, conditions, strict=True
    ):
        if first is not None:
            answered(health, one, first, per_token=per_token, streamed=True)
        if whole is not None:
            answered(health, one, whole, per_token=per_token)
        for _ in range(failures):
            failed(health, one, route)
        for _ in range(in_flight):
            health.began(one.id, NOW)
        health.used(one.id, NOW, Usage(input=tokens))
        health.of(one.id).elsewhere_in_flight = elsewhere
    return route, health


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(conditions=FLEETS, streams=st.booleans())
def test_shares_are_shares(strategy: str, conditions: list[Any], streams: bool) -> None:
    """Whatever is known of a fleet: a share for each, none negative, not all of them zero."""
    route, health = fleet_of(conditions)
    shares = weigh_of(strategy, health)(route.deployments, Asked(wants_stream=streams), NOW)
    assert len(shares) == len(conditions)
    assert min(shares) >= 0
    assert 0 < sum(shares) <= len(shares)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(condition=CONDITION, count=st.integers(2, 6), streams=st.booleans())
def test_alike_share_alike(strategy: str, condition: Any, count: int, streams: bool) -> None:
    """Deployments of which the same is known get the same."""
    route, health = fleet_of([condition] * count)
    shares = weigh_of(strategy, health)(route.deployments, Asked(wants_stream=streams), NOW)
    assert len(set(shares)) == 1


@pytest.mark.parametrize("strategy", BY_SPEED)
@given(conditions=FLEETS, streams=st.booleans())
def test_nobody_is_forgotten(strategy: str, conditions: list[Any], streams: bool) -> None:
    """Each is asked now and then, however slow it was and however often it failed."""
    route, health = fleet_of(conditions)
    shares = weigh_of(strategy, health)(route.deployments, Asked(wants_stream=streams), NOW)
    assert min(shares) >= EXPLORING


@pytest.mark.parametrize("strategy", BY_SPEED)
@given(seconds=st.lists(SECONDS, min_size=2, max_size=8), streams=st.booleans())
def test_faster_is_more(strategy: str, seconds: list[float], streams: bool) -> None:
    """A faster one never gets less than a slower one, and the fastest gets most."""
    route, health = route_of(*({} for _ in seconds)), Health()
    for one, value in zip(route.deployments, seconds, strict=True):
        answered(health, one, value, streamed=streams)
    shares = weigh_of(strategy, health)(route.deployments, Asked(wants_stream=streams), NOW)
    ranked = [share for _, share in sorted(zip(seconds, shares, strict=True))]
    assert all(one >= other - 1e-9 for one, other in itertools.pairwise(ranked))
    assert ranked[0] == max(shares) == 1.0


@given(loads=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=2, max_size=8))
def test_the_least_busy_takes_all(loads: list[tuple[int, int]]) -> None:
    """Only those with the fewest requests in flight get any, here and elsewhere together."""
    route, health = route_of(*({} for _ in loads)), Health()
    for one, (here, elsewhere) in zip(route.deployments, loads, strict=True):
        condition = health.of(one.id)
        condition.in_flight, condition.elsewhere_in_flight = here, elsewhere
    shares = weigh_of("least-busy", health)(route.deployments, Asked(), NOW)
    lowest = min(map(sum, loads))
    assert shares == [1.0 if sum(load) == lowest else 0.0 for load in loads]


def test_what_is_busy_elsewhere_counts_in_part() -> None:
    """Each of several processes fills its part of a gap that all see."""
    route, health = route_of({}, {}), Health()
    first, second = (health.of(one.id) for one in route.deployments)
    first.elsewhere_in_flight, second.in_flight = 4, 2
    weigh = weigh_of("least-busy", health)
    assert weigh(route.deployments, Asked(), NOW) == [0.0, 1.0]
    health.processes = 4
    assert weigh(route.deployments, Asked(), NOW) == [1.0, 0.0]


def test_who_fails_is_busy() -> None:
    """A deployment that fails at once has nothing in flight, and is no place to go for that."""
    route, health = route_of({}, {}), Health()
    first, second = route.deployments
    failed(health, first, route)
    health.began(second.id, NOW)
    weigh = weigh_of("least-busy", health)
    assert weigh(route.deployments, Asked(), NOW) == [0.0, 1.0]
    assert weigh(route.deployments, Asked(), NOW + 600) == [1.0, 0.0]


@given(tokens=st.lists(st.integers(0, 10**6), min_size=2, max_size=8))
def test_the_least_used_takes_all(tokens: list[int]) -> None:
    """Without limits the one whose requests used the fewest tokens in the last minute."""
    route, health = route_of(*({} for _ in tokens)), Health()
    for one, amount in zip(route.deployments, tokens, strict=True):
        health.used(one.id, NOW, Usage(input=amount))
    shares = weigh_of("usage-based-routing", health)(route.deployments, Asked(), NOW)
    assert shares == [1.0 if amount == min(tokens) else 0.0 for amount in tokens]


def test_usage_is_a_part_of_limits() -> None:
    """Where all have limits, what counts is the part of them that is used: of tokens or of requests, whichever is more."""
    route, health = route_of({"tpm": 1_000, "rpm": 100}, {"tpm": 100_000, "rpm": 10}), Health()
    first, second = route.deployments
    health.used(first.id, NOW, Usage(input=200))
    health.used(second.id, NOW, Usage(input=10_000))
    assert weigh_of("usage-based-routing", health)(route.deployments, Asked(), NOW) == [0.0, 1.0]
    for _ in range(3):
        answered(health, second, 1.0)
    assert weigh_of("usage-based-routing", health)(route.deployments, Asked(), NOW) == [1.0, 0.0]


def test_usage_by_requests_alone() -> None:
    """With `rpm` alone requests count, and those of other processes too."""
    route, health = route_of({"rpm": 10}, {"rpm": 100}), Health()
    first, second = route.deployments
    health.of(first.id).elsewhere_requests = 2
    health.of(second.id).elsewhere_requests = 10
    assert weigh_of("usage-based-routing", health)(route.deployments, Asked(), NOW) == [0.0, 1.0]


def test_requests_under_way_count_as_usual_ones() -> None:
    """Tokens are known at the end: until then a request counts as what the others needed."""
    route, health = route_of({}, {}), Health()
    first, second = route.deployments
    for one, tokens in ((first, 300), (second, 500)):
        answered(health, one, 1.0)
        health.used(one.id, NOW, Usage(input=tokens))
    health.began(first.id, NOW)
    assert weigh_of("usage-based-routing", health)(route.deployments, Asked(), NOW) == [0.0, 1.0]


@pytest.mark.parametrize("strategy", BY_SPEED)
def test_a_fast_failure_is_not_fast(strategy: str) -> None:
    """Failing in a millisecond makes nobody the fastest, whether it has answered before or never has."""
    for has_answered in (True, False):
        route, health = route_of({}, {}), Health()
        first, second = route.deployments
        if has_answered:
            answered(health, first, 0.001, streamed=True)
        answered(health, second, 2.0, streamed=True)
        for _ in range(100):
            failed(health, first, route)
        shares = weigh_of(strategy, health)(route.deployments, Asked(wants_stream=True), NOW)
        assert shares == [EXPLORING, 1.0]


def test_a_newcomer_is_tried() -> None:
    """One that was never asked counts as the fastest, but not for many at the same time."""
    route, health = route_of({}, {}), Health()
    first, second = route.deployments
    answered(health, first, 1.0, streamed=True)
    weigh = weigh_of("latency-based-routing", health)
    assert weigh(route.deployments, Asked(wants_stream=True), NOW) == [1.0, 1.0]
    for _ in range(4):
        health.began(second.id, NOW)
    assert weigh(route.deployments, Asked(wants_stream=True), NOW + 1) == [1.0, 0.2]


def test_streams_are_compared_as_streams() -> None:
    """A caller of a stream waits for its first event, one of a whole answer for its tokens."""
    route, health = route_of({}, {}), Health()
    first, second = route.deployments
    answered(health, first, 0.2, per_token=0.1, streamed=True)
    answered(health, second, 1.0, per_token=0.01, streamed=True)
    answered(health, first, 20.0, per_token=0.1)
    answered(health, second, 30.0, per_token=0.01)
    weigh = weigh_of("latency-based-routing", health)
    by_first = weigh(route.deployments, Asked(wants_stream=True), NOW)
    by_token = weigh(route.deployments, Asked(), NOW)
    assert by_first[0] > by_first[1]
    assert by_token[0] < by_token[1]
    score = weigh_of("performance-based", health)(route.deployments, Asked(wants_stream=True), NOW)
    assert score[0] == pytest.approx((1.0 + 2.56) / (0.2 + 25.6))  # in proportion to the speed of 256 tokens


def test_answers_without_tokens_are_compared_whole() -> None:
    """Where one has not told its tokens, whole answers are compared by their seconds."""
    route, health = route_of({}, {}), Health()
    first, second = route.deployments
    answered(health, first, 1.0, per_token=0.5)
    answered(health, second, 2.0)
    for strategy in BY_SPEED:
        shares = weigh_of(strategy, health)(route.deployments, Asked(), NOW)
        assert shares[0] > shares[1]


def test_old_measurements_fade() -> None:
    """After `ttl` seconds without a measurement a slow one is asked more, long after it as much as the fastest."""
    route, health = route_of({}, {}), Health()
    first, second = route.deployments
    answered(health, first, 1.0, streamed=True)
    answered(health, second, 2.0, streamed=True)
    weigh = weigh_of("latency-based-routing", health, ttl=60)
    shares = [weigh(route.deployments, Asked(wants_stream=True), NOW + later)[1] for later in (0, 60, 6_000)]
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] == pytest.approx(1.0)


def test_the_buffer() -> None:
    """Those within `lowest_latency_buffer` of the fastest are as good as it."""
    route, health = route_of({}, {}, {}), Health()
    for one, seconds in zip(route.deployments, (1.0, 1.4, 2.0), strict=True):
        answered(health, one, seconds, streamed=True)
    weigh = weigh_of("latency-based-routing", health, lowest_latency_buffer=0.5)
    first, second, third = weigh(route.deployments, Asked(wants_stream=True), NOW)
    assert first == second == 1.0
    assert third < 0.5


def test_the_length_of_the_list() -> None:
    """`max_latency_list_size` says how many measurements make an average; 1 knows the last alone."""
    health = Health()
    router_of(health, routing_strategy_args=StrategyArgs(max_latency_list_size=1))
    (one,) = route_of({}).deployments
    answered(health, one, 1.0)
    answered(health, one, 9.0)
    assert health.of(one.id).pace.latency == 9.0


def test_the_cheapest_takes_all() -> None:
    """The lowest price of a usual request; ties are shared, and an unknown price comes last."""
    cheap = {"input_cost_per_token": "0.000001", "output_cost_per_token": "0.000002"}
    dear = {"input_cost_per_token": "0.000002", "output_cost_per_token": "0.000001"}
    route = route_of(cheap, dear, cheap, {})
    weigh = weigh_of("cost-based-routing", Health())
    assert weigh(route.deployments, Asked(), NOW) == [1.0, 0.0, 1.0, 0.0]
    assert weigh(route.deployments[1::2], Asked(), NOW) == [1.0, 0.0]


def test_the_nearest_take_all() -> None:
    """Those in the caller's region, else on its continent; else, or where nobody says, all by speed."""
    route, health = (
        route_of({"region_name": "eu-west-1"}, {"region_name": "DE"}, {"region_name": "us-east-1"}),
        Health(),
    )
    weigh = weigh_of("geo-routing", health)

    def shares(country: str) -> list[float]:
        return list(weigh(route.deployments, Asked(http=head({"cf-ipcountry": country})), NOW))

    assert shares("DE") == [0.0, 1.0, 0.0]
    assert shares("FR") == [1.0, 1.0, 0.0]
    assert shares("CA") == [0.0, 0.0, 1.0]
    assert shares("JP") == [1.0, 1.0, 1.0]
    assert weigh(route.deployments, Asked(), NOW) == [1.0, 1.0, 1.0]


def test_shares_are_used_again_for_a_moment() -> None:
    """Speeds are looked at ten times a second, not for each request, and anew for other candidates."""
    route, health = route_of({}, {}, {}), Health()
    weigh = weigh_of("latency-based-routing", health)
    asked = Asked(wants_stream=True)
    assert weigh(route.deployments, asked, NOW) == [1.0, 1.0, 1.0]
    for one, seconds in zip(route.deployments, (1.0, 1.0, 50.0), strict=True):
        answered(health, one, seconds, streamed=True)
    assert weigh(route.deployments, asked, NOW + 0.05) == [1.0, 1.0, 1.0]
    assert weigh(route.deployments[1:], asked, NOW + 0.05) == [1.0, EXPLORING]
    assert weigh(route.deployments, asked, NOW + 0.2) == [1.0, 1.0, EXPLORING]


def test_what_is_remembered_is_bounded() -> None:
    """Any number of regions that callers make up is answered."""
    route, health = route_of({}, {}), Health()
    weigh = weigh_of("geo-routing", health)
    for number in range(2_100):
        asked = Asked(http=head({"x-client-region": f"zz-{number}"}))
        assert sum(weigh(route.deployments, asked, NOW)) == 2.0


def test_a_split_by_weight() -> None:
    """An A/B test is two entries with weights: each gets its part, and its id says which it was."""
    route = route_of({"weight": 9}, {"weight": 1})
    router = router_of()
    drawn = Counter(one.id for _ in range(4_000) if (one := router.choose(route, Asked(), NOW)))
    assert 3_450 < drawn[route.deployments[0].id] < 3_750
