"""`penstock ledger`: does it add up, and what is in it?

It reads the store itself, the SQLite file in the data folder or the Postgres that the configuration or `DATABASE_URL` names,
beside a gateway that runs or without one. Exit codes: 0 well, 1 sums and rows do not agree, or the ledger cannot be read,
2 a command that was not understood.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time
from pathlib import Path

from gateway.admin.books import csv_head, csv_line, every_row, json_line, verify
from gateway.app import database_of
from gateway.config.environment import load_dotenv, read_environment
from gateway.config.load import load
from gateway.config.problems import ConfigInvalid
from gateway.state.open import FILE, open_records
from gateway.state.records import LedgerQuery, Records, RecordsUnavailable, usd

Work = Callable[[Records, argparse.Namespace], Awaitable[int]]


class _CannotReadError(Exception):
    """Why, in one line."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add `verify` and `export`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    about = "add up all rows and compare with every total; exit code 0 if they agree"
    _finish(commands.add_parser("verify", help=about, description=about), _verify)
    about = "print rows, the newest first"
    export = commands.add_parser("export", help=about, description=about)
    export.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="default: csv")
    _finish(export, _export)


def _finish(parser: argparse.ArgumentParser, work: Work) -> None:
    add = parser.add_argument
    add(
        "--since",
        type=_moment,
        metavar="DATE",
        help="from this day or time on, UTC: 2026-01-31, 2026-01-31T12:00",
    )
    add("--until", type=_moment, metavar="DATE", help="until before this day or time")
    add("--key", metavar="KEY", help="of this key alone: the key itself, or its digest")
    add("-c", "--config", help="configuration file, if it says where the database is (CONFIG_FILE_PATH)")
    add("--data-dir", type=Path, metavar="FOLDER", help="where penstock.db is (PENSTOCK_DATA_DIR)")
    parser.set_defaults(run=lambda parsed: _run(work, parsed))


def _moment(text: str) -> float:
    try:
        if len(text) == len("2026-01-31"):
            return datetime.combine(date.fromisoformat(text), time(), UTC).timestamp()
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"not a date like 2026-01-31: {text!r}") from None


def _run(work: Work, parsed: argparse.Namespace) -> int:
    try:
        return asyncio.run(_with_records(work, parsed))
    except (RecordsUnavailable, _CannotReadError) as error:
        print(f"penstock: {error}", file=sys.stderr)
    except ConfigInvalid as invalid:
        for problem in invalid.problems:
            print(problem, file=sys.stderr)
    return 1


async def _with_records(work: Work, parsed: argparse.Namespace) -> int:
    records = _records(parsed)
    try:
        return await work(records, parsed)
    finally:
        await records.close()


def _records(parsed: argparse.Namespace) -> Records:
    environ = load_dotenv(Path(".env"), os.environ)
    file = parsed.config or environ.get("CONFIG_FILE_PATH")
    database = database_of(load(Path(file) if file else None, environ).config.general)
    folder = parsed.data_dir or read_environment(environ).data_dir
    if database is None and not (folder / FILE).is_file():
        raise _CannotReadError(f"there is no ledger at {folder / FILE}")
    records, warnings = open_records(folder, database)
    if database is None and not records.describe().durable:
        raise _CannotReadError(warnings[0])
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
    print(f"{total.requests} rows, ${usd(total.cost_nano):.9f}, {total.unpriced} without a price")
    if verdict.busy:
        print("rows come in faster than they can be added up: give an --until that has passed")
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
