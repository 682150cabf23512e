"""What clients notice of deployments in trouble, and what providers do: `python -m bench.failing`.

A gateway of its own shares requests at a steady rate among three deployments, each a server here that counts what it is asked and
can answer with an error, or late. Requests begin on time, whether or not earlier ones have ended.

    python -m bench.failing                        every scene: 200 requests a second for 30 s each, about four minutes
    python -m bench.failing one --rate 50          scenes with this word in their name

`asked` is what the three were asked in all over what was offered: 1.00 asks nobody twice. The exit code is 1 if a client saw an
error in a scene in which somebody could answer, or if more than 1.2 times was asked.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web
from msgspec import Struct, field

from bench.load import KEY, Question
from bench.machine import amount, chosen, clean_up_when_told, free_port, started, wait_for

MOST_ASKED = 1.2
_QUICK = 0.02
_LATE = 10 * _QUICK
_WHOLE = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}'
)
_ERROR = b'{"error":{"message":"The server is overloaded","type":"server_error"}}'


class Scene(Struct, frozen=True):
    """What is wrong with each of the three: `ok`, `error` (503) or `late` (ten times slower), and how the load is shared."""

    name: str
    states: tuple[str, str, str]
    strategy: str = "simple-shuffle"

    @property
    def is_answerable(self) -> bool:
        """Somebody can answer."""
        return any(state != "error" for state in self.states)


SCENES = (
    Scene("all are well", ("ok", "ok", "ok")),
    Scene("one of three fails", ("error", "ok", "ok")),
    Scene("one of three fails, least busy", ("error", "ok", "ok"), "least-busy"),
    Scene("all fail", ("error", "error", "error")),
    Scene("brown-out of one, shuffled", ("late", "ok", "ok")),
    Scene("brown-out of one, by latency", ("late", "ok", "ok"), "latency-based-routing"),
    Scene("brown-out of one, least busy", ("late", "ok", "ok"), "least-busy"),
)


class Deployment(Struct):
    """A server that is in the scene's trouble as soon as it is told so."""

    state: str = "ok"
    asked: list[float] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(time.monotonic())
        await request.read()
        if self.state == "error":
            return web.Response(status=503, body=_ERROR, content_type="application/json")
        await asyncio.sleep(_LATE if self.state == "late" else _QUICK)
        return web.Response(body=_WHOLE, content_type="application/json")


class Outcome(Struct):
    """What came of a scene."""

    scene: Scene
    offered: int
    errors: int
    seconds: list[float]
    asked: int
    share: float
    """Of the last third, what the first deployment was asked."""

    @property
    def is_kept(self) -> bool:
        """The promise."""
        return self.asked <= MOST_ASKED * self.offered and not (self.errors and self.scene.is_answerable)

    def line(self) -> str:
        """One row of the table."""
        ordered = sorted(self.seconds) or [0.0]
        p50, p99 = (ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1000 for part in (0.5, 0.99))
        return (
            f"{self.scene.name:32} {self.offered:8} {self.errors:7} {self.asked / self.offered:6.2f}"
            f" {p50:7.1f} {p99:7.1f} {self.share:12.1%}  {'' if self.is_kept else 'NOT KEPT'}"
        )


async def play(scene: Scene, rate: float, seconds: float) -> Outcome:
    """One scene with a gateway of its own. The trouble begins when a tenth of the time is over."""
    deployments = [Deployment() for _ in range(3)]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        ports = [await _serve(stack, deployment) for deployment in deployments]
        config = folder / "config.yaml"
        config.write_text(_config(scene, ports))
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "gateway",
            "--config",
            str(config),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        process = stack.enter_context(
            started(command, 0, folder, {"PENSTOCK_DATA_DIR": str(folder / "data")})
        )
        url = f"http://127.0.0.1:{port}"
        await asyncio.to_thread(wait_for, Question(url, "bench").is_answered, process, folder)
        for deployment in deployments:
            deployment.asked.clear()
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(url, connector=connector))
        return await _ask(scene, session, deployments, rate, seconds)


async def _serve(stack: AsyncExitStack, deployment: Deployment) -> int:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", deployment.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port: int = runner.addresses[0][1]
    return port


def _config(scene: Scene, ports: Sequence[int]) -> str:
    entries = "\n".join(
        f"  - {{model_name: bench, litellm_params: {{model: openai/{name}, api_key: sk-upstream,"
        f' api_base: "http://127.0.0.1:{port}/v1"}}}}'
        for name, port in zip("abc", ports, strict=True)
    )
    return (
        f"model_list:\n{entries}\nrouter_settings: {{routing_strategy: {scene.strategy}}}\n"
        f"general_settings: {{master_key: {KEY}}}\n"
    )


async def _ask(
    scene: Scene,
    session: aiohttp.ClientSession,
    deployments: Sequence[Deployment],
    rate: float,
    seconds: float,
) -> Outcome:
    outcome = Outcome(scene, round(rate * seconds), 0, [], 0, 0.0)
    body = {"model": "bench", "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {KEY}"}

    async def one(at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        begin = time.monotonic()
        try:
            async with session.post("/v1/chat/completions", json=body, headers=headers) as response:
                await response.read()
        except (aiohttp.ClientError, TimeoutError):
            outcome.errors += 1
        else:
            outcome.errors += response.status != 200
        outcome.seconds.append(time.monotonic() - begin)

    start = time.monotonic()

    async def trouble() -> None:
        await asyncio.sleep(seconds / 10)
        for deployment, state in zip(deployments, scene.states, strict=True):
            deployment.state = state

    async with asyncio.TaskGroup() as group:
        group.create_task(trouble())
        for number in range(outcome.offered):
            group.create_task(one(start + number / rate))
    outcome.asked = sum(len(deployment.asked) for deployment in deployments)
    late = start + seconds * 2 / 3
    counts = [sum(at >= late for at in deployment.asked) for deployment in deployments]
    outcome.share = counts[0] / max(1, sum(counts))
    return outcome


async def run(scenes: Sequence[Scene], rate: float, seconds: float) -> int:
    """All scenes, one after the other; the exit code is 1 if one did not keep the promise."""
    print(
        f"{'scene':32} {'offered':>8} {'errors':>7} {'asked':>6} {'p50 ms':>7} {'p99 ms':>7} {'first, late':>12}",
        flush=True,
    )
    outcomes = []
    for number, scene in enumerate(scenes, 1):
        print(f"  {number} of {len(scenes)}, {seconds:g} s: {scene.name}", file=sys.stderr)
        outcomes.append(await play(scene, rate, seconds))
        print(outcomes[-1].line(), flush=True)
    return 0 if all(outcome.is_kept for outcome in outcomes) else 1


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="What clients notice of deployments in trouble.")
    parser.add_argument("words", nargs="*", help="scenes with one of these words in their name")
    parser.add_argument("--rate", type=amount, default=200.0, help="requests per second")
    parser.add_argument("--seconds", type=amount, default=30.0, help="length of each scene")
    arguments = parser.parse_args()
    names = chosen(parser, [scene.name for scene in SCENES], arguments.words)
    scenes = [scene for scene in SCENES if scene.name in names]
    clean_up_when_told()
    sys.exit(uvloop.run(run(scenes, arguments.rate, arguments.seconds)))


if __name__ == "__main__":
    main()
