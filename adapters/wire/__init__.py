"""What each vendor's bytes look like: structs only."""

from __future__ import annotations

from typing import Any, TypeAlias

Count: TypeAlias = Any
"""What stands where a vendor counts something: mostly a whole number. `adapters.envelope.count_of` makes one of it."""

MOST = 10**10
"""What a greater count is cut to. It is more than any answer has of anything, and sums and bills of it fit into 64 bits."""
