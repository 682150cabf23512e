"""Real traffic of every other format through a running gateway: what providers said in their own words, told to both kinds of clients.

What an answer says is taken from its adapter, whose reading is tested where it is written; here it is asked whether it
reaches the client, on a real socket, and the ledger. And no recording is left out unsaid.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import anthropic
import msgspec
import openai
import pytest
import pytest_asyncio
from msgspec import Raw

from adapters import (
    EMBEDDINGS,
    FORMATS,
    IMAGES,
    RERANK,
    SPEECH,
    TRANSCRIPTIONS,
    audio,
    embeddings,
    images,
    rerank,
)
from adapters.base import Task
from adapters.types import (
    ChatRequest,
    ChatResponse,
    Failure,
    File,
    Reply,
    Target,
    Text,
    Thinking,
    ToolCall,
    TranscriptionRequest,
    Usage,
)
from gateway.state.records import LedgerRow
from tests.adapters.folding import fold, read_at_once
from tests.e2e import plain
from tests.e2e.native import NOT_REPLAYED, is_left_out, native
from tests.e2e.replay import (
    CLIENT_KEY,
    PATHS,
    PROVIDER_KEY,
    Playback,
    Received,
    Replay,
    answer,
    playing,
    public_name,
    recorded,
)
from tests.harness import whole
from tests.recorded import Recording, recordings

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOLLOWED = list(recordings("replicate", kinds=("predictions",)))
ALL = list(native())
CHATS = [replay for replay in ALL if replay.operation == "chat" and replay.status < 400]
WHOLE = [replay for replay in CHATS if not replay.is_stream]
STREAMS = [replay for replay in CHATS if replay.is_stream]
TASKS = [replay for replay in ALL if replay.operation != "chat" and replay.status < 400]
REFUSED = [replay for replay in ALL if replay.status >= 400]
FORMS = ("openai", "anthropic")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def playback(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Playback]:
    async with playing(Path(tmp_path_factory.mktemp("native")), ALL, ("told", "sdk")) as playback:
        yield playback


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def openai_sdk(playback: Playback) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=playback.gw.url + "/v1", api_key=CLIENT_KEY, max_retries=0) as sdk:
        yield sdk


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def anthropic_sdk(playback: Playback) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=playback.gw.url, api_key=CLIENT_KEY, max_retries=0) as sdk:
        yield sdk


# -- what was said ---------------------------------------------------------------------------------------------------

FINISH = {"stop_sequence": "stop", "refusal": "content_filter", "pause": "stop"}
"""Reasons that one of the clients' formats has no word for, as `plain` reads them."""


def heard(replay: Replay, target: Target) -> ChatResponse:
    """What the adapter reads in the recorded answer."""
    side, question = FORMATS[target.provider.format], ChatRequest(model="any", messages=())
    if replay.is_stream:
        return fold(read_at_once(side.cut(), side.read_stream(question, target), replay.body))
    return side.read_response(replay.body, question, target)


def tokens_of(usage: Usage | None) -> plain.Tokens:
    known = usage or Usage()
    written = known.cache_write + known.cache_write_1h
    return plain.Tokens(known.prompt, known.completion, known.cache_read, written, known.reasoning)


def said_by(answer: ChatResponse, ids: list[str]) -> plain.Said:
    """What a plain reader shall find. `ids` are the calls' ids as the client knows them."""
    choice = answer.choices[0]
    calls = [part for part in choice.parts if isinstance(part, ToolCall)]
    return plain.Said(
        text="".join(part.text for part in choice.parts if isinstance(part, Text)),
        thinking="".join(part.text for part in choice.parts if isinstance(part, Thinking)),
        calls=[(call.name, json.loads(call.arguments)) for call in calls],
        ids=ids,
        finish=FINISH.get(choice.finish, choice.finish),
        tokens=tokens_of(answer.usage),
    )


def check_said(told: plain.Said, answer: ChatResponse) -> None:
    """The client was told what the provider said."""
    assert all(told.ids)
    assert len(set(told.ids)) == len(told.ids)
    if answer.usage is None:
        told.tokens = plain.Tokens()
    assert told == said_by(answer, told.ids)


def check_row(row: LedgerRow, replay: Replay, usage: Usage | None) -> None:
    """The ledger's row says who answered and what it cost."""
    assert (row.status, row.http_status, row.operation) == ("success", 200, replay.operation)
    assert (row.provider, row.stream, len(row.attempts)) == (replay.row, replay.is_stream, 1)
    if usage is None:
        assert row.usage_source in {"estimated", "none"}
    else:
        assert row.usage_source == "reported"
        assert tokens_of(row.usage) == tokens_of(usage)
        assert row.usage.units == usage.units


# -- chats -----------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"anything": {"type": "string"}}}


def question(form: str, model: str, *, stream: bool, tools: Iterable[str] = ()) -> dict[str, Any]:
    """A plain question; `tools` are the functions that are offered."""
    asked: dict[str, Any] = {
        "model": model,
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": "Hello!"}],
    }
    offered = [{"name": name, "description": "One of them"} for name in dict.fromkeys(tools)]
    if offered and form == "anthropic":
        asked["tools"] = [tool | {"input_schema": SCHEMA} for tool in offered]
    elif offered:
        functions = [tool | {"parameters": SCHEMA} for tool in offered]
        asked["tools"] = [{"type": "function", "function": function} for function in functions]
    if stream:
        asked["stream"] = True
        if form == "openai":
            asked["stream_options"] = {"include_usage": True}
    return asked


async def chat(playback: Playback, replay: Replay, form: str, size: int = 0) -> tuple[Received, ChatResponse]:
    """What the client gets, and what the provider has said."""
    name = public_name("told", replay)
    answer = heard(replay, playback.target(name))
    tools = [part.name for part in answer.choices[0].parts if isinstance(part, ToolCall)]
    playback.will(replay, size)
    asked = question(form, name, stream=replay.is_stream, tools=tools)
    received = await playback.post(PATHS[form, "chat"], json.dumps(asked).encode())
    check_asked(playback, replay)
    return received, answer


def check_asked(playback: Playback, replay: Replay) -> None:
    """The provider was asked at the address that was recorded, with the operator's key."""
    asked = playback.asked
    assert asked.method == "POST"
    if replay.path:
        assert unquote(asked.path.partition("?")[0]) == replay.path
    assert PROVIDER_KEY in str(asked.headers)
    assert CLIENT_KEY not in str(asked.headers)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("replay", WHOLE, ids=str)
async def test_an_answer_is_told(playback: Playback, replay: Replay, form: str) -> None:
    """Either client gets the same text, tool calls, finish and usage."""
    received, answer = await chat(playback, replay, form)
    assert received.status == 200, received.body
    assert json.loads(received.body)["model"] == public_name("told", replay)
    check_said(plain.read(form, received.body, is_stream=False), answer)
    check_row(await playback.row(received.headers["x-request-id"]), replay, answer.usage)


async def check_stream(playback: Playback, replay: Replay, form: str, size: int) -> None:
    received, answer = await chat(playback, replay, form, size)
    assert (received.status, received.is_whole) == (200, True), received.body
    if form == "anthropic":
        plain.check_anthropic_stream(received.body)
    else:
        plain.check_openai_stream(received.body)
    check_said(plain.read(form, received.body, is_stream=True), answer)
    check_row(await playback.row(received.headers["x-request-id"]), replay, answer.usage)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("replay", STREAMS, ids=str)
async def test_a_stream_is_told(playback: Playback, replay: Replay, form: str) -> None:
    """Either client gets a well-formed stream of the same text, tool calls, finish and usage."""
    await check_stream(playback, replay, form, 0)


def smallest_of_each_feature(streams: Iterable[Replay]) -> list[Replay]:
    """One stream for each name but for the number at its end."""
    found: dict[str, Replay] = {}
    for replay in streams:
        feature = replay.name.rpartition("-")[0]
        found[feature] = min(replay, found.get(feature, replay), key=lambda one: len(one.body))
    return [replay for replay in found.values() if len(replay.body) < 30_000]


@pytest.mark.parametrize("replay", smallest_of_each_feature(STREAMS), ids=str)
async def test_a_stream_is_told_byte_by_byte(playback: Playback, replay: Replay) -> None:
    """It does not matter where the network cuts."""
    for form in FORMS:
        await check_stream(playback, replay, form, 1)


@pytest.mark.parametrize("replay", STREAMS, ids=str)
async def test_openai_sdk_reads_the_stream(
    playback: Playback, openai_sdk: openai.AsyncOpenAI, replay: Replay
) -> None:
    """OpenAI's SDK puts the answer together from every stream."""
    playback.will(replay)
    stream = await openai_sdk.chat.completions.create(
        model=public_name("sdk", replay),
        messages=[{"role": "user", "content": "Hello!"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk.model_dump(warnings=False) async for chunk in stream]
    answer = heard(replay, playback.target(public_name("sdk", replay)))
    check_said(plain.read_openai(chunks, is_stream=True), answer)


@pytest.mark.parametrize("replay", STREAMS, ids=str)
async def test_anthropic_sdk_reads_the_stream(
    playback: Playback, anthropic_sdk: anthropic.AsyncAnthropic, replay: Replay
) -> None:
    """Anthropic's SDK puts the answer together from every stream."""
    playback.will(replay)
    async with anthropic_sdk.messages.stream(
        model=public_name("sdk", replay),
        max_tokens=1000,
        messages=[{"role": "user", "content": "Hello!"}],
    ) as stream:
        message = await stream.get_final_message()
    answer = heard(replay, playback.target(public_name("sdk", replay)))
    check_said(plain.read_anthropic(message.model_dump(warnings=False)), answer)


# -- what is no chat -------------------------------------------------------------------------------------------------

WAYS: dict[str, tuple[Mapping[str, Task[Any, Any]], str]] = {
    "embeddings": (EMBEDDINGS, "/v1/embeddings"),
    "rerank": (RERANK, "/v1/rerank"),
    "images": (IMAGES, "/v1/images/generations"),
    "speech": (SPEECH, "/v1/audio/speech"),
    "transcriptions": (TRANSCRIPTIONS, "/v1/audio/transcriptions"),
}


def task_of(replay: Replay) -> Task[Any, Any]:
    registry, _ = WAYS[replay.operation]
    return registry.get(replay.row) or registry[replay.format]


def texts_in(question: dict[str, Any]) -> int:
    """How many texts a recorded question had."""
    several = [question.get(name) for name in ("input", "texts", "requests", "instances")]
    return next((len(each) for each in several if isinstance(each, list)), 1)


def task_question(replay: Replay) -> dict[str, Any]:
    """A question to which the recorded answer fits."""
    was: dict[str, Any] = json.loads(replay.question or b"{}")
    if replay.operation == "embeddings":
        encoding = "base64" if was.get("encoding_format") == "base64" else "float"
        return {"input": ["Hello!"] * texts_in(was), "encoding_format": encoding}
    if replay.operation == "rerank":
        best = json.loads(replay.body)
        count = 1 + max(each["index"] for each in best.get("results") or best["data"])
        return {"query": "Hello?", "documents": ["Hello!"] * max(count, len(was.get("documents", [])))}
    if replay.operation == "images":
        return {"prompt": "A cat"}
    if replay.operation == "speech":
        return {"input": "Hello!", "voice": "somebody"}
    return {"response_format": "text" if replay.row == "groq" else "verbose_json"}


def raw(question: dict[str, Any]) -> dict[str, Raw]:
    return {name: Raw(msgspec.json.encode(value)) for name, value in question.items()}


SOUND = File("hello.wav", "audio/wav", b"RIFF sound")


def expected(replay: Replay, question: dict[str, Any], target: Target) -> tuple[bytes, Usage | None]:
    """What the client shall get of what the adapter reads, and what it costs."""
    readers: dict[str, Callable[[Mapping[str, Raw]], Any]] = {
        "embeddings": embeddings.read_request,
        "rerank": rerank.read_request,
        "images": images.read_request,
        "speech": audio.read_speech,
        "transcriptions": lambda _: audio.read_transcription(question, {}, SOUND, translate=False),
    }
    request = readers[replay.operation](raw(question))
    task = task_of(replay)
    replies = [Reply(replay.headers, replay.body)] * len(task.write(request, target))
    read = task.read(replies, request, target)
    if replay.operation == "speech":
        return read.data, read.usage
    if isinstance(request, TranscriptionRequest):
        return audio.write_transcription(read, request)[0], read.usage
    writers: dict[str, Callable[..., bytes]] = {
        "embeddings": embeddings.write_response,
        "rerank": rerank.write_response,
        "images": images.write_response,
    }
    name = question["model"]
    return writers[replay.operation](read, request, model=name, now=0, answer_id="any"), read.usage


def form_of(question: dict[str, Any]) -> aiohttp.FormData:
    form = aiohttp.FormData(question)
    form.add_field("file", SOUND.data, filename=SOUND.name, content_type=SOUND.media_type)
    return form


@pytest.mark.parametrize("replay", TASKS, ids=str)
async def test_a_task_is_done(playback: Playback, replay: Replay) -> None:
    """Vectors, ranks, pictures, sound and what was heard reach the client, and their cost the ledger."""
    name = public_name("told", replay)
    asked = task_question(replay) | {"model": name}
    wanted, usage = expected(replay, asked, playback.target(name))
    _, path = WAYS[replay.operation]
    playback.will(replay)
    is_form = replay.operation == "transcriptions"
    received = await playback.post(path, form_of(asked) if is_form else json.dumps(asked).encode())
    assert received.status == 200, received.body
    check_asked(playback, replay)
    if received.headers["content-type"].startswith("application/json"):
        ours, theirs = json.loads(received.body), json.loads(wanted)
        for told in (ours, theirs):
            told.pop("id", None)
            told.pop("created", None)
        assert ours == theirs
    else:
        assert received.body == wanted
    check_row(await playback.row(received.headers["x-request-id"]), replay, usage)


# -- errors ----------------------------------------------------------------------------------------------------------

BY_STATUS = {
    400: (400, "upstream_bad_request"),
    401: (502, "upstream_auth"),
    403: (502, "upstream_auth"),
    404: (404, "upstream_not_found"),
    429: (429, "upstream_rate_limited"),
    503: (503, "upstream_overloaded"),
}
"""The provider's status → what the client gets and why."""
CONTEXT = {"cohere/chat-err400-13c11": (400, "context_window_exceeded")}
"""What is too long."""
WORDS = ("message", "detail")

REFUSED_TO = [
    pytest.param(replay, form, id=f"{replay.name}-{form}")
    for replay in REFUSED
    for form in FORMS
    if form == "openai" or replay.operation == "chat"
]


def words_of(body: bytes) -> str:
    """The provider's own words in an error."""
    told = json.loads(body)
    error = told.get("error", told)
    return str(next(error[name] for name in WORDS if name in error))


@pytest.mark.parametrize(("replay", "form"), REFUSED_TO)
async def test_an_error_is_told(playback: Playback, replay: Replay, form: str) -> None:
    """A refusal has the status and the reason that it means, in the client's dialect, and one row."""
    name = public_name("told", replay)
    playback.will(replay)
    if replay.operation == "chat":
        path, asked = PATHS[form, "chat"], question(form, name, stream=False)
    else:
        path, asked = WAYS[replay.operation][1], task_question(replay) | {"model": name}
    received = await playback.post(path, json.dumps(asked).encode())
    status, reason = CONTEXT.get(replay.name, BY_STATUS[replay.status])
    assert received.status == status
    plain.check_error(received.body, form, says="" if reason == "upstream_auth" else words_of(replay.body))
    error = FORMATS[replay.format].read_error(replay.status, replay.headers, replay.body)
    assert ("retry-after" in received.headers) is (error.retry_after is not None)
    row = await playback.row(received.headers["x-request-id"])
    assert (row.status, row.http_status, row.reason) == ("failure", status, reason)
    assert (row.attempts[0].status, row.usage_source, row.cost_nano) == (replay.status, "none", 0)


# -- answers that are elsewhere --------------------------------------------------------------------------------------


def of_replicate(name: str) -> Recording:
    return next(recording for recording in FOLLOWED if recording.path.name == name)


def at_hand(recording: Recording, url: str) -> bytes:
    """A prediction whose addresses are at the fake provider."""
    return recording.response.replace(b"https://api.replicate.com", url.encode())


BLOCKING = [recording for recording in FOLLOWED if b'"output"' in recording.response]


def llama(playback: Playback) -> str:
    return json.dumps(
        {
            "model_name": "llama",
            "litellm_params": {"model": "replicate/meta/meta-llama-3-8b-instruct", "api_base": playback.provider.url},
        }
    )
