"""What of a request matters for its choice."""

from __future__ import annotations

from gateway.exchange import Exchange
from gateway.routing.wants import Wants


def test_an_exchange_is_one() -> None:
    """All that a choice asks of a request, an exchange has."""
    wanted = {name for name in vars(Wants) if not name.startswith("_")}
    assert wanted
    assert wanted <= set(Exchange.__struct_fields__)
