"""Asking Gemini: a question in Google's words. Part of `adapters.gemini`.

Turns alternate between `user` and `model`; what a tool answered is the user's, carries the function's name and stands
before all else. Reasoning of earlier turns is not sent back: what Gemini wants of it is the signature of each call, and
a call that it did not make itself gets Google's stand-in (`wire.NO_SIGNATURE`), without which Gemini 3 refuses it.

How much to think is said by a level since Gemini 3, by a number of tokens before. Prompt-cache marks and hints that
cannot change an answer are dropped; what else Gemini has no word for is refused, unless `Target.drop_params` says to
drop it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Raw

from adapters.base import leaves_out
from adapters.envelope import seal
from adapters.errors import BadRequest, Unsupported
from adapters.fields import read_value
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
from adapters.wire import gemini as wire
from adapters.wire import openai as openai_wire
from adapters.wire.gemini import Json

_ANY_OBJECT = msgspec.json.Decoder(Json)
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_ANYTHING = msgspec.json.Decoder()


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A `GenerateContentRequest`. Raises `Unsupported`, or `BadRequest` for a tool's result that answers no call."""
    body: Json = {}
    system = [{"text": part.text} for part in request.system if part.text.strip()]
    contents = _write_contents(request.messages, target)
    if not contents:  # a conversation has at least one turn
        contents, system = [{"role": "user", "parts": system or [{"text": " "}]}], []
    body["contents"] = contents
    if system:
        body["systemInstruction"] = {"parts": system}
    _write_tools(body, request, target)
    config = _write_config(request, target)
    _write_unspoken(body, config, request, target)
    _write_extra(body, config, request.extra)
    if config:
        body["generationConfig"] = config
    return seal(body)


# -- the conversation ------------------------------------------------------------------------------------------------


def _write_contents(messages: Sequence[Message], target: Target) -> list[Json]:
    """The turns: those of one role in a row are one, tool results come first in it, and none is empty."""
    names = {
        part.id: part.name for message in messages for part in message.parts if isinstance(part, ToolCall)
    }
    turns: list[tuple[str, list[Part]]] = []
    for message in messages:
        role = "model" if message.role == "assistant" else "user"
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(message.parts)
        else:
            turns.append((role, list(message.parts)))
    written = []
    for role, parts in turns:
        parts.sort(key=lambda part: not isinstance(part, ToolResult))
        content = _write_turn(parts, names, target)
        if content:
            written.append({"role": role, "parts": content})
    return written


def _write_turn(parts: Iterable[Part], names: Mapping[str, str], target: Target) -> list[Any]:
    written: list[Any] = []
    behind: list[Any] = []  # files that tools answered, where a result cannot hold them
    wants_signature = wire.generation(target.model) >= (3, 0)
    for part in parts:
        if isinstance(part, ToolResult):
            written.append(_write_result(part, names, behind, target))
            continue
        if behind:
            written += behind
            behind = []
        if isinstance(part, ToolCall):
            signature = part.signature or (wire.NO_SIGNATURE if wants_signature else None)
            wants_signature = False  # only the first of parallel calls has one
            written.append(_write_call(part, signature))
        else:
            written += _write_part(part, target)
    return written + behind


def _write_call(call: ToolCall, signature: str | None) -> Json:
    part: Json = {"functionCall": {"id": call.id, "name": call.name, "args": _object(call.arguments)}}
    return part if signature is None else part | {"thoughtSignature": signature}


def _object(text: str) -> Json | Raw:
    """JSON text as the object that Google wants. Models do write broken JSON: that is handed on as a string."""
    if not text.strip():
        return {}
    data = text.encode("utf-8", "replace")
    return Raw(data) if _is_object(data) else {"INVALID_JSON": data.decode()}


def _is_object(data: bytes) -> bool:
    try:
        _ANY_OBJECT.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _write_result(result: ToolResult, names: Mapping[str, str], behind: list[Any], target: Target) -> Json:
    """A `functionResponse`: its words as an object, its files inside it since Gemini 3 and behind it before."""
    if result.id not in names:
        raise BadRequest(
            f"No tool call in this conversation has the id {result.id!r}, which a tool's result answers.",
            param="messages",
        )
    said = "\n".join(part.text for part in result.parts if isinstance(part, (Text, Refusal)))
    data = said.encode("utf-8", "replace")
    response: Any = {"error" if result.failed else "result": data.decode()}
    if not result.failed and _is_object(data):
        response = Raw(data)
    answer: Json = {"id": result.id, "name": names[result.id], "response": response}
    files = [
        each
        for part in result.parts
        if not isinstance(part, (Text, Refusal))
        for each in _write_part(part, target)
    ]
    if files and wire.generation(target.model) >= (3, 0) and all("text" not in each for each in files):
        answer["parts"] = files
    else:
        behind += files
    return {"functionResponse": answer}


def _write_part(part: Part, target: Target) -> Iterator[Any]:
    """A part; nothing for what must be left out: empty text, and reasoning."""
    if isinstance(part, (Text, Refusal)):
        if part.text:
            yield {"text": part.text}
    elif isinstance(part, Image):
        yield _file(part.data, part.media_type, part.url or part.file_id, "image/jpeg")
    elif isinstance(part, Audio):
        yield {"inlineData": {"mimeType": f"audio/{part.format}", "data": part.data}}
    elif isinstance(part, Document):
        if part.text is not None:
            yield {"text": part.text}
        else:
            yield _file(part.data, part.media_type, part.url or part.file_id, "application/pdf")
    elif isinstance(part, (Thinking, RedactedThinking)):
        return
    elif isinstance(part, Opaque) and part.format == wire.NAME:
        yield part.raw
    else:
        kind = part.kind if isinstance(part, Opaque) else type(part).__name__
        leaves_out(target, "messages", what=f"a block of the type {kind!r}")


_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "mp3": "audio/mp3",
    "wav": "audio/wav",
    "ogg": "audio/ogg",
    "flac": "audio/flac",
    "m4a": "audio/m4a",
    "mp4": "video/mp4",
    "mov": "video/mov",
    "webm": "video/webm",
    "mpeg": "video/mpeg",
}
_VIDEO_HOSTS = frozenset({"youtube.com", "www.youtube.com", "youtu.be"})


def _file(data: str | None, media_type: str | None, uri: str | None, fallback: str) -> Json:
    """Base64 data, or where Google finds the file: `https://`, `gs://`, a file of its Files API."""
    if data is not None:
        kind = "image/jpeg" if media_type == "image/jpg" else media_type
        return {"inlineData": {"mimeType": kind or fallback, "data": data}}
    try:
        address = urlsplit(uri or "")
    except ValueError:
        raise BadRequest(f"{uri!r:.200} is no address of a file.", param="messages") from None
    if media_type is None and address.hostname in _VIDEO_HOSTS:
        media_type = "video/mp4"
    kind = media_type or _TYPES.get(address.path.rpartition(".")[2].lower(), fallback)
    return {"fileData": {"mimeType": kind, "fileUri": uri}}


# -- tools -----------------------------------------------------------------------------------------------------------


def _write_tools(body: Json, request: ChatRequest, target: Target) -> None:
    functions: list[Json] = []
    native: list[Any] = []
    for tool in request.tools:
        if isinstance(tool, Tool):
            functions.append(_write_tool(tool))
        elif found := _native(tool):
            native.append(found)
        else:
            leaves_out(target, "tools", what=f"the tool type {tool.kind!r}")
    tools = [{"functionDeclarations": functions}, *native] if functions else native
    if tools:
        body["tools"] = tools
    one_by_one = request.parallel_tool_calls is False and len(functions) > 1
    if one_by_one and not leaves_out(target, "parallel_tool_calls"):
        body["parallel_tool_calls"] = False
    choice = request.tool_choice
    if choice is None or not functions:
        return
    mode = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}[choice.mode]
    config: Json = {"mode": mode}
    if choice.mode == "named":
        config["allowedFunctionNames"] = [choice.name]
    body["toolConfig"] = {"functionCallingConfig": config}


def _native(tool: Opaque) -> Json | None:
    """A tool that Google runs itself, as its clients write it (`{"googleSearch": {}}`) or with a `type`."""
    said = read_value(tool.raw, _ANY_OBJECT, "tools")
    named = {name: value for name, value in said.items() if name in wire.NATIVE_TOOLS}
    if named:
        return named
    if tool.kind in wire.NATIVE_TOOLS:
        return {tool.kind: {name: value for name, value in said.items() if name != "type"}}
    return None


def _write_tool(tool: Tool) -> Json:
    declared: Json = {"name": tool.name}
    if tool.description is not None:
        declared["description"] = tool.description
    schema = cleaned(tool.schema)
    if schema is not None:
        declared["parametersJsonSchema"] = schema
    return declared


_UNKNOWN = frozenset({"$schema", "$id", "$comment", "discriminator", "examples", "example", "deprecated"})
"""Keywords of JSON Schema that say nothing of a value's shape, and that Google has been seen to refuse."""
_SUSPECT = re.compile(rb'"(?:const|%b)"' % b"|".join(re.escape(word.encode()) for word in sorted(_UNKNOWN)))


def cleaned(schema: Raw) -> Any:
    """A JSON schema without what Google refuses; None if it says nothing.

    The same bytes where nothing has to be done. `const` becomes an `enum` of one. Names of properties are no keywords.
    """
    try:
        opened = _OBJECT.decode(schema)
    except msgspec.DecodeError:
        if schema == wire.NULL:
            return None
        raise BadRequest("tools: a schema must be a JSON object", param="tools") from None
    if not opened:
        return None
    if not _SUSPECT.search(schema) and "type" in opened:
        return schema
    try:
        known = _clean(read_value(schema, _ANYTHING, "tools"))
    except RecursionError:
        raise BadRequest("tools: a schema is nested too deeply", param="tools") from None
    return (
        known
        if {"type", "anyOf", "oneOf", "allOf", "$ref", "enum"} & known.keys()
        else {"type": "object"} | known
    )


_NAMED = frozenset({"properties", "$defs", "definitions", "patternProperties"})
"""Keywords whose value has names of the schema's own, each with a schema."""
_VALUES = frozenset({"enum", "default", "required"})


def _clean(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_clean(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    clean: Json = {}
    for name, value in schema.items():
        if name in _UNKNOWN:
            continue
        if name == "const":
            clean.setdefault("enum", [value])
        elif name in _NAMED and isinstance(value, dict):
            clean[name] = {own: _clean(inner) for own, inner in value.items()}
        else:
            clean[name] = value if name in _VALUES else _clean(value)
    return clean


# -- how to answer ---------------------------------------------------------------------------------------------------


def _write_config(request: ChatRequest, target: Target) -> Json:
    config: Json = {}
    for field, name, value in (
        ("presence_penalty", "presencePenalty", request.presence_penalty),
        ("frequency_penalty", "frequencyPenalty", request.frequency_penalty),
    ):
        if value and not (wire.generation(target.model) >= (3, 0) and leaves_out(target, field)):
            config[name] = value
    plain = {
        "temperature": request.temperature,  # newer models ignore these three
        "topP": request.top_p,
        "topK": request.top_k,
        "maxOutputTokens": request.max_tokens,
        "stopSequences": list(request.stop) or None,
        "candidateCount": request.n if request.n != 1 else None,
        "seed": request.seed,
        "responseLogprobs": request.logprobs or None,
        "logprobs": request.top_logprobs if request.logprobs else None,
    }
    config |= {name: value for name, value in plain.items() if value is not None}
    if request.logit_bias not in (None, wire.NULL, Raw(b"{}")) and not leaves_out(target, "logit_bias"):
        config["logit_bias"] = request.logit_bias
    wanted = request.response_format
    if wanted is not None:
        config["responseMimeType"] = "application/json"
        schema = cleaned(wanted.schema) if wanted.schema is not None else None
        if schema is not None:
            config["responseJsonSchema"] = schema
    if request.reasoning is not None:
        thinking = _write_thinking(request.reasoning, target)
        if thinking:
            config["thinkingConfig"] = thinking
    return config


_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
"""Tokens for an effort before Gemini 3, as Google's own endpoint for OpenAI's clients has them:
https://ai.google.dev/gemini-api/docs/openai#thinking."""
_LEAST_OF_PRO = 128


def _write_thinking(reasoning: Reasoning, target: Target) -> Json:
    if target.flags and "supports_reasoning" not in target.flags and leaves_out(target, "reasoning_effort"):
        return {}
    if reasoning.mode == "disabled" or reasoning.effort == "none":
        return _write_least(target)
    config: Json = {"includeThoughts": reasoning.display != "omitted"}
    effort = reasoning.effort
    if effort is not None and effort not in _BUDGETS:
        raise BadRequest(f"reasoning_effort: must be one of {', '.join(_BUDGETS)}", param="reasoning_effort")
    if reasoning.budget is not None:
        config["thinkingBudget"] = reasoning.budget
    elif effort is not None and wire.generation(target.model) >= (3, 0):
        config["thinkingLevel"] = _level(effort, target)
    elif effort is not None:
        config["thinkingBudget"] = _BUDGETS[effort]
    return config


def _level(effort: str, target: Target) -> str:
    if effort == "minimal":
        return _least_level(target)
    if effort in {"xhigh", "max"}:
        return "xhigh" if "supports_xhigh_reasoning_effort" in target.flags else "high"
    return effort


def _least_level(target: Target) -> str:
    """The Flash models of Gemini 3 know `minimal`, up to 3.6; https://ai.google.dev/gemini-api/docs/thinking."""
    knows = "flash" in target.model and (3, 0) <= wire.generation(target.model) < (3, 7)
    return "minimal" if knows or "supports_minimal_reasoning_effort" in target.flags else "low"


def _write_least(target: Target) -> Json:
    """No thinking, or as little as the model can: Gemini 3 and the Pro models always think."""
    if wire.generation(target.model) >= (3, 0):
        return {"includeThoughts": False, "thinkingLevel": _least_level(target)}
    return {"includeThoughts": False, "thinkingBudget": _LEAST_OF_PRO if "pro" in target.model else 0}


# -- what other formats say, and what nobody else says ---------------------------------------------------------------

_TIERS = frozenset({"flex", "priority", "standard"})
_READ = frozenset({"modalities", "service_tier"})
"""Fields whose value is looked into."""


def _write_unspoken(body: Json, config: Json, request: ChatRequest, target: Target) -> None:
    """Fields that the client's format defines and the neutral question has no place for."""
    for field, raw in request.unspoken.items():
        value = read_value(raw, _ANYTHING, field) if field in _READ else None
        if field == "modalities" and isinstance(value, list):
            config["responseModalities"] = [str(each).upper() for each in value]
        elif field == "web_search_options":
            body.setdefault("tools", []).append({"googleSearch": {}})
        elif isinstance(value, str) and value in _TIERS and target.provider.name == wire.NAME:
            body["serviceTier"] = value
        elif field in openai_wire.HINTS or field in anthropic_wire.HINTS:
            continue
        elif not leaves_out(target, field):
            body[field] = raw


def _write_extra(body: Json, config: Json, extra: Mapping[str, Raw]) -> None:
    """Google's own fields, in either of its spellings; those of `generationConfig` and `toolConfig` join ours."""
    for field, raw in extra.items():
        name = wire.camel(field)
        if name in {"generationConfig", "toolConfig"} and _is_object(bytes(raw)):
            own = {wire.camel(key): value for key, value in _OBJECT.decode(raw).items()}
            if name == "generationConfig":
                config.update(own)
            else:
                body[name] = body.get(name, {}) | own
        elif name == "thinkingConfig":
            config[name] = raw
        else:
            body[name] = raw


# -- on its way ------------------------------------------------------------------------------------------------------

_PATHS: dict[str, str] = {"chat": "/v1beta/models/{model}:generateContent"}
_REGIONAL = re.compile(r"^https://[a-z0-9-]+-aiplatform\.googleapis\.com$")
_PROJECT = "/projects/{vertex_project}/locations/{vertex_location}"


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """`POST {base_url}/v1beta/models/{model}:generateContent`, or what the provider's row names. Raises `Unsupported`.

    A key goes into a header and never into the URL. A deployment on Vertex AI without a project is asked in its
    express mode, which knows the project by the key.
    """
    provider = target.provider
    path = (provider.paths or _PATHS).get(operation)
    if path is None:
        raise Unsupported(f"{provider.name} does not offer {operation}", param="model")
    base = target.base_url.rstrip("/")
    if target.model in {".", ".."}:
        raise Unsupported(f"{target.model!r} is no model's name", param="model")
    if operation == "images" and not target.model.startswith("imagen"):
        path = path.replace(":predict", ":generateContent")
    elif operation == "embeddings" and wire.asks_by_content(target.model):
        path = path.replace(":predict", ":embedContent")
    if not target.options.get("vertex_project"):
        path = path.replace(_PROJECT, "")
        base = _REGIONAL.sub("https://aiplatform.googleapis.com", base)
    names = {name: quote(value, safe="") for name, value in {**target.options, "model": target.model}.items()}
    try:
        path = path.format_map(names)
    except KeyError as missing:
        raise Unsupported(
            f"A deployment of {provider.name} needs the option {missing}", param="model"
        ) from None
    if stream:
        path = path.replace(":generateContent", ":streamGenerateContent?alt=sse")
    sent = {
        "content-type": "application/json",
        "accept": "text/event-stream" if stream else "application/json",
    }
    sent |= {name.lower(): value for name, value in provider.headers.items()}
    sent |= {name.lower(): value for name, value in headers.items()}
    return Address("POST", base + path, tuple(sent.items()))
