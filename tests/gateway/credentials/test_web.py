"""Plain HTTP for tokens: an answer is an answer, silence and nonsense are `UpstreamAuth` without a secret."""

from __future__ import annotations

import pytest

from adapters.errors import UpstreamAuth
from gateway.credentials.web import Web
from tests.harness import fake_provider, hang, whole
from tests.ports import free_port


async def test_an_answer_is_given_whatever_its_status() -> None:
    """Status, headers and body, and what was sent arrives."""
    async with fake_provider() as server:
        server.will(whole({"error": "no"}, 401, {"x-reason": "because"}))
        web = Web()
        status, headers, body = await web.ask(
            "POST", f"{server.url}/token?secret=s3cret", headers={"x-a": "b"}, body=b"grant=1"
        )
        await web.close()
    assert (status, headers["x-reason"], body) == (401, "because", b'{"error": "no"}')
    assert (server.requests[0].body, server.requests[0].headers["x-a"]) == (b"grant=1", "b")


async def test_an_answer_is_read_to_its_end() -> None:
    """However many pieces it arrives in, up to a bound."""
    async with fake_provider() as server:
        web = Web()
        for size in (800_000, 3_000_000):
            server.will(whole(b"x" * size))
            _, _, body = await web.ask("GET", f"{server.url}/token")
            assert len(body) == min(size, 1024 * 1024)
        await web.close()


async def test_redirects_are_not_followed() -> None:
    """What is meant for one host is not carried to another."""
    async with fake_provider() as server:
        server.will(whole({}, 302, {"location": f"{server.url}/elsewhere"}))
        web = Web()
        status, _, _ = await web.ask("GET", f"{server.url}/token")
        await web.close()
    assert status == 302
    assert len(server.requests) == 1


async def test_cookies_are_not_kept() -> None:
    """What a server notes of one credential it does not hear with the next one."""
    async with fake_provider() as server:
        server.will(whole({}, headers={"set-cookie": "seen=1; path=/"}))
        web = Web()
        for _ in range(2):
            await web.ask("GET", f"{server.url.replace('127.0.0.1', 'localhost')}/token")
        await web.close()
    assert [asked.headers.get("cookie") for asked in server.requests] == [None, None]


async def test_who_does_not_answer_is_named_by_host_alone() -> None:
    """A refused connection and a silent server are errors that show nothing of the URL but its host."""
    port = free_port()
    web = Web()
    with pytest.raises(UpstreamAuth) as refused:
        await web.ask("POST", f"http://127.0.0.1:{port}/token?secret=s3cret")
    async with fake_provider() as server:
        server.will(hang)
        with pytest.raises(UpstreamAuth) as silent:
            await web.ask("POST", f"{server.url}/token?secret=s3cret", seconds=0.05)
    await web.close()
    for error in (refused.value, silent.value):
        assert "127.0.0.1" in error.message
        assert "s3cret" not in error.message
