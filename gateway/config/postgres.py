"""Where Postgres is: the URLs that people and platforms write, and what is made of them.

`postgres://` and `postgresql://` mean the same. Passwords are percent-encoded, but not by everybody, so that one with an
`@` or a `#` in it is understood as well. Parameters come from libpq, which we follow; from Prisma, which LiteLLM's users
know; and from providers. What bounds connections and time is taken over; what changes nothing here is named in a notice; what
promises more safety than there is is refused. No text that is made here has a password in it.

See https://www.postgresql.org/docs/current/libpq-connect.html and
https://www.prisma.io/docs/orm/overview/databases/postgresql.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote, urlencode

from msgspec import Struct

from gateway.config.model import Secret


class PostgresUrlInvalid(ValueError):
    """Why a URL is none that leads to a Postgres. Its text shows nothing of the URL but names of parameters."""


class PostgresUrl(Struct, frozen=True):
    """A URL that was understood. None where it says nothing."""

    dsn: Secret
    """As libpq writes it, every part encoded."""
    where: str
    """Host and database, for people."""
    password: Secret | None = None
    pool: int | None = None
    """Connections at most."""
    connect_seconds: float | None = None
    command_seconds: float | None = None
    ignored: tuple[str, ...] = ()
    """Names of parameters that have no effect."""


_DEFAULT_USER = "postgres"

_STRICT = re.compile(
    r"(?:(?P<login>[^/?#]*)@)?(?P<hosts>[^@/?#]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?", re.DOTALL
)
_LENIENT = re.compile(
    r"(?:(?P<login>.*)@)(?P<hosts>[^@/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?", re.DOTALL
)
"""The second is for a password with a `/`, `?` or `#` as it is."""

_PASSED_ON = frozenset(
    (
        *("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("target_session_attrs", "application_name", "options"),
    )
)
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_NO_VERIFY = {"no-verify": "require", "true": "require", "false": "disable"}


def read_postgres_url(url: str) -> PostgresUrl:
    """Understand a URL. Raises `PostgresUrlInvalid`."""
    scheme, found, rest = url.strip().partition("://")
    if not found or scheme.lower() not in {"postgres", "postgresql"}:
        raise PostgresUrlInvalid("it must begin with postgresql:// or postgres://")
    parts = _STRICT.fullmatch(rest)
    if parts is None or _cuts_a_password(parts):
        parts = _LENIENT.fullmatch(rest) or parts
    if parts is None:
        raise PostgresUrlInvalid("it must look like postgresql://user:password@host:5432/database")
    words = dict(parse_qsl(parts["query"] or "", keep_blank_values=True))
    user, _, password = (unquote(part) for part in (parts["login"] or "").partition(":"))
    user, password = words.pop("user", user) or _DEFAULT_USER, words.pop("password", password)
    database = words.pop("dbname", words.pop("database", unquote(parts["database"] or ""))) or user
    hosts = _hosts(words.pop("host", ""), words.pop("port", ""), parts["hosts"])
    kept = {**_ssl(words), **{name: words.pop(name) for name in sorted(words.keys() & _PASSED_ON)}}
    if len(hosts) > 1:
        kept.setdefault("target_session_attrs", "read-write")
    seconds = {name: _seconds(words, name) for name in ("connect_timeout", "socket_timeout")}
    pool = _count(words, "connection_limit")
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    kept |= {
        "host": ",".join(f"[{host}]" if ":" in host and host[0] != "/" else host for host, _ in hosts),
        "port": ",".join(port for _, port in hosts),
    }
    query = urlencode(kept, quote_via=quote, safe="")
    return PostgresUrl(
        dsn=Secret(f"postgresql://{login}@/{quote(database, safe='')}?{query}"),
        where=f"{', '.join(_shown(*host) for host in hosts)}/{database}",
        password=Secret(password) if password else None,
        pool=pool,
        connect_seconds=seconds["connect_timeout"],
        command_seconds=seconds["socket_timeout"],
        ignored=tuple(sorted(words)),
    )


def _cuts_a_password(parts: re.Match[str]) -> bool:
    """An `@` behind what `_STRICT` took for the whole address: its `/` or `?` is one of the password."""
    if parts["login"] is not None:
        return False
    words = (parts["query"] or "").split("&")
    behind = [parts["database"] or "", *(word.partition("=")[0] for word in words)]
    _, colon, port = parts["hosts"].rpartition(":")
    if colon and not re.fullmatch(r"[0-9A-Fa-f\]]*", port):
        behind.append(parts["query"] or "")
    return any("@" in text for text in behind)


def _hosts(named: str, ports: str, authority: str) -> list[tuple[str, str]]:
    """(host, port) of each. A host in a parameter wins over the one in front, where a socket's path has no place."""
    found: list[tuple[str, str]] = []
    for text in (named or authority).split(","):
        match = re.fullmatch(
            r"(/.*|%2[fF][^:]*|\[[^\]]*\]|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*|[^:]*)(?::(\d*))?", text
        )
        if match is None:
            raise PostgresUrlInvalid("its host or its port cannot be read")
        found.append((unquote(match[1]).strip("[]") or "localhost", match[2] or ""))
    given = ports.split(",") if ports else []
    if len(given) not in {0, 1, len(found)}:
        raise PostgresUrlInvalid("it has another number of ports than of hosts")
    chosen = [
        (host, port or (given[n] if len(given) > 1 else "".join(given)) or "5432")
        for n, (host, port) in enumerate(found)
    ]
    if not all(re.fullmatch(r"\d{1,5}", port, re.ASCII) and 0 < int(port) < 65536 for _, port in chosen):
        raise PostgresUrlInvalid("its port must be 1 to 65535")
    return chosen


def _ssl(words: dict[str, str]) -> dict[str, str]:
    """`sslmode`, and Prisma's words beside it: its `sslcert` is the authority's, and `sslaccept=strict` means to verify."""
    mode = words.pop("sslmode", words.pop("ssl", "")).lower()
    mode = _NO_VERIFY.get(mode, mode)
    if mode and mode not in _SSL_MODES:
        raise PostgresUrlInvalid(f"its sslmode must be one of {', '.join(_SSL_MODES)}")
    if "sslidentity" in words:
        raise PostgresUrlInvalid("sslidentity is not available: name sslcert and sslkey, in PEM")
    accept = words.pop("sslaccept", "")
    if accept and "sslcert" in words and "sslkey" not in words:
        words.setdefault("sslrootcert", words.pop("sslcert"))
    if accept == "strict" and mode not in {"disable", "verify-ca"}:
        mode = "verify-full"
    return {"sslmode": mode} if mode else {}


def _seconds(words: dict[str, str], name: str) -> float | None:
    """0 means no bound, which there is not."""
    text = words.pop(name, "")
    if text and not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII):
        raise PostgresUrlInvalid(f"its {name} must be a number of seconds")
    return float(text) if text and float(text) else None


def _count(words: dict[str, str], name: str) -> int | None:
    text = words.pop(name, "")
    if text and not re.fullmatch(r"\d{1,4}", text, re.ASCII):
        raise PostgresUrlInvalid(f"its {name} must be a number")
    return int(text) or None if text else None


def _shown(host: str, port: str) -> str:
    if host.startswith("/"):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
