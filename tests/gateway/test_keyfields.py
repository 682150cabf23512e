"""What is written of a key, and what is shown."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import BadRequest
from gateway.config.load import load
from gateway.config.problems import ConfigInvalid
from gateway.config.vocabulary import VIRTUAL_KEY_KEYS
from gateway.keyfields import (
    FIELDS,
    change,
    checked_key,
    configured_keys,
    digest_of,
    lifetime,
    name_of,
    named_digest,
    new_key,
    shown,
)
from gateway.state.keys import BudgetLimit, KeyRow

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
BLANK = KeyRow(digest="d" * 64, name="sk-...dddd", created_at=NOW)
NANO = 10**9


def written(**fields: Any) -> KeyRow:
    return change(BLANK, fields, NOW)


# -- keys ------------------------------------------------------------------------------------------------------------


def test_the_form_of_a_key() -> None:
    """LiteLLM's: `sk-` and 22 characters; its digest is what is kept, its last four are what is shown."""
    key = new_key()
    assert key.startswith("sk-")
    assert len(key) == 25
    assert key != new_key()
    assert name_of(key) == f"sk-...{key[-4:]}"
    assert digest_of("sk-1234") == "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b"
    assert named_digest(key) == named_digest(digest_of(key)) == digest_of(key)


@pytest.mark.parametrize(
    "key",
    [
        "",
        None,
        7,
        "sk-short",
        "a-key-without-the-prefix",
        "sk-" + "x" * 600,
        "sk-a key with blanks",
        "sk-ключ-ключ-ключ",
    ],
)
def test_keys_that_nobody_may_choose(key: object) -> None:
    """A key of one's own begins with `sk-` and has 16 characters at least."""
    with pytest.raises(BadRequest) as refused:
        checked_key(key)
    assert refused.value.param == "key"
    assert checked_key("sk-0123456789abc") == "sk-0123456789abc"


# -- what is written -------------------------------------------------------------------------------------------------


def test_the_seed() -> None:
    """What people write: a budget of a day, and whose key it is."""
    row = written(max_budget=5.0, budget_duration="1d", metadata={"user": "telegram-bot"})
    assert row.budgets == (BudgetLimit(5 * NANO, "1d"),)
    assert row.metadata == {"user": "telegram-bot"}


def test_everything() -> None:
    """Each word has its place, and a row that is shown and written again is the same row."""
    row = written(
        key_alias="bot",
        models=["gpt-4o", "openai/*"],
        aliases={"mine": "gpt-4o"},
        allowed_routes=["llm_api_routes"],
        max_budget="0.1",
        budget_duration="30d",
        budget_limits=[
            {"max_budget": 1, "budget_duration": "1h"},
            {"max_budget": 2.5, "budget_duration": "1d"},
        ],
        model_max_budget={"gpt-4o": {"budget_limit": 0.5, "time_period": "1d", "rpm_limit": 3}, "x": 7},
        soft_budget=0.05,
        tpm_limit=1000,
        rpm_limit="10",
        max_parallel_requests=3.0,
        model_tpm_limit={"gpt-4o": 100},
        model_rpm_limit={"cheap": 1},
        user_id="u",
        team_id="t",
        tags=["a", "b"],
        metadata={"x": [1]},
        blocked=True,
        duration="30d",
        agent_id="someone",
        something_of_tomorrow={"y": 1},
    )
    assert row == KeyRow(
        digest=BLANK.digest,
        name=BLANK.name,
        created_at=NOW,
        alias="bot",
        models=("gpt-4o", "openai/*"),
        aliases={"mine": "gpt-4o"},
        allowed_routes=("llm_api_routes",),
        budgets=(BudgetLimit(NANO // 10, "30d"), BudgetLimit(NANO, "1h"), BudgetLimit(5 * NANO // 2, "1d")),
        model_budgets={"gpt-4o": BudgetLimit(NANO // 2, "1d"), "x": BudgetLimit(7 * NANO)},
        soft_budget=NANO // 20,
        tpm_limit=1000,
        rpm_limit=10,
        max_parallel_requests=3,
        model_tpm_limit={"gpt-4o": 100},
        model_rpm_limit={"gpt-4o": 3, "cheap": 1},
        user_id="u",
        team_id="t",
        tags=("a", "b"),
        metadata={"x": [1]},
        blocked=True,
        expires_at=NOW + 30 * 86_400,
        extra=row.extra,
    )
    told = json.loads(json.dumps(shown(row)))
    assert told["budget_limits"] == [
        {"max_budget": 1.0, "budget_duration": "1h"},
        {"max_budget": 2.5, "budget_duration": "1d"},
    ]
    assert (told["max_budget"], told["budget_duration"], told["soft_budget"]) == (0.1, "30d", 0.05)
    assert (told["agent_id"], told["something_of_tomorrow"]) == ("someone", {"y": 1})
    assert told["expires"] == "2026-12-21T12:00:00.000Z"
    again = {name: value for name, value in told.items() if name in FIELDS or name in row.extra}
    assert change(row, again, NOW) == row


def test_limits_that_come_in_the_metadata() -> None:
    """LiteLLM keeps them there: they hold, are shown in both places, and what has no effect is refused there too."""
    row = written(
        metadata={"a": 1, "model_rpm_limit": {"m": 2}, "model_tpm_limit": {"m": 9}}, model_rpm_limit=None
    )
    assert (row.model_rpm_limit, row.model_tpm_limit, row.metadata) == ({"m": 2}, {"m": 9}, {"a": 1})
    told = shown(row)
    assert told["metadata"] == {"a": 1, "model_rpm_limit": {"m": 2}, "model_tpm_limit": {"m": 9}}
    assert told["model_rpm_limit"] == {"m": 2}
    assert change(row, {"metadata": told["metadata"]}, NOW) == row
    changed = change(row, {"metadata": told["metadata"], "model_rpm_limit": {"m": 5}}, NOW)
    assert shown(changed)["metadata"]["model_rpm_limit"] == {"m": 5}
    assert change(row, {"metadata": {"b": 2}}, NOW).model_rpm_limit == {"m": 2}
    assert written(metadata={"guardrails": [], "model_rpm_limit": None}).metadata == {}
    for metadata in ({"guardrails": ["pii"]}, {"model_rpm_limit": {"m": -1}}):
        with pytest.raises(BadRequest) as caught:
            written(metadata=metadata)
        assert caught.value.param in metadata


def test_what_is_not_named_stays() -> None:
    """An update changes what it names; null takes away."""
    row = written(max_budget=1, budget_duration="1d", models=["a"], rpm_limit=5, agent_id="x", duration="1d")
    same = change(row, {}, NOW + 1)
    assert same == row
    changed = change(
        row, {"rpm_limit": None, "models": None, "max_budget": 2, "agent_id": None, "duration": None}, NOW
    )
    assert changed.rpm_limit is None
    assert changed.models == ()
    assert changed.budgets == (BudgetLimit(2 * NANO, "1d"),)
    assert changed.extra == {}
    assert changed.expires_at is None
    assert change(row, {"duration": "-1"}, NOW).expires_at is None


@pytest.mark.parametrize(
    "steps",
    [
        [{"budget_duration": "1d"}, {"max_budget": 1}],
        [{"max_budget": 1}, {"budget_duration": "1d"}],
        [{"max_budget": 1, "budget_duration": "1d"}],
        [
            {"max_budget": 7, "budget_duration": "1h"},
            {"max_budget": None},
            {"max_budget": 1, "budget_duration": "1d"},
        ],
    ],
)
def test_a_budget_and_its_duration(steps: list[dict[str, Any]]) -> None:
    """They may be written one after the other, and windows stay windows whichever comes first."""
    windows = {"budget_limits": [{"max_budget": 3, "budget_duration": "1h"}]}
    for order in ([*steps, windows], [windows, *steps]):
        row = BLANK
        for fields in order:
            row = change(row, fields, NOW)
        assert row.budgets == (BudgetLimit(NANO, "1d"), BudgetLimit(3 * NANO, "1h"))
    without = change(row, {"max_budget": None}, NOW)
    assert without.budgets == (BudgetLimit(3 * NANO, "1h"),)
    assert shown(without)["max_budget"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_budget": -1}, "max_budget"),
        ({"max_budget": math.nan}, "max_budget"),
        ({"max_budget": math.inf}, "max_budget"),
        ({"max_budget": "NaN"}, "max_budget"),
        ({"max_budget": "much"}, "max_budget"),
        ({"max_budget": True}, "max_budget"),
        ({"max_budget": 1e30}, "max_budget"),
        ({"soft_budget": -0.1}, "soft_budget"),
        ({"budget_duration": "soon"}, "budget_duration"),
        ({"budget_duration": "999999w"}, "budget_duration"),
        ({"models": [""]}, "models"),
        ({"models": [None]}, "models"),
        ({"allowed_routes": ["/v1/models", ""]}, "allowed_routes"),
        ({"note": 10**40}, "metadata"),
        ({"budget_limits": {"max_budget": 1}}, "budget_limits"),
        ({"budget_limits": [{}]}, "budget_limits"),
        ({"budget_limits": [{"max_budget": -1, "budget_duration": "1h"}]}, "budget_limits"),
        ({"model_max_budget": {"a": {"budget_limit": -1}}}, "model_max_budget"),
        ({"model_max_budget": {"a": {"time_period": "1d"}}}, "model_max_budget"),
        ({"model_max_budget": ["a"]}, "model_max_budget"),
        ({"duration": "soon"}, "duration"),
        ({"duration": 30}, "duration"),
        ({"duration": "999999mo"}, "duration"),
        ({"rpm_limit": -1}, "rpm_limit"),
        ({"rpm_limit": 1.5}, "rpm_limit"),
        ({"tpm_limit": "many"}, "tpm_limit"),
        ({"max_parallel_requests": 10**30}, "max_parallel_requests"),
        ({"model_rpm_limit": {"a": -1}}, "model_rpm_limit"),
        ({"models": "gpt-4o"}, "models"),
        ({"models": [1]}, "models"),
        ({"models": ["x"] * 1001}, "models"),
        ({"aliases": {"a": 1}}, "aliases"),
        ({"key_alias": "two\nlines"}, "key_alias"),
        ({"key_alias": "x" * 256}, "key_alias"),
        ({"key_alias": 7}, "key_alias"),
        ({"key_type": "root"}, "key_type"),
        ({"blocked": "yes"}, "blocked"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"x": "x" * 70_000}}, "metadata"),
        ({"metadata": {"tags": "x"}}, "metadata.tags"),
        ({"spend": 3}, "spend"),
        ({"guardrails": ["x"]}, "guardrails"),
        ({"tpd_limit": 5}, "tpd_limit"),
        ({"budget_id": "b"}, "budget_id"),
        ({"auto_rotate": True, "rotation_interval": "30d"}, "auto_rotate"),
        ({"temp_budget_increase": 1}, "temp_budget_expiry"),
        ({"temp_budget_expiry": "2030-01-01"}, "temp_budget_increase"),
        (
            {"max_budget": 1, "temp_budget_increase": -1, "temp_budget_expiry": "2030-01-01"},
            "temp_budget_increase",
        ),
        ({"max_budget": 1, "temp_budget_increase": 1, "temp_budget_expiry": "soon"}, "temp_budget_expiry"),
        ({"max_budget": 1, "temp_budget_increase": 1, "temp_budget_expiry": 2030}, "temp_budget_expiry"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    """What cannot be, and what would restrict a key and would not, is 400 and says which word."""
    with pytest.raises(BadRequest) as refused:
        written(**fields)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_a_raise_for_a_time() -> None:
    """Written beside `max_budget` or in the metadata, where LiteLLM keeps it; it ends with `null`, and without a budget."""
    words = {"temp_budget_increase": 2.5, "temp_budget_expiry": "2026-11-22T12:00:00"}
    raised = written(max_budget=1, metadata={"a": 1}, **words)
    assert (raised.raised_by, raised.raised_until) == (2_500_000_000, NOW + 86_400)
    assert shown(raised)["metadata"] == {"a": 1, **words}
    assert written(max_budget=1, metadata=words).raised_by == 2_500_000_000
    assert change(raised, {"rpm_limit": 1}, NOW).raised_by == 2_500_000_000
    assert change(raised, {"max_budget": None}, NOW).raised_by == 0
    ended = change(raised, dict.fromkeys(words), NOW)
    assert (ended.raised_by, ended.raised_until, ended.metadata) == (0, 0.0, {"a": 1})
    zoned = written(max_budget=1, temp_budget_increase="1", temp_budget_expiry="2026-11-21T14:00:00+02:00")
    assert zoned.raised_until == NOW


def test_words_that_ask_for_nothing() -> None:
    """LiteLLM's own pages send every word, most of them empty."""
    assert (
        written(
            guardrails=[],
            tpd_limit=None,
            budget_id=None,
            auto_rotate=False,
            spend=0,
            key_type="default",
            team_id=None,
        )
        == BLANK
    )


def test_key_types_and_tags() -> None:
    """A type is a short word for routes; tags may stand in the metadata."""
    assert written(key_type="llm_api").allowed_routes == ("llm_api_routes",)
    assert written(key_type="llm_api", allowed_routes=["/v1/embeddings"]).allowed_routes == (
        "/v1/embeddings",
    )
    assert written(metadata={"tags": ["a"]}).tags == ("a",)
    assert written(metadata={"tags": ["a"]}, tags=["b"]).tags == ("b",)


@pytest.mark.parametrize(
    ("span", "until"),
    [
        ("30s", datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)),
        ("30m", datetime(2026, 11, 21, 12, 30, tzinfo=UTC)),
        ("36h", datetime(2026, 11, 23, tzinfo=UTC)),
        ("1d", datetime(2026, 11, 22, 12, tzinfo=UTC)),
        ("1w", datetime(2026, 11, 28, 12, tzinfo=UTC)),
        ("1mo", datetime(2026, 12, 21, 12, tzinfo=UTC)),
        ("3mo", datetime(2027, 2, 21, 12, tzinfo=UTC)),
    ],
)
def test_lifetimes(span: str, until: datetime) -> None:
    """A month is a month of the calendar."""
    assert lifetime("duration", span, NOW) == until.timestamp()


def test_a_month_from_its_last_day() -> None:
    """Where the other month has no such day, it is that month's last."""
    begin = datetime(2027, 1, 31, tzinfo=UTC).timestamp()
    assert lifetime("duration", "1mo", begin) == datetime(2027, 2, 28, tzinfo=UTC).timestamp()


# -- in the configuration --------------------------------------------------------------------------------------------


def configured(text: str, folder: Path, **environ: str) -> list[KeyRow]:
    (folder / "config.yaml").write_text(text)
    return configured_keys(load(folder / "config.yaml", environ).config)


def test_keys_in_a_file(tmp_path: Path) -> None:
    """Their words are those of `/key/generate`."""
    text = """
virtual_keys:
  - key: os.environ/BOT_KEY
    key_alias: bot
    models: [gpt-4o]
    max_budget: 5.0
    budget_duration: 1d
    model_rpm_limit: { gpt-4o: 3 }
    metadata: { user: telegram }
  - { key: a-key-of-ones-own-choice, rpm_limit: 10 }
"""
    bot, own = configured(text, tmp_path, BOT_KEY="sk-0123456789abcdef")
    assert bot.digest == digest_of("sk-0123456789abcdef")
    assert (bot.alias, bot.models, bot.budgets) == ("bot", ("gpt-4o",), (BudgetLimit(5 * NANO, "1d"),))
    assert (bot.model_rpm_limit, bot.metadata) == ({"gpt-4o": 3}, {"user": "telegram"})
    assert own.rpm_limit == 10


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "virtual_keys: [{key: sk-0123456789abcdef}]\ngeneral_settings: {master_key: sk-0123456789abcdef}",
            "config.yaml:1:16: this is the master key",
        ),
        ("virtual_keys: [{key: short}]", "config.yaml:1:16: A key has 16 to 512"),
        ("virtual_keys: [{key: sk-0123456789abcdef, budget_duration: soon}]", "'soon' is no duration"),
        (
            "virtual_keys: [{key: sk-0123456789abcdef}, {key: sk-0123456789abcdef}]",
            "stands in the list twice",
        ),
        (
            "virtual_keys: [{key: sk-0123456789abcdef, key_alias: a}, {key: sk-1123456789abcdef, key_alias: a}]",
            'alias "a"',
        ),
        (
            "virtual_keys: [{key: sk-0123456789abcdef, max_bugdet: 5}]",
            'unknown key "max_bugdet", did you mean "max_budget"',
        ),
        ("virtual_keys: [{key_alias: a}]", "must be a mapping with key"),
        ("virtual_keys: sk-0123456789abcdef", "must be a list"),
    ],
)
def test_mistakes_in_a_file(text: str, told: str, tmp_path: Path) -> None:
    """Each is told with its line, and no key is in a message."""
    with pytest.raises(ConfigInvalid) as invalid:
        configured(text, tmp_path)
    lines = "\n".join(map(str, invalid.value.problems))
    assert told in lines
    assert "0123456789" not in lines


def test_a_key_without_a_value_is_nobody_s(tmp_path: Path) -> None:
    """A variable that is not set makes no key, and a warning says so."""
    (tmp_path / "config.yaml").write_text("virtual_keys: [{key: os.environ/BOT_KEY, max_budget: 5}]")
    loaded = load(tmp_path / "config.yaml", {})
    assert loaded.config.virtual_keys == ()
    assert any("nobody holds it" in str(notice) for notice in loaded.notices)


def test_limits_in_a_file_are_limits(tmp_path: Path) -> None:
    """Several workers without Redis must know of them."""
    text = "virtual_keys: [{key: sk-0123456789abcdef, max_budget: 5, model_rpm_limit: {a: 1}, key_alias: a}]"
    (tmp_path / "config.yaml").write_text(text)
    assert list(load(tmp_path / "config.yaml", {}).limits) == [
        "virtual_keys[0].max_budget",
        "virtual_keys[0].model_rpm_limit",
    ]


def test_words_of_the_file_are_understood() -> None:
    """Each word of the vocabulary is one that `change` reads."""
    assert VIRTUAL_KEY_KEYS.keys() - {"key"} <= FIELDS
