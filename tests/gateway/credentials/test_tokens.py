"""Bearer tokens that run out: fetched once for all, renewed ahead of time, failures told without secrets."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest

from adapters.errors import UpstreamAuth
from adapters.types import Address
from gateway.credentials import tokens
from gateway.credentials.tokens import TokenSigner

ADDRESS = Address("POST", "https://api.example.com/v1/chat", (("content-type", "application/json"),))


class Office:
    """Gives tokens: `token-1` first, then `token-2` …"""

    def __init__(self, seconds: float = 3600.0) -> None:
        self.seconds = seconds
        self.given = 0
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def fetch(self) -> tuple[str, float]:
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.given += 1
        return f"token-{self.given}", self.seconds


def bearer(signer: TokenSigner) -> str:
    return signer.sign(ADDRESS, b"")["authorization"]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def test_the_first_request_waits_and_all_others_share() -> None:
    """Many requests without a token wait for one fetch; afterwards none waits."""
    office = Office()
    signer = TokenSigner(office.fetch)
    ready_at_first = signer.is_ready
    assert not ready_at_first
    await asyncio.gather(*(signer.renew() for _ in range(20)))
    assert signer.is_ready
    assert office.given == 1
    assert bearer(signer) == "Bearer token-1"
    assert signer.sign(ADDRESS, b"")["content-type"] == "application/json"
    await signer.close()


async def test_a_token_is_renewed_before_it_ends() -> None:
    """While the old one still serves, a new one is fetched in the background, and its version changes."""
    office = Office()
    signer = TokenSigner(office.fetch)
    await signer.renew()
    version = signer.version
    signer._renew_at = 0.0
    office.open.clear()
    assert signer.is_ready, "it still serves"
    assert bearer(signer) == "Bearer token-1"
    office.open.set()
    await until(lambda: signer.version != version)
    assert bearer(signer) == "Bearer token-2"
    await signer.close()


@pytest.mark.parametrize(
    "error", [UpstreamAuth("the tenant is unknown"), ValueError("secret-in-a-traceback")]
)
async def test_a_failure_is_told_and_not_repeated_at_once(error: Exception) -> None:
    """Who needs the token gets `UpstreamAuth` without foreign words; for some seconds nobody asks again."""
    office = Office()
    office.error = error
    signer = TokenSigner(office.fetch)
    with pytest.raises(UpstreamAuth) as first:
        await signer.renew()
    assert "secret" not in first.value.message
    office.error = None
    with pytest.raises(UpstreamAuth):
        await signer.renew()
    assert office.given == 0
    signer._failed_until = 0.0
    await signer.renew()
    assert bearer(signer) == "Bearer token-1"
    await signer.close()


async def test_a_request_that_leaves_does_not_take_the_fetch_along() -> None:
    """Cancelling one waiter leaves the others their token."""
    office = Office()
    office.open.clear()
    signer = TokenSigner(office.fetch)
    waits: Awaitable[None] = signer.renew()
    one, other = asyncio.ensure_future(waits), asyncio.ensure_future(signer.renew())  # noqa: TID251 - awaited below
    await asyncio.sleep(0)
    one.cancel()
    office.open.set()
    await other
    assert bearer(signer) == "Bearer token-1"
    await signer.close()


async def test_a_request_that_waits_outlasts_a_stop() -> None:
    """Two reloads close what their configurations did not need: who waits for it all the same gets the token."""
    office = Office()
    office.open.clear()
    signer = TokenSigner(office.fetch)
    waits = asyncio.ensure_future(signer.renew())  # noqa: TID251 - awaited below
    await asyncio.sleep(0)
    await signer.close()
    office.open.set()
    await waits
    assert bearer(signer) == "Bearer token-1"
    await signer.close()


@pytest.mark.parametrize("token", ["", "two words", "token\n", "t\N{LATIN SMALL LETTER O WITH DIAERESIS}ken"])
async def test_what_is_no_token_is_a_failure(token: str) -> None:
    """Nothing, or what no header may have, is not sent to the provider; another one is asked for soon."""

    async def fetch() -> tuple[str, float]:
        return token, 3600.0

    signer = TokenSigner(fetch)
    with pytest.raises(UpstreamAuth, match="is none"):
        await signer.renew()
    is_ready = signer.is_ready
    assert not is_ready
    await signer.close()


async def test_a_token_that_has_ended_already_is_a_failure() -> None:
    """A token that is given out of date does not make a request spin."""
    signer = TokenSigner(Office(seconds=0.0).fetch)
    with pytest.raises(UpstreamAuth):
        await signer.renew()
    await signer.close()


@pytest.mark.parametrize("seconds", [0.0, -3600.0, math.nan])
async def test_a_token_that_has_ended_already_is_not_asked_for_at_once(seconds: float) -> None:
    """As after any failure: an endpoint that gives such tokens is not asked anew by each request."""
    office = Office(seconds)
    signer = TokenSigner(office.fetch)
    for _ in range(3):
        assert not signer.is_ready
        with pytest.raises(UpstreamAuth, match="no longer valid"):
            await signer.renew()
    assert office.given == 1
    await signer.close()


async def test_a_token_ends_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours in which nothing ran are hours: a new token is fetched before the next request."""
    office = Office()
    signer = TokenSigner(office.fetch)
    await signer.renew()
    awake = tokens.now() + 7200
    monkeypatch.setattr(tokens, "now", lambda: awake)
    await signer.renew()
    assert bearer(signer) == "Bearer token-2"
    await signer.close()
