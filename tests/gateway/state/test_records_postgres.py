"""What only a store has that is elsewhere: other writers, absence, and a database that others read too."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import orjson
import pytest
from msgspec.structs import replace

from adapters.errors import BadRequest
from gateway.admin.spend import spend_log
from gateway.background.ledger import Ledger
from gateway.background.supervisor import spawn
from gateway.state import records_postgres
from gateway.state.postgres import MIGRATION_LOCK, migrations
from gateway.state.records import AliasTaken, AttemptRow, LedgerQuery, LedgerRow, RecordsUnavailable, flatten
from gateway.state.records_postgres import PostgresRecords
from tests.faulty import FaultyProxy
from tests.gateway.rows import NOON, PLAIN, failure, row
from tests.gateway.state.test_records import CREDENTIAL, KEY
from tests.harness import patient_postgres

ORDINARY = row(
    "ordinary", attempts=(AttemptRow("d1", "gpt-4o", "openai", 200, "", 7),), tags=(), call_id="", retries=0
)


@pytest.fixture
async def records(database_url: str) -> AsyncIterator[PostgresRecords]:
    store = patient_postgres(database_url)
    yield store
    await store.close()


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[FaultyProxy]:
    faulty = FaultyProxy(database_url)
    await faulty.start()
    yield faulty
    await faulty.close()


@pytest.fixture
async def behind(proxy: FaultyProxy) -> AsyncIterator[PostgresRecords]:
    """Records behind the proxy, with little patience."""
    store = PostgresRecords(
        proxy.url, where="the proxy's", connect_seconds=1.0, command_seconds=1.0, report_seconds=1.0
    )
    yield store
    await store.close()


async def execute(url: str, sql: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        found: list[Any] = await connection.fetch(sql, *arguments)
        return found
    finally:
        await connection.close()


async def in_the_end(behind: PostgresRecords, rows: list[LedgerRow]) -> None:
    """Append them, however often it takes: a busy machine may need more than the patience there is."""
    while True:
        try:
            return await behind.append(rows)
        except RecordsUnavailable:
            continue


async def ids(url: str) -> list[str]:
    return [name for (name,) in await execute(url, "SELECT id FROM penstock.entry ORDER BY id")]


# -- writing ---------------------------------------------------------------------------------------------------------


async def test_two_writers_of_the_same_rows(database_url: str) -> None:
    """Two processes that open an empty database at once and write the same rows in different orders lose and double none."""
    stores = [patient_postgres(database_url, name) for name in "ab"]
    names = [f"r{n:03d}" for n in range(200)]

    async def write(store: PostgresRecords, order: list[str]) -> None:
        for start in range(0, len(order), 20):
            batch = [row(name, model=f"m{int(name[1:]) % 7}") for name in order[start : start + 20]]
            await store.append(batch)

    await asyncio.gather(write(stores[0], names), write(stores[1], names[::-1]))
    assert await ids(database_url) == names
    assert await execute(database_url, "SELECT count(*) FROM penstock.kind") == [(7,)]
    for store in stores:
        await store.close()


async def test_many_start_at_once(database_url: str) -> None:
    """Replicas that start together on an empty database migrate it once; one that starts later finds nothing to do."""
    stores = [patient_postgres(database_url, str(n)) for n in range(6)]
    assert await asyncio.gather(*(store.keys() for store in stores)) == [[]] * 6
    applied = "SELECT version, name, applied_at FROM penstock.schema_version ORDER BY version"
    before = await execute(database_url, applied)
    assert [tuple(found)[:2] for found in before] == [(number, name) for number, name, _ in migrations()]
    later = patient_postgres(database_url, "later")
    assert await later.keys() == []
    assert await execute(database_url, applied) == before
    for store in [*stores, later]:
        await store.close()


def test_migrations_are_numbered_without_gaps() -> None:
    """Schema changes are numbered from one, each number once."""
    assert [number for number, _, _ in migrations()] == list(range(1, len(migrations()) + 1))


async def test_a_newer_schema_is_used(
    records: PostgresRecords, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that a newer version has migrated works for this one, which says so."""
    await records.append([PLAIN])
    await execute(database_url, "INSERT INTO penstock.schema_version (version, name) VALUES (999, 'future')")
    await execute(database_url, "ALTER TABLE penstock.entry ADD COLUMN future text NOT NULL DEFAULT ''")
    await execute(database_url, "ALTER TABLE penstock.kind ADD COLUMN future text NOT NULL DEFAULT ''")
    older = patient_postgres(database_url, "here")
    await older.append([row("b", model="other")])
    assert len(await older.rows(LedgerQuery())) == 2
    assert "newer version (schema 999" in caplog.text
    await older.close()


async def test_an_impatient_caller_does_not_stop_a_migration(
    records: PostgresRecords, database_url: str
) -> None:
    """Who gives up while the schema is made, for others, leaves it to be made."""
    lock = await asyncpg.connect(database_url)
    await lock.execute(f"BEGIN; SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await records.keys()
    opening = records._opening
    await lock.execute("COMMIT")
    await lock.close()
    assert await records.keys() == []
    assert records._opening is opening


async def test_a_row_that_cannot_be_stored(records: PostgresRecords) -> None:
    """A number that no column holds is the row's fault and not the database's; its batch goes with it."""
    with pytest.raises(ValueError, match="cannot be stored"):
        await records.append([row("a"), row("b", input=2**70)])
    assert records.describe().error == ""
    await records.append([row("c")])
    assert [r.id for r in await records.rows(LedgerQuery())] == ["c"]


async def test_text_is_kept_as_far_as_it_can_be(records: PostgresRecords) -> None:
    """Only what no database text can hold is taken out, wherever in a row it is."""
    attempts = (AttemptRow("d\0", "m", "p", 503, "x", 1),)
    odd = row("a", user_agent="\udcff'\x00ü", tags=("\ud800", "a\0b"), error_message="\0", attempts=attempts)
    await records.append([odd, row("b", user_agent="ünïcode")])
    b, a = await records.rows(LedgerQuery())
    assert (b.user_agent, a.user_agent, a.tags, a.error_message) == ("ünïcode", "?'ü", ("?", "ab"), "")
    assert a.attempts[0].deployment_id == "d"


async def test_large_numbers_come_back_as_they_were(records: PostgresRecords) -> None:
    """What somebody says of a key or a credential can be shown again, although a `jsonb` writes each number out."""
    said = {"large": 1e300, "negative": -1e20, "just": 2.0**64, "listed": [1e22, 1.5, 2**63, "1" * 400]}
    await records.put_key(replace(KEY, metadata=said, extra=said))
    await records.put_credentials([replace(CREDENTIAL, info=said)])
    (key,), (credential,) = await records.keys(), await records.credentials()
    assert key == await records.key(KEY.digest)
    for kept in (key.metadata, key.extra, credential.info):
        assert orjson.loads(orjson.dumps(kept)) == said


async def test_a_database_without_unicode(postgres_url: str) -> None:
    """A database in another encoding gets what it can hold; no row is lost for a letter."""
    name = f"penstock_latin_{uuid4().hex}"
    await execute(postgres_url, f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    store = PostgresRecords(urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}")), where="latin")
    try:
        await store.append([row("a", end_user="日本")])
        assert [r.end_user for r in await store.rows(LedgerQuery())] == ["??"]
    finally:
        await store.close()
        await execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


async def test_long_batches_and_ordinary_rows(records: PostgresRecords) -> None:
    """Batches of any length come back whole, ordinary rows and others mixed, each with every field."""
    rows = [
        row(f"r{n:03d}", **(flatten(ORDINARY if n % 50 else PLAIN) | {"id": f"r{n:03d}"})) for n in range(700)
    ]
    await records.append(rows)
    found = [flatten(r) for r in reversed(await records.rows(LedgerQuery()))]
    assert found == [flatten(r) for r in rows]
    await records.append([])


async def test_a_flood_of_kinds(
    records: PostgresRecords, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What rows have in common is there once, however little of it the writer remembers."""
    monkeypatch.setattr(records_postgres, "_MOST_KINDS", 3)
    for n in range(20):
        await records.append([row(f"{n}", model=f"m{n % 5}")])
    assert len(records._kinds) <= 4
    assert await execute(database_url, "SELECT count(*) FROM penstock.kind") == [(5,)]


async def test_kinds_that_are_forgotten_while_a_batch_is_written(
    records: PostgresRecords, database_url: str
) -> None:
    """Another call that fails meanwhile makes the writer forget them; the batch that needs them is written all the same."""
    await records.append([PLAIN])
    blocker = await asyncpg.connect(database_url)
    try:
        await blocker.execute("BEGIN; LOCK TABLE penstock.kind IN EXCLUSIVE MODE")
        writing = spawn(records.append([replace(PLAIN, id="a"), row("b")]), name="writing")
        while not await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        with pytest.raises(BadRequest):
            await records.put_key(replace(KEY, alias="\0"))
        await blocker.execute("COMMIT")
        await writing
    finally:
        blocker.terminate()
    assert await ids(database_url) == ["a", "b", PLAIN.id]


# -- another database than before ------------------------------------------------------------------------------------


async def test_a_database_that_was_made_anew(records: PostgresRecords, database_url: str) -> None:
    """Tables that vanish under a running gateway are an error once, and are made again."""
    await records.append([row("a")])
    await execute(database_url, "DROP SCHEMA penstock CASCADE")
    with pytest.raises(RecordsUnavailable):
        await records.append([row("b")])
    await records.append([row("b")])
    assert await ids(database_url) == ["b"]


async def test_a_database_from_a_backup(records: PostgresRecords, database_url: str) -> None:
    """Kinds whose numbers mean nothing any more are made again."""
    await records.append([PLAIN])
    await execute(database_url, "TRUNCATE penstock.kind CASCADE")
    with pytest.raises(RecordsUnavailable):
        await records.append([replace(PLAIN, id="b")])
    await records.append([replace(PLAIN, id="b")])
    assert [r.model for r in await records.rows(LedgerQuery())] == [PLAIN.model]


async def test_litellms_own_tables_are_left_alone(database_url: str) -> None:
    """In a database that LiteLLM has used its tables stay, and the views are in our schema alone."""
    await execute(database_url, 'CREATE TABLE "LiteLLM_SpendLogs" (request_id text)')
    await execute(database_url, "INSERT INTO \"LiteLLM_SpendLogs\" VALUES ('theirs')")
    store = patient_postgres(database_url, "shared")
    await store.append([row("ours")])
    assert await execute(database_url, 'SELECT * FROM "LiteLLM_SpendLogs"') == [("theirs",)]
    seen = await execute(database_url, 'SELECT request_id FROM penstock."LiteLLM_SpendLogs"')
    assert seen == [("ours",)]
    assert await execute(database_url, 'SELECT * FROM "LiteLLM_VerificationToken"') == []
    await store.close()


# -- absence ---------------------------------------------------------------------------------------------------------


async def test_not_there_at_the_start(behind: PostgresRecords, proxy: FaultyProxy) -> None:
    """A database that is not up yet is unavailable, soon, with a time to try again; then it works by itself."""
    assert behind.describe().error == "not connected yet"
    proxy.refuse()
    with pytest.raises(RecordsUnavailable) as caught:
        await behind.keys()
    assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "5"})
    assert behind.describe().error
    proxy.heal()
    assert await behind.keys() == []
    assert behind.describe().error == ""


@pytest.mark.parametrize("fault", ["stall", "refuse", "reset", "half_close"])
async def test_gone_and_back(
    behind: PostgresRecords, proxy: FaultyProxy, database_url: str, fault: str
) -> None:
    """Whatever the way in which a database goes, calls fail within their time, and work when it is back, once each."""
    await in_the_end(behind, [row("a")])
    getattr(proxy, fault)()
    began = time.monotonic()
    with suppress(RecordsUnavailable):
        await behind.append([row("b")])
    with suppress(RecordsUnavailable):
        await behind.keys()
    assert time.monotonic() - began < 30
    proxy.heal()
    await in_the_end(behind, [row("b")])
    assert await ids(database_url) == ["a", "b"]


@pytest.mark.parametrize("count", [1, 6, 40, 200])
async def test_cut_in_the_middle_of_an_answer(
    behind: PostgresRecords, proxy: FaultyProxy, database_url: str, count: int
) -> None:
    """An answer that ends in the middle of a message is a failure, and the same batch again is right."""
    await in_the_end(behind, [row("a")])
    proxy.cut_after(count)
    with suppress(RecordsUnavailable):
        await behind.append([row(f"b{n}", model=f"m{n}") for n in range(9)])
        await behind.append([row(f"c{n}", model=f"n{n}") for n in range(9)])
    proxy.heal()
    await in_the_end(behind, [row(f"b{n}", model=f"m{n}") for n in range(9)])
    await in_the_end(behind, [row(f"c{n}", model=f"n{n}") for n in range(9)])
    assert await ids(database_url) == ["a", *(f"b{n}" for n in range(9)), *(f"c{n}" for n in range(9))]


async def test_a_commit_whose_answer_is_lost(
    behind: PostgresRecords, proxy: FaultyProxy, database_url: str
) -> None:
    """Rows that are there although the writer could not know are not written twice, changed or not."""
    await in_the_end(behind, [row("a")])
    proxy.lose_answer_to(b"COMMIT\0")
    with pytest.raises(RecordsUnavailable):
        await behind.append([row("b"), row("c")])
    assert await ids(database_url) == ["a", "b", "c"]
    await in_the_end(behind, [row("b"), row("c"), row("d")])
    assert await ids(database_url) == ["a", "b", "c", "d"]


async def test_three_minutes_without_a_database(
    behind: PostgresRecords, proxy: FaultyProxy, database_url: str
) -> None:
    """The rows of three minutes at 100 a second, through every kind of outage: nobody waits, none is lost or doubled."""
    ledger = Ledger(behind, interval=0.001, delays=(0.01, 0.05))
    worker = spawn(ledger.run(), name="ledger")
    names = [f"r{n:05d}" for n in range(18_000)]
    faults = [
        lambda: None,
        proxy.refuse,
        proxy.stall,
        proxy.reset,
        lambda: proxy.cut_after(300),
        lambda: proxy.lose_answer_to(b"COMMIT\0"),
        lambda: proxy.slow(0.01),
        proxy.half_close,
        proxy.refuse,
    ]
    longest = 0.0
    for step, fault in enumerate(faults):
        proxy.heal()
        await asyncio.sleep(0.05)
        fault()
        for name in names[step * 2000 : (step + 1) * 2000]:
            began = time.perf_counter()
            ledger.offer(row(name))
            longest = max(longest, time.perf_counter() - began)
            if name.endswith("00"):
                await asyncio.sleep(0.002)
        await asyncio.sleep(0.1)
    assert ledger.waiting >= 2000
    proxy.heal()
    worker.cancel()
    await asyncio.wait([worker])
    assert await ledger.drain(60) == 0
    assert (await ids(database_url), ledger.dropped) == (names, 0)
    assert longest < 1


async def test_a_report_that_takes_too_long(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report is broken off in its time, and does not go on in the server."""
    store = PostgresRecords(database_url, where="here", report_seconds=0.2)
    await store.keys()
    with pytest.raises(RecordsUnavailable):
        await store._report("SELECT pg_sleep(20)")
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(20)%' AND pid <> pg_backend_pid() AND state = 'active'"
    while await execute(database_url, running) != [(0,)]:
        await asyncio.sleep(0.01)
    assert await store.keys() == []
    await store.close()


async def test_closing_breaks_off_what_runs(database_url: str) -> None:
    """A gateway that ends does not wait for a report."""
    store = patient_postgres(database_url, "here")
    await store.keys()
    report = spawn(store._report("SELECT pg_sleep(20)"), name="report")
    await asyncio.sleep(0.05)
    await store.close()
    with pytest.raises(RecordsUnavailable):
        await report


async def test_no_secret_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """What is logged and reported of a database that cannot be reached holds no password and no URL."""
    store = PostgresRecords("postgresql://me:hushhush@127.0.0.1:1/books", where="127.0.0.1:1/books")
    with pytest.raises(RecordsUnavailable) as caught:
        await store.keys()
    told = f"{caplog.text} {caught.value} {store.describe()}"
    assert "127.0.0.1:1/books" in told
    assert "hushhush" not in told
    await store.close()


@pytest.mark.parametrize(
    "why", [ssl.SSLCertVerificationError("certificate has expired"), UnicodeError("label too long")]
)
async def test_what_keeps_it_from_connecting_is_no_rows_fault(why: ValueError) -> None:
    """A certificate that is refused is a `ValueError` as rows can be one: the rows wait nevertheless, none is given up."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise why

    store = PostgresRecords("postgresql://me@127.0.0.1:1/books", where="books")
    store._connect = refuse
    ledger = Ledger(store)
    ledger.offer(row("a"))
    with pytest.raises(RecordsUnavailable):
        async with ledger.up_to_date():
            pass
    assert (ledger.waiting, ledger.dropped) == (1, 0)
    assert str(why) in store.describe().error
    await store.close()


async def test_one_that_lets_nobody_listen_is_asked_more_and_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where calls succeed and to listen does not, as if there were no connection left, the pauses grow all the same."""
    monkeypatch.setattr(records_postgres, "_DELAYS", (0.001, 60.0))
    tries: list[float] = []
    enough = asyncio.Event()

    class Crowded(PostgresRecords):
        async def _do(self, *_: Any) -> Any:
            self._works()

        async def _listen(self) -> None:
            tries.append(time.monotonic())
            if len(tries) == 7:
                enough.set()
            raise asyncpg.TooManyConnectionsError("too many connections")

    store = Crowded("postgresql://me@127.0.0.1:1/books", where="books")
    watching = spawn(store.run(), name="records")
    await enough.wait()
    assert tries[-1] - tries[0] >= 0.06  # 1 + 2 + 4 + 8 + 16 + 32 ms
    watching.cancel()
    await asyncio.wait([watching])


# -- keys ------------------------------------------------------------------------------------------------------------


async def test_one_of_two_changes_at_once(database_url: str) -> None:
    """Of replicas that change a key at the same time one succeeds, of two keys with one alias one is made."""
    stores = [patient_postgres(database_url, name) for name in "abcd"]
    for n in range(30):  # the index of aliases noticed first in one of forty
        same = replace(KEY, digest=f"c{n}", alias=f"same {n}")
        written = await asyncio.gather(*(store.put_key(same) for store in stores))
        assert sorted(written) == [False, False, False, True]
    assert await stores[0].put_key(KEY)
    changed = [replace(KEY, version=2, rpm_limit=n) for n in range(4)]
    written = await asyncio.gather(*(store.put_key(key) for store, key in zip(stores, changed, strict=True)))
    assert sorted(written) == [False, False, False, True]
    assert await stores[0].key(KEY.digest) == changed[written.index(True)]
    others = [replace(KEY, digest=f"e{n}", alias="other") for n in range(4)]
    made = await asyncio.gather(
        *(store.put_key(key) for store, key in zip(stores, others, strict=True)), return_exceptions=True
    )
    assert [one for one in made if one is True] == [True]
    assert [type(one) for one in made if one is not True] == [AliasTaken] * 3
    for store in stores:
        await store.close()


async def test_a_key_with_what_no_text_holds(records: PostgresRecords) -> None:
    """It is refused as the caller's mistake."""
    with pytest.raises(BadRequest):
        await records.put_key(replace(KEY, metadata={"a": "\0"}))
    with pytest.raises(BadRequest):
        await records.put_key(replace(KEY, alias="a\0"))
    assert await records.keys() == []
    assert await records.key("a\0b") is None
    assert await records.rows(LedgerQuery(key_digest="a\0b", end_user="\ud800")) == []
    assert (await records.totals((), LedgerQuery(key_digest="a\0b")))[0].requests == 0


async def test_news_of_changed_keys(
    behind: PostgresRecords, proxy: FaultyProxy, records: PostgresRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change is told to who listens elsewhere; after an absence everything may have changed."""
    monkeypatch.setattr(records_postgres, "HEARTBEAT_SECONDS", 0.05)
    heard: asyncio.Queue[str | None] = asyncio.Queue()
    behind.listen(heard.put_nowait)
    watching = spawn(behind.run(), name="records")
    assert await heard.get() is None
    await records.put_key(KEY)
    assert await heard.get() == KEY.digest
    await records.put_key(KEY)
    proxy.stall()
    while not behind.describe().error:
        await asyncio.sleep(0.01)
    proxy.heal()
    assert await heard.get() is None
    while behind.describe().error:
        await asyncio.sleep(0.01)
    await records.put_key(replace(KEY, version=2))
    assert await heard.get() == KEY.digest
    watching.cancel()
    await asyncio.wait([watching])


async def test_watching_survives_a_database_that_is_not_there(
    behind: PostgresRecords, proxy: FaultyProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The watcher connects and migrates when the database comes, with nobody asking, and says each change once."""
    caplog.set_level(logging.INFO)
    proxy.refuse()
    watching = spawn(behind.run(), name="records")
    while "cannot be used" not in caplog.text:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    proxy.heal()
    while behind.describe().error:
        await asyncio.sleep(0.01)
    assert caplog.text.count("is connected") == 1
    watching.cancel()
    await asyncio.wait([watching])


async def test_sums_of_days_agree_with_the_rows(records: PostgresRecords, database_url: str) -> None:
    """The database keeps the sums of days itself, also of rows that somebody else writes."""
    await records.append([row("a"), row("b", cost_nano=None), failure("c"), row("a")])
    await records.append([row("a"), row("d", started_at=NOON + 86_400)])
    await execute(
        database_url,
        "INSERT INTO penstock.entry (id, kind, started_at, cost_nano) SELECT 'e', min(kind), 0, 7 FROM penstock.entry",
    )
    kept = "SELECT day, kind, requests, unpriced, prompt, completion, cost FROM penstock.day_total"
    summed = (
        "SELECT floor(started_at / 86400)::bigint, kind, count(*), count(*) FILTER (WHERE cost_nano IS NULL), "
        "sum(input + cache_read), sum(output + reasoning), coalesce(sum(cost_nano), 0) FROM penstock.entry GROUP BY 1, 2"
    )
    assert set(await execute(database_url, kept)) == set(await execute(database_url, summed))
    assert len(await execute(database_url, kept)) == 4


# -- what dashboards read --------------------------------------------------------------------------------------------


async def test_spend_logs_as_the_api_shows_them(records: PostgresRecords, database_url: str) -> None:
    """The view named as LiteLLM's table says what `/spend/logs` says."""
    rows = [
        PLAIN,
        failure("refused", key_digest="k", key_alias="bot"),
        row("c", cost_nano=None, end_user=None),
    ]
    await records.append(rows)
    found = {
        line["request_id"]: line for line in await execute(database_url, 'SELECT * FROM "LiteLLM_SpendLogs"')
    }
    for one in rows:
        shown, line = spend_log(one), dict(found[one.id])
        times = ("startTime", "endTime", "completionStartTime")
        for name in times:
            line[name] = line[name] and line[name].isoformat(timespec="milliseconds") + "Z"
        for name in ("metadata", "messages", "response", "request_tags", "proxy_server_request"):
            line[name] = json.loads(line[name])
        metadata, shown_metadata = line.pop("metadata"), shown.pop("metadata")
        assert {name: line[name] for name in shown} == shown
        same = set(metadata) & set(shown_metadata)
        assert {name: metadata[name] for name in same} == {name: shown_metadata[name] for name in same}


async def test_what_keys_have_spent(records: PostgresRecords, database_url: str) -> None:
    """Keys are shown as LiteLLM's, with their spend in dollars; deleted ones in the table for those."""
    used = replace(KEY, digest="k1", spend_since=NOON + 5, expires_at=NOON, user_id="u", team_id="t")
    await records.put_key(used)
    await records.put_key(replace(KEY, digest="k2", alias=None, deleted_at=NOON))
    await records.append([row("a", key_digest="k1"), row("b", key_digest="k1", started_at=NOON + 6)])
    (key,) = await execute(database_url, 'SELECT * FROM "LiteLLM_VerificationToken"')
    assert (key["token"], key["key_alias"], key["key_name"]) == ("k1", "bot", "sk-...a1b2")
    assert (key["spend"], key["total_spend"]) == (0.123456789, 0.246913578)
    assert (key["max_budget"], key["budget_duration"], key["models"]) == (5.0, "1d", ["gpt-4o", "claude-*"])
    assert (key["expires"].isoformat(), key["blocked"], key["rpm_limit"]) == (
        "2026-11-21T12:00:00",
        False,
        10,
    )
    (gone,) = await execute(database_url, 'SELECT token FROM "LiteLLM_DeletedVerificationToken"')
    assert gone["token"] == "k2"
    (log, _) = await execute(database_url, 'SELECT "user", team_id FROM "LiteLLM_SpendLogs"')
    assert tuple(log) == ("u", "t")


async def test_daily_sums(records: PostgresRecords, database_url: str) -> None:
    """The daily views sum per day, model and whoever it was, and together hold every row."""
    rows = [row("a"), row("b", model="m2", tags=()), failure("c", started_at=NOON + 86_400)]
    await records.append(rows)
    for view in ("User", "Team", "EndUser", "Global"):
        sums = await execute(database_url, f'SELECT * FROM "LiteLLM_Daily{view}Spend" ORDER BY date, model')
        told = [(s["date"], s["model"], s["api_requests"], s["failed_requests"], s["spend"]) for s in sums]
        assert told == [
            ("2026-11-21", "gpt-4o", 1, 0, 0.123456789),
            ("2026-11-21", "m2", 1, 0, 0.123456789),
            ("2026-11-22", "gpt-4o", 1, 1, 0.0),
        ]
    tags = await execute(
        database_url, 'SELECT tag, sum(api_requests) FROM "LiteLLM_DailyTagSpend" GROUP BY 1 ORDER BY 1'
    )
    assert [tuple(tag) for tag in tags] == [("blue", 2), ("green", 2)]
    for view in (
        *(
            "MonthlyGlobalSpend",
            "MonthlyGlobalSpendPerKey",
            "MonthlyGlobalSpendPerUserPerKey",
            "DailyTagSpend",
        ),
        *("Last30dKeysBySpend", "Last30dModelsBySpend", "Last30dTopEndUsersSpend"),
    ):
        await execute(database_url, f'SELECT * FROM "{view}"')


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        ("SELECT * FROM penstock.ledger WHERE id = 'a'", "entry_pkey"),
        ("SELECT * FROM penstock.ledger ORDER BY started_at DESC, id DESC LIMIT 9", "entry_started_at"),
        ("SELECT * FROM penstock.ledger WHERE key_digest = 'k'", "entry_kind"),
        ("SELECT * FROM penstock.ledger WHERE end_user = 'e'", "entry_end_user"),
        ('SELECT * FROM "LiteLLM_SpendLogs" WHERE "startTime" >= \'2026-11-21\'', "entry_start_time"),
    ],
)
async def test_reports_use_indexes(records: PostgresRecords, database_url: str, sql: str, index: str) -> None:
    """Each filter of a report or a dashboard finds its rows by an index."""
    await records.keys()
    connection = await asyncpg.connect(database_url)
    await connection.execute("SET enable_seqscan = off")
    plan = await connection.fetch(f"EXPLAIN {sql}")
    await connection.close()
    assert index in str(plan)
