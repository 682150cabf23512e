"""Who asks?

Authorization is decided on the matched route, never on the text of a path, and before a byte of the body is read.
"""

from __future__ import annotations

import ipaddress
from typing import Protocol
from urllib.parse import urlsplit

from multidict import MultiMapping

from adapters.errors import BadRequest, Forbidden, GatewayError, Unauthorized
from gateway.exchange import Exchange
from gateway.keyring import ANONYMOUS, Caller
from gateway.runtime import Runtime

_KEY_HEADERS = ("x-litellm-api-key", "authorization", "api-key", "x-api-key", "x-goog-api-key")
_FORWARDED = frozenset({"forwarded", "via", "x-real-ip", "cf-connecting-ip", "true-client-ip", "x-client-ip"})


def identify(rt: Runtime, x: Exchange) -> None:
    """Set `x.caller`. Raises `Unauthorized`, or `BadRequest` where a credential is given twice."""
    head = x.http
    if head.caller is None or head.keys_version != rt.keyring.version:
        is_public = x.endpoint.path in rt.config.general.public_routes
        head.caller = ANONYMOUS if is_public else caller_of(rt, head)
        head.keys_version = rt.keyring.version  # last: who is refused stays unknown
    x.caller = head.caller


class Asked(Protocol):
    """What is looked at of a request: a `Head`, or aiohttp's request."""

    @property
    def headers(self) -> MultiMapping[str]: ...
    @property
    def host(self) -> str: ...
    @property
    def remote(self) -> str | None: ...


def caller_of(rt: Runtime, http: Asked) -> Caller:
    """Who holds the credential of this request.

    The first of these headers that is there counts: `x-litellm-api-key`, `Authorization: Bearer`, `api-key`,
    `x-api-key`, `x-goog-api-key`. The same one twice could mean one thing here and another elsewhere: 400.
    """
    return rt.keyring.identify(_credential(http, needed=not rt.keyring.is_open))


def require_admin(rt: Runtime, http: Asked) -> Caller:
    """The caller, if it may manage the gateway.

    With a master key, whoever holds it. In open mode, whoever sits at this machine: the peer is loopback, no proxy stood
    between, and no foreign page sent the browser. Raises `Unauthorized` or `Forbidden`.
    """
    caller = caller_of(rt, http)
    if rt.keyring.is_open:
        if not _is_local(http):
            raise Forbidden(
                "Management is open to this machine alone while no master key is set. Set LITELLM_MASTER_KEY."
            )
        return caller
    if not caller.is_admin:
        raise Forbidden("Authentication Error, Only proxy admin can be used to call this route.")
    return caller


def is_admin(rt: Runtime, http: Asked) -> bool:
    """May the caller manage the gateway? For pages that everybody may see and administrators see more of."""
    try:
        require_admin(rt, http)
    except GatewayError:
        return False
    return True


def _credential(http: Asked, *, needed: bool) -> str | None:
    headers = http.headers
    found = None
    for name in _KEY_HEADERS:
        values = headers.getall(name, ())
        if len(values) > 1:
            raise BadRequest(f"The header {name} stands there {len(values)} times")
        if not values or found is not None:
            continue
        scheme, _, rest = values[0].strip().partition(" ")
        if scheme.lower() == "bearer":
            found = rest.strip()
        elif name != "authorization":
            found = values[0].strip()
        elif needed:
            raise Unauthorized(
                "Authentication Error, Malformed API Key passed in. Ensure Key has `Bearer ` prefix."
            )
    return found or None


def _is_local(http: Asked) -> bool:
    if any(_tells_of_another(name) for name in http.headers):
        return False
    if http.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    # A page whose name was made to point here (DNS rebinding) comes from loopback too, and no `Origin` tells: its
    # `Host` does.
    names = [f"//{http.host}", *http.headers.getall("origin", ())]
    return _is_loopback(http.remote) and all(_is_loopback(_hostname(name)) for name in names)


def _tells_of_another(header: str) -> bool:
    name = header.lower().replace("_", "-")
    return name in _FORWARDED or name.startswith("x-forwarded")


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
