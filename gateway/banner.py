"""What the operator sees at the start: where it listens, which models there are, who may, and a command to try."""

from __future__ import annotations

import json

from gateway import __version__
from gateway.runtime import Runtime

_MODELS_SHOWN = 40


def banner(rt: Runtime, host: str, port: int) -> str:
    """Some lines of text. Keys are never in it."""
    address = f"http://{_reachable(host)}:{port}"
    names = rt.routes.names()
    configured = [route.name for route in rt.routes.configured() if not route.hidden]
    shown = configured or names
    lines = [
        f"Penstock {__version__} listens on {address}",
        "",
        "Penstock: initialized with Config, Set models:",
        *(f"    {name}" for name in shown[:_MODELS_SHOWN]),
    ]
    if len(shown) > _MODELS_SHOWN:
        lines.append(f"    … and {len(shown) - _MODELS_SHOWN} more: GET /v1/models")
    if rt.routes.env_providers:
        lines += ["", f"Every model of: {', '.join(rt.routes.env_providers)} (keys in the environment)"]
    for row in rt.routes.unserved:
        lines.append(f"    off: {row.model_name}: {row.why} ({row.place})")
    lines += ["", *_who_may(rt), "", "Try it:", _curl(rt, address, shown or ["gpt-4o"]), ""]
    return "\n".join(lines)


def _who_may(rt: Runtime) -> list[str]:
    if not rt.keyring.is_open:
        return ["Keys are needed: the master key is set."]
    return [
        "************************************************************************",
        "*  OPEN: no master key is set. Whoever reaches this port uses your     *",
        "*  provider keys. Set LITELLM_MASTER_KEY to any non-empty string.      *",
        "************************************************************************",
    ]


def _curl(rt: Runtime, address: str, models: list[str]) -> str:
    body = {
        "model": models[0],
        "stream": True,
        "messages": [{"role": "user", "content": "What is a penstock?"}],
    }
    lines = [f"curl -N {address}/v1/chat/completions"]
    if not rt.keyring.is_open:
        lines.append('-H "Authorization: Bearer $LITELLM_MASTER_KEY"')
    lines += ["-H 'Content-Type: application/json'", f"-d '{json.dumps(body)}'"]
    return "  " + " \\\n    ".join(lines)


def _reachable(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return "localhost"
    return f"[{host}]" if ":" in host else host
