"""Nanoseconds per operation of what a request and a chunk go through: `python -m bench.micro`.

Each case is a function that sets up and returns the operation. It runs so often that a repetition takes a few hundredths of a second of CPU
time; the best of the repetitions is shown, as nothing makes code faster than it is. A figure here says where time goes; what
it amounts to, `bench.run` says.

    python -m bench.micro               all
    python -m bench.micro chunk sqlite  those with one of the words in their name
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Raw, Struct
from multidict import CIMultiDict

from adapters import CLIENTS, FORMATS, PROVIDERS, SAME
from adapters.envelope import open_envelope, seal
from adapters.framing import SseCutter
from adapters.taps import Passthrough, Tap, Translation
from adapters.types import Target, Usage
from bench.alone import Alone
from bench.load import Question
from bench.machine import chosen
from bench.provider import ANTHROPIC, GEMINI, OPENAI, Dialect
from gateway.background.ledger import Ledger
from gateway.background.limiter import Limiter
from gateway.config.load import load
from gateway.endpoints import ENDPOINTS
from gateway.exchange import Hold
from gateway.inbound import NO_CONTROLS, Controls, Endpoint, Head
from gateway.keyring import ANONYMOUS, Caller
from gateway.limits import Settings
from gateway.logs import JsonFormat
from gateway.metrics import Metrics
from gateway.pricing import Price, PriceTable
from gateway.routes import Deployment, Route, compile_routes
from gateway.routing.health import Health
from gateway.routing.router import Router
from gateway.routing.strategies import STRATEGIES
from gateway.state.journal import Intent, Journal
from gateway.state.keys import BudgetLimit, KeyRow
from gateway.state.records import AttemptRow, LedgerRow, make_row
from gateway.state.records_memory import MemoryRecords
from gateway.state.records_sqlite import SqliteRecords
from gateway.state.shared_memory import MemoryShared

Operation = Callable[[], object]
Case = Callable[[], tuple[Operation, int]]
"""What sets up; the operation, and how many of the things that are counted it does at once."""

BATCH = 500
_DIALECTS = {"openai": OPENAI, "anthropic": ANTHROPIC, "gemini": GEMINI}
_BODY = Question("http://127.0.0.1", "bench", 20).encode().partition(b"\r\n\r\n")[2]


def target(name: str) -> Target:
    """A model at a provider."""
    provider = PROVIDERS[name]
    return Target(provider=provider, model="bench", base_url="http://127.0.0.1:9000", max_output_tokens=4096)


def chunks_of(dialect: Dialect) -> list[bytes]:
    """Some chunks of one stream, each as it is read from a socket."""
    return [dialect.chunk % (number, time.monotonic_ns()) for number in range(100)]


def fed(tap: Tap | SseCutter, dialect: Dialect) -> tuple[Operation, int]:
    """Feeding the tap with chunks, after the stream's opening."""
    chunks = chunks_of(dialect)
    tap.feed(dialect.opening)
    again = None if isinstance(tap, SseCutter) else tap.again

    def feed() -> None:
        for chunk in chunks:
            if again is None or not again(chunk):
                tap.feed(chunk)

    return feed, len(chunks)


# -- chunks ----------------------------------------------------------------------------------------------------------


def cutter() -> tuple[Operation, int]:
    return fed(SseCutter(), OPENAI)


def passthrough(name: str) -> Case:
    def case() -> tuple[Operation, int]:
        editor = SAME[name, name].pass_stream(target(name), "chat", model="mine", wants_usage=False)
        return fed(Passthrough(SseCutter(), editor), _DIALECTS[name])

    return case


def translation(provider: str, client: str) -> Case:
    def case() -> tuple[Operation, int]:
        request = CLIENTS[client].read_request(open_envelope(_BODY))
        reader = FORMATS[provider].read_stream(request, target(provider))
        writer = CLIENTS[client].write_stream(answer_id="a", model="mine", now=1, wants_usage=False)
        return fed(Translation(SseCutter(), reader, writer), _DIALECTS[provider])

    return case


# -- requests --------------------------------------------------------------------------------------------------------


def opened() -> tuple[Operation, int]:
    return lambda: open_envelope(_BODY), 1


def sealed() -> tuple[Operation, int]:
    envelope = open_envelope(_BODY)
    return lambda: seal(envelope), 1


def pass_request(name: str) -> Case:
    def case() -> tuple[Operation, int]:
        envelope, to = open_envelope(_BODY), target(name)
        return lambda: SAME[name, name].pass_request(envelope, to, "chat", stream=False), 1

    return case


def pass_response(name: str) -> Case:
    def case() -> tuple[Operation, int]:
        body, to = _DIALECTS[name].whole, target(name)
        return lambda: SAME[name, name].pass_response(body, to, "chat", model="mine"), 1

    return case


def write_request(client: str, provider: str) -> Case:
    def case() -> tuple[Operation, int]:
        request, to = CLIENTS[client].read_request(open_envelope(_BODY)), target(provider)
        return lambda: FORMATS[provider].write_request(request, to), 1

    return case


def route() -> tuple[Operation, int]:
    config = load(Path(__file__).with_name("config.yaml"), {}).config
    routes = compile_routes(config, {}, PriceTable.load())
    return lambda: routes.find("bench"), 1


class Asking(Struct, eq=False):
    """What a limiter looks at of an exchange."""

    caller: Caller
    plan: tuple[Route, ...]
    envelope: dict[str, Raw]
    endpoint: Endpoint
    body_size: int = len(_BODY)
    wall: float = 1_795_262_400.0
    usage: Usage = Usage(input=120, output=20)
    cost: int = 123_456
    deployment: Deployment | None = None
    end_user: str | None = None
    hold: Hold | None = None
    id: str = ""
    model: str = "bench"
    wants_stream: bool = False


class Choosing(Struct):
    """What a router looks at of an exchange."""

    http: Head
    envelope: dict[str, Raw]
    caller: Caller | None = ANONYMOUS
    controls: Controls = NO_CONTROLS
    wants_stream: bool = False


def choice(size: int = 0, *, deployments: int = 3, limits: str = "", settings: str = "{}") -> Case:
    """Choosing one of several deployments, for a chat of so many bytes; `limits` are those of each."""

    def case() -> tuple[Operation, int]:
        entry = f"{{model_name: m, litellm_params: {{model: openai/gpt-4o, api_key: k, {limits}}}}}"
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(f"model_list: [{', '.join([entry] * deployments)}]\nrouter_settings: {settings}\n")
            file.flush()
            config = load(Path(file.name), {}).config
        found = compile_routes(config, {}, PriceTable.load()).find("m")
        assert found
        health = Health()
        for position, one in enumerate(found.deployments):  # all that strategies look at
            health.began(one.id, 100.0)
            health.succeeded(one.id, 100.0, 1.0 + position / 10, per_token=0.01)
            health.used(one.id, 100.0, Usage(input=1))
        router = Router(config.router, health)
        chat = next(one for one in ENDPOINTS if one.path == "/v1/chat/completions")
        messages = msgspec.json.encode([{"role": "user", "content": "word " * (size // 5)}])
        head = Head(chat, CIMultiDict(), remote=None, keep_alive=True)
        x = Choosing(head, {"messages": Raw(messages)})
        if router.affinity is not None:
            router.affinity.remember(x, found.deployments[0].id, 100.0)
        return lambda: router.choose(found, x, 101.0), 1

    return case


def admission(limited: str | None) -> Case:
    """All that limits add to a request."""

    def case() -> tuple[Operation, int]:
        config = load(Path(__file__).with_name("config.yaml"), {}).config
        found = compile_routes(config, {}, PriceTable.load()).find("bench")
        assert found
        price = Price(input=2_500 * 10**6, output=10_000 * 10**6, cache_write=3_000 * 10**6)
        deployment = msgspec.structs.replace(found.deployments[0], price=price)
        key = KeyRow(
            digest="a" * 64,
            name="sk-...",
            budgets=(BudgetLimit(10**15, "30d"),),
            rpm_limit=10**9,
            tpm_limit=10**12,
            max_parallel_requests=1_000,
        )
        caller = Caller("key", key.digest, None, key) if limited else ANONYMOUS
        endpoint = next(one for one in ENDPOINTS if one.path == "/v1/chat/completions")
        x = Asking(
            caller, (Route("bench", (deployment,)),), open_envelope(_BODY), endpoint, deployment=deployment
        )
        records = MemoryRecords()
        limiter = Limiter(Settings(), MemoryShared(), records, Ledger(records))
        asyncio.run(_admit(limiter, x))

        def admit() -> None:
            if limiter.binds(x.caller):
                with suppress(StopIteration):
                    limiter.admit(x).send(None)  # type: ignore[arg-type]  # it has all that is looked at
            limiter.settle(x)  # type: ignore[arg-type]  # as above

        return admit, 1

    return case


async def _admit(limiter: Limiter, x: Asking) -> None:
    """The first one makes the counter."""
    if limiter.binds(x.caller):
        await limiter.admit(x)  # type: ignore[arg-type]  # as above
    limiter.settle(x)  # type: ignore[arg-type]  # as above
    await asyncio.sleep(0.01)


# -- afterwards ------------------------------------------------------------------------------------------------------


ROW = make_row(
    id="",
    call_id="",
    answer_id="chatcmpl-bench0001",
    started_at=1_795_262_400.0,
    endpoint="/v1/chat/completions",
    operation="chat",
    client_format="openai",
    stream=False,
    provider="openai",
    provider_format="openai",
    model_requested="bench",
    model_group="bench",
    model="bench",
    deployment_id="d1",
    api_base="http://127.0.0.1:9000",
    client_ip="127.0.0.1",
    http_status=200,
    finish="stop",
    input=120,
    output=20,
    usage_source="reported",
    cost_nano=123_456,
    price_source="table",
    attempts=(AttemptRow("d1", "bench", "openai", 200, "", 1),),
    ttfb_us=900,
    total_us=1_000,
    overhead_us=100,
)


def some_rows(begin: int = 0) -> list[LedgerRow]:
    """Rows as the ledger hands them on."""
    names = [f"{begin + number:036d}" for number in range(BATCH)]
    return [msgspec.structs.replace(ROW, id=name, call_id=name) for name in names]


def observed() -> tuple[Operation, int]:
    metrics, rows = Metrics("0"), some_rows()
    return lambda: metrics.observe(rows), BATCH


def logged() -> tuple[Operation, int]:
    formatter = JsonFormat()
    record = logging.LogRecord("penstock.requests", logging.INFO, "", 0, "request", None, None)
    record.rows = some_rows()
    return lambda: formatter.format(record), BATCH


def stored() -> tuple[Operation, int]:
    batches = [some_rows(number * BATCH) for number in range(20)]

    async def write(path: Path) -> None:
        records = SqliteRecords(path)
        for rows in batches:
            await records.append(rows)
        await records.close()

    def fill() -> None:  # opening the file is a twentieth of it
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(write(Path(folder) / "ledger.db"))

    return fill, 20 * BATCH


def journaled() -> tuple[Operation, int]:
    rows = some_rows()

    def fill() -> None:
        with tempfile.TemporaryDirectory() as folder:
            journal = Journal(Path(folder))
            for number in range(1, 21):
                journal.write(rows, number)
            journal.close(20)

    return fill, 20 * BATCH


def offered() -> tuple[Operation, int]:
    rows = some_rows()

    async def offer() -> None:
        ledger = Ledger(MemoryRecords(), journal=Journal(Path("unused")))
        for row in rows:
            ledger.offer(row)

    return lambda: asyncio.run(offer()), BATCH


def intended() -> tuple[Operation, int]:
    rows = some_rows()
    intents = [Intent(id=row.id, amount=1, key_digest="d", kind=row.kind) for row in rows]

    async def offer() -> None:
        ledger = Ledger(MemoryRecords(), journal=Journal(Path("unused")))
        for row, intent in zip(rows, intents, strict=True):
            ledger.intent(intent)
            ledger.offer(row)

    return lambda: asyncio.run(offer()), BATCH


CASES: dict[str, Case] = {
    "chunk: cut": cutter,
    "chunk: OpenAI passed on": passthrough("openai"),
    "chunk: Anthropic passed on": passthrough("anthropic"),
    "chunk: Anthropic to OpenAI": translation("anthropic", "openai"),
    "chunk: OpenAI to Anthropic": translation("openai", "anthropic"),
    "chunk: Gemini to OpenAI": translation("gemini", "openai"),
    "chunk: Gemini to Anthropic": translation("gemini", "anthropic"),
    "request: open_envelope": opened,
    "request: seal": sealed,
    "request: pass_request, OpenAI": pass_request("openai"),
    "request: pass_request, Anthropic": pass_request("anthropic"),
    "request: write_request, OpenAI to Anthropic": write_request("openai", "anthropic"),
    "request: write_request, Anthropic to OpenAI": write_request("anthropic", "openai"),
    "request: write_request, OpenAI to Gemini": write_request("openai", "gemini"),
    "request: route": route,
    "request: all of it, Python alone": lambda: Alone().requests(),
    "request: the same from a traced SDK": lambda: Alone().requests(traced=True),
    "request: settle": lambda: Alone().settles(),
    **{
        f"routing: {strategy}, one of {count}": choice(
            deployments=count, settings=f"{{routing_strategy: {strategy}}}"
        )
        for strategy in STRATEGIES
        for count in (1, 3, 10)
    },
    "routing: one of three, no limits": choice(),
    "routing: one of three, rpm, tpm, parallel": choice(limits="rpm: 9, tpm: 9, max_parallel_requests: 9"),
    "routing: one of three, by tags": choice(
        limits="tags: [default]", settings="{enable_tag_filtering: true}"
    ),
    "routing: one of three, a budget": choice(limits="max_budget: 9, budget_duration: 1d"),
    "routing: one of three, affinity, short": choice(settings="{prompt_cache_affinity: true}"),
    "routing: one of three, affinity, 5 kB": choice(5_000, settings="{prompt_cache_affinity: true}"),
    "routing: one of three, affinity, 100 kB": choice(100_000, settings="{prompt_cache_affinity: true}"),
    "answer: pass_response, OpenAI": pass_response("openai"),
    "answer: pass_response, Anthropic": pass_response("anthropic"),
    "request: admitted and settled, no limit": admission(None),
    "request: admitted and settled, key with a budget, rpm, tpm, parallel": admission("key"),
    "row: made": lambda: (some_rows, BATCH),
    "row: metrics": observed,
    "row: log line": logged,
    "row: in SQLite": stored,
    "row: in the journal": journaled,
    "row: offered": offered,
    "row: offered, with an intent": intended,
}


def best_ns(operation: Operation, things: int, repetitions: int = 7, seconds: float = 0.03) -> float:
    """CPU nanoseconds for one thing: the best of the repetitions."""
    begin = time.process_time()
    operation()
    once = max(1e-7, time.process_time() - begin)
    times = max(1, int(seconds / once))
    best = float("inf")
    for _ in range(repetitions):
        begin = time.process_time()
        for _ in range(times):
            operation()
        best = min(best, time.process_time() - begin)
    return best / times / things * 1e9


def main() -> None:
    """Print a line for each case, as JSON too if it is asked for with `--json`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="cases with one of these words in their name")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {name: best_ns(*CASES[name]()) for name in chosen(parser, CASES, arguments.words)}
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for name, nanoseconds in found.items():
        print(f"{name:46} {nanoseconds:10,.0f} ns")


if __name__ == "__main__":
    main()
