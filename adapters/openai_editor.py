"""Both sides speak OpenAI's format: the answer passes, with the client's name for the model. Part of `adapters.openai`.

This is the hot path: half a microsecond for an ordinary chunk of a stream. Such a chunk is recognised by the bytes
that it shares with the one before it, among them the model's name, and goes on with these replaced; nothing is parsed.
Whatever looks different is opened one level: the model is replaced at its place, and what the gateway must know is
read (usage, a finish reason, an error, the terminator).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from adapters.envelope import decode, with_model
from adapters.errors import GatewayError, UpstreamError, UpstreamMalformed
from adapters.framing import NEVER, on_one_line, read_event, whole_events
from adapters.mistral import plain_chat, plain_completion
from adapters.openai_answers import is_broken, parts_of_tail, read_error, read_finish, without_choices
from adapters.openai_usage import find_usage
from adapters.types import FinishReason, Operation, Provider, Target, Usage
from adapters.wire import openai as wire

_DONE = b"data: [DONE]\n\n"
_OUTLINE = msgspec.json.Decoder(wire.Outline)
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
    plainly = _plainly(target, operation) if target.provider.quirks else None
    if plainly is not None:
        body = plainly(body)
    outline = decode(body, _OUTLINE)
    if is_broken(outline):
        raise read_error(0, {}, body)
    if outline.choices is None and operation in _CHOOSING:
        raise without_choices(body)
    finish = None
    for choice in outline.choices or ():
        if choice.finish_reason is not None:
            finish = read_finish(choice.finish_reason)
            break
    renamed, _ = with_model(body, outline.model, _encode(model))
    return renamed, find_usage(outline, target.provider), finish, outline.id or ""


_CHOOSING = frozenset({"chat", "completions"})
"""What is answered with choices. An empty list of them says that a filter has withheld them all: that passes."""


def _plainly(target: Target, operation: Operation) -> Callable[[bytes], bytes] | None:
    """What makes an answer one of OpenAI's; None if it is one. May raise `UpstreamMalformed`."""
    if "mistral" not in target.provider.quirks:
        return None
    return {"chat": plain_chat, "completions": plain_completion}.get(operation)


_WORDS = re.compile(
    rb'"(?:content|reasoning_content|reasoning|text|refusal|arguments)": ?"((?:[^"\\]|\\.)+)"', re.DOTALL
)
_QUOTE, _BACKSLASH, _LINE_END = b'"\\\n'
_INSIDE = re.compile(rb'(?:[^"\\\n]|\\.)++')


def _words_in(event: bytes) -> tuple[int, int] | None:
    """Where the words of a chunk stand, inside of their quotes; None if it has none."""
    start = event.find(b'"content":"') + 11
    if start > 10:  # what nearly all servers write: 0.3 us, and a search with a pattern takes 3
        end = event.find(b'"', start)
        if end > start and event.find(b"\\", start, end) < 0:
            return start, end
        if end == start and _has_no_other_words(event):
            return None
    words = _WORDS.search(event)
    return words.span(1) if words else None


def _has_no_other_words(event: bytes) -> bool:
    # In full: with a loop over the names the first event of each stream takes twice as long. And `in` takes bytes for a
    # number first, which costs more than the search.
    return (
        event.find(b"reasoning") < 0
        and event.find(b"text") < 0
        and event.find(b"arguments") < 0
        and event.find(b'"refusal":"') < 0
        and event.find(b'"refusal": "') < 0
    )


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
        "_end_size",
        "_finished",
        "_head",
        "_model",
        "_new_behind",
        "_new_end",
        "_new_head",
        "_others",
        "_plainly",
        "_provider",
        "_start",
        "_started",
        "_wants_usage",
        "answer_id",
        "chars",
        "deltas",
        "done",
        "failure",
        "finish",
        "usage",
    )

    def __init__(
        self,
        provider: Provider,
        model: str,
        *,
        wants_usage: bool,
        plainly: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._provider = provider
        self._plainly = plainly
        self._model = _encode(model)
        self._wants_usage = wants_usage
        self._start = 0
        self._new_head = self._new_behind = self._new_end = b""
        self._forget()
        self._started: set[int] = set()
        self._finished: set[int] = set()
        self.done = False
        self.failure: GatewayError | None = None
        self.usage: Usage | None = None
        self.finish: FinishReason | None = None
        self.answer_id = ""
        self._others = 0
        """Events without words."""
        self.deltas = 0
        self.chars = 0

    @property
    def events(self) -> int:
        return self.deltas + self._others

    def again(self, event: bytes) -> bytes:
        if event.startswith(self._head) and event.endswith(self._end):
            words = event[self._start : -self._end_size]
            padding = b""
            if self._behind:
                words, behind, padding = words.partition(self._behind)
                if not behind or _QUOTE in padding or _BACKSLASH in padding or _LINE_END in padding:
                    return b""
            # Three searches, because one with a pattern takes longer; for numbers, as one for bytes takes five times that.
            is_plain = _QUOTE not in words and _BACKSLASH not in words and _LINE_END not in words
            if (is_plain and words) or _INSIDE.fullmatch(words):
                self.deltas += 1
                self.chars += len(words)
                return b"".join((self._new_head, words, self._new_behind, padding, self._new_end))
        return b""

    def feed(self, events: bytes) -> bytes:
        again = self.again(events)
        if again:
            return again
        if events.find(b"\n") == len(events) - 2:
            return self._open(events)
        whole = whole_events(events)
        return self._open(whole[0]) if len(whole) == 1 else b"".join([self.feed(event) for event in whole])

    def close(self) -> bytes:
        if self.done or self.failure is not None:
            return b""
        if self._finished and self._started <= self._finished:
            self.done = True
            return _DONE  # Perplexity and others simply end
        self.failure = UpstreamMalformed("The provider's stream ended before the answer did")
        return b""

    def _open(self, event: bytes) -> bytes:
        """The slow way: for all that is not a chunk of words like the one before it."""
        if self.done or self.failure is not None:
            return b""
        name, data = read_event(event)
        if not data:
            # SDKs pass over comments only, and want JSON of all else.
            return event if event.startswith(b":") else b""
        if data.startswith(b"[DONE]"):
            self._others += 1
            self.done = True
            self._forget()
            return event
        try:
            if name == b"error":
                raise read_error(0, {}, data)
            if self._plainly is not None:
                data = self._plainly(data)
            outline = decode(data, _OUTLINE)
            usage = self._note(outline, data)
            renamed, span = with_model(data, outline.model, self._model)
        except UpstreamError as error:
            self.failure = error
            self._forget()
            return b""
        words = _words_in(event) if outline.choices else None
        if words:
            self.deltas += 1
            self.chars += words[1] - words[0]
        else:
            self._others += 1
        if usage is not None and not outline.choices and not self._wants_usage:
            return b""
        offset = event.find(data)
        if offset < 0:  # several data lines, or put right
            return b"data: " + on_one_line(renamed) + b"\n\n"
        edited = event[:offset] + renamed + event[offset + len(data) :]
        if (
            words
            and span
            and usage is None
            and self.deltas > 1  # the first words are waited for: let the second ones take the time
            and not [choice for choice in outline.choices or () if choice.finish_reason]
        ):
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

    def _forget(self) -> None:
        self._head = self._behind = self._end = NEVER
        self._end_size = len(NEVER)

    def _learn(self, event: bytes, edited: bytes, words: tuple[int, int], model_at: int) -> None:
        start, end = words
        self._head, self._start = event[:start], start
        behind, self._end, is_padded = parts_of_tail(event[end:])
        longer = len(edited) - len(event)
        shift = longer if model_at < start else 0
        self._new_head = edited[: start + shift]
        if is_padded:
            self._behind, self._new_end = behind, self._end
            self._new_behind = edited[end + shift : end + longer + len(behind)]
        else:
            self._behind, self._end = b"", event[end:]
            self._new_behind, self._new_end = b"", edited[end + shift :]
        self._end_size = len(self._end)


def pass_stream(target: Target, operation: Operation, *, model: str, wants_usage: bool) -> ChatEditor:
    """An editor of chunks of chat or completions; `wants_usage` is the client's `stream_options.include_usage`."""
    return ChatEditor(target.provider, model, wants_usage=wants_usage, plainly=_plainly(target, operation))
