"""Real provider traffic to replay: the folder that `RECORDINGS` names, `../shared/recordings` by default.

The recordings are not part of this project. Where the folder is absent, `recordings()` is empty and the tests that are
made from it are not collected.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("RECORDINGS") or Path(__file__).parents[2] / "shared" / "recordings")


@dataclass(frozen=True)
class Recording:
    """One exchange: what was asked (if it was kept) and what the provider answered."""

    path: Path

    def __str__(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What is known of the exchange: `kind`, `model`, `status`, `stream`, `response_headers`, `features` …"""
        meta: dict[str, Any] = json.loads((self.path / "meta.json").read_bytes())
        return meta

    @property
    def provider(self) -> str:
        return self.path.parent.name

    @property
    def kind(self) -> str:
        return str(self.meta.get("kind") or self.path.name.split("-")[0])

    @property
    def status(self) -> int:
        return int(self.meta.get("status") or 200)

    @property
    def is_stream(self) -> bool:
        return bool(self.meta.get("stream"))

    @cached_property
    def request(self) -> bytes | None:
        """The request's JSON body, None where it was not kept."""
        file = self.path / "request.json"
        return file.read_bytes() if file.exists() else None

    @cached_property
    def response(self) -> bytes:
        for file in sorted(self.path.glob("response.*")):
            return file.read_bytes()
        raise FileNotFoundError(self.path)

    @property
    def response_kind(self) -> str:
        """`json`, `sse`, `ndjson` or `bin`."""
        for file in sorted(self.path.glob("response.*")):
            return file.suffix[1:]
        raise FileNotFoundError(self.path)


def recordings(*providers: str, kinds: tuple[str, ...] = ()) -> Iterator[Recording]:
    """All recordings of these providers (all, if none is named) and kinds (the first word of the folder's name)."""
    if not FOLDER.is_dir():
        return
    for folder in sorted(FOLDER.iterdir()):
        if folder.is_dir() and (not providers or folder.name in providers):
            for path in sorted(folder.iterdir()):
                if (path / "meta.json").exists() and (not kinds or path.name.split("-")[0] in kinds):
                    yield Recording(path)
