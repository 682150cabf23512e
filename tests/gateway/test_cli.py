"""Tests of gateway/cli.py that need no running server; those that do are tests/e2e/test_process.py."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import gateway
from gateway import cli, logs
from gateway.cli import main
from gateway.config.environment import LEVELS
from tests.harness import gateway as gateway_of

HERE = Path(__file__).parents[2]
JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, and no variable that the gateway would read."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
        "LITELLM_MASTER_KEY",
        "CONFIG_FILE_PATH",
    ):
        monkeypatch.delenv(name, raising=False)


def refused(*arguments: str) -> int:
    """The exit code of a command that is not understood."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(str(left.value.code))


def faults(value: Any, schema: Mapping[str, Any], path: str = "") -> list[str]:
    """Where a value is not what a JSON schema says, as far as our schema uses the language."""
    kinds = schema.get("type", [])
    allowed = tuple(JSON_TYPES[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds))
    if allowed and not any(isinstance(value, kind) for kind in allowed):
        return [f"{path}: {type(value).__name__}"]
    found = []
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [f"{path}.{name}: missing" for name in schema.get("required", ()) if name not in value]
        for name, item in value.items():
            rest = schema.get("additionalProperties", True)
            inner = properties.get(name, rest if isinstance(rest, dict) else {})
            if name not in properties and rest is False:
                found.append(f"{path}.{name}: unknown")
            found += faults(item, inner, f"{path}.{name}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            found += faults(item, schema.get("items", {}), f"{path}[{index}]")
    return found


# -- what is understood ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("version",), ("--version",), ("-v",)])
def test_version(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """The version is printed by the command and by the flag."""
    if arguments == ("version",):
        assert main(arguments) == 0
    else:
        assert refused(*arguments) == 0
    assert capsys.readouterr().out == f"penstock {gateway.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("sevre",), "invalid choice: 'sevre'"),
        (("--no-such-flag",), "--no-such-flag"),
        (("--port", "http"), "not a port (1 to 65535): 'http'"),
        (("--port", "70000"), "not a port"),
        (("--port", "0"), "not a port"),
        (("--num_retries", "many"), "must be between 0 and 100"),
        (("--num_workers", "0"), "must be between 1 and 256"),
        (("--num_workers", "two"), "must be between 1 and 256"),
        (("--log-level", "loud"), "invalid choice: 'LOUD'"),
        (("config",), "COMMAND"),
        (("config", "scheme"), "invalid choice"),
        (("health", "--timeout", "soon"), "invalid float value"),
        (("--conf", "config.yaml"), "--conf"),
    ],
)
def test_what_is_not_understood(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command, flag or value that does not exist ends with 2 and a line that names it; nothing is guessed."""
    assert refused(*arguments) == 2
    captured = capsys.readouterr()
    assert told in captured.err.splitlines()[-1]
    assert captured.out == ""


@pytest.mark.parametrize("flag", sorted(cli._HISTORIC))
def test_historic_flags(flag: str) -> None:
    """Flags of another server are accepted, with or without the value that they take, and each leaves a notice."""
    values = ["4"] if cli._HISTORIC[flag] else []
    parsed = cli._parser().parse_args(["serve", flag, *values, "--port", "4001"])
    assert parsed.port == 4001
    assert parsed.notices == [f"{flag} has no meaning here and is ignored"]
    parsed = cli._parser().parse_args(["serve", flag, "--port", "4001"])
    assert parsed.port == 4001


@pytest.mark.parametrize("flag", sorted(cli._REFUSED))
def test_flags_that_somebody_would_rely_on(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag with an effect that is not there is refused, and says what to do instead."""
    assert refused(flag, "value") == 2
    assert f"{flag} is not available: {cli._REFUSED[flag]}" in capsys.readouterr().err


@pytest.mark.parametrize("flag", cli._NOTHING_TO_PREPARE)
def test_nothing_to_prepare(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that prepares a database and leaves, leaves: a container that runs before the server does not hang."""
    assert main([flag]) == 0
    assert "nothing to prepare" in capsys.readouterr().out


def test_help_tells_all_flags(capsys: pytest.CaptureFixture[str]) -> None:
    """`penstock serve --help` explains each flag that does something, and does not mention the others."""
    assert refused("serve", "--help") == 0
    told = capsys.readouterr().out
    parser = cli._parser()
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    quiet = {*cli._HISTORIC, *cli._REFUSED, *cli._NOTHING_TO_PREPARE}
    for action in commands.choices["serve"]._actions:
        for option in action.option_strings:
            assert (f"{option}" in told) is (option not in quiet), option
            assert action.help
    assert refused("--help") == 0
    overview = capsys.readouterr().out
    assert [name for name in commands.choices if f"    {name}" not in overview] == []


def test_a_bug_is_told_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception that nobody expected ends with 1 and its traceback, in which nothing looks like a key."""

    def burst(_: argparse.Namespace) -> int:
        raise RuntimeError("the key sk-proj-onlyhere-abcdefghmnop is odd")

    monkeypatch.setattr(cli, "_version", burst)
    assert main(["version"]) == 1
    told = capsys.readouterr().err
    assert "RuntimeError: the key sk-...mnop is odd" in told
    assert "abcdefgh" not in told


def test_an_interruption_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control-C before the server listens ends with 130, quietly."""

    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_version", interrupted)
    assert main(["version"]) == 130


def test_a_reader_that_left() -> None:
    """Where the pipe on stdout is closed, a command ends with 141 and without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "gateway", "config", "schema"],
            cwd=HERE,
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


async def test_lost_log_lines_are_counted(tmp_path: Path) -> None:
    """What the log had to drop is a number in the metrics."""
    stop = logs.setup(as_json=True, stream=io.StringIO())
    try:
        async with gateway_of(None, tmp_path) as gw:
            cli._count_log_drops(gw.rt)
            (handler,) = [h for h in logging.getLogger().handlers if isinstance(h, logs.QueuedHandler)]
            handler.dropped = 3
            told, _ = gw.rt.metrics.render()
    finally:
        stop()
    assert b"penstock_log_dropped_total 3.0\n" in told


def test_the_levels_of_the_log() -> None:
    """Each level may be given in any case."""
    for level in LEVELS:
        assert cli._parser().parse_args(["serve", "--log-level", level.lower()]).log_level == level


# -- check -----------------------------------------------------------------------------------------------------------

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
        "config.yaml: ok, 7 models",
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
    assert main(["--config", "c.yaml", "--validate_config"]) == 1
    checked = capsys.readouterr()
    assert checked.out == 'c.yaml:2:1: unknown key "no_such_key"\n' * 2
    assert main(["--config", "c.yaml", "--strict"]) == 1
    assert capsys.readouterr().err == 'c.yaml:2:1: unknown key "no_such_key"\n'


@pytest.mark.parametrize("arguments", [("check", "nowhere.yaml"), ("--config", "nowhere.yaml"), ("check",)])
def test_a_file_that_is_not_there(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration that cannot be read is one line and exit code 1, for who checks and for who serves."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    name = "nowhere.yaml" if "nowhere.yaml" in arguments else "config.yaml"
    assert captured.out + captured.err == f"{name}: cannot be read: No such file or directory\n"


def test_a_variable_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A port in the environment that is none keeps the server from starting, with a line that names the variable."""
    monkeypatch.setenv("LITELLM_PORT", "tcp://10.0.0.1:4000")
    assert main([]) == 1
    assert capsys.readouterr().err.startswith("environment: LITELLM_PORT must be a port (1 to 65535)")


def test_the_shipped_configuration_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """config.yaml passes its own checker, with and without keys."""
    assert main(["check", str(HERE / "config.yaml")]) == 0
    assert "demo\n  openai/demo  mock" in capsys.readouterr().out


# -- the schema ------------------------------------------------------------------------------------------------------


def test_the_schema_accepts_what_we_ship(capsys: pytest.CaptureFixture[str]) -> None:
    """`penstock config schema` prints a JSON schema that config.yaml fulfils, and that finds a misspelt key."""
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    shipped = yaml.safe_load((HERE / "config.yaml").read_text())
    assert faults(shipped, schema) == []
    shipped["router_settings"]["num_retires"] = 3
    shipped["model_list"][0].pop("model_name")
    shipped["model_list"][1]["litellm_params"]["timeout"] = ["long"]
    assert faults(shipped, schema) == [
        ".model_list[0].model_name: missing",
        ".model_list[1].litellm_params.timeout: list",
        ".router_settings.num_retires: unknown",
    ]


def test_the_schema_knows_every_type(capsys: pytest.CaptureFixture[str]) -> None:
    """Each type that the schema names is one of JSON schema's."""
    main(["config", "schema"])

    def types(node: Any) -> set[str]:
        found: set[str] = set()
        if isinstance(node, dict):
            kind = node.get("type")
            if isinstance(kind, str | list):
                found |= {kind} if isinstance(kind, str) else set(kind)
            for item in node.values():
                found |= types(item)
        return found

    assert types(json.loads(capsys.readouterr().out)) <= set(JSON_TYPES)


# -- health ----------------------------------------------------------------------------------------------------------


def test_health_takes_urls_only(capsys: pytest.CaptureFixture[str]) -> None:
    """`penstock health --url` opens neither files nor other protocols."""
    assert main(["health", "--url", "ftp://localhost/etc/passwd"]) == 2
    assert capsys.readouterr().err == "penstock: not a URL: ftp://localhost/etc/passwd\n"
