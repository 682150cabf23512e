"""Asking Bedrock's Converse. Part of `adapters.bedrock`.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html. One format for the models of many
vendors: messages and tools are the same for all, and what only one vendor's models know stands apart, in
`additionalModelRequestFields`. So the writer asks whose model it is (`family`) where it must know: how to ask for
reasoning, for `top_k`, and whether prompt-cache marks are understood.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from adapters import anthropic_questions
from adapters.anthropic_questions import input_object, is_object
from adapters.base import leaves_out
from adapters.bedrock_answers import redacted_blob
from adapters.envelope import seal
from adapters.errors import BadRequest, Unsupported
from adapters.types import (
    Address,
    Audio,
    ChatRequest,
    Document,
    Image,
    Message,
    Opaque,
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
from adapters.wire import anthropic as anthropic_wire
from adapters.wire import bedrock as wire
from adapters.wire import openai as openai_wire

_OBJECT = msgspec.json.Decoder(dict[str, Any])
_TEXT = msgspec.json.Decoder(str)
_EMPTY_OBJECT = Raw(b"{}")

_FAMILY = re.compile(
    r"(?:^|[./])(anthropic|amazon|meta|mistral|cohere|ai21|openai|deepseek|qwen|stability|writer|moonshotai?|minimax"
    r"|google|nvidia|zai|twelvelabs|xai)\."
)
_SPELLINGS = (("claude", "anthropic"), ("nova", "amazon"), ("llama", "meta"), ("gpt-oss", "openai"))


def family(target: Target) -> str:
    """Whose model that is: `anthropic`, `amazon` …; empty if the name does not say, as those of some profiles.

    The option `bedrock_family` says it of those: it comes from names like `bedrock/llama/arn:…`.
    """
    if "bedrock_family" in target.options:
        return target.options["bedrock_family"]
    found = _FAMILY.search(target.model)
    if found is not None:
        return found[1]
    name = target.model.lower()
    return next((owner for word, owner in _SPELLINGS if word in name), "")


# -- the request -------------------------------------------------------------------------------------------------------


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A Converse request.

    Adjustments, beyond what `Unsupported` refuses: empty text is left out, as is reasoning that nobody signed; where the
    conversation has tool calls and the request no tools, the tools that were called are named again, because Bedrock
    demands it; cache marks are left out for models that know none. For Claude, limits and sampling are adjusted as in
    `adapters.anthropic_questions.write_request`.
    """
    writer = _Messages(target)
    body: dict[str, Any] = {"messages": writer.turns(request.messages)}
    system = writer.texts(request.system)
    if system:
        body["system"] = system
    inference: dict[str, Any] = {}
    fields: dict[str, Any] = {}  # what the model's own vendor calls what Converse has no word for
    if family(target) == "anthropic":
        _sample_claude(inference, fields, request, target)
    else:
        _sample(inference, fields, request, target)
    if inference:
        body["inferenceConfig"] = inference
    _write_tools(body, fields, request, target)
    _write_format(body, fields, request, target)
    _write_unspoken(body, fields, request, target)
    _add_extra(body, fields, request.extra)
    if fields:
        body["additionalModelRequestFields"] = fields
    return seal(body)


def _add_extra(body: dict[str, Any], fields: dict[str, Any], extra: Mapping[str, Raw]) -> None:
    """The caller's own fields: Converse's beside ours, all others for the model."""
    for name, value in extra.items():
        if name not in wire.TOP_LEVEL:
            fields[name] = value
        elif name in wire.MERGED and is_object(bytes(value)):
            into = fields if name == "additionalModelRequestFields" else body.setdefault(name, {})
            into.update(_OBJECT.decode(value))
        else:
            body[name] = value


# -- messages ----------------------------------------------------------------------------------------------------------

_IMAGES = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9 ()\[\]-]+")
_TOOL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_CLAUDES_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CACHE_POINT = {"cachePoint": {"type": "default"}}


class _Messages:
    """Writes the turns of one conversation: the names of its documents must differ."""

    def __init__(self, target: Target) -> None:
        self._documents: set[str] = set()
        self._marks = _marks(target)
        self._allowed_id = _CLAUDES_TOOL_ID if family(target) == "anthropic" else _TOOL_ID

    def turns(self, messages: Iterable[Message]) -> list[dict[str, Any]]:
        """Those of one role in a row are one, tool results come first in it, and none is empty."""
        turns: list[tuple[str, list[Part]]] = []
        for message in messages:
            if turns and turns[-1][0] == message.role:
                turns[-1][1].extend(message.parts)
            else:
                turns.append((message.role, list(message.parts)))
        written = []
        for role, parts in turns:
            parts.sort(key=lambda part: not isinstance(part, ToolResult))
            content = self._parts(parts)
            if content:
                written.append({"role": role, "content": content})
        return written

    def texts(self, texts: Iterable[Text]) -> list[dict[str, Any] | Raw]:
        """The system prompt."""
        return self._parts(texts)

    def _parts(self, parts: Iterable[Part]) -> list[dict[str, Any] | Raw]:
        blocks: list[dict[str, Any] | Raw] = []
        for part in parts:
            block = self._part(part)
            if block is not None:
                blocks.append(block)
                mark = getattr(part, "cache", None)
                if mark is not None and self._marks:
                    blocks.append(self.mark(mark))
        return blocks

    def mark(self, cache: Raw) -> dict[str, Any]:
        """A cache mark, which stands behind what it marks."""
        if self._marks == "ttl" and b'"1h"' in bytes(cache):
            return {"cachePoint": {"type": "default", "ttl": "1h"}}
        return _CACHE_POINT

    def _part(self, part: Part) -> dict[str, Any] | Raw | None:
        """A block, None for what must be left out: empty text, and reasoning that nobody signed."""
        if isinstance(part, (Text, Refusal)):
            return {"text": part.text} if part.text.strip() else None
        if isinstance(part, Image):
            return {"image": _image(part)}
        if isinstance(part, Document):
            return {"document": self._document(part)}
        if isinstance(part, Audio):
            return {"audio": {"format": part.format, "source": {"bytes": part.data}}}
        if isinstance(part, Thinking):
            if not part.signature:
                return None
            return {"reasoningContent": {"reasoningText": {"text": part.text, "signature": part.signature}}}
        if isinstance(part, RedactedThinking):
            return {"reasoningContent": {"redactedContent": redacted_blob(part.data)}}
        if isinstance(part, ToolCall):
            call = {"toolUseId": self._id(part.id), "name": part.name, "input": input_object(part.arguments)}
            return {"toolUse": call}
        if isinstance(part, ToolResult):
            return {"toolResult": self._tool_result(part)}
        return _opaque(part)

    def _tool_result(self, part: ToolResult) -> dict[str, Any]:
        content = [block for each in part.parts if (block := self._part(each)) is not None]
        result = {"toolUseId": self._id(part.id), "content": content or [{"json": {}}]}
        return result | {"status": "error"} if part.failed else result

    def _id(self, ident: str) -> str:
        """A tool call's id as the model allows it; the same id always gives the same, and another id another."""
        if self._allowed_id.fullmatch(ident):
            return ident
        digest = hashlib.sha256(ident.encode("utf-8", "replace")).hexdigest()[:8]
        return f"{anthropic_questions.clean(ident)[:50]}_{digest}"

    def _document(self, document: Document) -> dict[str, Any]:
        block: dict[str, Any] = {}
        if document.data is not None:
            block["format"] = _document_format(document)
            block["source"] = {"bytes": document.data}
        elif document.text is not None:
            block["format"] = "txt"
            block["source"] = {"bytes": b64encode(document.text.encode("utf-8", "replace")).decode()}
        elif document.url is not None and document.url.startswith("s3://"):
            block["format"] = _document_format(document)
            block["source"] = {"s3Location": {"uri": document.url}}
        else:
            raise _elsewhere("a document")
        block["name"] = self._name(document.name)
        if document.context:
            block["context"] = document.context
        if document.citations is not None:
            block["citations"] = document.citations
        return block

    def _name(self, name: str | None) -> str:
        """A document's name with the characters that Bedrock allows, another for each document."""
        base = " ".join(_NOT_IN_NAME.sub(" ", name or "").split())[:190] or "Document"
        unique, count = base, 1
        while unique in self._documents:
            count += 1
            unique = f"{base} {count}"
        self._documents.add(unique)
        return unique


def _opaque(part: Opaque) -> Raw:
    if part.format != wire.NAME:
        raise Unsupported(
            f"Converse has no word for a block of the type `{part.kind}`; Claude's own can be used with bedrock/invoke/…",
            param="messages",
        )
    return part.raw


def _elsewhere(what: str) -> Unsupported:
    return Unsupported(
        f"Bedrock fetches nothing from the web: send {what} as base64 data, or name it in S3 (s3://…)",
        param="messages",
    )


def _image(image: Image) -> dict[str, Any]:
    if image.data is not None:
        kind = _IMAGES.get(image.media_type or "")
        if kind is None:
            raise Unsupported(
                f"Bedrock takes images as PNG, JPEG, GIF or WebP, not {image.media_type or 'of an unknown type'}",
                param="messages",
            )
        return {"format": kind, "source": {"bytes": image.data}}
    if image.url is not None and image.url.startswith("s3://"):
        ending = image.url.rpartition(".")[2].lower()
        kind = _IMAGES.get(image.media_type or f"image/{ending}", "png")
        return {"format": kind, "source": {"s3Location": {"uri": image.url}}}
    raise _elsewhere("an image")


def _document_format(document: Document) -> str:
    kind = _DOCUMENTS.get((document.media_type or "").partition(";")[0])
    if kind is None:
        ending = (document.name or document.url or "").rpartition(".")[2].lower()
        kind = ending if ending in _DOCUMENTS.values() else None
    if kind is None and not document.media_type:
        kind = "pdf"
    if kind is None:
        raise Unsupported(f"Bedrock takes no documents of the type {document.media_type}", param="messages")
    return kind


def _marks(target: Target) -> str:
    """Which cache marks the model takes: `plain`, `ttl` for those that may say how long, or none."""
    owner = family(target)
    if owner == "anthropic":
        return "ttl"
    if "supports_prompt_caching" in target.flags or (owner == "amazon" and "nova" in target.model):
        return "plain"
    return "" if owner else "plain"


# -- tools -------------------------------------------------------------------------------------------------------------


def _write_tools(body: dict[str, Any], fields: dict[str, Any], request: ChatRequest, target: Target) -> None:
    called = _called(request.messages)
    choice = request.tool_choice
    forbidden = choice is not None and choice.mode == "none"
    if forbidden and not called:
        return  # the way to say it: no tools
    if forbidden and request.tools:
        leaves_out(
            target,
            "tool_choice",
            what="the tool_choice 'none' after tool calls",
            why="they must be named as long as calls of them are in the conversation",
        )
    tools = _tools(request.tools, target)
    if not tools:
        tools = [{"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object"}}}} for name in called]
    if not tools:
        return
    config: dict[str, Any] = {"tools": tools}
    if choice is not None and not forbidden and request.tools:
        words = {"auto": {"auto": {}}, "required": {"any": {}}, "named": {"tool": {"name": choice.name}}}
        config["toolChoice"] = words[choice.mode]
    body["toolConfig"] = config
    if request.parallel_tool_calls is False and request.tools:
        _write_one_by_one(config, fields, target)


def _called(messages: Iterable[Message]) -> list[str]:
    """The tools that were called in the conversation."""
    return list(
        dict.fromkeys(part.name for turn in messages for part in turn.parts if isinstance(part, ToolCall))
    )


def _tools(tools: Iterable[Tool | Opaque], target: Target) -> list[dict[str, Any] | Raw]:
    written: list[dict[str, Any] | Raw] = []
    for tool in tools:
        if isinstance(tool, Tool):
            written.append(_tool(tool))
            if tool.cache is not None and _marks(target) == "ttl":  # Nova has no marks among tools
                written.append(_Messages(target).mark(tool.cache))
        elif tool.format == wire.NAME:
            written.append(tool.raw)
        else:
            leaves_out(target, "tools", what=f"the tool type {tool.kind!r}")
    return written


def _tool(tool: Tool) -> dict[str, Any]:
    schema = _object(tool.schema)
    if "type" not in schema:
        schema = {"type": "object", "properties": {}, **schema}
    spec: dict[str, Any] = {"name": tool.name, "inputSchema": {"json": schema}}
    if tool.description:
        spec["description"] = tool.description
    if tool.strict:
        spec["strict"] = True
    return {"toolSpec": spec}


_OPENED = msgspec.json.Decoder(dict[str, Raw])


def _object(schema: Raw) -> dict[str, Any]:
    if schema == wire.NULL:
        return {}
    try:
        return dict(_OPENED.decode(schema))
    except msgspec.DecodeError:
        raise BadRequest("tools: a schema must be a JSON object", param="tools") from None


def _write_one_by_one(config: dict[str, Any], fields: dict[str, Any], target: Target) -> None:
    """One call at a time: Converse has no word for it, Claude has. Both may not say which kind of choice it is."""
    if family(target) != "anthropic":
        if not leaves_out(target, "parallel_tool_calls"):
            fields["parallel_tool_calls"] = False
        return
    kind = {} if "toolChoice" in config else {"type": "auto"}
    fields["tool_choice"] = {**kind, "disable_parallel_tool_use": True}


# -- how to answer -----------------------------------------------------------------------------------------------------

_STOP_SEQUENCE = ["/stop_sequence", "/delta/stop_sequence"]


def _sample_claude(
    inference: dict[str, Any], fields: dict[str, Any], request: ChatRequest, target: Target
) -> None:
    """What Anthropic's own API would be told, told through Converse: it knows which model takes which parameters."""
    alone = replace(
        request,
        messages=(),
        system=(),
        tools=(),
        tool_choice=None,
        parallel_tool_calls=None,
        response_format=None,
        user=None,
        stream=False,
        extra={},
        unspoken={},
    )
    told = _OBJECT.decode(anthropic_questions.write_request(alone, target))
    if request.max_tokens is not None or told.get("thinking", {}).get("type") == "enabled":
        inference["maxTokens"] = told["max_tokens"]
    for name, converse in (
        ("temperature", "temperature"),
        ("top_p", "topP"),
        ("stop_sequences", "stopSequences"),
    ):
        if name in told:
            inference[converse] = told[name]
    ours = {"model", "messages", "max_tokens", "temperature", "top_p", "stop_sequences"}
    fields |= {name: value for name, value in told.items() if name not in ours}


_WITHOUT_WORD: tuple[tuple[str, Callable[[ChatRequest], bool]], ...] = (
    ("n", lambda request: request.n not in {None, 1}),
    ("logprobs", lambda request: bool(request.logprobs)),
    ("top_logprobs", lambda request: bool(request.top_logprobs)),
    ("seed", lambda request: request.seed is not None),
    ("frequency_penalty", lambda request: bool(request.frequency_penalty)),
    ("presence_penalty", lambda request: bool(request.presence_penalty)),
    ("logit_bias", lambda request: request.logit_bias not in (None, wire.NULL, _EMPTY_OBJECT)),
)


def _sample(inference: dict[str, Any], fields: dict[str, Any], request: ChatRequest, target: Target) -> None:
    if request.max_tokens is not None:
        inference["maxTokens"] = request.max_tokens
    refused = "no_sampling_params" in target.flags
    for field, name in (("temperature", "temperature"), ("top_p", "topP")):
        value = getattr(request, field)
        if value is None:
            continue
        if not refused or not leaves_out(target, field, why="it takes no sampling parameters"):
            inference[name] = value
    stop = [text for text in request.stop if text]
    if stop:
        inference["stopSequences"] = stop
    for field, is_meant in _WITHOUT_WORD:
        if is_meant(request) and not leaves_out(target, field):
            fields[field] = getattr(request, field)
    if request.top_k is not None:
        _write_top_k(fields, request.top_k, target)
    if request.reasoning is not None:
        _write_reasoning(fields, request.reasoning, target)


def _write_top_k(fields: dict[str, Any], top_k: int, target: Target) -> None:
    owner = family(target)
    if owner == "amazon" and "nova" in target.model:
        fields["inferenceConfig"] = {"topK": top_k}
    elif owner == "cohere":
        fields["k"] = top_k
    elif owner in {"mistral", "qwen", ""} or not leaves_out(target, "top_k"):
        fields["top_k"] = top_k


_EFFORTS = (("minimal", 1024), ("low", 2048), ("medium", 8192), ("high", 32768))
"""The nearest effort for a budget of tokens, for models that know only words."""
_LOW_TO_HIGH = {"minimal": "low", "xhigh": "high", "max": "high"}
"""For models whose words are `low`, `medium` and `high`."""


def _write_reasoning(fields: dict[str, Any], reasoning: Reasoning, target: Target) -> None:
    """Each vendor's models have another word for it, and some have none."""
    owner, model = family(target), target.model
    silent = reasoning.mode == "disabled" or reasoning.effort == "none"
    effort = reasoning.effort or _effort(reasoning.budget)
    if owner == "amazon" and "nova-2" in model:
        asked = {"type": "enabled", "maxReasoningEffort": _LOW_TO_HIGH.get(effort, effort)}
        fields["reasoningConfig"] = {"type": "disabled"} if silent else asked
    elif owner == "openai" and "gpt-oss" not in model:
        fields["reasoning"] = {"effort": "none" if silent else effort}
    elif silent:
        always_thinks = "gpt-oss" in model or "deepseek.r1" in model
        if always_thinks and not leaves_out(target, "reasoning_effort", why="it always thinks"):
            fields["reasoning_effort"] = "none"
    elif owner == "openai" or "deepseek.v3" in model:
        fields["reasoning_effort"] = _LOW_TO_HIGH.get(effort, effort)
    elif not leaves_out(target, "reasoning_effort"):
        fields["reasoning_effort"] = effort


def _effort(budget: int | None) -> str:
    if budget is None:
        return "medium"
    return next((word for word, tokens in _EFFORTS if budget <= tokens), "high")


def _write_format(body: dict[str, Any], fields: dict[str, Any], request: ChatRequest, target: Target) -> None:
    wanted = request.response_format
    if wanted is not None and wanted.schema is not None:
        schema: dict[str, Any] = {"schema": bytes(wanted.schema).decode()}
        if wanted.name:
            schema["name"] = wanted.name
        if wanted.description:
            schema["description"] = wanted.description
        text_format = {"type": "json_schema", "structure": {"jsonSchema": schema}}
        body["outputConfig"] = {"textFormat": text_format}
    elif wanted is not None and not leaves_out(
        target, "response_format", why="it writes JSON to a schema only (`json_schema`)"
    ):
        fields["response_format"] = {"type": wanted.kind}
    if request.stop and family(target) == "anthropic":
        body["additionalModelResponseFieldPaths"] = _STOP_SEQUENCE


_TIERS = {
    "default": "default",
    "standard_only": "default",
    "flex": "flex",
    "priority": "priority",
    "fast": "priority",
}


def _write_unspoken(
    body: dict[str, Any], fields: dict[str, Any], request: ChatRequest, target: Target
) -> None:
    for field, value in request.unspoken.items():
        if field == "service_tier":
            tier = _TIERS.get(_TEXT.decode(value) if bytes(value).startswith(b'"') else "")
            if tier is not None:
                body["serviceTier"] = {"type": tier}
        elif (
            field not in openai_wire.HINTS
            and field not in anthropic_wire.HINTS
            and not leaves_out(target, field)
        ):
            fields[field] = value


# -- on its way --------------------------------------------------------------------------------------------------------


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """`POST {base_url}/model/{model}/converse`, or `…/converse-stream`; the same for what is invoked, and for SageMaker. Raises `Unsupported`.

    The model may be an ARN, with colons and slashes in it. They are escaped, and the path is signed as it is written here.
    """
    path = target.provider.paths.get(operation)
    if path is None:
        raise Unsupported(f"{target.provider.name} does not offer {operation}", param="model")
    if target.model in {".", ".."}:
        raise Unsupported(f"{target.model!r} is no model's name", param="model")
    if stream:
        path = _STREAMED.get(path, path)
    names = {name: quote(value, safe="-._~") for name, value in target.options.items()}
    path = path.format_map(names | {"model": quote(target.model, safe="-._~")})
    sent = {"content-type": "application/json", "accept": "*/*"}
    sent |= {name.lower(): value for name, value in target.provider.headers.items()}
    sent |= {
        name.lower(): value for name, value in headers.items() if not name.lower().startswith("anthropic-")
    }
    return Address("POST", target.base_url.rstrip("/") + path, tuple(sent.items()))


_STREAMED = {
    "/model/{model}/converse": "/model/{model}/converse-stream",
    "/model/{model}/invoke": "/model/{model}/invoke-with-response-stream",
    "/endpoints/{model}/invocations": "/endpoints/{model}/invocations-response-stream",
}
"""The path of a streamed answer for each path."""
