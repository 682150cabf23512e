"""Sealing: what a store must be able to give back, and what nobody may read who only holds the store.

Keys that callers present are kept as digests. A provider's key has to be sent again, so it is encrypted, with a key that is
never in the store: `LITELLM_SALT_KEY`, else the master key. A sealed text is

    v1:<key id>:<base64url of nonce and ciphertext>

AES-256-GCM-SIV with a random nonce; it stays safe even if a nonce comes twice. Each purpose has a key of its own (HKDF-SHA256),
so that nothing sealed for one can be opened as another. Purpose, row and column are authenticated with the text: moved to
another row, a sealed text is no longer one. The key id tells a wrong key from a broken text before anything is decrypted.

LiteLLM's two formats are read, never written: NaCl's SecretBox in base64, and `v2:gcm:` with AES-256-GCM. Both use the SHA-256
of the salt key, know no rows and have no key id; where one cannot be opened, a wrong key is the likely reason.

Both libraries come with the extra `sealing`, and are imported when something is sealed or opened for the first time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Callable
from typing import Protocol

import msgspec

from adapters.errors import GatewayError

NAME = "LITELLM_SALT_KEY"
_VERSION = "v1"
_GCM = "v2:gcm:"
_NONCE = 12
_SEALED = re.compile(r"v1:[0-9a-f]{8}:[A-Za-z0-9_-]+={0,2}")


class CannotSeal(GatewayError):
    """Nothing can be sealed or opened here: there is no key, or the libraries are not installed."""

    status, type, reason = 500, "server_error", "sealing_unavailable"


class CannotOpen(Exception):
    """A sealed text that does not open: it was changed, or belongs to another row."""


class WrongKey(CannotOpen):
    """A text that was sealed with another key."""


class _Aead(Protocol):
    """What the ciphers have in common."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class Sealer:
    """Seals and opens with `key`, any text; None or an empty one: every call raises `CannotSeal`."""

    __slots__ = ("_key", "_own", "key_id")

    def __init__(self, key: str | None) -> None:
        self._key = (key or "").encode()
        self._own: dict[str, bytes] = {}
        """The key of each purpose."""
        self.key_id = hmac.digest(self._key, b"penstock key id", "sha256").hex()[:8]
        """Which key it is, in eight characters that do not give it away."""

    def __bool__(self) -> bool:
        return bool(self._key)

    def seal(self, purpose: str, row: str, column: str, text: str) -> str:
        """The text, sealed for this place. Raises `CannotSeal`."""
        nonce = os.urandom(_NONCE)
        sealed = self._cipher(purpose).encrypt(nonce, text.encode(), _place(purpose, row, column))
        return f"{_VERSION}:{self.key_id}:{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def unseal(self, purpose: str, row: str, column: str, sealed: str) -> str:
        """The text that was sealed for this place, or by LiteLLM. Raises `CannotSeal`, `WrongKey`, `CannotOpen`."""
        self._check_key()
        if not sealed.startswith(f"{_VERSION}:"):
            return self._of_litellm(sealed)
        if not _SEALED.fullmatch(sealed):
            raise CannotOpen("a sealed text is damaged")
        _, key_id, data = sealed.split(":")
        if key_id != self.key_id:
            raise WrongKey(f"a sealed text belongs to the key {key_id}, and {NAME} is {self.key_id}")
        cipher = self._cipher(purpose)
        return _opened(
            lambda raw: cipher.decrypt(raw[:_NONCE], raw[_NONCE:], _place(purpose, row, column)),
            data,
            CannotOpen("a sealed text was changed, or it belongs to another row"),
        )

    def is_current(self, sealed: str) -> bool:
        """It is in our format, and sealed with this key."""
        return sealed.startswith(f"{_VERSION}:{self.key_id}:")

    def _check_key(self) -> None:
        if not self._key:
            raise CannotSeal(f"nothing can be sealed: set {NAME}, or a master key")

    def _cipher(self, purpose: str) -> _Aead:
        self._check_key()
        try:
            from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - 20 ms, for those who seal
            from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV  # noqa: PLC0415 - as above
            from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - as above
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415 - as above
        except ModuleNotFoundError:
            raise CannotSeal(_NOT_INSTALLED) from None
        if purpose not in self._own:
            told = f"penstock sealing {_VERSION} {purpose}".encode()
            self._own[purpose] = HKDF(SHA256(), 32, None, told).derive(self._key)
        try:
            return AESGCMSIV(self._own[purpose])
        except UnsupportedAlgorithm:
            raise CannotSeal("this build of cryptography has no AES-GCM-SIV; OpenSSL 3.2 has it") from None

    def _of_litellm(self, sealed: str) -> str:
        key = hashlib.sha256(self._key).digest()
        wrong = WrongKey(
            f"a text in LiteLLM's format does not open: {NAME} is another one, or it was changed"
        )
        try:
            if sealed.startswith(_GCM):
                from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - as above

                cipher = AESGCM(key)
                return _opened(
                    lambda raw: cipher.decrypt(raw[:_NONCE], raw[_NONCE:], None), sealed[len(_GCM) :], wrong
                )
            from nacl.secret import SecretBox  # noqa: PLC0415 - for those who come from LiteLLM

            return _opened(SecretBox(key).decrypt, sealed, wrong)
        except ModuleNotFoundError:
            raise CannotSeal(_NOT_INSTALLED) from None


_NOT_INSTALLED = "sealed texts need packages that are not installed: pip install 'penstock[sealing]'"


def _place(purpose: str, row: str, column: str) -> bytes:
    """As JSON, so that no two places read alike."""
    return msgspec.json.encode((purpose, row, column))


def _opened(open_: Callable[[bytes], bytes], data: str, failure: CannotOpen) -> str:
    """Base64 in either alphabet, as LiteLLM has written both."""
    try:
        raw = base64.b64decode(data.replace("-", "+").replace("_", "/"), validate=True)
        return open_(raw).decode()
    except Exception:  # InvalidTag, CryptoError, ValueError: their text may show what they saw
        raise failure from None
