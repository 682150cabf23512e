"""Azure with Entra ID in place of a key.

Three ways, after what the deployment (or the environment) gives: a token as it is (`azure_ad_token`); a token for an
application with a secret (`tenant_id`, `client_id`, `client_secret`) or for a user with a password (`client_id`,
`azure_username`, `azure_password`), which is one POST; or whatever `azure-identity` finds, a managed identity or a
workload's, the developer's own (`azure_credential`). That library is asked in a thread, and imported when it is first needed.

https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from time import time
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from adapters.errors import UpstreamAuth
from gateway.config.model import Secret
from gateway.credentials.renewal import in_thread
from gateway.credentials.tokens import Fetch, TokenSigner
from gateway.credentials.web import Web
from gateway.routes import Deployment

SCOPE = "https://cognitiveservices.azure.com/.default"
"""What a token is for if nobody says: Azure OpenAI and Foundry both take it. Another: `azure_scope`."""
_AUTHORITY = "https://login.microsoftonline.com"
_FOREVER = 10 * 365 * 86_400.0
_REASON = re.compile(r"AADSTS\d+")
_FORM = {"content-type": "application/x-www-form-urlencoded"}
_BY_VARIABLES = {"ClientSecretCredential", "CertificateCredential", "UsernamePasswordCredential"}


class _Answer(Struct):
    """https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow#successful-response"""

    access_token: str = ""
    expires_in: float = 0.0
    error: str = ""
    error_description: str = ""


_ANSWER = msgspec.json.Decoder(_Answer, strict=False)


def entra(deployment: Deployment, web: Web) -> TokenSigner:
    """A signer with a token that was given, or that one POST gets."""
    given = _given(deployment)
    if "azure_ad_token" in given:
        return TokenSigner(_as_is(given["azure_ad_token"]))
    return TokenSigner(_by_post(given, web))


def azure_identity(deployment: Deployment, web: Web) -> TokenSigner:
    """A signer with the token of a credential of `azure-identity`."""
    return TokenSigner(_by_library(_given(deployment)))


def _given(deployment: Deployment) -> dict[str, str]:
    return {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in deployment.credentials.items()
    }


def _as_is(token: str) -> Fetch:
    async def fetch() -> tuple[str, float]:
        if token.startswith("oidc/"):
            raise UpstreamAuth(
                "azure_ad_token: oidc/… is not available, azure_credential: WorkloadIdentityCredential is"
            )
        return token, _FOREVER

    return fetch


def _by_post(given: Mapping[str, str], web: Web) -> Fetch:
    asked = {"client_id": given["client_id"], "scope": given.get("azure_scope") or SCOPE}
    if "client_secret" in given:
        asked |= {"grant_type": "client_credentials", "client_secret": given["client_secret"]}
    else:
        asked |= {
            "grant_type": "password",
            "username": given["azure_username"],
            "password": given["azure_password"],
        }
    authority = (given.get("azure_authority_host") or _AUTHORITY).rstrip("/")
    authority = authority if "://" in authority else f"https://{authority}"
    tenant = quote(given.get("tenant_id") or "organizations", safe="")

    async def fetch() -> tuple[str, float]:
        _, _, body = await web.ask(
            "POST",
            f"{authority}/{tenant}/oauth2/v2.0/token",
            headers=_FORM,
            body=urlencode(asked).encode(),
        )
        try:
            answer = _ANSWER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            answer = _Answer()
        if answer.access_token and answer.expires_in > 0:
            return answer.access_token, answer.expires_in
        reason = _REASON.search(answer.error_description)
        words = " ".join(filter(None, (answer.error[:100], reason[0] if reason else "")))
        raise UpstreamAuth(f"Entra ID gave no token: {words or 'its answer cannot be read'}")

    return fetch


def _by_library(given: Mapping[str, str]) -> Fetch:
    wanted = given["azure_credential"]
    name = "DefaultAzureCredential" if wanted.lower() == "default" else wanted
    name = "EnvironmentCredential" if name in _BY_VARIABLES else name
    scope = given.get("azure_scope") or SCOPE
    credential = None

    def ask() -> tuple[str, float]:
        nonlocal credential
        if credential is None:
            from azure import identity  # noqa: PLC0415 - 240 ms, and an extra that not everybody installs

            kind = getattr(identity, name, None) if name.endswith("Credential") else None
            if kind is None:
                raise UpstreamAuth(f"azure-identity has no credential of the name {name!r}")
            own = {"client_id": given["client_id"]} if _is_managed(name) and "client_id" in given else {}
            credential = kind(**own)
        token = credential.get_token(scope)
        return str(token.token), float(token.expires_on) - time()

    return partial(in_thread, ask)


def _is_managed(name: str) -> bool:
    return name == "ManagedIdentityCredential"
