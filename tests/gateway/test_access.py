"""What a key may, as a table."""

from __future__ import annotations

import pytest

from adapters.errors import Forbidden
from gateway.access import _SINGLE, ModelDenied, check_endpoint, check_model, check_page, matches, may_use
from gateway.admin.routes import PAGES
from gateway.config.load import load
from gateway.endpoints import ENDPOINTS
from gateway.pricing import PriceTable
from gateway.routes import Routes, compile_routes
from gateway.state.keys import KeyRow
from tests.harness import config_of, entry


def key(**limits: tuple[str, ...]) -> KeyRow:
    return KeyRow(digest="d", name="sk-...dddd", **limits)  # type: ignore[arg-type]  # only lists of names


# -- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "path", "may"),
    [
        ((), "/v1/chat/completions", True),
        (("/chat/completions",), "/chat/completions", True),
        (("/chat/completions",), "/v1/chat/completions", True),
        (("/v1/chat/completions",), "/chat/completions", True),
        (("/v1/chat/completions",), "/v1/embeddings", False),
        (("/v1/chat",), "/v1/chat/completions", False),
        (("/v1/chat/*",), "/v1/chat/completions", True),
        (("/v1/*",), "/v1/messages", True),
        (("/v1/*",), "/messages", True),
        (("/v1/*",), "/engines/{model}/chat/completions", True),
        (("/v1/*",), "/openai/v1/chat/completions", False),
        (("/v1/*",), "/openai/deployments/{model}/chat/completions", False),
        (("/v1/*",), "/anthropic/v1/messages", False),
        (("/v1/*",), "/v2/rerank", False),
        (("/openai/*",), "/openai/v1/chat/completions", True),
        (("/engines/*",), "/engines/{model}/chat/completions", True),
        (("llm_api_routes",), "/v1/messages", True),
        (("openai_routes",), "/v1/chat/completions", True),
        (("openai_routes",), "/v1/messages", False),
        (("anthropic_routes",), "/v1/messages", True),
        (("anthropic_routes",), "/v1/chat/completions", False),
        (("info_routes",), "/v1/chat/completions", False),
        (("management_routes",), "/v1/chat/completions", False),
        (("no_such_group",), "/v1/chat/completions", False),
        (("info_routes", "/v1/embeddings"), "/v1/embeddings", True),
    ],
)
def test_endpoints(allowed: tuple[str, ...], path: str, may: bool) -> None:
    """A path, with or without `/v1`, a pattern, or a group lets a key call a model route."""
    (endpoint,) = [endpoint for endpoint in ENDPOINTS if endpoint.path == path]
    if may:
        check_endpoint(key(allowed_routes=allowed), endpoint)
        return
    with pytest.raises(Forbidden) as refused:
        check_endpoint(key(allowed_routes=allowed), endpoint)
    told = ", ".join(f"'{name}'" for name in allowed)
    assert refused.value.message == (
        "Virtual key is not allowed to call this route. Only allowed to call routes: "
        f"[{told}]. Tried to call route: {path}"
    )
    assert (refused.value.status, refused.value.type) == (403, "auth_error")


@pytest.mark.parametrize("path", ["/key/info", "/key/health", "/router/explain", "/anthropic/v1/models"])
def test_pages_that_are_not_below_v1(path: str) -> None:
    """A pattern that begins with `/v1` does not mean what is there without it alone."""
    with pytest.raises(Forbidden):
        check_page(key(allowed_routes=("/v1/*",)), path)
    check_page(key(allowed_routes=("/v1/*", path)), path)


def test_what_is_there_twice() -> None:
    """With and without `/v1`: every path that a key may call, but for those of `_SINGLE`."""
    paths = {endpoint.path for endpoint in ENDPOINTS} | {p.path for p in PAGES if p.access == "caller"}
    twice = {path for path in paths if f"/v1{path}" in paths or path.removeprefix("/v1") in paths - {path}}
    assert {path for path in paths if not path.startswith(_SINGLE)} == twice


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.access == "caller"], ids=lambda page: page.path
)
def test_pages(page: object) -> None:
    """Each page that keys may see at all belongs to a group."""
    (row,) = [row for row in PAGES if row is page]
    check_page(key(), row.path)
    check_page(key(allowed_routes=("info_routes",)), row.path)
    with pytest.raises(Forbidden):
        check_page(key(allowed_routes=("/v1/chat/completions",)), row.path)


# -- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Routes:
    """`gpt-4o` and `cheap` of OpenAI, `smart` of two access groups, `mixed` of one and none, `best` and `both` are aliases."""
    base = "http://127.0.0.1:9"
    path = tmp_path_factory.mktemp("routes") / "config.yaml"
    smart = {
        **entry("smart", "anthropic/claude-sonnet-4-5", base),
        "model_info": {"access_groups": ["beta", "big"]},
    }
    mixed = {**entry("mixed", "anthropic/claude-sonnet-4-5", base), "model_info": {"access_groups": ["beta"]}}
    models = [
        entry("gpt-4o", "openai/gpt-4o", base),
        entry("cheap", "openai/gpt-4o-mini", base),
        smart,
        mixed,
        entry("mixed", "openai/gpt-4o", base),
        entry("groq/*", "groq/*", base),
    ]
    aliases = {"best": "smart", "both": ["gpt-4o", "cheap"]}
    path.write_text(config_of(*models, model_group_alias=aliases))
    return compile_routes(load(path, {}).config, {}, PriceTable.load())


@pytest.mark.parametrize(
    ("allowed", "model", "may"),
    [
        ((), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o", True),
        (("gpt-4o",), "cheap", False),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-4",), "gpt-4o", False),
        (("*",), "gpt-4o", True),
        (("all-proxy-models",), "smart", True),
        (("all-team-models",), "smart", True),
        (("no-default-models",), "smart", False),
        (("no-default-models", "smart"), "smart", True),
        (("gpt-*",), "gpt-4o", True),
        (("gpt-*",), "cheap", False),
        (("*4o",), "gpt-4o", True),
        (("openai/*",), "gpt-4o", True),
        (("openai/*",), "cheap", False),
        (("openai/*",), "smart", False),
        (("groq/*",), "groq/llama-3.3-70b-versatile", True),
        (("groq/llama*",), "groq/qwen", False),
        (("beta",), "smart", True),
        (("big",), "smart", True),
        (("beta",), "mixed", False),
        (("beta",), "gpt-4o", False),
        (("smart",), "best", True),
        (("best",), "best", True),
        (("best",), "smart", False),
        (("gpt-4o",), "both", False),
        (("gpt-4o", "cheap"), "both", True),
        (("gpt-4o",), "nobody", False),
        ((), "nobody", True),
    ],
)
def test_models(routes: Routes, allowed: tuple[str, ...], model: str, may: bool) -> None:
    """Names, patterns, groups, aliases and the words for everything and nothing."""
    route = routes.find(model)
    row = key(models=allowed)
    assert may_use(row, model, route) is may
    if may:
        check_model(row, model, route)
        return
    with pytest.raises(ModelDenied) as refused:
        check_model(row, model, route)
    error = refused.value
    assert (error.status, error.type, error.param) == (403, "key_model_access_denied", "model")
    assert error.message.startswith(
        f"The requested model '{model}' is not available for this API key, or the model"
    )


@pytest.mark.parametrize(
    ("pattern", "name", "does"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("*", "", True),
        ("a*", "a", True),
        ("*a", "ba", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "a1b2c", True),
        ("a*b*c", "acb", False),
        ("a*bb*b", "abb", False),
        ("a*bb*b", "abbb", True),
        ("a.c*", "abc", False),
        ("**", "x", True),
    ],
)
def test_patterns(pattern: str, name: str, does: bool) -> None:
    """A star is any text; nothing else is special."""
    assert matches(pattern, name) is does


def test_patterns_take_no_time() -> None:
    """A pattern of many stars and a name that nearly fits are looked at once, not in all ways."""
    assert not matches("a*" * 500 + "b", "a" * 100_000)
