"""What somebody might do on purpose: each of these once stopped the gateway, filled it, or made it tell a lie."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import load
from gateway.config.problems import ConfigInvalid
from gateway.logs import scrub
from tests.harness import (
    FakeProvider,
    Gateway,
    chat_answer,
    chat_events,
    events,
    gateway,
    hang,
    message_events,
    whole,
    written,
)

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


def question(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], **more}


async def test_a_name_that_is_dear_to_search(gw: Gateway) -> None:
    """A key of a body made to cost the redactor the square of its length is refused, and told in short."""
    answer = await gw.post(CHAT, question(**{"aws_" + "-eyJ" * 50_000: 1}))
    assert answer.status == 400
    assert len(await answer.read()) < 1000


@pytest.mark.parametrize("text", ["-eyJ" * 100_000, "eyJ" * 100_000, "sk-" * 100_000, "bearer " * 50_000])
def test_the_redactor_is_linear(text: str) -> None:
    """Text made of beginnings of keys is searched in time."""
    assert len(scrub(text)) <= len(text)


async def test_a_provider_that_says_much(provider: FakeProvider, gw: Gateway) -> None:
    """An error of hundreds of kilobytes is understood by its beginning."""
    provider.will(whole({"error": {"message": "violate violat " * 40_000}}, 400))
    answer = await gw.post(CHAT, question())
    assert answer.status == 400
    assert len(await answer.read()) < 20_000


@pytest.mark.parametrize("body", [{f"k{n}": n for n in range(2000)}, {"x" * 3_000_000: 1}])
async def test_many_keys_and_long_ones(gw: Gateway, body: dict[str, Any]) -> None:
    """Neither thousands of keys nor one of megabytes is repeated to the caller."""
    text = json.dumps(question(**body))[:-1] + ',"model":"twice"}'
    answer = await gw.post(CHAT, text.encode())
    assert answer.status == 400
    assert len(await answer.read()) < 1000


@pytest.mark.parametrize(("path", "model"), [(CHAT, "gpt-4o"), (MESSAGES, "claude")])
async def test_an_end_without_the_last_chunk(
    provider: FakeProvider, gw: Gateway, path: str, model: str
) -> None:
    """Once the terminator has come the answer is whole, however rudely the provider hangs up."""
    told = chat_events("a", "b") if model == "gpt-4o" else message_events("a", "b")
    provider.will(events([b"".join(told)], end="close"))
    for _ in range(10):
        answer = await gw.wire(path, question(model=model, stream=True, max_tokens=5))
        assert answer.complete
        assert b'"error"' not in answer.body
    rows = await gw.rows(10)
    assert {(row.status, row.reason) for row in rows} == {("success", "")}


async def test_answers_that_nobody_reads(provider: FakeProvider, gw: Gateway) -> None:
    """Requests in a pipeline whose answers are not read are not asked for one after the other, and the client is dropped."""
    gw.rt.limits.client_write = 0.3
    provider.will(whole(chat_answer("x" * 1_000_000)))
    host, port = gw.url.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (host, int(port)))
        await loop.sock_sendall(client, written(CHAT, question()) * 30)
        await provider.asked(1)
        while gw.rt.open or len(provider.requests) == 0:
            await asyncio.sleep(0.01)
        assert len(provider.requests) < 30
        received = 0
        try:
            while data := await loop.sock_recv(client, 1_000_000):
                received += len(data)
        except ConnectionResetError:
            pass
    assert received < 30_000_000


async def test_tokens_that_cannot_be(provider: FakeProvider, gw: Gateway) -> None:
    """A provider that reports more tokens than fit into the books leaves a row all the same, with an estimate."""
    usage = {"prompt_tokens": 2**63, "completion_tokens": 1, "total_tokens": 2**63 + 1}
    provider.will(whole(chat_answer("Hi.", usage=usage)))
    assert (await gw.post(CHAT, question())).status == 200
    (row,) = await gw.rows()
    assert row.usage_source == "estimated"
    assert row.input < 1000


async def test_an_impatient_caller_cools_nobody(provider: FakeProvider, tmp_path: Path) -> None:
    """A time-out that a caller asked for says nothing about the provider."""
    provider.will(hang)
    entries = [
        {
            "model_name": "m",
            "litellm_params": {"model": f"openai/{name}", "api_base": provider.url, "api_key": "k"},
        }
        for name in ("a", "b")
    ]
    config = json.dumps({"model_list": entries, "router_settings": {"num_retries": 0}})
    async with gateway(config, tmp_path) as gw:
        answer = await gw.post(CHAT, question(model="m", timeout=0.05))
        assert answer.status == 504
        route = gw.rt.routes.find("m")
        assert route is not None
        assert all(gw.rt.health.is_available(d.id, gw.rt.now()) for d in route.deployments)
        assert all(gw.rt.health.look(d.id).in_flight == 0 for d in route.deployments)


async def test_a_picture_that_is_left(provider: FakeProvider, gw: Gateway) -> None:
    """A client that leaves a question with a large picture in it is not billed for the picture's bytes."""
    provider.will(events(chat_events("a", done=False), end="hang"))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * 500_000}}
    async with gw.connect() as (reader, writer):
        messages = [{"role": "user", "content": [picture]}]
        writer.write(written(CHAT, question(stream=True, messages=messages)))
        await reader.readuntil(b"[{")
    (row,) = await gw.rows()
    assert row.usage_source == "estimated"
    assert 1000 <= row.input < 1100


async def test_request_bytes_are_given_back(provider: FakeProvider, gw: Gateway) -> None:
    """The bytes of a body count from its arrival to the bill, and not longer."""
    provider.will(hang)
    async with gw.connect() as (_, writer):
        writer.write(
            written(CHAT, question(user="x" * 400, messages=[{"role": "user", "content": "x" * 100_000}]))
        )
        await provider.asked()
        assert gw.rt.body_bytes > 100_000
    await gw.rows()
    assert gw.rt.body_bytes == 0


@pytest.mark.parametrize(
    "header",
    [
        {"X-Real-IP": "8.8.8.8"},
        {"CF-Connecting-IP": "8.8.8.8"},
        {"X_FORWARDED_FOR": "8.8.8.8"},
        {"X-Forwarded": "for=8.8.8.8"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_management_through_a_proxy(gw: Gateway, header: dict[str, str]) -> None:
    """In open mode, anything that tells of another machine or another page keeps management shut."""
    assert (await gw.get("/spend/logs")).status == 200
    assert (await gw.get("/spend/logs", headers=header)).status == 403


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ("general_settings: {master_key: 'sk-${NOT_SET}'}", "NOT_SET"),
        (
            "model_list: [{model_name: m, litellm_params: {model: openai/m, api_base: 'http://user:pa55@host/v1'}}]",
            "api_key",
        ),
    ],
)
def test_secrets_in_wrong_places(tmp_path: Path, config: str, word: str) -> None:
    """Half a master key, and a password in an address, are errors; what was secret is not repeated."""
    file = tmp_path / "config.yaml"
    file.write_text(config)
    with pytest.raises(ConfigInvalid) as told:
        load(file, {})
    text = "\n".join(map(str, told.value.problems))
    assert word in text
    assert "pa55" not in text
