"""Each row of the requirements' parts A to E, and each decision of 1.L, has a test or is among what comes later.

A test says what it shows by `@pytest.mark.rows("A1", …)`, here or where it always was. The requirements are read where they
are; in a lone clone there is nothing to read, and the marks still have to be of rows that can be.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.seeds.documents import REQUIREMENTS
from tests.seeds.later import LATER

_TESTS = Path(__file__).parents[1]
_ROW = re.compile(r"(?m)^\| ([A-D]\d+) \|")
_REASONS = {"alerts", "batch", "caching", "deployment files", "front doors", "page", "telemetry", "tenants"}


def _marked() -> dict[str, list[str]]:
    """Row -> the tests that show it, read from their source: what runs today is no matter."""
    found: dict[str, list[str]] = {}
    for path in sorted(_TESTS.rglob("test_*.py")):
        if "mark.rows(" not in path.read_text():
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for row in (row for decorator in node.decorator_list for row in _rows(decorator)):
                    found.setdefault(row, []).append(f"{path.relative_to(_TESTS)}::{node.name}")
    return found


def _rows(decorator: ast.expr) -> list[str]:
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rows":
        return [ast.literal_eval(argument) for argument in decorator.args]
    return []


def _demanded() -> set[str]:
    """The rows that there are, E for the list of providers and models; none in a lone clone."""
    if not REQUIREMENTS.exists():
        return set()
    text = REQUIREMENTS.read_text()
    decisions = text.partition("## 1.L ")[2].partition("\n## ")[0]
    return {
        *_ROW.findall(text),
        *(["E"] if "\n## 1.E " in text else []),
        *(f"L{number}" for number in re.findall(r"(?m)^(\d+)\. ", decisions)),
    }


def test_every_row_has_a_test_or_comes_later() -> None:
    """No row is forgotten, and none is said to come later although it has a test."""
    marked = _marked()
    assert set(marked) & set(LATER) == set()
    if demanded := _demanded():
        assert sorted(demanded - set(marked) - set(LATER)) == []
        assert sorted((set(marked) | set(LATER)) - demanded) == []


def test_the_rows_are_written_as_rows() -> None:
    """Each mark and each entry of the table has the shape of a row, and each entry says what it waits for."""
    for row in (*_marked(), *LATER):
        assert re.fullmatch(r"[A-DL][1-9]\d?|E", row), row
    assert {reason.partition(":")[0] for reason in LATER.values()} <= _REASONS
