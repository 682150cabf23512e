"""Prices are found under the names that people use, and costs are exact to the nano-dollar."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from math import ceil

import msgspec
import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import Usage
from gateway.pricing import (
    FREE,
    PER_DOLLAR,
    SELF_HOSTED,
    TABLE,
    Price,
    PriceTable,
    Tier,
    cost,
    dollars_text,
    nano,
    price_from_params,
)

PRICES = PriceTable.load()

CHECKED_AT = datetime(2026, 11, 21, tzinfo=UTC)

BUCKETS = (
    "input",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "audio_input",
    "output",
    "reasoning",
    "audio_output",
)


def per_million(**dollars_of: str) -> Price:
    """A price in the dollars per million tokens that vendors print."""
    rates_of = {bucket: int(Decimal(amount) * PER_DOLLAR) for bucket, amount in dollars_of.items()}
    return msgspec.convert(rates_of, Price)


SONNET = per_million(input="3", output="15", cache_read="0.3", cache_write="3.75", cache_write_1h="6")


# -- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "usage", "nanodollars"),
    [
        (SONNET, Usage(), 0),
        (SONNET, Usage(input=1), 3_000),
        (SONNET, Usage(input=1_000_000, output=1_000_000), 18_000_000_000),
        (SONNET, Usage(input=21, output=305), 4_638_000),
        (
            SONNET,
            Usage(input=10, cache_read=100_000, cache_write=2_000, cache_write_1h=500, output=77),
            41_685_000,
        ),
        (per_million(input="0.15", output="0.6"), Usage(input=13, output=7), 6_150),
        (per_million(input="0.075", output="0.3"), Usage(input=1), 75),
        (per_million(input="0.0375", output="0.15"), Usage(input=1), 38),  # 37.5 is rounded up
        (per_million(input="0.0375", output="0.15"), Usage(input=2), 75),
        (
            per_million(input="0.0375", output="0.15"),
            Usage(input=1, output=1),
            188,
        ),  # 37.5 + 150, rounded once
        (per_million(input="0.02", output="0"), Usage(input=8_191), 163_820),
        (per_million(input="2", output="8", reasoning="9"), Usage(input=1, output=1, reasoning=1), 19_000),
        (
            per_million(input="2.5", output="10", audio_input="40", audio_output="80"),
            Usage(audio_input=5, audio_output=3),
            440_000,
        ),
    ],
)
def test_golden(price: Price, usage: Usage, nanodollars: int) -> None:
    """Costs that were calculated by hand come out to the nano-dollar."""
    assert cost(price, usage) == nanodollars


@pytest.mark.parametrize(
    ("bucket", "factor"),
    [
        ("cache_read", 2),
        ("cache_write", 2),
        ("cache_write_1h", 2),
        ("audio_input", 2),
        ("reasoning", 8),
        ("audio_output", 8),
    ],
)
def test_bucket_without_a_price_costs_what_it_is_a_kind_of(bucket: str, factor: int) -> None:
    """Cached and audio tokens cost what input costs, reasoning and audio output what output costs."""
    assert (
        cost(per_million(input="2", output="8"), msgspec.convert({bucket: 1000}, Usage)) == 1_000_000 * factor
    )


def test_one_hour_writes_cost_twice_the_input_where_only_short_writes_are_priced() -> None:
    """Anthropic's rule for one-hour cache writes holds where the table has only the price of short ones."""
    assert (
        cost(per_million(input="3", output="15", cache_write="3.75"), Usage(cache_write_1h=1000)) == 6_000_000
    )


@pytest.mark.parametrize(
    ("prompt", "nanodollars"), [(200_000, 200_000_000 + 1_500), (200_001, 400_002_000 + 3_000)]
)
def test_tier_is_chosen_by_the_whole_prompt(prompt: int, nanodollars: int) -> None:
    """Above a threshold the dearer price holds for all tokens, and the threshold itself is still below it."""
    price = Price(
        input=10**9, output=15 * 10**8, tiers=(Tier(200_000, Price(input=2 * 10**9, output=3 * 10**9)),)
    )
    assert cost(price, Usage(input=prompt - 10, cache_read=10, output=1)) == nanodollars


def test_highest_tier_that_is_passed_counts() -> None:
    """Of several thresholds the last that the prompt passes decides."""
    price = Price(input=1, tiers=(Tier(10, Price(input=2 * 10**6)), Tier(20, Price(input=3 * 10**6))))
    assert [cost(price, Usage(input=tokens)) for tokens in (10, 11, 20, 21)] == [1, 22, 40, 63]


def test_unknown_is_not_free() -> None:
    """A bucket that was used and has no price makes the cost unknown; one that was not used does not matter."""
    assert cost(Price(), Usage(input=1)) is None
    assert cost(Price(input=1), Usage(input=1, output=1)) is None
    assert cost(Price(output=1), Usage(cache_write_1h=1)) is None
    assert cost(Price(input=10**6), Usage(input=1)) == 1
    assert cost(Price(), Usage()) == 0


rates = st.none() | st.integers(0, 200 * PER_DOLLAR)
full_prices = st.builds(
    Price,
    **dict.fromkeys(BUCKETS, rates) | {name: st.integers(0, 10**12) for name in ("input", "output")},
)
usages = st.builds(Usage, **{name: st.integers(0, 10**7) for name in BUCKETS})


@given(full_prices, usages, usages)
def test_cost_is_additive_up_to_rounding(price: Price, one: Usage, other: Usage) -> None:
    """Two requests cost together what they cost apart, but for one nano-dollar of rounding."""
    together, first, second = cost(price, one + other), cost(price, one), cost(price, other)
    assert together is not None
    assert first is not None
    assert second is not None
    assert together <= first + second <= together + 1


@given(full_prices, usages, usages)
def test_more_tokens_never_cost_less(price: Price, one: Usage, more: Usage) -> None:
    """Cost grows with usage and is never negative."""
    assert 0 <= (cost(price, one) or 0) <= (cost(price, one + more) or 0)


@given(st.integers(0, 10**12), st.integers(0, 10**9))
def test_cost_is_the_exact_product_rounded_up(rate: int, tokens: int) -> None:
    """No number is so large or odd that a nano-dollar is lost."""
    assert cost(Price(input=rate), Usage(input=tokens)) == ceil(Fraction(rate * tokens, 10**6))


# -- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "model", "dollars_in", "dollars_out"),
    [
        ("openai", "gpt-4", "30", "60"),
        ("openai", "gpt-4-turbo", "10", "30"),
        ("openai", "gpt-4-vision-preview", "10", "30"),
        ("openai", "gpt-3.5-turbo", "0.5", "1.5"),
        ("openai", "gpt-4o", "2.5", "10"),
        ("openai", "gpt-4o-mini", "0.15", "0.6"),
        ("anthropic", "claude-3-opus", "15", "75"),
        ("anthropic", "claude-3-sonnet-20240229", "3", "15"),
        ("anthropic", "claude-3-haiku-20240307", "0.25", "1.25"),
        ("anthropic", "claude-3-5-sonnet-20241022", "3", "15"),
        ("anthropic", "claude-3-5-haiku-20241022", "0.8", "4"),
        ("anthropic", "claude-3-7-sonnet-20250219", "3", "15"),
        ("gemini", "gemini-pro", "0.5", "1.5"),
        ("gemini", "gemini-1.5-pro", "1.25", "5"),
        ("gemini", "gemini-1.5-flash", "0.075", "0.3"),
        ("vertex_ai", "gemini-pro", "0.5", "1.5"),
        ("cohere", "command", "1", "2"),
        ("cohere", "command-light", "0.3", "0.6"),
        ("cohere", "command-r", "0.15", "0.6"),
        ("cohere", "embed-english-v3.0", "0.1", "0"),
        ("mistral", "open-mistral-7b", "0.25", "0.25"),
        ("mistral", "open-mixtral-8x7b", "0.7", "0.7"),
        ("bedrock", "amazon.titan-text-express-v1", "0.2", "0.6"),
        ("ai21", "j2-ultra", "15", "15"),
        ("aleph_alpha", "luminous-base", "30", "33"),
        ("ollama", "llama2", "0", "0"),
        ("ollama", "qwen2.5:32b", "0", "0"),
    ],
)
def test_models_that_people_name_have_prices(
    provider: str, model: str, dollars_in: str, dollars_out: str
) -> None:
    """Models of old configurations are priced, though their vendors have retired many of them."""
    facts = PRICES.find(provider, model)
    assert facts is not None
    assert facts.price is not None
    expected = per_million(input=dollars_in, output=dollars_out)
    assert (facts.price.input, facts.price.output) == (expected.input, expected.output)


@pytest.mark.parametrize(
    ("provider", "model", "other_provider", "other"),
    [
        ("openai", "gpt-4o-2031-01-01", "openai", "gpt-4o"),
        ("anthropic", "claude-opus-4-5-latest", "anthropic", "claude-opus-4-5"),
        ("anthropic", "claude-opus-4-5-20310101", "anthropic", "claude-opus-4-5"),
        ("mistral", "pixtral-large", "mistral", "pixtral-large-latest"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::id", "openai", "ft:gpt-4o-mini-2024-07-18"),
        ("bedrock", "us.amazon.titan-text-express-v1", "bedrock", "amazon.titan-text-express-v1"),
        ("azure", "chatgpt-4o-latest", "openai", "chatgpt-4o-latest"),
        ("azure", "azure/gpt-4o", "azure", "gpt-4o"),
    ],
)
def test_find_knows_other_spellings(provider: str, model: str, other_provider: str, other: str) -> None:
    """Dates, `-latest`, regions, owners of fine-tuned models and resellers do not hide a model."""
    assert PRICES.find(provider, model) is not None
    assert PRICES.find(provider, model) == PRICES.find(other_provider, other)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-99"),
        ("openai", ""),
        ("azure", "your-deployment-name"),
        ("groq", "gpt-4o"),
        ("custom_openai", "anything"),
        ("openai", "ft:gpt-99:acme::id"),
    ],
)
def test_find_does_not_guess(provider: str, model: str) -> None:
    """What the table does not know at this provider has no facts, whatever others ask for it."""
    assert PRICES.find(provider, model) is None


def test_own_servers_are_free() -> None:
    """A model on one's own server costs nothing, known or not."""
    for provider in SELF_HOSTED:
        facts = PRICES.find(provider, "some-model:7b")
        assert facts is not None
        assert facts.price == FREE


def test_abilities_are_known() -> None:
    """Flags tell which models refuse sampling parameters and which think adaptively."""
    opus = PRICES.find("anthropic", "claude-opus-4-7")
    assert opus is not None
    assert {"no_sampling_params", "supports_adaptive_thinking", "supports_vision"} <= opus.flags
    haiku = PRICES.find("anthropic", "claude-3-haiku-20240307")
    assert haiku is not None
    assert not {"no_sampling_params", "supports_adaptive_thinking"} & haiku.flags
    assert (haiku.max_input, haiku.max_output, haiku.mode) == (200_000, 4096, "chat")


def test_images_have_a_mode_and_no_price() -> None:
    """A model that is not paid by the token is known, and its price by token is unknown."""
    facts = PRICES.find("openai", "dall-e-3")
    assert facts is not None
    assert facts.mode == "image_generation"
    assert facts.price is None


def test_models_lists_names() -> None:
    """A provider's chat models are listed without prefix, and its other models apart from them."""
    names = PRICES.models("openai")
    assert "gpt-4o" in names
    assert "text-embedding-3-small" not in names
    assert "text-embedding-3-small" in PRICES.models("openai", "embedding")
    assert PRICES.models("nobody") == []


def test_every_row_is_sane() -> None:
    """Names have a provider, prices are in a range that models have had, tiers rise and limits are positive."""
    for name, row in PRICES._file.models.items():
        assert "/" in name, name
        assert (row.max_input or 0) >= 0, name
        if row.price is None:
            continue
        assert row.price.input is not None or row.price.output is not None, name
        assert (row.price.input or 0) <= 200 * PER_DOLLAR, name
        assert (row.price.output or 0) <= 1000 * PER_DOLLAR, name
        thresholds = [tier.above for tier in row.price.tiers]
        assert thresholds == sorted(set(thresholds)), name
        for price in (row.price, *(tier.price for tier in row.price.tiers)):
            assert all((getattr(price, bucket) or 0) >= 0 for bucket in BUCKETS), name


def test_table_names_its_sources() -> None:
    """The sources have licences, a second source was compared with, and the file stays small."""
    assert [source.licence for source in PRICES.sources] == ["MIT", "MIT", "Apache-2.0"]
    assert PRICES.checked.agree > 400
    assert len(PRICES.checked.differ) < 60
    assert TABLE.stat().st_size < 1_200_000
    assert len(PRICES._file.models) > 4000


@pytest.mark.parametrize(
    ("provider", "theirs", "model"),
    [
        ("openai", "openai", "gpt-4o"),
        ("openai", "openai", "gpt-4o-mini"),
        ("openai", "openai", "gpt-4.1"),
        ("openai", "openai", "gpt-4.1-mini"),
        ("openai", "openai", "gpt-5"),
        ("openai", "openai", "gpt-5-mini"),
        ("openai", "openai", "o3"),
        ("openai", "openai", "o4-mini"),
        ("openai", "openai", "text-embedding-3-small"),
        ("anthropic", "anthropic", "claude-haiku-4-5"),
        ("anthropic", "anthropic", "claude-sonnet-4-5"),
        ("anthropic", "anthropic", "claude-opus-4-5"),
        ("anthropic", "anthropic", "claude-opus-4-7"),
        ("anthropic", "anthropic", "claude-3-5-sonnet-20241022"),
        ("gemini", "google", "gemini-2.5-pro"),
        ("gemini", "google", "gemini-2.5-flash"),
        ("mistral", "mistral", "mistral-small-latest"),
        ("groq", "groq", "llama-3.3-70b-versatile"),
        ("xai", "x-ai", "grok-4"),
        ("openrouter", "openrouter", "anthropic/claude-sonnet-4.5"),
    ],
)
def test_costs_agree_with_genai_prices(provider: str, theirs: str, model: str) -> None:
    """A second library comes to exactly the same cost for well-known models."""
    facts = PRICES.find(provider, model)
    assert facts is not None
    assert facts.price is not None
    ours = cost(facts.price, Usage(input=1_234, cache_read=5_000, output=777))
    used = TheirUsage(input_tokens=6_234, cache_read_tokens=5_000, output_tokens=777)
    other = calc_price(
        used, model_ref=model, provider_id=theirs, genai_request_timestamp=CHECKED_AT
    ).total_price
    assert ours == ceil(other * PER_DOLLAR)


# -- prices from people ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written", [0.000002, "0.000002", "2e-06", "2E-6", " 0.000002 ", Decimal("0.000002")]
)
def test_per_token_prices_are_read_exactly(written: object) -> None:
    """A price per token is the same however it is written, as a number or as text."""
    price = price_from_params(
        {"input_cost_per_token": written, "model": "openai/x", "output_cost_per_token": None}
    )
    assert price == Price(input=2 * 10**9)


def test_noise_of_binary_fractions_is_rounded_away() -> None:
    """A price that was written by a program with binary fractions is the one that was meant."""
    price = price_from_params(
        {"input_cost_per_token": "9.499999999999999e-07", "output_cost_per_token": 3.3600000000000004e-07}
    )
    assert price == per_million(input="0.95", output="0.336")


def test_all_of_the_names_of_prices() -> None:
    """Every bucket has its name in LiteLLM's words, and long prompts take from short ones what is not said."""
    price = price_from_params(
        {
            "input_cost_per_token": "1e-6",
            "output_cost_per_token": "2e-6",
            "cache_read_input_token_cost": "1e-7",
            "cache_creation_input_token_cost": "1.25e-6",
            "cache_creation_input_token_cost_above_1hr": "2e-6",
            "input_cost_per_audio_token": "3e-6",
            "output_cost_per_audio_token": "4e-6",
            "output_cost_per_reasoning_token": "5e-6",
            "input_cost_per_token_above_200k_tokens": "6e-6",
            "input_cost_per_token_above_128k_tokens": "3e-6",
            "cache_creation_input_token_cost_above_1hr_above_200k_tokens": "9e-6",
            "input_cost_per_token_batches": "1e-9",
            "input_cost_per_token_above_200k_tokens_priority": "1e-9",
        }
    )
    assert price is not None
    base = per_million(
        input="1",
        output="2",
        cache_read="0.1",
        cache_write="1.25",
        cache_write_1h="2",
        audio_input="3",
        audio_output="4",
        reasoning="5",
    )
    assert [getattr(price, bucket) for bucket in BUCKETS] == [getattr(base, bucket) for bucket in BUCKETS]
    assert [
        (tier.above, tier.price.input, tier.price.cache_write_1h, tier.price.output) for tier in price.tiers
    ] == [
        (128_000, 3 * 10**9, 2 * 10**9, 2 * 10**9),
        (200_000, 6 * 10**9, 9 * 10**9, 2 * 10**9),
    ]


def test_parameters_without_prices_give_none() -> None:
    """Parameters that say nothing of prices give no price, not a price of nothing."""
    assert price_from_params({"model": "openai/gpt-4o", "rpm": 60, "input_cost_per_token": None}) is None


@pytest.mark.parametrize("value", ["-1e-6", -0.1, "a lot", "", True, [1], "nan", "inf", float("nan")])
def test_bad_prices_are_refused_by_name(value: object) -> None:
    """A price that is no amount is refused, and the message says which."""
    with pytest.raises(ValueError, match="output_cost_per_token: expected a number of dollars"):
        price_from_params({"output_cost_per_token": value})


def test_dollars() -> None:
    """Dollars are exact as text, readable as numbers, and come back as they went."""
    assert dollars_text(0) == "0.0"
    assert dollars_text(1) == "0.000000001"
    assert dollars_text(4_638_000) == "0.004638"
    assert dollars_text(12_000_000_000) == "12.0"
    assert dollars_text(-1_500_000_000) == "-1.5"
    assert nano("0.004638") == 4_638_000
    assert nano(10) == 10 * PER_DOLLAR
    assert nano(0.0001) == 100_000
    with pytest.raises(ValueError, match="max_budget"):
        nano("ten", "max_budget")


@given(st.integers(0, 10**15))
def test_dollars_as_text_are_exact(amount: int) -> None:
    """No amount is changed by writing it down."""
    assert nano(dollars_text(amount)) == amount
    assert "e" not in dollars_text(amount)


def test_only_what_can_be_asked_for_is_a_model() -> None:
    """Prices of fine-tuned bases and of containers are found, but are no names of models."""
    table = PriceTable.load()
    names = table.models("openai")
    assert "gpt-4o" in names
    assert "container" not in names
    assert [name for name in names if name.startswith("ft:")] == []
    assert table.find("openai", "ft:gpt-4o-2024-08-06:us::1") is not None
