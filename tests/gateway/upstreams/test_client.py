"""What holds for all pools together; the rule for stale connections is shown in `test_pool`."""

from __future__ import annotations

import asyncio
import resource
import ssl

import pytest

from adapters.errors import Bug, UpstreamDisconnected, UpstreamTimeout, UpstreamUnreachable
from gateway.story import Story
from gateway.upstreams import Upstreams, client
from tests.gateway.upstreams.conftest import Authority, post
from tests.gateway.upstreams.scripted import Peer, answer, chunked, each, serve


async def fetch(upstreams: Upstreams, url: str, scope: str = "") -> bytes:
    response = await upstreams.send(post(url), connect_timeout=30, head_timeout=30, scope=scope)
    async with response:
        return await response.read(1 << 20, 30)


async def dies_after_one(peer: Peer) -> None:
    """The first connection answers once, and is reset when it is asked again."""
    await peer.request()
    await peer.send(answer(b"first"))
    if peer.number == 0:
        await peer.head()
        peer.reset()


@pytest.mark.parametrize(
    ("files", "connections"), [(1024, 312), (65536, 32568), (64, 20), (resource.RLIM_INFINITY, 100_000)]
)
def test_connections_leave_room_for_clients(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int
) -> None:
    """By default providers get half of the process's files, less some."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert client.default_max_connections() == connections


async def test_empty_pools_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are not used any more leave nothing behind."""
    monkeypatch.setattr(client, "POOLS", 4)
    upstreams = Upstreams(max_connections=2)
    async with serve(each(answer(b"ok", "Connection: close"))) as server:
        for number in range(20):
            assert await fetch(upstreams, server.url, f"scope {number}") == b"ok"
            while ": 0 active, 0 idle" not in repr(upstreams):
                await asyncio.sleep(0)
            await server.until(lambda seen: not seen.open)
        assert len(upstreams._routes) <= 5
        await upstreams.close()


async def test_a_pool_that_somebody_is_about_to_use_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds a pool empty opens a connection in it, and whatever comes in between, closing finds that connection."""
    monkeypatch.setattr(client, "POOLS", 1)
    upstreams = Upstreams(max_connections=2)
    async with serve(each(chunked(b"a", end=b""))) as server:
        prepared = upstreams.prepare("POST", server.url, HEADERS, "one")
        asking = asyncio.get_running_loop().create_task(
            upstreams.ask(prepared, b"", connect_timeout=30, head_timeout=30)
        )
        await asyncio.sleep(0)
        upstreams.prepare("POST", server.url, HEADERS, "another")
        response = await asking
        await upstreams.close()
        assert isinstance(response.error, UpstreamDisconnected)


async def test_a_request_that_cannot_be_written_opens_no_connection(upstreams: Upstreams) -> None:
    """A header that would end its line is our bug, found before anything is sent."""
    async with serve(each(answer())) as server:
        bad = post(server.url, b"{}", ("X-Thing", "a\r\nX-Other: b"))
        with pytest.raises(Bug):
            await upstreams.send(bad, connect_timeout=10, head_timeout=10)
        assert server.connections == 0
        assert " 0 active, 0 idle" in repr(upstreams)


async def test_only_an_explicit_context_turns_verification_off(authority: Authority) -> None:
    """A context of the caller's own is used as it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    upstreams = Upstreams(max_connections=2, ssl_context=context)
    async with serve(each(answer(b"ok")), authority.context("DNS:other.example")) as server:
        assert await fetch(upstreams, server.url) == b"ok"
        await upstreams.close()


# -- prepared requests -----------------------------------------------------------------------------------------------

HEADERS = (("Content-Type", "application/json"), ("Authorization", "Bearer secret"))


async def test_a_prepared_request_is_sent_many_times(upstreams: Upstreams) -> None:
    """Each body goes out behind the same head with its own length, on one connection."""
    async with serve(each(answer())) as server:
        prepared = upstreams.prepare("POST", f"{server.url}/v1/chat?a=b", HEADERS)
        assert server.connections == 0
        for body in (b"{}", b"", b"x" * 1000, b"y" * 100_000):
            response = await upstreams.ask(prepared, body, connect_timeout=30, head_timeout=30)
            async with response:
                assert await response.read(100, 30) == b"ok"
            head, _, sent = server.requests[-1].partition(b"\r\n\r\n")
            assert sent == body
            assert head.endswith(b"\r\nContent-Length: %d" % len(body))
            assert head.startswith(b"POST /v1/chat?a=b HTTP/1.1\r\n")
        assert server.connections == 1
    assert b"\r\nAuthorization: Bearer secret\r\n" in server.requests[0]


async def test_a_prepared_request_hides_its_head(upstreams: Upstreams) -> None:
    """Its text form names no credential."""
    prepared = upstreams.prepare("POST", "http://127.0.0.1:9/", HEADERS, "scope")
    assert "secret" not in repr(prepared)


async def test_a_prepared_request_keeps_to_its_scope(upstreams: Upstreams) -> None:
    """Requests of two credentials share no connection, those of one do."""
    async with serve(each(answer())) as server:
        for scope in ("one", "other", "one", "other"):
            prepared = upstreams.prepare("POST", server.url, HEADERS, scope)
            async with await upstreams.ask(prepared, b"", connect_timeout=30, head_timeout=30) as response:
                assert await response.read(100, 30) == b"ok"
        assert server.connections == 2


async def test_nothing_is_prepared_after_the_end() -> None:
    """A client that was closed refuses what is new, and what was prepared for a pool that is closed."""
    upstreams = Upstreams(max_connections=2)
    prepared = upstreams.prepare("POST", "http://127.0.0.1:9/", HEADERS)
    await upstreams.close()
    with pytest.raises(UpstreamUnreachable):
        upstreams.prepare("POST", "http://127.0.0.1:9/", HEADERS, "another")
    with pytest.raises(UpstreamUnreachable):
        await upstreams.ask(prepared, b"", connect_timeout=1, head_timeout=1)


# -- requests that leave at once -------------------------------------------------------------------------------------


async def test_a_request_leaves_before_anybody_waits_for_its_answer(upstreams: Upstreams) -> None:
    """Where a connection is free a request is sent by `dispatch`, and its answer is what `ask` gives; where none is, it is not."""
    async with serve(each(answer())) as server:
        prepared = upstreams.prepare("POST", server.url, HEADERS)
        assert upstreams.dispatch(prepared, b"{}") is None
        async with await upstreams.ask(prepared, b"{}", connect_timeout=30, head_timeout=30) as response:
            assert await response.read(100, 30) == b"ok"
        sent = upstreams.dispatch(prepared, b"again", collect=100)
        assert sent is not None
        assert upstreams.dispatch(prepared, b"more") is None  # the only connection is lent
        response = await upstreams.ask(
            prepared, b"again", connect_timeout=30, head_timeout=30, collect=100, sent=sent
        )
        assert await response.read(100, None) == b"ok"
        assert [request.partition(b"\r\n\r\n")[2] for request in server.requests] == [b"{}", b"again"]
        assert server.connections == 1


async def test_a_request_that_nobody_waits_for_closes_its_connection(upstreams: Upstreams) -> None:
    """Whoever cannot go on after `dispatch` closes what it gave: the answer must not meet the next question."""
    async with serve(each(answer())) as server:
        prepared = upstreams.prepare("POST", server.url, HEADERS)
        async with await upstreams.ask(prepared, b"", connect_timeout=30, head_timeout=30) as response:
            await response.read(100, 30)
        sent = upstreams.dispatch(prepared, b"")
        assert sent is not None
        sent.close()
        assert " 0 active, 0 idle" in repr(upstreams)
        async with await upstreams.ask(prepared, b"", connect_timeout=30, head_timeout=30) as response:
            assert await response.read(100, 30) == b"ok"
        assert server.connections == 2


async def test_a_request_that_left_on_a_dead_connection(upstreams: Upstreams) -> None:
    """The rule for stale connections holds: it is sent once more, and marked."""
    async with serve(dies_after_one) as server:
        prepared = upstreams.prepare("POST", server.url, HEADERS)
        async with await upstreams.ask(prepared, b"", connect_timeout=30, head_timeout=30) as response:
            await response.read(100, 30)
        sent = upstreams.dispatch(prepared, b"")
        assert sent is not None
        async with await upstreams.ask(
            prepared, b"", connect_timeout=30, head_timeout=30, sent=sent
        ) as response:
            assert await response.read(100, 30) == b"first"
            assert response.possible_duplicate


# -- answers that are collected --------------------------------------------------------------------------------------


async def test_a_collected_answer_that_was_asked_for_on_a_dead_connection(upstreams: Upstreams) -> None:
    """The rule for stale connections holds: sent once more, collected, and marked as a possible duplicate."""
    async with serve(dies_after_one) as server:
        prepared = upstreams.prepare("POST", server.url, HEADERS)
        for duplicate in (False, True):
            response = await upstreams.ask(prepared, b"", connect_timeout=30, head_timeout=30, collect=100)
            assert await response.read(100, None) == b"first"
            assert response.possible_duplicate is duplicate
        assert server.connections == 2


async def test_a_collected_answer_is_bounded_in_time(upstreams: Upstreams) -> None:
    """A body that stalls is given up at `head_timeout`, since nobody else watches; the socket is closed."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"hello")[:-1])
        await peer.gone()

    async with serve(play) as server:
        prepared = upstreams.prepare("POST", server.url, HEADERS)
        with pytest.raises(UpstreamTimeout) as caught:
            response = await upstreams.ask(prepared, b"", connect_timeout=30, head_timeout=0.05, collect=100)
            await response.read(100, None)
        assert caught.value.code == "first_event_timeout"
        await server.until(lambda seen: not seen.open)


async def test_a_collected_answer_is_cancelled(upstreams: Upstreams) -> None:
    """Whoever stops waiting for it closes its socket."""
    begun = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"hello")[:-1])
        begun.set()
        await peer.gone()

    async with serve(play) as server:
        prepared = upstreams.prepare("POST", server.url, HEADERS)
        asking = asyncio.get_running_loop().create_task(
            upstreams.ask(prepared, b"", connect_timeout=30, head_timeout=None, collect=100)
        )
        await begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.until(lambda seen: not seen.open)
        assert ": 0 active, 0 idle" in repr(upstreams)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("statuses", [("400 No", "200 OK"), ("200 OK", "400 No"), ("200 OK", "200 OK")])
async def test_the_next_request_follows_within_the_call(
    upstreams: Upstreams, statuses: tuple[str, str], split: bool
) -> None:
    """Who is told of an answer's end in the provider's own call may ask again at once, on the same connection."""

    async def play(peer: Peer) -> None:
        for number in range(6):
            await peer.request()
            data = answer(b"body %d" % number, status=statuses[number % 2])
            await peer.send_split(data, 7 if split else len(data))
        await peer.gone()

    found: list[tuple[int, bytes]] = []
    over = asyncio.Event()

    async def tale() -> None:
        for number in range(1, 6):
            response = await upstreams.ask(
                prepared, b"%d" % number, connect_timeout=30, head_timeout=None, collect=100
            )
            found.append((response.status, await response.read(100, None)))

    async with serve(play) as server:
        prepared = upstreams.prepare("POST", server.url, HEADERS)
        async with await upstreams.ask(
            prepared, b"first", connect_timeout=30, head_timeout=30, collect=100
        ) as response:
            await response.read(100, 30)
        # the connection is there: from here on the story needs no task
        Story(asyncio.get_running_loop(), lambda _: over.set()).start(tale())
        await over.wait()
        assert server.connections == 1
    assert found == [(int(statuses[number % 2][:3]), b"body %d" % number) for number in range(1, 6)]
