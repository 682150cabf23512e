"""`penstock ledger`: does it add up, what is in it, and away with what is old.

It uses the store itself, the SQLite file in the data folder or the Postgres that the configuration or `DATABASE_URL` names,
beside a gateway that runs or without one. Exit codes: 0 well, 1 sums and rows do not agree, or the ledger cannot be read,
2 a command that was not understood.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
import time as clock
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time
from pathlib import Path

from gateway.admin.books import csv_head, csv_line, every_row, json_line, verify
from gateway.app import database_of
from gateway.background.retention import first_kept, prune
from gateway.config.environment import load_dotenv, read_environment
from gateway.config.load import load
from gateway.config.problems import ConfigInvalid
from gateway.config.values import seconds_of
from gateway.state.open import FILE, open_records
from gateway.state.records import LedgerQuery, Records, RecordsUnavailable, usd

Work = Callable[[Records, argparse.Namespace], Awaitable[int]]


class CannotReadError(Exception):
    """Why, in one line."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add `verify`, `export` and `prune`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    about = "add up all rows and compare with every total; exit code 0 if they agree"
    check = commands.add_parser("verify", help=about, description=about)
    _add_query(check)
    _finish(check, _verify)
    about = "print rows, the newest first"
    export = commands.add_parser("export", help=about, description=about)
    export.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="default: csv")
    _add_query(export)
    _finish(export, _export)
    about = "delete rows of days that are long past; sums, spend and budgets stay as they are"
    old = commands.add_parser("prune", help=about, description=about)
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
    add("--key", metavar="KEY", help="of this key alone: the key itself, or its digest")


def _finish(parser: argparse.ArgumentParser, work: Work) -> None:
    add = parser.add_argument
    add("-c", "--config", help="configuration file, if it says where the database is (CONFIG_FILE_PATH)")
    add("--data-dir", type=Path, metavar="FOLDER", help="where penstock.db is (PENSTOCK_DATA_DIR)")
    parser.set_defaults(run=lambda parsed: _run(work, parsed))


def moment(text: str) -> float:
    try:
        if len(text) == len("2026-01-31"):
            return datetime.combine(date.fromisoformat(text), time(), UTC).timestamp()
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"not a date like 2026-01-31: {text!r}") from None


def _span(text: str) -> float:
    found = seconds_of(text)
    if not found:
        raise argparse.ArgumentTypeError(f"not a span like 90d: {text!r}")
    return found


def _run(work: Work, parsed: argparse.Namespace) -> int:
    try:
        return asyncio.run(_with_records(work, parsed))
    except (RecordsUnavailable, CannotReadError) as error:
        print(f"penstock: {error}", file=sys.stderr)
    except ConfigInvalid as invalid:
        for problem in invalid.problems:
            print(problem, file=sys.stderr)
    return 1


async def _with_records(work: Work, parsed: argparse.Namespace) -> int:
    records = records_of(parsed)
    try:
        return await work(records, parsed)
    finally:
        await records.close()


def records_of(parsed: argparse.Namespace) -> Records:
    environ = load_dotenv(Path(".env"), os.environ)
    file = parsed.config or environ.get("CONFIG_FILE_PATH")
    database = database_of(load(Path(file) if file else None, environ).config.general)
    folder = parsed.data_dir or read_environment(environ).data_dir
    if database is None and not (folder / FILE).is_file():
        raise CannotReadError(f"there is no ledger at {folder / FILE}")
    records, warnings = open_records(folder, database)
    if database is None and not records.describe().durable:
        raise CannotReadError(warnings[0])
    return records


def _query(parsed: argparse.Namespace) -> LedgerQuery:
    key = parsed.key
    digest = hashlib.sha256(key.encode()).hexdigest() if key and key.startswith("sk-") else key
    return LedgerQuery(since=parsed.since, until=parsed.until, key_digest=digest)


async def _verify(records: Records, parsed: argparse.Namespace) -> int:
    verdict = await verify(records, _query(parsed))
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
    async for rows in every_row(records, _query(parsed)):
        write("".join(map(line, rows)))
    return 0


async def _prune(records: Records, parsed: argparse.Namespace) -> int:
    before = first_kept(clock.time(), parsed.older_than)
    day = datetime.fromtimestamp(before, UTC).date().isoformat()
    if parsed.dry_run:
        query = LedgerQuery(until=before)
        (total,), (pruned,) = await records.totals((), query), await records.pruned((), query)
        print(f"{total.requests - pruned.requests} rows from before {day} would be deleted")
        return 0
    count = 0
    async for deleted in prune(records, before):
        count += deleted
    print(f"{count} rows from before {day} were deleted; their sums are kept")
    return 0
