"""How names are remembered."""

from __future__ import annotations

import asyncio
import socket
import traceback

import pytest

from gateway.upstreams.resolve import Resolver
from tests.gateway.upstreams.conftest import Names

LONG = 3600.0


async def test_an_answer_is_kept(names: Names) -> None:
    """A name is asked for once while its answer is good, for each port."""
    names.answers["a.example"] = [("10.0.0.1", 80)]
    resolver = Resolver(ttl=LONG)
    for _ in range(3):
        assert [info[4] for info in await resolver.lookup("a.example", 80)] == [("10.0.0.1", 80)]
    assert names.asked == ["a.example"]
    await resolver.lookup("a.example", 81)
    assert names.asked == ["a.example"] * 2


async def test_an_old_answer_is_refreshed(names: Names) -> None:
    """After its time a name is asked for again, and the new address is used."""
    resolver = Resolver(ttl=0.0)
    for address in ("10.0.0.1", "10.0.0.2"):
        names.answers["a.example"] = [(address, 80)]
        assert (await resolver.lookup("a.example", 80))[0][4] == (address, 80)


async def test_many_who_ask_at_once_are_one_question(names: Names) -> None:
    """Callers who come while a name is being asked for share the answer."""
    names.answers["a.example"] = [("10.0.0.1", 80)]
    resolver = Resolver(ttl=LONG)
    await asyncio.gather(*(resolver.lookup("a.example", 80) for _ in range(50)))
    assert names.asked == ["a.example"]


async def test_whoever_asks_may_be_cancelled(names: Names) -> None:
    """When the caller who asked is cancelled, the next one gets the answer."""
    names.answers["a.example"] = [("10.0.0.1", 80)]
    resolver = Resolver(ttl=LONG)
    loop = asyncio.get_running_loop()
    first, second = (loop.create_task(resolver.lookup("a.example", 80)) for _ in range(2))
    while not names.asked:
        await asyncio.sleep(0)
    first.cancel()
    assert (await second)[0][4] == ("10.0.0.1", 80)
    assert first.cancelled()


async def test_a_failed_refresh_keeps_the_old_answer(names: Names) -> None:
    """A resolver that is down does not take a known provider away."""
    names.answers["a.example"] = [("10.0.0.1", 80)]
    resolver = Resolver(ttl=0.0, failure_ttl=0.0)
    await resolver.lookup("a.example", 80)
    names.answers["a.example"] = socket.gaierror(socket.EAI_AGAIN, "try again")
    for _ in range(2):
        assert (await resolver.lookup("a.example", 80))[0][4] == ("10.0.0.1", 80)


async def test_a_refresh_that_takes_long_holds_nobody_up(names: Names) -> None:
    """A resolver that says nothing does not take a known provider away; what it says in the end is used."""
    resolver = Resolver(ttl=0.0, failure_ttl=0.0, patience=0.0)
    names.answers["a.example"] = [("10.0.0.1", 80)]
    await resolver.lookup("a.example", 80)
    names.silence = asyncio.Event()
    for _ in range(3):
        assert (await resolver.lookup("a.example", 80))[0][4] == ("10.0.0.1", 80)
    names.answers["a.example"] = [("10.0.0.2", 80)]
    names.silence.set()
    while (await resolver.lookup("a.example", 80))[0][4] != ("10.0.0.2", 80):
        await asyncio.sleep(0)


async def test_a_silent_name_is_one_question(names: Names) -> None:
    """However many ask for a name and give up, one question is open: each that is takes a thread from all other names."""
    names.answers["a.example"] = [("10.0.0.1", 80)]
    names.silence = asyncio.Event()
    resolver = Resolver(ttl=LONG)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolver.lookup("a.example", 80), timeout=0.01)
    assert names.asked == ["a.example"]
    names.silence.set()
    assert (await resolver.lookup("a.example", 80))[0][4] == ("10.0.0.1", 80)
    assert names.asked == ["a.example"]


async def test_a_failure_is_remembered_for_a_moment(names: Names) -> None:
    """Those who wait for the same name share the failure; afterwards it is asked for again."""
    names.answers["a.example"] = socket.gaierror(socket.EAI_NONAME, "no such name")
    resolver = Resolver(failure_ttl=LONG)
    results = await asyncio.gather(
        *(resolver.lookup("a.example", 80) for _ in range(20)), return_exceptions=True
    )
    assert {type(result) for result in results} == {socket.gaierror}
    assert names.asked == ["a.example"]
    again = Resolver(failure_ttl=0.0)
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await again.lookup("a.example", 80)
    assert len(names.asked) == 3


async def test_a_failure_holds_nobody(names: Names) -> None:
    """However many get it: what they did is not kept with it."""
    names.answers["a.example"] = socket.gaierror(socket.EAI_NONAME, "no such name")
    resolver = Resolver(failure_ttl=LONG)
    frames = set()
    for _ in range(20):
        with pytest.raises(socket.gaierror) as raised:
            await resolver.lookup("a.example", 80)
        frames.add(len(traceback.extract_tb(raised.value.__traceback__)))
    assert len(frames) == 1


async def test_a_name_without_an_address_is_a_failure(names: Names) -> None:
    """An empty answer is no answer."""
    names.answers["a.example"] = []
    with pytest.raises(socket.gaierror):
        await Resolver().lookup("a.example", 80)


async def test_a_forgotten_name_is_asked_for_again(names: Names) -> None:
    """`forget` ends an answer before its time."""
    names.answers["a.example"] = [("10.0.0.1", 80)]
    resolver = Resolver(ttl=LONG)
    for _ in range(2):
        await resolver.lookup("a.example", 80)
        resolver.forget("a.example", 80)
    assert len(names.asked) == 2
