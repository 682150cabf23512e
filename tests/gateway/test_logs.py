from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import logs
from gateway.logs import (
    LONGEST_TRACEBACK,
    QueuedHandler,
    Redactor,
    RefusalLog,
    log_requests,
    mask,
    printable,
    safe,
    scrub,
    setup,
)
from gateway.state.records import AttemptRow, make_row
from tests.gateway.rows import PLAIN, failure, row

CANARIES = [
    "sk-canary1234567890abcdefghij",
    "sk-ant-api03-Canary_canary-0123456789",
    "sk-proj-CanaryCanaryCanary",
    "AKIAIOSFODNN7CANARY1",
    "AIzaSyCanaryCanaryCanaryCanaryCanary123",
    "gsk_CanaryCanaryCanaryCanary",
    "eyJhbGciOiJIUzI1NiJ9.eyJjYW5hcnkiOjF9.c2lnbmF0dXJl",
    "ya29.a0CanaryCanaryCanary",
]
CONTEXTS = [
    "Incorrect API key provided: {}. You can find your key at https://x.example",
    '{{"error": {{"message": "bad key {}"}}}}',
    "Authorization: Bearer {}",
    "headers={{'x-api-key': '{}'}}",
    "GET https://x.example/v1?key={}&alt=sse",
    "api_key={}",
    "{}",
]
WORDS_AROUND = [
    ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
    ("postgres://litellm:hunter2@db:5432/x", "hunter2"),
    ("redis://:hunter2@cache:6379", "hunter2"),
    ('"master_key": "dev-key-change"', "dev-key-change"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI"),
    ("X-Api-Key: short1", "short1"),
    ("password: hunter2", "hunter2"),
    ("Bearer abcdefghijklmnop", "abcdefghijklmnop"),
    ("?sig=abcdef%2Bgh&x=1", "abcdef"),
]


@pytest.fixture
def speak() -> Iterator[Callable[..., list[str]]]:
    """Runs what it is given under a log set-up of its own and returns the lines that were written."""

    def run(action: Callable[[], object], *, level: str = "INFO", as_json: bool = True) -> list[str]:
        stream = io.StringIO()
        stop = setup(level, as_json=as_json, stream=stream)
        try:
            action()
        finally:
            stop()
        return stream.getvalue().splitlines()

    yield run
    logs.redactor._spellings.clear()
    logs.redactor.add()


def raise_with(text: str) -> None:
    """Log an exception whose text and whose cause both hold `text`."""
    try:
        try:
            raise ValueError(text)
        except ValueError as error:
            raise RuntimeError(f"while asking with {text}") from error
    except RuntimeError:
        logging.getLogger("penstock").exception("it failed: %s", text)


# -- no secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("context", CONTEXTS)
def test_credentials_are_recognised(canary: str, context: str) -> None:
    """What looks like a credential is masked wherever it stands, and masking twice changes nothing."""
    scrubbed = scrub(context.format(canary))
    assert canary not in scrubbed
    assert canary[8:-4] not in scrubbed
    assert scrub(scrubbed) == scrubbed


@pytest.mark.parametrize(("text", "secret"), WORDS_AROUND)
def test_secrets_known_by_the_words_around_them(text: str, secret: str) -> None:
    """A password or a key without a form of its own is known by its label."""
    assert secret not in scrub(text)


@pytest.mark.parametrize(
    "text",
    [
        "Unexpected token: } at 4",
        "prompt tokens: 512, max_tokens: 100",
        "the task-force-number of risk-averse users",
        "a key: value",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    """Messages that only sound like secrets are left alone."""
    assert scrub(text) == text


@pytest.mark.parametrize("secret", ["pass word/with+signs&more", 'quo"te\\back', "ünïcode-secret", "dev-key"])
def test_registered_secrets_in_every_spelling(secret: str) -> None:
    """A secret that was registered disappears as it is and as URLs, JSON and Python write it."""
    redactor = Redactor()
    redactor.add(secret, None, "")
    for text in logs._spellings(secret):
        assert redactor.scrub(f"before ({text}) after") == "before (***) after"


def test_short_secrets_do_not_eat_words() -> None:
    """A master key `dev` is masked where it stands alone and not inside `developer`."""
    redactor = Redactor()
    redactor.add("dev")
    assert redactor.scrub("key dev of the developer") == "key *** of the developer"


def test_a_secret_learnt_later() -> None:
    """Text that was let through before its secret was registered is masked afterwards."""
    redactor = Redactor()
    assert redactor.scrub("hello wonderland") == "hello wonderland"
    redactor.add("wonderland")
    assert redactor.scrub("hello wonderland") == "hello ***"


def test_a_secret_that_is_known() -> None:
    """A secret that was registered before changes nothing: nobody has to scrub again what is scrubbed."""
    redactor = Redactor()
    redactor.add("wonderland")
    version = redactor.version
    redactor.add("wonderland")
    assert redactor.version == version


def test_mask() -> None:
    """A long key shows its last four characters, a short one nothing."""
    assert mask("sk-1234567890abcdef") == "sk-...cdef"
    assert mask("abcdefghijklmnopqrst") == "...qrst"
    assert mask("sk-1234") == "***"


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("canary", ["sk-canary1234567890abcdefghij", "registered+canary/1"])
def test_no_canary_in_any_line(speak: Callable[..., list[str]], as_json: bool, canary: str) -> None:
    """A secret in a message, an argument, a field, an exception, its cause, a warning or a row reaches no line."""
    logs.redactor.add("registered+canary/1")

    def everything() -> None:
        log = logging.getLogger("penstock")
        log.info(canary)
        log.info("key %s", canary)
        log.info("nested", extra={"fields": {"a": {"b": [canary]}, canary: ValueError(canary)}})
        raise_with(canary)
        logging.getLogger("some.library").warning("sent %r", {"authorization": f"Bearer {canary}"})
        log_requests(
            [failure(error_message=f"no: {canary}", user_agent=canary, end_user=canary, key_alias=canary)]
        )
        RefusalLog().refused(
            reason="unauthorized", credential=canary, path=f"/v1?api_key={canary}", client_ip="::1"
        )

    text = "\n".join(speak(everything, as_json=as_json))
    assert canary not in text
    assert "traceback" in text.lower()
    assert text.count("***") + text.count("...") >= 10


def test_a_secret_where_a_traceback_is_cut(speak: Callable[..., list[str]]) -> None:
    """Of a traceback only the end is told, and of a secret that stands across the cut nothing, though half of one looks like none."""
    canary = "sk-proj-" + "C" * 60
    (line,) = speak(
        lambda: logging.getLogger("penstock").error(
            "x", exc_info=(ValueError, ValueError(canary + "\n" + "." * (LONGEST_TRACEBACK - 31)), None)
        )
    )
    told = json.loads(line)["traceback"]
    assert "CCCCC" not in told
    assert len(told) <= LONGEST_TRACEBACK


def test_a_record_that_cannot_be_formatted(
    speak: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """A broken record says that it is broken, and its content goes nowhere, not even to stderr."""
    (line,) = speak(lambda: logging.getLogger("penstock").error("%d items", "sk-canary1234567890"))
    assert json.loads(line)["message"] == "a log record could not be formatted"
    assert "canary" not in "".join(capfd.readouterr())


# -- no forged lines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "evil", ["a\r\nb", "\x1b[2J", "\u202eabc", "\u2066x", "\u2028", "\x9b31m", "\ud800", "\u200bz", "\x00"]
)
def test_unprintable_characters_show(evil: str) -> None:
    """Line breaks, terminal escapes and direction marks become visible escapes."""
    shown = printable(f"x{evil}y")
    assert shown.isprintable()
    assert "\\u" in shown
    shown.encode()


@pytest.mark.parametrize("as_json", [True, False])
def test_one_record_is_one_line(speak: Callable[..., list[str]], as_json: bool) -> None:
    """Whatever a client writes into its model or user agent, its request is one line."""
    evil = 'm\n{"level":"INFO"}\r\x1b[31m\u202e\udcff'
    lines = speak(
        lambda: log_requests([row(model_group=evil, user_agent=evil, error_message=evil, tags=(evil,))]),
        as_json=as_json,
    )
    assert len(lines) == 1
    assert lines[0].isprintable()


def test_tracebacks_cannot_forge_plain_lines(speak: Callable[..., list[str]]) -> None:
    """In plain form every line of a traceback is indented, so that none can pass for a record."""
    lines = speak(lambda: raise_with("x\n12:00:00 INFO    all is well"), as_json=False)
    assert len(lines) > 5
    assert all(line.startswith("    ") for line in lines[1:])


@given(st.text(), st.text())
def test_any_text_is_one_json_line(message: str, name: str) -> None:
    """Any message with any field gives one JSON line."""
    record = logging.LogRecord("penstock", logging.INFO, "", 0, message, None, None)
    record.fields = {name: message, "n": 10**30}
    line = logs.JsonFormat().format(record)
    assert "\n" not in line
    json.loads(line)


def test_safe_values() -> None:
    """Values keep their JSON types; what is none becomes text; endless text is cut."""
    assert safe({"a": (1, None, True, 1.5), 2: {"x"}}) == {"a": [1, None, True, 1.5], "2": ["x"]}
    assert safe(2**70) == str(2**70)
    assert safe("x" * 100_000).startswith("xxx")
    assert len(safe("x" * 100_000)) < 9_000


# -- the line of a request -------------------------------------------------------------------------------------------


def test_request_line(speak: Callable[..., list[str]]) -> None:
    """The line of a request holds what one searches for: cost_usd, model, status, tokens, ms, id and reason."""
    (line,) = speak(lambda: log_requests([row(key_digest="0123456789abcdef", key_alias="team")]))
    shown: dict[str, Any] = json.loads(line)
    assert shown["ts"].endswith("Z")
    assert (shown["level"], shown["message"], shown["id"]) == ("INFO", "request", "req-plain")
    assert (shown["model"], shown["status"], shown["reason"], shown["ms"]) == ("smart", "success", "", 800.0)
    assert shown["tokens"] == {
        "input": 15,
        "cached": 5,
        "output": 24,
        "reasoning": 4,
        "total": 39,
        "source": "reported",
    }
    assert '"cost_usd":0.123456789' in line
    assert (shown["cost_source"], shown["units"], shown["service_tier"]) == ("price", None, "")
    assert (shown["key"], shown["key_alias"]) == ("01234567", "team")


def test_what_is_no_token_is_in_the_line(speak: Callable[..., list[str]]) -> None:
    """Pictures, sound, characters and searches are said where there are any, to machines and to people."""
    one = row(images=2, searches=1, cost_source="provider", service_tier="flex")
    (line,) = speak(lambda: log_requests([one]))
    shown = json.loads(line)
    assert shown["units"] == {"images": 2, "searches": 1}
    assert (shown["cost_source"], shown["service_tier"]) == ("provider", "flex")
    (line,) = speak(lambda: log_requests([one]), as_json=False)
    assert "15+24 tokens, 2 images, 1 searches, cost $0.123457" in line


def test_failures_are_warnings(speak: Callable[..., list[str]]) -> None:
    """At level WARNING only failed requests are said; an unknown price is null."""
    (line,) = speak(lambda: log_requests([PLAIN, failure(cost_nano=None)]), level="warning")
    shown = json.loads(line)
    assert (shown["level"], shown["reason"], shown["cost_usd"]) == ("WARNING", "upstream_overloaded", None)


def test_plain_request_line(speak: Callable[..., list[str]]) -> None:
    """A person reads status, model, time, tokens, cost and the id."""
    (line,) = speak(lambda: log_requests([PLAIN]), as_json=False)
    for word in ("200", "smart", "openai/gpt-4o", "800 ms", "15+24 tokens", "cost $0.123457", "id=req-plain"):
        assert word in line


def test_where_the_time_went(speak: Callable[..., list[str]]) -> None:
    """A request that was slow or that somebody failed says it, in the words of the header; any other has no more to say."""
    one = (AttemptRow("d1", "gpt-4o", "openai", 200, "", 700),)
    slow: dict[str, Any] = {"started_at": 1.0, "attempts": one, "retries": 0, "total_us": 12_000_000}
    told = [
        "queue;dur=0.30, retries;dur=40.00, first;dur=700.00, rest;dur=59.70",
        "retries;dur=40.00, rest;dur=760.00",
    ]
    told += ["queue;dur=0.30, first;dur=700.00, rest;dur=11299.70", ""]
    rows = [PLAIN, failure(overhead_us=None), row(**slow), row(**slow | {"total_us": 800_000})]
    lines = speak(lambda: log_requests(rows))
    assert [json.loads(line)["timing"] for line in lines] == told
    plain = speak(lambda: log_requests(rows), as_json=False)
    assert [
        line.partition("  queue;")[1:] == ("  queue;", told[0].removeprefix("queue;")) for line in plain[:1]
    ] == [True]
    assert plain[3].endswith("id=req-plain")


def test_a_plain_line_of_a_stand_in(speak: Callable[..., list[str]]) -> None:
    """A person reads what was asked for, who stood in and what had failed before."""
    (line,) = speak(lambda: log_requests([row(model_group="spare", fallbacks=1)]), as_json=False)
    assert "smart → spare → openai/gpt-4o" in line
    assert "after azure/gpt-4o: 503 upstream_overloaded 40 ms" in line


def test_a_plain_line_without_a_provider(speak: Callable[..., list[str]]) -> None:
    """A request that got to no provider says its status and its reason, no tokens and no money."""
    refused = failure(provider="", model="", model_group="", http_status=404, reason="model_not_found")
    (line,) = speak(lambda: log_requests([refused]), as_json=False)
    assert "404 /v1/chat/completions smart  failure model_not_found no capacity  id=req-failed" in line


def test_refusals_are_held_back(speak: Callable[..., list[str]]) -> None:
    """A flood of refusals is one line per second and kind, which says how many were kept back."""
    now = [100.0]
    refusals = RefusalLog(clock=lambda: now[0])

    def flood() -> None:
        for second in (100.0, 100.5, 100.9, 101.1):
            now[0] = second
            refusals.refused(
                reason="unauthorized", credential="sk-1234567890abcdef", path="/v1/x", client_ip="192.0.2.1"
            )
        refusals.refused(reason="unauthorized", credential=None, path="/v1/x", client_ip="192.0.2.2")

    lines = [json.loads(line) for line in speak(flood)]
    assert [(line["client_ip"], line.get("kept_back")) for line in lines] == [
        ("192.0.2.1", None),
        ("192.0.2.1", 2),
        ("192.0.2.2", None),
    ]
    assert lines[0]["key"] == "sk-...cdef"
    assert len(refusals._seen) == 2


# -- writing ---------------------------------------------------------------------------------------------------------


class Stalled(io.StringIO):
    """A stream that takes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.gate = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        self.gate.wait()
        return super().write(text)


def test_a_stream_that_stalls_stops_nobody() -> None:
    """Records beyond the queue are dropped without waiting, and the next line that gets out says how many."""
    stream = Stalled()
    handler = QueuedHandler(stream, capacity=3)
    handler.setFormatter(logs.JsonFormat())
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "first", None, None))
    stream.reached.wait()
    for n in range(10):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, f"r{n}", None, None))
    assert handler.dropped == 7
    stream.gate.set()
    handler.stop()
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert messages == ["first", "r0", "r1", "r2", "7 log records were dropped"]


def test_a_closed_stream_stops_nobody() -> None:
    """A stream that was closed costs the records and nothing else."""
    stream = io.StringIO()
    handler = QueuedHandler(stream)
    stream.close()
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "lost", None, None))
    handler.stop()
    assert handler.dropped == 1


def test_a_stream_that_was_full() -> None:
    """What a full disk took of a line spoils none of those that find room later."""

    class Full(io.StringIO):
        is_full = True

        def write(self, text: str) -> int:
            if self.is_full:
                super().write(text[: len(text) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(text)

    stream = Full()
    handler = QueuedHandler(stream)
    handler.setFormatter(logs.JsonFormat())
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "torn", None, None))
    while not handler.dropped:
        time.sleep(0.001)
    stream.is_full = False
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "whole", None, None))
    handler.stop()
    _, *lines = stream.getvalue().splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["whole", "1 log records were dropped"]


def test_a_modest_handler_does_not_wait() -> None:
    """What a pipe that nobody reads cannot take is left out; what there is room for is written, to what is no file too."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        handler = logs.ModestHandler(pipe)
        record = logging.LogRecord("x", logging.INFO, "", 0, "hello", None, None)
        handler.emit(record)
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"-")
        os.set_blocking(writing, True)
        handler.emit(record)
    with os.fdopen(reading) as told:
        assert told.read().strip("-") == "hello\n"
    stream = io.StringIO()
    logs.ModestHandler(stream).emit(record)
    assert stream.getvalue() == "hello\n"


def test_levels(speak: Callable[..., list[str]]) -> None:
    """Our loggers follow the level; libraries speak from WARNING on, in DEBUG from INFO on."""

    def chatter() -> None:
        for name in ("penstock.x", "library"):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
                logging.getLogger(name).log(level, "%s %s", name, logging.getLevelName(level))

    def said(level: str) -> list[str]:
        return [json.loads(line)["message"] for line in speak(chatter, level=level)]

    assert said("DEBUG") == [
        *(f"penstock.x {level}" for level in ("DEBUG", "INFO", "WARNING", "ERROR")),
        *(f"library {level}" for level in ("INFO", "WARNING", "ERROR")),
    ]
    assert said("info")[:1] == ["penstock.x INFO"]
    assert said("ERROR") == ["penstock.x ERROR", "library ERROR"]


def test_json_unless_a_person_watches() -> None:
    """Lines are JSON by default and plain on a terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, is_json in ((io.StringIO(), True), (Terminal(), False)):
        stop = setup(stream=stream)
        logging.getLogger("penstock").info("hello", extra={"fields": {"n": 1}})
        stop()
        assert stream.getvalue().startswith("{") == is_json
        assert "hello" in stream.getvalue()


def test_set_up_is_undone() -> None:
    """After `stop` the standard library's logging is as it was."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("penstock").level)
    setup("DEBUG", stream=io.StringIO())()
    assert (root.level, list(root.handlers), logging.getLogger("penstock").level) == before


def test_every_field_is_json() -> None:
    """A row with nothing but an id gives a line too."""
    assert json.loads(json.dumps(logs.request_fields(make_row(id="x", started_at=0.0))))["id"] == "x"


def test_a_batch_is_a_line_each(speak: Callable[..., list[str]]) -> None:
    """Requests that are told of at once are a line each, with the level of each."""
    lines = [json.loads(line) for line in speak(lambda: log_requests([PLAIN, failure(), row("c")]))]
    assert [(line["id"], line["level"]) for line in lines] == [
        ("req-plain", "INFO"),
        ("req-failed", "WARNING"),
        ("c", "INFO"),
    ]
    assert set(lines[0]) == {"ts", "level", "logger", "message", *logs.request_fields(PLAIN)}


def test_secrets_learnt_between_lines(speak: Callable[..., list[str]]) -> None:
    """A secret that is registered after a kind of request has been said is masked in that kind's next line."""
    hidden = row(key_alias="wonderland")

    def talk() -> None:
        formatter = logs.JsonFormat()
        record = logs._request_record([hidden], logging.INFO)
        assert "wonderland" in formatter.format(record)
        logs.redactor.add("wonderland")
        assert "wonderland" not in formatter.format(record)

    speak(talk)


def test_other_handlers_get_a_record_each(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever adds a handler of the standard library's kind gets one record per request, with its level."""
    with caplog.at_level(logging.INFO, logger="penstock.request"):
        log_requests([PLAIN, failure()])
    assert [(r.getMessage(), r.levelname) for r in caplog.records] == [
        ("request", "INFO"),
        ("request", "WARNING"),
    ]
    assert '"id":"req-failed"' in logs.JsonFormat().format(caplog.records[1])


def test_a_batch_that_does_not_fit() -> None:
    """Of a batch that is larger than the room in the queue the first lines are written, and the rest is counted."""
    stream = Stalled()
    handler = QueuedHandler(stream, capacity=3)
    handler.setFormatter(logs.JsonFormat())
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "first", None, None))
    stream.reached.wait()
    handler.handle(logs._request_record([row(f"r{n}") for n in range(5)], logging.INFO))
    assert handler.dropped == 2
    stream.gate.set()
    handler.stop()
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("id") for line in told[1:4]] == ["r0", "r1", "r2"]
    assert told[4]["message"] == "2 log records were dropped"
