"""The vocabulary for others to read: a JSON schema for editors, a reference page for people.

Both are made from the tables in `vocabulary` and the defaults of the structs in `model`, so that a setting cannot exist
without being documented. `penstock config schema` prints the schema; an editor with the YAML language server uses it
with the first line `# yaml-language-server: $schema=penstock.schema.json`. docs/CONFIGURATION.md is `reference()`, and a
test compares the two.
"""

from __future__ import annotations

from typing import Any

from msgspec import NODEFAULT, Struct
from msgspec.structs import fields

from adapters.providers import PROVIDERS
from gateway.config.environment import LATER, REFUSED, VARIABLES
from gateway.config.model import GeneralSettings, LiteLLMSettings, RouterSettings, Secret
from gateway.config.values import MOST_RETRIES, Kind
from gateway.config.vocabulary import (
    CREDENTIAL,
    ENTRY,
    PARAM_KEYS,
    SECTIONS,
    SETTINGS,
    TOP,
    VIRTUAL_KEY,
    Key,
    Section,
)

_STRUCTS: dict[Section, type[Struct]] = {
    "router_settings": RouterSettings,
    "litellm_settings": LiteLLMSettings,
    "general_settings": GeneralSettings,
}

_NUMBER: dict[str, Any] = {"type": ["number", "string"]}
_TEXT: dict[str, Any] = {"type": ["string", "number", "null"]}
_NAMES: dict[str, Any] = {"type": ["array", "string"], "items": {"type": "string"}}
_SCHEMAS: dict[Kind, dict[str, Any]] = {
    "text": {"type": ["string", "number"]},
    "url": {"type": "string"},
    "secret": {"type": "string"},
    "secret_text": {"type": "string"},
    "boolean": {"type": ["boolean", "string"]},
    "integer": {"type": ["integer", "string"]},
    "retries": {"type": ["integer", "string"], "maximum": MOST_RETRIES},
    "number": _NUMBER,
    "seconds": _NUMBER,
    "timeout": _NUMBER,
    "price": _NUMBER,
    "duration": _NUMBER,
    "span": {"type": "string"},
    "texts": _NAMES,
    "texts_by_name": {"type": "object", "additionalProperties": _TEXT},
    "secrets_by_name": {"type": "object", "additionalProperties": _TEXT},
    "object": {"type": "object"},
    "any": {},
    "fallbacks": {"type": ["array", "object"], "items": {"type": ["string", "object"]}},
    "aliases": {"type": "object", "additionalProperties": {"type": ["string", "array", "object"]}},
    "token_prices": {"type": "object", "additionalProperties": {"type": ["number", "string", "object"]}},
    "retry_policy": {"type": "object", "additionalProperties": _NUMBER},
    "retry_policies": {"type": "object", "additionalProperties": {"type": "object"}},
    "allowed_fails": {"type": "object", "additionalProperties": _NUMBER},
    "retry_budget": {"type": "object", "additionalProperties": _NUMBER},
    "hedging": {"type": ["boolean", "object", "string"]},
    "queue": {"type": ["object", "boolean", "string"], "additionalProperties": _NUMBER},
    "provider_budgets": {"type": "object", "additionalProperties": {"type": "object"}},
    "params": {"type": "object"},
}
"""What an editor accepts: strings too where a value may come from the environment."""

_WORDS: dict[Kind, str] = {
    "url": "URL",
    "secret_text": "secret",
    "boolean": "true or false",
    "retries": "integer",
    "timeout": "seconds",
    "price": "dollars",
    "texts": "list of texts",
    "texts_by_name": "texts by name",
    "secrets_by_name": "texts by name",
    "object": "mapping",
    "any": "",
    "fallbacks": "list",
    "aliases": "mapping",
    "token_prices": "mapping",
    "retry_policy": "mapping",
    "retry_policies": "mapping",
    "allowed_fails": "mapping",
    "retry_budget": "mapping",
    "hedging": "true, or mapping",
    "queue": "mapping",
    "provider_budgets": "mapping",
    "params": "mapping",
}

_STATUS = {"works": "", "later": "No effect yet: ", "ignored": "Not needed: ", "refused": "Refused: "}


# -- for editors -------------------------------------------------------------------------------------------------------


def config_schema() -> dict[str, Any]:
    """A JSON schema (2020-12) of the configuration file."""
    top = {name: _property(key) for name, key in TOP.items()}
    top |= {key.name: _property(key) for key in SETTINGS.values() if "" in key.also}
    for section in SECTIONS:
        top[section] |= {
            "type": ["object", "null"],
            "properties": _section(section),
            "additionalProperties": False,
        }
    top["model_list"] |= {"type": ["array", "null"], "items": _entry()}
    top["virtual_keys"] |= {"type": ["array", "null"], "items": _virtual_key()}
    top["credential_list"] |= {"type": ["array", "null"], "items": _credential()}
    top["include"] |= _NAMES
    top["environment_variables"] |= {"type": ["object", "null"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock configuration",
        "type": "object",
        "properties": top,
        "additionalProperties": False,
    }


def _section(section: Section) -> dict[str, Any]:
    return {key.name: _property(key) for key in SETTINGS.values() if section in (key.section, *key.also)}


def _entry() -> dict[str, Any]:
    entry = {key.name: _property(key) for key in ENTRY}
    entry["litellm_params"] |= {
        "properties": {name: _property(key) for name, key in PARAM_KEYS.items()},
        "required": ["model"],
    }
    return {
        "type": "object",
        "properties": entry,
        "required": ["model_name", "litellm_params"],
        "additionalProperties": False,
    }


def _virtual_key() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {key.name: _property(key) for key in VIRTUAL_KEY},
        "required": ["key"],
        "additionalProperties": False,
    }


def _credential() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {key.name: _property(key) for key in CREDENTIAL},
        "required": ["credential_name", "credential_values"],
        "additionalProperties": False,
    }


def _property(key: Key) -> dict[str, Any]:
    schema: dict[str, Any] = dict(_SCHEMAS[key.kind])
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = [*kinds, "null"]
    schema["description"] = _STATUS[key.status] + key.text
    default = _default(key)
    if default is not None:
        schema["default"] = default
    if key.status != "works":
        schema["deprecated"] = True
    return schema


def _default(key: Key) -> str | float | bool | None:
    """The default as JSON, None where there is none to tell."""
    struct = _STRUCTS.get(key.section)
    for field in fields(struct) if struct else ():
        if (
            field.name == key.name
            and field.default is not NODEFAULT
            and not isinstance(field.default, Secret)
        ):
            default = field.default
            return default if isinstance(default, str | int | float | bool) else None
    return None


# -- for people --------------------------------------------------------------------------------------------------------

_INTRODUCTION = """\
# Configuration reference

This page is generated from the tables in `gateway/config/vocabulary.py`; change it there and run `make docs`.

`penstock --config config.yaml` reads one YAML or JSON file; without a file the environment says everything. All
problems are reported at once, each with file, line and column. `penstock check config.yaml` is stricter than the
server: there, unknown keys are errors, and so are fallbacks, aliases and retry policies of models that nothing serves.

* `os.environ/NAME` as a whole value, `${NAME}` and `${NAME:-default}` anywhere in a text are replaced from the
  environment; `$${NAME}` stays as `${NAME}`. An empty variable counts as not set.
* `environment_variables:` is set first, and wins over the environment.
* `include:` names further files, resolved next to the file that names them; each is read once. Lists are joined, any
  other key of an included file replaces the whole key of the same name. A variable in such a name must be set;
  `${NAME:-}` is no file where it is not.
* `models/*.yaml` and `models/*.yml` beside the main file are read in the order of their names. Each holds a `model_list:`,
  a bare list of entries, or a single entry, and can set nothing else.
* Each setting has one section, and is understood in the others too; two different values are an error.
* Seconds may have a unit (`600`, `10m`). Prices are read as the decimal text that is written, never through a float.
* Texts that YAML 1.1 takes for something else (`no`, `00:00`) are read as texts and reported; `010` is refused as a number.
"""

_DEFAULTS = """\
Any other key is a default request parameter (`temperature`, `max_tokens` …): requests that do not set it get it. Further
prices (`…_cost_per_token_above_200k_tokens`, `…_batches`, `…_priority` …) are taken where the bucket is known, and else
reported with their line. What an entry does not say is as in `cost_per_token`, else as in the built-in table. A variable's name in
the column "default" stands for its value.
"""


def reference() -> str:
    """The reference page, Markdown."""
    parts = [_INTRODUCTION, "## The top of the file\n", _table(list(TOP.values()))]
    parts += ["## `model_list[]`\n", _table(list(ENTRY))]
    parts += ["## `model_list[].litellm_params`\n", _DEFAULTS, _table(list(PARAM_KEYS.values()))]
    parts += ["## `virtual_keys[]`\n", _table(list(VIRTUAL_KEY))]
    parts += ["## `credential_list[]`\n", _table(list(CREDENTIAL))]
    for section in SECTIONS:
        parts += [f"## `{section}`\n", _table([key for key in SETTINGS.values() if key.section == section])]
    return "\n".join([*parts, _environment()])


def _environment() -> str:
    lines = [
        "## The environment\n",
        "`.env` in the working directory adds the names that the environment does not have.\n",
    ]
    lines += ["| variable | meaning |", "|---|---|"]
    for names, meaning in VARIABLES.items():
        lines.append(f"| {', '.join(f'`{name}`' for name in names.split(', '))} | {meaning} |")
    lines += ["", "Known, without effect yet:", "", ", ".join(f"`{name}`" for name in LATER) + "."]
    lines += ["", "Refused, because somebody would rely on it:", ""]
    lines += [f"* `{name}`: {why}" for name, why in REFUSED.items()]
    return "\n".join(lines) + "\n"


def _table(keys: list[Key]) -> str:
    """What works as a table, the rest as lists under the reason why not."""
    working = [key for key in keys if key.status == "works"]
    lines = ["| key | takes | default | meaning |", "|---|---|---|---|"] if working else []
    for key in working:
        takes = _WORDS.get(key.kind, key.kind)
        lines.append(f"| `{key.name}` | {takes} | {_shown_default(key)} | {_cell(key)} |")
    for status, title in (
        ("later", "Known, without effect yet (reported with its line)"),
        ("ignored", "Not needed"),
        ("refused", "Refused, because somebody would rely on it"),
    ):
        groups: dict[str, list[str]] = {}
        for key in keys:
            if key.status == status:
                groups.setdefault(key.text, []).append(f"`{key.name}`")
        if groups:
            lines += ["", f"{title}:", ""] if lines else [f"{title}:", ""]
            lines += [f"* {text}: {', '.join(names)}" for text, names in groups.items()]
    return "\n".join(lines) + "\n"


def _cell(key: Key) -> str:
    also = ", ".join(f"`{section}`" if section else "the top of the file" for section in key.also)
    return key.text.replace("|", "\\|") + (f" Also read in {also}." if also else "")


def _shown_default(key: Key) -> str:
    default = _default(key)
    if default is None:
        return ", ".join(f"`{name}`" for name in _variables(key.name))
    if default is False:
        return "`false`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{str(default).lower()}`"


def _variables(option: str) -> list[str]:
    """Those of the environment that providers read where a setting of theirs is not written."""
    found = (name for row in PROVIDERS.values() for name in row.option_env.get(option, ()))
    return list(dict.fromkeys(found))
