"""Real answers of every provider that speaks OpenAI's format, read by us and by a plain reader that knows no trick."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from adapters import openai
from adapters.errors import (
    ContentPolicyViolation,
    ContextWindowExceeded,
    UpstreamAuth,
    UpstreamError,
    UpstreamNotFound,
    UpstreamRateLimited,
    UpstreamRefused,
)
from adapters.framing import SseCutter
from adapters.openai_editor import ChatEditor
from adapters.types import (
    ChatRequest,
    Delta,
    Failure,
    Finish,
    Message,
    Operation,
    Provider,
    Refusal,
    RefusalDelta,
    Start,
    Target,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    Usage,
    UsageDelta,
)
from tests.recorded import Recording, recordings

PROVIDERS = (
    *("alibaba", "azure", "bedrock-mantle", "cerebras", "crusoe", "deepseek", "gpustack", "groq", "heroku"),
    *("huggingface", "litellmproxy", "lmstudio", "mistral", "ollama", "openai", "openrouter", "perplexity"),
    *("snowflake", "together", "vllm", "writer", "xai", "zai", "anthropic"),
)
KINDS = ("chat", "completions", "embeddings")
FOREIGN = {"anthropic/completions-2010f", "ollama/completions-1e3f6", "ollama/completions-346eb"}
"""Recorded under the same kinds, but in the vendor's own format."""

QUIRKS = {"xai": frozenset({"reasoning_outside_completion"})}
REQUEST = ChatRequest(model="asked", messages=(Message("user", (Text("?"),)),))


def in_openai_format(recording: Recording) -> bool:
    is_native = "/api/" in str(recording.meta.get("url")) and recording.provider == "ollama"
    return not is_native and str(recording) not in FOREIGN and recording.response_kind in {"json", "sse"}


ALL = [recording for recording in recordings(*PROVIDERS, kinds=KINDS) if in_openai_format(recording)]
ERRORS = [recording for recording in ALL if recording.status >= 400]
GOOD = [recording for recording in ALL if recording.status < 400]
WHOLE = [recording for recording in GOOD if recording.response_kind == "json"]
STREAMS = [recording for recording in GOOD if recording.response_kind == "sse"]
BROKEN = [recording for recording in STREAMS if "err-midstream" in recording.path.name]
SOUND = [recording for recording in STREAMS if recording not in BROKEN]


def target(recording: Recording) -> Target:
    provider = Provider(name=recording.provider, quirks=QUIRKS.get(recording.provider, frozenset()))
    return Target(provider=provider, model="m", base_url="https://provider.test/v1")


# -- the plain reader ------------------------------------------------------------------------------------------------


@dataclass
class Plain:
    """What an answer says, per choice."""

    text: dict[int, str] = field(default_factory=dict)
    thinking: dict[int, str] = field(default_factory=dict)
    refusal: dict[int, str] = field(default_factory=dict)
    calls: dict[int, list[tuple[str, Any]]] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    usage: dict[str, Any] | None = None


def chunks(body: bytes) -> list[dict[str, Any]]:
    lines = body.decode().replace("\r\n", "\n").split("\n")
    datas = [line[5:].strip() for line in lines if line.startswith("data:")]
    return [json.loads(data) for data in datas if data and data != "[DONE]"]


def add(plain: Plain, index: int, piece: dict[str, Any]) -> None:
    content = piece.get("content")
    reasoning = piece.get("reasoning_content") or piece.get("reasoning") or ""
    if isinstance(content, list):
        for chunk in content:
            if chunk["type"] == "text":
                plain.text[index] = plain.text.get(index, "") + chunk["text"]
            elif chunk["type"] == "thinking":
                reasoning += "".join(thought["text"] for thought in chunk["thinking"])
    elif content:
        plain.text[index] = plain.text.get(index, "") + content
    if reasoning:
        plain.thinking[index] = plain.thinking.get(index, "") + reasoning
    if piece.get("refusal"):
        plain.refusal[index] = plain.refusal.get(index, "") + piece["refusal"]


def read_plainly(recording: Recording) -> Plain:
    plain = Plain()
    raw_calls: dict[int, dict[int, list[str]]] = {}
    docs = (
        [json.loads(recording.response)] if recording.response_kind == "json" else chunks(recording.response)
    )
    for doc in docs:
        plain.usage = doc.get("usage") or (doc.get("x_groq") or {}).get("usage") or plain.usage
        for choice in doc.get("choices") or []:
            index = choice.get("index", 0)
            piece = (
                (choice.get("delta") or choice.get("message") or {})
                if len(docs) > 1
                else choice.get("message") or {}
            )
            add(plain, index, piece)
            for at, call in enumerate(piece.get("tool_calls") or []):
                key = call.get("index") if len(docs) > 1 and call.get("index") is not None else at
                name_and_arguments = raw_calls.setdefault(index, {}).setdefault(key, ["", ""])
                name_and_arguments[0] = name_and_arguments[0] or call["function"].get("name") or ""
                name_and_arguments[1] += call["function"].get("arguments") or ""
            if choice.get("finish_reason"):
                plain.finish[index] = choice["finish_reason"]
    for index, calls in raw_calls.items():
        plain.calls[index] = [(name, json.loads(text or "{}")) for _, (name, text) in sorted(calls.items())]
    return plain


def gather(deltas: list[Delta]) -> Plain:
    """The same from our deltas."""
    plain = Plain()
    arguments: dict[tuple[int, int], tuple[str, str]] = {}
    for delta in deltas:
        match delta:
            case TextDelta():
                plain.text[delta.choice] = plain.text.get(delta.choice, "") + json.loads(bytes(delta.text))
            case ThinkingDelta():
                plain.thinking[delta.choice] = plain.thinking.get(delta.choice, "") + json.loads(
                    bytes(delta.text)
                )
            case RefusalDelta():
                plain.refusal[delta.choice] = plain.refusal.get(delta.choice, "") + json.loads(
                    bytes(delta.text)
                )
            case ToolStart():
                assert delta.id
                arguments[delta.choice, delta.index] = (delta.name, "")
            case ToolDelta():
                name, before = arguments[delta.choice, delta.index]
                arguments[delta.choice, delta.index] = (name, before + json.loads(bytes(delta.arguments)))
            case Finish():
                plain.finish[delta.choice] = delta.reason
            case _:
                pass
    for (choice, _), (name, text) in sorted(arguments.items()):
        plain.calls.setdefault(choice, []).append((name, json.loads(text)))
    return plain


def finish_of(word: str, *, calls: bool) -> str:
    known = {"length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter"}
    return known.get(word, "tool_calls" if calls else "stop")


def check_same(ours: Plain, plain: Plain) -> None:
    assert ours.text == plain.text
    assert ours.thinking == plain.thinking
    assert ours.refusal == plain.refusal
    assert ours.calls == plain.calls
    for index, word in plain.finish.items():
        assert ours.finish[index] == finish_of(word, calls=bool(plain.calls.get(index)))


def check_usage(usage: Usage | None, reported: dict[str, Any] | None) -> None:
    if reported is None:
        assert usage is None
        return
    assert usage is not None
    prompt, completion = reported.get("prompt_tokens", 0), reported.get("completion_tokens", 0)
    total = reported.get("total_tokens", prompt + completion)
    details = reported.get("completion_tokens_details") or {}
    reasoning = details.get("reasoning_tokens") or reported.get("reasoning_tokens") or 0
    audio = (reported.get("prompt_tokens_details") or {}).get("audio_tokens") or 0
    assert usage.total == total
    assert usage.prompt in {prompt, prompt + audio}
    assert usage.completion in {completion, completion + reasoning}
    assert usage.reasoning == min(reasoning, usage.completion)
    assert min(usage.input, usage.cache_read, usage.cache_write, usage.output, usage.audio_output) >= 0


# -- whole answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", [one for one in WHOLE if one.kind == "chat"], ids=str)
def test_a_whole_answer_says_what_a_plain_reader_finds(recording: Recording) -> None:
    """Text, reasoning, refusals, tool calls, finish and usage of a recorded answer are all read."""
    plain = read_plainly(recording)
    answer = openai.read_response(recording.response, REQUEST, target(recording))
    ours = Plain()
    for index, choice in enumerate(answer.choices):
        for part in choice.parts:
            if isinstance(part, Text):
                ours.text[index] = ours.text.get(index, "") + part.text
            elif isinstance(part, Thinking):
                ours.thinking[index] = ours.thinking.get(index, "") + part.text
            elif isinstance(part, Refusal):
                ours.refusal[index] = part.text
            elif isinstance(part, ToolCall):
                assert part.id
                ours.calls.setdefault(index, []).append((part.name, json.loads(part.arguments)))
        ours.finish[index] = choice.finish
    check_same(ours, plain)
    check_usage(answer.usage, plain.usage)
    assert answer.model == json.loads(recording.response)["model"]


@pytest.mark.parametrize("recording", WHOLE, ids=str)
def test_a_whole_answer_passes_with_another_model(recording: Recording) -> None:
    """Passing an answer on changes its top-level model and not one other byte."""
    body = recording.response
    operation: Operation = "embeddings" if recording.kind == "embeddings" else "chat"
    passed, usage, _, answer_id = openai.pass_response(body, target(recording), operation, model='m"é')
    before = json.loads(body)
    if "model" in before:
        assert json.loads(passed) == before | {"model": 'm"é'}
        old, new = json.dumps(before["model"], ensure_ascii=False).encode(), '"m\\"é"'.encode()
        assert len(passed) - len(body) == len(new) - len(old)
        at = passed.index(new)
        assert passed[:at] + old + passed[at + len(new) :] == body
    else:
        assert passed == body
    assert answer_id == before.get("id", "")
    check_usage(usage, before.get("usage"))


# -- streams ---------------------------------------------------------------------------------------------------------


def read_pieces(recording: Recording, pieces: list[bytes]) -> list[Delta]:
    cutter, reader = SseCutter(), openai.read_stream(REQUEST, target(recording))
    deltas: list[Delta] = []
    for piece in pieces:
        deltas += reader.feed(cutter.feed(piece))
    deltas += reader.feed(cutter.flush())
    return deltas + reader.close()


def plainly(deltas: list[Delta]) -> list[str]:
    """Deltas that can be compared: raw JSON by its bytes, errors by their words."""
    said = []
    for delta in deltas:
        fields = {name: getattr(delta, name) for name in delta.__struct_fields__}
        said.append(
            f"{type(delta).__name__} {[bytes(v) if isinstance(v, Raw) else str(v) for v in fields.values()]}"
        )
    return said


@pytest.mark.parametrize("recording", [one for one in SOUND if one.kind == "chat"], ids=str)
def test_a_stream_says_what_a_plain_reader_finds(recording: Recording) -> None:
    """The deltas of a recorded stream add up to the text, calls, finish and usage that stand in it."""
    plain = read_plainly(recording)
    deltas = read_pieces(recording, [recording.response])
    assert isinstance(deltas[0], Start)
    assert [type(delta) for delta in deltas].count(Start) == 1
    assert not any(isinstance(delta, Failure) for delta in deltas)
    ours = gather(deltas)
    check_same(ours, plain)
    assert ours.finish
    usages = [delta.usage for delta in deltas if isinstance(delta, UsageDelta)]
    check_usage(usages[-1] if usages else None, plain.usage)


@pytest.mark.parametrize("recording", [one for one in STREAMS if one.kind == "chat"], ids=str)
def test_reading_byte_by_byte_is_the_same(recording: Recording) -> None:
    """A stream that arrives one byte at a time gives the same deltas as one that arrives at once."""
    body = recording.response[:30_000]
    whole = read_pieces(recording, [body])
    single = read_pieces(recording, [body[at : at + 1] for at in range(len(body))])
    assert plainly(single) == plainly(whole)


@pytest.mark.parametrize("recording", [one for one in SOUND if one.kind == "chat"], ids=str)
def test_what_is_read_and_written_anew_reads_the_same(recording: Recording) -> None:
    """A recorded stream that goes through our deltas and back into chunks says the same."""
    deltas = read_pieces(recording, [recording.response])
    writer = openai.write_stream(answer_id="a", model="m", now=0, wants_usage=True)
    written = writer.feed(deltas) + writer.close()
    again = openai.read_stream(REQUEST, target(recording))
    deltas_again = again.feed(written) + again.close()
    assert again.done
    before, after = gather(deltas), gather(deltas_again)
    before.usage = after.usage = None
    assert after == before
    usages = [
        [delta.usage for delta in some if isinstance(delta, UsageDelta)][-1:]
        for some in (deltas, deltas_again)
    ]
    assert usages[0] == usages[1]


def edit_pieces(
    recording: Recording, pieces: list[bytes], *, wants_usage: bool = True
) -> tuple[bytes, ChatEditor]:
    cutter = SseCutter()
    editor = openai.pass_stream(target(recording), "chat", model="our-model", wants_usage=wants_usage)
    out = [editor.feed(cutter.feed(piece)) for piece in pieces]
    out += [editor.feed(cutter.flush()), editor.close()]
    return b"".join(out), editor


def expected(body: bytes) -> bytes:
    """The stream with each top-level model replaced, by way of its own spelling."""
    lines = []
    for line in body.split(b"\n"):
        found = line
        if line.startswith(b"data:") and b"[DONE]" not in line:
            model = json.loads(line[5:]).get("model")
            if model is not None:
                old = b'"model":' + json.dumps(model).encode()
                spaced = b'"model": ' + json.dumps(model).encode()
                assert line.count(old) + line.count(spaced) == 1
                found = line.replace(old, b'"model":"our-model"').replace(spaced, b'"model": "our-model"')
        lines.append(found)
    return b"\n".join(lines)


@pytest.mark.parametrize("recording", SOUND, ids=str)
def test_a_stream_passes_with_another_model(recording: Recording) -> None:
    """Passing a stream on changes its top-level models and not one other byte."""
    passed, editor = edit_pieces(recording, [recording.response])
    ended_so = b"data: [DONE]\n\n" if b"[DONE]" not in recording.response else b""
    assert passed.rstrip() == (expected(recording.response) + ended_so).rstrip()
    assert editor.done
    assert editor.failure is None
    docs = chunks(recording.response)
    plain = read_plainly(recording)
    assert editor.events == len(docs) + (b"[DONE]" in recording.response)
    assert editor.answer_id == next((doc["id"] for doc in docs if doc.get("id")), "")
    check_usage(editor.usage, plain.usage)
    if plain.finish:
        assert editor.finish is not None


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_passing_byte_by_byte_is_the_same(recording: Recording) -> None:
    """A stream that arrives one byte at a time passes as the same bytes."""
    body = recording.response[:30_000]
    whole, one = edit_pieces(recording, [body])
    single, other = edit_pieces(recording, [body[at : at + 1] for at in range(len(body))])
    assert single == whole
    assert (one.events, one.deltas, one.chars, one.usage) == (
        other.events,
        other.deltas,
        other.chars,
        other.usage,
    )
    assert (one.finish, str(one.failure), one.done) == (other.finish, str(other.failure), other.done)


@pytest.mark.parametrize("recording", [one for one in SOUND if len(one.response) < 60_000][::4], ids=str)
@settings(max_examples=10)
@given(data=st.data())
def test_any_split_is_the_same(recording: Recording, data: st.DataObject) -> None:
    """Wherever the wire cuts, what is read and what passes is the same."""
    body = recording.response
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=30).map(sorted))
    edges = [0, *cuts, len(body)]
    pieces = [body[a:b] for a, b in pairwise(edges)]
    assert edit_pieces(recording, pieces)[0] == edit_pieces(recording, [body])[0]
    if recording.kind == "chat":
        assert plainly(read_pieces(recording, pieces)) == plainly(read_pieces(recording, [body]))


@pytest.mark.parametrize("recording", SOUND, ids=str)
def test_usage_that_was_not_asked_for_is_withheld(recording: Recording) -> None:
    """A usage-only chunk stays here if the client did not ask for it, and is counted all the same."""
    passed, editor = edit_pieces(recording, [recording.response], wants_usage=False)
    kept = [doc for doc in chunks(recording.response) if doc.get("choices") or not doc.get("usage")]
    assert [doc["choices"] for doc in chunks(passed)] == [doc["choices"] for doc in kept]
    check_usage(editor.usage, read_plainly(recording).usage)


# -- errors ----------------------------------------------------------------------------------------------------------

EXPECTED: dict[str, type[UpstreamError]] = {
    "openai/chat-err400-0f92e": UpstreamRefused,
    "openai/chat-err400-cf69d": UpstreamRefused,
    "openai/chat-err400-image-305cd": UpstreamRefused,
    "openai/chat-err401-b727a": UpstreamAuth,
    "openai/chat-err401-dca96": UpstreamAuth,
    "openai/chat-err404-4dc60": UpstreamNotFound,
    "openai/chat-err429-quoted-06ed0": UpstreamRateLimited,
    "openai/embeddings-err404-fa3db": UpstreamNotFound,
    "azure/chat-err400-contentfilter-innerror2-quoted-64b9f": ContentPolicyViolation,
    "azure/chat-err404-27275": UpstreamNotFound,
    "azure/chat-err429-retryafter-ca2a9": UpstreamRateLimited,
    "azure/embeddings-err401-21467": UpstreamAuth,
    "groq/chat-err400-9590d": UpstreamRefused,
    "groq/chat-err404-c3301": UpstreamNotFound,
    "groq/chat-err413-quoted-9da1e": ContextWindowExceeded,
    "groq/chat-err429-quoted-b4f40": UpstreamRateLimited,
    "mistral/chat-err429-quoted-1ba42": UpstreamRateLimited,
    "deepseek/chat-err400-29436": ContextWindowExceeded,
    "deepseek/chat-err401-eba57": UpstreamAuth,
    "openrouter/chat-err400-dfc65": ContextWindowExceeded,
    "openrouter/chat-err429-66f89": UpstreamRateLimited,
    "perplexity/chat-err400-515be": ContextWindowExceeded,
    "ollama/chat-err400-ae1bf": ContextWindowExceeded,
}


@pytest.mark.parametrize("recording", ERRORS, ids=str)
def test_an_error_is_of_the_expected_class(recording: Recording) -> None:
    """A recorded refusal becomes the error that says whether another deployment may help."""
    headers = {name.lower(): value for name, value in (recording.meta.get("response_headers") or {}).items()}
    error = openai.read_error(recording.status, headers, recording.response)
    assert type(error) is EXPECTED[str(recording)]
    assert error.provider_status == recording.status
    assert error.message
    assert "sk-" not in error.message
    if "retry-after" in headers:
        assert error.retry_after == float(headers["retry-after"])


@pytest.mark.parametrize("recording", BROKEN, ids=str)
def test_a_stream_that_breaks_is_a_failure(recording: Recording) -> None:
    """An error inside of a stream ends it as a failure, and neither it nor anything after it passes."""
    deltas = read_pieces(recording, [recording.response])
    assert isinstance(deltas[-1], Failure)
    assert isinstance(deltas[-1].error, UpstreamError)
    assert [type(delta) for delta in deltas].count(Failure) == 1
    assert not any(isinstance(delta, Finish) for delta in deltas)
    passed, editor = edit_pieces(recording, [recording.response])
    assert type(editor.failure) is type(deltas[-1].error)
    assert str(editor.failure) == str(deltas[-1].error)
    assert not editor.done
    assert b'"error"' not in passed
    assert b"[DONE]" not in passed


@pytest.mark.parametrize("recording", SOUND, ids=str)
def test_a_stream_that_is_cut_off_is_a_failure(recording: Recording) -> None:
    """A stream that ends in the middle of the words is no success, whoever reads it."""
    events = recording.response.replace(b"\r\n", b"\n").split(b"\n\n")
    half = b"\n\n".join(events[: max(1, len(events) // 3)]) + b"\n\n"
    if b'"finish_reason":"' in half.replace(b" ", b""):
        pytest.fail("the cut is too late for this test")
    _, editor = edit_pieces(recording, [half])
    assert editor.failure is not None
    if recording.kind == "chat":
        assert isinstance(read_pieces(recording, [half])[-1], Failure)
