"""Stability AI: pictures, https://platform.stability.ai/docs/api-reference#tag/Generate.

A question is a form, though there is no file in it, and makes one picture: several are several calls. Three services
have an address each: `ultra`, `core`, and `sd3` for Stable Diffusion 3.5, whose size (`sd3.5-large`) is a field. The
provider knows no chat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import msgspec

from adapters.base import Task, leaves_out
from adapters.envelope import decode
from adapters.errors import Unsupported, UpstreamError, UpstreamMalformed
from adapters.fields import allowed_fields
from adapters.framing import SseCutter
from adapters.multipart import write_form
from adapters.pictures import nearest_ratio, size_of
from adapters.types import (
    Address,
    Call,
    ChatRequest,
    ImagesRequest,
    ImagesResponse,
    Operation,
    Picture,
    Reply,
    Target,
    Units,
    Usage,
)
from adapters.upstream_errors import classify
from adapters.wire import stability as wire

STREAM_TYPE: str = "text/event-stream"
cut = SseCutter

_ANSWER = msgspec.json.Decoder(wire.Answer)
_REFUSAL = msgspec.json.Decoder(wire.Refusal)
_TEXT = msgspec.json.Decoder(str)
_RATIOS = ("1:1", "16:9", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21")
_SERVICES = {"stable-image-ultra": "ultra", "stable-image-core": "core", "ultra": "ultra", "core": "core"}
_SD3 = ("sd3", "stable-diffusion-3")


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """Where pictures of this model are made. Raises `Unsupported` for everything else."""
    if operation != "images":
        _refuse(operation, target)
    return Address(
        method="POST",
        url=f"{target.base_url.rstrip('/')}/v2beta/stable-image/generate/{_service_of(target)}",
        headers=(("accept", "application/json"), *headers.items()),
    )


def _service_of(target: Target) -> str:
    model = target.model
    service = _SERVICES.get(model) or ("sd3" if model.startswith(_SD3) else "")
    if not service:
        raise Unsupported(
            f"{model!r} is no model's name: write ultra, core, sd3.5-large, sd3.5-large-turbo, sd3.5-medium "
            "or sd3.5-flash.",
            param="model",
        )
    return service


def _write_images(request: ImagesRequest, target: Target) -> Sequence[Call]:
    fields: dict[str, str | tuple[str, ...]] = {"prompt": request.prompt}
    if _service_of(target) == "sd3" and target.model != "sd3":
        fields["model"] = target.model.replace("stable-diffusion-3.5-", "sd3.5-").removesuffix("-v1:0")
    size = size_of(request.size)
    if size is not None:
        fields["aspect_ratio"] = nearest_ratio(size, _RATIOS)
    fields["output_format"] = request.output_format or "png"
    fields |= allowed_fields(request, target, "quality", "style", "background")
    if request.response_format == "url":
        leaves_out(target, "response_format", what="url", why="it gives the pictures themselves")
    for name, value in request.extra.items():
        if bytes(value) != b"null":  # which a form cannot say
            fields[name] = decode(value, _TEXT) if bytes(value).startswith(b'"') else bytes(value).decode()
    return [write_form(fields, {})] * request.n


def _read_images(replies: Sequence[Reply], request: ImagesRequest, target: Target) -> ImagesResponse:
    """A picture of each reply. What the filter has blurred is no picture: `ContentPolicyViolation`."""
    pictures = tuple(_picture(reply.body) for reply in replies)
    return ImagesResponse(pictures, Usage(units=Units(images=len(pictures))))


def _picture(body: bytes) -> Picture:
    answer = decode(body, _ANSWER)
    if answer.finish_reason == "CONTENT_FILTERED":
        raise classify(
            400,
            message="The picture was withheld by the provider's filter",
            code="content_filter",
            headers={},
        )
    if answer.errors:
        raise read_error(0, {}, body)
    if not answer.image:
        raise UpstreamMalformed("The provider's answer has no picture in it")
    return Picture(b64_json=answer.image)


IMAGES: Task[ImagesRequest, ImagesResponse] = Task(_write_images, _read_images)


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """A refusal: `{"id","name","errors":[…]}`; one of its names is `content_moderation`."""
    try:
        said = _REFUSAL.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return classify(status, message=body.decode("utf-8", "replace"), headers=headers, body=body)
    code = "content_filter" if said.name == "content_moderation" else said.name or None
    message = "; ".join(said.errors) or said.message
    return classify(status, message=message, code=code, headers=headers, body=body)


# -- what it does not do -----------------------------------------------------------------------------------------------


def _refuse(operation: str, target: Target) -> NoReturn:
    raise Unsupported(f"{target.provider.name} does not offer {operation}.", param="model")


def write_request(request: ChatRequest, target: Target) -> bytes:
    """Raises `Unsupported`."""
    _refuse("chat", target)


def read_response(body: bytes, request: ChatRequest, target: Target) -> NoReturn:
    """Raises `Unsupported`."""
    _refuse("chat", target)


def read_stream(request: ChatRequest, target: Target) -> NoReturn:
    """Raises `Unsupported`."""
    _refuse("chat", target)
