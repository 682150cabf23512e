"""Who holds which key."""

from __future__ import annotations

import pytest

from adapters.errors import Unauthorized
from gateway.config.model import Secret
from gateway.keyring import ANONYMOUS, MASTER, InvalidKey, Keyring


def test_without_a_master_key_everybody_is_anonymous() -> None:
    """An open gateway asks nobody for a key, whatever key is shown."""
    keyring = Keyring(None)
    assert keyring.is_open
    assert keyring.identify(None) is ANONYMOUS
    assert keyring.identify("anything") is ANONYMOUS
    assert not ANONYMOUS.is_admin


@pytest.mark.parametrize("key", ["dev-key", "sk-1234", "ключ", "x"])
def test_any_text_may_be_the_master_key(key: str) -> None:
    """The master key needs no form; it makes an administrator, of whose key nothing is kept, not even a digest."""
    caller = Keyring(Secret(key)).identify(key)
    assert caller is MASTER
    assert caller.is_admin
    assert caller.digest == "litellm_proxy_master_key"


def test_no_key_and_a_wrong_key_are_refused() -> None:
    """What is missing and what is wrong are told apart, with LiteLLM's types."""
    keyring = Keyring(Secret("right"))
    with pytest.raises(Unauthorized) as missing:
        keyring.identify(None)
    with pytest.raises(InvalidKey) as wrong:
        keyring.identify("wrong")
    assert missing.value.type == "auth_error"
    assert (wrong.value.type, wrong.value.param) == ("token_not_found_in_db", "key")
