"""Everything that follows from a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.compiled import Compiled, compile_config, secrets_of, with_stored
from gateway.config.environment import read_environment
from gateway.config.model import Secret
from gateway.config.problems import ConfigInvalid
from gateway.config.source import Source
from gateway.logs import scrub
from gateway.named_credentials import NOT_ASKED, Credentials
from gateway.pricing import PriceTable


def compiled(folder: Path, **content: object) -> Compiled:
    """Of a file with this content."""
    (folder / "config.yaml").write_text(json.dumps(content))
    written = Source(folder / "config.yaml", {}).read()
    return compile_config(written.config, written.environ, PriceTable.load(), NOT_ASKED)


def test_what_is_made(tmp_path: Path) -> None:
    """Routes, keys, limits, the size of bodies and the names for metrics come of one file, and logs know its keys."""
    params = {"model": "openai/gpt-4o", "api_key": "wq-compiled-86420"}
    made = compiled(
        tmp_path,
        model_list=[{"model_name": "mine", "litellm_params": params}],
        general_settings={"rpm_limit": 5, "max_request_size_mb": 2},
        virtual_keys=[{"key": "sk-qz4virtual-0001", "key_alias": "first"}],
    )
    assert [route.name for route in made.routes.configured()] == ["mine"]
    assert [key.alias for key in made.keys] == ["first"]
    assert (made.limits.rpm, made.body_limit) == (5, 2 * 1024 * 1024)
    assert set(made.labels) == {"mine", "gpt-4o"}
    assert "86420" not in scrub("wq-compiled-86420")


def test_what_cannot_be_made(tmp_path: Path) -> None:
    """Virtual keys that contradict each other are refused with their lines."""
    with pytest.raises(ConfigInvalid, match="twice"):
        compiled(tmp_path, virtual_keys=[{"key": "sk-qz4virtual-0002"}, {"key": "sk-qz4virtual-0002"}])


def test_credentials_that_come_late(tmp_path: Path) -> None:
    """The same configuration serves what its named credentials make possible."""
    params = {"model": "openai/gpt-4o", "litellm_credential_name": "ours"}
    made = compiled(tmp_path, model_list=[{"model_name": "mine", "litellm_params": params}])
    assert made.routes.find("mine") is None
    later = with_stored(made, Credentials(values={"ours": {"api_key": Secret("wq-stored-97531")}}))
    assert later.routes.find("mine") is not None
    assert "97531" not in scrub("wq-stored-97531")


def test_secrets_of_what_was_written(tmp_path: Path) -> None:
    """Master key, salt key, the database's address and a long password in it are secrets before anything is opened."""
    made = compiled(
        tmp_path,
        general_settings={
            "master_key": "sk-qz4master-0001",
            "database_url": "postgresql://u:wq-password-24680@localhost/db",
        },
    )
    environment = read_environment({"LITELLM_SALT_KEY": "sk-qz4salt-0001"})
    assert set(secrets_of(made.config, environment)) == {
        "sk-qz4salt-0001",
        "sk-qz4master-0001",
        "postgresql://u:wq-password-24680@localhost/db",
        "wq-password-24680",
    }
