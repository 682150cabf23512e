"""The documents of deployments that the gateway must run as they are written, and what can be run of them.

Each document is a README of somebody's LiteLLM: configurations, variables and commands between fences, under headings. They
are found in the folder that `SEEDS` names, `../shared/seeds` by default, and nothing of them is copied: a test asks for a block
by its document, its heading and its language. In `own/` stand five documents of ours in the same shapes, with other models and
other values. All tests run over them too, so a lone clone misses none.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(os.environ.get("SEEDS") or Path(__file__).parents[3] / "shared" / "seeds")
OWN = Path(__file__).parent / "own"
REQUIREMENTS = FOLDER.parent / "REQUIREMENTS.md"
"""What the documents demand, row by row; `tests.seeds.test_rows` reads it where it is there."""

SECTIONS = frozenset(
    ["model_list", "router_settings", "litellm_settings", "general_settings", "llm_providers", "litellm"]
)
_ASSIGNMENTS = re.compile(r"(?m)^(?:export )?([A-Z][A-Z0-9_]*)=(.*)$")
_CURL = re.compile(r"(?m)^\s*(curl (?:\\\n|'[^']*'|[^\n'])*)")
_DOCKER = re.compile(r"(?m)^docker run (?:\\\n|[^\n])*")


@dataclass(frozen=True)
class Block:
    """A piece of a document between two fences."""

    name: str
    """The document and the line."""
    heading: str
    language: str
    text: str

    def __str__(self) -> str:
        return self.name

    @property
    def data(self) -> dict[str, Any]:
        """The block as YAML, which JSON is too; empty if it is none."""
        try:
            value = yaml.safe_load(self.text)
        except yaml.YAMLError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def is_configuration(self) -> bool:
        return bool(SECTIONS & self.data.keys())

    @property
    def environ(self) -> dict[str, str]:
        """Its variables: `NAME=value` of a shell, or of the services of a compose file."""
        services = self.data.get("services") or {}
        lines = [line for service in services.values() for line in service.get("environment", ())]
        text = "\n".join(lines) if services else self.text
        return {
            name: value.partition("#")[0].strip()
            for name, value in _ASSIGNMENTS.findall(text)
            if "<" not in value
        }

    @property
    def curls(self) -> list[str]:
        return [command.strip() for command in _CURL.findall(self.text)]

    @property
    def docker_runs(self) -> list[str]:
        return _DOCKER.findall(self.text)


@dataclass(frozen=True)
class Document:
    """One document: its whole text, and its blocks in their order."""

    text: str
    blocks: tuple[Block, ...]

    def block(self, language: str, heading: str, number: int = 0) -> Block:
        """A block of this language under a heading with these words, the first if `number` does not say otherwise."""
        return self.under(heading, language)[number]

    def under(self, heading: str, language: str = "") -> list[Block]:
        """All blocks under headings with these words."""
        return [
            block
            for block in self.blocks
            if heading.lower() in block.heading.lower() and block.language.startswith(language)
        ]


@dataclass(frozen=True)
class Shelf:
    """Five documents: of Railway (0), behind Traefik (1), of a blueprint (2), with everything (3), of a gateway (4)."""

    name: str
    documents: tuple[Document, ...]

    def __getitem__(self, number: int) -> Document:
        return self.documents[number]

    @property
    def blocks(self) -> list[Block]:
        return [block for document in self.documents for block in document.blocks]

    @property
    def curls(self) -> list[str]:
        return [curl for block in self.blocks for curl in block.curls]


def shelves() -> list[Shelf]:
    """Ours, and the one that `SEEDS` names if it is there."""
    folders = [folder for folder in (OWN, FOLDER) if folder.is_dir()]
    return [
        Shelf(folder.name, tuple(_read(path) for path in sorted(folder.iterdir()) if path.is_file()))
        for folder in folders
    ]


def _read(path: Path) -> Document:
    text = path.read_text(encoding="utf-8", errors="replace")
    return Document(text, tuple(_blocks(path.name, text)))


def _blocks(name: str, text: str) -> Iterator[Block]:
    heading, opened, lines = "", None, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.strip()
        if opened is not None:
            if words == "```":
                found = textwrap.dedent("\n".join(lines)) + "\n"
                yield Block(f"{name}:{opened[0]}", heading, opened[1], found)
                opened = None
            else:
                lines.append(line)
        elif words.startswith("```"):
            opened, lines = (number, words.removeprefix("```")), []
        elif line.startswith("#"):
            heading = line.lstrip("# ")


SHELVES = shelves()
CONFIGURATIONS = [block for shelf in SHELVES for block in shelf.blocks if block.is_configuration]
ENVIRONMENTS = [block for shelf in SHELVES for block in shelf.blocks if block.environ]
