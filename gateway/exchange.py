"""All that is known of one request, from its first byte to its bill.

The exchange is the only thing that the stages share. Each stage fills what it knows and reads what it needs; at the end
`stages.account` writes the ledger's row from it.
"""

from __future__ import annotations

import logging
import os
import time
from asyncio import TimerHandle
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Protocol, Self

from msgspec import Raw, Struct

from adapters.continuation import Heard
from adapters.errors import GatewayError, UpstreamError
from adapters.multipart import Form
from adapters.taps import Tap
from adapters.types import FinishReason, Usage
from gateway.client import ClientWriter
from gateway.deadlines import Deadline
from gateway.inbound import NO_CONTROLS, Body, Controls, Endpoint, Head
from gateway.keyring import Caller
from gateway.limits import Bound
from gateway.routes import Deployment, Route
from gateway.routing.health import Health
from gateway.state.shared import Shared, Ticket
from gateway.story import Signal, Story

log = logging.getLogger("penstock")


class Response(Protocol):
    """A provider's answer, as `gateway.upstreams` gives it; a mock plays the same part."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def possible_duplicate(self) -> bool: ...
    @property
    def connect_seconds(self) -> float: ...
    @property
    def is_whole(self) -> bool: ...
    async def read(self, limit: int, timeout: float | None) -> bytes: ...
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
    is_sent: bool = False
    """The question has left: whoever has read it may bill it."""
    answered: bool = False
    """It began to answer; how that ended is the exchange's business."""
    route: Route | None = None
    """Whose deployment it was asked as."""
    usage: Usage | None = None
    """What it is billed beside the answer: it was outrun by another one, or its stream broke and went on elsewhere."""

    def note_sent(self) -> None:
        """The question has left."""
        self.is_sent = True

    def tell_failure(self, health: Health, error: GatewayError, now: float, peers: Iterable[str]) -> None:
        """Enter in the health book that it failed, where those `peers` might have been asked."""
        deployment = self.deployment
        own = None if deployment.params is None else deployment.params.cooldown_time
        if health.failed(deployment.id, error, now, peers=peers, cooldown=own, started=self.started):
            log.info("%s fails too often, its circuit is open: %s", deployment.described, error.reason)


class Hold(Struct, eq=False):
    """What a request has taken of its limits until it ends: a ticket of that store, for the worst that may happen.

    `worst` is nano-dollars of one attempt, `held` those of all. `others` hold the same in stores that were or will be in
    force in place of that one.
    """

    bound: Bound
    ticket: Ticket
    store: Shared
    worst: int
    held: int
    others: tuple[tuple[Shared, Ticket], ...] = ()


class Timings(Struct):
    """Seconds on `Runtime.now`'s clock; 0.0 where it has not come to that."""

    began: float
    sent: float = 0.0
    first_event: float = 0.0
    ended: float = 0.0


class Answer:
    """What `stages.upstream` found: a provider that begins to answer.

    A whole answer is in `body`, ready for the client. A stream has its `response` and `tap`. What the provider sends runs
    through the tap and to `on_data`; that is `pending` until `begun` is set and somebody else takes over.
    """

    __slots__ = (
        "_held",
        "_limit",
        "begun",
        "body",
        "ended",
        "error",
        "give_up",
        "goes_on",
        "media_type",
        "on_data",
        "on_end",
        "pending",
        "response",
        "tap",
    )

    def __init__(
        self,
        response: Response | None,
        *,
        tap: Tap | None = None,
        body: bytes = b"",
        media_type: str = "application/json",
        limit: int = 0,
    ) -> None:
        self.response = response
        self.tap = tap
        self.body = body
        self.media_type = media_type
        self.goes_on = False
        """Somebody else takes in the rest, and ends it."""
        self.give_up: Callable[[], None] | None = None
        """What tells the provider that nobody waits for the rest, where closing the connection does not."""
        if tap is None:
            return
        self.begun = Signal()
        """A provider event is there, or a failure, or more than `limit` bytes of neither."""
        self.pending: list[bytes] = []
        self.ended = False
        """The provider's bytes have ended."""
        self.error: UpstreamError | None = None
        self.on_data: Callable[[bytes], None] | None = None
        """None: it is `pending`."""
        self.on_end: Callable[[], None] = self.begun.set
        self._held = 0
        self._limit = limit

    def receive(self, data: bytes) -> None:
        """What the provider sent. Runs inside its connection's `data_received`."""
        tap = self.tap
        if tap is None:
            return
        out = tap.feed(data)
        if out or tap.failure is not None or not self.begun.is_set:
            self._hand_on(out)

    def end(self, error: UpstreamError | None) -> None:
        """The provider's bytes have ended, as they should or with an error."""
        self.ended = True
        self.error = error
        out = self.tap.close() if self.tap is not None and error is None else b""
        if out:
            self._hand_on(out)
        self.on_end()

    def _hand_on(self, out: bytes) -> None:
        if self.on_data is not None:
            self.on_data(out)
            return
        self.pending.append(out)
        self._held += len(out)
        tap = self.tap
        if tap is None or tap.events or tap.failure is not None or self._held > self._limit:
            self.begun.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.goes_on:
            return
        # Complete answers have given their connection back by now; any other must not cost the provider another token.
        if self.response is not None:
            self.response.abort()
        if self.give_up is not None and (self.tap is None or not self.tap.done):
            self.give_up()
        if self.tap is not None:
            # Whoever took over holds the answer, which holds its methods: a cycle that only the garbage collector would find.
            self.on_data, self.on_end = None, self.begun.set


def _rising_ids() -> Iterator[str]:
    # UUIDs of version 7: 48 bits of milliseconds, 12 bits of their fractions and 62 random ones. Made by hand they cost
    # 0.5 us, `uuid` takes 2; the kernel gives randomness for 256 at once, because it lets go of the interpreter's lock.
    variant = bytes(0x80 | byte & 0x3F for byte in range(256))
    last = 0
    while True:
        pool = bytearray(os.urandom(8 * 256))
        pool[::8] = pool[::8].translate(variant)
        random = pool.hex()
        for at in range(0, len(random), 16):
            # Two may come within a quarter of a microsecond, and clocks are put back.
            now = int(time.time() * 4_096_000)
            last = now if now > last else last + 1
            when = hex(2**60 + last)  # 0x1, which keeps the zeros, and 15 digits
            yield f"{when[3:11]}-{when[11:15]}-7{when[15:]}-{random[at : at + 4]}-{random[at + 4 : at + 16]}"


_ids = _rising_ids()


def new_id() -> str:
    """A UUID that is greater than those before it, so that rows are kept in the order in which they came."""
    return next(_ids)


class Exchange(Struct, eq=False):
    """One request. Mutable; made by `begin_exchange`, read last by `account.settle`.

    A struct, because its defaults are filled in without a line of Python: with a constructor that does it a request pays 2 us
    more, and 15 when there are few requests and all is out of the processor's caches.
    """

    http: Head
    endpoint: Endpoint
    body: bytes | Body
    client: ClientWriter
    story: Story
    """What runs; `interrupt` it where something takes too long."""
    id: str
    call_id: str
    at: Timings
    wall: float
    caller: Caller | None = None
    envelope: dict[str, Raw] = {}
    body_size: int = 0
    form: Form | None = None
    """A body that is a form with files."""
    controls: Controls = NO_CONTROLS
    dropped: list[str] = []
    """Parameters that were left out because the provider has no word for them."""
    model: str = ""
    wants_stream: bool = False
    wants_usage: bool = False
    end_user: str | None = None
    plan: tuple[Route, ...] = ()
    """The route that was asked for, then all that may stand in for it, whatever happens."""
    deadline: Deadline | TimerHandle | None = None
    """What ends it when it has taken too long in all."""
    hold: Hold | None = None
    attempts: list[Attempt] = []
    fallbacks: int = 0
    """How many routes were given up."""
    deployment: Deployment | None = None
    """Who answers."""
    lines: str = ""
    """The answer's first headers, as they are if nobody else is asked."""
    tap: Tap | None = None
    heard: Heard | None = None
    """What the client has been told of a stream, where another deployment may go on with it."""
    started: bool = False
    """A provider event has been relayed: nobody else may answer now."""
    usage: Usage | None = None
    cost: int | None = None
    finish: FinishReason | None = None
    answer_id: str = ""
    error: GatewayError | None = None
    cancelled: bool = False
    unheard: Callable[[], Coroutine[Any, Any, None]] | None = None
    """The client left, and the provider goes on: what takes in the rest, before which there is no bill."""


def begin_exchange(
    head: Head, body: bytes | Body, client: ClientWriter, story: Story, now: float
) -> Exchange:
    """A request that has just come; `now` is `Runtime.now`."""
    request = new_id()
    return Exchange(
        head, head.endpoint, body, client, story, request, head.call_id or request, Timings(now), time.time()
    )
