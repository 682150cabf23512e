"""Answers that need no upstream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from adapters.errors import UpstreamError
from adapters.framing import read_events
from gateway.upstreams import MockResponse, mock_answer


def mock(text: str = "Hello big world", **options: Any) -> MockResponse:
    given: dict[str, Any] = {
        "model": "gpt-4o",
        "stream": True,
        "answer_id": "chatcmpl-1",
        "now": 1700000000,
        "include_usage": False,
        "first_delay": 0.0,
        "delay": 0.0,
        "prompt_tokens": 7,
    }
    return mock_answer(text=text, **{**given, **options})


async def pump(response: MockResponse) -> list[dict[str, Any]]:
    """The streamed chunks; the terminator must be the last event."""
    pieces: list[bytes] = []
    over: asyncio.Future[UpstreamError | None] = asyncio.get_running_loop().create_future()
    response.pump(pieces.append, over.set_result)
    assert await over is None
    *chunks, last = [data for _, data in read_events(b"".join(pieces))]
    assert last == b"[DONE]"
    return [json.loads(chunk) for chunk in chunks]


async def test_a_whole_answer() -> None:
    """Without streaming the text comes as one chat completion, words counted as tokens."""
    async with mock(stream=False) as response:
        assert response.status == 200
        assert response.headers["content-type"] == "application/json"
        body = json.loads(await response.read(10_000, 10))
    assert body["id"] == "chatcmpl-1"
    assert body["object"] == "chat.completion"
    assert body["created"] == 1700000000
    assert body["model"] == "gpt-4o"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello big world"}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


async def test_a_stream_comes_word_by_word() -> None:
    """Role, words with their spaces, the finish, and no usage unless it was asked for."""
    async with mock() as response:
        assert response.headers["content-type"] == "text/event-stream"
        chunks = await pump(response)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"] for delta in deltas[1:-1]] == ["Hello", " big", " world"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_last_where_it_was_asked_for() -> None:
    """With `include_usage` a chunk without choices follows the finish."""
    async with mock(include_usage=True) as response:
        *_, last = await pump(response)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("text", ["", " ", "a", "  a\n\nb  ", "\n", "déjà vu \u2028 x"])
async def test_the_words_make_the_text(text: str) -> None:
    """Nothing of the text is lost, whatever its spaces."""
    async with mock(text) as response:
        chunks = await pump(response)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text


async def test_delays_keep_the_order() -> None:
    """With pauses before and between the words the stream is the same."""
    async with mock(first_delay=0.01, delay=0.002) as response:
        assert len(await pump(response)) == 5


async def test_a_paused_answer_waits() -> None:
    """After `pause` nothing comes, after `resume` the rest does."""
    pieces: list[bytes] = []
    over: asyncio.Future[UpstreamError | None] = asyncio.get_running_loop().create_future()
    async with mock() as response:
        response.pause()
        response.pump(pieces.append, over.set_result)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not pieces
        response.resume()
        assert await over is None
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


async def test_an_aborted_answer_is_over() -> None:
    """After `abort` the pump is told once, and nothing more comes."""
    pieces: list[bytes] = []
    ends: list[UpstreamError | None] = []
    async with mock(first_delay=3600.0) as response:
        response.pump(pieces.append, ends.append)
        response.abort()
        for _ in range(50):
            await asyncio.sleep(0)
    assert not pieces
    assert len(ends) == 1
    assert ends[0] is not None


async def test_a_receiver_may_abort() -> None:
    """Aborting out of `receive` stops the script at that piece."""
    pieces: list[bytes] = []
    ends: list[UpstreamError | None] = []
    response = mock()

    def receive(piece: bytes) -> None:
        pieces.append(piece)
        response.abort()

    response.pump(receive, ends.append)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(pieces) == len(ends) == 1
