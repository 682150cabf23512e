"""What can be called, told by what is bound."""

from __future__ import annotations

from adapters import PROVIDERS
from gateway.admin.routes import PAGES, Page
from gateway.endpoints import ENDPOINTS
from gateway.inbound import Endpoint
from tests.harness import Gateway


async def test_every_route_is_described(gw: Gateway) -> None:
    """The document has each row of both tables with its method, and says where a key is needed."""
    told = await (await gw.get("/openapi.json")).json()
    assert told["openapi"].startswith("3.1")
    rows: list[Endpoint | Page] = [*ENDPOINTS, *PAGES]
    for row in rows:
        path = row.path.replace(":.+}", "}")
        operation = told["paths"][path][row.method.lower()]
        assert operation["summary"]
        is_public = getattr(row, "access", "caller") == "public"
        assert ("security" in operation) is not is_public
        assert [parameter["name"] for parameter in operation.get("parameters", [])] == [
            name for name in ("model", "id", "key", "name") if f"{{{name}}}" in path
        ]


async def test_routes(gw: Gateway) -> None:
    """LiteLLM's list has each path and its methods."""
    told = {row["path"]: row["methods"] for row in (await (await gw.get("/routes")).json())["routes"]}
    assert told["/v1/chat/completions"] == ["POST"]
    assert "GET" in told["/health"]
    assert all(
        {"path", "methods", "name", "endpoint"} <= set(row)
        for row in (await (await gw.get("/routes")).json())["routes"]
    )


async def test_providers(gw: Gateway) -> None:
    """Every provider is shown with the variables that switch it on, and no values."""
    told = (await (await gw.get("/public/providers")).json())["providers"]
    assert {row["name"] for row in told} == {provider.name for provider in PROVIDERS.values()}
    assert {row["name"]: row["operations"] for row in told}["voyage"] == ["embeddings", "rerank"]
    assert not any(row["from_environment"] for row in told)
