"""Streams and answers that pass: the model is replaced at its place, all else is the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import openai
from adapters.errors import ContextWindowExceeded, UpstreamError, UpstreamMalformed, UpstreamRateLimited
from adapters.openai_editor import ChatEditor
from adapters.types import Operation, Provider, Target, Usage

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "openai"
TARGET = Target(provider=Provider(name="p"), model="m", base_url="https://provider.test")
DONE = b"data: [DONE]\n\n"


def editor(*, wants_usage: bool = False) -> ChatEditor:
    return openai.pass_stream(TARGET, "chat", model="ours", wants_usage=wants_usage)


def event(fields: dict[str, Any], *, spaced: bool = False) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    return b"data: " + json.dumps(fields, separators=separators, ensure_ascii=False).encode() + b"\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "gen-1", "created": 7, "model": "theirs", "choices": [choice]} | fields


def passed(*events: bytes, wants_usage: bool = False) -> tuple[bytes, ChatEditor]:
    one = editor(wants_usage=wants_usage)
    out = b"".join(one.feed(part) for part in events)
    return out + one.close(), one


# -- streams ---------------------------------------------------------------------------------------------------------


def test_transcript_of_a_stream() -> None:
    """Of a plain stream only the models change, and the usage that was not asked for stays here."""
    body = (TRANSCRIPTS / "stream.sse").read_bytes()
    asked, one = passed(body, wants_usage=True)
    assert asked == body.replace(b'"model":"gpt-provider-2026"', b'"model":"ours"')
    assert (one.usage, one.finish, one.done, one.failure) == (Usage(input=20, output=4), "stop", True, None)
    assert (one.answer_id, one.events, one.deltas) == ("chatcmpl-stream", 6, 2)
    assert one.chars == len(b"It") + len(b' \\"rains\\".')
    unasked, other = passed(body)
    assert other.usage == one.usage
    assert unasked == b"".join(
        part + b"\n\n" for part in asked.split(b"\n\n")[:-1] if b'"usage":{' not in part
    )


def test_transcript_of_tool_calls() -> None:
    """A model's name inside of a tool's arguments is not the answer's model."""
    body = (TRANSCRIPTS / "tool_call.sse").read_bytes()
    out, one = passed(body)
    assert out == body.replace(b'"model":"gpt-provider-2026","choices"', b'"model":"ours","choices"')
    assert out.count(b"gpt-provider-2026") == 1
    assert one.finish == "tool_calls"


def test_transcript_of_an_error() -> None:
    """An error and what follows it are kept back."""
    body = (TRANSCRIPTS / "error_in_stream.sse").read_bytes()
    out, one = passed(body)
    assert out == body.split(b"\n\n")[0].replace(b"gpt-provider-2026", b"ours") + b"\n\n"
    assert isinstance(one.failure, UpstreamError)
    assert one.failure.message == "The server had an error"
    assert not one.done


def test_nested_models_are_left_alone() -> None:
    """Only the top-level model is replaced, wherever in the object it stands."""
    inner = {"model": "theirs", "tool_calls": [{"index": 0, "function": {"arguments": '{"model":"theirs"}'}}]}
    for fields in (
        {"x": {"model": "theirs"}, "id": "g", "model": "theirs", "choices": [{"index": 0, "delta": inner}]},
        {"choices": [{"index": 0, "delta": inner}], "usage": None, "model": "theirs"},
        {"model": "theirs", "choices": [{"index": 0, "delta": inner}], "z": [{"model": "theirs"}]},
    ):
        for spaced in (False, True):
            out = editor().feed(event(fields, spaced=spaced))
            assert out == event(fields | {"model": "ours"}, spaced=spaced)


WORDS = st.one_of(
    st.text(),
    st.sampled_from(
        [
            '"',
            "\\",
            '"}',
            '\\"',
            '"finish_reason":"stop"',
            '"usage":{"prompt_tokens":1}',
            '"error":{}',
            "\u2028",
        ]
    ),
)
ORDINARY = st.builds(
    lambda key, words, padding: (chunk({key: words}), padding),
    st.sampled_from(["content", "reasoning_content"]),
    WORDS,
    st.none() | st.text(max_size=5),
)
SPECIAL = st.sampled_from(
    [
        (chunk({"content": "b"}, index=1), None),
        (chunk({"role": "assistant", "content": ""}), None),
        (chunk({"content": "c"}, "length"), None),
        (chunk({"content": "d"}, usage={"prompt_tokens": 1, "completion_tokens": 2}), None),
        (chunk({"content": "e"}, model="another"), None),
        (chunk({"content": "f"}, created=8), None),
        (
            {"choices": [{"index": 0, "delta": {"content": "g"}, "finish_reason": None}], "model": "theirs"},
            None,
        ),
        ({"choices": [{"index": 0, "delta": {"content": "h"}, "finish_reason": None}]}, None),
    ]
)


@given(chunks=st.lists(st.one_of(ORDINARY, ORDINARY, SPECIAL), min_size=1, max_size=12), spaced=st.booleans())
def test_the_short_way_is_the_long_way(chunks: list[tuple[dict[str, Any], str | None]], spaced: bool) -> None:
    """Whatever chunks follow one another, each passes as it would alone, and the last usage and finish are known."""
    one = editor()
    usage = finish = None
    for fields, padding in chunks:
        padded = fields if padding is None else fields | {"obfuscation": padding}
        wanted = padded | {"model": "ours"} if "model" in padded else padded
        assert one.feed(event(padded, spaced=spaced)) == event(wanted, spaced=spaced)
        usage = padded.get("usage") or usage
        finish = padded["choices"][0]["finish_reason"] or finish
    assert one.events == len(chunks)
    assert one.finish == finish
    assert one.usage == (Usage(input=1, output=2) if usage else None)
    words = [next(iter(fields["choices"][0]["delta"].values())) for fields, _ in chunks]
    assert one.deltas == sum(1 for word in words if word not in {"", "assistant"})
    together = editor()
    joined = b"".join(event(f if p is None else f | {"obfuscation": p}, spaced=spaced) for f, p in chunks)
    together.feed(joined)
    assert (together.events, together.deltas, together.chars) == (one.events, one.deltas, one.chars)


def test_an_error_among_ordinary_chunks() -> None:
    """An error that begins like an ordinary chunk is seen."""
    broken = event(chunk({"content": "c"}, error={"message": "m", "code": "context_length_exceeded"}))
    out, one = passed(event(chunk({"content": "a"})), event(chunk({"content": "b"})), broken, DONE)
    assert b'"b"' in out
    assert b'"c"' not in out
    assert isinstance(one.failure, ContextWindowExceeded)
    assert out.count(b"DONE") == 0


@pytest.mark.parametrize(
    "last",
    [
        b'event: error\ndata: {"error":{"message":"m"}}\n\n',
        b'error: {"error":{"message":"m"}}\n\n',
        event(chunk({}, "error")),
        b"data: {not json\n\n",
        b'data: {"choices":[{"index":"x"}]}\n\n',
    ],
)
def test_failures(last: bytes) -> None:
    """What is an error, or cannot be read, ends the stream; ordinary chunks after it do not pass."""
    first = event(chunk({"content": "a"}))
    out, one = passed(first + last + first, first)
    assert out == event(chunk({"content": "a"}, model="ours"))
    assert isinstance(one.failure, UpstreamError)
    assert one.events == 1


def test_nothing_after_the_terminator() -> None:
    """What a provider sends after its terminator does not pass."""
    first = event(chunk({"content": "a"}))
    out, one = passed(first + first + DONE + first, first)
    assert out.endswith(DONE)
    assert one.done
    assert one.events == 3


def test_the_end_without_a_terminator() -> None:
    """A stream that simply ends is given the terminator if every choice has said why, and is broken if not."""
    a, b = event(chunk({"content": "a"})), event(chunk({"content": "b"}, index=1))
    stop = event(chunk({}, "stop"))
    out, one = passed(a, stop)
    assert out.endswith(DONE)
    assert one.done
    for events in ((a,), (a, a), (a, b, stop), ()):
        out, one = passed(*events)
        assert isinstance(one.failure, UpstreamMalformed)
        assert DONE not in out


def test_comments_and_names_pass() -> None:
    """Comments pass and are not counted; field names and CRLF stay as they are."""
    data = event(chunk({"content": "a"})).rstrip()
    crlf = b"event: x\r\nid: 5\r\n" + data + b"\r\n\r\n"
    out, one = passed(b": PROCESSING\n\n" + crlf + crlf, b": more\n\n")
    assert out == b": PROCESSING\n\n" + crlf.replace(b"theirs", b"ours") * 2 + b": more\n\n"
    assert one.events == 2


@pytest.mark.parametrize("nothing", [b"data:\n\n", b"retry: 100\n\n", b"id: 3\r\n\r\n", b"event: ping\n\n"])
def test_events_that_say_nothing_are_withheld(nothing: bytes) -> None:
    """SDKs would look for JSON in them."""
    data = event(chunk({"content": "a"}))
    out, one = passed(nothing + data + nothing, nothing)
    assert out == data.replace(b"theirs", b"ours")
    assert one.events == 1


def test_crlf_takes_the_short_way() -> None:
    """Chunks with CRLF are recognised as well."""
    crlf = event(chunk({"content": "a"})).replace(b"\n", b"\r\n")
    out, one = passed(crlf, crlf, crlf)
    assert out == crlf.replace(b"theirs", b"ours") * 3
    assert one.deltas == 3


def test_data_on_several_lines() -> None:
    """An event whose JSON stands on several lines passes as one line."""
    out = editor().feed(b'data: {"model":\ndata: "theirs","choices":[]}\n\n')
    assert json.loads(out[6:]) == {"model": "ours", "choices": []}


def test_a_key_that_stands_twice() -> None:
    """An object with a duplicated key is sealed anew, with one model."""
    out = editor().feed(b'data: {"a":1,"a":22,"model":"theirs","model":"x","choices":[]}\n\n')
    assert out == b'data: {"a":22,"model":"ours","choices":[]}\n\n'


def test_a_chunk_with_choices_and_usage_is_kept() -> None:
    """Usage beside words does not make a chunk one that may be withheld."""
    fields = chunk({"content": "a"}, usage={"prompt_tokens": 1, "completion_tokens": 1})
    out, one = passed(event(fields), DONE)
    assert out == event(fields | {"model": "ours"}) + DONE
    assert one.usage == Usage(input=1, output=1)


# -- whole answers ---------------------------------------------------------------------------------------------------


def answer(body: bytes, model: str = "ours") -> tuple[bytes, Usage | None, str | None, str]:
    return openai.pass_response(body, TARGET, "chat", model=model)


def test_a_whole_answer() -> None:
    """The model is replaced where it stands, and usage, finish and id are known."""
    body = (TRANSCRIPTS / "answer.json").read_bytes()
    out, usage, finish, answer_id = answer(body)
    assert out == body.replace(b'"model": "gpt-provider-2026"', b'"model": "ours"')
    assert usage == Usage(input=5, cache_read=12, cache_write=3, output=3, reasoning=5)
    assert (finish, answer_id) == ("stop", "chatcmpl-answer")


@pytest.mark.parametrize("operation", ["chat", "completions"])
@pytest.mark.parametrize("choices", ["", ',"choices":null'])
def test_an_answer_without_choices(operation: Operation, choices: str) -> None:
    """It is none, and clients fall over it; where it says what went wrong that is what went wrong. An empty list passes."""
    with pytest.raises(UpstreamMalformed, match="no choices"):
        openai.pass_response(f'{{"id":"a","model":"m"{choices}}}'.encode(), TARGET, operation, model="ours")
    limited = f'{{"code":"rate_limit_exceeded","message":"Slow down"{choices}}}'.encode()
    with pytest.raises(UpstreamRateLimited, match="Slow down"):
        openai.pass_response(limited, TARGET, operation, model="ours")
    empty = b'{"id":"a","model":"ours","choices":[]}'
    assert openai.pass_response(empty, TARGET, operation, model="ours")[0] == empty


def test_an_embedding() -> None:
    """Vectors pass untouched; there is no finish."""
    body = b'{"object":"list","data":[{"embedding":[0.10, 1e-3],"index":0}],"model":"e","usage":{"prompt_tokens":4,"total_tokens":4}}'
    out, usage, finish, answer_id = openai.pass_response(body, TARGET, "embeddings", model="ours")
    assert out == body.replace(b'"model":"e"', b'"model":"ours"')
    assert (usage, finish, answer_id) == (Usage(input=4), None, "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
HARMLESS = st.text(max_size=6).filter(lambda key: key not in {"error", "choices", "usage", "id", "x_groq"})


@given(
    before=st.dictionaries(HARMLESS, JSON, max_size=4),
    after=st.dictionaries(HARMLESS, JSON, max_size=4),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
def test_any_object_keeps_its_other_bytes(
    before: dict[str, Any], after: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    """Whatever stands around the model, in whatever spelling, only the model changes."""
    fields = before | {"model": "theirs"} | {key: value for key, value in after.items() if key not in before}
    fields |= {"model": "theirs", "choices": []}
    body = json.dumps(fields, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    out = answer(body)[0]
    assert json.loads(out) == json.loads(body) | {"model": "ours"}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error":{"message":"m","code":"context_length_exceeded"}}', ContextWindowExceeded),
        (b'{"error":"m"}', UpstreamError),
        (b"<html>", UpstreamMalformed),
        (b"[]", UpstreamMalformed),
        (b"", UpstreamMalformed),
    ],
)
def test_an_answer_that_is_none(body: bytes, kind: type[UpstreamError]) -> None:
    """A good status with an error in it, or with what is no answer, is an error."""
    with pytest.raises(UpstreamError) as caught:
        answer(body)
    assert type(caught.value) is kind


def test_falsy_errors_are_none() -> None:
    """A null or empty error is no error."""
    for error in (b"null", b"{}"):
        body = b'{"error":%b,"model":"x","choices":[]}' % error
        assert answer(body)[0] == body.replace(b'"x"', b'"ours"')
