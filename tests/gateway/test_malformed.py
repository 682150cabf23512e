"""Tests of gateway/malformed.py."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from aiohttp.http_exceptions import (
    BadHttpMessage,
    BadHttpMethod,
    BadStatusLine,
    ContentEncodingError,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)

from gateway import malformed
from gateway.malformed import OncePerPeer, reason_of


@pytest.fixture
def server() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger like aiohttp's, with the filter, and what it writes."""
    logger = logging.Logger("aiohttp.server", logging.DEBUG)  # noqa: LOG001 - not the process's own
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.addFilter(OncePerPeer(peers=2))
    yield logger, written
    handler.close()


def test_one_line_per_peer(server: tuple[logging.Logger, io.StringIO]) -> None:
    """Each peer's first malformed request is a warning with its reason, the others are silent; peers are bounded."""
    logger, written = server
    for peer in ("10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3", "10.0.0.1"):
        logger.error("Error handling request from %s", peer, exc_info=InvalidHeader("Ho st"))
    told = "WARNING {} sent what is no HTTP request: Invalid HTTP header; said once for each peer"
    lines = [told.format(f"10.0.0.{last}") for last in (1, 2, 3, 1)]
    assert written.getvalue().splitlines() == lines


@pytest.mark.parametrize(
    "error", [BadHttpMethod("Received HTTPS traffic on an HTTP port"), BadHttpMethod("\x16\x03\x01 x")]
)
def test_tls(server: tuple[logging.Logger, io.StringIO], error: BadHttpMethod) -> None:
    """A TLS hello, which aiohttp tells in debug mode only, is told as what it is, whichever parser found it."""
    logger, written = server
    logger.debug("Error handling request from %s", "10.0.0.1", exc_info=error)
    assert "10.0.0.1 speaks TLS to this port" in written.getvalue()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            BadHttpMessage("Invalid header value char:\n\n  b'Bearer sk-1'\n           ^"),
            "Invalid header value char",
        ),
        (BadHttpMessage("Missing 'Host' header in request."), "Missing 'Host' header in request."),
        (BadStatusLine("GET /?key=sk-1"), "Bad status line"),
        (BadHttpMethod("sk-1"), "Bad HTTP method in status line"),
        (InvalidHeader(b"Bearer sk-1"), "Invalid HTTP header"),
        (LineTooLong(b"Bearer sk-1...", 8190), "a line of its head has more than 8190 bytes"),
        (ContentEncodingError("Please install brotli"), "its content-encoding cannot be read here"),
        (InvalidURLError("http://x:y/?key=sk-1"), "what it asks for is neither a path nor a URL"),
    ],
)
def test_reasons_repeat_nothing(error: HttpProcessingError, reason: str) -> None:
    """What the client sent is in no reason: it may be a key."""
    assert reason_of(error) == reason


def test_without_a_peer(server: tuple[logging.Logger, io.StringIO]) -> None:
    """A record without an address does not trouble the filter."""
    logger, written = server
    logger.error("Error handling request", exc_info=BadStatusLine("x"))
    assert "somebody sent what is no HTTP request" in written.getvalue()


def test_everything_else_passes(server: tuple[logging.Logger, io.StringIO]) -> None:
    """What is no malformed request goes through as it is; small talk does not."""
    logger, written = server
    logger.error("Unhandled exception", exc_info=ValueError("a bug"))
    logger.warning("something")
    logger.debug("Ignored premature client disconnection")
    assert written.getvalue().splitlines()[-2:] == ["ValueError: a bug", "WARNING something"]


def test_watch() -> None:
    """`watch` puts the filter on aiohttp's own logger."""
    logger = logging.getLogger("aiohttp.server")
    level = logger.level
    malformed.watch()
    (added,) = [each for each in logger.filters if isinstance(each, OncePerPeer)]
    logger.removeFilter(added)
    logger.setLevel(level)
