"""Where AWS credentials come from, and what is done with them: all that touches botocore. Imported by `aws` in a thread.

What a deployment names counts first: a web identity's token, a profile, keys; else it is botocore's own search (the
environment, `~/.aws`, the container's or the machine's role). A role that is named is assumed with what was found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    AssumeRoleWithWebIdentityCredentialFetcher,
    Credentials,
    DeferredRefreshableCredentials,
)

from adapters.errors import UpstreamAuth
from adapters.types import Address

_SECONDS = 10.0
"""How long a server may be silent. botocore would wait for a minute, and all who need the credential with it."""
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d+")


class Source:
    """Credentials, for one service in one region."""

    def __init__(self, credentials: Any, service: str, region: str) -> None:
        self._credentials = credentials
        self._service = service
        self._region = region
        self._frozen: Any = None
        self._needs_refresh: Callable[[int], bool] | None = getattr(credentials, "refresh_needed", None)

    @property
    def runs_out(self) -> bool:
        """Are they good for a time only?"""
        return self._needs_refresh is not None

    @property
    def is_good(self) -> bool:
        """Can they be used now?"""
        return self._frozen is not None and not (self._needs_refresh is not None and self._needs_refresh(0))

    def refresh(self) -> None:
        """Fetch new ones if that is due. Blocks: for threads."""
        self._frozen = self._credentials.get_frozen_credentials()

    def sign(self, address: Address, body: bytes) -> dict[str, str]:
        """The address's headers with the signature over the address as it is written, the content type and the body.

        Other headers may still be changed on the way. The path is escaped once more where it is signed, as Amazon does it.
        """
        headers = dict(address.headers)
        covered = {name: value for name, value in headers.items() if name == "content-type"}
        request = AWSRequest(method=address.method, url=address.url, data=body, headers=covered)
        SigV4Auth(self._frozen, self._service, self._region or _region_in(address.url)).add_auth(request)
        return headers | {name.lower(): value for name, value in request.headers.items()}


def load(settings: Mapping[str, str]) -> Source:
    """The credentials that the settings mean. Raises `UpstreamAuth`, or what botocore raises."""
    profile = settings.get("aws_profile_name")
    session = botocore.session.Session(profile=profile)
    session.set_default_client_config(Config(connect_timeout=_SECONDS, read_timeout=_SECONDS))
    region = settings.get("aws_region_name") or session.get_config_variable("region") or ""
    credentials = _credentials(session, region, settings)
    return Source(credentials, settings.get("aws_signing_name", "bedrock"), region)


def _credentials(session: Any, region: str, settings: Mapping[str, str]) -> Any:
    role = settings.get("aws_role_name")
    token = settings.get("aws_web_identity_token")
    extra = {
        "RoleSessionName": settings.get("aws_session_name"),
        "ExternalId": settings.get("aws_external_id"),
    }
    named = {name: value for name, value in extra.items() if value}
    client = partial(
        session.create_client, region_name=region or None, endpoint_url=settings.get("aws_sts_endpoint")
    )
    if token:
        if not role:
            raise UpstreamAuth("aws_web_identity_token needs aws_role_name beside it")
        named.pop("ExternalId", None)
        web = AssumeRoleWithWebIdentityCredentialFetcher(client, partial(_token, token), role, named)
        return DeferredRefreshableCredentials(web.fetch_credentials, "assume-role-with-web-identity")
    credentials = _keys(settings) or session.get_credentials()
    if credentials is None:
        raise UpstreamAuth(
            "No AWS credentials were found: set aws_access_key_id and aws_secret_access_key, or aws_profile_name"
        )
    if not role:
        return credentials
    fetcher = AssumeRoleCredentialFetcher(client, credentials, role, named)
    return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")


def _keys(settings: Mapping[str, str]) -> Any:
    key, secret = settings.get("aws_access_key_id"), settings.get("aws_secret_access_key")
    if not (key and secret) or settings.get("aws_profile_name"):
        return None
    return Credentials(key, secret, settings.get("aws_session_token"))


def _token(token: str) -> str:
    """A token, or what stands in the file of that name: it is written anew from time to time."""
    is_file = os.path.isfile(token)  # noqa: PTH113 - `Path.is_file` raises where a text is too long for a file's name
    return Path(token).read_text(encoding="utf-8").strip() if is_file else token


def _region_in(url: str) -> str:
    found = _REGION.search(urlsplit(url).hostname or "")
    if found is None:
        raise UpstreamAuth("The AWS region is not known: set aws_region_name")
    return found[0]
