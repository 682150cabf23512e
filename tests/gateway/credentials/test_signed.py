"""Signing: which credential goes where."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.providers import PROVIDERS
from adapters.types import Address, Target
from gateway import credentials
from gateway.config.model import Secret
from gateway.routes import Deployment

ADDRESS = Address("POST", "http://h/v1/x", (("content-type", "application/json"),))


def signed(provider: str, **more: Any) -> dict[str, str]:
    target = Target(provider=PROVIDERS[provider], model="m", base_url="http://h")
    return dict(credentials.signed(ADDRESS, Deployment(id="d", route="r", target=target, **more)))


@pytest.mark.parametrize(
    ("provider", "name", "value"),
    [
        ("openai", "authorization", "Bearer key"),
        ("anthropic", "x-api-key", "key"),
        ("azure", "api-key", "key"),
        ("groq", "authorization", "Bearer key"),
    ],
)
def test_each_provider_has_its_header(provider: str, name: str, value: str) -> None:
    """The key stands in the header of the provider's row, and in no other."""
    headers = signed(provider, api_key=Secret("key"))
    assert headers == {"content-type": "application/json", name: value}


def test_no_key() -> None:
    """Without a key nothing is said."""
    assert signed("openai") == {"content-type": "application/json"}


def test_the_operators_headers() -> None:
    """An operator's header is added, and replaces one of the same name however it is written."""
    headers = signed(
        "openai", api_key=Secret("key"), headers={"X-Team": Secret("a"), "Authorization": Secret("Basic x")}
    )
    assert headers == {"content-type": "application/json", "x-team": "a", "authorization": "Basic x"}


def test_the_address_is_not_changed() -> None:
    """Another deployment signs the same address."""
    signed("openai", api_key=Secret("key"))
    assert ADDRESS.headers == (("content-type", "application/json"),)
