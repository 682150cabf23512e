"""`model_list`: each entry with its `litellm_params`, in which any word without a meaning here goes to the provider."""

from __future__ import annotations

import re
from typing import Any

from adapters.providers import ALIASES, PROVIDERS
from adapters.providers import find as find_provider
from gateway.config.model import ModelEntry, ModelParams, Place
from gateway.config.nodes import Item, Mapping, Node, Scalar, Sequence, join
from gateway.config.problems import closest
from gateway.config.settings import Settings, judge
from gateway.config.values import PERIOD, Reader, is_null, is_off, is_time_of_day
from gateway.config.vocabulary import (
    DISCONNECTS,
    ENTRY_KEYS,
    LIMITS,
    OPTIONS,
    OTHER_PRICE,
    PARAM_KEYS,
    PRICE_NAME,
    PRICES,
    REQUEST_PARAMETERS,
    ROUTER_PREFIX,
    SAME_SETTING,
    Key,
)

_SLIP = 0.95
"""How near two names of prices are of which one is misspelled: names of two prices differ by little more."""


def defaults_of_all(settings: Settings) -> dict[str, Item]:
    """`default_litellm_params`."""
    _, item, _ = settings.get("default_litellm_params", (None, None, ""))
    return item.value.items if item is not None and isinstance(item.value, Mapping) else {}


class ModelList:
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
                price = self._price(name, item, path)
                if price is not None:
                    values["other_prices"][name] = price
            elif ROUTER_PREFIX.fullmatch(name):
                judge(Key(name, "any", "routing by the question", "later"), item, path, self._report)
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
        if not is_time_of_day(values.get("daily_reset_time")):
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

    def _price(self, name: str, item: Item, path: str) -> str | dict[str, str] | None:
        """A price, or one for each size (`search_context_cost_per_query`)."""
        parts = PRICE_NAME.fullmatch(name)
        if parts is None or parts[1] not in PRICES:
            if hint := closest(name, PRICES, cutoff=_SLIP):
                self._report.doubt(item.place, path, f'unknown key "{name}"', hint)
            else:
                judge(Key(name, "any", "prices of what is not counted", "later"), item, path, self._report)
        node, path = item.value, join(path, name)
        if not isinstance(node, Mapping):
            return self._reader.price(node, path)
        prices = {size: self._reader.price(one.value, join(path, size)) for size, one in node.items.items()}
        return {size: price for size, price in prices.items() if price is not None}

    def _whose(self, place: Place, model: str, path: str) -> None:
        """A model that nobody has is a mistake: most often of the provider's name."""
        if model == "*" or find_provider(model.replace("*", "x")) is not None:
            return
        prefix, slash, rest = model.partition("/")
        near = closest(prefix, (*PROVIDERS, *ALIASES)) if slash else None
        message = f'no provider is known for "{model}"; write provider/model, or give api_base'
        self._report.doubt(place, path, message, f"{near}/{rest}" if near else None)

    def _known(self, key: Key, item: Item, path: str, values: dict[str, Any]) -> None:
        judge(key, item, path, self._report)
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
