"""The house rules that no linter knows: twins, words, the changelog, one version, the lock files, the wheel."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions, version
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gateway

HERE = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((HERE / "pyproject.toml").read_text())
LOCKS = ("requirements.lock", "requirements-build.lock", "requirements-dev.lock")
LEFT_OUT = re.compile(
    r"\.(?!ci$|dockerignore$|gitignore$|env\.template$|pre-commit-config\.yaml$).*|__pycache__|build|dist|results"
)

# Source files without a twin, each with its reason.
DEBTORS: dict[str, str] = {
    "adapters/anthropic_answers.py": "a part of adapters.anthropic, tested through it",
    "adapters/anthropic_editor.py": "as anthropic_answers.py",
    "adapters/anthropic_questions.py": "as anthropic_answers.py",
    "adapters/cohere_answers.py": "as anthropic_answers.py",
    "adapters/cohere_questions.py": "as anthropic_answers.py",
    "adapters/ollama_answers.py": "as anthropic_answers.py",
    "adapters/ollama_questions.py": "as anthropic_answers.py",
    "adapters/bedrock_answers.py": "a part of adapters.bedrock, tested through it",
    "adapters/bedrock_completions.py": "a part of adapters.bedrock_invoke, tested through it",
    "adapters/bedrock_questions.py": "a part of adapters.bedrock, tested through it",
    "adapters/openai_usage.py": "a part of adapters.openai_answers, tested through it",
    "adapters/base.py": "protocols only, which mypy checks the formats against",
    "adapters/gemini_answers.py": "a part of adapters.gemini, tested through it",
    "adapters/gemini_questions.py": "as gemini_answers.py",
    "bench/naive.py": "a peer, started and asked by tests/bench/test_run.py",
    "deploy/check_image.py": "tests/test_image.py, with the Dockerfile that it reads",
    "gateway/credentials/renewal.py": "a part of gateway.credentials.tokens, tested through it",
    "gateway/credentials/aws_sources.py": "a part of gateway.credentials.aws, tested through it",
    "gateway/asking.py": "tests/e2e/test_tasks.py asks in every way, tests/gateway/stages/test_upstream.py fails in every way",
    "gateway/attempting.py": "tests/gateway/stages/test_upstream.py asks through it",
    "gateway/config/files.py": "a part of gateway.config.load, tested through it",
    "gateway/config/model_list.py": "as files.py",
    "gateway/config/sections.py": "as files.py",
    "gateway/config/settings.py": "as files.py",
    "gateway/config/virtual_keys.py": "as files.py",
    "gateway/config/seen.py": "a part of gateway.config.source, tested through it",
    "gateway/state/keys.py": "structs only, tested with the records that keep them",
    "gateway/metrics/exposition.py": "a part of gateway.metrics, tested through it",
    "gateway/metrics/tables.py": "as exposition.py",
    "gateway/provider_settings.py": "a part of gateway.routes, tested through it",
    "gateway/exchange.py": "a record that the stages fill, tested by each of them",
    "gateway/runtime.py": "a bag, tested by all who reach into it",
    "gateway/__main__.py": "two lines that call the command line",
    "tests/harness.py": "used by the tests of everything else",
    "tests/recorded.py": "used by the tests of everything else",
}


def sources() -> list[str]:
    """Python files with code in them, by their path in the checkout."""
    found = (
        path
        for folder in ("adapters", "gateway", "bench", "deploy")
        for path in sorted((HERE / folder).rglob("*.py"))
    )
    return [
        str(path.relative_to(HERE))
        for path in (*found, *sorted((HERE / "tests").glob("*.py")))
        if has_code(path)
        and path.parent != HERE / "adapters" / "wire"  # structs, tested through their formats
    ]


def has_code(path: Path) -> bool:
    """Whether there is more than a docstring, imports and names in it."""
    if path.name in {"__init__.py", "conftest.py"} or path.name.startswith("test_"):
        return False
    body = ast.parse(path.read_text()).body
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for node in ast.walk(ast.Module(body, []))
    )


def twin(source: str) -> Path:
    """Where a source file is tested."""
    path = Path(source)
    folder = path.parent if path.parts[0] == "tests" else Path("tests") / path.parent
    return HERE / folder / f"test_{path.name}"


def texts() -> list[Path]:
    """All files of the checkout that people write."""
    return [
        path
        for path in sorted(HERE.rglob("*"))
        if path.is_file() and not any(LEFT_OUT.fullmatch(part) for part in path.relative_to(HERE).parts)
    ]


def requirements(lock: str) -> dict[str, tuple[Requirement, frozenset[str]]]:
    """A lock file's requirements by name, each with its hashes."""
    found: dict[str, tuple[Requirement, frozenset[str]]] = {}
    for block in re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^\s*#.*\n", "", (HERE / lock).read_text()).strip()):
        first, *hashes = [line.strip().removesuffix("\\").strip() for line in block.splitlines()]
        requirement = Requirement(first)
        found[canonicalize_name(requirement.name)] = (requirement, frozenset(hashes))
    return found


@pytest.mark.parametrize("source", sources())
def test_every_source_has_its_twin(source: str) -> None:
    """A source file has a test file at the same place below tests/, or stands among the debtors with its reason."""
    if source in DEBTORS:
        assert not twin(source).exists(), f"{source} has its twin now: take it off the list"
    else:
        assert twin(source).exists(), f"{twin(source).relative_to(HERE)} is missing"


def test_debtors_exist() -> None:
    """The list of debtors names only files that are there."""
    assert [source for source in DEBTORS if not (HERE / source).exists()] == []


def test_the_map_of_the_gateway_is_whole() -> None:
    """gateway/README.md names each module and each room of the gateway, and none that is not there."""
    folder = HERE / "gateway"
    named = set(re.findall(r"(?m)`([\w/]+(?:\.py|/))`", (folder / "README.md").read_text()))
    rooms = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    modules = {path.name for path in folder.glob("*.py") if not path.name.startswith("__")}
    assert sorted((rooms | modules) - named) == []
    assert [
        name for name in sorted(named) if not list(folder.rglob(name)) and not (HERE / name).exists()
    ] == []


def test_no_forbidden_words() -> None:
    """No paths of somebody's machine, no package registries, no unfinished business."""
    forbidden = [
        r"(?<![\w.{}$])/(?:work|root|home/\w+|Users/\w+)/\w",
        "|".join(["py" + r"pi\.org", "python" + r"hosted\.org", "registry" + r"\.npmjs", "file:" + "//"]),
        "|".join(rf"\b{word}\b" for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X")),
    ]
    found = [
        f"{path.relative_to(HERE)}: {hit[0]}"
        for path in texts()
        for pattern in forbidden
        for hit in re.finditer(pattern, path.read_text(errors="replace"))
    ]
    assert found == []


def test_changelog_is_in_its_format() -> None:
    """Unreleased first, then versions with their dates, newest first, and only the six kinds of change."""
    lines = (HERE / "CHANGELOG.md").read_text().splitlines()
    assert lines[0] == "# Changelog"
    first, *releases = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert first == "[Unreleased]"
    parsed = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)] - (\d{4}-\d\d-\d\d)", release) for release in releases]
    assert all(parsed), releases
    assert all(
        tuple(map(int, a.groups()[:3])) > tuple(map(int, b.groups()[:3]))
        for a, b in pairwise(parsed)
        if a and b
    )
    kinds = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_version_stands_in_one_place() -> None:
    """gateway/__init__.py holds the version; the package, its metadata and nothing else repeat it."""
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert version("penstock") == gateway.__version__
    written = re.compile(rf"""__version__\s*=\s*["']|["']{re.escape(gateway.__version__)}["']""")
    found = [
        str(path.relative_to(HERE))
        for folder in ("adapters", "gateway")
        for path in (HERE / folder).rglob("*.py")
    ]
    assert [name for name in found if written.search((HERE / name).read_text())] == ["gateway/__init__.py"]


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_files_hold_versions_and_hashes_only(lock: str) -> None:
    """Every line is a comment, a pinned requirement or a hash; where packages come from is the installer's business."""
    requirement = r"[a-z0-9-]+(\[[a-z,]+\])?==[^\s;]+( ; .+)? \\"
    allowed = re.compile(rf"\s*#.*|{requirement}|    --hash=sha256:[0-9a-f]{{64}}( \\)?")
    lines = (HERE / lock).read_text().splitlines()
    assert [line for line in lines if not allowed.fullmatch(line)] == []
    assert [line for line in lines if re.search(r"index|find-links|://|file:", line)] == []
    assert [name for name, (_, hashes) in requirements(lock).items() if not hashes] == []


def test_lock_files_agree() -> None:
    """What the image installs is what the tests ran with: the same versions and the same hashes."""
    everything = requirements("requirements-dev.lock")
    for lock in LOCKS[:2]:
        for name, (requirement, hashes) in requirements(lock).items():
            assert str(everything[name][0].specifier) == str(requirement.specifier)
            assert everything[name][1] == hashes


def test_lock_files_fulfil_pyproject() -> None:
    """Each dependency of the project is locked, in a version that it allows."""
    groups = PYPROJECT["dependency-groups"]
    wanted = [
        ("requirements.lock", PYPROJECT["project"]["dependencies"]),
        ("requirements-build.lock", groups["build"]),
        (
            "requirements-dev.lock",
            [*groups["build"], *(item for item in groups["dev"] if isinstance(item, str))],
        ),
    ]
    for lock, dependencies in wanted:
        locked = requirements(lock)
        for dependency in map(Requirement, dependencies):
            (pin,) = locked[canonicalize_name(dependency.name)][0].specifier
            assert dependency.specifier.contains(pin.version), f"{lock}: {dependency}; make lock"


def test_installed_is_what_is_locked() -> None:
    """.venv holds the lock file's packages in the lock file's versions, and nothing else."""
    installed = {str(canonicalize_name(found.name)): found.version for found in distributions()}
    locked = {
        name: next(iter(requirement.specifier)).version
        for name, (requirement, _) in requirements("requirements-dev.lock").items()
        if not requirement.marker or requirement.marker.evaluate()
    }
    own = {"penstock": gateway.__version__, "pip": installed.get("pip")}
    assert installed == {**locked, **own}, "make clean setup"


def test_nothing_runs_at_start_that_we_do_not_know() -> None:
    """Python runs the code of .pth files at every start: only our own and setuptools' may be there."""
    folder = (
        Path(sys.prefix)
        / "lib"
        / f"python{sys.version_info.major}.{sys.version_info.minor}"
        / "site-packages"
    )
    assert {path.name for path in folder.glob("*.pth")} <= {
        "_editable_impl_penstock.pth",
        "distutils-precedence.pth",
    }


def test_the_wheel_is_complete(tmp_path: Path) -> None:
    """The wheel holds every file of both packages, data and SQL too, the licence and the command, and no tests."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=HERE, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("penstock-*-py3-none-any.whl")
    files = {
        str(path.relative_to(HERE))
        for package in ("adapters", "gateway")
        for path in (HERE / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"penstock-{gateway.__version__}.dist-info"
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert {name for name in names if not name.startswith(info)} == files
    assert {"gateway/py.typed", "adapters/py.typed"} <= files
    assert any(name.endswith(".sql") for name in files)
    assert f"{info}/licenses/LICENSE" in names
    assert "penstock = gateway.cli:main" in entry_points


def test_licence() -> None:
    """The licence is Apache-2.0 in full, and names who holds the copyright."""
    text = (HERE / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "The Penstock Authors" in text
    assert PYPROJECT["project"]["license"] == "Apache-2.0"


def test_make_describes_its_targets() -> None:
    """Each target that is meant for people has its line in `make help`."""
    makefile = (HERE / "Makefile").read_text()
    phony = re.findall(r"(?m)^\.PHONY: (.*)$", makefile)[0].split()
    assert set(phony) == set(re.findall(r"(?m)^([a-z-]+):.*?  ## \S", makefile))
    shown = subprocess.run(["make"], cwd=HERE, capture_output=True, text=True, check=True).stdout
    assert [target for target in phony if f"make {target} " not in shown] == []


def test_a_named_interpreter_is_taken_or_refused(tmp_path: Path) -> None:
    """`make setup PYTHON=…` never takes another one than it was told to."""
    for name in ("requirements-dev.lock", "pyproject.toml", "gateway/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    command = ["make", "-f", str(HERE / "Makefile"), "setup", "PYTHON=/nowhere/python3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "/nowhere/python3 is none" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_same_checks_everywhere() -> None:
    """What `make check` runs is what pre-commit runs, and .ci/run calls make."""
    recipe = re.findall(r"(?m)^check:.*\n((?:\t.*\n)+)", (HERE / "Makefile").read_text())[0]
    checks = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    hooks = yaml.safe_load((HERE / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert [hook["entry"] for hook in hooks[0]["hooks"]] == checks
    script = HERE / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert re.findall(r"\bmake \w+", script.read_text()) == ["make check", "make test"]


def test_the_environment_template_names_what_is_read() -> None:
    """Each variable of .env.template is one that the code knows."""
    names = re.findall(r"(?m)^#?([A-Z][A-Z0-9_]+)=", (HERE / ".env.template").read_text())
    code = "\n".join(
        path.read_text() for folder in ("adapters", "gateway") for path in (HERE / folder).rglob("*.py")
    )
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []


def test_without_recordings_nothing_is_skipped(tmp_path: Path) -> None:
    """Tests over recordings are taken out where there are none; a skip would hide in the count."""
    recorded = [str(path) for path in (HERE / "tests").rglob("test_*recorded*.py")]
    assert recorded
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *recorded]
    shown = subprocess.run(
        run,
        cwd=HERE,
        env={**os.environ, "RECORDINGS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode in {0, 5}, shown.stdout
    assert "deselected" in shown.stdout
    assert "skipped" not in shown.stdout
