"""Sealed texts: what opens them, and what does not."""

from __future__ import annotations

import base64
import hashlib
import os
import sys

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from nacl.secret import SecretBox

from gateway.state.sealing import CannotOpen, CannotSeal, Sealer, WrongKey

SALT = "salz.8fQ2mZ"
PLACE = ("credentials", "row-1", "api_key")
TEXT = "sk-geheim-4711"


def of_litellm(text: str, salt: str = SALT) -> dict[str, str]:
    """The text as LiteLLM writes it, made with the libraries that it uses."""
    key = hashlib.sha256(salt.encode()).digest()
    nonce = os.urandom(12)
    boxed = bytes(SecretBox(key).encrypt(text.encode()))
    gcm = nonce + AESGCM(key).encrypt(nonce, text.encode(), None)
    return {
        "nacl": base64.urlsafe_b64encode(boxed).decode(),
        "nacl, the other alphabet": base64.b64encode(boxed).decode(),
        "gcm": "v2:gcm:" + base64.urlsafe_b64encode(gcm).decode(),
    }


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens(text: str) -> None:
    """Any text comes back as it was, and never looks the same twice."""
    sealer = Sealer(SALT)
    one, other = sealer.seal(*PLACE, text), sealer.seal(*PLACE, text)
    assert one != other
    assert one.startswith(f"v1:{sealer.key_id}:")
    assert sealer.is_current(one)
    assert [Sealer(SALT).unseal(*PLACE, sealed) for sealed in (one, other)] == [text, text]


@pytest.mark.parametrize(
    "place",
    [
        ("credentials", "row-2", "api_key"),
        ("credentials", "row-1", "api_base"),
        ("tokens", "row-1", "api_key"),
        ("credentials", 'row-1","api_key', ""),
    ],
)
def test_another_place(place: tuple[str, str, str]) -> None:
    """A sealed text that was moved to another row, column or purpose does not open, and it is not the key's fault."""
    sealed = Sealer(SALT).seal(*PLACE, TEXT)
    with pytest.raises(CannotOpen, match="another row") as failed:
        Sealer(SALT).unseal(*place, sealed)
    assert not isinstance(failed.value, WrongKey)


def test_every_changed_byte_is_noticed() -> None:
    """Whichever byte of nonce, ciphertext or tag is another one, or missing, nothing opens."""
    sealer = Sealer(SALT)
    head, _, data = sealer.seal(*PLACE, TEXT).rpartition(":")
    raw = base64.urlsafe_b64decode(data)
    broken = [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in range(len(raw))]
    broken += [raw[:-1], raw[:12], raw[:5], raw + b"\0"]
    for bytes_ in broken:
        with pytest.raises(CannotOpen, match="was changed"):
            sealer.unseal(*PLACE, f"{head}:{base64.urlsafe_b64encode(bytes_).decode()}")


@pytest.mark.parametrize(
    "damaged", ["v1:", "v1:x", "v1:00000000:", "v1:0000:AAAA", "v1:00000000:!", "v1::AAAA"]
)
def test_what_is_no_sealed_text(damaged: str) -> None:
    """A damaged head is told as that."""
    with pytest.raises(CannotOpen, match="damaged"):
        Sealer(SALT).unseal(*PLACE, damaged)


def test_another_key() -> None:
    """Another key is told by its id, before anything is decrypted, and neither text nor key is in the message."""
    sealed = Sealer(SALT).seal(*PLACE, TEXT)
    other = Sealer("ein.anderes.Salz")
    with pytest.raises(WrongKey) as failed:
        other.unseal(*PLACE, sealed)
    assert Sealer(SALT).key_id in str(failed.value)
    assert other.key_id in str(failed.value)
    assert not any(secret in str(failed.value) for secret in (SALT, TEXT, "Salz"))


def test_litellms_formats_open() -> None:
    """What LiteLLM has sealed opens in both its formats and both alphabets, whatever the row."""
    for text in (TEXT, "", "ä€😀" * 50):
        for name, sealed in of_litellm(text).items():
            assert Sealer(SALT).unseal("any", "row", "column", sealed) == text, name
            assert not Sealer(SALT).is_current(sealed)


def test_litellms_formats_with_another_key_or_changed() -> None:
    """They have no key id: a wrong key and a changed text look alike, and both are told."""
    for sealed in of_litellm(TEXT).values():
        with pytest.raises(WrongKey, match="another one, or it was changed"):
            Sealer("ein.anderes.Salz").unseal(*PLACE, sealed)
    for sealed in ("v2:gcm:", "v2:gcm:AAAA", "", "nicht base64", "AAAA", "é" * 60):
        with pytest.raises(WrongKey):
            Sealer(SALT).unseal(*PLACE, sealed)


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key(key: str | None) -> None:
    """Nothing is sealed with an empty key: the error names the variable."""
    sealer = Sealer(key)
    assert not sealer
    with pytest.raises(CannotSeal, match="set LITELLM_SALT_KEY"):
        sealer.seal(*PLACE, TEXT)
    with pytest.raises(CannotSeal, match="set LITELLM_SALT_KEY"):
        sealer.unseal(*PLACE, "v1:00000000:AAAA")


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them the error names the extra that installs them."""
    sealed, theirs = Sealer(SALT).seal(*PLACE, TEXT), of_litellm(TEXT)
    for module in (
        "cryptography.exceptions",
        "cryptography.hazmat.primitives.ciphers.aead",
        "nacl.secret",
    ):
        monkeypatch.setitem(sys.modules, module, None)
    told = r"pip install 'penstock\[sealing\]'"
    with pytest.raises(CannotSeal, match=told):
        Sealer(SALT).seal(*PLACE, TEXT)
    for text in (sealed, *theirs.values()):
        with pytest.raises(CannotSeal, match=told):
            Sealer(SALT).unseal(*PLACE, text)


def test_a_sealer_does_not_show_its_key() -> None:
    """Neither its representation nor its key id has anything of the key."""
    assert SALT not in repr(Sealer(SALT))
    assert Sealer(SALT).key_id not in SALT
