"""`/routes` and `/openapi.json`: what can be called, read from what is bound."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from adapters import PROVIDERS
from gateway import __version__
from gateway.runtime import Runtime

_PARAMETER = re.compile(r"\{(\w+)(?::[^}]*)?\}")


def list_routes(app: web.Application) -> list[dict[str, Any]]:
    """LiteLLM's shape: path, methods, name and endpoint of each route."""
    return [
        {
            "path": _path(resource),
            "methods": sorted({route.method for route in resource}),
            "name": resource.name or _path(resource),
            "endpoint": resource.name or _path(resource),
        }
        for resource in app.router.resources()
    ]


def document(app: web.Application) -> dict[str, Any]:
    """OpenAPI 3.1. Bodies of model routes are the vendors' own, so they are named and not copied."""
    paths: dict[str, dict[str, Any]] = {}
    for resource in app.router.resources():
        path = _path(resource)
        for route in resource:
            if route.method in ("OPTIONS", "HEAD", "*"):
                continue
            paths.setdefault(path, {})[route.method.lower()] = _operation(path, route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock",
            "version": __version__,
            "summary": "One OpenAI- and Anthropic-compatible endpoint in front of every model provider.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "paths": paths,
    }


def providers(rt: Runtime) -> dict[str, Any]:
    """Every provider row: its name, format, base URL, the variables that hold its key, and what it offers."""
    return {
        "providers": [
            {
                "name": provider.name,
                "title": provider.title,
                "format": provider.format,
                "base_url": provider.base_url,
                "env": list(provider.env),
                "operations": list(provider.paths),
                "doc": provider.doc,
                "from_environment": provider.name in rt.routes.env_providers,
            }
            for provider in PROVIDERS.values()
        ]
    }


def _path(resource: web.AbstractResource) -> str:
    info = resource.get_info()
    return _PARAMETER.sub(r"{\1}", str(info.get("path") or info.get("formatter") or resource.canonical))


def _operation(path: str, route: web.AbstractRoute) -> dict[str, Any]:
    title, access, required = getattr(route.handler, "told", (path, "public", []))
    operation: dict[str, Any] = {
        "summary": title,
        "responses": {
            "200": {"description": "OK"},
            "4XX": {"description": "An error in the dialect of the path"},
            "5XX": {"description": "An error in the dialect of the path"},
        },
    }
    names = _PARAMETER.findall(path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if access != "public":
        operation["security"] = [{"bearer": []}, {"x-api-key": []}]
    if route.method == "POST":
        schema: dict[str, Any] = {"type": "object"}
        if required:
            schema["required"] = required
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation
