"""Every word that a configuration may use: what it means, where it belongs, and whether it has an effect yet.

Deployments come with files that were written for other versions or other gateways. So the whole vocabulary is known
here, as data, and nothing in a file is passed over in silence: a word that *works* is read into `model`; one that comes
*later* is reported with its line; one that is *ignored* has no meaning in this gateway and its entry says why; one that
is *refused* promises safety that would not be there, so the gateway does not start with it. The last column of the
reference (docs/CONFIGURATION.md), the editors' schema and the loader's messages are all made from these tables.

A setting has one section that it belongs to, and maybe others where it is commonly written (`also`, for editors and the
reference). The loader accepts it in any of the four sections and says where it belongs.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from gateway.config.values import Kind

Status = Literal["works", "later", "ignored", "refused"]
Section = Literal["", "router_settings", "litellm_settings", "general_settings"]
"""Where a setting stands; "" is the top of the file."""


class Key(Struct, frozen=True):
    """One word. `kind` "any" means that its value is not looked at."""

    name: str
    kind: Kind
    text: str
    """What it means, or why it is ignored or refused: one sentence."""
    status: Status = "works"
    section: Section = ""
    also: tuple[Section, ...] = ()
    harmless: tuple[str, ...] = ()
    """For refused words: values that ask for nothing, so that they may stand."""


def _later(text: str, names: str, kind: Kind = "any") -> tuple[Key, ...]:
    return tuple(Key(name, kind, text, "later") for name in names.split())


def _ignored(text: str, names: str) -> tuple[Key, ...]:
    return tuple(Key(name, "any", text, "ignored") for name in names.split())


def _refused(text: str, names: str, harmless: tuple[str, ...] = ()) -> tuple[Key, ...]:
    return tuple(Key(name, "any", text, "refused", harmless=harmless) for name in names.split())


# -- model_list --------------------------------------------------------------------------------------------------------

ENTRY: tuple[Key, ...] = (
    Key("model_name", "text", "The name that clients ask for. Several entries with one name share its load; `*` matches anything."),
    Key("litellm_params", "object", "Where the model lives and how it is called."),
    Key("model_info", "object", "Facts about the model: `id` (a stable name of the deployment), `mode`, `base_model` (for prices), and whatever else; kept and shown."),
)  # fmt: skip

_PRICE = "Dollars per token"
PARAMS: tuple[Key, ...] = (
    Key("model", "text", "`provider/model`, for instance `openai/gpt-4o`; a `*` takes what the `*` of `model_name` matched."),
    Key("custom_llm_provider", "text", "The provider, if `model` does not begin with it."),
    Key("api_key", "secret", "The provider's key; default: the provider's usual environment variable."),
    Key("api_base", "url", "The provider's address, if it is not the usual one; default: a variable like `GROQ_API_BASE`, or `OPENAI_BASE_URL` and `ANTHROPIC_BASE_URL`."),
    Key("base_url", "url", "Another spelling of `api_base`."),
    Key("api_version", "text", "Azure: the API version; default: `AZURE_API_VERSION`, else one that the gateway chooses."),
    Key("organization", "text", "OpenAI: the organization to bill."),
    Key("litellm_credential_name", "text", "A named credential, of `credential_list` or of `POST /credentials`: it says what this entry does not say itself."),
    Key("weight", "number", "Share of the load among entries of one name; default: `rpm`, else `tpm`, else equal shares."),
    Key("order", "integer", "Entries with a lower number are tried first."),
    Key("timeout", "timeout", "Seconds within which an answer must begin; 0 is as if it were not written."),
    Key("stream_timeout", "timeout", "The same for streams, where it differs."),
    Key("max_retries", "retries", "As `num_retries`, for this entry."),
    Key("cooldown_time", "seconds", "As `cooldown_time` of the router, for this entry."),
    Key("on_disconnect", "text", "What happens to a stream whose client leaves: `cancel` closes it at once; `drain` lets it run to its end, for providers that go on and bill all the same, so that the bill is theirs and no estimate (2 minutes at most, 64 at a time)."),
    Key("drop_params", "boolean", "Parameters of the client's format that the provider does not support are dropped instead of refused; fields that no format knows are passed on as they are."),
    Key("allowed_openai_params", "texts", "Request parameters that go to the provider as they came, whatever is known of it."),
    Key("additional_drop_params", "texts", "Request parameters that are always left out."),
    Key("extra_headers", "secrets_by_name", "Headers that are added to each request to the provider."),
    Key("extra_body", "object", "Fields that are added to each request to the provider."),
    Key("input_cost_per_token", "price", f"{_PRICE} of the question; wins over the built-in price."),
    Key("output_cost_per_token", "price", f"{_PRICE} of the answer."),
    Key("cache_read_input_token_cost", "price", f"{_PRICE} read from the provider's prompt cache."),
    Key("cache_creation_input_token_cost", "price", f"{_PRICE} written to the provider's prompt cache."),
    Key("mock_response", "text", "Answer with this text and ask no provider. It costs nothing, unless the entry has prices."),
    Key("mock_first_delay", "seconds", "With `mock_response`: seconds before the first word."),
    Key("mock_delay", "seconds", "With `mock_response`: seconds between the words."),
    Key("rpm", "integer", "Requests that it is asked in any minute: at its limit another deployment is. Shares go by it too, unless there is a `weight`."),
    Key("tpm", "integer", "Tokens in any minute, counted when requests end; shares go by it where there is neither `weight` nor `rpm`."),
    Key("itpm", "integer", "Input tokens in any minute, counted by each process for itself."),
    Key("otpm", "integer", "Output tokens in any minute, counted by each process for itself."),
    Key("tpd", "integer", "Tokens a day."),
    Key("rpd", "integer", "Requests a day that it answers."),
    Key("daily_reset_time", "text", "When the days of `tpd` and `rpd` begin, `HH:MM`; default: `budget_reset_at`, else midnight."),
    Key("max_parallel_requests", "integer", "Requests that it has at the same time: at its limit another deployment is asked, and who finds none waits if there is a `queue`."),
    Key("max_budget", "price", "Dollars that it may cost in each `budget_duration`; when they are spent it is left out until the next one."),
    Key("budget_duration", "duration", "The span of `max_budget`: `1h`, `1d`, `30d`, `1mo` …; without one it never begins anew."),
    Key("tags", "texts", "With `enable_tag_filtering`: it takes requests with these tags; `default` takes those without."),
    Key("tag_regex", "texts", "With `enable_tag_filtering`: it takes requests in whose `User-Agent: …` one of these patterns is found."),
    Key("region_name", "text", "Where it is, for `geo-routing`; of Bedrock the AWS region as well."),
    *_later("timeouts by service tier", "timeout_by_service_tier stream_timeout_by_service_tier"),
    *_later("what else LiteLLM knows of a deployment", "provider_affinity_header litellm_trace_id max_file_size_mb default_api_key_tpm_limit default_api_key_rpm_limit keepalive_seconds use_in_pass_through use_litellm_proxy use_chat_completions_api merge_reasoning_content_in_choices"),
    *_refused("letting a request choose the provider's address or key is not available", "configurable_clientside_auth_params"),
    *_refused("TLS settings of one deployment are not available", "ssl_verify ssl_certificate"),
)  # fmt: skip

_OPTIONS: tuple[Key, ...] = (
    Key("vertex_project", "text", "Vertex AI: the Google Cloud project; else the one that the credentials name."),
    Key("vertex_location", "text", "Vertex AI: a region, or `global`; else `us-central1`."),
    Key("vertex_credentials", "secret_text", "Vertex AI: a file of credentials, or its JSON; else what `google-auth` finds."),
    Key("vertex_ai_project", "text", "Another spelling of `vertex_project`."),
    Key("vertex_ai_location", "text", "Another spelling of `vertex_location`."),
    Key("vertex_ai_credentials", "secret_text", "Another spelling of `vertex_credentials`."),
    Key("azure_ad_token", "secret", "Azure: a token of Entra ID, in place of a key."),
    Key("tenant_id", "text", "Azure: the tenant of Entra ID; with `client_id` and `client_secret` it stands in place of a key."),
    Key("client_id", "text", "Azure: the application's id, or a managed identity's."),
    Key("client_secret", "secret", "Azure: the application's secret."),
    Key("azure_scope", "text", "Azure: what the token is for; else `https://cognitiveservices.azure.com/.default`."),
    Key("azure_username", "text", "Azure: a user, with `azure_password` and `client_id` in place of a key."),
    Key("azure_password", "secret", "Azure: the user's password."),
    Key("azure_credential", "text", "Azure: a credential of `azure-identity` in place of a key, for instance `ManagedIdentityCredential`; `default`: whatever it finds."),
    Key("azure_authority_host", "text", "Azure: where tokens come from; else `https://login.microsoftonline.com`."),
    Key("aws_region_name", "text", "Bedrock, SageMaker: the region."),
    Key("aws_access_key_id", "secret", "Bedrock, SageMaker: a key, with `aws_secret_access_key`. Without any of these settings AWS's own search decides: variables, `~/.aws`, the machine's role."),
    Key("aws_secret_access_key", "secret", "Bedrock, SageMaker: its secret."),
    Key("aws_session_token", "secret", "Bedrock, SageMaker: its session's token, if it is a temporary one."),
    Key("aws_role_name", "text", "Bedrock, SageMaker: the ARN of a role that is assumed with those credentials."),
    Key("aws_session_name", "text", "Bedrock, SageMaker: what the role's session is called."),
    Key("aws_profile_name", "text", "Bedrock, SageMaker: a profile of `~/.aws`."),
    Key("aws_web_identity_token", "secret", "Bedrock, SageMaker: a web identity's token, or the file that holds it; with `aws_role_name`."),
    Key("aws_external_id", "text", "Bedrock, SageMaker: the external id that the role asks for."),
    Key("aws_sts_endpoint", "url", "Bedrock, SageMaker: where roles are assumed."),
    Key("aws_bedrock_runtime_endpoint", "url", "Bedrock: as `api_base`."),
    Key("watsonx_region_name", "text", "watsonx: the region; else `us-south`."),
    Key("watsonx_api_version", "text", "watsonx: the API's date."),
    Key("project_id", "text", "watsonx: the project; it needs this or `space_id`."),
    Key("space_id", "text", "watsonx: the deployment space."),
    Key("token", "secret", "watsonx: a token of IBM Cloud, in place of a key."),
    Key("zen_api_key", "secret", "watsonx: the key of a Cloud Pak for Data."),
    Key("account_id", "text", "Cloudflare, Snowflake: the account."),
)  # fmt: skip

OPTIONS: dict[str, Kind] = {key.name: key.kind for key in _OPTIONS}
"""Settings of `litellm_params` that one provider has alone: read into `ModelParams.options`."""

SAME_SETTING = {
    "base_url": "api_base",
    "vertex_ai_project": "vertex_project",
    "vertex_ai_location": "vertex_location",
    "vertex_ai_credentials": "vertex_credentials",
}
"""Settings that have two names."""

SECRET_OPTIONS = frozenset(name for name, kind in OPTIONS.items() if kind in {"secret", "secret_text"})
"""Those of them that are keys."""

OTHER_PRICE = re.compile(r"(input|output|cache|ocr|annotation|search)_\w*cost\w*")
"""Prices beyond the four plain ones: tiers, batches, seconds, pixels."""

PRICES: dict[str, str] = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_image_token": "image_output",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_image": "image",
    "output_cost_per_image": "image",
    "input_cost_per_pixel": "pixel",
    "output_cost_per_pixel": "pixel",
    "input_cost_per_second": "millisecond",
    "output_cost_per_second": "millisecond",
    "input_cost_per_character": "character",
    "output_cost_per_character": "character",
    "input_cost_per_query": "search",
    "search_context_cost_per_query": "search",
}
"""LiteLLM's names of prices, in `litellm_params`, `model_info` and its price map, and ours. Dollars for one."""

SERVICES = {
    "batches": "batch",
    "flex": "flex",
    "priority": "priority",
    "ultrafast": "ultrafast",
    "balanced": "balanced",
}
"""LiteLLM's names of service tiers, and those that providers answer with."""

PRICE_NAME = re.compile(rf"(\w+?)(?:_above_(\d+)k_tokens)?(?:_({'|'.join(SERVICES)}))?")
"""A price's name in its parts: whose it is (of `PRICES`), from how long a prompt on, in which service tier."""

ROUTER_PREFIX = re.compile(r"(auto|complexity)_router_\w+")
"""LiteLLM's routers that choose a model by looking at the question: later."""

REQUEST_PARAMETERS = frozenset(
    [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "n",
        "stop",
        "stop_sequences",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "seed",
        "user",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "stream",
        "stream_options",
        "modalities",
        "audio",
        "prediction",
        "store",
        "metadata",
        "reasoning_effort",
        "reasoning",
        "thinking",
        "verbosity",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "web_search_options",
        "dimensions",
        "encoding_format",
        "input_type",
        "truncate",
        "num_ctx",
        "keep_alive",
        "chat_template_kwargs",
        "guided_json",
        "safety_settings",
        "provider",
        "transforms",
        "models",
        "route",
        "plugins",
        "system",
        "suffix",
        "echo",
        "best_of",
        "betas",
        "container",
        "context_management",
        "mcp_servers",
        "output_config",
    ]
)
"""Request parameters that are common enough for a misspelling of them to be noticed."""

# -- router_settings ---------------------------------------------------------------------------------------------------

_LITELLM: tuple[Section, ...] = ("litellm_settings",)
_ROUTER: tuple[Key, ...] = (
    Key("routing_strategy", "text", "How one of several deployments is chosen: `simple-shuffle` (by weight), `least-busy`, `usage-based-routing`, `latency-based-routing`, `performance-based`, `cost-based-routing`, `geo-routing` or `provider-budget-routing`; docs/ROUTING.md says how each does it."),
    Key("routing_strategy_args", "object", "How strategies look at speed: `ttl` (3600: seconds after which a measurement says little), `lowest_latency_buffer` (0: how much slower than the fastest is as good, 0.1 for a tenth), `max_latency_list_size` (10: how many of the last measurements make an average)."),
    Key("num_retries", "retries", "How many more attempts a failed request gets before its fallbacks, at most 100.", also=_LITELLM),
    Key("timeout", "timeout", "Seconds within which an answer must begin; 0 is as if it were not written."),
    Key("stream_timeout", "timeout", "The same for streams, where it differs."),
    Key("cooldown_time", "seconds", "Seconds that a deployment is left out after it failed."),
    Key("disable_cooldowns", "boolean", "Never leave a deployment out."),
    Key("fallbacks", "fallbacks", "Who answers when a model cannot: `- gpt-4: [a, b]`, `- {model_name: gpt-4, fallbacks: [a, b]}`, or bare names, each falling to those after it; `*` stands for every other model.", also=_LITELLM),
    Key("default_fallbacks", "texts", "Who answers for models without fallbacks of their own.", also=_LITELLM),
    Key("max_fallbacks", "integer", "How many fallbacks a request may try."),
    Key("model_group_alias", "aliases", "Other names for models: `name: target`, `name: {model: target, hidden: true}`, or `name: [a, b]` for a group of all their deployments, which `name: {models: [a, b], order: true}` asks in this order.", also=_LITELLM),
    Key("context_window_fallbacks", "fallbacks", "Who answers when the question is too long for a model, as `fallbacks`; a model without an entry here has its `fallbacks`.", also=_LITELLM),
    Key("content_policy_fallbacks", "fallbacks", "Who answers when a provider's filter refuses the question, as `context_window_fallbacks`.", also=_LITELLM),
    Key("retry_policy", "retry_policy", "Retries by kind of error (`{RateLimitErrorRetries: 3, …}`; `DefaultRetries` or `max_retries` for all others), and seconds of back-off (`base_delay`, default 0.5, doubled each time up to `max_delay`, default 8; what is waited is drawn from below that)."),
    Key("model_group_retry_policy", "retry_policies", "`retry_policy` by model: `{gpt-4o: {TimeoutErrorRetries: 0}}`."),
    Key("retry_after", "seconds", "Seconds that are waited at least before a deployment is asked again; another one is asked at once."),
    Key("retry_budget", "retry_budget", "How many further attempts there may be in any ten seconds: `ratio` (0.2) of the requests, but always `minimum` (3) a second. Beyond, the first error is told at once (`penstock_retries_refused_total`)."),
    Key("hedging", "hedging", "`true`, or `{after: p95, max: 1}`: a deployment that has not begun to answer after that time (seconds, or what 95 of 100 of its answers took) is left to race with another one; both are billed (docs/ROUTING.md)."),
    Key("stream_recovery", "text", "`continue`: a chat stream that breaks goes on with another deployment of the model, which is asked to continue the text (docs/ROUTING.md); default: `none`, it ends with an error."),
    Key("allowed_fails", "integer", "Failures in the time of `cooldown_time` that are no reason to leave a deployment out; default: none.", also=_LITELLM),
    Key("allowed_fails_policy", "allowed_fails", "`allowed_fails` by kind of error: `{RateLimitErrorAllowedFails: 10}`."),
    Key("total_timeout", "seconds", "Seconds that a request may take in all, with retries, fallbacks and the whole stream; default, and 0: no limit."),
    Key("enable_health_check_routing", "boolean", "Deployments whose background probe failed are left out (`background_health_checks`). A failed probe counts as a failed request in any case.", also=("general_settings",)),
    Key("enable_weighted_failover", "boolean", "After an error the other deployments of the name are asked, by their weights: so it is in any case."),
    Key("redis_url", "secret", "Redis, in which replicas and workers share limits, budgets and news of keys; default: REDIS_URL, else REDIS_HOST with REDIS_PORT, REDIS_USERNAME, REDIS_PASSWORD and REDIS_SSL."),
    Key("redis_host", "text", "As `redis_url`, in parts; the host of `cache_params` counts if there is none."),
    Key("redis_port", "integer", "The port of `redis_host`; default: 6379."),
    Key("redis_username", "text", "The user at `redis_host`, where its access lists want one."),
    Key("redis_password", "secret", "The password of `redis_host`; an empty one means none."),
    Key("redis_db", "integer", "The number of the database at `redis_host`; default: 0."),
    Key("redis_ssl", "boolean", "`redis_host` speaks TLS."),
    *_later("further settings of Redis", "cache_responses client_ttl cache_kwargs"),
    *_later("groups of routes", "routing_groups ignore_invalid_deployments"),
    Key("enable_tag_filtering", "boolean", "Requests go by their tags, and those of their key, to deployments with these `tags`."),
    Key("tag_filtering_match_any", "boolean", "One tag in common is enough; default: true."),
    Key("enable_pre_call_checks", "boolean", "A question that is longer than a model reads (by an estimate, with a tenth to spare) is not sent to it, so that `context_window_fallbacks` take over at once. The limits come from `model_info.max_input_tokens`, else from the price table."),
    Key("optional_pre_call_checks", "texts", "Who answers the next request of the same: `prompt_caching` (prompts that begin alike), `session_affinity` (`litellm_session_id`), `deployment_affinity` (a virtual key). Limits and budgets (`enforce_model_rate_limits`, `router_budget_limiting`) always hold."),
    Key("prompt_cache_affinity", "boolean", "A conversation stays with the deployment that has it in its cache, as long as what that saves is worth more than the wait there; default: false."),
    Key("deployment_affinity_ttl_seconds", "seconds", "How long it is remembered who answered; default: 3600, and 300 with `prompt_cache_affinity` alone."),
    Key("provider_budget_config", "provider_budgets", "What the deployments of a provider may cost together: `{openai: {budget_limit: 100, time_period: 1d}}`; when it is spent they are left out until the next period."),
    Key("default_max_parallel_requests", "integer", "`max_parallel_requests` of each deployment that has none of its own."),
    Key("adaptive_concurrency", "boolean", "Learn from each deployment's answers, refusals and rate limit headers how many requests it takes at once, and ask others first while it has so many; default: false."),
    Key("queue", "queue", "Requests wait where all deployments are at a limit, instead of being refused: `max_wait` seconds (30) at most, and `max_waiting` of them (1000) at a time; callers take turns. `true` stands for these figures; default: nobody waits."),
    Key("default_litellm_params", "params", "`litellm_params` of each entry, where it does not say them itself."),
)  # fmt: skip

# -- litellm_settings --------------------------------------------------------------------------------------------------

_GENERAL: tuple[Section, ...] = ("general_settings",)
_LITELLM_SETTINGS: tuple[Key, ...] = (
    Key("drop_params", "boolean", "Parameters of the client's format that a provider does not support are dropped instead of refused; fields that no format knows are passed on as they are."),
    Key("enable_azure_ad_token_refresh", "boolean", "Azure without a key: get a token of Entra ID by what `azure-identity` finds (a managed identity, a workload's), unless an entry says otherwise."),
    Key("set_verbose", "boolean", "Log at level DEBUG."),
    Key("request_timeout", "timeout", "As `timeout` of `router_settings`, and before it."),
    Key("require_auth_for_metrics_endpoint", "boolean", "`/metrics` wants a key.", also=_GENERAL),
    Key("max_budget", "price", "Dollars that the whole gateway may spend in each `budget_duration`: it binds every request, the master key's and those without a key too.", also=_GENERAL),
    Key("budget_duration", "duration", "The period of `max_budget`: `1h`, `1d`, `7d`, `30d`, `1mo` …; without one it never begins anew. `30d` and `1mo` are the calendar month.", also=_GENERAL),
    Key("budget_reset_at", "text", "The time of day at which budgets of days and months begin anew, `HH:MM`; default: midnight.", also=_GENERAL),
    Key("budget_reset_time", "text", "Another name for `budget_reset_at`."),
    Key("timezone", "text", "Where that time of day is, for instance `Europe/Berlin`; default: UTC."),
    Key("budget_exceeded_status_code", "integer", "The status of a refusal for budget reasons."),
    Key("master_key_exempt_from_budget", "boolean", "Requests with the master key neither count for `max_budget` nor are they refused for it."),
    *_later("budgets of users and tags", "max_internal_user_budget max_end_user_budget max_end_user_budget_id max_ui_session_budget tag_budget_config"),
    *_later("caching of answers", "cache cache_params"),
    *_later("callbacks and tracing", "callbacks success_callback failure_callback service_callback audit_log_callbacks store_audit_logs langfuse_public_key langfuse_secret_key langfuse_host langfuse_default_tags otel"),
    *_later("metrics beyond the built-in ones", "prometheus_metrics_config custom_prometheus_metadata_labels custom_prometheus_tags enable_end_user_cost_tracking_prometheus_only prometheus_initialize_budget_metrics disable_end_user_cost_tracking"),
    *_later("teams, users and what keys begin with", "default_team_settings default_internal_user_params default_key_generate_params key_generation_settings public_model_groups model_group_settings"),
    *_later("discounts and margins", "cost_discount_config cost_margin_config"),
    *_later("what else LiteLLM does to requests", "modify_params add_function_to_prompt enable_json_schema_validation force_ipv4 aiohttp_trust_env model_alias_map"),
    *_ignored("logs are JSON lines and never hold messages", "json_logs turn_off_message_logging redact_user_api_key_info redact_messages_in_exceptions"),
    *_ignored("LiteLLM's own housekeeping", "telemetry suppress_debug_info default_in_memory_ttl"),
    *_refused("verification of certificates cannot be changed here; trust a private authority through SSL_CERT_FILE", "ssl_verify ssl_security_level ssl_certificate", ("true",)),
    *_refused("caps on generated keys are not available", "upperbound_key_generate_params"),
)  # fmt: skip

# -- general_settings --------------------------------------------------------------------------------------------------

_EVERYWHERE: tuple[Section, ...] = ("", "litellm_settings")
_GENERAL_SETTINGS: tuple[Key, ...] = (
    Key("master_key", "secret", "The key that may do everything; default: LITELLM_MASTER_KEY. Without one the gateway is open."),
    Key("env_providers", "boolean", "Providers whose key is in the environment can be reached as `provider/model`; default: only if there is no `model_list`."),
    Key("public_routes", "texts", "Paths that need no key, for instance `/v1/models`."),
    Key("allowed_origins", "texts", "Web pages that may call the gateway from a browser (CORS), each as `https://chat.example.com`, or `*`; default: LITELLM_CORS_ORIGINS, else none.", also=_EVERYWHERE),
    Key("cors_allow_credentials", "boolean", "Browsers may send credentials; default: LITELLM_CORS_ALLOW_CREDENTIALS. Not with the origin `*`.", also=_EVERYWHERE),
    Key("max_request_size_mb", "number", "Size of a request at most, in MiB; default: 32."),
    Key("cost_per_token", "token_prices", "Dollars per token by model: one number, or `{input, output}`; wins over the built-in price."),
    Key("unknown_price_policy", "text", "What happens to a request whose price nobody knows: `warn` counts it (`penstock_unpriced_requests_total`), and refuses it where a budget binds; `block` refuses it always; `estimate` counts $5 and $25 per million tokens for budgets."),
    Key("rpm_limit", "integer", "Requests in any minute, of all callers together."),
    Key("tpm_limit", "integer", "Tokens in any minute, of all callers together; what a request is going to use is estimated until it is known."),
    Key("user_rate_limit", "object", "`{user: {rpm, tpm}}`: of a key's user, else of the end user that a request names."),
    Key("proxy_config_reload_interval_seconds", "seconds", "Seconds between two looks at the configuration's files: what they say new holds at once, without a restart; default: 0.5, and 0 means that nobody looks. SIGHUP and `POST /config/reload` reload in any case."),
    Key("max_parallel_requests", "integer", "Requests at the same time, of each virtual key that has no such limit of its own."),
    Key("global_max_parallel_requests", "integer", "Requests at the same time, of all callers together."),
    Key("limits_without_redis", "text", "What limits do while Redis is away: `local` gives each gateway its part of what is left, `open` lets everything pass, `closed` refuses with 503."),
    Key("background_health_checks", "boolean", "Ask each configured deployment for one token now and then, so that it is known to be ill before a request finds out. It costs a little money: each probe has a row in the ledger with the tag `health_check`."),
    Key("health_check_interval", "seconds", "Seconds between two probes of a deployment; default: 300. No provider gets more than one a second."),
    Key("on_budget", "text", "What happens to a stream that has used up what was reserved for it: `finish` lets it end, `cut` ends it with an error."),
    Key("on_orphan", "text", "What becomes of a request that a budget binds and that was under way when the gateway died: `charge` enters what was reserved for it, `release` enters nothing; either way it has a row of its own, `orphaned`."),
    Key("on_ledger_failure", "text", "What happens when what was spent can neither be stored nor kept (database away, disk and memory full): `serve` goes on and counts what is lost (`penstock_ledger_dropped_total`), `refuse` answers 503."),
    Key("maximum_spend_logs_retention_period", "span", "How long rows of the ledger are kept, with the unit, for instance `30d`; older ones are deleted by whole days (UTC), their sums stay: no total, spend or budget changes. Default: for ever.", also=_EVERYWHERE),
    Key("maximum_spend_logs_retention_interval", "seconds", "How often is looked for rows that are too old; default: `1d`.", also=_EVERYWHERE),
    Key("fail_closed_rate_limit_enforcement", "boolean", "The same as `limits_without_redis: closed`."),
    Key("fail_closed_budget_enforcement", "boolean", "The same as `limits_without_redis: closed`; and a budget whose spend cannot be read, because the database is away at the start, refuses with 503 instead of counting from zero until it can."),
    Key("database_url", "secret", "Postgres for keys and spend, which several replicas share; default: DATABASE_URL, else SQLite in the data folder.", also=_EVERYWHERE),
    Key("database_connection_pool_limit", "integer", "Connections to Postgres at most, per process; default: 5.", also=_EVERYWHERE),
    Key("database_connect_timeout", "seconds", "How long a connection to Postgres may take; default: 2.", also=_EVERYWHERE),
    Key("database_socket_timeout", "seconds", "How long Postgres may take to write or to find one thing; default: 5. Reports have six times as long.", also=_EVERYWHERE),
    *_ignored("no request waits for a connection to Postgres", "database_connection_timeout"),
    *_ignored("connections to Postgres that nobody uses are closed after a minute", "database_max_idle_connection_lifetime"),
    *_ignored("it works behind PgBouncer as it is", "database_disable_prepared_statements"),
    *_later("further settings of the database", "database_extra_connection_params allow_requests_on_db_unavailable coordination_redis scheduled_job_stagger"),
    *_later("models and settings in the database", "store_model_in_db supported_db_objects"),
    *_ignored("rows are written in batches, ten times a second", "proxy_batch_write_at use_redis_transaction_buffer"),
    *_ignored("a budget begins anew at its boundary by itself", "proxy_budget_rescheduler_min_time proxy_budget_rescheduler_max_time"),
    *_later("further rate limits", "token_rate_limit_type max_in_flight_requests_per_worker max_queued_requests_per_worker admission_queue_timeout_seconds disable_fallbacks_on_per_model_rate_limits"),
    *_later("further settings of budgets", "disable_budget_reservation apply_user_budget_to_team_keys self_serve_budget_policy budget_exceeded_throttle_percentage"),
    *_later("teams, users and rules for keys", "custom_key_generate custom_key_update custom_key_policy custom_team_metadata_validate user_api_key_cache_ttl user_api_key_cache_max_size user_header_name user_header_mappings infer_model_from_keys default_team_disabled disable_auto_add_proxy_admin_to_teams"),
    *_later("further settings of spend logs", "disable_spend_logs store_prompts_in_spend_logs spend_logs_metadata_fields spend_capture_rate_check disable_requester_ip_address_logging maximum_autorouter_session_retention_period maximum_health_check_retention_period maximum_daily_tag_spend_retention_period maximum_spend_logs_size maximum_spend_logs_cleanup_target_size maximum_spend_logs_size_check_interval maximum_spend_logs_cleanup_cron use_spend_logs_partitioning maximum_spend_logs_cleanup_batch_size maximum_spend_logs_cleanup_max_batches maximum_spend_logs_cleanup_run_budget maximum_spend_logs_cleanup_batch_timeout accounting_capture accounting_sync_ack accounting_sync_ack_timeout_seconds accounting_sync_ack_failure_policy request_tag_mappings"),
    *_later("alerts", "alerting alert_types alert_to_webhook_url alerting_args alerting_threshold"),
    *_later("further settings of health checks", "health_check_concurrency health_check_details health_check_staleness_threshold health_check_ignore_transient_errors health_check_skip_disabled_background_models background_health_check_model_groups use_shared_health_check model_list_healthy_only"),
    *_later("the admin page", "ui_access_mode max_failed_login_attempts_per_source max_failed_login_attempts_per_source_overrides failed_login_window_seconds failed_login_block_seconds password_policy_min_length password_policy_require_uppercase password_policy_require_lowercase password_policy_require_numbers password_policy_require_special_characters disable_password_login_when_sso_enabled disable_env_credential_login enable_public_model_hub plugins"),
    *_later("files and batches", "proxy_batch_polling_interval max_batch_file_size_mb max_batch_file_records max_batch_file_uploads_per_day max_file_downloads_per_minute max_file_size_mb allowed_file_extensions blocked_file_extensions transcribe_media_buckets"),
    *_later("Responses API", "responses_websocket_session_limit_seconds disable_responses_id_security allow_unmanaged_response_ids enable_openai_websocket_passthrough"),
    *_later("MCP servers, agents and search", "mcp_internal_ip_ranges mcp_advertised_versions mcp_disabled_capabilities mcp_allowed_clients mcp_require_explicit_server_scope mcp_client_id_header mcp_trusted_proxy_ranges mcp_xff_num_trusted_hops mcp_prefer_client_id_metadata_document mcp_required_fields user_mcp_management_mode vector_store_deny_by_default search_tool_deny_by_default agent_access_default_deny"),
    *_later("requests and answers", "completion_model max_response_size_mb return_wildcard_routes include_call_id_in_error_body forward_client_headers_to_llm_api pass_through_request_timeout vertex_ai_pass_through_drop_anthropic_betas missing_session_id use_x_forwarded_for user_url_allowed_hosts provider_url_destination_allowed_hosts"),
    *_later("secret managers", "key_management_system key_management_settings use_google_kms use_azure_key_vault"),
    *_later("other products of LiteLLM", "control_plane_url allow_cli_sso_verification_uri_complete enable_claude_code_gateway claude_code_gateway_managed_settings claude_code_marketplace_auth_required database_type database_args"),
    Key("strict_security", "boolean", "a start is never refused for a well-known key, it is only reported", "refused"),
    *_ignored("cost is tracked per model always", "track_cost_per_model"),
    *_ignored("a request is cancelled when its client leaves, but where `on_disconnect: drain` is set", "cancel_on_disconnect"),
    *_ignored("usage of streams is always asked for", "always_include_stream_usage"),
    *_ignored("without a master key the gateway starts open and says so", "dangerously_permit_weak_or_unset_master_key"),
    *_refused("filtering by address is not available; do it in the reverse proxy", "allowed_ips", ("*", "0.0.0.0/0", "::/0")),
    *_refused("filtering by address is not available; do it in the reverse proxy", "blocked_ips trusted_proxy_ranges"),
    *_refused("authentication other than by key is not available", "custom_auth custom_auth_run_common_checks enable_jwt_auth litellm_jwtauth enable_oauth2_auth enable_oauth2_proxy_auth oauth2_config_mappings custom_sso custom_ui_sso_sign_in_handler role_permissions"),
    *_refused("routes cannot be restricted here", "allowed_routes admin_only_routes"),
    *_refused("pass-through routes are not available", "pass_through_endpoints"),
    *_refused("rules for what a request must or may not hold are not available", "enforced_params reject_clientside_metadata_tags"),
    *_ignored("a fallback that the caller's key may not use is never asked", "enforce_fallback_model_access"),
    *_refused("credentials and mock answers never come from a request", "allow_client_side_credentials dangerously_allow_mock_testing_request_params"),
    *_refused("the guard against private addresses cannot be changed", "user_url_validation", ("true",)),
    *_refused("TLS is ended by the reverse proxy; serving it is not available", "ssl_keyfile_path ssl_certfile_path ssl_certfile ssl_keyfile ciphers"),
)  # fmt: skip

# -- credential_list ---------------------------------------------------------------------------------------------------

CREDENTIAL: tuple[Key, ...] = (
    Key("credential_name", "text", "Its name, each once."),
    Key("credential_values", "object", "What it says: `api_key`, `api_base`, `api_version`, `organization`, `region_name`, `custom_llm_provider`, and the settings of one provider (`vertex_credentials`, `aws_secret_access_key` …)."),
    Key("credential_info", "object", "Whatever else there is to say of it; kept and shown."),
)  # fmt: skip

CREDENTIAL_VALUES: dict[str, Kind] = {
    "api_key": "secret",
    "api_base": "url",
    "base_url": "url",
    "api_version": "text",
    "organization": "text",
    "region_name": "text",
    "custom_llm_provider": "text",
    **OPTIONS,
}
"""What a named credential may say, and what each takes."""

# -- virtual_keys ------------------------------------------------------------------------------------------------------

VIRTUAL_KEY: tuple[Key, ...] = (
    Key("key", "secret", "The key itself, 16 characters at least; write `os.environ/NAME`, a file is no place for it."),
    Key("key_alias", "text", "Its name in logs, metrics and the ledger; each name once."),
    Key("models", "texts", "What it may ask for: public names, patterns (`openai/*`), access groups (`model_info.access_groups`); default: everything."),
    Key("aliases", "texts_by_name", "Its own words for models."),
    Key("allowed_routes", "texts", "What it may call: paths, patterns (`/v1/*`), groups (`llm_api_routes`, `openai_routes`, `anthropic_routes`, `info_routes`); default: everything that keys may."),
    Key("key_type", "text", "`llm_api`, `management`, `read_only` or `default`: a short word for `allowed_routes`."),
    Key("max_budget", "price", "Dollars that it may spend in each `budget_duration`."),
    Key("budget_duration", "text", "When `max_budget` begins anew: `1h`, `1d`, `30d`, `1mo` …; default: never."),
    Key("budget_limits", "any", "Further budgets that all hold at once: `[{max_budget, budget_duration}]`."),
    Key("model_max_budget", "object", "Budgets by model: `{gpt-4o: {budget_limit, time_period}}`."),
    Key("soft_budget", "price", "Dollars that it should not spend: kept and shown. Nothing is refused, and nobody is told yet."),
    Key("tpm_limit", "integer", "Tokens in any minute."),
    Key("rpm_limit", "integer", "Requests in any minute."),
    Key("max_parallel_requests", "integer", "Requests at the same time."),
    Key("model_tpm_limit", "object", "Tokens in any minute, by model."),
    Key("model_rpm_limit", "object", "Requests in any minute, by model."),
    Key("user_id", "text", "Whose it is."),
    Key("team_id", "text", "Whose it is."),
    Key("tags", "texts", "Words that its spend is grouped by."),
    Key("metadata", "object", "Whatever else there is to say of it; kept and shown."),
    Key("blocked", "boolean", "It is not let in."),
)  # fmt: skip

# -- the top of the file -----------------------------------------------------------------------------------------------

_TOP: tuple[Key, ...] = (
    Key("model_list", "any", "The models: public name, and where each lives."),
    Key("router_settings", "any", "Which deployment is tried, how often, and who stands in."),
    Key("litellm_settings", "any", "How requests are treated."),
    Key("general_settings", "any", "Who may, from where, and how much."),
    Key("environment_variables", "any", "Names and values that are set in the environment before anything else is read."),
    Key("include", "any", "Further files, beside the one that names them: lists are joined, other keys replaced."),
    Key("llm_providers", "any", "A blueprint's providers: `{name: {enabled, api_key, base_url, models: […]}}`, expanded to a `model_list`."),
    Key("credential_list", "any", "Named credentials, beside those of `POST /credentials`: what entries with `litellm_credential_name` need not repeat."),
    Key("virtual_keys", "any", "Keys that the gateway hands out, beside those of `/key/generate`; they are changed here and nowhere else."),
    *_ignored("a blueprint's word for the container: host and port are given on the command line or in the environment", "litellm"),
    *_later("callbacks and tracing", "callback_settings"),
    *_later("MCP servers, agents and search", "mcp_servers mcp_tools mcp_aliases agent_list search_tools vector_store_registry sandbox_tools"),
    *_later("files, batches and assistants", "files_settings finetune_settings assistant_settings"),
    *_later("prompts", "prompts"),
    *_later("other products of LiteLLM", "worker_registry"),
    *_refused("guardrails are not available", "guardrails policies"),
)  # fmt: skip


def _in(section: Section, keys: tuple[Key, ...]) -> dict[str, Key]:
    return {
        key.name: Key(key.name, key.kind, key.text, key.status, section, key.also, key.harmless)
        for key in keys
    }


TOP: dict[str, Key] = _in("", _TOP)
"""What has its place at the top and nowhere else."""

SETTINGS: dict[str, Key] = (
    _in("router_settings", _ROUTER)
    | _in("litellm_settings", _LITELLM_SETTINGS)
    | _in("general_settings", _GENERAL_SETTINGS)
)
"""Every setting by its name; names are unique, so that a misplaced one is understood."""

LIMITS = frozenset(
    (
        "max_budget",
        "max_internal_user_budget",
        "max_end_user_budget",
        "max_end_user_budget_id",
        "max_ui_session_budget",
        "tag_budget_config",
        "provider_budget_config",
        "tpm_limit",
        "rpm_limit",
        "user_rate_limit",
        "max_parallel_requests",
        "global_max_parallel_requests",
        "default_max_parallel_requests",
        "itpm",
        "otpm",
        "tpd",
        "rpd",
        "default_api_key_tpm_limit",
        "default_api_key_rpm_limit",
    )
)
"""Words, of settings, of `litellm_params` and of `virtual_keys`, for which somebody has to count what all workers do."""

ENTRY_KEYS: dict[str, Key] = {key.name: key for key in ENTRY}
PARAM_KEYS: dict[str, Key] = {key.name: key for key in (*PARAMS, *_OPTIONS)}

VIRTUAL_KEY_KEYS: dict[str, Key] = {key.name: key for key in VIRTUAL_KEY}

SECTIONS: tuple[Section, ...] = ("router_settings", "litellm_settings", "general_settings")

STRATEGIES: dict[str, str] = {
    "simple-shuffle": "simple-shuffle",
    "least-busy": "least-busy",
    "usage-based-routing": "usage-based-routing",
    "usage-based-routing-v2": "usage-based-routing",
    "usage-based": "usage-based-routing",
    "latency-based-routing": "latency-based-routing",
    "latency-based": "latency-based-routing",
    "performance-based": "performance-based",
    "performance-based-routing": "performance-based",
    "cost-based-routing": "cost-based-routing",
    "cost-based": "cost-based-routing",
    "provider-budget-routing": "provider-budget-routing",
    "geo-routing": "geo-routing",
    "geo-based": "geo-routing",
    "geographic": "geo-routing",
    "geographic-routing": "geo-routing",
    "weighted": "simple-shuffle",
}
"""Names of routing strategies, the ones that people write beside the ones that they mean."""

PRE_CALL_CHECKS = (
    "prompt_caching",
    "session_affinity",
    "deployment_affinity",
    "enforce_model_rate_limits",
    "router_budget_limiting",
)
"""Those of LiteLLM's `optional_pre_call_checks` that mean something here; the last two always hold."""

DISCONNECTS = ("cancel", "drain")

RECOVERIES = ("none", "continue")

PRICE_POLICIES = ("warn", "block", "estimate")

CHOICES: dict[str, tuple[str, ...]] = {
    "unknown_price_policy": PRICE_POLICIES,
    "limits_without_redis": ("local", "open", "closed"),
    "on_budget": ("finish", "cut"),
    "on_orphan": ("charge", "release"),
    "on_ledger_failure": ("serve", "refuse"),
}
"""Settings that take one of a few words."""
