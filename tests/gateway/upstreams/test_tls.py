"""What the TLS context demands and remembers; that sessions are resumed is shown in `test_dial`."""

from __future__ import annotations

import ssl

import pytest

from gateway.upstreams import tls_context
from gateway.upstreams.tls import SESSIONS
from tests.gateway.upstreams.conftest import Authority


@pytest.mark.parametrize("own", [False, True])
def test_what_a_context_demands(authority: Authority, own: bool) -> None:
    """Whichever authorities are trusted, certificates and names are checked, and TLS 1.2 is the least."""
    context = tls_context(authority.cafile if own else None)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLObject:
    """A connection in memory, as an event loop makes it; the client's end."""
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(one, other, server_hostname="localhost")
    far = server.wrap_bio(other, one, server_side=True)
    waiting = [near, far]
    while waiting:
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    far.write(b"x")
    assert near.read(1) == b"x"  # with TLS 1.3 the tickets come before it
    return near


def test_the_last_session_is_offered(authority: Authority) -> None:
    """A remembered session is resumed, by this context alone, for this server alone, and their number is bounded."""
    client = tls_context(authority.cafile)
    server = authority.context("DNS:localhost")
    first = handshake(client, server)
    client.remember("localhost", first.session)
    assert handshake(client, server).session_reused
    assert not handshake(tls_context(authority.cafile), server).session_reused
    for number in range(2 * SESSIONS):
        client.remember(f"server {number}", first.session)
    assert len(client._sessions) <= SESSIONS
    client.remember("none", None)
    assert "none" not in client._sessions
