"""InvokeModel: each vendor's own words, in and out of Amazon's envelope."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters import bedrock_invoke
from adapters.base import ProviderSide
from adapters.errors import BadRequest, Unsupported, UpstreamMalformed, UpstreamOverloaded
from adapters.providers import find
from adapters.types import (
    ChatRequest,
    Delta,
    Failure,
    Finish,
    Image,
    Message,
    Opaque,
    Reasoning,
    RedactedThinking,
    Start,
    Target,
    Text,
    TextDelta,
    Thinking,
    Tool,
    ToolCall,
    Usage,
    UsageDelta,
)
from tests.adapters.folding import fold
from tests.adapters.frames import both_ways, chunk, event, exception

TALK = (
    Message("user", (Text("Hi."),)),
    Message("assistant", (Thinking("hm"), Text("Hello!"))),
    Message("user", (Text("Who are you?"),)),
)
QUESTION = ChatRequest(
    model="any", messages=TALK, system=(Text("Be kind."),), max_tokens=50, temperature=0.5, top_p=0.9
)
METRICS = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 7, "outputTokenCount": 3}}


def target(model: str, **more: Any) -> Target:
    found = find(f"bedrock/invoke/{model}")
    assert found is not None
    row, name = found
    return Target(
        provider=row, model=name, base_url="https://x.example.com", options=row.option_defaults, **more
    )


def ask(model: str, request: ChatRequest = QUESTION, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(bedrock_invoke.write_request(request, target(model, **more)))
    return body


def ours(side: ProviderSide) -> str:
    return side.STREAM_TYPE


def test_keeps_the_contract() -> None:
    """The module is a provider's format; its models are invoked."""
    assert ours(bedrock_invoke) == "application/vnd.amazon.eventstream"
    where = target("meta.llama3-8b-instruct-v1:0")
    assert bedrock_invoke.address(where, "chat", {}, stream=False).url.endswith("%3A0/invoke")
    streamed = bedrock_invoke.address(where, "chat", {}, stream=True).url
    assert streamed.endswith("%3A0/invoke-with-response-stream")


# -- questions -------------------------------------------------------------------------------------------------------


def test_claude_in_anthropics_words() -> None:
    """Messages without `model` and `stream`, with Amazon's version; Anthropic's own tools and betas pass."""
    request = replace(
        QUESTION,
        stream=True,
        tools=(Opaque("anthropic", "bash_20250124", Raw(b'{"type":"bash_20250124","name":"bash"}')),),
        extra={"anthropic_beta": Raw(b'["computer-use-2025-01-24"]')},
    )
    body = ask("us.anthropic.claude-sonnet-4-5-v1:0", request)
    assert body["anthropic_version"] == "bedrock-2023-05-31"
    assert body["anthropic_beta"] == ["computer-use-2025-01-24"]
    assert body["tools"] == [{"type": "bash_20250124", "name": "bash"}]
    assert body["max_tokens"] == 50
    assert body.keys().isdisjoint({"model", "stream"})
    with_betas = replace(QUESTION, unspoken={"betas": Raw(b'["a"]')})
    assert ask("anthropic.claude-3", with_betas)["anthropic_beta"] == ["a"]


def test_nova_nearly_in_converses_words() -> None:
    """`topK` is an ordinary parameter."""
    body = ask("amazon.nova-lite-v1:0", replace(QUESTION, top_k=20))
    assert body["schemaVersion"] == "messages-v1"
    assert body["inferenceConfig"] == {"maxTokens": 50, "temperature": 0.5, "topP": 0.9, "topK": 20}
    assert body["system"] == [{"text": "Be kind."}]
    assert "inferenceConfig" not in ask("amazon.nova-lite-v1:0", ChatRequest(model="m", messages=TALK))


def test_others_in_openais_words() -> None:
    """Newer models, and imported ones if their name says so."""
    for model in (
        "openai.gpt-oss-20b-1:0",
        "qwen.qwen3-32b-v1:0",
        "arn:aws:bedrock:us-east-1:1:imported-model/x",
    ):
        body = ask(model, replace(QUESTION, stream=True))
        assert body["messages"][0] == {"role": "system", "content": "Be kind."}
        assert body.keys().isdisjoint({"model", "stream", "stream_options"})


def test_llama_in_its_template() -> None:
    """Turns with their heads; Llama 4 has other marks."""
    body = ask("meta.llama3-1-8b-instruct-v1:0")
    assert body == {
        "prompt": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "max_gen_len": 50,
        "temperature": 0.5,
        "top_p": 0.9,
    }
    assert "<|header_start|>user<|header_end|>" in ask("us.meta.llama4-scout-17b-instruct-v1:0")["prompt"]
    imported = find("bedrock/llama/arn:aws:bedrock:us-east-1:1:imported-model/x")
    assert imported is not None
    where = replace(target("x"), model=imported[1], options=imported[0].option_defaults)
    assert b"start_header_id" in bedrock_invoke.write_request(QUESTION, where)


def test_mistral_in_its_template() -> None:
    """Questions in brackets, the system's words with the first."""
    body = ask("mistral.mistral-7b-instruct-v0:2", replace(QUESTION, stop=("|",), top_k=3))
    assert body["prompt"] == "<s>[INST] Be kind.\n\nHi. [/INST] Hello!</s>[INST] Who are you? [/INST]"
    assert (body["max_tokens"], body["top_k"], body["stop"]) == (50, 3, ["|"])


def test_titan_as_a_dialogue() -> None:
    """Lines with names before them."""
    body = ask("amazon.titan-text-express-v1", replace(QUESTION, stop=("|",)))
    assert body["inputText"] == "Be kind.\nUser: Hi.\nBot: Hello!\nUser: Who are you?\nBot:"
    assert body["textGenerationConfig"] == {
        "maxTokenCount": 50,
        "temperature": 0.5,
        "topP": 0.9,
        "stopSequences": ["|"],
    }
    assert "textGenerationConfig" not in ask(
        "amazon.titan-text-lite-v1", ChatRequest(model="m", messages=TALK)
    )


def test_cohere_in_two_ways() -> None:
    """Command R knows turns, Command does not."""
    body = ask("cohere.command-r-plus-v1:0")
    assert body == {
        "message": "Who are you?",
        "chat_history": [{"role": "USER", "message": "Hi."}, {"role": "CHATBOT", "message": "Hello!"}],
        "preamble": "Be kind.",
        "max_tokens": 50,
        "temperature": 0.5,
        "p": 0.9,
    }
    old = ask("cohere.command-light-text-v14", replace(QUESTION, stream=True, top_k=2))
    assert old["prompt"].endswith("\nUser: Who are you?\nChatbot:")
    assert (old["stream"], old["k"]) == (True, 2)


def test_a_callers_own_settings_must_be_objects() -> None:
    """They are the client's mistake otherwise."""
    for name in ("inferenceConfig", "additionalModelRequestFields"):
        with pytest.raises(BadRequest) as raised:
            ask("amazon.nova-pro-v1:0", replace(QUESTION, extra={name: Raw(b"5")}))
        assert raised.value.param == name


def test_what_old_models_have_no_word_for() -> None:
    """It is refused, dropped or passed on, never left out silently."""
    request = replace(QUESTION, unspoken={"prediction": Raw(b"{}"), "store": Raw(b"true")})
    model = "mistral.mixtral-8x7b-instruct-v0:1"
    with pytest.raises(Unsupported, match="prediction"):
        ask(model, request)
    assert ask(model, request, drop_params=True) == ask(model)
    assert ask(model, request, allowed=frozenset({"prediction"})) == {**ask(model), "prediction": {}}


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("meta.llama3-8b-instruct-v1:0", "top_k", 4),
        ("meta.llama3-8b-instruct-v1:0", "stop", ["a"]),
        ("amazon.titan-text-lite-v1", "top_k", 4),
        ("mistral.mixtral-8x7b-instruct-v0:1", "seed", 0),
        ("mistral.mixtral-8x7b-instruct-v0:1", "frequency_penalty", 0.5),
    ],
)
def test_what_the_operator_allows_old_models(model: str, field: str, value: Any) -> None:
    """It is passed on as it came."""
    request = replace(QUESTION, **{field: tuple(value) if isinstance(value, list) else value})
    with pytest.raises(Unsupported, match=field):
        ask(model, request)
    assert ask(model, request, allowed=frozenset({field})) == {**ask(model), field: value}


def test_hidden_thoughts_are_left_out_of_a_text() -> None:
    """What another model thought is no part of what it said, readable or not."""
    turns = (Message("user", (Text("a"),)), Message("assistant", (RedactedThinking("x"), Text("b"))))
    assert (
        ask("meta.llama3-8b-instruct-v1:0", replace(QUESTION, messages=turns))["prompt"].count("b<|eot_id|>")
        == 1
    )


def test_what_they_cannot_do() -> None:
    """Tools, pictures, reasoning: refused, or dropped where that is allowed."""
    tool = Tool("t", Raw(b"{}"))
    wishes: dict[str, Any] = {
        "tools": (tool,),
        "reasoning": Reasoning(effort="low"),
        "seed": 1,
        "n": 2,
        "stop": ("|",),
        "top_k": 1,
    }
    for name, value in wishes.items():
        request = replace(QUESTION, **{name: value})
        with pytest.raises(Unsupported):
            ask("meta.llama3-8b-instruct-v1:0", request)
        assert ask("meta.llama3-8b-instruct-v1:0", request, drop_params=True) == ask(
            "meta.llama3-8b-instruct-v1:0"
        )
    with pytest.raises(Unsupported, match="reads words only"):
        ask(
            "meta.llama3-8b-instruct-v1:0",
            replace(QUESTION, messages=(Message("user", (Image(media_type="image/png", data="AA"),)),)),
        )
    assert (
        ask("meta.llama3-8b-instruct-v1:0", replace(QUESTION, extra={"images": Raw(b"[]")}))["images"] == []
    )


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "body", "finish", "usage"),
    [
        ("amazon.titan-text-lite-v1", {"inputTextTokenCount": 5, "results": [{"tokenCount": 2, "outputText": "Hi", "completionReason": "LENGTH"}]}, "length", Usage(input=5, output=2)),
        ("meta.llama3-8b-instruct-v1:0", {"generation": "Hi", "prompt_token_count": 5, "generation_token_count": 2, "stop_reason": "stop"}, "stop", Usage(input=5, output=2)),
        ("mistral.mistral-7b-instruct-v0:2", {"outputs": [{"text": "Hi", "stop_reason": "length"}]}, "length", None),
        ("cohere.command-text-v14", {"generations": [{"text": "Hi", "finish_reason": "COMPLETE"}]}, "stop", None),
        ("cohere.command-r-v1:0", {"text": "Hi", "finish_reason": "ERROR_TOXIC"}, "content_filter", None),
        ("openai.gpt-oss-20b-1:0", {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}, "stop", Usage(input=5, output=2)),
    ],
)  # fmt: skip
def test_answers(model: str, body: dict[str, Any], finish: str, usage: Usage | None) -> None:
    """The same words in each vendor's shape."""
    answer = bedrock_invoke.read_response(json.dumps(body).encode(), QUESTION, target(model))
    assert answer.choices[0].parts == (Text("Hi"),)
    assert (answer.choices[0].finish, answer.usage) == (finish, usage)


def test_an_answer_without_words_is_malformed() -> None:
    """An object that is none of the shapes."""
    with pytest.raises(UpstreamMalformed):
        bedrock_invoke.read_response(b"{}", QUESTION, target("meta.llama3-8b-instruct-v1:0"))


def stream(model: str, *pieces: bytes) -> list[Delta]:
    where = target(model)
    readers = bedrock_invoke.read_stream(QUESTION, where), bedrock_invoke.read_stream(QUESTION, where)
    return both_ways(bedrock_invoke.cut, readers, b"".join(pieces))


def test_streams_of_claude() -> None:
    """Anthropic's events, even if they stand on several lines."""
    events = (
        {
            "type": "message_start",
            "message": {"id": "msg_1", "model": "claude", "usage": {"input_tokens": 7}},
        },
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "tool_use", "id": "t", "name": "now"},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop", **METRICS},
    )
    chunks = [chunk(json.dumps(each, indent=1).encode()) for each in events]
    answer = fold(stream("anthropic.claude-3", *chunks))
    assert answer.choices[0].parts == (ToolCall("t", "now", "{}"),)
    assert answer.usage == Usage(input=7, output=3)


def test_streams_of_openais_format() -> None:
    """There is no `[DONE]`: Amazon's metrics are the end, and the usage if the model gave none."""
    first = {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}}]}
    last = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **METRICS}
    answer = fold(stream("openai.gpt-oss-20b-1:0", chunk(first), chunk(last)))
    assert answer.choices[0].parts == (Text("Hi"),)
    assert answer.usage == Usage(input=7, output=3)


def test_streams_of_nova() -> None:
    """Converse's events under their names."""
    answer = fold(
        stream(
            "amazon.nova-lite-v1:0",
            chunk({"messageStart": {"role": "assistant"}}),
            chunk({"contentBlockDelta": {"delta": {"text": "Hi"}, "contentBlockIndex": 0}}),
            chunk({"messageStop": {"stopReason": "end_turn"}}),
            chunk({"metadata": {"usage": {"inputTokens": 7, "outputTokens": 3}}, **METRICS}),
        )
    )
    assert answer.choices[0].parts == (Text("Hi"),)
    assert answer.usage == Usage(input=7, output=3)


def test_streams_of_completions() -> None:
    """A reason is the end; events that are none of ours are passed over."""
    deltas = stream(
        "meta.llama3-8b-instruct-v1:0",
        event("initial-response", {}),
        chunk({"generation": "Hi", "prompt_token_count": 7, "stop_reason": None}),
        chunk({"generation": "", "generation_token_count": 3, "stop_reason": "stop", **METRICS}),
    )
    assert deltas == [
        Start(model="meta.llama3-8b-instruct-v1:0"),
        TextDelta(Raw(b'"Hi"')),
        Finish("stop"),
        UsageDelta(Usage(input=7, output=3)),
    ]
    deltas = stream(
        "cohere.command-r-v1:0",
        chunk({"event_type": "stream-start", "is_finished": False}),
        chunk({"event_type": "text-generation", "text": "Hi", "is_finished": False}),
        chunk(
            {"event_type": "stream-end", "finish_reason": "COMPLETE", "response": {"text": "Hi"}, **METRICS}
        ),
    )
    assert fold(deltas).choices[0].parts == (Text("Hi"),)


def failed(deltas: list[Delta]) -> Exception:
    last = deltas[-1]
    assert isinstance(last, Failure)
    error: Exception = last.error
    return error


@pytest.mark.parametrize(
    "model",
    ["anthropic.claude-3", "openai.gpt-oss-20b-1:0", "amazon.nova-lite-v1:0", "meta.llama3-8b-instruct-v1:0"],
)
def test_streams_that_break(model: str) -> None:
    """An exception, an envelope that cannot be opened, an end that is missing, and metrics that come too early."""
    overloaded = exception("serviceUnavailableException", {"message": "later"})
    assert isinstance(failed(stream(model, overloaded)), UpstreamOverloaded)
    assert isinstance(failed(stream(model, event("chunk", {"bytes": "?"}))), UpstreamMalformed)
    assert isinstance(failed(stream(model)), UpstreamMalformed)
    assert isinstance(failed(stream(model, chunk(METRICS))), UpstreamMalformed)
    assert isinstance(
        failed(
            stream(model, chunk(b"{")),
        ),
        UpstreamMalformed,
    )


def test_a_stream_without_metrics_is_complete_if_the_model_says_so() -> None:
    """Metrics are Amazon's, the end is the model's."""
    deltas = stream("meta.llama3-8b-instruct-v1:0", chunk({"generation": "Hi", "stop_reason": "stop"}))
    assert isinstance(deltas[-1], Finish)


def test_a_broken_frame_behind_an_error() -> None:
    """The error is what the client is told."""
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    broken = chunk({"type": "ping"})[:-1] + b"\x00"
    (only,) = stream("anthropic.claude-3", chunk(error), broken)
    assert isinstance(only, Failure)
    assert only.error.message == "busy"
