"""Forward proxies, for gateways that may not reach providers directly.

A proxy is used only where it was asked for: `proxies_from_environment` reads the variables that other tools use, but
nothing reads them unless the operator says so. To `https` origins the proxy opens a tunnel (`CONNECT`), so it sees a
host name and nothing else; to `http` origins it gets the whole request, with an absolute URL.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urlsplit

_LOCAL = ("localhost", "127.0.0.0/8", "::1")


@dataclass(frozen=True)
class Proxy:
    """One forward proxy: where it listens, and the `Proxy-Authorization` it wants (never shown)."""

    host: str
    port: int
    authorization: str | None = None

    def __repr__(self) -> str:
        return f"<Proxy {self.host}:{self.port}>"


@dataclass(frozen=True)
class Proxies:
    """Which proxy serves which origin. `bypass`: hosts, `.domains`, networks or `*`, as in `NO_PROXY`."""

    http: str | None = None
    https: str | None = None
    bypass: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Proxies http={self._http} https={self._https} bypass={','.join(self.bypass)}>"

    @cached_property
    def _http(self) -> Proxy | None:
        return parse_proxy(self.http) if self.http else None

    @cached_property
    def _https(self) -> Proxy | None:
        return parse_proxy(self.https) if self.https else None

    def choose(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for this origin, None for a direct connection. Raises `ValueError` for a bad proxy URL."""
        proxy = self._https if scheme == "https" else self._http
        if proxy is None or any(_matches(entry, host, port) for entry in self.bypass):
            return None
        return proxy


def proxies_from_environment(environ: Mapping[str, str]) -> Proxies:
    """What `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say (lower-case spellings win, as in curl).

    This machine's own addresses are never asked for through a proxy. Raises `ValueError` for a bad proxy URL.
    """

    def read(name: str) -> str:
        return (environ.get(name.lower()) or environ.get(name) or "").strip()

    listed = tuple(entry.strip() for entry in read("NO_PROXY").split(",") if entry.strip())
    proxies = Proxies(read("HTTP_PROXY") or None, read("HTTPS_PROXY") or None, (*listed, *_LOCAL))
    for name, url in (("HTTP_PROXY", proxies.http), ("HTTPS_PROXY", proxies.https)):
        try:
            if url:
                parse_proxy(url)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return proxies


def parse_proxy(url: str) -> Proxy:
    """`http://user:password@host:port`, scheme and user optional. Raises `ValueError`; its text has no password."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
    except ValueError:  # it repeats all that stands before the path
        raise ValueError("a proxy must be http://host:port, and this cannot be read") from None
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme != "http" or not host:
        raise ValueError(f"a proxy must be http://host:port, not {parts.scheme}://{host or '?'}")
    if parts.username is None:
        return Proxy(host, port or 80)
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(host, port or 80, "Basic " + b64encode(login.encode()).decode("ascii"))


def _matches(entry: str, host: str, port: int) -> bool:
    """Does an entry of NO_PROXY cover this host? A domain covers its subdomains."""
    entry = entry.lower()
    if entry == "*":
        return True
    if entry.count(":") == 1 or "]:" in entry:  # more colons are an IPv6 address
        entry, _, digits = entry.rpartition(":")
        if digits != str(port):
            return False
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        domain = entry.removeprefix("*").removeprefix(".")
        return host == domain or host.endswith("." + domain)
