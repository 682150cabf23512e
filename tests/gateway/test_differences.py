"""What is told of two configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.config.model import GeneralSettings, LiteLLMSettings, RouterSettings
from gateway.config.source import Source
from gateway.differences import NEEDS_RESTART, Difference, differences, in_words
from gateway.logs import Redactor


def found(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> list[Difference]:
    """The differences of two files."""
    path = folder / "config.yaml"
    written = []
    for content in (old, new):
        path.write_text(json.dumps(content))
        written.append(Source(path, {}).read())
    return differences(*written)


def model(name: str, base: str = "https://a.example", **params: Any) -> dict[str, Any]:
    known = {"model": f"openai/{name}", "api_base": base, "api_key": "wq-differs-17935"}
    return {"model_name": name, "litellm_params": {**known, **params}}


def test_nothing(tmp_path: Path) -> None:
    """Another order, another place in the file: no difference."""
    one, two = model("a"), model("b")
    assert found(tmp_path, {"model_list": [one, two]}, {"model_list": [two, one]}) == []
    assert in_words([]) == "nothing changed"


def test_deployments(tmp_path: Path) -> None:
    """Of two alike the second is the second; what an entry says differs field by field, its key without what it is."""
    old = {"model_list": [model("a"), model("a"), model("b")]}
    changed = model("a", api_key="wq-differs-55291", weight=2, temperature=0.5)
    new = {"model_list": [model("a"), changed, model("c")]}
    assert [str(one) for one in found(tmp_path, old, new)] == [
        "b (openai/b) removed",
        "a (openai/a): api_key changed",
        "a (openai/a): weight null -> 2.0",
        'a (openai/a): defaults {} -> {"temperature":0.5}',
        "c (openai/c) added",
    ]


def test_secrets_are_not_told(tmp_path: Path) -> None:
    """Keys, headers, options, variables, credentials and virtual keys changed: no line shows one."""

    def content(secret: str) -> dict[str, Any]:
        params: dict[str, Any] = {
            "api_key": secret,
            "extra_headers": {"x-key": secret},
            "aws_secret_access_key": secret,
        }
        return {
            "model_list": [model("a", **params)],
            "general_settings": {"master_key": f"sk-{secret}"},
            "environment_variables": {"SOME": secret},
            "virtual_keys": [{"key": f"sk-virtual-{secret}"}],
            "credential_list": [
                {"credential_name": "c", "credential_values": {"api_key": secret}, "credential_info": {}}
            ],
        }

    listed = found(tmp_path, content("wq-first-31415"), content("wq-second-27182"))
    assert {one.of for one in listed} == {
        "deployment", "setting", "environment", "virtual_key", "credential",
    }  # fmt: skip
    told = in_words(listed) + repr(listed)
    assert "wq-first" not in told
    assert "wq-second" not in told


def test_settings(tmp_path: Path) -> None:
    """Settings are told with old and new value, whatever their type; those that a start reads alone say so."""
    old = {
        "router_settings": {"fallbacks": [{"a": ["b"]}], "num_retries": 1},
        "model_list": [model("a"), model("b")],
    }
    new = {
        "general_settings": {"allowed_origins": ["https://x.example"]},
        "environment_variables": {"LITELLM_PORT": "4001"},
        "model_list": [model("a"), model("b")],
    }
    told = in_words(found(tmp_path, old, new))
    assert 'router_settings.fallbacks {"chains":{"a":["b"]}' in told
    assert "router_settings.num_retries 1 -> 2" in told
    assert 'general_settings.allowed_origins [] -> ["https://x.example"] (needs a restart)' in told
    assert "port 4000 -> 4001 (needs a restart)" in told


def test_all_of_redis_needs_a_restart(tmp_path: Path) -> None:
    """Whichever part of its address is another."""
    for part in ({"redis_db": 1}, {"redis_ssl": True}, {"redis_username": "u"}):
        old, new = ({"router_settings": {"redis_host": "h", **more}} for more in ({}, part))
        assert all(one.needs_restart for one in found(tmp_path, old, new)), part


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PENSTOCK_DRAIN_DELAY", "5"),
        ("PENSTOCK_DRAIN_TIMEOUT", "5"),
        ("PENSTOCK_REDIS_TIMEOUT", "0.5"),
        ("HTTPS_PROXY", "http://proxy:3128"),
        ("no_proxy", "a.example"),
        ("SSL_CERT_FILE", "/ca.pem"),
    ],
)
def test_variables_that_a_start_alone_reads(tmp_path: Path, variable: str, value: str) -> None:
    """What the process or its connections are told in the file says that it needs a restart; other variables do not."""
    known = {"environment_variables": {variable: value, "OTHER": "x"}}
    listed = found(tmp_path, {}, known)
    assert any(one.needs_restart for one in listed)
    assert [one.name for one in listed if one.name.endswith("OTHER") and one.needs_restart] == []


def test_a_secret_that_is_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local servers take any key, `1` for instance: what else is 1 is then not told, and is no reason to refuse a reload."""
    redactor = Redactor()
    redactor.add("1")
    monkeypatch.setattr("gateway.differences.scrub", redactor.scrub)
    settings: dict[str, Any] = {"router_settings": {"num_retries": 1}}
    assert in_words(found(tmp_path, settings, {})) == "router_settings.num_retries *** -> 2"


def test_many(tmp_path: Path) -> None:
    """A line stays a line."""
    listed = found(tmp_path, {}, {"model_list": [model(f"m{number}") for number in range(50)]})
    assert in_words(listed).endswith(" and 38 more")


def test_what_needs_a_restart_exists() -> None:
    """Every setting that is said to need a restart is one."""
    structs = (RouterSettings, LiteLLMSettings, GeneralSettings)
    assert {name for struct in structs for name in struct.__struct_fields__} >= NEEDS_RESTART
