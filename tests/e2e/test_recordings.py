"""Real traffic through a running gateway: each recorded exchange, replayed by a server on a real socket.

Three questions are asked of each. Does it pass unchanged to a client of its own format? Does a client of the other format
hear the same? Do the official SDKs, on either side, read every stream? Transcripts of our own go the same way, so that
all this is tested where the recordings are not at hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anthropic
import msgspec
import openai
import pytest
import pytest_asyncio
from msgspec import Raw

from gateway.state.records import LedgerRow
from tests.e2e import plain
from tests.e2e.replay import (
    CLIENT_KEY,
    PATHS,
    PROVIDER_KEY,
    SCHEMA,
    Playback,
    Received,
    Replay,
    one_of_each_feature,
    plain_question,
    playing,
    public_name,
    recorded,
    transcribed,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL = [*transcribed(), *recorded()]
REFUSED = [replay for replay in ALL if replay.status >= 400]
ANSWERED = [replay for replay in ALL if replay.status < 400]
WHOLE = [replay for replay in ANSWERED if not replay.is_stream]
STREAMS = [replay for replay in ANSWERED if replay.is_stream]
BROKEN = [one for one in STREAMS if any(plain.is_error(event) for event in plain.split(one.body))]
SOUND = [replay for replay in STREAMS if replay not in BROKEN]

GATEWAYS_WORDS = {"tags": ["replayed"], "num_retries": 0, "litellm_session_id": "session"}
"""What the client says to the gateway and no provider must hear."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def playback(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Playback]:
    async with playing(Path(tmp_path_factory.mktemp("recordings")), ALL) as playback:
        yield playback


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def openai_sdk(playback: Playback) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=playback.gw.url + "/v1", api_key=CLIENT_KEY, max_retries=0) as sdk:
        yield sdk


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def anthropic_sdk(playback: Playback) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=playback.gw.url, api_key=CLIENT_KEY, max_retries=0) as sdk:
        yield sdk


def only(replays: list[Replay], *, operation: str) -> list[Replay]:
    return [replay for replay in replays if replay.operation == operation]


def is_outside(replay: Replay) -> bool:
    return replay.row == "xai"


def knows_stream_options(replay: Replay) -> bool:
    """Azure's API does since September 2024, other providers as their rows say."""
    is_old = bool(replay.api_version) and replay.api_version < "2024-09"
    return replay.provider.usage == "ask" and not is_old


# -- questions -------------------------------------------------------------------------------------------------------


def minimal(replay: Replay) -> dict[str, Any]:
    """The shortest question that such an answer could be the answer to."""
    if replay.operation == "embeddings":
        return {"input": "Hello!"}
    if replay.operation == "completions":
        question: dict[str, Any] = {"prompt": "Hello!"}
    else:
        question = {"messages": [{"role": "user", "content": "Hello!"}]}
    if replay.format == "anthropic":
        question["max_tokens"] = 100
    if replay.is_stream:
        question["stream"] = True
        if replay.format == "openai":
            question["stream_options"] = {"include_usage": True}
    return question


def question_of(replay: Replay) -> dict[str, Raw]:
    """What the client sends: the recorded values as their bytes, with our model and words to the gateway."""
    asked = replay.question or json.dumps(minimal(replay)).encode()
    question: dict[str, Raw] = msgspec.json.decode(asked, type=dict[str, Raw])
    ours = {"model": public_name("passed", replay), **GATEWAYS_WORDS}
    if replay.wants_stream:
        ours["stream"] = True  # openai/completions-stream-n2 does not say it
    return question | {name: Raw(msgspec.json.encode(value)) for name, value in ours.items()}


def check_passed_question(playback: Playback, replay: Replay, sent: dict[str, Raw]) -> None:
    """The provider was asked at its address, with its key, and every value is the same bytes."""
    asked, row = playback.asked, replay.provider
    assert (asked.method, asked.path) == ("POST", replay.path)
    key = {"x-api-key": ("x-api-key", PROVIDER_KEY), "api-key": ("api-key", PROVIDER_KEY)}
    name, value = key.get(row.auth, ("authorization", f"Bearer {PROVIDER_KEY}"))
    assert asked.headers[name] == value
    assert CLIENT_KEY not in str(asked.headers)
    for name, value in replay.question_headers.items():
        assert asked.headers[name] == value
    heard = msgspec.json.decode(asked.body, type=dict[str, Raw])
    expected = {row.rename.get(key, key): value for key, value in sent.items() if key not in row.rejects}
    expected = {key: value for key, value in expected.items() if key not in GATEWAYS_WORDS}
    asks_usage = replay.format == "openai" and replay.wants_stream and knows_stream_options(replay)
    options = json.loads(bytes(expected.pop("stream_options", b"{}")))
    told = json.loads(bytes(heard.pop("stream_options", b"{}")))
    assert told == (options | {"include_usage": True} if asks_usage else {})
    assert json.loads(bytes(heard.pop("model"))) == replay.model
    del expected["model"]
    assert {key: bytes(value) for key, value in heard.items()} == {
        key: bytes(value) for key, value in expected.items()
    }


# -- passed through --------------------------------------------------------------------------------------------------


async def pass_through(playback: Playback, replay: Replay, size: int = 0) -> Received:
    sent = question_of(replay)
    playback.will(replay, size)
    path = PATHS[replay.format, replay.operation]
    received = await playback.post(path, msgspec.json.encode(sent), replay.question_headers)
    check_passed_question(playback, replay, sent)
    return received


def check_renamed(
    theirs: bytes, ours: bytes, replay: Replay, opened: Callable[[bytes], Any] = plain.data_of
) -> None:
    """Our bytes are theirs, but for the model's name where it stands on top of what is `opened`."""
    before, after = opened(theirs), opened(ours)
    if replay.row == "mistral" and re.search(rb'"content": ?\[', theirs):  # tests/adapters/test_mistral.py
        assert after["model"] == public_name("passed", replay)
        return
    place: tuple[Any, Any] = (before, after)
    if replay.format == "anthropic" and before and before.get("type") == "message_start":
        place = (before["message"], after["message"])
    renamed = ours
    if isinstance(place[0], dict) and "model" in place[0]:
        name = public_name("passed", replay)
        assert place[1]["model"] == name
        assert ours.count(json.dumps(name).encode()) == 1
        renamed = ours.replace(json.dumps(name).encode(), json.dumps(place[0]["model"]).encode())
    assert renamed == theirs


def check_headers(received: Received, replay: Replay) -> None:
    """What a provider tells of limits and ids crosses; what is between us and it does not."""
    assert "set-cookie" not in received.headers
    if received.status == 200:
        assert "retry-after" not in received.headers
        for name, value in replay.headers.items():
            if name.startswith("x-ratelimit-"):
                assert received.headers[name] == value
        if "x-request-id" in replay.headers:
            assert received.headers["llm_provider-x-request-id"] == replay.headers["x-request-id"]


def check_row(row: LedgerRow, replay: Replay, kind: str) -> None:
    """The ledger's row says who answered and what it cost."""
    assert (row.model_requested, row.model_group) == (public_name(kind, replay),) * 2
    assert (row.provider, row.model, row.stream) == (replay.row, replay.model, replay.wants_stream)
    assert len(row.attempts) == 1
    assert row.attempts[0].status == replay.status


def check_tokens(row: LedgerRow, replay: Replay) -> None:
    """Tokens are what the provider reported, or are marked as estimated."""
    tokens = plain.read_tokens(
        replay.format, replay.body, is_stream=replay.is_stream, reasoning_is_outside=is_outside(replay)
    )
    if tokens is None:
        # Whole answers without usage, and count_tokens, which costs nothing.
        assert row.usage_source == ("none" if replay.operation == "count_tokens" else "estimated")
        return
    assert row.usage_source == "reported"
    assert tokens == plain.Tokens(
        prompt=row.prompt_tokens,
        completion=row.completion_tokens,
        cache_read=row.cache_read,
        cache_write=row.cache_write + row.cache_write_1h,
        reasoning=row.reasoning,
    )


@pytest.mark.parametrize("replay", WHOLE, ids=str)
async def test_an_answer_passes(playback: Playback, replay: Replay) -> None:
    """A whole answer reaches a client of its own format as the same bytes, but for the model's name."""
    received = await pass_through(playback, replay)
    assert (received.status, received.is_whole) == (200, True)
    assert received.headers["content-type"] == "application/json"
    check_headers(received, replay)
    check_renamed(replay.body, received.body, replay, json.loads)
    row = await playback.row(received.headers["x-request-id"])
    check_row(row, replay, "passed")
    check_tokens(row, replay)
    assert (row.status, row.http_status, row.operation) == ("success", 200, replay.operation)


def relayed(replay: Replay) -> list[bytes]:
    """The events that the client shall see: all but the usage that it did not ask for."""
    question = json.loads(replay.question) if replay.question else minimal(replay)
    wants_usage = (question.get("stream_options") or {}).get("include_usage") is True
    found = []
    for event in plain.split(replay.body):
        data = plain.data_of(event) or {}
        is_usage = bool(data.get("usage")) and data.get("choices") == []
        if wants_usage or not is_usage or replay.format == "anthropic":
            found.append(event)
    return found


@pytest.mark.parametrize("size", [0, 37], ids=["at-once", "in-pieces"])
@pytest.mark.parametrize("replay", SOUND, ids=str)
async def test_a_stream_passes(playback: Playback, replay: Replay, size: int) -> None:
    """A stream, however it is cut, reaches a client of its own format as the same events."""
    await check_passing(playback, replay, size)


@pytest.mark.parametrize("replay", one_of_each_feature(SOUND), ids=str)
async def test_a_stream_passes_byte_by_byte(playback: Playback, replay: Replay) -> None:
    """It does not matter where the network cuts, for either client."""
    await check_passing(playback, replay, 1)
    if replay.operation == "chat":
        await check_translation(playback, replay, 1)


async def check_passing(playback: Playback, replay: Replay, size: int) -> None:
    received = await pass_through(playback, replay, size)
    assert (received.status, received.is_whole) == (200, True)
    assert received.headers["content-type"].startswith("text/event-stream")
    check_headers(received, replay)
    theirs, ours = relayed(replay), plain.split(received.body)
    if replay.format == "openai" and b"[DONE]" not in replay.body:
        assert ours.pop() == b"data: [DONE]\n\n"  # Perplexity and Writer leave it out, SDKs wait for it
    assert len(ours) == len(theirs)
    for before, after in zip(theirs[:-1], ours[:-1], strict=True):
        check_renamed(before, after, replay)
    check_renamed(theirs[-1].rstrip(), ours[-1].rstrip(), replay)
    row = await playback.row(received.headers["x-request-id"])
    check_row(row, replay, "passed")
    check_tokens(row, replay)
    assert row.status == "success"


# -- errors ----------------------------------------------------------------------------------------------------------

CONTEXT = (
    "maximum context length",
    "prompt is too long",
    "prompt too long",
    "too_many_prompt_tokens",
    "request too large for model",  # Groq: a 413 that no waiting helps
)
BY_STATUS = {
    400: (400, "upstream_bad_request"),
    401: (502, "upstream_auth"),
    404: (404, "upstream_not_found"),
    429: (429, "upstream_rate_limited"),
    500: (502, "upstream_error"),
    529: (503, "upstream_overloaded"),
}
"""The provider's status → what the client gets and why."""


def expected_error(replay: Replay) -> tuple[int, str]:
    said = replay.body.decode().lower()
    if replay.status in {400, 413} and any(words in said for words in CONTEXT):
        return 400, "context_window_exceeded"
    if replay.status == 400 and "content_filter" in said:
        return 400, "content_policy_violation"
    return BY_STATUS[replay.status]


def words_of(body: bytes) -> str:
    """The provider's own words in an error."""
    told = json.loads(body)
    error = told.get("error")
    words = error.get("message") if isinstance(error, dict) else told.get("message")
    return str(words)


REFUSED_IN = [
    pytest.param(replay, form, id=f"{replay.name}-{form}")
    for replay in REFUSED
    for form in ("openai", "anthropic")
    if form == replay.format or replay.operation == "chat"
]


@pytest.mark.parametrize(("replay", "form"), REFUSED_IN)
async def test_an_error_is_told(playback: Playback, replay: Replay, form: str) -> None:
    """A provider's refusal has the status and the reason that it means, in the client's dialect, and one row."""
    is_same = form == replay.format
    received = await (pass_through if is_same else translate)(playback, replay)
    status, reason = expected_error(replay)
    assert received.status == status
    plain.check_error(received.body, form, says="" if replay.status == 401 else words_of(replay.body))
    if is_same and form == "openai" and reason == "upstream_bad_request":
        told, kept = json.loads(received.body)["error"], json.loads(replay.body)["error"]
        assert told["param"] == kept.get("param")
        assert told["code"] == (kept.get("code") or str(status))
    assert received.headers.get("retry-after") == replay.headers.get("retry-after")
    row = await playback.row(received.headers["x-request-id"])
    check_row(row, replay, "passed" if is_same else "translated")
    assert (row.status, row.http_status, row.reason) == ("failure", status, reason)
    assert (row.usage_source, row.cost_nano) == ("none", 0)


BROKEN_BY = {
    "anthropic/messages-stream-err-midstream": (503, "upstream_overloaded"),
    "gpustack/": (502, "upstream_error"),
    "groq/": (400, "upstream_bad_request"),
    "openai/": (502, "upstream_error"),
    "openrouter/": (400, "upstream_bad_request"),
    "transcripts/anthropic/error_at_once": (502, "upstream_error"),
    "transcripts/anthropic/error_in_stream": (503, "upstream_overloaded"),
    "transcripts/openai/error_at_once": (429, "upstream_rate_limited"),
    "transcripts/openai/error_in_stream": (502, "upstream_error"),
    "transcripts/openrouter/error_in_stream": (502, "upstream_error"),
}
"""What breaks off each of the broken streams."""


@pytest.mark.parametrize("size", [0, 37], ids=["at-once", "in-pieces"])
@pytest.mark.parametrize("form", ["openai", "anthropic"])
@pytest.mark.parametrize("replay", BROKEN, ids=str)
async def test_a_broken_stream_is_told(playback: Playback, replay: Replay, form: str, size: int) -> None:
    """A stream that breaks ends with an error event and unclean, one that begins so is refused; nothing follows."""
    is_same = form == replay.format
    received = await (pass_through if is_same else translate)(playback, replay, size)
    status, reason = next(known for name, known in BROKEN_BY.items() if replay.name.startswith(name))
    theirs = relayed(replay)
    at = next(at for at, event in enumerate(theirs) if plain.is_error(event))
    said = plain.data_of(theirs[at])["error"].keys() - {"type", "message"} if is_same else ()
    if any(plain.data_of(event) for event in theirs[:at]):
        assert (received.status, received.is_whole) == (200, False)
        *ours, last = plain.split(received.body)
        assert plain.is_error(last)
        plain.check_error(json.dumps(plain.data_of(last)).encode(), form, says="", besides=said)
        assert not any(plain.is_error(event) for event in ours)
        assert b"[DONE]" not in received.body
        assert b"message_stop" not in received.body
        if is_same:
            assert len(ours) == at
            for before, after in zip(theirs, ours, strict=False):
                check_renamed(before, after, replay)
    else:
        assert (received.status, received.is_whole) == (status, True)
        plain.check_error(received.body, form, says="", besides=said)
    row = await playback.row(received.headers["x-request-id"])
    check_row(row, replay, "passed" if is_same else "translated")
    assert (row.status, row.reason) == ("failure", reason)


# -- translated ------------------------------------------------------------------------------------------------------


def other(replay: Replay) -> str:
    return "anthropic" if replay.format == "openai" else "openai"


def tool_names(replay: Replay) -> list[str]:
    """The functions that the recorded question offers."""
    question = json.loads(replay.question or b"{}")
    functions = [tool.get("function") or tool for tool in question.get("tools") or []]
    has_schema = (tool for tool in functions if {"parameters", "input_schema"} & tool.keys())
    return [str(tool["name"]) for tool in has_schema if "name" in tool]


def foreign_question(replay: Replay, model: str) -> dict[str, Any]:
    """What a client of the other format would ask, with the recorded functions."""
    return plain_question(other(replay), model, stream=replay.wants_stream, tools=tool_names(replay))


def check_translated_question(playback: Playback, replay: Replay) -> None:
    """The provider was asked the same in its own words."""
    asked, heard, row = playback.asked, playback.asked.json, replay.provider
    assert (asked.method, asked.path) == ("POST", replay.path)
    assert heard["model"] == replay.model
    assert bool(heard.get("stream")) is replay.wants_stream
    tools = heard.get("tools", [])
    if replay.format == "openai":
        assert heard["messages"] == [{"role": "user", "content": "Hello!"}]
        assert heard[row.rename.get("max_completion_tokens", "max_completion_tokens")] == 1000
        assert [tool["function"]["name"] for tool in tools] == tool_names(replay)
        assert all(tool["function"]["parameters"] == SCHEMA for tool in tools)
        asks_usage = replay.wants_stream and knows_stream_options(replay)
        assert heard.get("stream_options") == ({"include_usage": True} if asks_usage else None)
    else:
        assert heard["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hello!"}]}]
        assert heard["max_tokens"] == 1000
        assert [tool["name"] for tool in tools] == tool_names(replay)
        assert all(tool["input_schema"] == SCHEMA for tool in tools)


async def translate(playback: Playback, replay: Replay, size: int = 0) -> Received:
    question = foreign_question(replay, public_name("translated", replay))
    playback.will(replay, size)
    received = await playback.post(PATHS[other(replay), "chat"], json.dumps(question).encode())
    check_translated_question(playback, replay)
    return received


def check_said(ours: plain.Said, replay: Replay) -> None:
    """The same text, reasoning, calls, finish and cost."""
    theirs = plain.read(
        replay.format, replay.body, is_stream=replay.is_stream, reasoning_is_outside=is_outside(replay)
    )
    if replay.format == "openai" and theirs.calls and theirs.finish == "stop" and ours.finish != "stop":
        theirs.finish = "tool_calls"  # servers that call and say "stop"
    assert all(ours.ids)
    if all(theirs.ids):
        assert ours.ids == theirs.ids
    theirs.ids = ours.ids
    assert ours == theirs


@pytest.mark.parametrize("replay", only(WHOLE, operation="chat"), ids=str)
async def test_an_answer_is_translated(playback: Playback, replay: Replay) -> None:
    """A client of the other format gets the same text, tool calls, finish and usage."""
    received = await translate(playback, replay)
    assert received.status == 200
    told = json.loads(received.body)
    assert told["model"] == public_name("translated", replay)
    check_said(plain.read(other(replay), received.body, is_stream=False), replay)
    row = await playback.row(received.headers["x-request-id"])
    check_row(row, replay, "translated")
    check_tokens(row, replay)


@pytest.mark.parametrize("replay", only(SOUND, operation="chat"), ids=str)
async def test_a_stream_is_translated(playback: Playback, replay: Replay) -> None:
    """A client of the other format gets a well-formed stream of the same text, tool calls, finish and usage."""
    await check_translation(playback, replay, 37)


async def check_translation(playback: Playback, replay: Replay, size: int) -> None:
    received = await translate(playback, replay, size)
    assert (received.status, received.is_whole) == (200, True)
    if other(replay) == "anthropic":
        plain.check_anthropic_stream(received.body)
    else:
        plain.check_openai_stream(received.body)
    check_said(plain.read(other(replay), received.body, is_stream=True), replay)
    row = await playback.row(received.headers["x-request-id"])
    check_row(row, replay, "translated")
    check_tokens(row, replay)


# -- the official SDKs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replay", only(SOUND, operation="chat"), ids=str)
async def test_openai_sdk_reads_the_stream(
    playback: Playback, openai_sdk: openai.AsyncOpenAI, replay: Replay
) -> None:
    """OpenAI's SDK puts the same answer together from every stream, whoever wrote it."""
    playback.will(replay)
    stream = await openai_sdk.chat.completions.create(
        model=public_name("openai-sdk", replay),
        messages=[{"role": "user", "content": "Hello!"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk.model_dump(warnings=False) async for chunk in stream]
    assert all(chunk["model"] == public_name("openai-sdk", replay) for chunk in chunks if chunk["choices"])
    is_raw = replay.format == "openai" and is_outside(replay)
    check_said(plain.read_openai(chunks, is_stream=True, reasoning_is_outside=is_raw), replay)


@pytest.mark.filterwarnings(
    "ignore:Pydantic serializer warnings"
)  # the SDK, of a block that it does not know
@pytest.mark.parametrize("replay", only(SOUND, operation="chat"), ids=str)
async def test_anthropic_sdk_reads_the_stream(
    playback: Playback, anthropic_sdk: anthropic.AsyncAnthropic, replay: Replay
) -> None:
    """Anthropic's SDK puts the same answer together from every stream, whoever wrote it."""
    playback.will(replay)
    async with anthropic_sdk.messages.stream(
        model=public_name("anthropic-sdk", replay),
        max_tokens=1000,
        messages=[{"role": "user", "content": "Hello!"}],
    ) as stream:
        message = await stream.get_final_message()
    assert message.model == public_name("anthropic-sdk", replay)
    check_said(plain.read_anthropic(message.model_dump(warnings=False)), replay)
