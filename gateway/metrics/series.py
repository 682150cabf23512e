"""The table of every series: name, kind, labels, meaning.

Whatever is exported stands in `SERIES`, and tests compare the two; `docs/METRICS.md` is made from it. The `penstock_*` series
are our own words; the `litellm_*` ones carry the names and the labels that existing dashboards query.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

Labels: TypeAlias = tuple[str, ...]
"""The values of a series' labels, in the order of its row."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 420, 600)
"""Buckets of whole requests, as existing dashboards know them."""
MOMENTS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
"""Buckets of what the gateway itself takes."""


class Series(Struct, frozen=True):
    """One row of the table. `buckets` are the upper bounds of a histogram, in seconds."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


_KEY = ("hashed_api_key", "api_key_alias")
_MODEL = ("model", "requested_model", "model_id", "api_provider")
_DEPLOYMENT = ("model_group", "litellm_model_name", "model_id", "api_base", "api_provider")

SERIES: tuple[Series, ...] = (
    Series(
        "penstock_requests_total",
        "counter",
        ("endpoint", "model", "provider", "status_class", "reason"),
        "Finished requests; reason is empty for success",
    ),
    Series(
        "penstock_tokens_total",
        "counter",
        ("model", "provider", "bucket"),
        "Tokens, each in exactly one bucket: input, cache_read, cache_write, cache_write_1h, audio_input, image_input, "
        "output, reasoning, audio_output, image_output",
    ),
    Series(
        "penstock_units_total",
        "counter",
        ("model", "provider", "unit"),
        "What is billed and is no token: images, milliseconds of sound that went in, characters, searches",
    ),
    Series("penstock_spend_dollars_total", "counter", ("model", "provider"), "Cost in US dollars"),
    Series(
        "penstock_unpriced_requests_total",
        "counter",
        ("model", "provider"),
        "Requests whose cost is unknown because the model has no price",
    ),
    Series(
        "penstock_estimated_usage_requests_total",
        "counter",
        ("model", "provider"),
        "Requests whose tokens were estimated because the provider did not report them",
    ),
    Series(
        "penstock_request_duration_seconds",
        "histogram",
        ("model", "provider"),
        "First byte to last byte",
        SECONDS,
    ),
    Series(
        "penstock_time_to_first_token_seconds",
        "histogram",
        ("model", "provider"),
        "Arrival of a streaming request to the first event of its answer",
        SECONDS,
    ),
    Series(
        "penstock_overhead_seconds",
        "histogram",
        (),
        "What the gateway itself added before it asked the provider; only requests whose first attempt answered",
        MOMENTS,
    ),
    Series(
        "penstock_management_duration_seconds",
        "histogram",
        ("path",),
        "Requests to /health, /metrics, /v1/models and the other routes that are not a model's",
        MOMENTS,
    ),
    Series("penstock_in_flight_requests", "gauge", (), "Requests that are under way"),
    Series(
        "penstock_upstream_attempts_total",
        "counter",
        ("deployment", "provider", "reason"),
        "Times a deployment was asked, by outcome; reason is empty where it answered",
    ),
    Series(
        "penstock_upstream_state",
        "gauge",
        ("deployment", "model", "provider"),
        "0 healthy, 1 failing at times, 2 cooling down",
    ),
    Series(
        "penstock_retries_total",
        "counter",
        ("model",),
        "Attempts after the first one, by the model that was asked for",
    ),
    Series(
        "penstock_fallbacks_total",
        "counter",
        ("model",),
        "Moves to another route, by the model that was asked for",
    ),
    Series(
        "penstock_retries_refused_total",
        "counter",
        (),
        "Further attempts, retries and fallbacks, that were not made because `retry_budget` was used up",
    ),
    Series(
        "penstock_hedges_total",
        "counter",
        ("outcome",),
        "Other deployments that were to be asked beside a slow one (`hedging`): they `won`, `lost` or `failed`, were `refused` for "
        "want of budget, or there was `nobody`",
    ),
    Series(
        "penstock_stream_recoveries_total",
        "counter",
        ("outcome",),
        "Streams that broke (`stream_recovery`): another deployment `continued`, what was said cannot be continued (`unfit`), or "
        "there was `nobody` to ask",
    ),
    Series("penstock_queue_waiting", "gauge", (), "Requests that wait for room at a deployment right now"),
    Series(
        "penstock_queue_wait_seconds",
        "histogram",
        ("model",),
        "Time that requests waited for room at a deployment of the model, however that ended",
        SECONDS,
    ),
    Series(
        "penstock_queue_refused_total",
        "counter",
        ("reason",),
        "Requests that were not served in turn: `full`, too many waited already; `late`, nobody had room in time",
    ),
    Series(
        "penstock_deployment_concurrency_limit",
        "gauge",
        ("model_id",),
        "Requests at once that a deployment is known to take (`adaptive_concurrency`)",
    ),
    Series(
        "penstock_unidentified_refusals_total",
        "counter",
        ("reason",),
        "Requests refused before it was known who asked, and those to pages that the caller may not see; they leave no "
        "ledger row",
    ),
    Series("penstock_ledger_queue", "gauge", (), "Ledger rows that are not in the store yet"),
    Series("penstock_records_away", "gauge", (), "1 while the store of keys and spend cannot be used"),
    Series(
        "penstock_credentials_unreadable",
        "gauge",
        (),
        "Named credentials of the store that could not be opened when the routes were compiled",
    ),
    Series("penstock_ledger_dropped_total", "counter", (), "Ledger rows that never reached the store"),
    Series(
        "penstock_ledger_journal_bytes",
        "gauge",
        (),
        "What is kept on the local disk of rows that the store does not have, or had not lately",
    ),
    Series(
        "penstock_ledger_journal_failing",
        "gauge",
        (),
        "1 while rows that have to be kept on the local disk cannot be, for instance because it is full; 0 else",
    ),
    Series(
        "penstock_ledger_pruned_total",
        "counter",
        (),
        "Ledger rows deleted because they were older than `maximum_spend_logs_retention_period`",
    ),
    Series(
        "penstock_ledger_pruned_at_seconds",
        "gauge",
        (),
        "When rows that are too old were last looked for, all of them deleted, as unix time; 0: not yet",
    ),
    Series(
        "penstock_config_last_reload_successful",
        "gauge",
        (),
        "1 if the last reload of the configuration went well or there was none, 0 if it was refused and the old one serves",
    ),
    Series(
        "penstock_config_last_reload_success_timestamp_seconds",
        "gauge",
        (),
        "When the configuration that is in force was read, as unix time; 0: it cannot be reloaded",
    ),
    Series("penstock_log_dropped_total", "counter", (), "Log records that could not be written"),
    Series(
        "penstock_worker_restarts_total",
        "counter",
        ("worker",),
        "Restarts of background workers after a failure",
    ),
    Series(
        "penstock_shared_degraded",
        "gauge",
        (),
        "1 while Redis is away, and limits are what `limits_without_redis` says; 0 else",
    ),
    Series(
        "penstock_fleet_processes",
        "gauge",
        (),
        "Processes that tell each other of their deployments right now, this one included",
    ),
    Series(
        "penstock_gateway_budget_remaining_dollars",
        "gauge",
        (),
        "What is left of the whole gateway's `max_budget` in this period",
    ),
    Series("penstock_event_loop_lag_seconds", "gauge", (), "How late the event loop served its last timer"),
    Series(
        "penstock_metrics_overflow_total",
        "counter",
        (),
        "Observations counted under 'other': too many series",
    ),
    Series("penstock_worker_processes", "gauge", (), "Processes whose numbers these are (`--num_workers`)"),
    Series("penstock_build_info", "gauge", ("version",), "Always 1"),
    Series(
        "litellm_proxy_total_requests_metric_total",
        "counter",
        (*_KEY, "requested_model", "status_code", "route", "model_id", "api_provider"),
        "Finished requests",
    ),
    Series(
        "litellm_proxy_failed_requests_metric_total",
        "counter",
        (
            *_KEY,
            "requested_model",
            "exception_status",
            "exception_class",
            "route",
            "model_id",
            "api_provider",
        ),
        "Requests that failed",
    ),
    Series("litellm_requests_metric_total", "counter", (*_KEY, *_MODEL), "Requests that a model answered"),
    Series("litellm_input_tokens_metric_total", "counter", (*_KEY, *_MODEL), "Tokens that went in"),
    Series("litellm_output_tokens_metric_total", "counter", (*_KEY, *_MODEL), "Tokens that came out"),
    Series("litellm_total_tokens_metric_total", "counter", (*_KEY, *_MODEL), "Tokens in both directions"),
    Series("litellm_spend_metric_total", "counter", (*_KEY, *_MODEL), "Cost in US dollars"),
    Series(
        "litellm_request_total_latency_metric",
        "histogram",
        ("model_group", "model", "model_id", "api_provider"),
        "Seconds from first byte to last byte",
        SECONDS,
    ),
    Series(
        "litellm_llm_api_latency_metric",
        "histogram",
        ("model_group", "model", "model_id", "api_provider"),
        "Seconds of it that were the provider's",
        SECONDS,
    ),
    Series(
        "litellm_llm_api_time_to_first_token_metric",
        "histogram",
        ("model_group", "model", "model_id", "api_provider"),
        "Seconds to the first event of a stream",
        SECONDS,
    ),
    Series(
        "litellm_deployment_latency_per_output_token",
        "histogram",
        _DEPLOYMENT,
        "Seconds of the provider's time per token that came out",
        (0.001, 0.0025, *SECONDS[:9]),
    ),
    Series("litellm_deployment_success_responses_total", "counter", _DEPLOYMENT, "Attempts that answered"),
    Series(
        "litellm_deployment_failure_responses_total",
        "counter",
        (*_DEPLOYMENT, "exception_status", "exception_class"),
        "Attempts that failed",
    ),
    Series("litellm_deployment_total_requests_total", "counter", _DEPLOYMENT, "All attempts"),
    Series(
        "litellm_deployment_cooled_down_total",
        "counter",
        ("litellm_model_name", "model_id", "api_base", "api_provider", "exception_status"),
        "Times a deployment was left out after failures, by the provider's status",
    ),
    Series(
        "litellm_deployment_successful_fallbacks_total",
        "counter",
        ("requested_model", "fallback_model", *_KEY, "exception_status", "exception_class", "model_id"),
        "Requests that another model answered; the exception is the first attempt's, empty if nobody was asked before",
    ),
    Series(
        "litellm_deployment_failed_fallbacks_total",
        "counter",
        ("requested_model", "fallback_model", *_KEY, "exception_status", "exception_class", "model_id"),
        "Requests that the last of their fallbacks could not answer either",
    ),
    Series(
        "litellm_deployment_state",
        "gauge",
        ("litellm_model_name", "model_id", "api_base", "api_provider"),
        "0 healthy, 1 partial outage, 2 complete outage",
    ),
    Series(
        "litellm_provider_remaining_budget_metric",
        "gauge",
        ("api_provider",),
        "US dollars that are left of a provider's budget (`provider_budget_config`) in this period",
    ),
    Series(
        "penstock_deployment_budget_remaining_dollars",
        "gauge",
        ("model_id",),
        "What is left of a deployment's `max_budget` in this period",
    ),
    Series(
        "litellm_remaining_api_key_budget_metric",
        "gauge",
        _KEY,
        "US dollars that are left of a key's budget, of the one with least left",
    ),
    Series(
        "litellm_api_key_budget_remaining_hours_metric",
        "gauge",
        _KEY,
        "Hours until that budget begins anew",
    ),
)
