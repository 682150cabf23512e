"""How many requests at once a deployment takes, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from adapters.errors import UpstreamOverloaded, UpstreamRateLimited
from gateway.config.model import RouterSettings
from gateway.routing.concurrency import Concurrency, seconds_until
from gateway.routing.health import Health

WALL = 1_750_000_000.0


class Played:
    """A deployment under more load than it takes: what was in flight each second, how many were asked and refused."""

    def __init__(self) -> None:
        self.places: list[int] = []
        self.asked = 0
        self.refused = 0


def play(hidden: Callable[[float], int], seconds: float, seed: int, *, first: float = 1.0) -> Played:
    """Ask as much as the learnt limit allows; whatever is over `hidden` is refused after 5 ms, the rest takes `first` s."""
    dice = random.Random(seed)
    learnt, played = Concurrency(), Played()
    numbers = itertools.count()
    events: list[tuple[float, int, float, bool]] = []
    now, in_flight, inside, next_second = 0.0, 0, 0, 0.0
    while now < seconds:
        while in_flight < learnt.places:
            in_flight += 1
            played.asked += 1
            learnt.began()
            fits = inside < hidden(now)
            inside += fits
            after = dice.gammavariate(4, first / 4) if fits else 0.005
            heapq.heappush(events, (now + after, next(numbers), now, fits))
        now, _, started, fits = heapq.heappop(events)
        if fits:
            inside -= 1
            learnt.answered(now, in_flight, None)
            in_flight -= 1
        else:
            in_flight -= 1
            played.refused += 1
            learnt.refused(now, started, in_flight)
        if now >= next_second:
            played.places.append(learnt.places)
            next_second += 1.0
    return played


def play_together(hidden: int, processes: int, seconds: float, seed: int) -> list[int]:
    """The same with several processes that know nothing of each other: what all have learnt together, each second."""
    dice = random.Random(seed)
    learnt = [Concurrency() for _ in range(processes)]
    in_flight = [0] * processes
    sums: list[int] = []
    numbers = itertools.count()
    events: list[tuple[float, int, int, float, bool]] = []
    now, inside = 0.0, 0
    while now < seconds:
        for mine, own in enumerate(learnt):
            while in_flight[mine] < own.places:
                in_flight[mine] += 1
                fits = inside < hidden
                inside += fits
                after = dice.gammavariate(4, 0.25) if fits else 0.005
                heapq.heappush(events, (now + after, next(numbers), mine, now, fits))
        now, _, mine, started, fits = heapq.heappop(events)
        if fits:
            inside -= 1
            learnt[mine].answered(now, in_flight[mine], None)
        in_flight[mine] -= 1
        if not fits:
            learnt[mine].refused(now, started, in_flight[mine])
        if now >= len(sums):
            sums.append(sum(own.places for own in learnt))
    return sums


def mean(values: list[int]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("hidden", [1, 2, 4, 10, 33, 100])
@pytest.mark.parametrize("seed", range(5))
def test_it_finds_what_a_provider_takes(hidden: int, seed: int) -> None:
    """After two minutes it stays within a tenth of any hidden limit (or one), and at most one in eight is refused on the way."""
    played = play(lambda _: hidden, 240, seed)
    found = mean(played.places[120:])
    assert abs(found - hidden) <= max(1.0, hidden / 10)
    assert played.refused / played.asked < 0.14


@pytest.mark.parametrize("seed", range(5))
def test_it_follows_what_changes(seed: int) -> None:
    """A provider that has a quarter of its room is known within ten seconds, one that has it back within two minutes."""
    played = play(lambda now: 10 if 120 <= now < 240 else 40, 400, seed)
    assert abs(mean(played.places[90:120]) - 40) <= 5
    assert abs(mean(played.places[130:150]) - 10) <= 2
    assert abs(mean(played.places[360:]) - 40) <= 6


@pytest.mark.parametrize("seed", range(3))
def test_what_several_have_learnt_adds_up(seed: int) -> None:
    """Three processes that share what a provider takes come within a fifth of it together."""
    assert abs(mean(play_together(30, 3, 240, seed)[120:]) - 30) <= 6


def test_it_grows_only_where_it_is_full() -> None:
    """A hundred answers of a deployment that was never full say nothing about what it takes."""
    learnt = Concurrency()
    for second in range(100):
        learnt.answered(float(second), 3, None)
    assert learnt.places == 10


def test_refusals_of_one_round_halve_it_once() -> None:
    """Thirty that were sent together and refused together bring forty down to twenty, the next round to what fits."""
    learnt = Concurrency()
    learnt.limit = 40.0
    for left in range(39, 9, -1):
        assert learnt.refused(1.0, 0.5, left)
    assert learnt.places == 20
    learnt.refused(2.0, 1.5, 10)
    assert learnt.places == 10


def test_who_refuses_everything_is_not_crowded() -> None:
    """Refusals without an answer in between are put down to the load only as long as there is some, and not for ever."""
    learnt = Concurrency()
    assert not learnt.refused(1.0, 0.5, 0)
    told = [learnt.refused(float(second), second - 0.5, 3) for second in range(2, 10)]
    assert told[0]
    assert not told[-1]
    learnt.answered(11.0, 1, None)
    assert learnt.refused(12.0, 11.5, 3)


def test_streams_that_begin_late_make_it_shrink_gently() -> None:
    """Three times the usual best to the first event takes one off for each round, down to four; half as slow changes nothing."""
    learnt = Concurrency()
    learnt.refused(0.0, 0.0, 20)
    learnt.limit = 20.0
    for tenth in range(40):
        learnt.answered(tenth / 10, 5, 1.0)
    for tenth in range(20):
        learnt.answered(4 + tenth / 10, 20, 3.0)
    assert learnt.places == 18
    for tenth in range(400):
        learnt.answered(6 + tenth / 10, 20, 3.0)
    assert learnt.places == 4
    before = learnt.limit
    learnt.answered(50.0, 20, 1.5)
    assert learnt.limit > before


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360.0),
        ("17.399999999s", 17.399999999),
        ("2ms", 0.002),
        ("1h2m3s", 3723.0),
        ("17.4", 17.4),
        ("0", 0.0),
        ("2025-06-15T15:06:50Z", 10.0),
        ("2025-06-15T15:06:50", None),
        ("2025-99-15T15:06:50Z", None),
        ("", None),
        ("soon", None),
        ("5x", None),
        ("-3s", None),
    ],
)
def test_resets_are_read(text: str, seconds: float | None) -> None:
    """Go's spans, plain seconds and RFC 3339; anything else is nothing."""
    found = seconds_until(text, WALL)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_a_limit_that_fills_up_is_waited_for_in_parts() -> None:
    """60 requests a minute, none left: the next one may go after a second, not after the whole minute."""
    learnt = Concurrency()
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-reset-requests": "1m0s",
    }
    learnt.heard(headers, 100.0, WALL)
    assert learnt.wait(100.0) == pytest.approx(1.0)
    assert learnt.wait(101.5) == 0
    learnt.began()
    assert learnt.wait(101.5) == pytest.approx(0.5)
    assert learnt.wait(160.0) == 0


def test_without_a_limit_the_reset_is_waited_for() -> None:
    """Nobody knows how fast it fills up then; Anthropic's reset is a time of day, and the longest of all waits counts."""
    learnt = Concurrency()
    headers = {
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2025-06-15T15:06:50Z",
        "anthropic-ratelimit-requests-remaining": "3999",
        "anthropic-ratelimit-requests-limit": "4000",
        "anthropic-ratelimit-requests-reset": "2025-06-15T15:06:41Z",
    }
    learnt.heard(headers, 0.0, WALL)
    assert learnt.wait(0.0) == pytest.approx(10.0)
    assert learnt.wait(10.0) == 0


def test_requests_that_are_sent_use_up_what_was_left() -> None:
    """With three left three go out, before any answer tells that there are none."""
    learnt = Concurrency()
    headers = {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "20"}
    learnt.heard(headers, 0.0, WALL)
    for _ in range(3):
        assert learnt.wait(0.0) == 0
        learnt.began()
    assert learnt.wait(0.0) == pytest.approx(20.0)


def test_nonsense_in_headers_is_no_limit() -> None:
    """Negative, endless or absurd figures of a provider bind nobody, and no reset for longer than five minutes."""
    learnt = Concurrency()
    for count, reset in (("-1", "5s"), ("many", "5s"), ("0", "whenever"), ("9" * 400, "5s"), ("1e9", "5s")):
        learnt.heard(
            {"x-ratelimit-remaining-requests": count, "x-ratelimit-reset-requests": reset}, 0.0, WALL
        )
        assert learnt.wait(0.0) == 0
    learnt.heard({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "48h"}, 0.0, WALL)
    assert learnt.wait(0.0) == 300


def adaptive() -> Health:
    health = Health()
    health.adopt(RouterSettings(adaptive_concurrency=True))
    return health


def test_a_crowded_deployment_is_not_left_out() -> None:
    """Its limit is lower instead, and its circuit stays closed; a `Retry-After` is heeded as ever."""
    health = adaptive()
    for _ in range(10):
        health.began("a", 100.0)
    for _ in range(6):
        health.failed("a", UpstreamOverloaded("x"), 100.1, peers=["a", "b"], started=100.0)
    condition = health.look("a")
    assert condition.concurrency is not None
    assert condition.concurrency.places == 5
    assert health.is_available("a", 100.1)
    assert condition.breaker is None
    health.failed("a", UpstreamRateLimited("x", retry_after=7), 100.2, peers=["a", "b"], started=100.0)
    assert not health.is_available("a", 105.0)


def test_a_deployment_that_refuses_alone_is_left_out() -> None:
    """One request, one refusal: that has nothing to do with how many there are at once."""
    health = adaptive()
    health.began("a", 100.0)
    health.failed("a", UpstreamOverloaded("x"), 100.1, peers=["a", "b"], started=100.0)
    assert not health.is_available("a", 100.2)


def test_nothing_is_learnt_where_nobody_asked_for_it() -> None:
    """Without `adaptive_concurrency` a condition has no limit."""
    health = Health()
    health.began("a", 100.0)
    health.failed("a", UpstreamOverloaded("x"), 100.1, peers=["a"])
    assert health.look("a").concurrency is None
    assert list(health.learnt()) == []
