"""The ports of tests."""

from __future__ import annotations

import socket

import pytest

from tests.ports import free_port


def test_no_port_twice() -> None:
    """Each is another, and none is one that the kernel gives away."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert all(10_000 <= port < 32_400 for port in ports)


def test_a_port_that_is_taken() -> None:
    """Where somebody listens is passed over."""
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        assert free_port() > port + 1


def test_a_host_that_is_not_here() -> None:
    """There is no port at an address of somebody else."""
    with pytest.raises(OSError, match="assign"):
        free_port("192.0.2.1")
