"""The command line.

`penstock` serves; everything else is a subcommand. Flags of LiteLLM's proxy are accepted: those that mean something here
do it, those that belong to another server are named in a notice, and those that would make somebody feel safe without
reason are refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import uvloop
from msgspec.structs import replace

from gateway import __version__
from gateway.app import CannotStart, open_runtime, serve
from gateway.banner import banner
from gateway.config.environment import Environment, load_dotenv, most_verbose, read_environment
from gateway.config.load import Loaded, load
from gateway.config.model import Config, ModelEntry, ModelParams, Place
from gateway.config.problems import ConfigInvalid
from gateway.config.schema import config_schema
from gateway.logs import setup as set_up_logging
from gateway.pricing import PriceTable
from gateway.routes import Routes, compile_routes

log = logging.getLogger("penstock")

COMMANDS = ("serve", "check", "health", "version", "config")

# Flags of LiteLLM's proxy that belong to its own server. With the number of values that each takes.
_HISTORIC = {
    "--use_prisma_db_push": 0, "--local": 0, "--use_queue": 0, "--use_v2_migration_resolver": 0, "--run_gunicorn": 0,
    "--run_hypercorn": 0, "--run_granian": 0, "--test": 0, "--reload": 0, "--setup": 0, "--log_config": 1,
    "--keepalive_timeout": 1, "--limit_concurrency": 1, "--max_requests_before_restart": 1,
    "--max_requests_before_restart_jitter": 1, "--telemetry": 1, "--prometheus_metrics_port": 1,
    "--check_migrations_against_existing_data": 0, "--enforce_prisma_migration_check": 0, "--skip_server_startup": 0,
    "--num_workers": 1,
}  # fmt: skip
_REFUSED = ("--ssl_keyfile_path", "--ssl_certfile_path", "--ciphers", "--iam_token_db_auth")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `penstock` with these arguments; the process's exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (
        arguments[0] not in COMMANDS and arguments[0] not in ("-h", "--help", "-v", "--version")
    ):
        arguments.insert(0, "serve")
    parsed = _parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
    except CannotStart as error:
        print(f"penstock: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock",
        description="An LLM gateway: one OpenAI- and Anthropic-compatible endpoint in front of every provider.",
        epilog="Without a command it serves: `penstock --config config.yaml --port 4000`.",
    )
    parser.add_argument("-v", "--version", action="version", version=f"penstock {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _serve_parser(commands)
    check = commands.add_parser("check", help="validate a configuration and print its routes")
    check.add_argument("file", nargs="?", help="the configuration (default: --config's own default)")
    check.set_defaults(run=_check)
    health = commands.add_parser("health", help="ask a running gateway how it is; exit code 0 if it is well")
    health.add_argument("--url", help="default: http://127.0.0.1:PORT/health")
    health.add_argument("--timeout", type=float, default=4.0, help="seconds (default: 4)")
    health.set_defaults(run=_health)
    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    config = commands.add_parser("config", help="about configuration files")
    about = config.add_subparsers(title="commands", metavar="COMMAND", required=True)
    about.add_parser("schema", help="print a JSON schema for editors").set_defaults(run=_schema)
    return parser


def _serve_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve_parser = commands.add_parser("serve", help="run the gateway (the default)")
    add = serve_parser.add_argument
    add("-c", "--config", help="configuration file; none is needed (environment: CONFIG_FILE_PATH)")
    add("--host", help="address to listen on (LITELLM_HOST, HOST; default 0.0.0.0)")
    add("-p", "--port", type=int, help="port to listen on (LITELLM_PORT, PORT; default 4000)")
    add("--detailed_debug", "--detailed-debug", action="store_true", help="log everything")
    add("--debug", action="store_true", help="the same as --detailed_debug")
    add(
        "--log-level", dest="log_level", help="DEBUG, INFO, WARNING or ERROR (LITELLM_LOG, LITELLM_LOG_LEVEL)"
    )
    add(
        "--json-logs",
        dest="json_logs",
        action="store_true",
        help="log JSON lines even on a terminal (JSON_LOGS)",
    )
    add("--strict", action="store_true", help="unknown keys in the configuration are errors")
    add("-m", "--model", help="serve this one model, with no configuration")
    add("--api_base", help="with --model: where it is")
    add("--drop_params", action="store_true", help="drop parameters that a provider does not know")
    add("--num_retries", type=int, help="more attempts than one")
    add("--request_timeout", type=float, help="seconds until an answer must begin")
    add("--validate_config", action="store_true", help="the same as `penstock check`")
    add("--health", action="store_true", help="the same as `penstock health`")
    for flag, values in _HISTORIC.items():
        add(flag, nargs="?" if values else 0, action=_Historic, help=argparse.SUPPRESS)
    for flag in _REFUSED:
        add(flag, nargs="?", action=_Refused, help=argparse.SUPPRESS)
    serve_parser.set_defaults(run=_serve, notices=[])


class _Historic(argparse.Action):
    """A flag that belongs to another server."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        namespace.notices = [*namespace.notices, f"{option} has no meaning here and is ignored"]


class _Refused(argparse.Action):
    """A flag whose effect somebody relies on."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option: str | None = None
    ) -> None:
        parser.error(
            f"{option} is not available: put a proxy that speaks TLS in front (deploy/), or leave it out"
        )


# -- serve -----------------------------------------------------------------------------------------------------------


def _serve(parsed: argparse.Namespace) -> int:
    if parsed.validate_config:
        return _check(argparse.Namespace(file=parsed.config))
    if parsed.health:
        return _health(argparse.Namespace(url=None, timeout=4.0))
    environ = load_dotenv(Path(".env"), os.environ)
    flags = {
        "LITELLM_HOST": parsed.host,
        "LITELLM_PORT": parsed.port,
        "LITELLM_LOG": "DEBUG" if parsed.detailed_debug or parsed.debug else parsed.log_level,
    }
    environ |= {name: str(value) for name, value in flags.items() if value is not None}
    try:
        loaded = _load(parsed, environ)
    except ConfigInvalid as invalid:
        for problem in invalid.problems:
            print(problem, file=sys.stderr)
        return 1
    known = loaded.config.environment_variables
    environ |= {name: secret.reveal() for name, secret in known.items()}
    os.environ.update(environ)
    environment = read_environment(environ)
    errors = [problem for problem in environment.problems if problem.severity == "error"]
    if errors:
        for problem in errors:
            print(problem, file=sys.stderr)
        return 1
    level = most_verbose(environment.log_level, "DEBUG" if loaded.config.litellm.set_verbose else "INFO")
    stop_logging = set_up_logging(level, as_json=True if parsed.json_logs or environment.json_logs else None)
    for notice in parsed.notices:
        log.warning("%s", notice)
    for problem in loaded.notices:
        log.log(logging.WARNING if problem.severity == "warning" else logging.INFO, "%s", problem)
    log.debug("log level %s", level)
    try:
        uvloop.run(_run(_with_flags(loaded.config, parsed), environment, environ))
    finally:
        stop_logging()
    return 0


def _load(parsed: argparse.Namespace, environ: dict[str, str]) -> Loaded:
    path = parsed.config or environ.get("CONFIG_FILE_PATH")
    return load(Path(path) if path else None, environ, strict=parsed.strict)


def _with_flags(config: Config, parsed: argparse.Namespace) -> Config:
    """The configuration with what the command line says instead."""
    router, litellm, models = config.router, config.litellm, config.model_list
    if parsed.num_retries is not None:
        router = replace(router, num_retries=parsed.num_retries)
    if parsed.drop_params:
        litellm = replace(litellm, drop_params=True)
    if parsed.request_timeout is not None:
        litellm = replace(litellm, request_timeout=parsed.request_timeout)
    if parsed.model:
        params = ModelParams(model=parsed.model, api_base=parsed.api_base)
        place = Place("command line", 0, 0)
        models = (*models, ModelEntry(model_name=parsed.model, params=params, place=place))
    return replace(config, router=router, litellm=litellm, model_list=models)


async def _run(config: Config, environment: Environment, environ: dict[str, str]) -> None:
    rt = await open_runtime(config, environment, environ)
    ready = asyncio.Event()

    async def say() -> None:
        await ready.wait()
        print(banner(rt, environment.host, environment.port), flush=True)

    await asyncio.gather(serve(rt, host=environment.host, port=environment.port, ready=ready), say())


# -- the others ------------------------------------------------------------------------------------------------------


def _check(parsed: argparse.Namespace) -> int:
    environ = load_dotenv(Path(".env"), os.environ)
    path = parsed.file or environ.get("CONFIG_FILE_PATH") or "config.yaml"
    try:
        loaded = load(Path(path), environ, strict=True)
    except ConfigInvalid as invalid:
        for problem in invalid.problems:
            print(problem)
        return 1
    for notice in loaded.notices:
        print(notice)
    routes = compile_routes(loaded.config, environ, PriceTable.load())
    print(describe(routes, loaded))
    return 0


def describe(routes: Routes, loaded: Loaded) -> str:
    """The compiled routes, one deployment a line."""
    lines = [f"{path}: read" for path in loaded.config.files]
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
        lines += [f"  {entry.params.model}  ({entry.place})" for entry in entries]
    lines += [f"off: {row.model_name}: {row.why} ({row.place})" for row in routes.unserved]
    if routes.env_providers:
        lines.append(f"from the environment: {', '.join(routes.env_providers)}")
    return "\n".join(lines)


def _health(parsed: argparse.Namespace) -> int:
    environ = load_dotenv(Path(".env"), os.environ)
    url = parsed.url or f"http://127.0.0.1:{read_environment(environ).port}/health"
    if not url.startswith(("http://", "https://")):
        print(f"penstock: not a URL: {url}", file=sys.stderr)
        return 2
    try:
        with urllib.request.urlopen(url, timeout=parsed.timeout) as response:  # noqa: S310 - checked above
            body = json.loads(response.read())
    except urllib.error.HTTPError as error:
        print(f"unhealthy: {url} answered {error.code}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"unhealthy: {url}: {error}", file=sys.stderr)
        return 1
    print(body.get("status", "healthy") if isinstance(body, dict) else "healthy")
    return 0


def _version(_: argparse.Namespace) -> int:
    print(f"penstock {__version__}")
    return 0


def _schema(_: argparse.Namespace) -> int:
    print(json.dumps(config_schema(), indent=2))
    return 0
