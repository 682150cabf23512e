"""From files to a `Config`: find the files, join them, sort every word into its place.

`files` reads the main file, what it includes and the `models/` folder beside it, and joins their top levels. `settings`
collects the settings of all sections under their names, wherever they stand; `sections` reads each by what `vocabulary` says
of it. `model_list`, `virtual_keys` and `credentials` read the lists. Nothing stops at the first problem: `load` raises
`ConfigInvalid` with all of them at the end, or returns what was read together with the warnings and notices.

What the environment gives as a default for the file is filled in, so that whoever uses the `Config` needs to look at one
place only.
"""

from __future__ import annotations

from collections.abc import Mapping as Names
from pathlib import Path

from msgspec import Struct

from gateway.config.credentials import read_credentials
from gateway.config.dialects import Dialects, Mention
from gateway.config.environment import read_environment
from gateway.config.files import Files
from gateway.config.model import Config, ModelEntry, Place, RouterSettings, Secret
from gateway.config.model_list import ModelList, defaults_of_all
from gateway.config.nodes import Item
from gateway.config.problems import ConfigInvalid, Problem, Report, closest
from gateway.config.sections import Sections
from gateway.config.seen import Seen
from gateway.config.settings import collect
from gateway.config.values import Reader, is_off
from gateway.config.virtual_keys import models_of_keys, read_virtual_keys
from gateway.config.vocabulary import LIMITS

__all__ = ["ConfigInvalid", "Loaded", "Problem", "load"]


class Loaded(Struct, frozen=True):
    """A configuration that can be used, and what there is to say about it."""

    config: Config
    notices: tuple[Problem, ...] = ()
    limits: dict[str, Place] = {}
    """Where limits and budgets are set, by their path."""


def load(
    path: Path | None, environ: Names[str, str], *, strict: bool = False, seen: Seen | None = None
) -> Loaded:
    """Read the configuration at `path`; None means that there is none and the environment says everything.

    `strict` makes errors of unknown keys and of names that lead nowhere. `seen` is filled with what was looked at, also where
    it cannot be used. Raises ConfigInvalid with all errors.
    """
    report = Report(strict=strict)
    files = Files(report, environ, seen)
    if path is not None:
        files.read_main(path)
    top = files.top
    variables = _variables(top, Reader(environ, report))
    known = {**environ, **{name: secret.reveal() for name, secret in variables.items()}}
    reader = Reader(known, report)
    dialects = Dialects(reader)
    sections = Sections(reader, dialects, read_environment(known))
    settings = collect(top, report)
    router, litellm, general = (
        sections.router(settings),
        sections.litellm(settings),
        sections.general(settings),
    )
    limits = {
        path: item.place
        for name, (_, item, path) in settings.items()
        if name in LIMITS and not is_off(item.value)
    }
    models = ModelList(reader, limits, defaults_of_all(settings)).read(top)
    if "llm_providers" in top:
        models += dialects.providers(top["llm_providers"], "llm_providers")
    keys = read_virtual_keys(top, reader, limits)
    if models and not general.env_providers:
        mentions = [*dialects.mentions, *models_of_keys(keys, models)]
        _check_mentions(mentions, models, router, report)
    credentials = read_credentials(top, reader)
    notices = report.settle()
    config = Config(
        model_list=tuple(models),
        router=router,
        litellm=litellm,
        general=general,
        virtual_keys=tuple(keys),
        credentials=tuple(credentials),
        environment_variables=variables,
        files=tuple(files.names),
    )
    return Loaded(config, notices, limits)


def _variables(top: dict[str, Item], reader: Reader) -> dict[str, Secret]:
    """`environment_variables`: what is to be set in the process."""
    if "environment_variables" not in top:
        return {}
    path = "environment_variables"
    found = reader.each(top[path].value, path, reader.secret_text) or {}
    for name in found:
        if not name or "=" in name or not name.isprintable():
            reader.report.error(
                top[path].place, path, "a variable has a name that the environment does not take"
            )
    return {name: value for name, value in found.items() if value is not None}


# -- names that lead nowhere -------------------------------------------------------------------------------------------


def _check_mentions(
    mentions: list[Mention], models: list[ModelEntry], router: RouterSettings, report: Report
) -> None:
    """Fallbacks, aliases, policies and keys of models that nothing serves."""
    names = {entry.model_name for entry in models} | set(router.model_group_alias)
    wildcards = [name.split("*") for name in names if "*" in name]
    for name, place, path in mentions:
        if name not in names and not any(_matches(name, parts) for parts in wildcards):
            report.doubt(place, path, f'no model is called "{name[:80]}"', closest(name, names, cutoff=0.8))


def _matches(name: str, parts: list[str]) -> bool:
    """`parts` are a pattern that was cut at its stars."""
    first, *middle, last = parts
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    rest = name[len(first) : len(name) - len(last)]
    for part in middle:
        if part not in rest:
            return False
        rest = rest.split(part, 1)[1]
    return True
