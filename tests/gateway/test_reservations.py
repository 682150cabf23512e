"""What a request costs at most is never less than what it costs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters.types import Operation, Units, Usage
from gateway.config.load import load
from gateway.pricing import MILLION, Price, PriceTable, Tier, cost
from gateway.reservations import ESTIMATED, OUTPUT, most, tokens_in, tokens_out
from gateway.routes import Deployment, compile_routes

TABLE = PriceTable.load()


def deployment(model: str = "openai/gpt-4o", price: Price | None = None, **params: Any) -> Deployment:
    compiled = compile_routes(load(None, {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}).config, {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}, TABLE)  # fmt: skip
    route = compiled.find(model)
    assert route is not None
    found = replace(route.deployments[0], notes={}, **params)
    return found if price is None else replace(found, price=price)


def question(**fields: Any) -> tuple[dict[str, Raw], int]:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}], **fields}
    return {name: Raw(json.dumps(value).encode()) for name, value in body.items()}, len(json.dumps(body))


def worst(one: Deployment, operation: Operation = "chat", **fields: Any) -> int:
    asked, size = question(**fields)
    amount, unknown = most([one], operation, asked, size)
    assert unknown is None
    return amount


def test_input_and_output() -> None:
    """A token for two bytes, and all of `max_tokens`, at the model's price."""
    price = Price(input=MILLION, output=10 * MILLION)
    asked, size = question(max_tokens=100)
    assert most([deployment(price=price)], "chat", asked, size) == (size // 2 + 1 + 1000, None)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"max_tokens": 100}, 100),
        ({"max_completion_tokens": 50, "max_tokens": 100}, 100),
        ({"max_completion_tokens": 1, "max_output_tokens": 100}, 100),
        ({"max_tokens": "100"}, 100),
        ({"max_tokens": 100.0}, 100),
        ({"max_tokens": 100, "n": "3"}, 300),
        ({"max_tokens": 100, "n": 3.0}, 300),
        ({"max_tokens": -1}, 16_384),
        ({"max_tokens": [1] * 1000}, 16_384),
        ({"max_tokens": 10, "prompt": ["a", "b", "c"]}, 30),
        ({"max_tokens": 10, "prompt": [[1, 2], [3]], "n": 2}, 40),
        ({"max_tokens": 10, "prompt": [1, 2, 3]}, 10),
        ({"max_tokens": 100, "n": 3}, 300),
        ({"max_tokens": 10**9}, 16_384),
        ({}, 16_384),
        ({"max_tokens": None}, 16_384),
    ],
)
def test_how_long_an_answer_may_be(fields: dict[str, Any], tokens: int) -> None:
    """What is said, but not more than the model writes; for each of the answers."""
    assert tokens_out(deployment("openai/gpt-4o"), question(**fields)[0]) == tokens


def test_nobody_knows_how_long() -> None:
    """Neither the request nor the table says: a bound of ours; or the deployment's own default."""
    unknown = deployment("openai/nobody-knows-it")
    assert tokens_out(unknown, question()[0]) == OUTPUT
    assert tokens_out(replace(unknown, defaults={"max_tokens": 7}), question()[0]) == 7


def test_a_deployments_defaults_count() -> None:
    """`n` and another word for `max_tokens` may stand in the configuration."""
    one = replace(deployment("openai/gpt-4o"), defaults={"n": 4, "max_completion_tokens": 900})
    assert tokens_out(one, question(max_tokens=10)[0]) == 3_600
    assert tokens_out(one, question(max_tokens=10, n=1, max_completion_tokens=5)[0]) == 10


def test_what_a_model_thinks_may_be_added() -> None:
    """Claude before adaptive thinking: its budget of thoughts comes on top of a `max_tokens` that has no room for it."""
    claude = deployment("anthropic/claude-sonnet-4-5")
    assert tokens_out(claude, question(max_tokens=100, reasoning_effort="high")[0]) >= 100 + 4096
    thinking = {"type": "enabled", "budget_tokens": 30_000}
    assert tokens_out(claude, question(max_tokens=100, thinking=thinking)[0]) == 30_100
    assert tokens_out(claude, question(max_tokens=31_000, thinking=thinking)[0]) == 31_000
    assert tokens_out(deployment(), question(max_tokens=100, reasoning_effort="high")[0]) == 100


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        ("chat", "service_tier"),
        ("chat", "thinking"),
        ("rerank", "documents"),
        ("images", "n"),
        ("images", "size"),
    ],
)
def test_numbers_that_nobody_can_read(operation: Operation, field: str) -> None:
    """What is too large for a number counts as if it were not said: whoever is asked refuses it."""
    words = Price(input=MILLION, output=MILLION)
    price = replace(words, search=MILLION, image=MILLION, images={"hd/1x1": 1}, services={"flex": words})
    one = deployment("anthropic/claude-sonnet-4-5", price=price)
    asked, size = question(max_tokens=100)
    amount, unknown = most([one], operation, {**asked, field: Raw(b'{"budget_tokens":1e999}')}, size)
    assert amount > 0
    assert unknown is None


def test_text_that_says_it_is_a_file() -> None:
    """Text without blanks is text, whatever field it is in."""
    text = "Hello,world;" * 4_000
    for content in (
        text,
        [{"type": "text", "text": text + " a"}],
        [{"type": "text", "text": f'"data": "{text}" a'}],
        [{"type": "image_url", "image_url": {"url": f"data:{text} "}}, {"type": "text", "text": "a b"}],
    ):
        asked, size = question(messages=[{"role": "user", "content": content}, {"content": "a b"}])
        assert tokens_in(asked, size) >= len(text) // 2


def test_the_dearest_counts() -> None:
    """Of several candidates, of long prompts, of caches and of service tiers."""
    cheap = Price(input=MILLION, output=MILLION)
    dear = replace(cheap, output=5 * MILLION)
    asked, size = question(max_tokens=1000)
    assert most([deployment(price=cheap), deployment(price=dear)], "chat", asked, size)[0] >= 5000
    long = replace(cheap, tiers=(Tier(10, replace(cheap, input=9 * MILLION)),))
    assert worst(deployment(price=long), max_tokens=1) >= 9 * (size // 2)
    cached = replace(cheap, cache_write=2 * MILLION)
    assert worst(deployment(price=cached), max_tokens=1) > worst(deployment(price=cheap), max_tokens=1)
    served = replace(cheap, services={"priority": dear})
    assert worst(deployment(price=served), max_tokens=1000, service_tier="priority") >= 5000
    assert worst(deployment(price=served), max_tokens=1000, service_tier="flex") < 5000


def test_pictures_in_a_question() -> None:
    """A picture behind a link has few bytes and many tokens; one that is sent has many bytes and not so many tokens."""
    plain, size = question()
    linked, linked_size = question(
        messages=[
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}
        ]
    )
    assert tokens_in(linked, linked_size) > tokens_in(plain, size) + 4_000
    data = "data:image/png;base64," + "A" * 400_000
    sent, sent_size = question(
        messages=[{"role": "user", "content": [{"text": "a b"}, {"image_url": {"url": data}}]}]
    )
    assert 5_000 < tokens_in(sent, sent_size) < 40_000


def test_other_operations() -> None:
    """Pictures by number and size, speech by its characters, sound by its bytes, a count of tokens for nothing."""
    picture = Price(image=40_000_000 * MILLION)
    assert worst(deployment(price=picture), "images", prompt="a cat", n=3) == 120_000_000
    assert worst(deployment(price=picture), "images", prompt="a cat", n="3") == 120_000_000
    ranking = Price(search=2_000_000 * MILLION)
    short, long = ["a"] * 100, ["word " * 2_000] * 100
    assert worst(deployment(price=ranking), "rerank", query="q", documents=short) == 2_000_000
    assert worst(deployment(price=ranking), "rerank", query="q", documents=long) >= 5 * 2_000_000
    speech = Price(character=15_000 * MILLION)
    assert worst(deployment(price=speech), "speech", input="abcd") == 60_000
    sound = Price(millisecond=100 * MILLION)
    asked, _ = question()
    amount, _ = most([deployment(price=sound)], "transcriptions", asked, 4_000_000)
    assert amount >= 1_000_000 * 100
    assert worst(deployment(), "count_tokens") == 0
    assert worst(deployment("openai/text-embedding-3-small"), "embeddings", input="some words") > 0


def test_an_unknown_price() -> None:
    """It is told whose; a stand-in makes it known."""
    unknown = deployment("openai/nobody-knows-it")
    asked, size = question(max_tokens=10)
    assert most([unknown], "chat", asked, size) == (0, unknown)
    amount, none = most([unknown], "chat", asked, size, stand_in=ESTIMATED)
    assert none is None
    assert amount > 10 * 25_000


@pytest.mark.parametrize("model", ["openai/gpt-4o", "anthropic/claude-sonnet-4-5", "openai/o3", "openai/gpt-4o-audio-preview"])  # fmt: skip
def test_it_is_never_less_than_the_bill(model: str) -> None:
    """Whatever kind of tokens a provider reports within what was asked for."""
    one = deployment(model)
    asked, size = question(max_tokens=1000)
    amount, _ = most([one], "chat", asked, size)
    into = size // 4
    for usage in (
        Usage(input=into, output=1000),
        Usage(cache_read=into, reasoning=1000),
        Usage(cache_write=into, output=500, reasoning=500),
        Usage(input=into, output=1000, units=Units()),
    ):
        bill = cost(one.price, usage)
        assert bill is not None
        assert bill <= amount
