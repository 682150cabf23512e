"""Real traffic of every other format through a running gateway: what providers said in their own words, told to both kinds of clients.

What an answer says is taken from its adapter, whose reading is tested where it is written; here it is asked whether it
reaches the client, on a real socket, and the ledger. And no recording is left out unsaid.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
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
from openai.types import ImagesResponse
from openai.types.audio import Transcription
from openai.types.chat import ChatCompletion

from adapters import (
    EMBEDDINGS,
    FORMATS,
    IMAGES,
    RERANK,
    SPEECH,
    TRANSCRIPTIONS,
    USAGE_IN_HEADERS,
    audio,
    embeddings,
    images,
    rerank,
)
from adapters.base import Task
from adapters.errors import UpstreamError
from adapters.providers import PROVIDERS, for_model
from adapters.types import (
    ChatRequest,
    ChatResponse,
    Delta,
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
from tests.e2e.native import NOT_REPLAYED, is_left_out, native, transcribed
from tests.e2e.replay import (
    CLIENT_KEY,
    PATHS,
    PROVIDER_KEY,
    Playback,
    Received,
    Replay,
    answer,
    one_of_each_feature,
    plain_question,
    playing,
    public_name,
    recorded,
)
from tests.harness import whole
from tests.recorded import Recording, recordings

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL = [*transcribed(), *native()]
ELSEWHERE = ("replicate/predictions-05cdc", "replicate/predictions-c5f4f", "replicate/predictions-stream")
"""Of these the provider's first answer says only where the real one will be."""
ANSWERED = [replay for replay in ALL if replay.status < 400 and not replay.name.startswith(ELSEWHERE)]
CHATS = [replay for replay in ANSWERED if replay.operation == "chat"]


def deltas_of(replay: Replay, target: Target) -> list[Delta]:
    """What the adapter reads in a stream."""
    side = FORMATS[target.provider.format]
    return read_at_once(side.cut(), side.read_stream(QUESTION, target), replay.body)


def target_of(replay: Replay) -> Target:
    """What the adapters must know of it, where no gateway runs yet."""
    row, model = for_model(PROVIDERS[replay.row], replay.model)
    return Target(provider=row, model=model, base_url="https://example.com")


def is_broken(replay: Replay) -> bool:
    """Does it end with an error, or without an end?"""
    if replay.is_stream:
        return any(isinstance(delta, Failure) for delta in deltas_of(replay, target_of(replay)))
    try:
        FORMATS[replay.format].read_response(replay.body, QUESTION, target_of(replay))
    except UpstreamError:
        return True
    return False


QUESTION = ChatRequest(model="any", messages=())
BROKEN = [replay for replay in CHATS if is_broken(replay)]
WHOLE = [replay for replay in CHATS if not replay.is_stream and replay not in BROKEN]
STREAMS = [replay for replay in CHATS if replay.is_stream and replay not in BROKEN]
TASKS = [replay for replay in ANSWERED if replay.operation != "chat"]
REFUSED = [replay for replay in ALL if replay.status >= 400]
FORMS = ("openai", "anthropic")
SDK_TYPES: dict[str, Any] = {
    "openai": ChatCompletion,
    "anthropic": anthropic.types.Message,
    "images": ImagesResponse,
    "transcriptions": Transcription,
}
"""What the official SDKs read whole answers as."""


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
    if replay.is_stream:
        return fold(deltas_of(replay, target))
    read = FORMATS[target.provider.format].read_response(replay.body, QUESTION, target)
    count = USAGE_IN_HEADERS.get(target.provider.format)
    if read.usage is None and count is not None:
        read = msgspec.structs.replace(read, usage=count([Reply(replay.headers, replay.body)]))
    return read


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


async def chat(playback: Playback, replay: Replay, form: str, size: int = 0) -> tuple[Received, ChatResponse]:
    """What the client gets, and what the provider has said."""
    name = public_name("told", replay)
    answer = heard(replay, playback.target(name))
    tools = [part.name for part in answer.choices[0].parts if isinstance(part, ToolCall)]
    playback.will(replay, size)
    asked = plain_question(form, name, stream=replay.is_stream, tools=list(dict.fromkeys(tools)))
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
    assert SDK_TYPES[form].model_validate_json(received.body).model == public_name("told", replay)
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


@pytest.mark.parametrize("replay", one_of_each_feature(STREAMS), ids=str)
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
        if replay.operation in SDK_TYPES:
            SDK_TYPES[replay.operation].model_validate_json(received.body)
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
        path, asked = PATHS[form, "chat"], plain_question(form, name, stream=False)
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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [0, 37], ids=["at-once", "in-pieces"])
@pytest.mark.parametrize("replay", [one for one in BROKEN if one.is_stream], ids=str)
async def test_a_broken_stream_is_told(playback: Playback, replay: Replay, form: str, size: int) -> None:
    """A stream that breaks ends with an error event and unclean, one that begins so is refused; nothing follows."""
    name = public_name("told", replay)
    *before, last = deltas_of(replay, playback.target(name))
    assert isinstance(last, Failure)
    playback.will(replay, size)
    received = await playback.post(
        PATHS[form, "chat"], json.dumps(plain_question(form, name, stream=True)).encode()
    )
    if before:
        assert (received.status, received.is_whole) == (200, False)
        *told, end = plain.split(received.body)
        assert plain.is_error(end)
        plain.check_error(json.dumps(plain.data_of(end)).encode(), form, says="")
        assert not any(plain.is_error(event) for event in told)
        assert b"[DONE]" not in received.body
        assert b"message_stop" not in received.body
    else:
        assert (received.status, received.is_whole) == (last.error.status, True)
        plain.check_error(received.body, form, says="")
    row = await playback.row(received.headers["x-request-id"])
    assert (row.status, row.reason) == ("failure", last.error.reason)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("replay", [one for one in BROKEN if not one.is_stream], ids=str)
async def test_an_error_that_hides_in_an_answer_is_told(
    playback: Playback, replay: Replay, form: str
) -> None:
    """A 200 that is none for the client."""
    name = public_name("told", replay)
    with pytest.raises(UpstreamError) as hidden:
        heard(replay, playback.target(name))
    playback.will(replay)
    received = await playback.post(
        PATHS[form, "chat"], json.dumps(plain_question(form, name, stream=False)).encode()
    )
    assert received.status == hidden.value.status
    plain.check_error(received.body, form, says="")
    row = await playback.row(received.headers["x-request-id"])
    assert (row.status, row.reason) == ("failure", hidden.value.reason)


# -- answers that are elsewhere --------------------------------------------------------------------------------------


def at_hand(replay: Replay, url: str) -> bytes:
    """A prediction whose addresses are at the fake provider, with one for its stream."""
    prediction = json.loads(replay.body.replace(b"https://api.replicate.com", url.encode()))
    prediction["urls"]["stream"] = f"{url}/v1/streams/one"
    return json.dumps(prediction).encode()


def prediction(name: str) -> list[Replay]:
    """The recording of that name, if it is there."""
    return [replay for replay in ALL if replay.name == f"replicate/{name}"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("begun", prediction("predictions-c5f4f"), ids=str)
@pytest.mark.parametrize("done", prediction("predictions-095cf"), ids=str)
async def test_an_answer_that_is_elsewhere(
    playback: Playback, begun: Replay, done: Replay, form: str
) -> None:
    """A prediction that has only begun is asked for again."""
    name = public_name("told", begun)
    finished = {**json.loads(done.body), "status": "succeeded"}
    playback.will(begun)
    playback.provider.will(whole(at_hand(begun, playback.provider.url), 201), whole(finished))
    received = await playback.post(
        PATHS[form, "chat"], json.dumps(plain_question(form, name, stream=False)).encode()
    )
    assert received.status == 200, received.body
    asked = playback.asked
    assert (asked.method, asked.path) == ("GET", f"/v1/predictions/{json.loads(begun.body)['id']}")
    check_said(plain.read(form, received.body, is_stream=False), heard(done, playback.target(name)))


@pytest.mark.parametrize("begun", prediction("predictions-05cdc"), ids=str)
async def test_a_picture_that_is_elsewhere(playback: Playback, begun: Replay) -> None:
    """The same of a picture."""
    address = "https://replicate.delivery/corgi.png"
    processing = at_hand(begun, playback.provider.url)
    finished = {**json.loads(begun.body), "status": "succeeded", "output": [address]}
    playback.will(begun)
    playback.provider.will(whole(processing, 201), whole(processing), whole(finished))
    asked = {"model": public_name("told", begun), "prompt": "A corgi"}
    received = await playback.post(WAYS["images"][1], json.dumps(asked).encode())
    assert json.loads(received.body)["data"] == [{"url": address}]
    row = await playback.row(received.headers["x-request-id"])
    assert (row.status, row.usage.units.images) == ("success", 1)


@pytest.mark.parametrize("size", [0, 1], ids=["at-once", "byte-by-byte"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("begun", prediction("predictions-c5f4f"), ids=str)
@pytest.mark.parametrize("stream", prediction("predictions-stream-stream-27cd4"), ids=str)
async def test_a_stream_that_is_elsewhere(
    playback: Playback, stream: Replay, begun: Replay, form: str, size: int
) -> None:
    """The first answer says where the stream is."""
    name = public_name("told", begun)
    playback.will(begun)
    playback.provider.will(whole(at_hand(begun, playback.provider.url), 201), answer(stream, size))
    received = await playback.post(
        PATHS[form, "chat"], json.dumps(plain_question(form, name, stream=True)).encode()
    )
    assert (received.status, received.is_whole) == (200, True), received.body
    assert (playback.asked.method, playback.asked.path) == ("GET", "/v1/streams/one")
    check_said(plain.read(form, received.body, is_stream=True), heard(stream, playback.target(name)))


# -- a stream and a whole answer to the same question ----------------------------------------------------------------

PAIRS = [
    ("anthropic/messages-stream-cached-28193", "anthropic/messages-cached-7effb"),
    ("anthropic/messages-stream-fallback-c41e5", "anthropic/messages-fallback-ac7b8"),
    ("anthropic/messages-stream-refusal-14fbd", "anthropic/messages-refusal-8d29f"),
    ("gemini/generateContent-stream-parallel-bd908", "gemini/generateContent-parallel-fee35"),
    ("gemini/generateContent-stream-toolcall-gemini3-6c44e", "gemini/generateContent-toolcall-gemini3-a4831"),
    ("mistral/chat-stream-thinking-e29ff", "mistral/chat-thinking-6c262"),
    ("xai/chat-stream-toolcall-af180", "xai/chat-toolcall-7a31c"),
    ("xai/chat-stream-toolcall-thinking-fd146", "xai/chat-toolcall-thinking-9f712"),
]
"""Recordings in which a model said the same twice, once in a stream."""
COMPARED = {replay.name: replay for replay in (*recorded(), *ALL)}


def without_accidents(answer: ChatResponse) -> list[Any]:
    """All but ids, what was thought and what it cost, which differ each time."""
    choice = answer.choices[0]
    parts = [part for part in choice.parts if isinstance(part, Text | ToolCall)]
    said = [part.text if isinstance(part, Text) else (part.name, part.arguments) for part in parts]
    return [*said, choice.finish, choice.stop_sequence]


@pytest.mark.parametrize(("stream", "whole_"), [pair for pair in PAIRS if pair[0] in COMPARED])
async def test_a_stream_folds_into_the_whole_answer(stream: str, whole_: str) -> None:
    """What a stream says and what a whole answer says is read as the same."""
    one, other = COMPARED[stream], COMPARED[whole_]
    target = Target(provider=one.provider, model=one.model, base_url="https://example.com")
    assert without_accidents(heard(one, target)) == without_accidents(heard(other, target))


# -- nothing is left out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", list(recordings()), ids=str)
async def test_each_recording_is_replayed_or_in_the_table(recording: Recording) -> None:
    """One or the other, never both."""
    assert (str(recording) in COMPARED) is not is_left_out(recording)


@pytest.mark.parametrize("begin", NOT_REPLAYED)
async def test_the_table_has_a_reason_and_a_recording_for_each_line(begin: str) -> None:
    """No line outlives what it is about."""
    assert NOT_REPLAYED[begin]
    known = [str(one) for one in recordings()]
    provider, _, rest = begin.partition("/")
    assert not known or any(
        name.partition("/")[2].startswith(rest) and provider in {"*", name.partition("/")[0]}
        for name in known
    )
