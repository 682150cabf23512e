"""What the documents ask for and the gateway does not do yet: the row of the requirements, and what it waits for.

A configuration that asks for it starts all the same, and a line at the start says that it has no effect.
"""

from __future__ import annotations

LATER: dict[str, str] = {
    "A9": "deployment files: a word of a compose file alone",
    "A13": "page: there is none to log in to",
    "A22": "telemetry: Langfuse",
    "A23": "alerts: none are sent",
    "A24": "telemetry: OpenTelemetry",
    "A25": "telemetry: OpenTelemetry",
    "A26": "deployment files: of Grafana's agent",
    "B17": "telemetry: callbacks; every request is in the ledger without one",
    "B21": "telemetry: Langfuse",
    "B26": "caching: of answers",
    "B29": "telemetry: Langfuse",
    "B37": "telemetry: groups of metrics that can be chosen",
    "B38": "telemetry: the health of Redis and Postgres as LiteLLM's series",
    "B41": "caching: of answers that are alike",
    "B43": "deployment files: templates",
    "C5": "deployment files: published images",
    "C9": "deployment files: the platform's restart policy",
    "C14": "deployment files: a compose file",
    "D5": "caching: how it is, in /health",
    "D11": "page: there is none",
    "D14": "caching: /cache/ping",
    "D19": "batch",
    "L4": "caching: /cache/ping",
    "L9": "page: who may log in",
    "L11": "caching: answers in Postgres",
    "L12": "deployment files: published images",
    "L15": "alerts: the words of the webhook",
    "L19": "deployment files: names of containers",
}
