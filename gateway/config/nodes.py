"""YAML (and JSON, which YAML contains) as a tree that knows where everything stands.

PyYAML's constructor forgets lines, keeps the last of two equal keys and guesses types by the rules of YAML 1.1, where
`no` is false and `010` is eight. So only its parser is used: this module builds a tree of three kinds of nodes from
the parser's events, with scalars left as the text that was written, and `values` decides what a text means when it is
known what is wanted in that place.

A configuration is read with care even though its author is trusted: aliases may not multiply into millions of nodes,
nesting has a bottom, and tags that ask for objects of some language are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml
from msgspec import Struct

from gateway.config.model import Place
from gateway.config.problems import Report

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 60
MAX_NODES = 200_000
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}
_SECRETISH = re.compile(r"key|secret|passw|token|credential|auth|url|sk-", re.IGNORECASE)
_KEYLIKE = re.compile(r"sk-|pk-|AIza|(?=[A-Za-z_\-+/=]*[0-9])[A-Za-z0-9_\-+/=]{16}")
"""In what is left of a line: a key of a list, or a line of a key that has several."""


class Scalar(Struct, frozen=True):
    """A single value, as text. `plain` means without quotes, so that it may be a number, a boolean or null."""

    text: str
    plain: bool
    place: Place


class Sequence(Struct, frozen=True):
    """A list."""

    items: tuple[Node, ...]
    place: Place
    size: int = 1
    """Values in it, itself included, aliases written out."""
    height: int = 1
    """Levels below it, itself included."""


class Item(Struct, frozen=True):
    """What one key of a mapping says, and where the key stands."""

    place: Place
    value: Node


class Mapping(Struct, frozen=True):
    """A dictionary with text keys, in the order of the file."""

    items: dict[str, Item]
    place: Place
    size: int = 1
    height: int = 1


Node = Scalar | Sequence | Mapping


class _UnreadableError(Exception):
    """The rest of the file cannot be read; the reason is in the report already."""


def parse(text: str, file: str, report: Report) -> Node | None:
    """The document in `text`, or None if it is empty or cannot be read; problems go to `report`."""
    top = Place(file, 1, 1)
    if len(text) > MAX_BYTES:
        report.error(top, "", f"is larger than {MAX_BYTES // 1024 // 1024} MiB")
        return None
    try:
        return _Composer(text, file, report).document()
    except _UnreadableError:
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else top
        context = f", {error.context}" if error.context else ""
        report.error(place, "", f"not valid YAML: {error.problem}{context}{_excerpt(text, place.line)}")
    except yaml.reader.ReaderError as error:
        before = text.encode()[: error.position].decode(errors="replace")  # libyaml counts bytes
        place = Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        report.error(place, "", f"not valid YAML: {error.reason}")
    except UnicodeEncodeError as error:
        before = text[: error.start]
        report.error(Place(file, before.count("\n") + 1, 1), "", "not valid Unicode text")
    return None


def _excerpt(text: str, line: int) -> str:
    """The offending line, cut short where it might hold a key, and not at all where it might be one."""
    lines = text.splitlines()
    words = lines[min(line, len(lines)) - 1].strip() if lines else ""
    if _SECRETISH.search(words):
        words = words.split(":")[0].split("=")[0][:30] + ": …"
    return f": {words[:60]}" if words and not _KEYLIKE.search(words) else ""


class _Composer:
    """Builds nodes from the parser's events, one document."""

    def __init__(self, text: str, file: str, report: Report) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._file = file
        self._report = report
        self._anchors: dict[str, Node] = {}
        self._nodes = 0

    def document(self) -> Node | None:
        node: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if node is not None:
                    self._fail(event, "a second document begins here; one file holds one configuration")
                node = self._node(next(self._events), 0)
        return node

    def _place(self, event: Any) -> Place:
        return Place(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _fail(self, event: Any, message: str) -> NoReturn:
        self._report.error(self._place(event), "", message)
        raise _UnreadableError

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            node = self._alias(event)
            self._nodes += _size(node)
            depth += _height(node)
        else:
            self._check_tag(event)
            node = self._build(event, depth)
            self._nodes += 1
            if event.anchor:
                self._anchors[event.anchor] = node
        if depth > MAX_DEPTH:
            self._fail(event, _TOO_DEEP)
        if self._nodes > MAX_NODES:
            self._fail(event, f"expands to more than {MAX_NODES} values")
        return node

    def _build(self, event: Any, depth: int) -> Node:
        place = self._place(event)
        if depth > MAX_DEPTH:
            self._fail(event, _TOO_DEEP)
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(event.value, bool(event.implicit[0]) or _is_typed(event.tag), place)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(inner := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(inner, depth + 1))
            height = 1 + max(map(_height, items), default=0)
            return Sequence(tuple(items), place, 1 + sum(map(_size, items)), height)
        return self._mapping(place, depth)

    def _mapping(self, place: Place, depth: int) -> Mapping:
        items: dict[str, Item] = {}
        merged: dict[str, Item] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            if not isinstance(key, Scalar):
                self._report.error(self._place(event), "", "a key must be a text, not a list or a mapping")
            elif key.text == "<<" and key.plain:
                merged = self._merge(key.place, value) | merged
            elif key.text in items:
                first = items[key.text].place
                self._report.error(
                    key.place, "", f'the key "{key.text}" stands here and at line {first.line} already'
                )
            else:
                items[key.text] = Item(self._place(event), value)
        whole = merged | items
        values = [item.value for item in whole.values()]
        height = 1 + max(map(_height, values), default=0)
        return Mapping(whole, place, 1 + len(values) + sum(map(_size, values)), height)

    def _merge(self, place: Place, value: Node) -> dict[str, Item]:
        """The keys that `<<: *anchor` or `<<: [*a, *b]` brings in; earlier ones win."""
        sources = value.items if isinstance(value, Sequence) else (value,)
        merged: dict[str, Item] = {}
        for source in sources:
            if isinstance(source, Mapping):
                merged = source.items | merged
            else:
                self._report.error(place, "", "<< takes a mapping or a list of mappings")
        return merged

    def _alias(self, event: Any) -> Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            self._fail(event, f'there is no anchor "&{event.anchor}" before this alias')
        return node

    def _check_tag(self, event: Any) -> None:
        if event.tag and event.tag != "!" and event.tag not in _PLAIN_TAGS:
            shown = "!!" + event.tag.removeprefix(_TAG) if event.tag.startswith(_TAG) else event.tag
            self._report.error(self._place(event), "", f'the tag "{shown}" is not allowed here')


def _is_typed(tag: str | None) -> bool:
    """`!!int "3"`: the quotes do not make a text of it."""
    return tag in {_TAG + "int", _TAG + "float", _TAG + "bool", _TAG + "null"}


def _size(node: Node) -> int:
    return 1 if isinstance(node, Scalar) else node.size


def _height(node: Node) -> int:
    return 0 if isinstance(node, Scalar) else node.height


def join(path: str, key: str | int) -> str:
    """The path of an item: `model_list[1].litellm_params`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key
