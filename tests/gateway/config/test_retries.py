"""Retry policies and budgets, as they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load import ConfigInvalid, load
from gateway.config.model import Hedging, RetryBudget, RetryPolicy, RouterSettings


def read(folder: Path, text: str) -> RouterSettings:
    path = folder / "config.yaml"
    path.write_text(f"router_settings:\n{text}\n")
    return load(path, {}, strict=True).config.router


def test_both_dialects(tmp_path: Path) -> None:
    """Counts by kind of error and delays may stand in one mapping."""
    policy = read(
        tmp_path,
        "  retry_policy: {RateLimitErrorRetries: 3, TimeoutErrorRetries: 0, max_retries: 4, base_delay: 1s}",
    ).retry_policy
    counts = {"RateLimitError": 3, "TimeoutError": 0}
    assert policy == RetryPolicy(retries=counts, max_retries=4, base_delay=1.0)
    assert read(tmp_path, "  retry_policy: {DefaultRetries: 1, max_delay: 10}").retry_policy == RetryPolicy(
        max_retries=1, max_delay=10.0
    )
    assert not read(tmp_path, "  retry_policy:").retry_policy


@pytest.mark.parametrize(
    "text",
    ["num_retries: 101", "retry_policy: {max_retries: 101}", "retry_policy: {TimeoutErrorRetries: 101}"],
)
def test_more_than_anybody_wants(tmp_path: Path, text: str) -> None:
    """A hundred retries are the most, as on the command line; more are told with their line."""
    with pytest.raises(
        ConfigInvalid, match=r'config.yaml:2:.*must be at most 100, not "101" \(router_settings.'
    ):
        read(tmp_path, f"  {text}")


def test_by_model_and_by_failure(tmp_path: Path) -> None:
    """A policy for each model, failures that are allowed for, and the budget of all."""
    router = read(
        tmp_path,
        "  model_group_retry_policy: {gpt-4o: {BadRequestErrorRetries: 1}}\n"
        "  allowed_fails: 3\n"
        "  allowed_fails_policy: {RateLimitErrorAllowedFails: 100}\n"
        "  retry_budget: {ratio: 0.1}\n"
        "  retry_after: 2\n"
        "  total_timeout: 10m",
    )
    assert router.model_group_retry_policy == {"gpt-4o": RetryPolicy(retries={"BadRequestError": 1})}
    assert (router.allowed_fails, router.allowed_fails_policy) == (3, {"RateLimitError": 100})
    assert router.retry_budget == RetryBudget(ratio=0.1, minimum=3.0)
    assert (router.retry_after, router.total_timeout) == (2.0, 600.0)


@pytest.mark.parametrize(
    ("text", "hedging"),
    [
        ("true", Hedging()),
        ("false", None),
        ("{after: p95}", Hedging()),
        ("{after: 2s, max: 3}", Hedging(2.0, 3)),
        ("{max: 0}", None),
        ("{}", Hedging()),
    ],
)
def test_hedging(tmp_path: Path, text: str, hedging: Hedging | None) -> None:
    """A word, or when and how often."""
    assert read(tmp_path, f"  hedging: {text}").hedging == hedging


def test_stream_recovery(tmp_path: Path) -> None:
    """Off unless somebody wants it."""
    assert read(tmp_path, "  num_retries: 1").stream_recovery == "none"
    assert read(tmp_path, "  stream_recovery: continue").stream_recovery == "continue"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("retry_policy: {RateLimitErrorRetrys: 3}", 'did you mean "RateLimitErrorRetries"'),
        ("retry_policy: {max_retries: -1}", "must be a whole number"),
        ("retry_policy: [3]", "must be a mapping"),
        ("retry_policy: {base_delay: soon}", "base_delay"),
        ("allowed_fails_policy: {RateLimitErrorAllowedFail: 3}", 'did you mean "RateLimitErrorAllowedFails"'),
        ("retry_budget: {ratio: -1}", "must be a number"),
        ("retry_budget: {share: 1}", 'unknown key "share"'),
        ("hedging: sometimes", "must be true or false"),
        ("hedging: {after: late}", "after"),
        ("hedging: {befor: 1}", "befor"),
        ("stream_recovery: perhaps", "must be none or continue"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, words: str) -> None:
    """What cannot be meant is told with what probably was."""
    with pytest.raises(ConfigInvalid) as found:
        read(tmp_path, f"  {text}")
    assert words in str(found.value)
