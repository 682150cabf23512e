"""Twin of gateway/config/vocabulary.py."""

from __future__ import annotations

import pytest
from msgspec import Struct
from msgspec.structs import fields

from gateway.config import vocabulary
from gateway.config.model import GeneralSettings, LiteLLMSettings, ModelParams, RouterSettings
from gateway.config.vocabulary import (
    LIMITS,
    OPTIONS,
    OTHER_PRICE,
    PARAM_KEYS,
    SETTINGS,
    STRATEGIES,
    TOP,
    Section,
)

STRUCTS: dict[Section, type[Struct]] = {
    "router_settings": RouterSettings,
    "litellm_settings": LiteLLMSettings,
    "general_settings": GeneralSettings,
}

SEEN_IN_DEPLOYMENTS = ["redis_host", "redis_port", "num_retries", "timeout", "routing_strategy", "fallbacks", "model_group_alias", "cooldown_time", "retry_policy", "success_callback", "failure_callback", "service_callback", "callbacks", "database_url", "drop_params", "set_verbose", "langfuse_public_key", "langfuse_secret_key", "langfuse_host", "master_key", "max_budget", "budget_duration", "track_cost_per_model", "cache", "cache_params", "tpm_limit", "rpm_limit", "max_parallel_requests", "allowed_ips", "blocked_ips", "budget_reset_at", "cost_per_token", "user_rate_limit", "prometheus_metrics_config", "allowed_origins", "default_fallbacks", "context_window_fallbacks"]  # fmt: skip


def test_every_word_of_the_field_is_known() -> None:
    """The settings that real deployments write are all in the vocabulary."""
    assert [name for name in SEEN_IN_DEPLOYMENTS if name not in SETTINGS] == []
    assert {
        "model_list",
        "environment_variables",
        "include",
        "llm_providers",
        "litellm",
        "guardrails",
    } <= TOP.keys()


def test_no_name_has_two_meanings() -> None:
    """A setting's name is unique, or a misplaced one could not be understood."""
    tables = (vocabulary._ROUTER, vocabulary._LITELLM_SETTINGS, vocabulary._GENERAL_SETTINGS, vocabulary._TOP)
    names = [key.name for table in tables for key in table]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("section", STRUCTS)
def test_what_works_has_a_field_and_every_field_a_word(section: Section) -> None:
    """The structs and the vocabulary hold the same settings."""
    names = {field.name for field in fields(STRUCTS[section])} - {"master_key_named"}
    words = {key.name: key for key in SETTINGS.values() if key.section == section}
    assert names <= words.keys()
    assert {name for name, key in words.items() if key.status == "works"} <= names
    assert all(words[name].kind != "any" for name in names)


def test_parameters_have_fields_too() -> None:
    """What works in litellm_params is a field of ModelParams."""
    names = {field.name for field in fields(ModelParams)}
    assert {name for name, key in PARAM_KEYS.items() if key.status == "works"} - {
        "base_url",
        *OPTIONS,
    } <= names
    assert names - {"options", "defaults", "other_prices"} <= PARAM_KEYS.keys()


@pytest.mark.parametrize(
    ("name", "price"),
    [
        ("input_cost_per_token_above_200k_tokens", True),
        ("cache_read_input_token_cost_priority", True),
        ("output_cost_per_second", True),
        ("temperature", False),
        ("cost", False),
    ],
)
def test_other_prices_are_recognised(name: str, price: bool) -> None:
    """Prices are known by the form of their names."""
    assert bool(OTHER_PRICE.fullmatch(name)) is price


def test_names_of_strategies_lead_to_real_ones() -> None:
    """An alias of a strategy leads to a strategy that is its own name."""
    assert all(STRATEGIES[strategy] == strategy for strategy in STRATEGIES.values())


def test_limits_are_words() -> None:
    """Each word that limits something is one that a file may use."""
    assert LIMITS - SETTINGS.keys() - PARAM_KEYS.keys() == set()
