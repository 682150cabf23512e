"""Twin of gateway/config/schema.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

from adapters import PROVIDERS
from gateway.config.schema import config_schema, reference
from gateway.config.vocabulary import OPTIONS, PARAM_KEYS, SETTINGS, TOP

DOCUMENT = Path(__file__).parents[3] / "docs" / "CONFIGURATION.md"


def test_the_reference_in_docs_is_up_to_date() -> None:
    """docs/CONFIGURATION.md is what the tables say now."""
    assert DOCUMENT.read_text(encoding="utf-8") == reference()


def test_every_word_is_in_the_reference() -> None:
    """No key is undocumented."""
    page = reference()
    assert [name for name in TOP | SETTINGS | PARAM_KEYS if f"`{name}`" not in page] == []


def test_variables_of_providers_are_in_the_reference() -> None:
    """A setting that one provider has alone stands there with the variables that say it too, and means something of its own."""
    page = reference()
    for row in PROVIDERS.values():
        for option, variables in row.option_env.items():
            (line,) = re.findall(rf"(?m)^\| `{option}` .*$", page)
            assert [name for name in variables if f"`{name}`" not in line] == []
    texts = [PARAM_KEYS[option].text for option in OPTIONS]
    assert len(set(texts)) == len(texts)


def test_the_schema_holds_every_word_in_its_section() -> None:
    """Editors know every setting where it belongs, with its description and default."""
    schema = json.loads(json.dumps(config_schema()))
    top = schema["properties"]
    for name, key in SETTINGS.items():
        for section in (key.section, *key.also):
            known = top[section]["properties"] if section else top
            assert known[name]["description"]
    entry = top["model_list"]["items"]
    assert entry["required"] == ["model_name", "litellm_params"]
    assert PARAM_KEYS.keys() == entry["properties"]["litellm_params"]["properties"].keys()
    assert top["router_settings"]["properties"]["num_retries"]["default"] == 2
    assert top["general_settings"]["properties"]["alerting"]["deprecated"] is True


def test_the_schema_lets_numbers_come_from_the_environment() -> None:
    """A number may be written as a text with a name in it."""
    port = config_schema()["properties"]["router_settings"]["properties"]["redis_port"]
    assert port["type"] == ["integer", "string", "null"]


def test_the_schema_lets_headers_be_numbers() -> None:
    """What `check` reads as a text an editor takes as well."""
    params = config_schema()["properties"]["model_list"]["items"]["properties"]["litellm_params"][
        "properties"
    ]
    assert params["extra_headers"]["additionalProperties"]["type"] == ["string", "number", "null"]
