from __future__ import annotations

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bench import peers
from bench.load import KEY
from bench.machine import ROOT


@pytest.mark.parametrize("name", list(peers.PEERS))
def test_peers_are_told_their_port(name: str, tmp_path: Path) -> None:
    """Each peer's command, or the configuration it names, has the port it listens on."""
    command = " ".join(peers.PEERS[name].command(4321, 1234, tmp_path))
    written = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "4321" in command + written


@pytest.mark.parametrize("name", list(peers.PEERS))
def test_peers_are_told_their_provider(name: str, tmp_path: Path) -> None:
    """Each peer hears where the provider is: in its command, its files, its environment or a request's headers."""
    peer = peers.PEERS[name]
    command = peer.command(4321, 1234, tmp_path)
    written = [file.read_text() for file in tmp_path.iterdir()]
    told = [*command, *written, *peer.headers(1234).values(), *peer.env(1234, tmp_path).values()]
    assert "1234" in " ".join(told)


def test_what_cannot_be_installed_says_why() -> None:
    """The reason is the installer's own error, in one line."""
    command = [sys.executable, "-c", "raise SystemExit('a warning\\nERROR: no such version\\nbye')"]
    with pytest.raises(peers.Missing, match=r"^cannot be installed: ERROR: no such version$"):
        peers._install(command)
    with pytest.raises(peers.Missing, match="no-such-program"):
        peers._install(["no-such-program"])


def test_what_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A peer whose program is not on PATH is left out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(peers, "CACHE", tmp_path)
    for name in ("nginx", "portkey"):
        with pytest.raises(peers.Missing, match="not on PATH"):
            peers.PEERS[name].version()


def test_ledger_rows_are_counted(tmp_path: Path) -> None:
    """The books in a gateway's folder tell how many requests they hold."""
    (tmp_path / "data").mkdir()
    with closing(sqlite3.connect(tmp_path / "data" / "penstock.db")) as books, books:
        books.execute("CREATE TABLE ledger (id)")
        books.executemany("INSERT INTO ledger VALUES (?)", [("a",), ("b",)])
    assert peers.ledger_rows(tmp_path) == 2


def test_the_configuration_knows_the_key() -> None:
    """bench/config.yaml takes its key and the provider's port from the environment that the bench gives."""
    env = peers.penstock_env(1234, Path("folder"))
    text = (ROOT / "bench" / "config.yaml").read_text()
    assert env["BENCH_KEY"] == KEY
    assert "${BENCH_KEY" in text
    assert "${BENCH_UPSTREAM" in text


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("litellm", "bin/litellm", ""),
        ("litellm", "lib/python3.11/site-packages/litellm-1.0.0.dist-info/METADATA", ""),
        ("portkey", "node_modules/@portkey-ai/gateway/package.json", '{"version": "1.0.0"}'),
        ("portkey", "node_modules/@portkey-ai/gateway/build/start-server.js", ""),
    ],
)
def test_another_version_is_not_taken_for_the_one_that_is_named(
    name: str, file: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What an older checkout has installed, or an installation that was broken off, is installed anew."""
    asked: list[list[str]] = []
    monkeypatch.setattr(peers, "CACHE", tmp_path)
    monkeypatch.setattr(peers, "_install", asked.append)
    monkeypatch.setattr(shutil, "which", lambda _name: "/somewhere")
    (tmp_path / name / file).parent.mkdir(parents=True)
    (tmp_path / name / file).write_text(text)
    peers.PEERS[name].version()
    assert asked


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("litellm", f"lib/python3.11/site-packages/litellm-{peers.LITELLM}.dist-info/METADATA", ""),
        ("portkey", "node_modules/@portkey-ai/gateway/package.json", f'{{"version": "{peers.PORTKEY}"}}'),
    ],
)
def test_what_is_installed_is_taken(
    name: str, file: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The version that is named is not installed a second time."""
    monkeypatch.setattr(peers, "CACHE", tmp_path)
    monkeypatch.setattr(peers, "_install", lambda command: pytest.fail(str(command)))
    (tmp_path / name / file).parent.mkdir(parents=True)
    (tmp_path / name / file).write_text(text)
    assert peers.PEERS[name].version() in (peers.LITELLM, peers.PORTKEY)
