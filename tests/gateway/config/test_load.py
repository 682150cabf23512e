"""Twin of gateway/config/load.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.load import ConfigInvalid, Loaded, Problem, load
from gateway.config.model import Alias, Config, Fallbacks, ModelEntry, Place, Secret, StrategyArgs
from gateway.config.vocabulary import PARAM_KEYS, SETTINGS, TOP

ENTRY = "  - model_name: a\n    litellm_params: {model: openai/a}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that messages name files as an operator does."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "config.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def config(text: str, environ: dict[str, str] | None = None) -> Config:
    return load(write(text), environ or {}).config


def entry(params: str, environ: dict[str, str] | None = None) -> ModelEntry:
    """The one entry of a configuration with these litellm_params."""
    (only,) = config(f"model_list: [{{model_name: a, litellm_params: {params}}}]", environ).model_list
    return only


def errors(text: str, *, strict: bool = False, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        load(write(text), environ or {}, strict=strict)
    return [str(problem) for problem in caught.value.problems]


def told(text: str, environ: dict[str, str] | None = None) -> list[tuple[str, str]]:
    return [(problem.severity, str(problem)) for problem in load(write(text), environ or {}).notices]


# -- whole files -------------------------------------------------------------------------------------------------------


def test_three_mistakes_are_three_lines(folder: Path) -> None:
    """All mistakes are reported at once, each with file, line, column, path and suggestion."""
    text = """\
model_list:
  - model_name: a
    litellm_params:
      model: openai/a
  - model_name: b
    litellm_params:
      api_key: os.environ/NOT_SET
      modle: openai/b
router_settings:
  num_retrys: 3
  timeout: soon
"""
    assert errors(text, strict=True) == [
        'config.yaml:8:7: unknown key "modle", did you mean "model"? (model_list[1].litellm_params)',
        'config.yaml:10:3: unknown key "num_retrys", did you mean "num_retries"? (router_settings)',
        'config.yaml:11:12: must be a number of seconds, not "soon" (router_settings.timeout)',
    ]


def test_no_configuration_is_a_configuration() -> None:
    """Without a file everything has its default and the environment names the master key."""
    assert load(None, {}) == Loaded(Config())
    assert load(None, {"LITELLM_MASTER_KEY": "k"}).config.general.master_key == Secret("k")


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "{}", "model_list:\n", "router_settings:\ngeneral_settings: ~\n"]
)
def test_an_empty_file_is_a_configuration(folder: Path, text: str) -> None:
    """Empty files and sections without content mean the defaults."""
    assert config(text) == Config(files=("config.yaml",))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("- a\n", ["config.yaml:1:1: must be a mapping with model_list, router_settings, general_settings …"]),
        ("just words", ["config.yaml:1:1: must be a mapping with model_list, router_settings, general_settings …"]),
        ("model_list: {a: b}", ["config.yaml:1:13: must be a list of entries, each beginning with a dash (model_list)"]),
        ("model_list: [a, ~]", ["config.yaml:1:14: must be a mapping with model_name and litellm_params (model_list[0])",
                                "config.yaml:1:17: must be a mapping with model_name and litellm_params (model_list[1])"]),
        ("router_settings: [a]", ["config.yaml:1:18: must be a mapping (router_settings)"]),
        ("environment_variables: {'A=B': c}", ["config.yaml:1:1: a variable has a name that the environment does not take (environment_variables)"]),
        ("a: 1\na: 2\n", ['config.yaml:2:1: the key "a" stands here and at line 1 already']),
    ],
)  # fmt: skip
def test_files_of_another_shape(folder: Path, text: str, lines: list[str]) -> None:
    """A list where a mapping belongs is reported at its place."""
    assert errors(text) == lines


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    """A missing file and a binary one are named."""
    with pytest.raises(ConfigInvalid, match=r"^nowhere.yaml: cannot be read: No such file or directory$"):
        load(Path("nowhere.yaml"), {})
    Path("binary.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigInvalid, match=r"^binary.yaml:2:1: not UTF-8 text$"):
        load(Path("binary.yaml"), {})


def test_json_is_read_as_well(folder: Path) -> None:
    """A JSON file with tabs and a byte-order mark loads."""
    document = {"model_list": [{"model_name": "a", "litellm_params": {"model": "openai/a"}}]}
    path = write("\ufeff" + json.dumps(document, indent="\t"), "config.json")
    assert load(path, {}).config.model_list[0].params.model == "openai/a"


# -- several files -----------------------------------------------------------------------------------------------------


def test_included_files_are_joined(folder: Path) -> None:
    """Includes are resolved next to the file that names them, once each, cycles included; lists are joined."""
    write(
        "include: [sub/one.yaml, sub/one.yaml]\nmodel_list:\n" + ENTRY + "router_settings: {num_retries: 9}"
    )
    write(
        "include: two.yaml\nmodel_list: [{model_name: b, litellm_params: {model: openai/b}}]", "sub/one.yaml"
    )
    write("include: ../config.yaml\nrouter_settings: {timeout: 5}\n", "sub/two.yaml")
    loaded = load(Path("config.yaml"), {})
    assert [e.model_name for e in loaded.config.model_list] == ["a", "b"]
    assert loaded.config.files == ("config.yaml", "sub/one.yaml", "sub/two.yaml")
    assert (loaded.config.router.num_retries, loaded.config.router.timeout) == (2, 5.0)
    assert [str(notice) for notice in loaded.notices] == [
        "sub/two.yaml:2:1: replaces the whole router_settings of config.yaml:5:1 (router_settings)"
    ]


def test_an_include_that_is_missing_is_told_where_it_is_named(folder: Path) -> None:
    """A missing file is reported at the line that includes it."""
    assert errors("include:\n  - other.yaml\n") == [
        "config.yaml:2:3: other.yaml: cannot be read: No such file or directory"
    ]


def test_an_include_whose_variable_is_not_set(folder: Path) -> None:
    """A part of the configuration would be missing: that is an error, but for who says that it may be."""
    told = "NO_SUCH is not set, so a part would be missing: write ${NO_SUCH:-} where it may be"
    assert errors("include: os.environ/NO_SUCH\n") == [f"config.yaml:1:10: {told} (include)"]
    assert errors("include: [a.yaml, '${NO_SUCH}/b.yaml']\n") == [f"config.yaml:1:10: {told} (include[1])"]
    assert load(write("include: ${NO_SUCH:-}\nmodel_list:\n" + ENTRY), {}).config.files == ("config.yaml",)


def test_names_that_no_file_can_have(folder: Path) -> None:
    """A name with NUL in it, a folder, a loop of links and a device without end are reported and nothing more."""
    Path("loop.yaml").symlink_to("loop.yaml")
    lines = errors('include: ["a\\0b", ., loop.yaml, /dev/zero]\n')
    assert len(lines) == 4
    assert all("cannot be read" in line for line in lines)


def test_the_models_folder_adds_models_and_nothing_else(folder: Path) -> None:
    """Files in models/ may hold a model_list, a bare list or one entry, in the order of their names."""
    write(
        "model_list: [{model_name: c, litellm_params: {model: openai/c}}]\ngeneral_settings: {master_key: x}",
        "models/1.yaml",
    )
    write("- {model_name: d, litellm_params: {model: openai/d}}", "models/2.yml")
    write("model_name: e\nlitellm_params: {model: openai/e}", "models/3.yaml")
    write("not read", "models/readme.txt")
    loaded = load(write("model_list:\n" + ENTRY), {})
    assert [e.model_name for e in loaded.config.model_list] == ["a", "c", "d", "e"]
    assert loaded.config.model_list[3].place == Place("models/3.yaml", 1, 1)
    assert loaded.config.general.master_key is None
    assert [str(notice) for notice in loaded.notices] == [
        "models/1.yaml:2:1: only model_list is read from files in models/ (general_settings)"
    ]


# -- the environment ---------------------------------------------------------------------------------------------------


def test_environment_variables_are_set_before_anything_is_read(folder: Path) -> None:
    """What environment_variables says is used in the rest of the file, wins, and is handed to the caller."""
    loaded = config(
        "environment_variables: {KEY: sk-from-the-file, COPY: os.environ/OTHER}\n"
        "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: os.environ/KEY, organization: '${COPY}'}}]",
        {"KEY": "sk-before", "OTHER": "org"},
    )
    params = loaded.model_list[0].params
    assert (params.api_key, params.organization) == (Secret("sk-from-the-file"), "org")
    assert loaded.environment_variables == {"KEY": Secret("sk-from-the-file"), "COPY": Secret("org")}
    assert "from-the-file" not in repr(loaded)


def test_where_limits_are_set(folder: Path) -> None:
    """A setting that limits somebody is remembered with its line, wherever it stands; a weight is no limit."""
    text = """\
model_list:
  - model_name: a
    litellm_params: { model: openai/a, api_key: k, rpm: 10, tpm: 1000, max_parallel_requests: 2 }
  - model_name: b
    litellm_params: { model: openai/b, api_key: k, max_budget: null }
max_budget: 5
general_settings: { user_rate_limit: { u: { rpm: 6 } }, rpm_limit: null, max_request_size_mb: 5 }
"""
    assert load(write(text), {}).limits == {
        "max_budget": Place("config.yaml", 6, 1),
        "general_settings.user_rate_limit": Place("config.yaml", 7, 21),
        "model_list[0].litellm_params.max_parallel_requests": Place("config.yaml", 3, 72),
    }
    assert load(None, {}).limits == {}


def test_a_key_that_is_not_set_is_told_and_remembered(folder: Path) -> None:
    """An unset variable leaves the key empty, with a notice and its name in the entry."""
    text = "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: os.environ/NOPE}}]"
    only = config(text).model_list[0]
    assert (only.params.api_key, only.unset) == (None, ("NOPE",))
    assert told(text) == [
        (
            "notice",
            "config.yaml:1:73: the environment variable NOPE is not set (model_list[0].litellm_params.api_key)",
        )
    ]


def test_a_model_that_is_not_set_is_an_error(folder: Path) -> None:
    """A place that needs a value cannot do without its variable."""
    text = "model_list: [{model_name: os.environ/NOPE, litellm_params: {model: '${NOPE}'}}]"
    assert errors(text) == [
        "config.yaml:1:27: model_name has no value (model_list[0])",
        "config.yaml:1:68: model has no value (model_list[0].litellm_params)",
    ]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("os.environ/NOPE", "NOPE is not set"),
        ("~", "there is none"),
        ("''", "there is none"),
        ("${NOPE}", "NOPE is not set"),
        ("${NOPE}${EMPTY}", "NOPE, EMPTY is not set"),
        ("os.environ/EMPTY", "EMPTY is not set"),
    ],
)
def test_a_master_key_that_is_named_must_be_there(folder: Path, value: str, why: str) -> None:
    """A configuration that names a master key without having one does not become an open gateway, and the variable is named."""
    message = f"master_key is named but {why}: give it a value, or remove the line to run without keys"
    text = f"general_settings:\n  master_key: {value}\n"
    environ = {"EMPTY": "", "LITELLM_MASTER_KEY": "another"}
    assert errors(text, environ=environ) == [f"config.yaml:2:15: {message} (general_settings.master_key)"]


def test_the_master_key_of_the_file_wins(folder: Path) -> None:
    """The environment's master key counts where the file names none."""
    environ = {"LITELLM_MASTER_KEY": "from-env"}
    named = config("general_settings: {master_key: 0123}", environ).general
    assert (named.master_key, named.master_key_named) == (Secret("0123"), True)
    unnamed = config("general_settings: {}", environ).general
    assert (unnamed.master_key, unnamed.master_key_named) == (Secret("from-env"), True)
    assert config("{}", {"LITELLM_MASTER_KEY": ""}).general.master_key_named is False


def test_two_master_keys_are_a_notice(folder: Path) -> None:
    """That the file's master key is not the environment's is told without showing either; the same one twice is nothing."""
    text = "general_settings: {master_key: of-the-file}"
    message = "differs from LITELLM_MASTER_KEY in the environment, and is the one that counts"
    assert told(text, {"LITELLM_MASTER_KEY": "of-the-environment"}) == [
        ("notice", f"config.yaml:1:32: {message} (general_settings.master_key)")
    ]
    assert told(text, {"LITELLM_MASTER_KEY": "of-the-file"}) == []
    assert told("general_settings: {}", {"LITELLM_MASTER_KEY": "of-the-environment"}) == []


def test_a_well_known_master_key_is_a_warning(folder: Path) -> None:
    """sk-1234 works and is reported."""
    assert told("general_settings: {master_key: sk-1234}") == [
        (
            "warning",
            "config.yaml:1:32: this master key is well known, anybody may guess it (general_settings.master_key)",
        )
    ]


def test_defaults_from_the_environment(folder: Path) -> None:
    """Origins and addresses of databases come from the environment where the file says nothing."""
    environ = {"LITELLM_CORS_ORIGINS": "https://a", "DATABASE_URL": "postgres://h/d", "REDIS_HOST": "r"}
    loaded = config("{}", environ)
    assert loaded.general.allowed_origins == ("https://a",)
    assert loaded.general.database_url == Secret("postgres://h/d")
    assert loaded.router.redis_url == Secret("redis://r")
    assert config("allowed_origins: []", environ).general.allowed_origins == ()


def test_where_postgres_is(folder: Path) -> None:
    """An address that leads nowhere is an error that shows nothing of it, what has no effect in one is a notice."""
    for text, environ, why in (
        (
            "general_settings: {database_url: 'mysql://u:hidden@h/d'}",
            {},
            "config.yaml:1:34: .* must begin with postgres",
        ),
        (
            "{}",
            {"DATABASE_URL": "postgres://u:hidden@h/d?sslmode=maybe"},
            "environment: .* sslmode must be one of",
        ),
        (
            "general_settings: {database_connection_pool_limit: 0}",
            {},
            "config.yaml:1:52: must be more than 0",
        ),
    ):
        with pytest.raises(ConfigInvalid, match=why) as caught:
            config(text, environ)
        assert "hidden" not in str(caught.value)
    ((severity, line),) = told("general_settings: {database_url: 'postgres://h/d?pgbouncer=true&schema=x'}")
    assert severity == "notice"
    assert "pgbouncer, schema have no effect in the address of Postgres" in line
    loaded = config("general_settings: {database_connection_pool_limit: 7, database_connect_timeout: 3}")
    assert (loaded.general.database_connection_pool_limit, loaded.general.database_connect_timeout) == (
        7,
        3.0,
    )


# -- entries -----------------------------------------------------------------------------------------------------------


def test_everything_that_an_entry_can_say(folder: Path) -> None:
    """Known parameters get their fields, prices stay text, everything else is a default parameter."""
    only = entry(
        """{
        model: azure/x, api_key: "${KEY}", base_url: "https://h/v1", api_version: 2024-02-15, weight: "2", order: 1,
        timeout: 10m, max_retries: 0, drop_params: yes, additional_drop_params: [user],
        extra_headers: {x-a: "${KEY}"}, extra_body: {n: 1}, input_cost_per_token: 0.00000250, output_cost_per_token: 1e-5,
        input_cost_per_token_above_200k_tokens: 0.1, mock_response: hello, mock_delay: 0.05, mock_first_delay: 250ms,
        temperature: 0.7, max_tokens: 4096, stop: [a, b], client_secret: s3cr3t}""",
        {"KEY": "sk-1"},
    )
    params = only.params
    assert msgspec.structs.asdict(params) == msgspec.structs.asdict(params) | {
        "model": "azure/x",
        "api_key": Secret("sk-1"),
        "api_base": "https://h/v1",
        "api_version": "2024-02-15",
        "weight": 2.0,
        "order": 1,
        "timeout": 600.0,
        "max_retries": 0,
        "drop_params": True,
        "additional_drop_params": ("user",),
        "extra_headers": {"x-a": Secret("sk-1")},
        "extra_body": {"n": 1},
        "input_cost_per_token": "0.00000250",
        "output_cost_per_token": "1e-5",
        "other_prices": {"input_cost_per_token_above_200k_tokens": "0.1"},
        "mock_response": "hello",
        "mock_delay": 0.05,
        "mock_first_delay": 0.25,
        "defaults": {"temperature": 0.7, "max_tokens": 4096, "stop": ["a", "b"]},
        "options": {"client_secret": Secret("s3cr3t")},
    }


def test_settings_that_have_two_names(folder: Path) -> None:
    """LiteLLM's users write Vertex AI's settings with and without `ai`."""
    only = entry(
        "{model: vertex_ai/gemini, vertex_ai_project: p, vertex_ai_location: eu, vertex_ai_credentials: '{}'}"
    )
    assert only.params.options == {
        "vertex_project": "p",
        "vertex_location": "eu",
        "vertex_credentials": Secret("{}"),
    }


def test_model_info_is_kept(folder: Path) -> None:
    """model_info keeps any JSON value, its id becomes a text."""
    text = "model_list: [{model_name: a, litellm_params: {model: openai/m}, model_info: {id: 7, mode: chat, x: [1, {y: null}]}}]"
    assert config(text).model_list[0].info == {"id": "7", "mode": "chat", "x": [1, {"y": None}]}


@pytest.mark.parametrize(
    ("entry_text", "lines"),
    [
        ("{litellm_params: {model: openai/m}}", ['"model_name" is missing (model_list[0])']),
        ("{model_name: a}", ['"litellm_params" is missing (model_list[0])']),
        ("{model_name: a, litellm_params: m}", ["must be a mapping with at least model (model_list[0].litellm_params)"]),
        ("{model_name: a, litellm_params: {}}", ['"model" is missing (model_list[0].litellm_params)']),
        ("{model_nam: a, litellm_params: {model: openai/m}}", ['unknown key "model_nam", did you mean "model_name"? (model_list[0])']),
        ("{model_name: [a], litellm_params: {model: openai/m}}", ["must be a text, not a list (model_list[0].model_name)"]),
        ("{model_name: a, litellm_params: {model: openai/m, api_base: host}}", ["must begin with http:// or https:// (model_list[0].litellm_params.api_base)"]),
        ("{model_name: a, litellm_params: {model: openai/m, api_base: http://a, base_url: http://b}}", ["api_base and base_url say different things (model_list[0].litellm_params)"]),
        ("{model_name: a, litellm_params: {model: openai/m, ssl_verify: false}, model_info: [a]}", ["must be a mapping, not a list (model_list[0].model_info)"]),
        ("{model_name: a, litellm_params: {model: openai/m, ssl_verify: ca.pem}}", ["ssl_verify: TLS settings of one deployment are not available (model_list[0].litellm_params)"]),
    ],
)  # fmt: skip
def test_entries_that_cannot_be_used(folder: Path, entry_text: str, lines: list[str]) -> None:
    """One mistake in an entry is one line."""
    found = errors(f"model_list:\n  - {entry_text}\n")
    assert [line.split(": ", 1)[1] for line in found] == lines


@pytest.mark.parametrize(
    ("entry_text", "line"),
    [
        ("{model_name: a, litellm_params: {model: openai/m, temprature: 1}}", 'unknown key "temprature", did you mean "temperature"? (model_list[0].litellm_params)'),
        ("{model_name: a, litellm_params: {model: openai/m, api_kye: x}}", 'unknown key "api_kye", did you mean "api_key"? (model_list[0].litellm_params)'),
        ("{model_name: a, weight: 2, litellm_params: {model: openai/m}}", '"weight" belongs under litellm_params (model_list[0])'),
        ("{model_name: a, litellm_params: {model: opnai/m}}", 'no provider is known for "opnai/m"; write provider/model, or give api_base, did you mean "openai/m"? (model_list[0].litellm_params.model)'),
        ("{model_name: a, litellm_params: {model: llama}}", 'no provider is known for "llama"; write provider/model, or give api_base (model_list[0].litellm_params.model)'),
        ("{model_name: a, flavour: 2, litellm_params: {model: openai/m}}", 'unknown key "flavour" (model_list[0])'),
    ],
)  # fmt: skip
def test_entries_that_are_doubted(folder: Path, entry_text: str, line: str) -> None:
    """A misspelling or misplaced key is a warning for who serves and an error for who checks."""
    text = f"model_list:\n  - {entry_text}\n"
    assert [(severity, said.split(": ", 1)[1]) for severity, said in told(text)] == [("warning", line)]
    assert [said.split(": ", 1)[1] for said in errors(text, strict=True)] == [line]


def test_a_misspelled_key_is_never_sent_as_a_parameter(folder: Path) -> None:
    """What was meant as a key does not end in a request's body, other unknown keys do."""
    assert entry("{model: m, api_kye: sk-1, temprature: 1, guidance: 2}").params.defaults == {
        "temprature": 1,
        "guidance": 2,
    }


def test_one_id_for_two_deployments_is_an_error(folder: Path) -> None:
    """The same id twice names both places."""
    one = "  - {model_name: a, litellm_params: {model: openai/m}, model_info: {id: x}}\n"
    assert errors("model_list:\n" + one + one) == [
        'config.yaml:3:56: the id "x" is taken by the entry at config.yaml:2:56 (model_list[1].model_info)'
    ]


# -- settings ----------------------------------------------------------------------------------------------------------


def test_everything_that_settings_can_say(folder: Path) -> None:
    """The settings that work arrive in their structs."""
    loaded = config("""\
router_settings:
  num_retries: 3
  timeout: 600
  stream_timeout: "30"
  cooldown_time: 1
  disable_cooldowns: true
  fallbacks: [{a: [b]}]
  default_fallbacks: [c]
  max_fallbacks: 2
  model_group_alias: {g: [a, b]}
  redis_host: redis
  redis_port: os.environ/PORT
litellm_settings: {drop_params: true, set_verbose: on, request_timeout: 5, require_auth_for_metrics_endpoint: true, max_budget: 10}
general_settings:
  env_providers: true
  public_routes: [/v1/models]
  allowed_origins: ["https://a"]
  cors_allow_credentials: true
  max_request_size_mb: 0.5
  cost_per_token: {gpt-4: 0.00006}
  unknown_price_policy: warn
""", {"PORT": "6379"})  # fmt: skip
    router, litellm, general = loaded.router, loaded.litellm, loaded.general
    assert (router.num_retries, router.timeout, router.stream_timeout, router.cooldown_time) == (
        3,
        600.0,
        30.0,
        1.0,
    )
    assert (router.disable_cooldowns, router.max_fallbacks, router.default_fallbacks) == (True, 2, ("c",))
    assert router.fallbacks == Fallbacks({"a": ("b",)})
    assert router.model_group_alias == {"g": Alias(("a", "b"))}
    assert (router.redis_host, router.redis_port) == ("redis", 6379)
    assert (litellm.drop_params, litellm.set_verbose, litellm.request_timeout) == (True, True, 5.0)
    assert (litellm.require_auth_for_metrics_endpoint, litellm.max_budget) == (True, "10")
    assert (general.env_providers, general.public_routes, general.max_request_size_mb) == (
        True,
        ("/v1/models",),
        0.5,
    )
    assert (general.allowed_origins, general.cors_allow_credentials) == (("https://a",), True)
    assert general.cost_per_token["gpt-4"].output == "0.00006"


@pytest.mark.parametrize("section", ["router_settings", "litellm_settings", "general_settings", ""])
def test_a_setting_is_understood_in_any_section(folder: Path, section: str) -> None:
    """A misplaced setting counts, and a notice says where it belongs."""
    text = f"{section}:\n  cooldown_time: 7\n" if section else "cooldown_time: 7\n"
    assert config(text).router.cooldown_time == 7.0
    notices = told(text)
    if section == "router_settings":
        assert notices == []
    else:
        (only,) = notices
        assert only[0] == "notice"
        assert (
            f'"cooldown_time" is found under {section or "the top"}, its place is router_settings' in only[1]
        )


def test_a_setting_in_two_places(folder: Path) -> None:
    """Two values that differ are an error naming both lines, two equal ones are none."""
    text = "router_settings:\n  num_retries: 3\nlitellm_settings:\n  num_retries: 4\n"
    assert errors(text) == [
        'config.yaml:4:3: "num_retries" says something else here than at config.yaml:2:3 (litellm_settings)'
    ]
    assert told(text.replace("4", "3")) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("general_settings: {masterkey: x}", 'config.yaml:1:20: unknown key "masterkey", did you mean "master_key"? (general_settings)'),
        ("router_setings: {}", 'config.yaml:1:1: unknown key "router_setings", did you mean "router_settings"?'),
        ("services: {}", 'config.yaml:1:1: unknown key "services"'),
        ("general_settings: {model_list: []}", 'config.yaml:1:20: "model_list" belongs at the top of the file (general_settings)'),
        ("temperature_: 1\n", 'config.yaml:1:1: unknown key "temperature_"'),
        ("api_key: x\n", 'config.yaml:1:1: "api_key" belongs in an entry of model_list'),
        ("router_settings: {routing_strategy: round-robin}", 'config.yaml:1:37: unknown strategy "round-robin", shuffling instead (router_settings.routing_strategy)'),
        ("model_list: [{model_name: gpt-4o, litellm_params: {model: openai/m}}]\nrouter_settings: {fallbacks: [{gpt-4o: [gpt-4p]}]}",
         'config.yaml:2:41: no model is called "gpt-4p", did you mean "gpt-4o"? (router_settings.fallbacks[0].gpt-4o)'),
        ("model_list: [{model_name: gpt-4o, litellm_params: {model: openai/m}}]\nrouter_settings: {model_group_retry_policy: {gpt-4p: {max_retries: 1}}}",
         'config.yaml:2:46: no model is called "gpt-4p", did you mean "gpt-4o"? (router_settings.model_group_retry_policy)'),
        ("model_list: [{model_name: gpt-4o, litellm_params: {model: openai/m}}]\nvirtual_keys: [{key: a-key-of-somebody-1, models: [gpt-4p]}]",
         'config.yaml:2:16: no model is called "gpt-4p", did you mean "gpt-4o"? (virtual_keys[0].models)'),
        ("model_list: [{model_name: gpt-4o, litellm_params: {model: openai/m}}]\nvirtual_keys: [{key: a-key-of-somebody-1, aliases: {quick: gpt-4p}}]",
         'config.yaml:2:16: no model is called "gpt-4p", did you mean "gpt-4o"? (virtual_keys[0].aliases.quick)'),
        ('general_settings: {allowed_origins: [chat.example.com, "https://a.example.com/", "*", "null"]}',
         'config.yaml:1:37: no page has the origin "chat.example.com": one is like https://chat.example.com, and * is any (general_settings.allowed_origins)'),
        ('general_settings: {allowed_origins: ["https://*.example.com", "http://[::1]:3000"]}',
         'config.yaml:1:37: no page has the origin "https://*.example.com": one is like https://chat.example.com, and * is any (general_settings.allowed_origins)'),
        ("model_list: [{model_name: m, litellm_params: {model: openai/m, output_cost_per_tokens: 1}}]",
         'config.yaml:1:64: unknown key "output_cost_per_tokens", did you mean "output_cost_per_token"? (model_list[0].litellm_params)'),
    ],
)  # fmt: skip
def test_what_is_unknown_is_doubted(folder: Path, text: str, line: str) -> None:
    """Unknown keys, strategies and models are warnings, and errors for who checks."""
    assert told(text) == [("warning", line)]
    assert errors(text, strict=True) == [line]


@pytest.mark.parametrize(
    ("text", "severity", "line"),
    [
        ("general_settings:\n  cache_params: {type: redis}\n", "warning", "config.yaml:2:3: cache_params has no effect yet: caching of answers (general_settings)"),
        ("general_settings: {cache: false}", "notice", "config.yaml:1:20: cache has no effect yet: caching of answers (general_settings)"),
        ("general_settings: {track_cost_per_model: true}", "notice", "config.yaml:1:20: track_cost_per_model is not needed: cost is tracked per model always (general_settings)"),
        ('general_settings: {allowed_ips: ["*"]}', "notice", "config.yaml:1:20: allowed_ips has no effect, and with this value needs none (general_settings)"),
        ("general_settings: {blocked_ips: []}", "notice", "config.yaml:1:20: blocked_ips has no effect, and with this value needs none (general_settings)"),
        ("litellm_settings: {ssl_verify: true}", "notice", "config.yaml:1:20: ssl_verify has no effect, and with this value needs none (litellm_settings)"),
        ("general_settings: {store_model_in_db: true}", "warning", "config.yaml:1:20: store_model_in_db has no effect yet: models and settings in the database (general_settings)"),
        ("general_settings: {proxy_batch_write_at: 60}", "notice", "config.yaml:1:20: proxy_batch_write_at is not needed: rows are written in batches, ten times a second (general_settings)"),
        ("model_list: [{model_name: m, litellm_params: {model: openai/m, ocr_cost_per_page: 1}}]", "warning",
         "config.yaml:1:64: ocr_cost_per_page has no effect yet: prices of what is not counted (model_list[0].litellm_params)"),
        ("mcp_servers: {a: b}", "warning", "config.yaml:1:1: mcp_servers has no effect yet: MCP servers, agents and search (mcp_servers)"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_told_with_its_line(folder: Path, text: str, severity: str, line: str) -> None:
    """A known key without effect is never passed over in silence."""
    assert told(text) == [(severity, line)]


@pytest.mark.parametrize(
    "text",
    [
        "general_settings: {allowed_ips: [10.0.0.0/8]}",
        "general_settings: {blocked_ips: [10.0.0.1]}",
        "general_settings: {custom_auth: my.auth}",
        "general_settings: {enable_jwt_auth: true}",
        "general_settings: {pass_through_endpoints: [{path: /x}]}",
        "general_settings: {ssl_certfile_path: cert.pem}",
        "general_settings: {strict_security: true}",
        "litellm_settings: {ssl_verify: false-ish}",
        "litellm_settings: {ssl_verify: os.environ/NOPE}",
        "guardrails: [{guardrail_name: x}]",
        "general_settings: {limits_without_redis: maybe}",
        "general_settings: {on_budget: shout}",
        "general_settings: {rpm_limit: -1}",
        "general_settings: {user_rate_limit: {somebody: 60}}",
        "litellm_settings: {timezone: Europe/Nowhere}",
        "litellm_settings: {budget_reset_at: noon}",
        "litellm_settings: {budget_exceeded_status_code: 200}",
        "general_settings: {unknown_price_policy: sometimes}",
        "general_settings: {max_request_size_mb: 0}",
        'general_settings: {allowed_origins: ["*"], cors_allow_credentials: true}',
    ],
)
def test_promises_of_safety_are_kept_or_refused(folder: Path, text: str) -> None:
    """A setting that somebody relies on and that is not there stops the start."""
    assert len(errors(text)) == 1


@pytest.mark.parametrize(
    ("written", "strategy"),
    [
        ("latency-based", "latency-based-routing"),
        ("usage-based-routing-v2", "usage-based-routing"),
        ("performance-based", "performance-based"),
        ("Cost-Based", "cost-based-routing"),
        ("geographic", "geo-routing"),
    ],
)
def test_strategies_by_all_their_names(folder: Path, written: str, strategy: str) -> None:
    """A strategy is known by the names that people write, and has its arguments."""
    text = (
        f"router_settings: {{routing_strategy: {written}, "
        "routing_strategy_args: {ttl: 10m, lowest_latency_buffer: 0.1, max_latency_list_size: 5}}"
    )
    assert told(text) == []
    router = config(text).router
    assert router.routing_strategy == strategy
    assert router.routing_strategy_args == StrategyArgs(600.0, 0.1, 5)


def test_arguments_of_strategies_are_looked_at(folder: Path) -> None:
    """One that does nothing is reported, with the name that may have been meant; one that cannot be is an error."""
    text = "router_settings: {routing_strategy_args: {tttl: 5, ttft_percentile: 50}}"
    assert [kind for kind, _ in told(text)] == ["warning", "warning"]
    assert 'did you mean "ttl"?' in told(text)[0][1]
    assert len(errors("router_settings: {routing_strategy_args: {ttl: 0}}")) == 1


def test_what_keys_may_ask_for(folder: Path) -> None:
    """Access groups, aliases, patterns, what a wildcard matches, models that are off, and the words for all and for nothing."""
    assert (
        told("""
model_list:
  - model_name: a
    litellm_params: {model: openai/m}
    model_info: {access_groups: [beta]}
  - model_name: team-a/*
    litellm_params: {model: openai/*}
  - model_name: "off"
    litellm_params: {model: anthropic/claude-sonnet-4-5}
    model_info: {access_groups: internal}
router_settings:
  model_group_alias: {short: team-a/x1}
virtual_keys:
  - key: a-key-of-somebody-1
    models: [a, beta, internal, short, "off", team-a/x2, "later/*", all-proxy-models, no-default-models]
    aliases: {quick: short, own: team-a/x3}
""")
        == []
    )
    assert told("virtual_keys: [{key: a-key-of-somebody-1, models: [gpt-4o]}]") == []


def test_wildcards_and_aliases_are_models(folder: Path) -> None:
    """A fallback may lead to an alias or to what a wildcard matches."""
    text = """\
model_list: [{model_name: "team-*/x*", litellm_params: {model: "openai/*"}}]
router_settings:
  model_group_alias: {short: team-a/x1}
  fallbacks: [{short: [team-b/xyz]}, {team-b/x: [short]}]
"""
    assert told(text) == []
    assert told(text.replace("team-b/xyz", "team-b/yz"))[0][0] == "warning"


def test_with_providers_of_the_environment_any_name_may_exist(folder: Path) -> None:
    """Names of fallbacks are not doubted where the environment opens providers."""
    text = "model_list:\n" + ENTRY + "router_settings: {fallbacks: [{a: [openai/gpt-4o]}]}\n"
    assert len(told(text)) == 1
    assert told(text + "general_settings: {env_providers: true}") == []


def test_a_blueprint_is_a_configuration(folder: Path) -> None:
    """llm_providers expands to a model list, beside keys that only the container needs."""
    document = {
        "llm_providers": {"openai": {"enabled": True, "api_key": "${KEY}", "models": ["gpt-4o"]}},
        "litellm": {"hostname": "litellm", "port": 4000},
    }
    loaded = load(write(json.dumps(document), "blueprint-config.json"), {"KEY": "sk-1"}).config
    assert [(e.model_name, e.params.model, e.params.api_key) for e in loaded.model_list] == [
        ("gpt-4o", "openai/gpt-4o", Secret("sk-1"))
    ]


# -- anything at all ---------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [*sorted(TOP | SETTINGS | PARAM_KEYS), "model_name", "litellm_params", "model_info", "<<"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.text(max_size=8)
    | st.sampled_from(["os.environ/NOPE", "${A}", "010", "00:00", "*", "sk-1", "30d", "http://x", "[", "\0"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "model_name": SCALARS,
        "litellm_params": st.dictionaries(WORDS, VALUES, max_size=5),
        "model_info": VALUES,
    },
)
DOCUMENTS = VALUES | st.fixed_dictionaries(
    {},
    optional={
        "model_list": st.lists(ENTRIES | VALUES, max_size=3),
        **{name: st.dictionaries(WORDS, VALUES, max_size=5) for name in ("router_settings", "litellm_settings", "general_settings")},
        **dict.fromkeys(("include", "environment_variables", "llm_providers", "fallbacks", "allowed_origins"), VALUES),
    },
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(document=DOCUMENTS, strict=st.booleans())
def test_no_document_does_more_than_be_refused(folder: Path, document: Any, strict: bool) -> None:
    """Whatever stands in a file, it loads or is refused with problems, never with another error."""
    path = write(yaml.safe_dump(document, allow_unicode=True))
    refused: tuple[Problem, ...] = ()
    models: tuple[ModelEntry, ...] = ()
    try:
        models = load(path, {"A": "1"}, strict=strict).config.model_list
    except ConfigInvalid as invalid:
        refused = invalid.problems
    assert all(str(problem) for problem in refused)
    for only in models:
        assert only.params.model
        msgspec.json.encode([only.params.defaults, only.params.extra_body, only.info])


# -- deployments' limits ---------------------------------------------------------------------------------------------


def test_parameters_of_all_entries(folder: Path) -> None:
    """Entries have what `default_litellm_params` say, where they do not say it themselves; each reads it as its own."""
    text = (
        "model_list:\n"
        "  - {model_name: a, litellm_params: {model: openai/a}}\n"
        "  - {model_name: b, litellm_params: {model: openai/b, timeout: 9, api_key: own}}\n"
        "router_settings: {default_litellm_params: {timeout: 3, api_key: os.environ/K, temperature: 0}}\n"
    )
    found = config(text, {"K": "sk-of-all"})
    one, two = found.model_list
    assert (one.params.timeout, one.params.api_key) == (3.0, Secret("sk-of-all"))
    assert (two.params.timeout, two.params.api_key) == (9.0, Secret("own"))
    assert one.params.defaults == two.params.defaults == {"temperature": 0}
    assert found.router.default_litellm_params == ("timeout", "api_key", "temperature")


def test_checks_that_mean_nothing_here(folder: Path) -> None:
    """LiteLLM's checks are known; another one is told with its line."""
    line = "router_settings: {optional_pre_call_checks: [prompt_caching, router_budget_limiting, other]}"
    assert told(line) == [
        (
            "warning",
            "config.yaml:1:45: the check other has no effect here (router_settings.optional_pre_call_checks)",
        )
    ]


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (
            "daily_reset_time: '25:00'",
            "must be a time of day, HH:MM (model_list[0].litellm_params.daily_reset_time)",
        ),
        ("budget_duration: soon", "must be a duration such as 30d, 12h or 3600"),
        ("budget_duration: 30", "must be a number with s, m, h, d, w or mo"),
        ("tag_regex: ['(']", '"(" is no regular expression'),
    ],
)
def test_limits_that_nobody_understands(folder: Path, params: str, problem: str) -> None:
    """Mistakes in an entry's limits and patterns are told when the file is read."""
    (error,) = errors(f"model_list: [{{model_name: a, litellm_params: {{model: openai/a, {params}}}}}]")
    assert problem in error


@pytest.mark.parametrize(
    ("parts", "url"),
    [
        ("{redis_host: r}", "redis://r:6379"),
        ("{redis_host: r, redis_port: 7000, redis_password: p w}", "redis://:p%20w@r:7000"),
        ("{redis_host: r, redis_username: me, redis_password: p}", "redis://me:p@r:6379"),
        ("{redis_host: 'fd00::1', redis_ssl: true, redis_db: 3}", "rediss://[fd00::1]:6379/3"),
    ],
)
def test_redis_in_parts(tmp_path: Path, parts: str, url: str) -> None:
    """Host, port, user, password, database and TLS make one address."""
    file = tmp_path / "config.yaml"
    file.write_text(f"router_settings: {parts}\n")
    assert load(file, {}).config.router.redis_url == Secret(url)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{redis_url: zqword}", "must begin with redis://"),
        ("{redis_url: 'redis://u:zqword/x@h:1'}", "cannot be read"),
        ("{redis_host: h, redis_port: 70000}", "cannot be read"),
    ],
)
def test_an_address_of_redis_that_is_none(folder: Path, settings: str, message: str) -> None:
    """What the gateway could not start with is told with its line, and without a word of it."""
    (line,) = errors(f"router_settings: {settings}")
    assert line.startswith("config.yaml:1:")
    assert (message in line, "zqword" in line) == (True, False)


def test_a_folder_of_models_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told like a file that cannot be read."""
    Path("models").mkdir()

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert errors("model_list: []") == ["models: cannot be read: Permission denied"]
