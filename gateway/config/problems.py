"""What is wrong with a configuration, told where it stands.

Reading goes on after a problem, so that one start shows all of them. Three degrees: an *error* keeps the gateway from
starting, a *warning* says that something will not do what its author expects, a *notice* says what was made of it.
What is a *doubt* (an unknown key, a name that leads nowhere) is an error for who checks and a warning for who serves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

from msgspec import Struct

from gateway.config.model import PROVIDER_KEY, Place

Severity = Literal["error", "warning", "notice"]


class Problem(Struct, frozen=True):
    """One line for a person: `config.yaml:8:7: unknown key "modle", did you mean "model"? (model_list[1])`."""

    place: Place
    path: str
    """Where in the document, `model_list[1].litellm_params`; empty at the top and outside of files."""
    message: str
    severity: Severity = "error"
    suggestion: str | None = None
    is_doubt: bool = False

    def __str__(self) -> str:
        hint = f', did you mean "{self.suggestion}"?' if self.suggestion else ""
        path = f" ({self.path})" if self.path else ""
        return f"{self.place}: {self.message}{hint}{path}"


class ConfigInvalid(Exception):
    """The configuration cannot be used: `problems` are the errors, `notices` what else was found."""

    def __init__(self, problems: tuple[Problem, ...], notices: tuple[Problem, ...] = ()) -> None:
        self.problems = problems
        self.notices = notices
        super().__init__("\n".join(map(str, problems)))


class Report:
    """Collects problems while reading goes on. `strict` makes errors of doubts.

    What a file says is in the quotes of a message and in its path. A key that stands there, where a name belongs, is not shown.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._found: dict[Problem, None] = {}
        self._doubt: Severity = "error" if strict else "warning"

    def error(self, place: Place, path: str, message: str, suggestion: str | None = None) -> None:
        self._add(place, path, message, "error", suggestion)

    def warning(self, place: Place, path: str, message: str, suggestion: str | None = None) -> None:
        self._add(place, path, message, "warning", suggestion)

    def notice(self, place: Place, path: str, message: str) -> None:
        self._add(place, path, message, "notice")

    def doubt(self, place: Place, path: str, message: str, suggestion: str | None = None) -> None:
        self._add(place, path, message, self._doubt, suggestion, is_doubt=True)

    def _add(
        self,
        place: Place,
        path: str,
        message: str,
        severity: Severity,
        suggestion: str | None = None,
        *,
        is_doubt: bool = False,
    ) -> None:
        told = _QUOTED.sub(lambda quoted: hidden(quoted[0]), message)
        self._found[Problem(place, hidden(path), told, severity, suggestion, is_doubt)] = None

    def problems(self) -> tuple[Problem, ...]:
        """All of them in order; the same one once."""
        return in_order(self._found)

    def settle(self) -> tuple[Problem, ...]:
        """All warnings and notices; raises ConfigInvalid if there is an error."""
        problems = self.problems()
        errors = tuple(problem for problem in problems if problem.severity == "error")
        notices = tuple(problem for problem in problems if problem.severity != "error")
        if errors:
            raise ConfigInvalid(errors, notices)
        return notices


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """By file in the order of reading, then by line and column."""
    found = tuple(problems)
    files = dict.fromkeys(problem.place.file for problem in found)
    order = {file: position for position, file in enumerate(files)}
    place = lambda problem: (order[problem.place.file], problem.place.line, problem.place.column)  # noqa: E731 - a sort key
    return tuple(sorted(found, key=place))


_QUOTED = re.compile(r'"[^"]*"')
_KEYLIKE = re.compile(
    rf"\b(?:{PROVIDER_KEY}|AIza[\w-]{{16,}})"
    r"|(?<![A-Za-z0-9])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{20,}"
)
"""By how providers' keys begin, or a long word with digits in it, which no name is."""


def hidden(text: str) -> str:
    """The text without what looks like a key."""
    return _KEYLIKE.sub("…", text)


def closest(name: str, known: Iterable[str], cutoff: float = 0.75) -> str | None:
    """The known name that `name` is probably a misspelling of."""
    matches = get_close_matches(name.lower(), list(known), n=1, cutoff=cutoff)
    return matches[0] if matches else None
