"""Speech, both ways: text that is spoken, and sound that becomes text. The words are OpenAI's.

https://platform.openai.com/docs/api-reference/audio. A provider is asked for JSON whatever the client wants, because
only JSON says what it cost; text and subtitles are written here.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from adapters.base import Task
from adapters.envelope import count_of, decode, seal
from adapters.errors import BadRequest, Unsupported, UpstreamMalformed
from adapters.fields import allowed_fields, other_fields, read_fields
from adapters.multipart import write_form
from adapters.openai_answers import read_error
from adapters.openai_usage import read_usage as read_chat_usage
from adapters.types import (
    Call,
    File,
    Reply,
    SpeechRequest,
    SpeechResponse,
    Target,
    TranscriptionRequest,
    TranscriptionResponse,
    Units,
    Usage,
)
from adapters.wire import tasks as wire
from adapters.wire.openai import given

_QUESTION = msgspec.json.Decoder(wire.SpeechQuestion)
_TRANSCRIPT = msgspec.json.Decoder(wire.Transcript)
_USAGE = msgspec.json.Decoder(wire.TaskUsage)
_SEGMENTS = msgspec.json.Decoder(list[wire.Segment])
_WORDS = msgspec.json.Decoder(list[wire.Word])
_AUDIO_DATA = msgspec.json.Decoder(wire.AudioData)
_SECONDS = msgspec.json.Decoder(float)
_encode = msgspec.json.Encoder().encode

MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
"""Of the formats that a client may ask for."""


# -- speech: the client's side ---------------------------------------------------------------------------------------


def read_speech(envelope: Mapping[str, Raw]) -> SpeechRequest:
    """Read a text that shall be spoken. Raises `BadRequest` with its place; the sound comes whole, as sound."""
    asked = read_fields(envelope, _QUESTION)
    if asked.stream_format == "sse":
        raise BadRequest(
            "Speech cannot come as events here; leave 'stream_format' out.", param="stream_format"
        )
    return SpeechRequest(
        model=asked.model,
        input=asked.input,
        voice=asked.voice if isinstance(asked.voice, str) else asked.voice.id,
        format=asked.response_format or "mp3",
        speed=asked.speed,
        instructions=asked.instructions,
        extra=other_fields(envelope, _QUESTION)
        | ({} if isinstance(asked.voice, str) else {"voice": envelope["voice"]}),
    )


# -- speech: the providers' side -------------------------------------------------------------------------------------


def _call(body: dict[str, Any], extra: dict[str, Raw]) -> list[Call]:
    return [Call(seal({name: value for name, value in body.items() if value is not None} | extra))]


def _write_speech(request: SpeechRequest, target: Target) -> list[Call]:
    """One call in OpenAI's words."""
    body = {
        "model": target.model,
        "input": request.input,
        "voice": request.voice,
        "response_format": request.format,
        "speed": request.speed,
        "instructions": request.instructions,
    }
    return _call(body, request.extra)


def _without_voice(request: SpeechRequest) -> dict[str, Raw]:
    """The caller's own fields for a provider that knows a voice by its name alone, and not as OpenAI's object."""
    return {name: value for name, value in request.extra.items() if name != "voice"}


def _write_mistral_speech(request: SpeechRequest, target: Target) -> list[Call]:
    """https://docs.mistral.ai/api/endpoint/audio/speech."""
    body = {
        "model": target.model,
        "input": request.input,
        "voice": request.voice,
        "response_format": request.format,
        **allowed_fields(request, target, "speed", "instructions"),
    }
    return _call(body, _without_voice(request))


def _write_xai_speech(request: SpeechRequest, target: Target) -> list[Call]:
    """https://docs.x.ai/developers/model-capabilities/audio/text-to-speech; the language is its own to find out."""
    body = {
        "text": request.input,
        "voice_id": request.voice,
        "language": "auto",
        "output_format": {"codec": request.format},
        "speed": request.speed,
        **allowed_fields(request, target, "instructions"),
    }
    return _call(body, _without_voice(request))


def _read_speech(replies: Sequence[Reply], request: SpeechRequest, target: Target) -> SpeechResponse:
    """Sound. A provider's JSON is an error that hides in a 200."""
    reply = replies[0]
    kind = reply.headers.get("content-type", "").strip()
    if kind.lower().startswith("application/json"):
        raise read_error(0, {}, reply.body)
    if not reply.body:
        raise UpstreamMalformed("The provider sent no sound.")
    if not kind or kind.lower().startswith("application/octet-stream"):
        kind = MEDIA_TYPES.get(request.format, "application/octet-stream")
    return SpeechResponse(reply.body, kind, _spoken(request))


def _read_mistral_speech(replies: Sequence[Reply], request: SpeechRequest, target: Target) -> SpeechResponse:
    """Sound in base64."""
    try:
        sound = binascii.a2b_base64(decode(replies[0].body, _AUDIO_DATA).audio_data, strict_mode=True)
    except ValueError:
        raise UpstreamMalformed("The provider sent sound that cannot be read.") from None
    if not sound:
        raise UpstreamMalformed("The provider sent no sound.")
    return SpeechResponse(
        sound, MEDIA_TYPES.get(request.format, "application/octet-stream"), _spoken(request)
    )


def _spoken(request: SpeechRequest) -> Usage:
    return Usage(units=Units(characters=len(request.input)))


SPEECH: dict[str, Task[SpeechRequest, SpeechResponse]] = {
    "openai": Task(_write_speech, _read_speech),
    "mistral": Task(_write_mistral_speech, _read_mistral_speech),
    "xai": Task(_write_xai_speech, _read_speech),
}
"""By provider, or by format for all others of it."""


# -- transcriptions: the client's side -------------------------------------------------------------------------------

_JSON_FORMATS = frozenset({"json", "verbose_json", "diarized_json"})
_TEXT_FORMATS = frozenset({"text", "srt", "vtt"})
_KNOWN = frozenset(
    {"model", "language", "prompt", "response_format", "temperature", "timestamp_granularities", "stream"}
)


def read_transcription(
    fields: Mapping[str, str], lists: Mapping[str, tuple[str, ...]], file: File, *, translate: bool
) -> TranscriptionRequest:
    """Read a form about a sound. Raises `BadRequest` that names the field; the text comes whole, not as events."""
    wanted = fields.get("response_format") or "json"
    if wanted not in _JSON_FORMATS | _TEXT_FORMATS:
        raise BadRequest(
            f"Invalid value for 'response_format': {wanted[:100]!r} is none of "
            f"{', '.join(sorted(_JSON_FORMATS | _TEXT_FORMATS))}.",
            param="response_format",
        )
    if fields.get("stream", "false").lower() not in {"false", "0", ""}:
        raise BadRequest("Transcriptions cannot be streamed here; leave 'stream' out.", param="stream")
    for name in _KNOWN - {"timestamp_granularities"}:
        if name in lists:
            raise BadRequest(f"Invalid value for {name!r}: it is there twice.", param=name)
    granularities = lists.get("timestamp_granularities", ())
    if "timestamp_granularities" in fields:
        granularities = (*granularities, fields["timestamp_granularities"])
    for each in granularities:
        if each not in {"word", "segment"}:
            raise BadRequest(
                f"Invalid value for 'timestamp_granularities': {each[:100]!r} is neither word nor segment.",
                param="timestamp_granularities",
            )
    return TranscriptionRequest(
        model=fields.get("model", ""),
        file=file,
        translate=translate,
        language=fields.get("language") or None,
        prompt=fields.get("prompt") or None,
        response_format=wanted,
        temperature=_read_temperature(fields.get("temperature", "")),
        timestamp_granularities=granularities,
        extra={name: value for name, value in fields.items() if name not in _KNOWN},
        lists={name: values for name, values in lists.items() if name not in _KNOWN},
    )


def _read_temperature(text: str) -> float | None:
    if not text:
        return None
    try:
        temperature = float(text)
    except ValueError:
        temperature = math.nan
    if not math.isfinite(temperature):
        raise BadRequest("Invalid value for 'temperature': expected a number.", param="temperature")
    return temperature


def write_transcription(answer: TranscriptionResponse, request: TranscriptionRequest) -> tuple[bytes, str]:
    """An answer's body and its content type, in the client's `response_format`.

    Raises `Unsupported` for subtitles of which the provider did not say when what is spoken.
    """
    match request.response_format:
        case "text":
            return f"{answer.text.strip()}\n".encode(), "text/plain; charset=utf-8"
        case "srt":
            return _write_srt(_cues(answer)), "text/plain; charset=utf-8"
        case "vtt":
            return _write_vtt(_cues(answer)), "text/vtt; charset=utf-8"
    body: dict[str, Any] = {"text": answer.text}
    if request.response_format != "json":
        body = {
            "task": "translate" if request.translate else "transcribe",
            "language": answer.language or request.language or "",
            "duration": answer.seconds or 0.0,
            "text": answer.text,
            "segments": answer.segments,
            "words": answer.words,
        }
        if request.response_format == "diarized_json":
            body["segments"] = Raw(b"[]") if answer.segments is None else answer.segments
            del body["language"], body["words"]
    body |= {"logprobs": answer.logprobs, "usage": _write_usage(answer.usage)}
    return _encode({name: value for name, value in body.items() if value is not None}), "application/json"


def _write_usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None or not (usage.total or usage.units.milliseconds):
        return None
    if usage.units.milliseconds:
        return {"type": "duration", "seconds": usage.units.milliseconds / 1000}
    return {
        "type": "tokens",
        "input_tokens": usage.prompt,
        "input_token_details": {
            "text_tokens": usage.prompt - usage.audio_input,
            "audio_tokens": usage.audio_input,
        },
        "output_tokens": usage.completion,
        "total_tokens": usage.total,
    }


def _cues(answer: TranscriptionResponse) -> list[wire.Segment]:
    """What is said from when to when; the whole text at once, if the provider only said how long it is."""
    if answer.segments is not None:
        segments = decode(answer.segments, _SEGMENTS)
    elif answer.seconds:
        segments = [wire.Segment(answer.text, 0.0, answer.seconds)]
    else:
        raise Unsupported(
            "The provider did not say when what is spoken; ask for 'json' or 'text'.", param="response_format"
        )
    return [wire.Segment(" ".join(each.text.split()), each.start, each.end) for each in segments]


def _write_srt(cues: list[wire.Segment]) -> bytes:
    """https://www.loc.gov/preservation/digital/formats/fdd/fdd000569.shtml."""
    return "".join(
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{cue.text}\n\n"
        for number, cue in enumerate(cues, 1)
    ).encode()


def _write_vtt(cues: list[wire.Segment]) -> bytes:
    """https://www.w3.org/TR/webvtt1: an arrow or the begin of a tag would not be text."""
    lines = [
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n"
        f"{cue.text.replace('&', '&amp;').replace('<', '&lt;').replace('-->', '--&gt;')}\n\n"
        for cue in cues
    ]
    return ("WEBVTT\n\n" + "".join(lines)).encode()


def _time(seconds: float, point: str) -> str:
    milliseconds = _whole_milliseconds(seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


# -- transcriptions: the providers' side -----------------------------------------------------------------------------

_LONGEST = 10_000_000.0
"""Seconds."""
_ASKED_AS = {"text": "json", "srt": "verbose_json", "vtt": "verbose_json"}


def _write(request: TranscriptionRequest, target: Target, *, always_verbose: bool = False) -> list[Call]:
    """A form in OpenAI's words. `always_verbose`: the provider bills by time and says the time only there."""
    wanted = _ASKED_AS.get(request.response_format, request.response_format)
    if always_verbose and wanted == "json":
        wanted = "verbose_json"
    fields: dict[str, str | tuple[str, ...] | None] = {
        "model": target.model,
        "response_format": wanted,
        "language": request.language,
        "prompt": request.prompt,
        "temperature": _number(request.temperature),
        "timestamp_granularities[]": request.timestamp_granularities,
    }
    return _form(fields, request)


def _write_mistral(request: TranscriptionRequest, target: Target) -> list[Call]:
    """https://docs.mistral.ai/api/endpoint/audio/transcriptions: always the same JSON, with times if they are wanted."""
    granularities = request.timestamp_granularities
    if request.response_format not in {"json", "text"}:
        granularities = granularities or ("segment",)
    fields: dict[str, str | tuple[str, ...] | None] = {
        "model": target.model,
        "language": request.language,
        "temperature": _number(request.temperature),
        "timestamp_granularities": granularities,
        "diarize": "true" if request.response_format == "diarized_json" else None,
        **allowed_fields(request, target, "prompt"),
    }
    return _form(fields, request)


def _write_xai(request: TranscriptionRequest, target: Target) -> list[Call]:
    """https://docs.x.ai/developers/model-capabilities/audio/speech-to-text: always the same JSON, with words' times."""
    allowed = allowed_fields(request, target, "prompt", "temperature")
    fields: dict[str, str | tuple[str, ...] | None] = {"model": target.model, "language": request.language}
    return _form(fields | {name: str(value) for name, value in allowed.items()}, request)


def _number(number: float | None) -> str | None:
    return None if number is None else repr(number)


def _form(fields: Mapping[str, str | tuple[str, ...] | None], request: TranscriptionRequest) -> list[Call]:
    """The fields that say something, the client's own for the provider, and the file, which xAI wants last."""
    said = {name: value for name, value in fields.items() if value}
    lists = {f"{name}[]": values for name, values in request.lists.items()}
    return [write_form(said | request.extra | lists, {"file": request.file})]


def _read(replies: Sequence[Reply], request: TranscriptionRequest, target: Target) -> TranscriptionResponse:
    """JSON of any length, or bare text, which some send whatever they are asked."""
    reply = replies[0]
    if reply.headers.get("content-type", "").lower().startswith("text/plain"):
        return TranscriptionResponse(reply.body.decode("utf-8", "replace").strip())
    said = decode(reply.body, _TRANSCRIPT)
    if given(said.error) is not None:
        raise read_error(0, {}, reply.body)
    if said.text is None:
        raise UpstreamMalformed("The provider sent no text.")
    return TranscriptionResponse(
        text=said.text,
        language=said.language,
        seconds=said.duration,
        segments=given(said.segments),
        words=given(said.words),
        usage=read_usage(said, target),
        logprobs=given(said.logprobs),
    )


def read_usage(said: wire.Transcript, target: Target) -> Usage | None:
    """Tokens or time, as the provider counts; the sound's length is time if it says nothing else."""
    raw = given(said.usage)
    counts = wire.TaskUsage() if raw is None else _find_counts(raw)
    if raw is None or counts.type == "duration":
        seconds = said.duration if counts.seconds is None else counts.seconds
        return None if seconds is None else Usage(units=_milliseconds(seconds))
    if counts.input_tokens is not None:
        prompt = count_of(counts.input_tokens)
        inside = counts.input_token_details or counts.input_tokens_details
        audio = min(prompt, count_of(inside.audio_tokens)) if inside else 0
        return Usage(input=prompt - audio, audio_input=audio, output=count_of(counts.output_tokens))
    usage = read_chat_usage(raw, target.provider)
    seconds = _find_seconds(counts.prompt_audio_seconds)
    return usage if usage is None or seconds is None else replace(usage, units=_milliseconds(seconds))


def _find_counts(raw_usage: Raw) -> wire.TaskUsage:
    try:
        return decode(raw_usage, _USAGE)
    except UpstreamMalformed:
        return wire.TaskUsage()


def _find_seconds(raw: Raw) -> float | None:
    try:
        return _SECONDS.decode(raw)
    except msgspec.DecodeError:
        return None


def _milliseconds(seconds: float) -> Units:
    return Units(milliseconds=_whole_milliseconds(seconds))


def _whole_milliseconds(seconds: float) -> int:
    """A provider's seconds, none of them negative or longer than any sound is."""
    return round(min(max(0.0, seconds), _LONGEST) * 1000)


def _read_xai(
    replies: Sequence[Reply], request: TranscriptionRequest, target: Target
) -> TranscriptionResponse:
    """Its words are called `text`, and OpenAI's `word`."""
    answer = _read(replies, request, target)
    if answer.words is None:
        return answer
    words = [
        {"word": word.word or word.text or "", "start": word.start, "end": word.end}
        for word in decode(answer.words, _WORDS)
    ]
    return replace(answer, words=Raw(_encode(words)))


TRANSCRIPTIONS: dict[str, Task[TranscriptionRequest, TranscriptionResponse]] = {
    "openai": Task(_write, _read),
    "groq": Task(partial(_write, always_verbose=True), _read),
    "mistral": Task(_write_mistral, _read),
    "xai": Task(_write_xai, _read_xai),
}
"""By provider, or by format for all others of it."""
