"""A gateway with several workers, as its operator meets it: load is shared, workers come and go, the books are whole."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.process import Process, penstock, question, run
from tests.harness import FakeProvider, chat_events, config_for, events
from tests.ports import free_port

TWO = ("--num_workers", "2")


def mock(folder: Path, text: str, **more: object) -> str:
    """A file with a model that needs no provider; its name."""
    params = {"model": "openai/demo", "mock_response": text, **more}
    (folder / "config.yaml").write_text(
        json.dumps({"model_list": [{"model_name": "demo", "litellm_params": params}]})
    )
    return "config.yaml"


def workers(process: Process) -> list[int]:
    """The process ids of its workers."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_gone(pid: int) -> bool:
    """No such process, or nothing left of it but its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def ask(process: Process, count: int = 1) -> None:
    """So many requests, each on a connection of its own."""
    for _ in range(count):
        async with (
            aiohttp.ClientSession() as stranger,
            stranger.post(
                process.url + "/v1/chat/completions", data=json.dumps(question("demo", stream=False))
            ) as answer,
        ):
            assert answer.status == 200


async def metrics(process: Process) -> tuple[int, int]:
    """How many workers `/metrics` speaks for, and how many requests they have counted."""
    async with aiohttp.ClientSession() as stranger, stranger.get(process.url + "/metrics") as answer:
        text = await answer.text()
    requests = re.findall(r"(?m)^penstock_requests_total\{.*\} (\S+)$", text)
    (processes,) = re.findall(r"(?m)^penstock_worker_processes (\S+)$", text)
    return int(float(processes)), int(sum(map(float, requests)))


@pytest.mark.parametrize(("number", "to_all"), [("TERM", False), ("TERM", True), ("INT", True)])
async def test_load_is_shared_and_streams_finish(tmp_path: Path, number: str, *, to_all: bool) -> None:
    """Both workers have streams; after a signal, also one that systemd or a terminal sends to all, each stream ends well."""
    name = mock(tmp_path, "eight words that take their time to arrive", mock_delay=0.3)
    async with penstock("--config", name, *TWO, folder=tmp_path) as process:
        pids = workers(process)
        streams = await asyncio.gather(*(process.stream("demo") for _ in range(60)))
        sent = signal.Signals[f"SIG{number}"]
        for pid in pids if to_all else ():
            os.kill(pid, sent)
        process.send_signal(sent)
        texts = await asyncio.gather(*(answer.text() for answer in streams))
        assert await process.ended() == 0
        rows = process.rows()
        log = process.log
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)
    assert len([text for text in texts if text.endswith("data: [DONE]\n\n")]) == 60
    assert len({row["id"] for row in rows if row["status"] == "success"}) == 60
    had = [int(count) for count in re.findall(r"draining: (\d+) requests are open", log)]
    assert len(had) == 2
    assert all(had)
    assert sum(had) == 60


async def test_what_is_said_at_the_start_is_said_once(tmp_path: Path) -> None:
    """The banner, the level of the log and notices about the configuration come once, whatever the number of workers."""
    environ = {"NUM_WORKERS": "3", "UI_USERNAME": "me"}
    async with penstock("--num_requests", "5", folder=tmp_path, environ=environ) as process:
        assert len(workers(process)) == 3
        assert process.out.count("listens on") == 1
        assert process.log.count("log level") == 1
        assert process.log.count("--num_requests has no meaning here") == 1
        assert process.log.count("UI_USERNAME has no effect yet") == 1
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0


async def test_one_worker_is_one_process(tmp_path: Path) -> None:
    """Without the flag, and with 1, the process that was started serves itself."""
    async with penstock("--num_workers", "1", folder=tmp_path) as process:
        assert workers(process) == []


async def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """After kill -9 the other serves on, another comes, the ledger has all rows and the metrics count on."""
    name = mock(tmp_path, "hi")
    async with penstock("--config", name, *TWO, folder=tmp_path) as process:
        first, second = workers(process)
        await ask(process, 10)
        assert await metrics(process) == (2, 10)
        os.kill(first, signal.SIGKILL)
        await process.logged(f"worker {first} was killed by signal 9")
        await ask(process, 5)
        while (await metrics(process))[0] < 2:
            await asyncio.sleep(0.02)
        await ask(process, 10)
        assert await metrics(process) == (2, 25)
        assert second in workers(process)
        assert first not in workers(process)
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert len(process.rows()) >= 15
        assert process.out.count("listens on") == 1


async def test_a_killed_supervisor_leaves_nobody_behind(tmp_path: Path) -> None:
    """After kill -9 of the supervisor its workers end by themselves, and the port is free."""
    port = free_port()
    listen = ("--host", "127.0.0.1", "--port", str(port))
    name = mock(tmp_path, "hi")
    async with penstock("--config", name, *TWO, *listen, folder=tmp_path, port=port) as process:
        pids = workers(process)
        process.send_signal(signal.SIGKILL)
        await process.ended()
        while not all(is_gone(pid) for pid in pids):
            await asyncio.sleep(0.02)
    async with penstock("--config", name, *TWO, *listen, folder=tmp_path, port=port) as process:
        await ask(process)


async def test_a_second_signal(provider: FakeProvider, tmp_path: Path) -> None:
    """A second signal is handed on: a stream that never ends is cut off with an error, and all end well."""
    provider.will(events(chat_events("one", done=False), end="hang"))
    (tmp_path / "config.yaml").write_text(config_for(provider))
    async with penstock("--config", "config.yaml", *TWO, folder=tmp_path) as process:
        open_stream = await process.stream("gpt-4o")
        text = await open_stream.content.readuntil(b"one")
        process.send_signal(signal.SIGTERM)
        await process.logged("draining: 1 requests are open")
        process.send_signal(signal.SIGTERM)
        with pytest.raises(aiohttp.ClientPayloadError):
            while chunk := await open_stream.content.readany():
                text += chunk
        assert await process.ended() == 0
        assert len(process.rows()) == 1
    assert b"shutting down" in text


@pytest.mark.parametrize(("running", "second"), [(TWO, TWO), (TWO, ()), ((), TWO)])
async def test_the_port_is_shared_with_nobody_else(
    tmp_path: Path, running: tuple[str, ...], second: tuple[str, ...]
) -> None:
    """A second gateway on the port does not start, whichever of the two has several workers."""
    async with penstock(*running, folder=tmp_path) as process:
        port = process.url.rpartition(":")[2]
        listen = ("--host", "127.0.0.1", "--port", port)
        code, out, err = await run(*second, *listen, folder=tmp_path)
    assert (code, out) == (98, "")
    assert err.endswith(
        f"penstock: cannot listen on 127.0.0.1:{port}: Address already in use "
        "(is another gateway running? try --port)\n"
    )


async def test_a_budget_needs_one_counter(tmp_path: Path) -> None:
    """Several workers with a limit and no Redis do not start, and each limit is named with its line; one worker does."""
    (tmp_path / "config.yaml").write_text(
        """\
model_list:
  - model_name: demo
    litellm_params: { model: openai/demo, mock_response: hi, max_parallel_requests: 3, rpm: 10 }
litellm_settings:
  max_budget: 5
general_settings:
  user_rate_limit: null
"""
    )
    flags = ("--config", "config.yaml")
    code, out, err = await run(*flags, *TWO, folder=tmp_path)
    assert (code, out) == (1, "")
    told = "2 workers can share a limit or a budget through Redis only: set REDIS_URL, or run one"
    assert err.splitlines() == [
        f"config.yaml:3:62: {told} (model_list[0].litellm_params.max_parallel_requests)",
        f"config.yaml:5:3: {told} (litellm_settings.max_budget)",
    ]
    async with penstock(*flags, folder=tmp_path) as process:
        await ask(process)
    environ = {"REDIS_URL": "redis://localhost:1"}
    async with penstock(*flags, *TWO, folder=tmp_path, environ=environ) as process:
        await ask(process)


async def test_a_number_of_workers_that_is_none(tmp_path: Path) -> None:
    """NUM_WORKERS must be a number that makes sense."""
    code, _, err = await run(folder=tmp_path, environ={"NUM_WORKERS": "many"})
    assert (code, err) == (
        1,
        'environment: NUM_WORKERS must be a number of processes (1 to 256), not "many"\n',
    )
