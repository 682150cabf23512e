"""Asking Cohere: a question in its words. Part of `adapters.cohere`.

https://docs.cohere.com/reference/chat. What it calls otherwise: `p`, `k`, `stop_sequences`; a schema stands in a
`json_object`; a tool that must be called is the only one that it is shown, because it knows "some tool" (`REQUIRED`)
but not "this tool". The words before a tool call are its `tool_plan`; reasoning of other turns is not sent back, nor is
what another vendor has signed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Raw

from adapters.base import kind_of, leaves_out
from adapters.envelope import seal
from adapters.types import (
    ChatRequest,
    Document,
    Image,
    Message,
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
from adapters.wire import openai as openai_wire
from adapters.wire.cohere import NULL

_NO_PARAMETERS = Raw(b'{"type":"object","properties":{}}')
_EMPTY_OBJECT = Raw(b"{}")
_LEAST_P, _MOST_P = 0.01, 0.99
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048}
"""Tokens for an effort; higher ones have no limit."""


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A chat request of version 2. Raises `Unsupported`.

    One adjustment beyond that: `p` is kept between 0.01 and 0.99, what Cohere allows; 1 is what many clients send.
    """
    body: dict[str, Any] = {
        "model": target.model,
        "messages": _write_messages(request, target),
        "stream": request.stream,
    }
    fields = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "p": None if request.top_p is None else min(max(request.top_p, _LEAST_P), _MOST_P),
        "k": request.top_k,
        "stop_sequences": list(request.stop) or None,
        "seed": request.seed,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "response_format": _write_response_format(request.response_format),
        "thinking": _write_thinking(request, target),
    }
    body |= {name: value for name, value in fields.items() if value is not None}
    body |= _write_tools(request, target)
    body |= _write_rest(request, target)
    return seal(body | request.extra)


_WITHOUT_WORD: tuple[tuple[str, Callable[[ChatRequest], bool]], ...] = (
    ("n", lambda request: request.n not in {None, 1}),
    ("logprobs", lambda request: bool(request.logprobs)),  # it has some, but of pieces and not of tokens
    ("top_logprobs", lambda request: bool(request.top_logprobs)),
    ("logit_bias", lambda request: request.logit_bias not in (None, NULL, _EMPTY_OBJECT)),
    ("parallel_tool_calls", lambda request: request.parallel_tool_calls is False),
)


def _write_rest(request: ChatRequest, target: Target) -> dict[str, Any]:
    """What Cohere has no word for: refused, dropped, or passed on where the operator says so."""
    meant = {name: getattr(request, name) for name, is_meant in _WITHOUT_WORD if is_meant(request)}
    hints = openai_wire.HINTS | anthropic_wire.HINTS
    meant |= {name: value for name, value in request.unspoken.items() if name not in hints}
    return {name: value for name, value in meant.items() if not leaves_out(target, name)}


def _write_response_format(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    if wanted is None:
        return None
    schema = {"json_schema": wanted.schema} if wanted.schema is not None else {}
    return {"type": "json_object"} | schema


def _write_thinking(request: ChatRequest, target: Target) -> dict[str, Any] | None:
    """Models that reason do so unasked; the others know no `thinking`."""
    reasoning = request.reasoning
    if reasoning is None:
        return None
    is_off = reasoning.mode == "disabled" or reasoning.effort == "none"
    if target.flags and "supports_reasoning" not in target.flags:
        if is_off or leaves_out(target, "reasoning_effort"):
            return None
    elif is_off:
        return {"type": "disabled"}
    budget = _BUDGETS.get(reasoning.effort or "") if reasoning.budget is None else reasoning.budget
    if reasoning.mode == "adaptive" and reasoning.effort is None and budget is None:
        return None
    return {"type": "enabled"} | ({} if budget is None else {"token_budget": budget})


# -- tools -------------------------------------------------------------------------------------------------------------


def _write_tools(request: ChatRequest, target: Target) -> dict[str, Any]:
    tools: list[Tool] = []
    for tool in request.tools:
        if isinstance(tool, Tool):
            tools.append(tool)
        else:
            leaves_out(target, "tools", what=f"the tool type {tool.kind!r}")
    choice = request.tool_choice
    if choice is not None and choice.mode == "named":
        tools = [tool for tool in tools if tool.name == choice.name] or tools
    if not tools:
        return {}
    written: dict[str, Any] = {"tools": [_write_tool(tool) for tool in tools]}
    if all(tool.strict for tool in tools):
        written["strict_tools"] = True
    if choice is not None and choice.mode != "auto":
        written["tool_choice"] = "NONE" if choice.mode == "none" else "REQUIRED"
    return written


def _write_tool(tool: Tool) -> dict[str, Any]:
    schema = _NO_PARAMETERS if tool.schema in (NULL, _EMPTY_OBJECT) else tool.schema
    function: dict[str, Any] = {"name": tool.name, "parameters": schema}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


# -- messages ----------------------------------------------------------------------------------------------------------


def _write_messages(request: ChatRequest, target: Target) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    if request.system:
        written.append({"role": "system", "content": "\n\n".join(text.text for text in request.system)})
    for message in request.messages:
        if message.role == "assistant":
            written += _write_assistant(message, target)
        else:
            written += _write_user(message, target)
    return written


def _write_user(message: Message, target: Target) -> list[dict[str, Any]]:
    """Tool messages first, as they must follow the calls; what these cannot hold comes after, as the user's words."""
    written: list[dict[str, Any]] = []
    content: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, ToolResult):
            texts = [text for inner in part.parts if (text := _text_of(inner)) is not None]
            written.append({"role": "tool", "tool_call_id": part.id, "content": "\n".join(texts)})
            for inner in part.parts:
                if _text_of(inner) is None:
                    content += _write_part(inner, target)
        else:
            content += _write_part(part, target)
    if content:
        is_plain = len(content) == 1 and content[0]["type"] == "text"
        written.append({"role": "user", "content": content[0]["text"] if is_plain else content})
    return written


def _text_of(part: Part) -> str | None:
    return part.text if isinstance(part, (Text, Refusal, Document)) else None


def _write_part(part: Part, target: Target) -> list[dict[str, Any]]:
    """A part of a user's message; none for what is dropped."""
    text = _text_of(part)
    if text is not None:
        return [{"type": "text", "text": text}]
    if isinstance(part, Image) and part.file_id is None:
        data = f"data:{part.media_type or 'image/png'};base64,{part.data}"
        url = {"url": part.url if part.data is None else data}
        detail = {} if part.detail is None else {"detail": part.detail}
        return [{"type": "image_url", "image_url": url | detail}]
    if not isinstance(part, (Thinking, RedactedThinking)):
        leaves_out(target, "messages", what=f"{kind_of(part)} in a user's message")
    return []


def _write_assistant(message: Message, target: Target) -> list[dict[str, Any]]:
    text = ""
    plan = ""
    calls: list[dict[str, Any]] = []
    for part in message.parts:
        match part:
            case Text() | Refusal():
                text += part.text
            case Thinking() if not part.signature:  # Anthropic's clients say that nobody signed it by ""
                plan += part.text
            case Thinking() | RedactedThinking():
                continue
            case ToolCall():
                function = {"name": part.name, "arguments": part.arguments or "{}"}
                calls.append({"id": part.id, "type": "function", "function": function})
            case _:
                leaves_out(target, "messages", what=f"{kind_of(part)} in an assistant's message")
    if not text and not calls:
        return []
    written: dict[str, Any] = {"role": "assistant"}
    if text:
        written["content"] = text
    if calls:
        written["tool_calls"] = calls
        if plan:
            written["tool_plan"] = plan
    return [written]
