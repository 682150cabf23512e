"""The configurations in documents of real deployments load as they are written.

The folder is named by `SEEDS`, `../shared/seeds` by default; where it is absent nothing is collected.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gateway.config.load import load

FOLDER = Path(os.environ.get("SEEDS") or Path(__file__).parents[4] / "shared" / "seeds")
BLOCK = re.compile(r"^```(yaml|json)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONFIGURATION = re.compile(
    r"^\s*\"?(model_list|\w+_settings|llm_providers|litellm|services)\"?:", re.MULTILINE
)
ENVIRON = {"LITELLM_MASTER_KEY": "sk-your-master-key-here", "REDIS_HOST": "redis", "REDIS_PORT": "6379"}


def blocks() -> list[tuple[str, str, str]]:
    """(where, kind, text) of each block of configuration in the documents."""
    found = []
    for document in sorted(FOLDER.glob("*.txt")):
        text = document.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if CONFIGURATION.search(match.group(2)):
                line = text.count("\n", 0, match.start()) + 1
                found.append((f"{document.stem}:{line}", match.group(1), match.group(2)))
    return found


BLOCKS = blocks()
__test__ = bool(BLOCKS)


@pytest.mark.parametrize(
    ("kind", "text"), [block[1:] for block in BLOCKS], ids=[block[0] for block in BLOCKS]
)
def test_the_configurations_of_the_field_load(tmp_path: Path, kind: str, text: str) -> None:
    """Every block of configuration in the documents loads without an error."""
    path = tmp_path / f"config.{kind}"
    path.write_text(text, encoding="utf-8")
    loaded = load(path, ENVIRON)
    assert len(loaded.config.model_list) == _entries(text)


def _entries(text: str) -> int:
    """How many models a block names."""
    if "llm_providers" in text:
        return sum(len(re.findall(r'"[^"]+"', names)) for names in re.findall(r'"models": \[(.*?)\]', text))
    return len(re.findall(r"^\s*- model_name:.*\n\s+litellm_params:", text, re.MULTILINE))
