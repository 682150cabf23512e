"""`penstock explain` and `penstock simulate`: where requests go, and where they would have gone.

`explain` reads a configuration, or with `--url` asks a running gateway, which knows its deployments' health and all keys.
`simulate` replays a ledger against another configuration. Both print a table, or with `--json` what it was made from. Exit
codes: 0 done, 1 the configuration or the ledger cannot be used or the gateway refused, 2 a command that was not understood.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from gateway.cli.common import (
    NotDone,
    add_command,
    ask,
    carry_out,
    config_path,
    environ_here,
    is_file,
    moment,
    open_file,
    open_store,
    seconds,
    table,
    text,
    with_own,
)
from gateway.config.environment import read_environment
from gateway.config.load import load
from gateway.config.model import Config, GeneralSettings, Secret
from gateway.config.postgres import PostgresUrlInvalid
from gateway.explaining import asked, explain, explain_all, unstarted
from gateway.keyfields import configured_keys, digest_of
from gateway.keyring import MASTER, Caller
from gateway.pricing import PriceTable
from gateway.routes import Routes, compile_routes
from gateway.simulation import (
    Comparison,
    LineUnreadable,
    Recorded,
    Replay,
    Side,
    oldest_first,
    read_lines,
    simulate,
)
from gateway.state.open import FILE
from gateway.state.records import LedgerQuery, LedgerRow, Records

_SQLITE = b"SQLite format 3\0"


def add_commands(commands: Any) -> None:
    """Add `explain` and `simulate` to the subcommands of `penstock`."""
    about = "who would answer a request for a model, and why not the others"
    parser = add_command(
        commands,
        "explain",
        about,
        "penstock explain --model gpt-4o --tag free",
        "penstock explain --model gpt-4o --key bot --url http://localhost:4000",
        more="; without --model: every model, and where its key comes from",
    )
    add = parser.add_argument
    add("-m", "--model", type=text, help="the name that clients ask for (default: all)")
    told = "as this virtual key: its alias, its digest or itself (default: the master key)"
    add("--key", type=text, help=told)
    add(
        "--tag",
        type=text,
        action="append",
        default=[],
        help="a tag that the request carries; may be repeated",
    )
    add("--region", type=text, help="where the caller is, for routing by region: eu, us-east-1 …")
    add("--stream", action="store_true", help="the request wants a stream")
    add(
        "-c",
        "--config",
        help="configuration file (default: CONFIG_FILE_PATH, else config.yaml if it is there)",
    )
    add("--url", help="ask the gateway that runs there instead; it knows health and all keys")
    add(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="with --url: how long to wait (default 10)",
    )
    add("--json", action="store_true", help="print the explanation as JSON")
    parser.set_defaults(run=lambda parsed: carry_out(lambda: _explain(parsed)))

    about = "replay a ledger against another configuration: cost, refusals, fallbacks, side by side"
    parser = add_command(
        commands,
        "simulate",
        about,
        "penstock simulate --config new.yaml --against config.yaml --since 2026-01-01",
        "penstock simulate --config new.yaml --ledger export.jsonl --json",
    )
    add = parser.add_argument
    add("-c", "--config", required=True, help="the configuration to try")
    add("--against", metavar="FILE", help="another one to put beside it")
    add(
        "--ledger",
        metavar="LEDGER",
        help="an SQLite file, a file of `penstock ledger export --format jsonl`, or the name of an environment variable that "
        "holds the URL of a Postgres (default: the ledger of the gateway of this folder)",
    )
    add("--since", type=moment, metavar="DATE", help="from this day or time on, UTC")
    add("--until", type=moment, metavar="DATE", help="until before this day or time")
    add("--limit", type=_rows, metavar="N", help="the first N requests alone")
    add("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=lambda parsed: carry_out(lambda: _simulate(parsed), LineUnreadable))


def _rows(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"not a number of requests: {text!r}")
    return int(text)


def _compiled(file: Path | None, environ: Mapping[str, str]) -> tuple[Config, Routes]:
    """A configuration and its routes, with the variables that it sets itself. Raises `ConfigInvalid`."""
    config = load(file, environ).config
    return config, compile_routes(config, with_own(config, environ), PriceTable.load())


# -- explain ---------------------------------------------------------------------------------------------------------


def _explain(parsed: argparse.Namespace) -> None:
    told = _asked_there(parsed) if parsed.url else _explained_here(parsed)
    if parsed.json:
        print(json.dumps(told, indent=2))
        return
    for line in explained(told) if "models" not in told else _all_explained(told):
        print(line)


def _asked_there(parsed: argparse.Namespace) -> dict[str, Any]:
    words = [("model", parsed.model), ("region", parsed.region)]
    words += [("tag", tag) for tag in parsed.tag]
    words += [("stream", "true")] if parsed.stream else []
    query = urlencode([(name, value) for name, value in words if value])
    # A key itself must not stand in a URL, which proxies log, and what is an alias only the gateway knows.
    about, wanted = {"key": parsed.key}, "model" if parsed.model else "models"
    found: dict[str, Any] = ask(parsed, "POST", f"/router/explain?{query}", about, wanted=wanted)
    return found


def _explained_here(parsed: argparse.Namespace) -> dict[str, Any]:
    environ = environ_here()
    usual = Path("config.yaml")
    path = config_path(parsed.config, environ) or (usual if usual.is_file() else None)
    config, routes = _compiled(path, environ)
    gateway = unstarted(config, routes, environ)
    caller = _named(config, parsed.key) if parsed.key else MASTER
    request = asked(caller, tags=tuple(parsed.tag), region=parsed.region, stream=parsed.stream)
    if parsed.model:
        return explain(gateway, parsed.model, request, for_operator=True)
    return explain_all(gateway, request, for_operator=True)


def _named(config: Config, key: str) -> Caller:
    for row in configured_keys(config):
        if key in (row.alias, row.digest) or digest_of(key) == row.digest:
            return Caller("key", row.payer, row.alias, row)
    raise NotDone("no key of the configuration is called so; keys that were handed out need --url")


def explained(told: Mapping[str, Any]) -> list[str]:
    """One name, for people."""
    key = told.get("key")
    lines = []
    if key is not None:
        lines.append(f"  the key {key['name']} may {'' if key['may_use_it'] else 'not '}use it")
    if not told.get("found"):
        why = f": {told['why_not']}" if "why_not" in told else ""
        return [f"{told['model']}{why}", *lines]
    lines.insert(0, f"{told['model']}: {told['as']}, {told.get('strategy', 'its entries')}")
    lines += [f"  {line}" for line in table(list(map(_cells, told["deployments"])))]
    lines += [f"  {line}" for line in _rules(told)]
    return lines


def _cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    price = one.get("price")
    cost = "no price known"
    if price is not None:
        tokens = [f"${price[side]:g}" for side in ("input", "output") if side in price]
        cost = " / ".join(tokens) or "not by the token"
    if "share" not in one:
        return "", one["deployment"], "", "", "", f"({one['place']})"
    bounds = [f"{name} {_plain(one[name])}" for name in _BOUNDS if one.get(name)]
    bounds += [f"tags {', '.join(one['tags'])}"] if one.get("tags") else []
    health = one.get("health")
    if health is not None:
        latency = "" if health["latency_ms"] is None else f", {health['latency_ms']:g} ms"
        if health.get("concurrency_limit") is not None:
            bounds.append(f"{health['in_flight']} of about {health['concurrency_limit']} at once")
        bounds.append(f"{health['successes']} ok, {health['failures']} failed{latency}")
    why = f"{'although' if one['share'] else 'not now:'} {one['why_not']}" if one["why_not"] else ""
    place = f"({one['place']})" if one.get("place") else ""
    about = "  ".join(filter(None, (*bounds, why, place)))
    share = f"{one['share']:.0%}" if one["share"] else "-"
    return share, one["deployment"], one.get("api_base", ""), cost, one.get("credential", ""), about


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


_BOUNDS = ("order", "weight", "rpm", "tpm", "max_parallel_requests", "max_budget", "region")


def _rules(told: Mapping[str, Any]) -> list[str]:
    """What holds for the name as a whole."""
    lines = []
    if "waits" in told:
        lines.append(f"waits for room: {told['waits']:g} s at most")
    if "retries" in told:
        counted = [f"{name} {count}" for name, count in told["retries"].get("by_error", {}).items()]
        lines.append(f"retries: {', '.join([str(told['retries']['most']), *counted])}")
    for limit in told.get("limits", ()):
        much = f"${limit['usd']:g}" if "usd" in limit else str(limit["most"])
        per = f" per {limit['per']}" if limit.get("per") else ""
        lines.append(f"limit: {limit['limit']} of {limit['of']}, {much}{per}")
    for kind, names in told.get("fallbacks", {}).items():
        if names:
            lines.append(f"{kind}: {', '.join(names)}")
    return lines


def _all_explained(told: Mapping[str, Any]) -> list[str]:
    lines = [line for one in told["models"] for line in explained(one)]
    lines += [f"off: {row['model']}: {row['why']} ({row['place']})" for row in told.get("off", ())]
    if told.get("environment"):
        lines.append(f"from the environment: {', '.join(told['environment'])}")
    return lines or ["there are no models"]


# -- simulate --------------------------------------------------------------------------------------------------------


def _simulate(parsed: argparse.Namespace) -> None:
    found = asyncio.run(_compare(parsed))
    if parsed.json:
        print(json.dumps(found.shown(), indent=2))
        return
    for line in compared(found):
        print(line)


async def _compare(parsed: argparse.Namespace) -> Comparison:
    environ = environ_here()
    tried = [file for file in (parsed.against, parsed.config) if file]
    compiled = [_compiled(Path(file), environ) for file in tried]
    with ExitStack() as stack:
        records, rest = _ledger(parsed.ledger, compiled[0][0], environ, stack)
        try:
            for rows in rest:
                await records.append(rows)
            keys = await records.keys()
            sides: list[Side] = [Recorded()]
            for file, (config, routes) in zip(tried, compiled, strict=True):
                name = file if file not in {side.name for side in sides} else f"{file} (again)"
                sides.append(Replay(name, config, routes, (*keys, *configured_keys(config))))
            query = LedgerQuery(since=parsed.since, until=parsed.until)
            return await simulate(oldest_first(records, query), sides, limit=parsed.limit)
        finally:
            await records.close()


def _ledger(
    named: str | None, config: Config, environ: Mapping[str, str], stack: ExitStack
) -> tuple[Records, Iterator[list[LedgerRow]]]:
    """The store of what was named, and rows that it still has to be given: lines of JSON, which may stand in any order, are
    put into a store for as long as they are needed.
    """
    if named is None:
        return open_store(read_environment(with_own(config, environ)).data_dir, config.general), iter(())
    path = Path(named)
    if not is_file(path):
        url = environ.get(named, "")
        if not url.lower().startswith(("postgres://", "postgresql://")):
            raise NotDone(f"{named} is neither a file nor a variable with the URL of a Postgres")
        try:
            return open_store(Path(), GeneralSettings(database_url=Secret(url))), iter(())
        except PostgresUrlInvalid as error:
            raise NotDone(f"the URL of the database cannot be used: {error}") from None
    try:
        file = stack.enter_context(path.open("rb"))
        is_sqlite = file.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise NotDone(f"{named} cannot be read: {error.strerror}") from None
    if is_sqlite:
        return open_file(path), iter(())
    file.seek(0)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-"))
    return open_file(Path(folder) / FILE), read_lines(file)


_COUNTS = ("refused", "not_found", "failed", "fallbacks", "unpriced", "unmeasured")


def compared(found: Comparison) -> list[str]:
    """The figures, for people: a line for each side of each model, then who answers, then why not."""
    told = found.shown()
    if not found.rows:
        return ["the ledger has no rows of that time"]
    rows = [("MODEL", "", "ANSWERED", "COST", *(name.upper().replace("_", " ") for name in _COUNTS))]
    for model, beside in (*told["models"].items(), ("all", told["total"])):
        for at, (side, one) in enumerate(beside.items()):
            counts = (str(one[name] or "") for name in _COUNTS)
            rows.append(("" if at else model, side, str(one["answered"]), f"${one['cost']:.6f}", *counts))
    lines = [f"{found.rows} requests from {told['first']} to {told['last']}", ""]
    lines += table(rows, right=range(2, len(rows[0])))
    answered = [("WHO ANSWERS", "", "REQUESTS", "COST")]
    for side, by in told["deployments"].items():
        answered += [(name, side, f"{one['requests']:g}", f"${one['cost']:.6f}") for name, one in by.items()]
    lines += ["", *table(answered, right=(2, 3))]
    why = [
        f"{side}: {count} {reason}"
        for side, reasons in told["reasons"].items()
        for reason, count in reasons.items()
    ]
    return lines + (["", *why] if why else [])
