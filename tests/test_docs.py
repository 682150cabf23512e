"""The documents say what the code does: generated pages, tables, commands, examples and links."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import gateway
from adapters import PROVIDERS
from adapters.errors import GatewayError
from docs.build import pages
from gateway.admin.routes import PAGES
from gateway.cli import command
from gateway.config.environment import VARIABLES, Environment, load_dotenv, read_environment
from gateway.config.load import load
from gateway.endpoints import ENDPOINTS
from gateway.metrics import SERIES
from gateway.runtime import Limits

HERE = Path(__file__).parents[1]
README = (HERE / "README.md").read_text()
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "adapters/*.md", "gateway/*.md", "bench/*.md", "deploy/*.md")
    for path in HERE.glob(pattern)
)


def section(title: str) -> str:
    """The text under a heading of the README, until the next heading."""
    found = re.search(rf"(?ms)^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", README)
    assert found, title
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's tables."""
    lines = [line for line in section(title).splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def indented(text: str) -> list[str]:
    """The lines of indented blocks, continued lines joined, comments left out."""
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line.partition("  #")[0].strip() for line in joined.splitlines() if line.strip()]


def fenced(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", README)


def errors() -> Iterator[type[GatewayError]]:
    """Every class of error that a request may end with."""
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    kinds = [GatewayError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.startswith(("adapters.", "gateway.")):
            yield kind


# -- generated -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(pages()))
def test_generated_pages_are_up_to_date(name: str) -> None:
    """What the code says of itself is what docs/ holds; `python -m docs.build` writes it."""
    assert (HERE / "docs" / name).read_text() == pages()[name]


def test_every_series_is_documented() -> None:
    """docs/METRICS.md has one line for each series, with its labels."""
    page = pages()["METRICS.md"]
    for series in SERIES:
        (line,) = re.findall(rf"(?m)^\| `{series.name}` .*$", page)
        assert quoted(line)[1:][: len(series.labels)] == list(series.labels)


# -- tables ----------------------------------------------------------------------------------------------------------


def test_every_error_is_documented() -> None:
    """The README's table has every `reason` with its status, and no other."""
    written = {}
    for reasons, statuses, *_ in rows("Errors")[1:]:
        found = re.findall(r"\d{3}", statuses)
        names = quoted(reasons)
        for position, name in enumerate(names):
            written[name] = int(found[position if len(found) == len(names) > 1 else 0])
    assert written == {kind.reason: kind.status for kind in errors()}


def test_every_endpoint_is_documented() -> None:
    """Each path that is served stands in the README, as itself or under its root, and each that stands there is served."""
    paths = [*(endpoint.path for endpoint in ENDPOINTS), *(page.path for page in PAGES)]
    served = {re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path) for path in paths}
    told = [entry.rpartition(" ")[2] for row in rows("Endpoints") for entry in quoted(row[0])]
    told = [entry for entry in told if entry.startswith("/") and entry != "/v1"]

    def is_told(path: str) -> bool:
        with_v1 = path if path.startswith("/v1/") else f"/v1{path}"
        same = {path.rstrip("/") or "/", with_v1, path.removeprefix("/v1")}
        roots = tuple(entry.removesuffix("…") for entry in told if entry.endswith("…"))
        return bool(same & set(told)) or any(each.startswith(roots) for each in same)

    assert [path for path in sorted(served) if not is_told(path)] == []
    missing = [
        entry
        for entry in told
        if entry not in served and not any(path.startswith(entry.removesuffix("…")) for path in served)
    ]
    assert missing == []


def test_who_may_is_documented() -> None:
    """The README says of each management page who may see it, as its row does."""
    words = {"anybody": "public", "master key": "admin", "a key about itself": "caller"}
    access = {re.sub(r":[^}]*}", "}", page.path): page.access for page in PAGES}
    told = [row for row in rows("Endpoints") if len(row) > 2 and row[1] in words]
    for paths, who, *_ in told:
        for path in quoted(paths):
            assert access[path.rpartition(" ")[2]] == words[who], path
    assert {row[1] for row in told} == set(words)


def test_every_variable_is_documented() -> None:
    """The README's table has the variables that the gateway reads itself, and only names that something reads."""
    table = [name for row in rows("Configuration") for name in quoted(row[0])]
    ours = {name for names in VARIABLES for name in names.split(", ")}
    assert sorted(ours - set(table)) == []
    others = {name for provider in PROVIDERS.values() for name in (*provider.env, *provider.base_env)}
    proxies = {"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"}
    assert sorted(set(table) - ours - others - proxies) == []


def test_limits_are_documented() -> None:
    """The defaults in the README are those of the code."""
    told = {row[0]: row[1] for row in rows("How a request is answered")}
    assert told["connect"] == f"{Limits.connect:g} s"
    assert told["first event, or a whole answer"].startswith(f"{Limits.first_event:g} s")
    assert told["between two events"] == f"{Limits.between_events:g} s"
    assert told["a client that does not read"] == f"{Limits.client_write:g} s"
    assert f"silent for {Limits.keep_alive:g} s" in section("How a request is answered")
    defaults = Environment()
    assert (
        f"port still open ({defaults.drain_delay:g}), requests may end ({defaults.drain_timeout:g})" in README
    )


def test_exit_codes_are_documented() -> None:
    """docs/OPERATING.md names the codes that the command line's module names."""
    page = (HERE / "docs" / "OPERATING.md").read_text()
    codes = set(re.findall(r"(?m)^\| (\d+) \|", page))
    assert codes == set(re.findall(r"\b(\d+) ", (command.__doc__ or "").partition("Exit codes:")[2]))
    assert len(codes) > 4


def test_variables_in_the_pages_exist() -> None:
    """What docs/OPERATING.md calls a variable is one."""
    page = (HERE / "docs" / "OPERATING.md").read_text()
    known = {name for names in VARIABLES for name in names.split(", ")} | {"HTTPS_PROXY"}
    named = {word.partition("=")[0] for word in quoted(page) if re.fullmatch(r"[A-Z][A-Z_]+(=\w+)?", word)}
    assert named <= known


# -- examples --------------------------------------------------------------------------------------------------------


def test_commands_are_understood() -> None:
    """Each `penstock …` of the README is one that the command line takes; each `make …` is a target."""
    parser = command._parser()
    commands = [line for line in indented(README) if line.startswith("penstock")]
    assert len(commands) >= 3
    for written in commands:
        words = shlex.split(written)[1:]
        parser.parse_args(words if words and not words[0].startswith("-") else ["serve", *words])
    targets = re.findall(r"(?m)^([a-z-]+):", (HERE / "Makefile").read_text())
    made = re.findall(r"(?m)^make ([a-z-]+)", "\n".join([*indented(README), *quoted(README)]))
    assert set(made) <= set(targets)


@pytest.mark.parametrize("text", fenced("yaml"))
def test_configurations_are_valid(text: str, tmp_path: Path) -> None:
    """Each YAML block of the README is a configuration without a word that is unknown or without effect."""
    (tmp_path / "config.yaml").write_text(text)
    names = set(re.findall(r"os\.environ/(\w+)", text))
    loaded = load(tmp_path / "config.yaml", dict.fromkeys(names, "a-key"), strict=True)
    assert loaded.notices == ()
    assert len(loaded.config.model_list) == len(yaml.safe_load(text)["model_list"])


def test_the_five_minutes_set_what_they_use() -> None:
    """Who pastes block after block has every variable that a later one names."""
    text = section("Five minutes")
    exported = {
        name for line in re.findall(r"(?m)^    export (.*)$", text) for name in re.findall(r"(\w+)=", line)
    }
    assert set(re.findall(r"os\.environ/(\w+)", text)) <= exported


@pytest.mark.parametrize("text", fenced("python"))
def test_python_is_python(text: str) -> None:
    """Each Python block of the README compiles; tests/e2e/test_process.py runs them."""
    compile(text, "README.md", "exec")


def test_the_shipped_configuration_has_no_loose_ends() -> None:
    """config.yaml with all keys set needs no notice, and what it names as an environment variable is one of a provider."""
    text = (HERE / "config.yaml").read_text()
    names = set(re.findall(r"(?m)^[^#\n]*os\.environ/(\w+)", text))
    loaded = load(HERE / "config.yaml", dict.fromkeys(names, "a-key"), strict=True)
    assert loaded.notices == ()
    assert names <= {name for provider in PROVIDERS.values() for name in provider.env}


def test_what_is_commented_out_works_too(tmp_path: Path) -> None:
    """The examples in config.yaml's comments are valid when they are put in force."""
    text = re.sub(r"(?m)^(\s*)# (?=- model_name|  )", r"\1", (HERE / "config.yaml").read_text())
    text = re.sub(r"(?m)^  # (?=(master_key|model_group_alias): )", "  ", text)
    (tmp_path / "config.yaml").write_text(text)
    names = set(re.findall(r"os\.environ/(\w+)", text))
    loaded = load(tmp_path / "config.yaml", dict.fromkeys(names, "a-key"), strict=True)
    assert loaded.notices == ()
    assert {"llama", "team-a/*"} <= {entry.model_name for entry in loaded.config.model_list}
    assert set(loaded.config.router.model_group_alias) == {"best"}
    assert loaded.config.general.master_key


def test_the_environment_template_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """.env.template, copied as it is, is read without a complaint and sets nothing; its comments are valid too."""
    template = (HERE / ".env.template").read_text()
    (tmp_path / ".env").write_text(template)
    assert {name: value for name, value in load_dotenv(tmp_path / ".env", {}).items() if value} == {}
    (tmp_path / ".env").write_text(re.sub(r"(?m)^#(?=[A-Z_]+=)", "", template))
    environment = read_environment(load_dotenv(tmp_path / ".env", {}))
    assert [problem for problem in environment.problems if problem.severity == "error"] == []
    assert environment == Environment(problems=environment.problems)
    assert caplog.records == []


# -- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(HERE)))
def test_links_lead_somewhere(document: Path) -> None:
    """Each link to a file of the project is to one that exists, and each to a heading to one that is there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        name, _, heading = target.partition("#")
        file = Path(os.path.normpath(document.parent / name)) if name else document
        assert file.exists(), target
        titles = re.findall(r"(?m)^#+ (.*)$", file.read_text()) if heading else []
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not heading or heading in anchors, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(HERE)))
def test_files_that_are_named_exist(document: Path) -> None:
    """Where a document names a file of the project by its path, the file is there."""
    for word in quoted(document.read_text()):
        if re.fullmatch(r"(adapters|gateway|tests|docs|bench|deploy)/[\w./-]+\.\w+", word):
            assert (HERE / word).exists(), word
