"""From finished requests to series."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from gateway.metrics.exposition import Exposition, Watched
from gateway.metrics.series import Labels
from gateway.metrics.tables import Cell, Stopwatch, Tables
from gateway.state.records import OUTRUN, TOKENS, UNITS, AttemptRow, Kind, LedgerRow

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MAX_SERIES = 5_000
_MOST_CELLS = 256
"""Kinds that gather numbers before they go into the tables, which takes some 20 us each."""
_LEARNED = 100
"""Names of models beyond the configured ones that an answer makes known."""

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


class Metrics(Watched):
    """The numbers of one gateway. Several may live in one process; nothing is global.

    `known_models` are the names of the routes and of the deployments' models.
    """

    def __init__(
        self, version: str = "", *, known_models: Iterable[str] = (), max_series: int = MAX_SERIES
    ) -> None:
        super().__init__(version)
        self._cells: dict[Kind, Cell] = {}
        self._lock = threading.Lock()
        """Held by whoever changes cells or tables: a scrape is answered in a thread of its own."""
        tables = Tables(max_series)
        self._counters = tables.counters
        self._histograms = tables.histograms
        self._known: frozenset[str] = frozenset()
        self._learned: set[str] = set()
        self.know(known_models)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Exposition(self, tables))
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
        Stopwatch(self._histograms["penstock_queue_wait_seconds"], (model,), self._lock).observe(seconds)

    def management(self, path: str) -> Stopwatch:
        """What takes the seconds of a management request, for `prometheus_async.aio.time`; `path` is a template."""
        histogram = self._histograms["penstock_management_duration_seconds"]
        return Stopwatch(histogram, (path,), self._lock)

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
                    cell = cells[kind] = Cell(kind)
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

    def _count_requests(self, kind: Kind, cell: Cell) -> None:
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

    def _count_usage(self, kind: Kind, cell: Cell) -> None:
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
