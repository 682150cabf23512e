"""Which model names exist, and who serves them.

`compile_routes` makes this once from what was written (`Config`), the environment and the price table; at run time it is
only read. A *deployment* is one model at one provider with one key. A *route* is a public name and its deployments.

A name is looked up in this order: an alias, a name of `model_list`, the most specific wildcard, and last a provider
whose key is in the environment, if that is allowed: an operator's list stays closed (`general_settings.env_providers`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
from msgspec import Struct

from adapters import PROVIDERS
from adapters.providers import find as find_provider
from adapters.providers import for_model, located
from adapters.providers import provider as provider_row
from adapters.types import Provider, Target
from gateway.config.model import Alias, Config, Fallbacks, ModelEntry, ModelParams, Place, Secret
from gateway.config.vocabulary import OPTIONS
from gateway.named_credentials import LONG_ENOUGH, NOT_ASKED, Credentials, with_credentials
from gateway.pricing import FREE, ModelFacts, Price, PriceTable, completed, price_from_params, readable_prices
from gateway.provider_settings import ProviderSettings, filled, is_set_up, problem_of_base, signer_of

_REMEMBERED = 2_000
_SECRET_HEADER = re.compile(r"auth|cookie|credential|key|passw|secret|signature|token", re.IGNORECASE)
"""Headers whose values are secrets, however short."""


class Mock(Struct, frozen=True):
    """A deployment that asks nobody: it says `text`. Delays are seconds."""

    text: str
    first_delay: float = 0.0
    delay: float = 0.0


class Deployment(Struct, frozen=True, kw_only=True, eq=False):
    """One model at one provider with one key."""

    id: str
    route: str
    target: Target
    api_key: Secret | None = None
    scope: str = ""
    """Which pool of connections it uses: they are never shared between credentials."""
    weight: float = 1.0
    order: int = 0
    params: ModelParams | None = None
    """What was written of it, for whoever needs more of that than stands here."""
    timeout: float | None = None
    stream_timeout: float | None = None
    max_retries: int | None = None
    drains: bool = False
    """A stream whose client leaves runs to its end, for the provider's own count."""
    signer: str = ""
    """What signs its requests, if its key alone does not: a kind of `gateway.credentials.MAKERS`."""
    credentials: dict[str, str | Secret] = {}
    """The provider's own settings (`vertex_project`, `aws_secret_access_key` …), with what the environment says."""
    headers: dict[str, Secret] = {}
    defaults: dict[str, Any] = {}
    drop: tuple[str, ...] = ()
    price: Price | None = None
    price_source: str = ""
    facts: ModelFacts | None = None
    mock: Mock | None = None
    info: dict[str, Any] = {}
    place: Place | None = None
    notes: dict[Any, Any] = msgspec.field(default_factory=dict)
    """What stages prepare once for all its requests; nothing in it may show a secret."""

    @property
    def provider(self) -> str:
        """The provider's name."""
        return self.target.provider.name

    @property
    def origin(self) -> str:
        """Scheme, host and port of where it is asked; `mock:` where nobody is."""
        if self.mock is not None:
            return "mock:"
        return "/".join(self.target.base_url.split("/", 3)[:3])

    @property
    def model_name(self) -> str:
        """`openai/gpt-4o`: what LiteLLM calls the model's name."""
        return f"{self.provider}/{self.target.model}"

    @property
    def described(self) -> str:
        """For the operator: what it is, and where it stands."""
        return f"{self.model_name}, a deployment of {self.route} ({self.place or self.id})"


class Route(Struct, frozen=True, eq=False):
    """A public model name and who serves it."""

    name: str
    deployments: tuple[Deployment, ...]
    hidden: bool = False
    notes: dict[Any, Any] = msgspec.field(default_factory=dict)
    """What `gateway.routing` prepares once for all its requests."""


class Unserved(Struct, frozen=True):
    """An entry of `model_list` that cannot be served, and why."""

    model_name: str
    place: Place
    why: str


class _Wildcard(Struct, frozen=True):
    prefix: str
    suffix: str
    entries: tuple[ModelEntry, ...]

    def match(self, name: str) -> str | None:
        if len(name) < len(self.prefix) + len(self.suffix):
            return None
        if not name.startswith(self.prefix) or not name.endswith(self.suffix):
            return None
        return name[len(self.prefix) : len(name) - len(self.suffix)]


class Routes:
    """All names. Ask `find` for one, `plan` for it and its stand-ins, `names` for the list."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        prices: PriceTable,
    ) -> None:
        # A variable that was read from a file has the file's last line break.
        environ = {name: value.strip() for name, value in environ.items()}
        self._config = config
        self._environ = environ
        self._prices = prices
        self._settings = ProviderSettings(environ, renews_entra=config.litellm.enable_azure_ad_token_refresh)
        self._exact: dict[str, Route] = {}
        self._wildcards: list[_Wildcard] = []
        self._found: OrderedDict[str, Route | None] = OrderedDict()
        self._compiled = False
        router = config.router
        others = router.context_window_fallbacks or router.content_policy_fallbacks
        self._has_stand_ins = bool(router.fallbacks or router.default_fallbacks or others)
        self._names: list[str] = []
        self.unserved: list[Unserved] = []
        self.env_providers = _env_providers(config, environ)
        if _env_allowed(config):
            self.unserved += _off_in_environment(environ)

    # -- at run time --

    def find(self, name: str) -> Route | None:
        """The route of this name, made on the spot for wildcards and providers of the environment."""
        route = self._exact.get(name)
        if route is not None:
            return route
        if name in self._found:
            self._found.move_to_end(name)
            return self._found[name]
        route = self._from_wildcard(name) or self._from_environment(name)
        self._found[name] = route
        if len(self._found) > _REMEMBERED:  # callers choose the names: what is remembered is bounded
            self._found.popitem(last=False)
        return route

    def stand_ins(
        self, name: str, asked: tuple[str, ...] = (), *, then: str = "fallbacks"
    ) -> Sequence[Route]:
        """The fallbacks of a name, in order; `asked` are the caller's own, which come instead of the configured.

        `then` is the setting that lists them; where it has none for the name, the general ones count.
        """
        router = self._config.router
        if not (asked or self._has_stand_ins):
            return ()
        own: Fallbacks = getattr(router, then)
        names = asked or own.of(name) or router.fallbacks.of(name) or router.default_fallbacks
        found = [self.find(other) for other in names if other != name]
        return [route for route in found if route is not None][: router.max_fallbacks]

    def names(self) -> list[str]:
        """The public names that can be listed: those of the configuration, then what wildcards are known to match."""
        if not self._names:
            self._names = self._all_names()  # thousands with many providers: 30 ms, once
        return self._names

    def _all_names(self) -> list[str]:
        listed = {name: None for name, route in self._exact.items() if not route.hidden}
        for wildcard in self._wildcards:
            for entry in wildcard.entries:
                for model in self._known_models(entry.params):
                    listed[f"{wildcard.prefix}{model}{wildcard.suffix}"] = None
        for provider in self.env_providers.values():
            for model in self._prices.models(provider.name):
                listed[model if _is_bare(model, provider) else f"{provider.name}/{model}"] = None
        return list(listed)

    def patterns(self) -> list[str]:
        """What can be asked for, in short: configured names, wildcards, `provider/*` of the environment."""
        shown = [name for name, route in self._exact.items() if not route.hidden]
        shown += [f"{wildcard.prefix}*{wildcard.suffix}" for wildcard in self._wildcards]
        return [*shown, *(f"{name}/*" for name in self.env_providers)]

    def what_is_missing(self, name: str) -> str:
        """Why a model of a provider that we know cannot be asked for, empty if nobody knows whose it is."""
        found = find_provider(name)
        if found is None or found[0].name in self.env_providers:
            return ""
        if not _env_allowed(self._config):
            return "It is not in the configuration's model_list, and general_settings.env_providers is off."
        row = found[0]
        if problem := problem_of_base(row, self._environ):
            return f"{problem}."
        return f"Set {' or '.join(row.env or row.base_env)} to use the models of {row.title or row.name}."

    def secrets(self) -> Iterator[Secret]:
        """Every key that may be sent somewhere, for the redactor. A header's `1` would be taken out of every message."""
        for entry in self._config.model_list:
            if entry.params.api_key:
                yield entry.params.api_key
            for name, value in entry.params.extra_headers.items():
                if _SECRET_HEADER.search(name) or len(value.reveal()) >= LONG_ENOUGH:
                    yield value
            yield from (value for value in entry.params.options.values() if isinstance(value, Secret))
        for row in PROVIDERS.values():
            own = (names for option, names in row.option_env.items() if OPTIONS[option] == "secret")
            for name in (*row.env, *chain.from_iterable(own)):
                if self._environ.get(name):
                    yield Secret(self._environ[name])

    def configured(self) -> Iterator[Route]:
        """Routes that the configuration names one by one."""
        yield from self._exact.values()

    def wildcards(self) -> Iterator[tuple[str, tuple[ModelEntry, ...]]]:
        """Patterns and the entries behind them."""
        for wildcard in self._wildcards:
            yield f"{wildcard.prefix}*{wildcard.suffix}", wildcard.entries

    # -- made once --

    def compile(self) -> Routes:
        """Read the whole list. Entries that cannot be served are in `unserved`."""
        exact: dict[str, list[Deployment]] = {}
        wild: dict[str, list[ModelEntry]] = {}
        alike: Counter[tuple[str | None, ...]] = Counter()
        for entry in self._config.model_list:
            if "*" in entry.model_name:
                if self._serves(entry, entry.params.model.replace("*", "x")):
                    wild.setdefault(entry.model_name, []).append(entry)
                continue
            told = _identity(entry, entry.model_name, entry.params.model)
            deployment = self._deployment(entry, entry.model_name, entry.params.model, str(alike[told]))
            alike[told] += 1
            if deployment is not None:
                exact.setdefault(entry.model_name, []).append(deployment)
        for name, deployments in exact.items():
            self._exact[name] = Route(name, tuple(deployments))
        for pattern, entries in wild.items():
            prefix, _, suffix = pattern.partition("*")
            self._wildcards.append(_Wildcard(prefix, suffix, tuple(entries)))
        self._wildcards.sort(key=lambda wildcard: -len(wildcard.prefix) - len(wildcard.suffix))
        for name, alias in self._config.router.model_group_alias.items():
            self._add_alias(name, alias)
        self._compiled = True
        return self

    def _add_alias(self, name: str, alias: Alias) -> None:
        members = [self.find(target) for target in alias.targets]
        deployments = tuple(deployment for member in members if member for deployment in member.deployments)
        if alias.in_order:
            deployments = tuple(_in_order([member.deployments for member in members if member]))
        if deployments:
            self._exact[name] = Route(name, deployments, hidden=alias.hidden)
        self._found.clear()

    def _from_wildcard(self, name: str) -> Route | None:
        for wildcard in self._wildcards:
            matched = wildcard.match(name)
            if matched is None:
                continue
            made = (
                self._deployment(entry, name, entry.params.model.replace("*", matched), f"{position}*")
                for position, entry in enumerate(wildcard.entries)
            )
            deployments = tuple(deployment for deployment in made if deployment is not None)
            if deployments:
                return Route(name, deployments)
        return None

    def _from_environment(self, name: str) -> Route | None:
        found = find_provider(name)
        if found is None or found[0].name not in self.env_providers:
            return None
        provider, model = found
        entry = ModelEntry(model_name=name, params=ModelParams(model=name), place=Place("environment", 0, 0))
        deployment = self._build(entry, name, provider, model, "env")
        return Route(name, (deployment,))

    def _serves(self, entry: ModelEntry, model: str) -> bool:
        params = entry.params
        if params.model != "*" or entry.lacks:
            return self._deployment(entry, entry.model_name, model, "check") is not None
        # `*` alone takes the provider from each request: nothing to check yet, but that a key stays where it belongs.
        if not (params.api_key or params.extra_headers) or params.api_base or params.custom_llm_provider:
            return True
        why = "its api_key or extra_headers would go to whichever provider a caller names: write model as provider/*"
        self.unserved.append(Unserved(entry.model_name, entry.place, why))
        return False

    def _deployment(self, entry: ModelEntry, name: str, model: str, position: str) -> Deployment | None:
        params = entry.params
        found = _provider_of(params, model)
        why = ""
        if found is None:
            unknown = f"no provider is known for {model!r}; write it as provider/model, or give api_base"
            why = entry.lacks or unknown
        else:
            why = self._elsewhere(entry)
            if params.mock_response is None:
                why = why or entry.lacks or self._settings.lacks(params, found[0], entry.unset)
        if found is None or why:
            if not self._compiled:  # afterwards names come from callers, any number of them
                self.unserved.append(Unserved(entry.model_name, entry.place, why))
            return None
        return self._build(entry, name, found[0], found[1], position)

    def _elsewhere(self, entry: ModelEntry) -> str:
        """Why this is not the environment that it is for (`model_info.supported_environments`), empty if it is."""
        meant = entry.info.get("supported_environments")
        if not isinstance(meant, list) or not meant:
            return ""
        ours = self._environ.get("LITELLM_ENVIRONMENT", "")
        if ours in meant:
            return ""
        told = f"LITELLM_ENVIRONMENT is {ours!r}" if ours else "LITELLM_ENVIRONMENT is not set"
        return f"it is for {' and '.join(map(str, meant))}, and {told}"

    def _build(
        self, entry: ModelEntry, name: str, provider: Provider, model: str, position: str
    ) -> Deployment:
        params = entry.params
        facts = self._prices.find(provider.name, str(entry.info.get("base_model") or model))
        price, source = self._price(entry, name, model, facts)
        version = params.api_version or (
            self._environ.get("AZURE_API_VERSION", "") if provider.name == "azure" else ""
        )
        credentials = self._settings.options(params, provider)
        options = {key: value for key, value in credentials.items() if isinstance(value, str)}
        base = self._settings.base_url(params, provider)
        row, base_url = located(provider, base or filled(provider.base_url, options), version)
        mock = _mock(params)
        if mock is not None:  # it speaks as OpenAI does, whoever it stands for
            row = msgspec.structs.replace(PROVIDERS["openai"], name=provider.name)
        target = Target(
            provider=row,
            model=model,
            base_url=base_url,
            options=options,
            drop_params=params.drop_params
            if params.drop_params is not None
            else self._config.litellm.drop_params,
            max_output_tokens=facts.max_output if facts else None,
            flags=frozenset(facts.flags) if facts else frozenset(),
            allowed=frozenset(params.allowed_openai_params),
        )
        key = self._settings.key(params, provider)
        signer = signer_of(provider, key, credentials) if mock is None else ""
        headers = {"openai-organization": Secret(params.organization)} if params.organization else {}
        return Deployment(
            id=_id(entry, name, model, position),
            route=name,
            target=target,
            api_key=key,
            signer=signer,
            credentials=credentials,
            scope=_scope(key, credentials if signer else {}),
            weight=_weight(params),
            order=params.order or 0,
            params=params,
            timeout=params.timeout,
            stream_timeout=params.stream_timeout,
            max_retries=params.max_retries,
            drains=params.on_disconnect == "drain",
            headers={**headers, **params.extra_headers},
            defaults={**params.defaults, **params.extra_body},
            drop=params.additional_drop_params,
            price=price,
            price_source=source,
            facts=facts,
            mock=mock,
            info=entry.info,
            place=entry.place,
        )

    def _price(
        self, entry: ModelEntry, name: str, model: str, facts: ModelFacts | None
    ) -> tuple[Price | None, str]:
        params = entry.params
        written = {
            "input_cost_per_token": params.input_cost_per_token,
            "output_cost_per_token": params.output_cost_per_token,
            "cache_read_input_token_cost": params.cache_read_input_token_cost,
            "cache_creation_input_token_cost": params.cache_creation_input_token_cost,
            **params.other_prices,
        }
        said = {key: value for key, value in written.items() if value is not None}
        own = price_from_params(readable_prices(entry.info) | said)
        listed, source = self._listed_price(name, model, facts)
        if own is not None and (listed is not None or own != Price(services=own.services)):
            return completed(own, listed), "deployment"
        return (listed, source) if params.mock_response is None else (FREE, "mock")

    def _listed_price(self, name: str, model: str, facts: ModelFacts | None) -> tuple[Price | None, str]:
        """What is paid where the entry says nothing."""
        listed = self._config.general.cost_per_token
        flat = listed.get(name) or listed.get(model)
        if flat is not None:
            flat_price = price_from_params(
                {"input_cost_per_token": flat.input, "output_cost_per_token": flat.output}
            )
            return flat_price, "cost_per_token"
        if facts is not None and facts.price is not None:
            return facts.price, "table"
        return None, ""

    def _known_models(self, params: ModelParams) -> list[str]:
        found = _provider_of(params, params.model.replace("*", "x"))
        return self._prices.models(found[0].name) if found and params.model.endswith("/*") else []


def compile_routes(
    config: Config, environ: Mapping[str, str], prices: PriceTable, stored: Credentials = NOT_ASKED
) -> Routes:
    """What is meant by what was written; `stored` are the named credentials of the store."""
    return Routes(with_credentials(config, stored), environ, prices).compile()


def _scope(key: Secret | None, credentials: Mapping[str, str | Secret]) -> str:
    """A digest of all that says who asks; empty for nobody."""
    told = [key.reveal()] if key else []
    for name, value in sorted(credentials.items()):
        told += [name, value.reveal() if isinstance(value, Secret) else value]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:16] if told else ""


def _env_providers(config: Config, environ: Mapping[str, str]) -> dict[str, Provider]:
    if not _env_allowed(config):
        return {}
    return {name: provider for name, provider in PROVIDERS.items() if is_set_up(provider, environ)}


def _off_in_environment(environ: Mapping[str, str]) -> Iterator[Unserved]:
    for provider in PROVIDERS.values():
        if problem := problem_of_base(provider, environ):
            yield Unserved(f"{provider.name}/*", Place("environment", 0, 0), problem)


def _env_allowed(config: Config) -> bool:
    allowed = config.general.env_providers
    return not config.model_list if allowed is None else allowed


def _provider_of(params: ModelParams, model: str) -> tuple[Provider, str] | None:
    if params.custom_llm_provider:
        provider = provider_row(params.custom_llm_provider)
        if provider is None:
            return None
        return for_model(provider, model.removeprefix(f"{params.custom_llm_provider}/"))
    found = find_provider(model)
    if found is None and (params.api_base or params.mock_response is not None):
        return PROVIDERS["openai"], model
    return found


def _in_order(groups: Sequence[Sequence[Deployment]]) -> Iterator[Deployment]:
    """All of the first group come before those of the second …; within a group as they stand to one another."""
    first = 0
    for group in groups:
        ranks = {order: first + rank for rank, order in enumerate(sorted({one.order for one in group}))}
        for deployment in group:
            yield msgspec.structs.replace(deployment, order=ranks[deployment.order])
        first += len(ranks)


def _is_bare(model: str, provider: Provider) -> bool:
    return bool(provider.prefixes) and model.startswith(provider.prefixes)


def _weight(params: ModelParams) -> float:
    for value in (params.weight, params.rpm, params.tpm):
        if value is not None:
            return float(value)
    return 1.0


def _mock(params: ModelParams) -> Mock | None:
    if params.mock_response is None:
        return None
    return Mock(params.mock_response, params.mock_first_delay or 0.0, params.mock_delay or 0.0)


def _identity(entry: ModelEntry, name: str, model: str) -> tuple[str | None, ...]:
    """What makes a deployment the same one, wherever in the list it stands; the key is none of it."""
    params = entry.params
    return name, model, params.api_base, params.api_version, params.region_name


def _id(entry: ModelEntry, name: str, model: str, position: str) -> str:
    own = entry.info.get("id")
    if own:
        return f"{own}/{name}" if "*" in entry.model_name else str(own)
    told = (*_identity(entry, name, model), position)
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()
