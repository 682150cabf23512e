"""Conversations as one text."""

from __future__ import annotations

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters.errors import Unsupported
from adapters.flatten import (
    allowed_beyond_prompt,
    allowed_effort,
    pictures_of,
    prompt_of,
    system_of,
    texts_of,
)
from adapters.types import (
    Audio,
    ChatRequest,
    Document,
    EmbeddingsRequest,
    Image,
    Message,
    Provider,
    Reasoning,
    RedactedThinking,
    Refusal,
    Target,
    Text,
    Thinking,
    Tool,
)

TARGET = Target(provider=Provider(name="p"), model="m", base_url="https://example.com")
ASKED = ChatRequest(model="m", messages=(Message("user", (Text("one"),)),), system=(Text("a"), Text("b")))


def test_one_question_stays_as_it_was_asked() -> None:
    """With the system prompt in front, if that has no place of its own."""
    assert system_of(ASKED) == "a\n\nb"
    assert prompt_of(ASKED, TARGET, with_system=True) == "a\n\nb\n\none"
    assert prompt_of(ASKED, TARGET, with_system=False) == "one"


def test_several_turns() -> None:
    """Each says who speaks; thoughts and pictures are no words, and a turn without words is none."""
    turns = (
        Message("user", (Text("one"), Document(text="two"), Image(url="u"))),
        Message("assistant", (Thinking("hm"), RedactedThinking("x"))),
        Message("assistant", (Refusal("no"),)),
        Message("user", (Text("why?"),)),
    )
    prompt = prompt_of(replace(ASKED, messages=turns), TARGET, with_system=False)
    assert prompt == "User: one\ntwo\n\nAssistant: no\n\nUser: why?\n\nAssistant:"


def test_a_turn_of_the_assistant_alone() -> None:
    """It is not taken for a question."""
    request = replace(ASKED, system=(), messages=(Message("assistant", (Text("hello"),)),))
    assert prompt_of(request, TARGET, with_system=True) == "Assistant: hello\n\nAssistant:"


@pytest.mark.parametrize(
    "part",
    [Audio("AA==", "wav"), Document(url="https://x/y.pdf"), Image(file_id="f")],
    ids=str,
)
def test_what_is_no_text(part: Audio | Document | Image) -> None:
    """It is refused, or dropped."""
    request = replace(ASKED, messages=(Message("user", (Text("one"), part)),))
    with pytest.raises(Unsupported, match=type(part).__name__.lower()):
        prompt_of(request, TARGET, with_system=False)
    dropped: list[str] = []
    dropping = replace(TARGET, drop_params=True, dropped=dropped)
    assert prompt_of(request, dropping, with_system=False) == "one"
    assert dropped == ["messages"]


def test_pictures() -> None:
    """In order; data becomes a `data:` URL."""
    parts = (Image(url="u"), Text("x"), Image(data="AA==", media_type="image/gif"), Image(data="BB=="))
    request = replace(ASKED, messages=(Message("user", parts),))
    assert pictures_of(request) == ["u", "data:image/gif;base64,AA==", "data:image/png;base64,BB=="]


def test_zero_is_a_value() -> None:
    """A temperature of 0 is something that was asked; no stop sequences are nothing."""
    with pytest.raises(Unsupported, match="temperature"):
        allowed_beyond_prompt(replace(ASKED, temperature=0.0), TARGET, "temperature")
    allowed_beyond_prompt(replace(ASKED, logprobs=False), TARGET, "temperature", "stop")


def test_what_the_operator_allows() -> None:
    """It is passed on as it came, whatever we think of it; tools are too much for a prompt in any case."""
    asked = replace(
        ASKED, seed=0, n=2, logprobs=True, unspoken={"prediction": Raw(b"{}"), "store": Raw(b"true")}
    )
    everything = replace(TARGET, allowed=frozenset({"seed", "n", "logprobs", "prediction", "store", "tools"}))
    assert allowed_beyond_prompt(asked, everything, "seed") == {
        "seed": 0,
        "n": 2,
        "logprobs": True,
        "prediction": Raw(b"{}"),
    }
    with pytest.raises(Unsupported, match="tools"):
        allowed_beyond_prompt(replace(ASKED, tools=(Tool("f", Raw(b"{}")),)), everything)
    thoughtful = replace(ASKED, reasoning=Reasoning(effort="low"))
    allowing = replace(TARGET, allowed=frozenset({"reasoning_effort"}))
    assert allowed_effort(thoughtful, allowing) == {"reasoning_effort": "low"}
    assert allowed_effort(thoughtful, replace(TARGET, drop_params=True)) == {}
    assert allowed_effort(replace(ASKED, reasoning=Reasoning("disabled")), TARGET) == {}
    with pytest.raises(Unsupported, match="thinking"):  # which is another field of the client's
        allowed_effort(replace(ASKED, reasoning=Reasoning(budget=9)), allowing)


def test_texts() -> None:
    """Token numbers are refused."""
    asked = EmbeddingsRequest(model="m", input=("one", "two"))
    assert texts_of(asked, TARGET) == ["one", "two"]
    with pytest.raises(Unsupported):
        texts_of(replace(asked, input=((1,),)), TARGET)
