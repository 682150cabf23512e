"""All that is known of one request, from its first byte to its bill.

The exchange is the only thing that the stages share. Each stage fills what it knows and reads what it needs; at the end
`stages.account` writes the ledger's row from it.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, Self

from aiohttp import web
from msgspec import Raw, Struct

from adapters.errors import GatewayError, UpstreamError
from adapters.taps import Tap
from adapters.types import FinishReason, Operation, Usage
from gateway.client import ClientWriter
from gateway.keyring import Caller
from gateway.routes import Deployment, Route


class Endpoint(Struct, frozen=True):
    """A row of `gateway.endpoints.ENDPOINTS`: a path, what it means, and in which language it speaks."""

    method: str
    path: str
    client_format: str
    operation: Operation


class Response(Protocol):
    """A provider's answer, as `gateway.upstreams` gives it; a mock plays the same part."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def possible_duplicate(self) -> bool: ...
    async def read(self, limit: int, timeout: float) -> bytes: ...
    def pump(
        self, receive: Callable[[bytes], None], ended: Callable[[UpstreamError | None], None]
    ) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abort(self) -> None: ...


class Attempt(Struct):
    """One deployment that was asked."""

    deployment: Deployment
    started: float
    seconds: float = 0.0
    status: int = 0
    """The provider's status, 0 if there was none."""
    error: GatewayError | None = None
    possible_duplicate: bool = False
    answered: bool = False
    """It began to answer; how that ended is the exchange's business."""


class Timings:
    """Seconds on `Runtime.now`'s clock; 0.0 where it has not come to that."""

    __slots__ = ("began", "ended", "first_event", "sent")

    def __init__(self, began: float) -> None:
        self.began = began
        self.sent = 0.0
        self.first_event = 0.0
        self.ended = 0.0


class Controls(Struct, frozen=True):
    """What a caller may say to the gateway itself; it never reaches a provider."""

    num_retries: int | None = None
    timeout: float | None = None
    stream_timeout: float | None = None
    fallbacks: tuple[str, ...] = ()
    disable_fallbacks: bool = False
    drop_params: bool = False
    tags: tuple[str, ...] = ()
    session_id: str | None = None

    @property
    def is_hasty(self) -> bool:
        """The caller has set a time of its own."""
        return self.timeout is not None or self.stream_timeout is not None


class Answer:
    """What `stages.upstream` found: a provider that has begun to answer.

    A whole answer is in `body`, ready for the client. A stream has its `response` and `tap`; `pending` is what the tap
    gave until now.
    """

    __slots__ = ("body", "ended", "error", "last_data", "on_data", "on_end", "pending", "response", "tap")

    def __init__(self, response: Response | None, *, tap: Tap | None = None, body: bytes = b"") -> None:
        self.response = response
        self.tap = tap
        self.body = body
        self.pending: list[bytes] = []
        self.ended = False
        """The provider's bytes have ended."""
        self.error: UpstreamError | None = None
        self.last_data = 0.0
        """When the provider last sent something (`Runtime.now`)."""
        self.on_data: Callable[[bytes], None] = self.pending.append
        self.on_end: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Complete answers have given their connection back by now; any other must not cost the provider another token.
        if self.response is not None:
            self.response.abort()


def _random_ids() -> Iterator[str]:
    # The kernel is asked once for 256 ids: a call for each was 5 % of a request, as it lets go of the interpreter's lock.
    while True:
        pool = os.urandom(16 * 256)
        for at in range(0, len(pool), 16):
            yield str(uuid.UUID(bytes=pool[at : at + 16], version=4))


_ids = _random_ids()


def new_id() -> str:
    """A random UUID."""
    return next(_ids)


class Exchange:
    """One request. Mutable; made by `pipeline.handle`, read last by `account.settle`."""

    __slots__ = (
        "answer_id",
        "at",
        "attempts",
        "body_size",
        "call_id",
        "caller",
        "cancelled",
        "client",
        "controls",
        "cost",
        "deployment",
        "end_user",
        "endpoint",
        "envelope",
        "error",
        "fallbacks",
        "finish",
        "headers",
        "http",
        "id",
        "model",
        "plan",
        "started",
        "tap",
        "usage",
        "wall",
        "wants_stream",
        "wants_usage",
    )

    def __init__(self, endpoint: Endpoint, http: web.Request, client: ClientWriter, now: float) -> None:
        self.endpoint = endpoint
        self.http = http
        self.client = client
        self.id = new_id()
        self.call_id = http.headers.get("x-litellm-call-id", "")[:128] or self.id
        self.at = Timings(now)
        self.wall = time.time()
        self.caller: Caller | None = None
        self.envelope: dict[str, Raw] = {}
        self.body_size = 0
        self.controls = Controls()
        self.headers: Mapping[str, str] = {}
        """The client's headers that may cross to the provider."""
        self.model = ""
        self.wants_stream = False
        self.wants_usage = False
        self.end_user: str | None = None
        self.plan: list[Route] = []
        """The route that was asked for, then its fallbacks."""
        self.attempts: list[Attempt] = []
        self.fallbacks = 0
        """How many routes were given up."""
        self.deployment: Deployment | None = None
        """Who answers."""
        self.tap: Tap | None = None
        self.started = False
        """A provider event has been relayed: nobody else may answer now."""
        self.usage: Usage | None = None
        self.cost: int | None = None
        self.finish: FinishReason | None = None
        self.answer_id = ""
        self.error: GatewayError | None = None
        self.cancelled = False
