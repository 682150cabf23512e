"""Which project credentials belong to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.config.google import project_of


@pytest.mark.parametrize(
    ("said", "project"),
    [
        ({"type": "service_account", "project_id": "a"}, "a"),
        ({"type": "authorized_user", "quota_project_id": "b"}, "b"),
        ({"type": "external_account"}, ""),
        ({"project_id": 5}, ""),
        ([], ""),
    ],
)
def test_the_project_that_is_named(said: object, project: str, tmp_path: Path) -> None:
    """By JSON text, by a file's path, and by gcloud's own file where nothing else is named."""
    text = json.dumps(said)
    file = tmp_path / "application_default_credentials.json"
    file.write_text(text)
    assert project_of(str(file), {}) == project
    assert project_of("", {"CLOUDSDK_CONFIG": str(tmp_path)}) == project
    if isinstance(said, dict):
        assert project_of(text, {}) == project


def test_gclouds_file_is_at_home(tmp_path: Path) -> None:
    """Below `.config/gcloud`, as gcloud writes it."""
    folder = tmp_path / ".config" / "gcloud"
    folder.mkdir(parents=True)
    (folder / "application_default_credentials.json").write_text('{"quota_project_id":"mine"}')
    assert project_of("", {"HOME": str(tmp_path)}) == "mine"


@pytest.mark.parametrize("credentials", ["/nowhere/at/all.json", "{broken", ""])
def test_what_cannot_be_read(credentials: str, tmp_path: Path) -> None:
    """It names none."""
    assert project_of(credentials, {"HOME": str(tmp_path)}) == ""
