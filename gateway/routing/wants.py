"""What of a request matters for the choice of who answers it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from msgspec import Raw

from gateway.inbound import Controls, Head
from gateway.keyring import Caller


class Wants(Protocol):
    """An `Exchange` is one; `explain` and simulations make their own."""

    @property
    def http(self) -> Head: ...
    @property
    def caller(self) -> Caller | None: ...
    @property
    def controls(self) -> Controls: ...
    @property
    def envelope(self) -> Mapping[str, Raw]:
        """The body, opened one level deep; empty where there is none."""

    @property
    def wants_stream(self) -> bool: ...
