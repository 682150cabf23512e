"""Amazon SageMaker: an endpoint of the operator's own, whose container speaks OpenAI's format (vLLM, TGI, LMI).

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html and
…_InvokeEndpointWithResponseStream.html. A stream is Amazon's frames, whose payloads joined are the server-sent events of
the container, cut anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapters import eventstream, openai_answers
from adapters.base import StreamReader
from adapters.bedrock_answers import error_in
from adapters.bedrock_answers import read_error as read_aws_error
from adapters.bedrock_questions import address
from adapters.errors import UpstreamError
from adapters.eventstream import read_frames
from adapters.framing import SseCutter
from adapters.openai_answers import read_response
from adapters.openai_questions import write_request
from adapters.types import ChatRequest, Delta, Failure, Target

__all__ = ["STREAM_TYPE", "address", "cut", "read_error", "read_response", "read_stream", "write_request"]

STREAM_TYPE: str = eventstream.TYPE
cut = eventstream.FrameCutter


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """SageMaker's own error, or (`ModelError`) the container's, which it quotes."""
    if headers.get("x-amzn-errortype") or b'"Message"' in body:
        return read_aws_error(status, headers, body)
    return openai_answers.read_error(status, headers, body)


def read_stream(request: ChatRequest, target: Target) -> StreamReader:
    """A reader for one streamed answer."""
    return _Reader(openai_answers.read_stream(request, target))


class _Reader:
    """Takes the frames off; what is in them, OpenAI's reader knows."""

    __slots__ = ("_broken", "_cutter", "_reader", "done")

    def __init__(self, reader: StreamReader) -> None:
        self.done = False
        self._broken = False
        self._cutter = SseCutter()
        self._reader = reader

    def words(self, events: bytes) -> bytes:
        return b""

    def feed(self, events: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        try:
            for headers, payload in read_frames(events):
                if self.done or self._broken:
                    break
                error = error_in(headers, payload)
                if error is not None:
                    raise error
                self._take(self._cutter.feed(payload), deltas)
        except UpstreamError as error:
            if not (self.done or self._broken):
                self._broken = True
                deltas.append(Failure(error))
        return deltas

    def close(self) -> list[Delta]:
        if self.done or self._broken:
            return []
        deltas: list[Delta] = []
        self._take(self._cutter.flush(), deltas)
        if not (deltas and isinstance(deltas[-1], Failure)):
            deltas += self._reader.close()
        self.done = self._reader.done
        return deltas

    def _take(self, whole: bytes, deltas: list[Delta]) -> None:
        if whole:
            deltas += self._reader.feed(whole)
            self.done = self._reader.done
            self._broken = bool(deltas) and isinstance(deltas[-1], Failure)
