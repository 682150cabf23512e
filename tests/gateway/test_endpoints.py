"""The endpoint table."""

from __future__ import annotations

import pytest

from gateway.endpoints import ENDPOINTS, dialect_of
from tests.harness import FakeProvider, Gateway, chat_answer, message_answer, whole

ANSWERS = {
    "chat": chat_answer(),
    "completions": {"id": "c", "object": "text_completion", "model": "x", "choices": [{"text": "Hi", "index": 0, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}},
    "embeddings": {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "model": "x", "usage": {"prompt_tokens": 4, "total_tokens": 4}},
    "count_tokens": {"input_tokens": 3},
}  # fmt: skip


@pytest.mark.parametrize(
    "endpoint",
    [row for row in ENDPOINTS if row.operation in ANSWERS],
    ids=lambda endpoint: endpoint.path,
)
async def test_every_endpoint_serves(provider: FakeProvider, gw: Gateway, endpoint: object) -> None:
    """Each row answers in its format, asks the provider's path for its operation, and leaves a row with its name."""
    (row,) = [row for row in ENDPOINTS if row is endpoint]
    is_openai = row.client_format == "openai"
    answer = ANSWERS[row.operation] if is_openai or row.operation != "chat" else message_answer()
    provider.will(whole(answer))
    name = "gpt-4o" if is_openai else "claude"
    body = {"model": name, "messages": [], "input": "x", "prompt": "x", "max_tokens": 5}
    got = await gw.post(row.path.replace("{model}", name), body)
    (booked,) = await gw.rows()
    assert got.status == 200, await got.text()
    assert set(answer) <= set(await got.json())
    if "model" in answer:
        assert (await got.json())["model"] == name
    assert (booked.endpoint, booked.operation, booked.status) == (row.path, row.operation, "success")
    expected = {
        "chat": "/v1/chat/completions" if is_openai else "/v1/messages",
        "count_tokens": "/v1/messages/count_tokens",
    }
    assert provider.requests[0].path == expected.get(row.operation, f"/v1/{row.operation}")


TASKS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "images": ({"prompt": "x"}, {"created": 1, "data": [{"url": "https://example.com/a.png"}]}),
    "speech": ({"input": "x", "voice": "alloy"}, {}),
    "transcriptions": ({}, {"text": "x"}),
    "translations": ({}, {"text": "x"}),
}


@pytest.mark.parametrize(
    "endpoint", [row for row in ENDPOINTS if row.operation in TASKS], ids=lambda endpoint: endpoint.path
)
async def test_every_path_of_a_task_serves(provider: FakeProvider, gw: Gateway, endpoint: object) -> None:
    """So does each path of what is no chat, the model in the path too; sound comes as a form."""
    (row,) = [row for row in ENDPOINTS if row is endpoint]
    fields, answer = TASKS[row.operation]
    sound = whole(b"sound", headers={"content-type": "audio/mpeg"})
    provider.will(sound if row.operation == "speech" else whole(answer))
    path = row.path.replace("{model}", "gpt-4o")
    if row.operation in {"transcriptions", "translations"}:
        form = (
            b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n--b\r\nContent-Disposition: '
            b'form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--b--\r\n'
        )
        got = await gw.post(path, form, headers={"content-type": "multipart/form-data; boundary=b"})
    else:
        got = await gw.post(path, {"model": "gpt-4o", **fields})
    (booked,) = await gw.rows()
    assert got.status == 200, await got.text()
    assert (booked.endpoint, booked.operation, booked.status) == (row.path, row.operation, "success")


def test_paths_are_there_with_and_without_v1() -> None:
    """Every path exists in both spellings, once."""
    paths = [endpoint.path for endpoint in ENDPOINTS]
    assert len(paths) == len(set(paths))
    for path in ("/chat/completions", "/completions", "/embeddings", "/messages", "/messages/count_tokens"):
        assert {path, f"/v1{path}"} <= set(paths)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/messages", "anthropic"),
        ("/v1/messages/batches", "anthropic"),
        ("/messages", "anthropic"),
        ("/anthropic/v1/anything", "anthropic"),
        ("/v1/chat/completions", "openai"),
        ("/", "openai"),
        ("", "openai"),
        ("/v1/threads/thread_1/messages", "openai"),
        ("/nothing", "openai"),
    ],
)
def test_dialects(path: str, dialect: str) -> None:
    """Errors on paths that nobody serves are written in the language of whoever would have been asked."""
    assert dialect_of(path) == dialect
    assert dialect_of(path, {"anthropic-version": "2023-06-01"}) == "anthropic"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/v1/nothing", 404),
        ("POST", "/v1/messages/batches", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/messages", 405),
        ("POST", "/v1/models", 405),
        ("PUT", "/health", 405),
    ],
)
async def test_nobody_there(gw: Gateway, method: str, path: str, status: int) -> None:
    """An unknown path is 404 and a wrong method 405 with `Allow`, both in the dialect of the path."""
    async with gw.session.request(method, gw.url + path) as answer:
        told = await answer.json()
    assert answer.status == status
    assert ("allow" in answer.headers) is (status == 405)
    assert ("type" in told) is ("messages" in path)
    assert told["error"]["message"]
