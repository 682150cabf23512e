"""The rules of `adapters.base`, for every format and every provider: what no type can say.

Each format gets nonsense, transcripts of every provider that speaks it, and those with bytes flipped, cut out or cut off.
Nothing that a provider sends may raise anything but an `UpstreamError`; nothing that we are asked may change an argument.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

import adapters
from adapters.base import Cutter, ProviderSide, StreamReader, Task
from adapters.errors import Unsupported, UpstreamError
from adapters.providers import PROVIDERS, located
from adapters.types import (
    ChatRequest,
    Delta,
    EmbeddingsRequest,
    Failure,
    File,
    Image,
    ImagesRequest,
    Message,
    Operation,
    Ping,
    Provider,
    Reply,
    RerankRequest,
    SpeechRequest,
    Start,
    Target,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolResult,
    TranscriptionRequest,
)
from tests.adapters import frames

FORMATS = adapters.FORMATS
AMAZONS = "application/vnd.amazon.eventstream"
TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
OPTIONS = {"vertex_credentials": "", "api_version": "2025-01-01", "project_id": "a-project"}
"""What a deployment may have to say."""
MODELS = {"replicate": "an-owner/a-model", "stability": "core"}
"""Where not every name may be a model's."""
NEEDS_AN_ADDRESS = {("huggingface", "rerank")}
"""What a provider offers at the operator's own servers alone."""


class _Options(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return f"some-{name.replace('_', '-')}"


def target_of(row: Provider) -> Target:
    """A deployment of this provider, as the gateway makes one."""
    options = _Options(OPTIONS | row.option_defaults)
    for name in row.option_env:
        options[name] = options[name]
    base = (row.base_url or "https://somewhere.test").format_map(options)
    row, base = located(row, base)
    return Target(
        provider=row,
        model=MODELS.get(row.name, "a-model"),
        base_url=base,
        options=dict(options),
        drop_params=True,
        dropped=[],
    )


TARGETS = {row.name: target_of(row) for row in PROVIDERS.values()}
OF_FORMAT = {
    name: next(
        (target for target in TARGETS.values() if target.provider.format == name),
        Target(provider=Provider(name=name, format=name), model="a-model", base_url="https://somewhere.test"),
    )
    for name in FORMATS
}
"""One deployment for each format, of its own where no row is of it."""

ROWS = [pytest.param(target, id=name) for name, target in TARGETS.items()]
CHATTING = {target.provider.format for target in TARGETS.values() if "chat" in target.provider.paths} | {
    name for name, target in OF_FORMAT.items() if not target.provider.paths
}
EACH = [
    pytest.param(module, OF_FORMAT[name], id=name) for name, module in FORMATS.items() if name in CHATTING
]

QUESTION = ChatRequest(
    model="ours",
    messages=(Message("user", (Text("Hello!"),)),),
    max_tokens=9,
    temperature=0.5,
    user="somebody",
)
QUESTIONS = {
    "plain": QUESTION,
    "stream": replace(QUESTION, stream=True),
    "tools": replace(
        QUESTION,
        system=(Text("Be brief."),),
        tools=(Tool("look", Raw(b'{"type":"object","properties":{"lamp":{"type":"string"}}}'), "Look"),),
        messages=(
            *QUESTION.messages,
            Message("assistant", (Text("A moment."), ToolCall("call_1", "look", '{"lamp":"north"}'))),
            Message("user", (ToolResult("call_1", (Text("lit"),)), Text("Well?"))),
        ),
    ),
    "image": replace(
        QUESTION,
        messages=(
            Message("user", (Text("What is it?"), Image(media_type="image/png", data="iVBORw0KGgo="))),
        ),
    ),
}


# -- transcripts and nonsense ----------------------------------------------------------------------------------------


def transcripts(kind: str) -> Iterator[Any]:
    """(format, bytes) of each transcript of a provider's chats: `json` whole ones, `sse` and `ndjson` streams."""
    for file in sorted(TRANSCRIPTS.glob(f"*/*.{kind}")):
        row = PROVIDERS.get(file.parent.name)
        if row is not None and row.format in CHATTING:
            yield pytest.param(row.format, file.read_bytes(), id=f"{file.parent.name}/{file.name}")


FRAMED = [
    pytest.param("bedrock", frames.transcript(file.stem), id=f"bedrock/{file.name}")
    for file in sorted(TRANSCRIPTS.glob("bedrock/*.jsonl"))
]
STREAMS = [*transcripts("sse"), *transcripts("ndjson"), *FRAMED]
ANSWERS = [*transcripts("json")]


def nonsense() -> list[bytes]:
    dice = random.Random(7)
    words: tuple[Any, ...] = (None, 0, -1, 1e300, "", "x", [], [None], [[]], {}, {"a": None}, True)
    names = "id model choices message messages content text delta usage error candidates output outputs type results data"
    odd = [{name: word} for name in names.split() for word in words]
    return [
        *(
            b"",
            b" ",
            b"\n\n",
            b"{",
            b"}",
            b"nul",
            b"\x00",
            b"\xff\xfe",
            b"\xef\xbb\xbf{}",
            b"<html>no</html>",
        ),
        *(
            b'"\\ud800"',
            b"[" * 50_000,
            b'{"a":' * 50_000,
            b"9" * 5_000,
            b"NaN",
            b'{"choices":[{"delta":"x"}]}',
        ),
        *(json.dumps(each).encode() for each in (*words, *odd)),
        *(dice.randbytes(size) for size in (1, 2, 3, 10, 100, 1000)),
    ]


NONSENSE = nonsense()


def spoiled(body: bytes, count: int = 40) -> Iterator[bytes]:
    """The bytes with something flipped, cut out, doubled or cut off; always the same."""
    dice = random.Random(len(body))
    for _ in range(count if body else 0):
        at, end = sorted((dice.randrange(len(body)), dice.randrange(len(body))))
        yield body[:at] + dice.randbytes(1) + body[at + 1 :]
        yield body[:at] + body[end:]
        yield body[:end] + body[at:]
        yield body[:at]
        yield body[:at] + dice.choice([b'"', b"}", b"null", b"[]", b"7", b"\n", b"\\"]) + body[at + 1 :]


def unchanged(*arguments: Any) -> list[bytes]:
    """What arguments are, to be compared; what a writer may note of dropped fields does not count."""
    plain = [replace(each, dropped=None) if isinstance(each, Target) else each for each in arguments]
    return [msgspec.json.encode(each, enc_hook=sorted) for each in plain]


def readings(cutter: Cutter, reader: StreamReader, body: bytes, size: int) -> list[Delta]:
    """All deltas of a stream that comes in pieces, up to its failure; a cutter may refuse, a reader never raises."""
    deltas: list[Delta] = []
    try:
        for at in range(0, len(body), size):
            if whole := cutter.feed(body[at : at + size]):
                deltas += reader.feed(whole)
                if deltas and isinstance(deltas[-1], Failure):
                    return deltas + reader.close()
        if rest := cutter.flush():
            deltas += reader.feed(rest)
    except UpstreamError as error:
        return [*deltas, Failure(error)]
    return deltas + reader.close()


def check_deltas(deltas: list[Delta], reader: StreamReader) -> None:
    """At most one start, an end or one failure and that last, and no empty words."""
    failures = [delta for delta in deltas if isinstance(delta, Failure)]
    assert len(failures) <= 1
    assert len([delta for delta in deltas if isinstance(delta, Start)]) <= 1
    if failures:
        assert deltas[-1] is failures[0]
        assert isinstance(failures[0].error, UpstreamError)
    else:
        assert reader.done
    for delta in deltas:
        if isinstance(delta, TextDelta):
            text = msgspec.json.decode(bytes(delta.text), type=str)
            assert text


# -- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", get_args(Operation))
@pytest.mark.parametrize("target", ROWS)
def test_address(target: Target, operation: Operation) -> None:
    """Each operation of a row has a whole address, always the same; others are refused."""
    module, row = FORMATS[target.provider.format], target.provider
    before = unchanged(target)
    for stream in (False, True):
        if operation not in row.paths or (row.name, operation) in NEEDS_AN_ADDRESS:
            with pytest.raises(Unsupported):
                module.address(target, operation, {"x-trace": "1"}, stream=stream)
            continue
        address = module.address(target, operation, {"x-trace": "1"}, stream=stream)
        assert address.method == "POST"
        assert address.url.startswith(target.base_url[:8])
        assert not set(address.url) & set("{} \n")
        assert dict(address.headers)["x-trace"] == "1"
        assert all(name == name.lower() for name, _ in address.headers)
        assert module.address(target, operation, {"x-trace": "1"}, stream=stream) == address
    assert unchanged(target) == before


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("target", ROWS)
def test_a_question_is_written(target: Target, name: str) -> None:
    """The same question gives the same bytes and stays what it was; what cannot be said is refused."""
    module, request = FORMATS[target.provider.format], QUESTIONS[name]
    if "chat" not in target.provider.paths:
        return
    before = unchanged(request, target)
    try:
        body = module.write_request(request, target)
    except Unsupported:
        body = b""
    assert body or name in {"tools", "image"}
    if body:
        assert json.loads(body)
        assert module.write_request(request, target) == body
    assert unchanged(request, target) == before


# -- what is answered ------------------------------------------------------------------------------------------------


def check_whole(module: ProviderSide, target: Target, body: bytes) -> None:
    try:
        answer = module.read_response(body, QUESTION, target)
    except UpstreamError:
        return
    assert isinstance(answer.choices, tuple)
    usage = answer.usage
    if usage is not None:
        assert (usage.total, usage.estimated) == (usage.prompt + usage.completion, False)


@pytest.mark.parametrize(("module", "target"), EACH)
def test_nonsense_is_malformed(module: ProviderSide, target: Target) -> None:
    """Whatever comes as a whole answer, nothing but an `UpstreamError` is raised."""
    for body in NONSENSE:
        check_whole(module, target, body)


@pytest.mark.parametrize(("name", "body"), ANSWERS)
def test_spoiled_answers_are_malformed(name: str, body: bytes) -> None:
    """A whole answer that something happened to is read or refused."""
    for each in (body, *spoiled(body)):
        check_whole(FORMATS[name], OF_FORMAT[name], each)


@pytest.mark.parametrize(("module", "target"), EACH)
def test_an_error_is_always_read(module: ProviderSide, target: Target) -> None:
    """`read_error` raises nothing, whatever the body, the status and the headers are."""
    bodies = [*NONSENSE, *(param.values[1] for param in ANSWERS)]
    for at, body in enumerate(bodies):
        assert isinstance(body, bytes)
        status = (400, 401, 403, 404, 408, 413, 422, 424, 429, 499, 500, 503, 504, 529, 0)[at % 15]
        error = module.read_error(status, {"retry-after": "soon"}, body)
        assert isinstance(error, UpstreamError)
        assert error.message
        assert 400 <= error.status < 600


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize(("module", "target"), EACH)
def test_a_stream_of_nonsense_fails(module: ProviderSide, target: Target, size: int) -> None:
    """A reader never raises and never takes nonsense for an answer."""
    for body in NONSENSE if size > 1 else [each for each in NONSENSE if len(each) < 2000]:
        for framed in (body, b"data: %b\n\n" % body, b"event: error\ndata: %b\n\n" % body, body + b"\n"):
            reader = module.read_stream(QUESTION, target)
            check_deltas(readings(module.cut(), reader, framed, size), reader)


@pytest.mark.parametrize(("module", "target"), EACH)
def test_silence_is_a_failure(module: ProviderSide, target: Target) -> None:
    """A stream without a byte has failed, once."""
    reader = module.read_stream(QUESTION, target)
    (failure,) = reader.close()
    assert isinstance(failure, Failure)
    assert reader.close() == []


@pytest.mark.parametrize(("name", "body"), STREAMS)
def test_no_event_says_nothing(name: str, body: bytes) -> None:
    """A reader can be asked at any time for what it holds back; fed at length, that is nothing."""
    module = FORMATS[name]
    cutter, reader = module.cut(), module.read_stream(QUESTION, OF_FORMAT[name])
    assert reader.feed(b"") == []
    for at in range(0, len(body), 100):
        if whole := cutter.feed(body[at : at + 100]):
            reader.feed(whole)
            assert reader.feed(b"") == []
    reader.close()
    assert reader.feed(b"") == []


@pytest.mark.parametrize(("name", "body"), STREAMS)
def test_a_stream_is_cut_anywhere(name: str, body: bytes) -> None:
    """Byte by byte, with other line ends and at once, a stream says the same."""
    module, target = FORMATS[name], OF_FORMAT[name]
    expected: list[Delta] | None = None
    is_text = module.STREAM_TYPE != AMAZONS
    for text in (body, body.replace(b"\n", b"\r\n")) if is_text else (body,):
        for size in (100_000, 1, 13):
            reader = module.read_stream(QUESTION, target)
            deltas = readings(module.cut(), reader, text, size)
            check_deltas(deltas, reader)
            expected = expected or deltas
            assert without_errors(deltas) == without_errors(expected)


def without_errors(deltas: list[Delta]) -> list[Any]:
    """Deltas that can be compared: an error is its message, and signs of life say nothing."""
    said = [delta for delta in deltas if not isinstance(delta, Ping)]
    return [delta.error.message if isinstance(delta, Failure) else delta for delta in said]


@pytest.mark.parametrize(("name", "body"), STREAMS)
def test_spoiled_streams_end_or_fail(name: str, body: bytes) -> None:
    """A stream that something happened to ends as it should or fails, and a reader never raises."""
    module, target = FORMATS[name], OF_FORMAT[name]
    for each in spoiled(body, 15):
        reader = module.read_stream(QUESTION, target)
        check_deltas(readings(module.cut(), reader, each, 100_000), reader)


def events_of(body: bytes, module: ProviderSide) -> list[bytes]:
    if module.STREAM_TYPE == AMAZONS:
        ends = list(accumulate(_frame_sizes(body)))
        return [body[start:end] for start, end in pairwise([0, *ends])]
    border = b"\n" if module.STREAM_TYPE == "application/x-ndjson" else b"\n\n"
    return [event + border for event in body.split(border) if event.strip()]


def _frame_sizes(body: bytes) -> Iterator[int]:
    at = 0
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        yield size
        at += size


@pytest.mark.parametrize(("name", "body"), STREAMS)
def test_unknown_events_are_skipped(name: str, body: bytes) -> None:
    """An event that nobody knows changes nothing, wherever it comes."""
    module, target = FORMATS[name], OF_FORMAT[name]
    unknown = b'{"type":"brand-new","event":"brand-new","novelty":[{"index":"first"}]}'
    if module.STREAM_TYPE == "application/x-ndjson":
        strange = [unknown + b"\n"]
    elif module.STREAM_TYPE == AMAZONS:
        strange = [frames.event("brandNew", {"novelty": [1]})]
    else:
        strange = [b": a comment\n\n", b"event: brand-new\ndata: %b\n\n" % unknown]
    events = events_of(body, module)
    expected = without_errors(module.read_stream(QUESTION, target).feed(b"".join(events)))
    for odd in strange:
        reader = module.read_stream(QUESTION, target)
        assert without_errors(reader.feed(odd.join(events) + odd)) == expected


@pytest.mark.parametrize(("name", "body"), STREAMS)
def test_the_short_way_says_what_the_long_way_does(name: str, body: bytes) -> None:
    """`words` is empty, or all that `feed` makes of the same events; and it changes nothing."""
    module, target = FORMATS[name], OF_FORMAT[name]
    reader, other = module.read_stream(QUESTION, target), module.read_stream(QUESTION, target)
    for event in events_of(body, module):
        words = reader.words(event)
        deltas = reader.feed(event)
        if words:
            assert deltas == [TextDelta(Raw(words))]
        assert without_errors(other.feed(event)) == without_errors(deltas)


# -- what is no chat -------------------------------------------------------------------------------------------------

_SOUND = File("a.wav", "audio/wav", b"RIFF0000WAVE")
TASKS: list[tuple[str, Mapping[str, Task[Any, Any]], Any]] = [
    (
        "embeddings",
        adapters.EMBEDDINGS,
        EmbeddingsRequest(model="ours", input=("a", "b"), input_type="search_query"),
    ),
    (
        "rerank",
        adapters.RERANK,
        RerankRequest(model="ours", query="q", documents=(Raw(b'"a"'), Raw(b'"b"')), top_n=1),
    ),
    ("images", adapters.IMAGES, ImagesRequest(model="ours", prompt="A lamp", size="1024x1024")),
    ("speech", adapters.SPEECH, SpeechRequest(model="ours", input="Hello!", voice="alloy")),
    (
        "transcriptions",
        adapters.TRANSCRIPTIONS,
        TranscriptionRequest(model="ours", file=_SOUND, language="en"),
    ),
]
EACH_TASK = [
    pytest.param(task, question, name, id=f"{kind}-{name}")
    for kind, tasks, question in TASKS
    for name, task in tasks.items()
]


@pytest.mark.parametrize(("task", "question", "name"), EACH_TASK)
def test_a_task(task: Task[Any, Any], question: Any, name: str) -> None:
    """A question gives the same calls each time and stays what it was; nonsense for an answer is an `UpstreamError`."""
    target = TARGETS[name] if name in TARGETS else OF_FORMAT[name]
    before = unchanged(question, target)
    try:
        calls = task.write(question, target)
    except Unsupported:
        assert unchanged(question, target) == before
        return
    assert calls
    assert list(task.write(question, target)) == list(calls)
    for body in NONSENSE:
        for headers in ({"content-type": "application/json"}, {}):
            try:
                task.read([Reply(headers, body)] * len(calls), question, target)
            except UpstreamError:
                continue
    assert unchanged(question, target) == before


def test_every_row_has_its_format() -> None:
    """Rows speak formats that there are, and tasks belong to a provider or to a format."""
    assert {row.format for row in PROVIDERS.values()} <= set(FORMATS)
    for _, tasks, _ in TASKS:
        assert set(tasks) <= set(FORMATS) | set(PROVIDERS)
