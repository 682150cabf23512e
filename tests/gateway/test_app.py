"""The server: what is bound, how it starts, how it stops."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import aiohttp
import pytest

from gateway import app
from gateway.app import CannotStart, _fleet, _listen, allow_many_files, open_runtime, serve
from gateway.config.environment import read_environment
from gateway.config.load import load
from gateway.keyring import Keyring
from gateway.server import Runner
from gateway.state.records import LedgerQuery
from gateway.state.records_sqlite import SqliteRecords
from tests.gateway.rows import row
from tests.harness import (
    FakeProvider,
    Gateway,
    chat_answer,
    chat_events,
    config_for,
    events,
    gateway,
    receive,
    whole,
    written,
)
from tests.ports import free_port


async def test_head(gw: Gateway) -> None:
    """`HEAD /` is answered without a body, as SDKs and platforms ask."""
    async with gw.session.head(gw.url + "/") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_requests_without_a_story_have_ids(
    gw: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Pages and what is refused before anybody is asked: the log of a bug names the id that its client was given."""
    names = ("x-request-id", "request-id", "x-litellm-call-id")
    seen = set()
    for path in ("/health", "/v1/models", "/nothing", "/v1/messages/batches"):
        answer = await gw.get(path)
        (identity,) = {answer.headers[name] for name in names}
        seen.add(identity)
        if path == "/v1/messages/batches":
            assert (await answer.json())["request_id"] == identity
    assert len(seen) == 4
    monkeypatch.setattr("gateway.admin.models.list_models", None)
    answer = await gw.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    told = await answer.json()
    assert (answer.status, told["type"]) == (500, "error")
    assert told["request_id"] == answer.headers["request-id"]
    assert told["request_id"] in caplog.text


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", {"model": "gpt-4o"}), ("/v1/messages", b"{"), ("/nothing", b"")],
)
@pytest.mark.parametrize("version", ["2.0", "0.9"])
async def test_versions(gw: Gateway, path: str, body: Any, version: str) -> None:
    """Versions of HTTP that are not spoken are refused, on every path."""
    async with gw.connect() as (reader, writer):
        writer.write(written(path, body, version=version))
        answer = await receive(reader)
    assert (answer.status, "HTTP/1.1" in answer.json["error"]["message"]) == (505, True)
    assert not gw.rt.open


async def test_expectations(gw: Gateway) -> None:
    """On a page, what nobody knows how to meet is passed over, and a body that waits to be wanted is invited."""
    async with gw.connect() as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nexpect: 200-ok\r\n\r\n")
        answer = await receive(reader)
        assert (answer.status, answer.json["status"]) == (200, "healthy")
        head = b"POST /key/health HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await receive(reader)).json["key"] == "healthy"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::", "localhost"])
def test_listen(host: str) -> None:
    """Every spelling of an address is bound; `::` takes both families, `0.0.0.0` stays IPv4."""
    sockets = _listen(host, 0)
    families = {sock.family for sock in sockets}
    try:
        if host == "0.0.0.0":
            assert families == {socket.AF_INET}
        if host == "::":
            (sock,) = sockets
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    finally:
        for sock in sockets:
            sock.close()


def test_a_port_that_is_taken() -> None:
    """A taken port is one sentence and its own exit code."""
    (taken,) = _listen("127.0.0.1", 0)
    taken.listen()
    with pytest.raises(CannotStart, match="another gateway running") as caught:
        _listen("127.0.0.1", taken.getsockname()[1])
    taken.close()
    assert caught.value.code == 98


def test_a_host_that_is_none() -> None:
    """A host that is no address is one sentence and that exit code too."""
    with pytest.raises(CannotStart, match="cannot listen on") as caught:
        _listen("no.such.host.invalid", 1)
    assert caught.value.code == 98


def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of a family that the kernel does not have is one sentence, not a traceback."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(CannotStart, match="Address family not supported") as caught:
        _listen("::", 1)
    assert caught.value.code == 98


async def test_a_proxy_that_cannot_be_used(tmp_path: Path) -> None:
    """A proxy of another kind is one sentence too."""
    known = {"PENSTOCK_DATA_DIR": str(tmp_path), "HTTPS_PROXY": "socks5://far:1080"}
    with pytest.raises(CannotStart, match=r"^HTTPS_PROXY: a proxy must be") as caught:
        await open_runtime(load(None, known).config, read_environment(known), known)
    assert caught.value.code == 1


@pytest.mark.parametrize(("signals", "shared"), [(1, False), (2, False), (2, True)])
async def test_sigterm(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: int, *, shared: bool
) -> None:
    """SIGTERM: readiness says 503, an open stream finishes (or, at a second signal, ends with an error), rows are kept.

    One of several workers may be sent the same signal twice, by its supervisor and by whoever started that.
    """
    known = {
        "PENSTOCK_DATA_DIR": str(tmp_path),
        "PENSTOCK_DRAIN_DELAY": "60",
        "PENSTOCK_DRAIN_TIMEOUT": "600",
    }
    was_asked, until = asyncio.Event(), app._until

    async def until_asked(event: asyncio.Event, seconds: float) -> None:
        """The delay is over when its readiness was asked."""
        await (was_asked.wait() if seconds == 60 else until(event, seconds))

    monkeypatch.setattr(app, "_until", until_asked)
    path = tmp_path / "config.yaml"
    path.write_text(config_for(provider))
    rt = await open_runtime(load(path, known).config, read_environment(known), known)
    first, *rest = chat_events("a")
    provider.will(events([first, None, *rest]))
    port, ready = free_port(), asyncio.Event()
    serving = asyncio.get_running_loop().create_task(
        serve(rt, host="127.0.0.1", port=port, ready=ready, shared=shared)
    )
    await ready.wait()
    url = f"http://127.0.0.1:{port}"
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with aiohttp.ClientSession() as session:
        stream = await session.post(f"{url}/v1/chat/completions", json=body)
        await stream.content.readuntil(b"\n\n")
        os.kill(os.getpid(), signal.SIGTERM)
        while not rt.draining:
            await asyncio.sleep(0.001)
        async with session.get(f"{url}/health/readiness") as answer:
            assert answer.status == 503
        async with session.get(f"{url}/health/liveness") as answer:
            assert answer.status == 200
        was_asked.set()
        if signals == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        is_cut_off = signals == 2 and not shared
        if is_cut_off:
            with pytest.raises(aiohttp.ClientPayloadError):
                await stream.read()
        else:
            provider.gate.set()
            assert (await stream.read()).endswith(b"data: [DONE]\n\n")
        await serving
    assert rt.impatient.is_set() == is_cut_off
    records = (await open_runtime(load(path, known).config, read_environment(known), known)).records
    rows = await records.rows(LedgerQuery())
    await records.close()
    assert [row.status for row in rows] == ["failure" if is_cut_off else "success"]


async def test_what_is_owed_is_sent(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain waits for a client that has not read all of an answer, which would be lost with the process. When the time is over,
    what comes on a connection that was kept is refused at once, has its row, and no provider is asked.
    """
    runners: list[Runner] = []

    class Seen(Runner):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            runners.append(self)

    monkeypatch.setattr(app, "Runner", Seen)
    known = {"PENSTOCK_DATA_DIR": str(tmp_path), "PENSTOCK_DRAIN_TIMEOUT": "600"}
    path = tmp_path / "config.yaml"
    path.write_text(config_for(provider))
    rt = await open_runtime(load(path, known).config, read_environment(known), known)
    provider.will(whole(chat_answer("x" * 30_000)))
    port, ready = free_port(), asyncio.Event()
    loop = asyncio.get_running_loop()
    serving = loop.create_task(serve(rt, host="127.0.0.1", port=port, ready=ready))
    await ready.wait()
    (runner,) = runners
    request = written("/v1/chat/completions", {"model": "gpt-4o", "messages": []})
    late, late_writer = await asyncio.open_connection("127.0.0.1", port)
    late_writer.write(request)
    assert (await receive(late)).status == 200
    with socket.socket() as slow:
        slow.setblocking(False)
        await loop.sock_connect(slow, ("127.0.0.1", port))
        answers = 0
        while not runner.owes():
            await loop.sock_sendall(slow, request)
            answers += 1
            await provider.asked(1 + answers)
            while rt.open:
                await asyncio.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait({serving}, timeout=0.3)
        assert (rt.draining, rt.closed, serving.done()) == (True, False, False)
        os.kill(os.getpid(), signal.SIGTERM)
        while not rt.closed:
            await asyncio.sleep(0.001)
        late_writer.write(request)
        refused = await receive(late)
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert "shutting down" in refused.json["error"]["message"]
        late_writer.close()
        got = b""
        while data := await loop.sock_recv(slow, 65_536):
            got += data
        await serving
    assert (got.count(b"HTTP/1.1 200"), got.count(b'"total_tokens": 15}}')) == (answers, answers)
    assert len(provider.requests) == 1 + answers
    records = (await open_runtime(load(path, known).config, read_environment(known), known)).records
    rows = await records.rows(LedgerQuery())
    await records.close()
    told = [(row.http_status, row.reason) for row in rows if row.status != "success"]
    assert (len(rows), told) == (2 + answers, [(503, "shutting_down")])


async def test_a_start_that_fails_leaves_nothing_open(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever keeps the gateway from starting, the store that was opened by then is closed."""
    known = {"PENSTOCK_DATA_DIR": str(tmp_path)}
    monkeypatch.setattr(Keyring, "load", AsyncMock(side_effect=ZeroDivisionError))
    path = tmp_path / "config.yaml"
    path.write_text(config_for(provider))
    closed = []
    close = SqliteRecords.close

    async def noted(self: SqliteRecords) -> None:
        await close(self)
        closed.append(self)

    monkeypatch.setattr(SqliteRecords, "close", noted)
    with pytest.raises(ZeroDivisionError):
        await open_runtime(load(path, known).config, read_environment(known), known)
    assert len(closed) == 1


async def test_what_cannot_be_closed_costs_no_rows(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If a step of the end fails, the steps behind it are taken all the same: the rows are written."""
    path = tmp_path / "config.yaml"
    path.write_text(config_for(provider))
    known = {"PENSTOCK_DATA_DIR": str(tmp_path / "data")}
    rt = await open_runtime(load(path, known).config, read_environment(known), known)

    async def burst() -> None:
        rt.ledger.offer(row("a"))
        raise TimeoutError("timed out closing the connection")

    monkeypatch.setattr(rt.shared, "close", burst)
    port, ready = free_port(), asyncio.Event()
    serving = asyncio.get_running_loop().create_task(serve(rt, host="127.0.0.1", port=port, ready=ready))
    await ready.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await serving
    assert "timed out closing" in caplog.text
    records = (await open_runtime(load(path, known).config, read_environment(known), known)).records
    assert [one.id for one in await records.rows(LedgerQuery())] == ["a"]
    await records.close()


def test_many_files() -> None:
    """The limit of open files is raised as far as it goes, and never lowered."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    now = allow_many_files()
    assert now == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert now >= before
    assert hard in (now, resource.RLIM_INFINITY) or now > hard


async def test_only_gateways_that_share_a_store_talk(
    provider: FakeProvider, tmp_path: Path, redis_url: str
) -> None:
    """With Redis a worker tells other processes of the deployments; alone there is nobody to tell."""
    async with gateway(config_for(provider), tmp_path) as gw:
        assert list(_fleet(gw.rt)) == []
    async with gateway(config_for(provider), tmp_path, {"REDIS_URL": redis_url}) as gw:
        assert [worker.name for worker in _fleet(gw.rt)] == ["fleet"]
        assert b"penstock_fleet_processes 1.0" in await (await gw.get("/metrics")).read()
