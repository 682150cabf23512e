"""Every asynchronous test here runs twice: on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop

from adapters.types import HttpRequest
from gateway.upstreams import Upstreams


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    """A client with the defaults."""
    client = Upstreams(max_connections=100)
    yield client
    await client.close()


def post(url: str, body: bytes = b"{}", *headers: tuple[str, str], method: str = "POST") -> HttpRequest:
    """A request as an adapter writes it."""
    return HttpRequest(method, url, (("Content-Type", "application/json"), *headers), body)


class Names:
    """What the machine's resolver says, in place of the network: addresses or an error for each name."""

    def __init__(self, known: Callable[..., Awaitable[Any]]) -> None:
        self._known = known
        self.asked: list[str] = []
        self.answers: dict[str, list[tuple[str, int]] | OSError] = {}
        self.silence: asyncio.Event | None = None
        """Nothing is said before it is set."""

    async def getaddrinfo(self, host: str, port: int, **options: Any) -> Any:
        """As the loop's own, for the names that the test has set."""
        self.asked.append(host)
        if self.silence is not None:
            await self.silence.wait()
        answer = self.answers.get(host)
        if answer is None:
            return await self._known(host, port, **options)
        await asyncio.sleep(0)
        if isinstance(answer, OSError):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", end) for end in answer]


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """The running loop's resolver, with names of the test's own."""
    loop = asyncio.get_running_loop()
    names = Names(loop.getaddrinfo)
    monkeypatch.setattr(loop, "getaddrinfo", names.getaddrinfo)
    return names


class Authority:
    """A certificate authority made for these tests, with the openssl command."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cafile = str(folder / "ca.pem")
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=test authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", "ca.key", "-out", "ca.pem",
        )  # fmt: skip

    def context(self, *names: str, days: int = 1) -> ssl.SSLContext:
        """A server's context with a certificate for these names (`DNS:localhost`, `IP:127.0.0.1`)."""
        stem = f"{'-'.join(names)}{days}".replace(":", "_")
        key, request, certificate = f"{stem}.key", f"{stem}.csr", f"{stem}.pem"
        # From Python 3.13 on certificates are checked strictly: they must say who has signed them.
        extensions = f"subjectAltName={','.join(names)}\nauthorityKeyIdentifier=keyid\n"
        (self._folder / f"{stem}.ext").write_text(extensions)
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=test",
            "-keyout", key, "-out", request,
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", str(days), "-extfile", f"{stem}.ext", "-out", certificate,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / certificate, self._folder / key)
        return context

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The tests' own certificate authority."""
    return Authority(tmp_path_factory.mktemp("authority"))
