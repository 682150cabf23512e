"""`penstock keys`: hand out virtual keys, list them, take them away.

It asks a running gateway over HTTP, as `penstock health` does, with the master key of the environment (`LITELLM_MASTER_KEY`,
`.env` too); an open gateway on this machine needs none. A new key is the only line on the standard output, so that a script
can keep it. Exit codes: 0 done, 1 the gateway refused or did not answer, 2 a command that was not understood.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from gateway.cli.common import add_command, ask, carry_out, seconds, table, text

_PAGE = 100


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add `create`, `list`, `info` and `revoke`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    about = "make a key and print it; it is shown this once"
    example = (
        "penstock keys create --alias bot --models 'gpt-4o,openai/*' --max-budget 5 --budget-duration 1d"
    )
    create = add_command(commands, "create", about, example)
    add = create.add_argument
    add("--alias", dest="key_alias", type=text, metavar="NAME", help="its name in logs and in the ledger")
    add(
        "--models",
        type=text,
        metavar="A,B",
        help="what it may ask for: names, patterns, access groups (default: everything)",
    )
    add("--max-budget", type=dollars, metavar="DOLLARS", help="what it may spend")
    add(
        "--budget-duration",
        metavar="SPAN",
        help="when its budget begins anew: 1h, 1d, 30d, 1mo (default: never)",
    )
    add("--duration", metavar="SPAN", help="how long it holds: 30m, 12h, 30d, 1mo (default: for ever)")
    add("--rpm", dest="rpm_limit", type=int, metavar="N", help="requests in any minute")
    add("--tpm", dest="tpm_limit", type=int, metavar="N", help="tokens in any minute")
    add("--parallel", dest="max_parallel_requests", type=int, metavar="N", help="requests at the same time")
    add("--user", dest="user_id", type=text, metavar="ID", help="whose it is")
    add("--json", action="store_true", help="print all that the gateway says of it")
    _finish(create, _create)

    listing = add_command(commands, "list", "all keys, the newest first")
    listing.add_argument("--json", action="store_true", help="print all that the gateway says of them")
    _finish(listing, _list)

    info = add_command(commands, "info", "what the gateway knows of a key, as JSON")
    info.add_argument("key", type=text, help="the key, or its digest")
    _finish(info, _info)

    revoke = add_command(
        commands, "revoke", "take keys away, for good", "penstock keys revoke --alias bot old-bot"
    )
    told = "a key, its digest, or with --alias its name"
    revoke.add_argument("keys", nargs="+", type=text, metavar="KEY", help=told)
    revoke.add_argument("--alias", action="store_true", help="what is named are aliases")
    _finish(revoke, _revoke)


def dollars(text: str) -> float:
    """An amount as an argument."""
    amount = float(text)
    if not math.isfinite(amount):
        raise argparse.ArgumentTypeError(f"not an amount of dollars: {text!r}")
    return amount


def _finish(parser: argparse.ArgumentParser, run: Any) -> None:
    add = parser.add_argument
    add("--url", help="where the gateway is (default: this machine, as LITELLM_HOST and LITELLM_PORT say)")
    add("--timeout", type=seconds, default=10.0, metavar="SECONDS", help="how long to wait (default 10)")
    parser.set_defaults(run=lambda parsed: carry_out(lambda: run(parsed)))


# -- the commands ----------------------------------------------------------------------------------------------------

_FIELDS = (
    "key_alias", "max_budget", "budget_duration", "duration", "rpm_limit", "tpm_limit", "max_parallel_requests", "user_id"
)  # fmt: skip


def _create(parsed: argparse.Namespace) -> None:
    fields = {name: getattr(parsed, name) for name in _FIELDS if getattr(parsed, name) is not None}
    if parsed.models:
        fields["models"] = [name.strip() for name in parsed.models.split(",") if name.strip()]
    made = ask(parsed, "POST", "/key/generate", fields, wanted="key")
    print(json.dumps(made, indent=2) if parsed.json else made["key"])


def _list(parsed: argparse.Namespace) -> None:
    found: list[dict[str, Any]] = []
    page = pages = 1
    while page <= pages:
        path = f"/key/list?return_full_object=true&size={_PAGE}&page={page}"
        told = ask(parsed, "GET", path, wanted="total_pages")
        found += told["keys"]
        page, pages = page + 1, told["total_pages"]
    if parsed.json:
        print(json.dumps(found, indent=2))
        return
    lines = [("ALIAS", "KEY", "STATUS", "SPENT", "BUDGET", "EXPIRES", "DIGEST")]
    for key in found:
        budget = "" if key["max_budget"] is None else f"{key['max_budget']:g}"
        if budget and key["budget_duration"]:
            budget += f"/{key['budget_duration']}"
        expires = (key["expires"] or "")[:16]
        spent = f"{key['spend']:.4f}"
        lines.append(
            (key["key_alias"] or "", key["key_name"], key["status"], spent, budget, expires, key["token"])
        )
    print("\n".join(table(lines)))


def _info(parsed: argparse.Namespace) -> None:
    print(json.dumps(ask(parsed, "POST", "/key/info", {"key": parsed.key}), indent=2))


def _revoke(parsed: argparse.Namespace) -> None:
    name = "key_aliases" if parsed.alias else "keys"
    told = ask(parsed, "POST", "/key/delete", {name: parsed.keys}, wanted="deleted_keys")
    count = len(told["deleted_keys"])
    print(f"{count} key{'' if count == 1 else 's'} revoked")
