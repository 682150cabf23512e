"""What the operator sees at the start: where it listens, which models there are, who may, and a command to try."""

from __future__ import annotations

import json
import shlex

from gateway import __version__
from gateway.logs import printable
from gateway.routes import Route
from gateway.runtime import Runtime

_MODELS_SHOWN = 40
_FIRST_TRIES = ("gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash")


def banner(rt: Runtime, host: str, port: int) -> str:
    """Some lines of text. Keys are never in it."""
    address = f"http://{reachable(host)}:{port}"
    configured = [route.name for route in rt.routes.configured() if not route.hidden]
    shown = [*configured, *(pattern for pattern, _ in rt.routes.wildcards())]
    lines = [f"Penstock {__version__} listens on {address}", ""]
    if shown:
        lines.append("Penstock: initialized with Config, Set models:")
        lines += [f"    {name}" for name in shown[:_MODELS_SHOWN]]
    if len(shown) > _MODELS_SHOWN:
        lines.append(f"    … and {len(shown) - _MODELS_SHOWN} more: GET /v1/models")
    lines += [f"    off: {row.model_name}: {row.why} ({row.place})" for row in rt.routes.unserved]
    if rt.routes.env_providers:
        lines.append(f"Every model of {', '.join(rt.routes.env_providers)}: the key is in the environment.")
    elif not shown:
        lines.append(
            "NO MODELS: set a provider's key (OPENAI_API_KEY, ANTHROPIC_API_KEY …), or name a file with --config."
        )
    lines += ["", *_who_may(rt), *_what_is_lost(rt), "", "Try it:", _curl(rt, address), ""]
    return "\n".join(printable(line) for text in lines for line in text.split("\n"))


def reachable(host: str) -> str:
    """The host of a URL under which a server that listens on `host` is reached from the same machine."""
    if host in ("0.0.0.0", "::", ""):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _who_may(rt: Runtime) -> list[str]:
    if not rt.keyring.is_open:
        told = ["Auth: the master key is set, and needed."]
        if rt.environment.master_key != rt.config.general.master_key:
            told.append(
                "It is the configuration's: export it as LITELLM_MASTER_KEY for this command and `penstock keys`."
            )
        return told
    return [
        "************************************************************************",
        "*  OPEN: no master key is set. Whoever reaches this port uses your     *",
        "*  provider keys. Set LITELLM_MASTER_KEY to any non-empty string.      *",
        "************************************************************************",
    ]


def _what_is_lost(rt: Runtime) -> list[str]:
    if rt.records.describe().durable:
        return []
    return ["", "SPEND IS NOT BEING SAVED: the ledger is in memory and lost at exit; the log says why."]


def _curl(rt: Runtime, address: str) -> str:
    model = _chats(rt)
    if model is None:
        return f"  curl {address}/health"
    body = {
        "model": model,
        "stream": True,
        "messages": [{"role": "user", "content": "What is a penstock?"}],
    }
    lines = [f"curl -N {address}/v1/chat/completions"]
    if not rt.keyring.is_open:
        lines.append('-H "Authorization: Bearer $LITELLM_MASTER_KEY"')
    lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(body))}"]
    return "  " + " \\\n    ".join(lines)


def _chats(rt: Runtime) -> str | None:
    """A model to try: the first of the configuration that chats, else one that everybody knows, else any."""
    for route in rt.routes.configured():
        if not route.hidden and _is_for_chat(route):
            return route.name
    names = rt.routes.names()
    for name in (*(name for name in _FIRST_TRIES if name in names), *names):
        route_of_name = rt.routes.find(name)
        if route_of_name is not None and _is_for_chat(route_of_name):
            return name
    return None


def _is_for_chat(route: Route) -> bool:
    return all(d.mock or not d.facts or d.facts.mode in ("", "chat") for d in route.deployments)
