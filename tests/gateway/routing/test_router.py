"""The choice among deployments."""

from __future__ import annotations

from collections import Counter
from typing import Any

from adapters.errors import UpstreamOverloaded, UpstreamRateLimited
from gateway.config.model import QueueSettings, RouterSettings
from gateway.inbound import Controls
from gateway.routing.health import Health
from tests.gateway.routing.choosing import Asked, route_of, router_of


def test_shares_follow_the_weights() -> None:
    """Requests are shared by weight, and a weight of zero gets none while there are others."""
    route, router = route_of({"weight": 3}, {"weight": 1}, {"weight": 0}), router_of()
    drawn = Counter(
        found.target.model for _ in range(4_000) if (found := router.choose(route, Asked(), 100.0))
    )
    assert drawn["c"] == 0
    assert 2_700 < drawn["a"] < 3_300  # 11 standard deviations
    last = router.choose(route, Asked(), 100.0, asked=route.deployments[:2])
    assert last is route.deployments[2]


def test_a_lower_order_comes_first() -> None:
    """As long as one of the lowest order can be asked, no other is."""
    route, router = route_of({"order": 2}, {"order": 1}, {"order": 1}), router_of()
    first, *others = route.deployments
    assert {router.choose(route, Asked(), 100.0) for _ in range(50)} == set(others)
    assert router.choose(route, Asked(), 100.0, asked=others) is first


def test_what_cools_down_is_left_out() -> None:
    """A deployment that cools down is neither chosen nor asked again; `consider` says why."""
    health = Health(cooldown=5.0)
    route, router = route_of({}, {}), router_of(health)
    first, second = route.deployments
    health.began(first.id, 100.0)
    health.failed(first.id, UpstreamOverloaded("x"), 100.0, peers=[first.id, second.id])
    assert router.choose(route, Asked(), 101.0) is second
    assert router.choose(route, Asked(), 101.0, asked=[second]) is None
    assert router.again(route, Asked(), 101.0, asked=[first, second]) is second
    chosen, left_out = router.consider(route, Asked(), 101.0)
    assert (chosen.deployment, chosen.share, chosen.why_not) == (second, 1.0, "")
    assert (left_out.deployment, left_out.why_not) == (first, "it cools down for 4.0 s more")
    assert router.choose(route, Asked(), 105.0, asked=[second]) is first


def test_the_one_asked_least_is_asked_again() -> None:
    """When all were asked, the one with the fewest attempts is next, and among those the one asked first."""
    route, router = route_of({}, {}), router_of()
    first, second = route.deployments
    assert router.again(route, Asked(), 100.0, asked=[first, second]) is first
    assert router.again(route, Asked(), 100.0, asked=[first, second, first]) is second


def test_one_deployment_is_chosen_once() -> None:
    """The only deployment of a route is chosen without drawing, and not when it was asked."""
    route, router = route_of({}), router_of()
    (only,) = route.deployments
    assert router.choose(route, Asked(), 100.0) is only
    assert router.choose(route, Asked(), 100.0, asked=[only]) is None
    (considered,) = router.consider(route, Asked(), 100.0)
    assert considered.share == 1.0


def test_levels_are_considered_in_order() -> None:
    """`consider` shows deployments of a higher order after those that are asked first."""
    route, router = route_of({"order": 2}, {"order": 1}), router_of()
    first, second = router.consider(route, Asked(), 100.0)
    assert first.deployment.order == 1
    assert (second.share, second.why_not) == (0.0, "order 2 comes later")


def test_why_nobody_can() -> None:
    """Of several reasons the one that stays is told, else the one that lasts longest; the route says when to come again."""
    health = Health()
    route, router = (
        route_of({"rpm": 0, "tags": ("a",)}, {"rpm": 0}),
        router_of(health, enable_tag_filtering=True),
    )
    first, second = route.deployments
    for one in route.deployments:
        health.of(one.id).cooled_until = 104.0
    said = {one.deployment: one.why_not for one in router.consider(route, Asked(), 100.0)}
    assert said == dict.fromkeys((first, second), "it was asked 0 of 0 requests in the last minute")
    tagged = Asked(controls=Controls(tags=("a",)))
    said = {one.deployment: one.why_not for one in router.consider(route, tagged, 100.0)}
    assert said[second] == "its tags [] are not for the request's tags ['a']"
    error = router.nobody(route, tagged, 100.0)
    assert (error.status, error.headers["retry-after"]) == (429, "60")


def full(health: Health, deployment_id: str) -> None:
    """As many requests as it is known to take."""
    health.adopt(RouterSettings(adaptive_concurrency=True))
    for _ in range(10):
        health.began(deployment_id, 100.0)


def test_who_is_full_is_asked_last() -> None:
    """At its learnt limit a deployment gets nothing while another has room; without a queue it is better than nobody."""
    route, health = route_of({}, {}), Health()
    first, second = route.deployments
    full(health, first.id)
    router = router_of(health, adaptive_concurrency=True)
    assert {router.choose(route, Asked(), 100.0) for _ in range(20)} == {second}
    assert router.choose(route, Asked(), 100.0, [second]) is first
    full(health, second.id)
    assert {router.choose(route, Asked(), 100.0) for _ in range(50)} == {first, second}
    assert router.again(route, Asked(), 100.0, [first]) is first
    assert [one.why_not for one in router.consider(route, Asked(), 100.0)] == [
        "it has 10 of the 10 requests that it is known to take at once"
    ] * 2


def test_the_shares_of_those_who_are_full() -> None:
    """They share what is asked of them all the same, but for one at a limit that is written, or what waits for one of them."""
    route, health = route_of({"weight": 3}, {"weight": 1}, {"weight": 1, "rpm": 1}), Health()
    for one in route.deployments:
        full(health, one.id)

    def shares(*, waits: bool = False, **settings: Any) -> list[float]:
        router = router_of(health, adaptive_concurrency=True, **settings)
        return [one.share for one in router.consider(route, Asked(), 100.0, waits=waits)]

    assert shares() == [0.75, 0.25, 0.0]
    assert shares(queue=QueueSettings()) == [0.0] * 3
    assert shares(queue=QueueSettings(), waits=True) == [0.6, 0.2, 0.2]


def test_with_a_queue_who_is_full_is_waited_for() -> None:
    """Nobody is chosen then, not even of a single deployment, and nobody can tell how long it takes."""
    route, health = route_of({}), Health()
    full(health, route.deployments[0].id)
    router = router_of(health, adaptive_concurrency=True, queue=QueueSettings())
    assert router.choose(route, Asked(), 100.0) is None
    assert router.soonest(route, Asked(), 100.0) == 0


def test_what_is_worth_waiting_for() -> None:
    """The soonest of limits and of rate limits that cool; not a server that is broken, nor tags that are not meant for one."""
    health = Health()
    route = route_of({"rpm": 1, "tags": ["a"]}, {"tags": ["a"]})
    first, second = route.deployments
    router = router_of(health, enable_tag_filtering=True)
    asked = Asked(controls=Controls(tags=("a",)))
    health.began(first.id, 100.0)
    health.began(second.id, 100.0)
    health.failed(second.id, UpstreamOverloaded("x"), 100.0, peers=[first.id, second.id])
    assert router.soonest(route, asked, 101.0) == 4.0
    health.began(second.id, 100.0)
    health.failed(second.id, UpstreamRateLimited("x", retry_after=3), 104.0, peers=[first.id, second.id])
    assert router.soonest(route, asked, 104.0) == 3.0
    assert router.soonest(route, Asked(controls=Controls(tags=("b",))), 104.0) is None
    alone = route_of({})
    health.began(alone.deployments[0].id, 104.0)
    health.failed(alone.deployments[0].id, UpstreamRateLimited("x"), 104.0, peers=["other"], cooldown=9)
    health.look(alone.deployments[0].id).cooled_for = "upstream_auth"
    assert router.soonest(alone, Asked(), 104.0) is None
