"""Asking Anthropic: a question in its words, or the client's own with another model. Part of `adapters.anthropic`.

Turns alternate, tool results come first in the user's turn, and empty text is an error: `write_request` merges, sorts
and drops accordingly. Reasoning that nobody signed is not sent back, because Anthropic refuses it. Content is never
dropped otherwise; a field that Anthropic has no word for is refused, unless `Target.drop_params` says to drop it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw

from adapters.base import leaves_out
from adapters.envelope import seal
from adapters.errors import BadRequest, Unsupported
from adapters.types import (
    Address,
    Audio,
    ChatRequest,
    Document,
    Image,
    Message,
    Operation,
    Part,
    Reasoning,
    RedactedThinking,
    Refusal,
    Target,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from adapters.wire import anthropic as wire
from adapters.wire import openai as openai_wire

DEFAULT_MAX_TOKENS = 4096

_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_ANY_OBJECT = msgspec.json.Decoder(dict[str, Any])
_EMPTY_OBJECT = Raw(b"{}")
_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A Messages request.

    Defaults and adjustments, beyond what `Unsupported` refuses: `max_tokens` is the model's limit if the caller names
    none; stop sequences of nothing but whitespace are dropped; where thinking is asked for, `temperature` and `top_k`
    are dropped and `top_p` is if it is below 0.95, because Anthropic allows no other with thinking, and `max_tokens` is
    raised above a thinking budget that it does not exceed.
    """
    body: dict[str, Any] = {"model": target.model, "messages": _write_messages(request.messages)}
    system = [text_block(part) for part in request.system if part.text.strip()]
    if system:
        body["system"] = system
    limit = target.max_output_tokens or DEFAULT_MAX_TOKENS
    body["max_tokens"] = limit if request.max_tokens is None else request.max_tokens
    stop = [text for text in request.stop if text.strip()]
    if stop:
        body["stop_sequences"] = stop
    if request.user:
        body["metadata"] = {"user_id": request.user}
    if request.stream:
        body["stream"] = True
    _write_tools(body, request, target)
    _write_sampling(body, request, target)
    _write_output(body, request, target)
    _write_unspoken(body, request, target)
    body.update(request.extra)
    return seal(_fitted(body, target))


def _fitted(body: dict[str, Any], target: Target) -> dict[str, Any]:
    """The body without what this provider rejects and with its own names."""
    for field in target.provider.rejects:
        value = body.pop(field, None)
        if value not in (None, wire.NULL) and not leaves_out(target, field):
            body[field] = value
    renamed = target.provider.rename
    return {renamed.get(field, field): value for field, value in body.items()} if renamed else body


# -- messages ----------------------------------------------------------------------------------------------------------


def _write_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The turns: those of one role in a row are one, tool results come first in it, and none is empty."""
    turns: list[tuple[str, list[Part]]] = []
    for message in messages:
        if turns and turns[-1][0] == message.role:
            turns[-1][1].extend(message.parts)
        else:
            turns.append((message.role, list(message.parts)))
    written = []
    for role, parts in turns:
        parts.sort(key=lambda part: not isinstance(part, ToolResult))
        content = _write_parts(parts)
        if content:
            written.append({"role": role, "content": content})
    return written


def _write_parts(parts: Iterable[Part]) -> list[dict[str, Any] | Raw]:
    blocks = (_write_part(part) for part in parts)
    return [block for block in blocks if block is not None]


def _write_part(part: Part) -> dict[str, Any] | Raw | None:
    """A block, None for what must be left out: empty text, and reasoning that nobody signed."""
    if isinstance(part, Text):
        return text_block(part) if part.text.strip() else None
    if isinstance(part, Refusal):
        return {"type": "text", "text": part.text} if part.text.strip() else None
    if isinstance(part, Image):
        return _marked({"type": "image", "source": _image_source(part)}, part.cache)
    if isinstance(part, Document):
        return _document_block(part)
    if isinstance(part, Thinking):
        if not part.signature:
            return None
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    if isinstance(part, RedactedThinking):
        return {"type": "redacted_thinking", "data": part.data}
    if isinstance(part, ToolCall):
        ident = tool_id(part.id)
        block = {"type": "tool_use", "id": ident, "name": part.name, "input": input_object(part.arguments)}
        return _marked(block, part.cache)
    if isinstance(part, ToolResult):
        return _tool_result_block(part)
    if isinstance(part, Audio):
        raise Unsupported("Anthropic's format has no audio input", param="messages")
    if part.format != wire.NAME:
        raise Unsupported(
            f"Anthropic's format has no word for a block of the type `{part.kind}`", param="messages"
        )
    return part.raw


def _marked(block: dict[str, Any], cache: Raw | None) -> dict[str, Any]:
    if cache is not None:
        block["cache_control"] = cache
    return block


def text_block(part: Text) -> dict[str, Any]:
    """A `text` block with its citations and cache mark."""
    block: dict[str, Any] = {"type": "text", "text": part.text}
    if part.citations is not None and b'_location"' in bytes(
        part.citations
    ):  # another vendor's are not understood
        block["citations"] = part.citations
    return _marked(block, part.cache)


def _tool_result_block(part: ToolResult) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": tool_id(part.id)}
    content = _write_parts(part.parts)
    if content:
        block["content"] = content
    if part.failed:
        block["is_error"] = True
    return _marked(block, part.cache)


def _image_source(image: Image) -> dict[str, Any]:
    if image.data is not None:
        if image.media_type is None:
            raise Unsupported("Anthropic's format wants to know an image's media type", param="messages")
        kind = "image/jpeg" if image.media_type == "image/jpg" else image.media_type
        return {"type": "base64", "media_type": kind, "data": image.data}
    if image.url is not None:
        return {"type": "url", "url": image.url}
    return {"type": "file", "file_id": image.file_id}


def _document_block(document: Document) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "document", "source": _document_source(document)}
    named = {"title": document.name, "context": document.context, "citations": document.citations}
    block.update({name: value for name, value in named.items() if value is not None})
    return _marked(block, document.cache)


def _document_source(document: Document) -> dict[str, Any]:
    if document.data is not None:
        return {
            "type": "base64",
            "media_type": document.media_type or "application/pdf",
            "data": document.data,
        }
    if document.text is not None:
        return {"type": "text", "media_type": "text/plain", "data": document.text}
    if document.url is not None:
        return {"type": "url", "url": document.url}
    return {"type": "file", "file_id": document.file_id}


def clean(text: str) -> str:
    """Text with the characters that Anthropic allows in ids."""
    return _NOT_IN_ID.sub("_", text)


def tool_id(ident: str) -> str:
    """A tool call's id as Anthropic allows it; the same id always gives the same, and another id another."""
    if not ident or _TOOL_ID.fullmatch(ident):
        return ident
    return f"{clean(ident)}_{hashlib.sha256(ident.encode('utf-8', 'replace')).hexdigest()[:8]}"


def input_object(arguments: str) -> Raw | dict[str, str]:
    """A call's arguments as the object that `input` must be.

    Models do write broken JSON. Anthropic's page on fine-grained tool streaming says how to hand it on:
    https://platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming.
    """
    if not arguments.strip():
        return _EMPTY_OBJECT
    text = arguments.encode("utf-8", "replace")
    return Raw(text) if is_object(text) else {"INVALID_JSON": text.decode()}


def is_object(text: bytes) -> bool:
    """Is this one whole JSON object?"""
    try:
        _ANY_OBJECT.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


# -- tools -------------------------------------------------------------------------------------------------------------


def _write_tools(body: dict[str, Any], request: ChatRequest, target: Target) -> None:
    tools: list[dict[str, Any] | Raw] = []
    for tool in request.tools:
        if isinstance(tool, Tool):
            tools.append(_tool_json(tool))
        elif tool.format == wire.NAME:
            tools.append(tool.raw)
        else:
            leaves_out(target, "tools", what=f"the tool type {tool.kind!r}")
    choice = request.tool_choice
    if tools:
        body["tools"] = tools
    elif choice is None or choice.mode in {"auto", "none"}:
        return  # nothing to choose from
    chosen: dict[str, Any] = {}
    if choice is not None:
        kind = {"auto": "auto", "none": "none", "required": "any", "named": "tool"}[choice.mode]
        chosen = {"type": kind, "name": choice.name} if choice.mode == "named" else {"type": kind}
    if request.parallel_tool_calls is False and chosen.get("type") != "none":
        chosen = {"type": "auto"} | chosen | {"disable_parallel_tool_use": True}
    if chosen:
        body["tool_choice"] = chosen


def _tool_json(tool: Tool) -> dict[str, Any]:
    block: dict[str, Any] = {"name": tool.name, "input_schema": _object_schema(tool.schema)}
    if tool.description is not None:
        block["description"] = tool.description
    if tool.strict:
        block["strict"] = True
    return _marked(block, tool.cache)


def _object_schema(schema: Raw) -> Raw | dict[str, Any]:
    """Anthropic demands `"type":"object"`, other vendors let a tool without parameters have `{}` or null."""
    if schema == wire.NULL:
        return {"type": "object", "properties": {}}
    try:
        opened = _OBJECT.decode(schema)
    except msgspec.DecodeError:
        raise BadRequest("tools: a schema must be a JSON object", param="tools") from None
    return schema if "type" in opened else {"type": "object", "properties": {}, **opened}


# -- how to answer -----------------------------------------------------------------------------------------------------

_WITHOUT_WORD: tuple[tuple[str, Callable[[ChatRequest], bool]], ...] = (
    ("n", lambda request: request.n not in {None, 1}),
    ("logprobs", lambda request: bool(request.logprobs)),
    ("top_logprobs", lambda request: bool(request.top_logprobs)),
    ("seed", lambda request: request.seed is not None),
    ("frequency_penalty", lambda request: bool(request.frequency_penalty)),
    ("presence_penalty", lambda request: bool(request.presence_penalty)),
    ("logit_bias", lambda request: request.logit_bias not in (None, wire.NULL, _EMPTY_OBJECT)),
)


def _write_sampling(body: dict[str, Any], request: ChatRequest, target: Target) -> None:
    for field, is_meant in _WITHOUT_WORD:
        if is_meant(request) and not leaves_out(target, field):
            body[field] = getattr(request, field)
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
    for field, value in sampling.items():
        if value is None:
            continue
        refused = "no_sampling_params" in target.flags
        if not refused or not leaves_out(target, field, why="it takes no sampling parameters"):
            body[field] = value


_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
"""Tokens for an effort, for models that think by budget."""


def _write_output(body: dict[str, Any], request: ChatRequest, target: Target) -> None:
    """Thinking and the answer's shape: `thinking` and `output_config`."""
    config: dict[str, Any] = {}
    reasoning = request.reasoning
    if reasoning is not None:
        if reasoning.mode == "disabled" or reasoning.effort == "none":
            _write_no_thinking(body, config, reasoning, target)
        elif "supports_adaptive_thinking" in target.flags:
            body["thinking"] = {"type": "adaptive", "display": reasoning.display or "summarized"}
            config |= _effort(reasoning)
        else:
            _write_budget(body, reasoning, target)
        if body.get("thinking", {}).get("type") in {"adaptive", "enabled"}:
            _unsample(body)
    wanted = request.response_format
    if wanted is not None and wanted.schema is not None:
        config["format"] = {"type": "json_schema", "schema": wanted.schema}
    elif wanted is not None and not leaves_out(
        target, "response_format", why="it writes JSON to a schema only (`json_schema`)"
    ):
        body["response_format"] = {"type": wanted.kind}
    if config:
        body["output_config"] = config


def _write_no_thinking(
    body: dict[str, Any], config: dict[str, Any], reasoning: Reasoning, target: Target
) -> None:
    """Only models that think adaptively do so unasked; of the others, not all know the word."""
    if "thinking_always_on" in target.flags:
        if not leaves_out(target, "reasoning_effort", why="it always thinks"):
            body["reasoning_effort"] = "none"
        return
    if "supports_adaptive_thinking" in target.flags:
        body["thinking"] = {"type": "disabled"}
    if reasoning.effort not in {None, "none"}:
        config["effort"] = reasoning.effort


def _effort(reasoning: Reasoning) -> dict[str, Any]:
    effort = reasoning.effort
    if effort is None and reasoning.budget is not None:
        fitting = (
            word for word, tokens in _BUDGETS.items() if tokens >= reasoning.budget and word != "minimal"
        )
        effort = next(fitting, "max")
    return {"effort": "low" if effort == "minimal" else effort} if effort else {}


def _write_budget(body: dict[str, Any], reasoning: Reasoning, target: Target) -> None:
    effort = reasoning.effort or "medium"
    if reasoning.budget is None and effort not in _BUDGETS:
        raise BadRequest(f"reasoning_effort: must be one of {', '.join(_BUDGETS)}", param="reasoning_effort")
    budget = reasoning.budget if reasoning.budget is not None else _BUDGETS[effort]
    if body["max_tokens"] <= budget:
        body["max_tokens"] += budget
    if target.max_output_tokens is not None and body["max_tokens"] > target.max_output_tokens:
        body["max_tokens"] = target.max_output_tokens
        budget = min(budget, target.max_output_tokens - 1)
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if reasoning.display is not None:
        body["thinking"]["display"] = reasoning.display


def _unsample(body: dict[str, Any]) -> None:
    body.pop("top_k", None)
    if body.get("temperature") != 1:
        body.pop("temperature", None)
    if body.get("top_p", 1) < 0.95:
        del body["top_p"]


def _write_unspoken(body: dict[str, Any], request: ChatRequest, target: Target) -> None:
    body |= {
        field: value
        for field, value in request.unspoken.items()
        if field in wire.OWN
        or field == "thinking"
        or (field not in openai_wire.HINTS and not leaves_out(target, field))
    }


# -- on its way --------------------------------------------------------------------------------------------------------


def pass_request(envelope: Mapping[str, Raw], target: Target, operation: Operation, *, stream: bool) -> bytes:
    """The client's question with the target's `model`; all other values are the same bytes, known to us or not."""
    body: dict[str, Any] = {**envelope, "model": target.model}
    if stream:
        body["stream"] = True
    return seal(_fitted(body, target))


_PATHS: dict[str, str] = {"chat": "/v1/messages", "count_tokens": "/v1/messages/count_tokens"}


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """`POST {base_url}/v1/messages`; a `base_url` that ends in `/v1` is understood too. Raises `Unsupported`.

    The API version is the client's if it sent one, else the one that the provider's row names, else `wire.VERSION`.
    """
    provider = target.provider
    path = (provider.paths or _PATHS).get(operation)
    if path is None:
        raise Unsupported(f"{provider.name} does not offer {operation}", param="model")
    names = {name: quote(value, safe="") for name, value in {**target.options, "model": target.model}.items()}
    try:
        path = path.format_map(names)
    except KeyError as missing:
        raise Unsupported(
            f"A deployment of {provider.name} needs the option {missing}", param="model"
        ) from None
    base = target.base_url.rstrip("/")
    if path.startswith("/v1/"):
        base = base.removesuffix("/v1")
    sent = {
        "content-type": "application/json",
        "accept": "text/event-stream" if stream else "application/json",
        "anthropic-version": wire.VERSION,
    }
    sent |= {name.lower(): value for name, value in provider.headers.items()}
    sent |= {name.lower(): value for name, value in headers.items()}
    return Address("POST", base + path, tuple(sent.items()))
