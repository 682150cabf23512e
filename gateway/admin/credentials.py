"""`/credentials`: named credentials in the store, in LiteLLM's shapes.

Plain functions of the runtime, the caller and what was sent; `gateway.admin.routes` says which path is whose. Values are sealed
before they are stored and never shown again: an answer has two characters of either end, as LiteLLM's has. Those of the
configuration are listed too, and changed there.

A change holds from the next start on, or the next reload of the configuration: routes hold what they were compiled with.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import orjson
from msgspec.structs import replace

from adapters.errors import BadRequest, GatewayError
from gateway.config.vocabulary import CREDENTIAL_VALUES
from gateway.keyring import Caller
from gateway.logs import redactor
from gateway.named_credentials import checked, is_hidden
from gateway.runtime import Runtime
from gateway.state.credentials import CredentialRow, opened, sealed
from gateway.state.records import name_taken
from gateway.state.sealing import CannotOpen, CannotSeal

log = logging.getLogger("penstock.credentials")

Fields = Mapping[str, Any]

_ATTEMPTS = 8
_LONGEST_NAME = 200
_MOST_VALUES = 50
_MASKED = ("authorization", "token", "key", "secret", "credentials", "password", "passwd")
"""LiteLLM masks what has one of these words in its name."""
_UNKNOWN = "*****"


class CredentialNotFound(GatewayError):
    """Nobody has stored a credential of this name."""

    status, type, reason = 404, "not_found_error", "credential_not_found"


class CredentialBusy(GatewayError):
    """Others change this credential all the time."""

    status, type, reason = 409, "conflict_error", "credential_changed"


# -- changing --------------------------------------------------------------------------------------------------------


async def create(rt: Runtime, caller: Caller, fields: Fields) -> dict[str, Any]:
    """`POST /credentials`. Raises `BadRequest`, `NameTaken`, `CannotSeal`."""
    if fields.get("model_id") not in (None, ""):
        raise BadRequest("model_id is not available: say credential_values.", param="model_id")
    name = _name(fields.get("credential_name"))
    if name in _configured(rt):
        raise name_taken(name)
    values = {word: text for word, text in _values(fields).items() if text is not None}
    if not values:
        raise BadRequest("credential_values is needed: what the credential says.", param="credential_values")
    now, who, number = time.time(), _who(caller), str(uuid4())
    row = CredentialRow(
        id=number,
        name=name,
        values=await _sealed(rt, number, values),
        info=_info(fields),
        created_at=now,
        updated_at=now,
        created_by=who,
        updated_by=who,
    )
    await rt.records.put_credentials([row])
    _tell("made", name, who)
    return {"success": True, "message": "Credential created successfully"}


async def update(rt: Runtime, caller: Caller, name: str, fields: Fields) -> dict[str, Any]:
    """`PATCH /credentials/{name}`: what is named changes, null takes a value away, the rest stays."""
    _check_is_ours(rt, name)
    new_name = _name(fields.get("credential_name") or name)
    if new_name != name and new_name in _configured(rt):
        raise name_taken(new_name)
    values, info, who = _values(fields), _info(fields), _who(caller)
    given = {word: text for word, text in values.items() if text is not None}
    gone = values.keys() - given.keys()

    def change(row: CredentialRow, fresh: dict[str, str]) -> CredentialRow:
        kept = {word: text for word, text in row.values.items() if word not in gone}
        return replace(
            row,
            name=new_name,
            version=row.version + 1,
            values={**kept, **fresh},
            info={**row.info, **info},
            updated_at=time.time(),
            updated_by=who,
        )

    for _ in range(_ATTEMPTS):
        row = await _stored(rt, name)
        if await rt.records.put_credentials([change(row, await _sealed(rt, row.id, given))]):
            _tell("changed", name, who)
            return {"success": True, "message": "Credential updated successfully"}
    raise CredentialBusy("Others are changing this credential; try again.", param="credential_name")


async def delete(rt: Runtime, caller: Caller, name: str) -> dict[str, Any]:
    """`DELETE /credentials/{name}`: it is gone from the store, for good."""
    _check_is_ours(rt, name)
    if not await rt.records.delete_credential(name):
        raise _not_found(name)
    _tell("deleted", name, _who(caller))
    return {"success": True, "message": "Credential deleted successfully"}


async def _sealed(rt: Runtime, row: str, values: Mapping[str, str]) -> dict[str, str]:
    for word, text in values.items():
        if is_hidden(word, text):
            redactor.add(text)
    # In a thread: the first one imports the libraries, 30 ms.
    return await asyncio.to_thread(sealed, rt.sealer, row, values)


def _check_is_ours(rt: Runtime, name: str) -> None:
    if name in _configured(rt):
        raise BadRequest(
            "This credential stands in the configuration; it is changed there.", param="credential_name"
        )


async def _stored(rt: Runtime, name: str) -> CredentialRow:
    row = next((row for row in await rt.records.credentials() if row.name == name), None)
    if row is None:
        raise _not_found(name)
    return row


def _not_found(name: str) -> CredentialNotFound:
    return CredentialNotFound(
        f"Credential not found. Got credential name: {name[:_LONGEST_NAME]}", param="credential_name"
    )


# -- showing ---------------------------------------------------------------------------------------------------------


async def list_credentials(rt: Runtime) -> dict[str, Any]:
    """`GET /credentials`: all of them, in the order of their names, masked."""
    found = {row.name: row for row in await rt.records.credentials()}
    shown = await asyncio.to_thread(lambda: {name: _shown(rt, row) for name, row in found.items()})
    shown |= _configured(rt)
    return {"success": True, "credentials": [shown[name] for name in sorted(shown)]}


async def by_name(rt: Runtime, name: str) -> dict[str, Any]:
    """`GET /credentials/by_name/{name}`: one of them. Raises `CredentialNotFound`."""
    configured = _configured(rt).get(name)
    if configured is not None:
        return configured
    row = await _stored(rt, name)
    return await asyncio.to_thread(_shown, rt, row)


def _shown(rt: Runtime, row: CredentialRow) -> dict[str, Any]:
    try:
        values = opened(rt.sealer, row)
    except (CannotSeal, CannotOpen):  # the page of credentials is where somebody looks who has to repair one
        values = None
    masked = {word: _masked(word, values[word]) if values else _UNKNOWN for word in row.values}
    return {"credential_name": row.name, "credential_values": masked, "credential_info": row.info}


def _configured(rt: Runtime) -> dict[str, dict[str, Any]]:
    return {
        credential.name: {
            "credential_name": credential.name,
            "credential_values": {
                word: _masked(word, value.reveal()) for word, value in credential.values.items()
            },
            "credential_info": credential.info,
        }
        for credential in rt.config.credentials
    }


def _masked(word: str, text: str) -> str:
    """The value as LiteLLM shows it; all of what logs may show too, unless its name says that it is a secret."""
    sounds_secret = word not in CREDENTIAL_VALUES and any(part in word.lower() for part in _MASKED)
    if not (sounds_secret or is_hidden(word, text)):
        return text
    return _UNKNOWN if len(text) <= 4 else f"{text[:2]}****{text[-2:]}"


# -- what was sent ---------------------------------------------------------------------------------------------------


def _name(written: object) -> str:
    if not isinstance(written, str) or not written.strip() or not written.isprintable():
        raise BadRequest("credential_name is needed: a text.", param="credential_name")
    if len(written) > _LONGEST_NAME:
        raise BadRequest(
            f"credential_name has more than {_LONGEST_NAME} characters.", param="credential_name"
        )
    return written


def _values(fields: Fields) -> dict[str, str | None]:
    """Texts by their words; an object (a service account, say) as its JSON text."""
    written = fields.get("credential_values")
    if written is None:
        return {}
    if not isinstance(written, dict) or len(written) > _MOST_VALUES:
        raise BadRequest(
            f"credential_values must be an object of at most {_MOST_VALUES} values.",
            param="credential_values",
        )
    values = {
        word: value if value is None or isinstance(value, str) else orjson.dumps(value).decode()
        for word, value in written.items()
    }
    problem = checked({word: text for word, text in values.items() if text is not None})
    if problem:
        raise BadRequest(f"credential_values: {problem}.", param="credential_values")
    for word in sorted(values.keys() - CREDENTIAL_VALUES.keys()):
        log.warning('a credential says "%s", which no model is asked with', word)
    return values


def _info(fields: Fields) -> dict[str, Any]:
    written = fields.get("credential_info")
    if written is None:
        return {}
    if not isinstance(written, dict):
        raise BadRequest("credential_info must be an object.", param="credential_info")
    return written


def _who(caller: Caller) -> str:
    return "default_user_id" if caller.is_admin else caller.kind


def _tell(did: str, name: str, who: str) -> None:
    told = "it holds from the next start, or the next reload of the configuration"
    log.info("the credential %s was %s by %s; %s", name, did, who, told)
