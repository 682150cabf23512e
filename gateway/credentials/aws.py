"""Signs for Amazon: Signature Version 4, each request anew, because it covers the body.

Credentials come from botocore, in whichever way Amazon knows (keys, a profile, the machine's role, a role that is assumed),
so the extra `aws` is needed; it is imported with the first request, in a thread. Those that run out are looked after in the
background, a minute apart: botocore fetches new ones a quarter of an hour ahead. To sign waits for nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING

from adapters.errors import UpstreamAuth
from adapters.types import Address
from gateway.config.model import Secret
from gateway.credentials.renewal import Renewal, in_thread
from gateway.credentials.web import Web
from gateway.routes import Deployment

if TYPE_CHECKING:
    from gateway.credentials.aws_sources import Source

_LOOK_AGAIN = 60.0
_PAUSE = 5.0
"""Seconds after a failure in which nobody tries again."""


def signer(deployment: Deployment, web: Web) -> AwsSigner:
    """A signer for the deployment's AWS settings (`aws_…`), or for what the environment has."""
    return AwsSigner(
        {
            name: value.reveal() if isinstance(value, Secret) else value
            for name, value in deployment.credentials.items()
            if name.startswith("aws_")
        }
    )


class AwsSigner:
    """One AWS credential, for one service in one region."""

    version: int | None = None

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self._source: Source | None = None
        self._look_at = 0.0
        self._failed = ""
        self._failed_until = 0.0
        self._renewal = Renewal(self._renew)

    @property
    def is_ready(self) -> bool:
        """Has it credentials that are still good?"""
        now = monotonic()
        if now >= self._look_at and now >= self._failed_until:
            self._renewal.begin()
        return self._source is not None and self._source.is_good

    async def renew(self) -> None:
        """Wait until there are credentials. Raises `UpstreamAuth`."""
        if self._source is not None and self._source.is_good:
            return
        if monotonic() >= self._failed_until:
            await self._renewal.wait()
        if self._source is None or not self._source.is_good:
            raise UpstreamAuth(self._failed or "The AWS credentials that were given are no longer valid")

    def sign(self, address: Address, body: bytes) -> dict[str, str]:
        """The address's headers, the time, the session's token and the signature. Call it only when ready."""
        if self._source is None:
            raise UpstreamAuth("There are no AWS credentials yet")
        return self._source.sign(address, body)

    async def close(self) -> None:
        """Stop a renewal that runs."""
        await self._renewal.close()

    async def _renew(self) -> None:
        try:
            source = self._source
            if source is None:
                source = await in_thread(_load, self._settings)
            await in_thread(source.refresh)
        except Exception as error:  # whatever botocore raises, its text may show a secret
            self._failed = _what_failed(error)
            self._failed_until = monotonic() + _PAUSE
            return
        self._source = source
        self._failed = ""
        self._look_at = monotonic() + _LOOK_AGAIN if source.runs_out else float("inf")


def _load(settings: Mapping[str, str]) -> Source:
    from gateway.credentials import aws_sources  # noqa: PLC0415 - an extra, and slow to import

    return aws_sources.load(settings)


def _what_failed(error: Exception) -> str:
    """What may be said of an error: our own words, or the names of botocore's."""
    if isinstance(error, UpstreamAuth):
        return error.message
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return f"No AWS credentials could be had: {type(error).__name__}{f' ({code})' if code else ''}"
