"""Which of this machine's interpreters `make setup` takes.

A CPython that was built with profile-guided optimisation runs a request with a tenth to a fifth less CPU than one that was not, and its
first token comes 40 us earlier. What a version manager compiled by itself often was not, and no interpreter tells: so they are timed
in turns, for two seconds each. The one that runs this stays, unless another is clearly faster.

    python3 bench/interpreter.py    # prints the path of the one to take, and on stderr why

Run by any Python from 3.11 on, before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from statistics import median
from time import process_time

NAMES = ("python3", "python3.11", "python3.12", "python3.13", "python3.14")
FOLDERS = ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")
CLEARLY = 0.85
"""Of the time of the one that runs this: less is no noise."""
_ROUNDS = 9
_TURNS = 7
_MEASURE = "--measure"


class _Door:
    """What requests are made of: methods, attributes, dictionaries and bytes."""

    __slots__ = ("head", "known", "seen")

    def __init__(self) -> None:
        self.head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 640\r\n\r\n"
        self.known = {b"/v1/chat/completions": "chat"}
        self.seen = 0

    def answer(self, number: int) -> str:
        path = self.head[5:25]
        operation = self.known.get(path, "")
        self.seen += 1
        return self._line(operation, number)

    def _line(self, operation: str, number: int) -> str:
        fields = {"operation": operation, "number": number, "seen": self.seen}
        return f"{fields['operation']}: {fields['number']}\r\n"


def seconds() -> float:
    """Of CPU, for the same work in any interpreter: the quickest of several rounds."""
    return min(_round() for _ in range(_ROUNDS))


def _round() -> float:
    door = _Door()
    began = process_time()
    for number in range(10_000):
        door.answer(number)
    return process_time() - began


def candidates() -> list[str]:
    """Every interpreter by one of our names that can be found, each once."""
    found = [shutil.which(name) for name in NAMES]
    found += [shutil.which(name, path=folder) for folder in FOLDERS for name in NAMES]
    return list(dict.fromkeys(os.path.realpath(path) for path in found if path is not None))


def measured(path: str) -> tuple[str, float] | None:
    """Its real path, and its seconds; None if it does not run, is too old, or cannot make an environment."""
    asked = subprocess.run([path, __file__, _MEASURE], capture_output=True, text=True, check=False)
    if asked.returncode:
        return None
    real, took = asked.stdout.splitlines()
    return real, float(took)


def best(own: str, taken: Mapping[str, float]) -> str:
    """The one that takes the least time, if that is clearly less than what `own` takes, or `own` is none of them."""
    fastest = min(taken, key=taken.__getitem__, default=own)
    return fastest if own not in taken or taken[fastest] < CLEARLY * taken[own] else own


def _all_measured(paths: Iterable[str]) -> dict[str, float]:
    """How long each takes, as a multiple of the quickest: the median of several turns, for a machine may be slow for one of them."""
    # Several paths may lead to the same one.
    running = {found[0] for found in map(measured, paths) if found is not None}
    multiples: dict[str, list[float]] = {path: [] for path in running}
    for _ in range(_TURNS):
        turn = dict(found for found in map(measured, running) if found is not None)
        for path, took in turn.items():
            multiples[path].append(took / min(turn.values()))
    return {path: median(turns) for path, turns in multiples.items() if turns}


def main(arguments: list[str]) -> int:
    """The command's exit status."""
    if sys.version_info < (3, 11) or sys.implementation.name != "cpython":
        return 1
    if arguments == [_MEASURE]:
        import ensurepip  # noqa: F401, PLC0415 - some distributions leave it out, and `venv` needs it
        import venv  # noqa: F401, PLC0415 - as above

        print(f"{os.path.realpath(sys.executable)}\n{seconds()}")
        return 0
    own = os.path.realpath(sys.executable)
    taken = _all_measured([own, *candidates()])
    chosen = best(own, taken)
    if chosen != own:
        times = f"{taken[own] / taken[chosen]:.1f} times as fast as" if own in taken else "taken instead of"
        print(f"{chosen} is {times} {own} (make clean setup PYTHON=... chooses another)", file=sys.stderr)
    print(chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
