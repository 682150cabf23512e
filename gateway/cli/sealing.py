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
import sys
from collections.abc import Mapping

from gateway.cli.common import (
    NotDone,
    add_store,
    carry_out,
    data_folder,
    environ_here,
    general_settings,
    open_store,
)
from gateway.config.model import GeneralSettings
from gateway.named_credentials import reseal
from gateway.state.sealing import NAME, CannotOpen, CannotSeal, Sealer

_STDIN = "-"


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
    add_store(parser)
    parser.set_defaults(
        run=lambda parsed: carry_out(lambda: asyncio.run(_rotate(parsed)), CannotSeal, CannotOpen)
    )


async def _rotate(parsed: argparse.Namespace) -> None:
    general, environ = general_settings(parsed, environ_here())
    old, new = Sealer(_old(parsed.from_env, environ, general)), Sealer(_salt(parsed.to_env, environ))
    if old.key_id == new.key_id:
        raise NotDone("the old salt and the new one are the same")
    records = open_store(data_folder(parsed, environ), general)
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


def _old(name: str, environ: Mapping[str, str], general: GeneralSettings) -> str:
    if name == NAME and not environ.get(NAME) and general.master_key:
        return general.master_key.reveal()
    return _salt(name, environ)


def _salt(name: str, environ: Mapping[str, str]) -> str:
    found = sys.stdin.readline() if name == _STDIN else environ.get(name, "")
    if not found.strip():
        raise NotDone("standard input is empty" if name == _STDIN else f"{name} is not set")
    if not _is_text(found):
        raise NotDone(f"{'standard input' if name == _STDIN else name} is not UTF-8 text")
    return found.strip()


def _is_text(found: str) -> bool:
    try:
        found.encode()
    except UnicodeEncodeError:
        return False
    return True
