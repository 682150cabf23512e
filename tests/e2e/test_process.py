"""The gateway as its operator meets it: how it starts, what it says, how it ends, and what is left in its books."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.process import COMMAND, Process, environment, penstock, question, run
from tests.harness import (
    Asked,
    FakeProvider,
    chat_answer,
    chat_events,
    config_for,
    config_of,
    events,
    hang,
    message_answer,
    message_events,
    whole,
)
from tests.ports import free_port

HERE = Path(__file__).parents[2]
SHIPPED = str(HERE / "config.yaml")
README = (HERE / "README.md").read_text()
CURLS = re.findall(r"(?m)^    (curl (?:.*\\\n)*.*)$", README)
HAS_IPV6 = socket.has_ipv6 and socket.has_dualstack_ipv6()


def write(folder: Path, text: str, name: str = "config.yaml") -> str:
    """A file in the process's working directory; its name."""
    (folder / name).write_text(text)
    return name


def mock(name: str, text: str, **more: object) -> str:
    """A configuration with one model that needs no provider."""
    params = {"model": f"openai/{name}", "mock_response": text, **more}
    return json.dumps({"model_list": [{"model_name": name, "litellm_params": params}]})


def resident(process: Process) -> int:
    """Bytes of memory that a process has now."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


async def pasted(command: str, environ: dict[str, str] | None = None) -> str:
    """What a shell prints when this is pasted into it."""
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        command,
        env={"PATH": os.environ["PATH"], **(environ or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await shell.communicate()
    return out.decode()


# -- the start -------------------------------------------------------------------------------------------------------


async def test_the_shipped_configuration_runs_without_any_key(tmp_path: Path) -> None:
    """With nothing but the shipped config.yaml, /health answers, the models are listed and the demo streams words."""
    async with penstock("--config", SHIPPED, folder=tmp_path) as process:
        health = await (await process.get("/health")).json()
        assert (health["status"], health["models"], health["auth"]) == ("healthy", ["demo"], "disabled")
        listed = await (await process.get("/v1/models")).json()
        assert [model["id"] for model in listed["data"]] == ["demo"]
        whole_answer = await (
            await process.post("/v1/chat/completions", question("demo", stream=False))
        ).json()
        streamed = (await (await process.post("/v1/chat/completions", question("demo"))).text()).split("\n\n")
    assert "penstock" in whole_answer["choices"][0]["message"]["content"]
    assert streamed[-2:] == ["data: [DONE]", ""]
    words = [
        json.loads(event.removeprefix("data: "))["choices"][0]["delta"].get("content", "")
        for event in streamed[:-2]
    ]
    assert "".join(words) == whole_answer["choices"][0]["message"]["content"]
    assert len([word for word in words if word]) > 20


@pytest.mark.parametrize("master_key", ["", "any string will do: 'quoted'"])
async def test_the_banner_can_be_pasted(tmp_path: Path, master_key: str) -> None:
    """The banner has address, models and who may; its command, pasted into a shell, streams."""
    environ = {"LITELLM_MASTER_KEY": master_key} if master_key else {}
    config = mock("it's a model", "one two three")
    async with penstock("--config", write(tmp_path, config), folder=tmp_path, environ=environ) as process:
        assert f"listens on {process.url}\n" in process.out
        assert "    it's a model\n" in process.out
        assert ("OPEN: no master key" in process.out) is not bool(master_key)
        assert master_key == "" or master_key not in process.out
        command = process.out.partition("Try it:\n")[2]
        assert command.strip().startswith("curl -N ")
        if shutil.which("curl"):
            assert "data: [DONE]" in await pasted(command, environ)


async def test_without_models_the_banner_says_so(tmp_path: Path) -> None:
    """With neither file nor keys the gateway runs, says that it has no models, and its command asks for its health."""
    async with penstock(folder=tmp_path) as process:
        assert "NO MODELS" in process.out
        command = process.out.partition("Try it:\n")[2]
        if shutil.which("curl"):
            assert json.loads(await pasted(command))["status"] == "healthy"
        answer = await process.post("/v1/chat/completions", question("gpt-4o"))
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("command", CURLS if shutil.which("curl") else [])
async def test_the_readme_can_be_pasted(tmp_path: Path, command: str) -> None:
    """Each curl of the README works as it stands there, against a gateway with the shipped configuration."""
    async with penstock("--config", SHIPPED, folder=tmp_path) as process:
        told = await pasted(
            command.replace("curl ", "curl -f ").replace("http://localhost:4000", process.url)
        )
    assert len(told) > 1


@pytest.mark.parametrize("code", re.findall(r"(?ms)^```python\n(.*?)^```", README))
async def test_the_readme_as_a_program(provider: FakeProvider, tmp_path: Path, code: str) -> None:
    """Each Python example of the README runs, with either SDK and the other company's model."""
    provider.will(by_path)
    environ = {
        "OPENAI_API_KEY": "sk-a-provider-key",
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "ANTHROPIC_API_KEY": "sk-ant-a-provider-key",
        "ANTHROPIC_BASE_URL": provider.url,
    }
    async with penstock(folder=tmp_path, environ=environ) as process:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code.replace("http://localhost:4000", process.url),
            stdout=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},
        )
        out, _ = await program.communicate()
    assert (program.returncode, out.decode().strip()) == (0, "Hello!")


async def by_path(provider: FakeProvider, asked: Asked) -> None:
    """A provider of both formats: the answer is as the path and the request want it."""
    wants_stream = asked.json.get("stream")
    if asked.path == "/v1/messages":
        await (events(message_events("Hel", "lo!")) if wants_stream else whole(message_answer()))(
            provider, asked
        )
    else:
        await (events(chat_events("Hel", "lo!")) if wants_stream else whole(chat_answer()))(provider, asked)


async def test_idle_memory(tmp_path: Path) -> None:
    """A gateway that has started and answered once is smaller than 80 MB."""
    async with penstock("--config", SHIPPED, folder=tmp_path) as process:
        await process.post("/v1/chat/completions", question("demo", stream=False))
        assert resident(process) < 80_000_000


# -- no configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "sent"),
    [("gpt-4", "gpt-4"), ("openai/gpt-4o", "gpt-4o"), ("gpt-3.5-turbo", "gpt-3.5-turbo"), ("o3", "o3")],
)
async def test_an_openai_key_is_enough(provider: FakeProvider, tmp_path: Path, asked: str, sent: str) -> None:
    """With OPENAI_API_KEY and a master key alone, OpenAI's models answer, bare or with the prefix, to whoever has it."""
    provider.will(whole(chat_answer("Hello!", model=sent)))
    environ = {
        "LITELLM_MASTER_KEY": "dev-key",
        "OPENAI_API_KEY": "sk-the-provider-key",
        "OPENAI_BASE_URL": f"{provider.url}/v1",
    }
    async with penstock(folder=tmp_path, environ=environ) as process:
        refused = await process.post("/v1/chat/completions", question(asked, stream=False))
        answer = await process.post(
            "/v1/chat/completions",
            question(asked, stream=False),
            headers={"authorization": "Bearer dev-key", "content-type": "application/x-www-form-urlencoded"},
        )
        body = await answer.json()
    assert refused.status == 401
    assert (answer.status, body["model"]) == (200, asked)
    assert provider.requests[0].path == "/v1/chat/completions"
    assert provider.requests[0].json["model"] == sent
    assert provider.requests[0].headers["authorization"] == "Bearer sk-the-provider-key"
    assert len(provider.requests) == 1


@pytest.mark.parametrize("asked", ["claude-3-opus", "anthropic/claude-3-opus"])
async def test_an_anthropic_key_is_enough(provider: FakeProvider, tmp_path: Path, asked: str) -> None:
    """With ANTHROPIC_API_KEY alone, Claude answers OpenAI's and Anthropic's clients, bare or with the prefix."""
    provider.will(whole(message_answer("Hello!")))
    environ = {"ANTHROPIC_API_KEY": "sk-ant-the-key", "ANTHROPIC_BASE_URL": provider.url}
    async with penstock(folder=tmp_path, environ=environ) as process:
        chat = await process.post("/v1/chat/completions", question(asked, stream=False))
        messages = await process.post("/v1/messages", {**question(asked, stream=False), "max_tokens": 9})
        assert (await chat.json())["choices"][0]["message"]["content"] == "Hello!"
        assert (await messages.json())["content"][0]["text"] == "Hello!"
    assert [asked.path for asked in provider.requests] == ["/v1/messages", "/v1/messages"]
    assert {asked.headers["x-api-key"] for asked in provider.requests} == {"sk-ant-the-key"}
    assert {asked.json["model"] for asked in provider.requests} == {"claude-3-opus"}


async def test_azure_by_environment(provider: FakeProvider, tmp_path: Path) -> None:
    """AZURE_API_KEY, AZURE_API_BASE with a slash at its end and AZURE_API_VERSION make azure/… answer."""
    provider.will(whole(chat_answer("Hello!")))
    environ = {
        "AZURE_API_KEY": "azure-key",
        "AZURE_API_BASE": f"{provider.url}/",
        "AZURE_API_VERSION": "2024-02-15-preview",
    }
    async with penstock(folder=tmp_path, environ=environ) as process:
        answer = await process.post(
            "/v1/chat/completions", question("azure/your-deployment-name", stream=False)
        )
        assert (await answer.json())["model"] == "azure/your-deployment-name"
    (asked,) = provider.requests
    wanted = "/openai/deployments/your-deployment-name/chat/completions?api-version=2024-02-15-preview"
    assert (asked.path, asked.headers["api-key"]) == (wanted, "azure-key")


async def test_one_model_by_flags(provider: FakeProvider, tmp_path: Path) -> None:
    """`--model openai/… --api_base …` serves that model without any file."""
    provider.will(whole(chat_answer("Hello!")))
    flags = ("--model", "openai/gpt-4o", "--api_base", f"{provider.url}/v1", "--drop_params")
    async with penstock(*flags, folder=tmp_path) as process:
        answer = await process.post("/v1/chat/completions", question("openai/gpt-4o", stream=False))
        assert answer.status == 200


# -- where it listens, who may, what it logs -------------------------------------------------------------------------


@pytest.mark.rows("A2")
@pytest.mark.parametrize("source", ["PORT", "LITELLM_PORT", "--port"])
async def test_the_port(tmp_path: Path, source: str) -> None:
    """The flag goes before LITELLM_PORT, and that before PORT, which hosting platforms set."""
    wanted, other = free_port(), free_port()
    environ = {"LITELLM_HOST": "127.0.0.1", "PORT": str(other)}
    flags: tuple[str, ...] = ()
    if source == "PORT":
        environ["PORT"] = str(wanted)
    else:
        environ["LITELLM_PORT"] = str(wanted if source == "LITELLM_PORT" else other)
    if source == "--port":
        flags = ("--port", str(wanted))
    async with penstock(*flags, folder=tmp_path, environ=environ, port=wanted) as process:
        assert (await process.get("/health/liveliness")).status == 200


@pytest.mark.rows("A1")
@pytest.mark.parametrize("source", ["HOST", "LITELLM_HOST", "--host"])
async def test_the_host(tmp_path: Path, source: str) -> None:
    """The flag goes before LITELLM_HOST, and that before HOST."""
    port, wanted, other = free_port("127.0.0.2"), "127.0.0.2", "127.0.0.3"
    environ = {"LITELLM_PORT": str(port), "HOST": wanted if source == "HOST" else other}
    if source != "HOST":
        environ["LITELLM_HOST"] = wanted if source == "LITELLM_HOST" else other
    flags = ("--host", wanted) if source == "--host" else ()
    async with penstock(*flags, folder=tmp_path, environ=environ, host=wanted, port=port) as process:
        assert f"listens on http://{wanted}:{port}" in process.out
        assert (await run("health", folder=tmp_path, environ=environ))[0] == (0 if source != "--host" else 1)
        there = ("health", "--host", wanted, "--port", str(port))
        assert (await run(*there, folder=tmp_path))[0] == 0


async def test_a_variable_of_the_file_does_not_beat_a_flag(tmp_path: Path) -> None:
    """`environment_variables:` of the configuration is environment: flags win."""
    config = {"environment_variables": {"LITELLM_PORT": str(free_port()), "LITELLM_HOST": "127.0.0.9"}}
    name = write(tmp_path, json.dumps({**json.loads(mock("demo", "hi")), **config}))
    async with penstock("--config", name, folder=tmp_path) as process:
        assert (await process.get("/health")).status == 200


@pytest.mark.rows("A27")
async def test_dotenv(tmp_path: Path) -> None:
    """`.env` of the working directory is read; what the environment has already stays as it is."""
    write(
        tmp_path,
        "LITELLM_MASTER_KEY=from-the-file\nCONFIG_FILE_PATH=config.yaml\nLITELLM_LOG=DEBUG\n",
        ".env",
    )
    write(tmp_path, mock("demo", "hi"))
    async with penstock(folder=tmp_path, environ={"LITELLM_MASTER_KEY": "from-outside"}) as process:
        models = [
            (await process.get("/v1/models", headers={"x-api-key": key})).status
            for key in ("from-the-file", "from-outside")
        ]
        assert models == [401, 200]
        await process.logged("log level DEBUG")


@pytest.mark.rows("A3")
@pytest.mark.parametrize("key", ["dev-key", "x", "0123456789abcdef" * 4, "sk-1234"])
async def test_any_string_is_a_master_key(tmp_path: Path, key: str) -> None:
    """A master key needs no form: whoever has it may, whoever has not may not, and it is never printed or logged."""
    name = write(tmp_path, mock("demo", "hi"))
    async with penstock("--config", name, folder=tmp_path, environ={"LITELLM_MASTER_KEY": key}) as process:
        statuses = [
            (await process.post("/v1/chat/completions", question("demo"), headers=headers)).status
            for headers in ({}, {"authorization": "Bearer wrong-key"}, {"authorization": f"Bearer {key}"})
        ]
        assert statuses == [401, 401, 200]
        health = await (await process.get("/health")).json()
        assert health["auth"] != "disabled"
        await process.rows_written(1)
        if len(key) > 1:
            assert key not in process.out + process.log


async def test_an_empty_master_key_counts_as_none(tmp_path: Path) -> None:
    """LITELLM_MASTER_KEY= leaves the gateway open, with the banner and a line that says why."""
    name = write(tmp_path, mock("demo", "hi"))
    async with penstock("--config", name, folder=tmp_path, environ={"LITELLM_MASTER_KEY": ""}) as process:
        assert (await process.post("/v1/chat/completions", question("demo"))).status == 200
        assert "OPEN: no master key" in process.out
        await process.logged("LITELLM_MASTER_KEY is empty, which counts as not set")


@pytest.mark.parametrize("value", [None, ""])
async def test_a_master_key_that_is_named_must_be_there(tmp_path: Path, value: str | None) -> None:
    """A file that names a master key which the environment lacks is refused with its line: never an open gateway."""
    config = "model_list: []\ngeneral_settings:\n  master_key: os.environ/MY_MASTER_KEY\n"
    name = write(tmp_path, config)
    environ = {} if value is None else {"MY_MASTER_KEY": value}
    code, out, err = await run("--config", name, folder=tmp_path, environ=environ)
    assert (code, out) == (1, "")
    assert err.startswith("config.yaml:3:15: ")
    assert "master_key" in err
    assert "Traceback" not in err


async def test_a_port_in_use(tmp_path: Path) -> None:
    """Where somebody listens already the gateway says so in one line and ends with 98."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = await run("--host", "127.0.0.1", "--port", str(port), folder=tmp_path)
    lines = [line for line in err.splitlines() if not line.startswith("{")]
    assert (code, out, len(lines)) == (98, "", 1)
    assert lines[0].startswith(f"penstock: cannot listen on 127.0.0.1:{port}: Address already in use")


async def test_a_host_that_is_not_ours(tmp_path: Path) -> None:
    """An address of another machine is told in one line too, with the same code."""
    code, _, err = await run("--host", "192.0.2.1", "--port", str(free_port()), folder=tmp_path)
    lines = [line for line in err.splitlines() if not line.startswith("{")]
    assert (code, len(lines)) == (98, 1)
    assert "cannot listen on 192.0.2.1" in lines[0]


async def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Without a place for its books the gateway serves, and says loudly what is lost, in the log and in the banner."""
    write(tmp_path, "", "file")
    name = write(tmp_path, mock("demo", "hi"))
    environ = {"PENSTOCK_DATA_DIR": str(tmp_path / "file" / "data")}
    async with penstock("--config", name, folder=tmp_path, environ=environ) as process:
        assert (await process.post("/v1/chat/completions", question("demo"))).status == 200
        assert "SPEND IS NOT BEING SAVED" in process.out
        await process.logged("SPEND IS NOT BEING SAVED")
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0


@pytest.mark.rows("A10", "A11", "A12", "C13", "L13")
@pytest.mark.parametrize(
    ("flags", "environ", "level"),
    [
        (("--detailed_debug",), {}, "DEBUG"),
        (("--debug",), {}, "DEBUG"),
        ((), {"LITELLM_DEBUG": "true"}, "DEBUG"),
        ((), {"LITELLM_LOG": "ERROR", "LITELLM_LOG_LEVEL": "DEBUG"}, "DEBUG"),
        ((), {"LITELLM_LOG_LEVEL": "INFO", "LITELLM_DEBUG": "false"}, "INFO"),
        ((), {}, "INFO"),
    ],
)
async def test_the_log_level(
    tmp_path: Path, flags: tuple[str, ...], environ: dict[str, str], level: str
) -> None:
    """Flags and variables ask for a level, the most verbose wins, and it is said once."""
    async with penstock(*flags, folder=tmp_path, environ=environ) as process:
        await process.logged(f"log level {level}")
        assert process.log.count("log level") == 1


async def test_a_quiet_log(tmp_path: Path) -> None:
    """LITELLM_LOG=ERROR leaves out the lines of requests that went well, and all other small talk."""
    name = write(tmp_path, mock("demo", "hi"))
    async with penstock("--config", name, folder=tmp_path, environ={"LITELLM_LOG": "ERROR"}) as process:
        await process.post("/v1/chat/completions", question("demo"))
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert process.log == ""


async def test_historic_flags(tmp_path: Path) -> None:
    """Flags of LiteLLM's own server are accepted, each with a line that says that it does nothing."""
    flags = ("--num_requests", "4", "--use_prisma_db_push", "--telemetry", "False", "--run_gunicorn")
    async with penstock(*flags, folder=tmp_path) as process:
        for flag in ("--num_requests", "--use_prisma_db_push", "--telemetry", "--run_gunicorn"):
            await process.logged(f"{flag} has no meaning here and is ignored")


async def test_settings_without_effect_are_told(tmp_path: Path) -> None:
    """Variables that do nothing yet are named in the log: nobody believes in a page that is not there."""
    environ = {"UI_USERNAME": "admin", "UI_PASSWORD": "a-secret-word"}
    async with penstock(folder=tmp_path, environ=environ) as process:
        await process.logged("UI_USERNAME has no effect yet")
        assert "a-secret-word" not in process.log


# -- what is not HTTP ------------------------------------------------------------------------------------------------


async def test_tls_on_the_http_port(tmp_path: Path) -> None:
    """A client that speaks TLS to the port is refused, and the log says so once, as what it is."""
    async with penstock(folder=tmp_path) as process:
        port = int(process.url.rpartition(":")[2])
        for _ in range(3):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())
        await process.logged("speaks TLS to this port")
        assert (await process.get("/health")).status == 200
        assert process.log.count("speaks TLS") == 1
        assert "Traceback" not in process.log


async def test_malformed_http(tmp_path: Path) -> None:
    """A header that no client writes is answered with 400, and logged once without a traceback."""
    async with penstock(folder=tmp_path) as process:
        port = int(process.url.rpartition(":")[2])
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nHo st: x\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
            writer.close()
            await writer.wait_closed()
        await process.logged("sent what is no HTTP request: Invalid header token")
        assert process.log.count("is no HTTP request") == 1
        assert "Traceback" not in process.log


# -- IPv6 ------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("C8")
@pytest.mark.parametrize("railway", [False, True][: 2 if HAS_IPV6 else 0])
async def test_both_families(tmp_path: Path, *, railway: bool) -> None:
    """`--host ::`, and on Railway the default too, answers over IPv4 and IPv6; so does `penstock health`."""
    port = free_port("::")
    environ = (
        {"RAILWAY_PRIVATE_DOMAIN": "litellm.railway.internal", "LITELLM_HOST": "0.0.0.0"} if railway else {}
    )
    flags = ("--port", str(port)) if railway else ("--port", str(port), "--host", "::")
    async with penstock(*flags, folder=tmp_path, environ=environ, host="::1", port=port) as process:
        assert (await process.get("/health")).status == 200
        process.url = f"http://127.0.0.1:{port}"
        assert (await process.get("/health")).status == 200
        asked = {"LITELLM_PORT": str(port), "LITELLM_HOST": "::"}
        assert await run("health", folder=tmp_path, environ=asked) == (0, "healthy\n", "")


@pytest.mark.parametrize("host", ["::1"] if HAS_IPV6 else [])
async def test_ipv6_alone(tmp_path: Path, host: str) -> None:
    """`--host ::1` prints an address that can be used, and `penstock health` finds it."""
    async with penstock(folder=tmp_path, host=host) as process:
        assert f"listens on {process.url}\n" in process.out
        port = process.url.rpartition(":")[2]
        assert await run("health", "--host", host, "--port", port, folder=tmp_path) == (0, "healthy\n", "")


async def test_all_addresses_of_ipv4(tmp_path: Path) -> None:
    """The default, 0.0.0.0, is told as localhost, where its command and `penstock health` find it."""
    port = free_port()
    environ = {"LITELLM_PORT": str(port)}
    async with penstock(folder=tmp_path, environ=environ, port=port) as process:
        assert f"listens on http://localhost:{port}\n" in process.out
        assert await run("health", folder=tmp_path, environ=environ) == (0, "healthy\n", "")


# -- penstock health -------------------------------------------------------------------------------------------------


async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What a mail server does."""
    writer.write(b"220 mail\r\n\r\n")
    writer.close()
    await writer.wait_closed()


async def test_health_says_no(provider: FakeProvider, tmp_path: Path) -> None:
    """`penstock health` ends with 1 where nobody listens, where the answer is 503, and where it is no HTTP."""
    nobody = await run("health", "--port", str(free_port()), folder=tmp_path)
    provider.will(whole({"status": "unhealthy"}, status=503))
    ill = await run("health", "--url", f"{provider.url}/health", folder=tmp_path)
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as mail:
        port = str(mail.sockets[0].getsockname()[1])
        no_http = await run("health", "--port", port, "--host", "127.0.0.1", folder=tmp_path)
    assert [result[0] for result in (nobody, ill, no_http)] == [1, 1, 1]
    assert "Connection refused" in nobody[2]
    assert "answered 503" in ill[2]
    assert all(result[2].startswith("unhealthy: ") and result[2].count("\n") == 1 for result in (nobody, ill))
    assert all("Traceback" not in result[2] for result in (nobody, ill, no_http))


async def test_health_asks_no_proxy(tmp_path: Path) -> None:
    """`penstock health` asks its neighbour itself, also where a proxy is set for the world outside."""
    proxy = f"http://127.0.0.1:{free_port()}"
    async with penstock(folder=tmp_path) as process:
        environ = {"HTTP_PROXY": proxy, "http_proxy": proxy}
        assert (await run("health", "--url", f"{process.url}/health", folder=tmp_path, environ=environ))[
            0
        ] == 0


# -- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_streams_finish(
    provider: FakeProvider, tmp_path: Path, number: signal.Signals
) -> None:
    """After a signal readiness is 503 and nobody new comes in; the open stream ends as if nothing had been."""
    words = chat_events("one", "two", "three")
    provider.will(events([*words[:2], None, *words[2:]]))
    async with penstock("--config", write(tmp_path, config_for(provider)), folder=tmp_path) as process:
        open_stream = await process.stream("gpt-4o")
        first = await open_stream.content.readuntil(b"one")
        readiness = [(await process.get("/health/readiness")).status]
        process.send_signal(number)
        await process.logged("draining: 1 requests are open")
        # on a connection that is open already
        readiness.append((await process.get("/health/readiness")).status)
        async with aiohttp.ClientSession() as stranger:
            with pytest.raises(aiohttp.ClientConnectionError):
                await stranger.get(process.url + "/health")
        provider.gate.set()
        rest = await open_stream.content.read()
        assert await process.ended() == 0
        (row,) = process.rows()
    assert readiness == [200, 503]
    assert (first + rest).endswith(b"data: [DONE]\n\n")
    assert (row["status"], row["output"], row["usage_source"]) == ("success", 3, "reported")


async def test_liveness_while_draining(provider: FakeProvider, tmp_path: Path) -> None:
    """With a drain delay new connections are served until it is over: health 503, liveness 200, models answer."""
    provider.will(whole(chat_answer()))
    environ = {"PENSTOCK_DRAIN_DELAY": "60"}
    name = write(tmp_path, config_for(provider))
    async with penstock("--config", name, folder=tmp_path, environ=environ) as process:
        process.send_signal(signal.SIGTERM)
        await process.logged("draining")
        async with aiohttp.ClientSession() as stranger:
            statuses = []
            for path in ("/health", "/health/readiness", "/health/liveliness"):
                async with stranger.get(process.url + path) as answer:
                    statuses.append(answer.status)
        assert statuses == [503, 503, 200]
        assert (await process.post("/v1/chat/completions", question("gpt-4o", stream=False))).status == 200
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert len(process.rows()) == 1


@pytest.mark.parametrize("impatient", [False, True])
async def test_a_stream_that_never_ends_is_cut_off(
    provider: FakeProvider, tmp_path: Path, *, impatient: bool
) -> None:
    """When the drain time is over, or at the second signal, a stream ends with an error event, unclean; its row stays."""
    provider.will(events(chat_events("one", done=False), end="hang"))
    environ = {"PENSTOCK_DRAIN_TIMEOUT": "600" if impatient else "1"}
    name = write(tmp_path, config_for(provider))
    async with penstock("--config", name, folder=tmp_path, environ=environ) as process:
        open_stream = await process.stream("gpt-4o")
        text = await open_stream.content.readuntil(b"one")
        process.send_signal(signal.SIGTERM)
        if impatient:
            await process.logged("draining")
            process.send_signal(signal.SIGTERM)
        with pytest.raises(aiohttp.ClientPayloadError):
            while chunk := await open_stream.content.readany():
                text += chunk
        assert await process.ended() == 0
        (row,) = process.rows()
    error = json.loads(text.rpartition(b"data: ")[2])["error"]
    assert "shutting down" in error["message"]
    assert b"[DONE]" not in text
    assert (row["status"], row["reason"]) == ("failure", "shutting_down")
    await asyncio.wait_for(provider.connections[0].closed.wait(), 10)


async def test_a_request_that_waits_is_told(provider: FakeProvider, tmp_path: Path) -> None:
    """A request whose provider has not answered when the drain time ends gets a whole 503."""
    provider.will(hang)
    name = write(tmp_path, config_for(provider))
    async with penstock(
        "--config", name, folder=tmp_path, environ={"PENSTOCK_DRAIN_TIMEOUT": "0"}
    ) as process:
        asking = asyncio.get_running_loop().create_task(
            process.post("/v1/chat/completions", question("gpt-4o", stream=False))
        )
        await provider.asked()
        process.send_signal(signal.SIGTERM)
        answer = await asking
        assert (answer.status, (await answer.json())["error"]["type"]) == (503, "server_error")
        assert await process.ended() == 0
        assert [row["reason"] for row in process.rows()] == ["shutting_down"]


async def test_a_hundred_streams_lose_nothing(tmp_path: Path) -> None:
    """SIGTERM under a hundred open streams: all complete, a hundred rows, exit code 0."""
    config = mock("demo", "eight words that take their time to arrive", mock_delay=0.1)
    async with penstock("--config", write(tmp_path, config), folder=tmp_path) as process:
        streams = await asyncio.gather(*(process.stream("demo") for _ in range(100)))
        process.send_signal(signal.SIGTERM)
        texts = await asyncio.gather(*(answer.text() for answer in streams))
        assert await process.ended() == 0
        rows = process.rows()
    assert len([text for text in texts if text.endswith("data: [DONE]\n\n")]) == 100
    assert [row["status"] for row in rows] == ["success"] * 100
    assert len({row["id"] for row in rows}) == 100


async def test_the_ledger_survives_a_kill(tmp_path: Path) -> None:
    """What was written is still there after kill -9, and the next start goes on in the same file."""
    name = write(tmp_path, mock("demo", "hi"))
    async with penstock("--config", name, folder=tmp_path) as process:
        for _ in range(5):
            await process.post("/v1/chat/completions", question("demo"))
        await process.rows_written(5)
        process.send_signal(signal.SIGKILL)
        assert await process.ended() == -signal.SIGKILL
    async with penstock("--config", name, folder=tmp_path) as process:
        await process.post("/v1/chat/completions", question("demo"))
        assert len(await process.rows_written(6)) == 6
        spend = await (await process.get("/spend/logs")).json()
    assert len(spend) == 6


async def test_a_client_that_leaves(provider: FakeProvider, tmp_path: Path) -> None:
    """A stream that its client leaves is closed upstream, and leaves one row with the tokens that were relayed."""
    provider.will(events(chat_events("one ", "two ", done=False), end="hang"))
    async with penstock("--config", write(tmp_path, config_for(provider)), folder=tmp_path) as process:
        open_stream = await process.stream("gpt-4o")
        await open_stream.content.readuntil(b"two ")
        assert not provider.connections[0].closed.is_set()
        open_stream.close()
        await provider.connections[0].closed.wait()
        (row,) = await process.rows_written(1)
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert len(process.rows()) == 1
    assert (row["status"], row["usage_source"]) == ("client_disconnected", "estimated")
    assert row["output"] > 0
    assert row["input"] > 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_closed_standard_streams(tmp_path: Path, closed: str) -> None:
    """Started without one of the standard streams, the gateway serves, and ends as always."""
    port = free_port()
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f"exec {COMMAND} --host 127.0.0.1 --port {port} {closed}",
        env=environment(tmp_path, {}),
        cwd=tmp_path,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        while (await run("health", "--port", str(port), folder=tmp_path))[0]:
            assert shell.returncode is None
    finally:
        shell.terminate()
    assert await shell.wait() == 0


def children(pid: int) -> set[int]:
    """The processes that it has started."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_log_that_nobody_reads(tmp_path: Path, workers: int) -> None:
    """Where stderr takes nothing, a collector that hangs for instance, the gateway serves, replaces what died, and ends with 0."""
    port = free_port()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"-")
    os.set_blocking(writing, True)
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, "--host", "127.0.0.1", "--port", str(port), "--num_workers", str(workers)),
        env=environment(tmp_path, {}),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=writing,
    )
    os.close(writing)
    assert process.stdout
    try:
        assert (await process.stdout.readline()).startswith(b"Penstock")
        if before := children(process.pid):
            os.kill(min(before), signal.SIGKILL)
            while children(process.pid) <= before:
                await asyncio.sleep(0.01)
        assert (await run("health", "--port", str(port), folder=tmp_path))[0] == 0
        process.terminate()
        assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        os.close(reading)


async def test_a_start_that_is_interrupted(tmp_path: Path) -> None:
    """Signals right after the start end the process without a traceback, whatever it was doing."""
    name = write(tmp_path, config_of())
    async with penstock("--config", name, folder=tmp_path) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert "Traceback" not in process.log
