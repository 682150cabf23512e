"""Gemini's format: a question in Google's words, its answers from transcripts of our own, its errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters import anthropic, gemini, openai
from adapters.envelope import open_envelope
from adapters.errors import (
    BadRequest,
    ContentPolicyViolation,
    ContextWindowExceeded,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
    UpstreamMalformed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
)
from adapters.framing import SseCutter
from adapters.gemini_answers import put
from adapters.gemini_questions import cleaned
from adapters.providers import PROVIDERS, find, located
from adapters.types import (
    Audio,
    ChatRequest,
    Choice,
    Delta,
    Document,
    Failure,
    Finish,
    FinishReason,
    Image,
    Message,
    Opaque,
    Operation,
    Part,
    Reasoning,
    RedactedThinking,
    Refusal,
    ResponseFormat,
    Start,
    Target,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tool,
    ToolCall,
    ToolChoice,
    ToolDelta,
    ToolResult,
    ToolStart,
    Units,
    Usage,
    UsageDelta,
)
from adapters.wire import gemini as wire

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "gemini"
STREAMS = sorted(path.name for path in TRANSCRIPTS.glob("*.sse"))

TARGET = Target(
    provider=PROVIDERS["gemini"],
    model="gemini-3-flash",
    base_url="https://generativelanguage.googleapis.com",
)
OLD = replace(TARGET, model="gemini-2.5-flash")
PRO = replace(TARGET, model="gemini-2.5-pro")
HELLO = Message("user", (Text("Hello"),))
QUESTION = ChatRequest(model="any", messages=(HELLO,))
WEATHER = Tool(
    "get_weather", Raw(b'{"type":"object","properties":{"city":{"type":"string"}}}'), "The weather"
)
CALL = ToolCall("c1", "get_weather", '{"city":"Paris"}', signature="c2VhbA==")


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / name).read_bytes()


def written(target: Target = TARGET, **fields: Any) -> dict[str, Any]:
    body = gemini.write_request(replace(QUESTION, **fields), target)
    said: dict[str, Any] = json.loads(body)
    return said


def turns(*messages: Message, target: Target = TARGET) -> list[Any]:
    contents: list[Any] = written(target, messages=messages)["contents"]
    return contents


def parts(*asked: Part, target: Target = TARGET) -> list[Any]:
    (turn,) = turns(Message("user", asked), target=target)
    found: list[Any] = turn["parts"]
    return found


def config(target: Target = TARGET, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = written(target, **fields).get("generationConfig", {})
    return found


# -- the conversation ------------------------------------------------------------------------------------------------


def test_a_question() -> None:
    """The least that can be asked is one turn."""
    assert written() == {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


def test_the_system_stands_apart() -> None:
    """System texts are one instruction; a question that is nothing else becomes the user's."""
    system = (Text("Be terse."), Text(" "), Text("Rhyme."))
    assert written(system=system)["systemInstruction"] == {
        "parts": [{"text": "Be terse."}, {"text": "Rhyme."}]
    }
    alone = written(system=system, messages=())
    assert alone == {"contents": [{"role": "user", "parts": [{"text": "Be terse."}, {"text": "Rhyme."}]}]}
    assert written(messages=())["contents"] == [{"role": "user", "parts": [{"text": " "}]}]


def test_turns_alternate() -> None:
    """Turns of one role in a row are one, and an empty one is none."""
    found = turns(
        HELLO,
        Message("user", (Text("again"),)),
        Message("assistant", (Text(""), Thinking("hm", "sig"), RedactedThinking("x"))),
        Message("user", (Text("and"),)),
        Message("assistant", (Refusal("No."),)),
    )
    assert [turn["role"] for turn in found] == ["user", "user", "model"]
    assert found[0]["parts"] == [{"text": "Hello"}, {"text": "again"}]
    assert found[2]["parts"] == [{"text": "No."}]


def test_files() -> None:
    """Data is inline, addresses are file data with a type that is given or guessed from the name."""
    assert parts(
        Image(media_type="image/jpg", data="AA=="),
        Image(url="https://example.com/a.PNG?x=1"),
        Image(url="gs://bucket/picture"),
        Audio("AAAA", "wav"),
        Document(data="JVBE"),
        Document(text="Plain."),
        Document(url="https://example.com/a.csv"),
        Document(file_id="https://generativelanguage.googleapis.com/v1beta/files/x", media_type="text/plain"),
        Document(url="https://www.youtube.com/watch?v=x"),
    ) == [
        {"inlineData": {"mimeType": "image/jpeg", "data": "AA=="}},
        {"fileData": {"mimeType": "image/png", "fileUri": "https://example.com/a.PNG?x=1"}},
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "gs://bucket/picture"}},
        {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}},
        {"text": "Plain."},
        {"fileData": {"mimeType": "text/csv", "fileUri": "https://example.com/a.csv"}},
        {
            "fileData": {
                "mimeType": "text/plain",
                "fileUri": "https://generativelanguage.googleapis.com/v1beta/files/x",
            }
        },
        {"fileData": {"mimeType": "video/mp4", "fileUri": "https://www.youtube.com/watch?v=x"}},
    ]


def test_an_address_that_is_none() -> None:
    """Is the caller's mistake."""
    with pytest.raises(BadRequest, match="bad"):
        parts(Image(url="https://[bad/a.png"))


def test_blocks_of_other_vendors() -> None:
    """A block of Google's passes, one of another vendor is refused or dropped."""
    assert parts(Opaque("gemini", "video", Raw(b'{"fileData":{"fileUri":"u"}}'))) == [
        {"fileData": {"fileUri": "u"}}
    ]
    block = Opaque("anthropic", "search_result", Raw(b"{}"))
    with pytest.raises(Unsupported, match="search_result"):
        parts(Text("x"), block)
    assert parts(Text("x"), block, target=replace(TARGET, drop_params=True)) == [{"text": "x"}]


def test_a_tool_loop() -> None:
    """A call goes back with its seal; its result has the function's name, comes first, and is an object."""
    found = turns(
        HELLO,
        Message("assistant", (Text("I look."), CALL, ToolCall("c2", "get_time", ""))),
        Message(
            "user",
            (
                Text("Well?"),
                ToolResult("c1", (Text('{"sky":"blue"}'),)),
                ToolResult("c2", (Text("noon"),)),
                ToolResult("c2", (Text("late"),), failed=True),
            ),
        ),
    )
    assert found[1]["parts"] == [
        {"text": "I look."},
        {
            "functionCall": {"id": "c1", "name": "get_weather", "args": {"city": "Paris"}},
            "thoughtSignature": "c2VhbA==",
        },
        {"functionCall": {"id": "c2", "name": "get_time", "args": {}}},
    ]
    assert [part.get("functionResponse", part) for part in found[2]["parts"]] == [
        {"id": "c1", "name": "get_weather", "response": {"sky": "blue"}},
        {"id": "c2", "name": "get_time", "response": {"result": "noon"}},
        {"id": "c2", "name": "get_time", "response": {"error": "late"}},
        {"text": "Well?"},
    ]


def test_a_call_without_its_seal() -> None:
    """The first call of a turn that nobody sealed gets Google's stand-in, since Gemini 3; broken arguments survive."""
    loop = Message("assistant", (replace(CALL, signature=None), ToolCall("c2", "f", "{broken")))
    (turn,) = turns(loop)
    assert turn["parts"][0]["thoughtSignature"] == "skip_thought_signature_validator"
    assert turn["parts"][1] == {
        "functionCall": {"id": "c2", "name": "f", "args": {"INVALID_JSON": "{broken"}}
    }
    assert "thoughtSignature" not in turns(loop, target=OLD)[0]["parts"][0]


def test_files_that_a_tool_answers() -> None:
    """They stand in the result since Gemini 3, and behind it before that."""
    loop = (
        Message("assistant", (CALL,)),
        Message(
            "user", (ToolResult("c1", (Text("see"), Image(media_type="image/png", data="AA=="))), Text("?"))
        ),
    )
    picture = {"inlineData": {"mimeType": "image/png", "data": "AA=="}}
    first, *rest = turns(*loop)[1]["parts"]
    assert first["functionResponse"]["parts"] == [picture]
    assert rest == [{"text": "?"}]
    first, *rest = turns(*loop, target=OLD)[1]["parts"]
    assert "parts" not in first["functionResponse"]
    assert rest == [picture, {"text": "?"}]


def test_a_result_of_no_call() -> None:
    """Google wants a function's name, so a result that answers nothing is the caller's mistake."""
    with pytest.raises(BadRequest, match="'nope'"):
        parts(ToolResult("nope", (Text("x"),)))


# -- tools -----------------------------------------------------------------------------------------------------------


def test_tools() -> None:
    """Functions are declared with JSON schemas, and a schema that says nothing is left out."""
    body = written(tools=(WEATHER, Tool("now", Raw(b"{}")), Tool("then", Raw(b"null"))))
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {
                    "name": "get_weather",
                    "description": "The weather",
                    "parametersJsonSchema": {"type": "object", "properties": {"city": {"type": "string"}}},
                },
                {"name": "now"},
                {"name": "then"},
            ]
        }
    ]
    with pytest.raises(BadRequest, match="schema"):
        written(tools=(Tool("x", Raw(b"[]")),))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ToolChoice("auto"), {"mode": "AUTO"}),
        (ToolChoice("none"), {"mode": "NONE"}),
        (ToolChoice("required"), {"mode": "ANY"}),
        (ToolChoice("named", "f"), {"mode": "ANY", "allowedFunctionNames": ["f"]}),
    ],
)
def test_tool_choice(choice: ToolChoice, expected: dict[str, Any]) -> None:
    """Each way of choosing has its mode; without functions there is nothing to choose."""
    assert written(tools=(WEATHER,), tool_choice=choice)["toolConfig"] == {"functionCallingConfig": expected}
    assert "toolConfig" not in written(tool_choice=choice)


def test_calls_one_after_the_other() -> None:
    """Google cannot be told to call one tool at a time; with one tool that does not matter."""
    with pytest.raises(Unsupported, match="parallel_tool_calls"):
        written(tools=(WEATHER, Tool("f", Raw(b"{}"))), parallel_tool_calls=False)
    assert written(tools=(WEATHER,), parallel_tool_calls=False)


def test_what_the_operator_allows() -> None:
    """It goes on as it came."""
    allowing = replace(TARGET, allowed=frozenset({"parallel_tool_calls", "logit_bias"}))
    two = (WEATHER, Tool("f", Raw(b"{}")))
    assert written(allowing, tools=two, parallel_tool_calls=False)["parallel_tool_calls"] is False
    assert config(allowing, logit_bias=Raw(b'{"5":1}'))["logit_bias"] == {"5": 1}


def test_tools_that_google_runs() -> None:
    """They pass as they are, by name or by type; those of other vendors do not."""
    tools = (
        WEATHER,
        Opaque("openai", "google_search", Raw(b'{"type":"google_search"}')),
        Opaque("openai", "", Raw(b'{"urlContext":{}}')),
    )
    assert written(tools=tools)["tools"][1:] == [{"google_search": {}}, {"urlContext": {}}]
    with pytest.raises(Unsupported, match="web_search"):
        written(tools=(Opaque("anthropic", "web_search_20250305", Raw(b'{"name":"web_search"}')),))


def test_tools_that_google_runs_come_through_openais_clients() -> None:
    """As LiteLLM's users write them: without a type."""
    asked = {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "tools": [{"googleSearch": {"x": 1}}, {"function": {"name": "f"}}],
    }
    request = openai.read_request(open_envelope(json.dumps(asked).encode()))
    assert json.loads(gemini.write_request(request, TARGET))["tools"] == [
        {
            "functionDeclarations": [
                {"name": "f", "parametersJsonSchema": {"type": "object", "properties": {}}}
            ]
        },
        {"googleSearch": {"x": 1}},
    ]


def test_schemas_are_cleaned() -> None:
    """Keywords that Google refuses go, constants become enums, and names of properties are no keywords."""
    plain = Raw(b'{"type":"object","properties":{"a":{"$ref":"#/$defs/A"}},"$defs":{"A":{"type":"string"}}}')
    assert cleaned(plain) is plain
    assert cleaned(Raw(b'{"properties":{}}')) == {"type": "object", "properties": {}}
    assert cleaned(
        Raw(
            json.dumps(
                {
                    "$schema": "http://json-schema.org/draft-07/schema#",
                    "type": "object",
                    "properties": {
                        "const": {"const": "a", "examples": ["a"]},
                        "examples": {"anyOf": [{"const": 1}, {"type": "null"}], "default": {"const": 1}},
                    },
                    "required": ["const"],
                }
            ).encode()
        )
    ) == {
        "type": "object",
        "properties": {
            "const": {"enum": ["a"]},
            "examples": {"anyOf": [{"enum": [1]}, {"type": "null"}], "default": {"const": 1}},
        },
        "required": ["const"],
    }


# -- how to answer ---------------------------------------------------------------------------------------------------


def test_the_plain_fields() -> None:
    """Sampling, limits and stops have Google's names."""
    assert config(
        OLD,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        max_tokens=10,
        stop=("a", "b"),
        n=2,
        seed=7,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        logprobs=True,
        top_logprobs=3,
        user="me",
    ) == {
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 4,
        "presencePenalty": 0.2,
        "frequencyPenalty": 0.1,
        "maxOutputTokens": 10,
        "stopSequences": ["a", "b"],
        "candidateCount": 2,
        "seed": 7,
        "responseLogprobs": True,
        "logprobs": 3,
    }
    assert config(n=1) == {}


@pytest.mark.parametrize(
    ("field", "value", "target"),
    [
        ("logit_bias", Raw(b'{"1":2}'), OLD),
        ("frequency_penalty", 0.5, TARGET),
        ("reasoning", Reasoning("enabled", "low"), replace(OLD, flags=frozenset({"supports_vision"}))),
    ],
)
def test_what_a_model_has_no_word_for(field: str, value: Any, target: Target) -> None:
    """It is refused, or dropped where the operator says so, and noted then."""
    with pytest.raises(Unsupported):
        written(target, **{field: value})
    dropping = replace(target, drop_params=True, dropped=[])
    assert config(dropping, **{field: value}) == {}
    assert dropping.dropped == ["reasoning_effort" if field == "reasoning" else field]


def test_the_answers_shape() -> None:
    """JSON is a type, a schema stands beside it."""
    assert config(response_format=ResponseFormat("json_object")) == {"responseMimeType": "application/json"}
    assert config(response_format=ResponseFormat("json_schema", Raw(b'{"type":"array","const":[]}'))) == {
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "array", "enum": [[]]},
    }


@pytest.mark.parametrize(
    ("model", "reasoning", "expected"),
    [
        ("gemini-3-flash", Reasoning("enabled", "minimal"), {"thinkingLevel": "minimal"}),
        ("gemini-3.8-flash", Reasoning("enabled", "minimal"), {"thinkingLevel": "low"}),
        ("gemini-3-pro", Reasoning("enabled", "minimal"), {"thinkingLevel": "low"}),
        ("gemini-3-pro", Reasoning("enabled", "medium"), {"thinkingLevel": "medium"}),
        ("gemini-flash-latest", Reasoning("enabled", "max"), {"thinkingLevel": "high"}),
        ("gemini-3-pro", Reasoning("enabled", budget=2000), {"thinkingBudget": 2000}),
        ("gemini-3-pro", Reasoning("adaptive"), {}),
        ("gemini-3-pro", Reasoning("enabled", "low", display="omitted"), {"thinkingLevel": "low"}),
        ("gemini-3-flash", Reasoning("disabled"), {"thinkingLevel": "minimal"}),
        ("gemini-3-pro", Reasoning("disabled"), {"thinkingLevel": "low"}),
        ("gemini-2.5-flash", Reasoning("enabled", "high"), {"thinkingBudget": 24576}),
        ("gemini-2.5-flash", Reasoning("disabled"), {"thinkingBudget": 0}),
        ("gemini-2.5-pro", Reasoning("enabled", "none"), {"thinkingBudget": 128}),
    ],
)
def test_thinking(model: str, reasoning: Reasoning, expected: dict[str, Any]) -> None:
    """A level since Gemini 3, a budget before; thoughts are shown unless there are to be none."""
    shown = not (reasoning.mode == "disabled" or reasoning.effort == "none" or reasoning.display == "omitted")
    found = config(replace(TARGET, model=model), reasoning=reasoning)["thinkingConfig"]
    assert found == {"includeThoughts": shown} | expected


def test_an_effort_that_nobody_knows() -> None:
    """It is the caller's mistake."""
    with pytest.raises(BadRequest, match="reasoning_effort"):
        written(reasoning=Reasoning("enabled", "enormous"))


def test_googles_own_fields() -> None:
    """They pass in both spellings, and those of `generationConfig` and `toolConfig` join ours."""
    extra = {
        "safety_settings": Raw(b"[1]"),
        "cachedContent": Raw(b'"cachedContents/x"'),
        "generation_config": Raw(b'{"media_resolution":"LOW"}'),
        "thinking_config": Raw(b'{"thinkingLevel":"high"}'),
        "tool_config": Raw(b'{"includeServerSideToolInvocations":true}'),
    }
    body = written(extra=extra, temperature=1.0, tools=(WEATHER,), tool_choice=ToolChoice("auto"))
    assert body["safetySettings"] == [1]
    assert body["cachedContent"] == "cachedContents/x"
    assert body["generationConfig"] == {
        "temperature": 1.0,
        "mediaResolution": "LOW",
        "thinkingConfig": {"thinkingLevel": "high"},
    }
    assert body["toolConfig"] == {
        "functionCallingConfig": {"mode": "AUTO"},
        "includeServerSideToolInvocations": True,
    }


def test_what_the_neutral_question_has_no_place_for() -> None:
    """Modalities, web search and tiers have words of Google's; hints are dropped; the rest is refused."""
    unspoken = {
        "modalities": Raw(b'["text","image"]'),
        "web_search_options": Raw(b"{}"),
        "service_tier": Raw(b'"flex"'),
        "metadata": Raw(b"{}"),
        "speed": Raw(b'"fast"'),
    }
    body = written(unspoken=unspoken)
    assert body.keys() == {"contents", "generationConfig", "tools", "serviceTier"}
    assert body["generationConfig"] == {"responseModalities": ["TEXT", "IMAGE"]}
    assert body["tools"] == [{"googleSearch": {}}]
    with pytest.raises(Unsupported, match="prediction"):
        written(unspoken={"prediction": Raw(b"{}")})


@pytest.mark.parametrize("value", [b"[]", b"{}", b"7", b'"sometimes"', b"null"])
def test_a_tier_that_nobody_knows(value: bytes) -> None:
    """Whatever it is, it is a hint that is dropped."""
    assert written(unspoken={"service_tier": Raw(value)}).keys() == {"contents"}


def test_numbers_out_of_range() -> None:
    """Where Google's words are looked into, a number that nobody can hold is the caller's mistake; elsewhere it goes on."""
    far = Raw(b'{"$comment":"x","type":"object","maximum":1e400}')
    with pytest.raises(BadRequest):
        written(tools=(Tool("f", far),))
    with pytest.raises(BadRequest):
        written(response_format=ResponseFormat("json_schema", far))
    with pytest.raises(BadRequest):
        written(tools=(Opaque("openai", "", Raw(b'{"googleSearch":{"a":1e400}}')),))
    with pytest.raises(BadRequest):
        written(unspoken={"modalities": Raw(b"[1e400]")})
    assert written(unspoken={"metadata": far}).keys() == {"contents"}


def test_arguments_are_never_changed() -> None:
    """A question can be asked again."""
    tools = (WEATHER,)
    asked = replace(QUESTION, tools=tools, unspoken={"web_search_options": Raw(b"{}")})
    assert gemini.write_request(asked, TARGET) == gemini.write_request(asked, TARGET)


# -- on its way ------------------------------------------------------------------------------------------------------

STUDIO = "https://generativelanguage.googleapis.com/v1beta/models/"
VERTEX = "https://us-central1-aiplatform.googleapis.com/v1beta1/projects/p%2Fx/locations/us-central1"


@pytest.mark.parametrize(
    ("model", "operation", "stream", "url"),
    [
        ("gemini/gemini-3-flash", "chat", False, f"{STUDIO}gemini-3-flash:generateContent"),
        ("gemini/gemini-3-flash", "chat", True, f"{STUDIO}gemini-3-flash:streamGenerateContent?alt=sse"),
        ("gemini/a/b?c", "chat", False, f"{STUDIO}a%2Fb%3Fc:generateContent"),
        ("gemini/gemini-embedding-2", "embeddings", False, f"{STUDIO}gemini-embedding-2:batchEmbedContents"),
        ("gemini/imagen-4.0", "images", False, f"{STUDIO}imagen-4.0:predict"),
        ("gemini/gemini-3-pro-image", "images", False, f"{STUDIO}gemini-3-pro-image:generateContent"),
        (
            "vertex_ai/gemini-2.5-pro",
            "chat",
            True,
            f"{VERTEX}/publishers/google/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
        ),
        ("vertex_ai/123", "chat", False, f"{VERTEX}/endpoints/123:generateContent"),
        (
            "vertex_ai/gemini-embedding-2",
            "embeddings",
            False,
            f"{VERTEX}/publishers/google/models/gemini-embedding-2:embedContent",
        ),
        (
            "vertex_ai/gemini-embedding-001",
            "embeddings",
            False,
            f"{VERTEX}/publishers/google/models/gemini-embedding-001:predict",
        ),
    ],
)
def test_address(model: str, operation: Operation, stream: bool, url: str) -> None:
    """The model and the verb stand in the path; no key does."""
    target = target_of(model, vertex_project="p/x", vertex_location="us-central1")
    found = gemini.address(target, operation, {"X-Trace": "1"}, stream=stream)
    assert found.method == "POST"
    assert found.url == url
    assert dict(found.headers) == {
        "content-type": "application/json",
        "accept": "text/event-stream" if stream else "application/json",
        "x-trace": "1",
    }


def target_of(model: str, **options: str) -> Target:
    found = find(model)
    assert found is not None
    row, base = located(found[0], found[0].base_url.format_map(options))
    return Target(provider=row, model=found[1], base_url=base, options=options)


def test_address_without_a_project() -> None:
    """That is the express mode, which is asked at no region."""
    target = target_of("vertex_ai/gemini-2.5-pro", vertex_location="us-central1")
    assert gemini.address(target, "chat", {}, stream=False).url == (
        "https://aiplatform.googleapis.com/v1beta1/publishers/google/models/gemini-2.5-pro:generateContent"
    )


def test_address_refuses() -> None:
    """What is not offered, what is no model, and what wants an option that is not there."""
    with pytest.raises(Unsupported, match="speech"):
        gemini.address(TARGET, "speech", {}, stream=False)
    with pytest.raises(Unsupported, match="no model"):
        gemini.address(replace(TARGET, model=".."), "chat", {}, stream=False)
    target = target_of("vertex_ai/gemini-2.5-pro", vertex_location="us", vertex_project="p")
    with pytest.raises(Unsupported, match="vertex_location"):
        gemini.address(replace(target, options={"vertex_project": "p"}), "chat", {}, stream=False)


# -- its answers -----------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What the deltas of a stream say, put together."""

    text: str = ""
    thinking: str = ""
    tools: tuple[tuple[str, str, Any, str | None], ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None
    failure: UpstreamError | None = None


def string(raw: Raw) -> str:
    value = json.loads(bytes(raw))
    assert isinstance(value, str)
    return value


def told(deltas: list[Delta]) -> Told:
    known = Told()
    open_call = ToolStart(0, "", "")
    for delta in deltas:
        match delta:
            case TextDelta():
                known.text += string(delta.text)
            case ThinkingDelta():
                known.thinking += string(delta.text)
            case ToolStart():
                open_call = delta
            case ToolDelta():
                call = (
                    open_call.id,
                    open_call.name,
                    json.loads(string(delta.arguments)),
                    open_call.signature,
                )
                known.tools = (*known.tools, call)
            case UsageDelta():
                known.usage = delta.usage
            case Finish():
                known.finish = delta.reason
            case Failure():
                assert delta is deltas[-1]
                known.failure = delta.error
            case _:
                assert isinstance(delta, Start)
                assert delta is deltas[0]
    return known


def read(stream: bytes) -> list[Delta]:
    reader = gemini.read_stream(QUESTION, TARGET)
    return reader.feed(stream) + reader.close()


def answer_of(name: str) -> Choice:
    answer = gemini.read_response(transcript(name), QUESTION, TARGET)
    assert (answer.id, answer.model) == ("r-1_x", "gemini-3-flash")
    (choice,) = answer.choices
    return choice


def usage_of(name: str) -> Usage | None:
    return gemini.read_response(transcript(name), QUESTION, TARGET).usage


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stream.sse", Told("Hello, world — é!", finish="stop", usage=Usage(input=7, output=5))),
        (
            "thinking.sse",
            Told("4", "**Hm.** Two and two.", finish="stop", usage=Usage(input=9, output=1, reasoning=30)),
        ),
        (
            "tool_call.sse",
            Told(
                tools=(("call_r-1_x_0_0", "get_weather", {"city": "Paris", "days": 3}, "c2VhbA=="),),
                finish="tool_calls",
                usage=Usage(input=30, output=8, reasoning=20),
            ),
        ),
        (
            "parallel_tools.sse",
            Told(
                "I will look.",
                tools=(
                    ("w1", "get_weather", {"city": "Paris"}, "c2VhbA+/"),
                    ("t1", "get_time", {}, None),
                ),
                finish="tool_calls",
                usage=Usage(input=40, output=20, reasoning=15),
            ),
        ),
        (
            "streamed_arguments.sse",
            Told(
                tools=(
                    (
                        "call_r-1_x_0_0",
                        "cook",
                        {
                            "dish": "Lasagna",
                            "parts": [{"name": "egg", "count": 2}, {"name": "salt"}],
                            "hot": True,
                            "note": None,
                        },
                        "c2VhbA==",
                    ),
                ),
                finish="tool_calls",
                usage=Usage(input=31, output=40, reasoning=9),
            ),
        ),
        ("safety.sse", Told("Once", finish="content_filter", usage=Usage(input=5, output=1))),
    ],
)
def test_stream(name: str, expected: Told) -> None:
    """Words, thoughts, calls with their seals, counts and the reason of an end."""
    assert told(read(transcript(name))) == expected


@pytest.mark.parametrize("name", STREAMS)
def test_stream_in_any_pieces(name: str) -> None:
    """Fed byte by byte, event by event or at once, with LF or CR LF, a stream gives the same deltas."""
    expected = told(read(transcript(name)))
    for body in (transcript(name), transcript(name).replace(b"\n", b"\r\n")):
        cutter, reader, deltas = SseCutter(), gemini.read_stream(QUESTION, TARGET), []
        for at in range(len(body)):
            if whole := cutter.feed(body[at : at + 1]):
                deltas += reader.feed(whole)
        found, again = told(deltas + reader.close()), told(read(body))
        for each in (found, again):
            assert type(each.failure) is type(expected.failure)
            each.failure = expected.failure
            assert each == expected


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("error_at_once.sse", UpstreamOverloaded, "overloaded"),
        ("error_in_stream.sse", UpstreamError, "internal error"),
        ("without_finish.sse", UpstreamMalformed, "finishReason"),
        ("blocked.sse", ContentPolicyViolation, "The prompt was flagged."),
    ],
)
def test_stream_that_fails(name: str, kind: type[UpstreamError], words: str) -> None:
    """An error at the beginning or within, a filter, an end that is none: the last delta says so, and nothing follows."""
    reader = gemini.read_stream(QUESTION, TARGET)
    deltas = reader.feed(transcript(name)) + reader.close()
    failure = told(deltas).failure
    assert type(failure) is kind
    assert words in failure.message
    assert not reader.done
    assert reader.feed(transcript("stream.sse")) == []
    assert reader.close() == []


def test_unknown_events_and_fields_are_skipped() -> None:
    """A later version may say more."""
    stream = (
        b': comment\n\ndata: {"newThing":{"a":[1]}}\n\n'
        b'data: {"candidates":[{"content":{"parts":[{"text":"a","new":1},{"hologram":{}}]},"finishReason":"NEW"}]}\n\n'
    )
    assert told(read(stream)) == Told("a", finish="stop")


@pytest.mark.parametrize(
    "stream",
    [b"data: {\n\n", b'data: {"candidates":[{"content":{"parts":[{"functionCall":{"name":5}}]}}]}\n\n', b""],
)
def test_what_cannot_be_read(stream: bytes) -> None:
    """It ends the stream with a failure."""
    assert type(told(read(stream)).failure) is UpstreamMalformed


@pytest.mark.parametrize("given", ["{}", '{"a": 1}', "[]", '"x"'])
def test_arguments_whole_and_in_pieces(given: str) -> None:
    """A call may begin with an object, which its pieces go on with; with anything else it cannot be read."""
    pieces = '"partialArgs":[{"jsonPath":"$.b","stringValue":"x"}],"willContinue":true'
    call = f'{{"name":"f","args":{given},{pieces}}}'
    chunk = '{"candidates":[{"content":{"parts":[{"functionCall":%s}]}%s}]}'
    deltas = read(
        b"data: %b\r\n\r\n" % (chunk % (call, "")).encode()
        + b"data: %b\r\n\r\n" % (chunk % ("{}", ',"finishReason":"STOP"')).encode()
    )
    if not given.startswith("{"):
        assert isinstance(deltas[-1], Failure)
        assert isinstance(deltas[-1].error, UpstreamMalformed)
        return
    (arguments,) = (json.loads(bytes(each.arguments)) for each in deltas if isinstance(each, ToolDelta))
    assert json.loads(arguments) == {**json.loads(given), "b": "x"}


def test_two_choices() -> None:
    """Candidates keep their numbers, and each its own end."""
    stream = (
        b'data: {"candidates":[{"content":{"parts":[{"text":"a"}]},"index":1},'
        b'{"content":{"parts":[{"text":"b"}]},"finishReason":"STOP","index":0}]}\n\n'
        b'data: {"candidates":[{"finishReason":"MAX_TOKENS","index":1}]}\n\n'
    )
    deltas = read(stream)
    assert [each.choice for each in deltas if isinstance(each, TextDelta)] == [1, 0]
    assert [(each.choice, each.reason) for each in deltas if isinstance(each, Finish)] == [
        (0, "stop"),
        (1, "length"),
    ]


def test_answer() -> None:
    """A whole answer, the same as its stream."""
    assert answer_of("answer.json") == Choice((Text("Hello, world — é!"),), "stop")
    assert usage_of("answer.json") == Usage(input=7, output=5)
    assert answer_of("thinking.json") == Choice((Thinking("**Hm.** Two and two."), Text("4")), "stop")
    assert answer_of("parallel_tools.json") == Choice(
        (
            Text("I will look."),
            ToolCall("w1", "get_weather", '{"city":"Paris"}', signature="c2VhbA+/"),
            ToolCall("t1", "get_time", "{}"),
        ),
        "tool_calls",
    )


def test_a_refused_prompt() -> None:
    """No candidates, but a reason: the filter's."""
    with pytest.raises(ContentPolicyViolation, match="PROHIBITED_CONTENT") as caught:
        answer_of("blocked.json")
    assert (caught.value.status, caught.value.code) == (400, "content_filter")


def test_ends_that_are_failures() -> None:
    """Nothing was said, and the reason is the model's or the question's fault."""
    with pytest.raises(UpstreamError, match="Malformed function call") as caught:
        answer_of("malformed_call.json")
    assert type(caught.value) is UpstreamError
    with pytest.raises(UpstreamRefused, match="MISSING_THOUGHT_SIGNATURE"):
        answer_of("missing_signature.json")
    body = transcript("malformed_call.json").replace(
        b'"content": {}', b'"content":{"parts":[{"text":"I call"}]}'
    )
    (choice,) = gemini.read_response(body, QUESTION, TARGET).choices
    assert choice.finish == "error"
    assert json.loads(bytes(choice.detail or b""))["finishReason"] == "MALFORMED_FUNCTION_CALL"


def test_what_is_no_answer() -> None:
    """No JSON, no candidates, an error."""
    for body in (b"<html>", b"{}", b"[]"):
        with pytest.raises(UpstreamMalformed):
            gemini.read_response(body, QUESTION, TARGET)
    with pytest.raises(UpstreamOverloaded):
        gemini.read_response(b'{"error":{"code":503,"message":"busy"}}', QUESTION, TARGET)


def test_sources() -> None:
    """Where the words come from is the detail of the end; searches and what they put into the prompt are counted."""
    choice = answer_of("grounded.json")
    assert choice.finish == "stop"
    detail = json.loads(bytes(choice.detail or b""))
    assert detail["groundingMetadata"]["groundingChunks"][0]["web"]["title"] == "example.com"
    assert usage_of("grounded.json") == Usage(input=108, output=2, reasoning=5, units=Units(searches=2))
    old = gemini.read_response(transcript("grounded.json"), QUESTION, OLD).usage
    assert old is not None
    assert old.units.searches == 1


def test_code_and_pictures_are_words() -> None:
    """Code that was run and what it printed are fenced, a picture is a link to itself."""
    assert answer_of("code.json").parts == (
        Text("\n```python\nprint(6 * 7)\n```\n\n```\n42\n```\nIt is 42."),
    )
    assert answer_of("picture.json").parts == (
        Text("Here: ![image/png](data:image/png;base64,iVBORw0KGgo=)"),
    )
    assert usage_of("picture.json") == Usage(input=8, output=5, image_output=1290)


def test_probabilities() -> None:
    """Those of tokens come as OpenAI writes them."""
    body = json.loads(transcript("answer.json"))
    body["candidates"][0]["logprobsResult"] = {
        "chosenCandidates": [{"token": "Hé", "tokenId": 1, "logProbability": -0.5}, {"token": "!"}],
        "topCandidates": [{"candidates": [{"token": "Hé", "logProbability": -0.5}]}],
    }
    (choice,) = gemini.read_response(json.dumps(body).encode(), QUESTION, TARGET).choices
    first = {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169]}
    assert json.loads(bytes(choice.logprobs or b""))["content"] == [
        first | {"top_logprobs": [first]},
        {"token": "!", "logprob": 0.0, "bytes": [33], "top_logprobs": []},
    ]


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"trafficType": "ON_DEMAND"}, None),
        ({"promptTokenCount": 5, "cachedContentTokenCount": 9}, Usage(cache_read=5)),
        (
            {
                "promptTokenCount": 100,
                "cachedContentTokenCount": 40,
                "promptTokensDetails": [
                    {"modality": "AUDIO", "tokenCount": 30},
                    {"modality": "IMAGE", "tokenCount": 20},
                ],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 25}],
                "candidatesTokenCount": 9,
                "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 8}],
                "trafficType": "ON_DEMAND_PRIORITY",
            },
            Usage(
                input=35,
                cache_read=40,
                audio_input=5,
                image_input=20,
                output=1,
                audio_output=8,
                tier="priority",
            ),
        ),
    ],
)
def test_usage(counts: dict[str, Any], usage: Usage | None) -> None:
    """Each token is in one bucket, and what is inside never exceeds the whole."""
    body = json.loads(transcript("answer.json")) | {"usageMetadata": counts}
    assert gemini.read_response(json.dumps(body).encode(), QUESTION, TARGET).usage == usage


@pytest.mark.parametrize("path", ["$", "", "$.a.b", "$[0]", "$.list.x", "$.list[20000]"])
def test_paths_that_do_not_fit(path: str) -> None:
    """They are passed over."""
    root: dict[str, Any] = {"a": "text", "list": [1]}
    put(root, wire.PartialArg(path, string_value="v"))
    assert root["list"] == [1]
    assert root["a"] in ("text", {"b": "v"})


# -- what went wrong -------------------------------------------------------------------------------------------------


def test_errors() -> None:
    """A bad key is a 400 of Google's and none of the caller's business; a quota says how long to wait."""
    auth = gemini.read_error(400, {}, transcript("error_auth.json"))
    assert type(auth) is UpstreamAuth
    assert "API key not valid" not in auth.message
    context = gemini.read_error(400, {}, transcript("error_context.json"))
    assert type(context) is ContextWindowExceeded
    quota = gemini.read_error(429, {}, transcript("error_quota.json"))
    assert type(quota) is UpstreamRateLimited
    assert quota.retry_after == 34.4
    told_twice = gemini.read_error(429, {"retry-after": "2"}, transcript("error_quota.json"))
    assert told_twice.retry_after == 2
    assert type(gemini.read_error(503, {}, b"<html>busy</html>")) is UpstreamOverloaded
    assert type(gemini.read_error(500, {}, b"[]")) is UpstreamError


# -- to and fro ------------------------------------------------------------------------------------------------------


def asked_again(client: Any, conversation: dict[str, Any]) -> list[Any]:
    request = client.read_request(open_envelope(json.dumps(conversation).encode()))
    contents: list[Any] = json.loads(gemini.write_request(request, TARGET))["contents"]
    return contents


def calls_in(contents: list[Any]) -> list[tuple[str, str | None]]:
    return [
        (part["functionCall"]["id"], part.get("thoughtSignature"))
        for turn in contents
        for part in turn["parts"]
        if "functionCall" in part
    ]


def chunks(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: {")]


def test_seals_survive_openais_clients() -> None:
    """They come beside the call, as Google's own endpoint and LiteLLM write them, and either way back is enough."""
    answer = gemini.read_response(transcript("parallel_tools.json"), QUESTION, TARGET)
    body = json.loads(openai.write_response(answer, answer_id="a", model="m", now=0))
    message = body["choices"][0]["message"]
    writer = openai.write_stream(answer_id="a", model="m", now=0, wants_usage=True)
    stream = writer.feed(read(transcript("parallel_tools.sse"))) + writer.close()
    streamed = [
        call
        for chunk in chunks(stream)
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
        if "id" in call
    ]
    seal = {"thought_signature": "c2VhbA+/"}
    for first, second in (message["tool_calls"], streamed):
        assert first["extra_content"] == {"google": seal}
        assert first["provider_specific_fields"] == seal
        assert "extra_content" not in second
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "ok"} for call in message["tool_calls"]
    ]
    for lost in ("extra_content", "provider_specific_fields"):
        kept = json.loads(json.dumps(message))
        kept["tool_calls"][0].pop(lost)
        contents = asked_again(
            openai, {"model": "m", "messages": [{"role": "user", "content": "Hello"}, kept, *results]}
        )
        assert calls_in(contents) == [("w1", "c2VhbA+/"), ("t1", None)]
    for call, result in zip(message["tool_calls"], results, strict=True):  # as LiteLLM writes them
        call["id"] = result["tool_call_id"] = call["id"] + "__thought__c2VhbA-_"
        call.pop("extra_content", None)
        call.pop("provider_specific_fields", None)
    contents = asked_again(openai, {"model": "m", "messages": [message, *results]})
    assert calls_in(contents) == [("w1", "c2VhbA-_"), ("t1", "c2VhbA-_")]


def test_seals_survive_anthropics_clients() -> None:
    """They stand in the call's id, which every client sends back."""
    answer = gemini.read_response(transcript("parallel_tools.json"), QUESTION, TARGET)
    body = json.loads(anthropic.write_response(answer, answer_id="a", model="m", now=0))
    writer = anthropic.write_stream(answer_id="a", model="m", now=0, wants_usage=True)
    stream = writer.feed(read(transcript("parallel_tools.sse"))) + writer.close()
    started = [chunk["content_block"] for chunk in chunks(stream) if chunk["type"] == "content_block_start"]
    for blocks in (body["content"], started):
        assert [block["id"] for block in blocks if block["type"] == "tool_use"] == [
            "w1__thought__c2VhbA-_",
            "t1",
        ]
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "ok"}
        for block in body["content"]
        if block["type"] == "tool_use"
    ]
    contents = asked_again(
        anthropic,
        {
            "model": "m",
            "max_tokens": 9,
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": body["content"]},
                {"role": "user", "content": results},
            ],
        },
    )
    assert calls_in(contents) == [("w1", "c2VhbA-_"), ("t1", None)]
    assert [part["functionResponse"]["name"] for part in contents[2]["parts"]] == ["get_weather", "get_time"]


def test_sources_reach_openais_clients() -> None:
    """What Google says of an end stands in `provider_specific_fields`, whole and streamed."""
    answer = gemini.read_response(transcript("grounded.json"), QUESTION, TARGET)
    (choice,) = json.loads(openai.write_response(answer, answer_id="a", model="m", now=0))["choices"]
    event = b"data: " + msgspec.json.format(transcript("grounded.json"), indent=-1) + b"\n\n"
    writer = openai.write_stream(answer_id="a", model="m", now=0, wants_usage=False)
    last = chunks(writer.feed(read(event)))[-1]["choices"][0]
    for each in (choice, last):
        assert each["finish_reason"] == "stop"
        assert "groundingMetadata" in each["provider_specific_fields"]["detail"]


def test_generations() -> None:
    """A name's number tells what a model understands."""
    assert wire.generation("gemini-2.5-pro") == (2, 5)
    assert wire.generation("gemini-4-argon") == (4, 0)
    assert wire.generation("gemini-flash-lite-latest") > (4, 0)
    assert wire.generation("gemma-3") == (0, 0)
