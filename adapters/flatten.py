"""A conversation as one text, for models that know a prompt and nothing else.

One question stays as it was asked. Of several turns a transcript is made, which ends where the assistant speaks next:
each turn is a paragraph with the speaker's name before it. Pictures have no place in a text; `pictures_of` gives them.
Tools cannot be said at all.
"""

from __future__ import annotations

from typing import Any

from adapters.base import leaves_out
from adapters.errors import Unsupported
from adapters.types import (
    ChatRequest,
    Document,
    EmbeddingsRequest,
    Image,
    Part,
    RedactedThinking,
    Refusal,
    Target,
    Text,
    Thinking,
)
from adapters.wire import anthropic as anthropic_wire
from adapters.wire import openai as openai_wire

_HINTS = openai_wire.HINTS | anthropic_wire.HINTS
_SPEAKER = {"user": "User", "assistant": "Assistant"}


def system_of(request: ChatRequest) -> str:
    """The system prompt as one text, empty if there is none."""
    return "\n\n".join(text.text for text in request.system)


def prompt_of(request: ChatRequest, target: Target, *, with_system: bool) -> str:
    """The conversation as one text, with the system prompt in front if `with_system`. Raises `Unsupported`."""
    turns = [(turn.role, _words(turn.parts, target)) for turn in request.messages]
    turns = [(role, words) for role, words in turns if words]
    system = system_of(request) if with_system else ""
    if len(turns) == 1 and turns[0][0] == "user":
        return "\n\n".join(filter(None, (system, turns[0][1])))
    said = [f"{_SPEAKER[role]}: {words}" for role, words in turns]
    return "\n\n".join([*filter(None, (system,)), *said, "Assistant:"])


def pictures_of(request: ChatRequest) -> list[str]:
    """The addresses of all pictures, in order; one that is given as data is a `data:` URL."""
    images = [part for turn in request.messages for part in turn.parts if isinstance(part, Image)]
    return [
        image.url or f"data:{image.media_type or 'image/png'};base64,{image.data}"
        for image in images
        if image.url or image.data
    ]


def allowed_beyond_prompt(request: ChatRequest, target: Target, *names: str) -> dict[str, Any]:
    """Fields that need a chat format, and those of `names` that are set: refused, dropped, or as they are where the operator
    allows them.
    """
    for name, value in (("tools", request.tools), ("response_format", request.response_format)):
        if value:  # a prompt's model could not read them as they came, so to allow them means nothing
            leaves_out(target, name, what=f"the parameter {name!r}")
    asked: dict[str, Any] = {
        "logit_bias": request.logit_bias,
        "logprobs": request.logprobs,
        "top_logprobs": request.top_logprobs,
        "n": request.n if request.n != 1 else None,
    }
    asked |= {name: getattr(request, name) for name in names}
    asked |= {name: raw for name, raw in request.unspoken.items() if name not in _HINTS}
    return {
        name: value
        for name, value in asked.items()
        if value is not None and value is not False and value != () and not leaves_out(target, name)
    }


def allowed_effort(request: ChatRequest, target: Target) -> dict[str, Any]:
    """The same for how much to think."""
    reasoning = request.reasoning
    if reasoning is None or reasoning.mode == "disabled":
        return {}
    what = "" if reasoning.effort else "thinking"
    if leaves_out(target, "reasoning_effort", what=what):
        return {}
    return {"reasoning_effort": reasoning.effort}


def texts_of(request: EmbeddingsRequest, target: Target) -> list[str]:
    """What shall become vectors. Raises `Unsupported` for token numbers, which mean something to one model only."""
    texts = [text for text in request.input if isinstance(text, str)]
    if len(texts) != len(request.input):
        raise Unsupported(f"{target.provider.name} takes texts, not tokens.", param="input")
    return texts


def _words(parts: tuple[Part, ...], target: Target) -> str:
    words: list[str] = []
    for part in parts:
        match part:
            case Text(text=text) | Refusal(text=text) | Document(text=str(text)):
                words.append(text)
            case Thinking() | RedactedThinking() | Image(file_id=None):
                continue
            case _:
                leaves_out(target, "messages", what=f"{type(part).__name__.lower()} in a message")
    return "\n".join(words)
