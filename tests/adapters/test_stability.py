"""Stability's format: forms in, pictures out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters import FORMATS, IMAGES, stability
from adapters.base import ProviderSide
from adapters.errors import (
    BadRequest,
    ContentPolicyViolation,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
    UpstreamMalformed,
    UpstreamOutOfMoney,
    UpstreamRefused,
)
from adapters.multipart import read_form
from adapters.providers import PROVIDERS
from adapters.types import ChatRequest, ImagesRequest, Picture, Reply, Target, Units, Usage

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "stability"
TARGET = Target(
    provider=PROVIDERS["stability"], model="sd3.5-large-turbo", base_url="https://api.stability.ai"
)
ASKED = ImagesRequest(model="any", prompt="a cat")
CHAT = ChatRequest(model="any", messages=())


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / name).read_bytes()


def fields(request: ImagesRequest, model: str = TARGET.model) -> list[dict[str, str]]:
    calls = stability.IMAGES.write(request, replace(TARGET, model=model))
    forms = [read_form(call.content_type, call.body) for call in calls]
    assert not any(form.files for form in forms)
    return [form.fields for form in forms]


def test_the_module_keeps_the_contract() -> None:
    """It is registered as a format and as a maker of pictures."""
    side: ProviderSide = stability
    assert FORMATS["stability"] is side
    assert IMAGES["stability"] is stability.IMAGES


@pytest.mark.parametrize(
    ("model", "service", "field"),
    [
        ("ultra", "ultra", None),
        ("stable-image-ultra", "ultra", None),
        ("stable-image-core", "core", None),
        ("sd3", "sd3", None),
        ("sd3.5-medium", "sd3", "sd3.5-medium"),
        ("stable-diffusion-3.5-flash", "sd3", "sd3.5-flash"),
    ],
)
def test_each_model_has_its_service(model: str, service: str, field: str | None) -> None:
    """Three services; the size of Stable Diffusion is a field."""
    address = stability.address(replace(TARGET, model=model), "images", {"x-a": "1"}, stream=False)
    assert address.url == f"https://api.stability.ai/v2beta/stable-image/generate/{service}"
    assert address.headers == (("accept", "application/json"), ("x-a", "1"))
    assert fields(ASKED, model)[0].get("model") == field


def test_no_models_name() -> None:
    """What is no model's name is refused."""
    with pytest.raises(Unsupported, match="sd3"):
        stability.address(replace(TARGET, model="sdxl"), "images", {}, stream=False)


def test_one_form_for_each_picture() -> None:
    """A size becomes the nearest shape; other fields of the provider's go along as text."""
    extra = {"negative_prompt": Raw(b'"dogs"'), "seed": Raw(b"7")}
    request = replace(ASKED, n=2, size="1024x1792", output_format="webp", extra=extra)
    expected = {
        "prompt": "a cat",
        "model": "sd3.5-large-turbo",
        "aspect_ratio": "9:16",
        "output_format": "webp",
        "negative_prompt": "dogs",
        "seed": "7",
    }
    assert fields(request) == [expected, expected]
    assert fields(ASKED, "core") == [{"prompt": "a cat", "output_format": "png"}]
    (call,) = stability.IMAGES.write(
        replace(ASKED, style="vivid"), replace(TARGET, allowed=frozenset({"style"}))
    )
    assert read_form(call.content_type, call.body).fields["style"] == "vivid"
    odd = replace(ASKED, extra={"seed": Raw(b"null"), "strength": Raw(b"1e400")})
    assert fields(odd, "core") == [{"prompt": "a cat", "output_format": "png", "strength": "1e400"}]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"quality": "high"}, "quality"),
        ({"style": "vivid"}, "style"),
        ({"background": "transparent"}, "background"),
        ({"response_format": "url"}, "response_format"),
    ],
)
def test_what_cannot_be_said(more: dict[str, Any], param: str) -> None:
    """OpenAI's other words are refused, or dropped."""
    request = replace(ASKED, **more)
    with pytest.raises(Unsupported) as refused:
        fields(request)
    assert refused.value.param == param
    dropped: list[str] = []
    stability.IMAGES.write(request, replace(TARGET, drop_params=True, dropped=dropped))
    assert dropped == [param]


def test_no_size() -> None:
    """A size that is none is the caller's mistake."""
    with pytest.raises(BadRequest):
        fields(replace(ASKED, size="0x0"))


def test_pictures() -> None:
    """A picture of each reply, in order; each is billed."""
    second = b'{"image":"BBBB","finish_reason":"SUCCESS","seed":1}'
    answer = stability.IMAGES.read((Reply({}, transcript("answer.json")), Reply({}, second)), ASKED, TARGET)
    assert answer.pictures == (Picture(b64_json="iVBORw0KGgo="), Picture(b64_json="BBBB"))
    assert answer.usage == Usage(units=Units(images=2))


def test_what_was_filtered() -> None:
    """A blurred picture is a refusal: nobody pays for it, and nobody else is asked."""
    with pytest.raises(ContentPolicyViolation) as refused:
        stability.IMAGES.read((Reply({}, transcript("filtered.json")),), ASKED, TARGET)
    assert refused.value.code == "content_filter"
    assert not refused.value.elsewhere


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"finish_reason":"SUCCESS"}'])
def test_malformed(body: bytes) -> None:
    """An answer without a picture is none."""
    with pytest.raises(UpstreamMalformed):
        stability.IMAGES.read((Reply({}, body),), ASKED, TARGET)


def test_error_in_a_good_answer() -> None:
    """An error hides in a 200."""
    with pytest.raises(UpstreamError, match="no"):
        stability.IMAGES.read(
            (Reply({}, b'{"id":"1","name":"internal_error","errors":["no"]}'),), ASKED, TARGET
        )


def test_refusals() -> None:
    """Each refusal is what its status and name mean."""
    refused = stability.read_error(400, {}, transcript("error.json"))
    assert type(refused) is UpstreamRefused
    assert refused.message == "some-field: is required; other-field: must be between 1 and 10"
    assert type(stability.read_error(403, {}, transcript("error_moderation.json"))) is ContentPolicyViolation
    assert type(stability.read_error(401, {}, transcript("error_auth.json"))) is UpstreamAuth
    assert type(stability.read_error(402, {}, b'{"errors":["no credits"]}')) is UpstreamOutOfMoney
    assert stability.read_error(502, {}, b"oh no").message == "oh no"


def test_there_is_no_chat() -> None:
    """Everything else is refused before anything is sent."""
    with pytest.raises(Unsupported, match="chat"):
        stability.address(TARGET, "chat", {}, stream=True)
    with pytest.raises(Unsupported, match="chat"):
        stability.write_request(CHAT, TARGET)
    with pytest.raises(Unsupported, match="chat"):
        stability.read_response(b"", CHAT, TARGET)
    with pytest.raises(Unsupported, match="chat"):
        stability.read_stream(CHAT, TARGET)
