"""What a virtual key may: which paths it may call, and which models it may ask for.

Both lists are LiteLLM's. Empty means all. `allowed_routes` has paths (with or without `/v1`), paths with a `*`, and names
of groups (`llm_api_routes` …); what is compared is the matched route, never the text of a request's path. `models` has
public names, patterns (`openai/*`), access groups (`model_info.access_groups`), the names behind an alias, and words for
everything; `no-default-models` is the name of no model, so a key that has it alone may use none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from adapters.errors import Forbidden, GatewayError
from gateway.config.virtual_keys import EVERYTHING, groups_of
from gateway.inbound import Endpoint
from gateway.routes import Route
from gateway.state.keys import KeyRow

_SHOWN = ("llm_api_routes", "openai_routes", "info_routes")
_SHOWN_TO_ANTHROPICS = ("llm_api_routes", "anthropic_routes", "info_routes")
PAGES: Mapping[str, tuple[str, ...]] = {
    "/v1/models": _SHOWN,
    "/models": _SHOWN,
    "/v1/models/{id:.+}": _SHOWN,
    "/models/{id:.+}": _SHOWN,
    "/openai/v1/models": _SHOWN,
    "/openai/models": _SHOWN,
    "/anthropic/v1/models": _SHOWN_TO_ANTHROPICS,
    "/openai/v1/models/{id:.+}": _SHOWN,
    "/openai/models/{id:.+}": _SHOWN,
    "/anthropic/v1/models/{id:.+}": _SHOWN_TO_ANTHROPICS,
    "/key/info": ("info_routes", "management_routes", "key_management_routes"),
    "/key/health": ("info_routes", "management_routes", "key_management_routes"),
    "/router/explain": ("info_routes", "management_routes"),
}
"""The groups that a management page belongs to, as far as keys may see it at all."""
_SINGLE = ("/openai/", "/anthropic/", "/v2/", "/key/", "/router/")
"""What lies below these is not there with `/v1` in front too, so `/v1/*` does not mean it."""


class ModelDenied(GatewayError):
    """The key may not ask for this model."""

    status, type, reason = 403, "key_model_access_denied", "model_denied"


# -- paths -----------------------------------------------------------------------------------------------------------


def check_endpoint(key: KeyRow, endpoint: Endpoint) -> None:
    """May the key call this model route? Raises `Forbidden`."""
    _check(key, endpoint.path, ("llm_api_routes", f"{endpoint.client_format}_routes"))


def check_page(key: KeyRow, path: str) -> None:
    """May the key see this page? Raises `Forbidden`."""
    _check(key, path, PAGES.get(path, ("management_routes",)))


def _check(key: KeyRow, path: str, groups: Iterable[str]) -> None:
    allowed = key.allowed_routes
    if not allowed:
        return
    same = {path} if path.startswith(_SINGLE) else {path, path.removeprefix("/v1"), f"/v1{path}"}
    for name in allowed:
        if name in same or name in groups or ("*" in name and any(matches(name, other) for other in same)):
            return
    told = ", ".join(f"'{name}'" for name in allowed)
    raise Forbidden(
        "Virtual key is not allowed to call this route. Only allowed to call routes: "
        f"[{told}]. Tried to call route: {path}"
    )


# -- models ----------------------------------------------------------------------------------------------------------


def check_model(key: KeyRow, model: str, route: Route | None) -> None:
    """May the key ask for this model? `route` is what serves that name, if anything does. Raises `ModelDenied`."""
    if not may_use(key, model, route):
        raise ModelDenied(
            f"The requested model '{model[:200]}' is not available for this API key, or the model name is invalid. "
            "Check the models available to you and try again.",
            param="model",
        )


def may_use(key: KeyRow, model: str, route: Route | None) -> bool:
    """May the key ask for this model?"""
    allowed = key.models
    if not allowed or model in allowed or not EVERYTHING.isdisjoint(allowed):
        return True
    patterns = tuple(name for name in allowed if "*" in name)
    if _matches_any(patterns, model):
        return True
    deployments = route.deployments if route is not None else ()
    return bool(deployments) and (
        # an alias: all names behind it
        all(
            deployment.route != model
            and (deployment.route in allowed or _matches_any(patterns, deployment.route))
            for deployment in deployments
        )
        or all(not groups_of(deployment.info).isdisjoint(allowed) for deployment in deployments)
        # `gpt-4o` is `openai/gpt-4o` to whoever writes `openai/*`
        or all(
            deployment.target.model == model and _matches_any(patterns, deployment.model_name)
            for deployment in deployments
        )
    )


def _matches_any(patterns: Iterable[str], name: str) -> bool:
    return any(matches(pattern, name) for pattern in patterns)


def matches(pattern: str, name: str) -> bool:
    """Is `name` what `pattern` says, where each `*` is any text? Takes time in proportion to the two, whatever they are."""
    first, *parts = pattern.split("*")
    if not parts:
        return name == pattern
    *middle, last = parts
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
