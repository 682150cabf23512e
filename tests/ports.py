"""Ports for servers that tests start by themselves, and for addresses where nobody shall answer.

The kernel gives the ports of its own range to whoever binds to port 0 or dials. A port of that range that is let go may be another
test's provider a moment later, which is then asked what was meant for a server that has not started yet. So these ports lie below that
range, each process of a run has a part of its own, and none is given twice until all were.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from itertools import cycle

_FIRST = 10_000
_PARTS = 8
_PART = 2_800
"""The last one is 32,399; the kernel's begin at 32,768, if nobody has set something else."""


def _ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker % _PARTS * _PART
    begin = os.getpid() * 41 % _PART  # elsewhere for another run on the same machine
    return cycle([*range(first + begin, first + _PART), *range(first, first + begin)])


_mine = _ports()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on. Raises `OSError` if this machine does not have `host`."""
    while True:
        port = next(_mine)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                probe.bind((host, 0))
                continue
        return port
