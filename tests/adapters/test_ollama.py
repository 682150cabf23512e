"""Ollama's own format: what is asked, what is answered, and its embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters import EMBEDDINGS, FORMATS, ollama
from adapters.errors import (
    BadRequest,
    ContextWindowExceeded,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
    UpstreamMalformed,
    UpstreamNotFound,
    UpstreamOverloaded,
    UpstreamRefused,
)
from adapters.framing import LineCutter
from adapters.providers import PROVIDERS, located
from adapters.types import (
    Audio,
    ChatRequest,
    ChatResponse,
    Document,
    EmbeddingsRequest,
    Failure,
    Image,
    Message,
    Opaque,
    Reasoning,
    RedactedThinking,
    Refusal,
    Reply,
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
    Usage,
)
from tests.adapters.folding import fold, read_at_once, read_in_pieces

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "ollama"
TARGET = Target(provider=PROVIDERS["ollama"], model="keeper:8b", base_url="http://ollama.test:11434")
LENIENT = replace(TARGET, drop_params=True)
HELLO = (Message("user", (Text("Hello!"),)),)
QUESTION = ChatRequest(model="ours", messages=HELLO)
SCHEMA = Raw(b'{"type":"object","properties":{"lamp":{"type":"string"}}}')
LOOK = Tool("look", SCHEMA, "Look at a lamp", strict=True)
CLOCK = Tool("clock", Raw(b"{}"))


def asked(request: ChatRequest, target: Target = TARGET) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(ollama.write_request(request, target))
    return body


def question(**fields: Any) -> ChatRequest:
    return replace(QUESTION, **fields)


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / name).read_bytes()


# -- questions -------------------------------------------------------------------------------------------------------


def test_a_plain_question() -> None:
    """`stream` is always said, because Ollama streams if it is not."""
    assert asked(QUESTION) == {
        "model": "keeper:8b",
        "messages": [{"role": "user", "content": "Hello!"}],
        "stream": False,
    }
    assert asked(question(stream=True))["stream"] is True


def test_sampling_and_unknown_fields_are_options() -> None:
    """What a model does is an option; Ollama's own fields stand at the top; `options` themselves are merged."""
    body = asked(
        question(
            max_tokens=9,
            temperature=0.5,
            top_p=1.0,
            top_k=3,
            stop=("END",),
            seed=7,
            frequency_penalty=0.1,
            presence_penalty=0.2,
            logprobs=True,
            top_logprobs=2,
            user="somebody",
            extra={
                "num_ctx": Raw(b"8192"),
                "min_p": Raw(b"0.1"),
                "keep_alive": Raw(b'"10m"'),
                "think": Raw(b"false"),
                "options": Raw(b'{"num_gpu":1,"num_ctx":16384}'),
            },
        )
    )
    del body["model"], body["messages"], body["stream"]
    assert body == {
        "logprobs": True,
        "top_logprobs": 2,
        "keep_alive": "10m",
        "think": False,
        "options": {
            "num_predict": 9,
            "temperature": 0.5,
            "top_p": 1.0,
            "top_k": 3,
            "stop": ["END"],
            "seed": 7,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.2,
            "num_ctx": 16384,
            "min_p": 0.1,
            "num_gpu": 1,
        },
    }
    assert "options" not in asked(question(extra={"options": Raw(b"null")}))
    with pytest.raises(BadRequest):
        ollama.write_request(question(extra={"options": Raw(b"5")}), TARGET)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"n": 2}, "n"),
        ({"logit_bias": Raw(b'{"5":1}')}, "logit_bias"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"unspoken": {"verbosity": Raw(b'"low"')}}, "verbosity"),
    ],
)
def test_what_it_has_no_word_for(fields: Mapping[str, Any], name: str) -> None:
    """Such a field is refused by name, dropped and noted, or passed on, as the operator says."""
    with pytest.raises(Unsupported) as caught:
        ollama.write_request(question(**fields), TARGET)
    assert caught.value.param == name
    dropped: list[str] = []
    assert name not in asked(question(**fields), replace(LENIENT, dropped=dropped))
    assert dropped == [name]
    assert name in asked(question(**fields), replace(TARGET, allowed=frozenset({name})))


def test_what_means_nothing_is_not_sent() -> None:
    """Values that ask for what is done anyway, and hints, need no word."""
    fields: dict[str, Any] = {"n": 1, "logit_bias": Raw(b"{}"), "parallel_tool_calls": True}
    assert asked(question(**fields, unspoken={"store": Raw(b"true")})) == asked(QUESTION)


@pytest.mark.parametrize(
    ("reasoning", "think", "level"),
    [
        (None, None, None),
        (Reasoning("adaptive"), None, None),
        (Reasoning("enabled"), True, None),
        (Reasoning("enabled", budget=1000), True, "low"),
        (Reasoning("enabled", budget=5000), True, "medium"),
        (Reasoning("enabled", budget=50_000), True, "high"),
        (Reasoning("adaptive", effort="minimal"), True, "low"),
        (Reasoning("enabled", effort="medium"), True, "medium"),
        (Reasoning("enabled", effort="max"), True, "high"),
    ],
)
def test_thinking(reasoning: Reasoning | None, think: bool | None, level: str | None) -> None:
    """Most models think or do not; one family has levels."""
    assert asked(question(reasoning=reasoning)).get("think") == think
    target = replace(TARGET, model="gpt-oss:20b")
    assert asked(question(reasoning=reasoning), target).get("think") == level


@pytest.mark.parametrize("reasoning", [Reasoning("disabled"), Reasoning("enabled", effort="none")])
def test_no_thinking(reasoning: Reasoning) -> None:
    """Thinking can be forbidden, but to the family that always does."""
    assert asked(question(reasoning=reasoning))["think"] is False
    with pytest.raises(Unsupported):
        ollama.write_request(question(reasoning=reasoning), replace(TARGET, model="gpt-oss:20b"))
    assert "think" not in asked(question(reasoning=reasoning), replace(LENIENT, model="gpt-oss:20b"))


def test_the_shape_of_an_answer() -> None:
    """A schema, or the word `json`."""
    wanted = ResponseFormat("json_schema", SCHEMA, name="lamp")
    assert asked(question(response_format=wanted))["format"] == json.loads(bytes(SCHEMA))
    assert asked(question(response_format=ResponseFormat("json_object")))["format"] == "json"


def test_tools() -> None:
    """Tools are OpenAI's; none are shown where none may be called, and no call can be demanded."""
    look = {"name": "look", "description": "Look at a lamp", "parameters": json.loads(bytes(SCHEMA))}
    clock = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
    shown = [{"type": "function", "function": look}, {"type": "function", "function": clock}]
    tools = {"tools": (LOOK, CLOCK)}
    assert asked(question(**tools))["tools"] == shown
    assert asked(question(**tools, tool_choice=ToolChoice("auto")))["tools"] == shown
    assert "tools" not in asked(question(**tools, tool_choice=ToolChoice("none")))
    for choice in (ToolChoice("required"), ToolChoice("named", "look")):
        with pytest.raises(Unsupported) as caught:
            ollama.write_request(question(**tools, tool_choice=choice), TARGET)
        assert caught.value.param == "tool_choice"
        assert asked(question(**tools, tool_choice=choice), LENIENT)["tools"] == shown
    foreign = Opaque("anthropic", "web_search_20250305", Raw(b"{}"))
    with pytest.raises(Unsupported):
        ollama.write_request(question(tools=(foreign,)), TARGET)
    assert "tools" not in asked(question(tools=(foreign,)), LENIENT)


def test_a_conversation() -> None:
    """Arguments are objects, results name their tool, and pictures are beside the words."""
    messages = (
        Message("user", (Text("Is it lit?"), Image(media_type="image/png", data="eA=="), Text("Look!"))),
        Message(
            "assistant",
            (
                Thinking("I will look."),
                Thinking("Sealed.", "c2VhbA=="),
                RedactedThinking("eHg="),
                Text("A moment."),
                ToolCall("a", "look", '{"lamp":"north"}'),
                ToolCall("b", "clock", ""),
                ToolCall("c", "clock", "[broken"),
            ),
        ),
        Message(
            "user",
            (
                ToolResult("a", (Text("lit"), Image(data="eQ=="), Document(text="Log"))),
                ToolResult("stranger", ()),
                Text("Well?"),
            ),
        ),
        Message("assistant", (Thinking("Only thought."),)),
        Message("assistant", (Refusal("No."),)),
    )
    body = asked(question(system=(Text("Be brief."), Text("Be kind.")), messages=messages))
    assert body["messages"] == [
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        {"role": "user", "content": "Is it lit?\nLook!", "images": ["eA=="]},
        {
            "role": "assistant",
            "content": "A moment.",
            "thinking": "I will look.",
            "tool_calls": [
                {"id": "a", "function": {"name": "look", "arguments": {"lamp": "north"}}},
                {"id": "b", "function": {"name": "clock", "arguments": {}}},
                {"id": "c", "function": {"name": "clock", "arguments": {"INVALID_JSON": "[broken"}}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "tool_name": "look", "content": "lit\nLog"},
        {"role": "tool", "tool_call_id": "stranger", "content": ""},
        {"role": "user", "content": "Well?", "images": ["eQ=="]},
        {"role": "assistant", "content": "No."},
    ]


@pytest.mark.parametrize(
    "part",
    [
        Audio("eA==", "wav"),
        Image(url="https://pictures.test/1.png"),
        Document(data="eA==", media_type="application/pdf"),
        Opaque("anthropic", "server_tool_use", Raw(b"{}")),
    ],
)
def test_parts_that_cannot_be_said(part: Any) -> None:
    """They are refused, or dropped where the operator says so."""
    for role in ("user", "assistant"):
        request = question(messages=(Message(role, (Text("Here"), part)),))
        with pytest.raises(Unsupported):
            ollama.write_request(request, TARGET)
        assert asked(request, LENIENT)["messages"] == [{"role": role, "content": "Here"}]


def test_address() -> None:
    """Each operation has its path; others are refused, but under `/v1`, where Ollama speaks OpenAI's format."""
    chat = ollama.address(TARGET, "chat", {"x-trace": "1"}, stream=True)
    assert (chat.method, chat.url) == ("POST", "http://ollama.test:11434/api/chat")
    assert dict(chat.headers)["accept"] == "application/x-ndjson"
    assert dict(chat.headers)["x-trace"] == "1"
    embeddings = ollama.address(TARGET, "embeddings", {}, stream=False)
    assert embeddings.url == "http://ollama.test:11434/api/embed"
    assert dict(embeddings.headers)["accept"] == "application/json"
    with pytest.raises(Unsupported):
        ollama.address(TARGET, "completions", {}, stream=False)
    row, base = located(PROVIDERS["ollama"], "http://ollama.test:11434/v1")
    target = replace(TARGET, provider=row, base_url=base)
    completions = FORMATS[row.format].address(target, "completions", {}, stream=False)
    assert completions.url == "http://ollama.test:11434/v1/completions"
    assert row.format not in EMBEDDINGS
    assert row.name not in EMBEDDINGS


# -- answers ---------------------------------------------------------------------------------------------------------


def without_ids(answer: ChatResponse) -> ChatResponse:
    """Ids that were made here come from the bytes, which a stream and a whole answer do not share."""
    (choice,) = answer.choices
    parts = tuple(replace(part, id="") if isinstance(part, ToolCall) else part for part in choice.parts)
    return replace(answer, choices=(replace(choice, parts=parts),))


@pytest.mark.parametrize("name", ["answer.ndjson", "tool_calls.ndjson"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_stream_makes_the_whole_answer(name: str, size: int) -> None:
    """A stream, however it is cut and however its lines end, says what the whole answer says."""
    whole = ollama.read_response(transcript(name.replace(".ndjson", ".json")), QUESTION, TARGET)
    for body in (transcript(name), transcript(name).replace(b"\n", b"\r\n"), transcript(name).rstrip()):
        reader = ollama.read_stream(QUESTION, TARGET)
        answer = fold(read_in_pieces(LineCutter(), reader, body, size))
        assert without_ids(answer) == without_ids(whole)
        assert reader.done


def test_an_answer() -> None:
    """Thoughts, words and counts."""
    answer = ollama.read_response(transcript("answer.json"), QUESTION, TARGET)
    assert answer.choices[0].parts == (
        Thinking('When is it dark? At "six".'),
        Text("The light is lit\nat six – 🗼"),
    )
    assert (answer.model, answer.choices[0].finish) == ("keeper:8b", "stop")
    assert answer.usage == Usage(input=200, output=40)


def test_calls_of_tools() -> None:
    """Calls end an answer that is called `stop`; those without an id get one, each its own and always the same."""
    answer = ollama.read_response(transcript("tool_calls.json"), QUESTION, TARGET)
    thought, look, first, second = answer.choices[0].parts
    assert thought == Thinking("Both lamps.")
    assert look == ToolCall("call_1a", "look", '{"lamp":"north"}')
    assert isinstance(first, ToolCall)
    assert isinstance(second, ToolCall)
    assert (first.name, first.arguments, second.arguments) == ("clock", "{}", "{}")
    assert first.id.startswith("call_")
    assert first.id != second.id
    assert answer.choices[0].finish == "tool_calls"
    assert ollama.read_response(transcript("tool_calls.json"), QUESTION, TARGET) == answer


@pytest.mark.parametrize(
    ("fields", "finish", "usage"),
    [
        ('"done_reason":"length","eval_count":5', "length", Usage(output=5)),
        ('"done_reason":"load","prompt_eval_count":5', "stop", Usage(input=5)),
        ('"done":true', "stop", None),
    ],
)
def test_ends(fields: str, finish: str, usage: Usage | None) -> None:
    """Reasons that we do not know are ordinary, and a count that is missing is zero."""
    body = b'{"message":{"content":"x","tool_calls":null},"new":[],%b}' % fields.encode()
    answer = ollama.read_response(body, QUESTION, TARGET)
    assert (answer.choices[0].finish, answer.usage) == (finish, usage)


def test_arguments_in_other_shapes() -> None:
    """Some servers write arguments as text."""
    body = b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":"{\\"a\\":1}"}},{"function":{"arguments":""}}]}}'
    answer = ollama.read_response(body, QUESTION, TARGET)
    assert [part.arguments for part in answer.choices[0].parts if isinstance(part, ToolCall)] == [
        '{"a":1}',
        "{}",
    ]


def test_probabilities() -> None:
    """They are OpenAI's, but for the name around them."""
    probabilities = b'[{"token":"x","logprob":-0.1,"top_logprobs":[]}]'
    body = b'{"message":{"content":"x"},"done":true,"logprobs":%b}\n' % probabilities
    expected = Raw(b'{"content":%b}' % probabilities)
    assert ollama.read_response(body, QUESTION, TARGET).choices[0].logprobs == expected
    deltas = ollama.read_stream(QUESTION, TARGET).feed(body)
    assert TextDelta(Raw(b'"x"'), logprobs=expected) in deltas
    none = ollama.read_response(body.replace(probabilities, b"[]"), QUESTION, TARGET)
    assert none.choices[0].logprobs is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"message":7}', b'{"message":{"content":7}}'])
def test_answers_that_are_none(body: bytes) -> None:
    """What cannot be understood is malformed."""
    with pytest.raises(UpstreamMalformed):
        ollama.read_response(body, QUESTION, TARGET)


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("error.json", 503, UpstreamOverloaded),
        ("error_not_found.json", 404, UpstreamNotFound),
        ("error_context.json", 400, ContextWindowExceeded),
        ("error_tools.json", 400, UpstreamRefused),
    ],
)
def test_errors(name: str, status: int, kind: type[UpstreamError]) -> None:
    """A refusal is the error that it means, in Ollama's words."""
    error = ollama.read_error(status, {}, transcript(name))
    assert type(error) is kind
    assert error.message == json.loads(transcript(name))["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"too bad","type":"api_error"}}', "too bad"),
        (b"too bad", "too bad"),
        (b'{"error":null}', "The provider answered with status 500"),
        (b'{"error":{"message":5}}', '{"error":{"message":5}}'),
        (b"[]", "[]"),
    ],
)
def test_errors_in_other_shapes(body: bytes, message: str) -> None:
    """An object as under `/v1`, plain text, and nonsense."""
    assert ollama.read_error(500, {}, body).message == message


def test_an_error_that_hides_in_a_200() -> None:
    """An answer with an error in it is one."""
    with pytest.raises(UpstreamError, match="too bad"):
        ollama.read_response(b'{"error":"too bad"}', QUESTION, TARGET)
    assert isinstance(ollama.read_error(401, {}, b'{"error":"unauthorized"}'), UpstreamAuth)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (transcript("error_in_stream.ndjson"), "unexpected EOF"),
        (transcript("without_terminator.ndjson"), "before the answer was done"),
        (b'{"error":"too bad"}\n', "too bad"),
        (b"nonsense\n", "cannot be read"),
        (b'{"message":{"content":5}}\n', "no text"),
        (b"", "before the answer was done"),
        (b'{"new":1}\n\n', "before the answer was done"),
    ],
)
def test_streams_that_break(body: bytes, words: str) -> None:
    """The last delta is the failure, once, and nothing follows."""
    for deltas in (
        read_at_once(LineCutter(), ollama.read_stream(QUESTION, TARGET), body),
        read_in_pieces(LineCutter(), ollama.read_stream(QUESTION, TARGET), body),
    ):
        assert [isinstance(delta, Failure) for delta in deltas].count(True) == 1
        assert isinstance(deltas[-1], Failure)
        assert words in deltas[-1].error.message


def test_the_short_way_is_the_long_way() -> None:
    """`words` knows nothing before the stream has begun or after it has ended, and says what `feed` says in between."""
    line = (
        b'{"model":"m:cloud","remote_model":"m","remote_host":"https://ollama.com:443","created_at":"2026-11-20T18:00:00Z",'
        b'"message":{"role":"assistant","content":"a \\"b\\""},"done":false}\n'
    )
    reader = ollama.read_stream(QUESTION, TARGET)
    assert reader.words(line) == b""
    assert reader.feed(line) == [Start("", "m:cloud"), TextDelta(Raw(b'"a \\"b\\""'))]
    assert reader.words(line) == b'"a \\"b\\""'
    assert reader.feed(line) == [TextDelta(Raw(reader.words(line)))]
    assert reader.words(line + line) == b""
    assert reader.words(line.replace(b"false", b"true")) == b""
    assert reader.words(line.replace(b'"b\\""', b'"\\u003c"')) == b""
    reader.feed(line.replace(b"false", b"true"))
    assert reader.words(line) == b""
    assert reader.feed(line) == []


# -- embeddings ------------------------------------------------------------------------------------------------------


def test_embeddings() -> None:
    """Texts go out in one call, and vectors come back as they were written."""
    task = EMBEDDINGS["ollama_native"]
    extra = {"truncate": Raw(b"false"), "num_ctx": Raw(b"512")}
    request = EmbeddingsRequest(model="ours", input=("a", "b"), dimensions=2, extra=extra)
    (call,) = task.write(request, TARGET)
    assert json.loads(call.body) == {
        "model": "keeper:8b",
        "input": ["a", "b"],
        "dimensions": 2,
        "truncate": False,
        "options": {"num_ctx": 512},
    }
    reply = Reply({}, b'{"model":"keeper:8b","embeddings":[[0.5,-1],[2e-3]],"prompt_eval_count":8}')
    answer = task.read([reply], request, TARGET)
    assert answer.vectors == (Raw(b"[0.5,-1]"), Raw(b"[2e-3]"))
    assert answer.usage == Usage(input=8)
    assert task.read([Reply({}, b'{"embeddings":[[1],[2]]}')], request, TARGET).usage is None
    for body in (b"{}", b'{"embeddings":[[1]]}', b'{"embeddings":[[1],null]}'):
        with pytest.raises(UpstreamMalformed):
            task.read([Reply({}, body)], request, TARGET)
    purposeful = replace(request, input_type="search_query")
    with pytest.raises(Unsupported):
        task.write(purposeful, TARGET)
    (call,) = task.write(purposeful, replace(TARGET, allowed=frozenset({"input_type"})))
    assert json.loads(call.body)["input_type"] == "search_query"
    with pytest.raises(Unsupported):
        task.write(EmbeddingsRequest(model="ours", input=((1, 2),)), TARGET)


def test_it_is_registered() -> None:
    """Ollama's row speaks this format."""
    assert FORMATS[PROVIDERS["ollama"].format] is ollama


@pytest.mark.parametrize("signature", [None, ""])
def test_thoughts_that_nobody_signed_go_back(signature: str | None) -> None:
    """Clients of Anthropic's format say so by an empty signature."""
    turn = Message("assistant", (Thinking("I ask.", signature), ToolCall("c1", "f", "{}")))
    (_, written) = asked(question(messages=(Message("user", (Text("Hi"),)), turn)))["messages"]
    assert written["thinking"] == "I ask."
