"""Where a configuration comes from: read again as it was read, and whether its files are still what was read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.config.problems import ConfigInvalid
from gateway.config.seen import Seen
from gateway.config.source import Source, Watch

MODEL = "model_list:\n  - {model_name: a, litellm_params: {model: openai/a, api_key: os.environ/KEY}}\n"


def test_order_of_precedence(tmp_path: Path) -> None:
    """Flags win over `environment_variables`, which win over the environment; what the command line adds is added."""
    path = tmp_path / "config.yaml"
    path.write_text("environment_variables: {LITELLM_HOST: host.of.file, LITELLM_PORT: 1234}\n")
    source = Source(
        path,
        {"LITELLM_HOST": "host.of.environment", "LITELLM_PORT": "99"},
        told={"LITELLM_PORT": "4321"},
        amend=lambda config: replace(config, router=replace(config.router, num_retries=9)),
    )
    written = source.read()
    assert (written.environment.host, written.environment.port) == ("host.of.file", 4321)
    assert written.config.router.num_retries == 9


def test_the_environment_is_that_of_the_start(tmp_path: Path) -> None:
    """`os.environ/` is resolved again, from the environment that the process began with."""
    path = tmp_path / "config.yaml"
    path.write_text("")
    source = Source(path, {"KEY": "wq-source-47113"})
    source.read()
    path.write_text(MODEL)
    (entry,) = source.read_again({}).config.model_list
    assert entry.params.api_key is not None
    assert entry.params.api_key.reveal() == "wq-source-47113"


@pytest.mark.parametrize("environ", [{"LITELLM_PORT": "many"}, {"NUM_WORKERS": "2"}])
def test_what_a_start_refuses(tmp_path: Path, environ: dict[str, str]) -> None:
    """A variable that cannot be read, and limits that workers cannot share, are refused when it is read."""
    path = tmp_path / "config.yaml"
    path.write_text("general_settings: {rpm_limit: 3}\n")
    with pytest.raises(ConfigInvalid):
        Source(path, environ).read()


def test_an_empty_file(tmp_path: Path) -> None:
    """An empty file is a configuration at the start, and a mistake afterwards."""
    path = tmp_path / "config.yaml"
    path.write_text("\n")
    source = Source(path, {})
    assert source.read().config.model_list == ()
    seen: Seen = {}
    with pytest.raises(ConfigInvalid, match="is empty"):
        source.read_again(seen)
    assert not Watch(seen).has_changed()


def test_a_pipe_is_read_once() -> None:
    """What a pipe has said is the configuration, of which its digest tells; nobody looks there again, and who asks is told."""
    reader, writer = os.pipe()
    os.write(writer, MODEL.encode())
    os.close(writer)
    source = Source(Path(f"/dev/fd/{reader}"), {"KEY": "k"})
    written = source.read()
    assert [entry.model_name for entry in written.config.model_list] == ["a"]
    assert written.digest != Source(None, {}).read().digest
    assert not Watch(written.seen).has_changed()
    with pytest.raises(ConfigInvalid, match="is a pipe and cannot be read again"):
        source.read_again({})
    os.close(reader)


def test_the_digest(tmp_path: Path) -> None:
    """The digest tells contents apart, and nothing else."""
    path = tmp_path / "config.yaml"
    path.write_text(MODEL)
    source = Source(path, {"KEY": "wq-source-47113"})
    first = source.read().digest
    os.utime(path, (1, 1))
    assert source.read().digest == first
    path.write_text(MODEL + "\n")
    assert source.read().digest != first


def test_watch(tmp_path: Path) -> None:
    """Content counts, not the time of writing; a file that comes, goes or is another one is a change."""
    path, models = tmp_path / "config.yaml", tmp_path / "models"
    path.write_text(MODEL)
    source = Source(path, {"KEY": "wq-source-47113"})
    watch = Watch(source.read().seen)
    assert not watch.has_changed()
    path.write_text(MODEL)
    os.utime(path, (1, 1))
    assert not watch.has_changed()
    assert not watch.has_changed()  # by its state alone
    path.write_text(MODEL.replace("a", "b", 1))
    assert watch.has_changed()
    path.write_text(MODEL)
    assert not watch.has_changed()
    models.mkdir()
    (models / "notes.txt").write_text("")
    assert not watch.has_changed()
    (models / "more.yaml").write_text("")
    assert watch.has_changed()
    (models / "more.yaml").unlink()
    path.unlink()
    assert watch.has_changed()


def test_what_could_not_be_read_is_watched_too(tmp_path: Path) -> None:
    """An included file that is missing is a mistake, and is noticed when it comes."""
    path = tmp_path / "config.yaml"
    path.write_text("include: [more.yaml]\n")
    seen: Seen = {}
    with pytest.raises(ConfigInvalid):
        Source(path, {}).read(seen)
    watch = Watch(seen)
    assert not watch.has_changed()
    (tmp_path / "more.yaml").write_text(MODEL)
    assert watch.has_changed()
    assert watch.now()[str(tmp_path / "more.yaml")]
