"""`penstock check`: all that is wrong with a configuration, or what was understood of it.

One report for a person: first what is unknown or leads nowhere (errors, although a start would let them pass), then what does
not do what its author may expect (warnings), then what was made of the rest (notices), then the models with those who serve
them, how requests are routed, what limits them, and the keys. What no start would let pass is told alone. `--json` gives
the same as data, each model as `penstock explain` has it. Exit codes: 0 it is well, 1 there are errors, 2 a command that was
not understood.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from gateway.cli.common import config_path, environ_here, with_own
from gateway.config.environment import PLACE as ENVIRONMENT
from gateway.config.load import Loaded, load
from gateway.config.model import Config, ModelEntry
from gateway.config.problems import ConfigInvalid, Problem, in_order
from gateway.config.source import environment_of
from gateway.explaining import asked, explain_all, unstarted
from gateway.keyfields import configured_keys
from gateway.keyring import MASTER
from gateway.pricing import PriceTable
from gateway.routes import Routes, compile_routes
from gateway.state.keys import KeyRow
from gateway.upstreams import proxies_from_environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of `penstock check`."""
    parser.add_argument(
        "file", nargs="?", help="the configuration (default: CONFIG_FILE_PATH, else config.yaml)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=lambda parsed: check(parsed.file, as_json=parsed.json))


def check(file: str | None, *, as_json: bool = False) -> int:
    """Print the report; the exit code."""
    environ = environ_here()
    path = config_path(file, environ) or Path("config.yaml")
    found: tuple[Problem, ...] = ()
    try:
        loaded = load(path, environ)  # what a start would let pass does not end the report
        found = loaded.notices
        keys = configured_keys(loaded.config)
        environ = with_own(loaded.config, environ)
        environment_of(loaded, environ)
        _check_proxies(environ)
    except ConfigInvalid as invalid:
        doubts, notices = _parted((*found, *invalid.notices))
        problems = in_order((*doubts, *invalid.problems))
        if as_json:
            _print_json({"ok": False, "problems": _problems((*problems, *notices))})
        else:
            for problem in problems:
                print(problem)
        return 1
    routes = compile_routes(loaded.config, environ, PriceTable.load())
    doubts, notices = _parted(found)
    notices = [*doubts, *told_once(notices, loaded.config, routes)]
    if as_json:
        gateway = unstarted(loaded.config, routes, environ)
        _print_json(
            {
                "ok": not doubts,
                "files": list(loaded.config.files),
                "problems": _problems(notices),
                **explain_all(gateway, asked(MASTER), for_operator=True),
                "limits": {path: str(place) for path, place in loaded.limits.items()},
                "keys": [{"name": row.name, "alias": row.alias, "models": list(row.models)} for row in keys],
            }
        )
    else:
        for line in _report(loaded, routes, notices, keys):
            print(line)
    return 1 if doubts else 0


def _check_proxies(environ: Mapping[str, str]) -> None:
    """Raises ConfigInvalid for those that no gateway starts with."""
    try:
        proxies_from_environment(environ)
    except ValueError as error:
        raise ConfigInvalid((Problem(ENVIRONMENT, "", str(error)),)) from None


def _parted(found: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """The doubts, which are errors here, and the rest."""
    doubts = [replace(problem, severity="error") for problem in found if problem.is_doubt]
    return doubts, [problem for problem in found if not problem.is_doubt]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _problems(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    return [
        {
            "severity": one.severity,
            "place": str(one.place),
            "path": one.path,
            "message": one.message,
            "suggestion": one.suggestion,
        }
        for one in problems
    ]


_HEADINGS = {
    "error": "errors: what is unknown or leads nowhere (a start without --strict lets it pass, with a warning)",
    "warning": "warnings: what has no effect, or another than its author may expect",
    "notice": "notices: what was made of the rest",
}


def _report(loaded: Loaded, routes: Routes, notices: Sequence[Problem], keys: Sequence[KeyRow]) -> list[str]:
    lines: list[str] = []
    for severity, heading in _HEADINGS.items():
        found = [str(notice) for notice in notices if notice.severity == severity]
        if found:
            lines += [heading, *found, ""]
    lines.append(describe(routes, loaded.config))
    router = loaded.config.router
    if loaded.config.model_list:
        cooldown = "no cooldowns" if router.disable_cooldowns else f"cooldowns of {router.cooldown_time:g} s"
        lines.append(f"routing: {router.routing_strategy}, {router.num_retries} retries, {cooldown}")
    lines += [f"limit: {path} ({place})" for path, place in loaded.limits.items()]
    lines += [
        f"key {row.name}  {row.alias or '(no alias)'}  {', '.join(row.models) or 'all models'}"
        for row in keys
    ]
    return lines


def told_once(notices: Sequence[Problem], config: Config, routes: Routes) -> list[Problem]:
    """The notices without those of variables that are not set and that an `off:` line names."""
    off = {row.place: row.why for row in routes.unserved}
    named = {name for entry in config.model_list for name in entry.unset if name in off.get(entry.place, "")}
    again = {
        f"the environment variable {name} {state}" for name in named for state in ("is not set", "is empty")
    }
    keys = ("api_key", "api_base")  # elsewhere an unset variable does not put the entry off
    return [
        notice
        for notice in notices
        if notice.message not in again or notice.path.rpartition(".")[2] not in keys
    ]


def describe(routes: Routes, config: Config) -> str:
    """The compiled routes, one deployment a line."""
    lines = [f"{path}: ok, {_models_of(path, config, routes)}" for path in config.files]
    for route in routes.configured():
        lines.append(route.name + (" (hidden)" if route.hidden else ""))
        for deployment in route.deployments:
            price = "priced" if deployment.price else "no price known"
            what = "mock" if deployment.mock else deployment.origin
            lines.append(
                f"  {deployment.model_name}  {what}  weight {deployment.weight:g}  {price}  ({deployment.place})"
            )
        stand_ins = [other.name for other in routes.stand_ins(route.name)]
        if stand_ins:
            lines.append(f"  falls back to: {', '.join(stand_ins)}")
    for pattern, entries in routes.wildcards():
        lines.append(pattern)
        lines += [_wildcard_line(entry) for entry in entries]
    lines += [f"off: {row.model_name}: {row.why} ({row.place})" for row in routes.unserved]
    if routes.env_providers:
        lines.append(f"from the environment: {', '.join(routes.env_providers)}")
    elif not config.model_list:
        lines.append("nothing is served: there are no models, and no provider is taken from the environment")
    return "\n".join(lines)


def _models_of(file: str, config: Config, routes: Routes) -> str:
    count = sum(entry.place.file == file for entry in config.model_list)
    off = sum(row.place.file == file for row in routes.unserved)
    return f"{count or 'no'} model{'' if count == 1 else 's'}{f', {off} off' if off else ''}"


def _wildcard_line(entry: ModelEntry) -> str:
    params = entry.params
    parts = [params.model]
    if params.mock_response is not None:
        parts.append("mock")
    elif params.api_base:
        parts.append("/".join(params.api_base.split("/", 3)[:3]))
    if params.weight is not None:
        parts.append(f"weight {params.weight:g}")
    return f"  {'  '.join(parts)}  ({entry.place})"
