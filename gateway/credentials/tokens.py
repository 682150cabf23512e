"""A bearer token that runs out, and is renewed before it does."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from functools import partial

from adapters.errors import GatewayError, UpstreamAuth
from adapters.types import Address
from gateway.credentials.renewal import Renewal

Fetch = Callable[[], Awaitable[tuple[str, float]]]
"""Gets a token: the text and the seconds that it is good for. Raises `UpstreamAuth`."""

_TOKEN = re.compile(r"[!-~]+")
"""What can stand in a header behind `Bearer`."""
_OVER = "The token that was given is no longer valid"
_EARLY = 300.0
_PAUSE = 5.0
"""Seconds after a failure in which nobody tries again."""
now = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds of a clock that nobody sets. A token runs out while the machine sleeps, and `time.monotonic` may sleep too."""


class TokenSigner:
    """Signs with `Authorization: Bearer`. Renewed in the background when a fifth of a token's life, at most five minutes, is left."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._token = ""
        self._renew_at = 0.0
        self._ends_at = 0.0
        self._failed: GatewayError | None = None
        self._failed_until = 0.0
        self._renewal = Renewal(self._renew)
        self.version: int | None = 0

    @property
    def is_ready(self) -> bool:
        moment = now()
        if moment >= self._renew_at and moment >= self._failed_until:
            self._renewal.begin()
        return moment < self._ends_at

    async def renew(self) -> None:
        """Wait until there is a token."""
        if now() < self._ends_at:
            return
        if self._failed is not None and now() < self._failed_until:
            raise UpstreamAuth(self._failed.message)
        await self._renewal.wait()
        if now() >= self._ends_at:
            raise UpstreamAuth(self._failed.message if self._failed else _OVER)

    def sign(self, address: Address, body: bytes) -> dict[str, str]:
        """The address's headers with the token."""
        return {**dict(address.headers), "authorization": f"Bearer {self._token}"}

    async def close(self) -> None:
        """Stop a renewal that runs."""
        await self._renewal.close()

    async def _renew(self) -> None:
        try:
            token, seconds = await self._fetch()
            if _TOKEN.fullmatch(token) is None:
                raise UpstreamAuth("The token that was given is none")
            if not seconds > 0:
                raise UpstreamAuth(_OVER)
        except GatewayError as error:
            self._failed = error
            self._failed_until = now() + _PAUSE
            return
        except Exception as error:  # whatever a vendor's library raises, its text may show a secret
            self._failed = UpstreamAuth(f"No token could be had: {type(error).__name__}")
            self._failed_until = now() + _PAUSE
            return
        moment = now()
        self._token = token
        self._failed = None
        self._ends_at = moment + seconds
        self._renew_at = moment + seconds - min(_EARLY, seconds / 5)
        self.version = (self.version or 0) + 1
