"""A gateway and a fake provider for each test that asks for them."""

from __future__ import annotations

from tests.gateway.conftest import gw, provider

__all__ = ["gw", "provider"]
