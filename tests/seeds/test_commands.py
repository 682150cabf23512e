"""The commands of the documents: `docker run`, the container's own, the local one, and every `curl`, run as they are written.

The image's entry point is `penstock`, so what follows an image's name is its arguments; a port is one that is free here, and a
mounted file is found where it lies.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
from pathlib import Path

import pytest

from tests.e2e.process import COMMAND, environment, penstock
from tests.harness import FakeProvider, gateway
from tests.ports import free_port
from tests.seeds.commands import CURL, Answer, aimed, by_curl, curl, interpreted
from tests.seeds.deployment import MASTER_KEY, answer, authorization, environ_for, moved, question
from tests.seeds.deployment import written as as_written
from tests.seeds.documents import SHELVES, Shelf
from tests.seeds.test_routing import BOTS

# -- curl ------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("A17", "A19", "C4", "C7", "D6", "D7", "D8")
@pytest.mark.parametrize("heading", ["Service-to-Service", "OpenAI", "Anthropic", "Azure", "Vertex"])
async def test_without_any_configuration(
    provider: FakeProvider, tmp_path: Path, seeds: Shelf, heading: str
) -> None:
    """A provider's variables and a master key alone: each command of that provider is answered, bare names too."""
    blocks = [
        block for block in seeds[0].under(heading) if block.heading.startswith((heading, "Google " + heading))
    ]
    told = {name: value for block in blocks for name, value in block.environ.items()}
    environ = moved(told or {"OPENAI_API_KEY": "sk-of-openai"}, provider, tmp_path)
    commands = [command for block in blocks for command in block.curls]
    assert commands
    async with gateway(None, tmp_path, environ | {"LITELLM_MASTER_KEY": MASTER_KEY}) as gw:
        for command in commands:
            got = await curl(command, gw.url, MASTER_KEY)
            assert got.status == 200, got.text
            if "-d" in command:
                assert got.json["model"] == asked_model(command)


def asked_model(command: str) -> str:
    """The model in a command's body."""
    name: str = json.loads(command.partition("-d '")[2].rpartition("'")[0])["model"]
    return name


@pytest.mark.rows("B22", "B42", "D1", "D6", "D7", "D23", "L1")
async def test_the_commands_of_the_blueprint(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """The blueprint is a configuration; its commands are answered, those without a key as long as no key is set."""
    models = seeds[2].block("json", "Configure Models")
    listing, chat = seeds[2].block("bash", "Test API").curls
    (health,) = seeds[2].under("Health Check", "bash")[0].curls
    (messages,) = seeds[2].block("bash", "Provider API Errors").curls
    environ = environ_for(models, provider)
    async with gateway(models.text, tmp_path, environ) as gw:
        for command in (listing, chat, health, messages):
            assert (await curl(command, gw.url)).status == 200
    keyed = seeds[2].block("yaml", "Budget Control")
    (tmp_path / "b").mkdir()
    bare = moved({"ANTHROPIC_API_KEY": "sk-ant-of-anthropic"}, provider, tmp_path)
    key = keyed.data["general_settings"]["master_key"]
    async with gateway(keyed.text, tmp_path / "b", bare) as gw:
        got = [await curl(command, gw.url, key) for command in (listing, chat, health, messages)]
        assert [one.status for one in got] == [401, 200, 200, 200]


@pytest.mark.rows("D1", "D6", "D12")
async def test_the_commands_for_debugging(
    provider: FakeProvider, tmp_path: Path, seeds: Shelf, database_url: str
) -> None:
    """Health and models with the master key, metrics without one."""
    block = seeds[3].block("yaml", "Model Configuration")
    environ = environ_for(block, provider, database_url)
    key = authorization(block, environ)["authorization"].removeprefix("Bearer ")
    async with gateway(as_written(block, provider), tmp_path, environ) as gw:
        for command in seeds[3].block("bash", "Debug Commands").curls:
            assert (await curl(command, gw.url, key)).status == 200


@pytest.mark.rows("D2", "D7", "D13", "D15", "L1")
async def test_the_commands_of_the_bots(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """First without a master key, then with one: what is open stays open, and keys are handed out."""
    exported = next(block for block in seeds[4].under("Local Testing", "bash") if block.environ)
    environ = moved(exported.environ, provider, tmp_path)
    commands = {path_of(command): command for block in seeds[4].blocks for command in block.curls}
    async with gateway(BOTS.text, tmp_path, environ) as gw:
        for path in ("/health", "/v1/models", "/v1/chat/completions", "/metrics"):
            assert (await curl(commands[path], gw.url)).status == 200, path
        assert (await curl(commands["/health"], gw.url)).json["status"] == "healthy"
    (tmp_path / "b").mkdir()
    async with gateway(BOTS.text, tmp_path / "b", environ | {"LITELLM_MASTER_KEY": MASTER_KEY}) as gw:
        for path in ("/health", "/key/info", "/key/generate", "/metrics"):
            assert (await curl(commands[path], gw.url, MASTER_KEY)).status == 200, path
        assert (await curl(commands["/v1/chat/completions"], gw.url)).status == 401


def path_of(command: str) -> str:
    """Where a command asks."""
    found = re.search(r"https?://[^/\s]+(/\S*)", command)
    return found[1] if found else "/"


@pytest.mark.parametrize("command", sorted({c for shelf in SHELVES for c in shelf.curls}) if CURL else [])
async def test_what_is_interpreted_is_what_curl_sends(provider: FakeProvider, command: str) -> None:
    """Where there is no curl, the same request goes out: method, path, headers that count, and body."""
    environ = {"LITELLM_MASTER_KEY": MASTER_KEY, "ANTHROPIC_API_KEY": MASTER_KEY}
    for run in (by_curl, interpreted):
        assert isinstance(await run(aimed(command, provider.url, MASTER_KEY), environ), Answer)
    first, second = provider.requests
    assert (first.method, first.path, first.body) == (second.method, second.path, second.body)
    for name in ("content-type", "authorization", "x-api-version"):
        assert first.headers.get(name) == second.headers.get(name)


# -- processes -------------------------------------------------------------------------------------------------------

MOUNTED = """\
model_list:
  - model_name: gpt-4
    litellm_params: { model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEY }
"""


def runs() -> list[tuple[dict[str, str], list[str]]]:
    """(environment, arguments) of each `docker run` in the documents."""
    found = []
    for shelf in SHELVES:
        for block in shelf.blocks:
            for command in block.docker_runs:
                words = shlex.split(command.replace("\\\n", " "))[2:]
                environ: dict[str, str] = {}
                while words[0].startswith("-"):
                    option, value, *words = words
                    if option == "-e":
                        name, _, text = value.partition("=")
                        environ[name] = text
                found.append((environ, words[1:]))
    return found


@pytest.mark.rows("A3", "B35", "C3", "C4", "C7", "L10")
@pytest.mark.parametrize(("environ", "arguments"), runs(), ids=str)
async def test_docker_run(
    provider: FakeProvider, tmp_path: Path, environ: dict[str, str], arguments: list[str]
) -> None:
    """What a container is given starts it, with its database and Redis away too, and `gpt-4` answers whoever has the key."""
    provider.will(answer)
    (tmp_path / "config.yaml").write_text(MOUNTED)
    words = [word.replace("/app/", "") for word in arguments]
    async with penstock(*words, folder=tmp_path, environ=moved(environ, provider, tmp_path)) as process:
        headers = {"authorization": f"Bearer {environ['LITELLM_MASTER_KEY']}"}
        answered = await process.post("/v1/chat/completions", question("gpt-4"), headers=headers)
        assert (answered.status, (await answered.json())["model"]) == (200, "gpt-4")
        assert (await process.post("/v1/chat/completions", question("gpt-4"))).status == 401
    assert provider.requests[0].json["model"] == ("gpt-4o" if arguments else "gpt-4")
    assert (tmp_path / "config.yaml").read_text() == MOUNTED


@pytest.mark.rows("A10", "C2", "C12", "C13")
async def test_the_containers_command(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """`--config`, `--port` and `--detailed_debug`: it listens there, logs everything, and each request with its cost."""
    (line,) = [line for line in seeds[1].text.splitlines() if "container command" in line]
    port = free_port()
    flags = " ".join(re.findall(r"`(--[^`]+)`", line)).replace("/app/", "").replace("4000", str(port))
    (tmp_path / "config.yaml").write_text(MOUNTED)
    environ = moved({"OPENAI_API_KEY": "sk-of-openai", "LITELLM_HOST": "127.0.0.1"}, provider, tmp_path)
    async with penstock(*flags.split(), folder=tmp_path, environ=environ, port=port) as process:
        assert (await process.post("/chat/completions", question("gpt-4"))).status == 200
        await process.logged('"cost')
        assert "log level DEBUG" in process.log


@pytest.mark.rows("C1")
async def test_the_local_command(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """`litellm --config … --port …`, which the image has as another name of `penstock`, after the document's exports."""
    local = seeds[4].block("bash", "Local Testing")
    (command,) = re.findall(r"(?m)^litellm .*$", local.text)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "litellm").symlink_to(COMMAND)
    (tmp_path / "litellm-config.yaml").write_text(BOTS.text)
    port = free_port()
    environ = moved(local.environ, provider, tmp_path) | {"LITELLM_HOST": "127.0.0.1"}
    known = environment(tmp_path, environ)
    known["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    words = ["bash", "-c", f"exec {command.replace('4000', str(port))}"]
    started = await asyncio.create_subprocess_exec(
        *words, cwd=tmp_path, env=known, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await _listens(port, started)
        got = await interpreted(f"curl http://127.0.0.1:{port}/v1/models", {})
        assert [model["id"] for model in got.json["data"]] == [
            one["model_name"] for one in BOTS.data["model_list"]
        ]
    finally:
        if started.returncode is None:
            started.terminate()
        assert await started.wait() == 0


async def _listens(port: int, process: asyncio.subprocess.Process) -> None:
    while True:
        assert process.returncode is None
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


@pytest.mark.rows("L13")
async def test_the_most_verbose_level_wins(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """`set_verbose` of the file and the variables together make one level, told once."""
    block = seeds[2].block("yaml", "Debugging")
    (tmp_path / "config.yaml").write_text(block.text)
    environ = {"LITELLM_LOG": "ERROR", "LITELLM_LOG_LEVEL": "INFO", "LITELLM_DEBUG": "false"}
    async with penstock("--config", "config.yaml", folder=tmp_path, environ=environ) as process:
        await process.logged("log level DEBUG")
        assert process.log.count("log level ") == 1
