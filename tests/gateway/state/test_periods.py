from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.periods import MONDAY, Period, period, understands

BERLIN = ZoneInfo("Europe/Berlin")
KOLKATA = ZoneInfo("Asia/Kolkata")
NEW_YORK = ZoneInfo("America/New_York")

DURATIONS = [
    "30s",
    "7s",
    "15m",
    "50m",
    "80m",
    "1h",
    "2h",
    "5h",
    "12h",
    "24h",
    "36h",
    "1d",
    "3d",
    "7d",
    "2w",
    "30d",
    "1mo",
]
DURATIONS += ["3mo", "60d", "hourly", "weekly", "nonsense"]
ZONES: list[tzinfo] = [
    UTC,
    *map(
        ZoneInfo,
        [
            "Europe/Berlin",
            "America/New_York",
            "Asia/Kolkata",
            "Australia/Lord_Howe",  # half an hour of summer
            "America/Havana",  # changes at midnight
            "Africa/Cairo",  # as Havana
            "Pacific/Apia",  # has no 2011-12-30
            "America/St_Johns",
        ],
    ),
]


def at(text: str, zone: tzinfo = UTC) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp())


def span(found: Period, zone: tzinfo = UTC) -> tuple[str, str]:
    begin, end = (
        datetime.fromtimestamp(second, zone).replace(tzinfo=None).isoformat(" ", "minutes")
        for second in (found.starts, found.ends)
    )
    return begin, end


@pytest.mark.parametrize(
    ("duration", "begin", "end"),
    [
        ("1d", "2026-11-21 00:00", "2026-11-22 00:00"),
        ("24h", "2026-11-21 00:00", "2026-11-22 00:00"),
        ("daily", "2026-11-21 00:00", "2026-11-22 00:00"),
        ("1440m", "2026-11-21 00:00", "2026-11-22 00:00"),
        ("7d", "2026-11-16 00:00", "2026-11-23 00:00"),
        ("1w", "2026-11-16 00:00", "2026-11-23 00:00"),
        ("weekly", "2026-11-16 00:00", "2026-11-23 00:00"),
        ("30d", "2026-11-01 00:00", "2026-12-01 00:00"),
        ("1mo", "2026-11-01 00:00", "2026-12-01 00:00"),
        ("monthly", "2026-11-01 00:00", "2026-12-01 00:00"),
        ("3mo", "2026-10-01 00:00", "2027-01-01 00:00"),
        ("12mo", "2026-01-01 00:00", "2027-01-01 00:00"),
        ("1h", "2026-11-21 14:00", "2026-11-21 15:00"),
        ("hourly", "2026-11-21 14:00", "2026-11-21 15:00"),
        ("6h", "2026-11-21 12:00", "2026-11-21 18:00"),
        ("12h", "2026-11-21 12:00", "2026-11-22 00:00"),
        ("15m", "2026-11-21 14:30", "2026-11-21 14:45"),
        ("90m", "2026-11-21 13:30", "2026-11-21 15:00"),
        ("120s", "2026-11-21 14:36", "2026-11-21 14:38"),
        (" 1D ", "2026-11-21 00:00", "2026-11-22 00:00"),
        ("soon", "2026-11-21 00:00", "2026-11-22 00:00"),
        ("0d", "2026-11-21 00:00", "2026-11-22 00:00"),
        ("", "2026-11-21 00:00", "2026-11-22 00:00"),
    ],
)
def test_durations(duration: str, begin: str, end: str) -> None:
    """Each kind of duration, asked on a Saturday at 14:37 and some seconds."""
    assert span(period(duration, at("2026-11-21 14:37:10") + 0.9)) == (begin, end)


def test_the_same_span_has_the_same_name() -> None:
    """Other words for a duration change nothing; another duration, day or zone is another counter."""
    noon = at("2026-11-21 12:00")
    assert period("1d", noon) == period("daily", noon) == period("86400s", noon + 3600)
    assert period("1mo", noon) == period("30d", noon)
    assert period("7d", noon) == period("1w", noon)
    names = [
        period(duration, noon, zone).name for duration in ("1h", "1d", "7d", "1mo") for zone in (UTC, BERLIN)
    ]
    names += [period("1d", noon + 86_400).name, period("1d", noon, UTC, time(6)).name]
    assert len(set(names)) == len(names) - 1  # an hour in Berlin is an hour in UTC
    assert period("1d", noon).name == f"1d:{at('2026-11-21 00:00')}"


@pytest.mark.parametrize("boundary", ["2026-11-22 00:00", "2026-12-01 00:00", "2027-01-01 00:00"])
def test_a_boundary_belongs_to_the_new_period(boundary: str) -> None:
    """The last moment of one, the first of the next."""
    for duration in ("1h", "12h", "1d"):
        before, after = period(duration, at(boundary) - 0.001), period(duration, at(boundary))
        assert before.ends == after.starts == at(boundary)
        assert before.name != after.name


def test_reset_time() -> None:
    """Days, weeks and months begin at it, hours do not."""
    six = time(6, 30)
    assert span(period("1d", at("2026-11-21 06:29"), UTC, six)) == ("2026-11-20 06:30", "2026-11-21 06:30")
    assert span(period("1d", at("2026-11-21 06:30"), UTC, six)) == ("2026-11-21 06:30", "2026-11-22 06:30")
    assert span(period("1mo", at("2026-12-01 06:29"), UTC, six)) == ("2026-11-01 06:30", "2026-12-01 06:30")
    assert span(period("1mo", at("2026-12-01 06:30"), UTC, six)) == ("2026-12-01 06:30", "2027-01-01 06:30")
    assert span(period("7d", at("2026-11-23 06:29"), UTC, six)) == ("2026-11-16 06:30", "2026-11-23 06:30")
    assert span(period("12h", at("2026-11-21 06:29"), UTC, six)) == ("2026-11-21 00:00", "2026-11-21 12:00")


def test_zones() -> None:
    """A day is the day of the zone, and an hour stands on its clock."""
    assert span(period("1d", at("2026-11-21 23:30"), BERLIN), BERLIN) == (
        "2026-11-22 00:00",
        "2026-11-23 00:00",
    )
    assert span(period("1d", at("2026-11-21 02:00"), NEW_YORK), NEW_YORK) == (
        "2026-11-20 00:00",
        "2026-11-21 00:00",
    )
    assert span(period("1h", at("2026-11-21 12:15"), KOLKATA), KOLKATA) == (
        "2026-11-21 17:00",
        "2026-11-21 18:00",
    )
    assert span(period("1mo", at("2026-10-31 23:30"), BERLIN), BERLIN) == (
        "2026-11-01 00:00",
        "2026-12-01 00:00",
    )


def test_an_anchor() -> None:
    """Days, weeks and months that are counted are counted from the day on which the budget was made."""
    made = at("2026-11-18 15:45")
    assert span(period("7d", at("2026-11-21 14:37"), anchor=made)) == ("2026-11-18 00:00", "2026-11-25 00:00")
    assert span(period("3d", at("2026-11-21 14:37"), anchor=made)) == ("2026-11-21 00:00", "2026-11-24 00:00")
    assert span(period("2mo", at("2026-12-21 14:37"), anchor=made)) == (
        "2026-11-01 00:00",
        "2027-01-01 00:00",
    )
    for aligned in ("1d", "1mo", "30d", "1h"):
        assert period(aligned, at("2026-11-21 14:37"), anchor=made) == period(aligned, at("2026-11-21 14:37"))


def test_when_clocks_change() -> None:
    """Days have 23 and 25 hours; half days begin by the clock; each hour is an hour."""
    spring, autumn = at("2026-03-29 12:00", BERLIN), at("2026-10-25 12:00", BERLIN)
    assert [
        (found.ends - found.starts) / 3600
        for found in (period("1d", now, BERLIN) for now in (spring, autumn))
    ] == [23, 25]
    morning = [period("12h", at(f"2026-{day} 04:00", BERLIN), BERLIN) for day in ("03-29", "10-25")]
    assert [(found.ends - found.starts) / 3600 for found in morning] == [11, 13]
    night = at("2026-10-25 00:00", BERLIN)
    hours = {period("1h", night + minutes * 60, BERLIN) for minutes in range(25 * 60)}
    assert {found.ends - found.starts for found in hours} == {3600}
    assert len(hours) == 25


def test_a_reset_time_that_the_clocks_skip_or_show_twice() -> None:
    """Skipped: when they skip it. Twice: the first time, and not again."""
    half_past_two = time(2, 30)
    skipped = at("2026-03-29 01:00")
    assert period("1d", skipped + 1800, BERLIN, half_past_two).starts == skipped + 1800
    assert period("1d", skipped + 1799, BERLIN, half_past_two).ends == skipped + 1800
    twice = at("2026-10-25 00:30")
    assert {
        period("1d", twice + seconds, BERLIN, half_past_two).starts for seconds in (0, 1800, 3600, 7200)
    } == {twice}


def test_a_day_that_does_not_exist() -> None:
    """Samoa went from 2011-12-29 to 2011-12-31: no period is missing and none is empty."""
    apia = ZoneInfo("Pacific/Apia")
    before, after = (period("1d", at(text, apia), apia) for text in ("2011-12-29 12:00", "2011-12-31 12:00"))
    assert before.ends == after.starts
    assert (before.ends - before.starts, after.ends - after.starts) == (86_400, 86_400)


def test_midnights_that_do_not_exist() -> None:
    """Where clocks change at midnight, the day begins when they have."""
    cairo = ZoneInfo("Africa/Cairo")
    found = period("1d", at("2026-04-24 12:00", cairo), cairo)
    assert span(found, cairo) == ("2026-04-24 01:00", "2026-04-25 00:00")
    assert period("1d", at("2026-04-23 12:00", cairo), cairo).ends == found.starts


def test_understands() -> None:
    """What is no duration can be told before it counts as a day."""
    understood = ["1s", "5m", "1h", "1d", "2w", "1mo", "daily", "Weekly", " 30d "]
    assert [duration for duration in understood if not understands(duration)] == []
    nonsense = [
        "",
        "d",
        "1",
        "0d",
        "1.5h",
        "-1d",
        "1y",
        "1 d",
        "1d2h",
        "9999999d",
        "99999w",
        "none",
        "\u0661d",
    ]
    assert [duration for duration in nonsense if understands(duration)] == []
    longest = [
        f"{count}{unit}" for count, unit in ((1_000, "mo"), (36_000, "d"), (5_000, "w"), (870_000, "h"))
    ]
    assert [period(duration, 4e9).ends > 4e9 for duration in longest if understands(duration)] == [True] * 4


@given(
    st.sampled_from(DURATIONS),
    st.floats(at("1990-01-01"), at("2060-01-01")),
    st.sampled_from(ZONES),
    st.times().map(lambda moment: moment.replace(second=0, microsecond=0)),
    st.just(MONDAY) | st.integers(at("1990-01-01"), at("2060-01-01")),
)
def test_time_is_divided(duration: str, now: float, zone: tzinfo, reset_time: time, anchor: int) -> None:
    """Each moment is in its period; the first and the last second of it are in the same one; the next begins where it ends."""
    found = period(duration, now, zone, reset_time, anchor)
    assert found.starts <= now < found.ends
    assert period(duration, found.starts, zone, reset_time, anchor) == found
    assert period(duration, found.ends - 1, zone, reset_time, anchor) == found
    assert period(duration, found.ends, zone, reset_time, anchor).starts == found.ends
    assert period(duration, found.starts - 1, zone, reset_time, anchor).ends == found.starts


@pytest.mark.parametrize("zone", ZONES, ids=str)
@pytest.mark.parametrize("duration", ["1h", "80m", "12h", "3d", "1mo"])
def test_a_year_without_gaps(zone: tzinfo, duration: str) -> None:
    """Whatever clocks do in it, each period begins where the last one ended."""
    found = period(duration, at("2026-01-01 00:00"), zone)
    while found.starts < at("2027-01-01 00:00"):
        following = period(duration, found.ends, zone)
        assert following.starts == found.ends
        assert following.name != found.name
        found = following


@pytest.mark.parametrize("zone", ZONES, ids=str)
@pytest.mark.parametrize("year", [2011, 2026])
def test_a_year_of_days(zone: tzinfo, year: int) -> None:
    """Walking from end to end, no day is empty, and one begins on each day that there is."""
    now, stop = at(f"{year}-01-01 00:00", zone), at(f"{year + 1}-01-01 00:00", zone)
    days: list[date] = []
    while now < stop:
        found = period("1d", now, zone)
        assert found.starts == now
        assert timedelta(hours=22) < timedelta(seconds=found.ends - found.starts) < timedelta(hours=26)
        days.append(datetime.fromtimestamp(now, zone).date())
        now = found.ends
    assert len(days) == len(set(days)) == (364 if (year, str(zone)) == (2011, "Pacific/Apia") else 365)
