from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from deploy.check_image import HERE, Image, Instruction, _copy, build, close, files, read

STAGES = read((HERE / "Dockerfile").read_text())
FINAL = STAGES[-1]


def only(name: str) -> Instruction:
    """The one instruction of this name in the final stage."""
    (found,) = [step for step in FINAL if step.name == name]
    return found


def test_two_stages() -> None:
    """What builds the image is not in it: one stage builds, the final one only copies the result."""
    assert len(STAGES) == 2
    assert STAGES[0][0].argument == "${PYTHON} AS builder"
    assert not [step for step in FINAL if step.name == "RUN" and "pip" in step.argument]


def test_only_locked_wheels() -> None:
    """Everything that is installed is a wheel whose hash is in a lock file; only our own package is not."""
    installs = [step.argument for step in STAGES[0] if " install " in step.argument]
    locked = [line for line in installs if "--require-hashes --only-binary :all: -r requirements" in line]
    assert len(locked) == 2
    (own,) = set(installs) - set(locked)
    assert "--no-deps /build/dist/penstock-" in own


def test_an_ordinary_user_and_one_writable_folder() -> None:
    """The image runs as user 10001, and all that it writes goes to /data."""
    assert only("USER").argument == "10001:10001"
    assert only("VOLUME").array == ["/data"]
    environment = only("ENV").pairs
    assert environment["PENSTOCK_DATA_DIR"] == environment["HOME"] == "/data"
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert only("RUN").argument == "install -d -o 10001 -g 10001 -m 0750 /data"


@pytest.mark.rows("C1", "C3", "C10")
def test_arguments_go_to_the_command_line() -> None:
    """Arguments of `docker run` are those of `penstock`; without any it chooses no configuration of its own."""
    assert only("ENTRYPOINT").array == ["penstock"]
    assert only("CMD").array == []
    assert only("WORKDIR").argument == "/app"
    assert only("EXPOSE").argument == "4000"
    assert only("STOPSIGNAL").argument == "SIGTERM"
    assert "ln -s penstock /opt/penstock/bin/litellm" in [step.argument for step in STAGES[0]]


@pytest.mark.rows("C6")
def test_health_check() -> None:
    """The health check is the command line's own, with the times that the deployments expect."""
    check = only("HEALTHCHECK")
    assert check.array == ["penstock", "health"]
    assert check.flags == {"interval": "30s", "timeout": "5s", "start-period": "10s", "retries": "3"}


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    """.dockerignore lets through exactly what the Dockerfile copies from the checkout."""
    copied = {
        word.removeprefix("./")
        for step in itertools.chain(*STAGES)
        if step.name == "COPY" and "from" not in step.flags
        for word in step.argument.split()[:-1]
    }
    ignore = (HERE / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert all((HERE / name).exists() for name in copied)


def test_image_labels() -> None:
    """The labels that registries show are there, and the licence is ours."""
    labels = only("LABEL").pairs
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert {"title", "description", "vendor"} <= {name.rsplit(".", 1)[1] for name in labels}


def test_paths_move_below_the_prefix() -> None:
    """The image's absolute paths, and nothing that only looks like them, are moved to where it is built."""
    image = Image(Path("/prefix"), {}, workdir="/app")
    moved = image.inside("/opt/a/bin/x --python /data ./app/y http://h/data z=/build/d:/usr/bin")
    assert (
        moved == "/prefix/opt/a/bin/x --python /prefix/data ./app/y http://h/data z=/prefix/build/d:/usr/bin"
    )
    assert image.path("./") == Path("/prefix/app")
    assert image.path("/data") == Path("/prefix/data")


def test_an_unknown_instruction_stops_it() -> None:
    """An instruction that the script cannot carry out is named instead of being passed over."""
    with pytest.raises(SystemExit, match="ONBUILD"):
        read("FROM x\nONBUILD RUN true\n")


def test_steps_are_carried_out(tmp_path: Path) -> None:
    """Stages, environment, copies and commands come to the tree that an engine would make, closed for writing."""
    stages = read(
        "FROM base AS builder\nWORKDIR /build\nRUN mkdir /opt && \\\n    echo made > /opt/file\n"
        "FROM base\n# a comment\nENV A=1\nENV B=/data/$A\nRUN mkdir -p /data /app && echo $B > /app/b\n"
        'COPY --from=builder /opt /opt\nWORKDIR /app\nCOPY LICENSE ./\nUSER 7:7\nENTRYPOINT ["x"]\n'
    )
    image = build(stages, tmp_path / "root", Path("/no/python"))
    close(image)
    root = tmp_path / "root"
    assert files(image) == {f"{root}/opt/file", f"{root}/app/b", f"{root}/app/LICENSE"}
    assert (root / "opt/file").read_text() == "made\n"
    assert (root / "app/b").read_text() == f"{root}/data/1\n"
    assert (image.user, image.start) == (7, {"ENTRYPOINT": ["x"]})
    assert not (root / "app/b").stat().st_mode & 0o222
    assert (root / "data").stat().st_mode & 0o200
    for folder in (root, *root.iterdir()):
        folder.chmod(0o755)


def test_copies_leave_what_is_ignored(tmp_path: Path) -> None:
    """Compiled files of the checkout do not come along."""
    source = tmp_path / "package"
    (source / "__pycache__").mkdir(parents=True)
    (source / "module.py").touch()
    _copy(source, tmp_path / "copy", into=False, leave=("__pycache__",))
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["module.py"]
