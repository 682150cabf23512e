"""From files to a `Config`: find the files, join them, sort every word into its place.

Four steps, each a class or function below. `Files` reads the main file, what it includes and the `models/` folder beside
it, and joins their top levels. `_settings` collects the settings of all sections under their names, wherever they stand.
`_Sections` reads each setting by what `vocabulary` says of it. `_Models` reads the model list. Nothing stops at the
first problem: `load` raises `ConfigInvalid` with all of them at the end, or returns what was read together with the
warnings and notices.

What the environment gives as a default for the file (master key, allowed origins, addresses of databases) is filled in
here, so that whoever uses the `Config` needs to look at one place only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Mapping as Names
from datetime import time
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct
from msgspec.structs import fields

from adapters.providers import ALIASES, PROVIDERS
from adapters.providers import find as find_provider
from gateway.config.credentials import read_credentials
from gateway.config.dialects import Dialects, Mention
from gateway.config.environment import PLACE as ENVIRONMENT
from gateway.config.environment import Environment, read_environment
from gateway.config.failing import Failing
from gateway.config.model import (
    Config,
    GeneralSettings,
    LiteLLMSettings,
    ModelEntry,
    ModelParams,
    Place,
    RouterSettings,
    Secret,
    StrategyArgs,
    VirtualKey,
)
from gateway.config.nodes import Item, Mapping, Node, Scalar, Sequence, join, parse
from gateway.config.postgres import PostgresUrlInvalid, read_postgres_url
from gateway.config.problems import ConfigInvalid, Problem, Report, closest
from gateway.config.seen import Seen, digest_of, digest_of_file, models_in
from gateway.config.values import PERIOD, Reader, is_null, is_off, same
from gateway.config.vocabulary import (
    CHOICES,
    DISCONNECTS,
    ENTRY_KEYS,
    LIMITS,
    OPTIONS,
    OTHER_PRICE,
    PARAM_KEYS,
    PRE_CALL_CHECKS,
    RECOVERIES,
    REQUEST_PARAMETERS,
    ROUTER_PREFIX,
    SAME_SETTING,
    SECTIONS,
    SETTINGS,
    STRATEGIES,
    TOP,
    VIRTUAL_KEY_KEYS,
    Key,
    Section,
)

__all__ = ["ConfigInvalid", "Loaded", "Problem", "load"]


class Loaded(Struct, frozen=True):
    """A configuration that can be used, and what there is to say about it."""

    config: Config
    notices: tuple[Problem, ...] = ()
    limits: dict[str, Place] = {}
    """Where limits and budgets are set, by their path."""


def load(
    path: Path | None, environ: Names[str, str], *, strict: bool = False, seen: Seen | None = None
) -> Loaded:
    """Read the configuration at `path`; None means that there is none and the environment says everything.

    `strict` makes errors of unknown keys and of names that lead nowhere. `seen` is filled with what was looked at, also where
    it cannot be used. Raises ConfigInvalid with all errors.
    """
    report = Report(strict=strict)
    files = Files(report, environ, seen)
    if path is not None:
        files.read_main(path)
    top = files.top
    variables = _variables(top, Reader(environ, report))
    known = {**environ, **{name: secret.reveal() for name, secret in variables.items()}}
    reader = Reader(known, report)
    dialects = Dialects(reader)
    sections = _Sections(reader, dialects, read_environment(known))
    settings = _settings(top, report)
    router, litellm, general = (
        sections.router(settings),
        sections.litellm(settings),
        sections.general(settings),
    )
    limits = {
        path: item.place
        for name, (_, item, path) in settings.items()
        if name in LIMITS and not is_off(item.value)
    }
    models = _Models(reader, limits, _defaults_of_all(settings)).read(top)
    if "llm_providers" in top:
        models += dialects.providers(top["llm_providers"], "llm_providers")
    if models and not general.env_providers:
        _check_mentions(dialects.mentions, models, router, report)
    keys = _virtual_keys(top, reader, limits)
    credentials = read_credentials(top, reader)
    notices = report.settle()
    config = Config(
        model_list=tuple(models),
        router=router,
        litellm=litellm,
        general=general,
        virtual_keys=tuple(keys),
        credentials=tuple(credentials),
        environment_variables=variables,
        files=tuple(files.names),
    )
    return Loaded(config, notices, limits)


# -- files -------------------------------------------------------------------------------------------------------------


class Files:
    """Reads files and joins their top levels into `top`: lists are joined, any other key is replaced."""

    def __init__(self, report: Report, environ: Names[str, str], seen: Seen | None = None) -> None:
        self.top: dict[str, Item] = {}
        self.names: list[str] = []
        self._looked_at = {} if seen is None else seen
        self._report = report
        self._reader = Reader(environ, report)
        self._seen: set[Path] = set()

    def read_main(self, path: Path) -> None:
        """The file, what it includes, and the `models/` folder beside it."""
        self._read(path, Place(str(path), 0, 0))
        folder = path.parent / "models"
        self._looked_at[str(folder)] = digest_of_file(folder)
        for file in models_in(folder):
            self._read_models(file)

    def _read(self, path: Path, wanted_at: Place) -> None:
        items = self._document(path, wanted_at)
        if items is None:
            return
        for name, item in items.items():
            if name != "include":
                self._join(name, item)
        if "include" in items:
            names = self._reader.texts(items["include"].value, "include") or ()
            for name in names:
                self._read(path.parent / name, items["include"].value.place)

    def _read_models(self, path: Path) -> None:
        """A file of `models/` adds to the model list and can do nothing else."""
        items = self._document(path, Place(str(path), 0, 0))
        for name, item in (items or {}).items():
            if name == "model_list":
                self._join(name, item)
            else:
                self._report.warning(item.place, name, "only model_list is read from files in models/")

    def _document(self, path: Path, wanted_at: Place) -> dict[str, Item] | None:
        """The top level of a file; None if there is nothing to use in it or it was read already."""
        try:
            real = path.resolve()
            if real in self._seen:
                return None
            self._seen.add(real)
            self._looked_at[str(path)] = ""
            content = path.read_bytes()
            self._looked_at[str(path)] = digest_of(content)
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            self._report.error(Place(str(path), line, 1), "", "not UTF-8 text")
            return None
        except (OSError, ValueError, RuntimeError) as error:  # no such file, a name with NUL, a loop of links
            why = error.strerror if isinstance(error, OSError) else error
            self._report.error(wanted_at, "", f"{f'{path}: ' if wanted_at.line else ''}cannot be read: {why}")
            return None
        self.names.append(str(path))
        node = parse(text, str(path), self._report)
        return None if node is None or is_null(node) else self._top_level(node)

    def _top_level(self, node: Node) -> dict[str, Item] | None:
        """A mapping as it is; a bare list of entries or a single entry is a model list."""
        if isinstance(node, Mapping):
            if "model_name" not in node.items:
                return node.items
            node = Sequence((node,), node.place, node.size)
        entries = node.items if isinstance(node, Sequence) else ()
        if any(isinstance(entry, Mapping) and "model_name" in entry.items for entry in entries):
            return {"model_list": Item(node.place, node)}
        self._report.error(
            node.place, "", "must be a mapping with model_list, router_settings, general_settings …"
        )
        return None

    def _join(self, name: str, item: Item) -> None:
        earlier = self.top.get(name)
        if earlier and isinstance(earlier.value, Sequence) and isinstance(item.value, Sequence):
            whole = earlier.value.items + item.value.items
            item = Item(earlier.place, Sequence(whole, earlier.value.place, len(whole)))
        elif earlier:
            self._report.warning(item.place, name, f"replaces the whole {name} of {earlier.place}")
        self.top[name] = item


def _variables(top: dict[str, Item], reader: Reader) -> dict[str, Secret]:
    """`environment_variables`: what is to be set in the process."""
    if "environment_variables" not in top:
        return {}
    path = "environment_variables"
    found = reader.each(top[path].value, path, reader.secret_text) or {}
    for name in found:
        if not name or "=" in name or not name.isprintable():
            reader.report.error(
                top[path].place, path, "a variable has a name that the environment does not take"
            )
    return {name: value for name, value in found.items() if value is not None}


# -- settings ----------------------------------------------------------------------------------------------------------

Settings = dict[str, tuple[Key, Item, str]]
"""Every setting that was written: what it is, its node, its path."""


def _settings(top: dict[str, Item], report: Report) -> Settings:
    """All settings by name. Says what is unknown, misplaced, contradictory or without effect."""
    found: Settings = {}
    for name, item in top.items():
        if name in TOP:
            _judge(TOP[name], item, name, report)
        else:
            _collect(name, item, "", found, report)
    for section in SECTIONS:
        node = top[section].value if section in top else None
        if isinstance(node, Mapping):
            for name, item in node.items.items():
                _collect(name, item, section, found, report)
        elif node is not None and not is_null(node):
            report.error(node.place, section, "must be a mapping")
    return found


def _collect(name: str, item: Item, section: Section, found: Settings, report: Report) -> None:
    key = SETTINGS.get(name)
    if key is None:
        _unknown(name, item, section, report)
        return
    if name in found:
        earlier = found[name][1]
        if not same(earlier.value, item.value):
            report.error(item.place, section, f'"{name}" says something else here than at {earlier.place}')
        return
    if key.status == "works" and section != key.section:
        report.notice(
            item.place, section, f'"{name}" is found under {section or "the top"}, its place is {key.section}'
        )
    path = join(section, name)
    found[name] = (key, item, path)
    _judge(key, item, section, report)


def _unknown(name: str, item: Item, section: Section, report: Report) -> None:
    if section and name in TOP:
        report.doubt(item.place, section, f'"{name}" belongs at the top of the file')
    elif not section and name in ENTRY_KEYS | PARAM_KEYS:
        report.doubt(item.place, "", f'"{name}" belongs in an entry of model_list')
    else:
        nearby = {other for other, key in SETTINGS.items() if section in (key.section, *key.also)}
        nearby |= set(TOP) if not section else set()
        hint = closest(name, nearby) or closest(name, SETTINGS)
        report.doubt(item.place, section, f'unknown key "{name}"', hint)


def _judge(key: Key, item: Item, path: str, report: Report) -> None:
    """Say what has no effect; refuse what promises safety that is not there."""
    if key.status == "later" and not is_null(item.value):
        tell = report.notice if is_off(item.value) else report.warning
        tell(item.place, path, f"{key.name} has no effect yet: {key.text}")
    elif key.status == "ignored":
        report.notice(item.place, path, f"{key.name} is not needed: {key.text}")
    elif key.status == "refused":
        if _asks_for_nothing(item.value, key.harmless):
            report.notice(item.place, path, f"{key.name} has no effect, and with this value needs none")
        else:
            report.error(item.place, path, f"{key.name}: {key.text}")


def _asks_for_nothing(node: Node, harmless: tuple[str, ...]) -> bool:
    if isinstance(node, Sequence):
        return all(_asks_for_nothing(item, harmless) for item in node.items)
    return is_off(node) or (isinstance(node, Scalar) and node.text.lower() in harmless)


_STRATEGY_ARGS: dict[str, tuple[float, Callable[[Reader, Node, str], float | None]]] = {
    "ttl": (1, Reader.seconds),
    "lowest_latency_buffer": (0, Reader.number),
    "max_latency_list_size": (1, Reader.integer),
}
"""What `routing_strategy_args` may say: the least that it can be, and how it is read."""


class _Sections:
    """Reads the settings into the structs of their sections."""

    def __init__(self, reader: Reader, dialects: Dialects, environment: Environment) -> None:
        self._reader = reader
        self._report = reader.report
        self._environment = environment
        failing = Failing(reader)
        self._special = {
            "fallbacks": dialects.fallbacks,
            "aliases": dialects.aliases,
            "token_prices": dialects.token_prices,
            "provider_budgets": dialects.provider_budgets,
            "params": dialects.params,
            "retry_policy": failing.retry_policy,
            "retry_policies": failing.retry_policies,
            "allowed_fails": failing.allowed_fails,
            "retry_budget": failing.retry_budget,
            "hedging": failing.hedging,
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
                where = _where(settings, "optional_pre_call_checks")
                self._report.warning(*where, f"the check {name[:60]} has no effect here")
        if values.get("stream_recovery", RECOVERIES[0]) not in RECOVERIES:
            where = _where(settings, "stream_recovery")
            self._report.error(*where, f"must be {RECOVERIES[0]} or {RECOVERIES[1]}")
        environment = self._environment
        if not {"redis_url", "redis_host"} & values.keys():
            values |= self._redis_of_cache(settings)
        values["redis_url"] = values.get("redis_url") or _redis_of_parts(values) or environment.redis_url
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
            ("password", self._reader.secret),
        ):
            if name in written.items:
                found[f"redis_{name}"] = read(written.items[name].value, join(path, name))
        return {name: value for name, value in found.items() if value} if found.get("redis_host") else {}

    def litellm(self, settings: Settings) -> LiteLLMSettings:
        litellm = LiteLLMSettings(**self._values("litellm_settings", LiteLLMSettings, settings))
        error, where = self._report.error, partial(_where, settings)
        for name in ("budget_reset_at", "budget_reset_time"):
            if not _is_time_of_day(getattr(litellm, name)):
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
            self._report.error(*_where(settings, "health_check_interval"), "must be at least 1 second")
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
                    place, where, f"{name} has no effect on how a deployment is chosen", hint
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
        error, where = self._report.error, partial(_where, settings)
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
        for name, choices in CHOICES.items():
            if getattr(general, name) not in choices:
                error(*where(name), f"must be {', '.join(choices[:-1])} or {choices[-1]}")
        for name in _NOT_NEGATIVE:
            if (getattr(general, name) or 0) < 0:
                error(*where(name), "must not be negative")
        for user, limits in general.user_rate_limit.items():
            if not _is_user_limit(limits):
                error(*where("user_rate_limit"), f"{user[:60]}: must be {{rpm: a number, tpm: a number}}")
        self._check_database(general, settings)
        if general.max_request_size_mb == 0:
            error(*where("max_request_size_mb"), "must be more than 0")

    def _check_database(self, general: GeneralSettings, settings: Settings) -> None:
        error, where = self._report.error, partial(_where, settings)
        for name in ("database_connection_pool_limit", "database_connect_timeout", "database_socket_timeout"):
            if getattr(general, name) == 0:
                error(*where(name), "must be more than 0")
        if unset := self._reader.unset_of("database_url"):
            self._report.warning(*where("database_url"), f"{', '.join(unset)} is not set")
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


_NOT_NEGATIVE = ("rpm_limit", "tpm_limit", "max_parallel_requests", "global_max_parallel_requests")

_WELL_KNOWN = frozenset(
    ("sk-1234", "dev-key", "dev-key-change-in-production", "admin123", "sk-your-master-key-here")
)
"""Master keys out of manuals."""


def _redis_of_parts(values: dict[str, Any]) -> Secret | None:
    host, port, password = (values.get(f"redis_{part}") for part in ("host", "port", "password"))
    if not host:
        return None
    login = f":{quote(password.reveal(), safe='')}@" if password else ""
    return Secret(f"redis://{login}{f'[{host}]' if ':' in host else host}:{port or 6379}")


def _is_user_limit(written: object) -> bool:
    return (
        isinstance(written, dict)
        and written.keys() <= {"rpm", "tpm"}
        and all(type(limit) is int and limit >= 0 for limit in written.values())
    )


def _is_time_of_day(written: str | None) -> bool:
    try:
        return written is None or time.fromisoformat(written).tzinfo is None
    except ValueError:
        return False


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _where(settings: Settings, name: str) -> tuple[Place, str]:
    """Where the value of a setting came from, and its path."""
    if name not in settings:
        return ENVIRONMENT, name
    _, item, path = settings[name]
    return item.value.place, path


# -- models ------------------------------------------------------------------------------------------------------------


def _defaults_of_all(settings: Settings) -> dict[str, Item]:
    """`default_litellm_params`."""
    _, item, _ = settings.get("default_litellm_params", (None, None, ""))
    return item.value.items if item is not None and isinstance(item.value, Mapping) else {}


class _Models:
    """Reads `model_list`."""

    def __init__(self, reader: Reader, limits: dict[str, Place], defaults: dict[str, Item]) -> None:
        self._reader = reader
        self._report = reader.report
        self._limits = limits
        self._defaults = defaults
        """What `litellm_params` of each entry say where they do not."""
        self._ids: dict[str, Place] = {}

    def read(self, top: dict[str, Item]) -> list[ModelEntry]:
        node = top["model_list"].value if "model_list" in top else None
        if node is None or is_null(node):
            return []
        if not isinstance(node, Sequence):
            self._report.error(
                node.place, "model_list", "must be a list of entries, each beginning with a dash"
            )
            return []
        entries = [self._entry(item, join("model_list", index)) for index, item in enumerate(node.items)]
        return [entry for entry in entries if entry is not None]

    def _entry(self, node: Node, path: str) -> ModelEntry | None:
        if not isinstance(node, Mapping):
            self._report.error(node.place, path, "must be a mapping with model_name and litellm_params")
            return None
        misspelled = self._unknown_in_entry(node, path)
        self._reader.unset.clear()
        name = self._required(node, "model_name", path, misspelled)
        model_name = self._reader.text(name, join(path, "model_name")) if name else None
        params_node = self._required(node, "litellm_params", path, misspelled)
        params = self._params(params_node, join(path, "litellm_params")) if params_node else None
        info = self._info(node, join(path, "model_info"))
        if name and not model_name and isinstance(name, Scalar):
            self._report.error(name.place, path, "model_name has no value")
        if not model_name or params is None:
            return None
        unset = self._reader.unset_of("api_key", "api_base")
        return ModelEntry(model_name=model_name, params=params, info=info, place=node.place, unset=unset)

    def _unknown_in_entry(self, node: Mapping, path: str) -> set[str]:
        """Report unknown keys; the names that they were probably meant to be."""
        meant: set[str] = set()
        for name, item in node.items.items():
            if name in ENTRY_KEYS:
                continue
            if name in PARAM_KEYS:
                self._report.doubt(item.place, path, f'"{name}" belongs under litellm_params')
                continue
            hint = closest(name, ENTRY_KEYS)
            if hint and hint not in node.items:
                self._report.error(item.place, path, f'unknown key "{name}"', hint)
                meant.add(hint)
            else:
                self._report.doubt(item.place, path, f'unknown key "{name}"', hint)
        return meant

    def _required(self, node: Mapping, name: str, path: str, misspelled: set[str]) -> Node | None:
        if name in node.items:
            return node.items[name].value
        if name not in misspelled:
            self._report.error(node.place, path, f'"{name}" is missing')
        return None

    def _info(self, node: Mapping, path: str) -> dict[str, Any]:
        if "model_info" not in node.items:
            return {}
        info = self._reader.object(node.items["model_info"].value, path) or {}
        if info.get("id") is not None:
            place = node.items["model_info"].place
            info["id"] = str(info["id"])
            earlier = self._ids.setdefault(info["id"], place)
            if earlier != place:
                self._report.error(
                    place, path, f'the id "{info["id"][:60]}" is taken by the entry at {earlier}'
                )
        return info

    # -- litellm_params ----------------------------------------------------------------------------------------------

    def _params(self, node: Node, path: str) -> ModelParams | None:
        if not isinstance(node, Mapping):
            self._report.error(node.place, path, "must be a mapping with at least model")
            return None
        node = Mapping({**self._defaults, **node.items}, node.place) if self._defaults else node
        values: dict[str, Any] = {"options": {}, "other_prices": {}, "defaults": {}}
        misspelled: set[str] = set()
        for name, item in node.items.items():
            if name in PARAM_KEYS:
                self._known(PARAM_KEYS[name], item, path, values)
            elif OTHER_PRICE.fullmatch(name):
                price = self._price(item.value, join(path, name))
                if price is not None:
                    values["other_prices"][name] = price
            elif ROUTER_PREFIX.fullmatch(name):
                _judge(Key(name, "any", "routing by the question", "later"), item, path, self._report)
            else:
                self._default(name, item, path, node, values["defaults"], misspelled)
        model = self._required(node, "model", path, misspelled)
        if model and not values.get("model"):
            self._report.error(model.place, path, "model has no value")
        if not values.get("model"):
            return None
        if values.get("on_disconnect", "cancel") not in DISCONNECTS:
            place = node.items["on_disconnect"].place
            self._report.error(place, join(path, "on_disconnect"), f"must be {' or '.join(DISCONNECTS)}")
        self._check_limits(node, path, values)
        if model and not node.items.keys() & {"api_base", "base_url", "custom_llm_provider", "mock_response"}:
            self._whose(model.place, values["model"], join(path, "model"))
        return ModelParams(**values)

    def _check_limits(self, node: Mapping, path: str, values: dict[str, Any]) -> None:
        if not _is_time_of_day(values.get("daily_reset_time")):
            where = node.items["daily_reset_time"].place, join(path, "daily_reset_time")
            self._report.error(*where, "must be a time of day, HH:MM")
        duration = values.get("budget_duration")
        if duration is not None and not PERIOD.fullmatch(duration):
            where = node.items["budget_duration"].place, join(path, "budget_duration")
            self._report.error(*where, "must be a number with s, m, h, d, w or mo")
        for pattern in values.get("tag_regex", ()):
            try:
                re.compile(pattern)
            except re.error as why:
                where = node.items["tag_regex"].place, join(path, "tag_regex")
                self._report.error(*where, f'"{pattern[:60]}" is no regular expression: {why}')

    def _price(self, node: Node, path: str) -> str | dict[str, str] | None:
        """A price, or one for each size (`search_context_cost_per_query`)."""
        if not isinstance(node, Mapping):
            return self._reader.price(node, path)
        prices = {name: self._reader.price(item.value, join(path, name)) for name, item in node.items.items()}
        return {name: price for name, price in prices.items() if price is not None}

    def _whose(self, place: Place, model: str, path: str) -> None:
        """A model that nobody has is a mistake: most often of the provider's name."""
        if model == "*" or find_provider(model.replace("*", "x")) is not None:
            return
        prefix, slash, rest = model.partition("/")
        near = closest(prefix, (*PROVIDERS, *ALIASES)) if slash else None
        message = f'no provider is known for "{model}"; write provider/model, or give api_base'
        self._report.doubt(place, path, message, f"{near}/{rest}" if near else None)

    def _known(self, key: Key, item: Item, path: str, values: dict[str, Any]) -> None:
        _judge(key, item, path, self._report)
        if key.name in LIMITS and not is_off(item.value):
            self._limits[join(path, key.name)] = item.place
        if key.status == "refused" or key.kind == "any":
            return
        value = self._reader.read(key.kind, item.value, join(path, key.name))
        if value is None:
            return
        name = SAME_SETTING.get(key.name, key.name)
        if name in OPTIONS:
            values["options"][name] = value
        elif values.get(name, value) != value:
            self._report.error(item.place, path, "api_base and base_url say different things")
        else:
            values[name] = value

    def _default(
        self, name: str, item: Item, path: str, node: Mapping, defaults: dict[str, Any], misspelled: set[str]
    ) -> None:
        """A key without a meaning of its own is sent to the provider, unless it is a slip of the pen."""
        hint = None if name in REQUEST_PARAMETERS else closest(name, PARAM_KEYS.keys() | REQUEST_PARAMETERS)
        if hint == "model" and "model" not in node.items:
            self._report.error(item.place, path, f'unknown key "{name}"', hint)
            misspelled.add(hint)
            return
        if hint:
            self._report.doubt(item.place, path, f'unknown key "{name}"', hint)
        elif name not in REQUEST_PARAMETERS:
            self._report.notice(item.place, path, f'"{name}" goes to the provider as a default parameter')
        if hint in PARAM_KEYS and PARAM_KEYS[hint].kind in {"secret", "secrets_by_name"}:
            return  # what was meant as a key is not sent as a parameter
        value = self._reader.plain(item.value, join(path, name))
        if value is not None:
            defaults[name] = value


# -- virtual keys ------------------------------------------------------------------------------------------------------


def _virtual_keys(top: dict[str, Item], reader: Reader, limits: dict[str, Place]) -> list[VirtualKey]:
    """`virtual_keys`; what their words mean together is `gateway.keyfields`' business."""
    node = top["virtual_keys"].value if "virtual_keys" in top else None
    if node is None or is_null(node):
        return []
    if not isinstance(node, Sequence):
        reader.report.error(node.place, "virtual_keys", "must be a list of keys, each beginning with a dash")
        return []
    found = [
        _virtual_key(item, join("virtual_keys", index), reader, limits)
        for index, item in enumerate(node.items)
    ]
    return [key for key in found if key is not None]


def _virtual_key(node: Node, path: str, reader: Reader, limits: dict[str, Place]) -> VirtualKey | None:
    report = reader.report
    if not isinstance(node, Mapping) or "key" not in node.items:
        report.error(node.place, path, "must be a mapping with key")
        return None
    values: dict[str, Any] = {}
    for name, item in node.items.items():
        known = VIRTUAL_KEY_KEYS.get(name)
        if known is None:
            report.error(item.place, path, f'unknown key "{name}"', closest(name, VIRTUAL_KEY_KEYS))
            continue
        values[name] = reader.read(known.kind, item.value, join(path, name))
        if name in _KEY_LIMITS and not is_off(item.value):
            limits[join(path, name)] = item.place
    key = values.pop("key")
    if key is None:
        report.warning(node.items["key"].place, path, "this key has no value, so nobody holds it")
        return None
    given = {name: value for name, value in values.items() if value is not None}
    return VirtualKey(key=key, fields=given, place=node.place)


_KEY_LIMITS = LIMITS | {"budget_limits", "model_max_budget", "model_tpm_limit", "model_rpm_limit"}


# -- names that lead nowhere -------------------------------------------------------------------------------------------


def _check_mentions(
    mentions: list[Mention], models: list[ModelEntry], router: RouterSettings, report: Report
) -> None:
    """Fallbacks and aliases that name models which nothing serves."""
    names = {entry.model_name for entry in models} | set(router.model_group_alias)
    wildcards = [name.split("*") for name in names if "*" in name]
    for name, place, path in mentions:
        if name not in names and not any(_matches(name, parts) for parts in wildcards):
            report.doubt(place, path, f'no model is called "{name[:80]}"', closest(name, names, cutoff=0.8))


def _matches(name: str, parts: list[str]) -> bool:
    """`parts` are a pattern that was cut at its stars."""
    first, *middle, last = parts
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    rest = name[len(first) : len(name) - len(last)]
    for part in middle:
        if part not in rest:
            return False
        rest = rest.split(part, 1)[1]
    return True
