"""`penstock rotate-salt`: another key for what the store keeps sealed.

It opens the store itself, the SQLite file in the data folder or the Postgres that the configuration or `DATABASE_URL` names,
opens every sealed value with the old salt and seals it with the new one, in one transaction: all rows or none. Values in
LiteLLM's formats become ours. It may be run again; what the new salt has sealed already stays as it is.

Salts are named by their environment variables, or read from the standard input, one a line, the old one first: a command line
is for everybody to read. Exit codes: 0 done, 1 not done, 2 a command that was not understood.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from gateway.app import database_of
from gateway.config.environment import load_dotenv, read_environment
from gateway.config.load import load
from gateway.config.model import GeneralSettings
from gateway.config.problems import ConfigInvalid
from gateway.named_credentials import reseal
from gateway.state.open import FILE, open_records
from gateway.state.records import Records, RecordsUnavailable
from gateway.state.sealing import NAME, CannotOpen, CannotSeal, Sealer

_STDIN = "-"


class _RefusedError(Exception):
    """Why it was not done, in one line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `rotate-salt` takes."""
    add = parser.add_argument
    add(
        "--from-env",
        metavar="NAME",
        default=NAME,
        help=f"the variable that holds the old salt, - for standard input (default: {NAME}, else the master key)",
    )
    add(
        "--to-env",
        "--new-salt-env",
        dest="to_env",
        metavar="NAME",
        required=True,
        help="the variable that holds the new salt, - for standard input",
    )
    add("--dry-run", action="store_true", help="open everything, seal and write nothing")
    add("-c", "--config", help="configuration file, if it says where the database is (CONFIG_FILE_PATH)")
    add("--data-dir", type=Path, metavar="FOLDER", help="where penstock.db is (PENSTOCK_DATA_DIR)")
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    try:
        return asyncio.run(_rotate(parsed))
    except (RecordsUnavailable, CannotSeal, CannotOpen, _RefusedError) as error:
        print(f"penstock: {error}", file=sys.stderr)
    except ConfigInvalid as invalid:
        for problem in invalid.problems:
            print(problem, file=sys.stderr)
    return 1


async def _rotate(parsed: argparse.Namespace) -> int:
    environ = load_dotenv(Path(".env"), os.environ)
    file = parsed.config or environ.get("CONFIG_FILE_PATH")
    general = load(Path(file) if file else None, environ).config.general
    old, new = Sealer(_old(parsed.from_env, environ, general)), Sealer(_salt(parsed.to_env, environ))
    if old.key_id == new.key_id:
        raise _RefusedError("the old salt and the new one are the same")
    records = _open(parsed.data_dir or read_environment(environ).data_dir, general)
    try:
        moved, known = await reseal(records, old, new, dry_run=parsed.dry_run)
    finally:
        await records.close()
    would = "would be " if parsed.dry_run else ""
    print(
        f"{moved} of {known} named credentials {would}sealed with the salt {new.key_id} (before: {old.key_id})"
    )
    if moved and not parsed.dry_run:
        print(f"Start the gateways with {NAME} set to the new salt now.")
    return 0


def _old(name: str, environ: Mapping[str, str], general: GeneralSettings) -> str:
    if name == NAME and not environ.get(NAME) and general.master_key:
        return general.master_key.reveal()
    return _salt(name, environ)


def _salt(name: str, environ: Mapping[str, str]) -> str:
    found = sys.stdin.readline() if name == _STDIN else environ.get(name, "")
    if not found.strip():
        raise _RefusedError("standard input is empty" if name == _STDIN else f"{name} is not set")
    return found.strip()


def _open(folder: Path, general: GeneralSettings) -> Records:
    database = database_of(general)
    if database is None and not (folder / FILE).is_file():
        raise _RefusedError(f"there is no store at {folder / FILE}")
    records, warnings = open_records(folder, database)
    if database is None and not records.describe().durable:
        raise _RefusedError(warnings[0])
    return records
