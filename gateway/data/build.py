"""Build `prices.json`: `python -m gateway.data.build [WHEEL_OR_JSON …]`, newest first.

For maintainers; the gateway itself only reads the result. The sources, each giving way to those before it:

* `by_hand.json`: corrections, and what is found nowhere else. Dollars per million tokens, with a page each;
* LiteLLM's price map of today, taken out of its wheel (MIT);
* `genai-prices` (MIT) for OpenRouter, whose prices LiteLLM no longer lists;
* older maps of LiteLLM, for models that have been retired since, because people go on naming them.

Then every price that `genai-prices` knows as well is compared. The summary is kept in the table (`checked`), the whole
list is printed, and what is plainly wrong is corrected in `by_hand.json`.

Of each model the map gives its price (by bucket of tokens; per picture, second of sound, character and search, where
its mode is billed so; for long prompts and for other service tiers), its limits, what it is for, the length of its vectors
and its abilities. What is not taken: prices of storage, of video and of sessions, hours of the day with a discount, and
surcharges for regions. Rows for one size of a model's pictures (`hd/1024-x-1792/dall-e-3`) become `Price.images` of it.

Three things that the map cannot say are decided here. A chat model at zero dollars is free at some providers and merely
unpriced at others: zero is believed of those in `FREE_OF_CHARGE`, else it means unknown. A price above 200 dollars per
million input tokens, which no model has ever had, is a slip by a factor of a thousand: unknown as well. And a price that
is what `gateway.pricing.cost` would take anyway (reasoning that costs what words do) is left out, so that tiers and
services, which take from the ordinary price what they do not say, do not take that.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from genai_prices import data_snapshot
from genai_prices.types import TieredPrices

from gateway.pricing import (
    MILLION,
    PER_DOLLAR,
    TABLE,
    Checked,
    File,
    Price,
    Row,
    Source,
    assembled,
    price_from_params,
    rates_from_params,
)

RELEASES = ("1.109.1", "1.90.0", "1.80.0", "1.74.0")
"""The releases of LiteLLM whose maps are used: today's, and older ones for what each still knew."""

MAP = "litellm/model_prices_and_context_window_backup.json"
BY_HAND = TABLE.with_name("by_hand.json")

DEAREST = 200 * PER_DOLLAR
FREE_OF_CHARGE = frozenset(
    {"codestral", "gemini", "lemonade", "mistral", "ollama", "openai", "publicai", "zai"}
)
TEXT_MODES = frozenset({"chat", "completion", "responses", "embedding", "moderation"})

UNITS = ("image", "pixel", "millisecond", "character", "search")
BILLED_BY = {
    "image_generation": ("image", "pixel", "search"),
    "image_edit": ("image", "pixel"),
    "audio_transcription": ("millisecond",),
    "audio_speech": ("character",),
    "embedding": ("image",),
    "rerank": ("search",),
    "search": ("search",),
    "chat": ("search",),
    "responses": ("search",),
}
"""What is billed beside tokens, by mode. The map has more: characters as another measure of the same text, seconds of
speech that nobody reports, hours of reserved machines.
"""

SIZED = re.compile(
    r"(?:(?P<quality>[a-z]+)/)?(?P<width>\d+|max)-x-(?P<height>\d+|max)/(?:(?P<steps>\w+)-steps/)?(?P<model>.+)"
)
"""The map's rows of one size of a model's pictures, by the name that follows the provider. `50-steps` is the usual number."""

OURS = {
    "ai21_chat": "ai21",
    "azure_text": "azure",
    "bedrock_converse": "bedrock",
    "cohere_chat": "cohere",
    "fireworks_ai-embedding-models": "fireworks_ai",
    "text-completion-codestral": "codestral",
    "text-completion-openai": "openai",
    "veniceai": "venice",
}
"""LiteLLM's names of providers where ours differ."""

THEIRS = {
    "anthropic": "anthropic",
    "azure": "azure",
    "baseten": "baseten",
    "bedrock": "aws",
    "cerebras": "cerebras",
    "cohere": "cohere",
    "databricks": "databricks",
    "deepseek": "deepseek",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "groq": "groq",
    "minimax": "minimax",
    "mistral": "mistral",
    "moonshot": "moonshotai",
    "novita": "novita",
    "openai": "openai",
    "ovhcloud": "ovhcloud",
    "perplexity": "perplexity",
    "together_ai": "together",
    "voyage": "voyageai",
    "xai": "x-ai",
    "zai": "zai",
}
"""Our names of providers and those of genai-prices."""

FIELDS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
    "input_image_mtok": "image_input",
    "output_image_mtok": "image_output",
    "output_reasoning_mtok": "reasoning",
}
"""Names of prices in genai-prices and ours: all that are per token."""

LITELLM = Source("LiteLLM's price map", ", ".join(RELEASES), "MIT", "https://github.com/BerriAI/litellm")
GENAI = Source("genai-prices", version("genai-prices"), "MIT", "https://github.com/pydantic/genai-prices")
HAND = Source("by_hand.json", "", "Apache-2.0", "each row names its own")

Say = Callable[[str], object]


class Model(msgspec.Struct, frozen=True):
    """A row of the table before its flags are numbered."""

    row: Row
    flags: frozenset[str] = frozenset()


# -- LiteLLM ---------------------------------------------------------------------------------------------------------


def fetch(release: str, folder: Path) -> Path:
    """Download the wheel of a LiteLLM release into `folder`, and return its path."""
    command = ["pip", "download", "--no-deps", "--quiet", f"litellm=={release}", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", *command], check=True)  # noqa: S603  # nothing of it comes from outside
    return next(folder.glob(f"litellm-{release}-*.whl"))


def read_map(path: Path) -> dict[str, dict[str, Any]]:
    """The price map of a wheel, or of a JSON file; numbers with a point stay text, as they were written."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            text = wheel.read(MAP)
    else:
        text = path.read_bytes()
    entries: dict[str, dict[str, Any]] = json.loads(text, parse_float=str)
    entries.pop("sample_spec", None)
    return entries


def from_litellm(entries: Mapping[str, Mapping[str, Any]], say: Say) -> dict[str, Model]:
    """The map's models by `provider/model`. Where it has one with and without provider, the priced one wins."""
    models: dict[str, Model] = {}
    images: dict[str, dict[str, int]] = {}
    for key in sorted(entries, key=lambda key: "/" in key):
        entry = entries[key]
        seller = str(entry.get("litellm_provider") or "unknown")
        provider = OURS.get(seller, "vertex_ai" if seller.startswith("vertex_ai") else seller)
        bare = _without(key, seller if key.startswith(f"{seller}/") else provider)
        mode = str(entry.get("mode") or "")
        sized = SIZED.fullmatch(bare)
        if sized is not None:
            name = f"{provider}/{_without(sized['model'], seller)}"
            images.setdefault(name, {}).update(_picture(entry, sized))
            continue
        name = f"{provider}/{bare}"
        model = Model(
            Row(
                mode=mode,
                price=_believed(_map_price(entry, mode), provider, mode, name, say),
                max_input=_count(entry.get("max_input_tokens")),
                max_output=_count(entry.get("max_output_tokens")),
                dimensions=_count(entry.get("output_vector_size")),
            ),
            _flags(entry),
        )
        if name not in models or model.row.price is not None:
            models[name] = model
    for name, by_size in images.items():
        if by_size:
            models[name] = _with_images(models.get(name) or Model(Row(mode="image_generation")), by_size)
    return models


def _without(name: str, prefix: str) -> str:
    return name.removeprefix(f"{prefix}/")


def _picture(entry: Mapping[str, Any], sized: re.Match[str]) -> dict[str, int]:
    """The price of a picture of that size. One that is given per pixel was divided from a round amount by hand: it is
    rounded to ten thousandths of a dollar.
    """
    price = price_from_params(
        {
            key: value
            for key, value in entry.items()
            if key.startswith(("input_cost_per_", "output_cost_per_"))
        }
    )
    if price is None or "max" in sized.groups():
        return {}
    width, height = int(sized["width"]), int(sized["height"])
    rate = price.image
    if rate is None:
        step = PER_DOLLAR * MILLION // 10_000
        rate = round((price.pixel or 0) * width * height / step) * step
    name = f"{width}x{height}"
    return {f"{sized['quality']}/{name}" if sized["quality"] else name: rate} if rate else {}


def _with_images(model: Model, images: dict[str, int]) -> Model:
    """The model with these prices by size. The map sells a quality that was not said as the cheapest of several
    (`low`), which is not what providers do: then it is unknown.
    """
    if any(name.startswith("low/") for name in images):
        images = {
            name: rate for name, rate in images.items() if name.startswith(("low/", "medium/", "high/"))
        }
    price = msgspec.structs.replace(model.row.price or Price(), images=dict(sorted(images.items())))
    return Model(msgspec.structs.replace(model.row, price=price), model.flags)


def _map_price(entry: Mapping[str, Any], mode: str) -> Price | None:
    params = {"cache_read_input_token_cost": entry.get("input_cost_per_token_cache_hit")}
    params |= {key: value for key, value in entry.items() if value is not None}
    for step in entry.get("tiered_pricing") or ():
        start = int(Decimal(step.get("range", [0])[0])) // 1000
        suffix = f"_above_{start}k_tokens" if start else ""
        params |= {f"{key}{suffix}": value for key, value in step.items()}
    rates = rates_from_params(params)
    base = rates.get("", {}).get(0, {})
    for field in _needless(base, BILLED_BY.get(mode, ())):
        for steps in rates.values():
            for fields in steps.values():
                if field in UNITS or fields is base:
                    fields.pop(field, None)
    fast = (entry.get("provider_specific_entry") or {}).get("fast")
    if fast is not None:
        rates["fast"] = {above: _times(fields, Decimal(fast)) for above, fields in rates.get("", {}).items()}
    return assembled(rates)


def _needless(base: Mapping[str, int], units: Sequence[str]) -> set[str]:
    """Fields that say nothing: units in which the model is not billed, and what costs what it would without a price."""
    gone = {unit for unit in UNITS if unit not in units or not base.get(unit)}
    gone |= {field for field in ("reasoning", "audio_output") if base.get(field) == base.get("output")}
    gone |= {field for field in ("audio_input", "image_input") if base.get(field) == base.get("input")}
    if "cache_write" in base and base.get("cache_write_1h") == 2 * base.get("input", 0):
        gone.add("cache_write_1h")
    return gone


def _times(fields: Mapping[str, int], factor: Decimal) -> dict[str, int]:
    """Anthropic's fast mode: every token so many times as dear."""
    return {field: int(rate * factor) for field, rate in fields.items() if field not in UNITS}


def _believed(price: Price | None, provider: str, mode: str, name: str, say: Say) -> Price | None:
    if price is None:
        return None
    if (price.input or 0) > DEAREST:
        say(f"not believed: {name} at {_dollars(price.input)} per million input tokens")
        return None
    rates = msgspec.structs.asdict(price)
    if any(rates[field] for field in FIELDS.values()):
        return price
    if mode not in TEXT_MODES:
        return price if any(rates[unit] for unit in UNITS) else None
    is_free = provider in FREE_OF_CHARGE and (price.input is not None or price.output is not None)
    return Price(input=0, output=0, search=price.search) if is_free else None


def _flags(entry: Mapping[str, Any]) -> frozenset[str]:
    flags = {key for key, value in entry.items() if value is True}
    for ability in ("sampling_params", "forced_tool_use", "assistant_prefill"):
        if entry.get(f"supports_{ability}") is False:
            flags.add(f"no_{ability}")
    flags |= {f"supports_{level}_reasoning_effort" for level in entry.get("reasoning_effort_levels") or ()}
    return frozenset(flags)


def _count(value: object) -> int | None:
    return int(Decimal(value)) if isinstance(value, (int, str)) and str(value) else None


# -- by hand ---------------------------------------------------------------------------------------------------------


def read_by_hand(path: Path = BY_HAND) -> dict[str, Model]:
    """The hand-kept rows: dollars per million tokens as decimal text, `tiers` by threshold, dollars for one `image` or
    `search` and for `images` by quality and size, flags, limits, `source`.
    """
    models = {}
    for name, entry in json.loads(path.read_bytes(), parse_float=str).items():
        tiers = {int(above): _rates(step) for above, step in entry.get("tiers", {}).items()}
        base = _rates(entry) | {unit: MILLION * _rate(entry[unit]) for unit in UNITS if unit in entry}
        model = Model(
            Row(
                mode=entry["mode"],
                price=assembled({"": {0: base, **tiers}}),
                max_input=entry.get("max_input"),
                max_output=entry.get("max_output"),
            ),
            frozenset(entry.get("flags", ())),
        )
        images = {size: MILLION * _rate(dollars) for size, dollars in entry.get("images", {}).items()}
        models[name] = _with_images(model, images) if images else model
    return models


def _rates(entry: Mapping[str, Any]) -> dict[str, int]:
    return {field: _rate(entry[field]) for field in FIELDS.values() if field in entry}


def _rate(dollars: object) -> int:
    return int((Decimal(str(dollars)) * PER_DOLLAR).to_integral_value())


# -- genai-prices ----------------------------------------------------------------------------------------------------


def from_genai(provider: str, now: datetime) -> dict[str, Model]:
    """The models of one provider as genai-prices has them, by our names."""
    for theirs in data_snapshot.get_snapshot().providers:
        if theirs.id == THEIRS.get(provider, provider):
            return {
                f"{provider}/{model.id}": Model(
                    Row(
                        mode="chat", price=_genai_price(model.get_prices(now)), max_input=model.context_window
                    )
                )
                for model in theirs.models
            }
    raise KeyError(provider)


def _genai_price(prices: Any) -> Price | None:
    base: dict[str, int] = {}
    tiers: dict[int, dict[str, int]] = {}
    for theirs, ours in FIELDS.items():
        value = getattr(prices, theirs, None)
        if isinstance(value, TieredPrices):
            for step in value.tiers:
                tiers.setdefault(step.start, {})[ours] = _rate(step.price)
            value = value.base
        if value is not None:
            base[ours] = _rate(value)
    return assembled({"": {0: base, **tiers}}) if base else None


def compare(models: Mapping[str, Model], now: datetime, say: Say) -> Checked:
    """Compare the table's short-prompt prices with those of genai-prices, wherever both have one."""
    agree = 0
    differ: dict[str, str] = {}
    for provider in THEIRS:
        for name, theirs in from_genai(provider, now).items():
            ours = models.get(name)
            if ours is None or ours.row.price is None or theirs.row.price is None:
                continue
            found = _differences(ours.row.price, theirs.row.price)
            agree += not found
            if found:
                differ[name] = found
    for name, found in differ.items():
        say(f"differs: {name}: {found}")
    return Checked(GENAI, agree, differ)


def _differences(ours: Price, theirs: Price) -> str:
    pairs = [(field, getattr(ours, field), getattr(theirs, field)) for field in FIELDS.values()]
    return ", ".join(
        f"{field} {_dollars(own)}, there {_dollars(other)}"
        for field, own, other in pairs
        if own is not None and other is not None and own != other
    )


def _dollars(rate: int | None) -> str:
    return "nothing" if rate is None else f"${Decimal(rate) / PER_DOLLAR:f}"


def _silently(_: str) -> None:
    """Slips in old maps are nobody's concern."""


# -- the table -------------------------------------------------------------------------------------------------------


def build(maps: Sequence[Mapping[str, Mapping[str, Any]]], now: datetime, say: Say) -> File:
    """The table from LiteLLM's maps, newest first, `by_hand.json` and genai-prices."""
    today, *older = maps
    models: dict[str, Model] = {}
    for entries in reversed(older):
        found = from_litellm(entries, _silently)
        models |= {name: model for name, model in found.items() if model.row.price is not None}
    models |= from_genai("openrouter", now)
    models |= from_litellm(today, say)
    models |= read_by_hand()
    sets = sorted(
        {model.flags for model in models.values()} | {frozenset()},
        key=lambda flags: (len(flags), sorted(flags)),
    )
    place = {flags: index for index, flags in enumerate(sets)}
    rows = {
        name: msgspec.structs.replace(models[name].row, flags=place[models[name].flags])
        for name in sorted(models)
    }
    return File(
        sources=(LITELLM, GENAI, HAND), checked=compare(models, now, say), flags=tuple(sets), models=rows
    )


def write(file: File, path: Path = TABLE) -> None:
    """Write the table with one model to the line, so that a change can be read."""
    rows = ",\n".join(
        f"{json.dumps(name)}:{msgspec.json.encode(row).decode()}" for name, row in file.models.items()
    )
    sets = ",\n".join(json.dumps(sorted(flags), separators=(",", ":")) for flags in file.flags)
    head = {"sources": msgspec.to_builtins(file.sources), "checked": msgspec.to_builtins(file.checked)}
    text = json.dumps(head, indent=1, ensure_ascii=False)[:-2]
    path.write_text(f'{text},\n "flags": [\n{sets}\n],\n "models": {{\n{rows}\n}}}}\n', encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Build and write the table, and tell what was found on the way."""

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(argument) for argument in arguments]
        paths = paths or [fetch(release, Path(folder)) for release in RELEASES]
        file = build([read_map(path) for path in paths], datetime.now(UTC), say)
    write(file)
    priced = sum(row.price is not None for row in file.models.values())
    say(f"{len(file.models)} models, {priced} with prices; {file.checked.agree} agree with genai-prices,")
    say(f"{len(file.checked.differ)} do not; {TABLE.stat().st_size // 1000} kB in {TABLE.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
