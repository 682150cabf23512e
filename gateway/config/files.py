"""The files of a configuration, joined into one top level: the main file, what it includes, the `models/` folder beside it."""

from __future__ import annotations

from collections.abc import Mapping as Names
from pathlib import Path

from gateway.config.model import Place
from gateway.config.nodes import Item, Mapping, Node, Sequence, parse
from gateway.config.problems import Report, hidden
from gateway.config.seen import Seen, content_of, digest_of, digest_of_file, models_in
from gateway.config.values import Reader, is_null


class Files:
    """Reads files and joins their top levels into `top`: lists are joined, any other key is replaced."""

    def __init__(self, report: Report, environ: Names[str, str], seen: Seen | None = None) -> None:
        self.top: dict[str, Item] = {}
        self.names: list[str] = []
        self._looked_at = {} if seen is None else seen
        self._report = report
        self._reader = Reader(environ, report)
        self._seen: set[Path] = set()

    def read_main(self, path: Path) -> None:
        """The file, what it includes, and the `models/` folder beside it."""
        self._read(path, Place(str(path), 0, 0))
        folder = path.parent / "models"
        self._looked_at[str(folder)] = digest_of_file(folder)
        try:
            files = models_in(folder)
        except OSError as error:
            self._report.error(Place(str(folder), 0, 0), "", f"cannot be read: {error.strerror}")
            return
        for file in files:
            self._read_models(file)

    def _read(self, path: Path, wanted_at: Place) -> None:
        items = self._document(path, wanted_at)
        if items is None:
            return
        for name, item in items.items():
            if name != "include":
                self._join(name, item)
        if "include" in items:
            for name in self._included(items["include"].value):
                self._read(path.parent / name, items["include"].value.place)

    def _included(self, node: Node) -> tuple[str, ...]:
        names = self._reader.texts(node, "include") or ()
        unset, self._reader.unset = self._reader.unset, []
        for where, name in unset:
            told = f"{name} is not set, so a part would be missing: write ${{{name}:-}} where it may be"
            self._report.error(node.place, where, told)
        return () if unset else names

    def _read_models(self, path: Path) -> None:
        """A file of `models/` adds to the model list and can do nothing else."""
        items = self._document(path, Place(str(path), 0, 0))
        for name, item in (items or {}).items():
            if name == "model_list":
                self._join(name, item)
            else:
                self._report.warning(item.place, name, "only model_list is read from files in models/")

    def _document(self, path: Path, wanted_at: Place) -> dict[str, Item] | None:
        """The top level of a file; None if there is nothing to use in it or it was read already."""
        try:
            real = path.resolve()
            if real in self._seen:
                return None
            self._seen.add(real)
            self._looked_at[str(path)] = ""
            content = content_of(path)
            self._looked_at[str(path)] = digest_of(content)
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            self._report.error(Place(str(path), line, 1), "", "not UTF-8 text")
            return None
        except (OSError, ValueError, RuntimeError) as error:  # no such file, a name with NUL, a loop of links
            why = error.strerror if isinstance(error, OSError) else error
            self._report.error(wanted_at, "", f"{f'{path}: ' if wanted_at.line else ''}cannot be read: {why}")
            return None
        self.names.append(str(path))
        node = parse(text, str(path), self._report)
        return None if node is None or is_null(node) else self._top_level(node)

    def _top_level(self, node: Node) -> dict[str, Item] | None:
        """A mapping as it is; a bare list of entries or a single entry is a model list."""
        if isinstance(node, Mapping):
            if "model_name" not in node.items:
                return node.items
            node = Sequence((node,), node.place, node.size)
        entries = node.items if isinstance(node, Sequence) else ()
        if any(isinstance(entry, Mapping) and "model_name" in entry.items for entry in entries):
            return {"model_list": Item(node.place, node)}
        self._report.error(
            node.place, "", "must be a mapping with model_list, router_settings, general_settings …"
        )
        return None

    def _join(self, name: str, item: Item) -> None:
        earlier = self.top.get(name)
        if earlier and isinstance(earlier.value, Sequence) and isinstance(item.value, Sequence):
            whole = earlier.value.items + item.value.items
            item = Item(earlier.place, Sequence(whole, earlier.value.place, len(whole)))
        elif earlier:
            self._report.warning(item.place, name, f"replaces the whole {hidden(name)} of {earlier.place}")
        self.top[name] = item
