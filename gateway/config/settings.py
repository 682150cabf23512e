"""Every setting that was written, by its name, wherever it stands; and what is wrong with where it stands.

What a name means is said in `vocabulary`; `sections` reads the values.
"""

from __future__ import annotations

from gateway.config.environment import PLACE as ENVIRONMENT
from gateway.config.model import Place
from gateway.config.nodes import Item, Mapping, Node, Scalar, Sequence, join
from gateway.config.problems import Report, closest
from gateway.config.values import is_null, is_off, same
from gateway.config.vocabulary import ENTRY_KEYS, PARAM_KEYS, SECTIONS, SETTINGS, TOP, Key, Section

Settings = dict[str, tuple[Key, Item, str]]
"""Every setting that was written: what it is, its node, its path."""


def collect(top: dict[str, Item], report: Report) -> Settings:
    """All settings by name. Says what is unknown, misplaced, contradictory or without effect."""
    found: Settings = {}
    for name, item in top.items():
        if name in TOP:
            judge(TOP[name], item, name, report)
        else:
            _take(name, item, "", found, report)
    for section in SECTIONS:
        node = top[section].value if section in top else None
        if isinstance(node, Mapping):
            for name, item in node.items.items():
                _take(name, item, section, found, report)
        elif node is not None and not is_null(node):
            report.error(node.place, section, "must be a mapping")
    return found


def _take(name: str, item: Item, section: Section, found: Settings, report: Report) -> None:
    key = SETTINGS.get(name)
    if key is None:
        _unknown(name, item, section, report)
        return
    if name in found:
        earlier = found[name][1]
        if not same(earlier.value, item.value):
            report.error(item.place, section, f'"{name}" says something else here than at {earlier.place}')
        return
    if key.status == "works" and section != key.section:
        report.notice(
            item.place, section, f'"{name}" is found under {section or "the top"}, its place is {key.section}'
        )
    path = join(section, name)
    found[name] = (key, item, path)
    judge(key, item, section, report)


def _unknown(name: str, item: Item, section: Section, report: Report) -> None:
    if section and name in TOP:
        report.doubt(item.place, section, f'"{name}" belongs at the top of the file')
    elif not section and name in ENTRY_KEYS | PARAM_KEYS:
        report.doubt(item.place, "", f'"{name}" belongs in an entry of model_list')
    else:
        nearby = {other for other, key in SETTINGS.items() if section in (key.section, *key.also)}
        nearby |= set(TOP) if not section else set()
        hint = closest(name, nearby) or closest(name, SETTINGS)
        report.doubt(item.place, section, f'unknown key "{name}"', hint)


def judge(key: Key, item: Item, path: str, report: Report) -> None:
    """Say what has no effect; refuse what promises safety that is not there."""
    if key.status == "later" and not is_null(item.value):
        tell = report.notice if is_off(item.value) else report.warning
        tell(item.place, path, f"{key.name} has no effect yet: {key.text}")
    elif key.status == "ignored":
        report.notice(item.place, path, f"{key.name} is not needed: {key.text}")
    elif key.status == "refused":
        if _asks_for_nothing(item.value, key.harmless):
            report.notice(item.place, path, f"{key.name} has no effect, and with this value needs none")
        else:
            report.error(item.place, path, f"{key.name}: {key.text}")


def _asks_for_nothing(node: Node, harmless: tuple[str, ...]) -> bool:
    if isinstance(node, Sequence):
        return all(_asks_for_nothing(item, harmless) for item in node.items)
    return is_off(node) or (isinstance(node, Scalar) and node.text.lower() in harmless)


def where_of(settings: Settings, name: str) -> tuple[Place, str]:
    """Where the value of a setting came from, and its path."""
    if name not in settings:
        return ENVIRONMENT, name
    _, item, path = settings[name]
    return item.value.place, path
