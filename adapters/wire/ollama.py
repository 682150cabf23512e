"""What the bytes of Ollama's own API look like.

Vendor's pages: https://docs.ollama.com/api/chat, https://docs.ollama.com/api/streaming, https://docs.ollama.com/api/embed,
https://docs.ollama.com/api/errors.

A stream is newline-delimited JSON: each line is an answer of the same shape as a whole one, with what is new in it, and
the last is `done`. An error after the first line is a line of its own. The structs are lenient; a JSON value that is kept
as its bytes is `Raw`, and `NULL` if it is absent.
"""

from __future__ import annotations

from msgspec import Raw, Struct

from adapters.wire import Count

NULL = Raw(b"null")


class Function(Struct, frozen=True):
    """`arguments` is an object, not text."""

    name: str | None = None
    arguments: Raw = NULL


class ToolCall(Struct):
    """Always whole. Older versions give no `id`."""

    id: str | None = None
    function: Function = Function()


class Message(Struct):
    content: Raw = NULL
    thinking: Raw = NULL
    tool_calls: list[ToolCall] | None = None


class Answer(Struct):
    """A whole answer or one line of a stream. `prompt_eval_count` is absent where the whole prompt was cached."""

    model: str | None = None
    message: Message | None = None
    done: bool | None = None
    done_reason: str | None = None
    prompt_eval_count: Count = None
    eval_count: Count = None
    logprobs: Raw = NULL
    error: Raw = NULL


class Error(Struct):
    """`error` is a string, but an object under `/v1` and in answers of a cloud's model."""

    error: Raw = NULL


class ErrorObject(Struct):
    message: str | None = None


class Embeddings(Struct):
    model: str | None = None
    embeddings: list[Raw] | None = None
    prompt_eval_count: Count = None


TOP_LEVEL = frozenset({"format", "keep_alive", "shift", "template", "think", "truncate"})
"""Request fields of Ollama's that stand at the top; what else nobody knows is an option of the model (`num_ctx` …)."""
