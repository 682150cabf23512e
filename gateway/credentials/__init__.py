"""Signs what is sent to a provider: the last step before the socket, and the only one that sees a key in clear.

Most providers take a key as it is: `signed` puts it into a header, once for each deployment. Where a token has to be
fetched first, or each request signed anew, the deployment has a `Signer` (`Deployment.signer` names its kind), and
`Signers` keeps one for each credential. Tokens are renewed ahead of time in the background: a request waits for one
only if there is none yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from adapters.errors import Bug
from adapters.types import Address
from gateway.credentials import aws, entra, google, iam
from gateway.credentials.web import Web
from gateway.routes import Deployment

_KEY_HEADERS = {"x-api-key", "api-key", "x-goog-api-key"}


def signed(address: Address, deployment: Deployment) -> list[tuple[str, str]]:
    """The address's headers with the deployment's key and the operator's extra headers."""
    headers = dict(address.headers)
    auth = deployment.target.provider.auth
    if deployment.api_key:
        key = deployment.api_key.reveal()
        if auth in _KEY_HEADERS:
            headers[auth] = key
        elif auth == "google":
            headers["x-goog-api-key"] = key
        elif auth != "none":
            headers["authorization"] = f"Bearer {key}"
    return with_extra(headers, deployment)


def with_extra(headers: dict[str, str], deployment: Deployment) -> list[tuple[str, str]]:
    """With the operator's headers, each in place of one of the same name."""
    for name, value in deployment.headers.items():
        headers[name.lower()] = value.reveal()
    return list(headers.items())


class Signer(Protocol):
    """One credential that is more than a key."""

    @property
    def is_ready(self) -> bool:
        """It can sign now; may start to renew itself in the background."""

    @property
    def version(self) -> int | None:
        """Changes when what it writes changes: request heads are kept that long. None: each request is signed anew."""

    async def renew(self) -> None:
        """Get ready. Raises `UpstreamAuth` with what went wrong, without a secret in it."""

    def sign(self, address: Address, body: bytes) -> dict[str, str]:
        """The address's headers and what proves who asks."""

    async def close(self) -> None:
        """Stop what runs in the background."""


Maker = Callable[[Deployment, Web], Signer]


class Signers:
    """All signers, each made when it is first needed. Deployments with the same credential share one."""

    def __init__(self, web: Web | None = None) -> None:
        self._web = web or Web()
        self._by_credential: dict[tuple[object, ...], Signer] = {}
        self._before: dict[tuple[object, ...], Signer] = {}
        """Those of the last configuration that nobody has needed since."""

    def of(self, deployment: Deployment) -> Signer | None:
        """What signs for this deployment; None if its key is all that it takes."""
        if not deployment.signer:
            return None
        signer: Signer | None = deployment.notes.get("signer")
        if signer is None:
            key = (deployment.signer, deployment.api_key, *sorted(deployment.credentials.items()))
            signer = self._by_credential.get(key)
            if signer is None:
                signer = self._before.pop(key, None) or self._make(deployment)
                self._by_credential[key] = signer
            deployment.notes["signer"] = signer
        return signer

    def _make(self, deployment: Deployment) -> Signer:
        maker = MAKERS.get(deployment.signer)
        if maker is None:
            raise Bug(f"Nobody can sign as {deployment.signer!r}")
        return maker(deployment, self._web)

    def turn(self) -> list[Signer]:
        """Another configuration begins: those that the last one did not need, to be closed.

        What it did need is kept until the next turn, as new deployments and open requests may need it.
        """
        unused = list(self._before.values())
        self._before, self._by_credential = self._by_credential, {}
        return unused

    async def close(self) -> None:
        """Stop all of them."""
        for signer in (*self._by_credential.values(), *self._before.values()):
            await signer.close()
        await self._web.close()


MAKERS: dict[str, Maker] = {
    "aws": aws.signer,
    "azure_identity": entra.azure_identity,
    "entra": entra.entra,
    "google": google.signer,
    "iam": iam.signer,
}
"""How signers are made, by kind."""
