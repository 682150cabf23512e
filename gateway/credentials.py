"""Signs what is sent to a provider: the last step before the socket, and the only one that sees a key in clear."""

from __future__ import annotations

from adapters.types import Address
from gateway.routes import Deployment


def signed(address: Address, deployment: Deployment) -> list[tuple[str, str]]:
    """The address's headers with the deployment's credentials and the operator's extra headers.

    An operator's header replaces one of the same name.
    """
    headers = dict(address.headers)
    if deployment.api_key:
        key = deployment.api_key.reveal()
        if deployment.target.provider.auth == "bearer":
            headers["authorization"] = f"Bearer {key}"
        elif deployment.target.provider.auth != "none":
            headers[deployment.target.provider.auth] = key
    for name, value in deployment.headers.items():
        headers[name.lower()] = value.reveal()
    return list(headers.items())
