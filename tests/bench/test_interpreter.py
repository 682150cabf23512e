"""Which interpreter `make setup` takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench import interpreter

HERE = Path(interpreter.__file__)


def _run(path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": path, "HOME": os.environ.get("HOME", "/")},
    )


def test_the_one_that_runs_stays_unless_another_is_clearly_faster() -> None:
    """A difference that may be noise changes nothing."""
    assert interpreter.best("a", {"a": 1.0}) == "a"
    assert interpreter.best("a", {"a": 1.0, "b": 0.9}) == "a"
    assert interpreter.best("a", {"a": 1.0, "b": 0.8, "c": 0.7}) == "c"
    assert interpreter.best("a", {"b": 2.0}) == "b"
    assert interpreter.best("a", {}) == "a"


def test_each_is_measured_by_itself() -> None:
    """The real path of an interpreter, whatever it is called by, and its seconds."""
    told = interpreter.measured(sys.executable)
    assert told is not None
    assert Path(told[0]).samefile(sys.executable)
    assert 0 < told[1] < 60


def test_what_does_not_run_is_passed_over(tmp_path: Path) -> None:
    """A shim of a version that is not there, and one that is too old, are no candidates."""
    broken = tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\necho 'not installed' >&2\nexit 127\n")
    broken.chmod(0o755)
    assert interpreter.measured(str(broken)) is None
    chosen = _run(str(tmp_path)).stdout.strip()
    assert Path(chosen).exists()
    assert chosen != str(broken)


def test_a_command_prints_one_path() -> None:
    """What the Makefile takes is a single line, an interpreter that runs."""
    lines = _run(os.environ["PATH"]).stdout.splitlines()
    assert len(lines) == 1
    assert subprocess.run([lines[0], "-c", ""], check=False).returncode == 0


def test_candidates_are_named_once() -> None:
    """Each path stands there once, and each exists."""
    found = interpreter.candidates()
    assert len(found) == len(set(found))
    assert all(Path(path).exists() for path in found)
