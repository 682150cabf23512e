"""Twin of gateway/config/credentials.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.load import Loaded, load
from gateway.config.model import Secret
from gateway.config.problems import ConfigInvalid


def loaded(folder: Path, written: Any, *, strict: bool = False, **environ: str) -> Loaded:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"credential_list": written}, sort_keys=False))
    return load(path, environ, strict=strict)


def test_a_list(tmp_path: Path) -> None:
    """Each item has a name, values out of the environment or as they stand, and what there is to say of it."""
    written = [
        {
            "credential_name": "our-azure",
            "credential_values": {
                "api_key": "os.environ/AZ",
                "api_base": "https://x.example",
                "tenant_id": "t",
            },
            "credential_info": {"description": "production"},
        },
        {"credential_name": "bare", "credential_values": {"vertex_credentials": '{"a":\n1}'}},
    ]
    first, second = loaded(tmp_path, written, strict=True, AZ="sk-geheim-az").config.credentials
    assert first.name == "our-azure"
    assert first.values == {
        "api_key": Secret("sk-geheim-az"),
        "api_base": Secret("https://x.example"),
        "tenant_id": Secret("t"),
    }
    assert (first.info, first.unset, first.place.line) == ({"description": "production"}, (), 2)
    assert second.values == {"vertex_credentials": Secret('{"a":\n1}')}
    assert "geheim" not in repr(first)


def test_a_variable_that_is_not_set(tmp_path: Path) -> None:
    """It is remembered, because whatever names the credential must not be served then."""
    written = [{"credential_name": "a", "credential_values": {"api_key": "os.environ/NOWHERE"}}]
    told = loaded(tmp_path, written)
    (credential,) = told.config.credentials
    assert (credential.values, credential.unset) == ({}, ("NOWHERE",))
    assert any("NOWHERE is not set" in problem.message for problem in told.notices)


@pytest.mark.parametrize("written", [None, []])
def test_nothing(tmp_path: Path, written: Any) -> None:
    """An empty list is none."""
    assert loaded(tmp_path, written).config.credentials == ()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("a", "must be a list of credentials"),
        (["a"], "must be a mapping with credential_name"),
        ([{"credential_values": {}}], "must be a mapping with credential_name"),
        ([{"credential_name": "", "credential_values": {}}], "credential_name has no value"),
        ([{"credential_name": "a"}], "credential_values must be a mapping"),
        ([{"credential_name": "a", "credential_values": ["geheim"]}], "credential_values must be a mapping"),
        ([{"credential_name": "a", "credential_values": {"api_base": "geheim"}}], "must begin with http://"),
        ([{"credential_name": "a", "credential_values": {}}] * 2, 'the name "a" is taken already'),
        ([{"credential_name": "a", "credential_values": {}, "values": 1}], 'unknown key "values"'),
        (
            [{"credential_name": "a", "credential_values": {"api_kye": "geheim"}}],
            'no credential says "api_kye"',
        ),
    ],
)
def test_mistakes(tmp_path: Path, written: Any, told: str) -> None:
    """A mistake is told with its line and without what may be a key."""
    with pytest.raises(ConfigInvalid) as refused:
        loaded(tmp_path, written, strict=True)
    problems = "\n".join(map(str, refused.value.problems))
    assert told in problems
    assert "config.yaml:" in problems
    assert "geheim" not in problems
