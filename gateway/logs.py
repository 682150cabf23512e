r"""What the gateway says: one line per request and per event, never a secret, never a forged line.

**One line.** JSON unless a person is watching (stderr is a terminal). Requests come from the ledger's rows, so a line, a
metric and a bill are the same numbers: `log_requests` is a listener of the ledger. Any other record may carry
`extra={"fields": {...}}`, which become keys of its line.

**No secrets.** Everything passes `scrub` on its way out, tracebacks included: secrets that were registered (`redactor.add`:
the keys of providers, the master key, passwords) in the spellings in which they turn up, and whatever looks like a
credential, because providers like to quote the key that they refuse. Error messages for clients and for the ledger go
through the same function.

**No forged lines.** Model names, user agents and error texts are other people's words. Line breaks, terminal escapes and
characters that turn the reading direction are written as visible escapes (`\u202e`).

**Off the loop.** Records go into a queue and a thread writes them; a terminal or a collector that does not read cannot
stop the gateway, nor keep it from ending. The queue is bounded, and what it dropped is said in a line of its own.

**In batches.** The requests that the ledger tells of at once are one record for our own handler, one wake-up of the thread
and one write; what all requests of a kind have in their lines is encoded once. Any other `logging.Handler` gets a record for
each request.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import queue
import re
import select
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import quote, quote_plus

import msgspec
import orjson

from adapters.types import NO_UNITS
from gateway.config.model import PROVIDER_KEY
from gateway.state.records import UNITS, Kind, LedgerRow, usd

log = logging.getLogger("penstock")
requests = logging.getLogger("penstock.request")

LONGEST_MESSAGE = 8_192
LONGEST_TRACEBACK = 32_768
_QUEUE = 10_000
_SHORT_SECRET = 8
_SHORT_TEXT = 200
_REMEMBERED = 2_000
_MOST_KINDS = 1_000
MASK = "***"
_SLOW = 10_000_000
"""Microseconds from which on a request's line says where the time went."""


# -- no secrets ------------------------------------------------------------------------------------------------------

_LABELLED = (
    r"(?:(?:x-|x-goog-|x-litellm-)?api[-_ ]?key|authorization|(?:access|auth|refresh|session|security|bearer)[-_]token"
    r"|[a-z_]{0,20}(?:secret|password|passwd)(?:[-_]access)?(?:[-_]key)?|(?:master|salt|access|private)[-_]key)"
)
_CREDENTIAL = re.compile(
    rf"(?P<key>\b(?:{PROVIDER_KEY}"
    r"|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{20,}|ya29\.[\w.-]{16,}|(?<![\w-])eyJ[\w-]{8,}+\.[\w-]{8,}+\.[\w-]*+))"
    r"|(?P<scheme>\b(?i:bearer)\s{1,3}(?=[\w\-.~+/=]{12})|\b(?i:basic)\s{1,3}(?=[\w\-.~+/=]{16}))[\w\-.~+/=]+"
    rf"|(?P<label>\b(?i:{_LABELLED})[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?(?:(?i:bearer|basic)\s{{1,3}})?)(?!\*\*\*|(?i:bearer|basic)\s)[^\s\"'\\,;&)}}\]]{{4,}}"
    r"|(?P<userinfo>://[^/\s:@]{0,64}:)[^@/\s]{1,256}(?=@)"
    r"|(?P<query>[?&](?i:key|token|sig|signature|x-amz-signature|x-amz-credential)=)[^&\s\"'\\]+",
)


def mask(secret: str) -> str:
    """A credential as it may be shown: `sk-...abcd`; of a short one, nothing."""
    if len(secret) < 2 * _SHORT_SECRET:
        return MASK
    return f"{'sk-' if secret.startswith('sk-') else ''}...{secret[-4:]}"


class Redactor:
    """Takes secrets out of text: those that it was told of, and what looks like one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spellings: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self._seen: dict[str, str] = {}
        self.version = 0
        """Rises with each secret: what was scrubbed before must be scrubbed again."""

    def add(self, *secrets: str | None) -> None:
        """From now on these values never leave. Empty and None are ignored."""
        with self._lock:  # a reload adds from its thread
            before = len(self._spellings)
            for secret in filter(None, secrets):
                self._spellings.update(_spellings(secret))
            if len(self._spellings) == before:
                return  # a second for a thousand keys that are known already
            longest_first = sorted(self._spellings, key=lambda text: (-len(text), text))
            self._known = re.compile("|".join(map(_pattern, longest_first)))
            self._seen = {}  # after the pattern: whoever still holds the old answers cannot put them into the new dict
            self.version += 1

    def scrub(self, text: str) -> str:
        """The text without secrets. Safe to apply twice."""
        if len(text) > _SHORT_TEXT:
            return self._scrub(text)
        seen = self._seen  # models, user agents and aliases come again and again
        scrubbed = seen.get(text)
        if scrubbed is None:
            scrubbed = self._scrub(text)
            if len(seen) >= _REMEMBERED:
                seen.clear()
            seen[text] = scrubbed
        return scrubbed

    def _scrub(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(MASK, text)
        return _CREDENTIAL.sub(_masked, text)


def _masked(match: re.Match[str]) -> str:
    if match["key"] is not None:
        return mask(match["key"])
    stop = "." if match["label"] and match[0].endswith(".") else ""  # the sentence's
    return (match["scheme"] or match["label"] or match["userinfo"] or match["query"]) + MASK + stop


def _spellings(secret: str) -> Iterable[str]:
    """A secret as it is, and as URLs, JSON, Python and basic authentication write it."""
    yield secret
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    if len(secret) >= _SHORT_SECRET:
        yield base64.b64encode(secret.encode("utf-8", "replace")).decode()


def _pattern(spelling: str) -> str:
    """A short secret (`dev`) is one only where it stands alone, or it would eat other words."""
    escaped = re.escape(spelling)
    return rf"(?<!\w){escaped}(?!\w)" if len(spelling) < _SHORT_SECRET else escaped


redactor = Redactor()
"""The process's own; configuration registers its secrets here."""

scrub = redactor.scrub


# -- no forged lines -------------------------------------------------------------------------------------------------

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """The text with control characters, line breaks and invisible or direction-turning ones as visible escapes."""
    if text.isascii() and text.isprintable():
        return text
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def safe(value: Any) -> Any:
    """A value for a log line: text scrubbed, printable and of bounded length; containers likewise; else its `repr`."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, str):
        return _cut(printable(scrub(value[: 2 * LONGEST_MESSAGE])), LONGEST_MESSAGE)
    if isinstance(value, Mapping):
        return {safe(str(key)): safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [safe(item) for item in value]
    return safe(repr(value))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}… ({len(text) - length} more)"


# -- the line of a request -------------------------------------------------------------------------------------------


def log_requests(rows: Sequence[LedgerRow]) -> None:
    """A listener of the ledger: one line per finished request, a warning if it failed."""
    if not requests.isEnabledFor(logging.INFO):
        rows = [row for row in rows if row.status == "failure" and requests.isEnabledFor(logging.WARNING)]
    if not rows:
        return
    for handler in _handlers(requests):
        if isinstance(handler, QueuedHandler):
            handler.handle(_request_record(rows, logging.INFO))
            continue
        for row in rows:
            level = _level(row.kind)
            if level >= handler.level:
                handler.handle(_request_record((row,), level))


def _handlers(logger: logging.Logger | None) -> Iterable[logging.Handler]:
    """Where the records of this logger go."""
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


def _request_record(rows: Sequence[LedgerRow], level: int) -> logging.LogRecord:
    # made by hand: finding out who called costs more than all the rest
    return requests.makeRecord(requests.name, level, __file__, 0, "request", (), None, extra={"rows": rows})


def _level(kind: Kind) -> int:
    return logging.WARNING if kind.status == "failure" else logging.INFO


def request_fields(row: LedgerRow) -> dict[str, Any]:
    """What the line of a request holds. `cost_usd` null means that no price is known."""
    return {**_own_fields(row), **_kind_fields(row.kind)}


def _own_fields(row: LedgerRow) -> dict[str, Any]:
    usage = row.usage
    prompt, completion = usage.prompt, usage.completion
    return {
        "id": row.id,
        "ms": row.total_us / 1000,
        "ttft_ms": _ms(row.ttfb_us),
        "overhead_ms": _ms(row.overhead_us),
        "tokens": {
            "input": prompt,
            "cached": usage.cache_read,
            "output": completion,
            "reasoning": usage.reasoning,
            "total": prompt + completion,
            "source": row.kind.usage_source,
        },
        "units": None if usage.units is NO_UNITS else msgspec.to_builtins(usage.units),
        "cost_usd": None if row.cost_nano is None else usd(row.cost_nano),
        "attempts": len(row.tried) if row.answer_ms is None else 1,
        "failed_attempts": _failed_attempts(row) if row.tried else (),
        "timing": waterfall(row) if row.tried or row.total_us > _SLOW else "",
        "error": safe(row.error_message) if row.error_message else "",
        "end_user": safe(row.end_user),
        "session": safe(row.session_id),
        "tags": safe(row.tags) if row.tags else (),
        "client_ip": row.client_ip,
        "user_agent": safe(row.user_agent),
    }


def _kind_fields(kind: Kind) -> dict[str, Any]:
    return {
        "endpoint": kind.endpoint,
        "model": safe(kind.model_group or kind.model_requested),
        "requested_model": safe(kind.model_requested),
        "status": kind.status,
        "http_status": kind.http_status,
        "reason": kind.reason,
        "provider": kind.provider,
        "deployment": kind.deployment_id,
        "upstream_model": safe(kind.model),
        "stream": kind.stream,
        "price_source": kind.price_source,
        "cost_source": kind.cost_source,
        "service_tier": safe(kind.service_tier),
        "retries": kind.retries,
        "fallbacks": kind.fallbacks,
        "finish": kind.finish,
        "cache_hit": kind.cache_hit,
        "caller": kind.caller_kind,
        "key": kind.key_digest[:8] if kind.key_digest and kind.caller_kind != "master" else None,
        "key_alias": safe(kind.key_alias),
        "mock": kind.mock,
    }


def _failed_attempts(row: LedgerRow) -> list[str]:
    """`openai/gpt-4o: 503 upstream_overloaded 12 ms` for each deployment that was asked in vain."""
    return [
        safe(f"{a.provider}/{a.model}: {a.status or '-'} {a.reason} {a.ms} ms")
        for a in row.attempts
        if a.reason
    ]


def waterfall(row: LedgerRow) -> str:
    """Where the time went, in the words of the header `x-penstock-timing`; `rest` is all else, a stream's flow for instance."""
    lost = sum(attempt.ms for attempt in row.attempts if attempt.reason)
    first = sum(attempt.ms for attempt in row.attempts if not attempt.reason)
    queue = (row.overhead_us or 0) / 1000
    rest = max(0.0, row.total_us / 1000 - queue - lost - first)
    steps = (("queue", queue), ("retries", lost), ("first", first), ("rest", rest))
    return ", ".join(f"{name};dur={milliseconds:.2f}" for name, milliseconds in steps if milliseconds)


def _ms(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1000


class RefusalLog:
    """The line of a request that was refused before anybody knew who asked, at most one per second and kind.

    Whoever hammers at the door must not fill the disk: a line says how many like it were kept back. `clock` is seconds.
    """

    def __init__(
        self, *, every: float = 1.0, kinds: int = 1000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._every = every
        self._kinds = kinds
        self._clock = clock
        self._seen: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def refused(self, *, reason: str, credential: str | None, path: str, client_ip: str | None) -> None:
        """Say it. Of the credential only `sk-...abcd` is shown."""
        now = self._clock()
        kind = (reason, client_ip or "")
        last, kept_back = self._seen.pop(kind, (now - self._every, 0))
        if now - last < self._every:
            self._seen[kind] = (last, kept_back + 1)
            return
        self._seen[kind] = (now, 0)
        if len(self._seen) > self._kinds:
            self._seen.popitem(last=False)
        fields: dict[str, Any] = {
            "reason": reason,
            "key": mask(credential) if credential else None,
            "path": path,
            "client_ip": client_ip,
        }
        if kept_back:
            fields["kept_back"] = kept_back
        log.warning("request refused", extra={"fields": fields})


# -- formats ---------------------------------------------------------------------------------------------------------


class JsonFormat(logging.Formatter):
    """One JSON object per line: `ts`, `level`, `logger`, `message`, the fields, and `traceback` where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[Kind, str] = {}
        self._secrets = redactor.version

    def format(self, record: logging.LogRecord) -> str:
        """The record as its line, without the line break; one line for each request that it tells of."""
        ts = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        rows: Sequence[LedgerRow] | None = getattr(record, "rows", None)
        if rows is not None:
            return self._requests(ts, rows)
        line: dict[str, Any] = {
            "ts": ts,
            "level": record.levelname,
            "logger": record.name,
            "message": safe(record.getMessage()),
        }
        line.update(_fields(record))
        if record.exc_text:
            line["traceback"] = "\n".join(_traceback(record.exc_text))
        return orjson.dumps(line, default=safe, option=orjson.OPT_NON_STR_KEYS).decode()

    def _requests(self, ts: str, rows: Sequence[LedgerRow]) -> str:
        """2.5 us per line; to encode all of it would be 9."""
        kinds = self._kinds
        if self._secrets != redactor.version or len(kinds) > _MOST_KINDS:
            kinds.clear()
            self._secrets = redactor.version
        start = f'{{"ts":"{ts}",'
        lines = []
        for row in rows:
            shared = kinds.get(row.kind)
            if shared is None:
                shared = kinds[row.kind] = self._shared(row.kind)
            lines.append(f"{start}{shared},{orjson.dumps(_own_fields(row)).decode()[1:]}")
        return "\n".join(lines)

    def _shared(self, kind: Kind) -> str:
        """What the lines of these requests have in common, without the braces."""
        head = {"level": logging.getLevelName(_level(kind)), "logger": requests.name, "message": "request"}
        return orjson.dumps({**head, **_kind_fields(kind)}).decode()[1:-1]


class PlainFormat(logging.Formatter):
    """Lines for people: time, level, message, and the fields as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as its line, a traceback indented below it; one line for each request that it tells of."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        rows: Sequence[LedgerRow] | None = getattr(record, "rows", None)
        if rows is not None:
            return "\n".join(
                f"{clock} {logging.getLevelName(_level(row.kind)):<7} {_plain_request(row)}" for row in rows
            )
        lines = [f"{clock} {record.levelname:<7} {_plain(record)}"]
        if record.exc_text:
            lines += [f"    {line}" for line in _traceback(record.exc_text)]
        return "\n".join(lines)


def _plain(record: logging.LogRecord) -> str:
    fields = "".join(f" {name}={value}" for name, value in _fields(record).items() if value is not None)
    return f"{safe(record.getMessage())}{fields}"


def _plain_request(row: LedgerRow) -> str:
    asked = f"{row.http_status} {row.endpoint} {safe(row.model_requested)}".rstrip()
    failed = "" if row.status == "success" else f"{row.status} {row.reason} {safe(row.error_message)}"
    before = _failed_attempts(row) if row.status == "success" else []  # a failure's message says them
    parts = [
        asked + _answerer(row),
        _bill(row),
        failed,
        f"after {'; '.join(before)}" if before else "",
        f"id={row.id}",
        waterfall(row) if row.tried or row.total_us > _SLOW else "",
    ]
    return "  ".join(filter(None, parts))


def _answerer(row: LedgerRow) -> str:
    """` → openai/gpt-4o`, the stand-in's name before it if there was one; nothing if no provider was asked."""
    if not row.provider:
        return ""
    stand_in = f" → {safe(row.model_group)}" if row.fallbacks else ""
    return f"{stand_in} → {safe(f'{row.provider}/{row.model}')}"


def _bill(row: LedgerRow) -> str:
    if not row.provider:
        return ""
    cost = "cost unknown" if row.cost_nano is None else f"cost ${usd(row.cost_nano):.6f}"
    used = [f"{row.prompt_tokens}+{row.completion_tokens} tokens"]
    used += [f"{count} {unit}" for unit in UNITS if (count := getattr(row, unit))]
    return f"{row.total_us / 1000:.0f} ms, {', '.join(used)}, {cost}"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return {safe(str(name)): safe(value) for name, value in fields.items()} if fields else {}


def _traceback(text: str) -> list[str]:
    """Scrubbed as a whole, since a secret may span lines; then made printable line by line."""
    text = scrub(
        text[-2 * LONGEST_TRACEBACK :]
    )  # before the last cut: half a secret would not be known as one
    text = text[-LONGEST_TRACEBACK:]
    return [printable(line) for line in text.split("\n")]


# -- writing ---------------------------------------------------------------------------------------------------------


class QueuedHandler(logging.Handler):
    """Hands records to a thread that formats and writes them to `stream`."""

    def __init__(self, stream: TextIO, *, capacity: int = _QUEUE) -> None:
        super().__init__()
        self._stream = stream
        self._capacity = capacity
        self._queue: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._queued = 0
        self._taken = 0
        """Lines; the first number is changed under the handler's lock, the second by the thread alone."""
        self.dropped = 0
        """Lines that were not written: the queue was full, or the stream refused them."""
        self._dropped_said = 0
        self._torn = ""
        """A line break, where the stream may have taken a part of a line."""
        self._thread = threading.Thread(target=self._write_all, name="logs", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue it. What its arguments and its exception say is fixed now: they may change later."""
        room = self._capacity - (self._queued - self._taken)
        lines = _lines(record)
        if lines > room:
            self.dropped += lines - max(0, room)
            if lines == 1 or room <= 0:
                return
            record.rows = record.rows[:room]  # type: ignore[attr-defined]  # only what has rows has many lines
            lines = room
        try:
            if record.args:
                record.msg, record.args = record.getMessage(), None
            if record.exc_info and not record.exc_text:
                record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            record.exc_info = None
        except Exception:  # the standard library would print the record, secrets included, to stderr
            record.msg, record.args, record.exc_info = "a log record could not be formatted", None, None
        self._queued += lines
        self._queue.put(record)

    def stop(self, timeout: float = 2.0) -> None:
        """Write what is queued, at most for `timeout` seconds, and end the thread."""
        self._queue.put(None)
        self._thread.join(timeout)

    def _write_all(self) -> None:
        while (record := self._queue.get()) is not None:
            records = [record]
            ended = False
            while len(records) < 200 and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    ended = True
                    break
                records.append(following)
            lines = sum(map(_lines, records))
            self._taken += lines
            self._write([self._text(record) for record in records], lines)
            if ended:
                return

    def _text(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except (
            Exception
        ) as error:  # whatever a record holds, the thread lives on and says nothing of its content
            rows: Sequence[LedgerRow] = getattr(record, "rows", ())
            if len(rows) > 1:  # one of them it is, and the others are good
                return "\n".join(self._text(_request_record((row,), record.levelno)) for row in rows)
            return self.format(_record(f"a log record could not be written: {type(error).__name__}"))

    def _write(self, texts: list[str], lines: int) -> None:
        dropped = self.dropped
        if dropped > self._dropped_said:
            texts.append(self.format(_record(f"{dropped - self._dropped_said} log records were dropped")))
        try:
            self._stream.write(self._torn + "\n".join(texts) + "\n")
            self._stream.flush()
            self._dropped_said, self._torn = dropped, ""
        except (OSError, ValueError):  # the reader of a pipe left, the terminal was closed, the disk is full
            self.dropped += lines
            self._torn = "\n"


class ModestHandler(logging.StreamHandler[TextIO]):
    """For a process that has no thread to write and must not wait: what the stream cannot take now is left out."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, if there is room."""
        try:
            _, has_room, _ = select.select([], [self.stream], [], 0)
        except (OSError, ValueError):  # it is no file
            has_room = [self.stream]
        if has_room:
            super().emit(record)


def _lines(record: logging.LogRecord) -> int:
    """How many lines it becomes, tracebacks aside."""
    return len(getattr(record, "rows", (record,)))


def _record(message: str) -> logging.LogRecord:
    return logging.LogRecord("penstock.logs", logging.ERROR, __file__, 0, message, None, None)


def _apart(stream: TextIO) -> TextIO:
    """The same file through another buffer: at the end Python flushes the stream's, which a thread that nobody reads would hold."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # it is no file
        return stream
    return os.fdopen(number, "w", encoding=stream.encoding, errors=stream.errors, closefd=False)


# -- set-up ----------------------------------------------------------------------------------------------------------


def setup(
    level: str = "INFO", *, as_json: bool | None = None, stream: TextIO | None = None
) -> Callable[[], None]:
    """Make the standard library's root logger speak as this page says; returns what undoes it (and writes the rest).

    `level` is DEBUG, INFO, WARNING or ERROR for our own loggers; libraries speak from WARNING on, in DEBUG from INFO on.
    `as_json` None: plain lines on a terminal, JSON otherwise. `stream` is stderr by default.
    """
    target = stream if stream is not None else _apart(sys.stderr)
    if as_json is None:
        as_json = not target.isatty()
    handler = QueuedHandler(target)
    handler.setFormatter(JsonFormat() if as_json else PlainFormat())
    root = logging.getLogger()
    before = (root.level, list(root.handlers), log.level)
    number = logging.getLevelNamesMapping().get(level.strip().upper(), logging.INFO)
    root.handlers = [handler]
    root.setLevel(logging.INFO if number <= logging.DEBUG else max(number, logging.WARNING))
    log.setLevel(number)
    logging.captureWarnings(capture=True)

    def stop() -> None:
        logging.captureWarnings(capture=False)
        handler.stop()
        root.handlers = before[1]
        root.setLevel(before[0])
        log.setLevel(before[2])

    return stop
