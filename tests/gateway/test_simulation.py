"""A ledger replayed through other configurations: who answers, what it costs, what is refused; exact and in bounded memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.books import json_line
from gateway.config.load import load
from gateway.keyfields import configured_keys, digest_of
from gateway.pricing import PriceTable, cost
from gateway.routes import compile_routes
from gateway.simulation import (
    PARTS,
    Comparison,
    LineUnreadable,
    Outcome,
    Recorded,
    Replay,
    oldest_first,
    read_lines,
    simulate,
)
from gateway.state.records import AttemptRow, LedgerQuery, LedgerRow, flatten
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords
from tests.gateway.rows import NOON, failure, row

PRICES = PriceTable.load()
MILLION = 10**6
_KEY = "sk-qzwx7kvbnmlpw"


def entry(name: str, model: str, **params: Any) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": {"model": model, "api_key": "zxq-7741-vbn", **params}}


def replay(*models: dict[str, Any], **sections: Any) -> Replay:
    """A replay of this configuration."""
    path = Path("new.yaml")
    path.write_text(json.dumps({"model_list": models, **sections}))
    config = load(path, {}).config
    return Replay("new", config, compile_routes(config, {}, PRICES), configured_keys(config))


def at(seconds: float, **fields: Any) -> LedgerRow:
    """A request for `smart` that openai/gpt-4o answered at once, so many seconds after noon."""
    answered = (AttemptRow("d1", "gpt-4o", "openai", 200, "", 700),)
    return row(f"r{seconds}", **{"started_at": NOON + seconds, "attempts": answered, "retries": 0, **fields})


async def outcomes(side: Replay, *rows: LedgerRow) -> list[Outcome]:
    return [await side.outcome(one) for one in rows]


async def ends(side: Replay, *rows: LedgerRow) -> list[str]:
    return [one.reason or one.end for one in await outcomes(side, *rows)]


async def compared(rows: Sequence[LedgerRow], *sides: Any, **more: Any) -> Comparison:
    async def pages() -> AsyncIterator[list[LedgerRow]]:
        yield list(rows)

    return await simulate(pages(), sides, **more)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# -- rows ------------------------------------------------------------------------------------------------------------


async def test_rows_come_oldest_first(tmp_path: Path) -> None:
    """Over days, gaps and moments with more rows than a page, each row comes once, in the order of the starts."""
    moments = [0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 7.0, 3_600.0, 86_400.0, 86_401.0, 500_000.0]
    rows = [row(f"r{number}", started_at=NOON + moment) for number, moment in enumerate(moments)]
    for records in (MemoryRecords(), SqliteRecords(tmp_path / "penstock.db")):
        await records.append(rows)
        pages = [page async for page in oldest_first(records, page=3)]
        found = [one for page in pages for one in page]
        assert [one.started_at - NOON for one in found] == moments
        assert len({one.id for one in found}) == len(rows)
        query = LedgerQuery(since=NOON + 7.0, until=NOON + 86_401.0)
        some = [one.started_at - NOON async for page in oldest_first(records, query, 2) for one in page]
        assert some == [7.0, 3_600.0, 86_400.0]
        await records.close()


def test_lines_of_an_export_are_rows() -> None:
    """What `penstock ledger export` prints is read as it was written; what is none is told with its line."""
    rows = [row("a"), failure("b", tags=()), at(5)]
    lines = [json_line(one).encode() for one in rows]
    (found,) = read_lines([*lines, b"\n"])
    assert [flatten(one) for one in found] == [flatten(one) for one in rows]
    assert [len(page) for page in read_lines(lines, page=2)] == [2, 1]
    for broken in (b"{", b"[]", b'{"id": "a"}', lines[0].replace(b'"started_at"', b'"nobody_knows"')):
        with pytest.raises(LineUnreadable, match="line 2 is no row"):
            list(read_lines([lines[0], broken]))


# -- who answers, and what it costs ----------------------------------------------------------------------------------


async def test_tags_look_at_those_that_failed_too() -> None:
    """A deployment that fails leaves its requests to the fallbacks, not to those that are not meant for them."""
    settings = {"enable_tag_filtering": True, "fallbacks": [{"smart": ["cheap"]}]}
    attempts = (
        AttemptRow("d1", "gpt-4o", "openai", 503, "upstream_overloaded", 10),
        AttemptRow("d3", "gpt-4.1", "openai", 200, "", 10),
    )
    for tag, other, tags in (("default", "paid", ()), ("eu", "default", ("eu",))):
        side = replay(
            entry("smart", "openai/gpt-4o", tags=[tag]),
            entry("smart", "openai/gpt-4o-mini", tags=[other]),
            entry("cheap", "openai/gpt-4.1", tags=["eu", "default"]),
            router_settings=settings,
        )
        outcome = await side.outcome(at(1, attempts=attempts, model="gpt-4.1", tags=tags))
        assert ([name for name, _, _ in outcome.by], outcome.fell_back) == (["openai/gpt-4.1"], True)


async def test_a_share_of_each_request() -> None:
    """Deployments get their shares of every request, and the sum is exact: nothing is drawn."""
    side = replay(entry("smart", "openai/gpt-4o-mini", weight=2), entry("smart", "openai/gpt-4o", weight=1))
    small, large = (PRICES.find("openai", name) for name in ("gpt-4o-mini", "gpt-4o"))
    assert small is not None
    assert large is not None
    (told,) = await outcomes(side, at(0))
    paid = [cost(facts.price, at(0).usage) or 0 for facts in (small, large)]
    parts = {name: part for name, part, _ in told.by}
    assert sum(parts.values()) == PARTS
    assert parts["openai/gpt-4o"] == PARTS // 3
    assert told.cost == paid[0] * (PARTS - PARTS // 3) + paid[1] * (PARTS // 3)
    found = await compared([at(0), at(1), at(2)], side)
    assert found.totals[0].cost == 3 * told.cost
    assert found.shown()["deployments"]["new"]["openai/gpt-4o"]["requests"] == 1.0


async def test_what_was_recorded() -> None:
    """The ledger's own side is its costs to the nano-dollar, its refusals, failures and fallbacks."""
    rows = [
        at(0),
        at(1, fallbacks=1, cost_nano=1),
        at(2, cost_nano=None, cost_source="none"),
        failure("b", reason="rate_limited", attempts=()),
        failure("c", reason="model_not_found", attempts=()),
        failure("d"),
    ]
    total = (await compared(rows, Recorded())).shown()["total"]["recorded"]
    assert total["cost"] == 0.123456790
    counts = {
        name: total[name] for name in ("answered", "refused", "not_found", "failed", "fallbacks", "unpriced")
    }
    assert counts == {"answered": 3, "refused": 1, "not_found": 1, "failed": 1, "fallbacks": 1, "unpriced": 1}


async def test_what_a_provider_billed_stays() -> None:
    """The provider's own bill is kept for the same model, and is worked out anew for another."""
    billed = at(0, cost_source="provider", cost_nano=77)
    assert (await outcomes(replay(entry("smart", "openai/gpt-4o")), billed))[0].cost == 77 * PARTS
    assert (await outcomes(replay(entry("smart", "openai/gpt-4o-mini")), billed))[0].cost != 77 * PARTS


async def test_a_price_that_nobody_knows() -> None:
    """It is counted, estimated or refused, as `unknown_price_policy` says."""
    model = entry("smart", "openai/none-has-heard-of-it")
    (told,) = await outcomes(replay(model), at(0))
    assert (told.end, told.is_priced, told.cost) == ("answered", False, 0)
    for policy, end in (("estimate", "answered"), ("block", "price_unknown")):
        side = replay(model, general_settings={"unknown_price_policy": policy})
        assert await ends(side, at(0)) == [end]


# -- where attempts failed -------------------------------------------------------------------------------------------


async def test_who_failed_fails_again() -> None:
    """The others of its route take its share; without any, a fallback answers; without one, the request fails."""
    tried = (
        AttemptRow("d0", "gpt-4o", "openai", 503, "upstream_overloaded", 40),
        AttemptRow("d1", "gpt-4o-mini", "openai", 200, "", 700),
    )
    asked = at(0, attempts=tried, model="gpt-4o-mini")
    large, small = entry("smart", "openai/gpt-4o"), entry("smart", "openai/gpt-4o-mini")
    (told,) = await outcomes(replay(large, small), asked)
    assert [(name, parts) for name, parts, _ in told.by] == [("openai/gpt-4o-mini", PARTS)]
    assert not told.fell_back
    other = entry("spare", "openai/gpt-4o-mini")
    (told,) = await outcomes(
        replay(large, other, router_settings={"fallbacks": [{"smart": ["spare"]}]}), asked
    )
    assert told.fell_back
    assert await ends(replay(large), asked) == ["no_deployment"]
    assert await ends(replay(large), failure("f", attempts=tried[:1])) == ["upstream_overloaded"]


async def test_fallbacks_by_the_kind_of_failure() -> None:
    """A question that was too long goes to the models for long ones, and on to what stands in for those."""
    tried = (AttemptRow("d0", "gpt-4o", "openai", 400, "context_window_exceeded", 40),)
    models = [
        entry("smart", "openai/gpt-4o"),
        entry("long", "openai/gpt-4o", api_base="https://other.example"),
        entry("last", "openai/gpt-4o-mini"),
    ]
    lists = {"fallbacks": [{"long": ["last"]}], "context_window_fallbacks": [{"smart": ["long"]}]}
    asked = failure("a", reason="context_window_exceeded", attempts=tried)
    (told,) = await outcomes(replay(*models, router_settings=lists), asked)
    assert (told.fell_back, [name for name, _, _ in told.by]) == (True, ["openai/gpt-4o-mini"])
    lists["max_fallbacks"] = 1  # type: ignore[assignment]  # a number among lists
    assert await ends(replay(*models, router_settings=lists), asked) == ["context_window_exceeded"]


async def test_nobody_else_of_a_model_is_asked_what_was_too_long() -> None:
    """Only a policy that counts the error, or a deployment that comes before, keeps a question that was too long from the models
    for long ones.
    """
    tried = (
        AttemptRow("d0", "gpt-4o", "openai", 400, "context_window_exceeded", 40),
        AttemptRow("d2", "gpt-4.1", "openai", 200, "", 700),
    )
    asked = at(0, attempts=tried, model="gpt-4.1")
    other, long = entry("smart", "openai/gpt-4o-mini", order=1), entry("long", "openai/gpt-4.1")
    lists: dict[str, Any] = {"context_window_fallbacks": [{"smart": ["long"]}]}
    counted = {**lists, "retry_policy": {"ContextWindowExceededErrorRetries": 1}}
    for order, settings, answers in (
        (1, lists, "openai/gpt-4.1"),
        (0, lists, "openai/gpt-4.1"),
        (2, lists, "openai/gpt-4o-mini"),
        (1, counted, "openai/gpt-4o-mini"),
    ):
        first = entry("smart", "openai/gpt-4o", order=order)
        (told,) = await outcomes(replay(first, other, long, router_settings=settings), asked)
        assert [name for name, _, _ in told.by] == [answers]
        assert told.fell_back == (answers == "openai/gpt-4.1")


async def test_who_answered_at_last_would_again() -> None:
    """A deployment that failed first and then answered the same request counts as one that answers."""
    tried = (
        AttemptRow("d1", "gpt-4o", "openai", 503, "upstream_overloaded", 40),
        AttemptRow("d1", "gpt-4o", "openai", 200, "", 700),
    )
    assert await ends(replay(entry("smart", "openai/gpt-4o")), at(0, attempts=tried)) == ["answered"]


async def test_a_request_that_was_wrong_stays_wrong() -> None:
    """What the provider or the gateway refused for the request's own sake is refused by all, fallback or not."""
    side = replay(
        entry("smart", "openai/gpt-4o"),
        entry("spare", "openai/gpt-4o-mini"),
        router_settings={"fallbacks": [{"smart": ["spare"]}]},
    )
    wrong = (AttemptRow("d0", "gpt-4o", "azure", 400, "upstream_bad_request", 40),)
    rows = [
        failure("a", reason="upstream_bad_request", attempts=wrong),
        failure("b", reason="malformed_json", attempts=()),
    ]
    assert await ends(side, *rows) == ["upstream_bad_request", "malformed_json"]


# -- what may ------------------------------------------------------------------------------------------------------


async def test_names_that_are_not_there() -> None:
    """A name that the configuration does not have is not found; the environment of whoever asks does not matter."""
    assert await ends(replay(entry("other", "openai/gpt-4o")), at(0)) == ["model_not_found"]


async def test_limits_see_the_minutes_as_they_were() -> None:
    """Two a minute are two in any minute of the ledger's own time; tokens count as they were used."""
    model = entry("smart", "openai/gpt-4o")
    rows = [at(0), at(1), at(2), at(61), at(62.5)]
    admitted, refused = "answered", "rate_limited"
    side = replay(model, general_settings={"rpm_limit": 2})
    assert await ends(side, *rows) == [admitted, admitted, refused, admitted, admitted]
    side = replay(model, general_settings={"tpm_limit": at(0).usage.total + 1})
    assert await ends(side, *rows) == [admitted, refused, refused, admitted, refused]


async def test_slots_are_free_when_requests_end() -> None:
    """Requests that overlap in the ledger overlap here."""
    side = replay(entry("smart", "openai/gpt-4o"), general_settings={"global_max_parallel_requests": 1})
    rows = [at(0, total_us=2 * MILLION), at(1), at(2.0), at(2.5), at(3.0)]
    assert await ends(side, *rows) == ["answered", "rate_limited", "answered", "rate_limited", "answered"]


async def test_a_budget_ends_and_begins_anew() -> None:
    """A day's budget refuses what it has no room for, and is whole again the next day."""
    model = entry("smart", "openai/gpt-4o", input_cost_per_token="0.01", output_cost_per_token="0.01")
    usage = at(0).usage
    dollars = (usage.total * 3) * 0.01
    side = replay(model, litellm_settings={"max_budget": dollars, "budget_duration": "1d"})
    told = await outcomes(side, at(0), at(1), at(2), at(3), at(86_400))
    assert [one.end for one in told] == ["answered"] * 3 + ["refused", "answered"]
    assert told[3].reason == "budget_exceeded"
    assert told[0].cost == usage.total * MILLION * 10 * PARTS


async def test_virtual_keys_of_the_configuration() -> None:
    """A key's models, aliases and limits hold for the rows that were its own."""
    keys = [
        {"key": _KEY, "key_alias": "bot", "models": ["smart"], "rpm_limit": 1, "aliases": {"mine": "smart"}}
    ]
    side = replay(entry("smart", "openai/gpt-4o"), entry("dear", "openai/gpt-4o"), virtual_keys=keys)
    owned = {"key_digest": digest_of(_KEY), "caller_kind": "key"}
    rows = [
        at(0, model_requested="dear", **owned),
        at(1, model_requested="mine", **owned),
        at(2, **owned),
        at(3),
        at(62, **owned),
    ]
    assert await ends(side, *rows) == ["model_denied", "answered", "rate_limited", "answered", "answered"]


async def test_what_was_refused_may_be_answered() -> None:
    """A request that a limit refused then is admitted here, costs nothing that is known, and is counted so."""
    refused = failure("a", reason="rate_limited", attempts=())
    found = await compared([refused], Recorded(), replay(entry("smart", "openai/gpt-4o")))
    before, after = found.totals
    assert (before.refused, before.answered) == (1, 0)
    assert (after.refused, after.answered, after.unmeasured, after.cost) == (0, 1, 1, 0)
    assert found.shown()["reasons"] == {"recorded": {"rate_limited": 1}, "new": {}}


# -- sums ------------------------------------------------------------------------------------------------------------


async def test_sums_are_bounded() -> None:
    """Clients choose names, any number of them: what comes late is summed as one. `limit` ends it early."""
    rows = [at(number, model_requested=f"m{number}") for number in range(1_200)]
    found = await compared(rows, Recorded())
    assert len(found.models) == 1_001
    assert found.models["(others)"][0].answered == 200
    assert (await compared(rows, Recorded(), limit=7)).rows == 7
    assert (found.shown()["first"], found.shown()["last"]) == (
        "2026-11-21T12:00:00+00:00",
        "2026-11-21T12:19:59+00:00",
    )
