"""A loop for the provider and the load: epoll, a heap of times, and sockets that are read and written at once.

Both must cost less than the fastest gateway that they measure, nginx, and in Python that leaves room for little more than the system
calls: on the same machine an answer through uvloop's transports costs both ends together 10.5 us, through this loop about 7.
Nothing here is of use to a program that does real work; it has no fairness, no tasks and no name resolution.

Times are kept to the microsecond, where epoll's own timeout counts whole milliseconds: streams that are paced must not beat as one.
"""

from __future__ import annotations

import heapq
import math
import os
import select
import socket
import time
from collections.abc import Callable

_READ = select.EPOLLIN | select.EPOLLRDHUP
_MOST = 16384  # bytes per read: a chunk or an answer is a fraction of that


class Loop:
    """Calls back when sockets are readable and when times have come."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._times: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0  # keeps equal times in their order
        self._going = False
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK)
        self.watch(self._alarm, lambda _event: self.stop())

    def watch(self, fd: int, on_ready: Callable[[int], None]) -> None:
        """Call `on_ready` with the events whenever `fd` can be read."""
        self._ready[fd] = on_ready
        self._epoll.register(fd, _READ)

    def want_write(self, fd: int, *, want: bool) -> None:
        """Call back too when `fd` can be written, or no longer."""
        self._epoll.modify(fd, _READ | select.EPOLLOUT if want else _READ)

    def forget(self, fd: int) -> None:
        """The opposite of `watch`; before `fd` is closed."""
        if self._ready.pop(fd, None):
            self._epoll.unregister(fd)

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Call back when `time.monotonic()` has reached `when`. Cannot be taken back: look whether it still matters."""
        self._count += 1
        heapq.heappush(self._times, (when, self._count, callback))

    def run(self, until: float = math.inf) -> None:
        """Until that time, or until `stop`."""
        self._going = True
        times, ready, poll = self._times, self._ready, self._epoll.poll
        while self._going:
            now = time.monotonic()
            while times and times[0][0] <= now:
                heapq.heappop(times)[2]()
            if now >= until or not self._going:
                return
            if times:
                events = poll(0)
                if not events:
                    wait = min(times[0][0], until) - time.monotonic()
                    select.select([self._epoll], (), (), max(0.0, wait))
            else:
                events = poll(None if until == math.inf else until - now)
            for fd, event in events:
                if on_ready := ready.get(fd):
                    on_ready(event)

    def stop(self) -> None:
        """Let `run` return; call it from a callback."""
        self._going = False

    def stop_from_outside(self) -> None:
        """As `stop`, from another thread."""
        os.eventfd_write(self._alarm, 1)

    def close(self) -> None:
        """After this nothing is watched."""
        os.close(self._alarm)
        self._epoll.close()


class Wire:
    """One TCP connection: `write` sends, `received` and `ended` are called; subclasses say what they mean."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self.closed = False
        self._recv = sock.recv
        self._send = sock.send
        self._unsent = b""
        loop.watch(self.fd, self._on_ready)

    def received(self, data: bytes) -> None:
        """Some bytes have come."""
        raise NotImplementedError

    def ended(self) -> None:
        """The other side has closed, and this one now is closed too."""

    def write(self, data: bytes) -> None:
        """Send now what the kernel takes, and the rest as soon as it can be."""
        if self.closed:
            return
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the other side is gone, as the next read will tell
        if sent < len(data):
            self._unsent = data[sent:]
            self.loop.want_write(self.fd, want=True)

    def close(self, *, abort: bool = False) -> None:
        """Close; `abort` with a reset, as of a machine that dies."""
        if self.closed:
            return
        self.closed = True
        self.loop.forget(self.fd)
        if abort:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def _on_ready(self, event: int) -> None:
        if event & select.EPOLLOUT and self._unsent:
            rest, self._unsent = self._unsent, b""
            self.loop.want_write(self.fd, want=False)
            self.write(rest)
        if event == select.EPOLLOUT:
            return
        try:
            data = self._recv(_MOST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.received(data)
        else:
            self.close()
            self.ended()


def listen(loop: Loop, port: int, serve: Callable[[socket.socket], object]) -> socket.socket:
    """Accept connections on a port of loopback, 0 for a free one, and hand each to `serve`."""
    server = socket.create_server(("127.0.0.1", port), backlog=4096)
    server.setblocking(False)

    def accept(_event: int) -> None:
        try:
            while True:
                serve(server.accept()[0])
        except BlockingIOError:
            return

    loop.watch(server.fileno(), accept)
    return server
