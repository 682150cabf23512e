"""Who gets which connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from adapters.errors import (
    Draining,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.story import Interrupted, Story
from gateway.upstreams import UpstreamResponse, Upstreams
from tests.gateway.upstreams.conftest import post
from tests.gateway.upstreams.scripted import Peer, answer, chunked, each, loop_of, serve


async def send(upstreams: Upstreams, url: str, scope: str = "") -> UpstreamResponse:
    return await upstreams.send(post(url), connect_timeout=30, head_timeout=30, scope=scope)


async def fetch(upstreams: Upstreams, url: str, scope: str = "") -> bytes:
    async with await send(upstreams, url, scope) as response:
        return await response.read(1 << 20, 30)


async def test_three_hundred_requests_share_twenty_connections() -> None:
    """All are answered, and there are never more connections than allowed."""
    upstreams = Upstreams(max_connections=20)
    async with serve(each(answer(b"ok"))) as server:
        bodies = await asyncio.gather(*(fetch(upstreams, server.url) for _ in range(300)))
        assert bodies == [b"ok"] * 300
        assert server.asked == 300
        assert server.connections <= 20
        await upstreams.close()


async def test_the_line_is_fair() -> None:
    """Who waits is served in the order of coming, and who comes later does not get ahead."""
    upstreams = Upstreams(max_connections=1)
    order: list[int] = []

    async def ask(number: int) -> None:
        await fetch(upstreams, server.url)
        order.append(number)

    async with serve(each(answer())) as server:
        await asyncio.gather(*(ask(number) for number in range(20)))
        assert order == list(range(20))
        assert server.connections == 1
        await upstreams.close()


@pytest.mark.parametrize("seed", range(5))
async def test_cancelled_waiters_lose_no_place(seed: int) -> None:
    """Whenever callers are cancelled, everybody else is answered and no place is lost."""
    random = Random(seed)
    upstreams = Upstreams(max_connections=3)
    loop = asyncio.get_running_loop()

    async def play(peer: Peer) -> None:
        while True:
            await peer.request()
            for part in chunked(b"a", b"b").partition(b"1\r\nb"):
                await peer.send(part)
                await asyncio.sleep(0)

    async with serve(play) as server:
        tasks = [loop.create_task(fetch(upstreams, server.url)) for _ in range(120)]
        for task in random.sample(tasks, 60):
            for _ in range(random.randrange(8)):
                await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {result if isinstance(result, bytes) else type(result) for result in results}
        assert kinds == {b"ab", asyncio.CancelledError}
        assert results.count(b"ab") >= 60
        again = await asyncio.gather(*(fetch(upstreams, server.url) for _ in range(6)))
        assert again == [b"ab"] * 6
        assert " 0 active" in repr(upstreams)
        assert "waiting" not in repr(upstreams)
        await upstreams.close()


async def test_waiting_in_line_has_the_deadline_of_connecting() -> None:
    """A caller who gets no connection in time gets a connect time-out, and leaves the line."""
    upstreams = Upstreams(max_connections=1)
    async with serve(each(chunked(b"a", end=b""))) as server, await send(upstreams, server.url):
        with pytest.raises(UpstreamTimeout) as caught:
            await upstreams.send(post(server.url), connect_timeout=0.05, head_timeout=10)
        assert caught.value.code == "connect_timeout"
        assert repr(upstreams).endswith("1 active, 0 idle>")
    await upstreams.close()


async def test_the_last_used_connection_is_used_first(upstreams: Upstreams) -> None:
    """Idle connections are taken last in, first out."""
    gates = [asyncio.Event(), asyncio.Event()]

    async def play(peer: Peer) -> None:
        while True:
            await peer.request()
            await gates[peer.number].wait()
            await peer.send(answer(b"%d" % peer.number))

    async with serve(play) as server:
        loop = asyncio.get_running_loop()
        asking = [loop.create_task(fetch(upstreams, server.url)) for _ in range(2)]
        await server.until(lambda seen: seen.connections == 2)
        for number in (1, 0):
            gates[number].set()
            while f"{2 - number} idle" not in repr(upstreams):
                await asyncio.sleep(0)
        assert sorted(await asyncio.gather(*asking)) == [b"0", b"1"]
        assert [await fetch(upstreams, server.url) for _ in range(3)] == [b"0"] * 3


async def test_idle_connections_are_closed_in_time() -> None:
    """After the idle time a connection is closed, and the next request opens another."""
    upstreams = Upstreams(max_connections=10, idle_timeout=0.02)
    async with serve(each(answer())) as server:
        await fetch(upstreams, server.url)
        await server.until(lambda seen: seen.connections == 1 and not seen.open)
        assert "0 active, 0 idle" in repr(upstreams)
        await fetch(upstreams, server.url)
        assert server.connections == 2
        await upstreams.close()


async def test_a_connection_that_the_server_closes_while_idle_is_dropped(upstreams: Upstreams) -> None:
    """A close that was seen costs nothing: the next request goes out once, on a new connection."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer())

    async with serve(play) as server:
        for number in range(1, 4):
            async with await send(upstreams, server.url) as response:
                await response.read(10, 10)
                assert not response.possible_duplicate
            while "0 active, 0 idle" not in repr(upstreams):
                await asyncio.sleep(0)
            assert server.asked == number


async def test_scopes_do_not_share_connections(upstreams: Upstreams) -> None:
    """Requests with different credentials never use the same connection."""
    async with serve(each(answer())) as server:
        for scope in ("a", "b", "a", "b"):
            await fetch(upstreams, server.url, scope)
        assert server.connections == 2


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_stale_connection_is_replaced_once(upstreams: Upstreams, how: str) -> None:
    """A kept connection that breaks without one byte of an answer: sent once more, and the response says so."""

    async def play(peer: Peer) -> None:
        await peer.request()
        if peer.number == 0:
            await peer.send(answer(b"first"))
            await peer.request()
            if how == "reset":
                peer.reset()
        else:
            await peer.send(answer(b"again"))
            await peer.gone()

    async with serve(play) as server:
        assert await fetch(upstreams, server.url) == b"first"
        async with await send(upstreams, server.url) as response:
            assert await response.read(10, 10) == b"again"
            assert response.possible_duplicate
            assert not response.reused
        assert server.asked == 3


async def test_a_fresh_connection_that_breaks_is_not_replaced(upstreams: Upstreams) -> None:
    """A new connection that breaks is an error, and the request was sent once."""

    async def play(peer: Peer) -> None:
        await peer.request()

    async with serve(play) as server:
        with pytest.raises(UpstreamDisconnected) as caught:
            await send(upstreams, server.url)
        assert not caught.value.reused
        assert server.asked == 1


async def test_a_replacement_that_breaks_is_an_error(upstreams: Upstreams) -> None:
    """It is sent once more, not twice."""

    async def play(peer: Peer) -> None:
        await peer.request()
        if peer.number == 0:
            await peer.send(answer())
            await peer.request()

    async with serve(play) as server:
        await fetch(upstreams, server.url)
        with pytest.raises(UpstreamDisconnected):
            await fetch(upstreams, server.url)
        assert server.asked == 3


async def test_a_kept_connection_with_half_a_head_is_not_replaced(upstreams: Upstreams) -> None:
    """As soon as one byte of an answer came, nothing is repeated."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer())
        await peer.request()
        await peer.send(b"H")

    async with serve(play) as server:
        await fetch(upstreams, server.url)
        with pytest.raises(UpstreamDisconnected) as caught:
            await fetch(upstreams, server.url)
        assert caught.value.reused
        assert caught.value.received == 1
        assert server.asked == 2


async def test_a_stale_connection_is_replaced_when_all_places_are_taken() -> None:
    """The repeated request keeps its right to a new connection although others wait."""
    upstreams = Upstreams(max_connections=2)

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"ok"))
        if peer.number < 2:
            await peer.request()
            return
        while True:
            await peer.request()
            await peer.send(answer(b"ok"))

    async with serve(play) as server:
        await asyncio.gather(*(fetch(upstreams, server.url) for _ in range(2)))
        bodies = await asyncio.gather(*(fetch(upstreams, server.url) for _ in range(30)))
        assert bodies == [b"ok"] * 30
        await upstreams.close()


async def test_servers_that_close_at_random_are_never_noticed() -> None:
    """A thousand requests against idle connections that are closed at random: no error, each sent twice at most."""
    upstreams = Upstreams(max_connections=8)
    random = Random(7)
    duplicates = 0

    async def play(peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await peer.request()
            await peer.send(answer(b"ok"))
            close = peer.reset if random.random() < 0.5 else peer.writer.close
            timer = loop.call_later(random.random() * 0.02, close)
            await peer.begun()
            timer.cancel()

    async def ask(count: int) -> None:
        nonlocal duplicates
        for _ in range(count):
            async with await send(upstreams, server.url) as response:
                assert await response.read(10, 30) == b"ok"
                duplicates += response.possible_duplicate
            await asyncio.sleep(random.random() * 0.02)

    async with serve(play) as server:
        await asyncio.gather(*(ask(125) for _ in range(8)))
        assert 1000 <= server.asked <= 1000 + duplicates
        await upstreams.close()


async def one_behind_another(
    upstreams: Upstreams, url: str
) -> tuple[UpstreamResponse, asyncio.Task[UpstreamResponse]]:
    """An answer that takes the only place, and who waits in line for it."""
    response = await send(upstreams, url)
    waiting = asyncio.get_running_loop().create_task(send(upstreams, url))
    while "1 waiting" not in repr(upstreams):
        await asyncio.sleep(0)
    return response, waiting


async def test_closing_ends_everything() -> None:
    """Open answers fail, waiters are sent away, sockets are gone, and later requests are refused."""
    upstreams = Upstreams(max_connections=1)
    async with serve(each(chunked(b"a", end=b""))) as server:
        response, waiting = await one_behind_another(upstreams, server.url)
        await upstreams.close()
        assert isinstance(response.error, UpstreamDisconnected)
        with pytest.raises(UpstreamUnreachable):
            await waiting
        with pytest.raises(UpstreamUnreachable):
            await send(upstreams, server.url)
        with pytest.raises(UpstreamUnreachable):
            await send(upstreams, server.url, "another scope")
        await server.until(lambda seen: not seen.open)


async def test_who_is_given_a_place_in_the_moment_of_closing_is_sent_away() -> None:
    """Nothing is opened when all is closed, by those neither who were next in line just before."""
    upstreams = Upstreams(max_connections=1)
    async with serve(each(chunked(b"a", end=b""))) as server:
        response, waiting = await one_behind_another(upstreams, server.url)
        response.abort()  # its place is the waiter's, who has not heard of it yet
        await upstreams.close()
        with pytest.raises(UpstreamUnreachable):
            await waiting
        assert server.connections == 1
        assert "0 active, 0 idle" in repr(upstreams)


async def test_closing_twice() -> None:
    """Who closes what somebody else is closing sees the sockets gone as well."""
    upstreams = Upstreams()
    async with serve(each(chunked(b"a", end=b""))) as server:
        await send(upstreams, server.url)
        first, second = (asyncio.get_running_loop().create_task(upstreams.close()) for _ in range(2))
        done, _ = await asyncio.wait([first, second], timeout=10)
        assert done == {first, second}


async def test_closing_ends_what_is_being_opened() -> None:
    """A server that accepts and says nothing more holds nobody up: its connection is closed, and who wanted it is told."""
    upstreams = Upstreams()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        port = silent.getsockname()[1]
        asking = asyncio.get_running_loop().create_task(send(upstreams, f"https://127.0.0.1:{port}"))
        loop = asyncio.get_running_loop()
        peer, _ = await loop.sock_accept(silent)
        with peer:
            await loop.sock_recv(peer, 1)  # the handshake has begun
            await upstreams.close()
            with pytest.raises(UpstreamUnreachable, match="shutting down"):
                await asking
            while await loop.sock_recv(peer, 65536):
                pass


async def test_the_pools_can_be_printed(upstreams: Upstreams) -> None:
    """The printed form names each origin and counts its connections, and shows neither path nor scope."""
    assert repr(upstreams) == "<Upstreams no connections>"
    async with (
        serve(each(chunked(b"a", end=b""))) as server,
        await send(upstreams, server.url + "/p", "digest"),
    ):
        assert repr(upstreams) == f"<Upstreams {server.url}: 1 active, 0 idle>"


async def test_mixed_outcomes_lose_no_place() -> None:
    """After good, cut, malformed and refused answers in any order, every place is free."""
    upstreams = Upstreams(max_connections=4)
    random = Random(3)
    outcomes = [answer(b"ok"), answer(b"ok")[:-1], b"garbage\r\n\r\n", chunked(b"ok"), b""]

    async def play(peer: Peer) -> None:
        await loop_of(lambda _: random.choice(outcomes))(peer) if random.random() < 0.5 else None

    async def ask() -> None:
        try:
            async with await upstreams.send(
                post(server.url), connect_timeout=30, head_timeout=0.05
            ) as response:
                await response.read(100, 0.05)
        except UpstreamError:
            pass

    async with serve(play) as server:
        await asyncio.gather(*(ask() for _ in range(200)))
        assert " 0 active" in repr(upstreams)
        await upstreams.close()


async def test_an_interrupt_is_not_taken_for_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is interrupted in the turn in which the time is over hears of the interrupt, also from 3.13 on, where `timeout` makes
    a `TimeoutError` of whatever cancellation it meets.
    """

    @asynccontextmanager
    async def timeout(_: float) -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError as error:
            raise TimeoutError from error

    monkeypatch.setattr(asyncio, "timeout", timeout)
    upstreams = Upstreams(max_connections=1)
    over = asyncio.Event()
    heard: list[BaseException] = []

    async def ask() -> None:
        try:
            await send(upstreams, server.url)
        except (asyncio.CancelledError, UpstreamError) as error:
            heard.append(error)

    async with serve(each(answer())) as server:
        story = Story(asyncio.get_running_loop(), lambda _: over.set())
        pool = upstreams._pool(upstreams.prepare("POST", server.url, ()))
        await pool.acquire(30)  # the only one
        story.start(ask())
        while not pool._line:
            await asyncio.sleep(0)
        story.interrupt(Draining("It goes down"))
        await over.wait()
        await upstreams.close()
    assert [type(error) for error in heard] == [Interrupted]
