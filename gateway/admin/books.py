"""Looking at the ledger as a whole: every row in turn, and whether sums and rows agree.

Rows are read a page at a time, the newest first, so that a ledger of any size takes no more memory than a page. A page ends
between two moments of start and never within one: rows of the same moment come together, so that none is left out and none
comes twice while others are being added.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from gateway.state.records import (
    EVERYTHING,
    FLAT,
    TOKENS,
    UNITS,
    Dimension,
    LedgerQuery,
    LedgerRow,
    Records,
    Total,
    flatten,
    usd,
)

PAGE = 2_000

_GROUPINGS: tuple[tuple[Dimension, ...], ...] = (
    (),
    ("day",),
    ("model",),
    ("model_group",),
    ("provider",),
    ("key_digest",),
    ("end_user",),
)
_COLUMNS = ("started", "cost", *FLAT)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_TRIES = 5
_MOST_TOLD = 20
_json = msgspec.json.Encoder()


async def every_row(
    records: Records, query: LedgerQuery = EVERYTHING, page: int = PAGE
) -> AsyncIterator[list[LedgerRow]]:
    """All rows that fit, newest start first, some thousand at a time."""
    size = page
    while rows := await records.rows(query, size):
        whole = rows if len(rows) < size else [row for row in rows if row.started_at > rows[-1].started_at]
        if not whole:
            size *= 2  # all of one moment
            continue
        yield whole
        if whole is rows:
            return
        size = page
        query = msgspec.structs.replace(query, until=math.nextafter(rows[-1].started_at, math.inf))


# -- export ----------------------------------------------------------------------------------------------------------


def json_line(row: LedgerRow) -> str:
    """A row as one line of JSON: all that it says by its names, `started` as ISO 8601, and `cost` in dollars."""
    return _json.encode(_shown(row)).decode() + "\n"


def csv_head() -> str:
    """The names of the columns."""
    return _csv(_COLUMNS)


def csv_line(row: LedgerRow) -> str:
    """A row as one line of CSV. Lists are JSON; what is unknown is empty. Text that a spreadsheet would take for a formula has
    a `'` in front: clients choose some of it.
    """
    return _csv([_cell(value) for value in _shown(row).values()])


def _shown(row: LedgerRow) -> dict[str, Any]:
    started = datetime.fromtimestamp(row.started_at, UTC).isoformat(timespec="microseconds")
    cost = None if row.cost_nano is None else usd(row.cost_nano)
    return {"started": started, "cost": cost, **flatten(row)}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    if isinstance(value, float):
        return f"{value:.9f}"
    return str(value) if isinstance(value, int) else _json.encode(value).decode()


def _csv(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


# -- verify ----------------------------------------------------------------------------------------------------------


class Verdict(Struct, frozen=True):
    """What was found: all there is, and what is wrong, a line each. `busy`: rows came in, or went, so fast that nothing can be
    said. `pruned`: how many of the total are no rows any more.
    """

    total: Total
    problems: tuple[str, ...]
    busy: bool = False
    pruned: int = 0


async def verify(records: Records, query: LedgerQuery = EVERYTHING) -> Verdict:
    """Add up the rows one by one, and the minutes of pruned ones, and compare with every total that the store gives; look at
    each row on the way.

    The ledger may be written to meanwhile: what changed is looked at again.
    """
    for _ in range(_TRIES):
        before, pruned = await _all_totals(records.totals, query), await _all_totals(records.pruned, query)
        problems, sums = await _add_up(records, query, pruned)
        after = await _all_totals(records.totals, query)
        if before == after and pruned == await _all_totals(records.pruned, query):
            problems += _differences(after, sums)
            return Verdict(after[()][()], tuple(problems[:_MOST_TOLD]), pruned=pruned[()][()].requests)
    return Verdict(after[()][()], tuple(problems[:_MOST_TOLD]), busy=True)


_Sums = dict[tuple[Dimension, ...], dict[tuple[str, ...], Total]]
_Totals = Callable[[Sequence[Dimension], LedgerQuery], Awaitable[list[Total]]]


async def _all_totals(totals: _Totals, query: LedgerQuery) -> _Sums:
    return {by: {total.group: total for total in await totals(by, query)} for by in _GROUPINGS}


async def _add_up(records: Records, query: LedgerQuery, pruned: _Sums) -> tuple[list[str], _Sums]:
    """What is wrong with single rows, and the sums of all of them and of what was `pruned`."""
    counts = {by: {group: _counted(total) for group, total in pruned[by].items()} for by in _GROUPINGS}
    problems: list[str] = []
    async for rows in every_row(records, query):
        names = Counter(row.id for row in rows)
        problems += [f"{name}: there are {count} rows of it" for name, count in names.items() if count > 1]
        for row in rows:
            problems += [f"{row.id}: {problem}" for problem in _oddities(row)]
            numbers = _numbers(row)
            for by in _GROUPINGS:
                group = tuple(_of(row, dimension) for dimension in by)
                counts[by].setdefault(group, Counter()).update(numbers)
    return problems, {
        by: {group: _total(group, numbers) for group, numbers in groups.items()}
        for by, groups in counts.items()
    }


def _counted(total: Total) -> Counter[str]:
    return Counter({name: getattr(total, name) for name in Total.__struct_fields__[1:]})


def _oddities(row: LedgerRow) -> list[str]:
    """What no row may say."""
    found = [
        f"{name} is negative"
        for name in ("total_us", *TOKENS, *UNITS, "cost_nano")
        if (getattr(row, name) or 0) < 0
    ]
    if row.cost_nano and row.cost_source == "none":
        found.append("it costs something, and nobody says why")
    if row.cost_nano is None and row.cost_source != "none":
        found.append(f"its cost comes from {row.cost_source}, and there is none")
    return found


def _numbers(row: LedgerRow) -> dict[str, int]:
    return {
        "requests": 1,
        "failures": row.status == "failure",
        "unpriced": row.cost_nano is None,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "cost_nano": row.cost_nano or 0,
    }


def _of(row: LedgerRow, dimension: Dimension) -> str:
    if dimension == "day":
        return datetime.fromtimestamp(int(row.started_at), UTC).date().isoformat()
    return str(getattr(row, dimension) or "")


def _total(group: tuple[str, ...], numbers: Counter[str]) -> Total:
    return Total(group, *(numbers[name] for name in Total.__struct_fields__[1:]))


def _differences(told: _Sums, added: _Sums) -> list[str]:
    found = []
    for by in _GROUPINGS:
        for group in sorted(told[by].keys() | added[by].keys()):
            of = ", ".join(f"{name} {value!r}" for name, value in zip(by, group, strict=True)) or "everything"
            one, other = told[by].get(group), added[by].get(group)
            for name in Total.__struct_fields__[1:]:
                told_sum, added_sum = (getattr(total, name) if total else 0 for total in (one, other))
                if told_sum != added_sum:
                    found.append(f"{name} of {of}: the total says {told_sum}, the rows add up to {added_sum}")
    return found
