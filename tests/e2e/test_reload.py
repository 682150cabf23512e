"""The configuration of a running gateway, as its operator changes it: by file, by signal, by request, with several workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.process import Process, penstock, question
from tests.e2e.test_workers import workers
from tests.harness import FakeProvider, chat_events, config_of, entry, events

MASTER = "sk-qz8master-0001"
ADMIN = {"authorization": f"Bearer {MASTER}"}


def mock(folder: Path, model: str, **general: object) -> None:
    """The file with one model that needs no provider."""
    models = [{"model_name": model, "litellm_params": {"model": "openai/demo", "mock_response": "Hello"}}]
    settings = {"master_key": MASTER, **general}
    (folder / "config.yaml").write_text(json.dumps({"model_list": models, "general_settings": settings}))


async def models(process: Process) -> list[str]:
    """What is served; each question comes on a connection of its own, so any worker may answer."""
    answer = await process.get("/v1/models", headers={**ADMIN, "connection": "close"})
    return [model["id"] for model in (await answer.json())["data"]]


async def served(process: Process, model: str, *, times: int = 1) -> None:
    """Wait until this model, and no other, is what `times` answers in a row list."""
    seen = 0
    while seen < times:
        seen = seen + 1 if await models(process) == [model] else 0
        await asyncio.sleep(0.01)


async def metric(process: Process, name: str) -> float:
    """The value of a series without labels."""
    text = await (await process.get("/metrics")).text()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


@pytest.mark.parametrize("count", [1, 2])
async def test_file_signal_and_request(tmp_path: Path, count: int) -> None:
    """A changed file holds by itself; with nobody looking SIGHUP and a request do it; a bad file is told with its lines."""
    mock(tmp_path, "one")
    flags = ("--config", "config.yaml", "--num_workers", str(count))
    async with penstock(*flags, folder=tmp_path) as process, asyncio.timeout(60):
        mock(tmp_path, "two", proxy_config_reload_interval_seconds=0)
        await served(process, "two", times=10 * count)

        mock(tmp_path, "three", proxy_config_reload_interval_seconds=0)
        process.send_signal(signal.SIGHUP)
        await served(process, "three", times=10 * count)

        mock(tmp_path, "four", proxy_config_reload_interval_seconds=0)
        answer = await process.post("/config/reload", {}, headers=ADMIN)
        told = [(one["name"], one["how"]) for one in (await answer.json())["differences"]]
        assert (answer.status, told) == (
            200,
            [("three (openai/demo)", "removed"), ("four (openai/demo)", "added")],
        )
        await served(process, "four", times=10 * count)
        assert await metric(process, "penstock_config_last_reload_successful") == 1

        (tmp_path / "config.yaml").write_text("model_list:\n  - model_name: [\n")
        answer = await process.post("/config/reload", {}, headers=ADMIN)
        problem = (await answer.json())["problems"][0]
        assert (answer.status, problem["file"], problem["line"]) == (400, "config.yaml", 3)
        assert (await process.post("/config/reload", {})).status == 401
        assert await models(process) == ["four"]
        if count == 1:
            assert await metric(process, "penstock_config_last_reload_successful") == 0
            status = await (await process.get("/config/status", headers=ADMIN)).json()
            assert status["last_reload"]["status"] == "failed"
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0


async def test_a_worker_that_is_replaced(tmp_path: Path) -> None:
    """A worker that starts after a reload begins with the configuration of the start, and reloads as soon as it is ready."""
    mock(tmp_path, "one", proxy_config_reload_interval_seconds=0)
    async with (
        penstock("--config", "config.yaml", "--num_workers", "2", folder=tmp_path) as process,
        asyncio.timeout(60),
    ):
        mock(tmp_path, "two", proxy_config_reload_interval_seconds=0)
        process.send_signal(signal.SIGHUP)
        await served(process, "two", times=20)
        os.kill(workers(process)[0], signal.SIGTERM)
        await process.logged("another starts")
        await process.logged("SIGHUP")
        await served(process, "two", times=40)


async def test_streams_go_on(provider: FakeProvider, tmp_path: Path) -> None:
    """Streams that are open while their model goes end whole, while new requests are told that it is gone."""
    provider.will(events([*chat_events("a", done=False), None, *chat_events("b")]))
    base = f"{provider.url}/v1"
    (tmp_path / "config.yaml").write_text(config_of(entry("gone", "openai/gpt-4o", base)))
    async with penstock("--config", "config.yaml", folder=tmp_path) as process, asyncio.timeout(60):
        streams = await asyncio.gather(*(process.stream("gone") for _ in range(50)))
        (tmp_path / "config.yaml").write_text(config_of(entry("new", "openai/gpt-4o", base)))
        await process.logged("gone (openai/gpt-4o) removed; new (openai/gpt-4o) added")
        assert (await process.post("/v1/chat/completions", question("gone"))).status == 404
        provider.gate.set()
        bodies = await asyncio.gather(*(stream.read() for stream in streams))
        assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)
