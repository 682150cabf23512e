"""What tests of choices share: routes made of entries, and a request that wants something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Raw, Struct, field
from multidict import CIMultiDict

from gateway.config.model import Config, ModelEntry, ModelParams, Place, RouterSettings, Secret
from gateway.endpoints import ENDPOINTS
from gateway.inbound import NO_CONTROLS, Controls, Head
from gateway.keyring import ANONYMOUS, Caller
from gateway.pricing import PriceTable
from gateway.routes import Deployment, Route, compile_routes
from gateway.routing.health import Health
from gateway.routing.router import Router

PRICES = PriceTable.load()
CHAT = next(endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/chat/completions")


def head(headers: Mapping[str, str] | None = None) -> Head:
    """A request's head."""
    return Head(CHAT, CIMultiDict(headers or {}), remote="127.0.0.1", keep_alive=True)


class Asked(Struct):
    """A request, as far as its choice goes."""

    http: Head = field(default_factory=head)
    caller: Caller | None = ANONYMOUS
    controls: Controls = NO_CONTROLS
    envelope: Mapping[str, Raw] = {}
    wants_stream: bool = False


def route_of(*entries: Mapping[str, Any], name: str = "m", info: Mapping[str, Any] | None = None) -> Route:
    """A route of entries, each the fields of its `litellm_params`; `model` is `openai/a`, `openai/b` … if not given."""
    listed = []
    for position, fields in enumerate(entries):
        params = {
            "model": f"openai/{'abcdefghijklmnop'[position]}",
            "api_key": Secret("sk-a-key-of-a-test"),
            **fields,
        }
        listed.append(
            ModelEntry(
                model_name=name,
                params=ModelParams(**params),
                info=dict(info or {}),
                place=Place("c.yaml", 1, 1),
            )
        )
    found = compile_routes(Config(model_list=tuple(listed)), {}, PRICES).find(name)
    assert found is not None
    return found


def router_of(health: Health | None = None, **settings: Any) -> Router:
    """A router with these settings."""
    return Router(RouterSettings(**settings), health or Health())


def names(deployments: list[Deployment]) -> list[str]:
    """The models of deployments."""
    return [deployment.target.model for deployment in deployments]
