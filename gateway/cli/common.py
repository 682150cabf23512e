"""What the subcommands share: where they are (environment, configuration, store), the gateway they ask, and how they tell.

A subcommand is a function of its arguments. `carry_out` runs it: what it raises for a person is one line on the standard
error and exit code 1, never a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from http.client import HTTPException
from pathlib import Path
from typing import Any

from gateway.app import database_of
from gateway.banner import reachable
from gateway.config.environment import load_dotenv, read_environment
from gateway.config.load import load
from gateway.config.model import Config, GeneralSettings
from gateway.config.problems import ConfigInvalid
from gateway.state.open import FILE, open_records
from gateway.state.records import Records, RecordsUnavailable
from gateway.state.records_sqlite import SqliteRecords


class NotDone(Exception):
    """Why a command was not carried out, in one line."""


def carry_out(work: Callable[[], int | None], *expected: type[Exception]) -> int:
    """Do it, and tell what went wrong, also if it is one of those `expected`; the exit code."""
    told: tuple[type[Exception], ...] = (NotDone, RecordsUnavailable, *expected)
    try:
        return work() or 0
    except told as error:
        print(f"penstock: {error}", file=sys.stderr)
    except ConfigInvalid as invalid:
        for problem in invalid.problems:
            print(problem, file=sys.stderr)
    return 1


# -- --help ----------------------------------------------------------------------------------------------------------

_EXAMPLES = "examples:\n"


class _Help(argparse.HelpFormatter):
    """Fills paragraphs, and leaves examples as they are: lines to copy."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLES) else super()._fill_text(text, width, indent)


def add_command(
    commands: Any, name: str, about: str, *examples: str, more: str = "", **options: Any
) -> argparse.ArgumentParser:
    """A subcommand. `about` is its line in the list of commands, and with `more` what its own help begins with."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about + more,
        formatter_class=_Help,
        epilog=_EXAMPLES + "\n".join(f"  {example}" for example in examples) if examples else None,
        **options,
    )
    return parser


# -- here ------------------------------------------------------------------------------------------------------------


def environ_here() -> dict[str, str]:
    """The environment, with what `.env` in this folder adds."""
    return load_dotenv(Path(".env"), os.environ)


def config_path(named: str | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration that the command line names, else the environment; None if nobody does."""
    return Path(named) if named else read_environment(environ).config_path


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `general_settings` and `data_folder` read."""
    add = parser.add_argument
    add("-c", "--config", help="configuration file, if it says where the database is (CONFIG_FILE_PATH)")
    add("--data-dir", type=Path, metavar="FOLDER", help="where penstock.db is (PENSTOCK_DATA_DIR)")


def general_settings(
    parsed: argparse.Namespace, environ: Mapping[str, str]
) -> tuple[GeneralSettings, dict[str, str]]:
    """Those of the configuration that is meant, and the environment with what it sets. Raises `ConfigInvalid`."""
    config = load(config_path(parsed.config, environ), environ).config
    return config.general, with_own(config, environ)


def with_own(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with the `environment_variables` of a configuration."""
    own = {name: secret.reveal() for name, secret in config.environment_variables.items()}
    return {**environ, **own}


def data_folder(parsed: argparse.Namespace, environ: Mapping[str, str]) -> Path:
    """Where `--data-dir` says, else the environment."""
    folder: Path | None = parsed.data_dir
    return folder or read_environment(environ).data_dir


def open_store(folder: Path, general: GeneralSettings) -> Records:
    """The Postgres of these settings, else the SQLite file in the folder, which must be there. Raises `NotDone`."""
    database = database_of(general)
    if database is not None:
        return open_records(folder, database)[0]
    if not is_file(folder / FILE):
        raise NotDone(f"there is no store at {folder / FILE}")
    return open_file(folder / FILE)


def is_file(path: Path) -> bool:
    """Is there such a file? Raises `NotDone` where that cannot be told: in a folder that others may not enter, for instance."""
    try:
        return path.is_file()
    except OSError as error:
        raise NotDone(f"{path} cannot be read: {error.strerror}") from None


def open_file(path: Path) -> Records:
    """The store in an SQLite file. Raises `NotDone`: a command never goes on with one in memory, as a gateway would."""
    try:
        return SqliteRecords(path)
    except (OSError, sqlite3.Error) as error:
        raise NotDone(f"{path} cannot be read: {error}") from None


def moment(text: str) -> float:
    """A day or a time as an argument, in unix seconds; without a zone it is UTC."""
    try:
        if len(text) == len("2026-01-31"):
            return datetime.combine(date.fromisoformat(text), time(), UTC).timestamp()
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"not a date like 2026-01-31: {text!r}") from None


# -- a gateway that runs ---------------------------------------------------------------------------------------------

directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks without the proxy of the environment, which is meant for providers."""

_WHICH_KEY = " (the key that is sent is LITELLM_MASTER_KEY of the environment or of .env)"


def seconds(text: str) -> float:
    """A time to wait as an argument."""
    number = float(text)
    if not 0 < number <= 86_400:
        raise argparse.ArgumentTypeError("must be more than 0 and at most 86400")
    return number


def text(written: str) -> str:
    """What a gateway is to be asked for, as an argument; the terminal may give bytes that no request can carry."""
    try:
        written.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("must be UTF-8") from None
    return written


def checked_url(url: str) -> str:
    """Where a gateway is. Raises `NotDone`, which does not repeat a password."""
    if "@" in url:
        raise NotDone(
            "a URL with a name or password in it (before an @) is not asked; LITELLM_MASTER_KEY is the key"
        )
    if not url.startswith(("http://", "https://")):
        raise NotDone(f"not a URL: {url}")
    return url


def ask(parsed: argparse.Namespace, method: str, path: str, fields: Any = None, *, wanted: str = "") -> Any:
    """What the gateway at `parsed.url` answers within `parsed.timeout` seconds, which has the field `wanted`. Raises `NotDone`."""
    environment = read_environment(environ_here())
    base = checked_url(parsed.url or f"http://{reachable(environment.host)}:{environment.port}")
    headers = {"content-type": "application/json"}
    if environment.master_key:
        if not environment.master_key.reveal().isprintable():
            raise NotDone("LITELLM_MASTER_KEY has a line break or another character in it that no key has")
        headers["authorization"] = f"Bearer {environment.master_key.reveal()}"
    body = None if fields is None else json.dumps(fields).encode()
    try:
        request = urllib.request.Request(base.rstrip("/") + path, body, headers, method=method)  # noqa: S310 - looked at above
        with directly.open(request, timeout=parsed.timeout) as response:
            told = json.loads(response.read())
    except urllib.error.HTTPError as error:
        hint = _WHICH_KEY if error.code == 401 else ""
        raise NotDone(f"{base} answered {error.code}: {_message(error)}{hint}") from None
    except (OSError, ValueError, HTTPException) as error:
        raise NotDone(f"{base}: {getattr(error, 'reason', None) or error}") from None
    if not isinstance(told, dict) or (wanted and wanted not in told):
        raise NotDone(f"{base} answered something that no gateway says; is it one?")
    return told


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (OSError, ValueError, LookupError, TypeError, HTTPException):
        return str(error.reason)


# -- for people ------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Lines with their columns under each other; those whose numbers are in `right` end alike. Empty columns are left out."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = set(right)
    return [
        "  ".join(
            cell.rjust(width) if at in aligned else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            if width
        ).rstrip()
        for row in rows
    ]
