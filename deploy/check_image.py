"""The Dockerfile, carried out without a container engine: `make image-check`.

Not every machine that changes the Dockerfile has an engine, and a Dockerfile that nobody ran is a guess. This script reads it,
performs its steps in a clean prefix (the image's absolute paths become paths below the prefix, the base image becomes a Python
of this machine), makes the result read-only, and starts the ENTRYPOINT as the image's user, with the image's environment and
nothing else. Then it asks what an operator would ask: does it serve without arguments, does it serve with the arguments of the
documentation, does the health check tell the two states apart, does SIGTERM end it cleanly, and was anything written outside
`/data`.

What it cannot show: the base image's own contents, and other platforms. Only the instructions that our Dockerfile uses are known;
any other stops the script rather than being passed over. Started by root it becomes user 10001 as the image does; started by
anybody else it stays who it is. The package index that pip is configured with is asked for the locked wheels.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
_IMAGE_PATH = re.compile(r"(?<![\w./])/(?=(?:opt|build|app|data)\b)")
_KNOWN = {
    "ARG",
    "FROM",
    "LABEL",
    "ENV",
    "RUN",
    "COPY",
    "WORKDIR",
    "USER",
    "VOLUME",
    "EXPOSE",
    "STOPSIGNAL",
} | {
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
}


@dataclass(frozen=True)
class Instruction:
    """One line of a Dockerfile, continuation lines joined: `COPY`, `config.yaml ./`."""

    name: str
    argument: str

    @property
    def flags(self) -> dict[str, str]:
        """`--interval=30s --from=builder …` in front of the argument."""
        return dict(re.findall(r"--([a-z-]+)=(\S+)", self.argument.partition(" CMD ")[0]))

    @property
    def array(self) -> list[str]:
        """The exec form, `["penstock", "health"]`; of HEALTHCHECK the part after CMD."""
        words: list[str] = json.loads(self.argument[self.argument.index("[") :])
        return words

    @property
    def pairs(self) -> dict[str, str]:
        """The `key=value` words of ENV and LABEL."""
        return dict(word.split("=", 1) for word in shlex.split(self.argument))


def read(text: str) -> list[list[Instruction]]:
    """The Dockerfile's stages, each beginning with its FROM. What comes before the first one is left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    stages: list[list[Instruction]] = []
    for line in re.sub(r"\\\n\s*", " ", lines).splitlines():
        if not line.strip():
            continue
        name, _, argument = line.strip().partition(" ")
        if name not in _KNOWN:
            raise SystemExit(f"Dockerfile: {name} is an instruction that this script does not know")
        if name == "FROM":
            stages.append([])
        if stages:
            stages[-1].append(Instruction(name, argument.strip()))
    return stages


@dataclass
class Image:
    """What a stage came to: its files below `root`, and how it starts."""

    root: Path
    env: dict[str, str]
    workdir: str = "/"
    user: int = 0
    start: dict[str, list[str]] = field(default_factory=dict)

    def inside(self, text: str) -> str:
        """Text with the image's absolute paths moved below `root`."""
        return _IMAGE_PATH.sub(f"{self.root}/", text)

    def path(self, path: str) -> Path:
        """A path of the image, relative to its working directory, as a path of this machine."""
        return Path(self.inside(str(Path(self.workdir) / path)))


def build(stages: list[list[Instruction]], root: Path, python: Path) -> Image:
    """Carry out all stages, each in `root`: an environment's scripts name the place where it was made."""
    earlier: dict[str, Path] = {}
    for number, (first, *rest) in enumerate(stages):
        root.mkdir(mode=0o755)
        image = Image(root, {"PATH": f"{_bin_with(python, root.parent)}:/usr/bin:/bin"})
        for step in rest:
            _carry_out(step, image, earlier)
        if number < len(stages) - 1:
            name = first.argument.split(" AS ")[-1]
            earlier[name] = root.rename(root.with_name(name))
    return image


def _bin_with(python: Path, folder: Path) -> Path:
    """A folder for PATH with `python` in it; a script, so that environments are made from the real one."""
    shim = folder / "bin" / "python"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    shim.chmod(0o755)
    return shim.parent


def _carry_out(step: Instruction, image: Image, earlier: dict[str, Path]) -> None:
    print(f"  {step.name} {step.argument}"[:150], flush=True)
    match step.name:
        case "ENV":
            old = dict(image.env)
            for key, value in step.pairs.items():
                image.env[key] = image.inside(re.sub(r"\$(\w+)", lambda name: old[name[1]], value))
        case "WORKDIR":
            image.workdir = step.argument
            image.path(".").mkdir(parents=True, exist_ok=True)
        case "COPY":
            *sources, target = re.sub(r"--\S+\s+", "", step.argument).split()
            stage = earlier.get(step.flags.get("from", ""))
            leave = () if stage else ("__pycache__", "*.pyc")  # as .dockerignore does
            for source in sources:
                origin = stage / source.lstrip("/") if stage else HERE / source
                _copy(origin, image.path(target), target.endswith("/"), leave)
        case "RUN":
            command = image.inside(step.argument)
            if os.getuid():
                command = command.replace("-o 10001 -g 10001", "")
            environment = {**os.environ, "PIP_QUIET": "1", **image.env}
            subprocess.run(["/bin/sh", "-c", command], cwd=image.path("."), env=environment, check=True)
        case "USER":
            image.user = int(step.argument.split(":")[0])
        case "ENTRYPOINT" | "CMD" | "HEALTHCHECK":
            image.start[step.name] = step.array


def _copy(source: Path, target: Path, into: bool, leave: tuple[str, ...]) -> None:
    """One COPY; `into`: the target is named as a folder. `leave` are the patterns that do not come along."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(*leave))
    else:
        shutil.copy2(source, target / source.name if into else target)


def close(image: Image) -> None:
    """Make the tree what a read-only root file system is to the image's user: nothing but /data can be written."""
    data = image.root / "data"
    for folder, _, files in os.walk(image.root):
        for path in (Path(folder), *(Path(folder) / name for name in files)):
            if not path.is_symlink() and data not in (path, *path.parents):
                mode = path.stat().st_mode
                path.chmod((mode | stat.S_IRGRP | stat.S_IROTH | ((mode & stat.S_IXUSR) >> 6)) & ~0o222)


@contextmanager
def running(image: Image, *arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """The container: ENTRYPOINT with `arguments` (CMD if there are none), killed afterwards if it still runs.

    What it says is shown if something in the block goes wrong.
    """
    words = [*image.start["ENTRYPOINT"], *(arguments or image.start.get("CMD", []))]
    with tempfile.TemporaryFile("w+") as log:
        command = [image.inside(word) for word in words]
        process = subprocess.Popen(command, stdout=log, stderr=log, **_as_the_image(image, env))
        try:
            yield process
        except BaseException:
            log.seek(0)
            print(log.read()[-4000:])
            raise
        finally:
            process.kill()
            process.wait()


def _as_the_image(image: Image, env: dict[str, str]) -> dict[str, Any]:
    user = {"user": image.user, "group": image.user, "extra_groups": []} if os.getuid() == 0 else {}
    return {
        "cwd": image.path("."),
        "env": {**image.env, **env},
        "stdin": subprocess.DEVNULL,
        "text": True,
        **user,
    }


def healthy(image: Image, **env: str) -> bool:
    """What the image's HEALTHCHECK says, within the time that the Dockerfile gives it."""
    command = [image.inside(word) for word in image.start["HEALTHCHECK"]]
    asked = subprocess.run(command, timeout=5, check=False, capture_output=True, **_as_the_image(image, env))
    return asked.returncode == 0


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> bytes:
    """GET, or POST with a JSON body; waits up to the health check's start period for the server to listen."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"} if data else {}
    )
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def files(image: Image) -> set[str]:
    """All that is in the image outside of /data."""
    found = (Path(folder) / name for folder, _, names in os.walk(image.root) for name in names)
    return {str(path) for path in found if image.root / "data" not in path.parents}


def check(image: Image) -> None:
    """Start the image in each documented way and look; the first thing that is wrong ends it."""
    before = files(image)
    port = _free_port()
    with running(image, OPENAI_API_KEY="sk-check", PORT=str(port)) as process:
        _expect("serves without arguments, keys from the environment", ask(port, "/health"))
        _expect("lists the provider's models", b'"data"' in ask(port, "/v1/models"))
        _expect("the health check says healthy", healthy(image, PORT=str(port)))
        _expect("SIGTERM ends it with exit code 0", _terminate(process) == 0)
    _expect("the health check says unhealthy of nothing", not healthy(image, PORT=str(port)))
    port = _free_port()
    with running(image, "--config", "/app/config.yaml", "--port", str(port), "--detailed_debug") as process:
        _expect("serves with --config /app/config.yaml --port … --detailed_debug", ask(port, "/health"))
        question = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        _expect("streams to its end", b"data: [DONE]" in ask(port, "/v1/chat/completions", question))
        _expect("SIGTERM ends it with exit code 0", _terminate(process) == 0)
    _expect("the ledger is in /data", any((image.root / "data").iterdir()))
    _expect("nothing was written outside of /data", files(image) == before)
    scripts = {path.name for path in (image.root / "opt/penstock/bin").iterdir()}
    _expect("no installer is left in the image", not any(name.startswith("pip") for name in scripts))


def _expect(what: str, found: object) -> None:
    if not found:
        raise SystemExit(f"  NOT SO: {what}")
    print(f"  ok: {what}", flush=True)


def _terminate(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _base_python() -> Path:
    """A Python that the image's user can reach, standing for the one in the base image: this one, or the system's."""
    for name in (f"{sys.base_prefix}/bin/python3", "/usr/bin/python3", "/usr/local/bin/python3"):
        python = Path(name)
        others = (
            all(parent.stat().st_mode & stat.S_IXOTH for parent in python.resolve().parents)
            if python.exists()
            else False
        )
        if others or (python.exists() and os.getuid()):
            return python
    raise SystemExit("no Python 3.11 or newer that other users may start; install one below /usr")


def main() -> None:
    """Build and check; the prefix is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="penstock-image-") as folder:
        Path(folder).chmod(0o755)
        python = _base_python()
        print(f"Building with {python} in place of the base image", flush=True)
        image = build(read((HERE / "Dockerfile").read_text()), Path(folder) / "root", python)
        close(image)
        print("Checking", flush=True)
        check(image)


if __name__ == "__main__":
    main()
