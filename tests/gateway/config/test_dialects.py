"""Twin of gateway/config/dialects.py."""

from __future__ import annotations

import pytest

from gateway.config.dialects import Dialects
from gateway.config.model import Alias, Fallbacks, ProviderBudget, QueueSettings, Secret, TokenPrice
from gateway.config.nodes import Item, Mapping, Node, parse
from gateway.config.problems import Report
from gateway.config.values import Reader


def prepare(text: str) -> tuple[Dialects, Node, Report]:
    report = Report()
    node = parse(text, "f.yaml", report)
    assert node is not None
    return Dialects(Reader({"KEY": "sk-1"}, report)), node, report


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a, b, c]", Fallbacks({}, (("a", "b", "c"),))),
        ("- gpt-4: [gpt-3.5]\n- b: c", Fallbacks({"gpt-4": ("gpt-3.5",), "b": ("c",)})),
        ("- model_name: a\n  fallbacks: [b, c]", Fallbacks({"a": ("b", "c")})),
        ("- model: a\n  fallbacks: b", Fallbacks({"a": ("b",)})),
        ("[x, {a: [b]}, y, {model_name: c, fallbacks: [d]}]", Fallbacks({"a": ("b",), "c": ("d",)}, (("x", "y"),))),
        ("{a: [b], c: [d]}", Fallbacks({"a": ("b",), "c": ("d",)})),
        ('- "*": [a]', Fallbacks({"*": ("a",)})),
        ("[]", Fallbacks()),
        ("~", None),
    ],
)  # fmt: skip
def test_three_dialects_of_fallbacks(text: str, expected: Fallbacks | None) -> None:
    """Bare names, one-key dictionaries and named lists mean the same, mixed or not."""
    dialects, node, report = prepare(text)
    assert dialects.fallbacks(node, "fallbacks") == expected
    assert report.problems() == ()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("gpt-4", "f.yaml:1:1: must be a name, {name: [names]} or {model_name, fallbacks} (fallbacks)"),
        ("[[a]]", "f.yaml:1:2: must be a name, {name: [names]} or {model_name, fallbacks} (fallbacks[0])"),
        ("- a: {b: c}", "f.yaml:1:6: must be the name of a model, not a mapping (fallbacks[0].a)"),
        ("- a: [b]\n- a: [c]", 'f.yaml:2:3: "a" has fallbacks already, these are not used (fallbacks[1])'),
    ],
)
def test_fallbacks_that_cannot_be_understood(text: str, line: str) -> None:
    """A fallback of another shape is reported with its place."""
    dialects, node, report = prepare(text)
    dialects.fallbacks(node, "fallbacks")
    assert [str(problem) for problem in report.problems()] == [line]


def test_names_are_noted_where_they_are_mentioned() -> None:
    """Each name that a fallback points from or to is noted with its place, `*` is not."""
    dialects, node, _ = prepare('- a: [b]\n- "*": [c]\n- d')
    dialects.fallbacks(node, "fallbacks")
    assert [(name, place.line) for name, place, _ in dialects.mentions] == [
        ("a", 1),
        ("b", 1),
        ("c", 2),
        ("d", 3),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{a: b}", {"a": Alias(("b",))}),
        ("{a: [b, c]}", {"a": Alias(("b", "c"))}),
        ("{a: {model: b, hidden: true}}", {"a": Alias(("b",), hidden=True)}),
        ("{a: {models: [b, c]}}", {"a": Alias(("b", "c"))}),
        ("{a: {models: [b, c], order: true}}", {"a": Alias(("b", "c"), in_order=True)}),
        ("~", None),
    ],
)
def test_three_dialects_of_aliases(text: str, expected: dict[str, Alias] | None) -> None:
    """A text, a list and a mapping make an alias."""
    dialects, node, report = prepare(text)
    assert dialects.aliases(node, "model_group_alias") == expected
    assert report.problems() == ()


@pytest.mark.parametrize(
    ("text", "expected", "problems"),
    [
        (
            "{openai: {budget_limit: 1e-2, time_period: 1d}}",
            {"openai": ProviderBudget("1e-2", "1d")},
            [],
        ),
        ("{azure: {max_budget: 5, budget_duration: 1mo}}", {"azure": ProviderBudget("5", "1mo")}, []),
        ("{groq: {budget_limit: 5}}", {"groq": ProviderBudget("5")}, []),
        ("{groq: {time_period: 1d}}", {}, ['"budget_limit" is missing']),
        ("{groq: 5}", {}, ["must be a mapping with budget_limit and time_period"]),
        (
            "{groq: {budget_limit: 5, time_period: 10}}",
            {"groq": ProviderBudget("5", "10")},
            ["must be a number with s, m, h, d, w or mo"],
        ),
        (
            "{nobody: {budget_limit: 5, more: 1}}",
            {"nobody": ProviderBudget("5")},
            ['no provider is called "nobody"', 'unknown key "more"'],
        ),
    ],
)
def test_budgets_of_providers(text: str, expected: dict[str, ProviderBudget], problems: list[str]) -> None:
    """Both pairs of LiteLLM's words; the limit stays the text that was written."""
    dialects, node, report = prepare(text)
    assert dialects.provider_budgets(node, "x") == expected
    assert [problem.message for problem in report.problems()] == problems


@pytest.mark.parametrize(
    ("text", "expected", "problems"),
    [
        ("true", QueueSettings(), []),
        ("false", None, []),
        ("~", None, []),
        ("{}", QueueSettings(), []),
        ("{max_wait: 1m, max_waiting: 5}", QueueSettings(max_wait=60.0, max_waiting=5), []),
        ("{max_wait: soon}", QueueSettings(), ['must be a number of seconds, not "soon"']),
        ("{max_waits: 3}", QueueSettings(), ['unknown key "max_waits"']),
        ("often", None, ['must be true or false, not "often"']),
    ],
)
def test_a_queue(text: str, expected: QueueSettings | None, problems: list[str]) -> None:
    """Its figures, or `true` for the usual ones."""
    dialects, node, report = prepare(text)
    assert dialects.queue(node, "x") == expected
    assert [problem.message for problem in report.problems()] == problems


def test_parameters_of_all_entries_are_names_here() -> None:
    """Values of `default_litellm_params` may be keys, so only their names are kept beside the entries."""
    dialects, node, report = prepare("{api_key: sk-a, timeout: 3}")
    assert dialects.params(node, "x") == ("api_key", "timeout")
    _, node, _ = prepare("~")
    assert dialects.params(node, "x") is None
    _, node, _ = prepare("[a]")
    assert dialects.params(node, "x") is None
    assert [problem.message for problem in report.problems()] == ["must be a mapping"]


def test_an_alias_with_other_keys_is_doubted() -> None:
    """An alias knows model and hidden and nothing else."""
    dialects, node, report = prepare("{a: {model: b, hiden: true}}")
    assert dialects.aliases(node, "x") == {"a": Alias(("b",))}
    assert [problem.message for problem in report.problems()] == [
        'unknown key "hiden"; an alias has model, models, order and hidden'
    ]


def test_prices_by_model() -> None:
    """One number counts for both directions, and prices stay text."""
    dialects, node, report = prepare(
        "{a: 0.000060, b: {input: 1e-6, output: 2e-6}, c: {input_cost_per_token: 1, output_cost_per_token: 2}, d: {input: 1}}"
    )
    assert dialects.token_prices(node, "cost_per_token") == {
        "a": TokenPrice("0.000060", "0.000060"),
        "b": TokenPrice("1e-6", "2e-6"),
        "c": TokenPrice("1", "2"),
    }
    assert [str(problem) for problem in report.problems()] == [
        'f.yaml:1:106: "output" is missing (cost_per_token.d)'
    ]


def test_a_blueprints_providers_become_models() -> None:
    """Each model of each enabled provider becomes an entry with the provider's key and address."""
    dialects, node, report = prepare(
        """
        openai: {enabled: true, api_key: "${KEY}", models: [gpt-4o, gpt-4o-mini]}
        anthropic: {enabled: false, api_key: "${NOPE}", models: [claude]}
        groq: {api_key: "${NOPE}", models: [llama]}
        ollama: {enabled: true, base_url: "http://localhost:11434", models: ["llama3.2:latest"]}
        broken: {enabled: true}
        odd: [a]
        """
    )
    assert isinstance(node, Mapping)
    entries = dialects.providers(Item(node.place, node), "llm_providers")
    assert [
        (e.model_name, e.params.model, e.params.api_key, e.params.api_base, e.unset) for e in entries
    ] == [
        ("gpt-4o", "openai/gpt-4o", Secret("sk-1"), None, ()),
        ("gpt-4o-mini", "openai/gpt-4o-mini", Secret("sk-1"), None, ()),
        ("llama", "groq/llama", None, None, ("NOPE",)),
        ("llama3.2:latest", "ollama/llama3.2:latest", None, "http://localhost:11434", ()),
    ]
    assert [problem.message for problem in report.problems()] == [
        "the environment variable NOPE is not set",
        '"models" is missing',
        "must be a mapping with enabled, api_key, base_url and models",
    ]
