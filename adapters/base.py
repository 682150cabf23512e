"""The adapter contract.

A format is a module of plain functions. Four things (request, response, stream, error) in two directions: `read_` takes
a vendor's bytes apart, `write_` puts them together. A module offers `ClientSide` if clients may speak its format to us,
`ProviderSide` if providers speak it, and `SameFormat` if both: then nothing is translated, bytes pass.
mypy checks the modules against these Protocols, where `adapters/__init__.py` lists them; there is nothing to inherit. What no
type can say is tested with each format: `tests/adapters/test_openai.py`, `tests/adapters/test_anthropic.py`.

Rules, each with a test:

* No I/O, no clock, no randomness: time, ids and secrets are arguments. The same bytes always give the same bytes, so that
  what depends on a deployment alone (`address`) is asked once and kept.
* Never change an argument: a retry calls you again with it.
* Readers are lenient: unknown fields and unknown events are skipped, missing ones have defaults. What cannot be
  understood at all raises `UpstreamMalformed` (whole answers) or ends the stream with a `Failure` (streams).
* Writers are strict: what cannot be said in the target format raises `Unsupported`, or is dropped because
  `Target.drop_params` says so. Never silently. Hints that cannot change an answer (`user`, `store` …) are dropped.
* Streams are fed whole events (`adapters.framing` cuts them), any number at a time; feeding one by one gives the same
  result as feeding all at once.
* A stream that ends without its terminator is a failure, not a success.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from msgspec import Raw, Struct

from adapters.errors import GatewayError, Unsupported, UpstreamError
from adapters.types import (
    Address,
    Call,
    ChatRequest,
    ChatResponse,
    Delta,
    FinishReason,
    Opaque,
    Operation,
    Part,
    Reply,
    Target,
    Told,
    Usage,
)


def leaves_out(target: Target, field: str, *, what: str = "", why: str = "") -> bool:
    """A field of the client's, or `what` stands in it, that the provider's format has no word for or its model refuses.

    True: leave it out, it is noted as dropped. False: the operator has allowed it, write it as it came (`Target.allowed`).
    Raises `Unsupported`, naming the field, if neither dropping nor passing on is allowed.
    """
    if field in target.allowed and not what:
        return False
    if not target.drop_params:
        raise Unsupported(
            f"{target.provider.name} does not support {what or f'the parameter {field!r}'}, for model={target.model}"
            f"{f': {why}' if why else ''}. To drop it, set drop_params: true.",
            param=field,
        )
    if target.dropped is not None and field not in target.dropped:
        target.dropped.append(field)
    return True


def kind_of(part: Part) -> str:
    """What a part of a message is, in words for an error."""
    return f"'{part.kind}'" if isinstance(part, Opaque) else type(part).__name__.lower()


class Cutter(Protocol):
    """Cuts a stream's bytes at event borders; see `adapters.framing`."""

    def feed(self, data: bytes) -> bytes:
        """All whole events that are there by now. Raises `UpstreamMalformed`."""

    def flush(self) -> bytes:
        """What is left when the bytes have ended, as a whole event."""


class StreamReader(Protocol):
    """A provider's stream, taken apart. One per answer."""

    done: bool
    """The terminator has been seen."""

    def words(self, events: bytes) -> bytes:
        """The short way round `feed`, for what streams are made of: the JSON string of the `TextDelta` of the first choice
        that is all that `feed` would read in `events`. Empty where that is not known at a glance: then `feed` them.

        Running totals may be in them too: they are held back until the next `feed`, as those of later events replace them.
        """

    def feed(self, events: bytes) -> list[Delta]:
        """Whole events in, deltas out. An error event gives a `Failure` as the last delta; never raises.

        No event at all gives nothing but what was held back.
        """

    def close(self) -> list[Delta]:
        """The bytes have ended: a `Failure` if the terminator is missing."""


class StreamWriter(Protocol):
    """A client's stream, put together. One per answer."""

    def words(self, text: bytes) -> bytes:
        """The short way round `feed`: what it would write of one `TextDelta` of the first choice, given its JSON string.

        Empty where words cannot be written at once: then nothing has been done with them, and they are still to be fed.
        """

    def feed(self, deltas: Sequence[Delta]) -> bytes:
        """Deltas in (never a `Failure`), whole events out; one write per read."""

    def close(self) -> bytes:
        """The terminator, and what must come before it."""


class StreamEditor(Protocol):
    """A stream whose format is the client's: whole events pass as the same bytes, but for the envelope.

    Only the top-level `model` is replaced, events that the client did not ask for are withheld, an error event and
    all that follows it is kept back (it is in `failure`).
    """

    done: bool
    failure: GatewayError | None
    usage: Usage | None
    finish: FinishReason | None
    answer_id: str
    """The provider's id of the answer."""
    deltas: int
    """Events that carried words."""
    chars: int
    """Characters of words in them, roughly."""

    @property
    def events(self) -> int:
        """Provider events so far; comments and pings do not count."""

    def again(self, event: bytes) -> bytes:
        """The short way round `feed`, for what streams are made of: what it would give of one whole event that differs from
        one before it in its words alone. Empty where that is not known at a glance: then `feed` it.
        """

    def feed(self, events: bytes) -> bytes:
        """Whole events in, whole events out."""

    def close(self) -> bytes:
        """The bytes have ended; `failure` is set if the terminator is missing."""


class ClientSide(Protocol):
    """We are the server: a format that clients speak to us."""

    @property
    def KEEP_ALIVE(self) -> bytes:  # noqa: N802 - a constant of the module
        """What is written into a silent stream so that nobody hangs up: a comment, or the format's own ping."""

    def read_request(self, envelope: Mapping[str, Raw]) -> ChatRequest:
        """Read a question. Raises `BadRequest` with `param` naming the place."""

    def write_response(self, answer: ChatResponse, *, answer_id: str, model: str, now: int) -> bytes:
        """A whole answer's body. `model` is the name that the client asked for, `now` seconds since 1970."""

    def write_stream(
        self, *, answer_id: str, model: str, now: int, wants_usage: bool, told: Told | None = None
    ) -> StreamWriter:
        """A writer for one streamed answer; of one that has begun, the writer of its rest (`told`)."""

    def write_error(self, error: GatewayError, *, request_id: str, mid_stream: bool) -> bytes:
        """The body of an error answer, or (`mid_stream`) the event that ends a stream which has begun."""


class ProviderSide(Protocol):
    """We are the client: a format that providers speak."""

    @property
    def STREAM_TYPE(self) -> str:  # noqa: N802 - a constant of the module
        """The content type of its streams: `text/event-stream` nearly always."""

    def cut(self) -> Cutter:
        """What cuts its streams: one per answer."""

    def write_request(self, request: ChatRequest, target: Target) -> bytes:
        """The body of a chat question in the provider's words. Raises `Unsupported`."""

    def address(
        self, target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool
    ) -> Address:
        """Where and how to send it. `headers` are the client's that may cross. Authorization comes later.

        It depends on nothing else, on no question's body either: the answer may be kept and used again.
        """

    def read_response(self, body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
        """Read a whole answer. Raises `UpstreamMalformed`, or the `UpstreamError` that hides in a 200."""

    def read_stream(self, request: ChatRequest, target: Target) -> StreamReader:
        """A reader for one streamed answer."""

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        """What a non-2xx answer means. `headers` have lower-case names."""


class SameFormat(Protocol):
    """Both sides speak this format: open the envelope, not the letter."""

    def pass_request(
        self, envelope: Mapping[str, Raw], target: Target, operation: Operation, *, stream: bool
    ) -> bytes:
        """The client's question for this target: other model, provider's renames, usage asked for. Sealed bytes."""

    def pass_response(
        self, body: bytes, target: Target, operation: Operation, *, model: str
    ) -> tuple[bytes, Usage | None, FinishReason | None, str]:
        """A whole answer with the client's `model`: (body, usage, finish, the provider's id of the answer)."""

    def pass_stream(
        self, target: Target, operation: Operation, *, model: str, wants_usage: bool
    ) -> StreamEditor:
        """An editor for one streamed answer."""


_Q = TypeVar("_Q")
_A = TypeVar("_A")


class Task(Struct, Generic[_Q, _A], frozen=True):
    """How a format does what is no chat: embeddings, rerank, pictures, speech. Two functions, a question and an answer.

    `write` gives the calls that a question needs, nearly always one; all go to the same address and are made at once.
    Raises `Unsupported`. `read` gets a reply for each call, in their order. Raises `UpstreamMalformed`, or the
    `UpstreamError` that hides in a 200.
    """

    write: Callable[[_Q, Target], Sequence[Call]]
    read: Callable[[Sequence[Reply], _Q, Target], _A]


class Follow(Struct, frozen=True):
    """An answer that is not there yet: ask for it at `url` (GET) after `seconds`.

    `cancel` (POST) stops the work if nobody waits any more. The provider's key goes along only to the origin that was
    asked at first; other addresses are asked only if they are https and in one of the provider's `domains`.
    """

    url: str
    seconds: float = 0.0
    cancel: str = ""
    domains: tuple[str, ...] = ()


class Follower(Protocol):
    """Finds out whether an answer is elsewhere; None if this is all there will be. Raises `UpstreamMalformed`."""

    def __call__(self, reply: Reply, *, stream: bool = False) -> Follow | None: ...
