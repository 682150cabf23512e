"""The loop of the provider and the load."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from bench.loop import Loop, Wire, listen


class Ear(Wire):
    """Keeps what it hears, and stops the loop when that is enough or over."""

    def __init__(self, loop: Loop, sock: socket.socket, enough: float = 1) -> None:
        super().__init__(loop, sock)
        self.heard = b""
        self.enough = enough
        self.over = False

    def received(self, data: bytes) -> None:
        self.heard += data
        if len(self.heard) >= self.enough:
            self.loop.stop()

    def ended(self) -> None:
        self.over = True
        self.loop.stop()


@contextmanager
def connected(enough: float = 1) -> Iterator[tuple[Ear, socket.socket]]:
    """A wire that was accepted, and the plain socket at its other end."""
    loop = Loop()
    ears: list[Ear] = []

    def accept(sock: socket.socket) -> None:
        ears.append(Ear(loop, sock, enough))
        loop.stop()

    server = listen(loop, 0, accept)
    with server, socket.create_connection(server.getsockname(), timeout=10) as client:
        loop.run()
        yield ears[0], client
        ears[0].close()
        loop.close()


def test_times_come_in_their_order() -> None:
    """Callbacks run when their times have come, earlier ones first, equal ones as they were given."""
    loop = Loop()
    called: list[str] = []
    now = time.monotonic()
    for when, name in ((0.02, "late"), (0.001, "first"), (0.001, "second")):
        loop.at(now + when, partial(called.append, name))
    loop.run(until=now + 0.03)
    assert called == ["first", "second", "late"]


def test_run_ends_at_its_time_and_when_it_is_stopped() -> None:
    """`until` ends a loop in which nothing happens, `stop` one that has something to do."""
    loop = Loop()
    loop.run(until=time.monotonic() + 0.01)
    loop.at(time.monotonic(), loop.stop)
    loop.run()


def test_a_wire_hears_and_says() -> None:
    """What one side sends, the other reads."""
    with connected() as (wire, client):
        client.sendall(b"question")
        wire.loop.run()
        wire.write(b"answer")
        assert wire.heard == b"question"
        assert client.recv(100) == b"answer"


def test_a_wire_sends_more_than_the_kernel_takes_at_once() -> None:
    """What does not fit waits until the other side has read, and arrives whole and in order."""
    data = bytes(range(256)) * 100_000
    with connected(math.inf) as (wire, client):
        wire.write(data)
        wire.write(b"the end")
        got = bytearray()
        while not got.endswith(b"the end"):
            wire.loop.run(until=time.monotonic() + 0.001)
            got += client.recv(1 << 20)
        assert got == data + b"the end"


def test_a_wire_knows_its_end() -> None:
    """When the other side leaves, `ended` is called once, and writing then does nothing."""
    with connected() as (wire, client):
        client.close()
        wire.loop.run()
        wire.write(b"too late")
        assert wire.over
        assert wire.closed


def test_abort_resets() -> None:
    """An aborted connection looks to the other side as if the machine had died."""
    with connected() as (wire, client):
        wire.close(abort=True)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
