"""What callers and providers may not do: over every provider where that can be said of all.

A caller chooses the model's name behind a wildcard and any field that no format defines. A provider's answer may be
anything. Neither may choose where a request goes, who pays for it, or that it cost less than nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from msgspec import Raw, structs

from adapters import CLIENTS, EMBEDDINGS, FORMATS, IMAGES, TRANSCRIPTIONS, images
from adapters.anthropic_answers import read_usage as read_anthropic_usage
from adapters.audio import write_transcription
from adapters.bedrock_answers import read_usage as read_bedrock_usage
from adapters.bedrock_invoke import metrics_usage
from adapters.errors import BadRequest, Unsupported
from adapters.multipart import write_form
from adapters.providers import PROVIDERS, find
from adapters.types import EmbeddingsRequest, File, Reply, Target, TranscriptionRequest, Usage
from adapters.wire import anthropic, bedrock

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}]}
OPTIONS = {
    "vertex_project": "ours",
    "vertex_location": "global",
    "aws_region_name": "us-east-1",
    "api_version": "2025-01-01",
    "watsonx_region_name": "us-south",
    "project_id": "ours",
}
NAMES = [
    *(
        "..",
        ".",
        "../..",
        "a/../../b",
        "%2e%2e",
        "a%2fb",
        "x?y=1",
        "x#f",
        "x\r\nX-Header: b",
        "ünï/cödé",
        "²",
    ),
    *("a b/c", "x:y@z", "{vertex_project}", "{0.__class__}", "@evil.example", "//evil.example", "a\\b"),
    *("deployment/..", "deployment/", "deployments/../x", "deployments/ünï/x", "invoke/..", "us-west-2/.."),
]


def target_of(name: str) -> Target:
    found = find(name)
    assert found is not None, name
    row, model = found
    options = {**row.option_defaults, **OPTIONS}
    base = row.base_url or "https://own.example/v1"
    base = re.sub(r"\{(\w+)\}", lambda option: options.get(option[1], "ours"), base)
    return Target(provider=row, model=model, base_url=base, options=options)


def envelope(fields: dict[str, Any]) -> dict[str, Raw]:
    return {name: Raw(json.dumps(value).encode()) for name, value in fields.items()}


def asked(name: str, client: str, **fields: Any) -> Any:
    target = target_of(name)
    request = CLIENTS[client].read_request(envelope({**HELLO, "max_tokens": 5, **fields}))
    return json.loads(FORMATS[target.provider.format].write_request(request, target))


@pytest.mark.parametrize("name", NAMES)
def test_a_models_name_stays_in_its_place(name: str) -> None:
    """No name leads to another host or path: it is one step of the path, in the body alone, or refused."""
    for provider in PROVIDERS:
        target = target_of(f"{provider}/{name}")
        row = target.provider
        base = urlsplit(target.base_url)
        for operation in row.paths:
            for stream in (False, True):
                try:
                    address = FORMATS[row.format].address(target, operation, {}, stream=stream)  # type: ignore[arg-type]  # a row's paths are operations
                except Unsupported:
                    continue
                url = urlsplit(address.url)
                where = (provider, operation, address.url)
                assert re.fullmatch(r"[!-~]+", address.url), where
                assert (url.scheme, url.hostname) == (base.scheme, base.hostname), where
                assert not {"..", "."} & set(url.path.split("/")), where
                assert not url.fragment, where
                assert address.url.count("?") <= 1, where


@pytest.mark.parametrize("client", ["openai", "anthropic"])
@pytest.mark.parametrize("name", ["watsonx/ibm/granite", "watsonx/deployment/abc"])
def test_who_pays_is_not_the_callers_to_say(client: str, name: str) -> None:
    """IBM bills the project in the body, and takes the model from there."""
    said = asked(name, client, project_id="theirs", space_id="theirs", model_id="a-dear-one")
    ours = {} if "deployment" in name else {"model_id": "ibm/granite", "project_id": "ours"}
    assert {key: said[key] for key in ("model_id", "project_id", "space_id") if key in said} == ours


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("vertex_ai/claude-sonnet-4", "vertex-2023-10-16"),
        ("bedrock/invoke/anthropic.claude-3", "bedrock-2023-05-31"),
    ],
)
@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_the_version_is_ours(client: str, name: str, version: str) -> None:
    """A caller's `anthropic_version` does not replace the platform's."""
    assert asked(name, client, anthropic_version="theirs")["anthropic_version"] == version


def test_usage_is_asked_for_whatever_a_client_of_another_format_says() -> None:
    """`stream_options` is no field of Anthropic's: as an unknown one it would have turned the bill off."""
    said = asked("openai/gpt-4o", "anthropic", stream=True, stream_options={"include_usage": False})
    assert said["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("count", [101, 10**9])
def test_nobody_asks_for_a_million_pictures(count: int) -> None:
    """Some providers make one picture for each call."""
    with pytest.raises(BadRequest, match="n"):
        images.read_request(envelope({"model": "m", "prompt": "p", "n": count}))
    most = images.read_request(envelope({"model": "m", "prompt": "p", "n": 100}))
    assert len(IMAGES["stability"].write(most, target_of("stability/core"))) == 100


# -- what providers say ------------------------------------------------------------------------------------------------


def counts_of(usage: Usage | None) -> list[int]:
    assert usage is not None
    return [value for value in structs.astuple(usage) if type(value) is int] + list(
        structs.astuple(usage.units)
    )


def test_nothing_costs_less_than_nothing() -> None:
    """Negative counts are none: they would pay back what was spent before."""
    cache = anthropic.CacheCreation(ephemeral_5m_input_tokens=-4, ephemeral_1h_input_tokens=-5)
    searches = anthropic.ServerTools(web_search_requests=-6)
    for written in (-3, None, 3):
        told = anthropic.Usage(-1, -2, written, cache, -3, server_tool_use=searches)
        assert min(counts_of(read_anthropic_usage(told))) >= 0
    converse = bedrock.Usage(-1, -2, -3, None, -4, None, [bedrock.CacheDetail("1h", -5)])
    assert min(counts_of(read_bedrock_usage(converse))) >= 0
    assert min(counts_of(metrics_usage(bedrock.Metrics(-1, -2)))) >= 0


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (
            "bedrock/invoke/meta.llama3",
            b'{"generation":"a","prompt_token_count":-1,"generation_token_count":-2}',
        ),
        (
            "bedrock/invoke/amazon.titan-text",
            b'{"inputTextTokenCount":-1,"results":[{"tokenCount":-2,"outputText":"a","completionReason":"FINISH"}]}',
        ),
        (
            "watsonx_text/ibm/granite",
            b'{"model_id":"m","results":[{"generated_text":"a","generated_token_count":-2,"input_token_count":-1}]}',
        ),
    ],
)
def test_nor_does_it_in_a_completion(name: str, body: bytes) -> None:
    """The same of the older formats."""
    target = target_of(name)
    request = CLIENTS["openai"].read_request(envelope(HELLO))
    answer = FORMATS[target.provider.format].read_response(body, request, target)
    assert min(counts_of(answer.usage)) >= 0


USAGES = [
    (
        "openai/m",
        b'{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":1,"completion_tokens":%b}}',
    ),
    ("anthropic/m", b'{"content":[],"usage":{"input_tokens":1,"output_tokens":%b}}'),
    ("cohere/m", b'{"message":{"content":[]},"usage":{"tokens":{"input_tokens":1,"output_tokens":%b}}}'),
    ("ollama/m", b'{"message":{"content":"a"},"done":true,"prompt_eval_count":1,"eval_count":%b}'),
    (
        "gemini/gemini-3-pro",
        b'{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":%b}}',
    ),
    ("bedrock/m", b'{"output":{"message":{"content":[]}},"usage":{"inputTokens":1,"outputTokens":%b}}'),
    (
        "bedrock/invoke/meta.llama3",
        b'{"generation":"a","prompt_token_count":1,"generation_token_count":%b}',
    ),
    (
        "watsonx_text/ibm/granite",
        b'{"results":[{"generated_text":"a","input_token_count":1,"generated_token_count":%b}]}',
    ),
    (
        "replicate/a/b",
        b'{"status":"succeeded","output":"a","metrics":{"input_token_count":1,"output_token_count":%b}}',
    ),
]


@pytest.mark.parametrize(("name", "body"), USAGES, ids=[name for name, _ in USAGES])
@pytest.mark.parametrize(
    "count", ["1" + "0" * 30, "9223372036854775807", "-5", "3.5", '"12"', '"x"', "true", "[]", "NaN"]
)
def test_a_count_may_be_nonsense(name: str, body: bytes, count: str) -> None:
    """It costs nobody an answer, and what is made of it fits into the books and can be written."""
    target = target_of(name)
    request = CLIENTS["openai"].read_request(envelope(HELLO))
    answer = FORMATS[target.provider.format].read_response(body % count.encode(), request, target)
    assert answer.usage is None or all(0 <= each < 2**40 for each in counts_of(answer.usage))
    for client in CLIENTS.values():
        assert client.write_response(answer, answer_id="a", model="m", now=1)


@pytest.mark.parametrize(
    ("name", "header", "body"),
    [
        ("bedrock/cohere.embed-v3", "x-amzn-bedrock-input-token-count", b'{"embeddings":{"float":[[1.0]]}}'),
        ("huggingface/a/b", "x-compute-tokens", b"[[1.0]]"),
    ],
)
@pytest.mark.parametrize("count", ["9" * 5000, "-7", "²", ""])
def test_a_count_in_a_header_may_be_nonsense(name: str, header: str, body: bytes, count: str) -> None:
    """Python refuses numbers of over 4300 digits; nobody has used so many tokens."""
    target = target_of(name)
    request = EmbeddingsRequest(model="m", input=("a",))
    answer = EMBEDDINGS[target.provider.format].read([Reply({header: count}, body)], request, target)
    assert answer.usage is None or answer.usage.total == 0


@pytest.mark.parametrize("seconds", ["-1e308", "1e308", "99999999999999999999"])
@pytest.mark.parametrize("wanted", ["json", "srt", "vtt"])
def test_no_sound_lasts_for_ever(seconds: str, wanted: str) -> None:
    """Times beyond all measure are cut, in the bill and in subtitles."""
    body = (
        f'{{"text":"a","duration":{seconds},"segments":[{{"text":"a","start":{seconds},"end":{seconds}}}]}}'
    ).encode()
    file = File("a.wav", "audio/wav", b"sound")
    request = TranscriptionRequest(model="m", file=file, response_format=wanted)
    target = target_of("openai/whisper-1")
    answer = TRANSCRIPTIONS["openai"].read([Reply({}, body)], request, target)
    assert answer.usage is not None
    assert 0 <= answer.usage.units.milliseconds <= 10_000_000_000
    assert write_transcription(answer, request)[0]


def test_a_files_media_type_is_looked_at_once() -> None:
    """It was matched in so many ways that sixteen kilobytes of it held the gateway up for hours."""
    for kind in ("a/" * 8000 + "ü", "a/b" + " " * 16_000 + "ü", "/" * 16_000 + "ü"):
        assert b"octet-stream" in write_form({}, {"file": File("a", kind, b"")}).body
    for kind in ("audio/wav", "text/plain; charset=utf-8", "a/b/c"):
        assert kind.encode() in write_form({}, {"file": File("a", kind, b"")}).body
