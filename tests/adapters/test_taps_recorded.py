"""What taps learn of a stream changes nothing: shown with real traffic, whoever sent it."""

from __future__ import annotations

import pytest

from adapters.framing import whole_events
from tests.adapters.test_taps import STREAMS, check_passing, check_short_way
from tests.recorded import Recording, recordings

RECORDINGS = [one for one in recordings() if one.response_kind == "sse" and one.status == 200]


@pytest.mark.parametrize("recording", RECORDINGS, ids=str)
def test_the_short_way_reads_what_the_long_way_reads(recording: Recording) -> None:
    """What is read at a glance is what is read at length."""
    for provider in STREAMS:
        check_short_way(provider, whole_events(recording.response))


@pytest.mark.parametrize("recording", RECORDINGS, ids=str)
def test_events_pass_as_they_would_alone(recording: Recording) -> None:
    """Each event passes, and is counted, as by an editor that has seen no other."""
    for provider in STREAMS:
        check_passing(provider, whole_events(recording.response))
