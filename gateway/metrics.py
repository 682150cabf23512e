"""Every Prometheus series in one place.

`SERIES` is the documented table: name, kind, labels, meaning. Whatever is exported stands there, and tests compare the
two. The `penstock_*` series are our own words; the `litellm_*` ones carry the names and the labels that existing
dashboards query, fed from the same rows, so both always agree.

**Cheap.** A finished request costs a few additions in plain dictionaries, in the event loop and without locks;
`prometheus_client` sees the numbers only when somebody asks for them (`render`). Money is summed as integer nano-dollars
and becomes dollars in the exposition.

**Bounded.** Clients choose some of the words that could become labels, so each is tamed. A model's name is shown if a
route has it or a provider has answered to it, else it is `unknown`. All tables together hold at most `max_series` series;
beyond that, new combinations are counted under `other`. Addresses, user agents and end users are never labels.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
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

from gateway.state.records import LedgerRow, usd

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 420, 600)
"""Buckets of whole requests, as existing dashboards know them."""
MOMENTS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
"""Buckets of what the gateway itself takes."""

MAX_SERIES = 5_000
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
        "Tokens, each in exactly one bucket: input, cache_read, cache_write, cache_write_1h, audio_input, output, "
        "reasoning, audio_output",
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
        "penstock_unidentified_refusals_total",
        "counter",
        ("reason",),
        "Requests refused before it was known who asked; they leave no ledger row",
    ),
    Series("penstock_ledger_queue", "gauge", (), "Ledger rows that are not in the store yet"),
    Series("penstock_ledger_dropped_total", "counter", (), "Ledger rows that never reached the store"),
    Series("penstock_log_dropped_total", "counter", (), "Log records that could not be written"),
    Series(
        "penstock_worker_restarts_total",
        "counter",
        ("worker",),
        "Restarts of background workers after a failure",
    ),
    Series("penstock_event_loop_lag_seconds", "gauge", (), "How late the event loop served its last timer"),
    Series(
        "penstock_metrics_overflow_total",
        "counter",
        (),
        "Observations counted under 'other': too many series",
    ),
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
        "litellm_deployment_state",
        "gauge",
        ("litellm_model_name", "model_id", "api_base", "api_provider"),
        "0 healthy, 1 partial outage, 2 complete outage",
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
_TOKENS = (
    "input",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "audio_input",
    "output",
    "reasoning",
    "audio_output",
)

Labels: TypeAlias = tuple[str, ...]


class DeploymentState(Struct, frozen=True):
    """How a deployment is, for the gauges. `state`: 0 healthy, 1 failing at times, 2 cooling down."""

    deployment_id: str
    model: str
    provider: str
    api_base: str
    state: Literal[0, 1, 2]


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
        self._version = version
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
        self._known = frozenset(models)

    def refused(self, reason: str) -> None:
        """A request was refused before it was known who asked."""
        self._counters["penstock_unidentified_refusals_total"].add((reason,))

    def management(self, path: str) -> _Stopwatch:
        """What takes the seconds of a management request, for `prometheus_async.aio.time`; `path` is a template."""
        return _Stopwatch(self._histograms["penstock_management_duration_seconds"], (path,))

    def observe(self, rows: Sequence[LedgerRow]) -> None:
        """Count finished requests; a listener of the ledger."""
        for row in rows:
            self._observe_request(row)
            self._observe_usage(row)
            self._observe_attempts(row)

    def render(self) -> tuple[bytes, str]:
        """All series in Prometheus' text format, and its content type. Tens of milliseconds when thousands are held."""
        return generate_latest(self._registry), CONTENT_TYPE

    # -- from a row to numbers ---------------------------------------------------------------------------------------

    def _observe_request(self, row: LedgerRow) -> None:
        counters, histograms = self._counters, self._histograms
        group = self._group(row)
        provider, code = row.provider, str(row.http_status)
        key, deployment = _key(row), (self._id(row.deployment_id, row.model), provider)
        counters["penstock_requests_total"].add((row.endpoint, group, provider, f"{code[0]}xx", row.reason))
        counters["litellm_proxy_total_requests_metric_total"].add(
            (*key, group, code, row.endpoint, *deployment)
        )
        if row.status == "failure":
            labels = (*key, group, code, _exception(row.http_status), row.endpoint, *deployment)
            counters["litellm_proxy_failed_requests_metric_total"].add(labels)
        if row.retries:
            counters["penstock_retries_total"].add((self._model(row.model_requested),), row.retries)
        if row.fallbacks:
            counters["penstock_fallbacks_total"].add((self._model(row.model_requested),), row.fallbacks)
        seconds = row.seconds
        histograms["penstock_request_duration_seconds"].add((group, provider), seconds)
        if row.overhead_us is not None:
            histograms["penstock_overhead_seconds"].add((), row.overhead_us / 1e6)
        if row.status != "success":
            return
        labels = (group, self._model(row.model), *deployment)
        histograms["litellm_request_total_latency_metric"].add(labels, seconds)
        upstream = max(0.0, seconds - (row.overhead_us or 0) / 1e6)
        histograms["litellm_llm_api_latency_metric"].add(labels, upstream)
        if row.stream and row.ttfb_us is not None:
            histograms["penstock_time_to_first_token_seconds"].add((group, provider), row.ttfb_us / 1e6)
            histograms["litellm_llm_api_time_to_first_token_metric"].add(labels, row.ttfb_us / 1e6)
        if row.output + row.reasoning:
            per_token = upstream / (row.output + row.reasoning)
            histograms["litellm_deployment_latency_per_output_token"].add(self._deployment(row), per_token)

    def _observe_usage(self, row: LedgerRow) -> None:
        if row.usage_source == "none":
            return
        counters = self._counters
        ours = (self._group(row), row.provider)
        theirs = (
            *_key(row),
            self._model(row.model),
            ours[0],
            self._id(row.deployment_id, row.model),
            row.provider,
        )
        for bucket in _TOKENS:
            if tokens := getattr(row, bucket):
                counters["penstock_tokens_total"].add((*ours, bucket), tokens)
        prompt, completion = row.prompt_tokens, row.completion_tokens
        counters["litellm_requests_metric_total"].add(theirs)
        counters["litellm_input_tokens_metric_total"].add(theirs, prompt)
        counters["litellm_output_tokens_metric_total"].add(theirs, completion)
        counters["litellm_total_tokens_metric_total"].add(theirs, prompt + completion)
        if row.usage_source == "estimated":
            counters["penstock_estimated_usage_requests_total"].add(ours)
        if row.cost_nano is None:
            counters["penstock_unpriced_requests_total"].add(ours)
        else:
            counters["penstock_spend_dollars_total"].add(ours, row.cost_nano)
            counters["litellm_spend_metric_total"].add(theirs, row.cost_nano)

    def _observe_attempts(self, row: LedgerRow) -> None:
        counters = self._counters
        group = self._group(row)
        for attempt in row.attempts:
            deployment_id = self._id(attempt.deployment_id, attempt.model)
            base = row.api_base if attempt.deployment_id == row.deployment_id else ""
            labels = (group, self._model(attempt.model), deployment_id, base, attempt.provider)
            counters["litellm_deployment_total_requests_total"].add(labels)
            if attempt.reason:
                failure = (*labels, str(attempt.status), _exception(attempt.status))
                counters["litellm_deployment_failure_responses_total"].add(failure)
            else:
                counters["litellm_deployment_success_responses_total"].add(labels)
            ours = (deployment_id, attempt.provider, attempt.reason)
            counters["penstock_upstream_attempts_total"].add(ours)

    def _deployment(self, row: LedgerRow) -> Labels:
        deployment_id = self._id(row.deployment_id, row.model)
        return (self._group(row), self._model(row.model), deployment_id, row.api_base, row.provider)

    def _group(self, row: LedgerRow) -> str:
        name = row.model_group or row.model_requested
        if row.status == "success":
            self._learn(name)
            self._learn(row.model)
        return self._model(name)

    def _model(self, name: str) -> str:
        return name if not name or name in self._known or name in self._learned else "unknown"

    def _id(self, deployment_id: str, model: str) -> str:
        """Wildcards make deployments on the spot: one of an unknown model is as unknown."""
        return deployment_id if self._model(model) == model else "unknown"

    def _learn(self, name: str) -> None:
        if name and len(self._learned) < _LEARNED and name not in self._known:
            self._learned.add(name)


def _key(row: LedgerRow) -> Labels:
    return (row.key_digest or row.caller_kind, row.key_alias or "")


def _exception(status: int) -> str:
    return _EXCEPTIONS.get(status, "APIConnectionError" if not status else "InternalServerError")


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

    def take(self, count: int) -> bool:
        if self._free < count:
            self.overflowed += 1
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

    def add(self, labels: Labels, amount: int = 1) -> None:
        values = self.values
        if labels not in values:
            labels = _tame(labels)
            if labels not in values and not self._room.take(1):
                labels = self._other
            values.setdefault(labels, 0)
        values[labels] += amount


class _Histogram:
    """Counts per bucket by labels, the last one above all bounds; and the sum."""

    def __init__(self, series: Series, room: _Room) -> None:
        self.series = series
        self._room = room
        self._other = ("other",) * len(series.labels)
        self._size = len(series.buckets) + 1
        self.counts: dict[Labels, list[int]] = {}
        self.sums: dict[Labels, float] = {}

    def add(self, labels: Labels, value: float) -> None:
        counts = self.counts.get(labels)
        if counts is None:
            labels = _tame(labels)
            if labels not in self.counts and not self._room.take(self._size + 2):
                labels = self._other
            self.sums.setdefault(labels, 0.0)
            counts = self.counts.setdefault(labels, [0] * self._size)
        counts[bisect_left(self.series.buckets, value)] += 1
        self.sums[labels] += value


# -- exposition ------------------------------------------------------------------------------------------------------


class _Stopwatch:
    """One series of a histogram, as `prometheus_client` would have it."""

    def __init__(self, histogram: _Histogram, labels: Labels) -> None:
        self._histogram = histogram
        self._labels = labels

    def observe(self, value: float) -> None:
        self._histogram.add(self._labels, value)


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
        return {
            "penstock_in_flight_requests": [((), metrics.in_flight)],
            "penstock_ledger_queue": [((), metrics.watch_ledger()[0])],
            "penstock_event_loop_lag_seconds": [((), metrics.loop_lag)],
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
            "penstock_log_dropped_total": [((), metrics.watch_log_drops())],
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
    for labels, counts in list(histogram.counts.items()):
        buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
        family.add_metric(labels, buckets, histogram.sums[labels])
    return family
