"""Which proxy serves which origin."""

from __future__ import annotations

import pytest

from gateway.upstreams.proxy import Proxies, Proxy, parse_proxy, proxies_from_environment


def test_the_environment_is_read() -> None:
    """Both spellings count, the lower-case one first, and each scheme has its own proxy."""
    proxies = proxies_from_environment(
        {
            "HTTP_PROXY": "http://plain:1",
            "https_proxy": "secure:2",
            "HTTPS_PROXY": "other:3",
            "NO_PROXY": "a.example",
        }
    )
    assert proxies.choose("http", "x.example", 80) == Proxy("plain", 1)
    assert proxies.choose("https", "x.example", 443) == Proxy("secure", 2)
    assert proxies.choose("https", "a.example", 443) is None


def test_an_empty_environment_means_no_proxy() -> None:
    """Unset and empty variables are the same."""
    assert proxies_from_environment({"HTTPS_PROXY": " "}).choose("https", "x.example", 443) is None


def test_a_proxy_that_cannot_be_used_is_named() -> None:
    """Which variable it is, and what it should be; without the password."""
    with pytest.raises(
        ValueError, match=r"^HTTPS_PROXY: a proxy must be http://host:port, not socks5://far$"
    ):
        proxies_from_environment({"HTTP_PROXY": "http://near:1", "HTTPS_PROXY": "socks5://u:secret@far:2"})


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "models.localhost"])
def test_this_machine_needs_no_proxy(host: str) -> None:
    """A proxy elsewhere could not reach it."""
    proxies = proxies_from_environment({"HTTP_PROXY": "http://proxy"})
    assert proxies.choose("http", host, 11434) is None


@pytest.mark.parametrize(
    ("entry", "host", "port", "bypassed"),
    [
        ("*", "anything.example", 443, True),
        ("example.com", "example.com", 443, True),
        ("example.com", "api.example.com", 443, True),
        (".example.com", "api.example.com", 443, True),
        ("*.example.com", "api.example.com", 443, True),
        ("Example.COM", "api.example.com", 443, True),
        ("example.com", "badexample.com", 443, False),
        ("example.com:8080", "example.com", 8080, True),
        ("example.com:8080", "example.com", 443, False),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.0.0.1:80", "10.0.0.1", 80, True),
        ("fd00::/8", "fd12::1", 443, True),
        ("fd12::1", "fd12::1", 443, True),
        ("[fd12::1]:443", "fd12::1", 443, True),
        ("[fd12::1]:443", "fd12::1", 80, False),
    ],
)
def test_hosts_that_need_no_proxy(entry: str, host: str, port: int, bypassed: bool) -> None:
    """An entry covers a host, a domain with all below it, a network, one port of a host, or everything."""
    proxies = Proxies("http://proxy", "http://proxy", (entry,))
    assert (proxies.choose("https", host, port) is None) is bypassed


def test_a_password_is_sent_and_never_shown() -> None:
    """Credentials become a header; printing shows host and port alone."""
    proxy = parse_proxy("http://user:secret@proxy.example:3128")
    assert proxy.authorization == "Basic dXNlcjpzZWNyZXQ="
    assert repr(proxy) == "<Proxy proxy.example:3128>"
    assert "secret" not in repr(Proxies("http://user:secret@proxy.example:3128", None))


@pytest.mark.parametrize(
    "url",
    [
        *("socks5://user:secret@proxy", "https://proxy", "http://", "http://proxy:port"),
        *("http://user:secret\N{CARE OF}@proxy", "http://user:secret@[::1"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused(url: str) -> None:
    """Only plain HTTP proxies are spoken to; the error does not repeat a password."""
    with pytest.raises(ValueError, match="proxy must be") as caught:
        proxies_from_environment({"HTTPS_PROXY": url})
    assert "secret" not in str(caught.value)
