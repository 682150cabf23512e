"""Twin of gateway/config/nodes.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.nodes import Mapping, Node, Scalar, Sequence, parse
from gateway.config.problems import Report


def told(text: str) -> list[str]:
    """What is said of a document."""
    report = Report()
    parse(text, "f.yaml", report)
    return [str(problem) for problem in report.problems()]


def simple(node: Node | None) -> object:
    """A tree as plain lists, dictionaries and texts."""
    if isinstance(node, Mapping):
        return {name: simple(item.value) for name, item in node.items.items()}
    if isinstance(node, Sequence):
        return [simple(item) for item in node.items]
    return node.text if isinstance(node, Scalar) else None


def read(text: str) -> object:
    report = Report()
    node = parse(text, "f.yaml", report)
    assert report.problems() == ()
    return simple(node)


def test_nodes_know_where_they_stand() -> None:
    """Keys and values carry line and column, and quoted values are not plain."""
    node = parse("a:\n  - b: 'x'\n", "f.yaml", Report())
    assert isinstance(node, Mapping)
    inner = node.items["a"].value
    assert isinstance(inner, Sequence)
    entry = inner.items[0]
    assert isinstance(entry, Mapping)
    value = entry.items["b"].value
    assert isinstance(value, Scalar)
    assert [str(entry.items["b"].place), str(value.place), value.plain] == ["f.yaml:2:5", "f.yaml:2:8", False]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("# nothing\n", None),
        ("a: no\nb: 010", {"a": "no", "b": "010"}),
        ("base: &b {x: 1, y: 2}\nc:\n  <<: *b\n  y: 3", {"base": {"x": "1", "y": "2"}, "c": {"x": "1", "y": "3"}}),
        ("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}", {"a": {"x": "1"}, "b": {"x": "2", "y": "2"}, "c": {"y": "2", "x": "1"}}),
        ("a: &x [1, 2]\nb: *x", {"a": ["1", "2"], "b": ["1", "2"]}),
        ("a: !!str 10\nb: !!int '3'", {"a": "10", "b": "3"}),
        ('{\n\t"a": ["x\\/y", null, true],\n\t"b": 1e3\n}', {"a": ["x/y", "null", "true"], "b": "1e3"}),
    ],
)  # fmt: skip
def test_documents_that_can_be_read(text: str, expected: object) -> None:
    """Anchors, aliases, merge keys, plain tags and JSON with tabs are understood, scalars stay text."""
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3", 'f.yaml:3:1: the key "a" stands here and at line 1 already'),
        ("a: b: c", "f.yaml:1:5: not valid YAML: mapping values are not allowed in this context: a: b: c"),
        ("a:\n\t- b", "f.yaml:2:1: not valid YAML: found character that cannot start any token, while scanning for the next token: - b"),
        ("a: [1,\nb: 2", "f.yaml:3:1: not valid YAML: did not find expected ',' or ']', while parsing a flow sequence: b: 2"),
        ("a: 1\nb: \x01", "f.yaml:2:4: not valid YAML: control characters are not allowed"),
        ("a: 1\nb: \udc80", "f.yaml:2:1: not valid Unicode text"),
        ("a: *x", 'f.yaml:1:4: there is no anchor "&x" before this alias'),
        ("a: &x [*x]", 'f.yaml:1:8: there is no anchor "&x" before this alias'),
        ("a: !!python/object/apply:os.system [ls]", 'f.yaml:1:4: the tag "!!python/object/apply:os.system" is not allowed here'),
        ("a: !vault x", 'f.yaml:1:4: the tag "!vault" is not allowed here'),
        ("? [1, 2]\n: x", "f.yaml:1:3: a key must be a text, not a list or a mapping"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: a second document begins here; one file holds one configuration"),
        ("<<: 3", "f.yaml:1:1: << takes a mapping or a list of mappings"),
        ("[" * 1_000_000, "f.yaml:1:62: nested more than 60 levels deep"),
        ("x" * (9 * 1024 * 1024), "f.yaml:1:1: is larger than 8 MiB"),
    ],
    ids=range(15),
)  # fmt: skip
def test_documents_that_cannot_be_read(text: str, line: str) -> None:
    """Each fault of a document is one line with its place and the offending text."""
    assert told(text) == [line]


def test_aliases_cannot_multiply_without_end() -> None:
    """A billion laughs end in an error, in breadth and in depth."""
    broad = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    assert "expands to more than 200000 values" in told(broad)[0]
    deep = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} {'[' * 9}*a{n - 1}{']' * 9}\n" for n in range(1, 200))
    assert "nested more than 60 levels deep" in told(deep)[0]


def test_the_offending_line_is_not_shown_where_it_may_hold_a_key() -> None:
    """A syntax error beside a key shows the name and not the key."""
    (line,) = told("api_key: sk-very-secret: oops")
    assert "secret" not in line
    assert line.endswith(": api_key: …")


@pytest.mark.parametrize(
    "text",
    [
        "keys:\n  - sk-proj-Zq8hT5wPx2 x: ]\n",
        "a:\n  key: |\n      MIIE\n   Zq8hT5wPx2LmR9vKc4Nd\n  b: 1\n",
        'a: "-----BEGIN\nZq8hT5wPx2LmR9vKc4Nd\n',
    ],
)
def test_the_offending_line_is_not_shown_where_it_may_be_a_key(text: str) -> None:
    """A key of a list, or a line of a key that has several, is not shown."""
    (line,) = told(text)
    assert "not valid YAML" in line
    assert "Zq8h" not in line


def test_a_control_character_is_found_behind_letters_of_several_bytes() -> None:
    """Where something stands is counted in characters."""
    (line,) = told("# üüüüüüüüüüüüüüüü\na: 1\nb: 'x\x01'\nc: 1\n")
    assert line == "f.yaml:3:6: not valid YAML: control characters are not allowed"


@given(st.text(max_size=200))
def test_no_text_does_more_than_report(text: str) -> None:
    """Any text is either read or reported."""
    report = Report()
    node = parse(text, "f.yaml", report)
    assert node is None or simple(node) is not None
