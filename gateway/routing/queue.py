"""Waiting for room at a deployment, in turn.

Where all deployments of a model are at a limit, a request can wait for one instead of being refused. Who waits has a place in
the line of its caller, and the callers of a model take turns: one with a thousand requests has a thousand that wait, one with
a single request is next but one. Within a line `priority` comes first (0 before 1), then who came first. A caller's word thus
moves its own requests and nobody else's. Requests of one model that are not meant for the same deployments (tags, length) have
lines apart, so that none of them is held up by what it does not want; where such lines want the same place after all, as do those
of an alias and of its model, the lines take turns too.

Nothing looks whether there is room: `Health` calls when a deployment has a request less, and timers tell when a rate limit or a
cooldown is over. Only what other processes set free is unheard, so there is a look once a second too. Whoever is called goes
on in that call or, as a task, in the next turn of the loop; the next one is called when that is done, so that no two get the
same place.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable, Hashable
from itertools import count, islice

from gateway.config.model import QueueSettings
from gateway.deadlines import Deadlines
from gateway.story import Signal

_LONGEST_PAUSE = 1.0
_SHORTEST_PAUSE = 0.005
"""Seconds between two looks that nobody has asked for."""
_MOST_LOOKS = 64
"""Lines that are looked at when there is room, each some microseconds: those who wait mostly want the same."""


class NotServed(Exception):
    """Nobody had room in time, or too many wait already. `position` is 1 for who would have been next, of `waiting`."""

    def __init__(self, told: str, position: int, waiting: int) -> None:
        super().__init__(told)
        self.position = position
        self.waiting = waiting


class Waiter:
    """A request that waits: what it needs to know of the deployments."""

    __slots__ = ("can_go", "is_called", "rank", "signal", "soonest")

    def __init__(
        self, rank: tuple[int, float, int], can_go: Callable[[], bool], soonest: Callable[[], float | None]
    ) -> None:
        self.rank = rank
        self.can_go = can_go
        self.soonest = soonest
        self.signal = Signal()
        self.is_called = False


class _Lines:
    """Those who wait for the same, by their callers; the callers in the order of their turns."""

    __slots__ = ("by_caller", "called", "timer")

    def __init__(self) -> None:
        self.by_caller: dict[Hashable, list[Waiter]] = {}
        self.called: Waiter | None = None
        """Who may go and has not gone yet."""
        self.timer: asyncio.TimerHandle | None = None

    def has_called(self) -> bool:
        """Whoever may go has not gone yet."""
        return self.called is not None

    def add(self, caller: Hashable, waiter: Waiter) -> None:
        insort(self.by_caller.setdefault(caller, []), waiter, key=lambda one: one.rank)

    def remove(self, caller: Hashable, waiter: Waiter) -> None:
        line = self.by_caller.get(caller)
        if line is not None and waiter in line:
            line.remove(waiter)
            if not line:
                del self.by_caller[caller]

    def position(self, caller: Hashable, waiter: Waiter) -> int:
        """1 for who would be next."""
        ahead = self.by_caller[caller].index(waiter)
        position, is_before = ahead + 1, True
        for other, line in self.by_caller.items():
            if other == caller:
                is_before = False
            else:
                position += min(len(line), ahead + is_before)
        return position

    def call(self) -> Waiter | None:
        """Let the first one go who can: its caller's next turn is the last one."""
        for caller, line in islice(self.by_caller.items(), _MOST_LOOKS):
            waiter = line[0]
            if waiter.can_go():
                del self.by_caller[caller]
                if len(line) > 1:
                    self.by_caller[caller] = line[1:]
                self.called = waiter
                waiter.is_called = True
                return waiter
        return None

    def pause(self) -> float:
        """Seconds until the next look, if nobody calls before."""
        soonest = next(iter(self.by_caller.values()))[0].soonest()
        return min(max(soonest or _LONGEST_PAUSE, _SHORTEST_PAUSE), _LONGEST_PAUSE)

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class FairQueue:
    """All who wait in this process, by what they wait for. Lives as long as the process, whatever is configured."""

    def __init__(self, deadlines: Deadlines, now: Callable[[], float]) -> None:
        self.settings: QueueSettings | None = None
        """None: nobody begins to wait."""
        self.waiting = 0
        self.refused = {"full": 0, "late": 0}
        """How many were turned away at once, and after they had waited."""
        self.on_waited: Callable[[str, float], None] | None = None
        """Told the model and the seconds of each wait, however it ended."""
        self._deadlines = deadlines
        self._now = now
        self._lines: dict[tuple[str, Hashable], _Lines] = {}
        """By the model and what of it is wanted, in the order of their turns."""
        self._numbers = count()
        self._is_stirred = False

    def is_waited_for(self, model: str, wanted: Hashable = None) -> bool:
        """Somebody is there already, whom a newcomer must not overtake."""
        return (model, wanted) in self._lines

    async def wait(
        self,
        model: str,
        caller: Hashable,
        *,
        wanted: Hashable = None,
        seconds: float,
        can_go: Callable[[], bool],
        soonest: Callable[[], float | None],
        priority: int = 0,
        came: float = 0.0,
    ) -> None:
        """Wait for a turn in which `can_go`, for so many seconds. Raises `NotServed`.

        `wanted` is the same for those who wait for the same deployments of the model; `soonest` gives the seconds until there may
        be room, None if nobody can tell; `came` is when the request did.
        """
        most = self.settings.max_waiting if self.settings is not None else 0
        if self.waiting >= most:
            self.refused["full"] += 1
            raise NotServed(f"{self.waiting} requests wait already", self.waiting + 1, self.waiting)
        waiter = Waiter((priority, came, next(self._numbers)), can_go, soonest)
        name = model, wanted
        lines = self._lines.setdefault(name, _Lines())
        lines.add(caller, waiter)
        self.waiting += 1
        began = self._now()
        deadline = self._deadlines.start(seconds, waiter.signal.set)
        self.stir()
        try:
            await waiter.signal
            if not waiter.is_called:
                self.refused["late"] += 1
                position = lines.position(caller, waiter)
                told = f"Waited {seconds:g} s, at last at position {position} of {self.waiting}"
                raise NotServed(told, position, self.waiting)
        finally:
            deadline.cancel()
            self._leave(name, lines, caller, waiter)
            if self.on_waited is not None:
                self.on_waited(model, self._now() - began)

    def stir(self) -> None:
        """There may be room: look as soon as whoever runs has ended."""
        if self.waiting and not self._is_stirred:
            self._is_stirred = True
            asyncio.get_running_loop().call_soon(self._look)

    def _leave(self, name: tuple[str, Hashable], lines: _Lines, caller: Hashable, waiter: Waiter) -> None:
        self.waiting -= 1
        lines.remove(caller, waiter)
        if lines.called is waiter:
            lines.called = None
            self.stir()
        if not lines.by_caller:
            lines.stop()
            if self._lines.get(name) is lines and lines.called is None:
                del self._lines[name]

    def _look(self) -> None:
        self._is_stirred = False
        for name, lines in list(self._lines.items()):
            if lines.has_called() or not lines.by_caller:
                continue
            lines.stop()
            waiter = lines.call()
            if waiter is None:
                lines.timer = asyncio.get_running_loop().call_later(lines.pause(), self.stir)
                continue
            self._lines[name] = self._lines.pop(name)  # the others' turn is before its next one
            waiter.signal.set()
            if lines.has_called():  # a task, which goes on later: it stirs when it has taken its place
                return
