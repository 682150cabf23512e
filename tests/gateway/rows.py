"""Ledger rows for tests: a plain successful request, and what is asked for instead."""

from __future__ import annotations

from typing import Any

from gateway.state.records import AttemptRow, LedgerRow, flatten, make_row

NOON = 1_795_262_400.0
"""2026-11-21 12:00:00 UTC."""

PLAIN = make_row(
    id="req-plain",
    call_id="call-1",
    answer_id="chatcmpl-1",
    started_at=NOON,
    endpoint="/v1/chat/completions",
    operation="chat",
    client_format="openai",
    stream=True,
    provider="openai",
    provider_format="openai",
    model_requested="smart",
    model_group="smart",
    model="gpt-4o",
    deployment_id="d1",
    api_base="https://api.openai.com",
    end_user="alice",
    tags=("blue", "green"),
    client_ip="192.0.2.7",
    user_agent="curl/8",
    http_status=200,
    finish="stop",
    input=10,
    cache_read=5,
    output=20,
    reasoning=4,
    usage_source="reported",
    cost_nano=123_456_789,
    price_source="table",
    cost_source="price",
    attempts=(
        AttemptRow("d0", "gpt-4o", "azure", 503, "upstream_overloaded", 40),
        AttemptRow("d1", "gpt-4o", "openai", 200, "", 700, possible_duplicate=True),
    ),
    retries=1,
    ttfb_us=200_000,
    total_us=800_000,
    overhead_us=300,
)


def row(name: str = "req-plain", **fields: Any) -> LedgerRow:
    """A successful request with this id, with `fields` instead of the usual ones."""
    return make_row(**{**flatten(PLAIN), "id": name, **fields})


def failure(name: str = "req-failed", **fields: Any) -> LedgerRow:
    """A request that no deployment answered."""
    usual: dict[str, Any] = {
        "status": "failure",
        "http_status": 503,
        "reason": "upstream_overloaded",
        "error_message": "no capacity",
        "usage_source": "none",
        "cost_nano": 0,
        "cost_source": "none",
        "input": 0,
        "cache_read": 0,
        "output": 0,
        "reasoning": 0,
        "attempts": PLAIN.attempts[:1],
    }
    return row(name, **(usual | fields))
