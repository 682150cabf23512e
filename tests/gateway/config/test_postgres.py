from __future__ import annotations

from urllib.parse import quote

import pytest
from asyncpg.connect_utils import _parse_connect_dsn_and_args
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.model import Secret
from gateway.config.postgres import PostgresUrlInvalid, read_postgres_url


def understood(url: str) -> tuple[object, str | None, str | None, str | None]:
    """Addresses, user, password and database, as the client that is used understands what was made of `url`."""
    nothing = dict.fromkeys(
        (
            "host",
            "port",
            "user",
            "password",
            "passfile",
            "database",
            "ssl",
            "service",
            "servicefile",
            "direct_tls",
            "server_settings",
            "target_session_attrs",
            "krbsrvname",
            "gsslib",
        )
    )
    addresses, told = _parse_connect_dsn_and_args(dsn=read_postgres_url(url).dsn.reveal(), **nothing)
    return addresses, told.user, told.password, told.database


@pytest.mark.parametrize(
    ("url", "addresses", "user", "password", "database"),
    [
        ("postgres://u:p@h/d", [("h", 5432)], "u", "p", "d"),
        ("postgresql://u:p@h:5433/d", [("h", 5433)], "u", "p", "d"),
        ("  PostgreSQL://u:p@h:5433/d\n", [("h", 5433)], "u", "p", "d"),
        ("postgresql://litellm@litellm-postgres:5432/litellm", [("litellm-postgres", 5432)], "litellm", None, "litellm"),
        ("postgres://u:p%40%2F%3A%25@h/d", [("h", 5432)], "u", "p@/:%", "d"),
        ("postgres://u:p@w#r/d?x@h:1/d", [("h", 1)], "u", "p@w#r/d?x", "d"),
        ("postgres://u:p/w@h/d", [("h", 5432)], "u", "p/w", "d"),
        ("postgres://u:1/w@h:1/d", [("h", 1)], "u", "1/w", "d"),
        ("postgres://u:p?w@h/d", [("h", 5432)], "u", "p?w", "d"),
        ("postgres://u:123?w@h/d", [("h", 5432)], "u", "123?w", "d"),
        ("postgres://h:1/d?user=u@corp", [("h", 1)], "u@corp", None, "d"),
        ("postgres://[::1]/d?user=u@corp", [("::1", 5432)], "u@corp", None, "d"),
        ("postgres://u:100%@h/d", [("h", 5432)], "u", "100%", "d"),
        ("postgres://me%40corp:p@h/a%20b", [("h", 5432)], "me@corp", "p", "a b"),
        ("postgres://h/d", [("h", 5432)], "postgres", None, "d"),
        ("postgres://u@h", [("h", 5432)], "u", None, "u"),
        ("postgres://u:p@[::1]:5433/d", [("::1", 5433)], "u", "p", "d"),
        ("postgres://u:p@[::1]/d", [("::1", 5432)], "u", "p", "d"),
        ("postgres://u:p@a:1,b:2/d", [("a", 1), ("b", 2)], "u", "p", "d"),
        ("postgres://u:p@a,[::1]/d?port=7", [("a", 7), ("::1", 7)], "u", "p", "d"),
        ("postgresql:///d?host=/run/postgresql", ["/run/postgresql/.s.PGSQL.5432"], "postgres", None, "d"),
        ("postgresql://u@%2Frun%2Fpg:5433/d", ["/run/pg/.s.PGSQL.5433"], "u", None, "d"),
        ("postgresql://u:p@localhost/d?host=/cloudsql/a:b:c", ["/cloudsql/a:b:c/.s.PGSQL.5432"], "u", "p", "d"),
        ("postgresql://h/?user=u&password=p&dbname=d", [("h", 5432)], "u", "p", "d"),
        ("postgresql://:p@h/d?user=u@corp", [("h", 5432)], "u@corp", "p", "d"),
    ],
)  # fmt: skip
def test_spellings(url: str, addresses: object, user: str, password: str | None, database: str) -> None:
    """Every spelling leads to the same place with the same words."""
    assert understood(url) == (addresses, user, password, database)


@given(st.text(min_size=1, alphabet=st.characters(codec="utf-8", exclude_characters="\0")).filter(str.strip))
def test_any_password(password: str) -> None:
    """A password that is encoded as it should be arrives as it was, and is shown nowhere."""
    url = f"postgres://u:{quote(password, safe='')}@h/d"
    assert understood(url)[2] == password
    read = read_postgres_url(url)
    assert read.password == Secret(password)
    assert "://" not in repr(read)
    assert read.where == "h:5432/d"


def test_what_bounds_something_is_taken_over() -> None:
    """Prisma's and libpq's bounds count; what changes nothing is named."""
    read = read_postgres_url(
        "postgres://u:p@h/d?connection_limit=20&pool_timeout=9&connect_timeout=3&socket_timeout=7"
        "&pgbouncer=true&schema=public&statement_cache_size=0&channel_binding=require"
    )
    assert (read.pool, read.connect_seconds, read.command_seconds) == (20, 3.0, 7.0)
    ignored = ("channel_binding", "pgbouncer", "pool_timeout", "schema", "statement_cache_size")
    assert read.ignored == ignored
    unbounded = read_postgres_url("postgres://h/d?connection_limit=0&connect_timeout=0")
    assert (unbounded.pool, unbounded.connect_seconds) == (None, None)


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("sslmode=require", "sslmode=require"),
        ("sslmode=no-verify", "sslmode=require"),
        ("ssl=true", "sslmode=require"),
        ("sslmode=verify-ca&sslrootcert=/a.pem", "sslmode=verify-ca&sslrootcert=%2Fa.pem"),
        ("sslmode=require&sslaccept=strict&sslcert=/ca.pem", "sslmode=verify-full&sslrootcert=%2Fca.pem"),
        ("sslaccept=accept_invalid_certs&sslmode=require", "sslmode=require"),
        ("sslmode=require&sslcert=/c.pem&sslkey=/k.pem", "sslmode=require&sslcert=%2Fc.pem&sslkey=%2Fk.pem"),
        ("application_name=x&options=endpoint%3Da", "application_name=x&options=endpoint%3Da"),
    ],
)
def test_tls_and_what_the_server_is_told(query: str, kept: str) -> None:
    """What a URL says of certificates is never weakened."""
    assert f"?{kept}&host=" in read_postgres_url(f"postgres://u@h/d?{query}").dsn.reveal()


def test_of_several_servers_the_one_that_can_be_written() -> None:
    """Of a cluster's servers the primary is meant, unless the URL says otherwise."""
    assert "target_session_attrs=read-write" in read_postgres_url("postgres://u@a,b/d").dsn.reveal()
    assert "read-write" not in read_postgres_url("postgres://u@a,b/d?target_session_attrs=any").dsn.reveal()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://u:hidden@h/d", "must begin with"),
        ("${{Postgres.DATABASE_URL}}", "must begin with"),
        ("", "must begin with"),
        ("postgres://u:hidden@h:x/d", "host or its port"),
        ("postgres://u:hidden@h:70000/d", "port must be"),
        ("postgres://u:hidden@a,b/d?port=1,2,3", "another number of ports"),
        ("postgres://u:hidden@h/d?sslmode=maybe", "sslmode must be one of"),
        ("postgres://u:hidden@h/d?sslidentity=/i.p12", "sslidentity"),
        ("postgres://u:hidden@h/d?connection_limit=many", "connection_limit"),
        ("postgres://u:hidden@h/d?connect_timeout=-1", "connect_timeout"),
    ],
)
def test_what_leads_nowhere(url: str, why: str) -> None:
    """A URL that cannot be understood says why, and shows nothing of itself."""
    with pytest.raises(PostgresUrlInvalid, match=why) as caught:
        read_postgres_url(url)
    assert "hidden" not in str(caught.value)
