"""Bedrock's Converse, piece by piece; requests are checked against Amazon's own description of the service."""

from __future__ import annotations

import json
from base64 import b64decode
from functools import cache
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from msgspec import Raw
from msgspec.structs import replace

from adapters import bedrock
from adapters.base import ProviderSide
from adapters.errors import (
    BadRequest,
    ContextWindowExceeded,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
    UpstreamForbidden,
    UpstreamMalformed,
    UpstreamNotFound,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)
from adapters.providers import PROVIDERS, find
from adapters.types import (
    Audio,
    ChatRequest,
    Delta,
    Document,
    Failure,
    Finish,
    Image,
    Message,
    Opaque,
    Reasoning,
    RedactedThinking,
    Refusal,
    ResponseFormat,
    Start,
    Target,
    Text,
    TextDelta,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolDelta,
    ToolResult,
    ToolStart,
    Usage,
    UsageDelta,
)
from tests.adapters.folding import fold
from tests.adapters.frames import FOLDER, both_ways, event, exception, frame, transcript

BASE = "https://bedrock-runtime.eu-central-1.amazonaws.com"


def target(model: str = "anthropic.claude-sonnet-4-5-v1:0", **more: Any) -> Target:
    return Target(provider=PROVIDERS["bedrock"], model=model, base_url=BASE, **more)


CLAUDE = target()
NOVA = target("us.amazon.nova-pro-v1:0")
LLAMA = target("meta.llama3-3-70b-instruct-v1:0")
HI = (Message("user", (Text("hi"),)),)
QUESTION = ChatRequest(model="any", messages=HI)
MARK = Raw(b'{"type":"ephemeral"}')
HOUR = Raw(b'{"type":"ephemeral","ttl":"1h"}')
TOOL = Tool("weather", Raw(b'{"type":"object","properties":{"city":{"type":"string"}}}'), "Tells the weather")
CALLED = (
    *HI,
    Message("assistant", (ToolCall("call_1", "weather", '{"city":"Bern"}'),)),
    Message("user", (ToolResult("call_1", (Text("sunny"),)),)),
)


def ours(side: ProviderSide) -> str:
    return side.STREAM_TYPE


def test_keeps_the_contract() -> None:
    """The module is a provider's format."""
    assert ours(bedrock) == "application/vnd.amazon.eventstream"


# -- requests --------------------------------------------------------------------------------------------------------


@cache
def service() -> Any:
    return botocore.session.Session().get_service_model("bedrock-runtime").operation_model("Converse")


def ask(request: ChatRequest = QUESTION, to: Target = CLAUDE, **fields: Any) -> dict[str, Any]:
    """The body, which must be one that Amazon's own client would send."""
    body: dict[str, Any] = json.loads(bedrock.write_request(replace(request, **fields), to))
    report = ParamValidator().validate({"modelId": to.model, **body}, service().input_shape)
    assert not report.has_errors(), report.generate_report()
    return body


def content(*parts: Any, to: Target = CLAUDE, role: Any = "user") -> list[dict[str, Any]]:
    messages = ask(to=to, messages=(Message(role, tuple(parts)),))["messages"]
    return list(messages[0]["content"]) if messages else []


def test_the_least() -> None:
    """A question of one word is one message, and nothing else."""
    assert ask() == {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}


def test_system_and_sampling() -> None:
    """The system prompt is apart, parameters have their own names."""
    fields: dict[str, Any] = {
        "system": (Text("Be kind."), Text(" ")),
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.75,
        "stop": ("END",),
    }
    body = ask(to=LLAMA, **fields)
    assert body["system"] == [{"text": "Be kind."}]
    assert body["inferenceConfig"] == {
        "maxTokens": 9,
        "temperature": 0.5,
        "topP": 0.75,
        "stopSequences": ["END"],
    }
    assert "additionalModelResponseFieldPaths" not in body
    claude = ask(**fields)
    assert claude["inferenceConfig"] == body["inferenceConfig"]
    assert claude["additionalModelResponseFieldPaths"] == ["/stop_sequence", "/delta/stop_sequence"]


def test_turns_alternate() -> None:
    """Turns of one role are one, tool results come first, and empty ones are left out."""
    body = ask(
        messages=(
            *CALLED[:2],
            Message("user", (Text("and"),)),
            Message("user", (ToolResult("call_1", (Text("sunny"),)), Text(" "))),
            Message("assistant", (Text(""),)),
        ),
        tools=(TOOL,),
    )
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][2]["content"] == [
        {"toolResult": {"toolUseId": "call_1", "content": [{"text": "sunny"}]}},
        {"text": "and"},
    ]


def test_pictures() -> None:
    """Base64 with its format, or a place in S3."""
    assert content(Image(media_type="image/jpg", data="AAAA")) == [
        {"image": {"format": "jpeg", "source": {"bytes": "AAAA"}}}
    ]
    assert content(Image(url="s3://bucket/cat.webp")) == [
        {"image": {"format": "webp", "source": {"s3Location": {"uri": "s3://bucket/cat.webp"}}}}
    ]
    with pytest.raises(Unsupported, match="fetches nothing from the web"):
        content(Image(url="https://example.com/cat.png"))
    with pytest.raises(Unsupported, match="not image/tiff"):
        content(Image(media_type="image/tiff", data="AAAA"))


def test_documents() -> None:
    """Formats by media type or name, names that Bedrock allows and that differ."""
    pdf = Document(media_type="application/pdf", data="AAAA", name="my_report (1).pdf")
    blocks = content(pdf, pdf, Document(text="Grüße", citations=Raw(b'{"enabled":true}'), context="a note"))
    assert blocks[0] == {
        "document": {"format": "pdf", "name": "my report (1) pdf", "source": {"bytes": "AAAA"}}
    }
    assert blocks[1]["document"]["name"] == "my report (1) pdf 2"
    text = blocks[2]["document"]
    assert (text["format"], text["name"]) == ("txt", "Document")
    assert b64decode(text["source"]["bytes"]).decode() == "Grüße"
    assert (text["citations"], text["context"]) == ({"enabled": True}, "a note")
    s3 = content(Document(url="s3://bucket/table.csv"))[0]["document"]
    assert (s3["format"], s3["source"]) == ("csv", {"s3Location": {"uri": "s3://bucket/table.csv"}})
    with pytest.raises(Unsupported, match="fetches nothing"):
        content(Document(url="https://example.com/a.pdf"))
    with pytest.raises(Unsupported, match="application/zip"):
        content(Document(media_type="application/zip", data="AAAA"))


def test_other_parts() -> None:
    """Sound, refusals, signed and sealed reasoning; what nobody signed is left out."""
    assert content(Audio("AAAA", "wav"), to=NOVA) == [
        {"audio": {"format": "wav", "source": {"bytes": "AAAA"}}}
    ]
    said = content(
        Thinking("hm", "sig"),
        Thinking("unsigned"),
        RedactedThinking("EqEBCkgIBxAB"),
        Refusal("No."),
        role="assistant",
    )
    assert said == [
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "RXFFQkNrZ0lCeEFC"}},
        {"text": "No."},
    ]
    assert content(Opaque("bedrock", "video", Raw(b'{"text":"as it is"}'))) == [{"text": "as it is"}]
    with pytest.raises(Unsupported, match="server_tool_use"):
        content(Opaque("anthropic", "server_tool_use", Raw(b"{}")))


def test_tool_results() -> None:
    """Failed ones say so, empty ones are an empty object, pictures stay in them."""
    blocks = content(
        ToolResult("a", (Image(media_type="image/png", data="AAAA"),), failed=True),
        ToolResult("b", (Text(""),)),
    )
    assert blocks[0]["toolResult"]["status"] == "error"
    assert blocks[0]["toolResult"]["content"][0]["image"]["format"] == "png"
    assert blocks[1]["toolResult"] == {"toolUseId": "b", "content": [{"json": {}}]}


def test_ids_are_made_fit() -> None:
    """An id that Bedrock does not allow becomes one that it does: the same for the call and for its result."""
    long, odd = "x" * 80, "call|1 ü"
    for ident in (long, odd):
        call = content(ToolCall(ident, "t", ""), role="assistant")[0]["toolUse"]
        result = content(ToolResult(ident, (Text("1"),)))[0]["toolResult"]
        assert call["toolUseId"] == result["toolUseId"] != ident
        assert len(call["toolUseId"]) <= 64
        assert call["input"] == {}
    dotted = ToolCall("functions.get:0", "t", "{}")
    assert content(dotted, to=LLAMA, role="assistant")[0]["toolUse"]["toolUseId"] == "functions.get:0"
    assert content(dotted, role="assistant")[0]["toolUse"]["toolUseId"].startswith("functions_get_0_")
    assert content(ToolCall("a", "t", "{broken"), role="assistant")[0]["toolUse"]["input"] == {
        "INVALID_JSON": "{broken"
    }


def test_cache_marks() -> None:
    """A mark stands behind what it marks; only Claude's may say how long, and models without a cache get none."""
    fields: dict[str, Any] = {
        "system": (Text("long", cache=HOUR),),
        "messages": (Message("user", (Text("hi", cache=MARK),)),),
        "tools": (replace(TOOL, cache=MARK),),
    }
    claude, nova, llama = ask(**fields), ask(to=NOVA, **fields), ask(to=LLAMA, **fields)
    assert claude["system"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert claude["messages"][0]["content"][1] == {"cachePoint": {"type": "default"}}
    assert claude["toolConfig"]["tools"][1] == {"cachePoint": {"type": "default"}}
    assert nova["system"][1] == {"cachePoint": {"type": "default"}}
    assert len(nova["toolConfig"]["tools"]) == 1
    assert "cachePoint" not in json.dumps(llama)
    assert "cachePoint" in json.dumps(
        ask(to=replace(LLAMA, flags=frozenset({"supports_prompt_caching"})), **fields)
    )


def test_tools() -> None:
    """Tools, and which of them must be called."""
    body = ask(
        tools=(replace(TOOL, strict=True), Tool("now", Raw(b"null"))), tool_choice=ToolChoice("required")
    )
    spec = body["toolConfig"]["tools"][0]["toolSpec"]
    assert (spec["name"], spec["description"], spec["strict"]) == ("weather", "Tells the weather", True)
    assert spec["inputSchema"]["json"]["properties"] == {"city": {"type": "string"}}
    assert body["toolConfig"]["tools"][1]["toolSpec"] == {
        "name": "now",
        "inputSchema": {"json": {"type": "object", "properties": {}}},
    }
    assert body["toolConfig"]["toolChoice"] == {"any": {}}
    assert ask(tools=(TOOL,), tool_choice=ToolChoice("auto"))["toolConfig"]["toolChoice"] == {"auto": {}}
    named = ask(tools=(TOOL,), tool_choice=ToolChoice("named", "weather"))
    assert named["toolConfig"]["toolChoice"] == {"tool": {"name": "weather"}}
    with pytest.raises(BadRequest, match="must be a JSON object"):
        ask(tools=(Tool("x", Raw(b"[]")),))
    with pytest.raises(Unsupported, match="web_search"):
        ask(tools=(Opaque("anthropic", "web_search_20250305", Raw(b"{}")),))


def test_no_tool_may_be_called() -> None:
    """Without calls in the conversation the tools are left out; with them that cannot be said."""
    assert "toolConfig" not in ask(tools=(TOOL,), tool_choice=ToolChoice("none"))
    with pytest.raises(Unsupported, match="'none' after tool calls"):
        ask(messages=CALLED, tools=(TOOL,), tool_choice=ToolChoice("none"))
    dropped: list[str] = []
    body = ask(
        to=replace(CLAUDE, drop_params=True, dropped=dropped),
        messages=CALLED,
        tools=(TOOL,),
        tool_choice=ToolChoice("none"),
    )
    assert "toolChoice" not in body["toolConfig"]
    assert dropped == ["tool_choice"]


def test_tools_that_were_called_are_named_again() -> None:
    """Bedrock demands a toolConfig as soon as the conversation has calls."""
    tools = ask(messages=CALLED)["toolConfig"]["tools"]
    assert tools == [{"toolSpec": {"name": "weather", "inputSchema": {"json": {"type": "object"}}}}]


def test_one_call_at_a_time() -> None:
    """Claude knows a word for it; where Converse says how to choose, it must not be said twice."""
    body = ask(tools=(TOOL,), parallel_tool_calls=False)
    assert body["additionalModelRequestFields"] == {
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}
    }
    body = ask(tools=(TOOL,), parallel_tool_calls=False, tool_choice=ToolChoice("required"))
    assert body["additionalModelRequestFields"] == {"tool_choice": {"disable_parallel_tool_use": True}}
    with pytest.raises(Unsupported, match="parallel_tool_calls"):
        ask(to=LLAMA, tools=(TOOL,), parallel_tool_calls=False)


def test_claude_thinks() -> None:
    """As its own API would be told: by budget, or as it sees fit; limits are raised above the budget."""
    body = ask(reasoning=Reasoning(effort="high"), max_tokens=100, temperature=0.2, top_k=5)
    assert body["additionalModelRequestFields"] == {"thinking": {"type": "enabled", "budget_tokens": 4096}}
    assert body["inferenceConfig"] == {"maxTokens": 4196}
    adaptive = replace(CLAUDE, flags=frozenset({"supports_adaptive_thinking"}))
    body = ask(to=adaptive, reasoning=Reasoning(effort="low"))
    assert body["additionalModelRequestFields"]["output_config"] == {"effort": "low"}
    assert body["additionalModelRequestFields"]["thinking"]["type"] == "adaptive"
    assert "inferenceConfig" not in body
    assert ask(top_k=5)["additionalModelRequestFields"] == {"top_k": 5}
    fixed = replace(CLAUDE, flags=frozenset({"no_sampling_params"}))
    with pytest.raises(Unsupported, match="temperature"):
        ask(to=fixed, temperature=0.5)


@pytest.mark.parametrize(
    ("model", "reasoning", "fields"),
    [
        ("amazon.nova-2-lite-v1:0", Reasoning(effort="max"), {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}),
        ("amazon.nova-2-lite-v1:0", Reasoning(budget=2000), {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}),
        ("amazon.nova-2-lite-v1:0", Reasoning("disabled"), {"reasoningConfig": {"type": "disabled"}}),
        ("openai.gpt-oss-120b-1:0", Reasoning(effort="minimal"), {"reasoning_effort": "low"}),
        ("openai.gpt-oss-120b-1:0", Reasoning(), {"reasoning_effort": "medium"}),
        ("openai.gpt-5.6-luna", Reasoning(effort="xhigh"), {"reasoning": {"effort": "xhigh"}}),
        ("openai.gpt-5.6-luna", Reasoning(effort="none"), {"reasoning": {"effort": "none"}}),
        ("deepseek.v3-v1:0", Reasoning(budget=100_000), {"reasoning_effort": "high"}),
        ("qwen.qwen3-32b-v1:0", Reasoning(effort="none"), None),
    ],
)  # fmt: skip
def test_each_vendor_has_another_word_for_reasoning(
    model: str, reasoning: Reasoning, fields: dict[str, Any] | None
) -> None:
    """What is asked in one way goes to the model in its own."""
    assert ask(to=target(model), reasoning=reasoning).get("additionalModelRequestFields") == fields


def test_reasoning_that_cannot_be_had_or_kept_away() -> None:
    """Some models do not think when asked to, some always do."""
    with pytest.raises(Unsupported, match="reasoning_effort"):
        ask(to=LLAMA, reasoning=Reasoning(effort="low"))
    with pytest.raises(Unsupported, match="it always thinks"):
        ask(to=target("us.deepseek.r1-v1:0"), reasoning=Reasoning("disabled"))
    allowed = replace(LLAMA, allowed=frozenset({"reasoning_effort"}))
    assert ask(to=allowed, reasoning=Reasoning(effort="low"))["additionalModelRequestFields"] == {
        "reasoning_effort": "low"
    }


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("amazon.nova-pro-v1:0", {"inferenceConfig": {"topK": 7}}),
        ("cohere.command-r-v1:0", {"k": 7}),
        ("mistral.mistral-large-2402-v1:0", {"top_k": 7}),
    ],
)
def test_top_k(model: str, fields: dict[str, Any]) -> None:
    """Converse has no word for it, most models have one."""
    assert ask(to=target(model), top_k=7)["additionalModelRequestFields"] == fields


def test_whatever_the_operator_allows_is_passed_on() -> None:
    """To the model, as it came."""
    tools = (Tool("f", Raw(b"{}")), Tool("g", Raw(b"{}")))
    wishes: dict[str, tuple[dict[str, Any], Any]] = {
        "parallel_tool_calls": ({"tools": tools, "parallel_tool_calls": False}, False),
        "response_format": ({"response_format": ResponseFormat("json_object")}, {"type": "json_object"}),
        "prediction": ({"unspoken": {"prediction": Raw(b"[1]")}}, [1]),
    }
    for name, (fields, value) in wishes.items():
        allowing = replace(LLAMA, allowed=frozenset({name}))
        assert ask(to=allowing, **fields)["additionalModelRequestFields"] == {name: value}
    always = replace(target("us.deepseek.r1-v1:0"), allowed=frozenset({"reasoning_effort"}))
    assert ask(to=always, reasoning=Reasoning("disabled"))["additionalModelRequestFields"] == {
        "reasoning_effort": "none"
    }


def test_what_has_no_word() -> None:
    """Refused, dropped, or passed to the model where the operator says so."""
    wishes: dict[str, Any] = {"n": 2, "seed": 1, "logprobs": True, "frequency_penalty": 0.5}
    for name, value in wishes.items():
        for to in (CLAUDE, LLAMA):
            with pytest.raises(Unsupported, match=name):
                ask(to=to, **{name: value})
            assert ask(to=replace(to, drop_params=True), **{name: value}) == ask(to=to)
    with pytest.raises(Unsupported, match="top_k"):
        ask(to=LLAMA, top_k=1)
    with pytest.raises(Unsupported, match="audio"):
        ask(unspoken={"audio": Raw(b"{}")})
    with pytest.raises(Unsupported, match="json_schema"):
        ask(response_format=ResponseFormat("json_object"))
    allowed = replace(LLAMA, allowed=frozenset({"seed"}))
    assert ask(to=allowed, seed=3)["additionalModelRequestFields"] == {"seed": 3}
    assert ask(user="u", unspoken={"store": Raw(b"true"), "betas": Raw(b"[]")}) == ask()


def test_structured_output() -> None:
    """The schema goes as text in text."""
    schema = Raw(b'{"type":"object"}')
    body = ask(response_format=ResponseFormat("json_schema", schema, name="City", description="A city"))
    assert body["outputConfig"]["textFormat"] == {
        "type": "json_schema",
        "structure": {"jsonSchema": {"schema": '{"type":"object"}', "name": "City", "description": "A city"}},
    }


def test_service_tier() -> None:
    """OpenAI's words for it and Anthropic's; `auto` is what happens anyway."""
    assert ask(unspoken={"service_tier": Raw(b'"flex"')})["serviceTier"] == {"type": "flex"}
    assert ask(unspoken={"service_tier": Raw(b'"standard_only"')})["serviceTier"] == {"type": "default"}
    assert "serviceTier" not in ask(unspoken={"service_tier": Raw(b'"auto"')})
    assert "serviceTier" not in ask(unspoken={"service_tier": Raw(b"1")})


def test_the_callers_own_fields() -> None:
    """Converse's own stand at the top and join ours, all others are the model's business."""
    guardrail = Raw(b'{"guardrailIdentifier":"g","guardrailVersion":"1"}')
    body = ask(
        max_tokens=5,
        extra={
            "guardrailConfig": guardrail,
            "inferenceConfig": Raw(b'{"topP":0.5}'),
            "additionalModelRequestFields": Raw(b'{"a":1}'),
            "anthropic_beta": Raw(b'["context-1m"]'),
        },
    )
    assert body["guardrailConfig"] == {"guardrailIdentifier": "g", "guardrailVersion": "1"}
    assert body["inferenceConfig"] == {"maxTokens": 5, "topP": 0.5}
    assert body["additionalModelRequestFields"] == {"a": 1, "anthropic_beta": ["context-1m"]}


def test_arguments_are_not_changed() -> None:
    """A retry writes the same again."""
    request = replace(QUESTION, extra={"inferenceConfig": Raw(b'{"topP":1}')}, max_tokens=3, tools=(TOOL,))
    assert bedrock.write_request(request, CLAUDE) == bedrock.write_request(request, CLAUDE)


# -- addresses -------------------------------------------------------------------------------------------------------


def test_address() -> None:
    """The model is escaped whole, colons and slashes too; Anthropic's headers mean nothing here."""
    address = bedrock.address(CLAUDE, "chat", {"Anthropic-Version": "1", "x-trace": "2"}, stream=False)
    assert address.url == f"{BASE}/model/anthropic.claude-sonnet-4-5-v1%3A0/converse"
    assert dict(address.headers) == {"content-type": "application/json", "accept": "*/*", "x-trace": "2"}
    assert bedrock.address(CLAUDE, "chat", {}, stream=True).url.endswith("%3A0/converse-stream")
    arn = target("arn:aws:bedrock:us-east-1:123:inference-profile/us.anthropic.claude")
    url = bedrock.address(arn, "embeddings", {}, stream=False).url
    assert (
        url
        == f"{BASE}/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123%3Ainference-profile%2Fus.anthropic.claude/invoke"
    )
    with pytest.raises(Unsupported, match="does not offer speech"):
        bedrock.address(CLAUDE, "speech", {}, stream=False)


@pytest.mark.parametrize(
    ("name", "provider_format", "region", "model"),
    [
        ("bedrock/anthropic.claude-3", "bedrock", None, "anthropic.claude-3"),
        ("bedrock_converse/anthropic.claude-3", "bedrock", None, "anthropic.claude-3"),
        ("bedrock/converse/us.anthropic.claude-3", "bedrock", None, "us.anthropic.claude-3"),
        ("bedrock/invoke/us.anthropic.claude-3", "bedrock_invoke", None, "us.anthropic.claude-3"),
        ("bedrock/us-gov-west-1/meta.llama3", "bedrock", "us-gov-west-1", "meta.llama3"),
        ("bedrock/invoke/eu-west-1/meta.llama3", "bedrock_invoke", "eu-west-1", "meta.llama3"),
        ("bedrock/arn:aws:bedrock:us-east-1:1:inference-profile/us.x.y", "bedrock", "us-east-1", "arn:aws:bedrock:us-east-1:1:inference-profile/us.x.y"),
        ("bedrock/llama/arn:aws:bedrock:us-east-1:1:imported-model/abc", "bedrock_invoke", "us-east-1", "arn:aws:bedrock:us-east-1:1:imported-model/abc"),
        ("bedrock_mantle/openai.gpt-oss-120b", "openai", None, "openai.gpt-oss-120b"),
        ("bedrock_mantle/anthropic.claude-x", "anthropic", None, "anthropic.claude-x"),
        ("sagemaker/my-endpoint-1", "sagemaker", None, "my-endpoint-1"),
        ("sagemaker_chat/my-endpoint-1", "sagemaker", None, "my-endpoint-1"),
    ],
)  # fmt: skip
def test_names(name: str, provider_format: str, region: str | None, model: str) -> None:
    """What stands before a model says how it is asked and where; the region of a name counts more than the environment."""
    found = find(name)
    assert found is not None
    row, rest = found
    assert (row.format, row.option_defaults.get("aws_region_name"), rest) == (provider_format, region, model)
    assert bool(row.option_env["aws_region_name"]) is (region is None)


def test_mantle_speaks_openais_format() -> None:
    """Its own host, its own name in signatures."""
    row = PROVIDERS["bedrock_mantle"]
    assert row.paths["chat"] == "/v1/chat/completions"
    assert row.option_defaults["aws_signing_name"] == "bedrock-mantle"


# -- answers ---------------------------------------------------------------------------------------------------------

EVERYTHING = (
    Thinking("Two cities, so two calls.", "RXE0Q0NzaWdu"),
    RedactedThinking("EtEECkgIBxABGAIq"),
    Text("By the handbook."),
    Text("Let me look."),
    ToolCall("tooluse_one", "weather", '{"city":"Zürich"}'),
    ToolCall("tooluse_two", "now", "{}"),
)
SPENT = Usage(input=30, cache_read=200, cache_write=60, cache_write_1h=40, output=61, tier="flex")


def read_file(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def test_reads_a_plain_answer() -> None:
    """Words, why it ended, what it cost; the model is the one that was asked."""
    answer = bedrock.read_response(read_file("answer.json"), QUESTION, CLAUDE)
    assert answer.model == CLAUDE.model
    assert answer.choices[0].parts == (Text("A hydrant is a pipe with a valve."),)
    assert answer.choices[0].finish == "stop"
    assert answer.usage == Usage(input=14, output=9)


def test_reads_everything() -> None:
    """Reasoning, citations' words, tool calls; not the service's own tools, nor what we do not know."""
    answer = bedrock.read_response(read_file("everything.json"), QUESTION, CLAUDE)
    assert answer.choices[0].parts == EVERYTHING
    assert answer.choices[0].finish == "tool_calls"
    assert answer.usage == SPENT
    assert SPENT.total == 391


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("tool_use", "tool_calls"),
        ("max_tokens", "length"),
        ("stop_sequence", "stop_sequence"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("malformed_model_output", "error"),
        ("malformed_tool_use", "error"),
        ("model_context_window_exceeded", "length"),
        ("something_new", "stop"),
    ],
)
def test_finish(reason: str, finish: str) -> None:
    """All of Amazon's stop reasons have a meaning, and a new one is an ordinary end."""
    body = {"output": {"message": {"content": []}}, "stopReason": reason}
    assert bedrock.read_response(json.dumps(body).encode(), QUESTION, CLAUDE).choices[0].finish == finish
    known = service().output_shape.members["stopReason"].enum
    assert reason in known or reason == "something_new"


@pytest.mark.parametrize("fields", [{"stop_sequence": "END"}, {"delta": {"stop_sequence": "END"}}])
def test_the_stop_sequence(fields: dict[str, Any]) -> None:
    """Claude says which one it was, if it was asked."""
    body = {
        "output": {"message": {"content": [{"text": "a"}]}},
        "stopReason": "stop_sequence",
        "additionalModelResponseFields": fields,
    }
    assert (
        bedrock.read_response(json.dumps(body).encode(), QUESTION, CLAUDE).choices[0].stop_sequence == "END"
    )


def test_odd_fields_of_the_model_are_no_harm() -> None:
    """A caller may have asked for anything."""
    body = {"output": {"message": {"content": []}}, "additionalModelResponseFields": [1]}
    assert bedrock.read_response(json.dumps(body).encode(), QUESTION, CLAUDE).choices[0].stop_sequence is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"output":{}}', b"<html>"])
def test_no_answer_is_malformed(body: bytes) -> None:
    """What has no message is no answer."""
    with pytest.raises(UpstreamMalformed):
        bedrock.read_response(body, QUESTION, CLAUDE)


def test_sealed_reasoning_that_is_no_text() -> None:
    """It goes back as it came."""
    body = {"output": {"message": {"content": [{"reasoningContent": {"redactedContent": "/+8A"}}]}}}
    part = bedrock.read_response(json.dumps(body).encode(), QUESTION, CLAUDE).choices[0].parts[0]
    assert content(part, role="assistant") == [{"reasoningContent": {"redactedContent": "/+8A"}}]


# -- errors ----------------------------------------------------------------------------------------------------------


def error(status: int, name: str, message: str, key: str = "message") -> UpstreamError:
    headers = (
        {"x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"} if name else {}
    )
    return bedrock.read_error(status, headers, json.dumps({key: message}).encode())


@pytest.mark.parametrize(
    ("status", "name", "message", "kind", "code"),
    [
        (429, "ThrottlingException", "Too many requests", UpstreamRateLimited, "rate_limit_exceeded"),
        (429, "ModelNotReadyException", "Not ready", UpstreamRateLimited, "rate_limit_exceeded"),
        (400, "ServiceQuotaExceededException", "Quota", UpstreamRateLimited, "rate_limit_exceeded"),
        (400, "ValidationException", "Malformed input request", UpstreamRefused, None),
        (400, "ValidationException", "Input is too long for requested model.", ContextWindowExceeded, None),
        (400, "ValidationException", "prompt is too long: 200251 tokens > 200000 maximum", ContextWindowExceeded, None),
        (400, "ValidationException", "The provided model identifier is invalid.", UpstreamNotFound, "model_not_found"),
        (404, "ResourceNotFoundException", "Could not resolve the foundation model from the provided model identifier.", UpstreamNotFound, "model_not_found"),
        (403, "AccessDeniedException", "You don't have access to the model with the specified model ID.", UpstreamForbidden, None),
        (403, "AccessDeniedException", "Authentication failed: Please make sure your API Key is valid.", UpstreamAuth, None),
        (403, "UnrecognizedClientException", "The security token included in the request is invalid.", UpstreamAuth, None),
        (403, "ExpiredTokenException", "The security token included in the request is expired", UpstreamAuth, None),
        (403, "InvalidSignatureException", "The request signature we calculated does not match", UpstreamAuth, None),
        (403, "IncompleteSignatureException", "not a valid key=value pair", UpstreamAuth, None),
        (408, "ModelTimeoutException", "The request took too long to process.", UpstreamTimeout, None),
        (424, "ModelErrorException", "The request failed due to an error while processing the model.", UpstreamError, None),
        (500, "InternalServerException", "An internal server error occurred.", UpstreamError, None),
        (503, "ServiceUnavailableException", "Bedrock is unable to process your request.", UpstreamOverloaded, None),
    ],
)  # fmt: skip
def test_errors(status: int, name: str, message: str, kind: type[UpstreamError], code: str | None) -> None:
    """Each of the service's exceptions is the error that it means."""
    found = error(status, name, message)
    assert type(found) is kind
    assert code is None or found.code == code
    if kind is UpstreamAuth:
        assert message not in found.message
    else:
        assert message in found.message


def test_errors_in_other_shapes() -> None:
    """`Message` in upper case, the type in the body, no JSON at all, nothing at all."""
    assert error(400, "", "no", key="Message").message == "no"
    body = b'{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"not yours"}'
    assert type(bedrock.read_error(403, {}, body)) is UpstreamForbidden
    assert bedrock.read_error(502, {}, b"<html>bad</html>").provider_status == 502
    assert (
        bedrock.read_error(500, {"x-amzn-errortype": "InternalFailure"}, b"{}").message == "InternalFailure"
    )
    recorded = bedrock.read_error(
        400, {"x-amzn-errortype": "ValidationException:http://x"}, read_file("error_validation.json")
    )
    assert "non-empty" in recorded.message
    throttled = bedrock.read_error(
        429, {"x-amzn-errortype": "ThrottlingException:http://x"}, read_file("error_throttled.json")
    )
    assert type(throttled) is UpstreamRateLimited


# -- streams ---------------------------------------------------------------------------------------------------------


def stream(data: bytes) -> list[Delta]:
    """What a stream says; the same however it is cut."""
    readers = bedrock.read_stream(QUESTION, CLAUDE), bedrock.read_stream(QUESTION, CLAUDE)
    return both_ways(bedrock.cut, readers, data)


def failure(deltas: list[Delta]) -> UpstreamError:
    last = deltas[-1]
    assert isinstance(last, Failure)
    assert isinstance(last.error, UpstreamError)
    assert not any(isinstance(each, Failure) for each in deltas[:-1])
    return last.error


def test_streams_words() -> None:
    """Empty deltas are nothing; the usage comes after the end."""
    assert stream(transcript("stream")) == [
        Start(model=CLAUDE.model),
        TextDelta(Raw(b'"A hydrant is"')),
        TextDelta(Raw(b'" a pipe\\nwith a \\"valve\\"."')),
        Finish("stop"),
        UsageDelta(Usage(input=14, output=9)),
    ]


def test_streams_everything() -> None:
    """Folded together, a stream is the whole answer."""
    deltas = stream(transcript("everything"))
    folded = fold(deltas)
    whole = bedrock.read_response(read_file("everything.json"), QUESTION, CLAUDE)
    assert folded.choices[0].finish == "tool_calls"
    assert folded.usage == whole.usage == SPENT
    assert folded.choices[0].parts == (*EVERYTHING[:2], Text("By the handbook.Let me look."), *EVERYTHING[4:])
    assert [each for each in deltas if isinstance(each, ToolDelta)][-1] == ToolDelta(1, Raw(b'"{}"'))


def test_the_short_way() -> None:
    """A frame with nothing but words is read at a glance, once the answer has begun; all else is not."""
    reader = bedrock.read_stream(QUESTION, CLAUDE)
    words = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Grüße"}, "p": "ab"})
    assert reader.words(words) == b""
    reader.feed(event("messageStart", {"role": "assistant"}))
    assert reader.words(words) == '"Grüße"'.encode()
    for at in range(len(words)):
        broken = words[:at] + bytes([words[at] ^ 1]) + words[at + 1 :]
        assert reader.words(broken) == b""
    thought = {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}, "p": "ab"}
    for other in (b"", words + words, words[:-1], event("contentBlockDelta", thought)):
        assert reader.words(other) == b""
    reader.feed(exception("throttlingException", {}))
    assert reader.words(words) == b""


def test_a_call_whose_block_is_never_closed() -> None:
    """Its missing arguments are the empty object all the same."""
    start = event(
        "contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "a", "name": "b"}}}
    )
    deltas = stream(start + event("messageStop", {"stopReason": "tool_use"}) + event("metadata", {}))
    assert deltas[2:] == [ToolDelta(0, Raw(b'"{}"')), Finish("tool_calls")]


def test_calls_that_share_an_index() -> None:
    """Blocks with the same index are calls of their own all the same, each with its arguments."""
    starts = [
        event(
            "contentBlockStart",
            {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": name, "name": "f"}}},
        )
        for name in "abc"
    ]
    piece = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"toolUse": {"input": '{"z":3}'}}})
    end = event("messageStop", {"stopReason": "tool_use"}) + event("metadata", {})
    deltas = stream(b"".join(starts) + piece + end)
    assert deltas[1:-1] == [
        ToolStart(0, "a", "f"),
        ToolDelta(0, Raw(b'"{}"')),
        ToolStart(1, "b", "f"),
        ToolDelta(1, Raw(b'"{}"')),
        ToolStart(2, "c", "f"),
        ToolDelta(2, Raw(b'"{\\"z\\":3}"')),
    ]


def test_an_error_as_the_first_frame() -> None:
    """Nothing has begun: another deployment may be asked."""
    deltas = stream(transcript("error_at_once"))
    assert len(deltas) == 1
    assert type(failure(deltas)) is UpstreamRateLimited


def test_an_error_within() -> None:
    """What came before it counts, nothing that comes after."""
    deltas = stream(transcript("error_in_stream"))
    assert [type(each) for each in deltas] == [Start, TextDelta, Failure]
    assert "unexpected error" in failure(deltas).message
    assert failure(deltas).provider_status == 424


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("internalServerException", UpstreamError),
        ("modelStreamErrorException", UpstreamError),
        ("modelTimeoutException", UpstreamTimeout),
        ("serviceUnavailableException", UpstreamOverloaded),
        ("throttlingException", UpstreamRateLimited),
        ("validationException", UpstreamRefused),
        ("somethingNewException", UpstreamError),
    ],
)
def test_exceptions(name: str, kind: type[UpstreamError]) -> None:
    """Each of a stream's exceptions is the error that it would have been with a status."""
    assert type(failure(stream(exception(name, {"message": "why"})))) is kind


def test_an_error_of_the_transport() -> None:
    """A frame of the type `error` has its words in its headers."""
    headers = {":message-type": "error", ":error-code": "InternalError", ":error-message": "gone"}
    assert failure(stream(frame(headers))).message == "gone"


def test_the_end_must_come() -> None:
    """Without `metadata` a stream is broken off, with `metadata` alone too."""
    whole = transcript("stream")
    last = event("metadata", {})
    assert isinstance(failure(stream(event("messageStop", {"stopReason": "end_turn"}))), UpstreamMalformed)
    assert isinstance(failure(stream(last)), UpstreamMalformed)
    reader = bedrock.read_stream(QUESTION, CLAUDE)
    reader.feed(whole)
    assert reader.done
    assert reader.feed(b"what comes after the end is nobody's") == []


def test_what_is_no_text_is_malformed() -> None:
    """A delta of a number, and JSON that is none."""
    assert isinstance(failure(stream(event("contentBlockDelta", {"delta": {"text": 1}}))), UpstreamMalformed)
    headers = {":event-type": "contentBlockDelta", ":message-type": "event"}
    assert isinstance(failure(stream(frame(headers, b"{"))), UpstreamMalformed)


def test_bytes_that_are_no_utf8_become_a_mark() -> None:
    """They would go on to the client as they are."""
    headers = {":event-type": "contentBlockDelta", ":message-type": "event"}
    deltas = bedrock.read_stream(QUESTION, CLAUDE).feed(frame(headers, b'{"delta":{"text":"a\xffb"}}'))
    assert deltas[1] == TextDelta(Raw('"a\ufffdb"'.encode()))
