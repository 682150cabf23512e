"""Who asks?

Authorization is decided on the matched route, never on the text of a path, and before a byte of the body is read.
"""

from __future__ import annotations

import ipaddress
from typing import Protocol
from urllib.parse import urlsplit

from multidict import MultiMapping

from adapters.errors import BadRequest, Forbidden, GatewayError, Unauthorized
from gateway import access
from gateway.exchange import Exchange
from gateway.keyring import ANONYMOUS, HEADERS, Caller, check_time
from gateway.runtime import Runtime


class NotAdmin(Unauthorized):
    """A virtual key, where the master key is needed."""

    reason = "not_admin"


_FORWARDED = frozenset({"forwarded", "via", "x-real-ip", "cf-connecting-ip", "true-client-ip", "x-client-ip"})


async def identify(rt: Runtime, x: Exchange) -> None:
    """Set `x.caller`. Waits only for a key that this process has never seen.

    Raises `Unauthorized`, `KeyUnknown`, `Forbidden` for a path that a key may not call, or `BadRequest` where a credential is
    given twice.
    """
    head = x.http
    caller = head.caller
    if caller is None or head.keys_version != rt.keyring.version:
        version = rt.keyring.version  # before it is asked: what changes meanwhile counts
        is_public = x.endpoint.path in rt.config.general.public_routes
        caller = ANONYMOUS if is_public else await caller_of(rt, head)
        if caller.key is not None:
            x.caller = caller
            access.check_endpoint(caller.key, x.endpoint)
        head.caller, head.keys_version = caller, version  # last: who is refused stays unknown
    elif caller.key is not None:
        check_time(caller.key, x.wall)
    x.caller = caller


class Asked(Protocol):
    """What is looked at of a request: a `Head`, or aiohttp's request."""

    @property
    def headers(self) -> MultiMapping[str]: ...
    @property
    def host(self) -> str: ...
    @property
    def remote(self) -> str | None: ...


async def caller_of(rt: Runtime, http: Asked) -> Caller:
    """Who holds the credential of this request.

    The first of these headers that is there counts: `x-litellm-api-key`, `Authorization: Bearer`, `api-key`,
    `x-api-key`, `x-goog-api-key`. The same one twice could mean one thing here and another elsewhere: 400.
    """
    keyring = rt.keyring
    key = _credential(http, needed=not keyring.is_open)
    return keyring.known(key) or await keyring.look_up(key or "")


async def require_admin(rt: Runtime, http: Asked, route: str) -> Caller:
    """The caller, if it may manage the gateway; `route` is what it wants to do.

    With a master key, whoever holds it. In open mode, whoever sits at this machine: the peer is loopback, no proxy stood
    between, and no foreign page sent the browser. A virtual key is never enough. Raises `Unauthorized` or `Forbidden`.
    """
    caller = await caller_of(rt, http)
    if caller.kind == "anonymous" and rt.keyring.is_open:
        if not _is_local(http):
            raise Forbidden(
                "Management is open to this machine alone while no master key is set. Set LITELLM_MASTER_KEY."
            )
        return caller
    if not caller.is_admin:
        raise NotAdmin(
            "Authentication Error, Only proxy admin can be used to generate, delete, update info for new "
            f"keys/users/teams. Route={route}. Your role=unknown."
        )
    return caller


async def is_admin(rt: Runtime, http: Asked, route: str = "") -> bool:
    """May the caller manage the gateway? For pages that everybody may see and administrators see more of."""
    try:
        await require_admin(rt, http, route)
    except GatewayError:
        return False
    return True


def _credential(http: Asked, *, needed: bool) -> str | None:
    headers = http.headers
    found = None
    for name in HEADERS:
        if name not in headers:
            continue
        values = headers.getall(name)
        if len(values) > 1:
            raise BadRequest(f"The header {name} stands there {len(values)} times")
        if found is not None:
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
