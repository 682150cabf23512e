"""watsonx.ai's older service, which continues a text: https://cloud.ibm.com/apidocs/watsonx-ai#text-generation.

For models that know no chat. Who pays, errors and addresses are those of `adapters.watsonx`. A stream counts its tokens
as it goes and has no terminator: it has ended where a result says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from adapters import watsonx
from adapters.base import StreamReader, leaves_out
from adapters.envelope import count_of, decode
from adapters.errors import UpstreamError, UpstreamMalformed
from adapters.flatten import allowed_beyond_prompt, allowed_effort, pictures_of, prompt_of
from adapters.framing import SseCutter, read_event, whole_events
from adapters.types import (
    Address,
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Failure,
    Finish,
    FinishReason,
    Operation,
    Ping,
    Start,
    Target,
    Text,
    TextDelta,
    Usage,
    UsageDelta,
)
from adapters.wire import watsonx as wire

STREAM_TYPE: str = "text/event-stream"
cut = SseCutter
read_error = watsonx.read_error

_GENERATION = msgspec.json.Decoder(wire.Generation)
_encode = msgspec.json.Encoder().encode
_FINISH: dict[str, FinishReason] = {
    "max_tokens": "length",
    "token_limit": "length",
    "time_limit": "length",
    "stop_sequence": "stop_sequence",
    "error": "error",
}
_RUNS_ON = frozenset({"", "not_finished"})


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """Where and how to send it. Raises `Unsupported` for what the provider does not offer."""
    return watsonx.address(target, operation, headers, stream=stream)


def write_request(request: ChatRequest, target: Target) -> bytes:
    """The conversation as one text that is continued. Raises `Unsupported`."""
    allowed = allowed_beyond_prompt(request, target, "presence_penalty", "frequency_penalty")
    allowed |= allowed_effort(request, target)
    if pictures_of(request):
        leaves_out(target, "messages", what="pictures")
    fields = {
        "max_new_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "random_seed": request.seed,
        "stop_sequences": list(request.stop) or None,
    }
    parameters: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    parameters |= allowed | request.extra
    if {"temperature", "top_p", "top_k", "random_seed"} & parameters.keys():
        parameters.setdefault("decoding_method", "sample")  # otherwise they are ignored
    body: dict[str, Any] = watsonx.scope(target) | {"input": prompt_of(request, target, with_system=True)}
    if parameters:
        body["parameters"] = parameters
    return _encode(body)


def read_response(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """A whole answer. Raises `UpstreamMalformed`, or the error that hides in a 200."""
    answer = _read(body)
    choices = tuple(
        Choice(
            (Text(result.generated_text),) if result.generated_text else (),
            _FINISH.get(result.stop_reason or "", "stop"),
        )
        for result in answer.results
    )
    usage = Usage(
        input=sum(count_of(result.input_token_count) for result in answer.results),
        output=sum(count_of(result.generated_token_count) for result in answer.results),
    )
    return ChatResponse("", answer.model_id or "", choices, usage)


def _read(body: bytes) -> wire.Generation:
    """Raises the error that it may be."""
    answer = decode(body, _GENERATION)
    if answer.errors:
        raise read_error(0, {}, body)
    if not answer.results:
        raise UpstreamMalformed("The provider's answer has no result")
    return answer


def read_stream(request: ChatRequest, target: Target) -> StreamReader:
    """A reader of events with a piece of the text each."""
    return _TextReader()


class _TextReader:
    """Reads one stream. The tokens of the question are told once, those of the answer are counted up."""

    __slots__ = ("_failed", "_input", "_output", "_started", "done")

    def __init__(self) -> None:
        self.done = False
        self._started = False
        self._failed = False
        self._input = 0
        self._output = 0

    def words(self, events: bytes) -> bytes:
        return b""

    def feed(self, events: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        for event in whole_events(events):
            if self._failed or self.done:
                break
            _, data = read_event(event)
            if data:
                self._take(data, deltas)
            elif self._started:
                deltas.append(Ping())
        return deltas

    def close(self) -> list[Delta]:
        deltas: list[Delta] = []
        if not self.done and not self._failed:
            self._fail(UpstreamMalformed("The provider's stream ended before the answer did"), deltas)
        return deltas

    def _take(self, data: bytes, deltas: list[Delta]) -> None:
        try:
            answer = _read(data)
        except UpstreamError as error:
            self._fail(error, deltas)
            return
        result = answer.results[0]
        if not self._started:
            self._started = True
            deltas.append(Start(model=answer.model_id or ""))
        self._input = max(self._input, count_of(result.input_token_count))
        self._output = max(self._output, count_of(result.generated_token_count))
        if result.generated_text:
            deltas.append(TextDelta(Raw(_encode(result.generated_text))))
        if (result.stop_reason or "") not in _RUNS_ON:
            deltas.append(UsageDelta(Usage(input=self._input, output=self._output)))
            deltas.append(Finish(_FINISH.get(result.stop_reason or "", "stop")))
            self.done = True

    def _fail(self, error: UpstreamError, deltas: list[Delta]) -> None:
        self._failed = True
        deltas.append(Failure(error))
