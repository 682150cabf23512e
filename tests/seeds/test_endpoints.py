"""Paths and shapes that the documents show: health, models, answers, keys, errors; each is what their clients read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.harness import FakeProvider, chat_events, config_for, events, gateway, whole, written
from tests.seeds.commands import python
from tests.seeds.deployment import answer, authorization, environ_for, moved, question
from tests.seeds.deployment import written as as_written
from tests.seeds.documents import Shelf
from tests.seeds.test_routing import BOTS

OPENAI = {"OPENAI_API_KEY": "sk-of-openai", "LITELLM_MASTER_KEY": "key-of-the-operator"}
MASTER = {"authorization": "Bearer key-of-the-operator"}


SERIES = (
    *("input_tokens_metric", "output_tokens_metric", "total_tokens_metric"),
    *("proxy_total_requests_metric", "proxy_failed_requests_metric"),
    *("deployment_success_responses", "deployment_failure_responses"),
    "spend_metric",
)
"""Of the groups that documents name: tokens, requests, deployments, money."""


def shape(value: Any) -> Any:
    """Fields and kinds of a JSON value, of a list those of its first item."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return "number" if isinstance(value, int | float) else type(value).__name__


def is_within(part: Any, whole: Any) -> bool:
    """Whether a shape has all fields of another one, and maybe more."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            name in whole and is_within(part[name], whole[name]) for name in part
        )
    if isinstance(part, list):
        return isinstance(whole, list) and (not part or (bool(whole) and is_within(part[0], whole[0])))
    return bool(part == whole)


# -- health ----------------------------------------------------------------------------------------------------------


@pytest.mark.rows("D1", "D2", "D3", "L2")
async def test_health_without_a_key(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """`status`, and `models` as the document shows them, to anybody, from memory, without an address or an error."""
    shown = seeds[4].block("json", "Health Check").data
    exported = next(block for block in seeds[4].under("Local Testing", "bash") if block.environ)
    async with gateway(BOTS.text, tmp_path, moved(exported.environ, provider, tmp_path)) as gw:
        response = await gw.session.get(f"{gw.url}/health", headers={"x-forwarded-for": "192.0.2.7"})
        assert response.status == 200
        health = await response.json()
    assert {name: health[name] for name in shown} == shown
    assert health["auth"] == "disabled"
    assert {tuple(sorted(one)) for one in health["healthy_endpoints"]} == {("model", "status")}
    assert provider.requests == []


@pytest.mark.rows("D1", "D4", "L2")
async def test_health_with_the_master_key(
    provider: FakeProvider, tmp_path: Path, seeds: Shelf, database_url: str
) -> None:
    """The larger shape: each deployment by its public name with its latency, the version, how long it runs."""
    shown = seeds[3].block("json", "Health Check Response").data
    block = seeds[3].block("yaml", "Model Configuration")
    environ = environ_for(block, provider, database_url)
    headers = authorization(block, environ)
    async with gateway(as_written(block, provider), tmp_path, environ) as gw:
        name = block.data["model_list"][0]["model_name"]
        asked = await gw.post("/v1/chat/completions", question(name, max_tokens=9), headers=headers)
        assert asked.status == 200
        health = await (await gw.get("/health", headers=headers)).json()
    assert is_within(shape(shown), shape(health))
    assert re.fullmatch(r"\d+h \d+m \d+s", health["uptime"])
    first = health["healthy_endpoints"][0]
    assert (first["model"], first["latency_ms"] > 0) == (name, True)
    assert len(provider.requests) == 1


# -- models and chats ------------------------------------------------------------------------------------------------


@pytest.mark.rows("D6", "L1")
async def test_the_list_of_models(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """Without a master key everybody may see it, whatever key they send; with one, who has it."""
    block = seeds[2].block("yaml", "Budget Control")
    for text, headers, status in (
        (None, {}, 200),
        (None, {"authorization": "Bearer dummy-key-of-nobody"}, 200),
        (block.text, {}, 401),
        (block.text, authorization(block, {}), 200),
    ):
        environ = moved({"OPENAI_API_KEY": "sk-of-openai"}, provider, tmp_path)
        async with gateway(text, tmp_path, environ) as gw:
            response = await gw.get("/v1/models", headers=headers)
            assert response.status == status
            if status == 200:
                assert "gpt-4o" in [model["id"] for model in (await response.json())["data"]]


@pytest.mark.rows("D7", "D16", "D17", "B4", "B19")
async def test_a_chat(provider: FakeProvider, tmp_path: Path, seeds: Shelf, database_url: str) -> None:
    """The request as it is shown gets an answer as it is shown; what the entry says holds where the request says nothing."""
    block = seeds[3].block("yaml", "Model Configuration")
    body = seeds[3].block("json", "API Request Schema").data
    shown = seeds[3].block("json", "API Response Schema").data
    environ = environ_for(block, provider, database_url)
    headers = authorization(block, environ)
    params = block.data["model_list"][0]["litellm_params"]
    async with gateway(as_written(block, provider), tmp_path, environ) as gw:
        answered = await gw.post("/v1/chat/completions", body, headers=headers)
        bare = {"model": body["model"], "messages": body["messages"]}
        assert (await gw.post("/v1/chat/completions", bare, headers=headers)).status == 200
        told = await answered.json()
    assert answered.status == 200
    assert is_within(shape(shown), shape(told))
    assert (told["model"], told["object"]) == (shown["model"], "chat.completion")
    assert told["id"].startswith("chatcmpl-")
    first, second = (asked.json for asked in provider.requests)
    assert {name: first[name] for name in ("messages", "temperature", "max_tokens")} == {
        name: body[name] for name in ("messages", "temperature", "max_tokens")
    }
    assert (second["temperature"], second["max_tokens"]) == (params["temperature"], params["max_tokens"])


@pytest.mark.rows("B19")
async def test_drop_params(provider: FakeProvider, tmp_path: Path, seeds: Shelf, database_url: str) -> None:
    """`drop_params` leaves out what the provider has no word for; without it that is a 400."""
    block = seeds[2].block("yaml", "litellm.yaml Structure")
    name = block.data["model_list"][0]["model_name"]
    body = question(name, max_tokens=9, logit_bias={"1": 2})
    text = re.sub(r"(?m)^  redis_\w+:.*\n", "", as_written(block, provider, database_url))
    for number, (told, status) in enumerate(((text, 200), (text.replace("drop_params: true", ""), 400))):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with gateway(told, folder, environ_for(block, provider)) as gw:
            response = await gw.post("/v1/chat/completions", body)
            assert response.status == status
            assert ("logit_bias" in response.headers.get("x-penstock-dropped-params", "")) == (status == 200)


@pytest.mark.rows("D8")
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_no_content_type(provider: FakeProvider, tmp_path: Path, kind: str) -> None:
    """A body that is JSON is read as JSON, whatever its sender calls it."""
    headers = {"content-type": kind} if kind else {}
    async with gateway(config_for(provider), tmp_path) as gw:
        answered = await gw.wire("/v1/chat/completions", question("gpt-4o"), headers)
        assert (answered.status, answered.json["model"]) == (200, "gpt-4o")


@pytest.mark.rows("D9", "D10")
@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_paths(provider: FakeProvider, tmp_path: Path, prefix: str) -> None:
    """Chats, completions and embeddings answer with and without `/v1`."""
    async with gateway(None, tmp_path, moved(OPENAI, provider, tmp_path)) as gw:
        for path, body in (
            ("/chat/completions", question("gpt-4o")),
            ("/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "Good"}),
            ("/embeddings", {"model": "text-embedding-3-small", "input": "Good"}),
        ):
            answered = await gw.post(prefix + path, body, headers=MASTER)
            assert (answered.status, (await answered.json())["model"]) == (200, body["model"])


@pytest.mark.rows("D20")
async def test_a_stream(provider: FakeProvider, tmp_path: Path) -> None:
    """`stream: true` gives events that end with `[DONE]`, under the name that was asked for."""
    provider.will(events(chat_events("Good ", "morning")))
    async with gateway(config_for(provider), tmp_path) as gw:
        text = await (await gw.post("/v1/chat/completions", question("gpt-4o", stream=True))).text()
    told = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    assert told[-1] == "[DONE]"
    assert {json.loads(event)["model"] for event in told[:-1]} == {"gpt-4o"}


@pytest.mark.rows("D21")
async def test_behind_a_proxy(provider: FakeProvider, tmp_path: Path) -> None:
    """Whatever name the reverse proxy has, and whatever it adds, the request is answered."""
    body = question("gpt-4o")
    for host in ("litellm.example.org", "llm.tail.ts.net", "gateway-production-0339.up.railway.app"):
        async with gateway(config_for(provider), tmp_path) as gw, gw.connect() as (reader, writer):
            added = {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https", "x-forwarded-host": host}
            request = written("/v1/chat/completions", body, added).replace(
                b"host: localhost", f"host: {host}".encode()
            )
            writer.write(request)
            assert b" 200 " in await reader.readline()


@pytest.mark.rows("D22", "D7", "L1")
async def test_a_program(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """The document's program with OpenAI's SDK, without `/v1` and with a key that means nothing, prints the answer."""
    (program,) = seeds[4].under("OpenAI SDK", "python")
    exported = next(block for block in seeds[4].under("Local Testing", "bash") if block.environ)
    async with gateway(BOTS.text, tmp_path, moved(exported.environ, provider, tmp_path)) as gw:
        assert (await python(program.text, gw.url)).strip() == "Hello!"


@pytest.mark.rows("D23", "L20")
@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_messages_with_either_header(provider: FakeProvider, tmp_path: Path, header: str) -> None:
    """Anthropic's path takes a key in both headers and asks for no `anthropic-version`."""
    environ = moved({**OPENAI, "ANTHROPIC_API_KEY": "sk-ant-of-anthropic"}, provider, tmp_path)
    key = "Bearer key-of-the-operator" if header == "authorization" else "key-of-the-operator"
    body = question("claude-3-5-sonnet-20241022", max_tokens=10)
    async with gateway(None, tmp_path, environ) as gw:
        answered = await gw.post("/v1/messages", body, headers={header: key, "x-api-version": "2023-06-01"})
        assert (answered.status, (await answered.json())["type"]) == (200, "message")
        assert (await gw.post("/v1/messages", body)).status == 401
    assert provider.requests[0].headers["x-api-key"] == "sk-ant-of-anthropic"
    assert provider.requests[0].headers["anthropic-version"] == "2023-06-01"


# -- metrics, keys, pages --------------------------------------------------------------------------------------------------------


@pytest.mark.rows("D12", "L3")
@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
async def test_metrics(provider: FakeProvider, tmp_path: Path, path: str) -> None:
    """Prometheus' format at both paths, without a key and a redirect, unless the configuration closes it."""
    provider.will(answer, whole(b"{}", 400))
    async with gateway(None, tmp_path, moved(OPENAI, provider, tmp_path)) as gw:
        for status in (200, 400):
            asked = await gw.post("/v1/chat/completions", question("gpt-4o"), headers=MASTER)
            assert asked.status == status
        await gw.rows(2)
        response = await gw.get(path, allow_redirects=False)
        assert response.status == 200
        told = await response.text()
    for series in SERIES:
        assert re.search(rf"(?m)^litellm_{series}_total{{.*}} [0-9.e-]*[1-9]", told), series
    closed = "litellm_settings: { require_auth_for_metrics_endpoint: true }"
    (tmp_path / "b").mkdir()
    async with gateway(closed, tmp_path / "b", OPENAI) as gw:
        assert (await gw.get(path)).status == 401
        assert (await gw.get(path, headers=MASTER)).status == 200


@pytest.mark.rows("D13")
async def test_about_the_master_key(tmp_path: Path) -> None:
    """`/key/info` with the master key alone is an answer about it, without a database."""
    async with gateway(None, tmp_path, OPENAI) as gw:
        answered = await gw.get("/key/info", headers=MASTER)
        assert answered.status == 200
        assert "info" in await answered.json()
        assert "key-of-the-operator" not in await answered.text()
        assert (await gw.get("/key/info")).status == 401


@pytest.mark.rows("B39", "L21")
@pytest.mark.parametrize("section", ["", "general_settings", "litellm_settings", "environment"])
async def test_allowed_origins(provider: FakeProvider, tmp_path: Path, section: str) -> None:
    """`allowed_origins` at each of its places lets that page in and no other; it has nothing to do with `allowed_ips`."""
    told: dict[str, Any] = {"allowed_origins": ["https://page.example"]}
    if section:
        told = {section: told}
    if section == "general_settings":
        told[section]["allowed_ips"] = ["*"]
    environ = {"LITELLM_CORS_ORIGINS": "https://page.example"} if section == "environment" else {}
    text = config_for(provider, **({} if environ else told))
    async with gateway(text, tmp_path, environ) as gw:
        for origin, wanted in (("https://page.example", "https://page.example"), ("https://b.example", None)):
            answered = await gw.post("/v1/chat/completions", question("gpt-4o"), headers={"origin": origin})
            assert answered.status == 200
            assert answered.headers.get("access-control-allow-origin") == wanted


@pytest.mark.rows("A28")
async def test_templates_of_values(provider: FakeProvider, tmp_path: Path) -> None:
    """`${NAME}` and `${NAME:-default}` in a value are the variable's, as `os.environ/NAME` is."""
    text = config_for(provider).replace('"sk-provider-key"', '"${A_KEY_OF_OURS}"', 1)
    text = text.replace('"openai/gpt-4o-2024-08-06"', '"openai/${A_MODEL:-gpt-4o-mini}"')
    async with gateway(text, tmp_path, {"A_KEY_OF_OURS": "sk-of-the-template"}) as gw:
        assert (await gw.post("/v1/chat/completions", question("gpt-4o"))).status == 200
    assert provider.requests[0].headers["authorization"] == "Bearer sk-of-the-template"
    assert provider.requests[0].json["model"] == "gpt-4o-mini"
