"""What a request cost: usage times price, in whole nano-dollars.

Money is an integer from the price table to the database. Published prices per token are often no whole nano-dollars
($0.075 per million tokens is 75 trillionths of a dollar for one), so a **price** counts nano-dollars per *million*
tokens, that is 10⁻¹⁵ dollars per token, and is read from the decimal text that was published. A **cost** is summed
exactly in that unit and rounded up once, at the end, to nano-dollars.

A price that nobody has published is None and the cost is then None too: unknown is not free. What is done about it is
the operator's policy, not decided here.

The table (`data/prices.json`) is built by `python -m gateway.data.build` from the price map inside LiteLLM's wheel and
from `data/by_hand.json`, where retired models and corrections are kept with their sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path

import msgspec
from msgspec import Struct

from adapters.types import Usage

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
    """Nano-dollars per million tokens, by bucket of `Usage`; None where nothing is published.

    `tiers` are the prices of long prompts, by rising threshold. Each is complete and holds for the whole request once
    the prompt has more than `above` tokens.
    """

    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    reasoning: int | None = None
    tiers: tuple[Tier, ...] = ()


class Tier(Struct, frozen=True):
    """The price of a request whose prompt has more than `above` tokens."""

    above: int
    price: Price


FREE = Price(input=0, output=0)


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What the table knows of a model: its price, its limits in tokens, what it is for and what it can do.

    `mode` is `chat`, `embedding`, `image_generation` …; `flags` are the `supports_…` that are true, and
    `no_sampling_params`, `no_forced_tool_use` where a model refuses what nearly all others take.
    """

    price: Price | None = None
    max_input: int | None = None
    max_output: int | None = None
    mode: str = ""
    flags: frozenset[str] = frozenset()


# -- the table -------------------------------------------------------------------------------------------------------


class Row(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A model in `prices.json`; `flags` is the place of its set in the file's list of sets, which many models share."""

    mode: str = ""
    price: Price | None = None
    max_input: int | None = None
    max_output: int | None = None
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


# -- what it costs ---------------------------------------------------------------------------------------------------


def cost(price: Price, usage: Usage) -> int | None:
    """Nano-dollars for these tokens, rounded up once; None if a bucket that was used has no price.

    Buckets that the provider does not price apart cost what they are a kind of: cached and audio tokens what input
    costs, reasoning and audio output what output costs. One-hour cache writes exist at Anthropic alone, where they are
    twice the input price by rule, so that holds where only the price of short writes is known.
    """
    if price.tiers:
        price = _tier(price, usage.prompt)
    special = usage.cache_read | usage.cache_write | usage.cache_write_1h | usage.audio_input
    special |= usage.reasoning | usage.audio_output
    if (
        not special and price.input is not None and price.output is not None
    ):  # 0.4 us, where the table takes 2.5
        return -(-(usage.input * price.input + usage.output * price.output) // MILLION)
    total = 0
    for tokens, rate in (
        (usage.input, price.input),
        (usage.cache_read, _first(price.cache_read, price.input)),
        (usage.cache_write, _first(price.cache_write, price.input)),
        (usage.cache_write_1h, _one_hour(price)),
        (usage.audio_input, _first(price.audio_input, price.input)),
        (usage.output, price.output),
        (usage.reasoning, _first(price.reasoning, price.output)),
        (usage.audio_output, _first(price.audio_output, price.output)),
    ):
        if tokens:
            if rate is None:
                return None
            total += tokens * rate
    return -(-total // MILLION)


def _tier(price: Price, prompt: int) -> Price:
    return next((tier.price for tier in reversed(price.tiers) if prompt > tier.above), price)


def _first(own: int | None, general: int | None) -> int | None:
    return general if own is None else own


def _one_hour(price: Price) -> int | None:
    if price.cache_write_1h is not None or price.input is None:
        return price.cache_write_1h
    return price.input if price.cache_write is None else 2 * price.input


# -- prices from people ----------------------------------------------------------------------------------------------

PARAMETERS: dict[str, str] = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "output_cost_per_reasoning_token": "reasoning",
}
"""LiteLLM's names of prices, in `litellm_params`, `model_info` and its price map, and ours. Dollars per token."""

_ABOVE = re.compile(r"_above_(\d+)k_tokens$")


def price_from_params(params: Mapping[str, object]) -> Price | None:
    """The price that LiteLLM's parameters give (`input_cost_per_token: 0.000002`); None if they give none.

    Takes numbers and decimal text, and `…_above_200k_tokens` for long prompts, where what is not said is as for short
    ones. Other keys are left alone. Raises `ValueError` that names the key.
    """
    base: dict[str, int] = {}
    tiers: dict[int, dict[str, int]] = {}
    for key, value in params.items():
        threshold = _ABOVE.search(key)
        field = PARAMETERS.get(_ABOVE.sub("", key))
        if field is None or value is None:
            continue
        above = int(threshold[1]) * 1000 if threshold else 0
        place = tiers.setdefault(above, {}) if above else base
        place[field] = _rate(value, key)
    if not base and not tiers:
        return None
    return tiered(base, tiers)


def tiered(base: Mapping[str, int], tiers: Mapping[int, Mapping[str, int]]) -> Price:
    """A price from its fields and those of its tiers; a tier takes from the one below what it does not say."""
    steps: list[Tier] = []
    below = dict(base)
    for above in sorted(tiers):
        below = {**below, **tiers[above]}
        steps.append(Tier(above, msgspec.convert(below, Price)))
    return msgspec.convert({**base, "tiers": steps}, Price)


def _rate(value: object, key: str) -> int:
    """Dollars per token as nano-dollars per million."""
    return _scaled(value, PER_DOLLAR * MILLION, key)


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
