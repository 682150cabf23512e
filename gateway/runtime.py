"""The long-lived things that stages use, built once by `gateway.app` and handed to every request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from gateway.background.credentials import LateCredentials
from gateway.background.ledger import Ledger
from gateway.background.limiter import Limiter
from gateway.background.supervisor import spawn
from gateway.compiled import Compiled
from gateway.config.environment import Environment
from gateway.credentials import Signers
from gateway.deadlines import Deadlines
from gateway.exchange import Exchange
from gateway.keyring import Keyring
from gateway.logs import RefusalLog
from gateway.metrics import Metrics
from gateway.outbox import Outbox
from gateway.reload import Reloader
from gateway.routing.health import Health
from gateway.routing.queue import FairQueue
from gateway.routing.retry_budget import Attempts
from gateway.routing.router import Router
from gateway.siblings import Siblings
from gateway.state.records import Records
from gateway.state.sealing import Sealer
from gateway.state.shared import Shared
from gateway.upstreams import Upstreams

Headers = Iterable[tuple[str, str]]
T = TypeVar("T")


class Limits:
    """Seconds and bytes that bound a request; a route's own settings go before `first_event`."""

    connect = 5.0
    first_event = 600.0
    between_events = 120.0
    client_write = 60.0
    keep_alive = 15.0
    error_body = 1024 * 1024
    error_body_seconds = 10.0
    answer_body = 64 * 1024 * 1024
    pending = 1024 * 1024
    retry_pause = 0.5
    longest_retry_wait = 10.0
    between_probes = 1.0
    """Of one provider (`gateway.probing`)."""
    body_grace = 30.0
    """Seconds that a request's body has in any case; on top comes what it needs at `body_rate`."""
    body_rate = 16 * 1024
    unheard = 64
    unheard_seconds = 120.0
    """Streams that run to their end although nobody listens (`on_disconnect: drain`), and how long one may."""


class Runtime:
    """A typed bag. What is not read-only says so."""

    def __init__(
        self,
        *,
        compiled: Compiled,
        environment: Environment,
        keyring: Keyring,
        outbox: Outbox,
        upstreams: Upstreams,
        signers: Signers,
        health: Health,
        records: Records,
        sealer: Sealer,
        ledger: Ledger,
        shared: Shared,
        limiter: Limiter,
        metrics: Metrics,
        refusals: RefusalLog,
        cors_headers: Callable[[str | None], Headers],
        now: Callable[[], float],
    ) -> None:
        self.environment = environment
        self.keyring = keyring
        self.upstreams = upstreams
        self.signers = signers
        self.health = health
        self.records = records
        self.sealer = sealer
        self.late_credentials: LateCredentials | None = None
        """Reads them, where the store was away at the start."""
        self.ledger = ledger
        self.shared = shared
        self.limiter = limiter
        self.metrics = metrics
        self.refusals = refusals
        self.cors_headers = cors_headers
        self.now = now
        """A monotonic clock, seconds."""
        self.retry_budget = Attempts()
        """Those beyond the first of each request, of all requests."""
        self.probes: dict[str, float] = {}
        """When each provider may be probed next, by its name."""
        self.limits = Limits()
        self.body_bytes = 0
        """Bytes of request bodies that are being read right now."""
        self.open: set[Exchange] = set()
        """The requests that are under way."""
        self.deadlines = Deadlines()
        self.queue = FairQueue(self.deadlines, now)
        """Requests that wait for room at a deployment."""
        self.outbox = outbox
        self.draining = False
        """A signal came: readiness says so, and soon nothing new is accepted."""
        self.closed = False
        """The time to drain is over: what still comes, on a connection that was kept, is refused."""
        self.impatient = asyncio.Event()
        """A second signal came: no more waiting."""
        self.started = now()
        self.siblings: Siblings | None = None
        """The other workers, where there are some."""
        self.reloader: Reloader | None = None
        """Keeps the configuration at what its files say, where it was read from some."""
        self.unheard = 0
        """Streams that run although nobody listens."""
        self._errands: set[asyncio.Task[Any]] = set()
        keyring.changed = limiter.key_changed
        self.follow(compiled)

    def follow(self, compiled: Compiled) -> None:
        """Put a configuration in force, in one step: what begins from now on goes by it alone, what has begun ends as it began."""
        config = compiled.config
        router = config.router
        self.compiled = compiled
        self.config = config
        self.routes = compiled.routes
        self.router = Router(router, self.health)
        self.credentials = compiled.credentials
        """The store's named credentials, as the routes were compiled with them."""
        self.body_limit = compiled.body_limit
        self.body_budget = max(512 * 1024 * 1024, 2 * self.body_limit)
        self.retry_budget.budget = router.retry_budget
        configured = [one for route in compiled.routes.configured() for one in route.deployments]
        self.health.adopt(router, (one.id for one in configured))
        self.queue.settings = router.queue
        is_waited = router.queue is not None or self.queue.waiting
        self.health.on_room = self.queue.stir if is_waited else None
        self.health.spending.configure(
            router.provider_budget_config,
            compiled.limits.zone,
            compiled.limits.reset_time,
            configured,
        )
        self.keyring.follow(config.general.master_key, compiled.keys)
        self.limiter.follow(compiled.limits, compiled.keys, self.keyring.rows())
        self.metrics.know(compiled.labels)
        for signer in self.signers.turn():
            self.errand(signer.close())

    def errand(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run what nobody need wait for and what takes no longer than some seconds."""
        task = spawn(coroutine, name="errand")
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    async def finish_errands(self, patience: float) -> None:
        """Let those that run end, for so many seconds."""
        if self._errands:
            await asyncio.wait(self._errands, timeout=patience)
        for task in self._errands:
            task.cancel()
