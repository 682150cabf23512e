"""`penstock keys`, against a running gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.cli.common import directly
from gateway.keyfields import digest_of
from tests.harness import FakeProvider, Gateway, config_for, gateway

MASTER = "sk-master-0123456789"


@pytest.fixture
async def keyed(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gateway]:
    """A gateway with a master key, which the environment knows; the working directory is empty."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LITELLM_MASTER_KEY", MASTER)
    async with gateway(config_for(provider, general_settings={"master_key": MASTER}), tmp_path) as gw:
        port = gw.url.rpartition(":")[2]
        monkeypatch.setenv("LITELLM_HOST", "127.0.0.1")
        monkeypatch.setenv("LITELLM_PORT", port)
        yield gw


async def run(*arguments: str) -> int:
    """The exit code of `penstock keys …`."""
    return await asyncio.to_thread(main, ["keys", *arguments])


async def test_a_key_never_stands_in_a_url(
    keyed: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it begins with, also one that this gateway does not know."""
    asked: list[str] = []
    opened = directly.open

    def watched(request: Any, timeout: float) -> Any:
        asked.append(request.full_url)
        return opened(request, timeout=timeout)

    monkeypatch.setattr(directly, "open", watched)
    for key in ("sk-zzqnobody-0123456789", "zzqnobody-0123456789"):
        assert await run("info", key) == 1
        assert await asyncio.to_thread(main, ["explain", "--key", key, "--url", keyed.url]) == 1
    assert len(asked) == 4
    assert "zzqnobody" not in str(asked)
    assert "zzqnobody" not in capsys.readouterr().err


async def test_from_its_making_to_its_end(keyed: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    """Create prints the key and nothing else; it works, is listed with its name, and ends when it is revoked."""
    options = ["--alias", "bot", "--models", "gpt-4o, claude", "--max-budget", "5", "--budget-duration", "1d"]
    assert (
        await run("create", *options, "--duration", "30d", "--rpm", "60", "--tpm", "1000", "--parallel", "2")
        == 0
    )
    key = capsys.readouterr().out.strip()
    row = keyed.rt.keyring.find(digest_of(key))
    assert row is not None
    assert (row.alias, row.models, row.rpm_limit, row.tpm_limit, row.max_parallel_requests) == (
        "bot",
        ("gpt-4o", "claude"),
        60,
        1000,
        2,
    )
    assert (row.budgets[0].max_budget, row.budgets[0].duration) == (5 * 10**9, "1d")
    assert row.expires_at is not None

    assert await run("list") == 0
    listed = capsys.readouterr().out
    assert [word in listed for word in ("bot", f"sk-...{key[-4:]}", "active", "5/1d", row.digest)] == [
        True
    ] * 5
    assert key not in listed

    assert await run("info", key) == 0
    assert json.loads(capsys.readouterr().out)["info"]["key_alias"] == "bot"

    assert await run("revoke", key) == 0
    assert capsys.readouterr().out == "1 key revoked\n"
    answer = await keyed.get("/v1/models", headers={"authorization": f"Bearer {key}"})
    assert answer.status == 401


async def test_json_and_aliases(keyed: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints what the gateway says; keys can be revoked by their names; a long list is read to its end."""
    assert await run("create", "--alias", "first", "--json") == 0
    assert json.loads(capsys.readouterr().out)["key_alias"] == "first"
    for number in range(101):
        await keyed.post(
            "/key/generate", {"key_alias": f"n{number}"}, headers={"authorization": f"Bearer {MASTER}"}
        )
    assert await run("list", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 102
    assert await run("revoke", "--alias", "first", "n1") == 0
    assert capsys.readouterr().out == "2 keys revoked\n"


async def test_refusals(
    keyed: Gateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the gateway refuses ends with 1 and its words; so does one that is not there, and what is no URL."""
    for arguments, told in (
        (("create", "--max-budget", "-1"), "answered 400: max_budget must be"),
        (("info", "sk-nobody-at-all-0001"), "answered 404: Key not found in database"),
        (("revoke", "sk-nobody-at-all-0001"), "answered 404"),
        (("list", "--url", "ftp://x"), "not a URL: ftp://x"),
        (("list", "--url", "http://me:sesame@x"), "a URL with a name or password in it"),
        (("list", "--url", "http://127.0.0.1:9"), "Connection refused"),
        (("list", "--url", f"{keyed.url}/nowhere"), "answered 404"),
    ):
        assert await run(*arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("penstock: ")
        assert told in captured.err
        assert "sesame" not in captured.err
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-another-master-key")
    assert await run("list") == 1
    told = capsys.readouterr().err
    assert (
        "answered 401: Authentication Error, Invalid API key provided. (the key that is sent is LITELLM_MASTER_KEY"
        in told
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("make",),
        ("create", "--max-budget", "much"),
        ("create", "--max-budget", "nan"),
        ("create", "--rpm", "1.5"),
        ("info",),
        ("revoke",),
    ],
)
def test_what_is_not_understood(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A command, flag or value that does not exist ends with 2."""
    with pytest.raises(SystemExit) as left:
        main(["keys", *arguments])
    assert left.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ["create", "list", "info", "revoke"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command explains itself."""
    with pytest.raises(SystemExit) as left:
        main(["keys", command, "--help"])
    assert left.value.code == 0
    assert "--url" in capsys.readouterr().out
