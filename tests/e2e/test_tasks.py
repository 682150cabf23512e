"""What is no chat, through a running gateway: embeddings, rerank, pictures, speech, sound to text.

Asked by the official OpenAI SDK where it knows the operation, answered by providers of several formats: in one call, in
several at once, and by an answer that is elsewhere.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.harness import (
    Asked,
    FakeProvider,
    Gateway,
    Play,
    config_of,
    entry,
    events,
    fake_provider,
    gateway,
    whole,
)

PICTURE = base64.b64encode(b"\x89PNG picture").decode()
COHERE_VECTORS = {
    "id": "e-1",
    "embeddings": {"float": [[0.5, -1.0], [0.25, 2.0]]},
    "texts": ["a", "b"],
    "meta": {"billed_units": {"input_tokens": 4}},
}
COHERE_RANKS = {
    "id": "r-1",
    "results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}],
    "meta": {"billed_units": {"search_units": 1}},
}


def sdk_of(gw: Gateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gw.url}/v1", api_key="anything", max_retries=0)


def models(provider: FakeProvider) -> str:
    """One model of each kind, all at the fake provider."""
    url = provider.url
    return config_of(
        entry("cohere-embed", "cohere/embed-v4.0", url),
        entry("cohere-rerank", "cohere/rerank-v3.5", url),
        entry("titan", "bedrock/amazon.titan-embed-text-v2:0", url),
        entry("dall-e", "openai/dall-e-3", f"{url}/v1"),
        entry("stability", "stability/stable-image-core", url),
        entry("flux", "replicate/black-forest-labs/flux-schnell", f"{url}/v1"),
        entry("llama", "replicate/meta/meta-llama-3-8b-instruct", f"{url}/v1"),
        entry("tts", "openai/tts-1", f"{url}/v1"),
        entry("whisper", "openai/whisper-1", f"{url}/v1"),
        entry("claude", "anthropic/claude-sonnet-4-5", url),
    )


def in_turn(*plays: Play) -> Play:
    """The first of these for the first request, and so on, for requests that come in any order."""
    waiting = list(plays)

    async def play(provider: FakeProvider, asked: Asked) -> None:
        await waiting.pop(0)(provider, asked)

    return play


async def test_embeddings_of_another_format(tmp_path: Path) -> None:
    """The SDK asks for base64 and gets numbers that it can use, from a provider that knows numbers only."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw:
        provider.will(whole(COHERE_VECTORS))
        async with sdk_of(gw) as sdk:
            answer = await sdk.embeddings.create(model="cohere-embed", input=["a", "b"])
        assert [piece.embedding for piece in answer.data] == [[0.5, -1.0], [0.25, 2.0]]
        assert answer.model == "cohere-embed"
        assert provider.requests[0].path == "/v2/embed"
        plain = await gw.post("/v1/embeddings", {"model": "cohere-embed", "input": ["a", "b"]})
        told = await plain.json()
        assert told["data"][0]["embedding"] == [0.5, -1.0]
        packed = await gw.post(
            "/v1/embeddings", {"model": "cohere-embed", "input": ["a", "b"], "encoding_format": "base64"}
        )
        vector = base64.b64decode((await packed.json())["data"][1]["embedding"])
        assert struct.unpack("<2f", vector) == (0.25, 2.0)
        rows = await gw.rows(3)
    assert {(row.operation, row.provider, row.status, row.usage.input) for row in rows} == {
        ("embeddings", "cohere", "success", 4)
    }


async def test_a_text_per_call_is_asked_at_once(tmp_path: Path) -> None:
    """Where a provider takes one text, the texts go out side by side, come back in order and make one row."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw:

        async def embed(_: FakeProvider, asked: Asked) -> None:
            number = float(asked.json["inputText"])
            body = {"embedding": [number], "inputTextTokenCount": 3}
            await whole(body)(provider, asked)

        provider.will(embed)
        answer = await gw.post("/v1/embeddings", {"model": "titan", "input": [str(n) for n in range(40)]})
        told = await answer.json()
        assert answer.status == 200, told
        assert [piece["embedding"] for piece in told["data"]] == [[float(n)] for n in range(40)]
        assert told["usage"]["prompt_tokens"] == 120
        assert len(provider.requests) == 40
        assert len(provider.connections) <= 16
        (row,) = await gw.rows()
    assert (row.usage.input, row.status) == (120, "success")


async def test_one_call_of_several_that_fails_fails_all(tmp_path: Path) -> None:
    """The error of the call that failed is the answer, the other calls are called off, and there is one row."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw:

        async def embed(_: FakeProvider, asked: Asked) -> None:
            if asked.json["inputText"] == "bad":
                refusal = {"message": "Malformed input"}
                await whole(refusal, 400, {"x-amzn-errortype": "ValidationException"})(provider, asked)
            else:
                await asked.connection.closed.wait()

        provider.will(embed)
        answer = await gw.post("/v1/embeddings", {"model": "titan", "input": ["good", "bad", "other"]})
        assert answer.status == 400
        assert "Malformed input" in (await answer.json())["error"]["message"]
        await asyncio.wait_for(asyncio.gather(*(c.closed.wait() for c in provider.connections[:1])), 5)
        (row,) = await gw.rows()
    assert row.status == "failure"


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
async def test_rerank(tmp_path: Path, path: str) -> None:
    """Cohere's shape in and out, documents echoed where they are wanted, search units in the row."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw:
        provider.will(whole(COHERE_RANKS))
        question = {
            "model": "cohere-rerank",
            "query": "what?",
            "documents": ["one", "two"],
            "return_documents": True,
        }
        answer = await gw.post(path, question)
        told = await answer.json()
        assert answer.status == 200, told
        assert [(r["index"], r["relevance_score"]) for r in told["results"]] == [(1, 0.9), (0, 0.1)]
        assert told["results"][0]["document"] == {"text": "two"}
        (row,) = await gw.rows()
    assert (row.operation, row.usage.units.searches) == ("rerank", 1)


async def test_pictures_pass_and_are_made_elsewhere(tmp_path: Path) -> None:
    """OpenAI's pictures, and Stability's from one call for each picture."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw, sdk_of(gw) as sdk:
        provider.will(whole({"created": 1, "data": [{"b64_json": PICTURE}]}))
        passed = await sdk.images.generate(model="dall-e", prompt="a cat", response_format="b64_json")
        assert passed.data is not None
        assert passed.data[0].b64_json == PICTURE
        provider.will(whole({"image": PICTURE, "finish_reason": "SUCCESS", "seed": 1}))
        made = await sdk.images.generate(model="stability", prompt="a cat", n=2)
        assert made.data is not None
        assert [piece.b64_json for piece in made.data] == [PICTURE, PICTURE]
        form = provider.requests[-1]
        assert form.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b"a cat" in form.body
        rows = await gw.rows(2)
    assert [row.usage.units.images for row in rows] == [1, 2]


async def test_an_answer_that_is_elsewhere(tmp_path: Path) -> None:
    """A prediction that has only begun is asked for until it is there."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw, sdk_of(gw) as sdk:
        begun: dict[str, Any] = {
            "id": "p1",
            "status": "processing",
            "output": None,
            "urls": {
                "get": f"{provider.url}/v1/predictions/p1",
                "cancel": f"{provider.url}/v1/predictions/p1/cancel",
            },
        }
        done = {**begun, "status": "succeeded", "output": ["https://replicate.delivery/cat.webp"]}
        provider.will(whole(begun, 201), whole(begun), whole(done))
        made = await sdk.images.generate(model="flux", prompt="a cat")
        assert made.data is not None
        assert made.data[0].url == "https://replicate.delivery/cat.webp"
        assert [(asked.method, asked.path) for asked in provider.requests][1:] == [
            ("GET", "/v1/predictions/p1"),
            ("GET", "/v1/predictions/p1"),
        ]
        assert {asked.headers["authorization"] for asked in provider.requests} == {"Bearer sk-provider-key"}
        (row,) = await gw.rows()
    assert row.status == "success"


async def test_a_stream_that_is_elsewhere(tmp_path: Path) -> None:
    """The first answer says where the stream is; its words reach the client, leading spaces and all."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw, sdk_of(gw) as sdk:
        begun = {
            "id": "p1",
            "status": "starting",
            "urls": {
                "get": f"{provider.url}/v1/predictions/p1",
                "cancel": f"{provider.url}/v1/predictions/p1/cancel",
                "stream": f"{provider.url}/v1/streams/p1",
            },
        }
        words = [
            b"event: output\ndata: Hello\n\n",
            b"event: output\ndata:  there\n\n",
            b"event: done\ndata: {}\n\n",
        ]
        provider.will(whole(begun, 201), events(words))
        stream = await sdk.chat.completions.create(
            model="llama", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        heard = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        assert "".join(heard) == "Hello there"
        assert provider.requests[1].path == "/v1/streams/p1"


@pytest.mark.parametrize(
    "place",
    [
        "https://evil.example/p1",
        "http://stream.replicate.com/p1",
        "https://evil.example#.replicate.com/p1",
        "https://evil.example\\@stream.replicate.com/p1",
        "https://key@stream.replicate.com/p1",
        "https://stream.replicate.com:99999/p1",
        "https://evilreplicate.com/p1",
        "https://[/p1",
        "ftp://stream.replicate.com/p1",
        "{origin}@evil.example/p1",
        "{origin}/p1\r\nX-Header: 1",
        "{origin}/p 1",
        "{origin}/ü",
        "",
    ],
)
async def test_an_answer_is_not_looked_for_just_anywhere(tmp_path: Path, place: str) -> None:
    """A provider names addresses of its own alone, and in letters that an address may have: else it is its failure."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw:
        begun = {
            "id": "p1",
            "status": "starting",
            "urls": {"stream": place.format(origin=provider.url), "get": place.format(origin=provider.url)},
        }
        provider.will(whole(begun, 201))
        question = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}]}
        for stream in (True, False):
            answer = await gw.post("/v1/chat/completions", {**question, "stream": stream})
            assert answer.status == 502, await answer.text()
        assert [asked.method for asked in provider.requests] == ["POST", "POST"]


async def test_nobody_waits_for_an_answer_that_is_elsewhere(tmp_path: Path) -> None:
    """When the client leaves, the provider is told to stop: closing a connection would not do it."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw:
        urls = {
            "get": f"{provider.url}/v1/predictions/p1",
            "cancel": f"{provider.url}/v1/predictions/p1/cancel",
        }
        provider.will(whole({"id": "p1", "status": "processing", "output": None, "urls": urls}))
        asking = asyncio.ensure_future(  # noqa: TID251 - cancelled below
            gw.session.post(f"{gw.url}/v1/images/generations", json={"model": "flux", "prompt": "a cat"})
        )
        await provider.asked(2)
        asking.cancel()
        while provider.requests[-1].path != "/v1/predictions/p1/cancel":
            await provider.asked(len(provider.requests) + 1)
        assert provider.requests[-1].method == "POST"
        (row,) = await gw.rows()
    assert row.status == "client_disconnected"


async def test_nobody_waits_for_a_stream_that_has_not_begun(tmp_path: Path) -> None:
    """The same holds for a stream that was promised and says nothing: the caller's time is over, the provider is told."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw:
        urls = {
            "stream": f"{provider.url}/v1/streams/p1",
            "cancel": f"{provider.url}/v1/predictions/p1/cancel",
        }
        silent = events([b": hi\n\n"], end="hang")
        provider.will(whole({"id": "p1", "status": "starting", "urls": urls}, 201), silent, whole({}))
        question = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        answer = await gw.post("/v1/chat/completions", {**question, "stream_timeout": 0.2})
        assert answer.status == 504
        await provider.asked(3)
        assert (provider.requests[-1].method, provider.requests[-1].path) == (
            "POST",
            "/v1/predictions/p1/cancel",
        )


async def test_an_address_of_somebody_else_is_not_followed(tmp_path: Path) -> None:
    """A provider's answer cannot send the gateway, or its key, to another host."""
    async with (
        fake_provider() as provider,
        fake_provider() as other,
        gateway(models(provider), tmp_path) as gw,
    ):
        other.will(whole({}))
        urls = {"get": f"{other.url}/v1/predictions/p1"}
        provider.will(whole({"id": "p1", "status": "processing", "output": None, "urls": urls}))
        answer = await gw.post("/v1/images/generations", {"model": "flux", "prompt": "a cat"})
        assert answer.status == 502
        assert other.requests == []


async def test_speech(tmp_path: Path) -> None:
    """Sound comes back as the bytes and the kind that the provider gave."""
    sound = bytes(range(256)) * 100
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw, sdk_of(gw) as sdk:
        provider.will(whole(sound, headers={"content-type": "audio/mpeg"}))
        answer = await sdk.audio.speech.create(model="tts", voice="alloy", input="Hello there")
        assert answer.content == sound
        assert answer.response.headers["content-type"] == "audio/mpeg"
        assert provider.requests[0].json == {
            "model": "tts-1",
            "voice": "alloy",
            "input": "Hello there",
            "response_format": "mp3",
        }
        (row,) = await gw.rows()
    assert row.usage.units.characters == 11


@pytest.mark.filterwarnings("ignore:deprecated")  # what the SDK thinks of translations
@pytest.mark.parametrize("operation", ["transcriptions", "translations"])
async def test_sound_to_text(tmp_path: Path, operation: str) -> None:
    """A form with a file goes to the provider under the deployment's model; the gateway's own words stay here."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw, sdk_of(gw) as sdk:
        provider.will(whole({"text": "Hello.", "usage": {"type": "duration", "seconds": 7}}))
        way: Any = getattr(sdk.audio, operation)
        answer = await way.create(
            model="whisper", file=("hello.wav", b"RIFF sound"), prompt="123", extra_body={"tags": "a"}
        )
        assert answer.text == "Hello."
        asked = provider.requests[0]
        assert asked.path == f"/v1/audio/{operation}"
        assert b"RIFF sound" in asked.body
        assert b"whisper-1" in asked.body
        assert b"123" in asked.body
        assert b'name="tags"' not in asked.body
        (row,) = await gw.rows()
    assert (row.operation, row.usage.units.milliseconds) == (operation, 7000)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/images/generations", {"model": "claude", "prompt": "a cat"}, "model"),
        ("/v1/embeddings", {"model": "claude", "input": "a"}, "model"),
        ("/v1/rerank", {"model": "claude", "query": "a", "documents": ["b"]}, "model"),
        ("/v1/rerank", {"model": "cohere-rerank", "documents": ["b"]}, "query"),
        ("/v1/audio/speech", {"model": "tts", "voice": "alloy"}, "input"),
        ("/v1/images/generations", {"model": "dall-e", "prompt": "a cat", "stream": True}, "stream"),
    ],
)
async def test_what_cannot_be(tmp_path: Path, path: str, body: dict[str, Any], param: str) -> None:
    """A clear 400 that names the parameter; the provider hears nothing."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw:
        provider.will(whole({}))
        answer = await gw.post(path, body)
        told = await answer.json()
        assert (answer.status, told["error"]["param"]) == (400, param), told
        assert provider.requests == []


async def test_a_form_that_is_none(tmp_path: Path) -> None:
    """JSON where a form is wanted, and a form without its file, are clear mistakes."""
    async with fake_provider() as provider, gateway(models(provider), tmp_path) as gw:
        answer = await gw.post("/v1/audio/transcriptions", {"model": "whisper"})
        assert answer.status == 400
        assert "multipart/form-data" in (await answer.json())["error"]["message"]
        form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n--b--\r\n'
        kind = {"content-type": "multipart/form-data; boundary=b"}
        answer = await gw.post("/v1/audio/transcriptions", form, headers=kind)
        assert (answer.status, json.loads(await answer.read())["error"]["param"]) == (400, "file")


async def test_tokens_that_only_the_head_counts(tmp_path: Path) -> None:
    """Where a model's answer has no counts but its head has, the row has them and they are no estimate."""
    async with fake_provider() as provider:
        config = config_of(entry("m", "bedrock/invoke/mistral.mistral-7b-instruct-v0:2", provider.url))
        async with gateway(config, tmp_path) as gw:
            told = {"x-amzn-bedrock-input-token-count": "12", "x-amzn-bedrock-output-token-count": "3"}
            provider.will(whole({"outputs": [{"text": "Hi.", "stop_reason": "stop"}]}, headers=told))
            question = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}]}
            answer = await gw.post("/v1/chat/completions", question)
            assert (await answer.json())["usage"]["total_tokens"] == 15
            (row,) = await gw.rows()
    assert (row.usage.input, row.usage.output, row.usage_source) == (12, 3, "reported")
