"""Twin of gateway/config/problems.py."""

from __future__ import annotations

import pytest

from gateway.config.model import Place
from gateway.config.problems import ConfigInvalid, Problem, Report, closest

HERE = Place("config.yaml", 8, 7)


def test_a_problem_is_one_line() -> None:
    """A problem names its place, what is wrong, a suggestion and the path."""
    problem = Problem(HERE, "model_list[1].litellm_params", 'unknown key "modle"', suggestion="model")
    assert (
        str(problem)
        == 'config.yaml:8:7: unknown key "modle", did you mean "model"? (model_list[1].litellm_params)'
    )
    assert str(Problem(HERE, "", "not valid YAML")) == "config.yaml:8:7: not valid YAML"


def test_problems_come_in_the_order_of_the_files() -> None:
    """Problems are sorted by file, line and column, and the same one is told once."""
    report = Report()
    report.notice(Place("b.yaml", 9, 1), "", "third")
    report.notice(Place("a.yaml", 1, 1), "", "fourth")
    report.notice(Place("b.yaml", 2, 1), "", "first")
    report.notice(Place("b.yaml", 2, 8), "", "second")
    report.notice(Place("b.yaml", 2, 8), "", "second")
    assert [problem.message for problem in report.settle()] == ["first", "second", "third", "fourth"]


@pytest.mark.parametrize("strict", [True, False])
def test_a_doubt_is_an_error_only_for_who_is_strict(strict: bool) -> None:
    """A doubt stops a check and not a server."""
    report = Report(strict=strict)
    report.doubt(HERE, "", "unknown")
    report.notice(HERE, "", "known")
    if strict:
        with pytest.raises(ConfigInvalid) as caught:
            report.settle()
        assert [problem.message for problem in caught.value.problems] == ["unknown"]
        assert [problem.message for problem in caught.value.notices] == ["known"]
        assert str(caught.value) == "config.yaml:8:7: unknown"
    else:
        assert [problem.severity for problem in report.settle()] == ["warning", "notice"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sk-proj-1aZb2yXc3wVd", "…"),
        ("gsk_1aZb2yXc3wVd4uTe5sRf", "…"),
        ("0f2b7c91d4e85a6372b0c4d9", "…"),
        ("AIzaSyD-1aZb2yXc3wVd4uT", "…"),
        ("xai-grok-code-fast", None),
        ("fail_closed_rate_limit_enforcment", None),
        ("ContentPolicyViolationErrorAllowedFails", None),
        ("input_cost_per_token_above_200k_tokens_priority", None),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", None),
    ],
)
def test_a_key_where_a_name_belongs(name: str, told: str | None) -> None:
    """What is quoted from a file, and the path, show names, and no key that somebody put in the place of one."""
    report = Report()
    report.doubt(HERE, f"litellm_params.{name}", f'unknown key "{name}"')
    (problem,) = report.settle()
    assert (problem.path, problem.message) == (
        f"litellm_params.{told or name}",
        f'unknown key "{told or name}"',
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [("modle", "model"), ("Model", "model"), ("api_kye", "api_key"), ("banana", None), ("", None)],
)
def test_a_misspelling_is_recognised(written: str, meant: str | None) -> None:
    """A name close to a known one gives that one, a far one gives none."""
    assert closest(written, ["model", "api_key"]) == meant
