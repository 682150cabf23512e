"""Hugging Face: the router's names, servers of one's own, and what the router's companies really said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters import EMBEDDINGS, FORMATS, RERANK, SAME, huggingface
from adapters.base import ProviderSide, SameFormat
from adapters.envelope import open_envelope
from adapters.errors import Unsupported, UpstreamMalformed
from adapters.providers import PROVIDERS, located
from adapters.types import (
    ChatRequest,
    EmbeddingsRequest,
    Message,
    Ranked,
    Reply,
    RerankRequest,
    Target,
    Text,
    ToolCall,
    Usage,
)
from tests.adapters.reading import at_once, byte_by_byte, said
from tests.recorded import Recording, recordings

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "huggingface"
ROW = PROVIDERS["huggingface"]
ROUTER = Target(provider=ROW, model="together/deepseek-ai/DeepSeek-R1", base_url=ROW.base_url)
OWN = replace(ROUTER, model="tgi", base_url="https://abc.endpoints.huggingface.cloud")
QUESTION = ChatRequest(model="any", messages=(Message("user", (Text("Name a color."),)),))
TEXTS = EmbeddingsRequest(model="any", input=("one", "two"))
ALL = list(recordings("huggingface", kinds=("chat",)))


def test_the_module_keeps_the_contract() -> None:
    """It is registered as a format, as one that passes OpenAI's chat, and with its vectors."""
    side: ProviderSide = huggingface
    same: SameFormat = huggingface
    assert FORMATS["huggingface"] is side
    assert SAME["openai", "huggingface"] is same
    assert EMBEDDINGS["huggingface"] is huggingface.EMBEDDINGS
    assert RERANK["huggingface"] is huggingface.RERANK


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (ROUTER, "deepseek-ai/DeepSeek-R1:together"),
        (replace(ROUTER, model="deepseek-ai/DeepSeek-R1"), "deepseek-ai/DeepSeek-R1"),
        (replace(ROUTER, model="deepseek-ai/DeepSeek-R1:fastest"), "deepseek-ai/DeepSeek-R1:fastest"),
        (OWN, "tgi"),
        (replace(OWN, model="a/b/c"), "a/b/c"),
    ],
)
def test_names(target: Target, name: str) -> None:
    """LiteLLM's spelling becomes the router's, whether the question passes or is written anew."""
    assert json.loads(huggingface.write_request(QUESTION, target))["model"] == name
    envelope = open_envelope(b'{"model":"mine","messages":[]}')
    passed = huggingface.pass_request(envelope, target, "chat", stream=True)
    assert json.loads(passed) == {
        "model": name,
        "messages": [],
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("target", "operation", "url"),
    [
        (ROUTER, "chat", "https://router.huggingface.co/v1/chat/completions"),
        (OWN, "chat", "https://abc.endpoints.huggingface.cloud/v1/chat/completions"),
        (OWN, "rerank", "https://abc.endpoints.huggingface.cloud/rerank"),
        (OWN, "embeddings", "https://abc.endpoints.huggingface.cloud/"),
        (
            replace(ROUTER, model="BAAI/bge-m3"),
            "embeddings",
            "https://router.huggingface.co/hf-inference/models/BAAI/bge-m3/pipeline/feature-extraction",
        ),
        (
            replace(ROUTER, model="hf-inference/BAAI/bge-m3"),
            "embeddings",
            "https://router.huggingface.co/hf-inference/models/BAAI/bge-m3/pipeline/feature-extraction",
        ),
    ],
)
def test_address(target: Target, operation: Any, url: str) -> None:
    """The router and one's own servers have the same paths for chats, and others for vectors."""
    assert huggingface.address(target, operation, {}, stream=False).url == url


@pytest.mark.parametrize("model", ["../../v1/x", "a/../../b", "bge?x=1", "a#b"])
def test_no_models_name(model: str) -> None:
    """What is no model's name is refused, so that no path is walked."""
    with pytest.raises(Unsupported):
        huggingface.address(replace(ROUTER, model=model), "embeddings", {}, stream=False)


def test_rerank_is_for_servers_of_ones_own() -> None:
    """The router does not put documents in order."""
    with pytest.raises(Unsupported, match="rerank"):
        huggingface.address(ROUTER, "rerank", {}, stream=False)


@pytest.mark.parametrize(
    "base",
    [
        "https://abc.endpoints.huggingface.cloud",
        "https://abc.endpoints.huggingface.cloud/",
        "https://abc.endpoints.huggingface.cloud/v1",
        "https://abc.endpoints.huggingface.cloud/v1/chat/completions",
        "https://abc.endpoints.huggingface.cloud/rerank",
    ],
)
def test_addresses_as_people_write_them(base: str) -> None:
    """All of them are the server's."""
    assert located(ROW, base)[1] == "https://abc.endpoints.huggingface.cloud"


# -- vectors ---------------------------------------------------------------------------------------------------------


def test_vectors() -> None:
    """Texts in, vectors out; the tokens are in a header, if anywhere."""
    (call,) = huggingface.EMBEDDINGS.write(replace(TEXTS, extra={"normalize": Raw(b"true")}), ROUTER)
    assert json.loads(call.body) == {"inputs": ["one", "two"], "normalize": True}
    body = (TRANSCRIPTS / "embeddings.json").read_bytes()
    answer = huggingface.EMBEDDINGS.read((Reply({"x-compute-tokens": "6"}, body),), TEXTS, ROUTER)
    assert answer.vectors == (Raw(b"[-0.0069,0.0053]"), Raw(b"[0.25,-0.5]"))
    assert answer.usage == Usage(input=6)
    assert huggingface.EMBEDDINGS.read((Reply({}, body),), TEXTS, ROUTER).usage is None


@pytest.mark.parametrize("body", [b"{}", b"[[1.5]]", b"[1.5,2.5]", b"[[[1.5]],[[2.5]]]", b"<html>"])
def test_no_vectors(body: bytes) -> None:
    """Anything but one vector for each text is malformed; vectors of tokens are not averaged."""
    with pytest.raises(UpstreamMalformed):
        huggingface.EMBEDDINGS.read((Reply({}, body),), TEXTS, ROUTER)


@pytest.mark.parametrize(
    "more", [{"dimensions": 3}, {"input_type": "search_query"}, {"input": ((1, 2),)}], ids=str
)
def test_what_cannot_be_said(more: dict[str, Any]) -> None:
    """Lengths and purposes are not known, and token numbers mean nothing."""
    with pytest.raises(Unsupported) as refused:
        huggingface.EMBEDDINGS.write(replace(TEXTS, **more), ROUTER)
    assert refused.value.param in more


def test_what_the_operator_allows() -> None:
    """It goes on as it came."""
    allowing = replace(ROUTER, allowed=frozenset({"dimensions"}))
    (call,) = huggingface.EMBEDDINGS.write(replace(TEXTS, dimensions=3), allowing)
    assert json.loads(call.body)["dimensions"] == 3


# -- documents in order ----------------------------------------------------------------------------------------------

ORDER = RerankRequest(
    model="any", query="?", documents=(Raw(b'"one"'), Raw(b'{"text":"two"}'), Raw(b'"three"'))
)


def test_rerank() -> None:
    """Texts in, the best of them first out."""
    (call,) = huggingface.RERANK.write(ORDER, OWN)
    assert json.loads(call.body) == {"query": "?", "texts": ["one", "two", "three"]}
    body = b'[{"index":2,"score":0.1},{"index":0,"score":0.9},{"index":1,"score":0.5}]'
    answer = huggingface.RERANK.read((Reply({"x-compute-tokens": "9"}, body),), replace(ORDER, top_n=2), OWN)
    assert answer.results == (Ranked(0, 0.9), Ranked(1, 0.5))
    assert answer.usage == Usage(input=9)


def test_no_rerank() -> None:
    """A limit for each document is not known, and an answer about other documents is malformed."""
    with pytest.raises(Unsupported, match="max_tokens_per_doc"):
        huggingface.RERANK.write(replace(ORDER, max_tokens_per_doc=3), OWN)
    allowing = replace(OWN, allowed=frozenset({"max_tokens_per_doc"}))
    (call,) = huggingface.RERANK.write(replace(ORDER, max_tokens_per_doc=3), allowing)
    assert b'"max_tokens_per_doc":3' in call.body
    with pytest.raises(UpstreamMalformed):
        huggingface.RERANK.read((Reply({}, b'[{"index":3,"score":1.0}]'),), ORDER, OWN)


# -- what was really said --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", [each for each in ALL if not each.is_stream], ids=str)
def test_recorded_answer(recording: Recording) -> None:
    """Text, tool calls, finish and usage are what the body says, whichever company it comes from."""
    body = json.loads(recording.response)
    message = body["choices"][0]["message"]
    answer = huggingface.read_response(recording.response, QUESTION, ROUTER)
    (choice,) = answer.choices
    text = "".join(part.text for part in choice.parts if isinstance(part, Text))
    assert text == (message.get("content") or "")
    calls = [part for part in choice.parts if isinstance(part, ToolCall)]
    assert [(call.name, call.arguments) for call in calls] == [
        (call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()
    ]
    assert choice.finish == ("tool_calls" if calls else body["choices"][0]["finish_reason"])
    assert answer.usage is not None
    assert (answer.usage.prompt, answer.usage.completion) == (
        body["usage"]["prompt_tokens"],
        body["usage"]["completion_tokens"],
    )


@pytest.mark.parametrize("recording", [each for each in ALL if each.is_stream], ids=str)
def test_recorded_stream(recording: Recording) -> None:
    """A stream says the same at once and byte by byte."""

    def reader() -> Any:
        return huggingface.read_stream(QUESTION, ROUTER)

    deltas = at_once(reader, recording.response)
    assert said(deltas) == {
        "text": "Paris",
        "tools": [],
        "finish": ["stop"],
        "usage": Usage(input=40, output=2),
    }
    assert byte_by_byte(reader, recording.response) == deltas
