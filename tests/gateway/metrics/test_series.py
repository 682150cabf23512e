from __future__ import annotations

from gateway.metrics import SERIES


def test_names_and_help() -> None:
    """Every series has a help text; counters end in _total, and no name stands twice."""
    assert len({series.name for series in SERIES}) == len(SERIES)
    for series in SERIES:
        assert series.help
        assert series.name.endswith("_total") == (series.kind == "counter")
        assert bool(series.buckets) == (series.kind == "histogram")
