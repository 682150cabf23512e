"""Named credentials that could not be read at the start, because the database was away: read as soon as it is back.

Nobody waits for them meanwhile. The entries that name one are off until then; all others are served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.named_credentials import Credentials, credentials_of
from gateway.state.records import Records, RecordsUnavailable
from gateway.state.sealing import CannotOpen, CannotSeal, Sealer

log = logging.getLogger("penstock.credentials")

PAUSE = 1.0
"""Seconds between two tries."""


class LateCredentials:
    """A `Worker` that ends when it has told `found` of the credentials, or the log why they cannot be used."""

    name = "credentials"

    def __init__(self, records: Records, sealer: Sealer, found: Callable[[Credentials], None]) -> None:
        self._records = records
        self._sealer = sealer
        self._found = found

    async def run(self) -> None:
        """See `Worker`."""
        while True:
            try:
                credentials = await credentials_of(self._records, self._sealer)
            except RecordsUnavailable:
                await asyncio.sleep(PAUSE)
            except (CannotSeal, CannotOpen) as error:
                log.error("%s; the models that need them stay off", error)  # noqa: TRY400 - where it happened is of no use to an operator
                return
            else:
                self._found(credentials)
                log.info("the named credentials can be read now; the models that need them are served")
                return
