"""What is no chat of OpenAI's or Anthropic's format: how each recording is replayed, and which are not and why.

Each has a deployment of its provider's row, at the path that was recorded where it was kept. Keys are plain ones where
the row takes any: AWS' and Google's rows do, so that no token has to be fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from adapters.providers import PROVIDERS, for_model
from tests.adapters.frames import transcript
from tests.e2e.replay import PROVIDER_KEY, Replay, headers_of, recorded
from tests.recorded import Recording, recordings

NOT_REPLAYED: dict[str, str] = {
    "*/batches": "no operation: batches",
    "*/files": "no operation: files",
    "*/models": "no operation: a provider's list of models is not asked for",
    "*/moderations": "no operation: moderations",
    "*/responses": "no operation: OpenAI's Responses API",
    "anthropic/completions": "Anthropic's text completions of 2023, which nobody asks for",
    "bedrock/count_tokens": "Bedrock's count of tokens is not offered",
    "bedrock/invoke-73248": "Claude's text completions of 2023, which nobody asks for",
    "bedrock/invoke-stream-7062f": "Claude's text completions of 2023, which nobody asks for",
    "bedrock/invoke-900d4": "a container's own text completion",
    "cohere/completions": "Cohere's text completions of 2023, which nobody asks for",
    "gemini/count_tokens": "Google's count of tokens is not offered",
    "ollama/completions": "Ollama's own text completions: completions are asked for under /v1",
    "openai/audio-stream": "transcriptions do not come as events",
    "openai/images-edit": "no operation: edits of pictures",
    "openai/images-err400-image": "no operation: edits of pictures",
    "sagemaker/invoke-e877c": "a container that does not speak OpenAI's format",
    "vertex/count_tokens": "Google's count of tokens is not offered",
}
"""How the names of recordings begin for which there is nothing to ask (`*` is any provider), and why."""


def is_left_out(recording: Recording) -> bool:
    """Is it in the table?"""
    name = str(recording)
    return any(name.startswith((begin, begin.replace("*", recording.provider))) for begin in NOT_REPLAYED)


_OPERATIONS = {"embeddings": "embeddings", "images": "images", "rerank": "rerank"}
"""By the first word of a recording's name. Sound is spoken or heard, all others are chats."""
_ROWS = {
    "alephalpha": "aleph_alpha",
    "together": "together_ai",
    "vertex": "vertex_ai",
    "watsonx": "watsonx_text",
}
"""Folders whose providers' rows have other names."""
_PARAMS = {
    "bedrock": {"aws_region_name": "us-east-1"},
    "watsonx": {"project_id": "a-project", "token": PROVIDER_KEY},
}
_STREAMS = {
    "bin": "application/vnd.amazon.eventstream",
    "ndjson": "application/x-ndjson",
    "sse": "text/event-stream",
}
_MOVED = ("cohere/rerank-dcd31", "watsonx/")
"""What is asked at another address today."""
_MODEL = re.compile(r"/models?/(.+?)(?::\w+|/[\w-]+)$")
_IN_PROJECT = re.compile(r"/projects/([^/]+)/locations/([^/]+)/")


def native() -> Iterator[Replay]:
    """Every recording that `recorded` leaves, but for those in the table."""
    known = {replay.name for replay in recorded()}
    for recording in recordings():
        if str(recording) not in known and not is_left_out(recording):
            yield _replay(recording)


def _replay(recording: Recording) -> Replay:
    row = PROVIDERS[_ROWS.get(recording.provider, recording.provider)]
    path = unquote(urlsplit(str(recording.meta["url"])).path)
    model = _model(recording, path)
    params = dict(_PARAMS.get(recording.provider, {}))
    if row.name == "vertex_ai":
        place = _IN_PROJECT.search(path)
        project, location = place.groups() if place else ("a-project", "global")
        params |= {"vertex_project": project, "vertex_location": location}
    body, headers, is_stream = _answer(recording)
    is_asked = recording.meta.get("method", "POST") == "POST" and "not recorded" not in path
    return Replay(
        name=str(recording),
        format=for_model(row, model)[0].format,
        operation=_operation(recording),
        row=row.name,
        base=urlsplit(row.base_url).path,
        path=path if is_asked and not str(recording).startswith(_MOVED) else "",
        model=model,
        status=recording.status,
        body=body,
        is_stream=is_stream,
        headers=headers,
        question=recording.request,
        params=params,
    )


def _model(recording: Recording, path: str) -> str:
    """The model as it is asked for: from the path, the question or what is known of the recording, if any tells."""
    if recording.provider == "replicate" and recording.meta["method"] == "GET":
        return "owner/name"
    question = json.loads(recording.request or b"{}")
    found = _MODEL.search(path)
    known = question.get("model") or question.get("version") or recording.meta.get("model")
    model = found[1] if found else str(known or "a-model")
    return f"invoke/{model}" if recording.kind == "invoke" and recording.provider == "bedrock" else model


def _operation(recording: Recording) -> str:
    if str(recording) == "replicate/predictions-05cdc":
        return "images"
    kind = recording.path.name.split("-")[0]
    if kind != "audio":
        return _OPERATIONS.get(kind, "chat")
    is_spoken = str(recording.meta["url"]).endswith(("/speech", "/tts"))
    return "speech" if is_spoken else "transcriptions"


def _answer(recording: Recording) -> tuple[bytes, dict[str, str], bool]:
    """Body and headers as they came, and whether it is a stream."""
    body, headers = recording.response, headers_of(recording)
    name, kind = str(recording), recording.response_kind
    if name == "groq/audio-transcription-1d3de":  # a whole exchange stands in the file
        exchange = json.loads(body)
        return exchange["body"].encode(), exchange["headers"], False
    if (
        name == "gemini/generateContent-thinking-jsonarray-0d17b"
    ):  # the same events, asked for without `alt=sse`
        body = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in json.loads(body))
        kind = "sse"
    is_stream = kind in _STREAMS and _operation(recording) == "chat"
    return body, headers | ({"content-type": _STREAMS[kind]} if is_stream else {}), is_stream


# -- from transcripts ------------------------------------------------------------------------------------------------

_TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
_WRITTEN = {
    "aleph_alpha": "llama-3.1-8b-instruct",
    "bedrock": "amazon.nova-lite-v1:0",
    "cohere": "command-a-03-2025",
    "gemini": "gemini-2.5-flash",
    "ollama": "llama3",
    "watsonx": "ibm/granite-4-h-small",
}
"""Folders of our transcripts whose chats are replayed, each with a model. Replicate's take two answers."""
_NO_CHATS = ("embeddings", "error", "rerank")
"""Whole answers that are something else: other operations, and refusals, whose status nobody wrote down."""


def transcribed() -> Iterator[Replay]:
    """Our own answers and streams of each format, so that all this is tested where the recordings are not at hand."""
    for folder, chats in _WRITTEN.items():
        row = PROVIDERS[folder]
        for file in sorted((_TRANSCRIPTS / folder).iterdir()):
            is_stream = file.suffix != ".json"
            if not is_stream and file.name.startswith(_NO_CHATS):
                continue
            kind = "bin" if file.suffix == ".jsonl" else file.suffix[1:]
            model = "luminous-base" if file.stem == "complete" else chats  # which only completes texts
            yield Replay(
                name=f"transcripts/{folder}/{file.name}",
                format=for_model(row, model)[0].format,
                operation="chat",
                row=row.name,
                base=urlsplit(row.base_url).path,
                path="",
                model=model,
                status=200,
                body=transcript(file.stem) if kind == "bin" else file.read_bytes(),
                is_stream=is_stream,
                headers={"content-type": _STREAMS[kind]} if is_stream else {},
                params=_PARAMS.get(folder, {}),
            )
