"""Who holds which key.

The gateway keeps digests, never keys: a presented key is digested and looked up, so that a comparison takes the same
time whether the key is nearly right or quite wrong. The master key is one entry among others.

All virtual keys are in memory, deleted ones too, so a request waits for nobody. What keeps them right:

* Whoever changes a key takes the change in at once and tells the others on the channel `keys`; they read that key anew.
* Where news may have been missed, and now and then, everything is read again; without a channel every half second while
  that is cheap, every 5 s at the latest.
* A key that is not in memory is looked up once, and that nobody has it is remembered for seconds. If the records are away
  then, nobody can tell: that is a 503, while keys that are known go on.

Each row counts its changes (`KeyRow.version`), and an older one never replaces a newer one, whichever arrives last: what was
revoked stays revoked.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from msgspec import Struct
from multidict import MultiMapping

from adapters.errors import BadRequest, GatewayError, Unauthorized
from gateway.config.model import Secret
from gateway.keyfields import PREFIX, digest_of, named_digest
from gateway.state.keys import KeyRow
from gateway.state.records import AliasTaken, Records, RecordsUnavailable
from gateway.state.shared import Shared, SharedAway

log = logging.getLogger("penstock.keys")

CHANNEL = "keys"
HEADERS = ("x-litellm-api-key", "authorization", "api-key", "x-api-key", "x-goog-api-key")
"""Where a request may hold out its key; the first that is there counts."""
_OFTEN, _SELDOM = (0.5, 5.0), (5.0, 60.0)
"""Seconds from one reading of everything to the next: without the channel, and with it."""
_SHARE = 50
"""Reading takes at most one part in so many of the time, as far as those bounds allow."""
_NOBODY_SECONDS = 5.0
_MOST_NOBODIES = 10_000
_MOST_LOOKUPS = 32
_RETRY_AFTER = "2"
_ATTEMPTS = 8


class Caller(Struct, frozen=True, eq=False):
    """Who asks. `digest` is what its rows in the ledger say, for a virtual key `KeyRow.payer`; None for the anonymous."""

    kind: Literal["anonymous", "master", "key"]
    digest: str | None = None
    alias: str | None = None
    key: KeyRow | None = None
    """The virtual key, with what it may and how much."""

    @property
    def is_admin(self) -> bool:
        """May it manage the gateway?"""
        return self.kind == "master"


ANONYMOUS = Caller("anonymous")
MASTER = Caller("master", "litellm_proxy_master_key", "litellm_proxy_master_key")
"""Its digest is a word, LiteLLM's: people choose weak master keys, and a real one would let them be guessed offline from a
metric or a row."""


class InvalidKey(Unauthorized):
    """A key that nobody has."""

    type, reason = "token_not_found_in_db", "invalid_key"


class BlockedKey(Unauthorized):
    """A key that was blocked."""

    reason = "blocked_key"


class ExpiredKey(Unauthorized):
    """A key whose time is over."""

    type, reason = "expired_key", "expired_key"


class KeyUnknown(GatewayError):
    """Whether this is a key cannot be told now."""

    status, type, reason = 503, "no_db_connection", "keys_unavailable"


class KeyNotFound(GatewayError):
    """Somebody wants to see or change a key that does not exist."""

    status, type, reason = 404, "not_found_error", "key_not_found"


class KeyBusy(GatewayError):
    """Others change this key all the time."""

    status, type, reason = 409, "conflict_error", "key_changed"


class Keyring:
    """All keys that mean something. Without a master key the gateway is open: whoever has no virtual key is anonymous.

    A `Worker`: `run` keeps it up to date. `configured` are the keys of the configuration, which nothing changes.
    """

    name = "keys"

    def __init__(
        self,
        master_key: Secret | None,
        records: Records | None = None,
        configured: Iterable[KeyRow] = (),
    ) -> None:
        self._master = digest_of(master_key.reveal()) if master_key else None
        self._records = records
        self._configured = {row.digest: _caller(row) for row in configured}
        self._callers: dict[str, Caller] = {}
        self._nobodies: dict[str, float] = {}
        self._lookups = 0
        self._shared: Shared | None = None
        self._stale: set[str] = set()
        self._all_stale = False
        self._told = asyncio.Event()
        self._cost = 0.0
        self._is_away = False
        self.version = 0
        """Another number after each change: who remembers a caller asks again then."""
        self.changed: Callable[[KeyRow], None] = _ignore
        """Is told of each key that was known and is another now, and of each that took the place of another."""

    def follow(self, master_key: Secret | None, configured: Iterable[KeyRow]) -> None:
        """Know the keys of another configuration in place of those of the last one."""
        self._master = digest_of(master_key.reveal()) if master_key else None
        self._configured = {row.digest: _caller(row) for row in configured}
        self._nobodies.clear()
        self.version += 1

    # -- who asks ----------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Nobody needs a key."""
        return self._master is None

    def known(self, key: str | None) -> Caller | None:
        """The caller behind a key, as far as it is known here; None: `look_up` has to be asked. Never waits.

        Raises `Unauthorized` where a key is needed and this is none, or one that was taken away.
        """
        if key is None:
            if self._master is None:
                return ANONYMOUS
            raise Unauthorized("Authentication Error, No api key passed in.")
        digest = digest_of(key)
        if self._master is not None and hmac.compare_digest(digest, self._master):
            return MASTER
        caller = self._configured.get(digest) or self._callers.get(digest)
        if caller is not None:
            return self._alive(caller)
        if self._records is None or not key.startswith(PREFIX) or self._is_nobody(digest):
            return self._nobody()
        return None

    async def look_up(self, key: str) -> Caller:
        """As `known`, with a look into the records. Raises `KeyUnknown` too."""
        digest = digest_of(key)
        if self._records is None:
            return self._nobody()
        if self._lookups >= _MOST_LOOKUPS:
            return self._untold()
        self._lookups += 1
        try:
            row = await self._records.key(digest)
        except RecordsUnavailable:
            return self._untold()
        finally:
            self._lookups -= 1
        if row is not None:
            self.take(row)
        caller = self._callers.get(digest)
        if caller is None:
            self._nobodies[digest] = time.monotonic() + _NOBODY_SECONDS
            if len(self._nobodies) > _MOST_NOBODIES:
                del self._nobodies[next(iter(self._nobodies))]
            return self._nobody()
        return self._alive(caller)

    def _alive(self, caller: Caller) -> Caller:
        """The caller, if its key may be used. Raises `Unauthorized`."""
        row = caller.key
        if row is not None:
            check_state(row)
            check_time(row, time.time())
            if row.successor is not None:
                last = self.last(row)
                check_state(last)  # who takes away a key means the one before it too
                if last.payer != row.payer:
                    raise _invalid()  # it was taken away, and somebody has made another one of the same text since
        return caller

    def _is_nobody(self, digest: str) -> bool:
        until = self._nobodies.get(digest)
        if until is not None and time.monotonic() >= until:
            del self._nobodies[digest]
            return False
        return until is not None

    def _nobody(self) -> Caller:
        if self._master is None:
            return ANONYMOUS
        raise _invalid()

    def _untold(self) -> Caller:
        if self._master is None:
            return ANONYMOUS  # who shows no key at all may as much
        message = (
            "Authentication Error, this key is not known here, and the store of keys cannot be asked now."
        )
        raise KeyUnknown(message, param="key", headers={"retry-after": _RETRY_AFTER})

    # -- all keys ----------------------------------------------------------------------------------------------------

    def rows(self) -> list[KeyRow]:
        """All keys that are not deleted: those of the configuration, then the others, oldest first."""
        found = [*self._configured.values(), *self._callers.values()]
        rows = [caller.key for caller in found if caller.key is not None]
        return sorted((row for row in rows if row.deleted_at is None), key=lambda row: row.created_at)

    def find(self, digest: str) -> KeyRow | None:
        """A key by its digest, deleted ones too."""
        caller = self._configured.get(digest) or self._callers.get(digest)
        return caller.key if caller else None

    def last(self, row: KeyRow) -> KeyRow:
        """What replaced the key that replaced it, and so on; the key itself if nothing did."""
        for _ in range(len(self._callers)):
            after = self.find(row.successor) if row.successor is not None else None
            if after is None:
                break
            row = after
        return row

    def named(self, text: str) -> str:
        """The digest that a call means, as `named_digest`; a key of the configuration may begin with anything."""
        digest = digest_of(text)
        return digest if digest in self._configured else named_digest(text)

    def with_alias(self, alias: str) -> KeyRow | None:
        """The key that has this alias and is not deleted."""
        return next((row for row in self.rows() if row.alias == alias), None)

    def is_configured(self, digest: str) -> bool:
        """It stands in the configuration."""
        return digest in self._configured

    # -- changes -----------------------------------------------------------------------------------------------------

    async def change(self, digest: str, make: Callable[[KeyRow | None], KeyRow]) -> KeyRow:
        """Write what `make` makes of the stored row, its `version` too, and let everybody know.

        `make` may raise. Raises `RecordsUnavailable`, `AliasTaken`, and `BadRequest` for a key of the configuration and for
        the master key.
        """
        if self._records is None or digest in self._configured:
            raise BadRequest("This key stands in the configuration; it is changed there.", param="key")
        for _ in range(_ATTEMPTS):
            row = make(await self._records.key(digest))
            if digest == self._master and row.deleted_at is None:  # it would go on when that is another one
                raise BadRequest("This is the master key, which no limit binds.", param="key")
            self._check_alias(row)
            if await self._records.put_key(row):
                self.take(row)
                await self._tell(digest)
                return row
        raise KeyBusy("Others are changing this key; try again.", param="key")

    def _check_alias(self, row: KeyRow) -> None:
        taken = {caller.alias for caller in self._configured.values() if caller.alias}
        if row.deleted_at is None and row.alias in taken:
            raise AliasTaken(f"Key with alias '{row.alias}' already exists.", param="key_alias")

    def take(self, row: KeyRow) -> None:
        """Know this row, unless a newer one is known."""
        caller = self._callers.get(row.digest)
        if caller is not None and caller.key is not None and caller.key.version >= row.version:
            return
        self._callers[row.digest] = _caller(row)
        self._nobodies.pop(row.digest, None)
        self.version += 1
        if caller is not None or row.account is not None:
            self.changed(row)

    async def _tell(self, digest: str) -> None:
        if self._shared is None:
            return
        try:
            await self._shared.publish(CHANNEL, digest)
        except SharedAway:
            log.warning(
                "a key was changed while its news could not be sent; other gateways see it within seconds"
            )

    # -- staying right -----------------------------------------------------------------------------------------------

    def listen(self, shared: Shared) -> None:
        """Hear of changes that other gateways make, and let them hear. For a channel that reaches them, not one in memory."""
        self._shared = shared
        shared.subscribe(CHANNEL, self.hear)

    def hear(self, digest: str | None) -> None:
        """Somebody else has changed a key; None: any may have been, unheard."""
        if digest is None:
            self._all_stale = True
        else:
            self._stale.add(digest)
        self._told.set()

    async def load(self) -> None:
        """Read all keys. Raises `RecordsUnavailable`."""
        if self._records is None:
            return
        self._all_stale = False
        began = time.monotonic()
        try:
            rows: Sequence[KeyRow] = await self._records.keys()
        except BaseException:
            self._all_stale = True
            raise
        for row in rows:
            self.take(row)
        self._cost = time.monotonic() - began

    async def run(self) -> None:
        """As a `Worker`: follow the changes that others make."""
        while self._records is not None:
            try:
                await self._catch_up()
                if self._is_away:
                    log.info("the keys can be read again")
                self._is_away = False
            except RecordsUnavailable as error:
                if not self._is_away:
                    log.warning("the keys cannot be read (%s); those that are known go on", error.message)
                self._is_away = True
            await self._wait()

    async def _catch_up(self) -> None:
        while self._records is not None and self._stale:
            digest = self._stale.pop()
            try:
                row = await self._records.key(digest)
            except BaseException:
                self._stale.add(digest)
                raise
            if row is not None:
                self.take(row)
        if self._all_stale:
            await self.load()

    async def _wait(self) -> None:
        least, most = _SELDOM if self._shared is not None and self._shared.available else _OFTEN
        pause = 1.0 if self._is_away else min(most, max(least, _SHARE * self._cost))
        try:
            async with asyncio.timeout(pause):
                await self._told.wait()
        except TimeoutError:
            self._all_stale = True
        self._told.clear()


def held_out(headers: MultiMapping[str]) -> str | None:
    """What a request holds out as its key, in whatever form; None if it has none. For who only shows the end of it."""
    value = next((headers[name].strip() for name in HEADERS if name in headers), None)
    scheme, _, rest = (value or "").partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else value


def _ignore(row: KeyRow) -> None:
    """Nobody wants to know."""


def _caller(row: KeyRow) -> Caller:
    return Caller("key", row.payer, row.alias, row)


def _invalid() -> InvalidKey:
    return InvalidKey("Authentication Error, Invalid API key provided.", param="key")


def check_state(row: KeyRow) -> None:
    """Raises `InvalidKey` for a deleted key, `BlockedKey` for a blocked one."""
    if row.deleted_at is not None:
        raise _invalid()
    if row.blocked:
        message = "Authentication Error, Key is blocked. Update via `/key/unblock` if you're an admin."
        raise BlockedKey(message, param="key")


def check_time(row: KeyRow, now: float) -> None:
    """Raises `ExpiredKey`. A key expires without anybody changing it, so each request asks."""
    if row.expires_at is not None and now >= row.expires_at:
        times = [time.strftime("%Y-%m-%d %H:%M:%S+00:00", time.gmtime(at)) for at in (row.expires_at, now)]
        message = (
            f"Authentication Error - Expired Key. Key Expiry time {times[0]} and current time {times[1]}"
        )
        raise ExpiredKey(message, param="key")
