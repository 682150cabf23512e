"""Asks another deployment beside one that is slow to begin, and takes whoever begins first (`router_settings.hedging`).

What a caller waits longest for is rarely the model and mostly one machine of many: the slowest of a hundred answers takes ten
times as long as most. So when a deployment has not begun after the time in which nearly all of its answers came, a second one
is asked the same question, and the loser's connection is closed at once.

That costs money, so each hedge needs room in the retry budget and in the caller's budgets, and the loser is billed too: what it
has read is estimated, `hedge_lost` in the row's attempts. Only chats, completions and embeddings are asked twice.

The request goes on as the story that it is: the rival runs as a story of its own on a copy of the exchange, so that neither sees
what the other writes. Whoever begins first ends the other, within the call that brought its first bytes. Nothing becomes a task.
"""

from __future__ import annotations

import asyncio
from copy import copy

from adapters.errors import GatewayError, Unsupported, UpstreamError
from gateway.attempting import Outrun, ask_one
from gateway.estimates import unreported
from gateway.exchange import Answer, Attempt, Exchange, Timings
from gateway.routes import Deployment, Route
from gateway.runtime import Runtime
from gateway.story import Interrupted, Signal, Story
from gateway.waiting import is_waited_for

_TWICE = frozenset({"chat", "completions", "embeddings"})
"""What may be asked twice: nothing is made by it but words."""


async def ask_hedged(
    rt: Runtime, x: Exchange, deployment: Deployment, route: Route, asked: list[Deployment]
) -> Answer:
    """As `ask_one`, with others of the route asked too if this one is slow; they are added to those `asked`. The attempt that
    answers is the last one.
    """
    seconds = _patience(rt, x, deployment, route)
    if seconds is None:
        return await ask_one(rt, x, deployment, route)
    race = _Race(rt, x, route, asked, seconds)
    try:
        return await ask_one(rt, x, deployment, route)
    except Interrupted as interrupted:
        if interrupted.error is not race.outrun:
            raise
        return race.won()
    except (UpstreamError, Unsupported):
        if race.is_running:
            await race.decided()
        if not race.has_winner:
            raise
        return race.won()
    finally:
        race.end()


def _patience(rt: Runtime, x: Exchange, deployment: Deployment, route: Route) -> float | None:
    """Seconds after which another one is asked too; None: never."""
    hedging = rt.config.router.hedging
    if hedging is None or x.attempts or len(route.deployments) < 2 or x.endpoint.operation not in _TWICE:
        return None
    if hedging.after is not None:
        return hedging.after
    return rt.health.of(deployment.id).pace.tail(streamed=x.wants_stream).value


class _Race:
    """One request and its rivals. The first deployment runs on the request itself, each rival on a copy of it."""

    def __init__(
        self, rt: Runtime, x: Exchange, route: Route, asked: list[Deployment], seconds: float
    ) -> None:
        self._rt = rt
        self._x = x
        self._route = route
        self._asked = asked
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(seconds, self._begin)
        self._rivals: list[Exchange] = []
        self._running: list[Story] = []
        self._winner: tuple[Exchange, Answer] | None = None
        self._decided: Signal | None = None
        """What the request waits for when the first one has failed."""
        self._is_over = False
        self._tries = 0
        self.outrun = Outrun("Another deployment was faster")

    @property
    def is_running(self) -> bool:
        """A rival may still answer."""
        return bool(self._running)

    @property
    def has_winner(self) -> bool:
        """A rival has begun to answer."""
        return self._winner is not None

    async def decided(self) -> None:
        """Wait until a rival has begun, or all have failed."""
        self._timer.cancel()
        self._decided = Signal()
        await self._decided

    def won(self) -> Answer:
        """The rival's answer; the request knows from now on what that rival knows."""
        assert self._winner is not None, "asked for when there is a winner"  # noqa: S101 - for the type checker
        (rival, answer), self._winner = self._winner, None
        x = self._x
        x.deployment, x.dropped = rival.deployment, rival.dropped
        x.tap, x.usage, x.finish, x.answer_id = rival.tap, rival.usage, rival.finish, rival.answer_id
        x.at.sent, x.at.first_event = rival.at.sent, rival.at.first_event
        self._rivals.remove(rival)
        for attempt in x.attempts:
            if attempt.error is None:
                self._lost(attempt)
        self._call_off()
        x.attempts += rival.attempts  # whoever answers is the last one
        self._rt.metrics.hedged("won")
        return answer

    def end(self) -> None:
        """It is decided, or the request is over: whoever still runs is called off."""
        self._timer.cancel()
        if self._winner is not None:  # it began, and the request was interrupted for another reason
            (rival, answer), self._winner = self._winner, None
            self._throw_away(rival, answer)
        self._call_off()

    def _call_off(self) -> None:
        self._is_over = True
        running, self._running = self._running, []
        for story in running:
            story.interrupt(self.outrun)
        rivals, self._rivals = self._rivals, []
        others = [attempt for rival in rivals for attempt in rival.attempts]
        for attempt in others:
            if attempt.error is None:
                self._lost(attempt)
                self._rt.metrics.hedged("lost")
        self._x.attempts[:0] = others

    def _throw_away(self, rival: Exchange, answer: Answer) -> None:
        answer.__exit__()
        rival.attempts[-1].answered = False
        self._rt.health.released(rival.attempts[-1].deployment.id)

    # -- a rival -----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The time is over: let another one be asked, and the next after as long again, whether or not there was one: the time
        may be milliseconds, and the first may never answer.
        """
        self._tries += 1
        story = Story(self._loop, self._ended)
        self._running.append(story)
        story.start(self._rival(story))
        most = 1 if (hedging := self._rt.config.router.hedging) is None else hedging.max
        if self._tries < most and not self._is_over:
            self._timer = self._loop.call_later(self._seconds, self._begin)

    async def _rival(self, story: Story) -> None:
        rt, x, route = self._rt, self._x, self._route
        deployment = rt.router.choose(route, x, rt.now(), self._asked)
        if deployment is None:
            rt.metrics.hedged("nobody")
            return
        self._asked.append(deployment)
        if not await self._has_room(deployment):
            self._asked.remove(deployment)  # if the first one fails it may still be asked
            rt.metrics.hedged("refused")
            return
        rival = copy(x)
        rival.story, rival.attempts, rival.dropped, rival.at = story, [], [], Timings(x.at.began)
        self._rivals.append(rival)
        try:
            answer = await ask_one(rt, rival, deployment, route, is_hedge=True)
        except GatewayError:
            rt.metrics.hedged("failed")
            return
        if self._is_over or self._winner is not None:
            self._throw_away(rival, answer)
            return
        self._winner = rival, answer
        self._running.remove(story)
        if self._decided is not None:
            self._decided.set()
        else:
            x.story.interrupt(self.outrun)

    async def _has_room(self, deployment: Deployment) -> bool:
        """In the retry budget, in the caller's budgets for one more that is billed, and still at that deployment; and it overtakes
        nobody.
        """
        rt, x = self._rt, self._x
        if not rt.retry_budget.has_room(rt.now()) or is_waited_for(rt, x, self._route):
            return False
        if rt.limiter.binds(x.caller) and not await rt.limiter.top_up(x, self._route, again=True):
            return False
        return rt.router.is_possible(deployment, self._route, x, rt.now()) and rt.retry_budget.take(rt.now())

    def _ended(self, story: Story) -> None:
        if story in self._running:
            self._running.remove(story)
        if self._decided is not None and not self._running:
            self._decided.set()

    def _lost(self, attempt: Attempt) -> None:
        """It was asked in vain, and has read the question, if that was sent."""
        rt, x, deployment = self._rt, self._x, attempt.deployment
        now = rt.now()
        attempt.error = self.outrun
        attempt.seconds = now - attempt.started
        pace = rt.health.of(deployment.id).pace
        pace.outrun(now, attempt.seconds, rt.health.keep, streamed=x.wants_stream)
        if deployment.mock is None and attempt.is_sent:
            attempt.usage = unreported(
                x.endpoint.operation, deployment.price, x.envelope, sent=x.body_size, said=0
            )
