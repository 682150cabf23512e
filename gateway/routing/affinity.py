"""A conversation stays where the provider has it in its cache, as long as that is worth more than the wait there.

Providers charge a tenth to a half for tokens of a prompt that they have read before, if the same deployment is asked again.
So it is remembered who answered which conversation, and that deployment goes before the draw.

What is the same conversation? One with the same `session_id`, or the same `prompt_cache_key`, of the same caller; else one
whose tools, system prompt and messages begin with the same bytes. Those are compared in blocks of 4 kB, 8 kB … 64 kB, the
longest first, so nothing is parsed, and prompts that are too short for any provider's cache (1,024 tokens) cost nothing.

Is it worth it? With `prompt_cache_affinity` the deployment is kept while

    tokens x (input price - cache price)  >=  SECOND x (its latency - the fastest other's + WAIT x (its requests - the least busy other's))

where differences below zero count as zero. Without a price of cached tokens nothing is saved, and the draw decides. LiteLLM's
names of `optional_pre_call_checks` do not calculate: `prompt_caching` keeps prompts that begin alike, `session_affinity`
sessions, and `deployment_affinity` all requests of one virtual key.

What is remembered is this process's own, for `deployment_affinity_ttl_seconds` after it was last used.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from msgspec import Raw

from gateway.config.model import RouterSettings
from gateway.pricing import MILLION
from gateway.routes import Deployment
from gateway.routing.health import Health
from gateway.routing.wants import Wants

SECOND = 1_000_000
"""Nano-dollars that a second of waiting may cost: $3.60 an hour."""

WAIT = 0.1
"""Seconds that each request which a deployment has in flight is taken to slow down the next."""

CACHED_FOR = 300.0
"""Seconds: providers keep a prompt for five minutes at least (https://docs.claude.com/en/docs/build-with-claude/prompt-caching)."""
LITELLM_KEEPS = 3600.0

_BLOCKS = (4_096, 8_192, 16_384, 32_768, 65_536)
"""Bytes of a prompt; the first are 1,024 tokens, below which no provider caches."""
_BYTES_PER_TOKEN = 4
_PROMPT = ("tools", "system", "messages", "prompt")
_CHATS = frozenset({"chat", "completions"})
_OF_LITELLM = frozenset({"prompt_caching", "session_affinity", "deployment_affinity"})

Name = tuple[Hashable, int]
"""What a conversation is known by, and how many tokens of it a cache would have."""


class Affinity:
    """Who shall answer this conversation. Made anew with each configuration."""

    def __init__(self, settings: RouterSettings, health: Health) -> None:
        checks = settings.optional_pre_call_checks
        self._health = health
        self._known = health.conversations
        self._by_prompt = settings.prompt_cache_affinity or "prompt_caching" in checks
        self._by_session = settings.prompt_cache_affinity or "session_affinity" in checks
        self._by_key = "deployment_affinity" in checks
        self._calculates = _OF_LITELLM.isdisjoint(checks)
        usual = CACHED_FOR if self._calculates else LITELLM_KEEPS
        self._seconds = settings.deployment_affinity_ttl_seconds or usual

    def preferred(self, candidates: Sequence[Deployment], wants: Wants, now: float) -> Deployment | None:
        """The one of these candidates that the conversation stays with, if one has it and that is worth it."""
        for name, tokens in self._names(wants):
            holders = self._known.holders(name, now)
            having = [one for one in candidates if one.id in holders] if holders else ()
            if having:
                best = min(having, key=lambda one: self._load(one.id))
                if not self._calculates or self._is_worth(best, tokens, candidates):
                    return best
                return None
        return None

    def remember(self, wants: Wants, deployment_id: str, now: float) -> None:
        """It was answered by that deployment."""
        for name, _ in self._names(wants):
            self._known.keep(name, deployment_id, now, self._seconds)

    def _names(self, wants: Wants) -> list[Name]:
        if wants.http.endpoint.operation not in _CHATS:
            return []
        found: list[Name] = []
        whose = wants.caller.digest if wants.caller is not None else None
        envelope = wants.envelope
        if self._by_session and wants.controls.session_id:
            found.append((("session", whose, wants.controls.session_id), _tokens(envelope)))
        if self._by_prompt:
            if "prompt_cache_key" in envelope:
                key = bytes(memoryview(envelope["prompt_cache_key"])[: _BLOCKS[0]])
                found.append((("cache", whose, key), _tokens(envelope)))
            found += _blocks(envelope)
        if self._by_key and whose:
            found.append((("key", whose), 0))
        return found

    def _load(self, deployment_id: str) -> int:
        condition = self._health.look(deployment_id)
        return condition.in_flight + condition.elsewhere_in_flight

    def _is_worth(self, best: Deployment, tokens: int, candidates: Sequence[Deployment]) -> bool:
        price = best.price
        if price is None or price.input is None or price.cache_read is None:
            return False
        saved = tokens * max(0, price.input - price.cache_read) // MILLION
        others = [self._health.look(one.id) for one in candidates if one is not best]
        own = self._health.look(best.id)
        slower = (own.pace.latency or 0.0) - min((other.pace.latency or 0.0 for other in others), default=0.0)
        busy = min((other.in_flight + other.elsewhere_in_flight for other in others), default=0)
        queue = own.in_flight + own.elsewhere_in_flight - busy
        return saved > 0 and saved >= SECOND * (max(0.0, slower) + WAIT * max(0, queue))


def affinity_of(settings: RouterSettings, health: Health) -> Affinity | None:
    """None where nothing is to be remembered."""
    if settings.prompt_cache_affinity or not _OF_LITELLM.isdisjoint(settings.optional_pre_call_checks):
        return Affinity(settings, health)
    return None


def _tokens(envelope: Mapping[str, Raw]) -> int:
    return sum(memoryview(envelope[key]).nbytes for key in _PROMPT if key in envelope) // _BYTES_PER_TOKEN


def _blocks(envelope: Mapping[str, Raw]) -> list[Name]:
    """The prompt's beginnings, the longest first. 2 us for 4 kB, 20 for 64.

    `hash` is the fastest that there is, its 64 bits are enough for what is no secret, and its seed is this process's own.
    """
    prompt = b"".join(bytes(memoryview(envelope[key])[: _BLOCKS[-1]]) for key in _PROMPT if key in envelope)
    found: list[Name] = []
    name, begin = 0, 0
    for end in _BLOCKS:
        if len(prompt) <= end:  # its last byte is the bracket that the next turn moves on
            break
        name = hash((name, prompt[begin:end]))
        found.append((name, end // _BYTES_PER_TOKEN))
        begin = end
    return found[::-1]
