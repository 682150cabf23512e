"""What each strategy does with a fleet of deployments, in virtual time: `python -m bench.routing`.

The router, its health book and its strategies are the gateway's own; only the clock and the deployments are simulated. A
request is a stream that comes at random, is asked of the deployment that `Router.choose` draws, and of another if that
fails, as `stages.upstream` does. An hour passes in seconds, and the same seed gives the same figures.

    python -m bench.routing                    all strategies through all scenes
    python -m bench.routing brown-out          scenes with one of the words in their name
    python -m bench.routing --json

`slow` is the share of attempts that went to the deployment in trouble, in the ten seconds that begin 30 s after its trouble did
(or over all, where none has). `asked` is attempts over requests: 1.00 asks nobody twice.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
from collections.abc import Mapping

from msgspec import Raw, Struct, field
from msgspec.structs import asdict
from multidict import CIMultiDict

from adapters.errors import UpstreamOverloaded, UpstreamRateLimited
from adapters.types import Usage
from bench.machine import chosen
from gateway.config.model import Config, ModelEntry, ModelParams, Place, RouterSettings, Secret
from gateway.endpoints import ENDPOINTS
from gateway.inbound import NO_CONTROLS, Controls, Head
from gateway.keyring import ANONYMOUS, Caller
from gateway.pricing import PriceTable
from gateway.routes import Route, compile_routes
from gateway.routing.health import Health
from gateway.routing.router import Router

START = 1_000.0
STRATEGIES = (
    "simple-shuffle",
    "least-busy",
    "usage-based-routing",
    "latency-based-routing",
    "performance-based",
    "adaptive",
)
"""Those that differ here: prices and places do not change with the load. `adaptive` is `simple-shuffle` with
`adaptive_concurrency`."""
_ATTEMPTS = 3
_CHAT = next(endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/chat/completions")


class Span(Struct, frozen=True):
    """A part of the time, in seconds since the start."""

    begin: float
    end: float

    def has(self, at: float) -> bool:
        return self.begin <= at < self.end


_NEVER = Span(0, 0)


class Simulated(Struct, frozen=True):
    """A deployment: mean seconds to its answer, requests that it takes per minute and at once, and when it is slow or down."""

    seconds: float = 1.0
    rpm: int | None = None
    at_once: int | None = None
    """Which nobody has written down: more are refused without a `Retry-After`."""
    slow: Span = _NEVER
    slower: float = 10.0
    """How many times slower it is then."""
    down: Span = _NEVER


class Scene(Struct, frozen=True):
    """A fleet and its load: requests per second for so many seconds. `watched` is the deployment in trouble, since when."""

    fleet: tuple[Simulated, ...]
    rate: float = 20.0
    seconds: float = 180.0
    watched: int = 0
    since: float = 0.0


SCENES: Mapping[str, Scene] = {
    "alike": Scene((Simulated(), Simulated(), Simulated())),
    "uneven": Scene((Simulated(3.0), Simulated(1.0), Simulated(0.5))),
    "limits": Scene((Simulated(rpm=120), Simulated(rpm=600), Simulated(rpm=900))),
    "crowded": Scene((Simulated(at_once=4), Simulated(at_once=8), Simulated(at_once=20))),
    "outage": Scene((Simulated(0.05, down=Span(60, 120)), Simulated(), Simulated()), since=60.0),
    "brown-out": Scene((Simulated(slow=Span(60, 120)), Simulated(), Simulated()), since=60.0),
}


class Wanted(Struct):
    """A streaming chat, as far as its choice goes."""

    http: Head
    caller: Caller | None = ANONYMOUS
    controls: Controls = NO_CONTROLS
    envelope: Mapping[str, Raw] = {}
    wants_stream: bool = True


class Outcome(Struct):
    """What came of it. Seconds of answered requests; attempts as (second, position of the deployment)."""

    offered: int = 0
    errors: int = 0
    seconds: list[float] = field(default_factory=list)
    attempts: list[tuple[float, int]] = field(default_factory=list)

    def share(self, position: int, span: Span) -> float:
        """The part of the attempts in that time that went to one deployment."""
        found = [where for at, where in self.attempts if span.has(at)]
        return found.count(position) / len(found) if found else 0.0

    def percentile(self, part: float) -> float:
        """Seconds below which this part of the answers stayed."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


class Figures(Struct, frozen=True):
    """A line of the table."""

    scene: str
    strategy: str
    p50: float
    p99: float
    errors: float
    slow: float
    asked: float


def route_of(scene: Scene) -> Route:
    """The fleet as a route, made as the gateway makes it."""
    entries = tuple(
        ModelEntry(
            model_name="m",
            params=ModelParams(model=f"openai/d{position}", api_key=Secret("unused"), rpm=one.rpm),
            place=Place("bench", 1, 1),
        )
        for position, one in enumerate(scene.fleet)
    )
    found = compile_routes(Config(model_list=entries), {}, PriceTable.load()).find("m")
    assert found is not None
    return found


class _Asked(Struct):
    """A request under way: when it came, when it was last asked of somebody, and of whom it was asked."""

    came: float
    sent: float = 0.0
    tried: list[int] = field(default_factory=list)


def simulate(scene: Scene, strategy: str, seed: int = 1) -> Outcome:
    """Play a scene, in which everything is drawn from `seed`."""
    dice = random.Random(seed)
    route, health = route_of(scene), Health()
    settings = (
        RouterSettings(adaptive_concurrency=True)
        if strategy == "adaptive"
        else RouterSettings(routing_strategy=strategy)
    )
    health.adopt(settings)
    router = Router(settings, health, random.Random(seed))
    wants = Wanted(Head(_CHAT, CIMultiDict(), remote="127.0.0.1", keep_alive=True))
    outcome, numbers = Outcome(), itertools.count()
    peers = [deployment.id for deployment in route.deployments]
    inside = [0 for _ in scene.fleet]
    asked_lately: list[list[float]] = [[] for _ in scene.fleet]
    events: list[tuple[float, int, _Asked, int | None, str]] = []

    def ask(request: _Asked, at: float) -> None:
        tried = [route.deployments[position] for position in request.tried]
        chosen = router.choose(route, wants, START + at, tried) if len(tried) < _ATTEMPTS else None
        if chosen is None:
            outcome.errors += 1
            return
        position = route.deployments.index(chosen)
        request.tried.append(position)
        request.sent = at
        outcome.attempts.append((at, position))
        health.began(chosen.id, START + at)
        one, lately = scene.fleet[position], asked_lately[position]
        lately[:] = [then for then in lately if then > at - 60]
        if one.down.has(at):
            after, how = 0.005, "down"
        elif one.rpm is not None and len(lately) >= one.rpm:
            after, how = 0.005, "limited"
        elif one.at_once is not None and inside[position] >= one.at_once:
            after, how = 0.005, "crowded"
        else:
            lately.append(at)
            inside[position] += 1
            usual = one.seconds * (one.slower if one.slow.has(at) else 1.0)
            after, how = dice.gammavariate(4.0, usual / 4.0), "answered"
        heapq.heappush(events, (at + after, next(numbers), request, position, how))

    at = 0.0
    while (at := at + dice.expovariate(scene.rate)) < scene.seconds:
        heapq.heappush(events, (at, next(numbers), _Asked(at), None, ""))
    while events:
        at, _, request, where, how = heapq.heappop(events)
        now = START + at
        if where is None:
            outcome.offered += 1
            ask(request, at)
            continue
        deployment_id = peers[where]
        if how == "answered":
            inside[where] -= 1
            health.succeeded(deployment_id, now, at - request.sent, streamed=True)
            health.used(deployment_id, now, Usage(input=1_000, output=250))
            outcome.seconds.append(at - request.came)
        else:
            error = UpstreamRateLimited("x", retry_after=5) if how == "limited" else UpstreamOverloaded("x")
            health.failed(deployment_id, error, now, peers=peers, started=START + request.sent)
            ask(request, at)
    return outcome


def figures(name: str, strategy: str, seed: int = 1) -> Figures:
    """What is shown of a scene that is played with a strategy."""
    scene = SCENES[name]
    outcome = simulate(scene, strategy, seed)
    watched = Span(scene.since + 30, scene.since + 40) if scene.since else Span(0, scene.seconds)
    return Figures(
        name,
        strategy,
        outcome.percentile(0.5),
        outcome.percentile(0.99),
        outcome.errors / outcome.offered,
        outcome.share(scene.watched, watched),
        len(outcome.attempts) / outcome.offered,
    )


def main() -> None:
    """Print the table, or the same as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="scenes with one of these words in their name")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    scenes = chosen(parser, SCENES, arguments.words)
    found = [figures(name, strategy) for name in scenes for strategy in STRATEGIES]
    if arguments.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
        return
    print(f"{'scene':10} {'strategy':22} {'p50 s':>6} {'p99 s':>6} {'errors':>7} {'slow':>6} {'asked':>6}")
    for one in found:
        print(
            f"{one.scene:10} {one.strategy:22} {one.p50:6.2f} {one.p99:6.2f} {one.errors:7.2%} {one.slow:6.1%} {one.asked:6.2f}"
        )


if __name__ == "__main__":
    main()
