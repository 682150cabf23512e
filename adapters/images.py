"""Pictures made from words: OpenAI's question and answer, as clients speak them to us and as most providers answer.

https://platform.openai.com/docs/api-reference/images/create.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw

from adapters.base import Task, leaves_out
from adapters.envelope import count_of, decode, seal
from adapters.errors import BadRequest, UpstreamMalformed
from adapters.fields import allowed_fields, other_fields, read_fields
from adapters.openai_answers import read_error
from adapters.openai_usage import read_usage as read_chat_usage
from adapters.pictures import size_of
from adapters.types import (
    Call,
    ImagesRequest,
    ImagesResponse,
    Picture,
    Provider,
    Reply,
    Target,
    Units,
    Usage,
)
from adapters.wire import tasks as wire
from adapters.wire.openai import given

_QUESTION = msgspec.json.Decoder(wire.ImagesQuestion)
_ANSWER = msgspec.json.Decoder(wire.Images)
_USAGE = msgspec.json.Decoder(wire.TaskUsage)
_encode = msgspec.json.Encoder().encode


# -- the client's side -----------------------------------------------------------------------------------------------


def read_request(envelope: Mapping[str, Raw]) -> ImagesRequest:
    """Read a question. Raises `BadRequest` with its place; pictures do not come as a stream."""
    asked = read_fields(envelope, _QUESTION)
    if asked.stream:
        raise BadRequest("Images cannot be streamed here; leave 'stream' out.", param="stream")
    return ImagesRequest(
        model=asked.model,
        prompt=asked.prompt,
        n=asked.n or 1,
        size=asked.size,
        quality=asked.quality,
        style=asked.style,
        background=asked.background,
        output_format=asked.output_format,
        response_format=asked.response_format,
        user=asked.user,
        extra=other_fields(envelope, _QUESTION),
    )


def write_response(
    answer: ImagesResponse, request: ImagesRequest, *, model: str, now: int, answer_id: str
) -> bytes:
    """An answer; `usage` where the provider counts tokens."""
    body: dict[str, Any] = {"created": now, "data": answer.pictures}
    usage = answer.usage
    if usage is not None and usage.total:
        body["usage"] = {
            "input_tokens": usage.prompt,
            "input_tokens_details": {
                "text_tokens": usage.prompt - usage.image_input,
                "image_tokens": usage.image_input,
            },
            "output_tokens": usage.completion,
            "output_tokens_details": {
                "text_tokens": usage.completion - usage.image_output,
                "image_tokens": usage.image_output,
            },
            "total_tokens": usage.total,
        }
    return _encode(body)


# -- the providers' side ---------------------------------------------------------------------------------------------


_OPTIONS = ("size", "quality", "style", "background", "output_format", "response_format", "user")


def _call(body: dict[str, Any], request: ImagesRequest) -> list[Call]:
    return [Call(seal({name: value for name, value in body.items() if value is not None} | request.extra))]


def _write(request: ImagesRequest, target: Target, *, unknown: tuple[str, ...] = ()) -> list[Call]:
    """One call in OpenAI's words, but for the `unknown` ones."""
    known = {name: getattr(request, name) for name in _OPTIONS if name not in unknown}
    body = {"model": target.model, "prompt": request.prompt, "n": request.n, **known}
    return _call(body | allowed_fields(request, target, *unknown), request)


def _write_together(request: ImagesRequest, target: Target) -> list[Call]:
    """https://docs.together.ai/reference/post-images-generations: sizes in pixels, `base64` for `b64_json`."""
    width, height = size_of(request.size) or (None, None)
    body = {
        "model": target.model,
        "prompt": request.prompt,
        "n": request.n,
        "width": width,
        "height": height,
        "output_format": request.output_format,
        "response_format": "base64" if request.response_format == "b64_json" else request.response_format,
        **allowed_fields(request, target, "quality", "style", "background"),
    }
    return _call(body, request)


def _write_siliconflow(request: ImagesRequest, target: Target) -> list[Call]:
    """https://docs.siliconflow.com/en/api-reference/images/images-generations: other names, and addresses alone."""
    if request.response_format == "b64_json":
        leaves_out(target, "response_format", what="b64_json", why="it gives the pictures' addresses")
    body = {
        "model": target.model,
        "prompt": request.prompt,
        "image_size": request.size,
        "batch_size": request.n,
        **allowed_fields(request, target, "quality", "style", "background", "output_format"),
    }
    return _call(body, request)


def _read(replies: Sequence[Reply], request: ImagesRequest, target: Target) -> ImagesResponse:
    """Pictures by address or in base64; each is counted, whatever else is billed."""
    body = replies[0].body
    answer = decode(body, _ANSWER)
    if given(answer.error) is not None:
        raise read_error(0, {}, body)
    pictures = tuple(
        Picture(b64_json=each.b64_json, url=each.url, revised_prompt=each.revised_prompt)
        for each in answer.data or answer.images or ()
        if each.b64_json or each.url
    )
    if not pictures:
        raise UpstreamMalformed("The provider sent no picture.")
    return ImagesResponse(pictures, read_usage(answer.usage, len(pictures), target.provider))


def read_usage(raw_usage: Raw, pictures: int, provider: Provider) -> Usage:
    """Tokens of text and of pictures, in and out. Where the output is not taken apart, all of it is pictures."""
    counts = _find_counts(raw_usage)
    prompt, completion = count_of(counts.input_tokens), count_of(counts.output_tokens)
    inside, outside = counts.input_tokens_details, counts.output_tokens_details
    image_input = min(prompt, count_of(inside.image_tokens)) if inside else 0
    text_output = min(completion, count_of(outside.text_tokens)) if outside else 0
    bill = None if given(raw_usage) is None else read_chat_usage(raw_usage, provider)
    return Usage(
        input=prompt - image_input,
        image_input=image_input,
        output=text_output,
        image_output=completion - text_output,
        units=Units(images=pictures),
        billed=None if bill is None else bill.billed,
    )


def _find_counts(raw_usage: Raw) -> wire.TaskUsage:
    try:
        return decode(raw_usage, _USAGE) if given(raw_usage) is not None else wire.TaskUsage()
    except UpstreamMalformed:
        return wire.TaskUsage()


TASKS: dict[str, Task[ImagesRequest, ImagesResponse]] = {
    "openai": Task(_write, _read),
    "xai": Task(partial(_write, unknown=("size", "style", "background", "output_format")), _read),
    "together_ai": Task(_write_together, _read),
    "siliconflow": Task(_write_siliconflow, _read),
    "siliconflow_cn": Task(_write_siliconflow, _read),
}
"""By provider, or by format for all others of it."""
