"""The command line.

`penstock` serves; everything else is a subcommand. Flags of LiteLLM's proxy are accepted: those that mean something here
do it, those that belong to another server are named in a notice, and those that would make somebody feel safe without
reason are refused.

Exit codes: 0 well, 1 not well (a configuration that cannot be used, an unhealthy gateway), 2 a command that was not
understood, 98 an address that cannot be listened on, 130 interrupted before it began, 141 whoever read the output left.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import logging
import os
import socket
import sys
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path

import uvloop
from msgspec import Struct
from msgspec.structs import replace

from gateway import __version__, malformed
from gateway.admin.routes import exposition
from gateway.app import CannotStart, allow_many_files, claim, open_runtime, serve
from gateway.banner import banner, reachable
from gateway.cli_keys import add_commands as add_key_commands
from gateway.cli_ledger import add_commands as add_ledger_commands
from gateway.config.environment import (
    LEVELS,
    MOST_WORKERS,
    Environment,
    load_dotenv,
    most_verbose,
    read_environment,
)
from gateway.config.load import Loaded, load
from gateway.config.model import Config, ModelEntry, ModelParams, Place
from gateway.config.problems import ConfigInvalid, Problem, Report
from gateway.config.schema import config_schema
from gateway.keyfields import configured_keys
from gateway.logs import JsonFormat, PlainFormat, QueuedHandler, scrub
from gateway.logs import setup as set_up_logging
from gateway.pricing import PriceTable
from gateway.routes import Routes, compile_routes
from gateway.runtime import Runtime
from gateway.siblings import Siblings
from gateway.workers import Worker, supervise

log = logging.getLogger("penstock")

# Flags of LiteLLM's proxy that belong to its own server. With the number of values that each takes.
_HISTORIC = {
    "--use_prisma_db_push": 0, "--local": 0, "--use_queue": 0, "--use_v2_migration_resolver": 0, "--run_gunicorn": 0,
    "--run_hypercorn": 0, "--run_granian": 0, "--reload": 0, "--save": 0, "--add_function_to_prompt": 0,
    "--enforce_prisma_migration_check": 0, "--log_config": 1, "--keepalive_timeout": 1, "--limit_concurrency": 1,
    "--max_requests_before_restart": 1, "--max_requests_before_restart_jitter": 1, "--telemetry": 1,
    "--prometheus_metrics_port": 1, "--alias": 1, "--headers": 1, "--temperature": 1, "--max_tokens": 1,
    "--num_requests": 1,
}  # fmt: skip
# Its flags that prepare a database and leave.
_NOTHING_TO_PREPARE = ("--skip_server_startup", "--check_migrations_against_existing_data")
# Flags whose effect somebody would rely on, and what to do instead.
_TLS = "put a proxy that speaks TLS in front, or leave it out"
_REFUSED = {
    "--ssl_keyfile_path": _TLS,
    "--ssl_certfile_path": _TLS,
    "--ciphers": _TLS,
    "--iam_token_db_auth": "leave it out",
    "--max_budget": "budgets are not enforced yet",
    "--add_key": "provider keys belong in the environment or in the configuration",
    "--test": "use the curl that the start-up banner prints",
    "--test_async": "use the curl that the start-up banner prints",
    "--setup": "begin with the shipped config.yaml",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `penstock` with these arguments; the process's exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _OF_THE_WHOLE):
        arguments.insert(0, "serve")
    _prepare_streams()
    parsed = _parser().parse_args(arguments)
    return _ended(lambda: parsed.run(parsed))


def _ended(run: Callable[[], int]) -> int:
    """How it ended, as an exit code; what went wrong is told."""
    try:
        code = run()
        sys.stdout.flush()  # here, where a pipe that was closed is understood
    except CannotStart as error:
        print(f"penstock: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _discard_output()
        return 141
    except Exception:  # a bug, or a machine in distress: told whole, but for secrets
        print(scrub(traceback.format_exc()), file=sys.stderr)
        return 1
    return code


_OF_THE_WHOLE = ("-h", "--help", "-v", "--version")


def _prepare_streams() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # a socket would get its number, and what is printed would go to a client
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - open until the end
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - as above
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no model's name may be too odd for a terminal


def _discard_output() -> None:
    """Whoever read it has left: what is still buffered must not fail once more at exit."""
    with suppress(OSError, ValueError):  # a replaced stdout has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    health.add_argument("--url", help="ask there (default: /health at the host and port of the environment)")
    health.add_argument("--host", help="where it listens, if a flag told it so (LITELLM_HOST, HOST)")
    health.add_argument("-p", "--port", type=_port, help="likewise (LITELLM_PORT, PORT)")
    health.add_argument("--timeout", type=float, default=4.0, help="seconds (default: 4)")
    health.set_defaults(run=_health)
    add_key_commands(commands.add_parser("keys", help="hand out virtual keys, list them, take them away"))
    add_ledger_commands(commands.add_parser("ledger", help="does the ledger add up, and what is in it"))
    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    config = commands.add_parser("config", help="about configuration files")
    about = config.add_subparsers(title="commands", metavar="COMMAND", required=True)
    about.add_parser("schema", help="print a JSON schema for editors").set_defaults(run=_schema)
    return parser


def _serve_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("serve", help="run the gateway (the default)", allow_abbrev=False)
    add = parser.add_argument
    add("-c", "--config", help="configuration file; none is needed (environment: CONFIG_FILE_PATH)")
    add("--host", help="address to listen on (LITELLM_HOST, HOST; default 0.0.0.0)")
    add("-p", "--port", type=_port, help="port to listen on (LITELLM_PORT, PORT; default 4000)")
    add("--detailed_debug", "--detailed-debug", action="store_true", help="log everything (LITELLM_DEBUG)")
    add("--debug", action="store_true", help="the same as --detailed_debug")
    level = "DEBUG, INFO, WARNING, ERROR or CRITICAL (LITELLM_LOG, LITELLM_LOG_LEVEL); the most verbose wins"
    add("--log-level", metavar="LEVEL", type=str.upper, choices=LEVELS, help=level)
    add("--json-logs", action="store_true", help="log JSON lines even on a terminal (JSON_LOGS)")
    add("--strict", action="store_true", help="unknown keys in the configuration are errors")
    add("-m", "--model", help="serve this model too, without writing a configuration")
    add("--api_base", help="with --model: where it is")
    add("--api_version", help="with --model azure/…: the API version")
    add("--drop_params", action="store_true", help="drop parameters that a provider does not support")
    add("--num_retries", type=_count, help="more attempts than one")
    add("--num_workers", type=_workers, metavar="N", help="processes on this port (NUM_WORKERS; default 1)")
    add("--request_timeout", type=_seconds, metavar="SECONDS", help="seconds until an answer must begin")
    add("--validate_config", action="store_true", help="the same as `penstock check`")
    add("--health", action="store_true", help="the same as `penstock health`")
    for flag, values in _HISTORIC.items():
        add(flag, nargs="?" if values else 0, action=_Historic, help=argparse.SUPPRESS)
    for flag in _NOTHING_TO_PREPARE:
        add(flag, dest="nothing_to_prepare", action="store_true", help=argparse.SUPPRESS)
    for flag in _REFUSED:
        add(flag, nargs="?", action=_Refused, help=argparse.SUPPRESS)
    parser.set_defaults(run=_serve, notices=[])


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"not a port (1 to 65535): {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > 100:
        raise argparse.ArgumentTypeError("must be between 0 and 100")
    return int(text)


def _workers(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"must be between 1 and {MOST_WORKERS}")
    return int(text)


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number <= 86_400:
        raise argparse.ArgumentTypeError("must be more than 0 and at most 86400")
    return number


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
        parser.error(f"{option} is not available: {_REFUSED[option or '']}")


# -- serve -----------------------------------------------------------------------------------------------------------


class _Settings(Struct, frozen=True):
    """All that the command line, the environment and the file say, in that order of precedence."""

    config: Config
    environment: Environment
    environ: dict[str, str]
    notices: tuple[Problem, ...]
    log_level: str
    json_logs: bool | None


def _serve(parsed: argparse.Namespace) -> int:
    if parsed.validate_config:
        return _check(argparse.Namespace(file=parsed.config))
    if parsed.health:
        return _health(argparse.Namespace(url=None, host=parsed.host, port=parsed.port, timeout=4.0))
    if parsed.nothing_to_prepare:
        print("There is nothing to prepare: the server sets up its data folder when it starts.")
        return 0
    try:
        settings = _settings(parsed)
    except ConfigInvalid as invalid:
        for problem in invalid.problems:
            print(problem, file=sys.stderr)
        return 1
    allow_many_files()
    environment = settings.environment
    if environment.num_workers == 1:
        return _work(settings, parsed.notices)
    claimed = claim(environment.host, environment.port)
    _log_without_a_thread(settings)

    def work(worker: Worker) -> int:
        for sock in claimed:
            sock.close()
        return _ended(partial(_work, settings, parsed.notices, worker))

    return supervise(environment.num_workers, work, _print, spare=environment.data_dir)


def _log_without_a_thread(settings: _Settings) -> None:
    """For the supervisor, which forks and has little to say."""
    handler = logging.StreamHandler()
    as_json = settings.json_logs or not sys.stderr.isatty()
    handler.setFormatter(JsonFormat() if as_json else PlainFormat())
    logging.getLogger().handlers = [handler]
    log.setLevel(settings.log_level)


def _work(settings: _Settings, notices: Sequence[str], worker: Worker | None = None) -> int:
    """Serve in this process: alone, or as one of several workers."""
    stop_logging = set_up_logging(settings.log_level, as_json=settings.json_logs)
    malformed.watch()
    if worker is None or worker.speaks:
        for notice in notices:
            log.warning("%s", notice)
        log.info("log level %s", settings.log_level)
    try:
        uvloop.run(_run(settings, worker))
    finally:
        stop_logging()
    return 0


def _settings(parsed: argparse.Namespace) -> _Settings:
    """Raises ConfigInvalid."""
    environ = load_dotenv(Path(".env"), os.environ)
    debug = parsed.detailed_debug or parsed.debug
    flags = {
        "LITELLM_HOST": parsed.host,
        "LITELLM_PORT": parsed.port,
        "NUM_WORKERS": parsed.num_workers,
        "LITELLM_LOG": "DEBUG" if debug else parsed.log_level,
    }
    told = {name: str(value) for name, value in flags.items() if value is not None}
    environ |= told
    path = parsed.config or environ.get("CONFIG_FILE_PATH")
    loaded = load(Path(path) if path else None, environ, strict=parsed.strict)
    configured_keys(loaded.config)
    environ |= {name: secret.reveal() for name, secret in loaded.config.environment_variables.items()}
    environ |= told
    os.environ.update(environ)  # libraries look there, for instance for certificates
    environment = read_environment(environ)
    errors = tuple(problem for problem in environment.problems if problem.severity == "error")
    if errors:
        raise ConfigInvalid(errors)
    _refuse_separate_counts(loaded, environment.num_workers)
    environment = replace(environment, host=_every_address(environment.host, environ))
    return _Settings(
        config=_with_flags(loaded.config, parsed),
        environment=environment,
        environ=environ,
        notices=(*environment.problems, *loaded.notices),
        log_level=most_verbose(
            environment.log_level, *(["DEBUG"] if loaded.config.litellm.set_verbose else [])
        ),
        json_logs=True if parsed.json_logs or environment.json_logs else None,
    )


def _refuse_separate_counts(loaded: Loaded, workers: int) -> None:
    """Each worker would allow the whole of a budget or a limit once more. Raises ConfigInvalid."""
    router = loaded.config.router
    if workers == 1 or router.redis_url or router.redis_host or not loaded.limits:
        return
    message = f"{workers} workers can share a limit or a budget through Redis only: set REDIS_URL, or run one"
    report = Report()
    for path, place in loaded.limits.items():
        report.error(place, path, message)
    report.settle()


def _every_address(host: str, environ: Mapping[str, str]) -> str:
    """On Railway, whose older private networks are IPv6 only, "all addresses" are those of both families.

    https://docs.railway.com/networking/private-networking
    """
    on_railway = "RAILWAY_PRIVATE_DOMAIN" in environ
    return "::" if host == "0.0.0.0" and on_railway and socket.has_dualstack_ipv6() else host


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
        params = ModelParams(model=parsed.model, api_base=parsed.api_base, api_version=parsed.api_version)
        place = Place("command line", 0, 0)
        models = (*models, ModelEntry(model_name=parsed.model, params=params, place=place))
    return replace(config, router=router, litellm=litellm, model_list=models)


async def _run(settings: _Settings, worker: Worker | None) -> None:
    host, port = settings.environment.host, settings.environment.port
    rt = await open_runtime(settings.config, settings.environment, settings.environ)
    if worker is None or worker.speaks:
        for problem in _told_once(settings.notices, settings.config, rt.routes):
            log.log(logging.WARNING if problem.severity == "warning" else logging.INFO, "%s", problem)
    _count_log_drops(rt)
    ready = asyncio.Event()

    async def say() -> None:
        await ready.wait()
        (worker.ready if worker else _print)(banner(rt, host, port))

    async with AsyncExitStack() as stack:
        if worker:
            rt.siblings = Siblings(worker.folder, os.getpid())
            await stack.enter_async_context(rt.siblings.told(partial(exposition, rt)))
        await asyncio.gather(serve(rt, host=host, port=port, ready=ready, shared=worker is not None), say())


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:  # whoever read our output has left; clients have not
        _discard_output()


def _count_log_drops(rt: Runtime) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, QueuedHandler):
            rt.metrics.watch_log_drops = lambda queued=handler: queued.dropped  # type: ignore[misc]  # bound now


# -- the others ------------------------------------------------------------------------------------------------------


def _check(parsed: argparse.Namespace) -> int:
    environ = load_dotenv(Path(".env"), os.environ)
    path = parsed.file or environ.get("CONFIG_FILE_PATH") or "config.yaml"
    try:
        loaded = load(Path(path), environ, strict=True)
        keys = configured_keys(loaded.config)
    except ConfigInvalid as invalid:
        for problem in invalid.problems:
            print(problem)
        return 1
    routes = compile_routes(loaded.config, environ, PriceTable.load())
    for notice in _told_once(loaded.notices, loaded.config, routes):
        print(notice)
    print(describe(routes, loaded.config))
    for row in keys:
        print(f"key {row.name}  {row.alias or '(no alias)'}  {', '.join(row.models) or 'all models'}")
    return 0


def _told_once(notices: Sequence[Problem], config: Config, routes: Routes) -> list[Problem]:
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
    lines = [f"{path}: ok, {_models_of(path, config)}" for path in config.files]
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


def _models_of(file: str, config: Config) -> str:
    count = sum(entry.place.file == file for entry in config.model_list)
    return f"{count or 'no'} model{'' if count == 1 else 's'}"


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


def _health(parsed: argparse.Namespace) -> int:
    environment = read_environment(load_dotenv(Path(".env"), os.environ))
    host, port = parsed.host or environment.host, parsed.port or environment.port
    url = parsed.url or f"http://{reachable(host)}:{port}/health"
    if not url.startswith(("http://", "https://")):
        print(f"penstock: not a URL: {url}", file=sys.stderr)
        return 2
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=parsed.timeout) as response:
            body = json.loads(response.read())
    except urllib.error.HTTPError as error:
        print(f"unhealthy: {url} answered {error.code}", file=sys.stderr)
        return 1
    except (OSError, ValueError, HTTPException) as error:
        print(f"unhealthy: {url}: {getattr(error, 'reason', None) or error}", file=sys.stderr)
        return 1
    print(body.get("status", "healthy") if isinstance(body, dict) else "healthy")
    return 0


def _version(_: argparse.Namespace) -> int:
    print(f"penstock {__version__}")
    return 0


def _schema(_: argparse.Namespace) -> int:
    print(json.dumps(config_schema(), indent=2))
    return 0
