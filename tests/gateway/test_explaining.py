"""What decides about a request, said before it is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.config.load import load
from gateway.config.model import RouterSettings
from gateway.explaining import Gateway, asked, explain, explain_all, unstarted
from gateway.keyfields import configured_keys
from gateway.keyring import ANONYMOUS, MASTER, Caller
from gateway.pricing import PriceTable
from gateway.routes import compile_routes
from gateway.routing.breaker import Breaker
from gateway.routing.geography import caller_region
from gateway.routing.health import Health
from gateway.routing.router import Router
from tests.gateway.routing.choosing import route_of

PRICES = PriceTable.load()
SECRET = "sk-proj-zxqw7841vbnm"


def entry(name: str, model: str, **params: Any) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": {"model": model, **params}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def of(*models: dict[str, Any], environ: dict[str, str] | None = None, **sections: Any) -> Gateway:
    """A gateway of this configuration."""
    known = {"OPENAI_API_KEY": SECRET, **(environ or {})}
    Path("c.yaml").write_text(json.dumps({"model_list": models, **sections}))
    config = load(Path("c.yaml"), known).config
    return unstarted(config, compile_routes(config, known, PRICES), known)


def told(
    gateway: Gateway, name: str, caller: Caller = MASTER, *, for_operator: bool = True, **more: Any
) -> Any:
    found = explain(gateway, name, asked(caller, **more), for_operator=for_operator)
    assert SECRET not in json.dumps(found)  # all of it can be written, and no secret is in it
    return found


def test_the_way_to_a_name() -> None:
    """A name is one of the list, an alias, what a wildcard matches, or of the environment; else it says what is missing."""
    gateway = of(
        entry("fast", "openai/gpt-4o-mini"),
        entry("team/*", "openai/*"),
        entry("off", "anthropic/claude-sonnet-4-5"),
        router_settings={"model_group_alias": {"quick": "fast"}},
        general_settings={"env_providers": True},
    )
    assert told(gateway, "fast")["as"] == "a name of model_list"
    assert told(gateway, "quick")["as"] == "an alias of fast"
    assert told(gateway, "team/gpt-4o")["as"] == "the wildcard team/*"
    assert told(gateway, "openai/gpt-4o")["as"] == "a provider whose key is in the environment"
    assert told(gateway, "off")["why_not"] == "no key: set api_key or ANTHROPIC_API_KEY"
    assert told(gateway, "anthropic/claude-x")["why_not"].startswith("Set ANTHROPIC_API_KEY")
    assert told(gateway, "nonsense") == {"model": "nonsense", "found": False, "why_not": "no such model"}


def test_deployments_in_the_order_in_which_they_are_asked() -> None:
    """Shares of the lowest order come first; later orders and those that are refused say why; prices are per million."""
    gateway = of(
        entry("fast", "openai/gpt-4o", order=2),
        entry("fast", "openai/gpt-4o-mini", weight=3, order=1, rpm=100),
        entry("fast", "openai/some-new-model", weight=1, order=1),
    )
    mini, new, large = told(gateway, "fast")["deployments"]
    assert (mini["deployment"], mini["share"], mini["rpm"], mini["why_not"]) == (
        "openai/gpt-4o-mini",
        0.75,
        100,
        "",
    )
    assert mini["price"] == {"input": 0.15, "output": 0.6}
    assert mini["credential"] == "OPENAI_API_KEY"
    assert (new["share"], new["price"]) == (0.25, None)
    assert (large["share"], large["why_not"]) == (0.0, "order 2 comes later")
    assert large["place"] == "c.yaml:1:17"


def test_what_is_waited_for() -> None:
    """With a queue those at a limit have the shares of what waits for them, unless a fallback has room; without one they are asked
    all the same.
    """
    full = Health()
    full.adopt(RouterSettings(adaptive_concurrency=True))

    def busy(fallbacks: list[Any], **settings: Any) -> Any:
        models = [entry("a", "openai/gpt-4o"), entry("b", "openai/gpt-4o"), entry("c", "openai/gpt-4o")]
        known = {"adaptive_concurrency": True, "fallbacks": fallbacks, **settings}
        gateway = of(*models, router_settings=known)
        for name in ("a", "b"):
            route = gateway.routes.find(name)
            assert route is not None
            for _ in range(10):
                full.began(route.deployments[0].id, 0.0)
        gateway = replace(gateway, health=full, router=Router(gateway.config.router, full))
        found = told(gateway, "a")
        return found["deployments"][0]["share"], found.get("waits")

    assert busy([]) == (1, None)
    assert busy([], queue={"max_wait": 7}) == (1, 7)
    assert busy([{"a": ["b"]}], queue=True) == (1, 30)
    assert busy([{"a": ["b"]}, {"b": ["a", "c"]}], queue=True) == (0, None)


def test_an_open_circuit_is_asked_where_there_is_nobody_else() -> None:
    """Its deployment has the share, and what is against it is told; a fallback that can be asked comes first."""
    health = Health()
    shares = []
    for fallbacks in ([], [{"a": ["b"]}]):
        models = [entry("a", "openai/gpt-4o"), entry("b", "openai/gpt-4o-mini")]
        gateway = of(*models, router_settings={"fallbacks": fallbacks, "queue": True})
        route = gateway.routes.find("a")
        assert route is not None
        breaker = health.of(route.deployments[0].id).breaker = Breaker()
        for _ in range(5):
            breaker.failed(0.0, 5.0)
        gateway = replace(gateway, health=health, router=Router(gateway.config.router, health))
        found = told(gateway, "a")
        assert found["deployments"][0]["why_not"] == "it cools down for 5.0 s more"
        assert "waits" not in found
        shares.append(found["deployments"][0]["share"])
    assert shares == [1, 0]


def test_where_a_key_comes_from() -> None:
    """By name: the variable that holds it, the named credential, the file; a mock needs none."""
    gateway = of(
        entry("a", "openai/a", api_key="os.environ/MY_OWN"),
        entry("b", "openai/b", api_key="zzz-7741-qwx"),
        entry("c", "openai/c", mock_response="hi"),
        entry("d", "openai/d", litellm_credential_name="shared"),
        entry("e", "ollama/e"),
        environ={"MY_OWN": "zzz-9982-qwx"},
        credential_list=[{"credential_name": "shared", "credential_values": {"api_key": "zzz-1123-qwx"}}],
    )
    found = {name: told(gateway, name)["deployments"][0]["credential"] for name in "abcde"}
    assert found == {
        "a": "MY_OWN",
        "b": "written in the file",
        "c": "none needed",
        "d": "credential shared",
        "e": "none",
    }


def test_limits_retries_and_fallbacks() -> None:
    """What binds the request beside its deployments, how often it is tried again, and who stands in."""
    gateway = of(
        entry("fast", "openai/gpt-4o-mini"),
        entry("spare", "openai/gpt-4o"),
        entry("long", "openai/gpt-4.1"),
        router_settings={
            "num_retries": 4,
            "fallbacks": [{"fast": ["spare"]}],
            "context_window_fallbacks": [{"fast": ["long"]}],
        },
        general_settings={"rpm_limit": 40, "tpm_limit": 900},
        litellm_settings={"max_budget": 3.5, "budget_duration": "1d"},
    )
    found = told(gateway, "fast")
    assert found["retries"]["most"] == 4
    assert found["limits"] == [
        {"limit": "budget", "of": "Gateway", "usd": 3.5, "per": "1d"},
        {"limit": "rpm", "of": "gateway", "most": 40},
        {"limit": "tpm", "of": "gateway", "most": 900},
    ]
    assert found["fallbacks"] == {"fallbacks": ["spare"], "context_window_fallbacks": ["long"]}


def test_retries_are_those_of_the_most_patient_deployment() -> None:
    """A deployment that has no number of its own gets the general one, wherever in the list another stands that has."""
    settings = {"num_retries": 4}
    one = entry("m", "openai/gpt-4o-mini")
    for models in (
        (one, entry("m", "openai/gpt-4o", max_retries=0)),
        (entry("m", "openai/gpt-4o", max_retries=0), one),
    ):
        assert told(of(*models, router_settings=settings), "m")["retries"]["most"] == 4
    strict = of(entry("m", "openai/gpt-4o", max_retries=1), router_settings=settings)
    assert told(strict, "m")["retries"]["most"] == 1


def test_an_alias_goes_before_the_list() -> None:
    """A name that is both is the alias; one whose targets nobody serves is the list's."""
    gateway = of(
        entry("a", "openai/gpt-4o"),
        entry("b", "openai/gpt-4o-mini"),
        router_settings={"model_group_alias": {"a": "b", "b": "nobody"}},
    )
    for name, way in (("a", "an alias of b"), ("b", "a name of model_list")):
        found = told(gateway, name)
        assert found["as"] == way
        assert [one["deployment"] for one in found["deployments"]] == ["openai/gpt-4o-mini"]


def test_a_key_learns_of_its_own_models_alone() -> None:
    """Its limits and aliases hold; of what it may not use it hears only that; addresses and places are the operator's."""
    key = {
        "key": "sk-zwq18vbnmkliuoo",
        "key_alias": "bot",
        "models": ["fast"],
        "model_rpm_limit": {"fast": 2},
    }
    gateway = of(
        entry("fast", "openai/gpt-4o-mini"),
        entry("spare", "openai/gpt-4o"),
        router_settings={"fallbacks": [{"fast": ["spare"]}]},
        virtual_keys=[key | {"aliases": {"mine": "fast"}}],
    )
    (row,) = configured_keys(gateway.config)
    bot = Caller("key", row.payer, row.alias, row)
    found = told(gateway, "mine", bot, for_operator=False)
    assert found["key"] == {"name": "bot", "may_use_it": True}
    assert {"limit": "rpm", "of": "model_per_key fast", "most": 2} in found["limits"]
    assert found["fallbacks"] == {"fallbacks": []}
    (one,) = found["deployments"]
    assert one["price"] == {"input": 0.15, "output": 0.6}
    assert not {"api_base", "place", "id", "credential", "health"} & one.keys()
    assert told(gateway, "spare", bot, for_operator=False) == {
        "model": "spare",
        "key": {"name": "bot", "may_use_it": False},
    }
    assert [one["model"] for one in explain_all(gateway, asked(bot), for_operator=False)["models"]] == [
        "fast"
    ]
    assert told(gateway, "spare", bot)["found"]  # the operator, who asks about that key


def test_every_model() -> None:
    """All names with their deployments and places, wildcards as they were written, what is off, what the environment has."""
    gateway = of(
        entry("fast", "openai/gpt-4o-mini"),
        entry("team/*", "openai/*"),
        entry("off", "anthropic/claude-sonnet-4-5"),
    )
    found = explain_all(gateway, asked(ANONYMOUS), for_operator=True)
    assert [one["model"] for one in found["models"]] == ["fast", "team/*"]
    assert found["models"][1]["deployments"][0]["deployment"] == "openai/*"
    assert [row["model"] for row in found["off"]] == ["off"]
    assert found["environment"] == []


def test_an_explained_request_is_one_that_wants_something() -> None:
    """Tags, the region and streams of a request that nobody sent are seen by whoever chooses, and it has no body."""
    request = asked(MASTER, tags=("free",), region="EU", stream=True)
    assert caller_region(request.http.headers) == "eu"
    assert request.controls.tags == ("free",)
    assert request.wants_stream
    assert request.envelope == {}
    gateway = of(entry("m", "openai/a"))
    assert gateway.router.choose(route_of({}), request, 0.0) is not None


def test_a_key_learns_no_details_of_deployments() -> None:
    """Limits, budgets and tags are the operator's, in the reasons too."""
    gateway = of(
        entry("m", "openai/gpt-4o", tags=["team-of-others"], max_budget=5, budget_duration="1d", weight=2),
        entry("m", "openai/gpt-4o-mini", tags=["default"], rpm=0),
        router_settings={"enable_tag_filtering": True},
        virtual_keys=[{"key": "sk-zwq18vbnmkliuop", "key_alias": "bot"}],
    )
    (row,) = configured_keys(gateway.config)
    bot = Caller("key", row.payer, row.alias, row)
    found = told(gateway, "m", bot, for_operator=False)["deployments"]
    assert {one["why_not"] for one in found} == {"its tags are not for this request", "it is at a limit"}
    assert not {"tags", "max_budget", "budget_duration", "rpm"} & {name for one in found for name in one}
    assert "team-of-others" in str(told(gateway, "m", bot)["deployments"])
