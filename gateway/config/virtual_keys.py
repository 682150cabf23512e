"""`virtual_keys`: keys that the configuration hands out; what their words mean together is `gateway.keyfields`' business."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gateway.config.dialects import Mention
from gateway.config.model import ModelEntry, Place, VirtualKey
from gateway.config.nodes import Item, Mapping, Node, Sequence, join
from gateway.config.problems import closest
from gateway.config.values import Reader, is_null, is_off
from gateway.config.vocabulary import LIMITS, VIRTUAL_KEY_KEYS

EVERYTHING = frozenset(("*", "all-proxy-models", "all-team-models"))
"""In `models`. A key without a team has what all have; teams with models of their own do not exist here."""
_NOTHING = "no-default-models"


def read_virtual_keys(top: dict[str, Item], reader: Reader, limits: dict[str, Place]) -> list[VirtualKey]:
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


def groups_of(info: dict[str, Any]) -> frozenset[str]:
    """The access groups that `model_info` puts a model into."""
    written = info.get("access_groups")
    names = [written] if isinstance(written, str) else written
    return frozenset(map(str, names)) if isinstance(names, list | tuple) else frozenset()


def models_of_keys(keys: Iterable[VirtualKey], models: Iterable[ModelEntry]) -> Iterator[Mention]:
    """The models that keys may ask for and that their own words mean. A pattern may be for names that are yet to come."""
    groups = frozenset[str]().union(*(groups_of(entry.info) for entry in models))
    known = groups | EVERYTHING | {_NOTHING}
    for index, key in enumerate(keys):
        path = join("virtual_keys", index)
        for name in key.fields.get("models", ()):
            if "*" not in name and name not in known:
                yield name, key.place, join(path, "models")
        for word, name in key.fields.get("aliases", {}).items():
            yield name, key.place, join(join(path, "aliases"), word)
