"""Settings of what happens after an error, read into the structs of `model`: retry policies, the retry budget, hedging.

A `retry_policy` is written in two dialects, LiteLLM's counts by kind of error (`RateLimitErrorRetries: 3`) and plain delays
(`{max_retries, base_delay, max_delay}`); both may stand in one mapping. `gateway.routing.retries` says what the kinds are.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.config.dialects import Mention
from gateway.config.model import Hedging, Place, RetryBudget, RetryPolicy
from gateway.config.nodes import Mapping, Node, Scalar, join
from gateway.config.problems import closest
from gateway.config.values import Reader, is_null

ERRORS = (
    "AuthenticationError",
    "BadGatewayError",
    "BadRequestError",
    "ContentPolicyViolationError",
    "ContextWindowExceededError",
    "InternalServerError",
    "NotFoundError",
    "RateLimitError",
    "ServiceUnavailableError",
    "TimeoutError",
)
"""The kinds of error that policies count by, in LiteLLM's words."""

_RETRIES = "Retries"
_FAILS = "AllowedFails"
_DEFAULT = ("max_retries", "DefaultRetries")
_DELAYS = ("base_delay", "max_delay")


class RetryReader:
    """Reads these settings. Problems go to the reader's report."""

    def __init__(self, reader: Reader, mentions: list[Mention]) -> None:
        self._reader = reader
        self._report = reader.report
        self._mentions = mentions

    def retry_policy(self, node: Node, path: str) -> RetryPolicy | None:
        """`{RateLimitErrorRetries: 3, DefaultRetries: 1, base_delay: 1, max_delay: 10}`."""
        if is_null(node):
            return None
        if not isinstance(node, Mapping):
            self._report.error(node.place, path, "must be a mapping: RateLimitErrorRetries, max_retries …")
            return None
        counts: dict[str, int] = {}
        delays: dict[str, float] = {}
        most: int | None = None
        for name, item in node.items.items():
            here = join(path, name)
            if name in _DELAYS:
                seconds = self._reader.seconds(item.value, here)
                if seconds is not None:
                    delays[name] = seconds
            elif name in _DEFAULT:
                most = self._reader.retries(item.value, here)
            elif name.removesuffix(_RETRIES) in ERRORS and name.endswith(_RETRIES):
                count = self._reader.retries(item.value, here)
                if count is not None:
                    counts[name.removesuffix(_RETRIES)] = count
            else:
                known = [*_DELAYS, *_DEFAULT, *(error + _RETRIES for error in ERRORS)]
                self._unknown(name, known, item.place, path)
        return RetryPolicy(retries=counts, max_retries=most, **delays)

    def retry_policies(self, node: Node, path: str) -> dict[str, RetryPolicy] | None:
        """A policy for each public name."""
        if isinstance(node, Mapping):
            self._mentions += ((name, item.place, path) for name, item in node.items.items())
        found = self._reader.each(node, path, self.retry_policy)
        return None if found is None else {name: policy for name, policy in found.items() if policy}

    def allowed_fails(self, node: Node, path: str) -> dict[str, int] | None:
        """`{RateLimitErrorAllowedFails: 10}`."""
        found = self._reader.each(node, path, self._reader.integer)
        allowed: dict[str, int] = {}
        for name, count in (found or {}).items():
            kind = name.removesuffix(_FAILS)
            if kind not in ERRORS or kind == name:
                self._unknown(name, [error + _FAILS for error in ERRORS], node.place, path)
            elif count is not None:
                allowed[kind] = count
        return allowed

    def retry_budget(self, node: Node, path: str) -> RetryBudget | None:
        """`{ratio: 0.2, minimum: 3}`."""
        found = self._reader.each(node, path, self._reader.number) or {}
        for name in found.keys() - {"ratio", "minimum"}:
            self._unknown(name, ("ratio", "minimum"), node.place, path)
        known = {name: found[name] for name in ("ratio", "minimum") if found.get(name) is not None}
        return RetryBudget(**known)

    def hedging(self, node: Node, path: str) -> Hedging | None:
        """`true`, `{after: 2, max: 1}` or `{after: p95}`."""
        if not isinstance(node, Mapping):
            return Hedging() if self._reader.boolean(node, path) else None
        after: float | None = None
        most: int | None = 1
        for name, item in node.items.items():
            here = join(path, name)
            if name == "after":
                is_learnt = isinstance(item.value, Scalar) and item.value.text == "p95"
                after = None if is_learnt else self._reader.seconds(item.value, here)
            elif name == "max":
                most = self._reader.integer(item.value, here)
            else:
                self._unknown(name, ("after", "max"), item.place, path)
        return Hedging(after, most) if most else None

    def _unknown(self, name: str, known: Iterable[str], place: Place, path: str) -> None:
        spelled = {word.lower(): word for word in known}
        self._report.doubt(place, path, f'unknown key "{name}"', spelled.get(closest(name, spelled) or ""))
