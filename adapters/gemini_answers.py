"""Reading what Gemini answers: whole, in events, or an error. Part of `adapters.gemini`.

Each event of a stream is an answer of its own that goes on where the last one stopped, and the stream has no terminator:
it ends when the bytes end after a `finishReason`. So a choice's `Finish` waits for the end, and a whole answer is read
as a stream of one event, which makes both follow the same rules.

* Counts are running totals, and Google's own: `promptTokenCount` has what was cached in it and leaves out what tools put
  into the prompt, `candidatesTokenCount` leaves out the thoughts.
* Each chunk has them, so what they amount to is worked out late: where chunks differ in words and counts alone, when
  something else follows or somebody asks.
* `STOP` ends an answer that calls tools too. Calls have no id before Gemini 3: it is made from the answer's.
* Signatures of thoughts are kept where Gemini demands them back, on calls; on other parts they are a hint.
* What Google's own tools did is text (code and its output) or stands in the `detail` of the finish (sources).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from adapters.base import StreamReader
from adapters.envelope import count_of, decode, is_utf8
from adapters.errors import ContentPolicyViolation, UpstreamError, UpstreamMalformed, UpstreamRefused
from adapters.framing import read_event, whole_events
from adapters.types import (
    NO_UNITS,
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Failure,
    Finish,
    FinishReason,
    Part,
    Start,
    Target,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    Units,
    Usage,
    UsageDelta,
)
from adapters.upstream_errors import classify
from adapters.wire import gemini as wire

_ANSWER = msgspec.json.Decoder(wire.Answer)
_FAILED = msgspec.json.Decoder(wire.Failed)
_FAILED_LIST = msgspec.json.Decoder(list[wire.Failed])
_GROUNDING = msgspec.json.Decoder(wire.Grounding)
_COUNTS = msgspec.json.Decoder(wire.Counts)
_COUNTED = msgspec.json.Decoder(wire.Counted)
_STRING = msgspec.json.Decoder(str)
_ARGUMENTS = msgspec.json.Decoder(dict[str, Any])
_WORDS = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u00[0-9a-f]{2}))++"')
"""A JSON string that says something. Google writes angle brackets, and no surrogates, by number."""
_UNREADABLE = msgspec.DecodeError, UnicodeDecodeError, RecursionError
"""What a decoder says of bytes that `decode` might put right."""
_RETURN, _LINE_FEED = b"\r\n"  # as numbers: bytes take five times as long to look for
_encode = msgspec.json.Encoder().encode

_FINISH: dict[str, FinishReason] = {
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MALFORMED_FUNCTION_CALL": "error",
    "UNEXPECTED_TOOL_CALL": "error",
    "TOO_MANY_TOOL_CALLS": "error",
    "MALFORMED_RESPONSE": "error",
    "MISSING_THOUGHT_SIGNATURE": "error",
    "NO_IMAGE": "error",
    "IMAGE_OTHER": "error",
    "OTHER": "error",
}
"""Google's words; one that is not here is an ordinary end."""

_SENT_WRONG = frozenset({"MISSING_THOUGHT_SIGNATURE"})
"""Ends that the question is to blame for: another deployment would say the same."""

_UNTOLD = (None, None, None)
_TIERS = {
    "flex": "flex",
    "priority": "priority",
    "batch": "batch",
    "on_demand_flex": "flex",
    "on_demand_priority": "priority",
}


# -- its answers -----------------------------------------------------------------------------------------------------


def read_response(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """Read a `GenerateContentResponse`. A prompt that Google's filter refused is the error that it is."""
    reader = _Reader(target)
    deltas: list[Delta] = []
    reader.take(_in_good_utf8(body), deltas)
    deltas += reader.finish()
    start = next((each for each in deltas if isinstance(each, Start)), Start())
    numbers = sorted({each.choice for each in deltas if isinstance(each, Finish)})
    choices = tuple(_assemble([each for each in deltas if _choice_of(each) == at]) for at in numbers)
    return ChatResponse(start.id, start.model, choices, reader.usage)


def _in_good_utf8(data: bytes) -> bytes:
    return data if data.isascii() else data.decode("utf-8", "replace").encode()


def _choice_of(delta: Delta) -> int | None:
    return getattr(delta, "choice", None)


def _assemble(deltas: Iterable[Delta]) -> Choice:
    """The parts that the steps of one choice make."""
    parts: list[Part] = []
    finish = Finish("stop")
    logprobs: Raw | None = None
    for delta in deltas:
        last = parts[-1] if parts else None
        match delta:
            case TextDelta():
                text = decode(delta.text, _STRING)
                logprobs = logprobs or delta.logprobs
                if isinstance(last, Text):
                    parts[-1] = Text(last.text + text)
                else:
                    parts.append(Text(text))
            case ThinkingDelta():
                text = decode(delta.text, _STRING)
                if isinstance(last, Thinking):
                    parts[-1] = Thinking(last.text + text)
                else:
                    parts.append(Thinking(text))
            case ToolStart():
                parts.append(ToolCall(delta.id, delta.name, "", signature=delta.signature))
            case ToolDelta() if isinstance(last, ToolCall):
                parts[-1] = replace(last, arguments=decode(delta.arguments, _STRING))
            case Finish():
                finish = delta
            case _:
                continue
    return Choice(tuple(parts), finish.reason, logprobs=logprobs, detail=finish.detail)


def read_stream(request: ChatRequest, target: Target) -> StreamReader:
    """A reader for one streamed answer (`alt=sse`)."""
    return _Reader(target)


def _data_of(events: bytes) -> Sequence[bytes]:
    """The data of each event. Google writes one line with CR LF, and mostly one event at a time."""
    ends = events.find(b"\r"), events.find(b"\n")
    if ends == (len(events) - 4, len(events) - 3) and events.startswith(b"data: "):
        return (events[6:-4],)
    return [read_event(event)[1] for event in whole_events(events)]


_Around: TypeAlias = tuple[bytes, bytes, bytes]
"""What stands before the words of a chunk, between them and its counts, and behind these."""


class _Choice:
    """One candidate as it arrives."""

    __slots__ = (
        "arguments",
        "calls",
        "detail",
        "message",
        "name",
        "reason",
        "signature",
        "spoken",
        "wire_id",
    )

    def __init__(self) -> None:
        self.calls = 0
        self.spoken = False
        self.reason: str | None = None
        self.message = ""
        self.detail: dict[str, Raw] = {}
        self.arguments: Any = None  # of a call that comes in pieces
        self.name = ""
        self.wire_id = ""
        self.signature: str | None = None


class _Reader:
    """Takes a stream of answers apart; a whole answer is a stream of one."""

    __slots__ = (
        "_around",
        "_broken",
        "_choices",
        "_counts",
        "_held",
        "_id",
        "_seen",
        "_started",
        "_target",
        "_units",
        "done",
        "usage",
    )

    def __init__(self, target: Target) -> None:
        self.done = False
        self.usage: Usage | None = None
        self._broken = False
        self._started = False
        self._id = ""
        self._target = target
        self._units = NO_UNITS
        self._choices: dict[int, _Choice] = {}
        self._around: _Around | None = None  # a chunk that says no more than words and counts
        self._seen: _Around | None = None  # the last one that looked like it
        self._counts: bytes | None = None  # the last ones of such a chunk, if nothing came after it
        self._held: wire.Counts | None = None  # the same, as long as they are not in `usage`

    def words(self, events: bytes) -> bytes:
        if self._around is None:
            return b""
        head, between, end = self._around
        if events.startswith(head) and events.endswith(end):
            text, found, counts = events[len(head) : -len(end)].partition(between)
            if (
                found
                and _WORDS.fullmatch(text)
                and is_utf8(text)
                and (counts == self._counts or self._hold(counts))
            ):
                return text
        return b""

    def feed(self, events: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        self._settle(deltas)
        if self._broken:
            return deltas
        events = _in_good_utf8(events)
        try:
            found = _data_of(events)
            for data in found:
                if data:
                    answer = self.take(data, deltas)
                    if len(found) == 1:
                        self._learn(events, data, answer, deltas)
        except UpstreamError as error:
            self._broken = True
            self._around = None
            deltas.append(Failure(error))
        return deltas

    def close(self) -> list[Delta]:
        deltas: list[Delta] = []
        self._settle(deltas)
        if self.done or self._broken:
            return deltas
        try:
            deltas += self.finish()
        except UpstreamError as error:
            self._broken = True
            return [*deltas, Failure(error)]
        self.done = True
        return deltas

    def _hold(self, counts: bytes) -> bool:
        """Keep the counts of a chunk of words. False if they have to be read with all the rest."""
        try:
            held = _COUNTS.decode(counts)
        except _UNREADABLE:
            return False
        if held.total_token_count is None or _LINE_FEED in counts or _RETURN in counts:
            return False
        self._held, self._counts = held, counts
        return True

    def _settle(self, deltas: list[Delta]) -> None:
        """What was held becomes usage, before anything else is read."""
        held, self._held = self._held, None
        if held is not None:
            self._count(held, deltas)

    def _count(self, counts: wire.Counts, deltas: list[Delta]) -> None:
        """Counts as the usage that they are, unless that is known."""
        usage = read_usage(counts, self._units)
        if usage not in (self.usage, None):
            self.usage = usage
            deltas.append(UsageDelta(usage))

    def _learn(self, event: bytes, data: bytes, answer: wire.Answer, deltas: list[Delta]) -> None:
        """Learn what stands around the words and the counts of a chunk; of the first one not, whose words are waited for.

        That they are where they seem to be, and all that the chunk says, is proved with other words and counts there.
        """
        first = deltas[0] if deltas else None
        if type(first) is not TextDelta or not answer.candidates or answer.usage_metadata is None:
            return
        text, counts = bytes(first.text), bytes(decode(data, _COUNTED).usage_metadata)
        head, _, rest = event.partition(text)
        between, _, end = rest.partition(counts)
        around = head, between, end
        if end and around != self._seen:
            self._seen = around
            words, prompt = Raw(b'"?' + text[1:]), count_of(answer.usage_metadata.prompt_token_count) + 1
            content = wire.Content([wire.Part(words)])
            expected = replace(
                answer,
                candidates=[wire.Candidate(content, index=answer.candidates[0].index)],
                usage_metadata=wire.Counts(prompt_token_count=prompt),
            )
            probe = b'%b%b%b{"promptTokenCount":%d}%b' % (head, words, between, prompt, end)
            with suppress(*_UNREADABLE):
                if not first.choice and [_ANSWER.decode(each) for each in _data_of(probe)] == [expected]:
                    self._around = around
        if around == self._around:
            self._counts = counts

    def take(self, data: bytes, deltas: list[Delta]) -> wire.Answer:
        """One answer: its deltas are added to `deltas`. Raises the error that it is, or `UpstreamMalformed`."""
        self._counts = None
        answer = decode(data, _ANSWER)
        if answer.error != wire.NULL:
            raise read_error(0, {}, data)
        feedback = answer.prompt_feedback
        if feedback is not None and feedback.block_reason and not answer.candidates:
            raise ContentPolicyViolation(
                feedback.block_reason_message or f"The prompt was blocked: {feedback.block_reason}",
                provider_status=200,
                code="content_filter",
            )
        if not self._started:
            self._started = True
            self._id = answer.response_id or ""
            deltas.append(Start(self._id, answer.model_version or ""))
        for at, candidate in enumerate(answer.candidates or ()):
            self._candidate(at if candidate.index is None else candidate.index, candidate, deltas)
        if answer.usage_metadata is not None:
            self._count(answer.usage_metadata, deltas)
        return answer

    def finish(self) -> list[Delta]:
        """The bytes have ended: each choice's `Finish`. Raises `UpstreamError` where there is no answer."""
        choices = self._choices
        if not choices or any(choice.reason is None for choice in choices.values()):
            raise UpstreamMalformed("The provider's answer ended without a `finishReason`")
        if all(_is_error(choice) and not choice.spoken for choice in choices.values()):
            raise _failed(next(iter(choices.values())))
        deltas: list[Delta] = []
        for at in sorted(choices):
            choice = choices[at]
            if choice.arguments is not None:
                self._close_call(at, choice, deltas)
            reason = _FINISH.get(choice.reason or "", "stop")
            if reason == "stop" and choice.calls:
                reason = "tool_calls"
            deltas.append(Finish(reason, choice=at, detail=_detail(choice)))
        return deltas

    def _candidate(self, at: int, candidate: wire.Candidate, deltas: list[Delta]) -> None:
        choice = self._choices.get(at)
        if choice is None:
            choice = self._choices[at] = _Choice()
        logprobs = _read_logprobs(candidate.logprobs_result) if candidate.logprobs_result else None
        for part in (candidate.content and candidate.content.parts) or ():
            self._part(at, choice, part, deltas, logprobs)
        choice.reason = candidate.finish_reason or choice.reason
        choice.message = candidate.finish_message or choice.message
        for name, raw in (
            ("safetyRatings", candidate.safety_ratings),
            ("citationMetadata", candidate.citation_metadata),
            ("groundingMetadata", candidate.grounding_metadata),
            ("urlContextMetadata", candidate.url_context_metadata),
        ):
            if raw != wire.NULL:
                choice.detail[name] = raw
        if candidate.grounding_metadata != wire.NULL:
            self._units = Units(searches=_searches(candidate.grounding_metadata, self._target))

    def _part(
        self, at: int, choice: _Choice, part: wire.Part, deltas: list[Delta], logprobs: Raw | None
    ) -> None:
        if part.function_call is not None:
            self._call(at, choice, part.function_call, part.thought_signature, deltas)
            return
        text = bytes(part.text)
        if len(text) > 2 and text[0] == 0x22:
            choice.spoken = True
            deltas.append(
                ThinkingDelta(part.text, at) if part.thought else TextDelta(part.text, at, logprobs)
            )
        elif said := _in_words(part):
            choice.spoken = True
            deltas.append(TextDelta(Raw(_encode(said)), at))

    def _call(
        self, at: int, choice: _Choice, call: wire.FunctionCall, signature: str | None, deltas: list[Delta]
    ) -> None:
        """A call, whole or a piece of it. Pieces are told by their path, so that they are JSON only when all are there."""
        if call.name and choice.arguments is not None:
            self._close_call(at, choice, deltas)
        if call.name:
            choice.name, choice.wire_id, choice.signature = call.name, call.id or "", signature
            choice.arguments = {}
        if choice.arguments is None:
            return  # the end of a call that has ended, or a piece of none
        if call.args != wire.NULL:
            choice.arguments = call.args
        if call.partial_args and isinstance(choice.arguments, Raw):
            choice.arguments = decode(choice.arguments, _ARGUMENTS)
        for piece in call.partial_args or ():
            put(choice.arguments, piece)
        if not call.will_continue:
            self._close_call(at, choice, deltas)

    def _close_call(self, at: int, choice: _Choice, deltas: list[Delta]) -> None:
        own = re.sub(r"[^A-Za-z0-9_-]", "", self._id)
        ident = choice.wire_id or f"call_{own}_{at}_{choice.calls}"
        arguments = choice.arguments
        text = msgspec.json.format(arguments if isinstance(arguments, Raw) else _encode(arguments), indent=-1)
        deltas += (
            ToolStart(choice.calls, ident, choice.name, at, choice.signature),
            ToolDelta(choice.calls, Raw(_encode(text.decode())), at),
        )
        choice.calls += 1
        choice.spoken = True
        choice.arguments = None


def _in_words(part: wire.Part) -> str:
    """What has no other place in an answer: code that was run and what it printed, pictures and sound."""
    if part.executable_code is not None and part.executable_code.code:
        language = (part.executable_code.language or "").lower()
        return f"\n```{language}\n{part.executable_code.code.rstrip()}\n```\n"
    if part.code_execution_result is not None and part.code_execution_result.output:
        return f"\n```\n{part.code_execution_result.output.rstrip()}\n```\n"
    blob = part.inline_data
    if blob is not None and blob.data and not part.thought:
        kind = blob.mime_type or "application/octet-stream"
        link = f"[{kind}](data:{kind};base64,{blob.data})"
        return f"!{link}" if kind.startswith("image/") else link
    return ""


_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\['([^']*)'\]")
_MOST_ITEMS = 10_000


def put(root: dict[str, Any], piece: wire.PartialArg) -> None:
    """Add a value to the arguments at its path (`$.recipe.ingredients[0].name`); a string goes on where it stopped.

    A path that does not fit what is there already is passed over.
    """
    steps = [
        int(found[2]) if found[2] is not None else found[1] or found[3] or ""
        for found in _STEP.finditer(piece.json_path)
    ]
    value: Any = piece.string_value
    if value is None:
        value = piece.bool_value if piece.number_value is None else piece.number_value
    place: Any = root
    for step, following in zip(steps, [*steps[1:], None], strict=False):
        if isinstance(step, int) != isinstance(place, list) or (isinstance(step, int) and step > _MOST_ITEMS):
            return
        if isinstance(step, int):
            place.extend([None] * (step + 1 - len(place)))
        known = place[step] if isinstance(step, int) else place.get(step)
        if following is None:
            place[step] = known + value if isinstance(known, str) and isinstance(value, str) else value
        elif not isinstance(known, dict | list):
            place[step] = known = [] if isinstance(following, int) else {}
        place = known


def _is_error(choice: _Choice) -> bool:
    return _FINISH.get(choice.reason or "") == "error"


def _failed(choice: _Choice) -> UpstreamError:
    """An answer that is none: nothing was said, and the reason is a failure."""
    message = choice.message or f"The provider ended the answer with {choice.reason}"
    kind = UpstreamRefused if choice.reason in _SENT_WRONG else UpstreamError
    return kind(message, provider_status=200, code=(choice.reason or "").lower())


def _detail(choice: _Choice) -> Raw | None:
    """Where the words come from, and Google's own word for why it ended if ours says less."""
    known: dict[str, Any] = {}
    if choice.reason not in {"STOP", "MAX_TOKENS"}:
        known["finishReason"] = choice.reason
        if choice.message:
            known["finishMessage"] = choice.message
    known |= {name: raw for name, raw in choice.detail.items() if name != "safetyRatings" or known}
    return Raw(_encode(known)) if known else None


def _searches(grounding: Raw, target: Target) -> int:
    """Since Gemini 3 each query is billed, before that a question that was searched for."""
    queries = sum(1 for query in decode(grounding, _GROUNDING).web_search_queries or () if query)
    return queries if wire.generation(target.model) >= (3, 0) else min(queries, 1)


def _read_logprobs(found: wire.Logprobs) -> Raw:
    """OpenAI's `logprobs` of the tokens."""
    tops = [top.candidates or [] for top in found.top_candidates or ()]
    tokens = [
        _token(chosen) | {"top_logprobs": [_token(top) for top in (tops[at] if at < len(tops) else ())]}
        for at, chosen in enumerate(found.chosen_candidates or ())
    ]
    return Raw(_encode({"content": tokens, "refusal": None}))


def _token(chosen: wire.Chosen) -> dict[str, Any]:
    return {"token": chosen.token, "logprob": chosen.log_probability, "bytes": list(chosen.token.encode())}


# -- what it cost ----------------------------------------------------------------------------------------------------


def read_usage(counts: wire.Counts, units: Units = NO_UNITS) -> Usage | None:
    """Google's counts, each token in one bucket; None if there are none yet. What is inside never exceeds the whole."""
    if (counts.prompt_token_count, counts.candidates_token_count, counts.total_token_count) == _UNTOLD:
        return None
    prompt = count_of(counts.prompt_token_count) + count_of(counts.tool_use_prompt_token_count)
    cached = min(count_of(counts.cached_content_token_count), prompt)
    left = prompt - cached
    audio = image = audio_output = image_output = 0
    inside = _details(counts), counts.tool_use_prompt_tokens_details
    if any(inside):
        audio = min(max(0, _of("AUDIO", *inside) - _of("AUDIO", counts.cache_tokens_details)), left)
        image = min(max(0, _of("IMAGE", *inside) - _of("IMAGE", counts.cache_tokens_details)), left - audio)
    output = count_of(counts.candidates_token_count)
    said = counts.candidates_tokens_details
    if said:
        audio_output = min(_of("AUDIO", said), output)
        image_output = min(_of("IMAGE", said), output - audio_output)
    tier = counts.service_tier or counts.traffic_type
    return Usage(
        input=left - audio - image,
        cache_read=cached,
        audio_input=audio,
        image_input=image,
        output=output - audio_output - image_output,
        reasoning=count_of(counts.thoughts_token_count),
        audio_output=audio_output,
        image_output=image_output,
        units=units,
        tier=_TIERS.get(tier.lower(), "") if tier else "",
    )


def _details(counts: wire.Counts) -> Sequence[wire.ModalityCount] | None:
    return counts.prompt_tokens_details or counts.prompt_token_details


def _of(modality: str, *details: Sequence[wire.ModalityCount] | None) -> int:
    total = 0
    for several in details:
        for each in several or ():
            if each.modality == modality:
                total += count_of(each.token_count)
    return total


# -- what went wrong -------------------------------------------------------------------------------------------------


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """What Google's error means: one object, or the first of an array. It says in the body how long to wait.

    `status` under 400 means an error inside of a stream or of a good answer.
    """
    error = _open_error(body)
    if error is None:
        return classify(status, message=body.decode("utf-8", "replace"), headers=headers, body=body)
    details = error.details or ()
    reason = next((detail.reason for detail in details if detail.reason), None)
    delay = next((detail.retry_delay for detail in details if detail.retry_delay), None)
    if delay is not None and "retry-after" not in headers:
        headers = {**headers, "retry-after": delay.removesuffix("s")}
    return classify(
        status if status >= 400 else (error.code or 0),
        message=error.message or "",
        code=reason,
        type=error.status,
        headers=headers,
        body=body,
    )


def is_google_error(body: bytes) -> bool:
    """Is this an error in Google's shape?"""
    error = _open_error(body)
    return error is not None and error.status is not None


def _open_error(body: bytes) -> wire.Error | None:
    try:
        if body.lstrip()[:1] == b"[":
            return next((each.error for each in decode(body, _FAILED_LIST)), None)
        return decode(body, _FAILED).error
    except UpstreamMalformed:
        return None
