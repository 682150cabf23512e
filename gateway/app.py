"""The server: what is bound, what starts first, what stops last.

`open_runtime` builds the long-lived things, `build_app` binds the endpoint and management tables to them, `serve` runs
both until a signal. Stopping is the reverse, with a drain in front: from SIGTERM on readiness says 503, then nothing new
is accepted, streams may finish, those that take too long end with an error event, and the ledger is written out.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import re
import resource
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.typedefs import Handler
from prometheus_async import aio

from adapters.errors import (
    BadRequest,
    Bug,
    Draining,
    GatewayError,
    MethodNotAllowed,
    RouteNotFound,
    VersionNotSupported,
)
from gateway import __version__, access, cors
from gateway.admin.routes import CALLER, PAGES, Page
from gateway.background.credentials import LateCredentials
from gateway.background.fleet import Fleet
from gateway.background.keep_alive import KeepAlive
from gateway.background.lag import LoopLag
from gateway.background.ledger import Ledger
from gateway.background.limiter import Limiter
from gateway.background.retention import Retention
from gateway.background.spending import SpendReader
from gateway.background.supervisor import Supervisor, Worker
from gateway.compiled import compile_config, secrets_of, with_stored
from gateway.config.environment import Environment
from gateway.config.model import Config, GeneralSettings
from gateway.config.postgres import read_postgres_url
from gateway.credentials import Signers
from gateway.endpoints import ENDPOINTS
from gateway.keyring import ANONYMOUS, Keyring, held_out
from gateway.logs import RefusalLog, log_requests, redactor
from gateway.metrics import DeploymentState, Metrics
from gateway.named_credentials import AWAY, Credentials, credentials_of
from gateway.outbox import Outbox
from gateway.pricing import PriceTable
from gateway.probing import Prober
from gateway.routing.health import Health
from gateway.runtime import Runtime
from gateway.server import Runner, id_of, refusal, sign, through_aiohttp
from gateway.stages import auth, stream
from gateway.state.open import Database, open_journal, open_records, open_shared
from gateway.state.pruning import DAY
from gateway.state.records import Records, RecordsUnavailable
from gateway.state.sealing import CannotOpen, CannotSeal, Sealer
from gateway.state.shared_memory import MemoryShared
from gateway.upstreams import Upstreams, proxies_from_environment

log = logging.getLogger("penstock")

KEEP_ALIVE = 75.0
_SEND_BUFFER = 256 * 1024
_BACKLOG = 1024
_ERRANDS = 2.0
"""Seconds that what nobody waits for may take on the way out."""
_FIRST_KEYS = 2.0
"""Seconds that the start waits for the virtual keys."""
_RETENTION_INTERVAL = 60.0
"""Seconds between two looks for old rows, at least."""
_FILES = 131_072
_TRICK = re.compile(r"//|%2e|;|\\|%5c|%00", re.IGNORECASE)


class CannotStart(Exception):
    """Why the gateway does not start, in one line, and the process's exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def allow_many_files() -> int:
    """Raise the limit of open files as far as this process may, and say how many it has now.

    Two are needed for each stream, the client's socket and the provider's; the usual soft limit of 1,024 would end at
    some 500 streams.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_bounded = hard != resource.RLIM_INFINITY
    for most in (max(soft, hard, _FILES), hard):
        with suppress(ValueError, OSError):  # beyond the hard limit only root may go
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, max(most, hard) if is_bounded else hard))
            return most
    return soft


# -- the long-lived things -------------------------------------------------------------------------------------------


async def open_runtime(config: Config, environment: Environment, environ: Mapping[str, str]) -> Runtime:
    """Build what requests need. Nothing here waits for another machine, and what was opened is closed where it comes to nothing."""
    async with AsyncExitStack() as opened:
        rt = await _open_runtime(config, environment, environ, opened)
        opened.pop_all()
    return rt


async def _open_runtime(
    config: Config, environment: Environment, environ: Mapping[str, str], opened: AsyncExitStack
) -> Runtime:
    general = config.general
    try:
        proxies = proxies_from_environment(environ)
    except ValueError as error:
        raise CannotStart(str(error)) from None
    records, warnings = await asyncio.to_thread(
        open_records, Path(environment.data_dir), database_of(general)
    )
    for warning in warnings:
        log.warning("%s", warning)
    opened.push_async_callback(records.close)
    try:
        url = config.router.redis_url.reveal() if config.router.redis_url else None
        shared = open_shared(url, environment.redis_timeout)
    except ValueError as error:
        raise CannotStart(f"the address of Redis cannot be used: {error}") from None
    opened.push_async_callback(shared.close)
    redactor.add(*secrets_of(config, environment))
    sealer = Sealer(salt.reveal() if (salt := environment.salt_key or general.master_key) else None)
    credentials = await _first_credentials(records, sealer)
    compiled = compile_config(config, environ, PriceTable.load(), credentials)
    keyring = Keyring(general.master_key, records, compiled.keys)
    records.listen(keyring.hear)
    if not isinstance(shared, MemoryShared):
        keyring.listen(shared)
    await _first_keys(keyring)
    metrics = Metrics(__version__)
    journal, journals_all = open_journal(Path(environment.data_dir), records)
    ledger = Ledger(records, [metrics.observe, log_requests], journal=journal, journals_all=journals_all)
    opened.push_async_callback(ledger.close)
    await ledger.open(charge=general.on_orphan == "charge")
    limiter = Limiter(compiled.limits, shared, records, ledger, workers=environment.num_workers)
    outbox = Outbox(asyncio.get_running_loop())
    rt = Runtime(
        compiled=compiled,
        environment=environment,
        keyring=keyring,
        outbox=outbox,
        upstreams=Upstreams(proxy=proxies, outbox=outbox),
        signers=Signers(),
        health=Health(),
        records=records,
        sealer=sealer,
        ledger=ledger,
        shared=shared,
        limiter=limiter,
        metrics=metrics,
        refusals=RefusalLog(),
        cors_headers=cors.headers_for(general.allowed_origins, credentials=general.cors_allow_credentials),
        now=time.monotonic,  # not the loop's clock: uvloop's stands still within a turn and counts milliseconds
    )
    _let_metrics_look(rt)
    if credentials is AWAY:
        late = lambda found: rt.follow(with_stored(rt.compiled, found))  # noqa: E731 - of the configuration in force then
        rt.late_credentials = LateCredentials(records, sealer, late)
    return rt


def _let_metrics_look(rt: Runtime) -> None:
    """What the metrics show when they are asked, and do not count themselves."""
    metrics, ledger = rt.metrics, rt.ledger
    metrics.watch_deployments = partial(_deployment_states, rt)
    metrics.watch_records = lambda: bool(rt.records.describe().error)
    metrics.watch_ledger = lambda: (ledger.waiting, ledger.dropped)
    metrics.watch_journal = lambda: (ledger.journal_bytes, bool(ledger.journal_error))
    metrics.watch_budgets = rt.limiter.states
    metrics.watch_spending = rt.health.spending.dollars_left
    metrics.watch_queue = lambda: (rt.queue.waiting, rt.queue.refused)
    metrics.watch_concurrency = rt.health.learnt
    metrics.watch_retries = lambda: rt.retry_budget.refused
    metrics.watch_cooldowns = partial(_cooldowns, rt, {})
    metrics.watch_shared = lambda: rt.shared.available
    metrics.watch_config = lambda: rt.reloader.state if rt.reloader else (True, 0.0)
    metrics.watch_credentials = lambda: len(rt.credentials.unreadable)
    rt.queue.on_waited = metrics.waited


async def _first_credentials(records: Records, sealer: Sealer) -> Credentials:
    """The store's named credentials, if it is quick. Raises `CannotStart` where they belong to another salt key."""
    try:
        async with asyncio.timeout(_FIRST_KEYS):
            found = await credentials_of(records, sealer)
    except (RecordsUnavailable, TimeoutError):
        log.warning("the named credentials cannot be read yet; models that need them are off until then")
        return AWAY
    except (CannotSeal, CannotOpen) as error:
        raise CannotStart(str(error)) from None
    for name in found.unreadable:
        log.error("%s; models that need it are off", found.why_not(name))
    return found


async def _first_keys(keyring: Keyring) -> None:
    """Have all keys in memory before the first request, if their store is quick; else they come when they can."""
    try:
        async with asyncio.timeout(_FIRST_KEYS):
            await keyring.load()
    except (RecordsUnavailable, TimeoutError):
        log.warning("the virtual keys cannot be read yet; until then unknown keys are answered with 503")


def database_of(general: GeneralSettings) -> Database | None:
    """The Postgres of the configuration; what its URL says of bounds wins over the settings."""
    if general.database_url is None:
        return None
    url = read_postgres_url(general.database_url.reveal())
    default = Database(url.dsn.reveal(), url.where)
    return Database(
        default.dsn,
        default.where,
        url.pool or general.database_connection_pool_limit or default.pool,
        url.connect_seconds or general.database_connect_timeout or default.connect_seconds,
        url.command_seconds or general.database_socket_timeout or default.command_seconds,
    )


def _deployment_states(rt: Runtime) -> Iterator[DeploymentState]:
    now = rt.now()
    for route in rt.routes.configured():
        for deployment in route.deployments:
            condition = rt.health.look(deployment.id)
            cooling = condition.cooled_until > now
            yield DeploymentState(
                deployment.id,
                deployment.target.model,
                deployment.provider,
                deployment.origin,
                2 if cooling else (1 if condition.last_reason else 0),
            )


def _cooldowns(rt: Runtime, known: dict[str, tuple[str, ...]]) -> Iterator[tuple[tuple[str, ...], int]]:
    """How often each deployment that is configured was left out, by the labels of its series.

    `known` remembers those that a reload took away: what several workers have counted must not fall.
    """
    for route in rt.routes.configured():
        for one in route.deployments:
            known[one.id] = (one.model_name, one.id, one.origin, one.provider)
    for deployment_id, status, times in rt.health.cooldowns():
        if (labels := known.get(deployment_id)) is not None:
            yield (*labels, str(status)), times


# -- what is bound ---------------------------------------------------------------------------------------------------


def build_app(rt: Runtime) -> web.Application:
    """The aiohttp application: model routes, management routes, and one guard in front of all."""
    app = web.Application(client_max_size=rt.body_limit, middlewares=[_guard])
    for endpoint in ENDPOINTS:
        handler = partial(through_aiohttp, rt, endpoint=endpoint)
        handler.told = (f"{endpoint.client_format} {endpoint.operation}", "caller", ["model"])  # type: ignore[attr-defined]  # read by /openapi.json
        app.router.add_route(endpoint.method, endpoint.path, handler, expect_handler=_no_promise)
    for page in PAGES:
        shown = partial(_show, rt, page)
        shown.told = (page.title, page.access, [])  # type: ignore[attr-defined]  # as above
        app.router.add_route(page.method, page.path, shown, expect_handler=_invite)
        if page.method == "GET":
            app.router.add_route("HEAD", page.path, shown, expect_handler=_invite)
    app.on_response_prepare.append(_sign)
    cors.allow(app, rt.config.general.allowed_origins, credentials=rt.config.general.cors_allow_credentials)
    return app


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    sign(request, response)


async def _no_promise(request: web.Request) -> None:
    """Aiohttp would invite the body (`100 Continue`) before anybody knows who asks; `stages.body` does it afterwards."""


async def _invite(request: web.Request) -> None:
    """Whatever else is expected is passed over, as model routes do; aiohttp would refuse it in a dialect that no client reads."""
    if request.version == HttpVersion11 and request.headers.get("expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # nothing of the answer


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses tricks in paths and other versions of HTTP before any handler runs, and answers in the path's dialect where none
    does.
    """
    try:
        if request.version not in (HttpVersion10, HttpVersion11):  # aiohttp's parser lets 0.9 and 2.0 pass
            raise VersionNotSupported("Here HTTP/1.1 and HTTP/1.0 are spoken")
        if _TRICK.search(request.rel_url.raw_path):
            raise BadRequest("The path has something in it that paths here do not have")
        return await handler(request)
    except GatewayError as error:
        return refusal(request, error)
    except web.HTTPNotFound:
        return refusal(request, RouteNotFound(f"There is no {request.method} {request.path[:200]} here"))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        told = MethodNotAllowed(f"{request.path[:200]} takes {allowed}", headers={"allow": allowed})
        return refusal(request, told)


async def _show(rt: Runtime, page: Page, http: web.Request) -> web.StreamResponse:
    """One management page: who may is decided by its row, on the matched route."""
    try:
        await _authorize(rt, page, http)
    except GatewayError as error:
        rt.metrics.refused(error.reason)
        credential = held_out(http.headers)
        rt.refusals.refused(reason=error.reason, credential=credential, path=page.path, client_ip=http.remote)
        raise
    try:
        shown = await aio.time(rt.metrics.management(page.path), page.show(rt, http))
    except GatewayError:
        raise
    except Exception as bug:
        log.exception("request %s of %s hit a bug", id_of(http), page.path)
        raise Bug("Internal error", code=type(bug).__name__) from bug
    if isinstance(shown, web.StreamResponse):
        return shown
    status, data = shown if isinstance(shown, tuple) else (200, shown)
    return web.Response(status=status, body=orjson.dumps(data), headers={"content-type": "application/json"})


async def _authorize(rt: Runtime, page: Page, http: web.Request) -> None:
    """Raises what refuses the request; who asks is kept with it."""
    caller = ANONYMOUS
    public = page.access == "public" or page.path in rt.config.general.public_routes
    if public and page.path.startswith("/metrics") and rt.config.litellm.require_auth_for_metrics_endpoint:
        public = False
    if page.access == "admin":
        caller = await auth.require_admin(rt, http, page.path)
    elif not public:
        caller = await auth.caller_of(rt, http)
        if caller.key is not None:
            access.check_page(caller.key, page.path)
    http[CALLER] = caller


# -- start and stop --------------------------------------------------------------------------------------------------


async def serve(
    rt: Runtime, *, host: str, port: int, ready: asyncio.Event | None = None, shared: bool = False
) -> None:
    """Run until SIGTERM or SIGINT, then drain. `shared`: other workers listen there too. Raises `CannotStart`."""
    loop = asyncio.get_running_loop()
    workers: list[Worker] = [rt.ledger, rt.shared, rt.limiter, rt.keyring, rt.records]
    late = [rt.late_credentials] if rt.late_credentials else []
    reloader = [rt.reloader] if rt.reloader else []
    workers.append(SpendReader(rt.health.spending, rt.records, rt.ledger))
    workers += [LoopLag(rt.metrics), Prober(rt), keep_alive(rt)]
    supervisor = Supervisor([*workers, *_retention(rt), *_fleet(rt), *late, *reloader])
    rt.metrics.watch_workers = lambda: [(state.name, state.restarts) for state in supervisor.states()]
    runner = Runner(
        build_app(rt),
        rt,
        ENDPOINTS,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=KEEP_ALIVE,
        shutdown_timeout=1.0,
    )
    stop = asyncio.Event()
    try:
        await rt.shared.start()
        supervisor.start()
        if rt.reloader is not None:
            loop.add_signal_handler(signal.SIGHUP, rt.reloader.ask, "SIGHUP")
        await runner.setup()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, partial(_on_signal, rt, stop, shared=shared))
        sites = [web.SockSite(runner, sock, backlog=_BACKLOG) for sock in _listen(host, port, shared=shared)]
        for site in sites:
            await site.start()
        _calm_the_collector()
        if ready is not None:
            ready.set()
        await stop.wait()
        await _drain(rt, sites, runner.owes)
    finally:
        await _one_after_another(
            runner.cleanup,
            partial(rt.finish_errands, _ERRANDS),
            rt.signers.close,
            rt.upstreams.close,
            supervisor.stop,
            rt.shared.close,
            partial(rt.ledger.drain, timeout=10.0),
            rt.ledger.close,
            rt.records.close,
        )


async def _one_after_another(*steps: Callable[[], Awaitable[Any]]) -> None:
    """All steps of the end, whatever comes of each: a socket that will not close must not cost the rows behind it."""
    for step in steps:
        try:
            await step()
        except Exception:
            log.exception("the gateway could not be stopped in order")


def keep_alive(rt: Runtime) -> KeepAlive:
    """The worker that speaks to silent streams."""
    return KeepAlive(rt.open, lambda: rt.limits.keep_alive, partial(stream.comment, rt))


def _fleet(rt: Runtime) -> Iterator[Fleet]:
    """Who tells other processes of this one's deployments, if there can be any."""
    if isinstance(rt.shared, MemoryShared):
        return
    fleet = Fleet(rt.shared, rt.health, lambda: rt.routes, rt.now)
    rt.metrics.watch_fleet = lambda: 1 + fleet.others
    yield fleet


def _retention(rt: Runtime) -> Iterator[Retention]:
    """Who deletes old rows, if the configuration says how old."""
    general = rt.config.general
    if general.maximum_spend_logs_retention_period is None:
        return
    interval = max(_RETENTION_INTERVAL, general.maximum_spend_logs_retention_interval or DAY)
    retention = Retention(rt.records, general.maximum_spend_logs_retention_period, interval=interval)
    rt.metrics.watch_retention = lambda: (retention.pruned, retention.finished_at)
    yield retention


def _on_signal(rt: Runtime, stop: asyncio.Event, *, shared: bool) -> None:
    if rt.draining and not shared:  # a worker may hear one twice: its supervisor says which is a second one
        rt.impatient.set()
    rt.draining = True
    stop.set()


async def _drain(rt: Runtime, sites: list[web.SockSite], owes: Callable[[], bool] = lambda: False) -> None:
    """Let requests end, and clients read their answers; `owes`: some have not been sent all of theirs."""
    environment = rt.environment
    log.info("draining: %d requests are open", len(rt.open))
    if environment.drain_delay:
        await _until(rt.impatient, environment.drain_delay)
    for site in sites:
        await site.stop()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + environment.drain_timeout
    while (rt.open or owes()) and loop.time() < deadline and not rt.impatient.is_set():
        await _until(rt.impatient, 0.05)
    rt.closed = True
    if rt.open:
        log.warning("cutting off %d requests", len(rt.open))
        for x in list(rt.open):
            x.story.interrupt(Draining("The gateway is shutting down"))
    deadline = loop.time() + 5.0
    while (rt.open or owes()) and loop.time() < deadline:  # noqa: ASYNC110 - once in a process's life; an event would cost every request
        await asyncio.sleep(0.01)


async def _until(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def claim(host: str, port: int) -> list[socket.socket]:
    """Keep an address for workers that will share it. Raises `CannotStart`.

    Among sockets with SO_REUSEPORT no second gateway would be noticed. So the address is bound without it, as if for one
    process, and shared only then; what is bound and does not listen gets no connections.
    """
    sockets = _listen(host, port)
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return sockets


def _listen(host: str, port: int, *, shared: bool = False) -> list[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = socket.getaddrinfo(
            host,
            port,
            family=0 if host not in ("::", "0.0.0.0") else family,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except OSError as error:
        raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror or error}", code=98) from None
    sockets = []
    for address in dict.fromkeys((row[0], row[4]) for row in found):
        try:
            sock = socket.socket(address[0], socket.SOCK_STREAM)
        except OSError as error:  # a machine without IPv6
            raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror}", code=98) from None
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # A client that does not read must not hold megabytes in the kernel: 1000 of them cost at most 256 MB.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        if address[0] == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        try:
            sock.bind(address[1])
        except OSError as error:
            sock.close()
            hint = " (is another gateway running? try --port)" if error.errno == errno.EADDRINUSE else ""
            raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror}{hint}", code=98) from None
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def _calm_the_collector() -> None:
    # What lives until the end need not be looked at again; the defaults spend 11 % of a busy process's time on it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
