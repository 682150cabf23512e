"""Configurations as deployments write them: each starts the gateway, and each of its models answers.

The files of the project's first operators are found in the folder that `SEEDS` names (`../shared/seeds` by default):
every YAML and JSON block of a configuration, and every block of environment variables. Where the folder is absent, the
configurations below, written in the same shapes, stand for them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters import PROVIDERS
from gateway.cli import main
from gateway.config.load import load
from gateway.config.vocabulary import SECTIONS as VOCABULARY
from gateway.config.vocabulary import SETTINGS
from tests.harness import Asked, FakeProvider, chat_answer, config_of, entry, gateway, message_answer, whole

FOLDER = Path(os.environ.get("SEEDS") or Path(__file__).parents[3] / "shared" / "seeds")
SECTIONS = {
    "model_list",
    "router_settings",
    "litellm_settings",
    "general_settings",
    "llm_providers",
    "litellm",
}
TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
OWN_PATHS = {"/v2/chat": "cohere", "/api/chat": "ollama", ":generateContent": "gemini"}
"""Where a format of a provider's own is spoken, and the folder of its transcripts."""

ADDRESSES = re.compile(r'((?:api_base|base_url)"?\s*:\s*"?)https?://[^/\s"]+')
DATABASES = re.compile(r"postgres(?:ql)?://[^\s\"]+")
REFERENCES = re.compile(r"os\.environ/(\w+)|\$\{(\w+)\}")

# Which model shows that a provider's variables work.
MODELS = {
    "OPENAI_API_KEY": "gpt-4",
    "ANTHROPIC_API_KEY": "claude-3-opus",
    "GEMINI_API_KEY": "gemini-pro",
    "COHERE_API_KEY": "command-r",
    "AZURE_API_KEY": "azure/your-deployment-name",
}


@dataclass(frozen=True)
class Block:
    """A piece of a document between two fences."""

    name: str
    text: str

    def __str__(self) -> str:
        return self.name


def fenced() -> Iterator[Block]:
    for path in sorted(FOLDER.glob("*")):
        text = path.read_text(errors="replace")
        for match in re.finditer(r"(?ms)^```\w*\n(.*?)^```", text):
            line = text.count("\n", 0, match.start()) + 1
            yield Block(f"{path.name}:{line}", match[1])


def document(block: Block) -> dict[str, Any]:
    """The block as YAML (and so as JSON), empty if it is none."""
    try:
        value = yaml.safe_load(block.text)
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


def configurations() -> list[Block]:
    return [block for block in fenced() if SECTIONS & document(block).keys()]


def environments() -> list[Block]:
    """Blocks of `NAME=value`, of a shell or of a compose file's service."""
    found = []
    for block in fenced():
        services = document(block).get("services") or {}
        lines = [line for service in services.values() for line in service.get("environment", ())]
        lines += re.findall(r"(?m)^[A-Z][A-Z0-9_]*=.*$", block.text)
        if lines:
            found.append(Block(block.name, "\n".join(lines)))
    return found


# -- our own, in the same shapes -------------------------------------------------------------------------------------

OWN_CONFIGURATIONS = [
    Block(
        "fallbacks as bare names, settings under the wrong heading",
        """\
model_list:
  - model_name: claude-sonnet
    litellm_params: { model: anthropic/claude-sonnet-4-5, api_key: os.environ/ANTHROPIC_API_KEY }
  - model_name: gpt-4o
    litellm_params: { model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEY }
router_settings:
  redis_host: my-redis
  redis_port: 6379
  num_retries: 3
  timeout: 600
  fallbacks:
    - claude-sonnet
    - gpt-4o
litellm_settings:
  success_callback: ["postgres"]
  database_url: postgresql://somebody@my-postgres:5432/books
  drop_params: true
  set_verbose: false
""",
    ),
    Block(
        "one name twice, fallbacks with two keys, a list as an alias",
        """\
model_list:
  - model_name: fast
    litellm_params: { model: openai/gpt-4o-mini, api_key: os.environ/FIRST_KEY, temperature: 0.7, max_tokens: 512 }
  - model_name: fast
    litellm_params: { model: openai/gpt-4o-mini, api_key: os.environ/SECOND_KEY }
  - model_name: local
    litellm_params: { model: ollama/llama3.2, api_base: "http://localhost:11434" }
  - model_name: mine
    litellm_params: { model: openai/mine, api_base: "https://models.example/v1", api_key: os.environ/MY_KEY }
router_settings:
  routing_strategy: latency-based
  cooldown_time: 1
  retry_policy: { max_retries: 3, base_delay: 1, max_delay: 10 }
  model_group_alias:
    any: ["fast", "gone", "local"]
  fallbacks:
    - model_name: fast
      fallbacks: [local, not-here]
    - mine: ["fast"]
""",
    ),
    Block(
        "everything under general_settings",
        """\
model_list:
  - model_name: gpt-4
    litellm_params: { model: openai/gpt-4, api_key: os.environ/OPENAI_API_KEY }
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  database_url: os.environ/DATABASE_URL
  track_cost_per_model: true
  max_budget: 100.0
  budget_duration: "30d"
  budget_reset_at: "00:00"
  cost_per_token: { gpt-4: 0.00006 }
  cache: true
  cache_params: { type: redis, host: os.environ/REDIS_HOST, port: os.environ/REDIS_PORT, ttl: 600 }
  tpm_limit: 10000
  rpm_limit: 100
  max_parallel_requests: 10
  user_rate_limit: { "user-1": { "tpm": 5000, "rpm": 50 } }
  success_callback: ["langfuse"]
  failure_callback: ["langfuse"]
  allowed_ips: ["*"]
  blocked_ips: []
""",
    ),
    Block(
        "settings alone", "litellm_settings:\n  set_verbose: true\ngeneral_settings:\n  master_key: sk-1234\n"
    ),
    Block(
        "a blueprint",
        json.dumps(
            {
                "litellm": {
                    "hostname": "litellm",
                    "port": 4000,
                    "requires": ["litellm_redis"],
                    "enabled": True,
                },
                "llm_providers": {
                    "anthropic": {
                        "enabled": True,
                        "api_key": "${ANTHROPIC_API_KEY}",
                        "models": ["claude-haiku-4-5"],
                    },
                    "ollama": {
                        "enabled": True,
                        "base_url": "http://localhost:11434",
                        "models": ["qwen2.5:32b"],
                    },
                    "openai": {"enabled": False, "api_key": "${OPENAI_API_KEY}", "models": ["gpt-4o"]},
                },
            },
            indent=2,
        ),
    ),
]

OWN_ENVIRONMENTS = [
    Block("openai", "OPENAI_API_KEY=sk-..."),
    Block("anthropic", "ANTHROPIC_API_KEY=sk-ant-..."),
    Block(
        "azure",
        "AZURE_API_KEY=a-key\nAZURE_API_BASE=https://my-resource.openai.azure.com/\nAZURE_API_VERSION=2024-02-15-preview",
    ),
    Block("vertex", "GOOGLE_APPLICATION_CREDENTIALS=/path/to/credentials.json"),
    Block(
        "everything",
        "LITELLM_HOST=0.0.0.0\nLITELLM_PORT=4000\nLITELLM_MASTER_KEY=dev-key-change-in-production\n"
        "DATABASE_URL=postgres://postgres:postgres@postgres:5432/litellm\nREDIS_HOST=redis\nREDIS_PORT=6379\n"
        "REDIS_PASSWORD=\nREDIS_URL=redis://redis:6379\nUI_USERNAME=admin\nUI_PASSWORD=admin123\n"
        "OPENAI_API_KEY=sk-...  # comments are no part of it\nGEMINI_API_KEY=a-key\nCOHERE_API_KEY=a-key\n"
        "LANGFUSE_HOST=http://langfuse:3000\nLITELLM_LOG_LEVEL=DEBUG\nLITELLM_LOG=INFO\nLITELLM_DEBUG=false",
    ),
]


# -- all of them start and answer ------------------------------------------------------------------------------------


async def answer(provider: FakeProvider, asked: Asked) -> None:
    """What the provider says, in the format of the path that was asked."""
    body = message_answer() if asked.path.endswith("/messages") else chat_answer()
    for end, format_name in OWN_PATHS.items():
        if asked.path.endswith(end):
            body = json.loads((TRANSCRIPTS / format_name / "answer.json").read_bytes())
    await whole(body)(provider, asked)


def environ_for(provider: FakeProvider, text: str) -> dict[str, str]:
    """The variables that a configuration refers to, and the provider's address for all that have none."""
    referred = {name for match in REFERENCES.finditer(text) for name in match.groups() if name}
    values = {name: "6379" if name.endswith("_PORT") else f"value-of-{name.lower()}" for name in referred}
    return values | addresses(provider)


def addresses(provider: FakeProvider) -> dict[str, str]:
    paths = {"openai": "/v1", "anthropic": "", "gemini": "", "cohere": ""}
    return {PROVIDERS[name].base_env[0]: provider.url + path for name, path in paths.items()}


def question(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture
def books(block: Block, request: pytest.FixtureRequest) -> str:
    """A database for a configuration that names one."""
    return request.getfixturevalue("database_url") if "database_url" in block.text else ""


@pytest.mark.parametrize("block", [*OWN_CONFIGURATIONS, *configurations()], ids=str)
async def test_configurations(block: Block, provider: FakeProvider, tmp_path: Path, books: str) -> None:
    """A configuration starts the gateway as it is written, and each model that it names answers both kinds of client."""
    provider.will(answer)
    environ = environ_for(provider, block.text)
    if books:
        environ["DATABASE_URL"] = books
    text = DATABASES.sub(books, ADDRESSES.sub(rf"\g<1>{provider.url}", block.text))
    document_key = (document(block).get("general_settings") or {}).get("master_key", "")
    key = environ.get(document_key.removeprefix("os.environ/"), document_key)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with gateway(text, tmp_path, environ) as gw:
        health = await (await gw.get("/health")).json()
        assert health["status"] == "healthy"
        names = [
            model["id"] for model in (await (await gw.get("/v1/models", headers=headers)).json())["data"]
        ]
        for written in document(block).get("model_list") or ():
            assert written["model_name"] in names
        for name in names:
            chat = await gw.post("/v1/chat/completions", question(name), headers=headers)
            assert (chat.status, (await chat.json())["model"]) == (200, name)
            told = {**question(name), "max_tokens": 9}
            messages = await gw.post("/v1/messages", told, headers=headers)
            assert (messages.status, (await messages.json())["model"]) == (200, name)
        assert len(await gw.rows(2 * len(names))) == 2 * len(names)
    assert len(provider.requests) == 2 * len(names)


@pytest.mark.parametrize("block", [*OWN_ENVIRONMENTS, *environments()], ids=str)
async def test_environments(block: Block, provider: FakeProvider, tmp_path: Path) -> None:
    """Variables as they are written start the gateway, and the models of each provider with a key answer."""
    provider.will(answer)
    lines = [line.partition("#")[0].strip().partition("=") for line in block.text.splitlines()]
    environ = {name: value for name, _, value in lines} | addresses(provider)
    if "AZURE_API_BASE" in environ:
        environ["AZURE_API_BASE"] = f"{provider.url}/"
    key = environ.get("LITELLM_MASTER_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with gateway(None, tmp_path, environ) as gw:
        assert (await (await gw.get("/health")).json())["status"] == "healthy"
        for variable in MODELS.keys() & environ.keys():
            chat = await gw.post("/v1/chat/completions", question(MODELS[variable]), headers=headers)
            assert (chat.status, (await chat.json())["model"]) == (200, MODELS[variable])


@pytest.mark.parametrize("block", [*OWN_CONFIGURATIONS, *configurations()], ids=str)
def test_nothing_is_passed_over(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each setting that has no effect yet is named with its line at start, and `penstock check` judges every file."""
    monkeypatch.chdir(tmp_path)
    for match in REFERENCES.finditer(block.text):
        name = match[1] or match[2]
        monkeypatch.setenv(name, "postgres://h/d" if name == "DATABASE_URL" else "6379")
    (tmp_path / "litellm.yaml").write_text(block.text)
    notices = [str(notice) for notice in load(Path("litellm.yaml"), os.environ).notices]
    written = [
        name for section in VOCABULARY for name in document(block).get(section) or () if name in SETTINGS
    ]
    for name in written:
        if SETTINGS[name].status == "later":
            assert any(f": {name} has no effect" in notice for notice in notices), name
    assert all(re.match(r"litellm\.yaml:\d+:\d+: ", notice) for notice in notices)
    assert main(["check", "litellm.yaml"]) in {0, 1}
    assert "litellm.yaml" in capsys.readouterr().out


async def test_include_and_models_folder(provider: FakeProvider, tmp_path: Path) -> None:
    """A configuration in pieces, `include:` and a `models/` folder beside it, serves all of them."""
    provider.will(answer)
    (tmp_path / "models").mkdir()
    base = f"{provider.url}/v1"
    (tmp_path / "models" / "a.yaml").write_text(config_of(entry("of-the-folder", "openai/x", base)))
    (tmp_path / "more.yaml").write_text(json.dumps({"model_list": [entry("included", "openai/x", base)]}))
    text = json.dumps({"include": ["more.yaml"], "model_list": [entry("main", "openai/x", base)]})
    async with gateway(text, tmp_path) as gw:
        names = [model["id"] for model in (await (await gw.get("/v1/models")).json())["data"]]
        assert sorted(names) == ["included", "main", "of-the-folder"]
        assert {(await gw.post("/v1/chat/completions", question(name))).status for name in names} == {200}


def test_the_seeds_are_found() -> None:
    """Where the folder of seeds is there, its configurations and environments are collected."""
    if FOLDER.is_dir():
        assert len(configurations()) >= 12
        assert len(environments()) >= 6
