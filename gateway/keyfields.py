"""What people write of a virtual key, in LiteLLM's words, and the `KeyRow` that it makes; and back.

`/key/generate`, `/key/update` and `virtual_keys:` of a configuration all go through `change`, and every answer that shows
a key is `shown`, so a word means the same everywhere. Amounts are written in dollars and kept in nano-dollars; numbers
may come as text, because environment variables do.

A word that would restrict a key and has no effect here is refused, since somebody would rely on it; any other that nobody
here reads is kept, and shown again as it came.
"""

from __future__ import annotations

import calendar
import hashlib
import itertools
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson
from msgspec.structs import replace

from adapters.errors import BadRequest
from gateway.config.model import Config
from gateway.config.problems import Report
from gateway.state.keys import BudgetLimit, KeyRow
from gateway.state.periods import understands
from gateway.state.records import usd

PREFIX = "sk-"
SHORTEST = 16
"""Characters that a key must have, so that its digest cannot be guessed backwards."""
_LONGEST = 512
_LONGEST_NAME = 255
_MOST_NAMES = 1_000
_MOST_EXTRA = 64 * 1024
"""Bytes of JSON that `metadata` and what is kept unread may have."""
_MOST_NANO = 2**62
_MOST_COUNT = 2**53

_RESTRICTING = {
    "guardrails": "guardrails are not available",
    "policies": "policies are not available",
    "enforced_params": "rules for what a request must hold are not available",
    "tpd_limit": "limits of a day are not available",
    "tag_rpm_limit": "limits per tag are not available",
    "mcp_rpm_limit": "MCP servers are not available",
    "budget_id": "named budgets are not available; write max_budget itself",
    "end_user_budget_id": "named budgets are not available",
    "object_permission": "object permissions are not available",
    "auto_rotate": "keys do not change by themselves, because nobody would be told the new one; call "
    "/key/regenerate with a grace_period from where the key is kept",
}
_KEY_TYPES = {
    "default": (),
    "llm_api": ("llm_api_routes",),
    "management": ("management_routes",),
    "read_only": ("info_routes",),
}
_RAISE = ("temp_budget_increase", "temp_budget_expiry")
_MODEL_LIMITS = ("model_rpm_limit", "model_tpm_limit")
_IN_METADATA = (*_MODEL_LIMITS, "guardrails", "policies", "enforced_params", "tag_rpm_limit", "mcp_rpm_limit")
"""What LiteLLM keeps in a key's metadata, and reads there, so that keys come from it with them."""
_versions = itertools.count(-1, -1)
"""Of configured keys, which nobody counts the changes of: no two configurations have the same, and no stored key has one. What is
remembered by a key's version is so never that of another configuration, which a request that began before may still bring."""
_NOT_FIELDS = frozenset(
    ("key", "keys", "token", "token_id", "key_name", "new_key", "new_master_key", "grace_period", "send_invite_email")
)  # fmt: skip
"""Words of the calls themselves, and what only answers have."""


# -- keys ------------------------------------------------------------------------------------------------------------


def digest_of(key: str) -> str:
    """SHA-256 in hex: what is kept of a key. A key has 128 random bits or more, so nothing slower is needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def named_digest(text: str) -> str:
    """The digest that a call means: what begins with `sk-` is a key, anything else a digest already."""
    return digest_of(text) if text.startswith(PREFIX) else text


def name_of(key: str) -> str:
    """What may be shown of a key."""
    return f"{PREFIX}...{key[-4:]}"


def new_key() -> str:
    """A key that nobody has."""
    return PREFIX + secrets.token_urlsafe(16)


def checked_key(value: object, *, needs_prefix: bool = True) -> str:
    """A key that somebody chose. Raises `BadRequest`."""
    text = _text("key", value) or ""
    if needs_prefix and not text.startswith(PREFIX):
        raise BadRequest("Invalid key format. LiteLLM Virtual Key must start with 'sk-'.", param="key")
    if not SHORTEST <= len(text) <= _LONGEST or not text.isascii() or " " in text:
        message = f"A key has {SHORTEST} to {_LONGEST} characters of ASCII, and no blanks: shorter ones can be guessed."
        raise BadRequest(message, param="key")
    return text


def configured_keys(config: Config) -> list[KeyRow]:
    """The keys of `virtual_keys:`. Raises `ConfigInvalid` with all that is wrong with them."""
    report = Report()
    rows: dict[str, KeyRow] = {}
    aliases: set[str] = set()
    master = config.general.master_key.reveal() if config.general.master_key else None
    version = next(_versions)
    for index, written in enumerate(config.virtual_keys):
        path = f"virtual_keys[{index}]"
        try:
            key = checked_key(written.key.reveal(), needs_prefix=False)
            row = KeyRow(digest=digest_of(key), name=name_of(key), version=version)
            row = replace(row, created_by="config", updated_by="config")
            row = change(row, written.fields, 0.0)
        except BadRequest as error:
            report.error(written.place, f"{path}.{error.param}" if error.param else path, error.message)
            continue
        if key == master:
            report.error(written.place, path, "this is the master key, which no limit binds; give it another")
        if row.digest in rows:
            report.error(written.place, path, "this key stands in the list twice")
        if row.alias in aliases:
            report.error(written.place, path, f'two keys have the alias "{row.alias}"')
        if row.alias:
            aliases.add(row.alias)
        rows[row.digest] = row
    report.settle()
    return list(rows.values())


# -- what is written -------------------------------------------------------------------------------------------------


def change(row: KeyRow, fields: Mapping[str, Any], now: float) -> KeyRow:
    """The key with these fields; what is not named stays. `now` is unix seconds, from which `duration` counts.

    Raises `BadRequest` with `param`.
    """
    fields = _unpacked(fields)
    written: dict[str, Any] = {}
    extra = dict(row.extra)
    for name, value in fields.items():
        read = _READERS.get(name)
        if read is not None:
            written[_FIELD.get(name, name)] = read(name, value)
        elif name in _RESTRICTING:
            if value not in (None, [], {}, "", 0):
                raise BadRequest(f"{name}: {_RESTRICTING[name]}.", param=name)
        elif name in _OWN:
            continue
        elif value is None:
            extra.pop(name, None)
        else:
            extra[name] = value
    if "duration" in fields:
        written["expires_at"] = _expiry(fields["duration"], now)
    if fields.get("key_type") is not None:
        written["allowed_routes"] = written.get("allowed_routes") or _routes_of_type(fields["key_type"])
    written |= _budgets(row, fields, extra)
    written |= _of_models(row, fields)
    if "tags" not in fields and isinstance(written.get("metadata"), dict):
        written["tags"] = _names("metadata.tags", written["metadata"].get("tags"))
    if "spend" in fields and _dollars("spend", fields["spend"]):
        raise BadRequest("spend is what the ledger says; it can only be set back, to 0.", param="spend")
    _write_raise(row, fields, written)
    try:
        size = len(orjson.dumps([extra, written.get("metadata", row.metadata)]))
    except TypeError as error:
        raise BadRequest(f"metadata or a further field is no JSON: {error}", param="metadata") from None
    if size > _MOST_EXTRA:
        raise BadRequest(
            f"metadata and further fields have {size} bytes; {_MOST_EXTRA} are the most.", param="metadata"
        )
    return _with_raise(replace(row, **written, extra=extra))


def _unpacked(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """With what restricts a key beside its metadata and not in them; `null` beside them says nothing else."""
    metadata = fields.get("metadata")
    if not isinstance(metadata, dict) or metadata.keys().isdisjoint(_IN_METADATA):
        return fields
    said = {name: metadata[name] for name in _IN_METADATA if metadata.get(name) is not None}
    beside = {name: value for name, value in fields.items() if value is not None or name not in said}
    rest = {name: value for name, value in metadata.items() if name not in _IN_METADATA}
    return {**said, **beside, "metadata": rest}


def _write_raise(row: KeyRow, fields: Mapping[str, Any], written: dict[str, Any]) -> None:
    """`temp_budget_increase` and `temp_budget_expiry` are kept in the metadata, as LiteLLM does; None takes them away."""
    named = {name: fields[name] for name in _RAISE if name in fields}
    if not named:
        return
    kept = {**written.get("metadata", row.metadata), **named}
    kept = {name: value for name, value in kept.items() if value is not None or name not in _RAISE}
    missing = [name for name in _RAISE if name not in kept]
    if len(missing) == 1:
        raise BadRequest("temp_budget_increase and temp_budget_expiry belong together.", param=missing[0])
    written["metadata"] = kept


def _with_raise(row: KeyRow) -> KeyRow:
    """The key with what its metadata say of `max_budget`: so much more, until then."""
    amount, until = (row.metadata.get(name) for name in _RAISE)
    first, _ = _split(row)
    if amount is None or until is None or first is None:
        return replace(row, raised_by=0, raised_until=0.0)
    raised_by = _dollars("temp_budget_increase", amount) or 0
    return replace(row, raised_by=raised_by, raised_until=_instant("temp_budget_expiry", until))


def _instant(param: str, value: object) -> float:
    """A date and time of ISO 8601; without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        if at is not None:
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    raise BadRequest(f"{param} must be a time like 2030-01-31T12:00:00Z.", param=param)


def _budgets(row: KeyRow, fields: Mapping[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """`budgets`: that of `max_budget` first, then the windows of `budget_limits`. A duration may come before its budget."""
    if not fields.keys() & {"max_budget", "budget_duration", "budget_limits"}:
        return {}
    first, windows = _split(row)
    if "budget_limits" in fields:
        written = _list("budget_limits", fields["budget_limits"])
        windows = tuple(_limit("budget_limits", item) for item in written)
        extra["budget_limits"] = [_window(limit) for limit in windows]
    amount, span = (first.max_budget, first.duration) if first else (None, extra.get("budget_duration"))
    if "max_budget" in fields:
        amount = _dollars("max_budget", fields["max_budget"])
    if "budget_duration" in fields:
        span = _duration("budget_duration", fields["budget_duration"])
    extra.pop("budget_duration", None)
    if amount is None and span is not None:
        extra["budget_duration"] = span
    own = () if amount is None else (BudgetLimit(amount, span),)
    return {"budgets": own + windows}


def _split(row: KeyRow) -> tuple[BudgetLimit | None, tuple[BudgetLimit, ...]]:
    """The budget of `max_budget`, and the windows of `budget_limits`, which are the last of all."""
    own = len(row.budgets) - len(row.extra.get("budget_limits", ()))
    return (row.budgets[0] if own else None), row.budgets[own:]


def _limit(param: str, value: object) -> BudgetLimit:
    """One window: `{max_budget, budget_duration}`, or as budgets of models are written, `{budget_limit, time_period}`."""
    if not isinstance(value, dict):
        value = {"max_budget": value}
    amount = _dollars(param, value.get("max_budget", value.get("budget_limit")))
    if amount is None:
        raise BadRequest(f"{param}: max_budget is missing.", param=param)
    return BudgetLimit(amount, _duration(param, value.get("budget_duration", value.get("time_period"))))


def _of_models(row: KeyRow, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Budgets and limits by model; a budget's entry may hold limits too."""
    if "model_max_budget" not in fields:
        return {}
    written = _mapping("model_max_budget", fields["model_max_budget"])
    found: dict[str, Any] = {"model_budgets": {}}
    for kind in ("tpm_limit", "rpm_limit"):
        limits = {
            model: _count("model_max_budget", item[kind])
            for model, item in written.items()
            if isinstance(item, dict) and item.get(kind) is not None
        }
        if limits:
            name = f"model_{kind}"
            told = _counts(name, fields[name]) if name in fields else getattr(row, name)
            found[name] = {**limits, **told}
    for model, item in written.items():
        is_only_limits = isinstance(item, dict) and not item.keys() & {"max_budget", "budget_limit"}
        if not (is_only_limits and item.keys() & {"tpm_limit", "rpm_limit"}):
            found["model_budgets"][model] = _limit("model_max_budget", item)
    return found


def _routes_of_type(value: object) -> tuple[str, ...]:
    if not isinstance(value, str) or value not in _KEY_TYPES:
        raise BadRequest(f"key_type must be one of {', '.join(_KEY_TYPES)}.", param="key_type")
    return _KEY_TYPES[value]


_SPAN = re.compile(r"(\d{1,6})(s|m|h|d|w|mo)", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def lifetime(param: str, value: object, now: float) -> float:
    """The unix second that lies so long after `now`: `30s`, `30m`, `30h`, `30d`, `1w`, `1mo`. Raises `BadRequest`."""
    found = _SPAN.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        if found is not None:
            begin = datetime.fromtimestamp(now, UTC)
            number, unit = int(found[1]), found[2]
            if unit != "mo":
                return (begin + timedelta(**{_UNITS[unit]: number})).timestamp()
            month = begin.year * 12 + begin.month - 1 + number
            year, month = month // 12, month % 12 + 1
            day = min(begin.day, calendar.monthrange(year, month)[1])
            return begin.replace(year=year, month=month, day=day).timestamp()
    except (OverflowError, ValueError):
        pass
    raise BadRequest(f"{param} must be a time like 30s, 30m, 30h, 30d, 1w or 1mo.", param=param)


def _expiry(value: object, now: float) -> float | None:
    return None if value in (None, "", "-1") else lifetime("duration", value, now)


# -- one value -------------------------------------------------------------------------------------------------------


def _text(param: str, value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.isprintable() or value != value.strip():
        raise BadRequest(f"{param} must be a printable text.", param=param)
    return value


def _name(param: str, value: object) -> str | None:
    text = _text(param, value)
    if text is not None and len(text) > _LONGEST_NAME:
        raise BadRequest(f"{param} has {len(text)} characters; {_LONGEST_NAME} are the most.", param=param)
    return text


def _flag(param: str, value: object) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadRequest(f"{param} must be true or false.", param=param)
    return value


def _number(param: str, value: object) -> Decimal | None:
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise InvalidOperation
        number = Decimal(str(value))
    except InvalidOperation:
        raise BadRequest(f"{param} must be a number.", param=param) from None
    if not number.is_finite() or number < 0:
        raise BadRequest(f"{param} must be a non-negative, finite number. Received: {value}", param=param)
    return number


def _dollars(param: str, value: object) -> int | None:
    number = _number(param, value)
    if number is None:
        return None
    if number > _MOST_NANO // 10**9:
        raise BadRequest(f"{param} is more than can be counted.", param=param)
    return int((number * 10**9).to_integral_value())


def _count(param: str, value: object) -> int | None:
    number = _number(param, value)
    if number is None:
        return None
    if number > _MOST_COUNT or number != number.to_integral_value():
        raise BadRequest(f"{param} must be a whole number.", param=param)
    return int(number)


def _duration(param: str, value: object) -> str | None:
    text = _text(param, value)
    if text is not None and not understands(text):
        raise BadRequest(
            f"{param}: {text[:40]!r} is no duration; write one like 30s, 1h, 1d, 30d or 1mo.", param=param
        )
    return text


def _list(param: str, value: object) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or len(value) > _MOST_NAMES:
        raise BadRequest(f"{param} must be a list.", param=param)
    return value


def _names(param: str, value: object) -> tuple[str, ...]:
    names = [_name(param, item) for item in _list(param, value)]
    if None in names:  # without it a list of models may be empty, which means all of them
        raise BadRequest(f"{param} has an empty name in it.", param=param)
    return tuple(name for name in names if name is not None)


def _mapping(param: str, value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > _MOST_NAMES:
        raise BadRequest(f"{param} must be an object.", param=param)
    return value


def _counts(param: str, value: object) -> dict[str, int]:
    counts = {name: _count(param, item) for name, item in _mapping(param, value).items()}
    return {name: count for name, count in counts.items() if count is not None}


def _words(param: str, value: object) -> dict[str, str]:
    words = {name: _name(param, item) for name, item in _mapping(param, value).items()}
    return {name: word for name, word in words.items() if word is not None}


_READERS: dict[str, Callable[[str, object], Any]] = {
    "key_alias": _name,
    "models": _names,
    "aliases": _words,
    "allowed_routes": _names,
    "soft_budget": _dollars,
    "tpm_limit": _count,
    "rpm_limit": _count,
    "max_parallel_requests": _count,
    "model_tpm_limit": _counts,
    "model_rpm_limit": _counts,
    "user_id": _name,
    "team_id": _name,
    "tags": _names,
    "metadata": _mapping,
    "blocked": _flag,
}
_FIELD = {"key_alias": "alias"}
_OWN = _NOT_FIELDS | {*_RAISE, "duration", "key_type", "max_budget", "budget_duration", "budget_limits", "model_max_budget", "spend"}  # fmt: skip
FIELDS = frozenset(_READERS) | _RESTRICTING.keys() | (_OWN - _NOT_FIELDS)
"""Every word that is understood, one way or the other."""


# -- what is shown ---------------------------------------------------------------------------------------------------

_UNREAD: dict[str, Any] = {
    "config": {},
    "permissions": {},
    "allowed_cache_controls": [],
    "agent_id": None,
    "organization_id": None,
    "project_id": None,
    "budget_id": None,
    "litellm_budget_table": None,
    "object_permission": None,
    "auto_rotate": False,
    "rotation_interval": None,
    "router_settings": {},
    "access_group_ids": [],
}
"""What LiteLLM's answers have and nothing here sets; `extra` goes before it."""


def shown(row: KeyRow) -> dict[str, Any]:
    """A key in LiteLLM's words, without its digest, its spend and its state."""
    first, windows = _split(row)
    limits = {name: getattr(row, name) for name in _MODEL_LIMITS if getattr(row, name)}
    return {
        **_UNREAD,
        **row.extra,
        "key_name": row.name,
        "key_alias": row.alias,
        "models": list(row.models),
        "aliases": row.aliases,
        "allowed_routes": list(row.allowed_routes),
        "max_budget": usd(first.max_budget) if first else None,
        "budget_duration": first.duration if first else row.extra.get("budget_duration"),
        "model_max_budget": {
            model: {"budget_limit": usd(limit.max_budget), "time_period": limit.duration}
            for model, limit in row.model_budgets.items()
        },
        "soft_budget": None if row.soft_budget is None else usd(row.soft_budget),
        "tpm_limit": row.tpm_limit,
        "rpm_limit": row.rpm_limit,
        "max_parallel_requests": row.max_parallel_requests,
        **dict.fromkeys(_MODEL_LIMITS),
        **limits,
        "user_id": row.user_id,
        "team_id": row.team_id,
        "tags": list(row.tags) or None,
        "metadata": {**row.metadata, **limits},  # there too, where LiteLLM shows them
        "blocked": row.blocked or None,
        "expires": moment(row.expires_at),
        "created_at": moment(row.created_at),
        "created_by": row.created_by or None,
        "updated_at": moment(row.updated_at),
        "updated_by": row.updated_by or None,
        "budget_limits": [_window(limit) for limit in windows] or None,
    }


def _window(limit: BudgetLimit) -> dict[str, Any]:
    return {"max_budget": usd(limit.max_budget), "budget_duration": limit.duration}


def moment(second: float | None) -> str | None:
    """A unix second as ISO 8601 in UTC; None for none and for the zero of what has no date."""
    if not second:
        return None
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
