from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest

from adapters.errors import BadRequest
from gateway.admin import spend
from gateway.state.records import Records
from gateway.state.records_memory import MemoryRecords
from tests.gateway.rows import NOON, PLAIN, failure, row

SPEND_LOGS_COLUMNS = [
    "request_id",
    "call_type",
    "api_key",
    "spend",
    "total_tokens",
    "prompt_tokens",
    "completion_tokens",
    "startTime",
    "endTime",
    "completionStartTime",
    "request_duration_ms",
    "model",
    "model_id",
    "model_group",
    "custom_llm_provider",
    "api_base",
    "user",
    "metadata",
    "cache_hit",
    "cache_key",
    "request_tags",
    "team_id",
    "organization_id",
    "end_user",
    "requester_ip_address",
    "messages",
    "response",
    "proxy_server_request",
    "session_id",
    "status",
    "litellm_call_id",
]


async def records_of(*rows: Any) -> Records:
    records = MemoryRecords()
    await records.append(rows)
    return records


def test_one_row() -> None:
    """A row has LiteLLM's columns, exact dollars, ISO times, and our own figures beside them."""
    shown = spend.spend_log(PLAIN)
    assert list(shown) == SPEND_LOGS_COLUMNS
    assert (shown["spend"], shown["total_tokens"], shown["prompt_tokens"], shown["completion_tokens"]) == (
        0.123456789,
        39,
        15,
        24,
    )
    assert shown["startTime"] == "2026-11-21T12:00:00.000Z"
    assert shown["completionStartTime"] == "2026-11-21T12:00:00.200Z"
    assert (shown["request_duration_ms"], shown["call_type"], shown["cache_hit"]) == (
        800,
        "acompletion",
        "False",
    )
    assert shown["metadata"]["penstock"]["cost_nano"] == 123_456_789
    assert shown["metadata"]["penstock"]["cost_source"] == "price"
    assert len(shown["metadata"]["penstock"]["attempts"]) == 2
    assert b'"spend":0.123456789' in orjson.dumps(shown)


@pytest.mark.parametrize(
    ("operation", "client_format", "call_type"),
    [
        ("chat", "openai", "acompletion"),
        ("chat", "anthropic", "anthropic_messages"),
        ("completions", "openai", "atext_completion"),
        ("embeddings", "openai", "aembedding"),
    ],
)
def test_call_types(operation: str, client_format: str, call_type: str) -> None:
    """Each operation is called what dashboards call it."""
    assert spend.spend_log(row(operation=operation, client_format=client_format))["call_type"] == call_type


def test_a_failed_row() -> None:
    """A failure says so, with its reason and message; so does a client that left, whose true status is kept."""
    shown = spend.spend_log(failure())
    assert shown["status"] == "failure"
    assert shown["metadata"]["error_information"]["error_class"] == "upstream_overloaded"
    left = spend.spend_log(row(status="client_disconnected"))
    assert (left["status"], left["metadata"]["penstock"]["status"]) == ("failure", "client_disconnected")


def test_an_unknown_price_is_not_hidden() -> None:
    """Where the shape demands a number the row shows 0, and null where the truth has room."""
    shown = spend.spend_log(row(cost_nano=None))
    assert (shown["spend"], shown["metadata"]["penstock"]["cost_nano"]) == (0.0, None)


async def test_filters() -> None:
    """Rows can be asked for by request, by key (itself or its digest), by user and by time."""
    digest = hashlib.sha256(b"sk-1234").hexdigest()
    records = await records_of(
        row("a", key_digest=digest), row("b", end_user="bob"), row("c", started_at=NOON - 86_400)
    )
    queries: dict[tuple[tuple[str, str], ...], list[str]] = {
        (): ["b", "a", "c"],
        (("request_id", "a"),): ["a"],
        (("api_key", digest),): ["a"],
        (("api_key", "sk-1234"),): ["a"],
        (("api_key", "sk-other"),): [],
        (("user_id", "bob"),): ["b"],
        (("start_date", "2026-11-21"),): ["b", "a"],
        (("end_date", "2026-11-20"),): ["c"],
        (("start_date", "2026-11-20"), ("end_date", "2026-11-20"), ("summarize", "false")): ["c"],
        (("start_date", "2026-11-21T12:00:01+00:00"),): [],
    }
    for query, ids in queries.items():
        assert [shown["request_id"] for shown in await spend.spend_logs(records, dict(query))] == ids


async def test_sums_per_day() -> None:
    """With both dates there is one entry per day, empty days included, split by user, model and key."""
    records = await records_of(
        row("a"),
        row("b", cost_nano=1_000_000_000, model="gpt-5", key_digest="k", end_user=None),
        row("c", started_at=NOON + 2 * 86_400),
    )
    assert await spend.spend_logs(records, {"start_date": "2026-11-21", "end_date": "2026-11-22"}) == [
        {
            "k": 1.0,
            "startTime": "2026-11-21",
            "spend": 1.123456789,
            "users": {"": 1.0, "alice": 0.123456789},
            "models": {"gpt-5": 1.0, "gpt-4o": 0.123456789},
        },
        {"startTime": "2026-11-22", "spend": 0.0, "users": {}, "models": {}},
    ]


@pytest.mark.parametrize(
    "query",
    [
        {"start_date": "yesterday"},
        {"end_date": "2026-13-01"},
        {"start_date": "9999-12-31", "end_date": "9999-12-31"},
        {"start_date": "2026-11-21", "end_date": "2026-11-20"},
        {"start_date": "0001-01-01", "end_date": "2026-11-20"},
    ],
)
async def test_bad_dates(query: dict[str, str]) -> None:
    """A date that is none, lies beyond the calendar or spans ages is the caller's mistake, with the parameter named."""
    with pytest.raises(BadRequest) as error:
        await spend.spend_logs(MemoryRecords(), query)
    assert error.value.param in {"start_date", "end_date"}


async def test_global_spend() -> None:
    """All that was spent, exactly, beside the budget."""
    records = await records_of(*(row(f"r{n}", cost_nano=100_000_000) for n in range(3)))
    assert await spend.global_spend(records, 10.0) == {"spend": 0.3, "max_budget": 10.0}


async def test_global_spend_by_day_and_model() -> None:
    """The last thirty days in order, and models by what they cost."""
    records = await records_of(
        row("a"), row("b", model="gpt-5", cost_nano=10**9), row("c", started_at=NOON - 40 * 86_400)
    )
    assert await spend.global_spend_logs(records, NOON) == [{"date": "2026-11-21", "spend": 1.123456789}]
    assert await spend.global_spend_models(records, {"limit": "1"}) == [
        {"model": "gpt-5", "total_spend": 1.0}
    ]
    with pytest.raises(BadRequest):
        await spend.global_spend_models(records, {"limit": "-1"})


async def test_the_last_thirty_days_are_whole() -> None:
    """The first of thirty days counts from its first second, and the day before it not at all."""
    first = NOON // 86_400 * 86_400 - 29 * 86_400
    records = await records_of(row("a", started_at=first), row("b", started_at=first - 1))
    assert [day["date"] for day in await spend.global_spend_logs(records, NOON)] == ["2026-10-23"]


async def test_many_rows() -> None:
    """A long report is complete although it is made in portions."""
    records = await records_of(*(row(f"r{n}") for n in range(450)))
    assert len(await spend.spend_logs(records, {})) == 450
