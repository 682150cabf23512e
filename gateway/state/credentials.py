"""A named credential as it is kept: what several models need to reach one provider, each value sealed for its place.

A value is bound to the row's id and to its own name, so neither can be exchanged for another. The name of the credential may
change without anything being sealed anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from gateway.state.sealing import Sealer

PURPOSE = "credentials"


class CredentialRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One named credential. `values` are sealed texts by their names (`api_key`, `api_base` …); `version` counts changes."""

    id: str
    name: str
    version: int = 1
    values: dict[str, str] = {}
    info: dict[str, Any] = {}
    """What its owner says of it; not secret, kept and shown as it came."""
    created_at: float = 0.0
    updated_at: float = 0.0
    created_by: str = ""
    updated_by: str = ""


def sealed(sealer: Sealer, row: str, values: Mapping[str, str]) -> dict[str, str]:
    """`values` for the row with this id. Raises `CannotSeal`."""
    return {name: sealer.seal(PURPOSE, row, name, text) for name, text in values.items()}


def opened(sealer: Sealer, row: CredentialRow) -> dict[str, str]:
    """The row's values, in clear. Raises `CannotSeal`, `WrongKey`, `CannotOpen`."""
    return {name: sealer.unseal(PURPOSE, row.id, name, text) for name, text in row.values.items()}
