"""What the subcommands share: how they fail, which store they open, how they read a time and print a table."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import pytest

from gateway.cli.common import NotDone, ask, carry_out, config_path, moment, open_store, seconds, table
from gateway.config.model import GeneralSettings, Place
from gateway.config.problems import ConfigInvalid, Problem
from gateway.state.open import FILE
from gateway.state.records import RecordsUnavailable


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotDone("there is none"), "penstock: there is none\n"),
        (RecordsUnavailable("it is away"), "penstock: it is away\n"),
        (KeyError("expected"), "penstock: 'expected'\n"),
        (ConfigInvalid((Problem(Place("c.yaml", 3, 1), "a", "is odd"),)), "is odd"),
    ],
)
def test_what_goes_wrong_is_one_line(error: Exception, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a command could not do is told on the standard error, without a traceback, and its exit code is 1."""

    def work() -> None:
        raise error

    assert carry_out(work, KeyError) == 1
    shown = capsys.readouterr()
    assert told in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_what_nobody_expects_is_a_bug() -> None:
    """An error that no command foresees is not taken for one that a person can mend."""
    with pytest.raises(ZeroDivisionError):
        carry_out(lambda: 1 // 0)


def test_exit_codes() -> None:
    """A command that returns nothing has done it; its own code counts otherwise."""
    assert carry_out(lambda: None) == 0
    assert carry_out(lambda: 3) == 3


def test_no_store_is_made(tmp_path: Path) -> None:
    """A folder without a store is told, and stays without one."""
    with pytest.raises(NotDone, match="there is no store at"):
        open_store(tmp_path, GeneralSettings())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_looked_into(tmp_path: Path) -> None:
    """Whatever the system says of it, it is one line."""
    with pytest.raises(NotDone, match="cannot be read: File name too long"):
        open_store(tmp_path / ("x" * 300), GeneralSettings())


def test_a_store_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is no database is not taken for an empty ledger."""
    (tmp_path / FILE).write_bytes(b"no database " * 100)
    with pytest.raises(NotDone, match="cannot be read: file is not a database"):
        open_store(tmp_path, GeneralSettings())


def test_which_configuration_is_meant() -> None:
    """The command line wins over the environment; nobody has to name one."""
    environ = {"CONFIG_FILE_PATH": "theirs.yaml"}
    assert config_path("ours.yaml", environ) == Path("ours.yaml")
    assert config_path(None, environ) == Path("theirs.yaml")
    assert config_path(None, {}) is None


def test_moments() -> None:
    """A day and a time are UTC unless they say another zone; anything else is not understood."""
    assert moment("1970-01-02") == 86_400
    assert moment("1970-01-01T01:00") == moment("1970-01-01T02:00+01:00") == 3_600
    with pytest.raises(argparse.ArgumentTypeError, match="not a date"):
        moment("yesterday")


def test_tables() -> None:
    """Columns stand under each other, numbers end alike, and what is empty in every row takes no room."""
    assert table([("A", "", "N"), ("bee", "", "10")], right=[2]) == ["A     N", "bee  10"]


class _Answers:
    """Stands in for the gateway."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def open(self, *_: object, **__: object) -> io.BytesIO:
        return io.BytesIO(self._body)


@pytest.mark.parametrize("body", [b"null", b"[]", b"{}", b'"x"'])
def test_an_answer_of_something_else(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server that answers with JSON is no reason for a traceback."""
    monkeypatch.setattr("gateway.cli.common.directly", _Answers(body))
    with pytest.raises(NotDone, match="something that no gateway says"):
        ask(argparse.Namespace(url="http://h", timeout=1.0), "GET", "/", wanted="key")


def test_what_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is none and a key that no header can carry are told, the key not."""
    there = argparse.Namespace(url="http://[::1", timeout=1.0)
    with pytest.raises(NotDone, match="Invalid IPv6 URL"):
        ask(there, "GET", "/")
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-zq\nword")
    with pytest.raises(NotDone) as refused:
        ask(there, "GET", "/")
    assert "zq" not in str(refused.value)


@pytest.mark.parametrize("text", ["inf", "nan", "0", "-1", "1e30"])
def test_a_time_to_wait(text: str) -> None:
    """What no timer takes is not understood."""
    with pytest.raises(argparse.ArgumentTypeError):
        seconds(text)
