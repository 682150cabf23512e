"""What a reading of the configuration looked at: by path, a digest of what was there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeAlias

Seen: TypeAlias = dict[str, str]
"""Path -> digest: of a file's content, of the names in a `models/` folder, empty where there is nothing to read."""

SUFFIXES = frozenset({".yaml", ".yml"})
_MOST_BYTES = 64 << 20
"""Of a file; what has more is none of ours, or a device that never ends."""


def content_of(path: Path) -> bytes:
    """What the file has. Raises `OSError`, and `ValueError` for a name that no file can have and for more than 64 MiB."""
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES >> 20} MiB")
    return content


def digest_of(content: bytes) -> str:
    """Of what a file says."""
    return hashlib.sha256(content).hexdigest()


def models_in(folder: Path) -> list[Path]:
    """The files of a `models/` folder that are read, in the order of their names; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES and file.is_file()]


def is_read_once(path: Path) -> bool:
    """A pipe (`--config <(…)`) or a terminal: whoever reads it again finds nothing, or waits."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError:
        return False


def digest_of_file(path: Path) -> str:
    """Of what is at this path now; as `Seen` has it."""
    try:
        if path.is_dir():
            names = "\0".join(file.name for file in models_in(path))
            return digest_of(names.encode()) if names else ""
        return digest_of(content_of(path))
    except (OSError, ValueError):
        return ""
