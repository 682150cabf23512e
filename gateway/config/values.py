"""From the text in a node to a value, by what is wanted in that place.

A text in YAML has no type until somebody wants one. `Reader` is asked for a kind ("seconds", "secret", "texts" …) and
either gives the value or reports why it cannot and gives None, so that reading goes on. Wanting first makes the traps
of YAML 1.1 harmless: where a text is wanted `no` and `00:00` are texts (with a warning, since other readers see false
and zero), and `010` is no number at all.

Names of the environment are resolved here too: `os.environ/NAME` as a whole value, `${NAME}` and `${NAME:-default}`
anywhere in it, `$${NAME}` for the characters themselves. An empty variable counts as one that is not set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from collections.abc import Mapping as Names
from datetime import time
from typing import Any, Literal
from urllib.parse import urlsplit

from gateway.config.model import Secret
from gateway.config.nodes import Mapping, Node, Scalar, Sequence, join
from gateway.config.problems import Report, hidden

Kind = Literal[
    "text", "url", "secret", "secret_text", "boolean", "integer", "retries", "number", "seconds", "timeout", "price", "duration", "span",
    "texts", "texts_by_name", "secrets_by_name", "object", "any",
    "fallbacks", "aliases", "token_prices", "provider_budgets", "params",
    "retry_policy", "retry_policies", "allowed_fails", "retry_budget", "hedging", "queue",
]  # fmt: skip
"""What a setting takes. The last two lines have dialects of their own, see `dialects` and `failing`."""

MOST_RETRIES = 100

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,30})")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9_]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")
_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_PRICE = re.compile(r"(?:[0-9]{1,20}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][-+]?[0-9]{1,2})?")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\s*(ms|s|m|h|d|w|mo)?")
_SECONDS = {
    "ms": 0.001,
    None: 1.0,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "mo": 2592000.0,
}
PERIOD = re.compile(r"[0-9]{0,5}[1-9][0-9]{0,5}(mo|[smhdw])")
"""When a budget begins anew, of those that `gateway.state.periods` understands."""
_URL = re.compile(r"[!-~]+")
_NULL = frozenset(("", "~", "null"))
_TRUE = frozenset(("true", "yes", "on"))
_FALSE = frozenset(("false", "no", "off"))
_REFERENCE = re.compile(r"\$?\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ENVIRON = "os.environ/"
_UNREAD = re.compile(r"\$\{|\$[A-Za-z_]\w*$|os\.environ")
"""A variable as shells and other programs write it."""
_KEYLIKE = re.compile(r"sk-|pk-|AIza|[A-Za-z0-9_\-+/=]{24,}|://[^/]*@")


def substitute(text: str, environ: Names[str, str]) -> tuple[str | None, list[str]]:
    """`text` with the environment's values in it, and the names that were not there.

    None instead of a text means that the whole of it was one name and that this name is not set.
    """
    missing: list[str] = []

    def value(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        if match.group().startswith("$$"):
            return match.group()[1:]
        found = environ.get(name) or default
        if found is None:
            missing.append(name)
        return found or ""

    if text.startswith(_ENVIRON):
        name = text.removeprefix(_ENVIRON).strip()
        return environ.get(name) or None, [] if environ.get(name) else [name]
    result = _REFERENCE.sub(value, text)
    return (None if missing and _REFERENCE.fullmatch(text) else result), missing


def truth(text: str) -> bool | None:
    """A boolean as people write one, None if it is none."""
    lower = text.strip().lower()
    if lower in _TRUE or lower == "1":
        return True
    return False if lower in _FALSE or lower == "0" else None


def seconds_of(span: str) -> float | None:
    """A span like `90d`, `10m` or `600` in seconds, None if it is none; a month has 30 days."""
    match = _DURATION.fullmatch(span.strip())
    return float(match.group(1)) * _SECONDS[match.group(2)] if match else None


def span_of(text: str) -> float | None:
    """How long something is kept, in seconds, None if that is not said: a bare number would be meant as days and read as
    seconds, and what is deleted then does not come back.
    """
    return seconds_of(text) or None if text.strip()[-1:].isalpha() else None


def problem_of_url(url: str) -> str:
    """Why nobody can be asked at this address, empty if somebody can; nothing of it is repeated."""
    if not re.match(r"https?://[^\s/]", url):
        return "must begin with http:// or https://"
    if "@" in url.split("/", 3)[2]:
        return "must not have a user or a password in it; use api_key or extra_headers"
    if not _URL.fullmatch(url):
        return "has a space or another character in it that must be escaped"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    return "" if host else "must have a host and, if any, a port that is a number up to 65535"


def shown(text: str) -> str:
    """A value for a message, cut short, and not at all if it looks like a key."""
    return '"…"' if _KEYLIKE.search(text) else f'"{text[:40]}"'


class Reader:
    """Reads nodes as values. What is not there or not usable is None; the reason is in `report`."""

    def __init__(self, environ: Names[str, str], report: Report) -> None:
        self.environ = environ
        self.report = report
        self.unset: list[tuple[str, str]] = []
        """(path, name) of what was wanted and is not set, in the order of reading; whoever wants to know empties it."""
        self._readers: dict[Kind, Callable[[Node, str], Any]] = {
            "text": self.text,
            "url": self.url,
            "secret": self.secret,
            "secret_text": self.secret_text,
            "boolean": self.boolean,
            "integer": self.integer,
            "retries": self.retries,
            "number": self.number,
            "seconds": self.seconds,
            "timeout": self.timeout,
            "price": self.price,
            "duration": self.duration,
            "span": self.span,
            "texts": self.texts,
            "texts_by_name": self.texts_by_name,
            "secrets_by_name": self.secrets_by_name,
            "object": self.object,
            "any": self.plain,
        }

    def read(self, kind: Kind, node: Node, path: str) -> Any:
        """The value of a node as `kind`."""
        return self._readers[kind](node, path)

    # -- single values -----------------------------------------------------------------------------------------------

    def text(self, node: Node, path: str, wanted: str = "must be a text") -> str | None:
        """Text, with names of the environment resolved."""
        if not isinstance(node, Scalar):
            self.report.error(node.place, path, f"{wanted}, not {_kind_of(node)}")
            return None
        if is_null(node):
            return None
        self._warn_of_trap(node, path)
        value, missing = substitute(node.text, self.environ)
        if "" in missing:
            self.report.error(node.place, path, "os.environ/ must be followed by the name of a variable")
            return None
        self.unset += [(path, hidden(name)) for name in missing]
        for name in missing:
            state = "is empty" if name in self.environ else "is not set"
            self.report.notice(node.place, path, f"the environment variable {hidden(name)} {state}")
        return value

    def unset_of(self, *keys: str) -> tuple[str, ...]:
        """Names that are not set and that values of these keys wanted."""
        return tuple(dict.fromkeys(name for path, name in self.unset if path.rpartition(".")[2] in keys))

    def url(self, node: Node, path: str) -> str | None:
        value = self._scalar(node, path, "must be a URL")
        value = value.strip() if value is not None else None
        if value is not None and (problem := problem_of_url(value)):
            self.report.error(node.place, path, problem)
            return None
        return value

    def secret(self, node: Node, path: str) -> Secret | None:
        """A key, a password or a URL with one in it; never shown in a message."""
        value = self._scalar(node, path, "must be a text")
        value = value.strip() if value else None
        if value and not value.isprintable():
            self.report.error(node.place, path, "has a line break or another character in it that no key has")
            return None
        if value and isinstance(node, Scalar) and value == node.text and _UNREAD.match(value):
            message = "is taken as it stands: to read a variable, write os.environ/NAME"
            self.report.warning(node.place, path, message)
        return Secret(value) if value else None

    def secret_text(self, node: Node, path: str) -> Secret | None:
        """A secret that may have several lines: a file of credentials, a value for the environment."""
        value = self._scalar(node, path, "must be a text")
        if value and "\0" in value:
            self.report.error(node.place, path, "has a NUL in it")
            return None
        return Secret(value) if value else None

    def boolean(self, node: Node, path: str) -> bool | None:
        value = self._scalar(node, path, "must be true or false")
        if value is None:
            return None
        decided = truth(value)
        if decided is None:
            self._refuse(node, path, "must be true or false")
        return decided

    def integer(self, node: Node, path: str) -> int | None:
        """A whole number, not negative."""
        wanted = "must be a whole number"
        value = self.number(node, path, wanted)
        if value is not None and value != int(value):
            self._refuse(node, path, wanted)
            return None
        return None if value is None else int(value)

    def retries(self, node: Node, path: str) -> int | None:
        """How many attempts a failed request gets beside its first."""
        count = self.integer(node, path)
        if count is not None and count > MOST_RETRIES:
            self._refuse(node, path, f"must be at most {MOST_RETRIES}")
            return None
        return count

    def number(self, node: Node, path: str, wanted: str = "must be a number") -> float | None:
        """A number, not negative."""
        value = self._scalar(node, path, wanted)
        if value is None or self._octal(node, value, path):
            return None
        number = float(value) if _NUMBER.fullmatch(value.strip()) else math.inf
        if not math.isfinite(number) or number < 0:
            self._refuse(node, path, wanted)
            return None
        return number

    def seconds(self, node: Node, path: str) -> float | None:
        """Seconds as a number, or with a unit: `600`, `10m`."""
        wanted = "must be a number of seconds"
        value = self._scalar(node, path, wanted)
        if value is None or self._octal(node, value, path):
            return None
        found = seconds_of(value)
        if found is None:
            self._refuse(node, path, wanted)
        return found

    def timeout(self, node: Node, path: str) -> float | None:
        """Seconds that somebody has; 0 means that nothing is said, as in a request."""
        return self.seconds(node, path) or None

    def price(self, node: Node, path: str) -> str | None:
        """Dollars as the decimal text that was written."""
        wanted = "must be a number of dollars"
        value = self._scalar(node, path, wanted)
        if value is None:
            return None
        if not _PRICE.fullmatch(value.strip()):
            self._refuse(node, path, wanted)
            return None
        return value.strip()

    def duration(self, node: Node, path: str) -> str | None:
        """A span like `30d`, kept as text: a month has no fixed number of seconds."""
        wanted = "must be a duration such as 30d, 12h or 3600"
        value = self._scalar(node, path, wanted)
        if value is not None and not _DURATION.fullmatch(value.strip()):
            self._refuse(node, path, wanted)
            return None
        return value

    def span(self, node: Node, path: str) -> float | None:
        """A span with its unit, `30d`, in seconds."""
        wanted = "must be a span with its unit, such as 30d"
        value = self._scalar(node, path, wanted)
        found = None if value is None else span_of(value)
        if value is not None and found is None:
            self._refuse(node, path, wanted)
        return found

    # -- several values ----------------------------------------------------------------------------------------------

    def texts(self, node: Node, path: str) -> tuple[str, ...] | None:
        """A list of texts; a single text counts as a list of one, commas separate in one from the environment."""
        if isinstance(node, Sequence):
            read = [self.text(item, join(path, index)) for index, item in enumerate(node.items)]
            return tuple(text for text in read if text)
        value = self.text(node, path, "must be a list of texts")
        if value is None:
            return None
        return tuple(part.strip() for part in value.split(",") if part.strip())

    def texts_by_name(self, node: Node, path: str) -> dict[str, str] | None:
        found = self.each(node, path, self.text)
        return None if found is None else {name: text for name, text in found.items() if text is not None}

    def secrets_by_name(self, node: Node, path: str) -> dict[str, Secret] | None:
        """Headers."""
        found = self.each(node, path, self.secret)
        for name in found or ():
            if not _HEADER.fullmatch(name):
                self.report.error(node.place, path, "has a name with characters that no header may have")
        return None if found is None else {name: text for name, text in found.items() if text is not None}

    def object(self, node: Node, path: str) -> dict[str, Any] | None:
        """A mapping of JSON values."""
        return self.each(node, path, self.plain)

    def each(self, node: Node, path: str, read: Callable[[Node, str], Any]) -> dict[str, Any] | None:
        """A mapping whose values are all read the same way."""
        if not isinstance(node, Mapping):
            if not is_null(node):
                self.report.error(node.place, path, f"must be a mapping, not {_kind_of(node)}")
            return None
        return {name: read(item.value, join(path, name)) for name, item in node.items.items()}

    def plain(self, node: Node, path: str) -> Any:
        """Whatever it is, as a JSON value."""
        if isinstance(node, Sequence):
            return [self.plain(item, join(path, index)) for index, item in enumerate(node.items)]
        if isinstance(node, Mapping):
            return self.object(node, path)
        if not node.plain:
            return self.text(node, path)
        return self._guess(node, path)

    def _guess(self, node: Scalar, path: str) -> Any:
        """An unquoted value by its looks: JSON's numbers, and YAML's words for true, false and null."""
        text = node.text
        if is_null(node):
            return None
        if text.lower() in _TRUE | _FALSE:
            if text.lower() not in {"true", "false"}:
                self.report.warning(
                    node.place, path, f'"{text}" is read as {str(truth(text)).lower()}; {_QUOTE}'
                )
            return truth(text)
        if self._octal(node, text, path):
            return None
        if _INTEGER.fullmatch(text):
            return int(text)
        if _NUMBER.fullmatch(text):
            number = float(text)
            if math.isfinite(number):
                return number
            self.report.error(node.place, path, "is too large a number")
            return None
        return self.text(node, path)

    # -- what they share ---------------------------------------------------------------------------------------------

    def _scalar(self, node: Node, path: str, wanted: str) -> str | None:
        """The text of a value that is no text: without the warnings that a text deserves."""
        if isinstance(node, Scalar):
            node = Scalar(node.text, is_null(node), node.place)
        return self.text(node, path, wanted)

    def _refuse(self, node: Node, path: str, wanted: str) -> None:
        assert isinstance(node, Scalar)  # noqa: S101 - for the type checker: only scalars get this far
        if names := substitute(node.text, {})[1]:
            self.report.error(node.place, path, f"{wanted}, which the value of {', '.join(names)} is not")
        else:
            self.report.error(node.place, path, f"{wanted}, not {shown(node.text)}")

    def _octal(self, node: Node, value: str, path: str) -> bool:
        if not _OCTAL.fullmatch(value.strip()):
            return False
        octal = set(value) <= set("01234567_+-")
        eight = f"{int(value.replace('_', ''), 8)} to YAML 1.1 and " if octal else ""
        without = value.strip().lstrip("+-0_").replace("_", "") or "0"
        self.report.error(
            node.place,
            path,
            f"{value[:20]} is {eight}{without[:20]} to others: write it without the leading 0",
        )
        return True

    def _warn_of_trap(self, node: Scalar, path: str) -> None:
        """An unquoted text that YAML 1.1 takes for something else."""
        if not node.plain:
            return
        text = node.text
        if text.lower() in _TRUE | _FALSE:
            other = str(truth(text)).lower()
        elif _OCTAL.fullmatch(text) or _SEXAGESIMAL.fullmatch(text):
            other = "another number"
        else:
            return
        self.report.warning(
            node.place, path, f'"{text[:40]}" is read as a text; {_QUOTE}, other readers see {other}'
        )


_QUOTE = "put it in quotes"


def is_null(node: Node) -> bool:
    """Nothing was written, or `null`."""
    return isinstance(node, Scalar) and node.plain and node.text.lower() in _NULL


def is_off(node: Node) -> bool:
    """A value that switches nothing on: null, false, an empty list, mapping or text."""
    if isinstance(node, Scalar):
        return is_null(node) or not node.text or (node.plain and node.text.lower() in _FALSE)
    return not node.items


def _kind_of(node: Node) -> str:
    if isinstance(node, Sequence):
        return "a list"
    return "a mapping" if isinstance(node, Mapping) else "a single value"


def is_time_of_day(written: str | None) -> bool:
    """`HH:MM`, or nothing."""
    try:
        return written is None or time.fromisoformat(written).tzinfo is None
    except ValueError:
        return False


def same(one: Node, other: Node) -> bool:
    """Two nodes say the same, wherever they stand."""
    if isinstance(one, Scalar) and isinstance(other, Scalar):
        return one.text == other.text
    if isinstance(one, Sequence) and isinstance(other, Sequence):
        return len(one.items) == len(other.items) and all(map(same, one.items, other.items))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.items.keys() == other.items.keys() and all(
            same(item.value, other.items[key].value) for key, item in one.items.items()
        )
    return False
