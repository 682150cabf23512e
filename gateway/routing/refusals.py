"""Why a deployment cannot take a request, and what is said when none can.

Reasons are of two kinds. What *passes* (a cooldown, a limit, a budget) makes a 429 that says when to come again. What stays
(tags, a context that is too small) is the request's own, and waiting would not help: the error says so, and is of the class
that leads to the fallbacks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from adapters.errors import ContextWindowExceeded, GatewayError, NoDeployment

Cause: TypeAlias = Literal["tags", "context", "limit", "budget", "cooldown"]

_STAYS: tuple[Cause, ...] = ("tags", "context")
_IN_GENERAL: Mapping[Cause, str] = {
    "tags": "its tags are not for this request",
    "limit": "it is at a limit",
    "budget": "its budget is used up",
}


class WhyNot(Struct, frozen=True):
    """`text` is for operators, `seconds` until it passes, 0 if nobody can tell; None for what never does."""

    cause: Cause
    text: str
    seconds: float | None = None

    @property
    def stays(self) -> bool:
        """Waiting does not help."""
        return self.cause in _STAYS

    @property
    def briefly(self) -> str:
        """What a virtual key's holder may know of it: not whom else it serves, what others used, what it may cost."""
        return _IN_GENERAL.get(self.cause, self.text)


class TagsDenied(GatewayError):
    """No deployment is meant for requests with these tags. The status is LiteLLM's."""

    status, type, reason = 401, "auth_error", "tags_denied"


def nobody(
    name: str, reasons: Sequence[WhyNot], tags: Sequence[str] = (), *, for_operator: bool = True
) -> GatewayError:
    """The error of a route of that name none of whose deployments can take a request; `reasons` has one of each.

    It goes into details if it is `for_operator`.
    """
    passing = [why for why in reasons if not why.stays]
    if passing:
        return _come_again(name, passing, for_operator=for_operator)
    causes = {why.cause for why in reasons}
    if "context" in causes:
        said = "; ".join(dict.fromkeys(why.text for why in reasons if why.cause == "context"))
        return ContextWindowExceeded(
            f"ContextWindowExceededError: no deployment of {name!r} can read so long a question: {said}",
            param="messages",
            code="context_length_exceeded",
        )
    if "tags" in causes:
        return TagsDenied(
            f"Not allowed to access model due to tags configuration. Passed model={name} and tags={list(tags)}"
        )
    return NoDeployment(f"No deployments available for {name!r}")


_FINAL = {"x-should-retry": "false"}


def _come_again(name: str, passing: Sequence[WhyNot], *, for_operator: bool) -> NoDeployment:
    soonest = min(why.seconds or 0.0 for why in passing)
    seconds = max(1, round(soonest + 0.5))
    headers = {"retry-after": str(seconds)}
    causes = {why.cause for why in passing}
    texts = dict.fromkeys(why.text if for_operator else why.briefly for why in passing)
    if causes == {"cooldown"}:
        told = f"All deployments of {name!r} are in cooldown."
    elif causes == {"budget"}:
        said = " ".join(texts)
        return NoDeployment(
            f"No deployments available - crossed budget: {said}. Try again in {seconds} seconds.",
            headers=headers | _FINAL,
        )
    else:
        said = "; ".join(texts)
        told = f"All deployments of {name!r} are in cooldown or at their limits: {said}."
    return NoDeployment(
        f"No deployments available for selected model, Try again in {seconds} seconds. {told}",
        headers=headers,
    )
