"""What is different between two configurations, for logs and for who asked for the reload.

An entry of `model_list` is the same as one before if public name, model and address are; what else it says may differ, field
by field. Of secrets it is said that they changed, never what they are.

`NEEDS_RESTART` is all that a running gateway cannot take in: what it listens on, and the stores that it has open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from gateway.config.environment import Environment
from gateway.config.model import Config, ModelEntry, Secret, VirtualKey
from gateway.config.source import Written
from gateway.keyfields import name_of
from gateway.logs import MASK, scrub

How = Literal["added", "removed", "changed"]
Of = Literal["deployment", "setting", "virtual_key", "credential", "environment"]

NEEDS_RESTART: frozenset[str] = frozenset(
    {
        *("database_url", "database_connection_pool_limit"),
        *("database_connect_timeout", "database_socket_timeout"),
        *("redis_url", "redis_host", "redis_port", "redis_db", "redis_ssl"),
        *("redis_username", "redis_password"),
        *("maximum_spend_logs_retention_period", "maximum_spend_logs_retention_interval", "on_orphan"),
        *("allowed_origins", "cors_allow_credentials", "set_verbose"),
    }
)
"""Settings that are read once, at the start."""

_PROCESS = (
    *("host", "port", "num_workers", "data_dir", "log_level", "json_logs", "salt_key", "fast_path"),
    *("redis_timeout", "drain_delay", "drain_timeout"),
)
"""What `environment_variables` may say of the process itself; it is read once too."""
_CONNECTING = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"}
"""And what they may say of connections to providers."""

_SECTIONS = {"router_settings": "router", "litellm_settings": "litellm", "general_settings": "general"}
_MOST_TOLD = 12
"""Differences that a log line tells in words."""
_LONGEST = 80


class Difference(Struct, frozen=True, omit_defaults=True):
    """One thing. `field` is what of it changed; `old` and `new` are JSON values, left out for secrets."""

    of: Of
    name: str
    how: How
    field: str = ""
    old: Any = None
    new: Any = None
    needs_restart: bool = False

    def __str__(self) -> str:
        name = f"{self.name}: {self.field}" if self.field else self.name
        if self.old is None and self.new is None:
            return f"{name} {self.how}"
        return f"{name} {_short(self.old)} -> {_short(self.new)}"


def differences(old: Written, new: Written) -> list[Difference]:
    """All of them: deployments, settings, virtual keys, credentials, and what the process itself is told."""
    before, after = old.config, new.config
    return [
        *_of_deployments(before, after),
        *_of_settings(before, after),
        *_of_keys(before.virtual_keys, after.virtual_keys),
        *_of_credentials(before, after),
        *_of_process(old.environment, new.environment),
    ]


def in_words(found: Iterable[Difference]) -> str:
    """One line for the log."""
    told = [str(one) + (" (needs a restart)" if one.needs_restart else "") for one in found]
    more = f" and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
    return "; ".join(told[:_MOST_TOLD]) + more or "nothing changed"


# -- model_list --------------------------------------------------------------------------------------------------------


def _of_deployments(before: Config, after: Config) -> Iterator[Difference]:
    old, new = _entries(before.model_list), _entries(after.model_list)
    for key, entry in old.items():
        if key not in new:
            yield Difference("deployment", _name(entry), "removed")
    for key, entry in new.items():
        if key not in old:
            yield Difference("deployment", _name(entry), "added")
            continue
        former = old[key]
        for field in entry.params.__struct_fields__:
            was, now = getattr(former.params, field), getattr(entry.params, field)
            if was != now:
                yield from _of_value("deployment", _name(entry), field, was, now)
        if former.info != entry.info:
            yield from _of_value("deployment", _name(entry), "model_info", former.info, entry.info)
        if former.unset != entry.unset:
            yield from _of_value("deployment", _name(entry), "unset variables", former.unset, entry.unset)


def _entries(entries: Iterable[ModelEntry]) -> dict[Hashable, ModelEntry]:
    """By what makes an entry the same one; of several alike the first is the first."""
    counts: Counter[Hashable] = Counter()
    found: dict[Hashable, ModelEntry] = {}
    for entry in entries:
        params = entry.params
        told = entry.model_name, params.model, params.api_base, params.api_version, params.region_name
        found[(*told, counts[told])] = entry
        counts[told] += 1
    return found


def _name(entry: ModelEntry) -> str:
    return scrub(f"{entry.model_name} ({entry.params.model})")


# -- the rest ----------------------------------------------------------------------------------------------------------


def _of_settings(before: Config, after: Config) -> Iterator[Difference]:
    for section, attribute in _SECTIONS.items():
        old, new = getattr(before, attribute), getattr(after, attribute)
        for field in new.__struct_fields__:
            was, now = getattr(old, field), getattr(new, field)
            if was != now:
                needs_restart = field in NEEDS_RESTART
                yield from _of_value(
                    "setting", f"{section}.{field}", "", was, now, needs_restart=needs_restart
                )
    for name in sorted(before.environment_variables.keys() | after.environment_variables.keys()):
        former, latter = before.environment_variables.get(name), after.environment_variables.get(name)
        if former != latter:
            how: How = "added" if former is None else "removed" if latter is None else "changed"
            needs_restart = name.upper() in _CONNECTING
            yield Difference("environment", f"environment_variables.{name}", how, needs_restart=needs_restart)


def _of_keys(before: Iterable[VirtualKey], after: Iterable[VirtualKey]) -> Iterator[Difference]:
    old, new = {key.key: key for key in before}, {key.key: key for key in after}
    for secret in old.keys() - new.keys():
        yield Difference("virtual_key", name_of(secret.reveal()), "removed")
    for secret, key in new.items():
        name = name_of(secret.reveal())
        if secret not in old:
            yield Difference("virtual_key", name, "added")
            continue
        was = old[secret].fields
        for field in sorted(was.keys() | key.fields.keys()):
            if was.get(field) != key.fields.get(field):
                yield from _of_value("virtual_key", name, field, was.get(field), key.fields.get(field))


def _of_credentials(before: Config, after: Config) -> Iterator[Difference]:
    old = {credential.name: (credential.values, credential.info) for credential in before.credentials}
    new = {credential.name: (credential.values, credential.info) for credential in after.credentials}
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            how: How = "added" if name not in old else "removed" if name not in new else "changed"
            yield Difference("credential", name, how)


def _of_process(old: Environment, new: Environment) -> Iterator[Difference]:
    for field in _PROCESS:
        was, now = getattr(old, field), getattr(new, field)
        if was != now:
            yield from _of_value("environment", field, "", was, now, needs_restart=True)


# -- what is shown -----------------------------------------------------------------------------------------------------


def _of_value(
    of: Of, name: str, field: str, was: object, now: object, *, needs_restart: bool = False
) -> Iterator[Difference]:
    if _is_secret(was) or _is_secret(now):
        yield Difference(of, name, "changed", field, needs_restart=needs_restart)
    else:
        yield Difference(of, name, "changed", field, _shown(was), _shown(now), needs_restart)


def _is_secret(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_is_secret, value.values()))
    return isinstance(value, Secret)


def _shown(value: object) -> Any:
    """As JSON has it, without what looks like a secret."""
    plain = msgspec.to_builtins(value, enc_hook=str)
    if isinstance(plain, str):
        return scrub(plain)
    try:
        return msgspec.json.decode(scrub(_json(plain)))
    except msgspec.DecodeError:  # a key that somebody has set to `1` is a number elsewhere
        return MASK


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _short(value: object) -> str:
    text = value if isinstance(value, str) else _json(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
