"""News from other processes: Redis' channels, for as long as the process runs and whatever happens to the connection."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from gateway.state.shared import Callback, tell

log = logging.getLogger("penstock.shared")

_SILENCE = 1.0
"""Seconds after which a channel without news is asked whether it is alive, and has the same time to answer."""


class RedisNews:
    """All channels of a process, on a connection of their own; in Redis their names begin with `prefix`."""

    def __init__(self, client: Redis, prefix: str, *, pause: float) -> None:
        self._client = client
        self._prefix = prefix
        self._pause = pause
        self._callbacks: defaultdict[str, list[Callback]] = defaultdict(list)
        self._has_channels = asyncio.Event()

    def subscribe(self, channel: str, callback: Callback) -> None:
        """Call it with each message, and with None whenever the channel has been joined anew."""
        self._callbacks[channel].append(callback)
        self._has_channels.set()

    async def run(self) -> None:
        """Listen, until cancelled."""
        await self._has_channels.wait()
        while True:
            try:
                async with self._client.pubsub() as channels:
                    await self._follow(channels)
            except (RedisError, OSError, RuntimeError) as error:  # the last is uvloop's for an ended one
                log.warning("news from other replicas do not arrive: %s: %s", type(error).__name__, error)
            _end_if_cancelled()
            await asyncio.sleep(self._pause)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._client.aclose()

    async def _follow(self, channels: PubSub) -> None:
        """Hand on messages until the connection is lost, or silent even when asked."""
        joined: set[str] = set()
        asked = False
        while True:
            if missing := self._callbacks.keys() - joined:
                joined |= missing
                await channels.subscribe(*(self._prefix + channel for channel in missing))
            message = await channels.get_message(timeout=_SILENCE)
            _end_if_cancelled()
            if message is not None:
                asked = False
                self._tell(message)
            elif asked:
                raise TimeoutError("no answer to a ping")
            else:
                asked = True
                await channels.ping()

    def _tell(self, message: Mapping[str, Any]) -> None:
        if message["type"] not in {"message", "subscribe"}:
            return
        channel = message["channel"].decode().removeprefix(self._prefix)
        text = _text(message["data"]) if message["type"] == "message" else None
        tell(self._callbacks[channel], text)


def _text(data: bytes) -> str:
    """As it was published. Names may hold what is no text, and anybody can write to Redis."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def _end_if_cancelled() -> None:
    """redis-py waits with `wait_for`, which before Python 3.12 may pass over that it is cancelled."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
