"""Cohere's format: what is asked, what is answered, and what is no chat."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters import EMBEDDINGS, FORMATS, RERANK, TRANSCRIPTIONS, cohere
from adapters.errors import (
    BadRequest,
    ContextWindowExceeded,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
    UpstreamMalformed,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from adapters.framing import SseCutter
from adapters.multipart import read_form
from adapters.providers import PROVIDERS
from adapters.types import (
    Audio,
    ChatRequest,
    Document,
    EmbeddingsRequest,
    Failure,
    File,
    Image,
    Message,
    Opaque,
    Ranked,
    Reasoning,
    RedactedThinking,
    Refusal,
    Reply,
    RerankRequest,
    ResponseFormat,
    Start,
    Target,
    Text,
    TextDelta,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    TranscriptionRequest,
    Units,
    Usage,
)
from tests.adapters.folding import fold, read_at_once, read_in_pieces

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "cohere"
TARGET = Target(provider=PROVIDERS["cohere"], model="command-test", base_url="https://cohere.test")
LENIENT = replace(TARGET, drop_params=True)
HELLO = (Message("user", (Text("Hello!"),)),)
QUESTION = ChatRequest(model="ours", messages=HELLO)
SCHEMA = Raw(b'{"type":"object","properties":{"lamp":{"type":"string"}}}')
LOOK = Tool("look", SCHEMA, "Look at a lamp")
CLOCK = Tool("clock", Raw(b"{}"))
USAGE = Usage(input=50, cache_read=150, output=28, reasoning=12)


def asked(request: ChatRequest, target: Target = TARGET) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(cohere.write_request(request, target))
    return body


def question(**fields: Any) -> ChatRequest:
    return replace(QUESTION, **fields)


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / name).read_bytes()


# -- questions -------------------------------------------------------------------------------------------------------


def test_a_plain_question() -> None:
    """Model, messages and `stream` are all that there is."""
    assert asked(QUESTION) == {
        "model": "command-test",
        "messages": [{"role": "user", "content": "Hello!"}],
        "stream": False,
    }


def test_sampling_is_in_coheres_words() -> None:
    """`top_p`, `top_k` and `stop` are called otherwise, and `p` stays where Cohere allows it."""
    body = asked(
        question(
            stream=True,
            max_tokens=9,
            temperature=0.5,
            top_p=1.0,
            top_k=3,
            stop=("END",),
            seed=7,
            frequency_penalty=0.1,
            presence_penalty=0.2,
            user="somebody",
            extra={"safety_mode": Raw(b'"STRICT"'), "documents": Raw(b'["a fact"]')},
        )
    )
    del body["model"], body["messages"]
    assert body == {
        "stream": True,
        "max_tokens": 9,
        "temperature": 0.5,
        "p": 0.99,
        "k": 3,
        "stop_sequences": ["END"],
        "seed": 7,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "safety_mode": "STRICT",
        "documents": ["a fact"],
    }
    assert asked(question(top_p=0.0))["p"] == 0.01
    assert asked(question(top_p=0.4))["p"] == 0.4


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": Raw(b'{"5":1}')}, "logit_bias"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"unspoken": {"verbosity": Raw(b'"low"')}}, "verbosity"),
    ],
)
def test_what_it_has_no_word_for(fields: Mapping[str, Any], name: str) -> None:
    """Such a field is refused by name, dropped and noted, or passed on, as the operator says."""
    with pytest.raises(Unsupported) as caught:
        cohere.write_request(question(**fields), TARGET)
    assert caught.value.param == name
    dropped: list[str] = []
    assert name not in asked(question(**fields), replace(LENIENT, dropped=dropped))
    assert dropped == [name]
    assert name in asked(question(**fields), replace(TARGET, allowed=frozenset({name})))


def test_what_means_nothing_is_not_sent() -> None:
    """Values that ask for what is done anyway, and hints, need no word."""
    fields: dict[str, Any] = {"n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": Raw(b"{}")}
    body = asked(question(**fields, parallel_tool_calls=True, unspoken={"store": Raw(b"true")}))
    assert body == asked(QUESTION)


@pytest.mark.parametrize(
    ("reasoning", "written"),
    [
        (Reasoning("enabled"), {"type": "enabled"}),
        (Reasoning("enabled", budget=500), {"type": "enabled", "token_budget": 500}),
        (Reasoning("enabled", effort="low"), {"type": "enabled", "token_budget": 1024}),
        (Reasoning("adaptive", effort="high"), {"type": "enabled"}),
        (Reasoning("adaptive"), None),
        (Reasoning("disabled"), {"type": "disabled"}),
        (Reasoning("enabled", effort="none"), {"type": "disabled"}),
    ],
)
def test_thinking(reasoning: Reasoning, written: dict[str, Any] | None) -> None:
    """Thinking is on, off or left to the model, with a budget for little effort."""
    assert asked(question(reasoning=reasoning)).get("thinking") == written


def test_thinking_of_models_that_do_not() -> None:
    """A model that is known not to reason is not told to stop, and cannot be told to begin."""
    target = replace(TARGET, flags=frozenset({"supports_function_calling"}))
    assert "thinking" not in asked(question(reasoning=Reasoning("disabled")), target)
    with pytest.raises(Unsupported):
        cohere.write_request(question(reasoning=Reasoning("enabled", effort="high")), target)
    assert "thinking" not in asked(
        question(reasoning=Reasoning("enabled", effort="high")), replace(target, drop_params=True)
    )


def test_the_shape_of_an_answer() -> None:
    """A schema stands beside the type and is not wrapped in anything."""
    wanted = ResponseFormat("json_schema", SCHEMA, name="lamp", strict=True)
    written = asked(question(response_format=wanted))["response_format"]
    assert written == {"type": "json_object", "json_schema": json.loads(bytes(SCHEMA))}
    plain = asked(question(response_format=ResponseFormat("json_object")))["response_format"]
    assert plain == {"type": "json_object"}


def test_tools() -> None:
    """Tools are OpenAI's; that one is demanded is said by showing only that."""
    look = {"name": "look", "description": "Look at a lamp", "parameters": json.loads(bytes(SCHEMA))}
    clock = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
    body = asked(question(tools=(LOOK, CLOCK), tool_choice=ToolChoice("auto")))
    assert body["tools"] == [
        {"type": "function", "function": look},
        {"type": "function", "function": clock},
    ]
    assert "tool_choice" not in body
    assert "strict_tools" not in body
    assert asked(question(tools=(LOOK,), tool_choice=ToolChoice("required")))["tool_choice"] == "REQUIRED"
    assert asked(question(tools=(LOOK,), tool_choice=ToolChoice("none")))["tool_choice"] == "NONE"
    named = asked(question(tools=(LOOK, CLOCK), tool_choice=ToolChoice("named", "clock")))
    assert (named["tools"], named["tool_choice"]) == ([{"type": "function", "function": clock}], "REQUIRED")
    assert asked(question(tools=(replace(LOOK, strict=True),)))["strict_tools"] is True
    foreign = Opaque("anthropic", "web_search_20250305", Raw(b"{}"))
    with pytest.raises(Unsupported):
        cohere.write_request(question(tools=(foreign,)), TARGET)
    assert "tools" not in asked(question(tools=(foreign,)), LENIENT)


def test_a_conversation() -> None:
    """System first, tool results right after their calls, unsigned thoughts as the plan of a call."""
    messages = (
        Message("user", (Text("Is it lit?"),)),
        Message(
            "assistant",
            (
                Thinking("I will look."),
                Thinking("Sealed.", "c2VhbA=="),
                RedactedThinking("eHg="),
                Text("A moment."),
                ToolCall("a", "look", '{"lamp":"north"}'),
                ToolCall("b", "clock", ""),
            ),
        ),
        Message(
            "user",
            (
                ToolResult(
                    "a", (Text("lit"), Image(url="https://pictures.test/1.png"), Document(text="Log"))
                ),
                ToolResult("b", (), failed=True),
                Text("Well?"),
            ),
        ),
        Message("assistant", (Thinking("Only thought."),)),
        Message("assistant", (Refusal("No."),)),
    )
    body = asked(question(system=(Text("Be brief."), Text("Be kind.")), messages=messages))
    assert body["messages"] == [
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        {"role": "user", "content": "Is it lit?"},
        {
            "role": "assistant",
            "content": "A moment.",
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"lamp":"north"}'},
                },
                {"id": "b", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
            ],
            "tool_plan": "I will look.",
        },
        {"role": "tool", "tool_call_id": "a", "content": "lit\nLog"},
        {"role": "tool", "tool_call_id": "b", "content": ""},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "https://pictures.test/1.png"}},
                {"type": "text", "text": "Well?"},
            ],
        },
        {"role": "assistant", "content": "No."},
    ]


@pytest.mark.parametrize("signature", [None, ""])
def test_thoughts_that_nobody_signed_go_back(signature: str | None) -> None:
    """Clients of Anthropic's format say so by an empty signature."""
    turn = Message("assistant", (Thinking("I ask.", signature), ToolCall("c1", "f", "{}")))
    (_, written) = asked(question(messages=(Message("user", (Text("Hi"),)), turn)))["messages"]
    assert written["tool_plan"] == "I ask."


def test_pictures() -> None:
    """A picture is an address, or its data as one."""
    parts = (Text("Look"), Image(media_type="image/png", data="eA==", detail="low"))
    (message,) = asked(question(messages=(Message("user", parts),)))["messages"]
    assert message["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,eA==", "detail": "low"},
    }


@pytest.mark.parametrize(
    "part",
    [
        Audio("eA==", "wav"),
        Image(file_id="file-1"),
        Document(data="eA==", media_type="application/pdf"),
        Opaque("anthropic", "server_tool_use", Raw(b"{}")),
    ],
)
def test_parts_that_cannot_be_said(part: Any) -> None:
    """They are refused, or dropped where the operator says so."""
    for role in ("user", "assistant"):
        request = question(messages=(Message(role, (Text("Here"), part)),))
        with pytest.raises(Unsupported):
            cohere.write_request(request, TARGET)
        assert asked(request, LENIENT)["messages"] == [{"role": role, "content": "Here"}]


def test_address() -> None:
    """Each operation has its path; others are refused."""
    chat = cohere.address(TARGET, "chat", {"x-client-name": "us"}, stream=True)
    assert (chat.method, chat.url) == ("POST", "https://cohere.test/v2/chat")
    assert dict(chat.headers)["accept"] == "text/event-stream"
    assert dict(chat.headers)["x-client-name"] == "us"
    assert cohere.address(TARGET, "embeddings", {}, stream=False).url == "https://cohere.test/v2/embed"
    assert cohere.address(TARGET, "rerank", {}, stream=False).url == "https://cohere.test/v2/rerank"
    with pytest.raises(Unsupported):
        cohere.address(TARGET, "completions", {}, stream=False)


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["answer.sse", "tool_calls.sse"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_stream_makes_the_whole_answer(name: str, size: int) -> None:
    """A stream, however it is cut, says what the whole answer says; citations come with the whole one only."""
    whole = cohere.read_response(transcript(name.replace(".sse", ".json")), QUESTION, TARGET)
    choice = whole.choices[0]
    parts = tuple(replace(part, citations=None) if isinstance(part, Text) else part for part in choice.parts)
    expected = replace(whole, choices=(replace(choice, parts=parts),))
    for body in (transcript(name), transcript(name).replace(b"\n", b"\r\n")):
        reader = cohere.read_stream(QUESTION, TARGET)
        assert fold(read_in_pieces(SseCutter(), reader, body, size)) == expected
        assert reader.done


def test_an_answer() -> None:
    """Thoughts, words with their citations, and counts without overlap."""
    answer = cohere.read_response(transcript("answer.json"), QUESTION, TARGET)
    thought, text = answer.choices[0].parts
    assert thought == Thinking('When is it dark? At "six".')
    assert isinstance(text, Text)
    assert text.text == "The light is lit\nat six – 🗼"
    assert json.loads(bytes(text.citations or b""))[0]["text"] == "light"
    assert answer.choices[0].finish == "stop"
    assert answer.usage == USAGE


def test_calls_of_tools() -> None:
    """The plan is a thought, and a call without arguments has none, whatever Cohere calls that."""
    answer = cohere.read_response(transcript("tool_calls.json"), QUESTION, TARGET)
    assert answer.choices[0].parts == (
        Thinking("I will look at both lamps."),
        ToolCall("look_1a", "look", '{"lamp": "north"}'),
        ToolCall("clock_2b", "clock", "{}"),
        ToolCall("clock_3c", "clock", "{}"),
    )
    assert answer.choices[0].finish == "tool_calls"


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (b'{"content":"words"}', (Text("words"),)),
        (b'{"content":[{"type":"new","shape":1}]}', ()),
        (b"{}", ()),
        (
            b'{"tool_calls":[{"function":{"name":"f","arguments":{"a":1}}},{}]}',
            (ToolCall("", "f", '{"a":1}'), ToolCall("", "", "{}")),
        ),
    ],
)
def test_odd_answers_are_read(message: bytes, parts: tuple[Any, ...]) -> None:
    """Other shapes of content and of arguments, and parts that nobody knows."""
    answer = cohere.read_response(b'{"message":' + message + b',"new":[]}', QUESTION, TARGET)
    assert answer.choices[0].parts == parts
    assert answer.usage is None


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"billed_units": {"input_tokens": 3.0, "output_tokens": 4}}, Usage(input=3, output=4)),
        (
            {"tokens": {"input_tokens": 3, "output_tokens": 1, "reasoning_tokens": 9}, "cached_tokens": 99},
            Usage(cache_read=3, reasoning=1),
        ),
        ({"tokens": {"input_tokens": -5, "output_tokens": 2}}, Usage(output=2)),
        ({"tokens": {"input_tokens": 34, "image_tokens": 259}}, Usage(input=34, image_input=259)),
        ({}, None),
    ],
)
def test_usage(counts: dict[str, Any], usage: Usage | None) -> None:
    """Tokens before billed units; no count is ever below zero; pictures are beside the words."""
    body = json.dumps({"message": {"content": []}, "usage": counts}).encode()
    assert cohere.read_response(body, QUESTION, TARGET).usage == usage


@pytest.mark.parametrize(("reason", "kind"), [("ERROR", UpstreamError), ("TIMEOUT", UpstreamTimeout)])
def test_reasons_that_are_errors(reason: str, kind: type[UpstreamError]) -> None:
    """An answer that broke off is an error and no answer, whole or as a stream."""
    with pytest.raises(kind):
        cohere.read_response(
            b'{"message":{"content":[]},"finish_reason":"%b"}' % reason.encode(), QUESTION, TARGET
        )
    end = b'event: message-end\ndata: {"type":"message-end","delta":{"finish_reason":"%b"}}\n\n'
    deltas = cohere.read_stream(QUESTION, TARGET).feed(end % reason.encode())
    assert isinstance(deltas[-1], Failure)
    assert isinstance(deltas[-1].error, kind)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"message":null}', b'{"message":{"content":7}}'])
def test_answers_that_are_none(body: bytes) -> None:
    """What cannot be understood is malformed."""
    with pytest.raises(UpstreamMalformed):
        cohere.read_response(body, QUESTION, TARGET)


def test_an_error_that_hides_in_a_200() -> None:
    """A message that is a string is an error's."""
    with pytest.raises(UpstreamError, match="out of order"):
        cohere.read_response(b'{"id":"x","message":"out of order"}', QUESTION, TARGET)


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("error.json", 429, UpstreamRateLimited),
        ("error_auth.json", 401, UpstreamAuth),
        ("error_context.json", 400, ContextWindowExceeded),
    ],
)
def test_errors(name: str, status: int, kind: type[UpstreamError]) -> None:
    """A refusal is the error that it means."""
    error = cohere.read_error(status, {}, transcript(name))
    assert type(error) is kind
    assert error.provider_status == status


def test_an_error_that_is_no_json() -> None:
    """A proxy's page is no message, and its text is."""
    assert cohere.read_error(502, {}, b"<html>no</html>").message == "The provider answered with status 502"
    assert cohere.read_error(502, {}, b"bad gateway").message == "bad gateway"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (transcript("error_in_stream.sse"), "internal server error"),
        (transcript("without_terminator.sse"), "without `message-end`"),
        (b'event: error\ndata: {"message":"too bad"}\n\n', "too bad"),
        (b'data: {"id":"x","message":"too bad"}\n\n', "too bad"),
        (b"data: nonsense\n\n", "cannot be read"),
        (b'data: {"type":"content-delta","delta":{"message":{"content":{"text":5}}}}\n\n', "no text"),
        (b"", "without `message-end`"),
        (b"data: [DONE]\n\n", "cannot be read"),
    ],
)
def test_streams_that_break(body: bytes, words: str) -> None:
    """The last delta is the failure, once, and nothing follows."""
    for deltas in (
        read_at_once(SseCutter(), cohere.read_stream(QUESTION, TARGET), body),
        read_in_pieces(SseCutter(), cohere.read_stream(QUESTION, TARGET), body),
    ):
        assert [isinstance(delta, Failure) for delta in deltas].count(True) == 1
        assert isinstance(deltas[-1], Failure)
        assert words in deltas[-1].error.message


def test_a_stream_without_its_last_line() -> None:
    """After `message-end` all is said, whether `[DONE]` comes or not."""
    body = transcript("answer.sse")
    reader = cohere.read_stream(QUESTION, TARGET)
    deltas = read_at_once(SseCutter(), reader, body.removesuffix(b"data: [DONE]\n\n"))
    assert deltas == read_at_once(SseCutter(), cohere.read_stream(QUESTION, TARGET), body)
    assert reader.done


def test_calls_under_one_number() -> None:
    """A number that is used again means another call, and arguments of no call are skipped."""
    start = b'data: {"type":"tool-call-start","index":0,"delta":{"message":{"tool_calls":{"id":"%b","function":{"name":"f"}}}}}\n\n'
    more = b'data: {"type":"tool-call-delta","index":%d,"delta":{"message":{"tool_calls":{"function":{"arguments":"{}"}}}}}\n\n'
    end = b'data: {"type":"message-end","delta":{"finish_reason":"TOOL_CALL"}}\n\ndata: [DONE]\n\n'
    body = start % b"a" + start % b"b" + more % 0 + more % 7 + start % b"c" + end
    answer = fold(read_in_pieces(SseCutter(), cohere.read_stream(QUESTION, TARGET), body))
    assert answer.choices[0].parts == tuple(ToolCall(ident, "f", "{}") for ident in "abc")


def test_the_short_way_is_the_long_way() -> None:
    """`words` knows nothing before the stream has begun or after it has ended, and says what `feed` says in between."""
    reader = cohere.read_stream(QUESTION, TARGET)
    event = (
        b'event: content-delta\ndata: {"type":"content-delta","index":0,'
        b'"delta":{"message":{"content":{"text":"a \\"b\\""}}}}\n\n'
    )
    assert reader.words(event) == b""
    assert reader.feed(event)[0] == Start("")
    assert reader.words(event) == b'"a \\"b\\""'
    assert reader.words(event + event) == b""
    assert reader.words(event.replace(b'"text"', b'"thinking"')) == b""
    assert reader.feed(event) == [TextDelta(Raw(reader.words(event)))]
    reader.feed(b'data: {"type":"message-end","delta":{"finish_reason":"COMPLETE"}}\n\n')
    assert reader.words(event) == b""
    assert reader.feed(event) == []


# -- embeddings ------------------------------------------------------------------------------------------------------


def embed(request: EmbeddingsRequest) -> list[dict[str, Any]]:
    return [json.loads(call.body) for call in EMBEDDINGS["cohere"].write(request, TARGET)]


def test_embeddings_are_asked_for() -> None:
    """Numbers are asked for whatever the client wants; without a purpose they are for documents."""
    request = EmbeddingsRequest(model="ours", input=("a", "b"), encoding="base64", dimensions=256)
    assert embed(request) == [
        {
            "model": "command-test",
            "embedding_types": ["float"],
            "output_dimension": 256,
            "texts": ["a", "b"],
            "input_type": "search_document",
        }
    ]
    for_queries = replace(request, input_type="search_query", extra={"truncate": Raw(b'"NONE"')})
    (body,) = embed(for_queries)
    assert (body["input_type"], body["truncate"]) == ("search_query", "NONE")


def test_many_texts_are_several_calls() -> None:
    """No call has more than 96 texts or more than one picture, and their order is kept."""
    texts = tuple(f"text {at}" for at in range(100))
    picture = "data:image/png;base64,eA=="
    calls = embed(EmbeddingsRequest(model="ours", input=(*texts, picture, picture, "last")))
    assert [len(call.get("texts") or call["images"]) for call in calls] == [96, 4, 1, 1, 1]
    assert [call["input_type"] for call in calls] == ["search_document"] * 2 + ["image"] * 2 + [
        "search_document"
    ]
    assert calls[0]["texts"] + calls[1]["texts"] == list(texts)
    with pytest.raises(Unsupported):
        embed(EmbeddingsRequest(model="ours", input=((1, 2), (3,))))


def test_embeddings_are_read() -> None:
    """Vectors keep their order over all replies, and the bill is the sum."""
    request = EmbeddingsRequest(model="ours", input=("a", "b", "c"))
    first = b'{"id":"x","embeddings":{"float":[[0.5,-1],[2e-3]]},"meta":{"billed_units":{"input_tokens":7}}}'
    second = b'{"embeddings":{"int8":[[1]]},"meta":{"billed_units":{"image_tokens":9,"images":1}}}'
    answer = EMBEDDINGS["cohere"].read([Reply({}, first), Reply({}, second)], request, TARGET)
    assert [bytes(vector) for vector in answer.vectors if isinstance(vector, Raw)] == [
        b"[0.5,-1]",
        b"[2e-3]",
        b"[1]",
    ]
    assert answer.usage == Usage(input=7, image_input=9, units=Units(images=1))
    too_few = b'{"embeddings":{"float":[[1],[2]]}}'
    for body in (b"{}", b'{"embeddings":{}}', b'{"embeddings":[[1]]}', b"no", too_few):
        with pytest.raises(UpstreamMalformed):
            EMBEDDINGS["cohere"].read([Reply({}, body)], request, TARGET)


def test_embeddings_of_another_type() -> None:
    """A type without vectors may be null; base64 is text, which is turned into numbers where those are wanted."""
    request = EmbeddingsRequest(model="ours", input=("a",))
    body = b'{"embeddings":{"float":null,"base64":["AACAPw=="]}}'
    assert EMBEDDINGS["cohere"].read([Reply({}, body)], request, TARGET).vectors == ("AACAPw==",)


# -- rerank ----------------------------------------------------------------------------------------------------------


def test_a_rerank() -> None:
    """Documents are texts; the best come first and the bill is in searches."""
    request = RerankRequest(
        model="ours",
        query="Which lamp?",
        documents=(Raw(b'"north"'), Raw(b'{"text":"south"}'), Raw(b'{"name":"west"}')),
        top_n=2,
        max_tokens_per_doc=50,
        return_documents=True,
    )
    (call,) = RERANK["cohere"].write(request, TARGET)
    assert json.loads(call.body) == {
        "model": "command-test",
        "query": "Which lamp?",
        "documents": ["north", "south", '{"name":"west"}'],
        "top_n": 2,
        "max_tokens_per_doc": 50,
    }
    reply = (
        b'{"id":"r","results":[{"index":1,"relevance_score":0.9},{"index":0,"relevance_score":0}],'
        b'"meta":{"billed_units":{"search_units":1}}}'
    )
    answer = RERANK["cohere"].read([Reply({}, reply)], request, TARGET)
    assert answer.results == (Ranked(1, 0.9), Ranked(0, 0.0))
    assert (answer.id, answer.usage) == ("r", Usage(units=Units(searches=1)))
    with pytest.raises(UpstreamMalformed):
        RERANK["cohere"].read([Reply({}, b"{}")], request, TARGET)


# -- sound -----------------------------------------------------------------------------------------------------------


def test_a_transcription() -> None:
    """A form with the language, which must be said; times and hints are not to be had."""
    task = TRANSCRIPTIONS["cohere"]
    request = TranscriptionRequest(
        model="ours",
        file=File("a.wav", "audio/wav", b"RIFF"),
        language="en",
        temperature=0.5,
        extra={"seed": "1"},
    )
    (call,) = task.write(request, TARGET)
    form = read_form(call.content_type, call.body)
    assert form.fields == {"model": "command-test", "language": "en", "temperature": "0.5", "seed": "1"}
    assert form.files == {"file": request.file}
    (call_with_lists,) = task.write(replace(request, lists={"hints": ("a", "b")}), TARGET)
    assert read_form(call_with_lists.content_type, call_with_lists.body).lists == {"hints": ("a", "b")}
    for more in ({"prompt": "A lamp"}, {"timestamp_granularities": ("word",)}):
        with pytest.raises(Unsupported):
            task.write(replace(request, **more), TARGET)
        assert task.write(replace(request, **more), LENIENT) == [call]
    with pytest.raises(BadRequest, match="language"):
        task.write(replace(request, language=None), TARGET)
    assert task.read([Reply({}, b'{"text":"Lit."}')], request, TARGET).text == "Lit."
    with pytest.raises(UpstreamMalformed):
        task.read([Reply({}, b"{}")], request, TARGET)


def test_it_is_registered() -> None:
    """Cohere's row speaks this format."""
    assert FORMATS[PROVIDERS["cohere"].format] is cohere
