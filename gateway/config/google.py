"""Which Google Cloud project a set of credentials belongs to, for deployments on Vertex AI that name none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def project_of(credentials: str, environ: Mapping[str, str]) -> str:
    """The project that credentials name; empty if they name none or cannot be read.

    `credentials` is a file's path or its JSON text. Without it gcloud's own file is looked at, as
    https://cloud.google.com/docs/authentication/application-default-credentials says.
    """
    try:
        text = (
            credentials if credentials.lstrip().startswith("{") else _file(credentials, environ).read_text()
        )
        said = json.loads(text)
    except (OSError, ValueError, RuntimeError):  # the last: there is no home
        return ""
    if not isinstance(said, dict):
        return ""
    named = said.get("project_id") or said.get("quota_project_id")
    return named if isinstance(named, str) else ""


def _file(path: str, environ: Mapping[str, str]) -> Path:
    if path:
        return Path(path).expanduser()
    folder = (
        environ.get("CLOUDSDK_CONFIG") or Path(environ.get("HOME") or "~").expanduser() / ".config/gcloud"
    )
    return Path(folder) / "application_default_credentials.json"
