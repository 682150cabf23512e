"""Tests of gateway/cli/command.py that need no running server; those that do are tests/e2e/test_process.py."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import gateway
from gateway import logs
from gateway.cli import command, main
from gateway.config.environment import LEVELS
from tests.harness import gateway as gateway_of
from tests.ports import free_port

HERE = Path(__file__).parents[3]
JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


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
        (("health", "--timeout", "soon"), "invalid seconds value"),
        (("--conf", "config.yaml"), "--conf"),
        (("keys", "info", "sk-\udcff"), "argument key: must be UTF-8"),
        (("keys", "create", "--alias", "\udcff"), "argument --alias: must be UTF-8"),
        (("explain", "--model", "\udcff", "--url", "http://h"), "argument -m/--model: must be UTF-8"),
        (("explain", "--key", "\udcff", "--url", "http://h"), "argument --key: must be UTF-8"),
        (("explain", "--tag", "\udcff", "--url", "http://h"), "argument --tag: must be UTF-8"),
        (("explain", "--region", "\udcff", "--url", "http://h"), "argument --region: must be UTF-8"),
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


@pytest.mark.parametrize("flag", sorted(command._HISTORIC))
def test_historic_flags(flag: str) -> None:
    """Flags of another server are accepted, with or without the value that they take, and each leaves a notice."""
    values = ["4"] if command._HISTORIC[flag] else []
    parsed = command._parser().parse_args(["serve", flag, *values, "--port", "4001"])
    assert parsed.port == 4001
    assert parsed.notices == [f"{flag} has no meaning here and is ignored"]
    parsed = command._parser().parse_args(["serve", flag, "--port", "4001"])
    assert parsed.port == 4001


@pytest.mark.parametrize("flag", sorted(command._REFUSED))
def test_flags_that_somebody_would_rely_on(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag with an effect that is not there is refused, and says what to do instead."""
    assert refused(flag, "value") == 2
    assert f"{flag} is not available: {command._REFUSED[flag]}" in capsys.readouterr().err


@pytest.mark.parametrize("flag", command._NOTHING_TO_PREPARE)
def test_nothing_to_prepare(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that prepares a database and leaves, leaves: a container that runs before the server does not hang."""
    assert main([flag]) == 0
    assert "nothing to prepare" in capsys.readouterr().out


def test_help_tells_all_flags(capsys: pytest.CaptureFixture[str]) -> None:
    """`penstock serve --help` explains each flag that does something, and does not mention the others."""
    assert refused("serve", "--help") == 0
    told = capsys.readouterr().out
    parser = command._parser()
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    quiet = {*command._HISTORIC, *command._REFUSED, *command._NOTHING_TO_PREPARE}
    for action in commands.choices["serve"]._actions:
        for option in action.option_strings:
            assert (f"{option}" in told) is (option not in quiet), option
            assert action.help
    assert refused("--help") == 0
    overview = capsys.readouterr().out
    assert [name for name in commands.choices if f"    {name}" not in overview] == []


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._subparsers._group_actions if parser._subparsers else ():
        assert isinstance(action.choices, dict)
        for one in action.choices.values():
            yield one
            yield from _subcommands(one)


def test_help_describes_and_shows() -> None:
    """Each subcommand's help begins with what it is for, and its examples are commands that are understood."""
    parser = command._parser()
    examples = []
    for one in _subcommands(parser):
        assert one.description, one.prog
        examples += [line.strip() for line in (one.epilog or "").splitlines() if line.startswith("  ")]
    assert len(examples) > 10
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])[1:]
        parser.parse_args(words if words and not words[0].startswith("-") else ["serve", *words])


def test_a_bug_is_told_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception that nobody expected ends with 1 and its traceback, in which nothing looks like a key."""

    def burst(_: argparse.Namespace) -> int:
        raise RuntimeError("the key sk-proj-onlyhere-abcdefghmnop is odd")

    monkeypatch.setattr(command, "_version", burst)
    assert main(["version"]) == 1
    told = capsys.readouterr().err
    assert "RuntimeError: the key sk-...mnop is odd" in told
    assert "abcdefgh" not in told


def test_an_interruption_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control-C before the server listens ends with 130, quietly."""

    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_version", interrupted)
    assert main(["version"]) == 130


def test_a_sigterm_before_the_server_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It ends with 130 too: process 1 of a container, which has no handler, would go on and serve until it is killed. To be told
    to read the configuration, which it is doing, ends nothing.
    """
    monkeypatch.chdir(tmp_path)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]

    def terminated(*_: Any) -> int:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.raise_signal(signal.SIGTERM)
        return 0

    monkeypatch.setattr(command, "_work", terminated)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a shell's background
    try:
        assert main(["serve"]) == 130
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


LATE = """
import os, signal, sys
from gateway.cli import command

def end(*_):
    os.kill(os.getpid(), signal.SIGTERM)

command._print = end  # the banner: it listens
code = command.main(sys.argv[1:])
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.raise_signal(number)
sys.exit(code)
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_signals_behind_the_end(tmp_path: Path, workers: str) -> None:
    """What is told to end, or to read its configuration again, when all is done already, ends with 0 and not by the signal."""
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-c", LATE, "--port", str(free_port()), "--num_workers", workers],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(HERE), "PENSTOCK_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, "Warning" in ended.stderr) == (0, False), ended.stderr


def written_to(file: int, arguments: tuple[str, ...]) -> tuple[int, bytes]:
    """The exit code of a command whose output goes there, and what it says of it."""
    command = [sys.executable, "-m", "gateway", *arguments]
    ended = subprocess.run(command, cwd=HERE, stdout=file, stderr=subprocess.PIPE, check=False)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("arguments", [("config", "schema"), ("--help",)])
def test_a_reader_that_left(arguments: tuple[str, ...]) -> None:
    """Where the pipe on stdout is closed, a command ends with 141 and without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert written_to(writing, arguments) == (141, b"")
    finally:
        os.close(writing)


@pytest.mark.parametrize("arguments", [("version",), ("--version",), ("--help",), ("config", "schema")])
def test_a_disk_that_is_full(arguments: tuple[str, ...]) -> None:
    """Output that finds no room is one line and exit code 1."""
    with Path("/dev/full").open("w") as full:
        written = written_to(full.fileno(), arguments)
    assert written == (1, b"penstock: cannot write: No space left on device\n")


async def test_lost_log_lines_are_counted(tmp_path: Path) -> None:
    """What the log had to drop is a number in the metrics."""
    stop = logs.setup(as_json=True, stream=io.StringIO())
    try:
        async with gateway_of(None, tmp_path) as gw:
            command._count_log_drops(gw.rt)
            (handler,) = [h for h in logging.getLogger().handlers if isinstance(h, logs.QueuedHandler)]
            handler.dropped = 3
            told, _ = gw.rt.metrics.render()
    finally:
        stop()
    assert b"penstock_log_dropped_total 3.0\n" in told


def test_the_levels_of_the_log() -> None:
    """Each level may be given in any case."""
    for level in LEVELS:
        assert command._parser().parse_args(["serve", "--log-level", level.lower()]).log_level == level


def test_a_variable_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A port in the environment that is none keeps the server from starting, with a line that names the variable."""
    monkeypatch.setenv("LITELLM_PORT", "tcp://10.0.0.1:4000")
    assert main([]) == 1
    assert capsys.readouterr().err.startswith("environment: LITELLM_PORT must be a port (1 to 65535)")


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
    assert main(["health", "--url", "http://me:sesame@localhost/health"]) == 2
    assert "sesame" not in capsys.readouterr().err
