"""Who asks?

Authorization is decided on the matched route, never on the text of a path, and before a byte of the body is read.
"""

from __future__ import annotations

import ipaddress

from aiohttp import web

from adapters.errors import BadRequest, Forbidden, GatewayError, Unauthorized
from gateway.exchange import Exchange
from gateway.keyring import ANONYMOUS, Caller
from gateway.runtime import Runtime

_KEY_HEADERS = ("x-litellm-api-key", "authorization", "api-key", "x-api-key", "x-goog-api-key")
_FORWARDED = ("forwarded", "via")


def identify(rt: Runtime, x: Exchange) -> None:
    """Set `x.caller`. Raises `Unauthorized`, or `BadRequest` where a credential is given twice."""
    if x.endpoint.path in rt.config.general.public_routes:
        x.caller = ANONYMOUS
    else:
        x.caller = caller_of(rt, x.http)


def caller_of(rt: Runtime, http: web.BaseRequest) -> Caller:
    """Who holds the credential of this request.

    The first of these headers that is there counts: `x-litellm-api-key`, `Authorization: Bearer`, `api-key`,
    `x-api-key`, `x-goog-api-key`. The same one twice could mean one thing here and another elsewhere: 400.
    """
    return rt.keyring.identify(_credential(http, needed=not rt.keyring.is_open))


def require_admin(rt: Runtime, http: web.BaseRequest) -> Caller:
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


def is_admin(rt: Runtime, http: web.BaseRequest) -> bool:
    """May the caller manage the gateway? For pages that everybody may see and administrators see more of."""
    try:
        require_admin(rt, http)
    except GatewayError:
        return False
    return True


def _credential(http: web.BaseRequest, *, needed: bool) -> str | None:
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


def _is_local(http: web.BaseRequest) -> bool:
    if any(name in http.headers for name in _FORWARDED):
        return False
    if any(name.lower().startswith("x-forwarded-") for name in http.headers):
        return False
    try:
        peer = ipaddress.ip_address(http.remote or "")
    except ValueError:
        return False
    mapped = getattr(peer, "ipv4_mapped", None)
    if not (mapped or peer).is_loopback:
        return False
    origin = http.headers.get("origin")
    return origin is None or origin in (f"http://{http.host}", f"https://{http.host}")
