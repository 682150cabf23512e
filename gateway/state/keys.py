"""A virtual key as it is kept: who holds it, what it may ask for, how much, and until when.

The store has digests, never keys. Nothing is ever taken away: a deleted key stays as a tombstone, so that no copy of it in
some memory can come to life again, and so that its rows in the ledger keep a name. Money is nano-dollars, times are unix
seconds.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class BudgetLimit(Struct, frozen=True):
    """At most `max_budget` nano-dollars in each period of `duration` (`1h`, `1d`, `30d`, `1mo` …; None: ever)."""

    max_budget: int
    duration: str | None = None


class KeyRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One virtual key. `digest` is the SHA-256 of its text in hex, `name` what is shown of it (`sk-...a1b2`).

    `version` counts changes: a copy with a smaller one is stale, whoever holds it. `spend_since` is when its spend was
    last set to zero; budgets count rows from then on. `models` and `allowed_routes` empty: all.
    """

    digest: str
    name: str
    alias: str | None = None
    version: int = 1
    created_at: float = 0.0
    updated_at: float = 0.0
    created_by: str = ""
    updated_by: str = ""

    blocked: bool = False
    deleted_at: float | None = None
    expires_at: float | None = None
    successor: str | None = None
    """The digest of the key that replaced it; until `expires_at` both hold."""
    account: str | None = None
    """The digest under which it spends, if that is not its own: a key that replaced another goes on where that one was."""

    models: tuple[str, ...] = ()
    aliases: dict[str, str] = {}
    """The caller's word for a model, and ours."""
    allowed_routes: tuple[str, ...] = ()

    budgets: tuple[BudgetLimit, ...] = ()
    """All hold at once; `max_budget` with `budget_duration` is the first of them where it is set."""
    model_budgets: dict[str, BudgetLimit] = {}
    raised_by: int = 0
    raised_until: float = 0.0
    """The first of `budgets` is so much larger until then."""
    soft_budget: int | None = None
    spend_since: float = 0.0

    tpm_limit: int | None = None
    rpm_limit: int | None = None
    max_parallel_requests: int | None = None
    model_tpm_limit: dict[str, int] = {}
    model_rpm_limit: dict[str, int] = {}

    user_id: str | None = None
    team_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    """What LiteLLM's clients write and nothing here reads; it is shown again as it came."""

    @property
    def payer(self) -> str:
        """Whose rows in the ledger are its own, and whose limits it draws on."""
        return self.account or self.digest

    def is_alive(self, now: float) -> bool:
        """May it be used, if nothing else is against it?"""
        return (
            self.deleted_at is None
            and not self.blocked
            and (self.expires_at is None or now < self.expires_at)
        )
