"""How old rows go without a total changing: what is deleted is added up first, in the same transaction.

A pruned row becomes a part of a sum of its minute and its kind (table `pruned`); the sums of days were made when it came and
stay. So whatever is asked for, the parts of an answer are whole days from `day_total`, and from days at either end of a span
the rows that are left and the minutes of those that are not. A day may therefore be half pruned at any time, by however many
processes: each row is in one of the two, never in both.

Minutes are exact wherever a budget may begin, because resets are given as `HH:MM`. The spend of a key is set back at any
moment, and those are the `cuts`: a minute with one in it is kept in two parts.

What only a row knows goes with it: ids, end users, tags, addresses. Their day's sums have the amounts under no name. And a
row whose id is forgotten cannot be told from a new one: a journal that lay longer than rows are kept is entered again, since
money that counts twice is found sooner than money that is lost. (A border before which nothing is taken would lose what an
outage left in such a journal.)
"""

from __future__ import annotations

DAY = 86_400

_SUMS = (
    "count(*), {unpriced}, sum(input + cache_read + cache_write + cache_write_1h + audio_input + image_input), "
    "sum(output + reasoning + audio_output + image_output), coalesce(sum(cost_nano), 0), "
    "sum(cache_read), sum(cache_write + cache_write_1h), sum(total_us)"
)
_ADD = ", ".join(
    f"{name} = {{table}}.{name} + excluded.{name}"
    for name in (
        *("requests", "unpriced", "prompt", "completion", "cost"),
        *("cache_read", "cache_write", "total_us"),
    )
)

SQLITE_CHOOSE = "SELECT id, started_at FROM entry WHERE started_at < ? ORDER BY started_at LIMIT ?"
SQLITE_DELETE = "DELETE FROM entry WHERE id IN (SELECT value FROM json_each(?))"


def sqlite_fold(cuts: int) -> str:
    """The statement that adds rows up. Its values: so many moments, in no order, and the ids as a JSON list."""
    moments = ", ".join(["(0.0)", *["(?)"] * cuts])
    starts = "max(CAST(started_at / 60 AS INTEGER) * 60.0, (SELECT max(at) FROM cut WHERE at <= started_at))"
    return (
        f"WITH cut (at) AS (VALUES {moments}) "  # noqa: S608 - question marks, and our own field names
        f"INSERT INTO pruned SELECT {starts}, kind, {_SUMS.format(unpriced='sum(cost_nano IS NULL)')} "
        "FROM entry WHERE id IN (SELECT value FROM json_each(?)) GROUP BY 1, 2 "
        f"ON CONFLICT (starts, kind) DO UPDATE SET {_ADD.format(table='pruned')}"
    )


POSTGRES_LOCK = f"SELECT pg_try_advisory_xact_lock({0x7072756E65})"  # "prune"
"""One process of many prunes at a time; the others come again, and nobody waits for one that does not go on."""

POSTGRES_PRUNE = (
    "WITH gone AS (DELETE FROM penstock.entry WHERE id IN ("  # noqa: S608 - our own field names
    "SELECT id FROM penstock.entry WHERE started_at < $1 ORDER BY started_at, id LIMIT $2) RETURNING *), "
    "folded AS (INSERT INTO penstock.pruned AS total SELECT greatest(floor(started_at / 60) * 60, "
    "(SELECT max(cut) FROM unnest($3::double precision[]) AS cut WHERE cut <= started_at)), kind, "
    f"{_SUMS.format(unpriced='count(*) FILTER (WHERE cost_nano IS NULL)')} FROM gone GROUP BY 1, 2 ORDER BY 1, 2 "
    f"ON CONFLICT (starts, kind) DO UPDATE SET {_ADD.format(table='total')}) "
    "SELECT count(*) FROM gone"
)
"""Its values: before when, rows at most, the moments. Gives the number of rows."""
