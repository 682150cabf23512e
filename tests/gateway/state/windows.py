"""A machine that does to windows whatever may be done, and compares with a plain list of what happened.

Of a store whose clock is its own, the moment of a take is known from the ticket, any other only between `before` and `after`. What is
done next never depends on what was answered, which the same steps need not bring about twice there.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import Struct

from gateway.state.shared import BUCKETS, Refusal, Shared, Ticket, Unknown, Window, budget, rate, slots

LIMITS = {"rpm": 4, "tpm": 50, "parallel": 3, "daily": 300, "total": 500}


class Event(Struct, eq=False):
    """Something taken: from what, when, by whom."""

    name: str
    at: float
    amount: int
    ticket: Ticket


class Windows(RuleBasedStateMachine):
    """Subclasses say which store, what time it is there, and how time passes."""

    shared: Shared
    seconds: float
    holds_again = False
    """The store adds to a counter that was lost what open tickets hold."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.open: list[Ticket] = []
        self.seeded: set[str] = set()
        self.begin()

    def begin(self) -> None:
        raise NotImplementedError

    def ask(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        raise NotImplementedError

    def tell(self, settle: Callable[[], object]) -> None:
        """Settle or charge, and return when the store knows it."""
        settle()

    def now(self) -> float:
        """Seconds of the store's clock."""
        raise NotImplementedError

    def taken_at(self, ticket: Ticket, before: float) -> float:
        raise NotImplementedError

    def lose(self, name: str) -> None:
        """Have the store lose a budget's counter."""
        raise NotImplementedError

    def wait(self, part: float) -> None:
        """Let that part of a span pass."""
        raise NotImplementedError

    # -- what may be done --------------------------------------------------------------------------------------------

    @rule(
        names=st.sets(st.sampled_from(sorted(LIMITS)), min_size=1),
        amount=st.integers(0, 60),
        on_top=st.booleans(),
    )
    def take(self, names: set[str], amount: int, on_top: bool) -> None:
        windows = [self.window(name, amount) for name in sorted(names)]
        ticket = self.open[-1] if on_top and self.open else None
        if ticket is not None:
            held = {event.name for event in self.events if event.ticket is ticket}
            windows = [window for window in windows if window.kind != "slots" or window.name not in held]
        known = self.used(windows)
        before = self.now()
        asked = self.shared.take(windows) if ticket is None else self.shared.top_up(ticket, windows)
        answer = self.ask(asked)
        after = self.now()
        if isinstance(answer, Ticket):
            at = self.taken_at(answer, before) if windows else before
            assert before <= at <= after
            for window in windows:
                assert self.least(window, at, at) + window.amount <= window.limit
                self.events.append(Event(window.name, at, window.amount, answer))
            if answer not in self.open:
                self.open.append(answer)
            return
        if isinstance(answer, Unknown):
            assert {window.name for window in answer.windows} == {
                window.name for window in windows if window.kind == "budget"
            } - self.seeded
            self.nothing_changed(windows, known)
            for window in answer.windows:
                assert self.ask(self.shared.seed(window, amount))
                assert not self.ask(self.shared.seed(window, 99))
                self.seeded.add(window.name)
                self.events.append(Event(window.name, 0, amount, Ticket([])))
            return
        assert isinstance(answer, Refusal)
        refused = answer.window
        assert answer.used + refused.amount > refused.limit
        assert answer.used <= self.most(refused, before, after)
        assert answer.remaining == max(0, refused.limit - answer.used)
        self.nothing_changed(windows, known)
        if refused.kind != "rate" or refused.amount > refused.limit:
            assert answer.retry_after is None
        else:
            assert answer.retry_after is not None
            assert 0 < answer.retry_after <= self.seconds

    @rule(which=st.integers(0, 20), real=st.none() | st.integers(0, 80))
    def settle(self, which: int, real: int | None) -> None:
        """What it really was is less, more, or as it was taken."""
        if not self.open:
            return
        ticket = self.open.pop(which % len(self.open))
        own = [event for event in self.events if event.ticket is ticket]
        names = {event.name for event in own if event.name not in {"parallel", "rpm"}}
        actual = {} if real is None else dict.fromkeys(sorted(names), real)
        self.tell(lambda: self.shared.settle(ticket, actual))
        self.tell(lambda: self.shared.settle(ticket, {"daily": 1000}))
        for name in actual:
            *others, last = [event for event in own if event.name == name]
            left = actual[name]
            for event in others:
                event.amount = min(event.amount, left)
                left -= event.amount
            last.amount = left
        self.events = [
            event for event in self.events if event.ticket is not ticket or event.name != "parallel"
        ]

    @rule(amount=st.integers(0, 30))
    def charge(self, amount: int) -> None:
        """What was spent elsewhere is added; a counter that does not exist stays so."""
        if not self.seeded:
            return
        name = min(self.seeded)
        self.tell(lambda: self.shared.charge(name, amount))
        self.tell(lambda: self.shared.charge("nobody's", amount))
        self.events.append(Event(name, 0, amount, Ticket([])))

    @rule(amount=st.integers(0, 60))
    def forget(self, amount: int) -> None:
        """A counter is gone, as at its end, and made anew: what is settled is in the ledger, what is held is added again."""
        if not self.seeded:
            return
        name = min(self.seeded)
        is_held = any(event.name == name and event.ticket in self.open for event in self.events)
        if is_held and not self.holds_again:
            return
        self.lose(name)
        self.events = [event for event in self.events if event.name != name or event.ticket in self.open]
        window = self.window(name, 0)
        assert isinstance(self.ask(self.shared.take([window])), Unknown)
        assert self.ask(self.shared.seed(window, amount))
        self.events.append(Event(name, 0, amount, Ticket([])))

    @rule(part=st.integers(1, 40))
    def let_time_pass(self, part: int) -> None:
        self.wait(part / 32)

    @invariant()
    def what_is_used_is_what_happened(self) -> None:
        windows = [self.window(name, 0) for name in LIMITS]
        before = self.now()
        used = self.used(windows)
        after = self.now()
        for window, number in zip(windows, used, strict=True):
            if window.kind == "budget" and window.name not in self.seeded:
                assert number is None
            else:
                assert number is not None
                assert self.least(window, before, after) <= number <= self.most(window, before, after)

    # -- what should be ----------------------------------------------------------------------------------------------

    def window(self, name: str, amount: int) -> Window:
        limit = LIMITS[name]
        if name == "rpm":
            return rate(name, 1, limit, self.seconds)
        if name == "tpm":
            return rate(name, amount, limit, self.seconds)
        return slots(name, limit) if name == "parallel" else budget(name, amount, limit)

    def used(self, windows: Sequence[Window]) -> list[int | None]:
        found: list[int | None] = self.ask(self.shared.look(windows))
        return found

    def nothing_changed(self, windows: Sequence[Window], known: list[int | None]) -> None:
        """Rates may have lost meanwhile what has left them; nothing grows."""
        for window, then, now in zip(windows, known, self.used(windows), strict=True):
            assert (now or 0) <= (then or 0) if window.kind == "rate" else now == then

    def least(self, window: Window, before: float, after: float) -> int:
        return self.total(window, after - self.seconds, before)

    def most(self, window: Window, before: float, after: float) -> int:
        """Takes within a bucket may leave the window a little later, with the last of them."""
        return self.total(window, before - self.seconds * (1 + 1 / BUCKETS), after)

    def total(self, window: Window, since: float, until: float) -> int:
        return sum(
            event.amount
            for event in self.events
            if event.name == window.name and (window.kind != "rate" or since < event.at <= until)
        )
