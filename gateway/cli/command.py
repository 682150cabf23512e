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
import errno
import io
import json
import logging
import os
import signal
import socket
import sys
import traceback
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, redirect_stdout, suppress
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
from gateway.cli.check import add_arguments as add_check_arguments
from gateway.cli.check import check, told_once
from gateway.cli.common import NotDone, add_command, checked_url, config_path, directly, environ_here, seconds
from gateway.cli.keys import add_commands as add_key_commands
from gateway.cli.ledger import add_commands as add_ledger_commands
from gateway.cli.routing import add_commands as add_routing_commands
from gateway.cli.sealing import add_arguments as add_rotation_arguments
from gateway.config.environment import (
    LEVELS,
    MOST_WORKERS,
    Environment,
    most_verbose,
    read_environment,
)
from gateway.config.model import Config, ModelEntry, ModelParams, Place
from gateway.config.problems import ConfigInvalid
from gateway.config.schema import config_schema
from gateway.config.source import Source, Written
from gateway.config.values import MOST_RETRIES
from gateway.keyfields import configured_keys
from gateway.logs import JsonFormat, ModestHandler, PlainFormat, QueuedHandler, scrub
from gateway.logs import setup as set_up_logging
from gateway.reload import Reloader, ask_supervisor
from gateway.runtime import Runtime
from gateway.siblings import Siblings
from gateway.workers import HURRY, Worker, supervise

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
    "--max_budget": "write max_budget under litellm_settings in the configuration",
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
    return _ended(lambda: _carried_out(arguments))


def _carried_out(arguments: Sequence[str]) -> int:
    told = io.StringIO()  # argparse itself passes over what cannot be written
    try:
        with redirect_stdout(told):
            parsed = _parser().parse_args(arguments)
    finally:
        print(told.getvalue(), end="", flush=True)
    code: int = parsed.run(parsed)
    return code


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
    except Exception as error:  # a bug, or a machine in distress: told whole, but for secrets
        if isinstance(error, OSError) and error.errno in _FULL:
            print(f"penstock: cannot write: {error.strerror}", file=sys.stderr)
            _discard_output()
            return 1
        print(scrub(traceback.format_exc()), file=sys.stderr)
        return 1
    return code


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

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
    told = "validate a configuration and print what was understood of it"
    examples = "penstock check config.yaml", "penstock check --json config.yaml"
    add_check_arguments(add_command(commands, "check", told, *examples, more="; exit code 0 if it is well"))
    add_routing_commands(commands)
    told = "ask a running gateway how it is; exit code 0 if it is well"
    health = add_command(commands, "health", told, "penstock health --port 4001")
    health.add_argument("--url", help="ask there (default: /health at the host and port of the environment)")
    health.add_argument("--host", help="where it listens, if a flag told it so (LITELLM_HOST, HOST)")
    health.add_argument("-p", "--port", type=_port, help="likewise (LITELLM_PORT, PORT)")
    health.add_argument("--timeout", type=seconds, default=4.0, help="seconds (default: 4)")
    health.set_defaults(run=_health)
    add_key_commands(
        add_command(
            commands,
            "keys",
            "hand out virtual keys, list them, take them away",
            "penstock keys create --alias bot --models 'gpt-4o,openai/*' --max-budget 5 --budget-duration 1d",
            "penstock keys list --url http://localhost:4000",
            "penstock keys revoke --alias bot",
            more="; asks a running gateway, with the master key in LITELLM_MASTER_KEY",
        )
    )
    add_ledger_commands(
        add_command(
            commands,
            "ledger",
            "does the ledger add up, and what is in it",
            "penstock ledger verify",
            "penstock ledger export --format jsonl --since 2026-01-01",
            "penstock ledger prune --older-than 90d --dry-run",
            more="; reads the file or the database itself, whether or not a gateway runs",
        )
    )
    told = "seal with another salt key what the store keeps sealed (LITELLM_SALT_KEY)"
    example = "penstock rotate-salt --from-env OLD_SALT --to-env NEW_SALT --dry-run"
    add_rotation_arguments(add_command(commands, "rotate-salt", told, example))
    add_command(commands, "version", "print the version").set_defaults(run=_version)
    config = add_command(commands, "config", "about configuration files")
    about = config.add_subparsers(title="commands", metavar="COMMAND", required=True)
    told, example = "print a JSON schema for editors", "penstock config schema > penstock.schema.json"
    add_command(about, "schema", told, example).set_defaults(run=_schema)
    return parser


def _serve_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(
        commands,
        "serve",
        "run the gateway (the default)",
        "penstock",
        "penstock --config config.yaml --port 4000 --num_workers 4",
        "penstock --model ollama/llama3.2 --api_base http://localhost:11434",
        more="; flags win over the configuration, and that over the environment. Flags of LiteLLM's own server are accepted "
        "with a notice",
        allow_abbrev=False,
    )
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
    add(
        "--num_retries",
        type=_count,
        metavar="N",
        help=f"attempts after the first one (0 to {MOST_RETRIES}; default 2)",
    )
    add("--num_workers", type=_workers, metavar="N", help="processes on this port (NUM_WORKERS; default 1)")
    add("--request_timeout", type=seconds, metavar="SECONDS", help="seconds until an answer must begin")
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
    if not text.isdecimal() or int(text) > MOST_RETRIES:
        raise argparse.ArgumentTypeError(f"must be between 0 and {MOST_RETRIES}")
    return int(text)


def _workers(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"must be between 1 and {MOST_WORKERS}")
    return int(text)


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

    source: Source
    written: Written
    environment: Environment
    """As it was written, but for the address to listen on."""
    log_level: str
    json_logs: bool | None


def _serve(parsed: argparse.Namespace) -> int:
    if parsed.validate_config:
        return check(parsed.config)
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
        with _until_it_listens():
            return _work(settings, parsed.notices)
    claimed = claim(environment.host, environment.port)
    _log_without_a_thread(settings)

    def work(worker: Worker) -> int:
        for sock in claimed:
            sock.close()
        return _ended(partial(_work, settings, parsed.notices, worker))

    try:
        return supervise(environment.num_workers, work, _print, spare=environment.data_dir)
    finally:
        for sock in claimed:
            sock.close()


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt  # by itself: SIGINT is ignored where a shell has started the gateway in the background


@contextmanager
def _until_it_listens() -> Iterator[None]:
    """Signals that come before the server has an ear for them. SIGTERM is like control-C: the first process of a container does
    not die of a signal that nobody handles, and would go on starting, and serve until it is killed. SIGHUP is what is done anyway.
    """
    before = (
        (signal.SIGTERM, signal.signal(signal.SIGTERM, _interrupted)),
        (signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_IGN)),
    )
    try:
        yield
    except BaseException:  # else `_stop_listening` has had the last word
        for number, handler in before:
            signal.signal(number, handler)
        raise


def _stop_listening() -> None:
    """Signals that come when all is done: the loop would give them back to the system, which kills for each."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, HURRY):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def _log_without_a_thread(settings: _Settings) -> None:
    """For the supervisor, which forks, has little to say, and goes on where nobody reads it."""
    handler = ModestHandler()
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
    environ = environ_here()
    debug = parsed.detailed_debug or parsed.debug
    flags = {
        "LITELLM_HOST": parsed.host,
        "LITELLM_PORT": parsed.port,
        "NUM_WORKERS": parsed.num_workers,
        "LITELLM_LOG": "DEBUG" if debug else parsed.log_level,
    }
    told = {name: str(value) for name, value in flags.items() if value is not None}
    environ |= told
    source = Source(
        config_path(parsed.config, environ),
        environ,
        told=told,
        amend=partial(_with_flags, parsed=parsed),
        strict=parsed.strict,
    )
    written = source.read()
    configured_keys(written.config)
    os.environ.update(written.environ)  # libraries look there, for instance for certificates
    environment = written.environment
    return _Settings(
        source=source,
        written=written,
        environment=replace(environment, host=_every_address(environment.host, environ)),
        log_level=most_verbose(
            environment.log_level, *(["DEBUG"] if written.config.litellm.set_verbose else [])
        ),
        json_logs=True if parsed.json_logs or environment.json_logs else None,
    )


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
    written = settings.written
    rt = await open_runtime(written.config, settings.environment, written.environ)
    rt.reloader = reloader = Reloader(rt, settings.source, written)
    if worker:
        reloader.tell_workers = ask_supervisor
        asyncio.get_running_loop().add_signal_handler(HURRY, rt.impatient.set)
    if worker is None or worker.speaks:
        for problem in told_once(written.notices, written.config, rt.routes):
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
    _stop_listening()


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


def _health(parsed: argparse.Namespace) -> int:
    environment = read_environment(environ_here())
    host, port = parsed.host or environment.host, parsed.port or environment.port
    try:
        url = checked_url(parsed.url or f"http://{reachable(host)}:{port}/health")
    except NotDone as why:
        print(f"penstock: {why}", file=sys.stderr)
        return 2
    try:
        with directly.open(url, timeout=parsed.timeout) as response:
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
