"""A row's values are bound to it and to their names."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.state.credentials import CredentialRow, opened, sealed
from gateway.state.sealing import CannotOpen, Sealer

SEALER = Sealer("salz.Qw8Tz1")
VALUES = {"api_key": "sk-geheim-1", "api_base": "https://a.example/v1"}
ROW = CredentialRow(id="1", name="a", values=sealed(SEALER, "1", VALUES))


def test_round_trip() -> None:
    """What was sealed for a row opens in it, also when it has got another name."""
    assert opened(SEALER, ROW) == VALUES
    assert opened(SEALER, replace(ROW, name="b", version=2)) == VALUES


def test_values_stay_where_they_are() -> None:
    """A value in the place of another one, or in another row, does not open."""
    exchanged = {"api_key": ROW.values["api_base"], "api_base": ROW.values["api_key"]}
    for moved in (replace(ROW, values=exchanged), replace(ROW, id="2")):
        with pytest.raises(CannotOpen):
            opened(SEALER, moved)
