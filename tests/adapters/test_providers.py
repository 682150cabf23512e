"""The rows are complete and consistent, and names and addresses are understood as people write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import pytest

from adapters import FORMATS
from adapters.providers import ALIASES, PROVIDERS, QUIRKS, find, for_model, located, provider, table
from adapters.types import Operation, Provider

ROWS = [pytest.param(row, id=row.name) for row in PROVIDERS.values()]
OPERATIONS = set(get_args(Operation))
FETCHED = {"google", "aws", "iam"}
"""Kinds of `auth` that need no key in a variable."""


@pytest.mark.parametrize("row", ROWS)
def test_row_is_complete(row: Provider) -> None:
    """Each row says its title, format, key, variables, paths and the document that it comes from."""
    assert row.title
    assert row.format in FORMATS
    assert row.env or row.auth in FETCHED
    assert row.base_env
    assert row.paths
    assert set(row.paths) <= OPERATIONS
    assert row.doc.startswith("https://")
    assert row.quirks <= set(QUIRKS)
    assert re.fullmatch(r"[a-z0-9_-]+", row.name)
    for name in (*row.env, *row.base_env):
        assert re.fullmatch(r"[A-Z][A-Z0-9_-]*", name)


@pytest.mark.parametrize("row", ROWS)
def test_address_is_sound(row: Provider) -> None:
    """Addresses are https (but for servers on this machine), end without a slash and have no query, user or key."""
    for path in row.paths.values():
        assert path.startswith("/")
    if not row.base_url:
        return
    url = urlsplit(re.sub(r"\{\w+\}", "x", row.base_url))
    assert set(re.findall(r"\{(\w+)\}", row.base_url)) <= {*row.option_env, *row.option_defaults}
    local = url.hostname in {"localhost", "127.0.0.1"}
    assert url.scheme == ("http" if local else "https")
    assert not any((url.query, url.fragment, url.username, url.password))
    assert not row.base_url.endswith("/")
    assert local == ("optional_key" in row.quirks)


@pytest.mark.parametrize("row", ROWS)
def test_request_fields_are_refused_or_renamed_not_both(row: Provider) -> None:
    """A field has one fate, what comes of a renaming is not refused, and `stream_options` fits `usage`."""
    assert not set(row.rejects) & set(row.rename)
    assert not set(row.rejects) & set(row.rename.values())
    assert len(set(row.rejects)) == len(row.rejects)
    if row.usage == "ask":
        assert "stream_options" not in row.rejects
    assert not ("top_k" in row.quirks and "top_k" in row.rejects)


def test_there_are_enough() -> None:
    """The table has well over a hundred providers."""
    assert len(PROVIDERS) >= 150


def test_nothing_is_claimed_twice() -> None:
    """Names, aliases and the beginnings of bare model names are unique; aliases lead to rows."""
    prefixes = [prefix for row in PROVIDERS.values() for prefix in row.prefixes]
    assert len(set(prefixes)) == len(prefixes)
    assert not set(ALIASES) & set(PROVIDERS)
    assert set(ALIASES.values()) <= set(PROVIDERS)
    addresses = [
        (row.base_url, *row.paths.values()) for row in PROVIDERS.values() if row.base_url.startswith("https")
    ]
    assert len(set(addresses)) == len(addresses)


def test_every_quirk_is_had() -> None:
    """No quirk is explained that no provider has."""
    assert set().union(*(row.quirks for row in PROVIDERS.values())) == set(QUIRKS)


def test_readme_shows_the_table() -> None:
    """The table in the README is the one that the rows give."""
    readme = Path(__file__).parents[2] / "adapters" / "README.md"
    assert readme.read_text().endswith("\n" + table())


@pytest.mark.parametrize(
    ("model", "name", "rest"),
    [
        ("anthropic/claude-3", "anthropic", "claude-3"),
        ("openrouter/anthropic/claude-3", "openrouter", "anthropic/claude-3"),
        ("together_ai/meta-llama/Llama-3-8b", "together_ai", "meta-llama/Llama-3-8b"),
        ("azure/your-deployment-name", "azure", "your-deployment-name"),
        ("ollama/llama2", "ollama", "llama2"),
        ("ollama_chat/qwen2.5:32b", "ollama", "qwen2.5:32b"),
        ("vllm/x", "hosted_vllm", "x"),
        ("openai/claude-3", "openai", "claude-3"),
        ("gpt-4", "openai", "gpt-4"),
        ("gpt-3.5-turbo", "openai", "gpt-3.5-turbo"),
        ("o3", "openai", "o3"),
        ("o4-mini", "openai", "o4-mini"),
        ("chatgpt-4o-latest", "openai", "chatgpt-4o-latest"),
        ("dall-e-3", "openai", "dall-e-3"),
        ("text-embedding-3-small", "openai", "text-embedding-3-small"),
        ("ft:gpt-4o-mini:acme::1", "openai", "ft:gpt-4o-mini:acme::1"),
        ("ft:open-mistral-7b:acme", "mistral", "ft:open-mistral-7b:acme"),
        ("claude-3-opus", "anthropic", "claude-3-opus"),
        ("gemini-pro", "gemini", "gemini-pro"),
        ("command", "cohere", "command"),
        ("command-light", "cohere", "command-light"),
        ("codestral-latest", "mistral", "codestral-latest"),
        ("deepseek-chat", "deepseek", "deepseek-chat"),
        ("grok-4", "xai", "grok-4"),
        ("sonar-pro", "perplexity", "sonar-pro"),
    ],
)
def test_find(model: str, name: str, rest: str) -> None:
    """A prefixed name is split at its first slash, and names that everybody knows need no prefix."""
    assert find(model) == (PROVIDERS[name], rest)


@pytest.mark.parametrize(
    ("model", "format", "name", "location"),
    [
        ("vertex_ai/gemini-2.5-pro", "gemini", "gemini-2.5-pro", "us-central1"),
        ("vertex_ai/gemini-3.5-flash", "gemini", "gemini-3.5-flash", "global"),
        ("vertex_ai/gemini-flash-latest", "gemini", "gemini-flash-latest", "global"),
        ("vertex_ai/gemini-embedding-001", "gemini", "gemini-embedding-001", "us-central1"),
        ("vertex_ai/gemini/gemini-2.0-flash", "gemini", "gemini-2.0-flash", "us-central1"),
        ("vertex_ai/1234567890", "gemini", "1234567890", "us-central1"),
        ("vertex/claude-opus-4-5@20251101", "vertex", "claude-opus-4-5@20251101", "global"),
        ("vertex_ai/anthropic/claude-opus-4-5", "vertex", "claude-opus-4-5", "global"),
        ("vertex_ai/mistral-medium-3", "vertex_openai", "mistral-medium-3", "us-central1"),
        ("vertex_ai/mistralai/codestral-2@001", "vertex_openai", "codestral-2@001", "us-central1"),
        ("vertex_ai/jamba-1.5-mini", "vertex_openai", "jamba-1.5-mini", "us-central1"),
        ("vertex_ai/meta/llama-4-scout", "openai", "meta/llama-4-scout", "us-central1"),
        ("vertex_ai/openapi/some-model", "openai", "some-model", "us-central1"),
    ],
)
def test_find_on_vertex(model: str, format: str, name: str, location: str) -> None:  # noqa: A002 - the row's word
    """One prefix leads to as many formats as there are makers of models, all under the provider's one name."""
    found = find(model)
    assert found is not None
    row, known = found
    assert (row.name, row.format, known) == ("vertex_ai", format, name)
    assert row.option_defaults == {"vertex_location": location}
    assert for_model(PROVIDERS["vertex_ai"], model.partition("/")[2]) == found
    assert for_model(PROVIDERS["openai"], "claude-3") == (PROVIDERS["openai"], "claude-3")


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("https://us-east5-aiplatform.googleapis.com", "https://us-east5-aiplatform.googleapis.com"),
        ("https://global-aiplatform.googleapis.com", "https://aiplatform.googleapis.com"),
        ("https://eu-aiplatform.googleapis.com", "https://aiplatform.eu.rep.googleapis.com"),
        ("https://proxy.example.com/google/v1beta1/", "https://proxy.example.com/google"),
        ("https://proxy.example.com/v1beta/openai", "https://proxy.example.com"),
    ],
)
def test_located_at_google(written: str, url: str) -> None:
    """Regions have hosts of their own, what is broader has other ones, and versions stand in the paths."""
    for name in ("gemini", "vertex_ai"):
        assert located(PROVIDERS[name], written) == (PROVIDERS[name], url)


@pytest.mark.parametrize(
    "model", ["", "/", "openai/", "llama3.2:latest", "nobody/gpt-4", "meta-llama/Llama-3", "deepseek-r1"]
)
def test_find_does_not_guess(model: str) -> None:
    """What nobody owns without doubt belongs to nobody."""
    assert find(model) is None


def test_provider_knows_aliases() -> None:
    """A provider is found by its name and by each of its aliases."""
    assert provider("cohere_chat") is PROVIDERS["cohere"]
    assert provider("cohere") is PROVIDERS["cohere"]
    assert provider("nobody") is None


@pytest.mark.parametrize(
    ("name", "written", "url"),
    [
        ("openai", "", "https://api.openai.com/v1/chat/completions"),
        ("openai", "http://host:8000/v1", "http://host:8000/v1/chat/completions"),
        ("openai", "http://host:8000/v1/chat/completions", "http://host:8000/v1/chat/completions"),
        ("anthropic", "https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("anthropic", "https://api.anthropic.com/", "https://api.anthropic.com/v1/messages"),
        ("anthropic", "https://api.anthropic.com/v1", "https://api.anthropic.com/v1/messages"),
        ("anthropic", "https://api.anthropic.com/v1/messages", "https://api.anthropic.com/v1/messages"),
        ("ollama", "http://host.docker.internal:11434", "http://host.docker.internal:11434/api/chat"),
        ("ollama", "http://host:11434/api/chat", "http://host:11434/api/chat"),
        ("ollama", "http://host:11434/v1", "http://host:11434/v1/chat/completions"),
        ("ollama", "http://host:11434/v1/embeddings", "http://host:11434/v1/chat/completions"),
        ("cohere", "", "https://api.cohere.com/v2/chat"),
        ("cohere", "https://api.cohere.ai/v1/rerank", "https://api.cohere.ai/v2/chat"),
        ("cohere", "https://api.cohere.com/v2/", "https://api.cohere.com/v2/chat"),
        ("cohere", "https://api.cohere.ai/compatibility/v1", "https://api.cohere.ai/v2/chat"),
        ("heroku", "https://us.inference.heroku.com", "https://us.inference.heroku.com/v1/chat/completions"),
        (
            "azure",
            "https://r.openai.azure.com/",
            "https://r.openai.azure.com/openai/deployments/{model}/chat/completions?api-version=2025-02-01-preview",
        ),
        (
            "azure",
            "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
        ),
        (
            "azure",
            "https://r.openai.azure.com/openai/v1/",
            "https://r.openai.azure.com/openai/v1/chat/completions",
        ),
        (
            "azure_ai",
            "https://r.services.ai.azure.com",
            "https://r.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview",
        ),
        (
            "azure_ai",
            "https://r.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview",
            "https://r.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview",
        ),
        (
            "azure_ai",
            "https://r.services.ai.azure.com/openai/v1",
            "https://r.services.ai.azure.com/openai/v1/chat/completions",
        ),
        (
            "azure_ai",
            "https://r.services.ai.azure.com/anthropic/v1/messages",
            "https://r.services.ai.azure.com/anthropic/v1/messages",
        ),
        (
            "snowflake",
            "https://a.snowflakecomputing.com/api/v2",
            "https://a.snowflakecomputing.com/api/v2/cortex/v1/chat/completions",
        ),
        (
            "codestral",
            "https://codestral.mistral.ai/v1/fim/completions",
            "https://codestral.mistral.ai/v1/chat/completions",
        ),
        (
            "azure_ai",
            "https://m.eastus.models.ai.azure.com",
            "https://m.eastus.models.ai.azure.com/chat/completions",
        ),
    ],
)
def test_located(name: str, written: str, url: str) -> None:
    """An address is understood with and without its version, its slash and the rest of the endpoint."""
    row, base = located(PROVIDERS[name], written)
    assert base + row.paths["chat"] == url


@pytest.mark.parametrize(
    ("version", "usage"), [("2024-02-15-preview", "none"), ("2024-10-21", "ask"), ("", "ask")]
)
def test_old_azure_versions_are_not_asked_for_usage(version: str, usage: str) -> None:
    """Versions before September 2024 answer `stream_options` with an error, so it is not sent to them."""
    row, _ = located(PROVIDERS["azure"], "https://r.openai.azure.com", version)
    assert row.usage == usage
    assert ("stream_options" in row.rejects) == (usage == "none")


@pytest.mark.parametrize("version", ["v1", "latest", "preview"])
@pytest.mark.parametrize("written", ["https://r.openai.azure.com", "https://r.openai.azure.com/openai/"])
def test_azure_without_a_version(version: str, written: str) -> None:
    """`api_version: v1` and its like mean the address that needs none."""
    row, base = located(PROVIDERS["azure"], written, version)
    assert base + row.paths["speech"] == "https://r.openai.azure.com/openai/v1/audio/speech"


def test_claude_at_foundry() -> None:
    """There it speaks Anthropic's format, and takes the key in Anthropic's header."""
    row, _ = located(PROVIDERS["azure_ai"], "https://r.services.ai.azure.com/anthropic")
    assert (row.name, row.format, row.auth) == ("azure_ai", "anthropic", "x-api-key")
    assert set(row.paths) == {"chat", "count_tokens"}
