"""The commands of the documents, run as they are written: only where they lead is replaced.

`curl` runs them where there is one. Elsewhere `interpreted` sends what curl would send, for the few options that the
documents use; `test_commands` compares the two.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from string import Template
from typing import Any

import aiohttp

CURL = shutil.which("curl")
_URL = re.compile(r"https?://[^/\s\"]+")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def aimed(command: str, url: str, master_key: str = "") -> str:
    """The command with the gateway's address, and the key in the place of `<MASTER_KEY>`."""
    return _URL.sub(url, command).replace("<MASTER_KEY>", master_key)


async def curl(command: str, url: str, master_key: str = "") -> Answer:
    """Run it against a gateway; `$LITELLM_MASTER_KEY` and other keys in it are variables of its shell."""
    aim = aimed(command, url, master_key)
    environ = {"LITELLM_MASTER_KEY": master_key, "ANTHROPIC_API_KEY": master_key}
    return await (by_curl if CURL else interpreted)(aim, environ)


async def by_curl(command: str, environ: Mapping[str, str]) -> Answer:
    """In a shell."""
    out = await run("bash", "-c", f"{command} -s -w '\\n%{{http_code}}'", environ=environ)
    text, _, status = out.rpartition("\n")
    return Answer(int(status), text)


async def interpreted(command: str, environ: Mapping[str, str]) -> Answer:
    """Without curl: `-X`, `-H` and `-d` mean what they mean there."""
    method, url, headers, body = "", "", dict[str, str](), None
    words = iter(shlex.split(Template(command.replace("\\\n", " ")).safe_substitute(environ))[1:])
    for word in words:
        match word:
            case "-X":
                method = next(words)
            case "-H":
                name, _, value = next(words).partition(":")
                headers[name.lower()] = value.strip()
            case "-d":
                body = next(words)
                headers.setdefault("content-type", "application/x-www-form-urlencoded")
            case _:
                url = word
    method = method or ("GET" if body is None else "POST")
    async with (
        aiohttp.ClientSession(skip_auto_headers=["content-type"]) as session,
        session.request(method, url, headers=headers, data=body) as response,
    ):
        return Answer(response.status, await response.text())


async def python(code: str, url: str) -> str:
    """What a program of a document prints, with the gateway's address in it."""
    return await run(sys.executable, "-c", _URL.sub(url, code), environ={})


async def run(*words: str, environ: Mapping[str, str]) -> str:
    """What a program prints. Raises AssertionError if it fails."""
    program = await asyncio.create_subprocess_exec(
        *words,
        env={"PATH": os.environ["PATH"], **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await program.communicate()
    assert program.returncode == 0, err.decode()
    return out.decode()
