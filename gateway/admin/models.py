"""`GET /v1/models`: one answer that satisfies the OpenAI and the Anthropic SDK.

Each model is an object with both vendors' fields, https://platform.openai.com/docs/api-reference/models/list and
https://docs.claude.com/en/api/models-list; the list has both envelopes' fields too. OpenAI's SDK reads `data[].id`,
Claude Code reads `data[].id`, `display_name`, `has_more`, Open WebUI needs `object: "list"`.
"""

from __future__ import annotations

from typing import Any

from adapters.errors import ModelNotFound
from gateway.routes import Route
from gateway.runtime import Runtime

_CREATED = 1_677_610_602
_CREATED_AT = "2023-02-28T18:56:42Z"


def list_models(rt: Runtime) -> dict[str, Any]:
    """All names that can be listed, in the order of the configuration."""
    names = rt.routes.names()
    models = [_describe(name, rt.routes.find(name)) for name in names]
    return {
        "object": "list",
        "data": models,
        "has_more": False,
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
    }


def one_model(rt: Runtime, name: str) -> dict[str, Any]:
    """One model. Raises `ModelNotFound`."""
    route = rt.routes.find(name)
    if route is None:
        raise ModelNotFound(f"The model {name[:200]!r} does not exist here.")
    return _describe(name, route)


def _describe(name: str, route: Route | None) -> dict[str, Any]:
    model: dict[str, Any] = {
        "id": name,
        "object": "model",
        "type": "model",
        "created": _CREATED,
        "created_at": _CREATED_AT,
        "display_name": name,
        "owned_by": route.deployments[0].provider if route and route.deployments else "openai",
    }
    facts = route.deployments[0].facts if route and route.deployments else None
    if facts is None:
        return model
    if facts.mode:
        model["mode"] = facts.mode
    if facts.max_input:
        model |= {"max_input_tokens": facts.max_input, "context_window": facts.max_input}
    if facts.max_output:
        model["max_output_tokens"] = facts.max_output
    return model
