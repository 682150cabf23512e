"""The management table."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.admin.routes import PAGES
from tests.harness import FakeProvider, Gateway, chat_answer, config_for, gateway, whole


@pytest.mark.parametrize("page", [page for page in PAGES if page.method == "GET"], ids=lambda page: page.path)
async def test_every_page_shows(provider: FakeProvider, gw: Gateway, page: object) -> None:
    """Each page answers on an idle gateway and after a request, to HEAD too, without asking a provider."""
    (row,) = [row for row in PAGES if row is page]
    path = row.path.replace("{id:.+}", "gpt-4o").replace("{name:.+}", "nobody-made-it")
    expected = 404 if path.endswith("nobody-made-it") else 200
    assert (await gw.get(path, allow_redirects=False)).status == expected
    provider.will(whole(chat_answer()))
    await gw.post("/v1/chat/completions", {"model": "gpt-4o", "messages": []})
    await gw.rows()
    assert (await gw.get(path, allow_redirects=False)).status == expected
    async with gw.session.head(gw.url + path) as head:
        assert (head.status, await head.read()) == (expected, b"")
    assert len(provider.requests) == 1


def test_pages_are_there_once() -> None:
    """No path has two rows."""
    assert len({(page.method, page.path) for page in PAGES}) == len(PAGES)


async def test_metrics(provider: FakeProvider, gw: Gateway) -> None:
    """A request that has been answered is in the metrics at the next scrape."""
    provider.will(whole(chat_answer()))
    await gw.post("/v1/chat/completions", {"model": "gpt-4o", "messages": []})
    told = await (await gw.get("/metrics")).text()
    assert 'penstock_tokens_total{bucket="output"' in told or "penstock_tokens_total{" in told
    assert "penstock_in_flight_requests 0.0" in told


async def test_spend(provider: FakeProvider, gw: Gateway) -> None:
    """What a request cost is in the books."""
    provider.will(whole(chat_answer()))
    answer = await gw.post("/v1/chat/completions", {"model": "gpt-4o", "messages": []})
    await gw.rows()
    (row,) = await (await gw.get("/spend/logs")).json()
    total = await (await gw.get("/global/spend")).json()
    assert row["request_id"] == answer.headers["x-request-id"]
    assert row["spend"] == total["spend"] == float(answer.headers["x-litellm-response-cost"]) > 0


@pytest.mark.parametrize("coding", ["gzip", "snappy"])
async def test_a_body_that_cannot_be_unpacked(gw: Gateway, coding: str) -> None:
    """It is the caller's mistake on these pages too, and is not taken for what it was packed from."""
    path = f"{gw.url}/key/generate"
    async with gw.session.post(path, data=b"{}", headers={"content-encoding": coding}) as answer:
        told = await answer.json()
    assert (answer.status, told["error"]["type"]) == (400, "invalid_request_error")
    assert "content-encoding" in told["error"]["message"]


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/key/generate", '{"metadata":{"a":%s}}'),
        ("/key/generate", '{"unread":%s}'),
        ("/key/bulk_update", '{"keys":[{"key":%s}]}'),
        (
            "/credentials",
            '{"credential_name":"@","credential_values":{"api_key":"k"},"credential_info":{"a":%s}}',
        ),
        ("/credentials", '{"credential_name":"@","credential_values":{"api_key":%s}}'),
    ],
)
async def test_what_is_nested_deeply(provider: FakeProvider, tmp_path: Path, path: str, body: str) -> None:
    """Whatever is taken can be shown, and the page that lists it too; what could not be is refused."""
    async with gateway(config_for(provider), tmp_path, {"LITELLM_SALT_KEY": "salt-0123456789"}) as gw:
        for levels in (10, *range(235, 256), 900):
            answer = await gw.post(path, (body % nested(levels)).replace("@", f"c{levels}").encode())
            if levels == 10 or answer.status == 200:
                assert answer.status == 200
            else:
                assert (answer.status, (await answer.json())["error"]["param"]) == (400, "request_body")
        assert answer.status == 400
        for page in ("/key/list?size=100&return_full_object=true", "/credentials"):
            assert (await gw.get(page)).status == 200
