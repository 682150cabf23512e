"""Going on with a streamed answer that broke: what its client has heard, how another model is asked to continue, and the seam.

What the client has heard is read from the very bytes that were written to it, by the reader of its own format: so it is true
whichever way they came. Only words can be continued: a tool call that has begun, thoughts, several choices and JSON cannot.

A model is asked to continue by a turn that it seems to have begun itself, where its provider goes on with such a turn
(a prefill); else by being told to. It may then say the last words once more, or the blanks that no prefill may end with: what
exactly repeats the end of what was said is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from adapters import anthropic_answers
from adapters.base import StreamReader, StreamWriter
from adapters.envelope import decode
from adapters.openai_answers import ChatReader
from adapters.types import (
    Delta,
    Ping,
    Provider,
    RedactedDelta,
    SignatureDelta,
    Start,
    Target,
    TextDelta,
    ThinkingDelta,
    Told,
    Usage,
    UsageDelta,
)

SEAM = b": penstock: continued by another deployment\n\n"
"""A comment where another one goes on; clients pass over it."""

_MOST = 256 * 1024
"""Bytes of words that are kept of one answer."""
_OVERLAP = 200
"""Characters at the end of what was said that may be repeated."""
_LEAST_OVERLAP = 8
"""What is shorter may as well be what the model means to say, if it is no blank."""

_GO_ON = (
    "Your last message was cut off by a technical fault. Continue it exactly where it stops, in the middle of the sentence or "
    "word if need be. Write the rest only: repeat nothing, do not apologize, and say nothing about the interruption."
)
_NONE = frozenset({b"null", b"false", b"[]", b"{}"})
_WORDS_ONLY: dict[str, frozenset[bytes]] = {
    "n": frozenset({b"1"}),
    "response_format": frozenset({b'{"type":"text"}'}),
    "modalities": frozenset({b'["text"]'}),
    "logprobs": frozenset(),
    "audio": frozenset(),
    "output_format": frozenset(),
    "output_config": frozenset(),
}
"""Fields that make more of an answer than words, each with the values that do not."""
_LIMITS = ("max_tokens", "max_completion_tokens")
_THINKING = {"thinking": b"disabled", "reasoning_effort": b"none"}
_PREFILLED = frozenset({"anthropic", "vertex"})
"""Formats that go on with the assistant's turn, if that is the last: https://docs.claude.com/en/docs/build-with-claude/
prompt-engineering/prefill-claudes-response; those who mark it are in `_prefill`."""

_BLOCK = re.compile(rb'"type": ?"content_block_(start|stop)"')
_TEXT_BLOCK = re.compile(rb'"content_block": ?\{ ?"type": ?"text"')
_CREATED = re.compile(rb'"created": ?([0-9]{1,12})')
_STRING = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode
_ANYBODY = Provider(name="client")


def can_continue(question: Mapping[str, Raw]) -> bool:
    """Whether the answer to this chat question, in any client's format, is words alone (or a tool call)."""
    for name, harmless in _WORDS_ONLY.items():
        if name in question:
            value = re.sub(rb"\s", b"", bytes(question[name]))
            if value not in _NONE and value not in harmless:
                return False
    return True


class Heard:
    """What a client of this format has been told of one answer."""

    def __init__(self, client_format: str) -> None:
        self._reader: StreamReader = (
            anthropic_answers.reader() if client_format == "anthropic" else ChatReader(_ANYBODY)
        )
        self._words: list[bytes] = []
        self._size = 0
        self._blocks = self._closed = 0
        self.is_fit = True
        """It is words, and not too many of them."""
        self.resumes = False
        """Somebody else goes on with it."""
        self.before: Usage | None = None
        """What the attempts have used that broke."""
        self.answer_id = ""
        self.created: int | None = None

    @property
    def text(self) -> str:
        """The words."""
        return decode(Raw(b'"' + b"".join(self._words) + b'"'), _STRING)

    @property
    def told(self) -> Told:
        """Where a writer takes over."""
        return Told(blocks=self._blocks, is_open=self._blocks > self._closed)

    def feed(self, events: bytes) -> None:
        """Whole events that were written to the client."""
        if not self.is_fit:
            return
        text = self._reader.words(events)
        if text:
            self._keep(text)
            return
        for delta in self._reader.feed(events):
            if isinstance(delta, TextDelta) and not delta.choice and delta.logprobs is None:
                self._keep(bytes(delta.text))
            elif isinstance(delta, Start):
                self.answer_id = self.answer_id or delta.id
                created = _CREATED.search(events)
                self.created = int(created[1]) if created else None
            elif not isinstance(delta, UsageDelta | Ping):
                self._give_up()
        self._count_blocks(events)

    def _count_blocks(self, events: bytes) -> None:
        started = 0
        for found in _BLOCK.finditer(events):
            if found[1] == b"start":
                started += 1
            else:
                self._closed += 1
        if started > len(_TEXT_BLOCK.findall(events)):
            self._give_up()
        self._blocks += started

    def _keep(self, string: bytes) -> None:
        self._words.append(string[1:-1])
        self._size += len(string)
        if self._size > _MOST:
            self._give_up()

    def _give_up(self) -> None:
        self.is_fit = False
        self._words.clear()


# -- the question ----------------------------------------------------------------------------------------------------


def question_to_continue(
    question: Mapping[str, Raw], client_format: str, text: str, said: int, target: Target
) -> dict[str, Raw]:
    """The client's question, in its own format, so that this target continues the `text` of about `said` tokens."""
    continued = dict(question)
    for name in _LIMITS:
        if name in question and bytes(question[name]).isdigit():
            continued[name] = Raw(b"%d" % max(1, int(bytes(question[name])) - said))
    if not text.strip():
        return continued
    mark = _prefill(question, client_format, target)
    if mark is None:
        turns = [{"role": "assistant", "content": text}, {"role": "user", "content": _GO_ON}]
    else:
        turns = [{"role": "assistant", "content": text.rstrip(), **mark}]
    messages = bytes(question.get("messages", b"[]")).rstrip().removesuffix(b"]")
    comma = b"" if messages.strip() == b"[" else b","
    continued["messages"] = Raw(messages + comma + b",".join(map(_encode, turns)) + b"]")
    return continued


def _prefill(question: Mapping[str, Raw], client_format: str, target: Target) -> dict[str, Any] | None:
    """What marks a turn that the model shall go on with; None if it has to be told."""
    if any(name in question and off not in bytes(question[name]) for name, off in _THINKING.items()):
        return None
    provider = target.provider
    if provider.format in _PREFILLED and "no_assistant_prefill" not in target.flags:
        return {}
    if "mistral" in provider.quirks and client_format == "openai":  # Anthropic's turns have no such word
        return {"prefix": True}
    return None


# -- the seam --------------------------------------------------------------------------------------------------------


class Seam:
    """A `StreamWriter` that goes on with an answer: no second beginning, no repetition, and the usage of all who spoke."""

    def __init__(self, writer: StreamWriter, text: str, before: Usage | None) -> None:
        self._writer = writer
        self._tail = text[-_OVERLAP:]
        self._before = before or Usage()
        self._held: list[bytes] = []
        self._is_passed = not self._tail

    def words(self, text: bytes) -> bytes:
        return self._writer.words(text) if self._is_passed else b""

    def feed(self, deltas: Sequence[Delta]) -> bytes:
        out: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, TextDelta) and not self._is_passed:
                self._held.append(bytes(delta.text)[1:-1])
                self._try(out, ended=False)
            elif isinstance(delta, UsageDelta):
                out.append(UsageDelta(self._before + delta.usage))
            elif isinstance(delta, Start):
                if delta.usage is not None:
                    out.append(UsageDelta(self._before + delta.usage))
            elif isinstance(delta, Ping):
                out.append(delta)
            elif not isinstance(delta, ThinkingDelta | SignatureDelta | RedactedDelta):
                self._try(out, ended=True)
                out.append(delta)
        return self._writer.feed(out) if out else b""

    def close(self) -> bytes:
        out: list[Delta] = []
        self._try(out, ended=True)
        return self._writer.feed(out) + self._writer.close()

    def _try(self, out: list[Delta], *, ended: bool) -> None:
        """Let go of what is held, less what repeats, as soon as that is known."""
        if self._is_passed:
            return
        held = Raw(b'"' + b"".join(self._held) + b'"')
        words = decode(held, _STRING)
        repeated = _repeated(self._tail, words)
        if repeated is None and not ended:
            return
        self._is_passed = True
        self._held.clear()
        rest = held if not repeated else Raw(_encode(words[repeated:]))
        if len(bytes(rest)) > 2:
            out.append(TextDelta(rest))


def _repeated(tail: str, words: str) -> int | None:
    """How many characters at the beginning of `words` repeat the end of `tail`; None if more words must tell."""
    for at in range(len(tail)):
        end = tail[at:]
        if not _is_repetition(tail, at, end):
            continue
        if words.startswith(end):
            return len(end)
        if end.startswith(words):
            return None
    return 0


def _is_repetition(tail: str, at: int, end: str) -> bool:
    if end.isspace():
        return True
    is_whole_word = at == 0 or not (tail[at - 1].isalnum() and end[0].isalnum())
    return len(end) >= _LEAST_OVERLAP and is_whole_word and any(map(str.isalnum, end))
