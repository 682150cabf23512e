"""Both sides speak Anthropic's format: the answer passes, with another model's name. Part of `adapters.anthropic`.

This is the hot path: a delta of a block is known by its first bytes and passes unread. Only events that say something
of the whole answer are opened. The whitespace with which Anthropic pads its events passes too.
"""

from __future__ import annotations

import re

import msgspec

from adapters.anthropic_answers import (
    error_in,
    is_one_delta,
    newer,
    open_event,
    read_finish,
    read_usage,
)
from adapters.base import StreamEditor
from adapters.envelope import decode, with_model
from adapters.errors import GatewayError, UpstreamError, UpstreamMalformed
from adapters.framing import NEVER, on_one_line, read_event, sse, whole_events
from adapters.types import (
    FinishReason,
    Operation,
    Target,
    Usage,
)
from adapters.wire import anthropic as wire

_ANSWER = msgspec.json.Decoder(wire.Answer)
_encode = msgspec.json.Encoder().encode


def pass_response(
    body: bytes, target: Target, operation: Operation, *, model: str
) -> tuple[bytes, Usage | None, FinishReason | None, str]:
    """A whole answer, in which only the top-level `model` is another. An answer of count_tokens has none."""
    answer = decode(body, _ANSWER)
    if answer.type == "error" or answer.error is not None:
        raise error_in(body)
    if operation != "chat":
        return body, None, None, ""
    usage = read_usage(answer.usage) if answer.usage else None
    renamed, _ = with_model(body, _encode(answer.model), _encode(model))
    return renamed, usage, read_finish(answer.stop_reason), answer.id or ""


def pass_stream(target: Target, operation: Operation, *, model: str, wants_usage: bool) -> StreamEditor:
    """An editor for one streamed answer."""
    return _Editor(model)


_WORDS = frozenset({b"text", b"king", b"json"})
_WORDS_AND_END = re.compile(rb'((?:[^"\\\n]++|\\.)*+)"[^"\n]*+\n\n')


class _Editor:
    """Lets events pass. Only those that say something of the whole answer are opened, by their names."""

    __slots__ = (
        "_counts",
        "_head",
        "_model",
        "_start",
        "answer_id",
        "chars",
        "deltas",
        "done",
        "events",
        "failure",
        "finish",
        "usage",
    )

    def __init__(self, model: str) -> None:
        self.done = False
        self.failure: GatewayError | None = None
        self.usage: Usage | None = None
        self.finish: FinishReason | None = None
        self.answer_id = ""
        self.events = 0
        self.deltas = 0
        self.chars = 0
        self._model = _encode(model)
        self._counts = wire.Usage()
        self._head = NEVER
        self._start = 0

    def again(self, event: bytes) -> bytes:
        if event.startswith(self._head):  # 0.4 us: a delta like the one before it
            words = _WORDS_AND_END.fullmatch(event, self._start)
            if words:
                self.events += 1
                end = words.end(1)
                if end > self._start:
                    self.deltas += 1
                    self.chars += end - self._start
                return event
        return b""

    def feed(self, events: bytes) -> bytes:
        again = self.again(events)
        if again:
            return again
        whole = whole_events(events)
        return self._pass(whole[0]) if len(whole) == 1 else b"".join([self.feed(event) for event in whole])

    def close(self) -> bytes:
        if not self.done and self.failure is None:
            self.failure = UpstreamMalformed("The provider's stream ended without `message_stop`")
        return b""

    def _count(self, event: bytes) -> int:
        """Count a delta of a block, and say where its words begin (0: there are none).

        The last string in it are its words, if it is called `text`, `thinking` or `partial_json`.
        """
        self.events += 1
        end = event.rfind(b'"')
        at, gap = event.rfind(b'":"', 0, end), 3
        if at < 0:
            at, gap = event.rfind(b'": "', 0, end), 4
        length = end - at - gap
        if length > 0 and event[at - 4 : at] in _WORDS:
            self.deltas += 1
            self.chars += length
            return at + gap
        return 0

    def _pass(self, event: bytes) -> bytes:
        if self.done or self.failure is not None:
            return b""
        try:
            return self._edit(event)
        except UpstreamError as error:
            self.failure = error
            self._head = NEVER
            return b""

    def _edit(self, event: bytes) -> bytes:
        if is_one_delta(event):
            start = self._count(event)
            if start:  # what begins the same, up to the words, is such a delta too
                self._start, self._head = start, event[:start]
            return event
        name, data = read_event(event)
        opened = open_event(name, data) if data else wire.Event("ping")
        if opened is not None and opened.type == "ping":
            return event
        if opened is not None and opened.type == "content_block_delta":
            self._count(event)
            return event
        self.events += 1
        if opened is None:
            return event
        if opened.type == "message_start" and opened.message is not None:
            return self._begin(opened.message, event, data)
        if opened.type == "message_delta":
            self._know(opened.usage)
            if opened.delta is not None and opened.delta.stop_reason:
                self.finish = read_finish(opened.delta.stop_reason)
        if opened.type == "message_stop":
            self.done = True
            self._head = NEVER
        return event

    def _know(self, counts: wire.Usage | None) -> None:
        if counts is not None:
            self._counts = newer(self._counts, counts)
            self.usage = read_usage(self._counts)

    def _begin(self, message: wire.Answer, event: bytes, data: bytes) -> bytes:
        self._know(message.usage)
        self.answer_id = message.id or ""
        edited, _ = with_model(data, _encode(message.model), self._model, in_message=True)
        at = event.find(data)
        if at < 0:  # its data were on several lines
            return sse(on_one_line(edited), b"message_start")
        return event[:at] + edited + event[at + len(data) :]
