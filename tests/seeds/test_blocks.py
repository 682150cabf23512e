"""Every block of a configuration, and every block of variables, as it stands in a document: it starts, and its models answer."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.config.load import load
from gateway.config.vocabulary import SECTIONS as VOCABULARY
from gateway.config.vocabulary import SETTINGS
from tests.harness import FakeProvider, config_of, entry, gateway
from tests.seeds.deployment import authorization, environ_for, moved, question, written
from tests.seeds.documents import CONFIGURATIONS, ENVIRONMENTS, FOLDER, OWN, SHELVES, Block, Shelf

# Which model shows that a provider's variables work.
MODELS = {
    "OPENAI_API_KEY": "gpt-4",
    "ANTHROPIC_API_KEY": "claude-3-opus",
    "GEMINI_API_KEY": "gemini-pro",
    "COHERE_API_KEY": "command-r",
    "AZURE_API_KEY": "azure/your-deployment-name",
    "GOOGLE_APPLICATION_CREDENTIALS": "vertex_ai/gemini-pro",
}


@pytest.fixture
def books(block: Block, request: pytest.FixtureRequest) -> str:
    """A database for a configuration that names one."""
    return request.getfixturevalue("database_url") if "database_url" in block.text else ""


@pytest.mark.rows("A5", "A15", "A28", "B1", "B2", "B3", "B18", "B20", "B22", "B23", "B25", "B30", "B42")
@pytest.mark.parametrize("block", CONFIGURATIONS, ids=str)
async def test_configurations(block: Block, provider: FakeProvider, tmp_path: Path, books: str) -> None:
    """A configuration starts the gateway as it is written, and each model that it names answers both kinds of client."""
    environ = environ_for(block, provider, books)
    headers = authorization(block, environ)
    async with gateway(written(block, provider, books), tmp_path, environ) as gw:
        health = await (await gw.get("/health")).json()
        assert health["status"] == "healthy"
        listed = await (await gw.get("/v1/models", headers=headers)).json()
        names = [model["id"] for model in listed["data"]]
        for entry_written in block.data.get("model_list") or ():
            assert entry_written["model_name"] in names
        for provider_written in (block.data.get("llm_providers") or {}).values():
            assert set(provider_written["models"]) <= set(names)
        for name in names:
            chat = await gw.post("/v1/chat/completions", question(name), headers=headers)
            assert (chat.status, (await chat.json())["model"]) == (200, name)
            messages = await gw.post("/v1/messages", question(name, max_tokens=9), headers=headers)
            assert (messages.status, (await messages.json())["model"]) == (200, name)
        assert len(await gw.rows(2 * len(names))) == 2 * len(names)
        store = gw.rt.records.describe().backend
    assert len(provider.requests) == 2 * len(names)
    assert store == ("postgres" if books else "sqlite")


@pytest.mark.rows("A14", "A16", "A17", "A18", "A19", "A21")
@pytest.mark.parametrize("block", ENVIRONMENTS, ids=str)
async def test_environments(block: Block, provider: FakeProvider, tmp_path: Path) -> None:
    """Variables as they are written start the gateway, and the models of each provider with a key answer."""
    environ = moved(block.environ, provider, tmp_path)
    headers = authorization(block, environ)
    async with gateway(None, tmp_path, environ) as gw:
        assert (await (await gw.get("/health")).json())["status"] == "healthy"
        for variable in MODELS.keys() & environ.keys():
            chat = await gw.post("/v1/chat/completions", question(MODELS[variable]), headers=headers)
            assert (chat.status, (await chat.json())["model"]) == (200, MODELS[variable])


@pytest.mark.rows("A20")
async def test_a_replicate_key(provider: FakeProvider, tmp_path: Path) -> None:
    """REPLICATE_API_KEY alone makes `replicate/owner/model` answer."""
    environ = moved({"REPLICATE_API_KEY": "r8-key-of-replicate"}, provider, tmp_path)
    async with gateway(None, tmp_path, environ) as gw:
        name = "replicate/meta/meta-llama-3-8b-instruct"
        chat = await gw.post("/v1/chat/completions", question(name))
        assert (chat.status, (await chat.json())["model"]) == (200, name)
    assert provider.requests[0].headers["authorization"] == "Bearer r8-key-of-replicate"


@pytest.mark.rows("L6")
@pytest.mark.parametrize("block", CONFIGURATIONS, ids=str)
def test_nothing_is_passed_over(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`penstock check` names what it understood, with its line what has no effect, and what leads nowhere."""
    monkeypatch.chdir(tmp_path)
    for variable, value in _values(block).items():
        monkeypatch.setenv(variable, value)
    name = f"deployment.{'json' if block.text.startswith('{') else 'yaml'}"
    (tmp_path / name).write_text(block.text)
    notices = load(Path(name), os.environ).notices
    code = main(["check", name])
    told = capsys.readouterr().out
    for word in _settings(block):
        if SETTINGS[word].status == "later":
            assert re.search(rf"(?m)^{name}:\d+:\d+: {word} has no effect", told), word
    for notice in notices:
        assert notice.message in told
    for model in block.data.get("model_list") or ():
        assert re.search(rf"(?m)^(off: )?{re.escape(model['model_name'])}\b", told), model["model_name"]
    leads_nowhere = any("no model is called" in notice.message for notice in notices)
    assert code == (1 if leads_nowhere else 0)


def _values(block: Block) -> dict[str, str]:
    """Something for each variable that the block refers to."""
    names = {a or b for a, b in re.findall(r"os\.environ/(\w+)|\$\{(\w+)\}", block.text)}
    return {name: "postgres://h/d" if name == "DATABASE_URL" else "6379" for name in names}


def _settings(block: Block) -> list[str]:
    data: dict[str, Any] = block.data
    return [word for section in VOCABULARY for word in data.get(section) or () if word in SETTINGS]


@pytest.mark.rows("L5", "L7")
def test_check_tells_all_of_the_largest(
    seeds: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the two whole configurations: names that lead nowhere, what was moved, what waits, what binds, who stands in."""
    monkeypatch.chdir(tmp_path)
    for document, heading in ((2, "litellm.yaml Structure"), (3, "Model Configuration")):
        block = seeds[document].block("yaml", heading)
        for variable, value in _values(block).items():
            monkeypatch.setenv(variable, value)
        (tmp_path / "whole.yaml").write_text(block.text)
        assert main(["check", "whole.yaml"]) == 1
        told = capsys.readouterr().out
        assert "no model is called" in told
        assert "success_callback has no effect yet" in told
        general = block.data.get("general_settings") or {}
        if "max_budget" in general:
            assert "limit: general_settings.max_budget (whole.yaml:" in told
            assert "limit: general_settings.rpm_limit (whole.yaml:" in told
            assert '"max_budget" is found under general_settings, its place is litellm_settings' in told
            assert "cache has no effect yet" in told
            assert "blocked_ips has no effect" in told
            first = next(iter(block.data["router_settings"]["fallbacks"][0].values()))[0]
            assert f"falls back to: {first}" in told


@pytest.mark.rows("B34", "B35")
async def test_include_and_models_folder(provider: FakeProvider, tmp_path: Path) -> None:
    """A configuration in pieces, `include:` and a `models/` folder beside it, serves all of them and writes to none."""
    (tmp_path / "models").mkdir()
    base = f"{provider.url}/v1"
    (tmp_path / "models" / "a.yaml").write_text(config_of(entry("of-the-folder", "openai/x", base)))
    (tmp_path / "more.yaml").write_text(json.dumps({"model_list": [entry("included", "openai/x", base)]}))
    text = json.dumps({"include": ["more.yaml"], "model_list": [entry("main", "openai/x", base)]})
    data = tmp_path / "elsewhere"
    async with gateway(text, tmp_path, {"PENSTOCK_DATA_DIR": str(data)}) as gw:
        before = _files(tmp_path)
        names = [model["id"] for model in (await (await gw.get("/v1/models")).json())["data"]]
        assert sorted(names) == ["included", "main", "of-the-folder"]
        assert {(await gw.post("/v1/chat/completions", question(name))).status for name in names} == {200}
    assert _files(tmp_path) == before


def _files(folder: Path) -> dict[str, bytes]:
    """All files but the gateway's own."""
    return {
        str(path): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "elsewhere" not in path.parts
    }


@pytest.mark.rows("B44")
def test_a_mistake_of_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no YAML is told with its line and its column, and nothing starts."""
    (tmp_path / "c.yaml").write_text("model_list:\n  - model_name: a\n   litellm_params: {}\n")
    assert main(["check", str(tmp_path / "c.yaml")]) == 1
    assert re.search(r"c\.yaml:3:\d+: ", capsys.readouterr().out)


def test_both_shelves_have_the_same_shapes() -> None:
    """Our documents stand for those of the field: where these are there, each heading and each setting has its like."""
    assert [len(shelf.documents) for shelf in SHELVES] == [5] * len(SHELVES)
    assert [shelf.name for shelf in SHELVES] == [path.name for path in (OWN, FOLDER) if path.is_dir()]
    own = {word for block in SHELVES[0].blocks for word in _settings(block)}
    for shelf in SHELVES[1:]:
        assert {word for block in shelf.blocks for word in _settings(block)} <= own
        assert sum(block.is_configuration for block in shelf.blocks) >= 12
