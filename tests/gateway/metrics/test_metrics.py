from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from gateway.metrics import SERIES, BudgetState, DeploymentState, Metrics
from gateway.state.records import AttemptRow, make_row
from tests.gateway.rows import failure, row

NEEDED_BY_DASHBOARDS = [
    "litellm_proxy_total_requests_metric_total",
    "litellm_proxy_failed_requests_metric_total",
    "litellm_input_tokens_metric_total",
    "litellm_output_tokens_metric_total",
    "litellm_total_tokens_metric_total",
    "litellm_spend_metric_total",
    "litellm_deployment_success_responses_total",
    "litellm_deployment_failure_responses_total",
    "litellm_deployment_total_requests_total",
    "litellm_deployment_state",
    "litellm_deployment_latency_per_output_token_bucket",
    "litellm_request_total_latency_metric_bucket",
    "litellm_llm_api_latency_metric_bucket",
    "litellm_llm_api_time_to_first_token_metric_bucket",
]


def full() -> Metrics:
    """Metrics that know the usual models and have something to say in every series."""
    metrics = Metrics("1.2.3", known_models=["smart", "gpt-4o"])
    metrics.watch_deployments = lambda: [
        DeploymentState("d1", "gpt-4o", "openai", "https://api.openai.com", 2)
    ]
    metrics.watch_workers = lambda: [("ledger", 1)]
    metrics.watch_ledger = lambda: (7, 3)
    metrics.watch_cooldowns = lambda: [
        (("openai/gpt-4o", "d1", "https://api.openai.com", "openai", "503"), 2)
    ]
    metrics.watch_spending = lambda: [("provider", "openai", 5), ("deployment", "a1", 5)]
    metrics.watch_budgets = lambda: [BudgetState(None, "", 5, None), BudgetState("a1", "team", 5, 1.5)]
    metrics.observe([row(), failure(), row(cost_nano=None, usage_source="estimated", fallbacks=1)])
    metrics.observe([row(images=1), failure(fallbacks=1)])
    metrics.refused("unauthorized")
    metrics.management("/health").observe(0.002)
    metrics.watch_queue = lambda: (4, {"full": 1, "late": 2})
    metrics.watch_concurrency = lambda: [("d1", 17)]
    metrics.waited("smart", 0.3)
    metrics.hedged("won")
    metrics.recovered("continued")
    return metrics


def samples(metrics: Metrics) -> Iterator[Sample]:
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    for family in text_string_to_metric_families(body.decode()):
        yield from family.samples


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum of all samples of this name that carry these labels."""
    return sum(s.value for s in samples(metrics) if s.name == name and labels.items() <= s.labels.items())


def test_everything_is_in_the_table() -> None:
    """What is exported is what `SERIES` says, name by name and label by label, and each of them is exported."""
    table = {series.name: series for series in SERIES}
    exported = {}
    for sample in samples(full()):
        if sample.name.startswith(("penstock_", "litellm_")):
            name = sample.name
            for suffix in ("_bucket", "_sum", "_count"):
                name = name.removesuffix(suffix) if name not in table else name
            exported[name] = set(sample.labels) - {"le"}
    assert exported == {name: set(series.labels) for name, series in table.items()}


@pytest.mark.parametrize("name", NEEDED_BY_DASHBOARDS)
def test_dashboards_find_their_series(name: str) -> None:
    """Existing dashboards find the names that they query."""
    assert name in {sample.name for sample in samples(full())}


def test_one_request() -> None:
    """A request is counted once, with its tokens by bucket, its dollars and its attempts."""
    metrics = Metrics(known_models=["smart", "gpt-4o"])
    metrics.observe([row()])
    where = {"model": "smart", "provider": "openai"}
    assert value(metrics, "penstock_requests_total", **where, status_class="2xx", reason="") == 1
    assert value(metrics, "penstock_tokens_total", **where, bucket="input") == 10
    assert value(metrics, "penstock_tokens_total", **where, bucket="cache_read") == 5
    assert value(metrics, "penstock_tokens_total", **where) == 39
    assert value(metrics, "penstock_spend_dollars_total", **where) == 0.123456789
    assert value(metrics, "penstock_retries_total", model="smart") == 1
    assert (
        value(metrics, "penstock_upstream_attempts_total", deployment="d0", reason="upstream_overloaded") == 1
    )
    assert value(metrics, "penstock_upstream_attempts_total", deployment="d1", reason="") == 1
    assert value(metrics, "penstock_request_duration_seconds_sum", **where) == pytest.approx(0.8)
    assert value(metrics, "penstock_request_duration_seconds_bucket", **where, le="0.5") == 0
    assert value(metrics, "penstock_request_duration_seconds_bucket", **where, le="1.0") == 1
    assert value(metrics, "penstock_request_duration_seconds_bucket", **where, le="+Inf") == 1
    assert value(metrics, "penstock_time_to_first_token_seconds_count", **where) == 1


def test_what_is_no_token() -> None:
    """Pictures, sound, characters and searches are counted by unit, and tokens of pictures are tokens."""
    metrics = Metrics(known_models=["smart", "gpt-4o"])
    metrics.observe([row(image_output=7, images=2), row(milliseconds=30, searches=4, image_input=3), row()])
    where = {"model": "smart", "provider": "openai"}
    found = {
        sample.labels["unit"]: sample.value
        for sample in samples(metrics)
        if sample.name == "penstock_units_total"
    }
    assert found == {"images": 2, "milliseconds": 30, "searches": 4}
    assert value(metrics, "penstock_tokens_total", **where, bucket="image_output") == 7
    assert value(metrics, "penstock_tokens_total", **where) == 3 * 39 + 10
    assert value(metrics, "litellm_input_tokens_metric_total") == 3 * 15 + 3
    assert value(metrics, "litellm_output_tokens_metric_total") == 3 * 24 + 7


def test_failing_over_is_the_requested_models() -> None:
    """Retries and fallbacks are counted for the model that was asked for, not for the one that stood in."""
    metrics = Metrics(known_models=["smart", "spare"])
    metrics.observe([row(model_group="spare", fallbacks=1)])
    for name in ("penstock_retries_total", "penstock_fallbacks_total"):
        assert (value(metrics, name, model="smart"), value(metrics, name)) == (1, 1)


def test_dashboards_see_the_same_numbers() -> None:
    """The compatible series carry the same sums under the labels that dashboards group by."""
    metrics = Metrics(known_models=["smart", "gpt-4o"])
    metrics.observe([row(key_digest="abc", key_alias="team a"), failure()])
    key = {"hashed_api_key": "abc", "api_key_alias": "team a", "model": "gpt-4o", "requested_model": "smart"}
    assert value(metrics, "litellm_input_tokens_metric_total", **key) == 15
    assert value(metrics, "litellm_output_tokens_metric_total", **key) == 24
    assert value(metrics, "litellm_total_tokens_metric_total", **key) == 39
    assert value(metrics, "litellm_spend_metric_total", **key) == 0.123456789
    assert value(metrics, "litellm_proxy_total_requests_metric_total") == 2
    failed = {"exception_status": "503", "exception_class": "ServiceUnavailableError"}
    assert value(metrics, "litellm_proxy_failed_requests_metric_total", **failed) == 1
    assert value(metrics, "litellm_deployment_total_requests_total") == 3
    assert value(metrics, "litellm_deployment_success_responses_total", model_id="d1") == 1
    assert value(metrics, "litellm_deployment_failure_responses_total", model_id="d0", **failed) == 2


def test_spend_does_not_drift() -> None:
    """A hundred thousand dimes are exactly ten thousand dollars."""
    metrics = Metrics()
    metrics.observe([row(cost_nano=100_000_000)] * 100_000)
    assert value(metrics, "penstock_spend_dollars_total") == 10_000.0


def test_numbers_of_others() -> None:
    """Gauges and counters that others hold are asked for at each scrape."""
    metrics = full()
    metrics.in_flight += 2
    metrics.loop_lag = 0.25
    assert value(metrics, "penstock_in_flight_requests") == 2
    assert value(metrics, "penstock_event_loop_lag_seconds") == 0.25
    assert value(metrics, "penstock_ledger_queue") == 7
    assert value(metrics, "penstock_ledger_dropped_total") == 3
    assert value(metrics, "penstock_upstream_state", deployment="d1") == 2
    assert value(metrics, "litellm_deployment_state", model_id="d1") == 2
    assert value(metrics, "penstock_unidentified_refusals_total", reason="unauthorized") == 1
    assert value(metrics, "penstock_build_info", version="1.2.3") == 1
    assert value(metrics, "process_resident_memory_bytes") > 0


def test_invented_models_are_unknown() -> None:
    """Names that clients invent never become labels, neither as model nor as deployment."""
    metrics = Metrics(known_models=["smart"])
    metrics.observe(
        [
            failure(
                f"r{n}",
                model_group="",
                model_requested=f"made-up-{n}",
                model=f"made-up-{n}",
                deployment_id=f"x/{n}",
            )
            for n in range(1000)
        ]
    )
    body, _ = metrics.render()
    assert b"made-up" not in body
    assert b"x/" not in body
    assert value(metrics, "penstock_requests_total", model="unknown") == 1000


def test_models_that_answered_are_known() -> None:
    """A model that a wildcard found and a provider answered to gets its name, up to a bound."""
    metrics = Metrics()
    metrics.observe([row(model_group="gpt-new", model="gpt-new")])
    metrics.observe([failure(model_group="gpt-new", model="gpt-new")])
    assert value(metrics, "penstock_requests_total", model="gpt-new") == 2
    metrics.observe([row(model_group=f"m{n}", model=f"m{n}") for n in range(1000)])
    models = {
        sample.labels["model"] for sample in samples(metrics) if sample.name == "penstock_requests_total"
    }
    assert len(models) <= 102


def test_series_are_bounded() -> None:
    """However many keys there are, the number of series stays under its bound, and nothing goes uncounted."""
    metrics = Metrics(known_models=["smart", "gpt-4o"], max_series=500)
    metrics.observe([row(f"r{n}", key_digest=f"key{n}") for n in range(2000)])
    ours = [s for s in samples(metrics) if s.name.startswith(("penstock_", "litellm_"))]
    assert len(ours) < 500 + 25 * len(SERIES)
    assert value(metrics, "litellm_proxy_total_requests_metric_total") == 2000
    assert value(metrics, "litellm_proxy_total_requests_metric_total", hashed_api_key="other") > 0
    assert value(metrics, "penstock_metrics_overflow_total") > 0


@pytest.mark.parametrize("alias", ["a\nb", "\x1b[31mred", "\udcff", "\u202eright", 'quote"\\', "long" * 1000])
def test_hostile_labels(alias: str) -> None:
    """Labels with line breaks, escapes, lone surrogates or endless text leave the exposition readable."""
    metrics = Metrics()
    metrics.observe([row(key_alias=alias), row(key_alias=alias + "\x00")])
    body, _ = metrics.render()
    assert all(character not in body.decode() for character in "\x1b\x00\u202e")
    assert value(metrics, "litellm_proxy_total_requests_metric_total") == 2
    names = [(s.name, tuple(sorted(s.labels.items()))) for s in samples(metrics)]
    assert len(names) == len(set(names))


def test_several_in_one_process() -> None:
    """Metrics share nothing with one another."""
    first, second = Metrics(), Metrics()
    first.observe([row()])
    assert value(second, "penstock_requests_total") == 0


def test_a_row_that_knows_little() -> None:
    """A request that failed before it had a plan is counted too."""
    metrics = Metrics()
    metrics.observe(
        [make_row(id="x", started_at=0.0, status="failure", http_status=400, reason="bad_request")]
    )
    assert value(metrics, "penstock_requests_total", reason="bad_request", status_class="4xx") == 1


def test_management_requests_have_their_own_histogram() -> None:
    """What a management page took is counted under its path."""
    metrics = Metrics()
    metrics.management("/health").observe(0.002)
    text = metrics.render()[0].decode()
    assert 'penstock_management_duration_seconds_count{path="/health"} 1.0' in text


def test_ordinary_attempts_are_attempts() -> None:
    """A request whose only attempt answered counts as one attempt of its deployment, like any other."""
    metrics = Metrics(known_models=["smart", "gpt-4o"])
    metrics.observe([row(attempts=(AttemptRow("d1", "gpt-4o", "openai", 200, "", 7),))] * 3)
    for name in ("penstock_upstream_attempts_total", "litellm_deployment_success_responses_total"):
        assert value(metrics, name) == 3


def test_numbers_grow_over_scrapes() -> None:
    """A scrape takes nothing away: what comes later is added to the same series."""
    metrics = Metrics(known_models=["smart"])
    for count in (1, 2, 3):
        metrics.observe([row()])
        assert value(metrics, "penstock_requests_total") == count
        assert value(metrics, "penstock_request_duration_seconds_count") == count
        assert value(metrics, "penstock_request_duration_seconds_sum") == pytest.approx(0.8 * count)
