"""The routing of the documents does what their authors meant: strategies, fallbacks in three forms, groups, retries, time-outs.

Where a block says nothing of models, models of ours stand above it; the block itself is as it is written.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Asked, FakeProvider, Gateway, config_of, entry, gateway, message_answer, whole
from tests.seeds.deployment import answer, authorization, environ_for, moved, question, written
from tests.seeds.documents import OWN, SHELVES, Block, Shelf

AT_ONCE = {"retry-after": "0"}
"""A provider that wants to be asked again at once: what is tested is how often."""


def above(block: Block, *models: dict[str, Any]) -> str:
    """These models, and below them the block as it is written."""
    return f"model_list: {json.dumps(models)}\n{block.text}"


def failing(status: int, *names: str) -> Any:
    """The provider whose models of these names fail."""

    async def play(provider: FakeProvider, asked: Asked) -> None:
        model = asked.json.get("model") or asked.path
        if any(name in model for name in names):
            error = {"error": {"message": "no", "type": "server_error", "code": None}}
            await whole(error, status, AT_ONCE)(provider, asked)
        else:
            await answer(provider, asked)

    return play


@dataclass(frozen=True)
class Reply:
    """An answer, and who gave it."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]

    @property
    def by(self) -> str:
        """The public name whose deployment answered."""
        return self.headers["x-litellm-model-group"]


async def ask(gw: Gateway, model: str, headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
    """Ask this model."""
    response = await gw.post("/v1/chat/completions", question(model, **more), headers=headers or {})
    return Reply(response.status, await response.json(), response.headers)


# -- load ------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("A15", "B5", "B9")
async def test_two_keys(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """One name with two keys: both are used, and `usage-based-routing` spreads the load."""
    block = seeds[2].block("yaml", "Load Balancing")
    name = block.data["model_list"][0]["model_name"]
    environ = environ_for(block, provider)
    async with gateway(block.text, tmp_path, environ) as gw:
        for _ in range(30):
            assert (await ask(gw, name)).status == 200
    used = Counter(asked.headers["authorization"] for asked in provider.requests)
    keys = [one["litellm_params"]["api_key"].removeprefix("os.environ/") for one in block.data["model_list"]]
    assert set(used) == {f"Bearer {environ[key]}" for key in keys}
    assert min(used.values()) >= 8


@pytest.mark.rows("B9", "L22")
@pytest.mark.parametrize(
    "strategy",
    [
        "simple-shuffle",
        "least-busy",
        "usage-based-routing",
        "latency-based",
        "cost-based",
        "performance-based",
    ],
)
async def test_every_strategy_that_is_named(provider: FakeProvider, tmp_path: Path, strategy: str) -> None:
    """Each name that a document uses, LiteLLM's or not, is a strategy that answers, and none is reported as unknown."""
    models = [entry("m", f"openai/{letter}", f"{provider.url}/v1") for letter in "ab"]
    async with gateway(config_of(*models, routing_strategy=strategy), tmp_path) as gw:
        assert [(await ask(gw, "m")).status for _ in range(4)] == [200] * 4


@pytest.mark.rows("L22")
async def test_the_nearest_region(provider: FakeProvider, tmp_path: Path) -> None:
    """`geo-routing` asks the deployment of the caller's continent, which a header tells."""
    models = [
        {**entry("m", f"openai/{place}", f"{provider.url}/v1"), "model_info": {"region": place}}
        for place in ("eu-west-1", "us-east-1")
    ]
    async with gateway(config_of(*models, routing_strategy="geo-routing"), tmp_path) as gw:
        for country in ("DE", "US", "FR"):
            assert (await ask(gw, "m", {"x-client-region": country})).status == 200
    assert [asked.json["model"] for asked in provider.requests] == ["eu-west-1", "us-east-1", "eu-west-1"]


# -- fallbacks -------------------------------------------------------------------------------------------------------


@pytest.mark.rows("B10", "L5")
async def test_fallbacks_as_bare_names(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """Each name of the list falls to those after it, and a model that is not in it to all of them."""
    block = seeds[2].block("yaml", "litellm.yaml Structure")
    first, second = block.data["router_settings"]["fallbacks"]
    ours = [
        {"model_name": name, "litellm_params": {"model": f"openai/{name}"}} for name in (second, "of-ours")
    ]
    text = block.text.replace(
        "model_list:\n", "model_list:\n" + "".join(f"  - {json.dumps(one)}\n" for one in ours)
    )
    text = re.sub(r"(?m)^  (redis_\w+|database_url):.*\n", "", text)
    environ = environ_for(block, provider) | {"OPENAI_API_KEY": "sk-of-openai"}
    provider.will(failing(500, first, "of-ours"))
    async with gateway(text, tmp_path, environ) as gw:
        for name in (first, "of-ours", second):
            reply = await ask(gw, name)
            assert (reply.status, reply.body["model"], reply.by) == (200, name, second)
        provider.will(failing(500, second))
        assert (await ask(gw, second)).status >= 500


@pytest.mark.rows("B11", "B13")
async def test_fallbacks_by_name(
    provider: FakeProvider, tmp_path: Path, seeds: Shelf, database_url: str
) -> None:
    """`- gpt-4: [other]` falls to the other; a chain of a model that nobody has is no harm."""
    block = seeds[3].block("yaml", "Model Configuration")
    ((first, (second, *_)),) = block.data["router_settings"]["fallbacks"][0].items()
    environ = environ_for(block, provider, database_url)
    headers = authorization(block, environ)
    failed = next(one for one in block.data["model_list"] if one["model_name"] == first)["litellm_params"]
    name = failed["model"].partition("/")[2]

    async def play(provider: FakeProvider, asked: Asked) -> None:
        fails = asked.json.get("model") == name
        await (failing(503, name) if fails else answer)(provider, asked)

    provider.will(play)
    async with gateway(written(block, provider), tmp_path, environ) as gw:
        reply = await ask(gw, first, headers, max_tokens=9)
        assert (reply.status, reply.body["model"], reply.by) == (200, first, second)


@pytest.mark.rows("B12", "B13", "L5")
async def test_fallbacks_with_two_keys(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """`{model_name, fallbacks}` falls to those of the list that are there."""
    block = seeds[2].block("yaml", "Fallbacks")
    (chain,) = block.data["router_settings"]["fallbacks"]
    base = f"{provider.url}/v1"
    first, last = chain["model_name"], chain["fallbacks"][-1]
    models = [entry(first, "openai/first", base), entry(last, "openai/last", base)]
    provider.will(failing(500, "first"))
    async with gateway(above(block, *models), tmp_path) as gw:
        reply = await ask(gw, first)
        assert (reply.status, reply.body["model"], reply.by) == (200, first, last)


# -- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.rows("B14", "L7")
async def test_groups(provider: FakeProvider, tmp_path: Path, seeds: Shelf, database_url: str) -> None:
    """A list as an alias is one group of all its members that are there, and is listed."""
    block = seeds[3].block("yaml", "Model Configuration")
    environ = environ_for(block, provider, database_url)
    headers = authorization(block, environ)
    groups: dict[str, list[str]] = block.data["router_settings"]["model_group_alias"]
    async with gateway(written(block, provider), tmp_path, environ) as gw:
        listed = await (await gw.get("/v1/models", headers=headers)).json()
        assert set(groups) <= {model["id"] for model in listed["data"]}
        known = {one["model_name"] for one in block.data["model_list"]}
        for group, members in groups.items():
            reply = await ask(gw, group, headers, max_tokens=9)
            assert (reply.status, reply.body["model"]) == (200, group)
            wanted = {
                one["litellm_params"]["model"]
                for one in block.data["model_list"]
                if one["model_name"] in set(members) & known
            }
            assert reply.headers["x-litellm-model-name"] in wanted


# -- retries, cooldowns, time-outs -----------------------------------------------------------------------------------


@pytest.mark.rows("B7", "B8", "L8")
async def test_retries_and_time_out(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """`num_retries` more attempts than one, each with `timeout` seconds."""
    block = seeds[2].block("yaml", "litellm.yaml Structure")
    router = block.data["router_settings"]
    name = block.data["model_list"][0]["model_name"]
    provider.will(whole(b"{}", 500))
    text = re.sub(r"(?m)^  (redis_\w+|database_url):.*\n", "", block.text)
    async with gateway(text, tmp_path, environ_for(block, provider)) as gw:
        assert gw.rt.config.router.timeout == router["timeout"]
        assert (await ask(gw, name)).status == 502
    assert len(provider.requests) == 1 + router["num_retries"]


@pytest.mark.rows("B16", "L8")
async def test_retry_policy(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """`max_retries` attempts after the first; a Retry-After below `max_delay` is kept, a longer one is not waited for."""
    block = seeds[3].block("yaml", "Load Balancing Strategies")
    policy = block.data["router_settings"]["retry_policy"]
    provider.will(failing(503, "m"))
    model = entry("m", "openai/m", f"{provider.url}/v1")
    async with gateway(above(block, model), tmp_path) as gw:
        held = gw.rt.config.router.retry_policy
        assert (held.max_retries, held.base_delay, held.max_delay) == tuple(policy.values())
        assert (await ask(gw, "m")).status >= 500
    assert len(provider.requests) == 1 + policy["max_retries"]


@pytest.mark.rows("B15", "L8")
async def test_cooldown(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """A deployment that failed is left out for `cooldown_time` seconds, while another answers."""
    block = seeds[3].block("yaml", "Load Balancing Strategies")
    provider.will(failing(500, "broken"))
    models = [entry("m", f"openai/{name}", f"{provider.url}/v1", weight=1) for name in ("broken", "well")]
    async with gateway(above(block, *models), tmp_path) as gw:
        while not any(asked.json["model"] == "broken" for asked in provider.requests):
            assert (await ask(gw, "m")).status == 200
        health = await (await gw.get("/health", headers={})).json()
        (cooled,) = health["unhealthy_endpoints"]
        assert cooled["litellm_model"] == "openai/broken"
        assert 0 < cooled["cooldown_seconds"] <= block.data["router_settings"]["cooldown_time"]


# -- the chain of the gateway for bots -------------------------------------------------------------------------------

BOTS = SHELVES[0][4].block("yaml", "Configuration file")
"""The file itself is in none of the documents that may be elsewhere: this is what a reader of them would write."""
PRICES = re.compile(r"\| `([\w-]+)` \|.*\$([\d.]+) input, \$([\d.]+) output")


def _bots(provider: FakeProvider, seeds: Shelf, tmp_path: Path) -> dict[str, str]:
    exported = next(block for block in seeds[4].under("Local Testing", "bash") if block.environ)
    return moved(exported.environ, provider, tmp_path)


@pytest.mark.rows("E")
@pytest.mark.parametrize(
    ("broken", "status", "by"),
    [((), 429, "claude-sonnet"), (("claude",), 429, "gpt-4o"), (("claude", "gpt"), 503, "gemini-pro")],
)
async def test_a_chain(
    provider: FakeProvider, tmp_path: Path, seeds: Shelf, broken: tuple[str, ...], status: int, by: str
) -> None:
    """429 and 5xx go on to the next of the chain, and the answer has the name that was asked for."""
    provider.will(failing(status, *broken))
    async with gateway(BOTS.text, tmp_path, _bots(provider, seeds, tmp_path)) as gw:
        reply = await ask(gw, "claude-sonnet", max_tokens=100)
        assert (reply.status, reply.body["model"], reply.by) == (200, "claude-sonnet", by)
    assert len(provider.requests) == 1 + len(broken)


@pytest.mark.rows("D18")
async def test_all_models_failed(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """At the end of the chain the error says who was asked and what each of them said."""
    provider.will(failing(500, "claude", "gpt", "gemini"))
    async with gateway(BOTS.text, tmp_path, _bots(provider, seeds, tmp_path)) as gw:
        reply = await ask(gw, "claude-sonnet", max_tokens=100)
        assert reply.status == 502
        for words in ("All models failed", "claude-sonnet", "gpt-4o", "gemini-pro", "500 upstream_error"):
            assert words in reply.body["error"]["message"]


@pytest.mark.rows("E")
async def test_what_the_caller_did_wrong_ends_the_chain(
    provider: FakeProvider, tmp_path: Path, seeds: Shelf
) -> None:
    """A 400 is told to whoever asked, and nobody else is asked."""
    provider.will(failing(400, "claude"))
    async with gateway(BOTS.text, tmp_path, _bots(provider, seeds, tmp_path)) as gw:
        assert (await ask(gw, "claude-sonnet", max_tokens=100)).status == 400
    assert len(provider.requests) == 1


@pytest.mark.rows("E")
async def test_prices(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """What the document says that a million tokens cost is what the ledger charges, to the nano-dollar."""
    told = PRICES.findall(seeds[4].text)
    assert len(told) == 4
    async with gateway(BOTS.text, tmp_path, _bots(provider, seeds, tmp_path)) as gw:
        for name, of_input, of_output in told:
            assert (await ask(gw, name, max_tokens=100)).status == 200
            row = (await gw.rows())[-1]
            wanted = (
                row.prompt_tokens * Decimal(of_input) * 1000
                + row.completion_tokens * Decimal(of_output) * 1000
            )
            assert row.cost_nano == wanted.to_integral_value(ROUND_CEILING), name


@pytest.mark.rows("B40", "D18", "L16")
async def test_ten_dollars_a_day(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """The day's budget refuses when it is spent, whoever asks and without a database; it says until when."""
    spent = {**message_answer(), "usage": {"input_tokens": 4_000_000, "output_tokens": 1}}
    provider.will(whole(spent), answer)
    async with gateway(BOTS.text, tmp_path, _bots(provider, seeds, tmp_path)) as gw:
        assert (await ask(gw, "claude-sonnet", max_tokens=100)).status == 200
        refused = await ask(gw, "gpt-4o", max_tokens=100)
        assert (refused.status, refused.body["error"]["type"]) == (422, "budget_exceeded")
        assert re.search(r"[Bb]udget", refused.body["error"]["message"])
        assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert len(provider.requests) == 1


@pytest.mark.rows("D18")
async def test_a_model_that_is_not_there(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """The answer names the models that there are."""
    async with gateway(BOTS.text, tmp_path, _bots(provider, seeds, tmp_path)) as gw:
        reply = await ask(gw, "claude-sonet")
        assert (reply.status, reply.body["error"]["code"]) == (404, "model_not_found")
        for name, _, _ in PRICES.findall(seeds[4].text):
            assert name in reply.body["error"]["message"]


def test_ours_is_the_file_that_is_meant() -> None:
    """The configuration of the bots has the models of the document's own table."""
    assert OWN.is_dir()
    for shelf in SHELVES:
        named = [name for name, _, _ in PRICES.findall(shelf[4].text)]
        assert named == [one["model_name"] for one in BOTS.data["model_list"]]
