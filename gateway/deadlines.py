"""Deadlines that are nearly always called off.

Every request has one, and one in thousands is reached. A timer of the event loop costs 1.5 us to start and to cancel; a
deadline costs 0.4. Those of the same length are due in the order in which they were set, so each length has a queue and
one timer of the loop, which looks at the front.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from msgspec import Struct

MOST_QUEUES = 100
"""Lengths that have a queue. Clients choose some of them, and a queue stays as long as its length: beyond that, ordinary
timers."""


class Deadline(Struct, eq=False):
    """One of them. `call` is called at `due` unless `cancel` came before."""

    queue: dict[Deadline, None]
    due: float
    call: Callable[[], None]

    def cancel(self) -> None:
        """Call it off; nothing happens if it has passed."""
        self.queue.pop(self, None)


class Deadlines:
    """All deadlines of an event loop."""

    def __init__(self) -> None:
        self._queues: dict[float, dict[Deadline, None]] = {}

    def start(self, seconds: float, call: Callable[[], None]) -> Deadline | asyncio.TimerHandle:
        """Call `call` in `seconds`, in the event loop that runs. What comes back can be cancelled."""
        queue = self._queues.get(seconds)
        if queue is None:
            if len(self._queues) >= MOST_QUEUES:
                return asyncio.get_running_loop().call_later(seconds, call)
            queue = self._queues[seconds] = {}
            asyncio.get_running_loop().call_later(seconds, self._look, seconds)
        deadline = Deadline(queue, monotonic() + seconds, call)
        queue[deadline] = None
        return deadline

    def __len__(self) -> int:
        """How many are set."""
        return sum(map(len, self._queues.values()))

    def _look(self, seconds: float) -> None:
        queue = self._queues[seconds]
        loop = asyncio.get_running_loop()
        now = monotonic()
        while queue:
            deadline = next(iter(queue))
            if deadline.due > now:
                loop.call_later(deadline.due - now, self._look, seconds)
                return
            del queue[deadline]
            try:
                deadline.call()
            except Exception as bug:  # one that fails must not take the others along
                loop.call_exception_handler({"message": "a deadline's call failed", "exception": bug})
        del self._queues[seconds]
