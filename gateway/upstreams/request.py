"""A request as bytes: the line, the headers that are ours, the caller's, the body.

The caller's header values come from configurations and from clients, so nothing in them may end a line: a value with
a control character is a bug of whoever let it through, and is never sent. Framing is ours alone: there is exactly one
`Content-Length`, and no header that could make two servers see two different requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from adapters.errors import Bug
from adapters.types import HttpRequest
from gateway import __version__

JOINED_BODY = 64 * 1024
"""Bodies up to this many bytes are copied behind the head, for one write."""

_OURS = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_HEADER_LINE = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\x00-\x08\x0a-\x1f\x7f\ud800-\udc7f\udd00-\udfff]*"
)
_UNSAFE_IN_URL = re.compile(r"[\x00-\x20\x7f-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Address:
    """A URL taken apart: where to connect, what to ask for there."""

    scheme: str
    host: str
    """Lower case, without brackets."""
    port: int
    target: str
    """Path and query."""
    authority: str
    """The `Host` header: the port only where it is not the scheme's own."""
    origin: str
    """`https://api.openai.com`"""


@lru_cache(maxsize=4096)
def parse_url(url: str) -> Address:
    """Take an absolute http or https URL apart. Raises `Bug`: base URLs are checked when configuration is read."""
    if _UNSAFE_IN_URL.search(url):
        raise Bug("The upstream URL has a character that must be escaped")
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in {"http", "https"} or not host or parts.username is not None:
        raise Bug("The upstream URL must be http(s)://host[:port]/path, without a user")
    usual = 443 if parts.scheme == "https" else 80
    name = f"[{host}]" if ":" in host else host
    authority = name if port in {None, usual} else f"{name}:{port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    origin = f"{parts.scheme}://{authority}"
    return Address(parts.scheme, host, usual if port is None else port, target, authority, origin)


def write_request(
    request: HttpRequest, address: Address, *, absolute: bool = False, proxy_authorization: str | None = None
) -> list[bytes]:
    """The request's bytes, in one piece if the body is small. See `write_head` and `wire`."""
    head = write_head(
        request.method, request.headers, address, absolute=absolute, proxy_authorization=proxy_authorization
    )
    return wire(head, request.method, request.body)


def wire(head: bytes, method: str, body: bytes) -> list[bytes]:
    """What goes out: the head, which lacks only the length, and the body, joined if that is small."""
    if body or method not in {"GET", "HEAD"}:
        head = b"%bContent-Length: %d\r\n\r\n" % (head, len(body))
    else:
        head += b"\r\n"
    return [head + body] if len(body) <= JOINED_BODY else [head, body]


def write_head(
    method: str,
    headers: Sequence[tuple[str, str]],
    address: Address,
    *,
    absolute: bool = False,
    proxy_authorization: str | None = None,
) -> bytes:
    """A request's head but for `Content-Length` and the last line break: it serves any body.

    `Host`, `User-Agent` and `Accept-Encoding` may be the caller's; headers that frame the message may not.
    `absolute`: the whole URL goes into the first line, as a proxy wants it. Raises `Bug`.
    """
    names = {name.lower() for name, _ in headers}
    target = address.origin + address.target if absolute else address.target
    first = f"{method} {target} HTTP/1.1\r\n"
    if "host" not in names:
        first += f"Host: {address.authority}\r\n"
    last = ""
    if "user-agent" not in names:
        last += f"User-Agent: penstock/{__version__}\r\n"
    if "accept-encoding" not in names:
        last += "Accept-Encoding: identity\r\n"
    if proxy_authorization is not None:
        last += f"Proxy-Authorization: {proxy_authorization}\r\n"
    return first.encode() + write_headers(headers) + last.encode()


def write_headers(headers: Sequence[tuple[str, str]]) -> bytes:
    """Headers as they stand in a head, each with its end. Raises `Bug` for those that frame the message."""
    names = {name.lower() for name, _ in headers}
    if not names.isdisjoint(_OURS):
        raise Bug(f"The header {', '.join(sorted(names & _OURS))} cannot be set")
    lines = [f"{name}: {value}" for name, value in headers]
    if not all(map(_HEADER_LINE.fullmatch, lines)):
        raise Bug(f"The header {_first_bad_name(headers)} has characters that no header may have")
    # What came as odd bytes leaves as the same bytes.
    return "".join([f"{line}\r\n" for line in lines]).encode("utf-8", "surrogateescape")


def _first_bad_name(headers: Sequence[tuple[str, str]]) -> str:
    """The name of the first header that cannot be written; its value may be a secret."""
    return next(repr(name) for name, value in headers if not _HEADER_LINE.fullmatch(f"{name}: {value}"))
