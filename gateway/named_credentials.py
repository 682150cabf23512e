"""Named credentials: where they come from, and how an entry of the model list gets what it does not say itself.

They stand in the configuration (`credential_list`) or in the store (`POST /credentials`), where each value is sealed
(`gateway.state.sealing`). Both are read before routes are compiled; a change in the store holds from the next reading on. A
name that stands in both is the configuration's.

An entry that names a credential which is not there is not served, and says why: another key than the one that was meant, the
environment's for instance, must not be sent in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from gateway.config.model import Config, ModelEntry, Secret
from gateway.config.values import problem_of_url
from gateway.config.vocabulary import CREDENTIAL_VALUES, OPTIONS, SAME_SETTING
from gateway.state.credentials import CredentialRow, opened, sealed
from gateway.state.records import Records
from gateway.state.sealing import NAME, CannotOpen, CannotSeal, Sealer, WrongKey

_ATTEMPTS = 8
_SECRET_KINDS = frozenset(("secret", "secret_text"))


class Credentials(Struct, frozen=True, kw_only=True):
    """What is known of named credentials: values by name and word, and why others are not known."""

    values: dict[str, dict[str, Secret]] = {}
    unreadable: dict[str, str] = {}
    """Names of those that are there and cannot be used, with the reason."""
    elsewhere: str = ""
    """Why one that is not among them may exist all the same; empty if it does not."""

    def why_not(self, name: str) -> str:
        """Why there is no such credential."""
        if name in self.unreadable:
            return f"the credential {name!r} cannot be used: {self.unreadable[name]}"
        return f"there is no credential {name!r}" + (f" ({self.elsewhere})" if self.elsewhere else "")

    def secrets(self) -> list[str]:
        """Every value that must not be shown."""
        return [
            value.reveal()
            for values in self.values.values()
            for word, value in values.items()
            if is_hidden(word, value.reveal())
        ]


LONG_ENOUGH = 8
"""Characters from which on a text under a word that nobody knows is taken for a secret."""

NOT_ASKED = Credentials(elsewhere="the store was not asked")
AWAY = Credentials(elsewhere="the store could not be read at the start")


def is_secret(word: str) -> bool:
    """Is what a credential says under this word a secret? What nobody knows is one."""
    return CREDENTIAL_VALUES.get(word, "secret") in _SECRET_KINDS


def is_hidden(word: str, text: str) -> bool:
    """Must this text be taken out of logs and errors? What is short and under a word that nobody knows may be anything: a
    remark that says "all" would take that word out of every sentence.
    """
    return is_secret(word) and (word in CREDENTIAL_VALUES or len(text) >= LONG_ENOUGH)


# -- where they come from --------------------------------------------------------------------------------------------


async def credentials_of(records: Records, sealer: Sealer) -> Credentials:
    """Those of the store, opened. Raises `RecordsUnavailable`; `CannotSeal` or `WrongKey`, one line that tells all, where
    it is the salt key that is missing or another one. One that is damaged is `unreadable` and harms no other.
    """
    rows = await records.credentials()
    return await asyncio.to_thread(_opened, rows, sealer, records.describe().where) if rows else Credentials()


def _opened(rows: list[CredentialRow], sealer: Sealer, where: str) -> Credentials:
    values: dict[str, dict[str, Secret]] = {}
    unreadable: dict[str, str] = {}
    strangers = 0
    for row in rows:
        try:
            texts = opened(sealer, row)
        except CannotSeal as error:
            raise CannotSeal(f"{_count(len(rows))} in {where} cannot be opened: {error}") from None
        except WrongKey:
            strangers += 1
        except CannotOpen as error:
            unreadable[row.name] = str(error)
        else:
            if problem := checked(texts):
                unreadable[row.name] = problem
            else:
                values[row.name] = {word: Secret(_bare(word, text)) for word, text in texts.items()}
    if strangers:
        told = (
            f"{_count(strangers)} in {where} cannot be opened with this {NAME} (without one: this master key)"
        )
        remedy = "start with the one that sealed them, or run penstock rotate-salt"
        raise WrongKey(f"{told}: {remedy}")
    return Credentials(values=values, unreadable=unreadable)


def _count(number: int) -> str:
    return "1 named credential" if number == 1 else f"{number} named credentials"


# -- who uses them ---------------------------------------------------------------------------------------------------


def with_credentials(config: Config, stored: Credentials) -> Config:
    """The configuration, each entry of its model list with what its named credential says."""
    if not any(entry.params.litellm_credential_name for entry in config.model_list):
        return config
    known = together(config, stored)
    return replace(config, model_list=tuple(_filled(entry, known) for entry in config.model_list))


def together(config: Config, stored: Credentials) -> Credentials:
    """The configuration's and the store's, as one."""
    own = {credential.name: credential.values for credential in config.credentials if not credential.unset}
    unset = {
        credential.name: f"{', '.join(credential.unset)} is not set"
        for credential in config.credentials
        if credential.unset
    }
    return Credentials(
        values={**{name: values for name, values in stored.values.items() if name not in unset}, **own},
        unreadable={**stored.unreadable, **unset},
        elsewhere=stored.elsewhere,
    )


def _filled(entry: ModelEntry, known: Credentials) -> ModelEntry:
    params = entry.params
    name = params.litellm_credential_name
    if name is None:
        return entry
    if name not in known.values:
        return replace(entry, lacks=known.why_not(name))
    own: dict[str, Any] = {}
    options: dict[str, str | Secret] = {}
    for word, secret in known.values[name].items():
        field = SAME_SETTING.get(word, word)
        value = secret if is_secret(word) else secret.reveal()
        if field in OPTIONS:
            options[field] = value
        elif field in CREDENTIAL_VALUES and getattr(params, field) is None:
            own[field] = value
    return replace(entry, params=replace(params, **own, options={**options, **params.options}))


# -- another salt ----------------------------------------------------------------------------------------------------


async def reseal(records: Records, old: Sealer, new: Sealer, *, dry_run: bool = False) -> tuple[int, int]:
    """Seal all that is sealed with `old`, or in LiteLLM's formats, with `new`: how many rows were, and how many there are.

    One transaction: all rows or none. Rows that `new` has sealed already stay as they are, so it can be run again. Raises
    `RecordsUnavailable`, `CannotSeal`, and `CannotOpen` (`WrongKey`) with the name of a row that neither opens.
    """
    done = 0
    for _ in range(_ATTEMPTS):
        rows = await records.credentials()
        stale = [row for row in rows if not all(map(new.is_current, row.values.values()))]
        moved = [_resealed(row, old, new) for row in stale]
        if dry_run or not moved:
            return done or len(moved), len(rows)
        if await records.put_credentials(moved):
            done += len(moved)  # and once more: a gateway with the old salt may have added one meanwhile
    raise CannotSeal("others change the credentials all the time; stop the gateways and run it again")


def _resealed(row: CredentialRow, old: Sealer, new: Sealer) -> CredentialRow:
    try:
        texts = {
            word: opened(new if new.is_current(text) else old, replace(row, values={word: text}))[word]
            for word, text in row.values.items()
        }
    except CannotOpen as error:
        raise type(error)(f"the credential {row.name!r}: {error}; nothing was changed") from None
    return replace(row, version=row.version + 1, values=sealed(new, row.id, texts))


def checked(values: Mapping[str, str]) -> str:
    """What is wrong with these values, empty if nothing is: an address must be one, and hold no password; a key is one line."""
    for word, text in values.items():
        kind = CREDENTIAL_VALUES.get(word)
        if kind == "url" and (problem := problem_of_url(text.strip())):
            return f"{word} {problem}"
        if kind == "secret" and not text.strip().isprintable():
            return f"{word} has a line break or another character in it that no key has"
    return ""


def _bare(word: str, text: str) -> str:
    """Without what a file leaves around a value; some are files themselves."""
    return text if CREDENTIAL_VALUES.get(word) == "secret_text" else text.strip()
