"""Tests of gateway/banner.py. What its command does when it is pasted is in tests/e2e/test_process.py."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from gateway.banner import banner, reachable
from tests.harness import gateway


def config(*models: dict[str, Any], **more: Any) -> str:
    return json.dumps({"model_list": models, **more})


def entry(name: str, model: str, **params: Any) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": {"model": model, **params}}


def asked_model(text: str) -> str:
    """The model that the banner's command asks."""
    words = shlex.split(text.partition("Try it:\n")[2])
    return str(json.loads(words[words.index("-d") + 1])["model"])


async def shown(text: str | None, folder: Path, environ: dict[str, str] | None = None) -> str:
    """The banner of a gateway with this configuration."""
    async with gateway(text, folder, environ) as gw:
        return banner(gw.rt, "0.0.0.0", 4000)


async def test_what_is_told(tmp_path: Path) -> None:
    """Address, models, wildcards, what is off and why, providers of the environment, and who may."""
    text = config(
        entry("demo", "openai/demo", mock_response="hi"),
        entry("team/*", "openai/*"),
        entry("smart", "anthropic/claude-sonnet-4-5"),
        general_settings={"env_providers": True},
        router_settings={"model_group_alias": {"secretly": {"model": "demo", "hidden": True}}},
    )
    lines = (await shown(text, tmp_path, {"OPENAI_API_KEY": "sk-proj-abcdefghijklmnop"})).splitlines()
    assert lines[0].endswith("listens on http://localhost:4000")
    assert lines[2:5] == ["Penstock: initialized with Config, Set models:", "    demo", "    team/*"]
    assert lines[5].startswith("    off: smart: no key: set api_key or ANTHROPIC_API_KEY (")
    assert "Every model of openai: the key is in the environment." in lines
    assert "secretly" not in "\n".join(lines)
    assert "*  OPEN: no master key is set. Whoever reaches this port uses your     *" in lines
    assert "abcdefgh" not in "\n".join(lines)


async def test_keys_are_needed(tmp_path: Path) -> None:
    """With a master key the banner says so, and its command takes the key from the environment: it is never printed."""
    text = config(
        entry("demo", "openai/demo", mock_response="hi"), general_settings={"master_key": "a-very-secret-key"}
    )
    told = await shown(text, tmp_path)
    assert "Auth: the master key is set, and needed." in told
    assert '"Authorization: Bearer $LITELLM_MASTER_KEY"' in told
    assert "OPEN" not in told
    assert "secret" not in told
    assert "export it as LITELLM_MASTER_KEY" in told
    exported = await shown(text, tmp_path, {"LITELLM_MASTER_KEY": "a-very-secret-key"})
    assert "export it" not in exported


async def test_many_models(tmp_path: Path) -> None:
    """A long list is cut, and says where the rest is."""
    models = [entry(f"m{number}", "openai/demo", mock_response="hi") for number in range(45)]
    told = await shown(config(*models), tmp_path)
    assert "    m39\n    … and 5 more: GET /v1/models\n" in told
    assert "m40" not in told


@pytest.mark.parametrize(
    ("models", "environ", "asked"),
    [
        ([entry("vectors", "openai/text-embedding-3-small"), entry("chatty", "openai/gpt-4o")], {}, "chatty"),
        ([entry("it's", "openai/gpt-4o")], {}, "it's"),
        ([entry("team/*", "openai/*")], {}, "team/"),
        ([], {}, "gpt-4o-mini"),
        ([], {"ANTHROPIC_API_KEY": "k"}, "gpt-4o-mini"),
    ],
)
async def test_the_model_to_try(
    tmp_path: Path, models: list[dict[str, Any]], environ: dict[str, str], asked: str
) -> None:
    """The command asks for a model that chats: the first of the configuration, else one that everybody knows."""
    known = {"OPENAI_API_KEY": "sk-proj-abcdefghijklmnop", **environ}
    text = config(*models) if models else None
    assert asked_model(await shown(text, tmp_path, known)).startswith(asked)


async def test_no_models(tmp_path: Path) -> None:
    """Without any model the banner says what to set, and its command asks for the gateway's health."""
    told = await shown(None, tmp_path)
    assert "NO MODELS: set a provider's key" in told
    assert "  curl http://localhost:4000/health\n" in told


async def test_books_that_are_not_kept(tmp_path: Path) -> None:
    """Where the ledger cannot be written the banner says that spend is not saved."""
    (tmp_path / "file").write_text("")
    environ = {"PENSTOCK_DATA_DIR": str(tmp_path / "file" / "data")}
    assert "SPEND IS NOT BEING SAVED" in await shown(None, tmp_path, environ)
    assert "SPEND" not in await shown(None, tmp_path)


async def test_no_terminal_tricks(tmp_path: Path) -> None:
    """A model's name cannot steer the terminal."""
    told = await shown(config(entry("\x1b[2Jdemo", "openai/demo", mock_response="hi")), tmp_path)
    assert "\x1b" not in told
    assert "    \\u001b[2Jdemo\n" in told


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("0.0.0.0", "localhost"),
        ("::", "localhost"),
        ("", "localhost"),
        ("::1", "[::1]"),
        ("10.0.0.1", "10.0.0.1"),
        ("gateway.example", "gateway.example"),
    ],
)
def test_reachable(host: str, told: str) -> None:
    """An address to listen on becomes one to ask at."""
    assert reachable(host) == told
