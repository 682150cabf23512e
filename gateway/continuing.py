"""Goes on with a stream that broke (`router_settings.stream_recovery: continue`).

Once a client has read words nobody else can answer anew, but another deployment of the same route can be asked to continue what
was said (`adapters.continuation`). The client reads one answer: the same id and model, one end, one usage. Both deployments are
billed, and the row has both; the further attempt needs room in the retry budget and in the caller's budgets.

What the client was told is kept only for requests that might be continued, and only where the setting is on.
"""

from __future__ import annotations

from adapters.continuation import Heard, can_continue, question_to_continue
from adapters.errors import GatewayError
from adapters.types import Usage
from gateway.attempting import Outrun, ask_one, may_go_on
from gateway.client import ClientWriter
from gateway.estimates import of_cut_stream, tokens_said
from gateway.exchange import Answer, Attempt, Exchange
from gateway.runtime import Runtime


class Listening:
    """In the client's place: what is written to it is heard."""

    def __init__(self, client: ClientWriter, heard: Heard) -> None:
        self._client = client
        self._hear = heard.feed
        self.drained = client.drained
        self.drop = client.drop

    @property
    def is_full(self) -> bool:
        """As the client's."""
        return self._client.is_full

    def write(self, events: bytes) -> bool:
        """Whole events. True: the client `is_full` now."""
        is_full = self._client.write(events)
        self._hear(events)
        return is_full


def listen(rt: Runtime, x: Exchange) -> ClientWriter | Listening:
    """Who a stream is written to: the client, or who hears what it is told."""
    if x.heard is None:  # one that is heard already is heard to its end, whatever a reload says meanwhile
        if rt.config.router.stream_recovery == "none" or x.endpoint.operation != "chat":
            return x.client
        if can_continue(x.envelope):
            x.heard = Heard(x.endpoint.client_format)
    return x.client if x.heard is None else Listening(x.client, x.heard)


async def continued(rt: Runtime, x: Exchange, answer: Answer, error: GatewayError) -> Answer | None:
    """The rest of an answer that broke with this error, as another deployment begins to give it; None if nobody does."""
    heard, tap = x.heard, answer.tap
    if heard is None or tap is None:
        return None
    if not (error.elsewhere and heard.is_fit and tap.finish is None):
        rt.metrics.recovered("unfit")
        return None
    if answer.response is not None:
        answer.response.abort()  # one that was only silent might speak again while room is looked for
    broken = x.attempts[-1]
    route = broken.route or x.plan[0]
    asked = [attempt.deployment for attempt in x.attempts if not isinstance(attempt.error, Outrun)]
    question, text, said = x.envelope, heard.text, tokens_said(tap.deltas, tap.chars)
    began, sent = x.at.first_event, x.at.sent
    while True:
        if rt.router.choose(route, x, rt.now(), asked) is None or not await may_go_on(rt, x, route):
            break
        deployment = rt.router.choose(route, x, rt.now(), asked)  # as late as that: others ask too
        if deployment is None or not rt.retry_budget.take(rt.now()):
            break
        if not broken.error:
            _note(rt, x, answer, broken, error)
        asked.append(deployment)
        x.envelope = question_to_continue(question, x.endpoint.client_format, text, said, deployment.target)
        try:
            rest = await ask_one(rt, x, deployment, route)
        except GatewayError:
            x.tap, x.deployment = None, broken.deployment
            continue
        finally:
            x.envelope = question
            x.at.first_event, x.at.sent = began, sent
        rt.metrics.recovered("continued")
        return rest
    rt.metrics.recovered("nobody")
    return None


def _note(rt: Runtime, x: Exchange, answer: Answer, broken: Attempt, error: GatewayError) -> None:
    """The attempt has failed, and what it said is billed beside what another one will say."""
    heard, tap = x.heard, answer.tap
    broken.error, broken.answered = error, False
    now = rt.now()
    broken.tell_failure(rt.health, error, now, rt.router.peers(broken.route, x, now))
    if heard is not None and tap is not None:
        if broken.deployment.mock is None:
            broken.usage = of_cut_stream(tap.usage, x.envelope, tap.deltas, tap.chars)
            heard.before = broken.usage + (heard.before or Usage())
        heard.resumes = True
    x.tap = None
    answer.__exit__()
    answer.give_up = None
