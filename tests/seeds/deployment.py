"""A deployment as a document describes it, with one fake provider in the place of all others.

Nothing in a document is changed but where it leads: providers are moved by the variables that operators have for that
(`OPENAI_API_BASE` …), and an address that the document writes itself keeps its path and gets another host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from adapters import PROVIDERS
from tests.harness import Asked, FakeProvider, chat_answer, message_answer, whole
from tests.seeds.documents import Block

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
_OWN_PATHS = {
    "/v2/chat": "cohere/answer.json",
    "/api/chat": "ollama/answer.json",
    ":generateContent": "gemini/answer.json",
    "/converse": "bedrock/answer.json",
    "/predictions": "replicate/answer.json",
    "/stable-image/generate/sd3": "stability/answer.json",
    "/complete": "aleph_alpha/complete.json",
}
"""Where a provider speaks a format of its own, and what it said once."""
_ADDRESSES = re.compile(r'((?:api_base|base_url)"?\s*:\s*"?)https?://[^/\s"]+')
_DATABASES = re.compile(r"postgres(?:ql)?://[^\s\"]+")
_REFERENCES = re.compile(r"os\.environ/(\w+)|\$\{(\w+)\}")
_KEY = "value-of-the-variable-"
MASTER_KEY = "key-of-the-operator-of-tests"


async def answer(provider: FakeProvider, asked: Asked) -> None:
    """What the provider says, in the format of the path that was asked."""
    await whole(_answer_at(asked.path))(provider, asked)


def _answer_at(path: str) -> dict[str, Any]:
    for end, transcript in _OWN_PATHS.items():
        if path.endswith(end):
            found: dict[str, Any] = json.loads((TRANSCRIPTS / transcript).read_bytes())
            return found
    if path == "/token":
        return {"access_token": "ya29.a-token-of-tests", "expires_in": 3599, "token_type": "Bearer"}
    if path.endswith("/messages"):
        return message_answer()
    if path.endswith("/embeddings"):
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        return {"object": "list", "data": [vector], "model": "text-embedding-3-small", "usage": usage}
    if path.endswith("/images/generations"):
        return {"created": 1_700_000_000, "data": [{"b64_json": "aGVsbG8="}]}
    if path.endswith("/completions") and "/chat/" not in path:
        choice = {"index": 0, "text": "Hello!", "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        named = {"id": "cmpl-1", "object": "text_completion", "created": 1_700_000_000}
        return {**named, "model": "gpt-3.5-turbo-instruct", "choices": [choice], "usage": usage}
    return chat_answer()


def addresses(provider: FakeProvider) -> dict[str, str]:
    """The variables that move providers to the fake one."""
    paths = {
        "openai": "/v1",
        "anthropic": "",
        "gemini": "",
        "vertex_ai": "",
        "cohere": "",
        "replicate": "/v1",
        "huggingface": "",
    }
    return {PROVIDERS[name].base_env[0]: provider.url + path for name, path in paths.items()}


def moved(environ: Mapping[str, str], provider: FakeProvider, folder: Path) -> dict[str, str]:
    """A document's variables, with all that they lead to at the fake provider; what they say of keys stays."""
    found = {**addresses(provider), **environ}
    if "AZURE_API_BASE" in environ:
        found["AZURE_API_BASE"] = f"{provider.url}/"
    if "GOOGLE_APPLICATION_CREDENTIALS" in environ:
        path = folder / Path(environ["GOOGLE_APPLICATION_CREDENTIALS"]).name
        path.write_text(_service_account(provider))
        found["GOOGLE_APPLICATION_CREDENTIALS"] = str(path)
    return found


def _service_account(provider: FakeProvider) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    told = {"type": "service_account", "project_id": "a-project", "private_key": pem}
    return json.dumps(
        {**told, "client_email": "robot@a-project.example", "token_uri": f"{provider.url}/token"}
    )


def written(block: Block, provider: FakeProvider, database_url: str = "") -> str:
    """The block's text, with the addresses that stand in it led to the fake provider and to a database of the test's."""
    text = _ADDRESSES.sub(rf"\g<1>{provider.url}", block.text)
    return _DATABASES.sub(database_url, text) if database_url else text


def environ_for(block: Block, provider: FakeProvider, database_url: str = "") -> dict[str, str]:
    """The variables that a configuration refers to, each with a value, and the addresses of providers."""
    referred = {name for match in _REFERENCES.finditer(block.text) for name in match.groups() if name}
    values = {name: "6379" if name.endswith("_PORT") else _KEY + name.lower() for name in referred}
    if database_url:
        values["DATABASE_URL"] = database_url
    return values | addresses(provider)


def authorization(block: Block, environ: Mapping[str, str]) -> dict[str, str]:
    """The header of whoever has the master key that a configuration names, if it names one."""
    named = (block.data.get("general_settings") or {}).get("master_key", "")
    key = environ.get(named.removeprefix("os.environ/"), named) or environ.get("LITELLM_MASTER_KEY", "")
    return {"authorization": f"Bearer {key}"} if key else {}


def question(model: str, **more: Any) -> dict[str, Any]:
    """A chat's body."""
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}], **more}


def price(dollars_a_token: str) -> dict[str, str]:
    """`litellm_params` of a model that costs so much a token."""
    return {"input_cost_per_token": dollars_a_token, "output_cost_per_token": dollars_a_token}
