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
from msgspec import Raw

from adapters.types import Units, Usage
from gateway.pricing import (
    FREE,
    PER_DOLLAR,
    SELF_HOSTED,
    TABLE,
    Price,
    PriceTable,
    Tier,
    completed,
    cost,
    dollars_text,
    nano,
    price_from_params,
    readable_prices,
)
from gateway.state.records import TOKENS

PRICES = PriceTable.load()

CHECKED_AT = datetime(2026, 11, 21, tzinfo=UTC)

BUCKETS = TOKENS
KINDS_OF = {
    "cache_read": "input",
    "cache_write": "input",
    "cache_write_1h": "input",
    "audio_input": "input",
    "image_input": "input",
    "reasoning": "output",
    "audio_output": "output",
}
"""What a bucket costs where it has no price of its own."""
UNITS = ("image", "pixel", "millisecond", "character", "search")
UNITS_OF = {"images": "image", "milliseconds": "millisecond", "characters": "character", "searches": "search"}


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
        ("image_input", 2),
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
known = st.integers(0, 10**12)
full_prices = st.builds(
    Price,
    **dict.fromkeys(BUCKETS, rates)
    | dict.fromkeys(("input", "output", "image_output", *UNITS_OF.values()), known),
)
counts = st.integers(0, 10**7)
usages = st.builds(
    Usage,
    **dict.fromkeys(BUCKETS, counts),
    units=st.builds(Units, **dict.fromkeys(set(UNITS_OF) - {"images"}, counts)),
)


def exact(price: Price, usage: Usage) -> int:
    """What it costs, by fractions and without haste."""
    total = Fraction(0)
    for bucket in BUCKETS:
        own = getattr(price, bucket)
        if own is None and bucket == "cache_write_1h" and price.cache_write is not None:
            own = 2 * (price.input or 0)
        rate = getattr(price, KINDS_OF.get(bucket, bucket)) if own is None else own
        total += Fraction(getattr(usage, bucket)) * rate / 10**6
    for unit, name in UNITS_OF.items():
        total += Fraction(getattr(usage.units, unit)) * getattr(price, name) / 10**6
    return ceil(total)


@given(full_prices, usages)
def test_every_bucket_is_in_the_cost_once(price: Price, usage: Usage) -> None:
    """The cost is the exact sum of all buckets and units, rounded up once."""
    assert cost(price, usage) == exact(price, usage)


@given(full_prices, counts, counts, counts, counts)
def test_ordinary_answers_are_exact_too(
    price: Price, words: int, cached: int, said: int, thought: int
) -> None:
    """So is that of the short way, for what nearly all requests have."""
    usage = Usage(input=words, cache_read=cached, output=said, reasoning=thought)
    assert cost(price, usage) == exact(price, usage)


# -- what is no token ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "price"),
    [
        (Usage(image_output=1), Price(input=1, output=1)),
        *(
            (Usage(units=Units(**{unit: 1})), msgspec.convert({"input": 1, "output": 1, other: 1}, Price))
            for unit, other in zip(UNITS_OF, ("search", "image", "millisecond", "character"), strict=True)
        ),
    ],
)
def test_what_has_no_price_makes_the_cost_unknown(usage: Usage, price: Price) -> None:
    """A picture, a second, a character or a search without a price is unknown, whatever else is priced."""
    assert cost(price, usage) is None


def test_tokens_are_not_billed_where_only_units_have_prices() -> None:
    """Who sells by the second may count tokens too; without a second they are unknown, not free."""
    by_second = Price(millisecond=10**6)
    assert cost(by_second, Usage(input=10, audio_input=5, output=3, units=Units(milliseconds=7))) == 7
    assert cost(by_second, Usage(input=10, output=3)) is None
    assert cost(by_second, Usage(input=10, units=Units(characters=7))) is None
    assert cost(Price(millisecond=10**6, input=10**6), Usage(output=1, units=Units(milliseconds=7))) is None


def test_the_provider_knows_best() -> None:
    """What the provider billed counts, with or without a price; nothing is a bill too."""
    for price in (None, Price(), per_million(input="1", output="1")):
        assert cost(price, Usage(input=10, output=10, billed=77)) == 77
        assert cost(price, Usage(input=10, output=10, billed=0)) == 0
    assert cost(None, Usage(input=10)) is None


def test_service_tiers() -> None:
    """The tier that answered decides, and there the length of the prompt; one without a price of its own costs as ever."""
    price = price_from_params(
        {
            "input_cost_per_token": "4e-6",
            "output_cost_per_token": "8e-6",
            "input_cost_per_token_above_200k_tokens": "6e-6",
            "input_cost_per_token_batches": "2e-6",
            "input_cost_per_token_priority": "8e-6",
            "input_cost_per_token_above_200k_tokens_priority": "12e-6",
        }
    )
    assert price is not None
    short, long = Usage(input=1000, output=1), Usage(input=200_001)
    tiers = {"": (4, 6), "batch": (2, 6), "priority": (8, 12), "scale": (4, 6)}
    for tier, (below, above) in tiers.items():
        assert cost(price, msgspec.structs.replace(short, tier=tier)) == below * 1_000_000 + 8_000
        assert cost(price, msgspec.structs.replace(long, tier=tier)) == above * 200_001_000


def question(**fields: object) -> dict[str, Raw]:
    """What a client asks for."""
    return {name: Raw(msgspec.json.encode(value)) for name, value in fields.items()}


@pytest.mark.parametrize(
    ("asked", "dollars"),
    [
        ({}, "0.04"),
        ({"size": "auto", "quality": "auto"}, "0.04"),
        ({"quality": "standard", "size": "1024x1792"}, "0.08"),
        ({"quality": "hd"}, "0.08"),
        ({"quality": "hd", "size": "1792x1024"}, "0.12"),
        ({"size": None, "quality": ["hd"]}, "0.04"),
        ({"size": "4096x4096"}, None),
    ],
)
def test_pictures_by_size_and_quality(asked: dict[str, object], dollars: str | None) -> None:
    """What was asked for decides what a picture costs; a size without a price is unknown."""
    facts = PRICES.find("openai", "dall-e-3")
    assert facts is not None
    found = cost(facts.price, Usage(units=Units(images=3)), question(**asked))
    assert found == (None if dollars is None else 3 * nano(dollars))


def test_pictures_by_pixels() -> None:
    """A price per pixel is multiplied by the size that was asked for."""
    facts = PRICES.find("nscale", "black-forest-labs/FLUX.1-schnell")
    assert facts is not None
    used = Usage(units=Units(images=2))
    assert cost(facts.price, used, question(size="512x512")) == ceil(2 * 512 * 512 * Fraction(13, 10))
    assert cost(facts.price, used, question(size="large")) is None


def test_pictures_that_are_counted_in_tokens_are_not_paid_twice() -> None:
    """Where the tokens of a picture are reported and priced, the price per picture is not added."""
    facts = PRICES.find("openai", "gpt-image-1")
    assert facts is not None
    usage = Usage(input=10, image_input=100, image_output=1000, units=Units(images=1))
    asked = question(quality="high")
    assert cost(facts.price, usage, asked) == 10 * 5_000 + 100 * 10_000 + 1000 * 40_000
    assert cost(facts.price, Usage(units=Units(images=1)), asked) == nano("0.167")
    assert cost(facts.price, Usage(units=Units(images=1))) is None  # `auto` may be any quality


@pytest.mark.parametrize(
    ("provider", "model", "usage", "dollars"),
    [
        ("openai", "whisper-1", Usage(units=Units(milliseconds=60_000)), "0.006"),
        ("groq", "whisper-large-v3", Usage(units=Units(milliseconds=3_600_000)), "0.110988"),
        ("openai", "gpt-4o-transcribe", Usage(input=10, audio_input=100, output=20), "0.000475"),
        ("openai", "gpt-4o-transcribe", Usage(units=Units(milliseconds=30_000)), "0.003"),
        ("mistral", "voxtral-mini-2602", Usage(input=4, output=9, units=Units(milliseconds=60_000)), "0.003"),
        ("openai", "tts-1", Usage(units=Units(characters=1000)), "0.015"),
        ("openai", "gpt-4o-mini-tts", Usage(input=10, audio_output=100), "0.001206"),
        ("openai", "dall-e-2", Usage(units=Units(images=1)), "0.02"),
        ("azure", "dall-e-3", Usage(units=Units(images=1)), "0.044"),
        ("gemini", "imagen-4.0-generate-001", Usage(units=Units(images=2)), "0.08"),
        ("gemini", "gemini-2.5-flash-image", Usage(input=10, image_output=1290), "0.038703"),
        ("bedrock", "amazon.nova-canvas-v1:0", Usage(units=Units(images=1)), "0.06"),
        ("bedrock", "amazon.titan-embed-image-v1", Usage(input=10, units=Units(images=1)), "0.000068"),
        ("stability", "sd3.5-large", Usage(units=Units(images=1)), "0.065"),
        ("cohere", "rerank-v3.5", Usage(units=Units(searches=1)), "0.002"),
        ("bedrock", "amazon.rerank-v1:0", Usage(units=Units(searches=2)), "0.002"),
        ("voyage", "rerank-2.5", Usage(input=1000), "0.00005"),
        ("anthropic", "claude-sonnet-4-5", Usage(input=1000, output=100, units=Units(searches=2)), "0.0245"),
        ("openai", "gpt-5", Usage(input=1000, output=100, tier="flex"), "0.001125"),
        ("openai", "gpt-5", Usage(input=1000, output=100, tier="priority"), "0.0045"),
        ("anthropic", "claude-sonnet-4-5", Usage(input=1000, cache_write_1h=1000, tier="batch"), "0.0045"),
        ("anthropic", "claude-opus-4-8", Usage(input=1000, output=100, tier="fast"), "0.015"),
        ("gemini", "gemini-2.5-pro", Usage(input=300_000, output=1000), "0.765"),
        ("xinference", "whisper-large", Usage(units=Units(milliseconds=1)), "0"),
    ],
)
def test_each_kind_of_price_is_in_the_table(provider: str, model: str, usage: Usage, dollars: str) -> None:
    """Sound, speech, pictures, searches, service tiers and long prompts cost what their vendors print."""
    facts = PRICES.find(provider, model)
    assert facts is not None
    assert cost(facts.price, usage) == nano(dollars)


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


def test_images_have_a_mode_and_no_price_by_token() -> None:
    """A model that is not paid by the token is known, its price by token is not, and its sizes are no models."""
    facts = PRICES.find("openai", "dall-e-3")
    assert facts is not None
    assert facts.mode == "image_generation"
    assert facts.price is not None
    assert facts.price.input is None
    names = PRICES.models("openai", "image_generation")
    assert "gpt-image-1" in names
    assert not [name for name in names if "1024" in name]


def test_dimensions_and_levels_of_effort() -> None:
    """The length of an embedding's vector and the levels of effort are facts of a model."""
    facts = PRICES.find("bedrock", "amazon.titan-embed-image-v1")
    assert facts is not None
    assert facts.dimensions == 1024
    opus = PRICES.find("anthropic", "claude-opus-4-7")
    assert opus is not None
    assert {"supports_xhigh_reasoning_effort", "no_assistant_prefill"} <= opus.flags
    old = PRICES.find("anthropic", "claude-sonnet-4-5")
    assert old is not None
    assert "no_assistant_prefill" not in old.flags


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
        by_unit = (row.price.images, *(getattr(row.price, unit) for unit in UNITS))
        by_token = (row.price.input, row.price.output, row.price.image_output, row.price.audio_input)
        assert any(by_unit) or [rate for rate in by_token if rate is not None], name
        assert (row.price.input or 0) <= 200 * PER_DOLLAR, name
        assert (row.price.output or 0) <= 1000 * PER_DOLLAR, name
        thresholds = [tier.above for tier in row.price.tiers]
        assert thresholds == sorted(set(thresholds)), name
        for price in (row.price, *(tier.price for tier in row.price.tiers), *row.price.services.values()):
            assert all((getattr(price, field) or 0) >= 0 for field in (*BUCKETS, *UNITS)), name
            assert (price.image or 0) <= PER_DOLLAR * 10**6, name
            assert (price.millisecond or 0) <= PER_DOLLAR, name
            assert (price.character or 0) <= 300 * PER_DOLLAR, name
            assert (price.search or 0) <= PER_DOLLAR * 10**6 // 10, name


def test_table_names_its_sources() -> None:
    """The sources have licences, a second source was compared with, and the file stays small."""
    assert [source.licence for source in PRICES.sources] == ["MIT", "MIT", "Apache-2.0"]
    assert PRICES.checked.agree > 400
    assert len(PRICES.checked.differ) < 60
    assert TABLE.stat().st_size < 1_300_000
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
        ("xai", "x-ai", "grok-3-mini"),
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
            "input_cost_per_image_token": "7e-6",
            "output_cost_per_image_token": "8e-6",
            "input_cost_per_token_batches": "1e-9",
            "input_cost_per_token_above_200k_tokens_priority": "2e-9",
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
        image_input="7",
        image_output="8",
        reasoning="5",
    )
    assert [getattr(price, bucket) for bucket in BUCKETS] == [getattr(base, bucket) for bucket in BUCKETS]
    assert [
        (tier.above, tier.price.input, tier.price.cache_write_1h, tier.price.output) for tier in price.tiers
    ] == [
        (128_000, 3 * 10**9, 2 * 10**9, 2 * 10**9),
        (200_000, 6 * 10**9, 9 * 10**9, 2 * 10**9),
    ]
    batch, priority = price.services["batch"], price.services["priority"]
    assert (batch.input, batch.output, batch.tiers[0].price.input) == (10**6, 2 * 10**9, 3 * 10**9)
    assert (priority.input, priority.tiers[1].price.input) == (10**9, 2 * 10**6)


def test_names_of_what_is_no_token() -> None:
    """A price per picture, pixel, second, character and search has its name too; of two the one that is not zero counts."""
    price = price_from_params(
        {
            "output_cost_per_image": 0.04,
            "input_cost_per_image": 0.0011,
            "input_cost_per_pixel": "1.3e-9",
            "output_cost_per_pixel": "0.0",
            "output_cost_per_second": "0.0",
            "input_cost_per_second": "0.0001",
            "input_cost_per_character": "0.000015",
            "search_context_cost_per_query": {
                "search_context_size_low": "0.005",
                "search_context_size_medium": "0.008",
            },
        }
    )
    assert price == Price(
        image=4 * 10**13, pixel=1_300_000, millisecond=10**8, character=15 * 10**9, search=8 * 10**12
    )
    assert price_from_params({"input_cost_per_query": "0.002"}) == Price(search=2 * 10**12)
    assert price_from_params({"search_context_cost_per_query": "0.01"}) == Price(search=10**13)
    with pytest.raises(ValueError, match="search_context_cost_per_query: expected a number"):
        price_from_params({"search_context_cost_per_query": {}})


def test_prices_among_other_facts() -> None:
    """Of the facts about a model those that are prices are found, and what cannot be read is no price."""
    facts = {
        "id": "m",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": "dear",
        "input_cost_per_image": None,
    }
    assert readable_prices({**facts, "max_tokens": 9}) == {"input_cost_per_token": 1e-6}


def test_what_an_operator_leaves_open_is_as_listed() -> None:
    """An operator's price takes from the list what it does not say, unless it says what an answer costs as a whole."""
    listed = Price(input=1, output=2, reasoning=3, search=4, images={"1024x1024": 5})
    pictures = {"1024x1024": 5}
    assert completed(Price(input=7), listed) == Price(
        input=7, output=2, reasoning=3, search=4, images=pictures
    )
    assert completed(Price(output=7), listed) == Price(input=1, output=7, search=4, images=pictures)
    assert completed(Price(search=7), listed) == Price(
        input=1, output=2, reasoning=3, search=7, images=pictures
    )
    assert completed(Price(image=7), listed) == Price(image=7)
    assert completed(Price(input=7), None) == Price(input=7)
    tiers = Price(tiers=(Tier(9, Price(input=8)),), services={"flex": Price(output=6)})
    whole = completed(tiers, Price(input=1, output=2))
    assert whole == Price(
        input=1,
        output=2,
        tiers=(Tier(9, Price(input=8, output=2)),),
        services={"flex": Price(input=1, output=6)},
    )


def test_an_operator_who_gives_one_price_changes_no_other() -> None:
    """Cached tokens, long prompts and service tiers cost what is listed, as far as the words they are of are left open."""
    listed = Price(
        input=10,
        output=20,
        cache_read=1,
        tiers=(Tier(9, Price(input=30, output=40, cache_read=3)),),
        services={"flex": Price(input=5, output=6, cache_read=2)},
    )
    assert completed(Price(output=7), listed) == Price(
        input=10,
        output=7,
        cache_read=1,
        tiers=(Tier(9, Price(input=30, output=7, cache_read=3)),),
        services={"flex": Price(input=5, output=7, cache_read=2)},
    )
    own_tier = completed(Price(tiers=(Tier(9, Price(input=33)),)), listed)
    assert own_tier.tiers == (Tier(9, Price(input=33, output=40)),)
    assert completed(Price(input=7, output=8), listed) == Price(input=7, output=8)


def test_a_price_of_another_service_tier_alone() -> None:
    """What is said of a service tier holds there; the ordinary tier, and the rest of that one, cost what is listed."""
    own = price_from_params({"input_cost_per_token_priority": "9e-6", "input_cost_per_token_batches": "1e-6"})
    assert own is not None
    whole = completed(
        own, price_from_params({"input_cost_per_token": "2e-6", "output_cost_per_token": "4e-6"})
    )
    tiers = {"": (2, 4), "priority": (9, 4), "batch": (1, 4)}
    for tier, (question, answer) in tiers.items():
        used = Usage(input=10**6, output=10**6, tier=tier)
        assert cost(whole, used) == (question + answer) * PER_DOLLAR


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
