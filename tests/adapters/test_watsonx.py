"""watsonx.ai's format: OpenAI's chat under other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters import EMBEDDINGS, FORMATS, RERANK, watsonx
from adapters.base import ProviderSide, StreamReader
from adapters.errors import (
    Unsupported,
    UpstreamAuth,
    UpstreamMalformed,
    UpstreamNotFound,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
)
from adapters.providers import PROVIDERS
from adapters.types import (
    ChatRequest,
    EmbeddingsRequest,
    Failure,
    Message,
    Opaque,
    Ranked,
    Reasoning,
    Reply,
    RerankRequest,
    Target,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
)
from tests.adapters.reading import at_once, byte_by_byte, said

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "watsonx"
TARGET = Target(
    provider=PROVIDERS["watsonx"],
    model="ibm/granite-4-h-small",
    base_url="https://eu-de.ml.cloud.ibm.com",
    options={"project_id": "p-1", "watsonx_region_name": "eu-de"},
)
DEPLOYED = replace(TARGET, model="deployment/my one", options={})
QUESTION = ChatRequest(model="any", messages=(Message("user", (Text("Name a color."),)),))
TOOL = Tool("get_weather", Raw(b'{"type":"object","properties":{"city":{"type":"string"}}}'), strict=True)


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / name).read_bytes()


def written(request: ChatRequest, target: Target = TARGET) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(watsonx.write_request(request, target))
    return body


def reader() -> StreamReader:
    return watsonx.read_stream(QUESTION, TARGET)


def test_the_module_keeps_the_contract() -> None:
    """It is registered as a format, with vectors and reranks of its own."""
    side: ProviderSide = watsonx
    assert FORMATS["watsonx"] is side
    assert EMBEDDINGS["watsonx"] is watsonx.EMBEDDINGS
    assert RERANK["watsonx"] is watsonx.RERANK


@pytest.mark.parametrize(
    ("target", "operation", "stream", "path"),
    [
        (TARGET, "chat", False, "/ml/v1/text/chat?version=2025-02-11"),
        (TARGET, "chat", True, "/ml/v1/text/chat_stream?version=2025-02-11"),
        (TARGET, "embeddings", False, "/ml/v1/text/embeddings?version=2025-02-11"),
        (TARGET, "rerank", False, "/ml/v1/text/rerank?version=2025-02-11"),
        (DEPLOYED, "chat", True, "/ml/v1/deployments/my%20one/text/chat_stream?version=2025-02-11"),
        (
            replace(TARGET, options={"watsonx_api_version": "2024-10-08"}),
            "chat",
            False,
            "/ml/v1/text/chat?version=2024-10-08",
        ),
    ],
)
def test_address(target: Target, operation: Any, stream: bool, path: str) -> None:
    """A stream has an address of its own, a deployed model too, and each names the API's version."""
    address = watsonx.address(target, operation, {"x-a": "1"}, stream=stream)
    assert address.url == "https://eu-de.ml.cloud.ibm.com" + path
    assert dict(address.headers)["accept"] == ("text/event-stream" if stream else "application/json")
    assert dict(address.headers)["x-a"] == "1"


def test_what_is_not_offered() -> None:
    """There are no pictures."""
    with pytest.raises(Unsupported, match="images"):
        watsonx.address(TARGET, "images", {}, stream=False)


def test_question() -> None:
    """OpenAI's fields, with the model, the project and the tool choice under IBM's names."""
    request = replace(
        QUESTION,
        system=(Text("Be brief."),),
        max_tokens=16,
        temperature=0.5,
        stop=("END",),
        seed=7,
        tools=(TOOL,),
        tool_choice=ToolChoice("required"),
        parallel_tool_calls=None,
        reasoning=Reasoning(effort="low"),
        stream=True,
        user="somebody",
        extra={"time_limit": Raw(b"1000")},
    )
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    assert written(request) == {
        "model_id": "ibm/granite-4-h-small",
        "project_id": "p-1",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Name a color."},
        ],
        "max_completion_tokens": 16,
        "temperature": 0.5,
        "stop": ["END"],
        "seed": 7,
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}],
        "tool_choice_option": "required",
        "time_limit": 1000,
    }


def test_a_named_tool_and_its_result() -> None:
    """A tool by name is said as OpenAI says it, and so is a tool loop."""
    turns = (
        Message("user", (Text("?"),)),
        Message("assistant", (ToolCall("c1", "get_weather", '{"city":"Oslo"}'),)),
        Message("user", (ToolResult("c1", (Text("rain"),)),)),
    )
    request = replace(QUESTION, messages=turns, tools=(TOOL,), tool_choice=ToolChoice("named", "get_weather"))
    body = written(request)
    assert body["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert "tool_choice_option" not in body
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool"]


def test_who_pays() -> None:
    """A project, else a space; a deployed model needs neither, any other needs one."""
    assert written(QUESTION, replace(TARGET, options={"space_id": "s-1"}))["space_id"] == "s-1"
    assert written(QUESTION, DEPLOYED) == {"messages": [{"role": "user", "content": "Name a color."}]}
    with pytest.raises(Unsupported, match="project_id"):
        written(QUESTION, replace(TARGET, options={}))


@pytest.mark.parametrize("more", [{"top_k": 4}, {"tools": (TOOL,), "parallel_tool_calls": False}])
def test_what_cannot_be_said(more: dict[str, Any]) -> None:
    """What it has no word for is refused, or dropped."""
    request = replace(QUESTION, **more)
    with pytest.raises(Unsupported) as refused:
        watsonx.write_request(request, TARGET)
    dropped: list[str] = []
    watsonx.write_request(request, replace(TARGET, drop_params=True, dropped=dropped))
    assert dropped == [refused.value.param]


def test_answer_and_stream_say_the_same() -> None:
    """Text, finish and usage of both."""
    answer = watsonx.read_response(transcript("answer.json"), QUESTION, TARGET)
    assert (answer.id, answer.model) == ("chatcmpl-0f3a", "ibm/granite-4-h-small")
    assert answer.choices[0].parts == (Text("Blue, mostly."),)
    assert answer.choices[0].finish == "stop"
    assert answer.usage == Usage(input=17, output=5)
    deltas = at_once(reader, transcript("stream.sse"))
    assert said(deltas) == {"text": "Blue, mostly.", "tools": [], "finish": ["stop"], "usage": answer.usage}
    assert byte_by_byte(reader, transcript("stream.sse")) == deltas


def test_tool_call_whole_and_streamed() -> None:
    """A call of a tool; where the answer does not name a model, it is the one that was asked."""
    answer = watsonx.read_response(transcript("tool_call.json"), QUESTION, TARGET)
    assert answer.model == "ibm/granite-4-h-small"
    assert answer.choices[0].parts == (ToolCall("chatcmpl-tool-1", "get_weather", '{"city": "Oslo"}'),)
    assert answer.choices[0].finish == "tool_calls"
    deltas = at_once(reader, transcript("tool_call.sse"))
    assert said(deltas) == {
        "text": "",
        "tools": [("chatcmpl-tool-1", "get_weather", {"city": "Oslo"})],
        "finish": ["tool_calls"],
        "usage": Usage(input=190, output=21),
    }
    assert byte_by_byte(reader, transcript("tool_call.sse")) == deltas


def test_the_end_of_a_stream() -> None:
    """There is no `[DONE]`: a stream that ends after its finish is whole, one that ends before is broken."""
    whole = reader()
    whole.feed(transcript("stream.sse"))
    assert whole.close() == []
    assert whole.done
    broken = reader()
    broken.feed(transcript("stream.sse").partition(b"id: 3")[0])
    (failure,) = broken.close()
    assert isinstance(failure, Failure)
    assert type(failure.error) is UpstreamMalformed
    assert not broken.done


def test_the_short_way() -> None:
    """Words pass as OpenAI's do, once the reader has learned what stands around them."""
    one = reader()
    template = b'data: {"id":"a","model_id":"m","choices":[{"index":0,"finish_reason":null,"delta":{"content":"%b"}}]}\n\n'
    for word in (b"a", b"b", b"c"):
        one.feed(template % word)
    assert one.words(template % b"d") == b'"d"'


def test_error_in_a_stream() -> None:
    """An error event is the failure that its list of errors names."""
    deltas = at_once(reader, transcript("error_in_stream.sse"))
    failure = deltas[-1]
    assert isinstance(failure, Failure)
    assert type(failure.error) is UpstreamOverloaded
    assert failure.error.message == "The model is overloaded, try again later"
    assert failure.error.provider_status == 503


def test_error_in_a_good_answer() -> None:
    """An error hides in a 200."""
    with pytest.raises(UpstreamNotFound):
        watsonx.read_response(transcript("error.json"), QUESTION, TARGET)


def test_refusals() -> None:
    """The first of the errors says what it is, all of them what happened."""
    refused = watsonx.read_error(404, {}, transcript("error.json"))
    assert type(refused) is UpstreamNotFound
    assert refused.code == "model_not_found"
    assert refused.message.startswith("Model 'ibm/nothing' was not found")
    assert type(watsonx.read_error(401, {}, transcript("error_auth.json"))) is UpstreamAuth
    two = b'{"errors":[{"code":"invalid_request_entity","message":"one"},{"code":"x","message":"two"}]}'
    assert watsonx.read_error(400, {}, two).message == "one; two"
    assert type(watsonx.read_error(400, {}, two)) is UpstreamRefused
    assert watsonx.read_error(500, {}, b'{"error":"plain"}').message == "plain"


@pytest.mark.parametrize("code", ["429", '"429"'])
def test_a_code_that_is_a_number(code: str) -> None:
    """The message is read all the same, and the number says what it means where no status does."""
    body = f'{{"errors":[{{"code":{code},"message":"slow down"}},{{"code":7,"message":null}}]}}'.encode()
    for status in (0, 429):
        refused = watsonx.read_error(status, {}, body)
        assert type(refused) is UpstreamRateLimited
        assert refused.message == "slow down"
    with pytest.raises(UpstreamRateLimited, match="slow down"):
        watsonx.read_response(body, QUESTION, TARGET)


# -- vectors ---------------------------------------------------------------------------------------------------------

TEXTS = EmbeddingsRequest(model="any", input=("one", "two"))


def test_vectors() -> None:
    """The texts in, their vectors in the same order out."""
    (call,) = watsonx.EMBEDDINGS.write(replace(TEXTS, extra={"truncate_input_tokens": Raw(b"3")}), TARGET)
    assert json.loads(call.body) == {
        "model_id": "ibm/granite-4-h-small",
        "project_id": "p-1",
        "inputs": ["one", "two"],
        "parameters": {"truncate_input_tokens": 3},
    }
    answer = watsonx.EMBEDDINGS.read((Reply({}, transcript("embeddings.json")),), TEXTS, TARGET)
    assert [json.loads(bytes(vector)) for vector in answer.vectors if isinstance(vector, Raw)] == [
        [-0.006929283, 0.005336422],
        [0.25, -0.5],
    ]
    assert answer.model == "ibm/slate-125m-english-rtrvr-v2"
    assert answer.usage == Usage(input=10)


def test_vectors_that_cannot_be_had() -> None:
    """Tokens mean nothing to it, lengths cannot be chosen, and each text must have its vector."""
    with pytest.raises(Unsupported, match="tokens"):
        watsonx.EMBEDDINGS.write(replace(TEXTS, input=((1, 2),)), TARGET)
    with pytest.raises(Unsupported, match="dimensions"):
        watsonx.EMBEDDINGS.write(replace(TEXTS, dimensions=3), TARGET)
    allowing = replace(TARGET, allowed=frozenset({"dimensions"}))
    (call,) = watsonx.EMBEDDINGS.write(replace(TEXTS, dimensions=3), allowing)
    assert json.loads(call.body)["parameters"] == {"dimensions": 3}
    one = replace(TEXTS, input=("one",))
    with pytest.raises(UpstreamMalformed):
        watsonx.EMBEDDINGS.read((Reply({}, transcript("embeddings.json")),), one, TARGET)
    with pytest.raises(UpstreamMalformed):
        watsonx.EMBEDDINGS.read((Reply({}, b"{}"),), one, TARGET)
    with pytest.raises(UpstreamMalformed):
        watsonx.EMBEDDINGS.read((Reply({}, b'{"results":[{"embedding":"x"}]}'),), one, TARGET)


# -- documents in order ----------------------------------------------------------------------------------------------


def test_rerank() -> None:
    """Documents in, the best first out."""
    request = RerankRequest(
        model="any",
        query="?",
        documents=(Raw(b'"one"'), Raw(b'{"text":"two"}')),
        top_n=2,
        max_tokens_per_doc=9,
    )
    (call,) = watsonx.RERANK.write(request, TARGET)
    assert json.loads(call.body) == {
        "model_id": "ibm/granite-4-h-small",
        "project_id": "p-1",
        "query": "?",
        "inputs": [{"text": "one"}, {"text": "two"}],
        "parameters": {"return_options": {"inputs": False, "top_n": 2}, "truncate_input_tokens": 9},
    }
    answer = watsonx.RERANK.read((Reply({}, transcript("rerank.json")),), request, TARGET)
    assert answer.results == (Ranked(1, 0.75), Ranked(0, -2.5))
    assert answer.usage == Usage(input=31)
    with pytest.raises(UpstreamMalformed):
        watsonx.RERANK.read((Reply({}, b'{"results":[{"index":2,"score":1.0}]}'),), request, TARGET)


def test_what_a_caller_adds_is_not_read() -> None:
    """Numbers that no decoder knows pass as they are, and so do tools of another shape."""
    tool = Tool("t", Raw(b'{"maximum":1e400}'), strict=True)
    odd = Opaque("openai", "custom", Raw(b'{"type":"custom","function":null}'))
    request = replace(QUESTION, tools=(tool, odd), extra={"factor": Raw(b"1e400")})
    body = watsonx.write_request(request, TARGET)
    assert b'"factor":1e400' in body
    assert b'{"maximum":1e400}' in body
    assert b'{"type":"custom","function":null}' in body
    assert b"strict" not in body


def test_what_texts_are_for_cannot_be_said() -> None:
    """It is refused, and not left out silently."""
    with pytest.raises(Unsupported):
        EMBEDDINGS["watsonx"].write(replace(TEXTS, input_type="search_query"), TARGET)
