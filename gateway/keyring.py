"""Who holds which key.

The gateway keeps digests, never keys: a presented key is digested and looked up, so that a comparison takes the same
time whether the key is nearly right or quite wrong. The master key is one entry among others; virtual keys will be more.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal

from msgspec import Struct

from adapters.errors import Unauthorized
from gateway.config.model import Secret
from gateway.state.keys import KeyRow


class Caller(Struct, frozen=True, eq=False):
    """Who asks. `digest` is the SHA-256 of a virtual key in hex, None for the anonymous."""

    kind: Literal["anonymous", "master", "key"]
    digest: str | None = None
    alias: str | None = None
    key: KeyRow | None = None
    """The virtual key, with what it may and how much."""

    @property
    def is_admin(self) -> bool:
        """May it manage the gateway?"""
        return self.kind == "master"


ANONYMOUS = Caller("anonymous")
MASTER = Caller("master", "litellm_proxy_master_key", "litellm_proxy_master_key")
"""Its digest is a word, LiteLLM's: people choose weak master keys, and a real one would let them be guessed offline from a
metric or a row."""


class Keyring:
    """All keys that mean something. Without a master key the gateway is open: whoever asks is anonymous."""

    def __init__(self, master_key: Secret | None) -> None:
        self._master = _digest(master_key.reveal()) if master_key else None
        self.version = 0
        """Another number after each change: who remembers a caller asks again then."""

    @property
    def is_open(self) -> bool:
        """Nobody needs a key."""
        return self._master is None

    def identify(self, key: str | None) -> Caller:
        """The caller behind a key. Raises `Unauthorized` where one is needed and this is none."""
        if self._master is None:
            return ANONYMOUS
        if key is None:
            raise Unauthorized("Authentication Error, No api key passed in.")
        digest = _digest(key)
        if hmac.compare_digest(digest, self._master):
            return MASTER
        raise InvalidKey("Authentication Error, Invalid API key provided.", param="key")


class InvalidKey(Unauthorized):
    """A key that nobody issued."""

    type, reason = "token_not_found_in_db", "invalid_key"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
