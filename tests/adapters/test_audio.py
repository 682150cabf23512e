"""Speech: text that is spoken and sound that becomes text, as clients ask and as providers answer."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from msgspec import Raw
from openai import OpenAI
from openai.types.audio import Transcription, TranscriptionDiarized, TranscriptionVerbose

from adapters import SPEECH, TRANSCRIPTIONS
from adapters.audio import read_speech, read_transcription, write_transcription
from adapters.envelope import open_envelope
from adapters.errors import BadRequest, Unsupported, UpstreamMalformed, UpstreamRefused
from adapters.multipart import read_form
from adapters.providers import PROVIDERS
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
from tests.recorded import Recording, recordings

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "audio"
RECORDED = [
    each
    for each in recordings("openai", "groq", "mistral", "xai", "openrouter", kinds=("audio",))
    if not each.is_stream
]
JSON = {"content-type": "application/json"}
SOUND = File("a.wav", "audio/wav", b"RIFF\x00")


def target(provider: str, **options: Any) -> Target:
    return Target(provider=PROVIDERS[provider], model="m", base_url="https://example.com", **options)


# -- speech ----------------------------------------------------------------------------------------------------------


def spoken(**fields: Any) -> SpeechRequest:
    return SpeechRequest(**{"model": "public", "input": "Hello", "voice": "alloy"} | fields)


def speak(provider: str, request: SpeechRequest, **options: Any) -> dict[str, Any]:
    (call,) = SPEECH.get(provider, SPEECH["openai"]).write(request, target(provider, **options))
    body: dict[str, Any] = json.loads(call.body)
    return body


def hear(provider: str, reply: Reply, request: SpeechRequest | None = None) -> SpeechResponse:
    return SPEECH.get(provider, SPEECH["openai"]).read([reply], request or spoken(), target(provider))


def test_a_text_is_read() -> None:
    """With all that is said of how it shall sound; sound is what `stream_format` asks for anyway."""
    body = (
        b'{"model":"m","input":"Hello","voice":"alloy","response_format":"wav","speed":1.5,"instructions":"softly",'
        b'"stream_format":"audio","lang":"en"}'
    )
    assert read_speech(open_envelope(body)) == SpeechRequest(
        model="m",
        input="Hello",
        voice="alloy",
        format="wav",
        speed=1.5,
        instructions="softly",
        extra={"lang": Raw(b'"en"')},
    )


def test_a_voice_may_be_an_object() -> None:
    """Then OpenAI gets it as it is, and others its id."""
    request = read_speech(open_envelope(b'{"input":"Hello","voice":{"id":"voice_1"}}'))
    assert request.voice == "voice_1"
    assert speak("openai", request)["voice"] == {"id": "voice_1"}
    assert speak("mistral", request)["voice"] == "voice_1"
    assert speak("xai", request) == {
        "text": "Hello",
        "voice_id": "voice_1",
        "language": "auto",
        "output_format": {"codec": "mp3"},
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (b'"voice":"alloy"', "input"),
        (b'"input":"Hello"', "voice"),
        (b'"input":"Hello","voice":1', "voice"),
        (b'"input":"Hello","voice":{}', "voice.id"),
        (b'"input":"Hello","voice":"alloy","speed":"2"', "speed"),
        (b'"input":"Hello","voice":"alloy","stream_format":"sse"', "stream_format"),
    ],
)
def test_a_wrong_text_is_refused_with_its_place(fields: bytes, param: str) -> None:
    """Before anybody is asked."""
    with pytest.raises(BadRequest) as caught:
        read_speech(open_envelope(b"{" + fields + b"}"))
    assert caught.value.param == param


def test_openai_speaks() -> None:
    """The format is always said: not everybody's default is the client's."""
    assert speak("groq", spoken()) == {
        "model": "m",
        "input": "Hello",
        "voice": "alloy",
        "response_format": "mp3",
    }
    request = spoken(format="opus", speed=2.0, instructions="softly", extra={"lang": Raw(b'"en"')})
    assert speak("openai", request) == {
        "model": "m",
        "input": "Hello",
        "voice": "alloy",
        "response_format": "opus",
        "speed": 2.0,
        "instructions": "softly",
        "lang": "en",
    }


def test_xai_speaks_in_its_words() -> None:
    """The language is guessed unless the caller says it."""
    assert speak("xai", spoken(format="wav", extra={"language": Raw(b'"de"')})) == {
        "text": "Hello",
        "voice_id": "alloy",
        "language": "de",
        "output_format": {"codec": "wav"},
    }


@pytest.mark.parametrize(
    ("provider", "field"), [("mistral", "speed"), ("mistral", "instructions"), ("xai", "instructions")]
)
def test_what_a_speaker_cannot_do(provider: str, field: str) -> None:
    """Is refused, or dropped and noted."""
    request = spoken(**{field: 2.0 if field == "speed" else "softly"})
    with pytest.raises(Unsupported) as caught:
        speak(provider, request)
    assert caught.value.param == field
    dropped: list[str] = []
    assert field not in speak(provider, request, drop_params=True, dropped=dropped)
    assert dropped == [field]
    assert field in speak(provider, request, allowed=frozenset({field}))


def test_sound_is_what_the_provider_says_it_is() -> None:
    """Or what was asked for, if it does not say; characters are counted."""
    usage = Usage(units=Units(characters=5))
    reply = Reply({"content-type": "audio/mpeg"}, b"\xff")
    assert hear("openai", reply) == SpeechResponse(b"\xff", "audio/mpeg", usage)
    unknown = Reply({"content-type": "application/octet-stream"}, b"\xff")
    assert hear("openai", unknown, spoken(format="wav")).media_type == "audio/wav"
    assert hear("openai", Reply({}, b"\xff"), spoken(format="aiff")).media_type == "application/octet-stream"


def test_mistral_sends_sound_in_base64() -> None:
    """Which we take out."""
    body = (TRANSCRIPTS / "mistral_speech.json").read_bytes()
    answer = hear("mistral", Reply(JSON, body))
    assert answer == SpeechResponse(b"ID3\x04\0\0\0", "audio/mpeg", Usage(units=Units(characters=5)))


@pytest.mark.parametrize("body", [b"", b"{}", b'{"audio_data":"!"}', b'{"audio_data":1}'])
def test_mistral_sends_no_sound(body: bytes) -> None:
    """That is its mistake."""
    with pytest.raises(UpstreamMalformed):
        hear("mistral", Reply(JSON, body))


def test_no_sound_is_a_mistake_and_json_is_an_error() -> None:
    """Though the status be 200."""
    with pytest.raises(UpstreamMalformed):
        hear("openai", Reply({"content-type": "audio/mpeg"}, b""))
    with pytest.raises(UpstreamRefused, match="Voice not found"):
        hear("openai", Reply(JSON, (TRANSCRIPTS / "error_in_200.json").read_bytes()))


# -- transcriptions: the client's side -------------------------------------------------------------------------------


def heard(**fields: Any) -> TranscriptionRequest:
    usual: dict[str, Any] = {"model": "public", "file": SOUND}
    return TranscriptionRequest(**usual | fields)


def test_a_form_is_read() -> None:
    """Fields that OpenAI defines, and others."""
    fields = {
        "model": "m",
        "language": "de",
        "prompt": "p",
        "response_format": "verbose_json",
        "temperature": "0.5",
        "stream": "false",
        "chunking_strategy": "auto",
    }
    lists = {"timestamp_granularities": ("word", "segment"), "include": ("logprobs",)}
    assert read_transcription(fields, lists, SOUND, translate=False) == TranscriptionRequest(
        model="m",
        file=SOUND,
        language="de",
        prompt="p",
        response_format="verbose_json",
        temperature=0.5,
        timestamp_granularities=("word", "segment"),
        extra={"chunking_strategy": "auto"},
        lists={"include": ("logprobs",)},
    )
    single = read_transcription({"timestamp_granularities": "word"}, {}, SOUND, translate=True)
    assert (single.timestamp_granularities, single.translate) == (("word",), True)


@pytest.mark.parametrize(
    ("fields", "lists", "param"),
    [
        ({"response_format": "html"}, {}, "response_format"),
        ({"temperature": "warm"}, {}, "temperature"),
        ({"temperature": "nan"}, {}, "temperature"),
        ({"stream": "True"}, {}, "stream"),
        ({}, {"timestamp_granularities": ("letter",)}, "timestamp_granularities"),
        ({}, {"language": ("de", "en")}, "language"),
    ],
)
def test_a_wrong_form_is_refused(
    fields: dict[str, str], lists: dict[str, tuple[str, ...]], param: str
) -> None:
    """With the field's name."""
    with pytest.raises(BadRequest) as caught:
        read_transcription(fields, lists, SOUND, translate=False)
    assert caught.value.param == param


ANSWER = TranscriptionResponse(
    text=" Fine. It may <rain> & pour.",
    language="english",
    seconds=3661.5,
    segments=Raw(
        b'[{"id":0,"start":0.0,"end":3.3199,"text":" Fine."},'
        b'{"id":1,"start":3.32,"end":3661.5,"text":" It may <rain>\\n\\n& pour."}]'
    ),
    words=Raw(b'[{"word":"Fine","start":0.0,"end":0.3}]'),
    usage=Usage(units=Units(milliseconds=3_661_500)),
    logprobs=Raw(b'[{"token":"Fine"}]'),
)


def test_text_is_written() -> None:
    """On a line of its own."""
    body, kind = write_transcription(ANSWER, heard(response_format="text"))
    assert (body, kind) == (b"Fine. It may <rain> & pour.\n", "text/plain; charset=utf-8")


def test_subtitles_are_written() -> None:
    """One cue for each segment, in one line, and nothing in it that a player would not show."""
    body, kind = write_transcription(ANSWER, heard(response_format="srt"))
    assert kind == "text/plain; charset=utf-8"
    assert body.decode() == (
        "1\n00:00:00,000 --> 00:00:03,320\nFine.\n\n"
        "2\n00:00:03,320 --> 01:01:01,500\nIt may <rain> & pour.\n\n"
    )
    body, kind = write_transcription(ANSWER, heard(response_format="vtt"))
    assert kind == "text/vtt; charset=utf-8"
    assert body.decode() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:03.320\nFine.\n\n"
        "00:00:03.320 --> 01:01:01.500\nIt may &lt;rain> &amp; pour.\n\n"
    )


def test_subtitles_without_segments() -> None:
    """The whole text at once if its length is known; else there is nothing to write."""
    body, _ = write_transcription(TranscriptionResponse("Hi", seconds=1.5), heard(response_format="srt"))
    assert body == b"1\n00:00:00,000 --> 00:00:01,500\nHi\n\n"
    with pytest.raises(Unsupported):
        write_transcription(TranscriptionResponse("Hi"), heard(response_format="vtt"))


def test_json_is_written_as_the_official_client_reads_it() -> None:
    """Short, long, and by speakers."""
    body, kind = write_transcription(ANSWER, heard())
    assert kind == "application/json"
    short = Transcription.model_validate_json(body, strict=True).to_dict()
    assert short["usage"] == {"type": "duration", "seconds": 3661.5}
    assert set(short) == {"text", "usage", "logprobs"}
    answer = understand("openai", Reply(JSON, (TRANSCRIPTS / "verbose.json").read_bytes()))
    body, _ = write_transcription(answer, heard(response_format="verbose_json", translate=True))
    assert json.loads(body)["task"] == "translate"
    verbose = TranscriptionVerbose.model_validate_json(body, strict=True)
    assert (verbose.language, verbose.duration) == ("english", 8.470000267028809)
    assert len(verbose.segments or ()) == 2
    assert len(verbose.words or ()) == 1
    body, _ = write_transcription(
        TranscriptionResponse("Hi", seconds=1.0), heard(response_format="diarized_json")
    )
    assert TranscriptionDiarized.model_validate_json(body, strict=True).segments == []


def test_tokens_are_written() -> None:
    """Where the provider counts them."""
    answer = TranscriptionResponse("Hi", usage=Usage(input=4, audio_input=10, output=7))
    body, _ = write_transcription(answer, heard())
    assert Transcription.model_validate_json(body, strict=True).to_dict() == {
        "text": "Hi",
        "usage": {
            "type": "tokens",
            "input_tokens": 14,
            "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
            "output_tokens": 7,
            "total_tokens": 21,
        },
    }
    assert write_transcription(TranscriptionResponse("Hi"), heard())[0] == b'{"text":"Hi"}'


# -- transcriptions: the providers' side -----------------------------------------------------------------------------


def fields_of(provider: str, request: TranscriptionRequest, **options: Any) -> dict[str, Any]:
    """What the provider reads in the form; the file comes last."""
    (call,) = TRANSCRIPTIONS.get(provider, TRANSCRIPTIONS["openai"]).write(
        request, target(provider, **options)
    )
    form = read_form(call.content_type, call.body)
    assert form.files == {"file": SOUND}
    assert b"filename=" in call.body[call.body.rindex(b"Content-Disposition") :]
    return {**form.fields, **{f"{name}[]": values for name, values in form.lists.items()}}


def understand(provider: str, reply: Reply) -> TranscriptionResponse:
    way = TRANSCRIPTIONS.get(provider, TRANSCRIPTIONS["openai"])
    return way.read([reply], heard(), target(provider))


@pytest.mark.parametrize(
    ("provider", "wanted", "asked"),
    [
        ("openai", "json", "json"),
        ("openai", "text", "json"),
        ("openai", "srt", "verbose_json"),
        ("openai", "vtt", "verbose_json"),
        ("openai", "verbose_json", "verbose_json"),
        ("openai", "diarized_json", "diarized_json"),
        ("groq", "json", "verbose_json"),
        ("groq", "text", "verbose_json"),
    ],
)
def test_json_is_what_we_ask_for(provider: str, wanted: str, asked: str) -> None:
    """Only there it is said what it cost; Groq says the time only in the long form."""
    request = heard(response_format=wanted)
    assert fields_of(provider, request) == {"model": "m", "response_format": asked}


def test_all_fields_go_along() -> None:
    """Lists with their brackets."""
    request = heard(
        language="de",
        prompt="p",
        temperature=0.5,
        timestamp_granularities=("word", "segment"),
        extra={"chunking_strategy": "auto"},
        lists={"include": ("logprobs",)},
    )
    assert fields_of("openai", request) == {
        "model": "m",
        "response_format": "json",
        "language": "de",
        "prompt": "p",
        "temperature": "0.5",
        "timestamp_granularities[]": ("word", "segment"),
        "chunking_strategy": "auto",
        "include[]": ("logprobs",),
    }


def test_mistral_is_asked_in_its_words() -> None:
    """There is one JSON, with times where the client's format needs them."""
    assert fields_of("mistral", heard(language="de")) == {"model": "m", "language": "de"}
    assert fields_of("mistral", heard(response_format="srt")) == {
        "model": "m",
        "timestamp_granularities": "segment",
    }
    assert fields_of("mistral", heard(response_format="diarized_json")) == {
        "model": "m",
        "timestamp_granularities": "segment",
        "diarize": "true",
    }
    request = heard(timestamp_granularities=("word",))
    assert fields_of("mistral", request)["timestamp_granularities"] == "word"


def test_xai_is_asked_in_its_words() -> None:
    """It knows a language and little else."""
    assert fields_of("xai", heard(language="de", response_format="verbose_json")) == {
        "model": "m",
        "language": "de",
    }


@pytest.mark.parametrize(
    ("provider", "field"), [("mistral", "prompt"), ("xai", "prompt"), ("xai", "temperature")]
)
def test_what_a_listener_cannot_do(provider: str, field: str) -> None:
    """Is refused, or dropped and noted."""
    request = heard(**{field: 0.5 if field == "temperature" else "p"})
    with pytest.raises(Unsupported) as caught:
        fields_of(provider, request)
    assert caught.value.param == field
    dropped: list[str] = []
    assert field not in fields_of(provider, request, drop_params=True, dropped=dropped)
    assert dropped == [field]
    assert fields_of(provider, request, allowed=frozenset({field}))[field] in {"0.5", "p"}


@pytest.mark.parametrize(
    ("provider", "name", "usage"),
    [
        ("openai", "tokens", Usage(input=4, audio_input=10, output=7)),
        ("openai", "verbose", Usage(units=Units(milliseconds=9000))),
        ("openai", "diarized", Usage(units=Units(milliseconds=27_400))),
        ("groq", "groq", Usage(units=Units(milliseconds=1630))),
        ("mistral", "mistral", Usage(input=6, output=25, units=Units(milliseconds=4000))),
        ("xai", "xai", Usage(units=Units(milliseconds=3700))),
    ],
)
def test_transcripts(provider: str, name: str, usage: Usage) -> None:
    """Tokens or time, as the provider counts."""
    body = (TRANSCRIPTS / f"{name}.json").read_bytes()
    said = json.loads(body)
    answer = understand(provider, Reply(JSON, body))
    assert answer.text == said["text"]
    assert answer.language == said.get("language")
    assert answer.seconds == said.get("duration")
    assert (answer.segments is None) == ("segments" not in said)
    assert answer.usage == usage
    for wanted in ("json", "text", "verbose_json"):
        body, _ = write_transcription(answer, heard(response_format=wanted))
        assert said["text"].strip().encode() in body


def test_words_of_xai_are_called_as_openai_calls_them() -> None:
    """For clients that look for times."""
    answer = understand("xai", Reply(JSON, (TRANSCRIPTS / "xai.json").read_bytes()))
    assert answer.words is not None
    assert json.loads(bytes(answer.words))[0] == {"word": "The", "start": 0.12, "end": 0.44}
    assert understand("xai", Reply(JSON, b'{"text":"Hi"}')) == TranscriptionResponse("Hi")


def test_bare_text_is_read_too() -> None:
    """Some servers send nothing else."""
    reply = Reply({"content-type": "text/plain; charset=utf-8"}, b" Hi.\n")
    assert understand("openai", reply) == TranscriptionResponse("Hi.")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"text":1}', b'{"text":null}', b"[]"])
def test_an_answer_that_is_none(body: bytes) -> None:
    """Is the provider's mistake."""
    with pytest.raises(UpstreamMalformed):
        understand("openai", Reply(JSON, body))


def test_a_usage_that_cannot_be_read() -> None:
    """Nothing that the client wants hangs on it; Mistral's seconds are an object where it did not count."""
    unknown = understand("openai", Reply(JSON, b'{"text":"a","usage":{"type":7}}'))
    assert unknown.usage is None or unknown.usage.total == 0
    odd = understand("openai", Reply(JSON, b'{"text":"a","usage":{"type":"\xff","input_tokens":3}}'))
    assert odd.usage == Usage(input=3)
    body = b'{"text":"a","usage":{"prompt_tokens":1,"completion_tokens":2,"prompt_audio_seconds":{}}}'
    assert understand("mistral", Reply(JSON, body)).usage == Usage(input=1, output=2)


def test_an_error_hides_in_a_200() -> None:
    """And is found."""
    with pytest.raises(UpstreamRefused, match="Voice not found"):
        understand("openai", Reply(JSON, (TRANSCRIPTS / "error_in_200.json").read_bytes()))


def test_the_official_client_is_understood_and_understands() -> None:
    """From its form to its answer."""
    seen: list[TranscriptionRequest] = []

    def reply(asking: httpx2.Request) -> httpx2.Response:
        form = read_form(asking.headers["content-type"], asking.content)
        request = read_transcription(form.fields, form.lists, form.files["file"], translate=False)
        seen.append(request)
        body, kind = write_transcription(ANSWER, request)
        return httpx2.Response(200, content=body, headers={"content-type": kind})

    with httpx2.Client(transport=httpx2.MockTransport(reply)) as http:
        client = OpenAI(api_key="k", base_url="http://penstock", http_client=http, max_retries=0)
        verbose = client.audio.transcriptions.create(
            model="public",
            file=("ä b.wav", b"RIFF\x00"),
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            temperature=0.5,
        )
        assert verbose.duration == 3661.5
        subtitles = client.audio.transcriptions.create(
            model="public", file=("a.wav", b"RIFF\x00", "audio/wav"), response_format="srt"
        )
        assert str(subtitles).startswith("1\n00:00:00,000")
    assert seen[0].timestamp_granularities == ("word", "segment")
    assert (seen[0].temperature, seen[0].file.data) == (0.5, b"RIFF\x00")
    assert seen[0].file.name == "ä b.wav"
    assert (seen[1].response_format, seen[1].file) == ("srt", SOUND)


# -- recorded --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", RECORDED, ids=str)
def test_recorded_answers(recording: Recording) -> None:
    """What was said or heard, and what it cost."""
    headers = recording.meta["response_headers"]
    if recording.request is not None:
        check_speech(recording, Reply(headers, recording.response))
        return
    said = json.loads(recording.response)
    if recording.provider == "groq":  # a fixture that has a whole exchange of `response_format: text` in it
        answer = understand("groq", Reply(said["headers"], said["body"].encode()))
        assert answer.text == said["body"].strip()
        return
    answer = understand(recording.provider, Reply(headers, recording.response))
    assert (answer.text, answer.language) == (said["text"], said.get("language"))
    usage = answer.usage
    assert usage is not None
    counts = said.get("usage", {})
    seconds = counts.get("seconds", counts.get("prompt_audio_seconds", said.get("duration")))
    assert usage.units.milliseconds == round(seconds * 1000)
    assert usage.total == counts.get("total_tokens", 0)
    for wanted in ("json", "text", "srt", "vtt", "verbose_json"):
        assert write_transcription(answer, heard(response_format=wanted))[0]


def check_speech(recording: Recording, reply: Reply) -> None:
    asked = json.loads(recording.request or b"")
    request = spoken(input=asked.get("input") or asked["text"], voice=asked.get("voice", "eve"), format="mp3")
    answer = hear(recording.provider, reply, request)
    assert answer.media_type == "audio/mpeg"
    assert answer.usage == Usage(units=Units(characters=len(request.input)))
    if recording.provider == "mistral":
        assert answer.data == base64.b64decode(json.loads(recording.response)["audio_data"])
    else:
        assert answer.data == recording.response
    written = speak(recording.provider, request)
    assert set(asked) - {"model"} <= set(written)


def test_calls_are_alike_whenever_they_are_written() -> None:
    """Nothing in a form is random: a retry sends the same bytes."""
    write = TRANSCRIPTIONS["openai"].write
    first, second = write(heard(), target("openai")), write(heard(), target("openai"))
    assert first == second
    assert isinstance(first[0], Call)


def test_empty_sound_of_mistral_is_none() -> None:
    """It is no success, and nobody pays for it."""
    with pytest.raises(UpstreamMalformed, match="no sound"):
        hear("mistral", Reply(JSON, b'{"audio_data":""}'))
