"""Tokens for Google Cloud, by whatever `google-auth` can read.

`vertex_credentials` is a file's path or its JSON text: a service account's key, a user's login (`gcloud auth
application-default login`), workload identity federation (`external_account`), or an account that one of them acts for.
Without it, Application Default Credentials: the file that `GOOGLE_APPLICATION_CREDENTIALS` names, gcloud's own, then the
metadata server. https://cloud.google.com/docs/authentication/application-default-credentials.

The library is synchronous. It is imported when it is first needed and runs in a thread, its requests go over our client.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as NoAnswer
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from msgspec import Struct

from adapters.errors import UpstreamAuth
from adapters.types import Address
from gateway.config.model import Secret
from gateway.credentials.renewal import in_thread
from gateway.credentials.tokens import TokenSigner
from gateway.credentials.web import Web
from gateway.routes import Deployment

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)

_SECONDS = 10.0
_ALIVE = 300.0
"""Seconds that a token is taken for good if nobody says."""
_WORD = re.compile(r"[a-z][a-z_]{2,40}")


def signer(deployment: Deployment, web: Web) -> GoogleSigner:
    """What signs with the deployment's `vertex_credentials`, or with the default ones."""
    given = deployment.credentials.get("vertex_credentials")
    return GoogleSigner(given.reveal() if isinstance(given, Secret) else given or "", web)


class GoogleSigner:
    """A bearer token, and the project that pays for it where the credentials are a user's."""

    def __init__(self, given: str, web: Web) -> None:
        self._given = given
        self._web = web
        self._credentials: Any = None
        self._quota_project = ""
        self._token = TokenSigner(self._fetch)

    @property
    def is_ready(self) -> bool:
        """It has a token; begins to renew one that runs out."""
        return self._token.is_ready

    @property
    def version(self) -> int | None:
        """Changes with the token."""
        return self._token.version

    async def renew(self) -> None:
        """Wait until there is a token. Raises `UpstreamAuth`."""
        await self._token.renew()

    def sign(self, address: Address, body: bytes) -> dict[str, str]:
        """The address's headers with the token."""
        headers = self._token.sign(address, body)
        if self._quota_project:
            headers["x-goog-user-project"] = self._quota_project
        return headers

    async def close(self) -> None:
        """Stop a renewal that runs."""
        await self._token.close()

    async def _fetch(self) -> tuple[str, float]:
        request = _over(self._web, asyncio.get_running_loop())
        return await in_thread(self._refresh, request)

    def _refresh(self, request: Callable[..., _Response]) -> tuple[str, float]:
        """In a thread: read the credentials once, get a token."""
        try:
            if self._credentials is None:
                self._credentials = _load(self._given, request)
                self._quota_project = getattr(self._credentials, "quota_project_id", None) or ""
            self._credentials.refresh(request)
        except UpstreamAuth:
            raise
        except Exception as error:  # the library's texts may show what a server said, or where a file lies
            raise UpstreamAuth(f"No token from Google: {_named(error)}") from None
        until = self._credentials.expiry
        seconds = (until.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds() if until else _ALIVE
        return self._credentials.token or "", seconds


def _named(error: Exception) -> str:
    """The kind of a failure, and OAuth's word for it (`invalid_grant`) if it begins with one."""
    text = str(error.args[0]) if error.args else ""
    word = _WORD.match(text)
    return f"{type(error).__name__} ({word[0]})" if word and "_" in word[0] else type(error).__name__


# -- the credentials -------------------------------------------------------------------------------------------------


def _load(given: str, request: Callable[..., _Response]) -> Any:
    """Credentials from a path, from JSON text, or the default ones. Raises `UpstreamAuth`, or what the library does."""
    if not given:
        return import_module("google.auth").default(scopes=SCOPES, request=request)[0]
    try:
        text = given if given.lstrip().startswith("{") else Path(given).expanduser().read_text()
        info = json.loads(text)
    except (OSError, ValueError) as error:
        raise UpstreamAuth(f"vertex_credentials cannot be read: {type(error).__name__}") from None
    if not isinstance(info, dict):
        raise UpstreamAuth("vertex_credentials must be a JSON object")
    return _from_info(info)


_KINDS = {
    "service_account": ("google.oauth2.service_account", "from_service_account_info"),
    "authorized_user": ("google.oauth2.credentials", "from_authorized_user_info"),
    "impersonated_service_account": (
        "google.auth.impersonated_credentials",
        "from_impersonated_service_account_info",
    ),
    "external_account_authorized_user": ("google.auth.external_account_authorized_user", "from_info"),
    "external_account": ("google.auth.identity_pool", "from_info"),
    "aws": ("google.auth.aws", "from_info"),
    "executable": ("google.auth.pluggable", "from_info"),
}
"""The class of each kind of credentials, and what makes one; the last two are kinds of `external_account`."""


def _from_info(info: Mapping[str, Any]) -> Any:
    # Each kind by its own class: the library's loader of any kind warns of credentials whose origin nobody checked.
    kind = info.get("type")
    if kind == "external_account":
        if info.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
            kind = "aws"
        elif "executable" in (info.get("credential_source") or {}):
            kind = "executable"
    if kind not in _KINDS:
        raise UpstreamAuth(f"vertex_credentials are of an unknown type: {str(kind)[:40]!r}")
    module, maker = _KINDS[kind]
    return getattr(import_module(module).Credentials, maker)(info, scopes=SCOPES)


# -- its requests ----------------------------------------------------------------------------------------------------


class _Response(Struct, frozen=True):
    """As `google.auth.transport.Response`."""

    status: int
    headers: Mapping[str, str]
    data: bytes


def _over(web: Web, loop: asyncio.AbstractEventLoop) -> Callable[..., _Response]:
    """A `google.auth.transport.Request` that is called in a thread and asks over our client, on the loop."""

    def request(
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> _Response:
        data = body.encode() if isinstance(body, str) else body
        seconds = min(timeout or _SECONDS, _SECONDS)
        asked = asyncio.run_coroutine_threadsafe(
            web.ask(method, url, headers=headers, body=data, seconds=seconds), loop
        )
        try:
            return _Response(*asked.result(seconds + 1.0))
        except (UpstreamAuth, NoAnswer) as error:
            asked.cancel()
            raise import_module("google.auth.exceptions").TransportError(str(error)) from None

    return request
