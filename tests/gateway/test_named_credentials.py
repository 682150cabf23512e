"""Named credentials: where they come from, who uses them, and another salt."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from gateway.config.load import load
from gateway.config.model import Config, Secret
from gateway.named_credentials import AWAY, Credentials, checked, credentials_of, is_hidden, reseal, together
from gateway.pricing import PriceTable
from gateway.routes import Routes, compile_routes
from gateway.state.credentials import CredentialRow, opened, sealed
from gateway.state.records import Records, RecordsUnavailable
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords
from gateway.state.sealing import CannotOpen, CannotSeal, Sealer, WrongKey
from tests.gateway.state.test_sealing import SALT, of_litellm
from tests.harness import patient_postgres

OLD, NEW = Sealer(SALT), Sealer("neues.Salz.5kPq9")
PRICES = PriceTable.load()


def row(name: str, sealer: Sealer = OLD, **values: str) -> CredentialRow:
    return CredentialRow(id=f"id of {name}", name=name, values=sealed(sealer, f"id of {name}", values))


def secrets(**values: str) -> dict[str, Secret]:
    return {word: Secret(text) for word, text in values.items()}


# -- who uses them ---------------------------------------------------------------------------------------------------


def config(
    folder: Path, params: dict[str, Any], *, environ: dict[str, str] | None = None, **top: Any
) -> Config:

    path = folder / "config.yaml"
    path.write_text(json.dumps({"model_list": [{"model_name": "m", "litellm_params": params}], **top}))
    return load(path, environ or {}).config


def compiled(folder: Path, params: dict[str, Any], stored: Credentials | None = None, **top: Any) -> Routes:
    written = config(folder, {"litellm_credential_name": "c", **params}, **top)
    environ = {"OPENAI_API_KEY": "sk-der-Umgebung"}
    return compile_routes(written, environ, PRICES, stored or Credentials())


def why(routes: Routes) -> str:
    (unserved,) = routes.unserved
    assert routes.find("m") is None
    return unserved.why


def test_it_says_what_the_entry_does_not(tmp_path: Path) -> None:
    """Key, address and the provider's settings come from the credential; what the entry says itself stays."""
    stored = Credentials(
        values={"c": secrets(api_key="sk-der-Ablage", api_base="https://stored.example/v1", organization="o")}
    )
    route = compiled(tmp_path, {"model": "openai/gpt-4o"}, stored).find("m")
    assert route is not None
    (deployment,) = route.deployments
    assert deployment.api_key == Secret("sk-der-Ablage")
    assert deployment.target.base_url == "https://stored.example/v1"
    assert deployment.headers == {"openai-organization": Secret("o")}
    own = {"model": "openai/gpt-4o", "api_base": "https://own.example/v1"}
    route = compiled(tmp_path, own, stored).find("m")
    assert route is not None
    assert route.deployments[0].target.base_url == "https://own.example/v1"


def test_settings_of_one_provider(tmp_path: Path) -> None:
    """Options come too, secret where they are keys, under either of their names."""
    values = secrets(
        vertex_ai_project="p", vertex_location="europe-west1", vertex_credentials='{"type": "x"}'
    )
    route = compiled(tmp_path, {"model": "vertex_ai/gemini-2.5-pro"}, Credentials(values={"c": values})).find(
        "m"
    )
    assert route is not None
    found = route.deployments[0].credentials
    assert (found["vertex_project"], found["vertex_location"]) == ("p", "europe-west1")
    assert found["vertex_credentials"] == Secret('{"type": "x"}')


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (Credentials(), "there is no credential 'c'"),
        (AWAY, "there is no credential 'c' (the store could not be read at the start)"),
        (
            Credentials(unreadable={"c": "it was changed"}),
            "the credential 'c' cannot be used: it was changed",
        ),
    ],
)
@pytest.mark.parametrize("model", ["openai/gpt-4o", "*"])
def test_without_it_nothing_is_served(tmp_path: Path, stored: Credentials, reason: str, model: str) -> None:
    """The key of the environment never takes its place: the entry is off, and says why."""
    written = config(tmp_path, {"model": model, "litellm_credential_name": "c"})
    written = replace(
        written,
        model_list=tuple(
            replace(entry, model_name="m" if model != "*" else "*") for entry in written.model_list
        ),
    )
    routes = compile_routes(written, {"OPENAI_API_KEY": "sk-der-Umgebung"}, PRICES, stored)
    (unserved,) = routes.unserved
    assert unserved.why == reason
    assert routes.find("m") is None
    assert routes.find("openai/gpt-4o") is None


def test_a_mock_needs_none(tmp_path: Path) -> None:
    """An entry that asks nobody is served."""
    assert compiled(tmp_path, {"model": "openai/x", "mock_response": "Hello!"}).find("m") is not None


def test_those_of_the_configuration(tmp_path: Path) -> None:
    """They need no store, win over its, and one whose variable is not set keeps its entries off."""
    listed = [{"credential_name": "c", "credential_values": {"api_key": "os.environ/KEY"}}]
    params = {"model": "openai/gpt-4o", "litellm_credential_name": "c"}
    stored = Credentials(values={"c": secrets(api_key="sk-der-Ablage")})
    written = config(tmp_path, params, environ={"KEY": "sk-der-Datei"}, credential_list=listed)
    route = compile_routes(written, {}, PRICES, stored).find("m")
    assert route is not None
    assert route.deployments[0].api_key == Secret("sk-der-Datei")
    unset = config(tmp_path, params, credential_list=listed)
    assert (
        why(compile_routes(unset, {}, PRICES, stored)) == "the credential 'c' cannot be used: KEY is not set"
    )


def test_what_the_log_must_not_show(tmp_path: Path) -> None:
    """Keys, and what is long and nobody knows, are secret, addresses and regions are not."""
    stored = Credentials(
        values={
            "c": secrets(
                api_key="k1", api_base="https://a.example", aws_region_name="r", other="k2-of-nobody"
            )
        }
    )
    assert sorted(together(config(tmp_path, {"model": "openai/x"}), stored).secrets()) == [
        "k1",
        "k2-of-nobody",
    ]


@pytest.mark.parametrize(
    "address", ["ftp://a", "https://", "https://user:pw@a.example", "a.example", "https:///x"]
)
def test_addresses(address: str) -> None:
    """What is no address, or has a password in it, is told without being shown."""
    assert checked({"api_base": address}).startswith(
        ("api_base must begin with http", "api_base must not have a user")
    )
    assert "pw" not in checked({"api_base": address})
    assert checked({"api_base": "https://a.example/v1?x=y@z", "api_key": "ftp://a"}) == ""


@pytest.mark.parametrize("address", ["https://a.example:port", "https://[::1", "https://a b"])
def test_addresses_that_nobody_can_ask(address: str) -> None:
    """What only looks like an address is told as well."""
    assert checked({"api_base": address}).startswith("api_base ")


def test_keys_are_one_line() -> None:
    """A line break within a key is told, the one behind it is none of its own; a file of credentials may have any number."""
    assert checked({"api_key": "sk-1\nsk-2"}).startswith("api_key has a line break")
    assert (
        checked({"api_key": "sk-1\n", "api_base": "https://a.example\n", "vertex_credentials": "{\n}\n"})
        == ""
    )


# -- where they come from --------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Records:
    if request.param == "postgres":  # asked for here, so that the others do not wait for a server
        return patient_postgres(request.getfixturevalue("database_url"))
    return MemoryRecords() if request.param == "memory" else SqliteRecords(tmp_path / "penstock.db")


@pytest.fixture
async def records(store: Records) -> AsyncIterator[Records]:
    yield store
    await store.close()


async def test_read_from_the_store(records: Records) -> None:
    """All rows are opened; an empty store needs no salt at all."""
    assert await credentials_of(records, Sealer(None)) == Credentials()
    await records.put_credentials(
        [row("a", api_key="k1"), row("b", api_key="k2", api_base="https://b.example")]
    )
    found = await credentials_of(records, OLD)
    assert found.values == {
        "a": secrets(api_key="k1"),
        "b": secrets(api_key="k2", api_base="https://b.example"),
    }
    assert found.unreadable == {}


async def test_what_stands_around_a_value_is_no_part_of_it(records: Records) -> None:
    """A key that was read from a file comes with the file's last line break."""
    await records.put_credentials(
        [row("a", api_key="k1\n", api_base=" https://a.example\n", vertex_credentials="{}\n")]
    )
    found = await credentials_of(records, OLD)
    assert found.values["a"] == secrets(api_key="k1", api_base="https://a.example", vertex_credentials="{}\n")


async def test_one_that_is_broken_harms_no_other(records: Records) -> None:
    """A row with another row's value is unreadable, as one whose address is none; the rest is read."""
    one, other = row("a", api_key="k1"), row("b", api_key="k2")
    swapped = replace(one, values=other.values)
    await records.put_credentials([swapped, other, row("c", api_base="ftp://x")])
    found = await credentials_of(records, OLD)
    assert found.values == {"b": secrets(api_key="k2")}
    assert "belongs to another row" in found.unreadable["a"]
    assert "must begin with http" in found.unreadable["c"]


async def test_another_salt(records: Records) -> None:
    """With another salt, or none, one line says how many rows there are and what to set."""
    theirs = CredentialRow(id="l", name="l", values={"api_key": of_litellm("k")["nacl"]})
    await records.put_credentials([row("a", api_key="k1"), row("b", NEW, api_key="k2"), theirs])
    where = records.describe().where
    with pytest.raises(WrongKey) as wrong:
        await credentials_of(records, NEW)
    told = f"2 named credentials in {where} cannot be opened with this LITELLM_SALT_KEY (without one: this master key): start with the one that sealed them, or run penstock rotate-salt"
    assert str(wrong.value) == told
    with pytest.raises(CannotSeal) as missing:
        await credentials_of(records, Sealer(None))
    assert f"3 named credentials in {where} cannot be opened" in str(missing.value)
    assert "set LITELLM_SALT_KEY" in str(missing.value)


# -- another salt ----------------------------------------------------------------------------------------------------


async def test_reseal(records: Records) -> None:
    """All rows, LiteLLM's too, are the new salt's afterwards; a dry run changes nothing and a second run finds nothing."""
    texts = of_litellm("sk-geheim-l")
    theirs = CredentialRow(id="l", name="l", values={"api_key": texts["nacl"], "token": texts["gcm"]})
    await records.put_credentials(
        [row("a", api_key="k1", api_base="https://a.example"), row("b", NEW, api_key="k2"), theirs]
    )
    before = await records.credentials()
    assert await reseal(records, OLD, NEW, dry_run=True) == (2, 3)
    assert await records.credentials() == before
    assert await reseal(records, OLD, NEW) == (2, 3)
    after = await records.credentials()
    assert [opened(NEW, row) for row in after] == [
        {"api_key": "k1", "api_base": "https://a.example"},
        {"api_key": "k2"},
        {"api_key": "sk-geheim-l", "token": "sk-geheim-l"},
    ]
    assert [row.version for row in after] == [2, 1, 2]
    assert await reseal(records, OLD, NEW) == (0, 3)


async def test_a_row_that_neither_salt_opens(records: Records) -> None:
    """It is named, and no row is changed."""
    await records.put_credentials([row("a", api_key="k1"), row("b", Sealer("ein.drittes"), api_key="k2")])
    before = await records.credentials()
    with pytest.raises(WrongKey, match=r"the credential 'b': .*; nothing was changed"):
        await reseal(records, OLD, NEW)
    broken = replace(before[1], version=2, values=before[0].values)
    await records.put_credentials([broken])
    with pytest.raises(CannotOpen, match=r"the credential 'b': .*another row; nothing was changed"):
        await reseal(records, OLD, NEW)
    assert await records.credentials() == [before[0], broken]


async def test_a_gateway_that_writes_meanwhile(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added or changed with the old salt in the middle of it is sealed anew as well."""
    await records.put_credentials([row("a", api_key="k1")])
    put, changes = (
        records.put_credentials,
        [
            [row("b", api_key="k2")],
            [replace(row("a", api_key="k3"), version=2)],
        ],
    )

    async def interrupted(rows: list[CredentialRow]) -> bool:
        if changes:
            assert await put(changes.pop())
        return await put(rows)

    monkeypatch.setattr(records, "put_credentials", interrupted)
    assert await reseal(records, OLD, NEW) == (2, 2)
    assert [opened(NEW, row) for row in await records.credentials()] == [{"api_key": "k3"}, {"api_key": "k2"}]


MANY = [row(f"c{number:02}", api_key=f"k{number}") for number in range(20)]


async def test_interrupted_in_sqlite(tmp_path: Path) -> None:
    """A rotation that fails in the middle has changed nothing, and succeeds when it is run again."""
    path = tmp_path / "penstock.db"
    records = SqliteRecords(path)
    await records.put_credentials(MANY)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "CREATE TRIGGER stop BEFORE UPDATE ON credential WHEN new.name = 'c11' BEGIN SELECT abs(-9223372036854775807 - 1); END"
        )
    with pytest.raises(RecordsUnavailable):
        await reseal(records, OLD, NEW)
    assert await records.credentials() == MANY
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TRIGGER stop")
    assert await reseal(records, OLD, NEW) == (20, 20)
    await records.close()


async def test_interrupted_in_postgres(database_url: str) -> None:
    """The same where the connection is cut in the middle of the transaction."""
    records = patient_postgres(database_url)
    await records.put_credentials(MANY)
    admin = await asyncpg.connect(database_url)
    await admin.execute(
        "CREATE FUNCTION penstock.stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_terminate_backend(pg_backend_pid()); RETURN new; END $$; CREATE TRIGGER stop BEFORE UPDATE ON "
        "penstock.credential FOR EACH ROW WHEN (new.name = 'c11') EXECUTE FUNCTION penstock.stop()"
    )
    with pytest.raises(RecordsUnavailable):
        await reseal(records, OLD, NEW)
    assert await records.credentials() == MANY
    await admin.execute("DROP TRIGGER stop ON penstock.credential")
    await admin.close()
    assert await reseal(records, OLD, NEW) == (20, 20)
    await records.close()


@pytest.mark.parametrize(
    ("word", "text", "hidden"),
    [
        ("api_key", "k7", True),
        ("api_base", "https://provider.example/v1", False),
        ("my_token", "qv7xk2zj", True),
        ("note", "all", False),
    ],
)
def test_what_is_taken_out_of_logs(word: str, text: str, hidden: bool) -> None:
    """Keys of any length, and what is long under a word that nobody knows; a short remark is no secret."""
    assert is_hidden(word, text) is hidden
