"""Where a configuration comes from, so that it can be read again exactly as it was read at the start.

A configuration is what the files say, the environment in which they are resolved, and what the command line says instead.
The last two are those of the process's start for as long as it lives: `.env` is not read again, and nobody can change the
environment of a process from outside. So what a reload finds new is what the files say.

`Watch` tells whether files are still what was read: their state first, which costs next to nothing, then their content, by
which alone they are judged. An editor that renames and Kubernetes, which swaps a link, are no different from one who writes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from gateway.config.environment import Environment, read_environment
from gateway.config.load import Loaded, load
from gateway.config.model import Config, Place
from gateway.config.problems import ConfigInvalid, Problem, Report
from gateway.config.seen import Seen, digest_of_file, is_read_once

_TRUSTED = 2.0
"""Seconds that a file must have been left alone before its state alone says that it is the same: clocks of file systems tick
slowly, and two writes within a tick look like one."""


class Written(Struct, frozen=True):
    """What was read, and what it was read from."""

    config: Config
    environment: Environment
    environ: dict[str, str]
    """The process's environment with what `environment_variables` adds."""
    notices: tuple[Problem, ...] = ()
    seen: Seen = {}

    @property
    def digest(self) -> str:
        """Of all contents; twelve hexadecimal digits that tell one configuration from another."""
        told = "\0".join(f"{name}\0{digest}" for name, digest in sorted(self.seen.items()))
        return hashlib.sha256(told.encode()).hexdigest()[:12]


class Source:
    """A configuration that can be read again. `path` None: the environment says everything.

    `environ` is the environment that files are resolved in; `told` wins over what `environment_variables` sets. `amend` puts
    in what the command line says. `strict` makes errors of unknown keys.
    """

    def __init__(
        self,
        path: Path | None,
        environ: Mapping[str, str],
        *,
        told: Mapping[str, str] | None = None,
        amend: Callable[[Config], Config] | None = None,
        strict: bool = False,
    ) -> None:
        self.path = path
        self.environ = dict(environ)
        self._told = dict(told or {})
        self._amend = amend
        self._strict = strict

    def read(self, seen: Seen | None = None) -> Written:
        """Read it. `seen` is filled with what was looked at, which is worth something where the reading fails.

        Raises ConfigInvalid with all that is wrong.
        """
        seen = {} if seen is None else seen
        environ = {**self.environ, **self._told}
        loaded = load(self.path, environ, strict=self._strict, seen=seen)
        environ |= {name: secret.reveal() for name, secret in loaded.config.environment_variables.items()}
        environ |= self._told
        environment = environment_of(loaded, environ)
        config = self._amend(loaded.config) if self._amend else loaded.config
        return Written(config, environment, environ, (*environment.problems, *loaded.notices), seen)

    def read_again(self, seen: Seen) -> Written:
        """As `read`, with what must not happen to a gateway that runs: an empty file is one that is still being written, and a
        pipe has nothing more to say.
        """
        if self.path is not None and is_read_once(self.path):
            raise ConfigInvalid(
                (Problem(Place(str(self.path), 0, 0), "", "is a pipe and cannot be read again"),)
            )
        if self.path is not None and self.path.is_file() and not self.path.read_bytes().strip():
            seen[str(self.path)] = digest_of_file(self.path)
            raise ConfigInvalid((Problem(Place(str(self.path), 1, 1), "", "is empty"),))
        return self.read(seen)


def environment_of(loaded: Loaded, environ: Mapping[str, str]) -> Environment:
    """What the environment says beside this configuration. Raises ConfigInvalid for what no gateway starts with."""
    environment = read_environment(environ)
    errors = tuple(problem for problem in environment.problems if problem.severity == "error")
    if errors:
        raise ConfigInvalid(errors)
    _refuse_separate_counts(loaded, environment.num_workers)
    return environment


def _refuse_separate_counts(loaded: Loaded, workers: int) -> None:
    """Each worker would allow the whole of a budget or a limit once more. Raises ConfigInvalid."""
    router = loaded.config.router
    if workers == 1 or router.redis_url or router.redis_host or not loaded.limits:
        return
    message = f"{workers} workers can share a limit or a budget through Redis only: set REDIS_URL, or run one"
    report = Report()
    for path, place in loaded.limits.items():
        report.error(place, path, message)
    report.settle()


class Watch:
    """Whether what was seen is still so. It reads files: to be asked in a thread."""

    def __init__(self, seen: Seen) -> None:
        self._seen = {name: digest for name, digest in seen.items() if not is_read_once(Path(name))}
        self._states: dict[str, tuple[int, ...]] = {}

    def has_changed(self) -> bool:
        """Something that was looked at says something else now, has come, or is gone."""
        return any(self._differs(name, digest) for name, digest in self._seen.items())

    def now(self) -> Seen:
        """What the same files say now."""
        return {name: digest_of_file(Path(name)) for name in self._seen}

    def _differs(self, name: str, digest: str) -> bool:
        path = Path(name)
        state = _state(path)
        if state is not None and self._states.get(name) == state:
            return False
        if digest_of_file(path) != digest:
            return True
        if state is not None and time.time() - state[0] / 1e9 > _TRUSTED:
            self._states[name] = state
        return False


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes when somebody writes; None for a folder, whose names are looked at, and for what is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a path object would cost as much again, twice a second
    except OSError:
        return None
    is_file = found.st_mode & 0o170000 == 0o100000
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino) if is_file else None
