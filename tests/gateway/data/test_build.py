"""The price table is built from what was published, and slips in it are not believed."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.data.build import BY_HAND, MAP, build, from_litellm, read_by_hand, read_map, write
from gateway.pricing import FREE, Price, PriceTable, Tier

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
    assert (
        price_of("ollama/x", litellm_provider="ollama", input_cost_per_token=0, output_cost_per_token=0)
        == FREE
    )
    assert price_of("volcengine/x", litellm_provider="volcengine", input_cost_per_token=0) is None
    assert price_of("x", litellm_provider="openai", mode="image_generation", input_cost_per_token=0) is None


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
    """What is true is a flag, and two refusals are flags of their own."""
    entry = {"supports_vision": True, "supports_reasoning": False, "supports_sampling_params": False}
    entry |= {"supports_forced_tool_use": False, "thinking_always_on": True}
    (model,) = from_litellm({"x": entry}, lambda _: None).values()
    assert model.flags == {
        "supports_vision",
        "no_sampling_params",
        "no_forced_tool_use",
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
    assert by_hand.price is None
    assert table.find("openai", "unpriced") is None
    assert table.find("openrouter", "openai/gpt-4o") is not None
