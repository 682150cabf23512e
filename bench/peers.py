"""Who is measured: how each gateway is installed, configured and started in front of the simulated provider.

LiteLLM and Portkey are installed into `.peers/`, where git does not look, when they are asked for. A peer that cannot be had on this
machine is left out, and the results say why. Each is configured as its documentation recommends for production, with one worker,
and without what the others do not have either: no database, no cache. Penstock is measured with databases and with two workers
too, as peers of itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from bench import cases
from bench.cases import Cases
from bench.databases import Databases, databases
from bench.load import KEY
from bench.machine import ROOT

CACHE = ROOT / ".peers"
LITELLM = "1.109.1"
PORTKEY = "1.15.2"


class Missing(Exception):
    """Why a peer cannot be measured here."""


@dataclass(frozen=True)
class Peer:
    """A gateway. `pairs` are the (provider's, client's) formats that it is asked to bring together."""

    name: str
    what: str
    version: Callable[[], str]  # installs it if it must; raises Missing
    command: Callable[[int, int, Path], list[str]]  # port, the provider's port, a folder of its own
    pairs: tuple[tuple[str, str], ...] = (("openai", "openai"),)
    headers: Callable[[int], dict[str, str]] = lambda _upstream: {}
    env: Callable[[int, Path], dict[str, str]] = lambda _upstream, _folder: {}
    rows: Callable[[Path], int] | None = None  # ledger rows in its folder after it has ended
    beside: Callable[[], AbstractContextManager[Databases | None]] = nullcontext  # runs as long as it does
    measured: Cases | None = None  # instead of what all are


# -- naive -----------------------------------------------------------------------------------------------------------


def _naive(port: int, upstream: int, _folder: Path) -> list[str]:
    url = f"http://127.0.0.1:{upstream}"
    return [sys.executable, "-m", "bench.naive", "--port", str(port), "--upstream", url]


def _bare(port: int, upstream: int, _folder: Path) -> list[str]:
    return [sys.executable, "-m", "bench.bare", "--port", str(port), "--upstream", str(upstream)]


# -- Penstock --------------------------------------------------------------------------------------------------------


def _penstock(port: int, _upstream: int, _folder: Path) -> list[str]:
    binary = Path(sys.executable).with_name("penstock")
    return [str(binary), "--config", "bench/config.yaml", "--host", "127.0.0.1", "--port", str(port)]


def _two_workers(port: int, upstream: int, folder: Path) -> list[str]:
    return [*_penstock(port, upstream, folder), "--num_workers", "2"]


def penstock_env(upstream: int, folder: Path) -> dict[str, str]:
    """What bench/config.yaml reads from the environment."""
    return {"BENCH_UPSTREAM": str(upstream), "BENCH_KEY": KEY, "PENSTOCK_DATA_DIR": str(folder / "data")}


def ledger_rows(folder: Path) -> int:
    """How many requests Penstock has in its books."""
    with closing(sqlite3.connect(folder / "data" / "penstock.db")) as books:
        return int(books.execute("SELECT count(*) FROM ledger").fetchone()[0])


def names_of_rows(folder: Path) -> set[str]:
    """Of those, each one's name."""
    with closing(sqlite3.connect(folder / "data" / "penstock.db")) as books:
        return {name for (name,) in books.execute("SELECT id FROM ledger")}


# -- nginx -----------------------------------------------------------------------------------------------------------


def _nginx_version() -> str:
    if not shutil.which("nginx"):
        raise Missing("nginx is not on PATH")
    said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    return said.strip().rpartition("/")[2]


def _nginx(port: int, upstream: int, folder: Path) -> list[str]:
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error;\n"
        "worker_rlimit_nofile 65536; events { worker_connections 30000; }\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        f"  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        "  keepalive_requests 1000000000;\n"
        f"  upstream provider {{ server 127.0.0.1:{upstream}; keepalive 4096; keepalive_requests 1000000000; }}\n"
        f"  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://provider;\n"
        '    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }\n'
        "  } }\n"
    )
    return ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]


# -- LiteLLM ---------------------------------------------------------------------------------------------------------


def _litellm_version() -> str:
    folder = CACHE / "litellm"
    if not any(folder.glob(f"lib/python*/site-packages/litellm-{LITELLM}.dist-info")):
        _install([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        # What that version asks for may not be there in full yet: the newest one that resolves brings the dependencies.
        _install([*pip, f"litellm[proxy]<={LITELLM}"])
        _install([*pip, "--no-deps", f"litellm=={LITELLM}"])
    return LITELLM


def _litellm(port: int, upstream: int, folder: Path) -> list[str]:
    (folder / "litellm.yaml").write_text(
        "model_list:\n"
        f"- {{model_name: bench, litellm_params: {{model: openai/bench, api_base: 'http://127.0.0.1:{upstream}/v1', api_key: sk-upstream}}}}\n"
        f"- {{model_name: openai/*, litellm_params: {{model: openai/*, api_base: 'http://127.0.0.1:{upstream}/v1', api_key: sk-upstream}}}}\n"
        f"- {{model_name: anthropic/*, litellm_params: {{model: anthropic/*, api_base: 'http://127.0.0.1:{upstream}', api_key: sk-upstream}}}}\n"
        f"general_settings: {{master_key: {KEY}}}\n"
        "litellm_settings: {json_logs: false, set_verbose: false, request_timeout: 600, num_retries: 0}\n"
    )
    binary = str(CACHE / "litellm" / "bin" / "litellm")
    options = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    return [binary, "--config", str(folder / "litellm.yaml"), *options]


def _litellm_env(_upstream: int, _folder: Path) -> dict[str, str]:
    path = f"{CACHE / 'litellm' / 'bin'}:{os.environ['PATH']}"
    return {
        "PATH": path,
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "AIOHTTP_CONNECTOR_LIMIT": "20000",  # by default 500 connections per provider: the 501st stream would wait
        "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "20000",
    }


# -- Portkey ---------------------------------------------------------------------------------------------------------


def _portkey_version() -> str:
    folder = CACHE / "portkey"
    installed = folder / "node_modules/@portkey-ai/gateway/package.json"
    if not installed.exists() or json.loads(installed.read_text())["version"] != PORTKEY:
        if not shutil.which("npm"):
            raise Missing("npm is not on PATH")
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {"@portkey-ai/gateway": PORTKEY}
        older = {"@hono/node-server": "1.13.8"}  # with 1.17 and newer every stream answers 500
        (folder / "package.json").write_text(json.dumps({"dependencies": wanted, "overrides": older}))
        _install(["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder)])
    return PORTKEY


def _portkey(port: int, _upstream: int, _folder: Path) -> list[str]:
    start = CACHE / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    return ["node", str(start), f"--port={port}", "--headless"]


def _portkey_headers(upstream: int) -> dict[str, str]:
    return {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1"}


def _install(command: list[str]) -> None:
    print(f"    {' '.join(command)}", flush=True)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except FileNotFoundError as error:
        raise Missing(str(error)) from None
    except subprocess.TimeoutExpired:
        raise Missing(f"installing took too long: {' '.join(command[-3:])}") from None
    except subprocess.CalledProcessError as error:
        lines = re.findall(r"(?im)^.*err.*$", error.stderr) or [error.stderr.strip()[-200:]]
        raise Missing(f"cannot be installed: {lines[-1]}") from None


_TRANSLATED = (
    ("anthropic", "openai"),
    ("openai", "anthropic"),
    ("gemini", "openai"),
    ("gemini", "anthropic"),
)
_PENSTOCK = Peer(
    "penstock",
    "everything on",
    lambda: version("penstock"),
    _penstock,
    (("openai", "openai"), ("anthropic", "anthropic"), *_TRANSLATED),
    env=penstock_env,
    rows=ledger_rows,
)
PEERS = {
    peer.name: peer
    for peer in (
        Peer("nginx", "a proxy in C, buffering off", _nginx_version, _nginx),
        Peer("bare", "two protocols on uvloop, bytes as they came", lambda: version("uvloop"), _bare),
        Peer("naive", "aiohttp at both ends, no features", lambda: version("aiohttp"), _naive),
        Peer(
            "litellm",
            "master key, no database",
            _litellm_version,
            _litellm,
            (("openai", "openai"), ("anthropic", "openai")),
            env=_litellm_env,
        ),
        Peer("portkey", "no keys, no budgets", _portkey_version, _portkey, headers=_portkey_headers),
        _PENSTOCK,
        replace(
            _PENSTOCK,
            name="shared",
            what="Penstock with Redis, Postgres and a key under every limit",
            beside=databases,
            measured=cases.shared,
        ),
        replace(
            _PENSTOCK,
            name="workers",
            what="Penstock with two workers",
            command=_two_workers,
            measured=cases.workers,
        ),
    )
}
QUICK = ("nginx", "naive", "penstock")
OURS = ("penstock", "shared", "workers")
"""Whose errors are errors of Penstock."""
