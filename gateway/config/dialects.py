"""Settings that are written in more than one way, brought into one.

Deployments in the field have three shapes of `fallbacks`, three of aliases, two of prices, and a blueprint that lists
providers instead of models. Each function here takes a node in any of its dialects and gives the one form that `model`
knows. Names that are pointed at are noted in `mentions`, so that the loader can say which of them lead nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapters.providers import provider as provider_row
from gateway.config.model import (
    Alias,
    Fallbacks,
    ModelEntry,
    ModelParams,
    Place,
    ProviderBudget,
    QueueSettings,
    TokenPrice,
)
from gateway.config.nodes import Item, Mapping, Node, Scalar, Sequence, join
from gateway.config.problems import closest
from gateway.config.values import PERIOD, Reader, is_null

Mention = tuple[str, Place, str]
"""A model's name, where it is pointed at, and the path of that place."""


class Dialects:
    """Reads the settings with dialects. Problems go to the reader's report."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._report = reader.report
        self.mentions: list[Mention] = []

    # -- fallbacks ---------------------------------------------------------------------------------------------------

    def fallbacks(self, node: Node, path: str) -> Fallbacks | None:
        """`- a: [b]`, `- {model_name: a, fallbacks: [b]}`, bare names, or all of them in one list."""
        if is_null(node):
            return None
        chains: dict[str, tuple[str, ...]] = {}
        ring: list[str] = []
        items = node.items if isinstance(node, Sequence) else (node,)
        for index, item in enumerate(items):
            here = join(path, index) if isinstance(node, Sequence) else path
            if isinstance(item, Mapping):
                self._chain(item, here, chains)
            elif isinstance(item, Scalar) and isinstance(node, Sequence):
                ring += self._names(item, here)
            else:
                self._report.error(
                    item.place, here, "must be a name, {name: [names]} or {model_name, fallbacks}"
                )
        return Fallbacks(chains, (tuple(ring),) if ring else ())

    def _chain(self, item: Mapping, path: str, chains: dict[str, tuple[str, ...]]) -> None:
        named = item.items.get("model_name") or item.items.get("model")
        if named and "fallbacks" in item.items:
            name = self._reader.text(named.value, path)
            pairs = [(name, named.value.place, item.items["fallbacks"])] if name else []
        else:
            pairs = [(name, target.place, target) for name, target in item.items.items()]
        for name, place, target in pairs:
            if name in chains:
                self._report.doubt(place, path, f'"{name}" has fallbacks already, these are not used')
                continue
            if name != "*":
                self.mentions.append((name, place, path))
            chains[name] = tuple(self._names(target.value, join(path, name)))

    def _names(self, node: Node, path: str) -> list[str]:
        """One name or a list of them, each noted as a mention."""
        items = node.items if isinstance(node, Sequence) else (node,)
        names: list[str] = []
        for item in items:
            name = self._reader.text(item, path, "must be the name of a model")
            if name:
                names.append(name)
                self.mentions.append((name, item.place, path))
        return names

    def default_fallbacks(self, node: Node, path: str) -> tuple[str, ...] | None:
        return None if is_null(node) else tuple(self._names(node, path))

    # -- aliases -----------------------------------------------------------------------------------------------------

    def aliases(self, node: Node, path: str) -> dict[str, Alias] | None:
        """`name: target`, `name: [a, b]`, `name: {model: target, hidden: true}`, `name: {models: [a, b], order: true}`."""
        return self._reader.each(node, path, self._alias)

    def _alias(self, node: Node, path: str) -> Alias:
        if not isinstance(node, Mapping):
            return Alias(tuple(self._names(node, path)))
        targets: list[str] = []
        hidden = in_order = False
        for name, item in node.items.items():
            here = join(path, name)
            if name in {"model", "models"}:
                targets += self._names(item.value, here)
            elif name == "hidden":
                hidden = bool(self._reader.boolean(item.value, here))
            elif name == "order":
                in_order = bool(self._reader.boolean(item.value, here))
            else:
                message = f'unknown key "{name}"; an alias has model, models, order and hidden'
                self._report.doubt(item.place, path, message)
        return Alias(tuple(targets), hidden, in_order)

    # -- prices ------------------------------------------------------------------------------------------------------

    def token_prices(self, node: Node, path: str) -> dict[str, TokenPrice] | None:
        """`model: 0.00006` for both directions, or `model: {input: …, output: …}`."""
        prices = self._reader.each(node, path, self._token_price)
        return None if prices is None else {name: price for name, price in prices.items() if price}

    def _token_price(self, node: Node, path: str) -> TokenPrice | None:
        if isinstance(node, Mapping):
            sides = [self._side(node, path, side) for side in ("input", "output")]
        else:
            sides = [self._reader.price(node, path)] * 2
        question, answer = sides
        return TokenPrice(question, answer) if question is not None and answer is not None else None

    def _side(self, node: Mapping, path: str, side: str) -> str | None:
        item = node.items.get(side) or node.items.get(f"{side}_cost_per_token")
        if item is None:
            self._report.error(node.place, path, f'"{side}" is missing')
            return None
        return self._reader.price(item.value, join(path, side))

    # -- parameters of all entries -----------------------------------------------------------------------------------

    def params(self, node: Node, path: str) -> tuple[str, ...] | None:
        """`default_litellm_params`: the names; each entry reads the values for itself, as its own."""
        if isinstance(node, Mapping):
            return tuple(node.items)
        if not is_null(node):
            self._report.error(node.place, path, "must be a mapping")
        return None

    # -- budgets of providers ----------------------------------------------------------------------------------------

    def provider_budgets(self, node: Node, path: str) -> dict[str, ProviderBudget] | None:
        """`{openai: {budget_limit: 100, time_period: 1d}}`; `max_budget` and `budget_duration` are the same words."""
        found = self._reader.each(node, path, self._provider_budget)
        for name in found or ():
            if provider_row(name) is None:
                self._report.doubt(node.place, path, f'no provider is called "{name[:60]}"')
        return None if found is None else {name: budget for name, budget in found.items() if budget}

    def _provider_budget(self, node: Node, path: str) -> ProviderBudget | None:
        if not isinstance(node, Mapping):
            self._report.error(node.place, path, "must be a mapping with budget_limit and time_period")
            return None
        limit: str | None = None
        period: str | None = None
        for name, item in node.items.items():
            here = join(path, name)
            if name in {"budget_limit", "max_budget"}:
                limit = self._reader.price(item.value, here)
            elif name in {"time_period", "budget_duration"}:
                period = self._reader.duration(item.value, here)
                if period is not None and not PERIOD.fullmatch(period):
                    self._report.error(item.place, here, "must be a number with s, m, h, d, w or mo")
            else:
                self._report.doubt(item.place, path, f'unknown key "{name}"')
        if limit is None:
            self._report.error(node.place, path, '"budget_limit" is missing')
            return None
        return ProviderBudget(limit, period)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def queue(self, node: Node, path: str) -> QueueSettings | None:
        """`{max_wait: 30, max_waiting: 1000}`, or `true` for these figures."""
        if is_null(node):
            return None
        if not isinstance(node, Mapping):
            return QueueSettings() if self._reader.boolean(node, path) else None
        readers: dict[str, Callable[[Node, str], Any]] = {
            "max_wait": self._reader.seconds,
            "max_waiting": self._reader.integer,
        }
        found: dict[str, Any] = {}
        for name, item in node.items.items():
            if name not in readers:
                self._report.doubt(item.place, path, f'unknown key "{name}"', closest(name, readers))
            elif (value := readers[name](item.value, join(path, name))) is not None:
                found[name] = value
        return QueueSettings(**found)

    # -- a blueprint's providers -------------------------------------------------------------------------------------

    def providers(self, item: Item, path: str) -> list[ModelEntry]:
        """`llm_providers`: one entry for each model of each provider that is enabled."""
        entries = self._reader.each(item.value, path, self._provider) or {}
        return [
            ModelEntry(model_name=model, params=params, place=place, unset=unset)
            for name, (models, base, place, unset) in entries.items()
            for model, params in ((model, _readdress(base, name, model)) for model in models)
        ]

    def _provider(self, node: Node, path: str) -> tuple[tuple[str, ...], ModelParams, Place, tuple[str, ...]]:
        nobody = ((), ModelParams(model=""), node.place, ())
        if not isinstance(node, Mapping):
            self._report.error(
                node.place, path, "must be a mapping with enabled, api_key, base_url and models"
            )
            return nobody
        for name, item in node.items.items():
            if name not in {"enabled", "api_key", "base_url", "api_base", "models"}:
                self._report.doubt(item.place, path, f'unknown key "{name}"')
        reader, items = self._reader, {name: item.value for name, item in node.items.items()}
        if "enabled" in items and reader.boolean(items["enabled"], join(path, "enabled")) is False:
            return nobody
        reader.unset.clear()
        address = items.get("base_url") or items.get("api_base")
        params = ModelParams(
            model="",
            api_key=reader.secret(items["api_key"], join(path, "api_key")) if "api_key" in items else None,
            api_base=reader.url(address, join(path, "base_url")) if address else None,
        )
        models = reader.texts(items["models"], join(path, "models")) if "models" in items else None
        if not models:
            self._report.error(node.place, path, '"models" is missing')
        return models or (), params, node.place, reader.unset_of("api_key", "base_url")


def _readdress(base: ModelParams, provider: str, model: str) -> ModelParams:
    return ModelParams(model=f"{provider}/{model}", api_key=base.api_key, api_base=base.api_base)
