"""What `GET /metrics` shows: the tables, and the numbers that others hold and are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Literal

from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.metrics.series import SERIES, Labels, Series
from gateway.metrics.tables import Histogram, Tables, tamed
from gateway.state.records import usd

PER_DOLLAR = 10**9


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


class Watched:
    """The numbers that others hold. Set the `watch_*` attributes to functions that give them; they are asked at each scrape."""

    def __init__(self, version: str) -> None:
        self.version = version
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


class Exposition(Collector):
    """What `prometheus_client` asks for: all tables as metric families."""

    def __init__(self, watched: Watched, tables: Tables) -> None:
        self._watched = watched
        self._tables = tables

    def collect(self) -> Iterable[Metric]:
        """In the order of `SERIES`. Tables are copied first, so that another thread may render."""
        gauges, outside = self._gauges(), self._outside()
        for series in SERIES:
            if series.kind == "gauge":
                yield _gauge(series, gauges[series.name])
            elif series.kind == "histogram":
                yield _histogram(self._tables.histograms[series.name])
            else:
                counter = self._tables.counters[series.name]
                yield _counter(series, outside.get(series.name) or list(counter.values.items()))

    def _gauges(self) -> dict[str, list[tuple[Labels, float]]]:
        watched = self._watched
        deployments = list(watched.watch_deployments())
        budgets = list(watched.watch_budgets())
        spending = list(watched.watch_spending())
        of_keys = [(b.hashed_key, b.alias, b.left, b.hours) for b in budgets if b.hashed_key is not None]
        return {
            "penstock_fleet_processes": [((), watched.watch_fleet())],
            "penstock_shared_degraded": [((), 0 if watched.watch_shared() else 1)],
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
            "penstock_in_flight_requests": [((), watched.in_flight)],
            "penstock_queue_waiting": [((), watched.watch_queue()[0])],
            "penstock_deployment_concurrency_limit": [
                ((name,), places) for name, places in watched.watch_concurrency()
            ],
            "penstock_ledger_queue": [((), watched.watch_ledger()[0])],
            "penstock_records_away": [((), int(watched.watch_records()))],
            "penstock_credentials_unreadable": [((), watched.watch_credentials())],
            "penstock_ledger_journal_bytes": [((), watched.watch_journal()[0])],
            "penstock_ledger_journal_failing": [((), int(watched.watch_journal()[1]))],
            "penstock_ledger_pruned_at_seconds": [((), watched.watch_retention()[1])],
            "penstock_config_last_reload_successful": [((), int(watched.watch_config()[0]))],
            "penstock_config_last_reload_success_timestamp_seconds": [((), watched.watch_config()[1])],
            "penstock_event_loop_lag_seconds": [((), watched.loop_lag)],
            "penstock_worker_processes": [((), 1)],
            "penstock_build_info": [((watched.version,), 1)],
            "penstock_upstream_state": [
                ((d.deployment_id, d.model, d.provider), d.state) for d in deployments
            ],
            "litellm_deployment_state": [
                ((d.model, d.deployment_id, d.api_base, d.provider), d.state) for d in deployments
            ],
        }

    def _outside(self) -> dict[str, list[tuple[Labels, int]]]:
        """Counters that others hold."""
        watched = self._watched
        return {
            "penstock_ledger_dropped_total": [((), watched.watch_ledger()[1])],
            "penstock_ledger_pruned_total": [((), watched.watch_retention()[0])],
            "penstock_log_dropped_total": [((), watched.watch_log_drops())],
            "penstock_retries_refused_total": [((), watched.watch_retries())],
            "penstock_queue_refused_total": [
                ((reason,), count) for reason, count in watched.watch_queue()[1].items()
            ],
            "litellm_deployment_cooled_down_total": list(watched.watch_cooldowns()),
            "penstock_worker_restarts_total": [((name,), count) for name, count in watched.watch_workers()],
            "penstock_metrics_overflow_total": [((), self._tables.room.overflowed)],
        }


def _gauge(series: Series, values: Iterable[tuple[Labels, float]]) -> Metric:
    family = GaugeMetricFamily(series.name, series.help, labels=series.labels)
    for labels, value in {tamed(labels): value for labels, value in values}.items():
        family.add_metric(labels, value)
    return family


def _counter(series: Series, values: Iterable[tuple[Labels, int]]) -> Metric:
    is_money = "spend" in series.name
    family = CounterMetricFamily(series.name, series.help, labels=series.labels)
    for labels, value in values:
        family.add_metric(labels, usd(value) if is_money else value)
    return family


def _histogram(histogram: Histogram) -> Metric:
    series = histogram.series
    bounds = [*map(str, map(float, series.buckets)), "+Inf"]
    family = HistogramMetricFamily(series.name, series.help, labels=series.labels)
    for labels, spread in list(histogram.spreads.items()):
        buckets = list(zip(bounds, map(float, accumulate(spread.counts)), strict=True))
        family.add_metric(labels, buckets, spread.sum / 1e6)
    return family
