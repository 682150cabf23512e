"""An upstream's answer: the head is here, the body comes.

The body is taken in one of two ways. `pump` hangs a function between the sockets: each piece goes to it synchronously,
out of the read that brought it, with no future or coroutine in between. `read` collects the whole, for answers that
must be looked at before they go on.

Pieces that come before anybody takes them are kept, and reading pauses when they are more than a little; so a stage
may look at the head for as long as it likes. A response is a context: leaving it gives the connection back if the
message is complete (it went back already, at its last byte) and closes the socket at once if it is not.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

from adapters.errors import UpstreamDisconnected, UpstreamError, UpstreamMalformed, UpstreamTimeout
from gateway.story import Signal

KEPT = 64 * 1024
"""Bytes that are kept for a body that nobody takes yet, before reading pauses."""

Receive = Callable[[bytes], None]
Ended = Callable[[UpstreamError | None], None]


class Source(Protocol):
    """Where a body comes from: a connection, or a script."""

    def pause(self) -> None:
        """Send no more for now."""

    def resume(self) -> None:
        """Go on."""

    def abort(self) -> None:
        """Nobody wants the rest: close at once."""


class UpstreamResponse:
    """Status, headers and body of one answer.

    `headers` have lower-case names, repeated ones joined with a comma. `reused`: the connection was not new.
    `possible_duplicate`: the request was sent twice, because a kept connection turned out to be dead, and the upstream
    may have seen both. `connect_seconds`: what it took to get a connection, 0.0 for a reused one. `collect`: so many bytes
    of a body are kept for `read`, and reading does not pause before.
    """

    __slots__ = (
        "_complete",
        "_ended",
        "_error",
        "_kept",
        "_kept_bytes",
        "_paused",
        "_source",
        "collect",
        "connect_seconds",
        "headers",
        "possible_duplicate",
        "receive",
        "reused",
        "status",
    )

    def __init__(self, source: Source, *, reused: bool = False, collect: int = 0) -> None:
        self.collect = collect
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.reused = reused
        self.possible_duplicate = False
        self.connect_seconds = 0.0
        self._source: Source | None = source  # None once the message has ended, well or not
        self._complete = False
        self._error: UpstreamError | None = None
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._paused = False
        self.receive: Receive | None = None
        """Who takes the body. A source may call it itself, where it calls `broke` too."""
        self._ended: Ended | None = None

    def __repr__(self) -> str:
        state = "failed" if self._error else "complete" if self._complete else "open"
        return f"<UpstreamResponse {self.status}: {state}>"

    @property
    def error(self) -> UpstreamError | None:
        """Why the message is not complete, if it failed."""
        return self._error

    # -- for those who take the body ---------------------------------------------------------------------------------

    async def read(self, limit: int, timeout: float | None) -> bytes:
        """The whole body, at most `limit` bytes of it, within `timeout` seconds (None: somebody else watches);
        compressed ones are unpacked.

        Raises `UpstreamMalformed` if it is longer or cannot be unpacked, `UpstreamDisconnected` if it is cut,
        `UpstreamTimeout` (`idle_timeout`) if it takes longer; then the socket is closed.
        """
        if self.collect and self._source is None:
            return self._collected(limit)
        pieces: list[bytes] = []
        size = 0
        done = Signal()

        def receive(piece: bytes) -> None:
            nonlocal size
            size += len(piece)
            if size > limit:
                raise UpstreamMalformed(f"The provider's answer is longer than {limit} bytes")
            pieces.append(piece)

        def ended(_: UpstreamError | None) -> None:
            done.set()

        self._take(receive, ended)
        if not done.is_set:
            timer = (
                None
                if timeout is None
                else asyncio.get_running_loop().call_later(timeout, self.fail, _too_slow(timeout))
            )
            try:
                await done
            except BaseException:
                self.abort()
                raise
            finally:
                if timer is not None:
                    timer.cancel()
        self._kept = pieces
        return self._collected(limit)

    def _collected(self, limit: int) -> bytes:
        if self._error is not None:
            raise self._error
        kept, self._kept = self._kept, []
        body = kept[0] if len(kept) == 1 else b"".join(kept)
        coding = self.headers.get("content-encoding")
        return body if coding is None else _unpack(body, coding, limit)

    def pump(self, receive: Receive, ended: Ended) -> None:
        """Give each piece of the body to `receive` from now on, as it comes; what is there already, at once.

        `ended` is called exactly once: with None when the message is complete, with an error when it was cut or
        aborted. If `receive` raises, the socket is closed and `ended` gets the error (wrapped, its cause kept, if it
        is not an `UpstreamError`). A compressed body, which nobody asked for, is `UpstreamMalformed`.
        """
        coding = self.headers.get("content-encoding")
        if coding is not None and coding.strip().lower() not in {"identity", ""}:
            self._kept.clear()
            self._reject(UpstreamMalformed("The provider's stream is compressed, which was not asked for"))
        self._take(receive, ended)

    def pause(self) -> None:
        """Stop reading from the upstream; what was read already may still come."""
        self._paused = True
        if self._source is not None:
            self._source.pause()

    def resume(self) -> None:
        """Go on reading."""
        self._paused = False
        if self._source is not None:
            self._source.resume()

    def abort(self) -> None:
        """Close the socket at once, unless the message is complete."""
        if self._source is not None:
            self._reject(UpstreamDisconnected("The answer was not wanted any more", reused=self.reused))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()

    # -- for the source ----------------------------------------------------------------------------------------------

    def feed(self, piece: bytes) -> None:
        """One read's worth of the body."""
        if self.receive is None:
            self._kept.append(piece)
            self._kept_bytes += len(piece)
            if self._kept_bytes > (self.collect or KEPT) and self._source is not None:
                if self.collect:
                    self._reject(
                        UpstreamMalformed(f"The provider's answer is longer than {self.collect} bytes")
                    )
                else:
                    self._source.pause()
            return
        try:
            self.receive(piece)
        except Exception as error:
            self.broke(error)

    def broke(self, error: Exception) -> None:
        """`receive` has raised this. A bug of the tap must not reach the event loop, which would only log it."""
        if not isinstance(error, UpstreamError):
            wrapped = UpstreamMalformed(f"The answer could not be handled ({type(error).__name__})")
            wrapped.__cause__ = error
            error = wrapped
        self._reject(error)

    @property
    def is_whole(self) -> bool:
        """All of the message is here; `ended` may still have to be told."""
        return self._source is None

    def complete(self, last: bytes = b"") -> None:
        """The message has ended as it should, with this piece: who takes it may know already that no other will come."""
        if self._source is not None:
            self._source = None
            self._complete = True
            if last:
                self.feed(last)
            if self._ended is not None:
                self._report()

    def fail(self, error: UpstreamError) -> None:
        """The message will not be complete: closes the source. Nothing happens if the message has ended."""
        if self._source is not None:
            self._reject(error)

    def _reject(self, error: UpstreamError) -> None:
        source, self._source = self._source, None
        self._error = error
        if source is not None:
            source.abort()
        self._report()

    def _take(self, receive: Receive, ended: Ended) -> None:
        self.receive = receive
        self._ended = ended
        if self._kept_bytes > KEPT and not self._paused:
            self.resume()
        if self._kept:
            kept = b"".join(self._kept)
            self._kept.clear()
            self.feed(kept)
        if self._source is None:
            self._report()

    def _report(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self.receive = None
            ended(self._error)


def _too_slow(timeout: float) -> UpstreamTimeout:
    return UpstreamTimeout(f"The provider's answer was not complete after {timeout:g} s", code="idle_timeout")


def _unpack(body: bytes, coding: str, limit: int) -> bytes:
    """The body without its `Content-Encoding`. Raises `UpstreamMalformed`, also if it is over `limit` unpacked."""
    coding = coding.strip().lower()
    if coding in {"", "identity"} or not body:
        return body
    if coding not in {"gzip", "x-gzip", "deflate"}:
        raise UpstreamMalformed("The provider's answer is packed in a way that was not asked for")
    bare = coding == "deflate" and (
        body[0] & 15 != 8 or int.from_bytes(body[:2], "big") % 31
    )  # no zlib header
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32)
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise UpstreamMalformed("The provider's answer cannot be unpacked") from error
    if len(unpacked) > limit:
        raise UpstreamMalformed(f"The provider's answer is longer than {limit} bytes")
    if not unpacker.eof:
        raise UpstreamMalformed("The provider's answer is packed and cut")
    if unpacker.unused_data.strip(b"\0"):  # another part, maybe: half an answer is none
        raise UpstreamMalformed("The provider's answer goes on behind what is packed")
    return unpacked
