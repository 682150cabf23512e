"""Opening a connection: name, address, socket, tunnel, TLS.

Addresses are tried the happy-eyeballs way, a quarter of a second apart, and the loop gets a socket that is connected
already: uvloop has no happy eyeballs of its own, and between the two steps is the place where every address is checked
(`guard.open_socket`).

This is the seam where the errors of sockets, resolvers and TLS become ours: all of them `UpstreamUnreachable`. None is
tried again on the same deployment.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

import aiohappyeyeballs

from adapters.errors import UpstreamUnreachable
from gateway.upstreams.guard import ForbiddenAddressError, is_forbidden, open_socket
from gateway.upstreams.proxy import Proxy
from gateway.upstreams.request import Address
from gateway.upstreams.resolve import Resolver

HAPPY_EYEBALLS_DELAY = 0.25
"""Seconds before the next address is tried beside the one that has not answered (RFC 8305)."""

TUNNEL_HEAD_LIMIT = 16 * 1024
"""Bytes of a proxy's answer to `CONNECT`."""

_TUNNEL_OPEN = re.compile(rb"HTTP/1\.[01] 2\d\d[ \r]")
_TUNNEL_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


class Dialer:
    """Opens connections to one origin, through a proxy or directly."""

    def __init__(
        self, address: Address, resolver: Resolver, context: ssl.SSLContext, proxy: Proxy | None = None
    ) -> None:
        self._address = address
        self._resolver = resolver
        self._context = context if address.scheme == "https" else None
        self._proxy = proxy

    async def __call__(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Connect, and give the transport to the protocol. Raises `UpstreamUnreachable`."""
        try:
            await self._connect(protocol)
        except TimeoutError:
            raise  # the caller's deadline, or the kernel's: both are a time-out to the caller
        except (OSError, RuntimeError) as error:  # uvloop raises RuntimeError for some errors of sockets
            origin = self._address.origin
            code = "tls_error" if isinstance(error, ssl.SSLError) else None
            raise UpstreamUnreachable(f"Cannot connect to {origin}: {_reason(error)}", code=code) from error

    async def _connect(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        opened = await self._open_socket(loop)
        try:
            if self._proxy is not None and self._context is not None:
                await _tunnel(loop, opened, self._address, self._proxy)
            await loop.create_connection(
                protocol,
                sock=opened,
                ssl=self._context,
                server_hostname=self._address.host if self._context is not None else None,
            )
        except BaseException:
            opened.close()
            raise

    async def _open_socket(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        host, port = self._address.host, self._address.port
        if self._proxy is not None:
            _refuse_forbidden_literal(host)  # what the proxy makes of a name is the proxy's to guard
            host, port = self._proxy.host, self._proxy.port
        infos = await self._resolver.lookup(host, port)
        try:
            return await aiohappyeyeballs.start_connection(
                infos, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY, loop=loop, socket_factory=open_socket
            )
        except OSError:
            self._resolver.forget(host, port)
            raise


async def _tunnel(
    loop: asyncio.AbstractEventLoop, opened: socket.socket, address: Address, proxy: Proxy
) -> None:
    """Ask an HTTP proxy for a tunnel. Raises `OSError` if it says no."""
    name = f"[{address.host}]" if ":" in address.host else address.host
    lines = [f"CONNECT {name}:{address.port} HTTP/1.1", f"Host: {name}:{address.port}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await loop.sock_sendall(opened, ("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await loop.sock_recv(opened, TUNNEL_HEAD_LIMIT)
        head += piece
        if not piece or len(head) > TUNNEL_HEAD_LIMIT:
            raise ConnectionError("the proxy gave no answer to CONNECT")
    if _TUNNEL_OPEN.match(head) is None:
        status = _TUNNEL_STATUS.match(head)
        raise ConnectionError(f"the proxy answered {status[1].decode() if status else 'no HTTP'} to CONNECT")
    if not head.endswith(b"\r\n\r\n"):
        raise ConnectionError("the proxy sent something before TLS began")


def _refuse_forbidden_literal(host: str) -> None:
    """A numeric host is checked, however it is spelt, although a proxy will connect to it. Raises `ForbiddenAddressError`."""
    address = host.removesuffix(".")
    with suppress(OSError):  # `0xa9fea9fe`, `169.254.43518`: a proxy makes of them what this machine does
        address = socket.inet_ntoa(socket.inet_aton(address))
    try:
        forbidden = is_forbidden(address)
    except ValueError:
        return  # a name
    if forbidden:
        raise ForbiddenAddressError(address)


def _reason(error: Exception) -> str:
    """What went wrong, in words that hold no secret."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error})"
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved ({error.strerror})"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
