"""What was spent: the ledger's rows and their sums, in the shapes that LiteLLM's clients and dashboards read.

Plain functions of the records and the query string; nothing here knows of HTTP. Amounts are integers until the last step
and leave as dollars. A row whose price is unknown shows `spend` 0 as that shape demands, and `metadata.penstock.cost_nano`
null, which is the truth.

Users of the gateway come with tenants; until then `user` and `user_id` mean the `user` that the caller named in its request.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from adapters.errors import BadRequest
from gateway.state.records import TOKENS, UNITS, LedgerQuery, LedgerRow, Records, Total, usd

_MOST_ROWS = 10_000
_MOST_DAYS = 3_660
_CHUNK = 200
"""Rows that are turned into JSON values in one go, about a millisecond; then it is the streams' turn."""

_CALL_TYPES = {
    "chat": "acompletion",
    "completions": "atext_completion",
    "embeddings": "aembedding",
    "count_tokens": "acount_tokens",
    "rerank": "arerank",
    "images": "aimage_generation",
    "speech": "aspeech",
    "transcriptions": "atranscription",
    "translations": "atranscription",
}


async def spend_logs(records: Records, query: Mapping[str, str]) -> list[dict[str, Any]]:
    """`GET /spend/logs`: rows, newest first, at most 10 000; with both dates, sums per day unless `summarize=false`.

    Filters: `request_id`, `api_key` (the key or its digest), `user_id`, `start_date` and `end_date` (`YYYY-MM-DD` in UTC,
    both inclusive, or a time of ISO 8601). Raises `BadRequest` for a date that is none.
    """
    since, until = _moment(query, "start_date"), _moment(query, "end_date", is_end=True)
    if since is not None and until is not None and until <= since:
        raise BadRequest("end_date lies before start_date", param="end_date")
    wanted = LedgerQuery(
        id=query.get("request_id") or None,
        key_digest=_digest(query.get("api_key", "")),
        end_user=query.get("user_id") or None,
        since=since.timestamp() if since else None,
        until=until.timestamp() if until else None,
    )
    if since is not None and until is not None and _is_true(query.get("summarize", "true")):
        return await _per_day(records, wanted, since, until)
    shown: list[dict[str, Any]] = []
    for row in await records.rows(wanted, _MOST_ROWS):
        shown.append(spend_log(row))
        if not len(shown) % _CHUNK:
            await asyncio.sleep(0)
    return shown


async def global_spend(records: Records, max_budget: float | None = None) -> dict[str, Any]:
    """`GET /global/spend`: all that was ever spent, in dollars, and the gateway's budget."""
    (total,) = await records.totals()
    return {"spend": usd(total.cost_nano), "max_budget": max_budget}


async def global_spend_logs(records: Records, now: float) -> list[dict[str, Any]]:
    """`GET /global/spend/logs`: dollars per day of the last thirty, oldest first. `now` is unix seconds."""
    month = LedgerQuery(since=now // 86_400 * 86_400 - 29 * 86_400)  # whole days, today among them
    return [
        {"date": total.group[0], "spend": usd(total.cost_nano)}
        for total in await records.totals(["day"], month)
    ]


async def global_spend_models(records: Records, query: Mapping[str, str]) -> list[dict[str, Any]]:
    """`GET /global/spend/models`: dollars per model, the dearest first; `limit` of them (10)."""
    totals = await records.totals(["model"])
    totals.sort(key=lambda total: -total.cost_nano)
    return [
        {"model": total.group[0], "total_spend": usd(total.cost_nano)}
        for total in totals[: _count(query, "limit", 10)]
    ]


# -- one row ---------------------------------------------------------------------------------------------------------


def spend_log(row: LedgerRow) -> dict[str, Any]:
    """A ledger row as LiteLLM shows it (the table `LiteLLM_SpendLogs`)."""
    total = row.prompt_tokens + row.completion_tokens
    return {
        "request_id": row.id,
        "call_type": _call_type(row),
        "api_key": row.key_digest or "",
        "spend": usd(row.cost_nano),
        "total_tokens": total,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "startTime": _iso(row.started_at),
        "endTime": _iso(row.ended_at),
        "completionStartTime": None if row.first_token_at is None else _iso(row.first_token_at),
        "request_duration_ms": round(row.total_us / 1000),
        "model": row.model or row.model_requested,
        "model_id": row.deployment_id,
        "model_group": row.model_group,
        "custom_llm_provider": row.provider,
        "api_base": row.api_base,
        "user": row.end_user or "",
        "metadata": _metadata(row),
        "cache_hit": str(row.cache_hit),
        "cache_key": "",
        "request_tags": list(row.tags),
        "team_id": None,
        "organization_id": None,
        "end_user": row.end_user or "",
        "requester_ip_address": row.client_ip,
        "messages": {},
        "response": {},
        "proxy_server_request": {},
        "session_id": row.session_id,
        "status": _status(row),
        "litellm_call_id": row.call_id or row.id,
    }


def _metadata(row: LedgerRow) -> dict[str, Any]:
    failed = _status(row) == "failure"
    return {
        "status": _status(row),
        "user_api_key": row.key_digest,
        "user_api_key_alias": row.key_alias,
        "user_api_key_end_user_id": row.end_user,
        "user_api_key_request_route": row.endpoint,
        "requester_ip_address": row.client_ip,
        "user_agent": row.user_agent,
        "attempted_retries": row.retries,
        "attempted_fallbacks": row.fallbacks,
        "original_model_group": row.model_requested,
        "litellm_overhead_time_ms": None if row.overhead_us is None else row.overhead_us / 1000,
        "usage_object": {
            "prompt_tokens": row.prompt_tokens,
            "completion_tokens": row.completion_tokens,
            "total_tokens": row.prompt_tokens + row.completion_tokens,
            "cache_read_input_tokens": row.cache_read,
            "cache_creation_input_tokens": row.cache_write + row.cache_write_1h,
            "prompt_tokens_details": {
                "cached_tokens": row.cache_read,
                "cache_creation_tokens": row.cache_write + row.cache_write_1h,
                "audio_tokens": row.audio_input,
                "image_tokens": row.image_input,
            },
            "completion_tokens_details": {
                "reasoning_tokens": row.reasoning,
                "audio_tokens": row.audio_output,
                "image_tokens": row.image_output,
            },
        },
        "error_information": {
            "error_code": str(row.http_status),
            "error_class": row.reason,
            "llm_provider": row.provider,
            "error_message": row.error_message,
        }
        if failed
        else None,
        "penstock": _own_words(row),
    }


def _own_words(row: LedgerRow) -> dict[str, Any]:
    """What we know and that shape has no place for."""
    return {
        "status": row.status,
        "http_status": row.http_status,
        "reason": row.reason,
        "caller": row.caller_kind,
        "answer_id": row.answer_id,
        "stream": row.stream,
        "finish": row.finish,
        "mock": row.mock,
        "cost_nano": row.cost_nano,
        "cost_source": row.cost_source,
        "price_source": row.price_source,
        "service_tier": row.service_tier,
        "usage_source": row.usage_source,
        "tokens": {bucket: getattr(row.usage, bucket) for bucket in TOKENS},
        "units": {unit: getattr(row.usage.units, unit) for unit in UNITS},
        "timings_us": {
            "queue": None,  # these three are words that readers know; nobody measures them
            "auth": None,
            "connect": None,
            "ttfb": row.ttfb_us,
            "total": row.total_us,
            "overhead": row.overhead_us,
        },
        "attempts": [
            {
                "deployment_id": attempt.deployment_id,
                "model": attempt.model,
                "provider": attempt.provider,
                "status": attempt.status,
                "reason": attempt.reason,
                "ms": attempt.ms,
                "possible_duplicate": attempt.possible_duplicate,
            }
            for attempt in row.attempts
        ],
    }


def _call_type(row: LedgerRow) -> str:
    if row.operation == "chat" and row.client_format == "anthropic":
        return "anthropic_messages"
    return _CALL_TYPES.get(row.operation, row.operation)


def _status(row: LedgerRow) -> str:
    return "success" if row.status == "success" else "failure"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- sums per day ----------------------------------------------------------------------------------------------------


async def _per_day(
    records: Records, query: LedgerQuery, since: datetime, until: datetime
) -> list[dict[str, Any]]:
    days = _days(since, until)
    by_day: dict[str, list[Total]] = {day: [] for day in days}
    for total in await records.totals(["day", "end_user", "model", "key_digest"], query):
        by_day[total.group[0]].append(total)
    return [_day(day, totals) for day, totals in by_day.items()]


def _day(day: str, totals: Sequence[Total]) -> dict[str, Any]:
    """Dollars of a day: in all, per user, per model, and (as keys of their own) per key digest."""
    sums: list[dict[str, int]] = [{}, {}, {}]
    for total in totals:
        for names, name in zip(sums, total.group[1:], strict=True):
            names[name] = names.get(name, 0) + total.cost_nano
    users, models, keys = ({name: usd(nano) for name, nano in names.items()} for names in sums)
    keys.pop("", None)
    spend = usd(sum(total.cost_nano for total in totals))
    return {**keys, "startTime": day, "spend": spend, "users": users, "models": models}


def _days(since: datetime, until: datetime) -> list[str]:
    first, last = since.date(), (until - timedelta(microseconds=1)).date()
    count = (last - first).days + 1
    if count > _MOST_DAYS:
        raise BadRequest(f"The dates span {count} days; {_MOST_DAYS} are the most", param="start_date")
    return [(first + timedelta(days=day)).isoformat() for day in range(count)]


# -- the query string ------------------------------------------------------------------------------------------------


def _moment(query: Mapping[str, str], name: str, *, is_end: bool = False) -> datetime | None:
    """A date (as an end: the first moment after it) or a time, in UTC where it names no zone."""
    text = query.get(name)
    if not text:
        return None
    try:
        if len(text) == len("2026-01-31"):
            day = date.fromisoformat(text)
            return datetime.combine(day + timedelta(days=1) if is_end else day, time(), UTC)
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequest(f"{name} must be a date like 2026-01-31", param=name) from None


def _digest(api_key: str) -> str | None:
    if not api_key:
        return None
    return (
        hashlib.sha256(api_key.encode("utf-8", "replace")).hexdigest()
        if api_key.startswith("sk-")
        else api_key
    )


def _is_true(text: str) -> bool:
    return text.strip().lower() not in {"false", "0", "no"}


def _count(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise BadRequest(f"{name} must be a number", param=name)
    return int(text)
