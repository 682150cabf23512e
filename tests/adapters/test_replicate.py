"""Replicate's format: prompts, predictions, streams and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters import FOLLOW, FORMATS, IMAGES, replicate
from adapters.base import Follow, ProviderSide
from adapters.errors import (
    BadRequest,
    ContentPolicyViolation,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
    UpstreamMalformed,
    UpstreamRefused,
)
from adapters.providers import PROVIDERS
from adapters.types import (
    ChatRequest,
    Failure,
    Finish,
    Image,
    ImagesRequest,
    Message,
    Picture,
    Ping,
    Reasoning,
    Reply,
    ResponseFormat,
    Start,
    Target,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    Units,
    Usage,
)
from tests.adapters.reading import at_once, byte_by_byte, said
from tests.recorded import Recording, recordings

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "replicate"
TARGET = Target(
    provider=PROVIDERS["replicate"],
    model="meta/meta-llama-3-70b-instruct",
    base_url="https://api.replicate.com/v1",
)
DROPPING = replace(TARGET, drop_params=True, dropped=[])
QUESTION = ChatRequest(model="any", messages=(Message("user", (Text("Name a color."),)),))
PREDICTIONS = list(recordings("replicate", kinds=("predictions",)))
WAITED = [each for each in PREDICTIONS if "preference-applied" in each.meta["response_headers"]]
STREAMS = [each for each in PREDICTIONS if each.is_stream]
ASKED = [each for each in PREDICTIONS if each.request is not None and each.status == 201]


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / name).read_bytes()


def of(model: str, **more: Any) -> Target:
    return replace(TARGET, model=model, **more)


def written(request: ChatRequest, target: Target = TARGET) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(replicate.write_request(request, target))
    return body


def reader() -> replicate.StreamReader:
    return replicate.read_stream(QUESTION, TARGET)


def test_the_module_keeps_the_contract() -> None:
    """It is registered as a format, as a maker of pictures and as one whose answers have to be fetched."""
    side: ProviderSide = replicate
    assert FORMATS["replicate"] is side
    assert IMAGES["replicate"] is replicate.IMAGES
    assert FOLLOW["replicate"] is replicate.follow


# -- where -----------------------------------------------------------------------------------------------------------

VERSION = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("meta/meta-llama-3-70b-instruct", "/models/meta/meta-llama-3-70b-instruct/predictions"),
        (f"owner/name:{VERSION}", "/predictions"),
        (VERSION, "/predictions"),
        ("deployments/me/mine", "/deployments/me/mine/predictions"),
    ],
)
def test_address(model: str, path: str) -> None:
    """Official models, versions and deployments have an address each."""
    address = replicate.address(of(model), "chat", {"x-a": "1"}, stream=False)
    assert address.url == "https://api.replicate.com/v1" + path
    headers = dict(address.headers)
    assert headers["prefer"] == "wait"
    assert headers["x-a"] == "1"
    assert "prefer" not in dict(replicate.address(of(model), "chat", {}, stream=True).headers)


@pytest.mark.parametrize(
    "model", ["name", "../x", "a/../b", "a/b/c", "a/b?c", "deployments/mine", ":abc", "a/.b"]
)
def test_no_models_name(model: str) -> None:
    """What is no model's name is refused, so that no path is walked."""
    with pytest.raises(Unsupported):
        replicate.address(of(model), "chat", {}, stream=False)


def test_what_is_not_offered() -> None:
    """There are no embeddings."""
    with pytest.raises(Unsupported, match="embeddings"):
        replicate.address(TARGET, "embeddings", {}, stream=False)


def test_version_is_in_the_body() -> None:
    """A version is asked for by its hash."""
    assert written(QUESTION, of(f"owner/name:{VERSION}"))["version"] == VERSION
    assert written(QUESTION, of(VERSION))["version"] == VERSION
    assert "version" not in written(QUESTION)


# -- what is asked ---------------------------------------------------------------------------------------------------


def test_one_question_is_the_prompt() -> None:
    """A single turn stays as it was asked; the usual fields have Replicate's names."""
    request = replace(
        QUESTION,
        system=(Text("Be brief."), Text("Be kind.")),
        max_tokens=16,
        temperature=0.0,
        top_p=0.5,
        top_k=3,
        seed=7,
        stop=("END", "\n\n"),
        presence_penalty=0.1,
        frequency_penalty=0.2,
        user="somebody",
        extra={"min_tokens": Raw(b"2")},
    )
    assert written(request) == {
        "input": {
            "prompt": "Name a color.",
            "system_prompt": "Be brief.\n\nBe kind.",
            "max_tokens": 16,
            "temperature": 0.0,
            "top_p": 0.5,
            "top_k": 3,
            "seed": 7,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "stop_sequences": "END,\n\n",
            "min_tokens": 2,
        }
    }
    assert written(replace(QUESTION, stream=True))["stream"] is True


def test_several_turns_are_a_transcript() -> None:
    """It ends where the assistant speaks next; where a model has no system prompt it stands in front."""
    turns = (
        Message("user", (Text("Name a color."),)),
        Message("assistant", (Text("Blue."),)),
        Message("user", (Text("Another"), Text("one."))),
    )
    request = replace(QUESTION, messages=turns, system=(Text("Be brief."),))
    prompt = "Be brief.\n\nUser: Name a color.\n\nAssistant: Blue.\n\nUser: Another\none.\n\nAssistant:"
    assert written(request, of("deepseek-ai/deepseek-r1"))["input"] == {"prompt": prompt}
    assert written(request)["input"]["prompt"] == prompt.removeprefix("Be brief.\n\n")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            "openai/gpt-5",
            {"max_completion_tokens": 9, "reasoning_effort": "low", "image_input": ["https://x/y.png"]},
        ),
        ("google/gemini-3-pro", {"max_output_tokens": 9, "images": ["https://x/y.png"]}),
        ("anthropic/claude-sonnet-5", {"max_tokens": 9, "image": "https://x/y.png"}),
        ("yorickvp/llava-13b", {"max_tokens": 9, "image": "https://x/y.png"}),
    ],
)
def test_owners_have_names_of_their_own(model: str, expected: dict[str, Any]) -> None:
    """The large vendors' models call the same things otherwise."""
    message = Message("user", (Text("What is it?"), Image(url="https://x/y.png")))
    reasoning = Reasoning(effort="low") if model.startswith("openai/") else None
    request = replace(QUESTION, messages=(message,), max_tokens=9, reasoning=reasoning)
    assert written(request, of(model))["input"] == {"prompt": "What is it?", **expected}


TOOL = Tool("f", Raw(b"{}"))


@pytest.mark.parametrize(
    ("model", "more", "param"),
    [
        ("meta/x", {"tools": (TOOL,)}, "tools"),
        ("meta/x", {"response_format": ResponseFormat("json_object")}, "response_format"),
        ("meta/x", {"n": 2}, "n"),
        ("meta/x", {"logprobs": True}, "logprobs"),
        ("meta/x", {"reasoning": Reasoning(effort="high")}, "reasoning_effort"),
        ("meta/x", {"stop": ("a,b",)}, "stop"),
        ("meta/x", {"unspoken": {"prediction": Raw(b"{}")}}, "prediction"),
        ("meta/x", {"messages": (Message("user", (Image(url="https://x/y.png"),)),)}, "messages"),
        ("meta/x", {"messages": (Message("assistant", (ToolCall("1", "f", "{}"),)),)}, "messages"),
        ("a/b", {"messages": (Message("user", (Image(url="u"), Image(data="AA=="))),)}, "messages"),
        ("anthropic/x", {"temperature": 0.0}, "temperature"),
        ("anthropic/x", {"stop": ("a",)}, "stop"),
        ("openai/x", {"top_k": 4}, "top_k"),
    ],
)
def test_what_cannot_be_said(model: str, more: dict[str, Any], param: str) -> None:
    """What a model has no word for is refused by name, or dropped and noted where the deployment says so."""
    request = replace(QUESTION, **more)
    with pytest.raises(Unsupported) as refused:
        replicate.write_request(request, of(model))
    assert refused.value.param == param
    dropped: list[str] = []
    replicate.write_request(request, of(model, drop_params=True, dropped=dropped))
    assert dropped == [param]


def test_hints_and_what_is_ordinary_anyway() -> None:
    """Hints are dropped silently, and `n=1` or no reasoning says nothing."""
    request = replace(
        QUESTION, n=1, logprobs=False, reasoning=Reasoning("disabled"), unspoken={"store": Raw(b"true")}
    )
    assert written(request)["input"] == {"prompt": "Name a color."}


@pytest.mark.parametrize("recording", ASKED, ids=str)
def test_recorded_questions_are_ours(recording: Recording) -> None:
    """What Replicate's own client asked is what we ask."""
    assert recording.request is not None
    asked = json.loads(recording.request)
    request = ChatRequest(model="m", messages=(Message("user", (Text(asked["input"]["prompt"]),)),))
    assert written(request) == asked
    model = recording.meta["url"].split("/models/")[1].removesuffix("/predictions")
    assert replicate.address(of(model), "chat", {}, stream=False).url == recording.meta["url"]


# -- where the answer is ---------------------------------------------------------------------------------------------

GET = "https://api.replicate.com/v1/predictions/r4n8dq2m5xrm80cq7v3sc1tqbw"
HELD_BACK = {"preference-applied": "wait"}


def test_what_is_done_is_not_followed() -> None:
    """A prediction that is done, well or not, is the answer."""
    for name in ("answer.json", "failed.json", "filtered.json", "pictures.json"):
        assert replicate.follow(Reply({}, transcript(name))) is None
        assert replicate.follow(Reply({}, transcript(name)), stream=True) is None


@pytest.mark.parametrize("headers", [{}, HELD_BACK])
def test_what_has_not_begun_is_asked_for_again(headers: dict[str, str]) -> None:
    """A prediction without an output is looked at again, and can be canceled."""
    follow = replicate.follow(Reply(headers, transcript("starting.json")))
    assert follow == Follow(GET, replicate.POLL_SECONDS, GET + "/cancel")


def test_what_runs_is_asked_for_again() -> None:
    """While it runs there is a part of the output; what was held back is whole although it says that it runs."""
    assert replicate.follow(Reply({}, transcript("partial.json"))) == Follow(
        GET, replicate.POLL_SECONDS, GET + "/cancel"
    )
    assert replicate.follow(Reply(HELD_BACK, transcript("partial.json"))) is None


def test_a_stream_is_elsewhere() -> None:
    """A stream has an address of its own, at once."""
    follow = replicate.follow(Reply({}, transcript("starting.json")), stream=True)
    assert follow == Follow(
        "https://stream.replicate.com/v1/files/bcwr-abc",
        0.0,
        GET + "/cancel",
        ("replicate.com", "replicate.net"),
    )


@pytest.mark.parametrize("stream", [True, False])
def test_nowhere_to_go(stream: bool) -> None:
    """An answer that is neither here nor elsewhere is malformed."""
    with pytest.raises(UpstreamMalformed):
        replicate.follow(Reply({}, b'{"status":"starting"}'), stream=stream)
    with pytest.raises(UpstreamMalformed):
        replicate.follow(Reply({}, b"<html>"), stream=stream)


@pytest.mark.parametrize("recording", PREDICTIONS, ids=str)
def test_recorded_predictions_are_followed(recording: Recording) -> None:
    """Each recorded prediction is done, or says where it goes on, at Replicate's own host."""
    if recording.is_stream or recording.status >= 400:
        return
    follow = replicate.follow(Reply(recording.meta["response_headers"], recording.response))
    if recording in WAITED:
        assert follow is None
    else:
        assert follow is not None
        assert follow.url == json.loads(recording.response)["urls"]["get"]


# -- the answer ------------------------------------------------------------------------------------------------------


def test_answer() -> None:
    """The pieces are one text, and the tokens are counted."""
    answer = replicate.read_response(transcript("answer.json"), QUESTION, TARGET)
    assert answer.id == "r4n8dq2m5xrm80cq7v3sc1tqbw"
    assert answer.model == "meta/meta-llama-3-70b-instruct"
    assert [(choice.parts, choice.finish) for choice in answer.choices] == [
        ((Text("The sky is blue, isn't it?"),), "stop")
    ]
    assert answer.usage == Usage(input=9, output=8)


@pytest.mark.parametrize(
    ("output", "text"),
    [('"plain"', "plain"), ('{"answer":1}', '{"answer":1}'), ("[1,2]", "[1,2]"), ('["\\ud800"]', "\ufffd")],
)
def test_output_of_other_shapes(output: str, text: str) -> None:
    """A text is a text, and what a model makes of its own is given as its JSON."""
    body = b'{"status":"succeeded","output":%b}' % output.encode()
    assert replicate.read_response(body, QUESTION, TARGET).choices[0].parts == (Text(text),)


def test_no_output() -> None:
    """A model may say nothing."""
    answer = replicate.read_response(b'{"status":"succeeded","output":null}', QUESTION, TARGET)
    assert answer.choices[0].parts == ()
    assert answer.usage is None


def test_tokens_by_their_newer_names() -> None:
    """The counts have had two names."""
    body = b'{"status":"succeeded","output":[],"metrics":{"token_input_count":3,"token_output_count":4}}'
    assert replicate.read_response(body, QUESTION, TARGET).usage == Usage(input=3, output=4)


@pytest.mark.parametrize("recording", WAITED, ids=str)
def test_recorded_answer(recording: Recording) -> None:
    """What was held back by `Prefer: wait` is whole, though its status is `processing`."""
    body = json.loads(recording.response)
    answer = replicate.read_response(recording.response, QUESTION, TARGET)
    assert answer.id == body["id"]
    assert answer.choices[0].parts == (Text("".join(body["output"])),)
    assert answer.usage is None


def test_failures_of_a_run() -> None:
    """A run that failed is the model's fault, unless its filter refused the question."""
    with pytest.raises(UpstreamError, match="ran out of memory") as failed:
        replicate.read_response(transcript("failed.json"), QUESTION, TARGET)
    assert failed.value.status == 502
    assert failed.value.elsewhere
    with pytest.raises(ContentPolicyViolation):
        replicate.read_response(transcript("filtered.json"), QUESTION, TARGET)
    with pytest.raises(UpstreamError, match="has been canceled"):
        replicate.read_response(b'{"status":"canceled","error":null}', QUESTION, TARGET)
    with pytest.raises(UpstreamError, match='"code":7'):
        replicate.read_response(b'{"status":"failed","error":{"code":7}}', QUESTION, TARGET)
    with pytest.raises(UpstreamError, match="has failed"):
        replicate.read_response(b'{"status":"failed"}', QUESTION, TARGET)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"status":"starting"}', b'{"id":1}'])
def test_malformed(body: bytes) -> None:
    """What is no answer is said to be none."""
    with pytest.raises(UpstreamMalformed):
        replicate.read_response(body, QUESTION, TARGET)


# -- a stream --------------------------------------------------------------------------------------------------------


def test_stream() -> None:
    """Lines are joined, leading spaces stay, comments are signs of life and other events nothing."""
    deltas = at_once(reader, transcript("stream.sse"))
    assert deltas == [
        Start(),
        TextDelta(Raw(b'"The"')),
        TextDelta(Raw(b'" sky"')),
        Ping(),
        TextDelta(Raw(json.dumps(':\n\nit is "blue" – ü', ensure_ascii=False).encode())),
        Finish("stop"),
    ]
    assert byte_by_byte(reader, transcript("stream.sse")) == deltas


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_recorded_stream(recording: Recording) -> None:
    """A recorded stream says what a naive reading finds, at once and byte by byte."""
    text = ""
    for event in recording.response.decode().split("\n\n"):
        if event.startswith("event: output"):
            text += "\n".join(line[6:] for line in event.split("\n") if line.startswith("data:"))
    deltas = at_once(reader, recording.response)
    assert said(deltas) == {"text": text, "tools": [], "finish": ["stop"], "usage": None}
    assert text.startswith("Sure, here's a joke about OpenTelemetry:\n\nWhy did")
    assert byte_by_byte(reader, recording.response) == deltas


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("error_in_stream.sse", "The model ran out of memory"),
        ("canceled.sse", "The prediction has been canceled"),
    ],
)
def test_error_in_a_stream(name: str, message: str) -> None:
    """An error is the last that is said, whatever follows it."""
    deltas = at_once(reader, transcript(name))
    *_, failure = deltas
    assert isinstance(failure, Failure)
    assert failure.error.message == message
    assert failure.error.provider_status == 500
    assert sum(isinstance(each, Failure) for each in deltas) == 1
    assert [type(each) for each in byte_by_byte(reader, transcript(name))] == [type(each) for each in deltas]


def test_an_error_that_no_decoder_reads() -> None:
    """It is a failure all the same, never an exception."""
    for stream in (b'{"detail":1e400}', b'{"detail":[1e400]}'):
        (failure,) = reader().feed(b"event: error\ndata: " + stream + b"\n\n")
        assert isinstance(failure, Failure)
        assert "1e400" in failure.error.message


def test_error_as_text() -> None:
    """An error may be plain text, and one of the filter is known."""
    (failure,) = reader().feed(b"event: error\ndata: NSFW content detected\n\n")
    assert isinstance(failure, Failure)
    assert type(failure.error) is ContentPolicyViolation


def test_stream_without_its_end() -> None:
    """A stream that only ends is broken; one that says nothing but `done` is an empty answer."""
    one = reader()
    one.feed(b"event: output\ndata: x\n\n")
    (failure,) = one.close()
    assert isinstance(failure, Failure)
    assert type(failure.error) is UpstreamMalformed
    assert at_once(reader, b"event: done\ndata: \n\n") == [Start(), Finish("stop")]
    for half in (b"{", b'{"reason": "err'):
        (failure,) = reader().feed(b"event: done\ndata: " + half + b"\n\n")
        assert isinstance(failure, Failure)
        assert type(failure.error) is UpstreamMalformed


def test_there_is_no_short_way() -> None:
    """Events are never JSON that could pass."""
    assert reader().words(b"event: output\ndata: x\n\n") == b""


# -- what went wrong -------------------------------------------------------------------------------------------------


def test_refusals() -> None:
    """A problem's detail is its message."""
    refused = replicate.read_error(422, {}, transcript("error.json"))
    assert type(refused) is UpstreamRefused
    assert refused.message == "- input.temperature: Must be less than or equal to 5"
    assert type(replicate.read_error(401, {}, transcript("error_auth.json"))) is UpstreamAuth
    assert replicate.read_error(500, {}, b'{"title":"Oh"}').message == "Oh"
    assert replicate.read_error(500, {}, b"Oh no").message == "Oh no"
    assert replicate.read_error(429, {"retry-after": "3"}, b"{}").retry_after == 3


@pytest.mark.parametrize("recording", [each for each in PREDICTIONS if each.status >= 400], ids=str)
def test_recorded_refusal(recording: Recording) -> None:
    """A bad key is the operator's, not the caller's."""
    assert type(replicate.read_error(recording.status, {}, recording.response)) is UpstreamAuth


# -- pictures --------------------------------------------------------------------------------------------------------

ASK_PICTURE = ImagesRequest(model="any", prompt="a cat")


def test_what_the_operator_allows() -> None:
    """What a model has no word for goes on as it came."""
    request = replace(
        QUESTION,
        stop=("a",),
        temperature=0.0,
        reasoning=Reasoning(effort="low"),
        unspoken={"prediction": Raw(b"{}")},
    )
    allowing = of("anthropic/x", allowed=frozenset({"stop", "temperature", "reasoning_effort", "prediction"}))
    plain = written(QUESTION, of("anthropic/x"))["input"]
    assert written(request, allowing)["input"] == plain | {
        "stop": ["a"],
        "temperature": 0.0,
        "reasoning_effort": "low",
        "prediction": {},
    }


def asked(request: ImagesRequest, model: str = "black-forest-labs/flux-schnell") -> list[dict[str, Any]]:
    return [json.loads(call.body)["input"] for call in replicate.IMAGES.write(request, of(model))]


def test_one_prediction_for_each_picture() -> None:
    """Not every model makes several; sizes are said in pixels and as a shape."""
    request = replace(ASK_PICTURE, n=2, size="1792x1024", output_format="jpeg", extra={"seed": Raw(b"1")})
    expected = {
        "prompt": "a cat",
        "width": 1792,
        "height": 1024,
        "aspect_ratio": "16:9",
        "output_format": "jpg",
        "seed": 1,
    }
    assert asked(request) == [expected, expected]
    assert asked(replace(ASK_PICTURE, size="auto")) == [{"prompt": "a cat"}]


def test_openais_pictures() -> None:
    """OpenAI's models know OpenAI's words, but for the size."""
    request = replace(
        ASK_PICTURE, size="1024x1536", quality="high", background="transparent", output_format="jpeg"
    )
    assert asked(request, "openai/gpt-image-1") == [
        {
            "prompt": "a cat",
            "aspect_ratio": "2:3",
            "output_format": "jpeg",
            "quality": "high",
            "background": "transparent",
        }
    ]


@pytest.mark.parametrize("field", ["quality", "style", "background"])
def test_words_for_pictures_that_nobody_else_knows(field: str) -> None:
    """They are refused, or dropped."""
    request = ImagesRequest(model="any", prompt="a cat", **{field: "x"})  # type: ignore[arg-type]  # a name of a text field
    with pytest.raises(Unsupported, match=field):
        asked(request)
    dropped: list[str] = []
    replicate.IMAGES.write(request, replace(DROPPING, dropped=dropped))
    assert dropped == [field]


def test_data_of_pictures_is_not_to_be_had() -> None:
    """Pictures come as addresses."""
    with pytest.raises(Unsupported, match="b64_json"):
        asked(replace(ASK_PICTURE, response_format="b64_json"))
    with pytest.raises(BadRequest):
        asked(replace(ASK_PICTURE, size="large"))


def test_pictures() -> None:
    """Addresses stay addresses, data is data, one or several; each is billed."""
    one = b'{"status":"succeeded","output":"https://replicate.delivery/a.png"}'
    answer = replicate.IMAGES.read(
        (Reply({}, transcript("pictures.json")), Reply({}, one)), ASK_PICTURE, TARGET
    )
    assert answer.pictures == (
        Picture(url="https://replicate.delivery/xezq/one/out-0.webp"),
        Picture(b64_json="UklGRg=="),
        Picture(url="https://replicate.delivery/a.png"),
    )
    assert answer.usage == Usage(units=Units(images=3))


def test_no_pictures() -> None:
    """A run without a picture is no answer, one that the filter ended a refusal."""
    with pytest.raises(UpstreamMalformed):
        replicate.IMAGES.read((Reply({}, b'{"status":"succeeded","output":[]}'),), ASK_PICTURE, TARGET)
    with pytest.raises(ContentPolicyViolation):
        replicate.IMAGES.read((Reply({}, transcript("filtered.json")),), ASK_PICTURE, TARGET)
