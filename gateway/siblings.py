"""One `/metrics` for several workers.

The port is shared, so a scrape reaches any worker; each has counted its own requests only. So each answers its siblings on
a socket in a folder that only this gateway's user may enter, and the one that is scraped asks all of them and adds up.
Addresses are the workers' process ids: who is there is what is in the folder.

Sums must not fall while anybody counts on: Prometheus takes a counter that falls for one that began anew, and would count
all that the others have as if it had just happened. So whoever gathers leaves each worker's last word in the folder. It
stands in for a worker that does not answer in time; and when one ends, the supervisor adds its counters to `past`, which
is part of every sum from then on. A worker that drains leaves its last word itself: what is lost is what a killed one counted
after the last scrape.

The text format is added up as text, line by line: all workers run the same code, so one series is the same bytes in each.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from prometheus_client.utils import floatToGoString

Render = Callable[[], Awaitable[bytes]]

_PATIENCE: Final = 1.0
"""Seconds that a sibling has to answer."""
_END = b"# END\n"
_SOCKET, _LAST, _PAST = ".sock", ".last", "past"

_NOT_SUMMED: dict[bytes, Callable[[float, float], float]] = {
    b"penstock_event_loop_lag_seconds": max,
    b"penstock_upstream_state": max,
    b"litellm_deployment_state": max,
    b"penstock_build_info": max,
    b"penstock_records_away": max,
    b"penstock_shared_degraded": max,
    b"penstock_fleet_processes": max,
    b"penstock_config_last_reload_successful": min,
    b"penstock_config_last_reload_success_timestamp_seconds": min,
    b"penstock_ledger_journal_failing": max,
    b"penstock_credentials_unreadable": max,
    b"penstock_ledger_pruned_at_seconds": max,
    b"penstock_gateway_budget_remaining_dollars": min,
    b"litellm_provider_remaining_budget_metric": min,
    b"penstock_deployment_budget_remaining_dollars": min,
    b"litellm_remaining_api_key_budget_metric": min,
    b"litellm_api_key_budget_remaining_hours_metric": min,
    b"python_info": max,
    b"process_start_time_seconds": min,
}
"""Gauges of which two are not twice as much."""


class Siblings:
    """The workers that share `folder` with this one, whose process id is `pid`."""

    def __init__(self, folder: Path, pid: int) -> None:
        self._folder = folder
        self._pid = pid

    @asynccontextmanager
    async def told(self, render: Render) -> AsyncIterator[None]:
        """Answer siblings with what `render` gives, as long as the context lasts; at its end that is left as the last word."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                writer.write(await render() + _END)
                await writer.drain()
            except OSError:  # the sibling has lost its patience, or its life
                pass
            finally:
                writer.close()

        async with await asyncio.start_unix_server(answer, self._folder / f"{self._pid}{_SOCKET}"):
            yield
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    text = await render()
                    await asyncio.to_thread(_replace, self._folder / f"{self._pid}{_LAST}", text)

    async def gather(self, own: bytes) -> bytes:
        """The exposition of all workers together; `own` is this one's."""
        others = [path for path in self._folder.glob(f"*{_SOCKET}") if path.stem != str(self._pid)]
        answers = await asyncio.gather(*map(_ask, others))
        heard = {str(self._pid): own} | {
            path.stem: answer for path, answer in zip(others, answers, strict=True) if answer is not None
        }
        silent = [path.stem for path in others if path.stem not in heard]
        return await asyncio.to_thread(_together, self._folder, heard, silent)


async def _ask(path: Path) -> bytes | None:
    """The exposition of one sibling; None if it does not answer in time, or not to the end."""
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                text = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return text.removesuffix(_END) if text.endswith(_END) else None


def _together(folder: Path, heard: dict[str, bytes], silent: Iterable[str]) -> bytes:
    for name, text in heard.items():
        _replace(folder / f"{name}{_LAST}", text)
    remembered = [_read(folder / f"{name}{_LAST}") for name in silent]
    return merge(heard.values(), counted=[_read(folder / _PAST), *remembered])


def forget(folder: Path, pid: int) -> None:
    """A worker has ended: what it had counted stays in the sums. For the supervisor, which reaps one after the other."""
    last = folder / f"{pid}{_LAST}"
    text = _read(last)
    if text:
        _replace(folder / _PAST, merge((), counted=[_read(folder / _PAST), text]))
    for path in (last, folder / f"{pid}{_SOCKET}"):
        path.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _replace(path: Path, text: bytes) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):  # a full disk must not keep the numbers from being shown
        draft.write_bytes(text)
        draft.replace(path)


# -- adding up -------------------------------------------------------------------------------------------------------


class _Family:
    """The series of one name."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.values: dict[bytes, float] = {}


def merge(texts: Iterable[bytes], *, counted: Iterable[bytes] = ()) -> bytes:
    """One exposition from several in Prometheus' text format; of those in `counted`, only what is counted."""
    families: dict[bytes, _Family] = {}
    for text in texts:
        _add(text, families, with_gauges=True)
    for text in counted:
        _add(text, families, with_gauges=False)
    return b"".join(_lines(families.values()))


def _add(text: bytes, families: dict[bytes, _Family], *, with_gauges: bool) -> None:
    help_line = b""
    values: dict[bytes, float] = {}
    combine: Callable[[float, float], float] | None = None
    for line in text.splitlines():
        if line.startswith(b"# HELP "):
            help_line = line
        elif line.startswith(b"# TYPE "):
            _, _, name, kind = line.split(b" ")
            combine = _NOT_SUMMED.get(name)
            if kind == b"gauge" and not with_gauges:
                values = {}  # goes nowhere
            else:
                values = families.setdefault(name, _Family(b"%b\n%b\n" % (help_line, line))).values
        elif line:
            series, _, number = line.rpartition(b" ")
            value = float(number)
            if series not in values:
                values[series] = value
            else:
                values[series] = combine(values[series], value) if combine else values[series] + value


def _lines(families: Iterable[_Family]) -> Iterator[bytes]:
    for family in families:
        yield family.head
        for series, value in family.values.items():
            yield b"%b %b\n" % (series, floatToGoString(value).encode())  # type: ignore[no-untyped-call]  # the client has no types for it
