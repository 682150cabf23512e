"""What single providers of OpenAI's format do: Azure's filter, OpenRouter's sealed reasoning, bills, service tiers."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import openai
from adapters.errors import ContentPolicyViolation, UpstreamError, UpstreamNotFound, UpstreamRateLimited
from adapters.providers import PROVIDERS, located
from adapters.types import (
    ChatRequest,
    Choice,
    Delta,
    Failure,
    Finish,
    Message,
    Provider,
    RedactedThinking,
    SignatureDelta,
    Start,
    Target,
    Text,
    TextDelta,
    Thinking,
    ToolCall,
    Usage,
    UsageDelta,
)
from tests.recorded import Recording, recordings

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
REQUEST = ChatRequest(model="m", messages=(Message("user", (Text("?"),)),))


def target(provider: str, model: str = "m", base: str = "") -> Target:
    row, base = located(PROVIDERS[provider], base or "https://r.openai.azure.com")
    return Target(provider=row, model=model, base_url=base)


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / name).read_bytes()


def read(body: bytes, provider: str) -> list[Delta]:
    reader = openai.read_stream(REQUEST, target(provider))
    return reader.feed(body) + reader.close()


def words(deltas: list[Delta]) -> str:
    return "".join(json.loads(bytes(delta.text)) for delta in deltas if isinstance(delta, TextDelta))


def usage_of(deltas: list[Delta]) -> Usage:
    return [delta.usage for delta in deltas if isinstance(delta, UsageDelta)][-1]


# -- Azure -----------------------------------------------------------------------------------------------------------


def test_azures_stream() -> None:
    """The first chunk, which has nothing but the prompt's filter results, opens nothing; the rest is OpenAI's."""
    deltas = read(transcript("azure/stream.sse"), "azure")
    assert deltas[0] == Start("chatcmpl-az", "gpt-4o-2024-11-20")
    assert words(deltas) == "It rains."
    assert usage_of(deltas) == Usage(input=20, output=4)
    assert deltas[-1] == Finish("stop")


def test_azures_filter_in_a_stream() -> None:
    """A chunk without a delta ends what was filtered."""
    deltas = read(transcript("azure/filtered.sse"), "azure")
    assert words(deltas) == "It"
    assert deltas[-1] == Finish("content_filter")
    editor = openai.pass_stream(target("azure"), "chat", model="ours", wants_usage=True)
    body = transcript("azure/filtered.sse")
    passed = editor.feed(body) + editor.close()
    assert passed == body.replace(b'"gpt-4o-2024-11-20"', b'"ours"').replace(b'"model":""', b'"model":"ours"')
    assert (editor.finish, editor.failure) == ("content_filter", None)


def test_azures_filtered_answer() -> None:
    """A choice may have no message at all."""
    answer = openai.read_response(transcript("azure/filtered.json"), REQUEST, target("azure"))
    assert answer.choices == (Choice((), "content_filter"),)


@pytest.mark.parametrize("name", ["error_filter", "error_filter_foundry"])
def test_azures_filter_on_the_prompt(name: str) -> None:
    """It is a refusal for what the prompt says, in both spellings."""
    error = openai.read_error(400, {}, transcript(f"azure/{name}.json"))
    assert type(error) is ContentPolicyViolation
    assert error.code == "content_filter"


def test_azures_missing_deployment() -> None:
    """A deployment that is not there is a model that is not there."""
    error = openai.read_error(404, {}, transcript("azure/error_deployment.json"))
    assert (type(error), error.code) == (UpstreamNotFound, "DeploymentNotFound")


def test_azures_addresses() -> None:
    """The deployment stands in the path, escaped, for every operation."""
    one = target("azure", "my deployment")
    assert openai.address(one, "images", {}, stream=False).url == (
        "https://r.openai.azure.com/openai/deployments/my%20deployment/images/generations?api-version=2025-02-01-preview"
    )
    assert "/audio/translations?" in openai.address(one, "translations", {}, stream=False).url


# -- OpenRouter ------------------------------------------------------------------------------------------------------

BILLED = Usage(input=2, cache_read=16, cache_write=2, output=4, reasoning=5, billed=123_457)


def test_openrouters_stream() -> None:
    """Reasoning comes once though it is said twice, its signature after it, and the bill at the end."""
    deltas = read(transcript("openrouter/stream.sse"), "openrouter")
    assert words(deltas) == "It rains."
    assert [json.loads(bytes(one.signature)) for one in deltas if isinstance(one, SignatureDelta)] == ["c2ln"]
    assert usage_of(deltas) == BILLED
    assert [delta for delta in deltas if isinstance(delta, Finish)] == [Finish("stop")]


def test_openrouters_sealed_reasoning() -> None:
    """What only the maker of the model can read is kept."""
    body = transcript("openrouter/sealed.json")
    answer = openai.read_response(body, REQUEST, target("openrouter"))
    parts = (Thinking("Rain."), RedactedThinking("gAAAA"), Text("It rains."))
    assert (answer.choices, answer.usage) == ((Choice(parts, "stop"),), BILLED)


@pytest.mark.parametrize(
    ("model", "thoughts", "sent"),
    [
        (
            "anthropic/claude-sonnet-4.5",
            (Thinking("Hm.", "sig"), RedactedThinking("x")),
            {
                "reasoning_details": [
                    {
                        "type": "reasoning.text",
                        "text": "Hm.",
                        "signature": "sig",
                        "format": "anthropic-claude-v1",
                        "index": 0,
                    },
                    {
                        "type": "reasoning.encrypted",
                        "data": "x",
                        "format": "anthropic-claude-v1",
                        "index": 1,
                    },
                ]
            },
        ),
        (
            "nobody/model",
            (RedactedThinking("x"),),
            {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "index": 0}]},
        ),
        ("z-ai/glm-5", (Thinking("Hm."), Thinking("Well.")), {"reasoning": "Hm.Well."}),
    ],
)
def test_reasoning_goes_back_to_openrouter(model: str, thoughts: Any, sent: dict[str, Any]) -> None:
    """Sealed thoughts go back as blocks with what seals them, others as their words."""
    turn = Message("assistant", (*thoughts, ToolCall("c", "f", "{}")))
    request = ChatRequest(model="m", messages=(turn,))
    body = json.loads(openai.write_request(request, target("openrouter", model)))
    (message,) = body["messages"]
    assert {name: value for name, value in message.items() if name.startswith("reasoning")} == sent


def test_openrouters_errors() -> None:
    """Its own error names the vendor's, and an error in a chunk ends the stream."""
    error = openai.read_error(429, {}, transcript("openrouter/error.json"))
    assert type(error) is UpstreamRateLimited
    assert error.message == (
        "Provider returned error: anthropic/claude-sonnet-4.5 is temporarily rate-limited upstream."
    )
    last = read(transcript("openrouter/error_in_stream.sse"), "openrouter")[-1]
    assert isinstance(last, Failure)
    assert isinstance(last.error, UpstreamError)
    assert last.error.provider_status == 502


# -- bills and tiers -------------------------------------------------------------------------------------------------

BILLS = Provider(name="p", quirks=frozenset({"bills"}))


def billed(usage: str, provider: Provider = BILLS) -> int | None:
    found = openai.read_usage(usage.encode(), provider)
    assert found is not None
    return found.billed


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        ('{"cost":0}', 0),
        ('{"cost":1}', 1_000_000_000),
        ('{"cost":0.1}', 100_000_000),
        ('{"cost":3.4e-7}', 340),
        ('{"cost":0.0000000004}', 0),
        ('{"cost":0.0000000006}', 1),
        ('{"cost":0.00765,"is_byok":false,"cost_details":{"upstream_inference_cost":0.00065}}', 7_650_000),
        ('{"cost":0.0005,"is_byok":true,"cost_details":{"upstream_inference_cost":0.01}}', 10_500_000),
        ('{"cost":0.0005,"is_byok":true,"cost_details":{"upstream_inference_cost":null}}', 500_000),
        ('{"cost":0.0005,"is_byok":true}', 500_000),
        ('{"cost":{"currency":"USD","input_cost":0.00001,"total_cost":0.00609}}', 6_090_000),
        ('{"cost":{"total_cost":null}}', None),
        ('{"cost":{}}', None),
        ('{"cost":null}', None),
        ('{"cost":-0.1}', None),
        ('{"cost":"0.1"}', None),
        ('{"cost":1e300}', None),
        ('{"cost":1e99999999999999999999}', None),
        ('{"cost":0e-99999999999999999999}', None),
        ('{"cost":0.5,"prompt_tokens":"many"}', 500_000_000),
        ('{"cost_in_usd_ticks":2244800}', 224_480),
        ('{"cost_in_usd_ticks":5}', 1),
        ('{"cost_in_usd_ticks":25,"prompt_tokens":"many"}', 3),
        ('{"cost_in_usd_ticks":1000000000000000000000000000000}', None),
        ('{"cost_in_usd_ticks":-5}', None),
        ("{}", None),
    ],
)
def test_bills(usage: str, nano: int | None) -> None:
    """What a provider says that a request costs, to the nearest nano-dollar."""
    assert billed(usage) == nano


@given(st.decimals(min_value=0, max_value=1000, places=9, allow_nan=False))
def test_every_amount_is_exact(amount: Decimal) -> None:
    """No amount goes through a float."""
    assert billed(f'{{"cost":{amount:f}}}') == int(amount * 10**9)


def test_only_who_bills_is_believed() -> None:
    """Azure repeats what Grok costs at xAI."""
    assert billed('{"cost_in_usd_ticks":2244800,"cost":1}', PROVIDERS["azure_ai"]) is None


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        ('"flex"', "flex"),
        ('"priority"', "priority"),
        ('"batch"', "batch"),
        ('"default"', ""),
        ('"on_demand"', ""),
        ("null", ""),
        ("5", ""),
    ],
)
def test_service_tiers(tier: str, expected: str) -> None:
    """The tiers that have prices of their own are noted, of an answer, a stream and one that passes."""
    usage = '"usage":{"prompt_tokens":3,"completion_tokens":1}'
    body = f'{{"id":"a","model":"m","choices":[{{"message":{{"content":"x"}}}}],"service_tier":{tier},{usage}}}'.encode()
    wanted = Usage(input=3, output=1, tier=expected)
    assert openai.read_response(body, REQUEST, target("openai")).usage == wanted
    assert openai.pass_response(body, target("openai"), "chat", model="m")[1] == wanted
    assert usage_of(read(b"data: " + body + b"\n\n", "openai")) == wanted
    inside = openai.read_usage(
        f'{{"prompt_tokens":3,"completion_tokens":1,"service_tier":{tier}}}'.encode(), BILLS
    )
    assert inside == wanted


def test_pictures_in_usage() -> None:
    """Tokens of pictures are inside of the totals, on both sides."""
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 10, "image_tokens": 60, "audio_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 8, "image_tokens": 30},
    }
    expected = Usage(
        input=25, cache_read=10, audio_input=5, image_input=60, output=12, reasoning=8, image_output=30
    )
    assert openai.read_usage(json.dumps(usage).encode(), BILLS) == expected
    odd = usage | {"num_cached_tokens": "none"}
    assert openai.read_usage(json.dumps(odd).encode(), BILLS) == expected


def amount_in(usage: Any) -> Decimal | None:
    """The bill by a plainer way."""
    if "cost_in_usd_ticks" in usage:
        return Decimal(usage["cost_in_usd_ticks"]) / 10**10
    cost = usage.get("cost")
    amount: Decimal | None = cost["total_cost"] if isinstance(cost, dict) else cost
    return amount


WITH_BILLS = [
    one
    for one in recordings("openrouter", "perplexity", "xai", kinds=("chat",))
    if one.status < 400 and (b'"cost' in one.response) and "err-midstream" not in one.path.name
]


@pytest.mark.parametrize("recording", WITH_BILLS, ids=str)
def test_recorded_bills(recording: Recording) -> None:
    """The bill of a recorded answer is read to the last digit, translated and passed on."""
    one = target(recording.provider, base="https://provider.test/v1")
    text = recording.response.decode().replace("\r\n", "\n")
    if recording.response_kind == "json":
        docs = [json.loads(text, parse_float=Decimal)]
        usage = openai.read_response(recording.response, REQUEST, one).usage
        passed = openai.pass_response(recording.response, one, "chat", model="m")[1]
    else:
        lines = [line[5:] for line in text.split("\n") if line.startswith("data:") and "[DONE]" not in line]
        docs = [json.loads(line, parse_float=Decimal) for line in lines]
        usage = usage_of(read(text.encode(), recording.provider))
        editor = openai.pass_stream(one, "chat", model="m", wants_usage=True)
        editor.feed(text.encode())
        passed = editor.usage
    amount = amount_in([doc["usage"] for doc in docs if doc.get("usage")][-1])
    assert usage is not None
    assert usage == passed
    assert usage.billed == (None if amount is None else int((amount * 10**9).to_integral_value()))
