"""Which other models a request might come to."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.model import Config, Fallbacks, ModelEntry, ModelParams, Place, RouterSettings, Secret
from gateway.inbound import NO_CONTROLS, Controls
from gateway.routes import Routes, compile_routes
from gateway.routing.fallbacks import within_reach
from tests.gateway.routing.choosing import PRICES

ROUTER: dict[str, Any] = {
    "fallbacks": Fallbacks({"a": ("b",), "b": ("c", "a")}),
    "context_window_fallbacks": Fallbacks({"a": ("long",)}),
    "content_policy_fallbacks": Fallbacks({"c": ("free",)}),
}


def routes_of(**router: Any) -> Routes:
    entries = (
        ModelEntry(
            model_name=name,
            params=ModelParams(model=f"openai/{name}", api_key=Secret("sk-of-a-fallback-test")),
            place=Place("c.yaml", 1, 1),
        )
        for name in ("a", "b", "c", "long", "free", "alone")
    )
    return compile_routes(Config(model_list=tuple(entries), router=RouterSettings(**router)), {}, PRICES)


@pytest.mark.parametrize(
    ("name", "controls", "reached"),
    [
        ("a", NO_CONTROLS, ["b", "long", "c", "free"]),
        ("b", NO_CONTROLS, ["c", "a", "free", "long"]),
        ("alone", NO_CONTROLS, []),
        ("a", Controls(disable_fallbacks=True), []),
        ("a", Controls(fallbacks=("free", "a", "nobody")), ["free"]),
        ("alone", Controls(context_window_fallbacks={"alone": "long"}), ["long"]),
        ("alone", Controls(context_window_fallbacks={"b": "long"}), []),
        ("alone", Controls(fallbacks=("b",), context_window_fallbacks={"b": "long"}), ["b", "long"]),
    ],
)
def test_within_reach(name: str, controls: Controls, reached: list[str]) -> None:
    """All lists, and the lists of those on them, each name once; what the request itself says comes instead."""
    routes = routes_of(**ROUTER)
    route = routes.find(name)
    assert route is not None
    assert [other.name for other in within_reach(routes, route, controls)] == reached


def test_lists_that_say_nothing() -> None:
    """A list without an entry for a model leads to the general one, and that to the defaults."""
    routes = routes_of(**ROUTER, default_fallbacks=("alone",))
    found = {
        (name, then): [other.name for other in routes.stand_ins(name, then=then)]
        for name in ("a", "c")
        for then in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
    }
    assert found == {
        ("a", "fallbacks"): ["b"],
        ("a", "context_window_fallbacks"): ["long"],
        ("a", "content_policy_fallbacks"): ["b"],
        ("c", "fallbacks"): ["alone"],
        ("c", "context_window_fallbacks"): ["alone"],
        ("c", "content_policy_fallbacks"): ["free"],
    }
