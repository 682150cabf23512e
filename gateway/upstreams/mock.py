"""An answer that needs no upstream: the text of `mock_response`, as OpenAI would have sent it.

Operators use it to try a configuration, and clients to be tested against a gateway, without spending a cent. It looks
like any other upstream's answer to the rest of the gateway, pauses included, so that limits, usage and bills are those
of a real request.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec

from adapters.framing import sse
from gateway.upstreams.response import UpstreamResponse

_WORD = re.compile(r"\s*\S+(?:\s+\Z)?|\s+\Z")


class MockResponse(UpstreamResponse):
    """An answer from a script: pieces of a body, each some seconds after the one before."""

    __slots__ = ()

    def __init__(self, script: list[tuple[float, bytes]], content_type: str) -> None:
        super().__init__(_Player(self, script))
        self.status = 200
        self.headers = {"content-type": content_type}


class _Player:
    """Plays a script into a response: timers only, no task, so nothing is left when nobody listens."""

    def __init__(self, response: UpstreamResponse, script: list[tuple[float, bytes]]) -> None:
        self._response = response
        self._script = script
        self._next = 0
        self._paused = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._schedule()

    def pause(self) -> None:
        """Send nothing for now."""
        self._paused = True
        self._cancel()

    def resume(self) -> None:
        """Go on; the wait for the next piece begins anew."""
        if self._paused:
            self._paused = False
            self._schedule()

    def abort(self) -> None:
        """Send nothing any more."""
        self._paused = True
        self._cancel()

    def _schedule(self) -> None:
        if self._next == len(self._script):
            self._timer = self._loop.call_soon(self._response.complete)
            return
        seconds = self._script[self._next][0]
        if seconds > 0:
            self._timer = self._loop.call_later(seconds, self._play)
        else:
            self._timer = self._loop.call_soon(self._play)

    def _play(self) -> None:
        self._timer = None
        piece = self._script[self._next][1]
        self._next += 1
        self._response.feed(piece)
        if not self._paused:
            self._schedule()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def mock_answer(
    *,
    text: str,
    model: str,
    stream: bool,
    answer_id: str,
    now: int,
    include_usage: bool,
    first_delay: float,
    delay: float,
    prompt_tokens: int,
) -> MockResponse:
    """A chat completion that says `text`, whole or streamed word by word.

    `first_delay` seconds pass before the first word (or the whole answer), `delay` between words. Each word counts as
    a token. `include_usage` asks for usage at the end of a stream, as `stream_options` does.
    """
    words = _WORD.findall(text)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(words),
        "total_tokens": prompt_tokens + len(words),
    }
    envelope = {"id": answer_id, "created": now, "model": model}
    if not stream:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        whole = {**envelope, "object": "chat.completion", "choices": [choice], "usage": usage}
        return MockResponse([(first_delay, msgspec.json.encode(whole))], "application/json")

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**envelope, "object": "chat.completion.chunk", "choices": [choice]})

    script = [(first_delay, chunk({"role": "assistant", "content": ""}))]
    script += [(delay if index else 0.0, chunk({"content": word})) for index, word in enumerate(words)]
    end = chunk({}, "stop")
    if include_usage:
        end += _event({**envelope, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    script.append((0.0, end + sse(b"[DONE]")))
    return MockResponse(script, "text/event-stream")


def _event(chunk: dict[str, Any]) -> bytes:
    return sse(msgspec.json.encode(chunk))
