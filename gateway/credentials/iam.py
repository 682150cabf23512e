"""IBM Cloud: an API key is given for a token that is good for an hour.

https://cloud.ibm.com/docs/account?topic=account-iamtoken_from_apikey. Who has a token already names it (`token`), and an
installation of one's own (Cloud Pak for Data) takes its key as it is (`zen_api_key`).
"""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from adapters.errors import UpstreamAuth
from adapters.types import Address
from gateway.config.model import Secret
from gateway.credentials.tokens import TokenSigner
from gateway.credentials.web import Web
from gateway.routes import Deployment

URL = "https://iam.cloud.ibm.com/identity/token"
_HEADERS = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
_GRANT = "urn:ibm:params:oauth:grant-type:apikey"


class _Token(Struct):
    access_token: str
    expires_in: float = 3600.0


_TOKEN = msgspec.json.Decoder(_Token)


def signer(deployment: Deployment, web: Web) -> TokenSigner | FixedSigner:
    """A signer for the deployment's key, or for the token that it names."""
    named = {
        name: value for name, value in deployment.credentials.items() if name in {"token", "zen_api_key"}
    }
    if "token" in named:
        return FixedSigner(f"Bearer {_reveal(named['token'])}")
    if "zen_api_key" in named:
        return FixedSigner(f"ZenApiKey {_reveal(named['zen_api_key'])}")
    key = deployment.api_key

    async def fetch() -> tuple[str, float]:
        if key is None:
            raise UpstreamAuth(f"No key for {deployment.provider}: set api_key or WATSONX_APIKEY")
        return await _fetch(web, key)

    return TokenSigner(fetch)


def _reveal(value: str | Secret) -> str:
    return value if isinstance(value, str) else value.reveal()


async def _fetch(web: Web, key: Secret) -> tuple[str, float]:
    """The token and the seconds that it is good for. Raises `UpstreamAuth`, whose message has nothing of the key."""
    body = urlencode({"grant_type": _GRANT, "apikey": key.reveal()}).encode()
    status, _, answer = await web.ask("POST", URL, headers=_HEADERS, body=body)
    if status != 200:
        raise UpstreamAuth(f"IBM Cloud gave no token: status {status}")
    try:
        token = _TOKEN.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UpstreamAuth("IBM Cloud gave no token: its answer cannot be read") from None
    return token.access_token, token.expires_in


class FixedSigner:
    """Signs with what does not run out, as far as we know."""

    def __init__(self, authorization: str) -> None:
        self._authorization = authorization
        self.is_ready = True
        self.version: int | None = 0

    async def renew(self) -> None:
        """It is as new as it will be."""

    def sign(self, address: Address, body: bytes) -> dict[str, str]:
        """The address's headers with the token."""
        return {**dict(address.headers), "authorization": self._authorization}

    async def close(self) -> None:
        """Nothing runs."""
