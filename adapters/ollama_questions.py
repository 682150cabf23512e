"""Asking Ollama in its own words: part of `adapters.ollama`.

https://docs.ollama.com/api/chat. What is peculiar here:

* what a model does is set in `options`: sampling, limits, and every field that no format defines, as `num_ctx`;
* a call's arguments are an object, and a tool's result names the tool beside the call;
* pictures are bare base64, one list for a message; an address cannot be sent;
* how much to think is yes or no, but for `gpt-oss`, which knows three levels;
* that a tool must be called cannot be said; that none may is said by showing none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from adapters.base import kind_of, leaves_out
from adapters.envelope import seal
from adapters.errors import BadRequest
from adapters.types import (
    ChatRequest,
    Document,
    Image,
    Message,
    Part,
    Reasoning,
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
from adapters.wire import ollama as wire
from adapters.wire import openai as openai_wire

_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_NO_PARAMETERS = Raw(b'{"type":"object","properties":{}}')
_EMPTY_OBJECT = Raw(b"{}")
_LITTLE, _MORE = 2048, 8192
"""Up to how many tokens of a budget thinking is `low`, and `medium`."""
_LEVELS = {"minimal": "low", "low": "low", "medium": "medium"}


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A chat request. Raises `Unsupported`."""
    body: dict[str, Any] = {
        "model": target.model,
        "messages": _write_messages(request, target),
        "stream": request.stream,  # it streams unless told not to
    }
    fields = {
        "tools": _write_tools(request, target) or None,
        "format": _write_format(request.response_format),
        "think": _write_think(request.reasoning, target),
        "logprobs": request.logprobs,
        "top_logprobs": request.top_logprobs,
    }
    options = {
        "num_predict": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
    }
    body |= {name: value for name, value in fields.items() if value is not None}
    body |= _write_rest(request, target)
    return seal(with_extra(body, options, request.extra))


def with_extra(
    body: Mapping[str, Any], options: Mapping[str, Any], extra: Mapping[str, Raw]
) -> dict[str, Any]:
    """The body with its `options` and the fields that the client's format does not define, each in its place.

    Raises `BadRequest` for `options` that are no object.
    """
    chosen = {name: value for name, value in options.items() if value is not None}
    chosen |= {
        name: value for name, value in extra.items() if name not in wire.TOP_LEVEL and name != "options"
    }
    given = extra.get("options", wire.NULL)
    if given != wire.NULL:
        try:
            chosen |= _OBJECT.decode(given)
        except msgspec.DecodeError:
            raise BadRequest("options: must be an object", param="options") from None
    own = {name: value for name, value in extra.items() if name in wire.TOP_LEVEL}
    return {**body, **own} | ({"options": chosen} if chosen else {})


_WITHOUT_WORD: tuple[tuple[str, Callable[[ChatRequest], bool]], ...] = (
    ("n", lambda request: request.n not in {None, 1}),
    ("logit_bias", lambda request: request.logit_bias not in (None, wire.NULL, _EMPTY_OBJECT)),
    ("parallel_tool_calls", lambda request: request.parallel_tool_calls is False),
)


def _write_rest(request: ChatRequest, target: Target) -> dict[str, Any]:
    """What Ollama has no word for: refused, dropped, or passed on where the operator says so."""
    meant = {name: getattr(request, name) for name, is_meant in _WITHOUT_WORD if is_meant(request)}
    hints = openai_wire.HINTS | anthropic_wire.HINTS
    meant |= {name: value for name, value in request.unspoken.items() if name not in hints}
    return {name: value for name, value in meant.items() if not leaves_out(target, name)}


def _write_format(wanted: ResponseFormat | None) -> Raw | str | None:
    if wanted is None:
        return None
    return "json" if wanted.schema is None else wanted.schema


def _write_think(reasoning: Reasoning | None, target: Target) -> bool | str | None:
    """Nothing where the model may decide: those that can think do, and to ask others for it is an error."""
    if reasoning is None:
        return None
    effort, budget = reasoning.effort, reasoning.budget
    is_off = reasoning.mode == "disabled" or effort == "none"
    is_asked = reasoning.mode == "enabled" or effort is not None or budget is not None
    if "gpt-oss" not in target.model:
        return False if is_off else is_asked or None
    if is_off:
        leaves_out(target, "reasoning_effort", what="reasoning_effort 'none'", why="it always thinks")
        return None
    if effort is None and budget is not None:
        effort = "low" if budget <= _LITTLE else "medium" if budget <= _MORE else "high"
    return _LEVELS.get(effort, "high") if effort else None


# -- tools -------------------------------------------------------------------------------------------------------------


def _write_tools(request: ChatRequest, target: Target) -> list[dict[str, Any]]:
    choice = request.tool_choice
    if choice is not None and choice.mode == "none":
        return []
    tools = []
    for tool in request.tools:
        if isinstance(tool, Tool):
            tools.append(_write_tool(tool))
        else:
            leaves_out(target, "tools", what=f"the tool type {tool.kind!r}")
    if tools and choice is not None and choice.mode != "auto":
        leaves_out(target, "tool_choice", what=f"tool_choice {choice.mode!r}")
    return tools


def _write_tool(tool: Tool) -> dict[str, Any]:
    schema = _NO_PARAMETERS if tool.schema in (wire.NULL, _EMPTY_OBJECT) else tool.schema
    function: dict[str, Any] = {"name": tool.name, "parameters": schema}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


# -- messages ----------------------------------------------------------------------------------------------------------


def _write_messages(request: ChatRequest, target: Target) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    if request.system:
        written.append({"role": "system", "content": "\n\n".join(text.text for text in request.system)})
    names: dict[str, str] = {}  # of the tools, by the ids of the calls so far
    for message in request.messages:
        if message.role == "assistant":
            names |= {part.id: part.name for part in message.parts if isinstance(part, ToolCall)}
            written += _write_assistant(message, target)
        else:
            written += _write_user(message, names, target)
    return written


def _write_user(message: Message, names: Mapping[str, str], target: Target) -> list[dict[str, Any]]:
    """Tool messages first, as they must follow the calls; what these cannot hold comes after, as the user's words."""
    written: list[dict[str, Any]] = []
    others: list[Part] = []
    for part in message.parts:
        if isinstance(part, ToolResult):
            texts = [text for inner in part.parts if (text := _text_of(inner)) is not None]
            result = {"role": "tool", "tool_call_id": part.id, "content": "\n".join(texts)}
            written.append(result | ({"tool_name": names[part.id]} if part.id in names else {}))
            others += [inner for inner in part.parts if _text_of(inner) is None]
        else:
            others.append(part)
    texts = [text for part in others if (text := _text_of(part)) is not None]
    images = [image for part in others if (image := _write_image(part, target)) is not None]
    if texts or images:
        said: dict[str, Any] = {"role": "user", "content": "\n".join(texts)}
        written.append(said | ({"images": images} if images else {}))
    return written


def _text_of(part: Part) -> str | None:
    return part.text if isinstance(part, (Text, Refusal, Document)) else None


def _write_image(part: Part, target: Target) -> str | None:
    """A picture's base64; None for what is said elsewhere or dropped."""
    if isinstance(part, Image) and part.data is not None:
        return part.data
    if _text_of(part) is None and not isinstance(part, (Thinking, RedactedThinking)):
        kind = "an image by its address" if isinstance(part, Image) else kind_of(part)
        leaves_out(target, "messages", what=f"{kind} in a user's message")
    return None


def _write_assistant(message: Message, target: Target) -> list[dict[str, Any]]:
    text = ""
    thoughts = ""
    calls: list[dict[str, Any]] = []
    for part in message.parts:
        match part:
            case Text() | Refusal():
                text += part.text
            case Thinking() if not part.signature:  # Anthropic's clients say that nobody signed it by ""
                thoughts += part.text
            case Thinking() | RedactedThinking():
                continue  # another vendor's
            case ToolCall():
                function = {"name": part.name, "arguments": _arguments(part)}
                calls.append({"id": part.id, "function": function})
            case _:
                leaves_out(target, "messages", what=f"{kind_of(part)} in an assistant's message")
    if not text and not calls:
        return []
    written: dict[str, Any] = {"role": "assistant", "content": text}
    if thoughts:
        written["thinking"] = thoughts
    if calls:
        written["tool_calls"] = calls
    return [written]


def _arguments(call: ToolCall) -> dict[str, Any]:
    """A call's arguments as the object that they must be; what a model wrote wrong goes back as one wrong word."""
    try:
        return dict(_OBJECT.decode(call.arguments.encode("utf-8", "replace") or b"{}"))
    except (msgspec.DecodeError, RecursionError):
        return {"INVALID_JSON": call.arguments}
