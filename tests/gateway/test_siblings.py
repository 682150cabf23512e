"""One exposition for several workers: what is summed, what is not, and what stays when a worker goes."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from gateway.siblings import Siblings, forget, merge

ONE = b"""\
# HELP a_total Things that happened
# TYPE a_total counter
a_total{name="x y"} 3.0
# HELP open_now Things that are open
# TYPE open_now gauge
open_now 2.0
# HELP penstock_event_loop_lag_seconds How late
# TYPE penstock_event_loop_lag_seconds gauge
penstock_event_loop_lag_seconds 0.5
# HELP s Seconds
# TYPE s histogram
s_bucket{le="1.0"} 1.0
s_bucket{le="+Inf"} 2.0
s_count 2.0
s_sum 7.5
"""
TWO = ONE.replace(b'a_total{name="x y"} 3.0', b'a_total{name="x y"} 4.0\na_total{name="z"} 1.0').replace(
    b" 0.5", b" 0.25"
)


def samples(text: bytes) -> dict[str, float]:
    """Series → value."""
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_one_alone_stays_as_it_is() -> None:
    """The exposition of a single worker comes out as the same bytes."""
    assert merge([ONE]) == ONE


def test_sums() -> None:
    """Counters, histograms and what is open are summed, a state or a delay is the worst one; a family stays together."""
    merged = merge([ONE, TWO])
    assert samples(merged) == {
        'a_total{name="x y"}': 7,
        'a_total{name="z"}': 1,
        "open_now": 4,
        "penstock_event_loop_lag_seconds": 0.5,
        's_bucket{le="1.0"}': 2,
        's_bucket{le="+Inf"}': 4,
        "s_count": 4,
        "s_sum": 15,
    }
    assert merged.count(b"# TYPE") == 4
    assert merged.index(b'a_total{name="z"}') < merged.index(b"# HELP open_now")


def test_what_was_counted() -> None:
    """Of a worker that is gone only what it counted is added; what was open there is not."""
    assert samples(merge([ONE], counted=[TWO, b""])) == samples(merge([ONE, TWO])) | {"open_now": 2}


async def test_gathering(tmp_path: Path) -> None:
    """Whoever is asked adds up what all of them say at that moment."""

    async def second() -> bytes:
        return TWO

    async with Siblings(tmp_path, 2).told(second):
        assert await Siblings(tmp_path, 1).gather(ONE) == merge([ONE, TWO])


async def test_sums_do_not_fall(tmp_path: Path) -> None:
    """A sibling that hangs, or has ended, is still counted with its last word, and its successor comes on top of it."""
    hanging = asyncio.Event()

    async def second() -> bytes:
        if hanging.is_set():
            await asyncio.Event().wait()
        return TWO

    async def third() -> bytes:
        return ONE

    first = Siblings(tmp_path, 1)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(Siblings(tmp_path, 2).told(second))
        await first.gather(ONE)
        hanging.set()
        expected = samples(merge([ONE], counted=[TWO]))
        assert samples(await first.gather(ONE)) == expected
        forget(tmp_path, 2)
        assert samples(await first.gather(ONE)) == expected
        await stack.enter_async_context(Siblings(tmp_path, 3).told(third))
        assert samples(await first.gather(ONE)) == samples(merge([ONE, ONE], counted=[TWO]))


async def test_who_ends_leaves_a_last_word(tmp_path: Path) -> None:
    """What a worker counted that drained is in the sums, although nobody had asked it."""

    async def second() -> bytes:
        return TWO

    async with Siblings(tmp_path, 2).told(second):
        pass
    forget(tmp_path, 2)
    assert await Siblings(tmp_path, 1).gather(ONE) == merge([ONE], counted=[TWO])


def test_a_state_is_not_summed() -> None:
    """That two workers cannot use one store is no more than that one cannot."""
    away = b"# HELP penstock_records_away 1\n# TYPE penstock_records_away gauge\npenstock_records_away 1.0\n"
    assert merge([away, away]) == away


async def test_half_an_answer(tmp_path: Path) -> None:
    """A sibling that dies in the middle of its answer does not make half of its series disappear."""
    answers = [TWO + b"# END\n", TWO[:50]]

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0))
        writer.close()

    async with await asyncio.start_unix_server(answer, tmp_path / "2.sock"):
        assert await Siblings(tmp_path, 1).gather(ONE) == merge([ONE, TWO])
        assert await Siblings(tmp_path, 1).gather(ONE) == merge([ONE], counted=[TWO])


async def test_nobody_there(tmp_path: Path) -> None:
    """A worker that was killed left its socket behind; before it ever answered there is nothing to count."""
    server = await asyncio.start_unix_server(lambda *_: None, tmp_path / "2.sock")
    server.close()
    (tmp_path / "2.sock").touch()
    assert await Siblings(tmp_path, 1).gather(ONE) == ONE
    forget(tmp_path, 2)
    assert not (tmp_path / "2.sock").exists()


async def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    """Where nothing can be left behind, the numbers are shown all the same."""
    assert await Siblings(tmp_path / "nowhere", 1).gather(ONE) == ONE
