"""Which addresses the gateway never connects to, and the one place that opens sockets to providers.

An operator may point a deployment at a private address (a model server in the next rack, Ollama on this machine), so
private and loopback addresses are allowed. Link-local ones are not: behind them are the clouds' metadata services,
which hand out the machine's credentials to whoever asks.

The check looks at the final socket address, after every resolver and every spelling (`0x7f.1`, full-width digits, a
v4 address inside a v6 one) has become plain numbers, and before each attempt: a name cannot be rebound behind it.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, TypeAlias

AddressInfo: TypeAlias = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
"""What `getaddrinfo` gives: family, kind, protocol, canonical name, socket address."""

_FORBIDDEN_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # "this host": Linux connects to itself
        "169.254.0.0/16",  # link-local: metadata of AWS, Azure, Google Cloud and most others
        "100.100.100.200/32",  # metadata of Alibaba Cloud
        "168.63.129.16/32",  # Azure's wire server
        "192.0.0.192/32",  # metadata of Oracle Cloud, older address
        "224.0.0.0/4",  # multicast
        "255.255.255.255/32",
    )
)
_FORBIDDEN_V6 = tuple(
    IPv6Network(network)
    for network in (
        "::/128",
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local, long deprecated
        "ff00::/8",  # multicast
        "fd00:ec2::/32",  # metadata of AWS: ::254, ::23
        "fd20:ce::254/128",  # metadata of Google Cloud
        "fd00:c1::a9fe:a9fe/128",  # metadata of Oracle Cloud
        "fd00:100::100:200/128",  # metadata of Alibaba Cloud
        "fd00:a9fe:a9fe::1/128",  # metadata of Akamai
        "fd00:42::42/128",  # metadata of Scaleway
    )
)
_TRANSLATED = tuple(
    IPv6Network(network)
    for network in (
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64 with a prefix of the network's own (RFC 8215)
        "::ffff:0:0:0/96",  # SIIT
        "::/96",  # v4-compatible
    )
)
"""Where the last 32 bits are a v4 address."""
_LOOPBACK_V6 = IPv6Address("::1")

KEEPALIVE_IDLE = 60
"""Seconds of silence after which the kernel asks whether the peer is still there."""


class ForbiddenAddressError(OSError):
    """The name leads to an address that the gateway never connects to."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, f"connections to {address} are not allowed")


def is_forbidden(address: str) -> bool:
    """May no connection be made to this numeric address? A zone (`fe80::1%eth0`) is ignored."""
    ip = _embedded(ip_address(address.partition("%")[0]))
    if isinstance(ip, IPv4Address):
        return any(ip in network for network in _FORBIDDEN_V4)
    return any(ip in network for network in _FORBIDDEN_V6)


def _embedded(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The v4 address that a v6 one only wraps (v4-mapped, 6to4, `_TRANSLATED`), else the address itself."""
    if isinstance(ip, IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip != _LOOPBACK_V6 and any(ip in network for network in _TRANSLATED):
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


def open_socket(info: AddressInfo) -> socket.socket:
    """A socket for this address, not yet connected. Raises `ForbiddenAddressError`.

    Without Nagle's delay, because a request is written at once; with keep-alive probes, because a provider may think
    for minutes and a peer that vanished says nothing.
    """
    family, kind, protocol, _, address = info
    if is_forbidden(address[0]):
        raise ForbiddenAddressError(address[0])
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    except BaseException:
        opened.close()
        raise
    return opened
