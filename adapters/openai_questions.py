"""Asking a provider that speaks OpenAI's format: part of `adapters.openai`.

A question that was asked in another format is written anew (`write_request`); one that was asked in this format keeps
its bytes, but for the model and a few top-level fields (`pass_request`). Either way the provider's row has the last
word: `rejects` and `rename`. What it has no word for is refused, or dropped where the deployment says `drop_params`.

Hints are dropped where there is no word for them: fields that cannot change the answer (`HINTS`), prompt-cache marks,
and that a tool's result is a failure, which its text says anyway. Reasoning of earlier turns goes back only to
providers that want it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw

from adapters import mistral
from adapters.base import kind_of, leaves_out
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
    RedactedThinking,
    Refusal,
    ResponseFormat,
    Target,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from adapters.wire import anthropic as anthropic_wire
from adapters.wire import openai as wire
from adapters.wire.openai import HINTS, given

_PATHS: dict[str, str] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
}
_NO_PARAMETERS = Raw(b'{"type":"object","properties":{}}')
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode
_ACCEPTED: dict[Operation, str] = {"speech": "*/*"}
_OURS = frozenset({"model", "messages", "stream", "stream_options"})
"""What a caller's own fields never replace."""
_EFFORT_LIMITS = ((2048, "low"), (8192, "medium"))


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A chat completion request, for a question that was asked in another format. Raises `Unsupported`."""
    unspoken = _write_unspoken(request, target)
    body: dict[str, Any] = {"model": target.model, "messages": _write_messages(request, target)}
    fields = {
        "max_completion_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": _write_top_k(request, target),
        "stop": list(request.stop) or None,
        "n": request.n,
        "seed": request.seed,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "logit_bias": request.logit_bias,
        "logprobs": request.logprobs,
        "top_logprobs": request.top_logprobs,
        "response_format": _write_response_format(request.response_format),
        "reasoning_effort": _write_effort(request, target),
        "user": request.user,
    }
    body |= {name: value for name, value in fields.items() if value is not None}
    body |= _write_tools(request, target)
    if request.stream:
        body["stream"] = True
        if target.provider.usage == "ask":
            body["stream_options"] = {"include_usage": True}
    body |= {name: raw for name, raw in request.extra.items() if name not in _OURS}
    body |= unspoken
    return _encode(_suit(body, target))


def _write_unspoken(request: ChatRequest, target: Target) -> dict[str, Raw]:
    """What no format but the client's has a place for: refused, dropped, or passed on where the operator says so."""
    return {
        name: value
        for name, value in request.unspoken.items()
        if name not in HINTS and name not in anthropic_wire.HINTS and not leaves_out(target, name)
    }


def _suit(body: dict[str, Any], target: Target) -> dict[str, Any]:
    """The body in this provider's words: what it rejects is dropped or refused, what it calls otherwise renamed."""
    provider = target.provider
    for name in provider.rejects:
        value = body.pop(name, None)
        is_null = value is None or (isinstance(value, Raw) and given(value) is None)
        if not is_null and name not in HINTS and not leaves_out(target, name):
            body[name] = value
    for name, other in provider.rename.items():
        if name in body:
            value = body.pop(name)
            body.setdefault(other, value)
    return body


def _write_top_k(request: ChatRequest, target: Target) -> int | None:
    if request.top_k is None or "top_k" in target.provider.quirks:
        return request.top_k
    return None if leaves_out(target, "top_k") else request.top_k


def _write_effort(request: ChatRequest, target: Target) -> str | None:
    """The word for how much to think. A budget of tokens becomes the nearest one."""
    reasoning = request.reasoning
    if reasoning is None or reasoning.mode == "disabled":
        return None
    if target.flags and "supports_reasoning" not in target.flags and leaves_out(target, "reasoning_effort"):
        return None
    if reasoning.effort is not None:
        return reasoning.effort
    if reasoning.budget is not None:
        return next((word for limit, word in _EFFORT_LIMITS if reasoning.budget <= limit), "high")
    return "medium" if reasoning.mode == "enabled" else None


def _write_response_format(asked: ResponseFormat | None) -> dict[str, Any] | None:
    if asked is None or asked.kind == "json_object":
        return None if asked is None else {"type": "json_object"}
    schema: dict[str, Any] = {"name": asked.name or "answer", "schema": asked.schema or _NO_PARAMETERS}
    if asked.strict is not None:
        schema["strict"] = asked.strict
    if asked.description is not None:
        schema["description"] = asked.description
    return {"type": "json_schema", "json_schema": schema}


def _write_tools(request: ChatRequest, target: Target) -> dict[str, Any]:
    tools: list[Any] = []
    for tool in request.tools:
        if isinstance(tool, Tool):
            tools.append(_write_tool(tool, target))
        elif tool.format == "openai":
            tools.append(tool.raw)
        else:
            leaves_out(target, "tools", what=f"the tool '{tool.kind}'")
    if not tools:
        return {}
    written: dict[str, Any] = {"tools": tools}
    if request.tool_choice is not None:
        choice = request.tool_choice
        named = {"type": "function", "function": {"name": choice.name}}
        written["tool_choice"] = named if choice.mode == "named" else choice.mode
    if request.parallel_tool_calls is not None:
        written["parallel_tool_calls"] = request.parallel_tool_calls
    return written


def _write_tool(tool: Tool, target: Target) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function} | _mark(tool.cache, target)


def _mark(cache: Raw | None, target: Target) -> dict[str, Any]:
    return {"cache_control": cache} if cache is not None and "cache_control" in target.provider.quirks else {}


def _write_messages(request: ChatRequest, target: Target) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    if request.system:
        if any(_mark(text.cache, target) for text in request.system):
            written.append(
                {"role": "system", "content": [_write_text(text, target) for text in request.system]}
            )
        else:
            written.append({"role": "system", "content": "\n\n".join(text.text for text in request.system)})
    for message in request.messages:
        written += (
            _write_assistant(message, target) if message.role == "assistant" else _write_user(message, target)
        )
    return mistral.spaced(written) if "mistral" in target.provider.quirks else written


def _write_user(message: Message, target: Target) -> list[dict[str, Any]]:
    """Tool messages first, as they must follow the calls; what these cannot hold comes after, as the user's words."""
    written: list[dict[str, Any]] = []
    content: list[Any] = []
    for part in message.parts:
        if isinstance(part, ToolResult):
            texts = [text for inner in part.parts if (text := _text_of(inner)) is not None]
            result = {"role": "tool", "tool_call_id": _call_id(part.id, target), "content": "\n".join(texts)}
            written.append(result | _mark(part.cache, target))
            content += [_write_part(inner, target) for inner in part.parts if _text_of(inner) is None]
        else:
            content.append(_write_part(part, target))
    content = [part for part in content if part is not None]
    if content:
        written.append({"role": "user", "content": _plain(content)})
    return written


def _text_of(part: Part) -> str | None:
    return part.text if isinstance(part, (Text, Document, Refusal)) else None


def _plain(content: list[Any]) -> Any:
    """One unmarked text is said as a string, which every server understands."""
    if len(content) == 1 and isinstance(content[0], dict) and content[0].keys() == {"type", "text"}:
        return content[0]["text"]
    return content


def _write_assistant(message: Message, target: Target) -> list[dict[str, Any]]:
    texts: list[Text] = []
    thoughts: list[Thinking | RedactedThinking] = []
    calls: list[dict[str, Any]] = []
    for part in message.parts:
        match part:
            case Text():
                texts.append(part)
            case Refusal():
                texts.append(Text(part.text))
            case Thinking() | RedactedThinking():
                thoughts.append(part)
            case ToolCall():
                function = {"name": part.name, "arguments": part.arguments}
                call = {"id": _call_id(part.id, target), "type": "function", "function": function}
                calls.append(call | _mark(part.cache, target))
            case _:
                leaves_out(target, "messages", what=f"{kind_of(part)} in an assistant's message")
    if not texts and not calls:
        return []
    content: Any = "".join(text.text for text in texts) if texts else None
    if any(_mark(text.cache, target) for text in texts):
        content = [_write_text(text, target) for text in texts]
    written: dict[str, Any] = {"role": "assistant", "content": content}
    written |= _write_thoughts(thoughts, content, target)
    if calls:
        written["tool_calls"] = calls
    return [written]


def _write_thoughts(
    thoughts: list[Thinking | RedactedThinking], content: Any, target: Target
) -> dict[str, Any]:
    """The reasoning of an earlier turn, where the provider takes it back."""
    quirks = target.provider.quirks
    words = [part.text for part in thoughts if isinstance(part, Thinking) and part.text]
    if words and "mistral" in quirks:
        return {"content": mistral.content_with(words, content)}
    if words and "reasoning_content" in quirks:
        return {"reasoning_content": "".join(words)}
    if not thoughts or "reasoning_details" not in quirks:
        return {}
    sealed = [part for part in thoughts if isinstance(part, RedactedThinking) or part.signature]
    if not sealed:
        return {"reasoning": "".join(words)}
    form = {"format": _DETAILS[maker]} if (maker := target.model.partition("/")[0]) in _DETAILS else {}
    details = [_write_detail(part) | form | {"index": at} for at, part in enumerate(sealed)]
    return {"reasoning_details": details}


_DETAILS = {
    "anthropic": "anthropic-claude-v1",
    "google": "google-gemini-v1",
    "openai": "openai-responses-v1",
    "x-ai": "xai-responses-v1",
}
"""OpenRouter's names for how a maker of models seals thoughts."""


def _write_detail(part: Thinking | RedactedThinking) -> dict[str, Any]:
    if isinstance(part, RedactedThinking):
        return {"type": "reasoning.encrypted", "data": part.data}
    return {"type": "reasoning.text", "text": part.text, "signature": part.signature}


def _write_text(part: Text, target: Target) -> dict[str, Any]:
    return {"type": "text", "text": part.text} | _mark(part.cache, target)


def _write_part(part: Part, target: Target) -> Any:
    """One part of a user's message; None for what is dropped."""
    match part:
        case Text():
            return _write_text(part, target)
        case Refusal():
            return {"type": "text", "text": part.text}
        case Image(file_id=None):
            url = (
                part.url if part.data is None else f"data:{part.media_type or 'image/png'};base64,{part.data}"
            )
            detail = {} if part.detail is None else {"detail": part.detail}
            return {"type": "image_url", "image_url": {"url": url} | detail} | _mark(part.cache, target)
        case Audio():
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        case Document():
            return _write_document(part, target)
        case Opaque(format="openai"):
            return part.raw
        case Thinking() | RedactedThinking():
            return None
        case _:
            leaves_out(target, "messages", what=f"{kind_of(part)} in a user's message")
            return None


def _write_document(part: Document, target: Target) -> dict[str, Any] | None:
    if part.text is not None:
        return {"type": "text", "text": part.text} | _mark(part.cache, target)
    if part.data is not None:
        media_type = part.media_type or "application/pdf"
        name = part.name or f"document.{media_type.rpartition('/')[2]}"
        file = {"filename": name, "file_data": f"data:{media_type};base64,{part.data}"}
        return {"type": "file", "file": file} | _mark(part.cache, target)
    if part.file_id is not None:
        return {"type": "file", "file": {"file_id": part.file_id}} | _mark(part.cache, target)
    leaves_out(target, "messages", what="documents by URL")
    return None


def _call_id(call_id: str, target: Target) -> str:
    return mistral.call_id(call_id) if "mistral" in target.provider.quirks else call_id


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """Where and how to send it.

    Raises `Unsupported` if the provider does not offer the operation, or if its path wants an option (an API version,
    say) that the deployment does not have.
    """
    provider = target.provider
    path = (provider.paths or _PATHS).get(operation)
    if not path:
        raise Unsupported(f"{provider.name} does not offer {operation}.", param="model")
    if target.model in {".", ".."}:
        raise Unsupported(f"{target.model!r} is no model's name.", param="model")
    names = {
        name: quote(value, safe="") for name, value in ({"model": target.model} | target.options).items()
    }
    try:
        path = path.format_map(names)
    except KeyError as missing:
        raise Unsupported(
            f"A deployment of {provider.name} needs the option {missing}.", param="model"
        ) from None
    return Address(
        method="POST",
        url=target.base_url.rstrip("/") + path,
        headers=(
            ("content-type", "application/json"),
            ("accept", "text/event-stream" if stream else _ACCEPTED.get(operation, "application/json")),
            *provider.headers.items(),
            *headers.items(),
        ),
    )


def pass_request(envelope: Mapping[str, Raw], target: Target, operation: Operation, *, stream: bool) -> bytes:
    """The client's question with the deployment's model and the provider's names; `messages` stay the same bytes.

    A stream's usage is asked for even if the client did not: the bill needs it, and the editor withholds it.
    """
    body: dict[str, Any] = dict(envelope)
    body["model"] = target.model
    if stream and operation in {"chat", "completions"} and target.provider.usage == "ask":
        options = given(envelope.get("stream_options", wire.NOTHING))
        asked: dict[str, Any] = {} if options is None else dict(_open_options(options))
        body["stream_options"] = asked | {"include_usage": True}
    else:
        body.pop("stream_options", None)
    if operation == "chat" and "mistral" in target.provider.quirks and "messages" in body:
        body["messages"] = mistral.suit_messages(body["messages"])
    if target.provider.rejects or target.provider.rename:
        body = _suit(body, target)
    return seal(body)


def _open_options(raw: Raw) -> dict[str, Raw]:
    try:
        return _OBJECT.decode(raw)
    except msgspec.DecodeError:
        raise BadRequest(
            "Invalid value for 'stream_options': expected an object.", param="stream_options"
        ) from None
