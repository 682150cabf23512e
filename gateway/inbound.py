"""What comes in: the head of a client's request, and its body.

A request comes through one of two doors, `gateway.server` straight from the socket or aiohttp's handler, and looks the same
behind them. The head is kept apart from the request because clients repeat it: an SDK sends the same headers with each
question, and only the length changes. So a connection keeps the head of the request before, and stages keep in it what
they found out about it (`caller`, `controls` …): a head that is not like the one before costs a request a sixth more opcodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct
from multidict import MultiMapping

from adapters.errors import BadRequest, TooLarge
from adapters.types import Operation
from gateway.keyring import Caller
from gateway.malformed import reason_of
from gateway.story import Signal

_CODINGS = {
    "content-encoding": ("identity", "gzip", "deflate", "br"),
    "transfer-encoding": ("chunked",),
}


class Endpoint(Struct, frozen=True, eq=False):
    """A row of `gateway.endpoints.ENDPOINTS`: a path, what it means, and in which language it speaks."""

    method: str
    path: str
    client_format: str
    operation: Operation


class Controls(Struct, frozen=True):
    """What a caller may say to the gateway itself; it never reaches a provider."""

    num_retries: int | None = None
    timeout: float | None = None
    stream_timeout: float | None = None
    fallbacks: tuple[str, ...] = ()
    context_window_fallbacks: dict[str, str] = {}
    """By model: who answers if the question is too long for it (`context_window_fallback_dict`)."""
    disable_fallbacks: bool = False
    drop_params: bool = False
    drop: tuple[str, ...] = ()
    """Parameters that shall be left out."""
    allowed: tuple[str, ...] = ()
    """Parameters that shall go to the provider as they are."""
    tags: tuple[str, ...] = ()
    session_id: str | None = None
    priority: int = 0
    """Of the caller's requests that wait, those with less go first."""

    @property
    def is_hasty(self) -> bool:
        """The caller has set a time of its own."""
        return self.timeout is not None or self.stream_timeout is not None


NO_CONTROLS = Controls()


class Head:
    """The head of a request to a model route."""

    __slots__ = (
        "call_id",
        "caller",
        "chunked",
        "controls",
        "cors",
        "crossing",
        "end_user",
        "endpoint",
        "headers",
        "host",
        "keep_alive",
        "keys_version",
        "model",
        "of_request",
        "remote",
        "user_agent",
        "written",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        headers: MultiMapping[str],
        *,
        remote: str | None,
        keep_alive: bool,
        chunked: bool = True,
        model: str = "",
        cors: str = "",
    ) -> None:
        self.endpoint = endpoint
        self.headers = headers
        self.host = headers.get("host", "")
        self.remote = remote
        self.keep_alive = keep_alive
        """The client would like to use the connection again."""
        self.chunked = chunked
        """The client knows chunked framing (HTTP/1.1)."""
        self.cors = cors
        """Lines that its answers carry for a page of another origin."""
        self.model = model or headers.get("x-litellm-model", "")
        """A model that is named in the path, as it stands there, or in a header."""
        self.call_id = headers.get("x-litellm-call-id", "")[:128]
        """The client's own name for the request."""
        self.user_agent = headers.get("user-agent", "")[:200] or None
        self.end_user = headers.get("x-litellm-end-user-id") or headers.get("x-litellm-customer-id") or ""
        """For whom the client asks, in its own word."""
        # What stages found out. It holds as long as the head does; a caller, as long as no key has changed.
        self.caller: Caller | None = None
        self.keys_version = -1
        self.controls: Controls | None = None
        self.crossing: Mapping[str, str] | None = None
        """Headers for providers of the same format."""
        self.of_request: Sequence[tuple[str, str]] = ()
        """Headers for any provider."""
        self.written: dict[Any, Any] = {}
        """Request heads for providers that depend on this one."""


class Body(Protocol):
    """A body that is not here yet."""

    @property
    def size(self) -> int | None:
        """What the client has announced, bytes."""

    async def read(self) -> bytes:
        """All of it. Raises `BadRequest`, `TooLarge`."""


class Incoming:
    """A body that comes piece by piece, straight from the socket."""

    __slots__ = ("_arrived", "_is_wanted", "_pieces", "missing", "size")

    def __init__(self, size: int, first: bytes) -> None:
        self.size = size
        self.missing = size - len(first)
        self._pieces = [first]
        self._is_wanted = True
        self._arrived = Signal()

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to it, and give back the rest."""
        piece, rest = data[: self.missing], data[self.missing :]
        if self._is_wanted:
            self._pieces.append(piece)
        self.missing -= len(piece)
        if not self.missing:
            self._arrived.set()
        return rest

    def forget(self) -> None:
        """Nobody will read it: count what comes, and keep nothing."""
        self._is_wanted = False
        self._pieces = []

    async def read(self) -> bytes:
        """All of it, as soon as it is here."""
        await self._arrived
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class ThroughAiohttp:
    """A body that aiohttp reads: chunked, compressed, asked for with `100-continue` …"""

    __slots__ = ("_request", "size")

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.size = request.content_length

    async def read(self) -> bytes:
        """All of it. Raises `BadRequest` and `TooLarge`, also for aiohttp's own exceptions."""
        for name, known in _CODINGS.items():  # aiohttp passes over what it does not know
            value = self._request.headers.get(name, "").strip().lower()
            if value and value not in known:
                raise BadRequest(f"The request's {name} is not known here: {value[:100]}", param=name)
        try:
            body = await self._request.read()
        except web.HTTPRequestEntityTooLarge:
            raise TooLarge(f"The request is over {self._request.client_max_size} bytes") from None
        except (web.RequestPayloadError, HttpProcessingError) as error:
            cause = error if isinstance(error, HttpProcessingError) else error.__cause__
            why = reason_of(cause) if isinstance(cause, HttpProcessingError) else str(error)
            raise BadRequest(f"The request's body cannot be read: {why}") from None
        if not body and self._request.body_exists and "content-encoding" in self._request.headers:
            # What is left of a packed body that was cut short; read as no body, it would make a key with all defaults.
            raise BadRequest("The request's body cannot be read: unpacked, nothing is left of it")
        return body


def head_of(request: web.Request, endpoint: Endpoint, *, cors: str) -> Head:
    """The head of a request that aiohttp has read."""
    return Head(
        endpoint,
        request.headers,
        remote=request.remote,
        keep_alive=bool(request.keep_alive),
        chunked=request.version >= HttpVersion11,
        model=request.match_info.get("model", ""),
        cors=cors,
    )
