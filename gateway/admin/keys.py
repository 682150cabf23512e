"""`/key/…`: making, showing and changing virtual keys, in LiteLLM's shapes.

Plain functions of the runtime, the caller and what was sent; `gateway.admin.routes` says which path is whose. A key's text
is in exactly one answer, that of the call which made it. Wherever a call takes a key, it takes its digest too.

Spend is what the ledger says: of all time since the key was last set back, in dollars.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from adapters.errors import BadRequest
from gateway.keyfields import (
    change,
    checked_key,
    digest_of,
    lifetime,
    moment,
    name_of,
    new_key,
    shown,
)
from gateway.keyring import MASTER, Caller, KeyBusy, KeyNotFound
from gateway.runtime import Runtime
from gateway.state.keys import KeyRow
from gateway.state.records import AliasTaken, RecordsUnavailable, usd

log = logging.getLogger("penstock.keys")

Fields = Mapping[str, Any]

_MOST_AT_ONCE = 500
_MOST_ON_A_PAGE = 100
_ADMIN_ID = "default_user_id"
"""What LiteLLM calls whoever holds the master key."""


# -- making ----------------------------------------------------------------------------------------------------------


async def generate(rt: Runtime, caller: Caller, fields: Fields) -> dict[str, Any]:
    """`POST /key/generate`: a new key, shown this once. Raises `BadRequest`, `AliasTaken`."""
    chosen = fields.get("key")
    key = new_key() if chosen in (None, "") else checked_key(chosen)
    now = time.time()
    who = _name_of(caller)
    blank = KeyRow(digest=digest_of(key), name=name_of(key), created_at=now, created_by=who)
    blank = replace(blank, updated_at=now, updated_by=who)
    made = change(blank, fields, now)

    def make(stored: KeyRow | None) -> KeyRow:
        if stored is None:
            return made
        if stored.deleted_at is None or stored.successor is not None:  # what replaced it spends in its name
            raise BadRequest("This key exists already.", param="key")
        return replace(made, version=stored.version + 1, spend_since=now)

    row = await rt.keyring.change(made.digest, make)
    _tell("made", row, who)
    return _made(row, key)


async def generate_for_service(rt: Runtime, caller: Caller, fields: Fields) -> dict[str, Any]:
    """`POST /key/service-account/generate`: a key that is a team's and no user's. Raises as `generate`."""
    if not fields.get("team_id"):
        raise BadRequest(
            "team_id is required for service account keys. Please specify `team_id` in the request body.",
            param="team_id",
        )
    return await generate(rt, caller, {**fields, "user_id": None})


async def regenerate(rt: Runtime, caller: Caller, fields: Fields, key: str | None = None) -> dict[str, Any]:
    """`POST /key/{key}/regenerate`: another key in the place of this one, which goes on spending where that was.

    With `grace_period` (`1h` …) the old one holds for so long beside it; else it ends now. `spend: 0` sets the spend back.
    """
    wanted = rt.keyring.named(_named(fields, key))
    _check_is_ours(rt, wanted)
    old = _living(await rt.records.key(wanted))  # as it is now: what is known here may be a moment old
    chosen = fields.get("new_key")
    text = new_key() if chosen in (None, "") else checked_key(chosen)
    digest = digest_of(text)
    if digest == old.digest:
        raise BadRequest("new_key is the key that it is to replace.", param="new_key")
    now, who = time.time(), _name_of(caller)
    grace = fields.get("grace_period")
    ends = now if grace in (None, "", "0", "0s") else lifetime("grace_period", grace, now)
    fresh = change(_successor(old, digest, name_of(text)), fields, now)
    if fields.get("spend") is not None:
        fresh = replace(fresh, spend_since=now)
    other = fresh.alias if fresh.alias != old.alias else None
    if other is not None and rt.keyring.with_alias(other) is not None:  # before anything happens
        raise AliasTaken(f"Key with alias '{fresh.alias}' already exists.", param="key_alias")
    spend = await _spend(rt, fresh)

    def make(stored: KeyRow | None) -> KeyRow:
        if stored is not None and (stored.deleted_at is None or stored.successor is not None):
            raise BadRequest("This key exists already.", param="new_key")
        before = 0 if stored is None else stored.version
        return _changed(replace(fresh, version=before, alias=None), who, now)

    def end(row: KeyRow) -> KeyRow:
        until = ends if row.expires_at is None else min(ends, row.expires_at)
        return replace(
            row, alias=None, expires_at=until, deleted_at=now if until <= now else None, successor=digest
        )

    # The new one comes first, so that there is no moment without a key; the name goes over when the old one lets go of it.
    row = await rt.keyring.change(digest, make)
    try:
        await _change(rt, caller, old.digest, end, "replaced")
    except (KeyNotFound, KeyBusy):  # somebody else was quicker, and nobody will know the new one
        await _change(rt, caller, digest, lambda row: replace(row, deleted_at=now), "taken back")
        raise
    if fresh.alias is not None:
        try:
            row = await _change(rt, caller, digest, lambda row: replace(row, alias=fresh.alias), "named")
        except (AliasTaken, KeyBusy, RecordsUnavailable) as error:
            # The old one has ended: who asks must get the new one.
            log.warning(
                "the key %s could not be given the alias %s: %s", row.name, fresh.alias, error.message
            )
    return _made(row, text, spend)


def _successor(old: KeyRow, digest: str, name: str) -> KeyRow:
    return replace(old, digest=digest, name=name, account=old.payer, successor=None)


def _made(row: KeyRow, key: str, spend: float = 0.0) -> dict[str, Any]:
    return {**shown(row), "key": key, "token": row.digest, "token_id": row.digest, "spend": spend}


# -- changing --------------------------------------------------------------------------------------------------------


async def update(rt: Runtime, caller: Caller, fields: Fields) -> dict[str, Any]:
    """`POST /key/update`: what is named changes, the rest stays. `spend: 0` sets the spend back."""
    given = _named(fields)
    now = time.time()

    def make(row: KeyRow) -> KeyRow:
        changed = change(row, fields, now)
        is_reset = fields.get("spend") is not None
        return replace(changed, spend_since=now) if is_reset else changed

    row = await _change(rt, caller, given, make, "changed")
    return {**shown(row), "key": given, "token": row.digest}


async def update_several(rt: Runtime, caller: Caller, fields: Fields) -> dict[str, Any]:
    """`POST /key/bulk_update`: each of `keys` is a body of `/key/update`. One that cannot be changed keeps no other from it."""
    items = fields.get("keys")
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise BadRequest("keys must be a list of objects, each with its key.", param="keys")
    if len(items) > _MOST_AT_ONCE:
        raise BadRequest(f"keys has {len(items)} items; {_MOST_AT_ONCE} are the most.", param="keys")
    done: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for item in items:
        key = item.get("key")
        try:
            done.append({"key": key, "key_info": await update(rt, caller, item)})
        except (BadRequest, KeyNotFound, KeyBusy, AliasTaken) as error:
            failed.append({"key": key, "key_info": None, "failed_reason": error.message})
    return {"total_requested": len(items), "successful_updates": done, "failed_updates": failed}


async def delete(rt: Runtime, caller: Caller, fields: Fields) -> dict[str, Any]:
    """`POST /key/delete`: `keys` (or their digests), `key_aliases`. All are there, or none is deleted."""
    keys = [*_several(fields, "keys")]
    for alias in _several(fields, "key_aliases"):
        row = rt.keyring.with_alias(alias)
        if row is None:
            raise KeyNotFound(
                f"Key not found in database: no key has the alias {alias!r}", param="key_aliases"
            )
        keys.append(row.digest)
    if not keys:
        raise BadRequest("keys or key_aliases is needed.", param="keys")
    for key in keys:
        _check_is_ours(rt, (await _stored(rt, key)).digest)
    now = time.time()
    # One may be named twice: by itself, its digest, its alias.
    for digest in dict.fromkeys(map(rt.keyring.named, keys)):
        await _change(rt, caller, digest, lambda row: replace(row, deleted_at=now), "deleted")
    return {"deleted_keys": keys}


async def block(rt: Runtime, caller: Caller, fields: Fields, *, blocked: bool) -> dict[str, Any]:
    """`POST /key/block`, `/key/unblock`: the row."""
    did = "blocked" if blocked else "unblocked"
    row = await _change(rt, caller, _named(fields), lambda row: replace(row, blocked=blocked), did)
    return {**await _info(rt, row), "token": row.digest, "blocked": blocked}


async def reset_spend(rt: Runtime, caller: Caller, fields: Fields, key: str) -> dict[str, Any]:
    """`POST /key/{key}/reset_spend`: it has spent nothing, from now on."""
    if fields.get("reset_to") not in (None, 0):
        raise BadRequest(
            "reset_to must be 0: what was spent since then is what the ledger says.", param="reset_to"
        )
    before = await _spend(rt, await _stored(rt, key))
    now = time.time()
    row = await _change(rt, caller, key, lambda row: replace(row, spend_since=now), "set back")
    first = row.budgets[0] if row.budgets else None
    return {
        "key_hash": row.digest,
        "spend": 0.0,
        "previous_spend": before,
        "max_budget": usd(first.max_budget) if first else None,
        "budget_reset_at": moment(rt.limiter.budget_reset_at(row)),
    }


async def _change(
    rt: Runtime, caller: Caller, key: str, make: Callable[[KeyRow], KeyRow], did: str
) -> KeyRow:
    now, who = time.time(), _name_of(caller)
    row = await rt.keyring.change(
        rt.keyring.named(key), lambda stored: _changed(make(_living(stored)), who, now)
    )
    _tell(did, row, who)
    return row


def _changed(row: KeyRow, who: str, now: float) -> KeyRow:
    return replace(row, version=row.version + 1, updated_at=now, updated_by=who)


def _living(row: KeyRow | None) -> KeyRow:
    if row is None or row.deleted_at is not None:
        raise KeyNotFound("Key not found in database", param="key")
    return row


def _check_is_ours(rt: Runtime, digest: str) -> None:
    if rt.keyring.is_configured(digest):
        raise BadRequest("This key stands in the configuration; it is changed there.", param="key")


# -- showing ---------------------------------------------------------------------------------------------------------


async def info(rt: Runtime, caller: Caller, key: str | None, *, is_admin: bool) -> dict[str, Any]:
    """`GET /key/info`: that of `key`, else the caller's own. Only an administrator sees others'."""
    own = caller.key
    if key is None:
        if own is None:
            return {"key": caller.digest, "info": _of_no_key(caller)}
        return {"key": own.digest, "info": await _info(rt, own)}
    if own is not None and rt.keyring.named(key) == own.digest:
        return {"key": key, "info": await _info(rt, own)}
    if not is_admin:  # whether it exists is none of their business
        raise KeyNotFound("Key not found in database", param="key")
    return {"key": key, "info": await _info(rt, await _stored(rt, key, deleted=True))}


async def infos(rt: Runtime, fields: Fields) -> dict[str, Any]:
    """`POST /v2/key/info`: several; those that do not exist are left out."""
    keys = _several(fields, "keys")
    found = [row for row in (rt.keyring.find(rt.keyring.named(key)) for key in keys) if row is not None]
    spends = await _spends(rt, found)
    return {
        "key": keys,
        "info": [{**_as_info(rt, row, spends[row.digest]), "token": row.digest} for row in found],
    }


async def list_keys(rt: Runtime, query: Mapping[str, str]) -> dict[str, Any]:
    """`GET /key/list`: digests, or whole keys with `return_full_object=true`; `size` at most 100."""
    page, size = _number(query, "page", 1), _number(query, "size", 10)
    if not 1 <= size <= _MOST_ON_A_PAGE:
        raise BadRequest(f"size must be between 1 and {_MOST_ON_A_PAGE}", param="size")
    rows = [row for row in rt.keyring.rows() if _fits(rt, row, query)]
    sort_by = query.get("sort_by", "created_at")
    if sort_by not in ("created_at", "updated_at", "key_alias", "key_name", "expires"):
        raise BadRequest(
            "sort_by must be created_at, updated_at, key_alias, key_name or expires", param="sort_by"
        )
    rows.sort(key=_SORTED[sort_by], reverse=query.get("sort_order", "desc") != "asc")
    chosen = rows[(max(page, 1) - 1) * size :][:size]
    keys: list[Any] = [row.digest for row in chosen]
    if query.get("return_full_object", "").lower() == "true":
        spends = await _spends(rt, chosen)
        keys = [{**_as_info(rt, row, spends[row.digest]), "token": row.digest} for row in chosen]
    return {
        "keys": keys,
        "total_count": len(rows),
        "current_page": page,
        "total_pages": -(-len(rows) // size),
    }


_SORTED: dict[str, Callable[[KeyRow], Any]] = {
    "created_at": lambda row: row.created_at,
    "updated_at": lambda row: row.updated_at,
    "key_alias": lambda row: row.alias or "",
    "key_name": lambda row: row.name,
    "expires": lambda row: row.expires_at or float("inf"),
}


def _fits(rt: Runtime, row: KeyRow, query: Mapping[str, str]) -> bool:
    wanted = {
        "user_id": row.user_id,
        "team_id": row.team_id,
        "key_alias": row.alias,
        "key_hash": row.digest,
        "status": _status(rt, row),
    }
    if any(query.get(name) not in (None, "", value) for name, value in wanted.items()):
        return False
    search = query.get("search", "").lower()
    return not search or any(search in (text or "").lower() for text in (row.alias, row.name, row.digest))


async def aliases(rt: Runtime, query: Mapping[str, str]) -> dict[str, Any]:
    """`GET /key/aliases`: all of them, in their order."""
    page, size = _number(query, "page", 1), max(1, _number(query, "size", 50))
    search = query.get("search", "").lower()
    names = sorted(row.alias for row in rt.keyring.rows() if row.alias and search in row.alias.lower())
    return {
        "aliases": names[(max(page, 1) - 1) * size :][:size],
        "total_count": len(names),
        "current_page": page,
        "total_pages": -(-len(names) // size),
        "size": size,
    }


def health() -> dict[str, Any]:
    """`POST /key/health`: whoever gets this answer holds a key that is well."""
    return {"key": "healthy", "logging_callbacks": None}


async def _info(rt: Runtime, row: KeyRow) -> dict[str, Any]:
    return _as_info(rt, row, await _spend(rt, row))


def _as_info(rt: Runtime, row: KeyRow, spend: float) -> dict[str, Any]:
    return {
        **shown(row),
        "spend": spend,
        "budget_reset_at": moment(rt.limiter.budget_reset_at(row)),
        "status": _status(rt, row),
    }


async def _spend(rt: Runtime, row: KeyRow) -> float:
    return usd(await rt.limiter.spend_of(row))


async def _spends(rt: Runtime, rows: Sequence[KeyRow]) -> dict[str, float]:
    """What each has spent, by digest: one sum over the ledger for all that were never set back."""
    async with rt.ledger.up_to_date():
        totals = await rt.records.totals(["key_digest"])
    ever = {total.group[0]: usd(total.cost_nano) for total in totals}
    return {
        row.digest: await _spend(rt, row) if row.spend_since else ever.get(row.payer, 0.0) for row in rows
    }


def _status(rt: Runtime, row: KeyRow) -> str:
    last = rt.keyring.last(row)  # whose state is the state of all that it replaced
    if row.deleted_at is not None or last.deleted_at is not None or last.payer != row.payer:
        return "deleted"
    if row.blocked or last.blocked:
        return "revoked"
    return "active" if row.is_alive(time.time()) else "expired"


def _of_no_key(caller: Caller) -> dict[str, Any]:
    """What there is to say of a caller without a virtual key: it may everything."""
    role = "proxy_admin" if caller is MASTER else None
    blank = KeyRow(digest="", name="", alias=caller.alias)
    return {**shown(blank), "key_name": None, "user_role": role, "spend": None, "status": "active"}


# -- what was sent ---------------------------------------------------------------------------------------------------


async def _stored(rt: Runtime, key: str, *, deleted: bool = False) -> KeyRow:
    digest = rt.keyring.named(key)
    row = rt.keyring.find(digest) or await rt.records.key(digest)
    return row if deleted and row is not None else _living(row)


def _named(fields: Fields, key: str | None = None) -> str:
    found = key if key is not None else fields.get("key")
    if not isinstance(found, str) or not found:
        raise BadRequest("key is needed: the key, or its digest.", param="key")
    return found


def _several(fields: Fields, name: str) -> list[str]:
    found = fields.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, str) and item for item in found):
        raise BadRequest(f"{name} must be a list of texts.", param=name)
    if len(found) > _MOST_AT_ONCE:
        raise BadRequest(f"{name} has {len(found)} items; {_MOST_AT_ONCE} are the most.", param=name)
    return list(dict.fromkeys(found))


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise BadRequest(f"{name} must be a number", param=name)
    return int(text)


def _name_of(caller: Caller) -> str:
    return _ADMIN_ID if caller.is_admin else caller.kind


def _tell(did: str, row: KeyRow, who: str) -> None:
    log.info("the key %s (%s) was %s by %s", row.name, row.alias or row.digest[:12], did, who)
