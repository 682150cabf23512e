"""What a request cost: usage times price, in whole nano-dollars.

Money is an integer from the price table to the database. Published prices per token are often no whole nano-dollars
($0.075 per million tokens is 75 trillionths of a dollar for one), so a **price** counts nano-dollars per *million*
tokens, that is 10⁻¹⁵ dollars per token, and is read from the decimal text that was published. What is billed and is no
token (pictures, milliseconds of sound, characters, searches) is priced per million as well. A **cost** is summed exactly
in that unit and rounded up once, at the end, to nano-dollars.

What the provider itself says that a request costs is what it costs. A price that nobody has published is None and the
cost is then None too: unknown is not free. What is done about it is the operator's policy, not decided here.

The table (`data/prices.json`) is built by `python -m gateway.data.build` from the price map inside LiteLLM's wheel and
from `data/by_hand.json`, where retired models and corrections are kept with their sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct

from adapters.envelope import value_of
from adapters.types import NO_UNITS, Usage
from gateway.config.vocabulary import PRICE_NAME, PRICES, SERVICES

TABLE = Path(__file__).parent / "data" / "prices.json"

PER_DOLLAR = 10**9
"""Nano-dollars in a dollar."""
MILLION = 10**6

SELF_HOSTED = frozenset(
    {
        "docker_model_runner",
        "gpustack",
        "hosted_vllm",
        "infinity",
        "lemonade",
        "llamafile",
        "lm_studio",
        "localai",
        "ollama",
        "oobabooga",
        "xinference",
    }
)
"""Servers that people run themselves: their tokens cost nothing unless the operator gives a price."""

_SAME_PRICES = {"azure": "openai", "vertex_ai": "gemini", "codestral": "mistral"}
# Microsoft and Google sell these models at the makers' list prices; asked only after the provider's own rows.

_DATE = re.compile(r"(?:-latest|[-@]\d{8}|-\d{4}-\d\d-\d\d)$")
_REGION = re.compile(r"^(?:us|eu|apac|au|jp|global|us-gov)[./]")


class Price(Struct, frozen=True, omit_defaults=True):
    """Nano-dollars per million tokens, by bucket of `Usage`, or per million of something else; None where nothing is
    published.

    `images` are the prices of pictures by what was asked for (`1024x1024`, `hd/1024x1792`: see `price_of_picture`).
    `tiers` are the prices of long prompts, by rising threshold. Each is complete and holds for the whole request once the
    prompt has more than `above` tokens. `services` are those of other service tiers (`batch`, `flex`, `priority`), complete
    as well.
    """

    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int | None = None
    reasoning: int | None = None
    image: int | None = None
    pixel: int | None = None
    millisecond: int | None = None
    character: int | None = None
    search: int | None = None
    images: dict[str, int] = {}
    tiers: tuple[Tier, ...] = ()
    services: dict[str, Price] = {}


class Tier(Struct, frozen=True):
    """The price of a request whose prompt has more than `above` tokens."""

    above: int
    price: Price


FREE = Price(input=0, output=0, image_output=0, image=0, millisecond=0, character=0, search=0)


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What the table knows of a model: its price, its limits in tokens, what it is for and what it can do.

    `mode` is `chat`, `embedding`, `image_generation` …; `dimensions` is the length of an embedding's vector. `flags` are
    the abilities that are true (`supports_…`, `thinking_always_on`), and `no_sampling_params`, `no_forced_tool_use`,
    `no_assistant_prefill` where a model refuses what others take. A model whose levels of reasoning effort are known has
    a `supports_<level>_reasoning_effort` for each.
    """

    price: Price | None = None
    max_input: int | None = None
    max_output: int | None = None
    mode: str = ""
    dimensions: int | None = None
    flags: frozenset[str] = frozenset()


# -- the table -------------------------------------------------------------------------------------------------------


class Row(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A model in `prices.json`; `flags` is the place of its set in the file's list of sets, which many models share."""

    mode: str = ""
    price: Price | None = None
    max_input: int | None = None
    max_output: int | None = None
    dimensions: int | None = None
    flags: int = 0


class Source(Struct, frozen=True):
    """Where the numbers come from."""

    name: str
    version: str
    licence: str
    url: str


class Checked(Struct, frozen=True):
    """The comparison with a second source: how many prices agree, and which models' do not."""

    against: Source
    agree: int
    differ: dict[str, str]


class File(Struct, frozen=True):
    """`prices.json`."""

    sources: tuple[Source, ...]
    checked: Checked
    flags: tuple[frozenset[str], ...]
    models: dict[str, Row]


_FILE = msgspec.json.Decoder(File)


class PriceTable:
    """All models that the price table knows, by `provider/model`."""

    __slots__ = ("_file",)

    def __init__(self, file: File) -> None:
        self._file = file

    @classmethod
    def load(cls, path: Path = TABLE) -> PriceTable:
        """Read the table, about 10 ms. Raises `msgspec.DecodeError` if the file is damaged."""
        return cls(_FILE.decode(path.read_bytes()))

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where the numbers come from."""
        return self._file.sources

    @property
    def checked(self) -> Checked:
        """How the numbers compare with a second source."""
        return self._file.checked

    def models(self, provider: str, mode: str = "chat") -> list[str]:
        """The names of this provider's models of that mode that can be asked for, without the provider in front.

        Prices of what only looks like a model (a fine-tuned base, a container's hour) are not names.
        """
        start = f"{provider}/"
        rows = self._file.models.items()
        names = [
            name.removeprefix(start) for name, row in rows if name.startswith(start) and row.mode == mode
        ]
        return [name for name in names if name != "container" and not name.startswith("ft:")]

    def find(self, provider: str, model: str) -> ModelFacts | None:
        """The facts of `model` at `provider`, both as in `adapters.providers`; None if the table has nothing.

        The first of these that the table has: the name as it is; without its date or `-latest`; with `-latest`; without
        a region in front (`us.anthropic.…`); the same model at its maker, where that is sold at the same price. A
        fine-tuned model (`ft:base:owner::id`) costs what the table says of `ft:base`, never what its base costs.
        Models on one's own server are free.
        """
        for name in _spellings(provider, model):
            row = self._file.models.get(name)
            if row is not None:
                return self._facts(row)
        return ModelFacts(price=FREE) if provider in SELF_HOSTED else None

    def _facts(self, row: Row) -> ModelFacts:
        return ModelFacts(
            price=row.price,
            max_input=row.max_input,
            max_output=row.max_output,
            mode=row.mode,
            dimensions=row.dimensions,
            flags=self._file.flags[row.flags],
        )


def _spellings(provider: str, model: str) -> Iterator[str]:
    model = model.removeprefix(f"{provider}/")
    if model.startswith("ft:"):
        model = ":".join(model.split(":")[:2])
    plain = _DATE.sub("", model)
    names = dict.fromkeys((model, plain, f"{plain}-latest", _REGION.sub("", model), _REGION.sub("", plain)))
    for seller in (provider, _SAME_PRICES.get(provider)):
        if seller:
            yield from (f"{seller}/{name}" for name in names)


NO_QUESTION: Mapping[str, Raw] = MappingProxyType({})


# -- what it costs ---------------------------------------------------------------------------------------------------


def cost(price: Price | None, usage: Usage, question: Mapping[str, Raw] = NO_QUESTION) -> int | None:
    """Nano-dollars for this usage, rounded up once; None if the price is unknown, or that of something that was used.

    What the provider billed counts before any price. Otherwise the price is that of the service tier that answered, if it
    has one of its own, and there that of prompts as long as this one. `question` is the client's, by field: what it asks for
    decides what a picture costs (`price_of_picture`).

    Buckets that the provider does not price apart cost what they are a kind of: cached, audio and image tokens what input
    costs, reasoning and audio output what output costs. Image output is too much dearer than words for that: without a
    price of its own it is unknown. One-hour cache writes exist at Anthropic alone, where they are twice the input price by
    rule, so that holds where only the price of short writes is known.
    """
    if usage.billed is not None:
        return usage.billed
    if price is None:
        return None
    if usage.tier and price.services:
        price = price.services.get(usage.tier, price)
    if price.tiers:
        price = _tier(price, usage.prompt)
    input_rate, output_rate = price.input, price.output
    if (
        input_rate is None
        or output_rate is None
        or usage.cache_write
        or usage.cache_write_1h
        or usage.audio_input
        or usage.audio_output
        or usage.image_input
        or usage.image_output
        or usage.units is not NO_UNITS
    ):
        return _sum(price, usage, question)
    # Nearly all requests have no more than this: 0.3 us, where the whole sum takes 1.2.
    total = usage.input * input_rate + usage.output * output_rate
    if usage.cache_read:
        total += usage.cache_read * (input_rate if price.cache_read is None else price.cache_read)
    if usage.reasoning:
        total += usage.reasoning * (output_rate if price.reasoning is None else price.reasoning)
    return -(-total // MILLION)


def _sum(price: Price, usage: Usage, question: Mapping[str, Raw]) -> int | None:
    used = _tokens(price, usage)
    if usage.units is not NO_UNITS:
        units = _units(price, usage, question)
        used = units if _has_no_tokens(price) else used + units
    total = 0
    for count, rate in used:
        if count:
            if rate is None:
                return None
            total += count * rate
    return -(-total // MILLION)


def _tokens(price: Price, usage: Usage) -> tuple[tuple[int, int | None], ...]:
    """How many tokens there are, and what they cost."""
    return (
        (usage.input, price.input),
        (usage.cache_read, _first(price.cache_read, price.input)),
        (usage.cache_write, _first(price.cache_write, price.input)),
        (usage.cache_write_1h, _one_hour(price)),
        (usage.audio_input, _first(price.audio_input, price.input)),
        (usage.image_input, _first(price.image_input, price.input)),
        (usage.output, price.output),
        (usage.reasoning, _first(price.reasoning, price.output)),
        (usage.audio_output, _first(price.audio_output, price.output)),
        (usage.image_output, price.image_output),
    )


def _has_no_tokens(price: Price) -> bool:
    """Who sells by the picture, second or character alone may count tokens too, but does not bill them."""
    return all(
        rate is None
        for rate in (
            price.input,
            price.output,
            price.audio_input,
            price.audio_output,
            price.image_input,
            price.image_output,
        )
    )


def _units(price: Price, usage: Usage, question: Mapping[str, Raw]) -> tuple[tuple[int, int | None], ...]:
    """How many there are of what is no token, and the price of each."""
    units = usage.units
    # Some models have a price per picture and one per token of a picture; where those are counted, they are the bill.
    in_tokens = usage.completion and (price.image_output or price.output)
    images = 0 if in_tokens else units.images
    return (
        (images, price_of_picture(price, question) if images else None),
        (units.milliseconds, price.millisecond),
        (units.characters, price.character),
        (units.searches, price.search),
    )


def price_of_picture(price: Price, question: Mapping[str, Raw]) -> int | None:
    """What a million pictures cost of the size (`"1024x1792"`) and quality (`"hd"`) that were asked for.

    What was not said is what OpenAI takes then: 1024x1024, `standard`. A size that the price does not know costs what any
    other does (`Price.image`), or nobody knows what.
    """
    if not price.images and price.pixel is None:
        return price.image
    size = _word(question, "size", "1024x1024")
    quality = _word(question, "quality", "standard")
    rate = price.images.get(f"{quality}/{size}")
    if rate is None and quality == "standard":
        rate = price.images.get(size)
    pixels = _PIXELS.fullmatch(size)
    if rate is None and price.pixel is not None and pixels is not None:
        rate = int(pixels[1]) * int(pixels[2]) * price.pixel
    return price.image if rate is None else rate


def _word(question: Mapping[str, Raw], field: str, usual: str) -> str:
    value = value_of(question, field)
    return value if isinstance(value, str) and value not in {"", "auto"} else usual


_PIXELS = re.compile(r"(\d{1,5})x(\d{1,5})")


def _tier(price: Price, prompt: int) -> Price:
    return next((tier.price for tier in reversed(price.tiers) if prompt > tier.above), price)


def _first(own: int | None, general: int | None) -> int | None:
    return general if own is None else own


def _one_hour(price: Price) -> int | None:
    if price.cache_write_1h is not None or price.input is None:
        return price.cache_write_1h
    return price.input if price.cache_write is None else 2 * price.input


# -- prices from people ----------------------------------------------------------------------------------------------

_SCALES = {"millisecond": PER_DOLLAR * MILLION // 1000}
_SEARCH_SIZES = ("search_context_size_medium", "search_context_size_low", "search_context_size_high")


def price_from_params(params: Mapping[str, object]) -> Price | None:
    """The price that LiteLLM's parameters give (`input_cost_per_token: 0.000002`); None if they give none.

    Takes numbers and decimal text; `…_above_200k_tokens` for long prompts, where what is not said is as for short ones;
    `…_batches`, `…_flex`, `…_priority` for service tiers, where it is as in the ordinary one, of which they need not say
    anything; `search_context_cost_per_query`
    as an amount or by the size of the context, of which the medium one counts. A picture, second, character or pixel is
    paid once: of a price for those that go in and one for those that come out, the second counts unless it is zero. Other keys are left alone. Raises `ValueError` that names the key.
    """
    rates = rates_from_params(params)
    return _assembled(rates) if rates else None


Rates: TypeAlias = dict[str, dict[int, dict[str, int]]]
"""The fields of a price by service tier (the ordinary one is ""), by threshold (0: none)."""


def rates_from_params(params: Mapping[str, object]) -> Rates:
    """What the parameters say, and no more than that. As `price_from_params`."""
    rates: Rates = {}
    for key in sorted(params):
        name, value = PRICE_NAME.fullmatch(key), params[key]
        field = PRICES.get(name[1]) if name is not None else None
        if name is None or field is None or value is None:
            continue
        above = int(name[2]) * 1000 if name[2] else 0
        service = SERVICES[name[3]] if name[3] else ""
        found = rates.setdefault(service, {}).setdefault(above, {})
        rate = _scaled(_medium(value), _SCALES.get(field, PER_DOLLAR * MILLION), key)
        if rate or not found.get(field):
            found[field] = rate
    return rates


def completed(own: Price, listed: Price | None) -> Price:
    """An operator's price, with what it leaves open taken from the `listed` one: that of words, and of what is no token.

    Where the words of one side are open, so are the kinds of them (cached, thought, spoken …), long prompts and service tiers.
    Who gives a price per picture, second or character alone has said what an answer costs: then nothing is open.
    """
    by_unit = own.image or own.pixel or own.millisecond or own.character
    if listed is None or (by_unit and _has_no_tokens(own)):
        return own
    open_fields = [name for name in _COMPLETED if getattr(own, name) is None]
    if own.image is None and own.pixel is None:
        open_fields.append("images")
    open_sides = [side for side in _KINDS if getattr(own, side) is None]
    open_fields += [kind for side in open_sides for kind in _KINDS[side] if getattr(own, kind) is None]
    tiers = [(tier.above, tier.price, _flat(_tier(listed, tier.above + 1))) for tier in own.tiers]
    services = {name: (price, listed.services.get(name, listed)) for name, price in own.services.items()}
    if open_sides:
        tiers = tiers or [(tier.above, _flat(own), tier.price) for tier in listed.tiers]
        usual = msgspec.structs.replace(own, services={})
        services = {name: (usual, price) for name, price in listed.services.items()} | services
    return msgspec.structs.replace(
        own,
        **{name: getattr(listed, name) for name in open_fields},
        tiers=tuple(Tier(above, completed(price, other)) for above, price, other in tiers),
        services={name: completed(price, other) for name, (price, other) in services.items()},
    )


_COMPLETED = ("input", "output", "image", "pixel", "millisecond", "character", "search")
_KINDS = {
    "input": ("cache_read", "cache_write", "cache_write_1h", "audio_input", "image_input"),
    "output": ("reasoning", "audio_output", "image_output"),
}


def _flat(price: Price) -> Price:
    """The same for prompts of any length, in the ordinary service tier."""
    return msgspec.structs.replace(price, tiers=(), services={})


def readable_prices(info: Mapping[str, object]) -> dict[str, object]:
    """The prices among the facts that an operator gives about a model (`model_info`); what is none is passed over, because
    anything may stand there.
    """
    found = {}
    for key, value in info.items():
        with suppress(ValueError):
            if rates_from_params({key: value}):
                found[key] = value
    return found


def _medium(value: object) -> object:
    if isinstance(value, Mapping):
        return next((value[size] for size in _SEARCH_SIZES if size in value), None)
    return value


def assembled(rates: Rates) -> Price | None:
    """The price with all its tiers and services; None if it has nothing in the ordinary service tier."""
    return _assembled(rates) if any(rates.get("", {}).values()) else None


def _assembled(rates: Rates) -> Price:
    base = rates.get("", {})
    services = {}
    for service, own in rates.items():
        if service:
            thresholds = {*base, *own}
            services[service] = _tiered(
                {above: {**base.get(above, {}), **own.get(above, {})} for above in thresholds}
            )
    return msgspec.structs.replace(_tiered(base), services=services)


def _tiered(steps: Mapping[int, Mapping[str, int]]) -> Price:
    """A tier takes from the one below what it does not say."""
    fields = dict(steps.get(0, {}))
    price = msgspec.convert(fields, Price)
    tiers: list[Tier] = []
    for above in sorted(steps.keys() - {0}):
        fields |= steps[above]
        tiers.append(Tier(above, msgspec.convert(fields, Price)))
    return msgspec.structs.replace(price, tiers=tuple(tiers))


def nano(dollars: object, key: str = "amount") -> int:
    """Dollars, as a number or decimal text, in nano-dollars. Raises `ValueError` that names the key."""
    return _scaled(dollars, PER_DOLLAR, key)


def _scaled(value: object, scale: int, key: str) -> int:
    # A float is read by its shortest decimal text, which is what was written in the file; what lies beyond its
    # seventeenth digit is noise (2.9999900000000002e-06) and is rounded away.
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise ValueError(f"{key}: expected a number of dollars, not {value!r}")  # noqa: TRY004  # one kind for callers
    try:
        amount = Decimal(str(value).strip())
    except InvalidOperation:
        raise ValueError(f"{key}: expected a number of dollars, not {value!r}") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{key}: expected a number of dollars that is not negative, not {value!r}")
    return int((amount * scale).to_integral_value())


def dollars_text(amount: int) -> str:
    """Nano-dollars as exact decimal text without an exponent, for headers: `0.00000015`, `1.5`, `0.0`."""
    sign = "-" if amount < 0 else ""
    whole, rest = divmod(abs(amount), PER_DOLLAR)
    return f"{sign}{whole}.{f'{rest:09d}'.rstrip('0') or '0'}"
