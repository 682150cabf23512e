"""Models of Bedrock that continue a text: Titan Text, Llama, the first Mistrals, Cohere. Part of `adapters.bedrock_invoke`.

https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html. They know no turns, so the conversation is
written as the text that they learned from. They see words only, and call no tools.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw, Struct

from adapters.bedrock_questions import family
from adapters.envelope import count_of, decode, seal
from adapters.errors import Unsupported, UpstreamMalformed
from adapters.fields import allowed_fields
from adapters.flatten import allowed_beyond_prompt, allowed_effort
from adapters.types import (
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Failure,
    Finish,
    FinishReason,
    Part,
    RedactedThinking,
    Refusal,
    Start,
    Target,
    Text,
    TextDelta,
    Thinking,
    Usage,
    UsageDelta,
)
from adapters.wire import Count
from adapters.wire import bedrock as wire

_COMPLETION = msgspec.json.Decoder(wire.Completion)
_encode = msgspec.json.Encoder().encode


# -- the question --------------------------------------------------------------------------------------------------------


def write_completion(request: ChatRequest, target: Target) -> bytes:
    """The request in the words of the model's vendor. Raises `Unsupported`."""
    penalties = (name for name in ("frequency_penalty", "presence_penalty") if getattr(request, name))
    allowed = allowed_beyond_prompt(request, target, "seed", *penalties) | allowed_effort(request, target)
    write = {"meta": _llama, "amazon": _titan, "cohere": _cohere}.get(family(target), _mistral)
    body = {name: value for name, value in write(request, target).items() if value is not None}
    return seal(body | allowed | request.extra)


def _llama(request: ChatRequest, target: Target) -> dict[str, Any]:
    without_word = ("stop", "top_k") if request.stop else ("top_k",)
    head, end = "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"
    if "llama4" in target.model:
        head, end = "<|header_start|>{}<|header_end|>\n\n", "<|eot|>"
    turns = "".join(f"{head.format(role)}{text}{end}" for role, text in _turns(request))
    return {
        "prompt": f"<|begin_of_text|>{turns}{head.format('assistant')}",
        "max_gen_len": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        **allowed_fields(request, target, *without_word),
    }


def _mistral(request: ChatRequest, target: Target) -> dict[str, Any]:
    prompt, system = "<s>", ""
    for role, text in _turns(request):
        if role == "system":
            system = f"{text}\n\n"
        elif role == "user":
            prompt, system = f"{prompt}[INST] {system}{text} [/INST]", ""
        else:
            prompt = f"{prompt} {text}</s>"
    return {
        "prompt": prompt,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": list(request.stop) or None,
    }


def _titan(request: ChatRequest, target: Target) -> dict[str, Any]:
    config = {
        "maxTokenCount": request.max_tokens,
        "temperature": request.temperature,
        "topP": request.top_p,
        "stopSequences": list(request.stop) or None,
    }
    return {
        "inputText": _dialogue(request, "User", "Bot"),
        "textGenerationConfig": {name: value for name, value in config.items() if value is not None} or None,
        **allowed_fields(request, target, "top_k"),
    }


def _cohere(request: ChatRequest, target: Target) -> dict[str, Any]:
    settings = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "p": request.top_p,
        "k": request.top_k,
        "stop_sequences": list(request.stop) or None,
    }
    if "command-r" not in target.model:
        return {"prompt": _dialogue(request, "User", "Chatbot"), **settings, "stream": request.stream or None}
    turns = [(role, text) for role, text in _turns(request) if role != "system"]
    message = turns.pop()[1] if turns and turns[-1][0] == "user" else ""
    names = {"user": "USER", "assistant": "CHATBOT"}
    preamble = "\n\n".join(text for role, text in _turns(request) if role == "system")
    history = [{"role": names[role], "message": text} for role, text in turns]
    return {"message": message, "chat_history": history or None, "preamble": preamble or None, **settings}


def _dialogue(request: ChatRequest, user: str, bot: str) -> str:
    names = {"user": f"{user}: ", "assistant": f"{bot}: ", "system": ""}
    return "".join(f"{names[role]}{text}\n" for role, text in _turns(request)) + f"{bot}:"


def _turns(request: ChatRequest) -> Iterator[tuple[str, str]]:
    system = "\n\n".join(part.text for part in request.system)
    if system:
        yield "system", system
    for message in request.messages:
        yield message.role, "\n\n".join(text for part in message.parts if (text := _words(part)))


def _words(part: Part) -> str:
    if isinstance(part, (Text, Refusal)):
        return part.text
    if isinstance(part, (Thinking, RedactedThinking)):
        return ""  # what it thought is no part of what it said
    raise Unsupported("This model of Bedrock reads words only", param="messages")


# -- the answer ----------------------------------------------------------------------------------------------------------

_FINISH: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "content_filtered": "content_filter",
    "error_toxic": "content_filter",
    "error": "error",
    "stop_sequence": "stop_sequence",
}


class _Said(Struct):
    """What an answer or an event says: texts with their reasons, and the tokens so far."""

    texts: list[tuple[str, str | None]]
    input: Count = None
    output: Count = None


def read_completion(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """Read a whole answer of any vendor. Raises `UpstreamMalformed`."""
    said = _said(decode(body, _COMPLETION))
    if not said.texts:
        raise UpstreamMalformed("The provider sent an answer without text")
    choices = tuple(Choice((Text(text),) if text else (), _finish(reason)) for text, reason in said.texts)
    usage = None if said.output is None else _usage(said)
    return ChatResponse(id="", model=target.model, choices=choices, usage=usage)


def _said(answer: wire.Completion) -> _Said:
    if answer.results is not None:
        output = sum(count_of(result.token_count) for result in answer.results)
        texts = [(result.output_text, result.completion_reason) for result in answer.results]
        return _Said(texts, answer.input_text_token_count, output)
    if answer.output_text is not None:
        output_tokens = answer.total_output_text_token_count
        return _Said(
            [(answer.output_text, answer.completion_reason)], answer.input_text_token_count, output_tokens
        )
    if answer.generation is not None:
        tokens = answer.generation_token_count
        return _Said([(answer.generation, answer.stop_reason)], answer.prompt_token_count, tokens)
    if answer.outputs is not None:
        return _Said([(output.text, output.stop_reason) for output in answer.outputs])
    if answer.generations is not None:
        return _Said([(each.text, each.finish_reason) for each in answer.generations])
    if answer.text is not None or answer.finish_reason is not None:
        text = answer.text if answer.event_type in {None, "text-generation"} else None
        return _Said([(text or "", answer.finish_reason)])
    return _Said([])


def _usage(said: _Said) -> Usage:
    return Usage(input=count_of(said.input), output=count_of(said.output))


def _finish(reason: str | None) -> FinishReason:
    return _FINISH.get((reason or "").lower(), "stop")


class CompletionReader:
    """Reads the events of a stream; a reason is its end. Further answers beside the first are not read."""

    __slots__ = ("_model", "_started", "done")

    def __init__(self, model: str) -> None:
        self.done = False
        self._started = False
        self._model = model

    def read(self, data: bytes) -> list[Delta]:
        """One event, as JSON. Raises `UpstreamMalformed`."""
        deltas: list[Delta] = [] if self._started else [Start(model=self._model)]
        self._started = True
        event = decode(data, _COMPLETION)
        said = _said(event)
        for text, reason in said.texts[:1]:
            if text and not event.index:
                deltas.append(TextDelta(Raw(_encode(text))))
            if reason is not None and not event.index and not self.done:
                self.done = True
                deltas.append(Finish(_finish(reason)))
        if self.done and said.input is not None:
            deltas.append(UsageDelta(_usage(said)))
        return deltas

    def close(self) -> list[Delta]:
        """There are no more events."""
        return [Failure(UpstreamMalformed("The provider's stream ended without a reason"))]
