"""Many steps in a call, commands beside them, and a script that Redis does not know."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.state.redis_calls import SCRIPT, SHA, STEPS, Calls, Step
from gateway.state.redis_line import ReplyError

_NO_SCRIPT = ReplyError("NOSCRIPT No matching script. Please use EVAL.")


def _answers(calls: Calls, replies: list[Any]) -> list[Any] | Exception:
    assert calls.take(replies) == []
    return calls.answers()


def _packed(*answers: object) -> bytes:
    return msgspec.msgpack.encode(answers)


def test_steps_share_calls() -> None:
    """As many as a call may have; each with its keys and words."""
    calls = Calls([Step((f"k{number}", "process"), ("look", number)) for number in range(STEPS + 2)])
    first, second = calls.commands
    assert [first[0], first[1], first[2], len(first)] == ["EVALSHA", SHA, 2 * STEPS, 4 + 2 * STEPS]
    assert second[2:-1] == (4, "k50", "process", "k51", "process")
    assert msgspec.msgpack.decode(second[-1]) == [2, ["look", 50], 2, ["look", 51]]  # type: ignore[arg-type]  # bytes
    answers = [_packed(*range(STEPS)), _packed("a", None)]
    assert _answers(calls, answers) == [*range(STEPS), "a", None]


def test_what_all_calls_are_told() -> None:
    """It follows the steps of each."""
    calls = Calls([Step(("k",), ("look",))] * (STEPS + 1), 7)
    assert [command[-1] for command in calls.commands] == [7, 7]


def test_commands_beside_steps() -> None:
    """Answers are in the order of what was asked, whatever order it was sent in."""
    calls = Calls([("GET", "a"), Step((), ("look",)), ("GET", "b"), Step((), ("look",))])
    assert [command[0] for command in calls.commands] == ["EVALSHA", "GET", "GET"]
    assert _answers(calls, [_packed(1, 2), b"A", None]) == [b"A", 1, None, 2]
    assert _answers(Calls([("PING",)]), [b"PONG"]) == [b"PONG"]


def test_a_script_that_is_not_known() -> None:
    """It is said to those calls that lack it, and to no others; if that is refused, the refusal stands."""
    for reply, expected in ((_packed("z"), [*range(STEPS), "z", b"A"]), (ReplyError("NOPERM"), "NOPERM")):
        calls = Calls([*[Step(("k",), ("look",))] * (STEPS + 1), ("GET", "a")])
        (again,) = calls.take([_packed(*range(STEPS)), _NO_SCRIPT, b"A"])
        assert again == ("EVAL", SCRIPT, *calls.commands[1][2:])
        assert calls.take([reply]) == []
        answers = calls.answers()
        assert (str(answers) if isinstance(answers, Exception) else answers) == expected


def test_what_is_no_answer() -> None:
    """Somebody else's script under our name, or none at all."""
    for wrong in (_packed(1), _packed(1, 2, 3), b"\xc1", None, 7):
        assert isinstance(_answers(Calls([Step((), ("look",))] * 2), [wrong]), Exception)


def test_a_refusal() -> None:
    """Of one is of all: nobody knows what the others would be worth."""
    refusal = ReplyError("READONLY")
    assert _answers(Calls([("SET", "a", "b"), ("GET", "a")]), [refusal, b"A"]) is refusal
    assert _answers(Calls([("GET", "a")]), [_NO_SCRIPT]) is _NO_SCRIPT
