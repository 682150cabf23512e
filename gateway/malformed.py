"""What reaches the port and is no HTTP: a TLS hello, a scanner's greeting, a header that no client writes.

aiohttp answers 400 and logs a traceback for each, or nothing at all. Neither helps: an operator wants to know once who
does it and what it was, and nobody should be able to fill a disk by it. So the records of aiohttp's server logger pass
this filter: one line per peer, a warning with the reason, no traceback. Everything else that it says goes through as it is.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict

from aiohttp.http_exceptions import (
    ContentEncodingError,
    HttpProcessingError,
    InvalidURLError,
    LineTooLong,
)
from aiohttp.web import RequestPayloadError

_PEERS = 1_000
_TLS = ("Received HTTPS traffic", r"b'\x16\x03")
"""What aiohttp's parsers, the one in C and the one in Python, say of a TLS hello."""
_QUOTED = re.compile(r""":? b?(['"]).*\1\.?$""")
"""What aiohttp's words repeat of the client's."""


class OncePerPeer(logging.Filter):
    """Lets one record about malformed requests of each peer pass, put into a sentence; `peers` are remembered."""

    def __init__(self, peers: int = _PEERS) -> None:
        super().__init__()
        self._peers = peers
        self._seen: OrderedDict[str, None] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """True if the record is to be written. One about a malformed request is changed on the way."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, RequestPayloadError):  # a body that cannot be unpacked: whoever read it was told
            return False
        if not isinstance(error, HttpProcessingError):
            return record.levelno > logging.DEBUG
        peer = str(record.args[0]) if isinstance(record.args, tuple) and record.args else "somebody"
        if peer in self._seen:
            return False
        self._seen[peer] = None
        if len(self._seen) > self._peers:
            self._seen.popitem(last=False)
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args, record.exc_info = (
            f"{peer} {_said(error)}; said once for each peer",
            None,
            None,
        )
        return True


def _said(error: HttpProcessingError) -> str:
    if any(sign in error.message for sign in _TLS):
        return "speaks TLS to this port, which takes plain HTTP: use http://, or put a TLS proxy in front"
    return f"sent what is no HTTP request: {reason_of(error)}"


def reason_of(error: HttpProcessingError) -> str:
    """Why it is none, in aiohttp's words as far as they do not repeat the client's, among which may be a key."""
    if isinstance(error, LineTooLong):
        return f"a line of its head has more than {error.args[1]} bytes"
    if isinstance(error, ContentEncodingError):
        return "its content-encoding cannot be read here"
    if isinstance(error, InvalidURLError):  # its words may be the target itself
        return "what it asks for is neither a path nor a URL"
    return _QUOTED.sub("", error.message.strip().partition("\n")[0]).rstrip(":")


def watch() -> None:
    """Put the filter in place, for this process."""
    logger = logging.getLogger("aiohttp.server")
    logger.setLevel(logging.DEBUG)  # what looks encrypted is told at this level
    logger.addFilter(OncePerPeer())
