"""What Redis is still to be told, and must count once: what requests really took, and what was spent without a take.

It leaves in batches with numbers that rise. One whose answer did not come is sent again as it was, under its number, and Redis does
each number of a process once.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from gateway.state.redis_calls import Step, Word, amount_word, microseconds
from gateway.state.shared import Taken, Ticket

BATCH = 200
"""Settlements per batch."""

Settlement: TypeAlias = tuple[str, str, str, Word, Word, Word, Word]
"""Key, kind, mark, when taken, amount taken, real amount, span in us or holder."""


class Settlements:
    """Those of one process, whose own record in Redis is `process`; `key_of` names a counter by its kind and name."""

    __slots__ = ("_charges", "_key_of", "_process", "_unconfirmed", "_waiting", "last_batch")

    def __init__(self, process: str, key_of: Callable[[str, str], str]) -> None:
        self._process = process
        self._key_of = key_of
        self._waiting: deque[Settlement] = deque()
        self._charges: defaultdict[str, int] = defaultdict(int)
        self._unconfirmed: list[Settlement] = []
        self.last_batch = 0
        """The number of the newest batch."""

    def __len__(self) -> int:
        """How many are in no batch yet."""
        return len(self._waiting) + len(self._charges)

    def __bool__(self) -> bool:
        """Whether there is anything to be told."""
        return bool(self._unconfirmed or self._waiting or self._charges)

    def of(self, ticket: Ticket, taken: Taken, mark: str, when: int | str, real: int) -> Settlement:
        """What was taken `when` under this mark came to `real`."""
        last = ticket.id if taken.kind == "slots" else microseconds(taken.seconds)
        amounts = amount_word(taken.amount), amount_word(real)
        return self._key_of(taken.kind, taken.name), taken.kind, mark, when, *amounts, last

    def add(self, settlements: Iterable[Settlement]) -> None:
        """Tell these; all that one take took together."""
        self._waiting.extend(settlements)

    def charge(self, name: str, amount: int) -> None:
        """So much was spent of the budget without a take. Summed up, so that an outage may last."""
        self._charges[name] += amount

    def step(self) -> Step | None:
        """The next batch, or once more the one that was not confirmed; None if there is nothing to tell."""
        if not self:
            return None
        if not self._unconfirmed:
            self.last_batch += 1
            self._unconfirmed = list(self._some())
        keys = [self._process, *(settlement[0] for settlement in self._unconfirmed)]
        words = (word for settlement in self._unconfirmed for word in settlement[1:])
        return Step(keys, ["settle", self.last_batch, *words])

    def confirmed(self) -> None:
        """Redis has done the batch."""
        self._unconfirmed = []

    def _some(self) -> Iterator[Settlement]:
        """A batch; what one take took is never split, because its mark goes when it is settled."""
        number, mark = 0, ""
        while self._waiting and (number < BATCH or self._waiting[0][2] == mark):
            settlement = self._waiting.popleft()
            mark = settlement[2]
            number += 1
            yield settlement
        while self._charges and number < BATCH:
            name, amount = self._charges.popitem()
            number += 1
            yield self._key_of("budget", name), "budget", "", 0, 0, amount_word(amount), 0
