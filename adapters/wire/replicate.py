"""What Replicate's bytes look like: predictions.

https://replicate.com/docs/reference/http#predictions.create and …/topics/predictions. A body may have a key twice
(`model`), and `output` is whatever the model's schema says: a text, a list of pieces, a list of addresses, an object.
"""

from __future__ import annotations

from msgspec import Raw, Struct

from adapters.wire import Count

NOTHING = Raw(b"")


class Urls(Struct):
    get: str = ""
    stream: str = ""
    cancel: str = ""


class Metrics(Struct):
    """Tokens of language models, under the two names that they have had; absent before the end."""

    input_token_count: Count = None
    output_token_count: Count = None
    token_input_count: Count = None
    token_output_count: Count = None


class Prediction(Struct):
    """`status`: `starting`, `processing`, `succeeded`, `failed`, `canceled`, `aborted`."""

    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: Raw = NOTHING
    error: Raw = NOTHING
    urls: Urls | None = None
    metrics: Metrics | None = None


class Problem(Struct):
    """An error, https://www.rfc-editor.org/rfc/rfc7807; in a stream it may have `detail` alone."""

    title: str = ""
    detail: Raw = NOTHING
    status: int = 0


class Done(Struct):
    """The end of a stream; `reason` is `canceled` or `error`, and absent where all went well."""

    reason: str | None = None
