"""How connections are opened."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator

import pytest

from adapters.errors import UpstreamDisconnected, UpstreamTimeout, UpstreamUnreachable
from gateway.upstreams import UpstreamResponse, Upstreams, tls_context
from tests.gateway.upstreams.conftest import Authority, Names, post
from tests.gateway.upstreams.scripted import Peer, answer, chunked, each, serve


async def send(upstreams: Upstreams, url: str, connect_timeout: float = 30) -> UpstreamResponse:
    return await upstreams.send(post(url), connect_timeout=connect_timeout, head_timeout=30)


async def fetch(upstreams: Upstreams, url: str) -> bytes:
    async with await send(upstreams, url) as response:
        return await response.read(1 << 24, 30)


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextlib.asynccontextmanager
async def client(**options: object) -> AsyncIterator[Upstreams]:
    """An `Upstreams` that is closed in the end."""
    upstreams = Upstreams(max_connections=10, **options)  # type: ignore[arg-type]  # passed on as they are
    try:
        yield upstreams
    finally:
        await upstreams.close()


# -- addresses -------------------------------------------------------------------------------------------------------


async def test_a_refused_connection_is_unreachable(upstreams: Upstreams) -> None:
    """Where nobody listens, the error names the origin and not the path."""
    with free_port() as port, pytest.raises(UpstreamUnreachable) as caught:
        await send(upstreams, f"http://127.0.0.1:{port}/secret-path")
    assert f"127.0.0.1:{port}" in caught.value.message
    assert "secret-path" not in caught.value.message
    assert " 0 active, 0 idle" in repr(upstreams)


@pytest.mark.parametrize("host", ["name.invalid", "a..b", "x" * 64 + ".invalid"])
async def test_an_unknown_name_is_unreachable(upstreams: Upstreams, host: str) -> None:
    """Names that cannot be resolved, or cannot even be asked for, are errors of ours."""
    with pytest.raises(UpstreamUnreachable):
        await send(upstreams, f"http://{host}/")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",  # the same as one number
        "0xa9fea9fe",
        "[::ffff:169.254.169.254]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "0.0.0.0",
        "0",
        "[::]",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
async def test_forbidden_addresses_are_never_connected_to(upstreams: Upstreams, host: str) -> None:
    """Metadata, unspecified and multicast addresses are refused in every spelling."""
    with pytest.raises(UpstreamUnreachable):
        await send(upstreams, f"http://{host}:1/", 5)


async def test_a_name_that_leads_to_a_forbidden_address_is_refused(
    upstreams: Upstreams, names: Names
) -> None:
    """The address is checked after the name was resolved."""
    names.answers["metadata.example"] = [("169.254.169.254", 80)]
    with pytest.raises(UpstreamUnreachable, match=r"169\.254\.169\.254 are not allowed"):
        await send(upstreams, "http://metadata.example/")


async def test_the_next_address_is_tried(upstreams: Upstreams, names: Names) -> None:
    """A forbidden address and one that refuses do not keep the third from being used."""
    async with serve(each(answer(b"ok"))) as server:
        with free_port() as closed:
            ends = [("169.254.169.254", 80), ("127.0.0.1", closed), ("127.0.0.1", server.port)]
            names.answers["three.example"] = ends
            assert await fetch(upstreams, "http://three.example/") == b"ok"


async def test_names_are_asked_again_when_no_address_answers(upstreams: Upstreams, names: Names) -> None:
    """A provider that has moved is found by the next request."""
    async with serve(each(answer(b"ok"))) as server:
        with free_port() as closed:
            names.answers["moving.example"] = [("127.0.0.1", closed)]
            with pytest.raises(UpstreamUnreachable):
                await fetch(upstreams, "http://moving.example/")
        names.answers["moving.example"] = [("127.0.0.1", server.port)]
        assert await fetch(upstreams, "http://moving.example/") == b"ok"


async def test_a_name_may_lead_to_this_machine(upstreams: Upstreams) -> None:
    """Loopback is allowed: model servers run there."""
    async with serve(each(answer(b"ok"))) as server:
        assert await fetch(upstreams, f"http://localhost:{server.port}/") == b"ok"


# -- time-outs and cancellation --------------------------------------------------------------------------------------


@contextlib.contextmanager
def deaf() -> Iterator[int]:
    """A port whose connections the kernel does not complete: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_connection_that_is_not_completed_times_out(upstreams: Upstreams) -> None:
    """A server that does not take the connection costs the connect time-out."""
    with deaf() as port:
        with pytest.raises(UpstreamTimeout) as caught:
            await send(upstreams, f"http://127.0.0.1:{port}/", 0.1)
        assert caught.value.code == "connect_timeout"
        assert " 0 active, 0 idle" in repr(upstreams)


async def test_cancelling_while_connecting_leaves_nothing(upstreams: Upstreams) -> None:
    """A caller who is cancelled before the connection is there frees the place."""
    with deaf() as port:
        asking = asyncio.get_running_loop().create_task(send(upstreams, f"http://127.0.0.1:{port}/"))
        while "1 active" not in repr(upstreams):
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert " 0 active, 0 idle" in repr(upstreams)


async def test_cancelling_within_the_handshake_closes_the_socket(upstreams: Upstreams) -> None:
    """A caller who is cancelled while TLS is being set up takes the socket with them."""

    async def play(peer: Peer) -> None:
        await peer.begun()
        hello.set()
        await peer.gone()

    hello = asyncio.Event()
    async with serve(play) as server:
        url = f"https://127.0.0.1:{server.port}/"
        asking = asyncio.get_running_loop().create_task(send(upstreams, url))
        await hello.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.until(lambda seen: not seen.open)


async def test_a_handshake_that_stalls_times_out(upstreams: Upstreams) -> None:
    """TLS that does not get on costs the connect time-out, and the socket is closed."""
    async with serve(lambda peer: peer.gone()) as server:
        with pytest.raises(UpstreamTimeout) as caught:
            await send(upstreams, f"https://127.0.0.1:{server.port}/", 0.1)
        assert caught.value.code == "connect_timeout"
        await server.until(lambda seen: seen.connections == 1 and not seen.open)


# -- TLS -------------------------------------------------------------------------------------------------------------


async def test_a_trusted_server_is_asked(authority: Authority) -> None:
    """With its authority known, bodies of any size come over TLS, and the connection is used again."""
    body = bytes(1 << 20)
    context = authority.context("IP:127.0.0.1")
    async with (
        client(ssl_context=tls_context(authority.cafile)) as upstreams,
        serve(each(chunked(b"a", body)), context) as server,
    ):
        for _ in range(3):
            assert await fetch(upstreams, server.url) == b"a" + body
        assert server.connections == 1


async def test_an_unknown_authority_is_refused(authority: Authority, upstreams: Upstreams) -> None:
    """A certificate that the system does not trust is an error; the request is never sent, and not tried again."""
    async with serve(each(answer()), authority.context("IP:127.0.0.1")) as server:
        with pytest.raises(UpstreamUnreachable, match="certificate"):
            await send(upstreams, server.url)
        assert server.asked == 0


async def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    """The name in the certificate must be the host that was asked for."""
    context = authority.context("DNS:other.example")
    async with (
        client(ssl_context=tls_context(authority.cafile)) as upstreams,
        serve(each(answer()), context) as server,
    ):
        with pytest.raises(UpstreamUnreachable, match="certificate"):
            await send(upstreams, server.url)
        assert server.asked == 0


async def test_a_plain_server_behind_https_is_unreachable(upstreams: Upstreams) -> None:
    """An answer in plain text to a TLS greeting is an error of ours."""

    async def play(peer: Peer) -> None:
        await peer.begun()
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serve(play) as server:
        with pytest.raises(UpstreamUnreachable):
            await send(upstreams, f"https://127.0.0.1:{server.port}/")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_sessions_and_names_are_sent(authority: Authority, version: ssl.TLSVersion) -> None:
    """The second connection resumes the first one's session, and the server learns the name that is asked for."""
    names: list[str | None] = []
    reused: list[bool] = []
    context = authority.context("DNS:localhost")
    context.maximum_version = version
    context.sni_callback = lambda _object, name, _context: names.append(name)

    async def play(peer: Peer) -> None:
        reused.append(peer.writer.get_extra_info("ssl_object").session_reused)
        await peer.request()
        await peer.send(answer(b"ok", "Connection: close"))

    async with client(ssl_context=tls_context(authority.cafile)) as upstreams, serve(play, context) as server:
        for _ in range(3):
            assert await fetch(upstreams, f"https://localhost:{server.port}/") == b"ok"
    assert names == ["localhost"] * 3
    assert reused == [False, True, True]


async def test_a_cut_stream_over_tls_is_an_error(authority: Authority) -> None:
    """A connection that ends without the body's end is an error under TLS too."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"a", end=b""))

    context = authority.context("IP:127.0.0.1")
    async with client(ssl_context=tls_context(authority.cafile)) as upstreams, serve(play, context) as server:
        with pytest.raises(UpstreamDisconnected):
            await fetch(upstreams, server.url)


async def test_leaving_a_stream_over_tls_closes_the_socket(authority: Authority) -> None:
    """An unfinished answer takes its connection with it under TLS too."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"a", end=b""))
        await peer.gone()

    context = authority.context("IP:127.0.0.1")
    async with client(ssl_context=tls_context(authority.cafile)) as upstreams, serve(play, context) as server:
        async with await send(upstreams, server.url):
            pass
        await server.until(lambda seen: not seen.open)


# -- proxies ---------------------------------------------------------------------------------------------------------


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction of a tunnel."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def tunnel(peer: Peer) -> None:
    """A proxy that opens every tunnel."""
    target = (await peer.request()).split(b" ")[1].decode()
    host, _, port = target.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
    try:
        await asyncio.gather(relay(peer.reader, writer), relay(reader, peer.writer))
    finally:
        writer.close()


async def test_https_goes_through_a_tunnel(authority: Authority) -> None:
    """The proxy is asked for a tunnel with its credentials; TLS and the provider's key stay out of its sight."""
    context = authority.context("IP:127.0.0.1")
    async with serve(tunnel) as proxy, serve(each(answer(b"ok")), context) as server:
        url = proxy.url.replace("//", "//user:p%40ss@")
        async with client(proxy=url, ssl_context=tls_context(authority.cafile)) as upstreams:
            assert await fetch(upstreams, server.url) == b"ok"
            assert await fetch(upstreams, server.url) == b"ok"
        assert len(proxy.requests) == 1
        assert proxy.requests[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % server.port)
        assert b"\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n" in proxy.requests[0]
        assert b"Proxy-Authorization" not in b"".join(server.requests)


async def test_http_goes_to_the_proxy_with_its_whole_url() -> None:
    """A plain request names its origin in the first line."""
    async with serve(each(answer(b"ok"))) as proxy, client(proxy=proxy.url) as upstreams:
        assert await fetch(upstreams, "http://models.example:8080/v1?x=1") == b"ok"
        first, host, *_ = proxy.requests[0].split(b"\r\n")
        assert first == b"POST http://models.example:8080/v1?x=1 HTTP/1.1"
        assert host == b"Host: models.example:8080"


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nsomething",
        b"SSH-2.0-server\r\n\r\n",
        b"",
        b"x" * 100_000,
    ],
)
async def test_a_proxy_that_says_no_is_unreachable(reply: bytes) -> None:
    """Whatever else a proxy answers to CONNECT, there is no connection."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply)

    async with serve(play) as proxy, client(proxy=proxy.url) as upstreams:
        with pytest.raises(UpstreamUnreachable):
            await send(upstreams, "https://api.example/")


@pytest.mark.parametrize(
    "host",
    [
        *(
            "169.254.169.254",
            "169.254.169.254.",
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "169.254.43518",
        ),
        *("[::ffff:169.254.169.254]", "[fd00:ec2::254]"),
    ],
)
async def test_a_proxy_is_not_asked_for_forbidden_addresses(host: str) -> None:
    """A metadata address is refused, in every spelling, although another machine would connect to it."""
    async with serve(each(answer(b"ok"))) as proxy, client(proxy=proxy.url) as upstreams:
        with pytest.raises(UpstreamUnreachable, match="not allowed"):
            await send(upstreams, f"http://{host}/latest")
        assert proxy.connections == 0
