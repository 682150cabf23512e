"""What every store of records promises, asked of each."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.state.credentials import CredentialRow
from gateway.state.keys import BudgetLimit, KeyRow
from gateway.state.records import (
    AliasTaken,
    AttemptRow,
    Kind,
    LedgerQuery,
    NameTaken,
    Records,
    Total,
    flatten,
    make_row,
    usd,
)
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords
from tests.gateway.rows import NOON, PLAIN, failure, row
from tests.harness import patient_postgres

DAY = 86_400


@pytest.fixture(params=["sqlite", "postgres", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Records:
    if request.param == "postgres":  # asked for here, so that the others do not wait for a server
        return patient_postgres(request.getfixturevalue("database_url"))
    return MemoryRecords() if request.param == "memory" else SqliteRecords(tmp_path / "ledger.db")


@pytest.fixture
async def records(store: Records) -> AsyncIterator[Records]:
    yield store
    await store.close()


async def test_round_trip(records: Records) -> None:
    """A row comes back with every field as it was."""
    await records.append([PLAIN])
    assert [flatten(r) for r in await records.rows(LedgerQuery())] == [flatten(PLAIN)]


async def test_what_is_no_token_comes_back(records: Records) -> None:
    """So does a row with pictures, sound and a bill of the provider's, and its tokens of pictures are in the totals."""
    one = row(
        image_input=1,
        image_output=2,
        images=3,
        milliseconds=4,
        characters=5,
        searches=6,
        cost_source="provider",
    )
    await records.append([one])
    assert [flatten(r) for r in await records.rows(LedgerQuery())] == [flatten(one)]
    (total,) = await records.totals()
    assert (total.prompt_tokens, total.completion_tokens) == (16, 26)


async def test_the_same_row_twice_is_one(records: Records) -> None:
    """Appending a row again, in the same batch or a later one, changes nothing."""
    await records.append([row("a"), row("a", cost_nano=5)])
    await records.append([row("a", cost_nano=7), row("b")])
    found = await records.rows(LedgerQuery())
    assert sorted((r.id, r.cost_nano) for r in found) == [("a", PLAIN.cost_nano), ("b", PLAIN.cost_nano)]


async def test_newest_first(records: Records) -> None:
    """Rows come newest start first, the later of two equal ones first, and no more than asked for."""
    await records.append([row("a"), row("b", started_at=NOON - 9), row("c"), row("d", started_at=NOON + 9)])
    assert [r.id for r in await records.rows(LedgerQuery())] == ["d", "c", "a", "b"]
    assert [r.id for r in await records.rows(LedgerQuery(), limit=2)] == ["d", "c"]


async def test_every_filter(records: Records) -> None:
    """Filters choose rows, all of them at once; the end of a span is outside it."""
    await records.append(
        [row("a", key_digest="k1"), row("b", end_user="bob"), row("c", started_at=NOON + 10)]
    )
    queries = {
        LedgerQuery(id="a"): ["a"],
        LedgerQuery(key_digest="k1"): ["a"],
        LedgerQuery(end_user="bob"): ["b"],
        LedgerQuery(since=NOON + 10): ["c"],
        LedgerQuery(since=NOON, until=NOON + 10): ["b", "a"],
        LedgerQuery(key_digest="k1", end_user="bob"): [],
        LedgerQuery(id="' OR 1=1 --"): [],
    }
    for query, ids in queries.items():
        assert [r.id for r in await records.rows(query)] == ids


async def test_totals_of_nothing(records: Records) -> None:
    """Without rows there is one total of zeroes, and no groups."""
    assert await records.totals() == [Total((), 0, 0, 0, 0, 0, 0)]
    assert await records.totals(["model"]) == []


async def test_totals(records: Records) -> None:
    """Totals sum exactly, count failures and name what has no price."""
    await records.append([row("a"), row("b", cost_nano=None), failure("c")])
    assert await records.totals() == [Total((), 3, 1, 1, 30, 48, 123_456_789)]


async def test_totals_by_group(records: Records) -> None:
    """Totals split by any dimensions, ordered, with an empty name where a row has none."""
    await records.append(
        [
            row("a", started_at=NOON + DAY, end_user=None),
            row("b"),
            row("c", model="gpt-5", cost_nano=1),
            row("d", provider="azure", key_digest="k"),
        ]
    )
    by_day = await records.totals(["day", "model"])
    assert [(t.group, t.requests, t.cost_nano) for t in by_day] == [
        (("2026-11-21", "gpt-4o"), 2, 246_913_578),
        (("2026-11-21", "gpt-5"), 1, 1),
        (("2026-11-22", "gpt-4o"), 1, 123_456_789),
    ]
    assert [t.group for t in await records.totals(["end_user", "key_digest", "provider", "model_group"])] == [
        ("", "", "openai", "smart"),
        ("alice", "", "openai", "smart"),
        ("alice", "k", "azure", "smart"),
    ]
    assert [t.requests for t in await records.totals([], LedgerQuery(since=NOON + DAY))] == [1]
    await records.append([row("e", deployment_id="d2", cost_nano=5)])
    by_deployment = await records.totals(["deployment_id"], LedgerQuery(since=0.0))
    assert [(t.group, t.requests) for t in by_deployment if t.group == ("d2",)] == [(("d2",), 1)]
    assert sum(t.requests for t in by_deployment) == 5


async def test_the_last_moment_of_a_day(records: Records) -> None:
    """It belongs to that day, however near the next one is."""
    midnight = NOON + DAY / 2
    starts = [midnight - 0.0003, math.nextafter(midnight, 0), midnight]
    await records.append([row(f"r{n}", started_at=start) for n, start in enumerate(starts)])
    for by in (["day"], ["day", "end_user"]):
        for since in (None, NOON):
            totals = await records.totals(by, LedgerQuery(since=since))  # type: ignore[arg-type]  # mypy widens the list
            assert [total.requests for total in totals] == [2, 1]


async def test_totals_of_parts_of_days(records: Records) -> None:
    """Whatever the span, totals are the sum of the rows in it: none twice, none left out, by day and in all."""
    starts = [
        NOON - DAY - 0.5,
        NOON - DAY / 2,
        NOON - 1,
        NOON,
        NOON + DAY / 2 - 0.25,
        NOON + DAY / 2,
        NOON + 3 * DAY,
    ]
    rows = [
        row(f"r{n}", started_at=start, key_digest="k" if n % 2 else None) for n, start in enumerate(starts)
    ]
    await records.append(rows)
    await records.append(rows[:3])
    edges = [
        None,
        NOON - DAY - 0.5,
        NOON - DAY / 2,
        NOON,
        NOON + 1,
        NOON + DAY / 2,
        NOON + 2 * DAY,
        NOON + 4 * DAY,
    ]
    for since in edges:
        for until in edges:
            for digest in (None, "k"):
                query = LedgerQuery(since=since, until=until, key_digest=digest)
                count = len(await records.rows(query))
                (total,) = await records.totals([], query)
                assert (total.requests, total.cost_nano) == (count, count * 123_456_789)
                by_day = await records.totals(["day", "key_digest"], query)
                assert sum(part.requests for part in by_day) == count
                assert len({part.group for part in by_day}) == len(by_day)


async def test_text_that_is_no_text(records: Records) -> None:
    """Header bytes that are no UTF-8, NULs and quotes are stored somehow and lose no other row."""
    await records.append([row("a", user_agent="\udcff'\x00", tags=("\ud800",)), row("b")])
    assert sorted(r.id for r in await records.rows(LedgerQuery())) == ["a", "b"]


@given(st.integers(0, 10**16))
def test_dollars_are_exact(nano: int) -> None:
    """Dollars are the float nearest to the exact amount: rounding to nano-dollars gives it back."""
    whole, part = divmod(nano, 10**9)
    assert usd(nano) == float(f"{whole}.{part:09d}")


def test_unknown_costs_show_as_zero_dollars() -> None:
    """Where a number must stand, an unknown cost is zero."""
    assert usd(None) == 0.0


def test_a_row_has_all_names() -> None:
    """A row made from flat names says the same again, the ordinary attempt included."""
    for one in (PLAIN, failure(), row(attempts=(AttemptRow("d1", "gpt-4o", "openai", 200, "", 7),))):
        assert flatten(make_row(**flatten(one))) == flatten(one)
    assert row(attempts=(AttemptRow("d1", "gpt-4o", "openai", 200, "", 7),)).answer_ms == 7
    assert (PLAIN.ended_at, PLAIN.first_token_at) == (NOON + 0.8, NOON + 0.2)


def test_a_kind_is_only_itself() -> None:
    """Kinds are compared by identity, which makes them cheap keys."""
    assert Kind() != Kind()
    assert len({Kind(), Kind()}) == 2


# -- keys ------------------------------------------------------------------------------------------------------------

KEY = KeyRow(
    digest="d1",
    name="sk-...a1b2",
    alias="bot",
    created_at=NOON,
    budgets=(BudgetLimit(5_000_000_000, "1d"),),
    models=("gpt-4o", "claude-*"),
    metadata={"user": "telegram-bot", "nested": [1, None]},
    rpm_limit=10,
)


async def test_a_key_comes_back_as_it_was(records: Records) -> None:
    """All of it, alone and in the list, oldest first."""
    other = replace(KEY, digest="d0", alias=None, created_at=NOON + 1)
    assert await records.key("d1") is None
    assert await records.put_key(KEY)
    assert await records.put_key(other)
    assert await records.key("d1") == KEY
    assert await records.keys() == [KEY, other]


async def test_the_second_of_two_changes_is_told(records: Records) -> None:
    """A change that was made on an old copy is refused: nothing that somebody else wrote is lost."""
    await records.put_key(KEY)
    assert not await records.put_key(KEY)
    blocked = replace(KEY, version=2, blocked=True)
    assert await records.put_key(blocked)
    assert not await records.put_key(replace(KEY, version=2, rpm_limit=None))
    assert await records.key("d1") == blocked


async def test_an_alias_names_one_key_that_lives(records: Records) -> None:
    """Two keys with one alias cannot be told apart; a deleted one gives its alias free, and stays."""
    await records.put_key(KEY)
    with pytest.raises(AliasTaken):
        await records.put_key(replace(KEY, digest="d2"))
    deleted = replace(KEY, version=2, deleted_at=NOON)
    assert await records.put_key(deleted)
    assert await records.put_key(replace(KEY, digest="d2"))
    assert await records.key("d1") == deleted


CREDENTIAL = CredentialRow(
    id="c1",
    name="our-azure",
    values={"api_key": "v1:00000000:AAAA", "api_base": "v1:00000000:BBBB"},
    info={"description": "ä", "nested": {"a": [1, None]}},
    created_at=NOON,
    updated_at=NOON + 1,
    created_by="a",
    updated_by="b",
)


async def test_a_credential_comes_back_as_it_was(records: Records) -> None:
    """Credentials come back with every field, in the order of their names."""
    other = CredentialRow(id="c0", name="z")
    assert await records.credentials() == []
    assert await records.put_credentials([other, CREDENTIAL])
    assert await records.credentials() == [CREDENTIAL, other]


async def test_credentials_are_written_together_or_not_at_all(records: Records) -> None:
    """A change that follows no stored version, or takes another's name, undoes those beside it."""
    other = CredentialRow(id="c2", name="z")
    assert await records.put_credentials([CREDENTIAL, other])
    changed = replace(CREDENTIAL, version=2, values={})
    assert not await records.put_credentials([changed, other])
    assert not await records.put_credentials([changed, replace(other, version=3)])
    assert not await records.put_credentials([changed, CredentialRow(id="c3", name="n", version=2)])
    with pytest.raises(NameTaken, match="'z' already exists"):
        await records.put_credentials([CredentialRow(id="c4", name="y"), replace(changed, name="z")])
    assert await records.credentials() == [CREDENTIAL, other]
    assert await records.put_credentials([changed, replace(other, version=2, name="y")])
    assert [(row.name, row.version) for row in await records.credentials()] == [("our-azure", 2), ("y", 2)]


async def test_a_credential_that_was_deleted(records: Records) -> None:
    """It is gone, and its name is free; a change to it comes too late."""
    await records.put_credentials([CREDENTIAL])
    assert await records.delete_credential("our-azure")
    assert not await records.delete_credential("our-azure")
    assert not await records.delete_credential("' OR 1=1 --")
    assert await records.credentials() == []
    assert not await records.put_credentials([replace(CREDENTIAL, version=2)])
    assert await records.put_credentials([replace(CREDENTIAL, id="c9")])
