"""Pictures: what clients ask, what they get, and in which words providers are asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from openai.types import ImagesResponse as Official

from adapters import IMAGES, openai
from adapters.envelope import open_envelope
from adapters.errors import (
    BadRequest,
    ContentPolicyViolation,
    Unsupported,
    UpstreamMalformed,
    UpstreamRefused,
)
from adapters.images import read_request, write_response
from adapters.providers import PROVIDERS
from adapters.types import ImagesRequest, ImagesResponse, Picture, Reply, Target, Units, Usage
from tests.recorded import Recording, recordings

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "images"
RECORDED = list(recordings("openai", "xai", kinds=("images",)))


def target(provider: str, **options: Any) -> Target:
    return Target(provider=PROVIDERS[provider], model="m", base_url="https://example.com", **options)


def asked(**fields: Any) -> ImagesRequest:
    return ImagesRequest(**{"model": "public", "prompt": "a cat"} | fields)


def written(provider: str, request: ImagesRequest, **options: Any) -> dict[str, Any]:
    (call,) = IMAGES.get(provider, IMAGES["openai"]).write(request, target(provider, **options))
    body: dict[str, Any] = json.loads(call.body)
    return body


def read(provider: str, body: bytes) -> ImagesResponse:
    return IMAGES.get(provider, IMAGES["openai"]).read([Reply({}, body)], asked(), target(provider))


# -- the client's side -----------------------------------------------------------------------------------------------


def test_a_question_is_read() -> None:
    """With what has no place of its own."""
    body = (
        b'{"model":"m","prompt":"p","n":2,"size":"1024x1536","quality":"high","style":"vivid",'
        b'"background":"auto","output_format":"webp","response_format":"b64_json","user":"u","stream":false,'
        b'"output_compression":50,"moderation":"low"}'
    )
    assert read_request(open_envelope(body)) == ImagesRequest(
        model="m",
        prompt="p",
        n=2,
        size="1024x1536",
        quality="high",
        style="vivid",
        background="auto",
        output_format="webp",
        response_format="b64_json",
        user="u",
        extra={"output_compression": Raw(b"50"), "moderation": Raw(b'"low"')},
    )
    assert read_request(open_envelope(b'{"prompt":"p","n":null}')) == ImagesRequest(model="", prompt="p")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (b"", "prompt"),
        (b'"prompt":1', "prompt"),
        (b'"prompt":"p","n":0', "n"),
        (b'"prompt":"p","n":"1"', "n"),
        (b'"prompt":"p","response_format":"png"', "response_format"),
        (b'"prompt":"p","stream":true', "stream"),
    ],
)
def test_a_wrong_question_is_refused_with_its_place(fields: bytes, param: str) -> None:
    """Before anybody is asked."""
    with pytest.raises(BadRequest) as caught:
        read_request(open_envelope(b"{" + fields + b"}"))
    assert caught.value.param == param


def test_an_answer_is_written_as_the_official_client_reads_it() -> None:
    """Tokens only where the provider counts them."""
    usage = Usage(input=20, image_input=40, output=40, image_output=4160, units=Units(images=2))
    pictures = (Picture(b64_json="aQ=="), Picture(url="https://example.com/a.png", revised_prompt="r"))
    body = write_response(ImagesResponse(pictures, usage), asked(), model="m", now=7, answer_id="x")
    official = Official.model_validate_json(body, strict=True)
    assert official.to_dict() == {
        "created": 7,
        "data": [{"b64_json": "aQ=="}, {"url": "https://example.com/a.png", "revised_prompt": "r"}],
        "usage": {
            "input_tokens": 60,
            "input_tokens_details": {"image_tokens": 40, "text_tokens": 20},
            "output_tokens": 4200,
            "output_tokens_details": {"image_tokens": 4160, "text_tokens": 40},
            "total_tokens": 4260,
        },
    }
    counted = ImagesResponse(pictures[:1], Usage(units=Units(images=1)))
    bare = write_response(counted, asked(), model="m", now=7, answer_id="x")
    assert json.loads(bare) == {"created": 7, "data": [{"b64_json": "aQ=="}]}


# -- providers -------------------------------------------------------------------------------------------------------

EVERYTHING = {
    "n": 2,
    "size": "1024x1536",
    "quality": "high",
    "style": "vivid",
    "background": "auto",
    "output_format": "png",
    "response_format": "b64_json",
    "user": "u",
}


def test_openai_is_asked_in_its_words() -> None:
    """What the client left out is left out; the caller's other fields come along."""
    assert written("openai", asked()) == {"model": "m", "prompt": "a cat", "n": 1}
    request = asked(**EVERYTHING, extra={"moderation": Raw(b'"low"')})
    assert written("openai", request) == {"model": "m", "prompt": "a cat", "moderation": "low"} | EVERYTHING


def test_xai_has_no_sizes() -> None:
    """Nor styles; what it calls otherwise comes in the caller's own words."""
    for name in ("size", "style", "background", "output_format"):
        with pytest.raises(Unsupported) as caught:
            written("xai", asked(**{name: EVERYTHING[name]}))
        assert caught.value.param == name
    dropped: list[str] = []
    request = asked(**EVERYTHING, extra={"aspect_ratio": Raw(b'"2:3"')})
    assert written("xai", request, drop_params=True, dropped=dropped) == {
        "model": "m",
        "prompt": "a cat",
        "n": 2,
        "quality": "high",
        "response_format": "b64_json",
        "user": "u",
        "aspect_ratio": "2:3",
    }
    assert dropped == ["size", "style", "background", "output_format"]
    assert written("xai", asked(size="1x1"), allowed=frozenset({"size"}))["size"] == "1x1"


def test_together_is_asked_in_its_words() -> None:
    """Sizes in pixels, another word for base64."""
    with pytest.raises(Unsupported) as caught:
        written("together_ai", asked(quality="high"))
    assert caught.value.param == "quality"
    request = asked(**EVERYTHING, extra={"steps": Raw(b"4")})
    assert written("together_ai", request, drop_params=True) == {
        "model": "m",
        "prompt": "a cat",
        "n": 2,
        "width": 1024,
        "height": 1536,
        "output_format": "png",
        "response_format": "base64",
        "steps": 4,
    }
    assert written("together_ai", asked(size="auto", response_format="url")) == {
        "model": "m",
        "prompt": "a cat",
        "n": 1,
        "response_format": "url",
    }
    with pytest.raises(BadRequest):
        written("together_ai", asked(size="large"))


def test_siliconflow_is_asked_in_its_words() -> None:
    """Other names for size and number; what it answers stands elsewhere, too."""
    assert written("siliconflow", asked(**EVERYTHING), drop_params=True) == {
        "model": "m",
        "prompt": "a cat",
        "image_size": "1024x1536",
        "batch_size": 2,
    }
    for name in ("quality", "response_format"):
        with pytest.raises(Unsupported) as caught:
            written("siliconflow_cn", asked(**{name: EVERYTHING[name]}))
        assert caught.value.param == name
    answer = read("siliconflow", b'{"images":[{"url":"https://a"}],"timings":{"inference":1.2},"seed":7}')
    assert answer.pictures == (Picture(url="https://a"),)


@pytest.mark.parametrize(
    ("provider", "name", "pictures", "usage"),
    [
        (
            "openai",
            "tokens",
            (Picture(b64_json="iVBORw0KGgo="),) * 2,
            Usage(input=20, image_input=40, output=40, image_output=4160, units=Units(images=2)),
        ),
        (
            "together_ai",
            "together",
            (Picture(url="https://api.together.ai/shrt/abc"),),
            Usage(units=Units(images=1)),
        ),
        (
            "xai",
            "xai",
            (Picture(url="https://imgen.example.com/a.jpeg", revised_prompt=""),),
            Usage(units=Units(images=1), billed=20_000_000),
        ),
    ],
)
def test_transcripts(provider: str, name: str, pictures: tuple[Picture, ...], usage: Usage) -> None:
    """Pictures, and what they cost."""
    assert read(provider, (TRANSCRIPTS / f"{name}.json").read_bytes()) == ImagesResponse(pictures, usage)


def test_output_that_is_not_taken_apart_is_pictures() -> None:
    """As models before 2026 report it."""
    body = b'{"data":[{"b64_json":"aQ=="}],"usage":{"input_tokens":9,"output_tokens":100}}'
    assert read("openai", body).usage == Usage(input=9, image_output=100, units=Units(images=1))


def test_a_usage_that_cannot_be_read_counts_pictures() -> None:
    """Nothing that the client wants hangs on it."""
    body = b'{"data":[{"b64_json":"aQ=="}],"usage":{"input_tokens":"many"}}'
    assert read("openai", body).usage == Usage(units=Units(images=1))
    body = b'{"data":[{"b64_json":"aQ=="}],"usage":{"type":"\xff","output_tokens":2}}'
    assert read("openai", body).usage == Usage(image_output=2, units=Units(images=1))


@pytest.mark.parametrize("body", [b"", b"{}", b'{"data":[]}', b'{"data":[{}]}', b'{"data":{}}'])
def test_an_answer_that_is_none(body: bytes) -> None:
    """Is the provider's mistake."""
    with pytest.raises(UpstreamMalformed):
        read("openai", body)


def test_an_error_hides_in_a_200() -> None:
    """And is understood."""
    with pytest.raises(ContentPolicyViolation):
        read("openai", (TRANSCRIPTS / "error_in_200.json").read_bytes())


# -- recorded --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", RECORDED, ids=str)
def test_recorded_answers(recording: Recording) -> None:
    """Each picture as it came, each counted."""
    said = json.loads(recording.response)
    if recording.status >= 400:
        error = openai.read_error(recording.status, {}, recording.response)
        assert isinstance(error, UpstreamRefused)
        assert error.message == said["error"]["message"]
        return
    answer = read(recording.provider, recording.response)
    assert [(each.b64_json, each.url, each.revised_prompt) for each in answer.pictures] == [
        (each.get("b64_json"), each.get("url"), each.get("revised_prompt")) for each in said["data"]
    ]
    assert answer.usage is not None
    assert answer.usage.units == Units(images=len(said["data"]))
    assert answer.usage.billed == (20_000_000 if recording.provider == "xai" else None)
    body = write_response(answer, asked(), model="m", now=1, answer_id="x")
    assert len(Official.model_validate_json(body, strict=True).data or ()) == len(said["data"])
