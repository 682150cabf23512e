"""Writes the pages of this folder that are made from the code: `.venv/bin/python -m docs.build`.

A test compares the pages with the code, so that a setting or a series cannot exist without being documented.
"""

from __future__ import annotations

from pathlib import Path

from gateway.config.schema import reference
from gateway.metrics import SERIES, Series

FOLDER = Path(__file__).parent

_METRICS = """\
# Metrics

This page is generated from the table in `gateway/metrics/series.py`: `.venv/bin/python -m docs.build`.

`GET /metrics` is Prometheus' text format, without a key and without a redirect; `require_auth_for_metrics_endpoint: true`
in `litellm_settings` asks for one. What a request adds is there as soon as its answer has ended.

```yaml
scrape_configs:
  - job_name: penstock
    static_configs: [{ targets: ["localhost:4000"] }]
```

Both families are fed from the rows of the ledger, so a metric, a log line and a bill are the same numbers. Labels are
bounded: a model's name is shown if a route has it or a provider has answered to it, else it is `unknown`; of keys there
are only digests; addresses, user agents and end users never appear. `reason` is the stable word of the table "Errors" in
the README, empty where all went well.
"""


def metrics() -> str:
    """The page about metrics, Markdown."""
    ours = [series for series in SERIES if series.name.startswith("penstock_")]
    theirs = [series for series in SERIES if not series.name.startswith("penstock_")]
    return "\n".join(
        [
            _METRICS,
            "## Penstock's own\n",
            _table(ours),
            "## For dashboards that were made for LiteLLM\n",
            "Names and labels are those that existing dashboards query.\n",
            _table(theirs),
            "Besides, there are `process_*`, `python_info` and `python_gc_*` of the Prometheus client.\n",
        ]
    )


def _table(rows: list[Series]) -> str:
    lines = ["| series | kind | labels | meaning |", "|---|---|---|---|"]
    for series in rows:
        labels = ", ".join(f"`{label}`" for label in series.labels)
        lines.append(f"| `{series.name}` | {series.kind} | {labels} | {series.help} |")
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """File name → text, of all pages that are generated."""
    return {"CONFIGURATION.md": reference(), "METRICS.md": metrics()}


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
