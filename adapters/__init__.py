"""Wire formats, pure: bytes and structs in, bytes and structs out. No I/O, no clock, no randomness.

`FORMATS` names each format's module, `PROVIDERS` each provider's row. Begin with `base.py`, the contract.
"""

from __future__ import annotations

from adapters import anthropic, openai
from adapters.base import ClientSide, ProviderSide, SameFormat
from adapters.providers import PROVIDERS

__all__ = ["CLIENTS", "FORMATS", "PROVIDERS", "SAME", "ClientSide", "ProviderSide", "SameFormat"]

FORMATS: dict[str, ProviderSide] = {"openai": openai, "anthropic": anthropic}
"""What providers speak."""

CLIENTS: dict[str, ClientSide] = {"openai": openai, "anthropic": anthropic}
"""What clients speak to us."""

SAME: dict[str, SameFormat] = {"openai": openai, "anthropic": anthropic}
"""What both speak: nothing is translated."""
