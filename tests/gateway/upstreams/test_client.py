"""What holds for all pools together; the rule for stale connections is shown in `test_pool`."""

from __future__ import annotations

import asyncio
import resource
import ssl

import pytest

from adapters.errors import Bug
from gateway.upstreams import Upstreams, client
from tests.gateway.upstreams.conftest import Authority, post
from tests.gateway.upstreams.scripted import answer, each, serve


async def fetch(upstreams: Upstreams, url: str, scope: str = "") -> bytes:
    response = await upstreams.send(post(url), connect_timeout=30, head_timeout=30, scope=scope)
    async with response:
        return await response.read(1 << 20, 30)


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
