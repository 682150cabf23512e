"""Twin of gateway/config/values.py."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.model import Secret
from gateway.config.nodes import parse
from gateway.config.problems import Report
from gateway.config.values import Kind, Reader, is_off, same, shown, substitute, truth

ENVIRON = {"NAME": "value", "PORT": "6379", "EMPTY": "", "OCTAL": "010"}


def read(kind: Kind, text: str) -> tuple[Any, list[str]]:
    """The value of a YAML text as `kind`, and what is said about it."""
    report = Report()
    node = parse(text, "f.yaml", report)
    assert node is not None
    value = Reader(ENVIRON, report).read(kind, node, "path")
    return value, [problem.message for problem in report.problems()]


ODD_IN_URL = "has a space or another character in it that must be escaped"
HOST_AND_PORT = "must have a host and, if any, a port that is a number up to 65535"


@pytest.mark.parametrize(
    ("text", "value", "missing"),
    [
        ("plain", "plain", []),
        ("os.environ/NAME", "value", []),
        ("os.environ/NOPE", None, ["NOPE"]),
        ("os.environ/EMPTY", None, ["EMPTY"]),
        ("see os.environ/NAME", "see os.environ/NAME", []),
        ("${NAME}", "value", []),
        ("${NOPE}", None, ["NOPE"]),
        ("${EMPTY:-other}", "other", []),
        ("${NOPE:-}", "", []),
        ("a ${NAME} b ${NOPE} c", "a value b  c", ["NOPE"]),
        ("redis://:${NOPE:-x}@host:${PORT}/0", "redis://:x@host:6379/0", []),
        ("$${NAME}", "${NAME}", []),
        ("${{Postgres.DATABASE_URL}}", "${{Postgres.DATABASE_URL}}", []),
    ],
)
def test_names_of_the_environment(text: str, value: str | None, missing: list[str]) -> None:
    """Both notations are replaced, defaults are used, and an empty variable counts as not set."""
    assert substitute(text, ENVIRON) == (value, missing)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("text", "gpt-4", "gpt-4"),
        ("text", "4.10", "4.10"),
        ("text", "2024-02-15", "2024-02-15"),
        ("text", "~", None),
        ("text", "'~'", "~"),
        ("url", "http://localhost:11434", "http://localhost:11434"),
        ("secret", "' sk-1 '", Secret("sk-1")),
        ("secret", "''", None),
        ("secret_text", '"a\\nb"', Secret("a\nb")),
        ("boolean", "yes", True),
        ("boolean", "'false'", False),
        ("boolean", "1", True),
        ("integer", "6379", 6379),
        ("integer", "os.environ/PORT", 6379),
        ("integer", "'3'", 3),
        ("integer", "3.0", 3),
        ("retries", "100", 100),
        ("number", "0.5", 0.5),
        ("number", "1e-1", 0.1),
        ("seconds", "600", 600.0),
        ("seconds", "10m", 600.0),
        ("seconds", "'1.5'", 1.5),
        ("seconds", "250ms", 0.25),
        ("seconds", ".5", 0.5),
        ("timeout", "30s", 30.0),
        ("timeout", "0", None),
        ("seconds", "5.", 5.0),
        ("price", "0.00000250", "0.00000250"),
        ("price", "3e-06", "3e-06"),
        ("price", "100.0", "100.0"),
        ("duration", "30d", "30d"),
        ("duration", "1mo", "1mo"),
        ("span", "30d", 2592000.0),
        ("span", "~", None),
        ("texts", "[a, b]", ("a", "b")),
        ("texts", "a, b", ("a", "b")),
        ("texts", "~", None),
        ("texts_by_name", "{a: 1, b: null}", {"a": "1"}),
        ("secrets_by_name", "{a: os.environ/NAME}", {"a": Secret("value")}),
        ("object", "{a: [1, 1.5, 'x', true, null, 1e3, 0x1f], b: {c: 1_000}}", {"a": [1, 1.5, "x", True, None, 1000.0, "0x1f"], "b": {"c": 1000}}),
        ("any", "'10'", "10"),
        ("any", "1e400", None),
    ],
)  # fmt: skip
def test_values_by_what_is_wanted(kind: Kind, text: str, value: object) -> None:
    """A text becomes what is wanted in its place."""
    assert read(kind, text)[0] == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("text", "[a]", "must be a text, not a list"),
        ("text", "{a: b}", "must be a text, not a mapping"),
        ("text", "os.environ/NOPE", "the environment variable NOPE is not set"),
        ("text", "os.environ/EMPTY", "the environment variable EMPTY is empty"),
        ("text", "os.environ/", "os.environ/ must be followed by the name of a variable"),
        ("url", "localhost:11434", "must begin with http:// or https://"),
        (
            "url",
            "http://user:pw@host",
            "must not have a user or a password in it; use api_key or extra_headers",
        ),
        ("url", "http://host/a b", ODD_IN_URL),
        ("url", "http://h\N{LATIN SMALL LETTER O WITH DIAERESIS}st", ODD_IN_URL),
        ("url", "http://host:80a/v1", HOST_AND_PORT),
        ("url", "http://host:99999", HOST_AND_PORT),
        ("url", "http://:80/v1", HOST_AND_PORT),
        ("url", "'http://[::1/v1'", HOST_AND_PORT),
        ("secret", '"a\\nb"', "has a line break or another character in it that no key has"),
        ("secret_text", '"a\\0b"', "has a NUL in it"),
        ("boolean", "maybe", 'must be true or false, not "maybe"'),
        ("boolean", "[true]", "must be true or false, not a list"),
        ("integer", "three", 'must be a whole number, not "three"'),
        ("integer", "-1", 'must be a whole number, not "-1"'),
        ("integer", "1.5", 'must be a whole number, not "1.5"'),
        ("retries", "101", 'must be at most 100, not "101"'),
        ("integer", "9e999", 'must be a whole number, not "9e999"'),
        ("integer", "os.environ/NAME", "must be a whole number, which the value of NAME is not"),
        ("number", "010", "010 is 8 to YAML 1.1 and 10 to others: write it without the leading 0"),
        (
            "number",
            "os.environ/OCTAL",
            "010 is 8 to YAML 1.1 and 10 to others: write it without the leading 0",
        ),
        ("integer", "089", "089 is 89 to others: write it without the leading 0"),
        ("seconds", "00:10", 'must be a number of seconds, not "00:10"'),
        ("seconds", "sk-abcdef", 'must be a number of seconds, not "…"'),
        ("price", "-1", 'must be a number of dollars, not "-1"'),
        ("price", "free", 'must be a number of dollars, not "free"'),
        ("duration", "soon", 'must be a duration such as 30d, 12h or 3600, not "soon"'),
        ("span", "90", 'must be a span with its unit, such as 30d, not "90"'),
        ("span", "90.", 'must be a span with its unit, such as 30d, not "90."'),
        ("span", "0", 'must be a span with its unit, such as 30d, not "0"'),
        ("span", "0d", 'must be a span with its unit, such as 30d, not "0d"'),
        ("span", "''", 'must be a span with its unit, such as 30d, not ""'),
        ("texts", "[[a]]", "must be a text, not a list"),
        ("texts", "{a: b}", "must be a list of texts, not a mapping"),
        ("secrets_by_name", "{a b: c}", "has a name with characters that no header may have"),
        ("object", "[a]", "must be a mapping, not a list"),
        ("object", "a", "must be a mapping, not a single value"),
        ("any", "1e400", "is too large a number"),
        ("any", "010", "010 is 8 to YAML 1.1 and 10 to others: write it without the leading 0"),
    ],
)
def test_values_that_cannot_be_used(kind: Kind, text: str, message: str) -> None:
    """A value of the wrong kind is told in one sentence."""
    assert read(kind, text)[1] == [message]


@pytest.mark.parametrize(
    ("kind", "text", "value", "message"),
    [
        ("text", "no", "no", '"no" is read as a text; put it in quotes, other readers see false'),
        ("text", "On", "On", '"On" is read as a text; put it in quotes, other readers see true'),
        ("text", "00:00", "00:00", '"00:00" is read as a text; put it in quotes, other readers see another number'),
        ("text", "010", "010", '"010" is read as a text; put it in quotes, other readers see another number'),
        ("any", "12:30:45", "12:30:45", '"12:30:45" is read as a text; put it in quotes, other readers see another number'),
        ("any", "no", False, '"no" is read as false; put it in quotes'),
    ],
)  # fmt: skip
def test_the_traps_of_old_yaml(kind: Kind, text: str, value: object, message: str) -> None:
    """What other readers take for something else is read as meant and reported."""
    assert read(kind, text) == (value, [message])
    assert read(kind, f"'{text}'") == (text, [])


@pytest.mark.parametrize("text", ["$NAME", "${NAME", "${1}", "os.environ['NAME']"])
def test_variables_as_others_write_them(text: str) -> None:
    """A key that was meant to be a variable's value would be easily guessed: it is taken, and told without being shown."""
    told = ["is taken as it stands: to read a variable, write os.environ/NAME"]
    assert read("secret", f'"{text}"') == (Secret(text), told)
    assert read("secret", "$${NAME}") == (Secret("${NAME}"), [])
    assert read("secret", "pa$word-11") == (Secret("pa$word-11"), [])


@pytest.mark.parametrize(
    ("text", "value"), [("True", True), (" on ", True), ("NO", False), ("0", False), ("2", None)]
)
def test_truth(text: str, value: bool | None) -> None:
    """Booleans are read as people write them."""
    assert truth(text) is value


@pytest.mark.parametrize("text", ["sk-abc", "postgres://u:p@host/db", "a" * 24, "AIzaX"])
def test_what_looks_like_a_key_is_not_shown(text: str) -> None:
    """A message does not repeat a value that may be a key."""
    assert shown(text) == '"…"'


def test_nodes_that_say_the_same() -> None:
    """Nodes are compared by what they say, not by where they stand."""
    nodes = [
        parse(text, "f.yaml", Report())
        for text in ("{a: [1, {b: c}]}", "a:\n  - 1\n  - b: c", "{a: [1, {b: d}]}")
    ]
    first, second, third = nodes
    assert first is not None
    assert second is not None
    assert third is not None
    assert same(first, second)
    assert not same(first, third)


@pytest.mark.parametrize(("text", "off"), [("false", True), ("[]", True), ("{}", True), ("~", True), ("''", True), ("'false'", False), ("[a]", False), ("0.5", False)])  # fmt: skip
def test_values_that_switch_nothing_on(text: str, off: bool) -> None:
    """False and everything empty are off."""
    node = parse(text, "f.yaml", Report())
    assert node is not None
    assert is_off(node) is off
