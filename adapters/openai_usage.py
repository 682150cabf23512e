"""What an answer in OpenAI's format cost: part of `adapters.openai`.

Everybody reports the same three counts and means something else by them, so the counts are put into disjoint buckets here.
Some say in dollars what the request costs, and in which tier of service it was answered.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import replace

from adapters.envelope import count_of, decode
from adapters.types import Provider, Usage
from adapters.wire import openai as wire
from adapters.wire.openai import given

_USAGE = msgspec.json.Decoder(wire.Usage)
_ANYTHING = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode
_EMPTY = Raw(b"{}")
_NO_PROMPT = wire.PromptDetails()
_NO_COMPLETION = wire.CompletionDetails()
_COUNTS = (
    *("completion_tokens", "total_tokens", "cached_tokens", "prompt_cache_hit_tokens", "num_cached_tokens"),
    *("cache_creation_input_tokens", "reasoning_tokens", "prompt_tokens"),
)
_TIERS = {b'"flex"': "flex", b'"ultrafast"': "ultrafast", b'"priority"': "priority", b'"batch"': "batch"}
"""Service tiers with prices of their own; `default`, `auto`, `on_demand`, `standard` … are the ordinary one."""
_LONGEST_AMOUNT = 40


def find_usage(chunk: wire.Answer | wire.Outline, provider: Provider) -> Usage | None:
    """The usage of an answer: at its top, in Groq's own field on streams, or in the first choice (Moonshot)."""
    raw = None if chunk.usage is wire.NOTHING else given(chunk.usage)
    if raw is None and chunk.x_groq is not None:
        raw = given(chunk.x_groq.usage)
    if raw is None and chunk.choices and chunk.choices[0].usage is not wire.NOTHING:
        raw = given(chunk.choices[0].usage)
    return None if raw is None or raw == _EMPTY else read_usage(raw, provider, chunk.service_tier)


def read_usage(raw_usage: Raw | bytes, provider: Provider, service_tier: Raw = wire.NOTHING) -> Usage | None:
    """A provider's `usage` in disjoint buckets; None if it is no object. `service_tier` is the answer's.

    Cached, audio and image tokens are inside of `prompt_tokens`, reasoning inside of `completion_tokens`; where
    `total_tokens` says that they were left out (xAI's reasoning, Mistral's audio) they are added. What is inside never
    exceeds the whole: Azure's Grok reports more cached tokens than tokens.
    """
    try:
        counts: wire.Usage | None = _USAGE.decode(raw_usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        counts = _lenient_usage(raw_usage)
    if counts is None:
        return None
    usage = _in_buckets(counts, provider)
    billed = _read_bill(counts) if "bills" in provider.quirks else None
    told = counts.service_tier if service_tier is wire.NOTHING else service_tier
    tier = "" if told is wire.NOTHING else _TIERS.get(bytes(told), "")
    return replace(usage, billed=billed, tier=tier) if tier or billed is not None else usage


def _lenient_usage(raw_usage: Raw | bytes) -> wire.Usage | None:
    """The counts of a `usage` in which something is no plain count."""
    usage = decode(raw_usage, _ANYTHING)
    if not isinstance(usage, dict):
        return None
    counts: dict[str, Any] = {name: _count(usage, name) for name in _COUNTS if usage.get(name) is not None}
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return wire.Usage(
        **counts,
        prompt_tokens_details=wire.PromptDetails(
            _count(prompt, "cached_tokens"),
            _count(prompt, "cache_write_tokens"),
            _count(prompt, "audio_tokens"),
            _count(prompt, "image_tokens"),
        ),
        completion_tokens_details=wire.CompletionDetails(
            _count(completion, "reasoning_tokens"),
            _count(completion, "audio_tokens"),
            _count(completion, "image_tokens"),
        ),
        cost=Raw(_encode(usage.get("cost"))),
        cost_in_usd_ticks=Raw(_encode(usage.get("cost_in_usd_ticks"))),
    )


def _in_buckets(counts: wire.Usage, provider: Provider) -> Usage:
    completion, total = counts.completion_tokens or 0, counts.total_tokens or 0
    prompt = max(0, total - completion) if counts.prompt_tokens is UNSET else counts.prompt_tokens
    inside, outside = (
        counts.prompt_tokens_details or _NO_PROMPT,
        counts.completion_tokens_details or _NO_COMPLETION,
    )
    left_out = total - prompt - completion
    audio_input = inside.audio_tokens or 0
    reasoning = outside.reasoning_tokens or counts.reasoning_tokens or 0
    if reasoning and (
        left_out == reasoning or (left_out and "reasoning_outside_completion" in provider.quirks)
    ):
        completion += reasoning
    elif audio_input and left_out == audio_input:
        prompt += audio_input
    cached = (
        inside.cached_tokens
        or counts.cached_tokens
        or counts.prompt_cache_hit_tokens
        or counts.num_cached_tokens
        or 0
    )
    cache_write = inside.cache_write_tokens or counts.cache_creation_input_tokens or 0
    image_input = inside.image_tokens or 0
    audio_output, image_output = outside.audio_tokens or 0, outside.image_tokens or 0
    if not (cached or cache_write or audio_input or image_input or reasoning or audio_output or image_output):
        return Usage(input=prompt, output=completion)
    cached, prompt = _take(cached, prompt)
    cache_write, prompt = _take(cache_write, prompt)
    audio_input, prompt = _take(audio_input, prompt)
    image_input, prompt = _take(image_input, prompt)
    reasoning, completion = _take(reasoning, completion)
    audio_output, completion = _take(audio_output, completion)
    image_output, completion = _take(image_output, completion)
    return Usage(
        input=prompt,
        cache_read=cached,
        cache_write=cache_write,
        audio_input=audio_input,
        image_input=image_input,
        output=completion,
        reasoning=reasoning,
        audio_output=audio_output,
        image_output=image_output,
    )


def _take(part: int, whole: int) -> tuple[int, int]:
    """As much of `part` as is in `whole`, and what is left of that."""
    part = min(part, whole)
    return part, whole - part


def _read_bill(counts: wire.Usage) -> int | None:
    """What the provider says that the request costs, in nano-dollars; None if it does not say.

    OpenRouter's `cost` is dollars; with the operator's own key at the vendor (`is_byok`) it is OpenRouter's fee alone, and
    the vendor's bill comes on top. Perplexity's is an object with a `total_cost`. A tick of xAI's is 10^-10 dollars.
    https://openrouter.ai/docs/use-cases/usage-accounting, https://docs.perplexity.ai, https://docs.x.ai
    """
    ticks = _nano_dollars(bytes(counts.cost_in_usd_ticks) + b"e-10")
    if ticks is not None:
        return ticks
    cost = bytes(counts.cost)
    if cost[:1] == b"{":
        said = decode(cost, _ANYTHING)
        return _nano_dollars(_encode(said.get("total_cost")))
    billed = _nano_dollars(cost)
    if billed is None or not counts.is_byok or counts.cost_details is None:
        return billed
    return billed + (_nano_dollars(bytes(counts.cost_details.upstream_inference_cost)) or 0)


def _nano_dollars(amount: bytes) -> int | None:
    """Dollars as a JSON number, to the nearest nano-dollar; None for what is no sensible amount."""
    if not amount[:1].isdigit() or len(amount) > _LONGEST_AMOUNT:
        return None
    try:
        dollars = Decimal(amount.decode())
    except InvalidOperation:  # an exponent of twenty digits, or two of them
        return None
    return int((dollars * 10**9).to_integral_value(ROUND_HALF_UP)) if dollars < 10**6 else None


def _count(fields: Any, name: str) -> int:
    return count_of(fields.get(name)) if isinstance(fields, dict) else 0
