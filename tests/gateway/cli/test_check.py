"""`penstock check`: mistakes by their lines, or one report of what was understood, for people and as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway.cli import main

HERE = Path(__file__).parents[3]


THREE_MISTAKES = """\
model_list:
  - model_name: gpt-4o
    litellm_params:
      modle: openai/gpt-4o
router_settings:
  num_retires: 3
general_settings:
  master_key: os.environ/NOT_THERE
"""


def test_check_reports_each_mistake_on_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file with three mistakes gives exactly three lines, each with file, line and column, and exit code 1."""
    (tmp_path / "c.yaml").write_text(THREE_MISTAKES)
    assert main(["check", "c.yaml"]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert [line.partition(": ")[0] for line in captured.out.splitlines()] == [
        "c.yaml:4:7",
        "c.yaml:6:3",
        "c.yaml:8:15",
    ]
    assert 'did you mean "model"?' in captured.out
    assert 'did you mean "num_retries"?' in captured.out


def test_check_prints_the_routes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file without mistakes gives its routes: deployments, stand-ins, wildcards, and what is off and why."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-onlyhere-abcdefghmnop")
    (tmp_path / "config.yaml").write_text(
        """\
model_list:
  - model_name: fast
    litellm_params: { model: openai/gpt-4o-mini, weight: 2 }
  - model_name: fast
    litellm_params: { model: openai/some-new-model }
  - model_name: smart
    litellm_params: { model: anthropic/claude-sonnet-4-5 }
  - model_name: local
    litellm_params: { model: hosted_vllm/llama, api_base: "http://localhost:8000/v1" }
  - model_name: team/*
    litellm_params: { model: openai/* }
  - model_name: team/*
    litellm_params: { model: hosted_vllm/*, api_base: "http://localhost:8000/v1", weight: 3 }
  - model_name: team/*
    litellm_params: { model: openai/*, mock_response: Hello }
router_settings:
  fallbacks: [{ fast: [local] }]
  model_group_alias: { quick: { model: fast, hidden: true } }
"""
    )
    assert main(["check"]) == 0
    told = capsys.readouterr().out
    assert told.splitlines() == [
        "config.yaml: ok, 7 models, 1 off",
        "fast",
        "  openai/gpt-4o-mini  https://api.openai.com  weight 2  priced  (config.yaml:2:5)",
        "  openai/some-new-model  https://api.openai.com  weight 1  no price known  (config.yaml:4:5)",
        "  falls back to: local",
        "local",
        "  hosted_vllm/llama  http://localhost:8000  weight 1  priced  (config.yaml:8:5)",
        "quick (hidden)",
        "  openai/gpt-4o-mini  https://api.openai.com  weight 2  priced  (config.yaml:2:5)",
        "  openai/some-new-model  https://api.openai.com  weight 1  no price known  (config.yaml:4:5)",
        "team/*",
        "  openai/*  (config.yaml:10:5)",
        "  hosted_vllm/*  http://localhost:8000  weight 3  (config.yaml:12:5)",
        "  openai/*  mock  (config.yaml:14:5)",
        "off: smart: no key: set api_key or ANTHROPIC_API_KEY (config.yaml:6:5)",
        "routing: simple-shuffle, 2 retries, cooldowns of 5 s",
    ]
    assert "abcdefgh" not in told


@pytest.mark.parametrize("text", ["", "{}"])
def test_checking_a_file_without_models(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty file is well, and what is served then is said: providers of the environment, or nothing."""
    Path("config.yaml").write_text(text)
    monkeypatch.setattr(os, "environ", {"OPENAI_API_KEY": "sk-proj-onlyhere-abcdefghmnop"})
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "config.yaml: ok, no models\nfrom the environment: openai\n"
    monkeypatch.setattr(os, "environ", {})
    assert main(["check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "config.yaml: ok, no models",
        "nothing is served: there are no models, and no provider is taken from the environment",
    ]


def test_proxies_that_no_gateway_starts_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A proxy of the environment, or of what the file sets in it, is looked at as a start does; no password is shown."""
    Path("config.yaml").write_text("environment_variables: { HTTP_PROXY: 'http://' }")
    monkeypatch.setattr(os, "environ", {})
    assert main(["check"]) == 1
    assert (
        capsys.readouterr().out == "environment: HTTP_PROXY: a proxy must be http://host:port, not http://?\n"
    )
    monkeypatch.setattr(os, "environ", {"HTTPS_PROXY": "socks5://u:zq@h:1"})
    Path("config.yaml").write_text("")
    assert main(["check"]) == 1
    told = "environment: HTTPS_PROXY: a proxy must be http://host:port, not socks5://h"
    assert capsys.readouterr().out == told + "\n"


def test_a_variable_that_is_not_set_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """An entry that is off for want of its key has one line; a variable that puts nothing off keeps its notice."""
    Path("config.yaml").write_text(
        """\
model_list:
  - model_name: a
    litellm_params: { model: openai/a, api_key: os.environ/NOPE }
  - model_name: b
    litellm_params: { model: openai/b, api_key: a-key, extra_headers: { x-team: os.environ/NOPE } }
"""
    )
    path = "model_list[1].litellm_params.extra_headers.x-team"
    assert main(["check"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "NOPE" in line] == [
        f"config.yaml:5:81: the environment variable NOPE is not set ({path})",
        "off: a: NOPE is not set (config.yaml:2:5)",
    ]


def test_checking_is_stricter_than_serving(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown key is an error for `check`, `--validate_config` and `--strict`; a server would only warn."""
    (tmp_path / "c.yaml").write_text("model_list: []\nno_such_key: 1\n")
    assert main(["check", "c.yaml"]) == 1
    checked = capsys.readouterr().out
    assert main(["--config", "c.yaml", "--validate_config"]) == 1
    assert capsys.readouterr().out == checked
    assert checked.count('c.yaml:2:1: unknown key "no_such_key"\n') == 1
    assert main(["--config", "c.yaml", "--strict"]) == 1
    assert capsys.readouterr().err == 'c.yaml:2:1: unknown key "no_such_key"\n'


def test_a_pipe_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """`penstock check <(…)`: what can be read once only is read once, whatever is wrong with it."""
    for text in ("", "no_such_key: 1\n"):
        reader, writer = os.pipe()
        os.write(writer, b"model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: k}}]\n")
        os.write(writer, text.encode())
        os.close(writer)
        assert main(["check", f"/dev/fd/{reader}"]) == bool(text)
        os.close(reader)
        told = capsys.readouterr().out
        assert "ok, 1 model" in told
        assert ("no_such_key" in told) == bool(text)


def test_the_report_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """What a start would let pass does not hide the rest: it stands first, once, and the exit code is 1; so in JSON."""
    Path("config.yaml").write_text(
        """\
model_list:
  - model_name: a
    litellm_params: { model: openai/a, mock_response: Hello }
router_settings: { fallbacks: [{ a: [b] }] }
general_settings: { max_budget: 1, alerting: [slack] }
"""
    )
    assert main(["check"]) == 1
    told = capsys.readouterr().out
    headings = [
        told.index(word) for word in ("errors: ", "warnings: ", "notices: ", "config.yaml: ok, 1 model")
    ]
    assert headings == sorted(headings)
    assert told.count('no model is called "b"') == 1
    assert "alerting has no effect yet" in told
    assert '"max_budget" is found under general_settings, its place is litellm_settings' in told
    assert "limit: general_settings.max_budget (config.yaml:5:21)" in told
    assert main(["check", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert sorted(one["severity"] for one in report["problems"]) == ["error", "notice", "warning"]
    assert report["files"] == ["config.yaml"]


@pytest.mark.parametrize("arguments", [("check", "nowhere.yaml"), ("--config", "nowhere.yaml"), ("check",)])
def test_a_file_that_is_not_there(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration that cannot be read is one line and exit code 1, for who checks and for who serves."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    name = "nowhere.yaml" if "nowhere.yaml" in arguments else "config.yaml"
    assert captured.out + captured.err == f"{name}: cannot be read: No such file or directory\n"


def test_the_shipped_configuration_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """config.yaml passes its own checker, with and without keys."""
    assert main(["check", str(HERE / "config.yaml")]) == 0
    assert "demo\n  openai/demo  mock" in capsys.readouterr().out


MOVED = """\
model_list:
  - model_name: demo
    litellm_params: { model: openai/demo, mock_response: Hello }
num_retries: 7
litellm_settings:
  routing_strategy: simple-shuffle
  no_such_backend_of_callbacks: []
general_settings:
  rpm_limit: 40
virtual_keys:
  - { key: sk-wqzj18vbnmkliu, key_alias: bot, models: [demo] }
"""


def test_the_report_has_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    """What was moved stands under its heading, with what was understood of routing, limits and keys after the models."""
    Path("config.yaml").write_text(MOVED.replace("  no_such_backend_of_callbacks: []\n", ""))
    assert main(["check"]) == 0
    told = capsys.readouterr().out.splitlines()
    heading = told.index("notices: what was made of the rest")
    assert told[heading + 1].startswith('config.yaml:4:1: "num_retries" is found under the top, its place is')
    assert told[heading + 2].startswith('config.yaml:6:3: "routing_strategy" is found under litellm_settings')
    rest = told[told.index("demo") :]
    assert rest[2:] == [
        "routing: simple-shuffle, 7 retries, cooldowns of 5 s",
        "limit: general_settings.rpm_limit (config.yaml:8:3)",
        "key sk-...kliu  bot  demo",
    ]
    assert "vbnm" not in "".join(told)


def test_the_report_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` has the same: problems with their places, models as `explain` has them, limits and keys; or all mistakes."""
    Path("config.yaml").write_text(MOVED)
    assert main(["check", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert {"config.yaml:7:3"} == {one["place"] for one in told["problems"] if one["severity"] == "error"}
    Path("config.yaml").write_text(MOVED.replace("  no_such_backend_of_callbacks: []\n", ""))
    assert main(["check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["files"]) == (True, ["config.yaml"])
    assert [one["deployments"][0]["place"] for one in told["models"]] == ["config.yaml:2:5"]
    assert told["limits"] == {"general_settings.rpm_limit": "config.yaml:8:3"}
    assert told["keys"] == [{"name": "sk-...kliu", "alias": "bot", "models": ["demo"]}]
    assert all(one["severity"] != "error" for one in told["problems"])


def test_a_blueprint_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """A blueprint's providers are models, and what it says of its container is reported with its place."""
    blueprint = {
        "llm_providers": {
            "ollama": {"enabled": True, "base_url": "http://ollama:11434", "models": ["llama3.2:latest"]}
        },
        "litellm": {
            "enabled": True,
            "hostname": "litellm",
            "port": 4000,
            "published_port": 4000,
            "requires": ["redis"],
        },
    }
    Path("blueprint-config.json").write_text(json.dumps(blueprint))
    assert main(["check", "blueprint-config.json"]) == 0
    told = capsys.readouterr().out
    assert "blueprint-config.json: ok, 1 model" in told
    assert "ollama/llama3.2:latest  http://ollama:11434" in told
    assert "litellm is not needed: a blueprint's word for the container" in told


def test_keys_that_the_file_sets_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A provider whose key stands in `environment_variables` is not off."""
    (tmp_path / "c.yaml").write_text(
        "environment_variables: {OPENAI_API_KEY: sk-proj-zq}\n"
        "model_list: [{model_name: a, litellm_params: {model: openai/gpt-4o}}]\n"
    )
    assert main(["check", "c.yaml"]) == 0
    out = capsys.readouterr().out
    assert ("off" in out, "sk-proj-zq" in out) == (False, False)


def test_keys_in_the_wrong_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key as a name of a mapping, in a list of names, or as the name of a variable is not shown."""
    key = "sk-proj-zq7wkx81vbnm"
    (tmp_path / "c.yaml").write_text(
        f"""\
{key}: true
model_list:
  - model_name: a
    {key}: 1
    litellm_params: {{ model: openai/gpt-4o, api_key: os.environ/{key}, {key}: true }}
  - model_name: b
    litellm_params: {{ model: openai/gpt-4o, api_key: k, extra_headers: {{ {key}: {{}} }} }}
router_settings:
  {key}: 1
  {key}: 2
  fallbacks: [{{ {key}: [a] }}]
  routing_strategy_args: {{ {key}: 1 }}
  optional_pre_call_checks: [{key}]
general_settings:
  user_rate_limit: {{ {key}: {{ rpm: x }} }}
virtual_keys: [{{ key: {key}, {key}: 1 }}]
"""
    )
    for arguments in (("check", "c.yaml"), ("check", "--json", "c.yaml"), ("explain", "-c", "c.yaml")):
        main(arguments)
        captured = capsys.readouterr()
        assert "zq7" not in captured.out + captured.err
    (tmp_path / "c.yaml").write_text(
        f"model_list: [{{model_name: a, litellm_params: {{model: openai/gpt-4o, api_key: os.environ/{key}}}}}]\n"
    )
    main(["check", "c.yaml"])
    told = capsys.readouterr().out
    assert "off: a: … is not set" in told
    assert "zq7" not in told


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("NUM_WORKERS", "2", "c.yaml:1:"), ("LITELLM_PORT", "http", "LITELLM_PORT must be a port")],
)
def test_what_no_start_takes(
    name: str,
    value: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the environment says beside the file is looked at as a start looks at it."""
    (tmp_path / "c.yaml").write_text(
        "model_list: [{model_name: a, litellm_params: {model: openai/gpt-4o, api_key: k, rpd: 5}}]\n"
    )
    monkeypatch.setenv(name, value)
    assert main(["check", "c.yaml"]) == 1
    assert told in capsys.readouterr().out
