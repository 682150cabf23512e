"""What the environment says: where to listen, how loudly to log, where state lives.

Containers are set up by variables, and each deployment that we know of uses other names for the same thing. Here all of
them are read at once into one struct; which of two names wins is written where it is read. Names that are known and
have no effect yet are told like unknown keys of the file: nobody should believe in a setting that does nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from gateway.config.model import Place, Secret
from gateway.config.problems import Problem, Report
from gateway.config.values import shown, substitute, truth

log = logging.getLogger(__name__)

PLACE = Place("environment", 0, 0)

MOST_WORKERS = 256

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
"""Levels of the log, the most verbose first."""

VARIABLES: dict[str, str] = {
    "LITELLM_HOST, HOST": "The address to listen on; default 0.0.0.0.",
    "LITELLM_PORT, PORT": "The port; default 4000.",
    "LITELLM_MASTER_KEY": "The key that may do everything, if the file names none.",
    "LITELLM_SALT_KEY": "The key that seals what the store must be able to give back (named credentials); default: the master key.",
    "CONFIG_FILE_PATH": "The configuration file, if the command line names none.",
    "PENSTOCK_DATA_DIR": "Where the embedded state lives; default `.penstock`.",
    "DATABASE_URL": "As `database_url`.",
    "DATABASE_HOST, POSTGRES_HOST": "Postgres by its parts, with `…_PORT`, `…_USER`, `…_PASSWORD` and `DATABASE_NAME`, `POSTGRES_LITELLM_DB` or `POSTGRES_DB`; `DATABASE_URL` wins.",
    "LITELLM_LOG, LITELLM_LOG_LEVEL": "DEBUG, INFO, WARNING, ERROR or CRITICAL; the most verbose wins.",
    "LITELLM_DEBUG, DETAILED_DEBUG, DEBUG": "`true` means level DEBUG.",
    "JSON_LOGS": "`true`: JSON lines even on a terminal.",
    "LITELLM_CORS_ORIGINS, LITELLM_CORS_ALLOW_CREDENTIALS": "As `allowed_origins` and `cors_allow_credentials`.",
    "REDIS_URL": "As `redis_url` of `router_settings`.",
    "REDIS_HOST, REDIS_PORT, REDIS_USERNAME, REDIS_PASSWORD, REDIS_SSL": "The same in parts.",
    "PENSTOCK_REDIS_TIMEOUT": "Seconds that a request waits for Redis before limits go on without it; default 0.05. A connection has as much, and at least 1.",
    "NUM_WORKERS": "Processes that share the port, for more than one core; default 1.",
    "PENSTOCK_DRAIN_DELAY": "Seconds after a signal in which new requests are still taken; default 0.",
    "PENSTOCK_FAST_PATH": "`off`: aiohttp reads every request, where ordinary ones are else read without it; default `on`.",
    "PENSTOCK_DRAIN_TIMEOUT": "Seconds that open requests get to end after a signal; default 120.",
    "SSL_CERT_FILE": "A PEM file with the authorities whose certificates are trusted, in place of the system's file.",
    "LITELLM_ENVIRONMENT": "Which entries are served that have `model_info.supported_environments`: those that list it.",
}
"""What works, for the reference. Keys and addresses of providers are in the providers' own variables."""

LATER: dict[str, str] = {
    "UI_USERNAME": "there is no admin page",
    "UI_PASSWORD": "there is no admin page",
    "ALERT_WEBHOOK_URL": "no alerts are sent",
    "WEBHOOK_URL": "no alerts are sent",
    "SLACK_WEBHOOK_URL": "no alerts are sent",
    "ALERTING_WEBHOOK_URL": "no alerts are sent",
    "MS_TEAMS_WEBHOOK_URL": "no alerts are sent",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "no traces are sent",
    "OTEL_SERVICE_NAME": "no traces are sent",
    "LANGFUSE_PUBLIC_KEY": "no traces are sent",
    "LANGFUSE_SECRET_KEY": "no traces are sent",
    "LANGFUSE_HOST": "no traces are sent",
    "STORE_MODEL_IN_DB": "models are those of the configuration",
    "LITELLM_CONFIG_BUCKET_NAME": "the configuration is a file",
    "REDIS_CLUSTER_NODES": "Redis is what REDIS_URL or REDIS_HOST names",
    "REDIS_SENTINEL_NODES": "Redis is what REDIS_URL or REDIS_HOST names",
    "REQUEST_TIMEOUT": "write request_timeout under litellm_settings",
    "SERVER_ROOT_PATH": "paths begin at the root",
}
"""Known variables without an effect yet, and how things are instead."""

_TLS = "TLS is ended by the reverse proxy; serving it is not available"
REFUSED: dict[str, str] = {"SSL_KEYFILE_PATH": _TLS, "SSL_CERTFILE_PATH": _TLS}
"""Variables that somebody would rely on, and why they cannot; the flags and settings of these names are refused too."""


class Environment(Struct, frozen=True, kw_only=True):
    """The gateway's own settings from the environment; the command line wins over all of them."""

    host: str = "0.0.0.0"
    port: int = 4000
    master_key: Secret | None = None
    salt_key: Secret | None = None
    """Seals what the store must be able to give back."""
    log_level: str = "INFO"
    data_dir: Path = Path(".penstock")
    """Where the embedded state lives."""
    config_path: Path | None = None
    database_url: Secret | None = None
    redis_url: Secret | None = None
    redis_timeout: float = 0.05
    """Seconds that a request waits for Redis."""
    allowed_origins: tuple[str, ...] = ()
    cors_allow_credentials: bool = False
    drain_delay: float = 0.0
    """Seconds after a signal in which new requests are still taken, for load balancers that are slow to notice."""
    drain_timeout: float = 120.0
    """Seconds that open requests get to end after a signal."""
    fast_path: bool = True
    """Ordinary requests are read without aiohttp."""
    json_logs: bool = False
    num_workers: int = 1
    """Processes that share the port."""
    problems: tuple[Problem, ...] = ()
    """What was wrong; where there is an error the default stands in."""


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Read all variables that the gateway knows. Never raises: see `Environment.problems`."""
    report = Report()
    variables = _Variables(environ, report)
    master_key = environ.get("LITELLM_MASTER_KEY")
    if master_key is not None and not master_key.strip():
        report.warning(PLACE, "", "LITELLM_MASTER_KEY is empty, which counts as not set")
    for name, instead in LATER.items():
        if environ.get(name):
            report.notice(PLACE, "", f"{name} has no effect yet: {instead}")
    for name, why in REFUSED.items():
        if environ.get(name):
            report.error(PLACE, "", f"{name}: {why}")
    authorities = environ.get("SSL_CERT_FILE")
    if authorities is not None and (why := _unreadable(authorities)):
        told = f"SSL_CERT_FILE names no file that can be read ({why}): certificates of providers may not be trusted"
        report.warning(PLACE, "", told)
    default = Environment()
    config_path = environ.get("CONFIG_FILE_PATH")
    environment = Environment(
        host=variables.first("LITELLM_HOST", "HOST") or default.host,
        port=variables.port("LITELLM_PORT", "PORT") or default.port,
        master_key=variables.secret("LITELLM_MASTER_KEY"),
        salt_key=variables.secret("LITELLM_SALT_KEY"),
        log_level=variables.log_level(),
        data_dir=Path(environ.get("PENSTOCK_DATA_DIR") or default.data_dir),
        config_path=Path(config_path) if config_path else None,
        database_url=variables.secret("DATABASE_URL") or variables.postgres(),
        redis_url=variables.redis(),
        redis_timeout=variables.seconds("PENSTOCK_REDIS_TIMEOUT", default.redis_timeout),
        allowed_origins=variables.texts("LITELLM_CORS_ORIGINS"),
        cors_allow_credentials=variables.boolean("LITELLM_CORS_ALLOW_CREDENTIALS"),
        drain_delay=variables.seconds("PENSTOCK_DRAIN_DELAY", default.drain_delay),
        drain_timeout=variables.seconds("PENSTOCK_DRAIN_TIMEOUT", default.drain_timeout),
        fast_path=variables.boolean("PENSTOCK_FAST_PATH", default=default.fast_path),
        json_logs=variables.boolean("JSON_LOGS"),
        num_workers=variables.workers("NUM_WORKERS") or default.num_workers,
    )
    return replace(environment, problems=report.problems())


def _unreadable(file: str) -> str:
    """Why, which OpenSSL keeps to itself; empty if it can be read. To OpenSSL an empty name is one too."""
    if not file:
        return "its name is empty"
    try:
        Path(file).open("rb").close()
    except OSError as error:
        return str(error.strerror)
    return ""


def most_verbose(*levels: str) -> str:
    """The level among these that logs most."""
    return min(levels, key=LEVELS.index, default="INFO")


class _Variables:
    """Reads single variables by what they hold. An empty one counts as not set."""

    def __init__(self, environ: Mapping[str, str], report: Report) -> None:
        self._environ = environ
        self._report = report

    def first(self, *names: str) -> str | None:
        return next((value for name in names if (value := self._environ.get(name, "").strip())), None)

    def secret(self, name: str) -> Secret | None:
        value = self.first(name)
        return Secret(value) if value else None

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in (self.first(name) or "").split(",") if part.strip())

    def boolean(self, name: str, *, default: bool = False) -> bool:
        value = self.first(name)
        decided = truth(value) if value else default
        if decided is None:
            self._report.warning(PLACE, "", f"{name} must be true or false, not {shown(value or '')}")
            return default
        return decided

    def seconds(self, name: str, default: float) -> float:
        value = self.first(name)
        if value is None:
            return default
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
            self._report.error(PLACE, "", f"{name} must be a number of seconds, not {shown(value)}")
            return default
        return float(value)

    def port(self, *names: str) -> int | None:
        for name in names:
            value = self.first(name)
            if value is None:
                continue
            if re.fullmatch(r"\d{1,5}", value, re.ASCII) and 0 < int(value) < 65536:
                return int(value)
            self._report.error(PLACE, "", f"{name} must be a port (1 to 65535), not {shown(value)}")
            return None
        return None

    def workers(self, name: str) -> int | None:
        value = self.first(name)
        if value is None or (re.fullmatch(r"\d{1,3}", value, re.ASCII) and 0 < int(value) <= MOST_WORKERS):
            return int(value) if value else None
        self._report.error(
            PLACE, "", f"{name} must be a number of processes (1 to {MOST_WORKERS}), not {shown(value)}"
        )
        return None

    def log_level(self) -> str:
        """The most verbose of all that ask for a level."""
        wanted: list[str] = []
        for name in ("LITELLM_LOG", "LITELLM_LOG_LEVEL"):
            value = (
                (self.first(name) or "").upper().replace("WARN", "WARNING").replace("WARNINGING", "WARNING")
            )
            if value in LEVELS:
                wanted.append(value)
            elif value:
                self._report.warning(
                    PLACE, "", f"{name} must be one of {', '.join(LEVELS)}, not {shown(value)}"
                )
        if any(truth(self._environ.get(name, "")) for name in ("LITELLM_DEBUG", "DETAILED_DEBUG", "DEBUG")):
            wanted.append("DEBUG")
        return most_verbose(*wanted)

    def postgres(self) -> Secret | None:
        """A URL from its parts, in LiteLLM's names or in those of the Postgres image."""
        host = self.first("DATABASE_HOST", "POSTGRES_HOST")
        database = self.first("DATABASE_NAME", "POSTGRES_LITELLM_DB", "POSTGRES_DB")
        if not host or not database:
            return None
        user = self.first("DATABASE_USERNAME", "DATABASE_USER", "POSTGRES_USER")
        password = self.first("DATABASE_PASSWORD", "POSTGRES_PASSWORD")
        port = self.first("DATABASE_PORT", "POSTGRES_PORT")
        return Secret(f"postgresql://{_authority(user, password, host, port)}/{quote(database, safe='')}")

    def redis(self) -> Secret | None:
        """`REDIS_URL`, else a URL from its parts; an empty password means none."""
        url, host = self.secret("REDIS_URL"), self.first("REDIS_HOST")
        if url and host:
            self._report.notice(PLACE, "", "REDIS_URL and REDIS_HOST are both set: the URL is used")
        if url or not host:
            return url
        scheme = "rediss" if self.boolean("REDIS_SSL") else "redis"
        user, password = self.first("REDIS_USERNAME"), self.first("REDIS_PASSWORD")
        return Secret(f"{scheme}://{_authority(user, password, host, self.first('REDIS_PORT'))}")


def _authority(user: str | None, password: str | None, host: str, port: str | None) -> str:
    name = f"[{host}]" if ":" in host and not host.startswith("[") else host
    login = quote(user or "", safe="") + (f":{quote(password, safe='')}" if password else "")
    return (f"{login}@" if login else "") + name + (f":{port}" if port else "")


_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*)", re.DOTALL)

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r'\\([n"\\])')


def load_dotenv(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` and what the `.env` file at `path` adds to it: names that are there already are left as they are.

    Lines are `NAME=value`, with or without `export`, quotes and a comment at the end; `${NAME}` is replaced except in
    single quotes. A file that does not exist or cannot be read adds nothing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return dict(environ)
    except (OSError, UnicodeDecodeError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return dict(environ)
    whole = dict(environ)
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(words)
        if match is None or "\0" in words:
            log.warning("%s:%d: not of the form NAME=value", path, number)
        elif match.group(1) not in environ:
            whole[match.group(1)] = _unquote(match.group(2), whole)
    return whole


def _unquote(value: str, environ: Mapping[str, str]) -> str:
    quote_mark = value[:1]
    if quote_mark == "'" and (end := value.find(quote_mark, 1)) > 0:
        return value[1:end]
    if match := _QUOTED.match(value):
        value = _ESCAPE.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], match[1])
    else:
        value = re.split(r"(?:^|\s)#", value, maxsplit=1)[0].strip()
    return substitute(value, environ)[0] or ""
