"""What processes tell each other, over connections that end."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

import pytest
from redis.asyncio import ConnectionPool, Redis

from gateway.state.redis_news import RedisNews
from gateway.state.shared import SharedAway
from tests.gateway.state.test_redis_line import Ended
from tests.gateway.state.test_shared import until
from tests.gateway.state.test_shared_redis import Server, beside, connected, server

__all__ = ["server"]


async def test_news_reach_other_processes_and_tell_of_gaps(server: Server) -> None:
    """A subscriber hears what others publish; when the connection was lost it gets None, to read everything anew."""
    heard: list[str | None] = []
    async with connected(server) as one, connected(server) as two:
        one.subscribe("keys", heard.append)

        async def is_heard() -> bool:
            with suppress(SharedAway):
                await two.publish("keys", "new")
            return "new" in heard[heard.index(None) :] if None in heard else False

        await until(is_heard)
        assert heard[0] is None
        server.stop()
        server.start()
        heard.clear()
        await until(is_heard)


async def test_news_that_are_no_text(server: Server) -> None:
    """A name that some client wrote arrives as it was sent, and what nobody could have sent does not end the connection."""
    heard: list[str | None] = []
    async with connected(server) as one, beside(server, one) as two:
        one.subscribe("names", heard.append)
        while None not in heard:
            await asyncio.sleep(0.01)
        for message in ("model:\ud800", b"\xff\xfe"):
            await two.publish("names", message)  # type: ignore[arg-type]  # by somebody else
        while len(heard) < 3:
            await asyncio.sleep(0.01)
        assert heard[-2:] == ["model:\ud800", "\ufffd\ufffd"]


async def test_a_late_subscription(server: Server) -> None:
    """A channel may be subscribed to while others are heard."""
    heard: list[str | None] = []
    async with connected(server) as one:
        one.subscribe("keys", lambda _: None)
        await asyncio.sleep(0.05)
        one.subscribe("late", heard.append)

        async def is_heard() -> bool:
            await one.publish("late", "new")
            return "new" in heard

        await until(is_heard)


async def test_news_from_a_frozen_server(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that is silent even when asked is given up; what was missed is told."""
    heard: list[str | None] = []
    async with connected(server) as one:
        one.subscribe("keys", heard.append)

        async def is_joined() -> bool:
            return heard == [None]

        async def is_given_up() -> bool:
            return "no answer to a ping" in caplog.text

        await until(is_joined)
        heard.clear()
        server.send(signal.SIGSTOP)
        await until(is_given_up)
        server.send(signal.SIGCONT)
        await until(is_joined)


async def test_a_connection_that_ends_before_its_first_words(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again, like one that ends later."""
    pool = ConnectionPool.from_url(redis_url, password="open sesame", connection_class=Ended)
    news = RedisNews(Redis(connection_pool=pool), "penstock-test:", pause=0.0)
    news.subscribe("keys", print)
    work = asyncio.get_running_loop().create_task(news.run())

    async def is_tried_again() -> bool:
        return work.done() or caplog.text.count("news from other replicas do not arrive") > 1

    await until(is_tried_again)
    work.cancel()
    await asyncio.wait([work])
    assert work.cancelled()
    await news.close()
