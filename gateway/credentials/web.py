"""Plain HTTP for what is no hot path: tokens. aiohttp's client, opened when it is first used."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp

from adapters.errors import UpstreamAuth

_SECONDS = 10.0
_MOST = 1024 * 1024


class Web:
    """A client that follows the proxies of the environment (`HTTPS_PROXY`) and no redirects."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        seconds: float = _SECONDS,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body (at most 1 MiB). Raises `UpstreamAuth` where nobody answers: its message names the
        host, and nothing else of the URL.
        """
        if self._session is None:
            # Cookies that come with one credential's token would be sent for another's.
            self._session = aiohttp.ClientSession(trust_env=True, cookie_jar=aiohttp.DummyCookieJar())
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=body,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as response:
                data = b""
                while len(data) < _MOST and (more := await response.content.read(_MOST - len(data))):
                    data += more  # each is what has arrived by now
                return response.status, response.headers, data
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            host = urlsplit(url).hostname
            raise UpstreamAuth(f"No token from {host}: {type(error).__name__}") from None

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
