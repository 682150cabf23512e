"""What was written: the configuration as frozen structs, after names are resolved and before anything is compiled.

`load.load` makes a `Config` from YAML, `routes.compile_routes` makes routes from it. Each setting has exactly one home
here, wherever in the file it stood: `config.router.num_retries` holds a `num_retries` that was written under
`litellm_settings`. The names are the ones that deployments already use, so that a file, this page and an error message
speak the same language; `vocabulary` says of every name what it means and whether it has an effect yet.

Three habits: seconds are floats; prices stay the decimal text that was written, because a float already is another
price; and whatever may hold a key is a `Secret`, whose text only `reveal()` gives.
"""

from __future__ import annotations

from typing import Any, NoReturn

from msgspec import Struct, field

PROVIDER_KEY = r"sk-[\w-]{6,}|(?:gsk|xai|pplx|nvapi|hf|r8|gh[opsu]|glpat|rk|pk)[-_][\w-]{16,}"
"""A pattern for keys by how providers and code hosts begin them, for whatever must not show one."""


class Secret:
    """Text that must not be shown: prints as `…a1b2`, and no serializer knows how to write it.

    It is deliberately not a `str`: an encoder, a format string or a join would let a subclass through in clear.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that sends it."""
        return self._text

    def __str__(self) -> str:
        return f"…{self._text[-4:]}" if len(self._text) >= 12 else "…"

    def __repr__(self) -> str:
        return f"Secret({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


class Place(Struct, frozen=True, order=True):
    """Where something stands. Line and column count from 1 as editors do; line 0 means no line in particular."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class ModelParams(Struct, frozen=True, kw_only=True):
    """`litellm_params` of one entry: where a model lives, how it is paid, and what requests get by default."""

    model: str
    """`provider/model`, or a bare name that everyone knows; `*` in it takes what the public name's `*` matched."""
    custom_llm_provider: str | None = None
    api_key: Secret | None = None
    api_base: str | None = None
    api_version: str | None = None
    organization: str | None = None
    litellm_credential_name: str | None = None
    """The named credential that says what this entry does not."""
    region_name: str | None = None
    options: dict[str, str | Secret] = field(default_factory=dict)
    """Settings that only one provider has (`vertex_project`, `aws_secret_access_key` …), secret where they are keys."""

    weight: float | None = None
    order: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    itpm: int | None = None
    otpm: int | None = None
    tpd: int | None = None
    rpd: int | None = None
    daily_reset_time: str | None = None
    """When the days of `tpd` and `rpd` begin, `HH:MM`."""
    max_parallel_requests: int | None = None
    max_budget: str | None = None
    budget_duration: str | None = None
    tags: tuple[str, ...] = ()
    tag_regex: tuple[str, ...] = ()

    timeout: float | None = None
    stream_timeout: float | None = None
    max_retries: int | None = None
    cooldown_time: float | None = None
    on_disconnect: str = "cancel"

    drop_params: bool | None = None
    additional_drop_params: tuple[str, ...] = ()
    allowed_openai_params: tuple[str, ...] = ()
    extra_headers: dict[str, Secret] = field(default_factory=dict)
    extra_body: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    """Every key that has no meaning of its own (`temperature`, `max_tokens` …): JSON values that a request gets
    where it does not set them."""

    input_cost_per_token: str | None = None
    output_cost_per_token: str | None = None
    cache_read_input_token_cost: str | None = None
    cache_creation_input_token_cost: str | None = None
    other_prices: dict[str, str | dict[str, str]] = field(default_factory=dict)
    """The other `*_cost*` keys (`…_above_200k_tokens`, `…_batches` …), dollars as decimal text like the four above."""

    mock_response: str | None = None
    """Answer with this text and ask nobody."""
    mock_first_delay: float | None = None
    """Seconds before the first word of a mock answer."""
    mock_delay: float | None = None
    """Seconds between the words of a mock answer."""


class ModelEntry(Struct, frozen=True, kw_only=True):
    """One item of `model_list`: a public name and one way to serve it."""

    model_name: str
    params: ModelParams
    info: dict[str, Any] = field(default_factory=dict)
    """`model_info`: `id`, `mode`, `base_model` and whatever else; JSON values, kept as written."""
    place: Place
    unset: tuple[str, ...] = ()
    """Environment variables that its key or its address needs and that are not set: it must not be served then, since
    another key, or the provider's own address, is not what was meant."""
    lacks: str = ""
    """What else keeps it from being served, known before anybody looks at its provider."""


class Fallbacks(Struct, frozen=True):
    """Who answers when a model cannot: the three dialects of `fallbacks`, told apart but not yet applied."""

    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """`- gpt-4: [a, b]` and `- {model_name: gpt-4, fallbacks: [a, b]}`: model -> its stand-ins, in order."""
    rings: tuple[tuple[str, ...], ...] = ()
    """A list of bare names: a member falls to the members after it, any other model to the whole list."""

    def __bool__(self) -> bool:
        return bool(self.chains or self.rings)

    def of(self, name: str) -> tuple[str, ...]:
        """The stand-ins of a model: its own, else those of `*`, else what a ring says."""
        found = self.chains.get(name) or self.chains.get("*") or ()
        for ring in self.rings[:0] if found else self.rings:
            return ring[ring.index(name) + 1 :] if name in ring else ring
        return found


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """`retry_policy`, both dialects in one: how often each kind of error is retried, and how long is waited before."""

    retries: dict[str, int] = field(default_factory=dict)
    """By LiteLLM's name of the error: `RateLimitErrorRetries: 3` is here under `RateLimitError`."""
    max_retries: int | None = None
    """All other errors; `DefaultRetries` is another name for it."""
    base_delay: float | None = None
    max_delay: float | None = None

    def __bool__(self) -> bool:
        return self != RetryPolicy()


class RetryBudget(Struct, frozen=True, kw_only=True):
    """How many further attempts there may be: a part of the requests of the last ten seconds, at least so many a second."""

    ratio: float = 0.2
    minimum: float = 3.0


class Hedging(Struct, frozen=True):
    """`hedging`: asking another deployment too when one is slow to begin. `after` is seconds, None: what 95 of 100 of its
    answers took; `max` is how many others a request may ask so.
    """

    after: float | None = None
    max: int = 1


class QueueSettings(Struct, frozen=True, kw_only=True):
    """How long a request waits for a deployment that is at its limit, seconds, and how many may wait."""

    max_wait: float = 30.0
    max_waiting: int = 1_000


class Alias(Struct, frozen=True):
    """Another name for models. Several targets make one group of all their deployments."""

    targets: tuple[str, ...]
    hidden: bool = False
    """Not listed in `/v1/models`."""
    in_order: bool = False
    """The first target is asked as long as it can be, then the second …"""


class StrategyArgs(Struct, frozen=True):
    """`routing_strategy_args`: how strategies look at speed."""

    ttl: float = 3600.0
    """Seconds after which a measurement says little: a slow deployment is then nearly as good as the fastest."""
    lowest_latency_buffer: float = 0.0
    """How much slower than the fastest is as good as it: 0.1 for a tenth."""
    max_latency_list_size: int = 10
    """About how many of the last measurements make an average."""


class ProviderBudget(Struct, frozen=True):
    """Dollars as decimal text that a provider's deployments may cost together in each `period`; None: in all."""

    limit: str
    period: str | None = None


class RouterSettings(Struct, frozen=True, kw_only=True):
    """`router_settings`: which deployment is tried, how often, and who stands in."""

    routing_strategy: str = "simple-shuffle"
    routing_strategy_args: StrategyArgs = StrategyArgs()
    num_retries: int = 2
    timeout: float | None = None
    stream_timeout: float | None = None
    cooldown_time: float = 5.0
    disable_cooldowns: bool = False
    allowed_fails: int | None = None
    allowed_fails_policy: dict[str, int] = field(default_factory=dict)
    """By LiteLLM's name of the error, as in `RetryPolicy.retries`."""
    fallbacks: Fallbacks = field(default_factory=Fallbacks)
    context_window_fallbacks: Fallbacks = field(default_factory=Fallbacks)
    content_policy_fallbacks: Fallbacks = field(default_factory=Fallbacks)
    default_fallbacks: tuple[str, ...] = ()
    max_fallbacks: int = 5
    model_group_alias: dict[str, Alias] = field(default_factory=dict)
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    model_group_retry_policy: dict[str, RetryPolicy] = field(default_factory=dict)
    """By public name."""
    retry_after: float = 0.0
    retry_budget: RetryBudget = field(default_factory=RetryBudget)
    hedging: Hedging | None = None
    stream_recovery: str = "none"
    """`continue`: another deployment goes on with a stream that breaks."""
    total_timeout: float | None = None
    """Seconds that a request may take in all."""
    enable_health_check_routing: bool = False
    enable_weighted_failover: bool = True
    """So it is, whatever is written."""
    enable_tag_filtering: bool = False
    tag_filtering_match_any: bool = True
    enable_pre_call_checks: bool = False
    optional_pre_call_checks: tuple[str, ...] = ()
    prompt_cache_affinity: bool = False
    deployment_affinity_ttl_seconds: float | None = None
    default_max_parallel_requests: int | None = None
    adaptive_concurrency: bool = False
    queue: QueueSettings | None = None
    """None: nobody waits."""
    default_litellm_params: tuple[str, ...] = ()
    """Which parameters entries have from there; their values are in the entries."""
    provider_budget_config: dict[str, ProviderBudget] = field(default_factory=dict)
    """By provider."""
    redis_url: Secret | None = None
    redis_host: str | None = None
    redis_port: int | None = None
    redis_username: str | None = None
    redis_password: Secret | None = None
    redis_db: int | None = None
    redis_ssl: bool = False


class LiteLLMSettings(Struct, frozen=True, kw_only=True):
    """`litellm_settings`: how requests are treated and what is told about them."""

    drop_params: bool = False
    enable_azure_ad_token_refresh: bool = False
    set_verbose: bool = False
    request_timeout: float | None = None
    max_budget: str | None = None
    """Dollars for the whole gateway, as decimal text."""
    budget_duration: str | None = None
    budget_reset_at: str | None = None
    """A time of day, `HH:MM`; `budget_reset_time` is another name for it."""
    budget_reset_time: str | None = None
    timezone: str | None = None
    budget_exceeded_status_code: int = 422
    master_key_exempt_from_budget: bool = False
    require_auth_for_metrics_endpoint: bool = False


class TokenPrice(Struct, frozen=True):
    """An operator's price of a model: dollars per token as decimal text."""

    input: str
    output: str


class GeneralSettings(Struct, frozen=True, kw_only=True):
    """`general_settings`: who may, from where, how much, and where the books are kept."""

    master_key: Secret | None = None
    master_key_named: bool = False
    """The file or the environment says that there is one; if `master_key` is None all the same, it resolved to
    nothing and the gateway must not start open."""
    database_url: Secret | None = None
    database_connection_pool_limit: int | None = None
    database_connect_timeout: float | None = None
    database_socket_timeout: float | None = None
    env_providers: bool | None = None
    """Providers whose key is in the environment can be reached by prefix; None = only if there is no `model_list`."""
    public_routes: tuple[str, ...] = ()
    proxy_config_reload_interval_seconds: float | None = None
    """Seconds between two looks at the configuration's files; 0: nobody looks."""
    allowed_origins: tuple[str, ...] = ()
    cors_allow_credentials: bool = False
    max_request_size_mb: float | None = None
    cost_per_token: dict[str, TokenPrice] = field(default_factory=dict)
    unknown_price_policy: str = "warn"
    rpm_limit: int | None = None
    """Requests per minute of the whole gateway, as `tpm_limit` its tokens."""
    tpm_limit: int | None = None
    user_rate_limit: dict[str, dict[str, int]] = field(default_factory=dict)
    """By user: `rpm` and `tpm`."""
    max_parallel_requests: int | None = None
    """Of each virtual key that has none of its own."""
    global_max_parallel_requests: int | None = None
    limits_without_redis: str = "local"
    on_budget: str = "finish"
    on_orphan: str = "charge"
    on_ledger_failure: str = "serve"
    maximum_spend_logs_retention_period: float | None = None
    """Seconds that rows of the ledger are kept; None: for ever."""
    maximum_spend_logs_retention_interval: float | None = None
    background_health_checks: bool = False
    health_check_interval: float = 300.0
    fail_closed_rate_limit_enforcement: bool = False
    fail_closed_budget_enforcement: bool = False


class VirtualKey(Struct, frozen=True, kw_only=True):
    """One item of `virtual_keys`: a key that somebody chose, and what it may, by the words of `/key/generate`."""

    key: Secret
    fields: dict[str, Any] = field(default_factory=dict)
    place: Place


class NamedCredential(Struct, frozen=True, kw_only=True):
    """One item of `credential_list`: what entries that name it need not say themselves."""

    name: str
    values: dict[str, Secret] = field(default_factory=dict)
    """By the words of `litellm_params`: `api_key`, `api_base`, `vertex_credentials` …; not all are secret."""
    info: dict[str, Any] = field(default_factory=dict)
    place: Place
    unset: tuple[str, ...] = ()
    """Environment variables that it needs and that are not set: whatever names it must not be served then."""


class Config(Struct, frozen=True, kw_only=True):
    """Everything that the configuration files said."""

    model_list: tuple[ModelEntry, ...] = ()
    router: RouterSettings = field(default_factory=RouterSettings)
    litellm: LiteLLMSettings = field(default_factory=LiteLLMSettings)
    general: GeneralSettings = field(default_factory=GeneralSettings)
    virtual_keys: tuple[VirtualKey, ...] = ()
    credentials: tuple[NamedCredential, ...] = ()
    """`credential_list`."""
    environment_variables: dict[str, Secret] = field(default_factory=dict)
    """To be set in the process: what `environment_variables:` holds, `os.environ/` and `${}` resolved."""
    files: tuple[str, ...] = ()
    """Every file that was read, the first one first."""
