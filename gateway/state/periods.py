"""When a budget begins anew: a pure function from a duration and the time to a period with a name.

A spend counter carries the name of its period, so nothing has to be reset: at the boundary the next request asks for
another counter, which does not exist yet. No job can fail, run twice, or run late, and two replicas that know the time
agree without talking.

The durations are LiteLLM's (docs.litellm.ai, "Budgets, rate limits"): a number and one of `s m h d w mo`, or `hourly`,
`daily`, `weekly`, `monthly`. `1d` (and `24h`) begins each day at `reset_time`; `30d` and `1mo` are the calendar month; other
days and weeks are counted from `anchor`, which is the day that the budget was made, or else a Monday. Hours, minutes and
seconds stand on the clock: `12h` begins at 00:00 and 12:00, `15m` at each quarter; those that do not divide a day (`5h`) are
counted from the anchor's default, a Monday in UTC. What is not understood is a day, as there; `understands` says so before.

Days are days of the wall clock: when clocks change, one has 23 or 25 hours. A boundary that the clocks skip is the moment
at which they skip it; of one that they show twice, the first counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from msgspec import Struct

MONDAY = 345_600
"""1970-01-05 00:00 UTC, from which on weeks are counted where no day of their own is known."""

_DAY = 86_400
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": _DAY, "w": 7 * _DAY}
_LONGEST = 100 * 366 * _DAY
"""Seconds; what is longer may end after the last year that a calendar has."""
_WORDS = {"hourly": "1h", "daily": "1d", "weekly": "7d", "monthly": "1mo"}
_MIDNIGHT = time()


class Period(Struct, frozen=True):
    """A span of time: `starts` inclusive, `ends` exclusive, both unix seconds. `name` is unlike that of any other period."""

    name: str
    starts: int
    ends: int


def understands(duration: str) -> bool:
    """Whether it is a duration; `period` takes what is none for a day."""
    return _parsed(duration) is not None


def period(
    duration: str,
    now: float,
    zone: tzinfo = UTC,
    reset_time: time = _MIDNIGHT,
    anchor: float = MONDAY,
) -> Period:
    """The period of such a duration that `now` lies in; `now` and `anchor` are unix seconds.

    Costs some microseconds. Whoever asks for every request keeps the answer until it `ends`.
    """
    number, unit = _parsed(duration) or (1, "d")
    second = int(now // 1)
    if unit == "mo":
        return _months(number, second, zone, reset_time, anchor)
    length = number * _SECONDS[unit]
    if length == 30 * _DAY:
        return _months(1, second, zone, reset_time, anchor)
    if length % _DAY == 0:
        return _days(length // _DAY, second, zone, reset_time, anchor)
    if 3600 % length == 0:
        offset = _offset(second, zone)
        starts = (second + offset) // length * length - offset
    elif _DAY % length == 0:
        return _parts_of_a_day(length, second, zone)
    else:
        starts = second - (second - MONDAY) % length
    return Period(f"{length}s:{starts}", starts, starts + length)


def _parsed(duration: str) -> tuple[int, str] | None:
    text = duration.strip().lower()
    found = re.fullmatch(r"(\d{1,6})(mo|[smhdw])", _WORDS.get(text, text), re.ASCII)
    number = int(found[1]) if found is not None else 0
    if found is None or not 0 < number * (_SECONDS.get(found[2]) or 31 * _DAY) <= _LONGEST:
        return None
    return number, found[2]


def _months(number: int, second: int, zone: tzinfo, reset_time: time, anchor: float) -> Period:
    today = _day_of(second, zone, reset_time)
    first = _month(_day_of(int(anchor), zone, reset_time)) if anchor != MONDAY else 0
    index = (_month(today) - first) // number
    starts, ends = (
        _instant(date(month // 12, month % 12 + 1, 1), reset_time, zone)
        for month in (first + index * number, first + (index + 1) * number)
    )
    return Period(f"{number}mo:{starts}", starts, ends)


def _days(number: int, second: int, zone: tzinfo, reset_time: time, anchor: float) -> Period:
    today = _day_of(second, zone, reset_time)
    # The default anchor is a Monday everywhere; one of a budget's own is a day where the budget is.
    first = date(1970, 1, 5) if anchor == MONDAY else _day_of(int(anchor), zone, reset_time)
    begin = first + timedelta(days=(today - first).days // number * number)
    starts, ends = (_instant(day, reset_time, zone) for day in (begin, begin + timedelta(days=number)))
    return Period(f"{number}d:{starts}", starts, ends)


def _parts_of_a_day(length: int, second: int, zone: tzinfo) -> Period:
    local = datetime.fromtimestamp(second, zone)

    def begin(part: int) -> int:
        minutes = part * length // 60
        at = time(minutes // 60 % 24, minutes % 60)
        return _instant(local.date() + timedelta(days=minutes // 1440), at, zone)

    part = _last_before((local.hour * 60 + local.minute) * 60 // length, begin, second)
    starts, ends = begin(part), begin(part + 1)
    return Period(f"{length}s:{starts}", starts, ends)


def _day_of(second: int, zone: tzinfo, reset_time: time) -> date:
    """The day that counts: it goes from one reset to the next."""
    local = datetime.fromtimestamp(second, zone).date()
    ordinal = _last_before(
        local.toordinal(), lambda day: _instant(date.fromordinal(day), reset_time, zone), second
    )
    return date.fromordinal(ordinal)


def _last_before(guess: int, begin: Callable[[int], int], second: int) -> int:
    """Which one `second` is in. The clock's guess is right unless it changes near by."""
    while begin(guess) > second:
        guess -= 1
    while begin(guess + 1) <= second:
        guess += 1
    return guess


def _month(day: date) -> int:
    return day.year * 12 + day.month - 1


def _instant(day: date, at: time, zone: tzinfo) -> int:
    return int(datetime.combine(day, at, zone).timestamp())


def _offset(second: int, zone: tzinfo) -> int:
    """Standard time's, because summer may begin by half an hour, and an hour is an hour all the same."""
    local = datetime.fromtimestamp(second, zone)
    return int(((local.utcoffset() or timedelta()) - (local.dst() or timedelta())).total_seconds())
