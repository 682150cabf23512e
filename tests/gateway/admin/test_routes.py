"""The management table."""

from __future__ import annotations

import pytest

from gateway.admin.routes import PAGES
from tests.harness import FakeProvider, Gateway, chat_answer, whole


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
