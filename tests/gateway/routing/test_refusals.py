"""What is said when nobody can take a request."""

from __future__ import annotations

from adapters.errors import ContextWindowExceeded, NoDeployment
from gateway.routing.refusals import TagsDenied, WhyNot, nobody

TAGS = WhyNot("tags", "its tags ['a'] are not for a request without tags")
CONTEXT = WhyNot("context", "it reads 10 tokens, and the question has about 20")
LIMIT = WhyNot("limit", "it was asked 2 of 2 requests in the last minute", 20.0)
BUDGET = WhyNot("budget", "Exceeded budget for provider openai: 2 >= 1", 500.0)
COOLDOWN = WhyNot("cooldown", "it cools down for 4.0 s more", 4.0)


def test_what_passes_says_when_to_come_again() -> None:
    """The soonest of all reasons that pass is `retry-after`, and the message has LiteLLM's words."""
    error = nobody("m", [LIMIT, COOLDOWN, TAGS])
    assert isinstance(error, NoDeployment)
    assert (error.status, error.headers["retry-after"]) == (429, "4")
    assert error.message == (
        "No deployments available for selected model, Try again in 4 seconds. All deployments of 'm' are in cooldown or at "
        "their limits: it was asked 2 of 2 requests in the last minute; it cools down for 4.0 s more."
    )
    assert "All deployments of 'm' are in cooldown." in nobody("m", [COOLDOWN, COOLDOWN]).message


def test_a_spent_budget_is_not_worth_a_retry() -> None:
    """Budgets alone have LiteLLM's sentence, the seconds until they begin anew, and no retry."""
    error = nobody("m", [BUDGET, BUDGET])
    assert error.status == 429
    assert error.message.startswith(
        "No deployments available - crossed budget: Exceeded budget for provider openai"
    )
    assert (error.headers["x-should-retry"], error.headers["retry-after"]) == ("false", "500")


def test_a_virtual_key_learns_no_details() -> None:
    """Not what others used, what may be spent, or whom deployments are meant for."""
    limit = nobody("m", [LIMIT, COOLDOWN], for_operator=False).message
    assert limit.endswith("at their limits: it is at a limit; it cools down for 4.0 s more.")
    budget = nobody("m", [BUDGET], for_operator=False).message
    assert "crossed budget: its budget is used up." in budget
    assert (TAGS.briefly, CONTEXT.briefly) == ("its tags are not for this request", CONTEXT.text)


def test_what_stays_says_what_is_wrong() -> None:
    """A question that nobody can read is a context error, whoever else was left out for tags; tags alone are refused."""
    error = nobody("m", [TAGS, CONTEXT])
    assert isinstance(error, ContextWindowExceeded)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
    assert CONTEXT.text in error.message
    denied = nobody("m", [TAGS], ("x",))
    assert isinstance(denied, TagsDenied)
    assert denied.status == 401
    assert (
        denied.message
        == "Not allowed to access model due to tags configuration. Passed model=m and tags=['x']"
    )


def test_no_reason_at_all() -> None:
    """A route whose deployments have just recovered has nobody either."""
    assert nobody("m", []).status == 429
