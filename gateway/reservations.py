"""What a request costs at most: what a budget has to have room for before anybody is asked.

The most is found from what is known beforehand:

* what goes in: one token for every two bytes of the body, where words have one for every three to five; a file in it
  (base64) or behind a link counts as what vendors make of large pictures and of documents; never more than the model reads;
* what comes out: `max_tokens`, but no more than the model writes; without it what the model writes at most; where that is
  not known, 16,384 tokens. For each of `n` answers, and of each prompt if there are several;
* the dearest kind of token that the request may use: what is written to a cache costs more than what is read, long prompts
  have a price of their own, as have service tiers;
* pictures, characters, searches and seconds as they are asked for; a second of sound for every 4,000 bytes.

All that was not used is given back at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Raw, Struct

from adapters.envelope import value_of
from adapters.types import Operation, Units, Usage
from gateway.estimates import unreported
from gateway.pricing import MILLION, Price, cost
from gateway.routes import Deployment

OUTPUT = 16_384
"""Tokens that an answer has at most where neither the request nor the price table says."""

USUAL_OUTPUT = 1_024
"""Tokens per minute that an answer is counted for while it is not known, if the request does not say."""

ESTIMATED = Price(input=5_000 * MILLION, output=25_000 * MILLION)
"""What stands in for an unknown price (`unknown_price_policy: estimate`): $5 and $25 for a million tokens."""

_BYTES_PER_TOKEN = 2
_SMALL = 16_384
_FILE = 4_096
_FILE_TOKENS = 5_000
_FILE_BYTES_PER_TOKEN = 32
_BYTES_PER_SECOND = 4_000
_USUAL_BYTES_PER_SECOND = 16_000
_PICTURE_TOKENS = 6_500
"""OpenAI's largest picture (https://platform.openai.com/docs/guides/image-generation: 6,240 at 1536x1024, high)."""
_SEARCHES = 10
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_MOST_DIGITS = 400
_MOST_NUMBER = 10**15
_FILES = frozenset({b"data", b"url", b"image_url", b"file_data", b"bytes"})
"""Fields whose value may be a file."""
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_\\"
_THINKS_ON_TOP = frozenset({"anthropic", "bedrock", "bedrock_invoke", "vertex"})
"""Formats in which what a model thinks may be added to `max_tokens` (`adapters.anthropic_questions`)."""
_THOUGHT = 16_384
"""The most that a word for how much to think stands for there."""
_TOKENS_PER_SEARCH = 25_000
"""Cohere cuts long documents into pieces of 500 tokens, query included, and counts a hundred of them as one search."""
_CHATS = frozenset({"chat", "completions"})


class Rates(Struct, frozen=True, gc=False):
    """The dearest token in and out, nano-dollars per million, from so many tokens of prompt on."""

    above: int
    input: int
    output: int


def most(
    deployments: Iterable[Deployment],
    operation: Operation,
    question: Mapping[str, Raw],
    size: int,
    *,
    stand_in: Price | None = None,
) -> tuple[int, Deployment | None]:
    """Nano-dollars that the dearest of these can cost, and the first whose price is unknown. `size` is the body's bytes."""
    if operation == "count_tokens":
        return 0, None
    dearest, unknown = 0, None
    known: Price | None = None
    asked = tokens_in(question, size)
    for deployment in deployments:
        price = deployment.price if deployment.price is not None else stand_in
        if price is known and price is not None and operation not in _CHATS:
            continue
        known = price
        amount = None if price is None else _most(deployment, price, operation, question, size, asked)
        if amount is None and stand_in is not None:
            amount = _most(deployment, stand_in, "chat", question, size, asked)
        if amount is None:
            unknown = unknown or deployment
        elif amount > dearest:
            dearest = amount
    return dearest, unknown


def _most(
    deployment: Deployment,
    price: Price,
    operation: Operation,
    question: Mapping[str, Raw],
    size: int,
    asked: int,
) -> int | None:
    facts = deployment.facts
    if facts is not None and facts.max_input is not None and asked > facts.max_input:
        asked = facts.max_input
    if operation not in _CHATS:
        return _most_of_task(price, operation, question, size, asked)
    rates = deployment.notes.get("dearest")
    if rates is None:
        rates = deployment.notes["dearest"] = _dearest(price)
    if "service_tier" in question:
        price = _dearest_service(price, value_of(question, "service_tier"))
        rates = _dearest(price)
    if not rates:
        return None
    tier = rates[0]
    for other in rates[1:]:
        if asked > other.above:
            tier = other
    input_rate, output_rate = tier.input, tier.output
    if price.audio_input is not None or price.audio_output is not None or price.cache_write is not None:
        input_rate, output_rate = _special(price, question, input_rate, output_rate)
    total = asked * input_rate + tokens_out(deployment, question) * output_rate
    if price.search is not None and ("web_search_options" in question or "tools" in question):
        total += _searches(question) * price.search
    return -(-total // MILLION)


def _dearest(price: Price) -> tuple[Rates, ...]:
    found = []
    for above, one in ((0, price), *((tier.above, tier.price) for tier in price.tiers)):
        if one.input is None or one.output is None:
            return ()
        into = max(one.input, one.cache_write or 0, one.image_input or 0)
        found.append(Rates(above, into, max(one.output, one.reasoning or 0)))
    return tuple(found)


def _dearest_service(price: Price, tier: object) -> Price:
    other = price.services.get(tier) if isinstance(tier, str) else None
    return other if other is not None and (other.output or 0) >= (price.output or 0) else price


def _special(price: Price, question: Mapping[str, Raw], input_rate: int, output_rate: int) -> tuple[int, int]:
    """What is dearer than words: sound, and a cache that is kept for an hour."""
    if "modalities" in question or "audio" in question:
        output_rate = max(output_rate, price.audio_output or 0)
    messages = bytes(question.get("messages", b""))
    if price.audio_input is not None and b"input_audio" in messages:
        input_rate = max(input_rate, price.audio_input)
    if price.cache_write is not None and price.input is not None and b'"1h"' in messages:
        input_rate = max(input_rate, price.cache_write_1h or 2 * price.input)
    return input_rate, output_rate


def _searches(question: Mapping[str, Raw]) -> int:
    wanted = "web_search_options" in question or b"web_search" in bytes(question.get("tools", b""))
    return _SEARCHES if wanted else 0


def _most_of_task(
    price: Price, operation: Operation, question: Mapping[str, Raw], size: int, asked: int
) -> int | None:
    sent = size * _USUAL_BYTES_PER_SECOND // _BYTES_PER_SECOND
    usage = unreported(operation, price, question, sent=sent, said=0)
    if operation == "images":
        pictures = max(1, usage.units.images, _answers(question))
        usage = msgspec.structs.replace(usage, units=Units(images=pictures))
    if operation == "images" and price.image_output is not None:
        usage = Usage(input=asked, image_output=pictures * _PICTURE_TOKENS, units=Units(images=pictures))
    elif operation in {"transcriptions", "translations"} and price.millisecond is None:
        usage = Usage(audio_input=size // _FILE_BYTES_PER_TOKEN, output=OUTPUT)
    elif usage.units.searches:
        searches = usage.units.searches + asked // _TOKENS_PER_SEARCH
        usage = msgspec.structs.replace(usage, units=Units(searches=searches))
    elif usage.input:
        usage = msgspec.structs.replace(usage, input=asked, audio_output=2 * usage.audio_output)
    return cost(price, usage, question)


def tokens_in(question: Mapping[str, Raw], size: int) -> int:
    """Tokens that a body of so many bytes has at most."""
    messages = question.get("messages")
    linked = 0
    if messages is not None:
        text = bytes(messages)
        linked = text.count(b'"url"') + text.count(b'"file_id"') + text.count(b'"file_uri"')
        if size > _SMALL and b" " in text:
            return (size - len(text)) // _BYTES_PER_TOKEN + _tokens_of(text) + linked * _FILE_TOKENS
    return size // _BYTES_PER_TOKEN + 1 + linked * _FILE_TOKENS


def _tokens_of(text: bytes) -> int:
    words = tokens = 0
    field = before = b""
    for piece in text.split(b'"'):
        if len(piece) >= _FILE and before.strip() == b":" and _is_file(field, piece):
            tokens += _FILE_TOKENS + len(piece) // _FILE_BYTES_PER_TOKEN
        else:
            words += len(piece) + 1
        field, before = before, piece
    return tokens + words // _BYTES_PER_TOKEN


def _is_file(field: bytes, value: bytes) -> bool:
    """Text could say that it is one, to be counted for less: it is base64 from end to end, in a field that holds files."""
    if field not in _FILES:
        return False
    if value.startswith(b"data:"):
        value = value[value.find(b",") + 1 :]
    return not value.translate(None, _BASE64)


def tokens_out(deployment: Deployment, question: Mapping[str, Raw]) -> int:
    """Tokens that all answers have at most."""
    said = said_limit(question, deployment.defaults)
    limit = deployment.target.max_output_tokens
    if said is None:
        said = limit or OUTPUT
    elif deployment.target.provider.format in _THINKS_ON_TOP:
        said += _thoughts(deployment, question, said)
    if limit is not None and said > limit:
        said = limit
    return said * _answers(question, deployment.defaults)


def said_limit(question: Mapping[str, Raw], defaults: Mapping[str, object] | None = None) -> int | None:
    """What the request, or else its deployment, says that an answer may have of tokens.

    Of several words that say it the largest counts: providers read one and pass over the others.
    """
    found = None
    for name in _LIMITS:
        if name in question:
            number = _number(question[name])
        elif defaults and name in defaults:
            value = defaults[name]
            number = value if isinstance(value, int) else None
        else:
            continue
        if number is not None and (found is None or number > found):
            found = number
    return found


def _thoughts(deployment: Deployment, question: Mapping[str, Raw], said: int) -> int:
    if "supports_adaptive_thinking" in deployment.target.flags:
        return 0
    budget = 0
    for name in ("reasoning_effort", "thinking"):
        if name in question or name in deployment.defaults:
            budget = _THOUGHT
    thinking = value_of(question, "thinking")
    if isinstance(thinking, dict):
        wanted = thinking.get("budget_tokens")
        budget = max(budget, wanted if isinstance(wanted, int) else 0)
    return budget if said <= budget else 0


def _answers(question: Mapping[str, Raw], defaults: Mapping[str, object] | None = None) -> int:
    """How many are made at most: `n` of each prompt."""
    most_answers = 1
    for name in ("n", "best_of"):
        if name in question:
            most_answers = max(most_answers, _number(question[name]) or 1)
        elif defaults and name in defaults:
            value = defaults[name]
            most_answers = max(most_answers, value if isinstance(value, int) else 1)
    return most_answers * (_prompts(question["prompt"]) if "prompt" in question else 1)


def _prompts(raw: Raw) -> int:
    """A list of texts, or of lists of tokens, is several; a list of tokens is one."""
    if not bytes(raw).startswith(b"["):
        return 1
    items = msgspec.json.decode(raw, type=list[Raw])
    return max(1, sum(bytes(item)[:1] in (b'"', b"[") for item in items))


def _number(raw: Raw) -> int | None:
    """A whole number, however it is written: some providers take `1e3`, `1000.0` and `"1000"` too."""
    text = bytes(raw)
    if text.isdigit() and len(text) < 16:
        return int(text)
    if len(text) > _MOST_DIGITS:
        return None
    try:
        number = float(msgspec.json.decode(raw))
    except (TypeError, ValueError, OverflowError, msgspec.DecodeError):
        return None
    return int(min(number, _MOST_NUMBER)) if number >= 0 else None
