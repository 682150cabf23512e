"""Which addresses are refused."""

from __future__ import annotations

import socket

import pytest

from gateway.upstreams.guard import ForbiddenAddressError, is_forbidden, open_socket


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:2::169.254.169.254",
        "::ffff:0:169.254.169.254",
        "2002:a9fe:a9fe::1",
        "fe80::1",
        "fe80::1%eth0",
        "febf::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:100::100:200",
        "fd00:a9fe:a9fe::1",
        "fd00:42::42",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "::ffff:0.0.0.0",
        "224.0.0.1",
        "239.255.255.255",
        "ff02::1",
        "255.255.255.255",
        "100.100.100.200",
        "168.63.129.16",
    ],
)
def test_refused(address: str) -> None:
    """Nothing that hands out credentials, and nothing that is no single host."""
    assert is_forbidden(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pytest.raises(ForbiddenAddressError):
        open_socket((family, socket.SOCK_STREAM, 6, "", (address, 80)))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "fd12::1",
        "64:ff9b::101:101",
        "64:ff9b:1::101:101",
        "1.1.1.1",
        "2606::1",
    ],
)
def test_allowed(address: str) -> None:
    """Public, private and loopback addresses are an operator's to choose."""
    assert not is_forbidden(address)


def test_sockets_send_at_once_and_notice_dead_peers() -> None:
    """New sockets have no Nagle delay, have keep-alive probes, and never block."""
    with open_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))) as opened:
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not opened.getblocking()
