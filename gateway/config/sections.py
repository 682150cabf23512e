"""Reads settings into the structs of their sections: each by its kind, then what several of them mean together.

What the environment gives as a default for the file (master key, allowed origins, addresses of databases) is filled in here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct
from msgspec.structs import fields

from gateway.config.dialects import Dialects
from gateway.config.environment import Environment
from gateway.config.model import GeneralSettings, LiteLLMSettings, RouterSettings, Secret, StrategyArgs
from gateway.config.nodes import Mapping, Node, join
from gateway.config.postgres import PostgresUrlInvalid, read_postgres_url
from gateway.config.problems import closest, hidden
from gateway.config.retries import RetryReader
from gateway.config.settings import Settings, where_of
from gateway.config.values import PERIOD, Reader, is_time_of_day
from gateway.config.vocabulary import CHOICES, PRE_CALL_CHECKS, RECOVERIES, STRATEGIES, Section

_STRATEGY_ARGS: dict[str, tuple[float, Callable[[Reader, Node, str], float | None]]] = {
    "ttl": (1, Reader.seconds),
    "lowest_latency_buffer": (0, Reader.number),
    "max_latency_list_size": (1, Reader.integer),
}
"""What `routing_strategy_args` may say: the least that it can be, and how it is read."""


class Sections:
    """Reads the settings into the structs of their sections."""

    def __init__(self, reader: Reader, dialects: Dialects, environment: Environment) -> None:
        self._reader = reader
        self._report = reader.report
        self._environment = environment
        retries = RetryReader(reader, dialects.mentions)
        self._special = {
            "fallbacks": dialects.fallbacks,
            "aliases": dialects.aliases,
            "token_prices": dialects.token_prices,
            "provider_budgets": dialects.provider_budgets,
            "params": dialects.params,
            "retry_policy": retries.retry_policy,
            "retry_policies": retries.retry_policies,
            "allowed_fails": retries.allowed_fails,
            "retry_budget": retries.retry_budget,
            "hedging": retries.hedging,
            "queue": dialects.queue,
        }
        self._default_fallbacks = dialects.default_fallbacks

    def router(self, settings: Settings) -> RouterSettings:
        values = self._values("router_settings", RouterSettings, settings)
        if "routing_strategy" in values:
            values["routing_strategy"] = self._strategy(values["routing_strategy"], settings)
        if "routing_strategy_args" in values:
            values["routing_strategy_args"] = self._strategy_args(settings)
        for name in values.get("optional_pre_call_checks", ()):
            if name not in PRE_CALL_CHECKS:
                where = where_of(settings, "optional_pre_call_checks")
                self._report.warning(*where, f"the check {hidden(name[:60])} has no effect here")
        if values.get("stream_recovery", RECOVERIES[0]) not in RECOVERIES:
            where = where_of(settings, "stream_recovery")
            self._report.error(*where, f"must be {RECOVERIES[0]} or {RECOVERIES[1]}")
        environment = self._environment
        if not {"redis_url", "redis_host"} & values.keys():
            values |= self._redis_of_cache(settings)
        values["redis_url"] = values.get("redis_url") or _redis_of_parts(values) or environment.redis_url
        if values["redis_url"] and (why := _redis_problem(values["redis_url"].reveal())):
            named = next(
                (
                    name
                    for name in ("redis_url", "redis_port", "redis_host", "cache_params")
                    if name in settings
                ),
                "",
            )
            self._report.error(
                *where_of(settings, named or "redis_url"), f"the address of Redis cannot be used: {why}"
            )
        return RouterSettings(**values)

    def _redis_of_cache(self, settings: Settings) -> dict[str, Any]:
        """The Redis that `cache_params` names: it is the one of this deployment."""
        _, item, path = settings.get("cache_params", (None, None, ""))
        written = item.value if item is not None else None
        if not isinstance(written, Mapping) or "host" not in written.items:
            return {}
        found = {}
        for name, read in (
            ("host", self._reader.text),
            ("port", self._reader.integer),
            ("username", self._reader.text),
            ("password", self._reader.secret),
            ("db", self._reader.integer),
            ("ssl", self._reader.boolean),
        ):
            if name in written.items:
                found[f"redis_{name}"] = read(written.items[name].value, join(path, name))
        return {name: value for name, value in found.items() if value} if found.get("redis_host") else {}

    def litellm(self, settings: Settings) -> LiteLLMSettings:
        litellm = LiteLLMSettings(**self._values("litellm_settings", LiteLLMSettings, settings))
        error, where = self._report.error, partial(where_of, settings)
        for name in ("budget_reset_at", "budget_reset_time"):
            if not is_time_of_day(getattr(litellm, name)):
                error(*where(name), "must be a time of day, HH:MM")
        if litellm.timezone is not None and not _is_zone(litellm.timezone):
            error(*where("timezone"), f'no time zone is called "{litellm.timezone[:60]}"')
        if litellm.budget_duration is not None and not PERIOD.fullmatch(litellm.budget_duration):
            error(*where("budget_duration"), "must be a number with s, m, h, d, w or mo")
        if not 400 <= litellm.budget_exceeded_status_code < 600:
            error(*where("budget_exceeded_status_code"), "must be a status between 400 and 599")
        return litellm

    def general(self, settings: Settings) -> GeneralSettings:
        values = self._values("general_settings", GeneralSettings, settings)
        environment = self._environment
        if "master_key" not in settings:
            values["master_key"] = environment.master_key
        values["master_key_named"] = "master_key" in settings or environment.master_key is not None
        values["database_url"] = values.get("database_url") or environment.database_url
        values.setdefault("allowed_origins", environment.allowed_origins)
        values.setdefault("cors_allow_credentials", environment.cors_allow_credentials)
        general = GeneralSettings(**values)
        self._check(general, settings)
        if general.health_check_interval < 1:
            self._report.error(*where_of(settings, "health_check_interval"), "must be at least 1 second")
        return general

    def _values(self, section: Section, struct: type[Struct], settings: Settings) -> dict[str, Any]:
        """Values of the settings that belong to a section and that its struct has a field for."""
        known = {field.name for field in fields(struct)}
        values: dict[str, Any] = {}
        for name, (key, item, path) in settings.items():
            if key.section != section or key.kind == "any":
                continue
            if name == "default_fallbacks":
                value: Any = self._default_fallbacks(item.value, path)
            elif key.kind in self._special:
                value = self._special[key.kind](item.value, path)
            else:
                value = self._reader.read(key.kind, item.value, path)
            if value is not None and name in known:
                values[name] = value
        return values

    def _strategy(self, written: str, settings: Settings) -> str:
        _, item, path = settings["routing_strategy"]
        strategy = STRATEGIES.get(written.lower())
        if strategy is None:
            hint = closest(written, STRATEGIES)
            self._report.doubt(
                item.value.place, path, f'unknown strategy "{written[:40]}", shuffling instead', hint
            )
        return strategy or "simple-shuffle"

    def _strategy_args(self, settings: Settings) -> StrategyArgs:
        _, item, path = settings["routing_strategy_args"]
        written = item.value
        found: dict[str, Any] = {}
        for name, arg in written.items.items() if isinstance(written, Mapping) else ():
            place, where = arg.value.place, join(path, name)
            if name not in _STRATEGY_ARGS:
                hint = closest(name, _STRATEGY_ARGS)
                self._report.warning(
                    place, where, f'"{name}" has no effect on how a deployment is chosen', hint
                )
                continue
            least, read = _STRATEGY_ARGS[name]
            value = read(self._reader, arg.value, where)
            if value is not None and value < least:
                self._report.error(place, where, f"must be at least {least}")
            elif value is not None:
                found[name] = value
        return StrategyArgs(**found)

    def _check(self, general: GeneralSettings, settings: Settings) -> None:
        error, where = self._report.error, partial(where_of, settings)
        unset = self._reader.unset_of("master_key")
        if "master_key" in settings and not general.master_key:
            why = f"{', '.join(unset)} is not set" if unset else "there is none"
            message = (
                f"master_key is named but {why}: give it a value, or remove the line to run without keys"
            )
            error(*where("master_key"), message)
        elif unset:
            message = (
                f"a part of the master key is not set ({', '.join(unset)}), and the rest is easily guessed"
            )
            error(*where("master_key"), message)
        if general.master_key and general.master_key.reveal() in _WELL_KNOWN:
            self._report.warning(*where("master_key"), "this master key is well known, anybody may guess it")
        if general.master_key and self._environment.master_key not in (None, general.master_key):
            message = "differs from LITELLM_MASTER_KEY in the environment, and is the one that counts"
            self._report.notice(*where("master_key"), message)
        if general.cors_allow_credentials and "*" in general.allowed_origins:
            message = "the origin * and credentials exclude each other: name the origins"
            error(*where("allowed_origins"), message)
        for origin in general.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                message = f'no page has the origin "{origin[:60]}": one is like https://chat.example.com, and * is any'
                self._report.doubt(*where("allowed_origins"), message)
        for name, choices in CHOICES.items():
            if getattr(general, name) not in choices:
                error(*where(name), f"must be {', '.join(choices[:-1])} or {choices[-1]}")
        for name in _NOT_NEGATIVE:
            if (getattr(general, name) or 0) < 0:
                error(*where(name), "must not be negative")
        for user, limits in general.user_rate_limit.items():
            if not _is_user_limit(limits):
                error(*where("user_rate_limit"), f'"{user[:60]}": must be {{rpm: a number, tpm: a number}}')
        self._check_database(general, settings)
        if general.max_request_size_mb == 0:
            error(*where("max_request_size_mb"), "must be more than 0")

    def _check_database(self, general: GeneralSettings, settings: Settings) -> None:
        error, where = self._report.error, partial(where_of, settings)
        for name in ("database_connection_pool_limit", "database_connect_timeout", "database_socket_timeout"):
            if getattr(general, name) == 0:
                error(*where(name), "must be more than 0")
        if unset := self._reader.unset_of("database_url"):
            instead = ": keys and the ledger are kept in SQLite" if general.database_url is None else ""
            self._report.warning(*where("database_url"), f"{', '.join(unset)} is not set{instead}")
        if general.database_url is None:
            return
        try:
            ignored = read_postgres_url(general.database_url.reveal()).ignored
        except PostgresUrlInvalid as why:
            error(*where("database_url"), f"the address of Postgres cannot be used: {why}")
            return
        if ignored:
            told = (
                f"{', '.join(ignored)} has no effect"
                if len(ignored) == 1
                else f"{', '.join(ignored)} have no effect"
            )
            self._report.notice(*where("database_url"), f"{told} in the address of Postgres")


_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/*\sA-Z]+/?")
"""What a browser may send as `Origin`, with a slash behind it as people copy one."""
_NOT_NEGATIVE = ("rpm_limit", "tpm_limit", "max_parallel_requests", "global_max_parallel_requests")

_WELL_KNOWN = frozenset(
    ("sk-1234", "dev-key", "dev-key-change-in-production", "admin123", "sk-your-master-key-here")
)
"""Master keys out of manuals."""


def _redis_of_parts(values: dict[str, Any]) -> Secret | None:
    parts = ("host", "port", "username", "password", "db", "ssl")
    host, port, user, password, db, is_tls = (values.get(f"redis_{part}") for part in parts)
    if not host:
        return None
    login = f"{quote(user or '', safe='')}:{quote(password.reveal() if password else '', safe='')}@"
    scheme = "rediss" if is_tls else "redis"
    address = f"{f'[{host}]' if ':' in host else host}:{port or 6379}"
    return Secret(f"{scheme}://{login if user or password else ''}{address}{f'/{db}' if db else ''}")


def _redis_problem(url: str) -> str:
    """Why this is no address, without a word of it; empty if it is one."""
    if not url.startswith(("redis://", "rediss://", "unix://")):
        return "it must begin with redis://, rediss:// or unix://"
    try:
        urlsplit(url).port  # noqa: B018 - reading it is the check
    except ValueError:
        return "its host or its port cannot be read; a password is percent-encoded"
    return ""


def _is_user_limit(written: object) -> bool:
    return (
        isinstance(written, dict)
        and written.keys() <= {"rpm", "tpm"}
        and all(type(limit) is int and limit >= 0 for limit in written.values())
    )


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
