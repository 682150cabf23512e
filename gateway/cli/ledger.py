"""`penstock ledger`: does it add up, what is in it, and away with what is old.

It uses the store itself, the SQLite file in the data folder or the Postgres that the configuration or `DATABASE_URL` names,
beside a gateway that runs or without one. Exit codes: 0 well, 1 sums and rows do not agree, or the ledger cannot be read,
2 a command that was not understood.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from gateway.admin.books import csv_head, csv_line, every_row, json_line, verify
from gateway.background.retention import first_kept, prune
from gateway.cli.common import (
    add_command,
    add_store,
    carry_out,
    data_folder,
    environ_here,
    general_settings,
    moment,
    open_store,
    text,
)
from gateway.config.values import span_of
from gateway.keyfields import digest_of
from gateway.state.records import LedgerQuery, Records, usd

Work = Callable[[Records, argparse.Namespace], Awaitable[int]]


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add `verify`, `export` and `prune`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    about = "add up all rows and compare with every total; exit code 0 if they agree"
    check = add_command(commands, "verify", about, "penstock ledger verify --config config.yaml")
    _add_query(check)
    _finish(check, _verify)
    about = "print rows, the newest first"
    example = "penstock ledger export --format jsonl --since 2026-01-01 --until 2026-02-01"
    export = add_command(commands, "export", about, example)
    export.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="default: csv")
    _add_query(export)
    _finish(export, _export)
    about = "delete rows of days that are long past; sums, spend and budgets stay as they are"
    old = add_command(commands, "prune", about, "penstock ledger prune --older-than 90d --dry-run")
    older = "keep this long and delete the days (UTC) before: 90d, 12w, 6mo"
    old.add_argument("--older-than", type=_span, required=True, metavar="SPAN", help=older)
    old.add_argument("--dry-run", action="store_true", help="say how many rows it would be, and delete none")
    _finish(old, _prune)


def _add_query(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--since",
        type=moment,
        metavar="DATE",
        help="from this day or time on, UTC: 2026-01-31, 2026-01-31T12:00",
    )
    add("--until", type=moment, metavar="DATE", help="until before this day or time")
    add("--key", type=text, metavar="KEY", help="of this key alone: the key itself, or its digest")


def _finish(parser: argparse.ArgumentParser, work: Work) -> None:
    add_store(parser)
    parser.set_defaults(run=lambda parsed: carry_out(lambda: asyncio.run(_with_records(work, parsed))))


_LONGEST = 1000 * 366 * 86400.0
"""Seconds: before that there are no dates."""


def _span(text: str) -> float:
    found = span_of(text)
    if not found or found > _LONGEST:
        raise argparse.ArgumentTypeError(f"not a span like 90d: {text!r}")
    return found


async def _with_records(work: Work, parsed: argparse.Namespace) -> int:
    general, environ = general_settings(parsed, environ_here())
    records = open_store(data_folder(parsed, environ), general)
    try:
        return await work(records, parsed)
    finally:
        await records.close()


async def _query(records: Records, parsed: argparse.Namespace) -> LedgerQuery:
    payer = await _payer(records, parsed.key) if parsed.key else None
    return LedgerQuery(since=parsed.since, until=parsed.until, key_digest=payer)


async def _payer(records: Records, key: str) -> str:
    """Whose rows a key's are: one that took another's place spends where that one did. Whether the text is a key or its digest
    is for the store to say: a key of a configuration may begin with anything, and is not among the stored ones.
    """
    own = digest_of(key)
    for digest in (own, key):
        if (row := await records.key(digest)) is not None:
            return row.payer
    (total,) = await records.totals((), LedgerQuery(key_digest=own))
    return own if total.requests else key


async def _verify(records: Records, parsed: argparse.Namespace) -> int:
    verdict = await verify(records, await _query(records, parsed))
    for problem in verdict.problems:
        print(problem)
    total = verdict.total
    pruned = f", {verdict.pruned} of them pruned" if verdict.pruned else ""
    print(f"{total.requests} rows, ${usd(total.cost_nano):.9f}, {total.unpriced} without a price{pruned}")
    if verdict.busy:
        print(
            "rows come or are pruned faster than they can be added up: "
            "give an --until that has passed, or wait until pruning has ended"
        )
    elif not verdict.problems:
        print("rows and totals agree")
    return 1 if verdict.problems or verdict.busy else 0


async def _export(records: Records, parsed: argparse.Namespace) -> int:
    write, line = sys.stdout.write, json_line
    if parsed.format == "csv":
        write(csv_head())
        line = csv_line
    async for rows in every_row(records, await _query(records, parsed)):
        write("".join(map(line, rows)))
    return 0


async def _prune(records: Records, parsed: argparse.Namespace) -> int:
    before = first_kept(time.time(), parsed.older_than)
    day = datetime.fromtimestamp(before, UTC).date().isoformat()
    if parsed.dry_run:
        query = LedgerQuery(until=before)
        (total,), (pruned,) = await records.totals((), query), await records.pruned((), query)
        print(f"{total.requests - pruned.requests} rows from before {day} would be deleted")
        return 0
    count, is_alone = 0, True
    async for deleted in prune(records, before):
        count += deleted
        if not deleted and is_alone:
            is_alone = False
            print("another process deletes old rows too: they take turns", file=sys.stderr)
    print(f"{count} rows from before {day} were deleted; their sums are kept")
    return 0
