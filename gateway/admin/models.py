"""`GET /v1/models`: one answer that satisfies the OpenAI and the Anthropic SDK.

Each model is an object with both vendors' fields, https://platform.openai.com/docs/api-reference/models/list and
https://docs.claude.com/en/api/models-list; the list has both envelopes' fields too. OpenAI's SDK reads `data[].id`,
Claude Code reads `data[].id`, `display_name`, `has_more`, Open WebUI needs `object: "list"`.
"""

from __future__ import annotations

from typing import Any

from adapters.errors import ModelNotFound
from gateway.access import may_use
from gateway.routes import Route
from gateway.runtime import Runtime
from gateway.state.keys import KeyRow

_CREATED = 1_677_610_602
_CREATED_AT = "2023-02-28T18:56:42Z"


def list_models(rt: Runtime, key: KeyRow | None = None) -> dict[str, Any]:
    """All names that can be listed and that the caller's key may use, in the order of the configuration."""
    found = {name: rt.routes.find(name) for name in rt.routes.names()}
    names = [name for name, route in found.items() if key is None or may_use(key, name, route)]
    own = {} if key is None else key.aliases
    if key is not None:  # an alias hides the model that has its name
        usable = [name for name, ours in own.items() if may_use(key, ours, found.get(ours))]
        names = [*usable, *(name for name in names if name not in own)]
    models = [_describe(name, found.get(own.get(name, name))) for name in names]
    return {
        "object": "list",
        "data": models,
        "has_more": False,
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
    }


def one_model(rt: Runtime, name: str, key: KeyRow | None = None) -> dict[str, Any]:
    """One model. Raises `ModelNotFound`, also for one that the caller's key may not use."""
    ours = name if key is None else key.aliases.get(name, name)
    route = rt.routes.find(ours)
    if route is None or (key is not None and not may_use(key, ours, route)):
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
