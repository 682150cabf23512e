"""The price table is built from what was published, and slips in it are not believed."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.data.build import BY_HAND, MAP, build, from_litellm, read_by_hand, read_map, write
from gateway.pricing import Price, PriceTable, Tier

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def price_of(name: str, **entry: Any) -> Price | None:
    """The price that the table has for one entry of the map."""
    (model,) = from_litellm({name: {"mode": "chat", **entry}}, lambda _: None).values()
    return model.row.price


@pytest.mark.parametrize(
    ("key", "seller", "name"),
    [
        ("gpt-4o", "openai", "openai/gpt-4o"),
        ("azure/gpt-4o", "azure", "azure/gpt-4o"),
        ("gemini-2.5-pro", "vertex_ai-language-models", "vertex_ai/gemini-2.5-pro"),
        ("vertex_ai/claude-3-haiku", "vertex_ai-anthropic_models", "vertex_ai/claude-3-haiku"),
        ("anthropic.claude-v2", "bedrock_converse", "bedrock/anthropic.claude-v2"),
        ("command-r", "cohere_chat", "cohere/command-r"),
        ("perplexity/perplexity/sonar", "perplexity", "perplexity/perplexity/sonar"),
        (
            "text-completion-codestral/codestral-latest",
            "text-completion-codestral",
            "codestral/codestral-latest",
        ),
    ],
)
def test_models_are_named_by_provider(key: str, seller: str, name: str) -> None:
    """Each model of the map gets one name, our name of its provider in front."""
    assert list(from_litellm({key: {"litellm_provider": seller}}, lambda _: None)) == [name]


def test_priced_entry_wins() -> None:
    """Of a model that is there twice, the entry with a price is taken, and among those the prefixed one."""
    free: dict[str, Any] = {"litellm_provider": "volcengine", "mode": "chat", "input_cost_per_token": 0}
    paid = free | {"input_cost_per_token": "1e-6"}
    found = from_litellm(
        {"volcengine/x": free, "x": paid, "y": paid, "volcengine/y": free | paid}, lambda _: None
    )
    assert {name: model.row.price for name, model in found.items()} == {
        "volcengine/x": Price(input=10**9),
        "volcengine/y": Price(input=10**9),
    }


def test_zero_is_believed_of_some() -> None:
    """A chat model at zero is free where models are given away, and unpriced elsewhere; reranking is never free."""
    assert price_of(
        "ollama/x", litellm_provider="ollama", input_cost_per_token=0, output_cost_per_token=0
    ) == Price(input=0, output=0)
    assert price_of("volcengine/x", litellm_provider="volcengine", input_cost_per_token=0) is None
    assert price_of("x", litellm_provider="openai", mode="image_generation", input_cost_per_token=0) is None
    search: dict[str, Any] = {"search_context_cost_per_query": "0.01", "input_cost_per_token": 0}
    assert price_of("volcengine/x", litellm_provider="volcengine", **search) is None
    assert price_of("gemini/x", litellm_provider="gemini", **search) == Price(
        input=0, output=0, search=10**13
    )


def test_units_count_where_a_model_is_billed_so() -> None:
    """Searches of a rerank beside tokens at zero; no seconds of a chat, no characters of an embedding."""
    rerank = {"input_cost_per_query": "0.002", "input_cost_per_token": "0.0", "output_cost_per_token": "0.0"}
    assert price_of("x", mode="rerank", **rerank) == Price(input=0, output=0, search=2 * 10**12)
    assert price_of("x", input_cost_per_second="0.0019") is None
    embedding = {"input_cost_per_token": "1e-7", "input_cost_per_character": "2.5e-8"}
    assert price_of("x", mode="embedding", **embedding) == Price(input=10**8)
    assert price_of("x", mode="video_generation", output_cost_per_second="0.1") is None


def test_what_costs_the_same_is_not_said() -> None:
    """Reasoning at the price of words is left out, so that a cheaper service tier does not take it; a dearer one stays."""
    entry = {
        "input_cost_per_token": "1e-6",
        "output_cost_per_token": "2e-6",
        "output_cost_per_token_batches": "1e-6",
    }
    entry |= {
        "cache_creation_input_token_cost": "1.25e-6",
        "cache_creation_input_token_cost_above_1hr": "2e-6",
    }
    same = price_of("x", output_cost_per_reasoning_token="2e-6", **entry)
    assert same is not None
    assert (same.reasoning, same.services["batch"].reasoning, same.cache_write_1h) == (None, None, None)
    dearer = price_of("x", output_cost_per_reasoning_token="3e-6", **entry)
    assert dearer is not None
    assert (dearer.reasoning, dearer.services["batch"].reasoning) == (3 * 10**9, 3 * 10**9)


def test_fast_mode_is_a_service_tier() -> None:
    """Anthropic's fast mode multiplies what tokens cost, and nothing else."""
    entry: dict[str, Any] = {"input_cost_per_token": "5e-6", "output_cost_per_token": "2.5e-5"}
    entry |= {
        "search_context_cost_per_query": "0.01",
        "provider_specific_entry": {"fast": "2.5", "us": "1.1"},
    }
    price = price_of("x", **entry)
    assert price is not None
    assert price.services == {"fast": Price(input=125 * 10**8, output=625 * 10**8, search=10**13)}


def test_sizes_of_pictures_are_prices_of_one_model() -> None:
    """Rows for sizes and qualities are folded into their model; a quality that was not said is nobody's cheapest."""
    openai: dict[str, Any] = {"litellm_provider": "openai", "mode": "image_generation"}
    found = from_litellm(
        {
            "hd/1024-x-1792/old": openai
            | {"input_cost_per_pixel": "6.539e-08", "output_cost_per_pixel": "0.0"},
            "256-x-256/old": openai | {"input_cost_per_pixel": "2.4414e-07"},
            "new": openai | {"output_cost_per_image_token": "4e-5"},
            "low/1024-x-1024/new": openai | {"input_cost_per_image": "0.011"},
            "standard/1024-x-1024/new": openai | {"input_cost_per_image": "0.011"},
            "1024-x-1024/50-steps/bedrock/canvas": {
                "litellm_provider": "bedrock",
                "output_cost_per_image": "0.06",
            },
            "1024-x-1024/max-steps/bedrock/canvas": {
                "litellm_provider": "bedrock",
                "output_cost_per_image": "0.08",
            },
        },
        lambda _: None,
    )
    assert {name: model.row.price for name, model in found.items()} == {
        "openai/old": Price(images={"256x256": 16 * 10**12, "hd/1024x1792": 12 * 10**13}),
        "openai/new": Price(image_output=40 * 10**9, images={"low/1024x1024": 11 * 10**12}),
        "bedrock/canvas": Price(images={"1024x1024": 6 * 10**13}),
    }


def test_slips_are_not_believed() -> None:
    """A price that is a thousand times too high is told and left out."""
    told: list[str] = []
    entry = {"litellm_provider": "wandb", "input_cost_per_token": "0.0005"}
    (model,) = from_litellm({"wandb/x": entry}, told.append).values()
    assert model.row.price is None
    assert told == ["not believed: wandb/x at $500 per million input tokens"]


def test_tiers_in_both_notations() -> None:
    """Thresholds are read from names and from ranges."""
    expected = Price(
        input=10**9, output=2 * 10**9, tiers=(Tier(256_000, Price(input=3 * 10**9, output=4 * 10**9)),)
    )
    ranges = [
        {"range": [0, "256000.0"], "input_cost_per_token": "1e-6", "output_cost_per_token": "2e-6"},
        {"range": ["256000.0", "1000000.0"], "input_cost_per_token": "3e-6", "output_cost_per_token": "4e-6"},
    ]
    named = {"input_cost_per_token": "1e-6", "output_cost_per_token": "2e-6"}
    named |= {
        "input_cost_per_token_above_256k_tokens": "3e-6",
        "output_cost_per_token_above_256k_tokens": "4e-6",
    }
    assert price_of("dashscope/x", litellm_provider="dashscope", tiered_pricing=ranges) == expected
    assert price_of("dashscope/x", litellm_provider="dashscope", **named) == expected


def test_flags() -> None:
    """What is true is a flag, three refusals are flags of their own, and so is each level of effort."""
    entry: dict[str, Any] = {
        "supports_vision": True,
        "supports_reasoning": False,
        "supports_sampling_params": False,
    }
    entry |= {"supports_forced_tool_use": False, "thinking_always_on": True}
    entry |= {"supports_assistant_prefill": False, "reasoning_effort_levels": ["low", "max"]}
    (model,) = from_litellm({"x": entry}, lambda _: None).values()
    assert model.flags == {
        "supports_vision",
        "no_sampling_params",
        "no_forced_tool_use",
        "no_assistant_prefill",
        "supports_low_reasoning_effort",
        "supports_max_reasoning_effort",
        "thinking_always_on",
    }


def test_map_is_read_from_a_wheel_and_a_file(tmp_path: Path) -> None:
    """The map is the same from a wheel and from a file, keeps decimals as they were written, and has no sample."""
    text = '{"sample_spec": {}, "gpt-4o": {"input_cost_per_token": 2.50e-06, "max_input_tokens": 128000}}'
    with zipfile.ZipFile(tmp_path / "litellm-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MAP, text)
    (tmp_path / "map.json").write_text(text)
    expected = {"gpt-4o": {"input_cost_per_token": "2.50e-06", "max_input_tokens": 128000}}
    assert read_map(tmp_path / "litellm-1-py3-none-any.whl") == expected
    assert read_map(tmp_path / "map.json") == expected


def test_rows_by_hand_have_sources() -> None:
    """Every hand-kept row names a page, a mode and, if it has any, both prices."""
    entries = json.loads(BY_HAND.read_bytes())
    assert set(read_by_hand()) == set(entries)
    for name, entry in entries.items():
        assert entry["source"].startswith("https://"), name
        assert ("input" in entry) == ("output" in entry), name


def test_newer_maps_win_and_hands_win_over_all(tmp_path: Path) -> None:
    """Old maps fill in what is gone, today's map overrules them, and hand-kept rows overrule both; the file reads back."""
    openai = {"litellm_provider": "openai", "mode": "chat", "output_cost_per_token": "4e-6"}
    old = {
        "both": openai | {"input_cost_per_token": "1e-6"},
        "gone": openai | {"input_cost_per_token": "2e-6"},
        "dall-e-3": openai | {"input_cost_per_token": "3e-6"},
        "unpriced": {"litellm_provider": "openai", "mode": "image_generation"},
    }
    new = {"both": openai | {"input_cost_per_token": "9e-6", "supports_vision": True}}
    write(build([new, old], NOW, lambda _: None), tmp_path / "prices.json")
    table = PriceTable.load(tmp_path / "prices.json")
    both, gone, by_hand = (table.find("openai", name) for name in ("both", "gone", "dall-e-3"))
    assert both is not None
    assert both.price == Price(input=9 * 10**9, output=4 * 10**9)
    assert both.flags == {"supports_vision"}
    assert gone is not None
    assert gone.price == Price(input=2 * 10**9, output=4 * 10**9)
    assert by_hand is not None
    assert by_hand.price is not None
    assert by_hand.price.input is None
    assert by_hand.price.images["hd/1024x1792"] == 12 * 10**13
    assert table.find("openai", "unpriced") is None
    assert table.find("openrouter", "openai/gpt-4o") is not None
