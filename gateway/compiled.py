"""Everything that follows from a configuration, made in one place: at the start, at a reload, and when credentials come late.

`compile_config` makes it and touches nothing, so it may fail, and may run in a thread. `Runtime.follow` puts it in force, in
one step that cannot fail. Whatever is new and depends on the configuration belongs here, or it would know the first one for
ever; what cannot be changed while the gateway runs is listed in `gateway.differences`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from gateway.config.environment import Environment
from gateway.config.model import Config
from gateway.config.postgres import read_postgres_url
from gateway.keyfields import configured_keys
from gateway.limits import Settings, settings_of
from gateway.logs import redactor
from gateway.named_credentials import Credentials, together
from gateway.pricing import PriceTable
from gateway.routes import Routes, compile_routes
from gateway.state.keys import KeyRow

_BODY_LIMIT = 32 * 1024 * 1024
_LONG_PASSWORD = 12
"""Characters of a password that is taken out of logs wherever it appears; a shorter one may be a word of its own."""


class Compiled(Struct, frozen=True, eq=False, kw_only=True):
    """A configuration, and what it comes to."""

    config: Config
    environ: Mapping[str, str]
    prices: PriceTable
    credentials: Credentials
    """The store's named credentials, as the routes were compiled with them."""
    routes: Routes
    keys: tuple[KeyRow, ...]
    """Those of `virtual_keys`."""
    limits: Settings
    labels: frozenset[str]
    """Names of models that metrics may show."""
    body_limit: int
    """Bytes of a request at most."""


def compile_config(
    config: Config, environ: Mapping[str, str], prices: PriceTable, credentials: Credentials
) -> Compiled:
    """Make all of it; the logs know its secrets when this returns. Raises ConfigInvalid."""
    keys = configured_keys(config)
    routes = compile_routes(config, environ, prices, credentials)
    redactor.add(
        *secrets_of(config), *credentials.secrets(), *(secret.reveal() for secret in routes.secrets())
    )
    megabytes = config.general.max_request_size_mb
    return Compiled(
        config=config,
        environ=environ,
        prices=prices,
        credentials=credentials,
        routes=routes,
        keys=tuple(keys),
        limits=settings_of(config),
        labels=frozenset(_labels(routes)),
        body_limit=int(megabytes * 1024 * 1024) if megabytes else _BODY_LIMIT,
    )


def with_stored(compiled: Compiled, credentials: Credentials) -> Compiled:
    """The same configuration with other named credentials in the store."""
    return compile_config(compiled.config, compiled.environ, compiled.prices, credentials)


def secrets_of(config: Config, environment: Environment | None = None) -> Iterator[str]:
    """What must never be in a log, of what was written; keys of deployments are known when they are compiled."""
    general = config.general
    if environment is not None and environment.salt_key:
        yield environment.salt_key.reveal()
    if general.master_key:
        yield general.master_key.reveal()
    if general.database_url:
        yield general.database_url.reveal()
        password = read_postgres_url(general.database_url.reveal()).password
        if password and len(password.reveal()) >= _LONG_PASSWORD:
            yield password.reveal()
    for written in config.virtual_keys:
        yield written.key.reveal()
    yield from together(config, Credentials()).secrets()


def _labels(routes: Routes) -> Iterator[str]:
    for route in routes.configured():
        yield route.name
        yield from (deployment.target.model for deployment in route.deployments)
