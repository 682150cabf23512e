from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import report

PLAIN = dict.fromkeys(report.FIGURES, 10.0) | {"errors": 0.0, "foreign": 0.0, "stolen": 0.0}


def results(**median: dict[str, float]) -> dict[str, object]:
    """A run with these medians."""
    return {
        "when": "2026-11-21 12:00",
        "machine": "a machine",
        "python": "3.11",
        "versions": {"nginx": "1.22"},
        "missing": {"portkey": "npm is not on PATH"},
        "arguments": {"rounds": 3, "seconds": 1.5},
        "median": median,
    }


def test_a_table_is_markdown_in_columns() -> None:
    """Every line is equally long, and the second one rules off the head."""
    lines = report.table([("a", "b"), ("long text", "1,000"), ("c", "2")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "|-----------|------:|"
    assert lines[2] == "| long text | 1,000 |"


def test_targets_are_judged_by_this_run() -> None:
    """A promise is kept if the figure is within its bound in the same run, and open if the peer was not measured."""
    median = {"nginx": {**PLAIN, "cpu_request_64": 10.0}, "penstock": {**PLAIN, "cpu_request_64": 61.0}}
    lines = report.targets(median).splitlines()
    assert [line.split("|")[5].strip() for line in lines[2:6]] == ["**no**", "", "", ""]
    median["penstock"]["cpu_request_64"] = 60.0
    first = report.targets(median).splitlines()[2]
    assert [cell.strip() for cell in first.split("|")[2:6]] == ["6 times nginx", "60.0 us", "60.0 us", "yes"]


def test_a_translated_chunk_is_held_against_the_plain_one() -> None:
    """Its bound is Penstock's own chunk of the same format plus five microseconds."""
    target = next(target for target in report.TARGETS if target.extra)
    assert target.bound({"penstock": {"cpu_chunk_busy": 12.0, target.figure: 99.0}}) == 17.0


def test_each_target_is_a_figure() -> None:
    """Promises and panels are made of figures that the table knows."""
    assert {target.figure for target in report.TARGETS} <= set(report.FIGURES)
    assert {key for key, _ in report._PANELS} <= set(report.FIGURES)


def test_a_figure_that_the_load_has_limited_has_a_star() -> None:
    """Where the load was the limit, the figure says so and a line below explains it."""
    median = {"nginx": {**PLAIN, "load_bound: 64 connections": 1.0}}
    shown = report.render(results(**median))
    assert "10.0*" in shown
    assert "The load's core was full" in shown
    assert "The load's core was full" not in report.render(results(nginx=PLAIN))


def test_a_run_that_was_disturbed_is_none() -> None:
    """What other programs or the machine's host took is said, if it was much."""
    assert "Measure again" not in report.render(results(penstock=PLAIN | {"foreign": 0.1, "stolen": 0.2}))
    shown = report.render(results(penstock=PLAIN, nginx=PLAIN | {"stolen": 0.41}))
    assert "**Measure again**: others took up to 0.41 cores" in shown


def test_who_was_left_out_is_said() -> None:
    """A peer that could not be had stands below the table with its reason."""
    assert "Left out: portkey (npm is not on PATH)." in report.render(results(penstock=PLAIN))


def test_the_arithmetic_multiplies() -> None:
    """At 20 us a request, 10,000 requests per second need a fifth of a core; a million streams need their memory."""
    own = PLAIN | {"cpu_request_64": 20.0, "cpu_chunk_busy": 10.0, "cpu_stream_busy": 100.0}
    own |= {"idle_mb": 50.0, "memory_1000": 150.0}
    del own["memory_10000"]
    rows = report.arithmetic({"penstock": own}).splitlines()
    assert "0.2000" in next(row for row in rows if row.startswith("| 10,000 whole"))
    million = next(row for row in rows if row.startswith("| 1,000,000"))
    assert [cell.strip() for cell in million.split("|")[2:4]] == ["510.0", "139 GB"]
    assert any("50,000 whole answers or 100,000 chunks" in row for row in rows)
    assert not any("Redis" in row for row in rows)


def test_the_arithmetic_of_databases() -> None:
    """What limits cost here, in Redis and in Postgres; under load, requests share what they ask."""
    own = PLAIN | {"cpu_request_64": 20.0, "memory_1000": 150.0}
    shared = PLAIN | {"cpu_request_64": 70.0, "redis_scripts_64": 0.05, "redis_scripts_latency": 2.0}
    shared |= {"redis_cpu_64": 40.0, "postgres_cpu_64": 25.0}
    shared |= {"postgres_transactions_64": 0.01, "postgres_transactions_latency": 0.2}
    rows = report.arithmetic({"penstock": own, "shared": shared}).splitlines()
    few = next(row for row in rows if row.startswith("| 100 whole"))
    assert [cell.strip() for cell in few.split("|")[4:9]] == ["0.0050", "200", "0.0040", "20", "0.0025"]
    many = next(row for row in rows if row.startswith("| 10,000 whole"))
    assert [cell.strip() for cell in many.split("|")[4:9]] == ["0.5000", "500", "0.4000", "100", "0.2500"]
    assert any("25,000 requests a second under limits, a core of Postgres 40,000 rows" in row for row in rows)


def test_two_workers_are_held_against_one() -> None:
    """A request of either of two costs at most a tenth more than one's."""
    median = {"penstock": {**PLAIN, "cpu_request_64": 50.0}, "workers": {**PLAIN, "cpu_request_64": 56.0}}
    row = next(line for line in report.targets(median).splitlines() if "two workers" in line)
    assert [cell.strip() for cell in row.split("|")[3:6]] == ["55.0 us", "56.0 us", "**no**"]


def test_the_plot_is_well_formed() -> None:
    """The plot is XML with a bar for each peer in each panel, Penstock's in another colour."""
    plot = report.plot({"direct": {}, "nginx": PLAIN, "penstock": {**PLAIN, "cpu_request_64": 99.0}})
    rects = [element for element in ET.fromstring(plot).iter() if element.tag.endswith("rect")]
    assert len(rects) == 1 + 2 * len(report._PANELS)
    assert sum(rect.get("fill") == "#0b7285" for rect in rects) == len(report._PANELS)


def test_the_readme_is_written_between_its_markers(tmp_path: Path) -> None:
    """What stands around the markers stays; without markers nothing is written."""
    readme, plot = tmp_path / "README.md", tmp_path / "plot.svg"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_readme(results(nginx=PLAIN, penstock=PLAIN), readme, plot)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "## Arithmetic" in text
    assert plot.exists()
    with pytest.raises(ValueError, match="do not both stand there"):
        report.between("nothing", report.BEGIN, report.END, "new")


def test_the_readme_shows_the_reference() -> None:
    """bench/README.md holds what the reference run's results give."""
    reference = json.loads(report.REFERENCE.read_text())
    assert report.render(reference).strip() in (report.HERE / "README.md").read_text()


def test_a_run_that_was_broken_off_is_told() -> None:
    """Runs from before that was kept were all finished."""
    assert "Not finished" not in report.render(results(penstock=PLAIN))
    assert "Not finished" not in report.render(results(penstock=PLAIN) | {"finished": True})
    assert "**Not finished**" in report.render(results(penstock=PLAIN) | {"finished": False})


def test_a_run_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says so."""
    monkeypatch.setattr("sys.argv", ["report", "/nowhere/run.json"])
    with pytest.raises(SystemExit, match="2"):
        report.main()
    assert "there is no file /nowhere/run.json" in capsys.readouterr().err
