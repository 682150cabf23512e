"""Who answered which conversation: a bounded memory that forgets.

`gateway.routing.affinity` says what a conversation is known by, and what follows from it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

_HOLDERS = 4
"""Deployments that are remembered for one conversation, or for one beginning of many."""


class Conversations:
    """Which deployments answered what; what was used longest ago is forgotten first. It outlives the configuration."""

    def __init__(self, most: int = 20_000) -> None:
        self._most = most
        self._known: OrderedDict[Hashable, tuple[float, tuple[str, ...]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def holders(self, name: Hashable, now: float) -> tuple[str, ...]:
        """The ids of those who have it, the latest first."""
        found = self._known.get(name)
        if found is None:
            return ()
        until, holders = found
        if until <= now:
            del self._known[name]
            return ()
        return holders

    def keep(self, name: Hashable, deployment_id: str, now: float, seconds: float) -> None:
        """Deployment `deployment_id` has it now, for so many seconds."""
        others = [other for other in self.holders(name, now) if other != deployment_id]
        self._known[name] = (now + seconds, (deployment_id, *others[: _HOLDERS - 1]))
        self._known.move_to_end(name)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
