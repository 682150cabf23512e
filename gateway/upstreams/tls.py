"""TLS towards providers: always verified, sessions reused.

A full handshake costs a round trip's worth of public-key work on both sides; a resumed one skips the certificates.
Event loops offer no way to hand a session in, but both asyncio and uvloop wrap connections through the context's
`wrap_bio`: that is the seam.

There is no switch that turns verification off. Who must talk to a server with a private certificate names its CA
(`tls_context(cafile=…)`, or `SSL_CERT_FILE` in the environment, which OpenSSL reads itself); who insists on more
passes a context of their own, in code.
"""

from __future__ import annotations

import ssl
from typing import Self

SESSIONS = 1024
"""Servers whose last session is kept."""


class SessionContext(ssl.SSLContext):
    """A client context that offers each server the last session that it gave."""

    _sessions: dict[str, ssl.SSLSession]

    def __new__(cls) -> Self:
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context._sessions = {}
        return context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if session is None and isinstance(server_hostname, str):
            session = self._sessions.get(server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def remember(self, server_hostname: str, session: ssl.SSLSession | None) -> None:
        """Keep the session of a connection whose tickets have come: after its first answer, with TLS 1.3."""
        if session is None or not session.has_ticket:
            return
        if len(self._sessions) >= SESSIONS and server_hostname not in self._sessions:
            self._sessions.clear()
        self._sessions[server_hostname] = session


def tls_context(cafile: str | None = None) -> SessionContext:
    """A context that verifies names and certificates against the system's authorities, or those of `cafile`."""
    context = SessionContext()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if cafile is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile)
    return context
