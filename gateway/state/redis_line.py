"""A connection to Redis on which an exchange costs one write and one read.

redis-py opens it: TCP, TLS or a Unix socket, names and passwords, the database, whatever the URL says. From then on its bytes
are read here, in the call that brings them. redis-py's own way needs a stream, a task and several turns of the event loop for
each answer, and a request waits for all of them: a quarter of a millisecond where there is little to do, and all of it cold.

What is understood is what our commands are answered with (redis.io, "Redis serialization protocol specification", RESP2):
texts, numbers, nothing, errors. Anything else ends the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

_GRACE = 0.005
"""The last seconds of a wait begin in a new turn of the event loop: an answer that is there is seen, however late the loop is."""

Command: TypeAlias = Sequence[bytes | str | int]
"""The words of one of Redis' commands."""

Done: TypeAlias = Callable[[list[Any] | Exception], None]
"""What is told how an exchange went: all answers, some of which may be `ReplyError`, or why there are none."""


class ReplyError(Exception):
    """What Redis says instead of an answer: `NOSCRIPT …`, `READONLY …`."""


class RedisLine(asyncio.Protocol):
    """An open connection; `open_line` makes it. `lost` is told why it has ended while nothing was asked, if nobody closed it."""

    def __init__(self, connection: AbstractConnection, lost: Callable[[Exception], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._lost = lost
        self._is_over = False
        self._done: Done | None = None
        self._wanted = 0
        self._answers: list[Any] = []
        self._rest = b""
        self._timer: asyncio.TimerHandle | None = None
        # The socket is ours from now on. redis-py has no word for that; a writer that is forgotten would close it.
        self._writer, connection._writer, connection._reader = connection._writer, None, None  # noqa: SLF001 - as above
        assert self._writer is not None  # noqa: S101 - for the type checker: it is connected
        self._transport = self._writer.transport
        self._transport.set_protocol(self)

    def exchange(self, commands: Sequence[Command], patience: float, done: Done) -> None:
        """Send commands, and call `done` once: in the call that brings the last answer, or with `TimeoutError` after
        `patience` seconds, or with what ended the connection. One exchange at a time.
        """
        self._done = done
        self._wanted = len(commands)
        self._timer = self._loop.call_later(max(0.0, patience - _GRACE), self._late, patience)
        self._transport.write(b"".join(map(packed, commands)))

    async def ask(self, commands: Sequence[Command], patience: float) -> list[Any]:
        """The same for a task, which gets the answers. Raises what `done` would be told if there are none."""
        told: asyncio.Future[list[Any] | Exception] = self._loop.create_future()

        def done(answers: list[Any] | Exception) -> None:
            if not told.done():  # a task that was cancelled does not wait any more
                told.set_result(answers)

        self.exchange(commands, patience, done)
        answers = await told
        if isinstance(answers, Exception):
            raise answers
        return answers

    def close(self) -> None:
        """End it now. An exchange that is under way is over."""
        self._end(ConnectionError("the connection was closed"), tell=False)

    # -- for the event loop ------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Some bytes of the answers."""
        if self._rest:
            data = self._rest + data
        at, answers = 0, self._answers
        try:
            while len(answers) < self._wanted and (reply := read_reply(data, at)) is not None:
                answer, at = reply
                answers.append(answer)
        except ValueError as error:
            self._end(error)
            return
        self._rest = data[at:]
        if len(answers) == self._wanted:
            if self._rest:
                self._end(ValueError("an answer that nobody asked for"))
            else:
                self._tell(answers)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended by itself, or as we wanted it."""
        self._end(exc or ConnectionError("Redis closed the connection"))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _late(self, patience: float) -> None:
        self._timer = self._loop.call_later(_GRACE, self._too_late, patience)

    def _too_late(self, patience: float) -> None:
        self._end(TimeoutError(f"no answer within {patience * 1000:.0f} ms"))

    def _end(self, error: Exception, *, tell: bool = True) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._transport.abort()  # what was sent and not answered must not be answered into another exchange
        if self._done is not None:
            self._tell(error)
        elif tell:
            self._lost(error)

    def _tell(self, answers: list[Any] | Exception) -> None:
        done, self._done = self._done, None
        self._wanted, self._answers = 0, []
        if self._timer is not None:
            self._timer.cancel()
        if done is not None:
            done(answers)


async def open_line(pool: ConnectionPool, seconds: float, lost: Callable[[Exception], None]) -> RedisLine:
    """A new connection to where `pool` leads. Raises `RedisError`, `OSError` or `TimeoutError`."""
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call] # redis-py's
    # A task of its own, for redis-py waits with `wait_for`, which before Python 3.12 may pass over that it is cancelled.
    connecting = asyncio.get_running_loop().create_task(connection.connect())  # type: ignore[no-untyped-call] # as above
    try:
        await asyncio.wait([connecting], timeout=seconds)
        if not connecting.done():
            raise TimeoutError(f"no connection within {seconds:g} s")
        try:
            connecting.result()
        except RuntimeError as error:  # uvloop's word for a write to what has ended meanwhile
            raise ConnectionError(str(error)) from None
        if connection._writer.is_closing() or connection._reader.at_eof():  # type: ignore[union-attr] # noqa: SLF001 - see above
            raise ConnectionError("Redis closed the connection")
    except BaseException:
        connecting.add_done_callback(_forget)
        connecting.cancel()
        await connection.disconnect(nowait=True)  # one that was opened and did not get as far as this
        raise
    return RedisLine(connection, lost)


def _forget(connecting: asyncio.Task[None]) -> None:
    """Nobody waits any more: whatever comes of it is not missed."""
    if not connecting.cancelled():
        connecting.exception()


def packed(command: Command) -> bytes:
    """A command as Redis reads it: an array of texts."""
    parts = [b"*%d\r\n" % len(command)]
    for word in command:
        data = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def read_reply(data: bytes, at: int) -> tuple[bytes | int | ReplyError | None, int] | None:
    """The reply that begins `at`, and where it ends; None as long as it is not whole. Raises `ValueError` for what is none."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    kind, text, end = data[at : at + 1], data[at + 1 : end], end + 2
    match kind:
        case b"$":
            size = int(text)
            if size < 0:
                return None, end
            return (data[end : end + size], end + size + 2) if len(data) >= end + size + 2 else None
        case b":":
            return int(text), end
        case b"+":
            return text, end
        case b"-":
            return ReplyError(text.decode("utf-8", "replace")), end
    raise ValueError(f"an answer that begins with {kind!r}")
