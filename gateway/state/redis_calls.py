"""What Redis is asked in one go: steps of our script, many to a call, and commands of its own.

`shared_redis.lua` says what the steps do. Those of one call are one EVALSHA with two arguments of MessagePack, which is what makes
them cheap, here and in Redis. A Redis that does not know the script yet is told it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from gateway.state.redis_line import Command, ReplyError

STEPS = 50
"""Steps per call: Redis does nothing else meanwhile."""

SCRIPT = (files("gateway.state") / "shared_redis.lua").read_text()
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()  # Redis names scripts so

Word: TypeAlias = str | int

_MOST = 2**60
"""The largest amount that Redis is told; its counters have room for some more."""
_EXACT = 2**53
"""Up to here a script's numbers are exact; a larger one is told as text."""

_packing = msgspec.msgpack.Encoder()
_unpacking = msgspec.msgpack.Decoder(list[Any])


class Step(Struct, eq=False):
    """Something to be done by the script: its keys, and its words, the first of which says what."""

    keys: Sequence[str]
    words: Sequence[Word]


class Calls:
    """Steps and commands of one exchange, and what the script is told besides. `commands` is what is to be sent; then take the
    replies.
    """

    __slots__ = ("_asked", "_replies", "_scripts", "_unknown", "commands")

    def __init__(self, asked: Sequence[Step | Command], *more: Word) -> None:
        steps = [one for one in asked if isinstance(one, Step)]
        self._asked = asked
        self._scripts = [(*_arguments(steps[at : at + STEPS]), *more) for at in range(0, len(steps), STEPS)]
        self._replies: list[Any] = []
        self._unknown: list[int] = []
        self.commands: list[Command] = [("EVALSHA", SHA, *script) for script in self._scripts]
        if len(steps) < len(asked):
            self.commands += (one for one in asked if not isinstance(one, Step))

    def take(self, replies: list[Any]) -> list[Command]:
        """Take the replies, and give what is to be sent once more and taken again: calls that Redis could not do because it does
        not know the script. EVAL tells it, and needs no more rights than EVALSHA.
        """
        if self._replies:
            for number, reply in zip(self._unknown, replies, strict=True):
                self._replies[number] = reply
            return []
        self._replies = replies
        self._unknown = [n for n, _ in enumerate(self._scripts) if _is_no_script(replies[n])]
        return [("EVAL", SCRIPT, *self._scripts[number]) for number in self._unknown]

    def answers(self) -> list[Any] | Exception:
        """What each step and command was answered; a refusal of one stands for all."""
        replies, scripts = self._replies, len(self._scripts)
        for reply in replies:
            if isinstance(reply, ReplyError):
                return reply
        try:
            of_steps = [answer for script in replies[:scripts] for answer in _unpacking.decode(script)]
        except (msgspec.DecodeError, TypeError) as error:
            return error.with_traceback(None)  # its frames would hold it
        if len(of_steps) + len(replies) - scripts != len(self._asked):
            return ValueError("not as many answers as there were questions")
        if scripts == len(replies):
            return of_steps
        steps, others = iter(of_steps), iter(replies[scripts:])
        return [next(steps if isinstance(one, Step) else others) for one in self._asked]


def microseconds(seconds: float) -> int:
    """A span as the script is told it."""
    return int(seconds * 1_000_000)


def amount_word(amount: int) -> Word:
    """An amount as the script is told it, no larger than Redis can count: a billion dollars, or so many tokens."""
    if -_EXACT < amount < _EXACT:
        return amount
    return str(max(-_MOST, min(amount, _MOST)))


def _arguments(steps: Sequence[Step]) -> tuple[Any, ...]:
    """What EVALSHA and EVAL are told after the script."""
    keys = [key for step in steps for key in step.keys]
    words = _packing.encode([part for step in steps for part in (len(step.keys), step.words)])
    return len(keys), *keys, words


def _is_no_script(answer: Any) -> bool:
    return isinstance(answer, ReplyError) and str(answer).startswith("NOSCRIPT")
