"""Both sides speak OpenAI's format: the answer passes, with the client's name for the model. Part of `adapters.openai`.

This is the hot path: about one microsecond for an ordinary chunk of a stream. Such a chunk is recognised by the bytes
that it shares with the one before it, among them the model's name, and goes on with these replaced; nothing is parsed.
Whatever looks different is opened one level: the model is replaced at its place, and what the gateway must know is
read (usage, a finish reason, an error, the terminator).
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

from adapters.envelope import decode, seal, span_of
from adapters.errors import GatewayError, UpstreamError, UpstreamMalformed
from adapters.framing import read_event, split_events
from adapters.openai_answers import find_usage, is_broken, read_error, read_finish
from adapters.types import FinishReason, Operation, Provider, Target, Usage
from adapters.wire import openai as wire

_DONE = b"data: [DONE]\n\n"
_OUTLINE = msgspec.json.Decoder(wire.Outline)
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


def pass_response(
    body: bytes,
    target: Target,
    operation: Operation,
    *,
    model: str,
) -> tuple[bytes, Usage | None, FinishReason | None, str]:
    """A whole answer with the client's `model`, every other byte as it came.

    Returns (body, usage, finish, the provider's id). Raises the error that hides in a 200.
    """
    outline = decode(body, _OUTLINE)
    if is_broken(outline):
        raise read_error(0, {}, body)
    words = [choice.finish_reason for choice in outline.choices or () if choice.finish_reason is not None]
    finish = read_finish(words[0]) if words else None
    renamed, _ = _rename_model(body, _encode(model))
    return renamed, find_usage(outline, target.provider), finish, outline.id or ""


def _rename_model(data: bytes, model: bytes) -> tuple[bytes, tuple[int, int] | None]:
    """The object with `model` as its top-level model, and where the old one stood (None: nowhere, or resealed)."""
    fields = decode(data, _OBJECT)
    if "model" not in fields:
        return data, None
    span = span_of(data, fields, "model")
    if span is None:
        return seal({**fields, "model": Raw(model)}), None
    return data[: span[0]] + model + data[span[1] :], span


_WORDS = re.compile(
    rb'"(?:content|reasoning_content|reasoning|text|refusal|arguments)": ?"((?:[^"\\]|\\.)+)"', re.DOTALL
)
_INSIDE = re.compile(rb'(?:[^"\\]|\\.)*', re.DOTALL)
_PADDING = re.compile(rb'"(?:obfuscation|p)": ?"([^"\\]*)"\}\s*\Z')
_NEVER = b"\x00"


class ChatEditor:
    """Passes one stream of chunks on, with the client's `model`.

    Chunks that carry words differ from one another in these words alone (and in a padding at the end, which hides
    their length from who watches the wire). So the editor learns the last one that said nothing else: what stands
    before the words and behind them, and what shall stand there. A chunk that begins and goes on with the same bytes
    has the same structure: no usage, no finish reason, no error, no other choice. This is exact for valid JSON, as the
    learned bytes are whole tokens and what differs is the inside of one string. All other events are opened.
    """

    __slots__ = (
        "_behind",
        "_end",
        "_finished",
        "_head",
        "_model",
        "_new_behind",
        "_new_head",
        "_provider",
        "_started",
        "_wants_usage",
        "answer_id",
        "chars",
        "deltas",
        "done",
        "events",
        "failure",
        "finish",
        "usage",
    )

    def __init__(self, provider: Provider, model: str, *, wants_usage: bool) -> None:
        self._provider = provider
        self._model = _encode(model)
        self._wants_usage = wants_usage
        self._head = _NEVER
        self._behind = self._new_head = self._new_behind = self._end = b""
        self._started: set[int] = set()
        self._finished: set[int] = set()
        self.done = False
        self.failure: GatewayError | None = None
        self.usage: Usage | None = None
        self.finish: FinishReason | None = None
        self.answer_id = ""
        self.events = 0
        self.deltas = 0
        self.chars = 0

    def feed(self, events: bytes) -> bytes:
        if events.find(b"\n") == len(events) - 2:
            return self._edit(events)
        if b"\r" in events:
            return b"".join([self._edit(event) for event in split_events(events)])
        out = []
        at = 0
        while (end := events.find(b"\n\n", at) + 2) > 1:
            out.append(self._edit(events[at:end]))
            at = end
        if at < len(events):
            out.append(self._edit(events[at:]))
        return b"".join(out)

    def close(self) -> bytes:
        if self.done or self.failure is not None:
            return b""
        if self._finished and self._started <= self._finished:
            self.done = True
            return _DONE  # Perplexity and others simply end
        self.failure = UpstreamMalformed("The provider's stream ended before the answer did")
        return b""

    def _edit(self, event: bytes) -> bytes:
        start = len(self._head)
        if event.startswith(self._head):
            end = event.find(b'"', start)
            if event[end - 1] == 0x5C:  # an escaped quote, or a backslash at the end
                inside = _INSIDE.match(event, start)
                end = inside.end() if inside else end
            rest = end + len(self._behind)
            if event.startswith(self._behind, end) and (rest == len(event) or self._is_padding(event, rest)):
                self.events += 1
                if end > start:
                    self.deltas += 1
                    self.chars += end - start
                return self._new_head + event[start:end] + self._new_behind + event[rest:]
        return self._open(event)

    def _is_padding(self, event: bytes, at: int) -> bool:
        """Is the rest of the event the inside of one string, and the end that follows it?"""
        end = self._end
        return end != b"" and event.endswith(end) and event.find(b'"', at) == len(event) - len(end)

    def _open(self, event: bytes) -> bytes:
        """The slow way: for all that is not a chunk of words like the one before it."""
        if self.done or self.failure is not None:
            return b""
        name, data = read_event(event)
        if not data:
            return event  # a comment
        if data.startswith(b"[DONE]"):
            self.events += 1
            self.done, self._head = True, _NEVER
            return event
        try:
            if name == b"error":
                raise read_error(0, {}, data)
            outline = decode(data, _OUTLINE)
            usage = self._note(outline, data)
            renamed, span = _rename_model(data, self._model)
        except UpstreamError as error:
            self.failure, self._head = error, _NEVER
            return b""
        self.events += 1
        words = _WORDS.search(event)
        if words:
            self.deltas += 1
            self.chars += words.end(1) - words.start(1)
        if usage is not None and not outline.choices and not self._wants_usage:
            return b""
        offset = event.find(data)
        if offset < 0:  # several data lines
            return b"data: " + renamed.replace(b"\n", b" ") + b"\n\n"
        edited = event[:offset] + renamed + event[offset + len(data) :]
        is_quiet = usage is None and not any(choice.finish_reason for choice in outline.choices or ())
        if words and span and is_quiet:
            self._learn(event, edited, words, offset + span[0])
        return edited

    def _note(self, outline: wire.Outline, data: bytes) -> Usage | None:
        """Note what a chunk says of the answer, and return its usage. Raises the error that it is."""
        usage = find_usage(outline, self._provider)
        self.usage = usage or self.usage
        self.answer_id = self.answer_id or outline.id or ""
        for choice in outline.choices or ():
            self._started.add(choice.index or 0)
            if choice.finish_reason:
                self._finished.add(choice.index or 0)
                self.finish = read_finish(choice.finish_reason)
        if is_broken(outline) or self.finish == "error":
            raise read_error(0, {}, data)
        return usage

    def _learn(self, event: bytes, edited: bytes, words: re.Match[bytes], model_at: int) -> None:
        padding = _PADDING.search(event, words.end(1))
        end = padding.start(1) if padding else len(event)
        self._head = event[: words.start(1)]
        self._behind = event[words.end(1) : end]
        self._end = event[padding.end(1) :] if padding else b""
        longer = len(edited) - len(event)
        shift = longer if model_at < words.start(1) else 0
        self._new_head = edited[: words.start(1) + shift]
        self._new_behind = edited[words.end(1) + shift : end + longer]


def pass_stream(target: Target, operation: Operation, *, model: str, wants_usage: bool) -> ChatEditor:
    """An editor of chunks of chat or completions; `wants_usage` is the client's `stream_options.include_usage`."""
    return ChatEditor(target.provider, model, wants_usage=wants_usage)
