"""Conversations stay where they are cached, while that pays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from gateway.config.model import RouterSettings
from gateway.inbound import Controls
from gateway.keyring import ANONYMOUS, Caller
from gateway.routes import Deployment, Route
from gateway.routing.affinity import SECOND, WAIT, Affinity, affinity_of
from gateway.routing.health import Health
from tests.gateway.routing.choosing import Asked, route_of, router_of

PRICED = {
    "input_cost_per_token": "0.000003",
    "output_cost_per_token": "0.000015",
    "cache_read_input_token_cost": "0.0000003",
}
SYSTEM = {"role": "system", "content": "You are of help. " * 300}  # 5 kB: 1,250 tokens


def asked(*messages: Mapping[str, Any], caller: Caller = ANONYMOUS, session: str = "", **more: Any) -> Asked:
    """A chat."""
    body = {"messages": list(messages), **more}
    return Asked(
        controls=Controls(session_id=session or None),
        caller=caller,
        envelope={name: Raw(json.dumps(value).encode()) for name, value in body.items()},
    )


def says(text: str, role: str = "user") -> dict[str, str]:
    """A message."""
    return {"role": role, "content": text}


def affinity(health: Health, **settings: Any) -> Affinity:
    """One that is switched on."""
    found = affinity_of(RouterSettings(**settings), health)
    assert found is not None
    return found


def three() -> tuple[Route, Deployment, Deployment, Deployment]:
    """A route of three deployments of one price."""
    route = route_of(PRICED, PRICED, PRICED)
    first, second, third = route.deployments
    return route, first, second, third


def test_it_is_off_unless_somebody_wants_it() -> None:
    """Nothing is remembered by default, nor with checks that are about something else."""
    assert affinity_of(RouterSettings(), Health()) is None
    assert (
        affinity_of(RouterSettings(optional_pre_call_checks=("enforce_model_rate_limits",)), Health()) is None
    )


def test_the_next_turn_goes_where_the_last_one_was() -> None:
    """A conversation that begins with the same bytes is answered by the same deployment; another one is drawn."""
    (route, _, second, _), health = three(), Health()
    stays = affinity(health, prompt_cache_affinity=True)
    begin = [SYSTEM, says("What is a penstock?")]
    stays.remember(asked(*begin), second.id, 100.0)
    turn = asked(*begin, says("A sluice.", "assistant"), says("And then?"))
    assert stays.preferred(route.deployments, turn, 101.0) is second
    other = asked({**SYSTEM, "content": "Another one. " * 500}, says("What is a penstock?"))
    assert stays.preferred(route.deployments, other, 101.0) is None
    assert stays.preferred(route.deployments, turn, 400.0) is None  # the provider has forgotten it too


def test_short_prompts_are_nobodys() -> None:
    """What no provider caches is not remembered."""
    (_, first, _, _), health = three(), Health()
    stays = affinity(health, prompt_cache_affinity=True)
    stays.remember(asked(says("Hello")), first.id, 100.0)
    assert len(health.conversations) == 0


def test_the_longest_beginning_decides() -> None:
    """Two conversations with one system prompt stay with the two who answered them."""
    (route, first, second, _), health = three(), Health()
    stays = affinity(health, prompt_cache_affinity=True)
    one = [SYSTEM, says("one " * 1_000)]
    two = [SYSTEM, says("two " * 1_000)]
    stays.remember(asked(*one), first.id, 100.0)
    stays.remember(asked(*two), second.id, 100.0)
    answer = says("Yes.", "assistant")
    assert stays.preferred(route.deployments, asked(*one, answer, says("x")), 101.0) is first
    assert stays.preferred(route.deployments, asked(*two, answer, says("x")), 101.0) is second


def test_a_queue_is_worth_so_much_and_no_more() -> None:
    """What the cache saves is compared with the wait: 1,024 tokens at $2.70 a million are worth 2.7 seconds."""
    (route, first, _, _), health = three(), Health()
    stays = affinity(health, prompt_cache_affinity=True)
    question = asked(SYSTEM, says("?"))
    stays.remember(question, first.id, 100.0)
    saved = 1_024 * 2_700  # nano-dollars
    fits = int(saved / SECOND / WAIT)
    for _ in range(fits):
        health.began(first.id, 100.0)
    assert stays.preferred(route.deployments, question, 101.0) is first
    health.began(first.id, 100.0)
    assert stays.preferred(route.deployments, question, 101.0) is None
    for one in route.deployments[1:]:  # the others are as busy
        health.began(one.id, 100.0)
    assert stays.preferred(route.deployments, question, 101.0) is first


def test_without_a_price_of_the_cache_nothing_is_saved() -> None:
    """The draw decides where nobody knows what the cache saves; LiteLLM's checks do not ask for that."""
    route, health = route_of({"model": "openai/unknown-1"}, {"model": "openai/unknown-2"}), Health()
    first = route.deployments[0]
    question = asked(SYSTEM, says("?"))
    stays = affinity(health, prompt_cache_affinity=True)
    stays.remember(question, first.id, 100.0)
    assert stays.preferred(route.deployments, question, 101.0) is None
    strict = affinity(health, optional_pre_call_checks=("prompt_caching",))
    for _ in range(1_000):
        health.began(first.id, 100.0)
    assert strict.preferred(route.deployments, question, 101.0) is first


def test_sessions_and_keys() -> None:
    """A session is one caller's; `deployment_affinity` keeps all that a key asks; each for its time."""
    (route, first, second, _), health = three(), Health()
    one, two = Caller("key", "digest-1"), Caller("key", "digest-2")
    sessions = affinity(
        health, optional_pre_call_checks=("session_affinity",), deployment_affinity_ttl_seconds=60
    )
    sessions.remember(asked(says("a"), session="s", caller=one), first.id, 100.0)
    again = asked(says("b"), session="s", caller=one)
    assert sessions.preferred(route.deployments, again, 101.0) is first
    assert sessions.preferred(route.deployments, asked(says("b"), session="s", caller=two), 101.0) is None
    assert sessions.preferred(route.deployments, asked(says("b"), caller=one), 101.0) is None
    assert sessions.preferred(route.deployments, again, 160.0) is None
    keys = affinity(health, optional_pre_call_checks=("deployment_affinity",))
    keys.remember(asked(says("a"), caller=two), second.id, 100.0)
    assert keys.preferred(route.deployments, asked(says("c"), caller=two), 3_000.0) is second
    keys.remember(asked(says("a")), first.id, 100.0)  # nobody in particular
    assert keys.preferred(route.deployments, asked(says("a")), 101.0) is None


def test_a_cache_key_of_the_client() -> None:
    """`prompt_cache_key` names a conversation however it begins."""
    (route, _, second, _), health = three(), Health()
    stays = affinity(health, optional_pre_call_checks=("prompt_caching",))
    stays.remember(asked(says("a"), prompt_cache_key="k"), second.id, 100.0)
    assert stays.preferred(route.deployments, asked(says("b"), prompt_cache_key="k"), 101.0) is second
    assert stays.preferred(route.deployments, asked(says("b"), prompt_cache_key="j"), 101.0) is None


def test_the_router_asks_it_and_goes_on_without() -> None:
    """The router keeps the conversation where it is, and draws among the others when that one is down or was asked."""
    (route, _, second, _), health = three(), Health()
    router = router_of(health, prompt_cache_affinity=True)
    question = asked(SYSTEM, says("?"))
    assert router.affinity is not None
    router.affinity.remember(question, second.id, 100.0)
    assert {router.choose(route, question, 101.0) for _ in range(30)} == {second}
    assert router.choose(route, question, 101.0, asked=[second]) is not second
    health.of(second.id).cooled_until = 200.0
    assert router.choose(route, question, 101.0) is not second


@pytest.mark.parametrize("size", [1, 4_000, 20_000, 100_000])
@given(st.data())
def test_a_longer_conversation_has_the_beginnings_of_the_shorter(size: int, data: st.DataObject) -> None:
    """Whatever is added to a conversation, who answered it before is found, as soon as it is long enough to be cached."""
    text = data.draw(st.text(min_size=1, max_size=20)) * (size // 20 + 1)
    (route, first, _, _), health = three(), Health()
    stays = affinity(health, optional_pre_call_checks=("prompt_caching",))
    begin = [says(text)]
    stays.remember(asked(*begin), first.id, 100.0)
    longer = asked(*begin, says("so", "assistant"), says(data.draw(st.text())))
    expected = first if len(json.dumps(begin)) > 4_096 else None
    assert stays.preferred(route.deployments, longer, 101.0) is expected
