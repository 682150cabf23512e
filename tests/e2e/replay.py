"""What is replayed: one exchange of a provider, recorded or written by us, and how to set it up.

A `Replay` has the question as the client asked it, and the answer as the provider gave it, byte for byte. `Playback` is one
gateway in front of one fake provider, for as many replays as there are; each replay has a deployment of its own for each
kind of test (`NAMES`), and none is left out because another test made it fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp

from adapters import CLIENTS, EMBEDDINGS
from adapters.providers import PROVIDERS, located
from adapters.providers import provider as provider_row
from adapters.types import Provider, Target
from gateway.state.records import LedgerQuery, LedgerRow
from tests.harness import Asked, FakeProvider, Gateway, Play, chunk, fake_provider, gateway
from tests.recorded import Recording, recordings

PATHS = {
    ("openai", "chat"): "/v1/chat/completions",
    ("openai", "completions"): "/v1/completions",
    ("openai", "embeddings"): "/v1/embeddings",
    ("anthropic", "chat"): "/v1/messages",
    ("anthropic", "count_tokens"): "/v1/messages/count_tokens",
}
"""Where our clients ask for what."""


@dataclass(frozen=True)
class Replay:
    """One exchange. `row` is the provider's row, `base` the path of its address, `path` where it is to be asked.

    `format` is what the answer is written in, `params` what a deployment of this row needs besides model, address and key.
    """

    name: str
    format: str
    operation: str
    row: str
    base: str
    path: str
    model: str
    status: int
    body: bytes
    is_stream: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    question: bytes | None = None
    question_headers: Mapping[str, str] = field(default_factory=dict)
    api_version: str = ""
    params: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def wants_stream(self) -> bool:
        """Was a stream asked for? (What came may be an error.)"""
        return self.is_stream or json.loads(self.question or b"{}").get("stream") is True

    @property
    def provider(self) -> Provider:
        """The row as it is at this address."""
        return located(PROVIDERS[self.row], f"http://localhost{self.base}", self.api_version)[0]


# -- from recordings -------------------------------------------------------------------------------------------------

_PROVIDERS = (
    *("alibaba", "anthropic", "azure", "bedrock-mantle", "cerebras", "crusoe", "deepseek", "gpustack"),
    *("groq", "heroku", "huggingface", "litellmproxy", "lmstudio", "mistral", "ollama", "openai"),
    *("openrouter", "perplexity", "snowflake", "together", "vllm", "writer", "xai", "zai"),
)
_KINDS = ("chat", "messages", "completions", "embeddings", "count_tokens")
_FOREIGN = ("/api/chat", "/api/generate", "/v1/complete")
"""Ollama's own language and Anthropic's of 2023."""
_ROWS = {
    "alibaba": "dashscope",
    "lmstudio": "lm_studio",
    "vllm": "hosted_vllm",
    "litellmproxy": "litellm_proxy",
    "bedrock-mantle": "bedrock_mantle",
}
"""Folders whose providers' rows have other names."""
_PARAMS = {"bedrock_mantle": {"aws_region_name": "us-east-1"}, "snowflake": {"account_id": "myorg-myaccount"}}
_OF_THE_CONNECTION = ("content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive")
_CROSSING = ("anthropic-version", "anthropic-beta", "openai-beta")


def recorded() -> Iterator[Replay]:
    """Every recording of a provider that speaks OpenAI's or Anthropic's format."""
    for recording in recordings(*_PROVIDERS, kinds=_KINDS):
        is_foreign = urlsplit(str(recording.meta["url"])).path.endswith(_FOREIGN)
        is_task = recording.kind == "embeddings" and recording.provider in EMBEDDINGS
        if not is_foreign and not is_task:
            yield _replay(recording)


def _replay(recording: Recording) -> Replay:
    kind = recording.path.name.split("-")[0]
    operation = "chat" if kind == "messages" else kind
    question = json.loads(recording.request) if recording.request else {}
    row, base, path, version = _address(recording, operation)
    deployment = re.search(r"/deployments/([^/]+)/", path)  # names the model at Azure, whatever the body says
    meta = recording.meta
    headers = headers_of(recording)
    if recording.response_kind == "sse" and headers.get("content-type") == "application/json":
        headers["content-type"] = "text/event-stream"  # openai/completions-stream-n2: its tape says otherwise
    asked = {name.lower(): str(value) for name, value in (meta.get("request_headers") or {}).items()}
    return Replay(
        name=str(recording),
        format="anthropic" if kind in {"messages", "count_tokens"} else "openai",
        operation=operation,
        row=row,
        base=base,
        path=path,
        model=deployment[1] if deployment else str(question.get("model") or meta.get("model") or "a-model"),
        status=recording.status,
        body=recording.response,
        is_stream=recording.response_kind == "sse",
        headers=headers,
        question=recording.request,
        question_headers={name: asked[name] for name in _CROSSING if name in asked},
        api_version=version,
        params=_PARAMS.get(row, {}),
    )


def headers_of(recording: Recording) -> dict[str, str]:
    """What the provider said beside its answer."""
    given = recording.meta.get("response_headers") or {}
    told = {name.lower(): str(value) for name, value in given.items()}
    return {name: value for name, value in told.items() if name not in _OF_THE_CONNECTION}


def _address(recording: Recording, operation: str) -> tuple[str, str, str, str]:
    """(row, path of its base, path that must be asked, API version): what was recorded, as far as that was kept."""
    url = urlsplit(str(recording.meta["url"]))
    path, provider = url.path, recording.provider
    if provider == "azure":
        return _azure_address(recording, operation)
    row = provider_row(_ROWS.get(provider, provider)) or PROVIDERS["custom_openai"]
    if provider == "anthropic" and recording.path.name.startswith("chat"):
        row = PROVIDERS["custom_openai"]  # Anthropic's own endpoint of OpenAI's format
    if provider == "ollama":
        row = located(row, "http://localhost/v1")[0]
    suffix = row.paths[operation]
    if path.endswith(suffix):
        return row.name, path.removesuffix(suffix), path, ""
    # The address was not kept.
    base = "" if suffix.startswith("/v1/") else urlsplit(row.base_url).path or "/v1"
    return row.name, base, base + suffix, ""


def _azure_address(recording: Recording, operation: str) -> tuple[str, str, str, str]:
    url = urlsplit(str(recording.meta["url"]))
    query = f"?{url.query}" if url.query else ""
    suffix = {"chat": "/chat/completions"}.get(operation, f"/{operation}")
    if "/openai/v1/" in url.path:
        return "azure", "/openai/v1", f"/openai/v1{suffix}", ""
    if url.path.startswith("/models/"):
        # The row looks for the host's name to tell Foundry from a model's own server; it may stand in the path.
        base = "/services.ai.azure.com"
        return "azure_ai", base, f"{base}/models{suffix}{query}", ""
    version = parse_qs(url.query)["api-version"][0]
    return "azure", "", url.path.replace("//", "/") + query, version


# -- from transcripts ------------------------------------------------------------------------------------------------

_TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
_BRIEF = b'{ "messages" : [{"role": "user", "content": "\\u0048ello!"}],\n "max_tokens": 1e2, "stream":true }'
_OF_CLIENTS = (*CLIENTS, "mistral", "openrouter")
"""Whose transcripts are in a client's format, at the address of a row."""
_STATUS = {"error.json": 429, "error_auth.json": 401, "error_overloaded.json": 529, "error_context.json": 400}


def transcribed() -> Iterator[Replay]:
    """Every transcript of ours in a client's format: `<name>.json` is a whole answer, `<name>.sse` a stream.

    Streams come twice: the second time with CR LF for LF, to a client that does not ask for usage.
    """
    for file in sorted(file for name in _OF_CLIENTS for file in (_TRANSCRIPTS / name).iterdir()):
        if (
            f"{file.parent.name}/{file.name}" == "mistral/without_terminator.sse"
        ):  # of which nobody knows an error event
            continue
        row = PROVIDERS[file.parent.name]
        base = urlsplit(row.base_url).path
        replay = Replay(
            name=f"transcripts/{file.parent.name}/{file.name}",
            format="anthropic" if row.format == "anthropic" else "openai",
            operation="chat",
            row=row.name,
            base=base,
            path=base + row.paths["chat"],
            model="a-model",
            status=_STATUS.get(file.name, 200),
            body=file.read_bytes(),
            is_stream=file.suffix == ".sse",
            headers={"x-ratelimit-remaining-requests": "7", "x-request-id": "req_ours"},
        )
        yield replay
        if replay.is_stream:
            body = replay.body.replace(b"\n", b"\r\n")
            yield replace(replay, name=f"{replay.name}-crlf", body=body, question=_BRIEF)


# -- both ends -------------------------------------------------------------------------------------------------------

NAMES = ("passed", "translated", "openai-sdk", "anthropic-sdk")
"""The kinds of tests; each replay's public model names begin so."""
PROVIDER_KEY = "sk-the-operators"
CLIENT_KEY = "sk-the-clients"


SCHEMA = {"type": "object", "properties": {"anything": {"type": "string"}}}
"""What the functions take that are offered."""


def public_name(kind: str, replay: Replay) -> str:
    """The model that a client asks for."""
    return f"{kind}:{replay.name}"


def _config(url: str, replays: Sequence[Replay], kinds: Sequence[str]) -> str:
    models: list[dict[str, Any]] = []
    for replay in replays:
        params = {
            "model": f"{replay.row}/{replay.model}",
            "api_base": url + replay.base,
            "api_key": PROVIDER_KEY,
            **replay.params,
        }
        if replay.api_version:
            params["api_version"] = replay.api_version
        models += [
            {"model_name": public_name(kind, replay), "litellm_params": params}
            for kind in kinds
            if kind == kinds[0] or replay.operation == "chat"
        ]
    return json.dumps(
        {"model_list": models, "router_settings": {"num_retries": 0, "disable_cooldowns": True}}
    )


def plain_question(form: str, model: str, *, stream: bool, tools: Sequence[str] = ()) -> dict[str, Any]:
    """The least that a client of this format would ask. `tools` are the functions that it offers."""
    question: dict[str, Any] = {
        "model": model,
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": "Hello!"}],
    }
    offered = [{"name": name, "description": "One of them"} for name in tools]
    if offered and form == "anthropic":
        question["tools"] = [tool | {"input_schema": SCHEMA} for tool in offered]
    elif offered:
        functions = [tool | {"parameters": SCHEMA} for tool in offered]
        question["tools"] = [{"type": "function", "function": function} for function in functions]
    if stream:
        question["stream"] = True
        if form == "openai":
            question["stream_options"] = {"include_usage": True}
    return question


def one_of_each_feature(streams: Sequence[Replay]) -> list[Replay]:
    """The shortest stream for each name but for the number at its end, to be fed byte by byte, if it is not too long for it."""
    found: dict[str, Replay] = {}
    for replay in streams:
        feature = replay.name.rpartition("-")[0] or replay.name
        found[feature] = min(replay, found.get(feature, replay), key=lambda one: len(one.body))
    return [replay for replay in found.values() if len(replay.body) < 30_000]


def answer(replay: Replay, size: int = 0) -> Play:
    """Answer as the provider did. `size` cuts a stream into pieces of so many bytes, each a chunk and a read of its own."""

    async def play(_: FakeProvider, asked: Asked) -> None:
        writer = asked.connection.writer
        kind = "text/event-stream" if replay.is_stream else "application/json"
        framing = (
            {"transfer-encoding": "chunked"} if replay.is_stream else {"content-length": len(replay.body)}
        )
        lines = [f"HTTP/1.1 {replay.status} Recorded"]
        told = {"content-type": kind, **replay.headers, **framing}
        lines += [f"{name}: {value}" for name, value in told.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        if not replay.is_stream:
            writer.write(replay.body)
            return
        step = size or len(replay.body)
        for at in range(0, len(replay.body), step):
            writer.write(chunk(replay.body[at : at + step]))
            await asyncio.sleep(0)  # the reader's turn
        writer.write(b"0\r\n\r\n")

    return play


@dataclass
class Received:
    """What a client got. `is_whole`: the connection said that this was all."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool


class Playback:
    """A gateway, and the provider behind it."""

    def __init__(self, gw: Gateway, provider: FakeProvider) -> None:
        self.gw = gw
        self.provider = provider
        self.requests = 0
        """How many requests were sent; the ledger must have as many rows."""

    def will(self, replay: Replay, size: int = 0) -> None:
        """The provider answers the next request so."""
        self.requests += 1
        self.provider.will(answer(replay, size))

    async def post(
        self, path: str, body: bytes | aiohttp.FormData, headers: Mapping[str, str] | None = None
    ) -> Received:
        """Ask the gateway, and read until the end or the break."""
        own = {"authorization": f"Bearer {CLIENT_KEY}"}
        if isinstance(body, bytes):
            own["content-type"] = "application/json"
        pieces = []
        is_whole = True
        async with self.gw.session.post(
            self.gw.url + path, data=body, headers=own | dict(headers or {})
        ) as response:
            try:
                async for piece in response.content.iter_any():
                    pieces.append(piece)
            except aiohttp.ClientPayloadError:
                is_whole = False
        told = {name.lower(): value for name, value in response.headers.items()}
        return Received(response.status, told, b"".join(pieces), is_whole)

    def target(self, name: str) -> Target:
        """The deployment of a public model name, as the adapters see it."""
        route = self.gw.rt.routes.find(name)
        assert route is not None
        return route.deployments[0].target

    @property
    def asked(self) -> Asked:
        """The last request that reached the provider."""
        return self.provider.requests[-1]

    async def row(self, request_id: str) -> LedgerRow:
        """The row of this request. All requests until now must have exactly one."""
        records = self.gw.rt.records
        while True:
            await self.gw.rt.ledger.drain(timeout=5.0)
            (total,) = await records.totals()
            if total.requests >= self.requests:
                break
            await asyncio.sleep(0.001)
        assert total.requests == self.requests
        (row,) = await records.rows(LedgerQuery(id=request_id))
        return row


@contextlib.asynccontextmanager
async def playing(
    folder: Path, replays: Sequence[Replay], kinds: Sequence[str] = NAMES
) -> AsyncIterator[Playback]:
    """One gateway for all of them, with a deployment of each replay for each kind of test."""
    async with fake_provider() as provider, gateway(_config(provider.url, replays, kinds), folder) as gw:
        yield Playback(gw, provider)
