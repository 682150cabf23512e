"""Every Prometheus series in one place.

`SERIES` is the documented table: name, kind, labels, meaning. Whatever is exported stands there, and tests compare the
two. The `penstock_*` series are our own words; the `litellm_*` ones carry the names and the labels that existing
dashboards query, fed from the same rows, so both always agree.

**Cheap.** Requests of one kind (`gateway.state.records`) feed the same series, so a finished request costs one look-up of
its kind's cell and a few additions there, of integers. What has gathered in the cells is spread over the tables of series
when somebody asks for the numbers (`render`) or when there are many cells. Money is summed as nano-dollars, time as
microseconds; they become dollars and seconds in the exposition.

**Bounded.** Clients choose some of the words that could become labels, so each is tamed. A model's name is shown if a
route has it or a provider has answered to it, else it is `unknown`. All tables together hold at most `max_series` series;
beyond that, new combinations are counted under `other`. Addresses, user agents and end users are never labels.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from operator import add
from typing import Literal, TypeAlias

from msgspec import Struct
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from adapters.types import NO_UNITS
from gateway.state.records import OUTRUN, TOKENS, UNITS, AttemptRow, Kind, LedgerRow, usd

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 420, 600)
"""Buckets of whole requests, as existing dashboards know them."""
MOMENTS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
"""Buckets of what the gateway itself takes."""

MAX_SERIES = 5_000
PER_DOLLAR = 10**9
_MOST_CELLS = 256
"""Kinds that gather numbers before they go into the tables, which takes some 20 us each."""
_LEARNED = 100
"""Names of models beyond the configured ones that an answer makes known."""
_LONGEST_LABEL = 120


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
        "Requests refused before it was known who asked; they leave no ledger row",
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

_EXCEPTIONS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    408: "Timeout",
    413: "BadRequestError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    502: "BadGatewayError",
    503: "ServiceUnavailableError",
    504: "Timeout",
}
Labels: TypeAlias = tuple[str, ...]


class DeploymentState(Struct, frozen=True):
    """How a deployment is, for the gauges. `state`: 0 healthy, 1 failing at times, 2 cooling down."""

    deployment_id: str
    model: str
    provider: str
    api_base: str
    state: Literal[0, 1, 2]


class BudgetState(Struct, frozen=True):
    """What is left of a key's budget, or of the whole gateway's (`hashed_key` None), in nano-dollars; `hours` until it begins
    anew, None if it never does.
    """

    hashed_key: str | None
    alias: str
    left: int
    hours: float | None


class Metrics:
    """The numbers of one gateway. Several may live in one process; nothing is global.

    `known_models` are the names of the routes and of the deployments' models. Set the `watch_*` attributes to functions
    that give the numbers which others hold; they are asked at each `render`.
    """

    def __init__(
        self, version: str = "", *, known_models: Iterable[str] = (), max_series: int = MAX_SERIES
    ) -> None:
        self.in_flight = 0
        """Requests that are under way; the pipeline adds and subtracts."""
        self.loop_lag = 0.0
        """Seconds; a worker measures it."""
        self.watch_deployments: Callable[[], Iterable[DeploymentState]] = tuple
        self.watch_ledger: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Rows that wait, rows that were dropped."""
        self.watch_workers: Callable[[], Iterable[tuple[str, int]]] = tuple
        """Name and restarts of each background worker."""
        self.watch_log_drops: Callable[[], int] = lambda: 0
        self.watch_queue: Callable[[], tuple[int, Mapping[str, int]]] = lambda: (0, {})
        """How many wait for a deployment, and how many were not served, by reason."""
        self.watch_concurrency: Callable[[], Iterable[tuple[str, int]]] = tuple
        """By deployment: how many requests at once it is known to take."""
        self.watch_retries: Callable[[], int] = lambda: 0
        """Further attempts that were not made."""
        self.watch_cooldowns: Callable[[], Iterable[tuple[Labels, int]]] = tuple
        """How often deployments were left out, by labels."""
        self.watch_records: Callable[[], bool] = lambda: False
        """Whether the store is away."""
        self.watch_credentials: Callable[[], int] = lambda: 0
        """Named credentials that cannot be opened."""
        self.watch_journal: Callable[[], tuple[int, bool]] = lambda: (0, False)
        """Its bytes, and whether it fails."""
        self.watch_retention: Callable[[], tuple[int, float]] = lambda: (0, 0.0)
        """Rows that were pruned, and when the last round ended."""
        self.watch_config: Callable[[], tuple[bool, float]] = lambda: (True, 0.0)
        """Whether the last reload went well, and when the configuration in force was read."""
        self.watch_budgets: Callable[[], Iterable[BudgetState]] = tuple
        self.watch_spending: Callable[[], Iterable[tuple[str, str, int]]] = tuple
        """`provider` or `deployment`, its name or id, and the nano-dollars that are left of its budget."""
        self.watch_fleet: Callable[[], int] = lambda: 1
        """How many processes tell each other of their deployments."""
        self.watch_shared: Callable[[], bool] = lambda: True
        """Whether what replicas share can be asked."""
        self._version = version
        self._cells: dict[Kind, _Cell] = {}
        self._lock = threading.Lock()
        """Held by whoever changes cells or tables: a scrape is answered in a thread of its own."""
        self._room = _Room(max_series)
        self._counters = {s.name: _Counter(s, self._room) for s in SERIES if s.kind == "counter"}
        self._histograms = {s.name: _Histogram(s, self._room) for s in SERIES if s.kind == "histogram"}
        self._known: frozenset[str] = frozenset()
        self._learned: set[str] = set()
        self.know(known_models)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Exposition(self))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def know(self, models: Iterable[str]) -> None:
        """These names may be labels; call it again after a reload of the configuration."""
        with self._lock:
            self._empty_cells()
            self._known = frozenset(models)

    def refused(self, reason: str) -> None:
        """A request was refused before it was known who asked."""
        with self._lock:
            self._counters["penstock_unidentified_refusals_total"].add((reason,))

    def hedged(self, outcome: str) -> None:
        """Another deployment was to be asked beside a slow one."""
        with self._lock:
            self._counters["penstock_hedges_total"].add((outcome,))

    def recovered(self, outcome: str) -> None:
        """A stream broke that another deployment might continue."""
        with self._lock:
            self._counters["penstock_stream_recoveries_total"].add((outcome,))

    def waited(self, model: str, seconds: float) -> None:
        """A request has waited for a deployment of this route."""
        _Stopwatch(self._histograms["penstock_queue_wait_seconds"], (model,), self._lock).observe(seconds)

    def management(self, path: str) -> _Stopwatch:
        """What takes the seconds of a management request, for `prometheus_async.aio.time`; `path` is a template."""
        histogram = self._histograms["penstock_management_duration_seconds"]
        return _Stopwatch(histogram, (path,), self._lock)

    def observe(self, rows: Sequence[LedgerRow]) -> None:
        """Count finished requests; a listener of the ledger."""
        cells = self._cells
        with self._lock:
            for row in rows:
                kind = row.kind
                cell = cells.get(kind)
                if cell is None:
                    if len(cells) >= _MOST_CELLS:
                        self._empty_cells()
                    cell = cells[kind] = _Cell(kind)
                cell.add(row)
                for attempt in row.tried:
                    self._count_attempts(kind, attempt, 1)
                if kind.fallbacks:
                    self._count_fallback(row)

    def render(self) -> tuple[bytes, str]:
        """All series in Prometheus' text format, and its content type. Tens of milliseconds when thousands are held."""
        with self._lock:
            self._empty_cells()
        return generate_latest(self._registry), CONTENT_TYPE

    # -- from cells to series ----------------------------------------------------------------------------------------

    def _empty_cells(self) -> None:
        for kind, cell in self._cells.items():
            self._count_requests(kind, cell)
            self._count_usage(kind, cell)
            if cell.answered:
                answer = AttemptRow(kind.deployment_id, kind.model, kind.provider, kind.http_status)
                self._count_attempts(kind, answer, cell.answered)
        self._cells.clear()

    def _count_requests(self, kind: Kind, cell: _Cell) -> None:
        counters, histograms = self._counters, self._histograms
        count = cell.requests
        group = self._group(kind)
        provider, code = kind.provider, str(kind.http_status)
        key, deployment = _key(kind), (self._id(kind.deployment_id, kind.model), provider)
        labels: Labels = (kind.endpoint, group, provider, f"{code[0]}xx", kind.reason)
        counters["penstock_requests_total"].add(labels, count, count)
        labels = (*key, group, code, kind.endpoint, *deployment)
        counters["litellm_proxy_total_requests_metric_total"].add(labels, count, count)
        if kind.status == "failure":
            labels = (*key, group, code, _exception(kind.http_status), kind.endpoint, *deployment)
            counters["litellm_proxy_failed_requests_metric_total"].add(labels, count, count)
        requested = (self._model(kind.model_requested),)
        if kind.retries:
            counters["penstock_retries_total"].add(requested, count * kind.retries, count)
        if kind.fallbacks:
            counters["penstock_fallbacks_total"].add(requested, count * kind.fallbacks, count)
        histograms["penstock_request_duration_seconds"].add((group, provider), cell.whole)
        histograms["penstock_overhead_seconds"].add((), cell.overhead)
        if kind.status != "success":
            return
        labels = (group, self._model(kind.model), *deployment)
        histograms["litellm_request_total_latency_metric"].add(labels, cell.whole)
        histograms["litellm_llm_api_latency_metric"].add(labels, cell.upstream)
        histograms["penstock_time_to_first_token_seconds"].add((group, provider), cell.first_token)
        histograms["litellm_llm_api_time_to_first_token_metric"].add(labels, cell.first_token)
        histograms["litellm_deployment_latency_per_output_token"].add(self._deployment(kind), cell.per_token)

    def _count_usage(self, kind: Kind, cell: _Cell) -> None:
        if kind.usage_source == "none":
            return
        counters, count = self._counters, cell.requests
        ours = (self._group(kind), kind.provider)
        theirs = (
            *_key(kind),
            self._model(kind.model),
            ours[0],
            self._id(kind.deployment_id, kind.model),
            kind.provider,
        )
        for bucket in TOKENS:
            if tokens := getattr(cell, bucket):
                counters["penstock_tokens_total"].add((*ours, bucket), tokens, count)
        for unit in UNITS:
            if amount := getattr(cell.units, unit):
                counters["penstock_units_total"].add((*ours, unit), amount, count)
        prompt = cell.input + cell.cache_read + cell.cache_write + cell.cache_write_1h
        prompt += cell.audio_input + cell.image_input
        completion = cell.output + cell.reasoning + cell.audio_output + cell.image_output
        counters["litellm_requests_metric_total"].add(theirs, count, count)
        counters["litellm_input_tokens_metric_total"].add(theirs, prompt, count)
        counters["litellm_output_tokens_metric_total"].add(theirs, completion, count)
        counters["litellm_total_tokens_metric_total"].add(theirs, prompt + completion, count)
        if kind.usage_source == "estimated":
            counters["penstock_estimated_usage_requests_total"].add(ours, count, count)
        if cell.unpriced:
            counters["penstock_unpriced_requests_total"].add(ours, cell.unpriced, cell.unpriced)
        if priced := count - cell.unpriced:
            counters["penstock_spend_dollars_total"].add(ours, cell.cost_nano, priced)
            counters["litellm_spend_metric_total"].add(theirs, cell.cost_nano, priced)

    def _count_attempts(self, kind: Kind, attempt: AttemptRow, count: int) -> None:
        """So many attempts that ended as this one did."""
        counters = self._counters
        deployment_id = self._id(attempt.deployment_id, attempt.model)
        base = kind.api_base if attempt.deployment_id == kind.deployment_id else ""
        labels = (self._group(kind), self._model(attempt.model), deployment_id, base, attempt.provider)
        counters["litellm_deployment_total_requests_total"].add(labels, count, count)
        if attempt.reason and attempt.reason != OUTRUN:
            failure = (*labels, str(attempt.status), _exception(attempt.status))
            counters["litellm_deployment_failure_responses_total"].add(failure, count, count)
        elif not attempt.reason:
            counters["litellm_deployment_success_responses_total"].add(labels, count, count)
        ours = (deployment_id, attempt.provider, attempt.reason)
        counters["penstock_upstream_attempts_total"].add(ours, count, count)

    def _count_fallback(self, row: LedgerRow) -> None:
        kind = row.kind
        if kind.status not in {"success", "failure"}:
            return
        first = next((one for one in row.tried if one.reason and one.reason != OUTRUN), None)
        error = ("", "") if first is None else (str(first.status), _exception(first.status))
        labels = (self._model(kind.model_requested), self._group(kind), *_key(kind), *error)
        name = "successful" if kind.status == "success" else "failed"
        deployment_id = self._id(kind.deployment_id, kind.model)
        self._counters[f"litellm_deployment_{name}_fallbacks_total"].add((*labels, deployment_id))

    def _deployment(self, kind: Kind) -> Labels:
        deployment_id = self._id(kind.deployment_id, kind.model)
        return (self._group(kind), self._model(kind.model), deployment_id, kind.api_base, kind.provider)

    def _group(self, kind: Kind) -> str:
        name = kind.model_group or kind.model_requested
        if kind.status == "success":
            self._learn(name)
            self._learn(kind.model)
        return self._model(name)

    def _model(self, name: str) -> str:
        return name if not name or name in self._known or name in self._learned else "unknown"

    def _id(self, deployment_id: str, model: str) -> str:
        """Wildcards make deployments on the spot: one of an unknown model is as unknown."""
        return deployment_id if self._model(model) == model else "unknown"

    def _learn(self, name: str) -> None:
        if name and len(self._learned) < _LEARNED and name not in self._known:
            self._learned.add(name)


def _key(kind: Kind) -> Labels:
    return (kind.key_digest or kind.caller_kind, kind.key_alias or "")


def _exception(status: int) -> str:
    return _EXCEPTIONS.get(status, "APIConnectionError" if not status else "InternalServerError")


# -- cells -----------------------------------------------------------------------------------------------------------


class _Spread:
    """Microseconds: how many in each bucket (the last one is above all bounds), and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, us: float) -> None:
        self.counts[bisect_left(self.bounds, us)] += 1
        self.sum += us

    def merge(self, other: _Spread) -> None:
        self.counts = list(map(add, self.counts, other.counts))
        self.sum += other.sum


def _bounds(name: str) -> tuple[int, ...]:
    """A histogram's bounds in microseconds."""
    return next(tuple(round(bound * 1e6) for bound in s.buckets) for s in SERIES if s.name == name)


_WHOLE = _bounds("penstock_request_duration_seconds")
_OVERHEAD = _bounds("penstock_overhead_seconds")
_PER_TOKEN = _bounds("litellm_deployment_latency_per_output_token")


class _Cell:
    """What requests of one kind have added since the cells were emptied."""

    __slots__ = (
        *TOKENS,
        "answered",
        "cost_nano",
        "first_token",
        "is_answered",
        "is_stream",
        "overhead",
        "per_token",
        "requests",
        "units",
        "unpriced",
        "upstream",
        "whole",
    )

    def __init__(self, kind: Kind) -> None:
        self.is_answered = kind.status == "success"
        self.is_stream = kind.stream
        self.requests = 0
        self.answered = 0
        """Requests whose only attempt answered; the others' attempts are counted at once."""
        self.whole = _Spread(_WHOLE)
        self.overhead = _Spread(_OVERHEAD)
        self.upstream = _Spread(_WHOLE)
        self.first_token = _Spread(_WHOLE)
        self.per_token = _Spread(_PER_TOKEN)
        self.cost_nano = 0
        self.unpriced = 0
        self.input = self.cache_read = self.cache_write = self.cache_write_1h = self.audio_input = 0
        self.output = self.reasoning = self.audio_output = self.image_input = self.image_output = 0
        self.units = NO_UNITS

    def add(self, row: LedgerRow) -> None:
        """1.2 us."""
        self.requests += 1
        if row.answer_ms is not None:
            self.answered += 1
        us = row.total_us
        self.whole.add(us)
        if row.overhead_us is not None:
            self.overhead.add(row.overhead_us)
            us = max(0, us - row.overhead_us)
        usage = row.usage
        if self.is_answered:
            self.upstream.add(us)
            if self.is_stream and row.ttfb_us is not None:
                self.first_token.add(row.ttfb_us)
            if said := usage.output + usage.reasoning:
                self.per_token.add(us / said)
        if row.cost_nano is None:
            self.unpriced += 1
        else:
            self.cost_nano += row.cost_nano
        self.input += usage.input
        self.cache_read += usage.cache_read
        self.cache_write += usage.cache_write
        self.cache_write_1h += usage.cache_write_1h
        self.audio_input += usage.audio_input
        self.output += usage.output
        self.reasoning += usage.reasoning
        self.audio_output += usage.audio_output
        self.image_input += usage.image_input
        self.image_output += usage.image_output
        if usage.units is not NO_UNITS:
            self.units += usage.units


# -- tables ----------------------------------------------------------------------------------------------------------

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def _tame(labels: Labels) -> Labels:
    """Labels as they may be exported. Before they are counted: two that look the same must be the same series."""
    return tuple(_UNPRINTABLE.sub("?", label[:_LONGEST_LABEL]) for label in labels)


class _Room:
    """How many more series may be made, for all tables together."""

    def __init__(self, free: int) -> None:
        self._free = free
        self.overflowed = 0

    def take(self, count: int, observations: int) -> bool:
        if self._free < count:
            self.overflowed += observations
            return False
        self._free -= count
        return True


class _Counter:
    """Integers by labels."""

    def __init__(self, series: Series, room: _Room) -> None:
        self.series = series
        self._room = room
        self._other = ("other",) * len(series.labels)
        self.values: dict[Labels, int] = {}

    def add(self, labels: Labels, amount: int = 1, observations: int = 1) -> None:
        values = self.values
        if labels not in values:
            labels = _tame(labels)
            if labels not in values and not self._room.take(1, observations):
                labels = self._other
            values.setdefault(labels, 0)
        values[labels] += amount


class _Histogram:
    """Spreads by labels."""

    def __init__(self, series: Series, room: _Room) -> None:
        self.series = series
        self._room = room
        self._other = ("other",) * len(series.labels)
        self._bounds = _bounds(series.name)
        self.spreads: dict[Labels, _Spread] = {}

    def add(self, labels: Labels, added: _Spread) -> None:
        observations = sum(added.counts)
        if not observations:
            return
        spread = self.spreads.get(labels)
        if spread is None:
            labels = _tame(labels)
            if labels not in self.spreads and not self._room.take(len(added.counts) + 2, observations):
                labels = self._other
            spread = self.spreads.setdefault(labels, _Spread(self._bounds))
        spread.merge(added)


# -- exposition ------------------------------------------------------------------------------------------------------


class _Stopwatch:
    """One series of a histogram, as `prometheus_client` would have it."""

    def __init__(self, histogram: _Histogram, labels: Labels, lock: threading.Lock) -> None:
        self._histogram = histogram
        self._labels = labels
        self._lock = lock

    def observe(self, value: float) -> None:
        spread = _Spread(_bounds(self._histogram.series.name))
        spread.add(value * 1e6)
        with self._lock:
            self._histogram.add(self._labels, spread)


class _Exposition(Collector):
    """What `prometheus_client` asks for: all tables as metric families."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """In the order of `SERIES`. Tables are copied first, so that another thread may render."""
        gauges, outside = self._gauges(), self._outside()
        for series in SERIES:
            if series.kind == "gauge":
                yield _gauge(series, gauges[series.name])
            elif series.kind == "histogram":
                yield _histogram(self._metrics._histograms[series.name])  # noqa: SLF001 - the two are one
            else:
                counter = self._metrics._counters[series.name]  # noqa: SLF001 - as above
                yield _counter(series, outside.get(series.name) or list(counter.values.items()))

    def _gauges(self) -> dict[str, list[tuple[Labels, float]]]:
        metrics = self._metrics
        deployments = list(metrics.watch_deployments())
        budgets = list(metrics.watch_budgets())
        spending = list(metrics.watch_spending())
        of_keys = [(b.hashed_key, b.alias, b.left, b.hours) for b in budgets if b.hashed_key is not None]
        return {
            "penstock_fleet_processes": [((), metrics.watch_fleet())],
            "penstock_shared_degraded": [((), 0 if metrics.watch_shared() else 1)],
            "penstock_gateway_budget_remaining_dollars": [
                ((), b.left / PER_DOLLAR) for b in budgets if b.hashed_key is None
            ],
            "litellm_provider_remaining_budget_metric": [
                ((name,), left / PER_DOLLAR) for owner, name, left in spending if owner == "provider"
            ],
            "penstock_deployment_budget_remaining_dollars": [
                ((name,), left / PER_DOLLAR) for owner, name, left in spending if owner == "deployment"
            ],
            "litellm_remaining_api_key_budget_metric": [
                ((key, alias), left / PER_DOLLAR) for key, alias, left, _ in of_keys
            ],
            "litellm_api_key_budget_remaining_hours_metric": [
                ((key, alias), hours) for key, alias, _, hours in of_keys if hours is not None
            ],
            "penstock_in_flight_requests": [((), metrics.in_flight)],
            "penstock_queue_waiting": [((), metrics.watch_queue()[0])],
            "penstock_deployment_concurrency_limit": [
                ((name,), places) for name, places in metrics.watch_concurrency()
            ],
            "penstock_ledger_queue": [((), metrics.watch_ledger()[0])],
            "penstock_records_away": [((), int(metrics.watch_records()))],
            "penstock_credentials_unreadable": [((), metrics.watch_credentials())],
            "penstock_ledger_journal_bytes": [((), metrics.watch_journal()[0])],
            "penstock_ledger_journal_failing": [((), int(metrics.watch_journal()[1]))],
            "penstock_ledger_pruned_at_seconds": [((), metrics.watch_retention()[1])],
            "penstock_config_last_reload_successful": [((), int(metrics.watch_config()[0]))],
            "penstock_config_last_reload_success_timestamp_seconds": [((), metrics.watch_config()[1])],
            "penstock_event_loop_lag_seconds": [((), metrics.loop_lag)],
            "penstock_worker_processes": [((), 1)],
            "penstock_build_info": [((metrics._version,), 1)],  # noqa: SLF001 - as above
            "penstock_upstream_state": [
                ((d.deployment_id, d.model, d.provider), d.state) for d in deployments
            ],
            "litellm_deployment_state": [
                ((d.model, d.deployment_id, d.api_base, d.provider), d.state) for d in deployments
            ],
        }

    def _outside(self) -> dict[str, list[tuple[Labels, int]]]:
        """Counters that others hold."""
        metrics = self._metrics
        return {
            "penstock_ledger_dropped_total": [((), metrics.watch_ledger()[1])],
            "penstock_ledger_pruned_total": [((), metrics.watch_retention()[0])],
            "penstock_log_dropped_total": [((), metrics.watch_log_drops())],
            "penstock_retries_refused_total": [((), metrics.watch_retries())],
            "penstock_queue_refused_total": [
                ((reason,), count) for reason, count in metrics.watch_queue()[1].items()
            ],
            "litellm_deployment_cooled_down_total": list(metrics.watch_cooldowns()),
            "penstock_worker_restarts_total": [((name,), count) for name, count in metrics.watch_workers()],
            "penstock_metrics_overflow_total": [((), metrics._room.overflowed)],  # noqa: SLF001 - as above
        }


def _gauge(series: Series, values: Iterable[tuple[Labels, float]]) -> Metric:
    family = GaugeMetricFamily(series.name, series.help, labels=series.labels)
    for labels, value in {_tame(labels): value for labels, value in values}.items():
        family.add_metric(labels, value)
    return family


def _counter(series: Series, values: Iterable[tuple[Labels, int]]) -> Metric:
    is_money = "spend" in series.name
    family = CounterMetricFamily(series.name, series.help, labels=series.labels)
    for labels, value in values:
        family.add_metric(labels, usd(value) if is_money else value)
    return family


def _histogram(histogram: _Histogram) -> Metric:
    series = histogram.series
    bounds = [*map(str, map(float, series.buckets)), "+Inf"]
    family = HistogramMetricFamily(series.name, series.help, labels=series.labels)
    for labels, spread in list(histogram.spreads.items()):
        buckets = list(zip(bounds, map(float, accumulate(spread.counts)), strict=True))
        family.add_metric(labels, buckets, spread.sum / 1e6)
    return family
