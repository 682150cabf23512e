"""Every provider that the documents name routes: a model of it, in the spelling of a deployment's file, reaches its address."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import FakeProvider, config_of, entry, gateway
from tests.seeds.deployment import moved, question

AWS = {"api_key": None, "aws_region_name": "eu-west-1", "aws_access_key_id": "AKIDEXAMPLEOFTESTS"}
AWS |= {"aws_secret_access_key": "wJalrXUtnFEMIofTestsAlone"}
ROWS = [
    ("openai/gpt-4", "/v1", "/v1/chat/completions"),
    ("openai/gpt-3.5-turbo", "/v1", "/v1/chat/completions"),
    ("openai/gpt-4-vision-preview", "/v1", "/v1/chat/completions"),
    ("openai/gpt-4-turbo", "/v1", "/v1/chat/completions"),
    ("anthropic/claude-3-5-sonnet-20241022", "", "/v1/messages"),
    ("anthropic/claude-3-5-haiku-20241022", "", "/v1/messages"),
    ("anthropic/claude-3-sonnet-20240229", "", "/v1/messages"),
    ("anthropic/claude-3-7-sonnet-20250219", "", "/v1/messages"),
    (
        "azure/your-deployment-name",
        "",
        "/openai/deployments/your-deployment-name/chat/completions?api-version=",
    ),
    ("gemini/gemini-pro", "", "/v1beta/models/gemini-pro:generateContent"),
    ("gemini/gemini-1.5-pro", "", "/v1beta/models/gemini-1.5-pro:generateContent"),
    ("gemini/gemini-1.5-flash", "", "/v1beta/models/gemini-1.5-flash:generateContent"),
    ("gemini/gemini-pro-vision", "", "/v1beta/models/gemini-pro-vision:generateContent"),
    ("bedrock/amazon.titan-text-express-v1", "", "/model/amazon.titan-text-express-v1/converse"),
    ("bedrock/anthropic.claude-3-haiku-20240307-v1:0", "", "/model/anthropic.claude-3-haiku-20240307-v1"),
    ("bedrock/meta.llama3-8b-instruct-v1:0", "", "/model/meta.llama3-8b-instruct-v1"),
    ("cohere/command", "", "/v2/chat"),
    ("cohere/command-light", "", "/v2/chat"),
    ("huggingface/meta-llama/Llama-3.1-8B-Instruct", "", "/v1/chat/completions"),
    (
        "replicate/meta/meta-llama-3-8b-instruct",
        "/v1",
        "/v1/models/meta/meta-llama-3-8b-instruct/predictions",
    ),
    ("ollama/llama2", "", "/api/chat"),
    ("ollama/llama3.2:latest", "", "/api/chat"),
    ("ollama/qwen2.5:32b", "", "/api/chat"),
    ("lm_studio/a-local-model", "/v1", "/v1/chat/completions"),
    ("hosted_vllm/a-local-model", "/v1", "/v1/chat/completions"),
    ("localai/a-local-model", "/v1", "/v1/chat/completions"),
    ("together_ai/meta-llama/Llama-3-8b-chat-hf", "/v1", "/v1/chat/completions"),
    ("groq/llama-3.3-70b-versatile", "/openai/v1", "/openai/v1/chat/completions"),
    ("ai21/jamba-large", "/v1", "/v1/chat/completions"),
    ("mistral/open-mistral-7b", "/v1", "/v1/chat/completions"),
    ("mistral/open-mixtral-8x7b", "/v1", "/v1/chat/completions"),
    ("aleph_alpha/luminous-base", "", "/complete"),
    ("openai/a-proprietary-model", "/deep/v1", "/deep/v1/chat/completions"),
]
"""Model, path of its address, where the provider is asked."""


@pytest.mark.rows("B1", "B3", "E")
@pytest.mark.parametrize(("model", "base", "path"), ROWS, ids=[row[0] for row in ROWS])
async def test_a_chat_of_each(
    provider: FakeProvider, tmp_path: Path, model: str, base: str, path: str
) -> None:
    """A chat with a model of this provider is answered under its public name."""
    more = AWS if model.startswith("bedrock/") else {}
    config = config_of(entry("m", model, provider.url + base, **more))
    async with gateway(config, tmp_path) as gw:
        answered = await gw.post("/v1/chat/completions", question("m", max_tokens=9))
        assert (answered.status, (await answered.json())["model"]) == (200, "m"), await answered.text()
    assert provider.requests[0].path.startswith(path)


@pytest.mark.rows("E", "A18")
async def test_vertex(provider: FakeProvider, tmp_path: Path) -> None:
    """`vertex_ai/gemini-pro` goes to the project of the service account, with a token that was got for it."""
    environ = moved({"GOOGLE_APPLICATION_CREDENTIALS": "account.json"}, provider, tmp_path)
    async with gateway(None, tmp_path, environ) as gw:
        answered = await gw.post("/v1/chat/completions", question("vertex_ai/gemini-pro"))
        assert answered.status == 200
    token, asked = provider.requests
    assert token.path == "/token"
    assert "/projects/a-project/" in asked.path
    assert asked.headers["authorization"] == "Bearer ya29.a-token-of-tests"


@pytest.mark.rows("E")
@pytest.mark.parametrize(
    ("model", "base", "path", "body"),
    [
        (
            "openai/dall-e-3",
            "/v1",
            "/images/generations",
            {"prompt": "a penstock", "response_format": "b64_json"},
        ),
        ("stability/sd3.5-large", "", "/images/generations", {"prompt": "a penstock"}),
        ("openai/text-embedding-3-small", "/v1", "/embeddings", {"input": "Hello!"}),
    ],
)
async def test_pictures_and_embeddings(
    provider: FakeProvider, tmp_path: Path, model: str, base: str, path: str, body: dict[str, str]
) -> None:
    """DALL-E, Stable Diffusion and embeddings are asked for in OpenAI's shapes."""
    async with gateway(config_of(entry("m", model, provider.url + base)), tmp_path) as gw:
        answered = await gw.post(f"/v1{path}", {"model": "m", **body})
        assert answered.status == 200, await answered.text()
        assert (await answered.json())["data"]


@pytest.mark.rows("E")
async def test_more_than_a_hundred(provider: FakeProvider, tmp_path: Path) -> None:
    """There are as many providers as the documents promise, and `/public/providers` lists them."""
    async with gateway(None, tmp_path) as gw:
        listed = await (await gw.get("/public/providers")).json()
    assert len(listed.get("providers", listed) if isinstance(listed, dict) else listed) > 100
