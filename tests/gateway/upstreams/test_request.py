"""How requests are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import Bug
from adapters.types import HttpRequest
from gateway import __version__
from gateway.upstreams.request import JOINED_BODY, parse_url, wire, write_head, write_headers, write_request

URL = "https://api.example/v1/chat?x=%20y"


def write(*headers: tuple[str, str], body: bytes = b"{}", method: str = "POST") -> bytes:
    return b"".join(write_request(HttpRequest(method, URL, headers, body), parse_url(URL)))


def test_a_request_as_bytes() -> None:
    """The line, our headers, the caller's, the body."""
    assert write(("Authorization", "Bearer k"), ("anthropic-beta", "a,b")) == (
        b"POST /v1/chat?x=%20y HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer k\r\nanthropic-beta: a,b\r\n"
        b"User-Agent: penstock/" + __version__.encode() + b"\r\nAccept-Encoding: identity\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )


def test_a_request_without_body() -> None:
    """GET has no length, POST has one though it is nothing."""
    assert b"Content-Length" not in write(body=b"", method="GET")
    assert b"\r\nContent-Length: 0\r\n" in write(body=b"")


def test_some_of_our_headers_may_be_replaced() -> None:
    """Host, User-Agent and Accept-Encoding of the caller stand instead of ours."""
    data = write(("host", "other.example"), ("user-agent", "me"), ("accept-encoding", "gzip"))
    assert data.lower().count(b"\r\nhost:") == 1
    assert b"penstock" not in data
    assert b"identity" not in data


@pytest.mark.parametrize(
    "name",
    ["Content-Length", "transfer-encoding", "Connection", "TE", "Expect", "Upgrade", "Proxy-Authorization"],
)
def test_framing_is_ours(name: str) -> None:
    """Headers that say where a message ends, or change the protocol, cannot be set."""
    with pytest.raises(Bug):
        write((name, "1"))


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\rb", "a\x00b", "\x1b[0m", "a\x7f", "\ud800"])
def test_values_cannot_end_a_line(value: str) -> None:
    """A control character in a value is a bug; the error names the header and not its value."""
    with pytest.raises(Bug) as caught:
        write(("Authorization", f"Bearer secret{value}"))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "é"])
def test_names_are_tokens(name: str) -> None:
    """A header's name has nothing but the characters of a token."""
    with pytest.raises(Bug):
        write((name, "x"))


def test_odd_bytes_pass() -> None:
    """Bytes that are no UTF-8 leave as they came."""
    assert b"\r\nX: \xff\xc3\xa9\r\n" in write(("X", b"\xff\xc3\xa9".decode("utf-8", "surrogateescape")))


@given(st.text(), st.text())
def test_no_header_adds_a_line(name: str, value: str) -> None:
    """Whatever a name and a value are, the head has one line for them, or is not written."""
    try:
        data = write((name, value))
    except Bug:
        return
    assert data.count(b"\r\n") == write(("X", "y")).count(b"\r\n")
    assert data.count(b"\n") == data.count(b"\r\n") == data.count(b"\r")


def test_large_bodies_are_not_copied() -> None:
    """A small body is one write with the head, a large one stays the object that it is."""
    small, large = bytes(JOINED_BODY), bytes(JOINED_BODY + 1)
    address = parse_url(URL)
    assert len(write_request(HttpRequest("POST", URL, (), small), address)) == 1
    assert write_request(HttpRequest("POST", URL, (), large), address)[1] is large


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "authority"),
    [
        ("http://Host.Example", "host.example", 80, "/", "host.example"),
        ("http://h:80/a", "h", 80, "/a", "h"),
        ("https://h:443/a?b=c", "h", 443, "/a?b=c", "h"),
        ("https://h:8443/a#part", "h", 8443, "/a", "h:8443"),
        ("http://[::1]:11434/api", "::1", 11434, "/api", "[::1]:11434"),
        ("https://h?x", "h", 443, "/?x", "h"),
    ],
)
def test_urls_are_taken_apart(url: str, host: str, port: int, target: str, authority: str) -> None:
    """Host, port, target and Host header of a URL."""
    address = parse_url(url)
    assert (address.host, address.port, address.target, address.authority) == (host, port, target, authority)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/",
        "h/path",
        "http://",
        "http://user:secret@h/",
        "http://h:port/",
        "http://h:99999/",
        "http://h/a b",
        "http://h/a\r\nX: y",
        "http://h/é",
    ],
)
def test_urls_that_cannot_be_asked(url: str) -> None:
    """Other schemes, users and unescaped characters are refused, and never repeated."""
    with pytest.raises(Bug) as caught:
        parse_url(url)
    assert "secret" not in caught.value.message


def test_a_head_serves_any_body() -> None:
    """`write_head` is written once; `wire` adds the length of each body, and nothing else."""
    head = write_head("POST", (("X-Thing", "a"),), parse_url(URL))
    assert head.endswith(b"\r\n")
    assert b"Content-Length" not in head
    for body in (b"", b"{}", b"x" * 1000):
        assert wire(head, "POST", body) == [b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)]
    assert wire(head, "POST", b"{}") == write_request(
        HttpRequest("POST", URL, (("X-Thing", "a"),), b"{}"), parse_url(URL)
    )


def test_more_headers_for_a_head() -> None:
    """`write_headers` writes what can stand behind a head, and refuses what no head may have."""
    head = write_head("POST", (("x-a", "1"),), parse_url(URL)) + write_headers(
        (("x-b", "\udce4"), ("x-c", ""))
    )
    assert head.endswith(b"\r\nx-b: \xe4\r\nx-c: \r\n")
    assert write_headers(()) == b""
    for name, value in (("Content-Length", "1"), ("x-a", "1\r\nx-b: 2"), ("x a", "1"), ("", "1")):
        with pytest.raises(Bug, match=r"cannot be set|no header may have"):
            write_headers(((name, value),))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_head_without_a_body_is_only_ended(method: str) -> None:
    """Where no body is expected its length is not written; one that is there has one all the same."""
    head = write_head(method, (), parse_url(URL))
    assert wire(head, method, b"") == [head + b"\r\n"]
    assert wire(head, method, b"a") == [head + b"Content-Length: 1\r\n\r\na"]


def test_a_large_body_is_a_piece_of_its_own() -> None:
    """Up to the limit one write holds both; above it the body is not copied, and the head is the same."""
    head = write_head("POST", (), parse_url(URL))
    small, large = bytes(JOINED_BODY), bytes(JOINED_BODY + 1)
    assert len(wire(head, "POST", small)) == 1
    first, second = wire(head, "POST", large)
    assert first == b"%bContent-Length: %d\r\n\r\n" % (head, len(large))
    assert second is large


def test_a_head_for_a_proxy() -> None:
    """A proxy gets the whole URL and its own credential; the name of the server stays the same."""
    head = write_head("POST", (), parse_url(URL), absolute=True, proxy_authorization="Basic abc")
    assert head.startswith(f"POST {URL} HTTP/1.1\r\nHost: api.example\r\n".encode())
    assert b"\r\nProxy-Authorization: Basic abc\r\n" in head
