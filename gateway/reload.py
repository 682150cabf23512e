"""Another configuration for a gateway that runs: all of it or nothing, and no request notices.

**When.** A file says something else than when it was read (`Reloader.run` looks twice a second, first at the files' state,
then at their content), SIGHUP, or `POST /config/reload`. Who is asked tells the others: workers through their supervisor,
replicas through Redis; each reads its own files.

**How.** Reading, checking and compiling happen in a thread, as at the start, and touch nothing. Then one step without an
`await`, `Runtime.follow`, puts the new configuration in force. If anything is wrong, all problems are told with their lines,
the old configuration stays whole, and `penstock_config_last_reload_successful` is 0 until another reload goes well.

**What goes on.** A request has its plan, its key and what was taken for it from the configuration under which it began, and
ends with them; streams of a model that is gone go on. What is known of deployments (`routing.health`) is kept by their ids,
connections to providers by credential: those that nobody uses any more close after seconds.

**What does not.** A running gateway is not opened: a configuration without the master key that there was is refused. So is one
without any of the models that there were, which a slip in the word `model_list` is enough for, and which would let every
provider of the environment in; and an empty file, which somebody is still writing. What needs a restart (`differences.NEEDS_RESTART`) is told as such at each reload
until there was one, and all else applies. `.env` is not read again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import msgspec
from msgspec import Struct

from gateway.compiled import Compiled, compile_config
from gateway.config.model import Place
from gateway.config.problems import ConfigInvalid, Problem
from gateway.config.source import Source, Watch, Written
from gateway.differences import Difference, differences, in_words
from gateway.logs import scrub
from gateway.named_credentials import Credentials, credentials_of
from gateway.state.records import Records, RecordsUnavailable
from gateway.state.sealing import CannotOpen, CannotSeal, Sealer
from gateway.state.shared import Shared, SharedAway
from gateway.state.shared_memory import MemoryShared

log = logging.getLogger("penstock.config")

T = TypeVar("T")

CHANNEL = "config"
INTERVAL = 0.5
"""Seconds between two looks at the files, if the configuration says nothing else."""
_SETTLED = 0.1
"""Seconds for which files must have stayed the same: not every editor writes in one piece."""
_RESTLESS = 20
_CREDENTIALS_SECONDS = 2.0
_GIVES_WAY = 0.0005
_MOST_LOGGED = 100
"""Differences in the fields of a log line; `GET /config/status` has all."""


class Running(Protocol):
    """What is reloaded; a `Runtime` is one."""

    compiled: Compiled

    @property
    def records(self) -> Records: ...
    @property
    def sealer(self) -> Sealer: ...
    @property
    def shared(self) -> Shared: ...

    def follow(self, compiled: Compiled) -> None:
        """Put it in force, in one step."""


class Outcome(Struct, frozen=True, kw_only=True):
    """How a reload went. `at` is unix seconds; `problems` are why it was refused, none if it was not."""

    why: str
    at: float
    digest: str
    """Of the configuration that is in force now."""
    problems: tuple[Problem, ...] = ()
    differences: tuple[Difference, ...] = ()

    @property
    def succeeded(self) -> bool:
        """The new configuration is in force."""
        return not self.problems


class Reloader:
    """Keeps `rt` at what `source` says. A `Worker`. `written` is what it began with."""

    name = "configuration"

    def __init__(self, rt: Running, source: Source, written: Written) -> None:
        self._rt = rt
        self._source = source
        self._started = self._written = written
        self._watch = Watch(written.seen)
        self._turn = asyncio.Lock()
        self._asked = asyncio.Event()
        self._why = ""
        self._id = uuid4().hex
        """Tells its own news from others'."""
        self.loaded_at = time.time()
        """Unix seconds at which the configuration that is in force was read."""
        self.last: Outcome | None = None
        """The last reload; None if there was none."""
        self.tell_workers: Callable[[], None] | None = None
        """Has the other workers of this gateway reload too, where there are some."""
        if not isinstance(rt.shared, MemoryShared):
            rt.shared.subscribe(CHANNEL, self._hear)

    @property
    def digest(self) -> str:
        """Of the configuration that is in force."""
        return self._written.digest

    # -- triggers ------------------------------------------------------------------------------------------------------

    def ask(self, why: str) -> None:
        """Reload soon, whatever the files look like."""
        self._why = why
        self._asked.set()

    def _hear(self, message: str | None) -> None:
        if message is not None and message != self._id:
            self.ask("another gateway was told to")

    async def tell_others(self) -> None:
        """Have workers and replicas reload too. What cannot be told they see in their files."""
        if self.tell_workers is not None:
            self.tell_workers()
        if not isinstance(self._rt.shared, MemoryShared):
            try:
                await self._rt.shared.publish(CHANNEL, self._id)
            except SharedAway:
                log.warning("the other gateways could not be told to reload: Redis is away")

    @property
    def _interval(self) -> float | None:
        """Seconds between two looks; None: nobody looks."""
        said = self._rt.compiled.config.general.proxy_config_reload_interval_seconds
        if self._source.path is None or said == 0:
            return None
        return INTERVAL if said is None else max(_SETTLED, said)

    async def run(self) -> None:
        """As a `Worker`: reload when somebody asks, or files change."""
        while True:
            if not self._asked.is_set() and await self._has_changed():
                self.ask("a file changed")
            if self._asked.is_set():
                self._asked.clear()
                await self._settled()
                await self.reload(self._why)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._asked.wait()

    async def _has_changed(self) -> bool:
        return self._interval is not None and await asyncio.to_thread(self._watch.has_changed)

    async def _settled(self) -> None:
        """Wait until nobody writes any more."""
        watch = self._watch
        before = await asyncio.to_thread(watch.now)
        for _ in range(_RESTLESS):
            await asyncio.sleep(_SETTLED)
            now = await asyncio.to_thread(watch.now)
            if now == before:
                return
            before = now

    # -- the reload ----------------------------------------------------------------------------------------------------

    async def reload(self, why: str) -> Outcome:
        """Read it again and put it in force, or say why not. One at a time."""
        async with self._turn:
            before = self._written
            seen: dict[str, str] = {}
            try:
                written = await _beside(self._source.read_again, seen)
                _refuse_to_open(before, written)
                compiled = await self._compiled(written)
                found = await _beside(self._differences, before, written)
            except ConfigInvalid as invalid:
                self._watch = Watch(seen)
                return self._refused(why, invalid.problems)
            except Exception as bug:  # whatever it is, the old configuration serves on
                log.exception("the configuration could not be read")
                self._watch = Watch(seen or before.seen)
                place = Place(str(self._source.path or "environment"), 0, 0)
                return self._refused(why, (Problem(place, "", f"cannot be read: {type(bug).__name__}"),))
            self._watch = Watch(written.seen)
            _change_environment(before, written)
            self._rt.follow(compiled)
            self._written, self.loaded_at = written, time.time()
            del compiled
            # What routes remember for themselves goes round in circles, and the collector of a busy process hardly ever looks
            # so far. 4 ms with 1,000 deployments: what lives since the start is frozen.
            gc.collect()
            self.last = Outcome(why=why, at=self.loaded_at, digest=written.digest, differences=tuple(found))
            log.info(
                "configuration %s is in force (%s): %s",
                written.digest,
                why,
                in_words(found),
                extra={"differences": msgspec.to_builtins(found[:_MOST_LOGGED])},
            )
            self._tell_what_is_sealed(written)
            for notice in written.notices:
                if notice.severity == "warning" and notice not in before.notices:
                    log.warning("%s", notice)
            return self.last

    def _tell_what_is_sealed(self, written: Written) -> None:
        """Without a salt key named credentials are sealed with the master key of the start, and stay so."""
        first, master = self._started.config.general.master_key, written.config.general.master_key
        stored = self._rt.compiled.credentials
        if self._started.environment.salt_key or first == master or not (stored.values or stored.unreadable):
            return
        log.warning(
            "the store's named credentials are sealed with the master key that this gateway was started with, and the next start "
            "cannot open them with another one: run `penstock rotate-salt --from-env OLD --to-env NEW` before it"
        )

    async def _compiled(self, written: Written) -> Compiled:
        config, environ = written.config, written.environ
        while True:
            before = self._rt.compiled
            credentials = await self._credentials()
            compiled = await _beside(compile_config, config, environ, before.prices, credentials)
            if self._rt.compiled is before:  # else the store's credentials came meanwhile
                return compiled

    async def _credentials(self) -> Credentials:
        """The store's named credentials as they are now; those that are known, if it cannot be asked."""
        try:
            async with asyncio.timeout(_CREDENTIALS_SECONDS):
                return await credentials_of(self._rt.records, self._rt.sealer)
        except (RecordsUnavailable, TimeoutError):
            log.warning("the named credentials cannot be read now; those that are known stay")
        except (CannotSeal, CannotOpen) as error:
            log.error("%s; those that are known stay", error)  # noqa: TRY400 - where it happened is of no use to an operator
        return self._rt.compiled.credentials

    def _differences(self, before: Written, written: Written) -> list[Difference]:
        """All of them, and what has waited for a restart since an earlier reload."""
        found = differences(before, written)
        if before is self._started:
            return found
        names = {one.name for one in found}
        since = differences(self._started, written)
        return [*found, *(one for one in since if one.needs_restart and one.name not in names)]

    def _refused(self, why: str, problems: tuple[Problem, ...]) -> Outcome:
        self.last = Outcome(why=why, at=time.time(), digest=self._written.digest, problems=problems)
        log.error(
            "the configuration was not reloaded (%s), %s stays in force: %s",
            why,
            self._written.digest,
            "; ".join(map(str, problems)),
            extra={"problems": [shown(problem) for problem in problems]},
        )
        return self.last

    # -- what is told --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> tuple[bool, float]:
        """Whether the last reload went well, if there was one; unix seconds of what is in force."""
        return self.last is None or self.last.succeeded, self.loaded_at

    def status(self) -> dict[str, Any]:
        """For `GET /config/status`: what is in force, since when, and how the last reload went."""
        last = self.last
        return {
            "hash": self._written.digest,
            "loaded_at": self.loaded_at,
            "files": {name: digest[:12] for name, digest in self._written.seen.items() if digest},
            "watched": self._interval is not None,
            "needs_restart": [
                msgspec.to_builtins(one)
                for one in differences(self._started, self._written)
                if one.needs_restart
            ],
            "last_reload": None if last is None else told(last),
        }


def told(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON has it."""
    return {
        "status": "ok" if outcome.succeeded else "failed",
        "why": outcome.why,
        "at": outcome.at,
        "hash": outcome.digest,
        "problems": [shown(problem) for problem in outcome.problems],
        "differences": msgspec.to_builtins(outcome.differences),
    }


def shown(problem: Problem) -> dict[str, Any]:
    """A problem as JSON has it; lines and columns count from 1, 0 where there is none."""
    return {
        "file": problem.place.file,
        "line": problem.place.line,
        "column": problem.place.column,
        "path": problem.path,
        "message": scrub(problem.message),
        "suggestion": problem.suggestion,
    }


async def _beside(work: Callable[..., T], *given: Any) -> T:
    """In a thread that gives way: each turn of the loop would wait for it up to 5 ms, Python's usual switch interval."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_GIVES_WAY)
    try:
        return await asyncio.to_thread(work, *given)
    finally:
        sys.setswitchinterval(usual)


def ask_supervisor() -> None:
    """Have the process that started this worker hand SIGHUP to all."""
    os.kill(os.getppid(), signal.SIGHUP)


def _refuse_to_open(before: Written, written: Written) -> None:
    """A slip in a file must not let everybody in, nor take all models away. Raises ConfigInvalid, with words that look like slips."""
    old, new = before.config, written.config
    lost = None
    if old.general.master_key and not new.general.master_key:
        lost = "general_settings", "there is no master key any more, and a running gateway is not opened"
    elif old.model_list and not new.model_list:
        lost = "model_list", "there are no models any more, and a running gateway keeps those that it has"
    if lost:
        place = Place(new.files[0] if new.files else "environment", 0, 0)
        path, message = lost
        slips = (problem for problem in written.notices if problem.suggestion)
        raise ConfigInvalid((Problem(place, path, f"{message}: restart it to do that"), *slips))


def _change_environment(before: Written, written: Written) -> None:
    """Libraries look there, for instance for certificates."""
    for name in before.environ.keys() - written.environ.keys():
        os.environ.pop(name, None)
    for name in before.config.environment_variables.keys() | written.config.environment_variables.keys():
        if name in written.environ and os.environ.get(name) != written.environ[name]:
            os.environ[name] = written.environ[name]
